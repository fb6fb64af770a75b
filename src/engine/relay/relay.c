// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * relay.c - transfers on one io_uring that outlives the process; see relay.h for the theory.
 *
 * A completion is named by user_data: what it is (8 bits), an index (24), a step or generation (32). Transfers
 * are named by their slot, since their names must mean something to the next process; everything else by an
 * index into a table of this process, whose completions the next process throws away.
 */
#include <base/cleanup.h>
#include <engine/relay/relay_internal.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <utlist.h>
#include <wire/keep.h>

#define RING_ENTRIES 256
#define RING_CQ_ENTRIES 8192
#define BATCH 256
#define KERNEL_WORKERS 512 /* more than can hang at a time: the slots bound that */
#define PAUSES 4 /* 1 ms to a second */
#define SHARES 16 /* one owner's descriptors take this part of the slots at most */

int relay_ring_new(struct io_uring_params *params)
{
	static const uint8_t ops[] = { IORING_OP_NOP,         IORING_OP_READ,
				       IORING_OP_WRITE,       IORING_OP_POLL_ADD,
				       IORING_OP_POLL_REMOVE, IORING_OP_ASYNC_CANCEL,
				       IORING_OP_TIMEOUT };
	struct io_uring_restriction limits[sizeof(ops) + 1] = { 0 };
	unsigned int workers[2] = { KERNEL_WORKERS, KERNEL_WORKERS };
	struct io_uring ring;
	int fd, r;

	*params = (struct io_uring_params){
		.flags = IORING_SETUP_CQSIZE | IORING_SETUP_R_DISABLED,
		.cq_entries = RING_CQ_ENTRIES,
	};
	r = io_uring_queue_init_params(RING_ENTRIES, &ring, params);
	if (r < 0)
		return r;
	for (size_t i = 0; i < sizeof(ops); i++)
		limits[i] = (struct io_uring_restriction){ .opcode = IORING_RESTRICTION_SQE_OP,
							   .sqe_op = ops[i] };
	limits[sizeof(ops)] = (struct io_uring_restriction){
		.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED,
		.sqe_flags = IOSQE_ASYNC,
	};
	/* Without it files have four for each CPU, which a few that hang would fill. Before 5.15 they have. */
	io_uring_register_iowq_max_workers(&ring, workers);
	r = io_uring_register_restrictions(&ring, limits, sizeof(ops) + 1);
	if (r == 0)
		r = io_uring_enable_rings(&ring);
	fd = r < 0 ? r : fcntl(ring.ring_fd, F_DUPFD_CLOEXEC, 3);
	if (r == 0 && fd < 0)
		fd = -errno;
	io_uring_queue_exit(&ring);
	return fd;
}

static int use_ring(struct relay *r, int ring_fd, const struct io_uring_params *params)
{
	struct io_uring_params p = *params;
	int fd = fcntl(ring_fd, F_DUPFD_CLOEXEC, 3);
	int e = fd < 0 ? -errno : io_uring_queue_mmap(fd, &p, &r->ring);

	if (e < 0) {
		if (fd >= 0)
			close(fd);
		return e;
	}
	r->epoll_fd = -1;
	/* What an earlier process had queued but not submitted is no longer meant. */
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): io_uring_queue_mmap() has set it */
	r->ring.sq.sqe_head = r->ring.sq.sqe_tail = *r->ring.sq.khead;
	__atomic_store_n(r->ring.sq.ktail, *r->ring.sq.khead, __ATOMIC_RELEASE);
	return 0;
}

static int use_epoll(struct relay *r)
{
	r->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	return r->epoll_fd < 0 ? -errno : 0;
}

int relay_new(struct relay **ret, int ring_fd, const struct io_uring_params *params,
	      struct shm_slot *slots, unsigned int nr_slots)
{
	cleanup_free struct relay *r = calloc(1, sizeof(*r));
	int e;

	if (!r)
		return -ENOMEM;
	r->slot_io = calloc(nr_slots, sizeof(struct relay_io *));
	if (!r->slot_io)
		return -ENOMEM;
	e = ring_fd >= 0 ? use_ring(r, ring_fd, params) : use_epoll(r);
	if (e < 0) {
		free(r->slot_io);
		return e;
	}
	r->first_generation = (uint32_t)getpid() << 12;
	r->slots = slots;
	r->nr_slots = nr_slots;
	*ret = take_ptr(r);
	return 0;
}

