/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * kshared/port.h - kports: structures of the kernel, and of services, as memory that is read and written with no system call.
 *
 * KPORT is Ian M. Moffett's (OSMORA) draft for the Hyra operating system; the names and rules are its own. The layers, from a client to
 * what it reads and writes:
 *
 *	ubuf      the client's own memory
 *	kport     the pool: pages that client and server share, one pool for each client, with shadow bytes around it (SBR)
 *	shadow    the server's copy of what came, where the client cannot reach it: every check is made on this copy
 *	scache    write-through shadow cache: what the resource holds, and what readers see
 *	resource  what is served: a kernel structure, or a program's own
 *
 * Each port has one published page, which everybody who may read it maps read-only: it says itself what is in it, has the time of its
 * sample, and is read under a seqlock, so that a read is plain loads. Who may write has a pool besides.
 *
 * Rules of every access: its offset and length are multiples of the machine word (sizeof(long)), else EFAULT; it lies within the
 * data, else EFAULT. No software cache is above the pool: each read is of the page itself.
 *
 * Offsets are from the beginning of the data, bytes; the fields of a port (kport_field()) tell what is where.
 *
 * For the conventions (errors, fork, NULL connection) see kshared.h. A struct kport may be read by any number of threads at once; all
 * else is for one thread at a time. After fork() the parent and child share a port's pool: only one of them may write.
 */
#ifndef KSHARED_PORT_H
#define KSHARED_PORT_H

#include <kshared.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KPORT_NAME_MAX 43 /* bytes of a field's name */
#define KPORT_POOL_MAX 1024 /* pages of a pool */

/** struct kport - a port that was opened; opaque. */
struct kport;

/** struct kport_server - a port that is served; opaque. */
struct kport_server;

/* A field's type. */
enum kport_type {
	KPORT_U64 = 1,
	KPORT_S64,
	KPORT_U32,
	KPORT_FIXED, /* unsigned, 64 bits, the lowest fraction_bits of which are the fraction */
	KPORT_CHARS, /* width bytes, ended by a zero byte if shorter */
};

/**
 * struct kport_field - one value of a port's data, or @count of them @stride bytes apart.
 * @offset: from the beginning of the data, bytes
 * @width: bytes of one value
 */
struct kport_field {
	char name[KPORT_NAME_MAX + 1];
	char unit[12];
	uint32_t type; /* enum kport_type */
	uint32_t fraction_bits;
	uint32_t width;
	uint32_t count;
	uint32_t stride;
	uint32_t reserved;
	uint64_t offset;
};

/* Where a page's data is from. */
#define KPORT_SOURCE_BPF 1 /* a BPF program in the kernel */
#define KPORT_SOURCE_SAMPLER 2 /* read from /proc and /sys by the daemon */
#define KPORT_SOURCE_SERVICE 3 /* a program */

/**
 * struct kport_info - a port as a whole.
 * @size: bytes of data
 * @pool_size: bytes that can be written; 0: opened for reading only
 * @period_ns: how often the data is written; 0: not regularly
 * @sample_ns: CLOCK_MONOTONIC when the data was last taken; 0: never yet
 * @writes: how often it was written so far
 * @generation: of its publisher: another one after each restart
 * @gone: its server has ended, or has shut this client out; the last sample stays readable (kport_renew())
 */
struct kport_info {
	char name[32];
	uint32_t version;
	uint32_t source;
	uint32_t nr_fields;
	uint32_t gone;
	uint64_t size;
	uint64_t pool_size;
	uint64_t period_ns;
	uint64_t sample_ns;
	uint64_t writes;
	uint64_t generation;
	uint64_t reserved[4];
};

/* Flags of kport_open() */
#define KPORT_STRICT \
	(1u          \
	 << 0) /* around each access the processor's caches are flushed, as far as user space can: see kport_read() */
#define KPORT_FRESH \
	(1u << 1) /* kport_read() fails with ESTALE when the sample is older than three periods */
#define KPORT_POLLED \
	(1u << 2) /* kport_write() does not ring or wait: the server finds it at its next look */
#define KPORT_PKEY \
	(1u << 3) /* a protection key keeps stray stores of this program out of the pool */

/**
 * kport_open() - open a port.
 * @name: inside port; boards as "board/name"
 * @oflags: O_RDONLY, O_RDWR
 * @flags: KPORT_*
 *
 * Return: a port for kport_close(); NULL with errno: ENOENT, EACCES not permitted by the entry's mode, EPERM it cannot be written by
 * anybody, ECONNREFUSED its server is gone, ETIMEDOUT its server does not answer, EPROTO its server is no kport server,
 * EAGAIN its server has more callers waiting than it takes, EDQUOT it serves no more of this user's, EINVAL, EOPNOTSUPP (KPORT_STRICT,
 * KPORT_PKEY: not on this processor).
 */
struct kport *kport_open(struct kshared *k, const char *name, int oflags, unsigned int flags);

/** kport_close() - unmap and forget. @p: NULL is ignored. The pool's canaries are gone with it. */
void kport_close(struct kport *p);

