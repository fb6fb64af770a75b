// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_relay.c - transfers on every sort of descriptor: what is there, what must be waited for, what is given up.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pty.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

#include "transfer_fixture.h"

static void test_the_ring_is_borrowed(void **state)
{
	struct rig rig;

	rig_init(&rig);
	relay_free(rig.relay);
	assert_true(fcntl(rig.ring_fd, F_GETFD) >= 0);
	assert_int_equal(relay_new(&rig.relay, rig.ring_fd, &rig.params, rig.slots, NR_SLOTS), 0);
	rig_deinit(&rig);
}

static void test_what_is_there_is_read(void **state)
{
	struct fixture *f = *state;

	put(f->pipe[1], "hello");
	start_read(&f->rig, f->a, f->pipe[0], 100);
	expect_data(f, f->a, "hello");
	put(f->sock[1], "there");
	start_read(&f->rig, f->a, f->sock[0], 3);
	expect_data(f, f->a, "the");
	start_read(&f->rig, f->a, f->sock[0], 3);
	expect_data(f, f->a, "re");
}

static void test_what_is_not_there_is_waited_for(void **state)
{
	struct fixture *f = *state;

	start_read(&f->rig, f->a, f->pipe[0], 100);
	start_read(&f->rig, f->b, f->sock[0], 100);
	run_for(&f->rig, 30);
	assert_int_equal(f->a->calls + f->b->calls, 0);
	for (int i = 0; i < NR_SLOTS; i++)
		assert_true(f->rig.slots[i].unique == 0);
	put(f->pipe[1], "later");
	expect_data(f, f->a, "later");
	put(f->sock[1], "and later");
	expect_data(f, f->b, "and later");
}

static void test_nonblock_gives_up_at_once(void **state)
{
	struct fixture *f = *state;
	int flags = fcntl(f->pipe[0], F_GETFL);
	struct job *j = f->a;

	j->io = (struct relay_io){ .unique = 1,
				   .fd = f->pipe[0],
				   .offset = -1,
				   .len = 10,
				   .nonblock = true,
				   .done = job_done };
	relay_start(f->rig.relay, &j->io);
	run_until(&f->rig, &j->calls, 1);
	assert_int_equal(j->result, -EAGAIN);
	/* The descriptor is shared with its poster: its flags are not touched. */
	assert_int_equal(fcntl(f->pipe[0], F_GETFL), flags);
}

static void test_the_end_is_zero_bytes(void **state)
{
	struct fixture *f = *state;

	start_read(&f->rig, f->a, f->pipe[0], 10);
	start_read(&f->rig, f->b, f->sock[0], 10);
	close(f->pipe[1]);
	f->pipe[1] = -1;
	assert_int_equal(shutdown(f->sock[1], SHUT_WR), 0);
	run_until(&f->rig, &f->a->calls, 1);
	run_until(&f->rig, &f->b->calls, 1);
	assert_int_equal(f->a->result, 0);
	assert_int_equal(f->b->result, 0);
}

static void test_nobody_reads(void **state)
{
	struct fixture *f = *state;

	close(f->pipe[0]);
	f->pipe[0] = -1;
	start_write(&f->rig, f->a, f->pipe[1], "x", 1);
	run_until(&f->rig, &f->a->calls, 1);
	assert_int_equal(f->a->result, -EPIPE);
}

static void test_wrong_direction_and_no_descriptor(void **state)
{
	struct fixture *f = *state;

	start_read(&f->rig, f->a, f->pipe[1], 10);
	run_until(&f->rig, &f->a->calls, 1);
	assert_int_equal(f->a->result, -EBADF);
	start_write(&f->rig, f->a, 1 << 20, "x", 1);
	run_until(&f->rig, &f->a->calls, 1);
	assert_int_equal(f->a->result, -EBADF);
}

