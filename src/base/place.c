// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * place.c - where a folder and its daemon's socket are.
 *
 * Client and daemon compute the same answer from the folder's path alone, so that the socket is
 * found when the mount is not visible, hangs or is dead: nothing here opens or stats the folder
 * itself, and what cannot be resolved is kept as it was written. The environment is not believed
 * in a set-user-id program. No state; any thread.
 */
#include "base/place.h"

#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

#define SOCKET_PATH_SIZE 108 /* sizeof sun_path */
#define BASE_MAX 32

/* An absolute path from the environment, or NULL: a relative one would mean a place per process. */
static const char *env_path(const char *name)
{
	const char *value = secure_getenv(name);

	return value && value[0] == '/' ? value : NULL;
}

/**
 * place_folder() - the folder meant when none is named.
 * @ret: PATH_MAX bytes: $KSHARED_DIR, else /run/kshared for root, else kshared in $XDG_RUNTIME_DIR
 *       or /tmp/kshared-UID
 *
 * A value of the environment that does not fit is cut, and will not be found.
 */
void place_folder(char *ret)
{
	const char *dir = secure_getenv("KSHARED_DIR");

	if (dir && *dir)
		snprintf(ret, PATH_MAX, "%s", dir);
	else if (geteuid() == 0)
		snprintf(ret, PATH_MAX, "/run/kshared");
	else if ((dir = env_path("XDG_RUNTIME_DIR")))
		snprintf(ret, PATH_MAX, "%s/kshared", dir);
	else
		snprintf(ret, PATH_MAX, "/tmp/kshared-%u", geteuid());
}

/**
 * place_rundir() - the directory of the sockets of @uid's daemons.
 * @ret: PATH_MAX bytes
 * @uid: who runs the daemon; $XDG_RUNTIME_DIR is taken for the caller's own only
 */
void place_rundir(char *ret, uid_t uid)
{
	const char *dir = NULL;

	if (uid == getuid() || uid == geteuid())
		dir = env_path("XDG_RUNTIME_DIR");
	if (uid == 0)
		snprintf(ret, PATH_MAX, "/run/ksharedd");
	else if (dir)
		snprintf(ret, PATH_MAX, "%s/ksharedd", dir);
	else
		snprintf(ret, PATH_MAX, "/tmp/ksharedd-%u", uid);
}

/* Append component @name of @len bytes to the absolute path @path; "." and ".." are worked out. */
static int append(char *path, const char *name, size_t len)
{
	size_t have = strlen(path);

	if (len == 0 || (len == 1 && name[0] == '.'))
		return 0;
	if (len == 2 && name[0] == '.' && name[1] == '.') {
		char *slash = strrchr(path, '/');

		slash[slash == path] = '\0';
		return 0;
	}
	if (have == 1)
		have = 0;
	if (have + 1 + len >= PATH_MAX)
		return -ENAMETOOLONG;
	path[have] = '/';
	memcpy(path + have + 1, name, len);
	path[have + 1 + len] = '\0';
	return 0;
}

/* @ret, PATH_MAX bytes: @dir made absolute; links are followed as far as the path exists. */
static int absolute(char *ret, const char *dir)
{
	char prefix[PATH_MAX];
	const char *rest;
	size_t len;

	*ret = 0;
	if (!*dir)
		dir = ".";
	if (dir[0] != '/') {
		if (!getcwd(prefix, sizeof(prefix)))
			return -errno;
		len = strlen(prefix);
		if (snprintf(prefix + len, sizeof(prefix) - len, "/%s", dir) >=
		    (int)(sizeof(prefix) - len))
			return -ENAMETOOLONG;
	} else if (snprintf(prefix, sizeof(prefix), "%s", dir) >= (int)sizeof(prefix)) {
		return -ENAMETOOLONG;
	}

	/* The longest prefix that resolves; the rest is put back from a copy. */
	cleanup_free char *whole = strdup(prefix);
	if (!whole)
		return -ENOMEM;
	for (;;) {
		for (len = strlen(prefix); len > 1 && prefix[len - 1] == '/';)
			prefix[--len] = '\0';
		if (realpath(prefix, ret))
			break;
		if (len <= 1) {
			strcpy(ret, "/");
			break;
		}
		while (len > 1 && prefix[len - 1] != '/')
			len--;
		prefix[len] = '\0';
	}
	for (rest = whole + len; *rest;) {
		size_t n = strcspn(rest, "/");
		int r = append(ret, rest, n);

		if (r < 0)
			return r;
		rest += n + (rest[n] == '/');
	}
	return 0;
}

/**
 * place_socket() - the socket of folder @dir if @uid runs its daemon.
 * @ret: 108 bytes
 * @dir: made absolute with realpath() as far as it exists
 * @uid: who runs the daemon
 *
 * Return: 0; -ENAMETOOLONG; -ENOMEM; another -errno if @dir is relative and there is no working
 * directory. *@ret is touched on success only.
 */
int place_socket(char *ret, const char *dir, uid_t uid)
{
	char path[PATH_MAX], rundir[PATH_MAX], socket[SOCKET_PATH_SIZE];
	uint64_t hash = 0xcbf29ce484222325u;
	const char *base;
	int r;

	r = absolute(path, dir);
	if (r < 0)
		return r;
	for (const char *p = path; *p; p++)
		hash = (hash ^ (unsigned char)*p) * 0x100000001b3u;
	base = strrchr(path, '/') + 1;
	place_rundir(rundir, uid);
	r = snprintf(socket, sizeof(socket), "%s/%.*s-%016llx.sock", rundir, BASE_MAX, base,
		     (unsigned long long)hash);
	if (r >= (int)sizeof(socket))
		return -ENAMETOOLONG;
	memcpy(ret, socket, sizeof(socket));
	return 0;
}