void relay_free(struct relay *r)
{
	if (!r)
		return;
	if (r->epoll_fd < 0)
		io_uring_queue_exit(&r->ring);
	else
		close(r->epoll_fd);
	free(r->slot_io);
	free(r->items);
	free(r);
}

int relay_fd(const struct relay *r)
{
	return r->epoll_fd < 0 ? r->ring.ring_fd : r->epoll_fd;
}

static struct io_uring_sqe *get_sqe(struct relay *r)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);

	if (sqe)
		return sqe;
	io_uring_submit(&r->ring);
	return io_uring_get_sqe(&r->ring);
}

/* An entry that was taken cannot be given back: it does nothing. */
static void give_back(struct io_uring_sqe *sqe)
{
	io_uring_prep_nop(sqe);
	sqe->user_data = name_of(IS_NOTHING, 0, 0);
}

int relay_take_item(struct relay *r, void *who, uint32_t *ret)
{
	uint32_t i = r->free_item;

	if (!i) {
		uint32_t n = r->nr_items ? r->nr_items * 2 : 256;
		struct relay_item *items;

		if (n > 1u << 23)
			return -ENOMEM;
		items = reallocarray(r->items, n, sizeof(*items));
		if (!items)
			return -ENOMEM;
		for (uint32_t k = r->nr_items ? r->nr_items : 1; k < n; k++)
			items[k] = (struct relay_item){ .generation = r->first_generation,
							.next_free = k + 1 < n ? k + 1 : 0 };
		r->items = items;
		i = r->nr_items ? r->nr_items : 1;
		r->nr_items = n;
	}
	r->free_item = r->items[i].next_free;
	r->items[i].who = who;
	*ret = i;
	return 0;
}

void relay_drop_item(struct relay *r, uint32_t i)
{
	r->items[i].who = NULL;
	r->items[i].generation++;
	r->items[i].next_free = r->free_item;
	r->free_item = i;
}

static void submit(struct relay *r)
{
	io_uring_submit(&r->ring);
	relay_dispatch(r);
}

static int start_wait(struct relay *r, struct relay_wait *w, int fd, unsigned int events, bool many)
{
	struct io_uring_sqe *sqe;
	int e;

	if (r->epoll_fd >= 0)
		return plain_wait(r, w, fd, events, many);
	sqe = get_sqe(r);
	if (!sqe)
		return -EAGAIN;
	e = relay_take_item(r, w, &w->index);
	if (e < 0) {
		give_back(sqe);
		return e;
	}
	if (many)
		io_uring_prep_poll_multishot(sqe, fd, events);
	else
		io_uring_prep_poll_add(sqe, fd, events);
	sqe->user_data = name_of(IS_WAIT, w->index, r->items[w->index].generation);
	submit(r);
	return 0;
}

int relay_wait(struct relay *r, struct relay_wait *w, int fd, unsigned int events)
{
	return start_wait(r, w, fd, events, false);
}

int relay_watch(struct relay *r, struct relay_wait *w, int fd, unsigned int events)
{
	return start_wait(r, w, fd, events, true);
}

void relay_wait_cancel(struct relay *r, struct relay_wait *w)
{
	struct io_uring_sqe *sqe;

	if (!w->index)
		return;
	if (r->epoll_fd >= 0) {
		plain_wait_cancel(r, w);
		return;
	}
	sqe = get_sqe(r);
	if (sqe) {
		io_uring_prep_poll_remove(
			sqe, name_of(IS_WAIT, w->index, r->items[w->index].generation));
		sqe->user_data = name_of(IS_NOTHING, 0, 0);
		io_uring_submit(&r->ring);
	}
	relay_drop_item(r, w->index);
	w->index = 0;
}

static void try_io(struct relay_io *io);

/* How many slots are for this owner's descriptors? A transfer on one of them may hang in the kernel and keep its slot. */
static unsigned int nr_owned(const struct relay *r, uint32_t owner)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < r->nr_slots; i++)
		n += r->slots[i].unique && r->slots[i].owner == owner;
	return n;
}

static bool has_share(const struct relay *r, uint32_t owner)
{
	unsigned int share = r->nr_slots / SHARES ? r->nr_slots / SHARES : 1;

	return owner && r->nr_busy >= share && nr_owned(r, owner) >= share;
}

