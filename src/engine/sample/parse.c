// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * parse.c - texts of /proc: see parse.h. A cursor goes through the text; each step says whether what it wants is there.
 */
#include "engine/sample/parse.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#define PARSE_KEYS_MAX 8

/* A decimal number, with at least one digit and no sign. */
static bool number(const char **at, uint64_t *ret)
{
	const char *s = *at;
	uint64_t n = 0;

	if (*s < '0' || *s > '9')
		return false;
	for (; *s >= '0' && *s <= '9'; s++)
		if (__builtin_mul_overflow(n, 10, &n) ||
		    __builtin_add_overflow(n, (uint64_t)(*s - '0'), &n))
			return false;
	*at = s;
	*ret = n;
	return true;
}

static bool word(const char **at, const char *wanted)
{
	size_t len = strlen(wanted);

	if (strncmp(*at, wanted, len) != 0)
		return false;
	*at += len;
	return true;
}

static void blanks(const char **at)
{
	while (**at == ' ')
		++*at;
}

/* Blanks and a number. */
static bool next_number(const char **at, uint64_t *ret)
{
	if (**at != ' ')
		return false;
	blanks(at);
	return number(at, ret);
}

/* Return: the next line; NULL: this is not ended. */
static const char *next_line(const char *at)
{
	at = strchr(at, '\n');
	return at ? at + 1 : NULL;
}

int parse_stat(const char *text, uint64_t tick_ns, uint32_t nr_cpus, struct port_cpu *cpus)
{
	uint32_t nr_seen = 0;

	/* The first line has the sums. */
	if (!word(&text, "cpu "))
		return -EPROTO;
	for (text = next_line(text); text && word(&text, "cpu"); text = next_line(text)) {
		uint64_t n, t[10];

		if (!number(&text, &n))
			return -EPROTO;
		for (int i = 0; i < 10; i++)
			if (!next_number(&text, &t[i]) ||
			    __builtin_mul_overflow(t[i], tick_ns, &t[i]))
				return -EPROTO;
		nr_seen++;
		if (n >= nr_cpus)
			continue;
		cpus[n].user = t[0];
		cpus[n].nice = t[1];
		cpus[n].system = t[2];
		cpus[n].idle = t[3];
		cpus[n].iowait = t[4];
		cpus[n].irq = t[5];
		cpus[n].softirq = t[6];
		cpus[n].steal = t[7];
		cpus[n].guest = t[8];
		cpus[n].guest_nice = t[9];
	}
	return nr_seen && text ? 0 : -EPROTO;
}

int parse_meminfo(const char *text, uint64_t page_kib, struct port_memory *ret,
		  struct port_swap *ret_swap)
{
	struct port_memory m = {};
	struct port_swap swap = {};
	uint64_t buffers, cached, swap_cached;
	const struct {
		const char *name;
		uint64_t *ret;
	} wanted[] = {
		{ "MemTotal:", &m.total },
		{ "MemFree:", &m.free },
		{ "Buffers:", &buffers },
		{ "Cached:", &cached },
		{ "SwapCached:", &swap_cached },
		{ "Active(anon):", &m.active_anon },
		{ "Inactive(anon):", &m.inactive_anon },
		{ "Active(file):", &m.active_file },
		{ "Inactive(file):", &m.inactive_file },
		{ "Unevictable:", &m.unevictable },
		{ "Mlocked:", &m.mlocked },
		{ "SwapTotal:", &swap.total },
		{ "SwapFree:", &swap.free },
		{ "Dirty:", &m.dirty },
		{ "Writeback:", &m.writeback },
		{ "AnonPages:", &m.anon },
		{ "Mapped:", &m.mapped },
		{ "Shmem:", &m.shmem },
		{ "SReclaimable:", &m.slab_reclaimable },
		{ "SUnreclaim:", &m.slab_unreclaimable },
		{ "PageTables:", &m.page_tables },
	};
	uint32_t nr_wanted = sizeof(wanted) / sizeof(wanted[0]), i = 0;

	/* They come in this order, with others between them. */
	for (; text && *text && i < nr_wanted; text = next_line(text)) {
		uint64_t kib;

		if (!word(&text, wanted[i].name))
			continue;
		if (!next_number(&text, &kib) || !word(&text, " kB\n"))
			return -EPROTO;
		text--;
		*wanted[i++].ret = kib / page_kib;
	}
	if (i < nr_wanted)
		return -EPROTO;
	m.file = buffers + cached + swap_cached;
	*ret = m;
	*ret_swap = swap;
	return 0;
}

int parse_vmstat(const char *text, const struct port_spec *spec, uint64_t *ret)
{
	for (uint32_t i = 0; i < spec->nr_fields; i++) {
		uint64_t n;

		if (!word(&text, spec->fields[i].name) || !next_number(&text, &n) ||
		    !word(&text, "\n"))
			return -EPROTO;
		ret[i] = n;
	}
	return *text ? -EPROTO : 0;
}

