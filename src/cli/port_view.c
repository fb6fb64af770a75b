// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * port_view.c - an opened port, and a copy of its data as one pass of its writer left it.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <time.h>

#include "cli/port.h"

/* What one program takes of anybody's word: more than any page has. */
#define SIZE_MAX_BYTES (64u << 20)
#define FIELDS_MAX 65536
#define PATIENCE_MS 100

const struct hint port_hints[] = {
	{ EINVAL, "this is no good name", "give a name without '..'" },
	{ ENOENT, "there is no such port, or this folder has none",
	  "'kshared port ls' shows what is there" },
	{ EISDIR, "it is a board, not a port", "name a port inside it" },
	{ EACCES, "its mode does not permit this",
	  "ask its owner to change its mode, or use another user" },
	{ EPERM, "nobody may write it", "'kshared port ls' shows which can be written" },
	{ ECONNREFUSED, "its server is gone",
	  "start it again, with 'kshared port serve --replace'" },
	{ ETIMEDOUT, "its server does not answer", "look after that process" },
	{ EPROTO, "its server does not say what a port's server says",
	  "remove it with 'kshared rm'" },
	{ EAGAIN, "its server has too much to do", "try again" },
	{ EDQUOT, "it is open for writing by this user as often as it may", "close some" },
	{ EPIPE, "its server is gone, or has shut this program out",
	  "start it again, with 'kshared port serve --replace'" },
	{ ESRCH, "that process or control group is gone", "remove the port with 'kshared rm'" },
	{ EOPNOTSUPP, "this kernel or processor cannot", "'kshared doctor' tells what is missing" },
	{ 0 },
};

const char *port_source_name(uint32_t source)
{
	switch (source) {
	case KPORT_SOURCE_BPF:
		return "bpf";
	case KPORT_SOURCE_SAMPLER:
		return "sampler";
	case KPORT_SOURCE_SERVICE:
		return "service";
	default:
		return "?";
	}
}

static bool is_sound(const struct kport_field *f, uint64_t size)
{
	uint64_t one = f->type == KPORT_CHARS ? f->width : f->type == KPORT_U32 ? 4 : 8;
	uint64_t last;

	if (f->type < KPORT_U64 || f->type > KPORT_CHARS || f->width != one || !f->count ||
	    f->fraction_bits > 63 || (f->type != KPORT_FIXED && f->fraction_bits))
		return false;
	if (f->count > 1 && f->stride < one)
		return false;
	last = (uint64_t)(f->count - 1) * (f->count > 1 ? f->stride : 0);
	return one <= size && last <= size - one && f->offset <= size - one - last;
}

static void forget(struct port_view *v)
{
	free(v->fields);
	free(v->data);
	v->fields = NULL;
	v->data = NULL;
	v->nr_fields = 0;
	v->used = -1;
}

/* The port as a whole. A writer that is stopped in the middle of a pass gets some time to end it. Return: 0; -errno. */
static int take_info(struct port_view *v)
{
	struct pollfd gone = { .fd = kport_fd(v->p), .events = POLLIN };

	for (int i = 0; kport_info(v->p, &v->info) < 0; i++) {
		if (errno != EAGAIN)
			return -errno;
		/* Who has died there never ends it. */
		v->info.gone = poll(&gone, 1, 0) > 0;
		if (v->info.gone || i == PATIENCE_MS)
			return -EAGAIN;
		poll(NULL, 0, 1);
	}
	return 0;
}

/* The port and its fields. */
static int learn(struct port_view *v)
{
	int name, r;

	forget(v);
	r = take_info(v);
	if (r < 0)
		return r;
	if (v->info.size > SIZE_MAX_BYTES || v->info.nr_fields > FIELDS_MAX)
		return -EPROTO;
	v->fields = calloc(v->info.nr_fields + 1, sizeof(*v->fields));
	v->data = calloc(1, v->info.size + sizeof(*v->data));
	if (!v->fields || !v->data)
		return -ENOMEM;
	for (uint32_t i = 0; i < v->info.nr_fields; i++) {
		struct kport_field f;

		if (kport_field(v->p, i, &f) < 0)
			return -errno;
		if (is_sound(&f, v->info.size))
			v->fields[v->nr_fields++] = f;
	}
	name = port_view_find(v, "name", 4);
	if (name >= 0 && v->fields[name].type == KPORT_CHARS && v->fields[name].count > 1)
		v->used = name;
	return 0;
}

