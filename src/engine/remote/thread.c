// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * thread.c - one thread of another process: stop it, read it, change it, let it go. See freeze.h.
 */
#include <base/cleanup.h>
#include <engine/remote/thread.h>
#include <fcntl.h>
#include <linux/elf.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#define SPINS 40 /* looks at a thread before we sleep between them */
#define LOOK_NS 20000
#define BUSY_NS \
	2000000 /* longer nobody waits for one in a system call that cannot be interrupted */
#define STOP_NS 1000000000 /* nor so long for one that is to run, but has got no processor */
#define EPOLL_PWAIT2 441u
#define IORING_ENTER_EXT_ARG_FLAG (1u << 3)
#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif
#define KERNEL_WORKER 0x4010u /* PF_IO_WORKER, PF_USER_WORKER */

/* The kernel's own numbers, which user space does not see except by ptrace */
#define ERESTARTSYS 512
#define ERESTARTNOINTR 513
#define ERESTARTNOHAND 514
#define ERESTART_RESTARTBLOCK 516

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

/* A number from a thread's status. @format: with %d. Return: it; 0. */
__attribute__((format(scanf, 2, 0))) static pid_t number_of(pid_t tid, const char *format)
{
	char path[32], line[256];
	int number = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)tid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f) && sscanf(line, format, &number) != 1)
		continue;
	if (f)
		fclose(f);
	return number;
}

/* Whom does a thread's status name as its tracer? */
pid_t thread_tracer(pid_t tid)
{
	return number_of(tid, "TracerPid: %d");
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
	tracer = thread_tracer(tid);
	/* By ourselves: it has the number of one that is no more. */
	if (tracer == (pid_t)syscall(SYS_gettid))
		return -EAGAIN;
	return tracer > 0 ? -EBUSY : -EPERM;
}

/*
 * Wait for a seized thread's next stop. Return: 0; 1: not in time; -ESRCH.
 * The stop is only looked at (WNOWAIT), and an end is not: what is waited for is forgotten by the kernel, so a signal on its way would be lost
 * if we died, and a child of our own would be reaped.
 */
int thread_await(struct frozen *thread)
{
	int64_t began = now_ns(), waited;
	unsigned int flags;
	siginfo_t info;
	char state;

	for (unsigned int turn = 0;; turn++) {
		int r;

		info.si_pid = 0;
		r = waitid(P_PID, (id_t)thread->tid, &info, WSTOPPED | WNOHANG | WNOWAIT | __WALL);
		if (r == 0 && info.si_pid == thread->tid)
			break;
		if (r < 0 && errno != EINTR)
			return -ESRCH;
		if (turn < SPINS)
			continue;
		nanosleep(&(struct timespec){ .tv_nsec = LOOK_NS }, NULL);
		state = state_of(thread->tid, &flags);
		/* It cannot be waited for before the rest of its process has ended. */
		if (state == 0 || state == 'Z' || state == 'X')
			return -ESRCH;
		waited = now_ns() - began;
		if (waited > STOP_NS || (waited > BUSY_NS && state == 'D'))
			return 1;
	}
	thread->stopped = true;
	/* An event's stop, or that of a signal that is on its way. */
	thread->signal = info.si_status >> 8 ? 0 : info.si_status;
	thread->job_stop = info.si_status >> 8 == PTRACE_EVENT_STOP &&
		(info.si_status & 0xff) != SIGTRAP;
	return 0;
}

int thread_seize(struct frozen *thread)
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
	int r = thread_seize(thread);

	if (r == -ECHILD)
		return -EPERM;
	return r < 0 ? r : thread_await(thread);
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

/* Does the system call wait until something happens, without a limit of time? */
static bool waits_forever(const struct user_regs_struct *regs)
{
	switch (regs->orig_rax) {
	case SYS_epoll_wait:
	case SYS_epoll_pwait:
		return (int)regs->r10 < 0;
	case EPOLL_PWAIT2:
		return regs->r10 == 0;
	case SYS_rt_sigtimedwait:
		return regs->rdx == 0;
	case SYS_io_getevents:
		return regs->r8 == 0;
	case SYS_io_uring_enter:
		return !(regs->r10 & IORING_ENTER_EXT_ARG_FLAG);
	default:
		return false;
	}
}

/*
 * Most system calls that a stop interrupts are begun anew by the kernel. These say EINTR to the program, although there was no
 * signal. One that waits without limit is begun anew by us; one with a limit would wait too long.
 */
static void begin_anew(struct frozen *thread)
{
	struct user_regs_struct *regs = &thread->regs;

	if ((int64_t)regs->rax != -EINTR || thread->signal || !waits_forever(regs) ||
	    has_signal(thread->tid))
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

	thread->stopped = thread->seized = thread->armed = thread->job_stop = false;
	return done;
}

/** struct rseq_place - struct ptrace_rseq_configuration. */
struct rseq_place {
	uint64_t pointer;
	uint32_t size;
	uint32_t signature;
	uint32_t flags;
	uint32_t pad;
};

/** struct rseq_section - struct rseq_cs. */
struct rseq_section {
	uint32_t version;
	uint32_t flags;
	uint64_t start;
	uint64_t len;
	uint64_t abort;
};

uint64_t thread_abort_sequence(const struct frozen *thread, int mem, uint64_t rip)
{
	struct rseq_place place = { 0 };
	struct rseq_section section = { 0 };
	uint64_t at = 0;

	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, thread->tid, sizeof(place), &place) < 0 ||
	    place.pointer == 0 || pread(mem, &at, 8, (off_t)(place.pointer + 8)) != 8 || at == 0 ||
	    pread(mem, &section, sizeof(section), (off_t)at) != sizeof(section))
		return rip;
	return rip - section.start < section.len ? section.abort : rip;
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

/*
 * Reap a thread that has ended. Waiting for an end only would take the stops of traced threads, too, away from thread_await(): so it is
 * looked first. A child process of our own is somebody else's to wait for. Return: it has ended.
 */
bool thread_reap(pid_t tid)
{
	siginfo_t info = { .si_pid = 0 };

	if (waitid(P_PID, (id_t)tid, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) < 0 ||
	    info.si_pid == 0)
		return false;
	if (info.si_code != CLD_EXITED && info.si_code != CLD_KILLED && info.si_code != CLD_DUMPED)
		return false;
	if (number_of(tid, "Tgid: %d") != tid || number_of(tid, "PPid: %d") != getpid())
		waitid(P_PID, (id_t)tid, NULL, WEXITED | WNOHANG | __WALL);
	return true;
}
