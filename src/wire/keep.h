/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * keep.h - between the keeper and its worker: messages, the snapshot, and the memory they share.
 *
 * The keeper is a table of records: a number, some bytes that it never reads, a descriptor, a passthrough id. A worker
 * changes the table by one SEQPACKET message per transaction, which carries at most one descriptor. A message that
 * has been sent is as good as done: it stays in the keeper's queue even if the sender dies, and the keeper
 * empties that queue before it starts the next worker. So a transaction happened whole or not at all, whatever the
 * instruction at which the worker was killed.
 *
 * A new worker gets the table as a snapshot (a memfd of keep_item structures) and asks for a descriptor when
 * it needs one.
 */
#ifndef KSHARED_WIRE_KEEP_H
#define KSHARED_WIRE_KEEP_H

#include <stdint.h>

#define KEEP_VERSION 2 /* of the snapshot and the shared memory */
#define KEEP_BLOB_MAX 1024 /* bytes of one record */
#define KEEP_MSG_MAX (KEEP_BLOB_MAX * 2 + 256)
#define KEEP_DONE_MAX 4096 /* finished transactions remembered, for requests that come again */

enum keep_op {
	KEEP_COMMIT =
		1, /* struct keep_commit + changes [+ descriptor for the first PUT]; no answer */
	KEEP_BACKING, /* struct keep_query: id -> struct keep_answer: a passthrough id or -errno */
	KEEP_BORROW, /* struct keep_query: id -> struct keep_answer: 0 and the descriptor, or -errno */
	KEEP_READY, /* the worker serves; no answer */
	KEEP_UNMOUNT, /* struct keep_query: flags -> struct keep_answer: 0 or -errno; 0: the end follows */
	KEEP_END, /* the mount is gone: end everything; no answer */
	KEEP_INIT, /* struct keep_init: what was agreed with the kernel; no answer */
};

/* One transaction. @done_*: the request that caused it and its outcome; done_id 0,0: none to be remembered. */
struct keep_commit {
	uint32_t op;
	uint32_t nr_changes; /* 1 or 2 */
	uint64_t done_id[2];
	int32_t done_result;
	uint32_t has_fd; /* the descriptor sent along belongs to the first change */
	uint64_t done_entry;
};

enum { KEEP_PUT = 1, KEEP_DEL = 2 };

/* Followed by len bytes, padded to 8. A PUT of a known id replaces its bytes and keeps its descriptor if none came. */
struct keep_change {
	uint64_t id;
	uint32_t what; /* KEEP_PUT or KEEP_DEL */
	uint32_t len;
	uint32_t owner; /* of the entry */
	uint32_t pad;
};

struct keep_query {
	uint32_t op;
	uint32_t flags;
	uint64_t id;
};

struct keep_answer {
	uint32_t op;
	int32_t result;
};

struct keep_init {
	uint32_t op;
	uint32_t minor;
	uint64_t flags;
};

/*
 * The channel of a server of the daemon's own (the publisher, the merger): of keep_query, and its answers. What it must not lose when it ends, the
 * keeper keeps for it: descriptors, known by two numbers, of which the first means an entry or what else the server likes.
 */
enum pub_op {
	PUB_READY =
		1, /* flags: what it is that it has found; of the publisher SHM_BPF_*; no answer */
	PUB_STORE, /* id, flags: which; with a descriptor; no answer */
	PUB_DROP, /* id: all that is kept under it; no answer */
	PUB_FETCH, /* flags: the how-manieth -> struct pub_kept and the descriptor; result -ENOENT: there are no more */
	PUB_ALIVE, /* the answer to the only thing that the keeper asks: a struct pub_kept with this */
};

#define PUB_KEPT_MAX 8192

struct pub_kept {
	uint32_t op;
	int32_t result;
	uint64_t id;
	uint32_t which;
	uint32_t pad;
};

/* Snapshot: header, nr_done keep_done, nr_items times keep_item + its bytes padded to 8. */
struct keep_snapshot {
	uint32_t version;
	uint32_t init_minor; /* 0: the kernel's INIT was not answered yet */
	uint64_t init_flags;
	uint64_t restarts;
	int64_t started_ns;
	uint64_t nr_items;
	uint64_t nr_done;
};

struct keep_done {
	uint64_t id[2];
	uint64_t entry;
	int32_t result;
	uint32_t pad;
};

struct keep_item {
	uint64_t id;
	uint32_t len;
	int32_t backing; /* passthrough id, 0: none */
	uint32_t has_fd;
	uint32_t pad;
};

/*
 * The shared memory: what changes too often for a message and is sound at every instruction, because each
 * fact is one aligned store. Zeroed at first; sparse.
 */
#define SHM_OPENS (1u << 18)
#define SHM_POLLS (1u << 16)
#define SHM_WRITERS (1u << 16) /* a handle's word has the place in its low 16 bits */
#define SHM_WRITERS_UID (SHM_WRITERS / 4) /* of one user */
#define SHM_SLOTS 256
#define SHM_OWNERS 1024 /* as in engine/aside */
#define SHM_SLOT_BYTES (1u << 18) /* largest proxied transfer */

struct shm_slot {
	uint64_t unique; /* the request that the transfer answers; 0: free */
	uint64_t progress; /* step << 32 | bytes moved for good: one store says both */
	uint64_t submitted; /* step << 32 | its place in the ring's submission queue */
	uint32_t write;
	uint32_t owner; /* whose descriptor it is on */
	uint32_t left; /* started by an earlier worker, which may still be dying */
	uint32_t pad[7];
	unsigned char data[SHM_SLOT_BYTES];
};

/* An owner's descriptors: how many were to be closed, and how many were. */
struct shm_closing {
	uint32_t given;
	uint32_t closed;
};

struct shm_writer {
	uint64_t word; /* the handle's; 0: free. Stored last, cleared first */
	uint64_t entry;
	uint32_t uid; /* who opened it */
	uint32_t pad;
};

enum { SHM_BPF_UNTRIED, SHM_BPF_WORKS, SHM_BPF_NONE };

struct shm {
	uint64_t next_id; /* entries' numbers, never given twice */
	uint64_t next_pos;
	uint64_t next_alias; /* of node ids, see io/fuse_internal.h */
	uint64_t current; /* the request being worked on */
	uint64_t crashed; /* set by the keeper: the last worker died of a fault of its own, not by SIGKILL */
	uint64_t poison; /* the request that it died of, and how often */
	uint64_t poison_tries;
	uint64_t busy; /* 0: the worker waits for events; else another number at each event */
	uint64_t bpf; /* SHM_BPF_*: how the publisher makes its pages */
	uint64_t pad[55];
	struct shm_closing closing[SHM_OWNERS]; /* what the keeper and its vaults close */
	uint64_t opens[SHM_OPENS]; /* how often each entry was opened */
	int64_t times[SHM_OPENS]; /* when a directory's names last changed, ns; 0: as its record says */
	uint64_t polls[SHM_POLLS]; /* the kernel's poll handles that wait for a word */
	struct shm_writer
		writers[SHM_WRITERS]; /* handles that must be known of: see core/writers.c */
	struct shm_slot slots[SHM_SLOTS];
};

#endif
