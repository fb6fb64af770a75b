/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * merger.h - the process that has the merge partitions: their stores and indexes.
 *
 * It reaches into other processes, which neither the keeper nor the sandboxed worker may, and what it does there may take as long as they
 * like. It is started by the keeper when a partition is first used, and ends a minute after nobody has one open and no process is merged.
 *
 * What survives it: what is merged, since that is mapped by those who have it, and the sockets of who has a partition open, which the keeper has,
 * too, with the requests in them that it had not begun. What does not: the index, and so which of the pages that are merged are equal to
 * what comes later.
 */
#ifndef KSHARED_DAEMON_MERGER_H
#define KSHARED_DAEMON_MERGER_H

#include <daemon/config.h>

/** merger_run() - serve until there is nothing to do for a while. Return: the process's exit status. */
int merger_run(const struct config *c);

#endif
