/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * json.h - for the commands with --json. Numbers beyond 2^63 do not occur: sizes are off_t,
 * limits are checked.
 */
#ifndef KSHARED_CLI_JSON_H
#define KSHARED_CLI_JSON_H

#include <jansson.h>

#include "cli/cli.h"

json_t *cli_json_text(const char *text);
void cli_json_set(json_t *object, const char *key, json_t *value);
int cli_json_print(json_t *value);
int cli_json_print_line(json_t *value);

/** cli_json_int() - a number below 2^63. Return: a new reference; NULL: no memory. */
static inline json_t *cli_json_int(uint64_t value)
{
	return json_integer((json_int_t)value);
}

#endif
