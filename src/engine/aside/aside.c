// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * aside.c - see aside.h. A thread takes the first job whose owner has not his share of threads already, and ends when there is none.
 * It blocks all signals, so that those of the process go where they went before.
 *
 * Without memory for a thread a job waits until another thread is free, or the next one is started.
 */
#include <engine/aside/aside.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <utlist.h>

#define THREADS_MAX 64
#define OWNER_MAX 4
#define ROOT_MAX 32
#define STACK_BYTES (64u << 10)

struct aside {
	pthread_mutex_t lock;
	struct aside_job *jobs; /* not begun */
	struct aside_job *done;
	int fd;
	unsigned int nr_threads;
	unsigned int nr_starting; /* have not looked for a job yet */
	unsigned int busy[ASIDE_OWNERS]; /* threads that work for an owner */
	bool ended;
};

int aside_new(struct aside **ret, bool asked)
{
	struct aside *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->fd = asked ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) : -1;
	if (asked && a->fd < 0) {
		free(a);
		return -errno;
	}
	pthread_mutex_init(&a->lock, NULL);
	*ret = a;
	return 0;
}

int aside_fd(const struct aside *a)
{
	return a->fd;
}

static void destroy(struct aside *a)
{
	if (a->fd >= 0)
		close(a->fd);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

static unsigned int share(uint32_t bucket)
{
	return bucket ? OWNER_MAX : ROOT_MAX;
}

static struct aside_job *next_job(struct aside *a)
{
	struct aside_job *j;

	if (a->ended)
		return NULL;
	DL_FOREACH(a->jobs, j) {
		if (a->busy[j->bucket] >= share(j->bucket))
			continue;
		DL_DELETE(a->jobs, j);
		j->begun = true;
		a->busy[j->bucket]++;
		return j;
	}
	return NULL;
}

/* With the lock. */
static void finished(struct aside *a, struct aside_job *j)
{
	a->busy[j->bucket]--;
	if (a->fd < 0) {
		j->done(j);
		return;
	}
	if (a->ended)
		return;
	DL_APPEND(a->done, j);
	(void)!write(a->fd, &(uint64_t){ 1 }, sizeof(uint64_t));
}

static void start_thread(struct aside *a);

static void *thread_main(void *arg)
{
	struct aside *a = arg;
	struct aside_job *j;
	bool last;

	pthread_mutex_lock(&a->lock);
	a->nr_starting--;
	while ((j = next_job(a))) {
		/* This one may hang: another looks after the rest. */
		if (a->jobs)
			start_thread(a);
		pthread_mutex_unlock(&a->lock);
		j->work(j);
		pthread_mutex_lock(&a->lock);
		finished(a, j);
	}
	last = --a->nr_threads == 0 && a->ended;
	pthread_mutex_unlock(&a->lock);
	if (last)
		destroy(a);
	return NULL;
}

static void start_thread(struct aside *a)
{
	sigset_t all, old;
	pthread_attr_t attr;
	pthread_t thread;

	if (a->nr_starting || a->nr_threads >= THREADS_MAX)
		return;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	if (pthread_create(&thread, &attr, thread_main, a) == 0) {
		a->nr_threads++;
		a->nr_starting++;
	}
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void aside_start(struct aside *a, struct aside_job *j, uint32_t owner)
{
	j->bucket = aside_bucket(owner);
	j->begun = false;
	pthread_mutex_lock(&a->lock);
	DL_APPEND(a->jobs, j);
	if (a->busy[j->bucket] < share(j->bucket))
		start_thread(a);
	pthread_mutex_unlock(&a->lock);
}

bool aside_cancel(struct aside *a, struct aside_job *j)
{
	bool mine;

	pthread_mutex_lock(&a->lock);
	mine = !j->begun;
	if (mine)
		DL_DELETE(a->jobs, j);
	pthread_mutex_unlock(&a->lock);
	return mine;
}

void aside_dispatch(struct aside *a)
{
	struct aside_job *done, *j, *tmp;
	uint64_t count;

	pthread_mutex_lock(&a->lock);
	(void)!read(a->fd, &count, sizeof(count));
	done = a->done;
	a->done = NULL;
	pthread_mutex_unlock(&a->lock);
	DL_FOREACH_SAFE(done, j, tmp)
		j->done(j);
}

void aside_free(struct aside *a)
{
	bool last;

	if (!a)
		return;
	pthread_mutex_lock(&a->lock);
	a->ended = true;
	last = a->nr_threads == 0;
	pthread_mutex_unlock(&a->lock);
	if (last)
		destroy(a);
}
