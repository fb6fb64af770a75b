// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * dir.c - what is in the folder, and the folder as a whole.
 *
 * A listing is fetched in pieces; each begins after the cookie of the last entry of the piece
 * before, so no state of it is in the daemon and a restart in the middle is not noticed.
 * Everything that comes is checked before it is handed out: names without slash or NUL, strings
 * with an end.
 */
#include <string.h>

#include <kshared.h>

#include "lib/conn.h"

/**
 * struct kshared_dir - see kshared.h
 * @k: the connection, borrowed; may be NULL
 * @path, @path_len: the directory
 * @cookie: where the next piece begins
 * @count, @next: entries in @entries, and the first one not given yet
 * @end: there is no further piece
 */
struct kshared_dir {
	struct kshared *k;
	char path[CTL_PATH_MAX + 1];
	uint32_t path_len;
	uint64_t cookie;
	uint32_t count;
	uint32_t next;
	bool end;
	struct ctl_entry entries[CTL_LIST_MAX];
};

_Static_assert(CTL_LIST_MAX * sizeof(struct ctl_entry) <= CTL_BODY_MAX, "ABI");

/* Copy a string field of the wire, which need not end. Both fields have the same size. */
#define copy_field(to, from)                                       \
	do {                                                       \
		_Static_assert(sizeof(to) == sizeof(from), "ABI"); \
		memcpy(to, from, sizeof(to));                      \
		(to)[sizeof(to) - 1] = '\0';                       \
	} while (0)

static int entry_from_wire(struct kshared_entry *ret, const struct ctl_entry *e)
{
	uint32_t len = e->name_len;

	if (len > KSHARED_NAME_MAX || memchr(e->name, '/', len) || memchr(e->name, '\0', len))
		return -EPROTO;
	*ret = (struct kshared_entry){
		.mode = e->mode,
		.uid = e->uid,
		.gid = e->gid,
		.access = e->access,
		.id = e->id,
		.size_bytes = e->size_bytes,
		.allocated_bytes = e->allocated_bytes,
		.btime_ns = e->btime_ns,
		.mtime_ns = e->mtime_ns,
		.ctime_ns = e->ctime_ns,
		.posted_ns = e->posted_ns,
		.opens = e->opens,
		.poster_uid = e->poster_uid,
		.poster_pid = e->poster_pid,
		.seals = e->seals,
	};
	memcpy(ret->name, e->name, len);
	copy_field(ret->kind, e->kind);
	copy_field(ret->what, e->what);
	copy_field(ret->poster_comm, e->poster_comm);
	return 0;
}

/* Fetch the next piece. */
static int dir_fill(struct kshared_dir *dir)
{
	struct call c;
	int r;

	call_init(&c, CTL_LIST);
	memcpy(c.req.path, dir->path, dir->path_len);
	c.req.path_len = dir->path_len;
	c.req.cookie = dir->cookie;
	c.body = dir->entries;
	c.body_size = sizeof(dir->entries);
	r = conn_call(dir->k, &c);
	if (r < 0)
		return r;
	if (c.ret_count > CTL_LIST_MAX || c.ret_body_len != c.ret_count * sizeof(struct ctl_entry))
		return -EPROTO;
	dir->count = c.ret_count;
	dir->next = 0;
	dir->end = dir->count == 0;
	if (dir->count)
		dir->cookie = dir->entries[dir->count - 1].cookie;
	return 0;
}

/**
 * kshared_opendir() - begin a listing.
 * @k: the connection; NULL: the default one; must outlive the listing
 * @path: a directory of the folder; "" the folder itself
 *
 * Any thread; the listing is for one thread at a time.
 *
 * Return: a listing; NULL with errno: ENOENT; ENOTDIR; EACCES; EINVAL, ENAMETOOLONG; ENOMEM;
 * and those of conn_call().
 */
struct kshared_dir *kshared_opendir(struct kshared *k, const char *path)
{
	cleanup_free struct kshared_dir *dir = NULL;
	struct call c;
	int r;

	cancel_guard();
	call_init(&c, CTL_LIST);
	r = call_set_path(&c, NULL, path);
	if (r == 0) {
		dir = malloc(sizeof(*dir));
		r = dir ? 0 : -ENOMEM;
	}
	if (r == 0) {
		dir->k = k;
		memcpy(dir->path, c.req.path, sizeof(dir->path));
		dir->path_len = c.req.path_len;
		dir->cookie = 0;
		r = dir_fill(dir);
	}
	if (r < 0) {
		errno = -r;
		return NULL;
	}
	return take_ptr(dir);
}

/**
 * kshared_readdir() - the next entry of a listing.
 * @dir: from kshared_opendir()
 * @ret: written when 1 is returned
 *
 * Return: 1; 0 at the end; -1 with errno: EPROTO the daemon told nonsense; and those of
 * conn_call().
 */
