/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * poller.h - who waits for which descriptor to become ready, remembered beyond the process.
 *
 * The kernel names a poller by a handle and asks again whenever it is told to. So it is enough that the
 * handles survive: the next process tells all of them, each asks again, and waits again if it must. A handle is one store
 * into shared memory, made before the kernel is told that it will be woken.
 *
 * One thread.
 */
#ifndef KSHARED_ENGINE_POLLER_H
#define KSHARED_ENGINE_POLLER_H

#include <engine/relay/relay.h>

struct poller;

/**
 * poller_new() - begin with an empty table in this process.
 * @handles: shared memory, @nr_handles words, 0 being free
 * @wake: told each handle whose descriptor has become ready
 * Return: 0; -ENOMEM.
 */
int poller_new(struct poller **ret, struct relay *relay, uint64_t *handles, uint32_t nr_handles,
	       void (*wake)(void *ctx, uint64_t handle), void *ctx);

/** poller_free() - stop waiting; the shared memory stays as it is. */
void poller_free(struct poller *p);

/** poller_recover() - wake every handle of an earlier process and forget it. */
void poller_recover(struct poller *p);

/**
 * poller_arm() - wake @handle each time that @fd comes to have one of @events, until poller_close().
 * Look at the descriptor after this, not before: what it has already is not told.
 * @word: the open file that polls, for poller_close()
 * Return: 0; -ENOSPC too many wait; -ENOMEM; -EAGAIN.
 */
int poller_arm(struct poller *p, uint64_t handle, uint64_t word, int fd, unsigned int events);

/** poller_close() - the open file @word is no more. */
void poller_close(struct poller *p, uint64_t word);

#endif
