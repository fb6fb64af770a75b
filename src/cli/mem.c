// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mem.c - `kshared mem create|seal|rm`: memory objects.
 */
#include <string.h>
#include <sys/stat.h>

#include <kshared/mem.h>

#include "cli/cli.h"

#define NAME "mem"

static const struct hint hints[] = {
	{ EINVAL, "this is no good name", "give a name without '..'" },
	{ ENOENT, "there is no such object, or this folder has none",
	  "'kshared ls mem' shows what is there" },
	{ EISDIR, "it is a board, not an object", "remove it with 'kshared rm'" },
	{ 0 },
};

static const struct hint create_hints[] = {
	{ EINVAL, "this is no good name, or the size is not one of whole pages",
	  "give a name without '..' and, with --huge, a multiple of the page size" },
	{ ENOENT, "there is no such board, or this folder has no memory objects",
	  "make a board with mkdir in the mounted folder" },
	{ ENOMEM, "there are not enough free pages",
	  "for huge pages, raise /sys/kernel/mm/hugepages/*/nr_hugepages" },
	{ 0 },
};

static int mem_create(const struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "mode", .has_arg = required_argument, .val = 'm' },
		{ .name = "resizable", .has_arg = no_argument, .val = 'r' },
		{ .name = "huge", .has_arg = required_argument, .val = 'h' },
		{ 0 },
	};
	unsigned int mode = 0600, flags = 0;
	uint64_t size_bytes;
	int c;

	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		switch (c) {
		case 'm':
			if (cli_parse_mode(optarg, 0777, &mode) < 0)
				return cli_usage(NAME, "'%s' is no mode of three octal digits",
						 optarg);
			/* It is meant exactly, as that of mkdir -m. */
			umask(0);
			break;
		case 'r':
			flags |= KMEM_RESIZABLE;
			break;
		case 'h':
			flags &= ~(KMEM_HUGE_2MB | KMEM_HUGE_1GB);
			if (strcmp(optarg, "2M") == 0)
				flags |= KMEM_HUGE_2MB;
			else if (strcmp(optarg, "1G") == 0)
				flags |= KMEM_HUGE_1GB;
			else
				return cli_usage(NAME, "huge pages are of 2M or 1G, not '%s'",
						 optarg);
			break;
		default:
			return cli_bad_option(NAME, c, argv);
		}
	}
	if (argc - optind != 2)
		return cli_usage(NAME, "create takes NAME and SIZE");
	if (cli_parse_size(argv[optind + 1], &size_bytes) < 0)
		return cli_usage(NAME, "'%s' is no size", argv[optind + 1]);

	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	cleanup_fd int fd = kmem_create(k, argv[optind], size_bytes, mode, flags);
	if (fd < 0)
		return cli_refuse(argv[optind], errno, create_hints);
	return CLI_OK;
}

/* "shrink,grow" as KMEM_SEAL_*; @list is cut up. */
static int parse_seals(char *list, unsigned int *ret)
{
	static const struct {
		const char *name;
		unsigned int seal;
	} names[] = {
		{ "seal", KMEM_SEAL_SEAL },
		{ "shrink", KMEM_SEAL_SHRINK },
		{ "grow", KMEM_SEAL_GROW },
		{ "write", KMEM_SEAL_WRITE },
		{ "future-write", KMEM_SEAL_FUTURE_WRITE },
	};
	unsigned int seals = 0;
	char *word;

	while ((word = strsep(&list, ","))) {
		size_t i, nr = sizeof(names) / sizeof(names[0]);

		for (i = 0; i < nr && strcmp(names[i].name, word) != 0; i++)
			;
		if (i == nr)
			return cli_usage(NAME, "'%s' is no seal", word);
		seals |= names[i].seal;
	}
	*ret = seals;
	return CLI_OK;
}

static int mem_seal(const struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = { { 0 } };
	static const struct hint seal_hints[] = {
		{ EPERM, "it is sealed against further seals", NULL },
		{ EBUSY,
		  "it is open for writing through the mount, or a writable mapping of it exists",
		  "close and unmap it first" },
		{ EINVAL, "this is no good name, or it cannot be sealed",
		  "see 'kshared ls -l mem'" },
		{ ENOENT, "there is no such object", "'kshared ls mem' shows what is there" },
		{ 0 },
	};
	unsigned int seals = 0;
	int c, r;

	c = getopt_long(argc, argv, ":", options, NULL);
	if (c != -1)
		return cli_bad_option(NAME, c, argv);
	if (argc - optind != 2)
		return cli_usage(NAME, "seal takes NAME and a list of seals");
	r = parse_seals(argv[optind + 1], &seals);
	if (r != CLI_OK)
		return r;

	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	if (kmem_seal(k, argv[optind], seals) < 0)
		return cli_refuse(argv[optind], errno, seal_hints);
	return CLI_OK;
}

static int mem_rm(const struct cli *cli, int argc, char **argv)
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
	if (kmem_remove(k, argv[optind]) < 0)
		return cli_refuse(argv[optind], errno, hints);
	return CLI_OK;
}

/** cmd_mem() - mem create|seal|rm. Return: an exit status. */
int cmd_mem(const struct cli *cli, int argc, char **argv)
{
	if (argc < 2)
		return cli_usage(NAME, "create, seal or rm must follow");
	if (strcmp(argv[1], "create") == 0)
		return mem_create(cli, argc - 1, argv + 1);
	if (strcmp(argv[1], "seal") == 0)
		return mem_seal(cli, argc - 1, argv + 1);
	if (strcmp(argv[1], "rm") == 0)
		return mem_rm(cli, argc - 1, argv + 1);
	return cli_usage(NAME, "'%s' is none of create, seal, rm", argv[1]);
}
