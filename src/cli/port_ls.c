// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * port_ls.c - `kshared port ls [--json]`: each port, and what its server says of it.
 *
 * The folder knows an entry's name, mode and owner; the rest is the server's, which is asked by opening the port. A server that
 * does not answer costs some seconds, and no other one of its owner's is asked then: nobody shall be able to make this take
 * for ever.
 */
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/port.h"

enum { MODE, OWNER, WHAT, SOURCE, SIZE, PERIOD, AGE, ACCESS, NR_COLUMNS };

/**
 * struct item - one port.
 * @err: why it could not be opened; 0: @info and @age_ns are of it
 */
struct item {
	char name[KSHARED_PATH_MAX + 1];
	struct kshared_entry e;
	struct kport_info info;
	uint64_t age_ns;
	int err;
	bool writable;
};

struct items {
	struct item *items;
	size_t count;
	size_t room;
};

static void items_deinit_p(struct items *list)
{
	free(list->items);
}

static int add(struct items *list, const char *board, const struct kshared_entry *e)
{
	struct item *item;

	if (list->count == list->room) {
		size_t room = list->room ? 2 * list->room : 32;
		struct item *bigger = reallocarray(list->items, room, sizeof(*bigger));

		if (!bigger)
			return -ENOMEM;
		list->items = bigger;
		list->room = room;
	}
	item = &list->items[list->count];
	*item = (struct item){ .e = *e };
	if (snprintf(item->name, sizeof(item->name), "%s%s%s", board, *board ? "/" : "", e->name) >=
	    (int)sizeof(item->name))
		return 0; /* cannot be opened by anybody */
	list->count++;
	return 0;
}

/* The ports of a board, "" for all, and of the boards in it. Return: 0; -errno. */
static int collect(struct items *list, struct kshared *k, const char *board)
{
	char path[KSHARED_PATH_MAX + 1], below[KSHARED_PATH_MAX + 1];
	struct kshared_entry e;
	struct kshared_dir *dir;
	int r;

	if (snprintf(path, sizeof(path), "port%s%s", *board ? "/" : "", board) >= (int)sizeof(path))
		return 0;
	dir = kshared_opendir(k, path);
	if (!dir) /* one that may not be looked into, or has just gone, is left out */
		return *board && (errno == EACCES || errno == ENOENT) ? 0 : -errno;
	while ((r = kshared_readdir(dir, &e)) > 0) {
		if (!S_ISDIR(e.mode))
			r = add(list, board, &e);
		else if (snprintf(below, sizeof(below), "%s%s%s", board, *board ? "/" : "",
				  e.name) < (int)sizeof(below))
			r = collect(list, k, below);
		if (r < 0)
			break;
	}
	if (r == -1)
		r = -errno;
	kshared_closedir(dir);
	return r < 0 ? r : 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct item *)a)->name, ((const struct item *)b)->name);
}

static void ask(struct items *list, struct kshared *k, size_t which)
{
	struct item *item = &list->items[which];
	struct port_view v = { 0 };

	for (size_t i = 0; i < which; i++) {
		if (list->items[i].err == ETIMEDOUT && list->items[i].e.uid == item->e.uid) {
			item->err = ETIMEDOUT;
			return;
		}
	}
	v.p = kport_open(k, item->name, O_RDONLY, 0);
	if (!v.p || kport_info(v.p, &v.info) < 0) {
		item->err = errno;
	} else {
		item->info = v.info;
		item->age_ns = port_view_age_ns(&v);
	}
	port_view_deinit(&v);
}

static const char *state_of(const struct item *item)
{
	switch (item->err) {
	case 0:
		return item->info.gone ? "gone" : port_source_name(item->info.source);
	case ECONNREFUSED:
	case ESRCH:
		return "gone";
	case EACCES:
		return "-";
	case ETIMEDOUT:
		return "hangs";
	default:
		return "broken";
	}
}

static json_t *item_json(const struct item *item)
{
	json_t *object = json_object();
	char mode[16];

	snprintf(mode, sizeof(mode), "%04o", item->e.mode & 07777);
	cli_json_set(object, "name", cli_json_text(item->name));
	cli_json_set(object, "mode", json_string(mode));
	cli_json_set(object, "uid", cli_json_int(item->e.uid));
	cli_json_set(object, "gid", cli_json_int(item->e.gid));
	cli_json_set(object, "what", cli_json_text(item->e.what));
	cli_json_set(object, "writable", json_boolean(item->writable));
	cli_json_set(object, "opens", cli_json_int(item->e.opens));
	cli_json_set(object, "gone", json_boolean(strcmp(state_of(item), "gone") == 0));
	if (item->err) {
		cli_json_set(object, "error", json_string(strerror(item->err)));
		return object;
	}
	cli_json_set(object, "source", json_string(port_source_name(item->info.source)));
	cli_json_set(object, "fields", cli_json_int(item->info.nr_fields));
	cli_json_set(object, "size_bytes", cli_json_int(item->info.size));
	cli_json_set(object, "period_ns", cli_json_int(item->info.period_ns));
	cli_json_set(object, "age_ns",
		     item->age_ns == UINT64_MAX ? json_null() : cli_json_int(item->age_ns));
	cli_json_set(object, "writes", cli_json_int(item->info.writes));
	return object;
}

