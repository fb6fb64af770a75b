// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mountpoint.c - mount(2), or fusermount3 for those who may not call it.
 *
 * default_permissions: the kernel checks modes. allow_other: that is what the folder is for; a user's mount has it only if
 * /etc/fuse.conf allows it.
 */
#include <base/cleanup.h>
#include <base/log.h>
#include <daemon/mountpoint.h>
#include <daemon/spawn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *type_name(const struct config *c)
{
	return c->srvfs ? "srvfs" : "kshared";
}

static int mount_direct(const struct config *c)
{
	cleanup_fd int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	char type[32], options[160];
	unsigned long flags = MS_NOSUID | MS_NODEV | (c->read_only ? MS_RDONLY : 0);

	if (fd < 0)
		return -errno;
	snprintf(type, sizeof(type), "fuse.%s", type_name(c));
	snprintf(options, sizeof(options),
		 "fd=%d,rootmode=40755,user_id=%u,group_id=%u,allow_other,default_permissions", fd,
		 (unsigned int)getuid(), (unsigned int)getgid());
	if (mount(type_name(c), c->dir, type, flags, options) < 0)
		return -errno;
	return take_fd(&fd);
}

static bool allow_other(void)
{
	FILE *f = fopen("/etc/fuse.conf", "re");
	char line[128];
	bool yes = false;

	while (f && fgets(line, sizeof(line), f))
		yes |= strncmp(line, "user_allow_other", 16) == 0;
	if (f)
		fclose(f);
	return yes;
}

static int run(const char *const argv[], int commfd)
{
	pid_t pid = commfd >= 0 ? fork() : spawn();
	char number[16];
	int status;

	if (pid < 0)
		return -errno;
	if (pid == 0) {
		if (commfd >= 0) {
			int keep = dup(commfd);

			snprintf(number, sizeof(number), "%d", keep);
			setenv("_FUSE_COMMFD", number, 1);
		}
		execvp(argv[0], (char *const *)argv);
		_exit(127);
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return -ENOENT;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EBUSY;
}

static int receive_fd(int sock)
{
	char byte;
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr m = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *c;
	int fd;

	if (recvmsg(sock, &m, MSG_CMSG_CLOEXEC) <= 0)
		return -EIO;
	c = CMSG_FIRSTHDR(&m);
	if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int)))
		return -EIO;
	memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return fd;
}

static int mount_by_helper(const struct config *c)
{
	char options[160];
	const char *argv[] = { "fusermount3", "-o", options, "--", c->dir, NULL };
	int sock[2], r, fd;

	snprintf(options, sizeof(options),
		 "nosuid,nodev,default_permissions,fsname=%s,subtype=%s%s%s", type_name(c),
		 type_name(c), allow_other() ? ",allow_other" : "", c->read_only ? ",ro" : "");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock) < 0)
		return -errno;
	r = run(argv, sock[0]);
	close(sock[0]);
	fd = r < 0 ? r : receive_fd(sock[1]);
	close(sock[1]);
	if (fd >= 0 && fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0) {
		close(fd);
		return -errno;
	}
	return fd;
}

int mountpoint_mount(const struct config *c)
{
	int fd = mount_direct(c);

	if (fd == -EPERM || fd == -EACCES) {
		fd = mount_by_helper(c);
		if (fd == -ENOENT)
			log_error("cannot mount %s: not permitted, and there is no fusermount3; "
				  "install the package fuse3, or run as root, or use --no-mount",
				  c->dir);
		else if (fd < 0)
			log_error("cannot mount %s: fusermount3 failed", c->dir);
		return fd;
	}
	if (fd < 0)
		log_error("cannot mount %s: %s%s", c->dir, strerror(-fd),
			  fd == -ENOENT || fd == -ENODEV ? "; is FUSE (/dev/fuse) there?" : "");
	return fd;
}

uint64_t mountpoint_dev(const char *dir)
{
	struct statx st;

	if (statx(AT_FDCWD, dir, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, 0, &st) < 0)
		return 0;
	return makedev(st.stx_dev_major, st.stx_dev_minor);
}

int mountpoint_unmount(const char *dir, bool lazy)
{
	const char *argv[] = { "fusermount3", lazy ? "-uzq" : "-uq", "--", dir, NULL };

	if (umount2(dir, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0)
		return 0;
	if (errno != EPERM)
		return -errno;
	return run(argv, -1);
}

static bool is_dead(const char *dir)
{
	cleanup_fd int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 && errno == ENOTCONN;
}

int mountpoint_prepare(struct config *c)
{
	char real[PATH_MAX];

	/* A mount whose daemon is dead is nobody's: nothing more can come of it. */
	while (is_dead(c->dir) && mountpoint_unmount(c->dir, true) == 0)
		log_info("%s: a mount whose daemon is dead has been taken away", c->dir);
	if (mkdir(c->dir, 0755) < 0 && errno != EEXIST) {
		log_error("%s: %s", c->dir, strerror(errno));
		return -errno;
	}
	if (!realpath(c->dir, real)) {
		log_error("%s: %s%s", c->dir, strerror(errno),
			  errno == ENOTCONN ? "; a dead mount is there: umount it first" : "");
		return -errno;
	}
	strcpy(c->dir, real);
	return 0;
}
