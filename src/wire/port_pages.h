/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * port_pages.h - which pages there are, and what is in the data of each: the same from BPF and from the sampler.
 *
 * Each struct is the data of one page; the tables of fields beside them are what makes the pages self-describing,
 * and a reader should go by those (port_find()). New fields are added at the end. The BPF programs include this
 * file too, so the structs have no types but u64.
 *
 * Values are the kernel's own, unrounded where /proc rounds them: times in ns, memory in pages. "cpu" has an element of
 * each struct for every possible CPU; "net" one for each device. A field that is not to be had is not listed: there is
 * no 0 that means "not known". Each page's head has its own period.
 *
 * From the sampler alone, and why: "net", since a device's counters are computed by its driver when somebody asks (a
 * function behind ndo_get_stats64, which no BPF program can call; loopback, which keeps them per CPU, is the
 * exception, not the rule); "swap", since the counters are variables without a symbol, and nothing that is
 * reached points to them.
 */
#ifndef KSHARED_WIRE_PORT_PAGES_H
#define KSHARED_WIRE_PORT_PAGES_H

#ifndef __bpf__
#include <stddef.h>
#include <wire/port.h>
#else
typedef unsigned long long uint64_t;
#endif

#define PORT_CPUS_MAX 128
#define PORT_NET_MAX 32
#define PORT_VMSTAT_MAX 256

enum port_page {
	PORT_LOAD,
	PORT_CPU,
	PORT_MEMORY,
	PORT_SWAP,
	PORT_VMSTAT,
	PORT_PSI,
	PORT_NET,
	PORT_CLOCK,
	NR_PORT_PAGES
};

/* Fixed point, 11 bits of fraction, as in avenrun[]. */
struct port_load {
	uint64_t load1, load5, load15;
};

/* Of one CPU; times since boot in ns, as /proc/stat has them in ticks. */
struct port_cpu {
	uint64_t sample_ns; /* when this CPU was looked at */
	uint64_t user, nice, system, softirq, irq, idle, iowait, steal, guest, guest_nice;
	uint64_t nr_running, nr_switches;
};

/* In pages of the machine. */
struct port_memory {
	uint64_t total, free, file, anon, mapped, shmem, dirty, writeback, slab_reclaimable,
		slab_unreclaimable, active_anon, inactive_anon, active_file, inactive_file,
		unevictable, mlocked, page_tables;
};

struct port_swap {
	uint64_t total, free;
};

/*
 * Averages in percent, fixed point, 11 bits of fraction; totals in ns. cpu, memory, io. The kernel adds up what its CPUs
 * counted every two seconds, and whenever somebody reads one of the files: these are as old as that.
 */
struct port_psi {
	struct {
		uint64_t some_avg10, some_avg60, some_avg300, some_total;
		uint64_t full_avg10, full_avg60, full_avg300, full_total;
	} cpu, memory, io;
};

struct port_net {
	char name[16]; /* of the device; empty: none, and no more of them */
	uint64_t rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors,
		tx_dropped;
};

/* In ns. */
struct port_clock {
	uint64_t monotonic, boottime, tai;
};

/*
 * A process: all its threads, those that ended included, as /proc/PID/stat counts; times in ns, memory in pages. When it
 * has ended, alive is 0 and the rest stays as it was.
 * @state: the main thread's, a letter as in /proc/PID/stat
 * @counted: threads whose own counters are in the sums: less than @threads if there are too many (publisher.h), and
 *           then the sums lack the others'
 * @start: since boot
 * @utime, @stime: as the timer's ticks found it. /proc/PID/stat, and so the sampler, shows the two scaled so that together
 *                 they are @runtime
 * @runtime: as the scheduler measured it; of a thread that runs, up to its last tick. From the sampler: in ticks
 */
