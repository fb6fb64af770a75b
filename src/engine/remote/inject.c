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

#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif

/** struct rseq_place - struct ptrace_rseq_configuration. */
struct rseq_place {
	uint64_t pointer;
	uint32_t size;
	uint32_t signature;
	uint32_t flags;
	uint32_t pad;
};

static uint64_t owner_of(pid_t pid)
{
	uint64_t birth = 0;

	if (proc_birth(pid, &birth) < 0)
		return 0;
	return (uint64_t)pid << 32 | (uint32_t)birth;
}

/* Where the stub can be; or is, since somebody died (then 1 is returned) or is at work. */
static int find_place(pid_t pid, int mem, uint64_t *ret)
{
	char path[32], line[512];
	unsigned long start = 0, end = 0;
	cleanup_free unsigned char *text = malloc(VDSO_MAX);
	size_t size, used;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	f = fopen(path, "re");
	if (!f || !text) {
		if (f)
			fclose(f);
		return text ? -ESRCH : -ENOMEM;
	}
	while (fgets(line, sizeof(line), f))
		if (strstr(line, "[vdso]") && sscanf(line, "%lx-%lx", &start, &end) == 2)
			break;
	fclose(f);
	size = end - start;
	if (start == 0 || size > VDSO_MAX)
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

/* In a restartable sequence a thread must not be made to do anything else: the kernel would forget that it was. */
static bool in_sequence(const struct frozen *thread, int mem)
{
	struct rseq_place place = { 0 };
	uint64_t sequence = 0;

	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, thread->tid, sizeof(place), &place) < 0 ||
	    place.pointer == 0)
		return false;
	return pread(mem, &sequence, 8, (off_t)(place.pointer + 8)) != 8 || sequence != 0;
}

/* Stop a thread that is fit for it. Return: 0; 1: it is not, now. */
static int take_thread(struct inject *inject, pid_t tid)
{
	int r;

	inject->thread = (struct frozen){ .tid = tid };
	r = thread_stop(&inject->thread);
	while (r > 0)
		r = thread_stop(&inject->thread);
	if (r == 0)
		r = thread_read(&inject->thread);
	if (r < 0) {
		thread_let_go(&inject->thread);
		return r;
	}
	/* A signal on its way would be delivered to the stub; and in a stop of the whole process nothing is executed. */
	if (inject->thread.signal || in_sequence(&inject->thread, inject->mem)) {
		thread_let_go(&inject->thread);
		return 1;
	}
	return 0;
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
		r = take_thread(inject, tid);
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

/* Let the thread run to its next stop of kind @event: a system call's (0), or an event's. */
static int run_to(struct inject *inject, int request, bool call)
{
	int status;

	for (;;) {
		if (ptrace(request, inject->thread.tid, NULL, NULL) < 0)
			return -ESRCH;
		while (waitpid(inject->thread.tid, &status, __WALL) < 0)
			if (errno != EINTR)
				return -ESRCH;
		if (!WIFSTOPPED(status)) {
			inject->thread.stopped = inject->thread.seized = false;
			return -ESRCH;
		}
		if (call ? WSTOPSIG(status) == (SIGTRAP | 0x80) : status >> 16 == PTRACE_EVENT_STOP)
			return 0;
	}
}

int inject_call(struct inject *inject, unsigned int entry, long nr, const uint64_t *arg,
		uint64_t child, int64_t *ret)
{
	struct user_regs_struct regs = inject->thread.regs;
	struct iovec iov = { .iov_base = &regs, .iov_len = sizeof(regs) };
	int r;

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
	/* Its beginning, then its end. */
	r = run_to(inject, PTRACE_SYSCALL, true);
	if (r == 0)
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

void inject_clear(int mem, uint64_t stub)
{
	static const struct stub nothing;

	/* If it cannot be written the process has ended. */
	if (pwrite(mem, &nothing, sizeof(nothing), (off_t)stub) < 0)
		return;
}
