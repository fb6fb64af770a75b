// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kernel.c - what the kernel has: pipes, UNIX sockets, POSIX message queues.
 *
 * A message is written by one call and read by one; where a stream gives less, by another one. Buffers are as large as root may make them, 1 MiB
 * of a pipe and 4 MiB and more of a socket. Spinning is calling again what does not block.
 */
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ipc/loops.h"

#define PIPE_BYTES (1 << 20)
#define SOCKET_BYTES (8 << 20)

struct channel {
	int in;
	int out;
};

struct end {
	int fd;
	bool writer;
	int flags;
	void *buf;
};

static struct channel *new_channel(const int fds[2])
{
	struct channel *c = ipc_alloc(sizeof(*c));

	c->in = fds[0];
	c->out = fds[1];
	return c;
}

static void *open_end(void *channel, bool writer)
{
	struct channel *c = channel;
	struct end *e = ipc_alloc(sizeof(*e));

	e->fd = writer ? c->out : c->in;
	e->writer = writer;
	e->buf = ipc_alloc(2 << 20);
	return e;
}

static void forget(void *channel)
{
	struct channel *c = channel;

	close(c->in);
	if (c->out != c->in)
		close(c->out);
}

IPC_INLINE void *reserve(void *end, size_t size)
{
	return ((struct end *)end)->buf;
}

IPC_INLINE void done(void *end)
{
}

/* Not now: again. */
IPC_INLINE void unless_busy(const char *what)
{
	if (errno != EAGAIN && errno != EINTR)
		bench_die("%s", what);
}

/* ---- pipe ---- */

static void *prepare_pipe(size_t size, unsigned int depth, unsigned int number)
{
	int fds[2];

	bench_zero(pipe2(fds, O_CLOEXEC), "pipe");
	bench_fd(fcntl(fds[0], F_SETPIPE_SZ, PIPE_BYTES), "F_SETPIPE_SZ");
	return new_channel(fds);
}

static void begin_pipe(void *end, const struct ipc_turn *turn)
{
	struct end *e = end;

	/* The two ends are open files of their own. */
	bench_zero(fcntl(e->fd, F_SETFL, turn->wait == IPC_SPINNING ? O_NONBLOCK : 0),
		   "O_NONBLOCK");
}

IPC_INLINE void pipe_commit(void *end, size_t size)
{
	struct end *e = end;

	for (size_t at = 0; at < size;) {
		ssize_t n = write(e->fd, (char *)e->buf + at, size - at);

		if (n > 0)
			at += (size_t)n;
		else
			unless_busy("write");
	}
}

IPC_INLINE const void *pipe_take(void *end, size_t size)
{
	struct end *e = end;

	for (size_t at = 0; at < size;) {
		ssize_t n = read(e->fd, (char *)e->buf + at, size - at);

		if (n > 0)
			at += (size_t)n;
		else if (n == 0)
			bench_die("the other end is gone");
		else
			unless_busy("read");
	}
	return e->buf;
}

/* ---- sockets ---- */

static void *prepare_socket(int type)
{
	int fds[2], bytes = SOCKET_BYTES;

	bench_zero(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds), "socketpair");
	/* Without the privilege it is what the system allows. */
	if (setsockopt(fds[1], SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) < 0)
		bench_zero(setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)),
			   "SO_SNDBUF");
	return new_channel(fds);
}

static void *prepare_stream(size_t size, unsigned int depth, unsigned int number)
{
	return prepare_socket(SOCK_STREAM);
}

static void *prepare_seqpacket(size_t size, unsigned int depth, unsigned int number)
{
	return prepare_socket(SOCK_SEQPACKET);
}

static void begin_socket(void *end, const struct ipc_turn *turn)
{
	((struct end *)end)->flags = turn->wait == IPC_SPINNING ? MSG_DONTWAIT : 0;
}

IPC_INLINE void socket_commit(void *end, size_t size)
{
	struct end *e = end;

	for (size_t at = 0; at < size;) {
		ssize_t n = send(e->fd, (char *)e->buf + at, size - at, e->flags | MSG_NOSIGNAL);

		if (n > 0)
			at += (size_t)n;
		else
			unless_busy("send");
	}
}

