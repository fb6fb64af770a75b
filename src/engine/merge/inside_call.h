/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * inside_call.h - system calls of code that refers to nothing but itself: for inside.c alone.
 */
#ifndef KSHARED_ENGINE_MERGE_INSIDE_CALL_H
#define KSHARED_ENGINE_MERGE_INSIDE_CALL_H

#ifndef __x86_64__
#include <errno.h>
#include <unistd.h>
#endif

#define INSIDE                                                                                     \
	__attribute__((section("inside"), no_sanitize("address", "undefined", "thread"), noinline, \
		       used))

#ifdef __x86_64__
/** call6() - a system call. Return: as the kernel gives it, -errno on failure. */
static inline __attribute__((always_inline)) long call6(long nr, long a, long b, long c, long d,
							long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}
#else
/** call6() - the same, with no more than the C library has. */
static inline long call6(long nr, long a, long b, long c, long d, long e, long f)
{
	long ret = syscall(nr, a, b, c, d, e, f);

	return ret == -1 ? -errno : ret;
}
#endif

#define call(nr, ...) call_(nr, ##__VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define call_(nr, a, b, c, d, e, f, ...) \
	call6(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

#endif
