// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * up.c - `kshared up [DIR]`: start ksharedd.
 *
 * The daemon goes to the background itself, and its first process ends when the folder is ready
 * (0) or could not be made (1, after a sentence of its own). Its options are handed on as they
 * are, once they are known to be good.
 */
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/place.h"
#include "cli/cli.h"

#define NAME "up"

enum {
	OPT_MAX_BYTES = 1,
	OPT_MAX_BYTES_UID,
	OPT_MAX_ENTRIES,
	OPT_MAX_ENTRIES_UID,
	OPT_MODE,
	OPT_END
};

static const struct option options[] = {
	{ .name = "max-bytes", .has_arg = required_argument, .val = OPT_MAX_BYTES },
	{ .name = "max-bytes-uid", .has_arg = required_argument, .val = OPT_MAX_BYTES_UID },
	{ .name = "max-entries", .has_arg = required_argument, .val = OPT_MAX_ENTRIES },
	{ .name = "max-entries-uid", .has_arg = required_argument, .val = OPT_MAX_ENTRIES_UID },
	{ .name = "mode", .has_arg = required_argument, .val = OPT_MODE },
	{ 0 },
};

/* The value of option @opt as ksharedd takes it, sizes in bytes. @ret: @size bytes. */
static int canonical(int opt, const char *text, char *ret, size_t size)
{
	unsigned int mode;
	uint64_t value;
	int r;

	switch (opt) {
	case OPT_MODE:
		r = cli_parse_mode(text, 07777, &mode);
		if (r == 0)
			snprintf(ret, size, "%o", mode);
		return r;
	case OPT_MAX_BYTES:
	case OPT_MAX_BYTES_UID:
		r = cli_parse_size(text, &value);
		break;
	default:
		r = cli_parse_uint(text, INT64_MAX, &value);
		break;
	}
	if (r == 0)
		snprintf(ret, size, "%llu", (unsigned long long)value);
	return r;
}

static int start(const char *daemon, const char **args)
{
	int status;
	pid_t pid;

	pid = fork();
	if (pid < 0)
		return cli_refuse(daemon, errno, NULL);
	if (pid == 0) {
		execv(daemon, (char **)args);
		cli_refuse(daemon, errno, NULL);
		_exit(CLI_FAILED);
	}
	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return cli_refuse(daemon, errno, NULL);
	}
	if (WIFSIGNALED(status)) {
		cli_say("%s: it was killed by signal %d (%s); look at the system's log", daemon,
			WTERMSIG(status), strsignal(WTERMSIG(status)));
		return CLI_FAILED;
	}
	return WEXITSTATUS(status) == 0 ? CLI_OK : CLI_FAILED;
}

/** cmd_up() - up [DIR]. Return: an exit status. */
int cmd_up(const struct cli *cli, int argc, char **argv)
{
	char values[OPT_END][32] = { "" }, names[OPT_END][24] = { "" };
	char folder[PATH_MAX], daemon[PATH_MAX];
	const char *args[3 + 2 * OPT_END + 1];
	struct kshared *k;
	struct stat st;
	const char *dir;
	int c, n = 0;

	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c <= 0 || c >= OPT_END)
			return cli_bad_option(NAME, c, argv);
		if (canonical(c, optarg, values[c], sizeof(values[c])) < 0)
			return cli_usage(NAME, "'%s' is no good value of --%s", optarg,
					 options[c - 1].name);
	}
	if (argc - optind > 1)
		return cli_usage(NAME, "'%s' is one argument too many", argv[optind + 1]);
	if (optind < argc && cli->at)
		return cli_usage(NAME, "the folder is given twice, by --at and as an argument");

	dir = optind < argc ? argv[optind] : cli->at;
	if (!dir) {
		place_folder(folder);
		dir = folder;
	}
	if (!*dir)
		return cli_usage(NAME, "the folder's name is empty");
	if (stat(dir, &st) == 0 && !S_ISDIR(st.st_mode)) {
		cli_say("%s: it is not a directory; name one, or a place where one can be made",
			dir);
		return CLI_FAILED;
	}
	k = kshared_connect(dir);
	if (k) {
		kshared_disconnect(k);
		cli_say("%s: a folder is up there already; use it, or end it with 'kshared down'",
			dir);
		return CLI_FAILED;
	}
	if (cli_find_daemon(daemon, sizeof(daemon)) < 0) {
		cli_say("%s: there is no ksharedd, nor beside this program; use 'make install'",
			daemon);
		return CLI_FAILED;
	}

	args[n++] = daemon;
	args[n++] = "--dir";
	args[n++] = dir;
	for (int i = 1; i < OPT_END; i++) {
		if (!*values[i])
			continue;
		snprintf(names[i], sizeof(names[i]), "--%s", options[i - 1].name);
		args[n++] = names[i];
		args[n++] = values[i];
	}
	args[n] = NULL;
	return start(daemon, args);
}
