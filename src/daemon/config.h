/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * config.h - what ksharedd was started with. The keeper and the worker read the same command line.
 */
#ifndef KSHARED_DAEMON_CONFIG_H
#define KSHARED_DAEMON_CONFIG_H

#include <core/tree.h>
#include <limits.h>

/**
 * struct config - the command line.
 * @dir: the folder, absolute
 * @socket: the control socket's path
 * @srvfs: DIR is a srv folder of its own (mount -t srvfs)
 * @mount: false: no file system, the library only
 * @read_only: mount read-only
 * @mode: permissions of the kinds' directories, or of the root of a srvfs; UINT32_MAX: each kind's own
 * @foreground: stay, log to stderr
 * @publisher: run as the publisher, likewise
 * @merger: run as the merger, likewise
 * @worker: run as the worker, on the descriptors that the keeper left
 */
struct config {
	char dir[PATH_MAX];
	char socket[108];
	struct limits limits;
	uint32_t mode;
	bool srvfs;
	bool mount;
	bool read_only;
	bool foreground;
	bool worker;
	bool publisher;
	bool merger;
};

/**
 * config_parse() - read the command line; prints what is wrong with it.
 * Return: 0; 1 done (--help, --version); -EINVAL.
 */
int config_parse(struct config *c, int argc, char **argv);

#endif
