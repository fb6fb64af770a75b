/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rule_impl.h - what rule.c (rules, and who has a seat at them) and rule_found.c (whose shadow bytes were changed) know of each other.
 */
#ifndef KSHARED_ENGINE_BPF_RULE_IMPL_H
#define KSHARED_ENGINE_BPF_RULE_IMPL_H

#include "engine/bpf/rule.h"
#include "engine/bpf/rule_abi.h"

#define SLOT_OF(client) ((uint32_t)((client) % RULE_SLOTS))

struct bpf_program;
struct ring_buffer;
struct rule_bpf;
struct rule_sock_bpf;

/*
 * @sock: NULL: there is no such rule
 * @link_fd: -1: its control group was gone when it was taken over
 * @cgroup_fd: its directory; -1: not known
 */
struct rule {
	struct rule_sock_bpf *sock;
	uint64_t entry;
	uint64_t owner;
	int link_fd;
	int cgroup_fd;
	bool gone;
};

enum seat_state {
	SEAT_FREE,
	SEAT_USED,
	SEAT_LEFT, /* somebody may have the pool still */
};

struct seat {
	enum seat_state state;
	uint64_t client;
	uint64_t entry;
	uint32_t rule;
	uint32_t uid, gid, pid;
	bool spared;
	int pidfd;
};

struct rules {
	struct rule_bpf *bpf;
	struct ring_buffer *events;
	struct rules_options options;
	uint64_t last_client;
	unsigned int nr_rules;
	struct rule rule[RULES_MAX];
	struct seat seat[RULES_CLIENTS_MAX];
};

/** rules_run() - run one of the publisher's own programs. Return: what it returns; -errno. */
int rules_run(const struct bpf_program *prog, struct rule_seat *seat);

/** rules_pid_of() - the number of a process that a pidfd is of, in this process's namespace. Return: 0: none, or it has ended. */
int32_t rules_pid_of(int pidfd);

/** rules_is_all_of() - is all of a process @uid's, so that he may kill it? @pidfd: -1: not known, so no */
bool rules_is_all_of(int pidfd, uint32_t uid);

/** rules_on_found() - the ring buffer's: shadow bytes were found changed. Return: 0. */
int rules_on_found(void *user, void *data, size_t len);

#endif
