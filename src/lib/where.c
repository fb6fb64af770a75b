// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * where.c - from what the caller named to the path of a socket.
 *
 * A place is captured once, as an absolute path, so that neither chdir() nor a change of the
 * environment moves a connection; it is resolved at each first connect of a process.
 *
 * A socket that the caller did not name itself is believed only as far as its directory can be:
 * that one must not be writable by others than its owner, and who answers must be this owner or
 * root (conn.c asks). So nobody can stand in for a daemon by making a directory in /tmp first.
 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "base/place.h"
#include "lib/conn.h"

/**
 * where_capture() - what the caller named, as an absolute path.
 * @ret: the path, to be freed
 * @ret_own: nobody named it: the process's own default folder, where none but this user or root
 *         serves
 * @where: a folder or a socket; NULL: the default
 *
 * Return: 0; -ENOENT an empty path; -ENAMETOOLONG; -ENOMEM; -errno of getcwd().
 */
int where_capture(char **ret, bool *ret_own, const char *where)
{
	char folder[PATH_MAX], cwd[PATH_MAX];
	bool own = false;

	if (!where) {
		where = secure_getenv("KSHARED_SOCKET");
		if (!where || !*where) {
			const char *dir = secure_getenv("KSHARED_DIR");

			own = !dir || !*dir;
			place_folder(folder);
			where = folder;
		}
	}
	if (!*where)
		return -ENOENT;
	if (strlen(where) >= PATH_MAX)
		return -ENAMETOOLONG;
	if (where[0] == '/') {
		*ret = strdup(where);
		if (!*ret)
			return -ENOMEM;
	} else {
		if (!getcwd(cwd, sizeof(cwd)))
			return -errno;
		if (asprintf(ret, "%s/%s", cwd, where) < 0)
			return -ENOMEM;
	}
	*ret_own = own;
	return 0;
}

/* May a socket that we found at @w->socket be believed? Fills in the owner of its directory. */
static int check_dir(struct where *w, bool own)
{
	char dir[sizeof(w->socket)];
	struct stat st;

	memcpy(dir, w->socket, sizeof(dir));
	*strrchr(dir, '/') = '\0';
	if (stat(*dir ? dir : "/", &st) < 0)
		return -errno;
	if (st.st_mode & (S_IWGRP | S_IWOTH))
		return -EACCES;
	if (own && st.st_uid != 0 && st.st_uid != getuid() && st.st_uid != geteuid())
		return -EACCES;
	w->owner = st.st_uid;
	w->derived = true;
	return 0;
}

static bool is_socket(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

/**
 * where_resolve() - the socket to connect to.
 * @ret: written on success only
 * @where: from where_capture(): a socket, or a folder, which need not be visible or even exist
 * @own: from where_capture()
 *
 * A mounted folder knows its socket. Else it is looked for where a daemon of root, then one of this
 * user, would have it.
 *
 * Return: 0; -ENOENT no such folder or socket; -ENOTDIR neither folder nor socket; -EACCES the
 * socket's directory is not safe; -ENAMETOOLONG; -ENOMEM.
 */
int where_resolve(struct where *ret, const char *where, bool own)
{
	struct where w = { .socket = "" };
	struct stat st;
	ssize_t n;
	int r;

	if (stat(where, &st) == 0) {
		if (S_ISSOCK(st.st_mode)) {
			if (strlen(where) >= sizeof(w.socket))
				return -ENAMETOOLONG;
			strcpy(w.socket, where);
			*ret = w;
			return 0;
		}
		if (!S_ISDIR(st.st_mode))
			return -ENOTDIR;
	}

	n = getxattr(where, PLACE_XATTR, w.socket, sizeof(w.socket) - 1);
	if (n > 0 && w.socket[0] == '/') {
		w.socket[n] = '\0';
	} else {
		r = place_socket(w.socket, where, 0);
		if (r < 0)
			return r;
		if (!is_socket(w.socket)) {
			r = place_socket(w.socket, where, getuid());
			if (r < 0)
				return r;
			own = true;
		}
	}
	r = check_dir(&w, own);
	if (r < 0)
		return r;
	*ret = w;
	return 0;
}
