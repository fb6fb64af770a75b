/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cleanup.h - what a function owns is given back when its scope ends.
 *
 * User space unwinds with the compiler's cleanup attribute instead of goto. A variable marked with
 * one of these macros must be initialised where it is declared (-1 for a descriptor, NULL for
 * memory). To hand the thing on, return take_fd(&fd) or take_ptr(p): they leave -1 or NULL behind.
 * Closing and freeing keep errno, so that `return -errno` may stand after the call that failed.
 */
#ifndef KSHARED_BASE_CLEANUP_H
#define KSHARED_BASE_CLEANUP_H

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define cleanup(fn) __attribute__((cleanup(fn)))
#define cleanup_fd cleanup(cleanup_close_p)
#define cleanup_free cleanup(cleanup_free_p)

/** cleanup_close_p() - close *@fd if it is open (not negative); errno is kept. */
static inline void cleanup_close_p(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	errno = saved;
}

/** cleanup_free_p() - free the memory that the pointer at @p points to; errno is kept. */
static inline void cleanup_free_p(void *p)
{
	int saved = errno;

	free(*(void **)p);
	errno = saved;
}

/** take_fd() - give up ownership of *@fd. Return: the descriptor; *@fd is -1 afterwards. */
static inline int take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

/* take_ptr() - give up ownership of the pointer variable @p: its value; @p is NULL afterwards. */
#define take_ptr(p)                         \
	({                                  \
		__typeof__(p) _taken = (p); \
		(p) = NULL;                 \
		_taken;                     \
	})

#endif
