// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_port_rule_attack.c - clients of rules that lie, guess, race and scribble have no effect but on what they may write.
 */
#include "rule_fixture.h"

#define FUZZ_ROUNDS 300000
#define RACE_ROUNDS 5000000
#define KILLS 21
#define PERIOD_NS 1000000

/* A rule with one client, for tests that need no sockets. */
struct scene {
	struct rules *r;
	struct group g;
	struct client c;
	struct rules_event event;
	unsigned int nr_events;
};

static void on_event(const struct rules_event *e, void *user)
{
	struct scene *s = user;

	s->event = *e;
	s->nr_events++;
}

static void scene_new(struct scene *ret, struct rules_options o)
{
	*ret = (struct scene){};
	o.on_event = on_event;
	o.user = ret;
	ret->r = rules_of(&o);
	group_new(&ret->g);
	assert_int_equal(rules_add(ret->r, ENTRY, ret->g.fd, -1, -1), 0);
	client_open(&ret->c, ret->r);
}

static void scene_free(struct scene *s)
{
	client_close(&s->c);
	rules_free(s->r);
	group_free(&s->g);
}

static void test_bounds_alignment_and_values_are_checked(void **unused)
{
	struct scene s;
	struct client *c = &s.c;

	scene_new(&s, (struct rules_options){});
	for (uint64_t off = 0; off < 96; off++)
		for (uint64_t len = 0; len < 96; len++) {
			int want = (off | len) % 8 || off + len > 72 ? -EFAULT
				: len && off + len > 40              ? -EPERM
								     : 0;

			for (int i = 0; i < RULE_WORDS; i++)
				c->pool->data[i] = 1;
			assert_int_equal(ring(c, off, len), want);
		}
	assert_int_equal(ring(c, 8, ~7ULL), -EFAULT);
	assert_int_equal(ring(c, ~7ULL, 16), -EFAULT);
	assert_int_equal(ring(c, 1ULL << 63, 1ULL << 63), -EFAULT);
	assert_int_equal(ring(c, 0, 1ULL << 32), -EFAULT);
	assert_int_equal(put(c, WORD(allow), 2), -EINVAL);
	assert_int_equal(put(c, WORD(allow), ~0ULL), -EINVAL);
	assert_int_equal(put(c, WORD(mark), 1ULL << 32), -EINVAL);
	assert_int_equal(put(c, WORD(mark), RULE_NUMBER_MAX), 0);
	assert_int_equal(put(c, WORD(priority), 1ULL << 32), -EINVAL);
	assert_int_equal(put(c, WORD(rate_per_s), RULE_RATE_MAX + 1), -EINVAL);
	assert_int_equal(put(c, WORD(rate_per_s), RULE_RATE_MAX), 0);
	assert_int_equal(put(c, WORD(burst), RULE_RATE_MAX + 1), -EINVAL);
	assert_int_equal(put(c, WORD(burst), RULE_RATE_MAX), 0);
	/* One that is refused changes nothing, also not its sound part. */
	c->pool->data[0] = 0;
	c->pool->data[1] = 1ULL << 40;
	assert_int_equal(ring(c, 0, 16), -EINVAL);
	assert_int_equal(look_at(c).allow, 1);
	assert_int_equal(look_at(c).mark, RULE_NUMBER_MAX);
	assert_int_equal(look_at(c).allowed, 0);
	scene_free(&s);
}

