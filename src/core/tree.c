// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tree.c - names and directories: lookup, create, remove, rename, list.
 *
 * Each operation checks first, then commits to the store, then changes the memory. So a worker that dies between leaves nothing
 * half done: the store decides. A request that comes again after such a death is answered from the
 * done table. The name, once linked, is in its directory's hash and in its list, which is ordered by pos.
 */
#include <base/cleanup.h>
#include <core/record.h>
#include <core/tree.h>
#include <errno.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <utlist.h>
#include <wire/keep.h>

int64_t tree_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

bool entry_is_part(const struct entry *e)
{
	return !entry_is_dir(e) && e->kind && e->kind->part && e->kind->part(e);
}

static int check_name(const char *name, size_t len)
{
	if (len > ENTRY_NAME_MAX)
		return -ENAMETOOLONG;
	if (len == 0 || memchr(name, '/', len) || memchr(name, 0, len))
		return -EINVAL;
	if ((len == 1 && name[0] == '.') || (len == 2 && name[0] == '.' && name[1] == '.'))
		return -EINVAL;
	return 0;
}

struct entry *entry_new(struct tree *t, const struct kind *kind, const char *name, size_t len)
{
	struct entry *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->tree = t;
	e->kind = kind;
	e->fd = -1;
	e->name = strndup(name, len);
	e->name_len = len;
	e->priv = calloc(1, KIND_ENTRY_MAX);
	if (!e->name || !e->priv) {
		free(e->name);
		free(e->priv);
		free(e);
		return NULL;
	}
	return e;
}

void entry_free(struct entry *e)
{
	if (e->fd >= 0)
		entry_keep_fd(e, -1);
	free(e->name);
	free(e->priv);
	free(e);
}

void entry_link(struct entry *dir, struct entry *e)
{
	struct entry *after = dir->children ? dir->children->prev : NULL;

	e->parent = dir;
	HASH_ADD_KEYPTR(by_name, dir->names, e->name, e->name_len, e);
	if (!after || after->pos < e->pos) {
		/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): the first one's prev is the last one */
		DL_APPEND(dir->children, e);
	} else {
		struct entry *at;

		DL_FOREACH(dir->children, at)
			if (at->pos > e->pos)
				break;
		DL_PREPEND_ELEM(dir->children, at, e);
	}
	dir->nr_children++;
	dir->nr_dirs += entry_is_dir(e);
	dir->cursor = NULL;
}

static void entry_unlink(struct entry *e)
{
	struct entry *dir = e->parent;

	HASH_DELETE(by_name, dir->names, e);
	DL_DELETE(dir->children, e);
	dir->nr_children--;
	dir->nr_dirs -= entry_is_dir(e);
	dir->cursor = NULL;
}

struct entry *tree_by_id(struct tree *t, uint64_t id)
{
	struct entry *e;

	HASH_FIND(by_id, t->ids, &id, sizeof(id), e);
	return e;
}

struct entry *tree_lookup(struct entry *dir, const char *name, size_t len)
{
	struct entry *e;

	HASH_FIND(by_name, dir->names, name, len, e);
	return e;
}

int tree_walk(struct tree *t, const struct cred *cred, const char *path, size_t len,
	      struct entry **ret, const char **last, size_t *last_len)
{
	struct entry *at = t->root;
	const char *end = path + len;
	int r;

	/* A folder of one kind is that kind's directory: its name in front is accepted, and means the root. */
	if (at->kind) {
		size_t n = strlen(at->kind->name);

		if (len >= n && memcmp(path, at->kind->name, n) == 0 &&
		    (len == n || path[n] == '/'))
			path += len == n ? n : n + 1;
	}
	while (path < end) {
		const char *slash = memchr(path, '/', (size_t)(end - path));
		size_t n = (size_t)((slash ? slash : end) - path);

		if (!entry_is_dir(at))
			return -ENOTDIR;
		r = check_name(path, n);
		if (r < 0)
			return r;
		r = access_check(at, cred, 1);
		if (r < 0)
			return r;
		if (last && !slash) {
			*last = path;
			*last_len = n;
			*ret = at;
			return 0;
		}
		at = tree_lookup(at, path, n);
		if (!at)
			return -ENOENT;
		path += n + (slash ? 1 : 0);
		if (slash && path == end)
			return -EINVAL;
	}
	if (last)
		return -EINVAL;
	*ret = at;
	return 0;
}

