/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * thread.h - one thread of another process, stopped by ptrace for a short time. All calls from one thread: it is the tracer.
 */
#ifndef KSHARED_ENGINE_THREAD_H
#define KSHARED_ENGINE_THREAD_H

#include <engine/remote/stub.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

/**
 * struct frozen - one thread.
 * @signal: one that was about to be delivered, and will be
 * @job_stop: it stands still for a SIGSTOP or the like, as the whole process does
 */
struct frozen {
	pid_t tid;
	int signal;
	bool job_stop;
	bool seized;
	bool stopped;
	bool armed;
	uint64_t mask;
	struct user_regs_struct regs;
};

/** thread_tracer() - who traces it. Return: the tracer's number; 0: nobody, or there is no such thread. */
pid_t thread_tracer(pid_t tid);

/** thread_seize() - begin to trace it, and tell it to stop. Return: 0; -ESRCH; -ECHILD a kernel worker; -EBUSY; -EPERM; -EAGAIN we do, already. */
int thread_seize(struct frozen *thread);

/** thread_await() - wait until a seized one stands still. Return: 0; 1; -ESRCH as for thread_stop(). */
int thread_await(struct frozen *thread);

/**
 * thread_reap() - make an end of one that we traced and that has ended. A child process of our own is somebody else's to wait for. May be
 * called by another thread of ours. Return: it has ended.
 */
bool thread_reap(pid_t tid);

/**
 * thread_stop() - seize one thread and wait until it stands still.
 * Return: 0; 1 not in time, since it is in a system call that cannot be interrupted: it is seized still, and thread_stop() may be called again; -ESRCH it is gone, or a zombie;
 * -EPERM not permitted, or a kernel worker; -EBUSY somebody else traces it.
 */
int thread_stop(struct frozen *thread);

/** thread_read() - registers and signal mask of a stopped thread. Return: 0; -ESRCH; -EOPNOTSUPP a 32-bit program. */
int thread_read(struct frozen *thread);

/** thread_write() - give a stopped thread the registers and the mask. Registers first if @first, else last. Return: 0; -ESRCH. */
int thread_write(const struct frozen *thread, const struct user_regs_struct *regs, uint64_t mask,
		 bool first);

/** thread_let_go() - detach from a stopped thread. Return: it was one, still; false: it has been killed, or executed. */
bool thread_let_go(struct frozen *thread);

/**
 * thread_abort_sequence() - where a stopped thread goes on at if it is made to execute something else first: at @rip, or, if that is within
 * a restartable sequence, where the sequence is given up.
 * @mem: /proc/PID/mem
 */
uint64_t thread_abort_sequence(const struct frozen *thread, int mem, uint64_t rip);

/** thread_fill_stub() - what @thread needs to restore itself, and the code. */
void thread_fill_stub(const struct frozen *thread, struct stub *stub);

#endif
