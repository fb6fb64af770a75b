// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_merge_remote.c - the memory of another process is merged: its content stays, it notices nothing, and whoever dies in the
 * middle, engine or process, leaves no damage.
 */
#include "merge_fixture.h"

#include <base/proc.h>
#include <kind/ksm_remote.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

#define NR 2048u /* pages of a target */
#define COMMON 64u /* different contents among them */

/**
 * struct shared - between the test and a target.
 */
struct shared {
	unsigned char *pages;
	int ready;
	int stop;
	int bad; /* what a target found wrong: a line number */
	int may_interrupt; /* epoll_wait() may say EINTR */
	uint64_t signals;
	uint64_t rounds;
};

static struct shared *shared;
static int device;

#define COMPLAIN() __atomic_store_n(&shared->bad, __LINE__, __ATOMIC_SEQ_CST)

static void rest_ms(long ms)
{
	nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 }, NULL);
}

static void await_int(const int *what)
{
	for (int i = 0; i < 20000 && !__atomic_load_n(what, __ATOMIC_ACQUIRE); i++)
		rest_ms(1);
	assert_int_not_equal(__atomic_load_n(what, __ATOMIC_ACQUIRE), 0);
}

static uint64_t seed_of(size_t i)
{
	return i % 4 == 0 ? 0 : i % 4 == 3 ? 1000 + i : 1 + i / 4 % COMMON;
}

static void fill_pages(void)
{
	shared->pages = mmap(NULL, (NR + 1) * PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (size_t i = 0; i < NR; i++)
		page_fill(shared->pages + i * PAGE, seed_of(i));
}

static void check_pages(void)
{
	for (size_t i = 0; i < NR; i++)
		if (!page_holds(shared->pages + i * PAGE, seed_of(i)))
			COMPLAIN();
}

/* Start a target that runs @body. */
static pid_t target_new(void (*body)(void))
{
	pid_t pid;

	*shared = (struct shared){ 0 };
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fill_pages();
		body();
		_exit(shared->bad ? 1 : 0);
	}
	await_int(&shared->ready);
	return pid;
}

static void be_ready(void)
{
	__atomic_store_n(&shared->ready, 1, __ATOMIC_RELEASE);
}

static bool is_stopped(void)
{
	return __atomic_load_n(&shared->stop, __ATOMIC_ACQUIRE) != 0;
}

static void target_end(pid_t pid)
{
	int status;

	__atomic_store_n(&shared->stop, 1, __ATOMIC_RELEASE);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (shared->bad)
		print_message("the target complained in line %d\n", shared->bad);
	assert_int_equal(status, 0);
}

static int open_target(struct ksm_remote *remote, pid_t pid)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), r;

	if (pidfd < 0)
		return -errno;
	r = ksm_remote_open(remote, pid, pidfd, device, false);
	if (r < 0)
		close(pidfd);
	return r;
}

static void close_target(struct ksm_remote *remote)
{
	int pidfd = remote->agent.pidfd;

	ksm_remote_close(remote);
	close(pidfd);
}

static int merge_target(struct partition *part, struct ksm_remote *remote, struct merge_result *ret)
{
	return partition_merge(part, &remote->target, (uintptr_t)shared->pages, (NR + 1) * PAGE, 0,
			       ret);
}

