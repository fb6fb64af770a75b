/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * texts.h - for kinds whose entries are read as text that changes: what a handle's reading from offset 0 gave is kept for its later ones.
 * If it is gone then, since the worker was replaced, or its user has many others under way, what is left of it cannot be had any more (ESTALE).
 */
#ifndef KSHARED_KIND_TEXTS_H
#define KSHARED_KIND_TEXTS_H

#include <core/kind.h>

/** texts_read() - go on in the handle's text. @rq: word, offset, len. Return: bytes in rq->out; -ENOENT it is to be made. */
int texts_read(struct request *rq);

/**
 * texts_keep() - this is the handle's text. @text: from malloc(); taken
 * Return: bytes in rq->out; -ESTALE it is read on in another one; -ENOMEM.
 */
int texts_keep(struct request *rq, char *text, size_t len);

/** texts_drop() - a handle is no more. */
void texts_drop(uint64_t word);

#endif
