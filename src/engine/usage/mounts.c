// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mounts.c - which mounts the walk can come to, and what they show. What counts where is decided in pieces.c, by paths alone.
 *
 * A mount is met if it is on one that is met, below the directory, neither covered by another one beside it nor by one on top of it,
 * not excluded, and not too deep.
 *
 * Where the mount table cannot be had, or does not tell what the directory's own mount shows, the walk asks of each mount that
 * it meets whether that is in doubt.
 */
#include <base/cleanup.h>
#include <engine/usage/mounts_internal.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#define BTRFS_MAGIC 0x9123683e

static int by_parent(const void *a, const void *b)
{
	const struct mount *x = a, *y = b;
	int c = x->parent == y->parent ? mounts_compare(x->point, y->point)
				       : (x->parent > y->parent) - (x->parent < y->parent);

	return c ? c : (x->id > y->id) - (x->id < y->id);
}

static int by_id(const void *a, const void *b)
{
	const struct mount *x = *(const struct mount *const *)a,
			   *y = *(const struct mount *const *)b;

	return (x->id > y->id) - (x->id < y->id);
}

static struct mount *find(const struct mounts *m, uint64_t id)
{
	const struct mount key = { .id = id }, *k = &key;
	struct mount **x = m->by_id ? bsearch(&k, m->by_id, m->table.nr, sizeof(k), by_id) : NULL;

	return x ? *x : NULL;
}

/* The first of those that are on @parent; they end with the table, or another's. */
static struct mount *first_on(const struct mounts *m, const struct mount *parent)
{
	size_t from = 0, to = m->table.nr;

	while (from < to) {
		size_t middle = from + (to - from) / 2;

		if (m->table.at[middle].parent < parent->id)
			from = middle + 1;
		else
			to = middle;
	}
	return &m->table.at[from];
}

static bool is_on(const struct mounts *m, const struct mount *x, const struct mount *parent)
{
	return x < m->table.at + m->table.nr && x->parent == parent->id;
}

/* What is on top at its mount point. */
static struct mount *topmost(const struct mounts *m, struct mount *x)
{
	/* What is on a mount's root comes first among what is on it. */
	for (struct mount *y; (y = first_on(m, x)), is_on(m, y, x) && y != x; x = y)
		if (strcmp(y->point, x->point) != 0)
			break;
	return x;
}

bool mounts_too_deep(const struct mounts *m, const char *after)
{
	return m->o->depth != UINT32_MAX && levels(after) > (uint64_t)m->o->depth + 1;
}

bool mounts_excluded(const struct mounts *m, const char *after)
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

/* Is it mounted in itself: does it show one of the directories above it? */
static bool is_loop(const struct mounts *m, const struct mount *x)
{
	const struct mount *at = x;

	for (const struct mount *a = x->on; a; at = a, a = a->on) {
		const char *rest = a->dev == x->dev && path_below(x->root, part_of(m, a))
			? path_below(at->under, x->root)
			: NULL;

		if (rest && *rest)
			return true;
	}
	return false;
}

/* Is it on another file system, and these are not wanted? */
static bool on_other(const struct mounts *m, const struct mount *x, int dir)
{
	struct stat own, st;

	if (!m->o->one_fs)
		return false;
	if (m->table.guessed)
		return false; /* the walk will see */
	/* On btrfs the mount table does not tell one device from another; but who is on it answers, if the directory does. */
	return x->dev != m->own->dev || fstat(dir, &own) < 0 ||
		(fstatat(dir, x->after + 1, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) == 0 &&
		 st.st_dev != own.st_dev);
}

