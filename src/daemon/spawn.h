/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * spawn.h - fork without the descriptors.
 */
#ifndef KSHARED_DAEMON_SPAWN_H
#define KSHARED_DAEMON_SPAWN_H

#include <sys/types.h>

#define SPAWN_FDS 64 /* a table is copied in steps of so many */
#define SPAWN_FIRST 3 /* where the descriptors of who is executed begin */
#define SPAWN_PASS 8 /* how many he may have */

/**
 * spawn() - a child that is to execute something, and has only the descriptors below SPAWN_FDS.
 *
 * A child of fork() has them all, and closes them when it executes, by O_CLOEXEC or otherwise: with thousands that takes its time,
 * and with one file of a hung server it never ends. The parent stands still until the child has executed or ended; their
 * memory is not shared.
 *
 * Return: as fork(); -1 with errno.
 */
pid_t spawn(void);

/**
 * spawn_numbers() - put descriptors where who is executed expects them; SPAWN_PASS of them, -1: @null_fd.
 * @fds: NULL: none
 * Return: 0; -errno.
 */
int spawn_numbers(const int *fds, int null_fd);

/**
 * spawn_exec() - execute this program again.
 * @exe: its path; if it cannot be executed from there, it is what runs now
 * @fds: as for spawn_numbers()
 * It ends with us. Return: its process; -errno.
 */
pid_t spawn_exec(const char *exe, char **argv, const int *fds, int null_fd);

#endif
