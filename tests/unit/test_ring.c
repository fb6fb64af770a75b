// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_ring.c - rings: what their calls promise, one process at a time.
 */
#include <poll.h>
#include <sys/epoll.h>

#include "ring_fixture.h"

static const struct kring_conf small = { .slots = 8, .slot_bytes = 64, .data_bytes = 4096 };

static void sizes_from_none_to_the_longest(void **state)
{
	struct ring_fds f = ring_make(&small);
	struct kring *w = ring_end(&f, KRING_WRITER), *r = ring_end(&f, KRING_READER);
	unsigned char out[2048], in[2048];

	assert_int_equal(kring_max(w), 2048);
	for (unsigned int round = 0; round < 5; round++)
		for (size_t len = 0; len <= 2048; len += len < 200 ? 1 : 61) {
			fill_message(out, len, round);
			assert_int_equal(kring_send(w, out, len, 0), 0);
			assert_int_equal(kring_recv(r, in, sizeof(in), 0), len);
			assert_memory_equal(in, out, len);
		}
	assert_errno(kring_send(w, out, 2049, 0), EMSGSIZE);
	assert_errno(kring_recv(r, in, sizeof(in), 0), EAGAIN);
	kring_close(w);
	kring_close(r);
	ring_drop(&f);
}

static void order_holds_over_many_rounds(void **state)
{
	struct ring_fds f = ring_make(&small);
	struct kring *w = ring_end(&f, KRING_WRITER), *r = ring_end(&f, KRING_READER);
	unsigned char out[2048], in[2048];
	uint64_t sent = 0, received = 0;
	unsigned int seed = 1;

	while (received < 20000) {
		size_t len = rand_r(&seed) % (rand_r(&seed) % 4 ? 60 : 2049);

		fill_message(out, len, sent);
		if (rand_r(&seed) % 3 && kring_send(w, out, len, 0) == 0)
			sent++;
		while (rand_r(&seed) % 2) {
			ssize_t got = kring_recv(r, in, sizeof(in), 0);

			if (got < 0) {
				assert_int_equal(errno, EAGAIN);
				break;
			}
			assert_true(check_message(in, got, received));
			received++;
		}
		assert_true(sent - received <= 8);
	}
	kring_close(w);
	kring_close(r);
	ring_drop(&f);
}

static void full_and_empty(void **state)
{
	struct ring_fds f = ring_make(&small);
	struct kring *w = ring_end(&f, KRING_WRITER), *r = ring_end(&f, KRING_READER);
	char buf[2048] = "";

	for (int i = 0; i < 8; i++)
		assert_int_equal(kring_send(w, buf, 8, 0), 0);
	assert_errno(kring_send(w, buf, 8, 0), EAGAIN);
	for (unsigned int how = KRING_ADAPTIVE; how <= KRING_PARK; how++) {
		assert_int_equal(kring_set_wait(w, how), 0);
		assert_errno(kring_send(w, buf, 8, 20), ETIMEDOUT);
	}
	for (int i = 0; i < 8; i++)
		assert_int_equal(kring_recv(r, buf, sizeof(buf), 0), 8);
	for (unsigned int how = KRING_ADAPTIVE; how <= KRING_PARK; how++) {
		assert_int_equal(kring_set_wait(r, how), 0);
		assert_errno(kring_recv(r, buf, sizeof(buf), 20), ETIMEDOUT);
	}
	/* The data area is full before the slots are. */
	assert_int_equal(kring_send(w, buf, 2048, 0), 0);
	assert_int_equal(kring_send(w, buf, 2048, 0), 0);
	assert_errno(kring_send(w, buf, 57, 0), EAGAIN);
	assert_int_equal(kring_send(w, buf, 56, 0), 0);
	assert_int_equal(kring_recv(r, buf, sizeof(buf), 0), 2048);
	assert_int_equal(kring_send(w, buf, 57, 0), 0);
	kring_close(w);
	kring_close(r);
	ring_drop(&f);
}

