/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ksm.h - inside libkshared: what ksm.c (partitions, calls) and ksm_own.c (the process's own memory) share.
 */
#ifndef KSHARED_LIB_KSM_H
#define KSHARED_LIB_KSM_H

#include "wire/ksm.h"

#define OWN_FDS 2

/** own_lock() - from here on this thread's is the only conversation; before it is asked for. */
void own_lock(void);

/** own_unlock() - it is over. */
void own_unlock(void);

/**
 * own_serve() - do the merger's bidding until it has the last word. With own_lock().
 * @fds: what came with its first message: its socket, and perhaps /dev/userfaultfd; taken
 * Return: 0 and *@ret; -ECONNRESET it has gone.
 */
int own_serve(int fds[OWN_FDS], struct ksm_answer *ret);

#endif
