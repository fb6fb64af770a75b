// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * rule.bpf.c - the bell of rules, and the timer that looks at who does not ring.
 *
 * Who may do what. A client has a descriptor of rule_ring(), of its pool and of pages, nothing else: it can run rule_ring() with any
 * context, on every CPU at once, from any number of processes, and can change its pool at any instruction. All else here is
 * run by the publisher.
 *
 * DOC: what holds whatever a client does.
 * - A slot does nothing for who has not its token: 64 random bits, another one for each client, 0 in a slot that nobody has.
 * - A pool's words are loaded once, by volatile loads, into the slot's shadow, which nobody maps. Offset and length are the
 *   context's, of which the kernel has made a copy, or are loaded once. Checks and the scache see the shadow only.
 * - A slot's shadow is used by who has taken slot.busy. Nobody waits for it: the second of two bells of a slot is refused
 *   with -EBUSY. Only who has shown the token gets so far, so that nobody can keep another's slot busy.
 * - The scache and the page are written under the state's lock, in which there is no loop over anything a client says. There it is
 *   looked once more whether the slot is in use and the rule still the one that was joined: who shuts a slot and has had the lock
 *   afterwards knows that nothing comes from it any more, wherever a bell may have been preempted.
 * - Of the pool's bell nothing is believed but what a new request wants, and what is written there is never read back.
 *
 * A slot is FREE, USED, BARRED (the client is shut out) or FREE again. It gets a new pool only while it is FREE, and the map's update waits until no
 * timer is under way that may have seen the old one; a bell that found the old pool finds another token when it has taken busy.
 */
#include "rule_publish.bpf.h"

#define EPERM 1
#define EFAULT 14
#define EBUSY 16
#define EINVAL 22
#define EPIPE 32
#define ESRCH 3
#define SIGKILL 9
#define CLOCK_MONOTONIC 1
#define MACHINE_WORD 8
#define WRITABLE (RULE_WORDS * 8)

enum { FREE, USED, BARRED };
enum { POLICY_KILL, POLICY_REVOKE, POLICY_LOG }; /* enum rules_policy */

enum pid_type { PIDTYPE_PID, PIDTYPE_TGID };

struct bpf_timer {
	__u64 opaque[2];
} __attribute__((aligned(8)));

struct task_struct {
	char comm[16];
	int tgid;
	__u64 start_boottime;
} __attribute__((preserve_access_index));

struct bpf_map___refs {
	struct {
		__s64 counter;
	} refcnt;
} __attribute__((preserve_access_index));

extern struct task_struct *bpf_task_from_pid(__s32 pid) __ksym __weak;
extern struct task_struct *bpf_task_from_vpid(__s32 vpid) __ksym __weak;
extern void bpf_task_release(struct task_struct *t) __ksym __weak;
extern int bpf_send_signal_task(struct task_struct *t, int sig, enum pid_type type,
				__u64 value) __ksym __weak;

/*
 * @owner: of the rule that was joined
 * @canary: before and after the pool's data
 * @taken: the last polled request that was carried out
 * @told_ns: when something was last told of a client that is not shut out
 * @tgid, @born: of the process, whichever has that number later; 0: not known
 */
struct slot {
	__u32 busy;
	__u32 state;
	__u64 token;
	__u64 client;
	__u64 owner;
	__u64 canary[2 * RULE_CANARY_WORDS];
	__u64 shadow[RULE_SETTABLE];
	__u64 told_ns;
	__u32 rule;
	__u32 taken;
	__s32 tgid;
	__u64 born;
};

struct poll {
	struct bpf_timer timer;
};

const volatile struct rule_conf conf = {};
__u32 nr_watched = 0; /* slots that are in use; the timer goes on while there are any */
__u32 nr_looked_at = 0; /* slots from 0 on among which they are */

