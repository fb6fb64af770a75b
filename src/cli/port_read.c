// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * port_read.c - `kshared port read` and `kshared port write`: once, by field names.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "cli/port.h"

#define STALE_PERIODS 3 /* as KPORT_FRESH has it */

/* FIELD: a value, or an array of all its values. @list may name single ones; they get their own keys. */
static json_t *values_json(const struct port_view *v, const struct port_list *list)
{
	json_t *object = json_object();
	char label[PORT_LABEL_MAX];

	for (size_t i = 0; i < list->count; i++) {
		struct port_value value = list->values[i];
		const struct kport_field *f = &v->fields[value.field];
		json_t *one;

		if (port_is_unused(v, value))
			continue;
		one = port_value_json(f, port_value_at(f, value.index, v->data));
		port_value_label(f, value.index, label);
		cli_json_set(object, label, one);
	}
	return object;
}

static json_t *units_json(const struct port_view *v, const struct port_list *list)
{
	json_t *object = json_object();

	for (size_t i = 0; i < list->count; i++) {
		const struct kport_field *f = &v->fields[list->values[i].field];

		if (*f->unit && !json_object_get(object, f->name))
			cli_json_set(object, f->name, cli_json_text(f->unit));
	}
	return object;
}

json_t *port_snapshot_json(const struct port_view *v, const struct port_list *list)
{
	uint64_t age = port_view_age_ns(v);
	json_t *root = json_object();

	cli_json_set(root, "port", cli_json_text(v->name));
	cli_json_set(root, "source", json_string(port_source_name(v->info.source)));
	cli_json_set(root, "period_ns", cli_json_int(v->info.period_ns));
	cli_json_set(root, "sample_ns", cli_json_int(v->info.sample_ns));
	cli_json_set(root, "age_ns", age == UINT64_MAX ? json_null() : cli_json_int(age));
	cli_json_set(root, "gone", json_boolean(v->info.gone));
	cli_json_set(root, "values", values_json(v, list));
	cli_json_set(root, "units", units_json(v, list));
	return root;
}

static void print_lines(const struct port_view *v, const struct port_list *list)
{
	char label[PORT_LABEL_MAX], text[PORT_TEXT_MAX], unit[PORT_UNIT_MAX];

	for (size_t i = 0; i < list->count; i++) {
		struct port_value value = list->values[i];
		const struct kport_field *f = &v->fields[value.field];

		if (port_is_unused(v, value))
			continue;
		port_value_label(f, value.index, label);
		port_value_text(f, port_value_at(f, value.index, v->data), text);
		port_unit_text(f, unit);
		printf("%s %s%s%s\n", label, text, *unit ? " " : "", unit);
	}
}

/* What is printed may be old: whoever looks should know. */
static void warn_if_old(const struct port_view *v)
{
	uint64_t age = port_view_age_ns(v);
	bool old = v->info.period_ns && age / STALE_PERIODS > v->info.period_ns;

	if (!v->info.gone && !old)
		return;
	if (age == UINT64_MAX)
		cli_say("%s: nothing was published yet; try again", v->name);
	else
		cli_say("%s: %s, and this is from %.3f s ago; look after it", v->name,
			v->info.gone ? "its server is gone" : "its server is late",
			(double)age / 1e9);
}

int port_read(const struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "json", .has_arg = no_argument, .val = 'j' },
		{ 0 },
	};
	cleanup(port_list_deinit_p) struct port_list list = { 0 };
	cleanup(port_view_deinit_p) struct port_view v = { 0 };
	bool json = false;
	int c, r;

	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c != 'j')
			return cli_bad_option(PORT_NAME, c, argv);
		json = true;
	}
	if (optind == argc)
		return cli_usage(PORT_NAME, "read needs a NAME");

	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	r = port_view_open(&v, k, argv[optind], O_RDONLY, 0);
	if (r == CLI_OK)
		r = port_select(&v, argv + optind + 1, argc - optind - 1, &list);
	if (r != CLI_OK)
		return r;
	warn_if_old(&v);
	if (json)
		return cli_json_print(port_snapshot_json(&v, &list));
	print_lines(&v, &list);
	return cli_finish(CLI_OK);
}

/* ---- write ---- */

/**
 * struct writing - what is to be written.
 * @words: a copy of the pool's first bytes, with the new values
 * @touched: for each of @nr_words, whether a value was put there
 */
struct writing {
	uint64_t *words;
	bool *touched;
	size_t nr_words;
};

static void writing_deinit_p(struct writing *w)
{
	free(w->words);
	free(w->touched);
}

