// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_usage_largest.c - the largest so far: against sorting all of them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <engine/usage/usage_internal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ITEMS 3000u
#define NAMES 3 /* of each third item */

struct plain {
	uint64_t value;
	char name[16];
};

static int order(const void *a, const void *b)
{
	const struct plain *x = a, *y = b;

	return x->value != y->value ? (x->value < y->value ? 1 : -1) : strcmp(x->name, y->name);
}

static void put(struct largest *l, const struct plain *p, uint64_t ino)
{
	assert_int_equal(largest_put(l, p->name, &(struct usage_sum){ p->value, 0, 1 }, S_IFREG,
				     ino ? 1 : 0, ino),
			 0);
}

/* In random order; each third one under three names, of which the first in byte order is to be told, once. */
static void against_sorting(size_t max, unsigned int seed, unsigned int values)
{
	struct plain *all = calloc(ITEMS, sizeof(*all)), p;
	unsigned int *at = calloc(ITEMS * NAMES, sizeof(*at)), nr = 0;
	struct usage_item *items;
	struct largest l;
	size_t n;

	assert_int_equal(largest_init(&l, max, USAGE_DISK), 0);
	for (unsigned int i = 0; i < ITEMS; i++) {
		all[i].value = (unsigned int)rand_r(&seed) % values;
		snprintf(all[i].name, sizeof(all[i].name), "%u-0",
			 (unsigned int)rand_r(&seed) % 10 * ITEMS + i);
		for (unsigned int k = 0; k < (i % 3 ? 1 : NAMES); k++)
			at[nr++] = i * NAMES + k;
	}
	for (unsigned int i = nr; i-- > 1;) {
		unsigned int k = (unsigned int)rand_r(&seed) % (i + 1), swapped = at[i];

		at[i] = at[k];
		at[k] = swapped;
	}
	for (unsigned int i = 0; i < nr; i++) {
		p = all[at[i] / NAMES];
		p.name[strlen(p.name) - 1] = (char)('0' + at[i] % NAMES);
		put(&l, &p, at[i] / NAMES % 3 ? 0 : at[i] / NAMES + 1);
	}
	qsort(all, ITEMS, sizeof(*all), order);
	largest_take(&l, &items, &n);
	assert_int_equal(n, max < ITEMS ? max : ITEMS);
	for (size_t i = 0; i < n; i++) {
		assert_string_equal(items[i].name, all[i].name);
		assert_int_equal(items[i].sum.disk, all[i].value);
		free(items[i].name);
	}
	free(items);
	largest_deinit(&l);
	free(all);
	free(at);
}

static void test_in_any_order_and_number(void **state)
{
	const size_t most[] = { 1, 2, 3, 10, 100, ITEMS - 1, ITEMS, ITEMS + 1 };

	for (size_t i = 0; i < sizeof(most) / sizeof(*most); i++) {
		against_sorting(most[i], 1, 1000000);
		against_sorting(most[i], 2, 20); /* nearly all are equal */
		against_sorting(most[i], 3, 1);
	}
}

/* Each under two names. Looking for the first among all of them would take minutes. */
static void test_very_many_with_several_names(void **state)
{
	const unsigned int nr = getenv("KSHARED_TIMEOUT_SCALE") ? 30000 : 300000;
	struct usage_item *items;
	struct largest l;
	size_t n;

	assert_int_equal(largest_init(&l, nr, USAGE_DISK), 0);
	for (unsigned int k = 2; k-- > 0;)
		for (unsigned int i = 0; i < nr; i++) {
			struct plain p = { .value = i };

			snprintf(p.name, sizeof(p.name), "%u-%u", i, k);
			put(&l, &p, i + 1);
		}
	largest_take(&l, &items, &n);
	assert_int_equal(n, nr);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(items[i].sum.disk, nr - 1 - i);
		assert_string_equal(strchr(items[i].name, '-'), "-0");
		free(items[i].name);
	}
	free(items);
	largest_deinit(&l);
}

static void test_what_is_left_in_it_is_freed(void **state)
{
	struct largest l;

	assert_int_equal(largest_init(&l, 5, USAGE_COUNT), 0);
	for (unsigned int i = 0; i < 8; i++) {
		struct plain p = { .name = "x" };

		p.name[0] = (char)('a' + i);
		put(&l, &p, 0);
	}
	assert_int_equal(l.nr, 5);
	largest_deinit(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_in_any_order_and_number),
		cmocka_unit_test(test_very_many_with_several_names),
		cmocka_unit_test(test_what_is_left_in_it_is_freed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
