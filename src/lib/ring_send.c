// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ring_send.c - the writer's end: room, and messages into it.
 *
 * The writer keeps for itself which message is next, and where the payload of each of the last messages began. Of the reader it
 * learns one word, head: how many messages are done with. Everything else follows from its own notes.
 */
#include <string.h>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include "lib/ring.h"

#define STREAM_BYTES 65536
#define STREAM_TRY_EVERY 32u

/* Where a payload of @len bytes goes: at dpos, or at the start of the next round if it would cross the end. */
static uint64_t data_place(const struct kring *r, uint64_t len)
{
	uint64_t off = r->dpos & (r->data_bytes - 1);

	return off + len <= r->data_bytes ? r->dpos : r->dpos + (r->data_bytes - off);
}

static uint64_t data_end(const struct kring *r, uint64_t len)
{
	return data_place(r, len) + ((len + RING_ALIGN - 1) & ~(uint64_t)(RING_ALIGN - 1));
}

/* Where the data of message @n and later ones begins. */
static uint64_t data_start(const struct kring *r, uint64_t n)
{
	return n == r->flow[0].n ? r->dpos : r->starts[n & r->mask];
}

static bool fits(const struct kring *r)
{
	if ((int64_t)(r->limit - r->flow[0].n) <= 0)
		return false;
	return !r->want || (int64_t)(r->dlimit - data_end(r, r->want)) >= 0;
}

/*
 * Raise low: as far as this message needs, an eighth of the slots at least, and not past a reader that is to be waited for. A head below low is one
 * that has just come and will look at low again.
 */
static uint64_t raise_low(struct kring *r)
{
	uint64_t n = r->flow[0].n, bound = n, slots = r->mask + 1, low = r->low, target;

	for (unsigned int i = 0; r->blocking && i < r->map->head.readers; i++) {
		struct ring_cursor *c = ring_cursor(r->map, i);
		uint64_t head;

		if (ring_life_state(ring_load_acquire(&c->life)) != RING_ACTIVE)
			continue;
		head = ring_load_acquire(&c->head);
		if ((int64_t)(head - low) < 0)
			head = low;
		if ((int64_t)(head - bound) < 0)
			bound = head;
	}
	target = n - slots + (slots >= 8 ? slots / 8 : 1);
	if ((int64_t)(target - bound) > 0)
		target = bound;
	if ((int64_t)(target - low) > 0)
		low = target;
	while (r->want && low != bound &&
	       (int64_t)(data_end(r, r->want) - data_start(r, low) - r->data_bytes) > 0)
		low++;
	if (low != r->low) {
		ring_store(&r->flow[0].lane->low, low);
		/* Argument (3) */
		atomic_thread_fence(memory_order_release);
	}
	return low;
}

/* Look how far the reader is. Return: 0; -EBADMSG it says what cannot be. */
static int look_for_room(struct kring *r)
{
	struct ring_flow *f = r->flow;
	uint64_t low;

	if (r->broadcast) {
		low = raise_low(r);
	} else {
		low = ring_load_acquire(&f->cursor->head);
		if (low - r->low > f->n - r->low)
			return -EBADMSG;
	}
	r->low = low;
	r->limit = low + r->mask + 1;
	r->dlimit = data_start(r, low) + r->data_bytes;
	return 0;
}

static int room_ready(struct kring *r)
{
	int result;

	if (fits(r))
		return 1;
	result = look_for_room(r);
	if (result < 0)
		return result;
	if (fits(r))
		return 1;
	/* The reader writes this line for each message: leave it alone for a while. */
	for (unsigned int i = 0; i < 16; i++)
		ring_relax();
	return 0;
}

/* Is there room for @len bytes at once? Longer than the longest message: reserve() says so. */
static bool has_room(struct kring *r, size_t len)
{
	r->want = len <= r->inline_max ? 0 : len;
	return r->want > r->data_bytes / 2 || fits(r) || (look_for_room(r) == 0 && fits(r));
}

/* Tell the reader when it is worth waking us: when there is enough room, and half of what is waiting has been done with. */
static void ask_for_room(struct kring *r)
{
	uint64_t n = r->flow[0].n, need = r->low + (n - r->low) / 2;

	while (need != n && (int64_t)(n - need - r->mask - 1) >= 0)
		need++;
	while (r->want && need != n &&
	       (int64_t)(data_end(r, r->want) - data_start(r, need) - r->data_bytes) > 0)
		need++;
	ring_store(&r->flow[0].room->need, need);
}

