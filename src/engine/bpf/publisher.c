// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * publisher.c - loads the BPF programs of publisher.bpf.c and starts them: see publisher.h.
 *
 * What the programs cannot find is told to them before they are loaded: where per-CPU variables are (from the kernel's BTF), how
 * many counters there are (the same), a cgroup from which the system's pressure is reached. Each page's head and fields
 * are written by an update of the map, never by a mapping: a map that is mapped for writing cannot be frozen.
 */
#include "engine/bpf/publisher_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include <base/cleanup.h>
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>

#include "engine/bpf/publisher.skel.h"

#define FIRST_SAMPLE_TRIES 500 /* of 1 ms */
#define CPU_TIMES 10 /* of port_cpu_fields, after the first */
#define VMSTAT_UNREACHED \
	4 /* lines between the nodes' counters and the events: thresholds, computed when read */

_Static_assert(offsetof(struct port_head, seq) == 128, "publisher.bpf.c: struct page");
_Static_assert(offsetof(struct port_head, writes) == 136, "publisher.bpf.c: struct page");
_Static_assert(offsetof(struct port_head, sample_ns) == 144, "publisher.bpf.c: struct page");

static void free_publisher_p(struct publisher **p)
{
	publisher_free(*p);
}

static void free_btf_p(struct btf **b)
{
	btf__free(*b);
}

static void close_file_p(FILE **f)
{
	if (*f)
		fclose(*f);
}

static int quiet(enum libbpf_print_level level, const char *format, va_list args)
{
	return getenv("KSHARED_BPF_DEBUG") ? vfprintf(stderr, format, args) : 0;
}

/* A constant of an enum of the kernel's. Return: -1: there is none. */
static long enum_value(const struct btf *btf, const char *type, const char *name)
{
	int id = btf__find_by_name_kind(btf, type, BTF_KIND_ENUM);
	const struct btf_type *t = id > 0 ? btf__type_by_id(btf, id) : NULL;

	for (int i = 0; t && i < btf_vlen(t); i++)
		if (strcmp(btf__name_by_offset(btf, btf_enum(t)[i].name_off), name) == 0)
			return btf_enum(t)[i].val;
	return -1;
}

/* Where a per-CPU variable is, from runqueues. Return: 0: not known. */
static long long percpu_offset(const struct btf *btf, const char *name)
{
	int id = btf__find_by_name_kind(btf, ".data..percpu", BTF_KIND_DATASEC);
	const struct btf_type *t = id > 0 ? btf__type_by_id(btf, id) : NULL;
	long long runqueues = -1, wanted = -1;

	for (int i = 0; t && i < btf_vlen(t); i++) {
		const struct btf_var_secinfo *v = &btf_var_secinfos(t)[i];
		const struct btf_type *var = btf__type_by_id(btf, v->type);
		const char *s = btf__name_by_offset(btf, var->name_off);

		if (strcmp(s, "runqueues") == 0)
			runqueues = v->offset;
		if (strcmp(s, name) == 0)
			wanted = v->offset;
	}
	return runqueues < 0 || wanted < 0 ? 0 : wanted - runqueues;
}

/* A constant of an enum that has no name. Return: 0: there is none. */
static uint64_t find_value(const struct btf *btf, const char *name)
{
	uint32_t nr = btf__type_cnt(btf);

	for (uint32_t id = 1; id < nr; id++) {
		const struct btf_type *t = btf__type_by_id(btf, id);

		if (!btf_is_enum(t) || t->name_off)
			continue;
		for (int i = 0; i < btf_vlen(t); i++)
			if (strcmp(btf__name_by_offset(btf, btf_enum(t)[i].name_off), name) == 0)
				return btf_enum(t)[i].val;
	}
	return 0;
}

/* Counters of huge pages are kept in pages, and shown in huge ones. */
static void find_huge(struct publisher_conf *c, const struct port_field *node_fields)
{
	static const char *const names[] = { "nr_anon_transparent_hugepages", "nr_shmem_hugepages",
					     "nr_shmem_pmdmapped", "nr_file_hugepages",
					     "nr_file_pmdmapped" };
	cleanup(close_file_p)
		FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "re");
	unsigned long size;

	if (!f || fscanf(f, "%lu", &size) != 1)
		return;
	c->thp_pages = size / sysconf(_SC_PAGESIZE);
	for (uint32_t i = 0; c->thp_pages && i < c->nr_node_items; i++)
		for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++)
			if (strcmp(node_fields[i].name, names[n]) == 0)
				c->thp_items |= 1ULL << i;
}

