// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ring_wait.c - sleeping until the other side of a ring has done something, and waking it.
 *
 * Argument (4) of wire/ring.h says why no wake is lost. A sleep ends after RING_SLICE_NS at the latest, so that a dead peer is
 * noticed and one that lies about the words costs time only.
 */
#include <limits.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/ring.h"

/**
 * ring_register() - let other processes' membarrier() reach this one.
 * Return: whether they can, and ours theirs.
 */
bool ring_register(void)
{
	return syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
}

static void barrier_everywhere(void)
{
	syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0);
}

/** ring_barrier() - a full barrier here, and in all who have registered unless they were asked to make it themselves. */
void ring_barrier(struct kring *r)
{
	atomic_thread_fence(memory_order_seq_cst);
	if (!r->fenced)
		barrier_everywhere();
}

/**
 * ring_set_fence() - ask the other side to make barriers itself if that costs less, or say that it need not.
 * A reader or writer that expects to sleep each time asks for it. The barrier after asking makes sure that whoever has seen the old answer has
 * stored what it was about to store; who cannot be reached by it is given time.
 */
void ring_set_fence(struct kring *r)
{
	uint32_t *fence = r->end == KRING_READER ? &r->ctl->bed.fence : &r->flow[0].room->fence;
	bool want = r->must_fence || r->how == KRING_PARK ||
		(r->how == KRING_ADAPTIVE && r->vain > 1);

	if (r->fenced == want)
		return;
	r->fenced = want;
	/* Other readers of a broadcast may need it still. */
	if (!want && r->end == KRING_READER && r->broadcast)
		return;
	__atomic_store_n(fence, want, __ATOMIC_SEQ_CST);
	if (r->must_fence)
		nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL);
	else if (want)
		barrier_everywhere();
}

/** ring_wake() - wake whoever sleeps in @bed. Slow; called when its wait was seen not to be 0. */
void ring_wake(struct ring_bed *bed)
{
	ring_store(&bed->woken, (uint64_t)ring_now());
	if (__atomic_exchange_n(&bed->wait, 0, __ATOMIC_SEQ_CST))
		syscall(SYS_futex, &bed->wait, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* A quarter of what it was, so that one that took long, or is a lie, is soon forgotten. */
static void learn_wake(struct kring *r, const struct ring_bed *bed)
{
	uint64_t took = (uint64_t)ring_now() - ring_load(&bed->woken);

	if (took > RING_WAKE_MAX_NS)
		took = RING_WAKE_MAX_NS;
	r->wake_ns = (uint32_t)((r->wake_ns * 3ULL + took) / 4);
}

/** ring_awake() - looking has helped. */
void ring_awake(struct kring *r)
{
	r->vain = r->asleep = 0;
	ring_set_fence(r);
}

/** ring_doze() - looking has not helped, or this was a wait to sleep at once: when is the next look to be? */
void ring_doze(struct kring *r)
{
	if (r->asleep) {
		r->asleep--;
	} else {
		r->asleep = (1u << r->vain) - 1;
		if (r->vain < RING_VAIN_MAX)
			r->vain++;
	}
	ring_set_fence(r);
}

/**
 * ring_sleep() - sleep while @bed's wait is 1, a slice at most.
 * @until_ns: when the caller's time is over, by CLOCK_MONOTONIC
 * Return: 0, whyever it ended; -ETIMEDOUT the caller's time is over.
 */
int ring_sleep(struct kring *r, struct ring_bed *bed, int64_t until_ns)
{
	int64_t left = until_ns - ring_now();
	struct timespec t;

	if (left <= 0)
		return -ETIMEDOUT;
	if (left > RING_SLICE_NS)
		left = RING_SLICE_NS;
	t = (struct timespec){ .tv_sec = left / 1000000000, .tv_nsec = left % 1000000000 };
	if (syscall(SYS_futex, &bed->wait, FUTEX_WAIT, 1, &t, NULL, 0) == 0)
		learn_wake(r, bed);
	return 0;
}

/**
 * kring_set_wait() - how this end waits.
 * @r: an end
 * @how: KRING_ADAPTIVE, KRING_SPIN, KRING_PARK
 *
 * Return: 0; -1 with errno: EINVAL.
 */
int kring_set_wait(struct kring *r, unsigned int how)
{
	if (how > KRING_PARK)
		return api_result(-EINVAL);
	r->how = how;
	r->vain = r->asleep = 0;
	if (r->end != KRING_OBSERVER)
		ring_set_fence(r);
	return 0;
}
