// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * worker.c - wires the parts together: the store, the tree, the relay, the mount, the socket, the loop.
 *
 * The order in which a worker begins is what makes its predecessor's death unseen: restore the entries; answer the transfers that
 * were made and not answered; wake the pollers; ask the kernel for the requests that were under way; accept
 * clients. Nothing is answered before the entries are there.
 */
#include <base/cleanup.h>
#include <base/log.h>
#include <daemon/closer.h>
#include <daemon/worker.h>
#include <engine/aside/aside.h>
#include <engine/relay/poller.h>
#include <engine/relay/relay.h>
#include <errno.h>
#include <fcntl.h>
#include <io/ctl.h>
#include <io/fuse.h>
#include <io/keep.h>
#include <kind/kinds.h>
#include <liburing.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-event.h>
#include <time.h>
#include <unistd.h>
#include <wire/fuse.h>
#include <wire/keep.h>

#define AGAIN_USEC 500000
#define SWEEP_USEC 1000000
#define FDS_MAX 100000 /* entries' descriptors that a worker keeps at hand */
#define CONNS_MAX 4096
#define RECLAIM_MS 100
#define WAITING_MAX 64
#define WAITING_END 4096 /* more than can be waiting if none hangs */
#define PATIENCE_S 2

/* An owner's descriptors that are not closed: when their number was last seen to change. */
struct trap {
	uint32_t closed;
	uint64_t since;
};

struct worker {
	const struct config *config;
	const struct worker_hello *hello;
	const struct keep_snapshot *snapshot;
	struct shm *shm;
	struct keep *keep;
	struct tree *tree;
	struct relay *relay;
	struct poller *poller;
	struct fuse *fuse;
	struct ctl *ctl;
	int publisher;
	int merger;
	sd_event *event;
	sd_event_source *sweep;
	sd_event_source *again;
	int64_t reclaimed_ms;
	struct aside *aside;
	struct aside *closers; /* apart, so that calls that hang do not keep descriptors open */
	struct closer closer;
	struct shm_closing closing[SHM_OWNERS];
	struct trap traps[SHM_OWNERS];
	unsigned int max_waiting; /* descriptors that are not closed yet, */
	unsigned int max_taken; /* and with those that are kept at hand */
};

/* Without the keeper nothing true can be said any more. */
static void keeper_lost(void)
{
	_exit(0);
}

/*
 * A file of the folder itself, which somebody tried to post, does not make us wait for ourselves: its handles are opened with
 * FOPEN_NOFLUSH.
 */
static void close_fd(struct tree *t, uid_t uid, int fd)
{
	struct worker *w = t->owner;

	closer_close(&w->closer, uid, fd, t->dev);
}

static void close_copy(struct tree *t, uid_t uid, int fd)
{
	struct worker *w = t->owner;

	closer_close_copy(&w->closer, uid, fd, t->dev);
}

static uint64_t seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint64_t)ts.tv_sec;
}

/* Is there no number for another connection? Then those that wait for one wait on. */
static bool crowded(void *ctx)
{
	const struct worker *w = ctx;

	return closer_waiting(&w->closer) + w->tree->nr_fds >= w->max_taken;
}

/* No more descriptors are taken from him of whom many wait to be closed, and for some seconds none has been. */
static bool barred(struct tree *t, uid_t uid)
{
	struct worker *w = t->owner;
	uint32_t bucket = aside_bucket(uid);
	const struct shm_closing *here = &w->closer.counts[bucket],
				 *there = &w->shm->closing[bucket];
	uint32_t closed_here = __atomic_load_n(&here->closed, __ATOMIC_RELAXED);
	uint32_t closed = closed_here + __atomic_load_n(&there->closed, __ATOMIC_RELAXED);
	uint32_t given = here->given + __atomic_load_n(&there->given, __ATOMIC_RELAXED);
	uint32_t share = w->max_waiting / 2, waiting = here->given - closed_here;
	struct trap *trap = &w->traps[bucket];

	if (uid == 0 || uid == t->uid)
		return false;
	/* Here they hold numbers that all need. */
	if (waiting >= (share < WAITING_MAX ? WAITING_MAX : share) || (waiting && crowded(w)))
		return true;
	if (given - closed < WAITING_MAX || closed != trap->closed || !trap->since) {
		*trap = (struct trap){ .closed = closed, .since = seconds() };
		return false;
	}
	return seconds() - trap->since >= PATIENCE_S;
}

/* While removed entries wait to be let go by the kernel, look at them from time to time. */
static void want_sweep(struct worker *w)
{
	int on;

	if (!w->tree->orphans || sd_event_source_get_enabled(w->sweep, &on) < 0 ||
	    on != SD_EVENT_OFF)
		return;
	sd_event_source_set_time_relative(w->sweep, SWEEP_USEC);
	sd_event_source_set_enabled(w->sweep, SD_EVENT_ONESHOT);
}

