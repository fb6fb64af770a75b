/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * loops.h - the work, the same for every peer.
 *
 * IPC_LOOPS() makes the four loops out of a peer's reserve, commit, take and done. They are compiled into each of them, so that calling these costs
 * nothing.
 *
 * The one who sends looks at the clock, and says in struct ipc_shared with which message counting begins and which one is the last, before it sends
 * that one: so the other end sees it when it has received it, and its own look costs a word in its cache.
 */
#ifndef IPC_LOOPS_H
#define IPC_LOOPS_H

#include <errno.h>

#include "bench.h"
#include "ipc/ipc.h"

#define IPC_INLINE static inline __attribute__((always_inline))

#define ipc_load(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define ipc_store(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)

/** ipc_relax() - between two looks at memory that the other process is to change. */
IPC_INLINE void ipc_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/** ipc_ticks() - the cheapest clock there is. */
IPC_INLINE uint64_t ipc_ticks(void)
{
#if defined(__x86_64__)
	return __builtin_ia32_rdtsc();
#else
	return (uint64_t)bench_now_ns();
#endif
}

/** ipc_clamp() - a sample. */
IPC_INLINE uint32_t ipc_clamp(double value)
{
	return value < (double)UINT32_MAX ? (uint32_t)value : UINT32_MAX;
}

/** ipc_seed() - of message @n: what every word of its payload is. */
IPC_INLINE uint64_t ipc_seed(uint64_t n)
{
	return (n + 1) * 0x9e3779b97f4a7c15ULL;
}

/* Up to a cache line at once and in line; the compiler makes one sequence for each size out of it. */
IPC_INLINE void ipc_write(void *to, size_t size, uint64_t seed)
{
	uint64_t *word = (uint64_t *)to;

	if (size == 64)
		for (unsigned int i = 0; i < 8; i++)
			word[i] = seed;
	else if (size < 64)
		for (unsigned int i = 0; i < size / 8; i++)
			word[i] = seed;
	else
		ipc_fill(to, size, seed);
}

IPC_INLINE void ipc_check(const void *from, size_t size, uint64_t seed)
{
	const uint64_t *word = (const uint64_t *)from;
	uint64_t wrong = 0;

	if (size == 64)
		for (unsigned int i = 0; i < 8; i++)
			wrong |= word[i] ^ seed;
	else if (size < 64)
		for (unsigned int i = 0; i < size / 8; i++)
			wrong |= word[i] ^ seed;
	else
		wrong = !ipc_same(from, size, seed);
	if (__builtin_expect(wrong != 0, 0)) {
		errno = 0;
		bench_die("a message is not what was sent");
	}
}

IPC_INLINE void ipc_send_loop(const struct ipc_turn *turn, void *out,
			      void *(*reserve)(void *, size_t), void (*commit)(void *, size_t))
{
	const bool touch = turn->work != IPC_HAND_OVER;
	const size_t size = turn->size;
	const uint64_t mask = touch && size > 16384 ? 0 : turn->wait == IPC_BLOCKING ? 15 : 63;
	int64_t until = bench_now_ns() + turn->warm_ns;
	bool begun = false, last = false;

	for (uint64_t n = 0; !last; n++) {
		void *to;

		if ((n & mask) == 0 && bench_now_ns() >= until) {
			last = begun;
			ipc_store(begun ? &turn->shared->end : &turn->shared->begin, n);
			begun = true;
			until = bench_now_ns() + turn->run_ns;
		}
		to = reserve(out, size);
		if (touch)
			ipc_write(to, size, ipc_seed(n));
		commit(out, size);
	}
}

/*
 * A stream is timed in windows, so that a moment in which the machine did something else is one of many. A window is longer than it takes to
 * drain what had piled up before it.
 */
#define IPC_WINDOW_NS 250000
#define IPC_PER_NS 64 /* so finely are the times of single messages kept */

IPC_INLINE void ipc_receive_loop(const struct ipc_turn *turn, void *in,
				 const void *(*take)(void *, size_t), void (*done)(void *),
				 struct ipc_result *ret)
{
	const bool touch = turn->work != IPC_HAND_OVER;
	const size_t size = turn->size;
	const uint64_t mask = touch && size > 16384 ? 3 : 63;
	uint32_t *windows = ipc_samples();
	int64_t start = 0, last = 0, now;
	uint64_t n, counted = 0;
	size_t nr = 0;

