// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * eventfd.c - a ring as one writes it by hand: two indexes on lines of their own, slots as long as the messages, and an eventfd each way for
 * who has to wait.
 *
 * Each side keeps a copy of the other one's index and looks again only when that is used up; the eventfd is written to only if
 * somebody has said that he is about to wait, so that a stream costs no system calls. Nothing here survives the death of a side, or a lie of it.
 */
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "ipc/loops.h"

struct shared {
	_Alignas(64) uint64_t tail; /* messages sent */
	_Alignas(64) uint64_t head; /* messages done with */
	_Alignas(64) uint32_t reader_waits;
	_Alignas(64) uint32_t writer_waits;
	_Alignas(64) unsigned char slots[];
};

struct channel {
	struct shared *shared;
	int data;
	int room;
	unsigned int depth;
};

struct end {
	struct shared *s;
	uint64_t mask;
	uint64_t mine;
	uint64_t other;
	int data;
	int room;
	bool spin;
};

static void *prepare(size_t size, unsigned int depth, unsigned int number)
{
	struct channel *c = ipc_alloc(sizeof(*c));

	c->depth = depth;
	c->shared = ipc_map(sizeof(struct shared) + size * depth);
	c->data = bench_fd(eventfd(0, EFD_CLOEXEC), "eventfd");
	c->room = bench_fd(eventfd(0, EFD_CLOEXEC), "eventfd");
	return c;
}

static void *open_end(void *channel, bool writer)
{
	struct channel *c = channel;
	struct end *e = ipc_alloc(sizeof(*e));

	*e = (struct end){ .s = c->shared, .mask = c->depth - 1, .data = c->data, .room = c->room };
	return e;
}

static void begin(void *end, const struct ipc_turn *turn)
{
	((struct end *)end)->spin = turn->wait == IPC_SPINNING;
}

/* Wait until *@index is not @seen. */
static uint64_t await(const struct end *e, uint64_t *index, uint64_t seen, uint32_t *waits, int fd)
{
	uint64_t now, count;

	for (;;) {
		now = ipc_load(index);
		if (now != seen)
			return now;
		if (e->spin) {
			ipc_relax();
			continue;
		}
		__atomic_store_n(waits, 1, __ATOMIC_SEQ_CST);
		now = __atomic_load_n(index, __ATOMIC_SEQ_CST);
		if (now != seen) {
			ipc_store(waits, 0);
			return now;
		}
		if (read(fd, &count, sizeof(count)) != sizeof(count))
			bench_die("eventfd");
	}
}

IPC_INLINE void wake(const struct end *e, uint32_t *waits, int fd)
{
	const uint64_t one = 1;

	/* Who spins is not waited for: no barrier either. */
	if (e->spin)
		return;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(waits, __ATOMIC_RELAXED) &&
	    __atomic_exchange_n(waits, 0, __ATOMIC_SEQ_CST) &&
	    write(fd, &one, sizeof(one)) != sizeof(one))
		bench_die("eventfd");
}

IPC_INLINE void *reserve(void *end, size_t size)
{
	struct end *e = end;

	if (__builtin_expect(e->mine - e->other > e->mask, 0))
		e->other = await(e, &e->s->head, e->other, &e->s->writer_waits, e->room);
	return e->s->slots + (e->mine & e->mask) * size;
}

IPC_INLINE void commit(void *end, size_t size)
{
	struct end *e = end;

	ipc_store(&e->s->tail, ++e->mine);
	wake(e, &e->s->reader_waits, e->data);
}

IPC_INLINE const void *take(void *end, size_t size)
{
	struct end *e = end;

	if (e->other == e->mine)
		e->other = await(e, &e->s->tail, e->mine, &e->s->reader_waits, e->data);
	return e->s->slots + (e->mine & e->mask) * size;
}

IPC_INLINE void done(void *end)
{
	struct end *e = end;

	ipc_store(&e->s->head, ++e->mine);
	wake(e, &e->s->writer_waits, e->room);
}

IPC_LOOPS(eventfd, reserve, commit, take, done)

static void forget(void *channel)
{
	struct channel *c = channel;

	close(c->data);
	close(c->room);
}

const struct ipc_peer ipc_eventfd = {
	.name = "eventfd + shared memory",
	.waits = IPC_BIT(IPC_BLOCKING) | IPC_BIT(IPC_SPINNING),
	.works = IPC_ANY_WORK | IPC_BIT(IPC_HAND_OVER),
	.prepare = prepare,
	.open = open_end,
	.begin = begin,
	IPC_LOOPS_OF(eventfd),
	.forget = forget,
};
