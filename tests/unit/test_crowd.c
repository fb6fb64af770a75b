// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_crowd.c - more transfers at a time than there are slots: nobody is forgotten, nobody waits for what waits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define RUNNING_ON_VALGRIND 0
#endif

#include "transfer_fixture.h"

#define MANY (NR_SLOTS * 4)

struct crowd {
	struct job *jobs[MANY];
	int pipes[MANY][2];
};

static void crowd_init(struct crowd *c)
{
	for (int i = 0; i < MANY; i++) {
		c->jobs[i] = new_job();
		assert_int_equal(pipe2(c->pipes[i], O_CLOEXEC), 0);
	}
}

static void crowd_deinit(struct crowd *c)
{
	for (int i = 0; i < MANY; i++) {
		free(c->jobs[i]);
		close(c->pipes[i][0]);
		close(c->pipes[i][1]);
	}
}

static void test_more_readers_wait_than_there_are_slots(void **state)
{
	struct fixture *f = *state;
	struct crowd c;

	crowd_init(&c);
	for (int i = 0; i < MANY; i++)
		start_read(&f->rig, c.jobs[i], c.pipes[i][0], 10);
	for (int i = MANY; i-- > 0;) {
		put(c.pipes[i][1], "turn");
		expect_data(f, c.jobs[i], "turn");
	}
	crowd_deinit(&c);
}

static void test_more_writers_than_slots_keep_their_own_data(void **state)
{
	struct fixture *f = *state;
	unsigned char *fill = numbered(65536);
	char text[32];
	struct crowd c;

	crowd_init(&c);
	for (int i = 0; i < MANY; i++) {
		assert_int_equal(write(c.pipes[i][1], fill, 65536), 65536);
		/* The caller's buffer is used again before the transfer is done. */
		snprintf(text, sizeof(text), "writer %02d", i);
		start_write(&f->rig, c.jobs[i], c.pipes[i][1], text, 9);
		assert_int_equal(c.jobs[i]->calls, 0);
	}
	memset(text, 'x', sizeof(text));
	for (int i = MANY; i-- > 0;) {
		assert_int_equal(read(c.pipes[i][0], fill, 65536), 65536);
		run_until(&f->rig, &c.jobs[i]->calls, 1);
		assert_int_equal(c.jobs[i]->result, 9);
		assert_int_equal(read(c.pipes[i][0], fill, 100), 9);
		snprintf(text, sizeof(text), "writer %02d", i);
		assert_memory_equal(fill, text, 9);
	}
	free(fill);
	crowd_deinit(&c);
}

static struct fixture *starter;
static struct crowd *started;
static int nr_started;

/* Half of them for each of the two who call. */
static void start_the_crowd(struct relay_io *io, int result, const void *data)
{
	job_done(io, result, data);
	for (int end = nr_started + MANY / 2; nr_started < end; nr_started++)
		start_read(&starter->rig, started->jobs[nr_started], started->pipes[nr_started][0],
			   10);
}

static void test_a_crowd_that_begins_inside_a_callback(void **state)
{
	struct fixture *f = *state;
	struct crowd c;

	crowd_init(&c);
	starter = f;
	started = &c;
	nr_started = 0;
	put(c.pipes[MANY - 1][1], "last");
	start_read(&f->rig, f->a, f->pipe[0], 10);
	f->a->io.done = start_the_crowd;
	put(f->pipe[1], "go");
	run_until(&f->rig, &f->a->calls, 1);
	start_read(&f->rig, f->b, f->sock[0], 10);
	f->b->io.done = start_the_crowd;
	put(f->sock[1], "go");
	run_until(&f->rig, &f->b->calls, 1);
	/* All others wait; the last one has its data and must not wait behind them. */
	expect_data(f, c.jobs[MANY - 1], "last");
	for (int i = 0; i < MANY - 1; i++) {
		put(c.pipes[i][1], "turn");
		expect_data(f, c.jobs[i], "turn");
	}
	crowd_deinit(&c);
}

