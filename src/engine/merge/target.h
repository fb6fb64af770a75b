/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * target.h - a process whose memory is merged, as the engine sees it. Who can reach into it implements this: self.c for the
 * caller's own process; what is built on engine/remote for others.
 */
#ifndef KSHARED_ENGINE_MERGE_TARGET_H
#define KSHARED_ENGINE_MERGE_TARGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <wire/merge.h>

/** struct merge_area - addresses of one mapping that may be merged. @flags: MERGE_KEEP_* */
struct merge_area {
	uint64_t start;
	uint64_t end;
	uint32_t flags;
};

/**
 * struct merge_target_ops - each gets the target's @arg. `read` is called from several threads at once, the others by one.
 *
 * @areas: what of [start, end) may be merged, in rising order, into an array made by malloc(); the number of them, or -errno
 * @read: copy pages; the number that could be had from the first, or -errno. NULL: the memory is this process's own
 * @apply: carry out a batch by inside_apply(), the slots naming what `segment` was told; 0 and the fates, or -errno
 * @segment: from now on @slot means this segment; 0 or -errno
 * @populate: inside_populate() there
 * @pause_ns: how long all of the target stood still for the last batch, without what others took of the processors; NULL: it does not
 */
struct merge_target_ops {
	int (*areas)(void *arg, uint64_t start, uint64_t end, struct merge_area **ret);
	int (*read)(void *arg, uint64_t addr, void *pages, uint32_t nr_pages);
	int (*apply)(void *arg, const struct merge_batch *batch, struct merge_answer *ret);
	int (*segment)(void *arg, uint32_t slot, int fd, const void *base, uint64_t size);
	int (*populate)(void *arg, uint64_t addr, uint64_t len);
	uint64_t (*pause_ns)(void *arg);
};

/**
 * struct merge_target - for as long as a call takes.
 * @pid, @birth: which process: its number and the time of its start in clock ticks, as /proc/PID/stat has it
 * @pagemap: /proc/PID/pagemap
 * @maps: /proc/PID/maps
 */
struct merge_target {
	const struct merge_target_ops *ops;
	void *arg;
	pid_t pid;
	uint64_t birth;
	int pagemap;
	int maps;
};

#endif
