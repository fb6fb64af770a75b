// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * down.c - `kshared down [--lazy]`: end a folder.
 *
 * Done when nobody answers there any more, and its keeper has ended, unless that hangs in a file that was posted. If the daemon is dead already and has left its mount
 * behind, every access to the folder fails with ENOTCONN; then the mount is taken away.
 */
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>

#include "base/place.h"
#include "cli/cli.h"

#define NAME "down"
#define WAIT_MS 10000
#define STEP_MS 20
#define END_MS 5000

static const struct hint hints[] = {
	{ EPERM, "only root and the user who runs its daemon may end it", "ask them" },
	{ EBUSY, "a process has files of the folder open, or its working directory there",
	  "'fuser -m' tells which one; or use 'kshared down --lazy'" },
	{ 0 },
};

/* fusermount3 may unmount what this user has mounted. */
static int unmount_as_user(const char *dir)
{
	int status;
	pid_t pid = fork();

	if (pid < 0)
		return -errno;
	if (pid == 0) {
		execlp("fusermount3", "fusermount3", "-u", "-z", "--", dir, (char *)NULL);
		_exit(CLI_FAILED);
	}
	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return -errno;
	}
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EPERM;
}

/* The daemon of @dir does not answer: take away what it left. */
static int clean_up(const char *dir, int err)
{
	static const struct hint dead_hints[] = {
		{ EPERM, "its daemon is dead and the mount it left cannot be taken away",
		  "as root, use 'umount -l'" },
		{ 0 },
	};
	static const struct hint gone_hints[] = {
		{ ENOENT, "no folder is up there", NULL },
		{ ECONNREFUSED, "no folder is up there", NULL },
		{ EACCES, NULL, "ask the user who runs its daemon, or root" },
		{ 0 },
	};
	char socket[108];
	struct statfs fs;
	int r;

	/* stat() may be answered from the cache. */
	if (statfs(dir, &fs) == 0 || errno != ENOTCONN)
		return cli_refuse(dir, err, gone_hints);
	r = umount2(dir, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 ? -errno : 0;
	if (r == -EPERM && geteuid() != 0)
		r = unmount_as_user(dir);
	if (r < 0)
		return cli_refuse(dir, -r, dead_hints);
	if (place_socket(socket, dir, geteuid()) == 0)
		unlink(socket);
	cli_say("%s: its daemon was dead already; the mount it left has been taken away", dir);
	return CLI_OK;
}

/* To wait for its end by; -1: it is in another pid namespace. */
static int open_keeper(struct kshared *k)
{
	struct kshared_status st;

	return kshared_get_status(k, &st) < 0
		? -1
		: (int)syscall(SYS_pidfd_open, (pid_t)st.keeper_pid, 0);
}

/* Wait until nobody serves @where. */
static bool wait_gone(const char *where, int keeper)
{
	struct pollfd p = { .fd = keeper, .events = POLLIN };
	struct timespec step = { .tv_nsec = STEP_MS * 1000000L };

	for (int ms = 0; ms < WAIT_MS; ms += STEP_MS) {
		struct kshared *k = kshared_connect(where);

		if (!k && (errno == ENOENT || errno == ECONNREFUSED)) {
			poll(&p, 1, keeper >= 0 ? END_MS : 0);
			return true;
		}
		kshared_disconnect(k);
		nanosleep(&step, NULL);
	}
	return false;
}

/** cmd_down() - down [--lazy]. Return: an exit status. */
int cmd_down(const struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "lazy", .has_arg = no_argument, .val = 'l' },
		{ 0 },
	};
	unsigned int flags = 0;
	char buf[PATH_MAX];
	const char *where;
	int c;

	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c != 'l')
			return cli_bad_option(NAME, c, argv);
		flags |= KSHARED_SHUTDOWN_LAZY;
	}
	if (optind < argc)
		return cli_usage(NAME, "'%s' is one argument too many; name the folder with --at",
				 argv[optind]);

	where = cli_where(cli, buf);
	cleanup_connection struct kshared *k = kshared_connect(cli->at);
	if (!k)
		return clean_up(where, errno);
	cleanup_fd int keeper = open_keeper(k);
	if (kshared_shutdown(k, flags) < 0)
		return cli_refuse(where, errno, hints);
	if (!wait_gone(cli->at, keeper)) {
		cli_say("%s: its daemon has not ended yet; look again with 'kshared status'",
			where);
		return CLI_FAILED;
	}
	return CLI_OK;
}
