/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ring.h - inside libkshared: one end of a ring, and how it waits.
 *
 * wire/ring.h has the layout and the protocol. ring.c makes, maps and leaves rings; ring_place.c holds places and knows who is
 * alive; ring_send.c and ring_recv.c move messages; ring_wait.c sleeps and wakes; ring_fd.c gives a descriptor; ring_stat.c looks on.
 * A handle is used by one thread at a time: there are no locks.
 */
#ifndef KSHARED_LIB_RING_H
#define KSHARED_LIB_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <kshared/ring.h>

#include "lib/conn.h"
#include "wire/ring.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Shared memory is only ever touched by these, but for payloads. */
#define ring_load(p) __atomic_load_n(p, __ATOMIC_RELAXED)
#define ring_load_acquire(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define ring_store(p, v) __atomic_store_n(p, v, __ATOMIC_RELAXED)
#define ring_store_release(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)

/**
 * struct ring_map - the memory, shared by the ends of one process that were made from each other (in tests) or by one end.
 * @data, @ctl: mappings; ctl points into data if there is one object
 */
struct ring_map {
	unsigned int refs;
	struct ring_head head; /* the copy that is believed */
	struct ring_layout layout;
	unsigned char *data;
	unsigned char *ctl;
};

/**
 * struct ring_flow - one lane, as an end sees it.
 * @slots, @data: where
 * @n: the next message, to be written or read
 * @cursor: the reader's mark: of this lane, or of this reader
 * @room: where the writer sleeps
 * @seen: the peer's life when it was last looked at
 * @told: the epoch of the peer whose end has been told; 0: none
 */
struct ring_flow {
	unsigned char *slots;
	unsigned char *data;
	uint64_t n;
	struct ring_lane *lane;
	struct ring_cursor *cursor;
	struct ring_bed *room;
	uint64_t seen;
	uint64_t told;
};

/**
 * struct kring - one end.
 * @end: KRING_WRITER, KRING_READER or KRING_OBSERVER; another process's after fork: 0
 * @error: the ring is damaged: what every call fails with; 0: it is not
 * @flow: one; many-to-one's reader has one for each lane
 * @current: the lane that was peeked at
 * @peeked: messages lent
 * @limit: a writer may write messages below
 * @dpos: where the next payload may begin in the data area; absolute, only grows
 * @dlimit: and where it must end
 * @starts: dpos before message n, for the last @slots messages
 * @reserved*: what kring_reserve() gave
 * @doorbell: messages were committed and nobody was woken
 * @plain: a reader of one lane that nobody overtakes
 * @wake_ns: what a wake takes, from the other side's store to our running on
 * @vain: how many looks in a row were in vain
 * @asleep: how many waits are to sleep at once, before the next one that looks
 * @must_fence: we cannot be reached by membarrier
 * @fenced: we have asked the other side to make barriers itself
 * @many: the last call was for more than one message
 */
struct kring {
	unsigned int end;
	unsigned int how;
	int error;
	bool broadcast;
	bool blocking;
	bool must_fence;
	bool doorbell;
	bool plain;
	bool fenced;
	bool many;
	unsigned int slot_bytes;
	uint64_t mask;
	size_t inline_max;
	uint64_t data_bytes;
	struct ring_ctl *ctl;

	uint64_t limit;
	uint64_t low;
	uint64_t dpos;
	uint64_t dlimit;
	uint64_t *starts;
	unsigned char *reserved;
	uint64_t reserved_max;
	uint64_t reserved_at;
	uint64_t copy_cost
		[2]; /* of long payloads through the cache and past it, in ns for so many bytes */
	uint32_t copies;
	uint64_t *held; /* a batch's first slot */
	uint64_t held_word;

	unsigned int current;
	unsigned int peeked;
	unsigned int nr_flows;
	uint64_t lost;
	uint64_t promised; /* broadcast: messages below that were not lost to us if they went by */
	bool lost_untold;

