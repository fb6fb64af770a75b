// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * keep.c - messages to the keeper; wire/keep.h says what they are.
 *
 * A commit is one sendmsg() and no answer: once it is in the keeper's queue it outlives us. Questions are asked and answered
 * before anything else is sent; the keeper answers at once, since it never waits for anybody.
 */
#include <base/cleanup.h>
#include <errno.h>
#include <io/keep.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <uthash.h>

/* The passthrough ids that we know of. */
struct backing {
	uint64_t id;
	int backing;
	UT_hash_handle hh;
};

struct keep {
	struct store store;
	int fd;
	void (*lost)(void);
	struct backing *backings;
};

#define CROWDED_MS 5000

static size_t padded(size_t n)
{
	return (n + 7) & ~(size_t)7;
}

static void send_message(struct keep *k, const void *bytes, size_t len, int fd)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)bytes, .iov_len = len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (fd >= 0) {
		m.msg_control = &control;
		m.msg_controllen = sizeof(control);
		control.h = (struct cmsghdr){
			.cmsg_level = SOL_SOCKET,
			.cmsg_type = SCM_RIGHTS,
			.cmsg_len = CMSG_LEN(sizeof(int)),
		};
		memcpy(CMSG_DATA(&control.h), &fd, sizeof(fd));
	}
	for (unsigned int i = 0;; i++) {
		n = sendmsg(k->fd, &m, MSG_NOSIGNAL);
		if (n >= 0 || (errno != EINTR && (errno != ETOOMANYREFS || i > CROWDED_MS)))
			break;
		/* Others of our user have too many descriptors in flight. */
		if (errno == ETOOMANYREFS)
			usleep(1000);
	}
	if (n != (ssize_t)len)
		k->lost();
}

static int ask(struct keep *k, enum keep_op op, uint64_t id, uint32_t flags, int *ret_fd)
{
	struct keep_query query = { .op = op, .id = id, .flags = flags };
	struct keep_answer answer;
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = &answer, .iov_len = sizeof(answer) };
	struct msghdr m = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *c;
	ssize_t n;

	send_message(k, &query, sizeof(query), -1);
	do
		n = recvmsg(k->fd, &m, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n != sizeof(answer) || answer.op != op)
		k->lost();
	c = CMSG_FIRSTHDR(&m);
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
	    c->cmsg_len == CMSG_LEN(sizeof(int)) && ret_fd)
		memcpy(ret_fd, CMSG_DATA(c), sizeof(int));
	return answer.result;
}

static void forget_backing(struct keep *k, uint64_t id)
{
	struct backing *b;

	HASH_FIND(hh, k->backings, &id, sizeof(id), b);
	if (!b)
		return;
	HASH_DEL(k->backings, b);
	free(b);
}

static void remember_backing(struct keep *k, uint64_t id, int backing)
{
	struct backing *b = calloc(1, sizeof(*b));

	if (!b)
		return;
	b->id = id;
	b->backing = backing;
	HASH_ADD(hh, k->backings, id, sizeof(b->id), b);
}

static void commit(struct store *s, const struct commit *c)
{
	struct keep *k = (struct keep *)s;
	_Alignas(8) unsigned char bytes[KEEP_MSG_MAX];
	struct keep_commit head = {
		.op = KEEP_COMMIT,
		.nr_changes = c->nr_changes,
		.done_id = { c->done_id[0], c->done_id[1] },
		.done_result = c->result,
		.done_entry = c->done_entry,
		.has_fd = c->fd >= 0,
	};
	size_t len = sizeof(head);

	memcpy(bytes, &head, sizeof(head));
	for (unsigned int i = 0; i < c->nr_changes; i++) {
		const struct change *from = &c->changes[i];
		struct keep_change to = {
			.id = from->id,
			.what = from->bytes ? KEEP_PUT : KEEP_DEL,
			.len = (uint32_t)from->len,
			.owner = from->owner,
		};

		if (!from->bytes)
			forget_backing(k, from->id);
		memcpy(bytes + len, &to, sizeof(to));
		len += sizeof(to);
		memset(bytes + len, 0, padded(from->len));
		if (from->bytes)
			memcpy(bytes + len, from->bytes, from->len);
		len += padded(from->len);
	}
	send_message(k, bytes, len, c->fd);
}

