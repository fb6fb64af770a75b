/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * store.h - where entries outlive the worker: the interface that core needs, and others implement.
 *
 * A commit is atomic and final when the call returns. There is no failure to handle: an implementation that
 * has lost its store ends the process, since nothing true could be said to a client any more.
 */
#ifndef KSHARED_CORE_STORE_H
#define KSHARED_CORE_STORE_H

#include <stddef.h>
#include <stdint.h>

struct shm;
struct store;

/**
 * struct change - one record's new bytes, or its end.
 * @owner: the entry's; its descriptor is closed on his account
 * @bytes: NULL: the record and its descriptor are dropped
 */
struct change {
	uint64_t id;
	uint32_t owner;
	const void *bytes;
	size_t len;
};

/**
 * struct commit - what happens in one step.
 * @fd: a descriptor for the first change's record, or -1; borrowed
 * @done_id: the request that this carries out (0,0: none), with its @result and the entry concerned
 */
struct commit {
	struct change changes[2];
	unsigned int nr_changes;
	int fd;
	uint64_t done_id[2];
	int32_t result;
	uint64_t done_entry;
};

struct store_ops {
	void (*commit)(struct store *s, const struct commit *c);
	/* A new descriptor of what record @id holds, or -errno; owned by the caller. */
	int (*borrow)(struct store *s, uint64_t id);
	/* The passthrough id of record @id's descriptor, > 0, or -errno. */
	int (*backing)(struct store *s, uint64_t id);
};

/** struct store - embedded by its implementation. @shm: shared with the keeper, mapped for good */
struct store {
	const struct store_ops *ops;
	struct shm *shm;
};

#endif
