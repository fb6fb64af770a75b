/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kind.h - what a kind of entry implements, and the one request that every caller's wish becomes.
 *
 * A kind is one file in src/kind/ and one line in kinds.c. Core owns names, directories, permissions, quotas,
 * references, lifetimes and the descriptor; a kind says what its entries are. It never sees a FUSE structure or a socket.
 *
 * Everything runs on one thread, the event loop's; there are no locks. An operation must not block: what might wait
 * on somebody else's descriptor is handed to engine/relay or engine/aside. An operation returns >= 0, -errno, or KIND_LATER, after
 * which request_done() runs exactly once.
 *
 * A worker may die at any instruction. What an entry must keep goes into its private part (entry_size bytes,
 * saved with it by every commit) or its descriptor; there is no state per open handle except the 64-bit word that
 * `open` chooses and that comes back with every call.
 */
#ifndef KSHARED_CORE_KIND_H
#define KSHARED_CORE_KIND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct entry;
struct request;
struct statx;

#define KIND_LATER 0x40000000 /* an operation's result: request_done() will be called */

/**
 * struct cred - who asks.
 * @uid, @gid: the ids that count for file access (fsuid, fsgid; of a socket's peer the effective ones)
 * @tid: the calling thread in our pid namespace; 0: it cannot be seen from here
 * @groups, @nr_groups: supplementary groups
 * @checked: the kernel has already checked the entry's mode for this request (default_permissions)
 * @override: may pass over modes (CAP_DAC_OVERRIDE and CAP_FOWNER in our user namespace)
 * @conn: the socket that the request came by, borrowed; 0: it came by the mount
 */
struct cred {
	uid_t uid;
	gid_t gid;
	pid_t tid;
	const gid_t *groups;
	unsigned int nr_groups;
	bool checked;
	bool override;
	int conn;
};

/* How the kernel is to treat an opened file; the answer of `open`. */
enum open_mode {
	OPEN_DIRECT, /* each read and write comes here, with its offset */
	OPEN_CACHED, /* the kernel caches pages */
	OPEN_STREAM, /* no offsets, no seeking */
	OPEN_PASSTHROUGH, /* the kernel serves it from the entry's descriptor */
};

/* What `command` is asked for; request.cmd. */
enum command {
	COMMAND_FALLOCATE = 1, /* offset, size, flags: FALLOC_FL_* */
	COMMAND_FSYNC, /* flags: 1 data only */
	COMMAND_LSEEK, /* offset, flags: SEEK_DATA or SEEK_HOLE -> rq->offset */
	COMMAND_SEAL, /* flags: F_SEAL_* */
	COMMAND_OWNER, /* the entry's mode, uid or gid has changed */
};

/**
 * struct request - one wish of one caller, wherever it came from.
 * @cred: who asks; valid until request_done()
 * @id: names the request for ever, so that it is not carried out twice; 0,0: nothing to remember
 * @resent: it was sent before, to a worker that died
 * @oflags: open flags (O_*): of open, or of the file that is read or written
 * @word: the open handle's word
 * @offset, @size, @mode, @flags, @events: per operation
 * @data, @len: bytes to write; @len alone: bytes to read at most
 * @fd: a descriptor that comes with the request (owned by the request; -1: none)
 * @poll_handle: the kernel's name for the poller; 0: no word wanted later
 * @cmd: enum command
 * @out: at first a buffer that `read` may use; then the bytes read, valid until request_done() returns
 * @out_fd: the descriptor given out by `share`; owned by the request unless @out_borrowed
 * @out_borrowed: it is the entry's own
 * @out_quick: closing it does not wait
 * @how, @backing: the answer of `open`
 * @done: called once, by request_done() only
 * @cancel: set by an operation that returned KIND_LATER: give up, finish with -EINTR or what is there
 * @pending: for the operation that returned KIND_LATER
 */
struct request {
	const struct cred *cred;
	uint64_t id[2];
	bool resent;
	int oflags;
	uint64_t word;
	uint64_t offset;
	uint64_t size;
	uint32_t mode;
	uint32_t flags;
	uint32_t events;
	const void *data;
	size_t len;
	int fd;
	uint64_t poll_handle;
	int cmd;

	struct iovec out;
	int out_fd;
	bool out_borrowed;
	bool out_quick;
	enum open_mode how;
	int backing;

	void (*done)(struct request *rq, int result);
	void (*cancel)(struct request *rq);
	void *pending;
};

/* How long an answer about an entry may be remembered. */
enum change_rate {
	CHANGE_NEVER, /* nothing changes unseen */
	CHANGE_DETAILS, /* memory in use and times do: ten seconds */
	CHANGE_ALL, /* its size, too: not at all */
};

