// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * disposal.c - see disposal.h, and closer.h for why. An owner has OWNER_MAX closes under way at most, so that hanging ones keep
 * nobody else's waiting. Without a ring what may hang for certain is left open, and goes when the worker does.
 */
#include <daemon/disposal.h>
#include <engine/relay/relay.h>
#include <engine/remote/classify.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <utlist.h>
#include <wire/keep.h>

#define ALL_MAX 256
#define OWNER_MAX 16
#define WAITING_MAX 64
#define PATIENCE_NS 1000000000

struct job {
	struct relay_call call;
	struct disposal *disposal;
	int fd;
	uint32_t bucket;
	struct job *prev, *next;
};

/* @closed: also the keeper's, when last looked at; @since: it has been that, in ns */
struct owner {
	struct shm_closing here;
	uint32_t closed;
	int64_t since;
};

struct disposal {
	struct relay *relay;
	const struct shm_closing *keeper;
	struct job *jobs; /* not begun */
	unsigned int nr_begun;
	bool beginning;
	unsigned int begun[SHM_OWNERS];
	struct owner owners[SHM_OWNERS];
};

int disposal_new(struct disposal **ret, struct relay *relay, const struct shm_closing *keeper)
{
	struct disposal *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	d->relay = relay;
	d->keeper = keeper;
	*ret = d;
	return 0;
}

void disposal_free(struct disposal *d)
{
	struct job *j, *tmp;

	if (!d)
		return;
	DL_FOREACH_SAFE (d->jobs, j, tmp)
		free(j);
	free(d);
}

static void drop(struct job *j)
{
	j->disposal->owners[j->bucket].here.closed++;
	free(j);
}

static void begin(struct disposal *d);

static void closed(struct relay_call *call, int result)
{
	struct job *j = (struct job *)call;
	struct disposal *d = j->disposal;

	d->nr_begun--;
	d->begun[j->bucket]--;
	drop(j);
	begin(d);
}

static void close_here(struct job *j)
{
	struct fd_facts facts;

	if (classify_fd(j->fd, &facts) < 0 || !facts.slow)
		close(j->fd);
	drop(j);
}

static struct job *next_job(struct disposal *d)
{
	struct job *j;

	DL_FOREACH (d->jobs, j)
		if (d->nr_begun < ALL_MAX && d->begun[j->bucket] < OWNER_MAX)
			return j;
	return NULL;
}

static void begin(struct disposal *d)
{
	struct job *j;

	/* The ring may call back, for this job or another, before relay_close() returns; the outer loop goes on then. */
	if (d->beginning)
		return;
	d->beginning = true;
	while ((j = next_job(d))) {
		DL_DELETE(d->jobs, j);
		d->nr_begun++;
		d->begun[j->bucket]++;
		if (relay_close(d->relay, &j->call, j->fd) < 0) {
			d->nr_begun--;
			d->begun[j->bucket]--;
			close_here(j);
		}
	}
	d->beginning = false;
}

void disposal_close(struct disposal *d, uid_t uid, int fd, uint64_t own_dev)
{
	struct job *j;

	if (!close_may_wait(fd, own_dev)) {
		close(fd);
		return;
	}
	j = calloc(1, sizeof(*j));
	if (!j)
		return; /* a leak, and no hang */
	*j = (struct job){ .call.done = closed, .disposal = d, .fd = fd, .bucket = shm_owner(uid) };
	d->owners[j->bucket].here.given++;
	DL_APPEND(d->jobs, j);
	begin(d);
}

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

bool disposal_barred(struct disposal *d, uid_t uid)
{
	uint32_t bucket = shm_owner(uid);
	struct owner *o = &d->owners[bucket];
	uint32_t closed = o->here.closed + __atomic_load_n(&d->keeper[bucket].closed, __ATOMIC_RELAXED);
	uint32_t given = o->here.given + __atomic_load_n(&d->keeper[bucket].given, __ATOMIC_RELAXED);

	if ((int32_t)(given - closed) < WAITING_MAX) {
		o->since = 0;
		return false;
	}
	if (o->since && closed == o->closed)
		return now_ns() - o->since > PATIENCE_NS;
	o->closed = closed;
	o->since = now_ns();
	return false;
}
