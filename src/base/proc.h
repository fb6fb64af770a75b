/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * proc.h - what /proc says of a process or thread.
 */
#ifndef KSHARED_BASE_PROC_H
#define KSHARED_BASE_PROC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define PROC_GROUPS_MAX 128

/**
 * struct proc_info - of one thread.
 * @tgid: its process
 * @uid, @gid: real, effective, saved, filesystem
 * @cap_eff, @cap_prm: capabilities, effective and permitted, in its own user namespace; see proc_capable()
 * @groups: the first @nr_groups supplementary groups
 * @inner: it is in a pid namespace below ours, where processes have other numbers
 * @comm: its name
 */
struct proc_info {
	pid_t tgid;
	uid_t uid[4];
	gid_t gid[4];
	uint64_t cap_eff;
	uint64_t cap_prm;
	unsigned int nr_groups;
	gid_t groups[PROC_GROUPS_MAX];
	bool inner;
	char comm[16];
};

/**
 * proc_read() - read /proc/@tid/status.
 * The number may be given to another process at any time: hold a pidfd, and ask it afterwards whether it
 * is still the one.
 * Return: 0; -ESRCH no such thread; -EPROTO an unknown format; -errno.
 */
int proc_read(pid_t tid, struct proc_info *ret);

#define PROC_CAP_CHOWN (1ULL << 0)
#define PROC_CAP_DAC_OVERRIDE (1ULL << 1)
#define PROC_CAP_FOWNER (1ULL << 3)

/**
 * proc_capable() - has thread @tid all of @caps effective, in the user namespace that we are in?
 * What /proc/@tid/status tells of capabilities is of its own namespace, and in one of his own making everybody has all.
 * The number must be held, as for proc_read(). One that we may not look into has none, so far as we know.
 */
bool proc_capable(pid_t tid, uint64_t caps);

#define PROC_ID_UNMAPPED 65534

/**
 * proc_sees_all_ids() - has every uid and gid a number in our user namespace?
 * If not, PROC_ID_UNMAPPED stands for all that have none, and is nobody's in particular.
 */
bool proc_sees_all_ids(void);

/**
 * proc_birth() - when a process started, in clock ticks since the machine did.
 * Return: 0; -ESRCH.
 */
int proc_birth(pid_t pid, uint64_t *ret);

#endif
