// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_restore.c - what a new worker finds: every field, answers to requests that come again; and no broken record.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tree_fixture.h"

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
	assert_true(e->btime_ns == was.btime_ns && e->mtime_ns == was.mtime_ns &&
		    e->ctime_ns == was.ctime_ns);
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
	struct entry *e = file(f, f->box, "one"), *d = board(f, f->box, "d"),
		     *sub = board(f, d, "d");
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_resent_request_is_answered_not_repeated),
		TEST(test_a_resent_request_that_was_never_done_is_carried_out),
		TEST(test_the_done_table_forgets_the_oldest),
		TEST(test_every_field_comes_back),
		TEST(test_times_survive),
		TEST(test_ids_and_positions_are_never_given_twice),
		TEST(test_broken_records_are_refused),
		TEST(test_two_records_that_exclude_each_other_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
