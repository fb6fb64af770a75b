/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sampler.h - the pages of wire/port_pages.h from /proc: where BPF is not to be had, or does not reach.
 *
 * A page is a memfd that is sealed (F_SEAL_FUTURE_WRITE, SHRINK, GROW, SEAL) as soon as it is mapped here: nobody's
 * descriptor of it can be written or mapped for writing any more, so it may be given to readers as it is. It is written when
 * sampler_sample() is called: by a timer in the caller's loop, no oftener than is useful, for it costs system calls.
 * Fields that /proc has not are not in the pages: what a run queue holds; of a process, how often it was switched. Network devices are those of the caller's network namespace.
 *
 * Files are opened once, by sampler_new() and sampler_add_*(): a process that is confined afterwards can go on. One thread.
 */
#ifndef KSHARED_ENGINE_SAMPLE_SAMPLER_H
#define KSHARED_ENGINE_SAMPLE_SAMPLER_H

#include <stdint.h>
#include <wire/port_pages.h>

#define SAMPLER_PERIOD_NS 100000000

struct sampler;

/**
 * struct sampler_options
 * @period_ns: how often the caller means to sample; 0: SAMPLER_PERIOD_NS
 * @generation: goes into the pages
 * @pages: bits 1 << PORT_...: which ones; 0: all
 */
struct sampler_options {
	uint64_t period_ns;
	uint64_t generation;
	uint32_t pages;
};

/** sampler_new() - pages and a first sample. A page whose source this kernel has not is left out. Return: 0; -errno. */
int sampler_new(struct sampler **ret, const struct sampler_options *o);

/** sampler_sample() - every page anew. Return: 0; -EPROTO, -errno: the first failure; those pages stay as they were. */
int sampler_sample(struct sampler *s);

/** sampler_fd() - the memfd that is a page. Return: borrowed; -ENOENT there is no such page. */
int sampler_fd(const struct sampler *s, enum port_page page);

/** sampler_size() - how much of it is to be mapped, in bytes. */
uint64_t sampler_size(const struct sampler *s, enum port_page page);

/**
 * sampler_add_task() - a page of what a process uses (struct port_task), written by sampler_sample() from then on.
 * @pidfd: of the process; stays the caller's, who may close it
 * @ret_slot: for sampler_remove()
 * @ret_fd: the page, a sealed memfd; borrowed
 * Return: 0; -EBADF no pidfd; -ESRCH it has ended; -ENOSPC 256 accounts; -errno.
 */
int sampler_add_task(struct sampler *s, int pidfd, int *ret_slot, int *ret_fd, uint64_t *ret_size);

/**
 * sampler_add_cgroup() - a page of what a control group uses (struct port_cgroup); as above.
 * @dirfd: its directory in cgroup2, O_PATH will do
 * Return: 0; -EINVAL no cgroup2 directory, or its root; -ESRCH it was removed; -ENOSPC; -errno.
 */
int sampler_add_cgroup(struct sampler *s, int dirfd, int *ret_slot, int *ret_fd,
		       uint64_t *ret_size);

/** sampler_remove() - an account. Who has its page keeps it; it gets old. */
void sampler_remove(struct sampler *s, int slot);

/** sampler_free() - @s may be NULL. Pages that were given out remain, and get old. */
void sampler_free(struct sampler *s);

#endif
