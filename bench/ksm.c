// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ksm.c - how fast equal pages are merged, how much that saves, and what the merged process feels of it; beside the kernel's KSM.
 *
 *	bench-ksm ROUNDS MIB [MIB...]
 *
 * The first MIB is the size for everything but growth, which is measured for all others. Each measurement is made in a fresh process
 * with fresh memory, which is filled, merged, and compared with what it was filled with. Lines are as bench.h says; what is not a time
 * is in bytes.
 *
 * Guest-like memory is that of four guests of one image: 20 % zeros, 40 % common to all, 10 % what each has several times, 30 %
 * unique, in blocks of 16 pages, and the common ones elsewhere in each.
 *
 * The kernel's KSM merges a page when it finds it unchanged since its last scan, so in its second scan. Its time is that until
 * it has saved all but a thousandth of what it finally saves; if there is nothing to save, that of two scans.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <engine/merge/partition.h>
#include <engine/merge/self.h>
#include <kind/ksm_remote.h>

#include "bench.h"
#include "ksm.h"

#define PAGE 4096u
#define WORDS (PAGE / 8)
#define BLOCK 16u
#define GUESTS 4u
#define SPREAD 1024u /* different contents where all are duplicates */
#define POLL_NS 2000000
#define KSM_PATIENCE_NS 180000000000
#define IDLE_S 2
#define WRITERS 2

enum set { GUESTS_LIKE, DUPLICATE, UNIQUE, NR_SETS };

static const char *const set_names[] = { "guest-like", "all duplicate", "all unique" };

/**
 * struct outcome - of one measurement; in memory that the measuring process shares with us.
 * @ns: until merged
 * @cpu_ns: CPU time for it, of all who take part: little of what else the machine does is in it
 * @saved: bytes less in the process's proportional share of memory, the engine's own included
 * @freeze: how long the other process stood still: the median, and of 99 in 100 at most
 * @idle_ns: CPU time used in IDLE_S seconds after the call
 */
struct outcome {
	double ns;
	double cpu_ns;
	double saved;
	double freeze[2];
	double idle_ns;
	double nr_freezes;
	double overhead;
};

static struct outcome *outcome;
static uint64_t nr_pages;
static enum set set;
static unsigned char *pages;

/* ---- content ---- */

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

/* What tells a page's content from others'; 0: zeros. */
static uint64_t content(uint64_t i)
{
	uint64_t each = nr_pages / GUESTS, guest = i / each, block, kind;

	if (set == DUPLICATE)
		return mix(i % SPREAD + 1) | 1;
	if (set == UNIQUE)
		return mix(i + 1) | 1;
	block = (i % each / BLOCK + guest * 3) % (each / BLOCK);
	kind = block % 20;
	if (kind < 4)
		return 0;
	if (kind < 12)
		return mix(block * BLOCK + i % BLOCK + 1) | 1;
	if (kind < 14)
		return mix((guest + 1) << 56 ^ block % 100) | 1;
	return mix((guest + 1) << 48 ^ i) | 1;
}

static void fill(void)
{
	for (uint64_t i = 0; i < nr_pages; i++) {
		uint64_t *word = (uint64_t *)(pages + i * PAGE), value = content(i);

		for (unsigned int k = 0; k < WORDS; k++)
			word[k] = value * (k + 1);
	}
}

static void verify(void)
{
	for (uint64_t i = 0; i < nr_pages; i++) {
		const uint64_t *word = (const uint64_t *)(pages + i * PAGE);
		uint64_t value = content(i), wrong = 0;

		for (unsigned int k = 0; k < WORDS; k++)
			wrong |= word[k] ^ value * (k + 1);
		if (wrong) {
			errno = EIO;
			bench_die("page %llu is not what it was", (unsigned long long)i);
		}
	}
}

