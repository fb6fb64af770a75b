// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * publisher_account.bpf.c - what single processes and control groups have used, in pages that are made and dropped at run time.
 *
 * Part of publisher.bpf.c, whose timer this is the other half of.
 *
 * publisher_take() finds a process or a cgroup by its number and keeps a reference in `held`: from then on it is that
 * very one, whoever has the number later. The timer goes by its address. It runs in a softirq, which is a read-side
 * critical section of RCU: neither what is dropped meanwhile nor a thread that ends is freed before the pass is over.
 */
#include "publisher_read.bpf.h"

#define ESRCH 3
#define EINVAL 22
#define TASK_REPORT 0x7f
#define TASK_NOLOAD 0x402 /* both bits: idle, though uninterruptible */
#define TASK_LOCKED 0x9000 /* either bit, of a lock or of the freezer: uninterruptible */

extern struct task_struct *bpf_task_from_pid(__s32 pid) __ksym;
extern struct task_struct *bpf_task_from_vpid(__s32 pid) __ksym __weak;
extern void bpf_task_release(struct task_struct *t) __ksym;
extern struct cgroup *bpf_cgroup_from_id(__u64 id) __ksym;
extern void bpf_cgroup_release(struct cgroup *c) __ksym;

/* Constant, since clang 14 forgets the mark on a plain pointer to a structure. */
struct held {
	const struct task_struct __kptr *task;
	const struct cgroup __kptr *cgroup;
};

struct {
	__uint(type, MAP_ARRAY);
	__uint(max_entries, PUBLISHER_ACCOUNTS_MAX);
	__type(key, __u32);
	__type(value, struct held);
} held SEC(".maps");

struct account_page {
	__uint(type, MAP_ARRAY);
	__uint(map_flags, MAP_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, PUBLISHER_ACCOUNT_SIZE);
};

struct {
	__uint(type, MAP_ARRAY_OF_MAPS);
	__uint(max_entries, PUBLISHER_ACCOUNTS_MAX);
	__uint(key_size, 4);
	__array(values, struct account_page);
} account_pages SEC(".maps");

struct publisher_account accounts[PUBLISHER_ACCOUNTS_MAX] = {};
__u64 accounts_end = 0; /* after the last one that is in use */

/* Sums over threads; @at: the link of the next one, @end: that of the list's head. */
struct threads {
	__u64 at, end, counted;
	__u64 utime, stime, runtime, min_flt, maj_flt, nvcsw, nivcsw;
	__u64 rchar, wchar, syscr, syscw, read_bytes, write_bytes, cancelled_write_bytes;
};

#define HAS_IO bpf_core_field_exists(((struct task_struct *)0)->ioac.rchar)

#define ADD_IO(sum, from)                                                           \
	do {                                                                        \
		(sum)->rchar += (from)->ioac.rchar;                                 \
		(sum)->wchar += (from)->ioac.wchar;                                 \
		(sum)->syscr += (from)->ioac.syscr;                                 \
		(sum)->syscw += (from)->ioac.syscw;                                 \
		(sum)->read_bytes += (from)->ioac.read_bytes;                       \
		(sum)->write_bytes += (from)->ioac.write_bytes;                     \
		(sum)->cancelled_write_bytes += (from)->ioac.cancelled_write_bytes; \
	} while (0)

static long add_thread(__u32 i, struct threads *s)
{
	struct task_struct *t;

	if (!s->at || s->at == s->end)
		return 1;
	t = AT(task_struct, s->at - bpf_core_field_offset(struct task_struct, thread_node));
	s->utime += t->utime;
	s->stime += t->stime;
	s->runtime += t->se.sum_exec_runtime;
	s->min_flt += t->min_flt;
	s->maj_flt += t->maj_flt;
	s->nvcsw += t->nvcsw;
	s->nivcsw += t->nivcsw;
	if (HAS_IO)
		ADD_IO(s, t);
	s->counted++;
	s->at = u64_at(s->at);
	return 0;
}

/* As percpu_counter_sum_positive(). */
static __always_inline __u64 sum_counter(__u64 counter)
{
	__u64 parts = POINTER(percpu_counter, counter, counters);
	__s64 sum = POINTER(percpu_counter, counter, count);

	for (__u32 i = 0; i < PORT_CPUS_MAX && i < conf.nr_cpus; i++)
		if (found.cpu_offs[i])
			sum += s32_at(parts + found.cpu_offs[i]);
	return sum < 0 ? 0 : sum;
}

static __always_inline __u64 state_letter(__u32 state, __u32 exit_state)
{
	__u32 shown = (state | exit_state) & TASK_REPORT;

	if ((state & TASK_NOLOAD) == TASK_NOLOAD)
		return 'I';
	if (state & TASK_LOCKED)
		return 'D';
	/* The highest bit that is set. */
	if (shown & 0x40)
		return 'P';
	if (shown & 0x20)
		return 'Z';
	if (shown & 0x10)
		return 'X';
	if (shown & 8)
		return 't';
	if (shown & 4)
		return 'T';
	if (shown & 2)
		return 'D';
	return shown & 1 ? 'S' : 'R';
}

