// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * marks.c - where the walk changes over from what counts to what does not: paths below the directory, sorted. See mounts_internal.h.
 *
 * A directory of the walk knows which of the marks are at it, or below it; so it is a search among these for each entry, and
 * nothing where there are none.
 */
#include <base/cleanup.h>
#include <engine/usage/mounts_internal.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int mounts_compare(const char *a, const char *b)
{
	while (*a && *a == *b) {
		a++;
		b++;
	}
	if (*a == *b)
		return 0;
	if (!*a || !*b)
		return *a ? 1 : -1;
	if (*a == '/' || *b == '/')
		return *a == '/' ? -1 : 1;
	return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
}

int marks_add(struct mounts *m, const char *path, uint64_t id, bool counts)
{
	struct mark *grown = m->marks;

	if ((m->nr_marks & (m->nr_marks - 1)) == 0)
		grown = reallocarray(m->marks, m->nr_marks ? 2 * m->nr_marks : 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	m->marks = grown;
	m->marks[m->nr_marks] = (struct mark){ .path = strdup(path), .id = id, .counts = counts };
	return m->marks[m->nr_marks++].path ? 0 : -ENOMEM;
}

static int compare_marks(const void *a, const void *b)
{
	const struct mark *x = a, *y = b;

	return mounts_compare(x->path, y->path);
}

int marks_sort(struct mounts *m)
{
	cleanup_free struct mark *all = m->marks;
	cleanup_free size_t *above = calloc(m->nr_marks + 1, sizeof(*above));
	size_t nr = m->nr_marks, depth = 0;

	if (!m->nr_marks)
		return 0;
	m->marks = calloc(nr, sizeof(*m->marks));
	if (!m->marks || !above) {
		free(m->marks);
		m->marks = take_ptr(all);
		return -ENOMEM;
	}
	qsort(all, nr, sizeof(*all), compare_marks);
	m->nr_marks = 0;
	for (size_t i = 0; i < nr; i++) {
		while (depth && !path_below(all[i].path, m->marks[above[depth - 1]].path))
			depth--;
		if (all[i].counts == (!depth || m->marks[above[depth - 1]].counts)) {
			free(all[i].path);
			continue;
		}
		above[depth++] = m->nr_marks;
		m->marks[m->nr_marks++] = all[i];
	}
	return 0;
}

struct marks mounts_first(const struct mounts *m)
{
	return (struct marks){ .to = m->nr_marks };
}

/* How the mark's path goes on below those that @at is at: compared with a name. */
static int compare_next(const struct mark *k, const struct marks *at, const char *name, size_t len)
{
	const char *next = k->path + at->len;
	size_t n = *next ? strcspn(++next, "/") : 0;
	size_t i = 0;

	while (i < n && i < len && next[i] == name[i])
		i++;
	if (i == n || i == len)
		return (n > len) - (n < len);
	return (unsigned char)next[i] < (unsigned char)name[i] ? -1 : 1;
}

/* The first mark that does not come before the name; @after: that comes after it. */
static size_t bound(const struct mounts *m, const struct marks *at, const char *name, size_t len,
		    bool after)
{
	size_t from = at->from, to = at->to;

	while (from < to) {
		size_t middle = from + (to - from) / 2;

		if (compare_next(&m->marks[middle], at, name, len) < after)
			from = middle + 1;
		else
			to = middle;
	}
	return from;
}

struct marks mounts_below(const struct mounts *m, const struct marks *at, const char *name)
{
	size_t len = strlen(name);

	return (struct marks){
		.from = bound(m, at, name, len, false),
		.to = bound(m, at, name, len, true),
		.len = at->len + 1 + len,
	};
}

char *mounts_next(const struct mounts *m, const struct marks *at, size_t *i)
{
	const char *name;
	size_t len;

	if (*i < at->from)
		*i = at->from;
	while (*i < at->to && !m->marks[*i].path[at->len])
		++*i;
	if (*i >= at->to)
		return NULL;
	name = m->marks[*i].path + at->len + 1;
	len = strcspn(name, "/");
	*i = bound(m, at, name, len, true);
	return strndup(name, len);
}

enum mounts_say mounts_say(const struct mounts *m, const struct marks *at, uint64_t id)
{
	const struct mark *k = at->from < at->to ? &m->marks[at->from] : NULL;

	if (!k || k->path[at->len] || k->id != id)
		return MOUNTS_AS_ABOVE;
	return k->counts ? MOUNTS_COUNT : MOUNTS_LEAVE_OUT;
}
