/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * port.h - the parts of `kshared port`: the verbs (port_*.c), and what they share: an opened port with its fields and one
 * copy of its data (port_view.c), values as text (port_value.c).
 *
 * What a port says of itself is its server's word, and a server may be anybody's: each field is checked to lie within the
 * data, and names, units and texts are escaped before they are printed.
 */
#ifndef KSHARED_CLI_PORT_H
#define KSHARED_CLI_PORT_H

#include <kshared/port.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/cli.h"
#include "cli/json.h"

#define PORT_NAME "port"
#define PORT_TEXT_MAX 1100 /* of a value as text; longer ones are cut */
#define PORT_LABEL_MAX 256 /* of a field's name, escaped, with an index */
#define PORT_UNIT_MAX 64 /* of a unit, escaped */

/**
 * struct port_view - an opened port.
 * @name: as given
 * @fields, @nr_fields: those that lie within the data
 * @used: index in @fields of the texts that name the elements ("name"), if there are any; else -1
 * @data, @info: of the last port_view_take(); @info.size bytes
 */
struct port_view {
	const char *name;
	struct kport *p;
	struct kport_info info;
	struct kport_field *fields;
	size_t nr_fields;
	int used;
	uint64_t *data;
};

/** struct port_value - one value of a view: number @index of @fields[@field]. */
struct port_value {
	uint32_t field;
	uint32_t index;
};

/** struct port_list - values. */
struct port_list {
	struct port_value *values;
	size_t count;
	size_t room;
};

/* port_view.c */

extern const struct hint port_hints[];

/** port_view_open() - open a port and take its data. Return: CLI_OK; CLI_FAILED after a sentence. */
int port_view_open(struct port_view *v, struct kshared *k, const char *name, int oflags,
		   unsigned int flags);

/** port_view_take() - copy the data as it is now. Return: 0; -errno. */
int port_view_take(struct port_view *v);

/** port_view_renew() - open it again after its server came back. Return: 0; -errno: it is as it was. */
int port_view_renew(struct port_view *v);

/** port_view_deinit() - close it. @v: zeroed is fine */
void port_view_deinit(struct port_view *v);

/** port_view_find() - a field by name. Return: its number; -1. */
int port_view_find(const struct port_view *v, const char *name, size_t len);

/** port_view_age_ns() - how old the data taken is. Return: UINT64_MAX: it was never sampled. */
uint64_t port_view_age_ns(const struct port_view *v);

/** port_is_unused() - is a value of an element that has no name, such as of a device that is not there? */
bool port_is_unused(const struct port_view *v, struct port_value value);

/**
 * port_select() - the values that words name: FIELD or FIELD[INDEX].
 * @words: @nr of them; 0: all fields
 * Return: CLI_OK; CLI_FAILED after a sentence.
 */
int port_select(const struct port_view *v, char **words, int nr, struct port_list *ret);

/** port_list_deinit() - forget a list. */
void port_list_deinit(struct port_list *list);

/** port_source_name() - "bpf", "sampler", "service", or "?". */
const char *port_source_name(uint32_t source);

/* port_value.c */

/** port_value_at() - where a value is in a copy of the data. */
const void *port_value_at(const struct kport_field *f, uint32_t index, const void *data);

/** port_value_text() - a value as text; @ret: PORT_TEXT_MAX bytes. @at: of the value */
void port_value_text(const struct kport_field *f, const void *at, char *ret);

/** port_value_json() - a value as JSON: a number; a string for texts and for numbers of 2^63 and more. */
json_t *port_value_json(const struct kport_field *f, const void *at);

/** port_value_label() - FIELD, or FIELD[INDEX] if there are several; @ret: PORT_LABEL_MAX bytes. */
void port_value_label(const struct kport_field *f, uint32_t index, char *ret);

/** port_unit_text() - a field's unit; @ret: PORT_UNIT_MAX bytes. */
void port_unit_text(const struct kport_field *f, char *ret);

/** port_value_number() - a value as a number. Return: false: it is none. */
bool port_value_number(const struct kport_field *f, const void *at, double *ret);

/**
 * port_value_parse() - a value from text.
 * @ret: f->width bytes at most
 * Return: 0; -EINVAL it is no such value; -ERANGE it does not fit.
 */
int port_value_parse(const struct kport_field *f, const char *text, void *ret);

/** port_type_text() - what a field's type takes, for messages; @size: at least 64. */
void port_type_text(const struct kport_field *f, char *ret, size_t size);

/* the verbs; argv[0] is the verb. Return: an exit status. */

/** port_ls() - ls [--json]. */
int port_ls(const struct cli *cli, int argc, char **argv);

/** port_read() - read NAME [FIELD...] [--json]. */
int port_read(const struct cli *cli, int argc, char **argv);

/** port_write() - write NAME FIELD=VALUE... [--polled]. */
int port_write(const struct cli *cli, int argc, char **argv);

/** port_watch() - watch NAME [FIELD...] [-n SECONDS] [--json]. */
int port_watch(const struct cli *cli, int argc, char **argv);

/** port_serve() - serve NAME FIELD=VALUE... [OPTION...]. */
int port_serve(const struct cli *cli, int argc, char **argv);

/** port_add() - add NAME (--pid PID | --cgroup DIR) [-m MODE], and rule NAME --cgroup DIR [-m MODE]. */
int port_add(const struct cli *cli, int argc, char **argv);

/** port_snapshot_json() - a view's values as an object; see kshared(1). */
json_t *port_snapshot_json(const struct port_view *v, const struct port_list *list);

/** port_view_deinit_p() - for cleanup attributes. */
static inline void port_view_deinit_p(struct port_view *v)
{
	port_view_deinit(v);
}

/** port_list_deinit_p() - for cleanup attributes. */
static inline void port_list_deinit_p(struct port_list *list)
{
	port_list_deinit(list);
}

#endif
