// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ls.c - `kshared ls [-l] [--json] [PATH]`: what is in the folder.
 *
 * Names are sorted by bytes, as the C locale does. On a terminal, and always in the long form,
 * what is not printable is escaped (see say.c); names alone that go into a pipe or a file stay
 * as they are.
 */
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <wchar.h>

#include "cli/cli.h"
#include "cli/json.h"

#define NAME "ls"

enum { MODE, OWNER, GROUP, SIZE, TIME, WHAT, ACCESS, POSTER, NR_COLUMNS };

struct list {
	struct kshared_entry *entries;
	size_t count;
	size_t room;
};

static void list_deinit_p(struct list *list)
{
	free(list->entries);
}

static int list_add(struct list *list, const struct kshared_entry *e)
{
	if (list->count == list->room) {
		size_t room = list->room ? 2 * list->room : 64;
		struct kshared_entry *bigger = reallocarray(list->entries, room, sizeof(*bigger));

		if (!bigger)
			return -ENOMEM;
		list->entries = bigger;
		list->room = room;
	}
	list->entries[list->count++] = *e;
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct kshared_entry *)a)->name,
		      ((const struct kshared_entry *)b)->name);
}

/* What is at @path: a directory's entries, or one entry. */
static int list_read(struct list *list, struct kshared *k, const char *path)
{
	struct kshared_dir *dir = kshared_opendir(k, path);
	struct kshared_entry e;
	int r;

	if (!dir) {
		if (errno != ENOTDIR || kshared_stat(k, path, &e) < 0)
			return -errno;
		return list_add(list, &e);
	}
	while ((r = kshared_readdir(dir, &e)) > 0) {
		r = list_add(list, &e);
		if (r < 0)
			break;
	}
	if (r == -1)
		r = -errno;
	kshared_closedir(dir);
	if (r < 0)
		return r;
	if (list->count)
		qsort(list->entries, list->count, sizeof(list->entries[0]), by_name);
	return 0;
}

static const char *access_name(const struct kshared_entry *e)
{
	if (!*e->what || strcmp(e->what, "unposted") == 0)
		return "";
	switch (e->access & O_ACCMODE) {
	case O_RDONLY:
		return "r";
	case O_WRONLY:
		return "w";
	default:
		return "rw";
	}
}

static void seals_text(uint32_t seals, char *ret, size_t size)
{
	static const char *const names[] = { "seal", "shrink", "grow", "write", "future-write" };
	size_t used = 0;

	*ret = '\0';
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (seals & (1u << i))
			used += snprintf(ret + used, size - used, "%s%s", used ? "," : "",
					 names[i]);
	}
}

static json_t *seals_json(uint32_t seals)
{
	json_t *array = json_array();
	char text[64], *save = NULL;

	seals_text(seals, text, sizeof(text));
	for (char *p = strtok_r(text, ",", &save); p; p = strtok_r(NULL, ",", &save))
		json_array_append_new(array, json_string(p));
	return array;
}

static json_t *entry_json(const struct kshared_entry *e)
{
	json_t *object = json_object();
	char mode[16];

	snprintf(mode, sizeof(mode), "%04o", e->mode & 07777);
	cli_json_set(object, "name", cli_json_text(e->name));
	cli_json_set(object, "kind", cli_json_text(e->kind));
	cli_json_set(object, "type", json_string(S_ISDIR(e->mode) ? "directory" : "entry"));
	cli_json_set(object, "mode", json_string(mode));
	cli_json_set(object, "uid", cli_json_int(e->uid));
	cli_json_set(object, "gid", cli_json_int(e->gid));
	cli_json_set(object, "id", cli_json_int(e->id));
	cli_json_set(object, "size_bytes", cli_json_int(e->size_bytes));
	cli_json_set(object, "allocated_bytes", cli_json_int(e->allocated_bytes));
	cli_json_set(object, "btime_ns", json_integer(e->btime_ns));
	cli_json_set(object, "mtime_ns", json_integer(e->mtime_ns));
	cli_json_set(object, "ctime_ns", json_integer(e->ctime_ns));
	cli_json_set(object, "opens", cli_json_int(e->opens));
	cli_json_set(object, "what", cli_json_text(e->what));
	cli_json_set(object, "access", json_string(access_name(e)));
	if (e->posted_ns) {
		cli_json_set(object, "posted_ns", json_integer(e->posted_ns));
		cli_json_set(object, "poster_uid", cli_json_int(e->poster_uid));
		cli_json_set(object, "poster_pid", cli_json_int(e->poster_pid));
		cli_json_set(object, "poster_comm", cli_json_text(e->poster_comm));
	}
	cli_json_set(object, "seals", seals_json(e->seals));
	return object;
}

static int print_json(const struct list *list)
{
	json_t *array = json_array();

	for (size_t i = 0; i < list->count; i++)
		json_array_append_new(array, entry_json(&list->entries[i]));
	return cli_json_print(array);
}

static void print_names(const struct list *list)
{
	bool raw = !isatty(STDOUT_FILENO);
	char text[4 * (KSHARED_NAME_MAX + 1)];

	for (size_t i = 0; i < list->count; i++) {
		if (raw) {
			puts(list->entries[i].name);
			continue;
		}
		cli_escape(text, sizeof(text), list->entries[i].name);
		puts(text);
	}
}

