// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * reopen.c - see reopen.h.
 */
#include <engine/remote/reopen.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

int reopen_fd(int proc, int fd, int oflags)
{
	char name[16];
	int new_fd;

	snprintf(name, sizeof(name), "%d", fd);
	new_fd = openat(proc, name, oflags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (new_fd < 0)
		return -errno;
	fcntl(new_fd, F_SETFL, oflags & O_APPEND);
	return new_fd;
}
