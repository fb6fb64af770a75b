// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * publisher.bpf.c - kernel structures are copied into pages, by a timer.
 *
 * publisher_look(), run once on each CPU, finds what is that CPU's own; publisher_start(), run on CPU conf.lead, finds the rest
 * and arms the timer, which arms itself again for as long as somebody holds a descriptor of its map. There is one timer:
 * what the interrupt costs is most of the cost, and other CPUs' counters are read by /proc from elsewhere, too. So each page has one
 * writer.
 *
 * Structures are reached from the task that happens to run: task -> se.cfs_rq -> rq, and task -> cgroups -> memory -> node ->
 * zones. Runqueues, nodes, zones and the system's psi_group are never freed, so that their addresses are kept.
 *
 * vmstat, which is long, and accounts are written in each tenth pass (PUBLISHER_SLOW), as the heads of those pages say; the rest in each.
 */
#include "publisher_read.bpf.h"

#include "publisher_account.bpf.c"

#define TICK_IDLE 4 /* of tick_sched.flags: it is idle now, since idle_entrytime */

struct bpf_timer {
	__u64 opaque[2];
} __attribute__((aligned(8)));

struct pass_timer {
	struct bpf_timer timer;
};

__u64 psi_cgroup_id = 0; /* any below the root of version 2 */
__u64 nr_passes = 0, busy_ns = 0;

/* Too large for the stack. */
static __u64 zone_sum[PUBLISHER_ITEMS_MAX], numa_sum[PUBLISHER_ITEMS_MAX];
static __u64 node_sum[PUBLISHER_ITEMS_MAX], event_sum[PUBLISHER_EVENTS_MAX];
static __u64 items[PUBLISHER_EVENTS_MAX];

struct {
	__uint(type, MAP_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pass_timer);
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

static __always_inline struct page *first(void *map)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(map, &zero);
}

static __always_inline void *data(void *page, __u32 which)
{
	return (char *)page + conf.data_off[which];
}

static __always_inline void publish_load(__u64 now)
{
	struct page *p = first(&page_load);
	struct port_load *d;

	if (!found.avenrun || !begin(p))
		return;
	d = data(p, PORT_LOAD);
	d->load1 = u64_at(found.avenrun);
	d->load5 = u64_at(found.avenrun + 8);
	d->load15 = u64_at(found.avenrun + 16);
	end(p, now);
}

static __always_inline void publish_clock(__u64 now)
{
	struct page *p = first(&page_clock);
	struct port_clock *d;

	if (!begin(p))
		return;
	d = data(p, PORT_CLOCK);
	d->monotonic = now;
	d->boottime = bpf_ktime_get_boot_ns();
	d->tai = bpf_ktime_get_tai_ns();
	end(p, now);
}

static __always_inline void publish_psi(__u64 now)
{
	struct page *p = first(&page_psi);

	if (!found.psi_system || !begin(p))
		return;
	read_psi(data(p, PORT_PSI), found.psi_system, true);
	end(p, now);
}

/*
 * Where idle CPUs have no tick, how long they idled is not in cpustat; and of one that is idle now the kernel adds, when
 * asked, how long it has been so. It counts as waiting while any task that ran there waits for I/O.
 */
static __always_inline void read_idle(struct port_cpu *c, __u64 rq)
{
	struct tick_sched *ts = AT(tick_sched, rq + conf.percpu.tick_sched);
	__u32 seq = ts->idle_sleeptime_seq.sequence;
	__u64 idle, iowait, since;
	bool is_idle;
	__s64 more;

	barrier();
	idle = ts->idle_sleeptime;
	iowait = ts->iowait_sleeptime;
	since = ts->idle_entrytime;
	is_idle = ts->flags & TICK_IDLE;
	barrier();
	/* It is being written: what was there before stays. */
	if ((seq & 1) || ts->idle_sleeptime_seq.sequence != seq)
		return;
	if (!idle && !is_idle) {
		__u64 stat = rq + conf.percpu.cpustat;

		c->idle = u64_at(stat + CPUTIME_IDLE * 8);
		c->iowait = u64_at(stat + CPUTIME_IOWAIT * 8);
		return;
	}
	more = is_idle ? bpf_ktime_get_ns() - since : 0;
	if (more > 0 && AT(rq, rq)->nr_iowait.counter > 0)
		iowait += more;
	else if (more > 0)
		idle += more;
	c->idle = idle;
	c->iowait = iowait;
}

static __always_inline void publish_cpus(__u64 now)
{
	struct page *p = first(&page_cpu);
	struct port_cpu *d;

	if (!begin(p))
		return;
	d = data(p, PORT_CPU);
	for (__u32 i = 0; i < PORT_CPUS_MAX && i < conf.nr_cpus; i++, d++) {
		__u64 rq = found.rqs[i], stat = rq + conf.percpu.cpustat;

		if (!rq)
			continue;
		d->sample_ns = now;
		d->nr_running = AT(rq, rq)->nr_running;
		d->nr_switches = AT(rq, rq)->nr_switches;
		if (!conf.percpu.cpustat)
			continue;
		d->user = u64_at(stat + CPUTIME_USER * 8);
		d->nice = u64_at(stat + CPUTIME_NICE * 8);
		d->system = u64_at(stat + CPUTIME_SYSTEM * 8);
		d->softirq = u64_at(stat + CPUTIME_SOFTIRQ * 8);
		d->irq = u64_at(stat + CPUTIME_IRQ * 8);
		d->steal = u64_at(stat + CPUTIME_STEAL * 8);
		d->guest = u64_at(stat + CPUTIME_GUEST * 8);
		d->guest_nice = u64_at(stat + CPUTIME_GUEST_NICE * 8);
		if (conf.percpu.tick_sched)
			read_idle(d, rq);
	}
	end(p, now);
}