static double own_pss(pid_t pid)
{
	char path[64], line[256];
	double kib = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", pid);
	file = fopen(path, "re");
	if (!file)
		bench_die("%s", path);
	while (kib < 0 && fgets(line, sizeof(line), file))
		if (sscanf(line, "Pss: %lf", &kib) != 1)
			kib = -1;
	fclose(file);
	return kib * 1024;
}

static void *map_pages(void)
{
	void *p = mmap(NULL, nr_pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);

	if (p == MAP_FAILED)
		bench_die("memory");
	return p;
}

static void rest(int64_t ns)
{
	nanosleep(&(struct timespec){ .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 },
		  NULL);
}

static double clock_ns(clockid_t clock)
{
	struct timespec ts;

	bench_zero(clock_gettime(clock, &ts), "clock");
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static double cpu_ns(void)
{
	return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

static double cpu_ns_of(pid_t pid)
{
	clockid_t clock;

	errno = clock_getcpuclockid(pid, &clock);
	bench_zero(errno, "clock of a process");
	return clock_ns(clock);
}

/* ---- the kernel's ---- */

static uint64_t ksm_saved(void)
{
	return ksm_process_value("ksm_merging_pages") + ksm_process_value("ksm_zero_pages");
}

static void by_kernel(void)
{
	enum { SAMPLES = 100000 };
	static uint64_t saved[SAMPLES];
	static int64_t when[SAMPLES];
	static double cpu[SAMPLES];
	int64_t start;
	size_t done_at = 0;
	uint64_t scans, last = 0, last_scan = 0;
	double before, idle;
	size_t n = 0;

	pages = map_pages();
	bench_zero(madvise(pages, nr_pages * PAGE, MADV_MERGEABLE), "MADV_MERGEABLE");
	fill();
	before = own_pss(getpid());
	scans = ksm_value("full_scans");
	idle = (double)ksm_daemon_cpu_ns();
	start = bench_now_ns();
	ksm_start();
	for (;;) {
		uint64_t done = ksm_value("full_scans") - scans;

		if (n == SAMPLES || bench_now_ns() - start > KSM_PATIENCE_NS)
			bench_die("the kernel's KSM does not come to an end");
		when[n] = bench_now_ns() - start;
		cpu[n] = (double)ksm_daemon_cpu_ns() - idle;
		saved[n++] = ksm_saved();
		if (done >= 2 && !done_at)
			done_at = n - 1;
		/* Another scan has saved nothing more. */
		if (done >= 3 && done != last_scan && saved[n - 1] == last)
			break;
		if (done != last_scan)
			last = saved[n - 1];
		last_scan = done;
		rest(POLL_NS);
	}
	ksm_stop();
	for (size_t i = 0; saved[n - 1] && i < n; i++) {
		if (saved[i] >= saved[n - 1] - saved[n - 1] / 1000) {
			done_at = i;
			break;
		}
	}
	outcome->ns = (double)when[done_at];
	outcome->cpu_ns = cpu[done_at];
	outcome->saved = before - own_pss(getpid());
	outcome->overhead = 64.0 * (double)ksm_process_value("ksm_rmap_items");
	verify();
	/* As it is when it runs as a service: with its own defaults. */
	ksm_set("sleep_millisecs", 20);
	ksm_set("pages_to_scan", 100);
	idle = (double)ksm_daemon_cpu_ns();
	ksm_set("run", 1);
	rest(IDLE_S * 1000000000ll);
	outcome->idle_ns = (double)ksm_daemon_cpu_ns() - idle;
	ksm_stop();
}

/* ---- ours, in the caller's own memory ---- */

static void zero(int r, const char *what)
{
	errno = -r;
	bench_zero(r, what);
}

static double call(struct partition *part, const struct merge_target *target)
{
	struct merge_result result;
	int64_t start = bench_now_ns();

	zero(partition_merge(part, target, (uintptr_t)pages, nr_pages * PAGE, 0, &result),
	     "merging");
	start = bench_now_ns() - start;
	if (result.scanned < nr_pages - 1 || result.skipped_limit || result.skipped_mapping)
		bench_die("only %llu of %llu pages were looked at; %llu met a limit",
			  (unsigned long long)result.scanned, (unsigned long long)nr_pages,
			  (unsigned long long)result.skipped_limit);
	return (double)start;
}

static void by_self(void)
{
	struct partition *part = partition_new(NULL);
	struct merge_self *self = NULL;
	struct merge_target target;
	double before, idle;

	zero(merge_self_new(-1, &self), "userfaultfd");
	pages = merge_self_alloc(self, nr_pages * PAGE);
	if (!part || !pages)
		bench_die("memory");
	fill();
	before = own_pss(getpid());
	zero(merge_self_open(self, &target), "own memory");
	idle = cpu_ns();
	outcome->ns = call(part, &target);
	outcome->cpu_ns = cpu_ns() - idle;
	merge_self_close(&target);
	outcome->saved = before - own_pss(getpid());
	idle = cpu_ns();
	rest(IDLE_S * 1000000000ll);
	outcome->idle_ns = cpu_ns() - idle;
	verify();
	partition_free(part);
}

/* ---- ours, in another process ---- */

/** struct meeting - of the target and who merges it. */
struct meeting {
	int ready;
	int end;
	unsigned char *pages;
};

static struct meeting *meeting;
static bool busy;

/* Writes what is there already, everywhere, so that it is always right and always being written. */
static void *write_on(void *arg)
{
	uint64_t state = (uintptr_t)arg;

	while (!__atomic_load_n(&meeting->end, __ATOMIC_ACQUIRE)) {
		uint64_t *word;

		state = mix(state + 1);
		word = (uint64_t *)(pages + state % nr_pages * PAGE + (state >> 40) % WORDS * 8);
		__atomic_fetch_add(word, 0, __ATOMIC_RELAXED);
		if (state % 64 == 0)
			sched_yield();
	}
	return NULL;
}

static void be_merged(void)
{
	pthread_t writer[WRITERS];

	pages = map_pages();
	fill();
	for (int i = 0; busy && i < WRITERS; i++)
		bench_zero(pthread_create(&writer[i], NULL, write_on, (void *)(uintptr_t)(i + 1)),
			   "thread");
	meeting->pages = pages;
	__atomic_store_n(&meeting->ready, 1, __ATOMIC_RELEASE);
	while (!__atomic_load_n(&meeting->end, __ATOMIC_ACQUIRE))
		rest(1000000);
	for (int i = 0; busy && i < WRITERS; i++)
		pthread_join(writer[i], NULL);
	verify();
}

static void by_other(void)
{
	struct partition *part = partition_new(NULL);
	struct ksm_remote remote;
	double before, cpu;
	int pidfd, status;
	pid_t pid;

	*meeting = (struct meeting){ 0 };
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		be_merged();
		_exit(0);
	}
	while (!__atomic_load_n(&meeting->ready, __ATOMIC_ACQUIRE)) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			bench_die("the process that was to be merged has ended");
		rest(1000000);
	}
	pages = meeting->pages;
	before = own_pss(pid) + own_pss(getpid());
	pidfd = bench_fd((int)syscall(SYS_pidfd_open, pid, 0), "pidfd");
	zero(ksm_remote_open(&remote, pid, pidfd, -1, false), "reaching into the process");
	cpu = cpu_ns() + cpu_ns_of(pid);
	outcome->ns = call(part, &remote.target);
	outcome->cpu_ns = cpu_ns() + cpu_ns_of(pid) - cpu;
	outcome->freeze[0] = (double)agent_freeze_ns(&remote.agent, 0.5);
	outcome->freeze[1] = (double)agent_freeze_ns(&remote.agent, 0.99);
	outcome->nr_freezes = (double)remote.agent.nr_freezes;
	ksm_remote_close(&remote);
	outcome->saved = before - own_pss(pid) - own_pss(getpid());
	__atomic_store_n(&meeting->end, 1, __ATOMIC_RELEASE);
	if (waitpid(pid, &status, 0) != pid || status)
		bench_die("the process that was merged has ended with status %d", status);
	partition_free(part);
}

