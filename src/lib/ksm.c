// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ksm.c - merge partitions, from the client's side. See kshared/ksm.h for the contract, wire/ksm.h for what is said.
 *
 * A partition's descriptor has no state here: each call makes a socket for its answer. If that hangs up without one, the merger
 * has died in the middle of the call, and the call is made again: what had been merged is merged.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <kshared/ksm.h>

#include "lib/conn.h"
#include "lib/ksm.h"

#define OPEN_FLAGS (KSM_SYNC | KSM_CREAT | KSM_EXCL)
#define MERGE_FLAGS (KSM_DRY_RUN | KSM_FORCE | KSM_GUEST_RAM)
#define OPEN_TRIES 100
#define CALL_TRIES 4

_Static_assert(sizeof(struct ksm_result) == sizeof(struct merge_result) + 48 &&
		       offsetof(struct ksm_result, reserved) == sizeof(struct merge_result),
	       "ABI");
_Static_assert(offsetof(struct ksm_stats, reserved) == sizeof(struct ksm_state), "ABI");

static int ask_daemon(struct kshared *k, enum ctl_op op, const char *name, unsigned int oflags,
		      mode_t mode)
{
	struct ctl_entry entry;
	struct call c;
	int r;

	call_init(&c, op);
	r = call_set_path(&c, "ksm", name);
	if (r == 0 && op == CTL_CREATE)
		r = call_set_mode(&c, mode);
	if (r < 0)
		return r;
	c.req.oflags = oflags;
	c.want_fd = true;
	c.reserve_fd = true;
	c.body = &entry;
	c.body_size = sizeof(entry);
	r = conn_call(k, &c);
	return r < 0 ? r : c.ret_fd;
}

static int create(struct kshared *k, const char *name, unsigned int flags, mode_t mode)
{
	int r = ask_daemon(k, CTL_CREATE, name, 0, mode);

	/* Its directory is not there. */
	if (r == -ENOENT)
		return -ENOSYS;
	if (r < 0 || (flags & KSM_SYNC))
		return r;
	close(r);
	return ask_daemon(k, CTL_OPEN, name, O_RDONLY, 0);
}

/**
 * ksm_open_at() - open a partition, or make it.
 * @k: the connection; NULL: the default one
 * @name, @flags, @mode: see kshared/ksm.h
 *
 * Any thread.
 *
 * Return: a descriptor, the caller's; -1 with errno: see kshared/ksm.h; and those of conn_call().
 */
int ksm_open_at(struct kshared *k, const char *name, unsigned int flags, mode_t mode)
{
	unsigned int oflags = (flags & KSM_SYNC) ? O_WRONLY : O_RDONLY;
	int r = -EINVAL;

	cancel_guard();
	if ((flags & ~OPEN_FLAGS) || (name && strchr(name, '/')))
		return api_result(-EINVAL);
	if ((flags & KSM_CREAT) && (flags & KSM_EXCL))
		return api_result(create(k, name, flags, mode));
	/* Others may make and remove it meanwhile. */
	for (int i = 0; i < OPEN_TRIES; i++) {
		r = ask_daemon(k, CTL_OPEN, name, oflags, 0);
		if (r != -ENOENT || !(flags & KSM_CREAT))
			break;
		r = create(k, name, flags, mode);
		if (r != -EEXIST)
			break;
	}
	return api_result(r);
}

/** ksm_open() - ksm_open_at() by the default connection. */
int ksm_open(const char *name, unsigned int flags, mode_t mode)
{
	return ksm_open_at(NULL, name, flags, mode);
}

/**
 * ksm_unlink_at() - remove a partition's name.
 * @k: the connection; NULL: the default one
 *
 * Any thread.
 *
 * Return: 0; -1 with errno: ENOENT; EACCES; EPERM; EINVAL, ENAMETOOLONG; and those of conn_call().
 */
int ksm_unlink_at(struct kshared *k, const char *name)
{
	struct call c;
	int r;

	cancel_guard();
	if (name && strchr(name, '/'))
		return api_result(-EINVAL);
	call_init(&c, CTL_REMOVE);
	c.req.flags = CTL_REMOVE_DIR;
	r = call_set_path(&c, "ksm", name);
	return api_result(r < 0 ? r : conn_call(k, &c));
}

/** ksm_unlink() - ksm_unlink_at() by the default connection. */
int ksm_unlink(const char *name)
{
	return ksm_unlink_at(NULL, name);
}

static int send_request(int sock, const struct ksm_request *q, int reply, int pidfd)
{
	int fds[] = { reply, pidfd };
	size_t len = (pidfd >= 0 ? 2 : 1) * sizeof(int);
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(fds))];
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)q, .iov_len = sizeof(*q) };
	struct msghdr m = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = CMSG_SPACE(len),
	};

	control.h = (struct cmsghdr){
		.cmsg_level = SOL_SOCKET,
		.cmsg_type = SCM_RIGHTS,
		.cmsg_len = CMSG_LEN(len),
	};
	memcpy(CMSG_DATA(&control.h), fds, len);
	while (sendmsg(sock, &m, MSG_NOSIGNAL) < 0) {
		if (errno == EINTR)
			continue;
		if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN)
			return -ECONNREFUSED;
		return errno == ENOTSOCK || errno == EMSGSIZE ? -EBADF : -errno;
	}
	return 0;
}