static void attr_changed(struct tree *t, const struct entry *e)
{
	struct worker *w = t->owner;

	if (w->fuse)
		fuse_attr_changed(w->fuse, e->id);
}

/* Somebody is at a limit: end what can be ended now. */
static void reclaim(struct tree *t)
{
	struct worker *w = t->owner;
	struct timespec ts;
	int64_t ms;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	ms = (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
	/* Whoever is at his limit and goes on asking does not have it done each time. */
	if (!w->fuse || ms < w->reclaimed_ms + RECLAIM_MS)
		return;
	fuse_sweep(w->fuse);
	w->reclaimed_ms = ms;
}

static void removed(struct tree *t, struct entry *e)
{
	struct worker *w = t->owner;

	if (w->fuse)
		fuse_removed(w->fuse, e);
}

static void want_port_again(struct tree *t)
{
	struct worker *w = t->owner;

	sd_event_source_set_time_relative(w->again, AGAIN_USEC);
	sd_event_source_set_enabled(w->again, SD_EVENT_ONESHOT);
}

static int on_again(sd_event_source *s, uint64_t usec, void *ctx)
{
	struct worker *w = ctx;

	port_again(w->tree);
	return 0;
}

static void names_changed(struct tree *t)
{
	struct worker *w = t->owner;

	if (!w->fuse)
		return;
	fuse_names_changed(w->fuse);
	want_sweep(w);
}

static void wake(void *ctx, uint64_t handle)
{
	struct worker *w = ctx;

	if (w->fuse)
		fuse_wake(w->fuse, handle);
}

static bool answer(void *ctx, uint64_t unique, bool write, const void *data, uint32_t bytes)
{
	struct worker *w = ctx;

	return w->fuse && fuse_answer(w->fuse, unique, write, data, bytes);
}

static void agreed(void *ctx, uint32_t minor, uint64_t flags)
{
	struct worker *w = ctx;

	keep_agreed(w->keep, minor, flags);
}

static void all_came(void *ctx)
{
	struct worker *w = ctx;

	relay_all_came(w->relay);
}

static void ended(void *ctx)
{
	struct worker *w = ctx;

	keep_end(w->keep);
	sd_event_exit(w->event, 0);
}

static int on_end(sd_event_source *s, void *ctx)
{
	sd_event_source_unref(s);
	ended(ctx);
	return 0;
}

static int shutdown_folder(void *ctx, uint32_t flags)
{
	struct worker *w = ctx;
	sd_event_source *s;
	int r;

	r = keep_unmount(w->keep, flags);
	if (r < 0)
		return r;
	/* After the client has been answered. */
	r = sd_event_add_defer(w->event, &s, on_end, w);
	return r < 0 ? r : 0;
}

static void status(void *ctx, struct ctl_status *ret)
{
	struct worker *w = ctx;
	uint64_t flags = 0;

	ret->keeper_pid = w->hello->keeper_pid;
	ret->worker_pid = (uint32_t)getpid();
	/* The publisher is not started to find it out. */
	ret->features |= w->shm->bpf == SHM_BPF_WORKS ||
			(w->shm->bpf == SHM_BPF_UNTRIED && (w->hello->servers & HELLO_MAY_BPF))
		? 1u << 7
		: 0;
	ret->restarts = w->snapshot->restarts;
	ret->started_ns = w->snapshot->started_ns;
	if (w->fuse) {
		ret->fuse_minor = fuse_agreed(w->fuse, &flags);
		snprintf(ret->mountpoint, sizeof(ret->mountpoint), "%.*s", CTL_PATH_MAX,
			 w->config->dir);
		ret->features |= 1u << 0;
	}
	ret->features |= (flags & FUSE_PASSTHROUGH ? 1u << 1 : 0) |
		(flags & FUSE_HAS_RESEND ? 1u << 2 : 0) | (w->hello->has_ring ? 1u << 3 : 0) |
		(ret->fuse_minor >= 44 ? 1u << 4 : 0) | (KSHARED_SECCOMP ? 1u << 5 : 0) |
		(w->tree->may_take ? 1u << 6 : 0);
	strncpy(ret->version, KSHARED_VERSION, sizeof(ret->version) - 1);
}

static int on_fuse(sd_event_source *s, int fd, uint32_t revents, void *ctx)
{
	struct worker *w = ctx;

	fuse_dispatch(w->fuse);
	want_sweep(w);
	return 0;
}

static int on_ring(sd_event_source *s, int fd, uint32_t revents, void *ctx)
{
	struct worker *w = ctx;

	relay_dispatch(w->relay);
	return 0;
}

static int on_aside(sd_event_source *s, int fd, uint32_t revents, void *ctx)
{
	struct worker *w = ctx;

	aside_dispatch(w->aside);
	return 0;
}

static int on_sweep(sd_event_source *s, uint64_t usec, void *ctx)
{
	struct worker *w = ctx;

	if (w->fuse)
		fuse_sweep(w->fuse);
	want_sweep(w);
	return 0;
}

static int map_all(struct worker *w, size_t *ret_len)
{
	struct stat st;
	void *at;

	at = mmap(NULL, sizeof(struct shm), PROT_READ | PROT_WRITE, MAP_SHARED, WORKER_SHM, 0);
	if (at == MAP_FAILED)
		return -errno;
	w->shm = at;
	if (fstat(WORKER_SNAPSHOT, &st) < 0)
		return -errno;
	if ((size_t)st.st_size < sizeof(struct worker_hello) + sizeof(struct keep_snapshot))
		return -EINVAL;
	at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, WORKER_SNAPSHOT, 0);
	if (at == MAP_FAILED)
		return -errno;
	w->hello = at;
	w->snapshot = (const void *)((const char *)at + sizeof(struct worker_hello));
	*ret_len = (size_t)st.st_size - sizeof(struct worker_hello);
	return 0;
}

