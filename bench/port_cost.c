// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * port_cost.c - what does it take of the machine to publish the kernel's structures every millisecond?
 *
 * It is measured from outside, on every CPU: its timers run in interrupts, which nobody accounts, so a
 * process looks at the clock all the time, and what is missing there while the publisher runs, and was not missing before, is what it took.
 */
#include <fcntl.h>
#include <kshared/port.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"
#include "port.h"

#define LOOK_NS \
	400000000 /* at each CPU, with and without the publisher; less than real-time processes may have in a second */
#define GAP_NS \
	400 /* between two looks at the clock: more than a look takes, less than any interrupt */
#define ELSEWHERE_NS 100000
#define COST_ROUNDS 3

/*
 * Which part of the time on this CPU is taken from a process that does nothing but look at the clock: what is missing between two looks. No
 * other process may run here meanwhile; what is longer than any interrupt was the machine below.
 */
static double taken(void)
{
	static const struct sched_param first = { .sched_priority = 1 }, normal = { 0 };
	int64_t start, then, now, lost = 0, elsewhere = 0;

	bench_zero(sched_setscheduler(0, SCHED_FIFO, &first), "SCHED_FIFO");
	start = then = bench_now_ns();
	do {
		now = bench_now_ns();
		if (now - then > ELSEWHERE_NS)
			elsewhere += now - then;
		else if (now - then > GAP_NS)
			lost += now - then;
		then = now;
	} while (now - start < LOOK_NS);
	bench_zero(sched_setscheduler(0, SCHED_OTHER, &normal), "SCHED_OTHER");
	return (double)lost / (double)(now - start - elsewhere);
}

/* What it costs at least to look at anything regularly: a process that wakes up and does nothing, before any other. */
static void wake_regularly(void *arg)
{
	static const struct sched_param first = { .sched_priority = 2 };
	int64_t next;

	/* First before all others, then to where one of them may be at it already. */
	bench_zero(sched_setscheduler(0, SCHED_FIFO, &first), "SCHED_FIFO");
	bench_move(0);
	next = bench_now_ns();
	if (write(*(int *)arg, "", 1) != 1)
		bench_die("write");
	for (;;) {
		struct timespec ts;

		next += PERIOD_NS;
		ts = (struct timespec){ .tv_sec = next / 1000000000, .tv_nsec = next % 1000000000 };
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
	}
}

/* The keeper's child that serves the kernel's pages; 0: there is none. */
static pid_t publisher(struct kshared *folder)
{
	struct kshared_status status;
	char path[64], text[256] = "", *save = NULL;
	FILE *file;

	bench_zero(kshared_get_status(folder, &status), "status");
	snprintf(path, sizeof(path), "/proc/%u/task/%u/children", status.keeper_pid,
		 status.keeper_pid);
	file = fopen(path, "re");
	if (!file || (!fgets(text, sizeof(text), file) && ferror(file)))
		bench_die("%s", path);
	fclose(file);
	for (char *word = strtok_r(text, " \n", &save); word; word = strtok_r(NULL, " \n", &save)) {
		pid_t pid = (pid_t)atoi(word);

		if (pid != (pid_t)status.worker_pid)
			return pid;
	}
	return 0;
}

static void end_publisher(struct kshared *folder)
{
	pid_t pid = publisher(folder);
	int fd = pid ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
	struct pollfd dead = { .fd = fd, .events = POLLIN };

	if (fd < 0)
		return;
	kill(pid, SIGKILL);
	if (poll(&dead, 1, 10000) != 1)
		bench_die("the publisher does not end");
	close(fd);
}

/* Nanoseconds that a process has run. */
static double ran_ns(pid_t pid)
{
	char path[64];
	double ns = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/schedstat", (int)pid);
	file = fopen(path, "re");
	if (!file || fscanf(file, "%lf", &ns) != 1)
		bench_die("%s", path);
	fclose(file);
	return ns;
}

/* Of a millisecond of one core, all CPUs together. */
static void cost_round(struct kshared *folder, unsigned int round)
{
	static const char *const ports[] = { "load", "cpu",  "memory", "vmstat",
					     "psi",  "swap", "net",    "clock" };
	enum { NR = sizeof(ports) / sizeof(ports[0]) };
	static const char group[] = "publisher at 1 ms";
	int cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
	double alone[256], lost = 0, ran, waking;
	struct kport *open_ports[NR];
	int ready[2];
	int64_t start;
	char byte;
	pid_t pid;

	end_publisher(folder);
	for (int cpu = 0; cpu < cpus && cpu < 256; cpu++) {
		bench_move(cpu);
		alone[cpu] = taken();
	}
	bench_move(0);
	bench_zero(pipe2(ready, O_CLOEXEC), "pipe");
	pid = bench_peer(wake_regularly, &ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		bench_die("read");
	close(ready[0]);
	close(ready[1]);
	waking = taken() - alone[0];
	kill(pid, SIGKILL);
	bench_join(pid);
	for (int i = 0; i < NR; i++) {
		open_ports[i] = kport_open(folder, ports[i], O_RDONLY, 0);
		if (!open_ports[i])
			bench_die("port/%s", ports[i]);
	}
	pid = publisher(folder);
	if (!pid)
		bench_die("no publisher");
	ran = ran_ns(pid);
	start = bench_now_ns();
	for (int cpu = 0; cpu < cpus && cpu < 256; cpu++) {
		bench_move(cpu);
		lost += taken() - alone[cpu];
	}
	ran = (ran_ns(pid) - ran) / (double)(bench_now_ns() - start);
	bench_emit(group, "1 ms of one core", round, 1e6);
	bench_emit(group, "publisher, in all", round, (lost + ran) * 1e6);
	bench_emit(group, "in interrupts, of all CPUs", round, lost * 1e6);
	bench_emit(group, "its process", round, ran * 1e6);
	bench_emit(group, "peer: a process that wakes every 1 ms", round, waking * 1e6);
	for (int i = 0; i < NR; i++)
		kport_close(open_ports[i]);
}

void port_cost(struct kshared *folder)
{
	for (unsigned int round = 0; round < COST_ROUNDS; round++)
		cost_round(folder, round);
	bench_move(bench.cpu);
	fflush(stdout);
}