static void in_place(void **state)
{
	struct ring_fds f = ring_make(&small);
	struct kring *w = ring_end(&f, KRING_WRITER), *r = ring_end(&f, KRING_READER);
	struct kring_msg m[8];
	char *p;

	p = kring_reserve(w, 1000, 0);
	assert_non_null(p);
	assert_int_equal((uintptr_t)p % 64, 0);
	strcpy(p, "dropped");
	p = kring_reserve(w, 1000, 0);
	strcpy(p, "kept");
	assert_errno(kring_recv(r, m, sizeof(m), 0), EAGAIN);
	assert_errno(kring_commit(w, 1001, 0), EINVAL);
	assert_int_equal(kring_commit(w, 5, KRING_MORE), 0);
	assert_errno(kring_commit(w, 0, 0), EINVAL);
	p = kring_reserve(w, 16, 0);
	strcpy(p, "inline");
	assert_int_equal(kring_commit(w, 7, 0), 0);

	assert_int_equal(kring_peek(r, m, 1, 0), 1);
	assert_int_equal(kring_peek(r, m, 8, 0), 2);
	assert_string_equal(m[0].data, "kept");
	assert_string_equal(m[1].data, "inline");
	assert_int_equal(m[0].len_bytes, 5);
	assert_int_equal(m[1].seq, 1);
	assert_errno(kring_release(r, 3), EINVAL);
	assert_int_equal(kring_release(r, 1), 0);
	assert_int_equal(kring_peek(r, m, 8, 0), 1);
	assert_string_equal(m[0].data, "inline");
	assert_int_equal(kring_release(r, 1), 0);
	assert_errno(kring_release(r, 1), EINVAL);
	assert_errno(kring_peek(r, m, 0, 0), EINVAL);
	kring_close(w);
	kring_close(r);
	ring_drop(&f);
}

static void too_short_a_buffer_leaves_the_message(void **state)
{
	struct ring_fds f = ring_make(&small);
	struct kring *w = ring_end(&f, KRING_WRITER), *r = ring_end(&f, KRING_READER);
	char buf[100] = "";

	assert_int_equal(kring_send(w, buf, 100, 0), 0);
	assert_errno(kring_recv(r, buf, 99, 0), EMSGSIZE);
	assert_int_equal(kring_recv(r, buf, 100, 0), 100);
	kring_close(w);
	kring_close(r);
	ring_drop(&f);
}

static void batches(void **state)
{
	struct ring_fds f = ring_make(&small);
	struct kring *w = ring_end(&f, KRING_WRITER), *r = ring_end(&f, KRING_READER);
	struct kring_msg m[16];
	char text[] = "0123456789";
	struct iovec v[10];

	for (int i = 0; i < 10; i++)
		v[i] = (struct iovec){ .iov_base = text, .iov_len = i };
	assert_int_equal(kring_send_many(w, v, 10, 0), 8);
	assert_errno(kring_send_many(w, v, 10, 0), EAGAIN);
	assert_int_equal(kring_send_many(w, v, 0, 0), 0);
	assert_int_equal(kring_peek(r, m, 16, 0), 8);
	for (int i = 0; i < 8; i++)
		assert_int_equal(m[i].len_bytes, i);
	assert_int_equal(kring_release(r, 8), 0);
	kring_close(w);
	kring_close(r);
	ring_drop(&f);
}

static void wrong_ends_and_places(void **state)
{
	struct ring_fds f = ring_make(&small);
	struct kring *w = ring_end(&f, KRING_WRITER), *r = ring_end(&f, KRING_READER);
	struct kring *o = ring_end(&f, KRING_OBSERVER);
	struct kring_msg m;
	char c = 0;

	assert_null(kring_attach(f.data, -1, KRING_WRITER));
	assert_int_equal(errno, EBUSY);
	assert_null(kring_attach(f.data, -1, KRING_READER));
	assert_int_equal(errno, EBUSY);
	assert_null(kring_attach(f.data, -1, 0));
	assert_int_equal(errno, EINVAL);
	assert_null(kring_attach(f.data, -1, KRING_WRITER | KRING_HISTORY));
	assert_int_equal(errno, EINVAL);
	assert_errno(kring_send(r, &c, 1, 0), EINVAL);
	assert_errno(kring_commit(r, 1, 0), EINVAL);
	assert_errno(kring_recv(w, &c, 1, 0), EINVAL);
	assert_errno(kring_peek(o, &m, 1, 0), EINVAL);
	assert_errno(kring_release(w, 0), EINVAL);
	assert_errno(kring_fd(w), EINVAL);
	assert_errno(kring_set_wait(w, 3), EINVAL);
	kring_close(w);
	w = ring_end(&f, KRING_WRITER);
	kring_close(w);
	kring_close(r);
	kring_close(o);
	kring_close(NULL);
	ring_drop(&f);
}

