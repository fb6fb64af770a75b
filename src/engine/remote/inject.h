/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * inject.h - have a thread of another process make a few system calls.
 */
#ifndef KSHARED_ENGINE_INJECT_H
#define KSHARED_ENGINE_INJECT_H

#include <engine/remote/freeze.h>

/**
 * struct inject - a thread that works for us, and where.
 * @stub: address of our stub in the vdso
 */
struct inject {
	pid_t pid;
	int mem;
	uint64_t stub;
	struct frozen thread;
};

/**
 * inject_begin() - stop one thread, at a place where that is harmless, and put the stub there.
 * @mem: /proc/PID/mem
 * Return: 0; -ESRCH; -EPERM; -EBUSY; -EOPNOTSUPP; -EAGAIN, as for agent_start().
 */
int inject_begin(struct inject *inject, pid_t pid, int mem);

/**
 * inject_call() - a system call.
 * @entry: STUB_CALL or STUB_CLONE
 * @arg: six
 * @child: what a new thread has in r12
 * @ret: what it gave: >= 0, or -errno
 * Return: 0; -ESRCH the thread is gone.
 */
int inject_call(struct inject *inject, unsigned int entry, long nr, const uint64_t *arg,
		uint64_t child, int64_t *ret);

/** inject_end() - the thread goes on as if nothing had been. The stub stays. */
void inject_end(struct inject *inject);

/** inject_disown() - the stub stays, since somebody may be executing it: who comes next looks whether that is so. */
void inject_disown(int mem, uint64_t stub);

/** inject_clear() - take the stub away, when nobody can be executing it any more. */
void inject_clear(int mem, uint64_t stub);

#endif
