/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * stub.S - what a thread of another process executes for us, so that it comes to no harm if we die at any instruction.
 *
 * The tracer points a stopped thread here and lets it go, or does not. While the tracer lives it takes the thread back,
 * by ptrace, with all its registers, before the thread gets to "restore". If the tracer has died the thread restores itself:
 * its registers and its signal mask are in the data behind the code (struct stub), to which every reference is relative to the
 * instruction. Nothing is written, no stack is used. All signals are blocked until the registers that matter to a handler are
 * as they were: a handler then runs on the thread's own stack.
 * A system call that had been interrupted is begun anew: who filled in the data saw to that.
 */
#ifdef __x86_64__
	.section .rodata
	.balign 16
	.globl stub_code
	.hidden stub_code
	.type stub_code, @object
stub_code:
	.asciz "kshared"
	.set data, stub_code + 400

	.org stub_code + 16	/* STUB_CALL */
	syscall
	jmp restore

	.org stub_code + 32	/* STUB_CLONE: all signals are blocked first; the thread begins so */
	mov %rdi, %rbx
	mov %rsi, %rbp
	mov $2, %edi		/* SIG_SETMASK */
	lea all(%rip), %rsi
	mov $0, %edx
	mov $8, %r10d
	mov $14, %eax		/* rt_sigprocmask */
	syscall
	mov %rbx, %rdi
	mov %rbp, %rsi
	mov $0, %r10d
	mov $0, %r8d
	mov $56, %eax		/* clone */
	syscall
	test %eax, %eax
	jnz restore
	mov %r12, %rdi
	call *data+40(%rip)
	ud2

	.org stub_code + 128	/* STUB_PARK */
park:
	mov data+32(%rip), %rdi
	mov (%rdi), %edx
	test %edx, %edx
	jz restore
	mov $0, %esi		/* FUTEX_WAIT */
	mov $0, %r10d
	mov $202, %eax		/* futex */
	syscall
	jmp park

	.org stub_code + 176	/* STUB_BYE */
	mov $11, %eax		/* munmap */
	syscall
	mov $0, %edi
	mov $60, %eax		/* exit */
	syscall
	ud2

all:
	.quad -1

restore:
	/* A signal in the next few instructions would find no stack. */
	mov $2, %edi
	lea all(%rip), %rsi
	mov $0, %edx
	mov $8, %r10d
	mov $14, %eax
	syscall
	lea data+16(%rip), %rsp
	popfq
	mov data+8(%rip), %rsp
	mov $2, %edi		/* SIG_SETMASK */
	lea data+24(%rip), %rsi
	mov $0, %edx
	mov $8, %r10d
	mov $14, %eax		/* rt_sigprocmask */
	syscall
	/* No instruction below changes the flags. */
	mov data+56(%rip), %rbx
	mov data+64(%rip), %rcx
	mov data+72(%rip), %rdx
	mov data+80(%rip), %rsi
	mov data+88(%rip), %rdi
	mov data+96(%rip), %rbp
	mov data+104(%rip), %r8
	mov data+112(%rip), %r9
	mov data+120(%rip), %r10
	mov data+128(%rip), %r11
	mov data+136(%rip), %r12
	mov data+144(%rip), %r13
	mov data+152(%rip), %r14
	mov data+160(%rip), %r15
	mov data+48(%rip), %rax
	jmp *data(%rip)

	.org stub_code + 400
	.size stub_code, . - stub_code
#endif
	.section .note.GNU-stack, "", @progbits
