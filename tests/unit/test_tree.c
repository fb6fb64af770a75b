// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_tree.c - names, directories, lifetimes, and that all of it comes back from the store.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/fs.h>
#include <stdio.h>
#include <sys/stat.h>

#include "fake_store.h"

static unsigned int nr_destroyed;

static int box_create(struct entry *e, struct request *rq)
{
	if (rq->flags)
		return -(int)rq->flags;
	memcpy(e->priv, "private part 16", 16);
	return 0;
}

static void box_destroy(struct entry *e)
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

static void find_dirs(struct fixture *f)
{
	f->box = tree_lookup(f->tree->root, "box", 3);
	f->tin = tree_lookup(f->tree->root, "tin", 3);
	assert_non_null(f->box);
	assert_non_null(f->tin);
}

static int setup(void **state)
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

static int teardown(void **state)
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
static void restart(struct fixture *f)
{
	bool mounted = f->tree->mounted;

	tree_free(f->tree);
	f->tree = NULL;
	assert_int_equal(fake_tree(&f->store, &f->tree, &f->conf), 0);
	f->tree->mounted = mounted;
	find_dirs(f);
}

static struct request request(struct fixture *f, const struct cred *cred, uint32_t mode)
{
	return (struct request){
		.cred = cred, .id = { 7, ++f->next_request }, .mode = mode, .fd = -1, .out_fd = -1
	};
}

static int create(struct fixture *f, struct entry *dir, const char *name, uint32_t mode, struct entry **ret)
{
	struct request rq = request(f, &checked, mode);
	struct entry *e = NULL;
	int r = tree_create(dir, name, strlen(name), &rq, &e);

	if (ret)
		*ret = e;
	return r;
}

static struct entry *file(struct fixture *f, struct entry *dir, const char *name)
{
	struct entry *e;

	assert_int_equal(create(f, dir, name, S_IFREG | 0644, &e), 0);
	return e;
}

static struct entry *board(struct fixture *f, struct entry *dir, const char *name)
{
	struct entry *e;

	assert_int_equal(create(f, dir, name, S_IFDIR | 0755, &e), 0);
	return e;
}

static int rm(struct fixture *f, struct entry *dir, const char *name, int want_dir)
{
	struct request rq = request(f, &checked, 0);

	return tree_remove(dir, name, strlen(name), want_dir, &rq);
}

static int mv(struct fixture *f, struct entry *from, const char *name, struct entry *to, const char *new_name,
	      unsigned int flags)
{
	struct request rq = request(f, &checked, 0);

	return tree_rename(from, name, strlen(name), to, new_name, strlen(new_name), flags, &rq);
}

static struct entry *look(struct entry *dir, const char *name)
{
	return tree_lookup(dir, name, strlen(name));
}

static void test_a_new_folder_has_a_directory_for_each_kind(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(f->tree->root->id, 1);
	assert_int_equal(f->tree->root->mode, S_IFDIR | 0755);
	assert_int_equal(f->tree->root->nr_dirs, 2);
	assert_int_equal(f->box->mode, S_IFDIR | 01777);
	assert_int_equal(f->tin->mode, S_IFDIR | 0755);
	assert_int_equal(fake_store_count(&f->store), 3);
}

static void test_create_then_lookup(void **state)
{
	struct fixture *f = *state;
	struct entry *e = file(f, f->box, "a");

	assert_ptr_equal(look(f->box, "a"), e);
	assert_ptr_equal(tree_by_id(f->tree, e->id), e);
	assert_null(look(f->box, "b"));
	assert_null(look(f->tin, "a"));
	assert_int_equal(e->uid, 1000);
	assert_int_equal(e->mode, S_IFREG | 0644);
	assert_memory_equal(e->priv, "private part 16", 16);
	assert_int_equal(f->box->nr_children, 1);
	assert_int_equal(create(f, f->box, "a", S_IFREG | 0600, NULL), -EEXIST);
	assert_int_equal(create(f, f->box, "a", S_IFDIR | 0700, NULL), -EEXIST);
	assert_int_equal(create(f, f->tree->root, "c", S_IFREG | 0600, NULL), -EPERM);
}

static void test_names_that_cannot_be(void **state)
{
	struct fixture *f = *state;
	struct request rq = request(f, &checked, S_IFREG | 0600);
	char longest[ENTRY_NAME_MAX + 2];
	struct entry *e;

	memset(longest, 'n', sizeof(longest));
	assert_int_equal(tree_create(f->box, longest, ENTRY_NAME_MAX + 1, &rq, &e), -ENAMETOOLONG);
	assert_int_equal(tree_create(f->box, longest, ENTRY_NAME_MAX, &rq, &e), 0);
	assert_int_equal(create(f, f->box, "", S_IFREG | 0600, NULL), -EINVAL);
	assert_int_equal(create(f, f->box, ".", S_IFREG | 0600, NULL), -EINVAL);
	assert_int_equal(create(f, f->box, "..", S_IFREG | 0600, NULL), -EINVAL);
	assert_int_equal(create(f, f->box, "a/b", S_IFREG | 0600, NULL), -EINVAL);
	assert_int_equal(create(f, f->box, "...", S_IFREG | 0600, NULL), 0);
	rq = request(f, &checked, S_IFREG | 0600);
	assert_int_equal(tree_create(f->box, "a\0b", 3, &rq, &e), -EINVAL);
	file(f, f->box, "plain");
	assert_int_equal(mv(f, f->box, "plain", f->box, "x/y", 0), -EINVAL);
	assert_int_equal(mv(f, f->box, "plain", f->box, "..", 0), -EINVAL);
}

