// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_kill.c - the theory at the head of engine/relay/relay.h: a process that is killed at any instruction of a transfer
 * loses no byte and moves none twice.
 *
 * A child is the worker: it shares the ring and the slots, and reads (or writes) a numbered stream. This process is the
 * keeper, the kernel that waits for answers, and the next worker: it kills the child, reaps it, makes a new relay,
 * recovers, and starts the next child with the request that is still unanswered.
 *
 * An answer is, as a write to /dev/fuse, one step: refused unless the request is the one that is waited for. Once the
 * child is stepped through one transfer instruction by instruction, being killed one instruction later each
 * time; once it is killed at moments that chance chooses.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>

#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define RUNNING_ON_VALGRIND 0
#endif

#include "relay_fixture.h"

#define CHUNK 96
#define STEPS_MAX 200000

/* A sanitizer makes many instructions of one, and valgrind, which is what would be stepped, very many. */
#if defined(__SANITIZE_THREAD__)
#define STRIDE 3001
#define STORMS 100
#elif defined(__SANITIZE_ADDRESS__)
#define STRIDE 307
#define STORMS 200
#else
#define STRIDE 3
#define STORMS 2000
#endif

/*
 * What the kernel knows of the one request: shared by all.
 * @unique: the request that waits for its answer
 * @position: of its first byte in the stream
 * @result: the answer, taken together with @answered
 * @answered: the last request that was answered
 */
struct mailbox {
	_Atomic uint64_t unique;
	uint64_t position;
	_Atomic uint64_t answered;
	int result;
	unsigned char data[CHUNK];
	uint64_t refused;
};

struct fixture {
	struct rig rig;
	struct mailbox *box;
	int fd[2];
	bool write;
	uint64_t produced; /* bytes that the test put into the stream, or took out of it */
	uint64_t delivered; /* bytes that answers spoke of */
	uint64_t recovered;
	unsigned int seed;
};

static unsigned char number(uint64_t at)
{
	return (unsigned char)((at * 2654435761u) >> 11);
}

static void fixture_init(struct fixture *f, bool write, bool sockets)
{
	*f = (struct fixture){ .write = write, .seed = 1 };
	rig_init(&f->rig);
	f->box = mmap(NULL, sizeof(*f->box), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	assert_ptr_not_equal(f->box, MAP_FAILED);
	f->box->unique = 1;
	assert_int_equal(sockets ? socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, f->fd)
				 : pipe2(f->fd, O_CLOEXEC),
			 0);
	/* Ours never blocks; the child's is an open file of its own and does. */
	assert_int_equal(fcntl(f->fd[write ? 0 : 1], F_SETFL, O_NONBLOCK), 0);
}

static void fixture_deinit(struct fixture *f)
{
	rig_deinit(&f->rig);
	close(f->fd[0]);
	close(f->fd[1]);
	munmap(f->box, sizeof(*f->box));
}

/* The answer to @unique, in one step; refused if nobody waits for it. */
static void deliver(struct mailbox *box, uint64_t unique, int result, const void *data)
{
	if (box->unique != unique || atomic_load(&box->answered) == unique) {
		box->refused++;
		return;
	}
	if (data && result > 0)
		memcpy(box->data, data, (size_t)result);
	box->result = result;
	atomic_store(&box->answered, unique);
}

/* The test's side of the stream: keeps something to read there, or takes out and checks what was written. */
static void feed(struct fixture *f)
{
	unsigned char bytes[CHUNK * 4];

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = number(f->produced + i);
	if (f->produced - f->delivered < sizeof(bytes)) {
		ssize_t n = write(f->fd[1], bytes, sizeof(bytes));

		assert_true(n > 0);
		f->produced += (uint64_t)n;
	}
}

static void drain(struct fixture *f)
{
	unsigned char bytes[4096];
	ssize_t n;

	while ((n = read(f->fd[0], bytes, sizeof(bytes))) > 0) {
		for (ssize_t i = 0; i < n; i++)
			assert_int_equal(bytes[i], number(f->produced + (uint64_t)i));
		f->produced += (uint64_t)n;
	}
}

/* If the request has been answered: check the answer; the next one is asked. */
static void take_answer(struct fixture *f)
{
	struct mailbox *box = f->box;

	if (atomic_load(&box->answered) != box->unique)
		return;
	assert_true(box->result > 0);
	if (!f->write)
		for (int i = 0; i < box->result; i++)
			assert_int_equal(box->data[i], number(f->delivered + (uint64_t)i));
	f->delivered += (uint64_t)box->result;
	box->position = f->delivered;
	atomic_fetch_add(&box->unique, 1);
}

static struct fixture *child_of;

static void child_done(struct relay_io *io, int result, const void *data)
{
	struct job *j = (struct job *)io;

	deliver(child_of->box, io->unique, result, io->write ? NULL : data);
	j->calls++;
}

/* What the request that waits would write. */
static void fill(const struct fixture *f, unsigned char *out)
{
	for (size_t i = 0; i < CHUNK && f->write; i++)
		out[i] = number(f->box->position + i);
}

