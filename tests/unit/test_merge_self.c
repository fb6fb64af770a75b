// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_merge_self.c - a process merges its own memory: what is merged, what is not, what it costs, and what stays true.
 */
#include "merge_fixture.h"

#include <liburing.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static struct merge_self *self;

static int set_up(void **state)
{
	self = self_new();
	return 0;
}

static int tear_down(void **state)
{
	merge_self_free(self);
	return 0;
}

static uint64_t seed_of(size_t i)
{
	return i % 3 == 0 ? 0 : i % 3 == 1 ? 1 + i % 30 : 1000 + i;
}

static void equal_pages_share_a_frame_and_keep_their_content(void **state)
{
	enum { NR = 3000 };
	struct partition *part = partition_new(NULL);
	unsigned char *pages = pages_new(self, NR);
	struct merge_result r;
	struct partition_stats stats;

	for (size_t i = 0; i < NR; i++)
		page_fill(pages + i * PAGE, seed_of(i));
	r = merge(part, self, pages, NR, 0);
	assert_int_equal(r.scanned, NR);
	assert_int_equal(r.zero, NR / 3);
	assert_int_equal(r.merged, NR / 3 * 2);
	assert_int_equal(r.unique, NR / 3);
	assert_int_equal(r.saved_bytes, (NR / 3 * 2 - 10) * PAGE);
	assert_int_equal(r.skipped_changed + r.skipped_limit + r.skipped_mapping + r.skipped_pinned,
			 0);
	for (size_t i = 0; i < NR; i++)
		assert_true(page_holds(pages + i * PAGE, seed_of(i)));
	assert_int_equal(frame_of(pages + PAGE), frame_of(pages + 31 * PAGE));
	assert_int_not_equal(frame_of(pages + PAGE), frame_of(pages + 4 * PAGE));
	partition_get_stats(part, &stats);
	assert_int_equal(stats.pages_shared, 10);
	assert_int_equal(stats.pages_sharing, NR / 3 - 10);
	assert_int_equal(stats.pages_unshared, NR / 3);
	/* Once more: there is nothing left to do. */
	r = merge(part, self, pages, NR, 0);
	assert_int_equal(r.merged, 0);
	assert_int_equal(r.unique, NR / 3);
	partition_free(part);
	assert_int_equal(merge_self_release(self, pages), 0);
}

static void a_write_is_the_writers_own(void **state)
{
	struct partition *part = partition_new(NULL);
	unsigned char *pages = pages_new(self, 8);
	struct partition_stats stats;

	for (size_t i = 0; i < 8; i++)
		page_fill(pages + i * PAGE, 7);
	assert_int_equal(merge(part, self, pages, 8, 0).merged, 8);
	page_fill(pages + 3 * PAGE, 9);
	for (size_t i = 0; i < 8; i++)
		assert_true(page_holds(pages + i * PAGE, i == 3 ? 9 : 7));
	/* The next call finds out who has left. */
	merge(part, self, pages, 8, 0);
	partition_get_stats(part, &stats);
	assert_int_equal(stats.pages_sharing, 6);
	partition_free(part);
	merge_self_release(self, pages);
}

static void partitions_have_no_frame_in_common(void **state)
{
	enum { NR = 512 };
	struct partition *part[2] = { partition_new(NULL), partition_new(NULL) };
	unsigned char *pages[2] = { pages_new(self, NR), pages_new(self, NR) };

	for (int k = 0; k < 2; k++)
		for (size_t i = 0; i < NR; i++)
			page_fill(pages[k] + i * PAGE, 1 + i % 16);
	for (int k = 0; k < 2; k++)
		assert_int_equal(merge(part[k], self, pages[k], NR, 0).merged, NR);
	for (size_t i = 0; i < NR; i++)
		for (int k = 0; k < 2; k++)
			assert_true(page_holds(pages[k] + i * PAGE, 1 + i % 16));
	for (size_t i = 0; i < 16; i++) {
		uint64_t frame = frame_of(pages[0] + i * PAGE);

		assert_int_not_equal(frame, 0);
		for (size_t j = 0; j < NR; j++)
			assert_int_not_equal(frame, frame_of(pages[1] + j * PAGE));
		assert_int_equal(frame, frame_of(pages[0] + (i + 16) * PAGE));
	}
	for (int k = 0; k < 2; k++) {
		partition_free(part[k]);
		merge_self_release(self, pages[k]);
	}
}

