/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ring_fixture.h - rings in memory of the test's own.
 */
#ifndef KSHARED_TESTS_RING_FIXTURE_H
#define KSHARED_TESTS_RING_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <kshared/ring.h>

#include "lib/ring.h"

/* A ring's objects; ctl is -1 if there is one only. */
struct ring_fds {
	int data;
	int ctl;
};

static inline int new_memfd(void)
{
	int fd = memfd_create("ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	return fd;
}

static inline struct ring_fds ring_make(const struct kring_conf *conf)
{
	struct ring_fds f = { .data = new_memfd(), .ctl = -1 };

	if (conf->flags & KRING_PROTECTED)
		f.ctl = new_memfd();
	assert_int_equal(kring_format(f.data, f.ctl, conf), 0);
	return f;
}

static inline void ring_drop(struct ring_fds *f)
{
	close(f->data);
	if (f->ctl >= 0)
		close(f->ctl);
}

static inline struct kring *ring_end(const struct ring_fds *f, unsigned int end)
{
	struct kring *r = kring_attach(f->data, f->ctl, end);

	if (!r)
		fail_msg("kring_attach: %s", strerror(errno));
	return r;
}

#define assert_errno(call, error)               \
	do {                                    \
		errno = 0;                      \
		assert_true((call) < 0);        \
		assert_int_equal(errno, error); \
	} while (0)

/* Message number @n of length @len, each byte depending on both and on its place. */
static inline void fill_message(unsigned char *to, size_t len, uint64_t n)
{
	for (size_t i = 0; i < len; i++)
		to[i] = (unsigned char)(n * 31 + i * 7 + (i >> 8) + len);
}

static inline bool check_message(const unsigned char *from, size_t len, uint64_t n)
{
	for (size_t i = 0; i < len; i++)
		if (from[i] != (unsigned char)(n * 31 + i * 7 + (i >> 8) + len))
			return false;
	return true;
}

#endif
