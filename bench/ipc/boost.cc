// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * boost.cc - Boost.Interprocess message_queue. It copies in and out, and waits on a condition in shared memory.
 */
#include <boost/interprocess/ipc/message_queue.hpp>
#include <cstdio>
#include <unistd.h>

extern "C" {
#include "bench.h"
}
#include "ipc/loops.h"

using boost::interprocess::message_queue;

struct channel {
	char name[64];
	message_queue *queue;
};

struct end {
	message_queue *queue;
	void *buf;
	bool spin;
};

static void *prepare(size_t size, unsigned int depth, unsigned int number)
{
	channel *c = static_cast<channel *>(ipc_alloc(sizeof(*c)));

	snprintf(c->name, sizeof(c->name), "kshared-bench-%d-%u", (int)getpid(), number);
	c->queue = new message_queue(boost::interprocess::create_only, c->name, depth, size);
	return c;
}

/* The mapping is inherited, and that is as good as opening it by its name. */
static void *open_end(void *from, bool writer)
{
	channel *c = static_cast<channel *>(from);
	end *e = static_cast<end *>(ipc_alloc(sizeof(*e)));

	e->queue = c->queue;
	e->buf = ipc_alloc(c->queue->get_max_msg_size());
	return e;
}

static void begin(void *at, const struct ipc_turn *turn)
{
	static_cast<end *>(at)->spin = turn->wait == IPC_SPINNING;
}

IPC_INLINE void *reserve(void *at, size_t size)
{
	return static_cast<end *>(at)->buf;
}

IPC_INLINE void commit(void *at, size_t size)
{
	end *e = static_cast<end *>(at);

	if (!e->spin)
		e->queue->send(e->buf, size, 0);
	else
		while (!e->queue->try_send(e->buf, size, 0))
			ipc_relax();
}

IPC_INLINE const void *take(void *at, size_t size)
{
	end *e = static_cast<end *>(at);
	message_queue::size_type got;
	unsigned int priority;

	if (!e->spin)
		e->queue->receive(e->buf, size, got, priority);
	else
		while (!e->queue->try_receive(e->buf, size, got, priority))
			ipc_relax();
	if (got != size)
		bench_die("a message is of another length");
	return e->buf;
}

IPC_INLINE void done(void *at)
{
}

IPC_LOOPS(boost, reserve, commit, take, done)

static void forget(void *from)
{
	channel *c = static_cast<channel *>(from);

	delete c->queue;
	message_queue::remove(c->name);
}

static ipc_peer describe()
{
	ipc_peer p = {};

	p.name = "Boost message_queue";
	p.waits = IPC_BIT(IPC_BLOCKING) | IPC_BIT(IPC_SPINNING);
	p.works = IPC_ANY_WORK;
	p.prepare = prepare;
	p.open = open_end;
	p.begin = begin;
	p.send = boost_send_loop;
	p.receive = boost_receive_loop;
	p.ask = boost_ask_loop;
	p.answer = boost_answer_loop;
	p.forget = forget;
	return p;
}

extern const struct ipc_peer ipc_boost = describe();
