// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * publisher_rules.c - rules of control groups (engine/bpf/rule.h): which hold, who writes them, and what of them the keeper has.
 *
 * A rule holds from its entry's making to its end, whoever lives or dies between. So the keeper is given what keeps it in force (its link)
 * and what is in it (its state), and the cgroup's directory, from which it could be made anew; a publisher that
 * starts gets all of that back and puts its own programs in the place of those that are there. Which rules there ought to be is
 * the worker's to say: after it was replaced it tells of all of them.
 */
#include <base/cleanup.h>
#include <base/log.h>
#include <daemon/publisher_internal.h>
#include <engine/bpf/rule.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <utlist.h>

#define LOOK_USEC 1000000ULL
#define LOOK_SLACK_USEC 250000

enum { KEPT_LINK, KEPT_STATE, KEPT_CGROUP, NR_KEPT };

/* A rule. @told: the worker has named it since it began to tell of all */
struct held {
	uint64_t entry;
	bool told;
	struct held *prev, *next;
};

static void on_event(const struct rules_event *e, void *user)
{
	static const char *const done[] = { "killed", "shut out", "left as it is" };
	char comm[17] = { 0 };

	for (size_t i = 0; i < sizeof(e->comm) && e->comm[i]; i++)
		comm[i] = e->comm[i] >= ' ' && e->comm[i] < 0x7f ? e->comm[i] : '?';
	log_error(
		"a rule's client, process %u (%s) of user %u, has written %u bytes at %lld, outside of its pool: it is %s",
		e->pid, comm, e->uid, e->bytes, (long long)e->offset,
		done[e->done <= RULES_LOG ? e->done : RULES_LOG]);
}

static int on_rules(sd_event_source *s, int fd, uint32_t revents, void *ctx)
{
	struct publish *p = ctx;

	rules_dispatch(p->rules);
	return 0;
}

static void look(struct publish *p)
{
	unsigned int nr = rules_look(p->rules);

	if (nr)
		log_info("%u rules of ports are of no control group any more: it was removed", nr);
}

static int on_look(sd_event_source *s, uint64_t usec, void *ctx)
{
	struct publish *p = ctx;

	look(p);
	sd_event_source_set_time_relative(s, LOOK_USEC);
	sd_event_source_set_enabled(s, p->held ? SD_EVENT_ONESHOT : SD_EVENT_OFF);
	return 0;
}

static int load(struct publish *p)
{
	struct rules_options o = { .generation = p->generation, .on_event = on_event, .user = p };
	int r;

	if (p->rules)
		return 0;
	r = rules_new(&p->rules, &o);
	if (r < 0) {
		p->rules = NULL;
		return r == -EPERM || r == -ENOTSUP ? -EOPNOTSUPP : r;
	}
	r = sd_event_add_io(p->event, &p->rules_source, rules_fd(p->rules), EPOLLIN, on_rules, p);
	if (r >= 0)
		r = sd_event_add_time_relative(p->event, &p->rules_timer, CLOCK_MONOTONIC,
					       LOOK_USEC, LOOK_SLACK_USEC, on_look, p);
	if (r < 0) {
		p->rules_source = sd_event_source_unref(p->rules_source);
		rules_free(p->rules);
		p->rules = NULL;
	}
	return r < 0 ? r : 0;
}

static struct held *find(struct publish *p, uint64_t entry)
{
	struct held *h;

	DL_SEARCH_SCALAR(p->held, h, entry, entry);
	return h;
}

static int note(struct publish *p, uint64_t entry)
{
	struct held *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	h->entry = entry;
	h->told = true;
	DL_APPEND(p->held, h);
	sd_event_source_set_time_relative(p->rules_timer, LOOK_USEC);
	sd_event_source_set_enabled(p->rules_timer, SD_EVENT_ONESHOT);
	return 0;
}

/* Whatever the keeper had of it before is no longer needed. */
static void store(struct publish *p, uint64_t entry, int cgroup)
{
	int link, state;

	kept_tell(PUB_DROP, entry, 0, -1);
	if (rules_stored(p->rules, entry, &link, &state) < 0)
		return;
	kept_tell(PUB_STORE, entry, KEPT_LINK, link);
	kept_tell(PUB_STORE, entry, KEPT_STATE, state);
	kept_tell(PUB_STORE, entry, KEPT_CGROUP, cgroup);
}

static int begin(struct publish *p, uint64_t entry, int cgroup)
{
	int r = load(p);

	if (r == 0)
		r = rules_add(p->rules, entry, cgroup, -1, -1);
	if (r == 0)
		r = note(p, entry);
	if (r == 0)
		store(p, entry, cgroup);
	else if (p->rules)
		rules_remove(p->rules, entry);
	return r;
}