/* "3.24": two digits of fraction; the least number that the kernel prints so. */
static bool hundredths(const char **at, uint64_t *ret)
{
	const char *fraction;
	uint64_t whole, rest;

	if (!number(at, &whole) || whole > 100 || !word(at, "."))
		return false;
	fraction = *at;
	if (!number(at, &rest) || *at - fraction != 2)
		return false;
	*ret = (whole << PARSE_FIXED_BITS) + ((rest << PARSE_FIXED_BITS) + 99) / 100;
	return true;
}

static bool pressure_line(const char **at, const char *which, uint64_t *ret)
{
	uint64_t us;

	return word(at, which) && word(at, " avg10=") && hundredths(at, &ret[0]) &&
		word(at, " avg60=") && hundredths(at, &ret[1]) && word(at, " avg300=") &&
		hundredths(at, &ret[2]) && word(at, " total=") && number(at, &us) &&
		!__builtin_mul_overflow(us, 1000, &ret[3]) && word(at, "\n");
}

int parse_pressure(const char *text, uint64_t ret[8])
{
	uint64_t v[8] = {};

	if (!pressure_line(&text, "some", v))
		return -EPROTO;
	if (*text && (!pressure_line(&text, "full", v + 4) || *text))
		return -EPROTO;
	memcpy(ret, v, sizeof(v));
	return 0;
}

int parse_net(const char *text, struct port_net *ret)
{
	struct port_net found[PORT_NET_MAX] = {};
	uint32_t n = 0;

	if (!word(&text, "Inter-|") || !(text = next_line(text)) || !word(&text, " face |") ||
	    !(text = next_line(text)))
		return -EPROTO;
	for (; text && *text && n < PORT_NET_MAX; text = next_line(text), n++) {
		const char *colon = strchr(text, ':');
		uint64_t v[16];

		blanks(&text);
		if (!colon || colon <= text || colon - text >= (long)sizeof(found[n].name))
			return -EPROTO;
		memcpy(found[n].name, text, colon - text);
		text = colon + 1;
		for (int i = 0; i < 16; i++) {
			blanks(&text);
			if (!number(&text, &v[i]))
				return -EPROTO;
		}
		if (*text != '\n')
			return -EPROTO;
		found[n].rx_bytes = v[0];
		found[n].rx_packets = v[1];
		found[n].rx_errors = v[2];
		found[n].rx_dropped = v[3];
		found[n].tx_bytes = v[8];
		found[n].tx_packets = v[9];
		found[n].tx_errors = v[10];
		found[n].tx_dropped = v[11];
	}
	memcpy(ret, found, sizeof(found));
	return text ? 0 : -EPROTO;
}

int parse_number(const char *text, uint64_t *ret)
{
	uint64_t n;

	if (!number(&text, &n) || strcmp(text, "\n") != 0)
		return -EPROTO;
	*ret = n;
	return 0;
}

int parse_keys(const char *text, const char *const *keys, uint64_t *ret)
{
	uint64_t found[PARSE_KEYS_MAX];
	uint32_t n = 0;

	for (; text && *text && keys[n] && n < PARSE_KEYS_MAX; text = next_line(text)) {
		if (!word(&text, keys[n]) || (*text != ' ' && *text != ':'))
			continue;
		text += strspn(text, ": \t");
		if (!number(&text, &found[n]))
			return -EPROTO;
		n++;
	}
	if (keys[n])
		return -EPROTO;
	memcpy(ret, found, n * sizeof(*ret));
	return 0;
}

/* Some of the numbers may be below 0; none that is asked for. */
static bool stat_number(const char **at, uint64_t *ret)
{
	if (!word(at, " "))
		return false;
	word(at, "-");
	return number(at, ret);
}

int parse_task_stat(const char *text, uint64_t tick_ns, struct port_task *ret)
{
	const char *name = strchr(text, '('), *end = strrchr(text, ')');
	uint64_t pid, v[23], times[3];
	struct port_task t = *ret;

	/* In the name there may be anything. */
	if (!number(&text, &pid) || !name || !end || name != text + 1 || end < name ||
	    end[1] != ' ' || end[2] < 'A' || end[2] > 'z')
		return -EPROTO;
	memset(t.comm, 0, sizeof(t.comm));
	memcpy(t.comm, name + 1,
	       end - name - 1 < (long)sizeof(t.comm) ? (size_t)(end - name - 1)
						     : sizeof(t.comm) - 1);
	memset(t.state, 0, sizeof(t.state));
	t.state[0] = end[2];
	text = end + 3;
	/* Numbered as in proc(5). */
	for (int i = 4; i <= 22; i++)
		if (!stat_number(&text, &v[i]))
			return -EPROTO;
	if (__builtin_mul_overflow(v[14], tick_ns, &times[0]) ||
	    __builtin_mul_overflow(v[15], tick_ns, &times[1]) ||
	    __builtin_mul_overflow(v[22], tick_ns, &times[2]))
		return -EPROTO;
	t.pid = pid;
	t.min_flt = v[10];
	t.maj_flt = v[12];
	t.utime = times[0];
	t.stime = times[1];
	t.runtime = times[0] + times[1];
	t.threads = v[20];
	t.start = times[2];
	*ret = t;
	return 0;
}
