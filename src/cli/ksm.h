/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ksm.h - what the verbs of `kshared ksm` have in common.
 */
#ifndef KSHARED_CLI_KSM_H
#define KSHARED_CLI_KSM_H

#include <kshared/ksm.h>

#include "cli/cli.h"
#include "cli/json.h"

#define KSM_NAME "ksm"

/** ksm_cmd_ls() - `ls [--json]`. Return: an exit status. */
int ksm_cmd_ls(const struct cli *cli, int argc, char **argv);

/** ksm_cmd_stat() - `stat NAME [--json]`. Return: an exit status. */
int ksm_cmd_stat(const struct cli *cli, int argc, char **argv);

/** ksm_cmd_merge() - `merge` and `unmerge`. Return: an exit status. */
int ksm_cmd_merge(const struct cli *cli, int argc, char **argv);

extern const struct hint ksm_hints[];

struct ksm_watch;

/**
 * ksm_watch_start() - tell on standard error, if that is a terminal, how far a partition's merge is.
 * @fd: the partition; @what: whose memory
 * Return: NULL: nothing is told.
 */
struct ksm_watch *ksm_watch_start(int fd, const char *what);

/** ksm_watch_end() - it is over; the line is gone. @w: may be NULL */
void ksm_watch_end(struct ksm_watch *w);

#endif