static void what_is_no_ring(void **state)
{
	static const struct kring_conf bad[] = {
		{ .shape = 4 },
		{ .flags = 4 },
		{ .flags = KRING_BLOCKING },
		{ .slots = 3 },
		{ .slots = 1 },
		{ .slots = 1 << 21 },
		{ .slot_bytes = 32 },
		{ .slot_bytes = 100 },
		{ .slot_bytes = 8192 },
		{ .data_bytes = 2048 },
		{ .data_bytes = 5000 },
		{ .writers = 2 },
		{ .readers = 2 },
		{ .shape = KRING_MANY_TO_ONE, .writers = 257 },
		{ .shape = KRING_BROADCAST, .readers = 257 },
		{ .reserved = { 0, 1 } },
	};
	struct ring_fds f = ring_make(&small);
	int fd = new_memfd();
	int pipes[2];

	for (unsigned int i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_errno(kring_format(fd, -1, &bad[i]), EINVAL);
	assert_errno(kring_format(fd, fd, &small), EINVAL);
	assert_errno(kring_format(-1, -1, &small), EBADF);
	assert_int_equal(pipe(pipes), 0);
	assert_errno(kring_format(pipes[0], -1, &small), EINVAL);

	/* May shrink */
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	assert_null(kring_attach(fd, -1, KRING_READER));
	assert_int_equal(errno, EPERM);
	/* No ring; it is given a second to become one */
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	assert_null(kring_attach(fd, -1, KRING_READER));
	assert_int_equal(errno, EPROTO);
	assert_null(kring_attach(-1, -1, KRING_READER));
	assert_null(kring_attach(pipes[0], -1, KRING_READER));
	close(fd);
	/* Of another version */
	assert_int_equal(pwrite(f.data, &(uint32_t){ 99 }, 4, 8), 4);
	assert_null(kring_attach(f.data, -1, KRING_READER));
	assert_int_equal(errno, EPROTO);
	/* With a head that makes no sense, or that is larger than its object */
	assert_int_equal(pwrite(f.data, &(uint32_t){ RING_VERSION }, 4, 8), 4);
	assert_int_equal(pwrite(f.data, &(uint32_t){ 7 }, 4, offsetof(struct ring_head, slots)), 4);
	assert_null(kring_attach(f.data, -1, KRING_READER));
	assert_int_equal(errno, EBADMSG);
	assert_int_equal(
		pwrite(f.data, &(uint32_t){ 1 << 20 }, 4, offsetof(struct ring_head, slots)), 4);
	assert_null(kring_attach(f.data, -1, KRING_READER));
	assert_int_equal(errno, EPROTO);
	close(pipes[0]);
	close(pipes[1]);
	ring_drop(&f);
}

static void ends_are_told_once(void **state)
{
	struct ring_fds f = ring_make(&small);
	struct kring *w = ring_end(&f, KRING_WRITER), *r = ring_end(&f, KRING_READER);
	char buf[64] = "";

	assert_int_equal(kring_send(w, buf, 1, 0), 0);
	kring_close(w);
	assert_int_equal(kring_recv(r, buf, 64, -1), 1);
	assert_errno(kring_recv(r, buf, 64, -1), EPIPE);
	assert_errno(kring_recv(r, buf, 64, 10), ETIMEDOUT);
	w = ring_end(&f, KRING_WRITER);
	assert_errno(kring_recv(r, buf, 64, 0), EAGAIN);
	assert_int_equal(kring_send(w, buf, 2, 0), 0);
	assert_int_equal(kring_recv(r, buf, 64, -1), 2);
	kring_close(r);
	for (int i = 0; i < 8; i++)
		assert_int_equal(kring_send(w, buf, 3, 0), 0);
	assert_errno(kring_send(w, buf, 3, -1), EPIPE);
	assert_errno(kring_send(w, buf, 3, 10), ETIMEDOUT);
	/* The next reader goes on where the last one stopped. */
	r = ring_end(&f, KRING_READER);
	assert_int_equal(kring_recv(r, buf, 64, 0), 3);
	assert_int_equal(kring_send(w, buf, 3, -1), 0);
	kring_close(w);
	kring_close(r);
	ring_drop(&f);
}

static void many_writers(void **state)
{
	static const struct kring_conf conf = { .shape = KRING_MANY_TO_ONE,
						.slots = 4,
						.slot_bytes = 64,
						.data_bytes = 4096,
						.writers = 3 };
	struct ring_fds f = ring_make(&conf);
	struct kring *r = ring_end(&f, KRING_READER), *w[3];
	struct kring_msg m[8];
	unsigned int seen = 0;
	char buf[1000] = "";

	for (int i = 0; i < 3; i++)
		w[i] = ring_end(&f, KRING_WRITER);
	assert_null(kring_attach(f.data, -1, KRING_WRITER));
	assert_int_equal(errno, EBUSY);
	for (int i = 0; i < 3; i++)
		for (int n = 0; n < 4; n++)
			assert_int_equal(kring_send(w[i], buf, i * 300 + n, 0), 0);
	assert_errno(kring_send(w[1], buf, 1, 0), EAGAIN);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(kring_peek(r, m, 8, -1), 4);
		for (unsigned int n = 0; n < 4; n++) {
			assert_int_equal(m[n].writer, m[0].writer);
			assert_int_equal(m[n].seq, n);
			assert_int_equal(m[n].len_bytes, m[0].writer * 300 + n);
		}
		seen |= 1u << m[0].writer;
		assert_int_equal(kring_release(r, 4), 0);
	}
	assert_int_equal(seen, 7);
	kring_close(w[1]);
	assert_errno(kring_recv(r, buf, 1, 10), ETIMEDOUT);
	kring_close(w[0]);
	kring_close(w[2]);
	assert_errno(kring_recv(r, buf, 1, -1), EPIPE);
	kring_close(r);
	ring_drop(&f);
}

