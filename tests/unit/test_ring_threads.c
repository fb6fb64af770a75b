// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_ring_threads.c - both sides in one process and one mapping, so that the thread sanitizer sees both; and what else needs two at a time.
 */
#include <pthread.h>
#include <sys/time.h>

#include "ring_fixture.h"

#define MESSAGES 20000
#define MAX_LEN 700

struct side {
	struct kring *r;
	const struct kring_conf *conf;
	unsigned int how; /* of waiting */
	uint64_t bad;
};

static size_t length_of(uint64_t n)
{
	return n % 7 ? n % 90 : n % MAX_LEN;
}

static void *write_all(void *arg)
{
	struct side *s = arg;
	struct kring *w = s->r;
	unsigned char buf[4][MAX_LEN];
	struct iovec v[4];

	kring_set_wait(w, s->how);
	for (uint64_t n = 0; n < MESSAGES;) {
		int nr = 1;

		for (uint64_t i = 0; i < 4; i++) {
			v[i] = (struct iovec){ buf[i], length_of(n + i) };
			fill_message(buf[i], length_of(n + i), n + i);
		}
		if (n % 3)
			s->bad += kring_send(w, buf[0], v[0].iov_len, -1) < 0;
		else
			nr = kring_send_many(w, v, n + 4 > MESSAGES ? 1 : 4, -1);
		if (nr < 1) {
			s->bad++;
			break;
		}
		n += nr;
	}
	s->bad += kring_flush(w, -1) < 0;
	kring_close(w);
	return NULL;
}

/* A broadcast is only copied from: what is looked at in place there may change, which the sanitizer would see, too. */
static void *read_all(void *arg)
{
	struct side *s = arg;
	struct kring *r = s->r;
	unsigned int writers = s->conf->writers ? s->conf->writers : 1, ended = 0;
	unsigned char buf[MAX_LEN];
	uint64_t next[4] = { 0 };
	struct kring_msg m;

	kring_set_wait(r, s->how);
	while (!ended) {
		uint64_t n = 0;
		uint32_t lane = 0;
		unsigned int left = 0;
		ssize_t len;

		if (s->conf->shape == KRING_BROADCAST) {
			len = kring_recv(r, buf, sizeof(buf), -1);
			n = next[0] + kring_lost(r);
			if (len < 0 && errno == EOVERFLOW)
				continue;
		} else {
			len = kring_peek(r, &m, 1, -1);
			if (len == 1) {
				memcpy(buf, m.data, m.len_bytes);
				n = m.seq;
				lane = m.writer;
				len = m.len_bytes;
				s->bad += n != next[lane] || kring_release(r, 1) < 0;
			}
		}
		if (len < 0) {
			s->bad += errno != EPIPE;
			/* A writer may not have come yet when the first one has left. */
			ended = errno != EPIPE;
			for (unsigned int i = 0; i < writers && !ended; i++)
				left += next[i] + kring_lost(r) < MESSAGES;
			ended = ended || !left;
			continue;
		}
		s->bad += len != (ssize_t)length_of(n) || !check_message(buf, len, n);
		next[lane]++;
	}
	for (unsigned int i = 0; i < writers; i++)
		s->bad += next[i] + kring_lost(r) != MESSAGES;
	kring_close(r);
	return NULL;
}

static int open_again(int fd)
{
	char path[40];

	if (fd < 0)
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_RDWR | O_CLOEXEC);
}

static void run(const struct kring_conf *conf, unsigned int how)
{
	struct ring_fds f = ring_make(conf);
	unsigned int writers = conf->writers ? conf->writers : 1;
	unsigned int readers = conf->readers ? conf->readers : 1;
	struct side side[6];
	pthread_t thread[6];
	struct ring_map *m;

	assert_int_equal(ring_map_fds(&m, f.data, f.ctl, KRING_WRITER), 0);
	for (unsigned int i = 0; i < writers + readers; i++) {
		int fd = open_again(f.data), ctl_fd = open_again(f.ctl);

		side[i] = (struct side){ NULL, conf, how, 0 };
		assert_int_equal(ring_new(&side[i].r, m, fd, ctl_fd,
					  i < readers ? KRING_READER : KRING_WRITER),
				 0);
		close(fd);
		if (ctl_fd >= 0)
			close(ctl_fd);
	}
	ring_map_put(m);
	for (unsigned int i = 0; i < writers + readers; i++)
		assert_int_equal(pthread_create(&thread[i], NULL,
						i < readers ? read_all : write_all, &side[i]),
				 0);
	for (unsigned int i = 0; i < writers + readers; i++) {
		pthread_join(thread[i], NULL);
		assert_int_equal(side[i].bad, 0);
	}
	ring_drop(&f);
}

#define SMALL .slots = 32, .data_bytes = 4096

static void two_threads(void **state)
{
	for (unsigned int how = KRING_ADAPTIVE; how <= KRING_PARK; how++)
		run(&(struct kring_conf){ SMALL }, how);
	run(&(struct kring_conf){ SMALL, .flags = KRING_PROTECTED }, KRING_ADAPTIVE);
}

static void three_writers(void **state)
{
	struct kring_conf conf = { SMALL, .shape = KRING_MANY_TO_ONE, .writers = 3 };

	run(&conf, KRING_PARK);
}

