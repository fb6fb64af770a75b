/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * port_pages.h - which pages there are, and what is in the data of each: the same from BPF and from the sampler.
 *
 * Each struct is the data of one page; the tables of fields beside them are what makes the pages self-describing,
 * and a reader should go by those (port_find()). New fields are added at the end. The BPF programs include this
 * file too, so the structs have no types but u64.
 *
 * Values are the kernel's own, unrounded where /proc rounds them: times in ns, memory in pages. "cpu" has an element of
 * each struct for every possible CPU; "net" one for each device.
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

/* Averages in percent, fixed point, 11 bits of fraction; totals in ns. cpu, memory, io. */
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
#define PORT_PSI_FIELDS(what)                                          \
	PORT_FIELD_FIXED(port_psi, what.some_avg10, "%"),              \
		PORT_FIELD_FIXED(port_psi, what.some_avg60, "%"),      \
		PORT_FIELD_FIXED(port_psi, what.some_avg300, "%"),     \
		PORT_FIELD(port_psi, what.some_total, PORT_U64, "ns"), \
		PORT_FIELD_FIXED(port_psi, what.full_avg10, "%"),      \
		PORT_FIELD_FIXED(port_psi, what.full_avg60, "%"),      \
		PORT_FIELD_FIXED(port_psi, what.full_avg300, "%"),     \
		PORT_FIELD(port_psi, what.full_total, PORT_U64, "ns")

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
	PORT_PSI_FIELDS(cpu),
	PORT_PSI_FIELDS(memory),
	PORT_PSI_FIELDS(io),
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

#endif
#endif
