// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_merge_deaths.c - who merges another process is killed at one system call after the other, and the process comes to no harm.
 */
#include "merge_fixture.h"

#include <kind/ksm_remote.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define NR 96u
#define STRIDE 5u /* stops between two deaths: a system call has two */
#define MEMLOCK (1ul << 20)

/** struct shared - between a target and us. @bad: a line of this file; @rounds: of each of its threads */
struct shared {
	unsigned char *pages;
	int ready;
	int stop;
	int bad;
	uint64_t rounds[2];
};

static struct shared *shared;
static int device = -1;

static uint64_t seed_of(size_t i)
{
	return i % 4 == 0 ? 0 : i % 4 == 3 ? 1000 + i : 1 + i % 8;
}

static bool is_whole(void)
{
	for (size_t i = 0; i < NR; i++)
		if (!page_holds(shared->pages + i * PAGE, seed_of(i)))
			return false;
	return true;
}

static void await(bool (*is_so)(uint64_t), uint64_t arg)
{
	bool yes = is_so(arg);

	for (int i = 0; i < 30000 && !yes; i++) {
		usleep(1000);
		yes = is_so(arg);
	}
	assert_true(yes);
}

/* ---- the target: one thread computes and writes, one sleeps and looks ---- */

static void *write_on(void *arg)
{
	uint64_t value = 0;

	while (!__atomic_load_n(&shared->stop, __ATOMIC_ACQUIRE)) {
		/* The first page is written, the others must not change. */
		uint64_t *word = (uint64_t *)(void *)shared->pages;

		if (*word != value)
			__atomic_store_n(&shared->bad, __LINE__, __ATOMIC_SEQ_CST);
		*word = ++value;
		*word = value = 0;
		__atomic_fetch_add(&shared->rounds[0], 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void target_main(void)
{
	struct rlimit limit = { MEMLOCK, MEMLOCK };
	pthread_t thread;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setrlimit(RLIMIT_MEMLOCK, &limit);
	shared->pages = mmap(NULL, (NR + 1) * PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (size_t i = 0; i < NR; i++)
		page_fill(shared->pages + i * PAGE, seed_of(i));
	pthread_create(&thread, NULL, write_on, NULL);
	__atomic_store_n(&shared->ready, 1, __ATOMIC_RELEASE);
	while (!__atomic_load_n(&shared->stop, __ATOMIC_ACQUIRE)) {
		usleep(200);
		__atomic_fetch_add(&shared->rounds[1], 1, __ATOMIC_RELAXED);
	}
	pthread_join(thread, NULL);
	_exit(shared->bad || !is_whole());
}

static bool is_ready(uint64_t arg)
{
	return __atomic_load_n(&shared->ready, __ATOMIC_ACQUIRE);
}

static pid_t target_new(void)
{
	pid_t pid;

	*shared = (struct shared){ 0 };
	pid = fork();
	if (pid == 0)
		target_main();
	await(is_ready, 0);
	return pid;
}

static void target_end(pid_t pid)
{
	int status;

	__atomic_store_n(&shared->stop, 1, __ATOMIC_RELEASE);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(shared->bad, 0);
	assert_int_equal(status, 0);
}

static size_t count_threads(pid_t pid)
{
	char path[64], line[256];
	unsigned int n = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f) && sscanf(line, "Threads: %u", &n) != 1)
		continue;
	if (f)
		fclose(f);
	return n;
}

static bool has_two_threads(uint64_t pid)
{
	return count_threads((pid_t)pid) == 2;
}

/* ---- the engine ---- */

static int merge_once(struct partition *part, pid_t pid, struct merge_result *ret)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct ksm_remote remote;
	int r = ksm_remote_open(&remote, pid, pidfd, device, false);

	if (r == 0) {
		r = partition_merge(part, &remote.target, (uintptr_t)shared->pages, (NR + 1) * PAGE,
				    0, ret);
		ksm_remote_close(&remote);
	}
	close(pidfd);
	return r;
}

static pid_t engine_new(pid_t pid)
{
	pid_t engine = fork();

	if (engine == 0) {
		struct partition *part = partition_new(&(struct partition_conf){
			.segment_pages = 64, .nr_threads = 1, .batch_pages = 32 });
		struct merge_result result;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		merge_once(part, pid, &result);
		_exit(0);
	}
	return engine;
}

/* Let the engine go on to its @nr-th stop at a system call, and kill it there. Return: it got so far. */
static bool kill_engine_at(pid_t pid, unsigned int nr)
{
	pid_t engine = engine_new(pid);
	int status, signal = 0;

	assert_int_equal(waitpid(engine, &status, 0), engine);
	assert_true(WIFSTOPPED(status));
	assert_int_equal(
		ptrace(PTRACE_SETOPTIONS, engine, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL),
		0);
	for (unsigned int i = 0; i < nr;) {
		assert_int_equal(ptrace(PTRACE_SYSCALL, engine, NULL, (long)signal), 0);
		assert_int_equal(waitpid(engine, &status, __WALL), engine);
		if (!WIFSTOPPED(status))
			return false;
		signal = WSTOPSIG(status) == (SIGTRAP | 0x80) ? 0 : WSTOPSIG(status);
		i += signal == 0;
	}
	kill(engine, SIGKILL);
	while (waitpid(engine, &status, __WALL) == engine && WIFSTOPPED(status))
		continue;
	return true;
}

static bool gets_on(uint64_t thread)
{
	static uint64_t before[2];
	uint64_t now = __atomic_load_n(&shared->rounds[thread], __ATOMIC_RELAXED);
	bool yes = now != before[thread] && before[thread];

	before[thread] = now;
	return yes;
}

static void an_engine_may_die_at_any_system_call(void **state)
{
	unsigned int nr_deaths = 0;
	bool more = true;
	pid_t pid = 0;

	for (unsigned int nr = 1; more; nr += STRIDE) {
		if (!pid)
			pid = target_new();
		more = kill_engine_at(pid, nr);
		nr_deaths++;
		for (uint64_t i = 0; i < 2; i++) {
			await(gets_on, i);
			await(gets_on, i);
		}
		/* What is merged stays so: now and then a new one, with everything before it. */
		if (nr_deaths % 10 == 0 || !more) {
			struct partition *part = partition_new(NULL);
			struct merge_result result;
			struct rlimit limit;

			await(has_two_threads, (uint64_t)pid);
			assert_int_equal(prlimit(pid, RLIMIT_MEMLOCK, NULL, &limit), 0);
			assert_int_equal(limit.rlim_cur, MEMLOCK);
			assert_int_equal(limit.rlim_max, MEMLOCK);
			/* And it can be merged, whatever was left there. */
			assert_int_equal(merge_once(part, pid, &result), 0);
			assert_int_equal(count_threads(pid), 2);
			target_end(pid);
			partition_free(part);
			pid = 0;
		}
	}
	print_message("%u deaths\n", nr_deaths);
	assert_true(nr_deaths > 30);
}

static void a_stopped_process_is_an_error_and_stays_stopped(void **state)
{
	struct partition *part = partition_new(NULL);
	pid_t pid = target_new();
	struct merge_result result;
	int status;

	kill(pid, SIGSTOP);
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	assert_true(WIFSTOPPED(status));
	assert_int_equal(merge_once(part, pid, &result), -EAGAIN);
	assert_int_equal(waitpid(pid, &status, WNOHANG | WCONTINUED), 0);
	kill(pid, SIGCONT);
	assert_int_equal(merge_once(part, pid, &result), 0);
	assert_true(result.merged > 0);
	target_end(pid);
	partition_free(part);
}

/* The frames of a process's pages, sorted; those that have none are left out. Return: how many. */
static int by_value(const void *a, const void *b)
{
	const uint64_t *p = a, *q = b;

	return *p < *q ? -1 : *p > *q;
}

static size_t frames_of(pid_t pid, const unsigned char *pages, uint64_t *frames)
{
	uint64_t entry[NR];
	char path[64];
	size_t n = 0;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, entry, sizeof(entry), (off_t)((uintptr_t)pages / PAGE * 8)),
			 sizeof(entry));
	close(fd);
	for (size_t i = 0; i < NR; i++)
		if (entry[i] >> 63 && entry[i] & ((1ull << 55) - 1))
			frames[n++] = entry[i] & ((1ull << 55) - 1);
	qsort(frames, n, sizeof(*frames), by_value);
	return n;
}