	uint64_t want; /* bytes of data area that are waited for; 0: a slot alone */
	uint32_t wake_ns;
	uint16_t vain;
	uint16_t asleep;
	int64_t looked_ns; /* when the locks were last looked at */
	unsigned int used; /* many-to-one: lanes below have been taken at some time */
	unsigned int dead; /* the flow whose peer was found dead */
	int place;
	int lock_fd; /* the place's lock */
	int peer_fd; /* where the other side's locks are looked at */
	pid_t pid;
	uint64_t life; /* what we have written into our place's */
	struct ring_map *map;
	struct ring_watch *watch;
	struct ring_flow flow[];
};

/* ring.c */
int ring_conf_head(struct ring_head *ret, const struct kring_conf *conf);
int ring_map_fds(struct ring_map **ret, int fd, int ctl_fd, unsigned int end);
void ring_map_put(struct ring_map *m);
int ring_new(struct kring **ret, struct ring_map *m, int fd, int ctl_fd, unsigned int end);

/* ring_place.c */
int ring_claim(struct kring *r);
void ring_leave(struct kring *r);
bool ring_is_held(int fd, uint64_t byte);
int ring_writers_gone(struct kring *r, bool look);
int ring_reader_gone(struct kring *r, bool look);
bool ring_look_due(struct kring *r, int64_t now);
void ring_told(struct kring *r, int end);

/* ring_send.c */
int ring_recover(struct kring *r);

/* ring_recv.c */
int ring_resume(struct kring *r, bool history);
int ring_anything(struct kring *r);

/* ring_wait.c */
bool ring_register(void);
void ring_barrier(struct kring *r);
void ring_wake(struct ring_bed *bed);
int ring_sleep(struct kring *r, struct ring_bed *bed, int64_t until_ns);
void ring_awake(struct kring *r);
void ring_doze(struct kring *r);
void ring_set_fence(struct kring *r);

/* ring_fd.c */
int ring_arm(struct kring *r);
void ring_watch_free(struct ring_watch *w, bool own);

/** ring_cursor() - mark @i: of a reader, or of a lane's one reader. */
static inline struct ring_cursor *ring_cursor(struct ring_map *m, unsigned int i)
{
	return (struct ring_cursor *)(m->ctl + m->layout.cursors_off) + i;
}

/** ring_lane() - of writer @i. */
static inline struct ring_lane *ring_lane(struct ring_map *m, unsigned int i)
{
	return (struct ring_lane *)(m->data + m->layout.lanes_off) + i;
}

/** ring_room() - where writer @i sleeps. */
static inline struct ring_bed *ring_room(struct ring_map *m, unsigned int i)
{
	return (struct ring_bed *)(m->ctl + m->layout.rooms_off) + i;
}

/** ring_slot() - where message @n is. */
static inline uint64_t *ring_slot(const struct kring *r, const struct ring_flow *f, uint64_t n)
{
	return (uint64_t *)(f->slots + (n & r->mask) * r->slot_bytes);
}

/** ring_word() - message @n's word 0, with code 0. */
static inline uint64_t ring_word(uint64_t n)
{
	return (n + 1) << RING_CODE_BITS;
}

/** ring_now() - by CLOCK_MONOTONIC, in ns. */
static inline int64_t ring_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/** ring_relax() - between two looks at a word that another processor is to change. */
static inline void ring_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#else
	atomic_signal_fence(memory_order_seq_cst);
#endif
}

#define RING_SMALL 128u

/** ring_copy() - memcpy() that is quicker for what is short and was just written in words. */
static inline void ring_copy(void *to, const void *from, size_t len)
{
	unsigned char *out = to;
	const unsigned char *in = from;

	if (len > RING_SMALL) {
		memcpy(to, from, len);
		return;
	}
	for (; len >= 8; len -= 8, in += 8, out += 8)
		__builtin_memcpy(out, in, 8);
	for (; len; len--)
		*out++ = *in++;
}

/**
 * ring_ring() - something was stored for which the other side may sleep: wake it if it does. Argument (4) of wire/ring.h.
 * @bed: where it would
 */
