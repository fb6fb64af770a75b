// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ring_stat.c - `kshared ring stat`, and what it has in common with watch: a ring at one moment, and between two.
 *
 * Whoever may write a ring can write anything into it. So numbers that go backwards give no rate, and none is taken for more than what
 * can be said of it in JSON.
 */
#include <stdarg.h>
#include <string.h>
#include <time.h>

#include "cli/live.h"
#include "cli/ring.h"

#define PEERS_MAX 512u
#define SAMPLE_NS 200000000L

/** ring_view_deinit_p() - give back what a view has. */
void ring_view_deinit_p(struct ring_view *v)
{
	free(v->peers);
}

/* Less than 2^63, as JSON's integers are here. */
static uint64_t sane(uint64_t n)
{
	return n > INT64_MAX ? INT64_MAX : n;
}

/** ring_view_take() - look at a ring. @v: zeroed or taken before; for ring_view_deinit_p(). Return: 0; -errno. */
int ring_view_take(struct ring_view *v, struct kring *r)
{
	int nr;

	if (!v->peers)
		v->peers = calloc(PEERS_MAX, sizeof(*v->peers));
	if (!v->peers)
		return -ENOMEM;
	if (kring_get_stat(r, &v->stat) < 0)
		return -errno;
	nr = kring_get_peers(r, v->peers, PEERS_MAX);
	if (nr < 0)
		return -errno;
	v->nr = nr < (int)PEERS_MAX ? (unsigned int)nr : PEERS_MAX;
	/* A reader may be seen ahead of what its writer has counted. */
	if ((int64_t)v->stat.depth < 0)
		v->stat.depth = 0;
	for (unsigned int i = 0; i < v->nr; i++)
		if ((int64_t)v->peers[i].lag < 0)
			v->peers[i].lag = 0;
	v->time_ns = ring_now_ns();
	return 0;
}

static double rate(uint64_t now, uint64_t then, int64_t ns)
{
	return now > then && ns > 0 ? (double)(now - then) * 1e9 / (double)ns : 0;
}

/* The same peer at both moments; NULL: it was not there. */
static const struct kring_peer *before(const struct ring_view *then, const struct kring_peer *p)
{
	for (unsigned int i = 0; i < then->nr; i++) {
		const struct kring_peer *q = &then->peers[i];

		if (q->role == p->role && q->place == p->place && q->pid == p->pid)
			return q;
	}
	return NULL;
}

static double peer_rate(const struct ring_view *now, const struct ring_view *then,
			const struct kring_peer *p)
{
	const struct kring_peer *q = before(then, p);

	return q ? rate(p->messages, q->messages, now->time_ns - then->time_ns) : 0;
}

static const char *role_name(const struct kring_peer *p)
{
	return p->role == KRING_WRITER ? "writer" : "reader";
}

/**
 * ring_view_json() - all of it.
 * @then: an earlier view, for the rates
 *
 * Return: a new reference; NULL: no memory.
 */
json_t *ring_view_json(const char *name, const struct ring_view *now, const struct ring_view *then)
{
	const struct kring_stat *s = &now->stat;
	int64_t ns = now->time_ns - then->time_ns;
	json_t *root = json_object(), *peers = json_array();

	cli_json_set(root, "name", cli_json_text(name));
	cli_json_set(root, "shape", json_string(ring_shape_name(s->conf.shape)));
	cli_json_set(root, "protected", json_boolean(s->conf.flags & KRING_PROTECTED));
	cli_json_set(root, "blocking", json_boolean(s->conf.flags & KRING_BLOCKING));
	cli_json_set(root, "slots", cli_json_int(s->conf.slots));
	cli_json_set(root, "slot_bytes", cli_json_int(s->conf.slot_bytes));
	cli_json_set(root, "data_bytes", cli_json_int(s->conf.data_bytes));
	cli_json_set(root, "max_bytes", cli_json_int(s->max_bytes));
	cli_json_set(root, "max_writers", cli_json_int(s->conf.writers));
	cli_json_set(root, "max_readers", cli_json_int(s->conf.readers));
	cli_json_set(root, "writers", cli_json_int(s->writers));
	cli_json_set(root, "readers", cli_json_int(s->readers));
	cli_json_set(root, "dead", cli_json_int(s->dead));
	cli_json_set(root, "messages", cli_json_int(sane(s->messages)));
	cli_json_set(root, "bytes", cli_json_int(sane(s->bytes)));
	cli_json_set(root, "lost", cli_json_int(sane(s->lost)));
	cli_json_set(root, "depth", cli_json_int(sane(s->depth)));
	cli_json_set(root, "messages_per_second",
		     json_real(rate(s->messages, then->stat.messages, ns)));
	cli_json_set(root, "bytes_per_second", json_real(rate(s->bytes, then->stat.bytes, ns)));
	for (unsigned int i = 0; i < now->nr; i++) {
		const struct kring_peer *p = &now->peers[i];
		json_t *peer = json_object();

		cli_json_set(peer, "role", json_string(role_name(p)));
		cli_json_set(peer, "place", cli_json_int(p->place));
		cli_json_set(peer, "state", json_string(ring_state_name(p->state)));
		cli_json_set(peer, "pid", cli_json_int(p->pid));
		cli_json_set(peer, "messages", cli_json_int(sane(p->messages)));
		cli_json_set(peer, "messages_per_second", json_real(peer_rate(now, then, p)));
		if (p->role == KRING_READER) {
			cli_json_set(peer, "lag", cli_json_int(sane(p->lag)));
			cli_json_set(peer, "lost", cli_json_int(sane(p->lost)));
		}
		json_array_append_new(peers, peer);
	}
	cli_json_set(root, "peers", peers);
	return root;
}

