// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * port.c - `kshared port VERB`; the verbs that make entries: add and rule.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "cli/port.h"

static const struct hint add_hints[] = {
	{ EINVAL, "this is no good name, or the directory is none of cgroup2's",
	  "give a name without '..', and a directory below /sys/fs/cgroup" },
	{ ENOENT, "there is no such board, or this folder has no ports",
	  "make a board with mkdir in the mounted folder" },
	{ EACCES, "permission denied, or the process is another user's",
	  "only root may show other users' processes" },
	{ EPERM, "only root may", "ask root" },
	{ ESRCH, "that process has ended", "choose another one" },
	{ EOPNOTSUPP, "this needs BPF, which this daemon has not",
	  "'kshared doctor' tells what is missing" },
	{ 0 },
};

struct adding {
	const char *name;
	const char *pid;
	const char *cgroup;
	unsigned int mode;
};

static int parse_adding(struct adding *a, bool rule, int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "cgroup", .has_arg = required_argument, .val = 'c' },
		{ .name = "mode", .has_arg = required_argument, .val = 'm' },
		{ .name = "pid", .has_arg = required_argument, .val = 'p' },
		{ 0 },
	};
	int c;

	*a = (struct adding){ .mode = rule ? 0644 : 0444 };
	while ((c = getopt_long(argc, argv, ":m:", options, NULL)) != -1) {
		if (c == 'c') {
			a->cgroup = optarg;
		} else if (c == 'p' && !rule) {
			a->pid = optarg;
		} else if (c == 'm') {
			if (cli_parse_mode(optarg, 0777, &a->mode) < 0)
				return cli_usage(PORT_NAME, "'%s' is no mode of three octal digits",
						 optarg);
			/* It is meant exactly, as that of mkdir -m. */
			umask(0);
		} else {
			return cli_bad_option(PORT_NAME, c == 'p' ? '?' : c, argv);
		}
	}
	if (argc - optind != 1)
		return cli_usage(PORT_NAME, "%s takes one NAME", argv[0]);
	if (rule ? !a->cgroup : !a->pid == !a->cgroup)
		return cli_usage(PORT_NAME,
				 rule ? "rule needs --cgroup DIR"
				      : "add needs either --pid PID or --cgroup DIR");
	a->name = argv[optind];
	return CLI_OK;
}

int port_add(const struct cli *cli, int argc, char **argv)
{
	bool rule = strcmp(argv[0], "rule") == 0;
	struct adding a;
	uint64_t pid;
	int r = parse_adding(&a, rule, argc, argv);

	if (r != CLI_OK)
		return r;
	if (a.pid && (cli_parse_uint(a.pid, INT_MAX, &pid) < 0 || !pid))
		return cli_usage(PORT_NAME, "'%s' is no process number", a.pid);

	cleanup_fd int fd = a.pid ? (int)syscall(SYS_pidfd_open, (pid_t)pid, 0)
				  : open(a.cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		static const struct hint open_hints[] = {
			{ ESRCH, "there is no such process", "choose one that runs" },
			{ EINVAL, "this is a thread, not a process", "give its process's number" },
			{ ENOENT, "there is no such directory", "make it with mkdir" },
			{ ENOTDIR, "this is no directory", "name a directory of cgroup2" },
			{ 0 },
		};

		return cli_refuse(a.pid ? a.pid : a.cgroup, errno, open_hints);
	}
	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	r = rule ? KPORT_RULE : a.pid ? KPORT_TASK : KPORT_CGROUP;
	if (kport_create(k, a.name, r, fd, a.mode) < 0)
		return cli_refuse(*a.name ? a.name : "''", errno, add_hints);
	return CLI_OK;
}

/** cmd_port() - port VERB. Return: an exit status. */
int cmd_port(const struct cli *cli, int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(const struct cli *cli, int argc, char **argv);
	} verbs[] = {
		{ "ls", port_ls },       { "read", port_read }, { "write", port_write },
		{ "watch", port_watch }, { "add", port_add },   { "rule", port_add },
		{ "serve", port_serve },
	};

	if (argc < 2)
		return cli_usage(PORT_NAME,
				 "ls, read, write, watch, add, rule or serve must follow");
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (strcmp(argv[1], verbs[i].name) == 0)
			return verbs[i].run(cli, argc - 1, argv + 1);
	return cli_usage(PORT_NAME, "'%s' is none of ls, read, write, watch, add, rule, serve",
			 argv[1]);
}
