// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * top_json.c - `kshared folder top --json`. kshared-folder-top(1) says what the members are.
 */
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/top.h"

/* A sum of many files' sizes can be beyond what JSON's readers take. */
static json_t *number(uint64_t value)
{
	return cli_json_int(value > INT64_MAX ? INT64_MAX : value);
}

static json_t *base64(const char *text)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t len = strlen(text), used = 0;
	cleanup_free char *out = malloc(len / 3 * 4 + 5);
	const unsigned char *p = (const unsigned char *)text;

	if (!out)
		return NULL;
	for (size_t i = 0; i < len; i += 3) {
		size_t n = len - i < 3 ? len - i : 3;
		unsigned int v = (unsigned int)p[i] << 16 | (n > 1 ? p[i + 1] : 0u) << 8 |
			(n > 2 ? p[i + 2] : 0u);

		for (size_t k = 0; k < 4; k++)
			out[used++] = k <= n ? digits[v >> (18 - 6 * k) & 63] : '=';
	}
	return json_stringn(out, used);
}

/* A name or path as KEY; one that is no UTF-8 also as KEY_base64. */
static void set_name(json_t *object, const char *key, const char *key64, const char *name)
{
	json_t *exact = json_string(name);

	cli_json_set(object, key, exact ? exact : cli_json_text(name));
	if (!exact)
		cli_json_set(object, key64, base64(name));
}

static const char *type_of(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR:
		return "directory";
	case S_IFREG:
		return "file";
	case S_IFLNK:
		return "symlink";
	case S_IFIFO:
		return "fifo";
	case S_IFSOCK:
		return "socket";
	case S_IFCHR:
		return "character-device";
	case S_IFBLK:
		return "block-device";
	default:
		return "unknown";
	}
}

static void set_sum(json_t *object, const struct usage_sum *s)
{
	cli_json_set(object, "bytes", number(s->disk));
	cli_json_set(object, "apparent_bytes", number(s->apparent));
	cli_json_set(object, "inodes", number(s->count));
}

static json_t *entries(const struct usage_result *r)
{
	json_t *array = json_array();

	for (size_t i = 0; i < r->nr_items; i++) {
		json_t *item = json_object();

		set_name(item, "name", "name_base64", r->items[i].name);
		cli_json_set(item, "type", json_string(type_of(r->items[i].mode)));
		set_sum(item, &r->items[i].sum);
		json_array_append_new(array, item);
	}
	return array;
}

static json_t *filesystem(const struct top_room *room)
{
	json_t *fs;

	if (!room->has_size)
		return json_null();
	fs = json_object();
	cli_json_set(fs, "size", number(room->size));
	cli_json_set(fs, "used", number(room->used));
	cli_json_set(fs, "available", number(room->available));
	cli_json_set(fs, "percent", number(top_percent(room->used, room->available)));
	cli_json_set(fs, "inodes", number(room->inodes));
	cli_json_set(fs, "inodes_used", number(room->inodes_used));
	return fs;
}

static json_t *quotas(const struct usage_result *r, const struct top_room *room)
{
	json_t *array = json_array();

	for (unsigned int i = 0; i < room->nr_quotas; i++) {
		const struct top_quota *q = &room->quotas[i];
		json_t *item = json_object();

		cli_json_set(item, "type", json_string(q->type));
		cli_json_set(item, "id", number(q->id));
		cli_json_set(item, "used", number(q->bytes_used));
		cli_json_set(item, "limit", q->bytes_limit ? number(q->bytes_limit) : json_null());
		cli_json_set(item, "here", number(r->owned[i].disk));
		cli_json_set(item, "inodes_used", number(q->inodes_used));
		cli_json_set(item, "inodes_limit",
			     q->inodes_limit ? number(q->inodes_limit) : json_null());
		cli_json_set(item, "inodes_here", number(r->owned[i].count));
		json_array_append_new(array, item);
	}
	return array;
}

static json_t *errors(const struct usage_result *r)
{
	json_t *array = json_array();

	for (size_t i = 0; i < USAGE_ERRORS && i < r->nr_errors; i++) {
		json_t *item = json_object();

		set_name(item, "path", "path_base64", r->errors[i].path);
		cli_json_set(item, "call", json_string(r->errors[i].call));
		cli_json_set(item, "errno", number((uint64_t)r->errors[i].err));
		cli_json_set(item, "error", cli_json_text(strerror(r->errors[i].err)));
		json_array_append_new(array, item);
	}
	return array;
}

static json_t *skipped(const struct usage_result *r)
{
	json_t *array = json_array();

	for (size_t i = 0; i < r->nr_skipped; i++) {
		json_t *item = json_object();

		set_name(item, "path", "path_base64", r->skipped[i]);
		json_array_append_new(array, item);
	}
	return array;
}

int top_print_json(const struct top *t, const struct usage_result *r, const struct top_room *room)
{
	static const char *const by[] = {
		[USAGE_DISK] = "bytes",
		[USAGE_APPARENT] = "apparent_bytes",
		[USAGE_COUNT] = "inodes",
	};
	json_t *object = json_object(), *total = json_object();

	set_name(object, "directory", "directory_base64", t->dir);
	cli_json_set(object, "by", json_string(by[t->count.by]));
	cli_json_set(object, "files", json_boolean(t->count.files));
	cli_json_set(object, "partial", json_boolean(r->nr_errors || r->stopped));
	cli_json_set(object, "stopped", json_boolean(r->stopped));
	set_sum(total, &r->total);
	cli_json_set(object, "total", total);
	cli_json_set(object, "nr_entries", number(r->nr_entries));
	cli_json_set(object, "entries", entries(r));
	cli_json_set(object, "filesystem", filesystem(room));
	cli_json_set(object, "quotas", quotas(r, room));
	cli_json_set(object, "nr_errors", number(r->nr_errors));
	cli_json_set(object, "errors", errors(r));
	cli_json_set(object, "vanished", number(r->nr_vanished));
	cli_json_set(object, "skipped_mounts", skipped(r));
	return cli_json_print(object);
}
