// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * record.c - entries as bytes, and a whole tree from them.
 *
 * The bytes are this program's own and come back from the keeper, but perhaps from an older version of it: the version number and
 * every length is checked, and a record that does not fit is refused rather than guessed.
 */
#include <core/record.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <utlist.h>
#include <wire/keep.h>

#define RECORD_VERSION 1
#define POS_FIRST 16 /* lower ones are for "." and ".." */

struct record {
	uint16_t version;
	uint16_t name_len;
	uint16_t priv_len;
	uint16_t orphan;
	uint32_t mode;
	uint32_t uid;
	uint32_t gid;
	uint32_t slot;
	uint64_t parent;
	uint64_t pos;
	uint64_t charged_bytes;
	int64_t btime_ns;
	int64_t mtime_ns;
	int64_t ctime_ns;
	char kind[8];
	char data[]; /* the name, then the kind's part */
};

_Static_assert(sizeof(struct record) + ENTRY_NAME_MAX + KIND_ENTRY_MAX <= KEEP_BLOB_MAX, "fits");

size_t record_write_at(const struct entry *e, uint64_t parent, const char *name, size_t len,
		       uint64_t pos, void *bytes)
{
	struct record *r = bytes;
	size_t priv_len = e->kind && !entry_is_dir(e) ? e->kind->entry_size : 0;

	*r = (struct record){
		.version = RECORD_VERSION,
		.name_len = (uint16_t)len,
		.priv_len = (uint16_t)priv_len,
		.orphan = e->orphan,
		.mode = e->mode,
		.uid = e->uid,
		.gid = e->gid,
		.slot = e->slot,
		.parent = parent,
		.pos = pos,
		.charged_bytes = e->charged_bytes,
		.btime_ns = e->btime_ns,
		.mtime_ns = e->mtime_ns,
		.ctime_ns = e->ctime_ns,
	};
	if (e->kind)
		strncpy(r->kind, e->kind->name, sizeof(r->kind) - 1);
	memcpy(r->data, name, len);
	memcpy(r->data + len, e->priv, priv_len);
	return sizeof(*r) + len + priv_len;
}

size_t record_write(const struct entry *e, void *bytes)
{
	return record_write_at(e, e->parent ? e->parent->id : 0, e->name, e->name_len, e->pos,
			       bytes);
}

static const struct kind *find_kind(const struct tree *t, const char *name)
{
	for (const struct kind *const *k = t->kinds; *k; k++)
		if (strncmp((*k)->name, name, sizeof(((struct record *)0)->kind)) == 0)
			return *k;
	return NULL;
}

/* What every record of ours is: a name that can be one; a file has a kind and its part; the root is a directory. */
static bool shape_is_right(uint64_t id, const struct record *r, const struct kind *kind)
{
	bool is_dir = S_ISDIR(r->mode);

	if (id == 0 || (!is_dir && !S_ISREG(r->mode)))
		return false;
	if (id == 1)
		return is_dir && r->name_len == 0 && r->priv_len == 0 && !r->orphan;
	if (r->name_len == 0 || memchr(r->data, 0, r->name_len) ||
	    memchr(r->data, '/', r->name_len))
		return false;
	return kind && r->priv_len == (is_dir ? 0 : kind->entry_size);
}

