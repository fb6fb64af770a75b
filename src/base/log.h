/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * log.h - what a daemon says: a sentence on standard error, and from the background to the system log.
 * Only daemon/ uses it; everybody else returns an error.
 */
#ifndef KSHARED_BASE_LOG_H
#define KSHARED_BASE_LOG_H

#include <stdbool.h>

/**
 * log_to_background() - from now on to the system log, too.
 * The standard descriptors are given back to whoever waits for their end; standard error stays if it is a file, which
 * is then the log.
 */
void log_to_background(const char *name);

/** log_error() - something failed: the thing, the reason, the next step. */
void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** log_info() - something happened that an operator will want to know. */
void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
