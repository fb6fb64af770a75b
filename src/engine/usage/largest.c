// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * largest.c - a heap of the largest items, the least of them on top. See usage_internal.h.
 */
#include <engine/usage/usage_internal.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int largest_init(struct largest *l, size_t max, enum usage_by by)
{
	*l = (struct largest){ .max = max, .by = by };
	return pthread_mutex_init(&l->lock, NULL) ? -ENOMEM : 0;
}

/* Is @a to be listed before @b? */
static bool is_before(const struct largest *l, uint64_t a, const char *name,
		      const struct usage_item *b)
{
	uint64_t value = usage_value(&b->sum, l->by);

	return a != value ? a > value : strcmp(name, b->name) < 0;
}

static bool item_before(const struct largest *l, size_t a, size_t b)
{
	return is_before(l, usage_value(&l->heap[a].sum, l->by), l->heap[a].name, &l->heap[b]);
}

static void swap(struct largest *l, size_t a, size_t b)
{
	struct usage_item item = l->heap[a];
	uint64_t dev = l->inodes[2 * a], ino = l->inodes[2 * a + 1];

	l->heap[a] = l->heap[b];
	l->heap[b] = item;
	memcpy(&l->inodes[2 * a], &l->inodes[2 * b], 2 * sizeof(dev));
	l->inodes[2 * b] = dev;
	l->inodes[2 * b + 1] = ino;
}

static void up(struct largest *l, size_t i)
{
	while (i && item_before(l, (i - 1) / 2, i)) {
		swap(l, i, (i - 1) / 2);
		i = (i - 1) / 2;
	}
}

static void down(struct largest *l, size_t i)
{
	for (;;) {
		size_t least = i;

		for (size_t child = 2 * i + 1; child <= 2 * i + 2 && child < l->nr; child++)
			if (item_before(l, least, child))
				least = child;
		if (least == i)
			return;
		swap(l, i, least);
		i = least;
	}
}

/* There is room for a power of two of them. */
static int grow(struct largest *l)
{
	size_t n = l->nr ? l->nr * 2 : 1;
	struct usage_item *heap;
	uint64_t *inodes;

	if (l->nr & (l->nr - 1))
		return 0;
	heap = reallocarray(l->heap, n, sizeof(*heap));
	if (!heap)
		return -ENOMEM;
	l->heap = heap;
	inodes = reallocarray(l->inodes, n, 2 * sizeof(*inodes));
	if (!inodes)
		return -ENOMEM;
	l->inodes = inodes;
	return 0;
}

/* The item of a file with several names. Return: its place; nr: there is none. */
static size_t find(const struct largest *l, uint64_t dev, uint64_t ino)
{
	size_t i = 0;

	while (i < l->nr && (l->inodes[2 * i] != dev || l->inodes[2 * i + 1] != ino))
		i++;
	return i;
}

static int put(struct largest *l, const char *name, const struct usage_sum *s, uint32_t mode,
	       uint64_t dev, uint64_t ino)
{
	uint64_t value = usage_value(s, l->by);
	size_t at = ino ? find(l, dev, ino) : l->nr;
	char *copy;

	if (at < l->nr ? strcmp(name, l->heap[at].name) >= 0
		       : l->nr == l->max && !is_before(l, value, name, &l->heap[0]))
		return 0;
	copy = strdup(name);
	if (!copy || (at == l->nr && l->nr < l->max && grow(l) < 0)) {
		free(copy);
		return -ENOMEM;
	}
	if (at < l->nr) { /* a name that comes earlier */
		free(l->heap[at].name);
		l->heap[at].name = copy;
		up(l, at);
		down(l, at);
		return 0;
	}
	if (l->nr == l->max) {
		free(l->heap[0].name);
		at = 0;
	} else {
		at = l->nr++;
	}
	l->heap[at] = (struct usage_item){ .name = copy, .sum = *s, .mode = mode };
	l->inodes[2 * at] = dev;
	l->inodes[2 * at + 1] = ino;
	up(l, at);
	down(l, at);
	if (l->nr == l->max)
		__atomic_store_n(&l->least, usage_value(&l->heap[0].sum, l->by), __ATOMIC_RELAXED);
	return 0;
}

int largest_put(struct largest *l, const char *name, const struct usage_sum *s, uint32_t mode,
		uint64_t dev, uint64_t ino)
{
	int r;

	if (!largest_wants(l, s))
		return 0;
	pthread_mutex_lock(&l->lock);
	r = put(l, name, s, mode, dev, ino);
	pthread_mutex_unlock(&l->lock);
	return r;
}

void largest_take(struct largest *l, struct usage_item **ret, size_t *ret_nr)
{
	/* Threads that hang, and are left, may come back and put something in. */
	pthread_mutex_lock(&l->lock);
	*ret_nr = l->nr;
	/* The least goes last, again and again. */
	while (l->nr > 1) {
		swap(l, 0, l->nr - 1);
		l->nr--;
		down(l, 0);
	}
	*ret = l->heap;
	l->heap = NULL;
	l->nr = 0;
	pthread_mutex_unlock(&l->lock);
}

void largest_deinit(struct largest *l)
{
	for (size_t i = 0; i < l->nr; i++)
		free(l->heap[i].name);
	free(l->heap);
	free(l->inodes);
	pthread_mutex_destroy(&l->lock);
}