static void three_readers(void **state)
{
	run(&(struct kring_conf){ SMALL, .shape = KRING_BROADCAST, .readers = 3 }, KRING_ADAPTIVE);
	run(&(struct kring_conf){ SMALL, .shape = KRING_BROADCAST, .flags = KRING_BLOCKING,
				  .readers = 3 },
	    KRING_PARK);
}

static unsigned int signals;

static void on_signal(int number)
{
	signals++;
}

static int64_t passed_ms(int64_t since)
{
	return (ring_now() - since) / 1000000;
}

static void signals_do_not_end_a_wait(void **state)
{
	static const struct kring_conf conf = { .slots = 8 };
	const struct itimerval often = { { 0, 2000 }, { 0, 2000 } }, never = { 0 };
	struct sigaction act = { .sa_handler = on_signal };
	struct ring_fds f = ring_make(&conf);
	struct kring *r = ring_end(&f, KRING_READER), *w = ring_end(&f, KRING_WRITER);
	char c = 0;

	sigaction(SIGALRM, &act, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	for (unsigned int how = KRING_ADAPTIVE; how <= KRING_PARK; how++) {
		int64_t start = ring_now();

		kring_set_wait(r, how);
		assert_errno(kring_recv(r, &c, 1, 60), ETIMEDOUT);
		assert_true(passed_ms(start) >= 60);
	}
	setitimer(ITIMER_REAL, &never, NULL);
	assert_true(signals > 3);
	kring_close(r);
	kring_close(w);
	ring_drop(&f);
}

static void flush_waits_until_all_is_released(void **state)
{
	static const struct kring_conf conf = { .slots = 8 };
	struct ring_fds f = ring_make(&conf);
	struct kring *r = ring_end(&f, KRING_READER), *w = ring_end(&f, KRING_WRITER);
	char c = 0;

	assert_int_equal(kring_flush(w, -1), 0);
	assert_int_equal(kring_send(w, &c, 1, 0), 0);
	assert_errno(kring_flush(w, 0), EAGAIN);
	assert_errno(kring_flush(w, 10), ETIMEDOUT);
	assert_errno(kring_flush(r, 0), EINVAL);
	assert_int_equal(kring_recv(r, &c, 1, 0), 1);
	assert_int_equal(kring_flush(w, 0), 0);
	assert_int_equal(kring_send(w, &c, 1, 0), 0);
	kring_close(r);
	assert_errno(kring_flush(w, -1), EPIPE);
	kring_close(w);
	ring_drop(&f);
}

#define LONG_MESSAGES 100
#define LONG_LEN (64 << 10)

/* Around the lengths from which on they are copied otherwise, and with an end that is no whole line. */
static size_t long_length(uint64_t n)
{
	return LONG_LEN - 3 + n % 4 * 1021;
}

static void *read_long(void *arg)
{
	struct side *s = arg;
	unsigned char *buf = malloc(2 * LONG_LEN);

	for (uint64_t n = 0; n < LONG_MESSAGES; n++)
		s->bad += kring_recv(s->r, buf, 2 * LONG_LEN, -1) != (ssize_t)long_length(n) ||
			!check_message(buf, long_length(n), n);
	free(buf);
	return NULL;
}

static void long_messages(void **state)
{
	static const struct kring_conf conf = { .slots = 8, .data_bytes = 1 << 20 };
	struct ring_fds f = ring_make(&conf);
	struct side s = { .r = ring_end(&f, KRING_READER) };
	struct kring *w = ring_end(&f, KRING_WRITER);
	unsigned char *buf = malloc(2 * LONG_LEN);
	pthread_t reader;

	assert_int_equal(pthread_create(&reader, NULL, read_long, &s), 0);
	for (uint64_t n = 0; n < LONG_MESSAGES; n++) {
		/* Wherever it begins in its own line, too. */
		unsigned char *from = buf + n % 64;

		fill_message(from, long_length(n), n);
		assert_int_equal(kring_send(w, from, long_length(n), -1), 0);
	}
	assert_int_equal(pthread_join(reader, NULL), 0);
	assert_int_equal(s.bad, 0);
	free(buf);
	kring_close(w);
	kring_close(s.r);
	ring_drop(&f);
}

static void a_child_gives_its_copy_up(void **state)
{
	static const struct kring_conf conf = { .slots = 8 };
	struct ring_fds f = ring_make(&conf);
	struct kring *r = ring_end(&f, KRING_READER), *w = ring_end(&f, KRING_WRITER);
	char c = 0;
	pid_t pid;
	int status;

	assert_true(kring_fd(r) >= 0);
	pid = fork();
	if (!pid) {
		kring_close(r);
		kring_close(w);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	/* Ours are not closed by that. */
	assert_int_equal(kring_send(w, &c, 1, 0), 0);
	assert_int_equal(kring_recv(r, &c, 1, 0), 1);
	assert_errno(kring_recv(r, &c, 1, 0), EAGAIN);
	assert_null(kring_attach(f.data, -1, KRING_WRITER));
	assert_int_equal(errno, EBUSY);
	kring_close(w);
	kring_close(r);
	ring_drop(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(two_threads),
		cmocka_unit_test(three_writers),
		cmocka_unit_test(three_readers),
		cmocka_unit_test(signals_do_not_end_a_wait),
		cmocka_unit_test(flush_waits_until_all_is_released),
		cmocka_unit_test(long_messages),
		cmocka_unit_test(a_child_gives_its_copy_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
