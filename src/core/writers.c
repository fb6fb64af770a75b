// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * writers.c - which entries have handles open in the mount: for writing, of memory objects; any, of streams.
 *
 * A removed stream must live as long as it is open, which cannot be asked of the kernel, since each opener has an inode of his
 * own. And the kernel checks a memfd's seals against the file that is mapped, which for a handle of the mount is not the memfd; so
 * nobody may seal against writing while such a handle is open. The list is in the shared memory. A handle's word is made of the opening
 * request's number and its place in the list: an opening that is sent again finds its own place.
 *
 * A place is charged to who opened the handle, so that no user has them all; whose it is stands in it before its word does, so a
 * worker that begins counts what there is, wherever its predecessor died.
 */
#include <core/tree.h>
#include <errno.h>
#include <stdlib.h>
#include <wire/keep.h>

#define PLACE_BITS 16

static int list_free(struct tree *t)
{
	const struct shm *shm = t->store->shm;

	t->free_writers = calloc(SHM_WRITERS, sizeof(*t->free_writers));
	if (!t->free_writers)
		return -ENOMEM;
	for (uint32_t i = SHM_WRITERS; i-- > 0;)
		if (!shm->writers[i].word)
			t->free_writers[t->nr_free_writers++] = i;
		else
			quota_handle_force(t, shm->writers[i].uid);
	return 0;
}

static uint64_t find(const struct shm *shm, uint64_t request)
{
	for (uint32_t i = 0; i < SHM_WRITERS; i++)
		if (shm->writers[i].word >> PLACE_BITS == request)
			return shm->writers[i].word;
	return 0;
}

int writers_open(struct entry *e, struct request *rq)
{
	struct tree *t = e->tree;
	struct shm *shm = t->store->shm;
	uint64_t request = rq->id[1] & (UINT64_MAX >> (PLACE_BITS + 1));
	uint32_t place;
	int r;

	rq->word = rq->resent ? find(shm, request) : 0;
	if (rq->word)
		return 0;
	if (!t->free_writers) {
		r = list_free(t);
		if (r < 0)
			return r;
	}
	if (t->nr_free_writers == 0)
		return -ENFILE;
	r = quota_handle(t, rq->cred->uid);
	if (r < 0)
		return r;
	place = t->free_writers[--t->nr_free_writers];
	rq->word = request << PLACE_BITS | place;
	shm->writers[place].entry = e->id;
	shm->writers[place].uid = rq->cred->uid;
	__atomic_store_n(&shm->writers[place].word, rq->word, __ATOMIC_RELEASE);
	return 0;
}

void writers_close(struct tree *t, uint64_t word)
{
	uint32_t place = (uint32_t)word & ((1u << PLACE_BITS) - 1);
	struct shm_writer *w = &t->store->shm->writers[place];

	if (!word || w->word != word)
		return;
	__atomic_store_n(&w->word, 0, __ATOMIC_RELEASE);
	if (!t->free_writers)
		return;
	t->free_writers[t->nr_free_writers++] = place;
	quota_handle_release(t, w->uid);
}

bool writers_any(const struct entry *e)
{
	const struct shm *shm = e->tree->store->shm;

	for (uint32_t i = 0; i < SHM_WRITERS; i++)
		if (shm->writers[i].word && shm->writers[i].entry == e->id)
			return true;
	return false;
}
