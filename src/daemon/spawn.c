// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * spawn.c - clone(CLONE_FILES), then close_range(CLOSE_RANGE_UNSHARE): the child leaves the common table for a copy of its
 * beginning. The rest is not copied first and closed then, so nothing of it is flushed.
 */
#include <daemon/spawn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Valgrind carries out no such clone; a build for it has the copy of a fork, which is closed from the same number on. */
#ifdef SPAWN_BY_FORK
#define SHARED 0
#else
#define SHARED (CLONE_FILES | CLONE_VFORK)
#endif

pid_t spawn(void)
{
	pid_t pid = (pid_t)syscall(SYS_clone, SHARED | SIGCHLD, 0, 0, 0, 0);

	/* Before 5.9 there is no such call; then it has them all. */
	if (pid == 0 && syscall(SYS_close_range, SPAWN_FDS, UINT_MAX, CLOSE_RANGE_UNSHARE) < 0 &&
	    unshare(CLONE_FILES) < 0)
		_exit(1);
	return pid;
}

int spawn_numbers(const int *fds, int null_fd)
{
	for (int i = 0; i < SPAWN_PASS; i++)
		if (dup3(fds && fds[i] >= 0 ? fds[i] : null_fd, SPAWN_FIRST + i, O_CLOEXEC) < 0)
			return -errno;
	return 0;
}

static _Noreturn void execute(const char *exe, char **argv)
{
	sigset_t none;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int fd = SPAWN_FIRST; fd < SPAWN_FIRST + SPAWN_PASS; fd++)
		fcntl(fd, F_SETFD, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execv(exe, argv);
	execv("/proc/self/exe", argv);
	_exit(1);
}

pid_t spawn_exec(const char *exe, char **argv, const int *fds, int null_fd)
{
	int r = spawn_numbers(fds, null_fd);
	pid_t pid = r;

	if (r == 0) {
		pid = spawn();
		if (pid == 0)
			execute(exe, argv);
		if (pid < 0)
			pid = -errno;
	}
	spawn_numbers(NULL, null_fd);
	return pid;
}
