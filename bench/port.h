/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * port.h - the two parts of the question of ports.
 */
#ifndef BENCH_PORT_H
#define BENCH_PORT_H

#include <kshared.h>

#define PERIOD_NS 1000000 /* of everything here that looks at something regularly */

/** port_cost() - what does publishing take of a core? Ends and starts the folder's publisher. */
void port_cost(struct kshared *folder);

#endif
