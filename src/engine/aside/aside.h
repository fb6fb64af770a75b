/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * aside.h - calls that may hang, in threads.
 *
 * Almost any call on a descriptor that somebody else has, too, can be made to last for ever by him, and in a way that not even SIGKILL
 * ends: a file's server does not answer; an inode's lock, a pipe's mutex or a socket's lock is held by a
 * write(2) from a page that never comes; the last close of a pipe waits for an epoll that is held so. None of this can be seen
 * from outside. So such calls are made by a few threads, of which each owner (whose descriptor it is) has some at most: who
 * sets a trap waits in it himself.
 *
 * aside_start(), aside_dispatch() and aside_free(): one thread.
 */
#ifndef KSHARED_ENGINE_ASIDE_H
#define KSHARED_ENGINE_ASIDE_H

#include <stdbool.h>
#include <stdint.h>

#define ASIDE_OWNERS 1024 /* owners are told apart by so many numbers */

struct aside;

/**
 * struct aside_job - one call; embedded in what it is about, and the pool's until @done.
 * @work: makes the call, in a thread; must touch nothing but the job
 * @done: afterwards: from aside_dispatch(), or, in a pool that is not asked, at once in the thread
 */
struct aside_job {
	void (*work)(struct aside_job *j);
	void (*done)(struct aside_job *j);
	uint32_t bucket;
	struct aside_job *prev, *next;
};

/** aside_bucket() - the number that an owner is known by; 0 is root's alone. */
static inline uint32_t aside_bucket(uint32_t owner)
{
	return owner ? 1 + owner % (ASIDE_OWNERS - 1) : 0;
}

/**
 * aside_new() - a pool without threads: they are made when there is work, and end when there is none.
 * @asked: results are handed out by aside_dispatch()
 * Return: 0; -ENOMEM; -errno.
 */
int aside_new(struct aside **ret, bool asked);

/** aside_fd() - readable when aside_dispatch() has something to do. Return: borrowed; -1 the pool is not asked. */
int aside_fd(const struct aside *a);

/** aside_start() - have a job done. Jobs of one owner begin in the order in which they came. */
void aside_start(struct aside *a, struct aside_job *j, uint32_t owner);

/** aside_dispatch() - call back for what is done. */
void aside_dispatch(struct aside *a);

/** aside_free() - @a may be NULL. What hangs is left to its threads; what has not begun is forgotten. */
void aside_free(struct aside *a);

#endif
