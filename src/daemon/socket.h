/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * socket.h - where clients connect.
 */
#ifndef KSHARED_DAEMON_SOCKET_H
#define KSHARED_DAEMON_SOCKET_H

#include <daemon/config.h>

/**
 * socket_make() - listen at @c->socket, which is chosen here if it is empty. Says what is wrong.
 * Return: the socket, owned by the caller; -EEXIST the folder is served already; -errno.
 */
int socket_make(struct config *c);

#endif
