/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * kshared/mem.h - shared memory objects with names, owners, limits and seals.
 *
 * Each object is a memfd; a descriptor from here is that memfd: map it, size it, seal it. For the conventions
 * (errors, threads, fork, NULL connection) see kshared.h.
 */
#ifndef KSHARED_MEM_H
#define KSHARED_MEM_H

#include <kshared.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Flags of kmem_create() */
#define KMEM_RESIZABLE (1u << 0) /* size may change: neither SHRINK nor GROW is sealed */
#define KMEM_HUGE_2MB (1u << 1) /* huge pages of 2 MiB (hugetlb); size in whole pages */
#define KMEM_HUGE_1GB (1u << 2) /* huge pages of 1 GiB (hugetlb) */

/* Seals for kmem_seal(); the same numbers as F_SEAL_* */
#define KMEM_SEAL_SEAL 0x0001u /* no further seals */
#define KMEM_SEAL_SHRINK 0x0002u /* never smaller: a mapping inside the size cannot raise SIGBUS */
#define KMEM_SEAL_GROW 0x0004u /* never larger */
#define KMEM_SEAL_WRITE 0x0008u /* no writes at all; EBUSY while a writable mapping exists */
#define KMEM_SEAL_FUTURE_WRITE \
	0x0010u /* no new writable mappings or writes; existing mappings go on */
/* Both EBUSY while it is open for writing through the mount, since the kernel does not hold such a file to them. */

/**
 * kmem_create() - make a memory object.
 * @name: the new entry's name inside mem; boards as "board/name"
 * @size_bytes: its size; fixed by seals (SHRINK and GROW) unless KMEM_RESIZABLE or 0 is given
 * @mode: permission bits, less the process's umask
 * @flags: KMEM_*
 *
 * Return: a read-write descriptor; -1 with errno: EEXIST, EINVAL (name, flags, or a size not of whole huge pages), ENAMETOOLONG,
 * EDQUOT the caller's limit, ENOSPC the folder's limit, ENOMEM no (huge) pages, EACCES.
 */
int kmem_create(struct kshared *k, const char *name, uint64_t size_bytes, mode_t mode,
		unsigned int flags);

/**
 * kmem_open() - open a memory object.
 * @flags: O_RDONLY, O_WRONLY or O_RDWR; what the entry's mode permits is given, really no more
 * Return: a descriptor with an offset of its own; -1 with errno: ENOENT, EACCES, EPERM (sealed against writing).
 */
int kmem_open(struct kshared *k, const char *name, int flags);

/**
 * kmem_seal() - add seals to an object; they cannot be taken off.
 * @seals: KMEM_SEAL_*
 * Write permission on the entry is needed.
 * Return: 0; -1 with errno: ENOENT, EACCES, EINVAL, EPERM already sealed against sealing, EBUSY a writable mapping
 * exists and KMEM_SEAL_WRITE was asked for, or it is open for writing through the mount and one of the two write seals was.
 */
int kmem_seal(struct kshared *k, const char *name, unsigned int seals);

/**
 * kmem_remove() - remove an object; open descriptors and mappings stay.
 * Return: 0; -1 with errno: ENOENT, EACCES, EPERM, EISDIR a board.
 */
int kmem_remove(struct kshared *k, const char *name);

#ifdef __cplusplus
}
#endif

#endif
