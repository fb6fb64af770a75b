/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * take.h - take a copy of a descriptor out of the process that names it.
 */
#ifndef KSHARED_ENGINE_TAKE_H
#define KSHARED_ENGINE_TAKE_H

#include <base/proc.h>

/**
 * take_fd_of() - copy descriptor @fd of thread @tid, which is waiting for us and runs as @uid and @gid.
 *
 * A thread's number may have been given to another since the request was made (its maker may have been killed). So a pidfd is
 * had first, then the identity is read, then the pidfd is asked whether it is still alive: then all three were
 * of one thread. The thread must have just the filesystem ids that the request came with, and unless they are root's
 * it must be one that its user could trace: all its ids the same, no capabilities in any namespace, dumpable; else a
 * set-user-ID program whose output was pointed at an entry would post for its caller.
 *
 * @ret_info: who it was
 * @ret_fd: the copy, owned by the caller, or -1; one may come with an error, too, and closing it may wait
 * Return: 0; -ESRCH it has gone or is another; -EBADF it has no such descriptor;
 * -EPERM it is privileged beyond @uid, or may not be looked into; -ENOSYS the kernel lacks pidfd_getfd().
 */
int take_fd_of(pid_t tid, uid_t uid, gid_t gid, int fd, struct proc_info *ret_info, int *ret_fd);

#endif
