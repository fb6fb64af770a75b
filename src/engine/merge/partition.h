/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * partition.h - one merge space: its store, its index, its members. All of it is in one object, so two partitions
 * have nothing in common that could be shared between them: no static state, no frame.
 *
 * A call (partition_merge) goes over the range in windows. In each: which pages are present, private and anonymous
 * (PAGEMAP_SCAN); hash them, on all threads; look the hashes up, in order, on one; put the pages that are no longer alone into the store, on
 * all threads; replace, in batches of neighbours. What has been seen for the first time and later again is replaced at the end of
 * the same call. Memory beyond the index: 56 bytes for each page of a window.
 *
 * References are not counted by keeping books, which a member's munmap() would make wrong: after each call /proc/PID/maps says what
 * of the store is mapped where, and the page tables which of it has been written since.
 *
 * Any thread may call; calls on one partition take turns.
 */
#ifndef KSHARED_ENGINE_MERGE_PARTITION_H
#define KSHARED_ENGINE_MERGE_PARTITION_H

#include <engine/merge/target.h>
#include <stdbool.h>
#include <stdint.h>

#define PARTITION_DRY_RUN (1u << 0) /* count, change nothing */

struct partition;

/**
 * struct partition_conf - 0 everywhere is a good choice.
 * @name: for people who look at mappings; NULL: none
 * @segment_pages: of one segment of the store; a power of two
 * @max_store_pages, @max_index_entries: limits
 * @nr_threads: that read and hash, the caller's included; 0: one per processor, at most 8
 * @batch_pages: at most in one batch; 0: MERGE_BATCH_PAGES
 * @batch_runs: at most in one batch; 0: MERGE_BATCH_RUNS
 * @max_vmas: of the target, in place of vm.max_map_count
 * @batch_flags: MERGE_NO_*, for tests
 */
struct partition_conf {
	const char *name;
	uint32_t segment_pages;
	uint64_t max_store_pages;
	uint64_t max_index_entries;
	unsigned int nr_threads;
	uint32_t batch_pages;
	uint32_t batch_runs;
	uint64_t max_vmas;
	uint32_t batch_flags;
};

/**
 * struct partition_stats - as /sys/kernel/mm/ksm has them.
 * @pages_shared: pages of the store that somebody maps
 * @pages_sharing: how many more pages map them: what is saved
 * @pages_unshared: contents seen once
 * @pages_scanned, @pages_skipped: in all calls
 * @members: processes that were merged and have not been forgotten
 * @store_bytes, @index_bytes: memory in use
 * @general_profit: bytes saved less the engine's own
 */
struct partition_stats {
	uint64_t pages_shared;
	uint64_t pages_sharing;
	uint64_t pages_unshared;
	uint64_t pages_scanned;
	uint64_t pages_skipped;
	uint64_t members;
	uint64_t store_bytes;
	uint64_t index_bytes;
	int64_t general_profit;
};

/** partition_new() - an empty partition. @conf: copied; NULL: the defaults. Return: it; NULL: no memory. */
struct partition *partition_new(const struct partition_conf *conf);

/** partition_free() - the store's segments live on while somebody maps them. @part: NULL is ignored */
void partition_free(struct partition *part);

/**
 * partition_merge() - merge what is equal in [addr, addr + size) of a process.
 * @flags: PARTITION_*
 * @ret: what was done, also when it fails in the middle
 * Return: 0; -EINVAL @addr is not aligned, or unknown flags; -ENOMEM; -ESRCH the process has ended; what the target's operations return.
 */
int partition_merge(struct partition *part, const struct merge_target *target, uint64_t addr,
		    uint64_t size, unsigned int flags, struct merge_result *ret);

/**
 * partition_unmerge() - copies of their own for what is merged in [addr, addr + size) of a process.
 * The kernel makes them, by the same way as for a write, so no write can be lost. The mappings stay mappings of the store until the
 * process gives them up, so a segment's memory may stay, too.
 * @ret: merged is what was unmerged
 * Return: 0; -EINVAL; -ENOMEM some may have been unmerged; -ESRCH; what the target's operations return.
 */
int partition_unmerge(struct partition *part, const struct merge_target *target, uint64_t addr,
		      uint64_t size, struct merge_result *ret);

/** partition_forget() - a process has ended: it holds nothing any more. */
void partition_forget(struct partition *part, pid_t pid, uint64_t birth);

/** partition_get_stats() - how things stand. */
void partition_get_stats(struct partition *part, struct partition_stats *ret);

#endif
