/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * kshared/ring.h - message channels in shared memory.
 *
 * A ring lies in a memory object (kshared/mem.h), so its name, owner and mode are the folder's. It carries messages one
 * way, from writers to readers, whole and in order, and the daemon is not asked after kring_open(). Messages are written and read in place (kring_reserve(),
 * kring_peek()) or copied (kring_send(), kring_recv()); handing one over costs the same whatever its length.
 *
 * A handle is one end of one ring and is used by one thread at a time. It is not for use after fork(), but a child that does
 * not execute must give its copy up with kring_close(): until then its parent seems to live. Any process may end at any
 * instruction: what it had not committed is never seen, what it had not released is given to the next reader, and the place that it held is free.
 *
 * The other end need not be trusted: whatever it writes into the memory, a call here fails with EBADMSG at worst. It can read
 * and change what was sent; a message that was peeked at can change while it is looked at, one that was received by kring_recv() cannot.
 * With KRING_PROTECTED readers cannot write what writers have sent.
 *
 * For the conventions (errors, NULL connection) see kshared.h. Times are in ms; 0: do not wait; negative: for ever.
 */
#ifndef KSHARED_RING_H
#define KSHARED_RING_H

#include <kshared.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/** struct kring - one end of a ring; opaque. */
struct kring;

/* Shapes */
#define KRING_ONE_TO_ONE 1u
#define KRING_MANY_TO_ONE 2u /* each writer's messages in order; each has space of its own */
#define KRING_BROADCAST 3u /* one writer; each reader gets every message from when it came */

/* Flags of struct kring_conf */
#define KRING_PROTECTED \
	(1u << 0) /* readers cannot write data; a second object, NAME.ctl, is made */
#define KRING_BLOCKING \
	(1u            \
	 << 1) /* KRING_BROADCAST: the writer waits for the slowest reader; else that one loses */

/* Ends: kring_open(), kring_attach() */
#define KRING_WRITER 1u
#define KRING_READER 2u
#define KRING_OBSERVER 3u /* for kring_get_stat() and kring_get_peers() alone; takes no place */
#define KRING_HISTORY (1u << 8) /* a reader of KRING_BROADCAST: begin with what is still there */

/* Waiting: kring_set_wait() */
#define KRING_ADAPTIVE 0u /* look for a short while if that has helped lately, then sleep */
#define KRING_SPIN 1u /* look until it is there: for who has a processor to himself */
#define KRING_PARK 2u /* sleep at once */

/* Flags of kring_commit() */
#define KRING_MORE (1u << 0) /* another one follows at once: do not wake a sleeping reader yet */

/**
 * struct kring_conf - what a ring is to be like. Zero means the default.
 * @shape: KRING_ONE_TO_ONE (default), KRING_MANY_TO_ONE, KRING_BROADCAST
 * @flags: KRING_PROTECTED, KRING_BLOCKING
 * @slots: messages that may wait, of each writer; a power of two (1024)
 * @slot_bytes: of one of them, a multiple of 8 from 64 to 4096 (72); messages that are shorter by at least 8 lie in it. 64 is a cache line: the
 *              quickest for messages of up to 56
 * @data_bytes: for the longer ones, of each writer; a power of two of at least 4096 (4 MiB). Half of it is the longest message
 * @writers: KRING_MANY_TO_ONE: how many at once, up to 256 (16)
 * @readers: KRING_BROADCAST: how many at once, up to 256 (16)
 */
struct kring_conf {
	uint32_t shape;
	uint32_t flags;
	uint32_t slots;
	uint32_t slot_bytes;
	uint64_t data_bytes;
	uint32_t writers;
	uint32_t readers;
	uint32_t reserved[8];
};

/**
 * struct kring_msg - a message lent by kring_peek().
 * @data: in the ring, until kring_release()
 * @len_bytes: its length
 * @seq: its number among its writer's messages, from 0
 * @writer: which writer's place it came from
 */
struct kring_msg {
	const void *data;
	size_t len_bytes;
	uint64_t seq;
	uint32_t writer;
	uint32_t reserved;
};