static inline void ring_ring(const struct kring *r, struct ring_bed *bed)
{
	if (unlikely(r->must_fence || ring_load(&bed->fence)))
		atomic_thread_fence(memory_order_seq_cst);
	else
		atomic_signal_fence(memory_order_seq_cst);
	if (unlikely(ring_load(&bed->wait)))
		ring_wake(bed);
}

/*
 * How long looking is worth while (KRING_ADAPTIVE). To sleep makes a wait longer by a wake: by an eighth at most if the wait takes eight
 * wakes anyway. So a wait looks for that long before it sleeps. It is long enough, too, to see the answer of one who must be woken
 * himself; who looked for less would never see that, and once both sleep they would sleep for ever.
 * What a wake takes is a few us to 50, so it is measured: who wakes notes the time.
 *
 * Looking costs what it takes when nothing comes, or when who is waited for needs our processor. So after the 1st, 2nd, 3rd... look in
 * vain the next 0, 1, 3, 7... 63 waits sleep at once: then what is spent is an eighth of a wake for each wait. One look
 * that helps, of either side, makes that side look always, so that the other side's next look helps, too.
 */
#define RING_WAKES 8
#define RING_WAKE_NS 8000u /* not measured yet */
#define RING_WAKE_MAX_NS 50000u
#define RING_VAIN_MAX 6u
#define RING_LOOKS 64u /* between two looks at the clock */

/** ring_looks() - is this wait to look before it sleeps? */
static inline bool ring_looks(const struct kring *r)
{
	return r->how != KRING_PARK && !r->asleep;
}

/**
 * ring_wait() - wait until something is so. Made for each caller anew, so that the looking is a tight loop.
 * @ready: looks: > 0 it is so, 0 not yet, < 0 -errno
 * @gone: has the other side's end to be told? 0 or -errno; its second argument: look at the locks, too. What was sent before the end comes
 *        first, so @ready is asked again; ring_told() notes what was said
 * @bed: where to sleep
 *
 * Return: what @ready said, or @gone; -EAGAIN, -ETIMEDOUT.
 */
static inline __attribute__((always_inline)) int ring_wait(struct kring *r,
							   int (*ready)(struct kring *),
							   int (*gone)(struct kring *, bool),
							   struct ring_bed *bed, int timeout_ms)
{
	bool looking = ring_looks(r);
	int64_t start, until, now;
	int got, end;

	if (timeout_ms == 0) {
		end = gone(r, ring_look_due(r, ring_now()));
		got = ready(r);
		if (!got && end)
			ring_told(r, end);
		return got ? got : end ? end : -EAGAIN;
	}
	start = ring_now();
	until = timeout_ms > 0 ? start + timeout_ms * 1000000LL : INT64_MAX;
	while (looking) {
		for (unsigned int i = 0; i < RING_LOOKS; i++) {
			got = ready(r);
			if (got) {
				if (unlikely(r->vain))
					ring_awake(r);
				return got;
			}
			ring_relax();
		}
		now = ring_now();
		if (r->how == KRING_ADAPTIVE && now - start > (int64_t)r->wake_ns * RING_WAKES)
			break;
		if (now >= until)
			return -ETIMEDOUT;
		end = gone(r, ring_look_due(r, now));
		if (end < 0) {
			got = ready(r);
			if (!got)
				ring_told(r, end);
			return got ? got : end;
		}
	}
	ring_doze(r);
	for (;;) {
		__atomic_store_n(&bed->wait, 1, __ATOMIC_SEQ_CST);
		ring_barrier(r);
		end = gone(r, ring_look_due(r, ring_now()));
		got = ready(r);
		if (!got && !end) {
			end = ring_sleep(r, bed, until);
			got = ready(r);
			if (!got && !end)
				continue;
		}
		/* Other readers of a broadcast may sleep, too. */
		if (!r->broadcast)
			ring_store(&bed->wait, 0);
		if (!got && end != -ETIMEDOUT)
			ring_told(r, end);
		return got ? got : end;
	}
}

#endif
