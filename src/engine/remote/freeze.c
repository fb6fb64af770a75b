// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * freeze.c - see freeze.h.
 */
#include <base/cleanup.h>
#include <dirent.h>
#include <engine/remote/freeze.h>
#include <engine/remote/thread.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <time.h>

#define REAP_NS 5000000
#define LOOK_NS 20000
#define SWEEP_NS 5000000000
#define ROUNDS 64 /* of looking for new threads */

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t freeze_cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/** struct listed - a record of getdents64(2). */
struct listed {
	uint64_t ino;
	int64_t off;
	unsigned short reclen;
	unsigned char type;
	char name[];
};

/** struct reaper - what the second thread needs. @tid: those that we have seized */
struct reaper {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	pthread_t thread;
	bool end;
	pid_t tid[FREEZE_THREADS];
	size_t nr_tids;
};

static void *reap(void *arg)
{
	struct reaper *reaper = arg;

	pthread_mutex_lock(&reaper->lock);
	while (!reaper->end) {
		struct timespec until;

		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += REAP_NS;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		for (size_t i = 0; i < reaper->nr_tids; i++)
			thread_reap(reaper->tid[i]);
		pthread_cond_timedwait(&reaper->wake, &reaper->lock, &until);
	}
	pthread_mutex_unlock(&reaper->lock);
	return NULL;
}

static int reaper_start(struct freeze *freeze)
{
	struct reaper *reaper = calloc(1, sizeof(*reaper));
	sigset_t all, old;
	int r;

	if (!reaper)
		return -ENOMEM;
	pthread_mutex_init(&reaper->lock, NULL);
	pthread_cond_init(&reaper->wake, NULL);
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	r = pthread_create(&reaper->thread, NULL, reap, reaper);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r) {
		free(reaper);
		return -r;
	}
	freeze->reaper = reaper;
	return 0;
}

static void reaper_stop(struct freeze *freeze)
{
	struct reaper *reaper = freeze->reaper;

	if (!reaper)
		return;
	pthread_mutex_lock(&reaper->lock);
	reaper->end = true;
	pthread_cond_signal(&reaper->wake);
	pthread_mutex_unlock(&reaper->lock);
	pthread_join(reaper->thread, NULL);
	pthread_cond_destroy(&reaper->wake);
	pthread_mutex_destroy(&reaper->lock);
	free(reaper);
	freeze->reaper = NULL;
}

/* Tell the reaper whom we have. */
static void reaper_set(struct freeze *freeze, bool any)
{
	struct reaper *reaper = freeze->reaper;

	pthread_mutex_lock(&reaper->lock);
	reaper->nr_tids = 0;
	for (size_t i = 0; any && i < freeze->nr_threads; i++)
		reaper->tid[reaper->nr_tids++] = freeze->thread[i].tid;
	pthread_mutex_unlock(&reaper->lock);
}

static struct frozen *find(struct freeze *freeze, pid_t tid)
{
	for (size_t i = 0; i < freeze->nr_threads; i++)
		if (freeze->thread[i].tid == tid)
			return &freeze->thread[i];
	return NULL;
}

static int add(struct freeze *freeze, pid_t tid)
{
	if (freeze->nr_threads == FREEZE_THREADS)
		return -EAGAIN;
	if (freeze->nr_threads == freeze->room) {
		size_t room = freeze->room ? freeze->room * 2 : 16;
		struct frozen *more = reallocarray(freeze->thread, room, sizeof(*more));

		if (!more)
			return -ENOMEM;
		freeze->thread = more;
		freeze->room = room;
	}
	freeze->thread[freeze->nr_threads++] = (struct frozen){ .tid = tid };
	return 0;
}

static void drop(struct freeze *freeze, struct frozen *thread)
{
	*thread = freeze->thread[--freeze->nr_threads];
}

/* Seize the threads that are not yet. Return: how many; -errno. */
static int seize_new(struct freeze *freeze)
{
	char room[4096] __attribute__((aligned(8)));
	int nr_new = 0;
	long n;

	if (lseek(freeze->task, 0, SEEK_SET) < 0)
		return -errno;
	while ((n = syscall(SYS_getdents64, freeze->task, room, sizeof(room))) > 0)
		for (long at = 0; at < n;) {
			const struct listed *entry = (const void *)(room + at);
			pid_t tid = (pid_t)atoi(entry->name);
			struct frozen *thread;
			int r = 0;

			at += entry->reclen;
			if (tid <= 0 || tid == freeze->agent)
				continue;
			thread = find(freeze, tid);
			if (thread && thread->seized)
				continue;
			if (!thread)
				r = add(freeze, tid);
			if (r < 0)
				return r;
			thread = find(freeze, tid);
			reaper_set(freeze, true);
			r = thread_seize(thread);
			if (r == 0) {
				nr_new++;
				continue;
			}
			freeze->surprised |= r == -EAGAIN || thread->seized;
			/* Gone, or a worker of the kernel's: it stays in no list. */
			drop(freeze, thread);
			if (r != -ESRCH && r != -ECHILD)
				return r;
		}
	return n < 0 ? (errno == ENOENT ? -ESRCH : -errno) : nr_new;
}

/* Wait for all that are seized. */
static int await_all(struct freeze *freeze)
{
	for (size_t i = 0; i < freeze->nr_threads;) {
		struct frozen *thread = &freeze->thread[i];
		int r = !thread->seized ? -ESRCH : thread->stopped ? 0 : thread_await(thread);

		if (r > 0 || thread->job_stop)
			return -EAGAIN;
		if (r == 0) {
			if (freeze->began_ns == 0) {
				freeze->began_ns = now_ns();
				freeze->began_cpu_ns = freeze_cpu_ns();
			}
			i++;
			continue;
		}
		freeze->surprised |= thread->seized;
		drop(freeze, thread);
	}
	return 0;
}