	for (n = 0;; n++) {
		const void *from = take(in, size);

		if (touch)
			ipc_check(from, size, ipc_seed(n));
		done(in);
		if ((n & mask) == 0 && start) {
			now = bench_now_ns();
			if (now - last > IPC_WINDOW_NS && nr < IPC_SAMPLES) {
				windows[nr++] = ipc_clamp((double)(now - last) * IPC_PER_NS /
							  (double)(n - counted));
				last = now;
				counted = n;
			}
		}
		if (__builtin_expect(n == ipc_load(&turn->shared->begin), 0)) {
			start = last = bench_now_ns();
			counted = n;
		}
		if (__builtin_expect(n == ipc_load(&turn->shared->end), 0))
			break;
	}
	ipc_measure(ret, windows, nr, IPC_PER_NS);
	ret->count = (double)(n - turn->shared->begin);
	ret->ns = (double)(bench_now_ns() - start) / ret->count;
}

IPC_INLINE void ipc_ask_loop(const struct ipc_turn *turn, void *out, void *in,
			     void *(*reserve)(void *, size_t), void (*commit)(void *, size_t),
			     const void *(*take)(void *, size_t), void (*done)(void *),
			     struct ipc_result *ret)
{
	const size_t size = turn->size;
	uint32_t *samples = ipc_samples();
	int64_t until = bench_now_ns() + turn->warm_ns, start = 0;
	uint64_t last = 0, now, first = 0;
	size_t nr = 0;
	bool begun = false, end = false;

	for (uint64_t n = 0; !end; n++) {
		/* Looking at the clock costs a tenth of the fastest round trip. */
		if (n % 8 == 0 && bench_now_ns() >= until) {
			if (begun) {
				ipc_store(&turn->shared->end, n);
				end = true;
			} else {
				start = bench_now_ns();
				until = start + turn->run_ns;
				begun = true;
				first = ipc_ticks();
			}
		}
		last = ipc_ticks();
		ipc_write(reserve(out, size), size, ipc_seed(n));
		commit(out, size);
		ipc_check(take(in, size), size, ~ipc_seed(n));
		done(in);
		now = ipc_ticks();
		if (begun && nr < IPC_SAMPLES)
			samples[nr++] = ipc_clamp((double)(now - last));
	}
	now = ipc_ticks();
	start = bench_now_ns() - start;
	ipc_measure(ret, samples, nr, (double)(now - first) / (double)start);
	ret->count = (double)nr;
	ret->ns = (double)start / ret->count;
}

IPC_INLINE void ipc_answer_loop(const struct ipc_turn *turn, void *out, void *in,
				void *(*reserve)(void *, size_t), void (*commit)(void *, size_t),
				const void *(*take)(void *, size_t), void (*done)(void *))
{
	const size_t size = turn->size;

	for (uint64_t n = 0;; n++) {
		bool end;

		ipc_check(take(in, size), size, ipc_seed(n));
		done(in);
		end = n == ipc_load(&turn->shared->end);
		ipc_write(reserve(out, size), size, ~ipc_seed(n));
		commit(out, size);
		if (end)
			return;
	}
}

/* A peer's loops by the name of IPC_LOOPS_OF(). */
#define IPC_LOOPS(id, reserve, commit, take, done)                                                 \
	static void id##_send_loop(const struct ipc_turn *turn, void *out, struct ipc_result *ret) \
	{                                                                                          \
		ipc_send_loop(turn, out, reserve, commit);                                         \
	}                                                                                          \
	static void id##_receive_loop(const struct ipc_turn *turn, void *in,                       \
				      struct ipc_result *ret)                                      \
	{                                                                                          \
		ipc_receive_loop(turn, in, take, done, ret);                                       \
	}                                                                                          \
	static void id##_ask_loop(const struct ipc_turn *turn, void *out, void *in,                \
				  struct ipc_result *ret)                                          \
	{                                                                                          \
		ipc_ask_loop(turn, out, in, reserve, commit, take, done, ret);                     \
	}                                                                                          \
	static void id##_answer_loop(const struct ipc_turn *turn, void *out, void *in,             \
				     struct ipc_result *ret)                                       \
	{                                                                                          \
		ipc_answer_loop(turn, out, in, reserve, commit, take, done);                       \
	}

#define IPC_LOOPS_OF(id)                                                            \
	.send = id##_send_loop, .receive = id##_receive_loop, .ask = id##_ask_loop, \
	.answer = id##_answer_loop

#endif