/* FIELD=VALUE or FIELD[INDEX]=VALUE. Return: CLI_OK; an exit status after a sentence. */
static int put(const struct port_view *v, const char *word, struct writing *w)
{
	const char *equals = strchr(word, '=');
	cleanup_free char *name = strndup(word, (size_t)(equals - word));
	cleanup(port_list_deinit_p) struct port_list list = { 0 };
	const struct kport_field *f;
	uint64_t offset;
	char what[64];
	int r;

	if (!name)
		return cli_refuse(v->name, ENOMEM, NULL);
	r = port_select(v, &name, 1, &list);
	if (r != CLI_OK)
		return r;
	f = &v->fields[list.values[0].field];
	if (list.count > 1) {
		cli_say("%s: '%s' has %u values; say which: '%s[0]'", v->name, name, f->count,
			name);
		return CLI_FAILED;
	}
	offset = f->offset + (uint64_t)list.values[0].index * f->stride;
	if (offset + f->width > w->nr_words * sizeof(*w->words)) {
		cli_say("%s: '%s' is for reading only; 'kshared help port' tells more", v->name,
			name);
		return CLI_FAILED;
	}
	if (port_value_parse(f, equals + 1, (char *)w->words + offset) < 0) {
		port_type_text(f, what, sizeof(what));
		cli_say("%s: '%s' is not for '%s'; give %s", v->name, equals + 1, name, what);
		return CLI_FAILED;
	}
	for (uint64_t i = offset / sizeof(*w->words);
	     i <= (offset + f->width - 1) / sizeof(*w->words); i++)
		w->touched[i] = true;
	return CLI_OK;
}

/* One write for each run of words. Return: 0; -errno. */
static int write_runs(struct kport *p, const struct writing *w)
{
	for (size_t i = 0, end; i < w->nr_words; i = end) {
		for (end = i + 1; end < w->nr_words && w->touched[end] == w->touched[i]; end++)
			;
		if (w->touched[i] &&
		    kport_write(p, w->words + i, (end - i) * sizeof(*w->words),
				i * sizeof(*w->words)) < 0)
			return -errno;
	}
	return kport_flush(p) < 0 ? -errno : 0;
}

/* A server refuses with whatever errno it likes: those that it is likely to mean. */
static const struct hint write_hints[] = {
	{ EINVAL, "its server does not take these values", "see what it wants" },
	{ ERANGE, "a value is out of the range that its server takes", "see what it wants" },
	{ EPERM, "its server does not let this user write that", "see what it wants" },
	{ EACCES, "its server does not let this user write that", "see what it wants" },
	{ EFAULT, "that cannot be written", "see which fields it has with 'kshared port read'" },
	{ ETIMEDOUT, "its server does not answer, and may carry it out later",
	  "look after that process" },
	{ EPIPE, "its server is gone, or has shut this program out",
	  "start it again, with 'kshared port serve --replace'" },
	{ 0 },
};

int port_write(const struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "polled", .has_arg = no_argument, .val = 'p' },
		{ 0 },
	};
	cleanup(port_view_deinit_p) struct port_view v = { 0 };
	cleanup(writing_deinit_p) struct writing w = { 0 };
	unsigned int flags = 0;
	size_t writable;
	int c, r;

	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c != 'p')
			return cli_bad_option(PORT_NAME, c, argv);
		flags |= KPORT_POLLED;
	}
	if (argc - optind < 2)
		return cli_usage(PORT_NAME, "write needs a NAME and FIELD=VALUE");
	for (int i = optind + 1; i < argc; i++)
		if (!strchr(argv[i], '=') || *argv[i] == '=')
			return cli_usage(PORT_NAME, "'%s' is not FIELD=VALUE", argv[i]);

	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	r = port_view_open(&v, k, argv[optind], O_RDWR, flags);
	if (r != CLI_OK)
		return r;
	writable = v.info.pool_size < v.info.size ? v.info.pool_size : v.info.size;
	w.nr_words = writable / sizeof(*w.words);
	w.words = calloc(w.nr_words + 1, sizeof(*w.words));
	w.touched = calloc(w.nr_words + 1, sizeof(*w.touched));
	if (!w.words || !w.touched)
		return cli_refuse(v.name, ENOMEM, NULL);
	/* What shares a word with a value that is written is written as it was. */
	memcpy(w.words, v.data, w.nr_words * sizeof(*w.words));
	for (int i = optind + 1; i < argc && r == CLI_OK; i++)
		r = put(&v, argv[i], &w);
	if (r != CLI_OK)
		return r;
	r = write_runs(v.p, &w);
	return r < 0 ? cli_refuse(v.name, -r, write_hints) : CLI_OK;
}