static void broadcast_loses_and_says_how_much(void **state)
{
	static const struct kring_conf conf = { .shape = KRING_BROADCAST,
						.slots = 16,
						.slot_bytes = 64,
						.data_bytes = 4096,
						.readers = 3 };
	struct ring_fds f = ring_make(&conf);
	struct kring *w = ring_end(&f, KRING_WRITER), *a = ring_end(&f, KRING_READER), *b, *c;
	struct kring_msg m[32];
	struct kring_stat s;
	uint64_t n;

	for (n = 0; n < 10; n++)
		assert_int_equal(kring_send(w, &n, 8, 0), 0);
	b = ring_end(&f, KRING_READER);
	c = ring_end(&f, KRING_READER | KRING_HISTORY);
	assert_errno(kring_peek(b, m, 32, 0), EAGAIN);
	assert_int_equal(kring_peek(c, m, 32, 0), 10);
	assert_int_equal(kring_release(c, 10), 0);
	assert_int_equal(kring_recv(a, &n, 8, 0), 8);
	assert_int_equal(n, 0);
	assert_int_equal(kring_peek(a, m, 1, 0), 1);
	for (n = 10; n < 40; n++)
		assert_int_equal(kring_send(w, &n, 8, 0), 0);
	assert_errno(kring_release(a, 1), EOVERFLOW);
	assert_true(kring_lost(a) >= 40 - 16 - 1 && kring_lost(a) <= 40 - 14);
	assert_int_equal(kring_recv(a, &n, 8, 0), 8);
	assert_int_equal(n, kring_lost(a) + 1);
	/* b came after ten messages, and is told what it lost of the later ones before it has received any. */
	assert_errno(kring_recv(b, &n, 8, 0), EOVERFLOW);
	assert_int_equal(kring_recv(b, &n, 8, 0), 8);
	assert_int_equal(n, 10 + kring_lost(b));
	assert_errno(kring_recv(c, &n, 8, 0), EOVERFLOW);
	assert_int_equal(kring_get_stat(c, &s), 0);
	assert_int_equal(s.lost, kring_lost(a) + kring_lost(b) + kring_lost(c));
	assert_int_equal(s.messages, 40);
	assert_int_equal(s.readers, 3);
	kring_close(a);
	kring_close(b);
	kring_close(c);
	kring_close(w);
	ring_drop(&f);
}

