// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_port_account.c - accounts of processes and control groups: whose they are, what happens when those end, how many there may be.
 * What the numbers are is test_port_equal's matter.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <engine/bpf/publisher.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NR_ACCOUNTS 256
#define DEADLINE_NS 10000000000ULL

static struct publisher *publisher;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static int setup(void **state)
{
	struct publisher_options o = { .period_ns = 100000, .generation = 5 };
	int r = publisher_new(&publisher, &o);

	if (r == -EPERM || r == -ENOTSUP)
		return 0;
	return r;
}

static int teardown(void **state)
{
	publisher_free(publisher);
	return 0;
}

static void need_bpf(void)
{
	if (!publisher)
		skip();
}

static int pidfd_open_of(pid_t pid)
{
	int fd = syscall(SYS_pidfd_open, pid, 0);

	assert_true(fd >= 0);
	return fd;
}

struct account {
	int slot;
	const struct port_head *head;
	uint64_t size;
};

static struct account map_account(int slot, int fd, uint64_t size)
{
	struct account a = { .slot = slot, .size = size };

	a.head = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(a.head, MAP_FAILED);
	assert_int_equal(port_check(a.head, size), 0);
	assert_int_equal(a.head->generation, 5);
	assert_int_equal(a.head->period_ns, 1000000);
	return a;
}

static struct account add_task(pid_t pid)
{
	int pidfd = pidfd_open_of(pid), slot, fd;
	struct account a;
	uint64_t size;

	assert_int_equal(publisher_add_task(publisher, pidfd, &slot, &fd, &size), 0);
	close(pidfd);
	a = map_account(slot, fd, size);
	assert_string_equal(a.head->name, "task");
	return a;
}

static void drop(struct account *a)
{
	publisher_remove(publisher, a->slot);
	munmap((void *)a->head, a->size);
}

/* What is there after this moment. */
static void look(const struct account *a, void *ret)
{
	uint64_t since = now_ns(), sampled;

	while (port_snapshot(a->head, a->head->data_off, ret, a->head->data_size, &sampled) ||
	       sampled <= since)
		assert_true(now_ns() < since + DEADLINE_NS);
}

static pid_t start_child(void)
{
	pid_t pid = fork();

	if (pid == 0)
		for (;;)
			pause();
	assert_true(pid > 0);
	return pid;
}

static void end_child(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void test_a_process_that_ends(void **state)
{
	struct port_task before, dead;
	struct account a;
	pid_t pid;

	need_bpf();
	pid = start_child();
	a = add_task(pid);
	do
		look(&a, &before);
	while (before.state[0] != 'S');
	assert_int_equal(before.alive, 1);
	assert_int_equal(before.pid, pid);
	assert_int_equal(before.threads, 1);
	assert_int_equal(before.counted, 1);
	assert_string_equal(before.comm, "test_port_accou");
	assert_true(before.rss > 0 && before.runtime > 0 && before.start > 0);
	kill(pid, SIGKILL);
	assert_int_equal(waitid(P_PID, pid, &(siginfo_t){}, WEXITED | WNOWAIT), 0);
	look(&a, &dead);
	assert_int_equal(dead.alive, 0);
	assert_int_equal(dead.state[0], 'Z');
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	look(&a, &dead);
	assert_int_equal(dead.alive, 0);
	assert_int_equal(dead.state[0], 'X');
	assert_int_equal(dead.threads, 0);
	assert_int_equal(dead.rss, before.rss);
	assert_int_equal(dead.start, before.start);
	assert_true(dead.runtime >= before.runtime && dead.min_flt >= before.min_flt);
	drop(&a);
}

static pid_t start_with_number(pid_t pid)
{
	struct clone_args args = { .exit_signal = SIGCHLD,
				   .set_tid = (uintptr_t)&pid,
				   .set_tid_size = 1 };
	pid_t child = syscall(SYS_clone3, &args, sizeof(args));

	if (child == 0)
		for (;;)
			pause();
	return child;
}

static void test_its_number_is_used_again(void **state)
{
	uint64_t size;
	struct port_task t;
	struct account a;
	pid_t pid;
	int pidfd, slot, fd;

	need_bpf();
	pid = start_child();
	pidfd = pidfd_open_of(pid);
	a = add_task(pid);
	end_child(pid);
	assert_int_equal(start_with_number(pid), pid);
	look(&a, &t);
	assert_int_equal(t.alive, 0);
	assert_int_equal(publisher_add_task(publisher, pidfd, &slot, &fd, &size), -ESRCH);
	drop(&a);
	a = add_task(pid);
	look(&a, &t);
	assert_int_equal(t.alive, 1);
	drop(&a);
	end_child(pid);
	close(pidfd);
}

static void *spin(void *until)
{
	struct timespec t;

	do
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	while (t.tv_sec * 1000000000ULL + t.tv_nsec < *(uint64_t *)until);
	return NULL;
}

static void test_threads_are_counted_dead_or_alive(void **state)
{
	uint64_t until = 50000000;
	struct port_task before, during, after;
	struct account a;
	pthread_t threads[3];

	need_bpf();
	a = add_task(getpid());
	look(&a, &before);
	assert_int_equal(before.threads, 1);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, spin, &until), 0);
	do
		look(&a, &during);
	while (during.threads == 4 && during.runtime < before.runtime + until);
	assert_true(during.runtime >= before.runtime + until);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	do
		look(&a, &after);
	while (after.threads > 1);
	assert_true(after.runtime >= before.runtime + 3 * until);
	assert_int_equal(after.counted, 1);
	drop(&a);
}

