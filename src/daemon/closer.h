/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * closer.h - close descriptors that are somebody else's, in threads.
 *
 * Almost any close(2) can be made to last for ever by who had the descriptor before: a file's server does not answer; a socket is to
 * linger; an epoll that watches a pipe is held, by epoll_wait() into a page that does not come, and the last close of
 * the pipe waits for it. None of this can be seen from outside, nor ended. So there are a few threads, each owner has
 * some of them at most, and how many of his are waiting is there to see (in shared memory), so that he is given no more.
 */
#ifndef KSHARED_DAEMON_CLOSER_H
#define KSHARED_DAEMON_CLOSER_H

#include <sys/types.h>

struct closer;
struct shm_closing;

/** closer_new() - no thread yet. @counts: SHM_OWNERS of them. Return: 0; -ENOMEM. */
int closer_new(struct closer **ret, struct shm_closing *counts);

/** closer_close() - close @fd, which came from @owner; without waiting, and without fail. */
void closer_close(struct closer *c, uid_t owner, int fd);

/** closer_free() - what hangs is left to its threads. */
void closer_free(struct closer *c);

#endif
