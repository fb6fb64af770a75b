// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * notes.c - what a count has not counted, and why: what could not be read, what vanished, what was not wanted. See usage_internal.h.
 *
 * Of the errors those are kept whose paths come first in byte order, so that it is the same ones at every run.
 */
#include <base/cleanup.h>
#include <engine/usage/usage_internal.h>
#include <errno.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define NEAR 256

void usage_fail(struct usage *u, int err)
{
	__atomic_store_n(&u->failed, err, __ATOMIC_RELAXED);
	__atomic_store_n(&u->stop, true, __ATOMIC_RELAXED);
}

bool usage_problem(struct usage *u, const struct dir *d, const char *name, const char *call,
		   int err)
{
	cleanup_free char *path = NULL;
	size_t at, nr;

	if (err == ENOENT) {
		__atomic_add_fetch(&u->nr_vanished, 1, __ATOMIC_RELAXED);
		return false;
	}
	path = dir_path(d, name);
	if (!path) {
		usage_fail(u, -ENOMEM);
		return true;
	}
	pthread_mutex_lock(&u->error_lock);
	nr = u->nr_errors < USAGE_ERRORS ? u->nr_errors : USAGE_ERRORS;
	for (at = nr; at && strcmp(path, u->errors[at - 1].path) < 0; at--)
		;
	if (at < USAGE_ERRORS) {
		if (nr == USAGE_ERRORS)
			free(u->errors[--nr].path);
		memmove(&u->errors[at + 1], &u->errors[at], (nr - at) * sizeof(*u->errors));
		u->errors[at] =
			(struct usage_error){ .path = take_ptr(path), .call = call, .err = err };
	}
	u->nr_errors++;
	pthread_mutex_unlock(&u->error_lock);
	return true;
}

static void skipped(struct usage *u, const struct dir *d, const char *name)
{
	char **grown, *path = dir_path(d, name);

	pthread_mutex_lock(&u->error_lock);
	grown = path ? reallocarray(u->skipped, u->nr_skipped + 1, sizeof(*grown)) : NULL;
	if (grown) {
		u->skipped = grown;
		u->skipped[u->nr_skipped++] = path;
	}
	pthread_mutex_unlock(&u->error_lock);
	if (!grown) {
		free(path);
		usage_fail(u, -ENOMEM);
	}
}

bool usage_excluded(struct usage *u, const struct dir *d, const char *name)
{
	cleanup_free char *path = NULL;

	for (const char *const *p = u->o.excludes; p && *p; p++) {
		if (!strchr(*p, '/')) {
			if (fnmatch(*p, name, 0) == 0)
				return true;
			continue;
		}
		if (!path)
			path = dir_path(d, name);
		if (!path)
			usage_fail(u, -ENOMEM);
		else if (fnmatch(*p, path, 0) == 0)
			return true;
	}
	return false;
}

/* A mount of which it is not known whether it shows what is counted elsewhere, too. */
static void doubt(struct usage *u, const struct dir *d, const char *name, const struct statx *st)
{
	if (!(st->stx_attributes & STATX_ATTR_MOUNT_ROOT) ||
	    !mounts_doubt(u->mounts, st->stx_mnt_id, usage_device(st)))
		return;
	__atomic_add_fetch(&u->nr_doubts, 1, __ATOMIC_RELAXED);
	usage_problem(u, d, name, "mountinfo", ENODATA);
}

bool usage_on_other(const struct usage *u, const struct statx *st)
{
	/* That a file's device number is not its directory's means nothing: an overlay has files of several. */
	return u->o.one_fs && usage_device(st) != u->root_dev &&
		(S_ISDIR(st->stx_mode) || (st->stx_attributes & STATX_ATTR_MOUNT_ROOT));
}

bool usage_left_out(struct usage *u, const struct dir *d, const char *name, const struct statx *st)
{
	enum mounts_say say = MOUNTS_AS_ABOVE;

	if (usage_on_other(u, st))
		return true;
	if (d->marks.from < d->marks.to) {
		struct marks at = mounts_below(u->mounts, &d->marks, name);

		say = mounts_say(u->mounts, &at, st->stx_mnt_id);
	}
	if (say == MOUNTS_LEAVE_OUT)
		skipped(u, d, name);
	if (say == MOUNTS_LEAVE_OUT || (d->passing && say != MOUNTS_COUNT))
		return true;
	doubt(u, d, name, st);
	return false;
}

/*
 * Is it the same directory as one above it? Without bind mounts that cannot be, but on a file system that is damaged, or lies. All of
 * the nearest ones are looked at, and on some levels the others.
 */
static bool is_above(const struct dir *d)
{
	unsigned int n = d->depth % NEAR ? NEAR : UINT_MAX;

	for (const struct dir *above = d->parent; above && n; above = above->parent, n--)
		if (above->ino == d->ino && above->dev == d->dev && d->ino)
			return true;
	return false;
}

enum dir_look usage_judge(struct usage *u, struct dir *d, const struct statx *st)
{
	enum mounts_say say = mounts_say(u->mounts, &d->marks, st->stx_mnt_id);

	if (d->parent && usage_on_other(u, st))
		return DIR_LEFT_OUT;
	d->passing = say == MOUNTS_AS_ABOVE ? d->parent && d->parent->passing
					    : say == MOUNTS_LEAVE_OUT;
	if (say == MOUNTS_LEAVE_OUT)
		skipped(u, d, NULL);
	if (!d->passing) {
		if (d->parent)
			doubt(u, d, NULL, st);
		if (!is_above(d))
			return DIR_OPEN;
		if (mounts_guessed(u->mounts))
			skipped(u, d, NULL); /* by a bind mount, most likely */
		else
			usage_problem(u, d, NULL, "loop", ELOOP);
		return DIR_LEFT_OUT;
	}
	return d->marks.to - d->marks.from > (say != MOUNTS_AS_ABOVE) ? DIR_PASS : DIR_LEFT_OUT;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

void usage_take_notes(struct usage *u, struct usage_result *ret)
{
	pthread_mutex_lock(&u->error_lock);
	memcpy(ret->errors, u->errors, sizeof(ret->errors));
	memset(u->errors, 0, sizeof(u->errors));
	ret->nr_errors = u->nr_errors;
	ret->nr_doubts = __atomic_load_n(&u->nr_doubts, __ATOMIC_RELAXED);
	u->nr_errors = 0; /* a thread that hangs, and is left, may come back with one */
	ret->skipped = u->skipped;
	ret->nr_skipped = u->nr_skipped;
	u->skipped = NULL;
	u->nr_skipped = 0;
	if (ret->nr_skipped)
		qsort(ret->skipped, ret->nr_skipped, sizeof(*ret->skipped), by_name);
	pthread_mutex_unlock(&u->error_lock);
	ret->nr_vanished = __atomic_load_n(&u->nr_vanished, __ATOMIC_RELAXED);
	ret->nr_entries = __atomic_load_n(&u->nr_entries, __ATOMIC_RELAXED);
	ret->stopped = __atomic_load_n(&u->stop, __ATOMIC_RELAXED);
}
