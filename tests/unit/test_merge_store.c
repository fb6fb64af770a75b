// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_merge_store.c - the store of merged pages, and the index of what has been seen.
 */
#include "merge_fixture.h"

#include <engine/merge/index.h>
#include <engine/merge/store.h>

#define SMALL 16u /* pages in a segment */

static void pages_are_given_out_in_order_and_keep_their_content(void **state)
{
	struct store store;
	uint64_t page[40];
	unsigned char content[PAGE];

	store_init(&store, "t", SMALL, 0);
	for (unsigned int i = 0; i < 40; i++) {
		assert_int_equal(store_new_page(&store, 0, &page[i]), 0);
		assert_int_equal(page[i], (uint64_t)(i / SMALL) << 32 | i % SMALL);
		page_fill(content, i + 1);
		store_write(&store, page[i], content);
	}
	for (unsigned int i = 0; i < 40; i++)
		assert_true(page_holds(store_page(&store, page[i]), i + 1));
	assert_int_equal(store.nr_segments, 3);
	assert_int_equal(store.nr_pages, 40);
	store_deinit(&store);
}

static void nobody_else_can_write_a_segment_or_change_its_size(void **state)
{
	struct store store;
	uint64_t page;
	char path[32];
	int fd, again;

	store_init(&store, "t", SMALL, 0);
	assert_int_equal(store_new_page(&store, 0, &page), 0);
	fd = store_segment(&store, page)->fd;
	assert_int_equal(pwrite(fd, "x", 1, 0), -1);
	assert_int_equal(ftruncate(fd, 0), -1);
	assert_int_equal(ftruncate(fd, 1 << 20), -1);
	assert_ptr_equal(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_RDWR | O_CLOEXEC);
	if (again >= 0) {
		assert_int_equal(pwrite(again, "x", 1, 0), -1);
		assert_ptr_equal(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0),
				 MAP_FAILED);
		close(again);
	}
	store_deinit(&store);
}

static void segments_go_when_nothing_refers_to_them(void **state)
{
	struct store store;
	uint64_t page[3 * SMALL];

	store_init(&store, "t", SMALL, 0);
	for (unsigned int i = 0; i < 3 * SMALL; i++)
		assert_int_equal(store_new_page(&store, 0, &page[i]), 0);
	store_ref(&store, page[0], 2);
	store_ref(&store, page[2 * SMALL], 1);
	assert_int_equal(store_sweep(&store), 1);
	assert_true(store_has(&store, page[0]));
	assert_false(store_has(&store, page[SMALL]));
	assert_true(store_has(&store, page[2 * SMALL]));
	store_ref(&store, page[0], -1);
	assert_int_equal(store_sweep(&store), 0);
	store_ref(&store, page[0], -1);
	assert_int_equal(store_sweep(&store), 1);
	assert_int_equal(store.nr_pages, SMALL);
	/* The next page is in a segment of its own: numbers are not used again. */
	assert_int_equal(store_new_page(&store, 0, &page[0]), 0);
	assert_int_equal(page[0] >> 32, 3);
	store_deinit(&store);
}

static void a_full_store_says_so(void **state)
{
	struct store store;
	uint64_t page;

	store_init(&store, "t", SMALL, 2);
	assert_int_equal(store_new_page(&store, 0, &page), 0);
	assert_int_equal(store_new_page(&store, 0, &page), 0);
	assert_int_equal(store_new_page(&store, 0, &page), -ENOSPC);
	store_deinit(&store);
}

