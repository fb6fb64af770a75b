// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mounts.c - which mounts below a directory show what is counted elsewhere.
 *
 * The same files appear twice where a part of a file system is mounted in a second place (mount --bind). /proc/self/mountinfo says
 * of every mount which part of which file system it shows: a device and a path in it. The directory itself shows such a
 * part, too. A mount is left out if its part lies in that of another one that is counted, or in the directory's, and can be seen
 * there: the way to it is not excluded, not too deep and not covered by a mount; and if the same holds for all that is mounted below
 * it. Of two mounts of one part the first by mount point stays. What contains is thus counted, and what is contained left out, but
 * never in favour of something that is mounted below it.
 *
 * A mount that contains a directory above it, as a bind mount of / in /srv does, is counted, but for that directory: the walk leaves
 * out what is itself above (dir.c), so nothing counts twice.
 *
 * A mount that is hidden by another one on top of it is never met, and does not count: it is covered by one that is mounted on it, or
 * beside it (on the same mount) in a directory above. So each is judged by what it shows, not by what it covers.
 */
#include <engine/usage/usage_internal.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <base/cleanup.h>
#include <unistd.h>

struct mount {
	uint64_t id;
	uint64_t parent;
	char *device; /* "8:1" */
	char *root;
	char *point;
	const char *after; /* the mount point below the directory; NULL: it is not there */
	const struct mount *on; /* the next one that it is below, and that is not at its very place */
	const struct mount *by; /* where else it is counted */
	bool met; /* it can be come to */
	bool skip;
	bool loops; /* it contains a directory above it */
};

/* @own: the one that the directory is in; @dir: its path; @part: its own part of that file system */
struct mounts {
	struct mount *at;
	size_t nr;
	const struct usage_options *o;
	const struct mount *own;
	char *dir;
	char *part;
	bool loops; /* one of them does */
	char *path; /* room for any of them */
	char *room; /* the same, for excluded() */
};

/* Undo \040 and the like, in place. */
static void unescape(char *text)
{
	char *to = text;

	for (; *text; text++) {
		if (text[0] == '\\' && text[1] >= '0' && text[1] <= '3' && text[2] && text[3]) {
			*to++ = (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 |
				       (text[3] - '0'));
			text += 3;
		} else {
			*to++ = *text;
		}
	}
	*to = 0;
}

/* Is @path @top, or below it? Return: what follows, beginning with '/', or empty; NULL: it is not. */
static const char *below(const char *path, const char *top)
{
	size_t len = strcmp(top, "/") == 0 ? 0 : strlen(top);

	if (strncmp(path, top, len) != 0 || (path[len] && path[len] != '/'))
		return NULL;
	return strcmp(path + len, "/") == 0 ? "" : path + len;
}

static int by_point(const void *a, const void *b)
{
	const struct mount *x = a, *y = b;
	int c = strcmp(x->point, y->point);

	return c ? c : (x->id > y->id) - (x->id < y->id);
}

