/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kept.h - for a server of the daemon's own: what the keeper keeps for it (daemon/publishing.h), and messages with descriptors.
 */
#ifndef KSHARED_DAEMON_KEPT_H
#define KSHARED_DAEMON_KEPT_H

#include <daemon/spawn.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <wire/keep.h>

/* The descriptors that the keeper leaves to a server. */
enum server_fd {
	SERVER_SERVE = SPAWN_FIRST, /* the workers' messages come here */
	SERVER_KEEPER,
	SERVER_FD_END,
};

#define KEPT_FDS 3 /* in one message at most */

/** kept_send() - send a message. @fds: @nr of them; they stay the caller's. Return: as sendmsg(2). */
ssize_t kept_send(int sock, const void *bytes, size_t len, const int *fds, unsigned int nr,
		  int flags);

/** kept_tell() - say something to the keeper; ends the process if that is gone. @fd: goes with it; -1: none */
void kept_tell(enum pub_op op, uint64_t id, uint32_t flags, int fd);

/** kept_asked() - the keeper has something to say: unless it is asked it only wants to know whether we live. */
void kept_asked(void);

/** kept_fetch() - the @n-th descriptor that it keeps, @ret_fd owned by the caller. Return: false: there are no more. */
bool kept_fetch(uint32_t n, struct pub_kept *ret, int *ret_fd);

#endif
