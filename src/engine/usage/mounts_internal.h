/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mounts_internal.h - the parts of what mounts.c decides: which mounts can be come to (mounts.c), which of them counts what
 * (pieces.c), and the marks that tell the walk (marks.c).
 */
#ifndef KSHARED_ENGINE_USAGE_MOUNTS_INTERNAL_H
#define KSHARED_ENGINE_USAGE_MOUNTS_INTERNAL_H

#include <engine/usage/usage_internal.h>

#define NO_PIECE SIZE_MAX

/* A piece: what is below @path, but for what is below the pieces in it, which are the next ones in the array up to @end. */
struct piece {
	uint64_t dev;
	const char *path;
	size_t end;
	size_t up; /* the one that it is in; itself: none */
	size_t nr_free; /* pieces in it, and itself, that have no place */
	const struct mount *by; /* where it counts */
	size_t next; /* of those that count there */
	const struct mount *not_in; /* the mount that is looked at does not show it */
	bool covered; /* for something is mounted there */
};

struct mark {
	char *path; /* below the directory: "/a/b" */
	uint64_t id; /* of the mount that it is in */
	bool counts;
};

struct nameless {
	uint64_t dev;
	uint64_t ino;
};

struct mounts {
	const struct usage_options *o;
	struct mount_table table;
	struct mount **by_id;
	struct mount *own; /* the one that the directory is in */
	char *dir; /* its path; NULL: nothing is known */
	char *part; /* its own part of that file system */
	struct mount **met; /* those that the walk can come to; from below to above */
	size_t nr_met;
	char **cuts; /* paths of pieces that no mount has */
	size_t nr_cuts;
	struct piece *pieces;
	size_t nr_pieces;
	struct mark *marks;
	size_t nr_marks;
	struct nameless *nameless;
	size_t nr_nameless;
	uint64_t own_dev;
	bool own_has_many; /* device numbers */
	char *path; /* room for a path below the directory */
	char *room; /* the same, for excluded() */
};

/** part_of() - which part of its file system is seen there. */
static inline const char *part_of(const struct mounts *m, const struct mount *x)
{
	return x == m->own ? m->part : x->root;
}

/** levels() - how many names a path has. */
static inline unsigned int levels(const char *path)
{
	unsigned int n = 0;

	for (; *path; path++)
		n += *path == '/' && path[1];
	return n;
}

/** mounts_compare() - like strcmp(), but what is below a path follows it at once. */
int mounts_compare(const char *a, const char *b);

/** mounts_too_deep() - is what has this path below the directory ("/a/b") deeper than what is asked for? */
bool mounts_too_deep(const struct mounts *m, const char *after);

/** mounts_excluded() - is it, or one above it, excluded? Needs m->room. */
bool mounts_excluded(const struct mounts *m, const char *after);

/** mounts_decide() - of the mounts that are met, which counts what: make the marks. Return: 0; -ENOMEM. */
int mounts_decide(struct mounts *m);

/** marks_add() - @path: copied; @id: the mount that it is in. Return: 0; -ENOMEM. */
int marks_add(struct mounts *m, const char *path, uint64_t id, bool counts);

/** marks_sort() - sort them, and take out those that change nothing. Return: 0; -ENOMEM. */
int marks_sort(struct mounts *m);

#endif
