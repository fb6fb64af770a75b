// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * nng.c - nng: a pair over ipc://, messages of its own, which it takes over without copying.
 */
#include <nng/nng.h>
#include <nng/protocol/pair0/pair.h>
#include <stdio.h>
#include <unistd.h>

#include "ipc/loops.h"

struct channel {
	char url[64];
	int depth;
};

struct end {
	nng_socket socket;
	nng_msg *msg;
	int flags;
};

static void *prepare(size_t size, unsigned int depth, unsigned int number)
{
	struct channel *c = ipc_alloc(sizeof(*c));

	c->depth = (int)depth;
	snprintf(c->url, sizeof(c->url), "ipc:///tmp/kshared-bench-nng-%d-%u", (int)getpid(),
		 number);
	return c;
}

static void must(int result, const char *what)
{
	errno = 0;
	if (result != 0)
		bench_die("%s: %s", what, nng_strerror(result));
}

static void *open_end(void *channel, bool writer)
{
	struct channel *c = channel;
	struct end *e = ipc_alloc(sizeof(*e));

	must(nng_pair0_open(&e->socket), "nng_pair0_open");
	must(nng_socket_set_int(e->socket, NNG_OPT_SENDBUF, c->depth), "NNG_OPT_SENDBUF");
	must(nng_socket_set_int(e->socket, NNG_OPT_RECVBUF, c->depth), "NNG_OPT_RECVBUF");
	must(nng_socket_set_size(e->socket, NNG_OPT_RECVMAXSZ, 0), "NNG_OPT_RECVMAXSZ");
	must(nng_socket_set_ms(e->socket, NNG_OPT_RECONNMINT, 10), "NNG_OPT_RECONNMINT");
	/* A dialer of this kind tries again until the other one listens. */
	if (writer)
		must(nng_listen(e->socket, c->url, NULL, 0), "nng_listen");
	else
		must(nng_dial(e->socket, c->url, NULL, NNG_FLAG_NONBLOCK), "nng_dial");
	return e;
}

static void begin(void *end, const struct ipc_turn *turn)
{
	((struct end *)end)->flags = turn->wait == IPC_SPINNING ? NNG_FLAG_NONBLOCK : 0;
}

IPC_INLINE void *reserve(void *end, size_t size)
{
	struct end *e = end;

	if (nng_msg_alloc(&e->msg, size) != 0)
		bench_die("nng_msg_alloc");
	return nng_msg_body(e->msg);
}

IPC_INLINE void commit(void *end, size_t size)
{
	struct end *e = end;
	int result;

	while ((result = nng_sendmsg(e->socket, e->msg, e->flags)) != 0)
		if (result != NNG_EAGAIN)
			must(result, "nng_sendmsg");
}

IPC_INLINE const void *take(void *end, size_t size)
{
	struct end *e = end;
	int result;

	while ((result = nng_recvmsg(e->socket, &e->msg, e->flags)) != 0)
		if (result != NNG_EAGAIN)
			must(result, "nng_recvmsg");
	if (nng_msg_len(e->msg) != size)
		bench_die("a message is of another length");
	return nng_msg_body(e->msg);
}

IPC_INLINE void done(void *end)
{
	nng_msg_free(((struct end *)end)->msg);
}

IPC_LOOPS(nng, reserve, commit, take, done)

static void forget(void *channel)
{
	unlink(((struct channel *)channel)->url + 6);
}

const struct ipc_peer ipc_nng = {
	.name = "nng",
	.waits = IPC_BIT(IPC_BLOCKING) | IPC_BIT(IPC_SPINNING),
	.works = IPC_ANY_WORK,
	.prepare = prepare,
	.open = open_end,
	.begin = begin,
	IPC_LOOPS_OF(nng),
	.forget = forget,
};
