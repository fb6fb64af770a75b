// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * iceoryx.c - iceoryx by its C binding: chunks lent by it, written and read in place; its daemon runs beside.
 *
 * A publisher that is too fast waits for the subscriber, so that nothing is lost. To block is to wait on a wait set.
 */
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "iceoryx_binding_c/log.h"
#include "iceoryx_binding_c/publisher.h"
#include "iceoryx_binding_c/runtime.h"
#include "iceoryx_binding_c/subscriber.h"
#include "iceoryx_binding_c/wait_set.h"

#include "ipc/loops.h"

#define DEPTH_MAX 256 /* its own limit */
#define PATIENCE_NS 5000000000LL

#define CONF "/tmp/roudi.toml"

/* What its daemon holds ready: as many chunks as the longest queue, and some. */
static const char conf[] = "[general]\n"
			   "version = 1\n"
			   "[[segment]]\n"
			   "[[segment.mempool]]\nsize = 64\ncount = 2048\n"
			   "[[segment.mempool]]\nsize = 1024\ncount = 2048\n"
			   "[[segment.mempool]]\nsize = 4096\ncount = 2048\n"
			   "[[segment.mempool]]\nsize = 65536\ncount = 512\n"
			   "[[segment.mempool]]\nsize = 1048576\ncount = 320\n";

struct channel {
	char topic[32];
	unsigned int depth;
};

struct end {
	iox_pub_storage_t pub_space;
	iox_sub_storage_t sub_space;
	iox_ws_storage_t ws_space;
	iox_pub_t pub;
	iox_sub_t sub;
	iox_ws_t ws;
	bool spin;
	void *lent;
	const void *got;
};

/* The daemon. */
static void serve(void *arg)
{
	int fd = bench_fd(open(CONF, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), CONF);
	int null = bench_fd(open("/dev/null", O_WRONLY | O_CLOEXEC), "/dev/null");

	if (write(fd, conf, sizeof(conf) - 1) != sizeof(conf) - 1)
		bench_die(CONF);
	dup2(null, STDOUT_FILENO);
	dup2(null, STDERR_FILENO);
	execlp("iox-roudi", "iox-roudi", "-c", CONF, "-l", "fatal", (char *)NULL);
	bench_die("iox-roudi");
}

static void *prepare(size_t size, unsigned int depth, unsigned int number)
{
	static unsigned int nr;
	struct channel *c = ipc_alloc(sizeof(*c));

	/* What an earlier one left may still be known. */
	snprintf(c->topic, sizeof(c->topic), "%d-%u", (int)getpid(), nr++);
	c->depth = depth;
	return c;
}

static void enter(void)
{
	static bool entered;
	char name[64];

	if (entered)
		return;
	entered = true;
	snprintf(name, sizeof(name), "bench-%d", (int)getpid());
	iox_set_loglevel(Iceoryx_LogLevel_Fatal);
	iox_runtime_init(name);
}

static void *open_end(void *channel, bool writer)
{
	struct channel *c = channel;
	struct end *e = ipc_alloc(sizeof(*e));

	enter();
	if (writer) {
		iox_pub_options_t options;

		iox_pub_options_init(&options);
		options.subscriberTooSlowPolicy = ConsumerTooSlowPolicy_WAIT_FOR_CONSUMER;
		e->pub = iox_pub_init(&e->pub_space, "kshared", "bench", c->topic, &options);
	} else {
		iox_sub_options_t options;

		iox_sub_options_init(&options);
		options.queueFullPolicy = QueueFullPolicy_BLOCK_PRODUCER;
		options.queueCapacity = c->depth > DEPTH_MAX ? DEPTH_MAX : c->depth;
		e->sub = iox_sub_init(&e->sub_space, "kshared", "bench", c->topic, &options);
		e->ws = iox_ws_init(&e->ws_space);
		if (iox_ws_attach_subscriber_state(e->ws, e->sub, SubscriberState_HAS_DATA, 0,
						   NULL) != WaitSetResult_SUCCESS)
			bench_die("iox_ws_attach_subscriber_state");
	}
	return e;
}

/* The daemon brings the two together in its own time. */
static void ready(void *end)
{
	struct end *e = end;
	int64_t until = bench_now_ns() + PATIENCE_NS;

	while (e->pub ? !iox_pub_has_subscribers(e->pub)
		      : iox_sub_get_subscription_state(e->sub) != SubscribeState_SUBSCRIBED) {
		errno = ETIMEDOUT;
		if (bench_now_ns() > until)
			bench_die("the daemon of iceoryx does not connect us");
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
}

static void begin(void *end, const struct ipc_turn *turn)
{
	((struct end *)end)->spin = turn->wait == IPC_SPINNING;
}

IPC_INLINE void *reserve(void *end, size_t size)
{
	struct end *e = end;
	enum iox_AllocationResult result = iox_pub_loan_chunk(e->pub, &e->lent, (uint32_t)size);

	if (result != AllocationResult_SUCCESS) {
		errno = 0;
		bench_die("iox_pub_loan_chunk: %d", (int)result);
	}
	return e->lent;
}

IPC_INLINE void commit(void *end, size_t size)
{
	struct end *e = end;

	iox_pub_publish_chunk(e->pub, e->lent);
}

IPC_INLINE const void *take(void *end, size_t size)
{
	struct end *e = end;
	iox_notification_info_t info[1];
	uint64_t missed;

	while (iox_sub_take_chunk(e->sub, &e->got) != ChunkReceiveResult_SUCCESS) {
		if (e->spin)
			ipc_relax();
		else
			iox_ws_wait(e->ws, info, 1, &missed);
	}
	return e->got;
}

IPC_INLINE void done(void *end)
{
	struct end *e = end;

	iox_sub_release_chunk(e->sub, e->got);
}

IPC_LOOPS(iceoryx, reserve, commit, take, done)

static void close_end(void *end)
{
	struct end *e = end;

	if (e->pub) {
		iox_pub_deinit(e->pub);
	} else {
		iox_ws_detach_subscriber_state(e->ws, e->sub, SubscriberState_HAS_DATA);
		iox_ws_deinit(e->ws);
		iox_sub_deinit(e->sub);
	}
}

static void forget(void *channel)
{
}

const struct ipc_peer ipc_iceoryx = {
	.name = "iceoryx",
	.waits = IPC_BIT(IPC_BLOCKING) | IPC_BIT(IPC_SPINNING),
	.works = IPC_ANY_WORK | IPC_BIT(IPC_HAND_OVER),
	.serve = serve,
	.prepare = prepare,
	.open = open_end,
	.ready = ready,
	.begin = begin,
	IPC_LOOPS_OF(iceoryx),
	.close = close_end,
	.forget = forget,
};
