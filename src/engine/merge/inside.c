// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * inside.c - replacing pages of this process by pages of the store, without losing a byte.
 *
 * A batch is carried out so:
 *
 *    register    faults on missing pages of the span [first run, last run] wait from now on (userfaultfd, MISSING)
 *    move        UFFDIO_MOVE takes the pages out of the span, into the scratch area that nobody else knows
 *    compare     each page in the scratch area with the store's page, all 4096 bytes
 *    replace     equal: mmap(MAP_PRIVATE|MAP_FIXED) of the store over them, locked on fault (mlock2), flags as before
 *                zeros: nothing; a missing anonymous page is one of zeros
 *    put back    different: UFFDIO_MOVE to where they were
 *    let go      unregister, and wake who waits; later the scratch area is emptied
 *
 * Why no write is lost. To write a page one needs a page table entry, or a reference to the page that was had by one.
 * - Entries: UFFDIO_MOVE clears the entry and flushes it from all processors under the page table's lock. After that whoever
 *   touches the address, a thread's store or atomic, the kernel's copy for a system call, a kernel worker's, a guest's
 *   through KVM (told by the MMU notifier), faults, and waits. He goes on when the address shows its final content:
 *   the store's bytes, which are the same as his page's were when it was out of everyone's reach; or his own page.
 * - References: UFFDIO_MOVE refuses (EBUSY) a page that is pinned (FOLL_PIN: io_uring's fixed buffers, O_DIRECT, RDMA,
 *   vfio) or not exclusively this process's. To pin it later one must fault it in.
 *   FOLL_GET references for writing without mmap_lock are left to a few network file systems; they hold the page locked or are short.
 * So the comparison is made of bytes that cannot change: the page's because nobody can reach it, the store's because it is sealed.
 * No write tracking is needed, and it does not matter who writes. What was hashed before is only a hint.
 *
 * Why no mapping is lost. mmap(MAP_FIXED) replaces whatever is there. UFFDIO_MOVE has just proved that it was one private,
 * anonymous mapping, readable and writable, not locked, of the default protection key: it refuses others. That this is
 * still so when mmap() is called is for the caller to see to: by owning the mappings (self.c), or by stopping all
 * threads of the process (engine/remote/freeze.h). For the same reason nobody forks: a child would find holes.
 *
 * Containment. A merged run is a private mapping of a file. MADV_DONTNEED would show the file's bytes again where
 * a program expects zeros, so the run is locked on fault: MADV_DONTNEED and MADV_FREE then fail with EINVAL.
 * Before a batch it has been tried whether so much can be locked; if it cannot after all, the pages come back from the scratch area.
 *
 * mremap() that makes a part of what is merged longer would show the store's next pages, of anybody in the partition, where anonymous memory shows
 * zeros. It takes a call on a part of what was one mapping: the last page of a mapping is not merged (kind/ksm_remote.c), and a call across
 * mappings fails with EFAULT. Locked memory grows only within RLIMIT_MEMLOCK: a process that has reached its limit by what is merged, as
 * most have with a few megabytes, gets EAGAIN. For that the limit is raised in batches only, while nobody else runs.
 * So two things are NOT contained, and up to the program:
 * - making a part of merged memory longer in a process that has CAP_IPC_LOCK, or whose limit has room for it;
 * - MADV_DONTNEED in a forked child shows what was merged, not zeros, since locks are not inherited, unless the child locks it again as self.c does.
 */
#include <engine/merge/inside.h>
#include <engine/merge/inside_call.h>
#include <wire/uffd.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

#define PAGE ((uint64_t)MERGE_PAGE)
#define TRIES 100000

INSIDE static void wipe(void *p, uint64_t len)
{
	volatile unsigned char *at = p;

	while (len--)
		*at++ = 0;
}