static void a_dry_run_counts_the_same_and_changes_nothing(void **state)
{
	enum { NR = 300 };
	struct partition *part = partition_new(NULL);
	unsigned char *pages = pages_new(self, NR);
	struct merge_result dry, real;

	for (size_t i = 0; i < NR; i++)
		page_fill(pages + i * PAGE, seed_of(i));
	dry = merge(part, self, pages, NR, PARTITION_DRY_RUN);
	assert_int_not_equal(frame_of(pages + PAGE), frame_of(pages + 31 * PAGE));
	real = merge(part, self, pages, NR, 0);
	assert_int_equal(dry.merged, real.merged);
	assert_int_equal(dry.zero, real.zero);
	assert_int_equal(dry.unique, real.unique);
	assert_int_equal(dry.saved_bytes, real.saved_bytes);
	partition_free(part);
	merge_self_release(self, pages);
}

static void a_page_that_io_uring_holds_is_left_alone(void **state)
{
	struct partition *part = partition_new(NULL);
	unsigned char *pages = pages_new(self, 64);
	struct iovec held = { .iov_base = pages + 10 * PAGE, .iov_len = 2 * PAGE };
	struct merge_result r;
	struct io_uring ring;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);

	for (size_t i = 0; i < 64; i++)
		page_fill(pages + i * PAGE, 5);
	if (io_uring_queue_init(4, &ring, 0) < 0)
		skip();
	assert_int_equal(io_uring_register_buffers(&ring, &held, 1), 0);
	r = merge(part, self, pages, 64, 0);
	assert_int_equal(r.skipped_pinned, 2);
	assert_int_equal(r.merged, 62);
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_read_fixed(sqe, zero, held.iov_base, PAGE, 0, 0);
	assert_int_equal(io_uring_submit(&ring), 1);
	assert_int_equal(io_uring_wait_cqe(&ring, &cqe), 0);
	assert_int_equal(cqe->res, PAGE);
	for (size_t i = 0; i < 64; i++)
		assert_true(page_holds(pages + i * PAGE, i == 10 ? 0 : 5));
	io_uring_queue_exit(&ring);
	close(zero);
	partition_free(part);
	merge_self_release(self, pages);
}

/* How many mappings there are that begin in [start, end). */
static size_t count_mappings(const void *start, const void *end)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned long at;
	char line[512];
	size_t n = 0;

	while (fgets(line, sizeof(line), f))
		n += sscanf(line, "%lx-", &at) == 1 && at >= (uintptr_t)start &&
			at < (uintptr_t)end;
	fclose(f);
	return n;
}

static void mappings_stay_within_their_limit(void **state)
{
	enum { NR = 4096 };
	size_t have = count_mappings(NULL, (void *)UINTPTR_MAX), most = 2 * have + 2000;
	struct partition *part = partition_new(&(struct partition_conf){ .max_vmas = most });
	unsigned char *pages = pages_new(self, NR);
	struct merge_result r;

	/* Every other page is alone, so that no two duplicates are neighbours. */
	for (size_t i = 0; i < NR; i++)
		page_fill(pages + i * PAGE, i % 2 ? 7 : 1000 + i);
	r = merge(part, self, pages, NR, 0);
	assert_true(r.skipped_limit > 0);
	assert_true(r.merged > 100);
	assert_true(count_mappings(pages, pages + NR * PAGE) <= most - have);
	for (size_t i = 0; i < NR; i++)
		assert_true(page_holds(pages + i * PAGE, i % 2 ? 7 : 1000 + i));
	partition_free(part);
	merge_self_release(self, pages);
}

static void neighbours_are_mapped_together(void **state)
{
	enum { NR = 1024 };
	struct partition *part = partition_new(NULL);
	unsigned char *pages = pages_new(self, 2 * NR);

	for (size_t i = 0; i < 2 * NR; i++)
		page_fill(pages + i * PAGE, 1 + i % NR);
	assert_int_equal(merge(part, self, pages, 2 * NR, 0).merged, 2 * NR);
	assert_true(count_mappings(pages, pages + 2 * NR * PAGE) <= 6);
	partition_free(part);
	merge_self_release(self, pages);
}

