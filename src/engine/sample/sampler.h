/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sampler.h - the pages of wire/port_pages.h from /proc: where BPF is not to be had, or does not reach.
 *
 * A page is a memfd that is sealed (F_SEAL_FUTURE_WRITE, SHRINK, GROW, SEAL) as soon as it is mapped here: nobody's
 * descriptor of it can be written or mapped for writing any more, so it may be given to readers as it is. It is written when
 * sampler_sample() is called: by a timer in the caller's loop, no oftener than is useful, for it costs system calls.
 * "cpu" has times only: what a run queue holds is not in /proc. Network devices are those of the caller's network namespace.
 *
 * Files are opened once, by sampler_new(): a process that is confined afterwards can go on. One thread.
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

/** sampler_free() - @s may be NULL. Pages that were given out remain, and get old. */
void sampler_free(struct sampler *s);

#endif
