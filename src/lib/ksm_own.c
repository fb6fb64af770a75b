// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ksm_own.c - memory that is made for merging, and the merging of it: this process does itself what is to be done in it
 * (engine/merge/self.h), and the merger says what (wire/merge.h).
 *
 * Which memory that is, others who merge find in a mapping of ours (KSM_LIST_NAME). A child of fork() has the memory, too; its list becomes one
 * of its own before fork() returns.
 *
 * Locks, in this order: turn (one conversation at a time), list_lock, the engine's. At fork the last two are held.
 */
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <kshared/ksm.h>

#include "engine/merge/self.h"
#include "lib/conn.h"
#include "lib/ksm.h"

#define LIST_BYTES ((sizeof(struct ksm_list) + 4095) / 4096 * 4096)

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct merge_self *self;
static struct ksm_list *list;

/* ---- What there is ---- */

static struct ksm_list *list_new(void)
{
	int fd = memfd_create(KSM_LIST_NAME, MFD_CLOEXEC | 0x0008U /* MFD_NOEXEC_SEAL */);
	void *at = MAP_FAILED;

	if (fd < 0)
		fd = memfd_create(KSM_LIST_NAME, MFD_CLOEXEC);
	if (fd < 0)
		return NULL;
	if (ftruncate(fd, LIST_BYTES) == 0)
		at = mmap(NULL, LIST_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return at == MAP_FAILED ? NULL : at;
}

static void before_fork(void)
{
	pthread_mutex_lock(&list_lock);
	merge_self_fork_prepare(self);
}

static void after_fork(void)
{
	merge_self_fork_parent(self);
	pthread_mutex_unlock(&list_lock);
}

/* Only what a signal handler may do. Without a list of its own the child has none. */
static void in_child(void)
{
	struct ksm_list *own = list_new();

	if (own && list)
		memcpy(own, list,
		       offsetof(struct ksm_list, range) + list->nr * sizeof(list->range[0]));
	if (list)
		munmap(list, LIST_BYTES);
	list = own;
	merge_self_fork_child(self);
	pthread_mutex_init(&turn, NULL);
	pthread_mutex_init(&list_lock, NULL);
}

/* With list_lock. */
static int begin(void)
{
	if (!list)
		list = list_new();
	if (!list)
		return -ENOMEM;
	list->magic = KSM_MAGIC;
	if (self)
		return 0;
	if (merge_self_late(&self) < 0)
		return -ENOMEM;
	if (pthread_atfork(before_fork, after_fork, in_child) != 0) {
		merge_self_free(self);
		self = NULL;
		return -ENOMEM;
	}
	return 0;
}

static struct ksm_range *find(uint64_t start)
{
	for (uint32_t i = 0; i < list->nr; i++)
		if (list->range[i].start == start && list->range[i].end != start)
			return &list->range[i];
	return NULL;
}

static int list_add(uint64_t start, uint64_t end)
{
	uint32_t i = 0;

	while (i < list->nr && list->range[i].start != list->range[i].end)
		i++;
	if (i == KSM_LIST_MAX)
		return -ENOMEM;
	list->range[i] = (struct ksm_range){ .start = start, .end = end };
	if (i == list->nr)
		__atomic_store_n(&list->nr, i + 1, __ATOMIC_RELEASE);
	return 0;
}

/** ksm_alloc() - see kshared/ksm.h. Any thread. */
void *ksm_alloc(size_t size)
{
	void *p = NULL;
	int r;

	cancel_guard();
	if (size == 0 || size > SIZE_MAX - 4095) {
		errno = EINVAL;
		return NULL;
	}
	size = (size + 4095) & ~(size_t)4095;
	pthread_mutex_lock(&list_lock);
	r = begin();
	if (r == 0) {
		p = merge_self_alloc(self, size);
		r = p ? list_add((uintptr_t)p, (uintptr_t)p + size) : -errno;
		if (p && r < 0)
			merge_self_release(self, p);
	}
	pthread_mutex_unlock(&list_lock);
	if (r < 0) {
		errno = -r;
		return NULL;
	}
	return p;
}

/** ksm_free() - see kshared/ksm.h. Any thread; errno is kept. */
void ksm_free(void *addr)
{
	struct ksm_range *range;
	struct merge_self *mine;
	int saved = errno;

	cancel_guard();
	if (!addr)
		return;
	pthread_mutex_lock(&list_lock);
	mine = self;
	range = list ? find((uintptr_t)addr) : NULL;
	if (range)
		*range = (struct ksm_range){ 0 };
	pthread_mutex_unlock(&list_lock);
	/* It waits for the end of a merge. */
	if (mine)
		merge_self_release(mine, addr);
	errno = saved;
}

/* ---- Being merged ---- */

/** struct talk - one conversation. @base, @size: of the segments that are mapped here */
struct talk {
	int sock;
	struct merge_target target;
	bool open;
	struct {
		int fd;
		void *base;
		size_t size;
	} slot[MERGE_SLOTS];
};

static void drop_slot(struct talk *t, uint32_t slot)
{
	if (t->slot[slot].fd < 0)
		return;
	t->target.ops->segment(t->target.arg, slot, -1, NULL, 0);
	munmap(t->slot[slot].base, t->slot[slot].size);
	close(t->slot[slot].fd);
	t->slot[slot].fd = -1;
}

static int take_segment(struct talk *t, const struct merge_message *msg, int *fd)
{
	void *base;

	if (*fd < 0 || msg->a >= MERGE_SLOTS || msg->b == 0)
		return -EPROTO;
	drop_slot(t, (uint32_t)msg->a);
	base = mmap(NULL, msg->b, PROT_READ, MAP_SHARED, *fd, 0);
	if (base == MAP_FAILED)
		return -errno;
	madvise(base, msg->b, MADV_DONTFORK);
	t->slot[msg->a].fd = *fd;
	t->slot[msg->a].base = base;
	t->slot[msg->a].size = msg->b;
	*fd = -1;
	return t->target.ops->segment(t->target.arg, (uint32_t)msg->a, t->slot[msg->a].fd, base,
				      msg->b);
}

/* The merger is the daemon's, and believed; but a batch that is none would have us write astray. */
static bool batch_is_right(const struct merge_batch *b)
{
	uint64_t end = 0;
	uint32_t nr_pages = 0;

	if (b->nr_runs == 0 || b->nr_runs > MERGE_BATCH_RUNS)
		return false;
	for (uint32_t i = 0; i < b->nr_runs; i++) {
		const struct merge_run *run = &b->run[i];

		if (run->addr < end || run->addr % MERGE_PAGE || run->nr_pages == 0 ||
		    run->nr_pages > MERGE_BATCH_PAGES - nr_pages ||
		    (run->slot >= MERGE_SLOTS && run->slot != MERGE_SLOT_ZERO))
			return false;
		nr_pages += run->nr_pages;
		end = run->addr + (uint64_t)run->nr_pages * MERGE_PAGE;
	}
	return true;
}

static bool is_listed(uint64_t addr, uint64_t len)
{
	bool found = false;

	pthread_mutex_lock(&list_lock);
	for (uint32_t i = 0; list && i < list->nr && !found; i++)
		found = addr >= list->range[i].start && addr < list->range[i].end &&
			len <= list->range[i].end - addr;
	pthread_mutex_unlock(&list_lock);
	return found;
}

static int carry_out(struct talk *t, const struct merge_message *msg, size_t len, int *fd,
		     struct merge_answer *ret)
{
	const struct merge_target_ops *ops = t->target.ops;