static size_t count_common(const uint64_t *a, size_t nr_a, const uint64_t *b, size_t nr_b)
{
	size_t n = 0;

	for (size_t i = 0, j = 0; i < nr_a && j < nr_b;) {
		n += a[i] == b[j];
		if (a[i] <= b[j])
			i++;
		else
			j++;
	}
	return n;
}

static bool has_seen(uint64_t arg)
{
	return __atomic_load_n(&shared->ready, __ATOMIC_ACQUIRE) == 2;
}

/* Holds the same as every other, and reads it again when told to. */
static pid_t reader_new(struct partition *part)
{
	struct merge_result result;
	pid_t pid;

	*shared = (struct shared){ 0 };
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		shared->pages = mmap(NULL, (NR + 1) * PAGE, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (size_t i = 0; i < NR; i++)
			page_fill(shared->pages + i * PAGE, 1 + i % 16);
		__atomic_store_n(&shared->ready, 1, __ATOMIC_RELEASE);
		while (!__atomic_load_n(&shared->stop, __ATOMIC_ACQUIRE))
			usleep(200);
		for (size_t i = 0; i < NR; i++)
			if (!page_holds(shared->pages + i * PAGE, 1 + i % 16))
				_exit(1);
		__atomic_store_n(&shared->ready, 2, __ATOMIC_RELEASE);
		for (;;)
			pause();
	}
	await(is_ready, 0);
	assert_int_equal(merge_once(part, pid, &result), 0);
	assert_int_equal(result.merged, NR);
	__atomic_store_n(&shared->stop, 1, __ATOMIC_RELEASE);
	await(has_seen, 0);
	return pid;
}