/* What its memory has; not of one that has left it, or leaves it while we look: it may be another one's by then. */
static __always_inline void read_rss(struct port_task *d, __u64 leader)
{
	__u64 mm = POINTER(task_struct, leader, mm), rss, file, anon, shmem;

	if (!mm || !conf.percpu.this_cpu_off)
		return;
	rss = MEMBER(mm_struct, mm, rss_stat);
	file = sum_counter(rss + MM_FILEPAGES * bpf_core_type_size(struct percpu_counter));
	anon = sum_counter(rss + MM_ANONPAGES * bpf_core_type_size(struct percpu_counter));
	shmem = sum_counter(rss + MM_SHMEMPAGES * bpf_core_type_size(struct percpu_counter));
	barrier();
	if (POINTER(task_struct, leader, mm) != mm)
		return;
	d->rss_file = file;
	d->rss_anon = anon;
	d->rss_shmem = shmem;
	d->rss = file + anon + shmem;
}

static __always_inline void publish_task(struct page *p, __u64 task, __u64 now)
{
	__u64 signal = POINTER(task_struct, task, signal), leader, head;
	struct signal_struct *s = AT(signal_struct, signal);
	struct threads sum = {};
	__u32 seq, threads, live;
	struct port_task *d;
	struct task_struct *t;

	/* A thread that ends adds what it had to the process's, and leaves the list, under this lock. */
	seq = s->stats_lock.seqcount.seqcount.sequence;
	if (seq & 1)
		return;
	barrier();
	head = MEMBER(signal_struct, signal, thread_head);
	sum.end = head;
	sum.at = u64_at(head);
	/* Not always the task that was taken: another thread's execve(2) makes that the main one. */
	leader = sum.at == head ? task
				: sum.at - bpf_core_field_offset(struct task_struct, thread_node);
	sum.utime = s->utime;
	sum.stime = s->stime;
	sum.runtime = s->sum_sched_runtime;
	sum.min_flt = s->min_flt;
	sum.maj_flt = s->maj_flt;
	sum.nvcsw = s->nvcsw;
	sum.nivcsw = s->nivcsw;
	if (HAS_IO)
		ADD_IO(&sum, s);
	bpf_loop(PUBLISHER_THREADS_MAX, add_thread, &sum, 0);
	threads = s->nr_threads;
	live = s->live.counter;
	barrier();
	if (s->stats_lock.seqcount.seqcount.sequence != seq || !begin(p))
		return;
	d = (void *)p + conf.task_off;
	t = AT(task_struct, leader);
	d->alive = live > 0;
	*(__u64 *)d->state = state_letter(t->__state, t->exit_state);
	((__u64 *)d->comm)[0] = POINTER(task_struct, leader, comm);
	((__u64 *)d->comm)[1] = u64_at(MEMBER(task_struct, leader, comm) + 8);
	d->pid = t->tgid;
	d->threads = threads;
	d->counted = sum.counted;
	d->start = t->start_boottime;
	d->utime = sum.utime;
	d->stime = sum.stime;
	d->runtime = sum.runtime;
	d->min_flt = sum.min_flt;
	d->maj_flt = sum.maj_flt;
	d->nvcsw = sum.nvcsw;
	d->nivcsw = sum.nivcsw;
	d->io_rchar = sum.rchar;
	d->io_wchar = sum.wchar;
	d->io_syscr = sum.syscr;
	d->io_syscw = sum.syscw;
	d->io_read_bytes = sum.read_bytes;
	d->io_write_bytes = sum.write_bytes;
	d->io_cancelled_write_bytes = sum.cancelled_write_bytes;
	read_rss(d, leader);
	end(p, now);
}

/* No limit is a number that the kernel cannot reach. */
static __always_inline __u64 limit(__u64 n, __u64 none)
{
	return n >= none ? ~0ULL : n;
}

