/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * port_internal.h - inside of the kind port: shared by port.c (entries, opening) and port_text.c (reading as text).
 */
#ifndef KSHARED_KIND_PORT_INTERNAL_H
#define KSHARED_KIND_PORT_INTERNAL_H

#include <core/tree.h>
#include <wire/port_serve.h>

/**
 * struct port_priv - an entry's private part: saved, so it only grows into @reserved.
 * @what: enum port_what
 * @page: of PORT_WHAT_PAGE: enum port_page, or one that a later version knows
 * @poster_sees_all: the poster could pass over modes
 */
struct port_priv {
	uint32_t what;
	uint32_t page;
	int64_t posted_ns;
	uint32_t poster_uid;
	uint32_t poster_pid;
	char poster_comm[16];
	uint32_t poster_sees_all;
	uint32_t reserved_word;
	uint64_t reserved[2];
};

_Static_assert(sizeof(struct port_priv) == 64, "saved");

/** port_is_page() - does this program know the entry's page? */
bool port_is_page(const struct port_priv *p);

/** port_fill_open() - what an entry's server is to be told of a request with @access. */
void port_fill_open(struct port_open *ret, struct entry *e, const struct request *rq,
		    unsigned int access);

/**
 * port_reserve() - may @uid be handed over to an entry's server? Then port_sent() is due.
 * @reading: a thread of his few will do it when it is its turn, and wait for the answer
 * Return: 0; -EAGAIN the server has not taken those that were before, or its owner's servers have too many.
 */
int port_reserve(struct entry *e, uid_t uid, bool reading);

/** port_sent() - what was reserved has been sent, or will not be. @service: its entry's number; 0: the publisher */
void port_sent(struct tree *t, uint64_t service, bool reading);

/** port_queue_sweep() - forget whom servers have taken; to be called again (tree.port_again) while there are others. */
void port_queue_sweep(struct tree *t);

/** port_queue_ended() - a service's entry is gone, or its socket is another one now. */
void port_queue_ended(struct entry *e);

/** port_pair() - a client's end and its server's, on which only the server can send. Return: 0; -errno. */
int port_pair(int ret[2]);

/** port_read() - `read` of the kind */
int port_read(struct entry *e, struct request *rq);

/** port_close() - `close` of the kind */
void port_close(struct entry *e, struct request *rq);

/** port_attr() - `attr` of the kind; the names are port_attrs */
int port_attr(struct entry *e, struct request *rq);

extern const char *const port_attrs[];

#endif