int publish_hold(struct publish *p, struct message *m)
{
	struct held *h;

	if (m->open.entry == 0) {
		DL_FOREACH(p->held, h)
			h->told = false;
		return 0;
	}
	h = find(p, m->open.entry);
	if (h) {
		h->told = true;
		return 0;
	}
	return m->target < 0 ? -EPROTO : begin(p, m->open.entry, m->target);
}

static void end(struct publish *p, struct held *h)
{
	rules_remove(p->rules, h->entry);
	kept_tell(PUB_DROP, h->entry, 0, -1);
	DL_DELETE(p->held, h);
	free(h);
}

void publish_drop(struct publish *p, const struct message *m)
{
	struct held *h, *tmp;

	DL_FOREACH_SAFE(p->held, h, tmp)
		if (m->open.entry == 0 ? !h->told : h->entry == m->open.entry)
			end(p, h);
}

/* What the keeper has of one rule. */
struct left {
	uint64_t entry;
	int fds[NR_KEPT];
};

static void take_over(struct publish *p, const struct left *l)
{
	int r = load(p);

	if (r == 0)
		r = rules_add(p->rules, l->entry, l->fds[KEPT_CGROUP], l->fds[KEPT_LINK],
			      l->fds[KEPT_STATE]);
	if (r == 0)
		r = note(p, l->entry);
	/* Another version's, or half of one: as a new one, and then the old one is let go. */
	else if (l->fds[KEPT_CGROUP] >= 0 && p->rules)
		r = begin(p, l->entry, l->fds[KEPT_CGROUP]);
	if (r == 0)
		return;
	log_error("a rule of ports could not be taken over: %s", strerror(-r));
	/* Of a group that is gone there is nothing left to hold. Any other stays in force as it is. */
	if (r == -ENODEV)
		kept_tell(PUB_DROP, l->entry, 0, -1);
}

void publish_take_over(struct publish *p)
{
	struct left *all = NULL;
	size_t nr = 0, i;
	struct pub_kept k;
	int fd;

	for (uint32_t n = 0; kept_fetch(n, &k, &fd); n++) {
		for (i = 0; i < nr && all[i].entry != k.id; i++)
			;
		if (i == nr) {
			struct left *more = reallocarray(all, nr + 1, sizeof(*all));

			if (!more)
				abort();
			all = more;
			all[nr++] = (struct left){ .entry = k.id, .fds = { -1, -1, -1 } };
		}
		if (k.which < NR_KEPT && all[i].fds[k.which] < 0)
			all[i].fds[k.which] = fd;
		else
			cleanup_close_p(&fd);
	}
	for (i = 0; i < nr; i++) {
		take_over(p, &all[i]);
		for (int n = 0; n < NR_KEPT; n++)
			cleanup_close_p(&all[i].fds[n]);
	}
	free(all);
}

int publish_rule(struct publish *p, struct message *m)
{
	int fds[3] = { -1, -1, -1 }, r;
	struct port_hello hello;
	struct client *c;
	unsigned int nr = 0;
	uint64_t seat = 0;

	if (!find(p, m->open.entry)) {
		/* It did not begin when it was made, or was lost with a publisher. */
		if (m->target < 0)
			return -EPROTO;
		r = begin(p, m->open.entry, m->target);
		if (r < 0)
			return r;
	}
	look(p);
	r = rules_join(p->rules, m->open.entry, m->open.uid, m->open.gid, m->open.pid, m->pidfd,
		       m->open.access, &hello, fds, &nr, &seat);
	if (r < 0)
		return r == -EUSERS ? -EDQUOT : r;
	r = publish_add(p, m, &c);
	if (r == 0) {
		c->seat = seat;
		publish_hello(c->fd, &hello, fds, nr);
	} else {
		rules_leave(p->rules, seat);
	}
	for (unsigned int i = 0; i < nr; i++)
		cleanup_close_p(&fds[i]);
	return r;
}

void publish_rule_left(struct publish *p, struct client *c)
{
	if (c->seat)
		rules_leave(p->rules, c->seat);
}

void publish_rules_end(struct publish *p)
{
	struct held *h, *tmp;

	DL_FOREACH_SAFE(p->held, h, tmp) {
		DL_DELETE(p->held, h);
		free(h);
	}
	sd_event_source_unref(p->rules_timer);
	sd_event_source_unref(p->rules_source);
	rules_free(p->rules);
}
