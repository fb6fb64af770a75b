/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mountpoint.h - putting the folder in its place, and taking it away.
 */
#ifndef KSHARED_DAEMON_MOUNTPOINT_H
#define KSHARED_DAEMON_MOUNTPOINT_H

#include <daemon/config.h>

/**
 * mountpoint_prepare() - make the directory if there is none; @c->dir becomes its real path.
 * A mount there whose daemon is dead is taken away.
 * Return: 0; -errno, having said why.
 */
int mountpoint_prepare(struct config *c);

/**
 * mountpoint_mount() - mount the folder at @c->dir.
 * With mount(2) if we may, else by fusermount3.
 * Return: /dev/fuse, owned by the caller; -errno, having said why.
 */
int mountpoint_mount(const struct config *c);

/** mountpoint_dev() - the device number of what is mounted at @dir, without asking its server. Return: 0 unknown. */
uint64_t mountpoint_dev(const char *dir);

/**
 * mountpoint_unmount() - unmount @dir.
 * @lazy: even if it is in use
 * Return: 0; -EBUSY; -errno.
 */
int mountpoint_unmount(const char *dir, bool lazy);

#endif
