/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * record.h - an entry as the bytes that the store keeps, and the parts of tree.c that restoring needs.
 * Inside core only.
 */
#ifndef KSHARED_CORE_RECORD_H
#define KSHARED_CORE_RECORD_H

#include <core/tree.h>

/**
 * record_write() - an entry as bytes.
 * @bytes: KEEP_BLOB_MAX bytes
 * Return: how many were written.
 */
size_t record_write(const struct entry *e, void *bytes);

/** record_write_at() - as record_write(), as if the entry stood elsewhere under another name. */
size_t record_write_at(const struct entry *e, uint64_t parent, const char *name, size_t len,
		       uint64_t pos, void *bytes);

/** entry_new() - an entry in no directory yet. Return: to be given to entry_free(); NULL: no memory. */
struct entry *entry_new(struct tree *t, const struct kind *kind, const char *name, size_t len);

/** entry_free() - an entry that is linked nowhere. */
void entry_free(struct entry *e);

/** entry_link() - into a directory, at its pos. */
void entry_link(struct entry *dir, struct entry *e);

#endif
