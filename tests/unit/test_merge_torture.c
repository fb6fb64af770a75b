// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_merge_torture.c - memory is merged while everything is done to it that a program may do, and engines and targets are killed.
 *
 * A target has pages that threads write (plain stores, atomics, the kernel's copies), each thread a word of its own in every page, and checks on the
 * next round; and slots, which one thread maps, fills, compares as a whole, unmaps, moves, shrinks and discards, and shows to forked children.
 * Most contents are equal to others, in the same target and in the next one, so a page that is not what it should be is lost (old bytes),
 * torn (of two times) or foreign (of another page): each is found.
 *
 * KSHARED_TORTURE_S: seconds; 60 if not given. "make torture" takes ten minutes.
 */
#include "merge_fixture.h"

#include <kind/ksm_remote.h>
#include <pthread.h>
#include <signal.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>

#define NR_BUSY 256u /* pages that are written */
#define NR_SLOTS 64u
#define SLOT_PAGES 8u /* where a slot may be; a quarter to half of it is used */
#define SPACE ((NR_BUSY + (2ul + NR_SLOTS) * SLOT_PAGES) * PAGE)
#define NR_SEEDS 6u /* equal contents; 0 is zeros */

/** struct shared - between a target and us. @bad: a line of this file; @space: what is to be merged; @rounds: of each kind of work;
 * @refused: times that merged memory was to become longer */
struct shared {
	int ready;
	int bad;
	unsigned char *space;
	uint64_t rounds[6];
	uint64_t merged;
	uint64_t refused;
};

static struct shared *shared;
static int device = -1;
static struct merge_self *self; /* NULL: somebody else merges us */

#define COMPLAIN() __atomic_store_n(&shared->bad, __LINE__, __ATOMIC_SEQ_CST)

/* One more round of this kind. Now and then it rests, so that there is something to be merged, and a processor to do so. */
static void count_round(unsigned int kind)
{
	if (__atomic_fetch_add(&shared->rounds[kind], 1, __ATOMIC_RELAXED) % 4 == 0)
		usleep(1000);
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static uint32_t any(uint32_t *state, uint32_t below)
{
	*state = *state * 1664525 + 1013904223;
	return (uint32_t)((uint64_t)*state * below >> 32);
}

/* ---- what a target does ---- */

static unsigned char *busy;

static void *store_on(void *arg)
{
	for (uint64_t round = 1;; round++) {
		for (size_t i = 0; i < NR_BUSY; i++) {
			volatile uint64_t *word = (uint64_t *)(void *)(busy + i * PAGE);

			if (*word != round - 1)
				COMPLAIN();
			*word = round;
		}
		count_round(0);
	}
	return NULL;
}

static void *add_on(void *arg)
{
	for (uint64_t round = 1;; round++) {
		for (size_t i = 0; i < NR_BUSY; i++)
			if (__atomic_fetch_add((uint64_t *)(void *)(busy + i * PAGE) + 1, 1,
					       __ATOMIC_SEQ_CST) != round - 1)
				COMPLAIN();
		count_round(1);
	}
	return NULL;
}

/* The kernel writes, across the end of a page. */
static void *copy_on(void *arg)
{
	uint64_t data[2];
	int end[2];

	if (pipe(end) < 0)
		COMPLAIN();
	for (uint64_t round = 1;; round++) {
		for (size_t i = 0; i + 1 < NR_BUSY; i += 2) {
			unsigned char *at = busy + (i + 1) * PAGE - 8;

			memcpy(data, at, sizeof(data));
			/* The second word is the first one of a page, which the storing thread has. */
			if (data[0] != round - 1)
				COMPLAIN();
			data[0] = round;
			if (write(end[1], data, 8) != 8 || read(end[0], at, 8) != 8)
				COMPLAIN();
		}
		count_round(2);
	}
	return NULL;
}

/** struct slot - pages from @at, each with its content. @nr: 0: nothing is there */
struct slot {
	unsigned char *at;
	uint32_t nr;
	uint64_t seed[SLOT_PAGES];
};

static struct slot slots[NR_SLOTS];

static unsigned char *place_of(const struct slot *slot)
{
	return shared->space + (NR_BUSY + (size_t)(slot - slots) * SLOT_PAGES) * PAGE;
}

static bool slot_is_whole(const struct slot *slot)
{
	for (uint32_t i = 0; i < slot->nr; i++)
		if (!page_holds(slot->at + (size_t)i * PAGE, slot->seed[i]))
			return false;
	return true;
}

static void slot_write(struct slot *slot, uint32_t i, uint64_t seed)
{
	slot->seed[i] = seed;
	page_fill(slot->at + (size_t)i * PAGE, seed);
}

static uint64_t any_seed(uint32_t *state)
{
	return any(state, 4) ? any(state, NR_SEEDS) : 1000 + any(state, 1u << 30);
}

static void slot_make(struct slot *slot, uint32_t *state)
{
	uint32_t nr = 2 + any(state, SLOT_PAGES / 2 - 1);

	slot->at = self ? merge_self_alloc(self, (size_t)nr * PAGE)
			: mmap(place_of(slot), (size_t)nr * PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (!slot->at || slot->at == MAP_FAILED) {
		COMPLAIN();
		return;
	}
	slot->nr = nr;
	for (uint32_t i = 0; i < nr; i++)
		slot_write(slot, i, any_seed(state));
}

static void slot_drop(struct slot *slot)
{
	if (self) {
		if (merge_self_release(self, slot->at) < 0)
			COMPLAIN();
	} else if (mmap(place_of(slot), SLOT_PAGES * PAGE, PROT_NONE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
		COMPLAIN();
	}
	slot->nr = 0;
}

/* Refused, or zeros; for MADV_FREE also what was there. In own memory it may not be done while pages are being replaced. */
static void slot_discard(struct slot *slot, uint32_t *state, int advice)
{
	uint32_t i = any(state, slot->nr);
	unsigned char *page = slot->at + (size_t)i * PAGE;

	int r;

	if (self)
		merge_self_fork_prepare(self);
	r = madvise(page, PAGE, advice);
	if (r < 0 && errno != EINVAL)
		COMPLAIN();
	if (self)
		merge_self_fork_parent(self);
	if (r == 0 && (advice == MADV_DONTNEED || page_holds(page, 0)))
		slot->seed[i] = 0;
}

/* Move to another free slot; what is left is made a hole again. */
static void slot_move(struct slot *slot, uint32_t *state)
{
	struct slot *to = &slots[any(state, NR_SLOTS)];
	size_t len = (size_t)slot->nr * PAGE;
	unsigned char *at;

	if (self || to->nr)
		return;
	at = mremap(slot->at, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, place_of(to));
	if (at == MAP_FAILED) {
		/* It has become several mappings, and this kernel moves one at a time: nothing has happened. */
		if (errno != EFAULT && errno != EINVAL)
			COMPLAIN();
		return;
	}
	*to = *slot;
	to->at = at;
	slot->nr = 0;
	if (mmap(place_of(slot), SLOT_PAGES * PAGE, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED &&
	    errno != EEXIST)
		COMPLAIN();
}

/*
 * A part of it moves to where there is room for more, and becomes longer. What is merged is locked, and this process may lock nothing (target_main()), so
 * that is refused; else there are zeros behind it.
 */
static void slot_grow(struct slot *slot, uint32_t *state)
{
	struct slot *to = &slots[any(state, NR_SLOTS)];
	uint32_t first = any(state, slot->nr), nr = 1 + any(state, slot->nr - first);
	unsigned char *at;

	if (self || to->nr || nr + 2 >= SLOT_PAGES)
		return;
	at = mremap(slot->at + (size_t)first * PAGE, (size_t)nr * PAGE, (size_t)(nr + 2) * PAGE,
		    MREMAP_MAYMOVE | MREMAP_FIXED, place_of(to));
	if (at == MAP_FAILED) {
		if (errno != EAGAIN && errno != EFAULT && errno != EINVAL)
			COMPLAIN();
		__atomic_fetch_add(&shared->refused, errno == EAGAIN, __ATOMIC_RELAXED);
		/* Where it was to go there may be nothing by now. */
		if (mmap(place_of(to), SLOT_PAGES * PAGE, PROT_NONE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
			COMPLAIN();
		return;
	}
	to->at = at;
	to->nr = nr + 2;
	memcpy(to->seed, slot->seed + first, nr * sizeof(to->seed[0]));
	to->seed[nr] = to->seed[nr + 1] = 0;
	if (!slot_is_whole(to))
		COMPLAIN();
	nr = slot->nr - first;
	slot->nr = first;
	if (mmap(slot->at + (size_t)first * PAGE, (size_t)nr * PAGE, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		COMPLAIN();
}

/* It cannot lock anything by itself. */
static void limit_locks(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	struct rlimit limit;

	/* Who merges may not be able to raise a hard limit. */
	getrlimit(RLIMIT_MEMLOCK, &limit);
	limit.rlim_cur = 0;
	if (setrlimit(RLIMIT_MEMLOCK, &limit) < 0 || syscall(SYS_capget, &head, data) < 0)
		COMPLAIN();
	data[0].effective &= ~(1u << CAP_IPC_LOCK);
	data[0].permitted &= ~(1u << CAP_IPC_LOCK);
	data[0].inheritable = 0;
	if (syscall(SYS_capset, &head, data) < 0)
		COMPLAIN();
}

/* What lies at the end goes. */
static void slot_shrink(struct slot *slot)
{
	size_t len = (size_t)slot->nr * PAGE;

	if (self || slot->nr < 2)
		return;
	if (mremap(slot->at, len, len - PAGE, 0) == MAP_FAILED) {
		if (errno != EFAULT && errno != EINVAL)
			COMPLAIN();
		return;
	}
	slot->nr--;
}

/* A child sees what is there, and what it writes is its own. */
static void show_child(uint32_t *state)
{
	struct slot *slot = &slots[any(state, NR_SLOTS)];
	int status = -1;
	pid_t pid;

	if (self)
		merge_self_fork_prepare(self);
	pid = fork();
	if (pid == 0) {
		bool whole = true;

		if (self)
			merge_self_fork_child(self);
		for (uint32_t i = 0; i < NR_SLOTS; i++)
			whole &= slot_is_whole(&slots[i]);
		if (slot->nr)
			page_fill(slot->at, 99);
		_exit(!whole || (slot->nr && !page_holds(slot->at, 99)));
	}
	if (self)
		merge_self_fork_parent(self);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		COMPLAIN();
	count_round(4);
}

static void *map_on(void *arg)
{
	uint32_t state = (uint32_t)getpid();

	for (;;) {
		struct slot *slot = &slots[any(&state, NR_SLOTS)];
		uint32_t what = any(&state, 64);

		if (what == 0)
			show_child(&state);
		if (!slot->nr) {
			slot_make(slot, &state);
			continue;
		}
		if (!slot_is_whole(slot))
			COMPLAIN();
		if (what < 4)
			slot_drop(slot);
		else if (what < 8)
			slot_move(slot, &state);
		else if (what < 12)
			slot_shrink(slot);
		else if (what < 13)
			slot_grow(slot, &state);
		else if (what < 16)
			slot_discard(slot, &state, what < 15 ? MADV_DONTNEED : MADV_FREE);
		else if (what < 32)
			slot_write(slot, any(&state, slot->nr), any_seed(&state));
		count_round(3);
	}
	return NULL;
}

static void merge_myself(uint32_t batch_flags)
{
	for (unsigned int i = 0;; i++) {
		struct partition *part =
			partition_new(&(struct partition_conf){ .batch_flags = batch_flags });

		for (unsigned int n = 0; n < 50; n++) {
			struct merge_result r = merge(part, self, NULL, UINT64_MAX / PAGE, 0);

			__atomic_fetch_add(&shared->merged, r.merged, __ATOMIC_RELAXED);
		}
		partition_free(part);
	}
}

static void target_main(bool alone, uint32_t batch_flags)
{
	static void *(*const body[])(void *) = { store_on, add_on, copy_on, map_on };
	pthread_t thread;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	self = alone ? self_new() : NULL;
	if (!alone)
		limit_locks();
	shared->space = mmap(NULL, SPACE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	busy = alone ? merge_self_alloc(self, (size_t)NR_BUSY * PAGE)
		     : mmap(shared->space, (size_t)NR_BUSY * PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	for (size_t i = 0; i < NR_BUSY; i++)
		busy[i * PAGE + PAGE / 2] = (unsigned char)(1 + i / 16 % 4);
	for (size_t i = 0; i < 4; i++)
		pthread_create(&thread, NULL, body[i], NULL);
	__atomic_store_n(&shared->ready, 1, __ATOMIC_RELEASE);
	if (alone)
		merge_myself(batch_flags);
	for (;;)
		pause();
}

/* ---- who merges, kills and looks ---- */

static pid_t target_new(bool alone, uint32_t batch_flags)
{
	pid_t pid;

	__atomic_store_n(&shared->ready, 0, __ATOMIC_RELEASE);
	pid = fork();
	if (pid == 0)
		target_main(alone, batch_flags);
	for (int i = 0; i < 20000 && !__atomic_load_n(&shared->ready, __ATOMIC_ACQUIRE); i++)
		usleep(1000);
	assert_int_equal(shared->ready, 1);
	return pid;
}

static void end(pid_t pid)
{
	int status;

	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
}

/* An engine that merges the target over and over, and is to be killed. */
static pid_t engine_new(pid_t pid, uint32_t batch_flags, uint32_t seed)
{
	pid_t engine = fork();
	struct partition *part;

	if (engine)
		return engine;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	part = partition_new(&(struct partition_conf){ .batch_flags = batch_flags,
						       .batch_pages = seed % 2 ? 16 : 0 });
	for (;;) {
		int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
		struct ksm_remote remote;
		struct merge_result result;
		int r = ksm_remote_open(&remote, pid, pidfd, device, false);

		while (r == -ESRCH)
			pause();
		if (r == 0) {
			for (int n = 0; n < 4; n++)
				if (partition_merge(part, &remote.target, (uintptr_t)shared->space,
						    SPACE, 0, &result) == 0)
					__atomic_fetch_add(&shared->merged, result.merged,
							   __ATOMIC_RELAXED);
			ksm_remote_close(&remote);
		}
		close(pidfd);
	}
}

static uint64_t sum(void)
{
	uint64_t n = 0;

	for (size_t i = 0; i < 5; i++)
		n += __atomic_load_n(&shared->rounds[i], __ATOMIC_RELAXED);
	return n;
}

/* All threads of the target get on, nobody being there to help them. */
static void await_progress(void)
{
	for (size_t i = 0; i < 4; i++) {
		uint64_t before = __atomic_load_n(&shared->rounds[i], __ATOMIC_RELAXED);

		for (int n = 0;
		     n < 30000 && before == __atomic_load_n(&shared->rounds[i], __ATOMIC_RELAXED) &&
		     !shared->bad;
		     n++)
			usleep(1000);
		if (!shared->bad)
			assert_int_not_equal(before,
					     __atomic_load_n(&shared->rounds[i], __ATOMIC_RELAXED));
	}
}

static uint64_t torture_ms(unsigned int share)
{
	const char *s = getenv("KSHARED_TORTURE_S");

	return (s ? strtoull(s, NULL, 10) : 60) * 1000 * share / 100;
}

/* Return: a line of this file where something wrong was seen; 0. */
static int torture(bool alone, uint32_t batch_flags, uint64_t ms)
{
	uint64_t until = now_ms() + ms;
	uint32_t state = (uint32_t)now_ms();
	unsigned int nr_targets = 0, nr_engines = 0;

	*shared = (struct shared){ 0 };
	while (now_ms() < until && !shared->bad) {
		pid_t pid = target_new(alone, batch_flags);

		nr_targets++;
		for (unsigned int i = 0; i < 8 && pid && now_ms() < until && !shared->bad; i++) {
			pid_t engine = alone ? 0 : engine_new(pid, batch_flags, state);

			usleep(any(&state, i % 4 ? 60000 : 1000000));
			if (alone)
				break;
			/* Now and then the target is killed first. */
			if (i == 7 && any(&state, 2)) {
				end(pid);
				pid = 0;
			}
			end(engine);
			nr_engines++;
			if (pid)
				await_progress();
		}
		if (alone)
			await_progress();
		if (pid)
			end(pid);
	}
	print_message(
		"%u targets, %u engines killed, %llu rounds, %llu pages merged, %llu times not made longer\n",
		nr_targets, nr_engines, (unsigned long long)sum(),
		(unsigned long long)shared->merged, (unsigned long long)shared->refused);
	if (shared->bad)
		print_message("wrong bytes seen by line %d\n", shared->bad);
	return shared->bad;
}

static void own_memory_is_never_wrong(void **state)
{
	assert_int_equal(torture(true, 0, torture_ms(35)), 0);
	assert_true(shared->merged > 0);
}

static void another_process_is_never_wrong(void **state)
{
	assert_int_equal(torture(false, 0, torture_ms(65)), 0);
	assert_true(shared->merged > 0);
	assert_true(shared->refused > 0);
}

static void without_the_protection_own_memory_is_wrong(void **state)
{
	assert_int_not_equal(torture(true, MERGE_NO_CHECK, 30000), 0);
}

static void without_the_protection_another_process_is_wrong(void **state)
{
	assert_int_not_equal(torture(false, MERGE_NO_CHECK, 30000), 0);
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
		cmocka_unit_test(without_the_protection_own_memory_is_wrong),
		cmocka_unit_test(without_the_protection_another_process_is_wrong),
		cmocka_unit_test(own_memory_is_never_wrong),
		cmocka_unit_test(another_process_is_never_wrong),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, set_up, NULL);
}
