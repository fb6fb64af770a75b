// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * plain.c - where the kernel gives no io_uring (an administrator may forbid it): the same by plain system calls.
 *
 * Streams are tried with RWF_NOWAIT and waited for by epoll, on a duplicate of the descriptor, so that closing the
 * original does not matter; those that do not know RWF_NOWAIT (terminals, inotify, writing an eventfd) are refused. Files are read and written in the loop, which waits for their disk. What is lost: a worker
 * killed between the system call and the note of it loses the bytes that it had read, or writes once more.
 */
#include <base/cleanup.h>
#include <engine/relay/relay_internal.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <unistd.h>
#include <wire/keep.h>

int plain_transfer(const struct relay_io *io, struct shm_slot *s)
{
	uint32_t n = io->write ? (uint32_t)s->progress : 0;
	struct iovec iov = { .iov_base = s->data + n, .iov_len = io->len - n };
	off_t offset = io->offset < 0 ? -1 : (off_t)io->offset + n;
	int flags = io->regular ? 0 : RWF_NOWAIT;
	ssize_t done;

	/* Without RWF_NOWAIT a call may block although poll() says ready, and the loop with it. */
	if (io->plain)
		return -EOPNOTSUPP;
	done = io->write ? pwritev2(io->fd, &iov, 1, offset, flags)
			 : preadv2(io->fd, &iov, 1, offset, flags);
	return done < 0 ? -errno : (int)done;
}

int plain_wait(struct relay *r, struct relay_wait *w, int fd, unsigned int events, bool many)
{
	cleanup_fd int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	struct pollfd p = { .fd = fd, .events = (short)events };
	struct epoll_event ev = { .events = events |
					  (many ? (uint32_t)EPOLLET : (uint32_t)EPOLLONESHOT) };
	int e;

	if (copy < 0)
		return -errno;
	e = relay_take_item(r, w, &w->index);
	if (e < 0)
		return e;
	ev.data.u64 = name_of(IS_WAIT, w->index, r->items[w->index].generation);
	if (epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, copy, &ev) < 0) {
		e = -errno;
		relay_drop_item(r, w->index);
		w->index = 0;
		return e;
	}
	r->items[w->index].fd = take_fd(&copy);
	r->items[w->index].once = !many;
	/* epoll tells the present state too, but later: then it is told twice. */
	if (many && poll(&p, 1, 0) > 0)
		w->ready(w, (unsigned int)p.revents);
	return 0;
}

void plain_wait_cancel(struct relay *r, struct relay_wait *w)
{
	epoll_ctl(r->epoll_fd, EPOLL_CTL_DEL, r->items[w->index].fd, NULL);
	close(r->items[w->index].fd);
	relay_drop_item(r, w->index);
	w->index = 0;
}

void plain_dispatch(struct relay *r)
{
	struct epoll_event ev[64];
	int n = epoll_wait(r->epoll_fd, ev, 64, 0);

	for (int i = 0; i < n; i++) {
		uint32_t index = (ev[i].data.u64 >> 32) & 0xffffff,
			 generation = (uint32_t)ev[i].data.u64;
		struct relay_wait *w;

		/* An earlier one of this batch may have ended it. */
		if (!r->items[index].who || r->items[index].generation != generation)
			continue;
		w = r->items[index].who;
		if (r->items[index].once)
			plain_wait_cancel(r, w);
		w->ready(w, ev[i].events);
	}
}