int tree_restore(struct tree *t, uint64_t id, const void *bytes, size_t len, bool has_fd)
{
	const struct record *r = bytes;
	const struct kind *kind = NULL;
	struct entry *e;

	if (len < sizeof(*r) || r->version != RECORD_VERSION || r->name_len > ENTRY_NAME_MAX ||
	    r->priv_len > KIND_ENTRY_MAX || len != sizeof(*r) + r->name_len + r->priv_len ||
	    r->slot >= SHM_OPENS ||
	    /* Numbers that were never given out, or twice. */
	    id > t->store->shm->next_id || r->pos > t->store->shm->next_pos || tree_by_id(t, id))
		return -EINVAL;
	if (r->kind[0]) {
		kind = find_kind(t, r->kind);
		if (!kind)
			return -EINVAL;
	}
	if (!shape_is_right(id, r, kind) || (id == 1 && kind != t->single))
		return -EINVAL;
	e = entry_new(t, kind, r->data, r->name_len);
	if (!e)
		return -ENOMEM;
	e->id = id;
	e->mode = r->mode;
	e->uid = r->uid;
	e->gid = r->gid;
	e->slot = r->slot;
	e->pos = r->pos;
	e->parent_id = r->parent;
	e->btime_ns = r->btime_ns;
	e->mtime_ns = r->mtime_ns;
	e->ctime_ns = r->ctime_ns;
	if (entry_is_dir(e) && t->store->shm->times[e->slot]) {
		e->mtime_ns = t->store->shm->times[e->slot];
		if (e->ctime_ns < e->mtime_ns)
			e->ctime_ns = e->mtime_ns;
	}
	e->orphan = r->orphan;
	e->has_fd = has_fd;
	memcpy(e->priv, r->data + r->name_len, r->priv_len);
	HASH_ADD(by_id, t->ids, id, sizeof(e->id), e);
	if (entry_counts(e)) {
		quota_force(t, e->uid, 1, 0);
		entry_recharge(e, r->charged_bytes, true);
	}
	return 0;
}

static int by_pos(const void *a, const void *b)
{
	const struct entry *const *x = a, *const *y = b;

	return ((*x)->pos > (*y)->pos) - ((*x)->pos < (*y)->pos);
}

/* Link every restored entry; sorted by pos, so that each link is at its list's end. */
static int join(struct tree *t)
{
	size_t n = HASH_CNT(by_id, t->ids), i = 0;
	struct entry **all = calloc(n + 1, sizeof(*all));
	struct entry *e, *tmp;
	int r = 0;

	if (!all)
		return -ENOMEM;
	HASH_ITER(by_id, t->ids, e, tmp)
		all[i++] = e;
	qsort(all, n, sizeof(*all), by_pos);
	for (i = 0; i < n && r == 0; i++) {
		e = all[i];
		if (e->id == 1) {
			t->root = e;
		} else if (e->orphan) {
			DL_APPEND(t->orphans, e);
		} else {
			struct entry *dir = tree_by_id(t, e->parent_id);

			if (dir && entry_is_dir(dir) && (!dir->kind || dir->kind == e->kind) &&
			    !tree_lookup(dir, e->name, e->name_len))
				entry_link(dir, e);
			else
				r = -EINVAL;
		}
	}
	/* Every directory is below the root: no two are each other's parent. */
	for (i = 0; i < n && r == 0; i++) {
		size_t depth = 0;

		for (e = all[i]; e && e != t->root && !e->orphan && r == 0; e = e->parent)
			if (++depth > n)
				r = -EINVAL;
	}
	free(all);
	return r;
}

static struct entry *first_dir(struct tree *t, const struct kind *kind, const char *name,
			       mode_t mode, uint64_t id)
{
	struct entry *e = entry_new(t, kind, name, strlen(name));

	if (!e)
		return NULL;
	e->id = id;
	e->pos = ++t->store->shm->next_pos;
	e->mode = S_IFDIR | (mode & 07777);
	e->uid = t->uid;
	e->gid = t->gid;
	e->slot = t->free_slots[--t->nr_free_slots];
	e->btime_ns = e->mtime_ns = e->ctime_ns = tree_now();
	e->parent = id == 1 ? NULL : t->root;
	HASH_ADD(by_id, t->ids, id, sizeof(e->id), e);
	entry_save(e, NULL, -1);
	return e;
}

