// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * spawn.c - clone(CLONE_FILES), then close_range(CLOSE_RANGE_UNSHARE): the child leaves the common table for a copy of its
 * beginning. The rest is not copied first and closed then, so nothing of it is flushed.
 */
#include <daemon/spawn.h>
#include <errno.h>
#include <limits.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
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
