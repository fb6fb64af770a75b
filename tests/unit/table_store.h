/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * table_store.h - the worker's end of the keeper's channel (io/keep) with a keeper's table on the other end: a thread
 * that answers as the keeper's loop does. It lives as long as the table: a vault ends with the thread that made it.
 */
#ifndef KSHARED_TESTS_TABLE_STORE_H
#define KSHARED_TESTS_TABLE_STORE_H

#include <daemon/table.h>
#include <fcntl.h>
#include <io/keep.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "fake_store.h"

/**
 * struct table_store - both ends.
 * @refused: commits that the table did not take
 * @nr: messages of each sort
 * @agreed: the last KEEP_INIT
 */
struct table_store {
	struct table *table;
	struct keep *keep;
	struct shm *shm;
	int channel[2];
	pthread_t thread;
	unsigned int refused;
	unsigned int nr[KEEP_INIT + 1];
	struct keep_init agreed;
};

static const struct kind table_store_kind = { .name = "box",
					      .summary = "for tests",
					      .dir_mode = 01777 };
static const struct kind *const table_store_kinds[] = { &table_store_kind, NULL };
static const struct cred table_store_cred = { .uid = 1, .gid = 1, .checked = true };

static inline void table_store_lost(void)
{
	abort();
}

static inline void table_store_reply(struct table_store *s, uint32_t op, int result, int fd)
{
	struct keep_answer answer = { .op = op, .result = result };
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = &answer, .iov_len = sizeof(answer) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		m.msg_control = &control;
		m.msg_controllen = sizeof(control);
		control.h = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
					      .cmsg_type = SCM_RIGHTS,
					      .cmsg_len = CMSG_LEN(sizeof(int)) };
		memcpy(CMSG_DATA(&control.h), &fd, sizeof(fd));
	}
	if (sendmsg(s->channel[0], &m, MSG_NOSIGNAL) < 0)
		abort();
}

/* A descriptor of the caller's own, wherever the table has it. */
static inline int table_take(struct table *t, uint64_t id)
{
	bool held;
	int fd = table_borrow(t, id, &held);

	return fd >= 0 && held ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : fd;
}

static inline void table_store_query(struct table_store *s, const unsigned char *bytes)
{
	struct keep_query q;
	bool held;
	int fd;

	memcpy(&q, bytes, sizeof(q));
	switch (q.op) {
	case KEEP_BORROW:
		fd = table_borrow(s->table, q.id, &held);
		table_store_reply(s, q.op, fd < 0 ? fd : 0, fd);
		if (fd >= 0 && !held)
			close(fd);
		break;
	case KEEP_BACKING:
		table_store_reply(s, q.op, q.id == 77 ? 7 : -EPERM, -1);
		break;
	case KEEP_UNMOUNT:
		table_store_reply(s, q.op, q.flags ? 0 : -EBUSY, -1);
		break;
	case KEEP_INIT:
		memcpy(&s->agreed, bytes, sizeof(s->agreed));
		break;
	}
}

static inline void *table_store_serve(void *arg)
{
	struct table_store *s = arg;

	for (;;) {
		_Alignas(8) unsigned char bytes[KEEP_MSG_MAX];
		union {
			struct cmsghdr h;
			char space[CMSG_SPACE(sizeof(int))];
		} control;
		struct iovec iov = { .iov_base = bytes, .iov_len = sizeof(bytes) };
		struct msghdr m = { .msg_iov = &iov,
				    .msg_iovlen = 1,
				    .msg_control = &control,
				    .msg_controllen = sizeof(control) };
		ssize_t n = recvmsg(s->channel[0], &m, MSG_CMSG_CLOEXEC);
		struct cmsghdr *c;
		uint32_t op;
		int fd = -1;

		if (n <= 0)
			return NULL;
		c = CMSG_FIRSTHDR(&m);
		if (c)
			memcpy(&fd, CMSG_DATA(c), sizeof(fd));
		memcpy(&op, bytes, sizeof(op));
		if (op > KEEP_INIT)
			abort();
		s->nr[op]++;
		if (op == KEEP_COMMIT)
			s->refused += table_commit(s->table, bytes, (size_t)n, fd) < 0;
		else
			table_store_query(s, bytes);
	}
}

static inline void table_store_init(struct table_store *s, unsigned int max_fds)
{
	*s = (struct table_store){ 0 };
	s->shm = mmap(NULL, sizeof(struct shm), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (s->shm == MAP_FAILED || table_new(&s->table, max_fds, s->shm->closing) < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s->channel) < 0 ||
	    keep_new(&s->keep, s->channel[1], s->shm, table_store_lost) < 0 ||
	    pthread_create(&s->thread, NULL, table_store_serve, s) != 0)
		abort();
}

/* Every message that was sent has been taken in: the answer comes after all of them. */
static inline void table_store_settle(struct table_store *s)
{
	if (keep_unmount(s->keep, 1) != 0)
		abort();
}

/* A tree from the table's snapshot, as the next worker would have it. */
static inline struct tree *table_store_tree(struct table_store *s)
{
	struct tree_conf conf = { .kinds = table_store_kinds,
				  .dir_mode = UINT32_MAX,
				  .max_fds = 16 };
	struct keep_snapshot head = { .version = KEEP_VERSION };
	int fd = memfd_create("snapshot", MFD_CLOEXEC);
	struct tree *t;
	struct stat st;
	void *bytes;

	/* The end of the old worker, and the beginning of the next. */
	table_store_settle(s);
	keep_free(s->keep);
	if (keep_new(&s->keep, s->channel[1], s->shm, table_store_lost) < 0 ||
	    table_snapshot(s->table, fd, &head) < 0 || fstat(fd, &st) < 0)
		abort();
	bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	conf.store = keep_store(s->keep);
	if (bytes == MAP_FAILED || tree_new(&t, &conf) < 0)
		abort();
	t->close_fd = fake_close_fd;
	if (keep_restore(s->keep, t, bytes, (size_t)st.st_size) < 0)
		abort();
	munmap(bytes, (size_t)st.st_size);
	close(fd);
	return t;
}

static inline void table_store_deinit(struct table_store *s)
{
	shutdown(s->channel[1], SHUT_WR);
	pthread_join(s->thread, NULL);
	keep_free(s->keep);
	close(s->channel[0]);
	close(s->channel[1]);
	table_free(s->table);
	munmap(s->shm, sizeof(struct shm));
}

#endif
