// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * help.c - `kshared help [COMMAND]`, and --help of each command. The texts are in the table of
 * main.c.
 */
#include <string.h>

#include "cli/cli.h"

/**
 * cli_find_command() - look up a subcommand.
 * Return: its line of the table; NULL.
 */
const struct command *cli_find_command(const char *name)
{
	for (const struct command *c = cli_commands; c->name; c++) {
		if (strcmp(c->name, name) == 0)
			return c;
	}
	return NULL;
}

/**
 * cli_print_help() - print help on stdout.
 * @command: a line of the table; NULL: the list of all
 */
void cli_print_help(const struct command *command)
{
	if (command) {
		const char *line = command->synopsis;

		/* One form of the command per line. */
		for (const char *lead = "usage:";; lead = "      ") {
			size_t len = strcspn(line, "\n");

			printf("%s kshared [--at DIR] %s%s%.*s\n", lead, command->name,
			       len ? " " : "", (int)len, line);
			if (!line[len])
				break;
			line += len + 1;
		}
		printf("\n%s.\n%s%s", command->summary, *command->options ? "\n" : "",
		       command->options);
		return;
	}
	puts("usage: kshared [--at DIR] COMMAND [ARGUMENT...]\n\n"
	     "Share descriptors and memory between processes through one folder.\n");
	for (const struct command *c = cli_commands; c->name; c++)
		printf("  %-8s %s\n", c->name, c->summary);
	puts("\n  --at DIR   the folder, or its daemon's socket; default: $KSHARED_SOCKET, else\n"
	     "             $KSHARED_DIR, else /run/kshared for root and kshared in\n"
	     "             $XDG_RUNTIME_DIR, or /tmp/kshared-UID, for others\n"
	     "  --version  print the version\n"
	     "  --help     print this; `kshared help COMMAND` tells more about one command");
}

/* Is @word the first one of a line of the synopsis, as "post" of "srv post NAME"? */
static bool has_verb(const struct command *command, const char *word)
{
	size_t len = strlen(word);

	for (const char *line = command->synopsis; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (len && strncmp(line, word, len) == 0 && line[len] == ' ')
			return true;
	}
	return false;
}

/** cmd_help() - help [COMMAND [VERB]]. Return: an exit status. */
int cmd_help(const struct cli *cli, int argc, char **argv)
{
	const struct command *command = NULL;

	(void)cli;
	if (argc > 1) {
		command = cli_find_command(argv[1]);
		if (!command)
			return cli_usage("help", "there is no command '%s'", argv[1]);
	}
	if (argc > 3 || (argc == 3 && !has_verb(command, argv[2])))
		return cli_usage("help", "'%s' is one argument too many", argv[argc - 1]);
	cli_print_help(command);
	return cli_finish(CLI_OK);
}