/* May this transfer have a slot now, for all that its owner has? Files, which may take their time, have half of them at most. */
static bool room_for(const struct relay *r, const struct relay_io *io)
{
	return r->nr_busy < r->nr_slots && !(io->regular && r->nr_files >= r->nr_slots / 2);
}

static struct relay_io *next_queued(const struct relay *r)
{
	struct relay_io *io;
	uint32_t full = 0;

	/* Somebody may have many thousands in the queue: the slots are counted once for all in a row. */
	DL_FOREACH(r->queue, io) {
		if (!room_for(r, io) || (full && io->owner == full))
			continue;
		if (!has_share(r, io->owner))
			return io;
		full = io->owner;
	}
	return NULL;
}

/* A slot has become free. What that starts may end at once and come here again: the outer loop goes on with it. */
void relay_run_queue(struct relay *r)
{
	struct relay_io *io;

	if (r->running)
		return;
	r->running = true;
	while ((io = next_queued(r))) {
		DL_DELETE(r->queue, io);
		io->queued = false;
		try_io(io);
	}
	r->running = false;
}

static void free_slot(struct relay *r, int slot, bool file)
{
	r->slots[slot].unique = 0;
	r->slot_io[slot] = NULL;
	r->nr_busy--;
	r->nr_files -= file;
	relay_run_queue(r);
}

static void finish(struct relay_io *io, int result)
{
	struct relay *r = io->relay;
	bool file = io->regular;
	void *copy = io->copy;
	int slot = io->slot;

	io->copy = NULL;
	/* The slot is given up only after the answer, and the caller may free io in done(). */
	io->done(io, result, slot >= 0 ? r->slots[slot].data : NULL);
	free(copy);
	if (slot >= 0)
		free_slot(r, slot, file);
}

static uint32_t moved(const struct relay_io *io)
{
	return io->slot >= 0 ? (uint32_t)io->relay->slots[io->slot].progress : 0;
}

static void on_ready(struct relay_wait *w, unsigned int revents)
{
	struct relay_io *io = (struct relay_io *)((char *)w - offsetof(struct relay_io, wait));

	io->woken = true;
	try_io(io);
}

/* Not ready: wait for it, holding a slot only if bytes have moved already. */
static void wait_io(struct relay_io *io)
{
	struct relay *r = io->relay;
	uint32_t n = moved(io);
	int e, slot = -1;

	if (io->nonblock || io->cancelled || (n && r->nr_busy > r->nr_slots / 2)) {
		finish(io, n ? (int)n : io->nonblock ? -EAGAIN : -EINTR);
		return;
	}
	if (!n) {
		if (io->write && !io->copy) {
			io->copy = malloc(io->len);
			if (!io->copy) {
				finish(io, -ENOMEM);
				return;
			}
			/* From the slot: the caller's buffer may be another request's by now. */
			memcpy(io->copy, io->slot >= 0 ? r->slots[io->slot].data : io->data,
			       io->len);
			io->data = io->copy;
		}
		slot = io->slot;
		io->slot = -1;
	}
	io->wait.ready = on_ready;
	e = relay_wait(r, &io->wait, io->fd, io->write ? POLLOUT : POLLIN);
	if (e < 0)
		finish(io, n ? (int)n : e);
	if (slot >= 0)
		free_slot(r, slot, false);
}

static bool take_slot(struct relay_io *io)
{
	struct relay *r = io->relay;
	struct shm_slot *s;
	unsigned int i;

	if (io->slot >= 0)
		return true;
	if (!room_for(r, io) || has_share(r, io->owner))
		return false;
	for (i = 0; r->slot_io[i] || r->slots[i].left;)
		i++;
	s = &r->slots[i];
	r->slot_io[i] = io;
	r->nr_busy++;
	r->nr_files += io->regular;
	io->slot = (int)i;
	/* Steps go on from the last transfer's: a completion of that one, however late, is not taken for ours. */
	s->progress = ((s->progress >> 32) + 1) << 32;
	s->write = io->write;
	s->owner = io->owner;
	if (io->write)
		memcpy(s->data, io->data, io->len);
	__atomic_store_n(&s->unique, io->unique, __ATOMIC_RELEASE);
	return true;
}

