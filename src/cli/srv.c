// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * srv.c - `kshared srv post|open|rm`: posted descriptors.
 */
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <kshared/srv.h>

#include "cli/cli.h"

#define NAME "srv"
#define FD_DEFAULT 3
#define LINGER_DEFAULT_MS 500

static const struct hint hints[] = {
	{ EINVAL, "this is no good name", "give a name without '..'" },
	{ ENOENT, "there is no such entry", "'kshared ls srv' shows what is there" },
	{ EISDIR, "it is a board, not an entry", "remove it with 'kshared rm'" },
	{ 0 },
};

static const struct hint post_hints[] = {
	{ EINVAL, "this is no good name, or the descriptor is of a kind that cannot be posted",
	  "give a name without '..'" },
	{ ENOENT, "there is no such board", "make it with mkdir in the mounted folder" },
	{ EBUSY, "closing too many of the descriptors that you have posted hangs",
	  "look after the servers of their files" },
	{ 0 },
};

static const struct hint open_hints[] = {
	{ EINVAL, "this is no good name", "give a name without '..'" },
	{ ENOENT, "there is no such entry", "'kshared ls srv' shows what is there" },
	{ EACCES, "its mode does not permit this, or it was posted with less",
	  "'kshared ls -l srv' shows both" },
	{ EOPNOTSUPP, "less than the posted access cannot be had of it",
	  "open the file in the mounted folder instead" },
	{ 0 },
};

/* What `srv post` is asked to post. */
struct source {
	char kind; /* 'f' --fd, 'u' --unix, 't' --tcp, 'p' --file; 0: none yet */
	const char *value;
	int fd;
	int flags;
	bool has_flags;
};

static int set_source(struct source *s, int kind, const char *value)
{
	uint64_t n;

	if (s->kind)
		return cli_usage(NAME, "only one of --fd, --unix, --tcp and --file can be posted");
	if (kind == 'f') {
		if (cli_parse_uint(value, INT_MAX, &n) < 0)
			return cli_usage(NAME, "'%s' is no descriptor", value);
		s->fd = (int)n;
	}
	s->kind = (char)kind;
	s->value = value;
	return CLI_OK;
}

static int set_flags(struct source *s, int flags)
{
	if (s->has_flags)
		return cli_usage(NAME, "only one of --read-only, --write-only and --append can be");
	s->has_flags = true;
	s->flags = flags;
	return CLI_OK;
}

/* The descriptor to post, a copy if it is one of ours; -1 after a sentence. */
static int source_open(const struct source *s)
{
	static const struct hint file_hints[] = {
		{ ENOENT, "there is no such file", "make it first" },
		{ EACCES, "permission denied", "try --read-only, or ask its owner" },
		{ EISDIR, "it is a directory", "use --read-only" },
		{ EROFS, NULL, "use --read-only" },
		{ ENXIO, "nobody can be reached through it", "for a socket, use --unix" },
		{ 0 },
	};
	int fd;

	switch (s->kind) {
	case 'f':
		fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
		if (fd < 0)
			cli_refuse(s->value, errno, NULL);
		return fd;
	case 'u':
		return cli_dial_unix(s->value);
	case 't':
		return cli_dial_tcp(s->value);
	default:
		fd = open(s->value, s->flags | O_NOCTTY | O_CLOEXEC);
		if (fd < 0)
			cli_refuse(s->value, errno, file_hints);
		return fd;
	}
}

static int srv_post(const struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "fd", .has_arg = required_argument, .val = 'f' },
		{ .name = "unix", .has_arg = required_argument, .val = 'u' },
		{ .name = "tcp", .has_arg = required_argument, .val = 't' },
		{ .name = "file", .has_arg = required_argument, .val = 'p' },
		{ .name = "read-only", .has_arg = no_argument, .val = 'r' },
		{ .name = "write-only", .has_arg = no_argument, .val = 'w' },
		{ .name = "append", .has_arg = no_argument, .val = 'a' },
		{ .name = "mode", .has_arg = required_argument, .val = 'm' },
		{ 0 },
	};
	struct source source = { .flags = O_RDWR };
	unsigned int mode = 0600;
	int c, r = CLI_OK;

	while (r == CLI_OK && (c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		switch (c) {
		case 'f':
		case 'u':
		case 't':
		case 'p':
			r = set_source(&source, c, optarg);
			break;
		case 'r':
			r = set_flags(&source, O_RDONLY);
			break;
		case 'w':
			r = set_flags(&source, O_WRONLY);
			break;
		case 'a':
			r = set_flags(&source, O_WRONLY | O_APPEND);
			break;
		case 'm':
			if (cli_parse_mode(optarg, 0777, &mode) < 0)
				r = cli_usage(NAME, "'%s' is no mode of three octal digits",
					      optarg);
			/* It is meant exactly, as that of mkdir -m. */
			umask(0);
			break;
		default:
			r = cli_bad_option(NAME, c, argv);
			break;
		}
	}
	if (r != CLI_OK)
		return r;
	if (argc - optind != 1)
		return cli_usage(NAME, "post takes one NAME");
	if (!source.kind)
		return cli_usage(NAME, "post takes one of --fd, --unix, --tcp and --file");
	if (source.has_flags && source.kind != 'p')
		return cli_usage(NAME,
				 "--read-only, --write-only and --append go with --file only");

	/* Before the connection to the folder, which could take the very number that --fd names. */
	cleanup_fd int fd = source_open(&source);
	if (fd < 0)
		return CLI_FAILED;
	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	if (ksrv_post(k, argv[optind], fd, mode) < 0)
		return cli_refuse(argv[optind], errno, post_hints);
	return CLI_OK;
}

