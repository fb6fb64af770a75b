// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * top_print.c - what `kshared folder top` prints for people, and for programs without JSON.
 *
 * Not on a terminal an entry is SIZE, two spaces, ./NAME, newline, whatever the locale: control
 * characters, backslashes and bytes that are no UTF-8 are written as \ooo and \\, so a line is one entry and
 * a name can be had back. With -0 the name is written as it is. On a terminal what the locale cannot print is
 * written as \ooo, also with -0, and there are bars.
 */
#include <langinfo.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"
#include "cli/top.h"

#define BAR_LEAST 8
#define BAR_MOST 24
#define FULL_PERCENT 90

#define BOLD "\033[1m"
#define BLUE "\033[1;34m"
#define CYAN "\033[36m"
#define RED "\033[1;31m"
#define RESET "\033[0m"

uint64_t top_value(const struct top *t, const struct usage_sum *s)
{
	return t->count.by == USAGE_DISK        ? s->disk
		: t->count.by == USAGE_APPARENT ? s->apparent
						: s->count;
}

void top_size_text(uint64_t bytes, char *ret, size_t size)
{
	static const char units[] = "KMGTPE";
	unsigned int unit = 0, shift;
	uint64_t whole, rest, tenths;

	if (bytes < 1024) {
		snprintf(ret, size, "%u", (unsigned int)bytes);
		return;
	}
	while (unit < 5 && bytes >> (10 * (unit + 2)))
		unit++;
	for (;; unit++) {
		shift = 10 * (unit + 1);
		whole = bytes >> shift;
		rest = bytes & ((1ULL << shift) - 1);
		tenths = (rest * 10 + (1ULL << shift) - 1) >> shift;
		if (whole + (rest != 0) < 1024 || unit == 5)
			break;
	}
	whole += tenths / 10;
	tenths %= 10;
	if (whole < 10 && tenths)
		snprintf(ret, size, "%u.%u%c", (unsigned int)whole, (unsigned int)tenths,
			 units[unit]);
	else
		snprintf(ret, size, "%u%c", (unsigned int)(whole + (whole >= 10 && tenths)),
			 units[unit]);
}

/* The number of an entry as it was asked for. */
static void value_text(const struct top *t, uint64_t value, char *ret, size_t size)
{
	if (t->bytes || t->count.by == USAGE_COUNT)
		snprintf(ret, size, "%llu", (unsigned long long)value);
	else
		top_size_text(value, ret, size);
}

/* Bytes of the character of UTF-8 at @p; 0: it is none, or a control character. */
static size_t good_bytes(const unsigned char *p)
{
	uint32_t c;
	size_t n;

	if (*p < 0x80)
		return *p >= ' ' && *p != 0x7f;
	n = *p >= 0xf0 ? 4 : *p >= 0xe0 ? 3 : *p >= 0xc2 ? 2 : 0;
	if (!n || *p > 0xf4)
		return 0;
	c = *p & (0x7fu >> n);
	for (size_t i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3f);
	}
	if (c < 0xa0 || (n == 3 && c < 0x800) || (n == 4 && (c < 0x10000 || c > 0x10ffff)) ||
	    (c >= 0xd800 && c < 0xe000))
		return 0;
	return n;
}

/* The same in every locale. @ret: four times as long as @name, and one */
static void escape_stable(char *ret, const char *name)
{
	while (*name) {
		size_t n = good_bytes((const unsigned char *)name);

		if (*name == '\\') {
			*ret++ = '\\';
			*ret++ = *name++;
		} else if (n) {
			memcpy(ret, name, n);
			ret += n;
			name += n;
		} else {
			/* Always three digits behind the 0: what follows may be a digit. */
			ret += sprintf(ret, "\\0%03o", (unsigned char)*name++);
		}
	}
	*ret = 0;
}

/* Return: malloc'ed; NULL without memory. */
static char *shown_name(bool to_terminal, const char *name)
{
	size_t size = 5 * strlen(name) + 1;
	char *text = malloc(size);

	if (text && to_terminal)
		cli_escape(text, size, name);
	else if (text)
		escape_stable(text, name);
	return text;
}

static void print_bar(const struct top *t, int width, uint64_t value, uint64_t largest)
{
	bool utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
	int full = largest ? (int)((double)value / (double)largest * width + 0.5) : 0;

	if (!full && value)
		full = 1;
	fputs(t->colour ? CYAN : "", stdout);
	for (int i = 0; i < width; i++)
		fputs(i < full ? (utf8 ? "\u2588" : "#") : (utf8 ? "\u2591" : "."), stdout);
	fputs(t->colour ? RESET : "", stdout);
}

/* With bars; the sizes to the right. */
static int print_for_people(const struct top *t, const struct usage_result *r)
{
	uint64_t largest = r->nr_items ? top_value(t, &r->items[0].sum) : 0,
		 total = top_value(t, &r->total);
	int bar = t->columns / 4, widest = 0;
	char size[32];

	bar = bar < BAR_LEAST ? BAR_LEAST : bar > BAR_MOST ? BAR_MOST : bar;
	for (size_t i = 0; i < r->nr_items; i++) {
		value_text(t, top_value(t, &r->items[i].sum), size, sizeof(size));
		widest = (int)strlen(size) > widest ? (int)strlen(size) : widest;
	}
	for (size_t i = 0; i < r->nr_items; i++) {
		uint64_t value = top_value(t, &r->items[i].sum);
		cleanup_free char *name = shown_name(true, r->items[i].name);
		bool dir = S_ISDIR(r->items[i].mode) && t->colour;

		if (!name)
			return -ENOMEM;
		value_text(t, value, size, sizeof(size));
		printf("%s%*s%s  ", t->colour ? BOLD : "", widest, size, t->colour ? RESET : "");
		print_bar(t, bar, value, largest);
		printf(" %3.0f%%  %s./%s%s%c", total ? (double)value * 100 / (double)total : 0.0,
		       dir ? BLUE : "", name, dir ? RESET : "", t->null ? '\0' : '\n');
	}
	return 0;
}

