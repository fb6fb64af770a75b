// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kept.c - see kept.h.
 */
#include <daemon/kept.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

ssize_t kept_send(int sock, const void *bytes, size_t len, const int *fds, unsigned int nr,
		  int flags)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int) * KEPT_FDS)];
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
	return sendmsg(sock, &m, MSG_NOSIGNAL | flags);
}

void kept_tell(enum pub_op op, uint64_t id, uint32_t flags, int fd)
{
	struct keep_query q = { .op = op, .id = id, .flags = flags };

	/* Without the keeper there is nobody to serve. */
	if (kept_send(SERVER_KEEPER, &q, sizeof(q), &fd, fd >= 0, 0) < 0)
		_exit(0);
}

void kept_asked(void)
{
	struct pub_kept m;

	if (recv(SERVER_KEEPER, &m, sizeof(m), MSG_DONTWAIT) != sizeof(m) || m.op != PUB_ALIVE)
		_exit(0);
	kept_tell(PUB_ALIVE, 0, 0, -1);
}

bool kept_fetch(uint32_t n, struct pub_kept *ret, int *ret_fd)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = ret, .iov_len = sizeof(*ret) };
	struct msghdr m = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *c;
	ssize_t len;

	kept_tell(PUB_FETCH, 0, n, -1);
	do {
		m.msg_controllen = sizeof(control);
		len = recvmsg(SERVER_KEEPER, &m, MSG_CMSG_CLOEXEC);
		if (len == sizeof(*ret) && ret->op == PUB_ALIVE)
			kept_tell(PUB_ALIVE, 0, 0, -1);
	} while ((len < 0 && errno == EINTR) || (len == sizeof(*ret) && ret->op == PUB_ALIVE));
	if (len != sizeof(*ret) || ret->op != PUB_FETCH)
		_exit(0);
	c = CMSG_FIRSTHDR(&m);
	*ret_fd = -1;
	if (c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(ret_fd, CMSG_DATA(c), sizeof(int));
	return ret->result == 0;
}