static void test_a_kind_that_refuses_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	struct request rq = request(f, &checked, S_IFREG | 0600);
	uint64_t entries, bytes, before = f->tree->entries;
	uint32_t slots = f->tree->nr_free_slots;
	struct entry *e;

	rq.flags = ENXIO;
	assert_int_equal(tree_create(f->box, "a", 1, &rq, &e), -ENXIO);
	assert_null(look(f->box, "a"));
	quota_get(f->tree, 1000, &entries, &bytes);
	assert_int_equal(entries, 0);
	assert_int_equal(f->tree->entries, before);
	assert_int_equal(f->tree->nr_free_slots, slots);
	assert_int_equal(fake_store_count(&f->store), 3);
}

static void test_a_new_entry_takes_the_descriptor_of_its_request(void **state)
{
	struct fixture *f = *state;
	struct request rq = request(f, &checked, S_IFREG | 0600);
	struct entry *e;

	rq.fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_int_equal(tree_create(f->box, "a", 1, &rq, &e), 0);
	assert_int_equal(rq.fd, -1);
	assert_true(entry_fd(e) >= 0);
	assert_true(fake_record(&f->store, e->id)->fd >= 0);
	assert_int_equal(f->store.nr_borrows, 0);
	restart(f);
	e = look(f->box, "a");
	assert_true(entry_fd(e) >= 0);
	assert_int_equal(f->store.nr_borrows, 1);
}

static void test_modes_and_groups_of_new_entries(void **state)
{
	struct fixture *f = *state;
	struct entry *dir, *e;

	assert_int_equal(create(f, f->box, "f", S_IFREG | 07777, &e), 0);
	assert_int_equal(e->mode, S_IFREG | 0777);
	dir = board(f, f->box, "d");
	dir->mode |= S_ISGID;
	dir->gid = 4242;
	assert_int_equal(create(f, dir, "f", S_IFREG | 0640, &e), 0);
	assert_int_equal(e->gid, 4242);
	assert_int_equal(create(f, dir, "d", S_IFDIR | 0750, &e), 0);
	assert_int_equal(e->mode, S_IFDIR | S_ISGID | 0750);
	assert_int_equal(dir->nr_dirs, 1);
}

static void test_remove(void **state)
{
	struct fixture *f = *state;
	struct entry *dir = board(f, f->box, "d");
	uint32_t slots;

	file(f, dir, "x");
	file(f, f->box, "a");
	assert_int_equal(rm(f, f->box, "none", 0), -ENOENT);
	assert_int_equal(rm(f, f->box, "d", 0), -EISDIR);
	assert_int_equal(rm(f, f->box, "a", 1), -ENOTDIR);
	assert_int_equal(rm(f, f->box, "d", 1), -ENOTEMPTY);
	assert_int_equal(rm(f, f->box, "d", -1), -ENOTEMPTY);
	assert_int_equal(rm(f, f->tree->root, "box", 1), -EPERM);
	slots = f->tree->nr_free_slots;
	assert_int_equal(rm(f, f->box, "a", 0), 0);
	assert_int_equal(nr_destroyed, 1);
	assert_int_equal(f->tree->nr_free_slots, slots + 1);
	assert_null(look(f->box, "a"));
	assert_int_equal(rm(f, dir, "x", -1), 0);
	assert_int_equal(rm(f, f->box, "d", 1), 0);
	assert_int_equal(f->box->nr_dirs, 0);
	assert_int_equal(fake_store_count(&f->store), 3);
}

static void test_a_removed_entry_lives_until_the_kernel_lets_go(void **state)
{
	struct fixture *f = *state;
	struct entry *e = file(f, f->box, "a");
	uint64_t id = e->id, entries, bytes;

	f->tree->mounted = true;
	assert_int_equal(rm(f, f->box, "a", 0), 0);
	assert_null(look(f->box, "a"));
	assert_ptr_equal(tree_by_id(f->tree, id), e);
	assert_true(e->orphan);
	assert_int_equal(nr_destroyed, 0);
	restart(f);
	e = tree_by_id(f->tree, id);
	assert_non_null(e);
	assert_true(e->orphan);
	assert_ptr_equal(f->tree->orphans, e);
	quota_get(f->tree, 1000, &entries, &bytes);
	assert_int_equal(entries, 1);
	tree_forget(e);
	assert_null(tree_by_id(f->tree, id));
	assert_null(f->tree->orphans);
	assert_int_equal(nr_destroyed, 1);
	assert_null(fake_record(&f->store, id));
	quota_get(f->tree, 1000, &entries, &bytes);
	assert_int_equal(entries, 0);
}

static void test_a_pinned_entry_ends_with_its_last_user(void **state)
{
	struct fixture *f = *state;
	struct request rq = request(f, &checked, S_IFREG | 0600);
	struct entry *e;
	uint64_t id;

	rq.fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_int_equal(tree_create(f->box, "a", 1, &rq, &e), 0);
	id = e->id;
	assert_true(entry_pin(e) >= 0);
	assert_true(entry_pin(e) >= 0);
	assert_int_equal(rm(f, f->box, "a", 0), 0);
	assert_true(e->orphan);
	tree_forget(e);
	assert_non_null(tree_by_id(f->tree, id));
	entry_unpin(e);
	assert_non_null(tree_by_id(f->tree, id));
	entry_unpin(e);
	assert_null(tree_by_id(f->tree, id));
	assert_null(fake_record(&f->store, id));
}

