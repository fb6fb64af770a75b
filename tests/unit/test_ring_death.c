// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_ring_death.c - a process that dies at every instruction of what it does with a ring.
 *
 * It is stepped through with ptrace. What its death at an instruction leaves is the memory as it is then, and no lock: each state that the
 * memory has on the way is copied into a ring of its own. Whoever is left has to find that whole: what was committed before is there, of what
 * was under way either nothing or all, the death is told, and the next process takes the place and goes on.
 */
#include <sys/ptrace.h>
#include <sys/stat.h>

#include "ring_fixture.h"

#define LONG_LEN 900
#define BATCH 3

struct death {
	const char *name;
	struct kring_conf conf;
	unsigned int end; /* of who dies */
	void (*act)(struct ring_fds *f, struct kring *r);
	unsigned int most; /* messages that the act sends or receives, all or none of them */
	bool closes;
};

static const size_t lengths[] = { 40, LONG_LEN, 0, 57, 8 };

static size_t length_of(uint64_t n)
{
	return lengths[n % 5];
}

/* What is sent next is ready before: dying while that is made would show nothing. */
static unsigned char ready[BATCH][LONG_LEN];

static void make_ready(const struct kring *w)
{
	for (unsigned int i = 0; i < BATCH; i++)
		fill_message(ready[i], length_of(w->flow[0].n + i), w->flow[0].n + i);
}

static int send_one(struct kring *w, int timeout_ms)
{
	make_ready(w);
	return kring_send(w, ready[0], length_of(w->flow[0].n), timeout_ms);
}

static void act_send(struct ring_fds *f, struct kring *w)
{
	kring_send(w, ready[0], length_of(w->flow[0].n), 0);
}

static void act_send_in_place(struct ring_fds *f, struct kring *w)
{
	size_t len = length_of(w->flow[0].n);

	memcpy(kring_reserve(w, LONG_LEN, 0), ready[0], len);
	kring_commit(w, len, 0);
}

static void act_send_many(struct ring_fds *f, struct kring *w)
{
	struct iovec v[BATCH];

	for (unsigned int i = 0; i < BATCH; i++)
		v[i] = (struct iovec){ ready[i], length_of(w->flow[0].n + i) };
	kring_send_many(w, v, BATCH, 0);
}

static void act_receive(struct ring_fds *f, struct kring *r)
{
	unsigned char buf[LONG_LEN];

	kring_recv(r, buf, sizeof(buf), 0);
}

static void act_release(struct ring_fds *f, struct kring *r)
{
	struct kring_msg m[2];

	kring_release(r, kring_peek(r, m, 2, 0));
}

static void act_close(struct ring_fds *f, struct kring *r)
{
	kring_close(r);
}

static void act_write_anew(struct ring_fds *f, struct kring *w)
{
	kring_close(w);
	w = kring_attach(f->data, f->ctl, KRING_WRITER);
	act_send(f, w);
}

static void act_read_anew(struct ring_fds *f, struct kring *r)
{
	kring_close(r);
	kring_attach(f->data, f->ctl, KRING_READER);
}

/* Messages that went through before, so that the act meets the ends of slots and data. */
static void warm_up(struct ring_fds *f, unsigned int nr)
{
	struct kring *w = ring_end(f, KRING_WRITER), *r = ring_end(f, KRING_READER);
	unsigned char buf[LONG_LEN];

	for (unsigned int i = 0; i < nr; i++) {
		assert_int_equal(send_one(w, 0), 0);
		assert_int_equal(kring_recv(r, buf, sizeof(buf), 0), length_of(i));
	}
	kring_close(w);
	kring_close(r);
}

/* Return: a process that has stopped right before the act. */
static pid_t start(const struct death *d, struct ring_fds *f)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		struct kring *r = kring_attach(f->data, f->ctl, d->end);

		if (!r || ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
			_exit(2);
		if (d->end == KRING_WRITER)
			make_ready(r);
		raise(SIGSTOP);
		d->act(f, r);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
	return pid;
}

/* One instruction. Return: false, it has got through. */
static bool step(pid_t pid)
{
	int status;

	assert_int_equal(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status)) {
		assert_int_equal(WEXITSTATUS(status), 0);
		return false;
	}
	if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP)
		fail_msg("status %x", status);
	return true;
}

/* Memory of a ring, and how it was when last looked at. */
struct memory {
	int fd;
	size_t size;
	unsigned char *now;
	unsigned char *then;
};

