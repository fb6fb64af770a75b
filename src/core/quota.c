// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * quota.c - how many entries and how many bytes each user has, and the limits.
 *
 * An entry is charged to its owner from its making until it ends for good, an orphan still included: what
 * is open is in use. Bytes are sizes, not pages touched: a size is a promise of memory.
 */
#include <core/tree.h>
#include <errno.h>
#include <stdlib.h>

struct uid_use {
	uid_t uid;
	uint64_t entries;
	uint64_t bytes;
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

static int charge(struct tree *t, uid_t uid, uint64_t entries, uint64_t bytes)
{
	struct uid_use *u = find_use(t, uid, true);
	bool free_of_uid_limit = uid == t->uid;

	if (!u)
		return -ENOMEM;
	if (!free_of_uid_limit && (beyond(u->entries, entries, t->limits.max_entries_uid) ||
				   beyond(u->bytes, bytes, t->limits.max_bytes_uid)))
		return -EDQUOT;
	if (beyond(t->entries, entries, t->limits.max_entries) || beyond(t->bytes, bytes, t->limits.max_bytes))
		return -ENOSPC;
	quota_force(t, uid, entries, bytes);
	return 0;
}

int quota_charge(struct tree *t, uid_t uid, uint64_t entries, uint64_t bytes)
{
	int r = charge(t, uid, entries, bytes);

	/* Removed entries are charged until the kernel lets them go, which it may be late to say. */
	if ((r == -EDQUOT || r == -ENOSPC) && t->orphans && t->reclaim) {
		t->reclaim(t);
		r = charge(t, uid, entries, bytes);
	}
	return r;
}

void quota_force(struct tree *t, uid_t uid, uint64_t entries, uint64_t bytes)
{
	struct uid_use *u = find_use(t, uid, true);

	if (u) {
		u->entries += entries;
		u->bytes += bytes;
	}
	t->entries += entries;
	t->bytes += bytes;
}

void quota_release(struct tree *t, uid_t uid, uint64_t entries, uint64_t bytes)
{
	struct uid_use *u = find_use(t, uid, false);

	if (u) {
		u->entries -= entries;
		u->bytes -= bytes;
		if (u->entries == 0 && u->bytes == 0) {
			HASH_DEL(t->uses, u);
			free(u);
		}
	}
	t->entries -= entries;
	t->bytes -= bytes;
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
