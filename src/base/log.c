// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * log.c - standard error until log_to_syslog(), then both, since a supervisor may read either.
 */
#include <base/log.h>
#include <stdarg.h>
#include <stdio.h>
#include <syslog.h>

static bool use_syslog;

static void say(int priority, const char *format, va_list args)
{
	va_list again;

	va_copy(again, args);
	if (use_syslog)
		vsyslog(priority, format, again);
	va_end(again);
	fputs("ksharedd: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
}

void log_to_syslog(const char *name)
{
	openlog(name, LOG_PID, LOG_DAEMON);
	use_syslog = true;
}

void log_error(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(LOG_ERR, format, args);
	va_end(args);
}

void log_info(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(LOG_INFO, format, args);
	va_end(args);
}
