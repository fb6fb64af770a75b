/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * worker.h - the half of ksharedd that does the work and may die at any instruction.
 */
#ifndef KSHARED_DAEMON_WORKER_H
#define KSHARED_DAEMON_WORKER_H

#include <daemon/config.h>
#include <daemon/spawn.h>

/* The descriptors that the keeper leaves to a worker, at these numbers. A missing one is /dev/null. */
enum worker_fd {
	WORKER_FUSE = 3,
	WORKER_LISTEN,
	WORKER_KEEPER,
	WORKER_SHM,
	WORKER_RING,
	WORKER_SNAPSHOT,
	WORKER_PUBLISHER,
	WORKER_MERGER,
	WORKER_FD_END,
};

_Static_assert(WORKER_FD_END - WORKER_FUSE <= SPAWN_PASS && WORKER_FUSE == SPAWN_FIRST,
	       "all are passed");

#define HELLO_MAY_BPF 1u /* it may load BPF programs, of which the kernel tells enough */
#define HELLO_RULES_KEPT 2u /* the keeper has something of the publisher's */
#define HELLO_PARTITIONS_KEPT 4u /* or of the merger's, or the merger runs */

/**
 * struct worker_hello - at the head of the snapshot's memfd, before the snapshot. A keeper may be older than its worker: the layout stays.
 * @ring_params: of the io_uring, as struct io_uring_params
 * @dev: the mount's device number; 0: not mounted
 */
struct worker_hello {
	uint64_t dev;
	uint32_t has_fuse;
	uint32_t has_ring;
	uint32_t keeper_pid;
	uint32_t privileged;
	uint32_t may_pass; /* root of the first user namespace, who may register files for passthrough */
	uint32_t servers; /* HELLO_*; 0 in what a keeper without servers of its own says */
	unsigned char ring_params[120];
};

_Static_assert(sizeof(struct worker_hello) == 152, "as it was in the first version");

/** worker_run() - serve until the mount is gone. Return: the process's exit status. */
int worker_run(const struct config *c);

/** sandbox_publisher() - the same for the publisher. Return: 0; -errno. */
int sandbox_publisher(bool privileged);

/** sandbox_merger() - the same for the merger. Return: 0; -errno. */
int sandbox_merger(bool privileged);

/** sandbox_override() - while pages are loaded: pass over modes of files, as the making of a control group takes. */
void sandbox_override(bool on);

/** sandbox_enter() - give up what a worker does not need. @privileged: started by root. Return: 0; -errno. */
int sandbox_enter(bool privileged);

#endif
