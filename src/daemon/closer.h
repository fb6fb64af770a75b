/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * closer.h - close descriptors that are somebody else's, aside (engine/aside says why), and count whose are not closed yet.
 */
#ifndef KSHARED_DAEMON_CLOSER_H
#define KSHARED_DAEMON_CLOSER_H

#include <stdint.h>
#include <sys/types.h>

struct aside;
struct shm_closing;

/**
 * struct closer - the caller's.
 * @aside: does it; borrowed
 * @counts: ASIDE_OWNERS of them; the keeper's are in shared memory, so that the worker sees them, too
 */
struct closer {
	struct aside *aside;
	struct shm_closing *counts;
};

/** closer_close() - close @fd, which came from @owner, without waiting. @own_dev: files of this device are closed at once. */
void closer_close(struct closer *c, uid_t owner, int fd, uint64_t own_dev);

/** closer_close_copy() - as closer_close(), of what is certainly held elsewhere, too: of a socket only the last close waits. */
void closer_close_copy(struct closer *c, uid_t owner, int fd, uint64_t own_dev);

/** closer_waiting() - how many of all descriptors are not closed yet. */
uint32_t closer_waiting(const struct closer *c);

#endif
