// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fd.c - the entries' descriptors in this process.
 *
 * The store holds them; here is only a cache, so that a folder may have more descriptors than a process. The least
 * recently used one goes when there are max_fds of them. A pinned one stays.
 */
#include <core/tree.h>
#include <errno.h>
#include <utlist.h>

#define EVICT_PART 256
#define PIN_PART 4 /* of the descriptors at hand can never be pinned */

static void lru_add(struct entry *e)
{
	DL_APPEND2(e->tree->lru, e, lru_prev, lru_next);
	e->tree->nr_fds++;
}

static void lru_del(struct entry *e)
{
	DL_DELETE2(e->tree->lru, e, lru_prev, lru_next);
	e->tree->nr_fds--;
}

static void let_go(struct entry *e)
{
	struct tree *t = e->tree;
	int fd = e->fd;

	if (!t->close_copy) {
		entry_keep_fd(e, -1);
		return;
	}
	lru_del(e);
	e->fd = -1;
	t->close_copy(t, e->uid, fd);
}

static void make_room(struct tree *t)
{
	struct entry *e, *tmp;

	unsigned int n = t->max_fds / EVICT_PART + 1;

	if (t->nr_fds < t->max_fds)
		return;
	/* Some at a time: to close one aside costs a thread, to close many hardly more. */
	DL_FOREACH_SAFE2(t->lru, e, tmp, lru_next) {
		if (e->pins)
			continue;
		let_go(e);
		if (--n == 0)
			return;
	}
}

void entry_keep_fd(struct entry *e, int fd)
{
	if (e->fd >= 0) {
		lru_del(e);
		e->tree->close_fd(e->tree, e->uid, e->fd);
		e->fd = -1;
	}
	if (fd >= 0) {
		make_room(e->tree);
		e->fd = fd;
		lru_add(e);
	}
}

void entry_replace_fd(struct entry *e)
{
	if (e->fd < 0 || e->pins == 0 || e->nr_old_fds == ENTRY_OLD_FDS)
		return;
	lru_del(e);
	e->old_fds[e->nr_old_fds++] = e->fd;
	e->fd = -1;
}

int entry_fd(struct entry *e)
{
	int fd;

	if (e->fd >= 0) {
		if (e->lru_next) { /* not the newest already */
			DL_DELETE2(e->tree->lru, e, lru_prev, lru_next);
			DL_APPEND2(e->tree->lru, e, lru_prev, lru_next);
		}
		return e->fd;
	}
	if (!e->has_fd)
		return -EBADF;
	make_room(e->tree);
	fd = e->tree->store->ops->borrow(e->tree->store, e->id);
	if (fd >= 0) {
		e->fd = fd;
		lru_add(e);
	}
	return fd;
}

int entry_pin(struct entry *e)
{
	struct tree *t = e->tree;
	int fd;

	/* What waits on its descriptors keeps them here: then some must be left for the others. */
	if (e->pins == 0 && t->nr_pinned >= t->max_fds - t->max_fds / PIN_PART)
		return -ENFILE;
	fd = entry_fd(e);
	if (fd >= 0 && e->pins++ == 0)
		t->nr_pinned++;
	return fd;
}

void entry_unpin(struct entry *e)
{
	if (--e->pins)
		return;
	e->tree->nr_pinned--;
	while (e->nr_old_fds)
		e->tree->close_fd(e->tree, e->uid, e->old_fds[--e->nr_old_fds]);
	if (e->orphan && !e->tree->mounted)
		tree_forget(e);
}
