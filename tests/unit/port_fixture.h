/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * port_fixture.h - a served port without a daemon: the test sends what the daemon would.
 */
#ifndef KSHARED_TEST_PORT_FIXTURE_H
#define KSHARED_TEST_PORT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/conn.h"
#include "lib/port_server.h"

#define NR_WORDS 600 /* of data: more than a page */
#define MY_UID 1000

/**
 * struct world - a server, and the daemon's end of its socket.
 * @served: a thread does it
 */
struct world {
	struct kport_server *s;
	struct resource r;
	unsigned long data[NR_WORDS];
	int daemon;
	pthread_t thread;
	bool served;
	atomic_bool stop;
};

static const struct kport_field world_fields[] = {
	{ .name = "first", .unit = "ns", .type = KPORT_U64, .count = 1 },
	{ .name = "halves", .type = KPORT_U32, .count = 4, .stride = 4, .offset = 8 },
	{ .name = "rows", .type = KPORT_S64, .count = 3, .stride = 32, .offset = 24 },
	{ .name = "text", .type = KPORT_CHARS, .width = 13, .count = 1, .offset = 128 },
	{ .name = "last",
	  .type = KPORT_FIXED,
	  .fraction_bits = 11,
	  .count = 1,
	  .offset = (NR_WORDS - 1) * 8 },
};
#define NR_FIELDS (sizeof(world_fields) / sizeof(world_fields[0]))

static inline unsigned int count_fds(void)
{
	unsigned int nr = 0;
	DIR *dir = opendir("/proc/self/fd");

	while (readdir(dir))
		nr++;
	closedir(dir);
	return nr;
}

static inline void world_init(struct world *w, const struct kport_serve_options *o)
{
	int pair[2];

	w->r.data = w->data;
	w->r.size = sizeof(w->data);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	w->daemon = pair[1];
	assert_int_equal(
		port_server_new(&w->s, pair[0], "board/world", &w->r, world_fields, NR_FIELDS, o),
		0);
}

static inline void *world_serve(void *arg)
{
	struct world *w = arg;

	while (!atomic_load(&w->stop))
		kport_server_dispatch(w->s, 5);
	return NULL;
}

static inline void world_start(struct world *w)
{
	atomic_store(&w->stop, false);
	assert_int_equal(pthread_create(&w->thread, NULL, world_serve, w), 0);
	w->served = true;
}

static inline void world_stop(struct world *w)
{
	if (w->served) {
		atomic_store(&w->stop, true);
		pthread_join(w->thread, NULL);
	}
	w->served = false;
}

static inline void world_deinit(struct world *w)
{
	world_stop(w);
	kport_server_free(w->s);
	close(w->daemon);
}

/* Tell the server of somebody, as the daemon does. @pidfd: borrowed; -1: none. Return: the client's end. */
static inline int world_announce(struct world *w, uint32_t access, uint32_t uid, int pidfd)
{
	struct port_open m = { .magic = PORT_SERVE_MAGIC, .access = access, .uid = uid };
	int pair[2], fds[2];

	m.pid = (uint32_t)getpid();
	m.flags = pidfd >= 0 ? PORT_OPEN_PIDFD : 0;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	fds[0] = pair[1];
	fds[1] = pidfd;
	assert_int_equal(port_send(w->daemon, &m, sizeof(m), fds, pidfd >= 0 ? 2 : 1), 0);
	close(pair[1]);
	return pair[0];
}

/* Let everybody in who was announced. */
static inline void world_let_in(struct world *w)
{
	if (!w->served)
		assert_true(kport_server_dispatch(w->s, 1000) >= 0);
}

/* Serve until no more than @nr writers, and no readers, are left. */
static inline void tick_until_gone(struct world *w, unsigned int nr)
{
	struct caller *c;
	unsigned int left;

	do {
		kport_server_dispatch(w->s, 100);
		left = 0;
		TAILQ_FOREACH(c, &w->s->writers, link)
		left++;
	} while (left > nr || !TAILQ_EMPTY(&w->s->readers));
}

static inline int world_try(struct world *w, bool write, uint32_t uid, unsigned int flags,
			    struct kport **ret)
{
	int sock = world_announce(w, write ? 6 : 4, uid, -1);

	world_let_in(w);
	return port_client_new(ret, sock, write, flags, false);
}

static inline struct kport *world_open(struct world *w, bool write, unsigned int flags)
{
	struct kport *p = NULL;

	assert_int_equal(world_try(w, write, MY_UID, flags, &p), 0);
	return p;
}

#endif
