// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * usage.c - a count from its beginning to its end; the walk itself is walk.c's.
 */
#include <base/cleanup.h>
#include <engine/usage/usage_internal.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 64
#define THREADS_LEAST 8 /* more than there are CPUs: with cold caches they wait for the disk */
#define THREADS_EACH 4 /* for a CPU */
#define STACK_BYTES (128u << 10)
#define LOOKS 10 /* in a second, at whether to stop */
#define STOP_PATIENCE_S 1 /* for threads that hang in a file system which does not answer */
#define FDS_EACH \
	6 /* of a thread, at least: what it reads, a step on the way there, and some that are kept */

/* How many descriptors this process may open yet. */
static unsigned int free_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned int n = 0;
	struct rlimit l;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	if (getrlimit(RLIMIT_NOFILE, &l) < 0 || l.rlim_cur <= n)
		return 0;
	return l.rlim_cur - n < INT_MAX ? (unsigned int)(l.rlim_cur - n) : INT_MAX;
}

/* How many threads there is address space for, with as much again for what they allocate. */
static unsigned int threads_by_space(void)
{
	FILE *f = fopen("/proc/self/statm", "re");
	unsigned long long pages = 0, left;
	struct rlimit l;

	if (f && fscanf(f, "%llu", &pages) != 1)
		pages = 0;
	if (f)
		fclose(f);
	if (getrlimit(RLIMIT_AS, &l) < 0 || l.rlim_cur == RLIM_INFINITY)
		return THREADS_MAX;
	left = pages * (unsigned long long)sysconf(_SC_PAGESIZE);
	left = l.rlim_cur > left ? l.rlim_cur - left : 0;
	left /= 2ull * (STACK_BYTES + USAGE_BUFFER_BYTES);
	return left < THREADS_MAX ? (unsigned int)left : THREADS_MAX;
}

/* How many threads; and how many descriptors may be kept by them together: half of those that are left for others to use. */
static void choose(struct usage *u)
{
	unsigned int fds = free_fds(), most = threads_by_space();
	long n = u->o.threads ? (long)u->o.threads : sysconf(_SC_NPROCESSORS_ONLN) * THREADS_EACH;

	if (!u->o.threads && n < THREADS_LEAST)
		n = THREADS_LEAST;
	if (n > THREADS_MAX)
		n = THREADS_MAX;
	if (n > fds / FDS_EACH)
		n = fds / FDS_EACH ? fds / FDS_EACH : 1;
	if (n > most)
		n = most ? most : 1;
	u->nr_workers = (unsigned int)n;
	u->max_kept = fds > 2 * u->nr_workers ? (fds - 2 * u->nr_workers) / 2 : 0;
}

/* Zeroed, and aligned as the structures with parts for different threads ask for. */
static void *aligned(size_t size)
{
	void *p = aligned_alloc(_Alignof(struct usage), size);

	return p ? memset(p, 0, size) : NULL;
}

int usage_new(struct usage **ret, const char *dir, const struct usage_options *o)
{
	pthread_condattr_t attr;
	struct usage *u;
	struct stat st;
	int r;

	if (!o->top)
		return -EINVAL;
	u = aligned(sizeof(*u));
	if (!u)
		return -ENOMEM;
	u->o = *o;
	pthread_mutex_init(&u->idle_lock, NULL);
	pthread_mutex_init(&u->error_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&u->done, &attr);
	pthread_condattr_destroy(&attr);
	pthread_cond_init(&u->wake, NULL);
	largest_init(&u->largest, o->top, o->by);
	u->fd = open(dir, O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC);
	if (u->fd < 0 || fstat(u->fd, &st) < 0) {
		r = -errno;
	} else {
		u->root_dev = st.st_dev;
		r = links_new(&u->links);
	}
	if (r == 0)
		r = mounts_new(&u->mounts, u->fd, dir, &u->o);
	if (r == 0) {
		choose(u);
		u->workers = aligned(u->nr_workers * sizeof(*u->workers));
		r = u->workers ? 0 : -ENOMEM;
	}
	for (unsigned int i = 0; i < u->nr_workers && r == 0; i++) {
		pthread_mutex_init(&u->workers[i].lock, NULL);
		u->workers[i].u = u;
		u->workers[i].buffer = malloc(USAGE_BUFFER_BYTES);
		r = u->workers[i].buffer ? 0 : -ENOMEM;
	}
	if (r < 0) {
		usage_free(u, NULL);
		return r;
	}
	*ret = u;
	return 0;
}

static int start_threads(struct usage *u)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all, old;
	unsigned int i;
	int r = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	pthread_mutex_lock(&u->idle_lock);
	for (i = 0; i < u->nr_workers && r == 0; i++)
		r = -pthread_create(&thread, &attr, usage_thread, &u->workers[i]);
	/* One is enough. */
	if (r < 0 && --i)
		r = 0;
	u->nr_running = i;
	pthread_mutex_unlock(&u->idle_lock);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}

