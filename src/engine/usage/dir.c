// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * dir.c - the directories of a walk: their descriptors and their paths. See usage_internal.h.
 *
 * A directory is opened from its parent, as long as descriptors last. When many are open, only every KEEP_EVERY-th level's is kept,
 * and beyond max_kept none: the next one above that is open is the anchor, and what is between is walked again, never through a
 * symbolic link. So any depth can be counted with few descriptors; it only takes longer.
 *
 * Which descriptors are kept is decided once, when a directory is opened, before it has anything below. The counts (refs, users) are
 * atomic; whoever takes one to 0 does so after everybody else's use (acquire and release), and frees or closes.
 */
#include <base/cleanup.h>
#include <engine/usage/usage_internal.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KEEP_EVERY 64
#define READ_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
#define TRIES 100
#define LOOK_FLAGS (O_PATH | O_NOFOLLOW | O_CLOEXEC)

struct dir *dir_new(struct usage *u, struct dir *parent, const char *name, uint32_t top)
{
	size_t len = strlen(name) + 1;
	struct dir *d = malloc(sizeof(*d) + len);

	if (!d)
		return NULL;
	*d = (struct dir){ .parent = parent, .fd = -1, .refs = 1, .users = 1, .top = top };
	memcpy(d->name, name, len);
	if (!parent)
		d->marks = mounts_first(u->mounts);
	else if (parent->marks.from < parent->marks.to)
		d->marks = mounts_below(u->mounts, &parent->marks, name);
	if (parent) {
		d->depth = parent->depth + 1;
		d->anchor = parent->keeps ? parent : parent->anchor;
		__atomic_add_fetch(&parent->refs, 1, __ATOMIC_RELAXED);
		__atomic_add_fetch(&d->anchor->users, 1, __ATOMIC_RELAXED);
	}
	return d;
}