static void test_a_long_write_goes_on_as_room_comes(void **state)
{
	struct fixture *f = *state;
	size_t len = 250000, got = 0;
	unsigned char *sent = numbered(len), *taken = malloc(len);

	start_write(&f->rig, f->a, f->pipe[1], sent, len);
	assert_int_equal(f->a->calls, 0);
	while (got < len) {
		ssize_t n = read(f->pipe[0], taken + got, len - got < 5000 ? len - got : 5000);

		assert_true(n > 0);
		got += (size_t)n;
		relay_dispatch(f->rig.relay);
	}
	run_until(&f->rig, &f->a->calls, 1);
	assert_int_equal(f->a->result, len);
	assert_memory_equal(taken, sent, len);
	free(sent);
	free(taken);
}

static void test_a_nonblocking_write_takes_what_fits(void **state)
{
	struct fixture *f = *state;
	unsigned char *sent = numbered(200000);
	struct job *j = f->a;

	j->io = (struct relay_io){ .unique = 1,
				   .fd = f->pipe[1],
				   .offset = -1,
				   .data = sent,
				   .len = 200000,
				   .write = true,
				   .nonblock = true,
				   .done = job_done };
	relay_start(f->rig.relay, &j->io);
	run_until(&f->rig, &j->calls, 1);
	assert_int_equal(j->result, 65536);
	j->calls = 0;
	relay_start(f->rig.relay, &j->io);
	run_until(&f->rig, &j->calls, 1);
	assert_int_equal(j->result, -EAGAIN);
	free(sent);
}

static void test_no_more_than_a_slot_is_moved(void **state)
{
	struct fixture *f = *state;
	unsigned char *sent = numbered(SHM_SLOT_BYTES + 5000);
	int fd = memfd_create("test", MFD_CLOEXEC);
	struct stat st;

	f->a->io = (struct relay_io){ .unique = 1,
				      .fd = fd,
				      .offset = 0,
				      .data = sent,
				      .len = SHM_SLOT_BYTES + 5000,
				      .write = true,
				      .regular = true,
				      .done = job_done };
	relay_start(f->rig.relay, &f->a->io);
	run_until(&f->rig, &f->a->calls, 1);
	assert_int_equal(f->a->result, SHM_SLOT_BYTES);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, SHM_SLOT_BYTES);
	free(sent);
	close(fd);
}

static void test_a_file_has_offsets_and_keeps_its_own(void **state)
{
	struct fixture *f = *state;
	int fd = memfd_create("test", MFD_CLOEXEC);

	put(fd, "0123456789");
	assert_int_equal(lseek(fd, 3, SEEK_SET), 3);
	f->a->io = (struct relay_io){
		.unique = 1, .fd = fd, .offset = 6, .len = 100, .regular = true, .done = job_done
	};
	relay_start(f->rig.relay, &f->a->io);
	expect_data(f, f->a, "6789");
	f->b->io = (struct relay_io){ .unique = 1,
				      .fd = fd,
				      .offset = 8,
				      .data = "xyz",
				      .len = 3,
				      .write = true,
				      .regular = true,
				      .done = job_done };
	relay_start(f->rig.relay, &f->b->io);
	run_until(&f->rig, &f->b->calls, 1);
	assert_int_equal(f->b->result, 3);
	f->a->calls = 0;
	f->a->io.offset = 11;
	relay_start(f->rig.relay, &f->a->io);
	run_until(&f->rig, &f->a->calls, 1);
	assert_int_equal(f->a->result, 0);
	assert_int_equal(lseek(fd, 0, SEEK_CUR), 3);
	close(fd);
}

static void test_a_terminal(void **state)
{
	struct fixture *f = *state;
	int master, slave;

	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	start_read(&f->rig, f->a, slave, 100);
	run_for(&f->rig, 30);
	assert_int_equal(f->a->calls, 0);
	put(master, "half a line");
	run_for(&f->rig, 30);
	assert_int_equal(f->a->calls, 0);
	put(master, "\n");
	expect_data(f, f->a, "half a line\n");
	f->b->io = (struct relay_io){
		.unique = 1, .fd = slave, .offset = -1, .len = 10, .nonblock = true, .done = job_done
	};
	relay_start(f->rig.relay, &f->b->io);
	run_until(&f->rig, &f->b->calls, 1);
	assert_int_equal(f->b->result, -EAGAIN);
	start_write(&f->rig, f->b, slave, "out", 3);
	run_until(&f->rig, &f->b->calls, 1);
	assert_int_equal(f->b->result, 3);
	start_read(&f->rig, f->a, slave, 100);
	relay_cancel(&f->a->io);
	run_until(&f->rig, &f->a->calls, 1);
	assert_int_equal(f->a->result, -EINTR);
	close(master);
	close(slave);
}