/* What was deleted is told from others by its inode. */
static int name_deleted(struct mounts *m, struct mount *x, int dir)
{
	size_t len = strlen(x->root), end = strlen("//deleted");
	struct nameless *grown;
	char name[48];
	struct stat st;

	/* Beyond the root of a control group's name space there are paths like this, which contain nothing else. */
	if (x->root[0] != '/' ||
	    (strncmp(x->root, "/..", 3) == 0 && (!x->root[3] || x->root[3] == '/')))
		snprintf(name, sizeof(name), "?");
	else if (len <= end || strcmp(x->root + len - end, "//deleted") != 0)
		return 0;
	else if (fstatat(dir, x->after + 1, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0)
		snprintf(name, sizeof(name), "?%ju", (uintmax_t)x->id);
	else
		snprintf(name, sizeof(name), "?ino%ju", (uintmax_t)st.st_ino);
	if (strncmp(name, "?ino", 4) == 0 && !S_ISDIR(st.st_mode) && st.st_nlink) {
		grown = reallocarray(m->nameless, m->nr_nameless + 1, sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		m->nameless = grown;
		m->nameless[m->nr_nameless++] =
			(struct nameless){ .dev = st.st_dev, .ino = st.st_ino };
	}
	if (name[1]) {
		free(x->root);
		x->root = strdup(name);
	} else {
		char *root = x->root;

		x->root = path_join(name, root);
		free(root);
	}
	return x->root ? 0 : -ENOMEM;
}

/* What is seen of those that are mounted on one. */
static int meet(struct mounts *m, struct mount *parent, int dir)
{
	const struct mount *last = NULL;
	int r = 0;

	for (struct mount *y = first_on(m, parent); r == 0 && is_on(m, y, parent); y++) {
		const char *after = path_below(y->point, m->dir);
		const char *rest = path_below(y->point, parent->point);
		struct mount *x;

		if (y == parent || !after || !*after || !rest)
			continue;
		if (last && path_below(y->point, last->point))
			continue; /* that one covers it */
		last = y;
		x = topmost(m, y);
		x->after = after;
		x->on = parent;
		x->next = parent->first;
		parent->first = x;
		x->under = path_join(parent->root, rest);
		if (!x->under)
			return -ENOMEM;
		if (mounts_too_deep(m, after) || mounts_excluded(m, after) || on_other(m, x, dir))
			continue;
		r = name_deleted(m, x, dir);
		x->loops = r == 0 && is_loop(m, x);
		m->met[m->nr_met++] = x;
	}
	return r;
}

static int by_inode(const void *a, const void *b)
{
	const struct nameless *x = a, *y = b;

	return x->ino == y->ino ? (x->dev > y->dev) - (x->dev < y->dev)
				: (x->ino > y->ino) - (x->ino < y->ino);
}

/* With a table, and the path of the directory. */
static int work_out(struct mounts *m, int dir, uint64_t own)
{
	size_t nr = m->table.nr, longest = strlen(m->dir);
	int r = 0;

	m->by_id = calloc(nr, sizeof(struct mount *));
	m->met = calloc(nr, sizeof(struct mount *));
	if (!m->by_id || !m->met)
		return -ENOMEM;
	qsort(m->table.at, nr, sizeof(*m->table.at), by_parent);
	for (size_t i = 0; i < nr; i++) {
		m->by_id[i] = &m->table.at[i];
		if (strlen(m->table.at[i].point) > longest)
			longest = strlen(m->table.at[i].point);
	}
	qsort(m->by_id, nr, sizeof(struct mount *), by_id);
	m->own = find(m, own);
	if (!path_below(m->dir, m->own->point)) {
		free(take_ptr(m->dir));
		return 0;
	}
	m->own->after = "";
	m->part = path_join(m->own->root, path_below(m->dir, m->own->point));
	m->room = malloc(longest + 1);
	if (!m->part || !m->room)
		return -ENOMEM;
	m->met[m->nr_met++] = m->own;
	for (size_t i = 0; i < m->nr_met && r == 0; i++)
		r = meet(m, m->met[i], dir);
	if (m->nr_nameless)
		qsort(m->nameless, m->nr_nameless, sizeof(*m->nameless), by_inode);
	return r < 0 ? r : mounts_decide(m);
}

int mounts_new(struct mounts **ret, int dir, const char *path, const struct usage_options *o)
{
	struct mounts *m = calloc(1, sizeof(*m));
	struct statfs fs;
	struct statx st;
	char link[40];
	int r;

	if (!m)
		return -ENOMEM;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", dir);
	m->o = o;
	m->own_has_many = fstatfs(dir, &fs) == 0 && fs.f_type == BTRFS_MAGIC;
	m->dir = realpath(link, NULL);
	if (!m->dir)
		m->dir = realpath(path, NULL);
	r = statx(dir, "", AT_EMPTY_PATH, STATX_MNT_ID, &st) < 0 ? -errno : 0;
	m->own_dev = r == 0 ? usage_device(&st) : 0;
	if (r == 0 && m->dir)
		r = st.stx_mask & STATX_MNT_ID ? mount_table_read(&m->table, st.stx_mnt_id)
					       : -ENOSYS;
	if (r < 0 && r != -ENOMEM) {
		free(take_ptr(m->dir));
		r = 0;
	}
	if (r == 0 && m->dir)
		r = work_out(m, dir, st.stx_mnt_id);
	if (r < 0) {
		mounts_free(m);
		return r;
	}
	*ret = m;
	return 0;
}

bool mounts_doubt(const struct mounts *m, uint64_t id, uint64_t dev)
{
	if (!m->dir)
		return true;
	if (m->table.guessed && (dev == m->own_dev || (m->own_has_many && major(dev) == 0)))
		return true;
	if (find(m, id))
		return false;
	/* It was mounted meanwhile. */
	for (size_t i = 0; i < m->nr_met; i++)
		if (m->met[i]->dev == dev || dev == m->own_dev)
			return true;
	return false;
}

bool mounts_guessed(const struct mounts *m)
{
	return !m->dir || m->table.guessed;
}

bool mounts_nameless(const struct mounts *m, uint64_t dev, uint64_t ino)
{
	const struct nameless key = { .dev = dev, .ino = ino };

	return m->nr_nameless && bsearch(&key, m->nameless, m->nr_nameless, sizeof(key), by_inode);
}

void mounts_free(struct mounts *m)
{
	if (!m)
		return;
	mount_table_deinit(&m->table);
	for (size_t i = 0; i < m->nr_cuts; i++)
		free(m->cuts[i]);
	for (size_t i = 0; i < m->nr_marks; i++)
		free(m->marks[i].path);
	free(m->cuts);
	free(m->marks);
	free(m->nameless);
	free(m->pieces);
	free(m->met);
	free(m->by_id);
	free(m->dir);
	free(m->part);
	free(m->path);
	free(m->room);
	free(m);
}