static void test_contexts_of_odd_sizes_are_refused(void **unused)
{
	static char large[65536 + 8];
	struct port_ring good;
	struct scene s;

	scene_new(&s, (struct rules_options){});
	good = (struct port_ring){ .token = s.c.hello.token, .slot = s.c.hello.slot, .len = 8 };
	memcpy(large, &good, sizeof(good));
	s.c.pool->data[0] = 0;
	for (uint32_t size = 0; size < sizeof(good); size++)
		assert_int_equal(ring_with(s.c.fds[2], large, size), -EINVAL);
	assert_int_equal(look_at(&s.c).allow, 1);
	assert_int_equal(ring_with(s.c.fds[2], large, 65536), -EINVAL);
	assert_int_equal(ring_with(s.c.fds[2], NULL, sizeof(good)), -EINVAL);
	assert_int_equal(ring_with(s.c.fds[2], (void *)8, sizeof(good)), -EFAULT);
	assert_int_equal(look_at(&s.c).allow, 1);
	/* What is longer is as good as what is as long. */
	assert_int_equal(ring_with(s.c.fds[2], large, 4096), 0);
	assert_int_equal(look_at(&s.c).allow, 0);
	scene_free(&s);
}

static void test_who_has_not_the_token_does_nothing(void **unused)
{
	struct port_ring p;
	struct client other;
	struct scene s;

	scene_new(&s, (struct rules_options){});
	client_open(&other, s.r);
	assert_int_not_equal(other.hello.slot, s.c.hello.slot);
	assert_true(other.hello.token != s.c.hello.token);
	s.c.pool->data[0] = other.pool->data[0] = 0;
	p = (struct port_ring){ .slot = s.c.hello.slot, .len = 8 };
	assert_int_equal(ring_with(other.fds[2], &p, sizeof(p)), -EPIPE);
	for (int bit = 0; bit < 64; bit++) {
		p.token = s.c.hello.token ^ 1ULL << bit;
		assert_int_equal(ring_with(other.fds[2], &p, sizeof(p)), -EPIPE);
	}
	p.token = other.hello.token;
	for (uint64_t slot = 0; slot < 70000; slot++) {
		p.slot = slot == other.hello.slot ? ~0U : slot;
		assert_int_equal(ring_with(other.fds[2], &p, sizeof(p)), -EPIPE);
	}
	p.token = 0;
	for (uint32_t slot = 0; slot < RULES_CLIENTS_MAX; slot++) {
		p.slot = slot;
		assert_int_equal(ring_with(other.fds[2], &p, sizeof(p)), -EPIPE);
	}
	assert_int_equal(look_at(&s.c).allow, 1);
	assert_int_equal(s.c.page->writes, 1);
	client_close(&other);
	scene_free(&s);
}

static void test_who_left_is_not_heard_again(void **unused)
{
	struct client old, next;
	struct scene s;

	scene_new(&s, (struct rules_options){});
	old = s.c;
	assert_int_equal(put(&old, WORD(mark), 1), 0);
	rules_leave(s.r, old.id);
	assert_int_equal(put(&old, WORD(mark), 2), -EPIPE);
	/* Its memory goes; its descriptor of the bell and its token stay. */
	munmap(old.pool, sizeof(*old.pool));
	close(old.fds[1]);
	client_open(&next, s.r);
	assert_int_equal(next.hello.slot, old.hello.slot);
	assert_true(next.hello.token != old.hello.token);
	assert_true(next.id != old.id);
	next.pool->data[WORD(mark) / 8] = 3;
	assert_int_equal(ring(&old, WORD(mark), 8), -EPIPE);
	rules_leave(s.r, old.id);
	assert_int_equal(look_at(&next).mark, 1);
	assert_int_equal(ring(&next, WORD(mark), 8), 0);
	munmap((void *)old.page, RULE_PAGE_SIZE);
	close(old.fds[0]);
	close(old.fds[2]);
	s.c = next;
	scene_free(&s);
}

/* A simple generator: the same rounds every time. */
static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static uint64_t odd_number(uint64_t *state)
{
	uint64_t x = next_random(state);

	switch (x >> 61) {
	case 0:
		return x;
	case 1:
		return ~(x & 255);
	case 2:
		return 1ULL << (x & 63);
	default:
		return (x & 15) * 8;
	}
}

