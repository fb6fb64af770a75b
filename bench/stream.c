// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * stream.c - what does a stream cost that the daemon passes on?
 *
 * Sockets and pipes opened through the mount are proxied; opened by the library they are the posted open file itself. Three
 * lanes use one and the same socket, or pair of pipes: the descriptor as it was made, the library's, the mount's.
 *
 * "alone": one process is both ends, so that nothing is timed but the calls: write here, read there, write there, read
 * here. "echo": the other end is another process, as in use. Throughput is 64 KiB written at one end and
 * then read at the other by the same process.
 */
#include <fcntl.h>
#include <kshared.h>
#include <kshared/srv.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench.h"

#define BIG (64u << 10)

/* A stream as its user has it (@in, @out), and its other end. */
struct ends {
	int in;
	int out;
	int far_in;
	int far_out;
	size_t size;
};

static char data[BIG];

static void put(int fd, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = write(fd, data + done, size - done);

		if (n <= 0)
			bench_die("write");
		done += (size_t)n;
	}
}

static void get(int fd, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = read(fd, data + done, size - done);

		if (n <= 0)
			bench_die("read");
		done += (size_t)n;
	}
}

static unsigned long alone(void *arg, unsigned long n)
{
	const struct ends *e = arg;

	for (unsigned long i = 0; i < n; i++) {
		put(e->out, e->size);
		get(e->far_in, e->size);
		put(e->far_out, e->size);
		get(e->in, e->size);
	}
	return n;
}

static unsigned long with_echo(void *arg, unsigned long n)
{
	const struct ends *e = arg;

	for (unsigned long i = 0; i < n; i++) {
		put(e->out, e->size);
		get(e->in, e->size);
	}
	return n;
}

static unsigned long outward(void *arg, unsigned long n)
{
	const struct ends *e = arg;

	for (unsigned long i = 0; i < n; i++) {
		put(e->out, BIG);
		get(e->far_in, BIG);
	}
	return n;
}

static unsigned long inward(void *arg, unsigned long n)
{
	const struct ends *e = arg;

	for (unsigned long i = 0; i < n; i++) {
		put(e->far_out, BIG);
		get(e->in, BIG);
	}
	return n;
}

static void echo(void *arg)
{
	const struct ends *e = arg;
	ssize_t n;

	while ((n = read(e->far_in, data, sizeof(data))) > 0)
		put(e->far_out, (size_t)n);
}

static void group(const char *what, size_t size, const char *how,
		  unsigned long (*run)(void *, unsigned long), struct ends ends[3])
{
	struct lane lanes[] = {
		{ "native", run, &ends[0] },
		{ "library", run, &ends[1] },
		{ "mount", run, &ends[2] },
	};
	char name[64];

	for (int i = 0; i < 3; i++)
		ends[i].size = size;
	if (size >= 1024)
		snprintf(name, sizeof(name), "%s, %zu KiB, %s", what, size / 1024, how);
	else
		snprintf(name, sizeof(name), "%s, %zu B, %s", what, size, how);
	bench_group(name, lanes, 3);
}

/* The same stream by the library and by the mount. @in, @out: the names it is posted under */
static void complete(struct kshared *k, struct ends ends[3], const char *in, const char *out)
{
	bool one = strcmp(in, out) == 0;
	char *srv = bench_path(bench.folders[0], "srv");

	ends[1] = ends[2] = ends[0];
	ksrv_remove(k, in);
	ksrv_remove(k, out);
	bench_zero(ksrv_post(k, in, ends[0].in, 0600), "ksrv_post");
	if (!one)
		bench_zero(ksrv_post(k, out, ends[0].out, 0600), "ksrv_post");
	ends[1].in = bench_fd(ksrv_open(k, in, one ? O_RDWR : O_RDONLY), "ksrv_open");
	ends[1].out = one ? ends[1].in : bench_fd(ksrv_open(k, out, O_WRONLY), "ksrv_open");
	ends[2].in = bench_fd(open(bench_path(srv, in), (one ? O_RDWR : O_RDONLY) | O_CLOEXEC), in);
	ends[2].out = one ? ends[2].in
			  : bench_fd(open(bench_path(srv, out), O_WRONLY | O_CLOEXEC), out);
}

static void make_socket(struct kshared *k, struct ends ends[3])
{
	int pair[2];

	bench_zero(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), "socketpair");
	ends[0] = (struct ends){
		.in = pair[0], .out = pair[0], .far_in = pair[1], .far_out = pair[1]
	};
	complete(k, ends, "stream-sock", "stream-sock");
}

static void make_pipes(struct kshared *k, struct ends ends[3])
{
	int there[2], back[2];

	bench_zero(pipe2(there, O_CLOEXEC), "pipe");
	bench_zero(pipe2(back, O_CLOEXEC), "pipe");
	ends[0] = (struct ends){
		.in = back[0], .out = there[1], .far_in = there[0], .far_out = back[1]
	};
	complete(k, ends, "stream-in", "stream-out");
}

static void all(const char *what, struct ends ends[3])
{
	group(what, 64, "alone", alone, ends);
	group(what, 4096, "alone", alone, ends);
	group(what, BIG, "written", outward, ends);
	group(what, BIG, "read", inward, ends);
	/* From here on the other end belongs to the echo. */
	bench_peer(echo, &ends[0]);
	group(what, 64, "echo", with_echo, ends);
	group(what, 4096, "echo", with_echo, ends);
}

int main(int argc, char **argv)
{
	struct ends sock[3], pipes[3];
	struct kshared *k;

	bench_init(argc, argv);
	k = kshared_connect(bench.folders[0]);
	if (!k)
		bench_die("%s", bench.folders[0]);
	make_socket(k, sock);
	all("socket", sock);
	make_pipes(k, pipes);
	all("pipes", pipes);
	ksrv_remove(k, "stream-sock");
	ksrv_remove(k, "stream-in");
	ksrv_remove(k, "stream-out");
	kshared_disconnect(k);
	return 0;
}
