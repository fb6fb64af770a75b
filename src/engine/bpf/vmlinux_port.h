/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmlinux_port.h - of the kernel's structures, the members that the publisher reads.
 *
 * Offsets are not what they seem here: preserve_access_index makes the loader put in those of the running kernel
 * (CO-RE), by name. Only names, nesting and types must be right; order, and what is left out, do not matter.
 */
#ifndef KSHARED_ENGINE_BPF_VMLINUX_PORT_H
#define KSHARED_ENGINE_BPF_VMLINUX_PORT_H

#ifdef __clang__
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#endif

struct rq {
	unsigned int nr_running;
	unsigned long long nr_switches;
	int cpu;
};

struct cfs_rq {
	struct rq *rq;
};

struct sched_entity {
	struct cfs_rq *cfs_rq;
};

struct zone;

struct zoneref {
	struct zone *zone;
};

struct zonelist {
	struct zoneref _zonerefs[1];
};

struct pglist_data {
	struct zonelist node_zonelists[1];
	struct {
		long counter;
	} vm_stat[1];
	int node_id;
};

struct zone {
	struct pglist_data *zone_pgdat;
	struct {
		long counter;
	} managed_pages;
	struct {
		long counter;
	} vm_stat[1];
	struct {
		long counter;
	} vm_numa_event[1];
};

struct lruvec {
	struct pglist_data *pgdat;
};

struct mem_cgroup_per_node {
	struct lruvec lruvec;
};

struct cgroup_subsys_state;

struct mem_cgroup {
	struct mem_cgroup_per_node *nodeinfo[1];
};

/* Type information has arrays of arrays as one: total[2][6], avg[6][3]. */
struct psi_group {
	struct psi_group *parent;
	unsigned long long total[12];
	unsigned long avg[18];
};

struct cgroup {
	struct psi_group *psi;
};

struct css_set {
	struct cgroup_subsys_state *subsys[1];
};

struct task_struct {
	struct sched_entity se;
	struct css_set *cgroups;
};

struct kernel_cpustat {
	unsigned long long cpustat[10];
};

struct tick_sched {
	long long idle_sleeptime;
	long long iowait_sleeptime;
};

/* The loader puts in this kernel's numbers for these. */
enum cgroup_subsys_id { memory_cgrp_id = 4 };

enum zone_stat_item { NR_FREE_PAGES, NR_MLOCK };

enum node_stat_item {
	NR_INACTIVE_ANON,
	NR_ACTIVE_ANON,
	NR_INACTIVE_FILE,
	NR_ACTIVE_FILE,
	NR_UNEVICTABLE,
	NR_SLAB_RECLAIMABLE_B,
	NR_SLAB_UNRECLAIMABLE_B,
	NR_ANON_MAPPED,
	NR_FILE_MAPPED,
	NR_FILE_PAGES,
	NR_FILE_DIRTY,
	NR_WRITEBACK,
	NR_SHMEM,
	NR_PAGETABLE,
};

enum cpu_usage_stat {
	CPUTIME_USER,
	CPUTIME_NICE,
	CPUTIME_SYSTEM,
	CPUTIME_SOFTIRQ,
	CPUTIME_IRQ,
	CPUTIME_IDLE,
	CPUTIME_IOWAIT,
	CPUTIME_STEAL,
	CPUTIME_GUEST,
	CPUTIME_GUEST_NICE,
};

#ifdef __clang__
#pragma clang attribute pop
#endif

#endif