static __attribute__((format(printf, 3, 4))) void add(char (*lines)[RING_VIEW_LINE],
						      unsigned int *nr, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	/* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): va_start() has set it */
	vsnprintf(lines[(*nr)++], RING_VIEW_LINE, fmt, ap);
	va_end(ap);
}

/* A size as powers of 1024 have it, if it is a whole one. */
static void size_text(uint64_t size, char ret[24])
{
	static const char units[] = " KMGT";
	size_t unit = 0;

	while (size && size % 1024 == 0 && units[unit + 1]) {
		size /= 1024;
		unit++;
	}
	snprintf(ret, 24, "%llu%.*s", (unsigned long long)size, unit != 0, units + unit);
}

/**
 * ring_view_lines() - all of it, for people.
 * @then: an earlier view, for the rates
 * @ret: lines, to be freed; escaped
 *
 * Return: how many; 0: no memory.
 */
unsigned int ring_view_lines(const char *name, const struct ring_view *now,
			     const struct ring_view *then, char (**ret)[RING_VIEW_LINE])
{
	const struct kring_stat *s = &now->stat;
	int64_t ns = now->time_ns - then->time_ns;
	char(*lines)[RING_VIEW_LINE] = calloc(8 + now->nr, sizeof(*lines));
	char text[RING_VIEW_LINE], size[24], data[24], max[24];
	unsigned int nr = 0;

	if (!lines)
		return 0;
	cli_escape(text, 64, name);
	add(lines, &nr, "%s  %s%s%s", text, ring_shape_name(s->conf.shape),
	    s->conf.flags & KRING_PROTECTED ? ", protected" : "",
	    s->conf.flags & KRING_BLOCKING ? ", blocking" : "");
	size_text(s->conf.slot_bytes, size);
	size_text(s->conf.data_bytes, data);
	size_text(s->max_bytes, max);
	add(lines, &nr, "room      %u slots of %s, %s of data%s; a message has up to %s",
	    s->conf.slots, size, data, s->conf.shape == KRING_MANY_TO_ONE ? " for each writer" : "",
	    max);
	live_rate_text(rate(s->messages, then->stat.messages, ns), text, sizeof(text));
	add(lines, &nr, "messages  %-20llu %s", (unsigned long long)s->messages, text);
	live_rate_text(rate(s->bytes, then->stat.bytes, ns), text, sizeof(text));
	add(lines, &nr, "bytes     %-20llu %s", (unsigned long long)s->bytes, text);
	add(lines, &nr, "depth     %-20llu lost %llu", (unsigned long long)s->depth,
	    (unsigned long long)s->lost);
	add(lines, &nr, "writers   %u of %u; readers %u of %u; dead %u", s->writers,
	    s->conf.writers, s->readers, s->conf.readers, s->dead);
	if (now->nr)
		add(lines, &nr, "%-10s %-7s %8s %14s %10s %10s %10s", "place", "state", "pid",
		    "messages", "rate", "lag", "lost");
	for (unsigned int i = 0; i < now->nr; i++) {
		const struct kring_peer *p = &now->peers[i];
		char place[24], lag[24] = "", lost[24] = "";

		snprintf(place, sizeof(place), "%s %u", role_name(p), p->place);
		live_rate_text(peer_rate(now, then, p), text, sizeof(text));
		if (p->role == KRING_READER) {
			snprintf(lag, sizeof(lag), "%llu", (unsigned long long)p->lag);
			snprintf(lost, sizeof(lost), "%llu", (unsigned long long)p->lost);
		}
		add(lines, &nr, "%-10s %-7s %8u %14llu %10s %10s %10s", place,
		    ring_state_name(p->state), p->pid, (unsigned long long)p->messages, text, lag,
		    lost);
	}
	*ret = lines;
	return nr;
}

/** ring_stat() - ring stat [--json] NAME. Return: an exit status. */
int ring_stat(const struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "json", .has_arg = no_argument, .val = 'j' },
		{ 0 },
	};
	cleanup(ring_view_deinit_p) struct ring_view then = { 0 };
	cleanup(ring_view_deinit_p) struct ring_view now = { 0 };
	char(*lines)[RING_VIEW_LINE] = NULL;
	bool json = false;
	unsigned int nr;
	int c, r;

	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c != 'j')
			return cli_bad_option(RING_NAME, c, argv);
		json = true;
	}
	if (argc - optind != 1)
		return cli_usage(RING_NAME, "stat takes one NAME");

	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	cleanup_ring struct kring *ring = kring_open(k, argv[optind], KRING_OBSERVER);
	if (!ring)
		return cli_refuse(argv[optind], errno, ring_hints);
	r = ring_view_take(&then, ring);
	if (r == 0) {
		nanosleep(&(struct timespec){ .tv_nsec = SAMPLE_NS }, NULL);
		r = ring_view_take(&now, ring);
	}
	if (r < 0)
		return cli_refuse(argv[optind], -r, ring_hints);
	if (json)
		return cli_json_print(ring_view_json(argv[optind], &now, &then));
	nr = ring_view_lines(argv[optind], &now, &then, &lines);
	for (unsigned int i = 0; i < nr; i++)
		puts(lines[i]);
	free(lines);
	return nr ? cli_finish(CLI_OK) : cli_refuse(RING_NAME, ENOMEM, NULL);
}
