/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tree.h - the folder: entries, their names, owners, limits and lifetimes.
 *
 * Every change is committed to the store before the caller hears of it. An entry that is removed while
 * the kernel still knows its inode lives on as an orphan, without a name, until tree_forget() finds that the
 * kernel has let go; no lookup counts are kept, since they could not survive the worker.
 *
 * One thread; no locks.
 */
#ifndef KSHARED_CORE_TREE_H
#define KSHARED_CORE_TREE_H

#include <core/kind.h>
#include <core/store.h>
#include <uthash.h>

struct poller;
struct relay;
struct tree;
struct uid_use;

#define ENTRY_NAME_MAX 255

#define ENTRY_OLD_FDS 4

/**
 * struct entry - one file or directory of the folder.
 * @id: its number, for ever; also the kernel's node id
 * @pos: place in its directory's listing; grows
 * @kind: NULL for a folder's root that holds one directory per kind
 * @what_dir: it is a directory
 * @orphan: has no name any more
 * @slot: index into shm->opens
 * @charged_bytes: what its owner is charged for
 * @fd: its descriptor, borrowed from the store while needed; -1: not here; use entry_fd()
 * @pins: users of @fd right now, who must not have it closed
 * @old_fds: @nr_old_fds that were replaced while they had users: they are closed when there are none
 * @priv: the kind's private part, kind->entry_size bytes
 */
struct entry {
	struct tree *tree;
	struct entry *parent;
	const struct kind *kind;
	uint64_t id;
	uint64_t pos;
	char *name;
	size_t name_len;
	uint32_t mode;
	uid_t uid;
	gid_t gid;
	int64_t btime_ns;
	int64_t mtime_ns;
	int64_t ctime_ns;
	uint64_t parent_id; /* until tree_restored() has joined them */
	bool orphan;
	bool has_fd;
	uint32_t slot;
	uint64_t charged_bytes;
	int fd;
	unsigned int pins;
	int old_fds[ENTRY_OLD_FDS];
	unsigned int nr_old_fds;
	uint32_t busy; /* the kind's, for as long as the process lives */
	struct later *laters; /* kind/later.c's queue */
	void *priv;
	struct entry *lru_prev, *lru_next;
	struct entry *children; /* of a directory, by pos */
	struct entry *prev, *next; /* among the parent's children, or the orphans */
	struct entry *names; /* the children, hash by name */
	struct entry *cursor; /* where the last listing stopped */
	unsigned int nr_children;
	unsigned int nr_dirs;
	UT_hash_handle by_id;
	UT_hash_handle by_name;
};

/** struct limits - 0: no limit. */
struct limits {
	uint64_t max_entries;
	uint64_t max_bytes;
	uint64_t max_entries_uid;
	uint64_t max_bytes_uid;
};

/**
 * struct tree - the folder as a whole.
 * @relay, @poller, @aside: for kinds; core only hands them on
 * @close_fd: closes a descriptor that came from @uid, without ever blocking
 * @close_copy: as @close_fd, of an entry that stays, so that the store has the descriptor, too; NULL: @close_fd
 * @barred: has @uid given so many descriptors of which the closing hangs that no more are to be had from him?
 * @publisher: the socket of the daemon's own server of ports; -1: there is none
 * @merger: the socket of who has the merge partitions; -1: there is none
 * @attr_changed: what the kernel may have cached of an entry is no longer true
 * @names_changed: nor what it has cached of names
 * @removed: an orphan was made otherwise than through the mount: it ends if nobody knows it
 * @port_again: have port_again() called in half a second
 * @reclaim: end removed entries that can be ended, since a limit is reached
 * @dev: the mount's device number, to know its own files by; 0: not mounted
 * @proc: /proc/self/fd, to open descriptors anew by
 * @mounted: the kernel may hold inodes of removed entries
 * @passthrough: the kernel can serve files itself
 * @uid, @gid: who runs the daemon
 * @single: as in struct tree_conf
 * @entries, @bytes: of all users; bytes of each up to his limit
 */