/* What the kernel has cached of @dir is no longer true, unless it was the kernel that asked for the change. */
static void tell_kernel(struct entry *dir, const struct request *rq)
{
	struct tree *t = dir->tree;

	if (rq->cred->checked)
		return;
	if (t->names_changed)
		t->names_changed(t);
	if (t->attr_changed)
		t->attr_changed(t, dir);
}

/* A directory's times change with every name in it: too often for a record, so they are in the shared memory. */
static void touch_dir(struct entry *dir, int64_t now)
{
	dir->mtime_ns = dir->ctime_ns = now;
	dir->tree->store->shm->times[dir->slot] = now;
}

static int take_slot(struct tree *t, uint32_t *ret)
{
	if (t->nr_free_slots == 0)
		return -ENOSPC;
	*ret = t->free_slots[--t->nr_free_slots];
	t->store->shm->opens[*ret] = 0;
	t->store->shm->times[*ret] = 0;
	return 0;
}

/*
 * A resent request that its first worker had finished: give the same answer. On the socket its id is the client's own choice:
 * an entry that is another user's is not what this one has made.
 */
static bool answered(struct tree *t, struct request *rq, int *result, struct entry **ret)
{
	struct entry *e;
	uint64_t id;

	if (!rq->resent || !done_find(t, rq, result, &id))
		return false;
	if (!ret || *result < 0)
		return true;
	e = tree_by_id(t, id);
	if (e && !rq->cred->checked && e->uid != rq->cred->uid)
		return false;
	if (e)
		*ret = e;
	else
		*result = -ENOENT;
	return true;
}

static void commit_one(struct entry *e, const struct request *rq, int fd)
{
	unsigned char bytes[KEEP_BLOB_MAX];
	struct commit c = {
		.changes[0] = { .id = e->id,
				.owner = e->uid,
				.bytes = bytes,
				.len = record_write(e, bytes) },
		.nr_changes = 1,
		.fd = fd,
		.done_entry = e->id,
	};

	if (rq) {
		memcpy(c.done_id, rq->id, sizeof(c.done_id));
		done_note(e->tree, rq->id, 0, e->id);
	}
	e->tree->store->ops->commit(e->tree->store, &c);
}

void entry_save(struct entry *e, const struct request *rq, int fd)
{
	if (fd >= 0)
		e->has_fd = true;
	commit_one(e, rq, fd);
}

/* The same entry for whoever looks: its number, owner and place stay. */
static int take_over(struct entry *e, struct request *rq)
{
	int r, fd;

	if (rq->fd < 0 || entry_is_dir(e) || !e->kind->replace)
		return -EEXIST;
	/* Who is at work on the old descriptor goes on with it. */
	if (e->pins && e->nr_old_fds == ENTRY_OLD_FDS)
		return -EBUSY;
	r = e->kind->replace(e, rq);
	if (r < 0)
		return r;
	entry_replace_fd(e);
	e->mode = S_IFREG | (rq->mode & 0777);
	e->ctime_ns = tree_now();
	fd = take_fd(&rq->fd);
	entry_save(e, rq, fd);
	entry_keep_fd(e, fd);
	if (e->tree->attr_changed)
		e->tree->attr_changed(e->tree, e);
	return 0;
}

static bool is_reserved(const struct entry *dir, const char *name, size_t len)
{
	return dir->kind && dir->kind->reserved && (!dir->parent || !dir->parent->kind) &&
		dir->kind->reserved(name, len);
}

int tree_create(struct entry *dir, const char *name, size_t len, struct request *rq,
		struct entry **ret)
{
	struct tree *t = dir->tree;
	struct entry *e;
	bool is_dir = S_ISDIR(rq->mode);
	int r, fd;

