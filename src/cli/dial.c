// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * dial.c - connect to a server whose socket is then posted.
 *
 * Both functions say on stderr what went wrong and return -1.
 */
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "cli/cli.h"

/**
 * cli_dial_unix() - connect to a Unix socket of whatever type.
 * @path: its path
 *
 * Return: a descriptor; -1 after a sentence.
 */
int cli_dial_unix(const char *path)
{
	static const struct hint hints[] = {
		{ ECONNREFUSED, "nobody listens on this socket", "start its server first" },
		{ ENOENT, "there is no such socket", "look at the path" },
		{ EACCES, "permission denied", "ask its owner" },
		{ 0 },
	};
	static const int types[] = { SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM };
	struct sockaddr_un sa = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(sa.sun_path)) {
		cli_say("%s: the path is too long for a socket; use one of at most %zu bytes", path,
			sizeof(sa.sun_path) - 1);
		return -1;
	}
	strcpy(sa.sun_path, path);
	errno = EPROTOTYPE;
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]) && errno == EPROTOTYPE; i++) {
		cleanup_fd int fd = socket(AF_UNIX, types[i] | SOCK_CLOEXEC, 0);

		if (fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0)
			return take_fd(&fd);
	}
	cli_refuse(path, errno, hints);
	return -1;
}

/* HOST:PORT or [ADDRESS]:PORT cut in two; @host is a copy to be cut up. */
static int split(char *host, char **ret_host, char **ret_port)
{
	char *colon = strrchr(host, ':');
	size_t len;

	if (!colon || colon == host || !colon[1])
		return -EINVAL;
	*colon = '\0';
	len = strlen(host);
	if (host[0] == '[') {
		if (len < 3 || host[len - 1] != ']')
			return -EINVAL;
		host[len - 1] = '\0';
		host++;
	} else if (strchr(host, ':')) {
		return -EINVAL;
	}
	*ret_host = host;
	*ret_port = colon + 1;
	return 0;
}

/**
 * cli_dial_tcp() - connect to a TCP server.
 * @address: HOST:PORT, or [ADDRESS]:PORT
 *
 * Return: a descriptor; -1 after a sentence.
 */
int cli_dial_tcp(const char *address)
{
	static const struct hint hints[] = {
		{ ECONNREFUSED, "nobody listens there", "start the server first" },
		{ ETIMEDOUT, "no answer", "look at the address and the firewall" },
		{ 0 },
	};
	struct addrinfo want = { .ai_socktype = SOCK_STREAM }, *found = NULL;
	cleanup_free char *copy = strdup(address);
	char *host, *port;
	int err = 0, r;

	if (!copy) {
		cli_refuse(address, ENOMEM, NULL);
		return -1;
	}
	if (split(copy, &host, &port) < 0) {
		cli_say("%s: this is no address; write HOST:PORT or [ADDRESS]:PORT", address);
		return -1;
	}
	r = getaddrinfo(host, port, &want, &found);
	if (r != 0) {
		cli_say("%s: %s; look at the name and the port", address, gai_strerror(r));
		return -1;
	}
	for (struct addrinfo *a = found; a; a = a->ai_next) {
		cleanup_fd int fd =
			socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);

		if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) == 0) {
			freeaddrinfo(found);
			return take_fd(&fd);
		}
		err = errno;
	}
	freeaddrinfo(found);
	cli_refuse(address, err, hints);
	return -1;
}
