// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ring_flow.c - what `ring send` and `ring recv` share: options, opening, time, and the progress on a terminal.
 *
 * Both are ended by signals in the usual way: the kernel takes their place back, and the other end finds that they died. The progress is one line on
 * standard error, if that is a terminal and the bytes come from, or go to, something else.
 */
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>

#include "cli/live.h"
#include "cli/ring.h"

#define SHOW_EVERY_NS 200000000LL
#define CLEAR "\r\033[K"

/** ring_now_ns() - by CLOCK_MONOTONIC. */
int64_t ring_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int set_form(struct ring_flow *f, enum ring_form form)
{
	if (f->form != RING_STREAM && f->form != form)
		return cli_usage(RING_NAME, "only one of --lines, --null and --raw can be");
	f->form = form;
	return CLI_OK;
}

/**
 * ring_flow_parse() - the command line of send or recv.
 * @sends: it is send
 *
 * Return: CLI_OK; CLI_USAGE after a sentence.
 */
int ring_flow_parse(struct ring_flow *f, bool sends, int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "lines", .has_arg = no_argument, .val = 'l' },
		{ .name = "null", .has_arg = no_argument, .val = '0' },
		{ .name = "raw", .has_arg = no_argument, .val = 'r' },
		{ .name = "timeout", .has_arg = required_argument, .val = 't' },
		{ .name = "readers", .has_arg = required_argument, .val = 'n' },
		{ .name = "history", .has_arg = no_argument, .val = 'h' },
		{ .name = "keep", .has_arg = no_argument, .val = 'k' },
		{ 0 },
	};
	uint64_t n;
	int c, r = CLI_OK;

	*f = (struct ring_flow){ .form = RING_STREAM, .wait_readers = UINT32_MAX };
	while (r == CLI_OK && (c = getopt_long(argc, argv, ":0", options, NULL)) != -1) {
		if (c == 'l') {
			r = set_form(f, RING_LINES);
		} else if (c == '0') {
			r = set_form(f, RING_NULL);
		} else if (c == 'r') {
			r = set_form(f, RING_RAW);
		} else if (c == 't') {
			if (cli_parse_seconds(optarg, &f->timeout_ns) < 0 || !f->timeout_ns)
				r = cli_usage(RING_NAME, "'%s' is no number of seconds", optarg);
		} else if (c == 'n' && sends) {
			if (cli_parse_uint(optarg, 256, &n) < 0)
				r = cli_usage(RING_NAME,
					      "--readers is a number up to 256, not '%s'", optarg);
			else
				f->wait_readers = (uint32_t)n;
		} else if (c == 'h' && !sends) {
			f->history = true;
		} else if (c == 'k' && !sends) {
			f->keep = true;
		} else {
			r = cli_bad_option(RING_NAME, c, argv);
		}
	}
	if (r != CLI_OK)
		return r;
	if (argc - optind != 1)
		return cli_usage(RING_NAME, "%s takes one NAME", sends ? "send" : "recv");
	if (f->keep && f->form == RING_STREAM)
		return cli_usage(RING_NAME, "--keep goes with --lines, --null or --raw");
	f->name = argv[optind];
	return CLI_OK;
}

/* Found before the ring is touched: then the other end learns nothing of it. */
static int check_standard(int fd, const char *name, int wrong)
{
	struct stat st;
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fstat(fd, &st) < 0) {
		cli_say("%s: %s; connect it to something", name, strerror(errno));
		return CLI_FAILED;
	}
	if (S_ISDIR(st.st_mode)) {
		cli_say("%s: it is a directory; name a file", name);
		return CLI_FAILED;
	}
	if ((flags & O_ACCMODE) == wrong) {
		cli_say("%s: it is open the other way only; look at the redirection", name);
		return CLI_FAILED;
	}
	return CLI_OK;
}

static int check_shape(struct ring_flow *f)
{
	const struct kring_conf *conf = &f->stat.conf;

	if (f->form == RING_STREAM && conf->shape == KRING_MANY_TO_ONE) {
		cli_say("%s: streams of several senders would be mixed in this ring, which is many-to-one; use --lines, --null or --raw",
			f->name);
		return CLI_FAILED;
	}
	if (conf->shape != KRING_BROADCAST) {
		if (f->history || (f->wait_readers != UINT32_MAX && f->wait_readers > 1)) {
			cli_say("%s: this ring has one reader; %s is for a broadcast", f->name,
				f->history ? "--history" : "--readers");
			return CLI_FAILED;
		}
		f->wait_readers = f->wait_readers == 1;
	} else if (f->wait_readers == UINT32_MAX) {
		/* A stream that nobody hears from its beginning is of no use to anybody. */
		f->wait_readers = f->form == RING_STREAM;
	} else if (f->wait_readers > conf->readers) {
		cli_say("%s: this ring has room for %u readers; ask for no more", f->name,
			conf->readers);
		return CLI_FAILED;
	}
	return CLI_OK;
}

/**
 * ring_flow_open() - become one end of the ring.
 * @end: KRING_WRITER or KRING_READER
 *
 * Looks first and takes a place only when nothing is wrong, so that a mistake is not another one's end of input.
 *
 * Return: CLI_OK; CLI_FAILED after a sentence.
 */
