// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * done.c - what the last requests came to, for those that are sent again because their worker died; and which
 * request a worker died of, by a fault of its own (not by SIGKILL): that one is not tried for ever.
 *
 * A ring of the last KEEP_DONE_MAX transactions with a hash over it. The keeper has the same ring, written in the
 * same message as the change itself; this copy is refilled from the snapshot. A request waits for one worker at most
 * seconds, so the ring cannot be outrun by more than the requests in flight.
 */
#include <base/log.h>
#include <core/tree.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <wire/keep.h>

#define POISON_TRIES 3

struct done_entry {
	uint64_t id[2];
	uint64_t entry;
	int32_t result;
	UT_hash_handle hh;
};

struct done_table {
	struct done_entry ring[KEEP_DONE_MAX];
	unsigned int next;
	struct done_entry *hash;
};

bool done_find(struct tree *t, const struct request *rq, int *result, uint64_t *entry)
{
	struct done_entry *d = NULL;

	if (t->done)
		HASH_FIND(hh, t->done->hash, rq->id, sizeof(rq->id), d);
	if (!d)
		return false;
	*result = d->result;
	*entry = d->entry;
	return true;
}

void done_note(struct tree *t, const uint64_t id[2], int32_t result, uint64_t entry)
{
	struct done_entry *d, *old;

	if (id[0] == 0 && id[1] == 0)
		return;
	if (!t->done)
		t->done = calloc(1, sizeof(*t->done));
	if (!t->done)
		return;
	HASH_FIND(hh, t->done->hash, id, 2 * sizeof(id[0]), old);
	if (old) {
		old->result = result;
		old->entry = entry;
		return;
	}
	d = &t->done->ring[t->done->next];
	t->done->next = (t->done->next + 1) % KEEP_DONE_MAX;
	if (d->id[0] || d->id[1])
		HASH_DEL(t->done->hash, d);
	memcpy(d->id, id, sizeof(d->id));
	d->result = result;
	d->entry = entry;
	HASH_ADD(hh, t->done->hash, id, sizeof(d->id), d);
}

int tree_restore_done(struct tree *t, const uint64_t id[2], int32_t result, uint64_t entry)
{
	done_note(t, id, result, entry);
	return t->done ? 0 : -ENOMEM;
}

bool poison_enter(struct tree *t, uint64_t key)
{
	struct shm *shm = t->store->shm;

	if (shm->poison == key && shm->poison_tries >= POISON_TRIES)
		return false;
	__atomic_store_n(&shm->current, key, __ATOMIC_RELEASE);
	return true;
}

void poison_leave(struct tree *t)
{
	__atomic_store_n(&t->store->shm->current, 0, __ATOMIC_RELEASE);
}

void poison_restart(struct shm *shm)
{
	if (shm->crashed && shm->current) {
		shm->poison_tries = shm->poison == shm->current ? shm->poison_tries + 1 : 1;
		shm->poison = shm->current;
		if (shm->poison_tries == POISON_TRIES)
			log_error("%d workers have died of one request; it is refused from now on",
				  POISON_TRIES);
	}
	shm->crashed = shm->current = 0;
}

void done_free(struct tree *t)
{
	if (t->done)
		HASH_CLEAR(hh, t->done->hash);
	free(t->done);
	t->done = NULL;
}
