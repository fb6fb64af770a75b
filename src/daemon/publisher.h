/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * publisher.h - the process that serves the daemon's own ports: the kernel's pages.
 */
#ifndef KSHARED_DAEMON_PUBLISHER_H
#define KSHARED_DAEMON_PUBLISHER_H

#include <daemon/config.h>

/** publish_run() - serve until there is nothing to do for a while. Return: the process's exit status. */
int publish_run(const struct config *c);

#endif
