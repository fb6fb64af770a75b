// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mounts.c - which mounts below a directory show what is counted elsewhere.
 *
 * The same files appear twice where a part of a file system is mounted in a second place (mount --bind). /proc/self/mountinfo says
 * of every mount which part of which file system it shows: a device and a path in it. The directory itself shows such a
 * part, too. Going through the mounts below it in the order of their mount points, one whose part lies in a part that is counted
 * already, or contains one, is left out, with whatever is mounted below it. A mount that is hidden by another one on top of it is
 * never met, and does not count: it is covered by one that is mounted on it, or beside it (on the same mount) in a directory above.
 */
#include <engine/usage/usage_internal.h>
#include <errno.h>
#include <fcntl.h>
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
	bool skip;
	bool met; /* below the directory, and not hidden */
};

struct mounts {
	struct mount *at;
	size_t nr;
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

static struct mount *by_id(const struct mounts *m, uint64_t id)
{
	for (size_t i = 0; i < m->nr; i++)
		if (m->at[i].id == id)
			return &m->at[i];
	return NULL;
}

/* Do the parts overlap? */
static bool overlap(const char *device, const char *root, const struct mount *other)
{
	return strcmp(device, other->device) == 0 &&
		(below(root, other->root) || below(other->root, root));
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

static void decide(struct mounts *m, const struct mount *own, const char *dir)
{
	const char *rest = below(dir, own->point);
	cleanup_free char *part = NULL;

	/* The directory's own part of its file system. */
	if (!rest ||
	    asprintf(&part, "%s%s", strcmp(own->root, "/") == 0 && *rest ? "" : own->root, rest) <
		    0) {
		part = NULL;
		return;
	}
	for (size_t i = 0; i < m->nr; i++) {
		struct mount *x = &m->at[i];
		const struct mount *parent = by_id(m, x->parent);
		const char *after = below(x->point, dir);

		if (!after || !*after || x == own)
			continue;
		x->met = !hidden(m, own, x);
		x->skip = (parent && parent->skip) ||
			(strcmp(x->device, own->device) == 0 &&
			 (below(x->root, part) || below(part, x->root)));
		for (size_t k = 0; k < i && !x->skip; k++)
			x->skip = m->at[k].met && !m->at[k].skip &&
				overlap(x->device, x->root, &m->at[k]);
	}
}

int mounts_new(struct mounts **ret, int dir)
{
	struct mounts *m = calloc(1, sizeof(*m));
	cleanup_free char *line = NULL, *real = NULL;
	const struct mount *own;
	struct statx st;
	size_t size = 0;
	char path[40];
	FILE *f;
	int r = 0;

	if (!m)
		return -ENOMEM;
	f = fopen("/proc/self/mountinfo", "re");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", dir);
	real = realpath(path, NULL);
	while (r == 0 && f && getline(&line, &size, f) > 0)
		r = parse(m, line);
	if (f)
		fclose(f);
	if (r < 0) {
		mounts_free(m);
		return r;
	}
	if (m->nr)
		qsort(m->at, m->nr, sizeof(*m->at), by_point);
	/* Without /proc, or where the directory cannot be named, nothing is left out. */
	if (real && statx(dir, "", AT_EMPTY_PATH, STATX_MNT_ID, &st) == 0 &&
	    (st.stx_mask & STATX_MNT_ID) && (own = by_id(m, st.stx_mnt_id)))
		decide(m, own, real);
	*ret = m;
	return 0;
}

bool mounts_skip(const struct mounts *m, uint64_t id)
{
	const struct mount *x = by_id(m, id);

	return x && x->skip;
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
	free(m);
}