struct tree {
	struct store *store;
	struct relay *relay;
	struct poller *poller;
	struct aside *aside;
	void (*close_fd)(struct tree *t, uid_t uid, int fd);
	void (*close_copy)(struct tree *t, uid_t uid, int fd);
	bool (*barred)(struct tree *t, uid_t uid);
	void (*attr_changed)(struct tree *t, const struct entry *e);
	void (*names_changed)(struct tree *t);
	void (*removed)(struct tree *t, struct entry *e);
	void (*port_again)(struct tree *t);
	void (*reclaim)(struct tree *t);
	void *owner; /* of the hooks */
	const struct kind *const *kinds;
	struct limits limits;
	uint64_t dev;
	int proc;
	int publisher;
	int merger;
	bool mounted;
	bool passthrough;
	bool may_take; /* descriptors of any user's processes */
	uid_t uid;
	gid_t gid;
	const struct kind *single;
	unsigned int max_fds;
	uint32_t dir_mode;

	struct entry *root;
	struct entry *ids; /* hash by id */
	struct entry *orphans;
	struct entry *lru;
	unsigned int nr_fds;
	unsigned int nr_pinned; /* entries whose descriptor must stay */
	uint64_t entries;
	uint64_t bytes;
	struct uid_use *uses;
	struct done_table *done;
	uint32_t *free_slots;
	uint32_t nr_free_slots;
	uint32_t *free_writers;
	uint32_t nr_free_writers;
};

/**
 * struct tree_conf - for tree_new().
 * @kinds: NULL-terminated
 * @single: serve this kind alone, its directory being the root; NULL: a directory per kind
 * @dir_mode: permissions of the first directories; UINT32_MAX: what each kind says
 */
struct tree_conf {
	struct store *store;
	const struct kind *const *kinds;
	const struct kind *single;
	struct limits limits;
	uint32_t dir_mode;
	uid_t uid;
	gid_t gid;
	unsigned int max_fds;
};

/**
 * tree_new() - an empty folder, before anything is restored.
 * Return: 0; -ENOMEM.
 */
int tree_new(struct tree **ret, const struct tree_conf *conf);

/** tree_free() - drop everything in memory; the store is not touched. */
void tree_free(struct tree *t);

/**
 * tree_restore() - put back an entry from its record.
 * In any order; tree_restored() joins them at the end.
 * Return: 0; -EINVAL a record that is not ours; -ENOMEM.
 */
int tree_restore(struct tree *t, uint64_t id, const void *bytes, size_t len, bool has_fd);

/** tree_restored() - all records are in: join them, make what is missing of the first directories. Return: 0; -EINVAL. */
int tree_restored(struct tree *t);

/** tree_restore_done() - a finished request, from the store. Return: 0; -ENOMEM. */
int tree_restore_done(struct tree *t, const uint64_t id[2], int32_t result, uint64_t entry);

/** entry_is_part() - does it come and go with its directory? */
bool entry_is_part(const struct entry *e);

/** tree_by_id() - the entry of a number, orphans too. Return: borrowed, or NULL. */
struct entry *tree_by_id(struct tree *t, uint64_t id);

/** tree_lookup() - a name in a directory; no permission is asked. Return: borrowed, or NULL. */
struct entry *tree_lookup(struct entry *dir, const char *name, size_t len);

/**
 * tree_walk() - the entry of a path inside the folder, "srv/a/b"; needs search permission on the way.
 * @last: if not NULL, the last component is not looked up but given here, and its directory is returned
 * Return: 0; -ENOENT, -ENOTDIR, -EACCES, -EINVAL (".", "..", empty component), -ENAMETOOLONG.
 */
int tree_walk(struct tree *t, const struct cred *cred, const char *path, size_t len,
	      struct entry **ret, const char **last, size_t *last_len);

/**
 * tree_create() - a new file, or board if @mode says S_IFDIR.
 * @rq: cred, id, mode (with type), fd and what the kind's `create` reads; rq->fd is taken on success
 * One that is there already may be taken over, if its kind says so (`replace`).
 * Return: 0 and *@ret borrowed; -ENOTDIR, -EEXIST, -EINVAL, -ENAMETOOLONG, -EPERM (the root), -EACCES, -EDQUOT,
 * -ENOSPC, -ENOMEM, or what the kind says.
 */