static void test_giving_up_while_queued(void **state)
{
	struct fixture *f = *state;
	struct crowd c;

	crowd_init(&c);
	for (int i = 0; i < MANY; i++) {
		c.jobs[i]->io = (struct relay_io){ .unique = 1,
						   .fd = c.pipes[i][0],
						   .offset = -1,
						   .len = 10,
						   .regular = true,
						   .done = job_done };
		relay_start(f->rig.relay, &c.jobs[i]->io);
	}
	for (int i = MANY; i-- > 0;) {
		relay_cancel(&c.jobs[i]->io);
		run_until(&f->rig, &c.jobs[i]->calls, 1);
		assert_int_equal(c.jobs[i]->result, -EINTR);
	}
	put(f->pipe[1], "free again");
	start_read(&f->rig, f->a, f->pipe[0], 100);
	expect_data(f, f->a, "free again");
	crowd_deinit(&c);
}

/* One user's transfers, on descriptors that hang, and others'. */

#define WIDE 64 /* slots, */
#define SHARE (WIDE / 16) /* and what one owner may have of them */

static void start_owned(struct rig *rig, struct job *j, uint32_t owner, int fd)
{
	j->calls = 0;
	j->io = (struct relay_io){ .unique = 1,
				   .owner = owner,
				   .fd = fd,
				   .offset = -1,
				   .len = 10,
				   .regular = true,
				   .done = job_done };
	relay_start(rig->relay, &j->io);
}

static unsigned int slots_of(const struct rig *rig, uint32_t owner)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < rig->nr_slots; i++)
		n += rig->slots[i].unique && rig->slots[i].owner == owner;
	return n;
}

static void shares(unsigned int nr_slots, unsigned int share)
{
	struct rig rig;
	struct crowd c;

	rig_init_with(&rig, nr_slots);
	crowd_init(&c);
	for (int i = 0; i < MANY - 2; i++)
		start_owned(&rig, c.jobs[i], 7, c.pipes[i][0]);
	assert_int_equal(slots_of(&rig, 7), share);
	/* Another user, and one whose share is not counted. */
	start_owned(&rig, c.jobs[MANY - 2], 8, c.pipes[MANY - 2][0]);
	put(c.pipes[MANY - 2][1], "others");
	run_until(&rig, &c.jobs[MANY - 2]->calls, 1);
	start_owned(&rig, c.jobs[MANY - 1], 0, c.pipes[MANY - 1][0]);
	put(c.pipes[MANY - 1][1], "others");
	run_until(&rig, &c.jobs[MANY - 1]->calls, 1);
	/* The queued ones have their data already, and yet go on only as the first ones end, in their order. */
	for (unsigned int i = share; i < MANY - 2; i++)
		put(c.pipes[i][1], "queued");
	run_for(&rig, 20);
	for (unsigned int i = 0; i < MANY - 2; i++)
		assert_int_equal(c.jobs[i]->calls, 0);
	put(c.pipes[0][1], "first");
	for (unsigned int i = share; i < MANY - 2; i++) {
		run_until(&rig, &c.jobs[i]->calls, 1);
		assert_int_equal(c.jobs[i]->result, 6);
		for (unsigned int k = i + 1; k < MANY - 2 && share == 1; k++)
			assert_true(c.jobs[k]->calls <= c.jobs[k - 1]->calls);
		assert_true(slots_of(&rig, 7) <= share);
	}
	for (unsigned int i = 1; i < share; i++) {
		assert_int_equal(c.jobs[i]->calls, 0);
		put(c.pipes[i][1], "last");
		run_until(&rig, &c.jobs[i]->calls, 1);
	}
	assert_int_equal(slots_of(&rig, 7), 0);
	crowd_deinit(&c);
	rig_deinit(&rig);
}

static void test_one_owner_has_a_sixteenth(void **state)
{
	shares(WIDE, SHARE);
}

static void test_one_owner_has_one_slot_at_least(void **state)
{
	shares(NR_SLOTS, 1);
}

/* Far more than a stack could hold if each began inside the one before. */
#define QUEUED 20000

struct small {
	struct relay_io io;
	unsigned int number;
};