/**
 * struct kring_stat - a ring as a whole.
 * @conf: as it was made, without zeroes
 * @max_bytes: length of the longest message
 * @messages, @bytes: committed so far, by all writers
 * @lost: messages that readers of this moment were too slow for
 * @depth: messages committed and not yet released; KRING_BROADCAST: by the slowest reader
 * @writers, @readers: how many there are
 * @dead: places whose holder ended without kring_close() and that nobody has taken since
 */
struct kring_stat {
	struct kring_conf conf;
	uint64_t max_bytes;
	uint64_t messages;
	uint64_t bytes;
	uint64_t lost;
	uint64_t depth;
	uint32_t writers;
	uint32_t readers;
	uint32_t dead;
	uint32_t reserved[9];
};

/* kring_peer.state */
#define KRING_ALIVE 1u
#define KRING_CLOSED 2u
#define KRING_DEAD 3u

/**
 * struct kring_peer - who holds, or last held, a place.
 * @role: KRING_WRITER or KRING_READER
 * @place: its number
 * @state: KRING_ALIVE, KRING_CLOSED, KRING_DEAD
 * @pid: as it said itself, in its own pid namespace
 * @messages: of a writer: committed in this place; of a reader: received
 * @lag: of a reader: how many it is behind
 * @lost: of a reader: too slow for
 */
struct kring_peer {
	uint32_t role;
	uint32_t place;
	uint32_t state;
	uint32_t pid;
	uint64_t messages;
	uint64_t lag;
	uint64_t lost;
	uint64_t reserved[4];
};

/**
 * kring_create() - make a ring.
 * @name: its memory object's name inside mem; with KRING_PROTECTED "NAME.ctl" is made, too
 * @conf: NULL: one-to-one, all defaults
 * @mode: permission bits, less the process's umask. A writer needs to read and write the object, a reader too; with KRING_PROTECTED
 *        a reader needs to read it only, and NAME.ctl may be written by whoever may read NAME.
 *
 * Return: 0; -1 with errno: EINVAL @conf, and those of kmem_create().
 */
int kring_create(struct kshared *k, const char *name, const struct kring_conf *conf, mode_t mode);

/** kring_remove() - remove a ring; who has it open keeps it. Return: 0; -1 with errno as kmem_remove(). */
int kring_remove(struct kshared *k, const char *name);

/**
 * kring_open() - become a writer or a reader of a ring.
 * @end: KRING_WRITER, KRING_READER or KRING_OBSERVER, with KRING_HISTORY if wanted
 *
 * Return: a handle for kring_close(); NULL with errno: EBUSY every such place is taken; EPROTO not a ring, or of another version; EPERM the
 * object could shrink; EBADMSG what is in it makes no sense; and those of kmem_open().
 */
struct kring *kring_open(struct kshared *k, const char *name, unsigned int end);

/**
 * kring_attach() - the same for descriptors that one has, from anywhere.
 * @fd: of the memory object; borrowed
 * @ctl_fd: of the second one if the ring is KRING_PROTECTED, else -1; borrowed
 *
 * They are opened again by /proc, since a place is held by an open file of one's own.
 * Return: as kring_open(); EACCES, ENOENT they cannot be opened again.
 */
struct kring *kring_attach(int fd, int ctl_fd, unsigned int end);

/**
 * kring_format() - lay a ring out in memory of one's own, such as memfd_create() with MFD_ALLOW_SEALING gives.
 * @fd: is given its size and sealed against shrinking and growing
 * @ctl_fd: the same for the second part if @conf says KRING_PROTECTED; else -1
 * Return: 0; -1 with errno: EINVAL @conf or descriptors; EPERM cannot be sealed; ENOSPC, ENOMEM.
 */
int kring_format(int fd, int ctl_fd, const struct kring_conf *conf);

/** kring_close() - give up a place, what is reserved, and the handle. @r: NULL is ignored. errno is kept. */
void kring_close(struct kring *r);

/** kring_set_wait() - how this end waits. @how: KRING_ADAPTIVE, KRING_SPIN, KRING_PARK. Return: 0; -1 with EINVAL. */
int kring_set_wait(struct kring *r, unsigned int how);

/** kring_max() - length of the longest message in bytes. */
size_t kring_max(const struct kring *r);

