// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * store.c - see store.h.
 */
#include <base/cleanup.h>
#include <engine/merge/store.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <wire/merge.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#define AHEAD 64u /* pages */

void store_init(struct store *store, const char *name, uint32_t segment_pages, uint64_t max_pages)
{
	*store = (struct store){ .segment_pages = segment_pages, .max_pages = max_pages };
	snprintf(store->name, sizeof(store->name), "ksm:%s", name);
}

static void segment_free(struct segment *segment, uint32_t nr_pages)
{
	if (!segment)
		return;
	if (segment->base)
		munmap(segment->base, (size_t)nr_pages * MERGE_PAGE);
	if (segment->fd >= 0)
		close(segment->fd);
	free(segment->refs);
	free(segment->copies);
	free(segment);
}

void store_deinit(struct store *store)
{
	for (uint32_t i = 0; i < store->nr_segments; i++)
		segment_free(store->segment[i], store->segment_pages);
	free(store->segment);
	*store = (struct store){ 0 };
}

/* The mapping is made before the seals: it is the only one that can ever write. */
static int segment_fill(struct segment *segment, const char *name, uint32_t nr_pages)
{
	size_t size = (size_t)nr_pages * MERGE_PAGE;
	struct stat st;
	void *base;

	segment->fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
	if (segment->fd < 0 && errno == EINVAL)
		segment->fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (segment->fd < 0 || ftruncate(segment->fd, (off_t)size) < 0 ||
	    fstat(segment->fd, &st) < 0)
		return -errno;
	base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, segment->fd, 0);
	if (base == MAP_FAILED)
		return -errno;
	segment->base = base;
	madvise(base, size, MADV_DONTFORK);
	madvise(base, size, MADV_DONTDUMP);
	if (fcntl(segment->fd, F_ADD_SEALS,
		  F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0)
		return -errno;
	segment->dev = st.st_dev;
	segment->ino = st.st_ino;
	segment->refs = calloc(nr_pages, sizeof(*segment->refs));
	segment->copies = calloc(nr_pages, sizeof(*segment->copies));
	return segment->refs && segment->copies ? 0 : -ENOMEM;
}

static int add_segment(struct store *store)
{
	struct segment *segment = calloc(1, sizeof(*segment));
	struct segment **more;
	int r;

	if (!segment)
		return -ENOMEM;
	segment->fd = -1;
	r = segment_fill(segment, store->name, store->segment_pages);
	more = r < 0 ? NULL : reallocarray(store->segment, store->nr_segments + 1, sizeof(*more));
	if (!more) {
		segment_free(segment, store->segment_pages);
		return r < 0 ? r : -ENOMEM;
	}
	store->segment = more;
	store->segment[store->nr_segments++] = segment;
	return 0;
}

/* A few pages ahead by one call: a third of the cost of a fault each. @nr_used: as many as there will be */
static void make_room(const struct store *store, const struct segment *segment, uint32_t nr_used)
{
	uint32_t have = (segment->nr_used + AHEAD - 1) / AHEAD * AHEAD;
	uint32_t want = (nr_used + AHEAD - 1) / AHEAD * AHEAD;

	if (want > store->segment_pages)
		want = store->segment_pages;
	if (have < want)
		madvise(segment->base + (size_t)have * MERGE_PAGE,
			(size_t)(want - have) * MERGE_PAGE, MADV_POPULATE_WRITE);
}

int store_new_page(struct store *store, uint8_t nr_copies, uint64_t *ret)
{
	struct segment *last = store->nr_segments ? store->segment[store->nr_segments - 1] : NULL;
	uint32_t room;

	if (store->max_pages && store->nr_pages >= store->max_pages)
		return -ENOSPC;
	if (!last || last->nr_used == store->segment_pages) {
		int r = add_segment(store);

		if (r < 0)
			return r;
		last = store->segment[store->nr_segments - 1];
	}
	room = store->segment_pages - last->nr_used - 1;
	if (store->max_pages && store->max_pages - store->nr_pages - 1 < room)
		room = (uint32_t)(store->max_pages - store->nr_pages - 1);
	if (nr_copies > room)
		nr_copies = (uint8_t)room;
	make_room(store, last, last->nr_used + 1 + nr_copies);
	*ret = (uint64_t)(store->nr_segments - 1) << 32 | last->nr_used;
	for (uint32_t i = 0; i <= nr_copies; i++)
		last->copies[last->nr_used++] = (uint8_t)(nr_copies - i);
	store->nr_pages += 1u + nr_copies;
	return 0;
}

uint8_t store_copies(const struct store *store, uint64_t page)
{
	return store_segment(store, page)->copies[(uint32_t)page];
}

struct segment *store_segment(const struct store *store, uint64_t page)
{
	return store->segment[page >> 32];
}

const unsigned char *store_page(const struct store *store, uint64_t page)
{
	return store_segment(store, page)->base + (size_t)(uint32_t)page * MERGE_PAGE;
}

void store_write(struct store *store, uint64_t page, const void *content)
{
	unsigned char *to = store_segment(store, page)->base + (size_t)(uint32_t)page * MERGE_PAGE;

	for (unsigned int i = 0; i <= store_copies(store, page); i++)
		memcpy(to + (size_t)i * MERGE_PAGE, content, MERGE_PAGE);
}

bool store_has(const struct store *store, uint64_t page)
{
	uint64_t number = page >> 32;

	return number < store->nr_segments && store->segment[number] &&
		(uint32_t)page < store->segment[number]->nr_used;
}

int store_find(const struct store *store, dev_t dev, ino_t ino)
{
	for (uint32_t i = 0; i < store->nr_segments; i++)
		if (store->segment[i] && store->segment[i]->ino == ino &&
		    store->segment[i]->dev == dev)
			return (int)i;
	return -1;
}

void store_ref(struct store *store, uint64_t page, int delta)
{
	struct segment *segment = store_segment(store, page);

	segment->refs[(uint32_t)page] += (uint32_t)delta;
	segment->nr_refs += (uint64_t)(int64_t)delta;
}

uint32_t store_sweep(struct store *store)
{
	uint32_t nr_freed = 0;

	for (uint32_t i = 0; i < store->nr_segments; i++) {
		struct segment *segment = store->segment[i];

		if (!segment || segment->nr_refs || segment->nr_used == 0)
			continue;
		store->nr_pages -= segment->nr_used;
		segment_free(segment, store->segment_pages);
		store->segment[i] = NULL;
		nr_freed++;
	}
	return nr_freed;
}
