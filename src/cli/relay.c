// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * relay.c - copy between a descriptor and standard input and output, both ways at once.
 *
 * The descriptor is shared with everybody else who has it, so nothing is changed about it: it
 * is neither made non-blocking nor shut down for writing. Instead each call is one that does
 * not wait where the kernel has such a call; and after standard input has ended there is no
 * telling when the last answer has come: the copy ends when none came for a while. The
 * descriptor's own end of file ends it at once, but for a file, where it only means that all
 * was read.
 */
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "cli/cli.h"

#define BUFFER_SIZE 65536
#define PIPE_CHUNK 4096 /* what a pipe that is ready for writing takes without waiting */

struct flow {
	char data[BUFFER_SIZE];
	size_t begin;
	size_t end;
	bool eof;
	bool broken; /* nobody takes it any more */
};

/* -EAGAIN: nothing now. */
static ssize_t read_some(int fd, bool is_socket, void *buf, size_t size)
{
	struct iovec iov = { .iov_base = buf, .iov_len = size };
	ssize_t n;

	if (is_socket) {
		n = recv(fd, buf, size, MSG_DONTWAIT);
		return n < 0 ? -errno : n;
	}
	n = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);
	if (n < 0 &&
	    (errno == EOPNOTSUPP || errno == EINVAL || errno == EAGAIN || errno == ESPIPE)) {
		struct stat st;

		if (errno == EAGAIN && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)))
			return -EAGAIN;
		n = read(fd, buf, size);
	}
	return n < 0 ? -errno : n;
}

static ssize_t write_some(int fd, bool is_socket, const void *buf, size_t size)
{
	ssize_t n;

	if (is_socket)
		n = send(fd, buf, size, MSG_DONTWAIT | MSG_NOSIGNAL);
	else
		n = write(fd, buf, size < PIPE_CHUNK ? size : PIPE_CHUNK);
	return n < 0 ? -errno : n;
}

static bool is_transient(ssize_t r)
{
	return r == -EAGAIN || r == -EINTR;
}

/* Take what there is. Return: false: an error, said. */
static bool flow_in(struct flow *f, int fd, bool is_socket, const char *thing)
{
	ssize_t n = read_some(fd, is_socket, f->data, sizeof(f->data));

	if (n > 0) {
		f->begin = 0;
		f->end = n;
	} else if (n == 0 || n == -EIO || n == -ECONNRESET) { /* EIO: the other end of a terminal */
		f->eof = true;
	} else if (!is_transient(n)) {
		cli_refuse(thing, (int)-n, NULL);
		return false;
	}
	return true;
}

static bool flow_out(struct flow *f, int fd, bool is_socket, const char *thing)
{
	ssize_t n = write_some(fd, is_socket, f->data + f->begin, f->end - f->begin);

	if (n >= 0) {
		f->begin += n;
	} else if (n == -EPIPE || n == -ECONNRESET) {
		f->broken = true;
	} else if (!is_transient(n)) {
		cli_refuse(thing, (int)-n, NULL);
		return false;
	}
	return true;
}

static bool flow_pending(const struct flow *f)
{
	return f->begin < f->end;
}

/**
 * cli_relay() - copy until an end.
 * @fd: the descriptor; stays the caller's; what its access does not allow is not done
 * @linger_ms: how long to go on after standard input has ended, since the last byte came
 *
 * Return: CLI_OK; CLI_FAILED after a sentence.
 */
int cli_relay(int fd, int linger_ms)
{
	enum { IN, OUT, FROM, TO, NR };
	cleanup_free struct flow *up = calloc(2, sizeof(*up));
	struct flow *down = up + 1;
	struct stat st;
	int flags = fcntl(fd, F_GETFL);
	bool is_socket, is_file, readable, writable;

	if (!up)
		return cli_refuse("srv open", ENOMEM, NULL);
	if (flags < 0 || fstat(fd, &st) < 0)
		return cli_refuse("srv open", errno, NULL);
	readable = (flags & O_ACCMODE) != O_WRONLY;
	writable = (flags & O_ACCMODE) != O_RDONLY;
	is_socket = S_ISSOCK(st.st_mode);
	is_file = S_ISREG(st.st_mode);
	up->eof = !writable;
	down->eof = !readable;

	for (;;) {
		struct pollfd p[NR] = {
			[IN] = { .fd = up->eof || flow_pending(up) ? -1 : STDIN_FILENO,
				 .events = POLLIN },
			[TO] = { .fd = flow_pending(up) ? fd : -1, .events = POLLOUT },
			[FROM] = { .fd = down->eof || flow_pending(down) ? -1 : fd,
				   .events = POLLIN },
			[OUT] = { .fd = flow_pending(down) ? STDOUT_FILENO : -1,
				  .events = POLLOUT },
		};
		bool sent = up->eof && !flow_pending(up);
		bool waiting = sent && writable && !flow_pending(down);
		int r;

		if (down->broken || up->broken)
			return down->broken ? CLI_OK : cli_refuse("srv open", EPIPE, NULL);
		if (down->eof && !flow_pending(down) && ((readable && !is_file) || sent))
			return CLI_OK;
		r = poll(p, NR, waiting ? linger_ms : -1);
		if (r == 0)
			return CLI_OK;
		if (r < 0 && errno != EINTR)
			return cli_refuse("srv open", errno, NULL);
		if (r < 0)
			continue;
		if (p[IN].revents && !flow_in(up, STDIN_FILENO, false, "standard input"))
			return CLI_FAILED;
		if (p[TO].revents && !flow_out(up, fd, is_socket, "what is posted"))
			return CLI_FAILED;
		if (p[FROM].revents && !flow_in(down, fd, is_socket, "what is posted"))
			return CLI_FAILED;
		if (p[OUT].revents && !flow_out(down, STDOUT_FILENO, false, "standard output"))
			return CLI_FAILED;
	}
}