/* Merge once, from start to end. */
static int merge_pid(struct partition *part, pid_t pid, struct merge_result *ret)
{
	struct ksm_remote remote;
	int r = open_target(&remote, pid);

	if (r < 0)
		return r;
	r = merge_target(part, &remote, ret);
	close_target(&remote);
	return r;
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

static void await_threads(pid_t pid, size_t n)
{
	for (int i = 0; i < 15000 && count_threads(pid) != n; i++)
		rest_ms(1);
	assert_int_equal(count_threads(pid), n);
}

static void idle(void)
{
	be_ready();
	while (!is_stopped())
		rest_ms(1);
	check_pages();
}

static void the_content_stays_and_the_memory_shrinks(void **state)
{
	struct partition *part = partition_new(NULL);
	pid_t pid = target_new(idle);
	struct partition_stats stats;
	struct merge_result r;

	assert_int_equal(merge_pid(part, pid, &r), 0);
	assert_int_equal(r.scanned, NR);
	assert_int_equal(r.zero, NR / 4);
	assert_int_equal(r.merged, NR / 4 * 3);
	assert_int_equal(r.unique, NR / 4);
	partition_get_stats(part, &stats);
	assert_int_equal(stats.pages_shared, COMMON);
	assert_int_equal(stats.pages_sharing, NR / 2 - COMMON);
	assert_int_equal(count_threads(pid), 1);
	target_end(pid);
	assert_int_equal(merge_pid(part, pid, &r), -ESRCH);
	partition_free(part);
}

static void two_processes_share_and_one_that_ends_lets_go(void **state)
{
	struct partition *part = partition_new(&(struct partition_conf){ .segment_pages = 64 });
	pid_t first = target_new(idle), second;
	struct merge_result r;
	struct partition_stats stats;
	uint64_t birth;

	assert_int_equal(merge_pid(part, first, &r), 0);
	assert_int_equal(proc_birth(first, &birth), 0);
	target_end(first);
	second = target_new(idle);
	assert_int_equal(merge_pid(part, second, &r), 0);
	/* What only the two of them have in common is merged as well. */
	assert_int_equal(r.merged, NR);
	partition_forget(part, first, birth);
	partition_get_stats(part, &stats);
	assert_int_equal(stats.members, 1);
	assert_int_equal(stats.pages_shared, COMMON + NR / 4);
	assert_int_equal(proc_birth(second, &birth), 0);
	target_end(second);
	partition_forget(part, second, birth);
	partition_get_stats(part, &stats);
	assert_int_equal(stats.store_bytes, 0);
	partition_free(part);
}

/* ---- system calls and signals ---- */

static void on_signal(int number)
{
	__atomic_fetch_add(&shared->signals, 1, __ATOMIC_RELAXED);
}

static void *sleep_on(void *arg)
{
	while (!is_stopped()) {
		struct timespec left = { 0 };

		if (nanosleep(&(struct timespec){ .tv_nsec = 3000000 }, &left) < 0)
			COMPLAIN();
	}
	return NULL;
}

static void *read_on(void *arg)
{
	uint64_t n;
	int *end = arg;

	if (read(*end, &n, 8) != 8)
		COMPLAIN();
	return NULL;
}

static void *poll_on(void *arg)
{
	struct epoll_event event = { .events = EPOLLIN };
	int *end = arg, epoll = epoll_create1(EPOLL_CLOEXEC);

	int r;

	epoll_ctl(epoll, EPOLL_CTL_ADD, *end, &event);
	do {
		r = epoll_wait(epoll, &event, 1, -1);
		/* As after any stop: the kernel's doing, if the engine dies before it can see to it. */
	} while (r < 0 && errno == EINTR &&
		 __atomic_load_n(&shared->may_interrupt, __ATOMIC_RELAXED));
	if (r != 1)
		COMPLAIN();
	return NULL;
}

static void *compute_on(void *arg)
{
	volatile double a = 1.0;
	uint64_t n = 0;

	/* Registers, the floating ones too, would show a thread that was not restored. */
	while (!is_stopped()) {
		double x = 1.5;
		uint64_t sum = 0;

		for (uint64_t i = 0; i < 1000; i++) {
			sum += i * 7;
			x += a;
		}
		if (sum != 3496500 || x != 1001.5)
			COMPLAIN();
		n++;
	}
	__atomic_fetch_add(&shared->rounds, n, __ATOMIC_RELAXED);
	return NULL;
}

static void be_busy(void)
{
	int end = eventfd(0, EFD_SEMAPHORE), poll_end = eventfd(0, 0);
	pthread_t thread[4];
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	pthread_create(&thread[0], NULL, sleep_on, NULL);
	pthread_create(&thread[1], NULL, read_on, &end);
	pthread_create(&thread[2], NULL, compute_on, NULL);
	pthread_create(&thread[3], NULL, poll_on, &poll_end);
	sigaction(SIGRTMIN, &(struct sigaction){ .sa_handler = on_signal }, NULL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	be_ready();
	while (!is_stopped())
		rest_ms(1);
	eventfd_write(end, 1);
	eventfd_write(poll_end, 1);
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	check_pages();
}

static void system_calls_and_signals_go_on(void **state)
{
	struct partition *part = partition_new(&(struct partition_conf){ .batch_pages = 16 });
	pid_t pid = target_new(be_busy);
	struct ksm_remote remote;
	struct merge_result r;
	uint64_t sent = 0;

	for (int i = 0; i < 10; i++) {
		assert_int_equal(open_target(&remote, pid), 0);
		for (int j = 0; j < 20; j++, sent++)
			assert_int_equal(sigqueue(pid, SIGRTMIN, (union sigval){ .sival_int = j }),
					 0);
		assert_int_equal(merge_target(part, &remote, &r), 0);
		for (int j = 0; j < 20; j++, sent++)
			assert_int_equal(sigqueue(pid, SIGRTMIN, (union sigval){ .sival_int = j }),
					 0);
		close_target(&remote);
	}
	for (int i = 0; i < 5000 && __atomic_load_n(&shared->signals, __ATOMIC_RELAXED) < sent; i++)
		rest_ms(1);
	assert_int_equal(shared->signals, sent);
	assert_int_equal(count_threads(pid), 5);
	target_end(pid);
	assert_true(shared->rounds > 0);
	partition_free(part);
}

/* ---- writers ---- */

static void *write_on(void *arg)
{
	uint64_t me = (uintptr_t)arg, round = 0;

	/* Words of the pages that the others leave alone; pages that are all alike but for these. */
	while (!is_stopped()) {
		round++;
		for (size_t i = 0; i < NR; i++) {
			uint64_t *word = (uint64_t *)(void *)(shared->pages + i * PAGE) + me;

			if (*word != round - 1)
				COMPLAIN();
			*word = round;
		}
	}
	__atomic_fetch_add(&shared->rounds, round, __ATOMIC_RELAXED);
	return NULL;
}

/* The kernel writes, into pages that are being replaced. */
static void *copy_on(void *arg)
{
	uint64_t me = (uintptr_t)arg, round = 0;
	int end[2];

	if (pipe(end) < 0)
		COMPLAIN();
	while (!is_stopped()) {
		round++;
		for (size_t i = 0; i < NR; i++) {
			uint64_t *word = (uint64_t *)(void *)(shared->pages + i * PAGE) + me;

			if (*word != round - 1 || write(end[1], &round, 8) != 8 ||
			    read(end[0], word, 8) != 8)
				COMPLAIN();
		}
	}
	return NULL;
}

static void write_all(void)
{
	pthread_t thread[2];

	for (size_t i = 0; i < NR; i++) {
		memset(shared->pages + i * PAGE, 0, PAGE);
		shared->pages[i * PAGE + PAGE - 1] = 1 + i / 64 % 4;
	}
	pthread_create(&thread[0], NULL, write_on, (void *)0);
	pthread_create(&thread[1], NULL, copy_on, (void *)1);
	be_ready();
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
}

static void writers_lose_nothing(void **state)
{
	struct partition *part = partition_new(NULL);
	struct merge_result r;
	uint64_t merged = 0;

	for (int i = 0; i < 4; i++) {
		pid_t pid = target_new(write_all);

		/* The writers come by every few milliseconds: some pages are replaced between two visits. */
		for (int n = 0; n < 8; n++) {
			assert_int_equal(merge_pid(part, pid, &r), 0);
			merged += r.merged;
		}
		target_end(pid);
	}
	assert_true(merged > 0);
	partition_free(part);
}

static void the_same_writers_lose_bytes_without_the_protection(void **state)
{
	struct partition *part =
		partition_new(&(struct partition_conf){ .batch_flags = MERGE_NO_CHECK });
	bool lost = false;

	for (int i = 0; i < 100 && !lost; i++) {
		pid_t pid = target_new(write_all);
		struct merge_result r;
		int status;

		assert_int_equal(merge_pid(part, pid, &r), 0);
		__atomic_store_n(&shared->stop, 1, __ATOMIC_RELEASE);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		lost = shared->bad != 0;
	}
	assert_true(lost);
	partition_free(part);
}

/* ---- who dies ---- */

static pid_t engine_new(pid_t pid)
{
	pid_t engine = fork();

	if (engine == 0) {
		struct merge_result r;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;) {
			/* Small batches, and a partition that knows nothing: each is killed in a place of its own. */
			struct partition *part = partition_new(
				&(struct partition_conf){ .batch_pages = 8, .batch_runs = 2 });

			merge_pid(part, pid, &r);
			partition_free(part);
		}
	}
	return engine;
}

static void an_engine_that_is_killed_leaves_no_damage(void **state)
{
	pid_t pid = target_new(be_busy);

	shared->may_interrupt = 1;
	for (int i = 0; i < 30; i++) {
		pid_t engine = engine_new(pid);
		int status;

		usleep((useconds_t)(1000 + (i * 7919) % 30000));
		kill(engine, SIGKILL);
		assert_int_equal(waitpid(engine, &status, 0), engine);
	}
	/* Its agents end by themselves. */
	await_threads(pid, 5);
	assert_int_equal(shared->bad, 0);
	target_end(pid);
}

static void a_target_that_is_killed_is_an_error(void **state)
{
	for (int i = 0; i < 20; i++) {
		struct partition *part =
			partition_new(&(struct partition_conf){ .batch_pages = 4 });
		pid_t pid = target_new(be_busy), killer;
		struct merge_result result;
		int status, r = 0;

		killer = fork();
		if (killer == 0) {
			usleep((useconds_t)(500 + (i * 104729) % 40000));
			kill(pid, SIGKILL);
			_exit(0);
		}
		for (int n = 0; n < 10000 && r == 0; n++)
			r = merge_pid(part, pid, &result);
		assert_int_equal(r, -ESRCH);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(waitpid(killer, &status, 0), killer);
		partition_free(part);
	}
}

static void execute(void)
{
	pthread_t thread;

	pthread_create(&thread, NULL, compute_on, NULL);
	be_ready();
	usleep((useconds_t)(getpid() % 16 * 700));
	execl("/bin/sh", "sh", "-c", "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; exit 7",
	      (char *)NULL);
}

static void a_target_that_executes_another_program_is_an_error_and_runs_it(void **state)
{
	for (int i = 0; i < 20; i++) {
		struct partition *part =
			partition_new(&(struct partition_conf){ .batch_pages = 4 });
		pid_t pid = target_new(execute);
		struct merge_result result;
		int status, r = 0;

		for (int n = 0; n < 1000 && r == 0; n++)
			r = merge_pid(part, pid, &result);
		if (r != 0 && r != -EAGAIN && r != -ESRCH)
			print_message("merging gave %d\n", r);
		assert_true(r == 0 || r == -EAGAIN || r == -ESRCH);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
		partition_free(part);
	}
}

/* ---- mappings ---- */

static void idle_flagged(void)
{
	madvise(shared->pages, (NR + 1) * PAGE, MADV_DONTFORK);
	madvise(shared->pages, (NR + 1) * PAGE, MADV_DONTDUMP);
	idle();
}

static void flags_of_the_mapping_are_kept(void **state)
{
	struct partition *part = partition_new(NULL);
	pid_t pid = target_new(idle_flagged);
	char path[64], line[512];
	unsigned long start = 0, end;
	unsigned int merged = 0;
	struct merge_result r;
	FILE *f;

	assert_int_equal(merge_pid(part, pid, &r), 0);
	assert_int_equal(r.merged, NR / 4 * 3);
	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (line[0] >= 'a' || (line[0] >= '0' && line[0] <= '9'))
			sscanf(line, "%lx-%lx", &start, &end);
		if (strncmp(line, "VmFlags", 7) != 0 || start < (uintptr_t)shared->pages ||
		    start >= (uintptr_t)shared->pages + NR * PAGE)
			continue;
		assert_non_null(strstr(line, " dc"));
		assert_non_null(strstr(line, " dd"));
		merged += strstr(line, " lo") != NULL;
	}
	fclose(f);
	assert_true(merged > 0);
	target_end(pid);
	partition_free(part);
}