static __attribute__((noinline)) int wait_for_room(struct kring *r, int timeout_ms)
{
	int result = room_ready(r);

	if (result == 0) {
		/* A reader that was not woken for KRING_MORE would never make room. */
		if (r->doorbell) {
			r->doorbell = false;
			ring_ring(r, &r->ctl->bed);
		}
		ask_for_room(r);
		result = ring_wait(r, room_ready, ring_reader_gone, r->flow[0].room, timeout_ms);
	}
	if (result == -EBADMSG)
		r->error = result;
	return result < 0 ? result : 0;
}

static inline int reserve(struct kring *r, size_t len, int timeout_ms)
{
	struct ring_flow *f = r->flow;
	int result;

	if (unlikely(r->end != KRING_WRITER || r->error))
		return r->error ? r->error : -EINVAL;
	r->reserved = NULL;
	if (likely(len <= r->inline_max)) {
		r->want = 0;
		if (unlikely(!fits(r))) {
			result = wait_for_room(r, timeout_ms);
			if (result < 0)
				return result;
		}
		r->reserved = (unsigned char *)(ring_slot(r, f, f->n) + 1);
	} else {
		if (len > r->data_bytes / 2)
			return -EMSGSIZE;
		r->want = len;
		if (unlikely(!fits(r))) {
			result = wait_for_room(r, timeout_ms);
			if (result < 0)
				return result;
		}
		r->reserved_at = data_place(r, len);
		r->reserved = f->data + (r->reserved_at & (r->data_bytes - 1));
	}
	r->reserved_max = len;
	/* Here and not in commit(): between a payload's stores and word 0's another store may wait for its line, and the reader takes the slot's. */
	r->starts[f->n & r->mask] = r->dpos;
	return 0;
}

/* What was committed can be seen: @tail, for who takes our place or looks on. */
static inline void count(struct kring *r)
{
	ring_store_release(&r->flow[0].lane->tail, r->flow[0].n);
}

/* @hold: a message of a batch, of which the first one is stored last. Argument (1) */
static inline void commit(struct kring *r, size_t len, bool hold)
{
	struct ring_flow *f = r->flow;
	uint64_t *slot = ring_slot(r, f, f->n);
	uint64_t word = ring_word(f->n);

	if (likely(!r->want)) {
		word |= len;
	} else {
		ring_store(&slot[1], r->reserved_at);
		ring_store(&slot[2], len);
		word |= RING_IN_DATA;
		r->dpos = r->reserved_at + ((len + RING_ALIGN - 1) & ~(uint64_t)(RING_ALIGN - 1));
	}
	if (hold && !r->held) {
		r->held = slot;
		r->held_word = word;
	} else {
		ring_store_release(slot, word);
	}
	f->n++;
	if (!hold)
		count(r);
	ring_store(&f->lane->bytes, ring_load(&f->lane->bytes) + len);
	r->reserved = NULL;
}

static inline void show_batch(struct kring *r)
{
	if (!r->held)
		return;
	ring_store_release(r->held, r->held_word);
	count(r);
	r->held = NULL;
	r->doorbell = true;
}

static inline void ring_readers(struct kring *r)
{
	r->doorbell = false;
	ring_ring(r, &r->ctl->bed);
}

/* Past our cache. Such stores are not ordered by word 0's release: a fence does it. */
static void stream_in(void *to, const void *from, size_t len)
{
#if defined(__x86_64__)
	const __m128i *in = from;
	__m128i *out = to;

	for (; len >= RING_ALIGN; len -= RING_ALIGN, in += 4, out += 4) {
		__m128i a = _mm_loadu_si128(in), b = _mm_loadu_si128(in + 1);
		__m128i c = _mm_loadu_si128(in + 2), d = _mm_loadu_si128(in + 3);

		_mm_stream_si128(out, a);
		_mm_stream_si128(out + 1, b);
		_mm_stream_si128(out + 2, c);
		_mm_stream_si128(out + 3, d);
	}
	_mm_sfence();
	to = out;
	from = in;
#endif
	memcpy(to, from, len);
}

/*
 * A long payload's lines are in the reader's cache, of the round before. Where the processors share none, to fetch them only to write them over costs two
 * or three times the copy, and it is better to store past the cache. Where they share one that is up to twice as slow, since the reader then has to go to
 * memory. Nobody tells which it is, and it changes when processes move: so both ways are timed, the quicker one is taken, and the other one is
 * tried now and then. A copy in which we were interrupted counts as one of twice the time.
 */
