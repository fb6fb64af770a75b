// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ksm_watch.c - how far a merge is, on a terminal: a thread asks the partition now and then, while the call that merges waits.
 */
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "cli/ksm.h"
#include "cli/top.h"

#define FIRST_MS 500
#define EVERY_MS 200

struct ksm_watch {
	pthread_t thread;
	int fd;
	int end;
	uint64_t before;
	const char *what;
	bool shown;
};

static void show(struct ksm_watch *w)
{
	struct ksm_stats s;
	char size[16];

	if (ksm_get_stats(w->fd, &s) < 0 || s.pages_scanned < w->before)
		return;
	top_size_text((s.pages_scanned - w->before) * 4096, size, sizeof(size));
	dprintf(STDERR_FILENO, "\r%s: %s looked at\033[K", w->what, size);
	w->shown = true;
}

static void *watch(void *arg)
{
	struct ksm_watch *w = arg;
	struct pollfd end = { .fd = w->end, .events = POLLIN };
	int timeout_ms = FIRST_MS;

	while (poll(&end, 1, timeout_ms) == 0) {
		show(w);
		timeout_ms = EVERY_MS;
	}
	return NULL;
}

struct ksm_watch *ksm_watch_start(int fd, const char *what)
{
	struct ksm_watch *w = isatty(STDERR_FILENO) ? calloc(1, sizeof(*w)) : NULL;
	struct ksm_stats s;

	if (!w)
		return NULL;
	w->fd = fd;
	w->what = what;
	w->end = eventfd(0, EFD_CLOEXEC);
	if (w->end >= 0 && ksm_get_stats(fd, &s) == 0) {
		w->before = s.pages_scanned;
		if (pthread_create(&w->thread, NULL, watch, w) == 0)
			return w;
	}
	cleanup_close_p(&w->end);
	free(w);
	return NULL;
}

void ksm_watch_end(struct ksm_watch *w)
{
	if (!w)
		return;
	eventfd_write(w->end, 1);
	pthread_join(w->thread, NULL);
	if (w->shown)
		dprintf(STDERR_FILENO, "\r\033[K");
	close(w->end);
	free(w);
}
