/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ksm.h - between the daemon's worker, the merger, which has the partitions, and who has one open.
 *
 *	client -- CTL_OPEN, CTL_CREATE --> worker -- struct ksm_order + one end of a socket pair --> merger
 *	       <-- the other end --------
 *	client -- struct ksm_request + a socket for the answer ----------------------------------> merger
 *	       <-- struct ksm_answer, by that socket --------------------------------------------
 *
 * What ksm_open() gives is a socket by which requests are sent and nothing is received. Each has a socket of its own for what comes back, so
 * that any number of threads and processes may have the descriptor, and a merger that dies has lost no request that it had not begun: it is
 * found by the next, since the keeper has the merger's end, too.
 *
 * Who asks is told by the kernel with each request (SCM_CREDENTIALS, and SCM_PIDFD where it is known), not by who opened the partition.
 *
 * When a process merges its own memory, it does the merger's bidding meanwhile: what comes by the answer's socket are messages of merge.h,
 * each answered as said there, until a struct ksm_answer comes. Only memory that it has itself said to be for it is touched (below).
 *
 * Who trusts whom. A client believes the merger, which it knows from the daemon. The merger believes the worker; of a client's it believes
 * nothing: every length is checked, and what may hang when it is closed is closed aside.
 */
#ifndef KSHARED_WIRE_KSM_H
#define KSHARED_WIRE_KSM_H

#include <stdint.h>
#include <wire/merge.h>

#define KSM_MAGIC 0x314d534bu /* "KSM1": also the version of this layout; no enum merge_op */
#define KSM_NAME_MAX 40 /* of a partition, where it is told to people */

enum ksm_op {
	KSM_OP_OPEN = 1, /* worker only. fds: the client's other end */
	KSM_OP_END, /* worker only: the partition's name is gone; no descriptors */
	KSM_OP_LIVE, /* worker only: a new one has begun: this partition there is; 0: that were all */
	KSM_OP_STAT, /* fds: the answer's socket */
	KSM_OP_MEMBERS, /* worker only; the same: answered by text */
	KSM_OP_MERGE, /* the same, and the target's pidfd if KSM_TARGET says so; from a worker the caller's comes before it */
	KSM_OP_UNMERGE, /* the same */
};

/* Flags */
#define KSM_TARGET (1u << 31) /* another process; else who asks */

/**
 * struct ksm_order - from a worker.
 * @flags: KSM_DRY_RUN and others of kshared/ksm.h, KSM_TARGET
 * @access: of KSM_OP_OPEN: 4 read, 2 write
 * @uid, @gid: who asks
 * @entry: the partition's directory
 */
struct ksm_order {
	uint32_t magic;
	uint32_t op;
	uint32_t flags;
	uint32_t access;
	uint32_t uid;
	uint32_t gid;
	uint64_t entry;
	uint64_t addr;
	uint64_t size;
	char name[KSM_NAME_MAX];
};

/** struct ksm_request - from who has a partition open. */
struct ksm_request {
	uint32_t magic;
	uint32_t op;
	uint32_t flags;
	uint32_t zero;
	uint64_t addr;
	uint64_t size;
};

/** struct ksm_state - as struct ksm_stats of kshared/ksm.h, without what is reserved there. */
struct ksm_state {
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

/** struct ksm_answer - the last that comes. @error: 0 or -errno. The text of KSM_OP_MEMBERS follows it. */
struct ksm_answer {
	uint32_t magic;
	int32_t error;
	union {
		struct merge_result done;
		struct ksm_state state;
	};
};

/*
 * What a process has made for merging, it says by a shared mapping of a memfd of this name: who merges finds it among the process's mappings, and
 * reads it from there. It says nothing about rights.
 */
#define KSM_LIST_NAME "ksm-list"
#define KSM_LIST_MAX 65535u

struct ksm_range {
	uint64_t start;
	uint64_t end; /* start == end: none */
};

struct ksm_list {
	uint32_t magic;
	uint32_t nr; /* ranges to be looked at, in no order */
	uint64_t zero;
	struct ksm_range range[KSM_LIST_MAX];
};

_Static_assert(sizeof(struct ksm_order) == 48 + KSM_NAME_MAX, "layout");
_Static_assert(sizeof(struct ksm_request) == 32, "layout");
_Static_assert(sizeof(struct ksm_answer) == 88, "layout");

#endif
