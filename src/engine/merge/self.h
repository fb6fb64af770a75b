/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * self.h - merging the caller's own memory: memory made for it, no ptrace, no other process.
 *
 * inside_apply() asks that nobody changes the mappings of what it replaces, nor forks. Here that is so by ownership: only
 * memory from merge_self_alloc() is replaced, whose mappings belong to this code, and whose users are told so (nor may they call MADV_DONTNEED or
 * MADV_FREE meanwhile: what is out of place is not discarded, and comes back); and
 * fork() waits for a batch to end, if who owns the object calls merge_self_fork_*() by pthread_atfork(3). Threads are not stopped:
 * one that touches a page that is being replaced waits for it in the kernel, also in the middle of a system call.
 *
 * Locks: the partition's, then this one.
 */
#ifndef KSHARED_ENGINE_MERGE_SELF_H
#define KSHARED_ENGINE_MERGE_SELF_H

#include <engine/merge/target.h>

struct merge_self;

/**
 * merge_self_new() - for this process.
 * @device: /dev/userfaultfd, which becomes the object's; -1: by userfaultfd(2)
 * Return: 0; -EPERM not permitted to watch the kernel's page faults; -EOPNOTSUPP the kernel cannot move pages; -ENOMEM.
 */
int merge_self_new(int device, struct merge_self **ret);

/**
 * merge_self_late() - the same without a userfaultfd, which is had when merging begins: memory can be made.
 * Return: 0; -ENOMEM.
 */
int merge_self_late(struct merge_self **ret);

/** merge_self_device() - use this /dev/userfaultfd, which becomes the object's, if it has none. @device: -1: none */
void merge_self_device(struct merge_self *self, int device);

/** merge_self_free() - its memory stays as it is and is not to be freed any more. @self: NULL is ignored */
void merge_self_free(struct merge_self *self);

/** merge_self_alloc() - memory that may be merged. @size: bytes, rounded up. Return: it; NULL: errno is ENOMEM or EINVAL. */
void *merge_self_alloc(struct merge_self *self, size_t size);

/** merge_self_release() - give back memory of merge_self_alloc(), at the end of a merge if there is one under way. Return: 0; -EINVAL it is not. */
int merge_self_release(struct merge_self *self, void *addr);

/**
 * merge_self_open() - this process as a target; merge_self_close() it.
 * Return: 0; -EPERM and others as for merge_self_new(), in a forked child; -errno of /proc.
 */
int merge_self_open(struct merge_self *self, struct merge_target *ret);

/** merge_self_close() - end what merge_self_open() began. */
void merge_self_close(struct merge_target *target);

/** merge_self_fork_*() - before fork, after it in the parent, after it in the child (which locks what is merged). */
void merge_self_fork_prepare(struct merge_self *self);
void merge_self_fork_parent(struct merge_self *self);
void merge_self_fork_child(struct merge_self *self);

#endif
