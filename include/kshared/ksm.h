/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * kshared/ksm.h - Selective KSM: identical pages of one partition are merged when asked, never behind your back.
 *
 * A partition is a security domain: pages are merged only with pages of the same partition. Merging happens inside
 * the call, and nothing runs between calls. A merged page is read from the partition's store; a write gives the
 * writer a copy of his own, as with any private page, which takes longer than a plain write: **members of a partition can find
 * out by timing what others of it hold**, and a member that looks into its own mappings can read the store. Put only those
 * together who may know each other's memory.
 *
 * What may be merged: memory from ksm_alloc(), for which every rule below is kept; and the private anonymous memory of another
 * process, which is stopped for short moments meanwhile, if the process makes no assumption that is listed in kshared-ksm(7).
 * Shared memory is not merged, nor are stacks, huge pages of hugetlb, pages that a device or io_uring holds, and
 * pages that are shared with a forked child.
 *
 * For the conventions (errors, threads, fork) see kshared.h. The names and meanings of the first four calls are those of Sourav
 * Panda's proposal for Linux.
 */
#ifndef KSHARED_KSM_H
#define KSHARED_KSM_H

#include <kshared.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Flags of ksm_open() */
#define KSM_SYNC \
	(1u << 0) /* merging is done by calls; without it a partition can only be looked at */
#define KSM_CREAT (1u << 1) /* make the partition if there is none of the name */
#define KSM_EXCL (1u << 2) /* with KSM_CREAT: EEXIST if there is one */

/* Flags of ksm_merge_ex() */
#define KSM_DRY_RUN (1u << 0) /* count what would be merged; nothing is changed */
#define KSM_FORCE \
	(1u       \
	 << 1) /* memory of a process that did not ask for it: see kshared-ksm(7) for what this risks */
#define KSM_GUEST_RAM (1u << 2) /* it is the memory of a virtual machine's guest, says the caller */

/**
 * struct ksm_result - what a call did. All in pages but for the last two.
 * @scanned: looked at: present, private, anonymous
 * @merged: now read from the store, or, if they held zeros, given back
 * @zero: those of @merged that held zeros
 * @unique: with no equal in the partition so far
 * @skipped_changed: written between being looked at and being replaced
 * @skipped_pinned: held by a device or io_uring, or shared with a forked child
 * @skipped_mapping: in a mapping that cannot be merged: another kind, other protection, watched by a userfaultfd of the
 *                   process's own, or merged once and written since
 * @skipped_limit: vm.max_map_count, RLIMIT_MEMLOCK, or the partition's own memory
 * @saved_bytes: memory that the merged pages took less what the store took for them; may be negative
 * @elapsed_ns: time taken
 */
struct ksm_result {
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
	uint64_t reserved[6];
};

/**
 * struct ksm_stats - how a partition stands; as files it has the same in ksm/NAME/.
 * @pages_shared: pages of the store that somebody reads
 * @pages_sharing: how many more read them: what is saved
 * @pages_unshared: contents that were seen once
 * @pages_scanned, @pages_skipped: in all calls, of one that is under way so far
 * @members: processes that were merged and have not ended
 * @store_bytes, @index_bytes: memory in use
 * @general_profit: bytes saved less what the store and the index take
 */
struct ksm_stats {
	uint64_t pages_shared;
	uint64_t pages_sharing;
	uint64_t pages_unshared;
	uint64_t pages_scanned;
	uint64_t pages_skipped;
	uint64_t members;
	uint64_t store_bytes;
	uint64_t index_bytes;
	int64_t general_profit;
	uint64_t reserved[7];
};

/**
 * ksm_open() - open a partition of the default folder, or make it.
 * @name: its name in ksm/
 * @flags: KSM_*
 * @mode: permissions of a new one, less the process's umask: who may write may merge, who may read may look. They are what is asked
 *        for, too: with KSM_SYNC to write, without to read. (The proposal would have O_RDWR and its like among them, which are the
 *        same bits as others' permissions.)
 * Return: a descriptor that keeps the partition; -1 with errno: ENOENT, EEXIST, EACCES, EINVAL (name or flags), ENAMETOOLONG,
 * EDQUOT, ENOSPC, EMFILE, ENOSYS the folder's daemon knows no partitions, EOPNOTSUPP the kernel lacks UFFDIO_MOVE (6.8)
 * or PAGEMAP_SCAN (6.7).
 */
int ksm_open(const char *name, unsigned int flags, mode_t mode);

