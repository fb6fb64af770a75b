// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * rm.c - `kshared rm PATH...`: remove entries and empty boards.
 */
#include <string.h>

#include "cli/cli.h"

#define NAME "rm"

static const struct hint hints[] = {
	{ EINVAL, "this is no path inside the folder", "name it as 'kshared ls' does: srv/NAME" },
	{ EPERM, "only its owner and root may remove it", "ask them" },
	{ 0 },
};

/** cmd_rm() - rm PATH... Return: an exit status. */
int cmd_rm(const struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = { { 0 } };
	int status = CLI_OK, c;

	c = getopt_long(argc, argv, ":", options, NULL);
	if (c != -1)
		return cli_bad_option(NAME, c, argv);
	if (optind == argc)
		return cli_usage(NAME, "no PATH is given");

	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	for (int i = optind; i < argc; i++) {
		if (kshared_remove(k, argv[i]) < 0)
			status = cli_refuse(*argv[i] ? argv[i] : "''", errno, hints);
	}
	return status;
}
