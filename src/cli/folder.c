// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * folder.c - `kshared folder VERB`: what can be told of any directory. The only verb is top.
 */
#include <string.h>

#include "cli/cli.h"
#include "cli/top.h"

/** cmd_folder() - folder top. Return: an exit status. */
int cmd_folder(const struct cli *cli, int argc, char **argv)
{
	(void)cli;
	if (argc < 2)
		return cli_usage("folder", "say what to do: top");
	if (strcmp(argv[1], "top") == 0)
		return top_main(argc - 1, argv + 1);
	return cli_usage("folder", "there is no '%s'; there is top", argv[1]);
}
