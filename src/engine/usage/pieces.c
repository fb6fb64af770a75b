// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pieces.c - which directories below the one that is counted show what is counted elsewhere. See usage_internal.h.
 *
 * The same files appear in several places where a part of a file system is mounted again (mount --bind). The mount table says of every
 * mount which part of which file system it shows: a device and a path in it. So it is known in advance, and by paths alone, where
 * something can appear again. Each device's tree of paths is cut where a mounted part begins, and where something is mounted on it
 * in one place and perhaps not in another. Between these cuts are the pieces. Each place that a piece can be seen at shows all of it, or
 * nothing, so it is enough to choose one place for each, and to mark where the walk changes over from pieces that count to such that
 * do not. Below these it follows the marks alone, without reading directories.
 *
 * Of several places the first in this order has the piece: the directory's own mount; one that shows a larger part; the one whose
 * mount point comes first. With a depth, the one that is nearest to the directory goes before, since it shows most. A place counts
 * only if the walk comes there: it is not covered, excluded or too deep, and not in a directory that is within itself (a bind mount of
 * something above): what is in there is all to be seen above, but for what is mounted there.
 *
 * A pattern with a slash can leave out a part of a piece in one place alone. The tree is cut where such a pattern's fixed part ends, and
 * places below that come last.
 *
 * A deleted directory or file that is still mounted has no path. Its inode number stands for it; a file may have other names
 * (mounts_nameless()).
 *
 * The costs: sorting; and for each mount the pieces in its part of which one is not yet taken. Nothing of this is there while walking
 * unless something appears twice: there are no marks then.
 */
#include <base/cleanup.h>
#include <engine/usage/mounts_internal.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How much of a pattern is the path of a directory below which alone it matches; all of it: a path. Not for one without a slash. */
static size_t fixed(const char *pattern)
{
	size_t len = strcspn(pattern, "*?[\\");

	while (pattern[len] && len && pattern[--len] != '/')
		;
	return len;
}

/* Is it where a pattern may leave out a part of what is below? */
static bool in_part(const struct mounts *m, const char *after)
{
	for (const char *const *p = m->o->excludes; p && *p; p++) {
		size_t len = fixed(*p);

		if (strchr(*p, '/') && (*p)[len] &&
		    (!len ||
		     (strlen(after) > len && strncmp(after + 1, *p, len) == 0 &&
		      (!after[len + 1] || after[len + 1] == '/'))))
			return true;
	}
	return false;
}

