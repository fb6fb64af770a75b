/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * conn.h - inside libkshared: one request to the daemon and its answer.
 *
 * A public call fills a struct call with the help of request.c, gives it to conn_call() and turns
 * the result into -1 and errno with api_result(). Nothing in here is seen outside of the library.
 */
#ifndef KSHARED_LIB_CONN_H
#define KSHARED_LIB_CONN_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "wire/ctl.h"

struct kshared;

/**
 * struct call - one request, and where its answer goes.
 * @req: op, path, path_len and the op's own fields are the caller's; the rest is conn_call()'s
 * @send_fd: descriptor to send along, borrowed; -1: none
 * @timeout_ms: how long to wait for the answer; 0: as long as it takes
 * @want_fd: a good answer has a descriptor; without it, none may come
 * @reserve_fd: be sure of a free descriptor before anything is asked for
 * @body: where the answer's body goes, @body_size bytes; a longer body is -EPROTO
 * @ret_fd: the descriptor that came, the caller's; -1 before, and on failure
 * @ret_body_len: bytes that came in @body
 * @ret_count: ctl_reply.count
 */
struct call {
	struct ctl_request req;
	int send_fd;
	int timeout_ms;
	bool want_fd;
	bool reserve_fd;
	void *body;
	size_t body_size;
	int ret_fd;
	size_t ret_body_len;
	uint32_t ret_count;
};

/* where.c: a resolved place. */
struct where {
	char socket[108];
	bool derived; /* found by us, not named by the caller: the peer must be @owner or root */
	unsigned int owner;
};

int where_capture(char **ret, bool *ret_own, const char *where);
int where_resolve(struct where *ret, const char *where, bool own);

/* sock.c: the socket below a connection. */
int sock_dial(const struct where *where, int timeout_ms, int socket_flags);
int sock_send(int sock, const struct ctl_request *req, int send_fd);
int sock_collect_fds(struct msghdr *mh, int *ret_nr);

/* request.c: parts of a request. */
void call_init(struct call *c, enum ctl_op op);
int call_set_path(struct call *c, const char *dir, const char *name);
int call_set_mode(struct call *c, unsigned int mode);

/* conn.c */
int conn_call(struct kshared *k, struct call *c);

/**
 * cancel_off() - make this thread wait with being cancelled; see cancel_guard().
 * A public call is no cancellation point: a thread cancelled inside would leave a lock held.
 * Return: the state before, for cancel_restore_p().
 */
static inline int cancel_off(void)
{
	int old;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
	return old;
}

/** cancel_restore_p() - go back to the cancellation state *@old. */
static inline void cancel_restore_p(int *old)
{
	int now;

	pthread_setcancelstate(*old, &now);
}

#define cancel_guard() \
	cleanup(cancel_restore_p) __attribute__((unused)) int cancel_state_ = cancel_off()

/**
 * api_result() - a result as the public calls give it.
 * @r: 0, a count, a descriptor, or -errno
 * Return: @r; -1 with errno set if it is negative.
 */
static inline int api_result(int r)
{
	if (r >= 0)
		return r;
	errno = -r;
	return -1;
}

#endif
