// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ck.c - Concurrency Kit's ring, one producer and one consumer. It has no way to wait but to look again.
 *
 * Messages of up to 64 bytes are its elements, written in place and copied out; longer ones lie beside it, and their numbers are its
 * elements, as its own documentation has it.
 */
#include <ck_ring.h>

#include "ipc/loops.h"

#define SMALL 64

struct small {
	uint64_t words[SMALL / 8];
};

struct large {
	uint64_t number;
};

CK_RING_PROTOTYPE(small, small)
CK_RING_PROTOTYPE(large, large)

struct shared {
	ck_ring_t ring;
	_Alignas(64) unsigned char slots[];
};

struct channel {
	struct shared *shared;
	unsigned int depth;
	bool small;
};

struct end {
	struct shared *s;
	struct large *numbers;
	unsigned char *pool;
	uint64_t n;
	unsigned int mask;
	bool small;
	struct small got;
};

static void *prepare(size_t size, unsigned int depth, unsigned int number)
{
	struct channel *c = ipc_alloc(sizeof(*c));
	size_t slot;

	c->small = size <= SMALL;
	c->depth = depth;
	/* Of the payloads twice as many: one is being written and one read that are not in the ring. */
	slot = c->small ? sizeof(struct small) : 64 + 2 * size;
	c->shared = ipc_map(sizeof(struct shared) + slot * depth);
	ck_ring_init(&c->shared->ring, depth);
	return c;
}

static void *open_end(void *channel, bool writer)
{
	struct channel *c = channel;
	struct end *e = ipc_alloc(sizeof(*e));

	e->s = c->shared;
	e->small = c->small;
	e->mask = 2 * c->depth - 1;
	e->numbers = (struct large *)c->shared->slots;
	e->pool = c->shared->slots + 64 * c->depth;
	return e;
}

static void begin(void *end, const struct ipc_turn *turn)
{
}

IPC_INLINE void *reserve(void *end, size_t size)
{
	struct end *e = end;
	void *to;

	if (!e->small)
		return e->pool + (e->n & e->mask) * size;
	while (!(to = ck_ring_enqueue_reserve_spsc_small(&e->s->ring, (struct small *)e->s->slots)))
		ck_pr_stall();
	return to;
}

IPC_INLINE void commit(void *end, size_t size)
{
	struct end *e = end;

	if (e->small) {
		ck_ring_enqueue_commit_spsc(&e->s->ring);
		return;
	}
	while (!ck_ring_enqueue_spsc_large(&e->s->ring, e->numbers,
					   &(struct large){ e->n & e->mask }))
		ck_pr_stall();
	e->n++;
}

IPC_INLINE const void *take(void *end, size_t size)
{
	struct end *e = end;
	struct large at;

	if (e->small) {
		while (!ck_ring_dequeue_spsc_small(&e->s->ring, (struct small *)e->s->slots,
						   &e->got))
			ck_pr_stall();
		return &e->got;
	}
	while (!ck_ring_dequeue_spsc_large(&e->s->ring, e->numbers, &at))
		ck_pr_stall();
	return e->pool + at.number * size;
}

IPC_INLINE void done(void *end)
{
}

IPC_LOOPS(ck, reserve, commit, take, done)

static void forget(void *channel)
{
}

const struct ipc_peer ipc_ck = {
	.name = "ck_ring",
	.waits = IPC_BIT(IPC_SPINNING),
	.works = IPC_ANY_WORK | IPC_BIT(IPC_HAND_OVER),
	.prepare = prepare,
	.open = open_end,
	.begin = begin,
	IPC_LOOPS_OF(ck),
	.forget = forget,
};
