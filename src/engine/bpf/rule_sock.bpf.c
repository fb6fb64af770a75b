// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * rule_sock.bpf.c - what a rule does: asked about each internet socket that a process of the control group creates.
 *
 * Loaded once for each rule, with that rule's own state and page. A successor's is put in the place of its predecessor's, with the
 * same state: for a moment both may run, on different CPUs, and the state's lock is between them.
 */
#include "rule_publish.bpf.h"

#define ENOBUFS 105

/* The kernel's struct bpf_sock as such a program sees it; the beginning. */
struct bpf_sock {
	__u32 bound_dev_if, family, type, protocol, mark, priority;
};

enum verdict { PASS, DENIED, LIMITED };

struct {
	__uint(type, MAP_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rule_state);
} state SEC(".maps");

struct {
	__uint(type, MAP_ARRAY);
	__uint(map_flags, MAP_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rule_page);
} page SEC(".maps");

/* Sockets are due every interval; who has a burst of n may be n - 1 intervals early. */
static __always_inline enum verdict decide(struct rule_state *st, __u64 now)
{
	__u64 early = st->rule.burst ? (st->rule.burst - 1) * st->interval_ns : 0;
	__u64 due = st->next_ns > now ? st->next_ns : now;

	if (!st->rule.allow)
		return DENIED;
	if (!st->interval_ns)
		return PASS;
	if (due - now > early)
		return LIMITED;
	st->next_ns = due + st->interval_ns;
	return PASS;
}

SEC("cgroup/sock_create")
int rule_sock(struct bpf_sock *sk)
{
	__u64 now = bpf_ktime_get_ns();
	__u32 zero = 0, mark, priority;
	struct rule_state *st = bpf_map_lookup_elem(&state, &zero);
	struct rule_page *p = bpf_map_lookup_elem(&page, &zero);
	enum verdict v;

	if (!st || !p)
		return 0;
	bpf_spin_lock(&st->lock);
	v = decide(st, now);
	mark = st->rule.mark;
	priority = st->rule.priority;
	if (v == DENIED)
		st->rule.denied++;
	else if (v == LIMITED)
		st->rule.limited++;
	else
		st->rule.allowed++;
	if (v == PASS && (mark || priority))
		st->rule.marked++;
	publish(p, st, now);
	bpf_spin_unlock(&st->lock);
	if (v == LIMITED)
		bpf_set_retval(-ENOBUFS);
	if (v != PASS)
		return 0;
	if (mark)
		sk->mark = mark;
	if (priority)
		sk->priority = priority;
	return 1;
}

char _license[] SEC("license") = "GPL";
