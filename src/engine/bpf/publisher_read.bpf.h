/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * publisher_read.bpf.h - how the BPF programs read the kernel, and write pages.
 *
 * Structures are found by address, and read by loads that the kernel's program loader marks as ones that may fail: a wrong
 * address reads as 0, and is never a fault. They cost a tenth of a call of bpf_probe_read_kernel().
 */
#ifndef KSHARED_ENGINE_BPF_PUBLISHER_READ_BPF_H
#define KSHARED_ENGINE_BPF_PUBLISHER_READ_BPF_H

#include <stdbool.h>

#include "publisher_abi.h"
#include "vmlinux_port.h"

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

#define CLOCK_MONOTONIC 1
#define TIMER_CPU_PIN 2 /* BPF_F_TIMER_CPU_PIN */
#define MAP_ARRAY 2
#define MAP_ARRAY_OF_MAPS 12
#define MAP_MMAPABLE 1024

/** bpf_rdonly_cast() - the kernel's: @at as a pointer to a structure of type @type that may be read. */
extern void *bpf_rdonly_cast(const void *at, __u32 type) __ksym;

/* The structure of type @type at a kernel address. */
#define AT(type, address) \
	((struct type *)bpf_rdonly_cast((void *)(address), bpf_core_type_id_kernel(struct type)))
/* The address of a member; and of what a pointer that is a member points to. */
#define MEMBER(type, address, member) ((address) + bpf_core_field_offset(struct type, member))
#define POINTER(type, address, member) u64_at(MEMBER(type, address, member))

/** u64_at() - the word at a kernel address: any structure does that begins with one. */
static __always_inline __u64 u64_at(__u64 address)
{
	return AT(task_cputime, address)->stime;
}

/** s32_at() - the same, of 32 bits. */
static __always_inline __s32 s32_at(__u64 address)
{
	return AT(refcount_struct, address)->refs.counter;
}

/* The beginning of struct port_head is constant; the loader asserts that this is the rest. */
struct page {
	char constant[128];
	__u64 seq, writes, sample_ns;
};

const volatile struct publisher_conf conf = {};
struct publisher_found found = {};

/** begin() - begin a pass: see port.h. The exchange's value is used, which makes it a full barrier. */
static __always_inline bool begin(struct page *p)
{
	if (!p || (!conf.no_seqlock && __sync_fetch_and_add(&p->seq, 1) == ~0ULL))
		return false;
	barrier();
	return true;
}

/** end() - end a pass of what was sampled at @now. */
static __always_inline void end(struct page *p, __u64 now)
{
	p->writes++;
	p->sample_ns = now;
	barrier();
	if (!conf.no_seqlock && __sync_fetch_and_add(&p->seq, 1) == ~0ULL)
		p->writes = 0;
}

/** read_psi() - all of a psi_group's; "full" of the CPU is undefined for the whole system: 0, as in /proc. */
static __always_inline void read_psi(struct port_psi *d, __u64 group, bool is_system)
{
	__u64 total = MEMBER(psi_group, group, total), avg = MEMBER(psi_group, group, avg);

#define PSI_LINE(what, which, n)                            \
	d->what.which##_avg10 = u64_at(avg + (n)*24);       \
	d->what.which##_avg60 = u64_at(avg + (n)*24 + 8);   \
	d->what.which##_avg300 = u64_at(avg + (n)*24 + 16); \
	d->what.which##_total = u64_at(total + (n)*8);
	PSI_LINE(io, some, bpf_core_enum_value(enum psi_states, PSI_IO_SOME))
	PSI_LINE(io, full, bpf_core_enum_value(enum psi_states, PSI_IO_FULL))
	PSI_LINE(memory, some, bpf_core_enum_value(enum psi_states, PSI_MEM_SOME))
	PSI_LINE(memory, full, bpf_core_enum_value(enum psi_states, PSI_MEM_FULL))
	PSI_LINE(cpu, some, bpf_core_enum_value(enum psi_states, PSI_CPU_SOME))
	if (!is_system) {
		PSI_LINE(cpu, full, bpf_core_enum_value(enum psi_states, PSI_CPU_FULL))
	}
#undef PSI_LINE
}

#endif