static void copy_long(struct kring *r, void *to, const void *from, size_t len)
{
	bool stream = r->copy_cost[true] < r->copy_cost[false];
	uint64_t *cost, took;
	int64_t start = ring_now();

	if (r->copies++ % STREAM_TRY_EVERY == 0)
		stream = !stream;
	if (stream)
		stream_in(to, from, len);
	else
		memcpy(to, from, len);
	took = (uint64_t)(ring_now() - start) * STREAM_BYTES / len + 1;
	cost = &r->copy_cost[stream];
	if (!*cost || took < *cost)
		*cost = took;
	else
		*cost += ((took < 2 * *cost ? took : 2 * *cost) - *cost) / 4;
}

/* What a broadcast's reader may be reading while it is written over is written in whole words, each at once. */
static void copy_in(struct kring *r, void *to, const void *from, size_t len)
{
	uint64_t *out = to, word = 0;

	if (!r->broadcast) {
		if (len < STREAM_BYTES)
			ring_copy(to, from, len);
		else
			copy_long(r, to, from, len);
		return;
	}
	for (; len >= 8; len -= 8, from = (const char *)from + 8) {
		memcpy(&word, from, 8);
		ring_store(out++, word);
	}
	if (len) {
		word = 0;
		memcpy(&word, from, len);
		ring_store(out, word);
	}
}

/**
 * kring_reserve() - room for a message, to be written in place.
 * @r: a writer
 * @len_bytes: as long as it may become
 * @timeout_ms: how long to wait for room
 *
 * Return: where to write; NULL with errno: EMSGSIZE, EAGAIN, ETIMEDOUT, EPIPE, EOWNERDEAD, EBADMSG, EINVAL.
 */
void *kring_reserve(struct kring *r, size_t len_bytes, int timeout_ms)
{
	int result = reserve(r, len_bytes, timeout_ms);

	if (unlikely(result < 0)) {
		errno = -result;
		return NULL;
	}
	return r->reserved;
}

/**
 * kring_commit() - send what is reserved.
 * @r: a writer
 * @len_bytes: not more than was reserved
 * @flags: 0 or KRING_MORE
 *
 * Return: 0; -1 with errno: EINVAL.
 */
int kring_commit(struct kring *r, size_t len_bytes, unsigned int flags)
{
	if (unlikely(!r->reserved || len_bytes > r->reserved_max || (flags & ~KRING_MORE)))
		return api_result(-EINVAL);
	commit(r, len_bytes, false);
	if (flags & KRING_MORE)
		r->doorbell = true;
	else
		ring_readers(r);
	return 0;
}

/**
 * kring_send() - send a copy of @data.
 * @r: a writer
 * @timeout_ms: how long to wait for room
 *
 * Return: 0; -1 with errno as kring_reserve().
 */
int kring_send(struct kring *r, const void *data, size_t len_bytes, int timeout_ms)
{
	int result = reserve(r, len_bytes, timeout_ms);

	if (unlikely(result < 0))
		return api_result(result);
	copy_in(r, r->reserved, data, len_bytes);
	commit(r, len_bytes, false);
	ring_readers(r);
	return 0;
}

/**
 * kring_send_many() - send copies of several messages.
 * @r: a writer
 * @msgs: one message each, @nr of them
 * @timeout_ms: how long to wait for room for the first; the others are sent as far as there is room
 *
 * Return: how many were sent; -1 with errno as kring_reserve().
 */
int kring_send_many(struct kring *r, const struct iovec *msgs, unsigned int nr, int timeout_ms)
{
	unsigned int i;
	int result = 0;

	for (i = 0; i < nr; i++) {
		/* What there is no room for is another call's matter, and so is an end to be told. */
		if (i % RING_BATCH == 0)
			show_batch(r);
		if (i && !has_room(r, msgs[i].iov_len))
			break;
		result = reserve(r, msgs[i].iov_len, timeout_ms);
		if (result < 0)
			break;
		copy_in(r, r->reserved, msgs[i].iov_base, msgs[i].iov_len);
		commit(r, msgs[i].iov_len, true);
	}
	show_batch(r);
	if (r->doorbell)
		ring_readers(r);
	return api_result(i ? (int)i : result);
}

