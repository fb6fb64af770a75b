// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * freeze.c - see freeze.h.
 */
#include <base/cleanup.h>
#include <dirent.h>
#include <engine/remote/freeze.h>
#include <fcntl.h>
#include <linux/elf.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#define STOP_NS \
	20000000 /* a thread that takes longer is in the middle of a long system call that cannot be interrupted */
#define REAP_NS 5000000
#define SWEEPS 50
#define ROUNDS 64 /* of looking for new threads */
#define EPOLL_PWAIT2 441u
#define KERNEL_WORKER 0x4010u /* PF_IO_WORKER, PF_USER_WORKER */

/* The kernel's own numbers, which user space does not see except by ptrace */
#define ERESTARTSYS 512
#define ERESTARTNOINTR 513
#define ERESTARTNOHAND 514
#define ERESTART_RESTARTBLOCK 516

/** struct listed - a record of getdents64(2). */
struct listed {
	uint64_t ino;
	int64_t off;
	unsigned short reclen;
	unsigned char type;
	char name[];
};

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* What the thread's line in /proc says. Return: its state's letter; 0: it is gone. */
static char state_of(pid_t tid, unsigned int *ret_flags)
{
	char path[32], line[512], state = 0;
	cleanup_fd int fd = -1;
	const char *at;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
	line[n > 0 ? n : 0] = 0;
	at = strrchr(line, ')');
	if (!at || sscanf(at + 1, " %c %*d %*d %*d %*d %*d %u", &state, ret_flags) != 2)
		return 0;
	return state;
}

/* Whom does a thread's status name as its tracer? */
static pid_t tracer_of(pid_t tid)
{
	char path[32], line[256];
	int tracer = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)tid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f) && sscanf(line, "TracerPid: %d", &tracer) != 1)
		continue;
	if (f)
		fclose(f);
	return tracer;
}

static int why_not(pid_t tid)
{
	unsigned int flags = 0;
	char state = state_of(tid, &flags);
	pid_t tracer;

	if (state == 0 || state == 'Z' || state == 'X')
		return -ESRCH;
	if (flags & KERNEL_WORKER)
		return -ECHILD;
	tracer = tracer_of(tid);
	/* By ourselves: it has the number of one that is no more. */
	if (tracer == (pid_t)syscall(SYS_gettid))
		return -EAGAIN;
	return tracer > 0 ? -EBUSY : -EPERM;
}

/* Wait for a seized thread's next stop. Return: 0; 1: not in time; -ESRCH. */
static int await(struct frozen *thread)
{
	int64_t began = now_ns();
	int status;

	for (unsigned int turn = 0;; turn++) {
		pid_t r = waitpid(thread->tid, &status, __WALL | WNOHANG);

		if (r == thread->tid)
			break;
		if (r < 0 && errno != EINTR)
			return -ESRCH;
		if (turn > 20)
			sched_yield();
		if (turn % 16 == 15 && now_ns() - began > STOP_NS)
			return 1;
	}
	if (!WIFSTOPPED(status)) {
		thread->seized = false;
		return -ESRCH;
	}
	thread->stopped = true;
	/* An event's stop, or that of a signal that is on its way. */
	thread->signal = status >> 16 ? 0 : WSTOPSIG(status);
	if (thread->signal == (SIGTRAP | 0x80))
		thread->signal = 0;
	return 0;
}

static int seize(struct frozen *thread)
{
	if (thread->seized)
		return 0;
	if (ptrace(PTRACE_SEIZE, thread->tid, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC) < 0)
		return errno == ESRCH ? -ESRCH : why_not(thread->tid);
	thread->seized = true;
	if (ptrace(PTRACE_INTERRUPT, thread->tid, NULL, NULL) < 0)
		return -ESRCH;
	return 0;
}

int thread_stop(struct frozen *thread)
{
	int r = seize(thread);

	if (r == -ECHILD)
		return -EPERM;
	return r < 0 ? r : await(thread);
}

