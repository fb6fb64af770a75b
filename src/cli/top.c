// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * top.c - `kshared folder top`: what fills a directory. The counting is engine/usage's.
 *
 * Exit status: 0 everything was counted; 1 the answer is partial, or there is none; 2 the command line is wrong,
 * or what it names is no directory. What vanishes meanwhile is nobody's fault: 0.
 */
#include <malloc.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/top.h"

#define NAME "folder"

enum { OPT_APPARENT = 256, OPT_COUNT, OPT_EXCLUDE, OPT_EXPORT, OPT_FILES, OPT_JSON };

static void top_deinit(struct top *t)
{
	free(t->excludes);
}

/* Any number will do, but directories that stay open need not be found again: take what there is. */
static void raise_fd_limit(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
		l.rlim_cur = l.rlim_max;
		setrlimit(RLIMIT_NOFILE, &l);
	}
}

/* Where address space is limited, the threads do not set aside 64 MiB each for what they allocate, which is next to nothing. */
static void save_address_space(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_AS, &l) == 0 && l.rlim_cur != RLIM_INFINITY)
		mallopt(M_ARENA_MAX, 1);
}

static bool terminal_is_dumb(void)
{
	const char *term = getenv("TERM");

	return !term || !*term || strcmp(term, "dumb") == 0;
}

static void look_at_output(struct top *t)
{
	const char *no_color = getenv("NO_COLOR");
	struct winsize ws = { 0 };

	t->to_terminal = isatty(STDOUT_FILENO);
	t->colour = t->to_terminal && !terminal_is_dumb() && !(no_color && *no_color);
	t->columns = t->to_terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col
		? ws.ws_col
		: 80;
}

static int take_number(const char *option, uint64_t least, uint64_t *ret)
{
	int r = cli_parse_uint(optarg, UINT32_MAX, ret);

	if (r == 0 && *ret >= least)
		return CLI_OK;
	if (r == 0)
		return cli_usage(NAME, "%s: '%s' is too small; the least is %u", option, optarg,
				 (unsigned int)least);
	return cli_usage(NAME, "%s: '%s' is %s", option, optarg,
			 r == -ERANGE ? "too large" : "no number");
}

static int take_exclude(struct top *t)
{
	size_t len = strlen(optarg);
	const char **grown;

	/* A directory as it is printed, or as a shell completes it. */
	while (len > 1 && optarg[len - 1] == '/')
		optarg[--len] = '\0';
	while (strncmp(optarg, "./", 2) == 0 && optarg[2])
		optarg += 2;
	if (!*optarg)
		return cli_usage(NAME, "--exclude: the pattern is empty");
	if (*optarg == '/')
		return cli_usage(NAME,
				 "--exclude: '%s' would match nothing: patterns are compared with "
				 "paths below the directory, which begin without a slash",
				 optarg);
	grown = reallocarray(t->excludes, t->nr_excludes + 2, sizeof(*grown));
	if (!grown)
		return cli_refuse("--exclude", ENOMEM, NULL);
	grown[t->nr_excludes++] = optarg;
	grown[t->nr_excludes] = NULL;
	t->excludes = grown;
	t->count.excludes = grown;
	return CLI_OK;
}

static int take_option(struct top *t, int c, char **argv)
{
	uint64_t number;
	int r;

	switch (c) {
	case 'n':
		r = take_number("-n", 1, &number);
		t->count.top = r == CLI_OK ? number : 0;
		return r;
	case 'd':
		r = take_number("-d", 0, &number);
		t->count.depth = r == CLI_OK ? (uint32_t)number : 0;
		return r;
	case 'h':
		t->bytes = false;
		return CLI_OK;
	case 'b':
		t->bytes = true;
		return CLI_OK;
	case 'x':
		t->count.one_fs = true;
		return CLI_OK;
	case '0':
		t->null = true;
		return CLI_OK;
	case OPT_FILES:
		t->count.files = true;
		return CLI_OK;
	case OPT_APPARENT:
	case OPT_COUNT:
		if (t->count.by != USAGE_DISK &&
		    t->count.by != (c == OPT_COUNT ? USAGE_COUNT : USAGE_APPARENT))
			return cli_usage(NAME, "--apparent-size and --count exclude each other");
		t->count.by = c == OPT_COUNT ? USAGE_COUNT : USAGE_APPARENT;
		return CLI_OK;
	case OPT_JSON:
		t->json = true;
		return CLI_OK;
	case OPT_EXPORT:
		t->export = true;
		return CLI_OK;
	case OPT_EXCLUDE:
		return take_exclude(t);
	default:
		return cli_bad_option(NAME, c, argv);
	}
}

/* Options that make no sense together. */
static int check_options(const struct top *t)
{
	const char *other = t->json             ? "--json"
		: t->null                       ? "-0"
		: t->count.files                ? "--files"
		: t->count.by == USAGE_COUNT    ? "--count"
		: t->count.by == USAGE_APPARENT ? "--apparent-size"
						: NULL;

	if (t->export && other)
		return cli_usage(
			NAME, "--export writes everything there is; %s does not go with it", other);
	if (t->json && t->null)
		return cli_usage(NAME, "--json and -0 exclude each other");
	if (t->count.files && t->count.by == USAGE_COUNT)
		return cli_usage(NAME,
				 "--files and --count exclude each other: a file is one inode");
	if (t->export && t->to_terminal)
		return cli_usage(
			NAME, "--export is not for a terminal; redirect it, as in --export >FILE");
	return CLI_OK;
}