	switch (msg->op) {
	case MERGE_OP_SEGMENT:
		return take_segment(t, msg, fd);
	case MERGE_OP_BATCH:
		if (len != sizeof(*msg) || !batch_is_right(&msg->batch))
			return -EPROTO;
		return ops->apply(t->target.arg, &msg->batch, ret);
	case MERGE_OP_POPULATE:
		/* What has been freed meanwhile needs no copies. */
		return is_listed(msg->a, msg->b) ? ops->populate(t->target.arg, msg->a, msg->b) : 0;
	default:
		return -EPROTO;
	}
}

/* Return: bytes; 0 or -errno: the merger has gone. */
static ssize_t receive(int sock, void *ret, size_t size, int *ret_fd)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = ret, .iov_len = size };
	struct msghdr m = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n;

	*ret_fd = -1;
	do
		n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n >= 0 && m.msg_controllen && control.h.cmsg_level == SOL_SOCKET &&
	    control.h.cmsg_type == SCM_RIGHTS)
		memcpy(ret_fd, CMSG_DATA(&control.h), sizeof(int));
	return n;
}

static int send_answer(int sock, const struct merge_answer *answer)
{
	return send(sock, answer, 8 + answer->nr_pages, MSG_NOSIGNAL) < 0 ? -ECONNRESET : 0;
}

static int talk(struct talk *t, struct ksm_answer *ret)
{
	union {
		struct merge_message msg;
		struct ksm_answer last;
	} in;
	struct merge_answer answer;
	int fd, r;
	ssize_t n;

	while ((n = receive(t->sock, &in, sizeof(in), &fd)) > 0) {
		if (n == sizeof(in.last) && in.last.magic == KSM_MAGIC) {
			cleanup_close_p(&fd);
			*ret = in.last;
			return 0;
		}
		answer.nr_pages = 0;
		answer.error = n < (ssize_t)MERGE_HEAD_SIZE
			? -EPROTO
			: carry_out(t, &in.msg, (size_t)n, &fd, &answer);
		cleanup_close_p(&fd);
		r = send_answer(t->sock, &answer);
		if (r < 0)
			return r;
	}
	cleanup_close_p(&fd);
	return -ECONNRESET;
}

void own_lock(void)
{
	pthread_mutex_lock(&turn);
}

void own_unlock(void)
{
	pthread_mutex_unlock(&turn);
}

int own_serve(int fds[OWN_FDS], struct ksm_answer *ret)
{
	struct talk t = { .sock = fds[0] };
	struct merge_answer hello = { 0 };
	struct rlimit memlock;
	bool limited = getrlimit(RLIMIT_MEMLOCK, &memlock) == 0;
	int r;

	for (uint32_t i = 0; i < MERGE_SLOTS; i++)
		t.slot[i].fd = -1;
	if (self) {
		merge_self_device(self, fds[1]);
		hello.error = merge_self_open(self, &t.target);
		t.open = hello.error == 0;
	} else {
		hello.error = -EINVAL;
		cleanup_close_p(&fds[1]);
	}
	r = send_answer(t.sock, &hello);
	if (r == 0)
		r = talk(&t, ret);
	for (uint32_t i = 0; i < MERGE_SLOTS; i++)
		drop_slot(&t, i);
	if (t.open)
		merge_self_close(&t.target);
	/* The merger has raised it, for what is merged. */
	if (limited && memlock.rlim_cur != RLIM_INFINITY)
		setrlimit(RLIMIT_MEMLOCK, &memlock);
	close(t.sock);
	return r;
}
