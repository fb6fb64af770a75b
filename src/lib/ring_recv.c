// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ring_recv.c - the reader's end: messages, in place or copied.
 *
 * Word 0 of a slot is read once and says whether the next message is there; place and length of a payload are read once and bounded by
 * the mapping before they are used. In a broadcast nobody waits for us, or may cease to: what was read counts only if lane.low
 * says afterwards that it was not being written over.
 */
#include <string.h>

#include "lib/ring.h"

#define HISTORY_TRIES 16u
#define RESTS 8u

enum { NONE, HERE, PASSED };

/* What is in the memory cannot be: nothing is done with it any more. */
static int damaged(struct kring *r)
{
	r->plain = false;
	r->error = -EBADMSG;
	return -EBADMSG;
}

/* Is message @n there? In @ret_code its length or RING_IN_DATA. */
static inline int look(const struct kring *r, const struct ring_flow *f, uint64_t n,
		       uint64_t *ret_code)
{
	uint64_t past = ring_load_acquire(ring_slot(r, f, n)) - ring_word(n);

	*ret_code = past;
	if (likely(past < 1u << RING_CODE_BITS))
		return HERE;
	return (int64_t)past < 0 ? NONE : PASSED;
}

/* Payload of message @n. Return: 0; -EBADMSG. */
static inline int payload(const struct kring *r, const struct ring_flow *f, uint64_t n,
			  uint64_t code, const void **ret, size_t *ret_len)
{
	const uint64_t *slot = ring_slot(r, f, n);
	uint64_t off, len;

	if (likely(code <= r->inline_max)) {
		*ret = slot + 1;
		*ret_len = code;
		return 0;
	}
	if (code != RING_IN_DATA)
		return -EBADMSG;
	off = ring_load(&slot[1]) & (r->data_bytes - 1) & ~(uint64_t)(RING_ALIGN - 1);
	len = ring_load(&slot[2]);
	if (len > r->data_bytes / 2 || off + len > r->data_bytes)
		return -EBADMSG;
	*ret = f->data + off;
	*ret_len = len;
	return 0;
}

/* What goes by from here on is lost to us. */
static void begin(struct kring *r)
{
	if ((int64_t)(r->promised - r->flow[0].n) > 0)
		r->promised = r->flow[0].n;
}

/* Broadcast: was the message that we are at, or a later one, written over? Then go on with what is left. */
static bool overrun(struct kring *r)
{
	struct ring_flow *f = r->flow;
	uint64_t low, from;

	atomic_thread_fence(memory_order_acquire);
	low = ring_load(&f->lane->low);
	if (likely((int64_t)(low - f->n) <= 0))
		return false;
	/* What was there before we came was never promised. */
	from = (int64_t)(r->promised - f->n) > 0 ? r->promised : f->n;
	if ((int64_t)(low - from) > 0) {
		r->lost += low - from;
		r->lost_untold = true;
		ring_store(&f->cursor->lost, r->lost);
	}
	f->n = low;
	r->peeked = 0;
	ring_store_release(&f->cursor->head, low);
	return true;
}

/* Find a lane with a message, beginning after the last one: sets r->current. */
static inline int recv_ready(struct kring *r)
{
	uint64_t code;
	int there;

	if (likely(r->nr_flows == 1)) {
		there = look(r, &r->flow[0], r->flow[0].n, &code);
		return there == PASSED && !r->broadcast ? -EBADMSG : there != NONE;
	}
	if (r->used < r->nr_flows && ring_load(&r->flow[r->used].lane->life))
		r->used++;
	for (unsigned int i = 1; i <= r->used; i++) {
		unsigned int at = r->current + i;

		if (at >= r->used)
			at -= r->used;
		there = look(r, &r->flow[at], r->flow[at].n, &code);
		if (there == NONE)
			continue;
		r->current = at;
		return there == PASSED ? -EBADMSG : 1;
	}
	return 0;
}

/** ring_anything() - is a message there? For who watches the descriptor. Return: 1, 0, -EBADMSG. */
int ring_anything(struct kring *r)
{
	return recv_ready(r);
}

/*
 * Who takes many at once leaves the writer alone between two looks: the line that it looks at is the one which the writer is filling, and would have to
 * come back for each message.
 */
static inline int many_ready(struct kring *r)
{
	int there = recv_ready(r);

	for (unsigned int i = 0; !there && r->many && i < RESTS; i++)
		ring_relax();
	return there;
}

/* Until a message is at flow[current]. */
static __attribute__((noinline)) int wait_for_message(struct kring *r, int timeout_ms)
{
	int result = ring_wait(r, many_ready, ring_writers_gone, &r->ctl->bed, timeout_ms);

	if (result == -EAGAIN && r->watch) {
		result = ring_arm(r);
	}
	if (result == -EBADMSG)
		damaged(r);
	return result < 0 ? result : 0;
}

