/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ipc.h - inside bench/ipc: what a way of sending messages between two processes has to offer to be measured.
 *
 * A peer is one such way, a file of its own. It makes channels, each from one process to another one, and moves messages of one
 * size through them: reserve() gives a place to write, commit() sends what is there, take() waits for a message and gives the place
 * to read it, done() gives that back. A peer that copies has a buffer of its own for them. Work is the same for all, and is in
 * loops.h: every byte is written anew by the sender, and compared by the receiver, unless only handing over is asked for.
 *
 * A peer waits in the ways it has: blocked in its own call, or calling again and again one that does not block. Anything that
 * goes wrong ends the program.
 */
#ifndef IPC_H
#define IPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How a peer waits. */
enum ipc_wait {
	IPC_BLOCKING,
	IPC_SPINNING,
	IPC_ADAPTIVE, /* both, as the peer thinks best */
	IPC_NR_WAITS,
};

/* What is measured. */
enum ipc_work {
	IPC_ONE_WAY,
	IPC_ROUND_TRIP,
	IPC_HAND_OVER, /* one way, the payload not looked at */
	IPC_NR_WORKS,
};

/**
 * struct ipc_shared - what the two processes say to each other about a turn.
 * @begin: number of the first message that counts
 * @end: number of the last one; stored before that is sent
 */
struct ipc_shared {
	uint64_t begin __attribute__((aligned(64)));
	uint64_t end;
};

/**
 * struct ipc_turn - one lane's turn.
 * @warm_ns: not counted at first
 * @run_ns: and then counted
 */
struct ipc_turn {
	enum ipc_work work;
	enum ipc_wait wait;
	size_t size;
	int64_t warm_ns;
	int64_t run_ns;
	struct ipc_shared *shared;
};

/**
 * struct ipc_result - what an end measured, if it is the one that measures.
 * @count: messages or round trips
 * @ns: for one of them, on average
 * @p50_ns, @p99_ns: of single round trips; of the windows in which a stream was timed
 */
struct ipc_result {
	double count;
	double ns;
	double p50_ns;
	double p99_ns;
};

/**
 * struct ipc_peer - one way of sending messages.
 * @name: as people call it
 * @waits: bits, 1 << enum ipc_wait
 * @works: bits, 1 << enum ipc_work
 * @max: longest message; 0: all can be sent
 * @small: is measured with less than a cache line, too
 * @serve: NULL, or be the service that has to run beside, in a process of its own
 * @prepare: make a channel for messages of @size, of which @depth may wait if that has to be said; before there are two processes;
 *	@number is 0 or 1
 * @open: become the writer or the reader of what prepare() gave, in one's own process
 * @ready: NULL, or wait until the other end can be heard; called once both have opened everything
 * @begin: a turn begins: how this end waits from now on
 * @send, @receive, @ask, @answer: the loops; those of loops.h, compiled for this peer
 * @close: NULL, or give an end up in one's own process
 * @forget: undo prepare(); the two processes are gone
 */
struct ipc_peer {
	const char *name;
	unsigned int waits;
	unsigned int works;
	size_t max;
	bool small;
	void (*serve)(void *arg);
	void *(*prepare)(size_t size, unsigned int depth, unsigned int number);
	void *(*open)(void *channel, bool writer);
	void (*ready)(void *end);
	void (*begin)(void *end, const struct ipc_turn *turn);
	void (*send)(const struct ipc_turn *turn, void *out, struct ipc_result *ret);
	void (*receive)(const struct ipc_turn *turn, void *in, struct ipc_result *ret);
	void (*ask)(const struct ipc_turn *turn, void *out, void *in, struct ipc_result *ret);
	void (*answer)(const struct ipc_turn *turn, void *out, void *in, struct ipc_result *ret);
	void (*close)(void *end);
	void (*forget)(void *channel);
};

extern const struct ipc_peer ipc_ring, ipc_pipe, ipc_stream, ipc_seqpacket, ipc_mq, ipc_eventfd,
	ipc_boost, ipc_zmq, ipc_nng, ipc_iceoryx, ipc_ck, ipc_floor_line, ipc_floor_memcpy;

#define IPC_BIT(x) (1u << (x))
#define IPC_ANY_WORK (IPC_BIT(IPC_ONE_WAY) | IPC_BIT(IPC_ROUND_TRIP))

/** ipc_map() - memory that both processes will have; touched, unless it is very much. */
void *ipc_map(size_t size);

/** ipc_alloc() - memory of one's own, aligned to a cache line, zeroed. */
void *ipc_alloc(size_t size);

/** ipc_fill() - write every byte. */
void ipc_fill(void *to, size_t size, uint64_t seed);

/** ipc_same() - compare every byte with what ipc_fill() wrote. */
bool ipc_same(const void *from, size_t size, uint64_t seed);

/**
 * ipc_measure() - the percentiles of @nr samples, of which so many are a ns; all 0 if there are none.
 * In place of the median stands the mean of the middle half: the processor's clock may have steps of 10 ns.
 */
void ipc_measure(struct ipc_result *ret, uint32_t *samples, size_t nr, double per_ns);

/** ipc_samples() - room for IPC_SAMPLES times, touched before. */
uint32_t *ipc_samples(void);

#define IPC_SAMPLES (1u << 18)

#ifdef __cplusplus
}
#endif

#endif