/** ksm_open_at() - ksm_open() by a connection. @k: NULL: the default one. Return, errors: as for ksm_open(). */
int ksm_open_at(struct kshared *k, const char *name, unsigned int flags, mode_t mode);

/**
 * ksm_unlink() - remove a partition's name. It ends when the last descriptor of it is closed; what is merged stays so.
 * Return: 0; -1 with errno: ENOENT, EACCES, EPERM, ENOSYS.
 */
int ksm_unlink(const char *name);

/** ksm_unlink_at() - ksm_unlink() by a connection. @k: NULL: the default one. Return, errors: as for ksm_unlink(). */
int ksm_unlink_at(struct kshared *k, const char *name);

/**
 * ksm_merge() - merge what is equal in a part of a process's memory.
 * @fd: from ksm_open() with KSM_SYNC
 * @pid: whose memory; 0: the caller's
 * @addr: where it begins, on a page boundary
 * @size: bytes; a part of a page at the end is left out
 *
 * The caller must be permitted to trace @pid. Mappings that cannot be merged are skipped. May be called from any thread; calls
 * on one partition take turns.
 *
 * Return: 0; -1 with errno: EBADF not a partition's descriptor, or without KSM_SYNC; EINVAL @addr is not aligned, or for the
 * caller's own memory: not from ksm_alloc(); EACCES another process's memory that is not from ksm_alloc() either, without
 * KSM_GUEST_RAM or KSM_FORCE; ECONNREFUSED the folder has ended; ESRCH no such process, or it ended meanwhile; EPERM not permitted to trace it, or to
 * watch its page faults (userfaultfd); EFAULT nothing is mapped there; ENOMEM; EBUSY it is being traced by another;
 * EAGAIN it executed another program meanwhile, or has too many threads; EOPNOTSUPP a 32-bit process, or as for ksm_open();
 * ENOSYS. What had been merged before an error stays merged.
 */
int ksm_merge(int fd, pid_t pid, void *addr, size_t size);

/**
 * ksm_unmerge() - give each page of a part of a process's memory a copy of its own again.
 * Arguments, return and errors as for ksm_merge(); and ENOMEM if there is no memory for the copies: some are made then.
 */
int ksm_unmerge(int fd, pid_t pid, void *addr, size_t size);

/**
 * ksm_merge_ex() - ksm_merge() with its results.
 * @pidfd: whose memory, as a pidfd; -1: the caller's
 * @flags: KSM_DRY_RUN, KSM_FORCE, KSM_GUEST_RAM
 * @ret: filled, also when the call fails in the middle; NULL: not wanted
 * Return, errors: as for ksm_merge(); and EINVAL unknown flags, EBADF @pidfd is none.
 */
int ksm_merge_ex(int fd, int pidfd, void *addr, size_t size, unsigned int flags,
		 struct ksm_result *ret);

/** ksm_unmerge_ex() - ksm_unmerge() by a pidfd (-1: the caller's memory). Return, errors: as for ksm_unmerge(). */
int ksm_unmerge_ex(int fd, int pidfd, void *addr, size_t size, unsigned int flags);

/**
 * ksm_get_stats() - how a partition stands.
 * @fd: from ksm_open(); O_WRONLY will do, too
 * Return: 0; -1 with errno: EBADF, ENOSYS, ECONNREFUSED the folder has ended.
 */
int ksm_get_stats(int fd, struct ksm_stats *ret);

/**
 * ksm_alloc() - private anonymous memory that may be merged.
 * @size: bytes, rounded up to whole pages
 *
 * Use it like any memory: plain access, system calls, DMA, io_uring, fork(). The mapping itself is the library's: it must not be changed by mmap(MAP_FIXED),
 * mprotect(), mremap() or munmap(). madvise(MADV_DONTNEED) and MADV_FREE give EINVAL where it is merged; write zeros
 * instead, and merge. While a merge of it is under way they must not be called (old bytes could come back), nor may the process fork by a
 * raw clone(2), which passes by the library; fork() and vfork() may be called at any time.
 *
 * Return: the memory, zeroed, given back by ksm_free(); NULL with errno: EINVAL @size is 0, ENOMEM.
 */
void *ksm_alloc(size_t size);

/** ksm_free() - give back memory from ksm_alloc(). @addr: what it returned; NULL is ignored. */
void ksm_free(void *addr);

#ifdef __cplusplus
}
#endif

#endif
