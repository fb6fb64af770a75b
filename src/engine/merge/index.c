// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * index.c - see index.h.
 */
#include <engine/merge/index.h>
#include <errno.h>
#include <stdlib.h>

#define FIRST_PLACES 4096u

void index_init(struct index *index, uint64_t max_entries)
{
	*index = (struct index){ .max_entries = max_entries };
}

void index_deinit(struct index *index)
{
	free(index->entry);
	*index = (struct index){ 0 };
}

/* The content's own place, or the empty one where it would be put. */
static struct index_entry *place(const struct index *index, const struct content_hash *hash)
{
	uint64_t mask = index->nr_places - 1, at = hash->low & mask;

	while (index->entry[at].member &&
	       (index->entry[at].hash.low != hash->low || index->entry[at].hash.high != hash->high))
		at = (at + 1) & mask;
	return &index->entry[at];
}

/* Make it anew with @nr_places, without the sightings of @member (0: all stay) and those made before @call. */
static int rebuild(struct index *index, uint64_t nr_places, uint32_t member, uint32_t call)
{
	struct index old = *index;
	struct index_entry *entry = calloc(nr_places, sizeof(*entry));

	if (!entry)
		return -ENOMEM;
	index->entry = entry;
	index->nr_places = nr_places;
	index->nr_entries = index->nr_first = 0;
	for (uint64_t i = 0; i < old.nr_places; i++) {
		const struct index_entry *from = &old.entry[i];

		if (!from->member)
			continue;
		if (from->member != INDEX_STORE && (from->member == member || from->call < call))
			continue;
		*place(index, &from->hash) = *from;
		index->nr_entries++;
		index->nr_first += from->member != INDEX_STORE;
	}
	free(old.entry);
	return 0;
}

void index_prefetch(const struct index *index, const struct content_hash *hash)
{
	if (index->nr_places)
		__builtin_prefetch(&index->entry[hash->low & (index->nr_places - 1)]);
}

struct index_entry *index_find(struct index *index, const struct content_hash *hash)
{
	struct index_entry *entry = index->nr_places ? place(index, hash) : NULL;

	return entry && entry->member ? entry : NULL;
}

int index_add(struct index *index, const struct index_entry *entry)
{
	int r;

	if (index->max_entries && index->nr_entries >= index->max_entries) {
		/* Rebuilding for a few places would be done over and over. */
		if (index->nr_first < index->max_entries / 4 || index->full_in == entry->call)
			return -ENOSPC;
		index->full_in = entry->call;
		r = rebuild(index, index->nr_places, 0, entry->call);
		if (r < 0 || index->nr_entries >= index->max_entries)
			return r < 0 ? r : -ENOSPC;
	}
	if ((index->nr_entries + 1) * 10 > index->nr_places * 7) {
		r = rebuild(index, index->nr_places ? index->nr_places * 2 : FIRST_PLACES, 0, 0);
		if (r < 0)
			return r;
	}
	*place(index, &entry->hash) = *entry;
	index->nr_entries++;
	index->nr_first += entry->member != INDEX_STORE;
	return 0;
}

void index_set(struct index *index, struct index_entry *entry, uint32_t member, uint64_t where,
	       uint32_t call)
{
	index->nr_first -= entry->member != INDEX_STORE;
	index->nr_first += member != INDEX_STORE;
	entry->member = member;
	entry->where = where;
	entry->call = call;
}

void index_forget(struct index *index, uint32_t member)
{
	if (index->nr_places)
		rebuild(index, index->nr_places, member, 0);
}
