/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * port.h - inside libkshared: guarded memory and shadow bytes, and ports without a daemon.
 *
 * port_client_new() and port_server_new() are what kport_open() and kport_serve() do once the daemon has done its part: they
 * need a socket and nothing else, which is how they are tested and fuzzed.
 */
#ifndef KSHARED_LIB_PORT_H
#define KSHARED_LIB_PORT_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kshared/port.h>

#include "wire/port.h"
#include "wire/port_serve.h"

#define PORT_WORD sizeof(long)
#define PORT_FDS_MAX 3 /* with one message */

#define port_unlikely(x) __builtin_expect(!!(x), 0)

/** struct sbr - the shadow bytes before and after a pool. */
struct sbr {
	unsigned char before[PORT_CANARY];
	unsigned char after[PORT_CANARY];
};

/* port_pool.c */
void *region_get(int fd, size_t len);
void region_put(void *memory);
int sbr_new(struct sbr *ret);
void sbr_put(const struct sbr *s, void *pool, size_t pool_size);
bool sbr_check(const struct sbr *s, const void *pool, size_t pool_size, int64_t *ret_offset,
	       uint32_t *ret_bytes);
int pool_key(void);

/* port_fd.c */
int port_recv(int sock, void *msg, size_t len, int ret_fds[PORT_FDS_MAX], unsigned int *ret_nr_fds);
int port_send(int sock, const void *msg, size_t len, const int *fds, unsigned int nr_fds);
int port_memory(const char *name, size_t len, void **ret);
int port_memory_len(int fd, uint64_t *ret);
bool port_is_eventfd(int fd);
bool port_is_bpf_program(int fd);
bool port_hung_up(int sock);
uint64_t port_now_ns(void);

/**
 * struct kport - see kshared/port.h
 * @fast_size: @size; 0 if a read has more to do than to copy
 * @head: the page
 * @data: of the page
 * @size, @period_ns: as they were when the page was checked
 * @about: a copy of all that comes before the data, checked; nothing of it is read from the page again
 * @bell: the pool's memory; NULL: opened for reading
 * @bell_fd: an eventfd or a BPF program
 * @spin_ns: port_spin_ns()
 * @polled: a write was left to the server's next look
 */
struct kport {
	uint64_t fast_size;
	const struct port_head *head;
	const char *data;
	uint64_t size;
	uint64_t period_ns;
	uint64_t page_len;
	struct port_head *about;
	unsigned int flags;
	unsigned int line; /* bytes of a cache line, for KPORT_STRICT */
	int sock;

	struct port_bell *bell;
	char *pool;
	uint64_t pool_size;
	enum port_bell_kind bell_kind;
	uint32_t slot;
	uint64_t token;
	uint64_t spin_ns;
	int bell_fd;
	int key; /* protection key; -1: none */
	bool polled;
	bool gone;
	pthread_mutex_t lock; /* one writer at a time */

	struct kshared *k;
	char *name;
	int oflags;
};

/* port_io.c */
int port_cache_line(unsigned int *ret);
uint64_t port_spin_ns(enum port_bell_kind bell);
int port_sampled(const struct kport *p, uint64_t *ret_sample_ns, uint64_t *ret_writes);

/* port.c */
int port_client_new(struct kport **ret, int sock, bool write, unsigned int flags, bool trusted);

/* port_serve.c */
int port_server_new(struct kport_server **ret, int sock, const char *name, struct resource *r,
		    const struct kport_field *fields, unsigned int nr_fields,
		    const struct kport_serve_options *o);
int port_server_accept(struct kport_server *s, const struct port_open *m, int sock, int pidfd);

#endif
