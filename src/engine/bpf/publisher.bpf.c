// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * publisher.bpf.c - kernel structures are copied into pages, by a timer on each CPU.
 *
 * publisher_start(), run once on each CPU, arms that CPU's timer, which arms itself again for as long as somebody holds a
 * descriptor of the map of timers. Each timer looks at its own CPU and keeps what it saw in a slot; that of CPU conf.lead also
 * writes the pages. So each page has one writer, and no CPU's counters are read from elsewhere but those of vm events.
 *
 * Structures are reached from the task that happens to run: task -> se.cfs_rq -> rq, and task -> cgroups -> memory -> node ->
 * zones. Runqueues, nodes, zones and the system's psi_group are never freed, so that their addresses are kept. All of it is read
 * by bpf_probe_read_kernel(): a wrong address is an error, and never a fault.
 */
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
#define MAP_MMAPABLE 1024

struct bpf_timer {
	__u64 opaque[2];
} __attribute__((aligned(8)));

extern struct cgroup *bpf_cgroup_from_id(__u64 id) __ksym __weak;
extern void bpf_cgroup_release(struct cgroup *c) __ksym __weak;

/* The beginning of struct port_head is constant; the loader asserts that this is the rest. */
struct page {
	char constant[128];
	__u64 seq, writes, sample_ns;
};

struct cpu_timer {
	struct bpf_timer timer;
};

struct cpu_slot {
	__u64 seq;
	__u64 rq;
	struct port_cpu sample;
};

const volatile struct publisher_conf conf = {};
struct publisher_found found = {};
__u64 psi_cgroup_id = 0; /* any below the root of version 2 */
static struct cpu_slot slots[PORT_CPUS_MAX];

/* The lead's: too large for its stack. */
static __u64 zone_sum[PUBLISHER_ITEMS_MAX], numa_sum[PUBLISHER_ITEMS_MAX];
static __u64 node_sum[PUBLISHER_ITEMS_MAX], event_sum[PUBLISHER_EVENTS_MAX];
static __u64 items[PUBLISHER_EVENTS_MAX];

struct {
	__uint(type, MAP_ARRAY);
	__uint(max_entries, PORT_CPUS_MAX);
	__type(key, __u32);
	__type(value, struct cpu_timer);
} timers SEC(".maps");

/* The loader sets their sizes. */
#define PAGE_MAP(name)                           \
	struct {                                 \
		__uint(type, MAP_ARRAY);         \
		__uint(map_flags, MAP_MMAPABLE); \
		__uint(max_entries, 1);          \
		__uint(key_size, 4);             \
		__uint(value_size, 4096);        \
	} page_##name SEC(".maps")

PAGE_MAP(load);
PAGE_MAP(cpu);
PAGE_MAP(memory);
PAGE_MAP(vmstat);
PAGE_MAP(psi);
PAGE_MAP(clock);

/* A pass: see port.h. The exchange's value is used, which makes it a full barrier. */
static __always_inline void *begin(void *map, __u32 which)
{
	__u32 zero = 0;
	struct page *p = bpf_map_lookup_elem(map, &zero);

	if (p && !conf.no_seqlock && __sync_fetch_and_add(&p->seq, 1) == ~0ULL)
		return NULL;
	barrier();
	return p;
}

static __always_inline void end(struct page *p, __u64 now)
{
	p->writes++;
	p->sample_ns = now;
	barrier();
	if (!conf.no_seqlock && __sync_fetch_and_add(&p->seq, 1) == ~0ULL)
		p->writes = 0;
}

static __always_inline void *data(void *page, __u32 which)
{
	return (char *)page + conf.data_off[which];
}

/* This CPU, into its slot. */
static __always_inline void look_at_cpu(struct cpu_slot *s, __u32 cpu)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rq *rq = BPF_CORE_READ(task, se.cfs_rq, rq);
	__u64 stat[10] = {};
	struct port_cpu *c = &s->sample;

	/* After its CPU went offline a timer may come on another one. */
	if (!rq || BPF_CORE_READ(rq, cpu) != cpu)
		return;
	if (__sync_fetch_and_add(&s->seq, 1) == ~0ULL)
		return;
	s->rq = (__u64)rq;
	c->nr_running = BPF_CORE_READ(rq, nr_running);
	c->nr_switches = BPF_CORE_READ(rq, nr_switches);
	if (conf.percpu.cpustat &&
	    !bpf_probe_read_kernel(stat, sizeof(stat), (char *)rq + conf.percpu.cpustat)) {
		c->user = stat[CPUTIME_USER];
		c->nice = stat[CPUTIME_NICE];
		c->system = stat[CPUTIME_SYSTEM];
		c->softirq = stat[CPUTIME_SOFTIRQ];
		c->irq = stat[CPUTIME_IRQ];
		c->idle = stat[CPUTIME_IDLE];
		c->iowait = stat[CPUTIME_IOWAIT];
		c->steal = stat[CPUTIME_STEAL];
		c->guest = stat[CPUTIME_GUEST];
		c->guest_nice = stat[CPUTIME_GUEST_NICE];
	}
	if (conf.percpu.tick_sched) {
		struct tick_sched *ts = (void *)((char *)rq + conf.percpu.tick_sched);
		__u64 idle = BPF_CORE_READ(ts, idle_sleeptime);

		/* Where idle CPUs have no tick, it is not in cpustat. */
		if (idle) {
			c->idle = idle;
			c->iowait = BPF_CORE_READ(ts, iowait_sleeptime);
		}
	}
	c->sample_ns = bpf_ktime_get_ns();
	if (__sync_fetch_and_add(&s->seq, 1) == ~0ULL)
		s->rq = 0;
}

