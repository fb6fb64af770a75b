// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kinds.c - a new kind of entry is one line here.
 */
#include <kind/kinds.h>
#include <stddef.h>

const struct kind *const kinds[] = {
	&kind_mem, &kind_srv, &kind_port, &kind_ksm, NULL,
};
