// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_recover.c - a process that is killed and does not end: the kernel still works on its transfer, and the next process goes on
 * beside it (engine/relay/recover.c).
 *
 * A thread of this process writes into a pipe from a page that never comes, and holds the pipe's mutex meanwhile. A child starts to
 * read from that pipe, is killed, and cannot be reaped, since its kernel worker waits for the mutex. Bringing the page lets all go on.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define RUNNING_ON_VALGRIND 0
#endif

#include "transfer_fixture.h"

#define REQUEST 71
#define PAGE 4096
#define BEFORE "before" /* in the pipe already, */
#define LEN 10 /* and so many bytes are asked for: these and some of the page */

/* Instructions between one kill and the next. */
#if defined(__SANITIZE_THREAD__)
#define STRIDE 499
#elif defined(__SANITIZE_ADDRESS__)
#define STRIDE 97
#else
#define STRIDE 3
#endif

struct scene {
	struct fixture *f;
	int uffd;
	char *page;
	pthread_t holder;
	pid_t first; /* the process that was killed */
	bool held;
	unsigned int answers;
	uint64_t answered; /* which request */
	char data[LEN];
	bool somebody_waits; /* what answer() says */
};

static void *hold(void *arg)
{
	struct scene *s = arg;

	assert_int_equal(write(s->f->pipe[1], s->page, PAGE), PAGE);
	return NULL;
}

static void wait_readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
}

static char state_of(pid_t pid, const char *task)
{
	char path[300], line[400], *end, state = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%s/stat", (int)pid, task);
	f = fopen(path, "re");
	if (!f)
		return 0;
	if (fgets(line, sizeof(line), f)) {
		end = strrchr(line, ')');
		if (end && strstr(line, "(iou-wrk"))
			state = end[2];
	}
	fclose(f);
	return state;
}

/* Does a kernel worker of this process wait for what no signal interrupts? */
static bool worker_hangs(pid_t pid)
{
	bool hangs = false;
	struct dirent *e;
	char path[32];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	assert_non_null(dir);
	while ((e = readdir(dir)))
		hangs |= e->d_name[0] != '.' && state_of(pid, e->d_name) == 'D';
	closedir(dir);
	return hangs;
}

static void scene_init(struct scene *s, struct fixture *f)
{
	struct uffdio_api api = { .api = UFFD_API };

	*s = (struct scene){ .f = f };
	alarm(120);
	s->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (s->uffd < 0 || ioctl(s->uffd, UFFDIO_API, &api) < 0) {
		print_message("# no userfaultfd: %s\n", strerror(errno));
		skip();
	}
	s->page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(s->page, MAP_FAILED);
}

static void scene_deinit(struct scene *s)
{
	close(s->uffd);
	munmap(s->page, PAGE);
}

/* A thread takes the pipe's mutex and keeps it. */
static void hold_pipe(struct scene *s)
{
	struct uffdio_register area = { .range = { (uintptr_t)s->page, PAGE },
					.mode = UFFDIO_REGISTER_MODE_MISSING };

	assert_int_equal(madvise(s->page, PAGE, MADV_DONTNEED), 0);
	assert_int_equal(ioctl(s->uffd, UFFDIO_REGISTER, &area), 0);
	put(s->f->pipe[1], BEFORE);
	assert_int_equal(pthread_create(&s->holder, NULL, hold, s), 0);
	wait_readable(s->uffd);
	s->held = true;
}

/* The page comes: the pipe is free, and whoever was killed ends. */
static void bring_page(struct scene *s)
{
	struct uffdio_zeropage zero = { .range = { (uintptr_t)s->page, PAGE } };
	struct uffd_msg msg;
	int status;

	assert_int_equal(read(s->uffd, &msg, sizeof(msg)), sizeof(msg));
	assert_int_equal(ioctl(s->uffd, UFFDIO_ZEROPAGE, &zero), 0);
	assert_int_equal(pthread_join(s->holder, NULL), 0);
	assert_int_equal(waitpid(s->first, &status, 0), s->first);
	assert_true(WIFSIGNALED(status));
	s->held = false;
}

