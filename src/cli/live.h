/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * live.h - for the commands that show something again and again until they are told to end.
 */
#ifndef KSHARED_CLI_LIVE_H
#define KSHARED_CLI_LIVE_H

#include "cli/cli.h"

/**
 * struct live - such a command under way.
 * @look: called at once and then every @every_ns, and when the terminal has changed: take and print. Return: CLI_OK to go on;
 *        else the exit status, after live_leave() and a sentence
 * @arg: for look()
 * @every_ns: how often
 * @screen: on a terminal's alternate screen; set by live_run()
 */
struct live {
	int (*look)(struct live *l, void *arg);
	void *arg;
	uint64_t every_ns;
	bool screen;
};

int live_run(struct live *l, bool may_screen);
void live_leave(struct live *l);
void live_begin(int *ret_rows, int *ret_columns);
void live_line(const char *text, int columns, bool last);
void live_end(void);
void live_rate_text(double rate, char *ret, size_t size);
void live_time_text(char *ret, size_t size);

#endif