static void pages_of_zeros_take_no_mappings_and_no_memory(void **state)
{
	enum { NR = 1024 };
	struct partition *part = partition_new(NULL);
	unsigned char *pages = pages_new(self, NR);
	struct partition_stats stats;

	for (size_t i = 0; i < NR; i++)
		page_fill(pages + i * PAGE, i % 2 ? 0 : 1 + i);
	assert_int_equal(merge(part, self, pages, NR, 0).zero, NR / 2);
	assert_true(count_mappings(pages, pages + NR * PAGE) <= 1);
	for (size_t i = 0; i < NR; i += 2)
		assert_int_equal(frame_of(pages + (i + 1) * PAGE), 0);
	partition_get_stats(part, &stats);
	assert_int_equal(stats.store_bytes, 0);
	/* They are zeros, can be written, and given back. */
	page_fill(pages + PAGE, 3);
	assert_true(page_holds(pages + 3 * PAGE, 0));
	assert_int_equal(madvise(pages + PAGE, PAGE, MADV_DONTNEED), 0);
	assert_true(page_holds(pages + PAGE, 0));
	partition_free(part);
	merge_self_release(self, pages);
}

static void dontneed_never_shows_the_stores_bytes(void **state)
{
	struct partition *part = partition_new(NULL);
	unsigned char *pages = pages_new(self, 8);

	for (size_t i = 0; i < 8; i++)
		page_fill(pages + i * PAGE, 7);
	assert_int_equal(merge(part, self, pages, 8, 0).merged, 8);
	page_fill(pages, 8);
	errno = 0;
	assert_int_equal(madvise(pages, 8 * PAGE, MADV_DONTNEED), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(madvise(pages, 8 * PAGE, MADV_FREE), -1);
	assert_int_equal(errno, EINVAL);
	for (size_t i = 0; i < 8; i++)
		assert_true(page_holds(pages + i * PAGE, i ? 7 : 8));
	partition_free(part);
	merge_self_release(self, pages);
}

static void a_forked_child_has_the_same_protection(void **state)
{
	struct partition *part = partition_new(NULL);
	unsigned char *pages = pages_new(self, 8);
	int status;
	pid_t pid;

	for (size_t i = 0; i < 8; i++)
		page_fill(pages + i * PAGE, 7);
	assert_int_equal(merge(part, self, pages, 8, 0).merged, 8);
	merge_self_fork_prepare(self);
	pid = fork();
	if (pid == 0) {
		merge_self_fork_child(self);
		if (madvise(pages, 8 * PAGE, MADV_DONTNEED) == 0 || !page_holds(pages, 7))
			_exit(1);
		page_fill(pages, 9);
		_exit(page_holds(pages, 9) && page_holds(pages + PAGE, 7) ? 0 : 2);
	}
	merge_self_fork_parent(self);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_true(page_holds(pages, 7));
	partition_free(part);
	merge_self_release(self, pages);
}

/* In a process of its own, since it gives up its rights. Return: a line of this file where something was wrong; 0. */
static int merge_under_a_limit(void)
{
	struct partition *part = partition_new(NULL);
	struct merge_self *own = self_new();
	unsigned char *first = pages_new(own, 8), *second = pages_new(own, 64);
	struct rlimit limit = { 1024 * PAGE, 1024 * PAGE };
	struct merge_result r;

	if (setrlimit(RLIMIT_MEMLOCK, &limit) < 0 || setuid(65534) < 0 ||
	    prctl(PR_SET_DUMPABLE, 1) < 0)
		return __LINE__;
	for (size_t i = 0; i < 8; i++)
		page_fill(first + i * PAGE, 7);
	if (merge(part, own, first, 8, 0).merged != 8)
		return __LINE__;
	/* By now it is known that locking is possible; then it is not any more. */
	limit.rlim_cur = 12 * PAGE;
	setrlimit(RLIMIT_MEMLOCK, &limit);
	for (size_t i = 0; i < 64; i++)
		page_fill(second + i * PAGE, 1 + i % 4);
	r = merge(part, own, second, 64, 0);
	if (r.merged || r.skipped_limit != 64)
		return __LINE__;
	for (size_t i = 0; i < 64; i++)
		if (!page_holds(second + i * PAGE, 1 + i % 4))
			return __LINE__;
	/* They are plain memory, as before. */
	if (madvise(second, 64 * PAGE, MADV_DONTNEED) < 0 || !page_holds(second, 0))
		return __LINE__;
	r = merge(part, own, second, 64, 0);
	return r.merged ? __LINE__ : 0;
}

static void what_cannot_be_locked_is_not_merged(void **state)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(merge_under_a_limit() ? 1 : 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void unmerged_pages_have_frames_of_their_own(void **state)
{
	struct partition *part = partition_new(NULL);
	unsigned char *pages = pages_new(self, 64);
	struct partition_stats stats;

	for (size_t i = 0; i < 64; i++)
		page_fill(pages + i * PAGE, 7);
	assert_int_equal(merge(part, self, pages, 64, 0).merged, 64);
	assert_int_equal(unmerge(part, self, pages, 32).merged, 32);
	for (size_t i = 0; i < 64; i++)
		assert_true(page_holds(pages + i * PAGE, 7));
	assert_int_not_equal(frame_of(pages), frame_of(pages + PAGE));
	assert_int_equal(frame_of(pages + 40 * PAGE), frame_of(pages + 41 * PAGE));
	partition_get_stats(part, &stats);
	assert_int_equal(stats.pages_sharing, 31);
	assert_int_equal(unmerge(part, self, pages, 64).merged, 32);
	partition_get_stats(part, &stats);
	assert_int_equal(stats.pages_shared, 0);
	partition_free(part);
	merge_self_release(self, pages);
}

static void the_store_is_given_back(void **state)
{
	enum { NR = 256 };
	struct partition *part = partition_new(&(struct partition_conf){ .segment_pages = 32 });
	unsigned char *pages = pages_new(self, 2 * NR);
	unsigned char *rest = pages_new(self, 2);
	struct partition_stats stats;

	for (size_t i = 0; i < 2 * NR; i++)
		page_fill(pages + i * PAGE, 1 + i % NR);
	assert_int_equal(merge(part, self, pages, 2 * NR, 0).merged, 2 * NR);
	partition_get_stats(part, &stats);
	assert_int_equal(stats.store_bytes, NR * PAGE);
	assert_int_equal(stats.members, 1);
	merge_self_release(self, pages);
	merge(part, self, rest, 2, 0);
	partition_get_stats(part, &stats);
	assert_int_equal(stats.store_bytes, 0);
	/* And what was seen there is merged anew, elsewhere. */
	pages = pages_new(self, 4);
	for (size_t i = 0; i < 4; i++)
		page_fill(pages + i * PAGE, 1 + i % 2);
	assert_int_equal(merge(part, self, pages, 4, 0).merged, 4);
	for (size_t i = 0; i < 4; i++)
		assert_true(page_holds(pages + i * PAGE, 1 + i % 2));
	partition_free(part);
	merge_self_release(self, pages);
	merge_self_release(self, rest);
}

static void limits_of_the_store_and_the_index_are_kept(void **state)
{
	enum { NR = 4096 };
	struct partition *part = partition_new(
		&(struct partition_conf){ .max_store_pages = 10, .max_index_entries = 1000 });
	unsigned char *pages = pages_new(self, NR);
	struct partition_stats stats;
	struct merge_result r;

	for (size_t i = 0; i < NR; i++)
		page_fill(pages + i * PAGE, 1 + i / 2);
	r = merge(part, self, pages, NR, 0);
	assert_int_equal(r.merged, 20);
	assert_true(r.skipped_limit > 1000);
	partition_get_stats(part, &stats);
	assert_true(stats.store_bytes <= 10 * PAGE);
	assert_true(stats.index_bytes <= 4096 * 32);
	for (size_t i = 0; i < NR; i++)
		assert_true(page_holds(pages + i * PAGE, 1 + i / 2));
	partition_free(part);
	merge_self_release(self, pages);
}

static void what_is_not_ours_is_not_touched(void **state)
{
	struct partition *part = partition_new(NULL);
	unsigned char *other =
		mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct merge_target target;
	struct merge_result r;

	for (size_t i = 0; i < 16; i++)
		page_fill(other + i * PAGE, 7);
	assert_int_equal(merge(part, self, other, 16, 0).scanned, 0);
	assert_int_not_equal(frame_of(other), frame_of(other + PAGE));
	assert_int_equal(merge_self_open(self, &target), 0);
	assert_int_equal(partition_merge(part, &target, (uintptr_t)other + 1, PAGE, 0, &r),
			 -EINVAL);
	assert_int_equal(partition_merge(part, &target, (uintptr_t)other, PAGE, 1u << 31, &r),
			 -EINVAL);
	merge_self_close(&target);
	assert_int_equal(merge_self_release(self, other), -EINVAL);
	partition_free(part);
	munmap(other, 16 * PAGE);
}

/* ---- with threads that go on writing ---- */

#define BUSY_PAGES 512u
#define BUSY_WRITERS 2u

static unsigned char *busy;
static int busy_stop;
static int busy_lost;

/* Each writer has a word of its own in every page, counts it up, and looks whether it is still what it wrote. */
static void *write_on(void *arg)
{
	uint64_t me = (uintptr_t)arg, round = 0;

	while (!__atomic_load_n(&busy_stop, __ATOMIC_RELAXED)) {
		round++;
		for (size_t i = 0; i < BUSY_PAGES; i++) {
			uint64_t *word = (uint64_t *)(void *)(busy + i * PAGE) + me;

			if (me ? *word != round - 1
			       : __atomic_fetch_add(word, 1, __ATOMIC_RELAXED) != round - 1)
				__atomic_store_n(&busy_lost, 1, __ATOMIC_RELAXED);
			if (me)
				*word = round;
		}
	}
	return NULL;
}

static int merge_busy(uint32_t batch_flags, unsigned int rounds, uint64_t *ret_merged)
{
	struct partition *part =
		partition_new(&(struct partition_conf){ .batch_flags = batch_flags });
	pthread_t thread[BUSY_WRITERS];

	*ret_merged = 0;
	for (unsigned int n = 0; n < rounds && !__atomic_load_n(&busy_lost, __ATOMIC_RELAXED);
	     n++) {
		busy = pages_new(self, BUSY_PAGES);
		memset(busy, 0, BUSY_PAGES * PAGE);
		for (size_t i = 0; i < BUSY_PAGES; i++)
			busy[i * PAGE + PAGE - 1] = 1;
		busy_stop = 0;
		for (uintptr_t i = 0; i < BUSY_WRITERS; i++)
			assert_int_equal(pthread_create(&thread[i], NULL, write_on, (void *)i), 0);
		*ret_merged += merge(part, self, busy, BUSY_PAGES, 0).merged;
		__atomic_store_n(&busy_stop, 1, __ATOMIC_RELAXED);
		for (unsigned int i = 0; i < BUSY_WRITERS; i++)
			pthread_join(thread[i], NULL);
		merge_self_release(self, busy);
	}
	partition_free(part);
	return busy_lost;
}

static void writers_lose_nothing(void **state)
{
	uint64_t merged;

	busy_lost = 0;
	assert_int_equal(merge_busy(0, 300, &merged), 0);
	assert_true(merged > 0);
}

static void the_same_writers_lose_bytes_without_the_protection(void **state)
{
	uint64_t merged;

	busy_lost = 0;
	assert_int_equal(merge_busy(MERGE_NO_CHECK, 3000, &merged), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_pages_share_a_frame_and_keep_their_content),
		cmocka_unit_test(a_write_is_the_writers_own),
		cmocka_unit_test(partitions_have_no_frame_in_common),
		cmocka_unit_test(a_dry_run_counts_the_same_and_changes_nothing),
		cmocka_unit_test(a_page_that_io_uring_holds_is_left_alone),
		cmocka_unit_test(mappings_stay_within_their_limit),
		cmocka_unit_test(neighbours_are_mapped_together),
		cmocka_unit_test(pages_of_zeros_take_no_mappings_and_no_memory),
		cmocka_unit_test(dontneed_never_shows_the_stores_bytes),
		cmocka_unit_test(a_forked_child_has_the_same_protection),
		cmocka_unit_test(what_cannot_be_locked_is_not_merged),
		cmocka_unit_test(unmerged_pages_have_frames_of_their_own),
		cmocka_unit_test(the_store_is_given_back),
		cmocka_unit_test(limits_of_the_store_and_the_index_are_kept),
		cmocka_unit_test(what_is_not_ours_is_not_touched),
		cmocka_unit_test(writers_lose_nothing),
		cmocka_unit_test(the_same_writers_lose_bytes_without_the_protection),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
