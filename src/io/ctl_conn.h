/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl_conn.h - inside of the control socket: shared by ctl.c (requests) and ctl_conn.c (connections).
 */
#ifndef KSHARED_IO_CTL_CONN_H
#define KSHARED_IO_CTL_CONN_H

#include <io/ctl.h>

#define CTL_CONNS_UID_MAX 512
#define CTL_CONNS_KEPT 32 /* beyond them, for those who can end the folder */

struct ctl_conn;

struct ctl {
	struct ctl_conf conf;
	sd_event_source *source;
	sd_event_source *pause;
	struct ctl_conn *conns;
	unsigned int nr_conns;
	struct ctl_answer *answer;
	bool sees_all_ids;
};

#endif
