/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * publisher.h - kernel structures in pages that BPF programs write, every period, whoever lives or dies.
 *
 * Who does what. The keeper calls publisher_new(): it has CAP_BPF and CAP_PERFMON, and nothing here reads a byte of a client's.
 * The worker has neither capability, and needs none: it is handed each page's descriptor (publisher_fd()) like that of any other
 * entry, maps it PROT_READ, checks it (port_check()) and gives it to clients by `share`. A page's map is frozen before
 * publisher_new() returns: nobody's descriptor of it can be mapped for writing or updated any more, the keeper's
 * neither, and only the BPF side writes. So one and the same descriptor may go to everybody whom the entry's mode permits.
 *
 * What lives how long. Timers run as long as some process holds publisher_hold_fd(), the map of timers. The keeper
 * holds it by its `struct publisher`; a new version that takes over is handed a copy, and the old publisher's pages
 * go on meanwhile. When the last one is closed, pages remain readable and get old, which their time stamp tells; a
 * new publisher has new pages of another generation. Worker and clients are on no path here: their deaths change nothing.
 *
 * What it costs. A pass is some 2 us (publisher_busy_ns()): 0.2 % of a core every millisecond; each account adds 0.006 %. The timer's
 * interrupt comes on top, and is the processor's or the hypervisor's: in virtual machines it may take ten times as long as the
 * pass. It is one CPU that pays; the others are not disturbed. Starting takes about 100 ms, most of it the kernel's verifier.
 *
 * What cannot be reached on this kernel is not served: publisher_fd() says -ENOENT, and the sampler has that page.
 *
 * One thread. publisher_new() visits every CPU (sched_setaffinity(2)) and goes back to where it may run.
 */
#ifndef KSHARED_ENGINE_BPF_PUBLISHER_H
#define KSHARED_ENGINE_BPF_PUBLISHER_H

#include <stdbool.h>
#include <stdint.h>
#include <wire/port_pages.h>

#define PUBLISHER_PERIOD_NS 1000000
#define PUBLISHER_TICK_NS 100000000

struct publisher;

/**
 * struct publisher_options
 * @period_ns: how often; 0: PUBLISHER_PERIOD_NS
 * @generation: goes into the pages
 * @no_seqlock: for tests: pages are written without it, and will be found torn
 */
struct publisher_options {
	uint64_t period_ns;
	uint64_t generation;
	bool no_seqlock;
};

/**
 * publisher_new() - load the programs, find the structures, start the timers, wait for the first samples.
 * Return: 0; -EPERM it takes CAP_BPF and CAP_PERFMON; -ENOTSUP a kernel without BTF, or without a BPF feature that it
 * takes; -errno.
 */
int publisher_new(struct publisher **ret, const struct publisher_options *o);

/** publisher_fd() - the map that is a page: frozen. Return: borrowed; -ENOENT: not reached on this kernel. */
int publisher_fd(const struct publisher *p, enum port_page page);

/** publisher_size() - how much of it is to be mapped, in bytes: a multiple of the machine's page. */
uint64_t publisher_size(const struct publisher *p, enum port_page page);

/** publisher_hold_fd() - while a descriptor of this is open anywhere, the pages are written. Return: borrowed. */
int publisher_hold_fd(const struct publisher *p);

/**
 * publisher_add_task() - a page of what a process uses (struct port_task).
 * @pidfd: of the process; stays the caller's, who may close it
 * @ret_slot: for publisher_remove()
 * @ret_fd: the page, a frozen map; borrowed
 * The page is of this very process, also when its number is used again. Of a process with more than 256 threads the sums lack
 * some (struct port_task). Waits for the first sample, some periods.
 * Return: 0; -EBADF no pidfd; -ESRCH it has ended; -EINVAL a thread that is not the main one; -EOPNOTSUPP processes of this pid
 * namespace cannot be found by their numbers on this kernel; -ENOSPC 256 accounts; -errno.
 */
int publisher_add_task(struct publisher *p, int pidfd, int *ret_slot, int *ret_fd,
		       uint64_t *ret_size);

/**
 * publisher_add_cgroup() - a page of what a control group uses (struct port_cgroup); as above.
 * @dirfd: its directory in cgroup2, O_PATH will do
 * Return: 0; -EINVAL no cgroup2 directory, or its root; -ESRCH it was removed; -ENOSPC; -errno.
 */
int publisher_add_cgroup(struct publisher *p, int dirfd, int *ret_slot, int *ret_fd,
			 uint64_t *ret_size);

/** publisher_remove() - an account. Who has its page keeps it; it gets old. */
void publisher_remove(struct publisher *p, int slot);

/**
 * publisher_tick() - make the kernel bring the accounts of cgroups up to date, which only a reader of cpu.stat makes it do.
 * To be called every PUBLISHER_TICK_NS while there are any; it costs some microseconds for each.
 */
void publisher_tick(struct publisher *p);

/** publisher_busy_ns() - how long passes took, all together. @ret_passes: how many. The interrupt's own cost is not in it. */
uint64_t publisher_busy_ns(const struct publisher *p, uint64_t *ret_passes);

/** publisher_free() - @p may be NULL. The timers end unless somebody else holds them. */
void publisher_free(struct publisher *p);

#endif
