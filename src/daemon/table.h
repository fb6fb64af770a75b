/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * table.h - the keeper's table of records: numbers, bytes that it never reads, descriptors.
 *
 * A process may hold only RLIMIT_NOFILE descriptors. When the table nears that, it is split off: a fork keeps
 * the descriptors (a vault: it does nothing else) and the keeper goes on with an empty descriptor table. A vault is asked for a
 * descriptor with pidfd_getfd().
 *
 * Closing may wait, so threads do it (closer.h).
 */
#ifndef KSHARED_DAEMON_TABLE_H
#define KSHARED_DAEMON_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <wire/keep.h>

struct table;

/**
 * table_new() - an empty table.
 * @max_fds: split off when there are so many
 * @closing: in shared memory: SHM_OWNERS counts, for the worker to see
 * Return: 0; -errno.
 */
int table_new(struct table **ret, unsigned int max_fds, struct shm_closing *closing);

/** table_free() - drop all records and end the vaults. */
void table_free(struct table *t);

/**
 * table_commit() - carry out a KEEP_COMMIT message, wholly or not at all.
 * @fd: what came with it, or -1; taken
 * Return: 0; -EINVAL it is not well-formed; -ENOMEM.
 */
int table_commit(struct table *t, const void *bytes, size_t len, int fd);

/**
 * table_borrow() - a record's descriptor.
 * @ret_held: it is the table's own; else it came from a vault and is the caller's, for table_close()
 * Return: the descriptor; -ENOENT; -EBADF it has none; -errno.
 */
int table_borrow(struct table *t, uint64_t id, bool *ret_held);

/** table_backing() - the passthrough id of a record, registered with @fuse_fd if it has none. Return: > 0; -errno. */
int table_backing(struct table *t, uint64_t id, int fuse_fd);

/** table_snapshot() - append all records and finished requests to @fd; fills the counts in @head. Return: 0; -errno. */
int table_snapshot(const struct table *t, int fd, struct keep_snapshot *head);

/** table_close() - close a descriptor that is in no record, without waiting. */
void table_close(struct table *t, int fd);

/** table_close_copy() - close what table_borrow() gave, which a vault has, too. */
void table_close_copy(struct table *t, int fd);

/** table_is_vault() - is @pid one of the vaults? Its death is a loss that must be said. */
bool table_is_vault(const struct table *t, pid_t pid);

#endif