static void mode_text(mode_t mode, char ret[11])
{
	static const char bits[] = "rwxrwxrwx";

	ret[0] = S_ISDIR(mode) ? 'd' : '-';
	for (int i = 0; i < 9; i++)
		ret[i + 1] = mode & (0400 >> i) ? bits[i] : '-';
	if (mode & S_ISUID)
		ret[3] = mode & S_IXUSR ? 's' : 'S';
	if (mode & S_ISGID)
		ret[6] = mode & S_IXGRP ? 's' : 'S';
	if (mode & S_ISVTX)
		ret[9] = mode & S_IXOTH ? 't' : 'T';
	ret[10] = '\0';
}

static void user_text(uid_t uid, char *ret, size_t size)
{
	const struct passwd *pw = getpwuid(uid);

	if (pw)
		cli_escape(ret, size, pw->pw_name);
	else
		snprintf(ret, size, "%u", uid);
}

static void group_text(gid_t gid, char *ret, size_t size)
{
	const struct group *gr = getgrgid(gid);

	if (gr)
		cli_escape(ret, size, gr->gr_name);
	else
		snprintf(ret, size, "%u", gid);
}

static void time_text(int64_t time_ns, char *ret, size_t size)
{
	time_t t = time_ns / 1000000000;
	struct tm tm;

	*ret = '\0';
	if (localtime_r(&t, &tm))
		strftime(ret, size, "%Y-%m-%d %H:%M", &tm);
}

/* One line of the long form, without the name. POSTER holds a memory object's seals. */
struct row {
	char column[NR_COLUMNS][72];
};

static void row_fill(struct row *row, const struct kshared_entry *e)
{
	size_t size = sizeof(row->column[0]);
	char comm[4 * sizeof(e->poster_comm) + 1];

	memset(row, 0, sizeof(*row));
	mode_text(e->mode, row->column[MODE]);
	user_text(e->uid, row->column[OWNER], size);
	group_text(e->gid, row->column[GROUP], size);
	snprintf(row->column[SIZE], size, "%llu", (unsigned long long)e->size_bytes);
	time_text(e->mtime_ns, row->column[TIME], size);
	cli_escape(row->column[WHAT], size, *e->what ? e->what : "-");
	snprintf(row->column[ACCESS], size, "%s", *access_name(e) ? access_name(e) : "-");
	if (e->posted_ns) {
		cli_escape(comm, 48, e->poster_comm);
		snprintf(row->column[POSTER], size, "%s[%u]", comm, e->poster_pid);
	} else {
		seals_text(e->seals, comm, sizeof(comm));
		snprintf(row->column[POSTER], size, "%s", *comm ? comm : "-");
	}
}

/* Columns that a text takes on a terminal. */
static int width(const char *text)
{
	wchar_t wide[128];
	size_t n = mbstowcs(wide, text, sizeof(wide) / sizeof(wide[0]) - 1);
	int w = n == (size_t)-1 ? -1 : wcswidth(wide, n);

	return w < 0 ? (int)strlen(text) : w;
}

static int print_long(const struct list *list)
{
	cleanup_free struct row *rows = calloc(list->count + 1, sizeof(*rows));
	int widths[NR_COLUMNS] = { 0 };
	char name[4 * (KSHARED_NAME_MAX + 1)];

	if (!rows)
		return cli_refuse(NAME, ENOMEM, NULL);
	for (size_t i = 0; i < list->count; i++) {
		row_fill(&rows[i], &list->entries[i]);
		for (int c = 0; c < NR_COLUMNS; c++) {
			int w = width(rows[i].column[c]);

			widths[c] = w > widths[c] ? w : widths[c];
		}
	}
	for (size_t i = 0; i < list->count; i++) {
		for (int c = 0; c < NR_COLUMNS; c++) {
			const char *text = rows[i].column[c];
			int pad = widths[c] - width(text);

			if (c == SIZE) /* numbers to the right */
				printf("%*s%s ", pad, "", text);
			else
				printf("%s%*s ", text, pad, "");
		}
		cli_escape(name, sizeof(name), list->entries[i].name);
		puts(name);
	}
	return cli_finish(CLI_OK);
}

/** cmd_ls() - ls [-l] [--json] [PATH]. Return: an exit status. */
int cmd_ls(const struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "json", .has_arg = no_argument, .val = 'j' },
		{ .name = "long", .has_arg = no_argument, .val = 'l' },
		{ 0 },
	};
	static const struct hint hints[] = {
		{ EINVAL, "this is no path inside the folder", "name it as srv, mem or srv/NAME" },
		{ 0 },
	};
	cleanup(list_deinit_p) struct list list = { 0 };
	bool json = false, full = false;
	const char *path;
	int c, r;

	while ((c = getopt_long(argc, argv, ":l", options, NULL)) != -1) {
		if (c == 'j')
			json = true;
		else if (c == 'l')
			full = true;
		else
			return cli_bad_option(NAME, c, argv);
	}
	if (argc - optind > 1)
		return cli_usage(NAME, "'%s' is one argument too many", argv[optind + 1]);
	path = optind < argc ? argv[optind] : "";

	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	r = list_read(&list, k, path);
	if (r < 0)
		return cli_refuse(*path ? path : NAME, -r, hints);
	if (json)
		return print_json(&list);
	if (full)
		return print_long(&list);
	print_names(&list);
	return cli_finish(CLI_OK);
}
