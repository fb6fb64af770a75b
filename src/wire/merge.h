/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * merge.h - what is said between the engine that merges and the code that replaces pages inside a process.
 *
 * Messages on a SEQPACKET socket; each is answered by one struct merge_answer. Both ends are of the same build.
 */
#ifndef KSHARED_WIRE_MERGE_H
#define KSHARED_WIRE_MERGE_H

#include <stdint.h>

#define MERGE_PAGE 4096u
#define MERGE_BATCH_PAGES 256u /* in one batch */
#define MERGE_BATCH_RUNS 64u
#define MERGE_SLOTS 128u /* segments that can be known inside at a time */
#define MERGE_SLOT_ZERO 0xffffffffu /* in place of a slot: the pages hold zeros */

/* What became of a page; merge_answer.page[] */
enum merge_fate {
	MERGE_DONE, /* replaced */
	MERGE_CHANGED, /* holds something else by now, or is not there */
	MERGE_PINNED, /* held by somebody, or shared with a child */
	MERGE_MAPPING, /* not in private, anonymous, plain memory */
	MERGE_LIMIT, /* vm.max_map_count, RLIMIT_MEMLOCK, memory */
};

/* Flags of a batch: of the mapping, to be set again where it is replaced */
#define MERGE_KEEP_DONTFORK (1u << 0)
#define MERGE_KEEP_DONTDUMP (1u << 1)
#define MERGE_KEEP_HUGEPAGE (1u << 2)
#define MERGE_KEEP_NOHUGEPAGE (1u << 3)
#define MERGE_NO_LOCK (1u << 8) /* for tests: without mlock2() */
#define MERGE_NO_CHECK \
	(1u << 9) /* for tests: without looking at what is replaced, to see losses found */

/** struct merge_run - pages that follow each other, and those of the store that are to take their place. */
struct merge_run {
	uint64_t addr;
	uint32_t nr_pages;
	uint32_t slot; /* the segment's, or MERGE_SLOT_ZERO */
	uint64_t offset; /* bytes into the segment */
};

/** struct merge_batch - runs in rising order, all in what was one mapping. */
struct merge_batch {
	uint32_t nr_runs;
	uint32_t flags;
	struct merge_run run[MERGE_BATCH_RUNS];
};

/** struct merge_answer - @error: -errno, or 0; of a batch by an agent the CPU time that it took, in ns; @page: a fate for each page of the batch, in its order. */
struct merge_answer {
	int32_t error;
	uint32_t nr_pages;
	uint8_t page[MERGE_BATCH_PAGES];
};

enum merge_op {
	MERGE_OP_HELLO, /* a, b, limited: RLIMIT_MEMLOCK; with the engine's pidfd, and one of /dev/userfaultfd if there is one */
	MERGE_OP_SEGMENT, /* a: slot, b: bytes; with the descriptor */
	MERGE_OP_BATCH, /* a, b, limited: RLIMIT_MEMLOCK as it was, to be set again when the batch is done */
	MERGE_OP_POPULATE, /* a: address, b: bytes: copies of their own for these pages */
	MERGE_OP_END,
};

/** struct merge_message - only a batch is sent with more than the head. */
struct merge_message {
	uint32_t op;
	uint32_t limited;
	uint64_t a;
	uint64_t b;
	struct merge_batch batch;
};

#define MERGE_HEAD_SIZE 24u
#define MERGE_HELLO_MS 5000 /* so long the agent waits for the first one */

/** struct merge_result - what a call did; ksm_result of kshared/ksm.h has the same, with the meaning of each. */
struct merge_result {
	uint64_t scanned;
	uint64_t merged;
	uint64_t zero;
	uint64_t unique;
	uint64_t skipped_changed;
	uint64_t skipped_pinned;
	uint64_t skipped_mapping;
	uint64_t skipped_limit;
	int64_t saved_bytes;
	uint64_t elapsed_ns;
};

enum merge_state { MERGE_STATE_NEW, MERGE_STATE_READY, MERGE_STATE_FAILED };

/**
 * struct merge_params - at the beginning of the agent's writable memory in the target; engine and agent both write it.
 * @busy: a futex: 1 from before the engine lets a batch loose until its end; threads that lose their tracer wait for 0
 * @state: enum merge_state, set by the agent
 * @sock: both ends of the agent's socket, as numbered in its own table of descriptors, when @state is READY
 * @error: -errno, when @state is FAILED
 * @area, @area_len: all of the agent's memory; it unmaps it at its end
 * @bye: where the code is that does so: (area, len) in the first two registers of a call
 */
struct merge_params {
	uint32_t busy;
	uint32_t state;
	int32_t sock[2];
	int32_t error;
	uint32_t zero;
	uint64_t area;
	uint64_t area_len;
	uint64_t bye;
};

_Static_assert(sizeof(struct merge_run) == 24, "layout");
_Static_assert(sizeof(struct merge_message) == MERGE_HEAD_SIZE + 8 + 24 * MERGE_BATCH_RUNS,
	       "layout");

#endif