/* Not the main thread: the process goes on as this one. */
static void *execute(void *unused)
{
	execl("/bin/sleep", "sleep", "1000", NULL);
	return NULL;
}

static void test_another_thread_executes(void **state)
{
	struct port_task t;
	struct account a;
	uint64_t end;
	int go[2];
	pid_t pid;

	need_bpf();
	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		pthread_t thread;
		char c;

		if (read(go[0], &c, 1) != 1 || pthread_create(&thread, NULL, execute, NULL))
			_exit(1);
		for (;;)
			pause();
	}
	a = add_task(pid);
	assert_int_equal(write(go[1], "", 1), 1);
	end = now_ns() + DEADLINE_NS;
	do {
		look(&a, &t);
		assert_int_equal(t.alive, 1);
		assert_true(now_ns() < end);
	} while (strcmp(t.comm, "sleep") != 0 || t.state[0] != 'S');
	assert_int_equal(t.pid, pid);
	assert_int_equal(t.threads, 1);
	assert_true(t.rss > 0);
	end_child(pid);
	look(&a, &t);
	assert_int_equal(t.alive, 0);
	drop(&a);
	close(go[0]);
	close(go[1]);
}

static void test_what_is_no_process(void **state)
{
	int null, slot = -1, fd = -1;
	uint64_t size;

	need_bpf();
	null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_int_equal(publisher_add_task(publisher, null, &slot, &fd, &size), -EBADF);
	assert_int_equal(publisher_add_task(publisher, 9999, &slot, &fd, &size), -EBADF);
	assert_int_equal(publisher_add_cgroup(publisher, null, &slot, &fd, &size), -EINVAL);
	close(null);
	null = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(publisher_add_cgroup(publisher, null, &slot, &fd, &size), -EINVAL);
	close(null);
	assert_int_equal(slot, -1);
	assert_int_equal(fd, -1);
}

static void test_as_many_as_there_is_room_for(void **state)
{
	struct account a[NR_ACCOUNTS];
	struct port_task t;
	int pidfd, slot, fd;
	uint64_t size;

	need_bpf();
	pidfd = pidfd_open_of(getpid());
	for (int i = 0; i < NR_ACCOUNTS; i++)
		a[i] = add_task(getpid());
	assert_int_equal(publisher_add_task(publisher, pidfd, &slot, &fd, &size), -ENOSPC);
	look(&a[0], &t);
	look(&a[NR_ACCOUNTS - 1], &t);
	assert_int_equal(t.pid, getpid());
	drop(&a[7]);
	a[7] = add_task(getpid());
	look(&a[7], &t);
	assert_int_equal(t.pid, getpid());
	for (int i = 0; i < NR_ACCOUNTS; i++)
		drop(&a[i]);
	close(pidfd);
}

