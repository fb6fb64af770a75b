// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * shares.c - see shares.h.
 */
#include <daemon/shares.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include <uthash.h>

struct share {
	uid_t uid;
	unsigned int nr;
	UT_hash_handle hh;
};

int share_take(struct shares *s, uid_t uid, unsigned int max, unsigned int max_uid)
{
	struct share *u;

	HASH_FIND(hh, s->users, &uid, sizeof(uid), u);
	if (s->nr >= max || (u && u->nr >= max_uid && uid != 0 && uid != getuid()))
		return -EDQUOT;
	if (!u) {
		u = calloc(1, sizeof(*u));
		if (!u)
			return -ENOMEM;
		u->uid = uid;
		HASH_ADD(hh, s->users, uid, sizeof(uid), u);
	}
	u->nr++;
	s->nr++;
	return 0;
}

void share_give(struct shares *s, uid_t uid)
{
	struct share *u;

	s->nr--;
	HASH_FIND(hh, s->users, &uid, sizeof(uid), u);
	if (!u || --u->nr)
		return;
	HASH_DEL(s->users, u);
	free(u);
}