	if (answered(t, rq, &r, ret))
		return r;
	r = check_name(name, len);
	if (r < 0)
		return r;
	/* A path leads to none such; what else names it may. */
	if (!entry_is_dir(dir))
		return -ENOTDIR;
	if (dir->orphan)
		return -ENOENT;
	e = tree_lookup(dir, name, len);
	if (e) {
		*ret = e;
		return take_over(e, rq);
	}
	if (!dir->kind)
		return -EPERM;
	r = access_check(dir, rq->cred, 2 | 1);
	if (r == 0 && is_dir && dir->kind->board)
		r = dir->kind->board(dir);
	if (r < 0)
		return r;
	if (is_reserved(dir, name, len))
		return -EPERM;
	r = quota_charge(t, rq->cred->uid, 1, 0);
	if (r < 0)
		return r;
	e = entry_new(t, dir->kind, name, len);
	if (!e) {
		quota_release(t, rq->cred->uid, 1, 0);
		return -ENOMEM;
	}
	e->uid = rq->cred->uid;
	e->gid = (dir->mode & S_ISGID) ? dir->gid : rq->cred->gid;
	e->mode = (rq->mode & 07777) | (is_dir ? S_IFDIR | (dir->mode & S_ISGID) : S_IFREG);
	if (!is_dir)
		e->mode &= ~(uint32_t)(S_ISUID | S_ISGID | S_ISVTX);
	e->btime_ns = e->mtime_ns = e->ctime_ns = tree_now();
	r = take_slot(t, &e->slot);
	if (r == 0 && !is_dir && dir->kind->create) {
		r = dir->kind->create(e, rq);
		if (r < 0)
			t->free_slots[t->nr_free_slots++] = e->slot;
	}
	if (r < 0) {
		quota_release(t, e->uid, 1, e->charged_bytes);
		entry_free(e);
		return r;
	}
	e->id = ++t->store->shm->next_id;
	e->pos = ++t->store->shm->next_pos;
	e->parent = dir;
	fd = take_fd(&rq->fd);
	entry_save(e, rq, fd);
	if (fd >= 0)
		entry_keep_fd(e, fd);
	HASH_ADD(by_id, t->ids, id, sizeof(e->id), e);
	entry_link(dir, e);
	if (is_dir && dir->kind->fill)
		dir->kind->fill(e);
	touch_dir(dir, e->btime_ns);
	tell_kernel(dir, rq);
	*ret = e;
	return 0;
}

/* The end of an entry in memory; the store has been told. */
static void entry_end(struct entry *e)
{
	struct tree *t = e->tree;

	if (!entry_is_dir(e) && e->kind->destroy)
		e->kind->destroy(e);
	HASH_DELETE(by_id, t->ids, e);
	if (entry_counts(e))
		quota_release(t, e->uid, 1, e->charged_bytes);
	t->free_slots[t->nr_free_slots++] = e->slot;
	entry_free(e);
}

/* Put into *@c what becomes of an entry that loses its name; to be followed by drop_name(). */
static void plan_drop(struct entry *e, struct change *c, unsigned char *bytes)
{
	*c = (struct change){ .id = e->id, .owner = e->uid };
	e->ctime_ns = tree_now();
	if (e->tree->mounted || e->pins) {
		e->orphan = true;
		c->bytes = bytes;
		c->len = record_write(e, bytes);
	}
}

static void drop_name(struct entry *e)
{
	struct entry *dir = e->parent;

	entry_unlink(e);
	e->parent = NULL;
	touch_dir(dir, tree_now());
	if (e->orphan) {
		DL_PREPEND(e->tree->orphans, e);
		if (!entry_is_dir(e) && e->kind->unnamed)
			e->kind->unnamed(e);
	} else {
		entry_end(e);
	}
}

/* The request is carried out with it, if there is one; else it is a step of one. */
static void remove_one(struct entry *e, struct request *rq, bool last)
{
	struct tree *t = e->tree;
	unsigned char bytes[KEEP_BLOB_MAX];
	struct commit c = { .nr_changes = 1, .fd = -1 };
	bool orphan;

	plan_drop(e, &c.changes[0], bytes);
	orphan = e->orphan;
	if (last) {
		memcpy(c.done_id, rq->id, sizeof(c.done_id));
		done_note(t, rq->id, 0, 0);
	}
	t->store->ops->commit(t->store, &c);
	drop_name(e);
	if (orphan && !rq->cred->checked && t->removed)
		t->removed(t, e);
}

static bool has_only_parts(const struct entry *dir)
{
	const struct entry *e;

	DL_FOREACH(dir->children, e)
		if (!entry_is_part(e))
			return false;
	return true;
}

int tree_remove(struct entry *dir, const char *name, size_t len, int want_dir, struct request *rq)
{
	struct tree *t = dir->tree;
	struct entry *e, *part, *tmp;
	int r;

	if (answered(t, rq, &r, NULL))
		return r;
	e = tree_lookup(dir, name, len);
	if (!e)
		return -ENOENT;
	if (want_dir == 0 && entry_is_dir(e))
		return -EISDIR;
	if (want_dir == 1 && !entry_is_dir(e))
		return -ENOTDIR;
	r = access_unlink(e, rq->cred);
	if (r < 0)
		return r;
	if (!dir->kind || entry_is_part(e))
		return -EPERM;
	if (!has_only_parts(e))
		return -ENOTEMPTY;
	/* Who dies in the middle leaves some of the parts, which is made good when the next one begins. */
	DL_FOREACH_SAFE(e->children, part, tmp)
		remove_one(part, rq, false);
	remove_one(e, rq, true);
	tell_kernel(dir, rq);
	return 0;
}