static void test_counters_timers_and_watches(void **state)
{
	struct fixture *f = *state;
	struct itimerspec soon = { .it_value.tv_nsec = 1000000 };
	int event = eventfd(0, EFD_CLOEXEC), timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	int watch = inotify_init1(IN_CLOEXEC);
	char dir[] = "/tmp/test-relay-XXXXXX";
	uint64_t seven = 7, got;

	start_read(&f->rig, f->a, event, 8);
	run_for(&f->rig, 20);
	assert_int_equal(f->a->calls, 0);
	assert_int_equal(write(event, &seven, 8), 8);
	run_until(&f->rig, &f->a->calls, 1);
	memcpy(&got, f->a->data, 8);
	assert_int_equal(f->a->result, 8);
	assert_int_equal(got, 7);

	start_read(&f->rig, f->a, timer, 8);
	assert_int_equal(timerfd_settime(timer, 0, &soon, NULL), 0);
	run_until(&f->rig, &f->a->calls, 1);
	assert_int_equal(f->a->result, 8);

	assert_non_null(mkdtemp(dir));
	assert_true(inotify_add_watch(watch, dir, IN_DELETE_SELF) >= 0);
	start_read(&f->rig, f->a, watch, 1000);
	assert_int_equal(rmdir(dir), 0);
	run_until(&f->rig, &f->a->calls, 1);
	assert_true(f->a->result >= (int)sizeof(struct inotify_event));
	close(event);
	close(timer);
	close(watch);
}

/* An eventfd takes no write that must not wait, though it never waits long: EAGAIN and yet ready. */
static void test_a_counter_is_written(void **state)
{
	struct fixture *f = *state;
	int event = eventfd(0, EFD_CLOEXEC);
	uint64_t seven = 7, most = UINT64_MAX - 1, got;

	start_write(&f->rig, f->b, event, &seven, 8);
	run_until(&f->rig, &f->b->calls, 1);
	assert_int_equal(f->b->result, 8);
	assert_int_equal(read(event, &got, 8), 8);
	assert_int_equal(got, 7);
	f->a->io = (struct relay_io){ .unique = 1,
				      .fd = event,
				      .offset = -1,
				      .data = &most,
				      .len = 8,
				      .write = true,
				      .nonblock = true,
				      .done = job_done };
	f->a->calls = 0;
	relay_start(f->rig.relay, &f->a->io);
	run_until(&f->rig, &f->a->calls, 1);
	assert_int_equal(f->a->result, 8);
	f->a->calls = 0;
	relay_start(f->rig.relay, &f->a->io);
	run_until(&f->rig, &f->a->calls, 1);
	assert_int_equal(f->a->result, -EAGAIN);
	/* Full: waits until somebody takes it out. */
	start_write(&f->rig, f->b, event, &most, 8);
	run_for(&f->rig, 20);
	assert_int_equal(f->b->calls, 0);
	assert_int_equal(read(event, &got, 8), 8);
	run_until(&f->rig, &f->b->calls, 1);
	assert_int_equal(f->b->result, 8);
	close(event);
}

/* There is room for something, but not for this. */
static void test_a_write_that_is_ready_and_yet_blocks(void **state)
{
	struct fixture *f = *state;
	int event = eventfd(1, EFD_CLOEXEC);
	uint64_t most = UINT64_MAX - 1, got;

	start_write(&f->rig, f->b, event, &most, 8);
	run_for(&f->rig, 20);
	assert_int_equal(f->b->calls, 0);
	put(f->pipe[1], "meanwhile");
	start_read(&f->rig, f->a, f->pipe[0], 100);
	expect_data(f, f->a, "meanwhile");
	assert_int_equal(read(event, &got, 8), 8);
	run_until(&f->rig, &f->b->calls, 1);
	assert_int_equal(f->b->result, 8);
	close(event);
}