static void try_io(struct relay_io *io)
{
	struct relay *r = io->relay;
	struct io_uring_sqe *sqe;
	struct shm_slot *s;
	uint32_t n;

	if (!take_slot(io)) {
		if (io->write && !io->copy) {
			io->copy = malloc(io->len);
			if (!io->copy) {
				finish(io, -ENOMEM);
				return;
			}
			memcpy(io->copy, io->data, io->len);
			io->data = io->copy;
		}
		io->queued = true;
		DL_APPEND(r->queue, io);
		return;
	}
	s = &r->slots[io->slot];
	n = (uint32_t)s->progress;
	if (r->epoll_fd >= 0) {
		relay_transferred(io, plain_transfer(io, s));
		return;
	}
	sqe = get_sqe(r);
	if (!sqe) {
		finish(io, -EAGAIN);
		return;
	}
	if (io->write)
		io_uring_prep_write(sqe, io->fd, s->data + n, (unsigned int)io->len - n,
				    io->offset < 0 ? (__u64)-1 : (__u64)io->offset + n);
	else
		io_uring_prep_read(sqe, io->fd, s->data, (unsigned int)io->len, (__u64)io->offset);
	sqe->user_data = name_of(IS_SLOT, (uint32_t)io->slot, (uint32_t)(s->progress >> 32));
	/*
	 * Always in a kernel worker: who was told not to wait still waits for a pipe's mutex or a socket's lock, and another
	 * process holds those while it copies from a page that never comes. A terminal does not even look at the wish.
	 */
	sqe->flags |= IOSQE_ASYNC;
	if (!io->regular && !io->plain)
		sqe->rw_flags = RWF_NOWAIT;
	s->submitted = s->progress >> 32 << 32 | (r->ring.sq.sqe_tail - 1);
	submit(r);
}

static bool is_ready(const struct relay_io *io)
{
	struct pollfd p = { .fd = io->fd, .events = io->write ? POLLOUT : POLLIN };

	return poll(&p, 1, 0) > 0;
}

/*
 * A descriptor that knows no RWF_NOWAIT (terminals, inotify, writing an eventfd): ask first, then read or write
 * plainly. Some say so; others are never ready by RWF_NOWAIT though poll says they are.
 */
static void try_plain(struct relay_io *io)
{
	io->plain = true;
	if (is_ready(io))
		try_io(io);
	else
		wait_io(io);
}

static void go_on(struct relay_io *io, int res)
{
	uint32_t n = moved(io);

	if (res == -EOPNOTSUPP && !io->plain && !io->regular) {
		try_plain(io);
	} else if (res == -EAGAIN && !io->regular) {
		if (!io->plain && !io->nowait && (io->woken || io->nonblock) && is_ready(io))
			try_plain(io);
		else
			wait_io(io);
	} else if (res == -ECANCELED || res == -EINTR) {
		if (io->cancelled)
			finish(io, n ? (int)n : -EINTR);
		else
			try_io(io);
	} else if (res < 0) {
		finish(io, n ? (int)n : res);
	} else if (res > 0 && io->write && n < io->len && !io->nonblock && !io->cancelled) {
		try_io(io);
	} else {
		finish(io, (int)n);
	}
}

void relay_transferred(struct relay_io *io, int res)
{
	relay_record(&io->relay->slots[io->slot], res);
	go_on(io, res);
}

/* Is this the request of a transfer that an earlier process has started? Then go on with that. */
static bool adopt(struct relay_io *io)
{
	struct relay *r = io->relay;
	struct shm_slot *s;

	io->slot = relay_find_left(r, io->unique);
	if (io->slot < 0)
		return false;
	s = &r->slots[io->slot];
	s->unique = io->unique;
	r->slot_io[io->slot] = io;
	r->nr_files += io->regular;
	if (s->left == LEFT_ENDED) {
		s->left = 0;
		r->nr_left--;
		finish(io, (int)(uint32_t)s->progress);
	}
	return true;
}

/* A transfer's completion: on record before it leaves the ring. */
static void on_slot(struct relay *r, struct io_uring_cqe *cqe, uint32_t index, uint32_t step,
		    int res)
{
	struct shm_slot *s = &r->slots[index];
	struct relay_io *io;
	bool left;

	if (index >= r->nr_slots || !s->unique || s->progress >> 32 != step) {
		io_uring_cqe_seen(&r->ring, cqe);
		return;
	}
	relay_record(s, res);
	io_uring_cqe_seen(&r->ring, cqe);
	io = r->slot_io[index];
	left = s->left;
	if (left && !io) {
		if (relay_left_ended(r, s))
			relay_run_queue(r);
		return;
	}
	r->nr_left -= left;
	s->left = 0;
	if (io)
		go_on(io, res);
}