/*
 * A server's socket. An older keeper has none, and nothing at its number, which must not be taken for it once something of ours is there. So it is
 * asked for before anything is opened.
 */
static int find_server(enum worker_fd fd)
{
	struct stat st;

	return fstat((int)fd, &st) == 0 && S_ISSOCK(st.st_mode) ? (int)fd : -1;
}

static int make_relay(struct worker *w)
{
	struct io_uring_params params;
	int r;

	memcpy(&params, w->hello->ring_params, sizeof(params));
	r = relay_new(&w->relay, w->hello->has_ring ? WORKER_RING : -1, &params, w->shm->slots,
		      SHM_SLOTS);
	if (r == 0)
		r = aside_new(&w->aside, true);
	if (r == 0)
		r = aside_new(&w->closers, false);
	if (r == 0)
		r = poller_new(&w->poller, w->relay, w->shm->polls, SHM_POLLS, wake, w);
	if (r == 0)
		r = sd_event_add_io(w->event, NULL, relay_fd(w->relay), EPOLLIN, on_ring, w);
	if (r >= 0)
		r = sd_event_add_io(w->event, NULL, aside_fd(w->aside), EPOLLIN, on_aside, w);
	w->closer = (struct closer){ .aside = w->closers, .counts = w->closing };
	return r;
}

/*
 * Share out the numbers that a process has for descriptors: some for connections, for what is to be closed, and for our
 * own; the rest is cache.
 */
static void share_numbers(struct worker *w, unsigned int *ret_conns, unsigned int *ret_cache)
{
	struct rlimit l = { .rlim_cur = 256 };
	unsigned int n;

	getrlimit(RLIMIT_NOFILE, &l);
	n = l.rlim_cur > FDS_MAX * 2 ? FDS_MAX * 2 : (unsigned int)l.rlim_cur;
	*ret_conns = n / 16 < CONNS_MAX ? n / 16 : CONNS_MAX;
	w->max_waiting = n / 16 < WAITING_END * 4 ? n / 16 : WAITING_END * 4;
	w->max_taken = n - *ret_conns - n / 32 - 64;
	n = w->max_taken - w->max_waiting;
	*ret_cache = n < FDS_MAX ? n : FDS_MAX;
}

static int make_tree(struct worker *w, unsigned int max_fds)
{
	struct tree_conf conf = {
		.store = keep_store(w->keep),
		.kinds = kinds,
		.single = w->config->srvfs ? &kind_srv : NULL,
		.limits = w->config->limits,
		.dir_mode = w->config->mode,
		.uid = getuid(),
		.gid = getgid(),
		.max_fds = max_fds,
	};
	int r;

	r = tree_new(&w->tree, &conf);
	if (r < 0)
		return r;
	w->tree->owner = w;
	w->tree->close_fd = close_fd;
	w->tree->close_copy = close_copy;
	w->tree->barred = barred;
	w->tree->attr_changed = attr_changed;
	w->tree->names_changed = names_changed;
	w->tree->removed = removed;
	w->tree->reclaim = reclaim;
	w->tree->port_again = want_port_again;
	w->tree->relay = w->relay;
	w->tree->aside = w->aside;
	w->tree->poller = w->poller;
	w->tree->dev = w->hello->dev;
	w->tree->proc = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (w->tree->proc < 0)
		return -errno;
	w->tree->may_take = w->hello->privileged;
	w->tree->publisher = w->publisher;
	w->tree->merger = w->merger;
	return 0;
}

