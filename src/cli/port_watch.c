// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * port_watch.c - `kshared port watch`: a port's values, again and again.
 *
 * On a terminal: on its alternate screen, which goes away with us, however we are ended but by SIGKILL; with what each number
 * changes by in a second, from the times at which its server took it. Else a line, or a JSON object on a line, every
 * interval. Signals are read from a signalfd, so that nothing happens in the middle of anything. A server that went away
 * is looked for again every interval.
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>

#include "cli/port.h"

#define ENTER "\033[?1049h\033[?25l"
#define LEAVE "\033[?25h\033[?1049l"
#define SECONDS_MAX 86400

/**
 * struct watch - a watch under way.
 * @words, @nr_words: what is watched
 * @before, @before_ns: the data shown last, and its time; @size: its bytes
 */
struct watch {
	struct port_view v;
	struct port_list list;
	char **words;
	int nr_words;
	uint64_t *before;
	uint64_t before_ns;
	uint64_t size;
	uint64_t every_ns;
	bool json;
	bool screen;
};

static void watch_deinit_p(struct watch *w)
{
	port_list_deinit(&w->list);
	port_view_deinit(&w->v);
	free(w->before);
}

/* SECONDS with a fraction, as 0.5. */
static int parse_seconds(const char *text, uint64_t *ret_ns)
{
	struct kport_field f = { .type = KPORT_FIXED, .fraction_bits = 32, .width = 8 };
	uint64_t value;

	if (port_value_parse(&f, text, &value) < 0 || value >> 32 > SECONDS_MAX)
		return -EINVAL;
	*ret_ns = (uint64_t)(((unsigned __int128)value * 1000000000 + (1u << 31)) >> 32);
	return *ret_ns < 1000000 ? -EINVAL : 0;
}

/* What is shown is what is compared with next time. */
static void keep(struct watch *w)
{
	if (w->size != w->v.info.size) {
		free(w->before);
		w->before = malloc(w->v.info.size + 1);
		w->size = w->before ? w->v.info.size : 0;
	}
	if (w->before)
		memcpy(w->before, w->v.data, w->size);
	w->before_ns = w->v.info.sample_ns;
}

/* What a whole number changed by in a second. Return: false: that is not known, or it is no such number. */
static bool rate_of(const struct watch *w, struct port_value value, double *ret)
{
	const struct kport_field *f = &w->v.fields[value.field];
	double now, then, seconds;

	if (!w->before || !w->before_ns || w->size != w->v.info.size || f->type == KPORT_FIXED ||
	    w->v.info.sample_ns <= w->before_ns)
		return false;
	if (!port_value_number(f, port_value_at(f, value.index, w->v.data), &now) ||
	    !port_value_number(f, port_value_at(f, value.index, w->before), &then))
		return false;
	seconds = (double)(w->v.info.sample_ns - w->before_ns) / 1e9;
	*ret = (now - then) / seconds;
	return true;
}

static void rate_text(double rate, char *ret, size_t size)
{
	static const char units[] = " kMGTPE";
	size_t unit = 0;

	while (fabs(rate) >= 9999.5 && units[unit + 1]) {
		rate /= 1000;
		unit++;
	}
	snprintf(ret, size, "%+.*f%.*s/s", fabs(rate) < 100 ? 1 : 0, rate, unit != 0, units + unit);
}

/* ---- on a terminal ---- */

static void print_cut(const char *text, int columns, bool last)
{
	/* Escaped text is all printable, but may be wide; a terminal without automatic margins cuts for us. */
	printf("%.*s\033[K%s", columns > 1 ? columns - 1 : 1, text, last ? "" : "\n");
}

static void print_head(const struct watch *w, const char *trouble, int columns)
{
	uint64_t age = port_view_age_ns(&w->v);
	char text[512], name[256], old[32] = "no sample yet";

	cli_escape(name, sizeof(name), w->v.name);
	if (age != UINT64_MAX)
		snprintf(old, sizeof(old), "%.1f ms old", (double)age / 1e6);
	snprintf(text, sizeof(text), "%s  by %s, %s%s%s", name, port_source_name(w->v.info.source),
		 old, *trouble ? "  " : "", trouble);
	print_cut(text, columns, false);
	print_cut("", columns, false);
}

