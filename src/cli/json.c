// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * json.c - what the commands with --json have in common. JSON is UTF-8 and names need not be:
 * each byte that does not belong is shown as U+FFFD. The text is ASCII only, so it is safe on a
 * terminal too.
 */
#include <string.h>

#include "cli/json.h"

/**
 * cli_json_text() - a string, whatever its bytes are.
 * Return: a new reference; NULL: no memory.
 */
json_t *cli_json_text(const char *text)
{
	json_t *value = json_string(text);
	json_t *good;
	size_t len;

	if (value)
		return value;

	/* Take as much as is good, then one byte as U+FFFD, and so on. */
	cleanup_free char *out = malloc(3 * strlen(text) + 1);
	char *end = out;
	if (!out)
		return NULL;
	while (*text) {
		for (len = strnlen(text, 4); len; len--) {
			good = json_stringn(text, len);
			if (good) {
				json_decref(good);
				break;
			}
		}
		if (len) {
			memcpy(end, text, len);
			end += len;
			text += len;
		} else {
			memcpy(end, "\xef\xbf\xbd", 3);
			end += 3;
			text++;
		}
	}
	return json_stringn(out, (size_t)(end - out));
}

/**
 * cli_json_set() - add a member to an object.
 * @value: its reference is taken; if it is NULL, for want of memory, the member is left out
 */
void cli_json_set(json_t *object, const char *key, json_t *value)
{
	json_object_set_new(object, key, value);
}

/* The one control character that ENSURE_ASCII leaves as it is; it is met in strings alone. */
static int print_part(const char *text, size_t len, void *unused)
{
	(void)unused;
	for (size_t i = 0; i < len; i++)
		if (text[i] == 0x7f)
			fputs("\\u007f", stdout);
		else
			putchar(text[i]);
	return ferror(stdout) ? -1 : 0;
}

static int print(json_t *value, size_t flags)
{
	int r = -1;

	if (value)
		r = json_dump_callback(value, print_part, NULL, flags | JSON_ENSURE_ASCII);
	json_decref(value);
	if (r < 0 && !ferror(stdout))
		return cli_refuse("JSON", ENOMEM, NULL);
	putchar('\n');
	return cli_finish(CLI_OK);
}

/**
 * cli_json_print() - print a value on stdout.
 * @value: its reference is taken; NULL: there was no memory for it
 *
 * Return: CLI_OK; CLI_FAILED after a sentence.
 */
int cli_json_print(json_t *value)
{
	return print(value, JSON_INDENT(2));
}

/** cli_json_print_line() - the same on one line, for one of many values. Return: as cli_json_print(). */
int cli_json_print_line(json_t *value)
{
	return print(value, JSON_COMPACT);
}
