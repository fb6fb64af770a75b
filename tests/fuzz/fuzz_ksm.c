// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz_ksm.c - what is said about merging, by who may mean ill, and by who is in error.
 *
 * The first byte says which. 0: the text of an order. 1: a process's mappings and its list of ranges; what is made of them is in order. 2: what a
 * process answers that merges itself. 3: what a merger orders to such a process; memory that is not its own to give stays as it was. No
 * descriptor is left behind.
 */
#include <assert.h>
#include <base/cleanup.h>
#include <daemon/merger_internal.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <kshared/ksm.h>

#include "fuzz_folder.h"
#include "lib/ksm.h"

#undef NDEBUG
#define NR_PAGES 8u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

struct rest {
	const uint8_t *at;
	size_t left;
};

static const uint8_t *rest_take(struct rest *in, size_t len, size_t *ret_len)
{
	const uint8_t *at = in->at;

	*ret_len = len < in->left ? len : in->left;
	in->at += *ret_len;
	in->left -= *ret_len;
	return at;
}

static uint32_t rest_number(struct rest *in, size_t bytes)
{
	uint32_t n = 0;
	size_t len;
	const uint8_t *at = rest_take(in, bytes, &len);

	memcpy(&n, at, len);
	return n;
}

static void on_done(struct request *rq, int result)
{
	abort();
}

/* By nobody whom we could see: a good order is not carried out. */
static void order_text(struct rest *in)
{
	static struct folder f;
	static const struct cred root = { .override = true, .checked = true };
	struct request rq = { .cred = &root, .fd = -1, .out_fd = -1, .done = on_done };
	struct entry *dir, *e = NULL;
	int r;

	if (!f.store.store.shm)
		folder_init(&f);
	folder_open(&f);
	dir = tree_lookup(f.tree->root, "ksm", 3);
	rq.mode = S_IFDIR | 0777;
	assert(tree_create(dir, "p", 1, &rq, &e) == 0);
	e = tree_lookup(e, "merge", 5);
	rq.data = in->at;
	rq.len = in->left;
	r = e->kind->write(e, &rq);
	assert(r == -EINVAL || r == -ESRCH || r == -EOPNOTSUPP);
	folder_close(&f);
}

static int memory(const void *bytes, size_t len, off_t at)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	assert(fd >= 0 && pwrite(fd, bytes, len, at) == (ssize_t)len);
	return fd;
}

static void list(struct rest *in)
{
	size_t len;
	const uint8_t *text = rest_take(in, rest_number(in, 2), &len);
	struct files files = { .pagemap = -1 };
	struct ranges ranges;
	uint64_t end = 0;

	files.maps = memory(text, len, 0);
	/* Where the seed says that it is. */
	files.mem = memory(in->at, in->left, 0x2000);
	if (ranges_read(&files, &ranges) == 0) {
		for (size_t i = 0; i < ranges.nr; i++) {
			assert(ranges.range[i].start >= end &&
			       ranges.range[i].start < ranges.range[i].end);
			assert((ranges.range[i].start | ranges.range[i].end) % MERGE_PAGE == 0);
			end = ranges.range[i].end;
		}
	}
	free(ranges.range);
	files_close(&files);
}

struct liar {
	int sock;
	struct rest in;
};

