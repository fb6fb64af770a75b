/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * top.h - the parts of `kshared folder top`: options and the run (top.c), what is printed
 * (top_print.c, top_json.c), how full the file system and the quotas are (top_room.c), progress and
 * signals while it runs (top_watch.c).
 */
#ifndef KSHARED_CLI_TOP_H
#define KSHARED_CLI_TOP_H

#include <engine/usage/usage.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/**
 * struct top - what is asked for.
 * @dir: as given
 * @excludes: NULL at the end; what @count.excludes points to
 * @to_terminal: standard output is one; @colour: it may be coloured; @columns: its width
 */
struct top {
	struct usage_options count;
	const char *dir;
	const char **excludes;
	size_t nr_excludes;
	bool bytes;
	bool null;
	bool json;
	bool export;
	bool to_terminal;
	bool colour;
	int columns;
};

/**
 * struct top_quota - a quota of the caller's that has a limit.
 * @type: "user", "group" or "project"; @id, @name: whose; the name may be empty
 * @bytes_used, @bytes_limit: the limit is the hard one, or the soft one if there is no other; 0: none
 * @inodes_used, @inodes_limit: likewise
 */
struct top_quota {
	const char *type;
	uint32_t id;
	char name[64];
	uint64_t bytes_used;
	uint64_t bytes_limit;
	uint64_t inodes_used;
	uint64_t inodes_limit;
};

/**
 * struct top_room - how full it is.
 * @has_size: the file system has a size; @size to @available: bytes
 * @inodes, @inodes_used: 0 where the file system does not limit them
 * @quotas: @nr_quotas of them; what was counted for each is in the result's owned[] at the same index
 */
struct top_room {
	bool has_size;
	uint64_t size;
	uint64_t used;
	uint64_t available;
	uint64_t inodes;
	uint64_t inodes_used;
	struct top_quota quotas[USAGE_OWNERS];
	unsigned int nr_quotas;
};

struct top_watch;

/* top.c */

/** top_main() - top [OPTION...] [DIRECTORY]; argv[0] is "top". Return: an exit status. */
int top_main(int argc, char **argv);

/* top_room.c */

/**
 * top_room_read() - look at the file system of @t->dir and at the caller's quotas in it.
 * @t: the owners of the quotas that were found are asked for in @t->count
 * @ret: what could not be had is left zero
 */
void top_room_read(struct top *t, struct top_room *ret);

/** top_percent() - as df(1) has it, rounded up. Return: 0 to 100. */
unsigned int top_percent(uint64_t used, uint64_t available);

/* top_print.c */

/** top_value() - the number that was asked for. */
uint64_t top_value(const struct top *t, const struct usage_sum *s);

/** top_size_text() - bytes in powers of 1024: 812, 1.4K, 12G. Rounded up; tenths below 10. @size: at least 8 */
void top_size_text(uint64_t bytes, char *ret, size_t size);

/** top_print_entries() - the entries, on standard output. Return: 0; -ENOMEM. */
int top_print_entries(const struct top *t, const struct usage_result *result);

/** top_print_notes() - what went wrong and what was left out, on standard error. */
void top_print_notes(const struct top *t, const struct usage_result *result);

/** top_print_last() - how full it all is: on standard output if that is a terminal, else on standard error. */
void top_print_last(const struct top *t, const struct usage_result *result, const struct top_room *room);

/* top_json.c */

/** top_print_json() - everything, as a JSON object on standard output. Return: an exit status. */
int top_print_json(const struct top *t, const struct usage_result *result, const struct top_room *room);

/* top_watch.c */

/**
 * top_watch_start() - from now on SIGINT and SIGTERM stop @u; a second one ends the program.
 * @progress: show how far it is, in a line on standard error
 * Return: NULL: that cannot be had, and the signals do what they did before.
 */
struct top_watch *top_watch_start(struct usage *u, bool progress);

/** top_watch_stop() - the line disappears, the signals do what they did before. @w: may be NULL */
void top_watch_stop(struct top_watch *w);

#endif