void tree_take_back(struct entry *e)
{
	static const struct cred root = { .override = true };
	struct request rq = { .cred = &root, .fd = -1, .out_fd = -1 };

	if (e->parent)
		tree_remove(e->parent, e->name, e->name_len, 0, &rq);
}

static int rename_check(struct entry *e, struct entry *to, struct entry *victim, unsigned int flags,
			const struct cred *cred)
{
	int r;

	r = access_unlink(e, cred);
	if (r < 0)
		return r;
	r = access_check(to, cred, 2 | 1);
	if (r < 0)
		return r;
	if (!e->parent->kind || !to->kind || entry_is_part(e) || (victim && entry_is_part(victim)))
		return -EPERM;
	if (to->kind != e->kind)
		return -EXDEV;
	if (entry_is_dir(e) && e->kind->board && to != e->parent) {
		r = e->kind->board(to);
		if (r < 0)
			return r;
	}
	if (to->orphan)
		return -ENOENT;
	for (struct entry *up = to; up; up = up->parent)
		if (up == e)
			return -EINVAL;
	if (!victim)
		return (flags & RENAME_EXCHANGE) ? -ENOENT : 0;
	if (flags & RENAME_NOREPLACE)
		return -EEXIST;
	r = access_unlink(victim, cred);
	if (r < 0)
		return r;
	if (flags & RENAME_EXCHANGE) {
		for (struct entry *up = e->parent; up; up = up->parent)
			if (up == victim)
				return -EINVAL;
		return 0;
	}
	if (entry_is_dir(victim) && !entry_is_dir(e))
		return -EISDIR;
	if (!entry_is_dir(victim) && entry_is_dir(e))
		return -ENOTDIR;
	return victim->children ? -ENOTEMPTY : 0;
}

static void place_entry(struct entry *e, struct entry *dir, char *name, size_t len, uint64_t pos)
{
	free(e->name);
	e->name = name;
	e->name_len = len;
	e->pos = pos;
	entry_link(dir, e);
}

int tree_rename(struct entry *from, const char *name, size_t len, struct entry *to,
		const char *new_name, size_t new_len, unsigned int flags, struct request *rq)
{
	struct tree *t = from->tree;
	unsigned char bytes[2][KEEP_BLOB_MAX];
	cleanup_free char *name_e = NULL;
	cleanup_free char *name_v = NULL;
	struct commit c = { .nr_changes = 1, .fd = -1 };
	struct entry *e, *victim;
	uint64_t pos_e, pos_v;
	bool exchange = flags & RENAME_EXCHANGE;
	int r;

	if (answered(t, rq, &r, NULL))
		return r;
	if ((flags & ~(unsigned int)(RENAME_EXCHANGE | RENAME_NOREPLACE)) ||
	    flags == (RENAME_EXCHANGE | RENAME_NOREPLACE))
		return -EINVAL;
	r = check_name(new_name, new_len);
	if (r < 0)
		return r;
	e = tree_lookup(from, name, len);
	if (!e)
		return -ENOENT;
	victim = tree_lookup(to, new_name, new_len);
	if (victim == e)
		return (flags & RENAME_NOREPLACE) ? -EEXIST : 0;
	r = rename_check(e, to, victim, flags, rq->cred);
	if (r < 0)
		return r;
	if (is_reserved(to, new_name, new_len) || (exchange && is_reserved(from, name, len)))
		return -EPERM;
	name_e = strndup(new_name, new_len);
	name_v = strndup(name, len);
	if (!name_e || !name_v)
		return -ENOMEM;

	e->ctime_ns = tree_now();
	pos_e = ++t->store->shm->next_pos;
	pos_v = exchange ? ++t->store->shm->next_pos : 0;
	c.changes[0] = (struct change){ .id = e->id,
					.owner = e->uid,
					.bytes = bytes[0],
					.len = record_write_at(e, to->id, name_e, new_len, pos_e,
							       bytes[0]) };
	if (victim) {
		c.nr_changes = 2;
		if (exchange)
			c.changes[1] = (struct change){
				.id = victim->id,
				.bytes = bytes[1],
				.len = record_write_at(victim, from->id, name_v, len, pos_v,
						       bytes[1]),
			};
		else
			plan_drop(victim, &c.changes[1], bytes[1]);
	}
	memcpy(c.done_id, rq->id, sizeof(c.done_id));
	t->store->ops->commit(t->store, &c);
	done_note(t, rq->id, 0, e->id);

	entry_unlink(e);
	if (victim && exchange) {
		entry_unlink(victim);
		place_entry(victim, from, take_ptr(name_v), len, pos_v);
	} else if (victim) {
		drop_name(victim);
	}
	place_entry(e, to, take_ptr(name_e), new_len, pos_e);
	touch_dir(from, e->ctime_ns);
	touch_dir(to, e->ctime_ns);
	tell_kernel(from, rq);
	tell_kernel(to, rq);
	return 0;
}