/* Without a ring nothing may be tried that could block. */
static void test_what_might_block_is_refused(void **state)
{
	struct fixture *f = *state;
	int event = eventfd(0, EFD_CLOEXEC);
	uint64_t seven = 7;

	start_write(&f->rig, f->b, event, &seven, 8);
	run_until(&f->rig, &f->b->calls, 1);
	assert_int_equal(f->b->result, -EOPNOTSUPP);
	close(event);
}

static void test_packets_stay_whole(void **state)
{
	struct fixture *f = *state;
	int sock[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock), 0);
	start_write(&f->rig, f->a, sock[0], "one", 3);
	run_until(&f->rig, &f->a->calls, 1);
	start_write(&f->rig, f->a, sock[0], "second", 6);
	run_until(&f->rig, &f->a->calls, 1);
	start_read(&f->rig, f->a, sock[1], 100);
	expect_data(f, f->a, "one");
	start_read(&f->rig, f->a, sock[1], 100);
	expect_data(f, f->a, "second");
	close(sock[0]);
	close(sock[1]);
}

static void test_giving_up(void **state)
{
	struct fixture *f = *state;
	unsigned char *sent = numbered(200000);

	start_read(&f->rig, f->a, f->pipe[0], 10);
	relay_cancel(&f->a->io);
	run_until(&f->rig, &f->a->calls, 1);
	assert_int_equal(f->a->result, -EINTR);
	/* What comes afterwards is the next reader's. */
	put(f->pipe[1], "next");
	run_for(&f->rig, 20);
	start_read(&f->rig, f->b, f->pipe[0], 10);
	expect_data(f, f->b, "next");

	start_write(&f->rig, f->a, f->pipe[1], sent, 200000);
	run_for(&f->rig, 30);
	assert_int_equal(f->a->calls, 0);
	relay_cancel(&f->a->io);
	run_until(&f->rig, &f->a->calls, 1);
	assert_int_equal(f->a->result, 65536);
	free(sent);
}

static void test_a_file_that_hangs_can_be_given_up(void **state)
{
	struct fixture *f = *state;

	/* As a file of a hung server would: it blocks a kernel worker. */
	f->a->io = (struct relay_io){ .unique = 1,
				      .fd = f->pipe[0],
				      .offset = -1,
				      .len = 10,
				      .regular = true,
				      .done = job_done };
	relay_start(f->rig.relay, &f->a->io);
	run_for(&f->rig, 30);
	assert_int_equal(f->a->calls, 0);
	relay_cancel(&f->a->io);
	run_until(&f->rig, &f->a->calls, 1);
	assert_int_equal(f->a->result, -EINTR);
}

/* A kernel worker first tries, then arms a poll: a cancel that comes in between is heard by neither. */
static void test_giving_up_at_any_moment(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 1000; i++) {
		f->a->calls = 0;
		f->a->io = (struct relay_io){ .unique = 1,
					      .fd = f->pipe[0],
					      .offset = -1,
					      .len = 10,
					      .regular = true,
					      .done = job_done };
		relay_start(f->rig.relay, &f->a->io);
		for (int turns = i % 50 * 100; turns > 0; turns--)
			__asm__ volatile("" ::: "memory");
		relay_cancel(&f->a->io);
		run_until(&f->rig, &f->a->calls, 1);
		assert_int_equal(f->a->result, -EINTR);
	}
}

static unsigned int chain_left;

static void next_in_chain(struct relay_io *io, int result, const void *data)
{
	struct job *j = (struct job *)io;

	assert_int_equal(result, 1);
	if (--chain_left == 0) {
		j->calls++;
		return;
	}
	relay_start(io->relay, io);
}

static void test_answers_that_start_the_next_transfer(void **state)
{
	struct fixture *f = *state;
	unsigned char *sent = numbered(60000);

	assert_int_equal(write(f->pipe[1], sent, 60000), 60000);
	/* Without a ring each begins inside the one before. */
	chain_left = without_ring ? 1000 : 60000;
	f->a->io = (struct relay_io){
		.unique = 1, .fd = f->pipe[0], .offset = -1, .len = 1, .done = next_in_chain
	};
	relay_start(f->rig.relay, &f->a->io);
	run_until(&f->rig, &f->a->calls, 1);
	free(sent);
}

