// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_tree.c - names, directories, lifetimes, owners.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tree_fixture.h"

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

static void test_nothing_is_made_in_a_file(void **state)
{
	struct fixture *f = *state;
	struct entry *e = file(f, f->box, "a");

	assert_int_equal(create(f, e, "b", S_IFREG | 0600, NULL), -ENOTDIR);
	assert_int_equal(create(f, e, "b", S_IFDIR | 0700, NULL), -ENOTDIR);
	restart(f);
	assert_non_null(tree_lookup(f->box, "a", 1));
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

static void test_what_is_pinned_leaves_some_descriptors(void **state)
{
	struct fixture *f = *state;
	struct entry *e[8];
	char name[16];

	for (int i = 0; i < 8; i++) {
		struct request rq = request(f, &checked, S_IFREG | 0600);

		snprintf(name, sizeof(name), "n%d", i);
		rq.fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
		assert_int_equal(tree_create(f->box, name, strlen(name), &rq, &e[i]), 0);
	}
	for (int i = 0; i < 6; i++)
		assert_true(entry_pin(e[i]) >= 0);
	assert_int_equal(entry_pin(e[6]), -ENFILE);
	assert_true(entry_fd(e[6]) >= 0);
	/* One more user of a pinned one takes nothing from anybody. */
	assert_true(entry_pin(e[5]) >= 0);
	entry_unpin(e[5]);
	assert_int_equal(entry_pin(e[6]), -ENFILE);
	entry_unpin(e[5]);
	assert_true(entry_pin(e[6]) >= 0);
	for (int i = 0; i < 7; i++)
		if (i != 5)
			entry_unpin(e[i]);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_new_folder_has_a_directory_for_each_kind),
		TEST(test_create_then_lookup),
		TEST(test_nothing_is_made_in_a_file),
		TEST(test_names_that_cannot_be),
		TEST(test_a_kind_that_refuses_leaves_nothing),
		TEST(test_a_new_entry_takes_the_descriptor_of_its_request),
		TEST(test_modes_and_groups_of_new_entries),
		TEST(test_remove),
		TEST(test_a_removed_entry_lives_until_the_kernel_lets_go),
		TEST(test_a_pinned_entry_ends_with_its_last_user),
		TEST(test_what_is_pinned_leaves_some_descriptors),
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
		TEST(test_attributes),
		TEST(test_an_entry_that_changes_hands_takes_its_charge_along),
		TEST(test_a_removed_entry_that_changes_hands_takes_its_charge_along),
		TEST(test_descriptors_are_a_cache),
		TEST(test_hooks_tell_of_changes_that_the_kernel_did_not_ask_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