static void time_text(uint64_t ns, char *ret, size_t size)
{
	if (!ns || ns == UINT64_MAX)
		snprintf(ret, size, "-");
	else if (ns < 1000000)
		snprintf(ret, size, "%.3gus", (double)ns / 1e3);
	else if (ns < 1000000000)
		snprintf(ret, size, "%.3gms", (double)ns / 1e6);
	else
		snprintf(ret, size, "%.0fs", (double)ns / 1e9);
}

/* A line, without the name. */
struct row {
	char column[NR_COLUMNS][72];
};

static void fill(struct row *row, const struct item *item)
{
	static const char bits[] = "rwxrwxrwx";
	size_t size = sizeof(row->column[0]);
	const struct passwd *pw = getpwuid(item->e.uid);

	memset(row, 0, sizeof(*row));
	row->column[MODE][0] = '-';
	for (int i = 0; i < 9; i++)
		row->column[MODE][i + 1] = item->e.mode & (0400 >> i) ? bits[i] : '-';
	if (pw)
		cli_escape(row->column[OWNER], size, pw->pw_name);
	else
		snprintf(row->column[OWNER], size, "%u", item->e.uid);
	cli_escape(row->column[WHAT], size, *item->e.what ? item->e.what : "-");
	snprintf(row->column[SOURCE], size, "%s", state_of(item));
	snprintf(row->column[ACCESS], size, "%s", item->writable ? "rw" : "r");
	for (int c = SIZE; c <= AGE; c++)
		snprintf(row->column[c], size, "-");
	if (item->err)
		return;
	snprintf(row->column[SIZE], size, "%llu", (unsigned long long)item->info.size);
	time_text(item->info.period_ns, row->column[PERIOD], size);
	time_text(item->age_ns ? item->age_ns : 1, row->column[AGE], size);
}

static int print_rows(const struct items *list)
{
	static const char *const heads[] = { "MODE", "OWNER",  "WHAT", "SOURCE",
					     "SIZE", "PERIOD", "AGE",  "ACCESS" };
	cleanup_free struct row *rows = calloc(list->count + 1, sizeof(*rows));
	char name[4 * (KSHARED_PATH_MAX + 1)];
	int widths[NR_COLUMNS] = { 0 };

	if (!rows)
		return cli_refuse(PORT_NAME, ENOMEM, NULL);
	for (int c = 0; c < NR_COLUMNS; c++)
		snprintf(rows[0].column[c], sizeof(rows[0].column[0]), "%s", heads[c]);
	for (size_t i = 0; i < list->count; i++)
		fill(&rows[i + 1], &list->items[i]);
	for (size_t i = 0; i <= list->count; i++)
		for (int c = 0; c < NR_COLUMNS; c++) {
			int w = (int)strlen(rows[i].column[c]);

			widths[c] = w > widths[c] ? w : widths[c];
		}
	for (size_t i = 0; i <= list->count; i++) {
		for (int c = 0; c < NR_COLUMNS; c++) {
			bool number = c == SIZE || c == PERIOD || c == AGE;

			printf("%*s ", number ? widths[c] : -widths[c], rows[i].column[c]);
		}
		cli_escape(name, sizeof(name), i ? list->items[i - 1].name : "NAME");
		puts(name);
	}
	return cli_finish(CLI_OK);
}

int port_ls(const struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "json", .has_arg = no_argument, .val = 'j' },
		{ 0 },
	};
	cleanup(items_deinit_p) struct items list = { 0 };
	json_t *array;
	bool json = false;
	int c, r;

	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c != 'j')
			return cli_bad_option(PORT_NAME, c, argv);
		json = true;
	}
	if (optind < argc)
		return cli_usage(PORT_NAME, "'%s' is one argument too many", argv[optind]);

	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	r = collect(&list, k, "");
	if (r < 0)
		return cli_refuse(PORT_NAME, -r, port_hints);
	if (list.count)
		qsort(list.items, list.count, sizeof(list.items[0]), by_name);
	for (size_t i = 0; i < list.count; i++) {
		list.items[i].writable = list.items[i].e.mode & 0222;
		ask(&list, k, i);
	}
	if (!json)
		return print_rows(&list);
	array = json_array();
	for (size_t i = 0; i < list.count; i++)
		json_array_append_new(array, item_json(&list.items[i]));
	return cli_json_print(array);
}
