// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * connect.c - the folder that a command is about, and the connection to it.
 */
#include <limits.h>
#include <stdlib.h>

#include "base/place.h"
#include "cli/cli.h"

static const struct hint hints[] = {
	{ ENOENT, "no folder is up there", "bring it up with 'kshared up', or name one with --at" },
	{ ENOTDIR, "neither a folder nor a socket", "name a folder with --at" },
	{ ECONNREFUSED, "its daemon is gone", "clean up with 'kshared down', then 'kshared up'" },
	{ EACCES, "permission denied, or its socket is in a directory that others can write to",
	  "name the socket itself with --at if you trust it" },
	{ ENAMETOOLONG, "the path is too long for a socket", "use a shorter one" },
	{ 0 },
};

/**
 * cli_where() - the folder or socket meant, for messages.
 * @cli: the context
 * @buf: PATH_MAX bytes, used if nothing was named
 *
 * Return: --at, else what libkshared takes by default.
 */
const char *cli_where(const struct cli *cli, char *buf)
{
	const char *socket = getenv("KSHARED_SOCKET");

	if (cli->at)
		return cli->at;
	if (socket && *socket)
		return socket;
	place_folder(buf);
	return buf;
}

/**
 * cli_connect() - connect to the folder meant.
 * @cli: the context
 *
 * Return: a connection; NULL after a sentence.
 */
struct kshared *cli_connect(const struct cli *cli)
{
	struct kshared *k = kshared_connect(cli->at);
	char buf[PATH_MAX];
	int err = errno;

	if (!k)
		cli_refuse(cli_where(cli, buf), err, hints);
	return k;
}