/**
 * struct description - what an entry is like at this moment; filled by `describe`.
 * @what: see struct kshared_entry
 * @change: what may change without a request passing here
 * @waits: a call on it may wait for somebody, so that no two openers may have to wait for each other
 */
struct description {
	char what[16];
	uint64_t size_bytes;
	uint64_t allocated_bytes;
	int64_t mtime_ns; /* 0: the entry's own */
	int64_t posted_ns;
	uint32_t access;
	uint32_t poster_uid;
	uint32_t poster_pid;
	char poster_comm[16];
	uint32_t seals;
	enum change_rate change;
	bool waits;
};

/**
 * struct kind - one kind of entry. An operation that is NULL has the default in brackets.
 * @name: also its directory's name in the folder
 * @summary: one line for people
 * @entry_size: bytes of an entry's private part, saved with it; at most KIND_ENTRY_MAX
 * @dir_mode: permissions of its directory in a new folder
 * @create: a new entry; the descriptor it shall keep is left in rq->fd [an entry without descriptor]
 * @destroy: the entry ends; its descriptor is closed by core [nothing to do]
 * @open: check rq->oflags, set rq->how, rq->word, rq->backing [-EOPNOTSUPP]
 * @read: up to rq->len bytes to rq->out; returns their number [-EINVAL]
 * @write: rq->data; returns the number of bytes taken [-EINVAL]
 * @poll: returns the ready events of rq->events; rq->poll_handle is woken later [always ready]
 * @close: the last user of a handle has gone; rq->word says which [nothing to do]
 * @resize: to rq->size bytes; rq->flags: 1 by ftruncate(), 0 by a path or O_TRUNC [-EINVAL]
 * @command: rq->cmd [-EOPNOTSUPP]
 * @share: a descriptor with access rq->oflags, to rq->out_fd; @granted: what the entry's mode gives the caller,
 *         of 4 read, 2 write. The only way by which a kind gives out a descriptor [-EOPNOTSUPP]
 * @describe: what it is like now [nothing known: size 0]
 * @furnish: its directory was made just now, in a new folder: put into it what is there from the beginning [nothing]
 * @reserved: is a name in its directory only for what @furnish puts there, also when that is gone? [none is]
 * @own: is this entry the folder's own, which counts for nobody? [no]
 * @rooms: an entry is a directory with parts: that is what the socket makes, opens and shares
 * @board: may there be a directory in @dir? [yes]
 * @fill: a directory is there, other than the kind's own, perhaps since long: put into it the parts that it has not got [nothing]
 * @part: is this file a part of its directory? It comes and goes with that, has its owner, and of its permissions these; 0: it is none [none are]
 * @created: one was made and saved; may take its time. If it fails the entry is taken back [0]
 * @unnamed: it has lost its name, and somebody may have it open still; not called if it ends at once [nothing to do]
 * @replace: rq->flags and rq->fd as for `create`, but @e is there already, and its name is the caller's to use: is it to be taken over, and
 *           keep rq->fd instead of its own? [-EEXIST]
 * @told: who opens one through the socket is told what it is
 * @attrs: names of its own attributes, NULL-terminated: as extended ones "user.kshared.<kind>.<name>"
 * @attr: the text of attribute number rq->offset to rq->out, at most rq->len bytes; returns its length [-ENODATA]
 */
struct kind {
	const char *name;
	const char *summary;
	size_t entry_size;
	mode_t dir_mode;
	int (*create)(struct entry *e, struct request *rq);
	void (*destroy)(struct entry *e);
	int (*open)(struct entry *e, struct request *rq);
	int (*read)(struct entry *e, struct request *rq);
	int (*write)(struct entry *e, struct request *rq);
	int (*poll)(struct entry *e, struct request *rq);
	void (*close)(struct entry *e, struct request *rq);
	int (*resize)(struct entry *e, struct request *rq);
	int (*command)(struct entry *e, struct request *rq);
	int (*share)(struct entry *e, struct request *rq, unsigned int granted);
	void (*describe)(struct entry *e, struct description *ret);
	void (*furnish)(struct entry *dir);
	bool (*reserved)(const char *name, size_t len);
	bool (*own)(const struct entry *e);
	bool rooms;
	int (*board)(const struct entry *dir);
	void (*fill)(struct entry *dir);
	mode_t (*part)(const struct entry *e);
	int (*created)(struct entry *e, struct request *rq);
	void (*unnamed)(struct entry *e);
	int (*replace)(struct entry *e, struct request *rq);
	bool told;
	const char *const *attrs;
	int (*attr)(struct entry *e, struct request *rq);
};

#define KIND_ENTRY_MAX 128

/** request_done() - finish a request whose operation returned KIND_LATER. @result: >= 0 or -errno */
static inline void request_done(struct request *rq, int result)
{
	rq->cancel = NULL;
	rq->done(rq, result);
}

#endif
