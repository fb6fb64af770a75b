/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * agent.h - a thread of ours in another process: it does there what only the process itself can.
 *
 * The agent is code that refers to nothing outside itself, given by the caller. It is put into memory made for it, and
 * run by a thread that one of the process's threads is made to create (PTRACE_SEIZE, one stop, a few system calls). It blocks all signals,
 * has a table of descriptors of its own, and talks to us by a socket. We do not trace it: if we die it finds its socket closed,
 * or by a pidfd that we have ended, and ends by itself. It is seen in /proc/PID/task, in the number of threads, and in the mappings, while it lives.
 *
 * Killed at any instruction, we leave the process running:
 *    while the thread executes for us   it restores itself (stub.S); what was mapped stays mapped
 *    before the agent has heard of us   it waits five seconds for the first message, then ends
 *    afterwards                         its socket closes; a batch that it has is carried out first (freeze.h)
 * In these cases it leaves its memory mapped (under 700 KiB, most of it never touched), since a thread may be restoring
 * itself from there, and the vdso's unused end holds our stub. Told to end, it leaves nothing. A raised RLIMIT_MEMLOCK is set back by the agent
 * in any case.
 *
 * A process has one agent at most. Not for 32-bit programs, nor for those under a seccomp filter, which might kill
 * them for our system calls. All calls from the thread that called agent_start().
 */
#ifndef KSHARED_ENGINE_AGENT_H
#define KSHARED_ENGINE_AGENT_H

#include <engine/remote/freeze.h>
#include <wire/merge.h>

/**
 * struct agent_code - what is to run there: begins at @entry with a struct merge_params * in the first argument.
 * @data: bytes of writable memory that it needs behind that
 */
struct agent_code {
	const void *bytes;
	size_t len;
	size_t entry;
	size_t data;
};

#define AGENT_FREEZE_STEP_NS 10000
#define AGENT_FREEZE_STEPS 1000u

/**
 * struct agent - while it lives.
 * @stub: address of our stub in the vdso
 * @area, @area_len: its memory
 * @left: it has not answered in time, and works on by itself: nothing more can be asked
 * @last_work_ns: CPU time that the last freeze took, ours and the agent's: as long as it would be if nobody else wanted the processors
 * @freeze_steps: how many freezes took how many times AGENT_FREEZE_STEP_NS; the last counts all longer ones
 */
struct agent {
	pid_t pid;
	int pidfd;
	int sock;
	struct freeze freeze;
	uint64_t stub;
	uint64_t area;
	uint64_t area_len;
	bool left;
	uint64_t last_work_ns;
	uint64_t nr_freezes;
	uint32_t freeze_steps[AGENT_FREEZE_STEPS];
};

/**
 * agent_start() - put an agent into a process, which must not be our own.
 * @pidfd: the process; it stays the caller's
 * @device: /dev/userfaultfd for the agent; it stays the caller's; -1: none
 * Return: 0; -ESRCH it has ended; -EPERM we may not trace it, or the agent may not watch the kernel's page faults; -EBUSY somebody traces it, or it
 * has an agent; -EOPNOTSUPP a 32-bit program, one under a seccomp filter, another processor than x86-64, or no room for
 * the stub; -EAGAIN no thread stopped in time; -ENOMEM; -EPROTO the agent does not answer.
 */
int agent_start(struct agent *agent, pid_t pid, int pidfd, const struct agent_code *code,
		int device);

/**
 * agent_ask() - send a message and get its answer.
 * @fd: to be sent along; -1: none
 * @frozen: with the process's other threads standing still
 * Return: 0, and @ret->error is what the agent says; -ESRCH the process has ended; -EAGAIN it has executed another program, or could
 * not be stopped, or is stopped (SIGSTOP), then also while it had been asked: what it was asked for is done when it goes on; -EPERM; -EBUSY; -ENOMEM.
 */
int agent_ask(struct agent *agent, const struct merge_message *msg, int fd, bool frozen,
	      struct merge_answer *ret);

/** agent_stop() - have it end, and take away what is left of it. Also after an error of agent_ask(). */
void agent_stop(struct agent *agent);

/** agent_freeze_ns() - how long the process stood still, at most, in @share (0 to 1) of the times. */
uint64_t agent_freeze_ns(const struct agent *agent, double share);

#endif
