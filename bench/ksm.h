/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ksm.h - the kernel's own page merging, as a peer: found as it was left, and left as it was found.
 */
#ifndef BENCH_KSM_H
#define BENCH_KSM_H

#include <stdbool.h>
#include <stdint.h>

/**
 * ksm_take() - have it for ourselves until we end, however we end: a process of its own then puts everything back.
 * Ends the program if somebody else uses it.
 */
void ksm_take(void);

/** ksm_give_back() - have everything put back, and wait until it is. */
void ksm_give_back(void);

/** ksm_wait_for_others() - other people's memory is not ours to merge: wait until nobody's can be; ends the program if that does not come. */
void ksm_wait_for_others(void);

/** ksm_start() - merge as fast as it can, from now on. */
void ksm_start(void);

/** ksm_stop() - merge no more; what is merged stays so. */
void ksm_stop(void);

/** ksm_daemon_cpu_ns() - CPU time that its thread has used since the machine started. */
int64_t ksm_daemon_cpu_ns(void);

/** ksm_value() - a number below /sys/kernel/mm/ksm. */
uint64_t ksm_value(const char *name);

/** ksm_set() - set one. */
void ksm_set(const char *name, uint64_t value);

/** ksm_process_value() - a number of /proc/self/ksm_stat. */
uint64_t ksm_process_value(const char *name);

#endif
