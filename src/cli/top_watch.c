// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * top_watch.c - while the count runs: a thread that takes the signals and shows the progress.
 *
 * SIGINT and SIGTERM are blocked and read from a signalfd, so nothing has to be done in a signal
 * handler, and no variable is global. The first one has the count end with what is known; with the
 * second one the program dies of it.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/top.h"

#define EVERY_MS 100
#define STACK_BYTES (128u << 10)
#define SAME_MS 200 /* signals so near to each other are one wish */
#define FIRST_MS 300 /* what is done sooner needs no progress */

struct top_watch {
	struct usage *u;
	pthread_t thread;
	sigset_t before;
	struct timespec start;
	int signals;
	int end;
	bool progress;
	bool shown;
};

static double seconds_since(const struct timespec *then)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - then->tv_sec) + (double)(now.tv_nsec - then->tv_nsec) / 1e9;
}

static void hide(struct top_watch *w)
{
	if (w->shown)
		dprintf(STDERR_FILENO, "\r\033[K");
	w->shown = false;
}

static void show(struct top_watch *w)
{
	struct usage_sum sum = usage_progress(w->u);
	double seconds = seconds_since(&w->start);
	struct winsize ws = { 0 };
	char size[16], text[128];
	int columns = 80;

	if (seconds * 1000 < FIRST_MS)
		return;
	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col)
		columns = ws.ws_col;
	top_size_text(sum.disk, size, sizeof(size));
	snprintf(text, sizeof(text), "%llu entries, %s, %.0f entries/s",
		 (unsigned long long)sum.count, size, (double)sum.count / seconds);
	dprintf(STDERR_FILENO, "\r%.*s\033[K", columns - 1, text);
	w->shown = true;
}

/* Die of a signal, as if it had never been taken. */
static void die(struct top_watch *w, int number)
{
	sigset_t set;

	hide(w);
	signal(number, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, number);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	kill(getpid(), number);
}

static void *watch(void *arg)
{
	struct top_watch *w = arg;
	struct pollfd fds[] = {
		{ .fd = w->end, .events = POLLIN },
		{ .fd = w->signals, .events = POLLIN },
	};
	struct signalfd_siginfo info;
	struct timespec stopped;
	bool stop = false;

	for (;;) {
		if (poll(fds, 2, w->progress ? EVERY_MS : -1) < 0)
			break;
		if (fds[0].revents)
			break;
		if (fds[1].revents && read(w->signals, &info, sizeof(info)) == sizeof(info)) {
			/* timeout(1) sends its signal twice, and so may who passes on a terminal's. */
			if (stop && seconds_since(&stopped) * 1000 > SAME_MS)
				die(w, (int)info.ssi_signo);
			if (!stop)
				clock_gettime(CLOCK_MONOTONIC, &stopped);
			stop = true;
			usage_stop(w->u);
		}
		if (w->progress)
			show(w);
	}
	hide(w);
	return NULL;
}

static int start(struct top_watch *w)
{
	pthread_attr_t attr;
	int r;

	/* The usual stack of 8 MiB might be all the address space there is. */
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	r = pthread_create(&w->thread, &attr, watch, w);
	pthread_attr_destroy(&attr);
	return r;
}

struct top_watch *top_watch_start(struct usage *u, bool progress)
{
	struct top_watch *w = calloc(1, sizeof(*w));
	struct sigaction action;
	sigset_t set, all, old;

	if (!w)
		return NULL;
	w->u = u;
	w->progress = progress;
	clock_gettime(CLOCK_MONOTONIC, &w->start);
	sigemptyset(&set);
	/* One that the caller has ignored (nohup, a shell's background) stays so. */
	if (sigaction(SIGINT, NULL, &action) == 0 && action.sa_handler != SIG_IGN)
		sigaddset(&set, SIGINT);
	if (sigaction(SIGTERM, NULL, &action) == 0 && action.sa_handler != SIG_IGN)
		sigaddset(&set, SIGTERM);
	w->end = eventfd(0, EFD_CLOEXEC);
	w->signals = signalfd(-1, &set, SFD_CLOEXEC);
	pthread_sigmask(SIG_BLOCK, &set, &w->before);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	if (w->end >= 0 && w->signals >= 0 && start(w) == 0) {
		pthread_sigmask(SIG_SETMASK, &old, NULL);
		return w;
	}
	pthread_sigmask(SIG_SETMASK, &w->before, NULL);
	if (w->end >= 0)
		close(w->end);
	if (w->signals >= 0)
		close(w->signals);
	free(w);
	return NULL;
}

void top_watch_stop(struct top_watch *w)
{
	uint64_t one = 1;

	if (!w)
		return;
	if (write(w->end, &one, sizeof(one)) == sizeof(one))
		pthread_join(w->thread, NULL);
	pthread_sigmask(SIG_SETMASK, &w->before, NULL);
	close(w->end);
	close(w->signals);
	free(w);
}
