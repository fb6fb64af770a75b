/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * publishing.h - the keeper's care of a server of the daemon's own, which is a process of its own: the publisher (publisher.h), the
 * merger (merger.h). Start it when there is something for it to do, and keep for it what must not end with it.
 *
 * The keeper has both ends of the socket by which workers speak to it. So what they send waits there whether a server runs or not, and one
 * that dies loses nothing that it had not begun. While there is none the keeper looks at the server's end: if that is
 * readable, it is wanted. While it keeps descriptors (of rules, of who has a partition open), one is always wanted.
 *
 * Nothing here waits for the server, and what it sends is taken in one message at a time.
 */
#ifndef KSHARED_DAEMON_PUBLISHING_H
#define KSHARED_DAEMON_PUBLISHING_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct publishing;
struct table;

/**
 * struct publishing_conf - for publishing_new().
 * @what: for people
 * @start: execute a server with these SPAWN_PASS descriptors; its process or -errno
 * @table: closes descriptors
 * @ready: what the server has found is told there; NULL: nowhere
 */
struct publishing_conf {
	const char *what;
	pid_t (*start)(void *ctx, const int *fds);
	void *ctx;
	struct table *table;
	uint64_t *ready;
};

/** publishing_new() - nothing runs yet. Return: 0; -errno. */
int publishing_new(struct publishing **ret, const struct publishing_conf *conf);

/** publishing_socket() - the workers' end. Return: borrowed. */
int publishing_socket(const struct publishing *p);

/** publishing_keeps() - is there something that the server left? */
bool publishing_keeps(const struct publishing *p);

/** publishing_runs() - is there one, or something that it left? */
bool publishing_runs(const struct publishing *p);

/** publishing_poll() - what to look at: two of them. */
void publishing_poll(const struct publishing *p, struct pollfd *ret);

/** publishing_act() - it was looked at. */
void publishing_act(struct publishing *p, const struct pollfd *polled);

/** publishing_tick() - a second has gone. */
void publishing_tick(struct publishing *p);

/** publishing_died() - a child has ended. Return: was it the server? */
bool publishing_died(struct publishing *p, pid_t pid, int status);

/** publishing_restart() - end it: the next one is the present version. */
void publishing_restart(struct publishing *p);

/** publishing_free() - end it, and let go what is kept: rules end, say. @p may be NULL. */
void publishing_free(struct publishing *p);

#endif
