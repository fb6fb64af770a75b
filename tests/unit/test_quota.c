// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_quota.c - limits for each user and for all: what is charged, what is refused, that nothing wraps.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <core/tree.h>
#include <errno.h>
#include <wire/keep.h>

#define DAEMON 10

static struct tree new_tree(void)
{
	return (struct tree){
		.uid = DAEMON,
		.limits = {
			.max_entries = 10,
			.max_bytes = 1000,
			.max_entries_uid = 4,
			.max_bytes_uid = 600,
		},
	};
}

static void expect(struct tree *t, uid_t uid, uint64_t entries, uint64_t bytes)
{
	uint64_t have_entries, have_bytes;

	quota_get(t, uid, &have_entries, &have_bytes);
	assert_int_equal(have_entries, entries);
	assert_int_equal(have_bytes, bytes);
}

static void test_a_user_has_a_limit(void **state)
{
	struct tree t = new_tree();

	for (int i = 0; i < 4; i++)
		assert_int_equal(quota_charge(&t, 1, 1, 100), 0);
	assert_int_equal(quota_charge(&t, 1, 1, 0), -EDQUOT);
	assert_int_equal(quota_charge(&t, 1, 0, 201), -EDQUOT);
	assert_int_equal(quota_charge(&t, 1, 0, 200), 0);
	assert_int_equal(quota_charge(&t, 1, 0, 1), -EDQUOT);
	expect(&t, 1, 4, 600);
	assert_int_equal(quota_charge(&t, 2, 1, 100), 0);
	quota_free(&t);
}

static void test_the_folder_has_a_limit(void **state)
{
	struct tree t = new_tree();

	assert_int_equal(quota_charge(&t, 1, 4, 600), 0);
	assert_int_equal(quota_charge(&t, 2, 4, 401), -ENOSPC);
	assert_int_equal(quota_charge(&t, 2, 4, 400), 0);
	assert_int_equal(quota_charge(&t, 3, 3, 0), -ENOSPC);
	assert_int_equal(quota_charge(&t, 3, 2, 0), 0);
	assert_int_equal(t.entries, 10);
	assert_int_equal(t.bytes, 1000);
	expect(&t, 3, 2, 0);
	quota_free(&t);
}

static void test_who_runs_the_daemon_has_the_folders_limit_only(void **state)
{
	struct tree t = new_tree();

	assert_int_equal(quota_charge(&t, DAEMON, 10, 1000), 0);
	assert_int_equal(quota_charge(&t, DAEMON, 1, 0), -ENOSPC);
	assert_int_equal(quota_charge(&t, DAEMON, 0, 1), -ENOSPC);
	quota_free(&t);
}

static void test_no_limit(void **state)
{
	struct tree t = { .uid = DAEMON };

	assert_int_equal(quota_charge(&t, 1, 1u << 30, 1ULL << 60), 0);
	assert_int_equal(quota_charge(&t, 1, 0, 1ULL << 60), 0);
	expect(&t, 1, 1u << 30, 1ULL << 61);
	quota_free(&t);
}

static void test_sums_do_not_wrap(void **state)
{
	struct tree t = new_tree();

	assert_int_equal(quota_charge(&t, 1, 0, 100), 0);
	assert_int_equal(quota_charge(&t, 1, 0, UINT64_MAX), -EDQUOT);
	assert_int_equal(quota_charge(&t, 1, 0, UINT64_MAX - 99), -EDQUOT);
	assert_int_equal(quota_charge(&t, DAEMON, 0, UINT64_MAX), -ENOSPC);
	assert_int_equal(quota_charge(&t, DAEMON, UINT64_MAX, 0), -ENOSPC);
	quota_free(&t);
}

static void test_who_is_beyond_the_limit_can_only_give_back(void **state)
{
	struct tree t = new_tree();

	quota_force(&t, 1, 20, 5000);
	expect(&t, 1, 20, 5000);
	assert_int_equal(quota_charge(&t, 1, 1, 0), -EDQUOT);
	assert_int_equal(quota_charge(&t, 1, 0, 1), -EDQUOT);
	assert_int_equal(quota_charge(&t, 1, 0, 0), 0);
	quota_release(&t, 1, 17, 4600);
	expect(&t, 1, 3, 400);
	assert_int_equal(quota_charge(&t, 1, 1, 200), 0);
	quota_release(&t, 1, 4, 600);
	expect(&t, 1, 0, 0);
	assert_null(t.uses);
	assert_int_equal(t.entries + t.bytes, 0);
	quota_free(&t);
}

static void test_beyond_the_limit_one_harms_oneself(void **state)
{
	struct tree t = new_tree();

	quota_force(&t, 1, 1, 5000);
	expect(&t, 1, 1, 5000);
	assert_int_equal(t.bytes, 600);
	assert_int_equal(quota_charge(&t, 2, 1, 400), 0);
	assert_int_equal(quota_charge(&t, 2, 0, 1), -ENOSPC);
	quota_force(&t, 1, 0, 1);
	assert_int_equal(t.bytes, 1000);
	quota_release(&t, 1, 0, 4401);
	assert_int_equal(t.bytes, 1000);
	quota_release(&t, 1, 0, 1);
	assert_int_equal(t.bytes, 999);
	quota_release(&t, 1, 1, 599);
	quota_release(&t, 2, 1, 400);
	assert_null(t.uses);
	assert_int_equal(t.entries + t.bytes, 0);
	quota_free(&t);
}