struct port_task {
	uint64_t alive;
	char state[8], comm[16];
	uint64_t pid, threads, counted, start, utime, stime, runtime, min_flt, maj_flt, nvcsw,
		nivcsw;
	uint64_t rss, rss_file, rss_anon, rss_shmem;
	uint64_t io_rchar, io_wchar, io_syscr, io_syscw, io_read_bytes, io_write_bytes,
		io_cancelled_write_bytes;
};

/*
 * A control group of version 2, but the root; times in ns, memory in pages. When it was removed, alive is 0 and the rest
 * stays as it was. Listed is what the group had when it was added: memory_ and pids_ if it has those controllers,
 * pressure. if the kernel has it.
 * @cpu_*: as of the kernel's last flush, which reading cpu.stat makes: publisher_tick()
 * @memory_max, @pids_max: UINT64_MAX: no limit
 */
struct port_cgroup {
	uint64_t alive, populated, frozen, nr_descendants, nr_dying_descendants;
	uint64_t cpu_usage, cpu_user, cpu_system;
	uint64_t memory_current, memory_peak, memory_max;
	uint64_t pids_current, pids_max;
	struct port_psi pressure;
};

#ifndef __bpf__

/**
 * struct port_spec - a page's name, data and fields.
 * @nr_elements: how often the data's struct is there; 0: the caller says
 * The fields' offsets are from the beginning of the data.
 */
struct port_spec {
	const char *name;
	uint32_t element_size;
	uint32_t nr_elements;
	const struct port_field *fields;
	uint32_t nr_fields;
};

#define PORT_FIELD(st, member, t, u)                                                              \
	{                                                                                         \
		.name = #member, .unit = (u), .type = (t), .offset = offsetof(struct st, member), \
		.count = 1                                                                        \
	}
#define PORT_FIELD_FIXED(st, member, u)                                                \
	{                                                                              \
		.name = #member, .unit = (u), .type = PORT_FIXED, .fraction_bits = 11, \
		.offset = offsetof(struct st, member), .count = 1                      \
	}
#define PORT_FIELD_CHARS(st, member)                                                            \
	{                                                                                       \
		.name = #member, .type = PORT_CHARS, .width = sizeof(((struct st *)0)->member), \
		.offset = offsetof(struct st, member), .count = 1                               \
	}
#define PORT_PSI_FIELDS(st, what)                                                               \
	PORT_FIELD_FIXED(st, what.some_avg10, "%"), PORT_FIELD_FIXED(st, what.some_avg60, "%"), \
		PORT_FIELD_FIXED(st, what.some_avg300, "%"),                                    \
		PORT_FIELD(st, what.some_total, PORT_U64, "ns"),                                \
		PORT_FIELD_FIXED(st, what.full_avg10, "%"),                                     \
		PORT_FIELD_FIXED(st, what.full_avg60, "%"),                                     \
		PORT_FIELD_FIXED(st, what.full_avg300, "%"),                                    \
		PORT_FIELD(st, what.full_total, PORT_U64, "ns")

static const struct port_field port_load_fields[] = {
	PORT_FIELD_FIXED(port_load, load1, "tasks"),
	PORT_FIELD_FIXED(port_load, load5, "tasks"),
	PORT_FIELD_FIXED(port_load, load15, "tasks"),
};

static const struct port_field port_cpu_fields[] = {
	PORT_FIELD(port_cpu, sample_ns, PORT_U64, "ns"),
	PORT_FIELD(port_cpu, user, PORT_U64, "ns"),
	PORT_FIELD(port_cpu, nice, PORT_U64, "ns"),
	PORT_FIELD(port_cpu, system, PORT_U64, "ns"),
	PORT_FIELD(port_cpu, softirq, PORT_U64, "ns"),
	PORT_FIELD(port_cpu, irq, PORT_U64, "ns"),
	PORT_FIELD(port_cpu, idle, PORT_U64, "ns"),
	PORT_FIELD(port_cpu, iowait, PORT_U64, "ns"),
	PORT_FIELD(port_cpu, steal, PORT_U64, "ns"),
	PORT_FIELD(port_cpu, guest, PORT_U64, "ns"),
	PORT_FIELD(port_cpu, guest_nice, PORT_U64, "ns"),
	PORT_FIELD(port_cpu, nr_running, PORT_U64, "tasks"),
	PORT_FIELD(port_cpu, nr_switches, PORT_U64, ""),
};