static void test_nothing_can_be_made_in_a_removed_board(void **state)
{
	struct fixture *f = *state;
	struct entry *dir = board(f, f->box, "d");

	f->tree->mounted = true;
	file(f, f->box, "a");
	assert_int_equal(rm(f, f->box, "d", 1), 0);
	assert_true(dir->orphan);
	assert_int_equal(create(f, dir, "x", S_IFREG | 0600, NULL), -ENOENT);
	assert_int_equal(mv(f, f->box, "a", dir, "a", 0), -ENOENT);
	assert_non_null(look(f->box, "a"));
}

static void test_rename(void **state)
{
	struct fixture *f = *state;
	struct entry *d = board(f, f->box, "d"), *a = file(f, f->box, "a"), *e;
	uint64_t pos = a->pos;

	assert_int_equal(mv(f, f->box, "a", d, "b", 0), 0);
	assert_null(look(f->box, "a"));
	assert_ptr_equal(look(d, "b"), a);
	assert_ptr_equal(a->parent, d);
	assert_true(a->pos > pos);
	assert_int_equal(mv(f, f->box, "none", d, "c", 0), -ENOENT);
	assert_int_equal(mv(f, d, "b", d, "b", 0), 0);

	e = file(f, f->box, "c");
	assert_int_equal(mv(f, d, "b", f->box, "c", RENAME_NOREPLACE), -EEXIST);
	assert_int_equal(mv(f, d, "b", f->box, "c", RENAME_NOREPLACE | RENAME_EXCHANGE), -EINVAL);
	assert_int_equal(mv(f, d, "b", f->box, "c", RENAME_WHITEOUT), -EINVAL);
	assert_int_equal(mv(f, d, "b", f->box, "none", RENAME_EXCHANGE), -ENOENT);
	assert_int_equal(mv(f, d, "b", f->box, "c", RENAME_EXCHANGE), 0);
	assert_ptr_equal(look(f->box, "c"), a);
	assert_ptr_equal(look(d, "b"), e);
	assert_int_equal(nr_destroyed, 0);
	assert_int_equal(mv(f, f->box, "c", d, "b", 0), 0);
	assert_int_equal(nr_destroyed, 1);
	assert_ptr_equal(look(d, "b"), a);
	assert_int_equal(d->nr_children, 1);
	restart(f);
	d = look(f->box, "d");
	assert_non_null(look(d, "b"));
	assert_int_equal(f->box->nr_children, 1);
	assert_int_equal(fake_store_count(&f->store), 5);
}

static void test_rename_noreplace_onto_itself_is_refused(void **state)
{
	struct fixture *f = *state;

	file(f, f->box, "a");
	assert_int_equal(mv(f, f->box, "a", f->box, "a", RENAME_NOREPLACE), -EEXIST);
}

static void test_rename_over_boards(void **state)
{
	struct fixture *f = *state;
	struct entry *d = board(f, f->box, "d");

	board(f, f->box, "empty");
	file(f, d, "x");
	file(f, f->box, "a");
	assert_int_equal(mv(f, f->box, "a", f->box, "empty", 0), -EISDIR);
	assert_int_equal(mv(f, f->box, "empty", f->box, "a", 0), -ENOTDIR);
	assert_int_equal(mv(f, f->box, "empty", f->box, "d", 0), -ENOTEMPTY);
	assert_int_equal(mv(f, f->box, "d", f->box, "empty", 0), 0);
	assert_ptr_equal(look(f->box, "empty"), d);
	assert_null(look(f->box, "d"));
	assert_int_equal(f->box->nr_dirs, 1);
	assert_int_equal(mv(f, f->box, "a", f->box, "empty", RENAME_EXCHANGE), 0);
	assert_ptr_equal(look(f->box, "a"), d);
	assert_int_equal(f->box->nr_dirs, 1);
}

static void test_rename_makes_no_cycle_and_leaves_no_kind(void **state)
{
	struct fixture *f = *state;
	struct entry *a = board(f, f->box, "a"), *b = board(f, a, "b"), *c = board(f, b, "c");

	assert_int_equal(mv(f, f->box, "a", a, "x", 0), -EINVAL);
	assert_int_equal(mv(f, f->box, "a", c, "x", 0), -EINVAL);
	file(f, c, "x");
	assert_int_equal(mv(f, c, "x", f->box, "a", RENAME_EXCHANGE), -EINVAL);
	assert_int_equal(mv(f, f->box, "a", c, "x", RENAME_EXCHANGE), -EINVAL);
	assert_int_equal(mv(f, c, "x", f->tin, "x", 0), -EXDEV);
	assert_int_equal(mv(f, f->tree->root, "box", f->tree->root, "bux", 0), -EPERM);
	assert_int_equal(mv(f, c, "x", f->tree->root, "x", 0), -EPERM);
	assert_non_null(look(c, "x"));
}

