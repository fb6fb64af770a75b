// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_ring_stress.c - four processes on one ring, killed at random; every message is checked in order and content.
 *
 * A message's length and bytes follow from its lane and number, so whoever reads it knows what it has to be, whichever writer it is of. A reader
 * notes how far it has checked before it releases: the next one may see messages again, and may miss none. RING_STRESS_MESSAGES=100000000 in the
 * environment makes it long.
 */
#include <poll.h>
#include <time.h>

#include "ring_fixture.h"

#define WORKERS 4
#define MAX_LANES 3
#define MAX_LEN 1500
#define STUCK_S 20

enum { WRITES, READS };

struct shared {
	uint64_t checked[WORKERS]; /* how far this place's reader has checked; of lanes in many-to-one */
	uint64_t received;
	uint64_t overruns;
	uint32_t bad;
	char what[200];
};

struct run {
	const struct kring_conf *conf;
	struct ring_fds fds;
	struct shared *s;
};

static uint64_t mix(uint64_t x)
{
	x ^= x >> 31;
	x *= 0x9e3779b97f4a7c15ULL;
	return x ^ x >> 29;
}

static size_t length_of(uint64_t lane, uint64_t n)
{
	uint64_t x = mix(n * 4 + lane);

	return x % 16 ? (x >> 8) % 80 : (x >> 8) % MAX_LEN;
}

static void fill(unsigned char *to, size_t len, uint64_t lane, uint64_t n)
{
	uint64_t x = mix(n * 4 + lane + 1000);

	for (; len >= 8; len -= 8, to += 8, x += 0x9e3779b97f4a7c15ULL)
		memcpy(to, &x, 8);
	memcpy(to, &x, len);
}

static bool is_right(const unsigned char *from, size_t len, uint64_t lane, uint64_t n)
{
	uint64_t x = mix(n * 4 + lane + 1000);

	if (len != length_of(lane, n))
		return false;
	for (; len >= 8; len -= 8, from += 8, x += 0x9e3779b97f4a7c15ULL)
		if (memcmp(from, &x, 8))
			return false;
	return memcmp(from, &x, len) == 0;
}

static void complain(struct run *t, const char *format, ...)
{
	va_list args;

	if (!__atomic_exchange_n(&t->s->bad, 1, __ATOMIC_SEQ_CST)) {
		va_start(args, format);
		vsnprintf(t->s->what, sizeof(t->s->what), format, args);
		va_end(args);
	}
	_exit(1);
}

/* What may come of any call, and says nothing against the ring. */
static bool is_end(int error)
{
	return error == EPIPE || error == EOWNERDEAD || error == ETIMEDOUT;
}

static void write_messages(struct run *t, struct kring *w, unsigned int seed)
{
	static unsigned char buf[40][MAX_LEN];
	struct iovec v[40];
	uint64_t lane = w->place;

	for (;;) {
		uint64_t n = w->flow[0].n;
		size_t len = length_of(lane, n);
		unsigned int how = rand_r(&seed) % 4;
		int result = 0;
		void *to;

		if (how < 2) {
			fill(buf[0], len, lane, n);
			result = kring_send(w, buf[0], len, 1000);
		} else if (how == 2) {
			to = kring_reserve(w, len + rand_r(&seed) % 100, 1000);
			if (to) {
				fill(to, len, lane, n);
				kring_commit(w, len, rand_r(&seed) % 2 ? KRING_MORE : 0);
			}
			result = to ? 0 : -1;
		} else {
			unsigned int nr = 1 + rand_r(&seed) % 40;

			for (unsigned int i = 0; i < nr; i++) {
				v[i] = (struct iovec){ buf[i], length_of(lane, n + i) };
				fill(buf[i], v[i].iov_len, lane, n + i);
			}
			result = kring_send_many(w, v, nr, 1000);
		}
		if (result < 0 && !is_end(errno))
			complain(t, "writer %u, message %lu: %s", w->place, n, strerror(errno));
		if (rand_r(&seed) % 50000 == 0)
			return;
	}
}