INSIDE static bool is_same(const void *a, const void *b)
{
	const uint64_t *p = a, *q = b;

	for (const uint64_t *end = p + PAGE / 8; p < end; p += 8, q += 8)
		if (((p[0] ^ q[0]) | (p[1] ^ q[1]) | (p[2] ^ q[2]) | (p[3] ^ q[3]) | (p[4] ^ q[4]) |
		     (p[5] ^ q[5]) | (p[6] ^ q[6]) | (p[7] ^ q[7])) != 0)
			return false;
	return true;
}

INSIDE static bool is_zero(const void *a)
{
	const uint64_t *p = a;

	for (const uint64_t *end = p + PAGE / 8; p < end; p += 8)
		if ((p[0] | p[1] | p[2] | p[3] | p[4] | p[5] | p[6] | p[7]) != 0)
			return false;
	return true;
}

INSIDE static long watch(struct inside *in, uint64_t addr, uint64_t len)
{
	struct uffdio_register reg;

	reg.range.start = addr;
	reg.range.len = len;
	reg.mode = UFFDIO_REGISTER_MODE_MISSING;
	reg.ioctls = 0;
	return call(SYS_ioctl, in->uffd, UFFDIO_REGISTER, &reg);
}

/* Nobody waits in this range any more, whatever is mapped there by now. */
INSIDE static void unwatch(struct inside *in, uint64_t addr, uint64_t len)
{
	struct uffdio_range range;

	range.start = addr;
	range.len = len;
	call(SYS_ioctl, in->uffd, UFFDIO_UNREGISTER, &range);
	call(SYS_ioctl, in->uffd, UFFDIO_WAKE, &range);
}

/* Move pages. Return: how many, from the first; or -errno if there was none. */
INSIDE static long move(struct inside *in, uint64_t dst, uint64_t src, uint64_t nr_pages)
{
	struct uffd_move arg;
	long r;

	arg.dst = dst;
	arg.src = src;
	arg.len = nr_pages * PAGE;
	arg.mode = 0;
	arg.move = 0;
	r = call(SYS_ioctl, in->uffd, UFFD_IOC_MOVE, &arg);
	if (arg.move > 0)
		return arg.move / (int64_t)PAGE;
	return arg.move < 0 ? arg.move : r < 0 ? r : -EINVAL;
}

/* Take neighbouring pages out of everyone's reach. A page's fate is DONE if it is in the scratch area. */
INSIDE static void take_out(struct inside *in, uint64_t scratch, uint64_t addr, uint32_t nr_pages,
			    uint8_t *fate)
{
	uint32_t i = 0, tries = 0;
	bool singly = false;

	while (i < nr_pages) {
		long r = move(in, scratch + i * PAGE, addr + i * PAGE, singly ? 1 : nr_pages - i);

		if (r > 0) {
			for (long j = 0; j < r; j++)
				fate[i++] = MERGE_DONE;
			tries = 0;
		} else if (r == -EAGAIN && ++tries < 64) {
			continue;
		} else if (r == -EBUSY || r == -EAGAIN) {
			fate[i++] = MERGE_PINNED;
			tries = 0;
		} else if (r == -ENOENT) {
			fate[i++] = MERGE_CHANGED;
		} else if (!singly) {
			/* They may lie in several mappings. */
			singly = true;
		} else {
			fate[i++] = r == -ENOMEM ? MERGE_LIMIT : MERGE_MAPPING;
		}
	}
}

/* Pages go back to where they were. It must not fail; if the page itself cannot be moved, its content is. */
INSIDE static void put_back(struct inside *in, uint64_t addr, uint64_t scratch, uint64_t nr_pages)
{
	uint32_t tries = 0;

	while (nr_pages && tries < 2 * TRIES) {
		long r = move(in, addr, scratch, nr_pages);

		if (r < 0 && ++tries > TRIES) {
			struct uffdio_copy copy;

			copy.dst = addr;
			copy.src = scratch;
			copy.len = PAGE;
			copy.mode = 0;
			copy.copy = 0;
			r = call(SYS_ioctl, in->uffd, UFFDIO_COPY, &copy) == 0 ? 1 : -EAGAIN;
		}
		if (r > 0) {
			addr += (uint64_t)r * PAGE;
			scratch += (uint64_t)r * PAGE;
			nr_pages -= (uint64_t)r;
		}
	}
}

