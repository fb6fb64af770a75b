/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * publisher_impl.h - what publisher.c and publisher_account.c know of each other.
 */
#ifndef KSHARED_ENGINE_BPF_PUBLISHER_IMPL_H
#define KSHARED_ENGINE_BPF_PUBLISHER_IMPL_H

#include "engine/bpf/publisher.h"
#include "engine/bpf/publisher_abi.h"

struct publisher_bpf;

/**
 * struct publisher_slot - an account.
 * @fd: its page, a map; -1: free
 * @flush_fd: of a cgroup: cpu.stat; else -1
 */
struct publisher_slot {
	int fd;
	int flush_fd;
};

struct publisher {
	struct publisher_bpf *bpf;
	uint64_t generation;
	uint64_t size[NR_PORT_PAGES];
	bool served[NR_PORT_PAGES];
	bool every_cpu; /* was looked at */
	struct port_field vmstat_fields[PORT_VMSTAT_MAX];
	struct port_spec vmstat;
	struct publisher_slot slots[PUBLISHER_ACCOUNTS_MAX];
};

/** publisher_init_accounts() - all slots are free. */
void publisher_init_accounts(struct publisher *p);

/** publisher_deinit_accounts() - close what they have. */
void publisher_deinit_accounts(struct publisher *p);

/** publisher_wait_written() - until the page has been written @times times, for half a second. Return: false: it was not. */
bool publisher_wait_written(int fd, uint64_t size, uint64_t times);

#endif