static void test_each_rename_is_one_commit(void **state)
{
	struct fixture *f = *state;
	unsigned int before;

	file(f, f->box, "a");
	file(f, f->box, "b");
	before = f->store.nr_commits;
	assert_int_equal(mv(f, f->box, "a", f->box, "b", RENAME_EXCHANGE), 0);
	assert_int_equal(f->store.nr_commits, before + 1);
	assert_int_equal(mv(f, f->box, "a", f->box, "b", 0), 0);
	assert_int_equal(f->store.nr_commits, before + 2);
}

static int walk(struct fixture *f, const struct cred *c, const char *path, struct entry **ret)
{
	return tree_walk(f->tree, c, path, strlen(path), ret, NULL, NULL);
}

static void test_walk(void **state)
{
	struct fixture *f = *state;
	struct entry *d = board(f, f->box, "d"), *a = file(f, d, "a"), *e;
	const char *last;
	size_t len;

	assert_int_equal(walk(f, &user, "", &e), 0);
	assert_ptr_equal(e, f->tree->root);
	assert_int_equal(walk(f, &user, "box/d/a", &e), 0);
	assert_ptr_equal(e, a);
	assert_int_equal(walk(f, &user, "box/d/b", &e), -ENOENT);
	assert_int_equal(walk(f, &user, "box/d/a/b", &e), -ENOTDIR);
	assert_int_equal(walk(f, &user, "box//d", &e), -EINVAL);
	assert_int_equal(walk(f, &user, "/box", &e), -EINVAL);
	assert_int_equal(walk(f, &user, "box/", &e), -EINVAL);
	assert_int_equal(walk(f, &user, "box/../tin", &e), -EINVAL);
	assert_int_equal(walk(f, &user, "box/./d", &e), -EINVAL);
	d->mode = S_IFDIR | 0600;
	assert_int_equal(walk(f, &other, "box/d/a", &e), -EACCES);
	assert_int_equal(walk(f, &user, "box/d/a", &e), -EACCES);
	assert_int_equal(walk(f, &daemon_user, "box/d/a", &e), 0);

	assert_int_equal(tree_walk(f->tree, &user, "box/new", 7, &e, &last, &len), 0);
	assert_ptr_equal(e, f->box);
	assert_int_equal(len, 3);
	assert_memory_equal(last, "new", 3);
	assert_int_equal(tree_walk(f->tree, &user, "", 0, &e, &last, &len), -EINVAL);
}

static void test_a_folder_of_one_kind(void **state)
{
	struct fixture *f = *state;
	struct fake_store store;
	struct tree_conf conf = f->conf;
	struct tree *t;
	struct request rq = request(f, &checked, S_IFREG | 0644);
	struct entry *e, *found;

	conf.single = &kind_box;
	fake_store_init(&store);
	assert_int_equal(fake_tree(&store, &t, &conf), 0);
	assert_ptr_equal(t->root->kind, &kind_box);
	assert_int_equal(t->root->mode, S_IFDIR | 01777);
	assert_null(t->root->children);
	assert_int_equal(tree_create(t->root, "a", 1, &rq, &e), 0);
	assert_int_equal(tree_walk(t, &user, "a", 1, &found, NULL, NULL), 0);
	assert_ptr_equal(found, e);
	assert_int_equal(tree_walk(t, &user, "box/a", 5, &found, NULL, NULL), 0);
	assert_ptr_equal(found, e);
	assert_int_equal(tree_walk(t, &user, "box", 3, &found, NULL, NULL), 0);
	assert_ptr_equal(found, t->root);
	tree_free(t);
	assert_int_equal(fake_tree(&store, &t, &conf), 0);
	assert_int_equal(t->root->nr_children, 1);
	tree_free(t);
	fake_store_deinit(&store);
}

static void test_rights_through_the_socket(void **state)
{
	struct fixture *f = *state;
	struct request rq = request(f, &user, S_IFREG | 0644);
	struct entry *e;

	assert_int_equal(tree_create(f->tin, "a", 1, &rq, &e), -EACCES);
	assert_int_equal(tree_create(f->box, "a", 1, &rq, &e), 0);
	rq = request(f, &other, 0);
	assert_int_equal(tree_remove(f->box, "a", 1, 0, &rq), -EPERM);
	assert_int_equal(tree_rename(f->box, "a", 1, f->box, "b", 1, 0, &rq), -EPERM);
	rq = request(f, &other, S_IFREG | 0644);
	assert_int_equal(tree_create(f->box, "o", 1, &rq, &e), 0);
	rq = request(f, &other, 0);
	assert_int_equal(tree_rename(f->box, "o", 1, f->box, "a", 1, 0, &rq), -EPERM);
	assert_int_equal(tree_rename(f->box, "o", 1, f->tin, "o", 1, 0, &rq), -EACCES);
	rq = request(f, &daemon_user, 0);
	assert_int_equal(tree_remove(f->box, "a", 1, 0, &rq), 0);
}

static unsigned int list(struct entry *dir, uint64_t *at, unsigned int n, char seen[][8])
{
	unsigned int i;
	struct entry *e;

	for (i = 0; i < n && (e = tree_next(dir, *at)); i++) {
		*at = e->pos;
		snprintf(seen[i], 8, "%s", e->name);
	}
	return i;
}