static void read_request(struct scene *s, struct job *j, uint64_t unique)
{
	j->calls = 0;
	j->io = (struct relay_io){ .unique = unique,
				   .fd = s->f->pipe[0],
				   .offset = -1,
				   .len = LEN,
				   .nowait = true,
				   .done = job_done };
	relay_start(s->f->rig.relay, &j->io);
}

static void next_relay(struct fixture *f)
{
	relay_free(f->rig.relay);
	assert_int_equal(relay_new(&f->rig.relay, f->rig.ring_fd, &f->rig.params, f->rig.slots,
				   f->rig.nr_slots),
			 0);
}

/* A process begins to read from the pipe that is held, and is killed. It cannot end. */
static void leave_a_transfer(struct scene *s)
{
	int64_t end = now_ms() + PATIENCE_MS;
	int status;

	hold_pipe(s);
	s->first = fork();
	if (s->first == 0) {
		next_relay(s->f);
		read_request(s, s->f->b, REQUEST);
		for (;;)
			pause();
	}
	assert_true(s->first > 0);
	while (!worker_hangs(s->first)) {
		assert_true(now_ms() < end);
		usleep(200);
	}
	assert_int_equal(kill(s->first, SIGKILL), 0);
	assert_int_equal(waitpid(s->first, &status, WNOHANG), 0);
}

static bool answer(void *ctx, uint64_t unique, bool write, const void *data, uint32_t bytes)
{
	struct scene *s = ctx;

	assert_false(write);
	assert_int_equal(bytes, LEN);
	memcpy(s->data, data, LEN);
	s->answered = unique & ~RELAY_AGAIN;
	s->answers++;
	return s->somebody_waits;
}

static void next_process(struct scene *s)
{
	next_relay(s->f);
	relay_recover(s->f->rig.relay, answer, s);
}

static struct shm_slot *left_slot(struct scene *s)
{
	struct shm_slot *found = NULL;

	for (unsigned int i = 0; i < s->f->rig.nr_slots; i++)
		if (s->f->rig.slots[i].unique) {
			assert_null(found);
			found = &s->f->rig.slots[i];
		}
	assert_non_null(found);
	assert_int_equal(found->unique & ~RELAY_AGAIN, REQUEST);
	return found;
}

static void assert_no_slot_is_taken(struct scene *s)
{
	for (unsigned int i = 0; i < s->f->rig.nr_slots; i++) {
		assert_true(s->f->rig.slots[i].unique == 0);
		assert_int_equal(s->f->rig.slots[i].left, 0);
	}
}

static void assert_first_bytes(const void *data)
{
	assert_memory_equal(data, BEFORE "\0\0\0\0", LEN);
}

/* What the first read did not take is there, and no more. */
static void assert_rest_in_pipe(struct scene *s)
{
	static char rest[2 * PAGE];

	assert_int_equal(read(s->f->pipe[0], rest, sizeof(rest)), PAGE + strlen(BEFORE) - LEN);
}

/* The request comes again while the transfer goes on: it has the transfer's bytes, and nobody else. */
static void the_request_waits_for_it(struct scene *s)
{
	left_slot(s);
	read_request(s, s->f->a, REQUEST | RELAY_AGAIN);
	run_for(&s->f->rig, 20);
	assert_int_equal(s->f->a->calls, 0);
	bring_page(s);
	run_until(&s->f->rig, &s->f->a->calls, 1);
	assert_int_equal(s->f->a->result, LEN);
	assert_first_bytes(s->f->a->data);
	assert_int_equal(s->answers, 0);
	assert_rest_in_pipe(s);
	assert_no_slot_is_taken(s);
	scene_deinit(s);
}

static void test_the_request_that_comes_again_waits_for_it(void **state)
{
	struct scene s;

	scene_init(&s, *state);
	leave_a_transfer(&s);
	next_process(&s);
	the_request_waits_for_it(&s);
}

