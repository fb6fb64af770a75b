// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_poller.c - the kernel's poll handles: woken at each change, remembered for the next process, forgotten at close.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <engine/relay/poller.h>
#include <sys/socket.h>

#include "relay_fixture.h"

#define NR_HANDLES 4

struct fixture {
	struct rig rig;
	struct poller *poller;
	uint64_t handles[NR_HANDLES];
	uint64_t woken[64];
	unsigned int nr_woken;
	int sock[2];
};

static void wake(void *ctx, uint64_t handle)
{
	struct fixture *f = ctx;

	f->woken[f->nr_woken++ % 64] = handle;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	rig_init(&f->rig);
	assert_int_equal(poller_new(&f->poller, f->rig.relay, f->handles, NR_HANDLES, wake, f), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, f->sock), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	poller_free(f->poller);
	rig_deinit(&f->rig);
	close(f->sock[0]);
	close(f->sock[1]);
	free(f);
	return 0;
}

static unsigned int nr_kept(const struct fixture *f)
{
	unsigned int n = 0;

	for (int i = 0; i < NR_HANDLES; i++)
		n += f->handles[i] != 0;
	return n;
}

static void put(int fd)
{
	assert_int_equal(write(fd, "x", 1), 1);
}

static void take(int fd)
{
	char c;

	assert_int_equal(read(fd, &c, 1), 1);
}

static void test_woken_at_each_change(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(poller_arm(f->poller, 77, 1, f->sock[0], POLLIN), 0);
	assert_int_equal(nr_kept(f), 1);
	assert_int_equal(f->nr_woken, 0);
	put(f->sock[1]);
	run_until(&f->rig, &f->nr_woken, 1);
	assert_int_equal(f->woken[0], 77);
	take(f->sock[0]);
	put(f->sock[1]);
	run_until(&f->rig, &f->nr_woken, 2);
	/* The kernel asks again after each wake: that changes nothing. */
	assert_int_equal(poller_arm(f->poller, 77, 1, f->sock[0], POLLIN), 0);
	assert_int_equal(nr_kept(f), 1);
}

static void test_what_is_there_already_is_not_told(void **state)
{
	struct fixture *f = *state;

	put(f->sock[1]);
	assert_int_equal(poller_arm(f->poller, 77, 1, f->sock[0], POLLIN), 0);
	run_for(&f->rig, 20);
	assert_int_equal(f->nr_woken, 0);
	put(f->sock[1]);
	run_until(&f->rig, &f->nr_woken, 1);
}

static void test_more_events_than_before(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(poller_arm(f->poller, 77, 1, f->sock[0], POLLOUT), 0);
	assert_int_equal(poller_arm(f->poller, 77, 1, f->sock[0], POLLIN), 0);
	assert_int_equal(nr_kept(f), 1);
	f->nr_woken = 0;
	put(f->sock[1]);
	run_until(&f->rig, &f->nr_woken, 1);
}

static void test_closed_means_silent(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(poller_arm(f->poller, 77, 1, f->sock[0], POLLIN), 0);
	assert_int_equal(poller_arm(f->poller, 78, 2, f->sock[0], POLLIN), 0);
	poller_close(f->poller, 1);
	poller_close(f->poller, 1);
	poller_close(f->poller, 3);
	assert_int_equal(nr_kept(f), 1);
	put(f->sock[1]);
	run_until(&f->rig, &f->nr_woken, 1);
	assert_int_equal(f->woken[0], 78);
	run_for(&f->rig, 20);
	assert_int_equal(f->nr_woken, 1);
}

static void test_places_run_out_and_come_back(void **state)
{
	struct fixture *f = *state;

	for (uint64_t word = 1; word <= NR_HANDLES; word++)
		assert_int_equal(poller_arm(f->poller, 70 + word, word, f->sock[0], POLLIN), 0);
	assert_int_equal(poller_arm(f->poller, 99, 99, f->sock[0], POLLIN), -ENOSPC);
	poller_close(f->poller, 2);
	assert_int_equal(poller_arm(f->poller, 99, 99, f->sock[0], POLLIN), 0);
	assert_int_equal(nr_kept(f), NR_HANDLES);
}

static void test_a_hang_up_wakes(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(poller_arm(f->poller, 77, 1, f->sock[0], POLLIN), 0);
	assert_int_equal(shutdown(f->sock[1], SHUT_RDWR), 0);
	run_for(&f->rig, 50);
	assert_true(f->nr_woken > 0);
	assert_int_equal(f->woken[0], 77);
}

static void test_no_descriptor(void **state)
{
	struct fixture *f = *state;

	poller_arm(f->poller, 77, 1, 1 << 20, POLLIN);
	assert_int_equal(nr_kept(f), 0);
}

static void test_the_next_process_wakes_all(void **state)
{
	struct fixture *f = *state;
	struct poller *next;

	for (uint64_t word = 1; word <= 3; word++)
		assert_int_equal(poller_arm(f->poller, 70 + word, word, f->sock[0], POLLIN), 0);
	poller_close(f->poller, 2);
	poller_free(f->poller);
	assert_int_equal(nr_kept(f), 2);
	assert_int_equal(poller_new(&next, f->rig.relay, f->handles, NR_HANDLES, wake, f), 0);
	f->poller = next;
	poller_recover(next);
	assert_int_equal(f->nr_woken, 2);
	assert_int_equal(f->woken[0] + f->woken[1], 71 + 73);
	assert_int_equal(nr_kept(f), 0);
	for (uint64_t word = 1; word <= NR_HANDLES; word++)
		assert_int_equal(poller_arm(f->poller, 70 + word, word, f->sock[0], POLLIN), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_woken_at_each_change),
		TEST(test_what_is_there_already_is_not_told),
		TEST(test_more_events_than_before),
		TEST(test_closed_means_silent),
		TEST(test_places_run_out_and_come_back),
		TEST(test_a_hang_up_wakes),
		TEST(test_no_descriptor),
		TEST(test_the_next_process_wakes_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