static void processes_in_two_partitions_have_no_frame_in_common(void **state)
{
	struct partition *part[2] = { partition_new(NULL), partition_new(NULL) };
	uint64_t frames[3][NR];
	size_t nr[3];
	pid_t pid[3];

	/* Two in the first partition, one in the other. */
	for (int i = 0; i < 3; i++) {
		pid[i] = reader_new(part[i / 2]);
		nr[i] = frames_of(pid[i], shared->pages, frames[i]);
		if (nr[i] == 0)
			skip(); /* we may not know them */
		assert_int_equal(nr[i], NR);
	}
	assert_true(count_common(frames[0], nr[0], frames[1], nr[1]) > 0);
	assert_int_equal(count_common(frames[0], nr[0], frames[2], nr[2]), 0);
	assert_int_equal(count_common(frames[1], nr[1], frames[2], nr[2]), 0);
	for (int i = 0; i < 3; i++) {
		kill(pid[i], SIGKILL);
		assert_int_equal(waitpid(pid[i], NULL, 0), pid[i]);
	}
	for (int i = 0; i < 2; i++)
		partition_free(part[i]);
}

static int set_up(void **state)
{
	merge_self_free(self_new()); /* or the file is skipped */
	device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return shared == MAP_FAILED;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(processes_in_two_partitions_have_no_frame_in_common),
		cmocka_unit_test(a_stopped_process_is_an_error_and_stays_stopped),
		cmocka_unit_test(an_engine_may_die_at_any_system_call),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, set_up, NULL);
}
