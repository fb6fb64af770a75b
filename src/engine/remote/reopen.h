/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * reopen.h - a new open file of what a descriptor of ours refers to.
 */
#ifndef KSHARED_ENGINE_REOPEN_H
#define KSHARED_ENGINE_REOPEN_H

/**
 * reopen_fd() - open /proc/self/fd/@fd again.
 * @proc: /proc/self/fd, opened with O_PATH, which saves half of the path's walk
 * @oflags: access mode, and O_APPEND if it shall append
 *
 * A FIFO or a terminal would wait for its other end; so the opening does not, and the flag is taken back
 * afterwards: the new open file is nobody else's yet.
 *
 * Return: a descriptor, owned by the caller; -errno.
 */
int reopen_fd(int proc, int fd, int oflags);

#endif
