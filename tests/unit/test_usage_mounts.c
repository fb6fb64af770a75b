// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_usage_mounts.c - what several mounts show counts once; also where the mount table does not tell everything. All layouts at
 * random: tests/cases/folder/test_top_mounts.py.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "usage_fixture.h"
#include <sys/syscall.h>

#define ALL .depth = UINT32_MAX
#define PAGE 4096u
#define LISTMOUNT 458

static int bind_mount(const char *from, const char *to)
{
	return mount(from, to, "none", MS_BIND, "");
}

/* root/d has a file, the same again, and all of root in it. */
static void make_root(void)
{
	dir("root");
	dir("root/proc");
	dir("root/d");
	dir("root/d/a");
	dir("root/d/again");
	dir("root/d/up");
	file("root/d/a/f", 5 * PAGE);
	assert_int_equal(bind_mount("root/d/a", "root/d/again"), 0);
	assert_int_equal(bind_mount("root", "root/d/up"), 0);
}

/* Count d: true: right and complete; false: partial, and what is counted twice is told. */
static void check(bool right)
{
	struct usage_options o = { ALL, .top = 10 };
	struct usage_result r;
	struct usage *u;

	CHECK(usage_new(&u, "d", &o) == 0 && usage_run(u, &r) == 0);
	if (right) {
		CHECK(r.total.disk == 5 * PAGE && r.nr_errors == 0 && r.nr_doubts == 0);
		CHECK(r.nr_skipped == 2 && strcmp(r.skipped[0], "again") == 0 &&
		      strcmp(r.skipped[1], "up/d") == 0);
	} else {
		CHECK(r.nr_doubts && r.nr_errors == r.nr_doubts);
		for (size_t i = 0; i < r.nr_errors; i++)
			CHECK(strcmp(r.errors[i].call, "mountinfo") == 0 &&
			      r.errors[i].err == ENODATA);
		CHECK(strcmp(r.errors[r.nr_errors - 1].path, "up") == 0);
	}
	usage_free(u, &r);
}

static void enter_root(void)
{
	CHECK(chroot("root") == 0 && chdir("/") == 0);
}

static void with_a_parent_that_tells(void)
{
	enter_root();
	check(true);
}

