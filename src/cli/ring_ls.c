// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ring_ls.c - `kshared ring ls [--json]`: which memory objects are rings, and how they are doing.
 *
 * A ring is known by what is in it, so of an object that one may not read there is no telling. NAME.ctl of a protected ring is a part of it and
 * no ring of its own. One that is damaged is listed if it was made a ring.
 */
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/ring.h"

struct item {
	char name[KSHARED_PATH_MAX + 1];
	struct kshared_entry e;
	struct kring_stat stat;
	bool damaged;
};

struct items {
	struct item *items;
	size_t count;
	size_t room;
	size_t unknown;
};

static void items_deinit_p(struct items *list)
{
	free(list->items);
}

static int add(struct items *list, struct kshared *k, const char *name,
	       const struct kshared_entry *e)
{
	struct item *item;
	struct kring *r = kring_open(k, name, KRING_OBSERVER);
	bool damaged = !r && errno == EBADMSG;

	list->unknown += !r && errno == EACCES;
	if (!r && !damaged)
		return errno == ENOMEM ? -ENOMEM : 0;
	if (list->count == list->room) {
		size_t room = list->room ? 2 * list->room : 32;

		item = reallocarray(list->items, room, sizeof(*item));
		if (!item) {
			kring_close(r);
			return -ENOMEM;
		}
		list->items = item;
		list->room = room;
	}
	item = &list->items[list->count++];
	*item = (struct item){ .e = *e, .damaged = damaged };
	snprintf(item->name, sizeof(item->name), "%s", name);
	if (r)
		kring_get_stat(r, &item->stat);
	kring_close(r);
	return 0;
}

/* The rings of a board, "" for all, and of the boards in it. Return: 0; -errno. */
static int collect(struct items *list, struct kshared *k, const char *board)
{
	char path[KSHARED_PATH_MAX + 1], below[KSHARED_PATH_MAX + 1];
	struct kshared_entry e;
	struct kshared_dir *dir;
	int r;

	if (snprintf(path, sizeof(path), "mem%s%s", *board ? "/" : "", board) >= (int)sizeof(path))
		return 0;
	dir = kshared_opendir(k, path);
	if (!dir) /* one that may not be looked into, or has just gone, is left out */
		return *board && (errno == EACCES || errno == ENOENT) ? 0 : -errno;
	while ((r = kshared_readdir(dir, &e)) > 0) {
		if (snprintf(below, sizeof(below), "%s%s%s", board, *board ? "/" : "", e.name) >=
		    (int)sizeof(below))
			continue; /* cannot be opened by anybody */
		r = S_ISDIR(e.mode) ? collect(list, k, below) : add(list, k, below, &e);
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

static json_t *item_json(const struct item *item)
{
	const struct kring_stat *s = &item->stat;
	json_t *object = json_object();
	char mode[16];

	snprintf(mode, sizeof(mode), "%04o", item->e.mode & 07777);
	cli_json_set(object, "name", cli_json_text(item->name));
	cli_json_set(object, "mode", json_string(mode));
	cli_json_set(object, "uid", cli_json_int(item->e.uid));
	cli_json_set(object, "gid", cli_json_int(item->e.gid));
	cli_json_set(object, "size_bytes", cli_json_int(item->e.size_bytes));
	cli_json_set(object, "damaged", json_boolean(item->damaged));
	if (item->damaged)
		return object;
	cli_json_set(object, "shape", json_string(ring_shape_name(s->conf.shape)));
	cli_json_set(object, "protected", json_boolean(s->conf.flags & KRING_PROTECTED));
	cli_json_set(object, "blocking", json_boolean(s->conf.flags & KRING_BLOCKING));
	cli_json_set(object, "writers", cli_json_int(s->writers));
	cli_json_set(object, "readers", cli_json_int(s->readers));
	cli_json_set(object, "dead", cli_json_int(s->dead));
	cli_json_set(object, "depth", cli_json_int(s->depth > INT64_MAX ? INT64_MAX : s->depth));
	return object;
}

static void print(const struct item *item)
{
	const struct passwd *pw = getpwuid(item->e.uid);
	char owner[128], mode[10] = "rwxrwxrwx", name[4 * (KSHARED_PATH_MAX + 1)], peers[32];

	for (int i = 0; i < 9; i++)
		if (!(item->e.mode & (0400 >> i)))
			mode[i] = '-';
	if (pw)
		cli_escape(owner, sizeof(owner), pw->pw_name);
	else
		snprintf(owner, sizeof(owner), "%u", item->e.uid);
	cli_escape(name, sizeof(name), item->name);
	if (item->damaged) {
		printf("-%s %-8s %-11s %7s %10s %s\n", mode, owner, "damaged", "-", "-", name);
		return;
	}
	snprintf(peers, sizeof(peers), "%u>%u%s", item->stat.writers, item->stat.readers,
		 item->stat.dead ? "!" : "");
	printf("-%s %-8s %-11s %7s %10llu %s\n", mode, owner,
	       ring_shape_name(item->stat.conf.shape), peers, (unsigned long long)item->stat.depth,
	       name);
}

/** ring_ls() - ring ls [--json]. Return: an exit status. */
int ring_ls(const struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "json", .has_arg = no_argument, .val = 'j' },
		{ 0 },
	};
	cleanup(items_deinit_p) struct items list = { 0 };
	bool json = false;
	json_t *array;
	int c, r;

	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c != 'j')
			return cli_bad_option(RING_NAME, c, argv);
		json = true;
	}
	if (optind != argc)
		return cli_usage(RING_NAME, "ls takes no NAME; stat does");

	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	r = collect(&list, k, "");
	if (r < 0)
		return cli_refuse("mem", -r, ring_hints);
	if (list.count)
		qsort(list.items, list.count, sizeof(list.items[0]), by_name);
	if (json) {
		array = json_array();
		for (size_t i = 0; i < list.count; i++)
			json_array_append_new(array, item_json(&list.items[i]));
		return cli_json_print(array);
	}
	for (size_t i = 0; i < list.count; i++)
		print(&list.items[i]);
	if (list.unknown)
		cli_say("ls: %zu memory objects may not be read; what they are only their owners can tell",
			list.unknown);
	return cli_finish(CLI_OK);
}
