// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * take.c - pidfd_open, check, pidfd_getfd.
 *
 * A header's pid is a thread's: pidfd_open() wants PIDFD_THREAD for one that leads no process. Before 6.9
 * the flag is unknown; then only the leader's own posts work through the mount, by its process.
 */
#include <base/cleanup.h>
#include <engine/remote/take.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

static int open_thread(pid_t tid)
{
	int fd = (int)syscall(SYS_pidfd_open, tid, PIDFD_THREAD);

	if (fd < 0 && errno == EINVAL)
		fd = (int)syscall(SYS_pidfd_open, tid, 0);
	return fd < 0 ? -errno : fd;
}

/*
 * May its own user look into it, by ptrace's rules? Not if it was set-user-ID: it may have opened what he could not. That
 * it must not be dumped shows in the owner of what is in its directory, not of the directory itself.
 */
static bool is_open_to(pid_t tid, const struct proc_info *info, uid_t uid, gid_t gid)
{
	char path[32];
	struct stat st;

	for (int i = 0; i < 4; i++)
		if (info->uid[i] != uid || info->gid[i] != gid)
			return false;
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)tid);
	return info->cap_prm == 0 && stat(path, &st) == 0 && st.st_uid == uid;
}

int take_fd_of(pid_t tid, uid_t uid, gid_t gid, int fd, struct proc_info *ret_info, int *ret_fd)
{
	cleanup_fd int pidfd = open_thread(tid);
	int r;

	*ret_fd = -1;
	if (pidfd < 0)
		return pidfd == -EINVAL ? -ESRCH : pidfd;
	r = proc_read(tid, ret_info);
	if (r < 0)
		return r;
	if (ret_info->uid[3] != uid || ret_info->gid[3] != gid)
		return -ESRCH;
	if (uid != 0 && !is_open_to(tid, ret_info, uid, gid))
		return -EPERM;
	*ret_fd = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	if (*ret_fd < 0)
		return -errno;
	/* Was it this thread all the while? An exec by another thread would have ended it. */
	if (syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) < 0 && errno != EPERM)
		return -ESRCH;
	return 0;
}