static void print_screen(const struct watch *w, const char *trouble)
{
	struct winsize ws = { 0 };
	char label[PORT_LABEL_MAX], text[PORT_TEXT_MAX], unit[PORT_UNIT_MAX], rate[32], line[512];
	int rows = 24, columns = 80, row = 2, width = 12;
	size_t shown = 0, count = 0;
	double per_second;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_row && ws.ws_col) {
		rows = ws.ws_row;
		columns = ws.ws_col;
	}
	for (size_t i = 0; i < w->list.count; i++) {
		struct port_value value = w->list.values[i];
		int len;

		if (port_is_unused(&w->v, value))
			continue;
		port_value_label(&w->v.fields[value.field], value.index, label);
		len = (int)strlen(label);
		width = len > width ? len : width;
		count++;
	}
	fputs("\033[H\033[?7l", stdout);
	print_head(w, trouble, columns);
	for (size_t i = 0; i < w->list.count && shown < count; i++) {
		struct port_value value = w->list.values[i];
		const struct kport_field *f = &w->v.fields[value.field];

		if (port_is_unused(&w->v, value))
			continue;
		if (row == rows - 1 && shown + 1 < count) {
			snprintf(line, sizeof(line), "%zu more; name the fields to see them",
				 count - shown);
			print_cut(line, columns, true);
			break;
		}
		port_value_label(f, value.index, label);
		port_value_text(f, port_value_at(f, value.index, w->v.data), text);
		port_unit_text(f, unit);
		*rate = '\0';
		if (rate_of(w, value, &per_second) && per_second != 0)
			rate_text(per_second, rate, sizeof(rate));
		snprintf(line, sizeof(line), "%-*s %20.200s %-6s %10s", width, label, text, unit,
			 rate);
		shown++;
		row++;
		print_cut(line, columns, shown == count);
	}
	fputs("\033[J\033[?7h", stdout);
	fflush(stdout);
}

/* ---- into a pipe ---- */

static void print_time(void)
{
	struct timespec ts;
	struct tm tm;
	char text[64] = "";

	clock_gettime(CLOCK_REALTIME, &ts);
	if (localtime_r(&ts.tv_sec, &tm))
		strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	printf("%s.%03ld", text, ts.tv_nsec / 1000000);
}

static void print_line(const struct watch *w)
{
	char label[PORT_LABEL_MAX], text[PORT_TEXT_MAX];

	print_time();
	for (size_t i = 0; i < w->list.count; i++) {
		struct port_value value = w->list.values[i];
		const struct kport_field *f = &w->v.fields[value.field];

		if (port_is_unused(&w->v, value))
			continue;
		port_value_label(f, value.index, label);
		port_value_text(f, port_value_at(f, value.index, w->v.data), text);
		printf(" %s=%s", label, text);
	}
	putchar('\n');
}

static int print_object(const struct watch *w)
{
	json_t *root = port_snapshot_json(&w->v, &w->list), *rates = json_object();
	char label[PORT_LABEL_MAX];
	double rate;

	for (size_t i = 0; i < w->list.count; i++) {
		struct port_value value = w->list.values[i];

		if (port_is_unused(&w->v, value) || !rate_of(w, value, &rate))
			continue;
		port_value_label(&w->v.fields[value.field], value.index, label);
		cli_json_set(rates, label, json_real(rate));
	}
	cli_json_set(root, "per_second", rates);
	return cli_json_print_line(root);
}

/* ---- the loop ---- */

static void enter(struct watch *w)
{
	w->screen = true;
	fputs(ENTER, stdout);
	fflush(stdout);
}

/* A sentence has to come after this: with the screen it would be gone. */
static void leave(struct watch *w)
{
	if (w->screen)
		fputs(LEAVE, stdout);
	fflush(stdout);
	w->screen = false;
}

static int choose(struct watch *w)
{
	port_list_deinit(&w->list);
	return port_select(&w->v, w->words, w->nr_words, &w->list);
}

static int show(struct watch *w, const char *trouble)
{
	int r = CLI_OK;

	if (w->screen)
		print_screen(w, trouble);
	else if (w->json)
		r = print_object(w);
	else
		print_line(w);
	keep(w);
	if (r == CLI_OK && (fflush(stdout) != 0 || ferror(stdout)))
		r = cli_finish(CLI_FAILED);
	return r;
}