static struct memory watch(int fd)
{
	struct memory m = { .fd = fd };
	struct stat st;

	if (fd < 0)
		return m;
	assert_int_equal(fstat(fd, &st), 0);
	m.size = st.st_size;
	m.now = mmap(NULL, m.size, PROT_READ, MAP_SHARED, fd, 0);
	assert_true(m.now != MAP_FAILED);
	m.then = malloc(m.size);
	assert_non_null(m.then);
	memcpy(m.then, m.now, m.size);
	return m;
}

static bool has_changed(struct memory *m)
{
	if (m->fd < 0 || memcmp(m->then, m->now, m->size) == 0)
		return false;
	memcpy(m->then, m->now, m->size);
	return true;
}

static int copy_of(const struct memory *m)
{
	int fd = m->fd < 0 ? -1 : new_memfd();

	if (fd < 0)
		return -1;
	assert_int_equal(write(fd, m->then, m->size), m->size);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
	return fd;
}

static void unwatch(struct memory *m)
{
	if (m->fd < 0)
		return;
	munmap(m->now, m->size);
	free(m->then);
}

/* Receive what is there: numbers from @n on, whole. Return: the number after the last. */
static uint64_t drain(struct kring *r, uint64_t n)
{
	unsigned char buf[LONG_LEN];
	struct kring_msg m;

	while (kring_peek(r, &m, 1, 0) == 1) {
		assert_int_equal(m.seq, n);
		assert_int_equal(m.len_bytes, length_of(n));
		assert_true(check_message(m.data, m.len_bytes, n));
		assert_int_equal(kring_recv(r, buf, sizeof(buf), 0), length_of(n));
		n++;
	}
	return n;
}

static void after_writer(const struct death *d, struct ring_fds *f, uint64_t warm, bool through)
{
	unsigned int how = d->conf.shape == KRING_BROADCAST ? KRING_READER | KRING_HISTORY
							    : KRING_READER;
	struct kring *r = ring_end(f, how), *w;
	struct kring_msg m;
	uint64_t from = warm, n;

	if (d->conf.shape == KRING_BROADCAST) {
		assert_int_equal(kring_peek(r, &m, 1, 0), 1);
		assert_true(m.seq <= warm);
		from = m.seq;
	}
	n = drain(r, from);
	/* Said of who died, of who closed; a new place's holder died before it had it. */
	assert_true(errno == EOWNERDEAD || ((d->closes || through) && errno == EPIPE));
	assert_true(n == warm || n == warm + d->most);
	if (through)
		assert_int_equal(n, warm + d->most);
	w = ring_end(f, KRING_WRITER);
	for (unsigned int i = 0; i < 40; i++) {
		assert_int_equal(send_one(w, 0), 0);
		assert_int_equal(drain(r, n), n + 1);
		assert_int_equal(errno, EAGAIN);
		n++;
	}
	kring_close(w);
	kring_close(r);
}

static void after_reader(const struct death *d, struct ring_fds *f, uint64_t warm, bool through)
{
	struct kring *w = ring_end(f, KRING_WRITER), *r;
	struct kring_msg m;
	uint64_t sent = warm + BATCH;

	/* The writer fills the ring, if nobody reads, and is told. */
	if (d->conf.shape != KRING_BROADCAST) {
		while (send_one(w, 0) == 0)
			sent++;
		assert_true(errno == EOWNERDEAD || ((d->closes || through) && errno == EPIPE));
	} else if (d->conf.flags & KRING_BLOCKING) {
		/* It does not wait for the dead one: at the second look, which drops him. */
		for (unsigned int i = 0; i < 40; i++, sent++)
			assert_int_equal(send_one(w, 2000), 0);
	}
	r = ring_end(
		f, d->conf.shape == KRING_BROADCAST ? KRING_READER | KRING_HISTORY : KRING_READER);
	assert_int_equal(kring_peek(r, &m, 1, 0), 1);
	if (d->conf.shape != KRING_BROADCAST)
		assert_true(m.seq == warm || m.seq == warm + d->most);
	assert_int_equal(drain(r, m.seq), sent);
	for (unsigned int i = 0; i < 40; i++) {
		assert_int_equal(send_one(w, 0), 0);
		assert_int_equal(drain(r, sent), sent + 1);
		sent++;
	}
	kring_close(w);
	kring_close(r);
}

