// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ring_stat.c - looking on: what the words of a ring say, taken as they are.
 *
 * Nothing is computed from them but what is shown.
 */
#include <string.h>

#include "lib/ring.h"

static uint32_t shown_state(const struct kring *r, uint64_t life, bool writer, unsigned int place)
{
	unsigned int state = ring_life_state(life);
	bool reader_file = r->end == KRING_READER;
	int fd = writer == !reader_file ? r->lock_fd : r->peer_fd;

	if (r->place == (int)place && (r->end == KRING_WRITER) == writer &&
	    r->end != KRING_OBSERVER)
		return KRING_ALIVE;
	if (state == RING_FREE)
		return 0;
	if (state == RING_CLOSED)
		return KRING_CLOSED;
	return ring_is_held(fd, (writer ? RING_LOCK_WRITER : RING_LOCK_READER) + place)
		? KRING_ALIVE
		: KRING_DEAD;
}

static bool fill_writer(struct kring *r, unsigned int i, struct kring_peer *p)
{
	struct ring_lane *lane = ring_lane(r->map, i);

	*p = (struct kring_peer){
		.role = KRING_WRITER,
		.place = i,
		.state = shown_state(r, ring_load_acquire(&lane->life), true, i),
		.pid = ring_load(&lane->pid),
		.messages = ring_load(&lane->tail),
	};
	return p->state;
}

/* How far the reader in place @i is behind: in many-to-one in all lanes together. */
static bool fill_reader(struct kring *r, unsigned int i, struct kring_peer *p)
{
	struct ring_map *m = r->map;
	struct ring_cursor *c = ring_cursor(m, i);

	*p = (struct kring_peer){
		.role = KRING_READER,
		.place = i,
		.state = shown_state(r, ring_load_acquire(&c->life), false, i),
		.pid = ring_load(&c->pid),
		.lost = ring_load(&c->lost),
	};
	for (unsigned int lane = 0; lane < m->head.writers; lane++) {
		struct ring_cursor *mark = r->broadcast ? c : ring_cursor(m, lane);
		uint64_t head = ring_load_acquire(&mark->head), lag;

		lag = ring_load(&ring_lane(m, lane)->tail) - head;
		/* tail is stored after the message, and may be one behind. */
		p->lag += (int64_t)lag > 0 ? lag : 0;
		p->messages += r->broadcast ? ring_load(&mark->received) : head;
	}
	return p->state;
}

/**
 * kring_get_peers() - the places that somebody holds, or held and nobody has taken since.
 * @r: any end
 * @ret: room for @max of them
 *
 * Return: how many there are.
 */
int kring_get_peers(struct kring *r, struct kring_peer *ret, unsigned int max)
{
	const struct ring_head *h = &r->map->head;
	struct kring_peer p;
	unsigned int nr = 0;

	for (unsigned int i = 0; i < h->writers; i++)
		if (fill_writer(r, i, &p) && nr++ < max)
			ret[nr - 1] = p;
	for (unsigned int i = 0; i < h->readers; i++)
		if (fill_reader(r, i, &p) && nr++ < max)
			ret[nr - 1] = p;
	return (int)nr;
}

/**
 * kring_get_stat() - a ring as a whole.
 * @r: any end
 *
 * Return: 0.
 */
int kring_get_stat(struct kring *r, struct kring_stat *ret)
{
	const struct ring_head *h = &r->map->head;
	struct kring_stat s = {
		.conf = {
			.shape = h->shape,
			.flags = h->flags,
			.slots = h->slots,
			.slot_bytes = h->slot_bytes,
			.data_bytes = h->data_bytes,
			.writers = h->writers,
			.readers = h->readers,
		},
		.max_bytes = kring_max(r),
	};
	struct kring_peer p;

	for (unsigned int i = 0; i < h->writers; i++) {
		s.bytes += ring_load(&ring_lane(r->map, i)->bytes);
		s.messages += ring_load(&ring_lane(r->map, i)->tail);
		fill_writer(r, i, &p);
		s.writers += p.state == KRING_ALIVE;
		s.dead += p.state == KRING_DEAD;
	}
	for (unsigned int i = 0; i < h->readers; i++) {
		fill_reader(r, i, &p);
		s.readers += p.state == KRING_ALIVE;
		s.dead += p.state == KRING_DEAD;
		if (p.state == KRING_ALIVE)
			s.lost += p.lost;
		if ((p.state == KRING_ALIVE || !r->broadcast) && p.lag > s.depth)
			s.depth = p.lag;
	}
	*ret = s;
	return 0;
}
