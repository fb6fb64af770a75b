/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * no_pidfd.h - is there no pidfd_open()? Where something runs us that does not know the call (valgrind 3.19) there is none.
 */
#ifndef KSHARED_TESTS_NO_PIDFD_H
#define KSHARED_TESTS_NO_PIDFD_H

#include <errno.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

static inline bool no_pidfd(void)
{
	int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);

	if (fd < 0)
		return errno == ENOSYS;
	close(fd);
	return false;
}

#endif