/* Counters that are kept in parts may be below 0 for a moment. */
static __always_inline __u64 positive(__u64 n)
{
	return (__s64)n < 0 ? 0 : n;
}

static __always_inline __u64 zones_item(__u32 item)
{
	__u64 sum = 0;

	for (__u32 i = 0; i < PUBLISHER_ZONES_MAX && i < found.nr_zones; i++)
		sum += u64_at(MEMBER(zone, found.zones[i], vm_stat) + item * 8);
	return positive(sum);
}

static __always_inline __u64 nodes_item(__u32 item)
{
	__u64 sum = 0;

	for (__u32 i = 0; i < PUBLISHER_NODES_MAX && i < found.nr_nodes; i++)
		sum += u64_at(MEMBER(pglist_data, found.nodes[i], vm_stat) + item * 8);
	return positive(sum);
}

static __always_inline void publish_memory(__u64 now)
{
	struct page *p = first(&page_memory);
	struct port_memory *d;
	__u64 managed = 0;

	if (!begin(p))
		return;
	d = data(p, PORT_MEMORY);
	for (__u32 i = 0; i < PUBLISHER_ZONES_MAX && i < found.nr_zones; i++)
		managed += POINTER(zone, found.zones[i], managed_pages.counter);
#define ZONE(item) zones_item(bpf_core_enum_value(enum zone_stat_item, item))
#define NODE(item) nodes_item(bpf_core_enum_value(enum node_stat_item, item))
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

static __always_inline void publish_vmstat(__u64 now)
{
	struct page *p = first(&page_vmstat);
	__u64 *d;

	clear(zone_sum, sizeof(zone_sum) / 8);
	clear(numa_sum, sizeof(numa_sum) / 8);
	clear(node_sum, sizeof(node_sum) / 8);
	clear(event_sum, sizeof(event_sum) / 8);
	for (__u32 i = 0; i < PUBLISHER_ZONES_MAX && i < found.nr_zones; i++) {
		__u64 z = found.zones[i];

		add(zone_sum, conf.nr_zone_items, PUBLISHER_ITEMS_MAX, MEMBER(zone, z, vm_stat));
		if (conf.nr_numa_items)
			add(numa_sum, conf.nr_numa_items, PUBLISHER_ITEMS_MAX,
			    MEMBER(zone, z, vm_numa_event));
	}
	for (__u32 i = 0; i < PUBLISHER_NODES_MAX && i < found.nr_nodes; i++)
		add(node_sum, conf.nr_node_items, PUBLISHER_ITEMS_MAX,
		    MEMBER(pglist_data, found.nodes[i], vm_stat));
	for (__u32 i = 0; i < PORT_CPUS_MAX && i < conf.nr_cpus; i++)
		if (found.rqs[i])
			add(event_sum, conf.nr_events, PUBLISHER_EVENTS_MAX,
			    found.rqs[i] + conf.percpu.vm_events);
	if (!begin(p))
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

static int tick(void *map, __u32 *key, struct pass_timer *t)
{
	__u64 now = bpf_ktime_get_ns();
	__u32 share = nr_passes++ % PUBLISHER_SLOW;

	publish_clock(now);
	publish_load(now);
	publish_cpus(now);
	publish_psi(now);
	if (found.nr_zones) {
		publish_memory(now);
		if (conf.percpu.vm_events && share == 0)
			publish_vmstat(now);
	}
	publish_accounts(share, now);
	bpf_timer_start(&t->timer, conf.period_ns, TIMER_CPU_PIN);
	busy_ns += bpf_ktime_get_ns() - now;
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

	if (!psi_cgroup_id)
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
	__u64 at = 0;

	if (!bpf_kallsyms_lookup_name("avenrun", sizeof("avenrun"), 0, &at)) {
		found.avenrun = at;
		return;
	}
	if (bpf_kallsyms_lookup_name("get_avenrun", sizeof("get_avenrun"), 0, &at) ||
	    bpf_probe_read_kernel(text, sizeof(text), (void *)at))
		return;
	for (__u32 i = 0; i < sizeof(text) - 7; i++) {
		if ((text[i] & 0xf8) != 0x48 || (text[i + 1] != 0x8b && text[i + 1] != 0x03))
			continue;
		/* mod 00, r/m 101: disp32(%rip); r/m 100 and 25: an absolute disp32 */
		if ((text[i + 2] & 0xc7) == 0x05) {
			found.avenrun = at + i + 7 +
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

/* Runs on each CPU. */
SEC("syscall")
int publisher_look(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 cpu = bpf_get_smp_processor_id();
	struct rq *rq = BPF_CORE_READ(task, se.cfs_rq, rq);

	if (!rq || BPF_CORE_READ(rq, cpu) != cpu || cpu >= PORT_CPUS_MAX)
		return -EINVAL;
	found.rqs[cpu] = (__u64)rq;
	if (conf.percpu.this_cpu_off)
		found.cpu_offs[cpu] = u64_at((__u64)rq + conf.percpu.this_cpu_off);
	return 0;
}

/* After publisher_look(), on the CPU that the timer stays on. Return: 0; else the timer's error. */
SEC("syscall")
int publisher_start(void *ctx)
{
	__u32 zero = 0;
	struct pass_timer *t = bpf_map_lookup_elem(&timers, &zero);
	int r;

	if (!t)
		return -EINVAL;
	find_zones();
	find_psi();
	find_avenrun();
	r = bpf_timer_init(&t->timer, &timers, CLOCK_MONOTONIC);
	if (r)
		return r;
	bpf_timer_set_callback(&t->timer, tick);
	return bpf_timer_start(&t->timer, 0, TIMER_CPU_PIN);
}

char _license[] SEC("license") = "GPL";
