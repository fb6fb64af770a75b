// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * bench.c - see bench.h.
 */
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

#define LANES_MAX 32
#define PEERS_MAX 256

struct bench bench = { .rounds = 20, .round_ms = 5, .cpu = -1, .peer_cpu = -1 };

static pid_t owner, peers[PEERS_MAX];
static int nr_peers;

/* Nothing of ours is left when we are gone: whoever started us may then unmount. */
static void end_peers(void)
{
	if (getpid() != owner)
		return;
	for (int i = 0; i < nr_peers; i++)
		kill(peers[i], SIGKILL);
	for (int i = 0; i < nr_peers; i++)
		waitpid(peers[i], NULL, 0);
}

int64_t bench_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

bool bench_join(pid_t pid)
{
	int status;

	for (int i = 0; i < nr_peers; i++)
		if (peers[i] == pid)
			peers[i] = peers[--nr_peers];
	return waitpid(pid, &status, 0) == pid && status == 0;
}

_Noreturn void bench_die(const char *format, ...)
{
	int saved = errno;
	va_list args;

	if (getpid() == owner)
		fflush(stdout);
	fprintf(stderr, "%s: ", program_invocation_short_name);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, " (%s)\n", strerror(saved));
	if (getpid() != owner)
		_exit(EXIT_FAILURE);
	exit(EXIT_FAILURE);
}

void bench_note(const char *format, ...)
{
	va_list args;

	fputs("# ", stdout);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
}

int bench_fd(int fd, const char *what)
{
	if (fd < 0)
		bench_die("%s", what);
	return fd;
}

void bench_zero(int result, const char *what)
{
	if (result != 0)
		bench_die("%s", what);
}

char *bench_path(const char *dir, const char *name)
{
	char *path;

	if (asprintf(&path, "%s/%s", dir, name) < 0)
		bench_die("memory");
	return path;
}

void bench_move(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	if (cpu >= 0)
		CPU_SET(cpu, &set);
	for (int i = 0; cpu < 0 && i < CPU_SETSIZE; i++)
		CPU_SET(i, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		bench_die("moving to CPU %d", cpu);
}

void bench_init(int argc, char **argv)
{
	enum { TMPFS = 256, DISK, DAEMON, ROUNDS, ROUND_MS, CPU, PEER_CPU };
	static const struct option options[] = {
		{ "tmpfs", required_argument, NULL, TMPFS },
		{ "disk", required_argument, NULL, DISK },
		{ "daemon", required_argument, NULL, DAEMON },
		{ "rounds", required_argument, NULL, ROUNDS },
		{ "round-ms", required_argument, NULL, ROUND_MS },
		{ "cpu", required_argument, NULL, CPU },
		{ "peer-cpu", required_argument, NULL, PEER_CPU },
		{ 0 },
	};
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case TMPFS:
			bench.tmpfs = optarg;
			break;
		case DISK:
			bench.disk = optarg;
			break;
		case DAEMON:
			bench.daemon = optarg;
			break;
		case ROUNDS:
			bench.rounds = (unsigned int)atoi(optarg);
			break;
		case ROUND_MS:
			bench.round_ms = (unsigned int)atoi(optarg);
			break;
		case CPU:
			bench.cpu = atoi(optarg);
			break;
		case PEER_CPU:
			bench.peer_cpu = atoi(optarg);
			break;
		default:
			exit(2);
		}
	}
	bench.folders = argv + optind;
	bench.nr_folders = argc - optind;
	if (!bench.tmpfs || !bench.disk || !bench.daemon || !bench.rounds || !bench.round_ms ||
	    !bench.nr_folders) {
		fprintf(stderr,
			"usage: %s --tmpfs DIR --disk DIR --daemon PATH [--rounds N] [--round-ms N]"
			" [--cpu N] [--peer-cpu N] FOLDER...\nbench/run starts it.\n",
			argv[0]);
		exit(2);
	}
	signal(SIGPIPE, SIG_IGN);
	owner = getpid();
	atexit(end_peers);
	bench_move(bench.cpu);
}

void bench_emit(const char *group, const char *lane, unsigned int round, double ns)
{
	printf("%s\t%s\t%u\t%.3f\n", group, lane, round, ns);
}

static double run_once(const struct lane *lane, unsigned long n)
{
	int64_t start = bench_now_ns();

	n = lane->run(lane->arg, n);
	return (double)(bench_now_ns() - start) / (double)n;
}

/* How many operations fill a round; finding it out also warms up. */
static unsigned long calibrate(const struct lane *lane)
{
	double want_ns = bench.round_ms * 1e6;
	unsigned long n = 1;

	for (;;) {
		double ns = run_once(lane, n) * (double)n;

		if (ns >= want_ns / 4 || n > 1ul << 30) {
			n = (unsigned long)((double)n * want_ns / ns);
			return n ? n : 1;
		}
		n *= 2;
	}
}

void bench_group(const char *group, const struct lane *lanes, size_t nr)
{
	unsigned long n[LANES_MAX];

	if (nr > LANES_MAX)
		bench_die("too many lanes");
	for (size_t i = 0; i < nr; i++)
		n[i] = calibrate(&lanes[i]);
	for (unsigned int round = 0; round < bench.rounds; round++) {
		for (size_t k = 0; k < nr; k++) {
			size_t i = round % 2 ? nr - 1 - k : k;

			/* Caches and the scheduler's accounts are still those of the lane before. */
			lanes[i].run(lanes[i].arg, n[i] / 5 + 1);
			bench_emit(group, lanes[i].name, round, run_once(&lanes[i], n[i]));
		}
	}
	fflush(stdout);
}

pid_t bench_peer(void (*function)(void *arg), void *arg)
{
	pid_t parent = getpid(), pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		bench_die("fork");
	if (pid > 0) {
		if (nr_peers == PEERS_MAX)
			bench_die("too many peers");
		peers[nr_peers++] = pid;
		return pid;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	bench_move(bench.peer_cpu);
	function(arg);
	_exit(0);
}

union fd_space {
	struct cmsghdr header;
	char space[CMSG_SPACE(sizeof(int))];
};

bool bench_send_fd(int sock, int fd)
{
	char byte = 0;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	union fd_space control = { .header = { .cmsg_level = SOL_SOCKET,
					       .cmsg_type = SCM_RIGHTS,
					       .cmsg_len = CMSG_LEN(sizeof(int)) } };
	struct msghdr m = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = &control,
			    .msg_controllen = sizeof(control) };

	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	return sendmsg(sock, &m, MSG_NOSIGNAL) == 1;
}

int bench_receive_fd(int sock)
{
	char bytes[64];
	struct iovec iov = { .iov_base = bytes, .iov_len = sizeof(bytes) };
	union fd_space control = { 0 };
	struct msghdr m = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = &control,
			    .msg_controllen = sizeof(control) };
	struct cmsghdr *c;
	int fd;

	if (recvmsg(sock, &m, MSG_CMSG_CLOEXEC) <= 0)
		bench_die("receiving a descriptor");
	c = CMSG_FIRSTHDR(&m);
	if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int)))
		bench_die("no descriptor came");
	memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return fd;
}