int top_print_entries(const struct top *t, const struct usage_result *r)
{
	char size[32];

	if (t->to_terminal)
		return print_for_people(t, r);
	for (size_t i = 0; i < r->nr_items; i++) {
		cleanup_free char *name = t->null ? NULL : shown_name(false, r->items[i].name);

		if (!t->null && !name)
			return -ENOMEM;
		value_text(t, top_value(t, &r->items[i].sum), size, sizeof(size));
		printf("%s  ./%s%c", size, name ? name : r->items[i].name, t->null ? '\0' : '\n');
	}
	return 0;
}

static void say_path(const char *path, const char *what, const char *more)
{
	cli_say("%s%s: %s; %s", strcmp(path, ".") == 0 ? "" : "./", path, what, more);
}

void top_print_notes(const struct top *t, const struct usage_result *r)
{
	uint64_t told = r->nr_errors < USAGE_ERRORS ? r->nr_errors : USAGE_ERRORS;

	for (size_t i = 0; i < told; i++) {
		const struct usage_error *e = &r->errors[i];
		const char *more = strcmp(e->call, "open") == 0 ? "what is in it is not counted"
			: strcmp(e->call, "statx") == 0         ? "it is not counted"
								: "the rest of it is not counted";

		if (strcmp(e->call, "loop") == 0)
			more = "it is a directory above itself, and not counted again";
		if (strcmp(e->call, "mountinfo") == 0) {
			say_path(e->path, "what this mount shows may be counted elsewhere, too",
				 "there is no way to tell");
			continue;
		}
		say_path(e->path, strerror(e->err), more);
	}
	if (r->nr_errors > told)
		cli_say("and %llu more like these", (unsigned long long)(r->nr_errors - told));
	for (size_t i = 0; i < r->nr_skipped && i < USAGE_ERRORS; i++)
		say_path(r->skipped[i], "left out", "what it shows is counted elsewhere");
	if (r->nr_skipped > USAGE_ERRORS)
		cli_say("and %zu more left out so", r->nr_skipped - USAGE_ERRORS);
	if (r->nr_vanished)
		cli_say("%llu %s gone before %s looked at", (unsigned long long)r->nr_vanished,
			r->nr_vanished == 1 ? "entry was" : "entries were",
			r->nr_vanished == 1 ? "it was" : "they were");
	if (!r->nr_entries && !r->nr_errors && !r->stopped)
		cli_say("%s: it has no entries%s", t->dir,
			t->nr_excludes ? " but those that are excluded, if any" : "");
}

static void add_quota(char *to, size_t size, const struct top *t, const struct usage_result *r,
		      const struct top_room *room, unsigned int i)
{
	const struct top_quota *q = &room->quotas[i];
	bool inodes = t->count.by == USAGE_COUNT;
	uint64_t limit = inodes ? q->inodes_limit : q->bytes_limit,
		 used = inodes ? q->inodes_used : q->bytes_used;
	size_t len = strlen(to);
	char a[32], b[32], c[32], id[16];

	if (!limit)
		return;
	value_text(t, used, a, sizeof(a));
	value_text(t, limit, b, sizeof(b));
	value_text(t, inodes ? r->owned[i].count : r->owned[i].disk, c, sizeof(c));
	snprintf(id, sizeof(id), "%u", q->id);
	snprintf(to + len, size - len, "; quota of %s %s: %s of %s%s used, %s of %s here", q->type,
		 *q->name ? q->name : id, a, b, inodes ? " inodes" : "", c, inodes ? "them" : "it");
}

void top_print_last(const struct top *t, const struct usage_result *r, const struct top_room *room)
{
	bool inodes = t->count.by == USAGE_COUNT;
	uint64_t used = inodes ? room->inodes_used : room->used,
		 size = inodes ? room->inodes : room->size;
	uint64_t available = inodes ? room->inodes - room->inodes_used : room->available;
	unsigned int percent = top_percent(used, available);
	char text[1024], safe[4096], a[32], b[32], c[32];
	const char *colour = r->nr_errors || r->stopped || percent >= FULL_PERCENT ? RED : BOLD;
	size_t len;

	value_text(t, top_value(t, &r->total), a, sizeof(a));
	snprintf(text, sizeof(text), "%s%s%s in all",
		 r->stopped                            ? "partial, stopped: "
			 : r->nr_errors > r->nr_doubts ? "partial, not everything could be read: "
			 : r->nr_errors                ? "inexact, something may be counted twice: "
						       : "",
		 a, inodes ? " inodes" : "");
	len = strlen(text);
	if (size) {
		value_text(t, used, a, sizeof(a));
		value_text(t, size, b, sizeof(b));
		value_text(t, available, c, sizeof(c));
		snprintf(text + len, sizeof(text) - len,
			 "; the file system is %u%% full: %s of %s%s used, %s available", percent,
			 a, b, inodes ? " inodes" : "", c);
	} else {
		snprintf(text + len, sizeof(text) - len, "; the file system has no limit%s",
			 inodes ? " of inodes" : "");
	}
	for (unsigned int i = 0; i < room->nr_quotas; i++)
		add_quota(text, sizeof(text), t, r, room, i);
	if (!t->to_terminal) {
		cli_say("%s", text);
		return;
	}
	cli_escape(safe, sizeof(safe), text);
	printf("%s%s%s\n", t->colour ? colour : "", safe, t->colour ? RESET : "");
}
