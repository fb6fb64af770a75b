// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ring_fd.c - a descriptor that is readable when a message may be there.
 *
 * The writer knows of no descriptor: it wakes a futex, as for any sleeper. Here the kernel waits on that futex (IORING_OP_FUTEX_WAIT,
 * 6.7), and the descriptor is that io_uring's: its completion makes it readable, and so does a timeout each second, upon which
 * the reader looks whether the writer lives. Where that cannot be had a thread sleeps on the futex and writes to an eventfd.
 *
 * Armed means: the wait is under way. ring_arm() is called when nothing is there; it takes the completions, so that the descriptor is not
 * readable any more, declares the sleep, looks a last time, and arms again what has completed.
 */
#include <limits.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <linux/time_types.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/ring.h"

/* Newer than some headers */
#define OP_FUTEX_WAIT 51
#define FUTEX_SIZE_U32 2

enum { WAITED = 1, TIMED, FIRST };

#define ENTRIES 8u
#define LOOK_S 1

/**
 * struct ring_watch - what is behind the descriptor.
 * @fd: the io_uring, or the eventfd
 * @waiting, @timing: under way
 * @armed, @stop: between a handle and its thread; futexes
 */
struct ring_watch {
	int fd;
	bool uring;
	bool waiting;
	bool timing;
	unsigned char *rings;
	size_t rings_size;
	struct io_uring_sqe *sqes;
	struct io_uring_params p;
	struct __kernel_timespec second;
	struct ring_bed *bed;
	uint32_t armed;
	uint32_t stop;
	pthread_t thread;
};

static uint32_t *sq(const struct ring_watch *w, uint32_t off)
{
	return (uint32_t *)(w->rings + off);
}

static int submit(struct ring_watch *w, const struct io_uring_sqe *sqe)
{
	uint32_t tail = *sq(w, w->p.sq_off.tail), at = tail & *sq(w, w->p.sq_off.ring_mask);

	w->sqes[at] = *sqe;
	sq(w, w->p.sq_off.array)[at] = at;
	ring_store_release(sq(w, w->p.sq_off.tail), tail + 1);
	if (syscall(SYS_io_uring_enter, w->fd, 1, 0, 0, NULL, 0) == 1)
		return 0;
	/* It has not been taken. */
	ring_store_release(sq(w, w->p.sq_off.tail), tail);
	return -EAGAIN;
}

static void take_completions(struct ring_watch *w)
{
	uint32_t head = *sq(w, w->p.cq_off.head), tail = ring_load_acquire(sq(w, w->p.cq_off.tail));
	const struct io_uring_cqe *cqes = (struct io_uring_cqe *)(w->rings + w->p.cq_off.cqes);

	for (; head != tail; head++) {
		uint64_t what = cqes[head & *sq(w, w->p.cq_off.ring_mask)].user_data;

		if (what == WAITED)
			w->waiting = false;
		if (what == TIMED)
			w->timing = false;
	}
	ring_store_release(sq(w, w->p.cq_off.head), head);
}

static int arm_uring(struct ring_watch *w)
{
	const struct io_uring_sqe wait = {
		.opcode = OP_FUTEX_WAIT,
		.fd = FUTEX_SIZE_U32,
		.addr = (uintptr_t)&w->bed->wait,
		.addr2 = 1,
		.addr3 = FUTEX_BITSET_MATCH_ANY,
		.user_data = WAITED,
	};
	const struct io_uring_sqe look = {
		.opcode = IORING_OP_TIMEOUT,
		.fd = -1,
		.addr = (uintptr_t)&w->second,
		.len = 1,
		.user_data = TIMED,
	};

	if (!w->timing)
		w->timing = submit(w, &look) == 0;
	if (!w->waiting)
		w->waiting = submit(w, &wait) == 0;
	return w->waiting && w->timing ? -EAGAIN : -ENOMEM;
}

/**
 * ring_arm() - nothing is there: make the descriptor unreadable, until something may be.
 * @r: a reader with a watch
 *
 * Return: -EAGAIN; 1 something has come meanwhile; -EBADMSG; -ENOMEM it cannot be watched.
 */