static const struct port_field port_memory_fields[] = {
	PORT_FIELD(port_memory, total, PORT_U64, "pages"),
	PORT_FIELD(port_memory, free, PORT_U64, "pages"),
	PORT_FIELD(port_memory, file, PORT_U64, "pages"),
	PORT_FIELD(port_memory, anon, PORT_U64, "pages"),
	PORT_FIELD(port_memory, mapped, PORT_U64, "pages"),
	PORT_FIELD(port_memory, shmem, PORT_U64, "pages"),
	PORT_FIELD(port_memory, dirty, PORT_U64, "pages"),
	PORT_FIELD(port_memory, writeback, PORT_U64, "pages"),
	PORT_FIELD(port_memory, slab_reclaimable, PORT_U64, "pages"),
	PORT_FIELD(port_memory, slab_unreclaimable, PORT_U64, "pages"),
	PORT_FIELD(port_memory, active_anon, PORT_U64, "pages"),
	PORT_FIELD(port_memory, inactive_anon, PORT_U64, "pages"),
	PORT_FIELD(port_memory, active_file, PORT_U64, "pages"),
	PORT_FIELD(port_memory, inactive_file, PORT_U64, "pages"),
	PORT_FIELD(port_memory, unevictable, PORT_U64, "pages"),
	PORT_FIELD(port_memory, mlocked, PORT_U64, "pages"),
	PORT_FIELD(port_memory, page_tables, PORT_U64, "pages"),
};

static const struct port_field port_swap_fields[] = {
	PORT_FIELD(port_swap, total, PORT_U64, "pages"),
	PORT_FIELD(port_swap, free, PORT_U64, "pages"),
};

static const struct port_field port_psi_fields[] = {
	PORT_PSI_FIELDS(port_psi, cpu),
	PORT_PSI_FIELDS(port_psi, memory),
	PORT_PSI_FIELDS(port_psi, io),
};

static const struct port_field port_net_fields[] = {
	{ .name = "name", .type = PORT_CHARS, .width = 16, .count = 1 },
	PORT_FIELD(port_net, rx_bytes, PORT_U64, "B"),
	PORT_FIELD(port_net, rx_packets, PORT_U64, ""),
	PORT_FIELD(port_net, rx_errors, PORT_U64, ""),
	PORT_FIELD(port_net, rx_dropped, PORT_U64, ""),
	PORT_FIELD(port_net, tx_bytes, PORT_U64, "B"),
	PORT_FIELD(port_net, tx_packets, PORT_U64, ""),
	PORT_FIELD(port_net, tx_errors, PORT_U64, ""),
	PORT_FIELD(port_net, tx_dropped, PORT_U64, ""),
};

static const struct port_field port_clock_fields[] = {
	PORT_FIELD(port_clock, monotonic, PORT_U64, "ns"),
	PORT_FIELD(port_clock, boottime, PORT_U64, "ns"),
	PORT_FIELD(port_clock, tai, PORT_U64, "ns"),
};

