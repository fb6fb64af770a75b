/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * kshared/srv.h - posted file descriptors (Plan 9's /srv; srvfs by Enrico Weigelt, metux).
 *
 * A process posts an open descriptor under a name; whoever the entry's mode permits opens it and
 * has the very open file that was posted. The entry lives until it is removed, whatever becomes of its poster.
 * For the conventions (errors, threads, fork, NULL connection) see kshared.h.
 */
#ifndef KSHARED_SRV_H
#define KSHARED_SRV_H

#include <kshared.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * ksrv_post() - post a descriptor.
 * @name: the new entry's name inside srv; boards as "board/name"
 * @fd: the descriptor to post; stays the caller's
 * @mode: permission bits of the entry, less the process's umask
 *
 * Works from any pid namespace, since the descriptor travels by SCM_RIGHTS.
 *
 * Return: 0; -1 with errno: EBADF @fd is not open or is O_PATH, EEXIST the name is taken, ELOOP @fd is a file of the
 * folder itself, EINVAL or ENAMETOOLONG a bad name, EDQUOT the caller's limit, ENOSPC the folder's limit, EACCES,
 * EBUSY closing too many of the caller's descriptors hangs.
 */
int ksrv_post(struct kshared *k, const char *name, int fd, mode_t mode);

/*
 * Flag of ksrv_open(), beside the access mode: a new open file of the same file, with an offset of its own,
 * where the posted one is a file, a memfd, a FIFO or a terminal (ENXIO for what cannot be opened again).
 */
#define KSRV_REOPEN 0x40000000

/**
 * ksrv_open() - open what is posted.
 * @name: as for ksrv_post()
 * @flags: O_RDONLY, O_WRONLY or O_RDWR, a subset of the posted access; and KSRV_REOPEN
 *
 * With the posted access, the result is the posted open file itself: its offset and status flags are shared with every
 * other user of it. With less, it is a new open file of the same file that has only the access asked for.
 *
 * Return: a descriptor; -1 with errno: ENOENT, ENXIO not posted yet, EACCES not permitted by the entry's mode or
 * more than the posted access, EOPNOTSUPP less than the posted access cannot be had of this descriptor (sockets,
 * event descriptors): open the entry through the mount, where it is proxied with the access asked for.
 */
int ksrv_open(struct kshared *k, const char *name, int flags);

/**
 * ksrv_remove() - remove an entry.
 * Descriptors already opened from it stay open.
 * Return: 0; -1 with errno: ENOENT, EACCES, EPERM (sticky directory, not the owner), EISDIR a board.
 */
int ksrv_remove(struct kshared *k, const char *name);

#ifdef __cplusplus
}
#endif

#endif