/* Until all threads have ended; or, once they shall stop, for a second. */
static void wait_for_threads(struct usage *u)
{
	struct timespec now, until;
	unsigned int patience = STOP_PATIENCE_S * LOOKS;

	pthread_mutex_lock(&u->idle_lock);
	clock_gettime(CLOCK_MONOTONIC, &now);
	while (u->nr_running && patience) {
		until = now;
		until.tv_nsec += 1000000000 / LOOKS;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		if (pthread_cond_timedwait(&u->done, &u->idle_lock, &until) == ETIMEDOUT) {
			patience -= __atomic_load_n(&u->stop, __ATOMIC_RELAXED);
			clock_gettime(CLOCK_MONOTONIC, &now);
		}
	}
	pthread_mutex_unlock(&u->idle_lock);
}

static void count_rest(void *ctx, uint32_t top, const struct usage_sum *sum)
{
	usage_count_for(ctx, top, sum);
}

static struct usage_sum load(const struct usage_sum *s)
{
	return (struct usage_sum){
		.disk = __atomic_load_n(&s->disk, __ATOMIC_RELAXED),
		.apparent = __atomic_load_n(&s->apparent, __ATOMIC_RELAXED),
		.count = __atomic_load_n(&s->count, __ATOMIC_RELAXED),
	};
}

static int collect(struct usage *u, struct usage_result *ret)
{
	uint32_t n = __atomic_load_n(&u->nr_tops, __ATOMIC_ACQUIRE);
	int r = 0;

	links_rest(u->links, count_rest, u);
	ret->total = load(&u->rest);
	for (unsigned int i = 0; i < u->nr_workers; i++)
		for (unsigned int k = 0; k < u->o.nr_owners; k++) {
			struct usage_sum s = load(&u->workers[i].owned[k]);

			usage_add(&ret->owned[k], &s);
		}
	for (uint32_t i = 0; i < n && r == 0; i++) {
		const struct top *t = usage_top(u, i);
		struct usage_sum s = load(&t->sum);

		usage_add(&ret->total, &s);
		/* Nothing counts for a name whose file counts for another. */
		if (s.count)
			r = largest_put(&u->largest, t->name, &s, t->mode, 0, 0);
	}
	largest_take(&u->largest, &ret->items, &ret->nr_items);
	usage_take_notes(u, ret);
	return r < 0 ? r : __atomic_load_n(&u->failed, __ATOMIC_RELAXED);
}

int usage_run(struct usage *u, struct usage_result *ret)
{
	struct dir *root = dir_new(u, NULL, "", NO_TOP);
	int r;

	*ret = (struct usage_result){ 0 };
	if (!root)
		return -ENOMEM;
	root->fd = take_fd(&u->fd);
	u->nr_pending = 1;
	usage_push(&u->workers[0], root);
	r = start_threads(u);
	if (r < 0) {
		dir_done(u, usage_pop(&u->workers[0]));
		return r;
	}
	wait_for_threads(u);
	return collect(u, ret);
}

void usage_stop(struct usage *u)
{
	__atomic_store_n(&u->stop, true, __ATOMIC_RELAXED);
}

struct usage_sum usage_progress(const struct usage *u)
{
	struct usage_sum all = { 0 };

	for (unsigned int i = 0; i < u->nr_workers; i++) {
		struct usage_sum s = load(&u->workers[i].seen);

		usage_add(&all, &s);
	}
	return all;
}

static void free_result(struct usage_result *r)
{
	for (size_t i = 0; i < r->nr_items; i++)
		free(r->items[i].name);
	free(r->items);
	for (size_t i = 0; i < USAGE_ERRORS; i++)
		free(r->errors[i].path);
	for (size_t i = 0; i < r->nr_skipped; i++)
		free(r->skipped[i]);
	free(r->skipped);
	*r = (struct usage_result){ 0 };
}

static void free_all(struct usage *u)
{
	for (unsigned int i = 0; u->workers && i < u->nr_workers; i++)
		free(u->workers[i].buffer);
	free(u->workers);
	for (uint32_t i = 0; i < u->nr_tops; i++)
		free(usage_top(u, i)->name);
	for (size_t i = 0; i < TOP_CHUNKS; i++)
		free(u->chunks[i]);
	for (size_t i = 0; i < USAGE_ERRORS; i++)
		free(u->errors[i].path);
	for (size_t i = 0; i < u->nr_skipped; i++)
		free(u->skipped[i]);
	free(u->skipped);
	links_free(u->links);
	mounts_free(u->mounts);
	largest_deinit(&u->largest);
	if (u->fd >= 0)
		close(u->fd);
	pthread_cond_destroy(&u->wake);
	pthread_cond_destroy(&u->done);
	pthread_mutex_destroy(&u->idle_lock);
	pthread_mutex_destroy(&u->error_lock);
	free(u);
}

void usage_leave(struct usage *u)
{
	bool last;

	pthread_mutex_lock(&u->idle_lock);
	u->nr_running--;
	pthread_cond_signal(&u->done);
	last = u->abandoned && !u->nr_running;
	pthread_mutex_unlock(&u->idle_lock);
	if (last)
		free_all(u);
}

void usage_free(struct usage *u, struct usage_result *r)
{
	bool in_use;

	if (r)
		free_result(r);
	if (!u)
		return;
	/* With threads that hang in a file system, the last of them frees it. */
	pthread_mutex_lock(&u->idle_lock);
	in_use = u->abandoned = u->nr_running;
	pthread_mutex_unlock(&u->idle_lock);
	if (!in_use)
		free_all(u);
}