/* Any context whatever has the effect that a model says, and no other. */
static void test_any_context_does_what_a_model_says(void **unused)
{
	static const uint64_t max[] = { 1, RULE_NUMBER_MAX, RULE_NUMBER_MAX, RULE_RATE_MAX,
					RULE_RATE_MAX };
	uint64_t model[RULE_WORDS] = { 1 }, random = 88172645463325252ULL;
	unsigned int done = 0;
	struct scene s;

	scene_new(&s, (struct rules_options){});
	for (int i = 0; i < FUZZ_ROUNDS; i++) {
		struct port_ring p = { .token = s.c.hello.token,
				       .slot = s.c.hello.slot,
				       .reserved = next_random(&random),
				       .off = odd_number(&random),
				       .len = odd_number(&random) };
		bool known = next_random(&random) % 8 != 0;
		struct port_rule seen;
		int want = 0;

		if (!known && random & 1024)
			p.token = odd_number(&random);
		else if (!known)
			p.slot = odd_number(&random);
		known = p.token == s.c.hello.token && p.slot == s.c.hello.slot;
		for (int w = 0; w < RULE_WORDS; w++) {
			uint64_t x = odd_number(&random);

			s.c.pool->data[w] = x % 4 && w < RULE_SETTABLE ? x % (max[w] + 1) : x;
		}
		if (!known)
			want = -EPIPE;
		else if ((p.off | p.len) % 8 || p.off > 72 || p.len > 72 - p.off)
			want = -EFAULT;
		else if (p.len && p.off + p.len > 40)
			want = -EPERM;
		for (uint64_t w = p.off / 8; !want && w < (p.off + p.len) / 8; w++)
			if (s.c.pool->data[w] > max[w])
				want = -EINVAL;
		for (uint64_t w = p.off / 8; !want && w < (p.off + p.len) / 8; w++)
			model[w] = s.c.pool->data[w];
		assert_int_equal(ring_with(s.c.fds[2], &p, sizeof(p)), want);
		done += want == 0 && p.len;
		seen = look_at(&s.c);
		assert_memory_equal(&seen, model, sizeof(seen));
	}
	assert_true(done > FUZZ_ROUNDS / 100);
	assert_int_equal(state_of(s.r).violations, 0);
	scene_free(&s);
}

struct racer {
	const struct client *c;
	volatile bool end;
	uint64_t rounds, busy, other;
	uint64_t mark;
};

/* Sound and unsound values, one after the other, for as long as the bell rings. */
static void *rewrite(void *arg)
{
	struct racer *racer = arg;
	volatile uint64_t *data = racer->c->pool->data;

	while (!racer->end) {
		data[0] = 1;
		data[3] = 1000;
		data[0] = 1ULL << 40 | 1;
		data[3] = ~0ULL;
	}
	return NULL;
}

static uint64_t race(bool in_place, uint64_t rounds, uint64_t *ret_taken)
{
	struct racer racer = {};
	uint64_t violations;
	pthread_t thread;
	struct scene s;

	scene_new(&s, (struct rules_options){ .in_place = in_place });
	racer.c = &s.c;
	s.c.pool->data[0] = 1;
	assert_int_equal(pthread_create(&thread, NULL, rewrite, &racer), 0);
	for (uint64_t i = 0; i < rounds; i++) {
		int r = ring(&s.c, 0, 40);

		assert_true(r == 0 || r == -EINVAL);
		*ret_taken += r == 0;
		if (!in_place && i % 64 == 0) {
			struct port_rule seen = look_at(&s.c);

			assert_true(seen.allow <= 1 && seen.rate_per_s <= RULE_RATE_MAX);
		}
		/* Fooled often enough. */
		if (in_place && i % 4096 == 0 && state_of(s.r).violations > 100)
			break;
	}
	racer.end = true;
	pthread_join(thread, NULL);
	violations = state_of(s.r).violations;
	scene_free(&s);
	return violations;
}

