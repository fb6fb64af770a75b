/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * parse.h - texts of /proc, into the data of pages.
 *
 * Strict: a line that is missing, a number that is none or too large, anything where nothing is expected gives
 * -EPROTO, and what was sampled before stays. Lines that are not asked for may be there: kernels add some.
 * Every @text ends with a zero byte. No system calls, any thread.
 */
#ifndef KSHARED_ENGINE_SAMPLE_PARSE_H
#define KSHARED_ENGINE_SAMPLE_PARSE_H

#include <stdint.h>
#include <wire/port_pages.h>

#define PARSE_FIXED_BITS 11

/** parse_stat() - /proc/stat: times of CPUs. @cpus: @nr_cpus, of which those that are offline stay as they are. */
int parse_stat(const char *text, uint64_t tick_ns, uint32_t nr_cpus, struct port_cpu *cpus);

/** parse_meminfo() - /proc/meminfo. @page_kib: of the machine */
int parse_meminfo(const char *text, uint64_t page_kib, struct port_memory *ret,
		  struct port_swap *ret_swap);

/** parse_vmstat() - /proc/vmstat, which must have the lines of @spec in their order. @ret: one number for each */
int parse_vmstat(const char *text, const struct port_spec *spec, uint64_t *ret);

/** parse_pressure() - /proc/pressure/WHAT. @ret: eight numbers, as in struct port_psi; "full" may be missing. */
int parse_pressure(const char *text, uint64_t ret[8]);

/** parse_net() - /proc/net/dev. @ret: PORT_NET_MAX, the rest of which becomes zero; more devices are left out. */
int parse_net(const char *text, struct port_net *ret);

/** parse_number() - a number and a line's end, nothing else. */
int parse_number(const char *text, uint64_t *ret);

/**
 * parse_keys() - numbers from lines "key NUMBER" or "key: NUMBER", whatever follows in the line.
 * @keys: ended by NULL; they come in this order, with others between them
 * @ret: one number for each, touched only on success
 */
int parse_keys(const char *text, const char *const *keys, uint64_t *ret);

/**
 * parse_task_stat() - /proc/PID/stat: state, comm, pid, threads, start, times, faults.
 * @ret: the rest of it stays; alive, too
 */
int parse_task_stat(const char *text, uint64_t tick_ns, struct port_task *ret);

#endif
