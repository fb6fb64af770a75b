/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * port_server.h - inside libkshared: a server of a port, and those who have opened it.
 */
#ifndef KSHARED_LIB_PORT_SERVER_H
#define KSHARED_LIB_PORT_SERVER_H

#include <sys/queue.h>

#include "lib/port.h"

/* What an event of the epoll is of. */
enum source_type { SOURCE_DAEMON, SOURCE_TIMER, SOURCE_SOCKET, SOURCE_BELL };

struct source {
	enum source_type type;
	struct caller *caller;
};

/**
 * struct caller - who has opened the port.
 * @socket, @bell_source: what its events in the epoll point to
 * @sock: never read; hangs up
 * @pidfd: -1: none
 * @eventfd: rung by the caller; never read
 * @bell: the memory that is shared with it; NULL: it only reads
 * @pool: in there
 * @len: of it all, bytes
 * @taken: the request that was taken last
 * @dead: forgotten, and freed when no event can be of it any more
 */
struct caller {
	TAILQ_ENTRY(caller) link;
	struct source socket;
	struct source bell_source;
	struct kport_writer who;
	struct sbr sbr;
	struct port_bell *bell;
	char *pool;
	size_t len;
	uint32_t taken;
	int sock;
	int pidfd;
	int eventfd;
	bool dead;
};

TAILQ_HEAD(callers, caller);

/**
 * struct kport_server - see kshared/port.h
 * @sock: port_open messages come from here
 * @page, @page_len, @page_fd: the published page, which is the scache
 * @pool_size: of each caller's pool
 * @shadow: as long: what came is copied here, and checked
 * @writers: who has a pool; @readers: who has none; @dead: who has to be freed
 * @removed: the entry was; nobody will come any more
 * @awake: nobody rings, since we look all the time
 * @idle_looks: looks without waiting, one soon after the other
 * @looked_ns: when that was
 * @asked_ns: when the epoll was asked last
 */
struct kport_server {
	struct resource *r;
	struct kport_serve_options o;
	int sock;
	int epoll;
	int timer;
	struct source daemon_source;
	struct source timer_source;
	struct port_head *page;
	size_t page_len;
	int page_fd;
	size_t pool_size;
	void *shadow;
	struct callers writers;
	struct callers readers;
	struct callers dead;
	bool removed;
	bool ticking;
	bool awake;
	unsigned int idle_looks;
	uint64_t looked_ns;
	uint64_t asked_ns;
};

/* port_serve.c */
int server_tick(struct kport_server *s);
int server_publish(struct kport_server *s);

/* port_caller.c */
int caller_take(struct kport_server *s, struct caller *c);
bool caller_check(struct kport_server *s, struct caller *c);
void caller_drop(struct kport_server *s, struct caller *c);
void caller_set_awake(struct caller *c, bool awake);
void callers_free_dead(struct kport_server *s);

#endif