static void test_a_removed_one_gets_old(void **state)
{
	int pidfd, slot, fd;
	const struct port_head *h;
	uint64_t size, writes;

	need_bpf();
	pidfd = pidfd_open_of(getpid());
	assert_int_equal(publisher_add_task(publisher, pidfd, &slot, &fd, &size), 0);
	h = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(h, MAP_FAILED);
	assert_ptr_equal(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
	publisher_remove(publisher, slot);
	/* One pass may be under way. */
	usleep(10000);
	writes = __atomic_load_n(&h->writes, __ATOMIC_ACQUIRE);
	usleep(50000);
	assert_int_equal(__atomic_load_n(&h->writes, __ATOMIC_ACQUIRE), writes);
	assert_int_equal(h->seq & 1, 0);
	assert_true(port_stale(h, h->sample_ns, now_ns(), 3));
	munmap((void *)h, size);
	close(pidfd);
}

/* Return: 0; -1: there is no version 2 here. */
static int cgroup2_root(char *ret, size_t size)
{
	char line[4096], where[1024], type[64];
	FILE *f = fopen("/proc/self/mounts", "re");
	int r = -1;

	while (f && r && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*s %1023s %63s", where, type) == 2 &&
		    strcmp(type, "cgroup2") == 0)
			r = snprintf(ret, size, "%s", where) < 0;
	if (f)
		fclose(f);
	return r;
}

static void put(const char *directory, const char *file, const char *text)
{
	char path[2048];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", directory, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static void test_a_cgroup(void **state)
{
	char root[1024], path[1100], inner[1200], number[32];
	struct port_cgroup c, dead;
	int dirfd, slot, fd;
	struct account a;
	uint64_t size;
	pid_t pid;

	need_bpf();
	if (cgroup2_root(root, sizeof(root)))
		skip();
	snprintf(path, sizeof(path), "%s/kshared-test-%d", root, getpid());
	snprintf(inner, sizeof(inner), "%s/inner", path);
	assert_int_equal(mkdir(path, 0755), 0);
	dirfd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(publisher_add_cgroup(publisher, dirfd, &slot, &fd, &size), 0);
	a = map_account(slot, fd, size);
	assert_string_equal(a.head->name, "cgroup");
	look(&a, &c);
	assert_int_equal(c.alive, 1);
	assert_int_equal(c.populated, 0);
	assert_int_equal(c.nr_descendants, 0);
	assert_int_equal(c.cpu_usage, 0);
	/* Controllers that it has not are no fields. */
	assert_int_equal(port_find(a.head, "memory_current") != NULL,
			 faccessat(dirfd, "memory.current", F_OK, 0) == 0);
	assert_int_equal(port_find(a.head, "pids_current") != NULL,
			 faccessat(dirfd, "pids.current", F_OK, 0) == 0);
	pid = fork();
	if (pid == 0)
		for (;;)
			;
	snprintf(number, sizeof(number), "%d", pid);
	put(path, "cgroup.procs", number);
	assert_int_equal(mkdir(inner, 0755), 0);
	do {
		publisher_tick(publisher);
		look(&a, &c);
	} while (c.cpu_usage < 50000000);
	assert_int_equal(c.populated, 1);
	assert_int_equal(c.frozen, 0);
	assert_int_equal(c.nr_descendants, 1);
	assert_int_equal(c.cpu_user + c.cpu_system, c.cpu_usage);
	put(path, "cgroup.freeze", "1");
	do
		look(&a, &c);
	while (!c.frozen);
	put(path, "cgroup.freeze", "0");
	end_child(pid);
	do
		look(&a, &c);
	while (c.populated);
	assert_int_equal(rmdir(inner), 0);
	assert_int_equal(rmdir(path), 0);
	look(&a, &dead);
	assert_int_equal(dead.alive, 0);
	assert_int_equal(dead.cpu_usage, c.cpu_usage);
	publisher_tick(publisher);
	drop(&a);
	assert_int_equal(publisher_add_cgroup(publisher, dirfd, &slot, &fd, &size), -ESRCH);
	close(dirfd);
	/* The root's are the system's pages. */
	dirfd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(publisher_add_cgroup(publisher, dirfd, &slot, &fd, &size), -EINVAL);
	close(dirfd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_process_that_ends),
		cmocka_unit_test(test_its_number_is_used_again),
		cmocka_unit_test(test_threads_are_counted_dead_or_alive),
		cmocka_unit_test(test_another_thread_executes),
		cmocka_unit_test(test_what_is_no_process),
		cmocka_unit_test(test_as_many_as_there_is_room_for),
		cmocka_unit_test(test_a_removed_one_gets_old),
		cmocka_unit_test(test_a_cgroup),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