/* The fields of vmstat that are reached: zones', NUMA's, nodes' and events, in the order of the data. */
static int make_vmstat(struct publisher *p, struct publisher_conf *c)
{
	cleanup(close_file_p) FILE *f = fopen("/proc/vmstat", "re");
	cleanup_free struct port_field *all = calloc(PORT_VMSTAT_MAX, sizeof(*all));
	uint32_t before = c->nr_zone_items + c->nr_numa_items + c->nr_node_items;
	char text[16384];
	size_t len;
	int r;

	if (!all)
		return -ENOMEM;
	if (!f)
		return -errno;
	len = fread(text, 1, sizeof(text) - 1, f);
	text[len] = '\0';
	r = port_vmstat_spec(text, all, &p->vmstat);
	if (r)
		return r;
	if (p->vmstat.nr_fields < before + VMSTAT_UNREACHED + c->nr_events ||
	    strcmp(all[0].name, "nr_free_pages") != 0 ||
	    strcmp(all[before + VMSTAT_UNREACHED].name, "pgpgin") != 0)
		return -EPROTO;
	memcpy(p->vmstat_fields, all, before * sizeof(*all));
	memcpy(p->vmstat_fields + before, all + before + VMSTAT_UNREACHED,
	       c->nr_events * sizeof(*all));
	for (uint32_t i = 0; i < before + c->nr_events; i++)
		p->vmstat_fields[i].offset = i * 8;
	find_huge(c, p->vmstat_fields + c->nr_zone_items + c->nr_numa_items);
	p->vmstat.fields = p->vmstat_fields;
	p->vmstat.nr_fields = before + c->nr_events;
	p->vmstat.element_size = p->vmstat.nr_fields * 8;
	return 0;
}

static struct bpf_map *page_map(const struct publisher *p, enum port_page page)
{
	switch (page) {
	case PORT_LOAD:
		return p->bpf->maps.page_load;
	case PORT_CPU:
		return p->bpf->maps.page_cpu;
	case PORT_MEMORY:
		return p->bpf->maps.page_memory;
	case PORT_VMSTAT:
		return p->bpf->maps.page_vmstat;
	case PORT_PSI:
		return p->bpf->maps.page_psi;
	case PORT_CLOCK:
		return p->bpf->maps.page_clock;
	default:
		return NULL;
	}
}

static int read_btf(struct publisher_conf *c)
{
	cleanup(free_btf_p) struct btf *btf = btf__load_vmlinux_btf();
	long zone, numa, node, events;

	if (!btf)
		return -ENOTSUP;
	zone = enum_value(btf, "zone_stat_item", "NR_VM_ZONE_STAT_ITEMS");
	numa = enum_value(btf, "numa_stat_item", "NR_VM_NUMA_EVENT_ITEMS");
	node = enum_value(btf, "node_stat_item", "NR_VM_NODE_STAT_ITEMS");
	events = enum_value(btf, "vm_event_item", "NR_VM_EVENT_ITEMS");
	if (zone < 1 || zone > PUBLISHER_ITEMS_MAX || node < 1 || node > PUBLISHER_ITEMS_MAX ||
	    numa > PUBLISHER_ITEMS_MAX || events > PUBLISHER_EVENTS_MAX)
		return -ENOTSUP;
	c->nr_zone_items = zone;
	c->nr_numa_items = numa > 0 ? numa : 0;
	c->nr_node_items = node;
	c->nr_events = events > 0 ? events : 0;
	c->css_online = find_value(btf, "CSS_ONLINE");
	c->cgroup_frozen = 1ULL << find_value(btf, "CGRP_FROZEN");
	c->percpu.this_cpu_off = percpu_offset(btf, "this_cpu_off");
	c->percpu.cpustat = percpu_offset(btf, "kernel_cpustat");
	c->percpu.tick_sched = percpu_offset(btf, "tick_cpu_sched");
	c->percpu.vm_events = events > 0 ? percpu_offset(btf, "vm_event_states") : 0;
	return 0;
}

/*
 * A cgroup below the root of version 2, for as long as this takes: one that is there, else one that is made.
 * Return: its number; 0: none to be had.
 */