int ring_arm(struct kring *r)
{
	int there;
	struct ring_watch *w = r->watch;
	uint64_t count;

	if (w->uring)
		take_completions(w);
	else if (read(w->fd, &count, sizeof(count)) < 0)
		count = 0;
	__atomic_store_n(&w->bed->wait, 1, __ATOMIC_SEQ_CST);
	ring_barrier(r);
	there = ring_anything(r);
	if (there)
		return there;
	if (w->uring)
		return arm_uring(w);
	if (!__atomic_exchange_n(&w->armed, 1, __ATOMIC_SEQ_CST))
		syscall(SYS_futex, &w->armed, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	return -EAGAIN;
}

static bool has_futex_wait(int fd)
{
	union {
		struct io_uring_probe probe;
		unsigned char room[sizeof(struct io_uring_probe) +
				   256 * sizeof(struct io_uring_probe_op)];
	} u;

	memset(&u, 0, sizeof(u));
	return syscall(SYS_io_uring_register, fd, IORING_REGISTER_PROBE, &u.probe, 256) == 0 &&
		u.probe.last_op >= OP_FUTEX_WAIT &&
		(u.probe.ops[OP_FUTEX_WAIT].flags & IO_URING_OP_SUPPORTED);
}

static int start_uring(struct ring_watch *w)
{
	const struct io_uring_sqe first = { .opcode = IORING_OP_NOP, .user_data = FIRST };
	cleanup_fd int fd = -1;
	size_t sq_size, cq_size;
	void *at;

	fd = (int)syscall(SYS_io_uring_setup, ENTRIES, &w->p);
	if (fd < 0)
		return -errno;
	if (!(w->p.features & IORING_FEAT_SINGLE_MMAP) || !has_futex_wait(fd))
		return -ENOSYS;
	sq_size = w->p.sq_off.array + w->p.sq_entries * sizeof(uint32_t);
	cq_size = w->p.cq_off.cqes + w->p.cq_entries * sizeof(struct io_uring_cqe);
	w->rings_size = sq_size > cq_size ? sq_size : cq_size;
	at = mmap(NULL, w->rings_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
	if (at == MAP_FAILED)
		return -errno;
	w->rings = at;
	at = mmap(NULL, w->p.sq_entries * sizeof(*w->sqes), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		  IORING_OFF_SQES);
	if (at == MAP_FAILED) {
		munmap(w->rings, w->rings_size);
		return -errno;
	}
	w->sqes = at;
	w->second.tv_sec = LOOK_S;
	w->fd = take_fd(&fd);
	w->uring = true;
	/* Readable at first: something may be there already. */
	return submit(w, &first);
}

static void *watch_thread(void *arg)
{
	const struct timespec second = { .tv_sec = LOOK_S };
	struct ring_watch *w = arg;

	while (!ring_load_acquire(&w->stop)) {
		if (!ring_load_acquire(&w->armed)) {
			syscall(SYS_futex, &w->armed, FUTEX_WAIT_PRIVATE, 0, &second, NULL, 0);
			continue;
		}
		syscall(SYS_futex, &w->bed->wait, FUTEX_WAIT, 1, &second, NULL, 0);
		ring_store_release(&w->armed, 0);
		eventfd_write(w->fd, 1);
	}
	return NULL;
}

static int start_thread(struct ring_watch *w)
{
	sigset_t all, old;
	int result;

	w->fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->fd < 0)
		return -errno;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	result = pthread_create(&w->thread, NULL, watch_thread, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (result)
		close(w->fd);
	return -result;
}

/** ring_watch_free() - end a watch. @w: NULL is ignored. @own: not in a child of who made it, where its thread is not. */
void ring_watch_free(struct ring_watch *w, bool own)
{
	if (!w)
		return;
	if (w->uring) {
		munmap(w->sqes, w->p.sq_entries * sizeof(*w->sqes));
		munmap(w->rings, w->rings_size);
	} else if (own) {
		ring_store_release(&w->stop, 1);
		ring_store_release(&w->armed, 1);
		syscall(SYS_futex, &w->armed, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
		ring_wake(w->bed);
		pthread_join(w->thread, NULL);
	}
	close(w->fd);
	free(w);
}

/**
 * kring_fd() - a descriptor for poll() and epoll.
 * @r: a reader
 *
 * Return: a descriptor of the handle's; -1 with errno: EINVAL; EMFILE, ENOMEM, EAGAIN.
 */
int kring_fd(struct kring *r)
{
	cleanup_free struct ring_watch *w = NULL;
	int result;

	if (r->end != KRING_READER)
		return api_result(-EINVAL);
	if (r->watch)
		return r->watch->fd;
	w = calloc(1, sizeof(*w));
	if (!w)
		return api_result(-ENOMEM);
	w->bed = &r->ctl->bed;
	result = start_uring(w);
	if (result < 0)
		result = start_thread(w);
	if (result < 0)
		return api_result(result);
	r->watch = take_ptr(w);
	return r->watch->fd;
}
