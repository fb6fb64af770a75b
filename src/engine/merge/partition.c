// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * partition.c - see partition.h.
 */
#include <base/cleanup.h>
#include <engine/merge/partition_internal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SEGMENT_PAGES 16384u

struct partition *partition_new(const struct partition_conf *conf)
{
	static const unsigned char zeros[MERGE_PAGE];
	struct partition *part = calloc(1, sizeof(*part));
	long processors = sysconf(_SC_NPROCESSORS_ONLN);

	if (!part)
		return NULL;
	if (conf)
		part->conf = *conf;
	if (part->conf.segment_pages == 0)
		part->conf.segment_pages = SEGMENT_PAGES;
	if (part->conf.nr_threads == 0)
		part->conf.nr_threads = processors > 0 ? (unsigned int)processors : 1;
	if (part->conf.nr_threads > MAX_THREADS)
		part->conf.nr_threads = MAX_THREADS;
	if (part->conf.batch_pages == 0 || part->conf.batch_pages > MERGE_BATCH_PAGES)
		part->conf.batch_pages = MERGE_BATCH_PAGES;
	if (part->conf.batch_runs == 0 || part->conf.batch_runs > MERGE_BATCH_RUNS)
		part->conf.batch_runs = MERGE_BATCH_RUNS;
	store_init(&part->store, part->conf.name ? part->conf.name : "", part->conf.segment_pages,
		   part->conf.max_store_pages);
	part->conf.name = NULL;
	index_init(&part->index, part->conf.max_index_entries);
	part->zero_hash = scan_content(zeros);
	pthread_mutex_init(&part->lock, NULL);
	return part;
}

void partition_free(struct partition *part)
{
	if (!part)
		return;
	while (part->members)
		member_drop(part, part->members);
	store_deinit(&part->store);
	index_deinit(&part->index);
	pthread_mutex_destroy(&part->lock);
	free(part);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* [*@start, *@end) in whole pages. */
static int range(uint64_t addr, uint64_t size, uint64_t *ret_end)
{
	if (addr % MERGE_PAGE || size > UINT64_MAX - addr)
		return -EINVAL;
	*ret_end = (addr + size) & ~(uint64_t)(MERGE_PAGE - 1);
	return 0;
}

static void settle(struct partition *part, struct member *member, const struct merge_target *target)
{
	if (member_refresh(part, member, target, NULL) == -ESRCH)
		member_drop(part, member);
	store_sweep(&part->store);
}

int partition_merge(struct partition *part, const struct merge_target *target, uint64_t addr,
		    uint64_t size, unsigned int flags, struct merge_result *ret)
{
	uint64_t end, began = now_ns();
	struct member *member;
	int r = range(addr, size, &end);

	*ret = (struct merge_result){ 0 };
	if (r < 0 || (flags & ~PARTITION_DRY_RUN))
		return -EINVAL;
	pthread_mutex_lock(&part->lock);
	member = member_get(part, target);
	r = member ? pass_run(part, member, target, addr, end, flags, ret) : -ENOMEM;
	if (member)
		settle(part, member, target);
	part->nr_scanned += ret->scanned;
	part->nr_skipped += ret->skipped_changed + ret->skipped_limit + ret->skipped_mapping +
		ret->skipped_pinned;
	pthread_mutex_unlock(&part->lock);
	ret->elapsed_ns = now_ns() - began;
	return r;
}

/* Copies for the parts of a member's runs that are in [start, end). */
static int unmerge(const struct member *member, const struct merge_target *target, uint64_t start,
		   uint64_t end, struct merge_result *ret)
{
	for (size_t i = 0; i < member->nr_runs; i++) {
		const struct member_run *run = &member->run[i];
		uint64_t from = run->addr > start ? run->addr : start;
		uint64_t to = run->addr + (uint64_t)run->nr_pages * MERGE_PAGE;
		int r;

		to = to < end ? to : end;
		if (from >= to)
			continue;
		r = target->ops->populate(target->arg, from, to - from);
		if (r < 0)
			return r;
		ret->scanned += (to - from) / MERGE_PAGE;
		ret->merged += (to - from) / MERGE_PAGE;
		ret->saved_bytes -= (int64_t)(to - from);
	}
	return 0;
}

int partition_unmerge(struct partition *part, const struct merge_target *target, uint64_t addr,
		      uint64_t size, struct merge_result *ret)
{
	uint64_t end, began = now_ns();
	struct member *member;
	int r = range(addr, size, &end);

	*ret = (struct merge_result){ 0 };
	if (r < 0)
		return r;
	pthread_mutex_lock(&part->lock);
	member = member_get(part, target);
	r = member ? member_refresh(part, member, target, NULL) : -ENOMEM;
	if (r == 0)
		r = unmerge(member, target, addr, end, ret);
	if (member)
		settle(part, member, target);
	pthread_mutex_unlock(&part->lock);
	ret->elapsed_ns = now_ns() - began;
	return r;
}

void partition_forget(struct partition *part, pid_t pid, uint64_t birth)
{
	struct member *member;

	pthread_mutex_lock(&part->lock);
	for (member = part->members; member; member = member->next)
		if (member->pid == pid && member->birth == birth)
			break;
	if (member) {
		member_drop(part, member);
		store_sweep(&part->store);
	}
	pthread_mutex_unlock(&part->lock);
}

void partition_get_stats(struct partition *part, struct partition_stats *ret)
{
	struct partition_stats stats = { 0 };

	pthread_mutex_lock(&part->lock);
	for (uint32_t i = 0; i < part->store.nr_segments; i++) {
		const struct segment *segment = part->store.segment[i];

		for (uint32_t j = 0; segment && j < segment->nr_used; j++) {
			stats.pages_shared += segment->refs[j] > 0;
			stats.pages_sharing += segment->refs[j] > 1 ? segment->refs[j] - 1 : 0;
		}
		stats.store_bytes += segment ? (uint64_t)segment->nr_used * MERGE_PAGE : 0;
	}
	for (const struct member *member = part->members; member; member = member->next)
		stats.members++;
	stats.pages_unshared = part->index.nr_first;
	stats.pages_scanned = part->nr_scanned;
	stats.pages_skipped = part->nr_skipped;
	stats.index_bytes = part->index.nr_places * sizeof(struct index_entry);
	stats.general_profit = (int64_t)((stats.pages_shared + stats.pages_sharing) * MERGE_PAGE) -
		(int64_t)(stats.store_bytes + stats.index_bytes);
	pthread_mutex_unlock(&part->lock);
	*ret = stats;
}