/* Is a signal on its way to the thread? */
static bool has_signal(pid_t tid)
{
	for (uint32_t shared = 0; shared < 2; shared++) {
		struct __ptrace_peeksiginfo_args args = { .flags = shared, .nr = 1 };
		siginfo_t info;

		if (ptrace(PTRACE_PEEKSIGINFO, tid, &args, &info) != 0)
			return true;
	}
	return false;
}

/*
 * Most system calls that a stop interrupts are begun anew by the kernel. Those of epoll say EINTR to the program, although there was no
 * signal. One that waits without limit is begun anew by us; one with a limit would wait too long.
 */
static void begin_anew(struct frozen *thread)
{
	struct user_regs_struct *regs = &thread->regs;
	bool forever = (int)regs->r10 < 0;

	if ((int64_t)regs->rax != -EINTR || thread->signal)
		return;
	if (regs->orig_rax == EPOLL_PWAIT2)
		forever = regs->r10 == 0;
	else if (regs->orig_rax != SYS_epoll_wait && regs->orig_rax != SYS_epoll_pwait)
		return;
	if (!forever || has_signal(thread->tid))
		return;
	regs->rax = regs->orig_rax;
	regs->rip -= 2;
	regs->orig_rax = (uint64_t)-1;
}

int thread_read(struct frozen *thread)
{
	struct iovec iov = { .iov_base = &thread->regs, .iov_len = sizeof(thread->regs) };

	if (ptrace(PTRACE_GETREGSET, thread->tid, NT_PRSTATUS, &iov) < 0)
		return -ESRCH;
	if (iov.iov_len != sizeof(thread->regs) || thread->regs.cs != 0x33)
		return -EOPNOTSUPP;
	if (ptrace(PTRACE_GETSIGMASK, thread->tid, sizeof(thread->mask), &thread->mask) < 0)
		return -ESRCH;
	begin_anew(thread);
	return 0;
}

int thread_write(const struct frozen *thread, const struct user_regs_struct *regs, uint64_t mask,
		 bool first)
{
	struct user_regs_struct copy = *regs;
	struct iovec iov = { .iov_base = &copy, .iov_len = sizeof(copy) };
	long r = 0;

	if (first)
		r = ptrace(PTRACE_SETREGSET, thread->tid, NT_PRSTATUS, &iov);
	if (r == 0)
		r = ptrace(PTRACE_SETSIGMASK, thread->tid, sizeof(mask), &mask);
	if (r == 0 && !first)
		r = ptrace(PTRACE_SETREGSET, thread->tid, NT_PRSTATUS, &iov);
	return r < 0 ? -ESRCH : 0;
}

bool thread_let_go(struct frozen *thread)
{
	bool done = !thread->stopped ||
		ptrace(PTRACE_DETACH, thread->tid, NULL, (long)thread->signal) == 0;

	thread->stopped = thread->seized = thread->armed = false;
	return done;
}