/* The worker: carries out the request that waits; @more: and the following ones too. */
static _Noreturn void child(struct fixture *f, bool stepped, bool more)
{
	static struct job j;
	unsigned char out[CHUNK];
	struct relay *relay;

	child_of = f;
	if (relay_new(&relay, f->rig.ring_fd, &f->rig.params, f->rig.slots, NR_SLOTS) < 0)
		_exit(1);
	fill(f, out);
	if (stepped) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
	}
	do {
		uint64_t unique = atomic_load(&f->box->unique);

		j.calls = 0;
		j.io = (struct relay_io){
			.unique = unique,
			.fd = f->fd[f->write ? 1 : 0],
			.offset = -1,
			.data = out,
			.len = CHUNK,
			.write = f->write,
			.done = child_done,
		};
		relay_start(relay, &j.io);
		while (!j.calls) {
			struct pollfd p = { .fd = relay_fd(relay), .events = POLLIN };

			poll(&p, 1, -1);
			relay_dispatch(relay);
		}
		while (more && atomic_load(&f->box->unique) == unique)
			sched_yield();
		if (more)
			fill(f, out);
	} while (more);
	_exit(0);
}

static bool recovered(void *ctx, uint64_t unique, bool write, const void *data, uint32_t bytes)
{
	struct fixture *f = ctx;

	assert_int_equal(write, f->write);
	assert_true(bytes <= CHUNK);
	f->recovered++;
	deliver(f->box, unique, (int)bytes, write ? NULL : data);
	return true;
}

/* What the next worker does first. */
static void recover(struct fixture *f)
{
	relay_free(f->rig.relay);
	assert_int_equal(
		relay_new(&f->rig.relay, f->rig.ring_fd, &f->rig.params, f->rig.slots, NR_SLOTS),
		0);
	relay_recover(f->rig.relay, recovered, f);
	for (int i = 0; i < NR_SLOTS; i++)
		assert_true(f->rig.slots[i].unique == 0);
	take_answer(f);
	if (f->write) {
		drain(f);
		/* Every byte in the stream was spoken of in an answer, and every byte spoken of is in the stream. */
		assert_int_equal(f->produced, f->delivered);
	}
}

/* Let a child take @steps instructions of one transfer, and kill it. Return: true if it had ended before. */
static bool kill_after(struct fixture *f, unsigned int steps)
{
	bool ended = false;
	int status;
	pid_t pid;

	if (!f->write)
		feed(f);
	pid = fork();
	if (pid == 0)
		child(f, true, false);
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSTOPPED(status));
	for (unsigned int i = 0; i < steps && !ended; i++) {
		assert_int_equal(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		ended = WIFEXITED(status);
	}
	if (ended) {
		assert_int_equal(WEXITSTATUS(status), 0);
	} else {
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
	}
	recover(f);
	return ended;
}

static void every_instruction(bool write, bool sockets)
{
	struct fixture f;
	unsigned int n = 0;

	if (RUNNING_ON_VALGRIND)
		skip();
	fixture_init(&f, write, sockets);
	while (n < STEPS_MAX && !kill_after(&f, n))
		n += STRIDE;
	assert_true(n < STEPS_MAX);
	/* It was killed in between, not only before and after. */
	assert_true(f.recovered > 0);
	assert_true(f.delivered > 0);
	print_message(
		"# killed after each of %u instructions: %lu requests, %lu answered by the next worker\n",
		n, (unsigned long)f.box->unique, (unsigned long)f.recovered);
	fixture_deinit(&f);
}

static void test_a_reader_of_a_pipe_killed_at_every_instruction(void **state)
{
	every_instruction(false, false);
}

static void test_a_reader_of_a_socket_killed_at_every_instruction(void **state)
{
	every_instruction(false, true);
}

static void test_a_writer_to_a_pipe_killed_at_every_instruction(void **state)
{
	every_instruction(true, false);
}

static void test_a_writer_to_a_socket_killed_at_every_instruction(void **state)
{
	every_instruction(true, true);
}

/* Children that go from transfer to transfer, killed at moments that chance chooses. */
static void storm(bool write, bool sockets)
{
	int storms = RUNNING_ON_VALGRIND ? 30 : STORMS;
	struct fixture f;

	fixture_init(&f, write, sockets);
	for (int i = 0; i < storms; i++) {
		uint64_t goal = atomic_load(&f.box->unique) + (uint64_t)rand_r(&f.seed) % 8;
		unsigned int spin = (unsigned int)rand_r(&f.seed) % 3000;
		int64_t end = now_ms() + PATIENCE_MS;
		int status;
		pid_t pid;

		if (!write)
			feed(&f);
		pid = fork();
		if (pid == 0)
			child(&f, false, true);
		assert_true(pid > 0);
		while (atomic_load(&f.box->unique) < goal) {
			assert_true(now_ms() < end);
			take_answer(&f);
			if (write)
				drain(&f);
			else
				feed(&f);
			sched_yield();
		}
		for (volatile unsigned int n = 0; n < spin;)
			n = n + 1;
		assert_int_equal(kill(pid, SIGKILL), 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
		recover(&f);
	}
	assert_true(atomic_load(&f.box->unique) > (unsigned int)storms / 2);
	print_message("# %d killed: %lu requests, %lu answered by the next worker\n", storms,
		      (unsigned long)f.box->unique, (unsigned long)f.recovered);
	fixture_deinit(&f);
}

static void test_readers_in_a_storm(void **state)
{
	storm(false, false);
}

static void test_writers_in_a_storm(void **state)
{
	storm(true, true);
}

#define TEST(name) cmocka_unit_test(name)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_reader_of_a_pipe_killed_at_every_instruction),
		TEST(test_a_reader_of_a_socket_killed_at_every_instruction),
		TEST(test_a_writer_to_a_pipe_killed_at_every_instruction),
		TEST(test_a_writer_to_a_socket_killed_at_every_instruction),
		TEST(test_readers_in_a_storm),
		TEST(test_writers_in_a_storm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
