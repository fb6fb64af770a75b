// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ring_place.c - who holds a place in a ring, and who is dead.
 *
 * The kernel's lock is what counts (wire/ring.h): it is taken back when its holder is gone, however that came about. The words in memory say
 * how a place was left, and may be lies: then a peer's end is told wrongly or not at all, and nothing else happens.
 */
#include <fcntl.h>
#include <unistd.h>

#include "lib/ring.h"

static int set_lock(int fd, short type, uint64_t byte)
{
	struct flock l = { .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

	if (fcntl(fd, F_OFD_SETLK, &l) == 0)
		return 0;
	return errno == EACCES || errno == EAGAIN ? -EBUSY : -errno;
}

/**
 * ring_is_held() - does another open file hold this place?
 * @byte: RING_LOCK_WRITER or RING_LOCK_READER, plus its number
 */
bool ring_is_held(int fd, uint64_t byte)
{
	struct flock l = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

	return fcntl(fd, F_OFD_GETLK, &l) < 0 || l.l_type == F_WRLCK;
}

/** ring_claim() - take a place for @r->end, the first that is free. Return: 0; -EBUSY all are taken; -errno. */
int ring_claim(struct kring *r)
{
	bool writer = r->end == KRING_WRITER;
	const struct ring_head *h = &r->map->head;
	unsigned int nr = writer ? h->writers : h->readers;
	int result = -EBUSY;

	for (unsigned int i = 0; i < nr && result == -EBUSY; i++) {
		r->place = i;
		result = set_lock(r->lock_fd, F_WRLCK,
				  (writer ? RING_LOCK_WRITER : RING_LOCK_READER) + i);
	}
	if (result < 0)
		r->place = -1;
	return result;
}

/**
 * ring_leave() - say that @r's end is closed, free its place, and wake who waits for something of it.
 * The lock would go with its file, but a forked child may have that, too.
 */
void ring_leave(struct kring *r)
{
	bool writer = r->end == KRING_WRITER;

	ring_store_release(writer ? &r->flow[0].lane->life : &ring_cursor(r->map, r->place)->life,
			   ring_life(ring_life_epoch(r->life), RING_CLOSED));
	set_lock(r->lock_fd, F_UNLCK, (writer ? RING_LOCK_WRITER : RING_LOCK_READER) + r->place);
	if (writer)
		ring_wake(&r->ctl->bed);
	for (unsigned int i = 0; !writer && i < r->nr_flows; i++)
		ring_wake(r->flow[i].room);
}

/** ring_look_due() - is it time to look at the locks again? @now: by ring_now(). Notes that it is done. */
bool ring_look_due(struct kring *r, int64_t now)
{
	if (now - r->looked_ns < RING_SLICE_NS)
		return false;
	r->looked_ns = now;
	return true;
}

/**
 * ring_writers_gone() - for a reader that has received all: has a writer gone, and was that not told yet?
 * @look: look at the locks, too
 * Return: 0; -EOWNERDEAD one died; -EPIPE the last one has closed.
 */
int ring_writers_gone(struct kring *r, bool look)
{
	bool alive = false, closed = false;

	for (unsigned int i = 0; i < r->nr_flows; i++) {
		struct ring_flow *f = &r->flow[i];
		unsigned int state;

		f->seen = ring_load_acquire(&f->lane->life);
		state = ring_life_state(f->seen);
		if (state == RING_FREE)
			continue;
		if (i >= r->used)
			r->used = i + 1;
		if (f->told == ring_life_epoch(f->seen))
			continue;
		if (state == RING_CLOSED) {
			closed = true;
		} else if (look && !ring_is_held(r->peer_fd, RING_LOCK_WRITER + i)) {
			r->dead = i;
			return -EOWNERDEAD;
		} else {
			alive = true;
		}
	}
	return closed && !alive ? -EPIPE : 0;
}

/* Readers of a blocking broadcast that are dead: the writer does not wait for them any more. */
static void drop_dead(struct kring *r)
{
	for (unsigned int i = 0; i < r->map->head.readers; i++) {
		struct ring_cursor *c = ring_cursor(r->map, i);

		uint64_t life = ring_load(&c->life);

		/* Exchanged, since another one may take the place just now. */
		if (ring_life_state(life) == RING_ACTIVE &&
		    !ring_is_held(r->peer_fd, RING_LOCK_READER + i))
			__atomic_compare_exchange_n(&c->life, &life,
						    ring_life(ring_life_epoch(life), RING_DROPPED),
						    false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
	}
}

/**
 * ring_reader_gone() - for a writer that has no room: has the reader gone, and was that not told yet?
 * @look: look at the locks, too
 * Return: 0; -EOWNERDEAD; -EPIPE. In a broadcast always 0: it does without.
 */
int ring_reader_gone(struct kring *r, bool look)
{
	struct ring_cursor *c = ring_cursor(r->map, 0);
	struct ring_flow *f = r->flow;
	unsigned int state;

	if (r->broadcast) {
		if (look)
			drop_dead(r);
		return 0;
	}
	f->seen = ring_load_acquire(&c->life);
	state = ring_life_state(f->seen);
	if (state == RING_FREE || f->told == ring_life_epoch(f->seen))
		return 0;
	if (state == RING_CLOSED)
		return -EPIPE;
	r->dead = 0;
	return look && !ring_is_held(r->peer_fd, RING_LOCK_READER) ? -EOWNERDEAD : 0;
}

/** ring_told() - the caller is told what ring_writers_gone() or ring_reader_gone() said: not again of the same peer. */
void ring_told(struct kring *r, int end)
{
	for (unsigned int i = 0; i < r->nr_flows; i++) {
		struct ring_flow *f = &r->flow[i];

		if (end == -EPIPE ? ring_life_state(f->seen) == RING_CLOSED : i == r->dead)
			f->told = ring_life_epoch(f->seen);
	}
}
