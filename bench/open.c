// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * open.c - what does it cost to open and close something in the folder?
 *
 * Beside a file on tmpfs, which is the least that an open by name can cost, and beside other ways of coming by somebody
 * else's descriptor: SCM_RIGHTS by hand on a connection that is kept, the same with a connection for each open, s6-fdholderd
 * (its protocol spoken on a kept connection, so that no process is started), and pidfd_getfd(), which needs to be told the
 * process and the number and asks nobody.
 */
#include <errno.h>
#include <fcntl.h>
#include <kshared.h>
#include <kshared/mem.h>
#include <kshared/srv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

static struct kshared *folder;
static int shared_fd; /* what the peers hand out */

static unsigned long open_path(void *arg, unsigned long n)
{
	for (unsigned long i = 0; i < n; i++)
		close(bench_fd(open(arg, O_RDWR | O_CLOEXEC), arg));
	return n;
}

static unsigned long open_srv(void *arg, unsigned long n)
{
	for (unsigned long i = 0; i < n; i++)
		close(bench_fd(ksrv_open(folder, arg, O_RDWR), arg));
	return n;
}

static unsigned long open_mem(void *arg, unsigned long n)
{
	for (unsigned long i = 0; i < n; i++)
		close(bench_fd(kmem_open(folder, arg, O_RDWR), arg));
	return n;
}

/* ---- peers ---- */

static void serve_kept(void *arg)
{
	char byte;

	while (recv(*(int *)arg, &byte, 1, 0) == 1 && bench_send_fd(*(int *)arg, shared_fd))
		;
}

static unsigned long ask_kept(void *arg, unsigned long n)
{
	int sock = *(int *)arg;

	for (unsigned long i = 0; i < n; i++) {
		if (send(sock, "", 1, MSG_NOSIGNAL) != 1)
			bench_die("send");
		close(bench_receive_fd(sock));
	}
	return n;
}

static void serve_connections(void *arg)
{
	for (;;) {
		int fd = accept4(*(int *)arg, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			return;
		bench_send_fd(fd, shared_fd);
		close(fd);
	}
}

static int listen_at(struct sockaddr_un *addr, const char *name, int type)
{
	char *path = bench_path(bench.tmpfs, name);
	int fd = bench_fd(socket(AF_UNIX, type | SOCK_CLOEXEC, 0), "socket");

	*addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(addr->sun_path))
		bench_die("%s is too long for a socket", path);
	strcpy(addr->sun_path, path);
	unlink(path);
	bench_zero(bind(fd, (struct sockaddr *)addr, sizeof(*addr)), path);
	bench_zero(listen(fd, 64), path);
	return fd;
}

static int connect_to(const struct sockaddr_un *addr, int type)
{
	int fd = bench_fd(socket(AF_UNIX, type | SOCK_CLOEXEC, 0), "socket");

	bench_zero(connect(fd, (const struct sockaddr *)addr, sizeof(*addr)), "connect");
	return fd;
}

static unsigned long ask_connecting(void *arg, unsigned long n)
{
	for (unsigned long i = 0; i < n; i++) {
		int sock = connect_to(arg, SOCK_SEQPACKET);

		close(bench_receive_fd(sock));
		close(sock);
	}
	return n;
}

static void do_nothing(void *arg)
{
	for (;;)
		pause();
}

static unsigned long get_fd(void *arg, unsigned long n)
{
	for (unsigned long i = 0; i < n; i++)
		close(bench_fd((int)syscall(SYS_pidfd_getfd, *(int *)arg, shared_fd, 0),
			       "pidfd_getfd"));
	return n;
}

/* ---- s6-fdholderd ---- */

/* Anybody may store and retrieve anything. */
static void s6_rules(const char *dir)
{
	static const char *const dirs[] = { "", "uid", "uid/default", "uid/default/env" };
	static const char *const files[][2] = {
		{ "uid/default/allow", "" },
		{ "uid/default/env/S6_FDHOLDER_STORE_REGEX", ".*" },
		{ "uid/default/env/S6_FDHOLDER_RETRIEVE_REGEX", ".*" },
	};

	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++)
		if (mkdir(bench_path(dir, dirs[i]), 0755) < 0 && errno != EEXIST)
			bench_die("%s", dir);
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		FILE *file = fopen(bench_path(dir, files[i][0]), "w");

		if (!file || fputs(files[i][1], file) < 0 || fclose(file) != 0)
			bench_die("%s/%s", dir, files[i][0]);
	}
}

static void s6_serve(void *arg)
{
	int *listening = arg, null = open("/dev/null", O_RDWR);

	dup2(*listening, 0); /* it takes its socket as standard input */
	fcntl(0, F_SETFL, O_NONBLOCK);
	dup2(null, 1);
	execlp("s6-fdholderd", "s6-fdholderd", "-i", bench_path(bench.tmpfs, "s6-rules"), NULL);
}

