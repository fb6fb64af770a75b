/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * publisher_abi.h - what the loader tells the BPF programs, before they are loaded: constants of the running kernel
 * that no program can find. Compiled by both.
 */
#ifndef KSHARED_ENGINE_BPF_PUBLISHER_ABI_H
#define KSHARED_ENGINE_BPF_PUBLISHER_ABI_H

#include <wire/port_pages.h>

#define PUBLISHER_ZONES_MAX 32
#define PUBLISHER_NODES_MAX 8
#define PUBLISHER_ITEMS_MAX 64 /* of a zone, or of a node */
#define PUBLISHER_EVENTS_MAX 160

/*
 * Where a per-CPU variable of a CPU is, counted from that CPU's runqueues: the difference is the same on every CPU. The
 * kernel's BTF has the section's offsets also where no symbol can be looked up. 0: it has none.
 */
struct publisher_percpu {
	long long cpustat, tick_sched, vm_events;
};

/*
 * @data_off: of each page
 * @avenrun, @get_avenrun: kernel addresses; 0: not found
 * @thp_items: which of the nodes' counters /proc/vmstat shows in huge pages, of @thp_pages pages each
 * @lead: the CPU whose timer writes the pages
 */
struct publisher_conf {
	uint64_t period_ns;
	uint64_t avenrun, get_avenrun;
	struct publisher_percpu percpu;
	uint64_t thp_items;
	unsigned int data_off[NR_PORT_PAGES];
	unsigned int lead;
	unsigned int nr_cpus;
	unsigned int thp_pages;
	unsigned int nr_zone_items, nr_numa_items, nr_node_items, nr_events;
	unsigned int
		no_seqlock; /* tests: pages are written without the seqlock, and must be found torn */
};

/* What publisher_start() found, as kernel addresses; 0: nothing, and the page is not written. */
struct publisher_found {
	uint64_t avenrun;
	uint64_t psi_system;
	unsigned int nr_zones, nr_nodes;
	uint64_t zones[PUBLISHER_ZONES_MAX];
	uint64_t nodes[PUBLISHER_NODES_MAX];
};

#endif
