// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_usage_memory.c - every allocation fails once: -ENOMEM, nothing lost, nothing left open. The program is linked with --wrap for the
 * calls that allocate.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "usage_fixture.h"
#include <dirent.h>

static long fails_at = -1; /* so many succeed yet */
static bool failed;

static bool fails(void)
{
	if (__atomic_load_n(&fails_at, __ATOMIC_RELAXED) < 0 ||
	    __atomic_fetch_sub(&fails_at, 1, __ATOMIC_RELAXED) != 0)
		return false;
	__atomic_store_n(&failed, true, __ATOMIC_RELAXED);
	errno = ENOMEM;
	return true;
}

#define WRAP(ret, name, parameters, arguments)                   \
	ret __real_##name parameters;                            \
	ret __wrap_##name parameters;                            \
	ret __wrap_##name parameters                             \
	{                                                        \
		return fails() ? NULL : __real_##name arguments; \
	}

WRAP(void *, malloc, (size_t n), (n))
WRAP(void *, calloc, (size_t n, size_t size), (n, size))
WRAP(void *, reallocarray, (void *p, size_t n, size_t size), (p, n, size))
WRAP(void *, aligned_alloc, (size_t alignment, size_t n), (alignment, n))
WRAP(char *, strdup, (const char *text), (text))

static unsigned int nr_open(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned int n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void make_tree(void)
{
	char name[64];

	for (int i = 0; i < 5; i++) {
		snprintf(name, sizeof(name), "d%d", i);
		dir(name);
		snprintf(name, sizeof(name), "d%d/sub", i);
		dir(name);
		snprintf(name, sizeof(name), "d%d/f", i);
		file(name, 10);
		snprintf(name, sizeof(name), "d%d/link", i);
		assert_int_equal(link("d0/f", name), 0);
	}
	file("f", 1);
	assert_int_equal(link("f", "g"), 0);
	dir("bound");
	assert_int_equal(mount("d0", "bound", "none", MS_BIND, ""), 0);
}

static void each_allocation_fails(struct usage_options o, FILE *export)
{
	unsigned int before = nr_open();
	unsigned int nr_failed = 0;

	for (long n = 0;; n++) {
		struct usage_result r = { 0 };
		struct usage *u = NULL;
		int status;

		failed = false;
		__atomic_store_n(&fails_at, n, __ATOMIC_RELAXED);
		status = usage_new(&u, ".", &o);
		if (status == 0)
			status = export ? usage_export(u, export, "/", &r) : usage_run(u, &r);
		__atomic_store_n(&fails_at, -1, __ATOMIC_RELAXED);
		usage_free(u, &r);
		assert_int_equal(nr_open(), before);
		assert_int_equal(status, failed ? -ENOMEM : 0);
		if (!failed)
			break;
		nr_failed++;
	}
	assert_in_range(nr_failed, 20, 2000);
}

static void test_the_entries(void **state)
{
	make_tree();
	each_allocation_fails((struct usage_options){ .top = 5, .depth = UINT32_MAX, .threads = 1 },
			      NULL);
	each_allocation_fails((struct usage_options){ .top = 5, .depth = UINT32_MAX, .threads = 4 },
			      NULL);
}

static void test_the_files(void **state)
{
	const char *const excludes[] = { "d1/none", NULL };

	make_tree();
	each_allocation_fails((struct usage_options){ .top = 50,
						      .depth = UINT32_MAX,
						      .threads = 2,
						      .files = true,
						      .excludes = excludes },
			      NULL);
}

static void test_the_export(void **state)
{
	const char *const excludes[] = { "d1/none", NULL };
	FILE *out = fopen("/dev/null", "we");

	make_tree();
	each_allocation_fails(
		(struct usage_options){
			.top = 1, .depth = UINT32_MAX, .threads = 1, .excludes = excludes },
		out);
	fclose(out);
}

static void test_a_deep_tree_with_few_descriptors(void **state)
{
	struct rlimit l, old;
	FILE *out = fopen("/dev/null", "we");
	char path[300] = "d";

	for (int i = 0; i < 80; i++) {
		dir(path);
		strcat(path, "/d");
	}
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	l = old;
	l.rlim_cur = nr_open() + 15;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &l), 0);
	each_allocation_fails((struct usage_options){ .top = 5, .depth = UINT32_MAX, .threads = 1 },
			      NULL);
	each_allocation_fails((struct usage_options){ .top = 1, .depth = UINT32_MAX, .threads = 1 },
			      out);
	fclose(out);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_the_entries),
		TEST(test_the_files),
		TEST(test_the_export),
		TEST(test_a_deep_tree_with_few_descriptors),
	};

	return cmocka_run_group_tests(tests, setup_all, NULL);
}