/* What comes first: the last word, or what the merger goes on by. Return: how many descriptors; -errno. */
static int receive(int sock, struct ksm_answer *ret, int fds[OWN_FDS])
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int) * OWN_FDS)];
	} control;
	struct iovec iov = { .iov_base = ret, .iov_len = sizeof(*ret) };
	struct msghdr m = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	int nr = 0;
	ssize_t n;

	do
		n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == ECONNRESET ? -ECONNRESET : -errno;
	fds[0] = fds[1] = -1;
	if (m.msg_controllen && control.h.cmsg_level == SOL_SOCKET &&
	    control.h.cmsg_type == SCM_RIGHTS) {
		nr = (int)((control.h.cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(&control.h), (size_t)nr * sizeof(int));
	}
	if (n == 0) {
		cleanup_close_p(&fds[0]);
		cleanup_close_p(&fds[1]);
		return -ECONNRESET;
	}
	return nr == 0 && n != sizeof(*ret) ? -EPROTO : nr;
}

static int ask_once(int fd, const struct ksm_request *q, int pidfd, struct ksm_answer *ret)
{
	int pair[2], fds[OWN_FDS], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	r = send_request(fd, q, pair[1], pidfd);
	close(pair[1]);
	if (r == 0)
		r = receive(pair[0], ret, fds);
	if (r > 0)
		r = own_serve(fds, ret);
	/* As long as it is open we wait for the answer. */
	close(pair[0]);
	if (r == 0 && (ret->magic != KSM_MAGIC || ret->error > 0 || ret->error < -4095))
		return -EPROTO;
	return r;
}

/* Return: 0, and *@ret is the merger's answer; -errno: there is none. */
static int ask(int fd, const struct ksm_request *q, int pidfd, struct ksm_answer *ret)
{
	int domain = 0, type = 0, r = -ECONNRESET;
	socklen_t len = sizeof(int);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 || domain != AF_UNIX ||
	    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET)
		return -EBADF;
	memset(ret, 0, sizeof(*ret));
	for (int i = 0; i < CALL_TRIES && r == -ECONNRESET; i++)
		r = ask_once(fd, q, pidfd, ret);
	return r == -ECONNRESET ? -ECONNREFUSED : r;
}

static int call(int fd, enum ksm_op op, int pidfd, const void *addr, size_t size,
		unsigned int flags, struct ksm_result *ret)
{
	struct ksm_request q = {
		.magic = KSM_MAGIC,
		.op = op,
		.flags = flags | (pidfd >= 0 ? KSM_TARGET : 0),
		.addr = (uintptr_t)addr,
		.size = size,
	};
	struct ksm_answer answer;
	int r;

	if (flags & ~MERGE_FLAGS)
		return -EINVAL;
	if (pidfd < 0)
		own_lock();
	r = ask(fd, &q, pidfd, &answer);
	if (pidfd < 0)
		own_unlock();
	if (ret) {
		memset(ret, 0, sizeof(*ret));
		if (r == 0)
			memcpy(ret, &answer.done, sizeof(answer.done));
	}
	return r < 0 ? r : answer.error;
}

/* By number. One that is no process's is no pidfd's either. */
static int call_pid(int fd, enum ksm_op op, pid_t pid, const void *addr, size_t size)
{
	int pidfd = -1, r;

	if (pid != 0 && pid != getpid()) {
		pidfd = pid < 0 ? -1 : (int)syscall(SYS_pidfd_open, pid, 0);
		if (pidfd < 0)
			return pid < 0 || errno == EINVAL ? -ESRCH : -errno;
	}
	r = call(fd, op, pidfd, addr, size, 0, NULL);
	if (pidfd >= 0)
		close(pidfd);
	return r;
}

/** ksm_merge() - see kshared/ksm.h. Any thread. */
int ksm_merge(int fd, pid_t pid, void *addr, size_t size)
{
	cancel_guard();
	return api_result(call_pid(fd, KSM_OP_MERGE, pid, addr, size));
}

/** ksm_unmerge() - see kshared/ksm.h. Any thread. */
int ksm_unmerge(int fd, pid_t pid, void *addr, size_t size)
{
	cancel_guard();
	return api_result(call_pid(fd, KSM_OP_UNMERGE, pid, addr, size));
}

/** ksm_merge_ex() - see kshared/ksm.h. Any thread. */
int ksm_merge_ex(int fd, int pidfd, void *addr, size_t size, unsigned int flags,
		 struct ksm_result *ret)
{
	cancel_guard();
	if (pidfd < -1)
		return api_result(-EBADF);
	return api_result(call(fd, KSM_OP_MERGE, pidfd, addr, size, flags, ret));
}

/** ksm_unmerge_ex() - see kshared/ksm.h. Any thread. */
int ksm_unmerge_ex(int fd, int pidfd, void *addr, size_t size, unsigned int flags)
{
	cancel_guard();
	if (pidfd < -1)
		return api_result(-EBADF);
	return api_result(flags ? -EINVAL
				: call(fd, KSM_OP_UNMERGE, pidfd, addr, size, flags, NULL));
}

/** ksm_get_stats() - see kshared/ksm.h. Any thread. */
int ksm_get_stats(int fd, struct ksm_stats *ret)
{
	const struct ksm_request q = { .magic = KSM_MAGIC, .op = KSM_OP_STAT };
	struct ksm_answer answer;
	int r;

	cancel_guard();
	r = ask(fd, &q, -1, &answer);
	if (r == 0)
		r = answer.error;
	if (r < 0)
		return api_result(r);
	memset(ret, 0, sizeof(*ret));
	memcpy(ret, &answer.state, sizeof(answer.state));
	return 0;
}
