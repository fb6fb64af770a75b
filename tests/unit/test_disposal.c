// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_disposal.c - descriptors that the worker closes aside: all of them, whoever's, and also where the ring is done at once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <daemon/disposal.h>

#include "transfer_fixture.h"

#define MANY 200

struct closing {
	struct fixture *f;
	struct disposal *disposal;
	struct shm_closing keeper[SHM_OWNERS];
	int peers[MANY];
};

static void closing_init(struct closing *c, struct fixture *f)
{
	*c = (struct closing){ .f = f };
	assert_int_equal(disposal_new(&c->disposal, f->rig.relay, c->keeper), 0);
}

static void give(struct closing *c, int i, uid_t uid)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	c->peers[i] = pair[1];
	disposal_close(c->disposal, uid, pair[0], 0);
}

static void expect_closed(struct closing *c, int i)
{
	int64_t end = now_ms() + PATIENCE_MS;
	char byte;

	while (recv(c->peers[i], &byte, 1, MSG_DONTWAIT) < 0) {
		assert_true(now_ms() < end);
		run_for(&c->f->rig, 1);
	}
	close(c->peers[i]);
}

static void test_many_of_several_users(void **state)
{
	struct closing c;

	closing_init(&c, *state);
	for (int i = 0; i < MANY; i++)
		give(&c, i, 1000 + (uid_t)i % 5);
	for (int i = 0; i < MANY; i++)
		expect_closed(&c, i);
	for (uid_t uid = 1000; uid < 1005; uid++)
		assert_false(disposal_barred(c.disposal, uid));
	disposal_free(c.disposal);
}

/* One after the other: the ring may be done with one before the call for it has returned. */
static void test_one_after_the_other(void **state)
{
	struct closing c;

	closing_init(&c, *state);
	for (int i = 0; i < MANY; i++) {
		give(&c, i, 1000);
		expect_closed(&c, i);
	}
	disposal_free(c.disposal);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(test_many_of_several_users),
		BOTH(test_one_after_the_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