/**
 * kport_read() - copy a part of the data as one pass of the writer left it.
 * @buf: aligned to the machine word, else EFAULT
 * @len, @offset: multiples of the machine word; within the data
 *
 * No system call. With KPORT_STRICT the cache lines are flushed first and loaded anew, which costs more than a small system call; a
 * mapping that the processor never caches cannot be had from user space.
 *
 * Return: @len; -1 with errno: EFAULT unaligned, or not within the data; EAGAIN the writer was at it at every try, or died at it;
 * ESTALE (KPORT_FRESH) too old.
 */
ssize_t kport_read(struct kport *p, void *buf, size_t len, uint64_t offset);

/**
 * kport_write() - have bytes written through to the resource.
 * @buf, @len, @offset: as for kport_read(); within the pool
 *
 * The bytes go to the client's pool; the server copies them to its shadow, checks the copy, and writes through.
 * With KPORT_POLLED it returns when the bytes are in the pool; kport_flush() waits.
 *
 * Return: @len; -1 with errno: EFAULT; EBADF opened for reading; EPIPE the server is gone or has shut this client out;
 * ETIMEDOUT it does not answer; or the errno with which the resource refused.
 */
ssize_t kport_write(struct kport *p, const void *buf, size_t len, uint64_t offset);

/** kport_flush() - wait until the last polled write was taken. Return: 0; -1 with errno as kport_write(). */
int kport_flush(struct kport *p);

/**
 * kport_map() - the memory itself.
 * @prot: PROT_READ: the published data, which its writer changes at any time; PROT_READ | PROT_WRITE: the client's own
 *        pool, where bytes can be put in place for kport_ring()
 * @ret_len: its length, bytes; NULL: not asked
 * What is mapped stays until kport_close() or kport_renew(). With KPORT_PKEY the pool is not writable outside of kport_write().
 * Return: NULL with errno: EBADF opened for reading, EINVAL.
 */
void *kport_map(struct kport *p, int prot, size_t *ret_len);

/** kport_ring() - what is in the pool at [@offset, @offset + @len) is to be written through; as kport_write(). Return: 0; -1 with errno. */
int kport_ring(struct kport *p, size_t len, uint64_t offset);

/** kport_info() - the port as a whole. No system call but one when it is not known to be gone. Return: 0. */
int kport_info(struct kport *p, struct kport_info *ret);

/** kport_field() - field number @i, from 0. Return: 0; -1 with errno ENOENT. */
int kport_field(struct kport *p, unsigned int i, struct kport_field *ret);

/** kport_find() - a field by name. Return: 0; -1 with errno ENOENT. */
int kport_find(struct kport *p, const char *name, struct kport_field *ret);

/**
 * kport_get() - one number.
 * @index: which of the field's values, from 0
 * Return: 0 and *@ret (KPORT_FIXED: unscaled); -1 with errno: EINVAL no number, ERANGE @index, and those of kport_read().
 */
int kport_get(struct kport *p, const struct kport_field *f, unsigned int index, uint64_t *ret);

/** kport_fd() - readable when the server is gone (POLLHUP); for poll(2) only. Return: borrowed. */
int kport_fd(struct kport *p);

/**
 * kport_renew() - open it again, after its server was restarted. Mappings and fields are new ones.
 * Return: 0; -1 with errno as kport_open(): the port remains as it was.
 */
int kport_renew(struct kport *p);

/* What an entry that is made by kport_create() shows. */
#define KPORT_TASK \
	1 /* a process's accounting; @fd is a pidfd, so that its number may be used again */
#define KPORT_CGROUP 2 /* a control group's accounting; @fd is its directory in cgroup2 */
#define KPORT_RULE \
	3 /* what new sockets in a control group may do; @fd as above; root only. Can be written */

/**
 * kport_create() - make a port that the daemon itself serves.
 * @what: KPORT_TASK, KPORT_CGROUP, KPORT_RULE
 * @fd: stays the caller's
 * @mode: permission bits of the entry, less the process's umask: 0444 who may read, 0222 who may write
 * It costs nothing while nobody has it open, but a rule, which holds until the entry is removed.
 * Return: 0; -1 with errno: EEXIST, EACCES (another user's process), EPERM, EBADF, EINVAL, ESRCH the process has ended,
 * EOPNOTSUPP this kernel cannot, EDQUOT, ENOSPC limits.
 */
int kport_create(struct kshared *k, const char *name, int what, int fd, mode_t mode);

/** kport_remove() - remove a port. Who has opened it goes on. Return: 0; -1 with errno as ksrv_remove(). */
int kport_remove(struct kshared *k, const char *name);

/* Serving a port. */

struct resource;

/**
 * struct kport_writer - who wrote.
 * @uid, @gid, @pid: as the daemon saw them when the port was opened; 0 in @pid: not known
 */
struct kport_writer {
	uint32_t uid;
	uint32_t gid;
	uint32_t pid;
	uint32_t reserved[5];
};