static uint64_t find_cgroup(char *ret_made)
{
	cleanup(close_file_p) FILE *f = fopen("/proc/self/mounts", "re");
	char line[4096], where[1024], type[64];

	*ret_made = '\0';
	while (f && fgets(line, sizeof(line), f)) {
		struct stat st;

		if (sscanf(line, "%*s %1023s %63s", where, type) != 2 ||
		    strcmp(type, "cgroup2") != 0)
			continue;
		snprintf(ret_made, PATH_MAX, "%s/kshared-%d", where, (int)getpid());
		if (mkdir(ret_made, 0700) == 0 && stat(ret_made, &st) == 0)
			return st.st_ino;
		*ret_made = '\0';
	}
	return 0;
}

/* Sizes of the pages, and all else that is settled before the programs are loaded. */
static int configure(struct publisher *p, const struct publisher_options *o)
{
	struct publisher_conf *c = (struct publisher_conf *)&p->bpf->rodata->conf;
	long machine_page = sysconf(_SC_PAGESIZE);
	cpu_set_t cpus;
	int r = read_btf(c);

	if (r)
		return r;
	c->period_ns = o->period_ns ? o->period_ns : PUBLISHER_PERIOD_NS;
	c->no_seqlock = o->no_seqlock;
	c->nr_cpus = libbpf_num_possible_cpus();
	if (c->nr_cpus > PORT_CPUS_MAX)
		return -ENOTSUP;
	if (sched_getaffinity(0, sizeof(cpus), &cpus))
		return -errno;
	while (c->lead < c->nr_cpus && !CPU_ISSET(c->lead, &cpus))
		c->lead++;
	if (make_vmstat(p, c))
		c->percpu.vm_events = 0;
	c->task_off = port_data_off(port_task_spec.nr_fields);
	c->cgroup_off = port_data_off(port_cgroup_spec.nr_fields);
	for (int i = 0; i < NR_PORT_PAGES; i++) {
		const struct port_spec *s = i == PORT_VMSTAT ? &p->vmstat : &port_specs[i];
		uint64_t size = port_page_size(s, s->nr_elements ? s->nr_elements : c->nr_cpus);

		c->data_off[i] = port_data_off(s->nr_fields);
		if (i == PORT_VMSTAT && !c->percpu.vm_events)
			size = port_data_off(0) + PORT_VMSTAT_MAX * 8;
		p->size[i] = (size + machine_page - 1) / machine_page * machine_page;
		if (page_map(p, i) && bpf_map__set_value_size(page_map(p, i), p->size[i]))
			return -errno;
	}
	return 0;
}

/* Heads and fields; afterwards nobody but the programs can write there. */
static int publish_heads(struct publisher *p, const struct publisher_options *o)
{
	const struct publisher_conf *c = (const struct publisher_conf *)&p->bpf->rodata->conf;

	for (int i = 0; i < NR_PORT_PAGES; i++) {
		const struct port_spec *s = i == PORT_VMSTAT ? &p->vmstat : &port_specs[i];
		cleanup_free struct port_head *h = calloc(1, p->size[i]);
		uint32_t zero = 0;
		int fd;

		if (!h)
			return -ENOMEM;
		if (!page_map(p, i))
			continue;
		fd = bpf_map__fd(page_map(p, i));
		port_format(h, s, s->nr_elements ? s->nr_elements : c->nr_cpus, PORT_SOURCE_BPF,
			    i == PORT_VMSTAT ? c->period_ns * PUBLISHER_SLOW : c->period_ns,
			    o->generation);
		/* No field is listed that cannot be filled. */
		if (i == PORT_CPU && !c->percpu.cpustat)
			for (int n = 1; n <= CPU_TIMES; n++)
				port_omit(h, port_cpu_fields[n].name);
		if (bpf_map_update_elem(fd, &zero, h, BPF_ANY) || bpf_map_freeze(fd))
			return -errno;
	}
	return 0;
}

static int run_on(struct bpf_program *program, int cpu)
{
	LIBBPF_OPTS(bpf_test_run_opts, run);
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof(one), &one) ||
	    bpf_prog_test_run_opts(bpf_program__fd(program), &run))
		return -errno;
	return (int)run.retval;
}

