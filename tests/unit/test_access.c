// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_access.c - owner, group, other: the first class that matches decides. A table.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <core/tree.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#define OWNER 100
#define GROUP 200

static const gid_t many[] = { 7, 8, GROUP, 9 };

static const struct cred owner = { .uid = OWNER, .gid = 1 };
static const struct cred owner_in_group = { .uid = OWNER, .gid = GROUP };
static const struct cred member = { .uid = 1, .gid = GROUP };
static const struct cred late_member = { .uid = 1, .gid = 1, .groups = many, .nr_groups = 4 };
static const struct cred near_member = { .uid = 1, .gid = 1, .groups = many, .nr_groups = 2 };
static const struct cred stranger = { .uid = 1, .gid = 1 };
static const struct cred root = { .uid = 0, .gid = 0, .override = true };
static const struct cred plain_root = { .uid = 0, .gid = 0 };

static const struct {
	uint32_t mode;
	const struct cred *who;
	unsigned int granted;
} table[] = {
	{ 0000, &owner, 0 },          { 0700, &owner, 7 },          { 0077, &owner, 0 },
	{ 0400, &owner, 4 },          { 0200, &owner, 2 },          { 0100, &owner, 1 },
	{ 0077, &owner_in_group, 0 }, { 0740, &owner_in_group, 7 }, { 0740, &member, 4 },
	{ 0707, &member, 0 },         { 0060, &member, 6 },         { 0740, &late_member, 4 },
	{ 0704, &late_member, 0 },    { 0704, &near_member, 4 },    { 0754, &stranger, 4 },
	{ 0770, &stranger, 0 },       { 0007, &stranger, 7 },       { 0000, &root, 7 },
	{ 0770, &plain_root, 0 },     { 0001, &plain_root, 1 },     { 01777, &stranger, 7 },
	{ 07000, &stranger, 0 },
};

static void test_what_a_mode_grants(void **state)
{
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct entry e = { .mode = S_IFREG | table[i].mode, .uid = OWNER, .gid = GROUP };

		if (access_granted(&e, table[i].who) != table[i].granted)
			print_message("# row %zu\n", i);
		assert_int_equal(access_granted(&e, table[i].who), table[i].granted);
		for (unsigned int want = 0; want < 8; want++)
			assert_int_equal(access_check(&e, table[i].who, want),
					 (table[i].granted & want) == want ? 0 : -EACCES);
	}
}

static void test_what_the_kernel_has_checked_is_not_checked_again(void **state)
{
	struct entry dir = { .mode = S_IFDIR, .uid = OWNER, .gid = GROUP };
	struct entry e = { .mode = S_IFREG, .uid = OWNER, .gid = GROUP, .parent = &dir };
	struct cred c = { .uid = 1, .gid = 1, .checked = true };

	assert_int_equal(access_check(&e, &c, 7), 0);
	assert_int_equal(access_unlink(&e, &c), 0);
	/* What its mode gives is still what its mode gives. */
	assert_int_equal(access_granted(&e, &c), 0);
	/* Except whose entry it is: the kernel looked before it had the directory's lock. */
	dir.mode |= S_ISVTX;
	assert_int_equal(access_unlink(&e, &c), -EPERM);
	c.uid = OWNER;
	assert_int_equal(access_unlink(&e, &c), 0);
}

static const struct {
	uint32_t dir_mode;
	uid_t dir_uid;
	uid_t uid;
	const struct cred *who;
	int result;
} unlinks[] = {
	{ 0777, 5, 5, &stranger, 0 },         { 0775, 5, 5, &stranger, -EACCES },
	{ 0772, 5, 5, &stranger, -EACCES },   { 0773, 5, 5, &stranger, 0 },
	{ 01777, 5, 5, &stranger, -EPERM },   { 01777, 1, 5, &stranger, 0 },
	{ 01777, 5, 1, &stranger, 0 },        { 01777, 5, 5, &root, 0 },
	{ 01777, 5, 5, &plain_root, -EPERM }, { 01000, 5, 1, &stranger, -EACCES },
};

static void test_taking_an_entry_out_of_its_directory(void **state)
{
	for (size_t i = 0; i < sizeof(unlinks) / sizeof(unlinks[0]); i++) {
		struct entry dir = { .mode = S_IFDIR | unlinks[i].dir_mode,
				     .uid = unlinks[i].dir_uid,
				     .gid = 5 };
		struct entry e = {
			.mode = S_IFREG, .uid = unlinks[i].uid, .gid = 5, .parent = &dir
		};

		if (access_unlink(&e, unlinks[i].who) != unlinks[i].result)
			print_message("# row %zu\n", i);
		assert_int_equal(access_unlink(&e, unlinks[i].who), unlinks[i].result);
	}
}

static void test_open_flags_as_rights(void **state)
{
	assert_int_equal(access_wanted(O_RDONLY), 4);
	assert_int_equal(access_wanted(O_WRONLY), 2);
	assert_int_equal(access_wanted(O_RDWR), 6);
	assert_int_equal(access_wanted(O_RDONLY | O_NONBLOCK | O_APPEND), 4);
	assert_int_equal(access_wanted(O_ACCMODE), 6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_a_mode_grants),
		cmocka_unit_test(test_what_the_kernel_has_checked_is_not_checked_again),
		cmocka_unit_test(test_taking_an_entry_out_of_its_directory),
		cmocka_unit_test(test_open_flags_as_rights),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
