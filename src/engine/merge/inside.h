/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * inside.h - what is done inside the process whose pages are replaced: by the process itself, or by an agent in it.
 *
 * The code refers to nothing outside its section: no library, no constants, no global data. So the section can be copied
 * into another process and run there (merge_inside_code()).
 */
#ifndef KSHARED_ENGINE_MERGE_INSIDE_H
#define KSHARED_ENGINE_MERGE_INSIDE_H

#include <stddef.h>
#include <stdint.h>
#include <wire/merge.h>

/** struct inside_view - a segment of the store: its descriptor, and where its bytes can be read. */
struct inside_view {
	int fd; /* -1: none */
	uint32_t zero;
	const unsigned char *base;
	uint64_t size;
};

/**
 * struct inside - all state of one who replaces pages; one thread at a time.
 * @uffd: a userfaultfd of this process that sees the kernel's faults, too
 * @scratch: MERGE_BATCH_PAGES pages, registered with it, empty between batches
 * @engine: a pidfd of whoever works on this process from outside; -1: nobody
 * @memlock: if @limited: RLIMIT_MEMLOCK, which @engine raises for each batch, to be set again behind it
 * @may_lock: so much as a batch has can be locked, if @lock_tried
 * @used: bytes of it that hold what has been replaced
 * @reserve: as many, never touched: to find out whether so much can be locked
 */
struct inside {
	int uffd;
	int engine;
	uint32_t limited;
	uint32_t zero;
	uint64_t memlock[2];
	uint64_t scratch;
	uint64_t reserve;
	uint64_t used;
	uint32_t lock_tried;
	uint32_t may_lock;
	struct inside_view view[MERGE_SLOTS];
};

/**
 * inside_init() - make the userfaultfd and the two areas.
 * @device: a descriptor of /dev/userfaultfd, which stays the caller's; -1: by userfaultfd(2)
 * Return: 0; -errno: EPERM not permitted to watch the kernel's faults, EOPNOTSUPP no UFFDIO_MOVE, ENOMEM.
 */
int inside_init(struct inside *in, int device);

/** inside_deinit() - give back what inside_init() made. */
void inside_deinit(struct inside *in);

/**
 * inside_apply() - replace pages. The argument why nothing is lost is at the head of inside.c.
 * Nobody may change the mappings of what is in @batch meanwhile, or fork.
 * @ret: a fate for each page; @ret->error is not set
 */
void inside_apply(struct inside *in, const struct merge_batch *batch, struct merge_answer *ret);

/** inside_tidy() - free the pages that have been replaced. To be called after each inside_apply(), when nobody waits for it any more. */
void inside_tidy(struct inside *in);

/**
 * inside_populate() - copies of their own for all pages of a range, made by the kernel as if each were written.
 * Return: 0; -errno: ENOMEM, EINVAL, EFAULT.
 */
int inside_populate(uint64_t addr, uint64_t len);

/**
 * merge_inside_code() - the section, and where in it an agent begins, with a struct merge_params * as its argument.
 * @ret_len, @ret_entry: bytes
 */
const void *merge_inside_code(size_t *ret_len, size_t *ret_entry);

#endif
