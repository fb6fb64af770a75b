// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * port_fd.c - descriptors between a port's server and its client: sending them, and finding out what came.
 *
 * A client maps what some program has sent it. It must not be killed for that (SIGBUS), nor be made to wait, so memory is
 * taken only if it can not become shorter, and a bell only if it is one. What a descriptor is, is told by its link in
 * /proc/self/fd, which begins with "/" for every file that has a name, and by its fdinfo. No state; any thread.
 */
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "lib/conn.h"
#include "lib/port.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

#define BPF_MAP_ARRAY 2
#define BPF_MAP_MMAPABLE 0x400
#define BPF_PROGRAM_SYSCALL 31

/** port_now_ns() - CLOCK_MONOTONIC; no system call where there is a vDSO. */
uint64_t port_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/** port_hung_up() - is the other end of a pair gone? One system call. */
bool port_hung_up(int sock)
{
	struct pollfd pfd = { .fd = sock };

	return poll(&pfd, 1, 0) > 0 && (pfd.revents & (POLLHUP | POLLERR | POLLNVAL));
}

/**
 * port_recv() - a message, and what came with it.
 * @ret_fds, @ret_nr_fds: the caller's to close, also if -errno was returned; those beyond PORT_FDS_MAX are not taken
 * Return: 0: exactly @len bytes; -EAGAIN there is none; -ECONNRESET the other end is gone; -EPROTO it is not as long, or more
 * descriptors came than there is room for; -errno of recvmsg(2).
 */
int port_recv(int sock, void *msg, size_t len, int ret_fds[PORT_FDS_MAX], unsigned int *ret_nr_fds)
{
	struct iovec iov = { .iov_base = msg, .iov_len = len };
	union {
		char buf[CMSG_SPACE(PORT_FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };
	size_t nr;
	ssize_t n;
	int fd;

	*ret_nr_fds = 0;
	mh.msg_control = control.buf;
	mh.msg_controllen = sizeof(control.buf);
	do
		n = recvmsg(sock, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&mh); c; c = CMSG_NXTHDR(&mh, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		nr = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < nr; i++) {
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			/* The buffer is aligned, and may have room for one more. */
			if (*ret_nr_fds == PORT_FDS_MAX) {
				close(fd);
				mh.msg_flags |= MSG_CTRUNC;
			} else {
				ret_fds[(*ret_nr_fds)++] = fd;
			}
		}
	}
	if (n == 0)
		return -ECONNRESET;
	return (size_t)n != len || (mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) ? -EPROTO : 0;
}

/**
 * port_send() - a message and descriptors, without waiting.
 * Return: 0; -EAGAIN there is no room; -errno of sendmsg(2).
 */
int port_send(int sock, const void *msg, size_t len, const int *fds, unsigned int nr_fds)
{
	struct iovec iov = { .iov_base = (void *)msg, .iov_len = len };
	union {
		char buf[CMSG_SPACE(PORT_FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control = { .buf = "" };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (nr_fds) {
		struct cmsghdr *c;

		mh.msg_control = control.buf;
		mh.msg_controllen = CMSG_SPACE(nr_fds * sizeof(int));
		c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nr_fds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, nr_fds * sizeof(int));
	}
	while (sendmsg(sock, &mh, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

/**
 * port_memory() - memory to be shared, mapped, of fixed size.
 * @len: bytes; mapped in whole pages
 * Return: a memfd, the caller's, which can be sealed further; -errno.
 */
int port_memory(const char *name, size_t len, void **ret)
{
	unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	void *p;

	cleanup_fd int fd = memfd_create(name, flags | MFD_NOEXEC_SEAL);
	if (fd < 0 && errno == EINVAL) /* before 6.3 */
		fd = memfd_create(name, flags);
	if (fd < 0 || ftruncate(fd, (off_t)len) < 0)
		return -errno;
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0) {
		int r = -errno;

		munmap(p, len);
		return r;
	}
	*ret = p;
	return take_fd(&fd);
}

/* Is @fd's link in /proc exactly @link? */
static bool is_linked(int fd, const char *link)
{
	char path[32], target[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, target, sizeof(target));
	return n == (ssize_t)strlen(link) && !memcmp(target, link, (size_t)n);
}

static int read_fdinfo(int fd, char *ret, size_t size)
{
	char path[32];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	cleanup_fd int info = open(path, O_RDONLY | O_CLOEXEC);
	if (info < 0)
		return -errno;
	n = read(info, ret, size - 1);
	if (n < 0)
		return -errno;
	ret[n] = '\0';
	return 0;
}

/* The number of the line "@key:\t..." of an fdinfo; 0: there is none. */
static uint64_t fdinfo_number(const char *text, const char *key)
{
	size_t len = strlen(key);

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, key, len) && line[len] == ':')
			return strtoull(line + len + 1, NULL, 0);
	}
	return 0;
}

/**
 * port_memory_len() - how much of what came can be mapped, for as long as it is.
 * Return: 0; -EPROTO: it is neither a memfd that cannot shrink nor a BPF map to be mapped. Huge pages are refused: to touch
 * one may be fatal though the file is long enough.
 */
int port_memory_len(int fd, uint64_t *ret)
{
	char info[1024];
	struct statfs fs;
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals >= 0) {
		if (!(seals & F_SEAL_SHRINK) || fstatfs(fd, &fs) < 0 || fs.f_type != TMPFS_MAGIC ||
		    fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size <= 0)
			return -EPROTO;
		*ret = (uint64_t)st.st_size;
		return 0;
	}
	if (!is_linked(fd, "anon_inode:bpf-map") || read_fdinfo(fd, info, sizeof(info)) < 0 ||
	    fdinfo_number(info, "map_type") != BPF_MAP_ARRAY ||
	    !(fdinfo_number(info, "map_flags") & BPF_MAP_MMAPABLE))
		return -EPROTO;
	*ret = ((fdinfo_number(info, "value_size") + 7) & ~7ULL) *
		fdinfo_number(info, "max_entries");
	return *ret ? 0 : -EPROTO;
}

/** port_is_eventfd() - and made so that a write to it does not wait. */
bool port_is_eventfd(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return is_linked(fd, "anon_inode:[eventfd]") && flags >= 0 &&
		fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

/** port_is_bpf_program() - one that bpf(BPF_PROG_RUN) runs in the caller's own context? */
bool port_is_bpf_program(int fd)
{
	char info[1024];

	return is_linked(fd, "anon_inode:bpf-prog") && read_fdinfo(fd, info, sizeof(info)) == 0 &&
		fdinfo_number(info, "prog_type") == BPF_PROGRAM_SYSCALL;
}