static void copies_follow_their_page_and_hold_the_same(void **state)
{
	struct store store;
	unsigned char content[PAGE];
	uint64_t page, next;

	store_init(&store, "t", SMALL, 0);
	assert_int_equal(store_new_page(&store, 2, &page), 0);
	page_fill(content, 7);
	store_write(&store, page, content);
	for (unsigned int i = 0; i < 3; i++) {
		assert_int_equal(store_copies(&store, page + i), 2 - i);
		assert_true(page_holds(store_page(&store, page + i), 7));
	}
	assert_int_equal(store_new_page(&store, 0, &next), 0);
	assert_int_equal(next, page + 3);
	/* Not across the end of a segment. */
	assert_int_equal(store_new_page(&store, SMALL, &next), 0);
	assert_int_equal(next, page + 4);
	assert_int_equal(store_copies(&store, next), SMALL - 5);
	assert_int_equal(store_new_page(&store, 0, &next), 0);
	assert_int_equal(next >> 32, 1);
	store_deinit(&store);
	/* Nor beyond the store's own limit. */
	store_init(&store, "t", SMALL, 3);
	assert_int_equal(store_new_page(&store, 5, &page), 0);
	assert_int_equal(store_copies(&store, page), 2);
	assert_int_equal(store_new_page(&store, 0, &page), -ENOSPC);
	store_deinit(&store);
}

static struct content_hash hash_of(uint64_t n)
{
	/* The same place for every eighth: they must not be taken for each other. */
	return (struct content_hash){ .low = n / 8, .high = n };
}

static void the_index_finds_what_was_added_and_nothing_else(void **state)
{
	struct index index;

	index_init(&index, 0);
	assert_null(index_find(&index, &(struct content_hash){ 1, 1 }));
	for (uint64_t n = 0; n < 20000; n++)
		assert_int_equal(index_add(&index,
					   &(struct index_entry){ .hash = hash_of(n),
								  .member = 1,
								  .where = n * PAGE }),
				 0);
	for (uint64_t n = 0; n < 20000; n++) {
		struct content_hash hash = hash_of(n);
		struct index_entry *entry = index_find(&index, &hash);

		assert_non_null(entry);
		assert_int_equal(entry->where, n * PAGE);
	}
	assert_null(index_find(&index, &(struct content_hash){ 1, 20001 }));
	assert_int_equal(index.nr_first, 20000);
	index_deinit(&index);
}

static void a_member_can_be_forgotten(void **state)
{
	struct index index;
	struct content_hash hash = hash_of(4);

	index_init(&index, 0);
	for (uint64_t n = 0; n < 1000; n++)
		index_add(&index,
			  &(struct index_entry){ .hash = hash_of(n), .member = n % 2 ? 1 : 2 });
	index_set(&index, index_find(&index, &hash), INDEX_STORE, 77, 1);
	index_forget(&index, 2);
	assert_int_equal(index.nr_first, 500);
	assert_int_equal(index_find(&index, &hash)->where, 77);
	hash = hash_of(6);
	assert_null(index_find(&index, &hash));
	hash = hash_of(7);
	assert_non_null(index_find(&index, &hash));
	index_deinit(&index);
}

static void a_full_index_forgets_earlier_calls_first(void **state)
{
	struct index index;
	struct content_hash hash;

	index_init(&index, 1000);
	for (uint64_t n = 0; n < 1000; n++)
		assert_int_equal(index_add(&index,
					   &(struct index_entry){ .hash = hash_of(n),
								  .member = 1,
								  .call = n < 600 }),
				 0);
	/* Calls 1 (600 sightings) and 0 (400): a third call has room for the 1000 of them. */
	for (uint64_t n = 2000; n < 3000; n++)
		assert_int_equal(index_add(&index,
					   &(struct index_entry){
						   .hash = hash_of(n), .member = 1, .call = 2 }),
				 0);
	assert_int_equal(
		index_add(&index,
			  &(struct index_entry){ .hash = hash_of(5000), .member = 1, .call = 2 }),
		-ENOSPC);
	assert_int_equal(index.nr_entries, 1000);
	hash = hash_of(1);
	assert_null(index_find(&index, &hash));
	index_deinit(&index);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_are_given_out_in_order_and_keep_their_content),
		cmocka_unit_test(nobody_else_can_write_a_segment_or_change_its_size),
		cmocka_unit_test(segments_go_when_nothing_refers_to_them),
		cmocka_unit_test(a_full_store_says_so),
		cmocka_unit_test(copies_follow_their_page_and_hold_the_same),
		cmocka_unit_test(the_index_finds_what_was_added_and_nothing_else),
		cmocka_unit_test(a_member_can_be_forgotten),
		cmocka_unit_test(a_full_index_forgets_earlier_calls_first),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