static const struct port_field port_task_fields[] = {
	PORT_FIELD(port_task, alive, PORT_U64, ""),
	PORT_FIELD_CHARS(port_task, state),
	PORT_FIELD_CHARS(port_task, comm),
	PORT_FIELD(port_task, pid, PORT_U64, ""),
	PORT_FIELD(port_task, threads, PORT_U64, ""),
	PORT_FIELD(port_task, counted, PORT_U64, ""),
	PORT_FIELD(port_task, start, PORT_U64, "ns"),
	PORT_FIELD(port_task, utime, PORT_U64, "ns"),
	PORT_FIELD(port_task, stime, PORT_U64, "ns"),
	PORT_FIELD(port_task, runtime, PORT_U64, "ns"),
	PORT_FIELD(port_task, min_flt, PORT_U64, ""),
	PORT_FIELD(port_task, maj_flt, PORT_U64, ""),
	PORT_FIELD(port_task, nvcsw, PORT_U64, ""),
	PORT_FIELD(port_task, nivcsw, PORT_U64, ""),
	PORT_FIELD(port_task, rss, PORT_U64, "pages"),
	PORT_FIELD(port_task, rss_file, PORT_U64, "pages"),
	PORT_FIELD(port_task, rss_anon, PORT_U64, "pages"),
	PORT_FIELD(port_task, rss_shmem, PORT_U64, "pages"),
	PORT_FIELD(port_task, io_rchar, PORT_U64, "B"),
	PORT_FIELD(port_task, io_wchar, PORT_U64, "B"),
	PORT_FIELD(port_task, io_syscr, PORT_U64, ""),
	PORT_FIELD(port_task, io_syscw, PORT_U64, ""),
	PORT_FIELD(port_task, io_read_bytes, PORT_U64, "B"),
	PORT_FIELD(port_task, io_write_bytes, PORT_U64, "B"),
	PORT_FIELD(port_task, io_cancelled_write_bytes, PORT_U64, "B"),
};

static const struct port_field port_cgroup_fields[] = {
	PORT_FIELD(port_cgroup, alive, PORT_U64, ""),
	PORT_FIELD(port_cgroup, populated, PORT_U64, ""),
	PORT_FIELD(port_cgroup, frozen, PORT_U64, ""),
	PORT_FIELD(port_cgroup, nr_descendants, PORT_U64, ""),
	PORT_FIELD(port_cgroup, nr_dying_descendants, PORT_U64, ""),
	PORT_FIELD(port_cgroup, cpu_usage, PORT_U64, "ns"),
	PORT_FIELD(port_cgroup, cpu_user, PORT_U64, "ns"),
	PORT_FIELD(port_cgroup, cpu_system, PORT_U64, "ns"),
	PORT_FIELD(port_cgroup, memory_current, PORT_U64, "pages"),
	PORT_FIELD(port_cgroup, memory_peak, PORT_U64, "pages"),
	PORT_FIELD(port_cgroup, memory_max, PORT_U64, "pages"),
	PORT_FIELD(port_cgroup, pids_current, PORT_U64, ""),
	PORT_FIELD(port_cgroup, pids_max, PORT_U64, ""),
	PORT_PSI_FIELDS(port_cgroup, pressure.cpu),
	PORT_PSI_FIELDS(port_cgroup, pressure.memory),
	PORT_PSI_FIELDS(port_cgroup, pressure.io),
};