static __always_inline void publish_load(__u64 now)
{
	struct port_load *d;
	struct page *p;

	if (!found.avenrun)
		return;
	p = begin(&page_load, PORT_LOAD);
	if (!p)
		return;
	d = data(p, PORT_LOAD);
	bpf_probe_read_kernel(d, sizeof(*d), (void *)found.avenrun);
	end(p, now);
}

static __always_inline void publish_clock(void)
{
	struct page *p = begin(&page_clock, PORT_CLOCK);
	struct port_clock *d;
	__u64 now;

	if (!p)
		return;
	d = data(p, PORT_CLOCK);
	now = bpf_ktime_get_ns();
	d->monotonic = now;
	d->boottime = bpf_ktime_get_boot_ns();
	d->tai = bpf_ktime_get_tai_ns();
	end(p, now);
}

static __always_inline void publish_psi(__u64 now)
{
	struct psi_group *g = (void *)found.psi_system;
	struct port_psi *d;
	struct page *p;
	__u64 total[6], avg[6][3];

	if (!g || bpf_core_read(total, sizeof(total), &g->total) ||
	    bpf_core_read(avg, sizeof(avg), &g->avg))
		return;
	p = begin(&page_psi, PORT_PSI);
	if (!p)
		return;
	d = data(p, PORT_PSI);
#define PSI(what, n)                           \
	d->what.some_avg10 = avg[n][0];        \
	d->what.some_avg60 = avg[n][1];        \
	d->what.some_avg300 = avg[n][2];       \
	d->what.some_total = total[n];         \
	d->what.full_avg10 = avg[(n) + 1][0];  \
	d->what.full_avg60 = avg[(n) + 1][1];  \
	d->what.full_avg300 = avg[(n) + 1][2]; \
	d->what.full_total = total[(n) + 1];
	PSI(io, 0)
	PSI(memory, 2)
	/* "full" of the CPU is undefined for the whole system: 0, as in /proc. */
	d->cpu.some_avg10 = avg[4][0];
	d->cpu.some_avg60 = avg[4][1];
	d->cpu.some_avg300 = avg[4][2];
	d->cpu.some_total = total[4];
	end(p, now);
}

static __always_inline void publish_cpus(__u64 now)
{
	struct page *p = begin(&page_cpu, PORT_CPU);
	struct port_cpu *d;

	if (!p)
		return;
	d = data(p, PORT_CPU);
	for (__u32 i = 0; i < PORT_CPUS_MAX && i < conf.nr_cpus; i++) {
		struct port_cpu copy;
		__u64 seq = __sync_fetch_and_add(&slots[i].seq, 0);

		copy = slots[i].sample;
		/* Of one that is being written the last one stays. */
		if (!(seq & 1) && __sync_fetch_and_add(&slots[i].seq, 0) == seq)
			d[i] = copy;
	}
	end(p, now);
}

static __always_inline void clear(volatile __u64 *sum, __u32 n)
{
	for (__u32 i = 0; i < n; i++)
		sum[i] = 0;
}

static __always_inline void add(__u64 *sum, __u32 n, __u32 most, __u64 from)
{
	if (n > most || bpf_probe_read_kernel(items, n * 8, (void *)from))
		return;
	for (__u32 i = 0; i < most && i < n; i++)
		sum[i] += items[i];
}

/* Counters that are kept in parts may be below 0 for a moment. */
static __always_inline __u64 positive(__u64 n)
{
	return (__s64)n < 0 ? 0 : n;
}

