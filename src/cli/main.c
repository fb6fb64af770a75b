// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * main.c - kshared(1): the table of subcommands, and the options before them.
 *
 * The program uses libkshared like any outsider; folder top uses engine/usage alone. Exit status:
 * 0 done, 1 refused or failed, 2 the command line is wrong; in the last case nothing was changed.
 */
#include <locale.h>
#include <string.h>

#include "cli/cli.h"

const struct command cli_commands[] = {
	{ .name = "up",
	  .run = cmd_up,
	  .summary = "bring a folder up",
	  .synopsis = "[OPTION...] [DIR]",
	  .options = "  --max-bytes SIZE        limit of all memory objects together\n"
		     "  --max-bytes-uid SIZE    limit of one user's memory objects\n"
		     "  --max-entries N         limit of entries\n"
		     "  --max-entries-uid N     limit of one user's entries\n"
		     "  --mode OCTAL            permissions of the directories in the folder\n"
		     "SIZE is a number of bytes, or one followed by K, M, G or T.\n" },
	{ .name = "down",
	  .run = cmd_down,
	  .summary = "unmount a folder and end its daemon; all its entries are dropped",
	  .synopsis = "[--lazy]",
	  .options = "  --lazy  detach the mount even if it is in use\n" },
	{ .name = "status",
	  .run = cmd_status,
	  .summary = "tell how a folder is doing",
	  .synopsis = "[--json]",
	  .options = "  --json  print a JSON object\n" },
	{ .name = "doctor",
	  .run = cmd_doctor,
	  .summary = "tell what this kernel offers, and what it is used for",
	  .synopsis = "[--json]",
	  .options = "  --json  print a JSON object\n"
		     "Exit status 1: something is missing that nothing can stand in for.\n" },
	{ .name = "ls",
	  .run = cmd_ls,
	  .summary = "list entries",
	  .synopsis = "[-l] [--json] [PATH]",
	  .options =
		  "  -l      mode, owner, group, size, time, what is posted, its access, by whom\n"
		  "  --json  print a JSON array with everything that is known\n"
		  "PATH is inside the folder: srv, mem, port, ksm, srv/redis.\n" },
	{ .name = "srv",
	  .run = cmd_srv,
	  .summary = "post and open descriptors",
	  .synopsis =
		  "post NAME (--fd N | --unix PATH | --tcp HOST:PORT | --file PATH) [OPTION...]\n"
		  "open NAME [OPTION...] [-- COMMAND [ARGUMENT...]]\n"
		  "rm NAME",
	  .options = "post:\n"
		     "  --fd N           a descriptor that this program was started with\n"
		     "  --unix PATH      connect to this socket\n"
		     "  --tcp HOST:PORT  connect there; [ADDRESS]:PORT for IPv6\n"
		     "  --file PATH      open this file, to read and write, or with one of\n"
		     "                   --read-only, --write-only, --append\n"
		     "  --mode OCTAL     permissions of the entry; default 600, less the umask\n"
		     "open:\n"
		     "  Without COMMAND, standard input is sent to what is posted, and what comes\n"
		     "  from there is printed. With COMMAND, it is started with the descriptor.\n"
		     "  --fd N           its number for COMMAND; default 3; also in $KSHARED_FD\n"
		     "  --read-only, --write-only  less than the posted access\n"
		     "  --reopen         an offset of its own, where the kind of file allows it\n"
		     "  --linger MS      how long to wait for answers after standard input has\n"
		     "                   ended, since the last one came; default 500\n" },
	{ .name = "mem",
	  .run = cmd_mem,
	  .summary = "make, seal and remove memory objects",
	  .synopsis = "create NAME SIZE [--mode OCTAL] [--resizable] [--huge 2M|1G]\n"
		      "seal NAME SEAL[,SEAL...]\n"
		      "rm NAME",
	  .options = "create:\n"
		     "  SIZE             bytes, or a number followed by K, M, G or T\n"
		     "  --mode OCTAL     permissions of the entry; default 600, less the umask\n"
		     "  --resizable      the size may be changed later\n"
		     "  --huge 2M|1G     use huge pages; SIZE in whole pages\n"
		     "seal:\n"
		     "  SEAL is shrink, grow, write, future-write or seal\n" },
	{ .name = "ring",
	  .run = cmd_ring,
	  .summary = "message channels: a stream or messages from program to program",
	  .synopsis = "create NAME [OPTION...]\n"
		      "ls [--json]\n"
		      "stat NAME [--json]\n"
		      "watch NAME [-n SECONDS] [--json]\n"
		      "send NAME [--lines|--null|--raw] [OPTION...]\n"
		      "recv NAME [--lines|--null|--raw] [OPTION...]\n"
		      "rm NAME",
	  .options =
		  "create:\n"
		  "  --shape SHAPE      one-to-one (default), many-to-one or broadcast\n"
		  "  --slots N          messages that may wait, of each writer; default 1024\n"
		  "  --slot-size SIZE   of one of them, for short messages; default 72\n"
		  "  --data SIZE        for longer ones, of each writer; default 4M; half of it\n"
		  "                     is the longest message\n"
		  "  --writers N        many-to-one: how many at once; default 16\n"
		  "  --readers N        broadcast: how many at once; default 16\n"
		  "  --blocking         broadcast: the writer waits for the slowest reader\n"
		  "  --protected        readers cannot write messages; makes NAME.ctl, too\n"
		  "  --mode OCTAL       permissions of the entry; default 600, less the umask\n"
		  "send, recv:\n"
		  "  Without an option: one stream, from standard input to standard output.\n"
		  "  -0, --null         a message for each string that ends with NUL\n"
		  "  --lines            a message for each line\n"
		  "  --raw              messages as they are, with nothing between them\n"
		  "  --timeout SECONDS  give up when nothing has moved for so long\n"
		  "  --readers N        send: begin when so many are there\n"
		  "  --keep             recv, not of a stream: go on when no sender is left\n"
		  "  --history          recv, of a broadcast: begin with what is still there\n"
		  "watch:\n"
		  "  -n, --interval SECONDS  how often; default 1\n"
		  "Exit status 3: the other end went before the end; 4: --timeout is over.\n" },
	{ .name = "port",
	  .run = cmd_port,
	  .summary = "read, write, watch and serve structures without system calls",
	  .synopsis = "ls [--json]\n"
		      "read NAME [FIELD...] [--json]\n"
		      "write NAME FIELD=VALUE... [--polled]\n"
		      "watch NAME [FIELD...] [-n SECONDS] [--json]\n"
		      "add NAME (--pid PID | --cgroup DIR) [-m OCTAL]\n"
		      "rule NAME --cgroup DIR [-m OCTAL]\n"
		      "serve NAME FIELD[:TYPE[:UNIT]]=VALUE... [OPTION...]",
	  .options =
		  "ls:\n"
		  "  Mode, owner, what it is, who publishes it (bpf, sampler, service; gone), size,\n"
		  "  how often, how old it is, whether it can be written, name.\n"
		  "read, write, watch:\n"
		  "  FIELD is a field's name, or NAME[I] for one of several values; default: all.\n"
		  "  --polled            do not ring: the server finds it at its next look\n"
		  "  -n, --interval SECONDS  how often; default 1. On a terminal numbers also show\n"
		  "                      what they change by in a second; Ctrl-C ends it\n"
		  "  --json              print a JSON object; with watch, one on each line\n"
		  "add, rule:\n"
		  "  --pid PID           show what this process uses\n"
		  "  --cgroup DIR        show what this control group uses; with rule: say what\n"
		  "                      new sockets in it may do, by writing the port\n"
		  "  -m, --mode OCTAL    permissions; default 444 less the umask, with rule 644\n"
		  "serve:\n"
		  "  TYPE                u64 (default), s64, u32, fixed[BITS], chars[BYTES]\n"
		  "  -m, --mode OCTAL    who may read and write; default 644, less the umask\n"
		  "  --replace           take the place of an entry that is yours\n"
		  "  --policy kill|revoke|log  what becomes of who writes on shadow bytes\n"
		  "  --period MS         how often is looked at those, and at polled writes\n"
		  "  What is written comes as lines FIELD=VALUE UID PID, lines FIELD=VALUE on\n"
		  "  standard input are published. It ends by Ctrl-C, and the entry with it.\n"
		  "A port is removed by 'kshared rm port/NAME'.\n" },
	{ .name = "ksm",
	  .run = cmd_ksm,
	  .summary = "merge identical pages of one partition, when asked",
	  .synopsis = "create NAME [-m OCTAL]\n"
		      "merge NAME --pid PID... [--guest-ram | --force] [OPTION...]\n"
		      "unmerge NAME --pid PID... [--guest-ram] [--range START-END]\n"
		      "stat NAME [--json]\n"
		      "ls [--json]\n"
		      "rm NAME",
	  .options =
		  "create:\n"
		  "  -m, --mode OCTAL    who may merge (write) and look (read); default 600, less\n"
		  "                      the umask\n"
		  "merge, unmerge:\n"
		  "  --pid PID           of this process, which you must be permitted to trace; with\n"
		  "                      several, what is equal among them is merged, too\n"
		  "  --guest-ram         the RAM of the guest that this QEMU runs\n"
		  "  --force             memory that was not made for it: kshared-ksm(7) tells what\n"
		  "                      that risks\n"
		  "  --range START-END   only these addresses, hexadecimal as in /proc/PID/maps\n"
		  "  --dry-run           only tell what would be saved\n"
		  "  --json              print a JSON object\n"
		  "ls:\n"
		  "  Mode, owner, processes that are merged, memory of the store, memory saved, name.\n"
		  "Members of a partition can find out what others of it hold: it is one domain of trust.\n" },
	{ .name = "rm",
	  .run = cmd_rm,
	  .summary = "remove entries and empty boards",
	  .synopsis = "PATH...",
	  .options = "PATH is inside the folder: srv/redis, mem/frames.\n" },
	{ .name = "folder",
	  .run = cmd_folder,
	  .summary = "tell what fills a directory, the largest first",
	  .synopsis = "top [OPTION...] [DIRECTORY]",
	  .options =
		  "top:\n"
		  "  -n, --number N         so many entries; default 10\n"
		  "  -h, --human-readable   sizes in powers of 1024, as 4G, 25M; the default\n"
		  "  -b, --bytes            sizes in bytes\n"
		  "  -d, --depth N          count sub-directories N levels deep; default all\n"
		  "  --files                the largest files anywhere below\n"
		  "  --apparent-size        sizes as the files have them, not as the disk has\n"
		  "  --count                numbers of inodes instead of sizes\n"
		  "  -x, --one-file-system  leave other file systems out\n"
		  "  --exclude PATTERN      leave out what matches; may be given repeatedly\n"
		  "  -0, --null             end lines with NUL; names as they are\n"
		  "  --json                 print a JSON object\n"
		  "  --export               the whole tree as ncdu reads it: > FILE; ncdu -f FILE\n"
		  "DIRECTORY is any directory; default: the current one. Exit status 1: the\n"
		  "answer is partial. kshared-folder-top(1) tells the rest.\n",
	  .own_h = true },
	{ .name = "help",
	  .run = cmd_help,
	  .summary = "explain a command",
	  .synopsis = "[COMMAND [VERB]]",
	  .options = "" },
	{ 0 },
};