static int make_fuse(struct worker *w)
{
	struct fuse_conf conf = {
		.fd = WORKER_FUSE,
		.tree = w->tree,
		.minor = w->snapshot->init_minor,
		.flags = w->snapshot->init_flags,
		.socket = w->config->socket,
		.want_passthrough = w->hello->may_pass,
		.agreed = agreed,
		.ended = ended,
		.all_came = all_came,
		.ctx = w,
	};
	int r;

	if (!w->hello->has_fuse)
		return 0;
	r = fuse_new(&w->fuse, &conf);
	if (r == 0)
		r = sd_event_add_io(w->event, NULL, WORKER_FUSE, EPOLLIN, on_fuse, w);
	return r;
}

static int start(struct worker *w)
{
	struct ctl_conf ctl = { .listen_fd = WORKER_LISTEN,
				.status = status,
				.shutdown = shutdown_folder,
				.crowded = crowded,
				.ctx = w };
	unsigned int max_fds;
	size_t len = 0;
	int r;

	w->publisher = find_server(WORKER_PUBLISHER);
	w->merger = find_server(WORKER_MERGER);
	r = map_all(w, &len);
	if (r < 0)
		return r;
	r = sd_event_new(&w->event);
	if (r < 0)
		return r;
	share_numbers(w, &ctl.max_conns, &max_fds);
	r = keep_new(&w->keep, WORKER_KEEPER, w->shm, keeper_lost);
	if (r == 0)
		r = make_relay(w);
	if (r >= 0)
		r = make_tree(w, max_fds);
	if (r == 0)
		r = make_fuse(w);
	if (r < 0)
		return r;
	r = sandbox_enter(w->hello->privileged);
	if (r < 0)
		return r;
	r = keep_restore(w->keep, w->tree, w->snapshot, len);
	if (r < 0)
		return r;
	r = sd_event_add_time_relative(w->event, &w->again, CLOCK_MONOTONIC, 0, 100000, on_again,
				       w);
	if (r >= 0)
		r = sd_event_source_set_enabled(w->again, SD_EVENT_OFF);
	if (r < 0)
		return r;
	port_restored(w->tree, w->hello->servers & HELLO_RULES_KEPT);
	ksm_restored(w->tree, w->hello->servers & HELLO_PARTITIONS_KEPT);
	poison_restart(w->shm);
	relay_recover(w->relay, answer, w);
	poller_recover(w->poller);
	if (w->fuse && w->snapshot->init_minor && w->snapshot->restarts) {
		fuse_all_changed(w->fuse);
		fuse_resend(w->fuse);
	}
	r = sd_event_add_time_relative(w->event, &w->sweep, CLOCK_MONOTONIC, SWEEP_USEC, 100000,
				       on_sweep, w);
	if (r < 0)
		return r;
	r = sd_event_source_set_enabled(w->sweep, SD_EVENT_OFF);
	if (r < 0)
		return r;
	want_sweep(w);
	ctl.tree = w->tree;
	ctl.event = w->event;
	return ctl_new(&w->ctl, &ctl);
}

/* As sd_event_loop(); the keeper sees in the shared memory whether we wait for events or work on one, and since when. */
static int loop(struct worker *w)
{
	uint64_t beat = 0;
	int r = 0;

	while (r >= 0 && sd_event_get_state(w->event) != SD_EVENT_FINISHED) {
		r = sd_event_prepare(w->event);
		if (r == 0) {
			__atomic_store_n(&w->shm->busy, 0, __ATOMIC_RELAXED);
			r = sd_event_wait(w->event, UINT64_MAX);
		}
		__atomic_store_n(&w->shm->busy, ++beat, __ATOMIC_RELAXED);
		if (r > 0)
			r = sd_event_dispatch(w->event);
	}
	return r;
}

int worker_run(const struct config *c)
{
	static struct worker w;
	int r;

	w.config = c;
	signal(SIGPIPE, SIG_IGN);
	r = start(&w);
	if (r < 0) {
		log_error("worker: %s", strerror(-r));
		return 1;
	}
	if (!c->foreground)
		log_to_background("ksharedd");
	keep_ready(w.keep);
	r = loop(&w);
	if (r < 0)
		log_error("worker: %s", strerror(-r));
	ctl_free(w.ctl);
	fuse_free(w.fuse);
	poller_free(w.poller);
	tree_free(w.tree);
	aside_free(w.aside);
	aside_free(w.closers);
	relay_free(w.relay);
	keep_free(w.keep);
	sd_event_source_unref(w.sweep);
	sd_event_unref(w.event);
	return r < 0;
}