/*
 * The usual reader has one lane and is not overtaken. Its next message is waited for a short while in a loop of a few
 * instructions, so that an answer that comes at once finds nothing left to do.
 * Return: the slot, whose payload is in it and of *@ret_len bytes; NULL if anything is not usual.
 */
static inline const uint64_t *look_plain(struct kring *r, bool wait, uint64_t *ret_len)
{
	const struct ring_flow *f = r->flow;
	const uint64_t *slot = ring_slot(r, f, f->n);
	uint64_t word = ring_word(f->n), past;

	past = ring_load_acquire(slot) - word;
	if (past >= 1u << RING_CODE_BITS && wait) {
		for (unsigned int i = 0; i < RING_LOOKS * 4; i++) {
			past = ring_load_acquire(slot) - word;
			if (past < 1u << RING_CODE_BITS) {
				if (unlikely(r->vain))
					ring_awake(r);
				break;
			}
			/* What the message may go on in is asked for along with it. */
			__builtin_prefetch((const char *)slot + r->inline_max);
			ring_relax();
		}
	}
	*ret_len = past;
	return likely(past <= r->inline_max) ? slot : NULL;
}

/* The next message is at flow[current], and @r is a reader. */
static inline int await(struct kring *r, int timeout_ms)
{
	int result;

	if (unlikely(r->end != KRING_READER || r->error))
		return r->error ? r->error : -EINVAL;
	if (r->peeked)
		return 0;
	result = recv_ready(r);
	if (likely(result > 0))
		return 0;
	if (unlikely(result < 0))
		return damaged(r);
	return wait_for_message(r, timeout_ms);
}

/* Give back the room of @nr messages. */
static inline void advance(struct kring *r, struct ring_flow *f, unsigned int nr)
{
	f->n += nr;
	r->peeked -= nr;
	ring_store_release(&f->cursor->head, f->n);
	if (r->broadcast) {
		begin(r);
		ring_store(&f->cursor->received, ring_load(&f->cursor->received) + nr);
	}
	if (unlikely(r->must_fence || ring_load(&f->room->fence)))
		atomic_thread_fence(memory_order_seq_cst);
	else
		atomic_signal_fence(memory_order_seq_cst);
	/* need was stored before wait */
	if (unlikely(ring_load_acquire(&f->room->wait)) &&
	    (int64_t)(f->n - ring_load(&f->room->need)) >= 0)
		ring_wake(f->room);
}

/* What was lost and not told yet is told before anything else. */
static int tell_loss(struct kring *r)
{
	if (!r->lost_untold)
		return 0;
	r->lost_untold = false;
	return -EOVERFLOW;
}

static int peek(struct kring *r, struct kring_msg *ret, unsigned int max, int timeout_ms)
{
	int result = tell_loss(r);
	struct ring_flow *f;
	unsigned int nr;

	r->many = max > 1;
	if (result == 0)
		result = max ? await(r, timeout_ms) : -EINVAL;
	if (result < 0)
		return result;
	f = &r->flow[r->current];
	if (max > r->mask + 1)
		max = r->mask + 1;
	for (nr = 0; nr < max; nr++) {
		uint64_t n = f->n + nr, code;

		if (look(r, f, n, &code) != HERE)
			break;
		result = payload(r, f, n, code, &ret[nr].data, &ret[nr].len_bytes);
		if (result < 0)
			break;
		ret[nr].seq = n;
		ret[nr].writer = r->current;
		ret[nr].reserved = 0;
	}
	if (r->broadcast && overrun(r))
		return r->lost_untold ? tell_loss(r) : -ESTALE;
	/* Before the damaged one there may be good ones; a slot that was there and is no more is damaged, too. */
	if (nr == 0)
		return damaged(r);
	r->peeked = nr > r->peeked ? nr : r->peeked;
	return (int)nr;
}

/**
 * kring_peek() - the next messages, in place.
 * @r: a reader
 * @ret: room for @max of them
 * @timeout_ms: how long to wait for the first
 *
 * Return: how many; -1 with errno: EAGAIN, ETIMEDOUT, EPIPE, EOWNERDEAD, EOVERFLOW, EBADMSG, EINVAL.
 */
int kring_peek(struct kring *r, struct kring_msg *ret, unsigned int max, int timeout_ms)
{
	if (likely(r->plain && max == 1)) {
		uint64_t len;
		const uint64_t *slot = look_plain(r, timeout_ms && ring_looks(r), &len);

		if (likely(slot)) {
			*ret = (struct kring_msg){ .data = slot + 1,
						   .len_bytes = len,
						   .seq = r->flow[0].n };
			r->peeked = r->peeked ? r->peeked : 1;
			return 1;
		}
	}
	/* History may go by while it is looked at, but not for ever. */
	for (unsigned int i = 1;; i++) {
		int result = peek(r, ret, max, timeout_ms);

		if (result != -ESTALE)
			return api_result(result);
		if (i % HISTORY_TRIES == 0)
			begin(r);
	}
}

/**
 * kring_release() - give back the room of the first messages that were peeked at.
 * @r: a reader
 * @nr: how many
 *
 * Return: 0; -1 with errno: EINVAL; EOVERFLOW.
 */