static void test_what_takes_effect_is_what_was_checked(void **unused)
{
	uint64_t taken = 0, taken_in_place = 0;
	uint64_t fooled = race(true, RACE_ROUNDS, &taken_in_place);

	print_message("# checked in place: fooled %llu times in %llu writes\n",
		      (unsigned long long)fooled, (unsigned long long)taken_in_place);
	assert_true(fooled > 0);
	assert_int_equal(race(false, RACE_ROUNDS, &taken), 0);
	print_message("# checked on the copy: 0 times in %llu writes of %d\n",
		      (unsigned long long)taken, RACE_ROUNDS);
	assert_true(taken > RACE_ROUNDS / 1000);
}

/* Writes its own number in both words: what two have had a part in would not be equal. */
static void *ring_on(void *arg)
{
	struct racer *racer = arg;

	while (!racer->end) {
		int r = ring(racer->c, WORD(mark), 16);

		racer->rounds += r == 0;
		racer->busy += r == -EBUSY;
		racer->other += r != 0 && r != -EBUSY;
	}
	return NULL;
}

/* The pool is as it is; several ring for it, from threads and from another process, and several others for pools of their own. */
static void test_bells_at_once_do_not_mix(void **unused)
{
	struct racer racers[4] = {};
	struct client other;
	pthread_t thread[4];
	uint64_t start;
	struct scene s;
	pid_t child;
	int status;

	scene_new(&s, (struct rules_options){});
	client_open(&other, s.r);
	for (int i = 0; i < 4; i++) {
		racers[i].c = i < 3 ? &s.c : &other;
		racers[i].mark = i < 3 ? 11 : 22;
		racers[i].c->pool->data[WORD(mark) / 8] = racers[i].mark;
		racers[i].c->pool->data[WORD(priority) / 8] = racers[i].mark;
	}
	child = fork();
	if (child == 0) {
		for (int i = 0; i < 100000; i++) {
			int r = ring(&s.c, WORD(mark), 16);

			if (r != 0 && r != -EBUSY)
				_exit(1);
		}
		_exit(0);
	}
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, ring_on, &racers[i]), 0);
	start = now_ns();
	while (now_ns() - start < 1000000000) {
		struct port_rule seen = look_at(&s.c);

		assert_int_equal(seen.mark, seen.priority);
		assert_true(seen.mark == 0 || seen.mark == 11 || seen.mark == 22);
	}
	for (int i = 0; i < 4; i++) {
		racers[i].end = true;
		pthread_join(thread[i], NULL);
		assert_true(racers[i].rounds > 0);
		assert_int_equal(racers[i].other, 0);
	}
	/* Nobody keeps another's slot busy. */
	assert_int_equal(racers[3].busy, 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(state_of(s.r).violations, 0);
	client_close(&other);
	scene_free(&s);
}

/* What a client that scribbles tells by the memory that it shares with the test. */
struct victim {
	volatile uint64_t clobbered_ns, alive_ns;
	volatile int ready, rang;
};

/* In the child: joined from outside, it gets all that a client has; then it writes where it must not. */
static void scribble(int gate, struct victim *v, int64_t at, bool rings)
{
	struct client c;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "scribbler");
	MUST(take(gate, &c, sizeof(c), c.fds, 3));
	c.pool = mmap(NULL, sizeof(*c.pool), PROT_READ | PROT_WRITE, MAP_SHARED, c.fds[1], 0);
	MUST(c.pool != MAP_FAILED);
	v->clobbered_ns = now_ns();
	((volatile char *)c.pool->data)[at] ^= 0x55;
	if (rings) {
		ring(&c, 0, 8);
		v->rang = 1;
	}
	for (;;)
		v->alive_ns = now_ns();
}

/*
 * A client scribbles at @at, rings or does not, and dies of it.
 * @dispatches: the test dispatches all the while
 * Return: how long it lived on, in ns.
 */