/**
 * kring_reserve() - room for a message, to be written in place.
 * @len_bytes: as long as it may become
 * A reservation that was not committed is dropped by the next one.
 *
 * Return: where to write, aligned to 8 bytes (64 when longer than a slot); NULL with errno: EMSGSIZE longer than kring_max(); EAGAIN no room, and @timeout_ms was 0; ETIMEDOUT;
 * EPIPE there is no room and the reader has closed its end; EOWNERDEAD there is none and it ended without that (each is said once of each reader, and not if
 * the next one has come already; another call waits for the next reader); EBADMSG the ring is damaged; EINVAL not a writer.
 */
void *kring_reserve(struct kring *r, size_t len_bytes, int timeout_ms);

/**
 * kring_commit() - send what is reserved.
 * @len_bytes: its length, not more than was reserved
 * @flags: 0 or KRING_MORE
 * Return: 0; -1 with EINVAL nothing is reserved, or less.
 */
int kring_commit(struct kring *r, size_t len_bytes, unsigned int flags);

/** kring_send() - reserve, copy, commit. Return: 0; -1 with errno as kring_reserve(). */
int kring_send(struct kring *r, const void *data, size_t len_bytes, int timeout_ms);

/**
 * kring_send_many() - several messages, with one look for a sleeping reader. They appear in batches: much quicker than one by one.
 * @msgs: one message each
 * Return: how many were sent, at least one if @nr is not 0; -1 with errno as kring_reserve().
 */
int kring_send_many(struct kring *r, const struct iovec *msgs, unsigned int nr, int timeout_ms);

/**
 * kring_flush() - wait until all that was sent is released: by the readers of this moment (KRING_BROADCAST, which tells of the slowest).
 * Return: 0; -1 with errno: EAGAIN not yet, and @timeout_ms was 0; ETIMEDOUT; EPIPE, EOWNERDEAD as kring_reserve(); EINVAL not a writer.
 */
int kring_flush(struct kring *r, int timeout_ms);

/**
 * kring_peek() - the next messages, in place.
 * @ret: room for @max of them; they are all of one writer
 * Peeking again without releasing gives the same ones.
 *
 * Return: how many, at least one; -1 with errno: EAGAIN nothing is there, and @timeout_ms was 0; ETIMEDOUT; EPIPE all is received and the
 * last writer has closed its end; EOWNERDEAD all is received of a writer that ended without that (each is said once of each writer, and not if the next
 * one has taken its place already; another call waits for the next one); EOVERFLOW messages were lost, see kring_lost() (KRING_BROADCAST); EBADMSG the ring is damaged; EINVAL not a reader.
 */
int kring_peek(struct kring *r, struct kring_msg *ret, unsigned int max, int timeout_ms);

/**
 * kring_release() - give back the room of the first @nr messages that were peeked at.
 * Return: 0; -1 with errno: EINVAL more than that; EOVERFLOW the writer has begun to write over some of them meanwhile, what was read
 * of them is not to be used (KRING_BROADCAST).
 */
int kring_release(struct kring *r, unsigned int nr);

/**
 * kring_recv() - receive one message into a buffer.
 * Return: its length; -1 with errno: EMSGSIZE the buffer is too short (the message stays; kring_peek() tells its length), and those of kring_peek().
 */
ssize_t kring_recv(struct kring *r, void *buf, size_t size_bytes, int timeout_ms);

/** kring_lost() - how many messages this reader was too slow for. */
uint64_t kring_lost(const struct kring *r);

/**
 * kring_fd() - a descriptor for poll() and epoll, which is readable when a message may be there.
 * It belongs to the handle. It becomes unreadable when a call with timeout 0 says EAGAIN, so read until then. A writer that dies without a
 * word makes it readable within a second.
 * Return: a descriptor; -1 with errno: EINVAL not a reader; EMFILE, ENOMEM, EAGAIN.
 */
int kring_fd(struct kring *r);

/** kring_get_stat() - the ring as a whole, as the memory says. Return: 0; -1 with errno. */
int kring_get_stat(struct kring *r, struct kring_stat *ret);

/**
 * kring_get_peers() - the places that somebody holds, or held and nobody has taken since.
 * @ret: room for @max of them
 * Return: how many there are, which may be more than @max; -1 with errno.
 */
int kring_get_peers(struct kring *r, struct kring_peer *ret, unsigned int max);

#ifdef __cplusplus
}
#endif

#endif