/* ---- rounds ---- */

/* One measurement, in a process of its own. */
static struct outcome measure(void (*how)(void))
{
	int status;
	pid_t pid;

	*outcome = (struct outcome){ 0 };
	fflush(stdout);
	if (how == by_kernel)
		ksm_wait_for_others();
	pid = fork();
	if (pid < 0)
		bench_die("fork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		how();
		_exit(0);
	}
	if (waitpid(pid, &status, 0) != pid || status)
		exit(EXIT_FAILURE);
	return *outcome;
}

static void emit(const char *what, const char *lane, unsigned int round, double value)
{
	char group[64];

	snprintf(group, sizeof(group), "%s, %s", what, set_names[set]);
	bench_emit(group, lane, round, value);
}

static double gib(void)
{
	return (double)nr_pages * PAGE / (double)(1ull << 30);
}

static const struct {
	const char *name;
	void (*how)(void);
} lanes[] = { { "the kernel's KSM", by_kernel },
	      { "kshared, own memory", by_self },
	      { "kshared, another process", by_other } };

#define NR_LANES (sizeof(lanes) / sizeof(lanes[0]))

static void one_round(unsigned int round)
{
	for (set = 0; set < NR_SETS; set++) {
		for (size_t k = 0; k < NR_LANES; k++) {
			size_t i = round % 2 ? NR_LANES - 1 - k : k;
			struct outcome o = measure(lanes[i].how);

			emit("time for 1 GiB", lanes[i].name, round, o.ns / gib());
			emit("CPU time for 1 GiB", lanes[i].name, round, o.cpu_ns / gib());
			if (set != UNIQUE)
				emit("memory saved", lanes[i].name, round, o.saved);
			if (set == GUESTS_LIKE && lanes[i].how != by_other)
				bench_emit("CPU time of two seconds in which nobody calls",
					   lanes[i].name, round, o.idle_ns);
			if (set == GUESTS_LIKE && lanes[i].how == by_kernel && round == 0)
				bench_note(
					"of what the kernel's KSM saves, its own books take %.1f MiB; "
					"those of kshared are subtracted already",
					o.overhead / (1 << 20));
		}
	}
	set = GUESTS_LIKE;
	for (busy = true; busy; busy = false) {
		struct outcome o = measure(by_other);

		bench_emit("the other process stands still", "median", round, o.freeze[0]);
		bench_emit("the other process stands still", "99 of 100 at most", round,
			   o.freeze[1]);
	}
}

