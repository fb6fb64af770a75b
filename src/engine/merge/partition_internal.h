/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * partition_internal.h - what partition.c, pass.c, members.c and scan.c share.
 */
#ifndef KSHARED_ENGINE_MERGE_PARTITION_INTERNAL_H
#define KSHARED_ENGINE_MERGE_PARTITION_INTERNAL_H

#include <engine/merge/index.h>
#include <engine/merge/partition.h>
#include <engine/merge/store.h>
#include <pthread.h>

#define WINDOW_PAGES 16384u
#define MAX_THREADS 8u
#define ZERO_PAGE (UINT64_MAX - 1) /* in place of a store page: the page holds zeros */

/** struct member_run - pages of a member that read the store: mapped, and not written since. @page: of the store, the first one's */
struct member_run {
	uint64_t addr;
	uint64_t page;
	uint32_t nr_pages;
};

/** struct member - one process. @id: never used again */
struct member {
	struct member *next;
	uint32_t id;
	pid_t pid;
	uint64_t birth;
	struct member_run *run;
	size_t nr_runs;
};

struct partition {
	pthread_mutex_t lock;
	struct partition_conf conf;
	struct store store;
	struct index index;
	struct member *members;
	uint32_t last_member;
	uint32_t last_call;
	uint64_t nr_scanned;
	uint64_t nr_skipped;
	uint64_t nr_saved; /* pages whose equals were known */
	uint64_t nr_copies; /* pages of the store that hold what others before them hold */
	struct content_hash zero_hash;
};

/**
 * struct seen_page - a page of a window.
 * @page: what is to take its place: a page of the store, ZERO_PAGE, or STORE_NONE
 */
struct seen_page {
	uint64_t addr;
	struct content_hash hash;
	uint64_t page;
	uint32_t area;
	bool unread;
};

/** struct filling - a page of the store to be written with what is at @addr, if that has still the hash. */
struct filling {
	uint64_t addr;
	uint64_t page;
	struct content_hash hash;
	bool failed;
};

/** scan_present() - fill @seen with pages of [*start, end) that are present, private, anonymous.
 * *@start becomes where to go on. Return: how many; -errno. */
long scan_present(const struct merge_target *target, uint64_t *start, uint64_t end, uint32_t area,
		  struct seen_page *seen, uint32_t max_pages);

/** struct scan_job - work that is under way on several threads: pages to be hashed, or to be put into the store. */
struct scan_job {
	struct partition *part;
	const struct merge_target *target;
	struct seen_page *seen;
	struct filling *filling;
	uint32_t nr_items;
	uint32_t next;
	unsigned int nr_started;
	pthread_t owner;
	pthread_t thread[MAX_THREADS];
};

/** scan_hash_begin() - hash pages on all threads but this one, which may do something else meanwhile; what cannot be read is marked. */
void scan_hash_begin(struct scan_job *job, struct partition *part,
		     const struct merge_target *target, struct seen_page *seen, uint32_t nr_pages);

/** scan_hash_end() - help until all is hashed. */
void scan_hash_end(struct scan_job *job);

/** scan_fill() - write pages of the store on all threads; those whose content has changed are marked. */
void scan_fill(struct partition *part, const struct merge_target *target, struct filling *filling,
	       uint32_t nr_fillings);

/** scan_content() - the hash of a page's content, which may change meanwhile. */
struct content_hash scan_content(const void *page);

/** scan_copy() - copy a page that may change meanwhile. */
void scan_copy(void *to, const void *from);

/** member_get() - the member that is this process; made if there is none. Return: it; NULL: no memory. */
struct member *member_get(struct partition *part, const struct merge_target *target);

/**
 * member_refresh() - find out what of the store a member maps, and count its references anew.
 * @ret_vmas: how many mappings it has; NULL: not wanted
 * Return: 0; -errno: then it holds what was known before.
 */
int member_refresh(struct partition *part, struct member *member, const struct merge_target *target,
		   uint64_t *ret_vmas);

/** member_drop() - take a member's references back and forget it. */
void member_drop(struct partition *part, struct member *member);

/** pass_run() - partition_merge() with the lock held. */
int pass_run(struct partition *part, struct member *member, const struct merge_target *target,
	     uint64_t start, uint64_t end, unsigned int flags, struct merge_result *ret);

#endif
