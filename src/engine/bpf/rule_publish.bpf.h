/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rule_publish.bpf.h - what the programs of rules have in common: BPF only.
 */
#ifndef KSHARED_ENGINE_BPF_RULE_PUBLISH_H
#define KSHARED_ENGINE_BPF_RULE_PUBLISH_H

#include <stdbool.h>

#include "rule_abi.h"

#define __u64 unsigned long long
#define __u32 unsigned int
#define __u16 unsigned short
#define __u8 unsigned char
#define __s64 long long
#define __s32 int
#define __wsum unsigned int
#define __be32 unsigned int
#define __be16 unsigned short

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define MAP_ARRAY 2
#define MAP_ARRAY_OF_MAPS 12
#define MAP_RINGBUF 27
#define MAP_MMAPABLE 1024

/* The beginning of struct port_head is constant; the loader asserts where the rest is. */
struct rule_page {
	char constant[128];
	__u64 seq, writes, sample_ns;
	char fields[RULE_DATA_OFF - 128 - 24];
	__u64 data[RULE_WORDS];
	char unused[RULE_PAGE_SIZE - RULE_DATA_OFF - RULE_WORDS * 8];
};

/**
 * publish() - a pass, as in port.h: the state's values become the page's.
 * @now: CLOCK_MONOTONIC, taken before the lock
 * The caller holds the state's lock, which makes it the only writer of a page: a spin lock with interrupts off.
 * The exchange's value is used, which makes it a full barrier.
 */
static __always_inline void publish(struct rule_page *p, struct rule_state *st, __u64 now)
{
	const __u64 *from = (const __u64 *)&st->rule;

	if (__sync_fetch_and_add(&p->seq, 1) == ~0ULL)
		return;
	barrier();
	for (int i = 0; i < RULE_WORDS; i++)
		p->data[i] = from[i];
	p->writes++;
	if (p->sample_ns < now)
		p->sample_ns = now;
	barrier();
	if (__sync_fetch_and_add(&p->seq, 1) == ~0ULL)
		p->writes = 0;
}

#endif