int kring_release(struct kring *r, unsigned int nr)
{
	if (unlikely(r->end != KRING_READER || nr > r->peeked))
		return api_result(-EINVAL);
	if (unlikely(r->broadcast)) {
		begin(r);
		if (overrun(r))
			return api_result(tell_loss(r));
	}
	if (likely(nr))
		advance(r, &r->flow[r->current], nr);
	return 0;
}

/* The counterpart of copy_in() in ring_send.c. A payload's last word is whole: slots and data are multiples of it. */
static void copy_out(const struct kring *r, void *to, const void *from, size_t len)
{
	const uint64_t *in = from;
	uint64_t word;

	if (!r->broadcast) {
		ring_copy(to, from, len);
		return;
	}
	for (; len >= 8; len -= 8, to = (char *)to + 8) {
		word = ring_load(in++);
		memcpy(to, &word, 8);
	}
	if (len) {
		word = ring_load(in);
		memcpy(to, &word, len);
	}
}

static inline ssize_t receive(struct kring *r, void *buf, size_t size, int timeout_ms)
{
	const void *data;
	struct ring_flow *f;
	uint64_t code;
	size_t len;
	int result;

	if (unlikely(r->lost_untold))
		return tell_loss(r);
	r->many = false;
	result = await(r, timeout_ms);
	if (unlikely(result < 0))
		return result;
	f = &r->flow[r->current];
	result = look(r, f, f->n, &code) == HERE ? payload(r, f, f->n, code, &data, &len)
						 : -EBADMSG;
	if (likely(result == 0)) {
		if (unlikely(len > size))
			result = -EMSGSIZE;
		else
			copy_out(r, buf, data, len);
	}
	if (r->broadcast && overrun(r))
		return r->lost_untold ? tell_loss(r) : -ESTALE;
	if (unlikely(result < 0))
		return result == -EBADMSG ? damaged(r) : result;
	r->peeked = r->peeked ? r->peeked : 1;
	advance(r, f, 1);
	return (ssize_t)len;
}

/**
 * kring_recv() - receive one message into a buffer.
 * @r: a reader
 * @buf: room for @size_bytes
 * @timeout_ms: how long to wait for it
 *
 * Return: its length; -1 with errno: EMSGSIZE, EAGAIN, ETIMEDOUT, EPIPE, EOWNERDEAD, EOVERFLOW, EBADMSG, EINVAL.
 */
ssize_t kring_recv(struct kring *r, void *buf, size_t size_bytes, int timeout_ms)
{
	const uint64_t *slot;
	uint64_t len;

	if (likely(r->plain)) {
		slot = look_plain(r, timeout_ms && ring_looks(r), &len);
		if (likely(slot && len <= size_bytes)) {
			ring_copy(buf, slot + 1, len);
			r->peeked = r->peeked ? r->peeked : 1;
			advance(r, r->flow, 1);
			return (ssize_t)len;
		}
	}
	/* As in kring_peek() */
	for (unsigned int i = 1;; i++) {
		ssize_t result = receive(r, buf, size_bytes, timeout_ms);

		if (likely(result >= 0))
			return result;
		if (result != -ESTALE)
			return api_result((int)result);
		if (i % HISTORY_TRIES == 0)
			begin(r);
	}
}

/** kring_lost() - how many messages @r, a reader, was too slow for. */
uint64_t kring_lost(const struct kring *r)
{
	return r->lost;
}

/* Begin in a broadcast: be seen by the writer, then be sure to be above low. */
static void join(struct kring *r, bool history)
{
	struct ring_flow *f = r->flow;
	uint64_t low = ring_load_acquire(&f->lane->low), tail = ring_load_acquire(&f->lane->tail);

	f->n = history ? low : tail;
	ring_store(&f->cursor->head, f->n);
	ring_store(&f->cursor->received, 0);
	ring_store(&f->cursor->lost, 0);
	ring_store_release(&f->cursor->life, r->life);
	ring_barrier(r);
	r->promised = f->n + INT64_MAX;
	overrun(r);
	r->promised = tail;
}

/**
 * ring_resume() - go on where the last reader stopped; in a broadcast begin at the end, or with what is left.
 * Return: 0; -EBADMSG what it left cannot be.
 */
int ring_resume(struct kring *r, bool history)
{
	if (r->broadcast) {
		join(r, history);
		return 0;
	}
	for (unsigned int i = 0; i < r->nr_flows; i++) {
		struct ring_flow *f = &r->flow[i];
		uint64_t head = ring_load_acquire(&f->cursor->head);
		uint64_t tail = ring_load_acquire(&f->lane->tail);

		if ((int64_t)(tail + RING_BATCH - head) < 0 ||
		    (int64_t)(tail - head) > (int64_t)r->mask + 1)
			return -EBADMSG;
		f->n = head;
	}
	ring_store_release(&r->flow[0].cursor->life, r->life);
	return 0;
}
