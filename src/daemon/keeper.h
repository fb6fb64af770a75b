/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * keeper.h - the half of ksharedd that holds what must not be lost.
 *
 * It mounts, listens, keeps the table of records and descriptors, and has a worker running that does everything else. It
 * reads nothing that a client has sent: clients' bytes reach it only as the opaque contents of records.
 */
#ifndef KSHARED_DAEMON_KEEPER_H
#define KSHARED_DAEMON_KEEPER_H

#include <daemon/config.h>

/**
 * keeper_run() - bring the folder up and keep it until it is unmounted or a signal ends it.
 * @argv: this program's, for the workers
 * @ready: called when the folder is served; NULL: nobody waits
 * Return: the process's exit status.
 */
int keeper_run(struct config *c, char **argv, void (*ready)(void));

#endif