static int parse(struct mounts *m, char *line)
{
	char *fields[5], *save = NULL;
	struct mount *grown;
	int n;

	for (n = 0; n < 5; n++) {
		fields[n] = strtok_r(n ? NULL : line, " ", &save);
		if (!fields[n])
			return 0;
	}
	if ((m->nr & (m->nr - 1)) == 0) {
		grown = reallocarray(m->at, m->nr ? m->nr * 2 : 1, sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		m->at = grown;
	}
	unescape(fields[3]);
	unescape(fields[4]);
	m->at[m->nr++] = (struct mount){
		.id = strtoull(fields[0], NULL, 10),
		.parent = strtoull(fields[1], NULL, 10),
		.device = strdup(fields[2]),
		.root = strdup(fields[3]),
		.point = strdup(fields[4]),
	};
	return m->at[m->nr - 1].device && m->at[m->nr - 1].root && m->at[m->nr - 1].point ? 0
											  : -ENOMEM;
}

/* Those whose part is contained come first, and of one part the last. */
static int by_part(const void *a, const void *b)
{
	const struct mount *x = *(const struct mount *const *)a,
			   *y = *(const struct mount *const *)b;
	size_t n = strlen(x->root), k = strlen(y->root);

	return n != k ? (n < k) - (n > k) : by_point(y, x);
}

static struct mount *by_id(const struct mounts *m, uint64_t id)
{
	for (size_t i = 0; i < m->nr; i++)
		if (m->at[i].id == id)
			return &m->at[i];
	return NULL;
}

/* Is @x, or a mount that it is on, up to @own, hidden by another? */
static bool hidden(const struct mounts *m, const struct mount *own, const struct mount *x)
{
	for (const struct mount *at = x; at != own;) {
		for (size_t i = 0; i < m->nr; i++) {
			const struct mount *y = &m->at[i];

			if (y != at && y->parent == at->parent && below(at->point, y->point))
				return true;
			if (at == x && y->parent == x->id && strcmp(y->point, x->point) == 0)
				return true;
		}
		if (at->parent == at->id)
			return true; /* the root of all: it is not on @own */
		at = by_id(m, at->parent);
		if (!at)
			return true;
	}
	return false;
}

/* The path in its file system of what the mount shows; of the directory's own, of what the directory shows. */
static const char *part_of(const struct mounts *m, const struct mount *x)
{
	return x == m->own ? m->part : x->root;
}

/* Is @x below @y, as mounts are? */
static bool is_on(const struct mount *x, const struct mount *y)
{
	while (x && x != y)
		x = x->on;
	return x;
}

/* Is @root, in @x, below a directory that @x itself is below? There the walk ends. */
static bool in_loop(const struct mounts *m, const struct mount *x, const char *root)
{
	for (const struct mount *a = x->on; a; a = a->on) {
		const char *rest = strcmp(a->device, x->device) == 0
			? below(part_of(m, a), part_of(m, x))
			: NULL;

		if (rest && *rest && below(root, part_of(m, a)))
			return true;
	}
	return false;
}

static unsigned int levels(const char *after)
{
	unsigned int n = 0;

	for (; *after; after++)
		n += *after == '/';
	return n;
}

/* Is what has this path below the directory ("/a/b"), or one above it, excluded? */
static bool excluded(const struct mounts *m, const char *after)
{
	char *path = m->room;

	if (!m->o->excludes)
		return false;
	strcpy(path, *after ? after + 1 : after);
	for (char *name = path; *name;) {
		char *end = strchrnul(name, '/'), c = *end;

		*end = 0;
		for (const char *const *p = m->o->excludes; *p; p++)
			if (fnmatch(*p, strchr(*p, '/') ? path : name, 0) == 0)
				return true;
		*end = c;
		name = c ? end + 1 : end;
	}
	return false;
}

/* Can the walk come to it, whatever is left out? Those that it is on have been looked at. */
static bool can_be_met(const struct mounts *m, const struct mount *x, int dir)
{
	const char *rest;
	struct stat own, st;

	if (!x->on || (x->on != m->own && !x->on->met) || hidden(m, m->own, x) ||
	    levels(x->after) > (uint64_t)m->o->depth + 1 || excluded(m, x->after))
		return false;
	/* On btrfs the mount table does not tell one device from another; but who is on it answers, if the directory does. */
	if (m->o->one_fs &&
	    (strcmp(x->device, m->own->device) != 0 || fstat(dir, &own) < 0 ||
	     (fstatat(dir, x->after + 1, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) == 0 &&
	      st.st_dev != own.st_dev)))
		return false;
	rest = x->on == m->own ? NULL : below(x->point, x->on->point);
	if (!rest)
		return true;
	sprintf(m->path, "%s%s", strcmp(x->on->root, "/") == 0 ? "" : x->on->root, rest);
	return !in_loop(m, x->on, m->path);
}

/* Is all of @x's part counted in @c, if that is? */
static bool counts(const struct mounts *m, const struct mount *c, const struct mount *x)
{
	const char *rest =
		c != x && strcmp(c->device, x->device) == 0 ? below(x->root, part_of(m, c)) : NULL;
	const char *base = c == m->own ? "" : c->after;
	size_t len = strlen(x->root), end = strlen("//deleted");
	char *path = m->path;

	if (!rest || (len > end && strcmp(x->root + len - end, "//deleted") == 0) ||
	    in_loop(m, c, x->root))
		return false;
	sprintf(path, "%s%s", base, rest);
	if (excluded(m, path) || (m->o->depth != UINT32_MAX && levels(path) > levels(x->after)))
		return false;
	for (size_t i = 0; i < m->nr; i++) {
		const struct mount *y = &m->at[i];

		if (y->parent == c->id && y->after && *y->after && strcmp(y->after, base) != 0 &&
		    below(y->after, base) && below(path, y->after))
			return false;
	}
	return true;
}

/* Who counts what @x shows, if @without and what is below that are left out? */
static const struct mount *counter(const struct mounts *m, const struct mount *x,
				   const struct mount *without)
{
	if (counts(m, m->own, x))
		return m->own;
	for (size_t i = 0; i < m->nr; i++) {
		const struct mount *c = &m->at[i];

		if (c->met && !c->skip && !is_on(c, without) && counts(m, c, x))
			return c;
	}
	return NULL;
}

/* Leave @x out, with all that is below it, if nothing is lost. */
static bool leave_out(struct mounts *m, const struct mount *x)
{
	for (int doing = 0; doing < 2; doing++)
		for (size_t i = 0; i < m->nr; i++) {
			struct mount *y = &m->at[i];
			const struct mount *by = y->by;

			if (!y->met || (!is_on(y, x) && !(y->skip && is_on(by, x))))
				continue;
			if (!doing) {
				if (!counter(m, y, x))
					return false;
				continue;
			}
			y->by = counter(m, y, x);
			y->skip = true;
		}
	return true;
}

/* Look up where each one is. */
static void place(struct mounts *m)
{
	for (size_t i = 0; i < m->nr; i++) {
		struct mount *x = &m->at[i];

		x->after = x == m->own ? NULL : below(x->point, m->dir);
		if (x->after && !*x->after)
			x->after = NULL;
		if (!x->after)
			continue;
		for (x->on = by_id(m, x->parent); x->on && strcmp(x->on->point, x->point) == 0;)
			x->on = x->on->parent == x->on->id ? NULL : by_id(m, x->on->parent);
		if (x->on && x->on != m->own && !below(x->on->point, m->dir))
			x->on = NULL;
	}
}

static int decide(struct mounts *m, int dir)
{
	const char *rest = below(m->dir, m->own->point);
	cleanup_free struct mount **order = calloc(m->nr, sizeof(struct mount *));
	size_t longest = strlen(m->dir) + 1, size;
	bool again = true;

	if (!rest)
		return 0;
	if (!order ||
	    asprintf(&m->part, "%s%s", strcmp(m->own->root, "/") == 0 && *rest ? "" : m->own->root,
		     rest) < 0) {
		m->part = NULL;
		return -ENOMEM;
	}
	for (size_t i = 0; i < m->nr; i++) {
		size_t root = strlen(m->at[i].root), point = strlen(m->at[i].point);

		longest = root > longest ? root : longest;
		longest = point > longest ? point : longest;
	}
	size = 2 * longest +
		1; /* a mount point, or a root, and a part of a root, or a mount point */
	m->path = malloc(size);
	m->room = malloc(size);
	if (!m->path || !m->room)
		return -ENOMEM;
	place(m);
	/* In the order of mount points, what one is on comes before it. */
	for (size_t i = 0; i < m->nr; i++) {
		order[i] = &m->at[i];
		m->at[i].met = m->at[i].after && can_be_met(m, &m->at[i], dir);
	}
	qsort(order, m->nr, sizeof(struct mount *), by_part);
	while (again) {
		again = false;
		for (size_t i = 0; i < m->nr; i++)
			if (order[i]->met && !order[i]->skip && leave_out(m, order[i]))
				again = true;
	}
	for (size_t i = 0; i < m->nr; i++) {
		struct mount *x = &m->at[i];

		for (const struct mount *a = x->on; a && x->met && !x->skip; a = a->on)
			x->loops |= strcmp(a->device, x->device) == 0 &&
				below(part_of(m, a), x->root);
		m->loops |= x->loops;
	}
	return 0;
}

int mounts_new(struct mounts **ret, int dir, const struct usage_options *o)
{
	struct mounts *m = calloc(1, sizeof(*m));
	cleanup_free char *line = NULL;
	struct statx st;
	size_t size = 0;
	char path[40];
	FILE *f;
	int r = 0;

	if (!m)
		return -ENOMEM;
	f = fopen("/proc/self/mountinfo", "re");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", dir);
	m->o = o;
	m->dir = realpath(path, NULL);
	while (r == 0 && f && getline(&line, &size, f) > 0)
		r = parse(m, line);
	if (f)
		fclose(f);
	if (r == 0 && m->nr)
		qsort(m->at, m->nr, sizeof(*m->at), by_point);
	/* Without /proc, or where the directory cannot be named, nothing is left out. */
	if (r == 0 && m->dir && statx(dir, "", AT_EMPTY_PATH, STATX_MNT_ID, &st) == 0 &&
	    (st.stx_mask & STATX_MNT_ID) && (m->own = by_id(m, st.stx_mnt_id)))
		r = decide(m, dir);
	if (r < 0) {
		mounts_free(m);
		return r;
	}
	*ret = m;
	return 0;
}

bool mounts_skip(const struct mounts *m, uint64_t id)
{
	const struct mount *x = by_id(m, id);

	return x && x->skip;
}

bool mounts_loops(const struct mounts *m, uint64_t id)
{
	const struct mount *x = m->loops ? by_id(m, id) : NULL;

	return x && x->loops;
}

void mounts_free(struct mounts *m)
{
	if (!m)
		return;
	for (size_t i = 0; i < m->nr; i++) {
		free(m->at[i].device);
		free(m->at[i].root);
		free(m->at[i].point);
	}
	free(m->at);
	free(m->dir);
	free(m->part);
	free(m->path);
	free(m->room);
	free(m);
}
