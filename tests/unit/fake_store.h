/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fake_store.h - a store in memory, for tests of what stands on one: it keeps records, descriptors and finished
 * requests as the keeper does, and can fill a new tree from them as a new worker would.
 */
#ifndef KSHARED_TESTS_FAKE_STORE_H
#define KSHARED_TESTS_FAKE_STORE_H

#include <core/tree.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <wire/keep.h>

struct fake_record {
	uint64_t id;
	size_t len;
	int fd;
	UT_hash_handle hh;
	_Alignas(8) unsigned char bytes[KEEP_BLOB_MAX];
};

/**
 * struct fake_store - the store, and what was asked of it.
 * @done, @nr_done: finished requests, in order
 * @nr_commits, @nr_borrows: calls so far
 * @backing_result: the answer to every question for a passthrough id
 * @borrow_error: if not 0, what every borrowing fails with
 */
struct fake_store {
	struct store store;
	struct fake_record *records;
	struct keep_done done[64];
	unsigned int nr_done;
	unsigned int nr_commits;
	unsigned int nr_borrows;
	int backing_result;
	int borrow_error;
};

static inline struct fake_record *fake_record(struct fake_store *s, uint64_t id)
{
	struct fake_record *r;

	HASH_FIND(hh, s->records, &id, sizeof(id), r);
	return r;
}

static inline unsigned int fake_store_count(const struct fake_store *s)
{
	return HASH_COUNT(s->records);
}

static inline void fake_change(struct fake_store *s, const struct change *c, int fd)
{
	struct fake_record *r = fake_record(s, c->id);

	if (!c->bytes) {
		if (!r)
			return;
		HASH_DEL(s->records, r);
		if (r->fd >= 0)
			close(r->fd);
		free(r);
		return;
	}
	if (c->len > KEEP_BLOB_MAX)
		abort();
	if (!r) {
		r = calloc(1, sizeof(*r));
		if (!r)
			abort();
		r->id = c->id;
		r->fd = -1;
		HASH_ADD(hh, s->records, id, sizeof(r->id), r);
	}
	memcpy(r->bytes, c->bytes, c->len);
	r->len = c->len;
	if (fd >= 0) {
		if (r->fd >= 0)
			close(r->fd);
		r->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	}
}

static inline void fake_commit(struct store *store, const struct commit *c)
{
	struct fake_store *s = (struct fake_store *)store;

	s->nr_commits++;
	for (unsigned int i = 0; i < c->nr_changes; i++)
		fake_change(s, &c->changes[i], i == 0 ? c->fd : -1);
	if (c->done_id[0] || c->done_id[1])
		s->done[s->nr_done++ % 64] = (struct keep_done){
			.id = { c->done_id[0], c->done_id[1] },
			.entry = c->done_entry,
			.result = c->result,
		};
}

static inline int fake_borrow(struct store *store, uint64_t id)
{
	struct fake_store *s = (struct fake_store *)store;
	struct fake_record *r = fake_record(s, id);
	int fd;

	s->nr_borrows++;
	if (s->borrow_error)
		return s->borrow_error;
	if (!r)
		return -ENOENT;
	if (r->fd < 0)
		return -EBADF;
	fd = fcntl(r->fd, F_DUPFD_CLOEXEC, 3);
	return fd < 0 ? -errno : fd;
}

static inline int fake_backing(struct store *store, uint64_t id)
{
	return ((struct fake_store *)store)->backing_result;
}

static inline void fake_store_init(struct fake_store *s)
{
	static const struct store_ops ops = {
		.commit = fake_commit,
		.borrow = fake_borrow,
		.backing = fake_backing,
	};
	void *at = mmap(NULL, sizeof(struct shm), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		abort();
	*s = (struct fake_store){
		.store = { .ops = &ops, .shm = at },
		.backing_result = -EOPNOTSUPP,
	};
}

static inline void fake_store_deinit(struct fake_store *s)
{
	struct fake_record *r, *tmp;

	HASH_ITER(hh, s->records, r, tmp) {
		HASH_DEL(s->records, r);
		if (r->fd >= 0)
			close(r->fd);
		free(r);
	}
	munmap(s->store.shm, sizeof(struct shm));
}

/* Everything that is kept into a new tree, as a new worker would have it. Return: 0; -errno. */
static inline int fake_store_restore(struct fake_store *s, struct tree *t)
{
	unsigned int first = s->nr_done > 64 ? s->nr_done - 64 : 0;
	struct fake_record *r, *tmp;
	int e;

	for (unsigned int i = first; i < s->nr_done; i++) {
		const struct keep_done *d = &s->done[i % 64];

		e = tree_restore_done(t, d->id, d->result, d->entry);
		if (e < 0)
			return e;
	}
	HASH_ITER(hh, s->records, r, tmp) {
		e = tree_restore(t, r->id, r->bytes, r->len, r->fd >= 0);
		if (e < 0)
			return e;
	}
	return tree_restored(t);
}

static inline void fake_close_fd(struct tree *t, uid_t uid, int fd)
{
	close(fd);
}

/* A tree on the store, restored from it. @conf: the rest of what it shall be */
static inline int fake_tree(struct fake_store *s, struct tree **ret, const struct tree_conf *conf)
{
	struct tree_conf c = *conf;
	int r;

	c.store = &s->store;
	r = tree_new(ret, &c);
	if (r < 0)
		return r;
	(*ret)->close_fd = fake_close_fd;
	r = fake_store_restore(s, *ret);
	if (r < 0)
		tree_free(*ret);
	return r;
}

/* How many descriptors this process has open. */
static inline unsigned int count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	if (!dir)
		abort();
	while (readdir(dir))
		n++;
	closedir(dir);
	return n - 3; /* ".", ".." and the directory's own */
}

#endif
