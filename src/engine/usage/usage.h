/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * usage.h - what fills a directory: the largest of its entries, counted with several threads and little memory.
 *
 * Theory of operation. A directory is a unit of work. A thread reads one (getdents64, statx), adds up its files, and puts its
 * sub-directories on its own stack; one that has nothing to do takes the oldest piece of another's. What is pending is bounded: a
 * directory with very many sub-directories is laid aside in the middle, and goes on from its place (d_off) when those are done. So
 * memory depends on the depth of the tree and the number of threads, not on the number of files.
 *
 * What is kept for longer: 64 bytes and the name for each sub-directory of the directory itself; and 40 bytes for each file with more
 * names than were seen yet.
 *
 * Rules that make every run give the same answer, whatever the threads do:
 * - a file with several names counts once, for the entry of the directory whose name comes first in byte order among those below which
 *   it has a name;
 * - entries of one size are sorted by name, in byte order; errors, and mounts that were left out, by path;
 * - what a mount below the directory shows again is left out if it is counted elsewhere (pieces.c says how that is decided).
 *
 * The calls used are openat(2), getdents64(2), statx(2); nothing is written, no access time is changed where that can be avoided.
 * Source: the manual entry of kshared-folder ("folder top").
 */
#ifndef KSHARED_ENGINE_USAGE_H
#define KSHARED_ENGINE_USAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>

#define USAGE_ERRORS 20 /* so many are told in full, the first by path; the others are counted */
#define USAGE_OWNERS 4

/** enum usage_by - what is added up: bytes on disk (blocks), bytes by the files' own word (size), or files. */
enum usage_by { USAGE_DISK, USAGE_APPARENT, USAGE_COUNT };

/**
 * struct usage_owner - what a quota is charged for: the files of a user or a group, or all; those on the directory's own file
 * system only, since a quota is one file system's.
 */
struct usage_owner {
	enum { USAGE_OF_USER, USAGE_OF_GROUP, USAGE_OF_ALL } what;
	uint32_t id;
};

/**
 * struct usage_options - what to count, and how.
 * @top: how many entries are wanted, at least 1
 * @depth: levels of sub-directories that are counted; 0: only the entries themselves; UINT32_MAX: all
 * @threads: 0: chosen by the number of CPUs
 * @one_fs: leave out what is on other file systems
 * @files: the largest files anywhere below, rather than the largest entries
 * @excludes: fnmatch(3) patterns of what is left out, NULL at the end; one with a slash is compared with the path below
 *	the directory, one without with the last name; NULL: none
 * @owners: what is counted apart; @nr_owners: at most USAGE_OWNERS
 */
struct usage_options {
	size_t top;
	uint32_t depth;
	unsigned int threads;
	enum usage_by by;
	bool one_fs;
	bool files;
	const char *const *excludes;
	struct usage_owner owners[USAGE_OWNERS];
	unsigned int nr_owners;
};

/** struct usage_sum - what was counted: bytes on disk, bytes by size, files and directories. */
struct usage_sum {
	uint64_t disk;
	uint64_t apparent;
	uint64_t count;
};

/**
 * struct usage_item - one entry of the answer.
 * @name: below the directory, any bytes but NUL; owned by the result
 * @mode: its type, as in st_mode
 */
struct usage_item {
	char *name;
	struct usage_sum sum;
	uint32_t mode;
};

/** struct usage_error - @call failed with @err at @path, which is below the directory and owned by the result. */
struct usage_error {
	char *path;
	const char *call;
	int err;
};

/**
 * struct usage_result - the answer; freed by usage_free().
 * @items: @nr_items of them, largest first
 * @total: everything that was counted, with the directory itself
 * @owned: what was counted for each of the owners asked for
 * @nr_entries: entries of the directory
 * @errors: those that come first by path; @nr_errors: how many there were: that much is missing in the sums
 * @nr_doubts: so many of these, with the call "mountinfo", are mounts that may show what is counted elsewhere, too
 * @nr_vanished: entries that were gone when they were looked at
 * @skipped: mounts, and directories in them, left out because they show what is counted elsewhere; @nr_skipped of them, paths below the directory
 * @stopped: usage_stop() was called: the sums are those up to then
 */
struct usage_result {
	struct usage_item *items;
	size_t nr_items;
	struct usage_sum total;
	struct usage_sum owned[USAGE_OWNERS];
	uint64_t nr_entries;
	struct usage_error errors[USAGE_ERRORS];
	uint64_t nr_errors;
	uint64_t nr_doubts;
	uint64_t nr_vanished;
	char **skipped;
	size_t nr_skipped;
	bool stopped;
};

struct usage;

/**
 * usage_new() - prepare to count @dir.
 * @dir: a directory's path; "" is none
 * @o: copied, but for what it points to
 * Return: 0; -ENOTDIR; -ENOENT; -EINVAL: @top is 0; -errno.
 */
int usage_new(struct usage **ret, const char *dir, const struct usage_options *o);

/** usage_run() - count, once. Return: 0, also with errors in the result; -ENOMEM; -EAGAIN: no thread could be started. */
int usage_run(struct usage *u, struct usage_result *ret);

/**
 * usage_export() - instead of usage_run(): write every file below to @out, in the format of ncdu(1). The calling thread alone.
 * @name: of the directory, as it is to be told; ncdu has the absolute path
 * @ret: what was noted; no items; in the total each name of a file counts
 * Return: 0; -ENOMEM; what writing failed with.
 */
int usage_export(struct usage *u, FILE *out, const char *name, struct usage_result *ret);

/** usage_stop() - have usage_run() or usage_export() return soon. From any thread, and from a signal handler. */
void usage_stop(struct usage *u);

/** usage_progress() - what has been counted so far, roughly. From any thread. */
struct usage_sum usage_progress(const struct usage *u);

/** usage_free() - free a result's memory (@r may be NULL) and @u (may be NULL). */
void usage_free(struct usage *u, struct usage_result *r);

#endif
