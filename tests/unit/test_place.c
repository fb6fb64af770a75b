// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_place.c - where a folder is when nobody says so, and where its socket is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <base/place.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define OTHER 4321

static int setup(void **state)
{
	unsetenv("KSHARED_DIR");
	unsetenv("XDG_RUNTIME_DIR");
	return 0;
}

static void expect_socket(const char *dir, uid_t uid, const char *expected)
{
	char path[108] = "untouched";

	assert_int_equal(place_socket(path, dir, uid), 0);
	assert_string_equal(path, expected);
}

static void test_the_folder(void **state)
{
	char dir[PATH_MAX], expected[PATH_MAX];

	place_folder(dir);
	if (geteuid() == 0)
		snprintf(expected, sizeof(expected), "/run/kshared");
	else
		snprintf(expected, sizeof(expected), "/tmp/kshared-%u", geteuid());
	assert_string_equal(dir, expected);
	setenv("KSHARED_DIR", "/elsewhere", 1);
	place_folder(dir);
	assert_string_equal(dir, "/elsewhere");
	setenv("KSHARED_DIR", "", 1);
	place_folder(dir);
	assert_string_equal(dir, expected);
}

static void test_the_directory_of_sockets(void **state)
{
	char dir[PATH_MAX];

	setenv("XDG_RUNTIME_DIR", "/run/user/0815", 1);
	place_rundir(dir, 0);
	assert_string_equal(dir, "/run/ksharedd");
	place_rundir(dir, OTHER);
	assert_string_equal(dir, "/tmp/ksharedd-4321");
	if (geteuid() == 0)
		return;
	place_rundir(dir, geteuid());
	assert_string_equal(dir, "/run/user/0815/ksharedd");
	setenv("XDG_RUNTIME_DIR", "relative", 1);
	place_rundir(dir, geteuid());
	assert_null(strstr(dir, "relative"));
}

static void test_known_paths(void **state)
{
	/* FNV-1a of the path, computed elsewhere. */
	expect_socket("/nowhere/kshared", 0, "/run/ksharedd/kshared-3e37c9f6cbb1c9e7.sock");
	expect_socket("/", 0, "/run/ksharedd/-af63a24c860189fe.sock");
}

static void test_one_folder_has_one_socket_however_it_is_written(void **state)
{
	char one[108], path[PATH_MAX], name[] = "/tmp/test-place-XXXXXX", link[PATH_MAX],
				       cwd[PATH_MAX];
	static const char *const ways[] = { "%s/",  "%s/.", "%s//",      "%s/x/..",
					    "/.%s", "//%s", "/tmp/../%s" };

	assert_non_null(mkdtemp(name));
	assert_int_equal(place_socket(one, name, 0), 0);
	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		snprintf(path, sizeof(path), ways[i], name);
		expect_socket(path, 0, one);
	}
	snprintf(link, sizeof(link), "%s-link", name);
	assert_int_equal(symlink(name, link), 0);
	expect_socket(link, 0, one);
	unlink(link);
	assert_non_null(getcwd(cwd, sizeof(cwd)));
	assert_int_equal(chdir(name), 0);
	expect_socket(".", 0, one);
	expect_socket("", 0, one);
	assert_int_equal(chdir("/tmp"), 0);
	expect_socket(name + strlen("/tmp/"), 0, one);
	assert_int_equal(chdir(cwd), 0);
	/* Also when the folder is not there, or no more. */
	rmdir(name);
	expect_socket(name, 0, one);
}

static void test_long_names(void **state)
{
	char dir[PATH_MAX + 100], path[108] = "untouched";

	memset(dir, 'a', sizeof(dir));
	dir[0] = '/';
	dir[200] = 0;
	assert_int_equal(place_socket(path, dir, 0), 0);
	assert_int_equal(strlen(path), strlen("/run/ksharedd/") + 32 + 1 + 16 + strlen(".sock"));
	strcpy(path, "untouched");
	dir[200] = 'a';
	dir[PATH_MAX + 99] = 0;
	assert_int_equal(place_socket(path, dir, 0), -ENAMETOOLONG);
	assert_string_equal(path, "untouched");
	if (geteuid() == 0)
		return;
	dir[100] = 0;
	setenv("XDG_RUNTIME_DIR", dir, 1);
	assert_int_equal(place_socket(path, "/kshared", geteuid()), -ENAMETOOLONG);
	assert_string_equal(path, "untouched");
}

#define TEST(name) cmocka_unit_test_setup(name, setup)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_the_folder),  TEST(test_the_directory_of_sockets),
		TEST(test_known_paths), TEST(test_one_folder_has_one_socket_however_it_is_written),
		TEST(test_long_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