static void test_two_listings_at_a_time(void **state)
{
	struct fixture *f = *state;
	uint64_t one = 0, two = 0;
	char a[20][8], b[20][8], name[16];

	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		file(f, f->box, name);
	}
	assert_int_equal(list(f->box, &one, 7, a), 7);
	assert_int_equal(list(f->box, &two, 3, b), 3);
	assert_int_equal(list(f->box, &one, 20, a + 7), 13);
	assert_int_equal(list(f->box, &two, 20, b + 3), 17);
	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		assert_string_equal(a[i], name);
		assert_string_equal(b[i], name);
	}
	assert_null(tree_next(f->box, one));
	assert_null(tree_next(f->box, UINT64_MAX));
}

static void test_a_listing_during_changes_gives_what_stays_once(void **state)
{
	struct fixture *f = *state;
	unsigned int seen[20] = { 0 };
	char name[16];
	uint64_t at = 0;
	struct entry *e;

	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		file(f, f->box, name);
	}
	for (int step = 0; (e = tree_next(f->box, at)); step++) {
		at = e->pos;
		if (e->name[0] == 'n')
			seen[atoi(e->name + 1)]++;
		/* The one just given goes; and one is renamed, which places it at the end. */
		if (step % 3 == 0 && e->name[0] == 'n')
			assert_int_equal(rm(f, f->box, e->name, 0), 0);
		if (step == 5)
			assert_int_equal(mv(f, f->box, "n19", f->box, "m19", 0), 0);
	}
	for (int i = 0; i < 19; i++)
		assert_int_equal(seen[i], 1);
}

static void test_a_resent_request_is_answered_not_repeated(void **state)
{
	struct fixture *f = *state;
	struct request make = request(f, &checked, S_IFREG | 0644);
	struct request move = request(f, &checked, 0);
	struct request drop = request(f, &checked, 0);
	struct entry *e, *again = NULL;
	unsigned int commits;
	uint64_t id;

	assert_int_equal(tree_create(f->box, "a", 1, &make, &e), 0);
	id = e->id;
	restart(f);
	commits = f->store.nr_commits;
	make.resent = move.resent = drop.resent = true;
	assert_int_equal(tree_create(f->box, "a", 1, &make, &again), 0);
	assert_int_equal(again->id, id);
	move.resent = false;
	assert_int_equal(tree_rename(f->box, "a", 1, f->box, "b", 1, 0, &move), 0);
	restart(f);
	move.resent = true;
	assert_int_equal(tree_rename(f->box, "a", 1, f->box, "b", 1, 0, &move), 0);
	drop.resent = false;
	assert_int_equal(tree_remove(f->box, "b", 1, 0, &drop), 0);
	restart(f);
	drop.resent = true;
	assert_int_equal(tree_remove(f->box, "b", 1, 0, &drop), 0);
	assert_int_equal(f->store.nr_commits, commits + 2);
	/* What it had made has been removed since. */
	assert_int_equal(tree_create(f->box, "a", 1, &make, &again), -ENOENT);
}

static void test_a_resent_request_that_was_never_done_is_carried_out(void **state)
{
	struct fixture *f = *state;
	struct request make = request(f, &checked, S_IFREG | 0644);
	struct entry *e;

	make.resent = true;
	assert_int_equal(tree_create(f->box, "a", 1, &make, &e), 0);
	assert_ptr_equal(look(f->box, "a"), e);
}

static void test_the_done_table_forgets_the_oldest(void **state)
{
	struct fixture *f = *state;
	struct request rq = { .cred = &checked };
	uint64_t id[2] = { 3, 0 }, entry;
	int result;

	for (id[1] = 1; id[1] <= KEEP_DONE_MAX + 1; id[1]++)
		done_note(f->tree, id, -(int)(id[1] % 100), id[1]);
	rq.id[0] = 3;
	rq.id[1] = 1;
	assert_false(done_find(f->tree, &rq, &result, &entry));
	rq.id[1] = 2;
	assert_true(done_find(f->tree, &rq, &result, &entry));
	assert_int_equal(result, -2);
	assert_int_equal(entry, 2);
	rq.id[1] = KEEP_DONE_MAX + 1;
	assert_true(done_find(f->tree, &rq, &result, &entry));
	rq.id[0] = 4;
	assert_false(done_find(f->tree, &rq, &result, &entry));
}

static void test_every_field_comes_back(void **state)
{
	struct fixture *f = *state;
	struct request rq = request(f, &checked, S_IFREG | 0751);
	struct entry was, *e;
	char name[ENTRY_NAME_MAX];

	memset(name, 'x', sizeof(name));
	rq.fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_int_equal(tree_create(board(f, f->box, "d"), name, sizeof(name), &rq, &e), 0);
	e->uid = 0xfffffffe;
	e->gid = 0xfffffffd;
	quota_release(f->tree, 1000, 1, 0);
	quota_force(f->tree, e->uid, 1, 0);
	e->btime_ns = 1;
	e->mtime_ns = INT64_MAX;
	e->ctime_ns = INT64_MIN;
	entry_recharge(e, 1ULL << 40, true);
	memcpy(e->priv, "0123456789abcdef", 16);
	entry_save(e, NULL, -1);
	entry_opened(e);
	entry_opened(e);
	was = *e;
	restart(f);
	e = tree_by_id(f->tree, was.id);
	assert_non_null(e);
	assert_ptr_equal(look(look(f->box, "d"), e->name), e);
	assert_int_equal(e->name_len, sizeof(name));
	assert_memory_equal(e->name, name, sizeof(name));
	assert_ptr_equal(e->kind, &kind_box);
	assert_int_equal(e->pos, was.pos);
	assert_int_equal(e->mode, was.mode);
	assert_int_equal(e->uid, was.uid);
	assert_int_equal(e->gid, was.gid);
	assert_true(e->btime_ns == was.btime_ns && e->mtime_ns == was.mtime_ns && e->ctime_ns == was.ctime_ns);
	assert_int_equal(e->slot, was.slot);
	assert_int_equal(e->charged_bytes, was.charged_bytes);
	assert_true(e->has_fd);
	assert_false(e->orphan);
	assert_int_equal(entry_opens(e), 2);
	assert_memory_equal(e->priv, "0123456789abcdef", 16);
	assert_int_equal(f->tree->bytes, 1ULL << 40);
	e->charged_bytes = 0; /* nobody else's to give back */
}

