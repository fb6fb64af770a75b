/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * shares.h - for a server of the daemon's own: how much of something each user has.
 */
#ifndef KSHARED_DAEMON_SHARES_H
#define KSHARED_DAEMON_SHARES_H

#include <sys/types.h>

/** struct shares - zero at first. @nr: of all together */
struct shares {
	unsigned int nr;
	struct share *users;
};

/**
 * share_take() - one more for @uid.
 * @max, @max_uid: in all, and of one user, who is neither root nor runs the daemon
 * Return: 0; -EDQUOT; -ENOMEM.
 */
int share_take(struct shares *s, uid_t uid, unsigned int max, unsigned int max_uid);

/** share_give() - one less. */
void share_give(struct shares *s, uid_t uid);

#endif
