// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * zmq.c - ZeroMQ: PUSH and PULL over ipc://, messages of its own, which it takes over without copying.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zmq.h>

#include "ipc/loops.h"

struct channel {
	char url[64];
	int depth;
};

struct end {
	void *context;
	void *socket;
	zmq_msg_t msg;
	int flags;
};

static void *prepare(size_t size, unsigned int depth, unsigned int number)
{
	struct channel *c = ipc_alloc(sizeof(*c));

	c->depth = (int)depth;
	snprintf(c->url, sizeof(c->url), "ipc:///tmp/kshared-bench-zmq-%d-%u", (int)getpid(),
		 number);
	return c;
}

static void *open_end(void *channel, bool writer)
{
	struct channel *c = channel;
	struct end *e = ipc_alloc(sizeof(*e));

	e->context = zmq_ctx_new();
	e->socket = zmq_socket(e->context, writer ? ZMQ_PUSH : ZMQ_PULL);
	if (!e->socket)
		bench_die("zmq_socket");
	bench_zero(zmq_setsockopt(e->socket, ZMQ_SNDHWM, &c->depth, sizeof(c->depth)),
		   "ZMQ_SNDHWM");
	bench_zero(zmq_setsockopt(e->socket, ZMQ_RCVHWM, &c->depth, sizeof(c->depth)),
		   "ZMQ_RCVHWM");
	/* Whoever connects tries again until the other one has bound. */
	if (writer)
		bench_zero(zmq_bind(e->socket, c->url), "zmq_bind");
	else
		bench_zero(zmq_connect(e->socket, c->url), "zmq_connect");
	bench_zero(zmq_msg_init(&e->msg), "zmq_msg_init");
	return e;
}

static void begin(void *end, const struct ipc_turn *turn)
{
	((struct end *)end)->flags = turn->wait == IPC_SPINNING ? ZMQ_DONTWAIT : 0;
}

IPC_INLINE void *reserve(void *end, size_t size)
{
	struct end *e = end;

	if (zmq_msg_init_size(&e->msg, size) < 0)
		bench_die("zmq_msg_init_size");
	return zmq_msg_data(&e->msg);
}

IPC_INLINE void commit(void *end, size_t size)
{
	struct end *e = end;

	while (zmq_msg_send(&e->msg, e->socket, e->flags) < 0)
		if (errno != EAGAIN && errno != EINTR)
			bench_die("zmq_msg_send");
}

IPC_INLINE const void *take(void *end, size_t size)
{
	struct end *e = end;

	while (zmq_msg_recv(&e->msg, e->socket, e->flags) < 0)
		if (errno != EAGAIN && errno != EINTR)
			bench_die("zmq_msg_recv");
	if (zmq_msg_size(&e->msg) != size)
		bench_die("a message is of another length");
	return zmq_msg_data(&e->msg);
}

IPC_INLINE void done(void *end)
{
}

IPC_LOOPS(zmq, reserve, commit, take, done)

static void forget(void *channel)
{
	unlink(((struct channel *)channel)->url + 6);
}

const struct ipc_peer ipc_zmq = {
	.name = "ZeroMQ",
	.waits = IPC_BIT(IPC_BLOCKING) | IPC_BIT(IPC_SPINNING),
	.works = IPC_ANY_WORK,
	.prepare = prepare,
	.open = open_end,
	.begin = begin,
	IPC_LOOPS_OF(zmq),
	.forget = forget,
};