IPC_INLINE const void *socket_take(void *end, size_t size)
{
	struct end *e = end;

	for (size_t at = 0; at < size;) {
		ssize_t n = recv(e->fd, (char *)e->buf + at, size - at, e->flags);

		if (n > 0)
			at += (size_t)n;
		else if (n == 0)
			bench_die("the other end is gone");
		else
			unless_busy("recv");
	}
	return e->buf;
}

/* ---- message queue ---- */

#define MQ_LONGEST 65536
#define MQ_EACH 128 /* what is counted beside a message, and more */

static void set_limit(const char *path, unsigned int value)
{
	int fd = bench_fd(open(path, O_WRONLY | O_CLOEXEC), path);

	if (dprintf(fd, "%u", value) < 0)
		bench_die("%s", path);
	close(fd);
}

/*
 * The kernel's account of a queue is taken in full when it is made, and each user has one of 800 KiB unless he may raise it: then
 * there are few long messages. How long one may be is the namespace's, which is ours.
 */
static void *prepare_mq(size_t size, unsigned int depth, unsigned int number)
{
	struct mq_attr attr = { .mq_maxmsg = depth, .mq_msgsize = (long)size };
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
	char name[64];
	int fds[2];
	long fit;

	set_limit("/proc/sys/fs/mqueue/msg_max", 1024);
	set_limit("/proc/sys/fs/mqueue/msgsize_max", MQ_LONGEST);
	if (setrlimit(RLIMIT_MSGQUEUE, &limit) < 0)
		bench_zero(getrlimit(RLIMIT_MSGQUEUE, &limit), "RLIMIT_MSGQUEUE");
	if (limit.rlim_cur != RLIM_INFINITY) {
		fit = (long)(limit.rlim_cur / 2 / (size + MQ_EACH));
		attr.mq_maxmsg = fit < attr.mq_maxmsg ? fit : attr.mq_maxmsg;
	}
	snprintf(name, sizeof(name), "/kshared-bench-%d-%u", (int)getpid(), number);
	fds[0] = bench_fd(mq_open(name, O_RDONLY | O_CREAT | O_EXCL, 0600, &attr), "mq_open");
	fds[1] = bench_fd(mq_open(name, O_WRONLY), "mq_open");
	bench_zero(mq_unlink(name), "mq_unlink");
	return new_channel(fds);
}

static void begin_mq(void *end, const struct ipc_turn *turn)
{
	struct mq_attr attr = { .mq_flags = turn->wait == IPC_SPINNING ? O_NONBLOCK : 0 };

	bench_zero(mq_setattr(((struct end *)end)->fd, &attr, NULL), "mq_setattr");
}

IPC_INLINE void mq_commit(void *end, size_t size)
{
	struct end *e = end;

	while (mq_send(e->fd, e->buf, size, 0) < 0)
		unless_busy("mq_send");
}

IPC_INLINE const void *mq_take(void *end, size_t size)
{
	struct end *e = end;
	ssize_t n;

	while ((n = mq_receive(e->fd, e->buf, size, NULL)) < 0)
		unless_busy("mq_receive");
	if ((size_t)n != size)
		bench_die("a message is of another length");
	return e->buf;
}

#define KERNEL_PEER(id, title, longest, begin_function, commit, take)   \
	IPC_LOOPS(id, reserve, commit, take, done)                      \
	const struct ipc_peer ipc_##id = {                              \
		.name = title,                                          \
		.waits = IPC_BIT(IPC_BLOCKING) | IPC_BIT(IPC_SPINNING), \
		.works = IPC_ANY_WORK,                                  \
		.max = longest,                                         \
		.prepare = prepare_##id,                                \
		.open = open_end,                                       \
		.begin = begin_function,                                \
		IPC_LOOPS_OF(id),                                       \
		.forget = forget,                                       \
	}

KERNEL_PEER(pipe, "pipe", 0, begin_pipe, pipe_commit, pipe_take);
KERNEL_PEER(stream, "UNIX stream", 0, begin_socket, socket_commit, socket_take);
KERNEL_PEER(seqpacket, "UNIX seqpacket", 0, begin_socket, socket_commit, socket_take);
KERNEL_PEER(mq, "POSIX mq", MQ_LONGEST, begin_mq, mq_commit, mq_take);
