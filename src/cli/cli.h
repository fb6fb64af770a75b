/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cli.h - what the subcommands of kshared(1) have in common.
 *
 * A subcommand is one file and one line of the table in main.c. It gets its own argv (argv[0]
 * is its name), with getopt reset, and returns the exit status: CLI_OK, CLI_FAILED after a
 * sentence on stderr, CLI_USAGE after another. Everything is checked before anything is
 * changed. A sentence reads `kshared: THING: REASON; NEXT STEP`.
 */
#ifndef KSHARED_CLI_CLI_H
#define KSHARED_CLI_CLI_H

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <kshared.h>

#include "base/cleanup.h"

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

/**
 * struct cli - what is known before a subcommand begins.
 * @at: the folder or socket of --at; NULL: the default one
 */
struct cli {
	const char *at;
};

/**
 * struct hint - what to say to an errno.
 * @err: the errno; 0 ends a table
 * @reason: why; NULL: what strerror() says
 * @next: the next step; NULL: none
 */
struct hint {
	int err;
	const char *reason;
	const char *next;
};

/**
 * struct command - one subcommand.
 * @name: as typed
 * @run: does it
 * @summary: half a line for the list of commands
 * @synopsis: what follows the name, for usage
 * @options: the rest of its help; lines of at most 80 columns
 * @own_h: -h after its verb is an option of its own, not a call for help
 */
struct command {
	const char *name;
	int (*run)(const struct cli *cli, int argc, char **argv);
	const char *summary;
	const char *synopsis;
	const char *options;
	bool own_h;
};

extern const struct command cli_commands[];

int cmd_doctor(const struct cli *cli, int argc, char **argv);
int cmd_down(const struct cli *cli, int argc, char **argv);
int cmd_folder(const struct cli *cli, int argc, char **argv);
int cmd_help(const struct cli *cli, int argc, char **argv);
int cmd_ksm(const struct cli *cli, int argc, char **argv);
int cmd_ls(const struct cli *cli, int argc, char **argv);
int cmd_mem(const struct cli *cli, int argc, char **argv);
int cmd_port(const struct cli *cli, int argc, char **argv);
int cmd_ring(const struct cli *cli, int argc, char **argv);
int cmd_rm(const struct cli *cli, int argc, char **argv);
int cmd_srv(const struct cli *cli, int argc, char **argv);
int cmd_status(const struct cli *cli, int argc, char **argv);
int cmd_up(const struct cli *cli, int argc, char **argv);

/* say.c: sentences */
void cli_escape(char *ret, size_t size, const char *text);
void cli_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
int cli_refuse(const char *thing, int err, const struct hint *hints);
int cli_usage(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int cli_bad_option(const char *command, int c, char **argv);
int cli_finish(int status);

/* parse.c: words from the command line */
int cli_parse_uint(const char *text, uint64_t max, uint64_t *ret);
int cli_parse_size(const char *text, uint64_t *ret);
int cli_parse_seconds(const char *text, uint64_t *ret_ns);
int cli_parse_mode(const char *text, unsigned int max, unsigned int *ret);

/* help.c */
void cli_print_help(const struct command *command);
const struct command *cli_find_command(const char *name);

/* connect.c: the folder */
const char *cli_where(const struct cli *cli, char *buf);
struct kshared *cli_connect(const struct cli *cli);

/* daemon.c: where ksharedd is */
int cli_find_daemon(char *ret, size_t size);

/* dial.c and relay.c, for srv.c */
int cli_dial_unix(const char *path);
int cli_dial_tcp(const char *address);
int cli_relay(int fd, int linger_ms);

/** cli_disconnect_p() - close the connection at *@k, which may be NULL; see cleanup_connection. */
static inline void cli_disconnect_p(struct kshared **k)
{
	kshared_disconnect(*k);
}

#define cleanup_connection cleanup(cli_disconnect_p)

#endif
