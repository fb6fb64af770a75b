/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * merge_fixture.h - what the tests of merging have in common: pages with known content, frame numbers, this process as a target.
 */
#ifndef KSHARED_TESTS_MERGE_FIXTURE_H
#define KSHARED_TESTS_MERGE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <engine/merge/partition.h>
#include <engine/merge/self.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096u

/* Fill a page so that no other @seed gives the same; 0 gives zeros. */
static inline void page_fill(void *page, uint64_t seed)
{
	uint64_t *word = page;

	for (unsigned int i = 0; i < PAGE / 8; i++)
		word[i] = seed * 0x9e3779b97f4a7c15u + i * seed;
}

static inline bool page_holds(const void *page, uint64_t seed)
{
	const uint64_t *word = page;

	for (unsigned int i = 0; i < PAGE / 8; i++)
		if (word[i] != seed * 0x9e3779b97f4a7c15u + i * seed)
			return false;
	return true;
}

/* The frame that a page of this process is in; 0: none, or it may not be known. */
static inline uint64_t frame_of(const void *page)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &entry, 8, (off_t)((uintptr_t)page / PAGE * 8)), 8);
	close(fd);
	return entry >> 63 ? entry & ((1ull << 55) - 1) : 0;
}

static inline struct merge_self *self_new(void)
{
	struct merge_self *self = NULL;
	int r = merge_self_new(-1, &self);

	if (r == -EPERM || r == -EOPNOTSUPP || r == -ENOSYS) {
		print_message("1..0 # SKIP this kernel cannot move pages, or we may not\n");
		exit(77);
	}
	assert_int_equal(r, 0);
	return self;
}

static inline unsigned char *pages_new(struct merge_self *self, size_t nr_pages)
{
	unsigned char *pages = merge_self_alloc(self, nr_pages * PAGE);

	assert_non_null(pages);
	return pages;
}

static inline struct merge_result merge(struct partition *part, struct merge_self *self,
					const void *pages, size_t nr_pages, unsigned int flags)
{
	struct merge_target target;
	struct merge_result result;

	assert_int_equal(merge_self_open(self, &target), 0);
	assert_int_equal(
		partition_merge(part, &target, (uintptr_t)pages, nr_pages * PAGE, flags, &result),
		0);
	merge_self_close(&target);
	return result;
}

static inline struct merge_result unmerge(struct partition *part, struct merge_self *self,
					  const void *pages, size_t nr_pages)
{
	struct merge_target target;
	struct merge_result result;

	assert_int_equal(merge_self_open(self, &target), 0);
	assert_int_equal(
		partition_unmerge(part, &target, (uintptr_t)pages, nr_pages * PAGE, &result), 0);
	merge_self_close(&target);
	return result;
}

#endif