/* What a directory's parts have of it. */
static void pass_on(struct entry *dir)
{
	struct entry *e;

	DL_FOREACH(dir->children, e) {
		if (!entry_is_part(e))
			continue;
		e->uid = dir->uid;
		e->gid = dir->gid;
		e->mode = (e->mode & S_IFMT) | (dir->mode & e->kind->part(e));
		e->ctime_ns = dir->ctime_ns;
		entry_save(e, NULL, -1);
		if (dir->tree->attr_changed)
			dir->tree->attr_changed(dir->tree, e);
	}
}

int tree_setattr(struct entry *e, const struct attr_change *c, struct request *rq)
{
	uid_t uid = (c->mask & ATTR_UID) ? c->uid : e->uid;
	int r;

	if (entry_is_part(e) && (c->mask & (ATTR_MODE | ATTR_UID | ATTR_GID)))
		return -EPERM;

	if (uid != e->uid && entry_counts(e)) {
		r = quota_charge(e->tree, uid, 1, e->charged_bytes);
		if (r < 0)
			return r;
		quota_release(e->tree, e->uid, 1, e->charged_bytes);
	}
	e->uid = uid;
	if (c->mask & ATTR_GID)
		e->gid = c->gid;
	if (c->mask & ATTR_MODE)
		e->mode = (e->mode & S_IFMT) | (c->mode & (entry_is_dir(e) ? 07777 : 0777));
	if (c->mask & ATTR_MTIME) {
		e->mtime_ns = c->mtime_ns;
		if (entry_is_dir(e))
			e->tree->store->shm->times[e->slot] = c->mtime_ns;
	}
	e->ctime_ns = tree_now();
	pass_on(e);
	entry_save(e, rq, -1);
	if ((c->mask & (ATTR_MODE | ATTR_UID | ATTR_GID)) && e->kind && !entry_is_dir(e) &&
	    e->kind->command) {
		rq->cmd = COMMAND_OWNER;
		if (e->kind->command(e, rq) == KIND_LATER)
			return KIND_LATER;
	}
	return 0;
}

void tree_forget(struct entry *e)
{
	struct tree *t = e->tree;
	struct commit c = { .changes[0] = { .id = e->id }, .nr_changes = 1, .fd = -1 };

	if (e->pins)
		return;
	t->store->ops->commit(t->store, &c);
	DL_DELETE(t->orphans, e);
	entry_end(e);
}

struct entry *tree_next(struct entry *dir, uint64_t after)
{
	struct entry *e = dir->cursor;

	/* The cursor stands at the entry given last; a listing goes on near it, in either direction. */
	if (!e)
		e = dir->children;
	while (e && e != dir->children && e->prev->pos > after)
		e = e->prev;
	while (e && e->pos <= after)
		e = e->next;
	if (e)
		dir->cursor = e;
	return e;
}

void entry_describe(struct entry *e, struct description *ret)
{
	*ret = (struct description){ 0 };
	if (!entry_is_dir(e) && e->kind && e->kind->describe)
		e->kind->describe(e, ret);
}

bool entry_counts(const struct entry *e)
{
	return e->id != 1 && (entry_is_dir(e) || !e->kind->own || !e->kind->own(e));
}

void entry_opened(struct entry *e)
{
	__atomic_fetch_add(&e->tree->store->shm->opens[e->slot], 1, __ATOMIC_RELAXED);
}

uint64_t entry_opens(const struct entry *e)
{
	return e->tree->store->shm->opens[e->slot];
}
