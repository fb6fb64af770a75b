/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tree_fixture.h - a folder of two kinds made up for tests, on a store in memory.
 */
#ifndef KSHARED_TESTS_TREE_FIXTURE_H
#define KSHARED_TESTS_TREE_FIXTURE_H

#include <linux/fs.h>
#include <stdio.h>
#include <sys/stat.h>

#include "fake_store.h"

static unsigned int nr_destroyed;

static inline int box_create(struct entry *e, struct request *rq)
{
	if (rq->flags)
		return -(int)rq->flags;
	memcpy(e->priv, "private part 16", 16);
	return 0;
}

static inline void box_destroy(struct entry *e)
{
	nr_destroyed++;
}

static const struct kind kind_box = {
	.name = "box",
	.summary = "for tests",
	.entry_size = 16,
	.dir_mode = 01777,
	.create = box_create,
	.destroy = box_destroy,
};

static const struct kind kind_tin = { .name = "tin", .summary = "for tests", .dir_mode = 0755 };

static const struct kind *const test_kinds[] = { &kind_box, &kind_tin, NULL };

static const struct cred checked = { .uid = 1000, .gid = 1000, .checked = true };
static const struct cred user = { .uid = 1000, .gid = 1000 };
static const struct cred other = { .uid = 2000, .gid = 2000 };
static const struct cred daemon_user = { .uid = 0, .gid = 0, .override = true };

struct fixture {
	struct fake_store store;
	struct tree_conf conf;
	struct tree *tree;
	struct entry *box;
	struct entry *tin;
	uint64_t next_request;
	unsigned int fds;
};

static inline void find_dirs(struct fixture *f)
{
	f->box = tree_lookup(f->tree->root, "box", 3);
	f->tin = tree_lookup(f->tree->root, "tin", 3);
	assert_non_null(f->box);
	assert_non_null(f->tin);
}

static inline int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->fds = count_fds();
	fake_store_init(&f->store);
	f->conf = (struct tree_conf){ .kinds = test_kinds, .dir_mode = UINT32_MAX, .max_fds = 8 };
	assert_int_equal(fake_tree(&f->store, &f->tree, &f->conf), 0);
	find_dirs(f);
	nr_destroyed = 0;
	*state = f;
	return 0;
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;

	if (f->tree)
		tree_free(f->tree);
	fake_store_deinit(&f->store);
	assert_int_equal(count_fds(), f->fds);
	free(f);
	return 0;
}

/* The worker dies; another begins. */
static inline void restart(struct fixture *f)
{
	bool mounted = f->tree->mounted;

	tree_free(f->tree);
	f->tree = NULL;
	assert_int_equal(fake_tree(&f->store, &f->tree, &f->conf), 0);
	f->tree->mounted = mounted;
	find_dirs(f);
}

static inline struct request request(struct fixture *f, const struct cred *cred, uint32_t mode)
{
	return (struct request){
		.cred = cred, .id = { 7, ++f->next_request }, .mode = mode, .fd = -1, .out_fd = -1
	};
}

static inline int create(struct fixture *f, struct entry *dir, const char *name, uint32_t mode,
			 struct entry **ret)
{
	struct request rq = request(f, &checked, mode);
	struct entry *e = NULL;
	int r = tree_create(dir, name, strlen(name), &rq, &e);

	if (ret)
		*ret = e;
	return r;
}

static inline struct entry *file(struct fixture *f, struct entry *dir, const char *name)
{
	struct entry *e;

	assert_int_equal(create(f, dir, name, S_IFREG | 0644, &e), 0);
	return e;
}

static inline struct entry *board(struct fixture *f, struct entry *dir, const char *name)
{
	struct entry *e;

	assert_int_equal(create(f, dir, name, S_IFDIR | 0755, &e), 0);
	return e;
}

static inline int rm(struct fixture *f, struct entry *dir, const char *name, int want_dir)
{
	struct request rq = request(f, &checked, 0);

	return tree_remove(dir, name, strlen(name), want_dir, &rq);
}

static inline int mv(struct fixture *f, struct entry *from, const char *name, struct entry *to,
		     const char *new_name, unsigned int flags)
{
	struct request rq = request(f, &checked, 0);

	return tree_rename(from, name, strlen(name), to, new_name, strlen(new_name), flags, &rq);
}

static inline struct entry *look(struct entry *dir, const char *name)
{
	return tree_lookup(dir, name, strlen(name));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