static void test_its_bytes_wait_for_the_request(void **state)
{
	struct scene s;

	scene_init(&s, *state);
	leave_a_transfer(&s);
	next_process(&s);
	bring_page(&s);
	run_until(&s.f->rig, &s.answers, 1);
	assert_int_equal(s.answered, REQUEST);
	run_for(&s.f->rig, 20);
	left_slot(&s);
	read_request(&s, s.f->a, REQUEST | RELAY_AGAIN);
	assert_int_equal(s.f->a->calls, 1);
	assert_int_equal(s.f->a->result, LEN);
	assert_first_bytes(s.f->a->data);
	assert_rest_in_pipe(&s);
	assert_no_slot_is_taken(&s);
	scene_deinit(&s);
}

static void test_who_still_waits_is_answered(void **state)
{
	struct scene s;

	scene_init(&s, *state);
	s.somebody_waits = true;
	leave_a_transfer(&s);
	next_process(&s);
	bring_page(&s);
	run_until(&s.f->rig, &s.answers, 1);
	assert_int_equal(s.answered, REQUEST);
	assert_first_bytes(s.data);
	assert_no_slot_is_taken(&s);
	assert_rest_in_pipe(&s);
	scene_deinit(&s);
}

/* Another request, though its number is near, is nothing to it. */
static void test_others_get_other_slots(void **state)
{
	struct job *others[NR_SLOTS];
	struct shm_slot *left;
	struct scene s;

	scene_init(&s, *state);
	leave_a_transfer(&s);
	next_process(&s);
	left = left_slot(&s);
	for (int round = 0; round < 5 * NR_SLOTS; round++) {
		put(s.f->sock[1], "others");
		start_read(&s.f->rig, s.f->b, s.f->sock[0], 10);
		expect_data(s.f, s.f->b, "others");
		assert_ptr_equal(left_slot(&s), left);
	}
	/* All others are taken, and one more waits. */
	read_request(&s, s.f->a, REQUEST | RELAY_AGAIN);
	for (int i = 0; i < NR_SLOTS; i++) {
		others[i] = new_job();
		read_request(&s, others[i], REQUEST + 1 + (unsigned int)i);
		run_for(&s.f->rig, 5);
		assert_int_equal(others[i]->calls, 0);
		assert_int_equal(left->unique & ~RELAY_AGAIN, REQUEST);
	}
	bring_page(&s);
	run_until(&s.f->rig, &s.f->a->calls, 1);
	assert_int_equal(s.f->a->result, LEN);
	assert_int_equal(s.answers, 0);
	for (int i = 0; i < NR_SLOTS; i++) {
		run_until(&s.f->rig, &others[i]->calls, 1);
		assert_int_equal(others[i]->result, LEN);
		free(others[i]);
	}
	scene_deinit(&s);
}

/* A process that has taken over, and asked for the request or not, is killed as well. */
static void the_second_is_killed(struct scene *s, bool asked)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		next_process(s);
		if (asked)
			read_request(s, s->f->b, REQUEST | RELAY_AGAIN);
		raise(SIGKILL);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
}

static void test_it_outlives_a_second_process(void **state)
{
	for (int asked = 0; asked < 2; asked++) {
		struct scene s;

		scene_init(&s, *state);
		leave_a_transfer(&s);
		the_second_is_killed(&s, asked);
		the_second_is_killed(&s, asked);
		next_process(&s);
		the_request_waits_for_it(&s);
	}
}

/*
 * The second has asked the kernel to send the request again, and is killed before it comes. Then nobody waits for an answer when the
 * third finds that the transfer has ended, and yet the request will come.
 */
