// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * sock.c - the socket below a connection: connect, send, what a message brings along.
 *
 * Signals interrupt none of it. No state; any thread.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "lib/conn.h"

/**
 * sock_dial() - connect to a daemon.
 * @where: its socket, and who it must be
 * @timeout_ms: how long to wait while its queue is full
 * @socket_flags: SOCK_NONBLOCK: do not wait at all
 *
 * Return: a socket; -EAGAIN nobody accepts; -EACCES another user listens there; -EPROTO it is a
 * socket of another type; -errno of connect(2).
 */
int sock_dial(const struct where *where, int timeout_ms, int socket_flags)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct timeval tv = { .tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000 };
	struct timeval forever = { .tv_sec = 0 };
	struct ucred peer;
	socklen_t len = sizeof(peer);

	cleanup_fd int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | socket_flags, 0);
	if (fd < 0)
		return -errno;
	memcpy(sa.sun_path, where->socket, sizeof(sa.sun_path));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	while (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		if (errno == EPROTOTYPE)
			return -EPROTO;
		if (errno != EINTR)
			return -errno;
	}
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &forever, sizeof(forever));
	if (where->derived) {
		if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
			return -errno;
		if (peer.uid != 0 && peer.uid != where->owner)
			return -EACCES;
	}
	return take_fd(&fd);
}

/**
 * sock_send() - send a request, with this thread's credentials.
 * @send_fd: a descriptor to send along, borrowed; -1: none
 *
 * Return: 0; -errno of sendmsg(2).
 */
int sock_send(int sock, const struct ctl_request *req, int send_fd)
{
	struct iovec iov = { .iov_base = (void *)req, .iov_len = CTL_REQUEST_MIN + req->path_len };
	struct ucred self = { .pid = getpid(), .uid = geteuid(), .gid = getegid() };
	union {
		char buf[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { .buf = "" };
	struct msghdr mh = { .msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.buf,
			     .msg_controllen = CMSG_SPACE(sizeof(self)) };
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&mh);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_CREDENTIALS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(self));
	memcpy(CMSG_DATA(cmsg), &self, sizeof(self));
	if (send_fd >= 0) {
		mh.msg_controllen = sizeof(control.buf);
		cmsg = CMSG_NXTHDR(&mh, cmsg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &send_fd, sizeof(int));
	}
	while (sendmsg(sock, &mh, MSG_NOSIGNAL) < 0) {
		if (errno != EINTR)
			return -errno;
	}
	return 0;
}

/**
 * sock_collect_fds() - the first descriptor of a message; all others are closed.
 * @mh: as recvmsg(2) has filled it
 * @ret_nr: how many came
 *
 * Return: a descriptor, the caller's; -1: none came.
 */
int sock_collect_fds(struct msghdr *mh, int *ret_nr)
{
	int first = -1;

	*ret_nr = 0;
	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(mh); cmsg; cmsg = CMSG_NXTHDR(mh, cmsg)) {
		size_t n;

		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		n = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(int));
			if ((*ret_nr)++ == 0)
				first = fd;
			else
				close(fd);
		}
	}
	return first;
}
