/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * kshared.h - one folder of shared kernel objects: connecting to it, listing it, removing from it.
 *
 * A folder is served by ksharedd(8). Programs use it through its mount with plain system calls, or
 * through this library, which talks to the daemon's socket and needs no mount. What one entry
 * gives is in the headers of its kind: kshared/srv.h and kshared/mem.h.
 *
 * Conventions. Calls that return int return 0 or a new descriptor on success, and -1 with errno set on
 * failure; calls that return a pointer return NULL with errno set. Descriptors returned are
 * close-on-exec and belong to the caller. Every call may be made from any thread and after fork();
 * a connection lost because the daemon restarts is made again without the caller noticing, and no
 * request is carried out twice. In a signal handler none of these may be called.
 *
 * Wherever a `struct kshared *` is taken, NULL means the process's default connection, which is
 * made on first use (see kshared_connect() for where it goes).
 */
#ifndef KSHARED_H
#define KSHARED_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KSHARED_NAME_MAX 255 /* bytes in one name, without the terminating NUL */
#define KSHARED_PATH_MAX 1023 /* bytes in a path inside the folder, without the NUL */

/** struct kshared - a connection to one folder's daemon; opaque. */
struct kshared;

/** struct kshared_dir - a listing under way; opaque; not to be shared between threads. */
struct kshared_dir;

/**
 * struct kshared_entry - what is known of one entry.
 * @name: the entry's name, NUL-terminated
 * @kind: "srv" or "mem"
 * @mode: file type and permission bits, as st_mode (S_IFREG, or S_IFDIR for a board)
 * @uid: owner
 * @gid: group
 * @size_bytes: size of a memory object or of a posted file; 0 for what has no size
 * @allocated_bytes: memory or blocks in use, bytes
 * @btime_ns, @mtime_ns, @ctime_ns: created, last changed, attributes changed; ns since the epoch
 * @id: the entry's number in this folder (its st_ino); never used again while the folder is up
 * @opens: how often it was opened, by the mount or the library
 * @what: what is posted ("socket", "pipe", "tty", "file", "memfd", "eventfd", ...), "memfd" for a
 *        memory object, "unposted" for a srv entry that waits for its descriptor, "" for a board
 * @access: O_RDONLY, O_WRONLY or O_RDWR: the posted descriptor's access
 * @posted_ns: when it was posted, ns since the epoch; 0: not yet
 * @poster_uid, @poster_pid, @poster_comm: who posted it, as seen by the daemon; the pid may be gone
 * @seals: F_SEAL_* of a memory object
 */
struct kshared_entry {
	char name[KSHARED_NAME_MAX + 1];
	char kind[8];
	char what[16];
	uint32_t mode;
	uint32_t uid;
	uint32_t gid;
	uint32_t access;
	uint64_t id;
	uint64_t size_bytes;
	uint64_t allocated_bytes;
	int64_t btime_ns;
	int64_t mtime_ns;
	int64_t ctime_ns;
	int64_t posted_ns;
	uint64_t opens;
	uint32_t poster_uid;
	uint32_t poster_pid;
	char poster_comm[16];
	uint32_t seals;
	uint32_t reserved[5];
};

/* What the daemon could use of this kernel; kshared_status.features. */
#define KSHARED_FEATURE_MOUNT (1u << 0) /* the folder is mounted (else: library only) */
#define KSHARED_FEATURE_PASSTHROUGH (1u << 1) /* files and memory objects: FUSE passthrough */
#define KSHARED_FEATURE_RESEND (1u << 2) /* calls in flight survive a worker's death */
#define KSHARED_FEATURE_IO_URING (1u << 3) /* proxied I/O survives a worker's death exactly once */
#define KSHARED_FEATURE_EPOCH (1u << 4) /* names are cached by the kernel */
#define KSHARED_FEATURE_SANDBOX (1u << 5) /* the worker runs under a seccomp filter */
#define KSHARED_FEATURE_PTRACE (1u << 6) /* descriptors of other users can be posted by number */

#define KSHARED_FEATURE_BPF \
	(1u                 \
	 << 7) /* pages of ports are written by BPF programs (else: read from /proc now and then) */