int tree_create(struct entry *dir, const char *name, size_t len, struct request *rq,
		struct entry **ret);

/**
 * tree_add_own() - a file of the folder's own, or a part, without descriptor; it has its directory's owner.
 * @priv: the kind's private part
 * Return: 0; -ENOMEM; -ENOSPC.
 */
int tree_add_own(struct entry *dir, const char *name, mode_t mode, const void *priv);

/**
 * tree_remove() - take an entry's name away.
 * @want_dir: 1 a board, 0 a file, -1 either
 * Return: 0; -ENOENT, -EISDIR, -ENOTDIR, -ENOTEMPTY, -EPERM, -EACCES.
 */
int tree_remove(struct entry *dir, const char *name, size_t len, int want_dir, struct request *rq);

/**
 * tree_rename() - move or swap names.
 * @flags: RENAME_NOREPLACE, RENAME_EXCHANGE
 * Return: 0; -ENOENT, -EEXIST, -EXDEV (another kind's directory), -EISDIR, -ENOTDIR, -ENOTEMPTY, -EINVAL, -EPERM, -EACCES.
 */
int tree_rename(struct entry *from, const char *name, size_t len, struct entry *to,
		const char *new_name, size_t new_len, unsigned int flags, struct request *rq);

/* tree_setattr() masks */
#define ATTR_MODE 1u
#define ATTR_UID 2u
#define ATTR_GID 4u
#define ATTR_MTIME 8u

/** struct attr_change - what tree_setattr() shall change. */
struct attr_change {
	unsigned int mask;
	uint32_t mode;
	uid_t uid;
	gid_t gid;
	int64_t mtime_ns;
};

/** tree_setattr() - owner, mode, time. The kernel has checked permission. Return: 0; KIND_LATER; -EDQUOT. */
int tree_setattr(struct entry *e, const struct attr_change *c, struct request *rq);

/** tree_forget() - an orphan that nobody knows any more ends for good. @e: an orphan */
void tree_forget(struct entry *e);

/**
 * tree_next() - listing: the first child of @dir whose position is above @after.
 * Return: borrowed, or NULL at the end.
 */
struct entry *tree_next(struct entry *dir, uint64_t after);

/** entry_save() - commit an entry's record. @fd: a descriptor it shall keep from now on, borrowed, or -1 */
void entry_save(struct entry *e, const struct request *rq, int fd);

/** entry_describe() - `describe` with its default. */
void entry_describe(struct entry *e, struct description *ret);

/** tree_take_back() - an entry that could not begin: its name and all goes, as if it had been removed. */
void tree_take_back(struct entry *e);

/** entry_counts() - is it charged to its owner? */
bool entry_counts(const struct entry *e);

/** entry_opened() - count one open. */
void entry_opened(struct entry *e);

/** entry_opens() - how often it was opened. */
uint64_t entry_opens(const struct entry *e);

/**
 * entry_fd() - the entry's descriptor, borrowed from the store if it is not here.
 * Valid until the loop goes on, or while pinned. Return: >= 0; -EBADF it has none; -errno of the store.
 */
int entry_fd(struct entry *e);

/** entry_pin() - as entry_fd(), and keep it open until entry_unpin(). Return: as entry_fd(). */
int entry_pin(struct entry *e);

/** entry_replace_fd() - the entry's descriptor is going to be another one; who has pinned the old one goes on with it. At most ENTRY_OLD_FDS times. */
void entry_replace_fd(struct entry *e);

/** entry_unpin() - undo one entry_pin(); an orphan may end by it. */
void entry_unpin(struct entry *e);

/** entry_keep_fd() - @fd, owned now by the entry, is its descriptor here. */
void entry_keep_fd(struct entry *e, int fd);

/** entry_is_dir() - is it a directory? */
static inline bool entry_is_dir(const struct entry *e)
{
	return (e->mode & 0170000) == 0040000;
}

/** tree_now() - the time, ns since the epoch. */
int64_t tree_now(void);

/* access.c */

