/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * keep.h - the worker's end of the keeper's channel: the store that core writes to.
 */
#ifndef KSHARED_IO_KEEP_H
#define KSHARED_IO_KEEP_H

#include <core/tree.h>
#include <stddef.h>
#include <wire/keep.h>

struct keep;

/**
 * keep_new() - speak with the keeper.
 * @fd: the channel, borrowed
 * @shm: the shared memory, mapped for as long as the store is used
 * @lost: the keeper is gone: does not return
 * Return: 0; -ENOMEM.
 */
int keep_new(struct keep **ret, int fd, struct shm *shm, void (*lost)(void));

/** keep_free() - speak no more. */
void keep_free(struct keep *k);

/** keep_store() - as core wants it. Return: borrowed. */
struct store *keep_store(struct keep *k);

/**
 * keep_restore() - put a snapshot into a tree.
 * @bytes: struct keep_snapshot and what follows
 * Return: 0; -EINVAL it is not one, or not of this version; -ENOMEM.
 */
int keep_restore(struct keep *k, struct tree *t, const void *bytes, size_t len);

/** keep_ready() - the folder is served. */
void keep_ready(struct keep *k);

/** keep_agreed() - what INIT has come to. */
void keep_agreed(struct keep *k, uint32_t minor, uint64_t flags);

/** keep_unmount() - unmount and end. @flags: KSHARED_SHUTDOWN_*. Return: 0; -EBUSY; -errno. */
int keep_unmount(struct keep *k, uint32_t flags);

/** keep_end() - the mount is gone: the keeper shall end. */
void keep_end(struct keep *k);

#endif