/* Become @command with @fd at @number. Returns on failure only, after a sentence. */
static int run_command(char **command, int fd, int number)
{
	char value[16];
	int flags;

	if (fd != number) {
		if (dup3(fd, number, 0) < 0) {
			cli_say("--fd %d: %s; use a smaller number", number, strerror(errno));
			return CLI_FAILED;
		}
	} else {
		flags = fcntl(fd, F_GETFD);
		if (flags < 0 || fcntl(fd, F_SETFD, flags & ~FD_CLOEXEC) < 0)
			return cli_refuse(command[0], errno, NULL);
	}
	snprintf(value, sizeof(value), "%d", number);
	if (setenv("KSHARED_FD", value, 1) < 0)
		return cli_refuse(command[0], errno, NULL);
	execvp(command[0], command);
	/* The message must not go to what may now be standard error. */
	if (number == STDERR_FILENO)
		return CLI_FAILED;
	cli_say("%s: it cannot be started: %s; look at its name and permissions", command[0],
		strerror(errno));
	return CLI_FAILED;
}

/* Options and arguments of `srv open`. */
struct opening {
	const char *name;
	char **command;
	int number;
	int access; /* -1: as posted */
	int reopen;
	int linger_ms;
	bool has_number;
};

static int set_access(struct opening *o, int access)
{
	if (o->access >= 0 && o->access != access)
		return cli_usage(NAME, "only one of --read-only and --write-only can be");
	o->access = access;
	return CLI_OK;
}

static int parse_opening(struct opening *o, int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "fd", .has_arg = required_argument, .val = 'f' },
		{ .name = "linger", .has_arg = required_argument, .val = 'l' },
		{ .name = "read-only", .has_arg = no_argument, .val = 'r' },
		{ .name = "write-only", .has_arg = no_argument, .val = 'w' },
		{ .name = "reopen", .has_arg = no_argument, .val = 'o' },
		{ 0 },
	};
	uint64_t n;
	int c, r = CLI_OK, end;

	*o = (struct opening){ .number = FD_DEFAULT, .access = -1, .linger_ms = LINGER_DEFAULT_MS };

	/* What follows "--" is the command's own, options and all. */
	for (end = 1; end < argc && strcmp(argv[end], "--") != 0; end++)
		;
	if (end < argc) {
		o->command = argv + end + 1;
		argv[end] = NULL;
		if (!*o->command)
			return cli_usage(NAME, "a command must follow '--'");
	}
	while (r == CLI_OK && (c = getopt_long(end, argv, ":", options, NULL)) != -1) {
		switch (c) {
		case 'f':
			if (cli_parse_uint(optarg, INT_MAX, &n) < 0)
				return cli_usage(NAME, "'%s' is no descriptor", optarg);
			o->number = (int)n;
			o->has_number = true;
			break;
		case 'l':
			if (cli_parse_uint(optarg, INT_MAX, &n) < 0)
				return cli_usage(NAME, "'%s' is no number of milliseconds", optarg);
			o->linger_ms = (int)n;
			break;
		case 'r':
			r = set_access(o, O_RDONLY);
			break;
		case 'w':
			r = set_access(o, O_WRONLY);
			break;
		case 'o':
			o->reopen = KSRV_REOPEN;
			break;
		default:
			return cli_bad_option(NAME, c, argv);
		}
	}
	if (r != CLI_OK)
		return r;
	if (end - optind != 1)
		return cli_usage(NAME, "open takes one NAME, and a command after '--'");
	if (o->has_number && !o->command)
		return cli_usage(NAME, "--fd goes with a command only");
	o->name = argv[optind];
	return CLI_OK;
}

static int srv_open(const struct cli *cli, int argc, char **argv)
{
	char path[KSHARED_PATH_MAX + 1];
	struct kshared_entry e;
	struct opening o;
	int r;

	r = parse_opening(&o, argc, argv);
	if (r != CLI_OK)
		return r;
	if (snprintf(path, sizeof(path), "srv/%s", o.name) >= (int)sizeof(path))
		return cli_refuse(o.name, ENAMETOOLONG, open_hints);

	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	if (o.access < 0) {
		if (kshared_stat(k, path, &e) < 0)
			return cli_refuse(o.name, errno, open_hints);
		o.access = (int)(e.access & O_ACCMODE);
	}
	cleanup_fd int fd = ksrv_open(k, o.name, o.access | o.reopen);
	if (fd < 0)
		return cli_refuse(o.name, errno, open_hints);
	kshared_disconnect(take_ptr(k));
	if (o.command)
		return run_command(o.command, fd, o.number);
	signal(SIGPIPE, SIG_IGN);
	return cli_relay(fd, o.linger_ms);
}

static int srv_rm(const struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = { { 0 } };
	int c;

	c = getopt_long(argc, argv, ":", options, NULL);
	if (c != -1)
		return cli_bad_option(NAME, c, argv);
	if (argc - optind != 1)
		return cli_usage(NAME, "rm takes one NAME");

	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	if (ksrv_remove(k, argv[optind]) < 0)
		return cli_refuse(argv[optind], errno, hints);
	return CLI_OK;
}

/** cmd_srv() - srv post|open|rm. Return: an exit status. */
int cmd_srv(const struct cli *cli, int argc, char **argv)
{
	if (argc < 2)
		return cli_usage(NAME, "post, open or rm must follow");
	if (strcmp(argv[1], "post") == 0)
		return srv_post(cli, argc - 1, argv + 1);
	if (strcmp(argv[1], "open") == 0)
		return srv_open(cli, argc - 1, argv + 1);
	if (strcmp(argv[1], "rm") == 0)
		return srv_rm(cli, argc - 1, argv + 1);
	return cli_usage(NAME, "'%s' is none of post, open, rm", argv[1]);
}