static int borrow(struct store *s, uint64_t id)
{
	struct keep *k = (struct keep *)s;
	int fd = -1, r;

	r = ask(k, KEEP_BORROW, id, 0, &fd);
	if (r < 0)
		return r;
	return fd < 0 ? -EMFILE : fd;
}

static int backing(struct store *s, uint64_t id)
{
	struct keep *k = (struct keep *)s;
	struct backing *b;
	int r;

	HASH_FIND(hh, k->backings, &id, sizeof(id), b);
	if (b)
		return b->backing;
	r = ask(k, KEEP_BACKING, id, 0, NULL);
	if (r > 0)
		remember_backing(k, id, r);
	return r;
}

static const struct store_ops ops = {
	.commit = commit,
	.borrow = borrow,
	.backing = backing,
};

int keep_new(struct keep **ret, int fd, struct shm *shm, void (*lost)(void))
{
	struct keep *k = calloc(1, sizeof(*k));

	if (!k)
		return -ENOMEM;
	k->store.ops = &ops;
	k->store.shm = shm;
	k->fd = fd;
	k->lost = lost;
	*ret = k;
	return 0;
}

void keep_free(struct keep *k)
{
	struct backing *b, *tmp;

	if (!k)
		return;
	HASH_ITER(hh, k->backings, b, tmp) {
		HASH_DEL(k->backings, b);
		free(b);
	}
	free(k);
}

struct store *keep_store(struct keep *k)
{
	return &k->store;
}

int keep_restore(struct keep *k, struct tree *t, const void *bytes, size_t len)
{
	const unsigned char *at = bytes, *end = at + len;
	struct keep_snapshot head;
	struct keep_done done;
	struct keep_item item;
	int r;

	if (len < sizeof(head))
		return -EINVAL;
	memcpy(&head, at, sizeof(head));
	if (head.version != KEEP_VERSION)
		return -EINVAL;
	at += sizeof(head);
	for (uint64_t i = 0; i < head.nr_done; i++) {
		if ((size_t)(end - at) < sizeof(done))
			return -EINVAL;
		memcpy(&done, at, sizeof(done));
		at += sizeof(done);
		r = tree_restore_done(t, done.id, done.result, done.entry);
		if (r < 0)
			return r;
	}
	for (uint64_t i = 0; i < head.nr_items; i++) {
		if ((size_t)(end - at) < sizeof(item))
			return -EINVAL;
		memcpy(&item, at, sizeof(item));
		at += sizeof(item);
		if (item.len > KEEP_BLOB_MAX || (size_t)(end - at) < padded(item.len))
			return -EINVAL;
		r = tree_restore(t, item.id, at, item.len, item.has_fd);
		if (r < 0)
			return r;
		if (item.backing)
			remember_backing(k, item.id, item.backing);
		at += padded(item.len);
	}
	return at == end ? tree_restored(t) : -EINVAL;
}

void keep_ready(struct keep *k)
{
	struct keep_query m = { .op = KEEP_READY };

	send_message(k, &m, sizeof(m), -1);
}

void keep_agreed(struct keep *k, uint32_t minor, uint64_t flags)
{
	struct keep_init m = { .op = KEEP_INIT, .minor = minor, .flags = flags };

	send_message(k, &m, sizeof(m), -1);
}

int keep_unmount(struct keep *k, uint32_t flags)
{
	return ask(k, KEEP_UNMOUNT, 0, flags, NULL);
}

void keep_end(struct keep *k)
{
	struct keep_query m = { .op = KEEP_END };

	send_message(k, &m, sizeof(m), -1);
}