static void growth(unsigned int round, unsigned long mib)
{
	char name[32];

	set = GUESTS_LIKE;
	nr_pages = (uint64_t)mib << 8;
	snprintf(name, sizeof(name), "%lu GiB", mib >> 10);
	bench_emit("time for each GiB of own memory, guest-like", name, round,
		   measure(by_self).ns / gib());
}

int main(int argc, char **argv)
{
	unsigned long mib[8];
	unsigned int rounds = argc > 2 ? (unsigned int)atoi(argv[1]) : 0;
	int nr_sizes = argc - 2;

	for (int i = 0; i < nr_sizes && i < 8; i++)
		mib[i] = strtoul(argv[i + 2], NULL, 10);
	if (!rounds || nr_sizes < 1 || nr_sizes > 8 || !mib[0]) {
		fprintf(stderr, "usage: %s ROUNDS MIB [MIB...]\nbench/run starts it.\n", argv[0]);
		return 2;
	}
	outcome = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (outcome == MAP_FAILED)
		bench_die("memory");
	meeting = (struct meeting *)(outcome + 1);
	ksm_take();
	for (unsigned int round = 0; round < rounds; round++) {
		nr_pages = (uint64_t)mib[0] << 8;
		one_round(round);
		for (int i = 1; i < nr_sizes; i++)
			growth(round, mib[round % 2 ? nr_sizes - i : i]);
	}
	ksm_give_back();
	return 0;
}