#define PORT_SPEC(n, elements)                                                                  \
	{                                                                                       \
		.name = #n, .element_size = sizeof(struct port_##n), .nr_elements = (elements), \
		.fields = port_##n##_fields,                                                    \
		.nr_fields = sizeof(port_##n##_fields) / sizeof(port_##n##_fields[0])           \
	}

/* Those of vmstat are the lines of this kernel's /proc/vmstat: port_vmstat_spec(). */
static const struct port_spec port_specs[NR_PORT_PAGES] = {
	[PORT_LOAD] = PORT_SPEC(load, 1),
	[PORT_CPU] = PORT_SPEC(cpu, 0),
	[PORT_MEMORY] = PORT_SPEC(memory, 1),
	[PORT_SWAP] = PORT_SPEC(swap, 1),
	[PORT_VMSTAT] = { .name = "vmstat", .nr_elements = 1 },
	[PORT_PSI] = PORT_SPEC(psi, 1),
	[PORT_NET] = PORT_SPEC(net, PORT_NET_MAX),
	[PORT_CLOCK] = PORT_SPEC(clock, 1),
};

static const struct port_spec port_task_spec = PORT_SPEC(task, 1);
static const struct port_spec port_cgroup_spec = PORT_SPEC(cgroup, 1);

/** port_data_off() - where the data of a page with @nr_fields fields begins. */
static inline uint32_t port_data_off(uint32_t nr_fields)
{
	uint32_t end = sizeof(struct port_head) + nr_fields * sizeof(struct port_field);

	return (end + PORT_ALIGN - 1) / PORT_ALIGN * PORT_ALIGN;
}

/** port_page_size() - the whole of a page of @nr_elements elements, in bytes; not rounded. */
static inline uint64_t port_page_size(const struct port_spec *s, uint32_t nr_elements)
{
	return port_data_off(s->nr_fields) + (uint64_t)s->element_size * nr_elements;
}

/**
 * port_vmstat_spec() - the page of what /proc/vmstat says, as that file's text.
 * @text: all of it; changed
 * @ret_fields: PORT_VMSTAT_MAX fields, which @ret refers to from then on
 * Return: 0; -EPROTO it is no such text; -E2BIG more lines than a page has room for.
 */
static inline int port_vmstat_spec(char *text, struct port_field *ret_fields, struct port_spec *ret)
{
	uint32_t n = 0;

	for (char *line = text, *next; *line; line = next, n++) {
		char *end = strchr(line, '\n');
		char *space = strchr(line, ' ');

		if (!end || !space || space > end || space == line || space - line >= PORT_NAME_MAX)
			return -EPROTO;
		if (n == PORT_VMSTAT_MAX)
			return -E2BIG;
		next = end + 1;
		*space = '\0';
		ret_fields[n] =
			(struct port_field){ .type = PORT_U64, .offset = n * 8, .count = 1 };
		memcpy(ret_fields[n].name, line, space - line);
	}
	*ret = (struct port_spec){ .name = "vmstat",
				   .element_size = n * 8,
				   .nr_elements = 1,
				   .fields = ret_fields,
				   .nr_fields = n };
	return n ? 0 : -EPROTO;
}

/**
 * port_format() - write head and field table; the data is left as it is.
 * @h: port_page_size() bytes at least, zeroed
 */
static inline void port_format(struct port_head *h, const struct port_spec *s, uint32_t nr_elements,
			       enum port_source source, uint64_t period_ns, uint64_t generation)
{
	struct port_field *f = (struct port_field *)(h + 1);

	h->magic = PORT_MAGIC;
	h->version = PORT_VERSION;
	h->head_size = sizeof(*h);
	h->size = port_page_size(s, nr_elements);
	h->nr_fields = s->nr_fields;
	h->field_size = sizeof(*f);
	h->fields_off = sizeof(*h);
	h->data_off = port_data_off(s->nr_fields);
	h->data_size = s->element_size * nr_elements;
	h->source = source;
	h->period_ns = period_ns;
	h->generation = generation;
	strncpy(h->name, s->name, sizeof(h->name) - 1);
	for (uint32_t i = 0; i < s->nr_fields; i++) {
		f[i] = s->fields[i];
		f[i].offset += h->data_off;
		f[i].count = nr_elements;
		f[i].stride = s->element_size;
	}
}

/**
 * port_omit() - take fields off the table of a page that nobody has yet.
 * @prefix: those whose names begin so
 */
static inline void port_omit(struct port_head *h, const char *prefix)
{
	struct port_field *f = (struct port_field *)(h + 1);
	uint32_t kept = 0;

	for (uint32_t i = 0; i < h->nr_fields; i++)
		if (strncmp(f[i].name, prefix, strlen(prefix)) != 0)
			f[kept++] = f[i];
	memset(f + kept, 0, (h->nr_fields - kept) * sizeof(*f));
	h->nr_fields = kept;
}

#endif
#endif
