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
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include <base/cleanup.h>

#include "engine/sample/account.h"
#include "engine/sample/page.h"
#include "engine/sample/parse.h"

#define TEXT_MAX 65536
#define NS_PER_S 1000000000ULL

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

struct sampler {
	int sources[NR_SOURCES];
	uint64_t period_ns;
	uint64_t generation;
	struct sample_page pages[NR_PORT_PAGES];
	struct account accounts[ACCOUNTS_MAX];
	uint32_t nr_cpus;
	uint64_t tick_ns;
	uint64_t page_kib;
	struct port_field vmstat_fields[PORT_VMSTAT_MAX];
	struct port_spec vmstat;
	struct port_cpu cpus[PORT_CPUS_MAX];
	/* Two files are each of several pages, and read once in a pass. */
	uint64_t pass, vmstat_pass, meminfo_pass;
	uint64_t vmstat_ns, meminfo_ns;
	uint64_t values[PORT_VMSTAT_MAX];
	struct port_memory memory;
	struct port_swap swap;
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

static int read_source(struct sampler *s, enum source which)
{
	return sample_read(s->sources[which], s->text, TEXT_MAX);
}

static int sample_load(struct sampler *s, struct sample_page *p)
{
	uint64_t now = sample_now_ns();
	struct sysinfo info;
	struct port_load load;

	if (sysinfo(&info))
		return -errno;
	/* 16 bits of fraction, of which the kernel has 11. */
	load.load1 = info.loads[0] >> (16 - PARSE_FIXED_BITS);
	load.load5 = info.loads[1] >> (16 - PARSE_FIXED_BITS);
	load.load15 = info.loads[2] >> (16 - PARSE_FIXED_BITS);
	sample_page_write(p, &load, now);
	return 0;
}

static int sample_cpu(struct sampler *s, struct sample_page *p)
{
	uint64_t now = sample_now_ns();
	int r = read_source(s, STAT);

	if (!r)
		r = parse_stat(s->text, s->tick_ns, s->nr_cpus, s->cpus);
	if (r)
		return r;
	for (uint32_t i = 0; i < s->nr_cpus; i++)
		s->cpus[i].sample_ns = now;
	sample_page_write(p, s->cpus, now);
	return 0;
}

/*
 * The counter itself, NR_FREE_PAGES, is the first line of /proc/vmstat. MemFree is not the same everywhere: on mainline it is this
 * counter, but there are kernels on which sysinfo(2) and /proc/meminfo take a constant off (13 pages on one, whatever was
 * allocated or freed meanwhile), and the node's own meminfo does not. It has nothing to do with free pages on the CPUs' lists (those are in
 * neither number) or with what CPUs have not yet added to the counter (both numbers lack that).
 */
static int take_vmstat(struct sampler *s)
{
	uint64_t now = sample_now_ns(), values[PORT_VMSTAT_MAX];
	int r;

	if (s->vmstat_pass == s->pass)
		return 0;
	r = read_source(s, VMSTAT);
	if (!r)
		r = parse_vmstat(s->text, &s->vmstat, values);
	if (r)
		return r;
	memcpy(s->values, values, s->vmstat.nr_fields * sizeof(values[0]));
	s->vmstat_ns = now;
	s->vmstat_pass = s->pass;
	return 0;
}

static int take_meminfo(struct sampler *s)
{
	uint64_t now = sample_now_ns();
	int r;

	if (s->meminfo_pass == s->pass)
		return 0;
	r = read_source(s, MEMINFO);
	if (!r)
		r = parse_meminfo(s->text, s->page_kib, &s->memory, &s->swap);
	if (r)
		return r;
	s->meminfo_ns = now;
	s->meminfo_pass = s->pass;
	return 0;
}

static int sample_memory(struct sampler *s, struct sample_page *p)
{
	int r = take_meminfo(s);

	if (!r && (!s->vmstat.nr_fields || strcmp(s->vmstat_fields[0].name, "nr_free_pages") != 0))
		r = -EPROTO;
	if (!r)
		r = take_vmstat(s);
	if (r)
		return r;
	s->memory.free = s->values[0];
	sample_page_write(p, &s->memory, s->meminfo_ns);
	return 0;
}

static int sample_swap(struct sampler *s, struct sample_page *p)
{
	int r = take_meminfo(s);

	if (!r)
		sample_page_write(p, &s->swap, s->meminfo_ns);
	return r;
}

static int sample_vmstat(struct sampler *s, struct sample_page *p)
{
	int r = take_vmstat(s);

	if (!r)
		sample_page_write(p, s->values, s->vmstat_ns);
	return r;
}

static int sample_psi(struct sampler *s, struct sample_page *p)
{
	uint64_t now = sample_now_ns(), values[3][8];

	_Static_assert(sizeof(values) == sizeof(struct port_psi), "cpu, memory, io");
	for (int i = 0; i < 3; i++) {
		int r = read_source(s, PSI_CPU + i);

		if (!r)
			r = parse_pressure(s->text, values[i]);
		if (r)
			return r;
	}
	sample_page_write(p, values, now);
	return 0;
}

static int sample_net(struct sampler *s, struct sample_page *p)
{
	uint64_t now = sample_now_ns();
	struct port_net devices[PORT_NET_MAX];
	int r = read_source(s, NET);

	if (!r)
		r = parse_net(s->text, devices);
	if (!r)
		sample_page_write(p, devices, now);
	return r;
}

static int sample_clock(struct sampler *s, struct sample_page *p)
{
	struct port_clock c;

	c.monotonic = now_ns(CLOCK_MONOTONIC);
	c.boottime = now_ns(CLOCK_BOOTTIME);
	c.tai = now_ns(CLOCK_TAI);
	sample_page_write(p, &c, c.monotonic);
	return 0;
}

static int sample_page(struct sampler *s, enum port_page which)
{
	struct sample_page *p = &s->pages[which];

	switch (which) {
	case PORT_LOAD:
		return sample_load(s, p);
	case PORT_CPU:
		return sample_cpu(s, p);
	case PORT_MEMORY:
		return sample_memory(s, p);
	case PORT_SWAP:
		return sample_swap(s, p);
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

static int make_page(struct sampler *s, enum port_page which)
{
	/* What is in a run queue is not in /proc. */
	static const char *const no_queue[] = { "nr_running", "nr_switches", NULL };
	const struct port_spec *spec = which == PORT_VMSTAT ? &s->vmstat : &port_specs[which];

	return sample_page_make(&s->pages[which], spec,
				spec->nr_elements ? spec->nr_elements : s->nr_cpus,
				which == PORT_CPU ? no_queue : NULL, s->period_ns, s->generation);
}

int sampler_new(struct sampler **ret, const struct sampler_options *o)
{
	cleanup(free_sampler_p) struct sampler *s = calloc(1, sizeof(*s));
	long nr_cpus = sysconf(_SC_NPROCESSORS_CONF);

	if (!s)
		return -ENOMEM;
	for (int i = 0; i < NR_PORT_PAGES; i++)
		s->pages[i].fd = -1;
	for (int i = 0; i < ACCOUNTS_MAX; i++)
		account_init(&s->accounts[i]);
	s->period_ns = o->period_ns ? o->period_ns : SAMPLER_PERIOD_NS;
	s->generation = o->generation;
	s->pass = 1;
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
		r = make_page(s, i);
		if (r)
			return r;
		if (sample_page(s, i))
			sample_page_drop(&s->pages[i]);
	}
	*ret = take_ptr(s);
	return 0;
}

int sampler_sample(struct sampler *s)
{
	int first = 0;

	s->pass++;
	for (int i = 0; i < NR_PORT_PAGES; i++) {
		int r = s->pages[i].head ? sample_page(s, i) : 0;

		if (r && !first)
			first = r;
	}
	for (int i = 0; i < ACCOUNTS_MAX; i++) {
		int r = s->accounts[i].page.head ? account_sample(&s->accounts[i]) : 0;

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

static int add(struct sampler *s, int fd,
	       int (*open_account)(struct account *, int, uint64_t, uint64_t), int *ret_slot,
	       int *ret_fd, uint64_t *ret_size)
{
	struct account *a = s->accounts;
	int r;

	while (a < s->accounts + ACCOUNTS_MAX && a->page.head)
		a++;
	if (a == s->accounts + ACCOUNTS_MAX)
		return -ENOSPC;
	r = open_account(a, fd, s->period_ns, s->generation);
	if (r) {
		account_deinit(a);
		return r;
	}
	*ret_slot = (int)(a - s->accounts);
	*ret_fd = a->page.fd;
	*ret_size = a->page.size;
	return 0;
}

int sampler_add_task(struct sampler *s, int pidfd, int *ret_slot, int *ret_fd, uint64_t *ret_size)
{
	return add(s, pidfd, account_open_task, ret_slot, ret_fd, ret_size);
}

int sampler_add_cgroup(struct sampler *s, int dirfd, int *ret_slot, int *ret_fd, uint64_t *ret_size)
{
	return add(s, dirfd, account_open_cgroup, ret_slot, ret_fd, ret_size);
}

void sampler_remove(struct sampler *s, int slot)
{
	account_deinit(&s->accounts[slot]);
}

void sampler_free(struct sampler *s)
{
	if (!s)
		return;
	for (int i = 0; i < NR_PORT_PAGES; i++)
		sample_page_drop(&s->pages[i]);
	for (int i = 0; i < NR_SOURCES; i++)
		cleanup_close_p(&s->sources[i]);
	for (int i = 0; i < ACCOUNTS_MAX; i++)
		account_deinit(&s->accounts[i]);
	free(s);
}
