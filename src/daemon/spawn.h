/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * spawn.h - fork without the descriptors.
 */
#ifndef KSHARED_DAEMON_SPAWN_H
#define KSHARED_DAEMON_SPAWN_H

#include <sys/types.h>

#define SPAWN_FDS 64 /* a table is copied in steps of so many */

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

#endif
