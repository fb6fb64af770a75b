// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * publisher_pages.c - the kernel's pages, by BPF where it reaches and else by the sampler; accounts of processes and control groups, by BPF alone.
 *
 * An account is made when its entry is first opened, and ends some time after its last client: making one takes long, and must not
 * be had again and again for nothing.
 */
#include <base/log.h>
#include <daemon/publisher_internal.h>
#include <daemon/worker.h>
#include <engine/bpf/publisher.h>
#include <engine/sample/sampler.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#define SAMPLE_USEC (SAMPLER_PERIOD_NS / 1000)
#define ACCOUNTS_MAX 256
#define ACCOUNTS_UID_MAX 64
#define LINGER_USEC 10000000ULL /* without clients */
#define SWEEP_USEC 100000ULL /* between the ends of two of them */
#define LINGER_MIN_USEC 1000000ULL /* if another is wanted instead */

_Static_assert(PUBLISHER_TICK_NS == SAMPLER_PERIOD_NS, "one timer for both");

/* @uid: who opened it first, and whose part it is of */
struct account {
	uint64_t entry;
	uid_t uid;
	bool cgroup;
	int slot;
	int fd;
	unsigned int nr_clients;
	uint64_t left_usec; /* when the last one went */
	struct account *prev, *next;
};

static int load(struct publish *p)
{
	struct publisher_options bpf = { .generation = p->generation };
	struct sampler_options sampler = { .generation = p->generation };
	int r;

	if (p->sampler)
		return 0;
	if (!p->bpf) {
		sandbox_override(true);
		r = publisher_new(&p->bpf, &bpf);
		sandbox_override(false);
		if (r < 0) {
			p->bpf = NULL;
			if (!p->tried)
				log_info(
					"pages of ports are read from /proc: BPF is not to be had (%s)",
					strerror(-r));
		}
		p->tried = true;
		kept_tell(PUB_READY, 0, p->bpf ? SHM_BPF_WORKS : SHM_BPF_NONE, -1);
	}
	for (int i = 0; i < NR_PORT_PAGES; i++)
		if (!p->bpf || publisher_fd(p->bpf, i) < 0)
			sampler.pages |= 1u << i;
	return sampler_new(&p->sampler, &sampler);
}

static void end_account(struct publish *p, struct account *a);

void publish_unload(struct publish *p)
{
	/* Nobody has one any more. */
	while (p->accounts)
		end_account(p, p->accounts);
	publisher_free(p->bpf);
	sampler_free(p->sampler);
	p->bpf = NULL;
	p->sampler = NULL;
}

static void want_timer(struct publish *p)
{
	int on;

	if (!p->nr_sampled && !p->nr_cgroups) {
		sd_event_source_set_enabled(p->sample, SD_EVENT_OFF);
	} else if (sd_event_source_get_enabled(p->sample, &on) >= 0 && on == SD_EVENT_OFF) {
		sd_event_source_set_time_relative(p->sample, SAMPLE_USEC);
		sd_event_source_set_enabled(p->sample, SD_EVENT_ONESHOT);
	}
}

void publish_sample(struct publish *p)
{
	if (p->nr_sampled)
		sampler_sample(p->sampler);
	if (p->nr_cgroups)
		publisher_tick(p->bpf);
	want_timer(p);
}

static void serve(struct publish *p, struct client *c, int fd)
{
	c->has_page = true;
	p->nr_pages++;
	publish_hello(c->fd, &(struct port_hello){ .magic = PORT_SERVE_MAGIC }, &fd, 1);
}

int publish_page(struct publish *p, struct message *m)
{
	uint32_t page = m->open.page;
	struct client *c;
	bool sampled;
	int fd, r;

	if (page >= NR_PORT_PAGES)
		return -EOPNOTSUPP;
	r = load(p);
	if (r < 0)
		return r;
	fd = p->bpf ? publisher_fd(p->bpf, page) : -ENOENT;
	sampled = fd < 0;
	if (sampled)
		fd = sampler_fd(p->sampler, page);
	if (fd < 0)
		return -EOPNOTSUPP;
	r = publish_add(p, m, &c);
	if (r < 0)
		return r;
	c->sampled = sampled;
	/* Nobody has looked since the last of them went. */
	if (sampled && p->nr_sampled++ == 0)
		sampler_sample(p->sampler);
	want_timer(p);
	serve(p, c, fd);
	return 0;
}

static void end_account(struct publish *p, struct account *a)
{
	DL_DELETE(p->accounts, a);
	p->nr_accounts--;
	p->nr_cgroups -= a->cgroup;
	publisher_remove(p->bpf, a->slot);
	free(a);
	want_timer(p);
}

static uint64_t now_usec(const struct publish *p)
{
	uint64_t usec = 0;

	sd_event_now(p->event, CLOCK_MONOTONIC, &usec);
	return usec;
}

