/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * relay_internal.h - shared by relay.c (transfers, on an io_uring) and plain.c (what stands in for the ring where
 * there is none).
 */
#ifndef KSHARED_ENGINE_RELAY_INTERNAL_H
#define KSHARED_ENGINE_RELAY_INTERNAL_H

#include <engine/relay/relay.h>
#include <liburing.h>

enum { IS_NOTHING, IS_SLOT, IS_WAIT, IS_CANCEL, IS_PAUSE };

/* Of a slot: an earlier process started its transfer, and the kernel still works on it, or has ended it since. */
enum { LEFT_RUNNING = 1, LEFT_ENDED };

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
	unsigned int nr_left; /* slots of an earlier process's transfers */
	bool (*answer)(void *ctx, uint64_t unique, bool write, const void *data, uint32_t bytes);
	void *ctx;
	bool all_came;
	bool reaping;
	bool running;
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

/**
 * relay_record() - put on record what one completion says: @res bytes moved, or -errno.
 * The step goes on in any case, so that this completion is not counted again.
 */
void relay_record(struct shm_slot *s, int res);

/** relay_left_ended() - a transfer that an earlier process had started is on record as ended. Return: is its slot free? */
bool relay_left_ended(struct relay *r, struct shm_slot *s);

/** relay_find_left() - the slot of an earlier process's transfer for this request. Return: its index; -1: none. */
int relay_find_left(const struct relay *r, uint64_t unique);

/** relay_run_queue() - slots have become free: start what waits for them. */
void relay_run_queue(struct relay *r);

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
