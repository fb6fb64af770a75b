// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * sampler.c - pages from /proc: see sampler.h.
 *
 * A page is put together in private memory and written in one pass, so that readers wait for no parser, and a text that is not
 * understood leaves the page as it was.
 */
#include "engine/sample/sampler.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include <base/cleanup.h>

#include "engine/sample/parse.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#define TEXT_MAX 65536
#define NS_PER_S 1000000000ULL
#define CPU_TIMES (sizeof(port_cpu_fields) / sizeof(port_cpu_fields[0]) - 2) /* no run queue */

enum source { STAT, MEMINFO, VMSTAT, PSI_CPU, PSI_MEMORY, PSI_IO, NET, NR_SOURCES };

static const char *const paths[NR_SOURCES] = {
	[STAT] = "/proc/stat",
	[MEMINFO] = "/proc/meminfo",
	[VMSTAT] = "/proc/vmstat",
	[PSI_CPU] = "/proc/pressure/cpu",
	[PSI_MEMORY] = "/proc/pressure/memory",
	[PSI_IO] = "/proc/pressure/io",
	[NET] = "/proc/self/net/dev",
};

struct page {
	int fd;
	struct port_head *head;
	uint64_t size;
};

struct sampler {
	int sources[NR_SOURCES];
	struct page pages[NR_PORT_PAGES];
	uint32_t nr_cpus;
	uint64_t tick_ns;
	uint64_t page_kib;
	struct port_field vmstat_fields[PORT_VMSTAT_MAX];
	struct port_spec vmstat;
	struct port_cpu cpus[PORT_CPUS_MAX];
	char text[TEXT_MAX];
};

static void free_sampler_p(struct sampler **s)
{
	sampler_free(*s);
}

static uint64_t now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * NS_PER_S + t.tv_nsec;
}

