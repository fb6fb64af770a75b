// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * links.c - files with several names, until all of them have been met. See usage_internal.h.
 *
 * A hash table with open addressing, in STRIPES parts with a lock each. What is complete is taken out, so that a tree whose
 * links are all inside takes room for those alone that are half seen.
 */
#include <engine/usage/usage_internal.h>
#include <errno.h>
#include <stdlib.h>

#define STRIPES 64
#define FIRST_SIZE 64

struct link {
	uint64_t ino;
	uint64_t dev;
	uint64_t disk;
	uint64_t apparent;
	uint32_t seen; /* of its names; 0: no file */
	uint32_t top;
};

struct stripe {
	pthread_mutex_t lock;
	struct link *at;
	size_t size; /* a power of two */
	size_t nr;
};

struct links {
	struct stripe stripes[STRIPES];
};

static uint64_t hash_of(uint64_t dev, uint64_t ino)
{
	uint64_t h = (ino ^ dev * 0x9e3779b97f4a7c15ULL) * 0xff51afd7ed558ccdULL;

	return h ^ h >> 32;
}

int links_new(struct links **ret)
{
	struct links *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	for (int i = 0; i < STRIPES; i++)
		pthread_mutex_init(&l->stripes[i].lock, NULL);
	*ret = l;
	return 0;
}

void links_free(struct links *l)
{
	if (!l)
		return;
	for (int i = 0; i < STRIPES; i++) {
		pthread_mutex_destroy(&l->stripes[i].lock);
		free(l->stripes[i].at);
	}
	free(l);
}

/* Where a file is, or where it would be. The stripe's number took the hash's low bits. */
static size_t place_of(const struct stripe *s, uint64_t dev, uint64_t ino)
{
	size_t i = hash_of(dev, ino) / STRIPES & (s->size - 1);

	while (s->at[i].seen && (s->at[i].ino != ino || s->at[i].dev != dev))
		i = (i + 1) & (s->size - 1);
	return i;
}

static int make_room(struct stripe *s)
{
	struct stripe bigger = *s;

	if (s->size && s->nr < s->size / 4 * 3)
		return 0;
	bigger.size = s->size ? s->size * 2 : FIRST_SIZE;
	bigger.at = calloc(bigger.size, sizeof(*bigger.at));
	if (!bigger.at)
		return -ENOMEM;
	for (size_t i = 0; i < s->size; i++)
		if (s->at[i].seen)
			bigger.at[place_of(&bigger, s->at[i].dev, s->at[i].ino)] = s->at[i];
	free(s->at);
	s->at = bigger.at;
	s->size = bigger.size;
	return 0;
}

/* Take one out, and move those behind it that would no longer be found. */
static void take_out(struct stripe *s, size_t hole)
{
	size_t mask = s->size - 1;

	s->nr--;
	for (size_t i = (hole + 1) & mask; s->at[i].seen; i = (i + 1) & mask) {
		size_t home = hash_of(s->at[i].dev, s->at[i].ino) / STRIPES & mask;

		if (((i - home) & mask) >= ((i - hole) & mask)) {
			s->at[hole] = s->at[i];
			hole = i;
		}
	}
	s->at[hole].seen = 0;
}

int links_seen(struct links *l, uint64_t dev, uint64_t ino, uint32_t nlink,
	       const struct usage_sum *sum, uint32_t top,
	       bool (*before)(void *ctx, uint32_t a, uint32_t b), void *ctx, uint32_t *ret_top,
	       bool *ret_last, bool *ret_first)
{
	struct stripe *s = &l->stripes[hash_of(dev, ino) % STRIPES];
	struct link *k;
	int r;

	*ret_last = *ret_first = false;
	pthread_mutex_lock(&s->lock);
	r = make_room(s);
	if (r == 0) {
		k = &s->at[place_of(s, dev, ino)];
		*ret_first = !k->seen;
		if (!k->seen) {
			*k = (struct link){
				.ino = ino,
				.dev = dev,
				.disk = sum->disk,
				.apparent = sum->apparent,
				.top = top,
			};
			s->nr++;
		} else if (top != k->top && before(ctx, top, k->top)) {
			k->top = top;
		}
		if (++k->seen >= nlink) {
			*ret_top = k->top;
			*ret_last = true;
			take_out(s, (size_t)(k - s->at));
		}
	}
	pthread_mutex_unlock(&s->lock);
	return r;
}

void links_rest(struct links *l, void (*each)(void *ctx, uint32_t top, const struct usage_sum *sum),
		void *ctx)
{
	for (int i = 0; i < STRIPES; i++) {
		struct stripe *s = &l->stripes[i];

		pthread_mutex_lock(&s->lock);
		for (size_t k = 0; k < s->size; k++)
			if (s->at[k].seen)
				each(ctx, s->at[k].top,
				     &(struct usage_sum){ s->at[k].disk, s->at[k].apparent, 1 });
		pthread_mutex_unlock(&s->lock);
	}
}
