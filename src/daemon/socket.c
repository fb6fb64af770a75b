// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * socket.c - the control socket, where base/place.h says, or where it was told to be.
 */
#include <base/cleanup.h>
#include <base/log.h>
#include <base/place.h>
#include <daemon/socket.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static bool somebody_listens(const struct sockaddr_un *addr)
{
	cleanup_fd int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	return fd >= 0 && connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0;
}

/* The socket's directory is ours, or it must not be used: in /tmp another user could have made it. */
static int make_rundir(void)
{
	char dir[PATH_MAX];
	struct stat st;

	place_rundir(dir, getuid());
	if (mkdir(dir, 0755) < 0 && errno != EEXIST)
		return -errno;
	if (lstat(dir, &st) < 0)
		return -errno;
	return S_ISDIR(st.st_mode) && st.st_uid == getuid() && !(st.st_mode & 022) ? 0 : -EPERM;
}

int socket_make(struct config *c)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	cleanup_fd int fd = -1;
	mode_t old;
	int r;

	if (!c->socket[0]) {
		r = make_rundir();
		if (r == 0)
			r = place_socket(c->socket, c->dir, getuid());
		if (r < 0) {
			log_error("cannot make a place for the control socket: %s", strerror(-r));
			return r;
		}
	}
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", c->socket);
	if (somebody_listens(&addr)) {
		log_error("%s is already served (%s); bring that down first", c->dir, c->socket);
		return -EEXIST;
	}
	unlink(addr.sun_path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* Anybody may connect; what he may do is each entry's matter. */
	old = umask(0111);
	r = bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 4096) < 0 ? -errno
											 : 0;
	umask(old);
	if (r < 0)
		log_error("%s: %s", addr.sun_path, strerror(-r));
	return r < 0 ? r : take_fd(&fd);
}