/**
 * struct kshared_status - the daemon as a whole.
 * @mountpoint: where the folder is mounted; "" if it is not
 * @version: the daemon's version
 * @keeper_pid, @worker_pid: its two processes, as numbered in the daemon's pid namespace
 * @restarts: how often a worker had to be replaced
 * @features: KSHARED_FEATURE_*
 * @fuse_minor: minor version of the FUSE protocol agreed with the kernel
 * @started_ns: when the folder was brought up, ns since the epoch
 * @entries, @bytes: in use; @max_*: the limits (0: none); *_uid: of the calling user
 */
struct kshared_status {
	char mountpoint[KSHARED_PATH_MAX + 1];
	char version[32];
	uint32_t keeper_pid;
	uint32_t worker_pid;
	uint32_t features;
	uint32_t fuse_minor;
	uint64_t restarts;
	int64_t started_ns;
	uint64_t entries;
	uint64_t bytes;
	uint64_t max_entries;
	uint64_t max_bytes;
	uint64_t entries_uid;
	uint64_t bytes_uid;
	uint64_t max_entries_uid;
	uint64_t max_bytes_uid;
	uint64_t reserved[4];
};

/**
 * kshared_connect() - connect to a folder's daemon.
 * @where: the folder's directory, or the path of the daemon's socket; NULL: $KSHARED_SOCKET, else
 *         the folder $KSHARED_DIR, else the default folder (/run/kshared for root, kshared in
 *         $XDG_RUNTIME_DIR for others)
 *
 * The caller's identity is that of the process at each call, not at connect time: after setuid() the connection
 * is renewed with the new identity.
 *
 * Return: a connection to be given to kshared_disconnect(); NULL with errno: ENOENT no such folder or socket,
 * ECONNREFUSED nobody serves it, EACCES not permitted, EPROTO not a kshared daemon, ENOMEM.
 */
struct kshared *kshared_connect(const char *where);

/** kshared_disconnect() - close a connection. @k: from kshared_connect(); NULL is ignored. */
void kshared_disconnect(struct kshared *k);

/**
 * kshared_opendir() - begin a listing.
 * @path: "srv", "mem", a board inside them, or "" for the folder itself
 * Return: a listing for kshared_readdir() and kshared_closedir(); NULL with errno: ENOENT, ENOTDIR, EACCES.
 */
struct kshared_dir *kshared_opendir(struct kshared *k, const char *path);

/**
 * kshared_readdir() - the next entry of a listing, in no particular order.
 * Entries that stay during the whole listing are given exactly once.
 * Return: 1 and *@ret filled; 0 at the end; -1 with errno.
 */
int kshared_readdir(struct kshared_dir *dir, struct kshared_entry *ret);

/** kshared_closedir() - end a listing. @dir: NULL is ignored. */
void kshared_closedir(struct kshared_dir *dir);

/**
 * kshared_stat() - what is known of one entry.
 * @path: for example "srv/redis"
 * Return: 0; -1 with errno: ENOENT, EACCES (a directory on the way), ENAMETOOLONG.
 */
int kshared_stat(struct kshared *k, const char *path, struct kshared_entry *ret);

/**
 * kshared_remove() - remove an entry or an empty board by its path.
 * Who has opened it keeps what was opened.
 * Return: 0; -1 with errno: ENOENT, EACCES, EPERM (sticky directory, not the owner), ENOTEMPTY.
 */
int kshared_remove(struct kshared *k, const char *path);

/** kshared_get_status() - the daemon as a whole. Return: 0; -1 with errno. */
int kshared_get_status(struct kshared *k, struct kshared_status *ret);

/* kshared_shutdown() flags */
#define KSHARED_SHUTDOWN_LAZY (1u << 0) /* detach the mount even if it is in use */

/**
 * kshared_shutdown() - unmount the folder and end its daemon; every entry is dropped.
 * Only root and the user who runs the daemon may.
 * Return: 0; -1 with errno: EPERM, EBUSY the mount is in use.
 */
int kshared_shutdown(struct kshared *k, unsigned int flags);

#ifdef __cplusplus
}
#endif

#endif