static uint64_t kill_one(struct scene *s, int64_t at, bool rings, bool dispatches)
{
	struct victim *v =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	siginfo_t info = {};
	struct client c;
	int gate[2], pidfd;
	uint64_t lived;
	pid_t child;

	assert_ptr_not_equal(v, MAP_FAILED);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, gate), 0);
	child = fork();
	if (child == 0)
		scribble(gate[1], v, at, rings);
	pidfd = (int)syscall(SYS_pidfd_open, child, 0);
	assert_true(pidfd >= 0);
	assert_int_equal(client_join(&c, s->r, 1000, child, pidfd, 6), 0);
	s->nr_events = 0;
	assert_true(give(gate[0], &c, sizeof(c), c.fds, 3));
	while (waitid(P_PIDFD, pidfd, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && !info.si_pid)
		if (dispatches)
			rules_dispatch(s->r);
		else
			usleep(100);
	assert_int_equal(info.si_code, CLD_KILLED);
	assert_int_equal(info.si_status, SIGKILL);
	assert_int_equal(v->rang, 0);
	lived = v->alive_ns > v->clobbered_ns ? v->alive_ns - v->clobbered_ns : 0;
	while (s->nr_events == 0)
		assert_true(rules_dispatch(s->r) >= 0);
	assert_int_equal(s->nr_events, 1);
	assert_int_equal(s->event.client, c.id);
	assert_int_equal(s->event.entry, ENTRY);
	assert_int_equal(s->event.uid, 1000);
	assert_int_equal(s->event.pid, child);
	assert_string_equal(s->event.comm, "scribbler");
	assert_int_equal(s->event.offset, at);
	assert_int_equal(s->event.bytes, 1);
	assert_int_equal(s->event.done, RULES_KILL);
	waitpid(child, NULL, 0);
	rules_leave(s->r, c.id);
	client_close(&c);
	close(gate[0]);
	close(gate[1]);
	close(pidfd);
	munmap(v, 4096);
	return lived;
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/*
 * What else runs on the machine may delay any one of them: the middle one counts. A process that dispatches runs when there is a
 * processor for it, of which nothing can be promised.
 */
static void kill_many(struct scene *s, bool rings, bool dispatches, const char *what)
{
	static const int64_t places[] = { -64, -1, 72, 135 };
	uint64_t lived[KILLS];

	for (int i = 0; i < KILLS; i++)
		lived[i] = kill_one(s, places[i % 4], rings, dispatches);
	qsort(lived, KILLS, sizeof(lived[0]), compare_u64);
	print_message("# %s: lived on for %.0f us, at most %.0f us\n", what, lived[KILLS / 2] / 1e3,
		      lived[KILLS - 1] / 1e3);
	assert_true(dispatches || lived[KILLS / 2] <= PERIOD_NS + 1000000);
	/* Nobody else is the worse for it. */
	assert_int_equal(put(&s->c, WORD(mark), 5), 0);
}

static void test_who_scribbles_and_rings_dies_in_its_call(void **unused)
{
	struct scene s;

	/* So long a period that the timer does not find it first. */
	scene_new(&s, (struct rules_options){ .period_ns = 60000000000 });
	kill_many(&s, true, false, "rung");
	scene_free(&s);
}

static void test_who_scribbles_dies_within_a_period(void **unused)
{
	struct scene s;

	scene_new(&s, (struct rules_options){ .period_ns = PERIOD_NS });
	kill_many(&s, false, false, "looked at");
	scene_free(&s);
}

static void test_who_scribbles_is_killed_by_pidfd_if_the_kernel_cannot(void **unused)
{
	struct scene s;

	scene_new(&s, (struct rules_options){ .period_ns = PERIOD_NS, .no_kernel_kill = true });
	kill_many(&s, false, true, "by pidfd");
	scene_free(&s);
}

static void wait_for_event(struct scene *s)
{
	struct pollfd p = { .fd = rules_fd(s->r), .events = POLLIN };

	while (s->nr_events == 0) {
		assert_int_equal(poll(&p, 1, 5000), 1);
		assert_true(rules_dispatch(s->r) >= 0);
	}
	assert_int_equal(poll(&p, 1, 0), 0);
}

static void test_who_is_shut_out_can_write_no_more(void **unused)
{
	struct scene s;

	scene_new(&s, (struct rules_options){ .policy = RULES_REVOKE });
	assert_int_equal(put(&s.c, WORD(allow), 0), 0);
	s.c.pool->before[0] ^= 1ULL << 40;
	s.c.pool->before[7] ^= 1;
	wait_for_event(&s);
	assert_int_equal(s.event.done, RULES_REVOKE);
	assert_int_equal(s.event.offset, -59);
	assert_int_equal(s.event.bytes, 52);
	assert_int_equal(put(&s.c, WORD(allow), 1), -EPIPE);
	/* Also when it mends what it has done. */
	s.c.pool->before[0] ^= 1ULL << 40;
	s.c.pool->before[7] ^= 1;
	assert_int_equal(put(&s.c, WORD(allow), 1), -EPIPE);
	assert_int_equal(look_at(&s.c).allow, 0);
	scene_free(&s);
}

static void test_a_write_is_not_carried_out_when_it_is_only_logged(void **unused)
{
	struct scene s;
	uint64_t was;
	int r;

	/* The timer comes once and then not while this test runs: it is the bell that finds it. */
	scene_new(&s, (struct rules_options){ .policy = RULES_LOG, .period_ns = 60000000000 });
	was = s.c.pool->after[3];
	s.c.pool->after[3] = ~was;
	r = put(&s.c, WORD(mark), 5);
	assert_int_equal(r, -EFAULT);
	wait_for_event(&s);
	assert_int_equal(s.event.done, RULES_LOG);
	assert_int_equal(s.event.offset, 72 + 24);
	assert_int_equal(s.event.bytes, 8);
	assert_true(s.c.pool->after[3] == was);
	assert_int_equal(look_at(&s.c).mark, 0);
	assert_int_equal(put(&s.c, WORD(mark), 5), 0);
	/* Who does so all the time is told of once a period. */
	for (int i = 0; i < 1000; i++) {
		s.c.pool->after[3] = 0;
		assert_int_equal(put(&s.c, WORD(mark), 6), -EFAULT);
	}
	assert_true(rules_dispatch(s.r) >= 0);
	assert_int_equal(s.nr_events, 1);
	assert_int_equal(look_at(&s.c).mark, 5);
	scene_free(&s);
}

static void test_who_has_ended_cannot_join(void **unused)
{
	struct client c;
	struct scene s;
	pid_t child;
	int pidfd;

	scene_new(&s, (struct rules_options){});
	child = fork();
	if (child == 0)
		_exit(0);
	pidfd = (int)syscall(SYS_pidfd_open, child, 0);
	assert_true(pidfd >= 0);
	waitpid(child, NULL, 0);
	assert_int_equal(client_join(&c, s.r, 1000, child, pidfd, 6), -ESRCH);
	assert_int_equal(rules_count(s.r), 2);
	close(pidfd);
	scene_free(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bounds_alignment_and_values_are_checked),
		cmocka_unit_test(test_contexts_of_odd_sizes_are_refused),
		cmocka_unit_test(test_who_has_not_the_token_does_nothing),
		cmocka_unit_test(test_who_left_is_not_heard_again),
		cmocka_unit_test(test_any_context_does_what_a_model_says),
		cmocka_unit_test(test_what_takes_effect_is_what_was_checked),
		cmocka_unit_test(test_bells_at_once_do_not_mix),
		cmocka_unit_test(test_who_scribbles_and_rings_dies_in_its_call),
		cmocka_unit_test(test_who_scribbles_dies_within_a_period),
		cmocka_unit_test(test_who_scribbles_is_killed_by_pidfd_if_the_kernel_cannot),
		cmocka_unit_test(test_who_is_shut_out_can_write_no_more),
		cmocka_unit_test(test_a_write_is_not_carried_out_when_it_is_only_logged),
		cmocka_unit_test(test_who_has_ended_cannot_join),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