INSIDE static void keep_flags(uint64_t addr, uint64_t len, uint32_t flags)
{
	if (flags & MERGE_KEEP_DONTFORK)
		call(SYS_madvise, addr, len, MADV_DONTFORK);
	if (flags & MERGE_KEEP_DONTDUMP)
		call(SYS_madvise, addr, len, MADV_DONTDUMP);
	if (flags & MERGE_KEEP_HUGEPAGE)
		call(SYS_madvise, addr, len, MADV_HUGEPAGE);
	if (flags & MERGE_KEEP_NOHUGEPAGE)
		call(SYS_madvise, addr, len, MADV_NOHUGEPAGE);
}

/* Map the store over pages that are known to be equal. */
INSIDE static bool replace(struct inside *in, const struct merge_run *run, uint32_t first,
			   uint32_t nr_pages, uint32_t flags)
{
	uint64_t addr = run->addr + first * PAGE, len = nr_pages * PAGE;
	long r = call(SYS_mmap, addr, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
		      in->view[run->slot].fd, run->offset + first * PAGE);

	if ((uint64_t)r != addr)
		return false;
	if (flags & 0xff)
		keep_flags(addr, len, flags);
	return true;
}

INSIDE static bool is_equal(struct inside *in, const struct merge_run *run, uint64_t scratch,
			    uint32_t i)
{
	const void *page = (const void *)(uintptr_t)(scratch + i * PAGE);

	if (run->slot == MERGE_SLOT_ZERO)
		return is_zero(page);
	return is_same(page, in->view[run->slot].base + run->offset + i * PAGE);
}

INSIDE static void settle_run(struct inside *in, const struct merge_run *run, uint64_t scratch,
			      uint32_t flags, uint8_t *fate)
{
	for (uint32_t i = 0; i < run->nr_pages; i++)
		if (fate[i] == MERGE_DONE && !is_equal(in, run, scratch, i)) {
			put_back(in, run->addr + i * PAGE, scratch + i * PAGE, 1);
			fate[i] = MERGE_CHANGED;
		}
	if (run->slot == MERGE_SLOT_ZERO)
		return;
	for (uint32_t i = 0, end; i < run->nr_pages; i = end) {
		end = i + 1;
		if (fate[i] != MERGE_DONE)
			continue;
		while (end < run->nr_pages && fate[end] == MERGE_DONE)
			end++;
		if (replace(in, run, i, end - i, flags))
			continue;
		put_back(in, run->addr + i * PAGE, scratch + i * PAGE, end - i);
		for (uint32_t j = i; j < end; j++)
			fate[j] = MERGE_LIMIT;
	}
}

/* Is everything known that the batch names? What is not is answered as if it were not mergeable. */
INSIDE static bool is_known(struct inside *in, const struct merge_batch *batch,
			    struct merge_answer *ret)
{
	uint32_t nr_pages = 0;
	uint64_t end = 0;

	ret->nr_pages = 0;
	if (batch->nr_runs == 0 || batch->nr_runs > MERGE_BATCH_RUNS)
		return false;
	for (uint32_t k = 0; k < batch->nr_runs; k++) {
		const struct merge_run *run = &batch->run[k];

		if (run->nr_pages == 0 || run->nr_pages > MERGE_BATCH_PAGES - nr_pages ||
		    run->addr < end || run->addr % PAGE)
			return false;
		if (run->slot != MERGE_SLOT_ZERO &&
		    (run->slot >= MERGE_SLOTS || in->view[run->slot].fd < 0 ||
		     run->offset + run->nr_pages * PAGE > in->view[run->slot].size))
			return false;
		nr_pages += run->nr_pages;
		end = run->addr + run->nr_pages * PAGE;
	}
	ret->nr_pages = nr_pages;
	return true;
}

