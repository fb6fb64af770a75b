/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * relay_internal.h - shared by relay.c (transfers, on an io_uring) and plain.c (what stands in for the ring where
 * there is none).
 */
#ifndef KSHARED_ENGINE_RELAY_INTERNAL_H
#define KSHARED_ENGINE_RELAY_INTERNAL_H

#include <engine/relay/relay.h>
#include <liburing.h>

enum { IS_NOTHING, IS_SLOT, IS_WAIT, IS_CALL };

struct relay_item {
	void *who;
	uint32_t generation;
	uint32_t next_free;
	int fd; /* without a ring: what is watched, */
	bool once; /* and whether only until it is ready */
};

struct relay {
	struct io_uring ring; /* if epoll_fd is -1 */
	int epoll_fd; /* instead of a ring; -1: there is one */
	struct shm_slot *slots;
	struct relay_io **slot_io;
	unsigned int nr_slots;
	unsigned int nr_busy; /* slots in use */
	unsigned int nr_files; /* of them by files */
	struct relay_item *items; /* items[0] is never used */
	uint32_t nr_items;
	uint32_t free_item;
	uint32_t first_generation; /* differs from an earlier process's, whose completions may still come */
	struct relay_io *queue; /* wait for a slot */
	bool reaping;
};

/** name_of() - a completion's name: what it is of, its index, its step or generation. */
static inline uint64_t name_of(unsigned int is, uint32_t index, uint32_t step)
{
	return (uint64_t)is << 56 | (uint64_t)index << 32 | step;
}

/** relay_take_item() - a place in the table for what is waited for. Return: 0; -ENOMEM. */
int relay_take_item(struct relay *r, void *who, uint32_t *ret);

/** relay_drop_item() - it is waited for no longer. */
void relay_drop_item(struct relay *r, uint32_t i);

/** relay_transferred() - one attempt at @io's transfer has ended with @res: bytes or -errno. */
void relay_transferred(struct relay_io *io, int res);

/** plain_transfer() - try a transfer without waiting. Return: bytes; -EAGAIN; -EOPNOTSUPP no RWF_NOWAIT; -errno. */
int plain_transfer(const struct relay_io *io, struct shm_slot *s);

/** plain_wait() - as relay_wait() and, with @many, relay_watch(). */
int plain_wait(struct relay *r, struct relay_wait *w, int fd, unsigned int events, bool many);

/** plain_wait_cancel() - as relay_wait_cancel(). */
void plain_wait_cancel(struct relay *r, struct relay_wait *w);

/** plain_dispatch() - as relay_dispatch(). */
void plain_dispatch(struct relay *r);

#endif