/* The whole of a file, into s->text. */
static int read_source(struct sampler *s, enum source which)
{
	size_t len = 0;

	if (s->sources[which] < 0)
		return -ENOENT;
	for (;;) {
		ssize_t n = pread(s->sources[which], s->text + len, TEXT_MAX - 1 - len, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		len += n;
		if (len == TEXT_MAX - 1)
			return -EFBIG;
	}
	s->text[len] = '\0';
	return 0;
}

static void publish(struct page *p, const void *data, uint64_t sampled)
{
	port_write_begin(p->head);
	port_write(p->head, p->head->data_off, data, p->head->data_size);
	port_write_end(p->head, sampled);
}

static int sample_load(struct sampler *s, struct page *p)
{
	uint64_t now = now_ns(CLOCK_MONOTONIC);
	struct sysinfo info;
	struct port_load load;

	if (sysinfo(&info))
		return -errno;
	/* 16 bits of fraction, of which the kernel has 11. */
	load.load1 = info.loads[0] >> (16 - PARSE_FIXED_BITS);
	load.load5 = info.loads[1] >> (16 - PARSE_FIXED_BITS);
	load.load15 = info.loads[2] >> (16 - PARSE_FIXED_BITS);
	publish(p, &load, now);
	return 0;
}

static int sample_cpu(struct sampler *s, struct page *p)
{
	uint64_t now = now_ns(CLOCK_MONOTONIC);
	int r = read_source(s, STAT);

	if (!r)
		r = parse_stat(s->text, s->tick_ns, s->nr_cpus, s->cpus);
	if (r)
		return r;
	for (uint32_t i = 0; i < s->nr_cpus; i++)
		s->cpus[i].sample_ns = now;
	publish(p, s->cpus, now);
	return 0;
}

/* Some kernels' MemFree leaves out a few pages that are free: the counter itself is in /proc/vmstat, its first line. */
static int count_free(struct sampler *s, uint64_t *ret)
{
	uint64_t values[PORT_VMSTAT_MAX];
	int r = read_source(s, VMSTAT);

	if (!r && (!s->vmstat.nr_fields || strcmp(s->vmstat_fields[0].name, "nr_free_pages") != 0))
		r = -EPROTO;
	if (!r)
		r = parse_vmstat(s->text, &s->vmstat, values);
	if (!r)
		*ret = values[0];
	return r;
}

/* Memory and swap are of one text: @which says what of it. */
static int sample_meminfo(struct sampler *s, struct page *p, enum port_page which)
{
	uint64_t now = now_ns(CLOCK_MONOTONIC);
	struct port_memory memory;
	struct port_swap swap;
	int r = read_source(s, MEMINFO);

	if (!r)
		r = parse_meminfo(s->text, s->page_kib, &memory, &swap);
	if (r)
		return r;
	if (which == PORT_MEMORY) {
		r = count_free(s, &memory.free);
		if (r)
			return r;
	}
	publish(p, which == PORT_SWAP ? (void *)&swap : (void *)&memory, now);
	return 0;
}

static int sample_vmstat(struct sampler *s, struct page *p)
{
	uint64_t now = now_ns(CLOCK_MONOTONIC), values[PORT_VMSTAT_MAX];
	int r = read_source(s, VMSTAT);

	if (!r)
		r = parse_vmstat(s->text, &s->vmstat, values);
	if (!r)
		publish(p, values, now);
	return r;
}

static int sample_psi(struct sampler *s, struct page *p)
{
	uint64_t now = now_ns(CLOCK_MONOTONIC), values[3][8];

	_Static_assert(sizeof(values) == sizeof(struct port_psi), "cpu, memory, io");
	for (int i = 0; i < 3; i++) {
		int r = read_source(s, PSI_CPU + i);

		if (!r)
			r = parse_pressure(s->text, values[i]);
		if (r)
			return r;
	}
	publish(p, values, now);
	return 0;
}

static int sample_net(struct sampler *s, struct page *p)
{
	uint64_t now = now_ns(CLOCK_MONOTONIC);
	struct port_net devices[PORT_NET_MAX];
	int r = read_source(s, NET);

	if (!r)
		r = parse_net(s->text, devices);
	if (!r)
		publish(p, devices, now);
	return r;
}

static int sample_clock(struct sampler *s, struct page *p)
{
	struct port_clock c;

	c.monotonic = now_ns(CLOCK_MONOTONIC);
	c.boottime = now_ns(CLOCK_BOOTTIME);
	c.tai = now_ns(CLOCK_TAI);
	publish(p, &c, c.monotonic);
	return 0;
}

static int sample_page(struct sampler *s, enum port_page which)
{
	struct page *p = &s->pages[which];

	switch (which) {
	case PORT_LOAD:
		return sample_load(s, p);
	case PORT_CPU:
		return sample_cpu(s, p);
	case PORT_MEMORY:
	case PORT_SWAP:
		return sample_meminfo(s, p, which);
	case PORT_VMSTAT:
		return sample_vmstat(s, p);
	case PORT_PSI:
		return sample_psi(s, p);
	case PORT_NET:
		return sample_net(s, p);
	case PORT_CLOCK:
		return sample_clock(s, p);
	default:
		return -ENOENT;
	}
}

/* Sealed before anybody else can have it; the mapping that is there already stays writable. */
static int make_page(struct sampler *s, enum port_page which, const struct sampler_options *o)
{
	struct page *p = &s->pages[which];
	struct port_spec spec = which == PORT_VMSTAT ? s->vmstat : port_specs[which];
	uint32_t nr = spec.nr_elements ? spec.nr_elements : s->nr_cpus;
	long machine_page = sysconf(_SC_PAGESIZE);
	void *m;

	if (which == PORT_CPU)
		spec.nr_fields = CPU_TIMES;
	p->size = (port_page_size(&spec, nr) + machine_page - 1) / machine_page * machine_page;
	p->fd = memfd_create(spec.name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (p->fd < 0 || ftruncate(p->fd, p->size))
		return -errno;
	m = mmap(NULL, p->size, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, 0);
	if (m == MAP_FAILED)
		return -errno;
	p->head = m;
	if (fcntl(p->fd, F_ADD_SEALS,
		  F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return -errno;
	port_format(p->head, &spec, nr, PORT_SOURCE_SAMPLER,
		    o->period_ns ? o->period_ns : SAMPLER_PERIOD_NS, o->generation);
	return 0;
}

static void drop_page(struct page *p)
{
	if (p->head)
		munmap(p->head, p->size);
	if (p->fd >= 0)
		close(p->fd);
	*p = (struct page){ .fd = -1 };
}

int sampler_new(struct sampler **ret, const struct sampler_options *o)
{
	cleanup(free_sampler_p) struct sampler *s = calloc(1, sizeof(*s));
	long nr_cpus = sysconf(_SC_NPROCESSORS_CONF);

	if (!s)
		return -ENOMEM;
	for (int i = 0; i < NR_PORT_PAGES; i++)
		s->pages[i].fd = -1;
	for (int i = 0; i < NR_SOURCES; i++)
		s->sources[i] = open(paths[i], O_RDONLY | O_CLOEXEC);
	s->nr_cpus = nr_cpus > PORT_CPUS_MAX ? PORT_CPUS_MAX : nr_cpus;
	s->tick_ns = NS_PER_S / sysconf(_SC_CLK_TCK);
	s->page_kib = sysconf(_SC_PAGESIZE) / 1024;
	if (!read_source(s, VMSTAT) && port_vmstat_spec(s->text, s->vmstat_fields, &s->vmstat))
		s->vmstat.nr_fields = 0;
	for (int i = 0; i < NR_PORT_PAGES; i++) {
		int r;

		if (o->pages && !(o->pages & 1U << i))
			continue;
		if (i == PORT_VMSTAT && !s->vmstat.nr_fields)
			continue;
		r = make_page(s, i, o);
		if (r)
			return r;
		if (sample_page(s, i))
			drop_page(&s->pages[i]);
	}
	*ret = take_ptr(s);
	return 0;
}

int sampler_sample(struct sampler *s)
{
	int first = 0;

	for (int i = 0; i < NR_PORT_PAGES; i++) {
		int r = s->pages[i].head ? sample_page(s, i) : 0;

		if (r && !first)
			first = r;
	}
	return first;
}

int sampler_fd(const struct sampler *s, enum port_page page)
{
	return s->pages[page].head ? s->pages[page].fd : -ENOENT;
}

uint64_t sampler_size(const struct sampler *s, enum port_page page)
{
	return s->pages[page].size;
}

void sampler_free(struct sampler *s)
{
	if (!s)
		return;
	for (int i = 0; i < NR_PORT_PAGES; i++)
		drop_page(&s->pages[i]);
	for (int i = 0; i < NR_SOURCES; i++)
		cleanup_close_p(&s->sources[i]);
	free(s);
}
