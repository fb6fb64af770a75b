// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mount.srvfs.c - the mount helper: `mount none DIR -t srvfs [-o OPTIONS]`.
 *
 * mount(8) calls it as mount.srvfs SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]. It
 * only starts ksharedd, which mounts DIR as a srv folder of its own, goes to the background and
 * exits 0. `umount DIR` ends it. SPEC means nothing. Exit status as mount(8) has it: 1 wrong
 * call, 2 no ksharedd, 32 not mounted.
 */
#include <getopt.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "cli/cli.h"

#define USAGE "usage: mount.srvfs none DIR [-o OPTIONS]"

enum { EXIT_USAGE = 1, EXIT_SYSTEM = 2, EXIT_MOUNT = 32 };

static int refuse(int status, const char *thing, const char *reason)
{
	fprintf(stderr, "mount.srvfs: %s: %s\n", thing, reason);
	return status;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "help", .has_arg = no_argument, .val = 'h' },
		{ .name = "version", .has_arg = no_argument, .val = 'V' },
		{ 0 },
	};
	char daemon[PATH_MAX], letter[3] = "-";
	const char *opts = NULL;
	bool fake = false, verbose = false;
	struct stat st;
	const char *args[7];
	int c, n = 0, status;
	pid_t pid;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":sfnvN:o:t:", options, NULL)) != -1) {
		switch (c) {
		case 's':
		case 'n':
		case 't':
			break;
		case 'f':
			fake = true;
			break;
		case 'v':
			verbose = true;
			break;
		case 'o':
			opts = optarg;
			break;
		case 'N':
			return refuse(EXIT_USAGE, "-N",
				      "other namespaces are not entered here; use nsenter(1)");
		case 'h':
			puts(USAGE "; called by mount(8): mount none DIR -t srvfs");
			return 0;
		case 'V':
			puts("mount.srvfs " KSHARED_VERSION);
			return 0;
		default:
			letter[1] = (char)optopt;
			return refuse(EXIT_USAGE, optopt ? letter : argv[optind - 1],
				      "unknown option, or it lacks its value; " USAGE);
		}
	}
	if (argc - optind != 2)
		return refuse(EXIT_USAGE, "arguments",
			      "SPEC and DIR are needed; usage: mount none DIR -t srvfs");
	if (stat(argv[optind + 1], &st) < 0)
		return refuse(EXIT_MOUNT, argv[optind + 1], strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return refuse(EXIT_MOUNT, argv[optind + 1], "it is not a directory");
	if (cli_find_daemon(daemon, sizeof(daemon)) < 0)
		return refuse(EXIT_SYSTEM, "ksharedd", "it is not installed");

	args[n++] = daemon;
	args[n++] = "--srvfs";
	args[n++] = "--dir";
	args[n++] = argv[optind + 1];
	if (opts && *opts) {
		args[n++] = "--options";
		args[n++] = opts;
	}
	args[n] = NULL;
	if (verbose) {
		for (int i = 0; i < n; i++)
			printf("%s%c", args[i], i + 1 < n ? ' ' : '\n');
		fflush(stdout);
	}
	if (fake)
		return 0;

	pid = fork();
	if (pid < 0)
		return refuse(EXIT_SYSTEM, daemon, strerror(errno));
	if (pid == 0) {
		execv(daemon, (char **)args);
		refuse(EXIT_SYSTEM, daemon, strerror(errno));
		_exit(EXIT_SYSTEM);
	}
	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return refuse(EXIT_SYSTEM, daemon, strerror(errno));
	}
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : EXIT_MOUNT;
}
