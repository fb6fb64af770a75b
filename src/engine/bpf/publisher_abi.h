/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * publisher_abi.h - what the loader tells the BPF programs, before they are loaded: constants of the running kernel
 * that no program can find; and what they share while they run. Compiled by both.
 */
#ifndef KSHARED_ENGINE_BPF_PUBLISHER_ABI_H
#define KSHARED_ENGINE_BPF_PUBLISHER_ABI_H

#include <wire/port_pages.h>

#define PUBLISHER_ZONES_MAX 32
#define PUBLISHER_NODES_MAX 8
#define PUBLISHER_ITEMS_MAX 64 /* of a zone, or of a node */
#define PUBLISHER_EVENTS_MAX 160
#define PUBLISHER_SLOW 10 /* vmstat and accounts are written in one pass of so many */
#define PUBLISHER_ACCOUNTS_MAX 256
#define PUBLISHER_ACCOUNT_SIZE 4096 /* of such a page */
#define PUBLISHER_THREADS_MAX 256 /* of one process, that are looked at */

/*
 * Where a per-CPU variable of a CPU is, counted from that CPU's runqueues: the difference is the same on every CPU. The
 * kernel's BTF has the section's offsets also where no symbol can be looked up. 0: it has none.
 */
struct publisher_percpu {
	long long cpustat, tick_sched, vm_events, this_cpu_off;
};

/*
 * @data_off: of each page
 * @thp_items: which of the nodes' counters /proc/vmstat shows in huge pages, of @thp_pages pages each
 * @lead: the CPU whose timer it is
 * @cgroup_frozen, @css_online: bits of flags
 */
struct publisher_conf {
	uint64_t period_ns;
	struct publisher_percpu percpu;
	uint64_t thp_items;
	uint64_t cgroup_frozen, css_online;
	unsigned int data_off[NR_PORT_PAGES];
	unsigned int task_off, cgroup_off;
	unsigned int lead;
	unsigned int nr_cpus;
	unsigned int thp_pages;
	unsigned int nr_zone_items, nr_numa_items, nr_node_items, nr_events;
	unsigned int
		no_seqlock; /* tests: pages are written without the seqlock, and must be found torn */
};

/*
 * What was found at the start, as kernel addresses; 0: nothing, and the page is not written.
 * @rqs: each CPU's run queue
 * @cpu_offs: what is added to the address of anything per-CPU
 */
struct publisher_found {
	uint64_t avenrun;
	uint64_t psi_system;
	unsigned int nr_zones, nr_nodes;
	uint64_t zones[PUBLISHER_ZONES_MAX];
	uint64_t nodes[PUBLISHER_NODES_MAX];
	uint64_t rqs[PORT_CPUS_MAX];
	uint64_t cpu_offs[PORT_CPUS_MAX];
};

enum publisher_kind { PUBLISHER_FREE, PUBLISHER_TASK, PUBLISHER_CGROUP };

/* A slot's task or cgroup, as a kernel address: the slot holds a reference. */
struct publisher_account {
	uint64_t at;
	uint64_t kind;
};

/*
 * The context of publisher_take() and publisher_drop().
 * @id: a process's number, or a cgroup's
 * @ino: the process's own, never used again; 0: this kernel has none
 * @ret_tgid, @ret_has: of the process; of the cgroup, 1 << enum publisher_has
 */
struct publisher_take {
	unsigned int kind, slot;
	uint64_t id, ino;
};

#endif
