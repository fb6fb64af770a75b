// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * quota.c - how many entries, bytes and open handles each user has, and the limits.
 *
 * An entry is charged to its owner from its making until it ends for good, an orphan still included: what
 * is open is in use. Bytes are sizes, not pages touched: a size is a promise of memory.
 *
 * A size may also change without being asked for here, and a sparse one costs nothing. So what a user has counts towards the
 * folder's total up to his own limit and no further: beyond it he harms himself. The total is the sum of these shares, and
 * changes by what a share changes. No sum wraps: an entry counts with at most ENTRY_BYTES_MAX, and there are at most SHM_OPENS.
 */
#include <core/tree.h>
#include <errno.h>
#include <stdlib.h>
#include <wire/keep.h>

#define ENTRY_BYTES_MAX (UINT64_MAX / SHM_OPENS)

struct uid_use {
	uid_t uid;
	uint64_t entries;
	uint64_t bytes;
	uint32_t handles;
	UT_hash_handle hh;
};

static struct uid_use *find_use(struct tree *t, uid_t uid, bool make)
{
	struct uid_use *u;

	HASH_FIND(hh, t->uses, &uid, sizeof(uid), u);
	if (u || !make)
		return u;
	u = calloc(1, sizeof(*u));
	if (!u)
		return NULL;
	u->uid = uid;
	HASH_ADD(hh, t->uses, uid, sizeof(uid), u);
	return u;
}

static bool beyond(uint64_t used, uint64_t more, uint64_t limit)
{
	return more && limit && (more > limit || used > limit - more);
}

/* What of a user's @bytes counts for the folder. */
static uint64_t share(const struct tree *t, uid_t uid, uint64_t bytes)
{
	uint64_t limit = uid == t->uid ? 0 : t->limits.max_bytes_uid;

	return limit && bytes > limit ? limit : bytes;
}

static void set_use(struct tree *t, struct uid_use *u, uint64_t entries, uint64_t bytes)
{
	t->entries += entries - u->entries;
	t->bytes += share(t, u->uid, bytes) - share(t, u->uid, u->bytes);
	u->entries = entries;
	u->bytes = bytes;
}

int quota_check(struct tree *t, uid_t uid, uint64_t entries, uint64_t bytes)
{
	uint64_t used_entries, used_bytes;

	quota_get(t, uid, &used_entries, &used_bytes);
	if (uid != t->uid &&
	    (beyond(used_entries, entries, t->limits.max_entries_uid) ||
	     beyond(used_bytes, bytes, t->limits.max_bytes_uid)))
		return -EDQUOT;
	if (beyond(t->entries, entries, t->limits.max_entries) ||
	    beyond(t->bytes, bytes, t->limits.max_bytes))
		return -ENOSPC;
	return 0;
}

int quota_charge(struct tree *t, uid_t uid, uint64_t entries, uint64_t bytes)
{
	int r = quota_check(t, uid, entries, bytes);

	/* Removed entries are charged until the kernel lets them go, which it may be late to say. */
	if (r < 0 && t->orphans && t->reclaim) {
		t->reclaim(t);
		r = quota_check(t, uid, entries, bytes);
	}
	if (r == 0 && !find_use(t, uid, true))
		r = -ENOMEM;
	if (r == 0)
		quota_force(t, uid, entries, bytes);
	return r;
}

void quota_force(struct tree *t, uid_t uid, uint64_t entries, uint64_t bytes)
{
	struct uid_use *u = find_use(t, uid, true);

	if (u)
		set_use(t, u, u->entries + entries, u->bytes + bytes);
}

static void drop_unused(struct tree *t, struct uid_use *u)
{
	if (u->entries || u->bytes || u->handles)
		return;
	HASH_DEL(t->uses, u);
	free(u);
}

void quota_release(struct tree *t, uid_t uid, uint64_t entries, uint64_t bytes)
{
	struct uid_use *u = find_use(t, uid, false);

	if (!u)
		return;
	/* Less was charged than is given back if there was no memory for an account. */
	set_use(t, u, u->entries - (entries < u->entries ? entries : u->entries),
		u->bytes - (bytes < u->bytes ? bytes : u->bytes));
	drop_unused(t, u);
}

int quota_handle(struct tree *t, uid_t uid)
{
	struct uid_use *u = find_use(t, uid, true);

	if (!u)
		return -ENOMEM;
	if (u->handles >= SHM_WRITERS_UID && uid != 0 && uid != t->uid)
		return -ENFILE;
	u->handles++;
	return 0;
}

void quota_handle_force(struct tree *t, uid_t uid)
{
	struct uid_use *u = find_use(t, uid, true);

	if (u)
		u->handles++;
}

void quota_handle_release(struct tree *t, uid_t uid)
{
	struct uid_use *u = find_use(t, uid, false);

	if (!u)
		return;
	if (u->handles)
		u->handles--;
	drop_unused(t, u);
}

void quota_get(struct tree *t, uid_t uid, uint64_t *entries, uint64_t *bytes)
{
	struct uid_use *u = find_use(t, uid, false);

	*entries = u ? u->entries : 0;
	*bytes = u ? u->bytes : 0;
}

void quota_free(struct tree *t)
{
	struct uid_use *u, *tmp;

	HASH_ITER(hh, t->uses, u, tmp) {
		HASH_DEL(t->uses, u);
		free(u);
	}
}

int entry_recharge(struct entry *e, uint64_t bytes, bool force)
{
	int r = 0;

	if (bytes > ENTRY_BYTES_MAX)
		bytes = ENTRY_BYTES_MAX;
	if (bytes < e->charged_bytes)
		quota_release(e->tree, e->uid, 0, e->charged_bytes - bytes);
	else if (force)
		quota_force(e->tree, e->uid, 0, bytes - e->charged_bytes);
	else
		r = quota_charge(e->tree, e->uid, 0, bytes - e->charged_bytes);
	if (r == 0)
		e->charged_bytes = bytes;
	return r;
}
