// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ksm_show.c - `kshared ksm ls` and `kshared ksm stat`: how partitions stand.
 */
#include <inttypes.h>
#include <pwd.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/ksm.h"
#include "cli/top.h"

/* What there is to tell, in the order of the files of ksm/NAME/. */
static const struct {
	const char *name;
	size_t at;
} numbers[] = {
	{ "pages_shared", offsetof(struct ksm_stats, pages_shared) },
	{ "pages_sharing", offsetof(struct ksm_stats, pages_sharing) },
	{ "pages_unshared", offsetof(struct ksm_stats, pages_unshared) },
	{ "pages_scanned", offsetof(struct ksm_stats, pages_scanned) },
	{ "pages_skipped", offsetof(struct ksm_stats, pages_skipped) },
	{ "members", offsetof(struct ksm_stats, members) },
	{ "store_bytes", offsetof(struct ksm_stats, store_bytes) },
	{ "index_bytes", offsetof(struct ksm_stats, index_bytes) },
	{ "general_profit", offsetof(struct ksm_stats, general_profit) },
};

#define NR_NUMBERS (sizeof(numbers) / sizeof(numbers[0]))

static int64_t number(const struct ksm_stats *s, size_t i)
{
	int64_t value;

	memcpy(&value, (const char *)s + numbers[i].at, sizeof(value));
	return value;
}

static void add_numbers(json_t *object, const struct ksm_stats *s)
{
	for (size_t i = 0; i < NR_NUMBERS; i++)
		cli_json_set(object, numbers[i].name, json_integer((json_int_t)number(s, i)));
}

/* Return: 0; -1 with errno. */
static int get_stats(struct kshared *k, const char *name, struct ksm_stats *ret)
{
	int fd = ksm_open_at(k, name, 0, 0), r, err;

	if (fd < 0)
		return -1;
	r = ksm_get_stats(fd, ret);
	err = errno;
	close(fd);
	errno = err;
	return r;
}

static int parse_json(int argc, char **argv, bool *ret)
{
	static const struct option options[] = {
		{ .name = "json", .has_arg = no_argument, .val = 'j' },
		{ 0 },
	};
	int c;

	*ret = false;
	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c != 'j')
			return cli_bad_option(KSM_NAME, c, argv);
		*ret = true;
	}
	return CLI_OK;
}

int ksm_cmd_stat(const struct cli *cli, int argc, char **argv)
{
	struct ksm_stats s;
	bool json;
	int r = parse_json(argc, argv, &json);

	if (r != CLI_OK)
		return r;
	if (argc - optind != 1)
		return cli_usage(KSM_NAME, "stat takes one NAME");

	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	if (get_stats(k, argv[optind], &s) < 0)
		return cli_refuse(*argv[optind] ? argv[optind] : "''", errno, ksm_hints);
	if (json) {
		json_t *object = json_object();

		cli_json_set(object, "name", cli_json_text(argv[optind]));
		add_numbers(object, &s);
		return cli_json_print(object);
	}
	for (size_t i = 0; i < NR_NUMBERS; i++)
		printf("%-15s %" PRId64 "\n", numbers[i].name, number(&s, i));
	return cli_finish(CLI_OK);
}

static void print_line(const struct kshared_entry *e, const struct ksm_stats *s, bool known)
{
	const struct passwd *pw = getpwuid(e->uid);
	char saved[16] = "-", store[16] = "-", members[24] = "-", owner[32], name[4 * 256 + 1];

	if (known) {
		top_size_text(s->pages_sharing * 4096, saved, sizeof(saved));
		top_size_text(s->store_bytes, store, sizeof(store));
		snprintf(members, sizeof(members), "%" PRIu64, s->members);
	}
	if (pw)
		snprintf(owner, sizeof(owner), "%.31s", pw->pw_name);
	else
		snprintf(owner, sizeof(owner), "%u", (unsigned int)e->uid);
	cli_escape(name, sizeof(name), e->name);
	printf("%c%c%c%c%c%c %-8s %7s %7s %7s %s\n", e->mode & 0400 ? 'r' : '-',
	       e->mode & 0200 ? 'w' : '-', e->mode & 040 ? 'r' : '-', e->mode & 020 ? 'w' : '-',
	       e->mode & 04 ? 'r' : '-', e->mode & 02 ? 'w' : '-', owner, members, store, saved,
	       name);
}

static json_t *describe(const struct kshared_entry *e, const struct ksm_stats *s, bool known)
{
	json_t *object = json_object();
	char mode[8];

	snprintf(mode, sizeof(mode), "%03o", (unsigned int)(e->mode & 0777));
	cli_json_set(object, "name", cli_json_text(e->name));
	cli_json_set(object, "mode", json_string(mode));
	cli_json_set(object, "uid", cli_json_int(e->uid));
	cli_json_set(object, "gid", cli_json_int(e->gid));
	if (known)
		add_numbers(object, s);
	return object;
}

int ksm_cmd_ls(const struct cli *cli, int argc, char **argv)
{
	json_t *array = NULL;
	struct kshared_entry e;
	struct kshared_dir *dir;
	bool json;
	int r = parse_json(argc, argv, &json);

	if (r != CLI_OK)
		return r;
	if (argc != optind)
		return cli_usage(KSM_NAME, "ls takes no NAME");

	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	dir = kshared_opendir(k, "ksm");
	if (!dir)
		return cli_refuse("ksm", errno == ENOENT ? ENOSYS : errno, ksm_hints);
	if (json)
		array = json_array();
	else
		printf("mode   owner    members   store   saved name\n");
	while ((r = kshared_readdir(dir, &e)) > 0) {
		struct ksm_stats s;
		bool known = get_stats(k, e.name, &s) == 0;

		if (!S_ISDIR(e.mode))
			continue;
		if (json)
			json_array_append_new(array, describe(&e, &s, known));
		else
			print_line(&e, &s, known);
	}
	r = r < 0 ? errno : 0;
	kshared_closedir(dir);
	if (r) {
		json_decref(array);
		return cli_refuse("ksm", r, ksm_hints);
	}
	return json ? cli_json_print(array) : cli_finish(CLI_OK);
}