static void test_times_survive(void **state)
{
	struct fixture *f = *state;
	struct attr_change old = { .mask = ATTR_MTIME, .mtime_ns = 5 };
	struct request rq = request(f, &checked, 0);
	int64_t mtime_ns, ctime_ns;
	struct entry *e;

	file(f, f->box, "a");
	assert_int_equal(tree_setattr(f->box, &old, &rq), 0);
	restart(f);
	assert_int_equal(f->box->mtime_ns, 5);
	file(f, f->box, "b");
	mtime_ns = f->box->mtime_ns;
	assert_true(mtime_ns > 5);
	restart(f);
	assert_true(f->box->mtime_ns == mtime_ns);
	assert_int_equal(mv(f, f->box, "a", f->box, "c", 0), 0);
	ctime_ns = look(f->box, "c")->ctime_ns;
	restart(f);
	e = look(f->box, "c");
	assert_true(e->ctime_ns == ctime_ns);
}

static void test_ids_and_positions_are_never_given_twice(void **state)
{
	struct fixture *f = *state;
	struct entry *e = file(f, f->box, "a");
	uint64_t id = e->id, pos = e->pos;

	assert_int_equal(rm(f, f->box, "a", 0), 0);
	restart(f);
	e = file(f, f->box, "b");
	assert_true(e->id > id);
	assert_true(e->pos > pos);
}

static void test_attributes(void **state)
{
	struct fixture *f = *state;
	struct entry *e = file(f, f->box, "a"), *d = board(f, f->box, "d");
	struct attr_change c = { .mask = ATTR_MODE, .mode = S_IFDIR | 07640 };
	struct request rq = request(f, &checked, 0);

	assert_int_equal(tree_setattr(e, &c, &rq), 0);
	assert_int_equal(e->mode, S_IFREG | 0640);
	c.mode = 01770;
	assert_int_equal(tree_setattr(d, &c, &rq), 0);
	assert_int_equal(d->mode, S_IFDIR | 01770);
	c = (struct attr_change){ .mask = ATTR_UID | ATTR_GID, .uid = 5, .gid = 6 };
	assert_int_equal(tree_setattr(e, &c, &rq), 0);
	restart(f);
	e = look(f->box, "a");
	assert_int_equal(e->uid, 5);
	assert_int_equal(e->gid, 6);
	assert_int_equal(e->mode, S_IFREG | 0640);
}

static void test_an_entry_that_changes_hands_takes_its_charge_along(void **state)
{
	struct fixture *f = *state;
	struct entry *e = file(f, f->box, "a");
	struct attr_change c = { .mask = ATTR_UID, .uid = 3000 };
	struct request rq = request(f, &checked, 0);
	uint64_t entries, bytes;

	assert_int_equal(entry_recharge(e, 4096, false), 0);
	assert_int_equal(tree_setattr(e, &c, &rq), 0);
	quota_get(f->tree, 1000, &entries, &bytes);
	assert_int_equal(entries + bytes, 0);
	quota_get(f->tree, 3000, &entries, &bytes);
	assert_int_equal(entries, 1);
	assert_int_equal(bytes, 4096);

	f->tree->limits.max_entries_uid = 1;
	file(f, f->box, "b");
	c.uid = 1000;
	assert_int_equal(tree_setattr(e, &c, &rq), -EDQUOT);
	assert_int_equal(e->uid, 3000);
}

static void test_a_removed_entry_that_changes_hands_takes_its_charge_along(void **state)
{
	struct fixture *f = *state;
	struct entry *e = file(f, f->box, "a");
	struct attr_change c = { .mask = ATTR_UID, .uid = 3000 };
	struct request rq = request(f, &checked, 0);
	uint64_t entries, bytes;

	f->tree->mounted = true;
	assert_int_equal(entry_recharge(e, 4096, false), 0);
	assert_int_equal(rm(f, f->box, "a", 0), 0);
	assert_int_equal(tree_setattr(e, &c, &rq), 0);
	tree_forget(e);
	quota_get(f->tree, 1000, &entries, &bytes);
	assert_int_equal(entries, 0);
	assert_int_equal(bytes, 0);
	quota_get(f->tree, 3000, &entries, &bytes);
	assert_int_equal(entries, 0);
	assert_int_equal(bytes, 0);
}

