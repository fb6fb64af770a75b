// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * request.c - the parts of a request: names, paths and permission bits.
 *
 * Names are checked here so that a bad one costs no round trip; the daemon checks them again, since
 * it believes nobody. No state; any thread.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include <kshared.h>

#include "lib/conn.h"

/**
 * call_init() - begin a request.
 * @c: uninitialised
 * @op: what is asked for
 */
void call_init(struct call *c, enum ctl_op op)
{
	memset(c, 0, sizeof(*c));
	c->req.op = op;
	c->send_fd = -1;
	c->ret_fd = -1;
}

/* Append "/" @name to the path; each component is a proper name. */
static int append_name(struct call *c, const char *name)
{
	struct ctl_request *req = &c->req;

	for (;;) {
		size_t len = strcspn(name, "/");

		if (len == 0 || (name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.'))))
			return -EINVAL;
		if (len > KSHARED_NAME_MAX || req->path_len + 1 + len > CTL_PATH_MAX)
			return -ENAMETOOLONG;
		if (req->path_len)
			req->path[req->path_len++] = '/';
		memcpy(req->path + req->path_len, name, len);
		req->path_len += len;
		if (!name[len])
			return 0;
		name += len + 1;
	}
}

/**
 * call_set_path() - the entry that a request is about.
 * @c: begun with call_init()
 * @dir: "srv" or "mem" if @name is a name inside it; NULL: @name is a path, "" the folder itself
 * @name: as the caller of the library gave it
 *
 * Return: 0; -EINVAL empty, a component is empty, "." or ".."; -ENAMETOOLONG; -EFAULT NULL.
 */
int call_set_path(struct call *c, const char *dir, const char *name)
{
	if (!name)
		return -EFAULT;
	if (!dir && !*name)
		return 0;
	if (dir) {
		c->req.path_len = strlen(dir);
		memcpy(c->req.path, dir, c->req.path_len);
	}
	return append_name(c, name);
}

/*
 * The process's umask. umask() can only read it by changing it, which other threads would
 * notice; /proc tells it. Where /proc is not mounted, nothing is given to others.
 */
static unsigned int current_umask(void)
{
	cleanup_fd int fd = open("/proc/thread-self/status", O_RDONLY | O_CLOEXEC);
	char buf[512]; /* "Umask:" is the second line, after a name of at most 64 bytes */
	unsigned int mask = 0;
	const char *p;
	ssize_t n;

	if (fd < 0)
		return 077;
	n = read(fd, buf, sizeof(buf) - 1);
	if (n <= 0)
		return 077;
	buf[n] = '\0';
	p = strstr(buf, "\nUmask:\t");
	if (!p)
		return 077;
	for (p += strlen("\nUmask:\t"); *p >= '0' && *p <= '7'; p++)
		mask = mask * 8 + (*p - '0');
	return mask & 0777;
}

/**
 * call_set_mode() - the permission bits of a new entry, less the process's umask.
 * @c: begun with call_init()
 * @mode: as the caller of the library gave it
 *
 * Return: 0; -EINVAL: other bits than permissions.
 */
int call_set_mode(struct call *c, unsigned int mode)
{
	if (mode & ~0777u)
		return -EINVAL;
	c->req.mode = mode & ~current_umask();
	return 0;
}
