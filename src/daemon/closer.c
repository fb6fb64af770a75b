// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * closer.c - see closer.h.
 */
#include <daemon/closer.h>
#include <engine/aside/aside.h>
#include <engine/remote/classify.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <wire/keep.h>

_Static_assert(ASIDE_OWNERS == SHM_OWNERS, "a count for each");

struct job {
	struct aside_job job;
	struct shm_closing *count;
	int fd;
};

static void work(struct aside_job *job)
{
	struct job *j = (struct job *)job;

	cut_linger(j->fd);
	close(j->fd);
	__atomic_add_fetch(&j->count->closed, 1, __ATOMIC_RELAXED);
}

static void done(struct aside_job *job)
{
	free(job);
}

void closer_close(struct closer *c, uid_t owner, int fd, uint64_t own_dev)
{
	struct job *j;

	if (!close_may_wait(fd, own_dev)) {
		close(fd);
		return;
	}
	/* Without memory it stays open: that is a leak, and no hang. */
	j = malloc(sizeof(*j));
	if (!j)
		return;
	*j = (struct job){ .job = { .work = work, .done = done },
			   .count = &c->counts[aside_bucket(owner)],
			   .fd = fd };
	__atomic_add_fetch(&j->count->given, 1, __ATOMIC_RELAXED);
	aside_start(c->aside, &j->job, owner);
}

void closer_close_copy(struct closer *c, uid_t owner, int fd, uint64_t own_dev)
{
	socklen_t len = sizeof(int);
	int type;

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0)
		close(fd);
	else
		closer_close(c, owner, fd, own_dev);
}

uint32_t closer_waiting(const struct closer *c)
{
	uint32_t n = 0;

	for (unsigned int i = 0; i < ASIDE_OWNERS; i++)
		n += c->counts[i].given - __atomic_load_n(&c->counts[i].closed, __ATOMIC_RELAXED);
	return n;
}
