// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * port-agent.c - an exporter of metrics that looks at the kernel some million times a second.
 *
 *	port-agent [SECONDS [PORT]]
 *
 * It opens four of the ports that the daemon publishes and reads three of them as fast as it can: load averages, memory, pressure
 * (PSI). The fourth, clock, tells it when a second is over. None of this is a system call: while the loop runs, a tracer of
 * system calls sees nothing but the write() of one page of text every second. A program that decides by such figures, as a
 * load balancer does for every request, would do its work where count() is.
 *
 * The text is what Prometheus reads. It goes to standard output, SECONDS times (0: without end; default 5), and to whoever asks
 * http://127.0.0.1:PORT/, if there is a PORT; a thread of its own answers there.
 *
 *	cc port-agent.c $(pkg-config --cflags --libs libkshared)
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <kshared/port.h>

#define VALUES_MAX 32 /* of a port, all of 64 bits */
#define STILL_MAX \
	200000 /* looks at a clock that stands still: some 20 ms, where it is written every one */

/**
 * struct source - a port, and what was read of it.
 * @prefix: of its metrics' names
 * @len: bytes to read
 */
struct source {
	const char *name;
	const char *prefix;
	struct kport *p;
	size_t len;
	uint64_t values[VALUES_MAX];
};

enum { CLOCK, LOAD, MEMORY, PRESSURE, NR_SOURCES };

static struct source sources[NR_SOURCES] = {
	[CLOCK] = { .name = "clock" },
	[LOAD] = { .name = "load", .prefix = "node" },
	[MEMORY] = { .name = "memory", .prefix = "node_memory" },
	[PRESSURE] = { .name = "psi", .prefix = "node_pressure" },
};

/* The text shown last, for the thread that answers. */
static pthread_mutex_t page_lock = PTHREAD_MUTEX_INITIALIZER;
static char page[16384];

static void die(const char *what)
{
	fprintf(stderr, "port-agent: %s: %s\n", what, strerror(errno));
	exit(EXIT_FAILURE);
}

static void open_source(struct source *s)
{
	struct kport_info info;

	s->p = kport_open(NULL, s->name, O_RDONLY, 0);
	if (!s->p)
		die(s->name);
	while (kport_info(s->p, &info) < 0)
		if (errno != EAGAIN)
			die(s->name);
	s->len = info.size < sizeof(s->values) ? info.size : sizeof(s->values);
}

/* After its server has died a page is never written again. To ask costs a call, so it is not done at every look. */
static void renew_source(struct source *s)
{
	struct pollfd gone = { .fd = kport_fd(s->p), .events = POLLIN };

	if (poll(&gone, 1, 0) > 0 && kport_renew(s->p) < 0)
		die(s->name);
}

/* One snapshot. EAGAIN: the writer was at it at each of many tries: it has been stopped there, or has died. */
static void read_source(struct source *s)
{
	while (kport_read(s->p, s->values, s->len, 0) < 0) {
		if (errno != EAGAIN)
			die(s->name);
		renew_source(s);
	}
}

/* A port says itself what is in it: names, units, fractions. */
static size_t print_source(const struct source *s, char *to, size_t size)
{
	struct kport_field f;
	size_t used = 0;

	for (unsigned int i = 0; kport_field(s->p, i, &f) == 0 && used < size; i++) {
		double value;

		if (f.width != sizeof(s->values[0]) || f.offset + f.width > s->len ||
		    f.type == KPORT_CHARS)
			continue;
		value = (double)s->values[f.offset / sizeof(s->values[0])] /
			(double)(1ULL << f.fraction_bits);
		for (char *dot = f.name; (dot = strchr(dot, '.'));)
			*dot = '_';
		used += (size_t)snprintf(to + used, size - used, "%s_%s%s%s %.15g\n", s->prefix,
					 f.name, strcmp(f.unit, "pages") == 0 ? "_" : "",
					 strcmp(f.unit, "pages") == 0 ? f.unit : "", value);
	}
	return used < size ? used : size - 1;
}

static void publish(uint64_t reads)
{
	char text[sizeof(page)];
	size_t used;

	used = (size_t)snprintf(text, sizeof(text), "port_agent_reads_per_second %llu\n",
				(unsigned long long)reads);
	for (int i = LOAD; i < NR_SOURCES; i++)
		used += print_source(&sources[i], text + used, sizeof(text) - used);
	if (write(STDOUT_FILENO, text, used) < 0)
		die("standard output");
	pthread_mutex_lock(&page_lock);
	memcpy(page, text, used + 1);
	pthread_mutex_unlock(&page_lock);
}

/* Everything until the clock's page says that a second is over. Return: how often the kernel was looked at. */
static uint64_t count(void)
{
	const uint64_t *now = sources[CLOCK].values;
	uint64_t reads = 0, end, before;
	unsigned int still = 0;

	read_source(&sources[CLOCK]);
	end = *now + 1000000000;
	do {
		before = *now;
		for (int i = 0; i < NR_SOURCES; i++)
			read_source(&sources[i]);
		reads += NR_SOURCES;
		still = *now == before ? still + 1 : 0;
		for (int i = 0; still == STILL_MAX && i < NR_SOURCES; i++)
			renew_source(&sources[i]);
		if (still == STILL_MAX)
			still = 0;
	} while (*now < end);
	return reads;
}

static void *answer(void *arg)
{
	static const char head[] =
		"HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n\r\n";
	int sock = *(const int *)arg;
	char request[1024], text[sizeof(page)];

	for (;;) {
		int fd = accept4(sock, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			continue;
		pthread_mutex_lock(&page_lock);
		strcpy(text, page);
		pthread_mutex_unlock(&page_lock);
		if (read(fd, request, sizeof(request)) > 0 && write(fd, head, sizeof(head) - 1) > 0)
			(void)!write(fd, text, strlen(text));
		close(fd);
	}
	return NULL;
}

static void serve(const char *port)
{
	struct sockaddr_in addr = { .sin_family = AF_INET,
				    .sin_port = htons((uint16_t)atoi(port)),
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	static int sock;
	pthread_t thread;
	int one = 1;

	sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (sock < 0 || setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
	    bind(sock, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(sock, 8) < 0)
		die(port);
	signal(SIGPIPE, SIG_IGN);
	errno = pthread_create(&thread, NULL, answer, &sock);
	if (errno)
		die("a thread");
}

int main(int argc, char **argv)
{
	long seconds = argc > 1 ? atol(argv[1]) : 5;

	for (int i = 0; i < NR_SOURCES; i++)
		open_source(&sources[i]);
	if (argc > 2)
		serve(argv[2]);
	for (long i = 0; i < seconds || seconds == 0; i++)
		publish(count());
	return 0;
}