static void test_descriptors_are_a_cache(void **state)
{
	struct fixture *f = *state;
	struct entry *e[20];
	char name[16];

	for (int i = 0; i < 20; i++) {
		struct request rq = request(f, &checked, S_IFREG | 0600);

		snprintf(name, sizeof(name), "n%d", i);
		rq.fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
		assert_int_equal(tree_create(f->box, name, strlen(name), &rq, &e[i]), 0);
	}
	assert_int_equal(f->tree->nr_fds, 8);
	assert_true(e[0]->fd < 0);
	assert_true(entry_pin(e[0]) >= 0);
	for (int i = 1; i < 20; i++)
		assert_true(entry_fd(e[i]) >= 0);
	assert_true(e[0]->fd >= 0);
	assert_int_equal(f->tree->nr_fds, 8);
	entry_unpin(e[0]);
	/* The newest use counts: e[19] was used last. */
	assert_true(entry_fd(e[13]) >= 0);
	assert_true(entry_fd(e[1]) >= 0);
	assert_true(e[13]->fd >= 0);
	f->store.borrow_error = -EMFILE;
	assert_true(e[2]->fd < 0);
	assert_int_equal(entry_fd(e[2]), -EMFILE);
	f->store.borrow_error = 0;
	assert_int_equal(entry_fd(file(f, f->box, "none")), -EBADF);
}

/* As the keeper would give it back, with one thing wrong. */
struct broken {
	const char *name;
	void (*breaks)(unsigned char *bytes, size_t *len);
};

#define OFFSET_VERSION 0
#define OFFSET_NAME_LEN 2
#define OFFSET_PRIV_LEN 4
#define OFFSET_MODE 8
#define OFFSET_SLOT 20
#define OFFSET_PARENT 24
#define OFFSET_KIND 72
#define OFFSET_NAME 80

static void set16(unsigned char *bytes, size_t at, uint16_t value)
{
	memcpy(bytes + at, &value, sizeof(value));
}

static void set32(unsigned char *bytes, size_t at, uint32_t value)
{
	memcpy(bytes + at, &value, sizeof(value));
}

static void set64(unsigned char *bytes, size_t at, uint64_t value)
{
	memcpy(bytes + at, &value, sizeof(value));
}

static void cut(unsigned char *bytes, size_t *len)
{
	(*len)--;
}

static void cut_to_head(unsigned char *bytes, size_t *len)
{
	*len = OFFSET_NAME - 1;
}

static void empty(unsigned char *bytes, size_t *len)
{
	*len = 0;
}

static void longer(unsigned char *bytes, size_t *len)
{
	bytes[(*len)++] = 0;
}

static void other_version(unsigned char *bytes, size_t *len)
{
	set16(bytes, OFFSET_VERSION, 2);
}

static void name_too_long(unsigned char *bytes, size_t *len)
{
	memset(bytes + OFFSET_NAME, 'x', 256);
	set16(bytes, OFFSET_NAME_LEN, 256);
	*len = OFFSET_NAME + 256 + 16;
}

static void no_name(unsigned char *bytes, size_t *len)
{
	set16(bytes, OFFSET_NAME_LEN, 0);
	*len -= 4;
}

static void name_with_nul(unsigned char *bytes, size_t *len)
{
	bytes[OFFSET_NAME + 1] = 0;
}

static void name_with_slash(unsigned char *bytes, size_t *len)
{
	bytes[OFFSET_NAME + 1] = '/';
}

static void unknown_kind(unsigned char *bytes, size_t *len)
{
	memcpy(bytes + OFFSET_KIND, "urn", 4);
}

static void no_kind(unsigned char *bytes, size_t *len)
{
	memset(bytes + OFFSET_KIND, 0, 8);
	set16(bytes, OFFSET_PRIV_LEN, 0);
	*len -= 16;
}

static void kind_without_private_part(unsigned char *bytes, size_t *len)
{
	set16(bytes, OFFSET_PRIV_LEN, 0);
	*len -= 16;
}

static void kind_of_another_directory(unsigned char *bytes, size_t *len)
{
	memcpy(bytes + OFFSET_KIND, "tin", 4);
	set16(bytes, OFFSET_PRIV_LEN, 0);
	*len -= 16;
}

static void neither_file_nor_directory(unsigned char *bytes, size_t *len)
{
	set32(bytes, OFFSET_MODE, S_IFLNK | 0777);
}

static void slot_beyond_the_end(unsigned char *bytes, size_t *len)
{
	set32(bytes, OFFSET_SLOT, SHM_OPENS);
}

static void parent_that_is_not(unsigned char *bytes, size_t *len)
{
	set64(bytes, OFFSET_PARENT, 4711);
}

static void parent_that_is_itself(unsigned char *bytes, size_t *len)
{
	set32(bytes, OFFSET_MODE, S_IFDIR | 0777);
	set16(bytes, OFFSET_PRIV_LEN, 0);
	*len -= 16;
	set64(bytes, OFFSET_PARENT, 4);
}

static const struct broken broken[] = {
	{ "a byte less", cut },
	{ "the head alone, cut", cut_to_head },
	{ "empty", empty },
	{ "a byte more", longer },
	{ "another version", other_version },
	{ "a name that is too long", name_too_long },
	{ "no name", no_name },
	{ "a name with NUL", name_with_nul },
	{ "a name with a slash", name_with_slash },
	{ "an unknown kind", unknown_kind },
	{ "a file of no kind", no_kind },
	{ "no private part where there must be one", kind_without_private_part },
	{ "a kind that is not its directory's", kind_of_another_directory },
	{ "neither file nor directory", neither_file_nor_directory },
	{ "a slot beyond the end", slot_beyond_the_end },
	{ "a parent that does not exist", parent_that_is_not },
	{ "a parent that is itself", parent_that_is_itself },
};