static int flushed(struct kring *r)
{
	uint64_t n = r->flow[0].n;

	for (unsigned int i = 0; i < r->map->head.readers; i++) {
		struct ring_cursor *c = r->broadcast ? ring_cursor(r->map, i) : r->flow[0].cursor;

		if (r->broadcast && ring_life_state(ring_load_acquire(&c->life)) != RING_ACTIVE)
			continue;
		if ((int64_t)(ring_load_acquire(&c->head) - n) < 0)
			return 0;
	}
	return 1;
}

/**
 * kring_flush() - wait until all that was sent is released.
 * @r: a writer
 *
 * Return: 0; -1 with errno: EAGAIN, ETIMEDOUT, EPIPE, EOWNERDEAD, EINVAL.
 */
int kring_flush(struct kring *r, int timeout_ms)
{
	int result;

	if (r->end != KRING_WRITER)
		return api_result(-EINVAL);
	if (r->doorbell)
		ring_readers(r);
	ring_store(&r->flow[0].room->need, r->flow[0].n);
	result = flushed(r);
	if (!result)
		result = ring_wait(r, flushed, ring_reader_gone, r->flow[0].room, timeout_ms);
	return api_result(result < 0 ? result : 0);
}

/* Message @n of the last writer: note where its payload began. @ret_end: where the data of the ones before it ends; 0: there was none. */
static int note_message(struct kring *r, const uint64_t *slot, uint64_t n, uint64_t *ret_end)
{
	uint64_t word = ring_load_acquire(slot), code = word - ring_word(n), at, len;

	if (code <= r->inline_max) {
		r->starts[n & r->mask] = *ret_end;
		return 0;
	}
	if (code != RING_IN_DATA)
		return -EBADMSG;
	at = ring_load(&slot[1]);
	len = ring_load(&slot[2]);
	if (at % RING_ALIGN || len > r->data_bytes / 2 ||
	    (at & (r->data_bytes - 1)) + len > r->data_bytes || (*ret_end && at < *ret_end) ||
	    at > INT64_MAX)
		return -EBADMSG;
	r->starts[n & r->mask] = *ret_end ? *ret_end : at;
	/* Those before it that have no payload begin where it does. */
	*ret_end = at + ((len + RING_ALIGN - 1) & ~(uint64_t)(RING_ALIGN - 1));
	return 0;
}

/**
 * ring_recover() - go on where the last writer of this lane stopped.
 * Walks from what the reader has not done with over all that was committed; lane.tail is a batch behind if the writer died between the two stores.
 *
 * Return: 0; -EBADMSG what is there cannot have come about rightly.
 */
int ring_recover(struct kring *r)
{
	struct ring_flow *f = r->flow;
	uint64_t tail = ring_load_acquire(&f->lane->tail);
	uint64_t low = r->broadcast ? ring_load(&f->lane->low)
				    : ring_load_acquire(&f->cursor->head);
	uint64_t slots = r->mask + 1, n = low, end = 0, first = 0;

	if ((int64_t)(tail + RING_BATCH - low) < 0 || (int64_t)(tail - low) > (int64_t)slots)
		return -EBADMSG;
	for (; n - low < slots; n++) {
		const uint64_t *slot = ring_slot(r, f, n);
		int result;

		if ((ring_load(slot) - ring_word(n)) >> RING_CODE_BITS)
			break;
		result = note_message(r, slot, n, &end);
		if (result < 0)
			return result;
		if (!first && end)
			first = r->starts[n & r->mask] + 1;
	}
	if ((int64_t)(n - tail) < 0 || n - tail > RING_BATCH)
		return -EBADMSG;
	/* What the last writer had not shown of a batch never was. */
	for (uint64_t i = n + 1; i - low < slots; i++) {
		uint64_t *slot = ring_slot(r, f, i);

		if ((ring_load(slot) - ring_word(i)) >> RING_CODE_BITS == 0)
			ring_store(slot, ring_word(i - slots));
	}
	if (first && end - (first - 1) > r->data_bytes)
		return -EBADMSG;
	for (uint64_t i = low; first && i != n && !r->starts[i & r->mask]; i++)
		r->starts[i & r->mask] = first - 1;
	f->n = n;
	r->low = low;
	r->dpos = end;
	r->limit = low + slots;
	r->dlimit = data_start(r, low) + r->data_bytes;
	ring_store_release(&f->lane->tail, n);
	return 0;
}
