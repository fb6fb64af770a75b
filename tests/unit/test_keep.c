// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_keep.c - the worker's end of the keeper's channel, against a real table on the other end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "table_store.h"

static int setup(void **state)
{
	struct table_store *s = calloc(1, sizeof(*s));

	table_store_init(s, 100);
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct table_store *s = *state;

	table_store_deinit(s);
	assert_int_equal(s->refused, 0);
	free(s);
	return 0;
}

static void put(struct table_store *s, uint64_t id, int fd)
{
	struct store *store = keep_store(s->keep);
	struct commit c = { .changes[0] = { .id = id, .bytes = "bytes", .len = 5 },
			    .nr_changes = 1,
			    .fd = fd,
			    .done_id = { 1, id } };

	store->ops->commit(store, &c);
}

static void test_what_was_committed_can_be_borrowed(void **state)
{
	struct table_store *s = *state;
	struct store *store = keep_store(s->keep);
	int fd = memfd_create("posted", MFD_CLOEXEC), borrowed;
	struct stat a, b;
	unsigned int fds = count_fds();

	put(s, 3, fd);
	borrowed = store->ops->borrow(store, 3);
	assert_true(borrowed >= 0);
	assert_int_equal(fcntl(borrowed, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fstat(fd, &a), 0);
	assert_int_equal(fstat(borrowed, &b), 0);
	assert_int_equal(a.st_ino, b.st_ino);
	close(borrowed);
	put(s, 4, -1);
	assert_int_equal(store->ops->borrow(store, 4), -EBADF);
	assert_int_equal(store->ops->borrow(store, 5), -ENOENT);
	/* The table's copy and nothing else. */
	assert_int_equal(count_fds(), fds + 1);
	close(fd);
}

static void test_passthrough_ids_are_remembered_failures_are_not(void **state)
{
	struct table_store *s = *state;
	struct store *store = keep_store(s->keep);
	struct commit drop = { .changes[0] = { .id = 77 }, .nr_changes = 1, .fd = -1 };

	assert_int_equal(store->ops->backing(store, 77), 7);
	assert_int_equal(store->ops->backing(store, 77), 7);
	assert_int_equal(s->nr[KEEP_BACKING], 1);
	assert_int_equal(store->ops->backing(store, 78), -EPERM);
	assert_int_equal(store->ops->backing(store, 78), -EPERM);
	assert_int_equal(s->nr[KEEP_BACKING], 3);
	store->ops->commit(store, &drop);
	assert_int_equal(store->ops->backing(store, 77), 7);
	assert_int_equal(s->nr[KEEP_BACKING], 4);
}

static void test_the_other_messages(void **state)
{
	struct table_store *s = *state;

	keep_ready(s->keep);
	keep_agreed(s->keep, 45, 1ULL << 40);
	/* The answer comes after all that was said before. */
	assert_int_equal(keep_unmount(s->keep, 0), -EBUSY);
	assert_int_equal(s->nr[KEEP_READY], 1);
	assert_int_equal(s->agreed.minor, 45);
	assert_true(s->agreed.flags == 1ULL << 40);
	assert_int_equal(keep_unmount(s->keep, 1), 0);
	keep_end(s->keep);
	keep_unmount(s->keep, 1);
	assert_int_equal(s->nr[KEEP_END], 1);
}

static unsigned char *snapshot(struct table_store *s, size_t *len)
{
	struct keep_snapshot head = { .version = KEEP_VERSION };
	int fd = memfd_create("snapshot", MFD_CLOEXEC);
	unsigned char *bytes;
	struct stat st;

	table_store_settle(s);
	assert_int_equal(table_snapshot(s->table, fd, &head), 0);
	assert_int_equal(fstat(fd, &st), 0);
	*len = (size_t)st.st_size;
	bytes = calloc(1, *len + 64);
	assert_int_equal(pread(fd, bytes, *len, 0), *len);
	close(fd);
	return bytes;
}

static int restore(struct table_store *s, const unsigned char *bytes, size_t len)
{
	struct tree_conf conf = { .store = keep_store(s->keep),
				  .kinds = table_store_kinds,
				  .dir_mode = UINT32_MAX,
				  .max_fds = 16 };
	struct tree *t;
	int r;

	assert_int_equal(tree_new(&t, &conf), 0);
	t->close_fd = fake_close_fd;
	r = keep_restore(s->keep, t, bytes, len);
	tree_free(t);
	return r;
}

static void test_snapshots_that_are_none(void **state)
{
	struct table_store *s = *state;
	struct tree *t = table_store_tree(s);
	struct request rq = { .cred = &table_store_cred,
			      .id = { 1, 1 },
			      .mode = S_IFREG | 0644,
			      .fd = -1,
			      .out_fd = -1 };
	struct keep_snapshot *head;
	unsigned char *bytes;
	struct entry *e;
	size_t len;

	assert_int_equal(tree_create(tree_lookup(t->root, "box", 3), "a", 1, &rq, &e), 0);
	tree_free(t);
	bytes = snapshot(s, &len);
	head = (struct keep_snapshot *)bytes;
	assert_int_equal(head->nr_items, 3);
	assert_int_equal(head->nr_done, 1);
	assert_int_equal(restore(s, bytes, len), 0);
	for (size_t cut = 0; cut < len; cut++)
		assert_int_equal(restore(s, bytes, cut), -EINVAL);
	assert_int_equal(restore(s, bytes, len + 8), -EINVAL);
	head->version++;
	assert_int_equal(restore(s, bytes, len), -EINVAL);
	head->version--;
	head->nr_items++;
	assert_int_equal(restore(s, bytes, len), -EINVAL);
	head->nr_items = UINT64_MAX;
	assert_int_equal(restore(s, bytes, len), -EINVAL);
	head->nr_items = 3;
	head->nr_done = UINT64_MAX;
	assert_int_equal(restore(s, bytes, len), -EINVAL);
	free(bytes);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_what_was_committed_can_be_borrowed),
		TEST(test_passthrough_ids_are_remembered_failures_are_not),
		TEST(test_the_other_messages),
		TEST(test_snapshots_that_are_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