/* Take the data and show it. Return: CLI_OK; an exit status after a sentence, if there is no sense in going on. */
static int look(struct watch *w)
{
	const char *trouble = "";
	int r = port_view_take(&w->v);

	if (w->v.info.gone) {
		trouble = "its server is gone";
		if (port_view_renew(&w->v) == 0) {
			bool screen = w->screen;

			/* Another server may have other fields. */
			leave(w);
			if (choose(w) != CLI_OK)
				return CLI_FAILED;
			if (screen)
				enter(w);
			w->before_ns = 0;
			trouble = "its server came back";
		}
	} else if (r == -EAGAIN) {
		trouble = "its server stands still";
	} else if (r < 0) {
		leave(w);
		return cli_refuse(w->v.name, -r, port_hints);
	}
	return show(w, trouble);
}

/* Ctrl-Z: the screen is given back while we are stopped. */
static void stop(struct watch *w)
{
	bool screen = w->screen;
	sigset_t set, old;

	leave(w);
	sigemptyset(&set);
	sigaddset(&set, SIGTSTP);
	raise(SIGTSTP);
	sigprocmask(SIG_UNBLOCK, &set, &old); /* here we stop, and go on */
	sigprocmask(SIG_SETMASK, &old, NULL);
	if (screen)
		enter(w);
}

/* Those that end it, and those that it must know of; one that the caller ignores (nohup) stays ignored. */
static int take_signals(void)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP };
	struct sigaction action;
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (sigaction(numbers[i], NULL, &action) == 0 && action.sa_handler != SIG_IGN)
			sigaddset(&set, numbers[i]);
	sigaddset(&set, SIGWINCH);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int run(struct watch *w)
{
	struct itimerspec every = {
		.it_value.tv_nsec = 1, /* at once */
		.it_interval = { .tv_sec = (time_t)(w->every_ns / 1000000000),
				 .tv_nsec = (long)(w->every_ns % 1000000000) },
	};
	struct signalfd_siginfo info;
	uint64_t expired;
	int status = CLI_OK;

	cleanup_fd int sigs = take_signals();
	cleanup_fd int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	struct pollfd fds[] = { { .fd = sigs, .events = POLLIN },
				{ .fd = timer, .events = POLLIN } };
	if (sigs < 0 || timer < 0 || timerfd_settime(timer, 0, &every, NULL) < 0)
		return cli_refuse(PORT_NAME, errno, NULL);
	if (w->screen)
		enter(w);
	while (status == CLI_OK) {
		poll(fds, 2, -1);
		if (read(sigs, &info, sizeof(info)) == sizeof(info)) {
			if (info.ssi_signo == SIGTSTP)
				stop(w);
			else if (info.ssi_signo != SIGWINCH)
				break;
			if (w->screen)
				status = look(w);
		}
		if (read(timer, &expired, sizeof(expired)) == sizeof(expired))
			status = look(w);
	}
	leave(w);
	return status;
}

static int parse(struct watch *w, int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "json", .has_arg = no_argument, .val = 'j' },
		{ .name = "interval", .has_arg = required_argument, .val = 'n' },
		{ 0 },
	};
	int c;

	*w = (struct watch){ .every_ns = 1000000000, .v.used = -1 };
	while ((c = getopt_long(argc, argv, ":n:", options, NULL)) != -1) {
		if (c == 'j')
			w->json = true;
		else if (c != 'n')
			return cli_bad_option(PORT_NAME, c, argv);
		else if (parse_seconds(optarg, &w->every_ns) < 0)
			return cli_usage(PORT_NAME, "'%s' is no number of seconds from 0.001 to %d",
					 optarg, SECONDS_MAX);
	}
	if (optind == argc)
		return cli_usage(PORT_NAME, "watch needs a NAME");
	w->words = argv + optind + 1;
	w->nr_words = argc - optind - 1;
	return CLI_OK;
}

int port_watch(const struct cli *cli, int argc, char **argv)
{
	cleanup(watch_deinit_p) struct watch w = { 0 };
	const char *term = getenv("TERM");
	int r = parse(&w, argc, argv);

	if (r != CLI_OK)
		return r;
	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	r = port_view_open(&w.v, k, argv[optind], O_RDONLY, 0);
	if (r == CLI_OK)
		r = choose(&w);
	if (r != CLI_OK)
		return r;
	w.screen = !w.json && isatty(STDOUT_FILENO) && term && *term && strcmp(term, "dumb") != 0;
	r = run(&w);
	return r == CLI_OK ? cli_finish(r) : r;
}