struct watcher {
	struct relay_wait wait;
	unsigned int calls;
	unsigned int revents;
};

static void on_watch(struct relay_wait *w, unsigned int revents)
{
	struct watcher *me = (struct watcher *)w;

	me->calls++;
	me->revents = revents;
}

static void test_waiting_once_and_watching(void **state)
{
	struct fixture *f = *state;
	struct watcher once = { .wait.ready = on_watch }, always = { .wait.ready = on_watch };
	char c;

	assert_int_equal(relay_wait(f->rig.relay, &once.wait, f->pipe[0], POLLIN), 0);
	assert_int_equal(relay_watch(f->rig.relay, &always.wait, f->pipe[0], POLLIN), 0);
	assert_true(once.wait.index && always.wait.index);
	assert_int_equal(once.calls + always.calls, 0);
	put(f->pipe[1], "x");
	run_until(&f->rig, &once.calls, 1);
	run_until(&f->rig, &always.calls, 1);
	assert_true(once.revents & POLLIN);
	assert_int_equal(once.wait.index, 0);
	assert_int_equal(read(f->pipe[0], &c, 1), 1);
	put(f->pipe[1], "y");
	run_until(&f->rig, &always.calls, 2);
	assert_int_equal(once.calls, 1);
	relay_wait_cancel(f->rig.relay, &always.wait);
	assert_int_equal(always.wait.index, 0);
	assert_int_equal(read(f->pipe[0], &c, 1), 1);
	put(f->pipe[1], "z");
	run_for(&f->rig, 20);
	assert_int_equal(always.calls, 2);
	/* What is there already is told during the call. */
	always.calls = 0;
	assert_int_equal(relay_watch(f->rig.relay, &always.wait, f->pipe[0], POLLIN), 0);
	assert_int_equal(always.calls, 1);
	relay_wait_cancel(f->rig.relay, &always.wait);
	relay_wait_cancel(f->rig.relay, &always.wait);
}

static void test_the_ring_can_do_nothing_else(void **state)
{
	struct fixture *f = *state;
	struct io_uring_params p = f->rig.params;
	struct io_uring ring;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	int copy = fcntl(f->rig.ring_fd, F_DUPFD_CLOEXEC, 3);

	assert_int_equal(io_uring_queue_mmap(copy, &p, &ring), 0);
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_openat(sqe, AT_FDCWD, "/dev/null", O_RDONLY, 0);
	io_uring_submit(&ring);
	assert_int_equal(io_uring_wait_cqe(&ring, &cqe), 0);
	assert_int_equal(cqe->res, -EACCES);
	io_uring_cqe_seen(&ring, cqe);
	io_uring_queue_exit(&ring);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_ring_is_borrowed),
		BOTH(test_what_is_there_is_read),
		BOTH(test_what_is_not_there_is_waited_for),
		BOTH(test_nonblock_gives_up_at_once),
		BOTH(test_the_end_is_zero_bytes),
		BOTH(test_nobody_reads),
		BOTH(test_wrong_direction_and_no_descriptor),
		BOTH(test_a_long_write_goes_on_as_room_comes),
		BOTH(test_a_nonblocking_write_takes_what_fits),
		BOTH(test_no_more_than_a_slot_is_moved),
		BOTH(test_a_file_has_offsets_and_keeps_its_own),
		TEST(test_a_terminal),
		TEST(test_counters_timers_and_watches),
		BOTH(test_packets_stay_whole),
		BOTH(test_giving_up),
		BOTH(test_answers_that_start_the_next_transfer),
		BOTH(test_waiting_once_and_watching),
		TEST(test_a_counter_is_written),
		TEST(test_a_file_that_hangs_can_be_given_up),
		TEST(test_giving_up_at_any_moment),
		TEST(test_the_ring_can_do_nothing_else),
		TEST(test_a_write_that_is_ready_and_yet_blocks),
		WITHOUT(test_what_might_block_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
