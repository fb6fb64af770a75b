// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * floor.c - what cannot be beaten: a cache line that two processors write in turns, and memcpy.
 *
 * The line has a number and no payload; nothing faster goes there and back. Looking again without a pause is slower: it takes the line from
 * who is about to write. memcpy is one process's: from one place to another, as many of each as
 * a ring would have.
 */
#include <string.h>

#include "ipc/loops.h"

struct channel {
	uint64_t *line; /* the same for both directions */
	unsigned int depth;
};

static void *prepare_line(size_t size, unsigned int depth, unsigned int number)
{
	static uint64_t *line;
	struct channel *c = ipc_alloc(sizeof(*c));

	if (number == 0)
		line = ipc_map(64);
	c->line = line;
	return c;
}

static void *open_end(void *channel, bool writer)
{
	return channel;
}

static void begin_line(void *end, const struct ipc_turn *turn)
{
	/* Both ends do this before either begins. */
	ipc_store(((struct channel *)end)->line, 0);
}

static void forget(void *channel)
{
}

/* A number that the other side has not written: it writes odd ones, we even ones. */
static void ask_line(const struct ipc_turn *turn, void *out, void *in, struct ipc_result *ret)
{
	uint64_t *line = ((struct channel *)out)->line, n = 0;
	int64_t until = bench_now_ns() + turn->warm_ns, start = 0;
	uint32_t *samples = ipc_samples();
	uint64_t before, now, first = 0;
	size_t nr = 0;
	bool begun = false;

	for (;;) {
		if (n % 16 == 0 && bench_now_ns() >= until) {
			if (begun)
				break;
			start = bench_now_ns();
			until = start + turn->run_ns;
			begun = true;
			first = ipc_ticks();
		}
		before = ipc_ticks();
		ipc_store(line, n + 1);
		while (ipc_load(line) != n + 2)
			ipc_relax();
		now = ipc_ticks();
		n += 2;
		if (begun && nr < IPC_SAMPLES)
			samples[nr++] = ipc_clamp((double)(now - before));
	}
	now = ipc_ticks();
	start = bench_now_ns() - start;
	ipc_store(line, UINT64_MAX);
	ipc_measure(ret, samples, nr, (double)(now - first) / (double)start);
	ret->count = (double)nr;
	ret->ns = (double)start / ret->count;
}

static void answer_line(const struct ipc_turn *turn, void *out, void *in, struct ipc_result *ret)
{
	uint64_t *line = ((struct channel *)out)->line, now;

	for (uint64_t n = 0;; n += 2) {
		while ((now = ipc_load(line)) != n + 1) {
			if (now == UINT64_MAX)
				return;
			ipc_relax();
		}
		ipc_store(line, n + 2);
	}
}

const struct ipc_peer ipc_floor_line = {
	.name = "floor: a cache line to and fro",
	.waits = IPC_BIT(IPC_SPINNING),
	.works = IPC_BIT(IPC_ROUND_TRIP),
	.max = 64,
	.small = true,
	.prepare = prepare_line,
	.open = open_end,
	.begin = begin_line,
	.ask = ask_line,
	.answer = answer_line,
	.forget = forget,
};

/* ---- memcpy ---- */

static void *prepare_memcpy(size_t size, unsigned int depth, unsigned int number)
{
	struct channel *c = ipc_alloc(sizeof(*c));

	c->depth = depth;
	c->line = ipc_map(2 * size * depth);
	memset(c->line, 1, 2 * size * depth);
	return c;
}

static void begin_memcpy(void *end, const struct ipc_turn *turn)
{
}

/* Nobody receives. */
static void send_memcpy(const struct ipc_turn *turn, void *out, struct ipc_result *ret)
{
	unsigned char *to = (unsigned char *)((struct channel *)out)->line;
	unsigned int depth = ((struct channel *)out)->depth, at = 0;
	int64_t until = bench_now_ns() + turn->warm_ns + turn->run_ns, last = bench_now_ns(), now;
	uint32_t *windows = ipc_samples();
	size_t size = turn->size, nr = 0;
	uint64_t count = 0;

	for (;; count++) {
		if (count % 64 == 0 && count) {
			now = bench_now_ns();
			windows[nr++] = ipc_clamp((double)(now - last) * IPC_PER_NS / 64);
			if (now >= until || nr == IPC_SAMPLES)
				break;
			last = bench_now_ns();
		}
		memcpy(to + at * size, to + (depth + at) * size, size);
		__asm__ volatile("" ::: "memory");
		at = at + 1 == depth ? 0 : at + 1;
	}
	ipc_measure(ret, windows, nr, IPC_PER_NS);
	ret->count = (double)count;
	ret->ns = ret->p50_ns;
}

const struct ipc_peer ipc_floor_memcpy = {
	.name = "floor: memcpy",
	.waits = IPC_BIT(IPC_SPINNING),
	.works = IPC_BIT(IPC_ONE_WAY),
	.prepare = prepare_memcpy,
	.open = open_end,
	.begin = begin_memcpy,
	.send = send_memcpy,
	.forget = forget,
};