/* Cut where a pattern's fixed part ends. */
static int cut_by_patterns(struct mounts *m)
{
	for (const char *const *p = m->o->excludes; p && *p; p++) {
		const struct mount *in = NULL;
		cleanup_free char *path = NULL;
		char **grown;
		size_t len = fixed(*p);

		if (!strchr(*p, '/') || !len)
			continue;
		path = malloc(len + 2);
		if (!path)
			return -ENOMEM;
		sprintf(path, "/%.*s", (int)len, *p);
		if (strstr(path, "//") || path[len] == '/')
			continue; /* no path is like that */
		for (size_t i = 0; i < m->nr_met; i++)
			if (path_below(path, m->met[i]->after) &&
			    (!in || strlen(m->met[i]->after) >= strlen(in->after)))
				in = m->met[i];
		grown = reallocarray(m->cuts, m->nr_cuts + 1, sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		m->cuts = grown;
		m->cuts[m->nr_cuts] = path_join(part_of(m, in), path_below(path, in->after));
		if (!m->cuts[m->nr_cuts++])
			return -ENOMEM;
		m->pieces[m->nr_pieces++] =
			(struct piece){ .dev = in->dev, .path = m->cuts[m->nr_cuts - 1] };
	}
	return 0;
}

static int compare_pieces(const void *a, const void *b)
{
	const struct piece *x = a, *y = b;

	return x->dev == y->dev ? mounts_compare(x->path, y->path)
				: (x->dev > y->dev) - (x->dev < y->dev);
}

static size_t piece_at(const struct mounts *m, uint64_t dev, const char *path)
{
	const struct piece key = { .dev = dev, .path = path };

	return (size_t)((struct piece *)bsearch(&key, m->pieces, m->nr_pieces, sizeof(key),
						compare_pieces) -
			m->pieces);
}

/* The pieces that all these mounts cut their file systems into. */
static int cut(struct mounts *m)
{
	size_t nr = 0, max = 2 * m->nr_met;

	for (size_t i = 0; i < m->nr_met; i++)
		for (const struct mount *x = m->met[i]->first; x; x = x->next)
			max++;
	for (const char *const *p = m->o->excludes; p && *p; p++)
		max++;
	m->pieces = calloc(max, sizeof(*m->pieces));
	if (!m->pieces)
		return -ENOMEM;
	for (size_t i = 0; i < m->nr_met; i++) {
		const struct mount *x = m->met[i];

		m->pieces[m->nr_pieces++] = (struct piece){ .dev = x->dev, .path = part_of(m, x) };
		for (const struct mount *y = x->first; y; y = y->next)
			m->pieces[m->nr_pieces++] =
				(struct piece){ .dev = x->dev, .path = y->under };
	}
	if (cut_by_patterns(m) < 0)
		return -ENOMEM;
	qsort(m->pieces, m->nr_pieces, sizeof(*m->pieces), compare_pieces);
	for (size_t i = 0; i < m->nr_pieces; i++)
		if (!nr || compare_pieces(&m->pieces[nr - 1], &m->pieces[i]) != 0)
			m->pieces[nr++] = m->pieces[i];
	m->nr_pieces = nr;
	for (size_t i = 0; i < nr; i++) {
		struct piece *p = &m->pieces[i];

		p->up = i;
		for (size_t up = i ? i - 1 : i; i;) {
			if (m->pieces[up].dev == p->dev && path_below(p->path, m->pieces[up].path))
				p->up = up;
			if (p->up != i || m->pieces[up].up == up)
				break;
			up = m->pieces[up].up;
		}
	}
	for (size_t i = nr; i--;) {
		struct piece *p = &m->pieces[i];

		p->nr_free++;
		if (p->end <= i)
			p->end = i + 1;
		if (p->up == i)
			continue;
		m->pieces[p->up].nr_free += p->nr_free;
		if (m->pieces[p->up].end < p->end)
			m->pieces[p->up].end = p->end;
	}
	for (size_t i = 0; i < m->nr_met; i++) {
		struct mount *x = m->met[i];

		x->piece = piece_at(m, x->dev, part_of(m, x));
		x->taken = NO_PIECE;
		for (struct mount *y = x->first; y; y = y->next)
			y->under_piece = piece_at(m, x->dev, y->under);
	}
	return 0;
}

/* The path below the directory where @x shows a piece. In m->path. */
static const char *seen_at(const struct mounts *m, const struct mount *x, const struct piece *p)
{
	sprintf(m->path, "%s%s", x->after, path_below(p->path, part_of(m, x)));
	return m->path;
}

/* Mark the pieces that @x does not show. */
static void look_at(struct mounts *m, const struct mount *x)
{
	for (const struct mount *a = x->on; a; a = a->on) {
		struct piece *p = &m->pieces[a->piece];

		if (a->dev == x->dev && path_below(p->path, x->root)) {
			p->not_in = x;
			p->covered = false;
		}
	}
	for (const struct mount *y = x->first; y; y = y->next) {
		m->pieces[y->under_piece].not_in = x;
		m->pieces[y->under_piece].covered = true;
	}
}

/* Have it count what is not counted yet. @all: also where patterns may leave out a part */
static void take(struct mounts *m, struct mount *x, bool all)
{
	size_t i = x->piece, end = m->pieces[i].end;
	bool ask = m->o->excludes || m->o->depth != UINT32_MAX;

	if (x->loops)
		return;
	look_at(m, x);
	while (i < end) {
		struct piece *p = &m->pieces[i];
		const char *path = ask && p->nr_free ? seen_at(m, x, p) : NULL;

		if (!p->nr_free || p->not_in == x ||
		    (path &&
		     (mounts_too_deep(m, path) || mounts_excluded(m, path) ||
		      (!all && in_part(m, path))))) {
			i = p->end;
			continue;
		}
		if (!p->by) {
			p->by = x;
			p->next = x->taken;
			x->taken = i;
			for (size_t up = i;; up = m->pieces[up].up) {
				m->pieces[up].nr_free--;
				if (m->pieces[up].up == up)
					break;
			}
		}
		i++;
	}
}

/* In the order in which they are to have what others show, too. */
static int by_rank(const void *a, const void *b)
{
	const struct mount *x = *(const struct mount *const *)a,
			   *y = *(const struct mount *const *)b;
	size_t n = strlen(x->root), k = strlen(y->root);

	if (x->rank != y->rank)
		return x->rank < y->rank ? -1 : 1;
	if (!x->on || !y->on)
		return x->on ? 1 : -1;
	return n != k ? (n > k) - (n < k) : strcmp(x->point, y->point);
}

/* Mark where in @x something begins that counts, or does not. */
static int mark_in(struct mounts *m, const struct mount *x)
{
	int r = x == m->own ? 0 : marks_add(m, x->after, x->id, m->pieces[x->piece].by == x);

	look_at(m, x);
	for (size_t i = x->taken; i != NO_PIECE && r == 0; i = m->pieces[i].next) {
		const struct piece *p = &m->pieces[i];

		if (i != x->piece && m->pieces[p->up].by != x)
			r = marks_add(m, seen_at(m, x, p), x->id, true);
		for (size_t k = i + 1; k < p->end && r == 0; k = m->pieces[k].end)
			if (m->pieces[k].by != x &&
			    !(m->pieces[k].not_in == x && m->pieces[k].covered))
				r = marks_add(m, seen_at(m, x, &m->pieces[k]), x->id, false);
	}
	return r;
}

static int by_dev(const void *a, const void *b)
{
	const struct mount *x = *(const struct mount *const *)a,
			   *y = *(const struct mount *const *)b;

	return (x->dev > y->dev) - (x->dev < y->dev);
}

/* Does any file system appear more than once? */
static bool is_plain(const struct mounts *m)
{
	qsort(m->met, m->nr_met, sizeof(struct mount *), by_dev);
	for (size_t i = 1; i < m->nr_met; i++)
		if (m->met[i]->dev == m->met[i - 1]->dev)
			return false;
	return true;
}

int mounts_decide(struct mounts *m)
{
	size_t longest = 0;
	int r;

	if (is_plain(m))
		return 0;
	r = cut(m);
	if (r < 0)
		return r;
	for (size_t i = 0; i < m->nr_met; i++) {
		size_t len = strlen(m->met[i]->after);

		longest = len > longest ? len : longest;
		if (m->o->depth != UINT32_MAX)
			m->met[i]->rank =
				(int64_t)levels(m->met[i]->after) - levels(part_of(m, m->met[i]));
	}
	for (size_t i = 0, most = longest; i < m->nr_pieces; i++)
		if (most + strlen(m->pieces[i].path) > longest)
			longest = most + strlen(m->pieces[i].path);
	free(m->path);
	free(m->room);
	m->path = malloc(longest + 1);
	m->room = malloc(longest + 1);
	if (!m->path || !m->room)
		return -ENOMEM;
	qsort(m->met, m->nr_met, sizeof(struct mount *), by_rank);
	for (size_t i = 0; i < m->nr_met && m->o->excludes; i++)
		take(m, m->met[i], false);
	for (size_t i = 0; i < m->nr_met; i++)
		take(m, m->met[i], true);
	for (size_t i = 0; i < m->nr_met && r == 0; i++)
		r = mark_in(m, m->met[i]);
	return r < 0 ? r : marks_sort(m);
}
