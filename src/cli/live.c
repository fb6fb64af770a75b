// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * live.c - show something again and again: the loop, the terminal and the signals of `watch` commands.
 *
 * On a terminal: on its alternate screen, which goes away with us, however we are ended but by SIGKILL. Signals are read from a signalfd,
 * so that nothing happens in the middle of anything. A terminal without automatic margins cuts what is too wide.
 */
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>

#include "cli/live.h"

#define ENTER "\033[?1049h\033[?25l"
#define LEAVE "\033[?25h\033[?1049l"

static void enter(struct live *l)
{
	l->screen = true;
	fputs(ENTER, stdout);
	fflush(stdout);
}

/** live_leave() - give the screen back. A sentence has to come after this: with the screen it would be gone. */
void live_leave(struct live *l)
{
	if (l->screen)
		fputs(LEAVE, stdout);
	fflush(stdout);
	l->screen = false;
}

/** live_begin() - begin to print a screen. @ret_rows, @ret_columns: how large it is */
void live_begin(int *ret_rows, int *ret_columns)
{
	struct winsize ws = { 0 };

	*ret_rows = 24;
	*ret_columns = 80;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_row && ws.ws_col) {
		*ret_rows = ws.ws_row;
		*ret_columns = ws.ws_col;
	}
	fputs("\033[H\033[?7l", stdout);
}

/** live_line() - print a line of a screen. @text: escaped; @last: nothing follows below it */
void live_line(const char *text, int columns, bool last)
{
	printf("%.*s\033[K%s", columns > 1 ? columns - 1 : 1, text, last ? "" : "\n");
}

/** live_end() - the screen is printed. */
void live_end(void)
{
	fputs("\033[J\033[?7h", stdout);
	fflush(stdout);
}

/** live_rate_text() - a number in a second, with a unit of powers of 1000. */
void live_rate_text(double rate, char *ret, size_t size)
{
	static const char units[] = " kMGTPE";
	size_t unit = 0;

	while (fabs(rate) >= 9999.5 && units[unit + 1]) {
		rate /= 1000;
		unit++;
	}
	snprintf(ret, size, "%.*f%.*s/s", fabs(rate) < 100 ? 1 : 0, rate, unit != 0, units + unit);
}

/** live_time_text() - now, to the millisecond. */
void live_time_text(char *ret, size_t size)
{
	struct timespec ts;
	struct tm tm;
	char text[64] = "";

	clock_gettime(CLOCK_REALTIME, &ts);
	if (localtime_r(&ts.tv_sec, &tm))
		strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(ret, size, "%s.%03ld", text, ts.tv_nsec / 1000000);
}

/* Ctrl-Z: the screen is given back while we are stopped. */
static void stop(struct live *l)
{
	bool screen = l->screen;
	sigset_t set, old;

	live_leave(l);
	sigemptyset(&set);
	sigaddset(&set, SIGTSTP);
	raise(SIGTSTP);
	sigprocmask(SIG_UNBLOCK, &set, &old); /* here we stop, and go on */
	sigprocmask(SIG_SETMASK, &old, NULL);
	if (screen)
		enter(l);
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

static int look(struct live *l)
{
	int r = l->look(l, l->arg);

	if (r == CLI_OK && (fflush(stdout) != 0 || ferror(stdout)))
		r = cli_finish(CLI_FAILED);
	return r;
}

static int loop(struct live *l)
{
	struct itimerspec every = {
		.it_value.tv_nsec = 1, /* at once */
		.it_interval = { .tv_sec = (time_t)(l->every_ns / 1000000000),
				 .tv_nsec = (long)(l->every_ns % 1000000000) },
	};
	struct signalfd_siginfo info;
	uint64_t expired;
	int status = CLI_OK;

	cleanup_fd int sigs = take_signals();
	cleanup_fd int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	struct pollfd fds[] = { { .fd = sigs, .events = POLLIN },
				{ .fd = timer, .events = POLLIN } };
	if (sigs < 0 || timer < 0 || timerfd_settime(timer, 0, &every, NULL) < 0)
		return cli_refuse("watch", errno, NULL);
	if (l->screen)
		enter(l);
	while (status == CLI_OK) {
		poll(fds, 2, -1);
		if (read(sigs, &info, sizeof(info)) == sizeof(info)) {
			if (info.ssi_signo == SIGTSTP)
				stop(l);
			else if (info.ssi_signo != SIGWINCH)
				break;
			if (l->screen)
				status = look(l);
		}
		if (read(timer, &expired, sizeof(expired)) == sizeof(expired))
			status = look(l);
	}
	live_leave(l);
	return status;
}

/**
 * live_run() - look until told to end by a signal, or by look().
 * @may_screen: use the whole screen if standard output is a terminal
 *
 * Return: an exit status.
 */
int live_run(struct live *l, bool may_screen)
{
	const char *term = getenv("TERM");
	int r;

	l->screen = may_screen && isatty(STDOUT_FILENO) && term && *term &&
		strcmp(term, "dumb") != 0;
	r = loop(l);
	return r == CLI_OK ? cli_finish(r) : r;
}
