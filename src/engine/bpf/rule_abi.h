/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rule_abi.h - what a rule is, and what its programs and their loader share. Compiled by both.
 */
#ifndef KSHARED_ENGINE_BPF_RULE_ABI_H
#define KSHARED_ENGINE_BPF_RULE_ABI_H

#include <wire/port_pages.h>
#include <wire/port_serve.h>

#ifdef __bpf__
struct bpf_spin_lock {
	uint32_t val;
};
#else
#include <linux/bpf.h>
#endif

/**
 * struct port_rule - what new internet sockets in a control group may do, and what became of them.
 * @allow: 0: none is made (EPERM); 1
 * @mark, @priority: of each new one (SO_MARK, SO_PRIORITY); 0: left as it is
 * @rate_per_s: how many a second; beyond that ENOBUFS; 0: any number
 * @burst: how many at once, if there is a rate; 0 counts as 1
 * The rest counts sockets, and cannot be written.
 */
struct port_rule {
	uint64_t allow, mark, priority, rate_per_s, burst;
	uint64_t allowed, denied, limited, marked;
};

#define RULE_WORDS 9
#define RULE_SETTABLE 5 /* words, from the beginning */
#define RULE_RATE 3
#define RULE_NUMBER_MAX 0xffffffffULL /* mark, priority */
#define RULE_RATE_MAX 1000000ULL /* rate_per_s, burst */
#define RULE_SLOTS 256
#define RULE_DATA_OFF 896
#define RULE_PAGE_SIZE 4096
#define RULE_POOL_OFF 4096
#define RULE_CANARY_WORDS (PORT_CANARY / 8)
#define RULE_STATE_VERSION 0x31454c55u /* "ULE1": another layout or meaning is another version */

/*
 * The scache, one map for each rule, which outlives its publisher.
 * @owner: whose bells may write: a random number of each rules_add(); 0: nobody's
 * @interval_ns: 1 s / rate_per_s; 0: no rate
 * @next_ns: when the next socket would be due if they came evenly
 * @violations: how often what came in was not what the checks let through: never, but in tests
 */
struct rule_state {
	struct bpf_spin_lock lock;
	uint32_t version;
	uint64_t owner;
	struct port_rule rule;
	uint64_t interval_ns;
	uint64_t next_ns;
	uint64_t violations;
};

/* A client's pool: see port_serve.h. */
struct rule_pool {
	struct port_bell bell;
	char unused[RULE_POOL_OFF - PORT_CANARY - sizeof(struct port_bell)];
	uint64_t before[RULE_CANARY_WORDS];
	uint64_t data[RULE_WORDS];
	uint64_t after[RULE_CANARY_WORDS];
	char unused2[4096 - RULE_WORDS * 8 - PORT_CANARY];
};

/*
 * Constants of a publisher.
 * @policy: enum rules_policy
 */
struct rule_conf {
	uint64_t period_ns;
	uint32_t policy;
	uint32_t in_place;
	uint32_t kernel_kill;
};

enum rule_op { RULE_JOIN = 1, RULE_LEAVE, RULE_BAR };

/* What the programs but the bell are run with, by the publisher only. */
struct rule_seat {
	uint32_t op;
	uint32_t slot;
	uint64_t client;
	uint64_t token;
	uint64_t owner; /* of the rule */
	uint32_t rule;
	int32_t pid; /* as the publisher sees it; 0: not known */
	uint64_t canary[2 * RULE_CANARY_WORDS];
};

/*
 * Of the ring buffer.
 * @diff: the shadow bytes as they were found, exclusive-or as they should be; first those before the data
 */
struct rule_found {
	uint64_t client;
	char comm[16];
	uint64_t diff[2 * RULE_CANARY_WORDS];
};

_Static_assert(sizeof(struct rule_pool) == 2 * 4096, "ABI");

#endif
