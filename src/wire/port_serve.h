/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * port_serve.h - between the daemon, who serves a port, and who opens it; and the pool that the last two share.
 *
 *	client -- CTL_OPEN --> daemon -- struct port_open + one end of a socket pair --> server
 *	       <-- the other end --
 *	client <-- struct port_hello + descriptors ------------------------------------- server
 *
 * A port's entry keeps the daemon's end of the server's socket (AF_UNIX SOCK_SEQPACKET); the daemon's own server is a process of its
 * own with such a socket, too. The daemon checks who may open, tells the server who it is, and has no part in anything after that. Either side learns by
 * its end of the pair that the other is gone.
 *
 * The daemon shuts the server's end of a pair down for reading before it gives the other to a client: nothing can be sent to a server,
 * and so no descriptor whose close would hold it up. What counts there is only that it hangs up.
 *
 * Who trusts whom. The server believes the daemon. It believes nothing of a client's: what is in the pool it copies once, and
 * checks the copy. A client takes of its server only memory that cannot shrink under it (F_SEAL_SHRINK, or a BPF map),
 * a bell that is an eventfd, and one that is a BPF program only of the daemon's own server: it runs with the client's rights.
 *
 * The pool:
 *
 *	+--------------------------+ 0
 *	| struct port_bell         |
 *	|                          |
 *	| canary                   | pool_off - PORT_CANARY
 *	+--------------------------+ pool_off: a whole page
 *	| what the client writes   | pool_size bytes, a multiple of 8
 *	+--------------------------+
 *	| canary                   |
 *	+--------------------------+ pool_off + pool_size + PORT_CANARY <= size of the memory
 *
 * DOC: the bell. The client stores len and offset, then request + 1 (release). The server that sees another request than it last took
 * (acquire) copies the bell and the bytes, does what there is to do, stores result, then done = the request that it took (release), and
 * wakes who waits on done (futex), if waiting says that somebody does: it is set before, and each side has a full fence between its store and its load. A client has one request under way; one that rings again before it is done, or
 * changes the bytes meanwhile, has one of the two carried out, whole or torn: what is carried out is what was copied
 * and checked. PORT_BELL_EVENTFD: if the server is not awake (bell.awake), the client adds 1 to the eventfd, after its store of request and a full
 * fence; the server that goes to sleep clears awake, has a full fence, and looks once more. So one of the two sees the other's store.
 * A client whose server said to be awake, and does not answer at once, rings all the same. The server never reads the eventfd, which its
 * client may have made to wait, or have emptied: it looks at the bell each time that it is rung.
 */
#ifndef KSHARED_WIRE_PORT_SERVE_H
#define KSHARED_WIRE_PORT_SERVE_H

#ifndef __bpf__
#include <stdint.h>
#else
typedef unsigned long long uint64_t;
typedef long long int64_t;
typedef unsigned int uint32_t;
typedef int int32_t;
#endif

#define PORT_SERVE_MAGIC 0x31505248u /* "HRP1": also the version of this layout */
#define PORT_CANARY 64
#define PORT_HELLO_MS 5000 /* a client waits for so long */

/*
 * CTL_POST of an entry below port: flags has what is posted in its low byte, KPORT_TASK, KPORT_CGROUP, KPORT_RULE or 0 for a
 * service, whose descriptor is the daemon's end of its server's socket; and
 */
#define PORT_POST_WHAT 0xffu /* flags of CTL_POST port/NAME: KPORT_*; 0: a service */
#define PORT_POST_REPLACE (1u << 8) /* take the place of an entry of the same owner and sort */

/* What the daemon's own server is asked for; 0 to any other. */
enum port_what {
	PORT_WHAT_SERVICE = 0,
	PORT_WHAT_PAGE, /* port_open.page: enum port_page */
	PORT_WHAT_TASK, /* target: a pidfd */
	PORT_WHAT_CGROUP, /* target: a directory in cgroup2 */
	PORT_WHAT_RULE, /* the same */
};

#define PORT_OPEN_PIDFD (1u << 0) /* the client's pidfd comes with it */
#define PORT_OPEN_TARGET \
	(1u << 1) /* the entry's descriptor does, to the daemon's own server only */
/* Of rules, when nobody opens one. Entry 0 is none: its HOLD says that all that are to hold are told anew, its DROP that these were all. */
#define PORT_OPEN_HOLD \
	(1u << 2) /* it begins to hold; port_hello says whether it does, without descriptors */
#define PORT_OPEN_DROP (1u << 3) /* the entry has ended; no descriptors */

/* Descriptors, in this order: the client's socket, its pidfd, the target. */
struct port_open {
	uint32_t magic;
	uint32_t what;
	uint32_t page;
	uint32_t access; /* 4 read, 2 write */
	uint32_t flags;
	uint32_t uid;
	uint32_t gid;
	uint32_t pid;
	uint64_t entry; /* its number in the folder */
	char name[256];
};

enum port_bell_kind {
	PORT_BELL_NONE = 0, /* no pool */
	PORT_BELL_EVENTFD,
	PORT_BELL_BPF, /* a BPF program of type syscall, with struct port_ring as its context */
};

/* Descriptors, in this order: the page; if there is a pool: the pool; the bell. None if result is not 0. */
struct port_hello {
	uint32_t magic;
	int32_t result; /* 0; -errno */
	uint32_t bell; /* enum port_bell_kind */
	uint32_t slot;
	uint64_t token;
	uint64_t pool_off; /* of the data in the pool's memory */
	uint64_t pool_size;
};

struct port_bell {
	uint32_t request;
	uint32_t done;
	int32_t result; /* of done: 0; -errno */
	uint32_t awake; /* the server looks at request without being told */
	uint64_t off;
	uint64_t len;
	uint32_t waiting; /* somebody waits for done by futex(2) */
	uint32_t reserved;
};

/* The context of a bell that is a BPF program; its return value is 0 or -errno. */
struct port_ring {
	uint64_t token;
	uint32_t slot;
	uint32_t reserved;
	uint64_t off;
	uint64_t len;
};

_Static_assert(sizeof(struct port_open) == 40 + 256, "ABI");
_Static_assert(sizeof(struct port_hello) == 40, "ABI");
_Static_assert(sizeof(struct port_bell) == 40, "ABI");
_Static_assert(sizeof(struct port_ring) == 32, "ABI");

#endif