static void want_sweep(struct publish *p)
{
	int on;

	if (sd_event_source_get_enabled(p->sweep, &on) >= 0 && on == SD_EVENT_OFF) {
		sd_event_source_set_time_relative(p->sweep, LINGER_USEC / 4);
		sd_event_source_set_enabled(p->sweep, SD_EVENT_ONESHOT);
	}
}

void publish_sweep(struct publish *p)
{
	uint64_t now = now_usec(p);
	struct account *a, *tmp;
	bool more = false, ended = false;

	DL_FOREACH_SAFE(p->accounts, a, tmp) {
		if (a->nr_clients)
			continue;
		more = true;
		/* One at a time: the end of an account takes as long as its making. */
		if (ended || now < a->left_usec + LINGER_USEC)
			continue;
		end_account(p, a);
		ended = true;
	}
	if (more) {
		sd_event_source_set_time_relative(p->sweep, ended ? SWEEP_USEC : LINGER_USEC / 4);
		sd_event_source_set_enabled(p->sweep, SD_EVENT_ONESHOT);
	}
}

/* Is there room for another one of @uid? If need be, that which nobody has used for the longest time goes. */
static int make_room(struct publish *p, uid_t uid)
{
	struct account *a, *oldest = NULL;
	unsigned int n = 0;
	bool full;

	DL_FOREACH(p->accounts, a)
		n += a->uid == uid;
	full = p->nr_accounts >= ACCOUNTS_MAX;
	if (!full && (n < ACCOUNTS_UID_MAX || uid == 0))
		return 0;
	DL_FOREACH(p->accounts, a)
		if (!a->nr_clients && (a->uid == uid || (full && n < ACCOUNTS_UID_MAX)) &&
		    (!oldest || a->left_usec < oldest->left_usec))
			oldest = a;
	if (!oldest)
		return -EDQUOT;
	if (uid != 0 && now_usec(p) < oldest->left_usec + LINGER_MIN_USEC)
		return -EAGAIN;
	end_account(p, oldest);
	return 0;
}

static int new_account(struct publish *p, const struct message *m, struct account **ret)
{
	uint32_t owner = m->open.flags & PORT_OPEN_ALL ? PUBLISHER_ANYBODYS : m->open.owner;
	bool cgroup = m->open.what == PORT_WHAT_CGROUP;
	struct account *a;
	uint64_t size;
	int r;

	r = make_room(p, m->open.uid);
	if (r < 0)
		return r;
	a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	*a = (struct account){ .entry = m->open.entry, .uid = m->open.uid, .cgroup = cgroup };
	r = cgroup ? publisher_add_cgroup(p->bpf, m->target, &a->slot, &a->fd, &size)
		   : publisher_add_task(p->bpf, m->target, owner, &a->slot, &a->fd, &size);
	if (r < 0) {
		free(a);
		return r == -ENOSPC ? -EDQUOT : r;
	}
	DL_APPEND(p->accounts, a);
	p->nr_accounts++;
	p->nr_cgroups += cgroup;
	want_timer(p);
	*ret = a;
	return 0;
}

/* Has what it is of come to its end? */
static bool has_ended(const struct account *a, int target)
{
	struct pollfd f = { .fd = target, .events = POLLIN };

	return a->cgroup ? faccessat(target, "cgroup.procs", F_OK, 0) < 0 : poll(&f, 1, 0) == 1;
}

bool publish_is_slow(struct publish *p, const struct message *m)
{
	struct account *a;

	/* To get a pool of one's own takes long, too. */
	if (m->open.what == PORT_WHAT_RULE)
		return !(m->open.flags & (PORT_OPEN_HOLD | PORT_OPEN_DROP)) && (m->open.access & 2);
	if (m->open.what != PORT_WHAT_TASK && m->open.what != PORT_WHAT_CGROUP)
		return false;
	DL_SEARCH_SCALAR(p->accounts, a, entry, m->open.entry);
	return !a;
}

int publish_account(struct publish *p, struct message *m)
{
	struct account *a;
	struct client *c;
	int r;

	if (m->target < 0)
		return -EPROTO;
	r = load(p);
	if (r < 0)
		return r;
	if (!p->bpf)
		return -EOPNOTSUPP;
	DL_SEARCH_SCALAR(p->accounts, a, entry, m->open.entry);
	if (a && has_ended(a, m->target)) {
		if (a->nr_clients)
			return a->cgroup ? -ENODEV : -ESRCH;
		end_account(p, a);
		a = NULL;
	}
	r = a ? 0 : new_account(p, m, &a);
	if (r < 0)
		return r;
	r = publish_add(p, m, &c);
	if (r < 0) {
		if (a->nr_clients == 0)
			end_account(p, a);
		return r;
	}
	c->account = a;
	a->nr_clients++;
	serve(p, c, a->fd);
	return 0;
}

void publish_page_left(struct publish *p, struct client *c)
{
	p->nr_pages--;
	if (c->sampled)
		p->nr_sampled--;
	if (c->account && --c->account->nr_clients == 0) {
		c->account->left_usec = now_usec(p);
		want_sweep(p);
	}
	want_timer(p);
}
