// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ksm_kernel.c - see ksm.h.
 */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"
#include "ksm.h"

#define DIRECTORY "/sys/kernel/mm/ksm/"
#define BATCH_PAGES 10000
#define PATIENCE_S 120

/* What we change; "run" is the first to be put back. */
static const char *const names[] = { "run", "sleep_millisecs", "pages_to_scan", "use_zero_pages" };

#define NR_NAMES (sizeof(names) / sizeof(names[0]))

static bool read_text(const char *path, char *text, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, room - 1);

	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = 0;
	return n > 0;
}

uint64_t ksm_value(const char *name)
{
	char path[128], text[64];

	snprintf(path, sizeof(path), DIRECTORY "%s", name);
	if (!read_text(path, text, sizeof(text)))
		bench_die("reading %s", path);
	return strtoull(text, NULL, 10);
}

static int set(const char *name, uint64_t value)
{
	char path[128];
	int fd, r;

	snprintf(path, sizeof(path), DIRECTORY "%s", name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	r = dprintf(fd, "%llu\n", (unsigned long long)value) > 0 ? 0 : -1;
	close(fd);
	return r;
}

void ksm_set(const char *name, uint64_t value)
{
	bench_zero(set(name, value), name);
}

uint64_t ksm_process_value(const char *name)
{
	char text[512], *at;

	if (!read_text("/proc/self/ksm_stat", text, sizeof(text)) || !(at = strstr(text, name)))
		bench_die("/proc/self/ksm_stat has no %s", name);
	return strtoull(at + strlen(name), NULL, 10);
}

/* Of all processes, one that @is_it says yes to; 0: none. */
static pid_t find_process(bool (*is_it)(const char *pid))
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	pid_t found = 0;

	if (!proc)
		bench_die("/proc");
	while (!found && (entry = readdir(proc)))
		if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9' && is_it(entry->d_name))
			found = atoi(entry->d_name);
	closedir(proc);
	return found;
}

static bool is_mergeable(const char *pid)
{
	char path[64], text[512];

	snprintf(path, sizeof(path), "/proc/%.16s/ksm_stat", pid);
	return read_text(path, text, sizeof(text)) && strstr(text, "ksm_mergeable: yes");
}

static bool is_daemon(const char *pid)
{
	char path[64], text[64];

	snprintf(path, sizeof(path), "/proc/%.16s/comm", pid);
	return read_text(path, text, sizeof(text)) && strcmp(text, "ksmd\n") == 0;
}

void ksm_wait_for_others(void)
{
	int64_t end = bench_now_ns() + PATIENCE_S * 1000000000ll;
	pid_t pid;

	while ((pid = find_process(is_mergeable)) != 0) {
		if (bench_now_ns() > end)
			bench_die(
				"process %d has memory that the kernel's KSM would merge: end it first",
				pid);
		nanosleep(&(struct timespec){ .tv_nsec = 200000000 }, NULL);
	}
}

static pid_t guard;
static int guard_pipe;

void ksm_give_back(void)
{
	close(guard_pipe);
	waitpid(guard, NULL, 0);
}

static void put_back(const uint64_t *values, int nice)
{
	setpriority(PRIO_PROCESS, (id_t)find_process(is_daemon), nice);
	for (size_t i = 0; i < NR_NAMES; i++)
		set(names[i], values[i]);
}

void ksm_take(void)
{
	pid_t daemon = find_process(is_daemon);
	int nice = getpriority(PRIO_PROCESS, (id_t)daemon), ends[2];
	uint64_t values[NR_NAMES];
	char byte;

	for (size_t i = 0; i < NR_NAMES; i++)
		values[i] = ksm_value(names[i]);
	if (values[0] == 1)
		bench_die("the kernel's KSM is in use (%srun): there is nothing to compare with",
			  DIRECTORY);
	ksm_wait_for_others();
	bench_zero(pipe2(ends, O_CLOEXEC), "pipe");
	fflush(stdout);
	guard = fork();
	if (guard < 0)
		bench_die("fork");
	if (guard == 0) {
		/* Out of reach of what ends us, which it sees by the pipe's end. */
		setsid();
		prctl(PR_SET_NAME, "bench-ksm-guard");
		for (int i = 1; i < NSIG; i++)
			signal(i, SIG_IGN);
		close(ends[1]);
		while (read(ends[0], &byte, 1) > 0)
			;
		put_back(values, nice);
		_exit(0);
	}
	close(ends[0]);
	guard_pipe = ends[1];
	/* It gives way to everybody else by itself; beside us it shall have as much of a busy machine as we. */
	bench_zero(setpriority(PRIO_PROCESS, (id_t)daemon, 0), "priority of ksmd");
}

void ksm_start(void)
{
	ksm_set("sleep_millisecs", 0);
	ksm_set("pages_to_scan", BATCH_PAGES);
	ksm_set("use_zero_pages", 1);
	ksm_set("run", 1);
}

void ksm_stop(void)
{
	ksm_set("run", 0);
}

int64_t ksm_daemon_cpu_ns(void)
{
	pid_t pid = find_process(is_daemon);
	char path[64], text[128];

	snprintf(path, sizeof(path), "/proc/%d/schedstat", pid);
	if (!pid || !read_text(path, text, sizeof(text)))
		bench_die("the thread ksmd is not to be found");
	return strtoll(text, NULL, 10);
}
