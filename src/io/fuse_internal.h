/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuse_internal.h - shared by fuse.c (transport, table), fuse_dir.c (names, attributes) and fuse_file.c (open files).
 */
#ifndef KSHARED_IO_FUSE_INTERNAL_H
#define KSHARED_IO_FUSE_INTERNAL_H

#include <io/fuse.h>
#include <wire/fuse.h>

#define FUSE_BUFFER_BYTES ((1u << 18) + 4096) /* max_write and a header */
#define FUSE_MAX_WRITE (1u << 18)

/*
 * A node id is the entry's number, and above it an alias. While a write waits for room in a pipe, the kernel holds the
 * lock of the file's inode; unlink() of that name would wait for it holding the directory's lock, and everybody behind it.
 * So of an entry whose calls may wait every look-up gives another inode.
 */
#define NODE_BITS 40
#define NODE_MASK ((1ULL << NODE_BITS) - 1)

struct fuse {
	struct fuse_conf conf;
	struct tree *tree;
	uint32_t minor;
	uint64_t flags;
	struct fuse_request *pending; /* hash by unique */
	unsigned char *in;
	unsigned char *out;
	bool awaits_resent;
};

/**
 * struct fuse_request - one message, while it is being answered.
 * @rq: what kinds see; its done() finds this structure
 * @e: the entry of the header's node id
 * @in: the fixed part, of the length that the table demands
 * @name, @name2: the names that follow it, NUL-terminated
 * @payload, @payload_len: what follows those
 */
struct fuse_request {
	struct request rq;
	struct cred cred;
	struct fuse *f;
	struct fuse_in_header h;
	struct entry *e;
	const void *in;
	const char *name;
	const char *name2;
	const void *payload;
	size_t payload_len;
	struct attr_change change; /* of SETATTR, for after the size */
	void (*answer)(struct fuse_request *q, int result);
	UT_hash_handle hh;
};

/** fuse_reply() - answer with @len bytes, or with an error if @error < 0. Does not free @q. */
void fuse_reply(struct fuse_request *q, int error, const void *bytes, size_t len);

/**
 * fuse_begin() - a kind's operation is about to be called with &q->rq.
 * It may finish, and @q be gone, before it returns: set everything first.
 * @answer: called once with the result; takes @q
 */
void fuse_begin(struct fuse_request *q, void (*answer)(struct fuse_request *q, int result));

/** fuse_end() - what the operation returned; KIND_LATER: @q may be gone. */
void fuse_end(struct fuse_request *q, int result);

/** fuse_finish() - answer with a result alone. Takes @q. */
void fuse_finish(struct fuse_request *q, int error);

/** fuse_finish_bytes() - answer with bytes. Takes @q. */
void fuse_finish_bytes(struct fuse_request *q, const void *bytes, size_t len);

/** fuse_fill_entry() - what the kernel wants to know of a looked-up entry. */
void fuse_fill_entry(struct fuse *f, struct entry *e, struct fuse_entry_out *ret);

/** fuse_get_xattr() - user.kshared.NAME as text. Return: its length in @ret of @size bytes; -ENODATA. */
int fuse_get_xattr(struct fuse *f, struct entry *e, const char *name, char *ret, size_t size);

/* Handlers, each of the operation that it is named after; each takes @q and answers it, now or later. */
/** fuse_do_lookup() - LOOKUP */
void fuse_do_lookup(struct fuse_request *q);
/** fuse_do_getattr() - GETATTR */
void fuse_do_getattr(struct fuse_request *q);
/** fuse_do_statx() - STATX */
void fuse_do_statx(struct fuse_request *q);
/** fuse_do_setattr() - SETATTR */
void fuse_do_setattr(struct fuse_request *q);
/** fuse_do_mknod() - MKNOD */
void fuse_do_mknod(struct fuse_request *q);
/** fuse_do_mkdir() - MKDIR */
void fuse_do_mkdir(struct fuse_request *q);
/** fuse_do_unlink() - UNLINK */
void fuse_do_unlink(struct fuse_request *q);
/** fuse_do_rmdir() - RMDIR */
void fuse_do_rmdir(struct fuse_request *q);
/** fuse_do_rename() - RENAME */
void fuse_do_rename(struct fuse_request *q);
/** fuse_do_rename2() - RENAME2 */
void fuse_do_rename2(struct fuse_request *q);
/** fuse_do_opendir() - OPENDIR */
void fuse_do_opendir(struct fuse_request *q);
/** fuse_do_readdir() - READDIR */
void fuse_do_readdir(struct fuse_request *q);
/** fuse_do_readdirplus() - READDIRPLUS */
void fuse_do_readdirplus(struct fuse_request *q);
/** fuse_do_statfs() - STATFS */
void fuse_do_statfs(struct fuse_request *q);
/** fuse_do_getxattr() - GETXATTR */
void fuse_do_getxattr(struct fuse_request *q);
/** fuse_do_listxattr() - LISTXATTR */
void fuse_do_listxattr(struct fuse_request *q);
/** fuse_do_create() - CREATE */
void fuse_do_create(struct fuse_request *q);
/** fuse_do_open() - OPEN */
void fuse_do_open(struct fuse_request *q);
/** fuse_do_read() - READ */
void fuse_do_read(struct fuse_request *q);
/** fuse_do_write() - WRITE */
void fuse_do_write(struct fuse_request *q);
/** fuse_do_release() - RELEASE */
void fuse_do_release(struct fuse_request *q);
/** fuse_do_fsync() - FSYNC */
void fuse_do_fsync(struct fuse_request *q);
/** fuse_do_fallocate() - FALLOCATE */
void fuse_do_fallocate(struct fuse_request *q);
/** fuse_do_lseek() - LSEEK */
void fuse_do_lseek(struct fuse_request *q);
/** fuse_do_poll() - POLL */
void fuse_do_poll(struct fuse_request *q);

#endif
