// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * daemon.c - where ksharedd is: beside this program, as it is in a build directory, else where
 * `make install` put it. $PATH is not searched: a mount helper may run for somebody else.
 */
#include <limits.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/cli_config.h"

/**
 * cli_find_daemon() - the path of ksharedd.
 * @ret: @size bytes
 *
 * Return: 0; -ENOENT it is nowhere; -ENAMETOOLONG.
 */
int cli_find_daemon(char *ret, size_t size)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	if (n > 0) {
		self[n] = '\0';
		slash = strrchr(self, '/');
		if (slash) {
			*slash = '\0';
			if (snprintf(ret, size, "%s/ksharedd", self) >= (int)size)
				return -ENAMETOOLONG;
			if (access(ret, X_OK) == 0)
				return 0;
		}
	}
	if (snprintf(ret, size, "%s", KSHARED_DAEMON) >= (int)size)
		return -ENAMETOOLONG;
	return access(ret, X_OK) == 0 ? 0 : -ENOENT;
}
