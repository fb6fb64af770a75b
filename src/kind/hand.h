/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * hand.h - for kinds whose entries stand for a server: hand a client, or a question, over to it.
 */
#ifndef KSHARED_KIND_HAND_H
#define KSHARED_KIND_HAND_H

#include <stddef.h>

#define HAND_FDS 3

/**
 * hand_over() - send a message to a server, without waiting.
 * @server: a SEQPACKET socket
 * @fds: @nr of them, HAND_FDS at most; they stay the caller's
 * Return: 0; -EAGAIN there is no room; -ECONNREFUSED it is gone; -errno.
 */
int hand_over(int server, const void *bytes, size_t len, const int *fds, unsigned int nr);

#endif
