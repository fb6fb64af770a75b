// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_usage_links.c - files with several names: against a plain array, with many of them, and with many threads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <engine/usage/usage_internal.h>
#include <stdlib.h>
#include <string.h>

#define FILES 20000u
#define THREADS 8

static bool smaller(void *ctx, uint32_t a, uint32_t b)
{
	return a < b;
}

struct rest {
	uint64_t nr;
	uint64_t disk;
	uint64_t tops;
};

static void each(void *ctx, uint32_t top, const struct usage_sum *sum)
{
	struct rest *r = ctx;

	r->nr += sum->count;
	r->disk += sum->disk;
	r->tops += top;
}

static void see(struct links *l, uint64_t ino, uint32_t nlink, uint32_t top, bool expect_first,
		bool expect_last, uint32_t expect_top)
{
	struct usage_sum s = { .disk = ino * 512, .apparent = ino, .count = 1 };
	bool first, last;
	uint32_t where = NO_TOP;

	assert_int_equal(
		links_seen(l, 7, ino, nlink, &s, top, smaller, NULL, &where, &last, &first), 0);
	assert_int_equal(first, expect_first);
	assert_int_equal(last, expect_last);
	if (last)
		assert_int_equal(where, expect_top);
}

static void test_the_first_entry_has_it_and_the_last_name_completes_it(void **state)
{
	struct rest rest = { 0 };
	struct links *l;

	assert_int_equal(links_new(&l), 0);
	see(l, 1, 3, 5, true, false, 0);
	see(l, 1, 3, 2, false, false, 0);
	see(l, 2, 2, 9, true, false, 0);
	see(l, 1, 3, 4, false, true, 2);
	/* An inode number may be anything, 0 as well. */
	see(l, 0, 2, 3, true, false, 0);
	see(l, 0, 2, 1, false, true, 1);
	links_rest(l, each, &rest);
	assert_int_equal(rest.nr, 1);
	assert_int_equal(rest.disk, 1024);
	assert_int_equal(rest.tops, 9);
	links_free(l);
}

static void test_the_same_number_on_another_device_is_another_file(void **state)
{
	struct usage_sum s = { .count = 1 };
	bool first, last;
	struct links *l;
	uint32_t top;

	assert_int_equal(links_new(&l), 0);
	see(l, 1, 2, 0, true, false, 0);
	assert_int_equal(links_seen(l, 8, 1, 2, &s, 0, smaller, NULL, &top, &last, &first), 0);
	assert_true(first);
	assert_false(last);
	links_free(l);
}

/* Names of random files, until all of all were seen: each must be complete exactly at its last. */
static void test_many_in_random_order(void **state)
{
	unsigned char *left = malloc(FILES), *nlink = malloc(FILES), *least = malloc(FILES);
	unsigned int seed = 1, nr = 0;
	struct rest rest = { 0 };
	struct links *l;

	assert_int_equal(links_new(&l), 0);
	for (unsigned int i = 0; i < FILES; i++) {
		left[i] = nlink[i] = (unsigned char)(2 + rand_r(&seed) % 4);
		least[i] = 255;
		nr += nlink[i];
	}
	while (nr) {
		unsigned int i = (unsigned int)rand_r(&seed) % FILES;
		unsigned char top = (unsigned char)(rand_r(&seed) % 200);

		while (!left[i])
			i = (i + 1) % FILES;
		if (top < least[i])
			least[i] = top;
		left[i]--;
		nr--;
		see(l, i, nlink[i], top, left[i] == nlink[i] - 1, left[i] == 0, least[i]);
	}
	links_rest(l, each, &rest);
	assert_int_equal(rest.nr, 0);
	links_free(l);
	free(left);
	free(nlink);
	free(least);
}

struct counter {
	pthread_t thread;
	struct links *l;
	uint32_t self;
	uint64_t nr_first, nr_last, tops;
};

static void *count_all(void *arg)
{
	struct counter *c = arg;
	struct usage_sum s = { .count = 1 };
	bool first, last;
	uint32_t top;

	for (uint64_t i = 0; i < FILES; i++) {
		/* Each begins elsewhere. */
		uint64_t ino = (i + c->self * (FILES / THREADS)) % FILES;

		links_seen(c->l, 1, ino, THREADS, &s, (c->self + (uint32_t)ino) % THREADS + 10,
			   smaller, NULL, &top, &last, &first);
		c->nr_first += first;
		c->nr_last += last;
		c->tops += last ? top : 0;
	}
	return NULL;
}

static void test_many_threads(void **state)
{
	struct counter c[THREADS];
	uint64_t nr_first = 0, nr_last = 0, tops = 0;
	struct rest rest = { 0 };
	struct links *l;

	assert_int_equal(links_new(&l), 0);
	for (uint32_t i = 0; i < THREADS; i++) {
		c[i] = (struct counter){ .l = l, .self = i };
		assert_int_equal(pthread_create(&c[i].thread, NULL, count_all, &c[i]), 0);
	}
	for (uint32_t i = 0; i < THREADS; i++) {
		pthread_join(c[i].thread, NULL);
		nr_first += c[i].nr_first;
		nr_last += c[i].nr_last;
		tops += c[i].tops;
	}
	assert_int_equal(nr_first, FILES);
	assert_int_equal(nr_last, FILES);
	assert_int_equal(tops, FILES * 10);
	links_rest(l, each, &rest);
	assert_int_equal(rest.nr, 0);
	links_free(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_first_entry_has_it_and_the_last_name_completes_it),
		cmocka_unit_test(test_the_same_number_on_another_device_is_another_file),
		cmocka_unit_test(test_many_in_random_order),
		cmocka_unit_test(test_many_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