static int stop_all(struct freeze *freeze)
{
	for (int round = 0; round < ROUNDS; round++) {
		int nr_new = seize_new(freeze);
		int r = nr_new < 0 ? nr_new : await_all(freeze);

		if (r < 0)
			return r;
		/* Nobody was running any more when the list was read: nobody can have made a thread since. */
		if (nr_new == 0)
			return freeze->nr_threads ? 0 : -ESRCH;
	}
	return -EAGAIN;
}

/* Threads that did not stop in time the last time: until they do, the others go on. */
static bool is_waited_for(struct freeze *freeze)
{
	for (size_t i = 0; i < freeze->nr_threads; i++) {
		struct frozen *thread = &freeze->thread[i];

		if (!thread->seized)
			continue;
		if (thread_await(thread) > 0)
			return true;
		if (!thread_let_go(thread))
			freeze->surprised = true;
	}
	return false;
}

static int arm_all(struct freeze *freeze)
{
	size_t size = freeze->nr_threads * sizeof(struct stub);
	cleanup_free struct stub *stub = malloc(size);
	uint32_t busy = 1;

	if (!stub)
		return -ENOMEM;
	for (size_t i = 0; i < freeze->nr_threads; i++) {
		int r = thread_read(&freeze->thread[i]);

		if (r < 0)
			return r;
		thread_fill_stub(&freeze->thread[i], &stub[i]);
		stub[i].rip = thread_abort_sequence(&freeze->thread[i], freeze->mem, stub[i].rip);
		stub[i].busy = freeze->busy;
		stub[i].child = 0;
	}
	/* After exec this descriptor leads to what was there before, and nothing can be written any more. */
	if (pwrite(freeze->mem, stub, size, (off_t)freeze->slots) != (ssize_t)size ||
	    pwrite(freeze->mem, &busy, sizeof(busy), (off_t)freeze->busy) != sizeof(busy))
		return -ESRCH;
	for (size_t i = 0; i < freeze->nr_threads; i++) {
		struct frozen *thread = &freeze->thread[i];
		struct user_regs_struct regs = thread->regs;

		regs.rip = freeze->slots + i * sizeof(struct stub) + STUB_PARK;
		regs.orig_rax = (uint64_t)-1;
		thread->armed = true;
		if (thread_write(thread, &regs, ~0ull, true) < 0)
			return -ESRCH;
	}
	return 0;
}

/*
 * Let go of threads that we trace and that are not where our list says: those that have been killed are reaped, one that
 * executed another program, and bears the leader's number now, is stopped once more and detached from.
 */
static void sweep(struct freeze *freeze)
{
	pid_t self = (pid_t)syscall(SYS_gettid);
	int64_t began = now_ns();
	char path[32];
	bool any = true;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)freeze->pid);
	for (size_t i = 0; i < freeze->nr_threads; i++)
		thread_reap(freeze->thread[i].tid);
	while (any && now_ns() - began < SWEEP_NS) {
		struct dirent *entry;
		DIR *dir = opendir(path);

		any = false;
		while (dir && (entry = readdir(dir))) {
			struct frozen thread = { .tid = (pid_t)atoi(entry->d_name),
						 .seized = true };

			if (thread.tid <= 0 || thread_tracer(thread.tid) != self ||
			    thread_reap(thread.tid))
				continue;
			any = true;
			ptrace(PTRACE_INTERRUPT, thread.tid, NULL, NULL);
			if (thread_await(&thread) == 0)
				thread_let_go(&thread);
			else
				nanosleep(&(struct timespec){ .tv_nsec = LOOK_NS }, NULL);
		}
		if (dir)
			closedir(dir);
	}
	freeze->surprised = false;
	freeze->nr_threads = 0;
}

static void let_all_go(struct freeze *freeze, bool restore)
{
	for (size_t i = 0; i < freeze->nr_threads; i++) {
		struct frozen *thread = &freeze->thread[i];

		if (!thread->stopped)
			continue;
		if (thread->armed && restore)
			thread_write(thread, &thread->regs, thread->mask, false);
		if (!thread_let_go(thread))
			freeze->surprised = true;
	}
	reaper_set(freeze, false);
	if (freeze->surprised)
		sweep(freeze);
}

void freeze_end(struct freeze *freeze)
{
	let_all_go(freeze, true);
}

void freeze_leave(struct freeze *freeze)
{
	let_all_go(freeze, false);
}

int freeze_begin(struct freeze *freeze)
{
	uint32_t busy = 0;
	int r = freeze->reaper ? 0 : reaper_start(freeze);

	if (r < 0)
		return r;
	if (is_waited_for(freeze))
		return -EAGAIN;
	freeze->began_ns = 0;
	r = stop_all(freeze);
	if (r == 0)
		r = arm_all(freeze);
	if (r < 0) {
		/* Nobody was asked for anything: who is armed and loses us must not wait. */
		if (pwrite(freeze->mem, &busy, sizeof(busy), (off_t)freeze->busy) < 0)
			r = -ESRCH;
		freeze_end(freeze);
	}
	return r;
}

void freeze_deinit(struct freeze *freeze)
{
	for (size_t i = 0; i < freeze->nr_threads; i++) {
		struct frozen *thread = &freeze->thread[i];
		int r = 1;

		while (thread->seized && !thread->stopped && r > 0)
			r = thread_await(thread);
		thread_let_go(thread);
	}
	/* In any case: whom we trace still would wait for us, or for good. */
	sweep(freeze);
	reaper_stop(freeze);
	free(freeze->thread);
	freeze->thread = NULL;
	freeze->nr_threads = freeze->room = 0;
}
