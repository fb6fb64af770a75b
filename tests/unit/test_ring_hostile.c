// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_ring_hostile.c - a peer that scribbles over everything it can write while the other side runs.
 *
 * Each end has to come back from each call in time, touch nothing outside its mappings, which lie between guard pages here, and go on or say
 * EBADMSG. Half of the scribbles are random words anywhere, half are nearly right ones where they hurt: heads, lengths, places, states.
 * RING_HOSTILE_ROUNDS makes it long.
 */
#include <pthread.h>

#include "ring_fixture.h"

#define PAGE 4096
#define ALARM_S 20 /* for one round, which takes some milliseconds */

void *__real_mmap64(void *at, size_t len, int prot, int flags, int fd, off_t off);
int __real_munmap(void *at, size_t len);
void *__wrap_mmap64(void *at, size_t len, int prot, int flags, int fd, off_t off);
int __wrap_munmap(void *at, size_t len);

void *__wrap_mmap64(void *at, size_t len, int prot, int flags, int fd, off_t off)
{
	unsigned char *room;

	if (fd < 0 || at)
		return __real_mmap64(at, len, prot, flags, fd, off);
	len = (len + PAGE - 1) & ~(size_t)(PAGE - 1);
	room = __real_mmap64(NULL, len + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (room == MAP_FAILED)
		return MAP_FAILED;
	at = __real_mmap64(room + PAGE, len, prot, flags | MAP_FIXED, fd, off);
	if (at == MAP_FAILED)
		__real_munmap(room, len + 2 * PAGE);
	return at;
}

int __wrap_munmap(void *at, size_t len)
{
	len = (len + PAGE - 1) & ~(size_t)(PAGE - 1);
	return __real_munmap((unsigned char *)at - PAGE, len + 2 * PAGE);
}

struct round {
	const struct kring_conf *conf;
	struct ring_fds fds;
	struct ring_layout layout;
	struct ring_head head;
	unsigned int end; /* of the honest side */
	unsigned int seed;
	uint32_t stop;
};

/* What a peer of the honest side can write. */
static void *scribble(void *arg)
{
	struct round *t = arg;
	unsigned int seed = t->seed * 7 + 1;
	bool two = t->fds.ctl >= 0;
	size_t data_size = t->layout.data_size, ctl_size = two ? t->layout.ctl_size : data_size;
	uint64_t *data =
		__real_mmap64(NULL, data_size, PROT_READ | PROT_WRITE, MAP_SHARED, t->fds.data, 0);
	uint64_t *ctl = two
		? __real_mmap64(NULL, ctl_size, PROT_READ | PROT_WRITE, MAP_SHARED, t->fds.ctl, 0)
		: data;
	uint64_t slots = t->layout.slots_off / 8, lanes = t->layout.lanes_off / 8;
	uint64_t cursors = (t->layout.ctl_off + t->layout.cursors_off) / 8;

	while (!__atomic_load_n(&t->stop, __ATOMIC_RELAXED)) {
		uint64_t value = (uint64_t)rand_r(&seed) << 33 ^ (uint64_t)rand_r(&seed) << 10 ^
			rand_r(&seed);
		uint64_t n = rand_r(&seed) % 64;
		uint64_t *at;

		switch (rand_r(&seed) % 12) {
		case 0:
			at = &data[(value >> 7) % (data_size / 8)];
			break;
		case 1:
			at = &ctl[(value >> 7) % (ctl_size / 8)];
			break;
		case 2:
		case 3: /* a word 0 that is nearly right */
			at = &data[slots + (n % t->head.slots) * t->head.slot_bytes / 8];
			value = (n + 1 + value % 3) << 16 |
				(value >> 9 & 1 ? value >> 40 & 0xffff : 0x8000);
			break;
		case 4: /* a place, a length */
		case 5:
			at = &data[slots + (n % t->head.slots) * t->head.slot_bytes / 8 + 1 +
				   (value & 1)];
			value = value >> 60 ? value >> (value & 63) : t->head.data_bytes - n;
			break;
		case 6: /* tail, low, life */
			at = &data[lanes + (value >> 9) % 24];
			value = value >> 60 ? n : value;
			break;
		default: /* head, life; wait, fence, need */
			at = &ctl[cursors - 8 + (value >> 9) % 48];
			value = value >> 61 ? n : value;
			break;
		}
		/* The honest side's writes of what it can write are the same memory: only a reader is kept from data. */
		__atomic_store_n(at, value, __ATOMIC_RELAXED);
		if (rand_r(&seed) % 64 == 0)
			sched_yield();
	}
	__real_munmap(data, data_size);
	if (two)
		__real_munmap(ctl, ctl_size);
	return NULL;
}

static void be_writer(struct kring *w, unsigned int *seed)
{
	static unsigned char buf[4096];
	struct iovec v[8];
	void *to;

	switch (rand_r(seed) % 4) {
	case 0:
		kring_send(w, buf, rand_r(seed) % 2048, rand_r(seed) % 2);
		break;
	case 1:
		to = kring_reserve(w, rand_r(seed) % 2048, rand_r(seed) % 2);
		if (to) {
			memset(to, 1, w->reserved_max);
			kring_commit(w, w->reserved_max, 0);
		}
		break;
	case 2:
		for (int i = 0; i < 8; i++)
			v[i] = (struct iovec){ buf, rand_r(seed) % 300 };
		kring_send_many(w, v, 8, 0);
		break;
	default:
		kring_flush(w, rand_r(seed) % 2);
		break;
	}
}

static void be_reader(struct kring *r, unsigned int *seed)
{
	static unsigned char buf[4096];
	struct kring_msg m[8];
	unsigned int sum = 0;
	int nr;

	if (rand_r(seed) % 2) {
		kring_recv(r, buf, sizeof(buf), rand_r(seed) % 2);
		return;
	}
	nr = kring_peek(r, m, 1 + rand_r(seed) % 8, rand_r(seed) % 2);
	for (int i = 0; i < nr; i++)
		for (size_t k = 0; k < m[i].len_bytes; k++)
			sum += ((const volatile unsigned char *)m[i].data)[k];
	if (nr > 0)
		kring_release(r, 1 + sum % nr);
}

static void play(struct round *t)
{
	unsigned int seed = t->seed;
	struct kring_peer peers[4];
	struct kring_stat stat;
	pthread_t peer;
	unsigned int done = 0;

	signal(SIGSEGV, SIG_DFL);
	signal(SIGBUS, SIG_DFL);
	alarm(ALARM_S);
	t->fds = ring_make(t->conf);
	assert_int_equal(pread(t->fds.data, &t->head, sizeof(t->head), 0), sizeof(t->head));
	t->layout = ring_layout_of(&t->head);
	assert_int_equal(pthread_create(&peer, NULL, scribble, t), 0);
	for (unsigned int again = 0; again < 20; again++) {
		struct kring *r = kring_attach(t->fds.data, t->fds.ctl, t->end);

		/* The head of the object may be gone. */
		for (unsigned int i = 0; r && i < 60; i++, done++) {
			if (t->end == KRING_WRITER)
				be_writer(r, &seed);
			else
				be_reader(r, &seed);
			if (i % 16 == 0) {
				kring_get_stat(r, &stat);
				kring_get_peers(r, peers, 4);
			}
		}
		kring_close(r);
	}
	__atomic_store_n(&t->stop, 1, __ATOMIC_RELAXED);
	pthread_join(peer, NULL);
	ring_drop(&t->fds);
	alarm(0);
}

static unsigned int rounds(void)
{
	const char *text = getenv("RING_HOSTILE_ROUNDS");

	return text ? strtoul(text, NULL, 10) : 6;
}

static void be_scribbled_at(unsigned int end)
{
	static const struct kring_conf confs[] = {
		{ .slots = 8, .slot_bytes = 64, .data_bytes = 4096 },
		{ .slots = 8, .data_bytes = 4096, .flags = KRING_PROTECTED },
		{ .shape = KRING_MANY_TO_ONE, .slots = 4, .data_bytes = 4096, .writers = 3 },
		{ .shape = KRING_BROADCAST, .slots = 8, .data_bytes = 4096, .readers = 2 },
		{ .shape = KRING_BROADCAST,
		  .flags = KRING_BLOCKING | KRING_PROTECTED,
		  .slots = 8,
		  .data_bytes = 4096,
		  .readers = 2 },
	};

	for (unsigned int i = 0; i < rounds() * 5; i++) {
		pid_t pid = fork();
		int status;

		if (!pid) {
			play(&(struct round){ .conf = &confs[i % 5], .end = end, .seed = i + 1 });
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (status)
			fail_msg("round %u: %s %d", i, WIFSIGNALED(status) ? "signal" : "status",
				 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	}
}

static void writers_are_scribbled_at(void **state)
{
	be_scribbled_at(KRING_WRITER);
}

static void readers_are_scribbled_at(void **state)
{
	be_scribbled_at(KRING_READER);
}

static void readers_with_history_are_scribbled_at(void **state)
{
	be_scribbled_at(KRING_READER | KRING_HISTORY);
}

/* The guards are there, and what is outside is noticed. */
static void guards_hold(void **state)
{
	struct ring_fds f = ring_make(&(struct kring_conf){ .slots = 8 });
	pid_t pid = fork();
	int status;

	if (!pid) {
		struct kring *r = ring_end(&f, KRING_READER);

		signal(SIGSEGV, SIG_DFL);
		r->map->data[r->map->layout.data_size] = 1;
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	ring_drop(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(guards_hold),
		cmocka_unit_test(writers_are_scribbled_at),
		cmocka_unit_test(readers_are_scribbled_at),
		cmocka_unit_test(readers_with_history_are_scribbled_at),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
