/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * servers.h - the keeper's servers of the daemon's own, all of them: see publishing.h for what it does with one.
 */
#ifndef KSHARED_DAEMON_SERVERS_H
#define KSHARED_DAEMON_SERVERS_H

#include <daemon/publishing.h>

enum server { SERVER_PUBLISHER, SERVER_MERGER, NR_SERVERS };

#define SERVERS_POLL (2 * NR_SERVERS)

/** struct servers - embedded by the keeper. */
struct servers {
	pid_t (*start)(void *ctx, const char *role, const int *fds);
	void *ctx;
	struct server_start {
		struct servers *servers;
		const char *role;
	} starts[NR_SERVERS];
	struct publishing *server[NR_SERVERS];
};

/**
 * servers_init() - nothing runs yet.
 * @start: execute one in this role, an option of ksharedd, with these SPAWN_PASS descriptors; its process or -errno
 * @bpf: what the publisher has found is told there
 * Return: 0; -errno.
 */
int servers_init(struct servers *s, pid_t (*start)(void *ctx, const char *role, const int *fds),
		 void *ctx, struct table *table, uint64_t *bpf);

/** servers_poll() - what to look at: SERVERS_POLL of them. */
void servers_poll(const struct servers *s, struct pollfd *ret);

/** servers_act() - it was looked at. */
void servers_act(struct servers *s, const struct pollfd *polled);

/** servers_tick() - a second has gone. */
void servers_tick(struct servers *s);

/** servers_died() - a child has ended. Return: was it one of them? */
bool servers_died(struct servers *s, pid_t pid, int status);

/** servers_restart() - end them: the next ones are the present version. */
void servers_restart(struct servers *s);

/** servers_deinit() - end them, and let go what is kept. Also of a struct that is all zero. */
void servers_deinit(struct servers *s);

#endif