/**
 * struct resource_ops - what is behind a port.
 * @read: bring data up to date before it is published; NULL: it always is. Return: 0; -errno: nothing is published
 * @write: @len bytes at @offset are to become @from, which is the server's shadow: nobody changes it meanwhile. Return: 0: they are
 *         then put into data and published; -errno: the client gets that, and nothing changes. NULL: each write is taken
 */
struct resource_ops {
	int (*read)(struct resource *r);
	int (*write)(struct resource *r, const struct kport_writer *who, const void *from,
		     size_t len, uint64_t offset);
};

/**
 * struct resource - what a port serves.
 * @data, @size: its memory, aligned to the machine word and a multiple of it: the scache is kept equal to it
 * @user: the program's own
 */
struct resource {
	void *data;
	size_t size;
	void *user;
	struct resource_ops rops;
};

/* What becomes of a client that wrote on its pool's shadow bytes (SBR). In any case its write is not carried out. */
enum kport_policy {
	KPORT_KILL, /* it is killed; revoked if the server may not kill it */
	KPORT_REVOKE, /* it is shut out */
	KPORT_LOG, /* its shadow bytes are mended, and it goes on */
};

/**
 * struct kport_clobber - shadow bytes were found changed.
 * @offset: of the first one changed, from the beginning of the pool: below 0 it was before it, else at its end or beyond
 * @bytes: from the first to the last one changed
 * @done: what was done about it
 */
struct kport_clobber {
	struct kport_writer who;
	char comm[16];
	int64_t offset;
	uint32_t bytes;
	uint32_t done; /* enum kport_policy */
};

/**
 * struct kport_serve_options - zeroed: the defaults.
 * @mode: of the entry, less the process's umask; 0: 0644
 * @replace: take the place of an entry of this name that the caller owns
 * @pool_pages: of each client's pool; 0: as many as the data takes
 * @max_clients_uid: with pools, of one user; 0: 64
 * @policy: for clobbers
 * @period_ns: how often kport_server_dispatch() looks at shadow bytes and at polled writes while somebody may write, and is
 *             promised to readers if @publish; 0: 10 ms
 * @publish: data is read and published anew every period
 * @on_clobber: is told of each; NULL: nobody is
 * @user: for @on_clobber
 */
struct kport_serve_options {
	mode_t mode;
	unsigned int replace : 1;
	unsigned int publish : 1;
	unsigned int pool_pages;
	unsigned int max_clients_uid;
	enum kport_policy policy;
	uint64_t period_ns;
	void (*on_clobber)(const struct kport_clobber *c, void *user);
	void *user;
	uint64_t reserved[4];
};

/**
 * kport_serve() - serve a port.
 * @name: of the new entry inside port
 * @r: what is served; stays the caller's until kport_server_free()
 * @fields, @nr_fields: what is in the data; copied
 * @o: NULL: the defaults
 * The entry stays when the server ends; a new one takes it over with @replace.
 * Return: a server for kport_server_free(); NULL with errno: EEXIST, EINVAL a field is not within the data, unaligned or without a
 * name, EACCES, EDQUOT, ENOSPC, ENOMEM.
 */
struct kport_server *kport_serve(struct kshared *k, const char *name, struct resource *r,
				 const struct kport_field *fields, unsigned int nr_fields,
				 const struct kport_serve_options *o);

/** kport_server_fd() - readable when kport_server_dispatch() has something to do; for a loop of one's own. Return: borrowed. */
int kport_server_fd(struct kport_server *s);

/**
 * kport_server_dispatch() - take callers in, carry out what was written, look at shadow bytes.
 * @timeout_ms: how long to wait for something to do; 0: not at all, -1: without end
 * A server that calls it again and again with 0 is rung without a system call.
 * Return: how many writes were carried out or refused; -1 with errno: EINTR a signal; ENOTCONN the entry was removed.
 */
int kport_server_dispatch(struct kport_server *s, int timeout_ms);

/** kport_publish() - the data has changed: let readers see it. Return: 0; -1 with what resource_ops.read said. */
int kport_publish(struct kport_server *s);

/** kport_server_free() - end serving. The entry stays, without server. @s: NULL is ignored. */
void kport_server_free(struct kport_server *s);

/*
 * Pools, without a folder: for programs that share memory in their own ways.
 */

/**
 * kport_allocz() - a zeroed pool: @page_count pages between shadow bytes, which lie between guard pages (sealed where the kernel has
 * mseal(2)).
 * Return: the first byte of the pool; NULL with errno: EINVAL 0 or more than KPORT_POOL_MAX pages, ENOMEM.
 */
void *kport_allocz(size_t page_count);

/**
 * kport_check() - are a pool's shadow bytes as they were?
 * @pool: from kport_allocz()
 * @ret_offset, @ret_bytes: as in struct kport_clobber; NULL: not asked
 * Return: 0; -1 with errno EFAULT: they are not.
 */
int kport_check(const void *pool, int64_t *ret_offset, uint32_t *ret_bytes);

/** kport_free() - give a pool back. @pool: NULL is ignored. A sealed pool's guard pages stay as address space. */
void kport_free(void *pool);

#ifdef __cplusplus
}
#endif

#endif
