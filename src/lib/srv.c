// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * srv.c - posted descriptors, from the client's side.
 *
 * The descriptor travels with the request, so the poster's pid means nothing and any pid namespace
 * will do. See kshared/srv.h for the contract.
 */
#include <fcntl.h>

#include <kshared/srv.h>

#include "lib/conn.h"

/**
 * ksrv_post() - post a descriptor.
 * @k: the connection; NULL: the default one
 * @name: the new entry's name inside srv
 * @fd: the descriptor; stays the caller's
 * @mode: permission bits, less the process's umask
 *
 * Any thread.
 *
 * Return: 0; -1 with errno: EBADF @fd is not open or is O_PATH; EEXIST; ELOOP @fd is a file of
 * the folder itself; EINVAL, ENAMETOOLONG a bad name or mode; EDQUOT, ENOSPC limits; EACCES;
 * EBUSY closing too many of the caller's descriptors hangs; and those of conn_call().
 */
int ksrv_post(struct kshared *k, const char *name, int fd, mode_t mode)
{
	struct call c;
	int flags, r;

	cancel_guard();
	call_init(&c, CTL_POST);
	r = call_set_path(&c, "srv", name);
	if (r == 0)
		r = call_set_mode(&c, mode);
	if (r < 0)
		return api_result(r);
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || (flags & O_PATH))
		return api_result(-EBADF);
	c.send_fd = fd;
	return api_result(conn_call(k, &c));
}

/**
 * ksrv_open() - open what is posted.
 * @k: the connection; NULL: the default one
 * @name: as for ksrv_post()
 * @flags: access mode, KSRV_REOPEN; O_CLOEXEC may be given and is always set
 *
 * Any thread.
 *
 * Return: a descriptor, the caller's; -1 with errno: ENOENT; ENXIO not posted yet; EACCES not
 * permitted, or more than the posted access; EOPNOTSUPP less cannot be had of it; EINVAL,
 * ENAMETOOLONG; and those of conn_call().
 */
int ksrv_open(struct kshared *k, const char *name, int flags)
{
	struct ctl_entry entry;
	struct call c;
	int r;

	cancel_guard();
	if ((flags & ~(O_ACCMODE | O_CLOEXEC | KSRV_REOPEN)) || (flags & O_ACCMODE) == O_ACCMODE)
		return api_result(-EINVAL);
	call_init(&c, CTL_OPEN);
	r = call_set_path(&c, "srv", name);
	if (r < 0)
		return api_result(r);
	c.req.oflags = flags & ~O_CLOEXEC;
	c.want_fd = true;
	c.body = &entry;
	c.body_size = sizeof(entry);
	r = conn_call(k, &c);
	return api_result(r < 0 ? r : c.ret_fd);
}

/**
 * ksrv_remove() - remove an entry of srv.
 * @k: the connection; NULL: the default one
 * @name: as for ksrv_post()
 *
 * Any thread.
 *
 * Return: 0; -1 with errno: ENOENT; EACCES; EPERM sticky directory, not the owner; EISDIR a
 * board; EINVAL, ENAMETOOLONG; and those of conn_call().
 */
int ksrv_remove(struct kshared *k, const char *name)
{
	struct call c;
	int r;

	cancel_guard();
	call_init(&c, CTL_REMOVE);
	r = call_set_path(&c, "srv", name);
	return api_result(r < 0 ? r : conn_call(k, &c));
}
