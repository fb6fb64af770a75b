/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ksm_remote.h - another process as a target of merging: engine/merge says what is to be done, engine/remote has it done there.
 *
 * Which of its memory may be merged is decided by the caller, who gives the range. Of that are left out: what is shared, or has a
 * file, or other protection than reading and writing; stacks; what is locked, sealed, or watched by a userfaultfd; and the last page of each
 * mapping, so that a mapping that grows (mremap) grows from memory of its own and not from the store.
 */
#ifndef KSHARED_KIND_KSM_REMOTE_H
#define KSHARED_KIND_KSM_REMOTE_H

#include <engine/merge/target.h>
#include <engine/remote/agent.h>
#include <wire/ksm.h>

/**
 * struct ksm_remote - set to what ksm_remote_open() makes of it; then these may be set:
 * @only: ranges outside of which nothing is merged, @nr_only of them, in rising order; NULL: all may be
 * @guest: only what is set to be kept from children, as monitors of virtual machines do with a guest's memory
 * @before_read: asked before each reading: go on? NULL: always
 */
struct ksm_remote {
	struct agent agent;
	struct merge_target target;
	const struct ksm_range *only;
	size_t nr_only;
	bool guest;
	bool (*before_read)(void *arg, uint32_t nr_pages);
	void *arg;
	int mem; /* of ksm_remote_bind() */
	int thread;
};

/**
 * ksm_remote_open() - begin to work on a process; ksm_remote_close() it, from the same thread, which does all in between.
 * @pid: its number, which must be that of @pidfd; it may not be our own
 * @device: /dev/userfaultfd, or -1; it stays the caller's
 * @read_only: for counting only: no agent is put into it
 * Return: 0; -errno as for agent_start().
 */
int ksm_remote_open(struct ksm_remote *remote, pid_t pid, int pidfd, int device, bool read_only);

/**
 * ksm_remote_bind() - have nothing but this memory to do with: from here on what is read is of it, or not read at all.
 * A process may execute another program, set-user-ID say, at any time, whose memory is none of who was permitted to look into the
 * former one. A thread of ours in it does not survive that; and whether its memory is this is found by writing into it.
 * @mem: /proc/PID/mem, opened by somebody who may; it stays the caller's, open until ksm_remote_close()
 * Return: 0; -EAGAIN it is another's.
 */
int ksm_remote_bind(struct ksm_remote *remote, int mem);

/** ksm_remote_close() - end what ksm_remote_open() began. */
void ksm_remote_close(struct ksm_remote *remote);

#endif