/* Takes the merger's socket, and answers. */
static void *lie(void *arg)
{
	struct liar *liar = arg;
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	char bytes[64];
	struct iovec iov = { .iov_base = bytes, .iov_len = sizeof(bytes) };
	struct msghdr m = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	int talk;

	assert(recvmsg(liar->sock, &m, MSG_CMSG_CLOEXEC) > 0);
	memcpy(&talk, CMSG_DATA(&control.h), sizeof(talk));
	while (liar->in.left) {
		size_t len;
		const uint8_t *at = rest_take(&liar->in, rest_number(&liar->in, 1), &len);

		if (send(talk, at, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			break;
	}
	close(talk);
	return NULL;
}

static void answers(struct rest *in)
{
	struct merger merger = { .device = -1 };
	struct room room = { 0 };
	struct job job = { .merger = &merger, .room = &room, .talk = -1 };
	struct files files = { -1, -1, -1 };
	struct ranges none = { 0 };
	struct merge_batch batch = { .nr_runs = 1, .run = { { .nr_pages = 4 } } };
	struct merge_answer answer;
	struct liar liar;
	struct self self;
	pthread_t thread;
	int pair[2], r;

	assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	job.reply = pair[0];
	liar = (struct liar){ .sock = pair[1], .in = *in };
	assert(pthread_create(&thread, NULL, lie, &liar) == 0);
	r = self_open(&self, &job, &files, &none);
	for (int i = 0; i < 4 && r == 0; i++) {
		r = self.target.ops->apply(self.target.arg, &batch, &answer);
		assert(r < 0 || answer.nr_pages <= MERGE_BATCH_PAGES);
		if (r == 0)
			r = self.target.ops->populate(self.target.arg, 0, 4096);
	}
	assert(r <= 0 && r >= -4095);
	pthread_join(thread, NULL);
	close(pair[0]);
	close(pair[1]);
	cleanup_close_p(&job.talk);
}

static void send_order(int sock, const void *bytes, size_t len, int fd)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)bytes, .iov_len = len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		m.msg_control = &control;
		m.msg_controllen = sizeof(control);
		control.h = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
					      .cmsg_type = SCM_RIGHTS,
					      .cmsg_len = CMSG_LEN(sizeof(int)) };
		memcpy(CMSG_DATA(&control.h), &fd, sizeof(fd));
	}
	(void)!sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void orders(struct rest *in)
{
	unsigned char *mine = ksm_alloc(NR_PAGES * MERGE_PAGE);
	unsigned char *other = mmap(NULL, NR_PAGES * MERGE_PAGE, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct ksm_answer last;
	int pair[2];

	memset(mine, 0, NR_PAGES * MERGE_PAGE);
	memset(other, 0x5a, NR_PAGES * MERGE_PAGE);
	assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	while (in->left) {
		unsigned int how = rest_number(in, 1);
		size_t len;
		const uint8_t *at = rest_take(in, rest_number(in, 2), &len);
		struct merge_message msg = { 0 };
		int fd = how & 2 ? memory("x", 1, MERGE_PAGE - 1) : -1;

		memcpy(&msg, at, len < sizeof(msg) ? len : sizeof(msg));
		/* Addresses are told relative to the one or the other, so that they are of something. */
		for (uint32_t i = 0; i < MERGE_BATCH_RUNS; i++)
			msg.batch.run[i].addr += (uintptr_t)(how & 1 ? mine : other);
		msg.a += msg.op == MERGE_OP_POPULATE ? (uintptr_t)(how & 1 ? mine : other) : 0;
		send_order(pair[1], &msg, len < sizeof(msg) ? len : sizeof(msg), fd);
		if (fd >= 0)
			close(fd);
	}
	shutdown(pair[1], SHUT_WR);
	own_lock();
	(void)own_serve((int[OWN_FDS]){ pair[0], -1 }, &last);
	own_unlock();
	for (unsigned int i = 0; i < NR_PAGES * MERGE_PAGE; i++)
		assert(other[i] == 0x5a && mine[i] == 0);
	close(pair[1]);
	munmap(other, NR_PAGES * MERGE_PAGE);
	ksm_free(mine);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct rest in = { .at = bytes + 1, .left = len - 1 };
	static unsigned int nr_runs;
	unsigned int nr_fds;

	if (len == 0)
		return 0;
	/* What is made once is made before they are counted. */
	if (nr_runs++ == 0)
		orders(&(struct rest){ 0 });
	nr_fds = count_fds();
	switch (bytes[0] % 4) {
	case 0:
		order_text(&in);
		return 0;
	case 1:
		list(&in);
		break;
	case 2:
		answers(&in);
		break;
	default:
		orders(&in);
	}
	assert(count_fds() == nr_fds);
	return 0;
}
