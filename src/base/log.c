// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * log.c - standard error; in the background the system log, too, since an operator may read either.
 */
#include <base/log.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

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

void log_to_background(const char *name)
{
	struct stat st;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	/* At once: later there may be a filter that allows no socket. */
	openlog(name, LOG_PID | LOG_NDELAY, LOG_DAEMON);
	use_syslog = true;
	if (null < 0)
		return;
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	if (fstat(STDERR_FILENO, &st) < 0 || !S_ISREG(st.st_mode))
		dup2(null, STDERR_FILENO);
	close(null);
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