static void with_nobody_who_tells(void)
{
	int status;
	pid_t pid;

	enter_root();
	pid = fork();
	if (pid == 0) {
		check(false);
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

static void test_a_root_directory_that_is_no_mount_point(void **state)
{
	make_root();
	if (mount("proc", "root/proc", "proc", 0, "") < 0)
		skip();
	apart(with_a_parent_that_tells);
	apart(with_nobody_who_tells);
}

static void without_proc_there(void)
{
	enter_root();
	check(false);
}

static void without_proc(void)
{
	CHECK(unshare(CLONE_NEWNS) == 0 && mount("test", "/proc", "tmpfs", 0, "") == 0);
	CHECK(chdir("root") == 0);
	/* From Linux 6.8 on the kernel can be asked. */
	check(syscall(LISTMOUNT, NULL, NULL, 0, 0) < 0 && errno != ENOSYS);
}

static void test_without_proc(void **state)
{
	make_root();
	apart(without_proc);
	apart(without_proc_there);
}

static void without_bind_mounts(void)
{
	struct usage_options o = { ALL, .top = 10 };
	struct usage_result r;
	struct usage *u;

	enter_root();
	CHECK(usage_new(&u, "/", &o) == 0 && usage_run(u, &r) == 0);
	CHECK(r.total.disk == 3 * PAGE && r.nr_errors == 0);
	usage_free(u, &r);
}

static void test_a_root_without_bind_mounts_is_in_no_doubt(void **state)
{
	dir("root");
	dir("root/other");
	file("root/f", PAGE);
	assert_int_equal(mount("test", "root/other", "tmpfs", 0, "mode=755"), 0);
	file("root/other/f", 2 * PAGE);
	apart(without_bind_mounts);
}

static void test_a_mount_in_a_loop_counts(void **state)
{
	struct usage_result r;

	dir("p");
	dir("p/m");
	dir("p/x");
	file("p/f", PAGE);
	assert_int_equal(bind_mount(".", "p/m"), 0);
	assert_int_equal(mount("test", "p/m/p/x", "tmpfs", 0, "mode=755"), 0);
	file("p/m/p/x/f", 7 * PAGE);
	r = count("p", (struct usage_options){ ALL });
	assert_int_equal(r.total.disk, 8 * PAGE);
	assert_int_equal(item(&r, "m")->sum.disk, 7 * PAGE);
	assert_int_equal(r.nr_skipped, 1);
	assert_string_equal(r.skipped[0], "m/p");
	usage_free(NULL, &r);
}

static void test_a_path_excluded_in_one_of_two_places(void **state)
{
	static const char *const path[] = { "a/x", NULL }, *const below[] = { "a/x/*", NULL },
				 *const both[] = { "a/x", "m/x", NULL },
				 *const name[] = { "x", NULL };
	static const struct {
		const char *const *excludes;
		unsigned int pages;
	} cases[] = { { path, 6 }, { below, 6 }, { both, 1 }, { name, 1 } };

	dir("a");
	dir("a/x");
	dir("m");
	file("a/f", PAGE);
	file("a/x/f", 5 * PAGE);
	assert_int_equal(bind_mount("a", "m"), 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct usage_result r =
			count(".", (struct usage_options){ ALL, .excludes = cases[i].excludes });

		assert_int_equal(r.total.disk, cases[i].pages * PAGE);
		if (cases[i].pages == 6)
			assert_int_equal(item(&r, "m")->sum.disk, 5 * PAGE);
		else
			assert_null(item(&r, "m"));
		usage_free(NULL, &r);
	}
}

static void test_deleted_files_that_are_mounted(void **state)
{
	struct usage_result r;

	dir("t");
	for (int i = 0; i < 3; i++) {
		char name[] = "t/m0";

		name[3] += (char)i;
		file(name, 0);
	}
	file("t/f", 3 * PAGE);
	file("t/g", 4 * PAGE);
	assert_int_equal(bind_mount("t/f", "t/m0"), 0);
	assert_int_equal(bind_mount("t/g", "t/m1"), 0);
	assert_int_equal(bind_mount("t/g", "t/m2"), 0);
	/* One has another name, of which it is not the only one to know; the other has none. */
	assert_int_equal(link("t/f", "t/z"), 0);
	assert_int_equal(unlink("t/f"), 0);
	assert_int_equal(unlink("t/g"), 0);
	r = count("t", (struct usage_options){ ALL });
	assert_int_equal(r.total.disk, 7 * PAGE);
	assert_int_equal(r.total.count, 3);
	assert_non_null(item(&r, "m0"));
	assert_non_null(item(&r, "m1"));
	assert_null(item(&r, "z"));
	usage_free(NULL, &r);
}

static void test_very_many_bind_mounts(void **state)
{
	enum { MANY = 1000 };
	struct usage_result r;
	char name[32];

	dir("d");
	dir("d/m");
	file("d/f", PAGE);
	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "m%d", i);
		dir(name);
		if (bind_mount("d", name) < 0)
			skip(); /* the limit of mounts */
	}
	r = count(".", (struct usage_options){ ALL });
	assert_int_equal(r.total.disk, PAGE);
	assert_int_equal(r.nr_skipped, MANY);
	usage_free(NULL, &r);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_root_directory_that_is_no_mount_point),
		TEST(test_without_proc),
		TEST(test_a_root_without_bind_mounts_is_in_no_doubt),
		TEST(test_a_mount_in_a_loop_counts),
		TEST(test_a_path_excluded_in_one_of_two_places),
		TEST(test_deleted_files_that_are_mounted),
		TEST(test_very_many_bind_mounts),
	};

	return cmocka_run_group_tests(tests, setup_all, NULL);
}