int port_view_take(struct port_view *v)
{
	for (int i = 0;; i++) {
		/* The time first: what is read after it is as new, or newer. */
		int r = take_info(v);

		if (r < 0)
			return r;
		if (kport_read(v->p, v->data, v->info.size, 0) >= 0)
			return 0;
		if (errno != EAGAIN || i == PATIENCE_MS)
			return -errno;
		poll(NULL, 0, 1);
	}
}

int port_view_renew(struct port_view *v)
{
	int r;

	if (kport_renew(v->p) < 0)
		return -errno;
	r = learn(v);
	return r < 0 ? r : port_view_take(v);
}

int port_view_open(struct port_view *v, struct kshared *k, const char *name, int oflags,
		   unsigned int flags)
{
	int r;

	*v = (struct port_view){ .name = name, .used = -1 };
	v->p = kport_open(k, name, oflags, flags);
	if (!v->p)
		return cli_refuse(*name ? name : "''", errno, port_hints);
	r = learn(v);
	if (r == 0)
		r = port_view_take(v);
	if (r == 0)
		return CLI_OK;
	port_view_deinit(v);
	return cli_refuse(name, -r, port_hints);
}

void port_view_deinit(struct port_view *v)
{
	forget(v);
	kport_close(v->p);
	v->p = NULL;
}

int port_view_find(const struct port_view *v, const char *name, size_t len)
{
	for (size_t i = 0; i < v->nr_fields; i++)
		if (strlen(v->fields[i].name) == len && memcmp(v->fields[i].name, name, len) == 0)
			return (int)i;
	return -1;
}

uint64_t port_view_age_ns(const struct port_view *v)
{
	struct timespec ts;
	uint64_t now;

	if (!v->info.sample_ns)
		return UINT64_MAX;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
	return now > v->info.sample_ns ? now - v->info.sample_ns : 0;
}

bool port_is_unused(const struct port_view *v, struct port_value value)
{
	const struct kport_field *f = &v->fields[value.field];
	const struct kport_field *name;

	if (v->used < 0)
		return false;
	name = &v->fields[v->used];
	return name->count == f->count && name->width &&
		!*(const char *)port_value_at(name, value.index, v->data);
}

static int add(struct port_list *list, int field, uint32_t index)
{
	if (list->count == list->room) {
		size_t room = list->room ? 2 * list->room : 64;
		struct port_value *bigger = reallocarray(list->values, room, sizeof(*bigger));

		if (!bigger)
			return -ENOMEM;
		list->values = bigger;
		list->room = room;
	}
	list->values[list->count++] = (struct port_value){ (uint32_t)field, index };
	return 0;
}

static int add_field(const struct port_view *v, struct port_list *list, int field)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < v->fields[field].count; i++)
		r = add(list, field, i);
	return r;
}

static int select_word(const struct port_view *v, const char *word, struct port_list *list)
{
	size_t len = strlen(word);
	int field = port_view_find(v, word, len);
	const char *open = strrchr(word, '[');
	char number[16];
	uint64_t index;

	if (field >= 0)
		return add_field(v, list, field);
	if (!open || word[len - 1] != ']')
		return -ENOENT;
	field = port_view_find(v, word, (size_t)(open - word));
	if (field < 0)
		return -ENOENT;
	snprintf(number, sizeof(number), "%.*s", (int)(word + len - 2 - open), open + 1);
	if (cli_parse_uint(number, v->fields[field].count - 1, &index) < 0)
		return -ERANGE;
	return add(list, field, (uint32_t)index);
}

int port_select(const struct port_view *v, char **words, int nr, struct port_list *ret)
{
	int r = 0;

	for (size_t i = 0; nr == 0 && r == 0 && i < v->nr_fields; i++)
		r = add_field(v, ret, (int)i);
	for (int i = 0; r == 0 && i < nr; i++) {
		r = select_word(v, words[i], ret);
		if (r == -ENOENT || r == -ERANGE) {
			cli_say("%s: %s '%s'; 'kshared port read %s' shows its fields", v->name,
				r == -ENOENT ? "it has no field" : "there is no such index:",
				words[i], v->name);
			return CLI_FAILED;
		}
	}
	return r < 0 ? cli_refuse(v->name, -r, port_hints) : CLI_OK;
}

void port_list_deinit(struct port_list *list)
{
	free(list->values);
	*list = (struct port_list){ 0 };
}
