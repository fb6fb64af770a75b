/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl.h - the control socket: libkshared's requests; wire/ctl.h says what they are.
 *
 * One thread, on an sd-event loop. A client that does not read its answers, sends what is no request, or
 * has more than its share of connections is disconnected; none of that disturbs another.
 */
#ifndef KSHARED_IO_CTL_H
#define KSHARED_IO_CTL_H

#include <core/tree.h>
#include <stddef.h>
#include <systemd/sd-event.h>
#include <wire/ctl.h>

struct ctl;

/**
 * struct ctl_conf - for ctl_new().
 * @listen_fd: listening, non-blocking, borrowed; -1: connections come by ctl_handle() only
 * @max_conns: how many connections at once; a quarter of them of one user who cannot end the folder; at most CTL_CONNS_UID_MAX
 * @status: fills what core does not know
 * @shutdown: unmount and end; 0 or -errno
 * @crowded: are there so many descriptors that no connection is to be accepted for now? NULL: never
 */
struct ctl_conf {
	int listen_fd;
	unsigned int max_conns;
	struct tree *tree;
	sd_event *event;
	void (*status)(void *ctx, struct ctl_status *ret);
	int (*shutdown)(void *ctx, uint32_t flags);
	bool (*crowded)(void *ctx);
	void *ctx;
};

/** struct ctl_answer - what a request came to. @fd: sent along, -1 none; owned unless @borrowed */
struct ctl_answer {
	int result;
	uint32_t count;
	uint32_t body_len;
	int fd;
	bool borrowed;
	bool quick; /* to close */
	_Alignas(8) unsigned char body[CTL_BODY_MAX];
};

/** ctl_new() - accept connections. Return: 0; -errno. */
int ctl_new(struct ctl **ret, const struct ctl_conf *conf);

/** ctl_free() - disconnect everybody. */
void ctl_free(struct ctl *c);

/**
 * struct ctl_call - one message being carried out; the caller's until @answered.
 * @cred: the peer; valid until then
 * @answered: called once, perhaps before ctl_handle() returns; @a's descriptor is its
 */
struct ctl_call {
	const struct cred *cred;
	void (*answered)(struct ctl_call *call, struct ctl_answer *a);

	/* ctl.c's own */
	struct request rq;
	struct ctl *ctl;
	struct entry *e;
	uint32_t op;
};

/**
 * ctl_handle() - carry out one message.
 * @bytes: @len bytes, any content
 * @fd: the descriptor that came along or -1; taken
 */
void ctl_handle(struct ctl *c, struct ctl_call *call, const void *bytes, size_t len, int fd);

#endif
