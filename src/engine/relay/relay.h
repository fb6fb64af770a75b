/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * relay.h - reading, writing and polling somebody else's descriptors, without ever waiting, exactly once.
 *
 * Theory of operation. Every call goes through one io_uring and is carried out by a kernel worker, never in the event loop: a
 * terminal, a disk, even a pipe of which another process holds the mutex while it faults on a page that does not come, may
 * keep it for ever. Therefore one owner's descriptors may occupy only a part of the slots. A file of a network file system
 * or of another FUSE server must not come here.
 *
 * A process may be killed between the system call that took bytes out of a stream and the reply that
 * delivers them; then the bytes are lost, or, when the request is made again, moved twice. So a transfer runs in a slot of memory
 * that outlives the process, and so do the ring's completion queue and the ring itself, which the keeper holds open:
 *
 *	take slot: progress = a new step, 0 bytes; unique = U; submitted = the step, the place in the queue	(1)
 *	the kernel moves bytes and posts the completion (slot, step)	(2) one system call: no kill in between
 *	progress = the next step, n bytes				(3) one store
 *	completion consumed						(4)
 *	the caller is answered						(5)
 *	unique = 0							(6)
 *
 * Killed before 2: nothing was moved, the request comes again. Between 2 and 3: relay_recover() finds the completion in the ring
 * and does 3. Between 3 and 4: the completion's step is not the slot's: ignored. After 3 and before 6: relay_recover() answers U;
 * if 5 had happened, nobody waits for U any more and the answer is refused. The order of the stores
 * needs no barrier beyond the compiler's: the reader is a later process, and the first one's death orders them.
 *
 * A process whose kernel workers hang cannot end, and its successor does not wait for it. The slot of such a transfer is known
 * by this: its place in the submission queue was consumed, and no completion bears its step. It stays as it is; the
 * request, when it is sent again, waits for that very transfer.
 *
 * Waiting for readiness holds no slot, so any number of callers may wait.
 *
 * One thread; callbacks run from relay_dispatch() or from inside relay_start().
 */
#ifndef KSHARED_ENGINE_RELAY_H
#define KSHARED_ENGINE_RELAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct relay;
struct shm_slot;
struct io_uring_params;

/**
 * relay_ring_new() - make the ring that relays of successive processes use one after the other.
 * It can do nothing but what a relay needs (IORING_REGISTER_RESTRICTIONS).
 * @params: filled; to be kept with the descriptor
 * Return: its descriptor, owned by the caller; -errno: io_uring cannot be had here.
 */
int relay_ring_new(struct io_uring_params *params);

/**
 * relay_new() - use a ring.
 * @ring_fd: from relay_ring_new(), borrowed; -1: do without (then a killed worker's transfers are not exactly once)
 * @slots, @nr_slots: in memory that is shared as the ring is
 * Return: 0; -errno.
 */
int relay_new(struct relay **ret, int ring_fd, const struct io_uring_params *params,
	      struct shm_slot *slots, unsigned int nr_slots);

/** relay_fd() - readable when relay_dispatch() has something to do. Return: borrowed. */
int relay_fd(const struct relay *r);

/** relay_free() - stop; operations under way are not called back. */
void relay_free(struct relay *r);

/** relay_dispatch() - handle what has completed; call when relay_fd() is readable. */
void relay_dispatch(struct relay *r);

/**
 * relay_recover() - finish what an earlier process left; once, before anything is started.
 * @answer: called for each transfer that did move bytes: @data and @bytes read, or for a write @bytes taken; later, too, for
 *	those that the kernel still works on. It returns whether somebody was waiting; if not, the bytes stay for who asks again.
 */
void relay_recover(struct relay *r,
		   bool (*answer)(void *ctx, uint64_t unique, bool write, const void *data,
				  uint32_t bytes),
		   void *ctx);

/**
 * struct relay_wait - wait for a descriptor to become ready; embedded in what waits.
 * @ready: called with poll(2) bits: once from relay_wait(); from relay_watch() as long as @index is not 0
 */
struct relay_wait {
	void (*ready)(struct relay_wait *w, unsigned int revents);
	uint32_t index; /* in the relay's table; 0: not waiting */
};

/**
 * relay_wait() - wait once. Polling the descriptor must not block.
 * Return: 0; -ENOMEM; -EAGAIN the ring is full.
 */
int relay_wait(struct relay *r, struct relay_wait *w, int fd, unsigned int events);

/**
 * relay_watch() - be told of the present state, during the call, and then of each change to ready (as EPOLLET).
 * Return: as relay_wait().
 */
int relay_watch(struct relay *r, struct relay_wait *w, int fd, unsigned int events);

/** relay_wait_cancel() - wait no longer; @w is free at once. */
void relay_wait_cancel(struct relay *r, struct relay_wait *w);

/**
 * struct relay_io - one transfer; owned by the caller until @done.
 * @unique: names it in the slot; with RELAY_AGAIN if it was sent before, to an earlier process
 * @owner: whose descriptor it is, for his share of the slots; 0: no limit
 * @fd: stays open until @done
 * @offset: -1: a stream
 * @nonblock: -EAGAIN rather than wait
 * @nowait: a socket or a pipe: RWF_NOWAIT is known to work
 * @regular: a file: always ready; handed to a kernel worker at once
 * @data: bytes to write; copied if they are needed longer than relay_start()
 * @len: bytes; at most SHM_SLOT_BYTES
 * @done: result: bytes moved, 0 end of file, -errno; data: what was read; valid during the call
 */
struct relay_io {
	uint64_t unique;
	uint32_t owner;
	int fd;
	int64_t offset;
	const void *data;
	size_t len;
	bool write;
	bool nonblock;
	bool nowait;
	bool regular;
	void (*done)(struct relay_io *io, int result, const void *data);

	/* the relay's own */
	struct relay *relay;
	struct relay_wait wait;
	void *copy;
	int slot;
	bool plain;
	bool woken;
	bool cancelled;
	unsigned char cancels;
	bool queued;
	struct relay_io *prev, *next;
};

/** relay_all_came() - no request of an earlier process's transfers comes any more: what waits for one is given up. */
void relay_all_came(struct relay *r);

#define RELAY_AGAIN (1ULL << 63)

/** relay_start() - begin a transfer; @io->done is called exactly once, perhaps before this returns. */
void relay_start(struct relay *r, struct relay_io *io);

/** relay_cancel() - finish soon, with -EINTR unless bytes have moved; may call @io->done before it returns. */
void relay_cancel(struct relay_io *io);

#endif