static __always_inline void publish_cgroup(struct page *p, __u64 at, __u64 now)
{
	struct cgroup *c = AT(cgroup, at);
	__u64 subsys = MEMBER(cgroup, at, subsys), psi = POINTER(cgroup, at, psi);
	__u64 memory =
		u64_at(subsys + bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id) * 8);
	__u64 pids = 0;
	struct port_cgroup *d;

	if (bpf_core_enum_value_exists(enum cgroup_subsys_id, pids_cgrp_id))
		pids = u64_at(subsys +
			      bpf_core_enum_value(enum cgroup_subsys_id, pids_cgrp_id) * 8);
	if (!begin(p))
		return;
	d = (void *)p + conf.cgroup_off;
	d->alive = (c->self.flags & conf.css_online) != 0;
	if (d->alive) {
		d->populated = c->nr_populated_csets + c->nr_populated_domain_children +
				c->nr_populated_threaded_children >
			0;
		d->frozen = (c->flags & conf.cgroup_frozen) != 0;
		d->nr_descendants = c->nr_descendants;
		d->nr_dying_descendants = c->nr_dying_descendants;
		d->cpu_usage = c->bstat.cputime.sum_exec_runtime;
		d->cpu_user = c->prev_cputime.utime;
		d->cpu_system = c->prev_cputime.stime;
		/* The states of both controllers begin with the part that is common to all. */
		if (memory) {
			struct mem_cgroup *m = AT(mem_cgroup, memory);

			d->memory_current = m->memory.usage.counter;
			d->memory_peak = m->memory.watermark;
			d->memory_max = limit(m->memory.max, 1ULL << 47);
		}
		if (pids) {
			struct pids_cgroup *q = AT(pids_cgroup, pids);

			d->pids_current = q->counter.counter;
			d->pids_max = limit(q->limit.counter, (1 << 22) + 1);
		}
		if (psi)
			read_psi(&d->pressure, psi, false);
	}
	end(p, now);
}

struct round {
	__u64 now;
	__u32 first;
};

static long publish_account(__u32 i, struct round *r)
{
	__u64 slot = r->first + i * PUBLISHER_SLOW;
	__u32 key = slot, zero = 0;
	struct publisher_account *a;
	struct page *p;
	void *map;

	if (slot >= PUBLISHER_ACCOUNTS_MAX)
		return 1;
	a = &accounts[slot];
	if (a->kind == PUBLISHER_FREE)
		return 0;
	map = bpf_map_lookup_elem(&account_pages, &key);
	p = map ? bpf_map_lookup_elem(map, &zero) : NULL;
	if (!p)
		return 0;
	if (a->kind == PUBLISHER_TASK)
		publish_task(p, a->at, r->now);
	else
		publish_cgroup(p, a->at, r->now);
	return 0;
}

/* Each pass has its share of the slots. */
static __always_inline void publish_accounts(__u32 share, __u64 now)
{
	struct round r = { .now = now, .first = share };

	if (share < accounts_end)
		bpf_loop((accounts_end - share + PUBLISHER_SLOW - 1) / PUBLISHER_SLOW,
			 publish_account, &r, 0);
}

static __always_inline void drop(struct held *h, struct publisher_account *a)
{
	struct task_struct *t;
	struct cgroup *c;

	a->kind = PUBLISHER_FREE;
	a->at = 0;
	t = bpf_kptr_xchg(&h->task, NULL);
	if (t)
		bpf_task_release(t);
	c = bpf_kptr_xchg(&h->cgroup, NULL);
	if (c)
		bpf_cgroup_release(c);
}

/* The slot is free. Return: 0; -ESRCH no such process or cgroup; -EINVAL another process has that number here. */
SEC("syscall")
int publisher_take(struct publisher_take *ctx)
{
	__u64 slot = ctx->slot;
	__u32 key = slot;
	struct held *h = bpf_map_lookup_elem(&held, &key);

	if (!h || slot >= PUBLISHER_ACCOUNTS_MAX)
		return -EINVAL;
	if (ctx->kind == PUBLISHER_TASK) {
		struct task_struct *t;

		/* Numbers are those of our own namespace, if the kernel can. */
		t = bpf_task_from_vpid ? bpf_task_from_vpid(ctx->id) : bpf_task_from_pid(ctx->id);
		if (!t)
			return -ESRCH;
		if (t->pid != t->tgid ||
		    (ctx->ino && bpf_core_field_exists(struct pid, ino) &&
		     BPF_CORE_READ(t, thread_pid, ino) != ctx->ino)) {
			bpf_task_release(t);
			return -EINVAL;
		}
		accounts[slot].at = (__u64)t;
		t = bpf_kptr_xchg(&h->task, t);
		if (t)
			bpf_task_release(t);
	} else {
		struct cgroup *c = bpf_cgroup_from_id(ctx->id);

		if (!c)
			return -ESRCH;
		accounts[slot].at = (__u64)c;
		c = bpf_kptr_xchg(&h->cgroup, c);
		if (c)
			bpf_cgroup_release(c);
	}
	barrier();
	accounts[slot].kind = ctx->kind;
	return 0;
}

SEC("syscall")
int publisher_drop(struct publisher_take *ctx)
{
	__u64 slot = ctx->slot;
	__u32 key = slot;
	struct held *h = bpf_map_lookup_elem(&held, &key);

	if (!h || slot >= PUBLISHER_ACCOUNTS_MAX)
		return -EINVAL;
	drop(h, &accounts[slot]);
	return 0;
}
