/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * store.h - the stable store of one partition: memfd segments whose pages are written once.
 *
 * A segment is mapped for writing by us, then sealed: from then on nobody can write it by a new mapping or a call, or change its size. Pages are
 * given out in rising order, so that what was seen one after the other can be mapped as one run. A page is never used for other content:
 * somebody whom we do not know (a forked child) may map it. Memory is given back by whole segments, when no page of one has a
 * reference. Not thread-safe, except that store_page() and store_write() of different pages may run at once.
 */
#ifndef KSHARED_ENGINE_MERGE_STORE_H
#define KSHARED_ENGINE_MERGE_STORE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define STORE_NONE UINT64_MAX

/**
 * struct segment - one memfd.
 * @refs: for each page, how many pages of members it stands for
 * @copies: for each page, how many behind it have been given out with it, to hold the same
 * @nr_used: pages given out, from the first
 * @nr_refs: sum of @refs
 */
struct segment {
	int fd;
	unsigned char *base;
	dev_t dev;
	ino_t ino;
	uint32_t nr_used;
	uint64_t nr_refs;
	uint32_t *refs;
	uint8_t *copies;
};

/**
 * struct store - segments by their number; NULL where one has been freed.
 * @nr_pages: pages given out in segments that exist
 * @max_pages: of them; 0: no limit
 */
struct store {
	char name[64];
	struct segment **segment;
	uint32_t nr_segments;
	uint32_t segment_pages;
	uint64_t nr_pages;
	uint64_t max_pages;
};

/** store_init() - an empty store. @name: for people who look at mappings. @segment_pages: a power of two. */
void store_init(struct store *store, const char *name, uint32_t segment_pages, uint64_t max_pages);

/** store_deinit() - free all segments; who maps their pages keeps them. */
void store_deinit(struct store *store);

/**
 * store_new_page() - a page to be written once, and @nr_copies more behind it that are to hold the same.
 * @ret: its number: the segment's, and the page's in it in the lower 32 bits
 * Return: 0, and at most as many copies as wanted (store_copies()); -ENOSPC the store is full; -ENOMEM, -EMFILE no new segment.
 */
int store_new_page(struct store *store, uint8_t nr_copies, uint64_t *ret);

/** store_copies() - how many pages right behind this one hold the same. */
uint8_t store_copies(const struct store *store, uint64_t page);

/** store_page() - a page's bytes, to be read. @page: one that exists */
const unsigned char *store_page(const struct store *store, uint64_t page);

/** store_write() - fill a new page and its copies. @content: 4096 bytes */
void store_write(struct store *store, uint64_t page, const void *content);

/** store_has() - is there such a page still? */
bool store_has(const struct store *store, uint64_t page);

/** store_segment() - the segment of a page that exists. */
struct segment *store_segment(const struct store *store, uint64_t page);

/** store_find() - the number of the segment that is this file. Return: it; -1: none of ours. */
int store_find(const struct store *store, dev_t dev, ino_t ino);

/** store_ref() - count references to a page that exists. @delta: added */
void store_ref(struct store *store, uint64_t page, int delta);

/** store_sweep() - free the segments without references. Return: how many. */
uint32_t store_sweep(struct store *store);

#endif
