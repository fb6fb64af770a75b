/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * account.h - what single processes and control groups use, from /proc and the cgroup's files: part of the sampler.
 *
 * A process's files are opened in a directory of /proc that is known to be its own: its pidfd says that it lived after
 * the directory was opened, so the number had not been used again.
 */
#ifndef KSHARED_ENGINE_SAMPLE_ACCOUNT_H
#define KSHARED_ENGINE_SAMPLE_ACCOUNT_H

#include "engine/sample/page.h"

#define ACCOUNTS_MAX 256
#define ACCOUNT_FILES 11

/**
 * struct account
 * @pidfd: of a process; -1: a cgroup
 * @files: which ones, account.c says; -1: there is no such file
 * @task, @cgroup: what was sampled last
 */
struct account {
	struct sample_page page;
	int pidfd;
	int files[ACCOUNT_FILES];
	union {
		struct port_task task;
		struct port_cgroup cgroup;
	};
};

/** account_init() - a free one. */
void account_init(struct account *a);

/** account_open_task() - as sampler_add_task(). On failure account_deinit() is to follow. */
int account_open_task(struct account *a, int pidfd, uint64_t period_ns, uint64_t generation);

/** account_open_cgroup() - as sampler_add_cgroup(). On failure account_deinit() is to follow. */
int account_open_cgroup(struct account *a, int dirfd, uint64_t period_ns, uint64_t generation);

/** account_sample() - anew. Return: 0, also if it has ended; -errno, and the page stays as it was. */
int account_sample(struct account *a);

/** account_deinit() - make it a free one. */
void account_deinit(struct account *a);

#endif