/* One who needed the descriptor does so no more. */
static void leave(struct usage *u, struct dir *d)
{
	if (__atomic_sub_fetch(&d->users, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	if (d->fd >= 0)
		close(d->fd);
	d->fd = -1;
	if (d->keeps)
		__atomic_sub_fetch(&u->nr_kept, 1, __ATOMIC_RELAXED);
}

/* It is open for the first time: is its descriptor one to keep? */
static void decide(struct usage *u, struct dir *d)
{
	unsigned int n = __atomic_fetch_add(&u->nr_kept, 1, __ATOMIC_RELAXED);

	d->keeps = !d->parent || n < u->max_kept / 2 ||
		(n < u->max_kept && d->depth % KEEP_EVERY == 0);
	if (!d->keeps)
		__atomic_sub_fetch(&u->nr_kept, 1, __ATOMIC_RELAXED);
	else if (d->parent)
		leave(u, d->anchor);
}

void dir_aside(struct dir *d)
{
	if (d->keeps || d->fd < 0)
		return;
	close(d->fd);
	d->fd = -1;
}

void dir_done(struct usage *u, struct dir *d)
{
	/* One that is not kept may have to be opened again until now. */
	if (d->parent && !d->keeps)
		leave(u, d->anchor);
	leave(u, d);
	while (d && __atomic_sub_fetch(&d->refs, 1, __ATOMIC_ACQ_REL) == 0) {
		struct dir *parent = d->parent;

		free(d);
		d = parent;
	}
}

static int open_once(struct usage *u, int from, const char *path, int flags)
{
	struct open_how how = { .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
					RESOLVE_NO_MAGICLINKS };
	int fd;

	if (!(flags & O_PATH) && !__atomic_load_n(&u->atime, __ATOMIC_RELAXED)) {
		how.flags = (unsigned int)flags | O_NOATIME;
		fd = strchr(path, '/') ? (int)syscall(SYS_openat2, from, path, &how, sizeof(how))
				       : openat(from, path, flags | O_NOATIME);
		if (fd >= 0 || errno != EPERM)
			return fd;
		/* Who does not own one of them will not own others. */
		__atomic_store_n(&u->atime, true, __ATOMIC_RELAXED);
	}
	how.flags = (unsigned int)flags;
	return strchr(path, '/') ? (int)syscall(SYS_openat2, from, path, &how, sizeof(how))
				 : openat(from, path, flags);
}

static int open_below(struct usage *u, const struct dir *d, int flags)
{
	bool single = __atomic_load_n(&u->single_steps, __ATOMIC_RELAXED);
	cleanup_free const struct dir **way = NULL;
	size_t n = d->depth - d->anchor->depth;
	char path[PATH_MAX];
	size_t len = 0;
	int fd, from = d->anchor->fd;

	if (n == 1)
		return open_once(u, from, d->name, flags);
	way = reallocarray(NULL, n, sizeof(*way));
	if (!way) {
		usage_fail(u, -ENOMEM);
		return -1;
	}
	for (size_t i = n; i-- > 0; d = d->parent)
		way[i] = d;
	for (size_t i = 0; i < n; i++) {
		size_t add = strlen(way[i]->name);

		if (len &&
		    (single ||
		     len + 1 + add >=
			     sizeof(path))) { /* as far as the path goes; and on from there */
			fd = open_once(u, from, path,
				       O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
			if (from != way[0]->anchor->fd)
				close(from);
			if (fd < 0)
				return -1;
			from = fd;
			len = 0;
		}
		if (len)
			path[len++] = '/';
		memcpy(path + len, way[i]->name, add + 1);
		len += add;
	}
	fd = open_once(u, from, path, flags);
	if (from != way[0]->anchor->fd)
		close(from);
	return fd;
}

/* From its anchor, in as many steps as the path's length asks for. Return: the descriptor; -1 with errno. */
static int open_anywhere(struct usage *u, const struct dir *d, int flags)
{
	int fd = open_below(u, d, flags);

	/* Without openat2(2), which some sandboxes do not know or allow, the way is gone name by name. */
	if (fd < 0 && (errno == ENOSYS || errno == EPERM)) {
		__atomic_store_n(&u->single_steps, true, __ATOMIC_RELAXED);
		fd = open_below(u, d, flags);
	}
	return fd;
}

/* It could not be opened: what is it? */
static enum dir_look look_from_outside(struct usage *u, struct dir *d, int err, struct statx *st)
{
	cleanup_fd int fd = err == ENOENT ? -1 : open_anywhere(u, d, LOOK_FLAGS);
	bool seen = fd >= 0 && statx(fd, "", AT_EMPTY_PATH, usage_mask(u), st) == 0;

	if (!seen && err != ENOENT) {
		err = errno;
		/* Something else is in the place of one above. */
		if ((err == ELOOP || err == ENOTDIR) && d->depth - d->anchor->depth > 1)
			err = ENOENT;
	}
	d->dev = seen ? usage_device(st) : 0;
	d->ino = seen ? st->stx_ino : 0;
	if (seen && usage_judge(u, d, st) == DIR_LEFT_OUT)
		return DIR_LEFT_OUT;
	if (seen && d->passing)
		st->stx_mask = 0; /* what it takes itself does not count */
	if (seen && !S_ISDIR(st->stx_mode))
		return DIR_OTHER;
	if (seen && (err == ENOTDIR || err == ELOOP))
		err = ENOENT; /* it comes and goes */
	if (!seen)
		st->stx_mask = 0;
	return usage_problem(u, d, NULL, seen ? "open" : "statx", err) ? DIR_CLOSED : DIR_GONE;
}

/* Opening would have an automount mounted, or wait for its server. */
static bool is_elsewhere(struct usage *u, const struct dir *d, struct statx *st)
{
	cleanup_fd int fd = u->o.one_fs && d->parent ? open_anywhere(u, d, LOOK_FLAGS) : -1;

	return fd >= 0 && statx(fd, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT, usage_mask(u), st) == 0 &&
		S_ISDIR(st->stx_mode) && usage_device(st) != u->root_dev;
}

/* Is it seen to be on another file system without being opened, which could mount something there, or ask a server that is dead? */
static bool is_other(struct usage *u, const struct dir *d, struct statx *st)
{
	const int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC;
	cleanup_fd int fd = -1;

	if (d->depth - d->anchor->depth == 1)
		return statx(d->anchor->fd, d->name, flags, STATX_TYPE, st) == 0 &&
			usage_on_other(u, st);
	fd = open_anywhere(u, d, LOOK_FLAGS);
	return fd >= 0 && statx(fd, "", flags | AT_EMPTY_PATH, STATX_TYPE, st) == 0 &&
		usage_on_other(u, st);
}

enum dir_look dir_open(struct usage *u, struct dir *d, struct statx *st)
{
	if (d->fd < 0 && is_elsewhere(u, d, st))
		return DIR_LEFT_OUT;
	if (u->o.one_fs && d->parent && is_other(u, d, st))
		return DIR_LEFT_OUT;
	if (d->fd < 0)
		d->fd = open_anywhere(u, d, READ_FLAGS);
	/* Something else may be in its place for a moment. */
	for (int i = 0; i < TRIES && d->fd < 0 && (errno == ENOTDIR || errno == ELOOP); i++) {
		cleanup_fd int fd = open_anywhere(u, d, LOOK_FLAGS);

		if (fd < 0 || statx(fd, "", AT_EMPTY_PATH, STATX_TYPE, st) < 0 ||
		    !S_ISDIR(st->stx_mode)) {
			errno = ENOTDIR;
			break;
		}
		d->fd = open_anywhere(u, d, READ_FLAGS);
	}
	if (d->fd < 0)
		return look_from_outside(u, d, errno, st);
	decide(u, d);
	if (statx(d->fd, "", AT_EMPTY_PATH, usage_mask(u), st) < 0) {
		st->stx_mask = 0;
		return usage_problem(u, d, NULL, "statx", errno) ? DIR_CLOSED : DIR_GONE;
	}
	d->dev = usage_device(st);
	d->ino = st->stx_ino;
	return usage_judge(u, d, st);
}

bool dir_resume(struct usage *u, struct dir *d)
{
	struct statx st;
	int err = 0;

	if (d->fd >= 0)
		return true;
	d->fd = open_anywhere(u, d, READ_FLAGS);
	if (d->fd < 0 || statx(d->fd, "", AT_EMPTY_PATH, STATX_INO, &st) < 0 ||
	    lseek(d->fd, d->at, SEEK_SET) < 0)
		err = errno;
	else if (st.stx_ino != d->ino || usage_device(&st) != d->dev)
		err = ENOENT; /* another one is in its place */
	if (err == ELOOP || err == ENOTDIR)
		err = ENOENT; /* or something else, there or above */
	if (err)
		usage_problem(u, d, NULL, "reopen", err);
	return !err;
}

char *dir_path(const struct dir *d, const char *name)
{
	size_t len = name ? strlen(name) + 1 : 0;
	const struct dir *p;
	char *path, *at;

	for (p = d; p->parent; p = p->parent)
		len += strlen(p->name) + 1;
	path = malloc(len + 2);
	if (!path)
		return NULL;
	if (!len) {
		memcpy(path, ".", 2);
		return path;
	}
	at = path + len - 1;
	*at = 0;
	if (name) {
		at -= strlen(name);
		memcpy(at, name, strlen(name));
	}
	for (p = d; p->parent; p = p->parent) {
		if (*at)
			*--at = '/';
		at -= strlen(p->name);
		memcpy(at, p->name, strlen(p->name));
	}
	return path;
}