void thread_fill_stub(const struct frozen *thread, struct stub *stub)
{
	const struct user_regs_struct *regs = &thread->regs;

	memcpy(stub->code, stub_code, sizeof(stub->code));
	stub->rip = regs->rip;
	stub->rsp = regs->rsp;
	stub->flags = regs->eflags;
	stub->mask = thread->mask;
	stub->rax = regs->rax;
	stub->rbx = regs->rbx;
	stub->rcx = regs->rcx;
	stub->rdx = regs->rdx;
	stub->rsi = regs->rsi;
	stub->rdi = regs->rdi;
	stub->rbp = regs->rbp;
	stub->r8 = regs->r8;
	stub->r9 = regs->r9;
	stub->r10 = regs->r10;
	stub->r11 = regs->r11;
	stub->r12 = regs->r12;
	stub->r13 = regs->r13;
	stub->r14 = regs->r14;
	stub->r15 = regs->r15;
	/* Interrupted in a system call: what the kernel would do to begin it again. */
	if ((int64_t)regs->orig_rax < 0)
		return;
	switch (-(int64_t)regs->rax) {
	case ERESTARTSYS:
	case ERESTARTNOINTR:
	case ERESTARTNOHAND:
		stub->rax = regs->orig_rax;
		stub->rip -= 2;
		break;
	case ERESTART_RESTARTBLOCK:
		stub->rax = SYS_restart_syscall;
		stub->rip -= 2;
		break;
	default:
		break;
	}
}

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
			waitid(P_PID, (id_t)reaper->tid[i], NULL, WEXITED | WNOHANG | __WALL);
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
			r = seize(thread);
			if (r == 0) {
				nr_new++;
				continue;
			}
			freeze->surprised |= r == -EAGAIN;
			/* Gone, or a worker of the kernel's: it stays in no list. */
			drop(freeze, thread);
			if (r != -ESRCH && r != -ECHILD)
				return r;
		}
	return n < 0 ? (errno == ENOENT ? -ESRCH : -errno) : nr_new;
}

static int stop_all(struct freeze *freeze)
{
	for (int round = 0; round < ROUNDS; round++) {
		int nr_new = seize_new(freeze);

		if (nr_new < 0)
			return nr_new;
		for (size_t i = 0; i < freeze->nr_threads;) {
			struct frozen *thread = &freeze->thread[i];
			int r = !thread->seized ? -ESRCH : thread->stopped ? 0 : await(thread);

			if (r > 0)
				return -EAGAIN;
			if (r == 0) {
				i++;
				continue;
			}
			freeze->surprised = true;
			drop(freeze, thread);
		}
		/* Nobody was running any more when the list was read: nobody can have made a thread since. */
		if (nr_new == 0)
			return freeze->nr_threads ? 0 : -ESRCH;
	}
	return -EAGAIN;
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
	char path[32];
	bool any = true;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)freeze->pid);
	for (size_t i = 0; i < freeze->nr_threads; i++)
		waitid(P_PID, (id_t)freeze->thread[i].tid, NULL, WEXITED | WNOHANG | __WALL);
	for (int turn = 0; any && turn < SWEEPS; turn++) {
		struct dirent *entry;
		DIR *dir = opendir(path);

		any = false;
		while (dir && (entry = readdir(dir))) {
			struct frozen thread = { .tid = (pid_t)atoi(entry->d_name),
						 .seized = true };

			if (thread.tid <= 0 || tracer_of(thread.tid) != self)
				continue;
			any = true;
			ptrace(PTRACE_INTERRUPT, thread.tid, NULL, NULL);
			if (await(&thread) == 0)
				thread_let_go(&thread);
			else
				ptrace(PTRACE_DETACH, thread.tid, NULL, NULL);
		}
		if (dir)
			closedir(dir);
	}
	freeze->surprised = false;
	freeze->nr_threads = 0;
}

void freeze_end(struct freeze *freeze)
{
	for (size_t i = 0; i < freeze->nr_threads; i++) {
		struct frozen *thread = &freeze->thread[i];

		if (!thread->stopped)
			continue;
		if (thread->armed)
			thread_write(thread, &thread->regs, thread->mask, false);
		if (!thread_let_go(thread))
			freeze->surprised = true;
	}
	reaper_set(freeze, false);
	if (freeze->surprised)
		sweep(freeze);
}

int freeze_begin(struct freeze *freeze)
{
	uint32_t busy = 0;
	int r = freeze->reaper ? 0 : reaper_start(freeze);

	if (r < 0)
		return r;
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
			r = await(thread);
		if (!thread_let_go(thread) || r < 0)
			freeze->surprised = true;
	}
	if (freeze->surprised)
		sweep(freeze);
	reaper_stop(freeze);
	free(freeze->thread);
	freeze->thread = NULL;
	freeze->nr_threads = freeze->room = 0;
}