struct {
	__uint(type, MAP_ARRAY);
	__uint(max_entries, RULE_SLOTS);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

struct {
	__uint(type, MAP_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct poll);
} polls SEC(".maps");

struct {
	__uint(type, MAP_RINGBUF);
	__uint(max_entries, 65536);
} events SEC(".maps");

/* The templates of what is in the maps of maps; as in rule_sock.bpf.c. */
struct state_map {
	__uint(type, MAP_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rule_state);
};

struct page_map {
	__uint(type, MAP_ARRAY);
	__uint(map_flags, MAP_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, sizeof(struct rule_page));
};

struct pool_map {
	__uint(type, MAP_ARRAY);
	__uint(map_flags, MAP_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, sizeof(struct rule_pool));
};

/* Else the compiler leaves the struct out of what it tells of types, and the kernel finds no lock. */
const struct rule_state *state_is_a_type __attribute__((unused));

struct {
	__uint(type, MAP_ARRAY_OF_MAPS);
	__uint(max_entries, 128);
	__type(key, __u32);
	__array(values, struct state_map);
} states SEC(".maps");

struct {
	__uint(type, MAP_ARRAY_OF_MAPS);
	__uint(max_entries, 128);
	__type(key, __u32);
	__array(values, struct page_map);
} pages SEC(".maps");

struct {
	__uint(type, MAP_ARRAY_OF_MAPS);
	__uint(max_entries, RULE_SLOTS);
	__type(key, __u32);
	__array(values, struct pool_map);
} pools SEC(".maps");

/* One load, whatever the compiler thinks. */
#define ONCE(x) (*(const volatile typeof(x) *)&(x))

static __always_inline void *only_value(void *outer, __u32 key)
{
	void *inner = bpf_map_lookup_elem(outer, &key);
	__u32 zero = 0;

	return inner ? bpf_map_lookup_elem(inner, &zero) : NULL;
}

/* Each word is loaded once. Return: 0: as they were. */
static __always_inline __u64 compare(const struct slot *s, const struct rule_pool *pool,
				     __u64 diff[2 * RULE_CANARY_WORDS])
{
	__u64 any = 0;

#pragma unroll
	for (int i = 0; i < RULE_CANARY_WORDS; i++) {
		diff[i] = ONCE(pool->before[i]) ^ s->canary[i];
		diff[RULE_CANARY_WORDS + i] = ONCE(pool->after[i]) ^
			s->canary[RULE_CANARY_WORDS + i];
		any |= diff[i] | diff[RULE_CANARY_WORDS + i];
	}
	return any;
}

static __always_inline void mend(struct slot *s, struct rule_pool *pool)
{
#pragma unroll
	for (int i = 0; i < RULE_CANARY_WORDS; i++) {
		pool->before[i] = s->canary[i];
		pool->after[i] = s->canary[RULE_CANARY_WORDS + i];
	}
}

/* Who joined: by number and time of birth, so that nobody else is taken for it. The caller gives it back. */
static __always_inline struct task_struct *task_of(const struct slot *s)
{
	struct task_struct *t;

	if (!s->tgid || !&bpf_task_from_pid || !&bpf_task_from_vpid)
		return NULL;
	t = bpf_task_from_pid(s->tgid);
	if (!t || BPF_CORE_READ(t, start_boottime) == s->born)
		return t;
	bpf_task_release(t);
	return NULL;
}

/*
 * Shadow bytes were found changed. The slot is shut first. Who rings is who is killed, and with it who joined, if that is somebody
 * else; the publisher does so once more by its pidfd.
 * Return: -errno for who rang.
 */
static __always_inline int clobbered(struct slot *s, struct rule_pool *pool, const __u64 *diff,
				     bool rang, __u64 now)
{
	struct rule_found *f;
	struct task_struct *t;

	if (conf.policy == POLICY_LOG) {
		mend(s, pool);
		if (now - s->told_ns < conf.period_ns)
			return -EFAULT;
		s->told_ns = now;
	} else if (__sync_val_compare_and_swap(&s->state, USED, BARRED) != USED) {
		return -EPIPE;
	}
	t = task_of(s);
	f = bpf_ringbuf_reserve(&events, sizeof(*f), 0);
	if (f) {
		f->client = s->client;
		__builtin_memset(f->comm, 0, sizeof(f->comm));
		if (t)
			bpf_core_read(f->comm, sizeof(f->comm), &t->comm);
		__builtin_memcpy(f->diff, diff, sizeof(f->diff));
		bpf_ringbuf_submit(f, 0);
	}
	if (conf.policy == POLICY_KILL && rang)
		bpf_send_signal(SIGKILL);
	if (t && conf.policy == POLICY_KILL && conf.kernel_kill && &bpf_send_signal_task)
		bpf_send_signal_task(t, SIGKILL, PIDTYPE_TGID, 0);
	if (t)
		bpf_task_release(t);
	return conf.policy == POLICY_LOG ? -EFAULT : -EPIPE;
}

static __always_inline bool fits(int word, __u64 value)
{
	switch (word) {
	case 0:
		return value <= 1;
	case 1:
	case 2:
		return value <= RULE_NUMBER_MAX;
	default:
		return value <= RULE_RATE_MAX;
	}
}

/* What checks and effect go by: the shadow. Tests have it be the pool itself, and see that it does not do. */
static __always_inline __u64 word(const struct slot *s, const struct rule_pool *pool, int i)
{
	return conf.in_place ? ONCE(pool->data[i]) : s->shadow[i];
}

static __always_inline void apply(struct rule_state *st, struct slot *s, struct rule_pool *pool,
				  __u64 first, __u64 end)
{
	__u64 *to = (__u64 *)&st->rule;
	bool sound = true;

#pragma unroll
	for (int i = 0; i < RULE_SETTABLE; i++) {
		if (i >= first && i < end)
			to[i] = word(s, pool, i);
		sound = sound && fits(i, to[i]);
	}
	if (!sound)
		st->violations++;
	if (end > RULE_RATE) {
		__u64 rate = st->rule.rate_per_s;

		st->interval_ns = rate ? 1000000000ULL / rate : 0;
		st->next_ns = 0;
	}
}

/* The caller has taken the slot. Return: 0; -errno for the client. */
static __always_inline int carry_out(struct slot *s, struct rule_pool *pool, __u64 off, __u64 len,
				     __u64 now)
{
	struct rule_state *st = only_value(&states, s->rule);
	struct rule_page *page = only_value(&pages, s->rule);
	__u64 first, end;
	bool ours;

	if (!st || !page)
		return -EPIPE;
	if ((off | len) % MACHINE_WORD || off > WRITABLE || len > WRITABLE - off)
		return -EFAULT;
	if (!len)
		return 0;
	first = off / 8;
	end = (off + len) / 8;
	if (end > RULE_SETTABLE)
		return -EPERM;
#pragma unroll
	for (int i = 0; i < RULE_SETTABLE; i++)
		if (i >= first && i < end)
			s->shadow[i] = ONCE(pool->data[i]);
#pragma unroll
	for (int i = 0; i < RULE_SETTABLE; i++)
		if (i >= first && i < end && !fits(i, word(s, pool, i)))
			return -EINVAL;
	bpf_spin_lock(&st->lock);
	ours = st->owner == s->owner && ONCE(s->state) == USED;
	if (ours) {
		apply(st, s, pool, first, end);
		publish(page, st, now);
	}
	bpf_spin_unlock(&st->lock);
	return ours ? 0 : -EPIPE;
}

/* A client's slot number stays within the table also while the processor only guesses that it does. */
static __always_inline __u64 masked(__u64 n)
{
	asm volatile("%0 &= %1" : "+r"(n) : "i"(RULE_SLOTS - 1));
	return n;
}

static __always_inline bool take(struct slot *s)
{
	return __sync_val_compare_and_swap(&s->busy, 0, 1) == 0;
}

static __always_inline void give_back(struct slot *s)
{
	__sync_lock_test_and_set(&s->busy, 0);
}

static __always_inline bool is_of(struct slot *s, __u64 token)
{
	return token && ONCE(s->token) == token && ONCE(s->state) == USED;
}

/* The bell: hostile. */
SEC("syscall")
int rule_ring(struct port_ring *ring)
{
	__u64 token = ring->token, off = ring->off, len = ring->len;
	__u64 diff[2 * RULE_CANARY_WORDS];
	__u32 n = masked(ring->slot);
	struct slot *s = bpf_map_lookup_elem(&slots, &n);
	struct rule_pool *pool;
	int r = -EPIPE;
	__u64 now;

	if (!s || n != ring->slot || !is_of(s, token))
		return -EPIPE;
	pool = only_value(&pools, n);
	if (!pool)
		return -EPIPE;
	now = bpf_ktime_get_ns();
	if (!take(s))
		return -EBUSY;
	if (!is_of(s, token))
		r = -EPIPE;
	else if (compare(s, pool, diff))
		r = clobbered(s, pool, diff, true, now);
	else
		r = carry_out(s, pool, off, len, now);
	give_back(s);
	return r;
}

/* Of one slot, every period. Shadow bytes are compared also while a bell is at it. */
static long look(__u32 n, void *unused)
{
	struct slot *s = bpf_map_lookup_elem(&slots, &n);
	__u64 diff[2 * RULE_CANARY_WORDS];
	struct rule_pool *pool;
	__u64 now;
	__u32 request;

	if (!s || ONCE(s->state) != USED)
		return 0;
	pool = only_value(&pools, n);
	if (!pool)
		return 0;
	now = bpf_ktime_get_ns();
	if (compare(s, pool, diff)) {
		clobbered(s, pool, diff, false, now);
		return 0;
	}
	request = ONCE(pool->bell.request);
	if (request == s->taken || !take(s))
		return 0;
	if (ONCE(s->state) == USED) {
		barrier();
		s->taken = request;
		pool->bell.result =
			carry_out(s, pool, ONCE(pool->bell.off), ONCE(pool->bell.len), now);
		if (__sync_lock_test_and_set(&pool->bell.done, request) == request)
			barrier();
	}
	give_back(s);
	return 0;
}

static int look_at_all(void *map, __u32 *key, struct poll *p)
{
	bpf_loop(nr_looked_at, look, NULL, 0);
	if (ONCE(nr_watched))
		bpf_timer_start(&p->timer, conf.period_ns, 0);
	return 0;
}

/* Somebody has joined. Arming a timer that is armed makes it come later by less than a period. */
SEC("syscall")
int rule_watch(void *unused)
{
	__u32 zero = 0;
	struct poll *p = bpf_map_lookup_elem(&polls, &zero);
	int r;

	if (!p)
		return -EINVAL;
	r = bpf_timer_init(&p->timer, &polls, CLOCK_MONOTONIC);
	if (r && r != -EBUSY)
		return r;
	r = bpf_timer_set_callback(&p->timer, look_at_all);
	return r ? r : bpf_timer_start(&p->timer, conf.period_ns, 0);
}

/* The publisher knows the client by its own namespace's numbers. */
static __always_inline void remember(struct slot *s, __s32 pid)
{
	struct task_struct *t = NULL;

	s->tgid = 0;
	if (pid && conf.kernel_kill && &bpf_task_from_vpid)
		t = bpf_task_from_vpid(pid);
	if (!t)
		return;
	s->born = BPF_CORE_READ(t, start_boottime);
	s->tgid = BPF_CORE_READ(t, tgid);
	bpf_task_release(t);
}

/* Wait for who is writing to a rule. */
static __always_inline void pass_through(struct rule_state *st)
{
	if (!st)
		return;
	bpf_spin_lock(&st->lock);
	bpf_spin_unlock(&st->lock);
}

/* A client joins, leaves, or is shut out. Return: 0; -EBUSY: a bell is at it; who leaves has no effect any more, but the slot is not free. */
SEC("syscall")
int rule_seat(struct rule_seat *seat)
{
	__u32 n = seat->slot;
	struct slot *s = bpf_map_lookup_elem(&slots, &n);

	if (!s)
		return -EINVAL;
	if (seat->op != RULE_JOIN) {
		__sync_lock_test_and_set(&s->state, BARRED);
		pass_through(only_value(&states, s->rule));
	}
	if (!take(s))
		return -EBUSY;
	if (seat->op == RULE_JOIN) {
#pragma unroll
		for (int i = 0; i < 2 * RULE_CANARY_WORDS; i++)
			s->canary[i] = seat->canary[i];
		s->client = seat->client;
		s->owner = seat->owner;
		s->rule = seat->rule;
		s->taken = 0;
		s->told_ns = 0;
		s->token = seat->token;
		remember(s, seat->pid);
		__sync_lock_test_and_set(&s->state, USED);
	} else if (seat->op == RULE_LEAVE) {
		s->token = 0;
		s->tgid = 0;
		__sync_lock_test_and_set(&s->state, FREE);
	}
	give_back(s);
	return 0;
}

/* A rule's clients are, from now on, those who join it with this number. */
SEC("syscall")
int rule_own(struct rule_seat *seat)
{
	struct rule_state *st = only_value(&states, seat->rule);
	struct rule_page *page = only_value(&pages, seat->rule);
	__u64 now = bpf_ktime_get_ns(), owner = seat->owner;

	if (!st || !page)
		return -EINVAL;
	bpf_spin_lock(&st->lock);
	st->owner = owner;
	publish(page, st, now);
	bpf_spin_unlock(&st->lock);
	return 0;
}

/*
 * Who has a slot's pool, besides the map of maps: a descriptor or mapping, or a program to which somebody has bound it (which anybody may
 * who has descriptors of both).
 * Return: 0: nobody; 1: somebody.
 */
SEC("syscall")
int rule_held(struct rule_seat *seat)
{
	__u32 n = seat->slot;
	struct bpf_map___refs *pool = bpf_map_lookup_elem(&pools, &n);

	return pool && ONCE(pool->refcnt.counter) > 1;
}

char _license[] SEC("license") = "GPL";