static void broadcast_may_wait_for_the_slowest(void **state)
{
	static const struct kring_conf conf = { .shape = KRING_BROADCAST,
						.flags = KRING_BLOCKING,
						.slots = 8,
						.slot_bytes = 64,
						.data_bytes = 4096 };
	struct ring_fds f = ring_make(&conf);
	struct kring *w = ring_end(&f, KRING_WRITER), *a, *b;
	uint64_t n, got;

	for (n = 0; n < 100; n++)
		assert_int_equal(kring_send(w, &n, 8, 0), 0);
	a = ring_end(&f, KRING_READER);
	b = ring_end(&f, KRING_READER);
	for (n = 0; n < 7; n++)
		assert_int_equal(kring_send(w, &n, 8, 0), 0);
	for (n = 0; n < 7; n++)
		assert_int_equal(kring_recv(a, &got, 8, 0), 8);
	while (kring_send(w, &n, 8, 0) == 0)
		n++;
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(n, 8);
	for (n = 0; n < 8; n++) {
		assert_int_equal(kring_recv(b, &got, 8, 0), 8);
		assert_int_equal(got, n);
	}
	assert_int_equal(kring_send(w, &n, 8, 0), 0);
	assert_int_equal(kring_lost(b), 0);
	/* Who leaves is not waited for. */
	kring_close(b);
	for (n = 0; n < 6; n++)
		assert_int_equal(kring_recv(a, &got, 8, 0), n < 2 ? 8 : -1);
	for (n = 0; n < 8; n++)
		assert_int_equal(kring_send(w, &n, 8, 0), 0);
	kring_close(a);
	kring_close(w);
	ring_drop(&f);
}

static void broadcast_data_is_given_up_in_time(void **state)
{
	static const struct kring_conf conf = {
		.shape = KRING_BROADCAST, .slots = 64, .slot_bytes = 64, .data_bytes = 4096
	};
	struct ring_fds f = ring_make(&conf);
	struct kring *w = ring_end(&f, KRING_WRITER), *r;
	unsigned char buf[2048], in[2048];
	unsigned int seed = 7;

	for (uint64_t n = 0; n < 3000; n++) {
		size_t len = 57 + rand_r(&seed) % 1990;
		uint64_t at;

		fill_message(buf, len, n);
		assert_int_equal(kring_send(w, buf, len, 0), 0);
		if (n % 7)
			continue;
		r = ring_end(&f, KRING_READER | KRING_HISTORY);
		for (at = 0;; at++) {
			struct kring_msg m;

			if (kring_peek(r, &m, 1, 0) < 0)
				break;
			assert_true(check_message(m.data, m.len_bytes, m.seq));
			assert_int_equal(kring_recv(r, in, sizeof(in), 0), m.len_bytes);
			assert_true(check_message(in, m.len_bytes, m.seq));
		}
		assert_int_equal(errno, EAGAIN);
		assert_true(at > 0);
		kring_close(r);
	}
	kring_close(w);
	ring_drop(&f);
}

static void readers_cannot_write_protected_data(void **state)
{
	static const struct kring_conf conf = { .flags = KRING_PROTECTED,
						.slots = 8,
						.data_bytes = 4096 };
	struct ring_fds f = ring_make(&conf);
	struct kring *w = ring_end(&f, KRING_WRITER), *r = ring_end(&f, KRING_READER);
	struct kring_msg m;
	char buf[500] = "";

	assert_null(kring_attach(f.data, -1, KRING_READER));
	assert_int_equal(errno, EINVAL);
	for (int i = 0; i < 50; i++) {
		assert_int_equal(kring_send(w, buf, 10 * i, 0), 0);
		assert_int_equal(kring_recv(r, buf, 500, 0), 10 * i);
	}
	assert_int_equal(kring_send(w, buf, 300, 0), 0);
	assert_int_equal(kring_peek(r, &m, 1, 0), 1);
	assert_errno(mprotect((void *)((uintptr_t)m.data & ~4095UL), 4096, PROT_READ | PROT_WRITE),
		     EACCES);
	kring_close(w);
	kring_close(r);
	ring_drop(&f);
}

static bool readable(int fd, int timeout_ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, timeout_ms) == 1;
}

