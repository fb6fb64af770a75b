/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * stub.h - a few instructions put into another process, followed by what they need: see stub.S.
 */
#ifndef KSHARED_ENGINE_STUB_H
#define KSHARED_ENGINE_STUB_H

#include <stddef.h>
#include <stdint.h>

#define STUB_CODE 400u /* bytes of code before the data */

/**
 * struct stub - the code, and the state to which it brings the thread that runs it.
 * @rip, @rsp, @flags, @mask and those after @child: registers and signal mask to be restored
 * @busy: address of the futex for which STUB_PARK waits until it is 0
 * @child: where a thread made at STUB_CLONE begins, with register r12 as its argument
 */
struct stub {
	unsigned char code[STUB_CODE];
	uint64_t rip;
	uint64_t rsp;
	uint64_t flags;
	uint64_t mask;
	uint64_t busy;
	uint64_t child;
	uint64_t rax;
	uint64_t rbx;
	uint64_t rcx;
	uint64_t rdx;
	uint64_t rsi;
	uint64_t rdi;
	uint64_t rbp;
	uint64_t r8;
	uint64_t r9;
	uint64_t r10;
	uint64_t r11;
	uint64_t r12;
	uint64_t r13;
	uint64_t r14;
	uint64_t r15;
};

_Static_assert(offsetof(struct stub, child) == STUB_CODE + 40, "stub.S");
_Static_assert(offsetof(struct stub, r15) == STUB_CODE + 160, "stub.S");

#define STUB_MAGIC "kshared" /* at the code's beginning, with its zero */
#define STUB_OWNER \
	8u /* behind it: whose it is, 8 bytes: a process's number, and the lower half of its birth */

/* Entries, in bytes from the beginning */
#define STUB_CALL 16u /* a system call, as the registers say; then restore */
#define STUB_CLONE 32u /* clone(), of flags and stack; the parent restores */
#define STUB_PARK 128u /* wait for @busy to be 0, then restore */
#define STUB_BYE 176u /* munmap() as the first two arguments say, and end the thread */

extern const unsigned char stub_code[STUB_CODE];

#endif