int ring_flow_open(struct ring_flow *f, const struct cli *cli, unsigned int end)
{
	static const struct hint hints[] = {
		{ EBUSY, "another one is at this end of it, or all places are taken",
		  "'kshared ring stat' tells who; wait for their end" },
		{ EACCES, "permission denied",
		  "a sender has to read and write it, a receiver too unless it is protected" },
		{ 0 },
	};
	bool sends = end == KRING_WRITER;
	struct kring *looker;
	int r;

	r = check_standard(sends ? STDIN_FILENO : STDOUT_FILENO,
			   sends ? "standard input" : "standard output",
			   sends ? O_WRONLY : O_RDONLY);
	if (r != CLI_OK)
		return r;
	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	looker = kring_open(k, f->name, KRING_OBSERVER);
	if (!looker)
		return cli_refuse(f->name, errno, ring_hints);
	kring_get_stat(looker, &f->stat);
	kring_close(looker);
	r = check_shape(f);
	if (r != CLI_OK)
		return r;
	f->r = kring_open(k, f->name, end | (f->history ? KRING_HISTORY : 0));
	if (!f->r && (errno == EBUSY || errno == EACCES))
		return cli_refuse(f->name, errno, hints);
	return f->r ? CLI_OK : cli_refuse(f->name, errno, ring_hints);
}

/* The line must not stand before the next prompt. The signal then does what it always does. */
static void clear_and_die(int number)
{
	ssize_t n = write(STDERR_FILENO, CLEAR, sizeof(CLEAR) - 1);

	(void)n;
	raise(number);
}

/** ring_flow_start() - the bytes begin to move. @other_fd: standard input or output: a terminal is not covered with the progress */
void ring_flow_start(struct ring_flow *f, int other_fd)
{
	const struct sigaction action = { .sa_handler = clear_and_die,
					  .sa_flags = SA_RESETHAND | SA_NODEFER };
	struct sigaction before;

	f->progress = isatty(STDERR_FILENO) && !isatty(other_fd);
	f->start_ns = ring_now_ns();
	f->shown_ns = f->start_ns;
	if (f->progress && sigaction(SIGINT, NULL, &before) == 0 && before.sa_handler == SIG_DFL)
		sigaction(SIGINT, &action, NULL);
}

static void show(struct ring_flow *f, const char *what)
{
	static const char units[] = " KMGTPE";
	int64_t now = ring_now_ns();
	double size = (double)f->bytes;
	struct winsize ws = { 0 };
	char text[128], rate[32];
	int columns = 80;
	size_t unit = 0;

	if (!f->progress || now - f->shown_ns < SHOW_EVERY_NS)
		return;
	f->shown_ns = now;
	f->shown = true;
	while (size >= 1023.5 && units[unit + 1]) {
		size /= 1024;
		unit++;
	}
	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col)
		columns = ws.ws_col;
	live_rate_text((double)f->bytes * 1e9 / (double)(now - f->start_ns), rate, sizeof(rate));
	snprintf(text, sizeof(text), "%.*f%.*sB, %.*sB/s%s%s", unit && size < 10 ? 1 : 0, size,
		 unit != 0, units + unit, (int)strcspn(rate, "/"), rate, *what ? "; " : "", what);
	dprintf(STDERR_FILENO, "\r%.*s\033[K", columns - 1, text);
}

/** ring_flow_moved() - so many bytes more have moved. */
void ring_flow_moved(struct ring_flow *f, uint64_t bytes)
{
	f->bytes += bytes;
	if (f->progress)
		show(f, "");
}

/** ring_flow_idle() - nothing moves. @what: is waited for */
void ring_flow_idle(struct ring_flow *f, const char *what)
{
	show(f, what);
}

/** ring_flow_hide() - take the progress away: before a sentence, and at the end. */
void ring_flow_hide(struct ring_flow *f)
{
	if (f->shown)
		dprintf(STDERR_FILENO, CLEAR);
	f->shown = false;
}

/**
 * ring_flow_slice() - how long to wait at once, in ms.
 * @since_ns: when the wait began
 *
 * Return: for the library's calls: -1 for ever; 0: the time is over.
 */
int ring_flow_slice(struct ring_flow *f, int64_t since_ns)
{
	int64_t most = f->progress ? SHOW_EVERY_NS : INT64_MAX, left;

	if (f->timeout_ns) {
		left = since_ns + (int64_t)f->timeout_ns - ring_now_ns();
		if (left <= 0)
			return 0;
		most = left < most ? left : most;
	}
	if (most == INT64_MAX)
		return -1;
	most = (most + 999999) / 1000000;
	return most > INT_MAX ? INT_MAX : (int)most;
}

/** ring_flow_late() - say that --timeout is over. @what: was waited for. Return: RING_TIMEOUT. */
int ring_flow_late(struct ring_flow *f, const char *what)
{
	ring_flow_hide(f);
	cli_say("%s: nothing moved for as long as --timeout allows, %s; see 'kshared ring stat'",
		f->name, what);
	return RING_TIMEOUT;
}
