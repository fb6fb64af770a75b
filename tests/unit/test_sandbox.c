// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_sandbox.c - what a worker and a publisher can no longer do: each call is tried in a child that has gone into the sandbox.
 *
 * Each is one that an ordinary process may make, or that fails with another error than EPERM: that it is the filter which refuses is seen.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <daemon/worker.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOT_THERE 2147483647

struct call {
	const char *name;
	long number;
	long args[4];
	bool worker, publisher; /* may make it */
};

#define CALL(call, ...) \
	.name = #call " " #__VA_ARGS__, .number = SYS_##call, .args = { __VA_ARGS__ }

static const struct call calls[] = {
	{ CALL(getpid), .worker = true, .publisher = true },
	{ CALL(openat, AT_FDCWD, 0, O_RDONLY), .worker = true, .publisher = true },
	{ CALL(openat, AT_FDCWD, 0, O_RDWR), .worker = true },
	{ CALL(openat, AT_FDCWD, 0, O_WRONLY | O_CREAT), .worker = true },
	{ CALL(socket, AF_UNIX, SOCK_DGRAM), .worker = true },
	{ CALL(socket, AF_INET, SOCK_STREAM), .worker = true },
	{ CALL(socketpair, AF_UNIX, SOCK_STREAM), .worker = true },
	{ CALL(connect, -1), .worker = true },
	{ CALL(accept4, -1), .worker = true },
	{ CALL(pidfd_getfd, -1), .worker = true },
	{ CALL(pidfd_open, -1), .worker = true },
	{ CALL(fchmod, -1), .worker = true },
	{ CALL(fchown, -1), .worker = true },
	{ CALL(bpf, BPF_MAP_CREATE, 8, 8), .publisher = true },
	{ CALL(bpf, BPF_PROG_LOAD, 8, 8), .publisher = true },
	{ CALL(bpf, BPF_OBJ_GET, 8, 8) },
	{ CALL(bpf, BPF_OBJ_PIN, 8, 8) },
	{ CALL(bpf, BPF_PROG_GET_NEXT_ID, 8, 8) },
	{ CALL(bpf, BPF_RAW_TRACEPOINT_OPEN, 8, 8) },
	{ CALL(mkdir), .publisher = true },
	{ CALL(rmdir), .publisher = true },
	{ CALL(capset), .publisher = true },
	{ CALL(execve) },
	{ CALL(execveat) },
	{ CALL(fork) },
	{ CALL(clone) },
	{ CALL(ptrace, 0x4206, NOT_THERE) },
	{ CALL(process_vm_readv, NOT_THERE) },
	{ CALL(process_vm_writev, NOT_THERE) },
	{ CALL(kill, NOT_THERE) },
	{ CALL(io_uring_setup) },
	{ CALL(userfaultfd) },
	{ CALL(unlink) },
	{ CALL(rename) },
	{ CALL(link) },
	{ CALL(symlink) },
	{ CALL(truncate) },
	{ CALL(chmod) },
	{ CALL(chdir) },
	{ CALL(setuid) },
	{ CALL(setgid) },
	{ CALL(prctl) },
	{ CALL(unshare) },
	{ CALL(personality, 0xffffffff) },
	{ CALL(keyctl) },
	{ CALL(listen, -1) },
	{ CALL(bind, -1) },
	{ CALL(ioctl, -1, 0x5412) }, /* TIOCSTI */
};

#define NR_CALLS (sizeof(calls) / sizeof(calls[0]))

/* In a child, where nothing that it makes is anybody's. */
static int try_call(const struct call *c)
{
	long r = syscall(c->number, c->args[0], c->args[1], c->args[2], c->args[3], 0L, 0L);

	/* One that was allowed to become two. */
	if (r == 0 && (c->number == SYS_fork || c->number == SYS_clone))
		_exit(0);
	return r < 0 ? errno : 0;
}

static int enter_worker(void)
{
	return sandbox_enter(geteuid() == 0);
}

static int enter_publisher(void)
{
	return sandbox_publisher(geteuid() == 0);
}

/* What each call gave, in the sandbox that @enter leads to. */
static void try_all(int (*enter)(void), int *ret)
{
	size_t size = sizeof(*ret) * (NR_CALLS + 1);
	int *seen = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status;
	pid_t pid;

	assert_ptr_not_equal(seen, MAP_FAILED);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		seen[NR_CALLS] = enter();
		for (size_t i = 0; i < NR_CALLS; i++)
			seen[i] = try_call(&calls[i]);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(seen[NR_CALLS], 0);
	for (size_t i = 0; i < NR_CALLS; i++)
		ret[i] = seen[i];
	munmap(seen, size);
}

static void check(int (*enter)(void), bool publisher)
{
	int seen[NR_CALLS], wrong = 0;

	try_all(enter, seen);
	for (size_t i = 0; i < NR_CALLS; i++) {
		bool may = publisher ? calls[i].publisher : calls[i].worker;

		if ((seen[i] != EPERM) == may)
			continue;
		print_message("# %s: %s\n", calls[i].name, may ? "is refused" : "is not refused");
		wrong++;
	}
	assert_int_equal(wrong, 0);
}

static void test_a_worker(void **state)
{
	check(enter_worker, false);
}

static void test_a_publisher(void **state)
{
	check(enter_publisher, true);
}

/* Else the two above would find nothing, whatever the filters allow. */
static int enter_nothing(void)
{
	return 0;
}

static void test_they_are_not_refused_elsewhere(void **state)
{
	int seen[NR_CALLS];

	try_all(enter_nothing, seen);
	for (size_t i = 0; i < NR_CALLS; i++)
		if (seen[i] == EPERM)
			print_message("# %s: is refused without a filter\n", calls[i].name);
	for (size_t i = 0; i < NR_CALLS; i++)
		assert_int_not_equal(seen[i], EPERM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_worker),
		cmocka_unit_test(test_a_publisher),
		cmocka_unit_test(test_they_are_not_refused_elsewhere),
	};

	if (!KSHARED_SECCOMP || geteuid() != 0) {
		puts("1..0 # SKIP needs root and a build with the filters");
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
