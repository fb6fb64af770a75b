// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * hand.c - see hand.h.
 */
#include <errno.h>
#include <kind/hand.h>
#include <string.h>
#include <sys/socket.h>

int hand_over(int server, const void *bytes, size_t len, const int *fds, unsigned int nr)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int) * HAND_FDS)];
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)bytes, .iov_len = len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (nr) {
		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * nr);
		control.h = (struct cmsghdr){
			.cmsg_level = SOL_SOCKET,
			.cmsg_type = SCM_RIGHTS,
			.cmsg_len = CMSG_LEN(sizeof(int) * nr),
		};
		memcpy(CMSG_DATA(&control.h), fds, sizeof(int) * nr);
	}
	if (sendmsg(server, &m, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
		return 0;
	switch (errno) {
	case EPIPE:
	case ECONNRESET:
	case ENOTCONN:
		return -ECONNREFUSED;
	case ETOOMANYREFS:
	case ENOMEM:
	case ENOBUFS:
		return -EAGAIN;
	default:
		return -errno;
	}
}