static void test_broken_records_are_refused(void **state)
{
	struct fixture *f = *state;
	struct entry *e = file(f, f->box, "name");
	struct fake_record *r = fake_record(&f->store, e->id), good = *r;
	unsigned int accepted = 0;
	struct tree *t;
	int r_tree;

	assert_int_equal(e->id, 4);
	for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
		broken[i].breaks(r->bytes, &r->len);
		r_tree = fake_tree(&f->store, &t, &f->conf);
		if (r_tree != -EINVAL) {
			print_message("# taken: %s\n", broken[i].name);
			accepted++;
		}
		if (r_tree == 0)
			tree_free(t);
		memcpy(r->bytes, good.bytes, sizeof(r->bytes));
		r->len = good.len;
	}
	assert_int_equal(fake_tree(&f->store, &t, &f->conf), 0);
	tree_free(t);
	assert_int_equal(accepted, 0);
}

static void test_two_records_that_exclude_each_other_are_refused(void **state)
{
	struct fixture *f = *state;
	struct entry *e = file(f, f->box, "one"), *d = board(f, f->box, "d"), *sub = board(f, d, "d");
	struct fake_record *r = fake_record(&f->store, e->id);
	struct tree *t;

	/* The same number twice. */
	assert_int_equal(tree_restore(f->tree, e->id, r->bytes, r->len, false), -EINVAL);
	/* Each in the other. */
	r = fake_record(&f->store, d->id);
	set64(r->bytes, OFFSET_PARENT, sub->id);
	assert_int_equal(fake_tree(&f->store, &t, &f->conf), -EINVAL);
	set64(r->bytes, OFFSET_PARENT, f->box->id);
	/* One slot twice. */
	r = fake_record(&f->store, e->id);
	set32(r->bytes, OFFSET_SLOT, d->slot);
	assert_int_equal(fake_tree(&f->store, &t, &f->conf), -EINVAL);
	set32(r->bytes, OFFSET_SLOT, e->slot);
	/* One name twice. */
	file(f, f->box, "two");
	memcpy(fake_record(&f->store, e->id)->bytes + OFFSET_NAME, "two", 3);
	assert_int_equal(fake_tree(&f->store, &t, &f->conf), -EINVAL);
}

static unsigned int nr_names_changed, nr_attr_changed;

static void on_names(struct tree *t)
{
	nr_names_changed++;
}

static void on_attr(struct tree *t, const struct entry *e)
{
	nr_attr_changed++;
}

static void test_hooks_tell_of_changes_that_the_kernel_did_not_ask_for(void **state)
{
	struct fixture *f = *state;
	struct request rq = request(f, &user, S_IFREG | 0644);
	struct entry *e;

	f->tree->names_changed = on_names;
	f->tree->attr_changed = on_attr;
	nr_names_changed = nr_attr_changed = 0;
	file(f, f->box, "a");
	assert_int_equal(rm(f, f->box, "a", 0), 0);
	assert_int_equal(nr_names_changed + nr_attr_changed, 0);
	assert_int_equal(tree_create(f->box, "b", 1, &rq, &e), 0);
	assert_int_equal(nr_names_changed, 1);
	assert_int_equal(nr_attr_changed, 1);
	rq = request(f, &user, 0);
	assert_int_equal(tree_remove(f->box, "b", 1, 0, &rq), 0);
	assert_int_equal(nr_names_changed, 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_new_folder_has_a_directory_for_each_kind),
		TEST(test_create_then_lookup),
		TEST(test_names_that_cannot_be),
		TEST(test_a_kind_that_refuses_leaves_nothing),
		TEST(test_a_new_entry_takes_the_descriptor_of_its_request),
		TEST(test_modes_and_groups_of_new_entries),
		TEST(test_remove),
		TEST(test_a_removed_entry_lives_until_the_kernel_lets_go),
		TEST(test_a_pinned_entry_ends_with_its_last_user),
		TEST(test_nothing_can_be_made_in_a_removed_board),
		TEST(test_rename),
		TEST(test_rename_noreplace_onto_itself_is_refused),
		TEST(test_rename_over_boards),
		TEST(test_rename_makes_no_cycle_and_leaves_no_kind),
		TEST(test_each_rename_is_one_commit),
		TEST(test_walk),
		TEST(test_a_folder_of_one_kind),
		TEST(test_rights_through_the_socket),
		TEST(test_two_listings_at_a_time),
		TEST(test_a_listing_during_changes_gives_what_stays_once),
		TEST(test_a_resent_request_is_answered_not_repeated),
		TEST(test_a_resent_request_that_was_never_done_is_carried_out),
		TEST(test_the_done_table_forgets_the_oldest),
		TEST(test_every_field_comes_back),
		TEST(test_times_survive),
		TEST(test_ids_and_positions_are_never_given_twice),
		TEST(test_attributes),
		TEST(test_an_entry_that_changes_hands_takes_its_charge_along),
		TEST(test_a_removed_entry_that_changes_hands_takes_its_charge_along),
		TEST(test_descriptors_are_a_cache),
		TEST(test_broken_records_are_refused),
		TEST(test_two_records_that_exclude_each_other_are_refused),
		TEST(test_hooks_tell_of_changes_that_the_kernel_did_not_ask_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
