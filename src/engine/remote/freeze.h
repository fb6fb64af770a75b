/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * freeze.h - all threads of a process stand still, also if who stopped them dies.
 *
 * Between freeze_begin() and freeze_end() no thread of the process executes an instruction or changes a mapping. Threads are stopped by
 * ptrace (PTRACE_SEIZE, PTRACE_INTERRUPT), which ends when the tracer does. So each stopped thread is armed first: its registers
 * point to the stub in its slot of the agent's memory, where it waits for a futex to become 0 and then restores itself. The tracer gives the
 * registers back before it lets a thread go, so normally no thread ever runs there. If the tracer is killed, all threads go to wait for the futex,
 * which the agent sets to 0 when it has done what it was asked.
 *
 *    tracer dies   thread             what it does
 *    before arm    not armed          goes on; the agent has not been asked for anything: the request is sent after the last arm
 *    after arm     armed              waits for the futex: the agent carries out the request, if it has it, and lets go
 *    in the thaw   some armed         the agent has finished: the futex is 0: restores itself at once
 *
 * The order of calls makes each instruction in between safe: slots are written before registers point to them, registers are set before
 * the signal mask and given back after it.
 *
 * A system call that is interrupted by this goes on by the kernel's own rules, since the thread never leaves the stop in which it would have been
 * restarted; signals wait. After exec, or when the process ends, the freeze fails. Kernel threads that work for the process (io_uring's workers,
 * vhost) cannot be stopped; they change no mappings, and what they write is seen to elsewhere (engine/merge/inside.c).
 *
 * Exec. The thread that executes takes the leader's number, and waits for all others to be reaped, which is ours to do if we had
 * stopped them, while it holds the lock that PTRACE_SEIZE waits for. So a second thread, the reaper, which does nothing else, reaps those that
 * have ended. After any surprise all threads of the process are looked through for ones that we still trace (sweep()).
 *
 * All calls from one thread: it is the tracer.
 */
#ifndef KSHARED_ENGINE_FREEZE_H
#define KSHARED_ENGINE_FREEZE_H

#include <engine/remote/thread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define FREEZE_THREADS 1024u

struct reaper;

/**
 * struct freeze - the threads of a process.
 * @task: /proc/PID/task
 * @mem: /proc/PID/mem
 * @agent: the thread that is not stopped
 * @slots: address of FREEZE_THREADS struct stub there, their code filled in
 * @busy: address of the futex
 * @began_ns: when the first thread stood still
 * @began_cpu_ns: the same by freeze_cpu_ns()
 * @surprised: a thread was not where it had been: others may be traced that are in no list
 */
struct freeze {
	pid_t pid;
	pid_t agent;
	int task;
	int mem;
	uint64_t slots;
	uint64_t busy;
	struct frozen *thread;
	size_t nr_threads;
	size_t room;
	bool surprised;
	int64_t began_ns;
	int64_t began_cpu_ns;
	struct reaper *reaper;
};

/**
 * freeze_begin() - stop and arm all threads but the agent. It sets the futex to 1.
 * Return: 0; -EAGAIN a thread did not stop in time, or there are too many, or the process is stopped by SIGSTOP: nothing is stopped, try later; -ESRCH the process has ended or has
 * executed another program; -EPERM; -EBUSY; -EOPNOTSUPP; -ENOMEM.
 */
int freeze_begin(struct freeze *freeze);

/** freeze_end() - let all go. The agent has set the futex to 0. */
void freeze_end(struct freeze *freeze);

/** freeze_leave() - let all go, to wait by themselves until the agent sets the futex to 0: as if we had died. */
void freeze_leave(struct freeze *freeze);

/** freeze_cpu_ns() - CPU time of this thread. */
int64_t freeze_cpu_ns(void);

/** freeze_deinit() - wait for threads that did not stop in time, let them go, free the list. The descriptors stay open. */
void freeze_deinit(struct freeze *freeze);

#endif