static void test_who_runs_the_daemon_counts_in_full(void **state)
{
	struct tree t = new_tree();

	quota_force(&t, DAEMON, 1, 5000);
	assert_int_equal(t.bytes, 5000);
	quota_release(&t, DAEMON, 1, 5000);
	assert_int_equal(t.bytes, 0);
	quota_free(&t);
}

static void test_asking_whether_there_is_room_takes_none(void **state)
{
	struct tree t = new_tree();

	assert_int_equal(quota_check(&t, 1, 4, 600), 0);
	assert_int_equal(quota_check(&t, 1, 0, 601), -EDQUOT);
	assert_int_equal(quota_check(&t, DAEMON, 0, 1001), -ENOSPC);
	assert_null(t.uses);
	assert_int_equal(t.entries + t.bytes, 0);
}

static void test_as_many_huge_entries_as_there_can_be(void **state)
{
	struct tree t = { .uid = DAEMON };
	struct entry e[8] = { 0 };
	uint64_t one, most = 0;

	assert_int_equal(quota_charge(&t, 1, 8, 0), 0);
	for (int i = 0; i < 8; i++) {
		e[i] = (struct entry){ .tree = &t, .uid = 1 };
		entry_recharge(&e[i], i % 2 ? UINT64_MAX : INT64_MAX, true);
		assert_true(t.bytes > most);
		most = t.bytes;
	}
	one = e[0].charged_bytes;
	assert_true(one >= 1ULL << 45 && one <= UINT64_MAX / SHM_OPENS);
	expect(&t, 1, 8, 8 * one);
	for (int i = 0; i < 8; i++)
		assert_int_equal(entry_recharge(&e[i], 0, false), 0);
	expect(&t, 1, 8, 0);
	assert_int_equal(t.bytes, 0);
	quota_free(&t);
}

static void test_an_entry_that_grows_and_shrinks(void **state)
{
	struct tree t = new_tree();
	struct entry e = { .tree = &t, .uid = 1 };

	assert_int_equal(quota_charge(&t, 1, 1, 0), 0);
	assert_int_equal(entry_recharge(&e, 600, false), 0);
	assert_int_equal(entry_recharge(&e, 601, false), -EDQUOT);
	assert_int_equal(e.charged_bytes, 600);
	assert_int_equal(entry_recharge(&e, 100, false), 0);
	expect(&t, 1, 1, 100);
	assert_int_equal(entry_recharge(&e, 5000, true), 0);
	expect(&t, 1, 1, 5000);
	assert_int_equal(entry_recharge(&e, 5001, false), -EDQUOT);
	assert_int_equal(entry_recharge(&e, 0, false), 0);
	expect(&t, 1, 1, 0);
	quota_release(&t, 1, 1, 0);
	quota_free(&t);
}

static void test_open_handles_keep_an_account(void **state)
{
	struct tree t = new_tree();

	assert_int_equal(quota_handle(&t, 1), 0);
	quota_handle_force(&t, 1);
	assert_int_equal(quota_charge(&t, 1, 1, 10), 0);
	quota_release(&t, 1, 1, 10);
	quota_handle_release(&t, 1);
	assert_non_null(t.uses);
	quota_handle_release(&t, 1);
	assert_null(t.uses);
	quota_handle_release(&t, 1);
	assert_null(t.uses);
}

static void test_refusals_leave_no_account(void **state)
{
	struct tree t = new_tree();

	for (uid_t uid = 100; uid < 200; uid++)
		assert_int_equal(quota_charge(&t, uid, 0, 601), -EDQUOT);
	for (uid_t uid = 100; uid < 200; uid++)
		expect(&t, uid, 0, 0);
	assert_int_equal(t.entries + t.bytes, 0);
	quota_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_user_has_a_limit),
		cmocka_unit_test(test_the_folder_has_a_limit),
		cmocka_unit_test(test_who_runs_the_daemon_has_the_folders_limit_only),
		cmocka_unit_test(test_no_limit),
		cmocka_unit_test(test_sums_do_not_wrap),
		cmocka_unit_test(test_who_is_beyond_the_limit_can_only_give_back),
		cmocka_unit_test(test_beyond_the_limit_one_harms_oneself),
		cmocka_unit_test(test_who_runs_the_daemon_counts_in_full),
		cmocka_unit_test(test_asking_whether_there_is_room_takes_none),
		cmocka_unit_test(test_as_many_huge_entries_as_there_can_be),
		cmocka_unit_test(test_an_entry_that_grows_and_shrinks),
		cmocka_unit_test(test_open_handles_keep_an_account),
		cmocka_unit_test(test_refusals_leave_no_account),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
