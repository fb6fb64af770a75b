/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kinds.h - the one table of the kinds of entries.
 */
#ifndef KSHARED_KIND_KINDS_H
#define KSHARED_KIND_KINDS_H

#include <core/kind.h>
#include <core/tree.h>

/** kinds - every kind, NULL-terminated; a folder has a directory for each. */
extern const struct kind *const kinds[];

extern const struct kind kind_ksm;
extern const struct kind kind_mem;
extern const struct kind kind_port;
extern const struct kind kind_srv;

/**
 * port_restored() - a worker has begun: tell the publisher of the rules that there are.
 * @rules_kept: the keeper keeps some for it, which may be no more
 */
void port_restored(struct tree *t, bool rules_kept);

/** port_again() - what ports have left to do: tell what the publisher has not been told, forget who has been served. */
void port_again(struct tree *t);
/**
 * ksm_restored() - a worker has begun: tell the merger which partitions there are.
 * @kept: the keeper keeps something for it; else it need not be told
 */
void ksm_restored(struct tree *t, bool kept);

#endif