static void epoll_tells_of_messages(void **state)
{
	struct ring_fds f = ring_make(&small);
	struct kring *w = ring_end(&f, KRING_WRITER), *r = ring_end(&f, KRING_READER);
	struct epoll_event e = { .events = EPOLLIN };
	int ep = epoll_create1(EPOLL_CLOEXEC), fd = kring_fd(r);
	char c = 'x';

	assert_true(fd >= 0);
	assert_int_equal(kring_fd(r), fd);
	assert_int_equal(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e), 0);
	for (int i = 0; i < 100; i++) {
		assert_errno(kring_recv(r, &c, 1, 0), EAGAIN);
		assert_int_equal(epoll_wait(ep, &e, 1, 0), 0);
		assert_int_equal(kring_send(w, &c, 1, 0), 0);
		assert_int_equal(kring_send(w, &c, 1, 0), 0);
		assert_int_equal(epoll_wait(ep, &e, 1, 2000), 1);
		assert_int_equal(kring_recv(r, &c, 1, 0), 1);
		/* Until all is read */
		assert_int_equal(epoll_wait(ep, &e, 1, 0), 1);
		assert_int_equal(kring_recv(r, &c, 1, 0), 1);
	}
	assert_errno(kring_recv(r, &c, 1, 0), EAGAIN);
	assert_false(readable(fd, 0));
	kring_close(w);
	assert_true(readable(fd, 2000));
	assert_errno(kring_recv(r, &c, 1, 0), EPIPE);
	close(ep);
	kring_close(r);
	ring_drop(&f);
}

static void stat_and_peers(void **state)
{
	struct ring_fds f = ring_make(&small);
	struct kring *o = ring_end(&f, KRING_OBSERVER), *w, *r;
	struct kring_peer p[4];
	struct kring_stat s;
	char buf[100] = "";

	assert_int_equal(kring_get_peers(o, p, 4), 0);
	w = ring_end(&f, KRING_WRITER);
	r = ring_end(&f, KRING_READER);
	for (int i = 0; i < 5; i++)
		assert_int_equal(kring_send(w, buf, 100, 0), 0);
	assert_int_equal(kring_recv(r, buf, 100, 0), 100);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(kring_get_stat(i == 0 ? o : i == 1 ? w : r, &s), 0);
		assert_int_equal(s.conf.slots, 8);
		assert_int_equal(s.conf.shape, KRING_ONE_TO_ONE);
		assert_int_equal(s.messages, 5);
		assert_int_equal(s.bytes, 500);
		assert_int_equal(s.depth, 4);
		assert_int_equal(s.writers, 1);
		assert_int_equal(s.readers, 1);
		assert_int_equal(s.dead, 0);
	}
	kring_close(w);
	assert_int_equal(kring_get_peers(o, p, 4), 2);
	assert_int_equal(p[0].role, KRING_WRITER);
	assert_int_equal(p[0].state, KRING_CLOSED);
	assert_int_equal(p[0].messages, 5);
	assert_int_equal(p[1].role, KRING_READER);
	assert_int_equal(p[1].state, KRING_ALIVE);
	assert_int_equal(p[1].pid, getpid());
	assert_int_equal(p[1].lag, 4);
	assert_int_equal(kring_get_peers(o, p, 1), 2);
	kring_close(r);
	kring_close(o);
	ring_drop(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_from_none_to_the_longest),
		cmocka_unit_test(order_holds_over_many_rounds),
		cmocka_unit_test(full_and_empty),
		cmocka_unit_test(in_place),
		cmocka_unit_test(too_short_a_buffer_leaves_the_message),
		cmocka_unit_test(batches),
		cmocka_unit_test(wrong_ends_and_places),
		cmocka_unit_test(what_is_no_ring),
		cmocka_unit_test(ends_are_told_once),
		cmocka_unit_test(many_writers),
		cmocka_unit_test(broadcast_loses_and_says_how_much),
		cmocka_unit_test(broadcast_may_wait_for_the_slowest),
		cmocka_unit_test(broadcast_data_is_given_up_in_time),
		cmocka_unit_test(readers_cannot_write_protected_data),
		cmocka_unit_test(epoll_tells_of_messages),
		cmocka_unit_test(stat_and_peers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
