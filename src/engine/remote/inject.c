// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * inject.c - see inject.h.
 *
 * The stub goes into the zeros behind the vdso's code: every process has it, it can be executed, a page of it that is written by the
 * tracer becomes the process's own, and nothing ever uses these bytes.
 */
#include <base/cleanup.h>
#include <base/proc.h>
#include <dirent.h>
#include <engine/remote/inject.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define TRIES 50
#define VDSO_MAX 65536u

#ifndef PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG
#define PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG 0x4211
#endif

/** struct dispatch - struct ptrace_sud_config: system calls that are given to a handler of the program's. */
struct dispatch {
	uint64_t mode;
	uint64_t selector;
	uint64_t offset;
	uint64_t len;
};

static uint64_t owner_of(pid_t pid)
{
	uint64_t birth = 0;

	if (proc_birth(pid, &birth) < 0)
		return 0;
	return (uint64_t)pid << 32 | (uint32_t)birth;
}

/* Where the vdso is. A process that is about to execute another program has none for a moment. Return: 0; -ESRCH; -EOPNOTSUPP. */
static int find_vdso(pid_t pid, unsigned long *start, unsigned long *end)
{
	char path[32], line[512];

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	for (int i = 0; i < TRIES; i++) {
		FILE *f = fopen(path, "re");
		bool found = false;

		if (!f)
			return -ESRCH;
		while (!found && fgets(line, sizeof(line), f))
			found = strstr(line, "[vdso]") && sscanf(line, "%lx-%lx", start, end) == 2;
		fclose(f);
		if (found)
			return 0;
		usleep(1000);
	}
	return -EOPNOTSUPP;
}

/* Where the stub can be; or is, since somebody died (then 1 is returned) or is at work. */
static int find_place(pid_t pid, int mem, uint64_t *ret)
{
	unsigned long start = 0, end = 0;
	cleanup_free unsigned char *text = malloc(VDSO_MAX);
	size_t size, used;
	int r = text ? find_vdso(pid, &start, &end) : -ENOMEM;

	if (r < 0)
		return r;
	size = end - start;
	if (size > VDSO_MAX)
		return -EOPNOTSUPP;
	if (pread(mem, text, size, (off_t)start) != (ssize_t)size)
		return -EAGAIN;
	used = size - sizeof(struct stub);
	*ret = start + used;
	if (memcmp(text + used, STUB_MAGIC, sizeof(STUB_MAGIC)) == 0) {
		uint64_t owner;

		memcpy(&owner, text + used + STUB_OWNER, sizeof(owner));
		return owner_of((pid_t)(owner >> 32)) == owner ? -EBUSY : 1;
	}
	for (size_t i = used; i < size; i++)
		if (text[i])
			return -EOPNOTSUPP;
	return 0;
}

static bool is_dispatched(pid_t tid)
{
	struct dispatch dispatch = { 0 };

	return ptrace(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, tid, sizeof(dispatch), &dispatch) ==
		0 &&
		dispatch.mode != 0;
}

/* Stop a thread that is fit for it. Return: 0; 1: it is not, now. */
static int take_thread(struct inject *inject, pid_t tid)
{
	struct frozen *thread = &inject->thread;
	int r;

	*thread = (struct frozen){ .tid = tid };
	do {
		r = thread_stop(thread);
	} while (r > 0);
	if (r == 0)
		r = thread_read(thread);
	if (r == 0 && is_dispatched(tid))
		r = -EOPNOTSUPP;
	/*
	 * A signal on its way would be delivered to the stub; in a stop of the whole process nothing is executed; and of a restartable sequence the
	 * kernel would forget that the thread was in it.
	 */
	if (r == 0 &&
	    (thread->signal || thread->job_stop ||
	     thread_abort_sequence(thread, inject->mem, thread->regs.rip) != thread->regs.rip))
		r = 1;
	if (r)
		thread_let_go(thread);
	return r;
}

/* Is it in a system call that cannot be interrupted? Then it could not be let go either. */
static bool is_stuck(pid_t pid, const char *tid)
{
	char path[64], line[512];
	const char *at = NULL;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%.16s/stat", (int)pid, tid);
	f = fopen(path, "re");
	if (f && fgets(line, sizeof(line), f))
		at = strrchr(line, ')');
	if (f)
		fclose(f);
	return at && at[1] == ' ' && at[2] == 'D';
}

static int take_any_thread(struct inject *inject)
{
	char path[32];
	struct dirent *entry;
	int r = -ESRCH;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)inject->pid);
	dir = opendir(path);
	while (dir && (entry = readdir(dir))) {
		pid_t tid = (pid_t)atoi(entry->d_name);

		if (tid <= 0)
			continue;
		r = is_stuck(inject->pid, entry->d_name) ? 1 : take_thread(inject, tid);
		if (r == 0 || r == -EBUSY || r == -EOPNOTSUPP)
			break;
	}
	if (dir)
		closedir(dir);
	return r;
}