static void use_it(void)
{
	unsigned char *all;

	be_ready();
	while (!is_stopped())
		rest_ms(1);
	check_pages();
	/* Merged: refused. Not merged: zeros, as ever. */
	if (madvise(shared->pages + PAGE, PAGE, MADV_DONTNEED) == 0 || errno != EINVAL ||
	    madvise(shared->pages + PAGE, PAGE, MADV_FREE) == 0)
		COMPLAIN();
	if (madvise(shared->pages + 3 * PAGE, PAGE, MADV_DONTNEED) < 0 ||
	    !page_holds(shared->pages + 3 * PAGE, 0))
		COMPLAIN();
	page_fill(shared->pages + 3 * PAGE, seed_of(3));
	/* The mapping grows with zeros. */
	all = mremap(shared->pages + NR * PAGE, PAGE, 4 * PAGE, MREMAP_MAYMOVE);
	if (all == MAP_FAILED || !page_holds(all + PAGE, 0) || !page_holds(all + 3 * PAGE, 0))
		COMPLAIN();
	/* And a part of it moves with its content. */
	all = mremap(shared->pages + PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		     mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	if (all == MAP_FAILED || !page_holds(all, seed_of(1)))
		COMPLAIN();
}

static void the_process_goes_on_using_it(void **state)
{
	struct partition *part = partition_new(NULL);
	pid_t pid = target_new(use_it);
	struct merge_result r;

	assert_int_equal(merge_pid(part, pid, &r), 0);
	assert_int_equal(r.merged, NR / 4 * 3);
	target_end(pid);
	partition_free(part);
}

static void unmerge_gives_copies_back(void **state)
{
	struct partition *part = partition_new(NULL);
	pid_t pid = target_new(idle);
	struct partition_stats stats;
	struct ksm_remote remote;
	struct merge_result r;

	assert_int_equal(open_target(&remote, pid), 0);
	assert_int_equal(merge_target(part, &remote, &r), 0);
	assert_int_equal(
		partition_unmerge(part, &remote.target, (uintptr_t)shared->pages, NR * PAGE, &r),
		0);
	assert_int_equal(r.merged, NR / 2);
	close_target(&remote);
	partition_get_stats(part, &stats);
	assert_int_equal(stats.pages_sharing + stats.pages_shared, 0);
	target_end(pid);
	partition_free(part);
}

static void it_is_left_as_it_was(void **state)
{
	struct partition *part = partition_new(NULL);
	pid_t pid = target_new(be_busy);
	struct ksm_remote remote, other;
	uint64_t stub, found[sizeof(struct stub) / 8];
	char path[64];
	int mem;

	assert_int_equal(open_target(&remote, pid), 0);
	assert_int_equal(count_threads(pid), 6);
	stub = remote.agent.stub;
	assert_int_equal(open_target(&other, pid), -EBUSY);
	close_target(&remote);
	assert_int_equal(count_threads(pid), 5);
	snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
	mem = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(mem, found, sizeof(found), (off_t)stub), sizeof(found));
	for (size_t i = 0; i < sizeof(found) / 8; i++)
		assert_int_equal(found[i], 0);
	close(mem);
	target_end(pid);
	partition_free(part);
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
		cmocka_unit_test(the_content_stays_and_the_memory_shrinks),
		cmocka_unit_test(two_processes_share_and_one_that_ends_lets_go),
		cmocka_unit_test(system_calls_and_signals_go_on),
		cmocka_unit_test(writers_lose_nothing),
		cmocka_unit_test(the_same_writers_lose_bytes_without_the_protection),
		cmocka_unit_test(an_engine_that_is_killed_leaves_no_damage),
		cmocka_unit_test(a_target_that_is_killed_is_an_error),
		cmocka_unit_test(a_target_that_executes_another_program_is_an_error_and_runs_it),
		cmocka_unit_test(flags_of_the_mapping_are_kept),
		cmocka_unit_test(the_process_goes_on_using_it),
		cmocka_unit_test(unmerge_gives_copies_back),
		cmocka_unit_test(it_is_left_as_it_was),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, set_up, NULL);
}