/* Each CPU that we may run on is looked at, once. */
static int start_timer(struct publisher *p)
{
	cpu_set_t before;
	int r = 0, nr = 0;

	if (sched_getaffinity(0, sizeof(before), &before))
		return -errno;
	for (int cpu = 0; cpu < PORT_CPUS_MAX && !r; cpu++) {
		if (!CPU_ISSET(cpu, &before))
			continue;
		r = run_on(p->bpf->progs.publisher_look, cpu);
		nr++;
	}
	p->every_cpu = nr >= sysconf(_SC_NPROCESSORS_ONLN);
	if (!r)
		r = run_on(p->bpf->progs.publisher_start, p->bpf->rodata->conf.lead);
	sched_setaffinity(0, sizeof(before), &before);
	return r;
}

/* Has the page been written? Load averages must be those of sysinfo(2), too: where they are is a guess. */
static bool is_served(const struct publisher *p, enum port_page page)
{
	struct port_head *h;
	bool served = false;

	if (!page_map(p, page) || (page == PORT_VMSTAT && !p->bpf->rodata->conf.percpu.vm_events))
		return false;
	h = mmap(NULL, p->size[page], PROT_READ, MAP_SHARED, bpf_map__fd(page_map(p, page)), 0);
	if (h == MAP_FAILED)
		return false;
	for (int i = 0; i < 10 && !served; i++) {
		struct port_load load;
		struct sysinfo info;

		served = __atomic_load_n(&h->writes, __ATOMIC_ACQUIRE) != 0;
		if (!served || page != PORT_LOAD)
			break;
		/* They change every five seconds: between the two looks, at most once. */
		served = port_snapshot(h, h->data_off, &load, sizeof(load), NULL) == 0 &&
			sysinfo(&info) == 0 && load.load1 == info.loads[0] >> 5 &&
			load.load5 == info.loads[1] >> 5 && load.load15 == info.loads[2] >> 5;
		usleep(1000);
	}
	munmap(h, p->size[page]);
	return served;
}

bool publisher_wait_written(int fd, uint64_t size, uint64_t times)
{
	struct port_head *h = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	bool written = false;

	if (h == MAP_FAILED)
		return false;
	for (int i = 0; i < FIRST_SAMPLE_TRIES && !written; i++) {
		written = __atomic_load_n(&h->writes, __ATOMIC_ACQUIRE) >= times;
		if (!written)
			usleep(1000);
	}
	munmap(h, size);
	return written;
}

int publisher_new(struct publisher **ret, const struct publisher_options *o)
{
	cleanup(free_publisher_p) struct publisher *p = calloc(1, sizeof(*p));
	char made[PATH_MAX];
	int r;

	if (!p)
		return -ENOMEM;
	publisher_init_accounts(p);
	p->generation = o->generation;
	libbpf_set_print(quiet);
	p->bpf = publisher_bpf__open();
	if (!p->bpf)
		return -errno;
	r = configure(p, o);
	if (r)
		return r;
	r = publisher_bpf__load(p->bpf);
	if (r)
		return r == -EPERM || r == -EACCES ? -EPERM : r == -ENOMEM ? r : -ENOTSUP;
	r = publish_heads(p, o);
	if (r)
		return r;
	p->bpf->bss->psi_cgroup_id = find_cgroup(made);
	r = start_timer(p);
	if (*made)
		rmdir(made);
	if (r)
		return r;
	publisher_wait_written(bpf_map__fd(p->bpf->maps.page_cpu), p->size[PORT_CPU], 2);
	for (int i = 0; i < NR_PORT_PAGES; i++)
		p->served[i] = is_served(p, i);
	*ret = take_ptr(p);
	return 0;
}

int publisher_fd(const struct publisher *p, enum port_page page)
{
	return p->served[page] ? bpf_map__fd(page_map(p, page)) : -ENOENT;
}

uint64_t publisher_size(const struct publisher *p, enum port_page page)
{
	return p->size[page];
}

int publisher_hold_fd(const struct publisher *p)
{
	return bpf_map__fd(p->bpf->maps.timers);
}

uint64_t publisher_busy_ns(const struct publisher *p, uint64_t *ret_passes)
{
	*ret_passes = p->bpf->bss->nr_passes;
	return p->bpf->bss->busy_ns;
}

void publisher_free(struct publisher *p)
{
	if (!p)
		return;
	publisher_deinit_accounts(p);
	publisher_bpf__destroy(p->bpf);
	free(p);
}