/**
 * access_granted() - what an entry's mode gives a caller.
 * Return: of 4 read, 2 write, 1 search.
 */
unsigned int access_granted(const struct entry *e, const struct cred *c);

/** access_check() - may @c do @want (4, 2, 1) on @e? True at once if the kernel has checked. Return: 0; -EACCES. */
int access_check(const struct entry *e, const struct cred *c, unsigned int want);

/** access_unlink() - may @c take @e out of its directory? Return: 0; -EACCES; -EPERM (sticky). */
int access_unlink(const struct entry *e, const struct cred *c);

/** access_in_group() - is @gid one of @c's? */
bool access_in_group(const struct cred *c, gid_t gid);

/** access_wanted() - open flags as access bits: of 4 read, 2 write. */
unsigned int access_wanted(int oflags);

/* quota.c */

/**
 * quota_charge() - take room for a user.
 * Return: 0; -EDQUOT the user's limit; -ENOSPC the folder's; -ENOMEM.
 */
int quota_charge(struct tree *t, uid_t uid, uint64_t entries, uint64_t bytes);

/** quota_check() - would quota_charge() give it, as things are? Return: 0; -EDQUOT; -ENOSPC. */
int quota_check(struct tree *t, uid_t uid, uint64_t entries, uint64_t bytes);

/**
 * quota_force() - as quota_charge(), but beyond any limit: for what exists already.
 * Bytes beyond the user's limit do not count for the folder.
 */
void quota_force(struct tree *t, uid_t uid, uint64_t entries, uint64_t bytes);

/** quota_release() - give room back. */
void quota_release(struct tree *t, uid_t uid, uint64_t entries, uint64_t bytes);

/**
 * quota_handle() - one more handle for a user, of a quarter of those that there are; root and who runs the daemon have no limit.
 * Return: 0; -ENFILE he has his share; -ENOMEM.
 */
int quota_handle(struct tree *t, uid_t uid);

/** quota_handle_force() - count a handle that is open already. */
void quota_handle_force(struct tree *t, uid_t uid);

/** quota_handle_release() - a handle of his is no more. */
void quota_handle_release(struct tree *t, uid_t uid);

/** quota_get() - a user's use. */
void quota_get(struct tree *t, uid_t uid, uint64_t *entries, uint64_t *bytes);

/** quota_free() - drop all accounts. */
void quota_free(struct tree *t);

/**
 * entry_recharge() - an entry's size is now @bytes: charge or release the difference.
 * @bytes: above 64 TiB it counts as so much
 * @force: it has that size already
 * Return: 0; -EDQUOT; -ENOSPC; -ENOMEM.
 */
int entry_recharge(struct entry *e, uint64_t bytes, bool force);

/* writers.c */

/**
 * writers_open() - note a handle that is opened; chooses rq->word.
 * Return: 0; -ENFILE too many, of this user or in all; -ENOMEM.
 */
int writers_open(struct entry *e, struct request *rq);

/** writers_close() - a handle is no more. @word: of any handle; others than writers_open()'s are passed over */
void writers_close(struct tree *t, uint64_t word);

/** writers_any() - is such a handle of @e open? */
bool writers_any(const struct entry *e);

/* done.c */

/** struct done_table - requests that were carried out, for those that come again; opaque. */
struct done_table;

/**
 * done_find() - was this request carried out by a worker that died?
 * Return: true, with *@result and the entry concerned.
 */
bool done_find(struct tree *t, const struct request *rq, int *result, uint64_t *entry);

/** done_note() - remember a finished request. */
void done_note(struct tree *t, const uint64_t id[2], int32_t result, uint64_t entry);

/**
 * poison_enter() - a request is about to be worked on.
 * @key: names it for as long as it may come again
 * Return: false if it has killed too many workers and must be refused.
 */
bool poison_enter(struct tree *t, uint64_t key);

/** poison_leave() - it did not kill us. */
void poison_leave(struct tree *t);

/** poison_restart() - a worker begins: was it a request that its predecessor died of? */
void poison_restart(struct shm *shm);

/** done_free() - forget all. */
void done_free(struct tree *t);

#endif