/* Does a thread execute what somebody left who died? It must not be changed then. Return: 0; 1: it does. */
static int is_in_use(struct inject *inject)
{
	char path[32];
	struct dirent *entry;
	int r = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)inject->pid);
	dir = opendir(path);
	while (dir && r == 0 && (entry = readdir(dir))) {
		struct frozen thread = { .tid = (pid_t)atoi(entry->d_name) };

		if (thread.tid <= 0)
			continue;
		while ((r = thread_stop(&thread)) > 0)
			continue;
		if (r == 0 && thread_read(&thread) == 0)
			r = thread.regs.rip - inject->stub < sizeof(struct stub);
		else
			r = r == -EBUSY ? r : 0;
		thread_let_go(&thread);
	}
	if (dir)
		closedir(dir);
	return r;
}

int inject_begin(struct inject *inject, pid_t pid, int mem)
{
	struct stub stub = { .code = { 0 } };
	uint64_t owner = owner_of(getpid());
	int r = -EAGAIN;

	*inject = (struct inject){ .pid = pid, .mem = mem };
	r = find_place(pid, mem, &inject->stub);
	for (int i = 0; r > 0 && i < TRIES; i++) {
		r = is_in_use(inject);
		if (r > 0)
			usleep(1000);
	}
	if (r != 0)
		return r > 0 ? -EAGAIN : r;
	for (int i = 0; i < TRIES; i++) {
		r = take_any_thread(inject);
		if (r <= 0)
			break;
	}
	if (r != 0)
		return r > 0 ? -EAGAIN : r;
	thread_fill_stub(&inject->thread, &stub);
	memcpy(stub.code + STUB_OWNER, &owner, sizeof(owner));
	if (pwrite(mem, &stub, sizeof(stub), (off_t)inject->stub) != sizeof(stub)) {
		thread_let_go(&inject->thread);
		return -EAGAIN;
	}
	return 0;
}

/* Let the thread run to its next stop of a kind: a system call's, or the one that was asked for. */
static int run_to(struct inject *inject, int request, bool call)
{
	siginfo_t info;

	for (;;) {
		if (ptrace(request, inject->thread.tid, NULL, NULL) < 0)
			return -ESRCH;
		while (waitid(P_PID, (id_t)inject->thread.tid, &info, WSTOPPED | __WALL) < 0)
			if (errno != EINTR) {
				inject->thread.stopped = inject->thread.seized = false;
				return -ESRCH;
			}
		if (call ? info.si_status == (SIGTRAP | 0x80)
			 : info.si_status >> 8 == PTRACE_EVENT_STOP)
			return 0;
	}
}

int inject_call(struct inject *inject, unsigned int entry, long nr, const uint64_t *arg,
		uint64_t child, int64_t *ret)
{
	struct user_regs_struct regs = inject->thread.regs;
	struct iovec iov = { .iov_base = &regs, .iov_len = sizeof(regs) };
	int r = 0;

	regs.rip = inject->stub + entry;
	regs.orig_rax = (uint64_t)-1;
	regs.rax = (uint64_t)nr;
	regs.rdi = arg[0];
	regs.rsi = arg[1];
	regs.rdx = arg[2];
	regs.r10 = arg[3];
	regs.r8 = arg[4];
	regs.r9 = arg[5];
	regs.r12 = child;
	if (thread_write(&inject->thread, &regs, ~0ull, true) < 0)
		return -ESRCH;
	/* Its beginning, then its end; making a thread takes two calls. */
	for (int i = 0; r == 0 && i < (entry == STUB_CLONE ? 4 : 2); i++)
		r = run_to(inject, PTRACE_SYSCALL, true);
	if (r == 0 && ptrace(PTRACE_GETREGSET, inject->thread.tid, 1 /* NT_PRSTATUS */, &iov) < 0)
		r = -ESRCH;
	if (r == 0)
		*ret = (int64_t)regs.rax;
	return r;
}

/*
 * A system call of the thread's own that was interrupted is begun anew by the kernel only from the stop in which it was
 * interrupted, or one like it: so the thread is brought into such a stop first.
 */
void inject_end(struct inject *inject)
{
	struct frozen *thread = &inject->thread;

	if (thread->stopped && ptrace(PTRACE_INTERRUPT, thread->tid, NULL, NULL) == 0 &&
	    run_to(inject, PTRACE_CONT, false) == 0)
		thread_write(thread, &thread->regs, thread->mask, false);
	thread_let_go(thread);
}

void inject_disown(int mem, uint64_t stub)
{
	static const uint64_t nobody;

	if (pwrite(mem, &nobody, sizeof(nobody), (off_t)(stub + STUB_OWNER)) < 0)
		return;
}

void inject_clear(int mem, uint64_t stub)
{
	static const struct stub nothing;

	/* If it cannot be written the process has ended. */
	if (pwrite(mem, &nothing, sizeof(nothing), (off_t)stub) < 0)
		return;
}