static int parse(struct top *t, int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "number", .has_arg = required_argument, .val = 'n' },
		{ .name = "human-readable", .has_arg = no_argument, .val = 'h' },
		{ .name = "depth", .has_arg = required_argument, .val = 'd' },
		{ .name = "bytes", .has_arg = no_argument, .val = 'b' },
		{ .name = "one-file-system", .has_arg = no_argument, .val = 'x' },
		{ .name = "null", .has_arg = no_argument, .val = '0' },
		{ .name = "files", .has_arg = no_argument, .val = OPT_FILES },
		{ .name = "apparent-size", .has_arg = no_argument, .val = OPT_APPARENT },
		{ .name = "count", .has_arg = no_argument, .val = OPT_COUNT },
		{ .name = "exclude", .has_arg = required_argument, .val = OPT_EXCLUDE },
		{ .name = "json", .has_arg = no_argument, .val = OPT_JSON },
		{ .name = "export", .has_arg = no_argument, .val = OPT_EXPORT },
		{ 0 },
	};
	int c, r;

	while ((c = getopt_long(argc, argv, ":n:hd:bx0", options, NULL)) != -1) {
		r = take_option(t, c, argv);
		if (r != CLI_OK)
			return r;
	}
	if (argc - optind > 1)
		return cli_usage(NAME, "'%s' is one argument too many", argv[optind + 1]);
	if (optind < argc)
		t->dir = argv[optind];
	return check_options(t);
}

/* It could not be begun. */
static int refuse(const struct top *t, int err)
{
	static const struct hint hints[] = {
		{ ENOENT, "there is no such directory", "name one, or none for the current one" },
		{ ENOTDIR, "it is not a directory",
		  "name the directory that it is in; 'du' tells of one file" },
		{ ELOOP, NULL, "its symbolic links lead round in a circle" },
		{ ENAMETOOLONG, "the path is too long", "change into a part of it with 'cd'" },
		{ EACCES, "permission denied", "use a user who may read it" },
		{ EPERM, NULL, NULL },
		{ 0 },
	};
	bool usage = err == ENOENT || err == ENOTDIR || err == ELOOP || err == ENAMETOOLONG;

	if (!*t->dir)
		return cli_usage(NAME, "the directory's name is empty");
	cli_refuse(t->dir, err, hints);
	return usage ? CLI_USAGE : CLI_FAILED;
}

static int print(const struct top *t, const struct usage_result *r, const struct top_room *room)
{
	int status = r->nr_errors || r->stopped ? CLI_FAILED : CLI_OK;

	if (t->json && top_print_json(t, r, room) != CLI_OK)
		return CLI_FAILED;
	if (!t->json && !t->export && top_print_entries(t, r) < 0)
		return cli_refuse(NAME, ENOMEM, NULL);
	if (cli_finish(CLI_OK) != CLI_OK) {
		top_print_notes(t, r);
		return CLI_FAILED;
	}
	top_print_notes(t, r);
	if (t->json || t->export) {
		if (status != CLI_OK)
			cli_say("%s: the answer is partial%s", t->dir,
				r->stopped ? ": it was stopped" : "");
		return status;
	}
	top_print_last(t, r, room);
	return cli_finish(status);
}

static int count(struct top *t, const struct top_room *room)
{
	static const struct hint hints[] = {
		{ EAGAIN, "no thread can be started",
		  "end some processes, or raise the limit ('ulimit -u')" },
		{ 0 },
	};
	struct usage_result result = { 0 };
	struct top_watch *watch;
	struct usage *u;
	cleanup_free char *real = NULL;
	bool progress = isatty(STDERR_FILENO) && (t->to_terminal || t->export) &&
		!terminal_is_dumb();
	int r = usage_new(&u, t->dir, &t->count), status;

	if (r < 0)
		return refuse(t, -r);
	watch = top_watch_start(u, progress);
	if (t->export) {
		real = realpath(t->dir, NULL);
		r = usage_export(u, stdout, real ? real : t->dir, &result);
	} else {
		r = usage_run(u, &result);
	}
	top_watch_stop(watch);
	if (r < 0 && t->export && ferror(stdout)) {
		errno = -r;
		status = cli_finish(CLI_FAILED);
		top_print_notes(t, &result);
	} else if (r < 0) {
		status = cli_refuse(t->dir, -r, hints);
	} else {
		status = print(t, &result, room);
	}
	usage_free(u, &result);
	return status;
}

int top_main(int argc, char **argv)
{
	struct top t = { .dir = ".",
			 .count = { .top = 10, .depth = UINT32_MAX, .by = USAGE_DISK } };
	struct top_room room;
	int status;

	look_at_output(&t);
	status = parse(&t, argc, argv);
	if (status == CLI_OK) {
		raise_fd_limit();
		save_address_space();
		top_room_read(&t, &room);
		if (t.export)
			t.count.threads = 1;
		status = count(&t, &room);
	}
	top_deinit(&t);
	return status;
}
