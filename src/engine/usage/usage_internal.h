/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * usage_internal.h - the parts of a count: the walk (walk.c), files with several names (links.c), the largest so far
 * (largest.c), mounts (mounts.c).
 */
#ifndef KSHARED_ENGINE_USAGE_INTERNAL_H
#define KSHARED_ENGINE_USAGE_INTERNAL_H

#include <engine/usage/usage.h>
#include <pthread.h>
#include <sys/types.h>

#define NO_TOP UINT32_MAX

/** usage_add() - sum up. */
static inline void usage_add(struct usage_sum *to, const struct usage_sum *what)
{
	to->disk += what->disk;
	to->apparent += what->apparent;
	to->count += what->count;
}

/** usage_value() - the number that entries are sorted by. */
static inline uint64_t usage_value(const struct usage_sum *s, enum usage_by by)
{
	return by == USAGE_DISK ? s->disk : by == USAGE_APPARENT ? s->apparent : s->count;
}

/*
 * largest.c: the @max largest items by (value descending, name ascending). Many threads.
 */
struct largest {
	pthread_mutex_t lock;
	struct usage_item *heap; /* the least of them is the first */
	size_t nr;
	size_t max;
	enum usage_by by;
	uint64_t least; /* no item of a smaller value is wanted; read without the lock */
	uint64_t *inodes; /* pairs of device and inode number, beside the heap; 0: it has but one name */
};

/** largest_init() - Return: 0; -ENOMEM. */
int largest_init(struct largest *l, size_t max, enum usage_by by);

/** largest_wants() - may an item of this sum be one of them? */
static inline bool largest_wants(const struct largest *l, const struct usage_sum *s)
{
	return usage_value(s, l->by) >= __atomic_load_n(&l->least, __ATOMIC_RELAXED);
}

/**
 * largest_put() - take an item in, if it is one of the largest.
 * @name: copied
 * @dev, @ino: of a file with several names, which is one item, under the first of them; else 0
 * Return: 0; -ENOMEM.
 */
int largest_put(struct largest *l, const char *name, const struct usage_sum *s, uint32_t mode, uint64_t dev,
		uint64_t ino);

/** largest_take() - the items, sorted; the caller's. */
void largest_take(struct largest *l, struct usage_item **ret, size_t *ret_nr);

/** largest_deinit() - free what is left. */
void largest_deinit(struct largest *l);

/*
 * links.c: files with several names. Many threads.
 */
struct links;

/** links_new() - Return: 0; -ENOMEM. */
int links_new(struct links **ret);

/**
 * links_seen() - one name of a file was met.
 * @nlink: how many it has
 * @top: below which entry
 * @before: is the first entry's name before the second's?
 * @ret_top: when all its names have been seen: for which entry it counts. Else NO_TOP: it is remembered
 * @ret_first: this is the first of its names that was met
 * Return: 0; -ENOMEM.
 */
int links_seen(struct links *l, uint64_t dev, uint64_t ino, uint32_t nlink, const struct usage_sum *sum, uint32_t top,
	       bool (*before)(void *ctx, uint32_t a, uint32_t b), void *ctx, uint32_t *ret_top, bool *ret_first);

/** links_rest() - call @each for every file of which not all names were met. */
void links_rest(struct links *l, void (*each)(void *ctx, uint32_t top, const struct usage_sum *sum), void *ctx);

/** links_free() - @l may be NULL. */
void links_free(struct links *l);

/*
 * mounts.c: which mounts below a directory show what is counted elsewhere.
 */
struct mounts;

/** mounts_new() - read the mount table. @dir: open. Return: 0; -errno. */
int mounts_new(struct mounts **ret, int dir);

/** mounts_skip() - is the mount @id one to be left out? */
bool mounts_skip(const struct mounts *m, uint64_t id);

/** mounts_free() - @m may be NULL. */
void mounts_free(struct mounts *m);

#endif