static void read_messages(struct run *t, struct kring *r, unsigned int seed)
{
	bool broadcast = t->conf->shape == KRING_BROADCAST;
	bool first = broadcast;
	uint64_t next[MAX_LANES], lost = 0;
	static unsigned char buf[MAX_LEN];
	struct kring_msg m[16];

	for (int i = 0; i < MAX_LANES; i++)
		next[i] = UINT64_MAX;
	for (;;) {
		unsigned int max = rand_r(&seed) % 4 ? 1 : 1 + rand_r(&seed) % 16;
		bool copied = rand_r(&seed) % 2;
		bool right = true;
		int nr;

		if (copied) {
			/* It is released when it has been received: what it is, and that it is right, is noted before. */
			nr = kring_peek(r, m, 1, 1000);
			if (nr == 1) {
				ssize_t len;

				if (!broadcast &&
				    is_right(m[0].data, m[0].len_bytes, m[0].writer, m[0].seq) &&
				    m[0].seq == t->s->checked[m[0].writer])
					__atomic_store_n(&t->s->checked[m[0].writer], m[0].seq + 1,
							 __ATOMIC_SEQ_CST);
				len = kring_recv(r, buf, sizeof(buf), 1000);

				if (len < 0 && errno == EOVERFLOW && broadcast)
					nr = -1;
				else if (len < 0)
					complain(t, "reader: message %lu was there, then: %s",
						 m[0].seq, strerror(errno));
				else
					m[0] = (struct kring_msg){ buf, len,
								   r->flow[r->current].n - 1,
								   r->current, 0 };
			}
		} else {
			nr = kring_peek(r, m, max, 1000);
		}
		if (nr < 0) {
			if (errno == EOVERFLOW && broadcast && !(t->conf->flags & KRING_BLOCKING)) {
				uint64_t delta = kring_lost(r) - lost;

				if (!first && !delta)
					complain(t, "reader %d: lost nothing, it says", r->place);
				lost += delta;
				next[0] += delta;
				__atomic_fetch_add(&t->s->overruns, 1, __ATOMIC_RELAXED);
			} else if (!is_end(errno)) {
				complain(t, "reader %d: %s", r->place, strerror(errno));
			}
			continue;
		}
		for (int i = 0; i < nr; i++) {
			uint64_t lane = m[i].writer,
				 *done = &t->s->checked[broadcast ? (unsigned int)r->place : lane];

			if (first) {
				next[0] = m[i].seq;
				lost = kring_lost(r);
				first = false;
			} else if (next[lane] == UINT64_MAX) {
				/* What the last one had checked may come again. */
				if (m[i].seq > *done)
					complain(t, "lane %lu: %lu after %lu: lost", lane, m[i].seq,
						 *done);
				next[lane] = m[i].seq;
			}
			if (m[i].seq != next[lane])
				complain(t, "lane %lu: %lu instead of %lu", lane, m[i].seq,
					 next[lane]);
			next[lane]++;
			right = right && is_right(m[i].data, m[i].len_bytes, lane, m[i].seq);
			if (!right && !broadcast)
				complain(t, "lane %lu, message %lu: torn", lane, m[i].seq);
		}
		if (!broadcast)
			__atomic_store_n(&t->s->checked[m[0].writer], next[m[0].writer],
					 __ATOMIC_SEQ_CST);
		if (!copied && kring_release(r, nr) < 0) {
			uint64_t delta = kring_lost(r) - lost;

			if (errno != EOVERFLOW || !broadcast || (t->conf->flags & KRING_BLOCKING))
				complain(t, "reader %d: release: %s", r->place, strerror(errno));
			/* Some of these are among the lost ones. */
			next[0] += delta - nr;
			lost += delta;
			__atomic_fetch_add(&t->s->overruns, 1, __ATOMIC_RELAXED);
			continue;
		}
		if (!right)
			complain(t, "reader %d, message %lu: torn", r->place, m[0].seq);
		__atomic_fetch_add(&t->s->received, nr, __ATOMIC_SEQ_CST);
		if (rand_r(&seed) % 50000 == 0)
			return;
	}
}