/* Is --help (or -h, where that means help) among the words before "--"? */
static bool asks_for_help(const struct command *command, int argc, char **argv)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
		if (strcmp(argv[i], "--help") == 0)
			return true;
		if (strcmp(argv[i], "-h") == 0 && (i == 1 || !command->own_h))
			return true;
	}
	return false;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "at", .has_arg = required_argument, .val = 'a' },
		{ .name = "help", .has_arg = no_argument, .val = 'h' },
		{ .name = "version", .has_arg = no_argument, .val = 'V' },
		{ 0 },
	};
	struct cli cli = { .at = NULL };
	const struct command *command;
	int c;

	setlocale(LC_ALL, "");
	opterr = 0;
	while ((c = getopt_long(argc, argv, "+:h", options, NULL)) != -1) {
		switch (c) {
		case 'a':
			if (!*optarg) {
				cli_say("--at: the folder's name is empty; see 'kshared help'");
				return CLI_USAGE;
			}
			cli.at = optarg;
			break;
		case 'h':
			cli_print_help(NULL);
			return cli_finish(CLI_OK);
		case 'V':
			puts("kshared " KSHARED_VERSION);
			return cli_finish(CLI_OK);
		case ':':
			cli_say("option '%s' lacks its value; see 'kshared help'",
				argv[optind - 1]);
			return CLI_USAGE;
		default:
			cli_say("there is no option '%s'; see 'kshared help'", argv[optind - 1]);
			return CLI_USAGE;
		}
	}
	if (optind == argc) {
		cli_say("no command is given; see 'kshared help'");
		return CLI_USAGE;
	}
	command = cli_find_command(argv[optind]);
	if (!command) {
		cli_say("there is no command '%s'; see 'kshared help'", argv[optind]);
		return CLI_USAGE;
	}
	argc -= optind;
	argv += optind;
	if (asks_for_help(command, argc, argv)) {
		cli_print_help(command);
		return cli_finish(CLI_OK);
	}
	optind = 0; /* getopt begins anew */
	return command->run(&cli, argc, argv);
}