int kshared_readdir(struct kshared_dir *dir, struct kshared_entry *ret)
{
	int r;

	cancel_guard();
	if (dir->next == dir->count && !dir->end) {
		r = dir_fill(dir);
		if (r < 0)
			return api_result(r);
	}
	if (dir->next == dir->count)
		return 0;
	if (!dir->entries[dir->next].name_len)
		return api_result(-EPROTO);
	r = entry_from_wire(ret, &dir->entries[dir->next]);
	if (r < 0)
		return api_result(r);
	dir->next++;
	return 1;
}

/**
 * kshared_closedir() - end a listing.
 * @dir: from kshared_opendir(); NULL is ignored
 */
void kshared_closedir(struct kshared_dir *dir)
{
	free(dir);
}

/**
 * kshared_stat() - what is known of one entry.
 * @k: the connection; NULL: the default one
 * @path: a path inside the folder; "" the folder itself
 * @ret: written on success
 *
 * Any thread.
 *
 * Return: 0; -1 with errno: ENOENT; EACCES; EINVAL, ENAMETOOLONG; and those of conn_call().
 */
int kshared_stat(struct kshared *k, const char *path, struct kshared_entry *ret)
{
	struct ctl_entry entry;
	struct call c;
	int r;

	cancel_guard();
	call_init(&c, CTL_STAT);
	r = call_set_path(&c, NULL, path);
	if (r < 0)
		return api_result(r);
	c.body = &entry;
	c.body_size = sizeof(entry);
	r = conn_call(k, &c);
	if (r == 0)
		r = c.ret_body_len == sizeof(entry) ? entry_from_wire(ret, &entry) : -EPROTO;
	return api_result(r);
}

/**
 * kshared_remove() - remove an entry or an empty board.
 * @k: the connection; NULL: the default one
 * @path: a path inside the folder
 *
 * Any thread.
 *
 * Return: 0; -1 with errno: ENOENT; EACCES; EPERM sticky directory, not the owner; ENOTEMPTY;
 * EINVAL, ENAMETOOLONG; and those of conn_call().
 */
int kshared_remove(struct kshared *k, const char *path)
{
	struct call c;
	int r;

	cancel_guard();
	call_init(&c, CTL_REMOVE);
	r = call_set_path(&c, NULL, path);
	if (r == 0 && !c.req.path_len)
		r = -EINVAL;
	c.req.flags = CTL_REMOVE_ANY;
	return api_result(r < 0 ? r : conn_call(k, &c));
}

/**
 * kshared_get_status() - the daemon as a whole.
 * @k: the connection; NULL: the default one
 * @ret: written on success
 *
 * Any thread.
 *
 * Return: 0; -1 with errno: those of conn_call().
 */
int kshared_get_status(struct kshared *k, struct kshared_status *ret)
{
	struct ctl_status s;
	struct call c;
	int r;

	cancel_guard();
	call_init(&c, CTL_STATUS);
	c.body = &s;
	c.body_size = sizeof(s);
	r = conn_call(k, &c);
	if (r == 0 && c.ret_body_len != sizeof(s))
		r = -EPROTO;
	if (r < 0)
		return api_result(r);
	*ret = (struct kshared_status){
		.keeper_pid = s.keeper_pid,
		.worker_pid = s.worker_pid,
		.features = s.features,
		.fuse_minor = s.fuse_minor,
		.restarts = s.restarts,
		.started_ns = s.started_ns,
		.entries = s.entries,
		.bytes = s.bytes,
		.max_entries = s.max_entries,
		.max_bytes = s.max_bytes,
		.entries_uid = s.entries_uid,
		.bytes_uid = s.bytes_uid,
		.max_entries_uid = s.max_entries_uid,
		.max_bytes_uid = s.max_bytes_uid,
	};
	copy_field(ret->version, s.version);
	copy_field(ret->mountpoint, s.mountpoint);
	return 0;
}

/**
 * kshared_shutdown() - unmount the folder and end its daemon.
 * @k: the connection; NULL: the default one; useless afterwards
 * @flags: KSHARED_SHUTDOWN_*
 *
 * Any thread. A daemon that is gone before it could answer has done what was asked.
 *
 * Return: 0; -1 with errno: EPERM; EBUSY the mount is in use; EINVAL flags; and those of
 * conn_call().
 */
int kshared_shutdown(struct kshared *k, unsigned int flags)
{
	struct call c;

	cancel_guard();
	if (flags & ~KSHARED_SHUTDOWN_LAZY)
		return api_result(-EINVAL);
	call_init(&c, CTL_SHUTDOWN);
	c.req.flags = flags;
	return api_result(conn_call(k, &c));
}
