// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ksm.c - `kshared ksm VERB`; the verbs create and rm.
 */
#include <string.h>
#include <sys/stat.h>

#include "cli/ksm.h"

const struct hint ksm_hints[] = {
	{ EINVAL, "this is no good name", "give a name without '/' and '..'" },
	{ ENOENT, "there is no such partition", "'kshared ksm ls' shows what is there" },
	{ EEXIST, "there is one of this name", "use it, or choose another name" },
	{ ENOSYS, "this folder has no partitions", "start it with this version's ksharedd" },
	{ EACCES, "its mode, or that of the directory ksm, does not permit it",
	  "ask its owner; partitions are made by root, or by whom ksm/ is given to" },
	{ EPERM, "only its owner and root may remove it", "ask them" },
	{ EOPNOTSUPP, "this kernel cannot move pages, or the daemon has no merger",
	  "Linux 6.8 can; 'kshared doctor' tells what is missing" },
	{ ECONNREFUSED, "the merger does not run, or you have too many partitions open",
	  "see the daemon's log" },
	{ 0 },
};

static int create(const struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "mode", .has_arg = required_argument, .val = 'm' },
		{ 0 },
	};
	unsigned int mode = 0600;
	int c;

	while ((c = getopt_long(argc, argv, ":m:", options, NULL)) != -1) {
		if (c != 'm')
			return cli_bad_option(KSM_NAME, c, argv);
		if (cli_parse_mode(optarg, 0777, &mode) < 0)
			return cli_usage(KSM_NAME, "'%s' is no mode of three octal digits", optarg);
		/* It is meant exactly, as that of mkdir -m. */
		umask(0);
	}
	if (argc - optind != 1)
		return cli_usage(KSM_NAME, "create takes one NAME");

	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	cleanup_fd int fd = ksm_open_at(k, argv[optind], KSM_SYNC | KSM_CREAT | KSM_EXCL, mode);
	if (fd < 0)
		return cli_refuse(*argv[optind] ? argv[optind] : "''", errno, ksm_hints);
	return CLI_OK;
}

static int rm(const struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = { { 0 } };
	int c = getopt_long(argc, argv, ":", options, NULL);

	if (c != -1)
		return cli_bad_option(KSM_NAME, c, argv);
	if (argc - optind != 1)
		return cli_usage(KSM_NAME, "rm takes one NAME");

	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	if (ksm_unlink_at(k, argv[optind]) < 0)
		return cli_refuse(*argv[optind] ? argv[optind] : "''", errno, ksm_hints);
	return CLI_OK;
}

/** cmd_ksm() - ksm VERB. Return: an exit status. */
int cmd_ksm(const struct cli *cli, int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(const struct cli *cli, int argc, char **argv);
	} verbs[] = {
		{ "create", create },       { "rm", rm },
		{ "ls", ksm_cmd_ls },       { "stat", ksm_cmd_stat },
		{ "merge", ksm_cmd_merge }, { "unmerge", ksm_cmd_merge },
	};

	if (argc < 2)
		return cli_usage(KSM_NAME, "create, merge, unmerge, stat, ls or rm must follow");
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (strcmp(argv[1], verbs[i].name) == 0)
			return verbs[i].run(cli, argc - 1, argv + 1);
	return cli_usage(KSM_NAME, "'%s' is none of create, merge, unmerge, stat, ls, rm", argv[1]);
}
