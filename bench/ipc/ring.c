// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ring.c - kshared's ring, one-to-one, all defaults, written and read in place.
 *
 * One way the reader takes what is there, up to 32 at once, and gives it back at once: with long messages one at a time, since it would keep
 * the writer from the room.
 */
#include <kshared/ring.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ipc/loops.h"

#define BATCH 32
#define DATA_BYTES (8ULL << 20) /* what all defaults will do for */

struct end {
	struct kring *ring;
	unsigned int batch;
	unsigned int have;
	unsigned int used;
	struct kring_msg msgs[BATCH];
};

static void *prepare(size_t size, unsigned int depth, unsigned int number)
{
	struct kring_conf conf = { 0 };
	int *fd = ipc_alloc(sizeof(*fd));

	/* A whole slot in one line, as the manual says for such messages. */
	if (size <= 56)
		conf.slot_bytes = 64;
	/* Half of the space is the longest message, so that one in two may be lost to the end of it. */
	if (depth * size > DATA_BYTES)
		conf.data_bytes = 2ULL * depth * size;

	*fd = bench_fd(memfd_create("ring", MFD_CLOEXEC | MFD_ALLOW_SEALING), "memfd_create");
	bench_zero(kring_format(*fd, -1, &conf), "kring_format");
	return fd;
}

static void *open_end(void *channel, bool writer)
{
	struct end *e = ipc_alloc(sizeof(*e));

	e->ring = kring_attach(*(int *)channel, -1, writer ? KRING_WRITER : KRING_READER);
	if (!e->ring)
		bench_die("kring_attach");
	return e;
}

static void begin(void *end, const struct ipc_turn *turn)
{
	static const unsigned int hows[] = {
		[IPC_BLOCKING] = KRING_PARK, [IPC_SPINNING] = KRING_SPIN, [IPC_ADAPTIVE] = KRING_ADAPTIVE
	};
	struct end *e = end;

	e->batch = turn->work == IPC_ROUND_TRIP || (turn->work == IPC_ONE_WAY && turn->size > 4096)
		? 1
		: BATCH;
	bench_zero(kring_set_wait(e->ring, hows[turn->wait]), "kring_set_wait");
}

IPC_INLINE void *reserve(void *end, size_t size)
{
	void *to = kring_reserve(((struct end *)end)->ring, size, -1);

	if (!to)
		bench_die("kring_reserve");
	return to;
}

IPC_INLINE void commit(void *end, size_t size)
{
	if (kring_commit(((struct end *)end)->ring, size, 0) < 0)
		bench_die("kring_commit");
}

IPC_INLINE const void *take(void *end, size_t size)
{
	struct end *e = end;
	int got;

	if (e->used == e->have) {
		got = kring_peek(e->ring, e->msgs, e->batch, -1);
		if (got < 0)
			bench_die("kring_peek");
		e->have = (unsigned int)got;
		e->used = 0;
	}
	if (e->msgs[e->used].len_bytes != size)
		bench_die("a message is of another length");
	return e->msgs[e->used].data;
}

IPC_INLINE void done(void *end)
{
	struct end *e = end;

	if (++e->used == e->have && kring_release(e->ring, e->have) < 0)
		bench_die("kring_release");
}

IPC_LOOPS(ring, reserve, commit, take, done)

static void forget(void *channel)
{
	close(*(int *)channel);
}

const struct ipc_peer ipc_ring = {
	.name = "kshared ring",
	.waits = IPC_BIT(IPC_BLOCKING) | IPC_BIT(IPC_SPINNING) | IPC_BIT(IPC_ADAPTIVE),
	.works = IPC_ANY_WORK | IPC_BIT(IPC_HAND_OVER),
	.small = true,
	.prepare = prepare,
	.open = open_end,
	.begin = begin,
	IPC_LOOPS_OF(ring),
	.forget = forget,
};
