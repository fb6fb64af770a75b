/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * transfer_fixture.h - a relay, two transfers, a pipe and a pair of sockets; with the ring or without it.
 */
#ifndef KSHARED_TESTS_TRANSFER_FIXTURE_H
#define KSHARED_TESTS_TRANSFER_FIXTURE_H

#include <sys/socket.h>

#include "relay_fixture.h"

struct fixture {
	struct rig rig;
	struct job *a, *b;
	int pipe[2];
	int sock[2];
};

static inline int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	alarm(20); /* a relay that never returns */
	rig_init(&f->rig);
	f->a = new_job();
	f->b = new_job();
	assert_int_equal(pipe2(f->pipe, O_CLOEXEC), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, f->sock), 0);
	*state = f;
	return 0;
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;

	rig_deinit(&f->rig);
	for (int i = 0; i < 2; i++) {
		if (f->pipe[i] >= 0)
			close(f->pipe[i]);
		close(f->sock[i]);
	}
	free(f->a);
	free(f->b);
	free(f);
	return 0;
}

static inline void put(int fd, const char *text)
{
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static inline void expect_data(struct fixture *f, struct job *j, const char *text)
{
	run_until(&f->rig, &j->calls, 1);
	assert_int_equal(j->result, strlen(text));
	assert_memory_equal(j->data, text, strlen(text));
}

static inline unsigned char *numbered(size_t len)
{
	unsigned char *bytes = malloc(len);

	for (size_t i = 0; i < len; i++)
		bytes[i] = (unsigned char)(i * 7 + i / 251);
	return bytes;
}

static inline int setup_plain(void **state)
{
	without_ring = true;
	return setup(state);
}

static inline int teardown_plain(void **state)
{
	teardown(state);
	without_ring = false;
	return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
/* With the ring, and where there is none. */
#define WITHOUT(name)                                                          \
	{                                                                      \
		"without_ring_" #name, name, setup_plain, teardown_plain, NULL \
	}
#define BOTH(name) TEST(name), WITHOUT(name)

#endif