/* What has been replaced cannot be locked: the pages come back. */
INSIDE static void undo(struct inside *in, uint64_t addr, uint64_t scratch, uint64_t len,
			uint32_t flags, uint8_t *fate)
{
	long r = call(SYS_mmap, addr, len, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	if ((uint64_t)r != addr || watch(in, addr, len) < 0)
		return;
	keep_flags(addr, len, flags);
	put_back(in, addr, scratch, len / PAGE);
	for (uint64_t i = 0; i < len / PAGE; i++)
		fate[i] = MERGE_LIMIT;
}

/* Lock what was replaced: stretches of neighbouring pages by one call. */
INSIDE static void lock_runs(struct inside *in, const struct merge_batch *batch, uint8_t *fate)
{
	uint64_t start = 0, end = 0;
	uint32_t first = 0;

	for (uint32_t k = 0, at = 0; k <= batch->nr_runs; k++) {
		const struct merge_run *run = &batch->run[k];
		uint32_t nr_pages = k < batch->nr_runs ? run->nr_pages : 1;

		for (uint32_t i = 0; i < nr_pages; i++, at++) {
			bool last = k == batch->nr_runs;
			uint64_t addr = last ? 0 : run->addr + i * PAGE;

			if (!last && (fate[at] != MERGE_DONE || run->slot == MERGE_SLOT_ZERO))
				continue;
			if (addr != end || last) {
				if (end && call(SYS_mlock2, start, end - start, MLOCK_ONFAULT) < 0)
					undo(in, start, in->scratch + first * PAGE, end - start,
					     batch->flags, fate + first);
				start = addr;
				first = at;
			}
			end = addr + PAGE;
		}
	}
}

/* May as much be locked as a batch can have? Found out while nobody waits for it. */
INSIDE static void try_lock(struct inside *in)
{
	const uint64_t len = MERGE_BATCH_PAGES * PAGE;

	in->may_lock = call(SYS_mlock2, in->reserve, len, MLOCK_ONFAULT) >= 0;
	if (in->may_lock)
		call(SYS_munlock, in->reserve, len);
	in->lock_tried = 1;
}

INSIDE static void all_are(struct merge_answer *ret, uint8_t fate)
{
	for (uint32_t i = 0; i < ret->nr_pages; i++)
		ret->page[i] = fate;
}

/* The protection is off: this is how bytes are lost. */
INSIDE static void apply_unchecked(struct inside *in, const struct merge_batch *batch,
				   struct merge_answer *ret)
{
	all_are(ret, MERGE_DONE);
	for (uint32_t k = 0; k < batch->nr_runs; k++) {
		const struct merge_run *run = &batch->run[k];

		if (run->slot == MERGE_SLOT_ZERO)
			call(SYS_madvise, run->addr, run->nr_pages * PAGE, MADV_DONTNEED);
		else
			replace(in, run, 0, run->nr_pages, batch->flags);
	}
}

INSIDE void inside_apply(struct inside *in, const struct merge_batch *batch,
			 struct merge_answer *ret)
{
	const struct merge_run *last = &batch->run[batch->nr_runs - 1];
	uint64_t start = batch->run[0].addr, len, used;
	long r;

	if (!is_known(in, batch, ret))
		return;
	used = ret->nr_pages * PAGE;
	len = last->addr + last->nr_pages * PAGE - start;
	if (batch->flags & MERGE_NO_CHECK) {
		apply_unchecked(in, batch, ret);
		return;
	}
	if (!in->lock_tried)
		try_lock(in);
	if (!(batch->flags & MERGE_NO_LOCK) && !in->may_lock) {
		all_are(ret, MERGE_LIMIT);
		return;
	}
	r = watch(in, start, len);
	if (r < 0) {
		unwatch(in, start, len);
		all_are(ret, r == -ENOMEM ? MERGE_LIMIT : MERGE_MAPPING);
		return;
	}
	for (uint32_t k = 0, at = 0, nr; k < batch->nr_runs; at += nr) {
		uint64_t first = batch->run[k].addr;

		nr = 0;
		do {
			nr += batch->run[k++].nr_pages;
		} while (k < batch->nr_runs && batch->run[k].addr == first + nr * PAGE);
		take_out(in, in->scratch + at * PAGE, first, nr, ret->page + at);
	}
	for (uint32_t k = 0, at = 0; k < batch->nr_runs; at += batch->run[k++].nr_pages)
		settle_run(in, &batch->run[k], in->scratch + at * PAGE, batch->flags,
			   ret->page + at);
	if (!(batch->flags & MERGE_NO_LOCK))
		lock_runs(in, batch, ret->page);
	unwatch(in, start, len);
	in->used = used;
}

INSIDE void inside_tidy(struct inside *in)
{
	if (in->used)
		call(SYS_madvise, in->scratch, in->used, MADV_DONTNEED);
	in->used = 0;
	if (!in->limited)
		try_lock(in);
}

INSIDE int inside_populate(uint64_t addr, uint64_t len)
{
	long r;

	do {
		r = call(SYS_madvise, addr, len, MADV_POPULATE_WRITE);
	} while (r == -EINTR || r == -EAGAIN);
	return (int)r;
}

INSIDE static long area(uint64_t len, int prot)
{
	long at = call(SYS_mmap, 0, len, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at > 0)
		call(SYS_madvise, at, len, MADV_DONTFORK);
	return at;
}

INSIDE int inside_init(struct inside *in, int device)
{
	struct uffdio_api api;
	long r;

	wipe(in, sizeof(*in));
	in->uffd = in->engine = -1;
	for (uint32_t i = 0; i < MERGE_SLOTS; i++)
		in->view[i].fd = -1;
	r = device >= 0 ? call(SYS_ioctl, device, UFFD_IOC_NEW, O_CLOEXEC)
			: call(SYS_userfaultfd, O_CLOEXEC);
	if (r < 0)
		return (int)r;
	in->uffd = (int)r;
	api.api = UFFD_API;
	api.features = UFFD_MOVE_FEATURE;
	api.ioctls = 0;
	r = call(SYS_ioctl, in->uffd, UFFDIO_API, &api);
	if (r < 0) {
		r = r == -EINVAL ? -EOPNOTSUPP : r;
	} else {
		r = area(MERGE_BATCH_PAGES * PAGE, PROT_READ | PROT_WRITE);
		in->scratch = r > 0 ? (uint64_t)r : 0;
	}
	if (r > 0) {
		/* Else the kernel could put a huge page there, into which nothing can be moved. */
		call(SYS_madvise, in->scratch, MERGE_BATCH_PAGES * PAGE, MADV_NOHUGEPAGE);
		r = watch(in, in->scratch, MERGE_BATCH_PAGES * PAGE);
		if (r == 0)
			r = area(MERGE_BATCH_PAGES * PAGE, PROT_NONE);
		in->reserve = r > 0 ? (uint64_t)r : 0;
	}
	if (r < 0)
		inside_deinit(in);
	return r < 0 ? (int)r : 0;
}

INSIDE void inside_deinit(struct inside *in)
{
	if (in->reserve)
		call(SYS_munmap, in->reserve, MERGE_BATCH_PAGES * PAGE);
	if (in->scratch)
		call(SYS_munmap, in->scratch, MERGE_BATCH_PAGES * PAGE);
	if (in->uffd >= 0)
		call(SYS_close, in->uffd);
	in->reserve = in->scratch = 0;
	in->uffd = -1;
}

/* ---- The agent: a thread in somebody else's process. All signals are blocked; no thread-local data. ---- */

INSIDE static long take_segment(struct inside *in, const struct merge_message *msg, int fd)
{
	struct inside_view *view = &in->view[msg->a];
	long r;

	if (fd < 0 || msg->a >= MERGE_SLOTS)
		return -EINVAL;
	if (view->fd >= 0) {
		call(SYS_munmap, view->base, view->size);
		call(SYS_close, view->fd);
		view->fd = -1;
	}
	r = call(SYS_mmap, 0, msg->b, PROT_READ, MAP_SHARED, fd, 0);
	if (r < 0 && r > -4096)
		return r;
	call(SYS_madvise, r, msg->b, MADV_DONTFORK);
	view->base = (const unsigned char *)r;
	view->size = msg->b;
	view->fd = fd;
	return 0;
}

/*
 * Receive a message and the descriptors that are with it. While none comes, watch whether the engine lives: its end of the socket may
 * have been inherited by somebody. Return: bytes; 0: the engine has gone; -errno.
 */
INSIDE static long take_message(struct inside *in, int sock, struct merge_message *msg, int *ret_fd)
{
	union {
		struct cmsghdr head;
		unsigned char room[CMSG_SPACE(2 * sizeof(int))];
	} control;
	struct pollfd ready[2];
	struct iovec iov;
	struct msghdr hdr;
	long r;

	iov.iov_base = msg;
	iov.iov_len = sizeof(*msg);
	wipe(&hdr, sizeof(hdr));
	hdr.msg_iov = &iov;
	hdr.msg_iovlen = 1;
	hdr.msg_control = &control;
	hdr.msg_controllen = sizeof(control);
	ret_fd[0] = ret_fd[1] = -1;
	ready[0].fd = sock;
	ready[1].fd = in->engine;
	ready[0].events = ready[1].events = POLLIN;
	do {
		r = call(SYS_poll, ready, 2, in->engine < 0 ? MERGE_HELLO_MS : -1);
	} while (r == -EINTR);
	if (r <= 0 || !ready[0].revents)
		return 0;
	do {
		r = call(SYS_recvmsg, sock, &hdr, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	} while (r == -EINTR);
	if (r > 0 && hdr.msg_controllen >= CMSG_LEN(sizeof(int)) &&
	    control.head.cmsg_type == SCM_RIGHTS) {
		const int *fd = (const int *)(const void *)CMSG_DATA(&control.head);

		ret_fd[0] = fd[0];
		if (control.head.cmsg_len >= CMSG_LEN(2 * sizeof(int)))
			ret_fd[1] = fd[1];
	}
	return r;
}

/* What the limit on locked memory is, while it is raised. */
INSIDE static void know_limit(struct inside *in, const struct merge_message *msg)
{
	in->memlock[0] = msg->a;
	in->memlock[1] = msg->b;
	in->limited = msg->limited;
}

INSIDE static void set_limit_back(struct inside *in)
{
	if (in->limited)
		call(SYS_setrlimit, RLIMIT_MEMLOCK, in->memlock);
}

/* The first message: who the engine is, and what the limit is. */
INSIDE static long begin(struct inside *in, const struct merge_message *msg, const int *fd)
{
	int engine = fd[0];
	long r = inside_init(in, fd[1]);

	if (fd[1] >= 0)
		call(SYS_close, fd[1]);
	in->engine = engine;
	know_limit(in, msg);
	return r;
}

INSIDE static long cpu_ns(void)
{
	struct timespec t;

	t.tv_sec = t.tv_nsec = 0;
	call(SYS_clock_gettime, CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000 + t.tv_nsec;
}

INSIDE static long carry_out_batch(struct inside *in, const struct merge_message *msg,
				   struct merge_answer *ret)
{
	long began = cpu_ns(), took;

	know_limit(in, msg);
	if (in->limited)
		in->lock_tried = in->may_lock = 1;
	inside_apply(in, &msg->batch, ret);
	set_limit_back(in);
	took = cpu_ns() - began;
	if (!ret->nr_pages)
		return -EINVAL;
	return took < 1 ? 1 : took < INT32_MAX ? took : INT32_MAX;
}

INSIDE static long carry_out(struct inside *in, struct merge_message *msg, const int *fd,
			     struct merge_answer *ret)
{
	long r;

	switch (msg->op) {
	case MERGE_OP_HELLO:
		return begin(in, msg, fd);
	case MERGE_OP_SEGMENT:
		r = take_segment(in, msg, fd[0]);
		if (r < 0 && fd[0] >= 0)
			call(SYS_close, fd[0]);
		return r;
	case MERGE_OP_BATCH:
		return carry_out_batch(in, msg, ret);
	case MERGE_OP_POPULATE:
		return inside_populate(msg->a, msg->b);
	default:
		return -EINVAL;
	}
}

INSIDE static void let_go(struct merge_params *params)
{
	__atomic_store_n(&params->busy, 0, __ATOMIC_RELEASE);
	call(SYS_futex, &params->busy, FUTEX_WAKE, 0x7fffffff);
}

/*
 * The engine is at the other end of the socket; when that is closed, by its death or otherwise, the agent takes down what it
 * made and ends. A batch that has been received is carried out to its end first: the threads wait for it, stopped
 * by the engine or, if that has died, for params->busy (engine/remote/stub.S). Return: it was told to end.
 */
INSIDE static bool serve(struct merge_params *params, struct inside *in, struct merge_message *msg,
			 struct merge_answer *answer)
{
	bool told = false;
	int fd[2];

	while (take_message(in, params->sock[0], msg, fd) > 0) {
		if (params->sock[1] >= 0) {
			call(SYS_close, params->sock[1]);
			params->sock[1] = -1;
		}
		told = msg->op == MERGE_OP_END;
		if (told)
			break;
		answer->nr_pages = 0;
		answer->error = (int32_t)carry_out(in, msg, fd, answer);
		if (msg->op == MERGE_OP_BATCH)
			let_go(params);
		call(SYS_sendto, params->sock[0], answer, 8 + answer->nr_pages, MSG_NOSIGNAL);
		inside_tidy(in);
	}
	for (uint32_t i = 0; i < MERGE_SLOTS; i++)
		if (in->view[i].fd >= 0)
			call(SYS_munmap, in->view[i].base, in->view[i].size);
	inside_deinit(in);
	/* The engine may have died between raising it and asking for something. */
	if (!told)
		set_limit_back(in);
	return told;
}

INSIDE static void merge_inside_agent(struct merge_params *params)
{
	struct inside *in = (struct inside *)(params + 1);
	struct merge_message *msg = (struct merge_message *)(in + 1);
	struct merge_answer *answer = (struct merge_answer *)(msg + 1);
	uint64_t area = params->area, len = params->area_len;
	long r;

	/* A table of descriptors of our own, without the process's. */
	r = call(SYS_close_range, 0, ~0u, 2 /* CLOSE_RANGE_UNSHARE */);
	if (r == 0)
		r = call(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, params->sock);
	in->uffd = in->engine = -1;
	for (uint32_t i = 0; i < MERGE_SLOTS; i++)
		in->view[i].fd = -1;
	params->error = (int32_t)r;
	__atomic_store_n(&params->state, r < 0 ? MERGE_STATE_FAILED : MERGE_STATE_READY,
			 __ATOMIC_RELEASE);
	if (r == 0 && serve(params, in, msg, answer))
		((void (*)(uint64_t, uint64_t))(uintptr_t)params->bye)(area, len);
	/* The engine has died. Threads that it had stopped may be running from this memory (stub.S): it stays. */
	let_go(params);
	call(SYS_exit, 0);
}

const void *merge_inside_code(size_t *ret_len, size_t *ret_entry)
{
	extern const unsigned char __start_inside[], __stop_inside[];

	*ret_len = (size_t)(__stop_inside - __start_inside);
	*ret_entry =
		(size_t)((const unsigned char *)(uintptr_t)merge_inside_agent - __start_inside);
	return __start_inside;
}
