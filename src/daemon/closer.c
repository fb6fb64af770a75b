// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * closer.c - see closer.h. A thread takes the first waiting descriptor whose owner has not OWNER_MAX threads already, and ends
 * when there is none. It blocks all signals, as the process did when it was started.
 */
#include <daemon/closer.h>
#include <engine/remote/classify.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>
#include <utlist.h>
#include <wire/keep.h>

#define THREADS_MAX 64
#define OWNER_MAX 4
#define STACK_BYTES (64u << 10)

struct job {
	int fd;
	uint32_t bucket;
	struct job *prev, *next;
};

struct closer {
	pthread_mutex_t lock;
	struct job *jobs;
	struct shm_closing *counts;
	unsigned int nr_threads;
	unsigned int busy[SHM_OWNERS]; /* threads that work for an owner */
	bool ended;
};

int closer_new(struct closer **ret, struct shm_closing *counts)
{
	struct closer *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	pthread_mutex_init(&c->lock, NULL);
	c->counts = counts;
	*ret = c;
	return 0;
}

static struct job *next_job(struct closer *c)
{
	struct job *j;

	DL_FOREACH (c->jobs, j) {
		if (c->busy[j->bucket] >= OWNER_MAX)
			continue;
		DL_DELETE(c->jobs, j);
		c->busy[j->bucket]++;
		return j;
	}
	return NULL;
}

static void *work(void *arg)
{
	struct closer *c = arg;
	struct job *j;
	bool ended;

	pthread_mutex_lock(&c->lock);
	while ((j = next_job(c))) {
		pthread_mutex_unlock(&c->lock);
		cut_linger(j->fd);
		close(j->fd);
		__atomic_add_fetch(&c->counts[j->bucket].closed, 1, __ATOMIC_RELAXED);
		pthread_mutex_lock(&c->lock);
		c->busy[j->bucket]--;
		free(j);
	}
	ended = --c->nr_threads == 0 && c->ended;
	pthread_mutex_unlock(&c->lock);
	if (ended)
		free(c);
	return NULL;
}

static void start_thread(struct closer *c)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	if (pthread_create(&thread, &attr, work, c) == 0)
		c->nr_threads++;
	pthread_attr_destroy(&attr);
}

void closer_close(struct closer *c, uid_t owner, int fd)
{
	struct job *j;

	if (!close_may_wait(fd, 0)) {
		close(fd);
		return;
	}
	/* Without memory, or without a thread, it stays open: that is a leak, and no hang. */
	j = malloc(sizeof(*j));
	if (!j)
		return;
	*j = (struct job){ .fd = fd, .bucket = shm_owner(owner) };
	__atomic_add_fetch(&c->counts[j->bucket].given, 1, __ATOMIC_RELAXED);
	pthread_mutex_lock(&c->lock);
	DL_APPEND(c->jobs, j);
	if (c->nr_threads < THREADS_MAX && c->busy[j->bucket] < OWNER_MAX)
		start_thread(c);
	pthread_mutex_unlock(&c->lock);
}

void closer_free(struct closer *c)
{
	bool last;

	if (!c)
		return;
	pthread_mutex_lock(&c->lock);
	c->ended = true;
	last = c->nr_threads == 0;
	pthread_mutex_unlock(&c->lock);
	if (last)
		free(c);
}
