// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_writers.c - the list of open handles: nobody has all of it, and the next worker counts what is there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tree_fixture.h"

static struct cred who(uid_t uid)
{
	return (struct cred){ .uid = uid, .gid = uid, .checked = true };
}

static int open_as(struct fixture *f, uid_t uid, uint64_t *word)
{
	struct cred cred = who(uid);
	struct request rq = request(f, &cred, 0);
	int r = writers_open(look(f->box, "a"), &rq);

	if (word)
		*word = rq.word;
	return r;
}

static void open_many(struct fixture *f, uid_t uid, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		assert_int_equal(open_as(f, uid, NULL), 0);
}

static int with_a_file(void **state)
{
	int r = setup(state);

	file(*state, ((struct fixture *)*state)->box, "a");
	return r;
}

static void test_one_user_leaves_room_for_others(void **state)
{
	struct fixture *f = *state;
	uint64_t word;

	open_many(f, 1000, SHM_WRITERS_UID - 1);
	assert_int_equal(open_as(f, 1000, &word), 0);
	assert_int_equal(open_as(f, 1000, NULL), -ENFILE);
	open_many(f, 2000, SHM_WRITERS_UID);
	assert_int_equal(open_as(f, 2000, NULL), -ENFILE);
	writers_close(f->tree, word);
	writers_close(f->tree, word);
	assert_int_equal(open_as(f, 2000, NULL), -ENFILE);
	assert_int_equal(open_as(f, 1000, NULL), 0);
	assert_int_equal(open_as(f, 1000, NULL), -ENFILE);
	assert_int_equal(open_as(f, 3000, NULL), 0);
}

static void test_root_and_who_runs_the_daemon_have_all_that_is_left(void **state)
{
	struct fixture *f = *state;

	f->conf.uid = 500;
	restart(f);
	open_many(f, 500, SHM_WRITERS_UID + 1);
	open_many(f, 0, SHM_WRITERS - SHM_WRITERS_UID - 1);
	assert_int_equal(open_as(f, 0, NULL), -ENFILE);
	assert_int_equal(open_as(f, 1000, NULL), -ENFILE);
}

static void test_the_next_worker_counts_what_is_open(void **state)
{
	struct fixture *f = *state;
	uint64_t word, before;

	open_many(f, 1000, SHM_WRITERS_UID - 2);
	assert_int_equal(open_as(f, 1000, &word), 0);
	assert_int_equal(open_as(f, 1000, &before), 0);
	restart(f);
	/* Before anything was counted, and after. */
	writers_close(f->tree, before);
	assert_int_equal(open_as(f, 1000, NULL), 0);
	assert_int_equal(open_as(f, 1000, NULL), -ENFILE);
	writers_close(f->tree, word);
	assert_int_equal(open_as(f, 1000, NULL), 0);
	assert_int_equal(open_as(f, 1000, NULL), -ENFILE);
	assert_int_equal(open_as(f, 2000, NULL), 0);
}

static void test_an_opening_that_comes_again_is_counted_once(void **state)
{
	struct fixture *f = *state;
	struct cred cred = who(1000);
	struct request rq = request(f, &cred, 0);
	uint64_t word;

	assert_int_equal(writers_open(look(f->box, "a"), &rq), 0);
	word = rq.word;
	open_many(f, 1000, SHM_WRITERS_UID - 1);
	restart(f);
	rq.resent = true;
	rq.word = 0;
	assert_int_equal(writers_open(look(f->box, "a"), &rq), 0);
	assert_int_equal(rq.word, word);
	writers_close(f->tree, word);
	assert_int_equal(open_as(f, 1000, NULL), 0);
	assert_int_equal(open_as(f, 1000, NULL), -ENFILE);
}

/* Killed between the stores of an opening: the place is free, whatever else stands in it. */
static void test_half_an_opening_is_none(void **state)
{
	struct fixture *f = *state;
	struct shm *shm = f->store.store.shm;

	for (unsigned int i = 0; i < SHM_WRITERS; i++)
		shm->writers[i] = (struct shm_writer){ .entry = 3, .uid = 1000 };
	restart(f);
	assert_false(writers_any(look(f->box, "a")));
	open_many(f, 1000, SHM_WRITERS_UID);
	assert_int_equal(open_as(f, 1000, NULL), -ENFILE);
	open_many(f, 2000, SHM_WRITERS_UID);
}

#undef TEST
#define TEST(name) cmocka_unit_test_setup_teardown(name, with_a_file, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_one_user_leaves_room_for_others),
		TEST(test_root_and_who_runs_the_daemon_have_all_that_is_left),
		TEST(test_the_next_worker_counts_what_is_open),
		TEST(test_an_opening_that_comes_again_is_counted_once),
		TEST(test_half_an_opening_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