static pid_t start(struct run *t, int role, unsigned int seed)
{
	pid_t pid = fork();
	struct kring *r;

	if (pid)
		return pid;
	r = kring_attach(t->fds.data, t->fds.ctl, role == WRITES ? KRING_WRITER : KRING_READER);
	if (!r)
		complain(t, "attach: %s", strerror(errno));
	kring_set_wait(r, seed % 3 ? KRING_ADAPTIVE : KRING_PARK);
	if (role == WRITES)
		write_messages(t, r, seed);
	else
		read_messages(t, r, seed);
	kring_close(r);
	_exit(0);
}

static uint64_t target(void)
{
	const char *text = getenv("RING_STRESS_MESSAGES");

	return text ? strtoull(text, NULL, 10) : 300000;
}

/* @writers of WORKERS processes write, the others read. */
static void stress(const struct kring_conf *conf, int writers)
{
	struct run t = { .conf = conf, .fds = ring_make(conf) };
	int readers = conf->shape == KRING_BROADCAST ? WORKERS - writers : 1;
	int nr = writers + readers, kills = 0;
	pid_t pid[WORKERS];
	unsigned int seed = 1;
	uint64_t last = 0, want = target();
	time_t moved = time(NULL);

	t.s = mmap(NULL, sizeof(*t.s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(t.s != MAP_FAILED);
	for (int i = 0; i < nr; i++)
		pid[i] = start(&t, i < writers ? WRITES : READS, ++seed);
	while (!t.s->bad && last < want) {
		int victim = rand_r(&seed) % nr, status;
		uint64_t now;

		nanosleep(&(struct timespec){ .tv_nsec = rand_r(&seed) % 8000000 }, NULL);
		kill(pid[victim], SIGKILL);
		assert_int_equal(waitpid(pid[victim], &status, 0), pid[victim]);
		if (WIFEXITED(status) && WEXITSTATUS(status))
			break;
		if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL)
			fail_msg("worker %d: signal %d", victim, WTERMSIG(status));
		kills++;
		pid[victim] = start(&t, victim < writers ? WRITES : READS, ++seed);
		now = __atomic_load_n(&t.s->received, __ATOMIC_SEQ_CST);
		if (now != last) {
			last = now;
			moved = time(NULL);
		} else if (time(NULL) - moved > STUCK_S) {
			snprintf(t.s->what, sizeof(t.s->what), "stuck after %lu messages", last);
			t.s->bad = 1;
		}
	}
	for (int i = 0; i < nr; i++) {
		kill(pid[i], SIGKILL);
		waitpid(pid[i], NULL, 0);
	}
	if (t.s->bad)
		fail_msg("%s", t.s->what);
	print_message("%lu messages, %d kills, %lu overruns\n", last, kills, t.s->overruns);
	assert_true(last >= want && kills > 0);
	munmap(t.s, sizeof(*t.s));
	ring_drop(&t.fds);
}

#define SMALL .slots = 64, .slot_bytes = 64, .data_bytes = 16384

static void one_to_one(void **state)
{
	stress(&(struct kring_conf){ SMALL }, 1);
	stress(&(struct kring_conf){ .flags = KRING_PROTECTED, .slots = 16, .data_bytes = 4096 },
	       1);
}

static void many_to_one(void **state)
{
	stress(&(struct kring_conf){ SMALL, .shape = KRING_MANY_TO_ONE, .writers = 3 }, 3);
	stress(&(struct kring_conf){ SMALL, .shape = KRING_MANY_TO_ONE, .flags = KRING_PROTECTED,
				     .writers = 3 },
	       3);
}

static void broadcast(void **state)
{
	stress(&(struct kring_conf){ SMALL, .shape = KRING_BROADCAST, .readers = 3 }, 1);
	stress(&(struct kring_conf){ SMALL, .shape = KRING_BROADCAST, .flags = KRING_PROTECTED,
				     .readers = 3 },
	       1);
}

static void broadcast_that_waits(void **state)
{
	stress(&(struct kring_conf){ SMALL, .shape = KRING_BROADCAST, .flags = KRING_BLOCKING,
				     .readers = 3 },
	       1);
	stress(&(struct kring_conf){ SMALL, .shape = KRING_BROADCAST,
				     .flags = KRING_BLOCKING | KRING_PROTECTED, .readers = 3 },
	       1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_to_one),
		cmocka_unit_test(many_to_one),
		cmocka_unit_test(broadcast),
		cmocka_unit_test(broadcast_that_waits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