static void test_it_ends_between_the_second_and_the_third(void **state)
{
	struct scene s;

	scene_init(&s, *state);
	leave_a_transfer(&s);
	the_second_is_killed(&s, false);
	bring_page(&s);
	next_process(&s);
	run_until(&s.f->rig, &s.answers, 1);
	left_slot(&s);
	read_request(&s, s.f->a, REQUEST | RELAY_AGAIN);
	assert_int_equal(s.f->a->calls, 1);
	assert_int_equal(s.f->a->result, LEN);
	assert_first_bytes(s.f->a->data);
	assert_rest_in_pipe(&s);
	assert_no_slot_is_taken(&s);
	scene_deinit(&s);
}

/* How often the second has answered the request: shared with it. */
static unsigned int *by_second;

static void second_done(struct relay_io *io, int result, const void *data)
{
	if (result == LEN && memcmp(data, BEFORE "\0\0\0\0", LEN) == 0)
		++*by_second;
}

/* The second takes note that the transfer has ended, and is killed after @steps instructions of that. Return: had it done all? */
static bool kill_the_second_after(struct scene *s, unsigned int steps, bool asked)
{
	bool ended = false;
	int status;
	pid_t pid;

	leave_a_transfer(s);
	pid = fork();
	if (pid == 0) {
		next_process(s);
		if (asked)
			read_request(s, s->f->b, REQUEST | RELAY_AGAIN);
		s->f->b->io.done = second_done;
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		relay_dispatch(s->f->rig.relay);
		_exit(0);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSTOPPED(status));
	bring_page(s);
	for (unsigned int i = 0; i < steps && !ended; i++) {
		assert_int_equal(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		ended = WIFEXITED(status);
	}
	if (ended) {
		assert_int_equal(WEXITSTATUS(status), 0);
	} else {
		assert_int_equal(kill(pid, SIGKILL), 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
	}
	next_process(s);
	return ended;
}

static void test_the_second_killed_at_every_instruction(void **state)
{
	unsigned int steps = 0;
	bool ended = false;
	struct scene s;

	if (RUNNING_ON_VALGRIND)
		skip();
	scene_init(&s, *state);
	for (; !ended; steps += STRIDE) {
		ended = kill_the_second_after(&s, steps, false);
		read_request(&s, s.f->a, REQUEST | RELAY_AGAIN);
		run_until(&s.f->rig, &s.f->a->calls, 1);
		assert_int_equal(s.f->a->result, LEN);
		assert_first_bytes(s.f->a->data);
		assert_rest_in_pipe(&s);
		assert_no_slot_is_taken(&s);
	}
	assert_true(steps > 4 * STRIDE);
	scene_deinit(&s);
}

/* The same with one that has the request already: it answers, or the third does. */
static void test_the_second_with_the_request_killed_at_every_instruction(void **state)
{
	unsigned int steps = 0, second = 0, third = 0;
	bool ended = false;
	struct scene s;

	if (RUNNING_ON_VALGRIND)
		skip();
	scene_init(&s, *state);
	s.somebody_waits = true;
	by_second = mmap(NULL, sizeof(*by_second), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(by_second, MAP_FAILED);
	for (; !ended; steps += STRIDE) {
		*by_second = s.answers = 0;
		ended = kill_the_second_after(&s, steps, true);
		/* If both do, the kernel refuses the later answer. */
		if (!*by_second)
			run_until(&s.f->rig, &s.answers, 1);
		if (s.answers)
			assert_first_bytes(s.data);
		second += *by_second;
		third += s.answers;
		assert_rest_in_pipe(&s);
		assert_no_slot_is_taken(&s);
	}
	assert_true(second > 0 && third > 0);
	munmap(by_second, sizeof(*by_second));
	scene_deinit(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_the_request_that_comes_again_waits_for_it),
		TEST(test_its_bytes_wait_for_the_request),
		TEST(test_who_still_waits_is_answered),
		TEST(test_others_get_other_slots),
		TEST(test_it_outlives_a_second_process),
		TEST(test_it_ends_between_the_second_and_the_third),
		TEST(test_the_second_killed_at_every_instruction),
		TEST(test_the_second_with_the_request_killed_at_every_instruction),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