int tree_add_own(struct entry *dir, const char *name, mode_t mode, const void *priv)
{
	struct tree *t = dir->tree;
	struct entry *e;

	if (t->nr_free_slots == 0)
		return -ENOSPC;
	e = entry_new(t, dir->kind, name, strlen(name));
	if (!e)
		return -ENOMEM;
	e->id = ++t->store->shm->next_id;
	e->pos = ++t->store->shm->next_pos;
	e->mode = S_IFREG | (mode & 0777);
	e->uid = dir->uid;
	e->gid = dir->gid;
	e->slot = t->free_slots[--t->nr_free_slots];
	t->store->shm->opens[e->slot] = 0;
	t->store->shm->times[e->slot] = 0;
	e->btime_ns = e->mtime_ns = e->ctime_ns = tree_now();
	e->parent = dir;
	memcpy(e->priv, priv, e->kind->entry_size);
	HASH_ADD(by_id, t->ids, id, sizeof(e->id), e);
	entry_save(e, NULL, -1);
	entry_link(dir, e);
	return 0;
}

static mode_t dir_mode(const struct tree *t, const struct kind *k)
{
	return t->dir_mode == UINT32_MAX ? k->dir_mode : t->dir_mode;
}

/* Return: 0; -EINVAL two entries have one slot; -ENOMEM. */
static int list_free_slots(struct tree *t)
{
	unsigned char *used = calloc(SHM_OPENS, 1);
	struct entry *e, *tmp;
	int r = 0;

	if (!used)
		return -ENOMEM;
	HASH_ITER(by_id, t->ids, e, tmp)
		if (used[e->slot]++)
			r = -EINVAL;
	t->nr_free_slots = 0;
	for (uint32_t i = SHM_OPENS; i-- > 0;)
		if (!used[i])
			t->free_slots[t->nr_free_slots++] = i;
	free(used);
	return r;
}

/* What a worker that died had not come to. */
static void fill_all(struct tree *t)
{
	struct entry *e, *tmp;

	HASH_ITER(by_id, t->ids, e, tmp)
		if (entry_is_dir(e) && !e->orphan && e->parent && e->parent->kind && e->kind->fill)
			e->kind->fill(e);
}

int tree_restored(struct tree *t)
{
	int r;

	r = join(t);
	if (r == 0)
		r = list_free_slots(t);
	if (r < 0)
		return r;
	if (!t->root && t->ids)
		return -EINVAL;
	if (!t->root) {
		t->store->shm->next_id = 1;
		t->store->shm->next_pos = POS_FIRST;
		t->root = first_dir(t, t->single, "", t->single ? dir_mode(t, t->single) : 0755, 1);
		if (!t->root)
			return -ENOMEM;
	}
	for (const struct kind *const *k = t->kinds; *k && !t->single; k++) {
		struct entry *e;

		if (tree_lookup(t->root, (*k)->name, strlen((*k)->name)))
			continue;
		e = first_dir(t, *k, (*k)->name, dir_mode(t, *k), ++t->store->shm->next_id);
		if (!e)
			return -ENOMEM;
		quota_force(t, e->uid, 1, 0);
		entry_link(t->root, e);
		if ((*k)->furnish)
			(*k)->furnish(e);
	}
	fill_all(t);
	return 0;
}

int tree_new(struct tree **ret, const struct tree_conf *conf)
{
	struct tree *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->store = conf->store;
	t->proc = t->publisher = t->merger = -1;
	t->kinds = conf->kinds;
	t->single = conf->single;
	t->limits = conf->limits;
	t->uid = conf->uid;
	t->gid = conf->gid;
	t->max_fds = conf->max_fds;
	t->dir_mode = conf->dir_mode;
	t->free_slots = calloc(SHM_OPENS, sizeof(*t->free_slots));
	if (!t->free_slots) {
		free(t);
		return -ENOMEM;
	}
	*ret = t;
	return 0;
}

void tree_free(struct tree *t)
{
	struct entry *e, *tmp;

	/* Before any of them is freed: a hash is reached through its first child. */
	HASH_ITER(by_id, t->ids, e, tmp)
		HASH_CLEAR(by_name, e->names);
	HASH_ITER(by_id, t->ids, e, tmp) {
		HASH_DELETE(by_id, t->ids, e);
		entry_free(e);
	}
	quota_free(t);
	done_free(t);
	free(t->free_slots);
	free(t->free_writers);
	free(t);
}