static void send_batch(struct ring_fds *f)
{
	struct kring *w = ring_end(f, KRING_WRITER);

	for (unsigned int i = 0; i < BATCH; i++)
		assert_int_equal(send_one(w, 0), 0);
	kring_close(w);
}

static void die_on_the_way(const struct death *d, unsigned int warm)
{
	struct ring_fds f = ring_make(&d->conf);
	struct memory data = watch(f.data), ctl = watch(f.ctl);
	bool reader = d->end == KRING_READER, broadcast = d->conf.shape == KRING_BROADCAST;
	unsigned int steps = 0, states = 0;
	bool alive = true;
	pid_t pid;

	warm_up(&f, warm);
	if (reader && !broadcast)
		send_batch(&f);
	pid = start(d, &f);
	if (reader && broadcast)
		send_batch(&f);
	for (; alive; steps++) {
		struct ring_fds left;

		alive = step(pid);
		/* Both are to be looked at. */
		if (!(has_changed(&data) | has_changed(&ctl)) && alive)
			continue;
		states++;
		left = (struct ring_fds){ copy_of(&data), copy_of(&ctl) };
		if (reader)
			after_reader(d, &left, warm, !alive);
		else
			after_writer(d, &left, warm, !alive);
		ring_drop(&left);
	}
	assert_true(states > 2);
	print_message("%s: %u instructions, %u states\n", d->name, steps, states);
	unwatch(&data);
	unwatch(&ctl);
	ring_drop(&f);
}

static void die_everywhere(const struct death *d)
{
	/* Its slots end after message 8, its data in between. */
	for (unsigned int warm = 6; warm < 9; warm++)
		die_on_the_way(d, warm);
}

#define SMALL .slots = 8, .slot_bytes = 64, .data_bytes = 4096

static void writers_die(void **state)
{
	static const struct death deaths[] = {
		{ "send", { SMALL }, KRING_WRITER, act_send, 1 },
		{ "send in place", { SMALL }, KRING_WRITER, act_send_in_place, 1 },
		{ "send many", { SMALL }, KRING_WRITER, act_send_many, BATCH },
		{ "protected", { SMALL, .flags = KRING_PROTECTED }, KRING_WRITER, act_send, 1 },
		{ "many to one",
		  { SMALL, .shape = KRING_MANY_TO_ONE, .writers = 2 },
		  KRING_WRITER,
		  act_send_many,
		  BATCH },
		{ "broadcast", { SMALL, .shape = KRING_BROADCAST }, KRING_WRITER, act_send, 1 },
		{ "broadcast many",
		  { SMALL, .shape = KRING_BROADCAST },
		  KRING_WRITER,
		  act_send_many,
		  BATCH },
	};

	for (unsigned int i = 0; i < sizeof(deaths) / sizeof(*deaths); i++)
		die_everywhere(&deaths[i]);
}

static void readers_die(void **state)
{
	static const struct death deaths[] = {
		{ "receive", { SMALL }, KRING_READER, act_receive, 1 },
		{ "release", { SMALL, .flags = KRING_PROTECTED }, KRING_READER, act_release, 2 },
		{ "broadcast receive",
		  { SMALL, .shape = KRING_BROADCAST },
		  KRING_READER,
		  act_receive,
		  1 },
		{ "blocking receive",
		  { SMALL, .shape = KRING_BROADCAST, .flags = KRING_BLOCKING },
		  KRING_READER,
		  act_receive,
		  1 },
	};

	for (unsigned int i = 0; i < sizeof(deaths) / sizeof(*deaths); i++)
		die_everywhere(&deaths[i]);
}

static void who_comes_or_goes_dies(void **state)
{
	static const struct death deaths[] = {
		{ "close", { SMALL }, KRING_WRITER, act_close, 0, true },
		{ "writer anew", { SMALL }, KRING_WRITER, act_write_anew, 1, true },
		{ "reader's close", { SMALL }, KRING_READER, act_close, 0, true },
		{ "reader anew", { SMALL }, KRING_READER, act_read_anew, 0, true },
		{ "broadcast reader anew",
		  { SMALL, .shape = KRING_BROADCAST, .flags = KRING_BLOCKING },
		  KRING_READER,
		  act_read_anew,
		  0,
		  true },
	};

	for (unsigned int i = 0; i < sizeof(deaths) / sizeof(*deaths); i++)
		die_everywhere(&deaths[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(writers_die),
		cmocka_unit_test(readers_die),
		cmocka_unit_test(who_comes_or_goes_dies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
