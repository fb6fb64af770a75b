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

struct refcount_struct {
	struct {
		int counter;
	} refs;
};

struct rq {
	unsigned int nr_running;
	unsigned long long nr_switches;
	struct {
		int counter;
	} nr_iowait;
	int cpu;
};

struct cfs_rq {
	struct rq *rq;
};

struct sched_entity {
	struct cfs_rq *cfs_rq;
	unsigned long long sum_exec_runtime;
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

struct cgroup_subsys_state {
	unsigned int flags;
};

struct page_counter {
	struct {
		long counter;
	} usage;
	unsigned long watermark;
	unsigned long max;
};

struct mem_cgroup {
	struct page_counter memory;
	struct mem_cgroup_per_node *nodeinfo[1];
};

struct pids_cgroup {
	struct {
		long long counter;
	} counter;
	struct {
		long long counter;
	} limit;
};

/* Type information has arrays of arrays as one: total[2][6], avg[6][3]. */
struct psi_group {
	struct psi_group *parent;
	unsigned long long total[12];
	unsigned long avg[18];
};

struct prev_cputime {
	unsigned long long utime;
	unsigned long long stime;
};

struct task_cputime {
	unsigned long long stime;
	unsigned long long utime;
	unsigned long long sum_exec_runtime;
};

struct cgroup_base_stat {
	struct task_cputime cputime;
};

struct cgroup {
	struct cgroup_subsys_state self;
	unsigned long flags;
	int nr_descendants;
	int nr_dying_descendants;
	int nr_populated_csets;
	int nr_populated_domain_children;
	int nr_populated_threaded_children;
	struct cgroup_subsys_state *subsys[1];
	struct cgroup_base_stat bstat;
	struct prev_cputime prev_cputime;
	struct psi_group *psi;
};

struct css_set {
	struct cgroup_subsys_state *subsys[1];
};

struct list_head {
	struct list_head *next;
};

struct task_io_accounting {
	unsigned long long rchar, wchar, syscr, syscw;
	unsigned long long read_bytes, write_bytes, cancelled_write_bytes;
};

struct signal_struct {
	struct {
		int counter;
	} live;
	int nr_threads;
	struct list_head thread_head;
	struct {
		struct {
			struct {
				unsigned int sequence;
			} seqcount;
		} seqcount;
	} stats_lock;
	unsigned long long utime, stime;
	unsigned long nvcsw, nivcsw, min_flt, maj_flt;
	struct task_io_accounting ioac;
	unsigned long long sum_sched_runtime;
};

struct percpu_counter {
	long long count;
	int *counters;
};

struct mm_struct {
	struct percpu_counter rss_stat[4];
};

struct pid {
	unsigned long long ino;
};

struct task_struct {
	unsigned int __state;
	int exit_state;
	int pid;
	int tgid;
	struct sched_entity se;
	struct css_set *cgroups;
	struct list_head thread_node;
	struct pid *thread_pid;
	struct signal_struct *signal;
	struct mm_struct *mm;
	unsigned long long utime, stime;
	unsigned long nvcsw, nivcsw, min_flt, maj_flt;
	unsigned long long start_boottime;
	char comm[16];
	struct task_io_accounting ioac;
};

struct kernel_cpustat {
	unsigned long long cpustat[10];
};

struct tick_sched {
	unsigned long flags;
	struct {
		unsigned int sequence;
	} idle_sleeptime_seq;
	long long idle_entrytime;
	long long idle_sleeptime;
	long long iowait_sleeptime;
};

/* The loader puts in this kernel's numbers for these. */
enum cgroup_subsys_id { memory_cgrp_id = 4, pids_cgrp_id = 11 };

enum { MM_FILEPAGES, MM_ANONPAGES, MM_SWAPENTS, MM_SHMEMPAGES };

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

/* Indices of what pressure has. */
enum psi_states {
	PSI_IO_SOME,
	PSI_IO_FULL,
	PSI_MEM_SOME,
	PSI_MEM_FULL,
	PSI_CPU_SOME,
	PSI_CPU_FULL,
};

#ifdef __clang__
#pragma clang attribute pop
#endif

#endif