static __always_inline void publish_memory(__u64 now)
{
	struct port_memory *d;
	struct page *p;
	__u64 managed = 0;

	clear(zone_sum, sizeof(zone_sum) / 8);
	clear(numa_sum, sizeof(numa_sum) / 8);
	clear(node_sum, sizeof(node_sum) / 8);
	for (__u32 i = 0; i < PUBLISHER_ZONES_MAX && i < found.nr_zones; i++) {
		struct zone *z = (void *)found.zones[i];

		managed += BPF_CORE_READ(z, managed_pages.counter);
		add(zone_sum, conf.nr_zone_items, PUBLISHER_ITEMS_MAX,
		    (__u64)__builtin_preserve_access_index(&z->vm_stat));
		if (conf.nr_numa_items)
			add(numa_sum, conf.nr_numa_items, PUBLISHER_ITEMS_MAX,
			    (__u64)__builtin_preserve_access_index(&z->vm_numa_event));
	}
	for (__u32 i = 0; i < PUBLISHER_NODES_MAX && i < found.nr_nodes; i++) {
		struct pglist_data *n = (void *)found.nodes[i];

		add(node_sum, conf.nr_node_items, PUBLISHER_ITEMS_MAX,
		    (__u64)__builtin_preserve_access_index(&n->vm_stat));
	}
	p = begin(&page_memory, PORT_MEMORY);
	if (!p)
		return;
	d = data(p, PORT_MEMORY);
#define ZONE(item) positive(zone_sum[bpf_core_enum_value(enum zone_stat_item, item) & 63])
#define NODE(item) positive(node_sum[bpf_core_enum_value(enum node_stat_item, item) & 63])
	d->total = managed;
	d->free = ZONE(NR_FREE_PAGES);
	d->mlocked = ZONE(NR_MLOCK);
	d->file = NODE(NR_FILE_PAGES);
	d->anon = NODE(NR_ANON_MAPPED);
	d->mapped = NODE(NR_FILE_MAPPED);
	d->shmem = NODE(NR_SHMEM);
	d->dirty = NODE(NR_FILE_DIRTY);
	d->writeback = NODE(NR_WRITEBACK);
	d->slab_reclaimable = NODE(NR_SLAB_RECLAIMABLE_B);
	d->slab_unreclaimable = NODE(NR_SLAB_UNRECLAIMABLE_B);
	d->active_anon = NODE(NR_ACTIVE_ANON);
	d->inactive_anon = NODE(NR_INACTIVE_ANON);
	d->active_file = NODE(NR_ACTIVE_FILE);
	d->inactive_file = NODE(NR_INACTIVE_FILE);
	d->unevictable = NODE(NR_UNEVICTABLE);
	d->page_tables = NODE(NR_PAGETABLE);
	end(p, now);
}

/* After publish_memory(): of zones and nodes it has the sums already. */
static __always_inline void publish_vmstat(__u64 now)
{
	struct page *p;
	__u64 *d;

	clear(event_sum, sizeof(event_sum) / 8);
	for (__u32 i = 0; i < PORT_CPUS_MAX && i < conf.nr_cpus; i++)
		if (slots[i].rq)
			add(event_sum, conf.nr_events, PUBLISHER_EVENTS_MAX,
			    slots[i].rq + conf.percpu.vm_events);
	p = begin(&page_vmstat, PORT_VMSTAT);
	if (!p)
		return;
	d = data(p, PORT_VMSTAT);
	for (__u32 i = 0; i < PUBLISHER_ITEMS_MAX && i < conf.nr_zone_items; i++)
		d[i] = positive(zone_sum[i]);
	d += conf.nr_zone_items;
	for (__u32 i = 0; i < PUBLISHER_ITEMS_MAX && i < conf.nr_numa_items; i++)
		d[i] = positive(numa_sum[i]);
	d += conf.nr_numa_items;
	for (__u32 i = 0; i < PUBLISHER_ITEMS_MAX && i < conf.nr_node_items; i++)
		d[i] = conf.thp_items >> i & 1 ? positive(node_sum[i]) / conf.thp_pages
					       : positive(node_sum[i]);
	d += conf.nr_node_items;
	/* pgpgin and pgpgout, the first two, are counted in sectors and shown in KiB. */
	for (__u32 i = 0; i < PUBLISHER_EVENTS_MAX && i < conf.nr_events; i++)
		d[i] = i < 2 ? event_sum[i] / 2 : event_sum[i];
	end(p, now);
}

static int tick(void *map, __u32 *key, struct cpu_timer *t)
{
	__u32 cpu = *key;

	if (cpu >= PORT_CPUS_MAX)
		return 0;
	look_at_cpu(&slots[cpu], cpu);
	if (cpu == conf.lead) {
		__u64 now = bpf_ktime_get_ns();

		publish_clock();
		publish_load(now);
		publish_cpus(now);
		publish_psi(now);
		if (found.nr_zones) {
			publish_memory(now);
			if (conf.percpu.vm_events)
				publish_vmstat(now);
		}
	}
	bpf_timer_start(&t->timer, conf.period_ns, TIMER_CPU_PIN);
	return 0;
}

