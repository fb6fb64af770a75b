/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * index.h - what content a partition has seen: by hash, either a page of the store, or where it was seen first.
 *
 * Open addressing, 32 bytes an entry, at most 70 % full, and never more than max_entries: when there is no more room,
 * sightings of earlier calls are forgotten, and if that does not help new ones are not kept. Only a hint in every case: equality is
 * found out by comparing. Not thread-safe.
 */
#ifndef KSHARED_ENGINE_MERGE_INDEX_H
#define KSHARED_ENGINE_MERGE_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#define INDEX_STORE UINT32_MAX

/** struct content_hash - xxh3, 128 bits. */
struct content_hash {
	uint64_t low;
	uint64_t high;
};

/**
 * struct index_entry - one content.
 * @member: 0: an empty place; INDEX_STORE: @where is a page of the store; else the member whose page at address @where was the first
 * @call: number of the call that saw it
 */
struct index_entry {
	struct content_hash hash;
	uint64_t where;
	uint32_t member;
	uint32_t call;
};

/** struct index - @nr_first: entries that are sightings; @full_in: the last call that made room, which is done once. */
struct index {
	struct index_entry *entry;
	uint64_t nr_places; /* a power of two, or 0 */
	uint64_t nr_entries;
	uint64_t nr_first;
	uint64_t max_entries;
	uint32_t full_in;
};

/** index_init() - an empty index. @max_entries: 0: no limit */
void index_init(struct index *index, uint64_t max_entries);

/** index_deinit() - free it. */
void index_deinit(struct index *index);

/** index_prefetch() - this content will be looked for soon. */
void index_prefetch(const struct index *index, const struct content_hash *hash);

/** index_find() - the entry of this content; valid until the next index_add(). Return: it; NULL: not seen. */
struct index_entry *index_find(struct index *index, const struct content_hash *hash);

/**
 * index_add() - a content that index_find() did not find.
 * Return: 0; -ENOSPC it is not kept, since there is no room; -ENOMEM the same.
 */
int index_add(struct index *index, const struct index_entry *entry);

/** index_set() - change what an entry says; its hash stays. */
void index_set(struct index *index, struct index_entry *entry, uint32_t member, uint64_t where,
	       uint32_t call);

/** index_forget() - drop all sightings of a member. */
void index_forget(struct index *index, uint32_t member);

#endif
