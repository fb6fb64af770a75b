// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * largest.c - a heap of the largest items, the least of them on top; files with several names can be found in it by a hash table. See
 * usage_internal.h.
 */
#include <engine/usage/usage_internal.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* An item of a file with several names. @at: where in the heap */
struct largest_file {
	uint64_t dev;
	uint64_t ino;
	size_t at;
	struct largest_file *next;
};

#define FIRST_BUCKETS 16

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
	struct largest_file *file = l->files[a];

	l->heap[a] = l->heap[b];
	l->heap[b] = item;
	l->files[a] = l->files[b];
	l->files[b] = file;
	if (l->files[a])
		l->files[a]->at = a;
	if (file)
		file->at = b;
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
	struct largest_file **files;

	if (l->nr & (l->nr - 1))
		return 0;
	heap = reallocarray(l->heap, n, sizeof(*heap));
	if (!heap)
		return -ENOMEM;
	l->heap = heap;
	files = reallocarray(l->files, n, sizeof(*files));
	if (!files)
		return -ENOMEM;
	l->files = files;
	return 0;
}

/* Where in the table a file is; at the end of a chain, if it is not. There are buckets. */
static struct largest_file **place_of(const struct largest *l, uint64_t dev, uint64_t ino)
{
	uint64_t h = (ino ^ dev * 0x9e3779b97f4a7c15ULL) * 0xff51afd7ed558ccdULL;
	struct largest_file **f = &l->buckets[(h ^ h >> 32) & (l->nr_buckets - 1)];

	while (*f && ((*f)->ino != ino || (*f)->dev != dev))
		f = &(*f)->next;
	return f;
}

/* Have as many buckets as files, at least. */
static int make_room(struct largest *l)
{
	struct largest bigger = { .nr_buckets = l->nr_buckets ? 2 * l->nr_buckets : FIRST_BUCKETS };

	if (l->nr_files < l->nr_buckets)
		return 0;
	bigger.buckets = calloc(bigger.nr_buckets, sizeof(struct largest_file *));
	if (!bigger.buckets)
		return -ENOMEM;
	for (size_t i = 0; i < l->nr; i++)
		if (l->files[i]) {
			l->files[i]->next = NULL;
			*place_of(&bigger, l->files[i]->dev, l->files[i]->ino) = l->files[i];
		}
	free(l->buckets);
	l->buckets = bigger.buckets;
	l->nr_buckets = bigger.nr_buckets;
	return 0;
}

/* Remember that an item is a file with several names. It is not in the heap yet. Return: NULL without memory. */
static struct largest_file *add_file(struct largest *l, uint64_t dev, uint64_t ino)
{
	struct largest_file *f = make_room(l) == 0 ? malloc(sizeof(*f)) : NULL;

	if (!f)
		return NULL;
	*f = (struct largest_file){ .dev = dev, .ino = ino };
	*place_of(l, dev, ino) = f;
	l->nr_files++;
	return f;
}

/* An item is no longer one of the largest. */
static void drop(struct largest *l, size_t i)
{
	struct largest_file *f = l->files[i];

	free(l->heap[i].name);
	if (!f)
		return;
	*place_of(l, f->dev, f->ino) = f->next;
	free(f);
	l->nr_files--;
}

static int put(struct largest *l, const char *name, const struct usage_sum *s, uint32_t mode,
	       uint64_t dev, uint64_t ino)
{
	uint64_t value = usage_value(s, l->by);
	struct largest_file *file = ino && l->nr_buckets ? *place_of(l, dev, ino) : NULL;
	size_t at = file ? file->at : l->nr;
	char *copy;

	if (at < l->nr ? strcmp(name, l->heap[at].name) >= 0
		       : l->nr == l->max && !is_before(l, value, name, &l->heap[0]))
		return 0;
	copy = strdup(name);
	if (!copy || (at == l->nr && l->nr < l->max && grow(l) < 0) ||
	    (at == l->nr && ino && !(file = add_file(l, dev, ino)))) {
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
		drop(l, 0);
		at = 0;
	} else {
		at = l->nr++;
	}
	l->heap[at] = (struct usage_item){ .name = copy, .sum = *s, .mode = mode };
	l->files[at] = file;
	if (file)
		file->at = at;
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

/* Forget which are files with several names. */
static void free_files(struct largest *l)
{
	for (size_t i = 0; i < l->nr_buckets; i++)
		for (struct largest_file *f = l->buckets[i], *next; f; f = next) {
			next = f->next;
			free(f);
		}
	free(l->buckets);
	free(l->files);
	l->buckets = NULL;
	l->files = NULL;
	l->nr_buckets = l->nr_files = 0;
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
	free_files(l);
	l->nr = 0;
	pthread_mutex_unlock(&l->lock);
}

void largest_deinit(struct largest *l)
{
	for (size_t i = 0; i < l->nr; i++)
		free(l->heap[i].name);
	free(l->heap);
	free_files(l);
	pthread_mutex_destroy(&l->lock);
}
