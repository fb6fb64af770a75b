// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ring_watch.c - `kshared ring watch`: a ring, again and again. On a terminal its whole screen; else a line, or a JSON object on a line.
 */
#include <string.h>

#include "cli/live.h"
#include "cli/ring.h"

struct watch {
	const char *name;
	struct kring *r;
	struct ring_view now;
	struct ring_view then;
	bool json;
};

static void watch_deinit_p(struct watch *w)
{
	ring_view_deinit_p(&w->now);
	ring_view_deinit_p(&w->then);
	kring_close(w->r);
}

static int print_screen(const struct watch *w)
{
	char(*lines)[RING_VIEW_LINE] = NULL;
	unsigned int nr = ring_view_lines(w->name, &w->now, &w->then, &lines);
	char text[RING_VIEW_LINE];
	int rows, columns;

	live_begin(&rows, &columns);
	for (unsigned int i = 0; i < nr; i++) {
		bool last = i + 1 == nr;

		if ((int)i == rows - 1 && !last) {
			snprintf(text, sizeof(text), "%u more", nr - i);
			live_line(text, columns, true);
			break;
		}
		live_line(lines[i], columns, last);
	}
	live_end();
	free(lines);
	return CLI_OK;
}

static int print_line(const struct watch *w)
{
	const struct kring_stat *s = &w->now.stat;
	char time[64], messages[32] = "0.0/s", bytes[32] = "0.0/s";
	int64_t ns = w->now.time_ns - w->then.time_ns;

	live_time_text(time, sizeof(time));
	if (ns > 0 && s->messages > w->then.stat.messages)
		live_rate_text((double)(s->messages - w->then.stat.messages) * 1e9 / (double)ns,
			       messages, sizeof(messages));
	if (ns > 0 && s->bytes > w->then.stat.bytes)
		live_rate_text((double)(s->bytes - w->then.stat.bytes) * 1e9 / (double)ns, bytes,
			       sizeof(bytes));
	printf("%s messages=%llu rate=%s bytes_rate=%s depth=%llu lost=%llu writers=%u readers=%u dead=%u\n",
	       time, (unsigned long long)s->messages, messages, bytes, (unsigned long long)s->depth,
	       (unsigned long long)s->lost, s->writers, s->readers, s->dead);
	return CLI_OK;
}

static int look(struct live *l, void *arg)
{
	struct watch *w = arg;
	struct ring_view swap = w->then;
	int r;

	w->then = w->now;
	w->now = swap;
	r = ring_view_take(&w->now, w->r);
	if (r < 0) {
		live_leave(l);
		return cli_refuse(w->name, -r, ring_hints);
	}
	if (!w->then.time_ns) {
		r = ring_view_take(&w->then, w->r);
		w->then.time_ns = w->now.time_ns;
		if (r < 0)
			return cli_refuse(w->name, -r, ring_hints);
	}
	if (l->screen)
		return print_screen(w);
	return w->json ? cli_json_print_line(ring_view_json(w->name, &w->now, &w->then))
		       : print_line(w);
}

/** ring_watch() - ring watch [--json] [-n SECONDS] NAME. Return: an exit status. */
int ring_watch(const struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "json", .has_arg = no_argument, .val = 'j' },
		{ .name = "interval", .has_arg = required_argument, .val = 'n' },
		{ 0 },
	};
	cleanup(watch_deinit_p) struct watch w = { 0 };
	struct live l = { .look = look, .arg = &w, .every_ns = 1000000000 };
	int c;

	while ((c = getopt_long(argc, argv, ":n:", options, NULL)) != -1) {
		if (c == 'j')
			w.json = true;
		else if (c != 'n')
			return cli_bad_option(RING_NAME, c, argv);
		else if (cli_parse_seconds(optarg, &l.every_ns) < 0 || l.every_ns < 1000000)
			return cli_usage(RING_NAME, "'%s' is no number of seconds from 0.001 on",
					 optarg);
	}
	if (argc - optind != 1)
		return cli_usage(RING_NAME, "watch takes one NAME");
	w.name = argv[optind];

	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	w.r = kring_open(k, w.name, KRING_OBSERVER);
	if (!w.r)
		return cli_refuse(w.name, errno, ring_hints);
	return live_run(&l, !w.json);
}