static unsigned int nr_finished;

static void in_turn(struct relay_io *io, int result, const void *data)
{
	struct small *s = (struct small *)io;

	assert_int_equal(result, 1);
	/* Not at the same time, since one owner has one slot. */
	assert_int_equal(s->number, nr_finished);
	nr_finished++;
}

static void test_twenty_thousand_queued_at_once(void **state)
{
	struct small *all = calloc(QUEUED, sizeof(*all));
	struct fixture *f = *state;
	unsigned char *fill = numbered(100000);
	int fd = memfd_create("test", MFD_CLOEXEC);

	alarm(120);
	put(fd, "x");
	/* Half taken, it keeps its owner's slot. */
	f->a->io = (struct relay_io){ .unique = 1,
				      .owner = 7,
				      .fd = f->pipe[1],
				      .offset = -1,
				      .data = fill,
				      .len = 100000,
				      .write = true,
				      .done = job_done };
	relay_start(f->rig.relay, &f->a->io);
	run_for(&f->rig, 10);
	assert_int_equal(f->a->calls, 0);
	nr_finished = 0;
	for (unsigned int i = 0; i < QUEUED; i++) {
		all[i].number = i;
		all[i].io = (struct relay_io){ .unique = 2 + i,
					       .owner = 7,
					       .fd = fd,
					       .offset = 0,
					       .len = 1,
					       .regular = true,
					       .done = in_turn };
		relay_start(f->rig.relay, &all[i].io);
	}
	assert_int_equal(nr_finished, 0);
	assert_int_equal(read(f->pipe[0], fill, 65536), 65536);
	while (nr_finished < QUEUED) {
		struct pollfd p = { .fd = relay_fd(f->rig.relay), .events = POLLIN };

		poll(&p, 1, 1000);
		relay_dispatch(f->rig.relay);
	}
	assert_int_equal(f->a->calls, 1);
	close(fd);
	free(fill);
	free(all);
}

#define MOST 256
#define LONG 20000

/* One owner's transfers hang, and thousands more wait behind them: that must not slow everybody else's. */
static void test_who_waits_in_thousands_costs_others_little(void **state)
{
	struct small *all = calloc(LONG, sizeof(*all));
	struct job *other = new_job();
	int hung[2], fd = memfd_create("test", MFD_CLOEXEC);
	struct rig rig;
	int64_t began;

	alarm(120);
	rig_init_with(&rig, MOST);
	assert_int_equal(pipe2(hung, O_CLOEXEC), 0);
	put(fd, "x");
	for (int i = 0; i < LONG; i++) {
		all[i].io = (struct relay_io){ .unique = 1,
					       .owner = 7,
					       .fd = hung[0],
					       .offset = -1,
					       .len = 1,
					       .regular = true,
					       .done = in_turn };
		relay_start(rig.relay, &all[i].io);
	}
	began = now_ms();
	for (int i = 0; i < 300; i++) {
		other->io = (struct relay_io){ .unique = 1,
					       .owner = 8,
					       .fd = fd,
					       .offset = 0,
					       .len = 1,
					       .regular = true,
					       .done = job_done };
		other->calls = 0;
		relay_start(rig.relay, &other->io);
		run_until(&rig, &other->calls, 1);
	}
	print_message("# 300 transfers in %d ms\n", (int)(now_ms() - began));
	if (!RUNNING_ON_VALGRIND)
		assert_true(now_ms() - began < 1500);
	rig_deinit(&rig);
	close(hung[0]);
	close(hung[1]);
	close(fd);
	free(other);
	free(all);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(test_more_readers_wait_than_there_are_slots),
		BOTH(test_more_writers_than_slots_keep_their_own_data),
		BOTH(test_a_crowd_that_begins_inside_a_callback),
		TEST(test_giving_up_while_queued),
		cmocka_unit_test(test_one_owner_has_a_sixteenth),
		cmocka_unit_test(test_one_owner_has_one_slot_at_least),
		BOTH(test_twenty_thousand_queued_at_once),
		cmocka_unit_test(test_who_waits_in_thousands_costs_others_little),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
