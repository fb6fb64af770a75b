// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * turns.c - programs that do the same work take turns: how long each takes, and how much memory.
 *
 *	bench-turns [--cold] GROUP ROUNDS { LANE COMMAND }...
 *
 * What bench_group() is for functions: in each round every command runs once, in an order that turns round each time. A COMMAND is
 * the shell's; its output goes to /dev/null, and what it says to stderr is shown if it fails. Before anything is kept each runs once; with --cold it does not, but every run
 * finds the kernel's caches dropped, which needs root. Prints bench.h's lines for GROUP, and for "peak memory, GROUP" with
 * bytes in place of nanoseconds: of the largest process, by the kernel's account (ru_maxrss).
 *
 * A process's account begins with what its parent had resident before exec, so this one has to be small.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

static void drop_caches(void)
{
	int fd = bench_fd(open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC), "drop_caches");

	sync();
	if (write(fd, "3\n", 2) != 2)
		bench_die("dropping caches");
	close(fd);
}

/* What the command said. */
static void show(int fd)
{
	char text[4096];
	ssize_t len = pread(fd, text, sizeof(text), 0);

	if (len > 0)
		fwrite(text, 1, (size_t)len, stderr);
}

static double run(const char *lane, const char *command, double *ret_bytes)
{
	int said = bench_fd(memfd_create("stderr", MFD_CLOEXEC), "memfd_create");
	int64_t start = bench_now_ns();
	struct rusage usage;
	double ns;
	int status;
	pid_t pid = fork();

	if (pid < 0)
		bench_die("fork");
	if (pid == 0) {
		int null = bench_fd(open("/dev/null", O_RDWR), "/dev/null");

		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
		dup2(said, STDERR_FILENO);
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		bench_die("/bin/sh");
	}
	if (wait4(pid, &status, 0, &usage) != pid)
		bench_die("wait4");
	ns = (double)(bench_now_ns() - start);
	if (status != 0) {
		show(said);
		errno = 0;
		bench_die("%s: wait status %#x of: %s", lane, (unsigned int)status, command);
	}
	close(said);
	*ret_bytes = (double)usage.ru_maxrss * 1024;
	return ns;
}

int main(int argc, char **argv)
{
	bool cold = argc > 1 && !strcmp(argv[1], "--cold");
	char **at = argv + 1 + cold, memory[64];
	unsigned int rounds, nr;
	double bytes, ns;

	if (argc - cold < 5 || (argc - cold) % 2 == 0) {
		fprintf(stderr, "usage: %s [--cold] GROUP ROUNDS { LANE COMMAND }...\n", argv[0]);
		return 2;
	}
	snprintf(memory, sizeof(memory), "peak memory, %s", at[0]);
	rounds = (unsigned int)atoi(at[1]);
	nr = (unsigned int)(argc - cold - 3) / 2;
	for (unsigned int i = 0; i < nr && !cold; i++)
		run(at[2 + 2 * i], at[3 + 2 * i], &bytes);
	for (unsigned int round = 0; round < rounds; round++) {
		for (unsigned int k = 0; k < nr; k++) {
			unsigned int i = round % 2 ? nr - 1 - k : k;

			if (cold)
				drop_caches();
			ns = run(at[2 + 2 * i], at[3 + 2 * i], &bytes);
			bench_emit(at[0], at[2 + 2 * i], round, ns);
			bench_emit(memory, at[2 + 2 * i], round, bytes);
		}
	}
	return 0;
}
