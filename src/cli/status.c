// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * status.c - `kshared status [--json]`: one folder's daemon as a whole.
 */
#include <time.h>

#include "cli/cli.h"
#include "cli/json.h"

#define NAME "status"

static const struct {
	uint32_t bit;
	const char *name;
	const char *without;
} features[] = {
	{ KSHARED_FEATURE_MOUNT, "mount", "the folder is there for the library only" },
	{ KSHARED_FEATURE_PASSTHROUGH, "passthrough",
	  "reads and writes of files and memory objects go through the daemon" },
	{ KSHARED_FEATURE_RESEND, "resend", "calls in flight fail if the worker dies" },
	{ KSHARED_FEATURE_IO_URING, "io_uring",
	  "proxied I/O may be lost or done twice if the worker dies" },
	{ KSHARED_FEATURE_EPOCH, "epoch", "the kernel asks for every name again" },
	{ KSHARED_FEATURE_SANDBOX, "sandbox", "the worker has no seccomp filter" },
	{ KSHARED_FEATURE_PTRACE, "ptrace",
	  "only the daemon's user can post by number; others use the library" },
	{ KSHARED_FEATURE_BPF, "bpf", "ports of the kernel's are read from /proc now and then" },
};

#define NR_FEATURES (sizeof(features) / sizeof(features[0]))

static int print_json(const struct kshared_status *s)
{
	json_t *root = json_object(), *list = json_object();

	cli_json_set(root, "mountpoint", cli_json_text(s->mountpoint));
	cli_json_set(root, "version", cli_json_text(s->version));
	cli_json_set(root, "keeper_pid", cli_json_int(s->keeper_pid));
	cli_json_set(root, "worker_pid", cli_json_int(s->worker_pid));
	cli_json_set(root, "restarts", cli_json_int(s->restarts));
	cli_json_set(root, "fuse_minor", cli_json_int(s->fuse_minor));
	cli_json_set(root, "started_ns", json_integer(s->started_ns));
	cli_json_set(root, "entries", cli_json_int(s->entries));
	cli_json_set(root, "bytes", cli_json_int(s->bytes));
	cli_json_set(root, "max_entries", cli_json_int(s->max_entries));
	cli_json_set(root, "max_bytes", cli_json_int(s->max_bytes));
	cli_json_set(root, "entries_uid", cli_json_int(s->entries_uid));
	cli_json_set(root, "bytes_uid", cli_json_int(s->bytes_uid));
	cli_json_set(root, "max_entries_uid", cli_json_int(s->max_entries_uid));
	cli_json_set(root, "max_bytes_uid", cli_json_int(s->max_bytes_uid));
	for (size_t i = 0; i < NR_FEATURES; i++)
		cli_json_set(list, features[i].name, json_boolean(s->features & features[i].bit));
	cli_json_set(root, "features", list);
	return cli_json_print(root);
}

/* "used of max", or "used" where there is no limit. */
static void print_usage(const char *label, uint64_t used, uint64_t max)
{
	printf("%-12s%llu", label, (unsigned long long)used);
	if (max)
		printf(" of %llu", (unsigned long long)max);
	else
		printf(", no limit");
	putchar('\n');
}

static int print_text(const struct kshared_status *s)
{
	char text[4 * sizeof(s->mountpoint)], when[64] = "";
	time_t started = s->started_ns / 1000000000;
	struct tm tm;

	cli_escape(text, sizeof(text), s->mountpoint);
	printf("%-12s%s\n", "mounted on", *text ? text : "(not mounted)");
	cli_escape(text, sizeof(text), s->version);
	printf("%-12s%s\n", "version", text);
	if (localtime_r(&started, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
	printf("%-12s%s\n", "up since", when);
	printf("%-12skeeper %u, worker %u, replaced %llu times\n", "processes", s->keeper_pid,
	       s->worker_pid, (unsigned long long)s->restarts);
	print_usage("entries", s->entries, s->max_entries);
	print_usage("  yours", s->entries_uid, s->max_entries_uid);
	print_usage("bytes", s->bytes, s->max_bytes);
	print_usage("  yours", s->bytes_uid, s->max_bytes_uid);
	if (s->fuse_minor)
		printf("%-12s7.%u\n", "FUSE", s->fuse_minor);
	for (size_t i = 0; i < NR_FEATURES; i++) {
		bool on = s->features & features[i].bit;

		printf("%-12s%s%s\n", features[i].name,
		       on ? "yes" : "no: ", on ? "" : features[i].without);
	}
	return cli_finish(CLI_OK);
}

/** cmd_status() - status [--json]. Return: an exit status. */
int cmd_status(const struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "json", .has_arg = no_argument, .val = 'j' },
		{ 0 },
	};
	struct kshared_status s;
	bool json = false;
	int c;

	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c != 'j')
			return cli_bad_option(NAME, c, argv);
		json = true;
	}
	if (optind < argc)
		return cli_usage(NAME, "'%s' is one argument too many; name the folder with --at",
				 argv[optind]);

	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	if (kshared_get_status(k, &s) < 0)
		return cli_refuse(NAME, errno, NULL);
	return json ? print_json(&s) : print_text(&s);
}