void relay_start(struct relay *r, struct relay_io *io)
{
	io->relay = r;
	io->slot = -1;
	io->copy = NULL;
	io->plain = io->cancelled = io->queued = io->woken = false;
	io->cancels = 0;
	io->wait.index = 0;
	if (io->len > SHM_SLOT_BYTES)
		io->len = SHM_SLOT_BYTES;
	if (!r->nr_left || !adopt(io))
		try_io(io);
}

static void cancel_slot(struct relay *r, uint32_t slot)
{
	struct io_uring_sqe *sqe = get_sqe(r);
	uint32_t step = (uint32_t)(r->slots[slot].progress >> 32);

	if (!sqe)
		return;
	io_uring_prep_cancel64(sqe, name_of(IS_SLOT, slot, step), 0);
	sqe->user_data = name_of(IS_CANCEL, slot, step);
	submit(r);
}

/*
 * -EALREADY: a kernel worker had the transfer. One that sleeps in a read is woken by the cancel; one that was just about to
 * arm a poll instead does not notice. So it is asked for again, until the transfer has ended; seldom, in case that it hangs.
 */
static void on_cancel(struct relay *r, bool paused, uint32_t slot, uint32_t step, int res)
{
	static const struct __kernel_timespec pauses[PAUSES] = { { .tv_nsec = 1000000 },
								 { .tv_nsec = 10000000 },
								 { .tv_nsec = 100000000 },
								 { .tv_sec = 1 } };
	struct relay_io *io = slot < r->nr_slots ? r->slot_io[slot] : NULL;
	struct io_uring_sqe *sqe;

	if (!io || !io->cancelled || r->slots[slot].progress >> 32 != step)
		return;
	if (paused) {
		cancel_slot(r, slot);
		return;
	}
	sqe = res == -EALREADY ? get_sqe(r) : NULL;
	if (!sqe)
		return;
	io_uring_prep_timeout(sqe, (struct __kernel_timespec *)&pauses[io->cancels], 0, 0);
	sqe->user_data = name_of(IS_PAUSE, slot, step);
	if (io->cancels < PAUSES - 1)
		io->cancels++;
	submit(r);
}

void relay_cancel(struct relay_io *io)
{
	struct relay *r = io->relay;
	uint32_t n = moved(io);

	io->cancelled = true;
	if (io->queued) {
		DL_DELETE(r->queue, io);
		finish(io, -EINTR);
	} else if (io->wait.index) {
		relay_wait_cancel(r, &io->wait);
		finish(io, n ? (int)n : -EINTR);
	} else if (io->slot >= 0 && r->epoll_fd < 0) {
		cancel_slot(r, (uint32_t)io->slot);
	}
}

void relay_dispatch(struct relay *r)
{
	struct io_uring_cqe *cqe;

	/* A callback may start the next transfer, which submits and comes here again: the outer loop goes on with it. */
	if (r->reaping)
		return;
	if (r->epoll_fd >= 0) {
		plain_dispatch(r);
		return;
	}
	r->reaping = true;
	/* Not without end: others wait for the loop, too, and what is left keeps the descriptor readable. */
	for (int i = 0; i < BATCH && io_uring_peek_cqe(&r->ring, &cqe) == 0; i++) {
		uint64_t name = cqe->user_data;
		uint32_t index = (name >> 32) & 0xffffff, step = (uint32_t)name;
		int res = cqe->res;
		bool more = cqe->flags & IORING_CQE_F_MORE;

		if (name >> 56 == IS_SLOT) {
			on_slot(r, cqe, index, step, res);
			continue;
		}
		io_uring_cqe_seen(&r->ring, cqe);
		if (name >> 56 == IS_CANCEL || name >> 56 == IS_PAUSE)
			on_cancel(r, name >> 56 == IS_PAUSE, index, step, res);
		if (name >> 56 == IS_WAIT && index < r->nr_items &&
		    r->items[index].generation == step && r->items[index].who) {
			struct relay_wait *w = r->items[index].who;

			if (!more) {
				relay_drop_item(r, index);
				w->index = 0;
			}
			w->ready(w, res < 0 ? POLLERR : (unsigned int)res);
		}
	}
	r->reaping = false;
}
