// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * usage_tool.c - the engine of "folder top" alone, for tests: count DIRECTORY, and print all that is in the result, a line each:
 *
 *	total DISK APPARENT COUNT
 *	entries N, vanished N, errors N, stopped 0|1, rss KIB, ms N
 *	item DISK APPARENT COUNT MODE NAME
 *	error CALL ERRNO PATH
 *	skip PATH
 *
 * Names and paths are in hexadecimal. Usage: usage-tool [-n TOP] [-d DEPTH] [-j THREADS] [-b 0|1|2] [-x] [-f] [-e PATTERN]... DIRECTORY
 */
#include <engine/usage/usage.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define MAX_EXCLUDES 16

static void hex(const char *label, const char *text)
{
	printf("%s ", label);
	for (; text && *text; text++)
		printf("%02x", (unsigned char)*text);
	puts("");
}

static void print(const struct usage_result *r, double ms)
{
	struct rusage usage;
	char label[128];

	getrusage(RUSAGE_SELF, &usage);
	printf("total %ju %ju %ju\n", (uintmax_t)r->total.disk, (uintmax_t)r->total.apparent,
	       (uintmax_t)r->total.count);
	printf("entries %ju\nvanished %ju\nerrors %ju\nstopped %d\nrss %ld\nms %.1f\n",
	       (uintmax_t)r->nr_entries, (uintmax_t)r->nr_vanished, (uintmax_t)r->nr_errors,
	       r->stopped, usage.ru_maxrss, ms);
	for (size_t i = 0; i < r->nr_items; i++) {
		const struct usage_sum *s = &r->items[i].sum;

		snprintf(label, sizeof(label), "item %ju %ju %ju %o", (uintmax_t)s->disk,
			 (uintmax_t)s->apparent, (uintmax_t)s->count, r->items[i].mode);
		hex(label, r->items[i].name);
	}
	for (size_t i = 0; i < USAGE_ERRORS && r->errors[i].call; i++) {
		snprintf(label, sizeof(label), "error %s %d", r->errors[i].call, r->errors[i].err);
		hex(label, r->errors[i].path);
	}
	for (size_t i = 0; i < r->nr_skipped; i++)
		hex("skip", r->skipped[i]);
}

int main(int argc, char **argv)
{
	const char *excludes[MAX_EXCLUDES + 1] = { NULL };
	struct usage_options o = { .top = 10, .depth = UINT32_MAX, .excludes = excludes };
	struct timespec from, to;
	struct usage_result result;
	struct usage *u;
	int c, r, nr_excludes = 0;

	while ((c = getopt(argc, argv, "n:d:j:b:xfe:")) != -1) {
		switch (c) {
		case 'n':
			o.top = strtoul(optarg, NULL, 10);
			break;
		case 'd':
			o.depth = (uint32_t)strtoul(optarg, NULL, 10);
			break;
		case 'j':
			o.threads = (unsigned int)strtoul(optarg, NULL, 10);
			break;
		case 'b':
			o.by = (enum usage_by)strtoul(optarg, NULL, 10);
			break;
		case 'x':
			o.one_fs = true;
			break;
		case 'f':
			o.files = true;
			break;
		case 'e':
			if (nr_excludes < MAX_EXCLUDES)
				excludes[nr_excludes++] = optarg;
			break;
		default:
			return 2;
		}
	}
	clock_gettime(CLOCK_MONOTONIC, &from);
	r = usage_new(&u, argv[optind] ? argv[optind] : ".", &o);
	if (r == 0) {
		r = usage_run(u, &result);
		clock_gettime(CLOCK_MONOTONIC, &to);
		if (r == 0)
			print(&result,
			      (double)(to.tv_sec - from.tv_sec) * 1e3 +
				      (double)(to.tv_nsec - from.tv_nsec) / 1e6);
		usage_free(u, &result);
	}
	if (r < 0)
		fprintf(stderr, "usage-tool: %s\n", strerror(-r));
	return r < 0;
}