static void s6_store(const char *socket, int fd)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		dup2(fd, 0);
		execlp("s6-fdholder-store", "s6-fdholder-store", socket, "bench", NULL);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
		bench_die("s6-fdholder-store");
}

/* Length of what follows and number of descriptors, both big-endian; retrieve, keep it, length of the name, name. */
static unsigned long s6_ask(void *arg, unsigned long n)
{
	static const char request[] = { 0, 0, 0, 9, 0, 0, 'R', 0, 5, 'b', 'e', 'n', 'c', 'h', 0 };
	int sock = *(int *)arg;

	for (unsigned long i = 0; i < n; i++) {
		if (send(sock, request, sizeof(request), MSG_NOSIGNAL) != sizeof(request))
			bench_die("send to s6-fdholderd");
		close(bench_receive_fd(sock));
	}
	return n;
}

/* Return: a connection; -1: it is not installed. */
static int s6_start(void)
{
	static int listening;
	struct sockaddr_un addr;

	if (system("command -v s6-fdholderd >/dev/null && command -v s6-fdholder-store >/dev/null") !=
	    0) {
		bench_note("s6-fdholderd is not installed; it was left out");
		return -1;
	}
	s6_rules(bench_path(bench.tmpfs, "s6-rules"));
	listening = listen_at(&addr, "s6", SOCK_STREAM);
	bench_peer(s6_serve, &listening);
	s6_store(addr.sun_path, shared_fd);
	return connect_to(&addr, SOCK_STREAM);
}

int main(int argc, char **argv)
{
	static struct sockaddr_un addr;
	static int kept[2], pair[2], listening, s6, pidfd;
	struct lane lanes[16];
	size_t nr = 0;
	char *native, *dir;
	int file, object;

	bench_init(argc, argv);
	dir = bench.folders[0];
	folder = kshared_connect(dir);
	if (!folder)
		bench_die("%s", dir);

	/* A directory and a name, as in the folder. */
	mkdir(bench_path(bench.tmpfs, "mem"), 0755);
	native = bench_path(bench.tmpfs, "mem/open-mem");
	file = bench_fd(open(native, O_RDWR | O_CREAT | O_CLOEXEC, 0600), native);
	bench_zero(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), "socketpair");
	object = bench_fd(memfd_create("bench", MFD_CLOEXEC), "memfd_create");
	shared_fd = pair[0];
	ksrv_remove(folder, "open-sock");
	ksrv_remove(folder, "open-memfd");
	ksrv_remove(folder, "open-file");
	kmem_remove(folder, "open-mem");
	bench_zero(ksrv_post(folder, "open-sock", pair[0], 0600), "ksrv_post");
	bench_zero(ksrv_post(folder, "open-memfd", object, 0600), "ksrv_post");
	bench_zero(ksrv_post(folder, "open-file", file, 0600), "ksrv_post");
	close(bench_fd(kmem_create(folder, "open-mem", 4096, 0600, 0), "kmem_create"));

	bench_zero(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, kept), "socketpair");
	bench_peer(serve_kept, &kept[1]);
	listening = listen_at(&addr, "listen", SOCK_SEQPACKET);
	bench_peer(serve_connections, &listening);
	pidfd = bench_fd((int)syscall(SYS_pidfd_open, bench_peer(do_nothing, NULL), 0),
			 "pidfd_open");
	s6 = s6_start();

	lanes[nr++] = (struct lane){ "tmpfs", open_path, native };
	lanes[nr++] = (struct lane){ "library, posted socket", open_srv, (char[]){ "open-sock" } };
	lanes[nr++] = (struct lane){ "library, posted memfd", open_srv, (char[]){ "open-memfd" } };
	lanes[nr++] = (struct lane){ "library, memory object", open_mem, (char[]){ "open-mem" } };
	lanes[nr++] =
		(struct lane){ "mount, memory object", open_path, bench_path(dir, "mem/open-mem") };
	lanes[nr++] =
		(struct lane){ "mount, posted file", open_path, bench_path(dir, "srv/open-file") };
	lanes[nr++] = (struct lane){ "mount, posted socket", open_path,
				     bench_path(dir, "srv/open-sock") };
	lanes[nr++] = (struct lane){ "peer: pidfd_getfd", get_fd, &pidfd };
	lanes[nr++] = (struct lane){ "peer: SCM_RIGHTS, connection kept", ask_kept, &kept[0] };
	lanes[nr++] = (struct lane){ "peer: SCM_RIGHTS, connect each time", ask_connecting, &addr };
	if (s6 >= 0)
		lanes[nr++] = (struct lane){ "peer: s6-fdholderd, connection kept", s6_ask, &s6 };
	bench_group("open and close", lanes, nr);

	ksrv_remove(folder, "open-sock");
	ksrv_remove(folder, "open-memfd");
	ksrv_remove(folder, "open-file");
	kmem_remove(folder, "open-mem");
	kshared_disconnect(folder);
	return 0;
}
