/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ctl.h - messages on the control socket, between libkshared and ksharedd.
 *
 * AF_UNIX SOCK_SEQPACKET; one packet is one message; native byte order, since both ends are one machine. The client sends a
 * struct ctl_request and waits for the struct ctl_reply with the same seq; one request is under way on a connection
 * at a time. A request's packet may be cut after the path (CTL_REQUEST_MIN + path_len bytes); a reply's packet is the
 * header and body_len bytes. Before its first request the library sends CTL_HELLO, without waiting for the answer. At most one descriptor travels with a message: the posted one with
 * CTL_POST, the opened one with a good reply to CTL_OPEN and CTL_CREATE.
 *
 * Identity is the peer's: SO_PEERCRED and SO_PEERGROUPS when the connection is made, and the SCM_CREDENTIALS that the
 * kernel checks on every packet (the library sends its effective ids) must be those of the process that connected; if
 * not, the reply is -ESTALE and the client connects again.
 *
 * Exactly once: (token, seq) names a request for ever: token is 64 random bits that a client chooses per connection
 * object, seq counts its requests. When a connection breaks before the reply came, the client connects again and sends the same
 * request with CTL_F_RETRY; the daemon answers a request that it had already carried out with the recorded result.
 */
#ifndef KSHARED_WIRE_CTL_H
#define KSHARED_WIRE_CTL_H

#include <stddef.h>
#include <stdint.h>

#define CTL_MAGIC 0x3152484bu /* "KHR1": also the version of this layout */
#define CTL_PATH_MAX 1023
#define CTL_BODY_MAX 65536
#define CTL_LIST_MAX 128 /* entries in one reply to CTL_LIST */

enum ctl_op {
	CTL_HELLO = 1, /* -> count: which worker this is */
	CTL_POST, /* path, mode, umask'd; descriptor -> nothing */
	CTL_OPEN, /* path, oflags -> descriptor */
	CTL_CREATE, /* path (mem), mode, size, flags (KMEM_*) -> descriptor */
	CTL_SEAL, /* path, flags (F_SEAL_*) -> nothing */
	CTL_STAT, /* path -> struct ctl_entry */
	CTL_LIST, /* path, cookie -> struct ctl_entry []; cookie of the last one goes on */
	CTL_REMOVE, /* path, flags: CTL_REMOVE_* -> nothing */
	CTL_STATUS, /* -> struct ctl_status */
	CTL_SHUTDOWN, /* flags: KSHARED_SHUTDOWN_* -> nothing */
	CTL_OP_END,
};

#define CTL_F_RETRY (1u << 0) /* sent before; may have been carried out */

/* KMEM_* of include/kshared/mem.h */
#define CTL_MEM_RESIZABLE (1u << 0)
#define CTL_MEM_HUGE_2MB (1u << 1)
#define CTL_MEM_HUGE_1GB (1u << 2)

#define CTL_REOPEN 0x40000000u /* in oflags: KSRV_REOPEN */

#define CTL_REMOVE_DIR (1u << 0) /* a board is meant */
#define CTL_REMOVE_ANY (1u << 1) /* whichever it is */

struct ctl_request {
	uint32_t magic;
	uint16_t op;
	uint16_t ctl_flags; /* CTL_F_* */
	uint64_t token;
	uint64_t seq;
	uint64_t size;
	uint64_t cookie;
	uint32_t oflags;
	uint32_t mode;
	uint32_t flags;
	uint32_t path_len;
	char path[CTL_PATH_MAX +
		  1]; /* "srv/NAME"; no leading slash, not NUL-terminated on the wire */
};

#define CTL_REQUEST_MIN offsetof(struct ctl_request, path)

struct ctl_reply {
	uint32_t magic;
	int32_t result; /* 0, or -errno */
	uint64_t seq; /* 0: refused unread */
	uint32_t body_len;
	uint32_t count; /* CTL_LIST: entries in the body; 0 at the end. CTL_HELLO: workers so far, this one included */
};

/* One entry; struct kshared_entry in include/kshared.h says what the fields mean. */
struct ctl_entry {
	uint64_t id;
	uint64_t cookie; /* CTL_LIST: the position after this entry */
	uint64_t size_bytes;
	uint64_t allocated_bytes;
	int64_t btime_ns;
	int64_t mtime_ns;
	int64_t ctime_ns;
	int64_t posted_ns;
	uint64_t opens;
	uint32_t mode;
	uint32_t uid;
	uint32_t gid;
	uint32_t access;
	uint32_t poster_uid;
	uint32_t poster_pid;
	uint32_t seals;
	uint32_t name_len;
	char kind[8];
	char what[16];
	char poster_comm[16];
	char name[256];
};

struct ctl_status {
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
	uint32_t keeper_pid;
	uint32_t worker_pid;
	uint32_t features;
	uint32_t fuse_minor;
	char version[32];
	char mountpoint[CTL_PATH_MAX + 1];
};

_Static_assert(sizeof(struct ctl_request) == 56 + CTL_PATH_MAX + 1, "ABI");
_Static_assert(sizeof(struct ctl_reply) == 24, "ABI");
_Static_assert(sizeof(struct ctl_entry) == 9 * 8 + 8 * 4 + 40 + 256, "ABI");

#endif
