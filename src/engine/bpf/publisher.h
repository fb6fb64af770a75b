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

/** publisher_free() - @p may be NULL. The timers end unless somebody else holds them. */
void publisher_free(struct publisher *p);

#endif
