/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuse.h - the folder as a mounted file system: the kernel's requests from /dev/fuse.
 *
 * The raw protocol, because libfuse can neither take over a running mount nor negotiate passthrough (in Debian 12).
 * The mount is made with default_permissions, so the kernel has checked modes, groups and capabilities before it asks.
 *
 * Nothing is remembered here that the kernel needs: node ids are entries' numbers, handles' words are their own meaning, and lookup
 * counts are not kept. A removed entry ends when the kernel says that it does not know the inode (an
 * invalidation of it fails with ENOENT). So a new process takes over by asking for what was under way (FUSE_NOTIFY_RESEND).
 *
 * One thread. Nothing here blocks.
 */
#ifndef KSHARED_IO_FUSE_H
#define KSHARED_IO_FUSE_H

#include <core/tree.h>
#include <stddef.h>

struct fuse;

/**
 * struct fuse_conf - for fuse_new().
 * @fd: /dev/fuse, non-blocking, borrowed
 * @minor, @flags: what an earlier worker agreed with the kernel; 0: INIT is still to come
 * @socket: the control socket's path, for user.kshared.socket
 * @want_passthrough: offer it, if the kernel does
 * @agreed: INIT has been answered
 * @all_came: after fuse_resend(): every request that was to come again has come
 * @ended: the mount is gone
 */
struct fuse_conf {
	int fd;
	struct tree *tree;
	uint32_t minor;
	uint64_t flags;
	const char *socket;
	bool want_passthrough;
	void (*agreed)(void *ctx, uint32_t minor, uint64_t flags);
	void (*ended)(void *ctx);
	void (*all_came)(void *ctx);
	void *ctx;
};

/** fuse_new() - serve @conf->tree. Return: 0; -ENOMEM. */
int fuse_new(struct fuse **ret, const struct fuse_conf *conf);

/** fuse_free() - serve no longer; requests under way are left to the next worker. */
void fuse_free(struct fuse *f);

/** fuse_resend() - ask the kernel for what an earlier worker had read and not answered. Return: 0; -errno. */
int fuse_resend(struct fuse *f);

/** fuse_dispatch() - handle what is there, some requests at most; call when the device is readable. */
void fuse_dispatch(struct fuse *f);

/**
 * fuse_handle() - handle one message of the kernel's.
 * @bytes: at least @len bytes, any content
 */
void fuse_handle(struct fuse *f, const void *bytes, size_t len);

/** fuse_answer() - answer a transfer that an earlier worker had made. Return: whether somebody waited for it. */
bool fuse_answer(struct fuse *f, uint64_t unique, bool write, const void *data, uint32_t bytes);

/** fuse_wake() - a poller shall ask again. */
void fuse_wake(struct fuse *f, uint64_t handle);

/** fuse_attr_changed() - forget an entry's cached attributes. Return: 0; -ENOENT the kernel does not know the inode. */
int fuse_attr_changed(struct fuse *f, uint64_t id);

/** fuse_names_changed() - forget cached names. */
void fuse_names_changed(struct fuse *f);

/** fuse_all_changed() - forget whatever is cached: an earlier worker may have died before it could say what changed. */
void fuse_all_changed(struct fuse *f);

/** fuse_removed() - an entry was removed otherwise than through the mount: end it, unless the kernel knows it and needs it. */
void fuse_removed(struct fuse *f, struct entry *e);

/** fuse_sweep() - end the removed entries that the kernel has let go. */
void fuse_sweep(struct fuse *f);

/** fuse_agreed() - the protocol agreed with the kernel. Return: its minor version; *@flags of INIT. */
uint32_t fuse_agreed(const struct fuse *f, uint64_t *flags);

#endif
