/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * place.h - where a folder and its daemon's socket are.
 *
 * The socket of folder DIR is RUNDIR/BASE-HASH.sock: RUNDIR is /run/ksharedd for a daemon of root, and ksharedd in
 * $XDG_RUNTIME_DIR (else /tmp/ksharedd-UID) for another user's; BASE is DIR's last component, cut to 32 bytes; HASH
 * is the 64-bit FNV-1a of DIR's absolute path, in 16 hexadecimal digits. So it is found without the mount.
 */
#ifndef KSHARED_BASE_PLACE_H
#define KSHARED_BASE_PLACE_H

#include <stddef.h>
#include <sys/types.h>

#define PLACE_XATTR "user.kshared.socket" /* on a mounted folder's root: the socket's path */

/**
 * place_folder() - the folder meant when none is named.
 * @ret: PATH_MAX bytes: $KSHARED_DIR, else /run/kshared for root, else kshared in $XDG_RUNTIME_DIR or
 *       /tmp/kshared-UID
 */
void place_folder(char *ret);

/**
 * place_rundir() - the directory of the sockets of @uid's daemons.
 * @ret: PATH_MAX bytes
 */
void place_rundir(char *ret, uid_t uid);

/**
 * place_socket() - the socket of folder @dir if @uid runs its daemon.
 * @ret: 108 bytes
 * @dir: made absolute with realpath() as far as it exists
 * Return: 0; -ENAMETOOLONG.
 */
int place_socket(char *ret, const char *dir, uid_t uid);

#endif