/* The list of zones in which node 0 looks for memory has them all, those of one node together. */
static __always_inline void find_zones(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 memory = bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);
	struct css_set *set = BPF_CORE_READ(task, cgroups);
	struct pglist_data *node;
	struct mem_cgroup *memcg;
	__u64 css = 0, refs;
	__u64 last = 0;
	__u32 nr_zones = 0;

	bpf_probe_read_kernel(&css, 8,
			      (char *)__builtin_preserve_access_index(&set->subsys) + memory * 8);
	/* A memory controller's state begins with that of its css. */
	memcg = (void *)css;
	if (!memcg)
		return;
	node = BPF_CORE_READ(memcg, nodeinfo[0], lruvec.pgdat);
	if (!node)
		return;
	refs = (__u64)__builtin_preserve_access_index(&node->node_zonelists[0]._zonerefs);
	found.nr_nodes = 0;
	for (__u32 i = 0; i < PUBLISHER_ZONES_MAX; i++) {
		__u64 z = 0, n;

		bpf_probe_read_kernel(&z, 8,
				      (void *)(refs +
					       i * (__u64)bpf_core_type_size(struct zoneref) +
					       bpf_core_field_offset(struct zoneref, zone)));
		if (!z)
			break;
		found.zones[i] = z;
		nr_zones++;
		n = (__u64)BPF_CORE_READ((struct zone *)z, zone_pgdat);
		if (n != last) {
			/* Kept in the map: the verifier follows each value that a variable may have. */
			__u32 k = found.nr_nodes;

			if (k < PUBLISHER_NODES_MAX)
				found.nodes[k] = n;
			found.nr_nodes = k + 1;
			last = n;
		}
	}
	found.nr_zones = nr_zones;
}

/* The system's is above that of any cgroup. */
static __always_inline void find_psi(void)
{
	struct cgroup *c;
	struct psi_group *g, *up;

	if (!psi_cgroup_id || !bpf_cgroup_from_id || !bpf_cgroup_release)
		return;
	c = bpf_cgroup_from_id(psi_cgroup_id);
	if (!c)
		return;
	g = BPF_CORE_READ(c, psi);
	for (int i = 0; g && i < 64; i++) {
		up = BPF_CORE_READ(g, parent);
		if (!up) {
			/* The cgroup's own is freed with it; one that has no parent is the system's. */
			if (i)
				found.psi_system = (__u64)g;
			break;
		}
		g = up;
	}
	bpf_cgroup_release(c);
}

/*
 * Where avenrun[] is if it has no symbol that can be looked up: get_avenrun() loads it, and on x86 from an address that is in
 * the instruction: [REX.W] 8b /r (or 03 /r), relative to the instruction's end. This is a guess, which the loader checks by what is
 * published then.
 */
static __always_inline void find_avenrun(void)
{
	unsigned char text[64] = {};

	found.avenrun = conf.avenrun;
	if (found.avenrun || !conf.get_avenrun ||
	    bpf_probe_read_kernel(text, sizeof(text), (void *)conf.get_avenrun))
		return;
	for (__u32 i = 0; i < sizeof(text) - 7; i++) {
		if ((text[i] & 0xf8) != 0x48 || (text[i + 1] != 0x8b && text[i + 1] != 0x03))
			continue;
		/* mod 00, r/m 101: disp32(%rip); r/m 100 and 25: an absolute disp32 */
		if ((text[i + 2] & 0xc7) == 0x05) {
			found.avenrun = conf.get_avenrun + i + 7 +
				(__s64)(__s32)(text[i + 3] | text[i + 4] << 8 | text[i + 5] << 16 |
					       (__u32)text[i + 6] << 24);
			return;
		}
		if ((text[i + 2] & 0xc7) == 0x04 && text[i + 3] == 0x25) {
			found.avenrun =
				(__s64)(__s32)(text[i + 4] | text[i + 5] << 8 | text[i + 6] << 16 |
					       (__u32)text[i + 7] << 24);
			return;
		}
	}
}

/* Runs on the CPU whose timer it arms. Return: 0; else the timer's error. */
SEC("syscall")
int publisher_start(void *ctx)
{
	__u32 cpu = bpf_get_smp_processor_id();
	struct cpu_timer *t = bpf_map_lookup_elem(&timers, &cpu);
	int r;

	if (!t)
		return -22;
	if (cpu == conf.lead) {
		find_zones();
		find_psi();
		find_avenrun();
	}
	r = bpf_timer_init(&t->timer, &timers, CLOCK_MONOTONIC);
	if (r)
		return r;
	bpf_timer_set_callback(&t->timer, tick);
	return bpf_timer_start(&t->timer, 0, TIMER_CPU_PIN);
}

char _license[] SEC("license") = "GPL";
