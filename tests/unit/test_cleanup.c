// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_cleanup.c - what base/cleanup.h owns is given back once, and only if nobody took it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/cleanup.h"

static int open_and_leave(void)
{
	cleanup_fd int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd; /* the number only: it is closed on the way out */
}

static int open_and_take(void)
{
	cleanup_fd int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	return take_fd(&fd);
}

static void test_a_descriptor_is_closed_when_its_scope_ends(void **state)
{
	int fd = open_and_leave();

	assert_int_equal(fcntl(fd, F_GETFD), -1);
	assert_int_equal(errno, EBADF);
}

static void test_a_descriptor_that_was_taken_stays_open(void **state)
{
	int fd = open_and_take();

	assert_true(fcntl(fd, F_GETFD) >= 0);
	close(fd);
}

static void test_errno_survives_the_closing(void **state)
{
	int fd = 1 << 20; /* not open: close() fails with EBADF */

	errno = ENOENT;
	cleanup_close_p(&fd);
	assert_int_equal(errno, ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_descriptor_is_closed_when_its_scope_ends),
		cmocka_unit_test(test_a_descriptor_that_was_taken_stays_open),
		cmocka_unit_test(test_errno_survives_the_closing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
