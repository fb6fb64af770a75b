// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * main.c - ksharedd: keeper or worker, in the foreground or not.
 *
 * In the background: the first process waits until the folder is served, or its child has said why it cannot be, and only
 * then exits, so that whoever started it can go on at once.
 */
#include <base/log.h>
#include <daemon/config.h>
#include <daemon/keeper.h>
#include <daemon/merger.h>
#include <daemon/publisher.h>
#include <daemon/spawn.h>
#include <daemon/worker.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int ready_pipe = -1;

static void ready(void)
{
	log_to_background("ksharedd");
	if (write(ready_pipe, "", 1) != 1)
		log_info("whoever started this has gone");
	close(ready_pipe);
}

static int background(struct config *c, char **argv)
{
	int pipefd[2];
	char byte;
	pid_t pid;

	if (pipe2(pipefd, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
		log_error("cannot start: %s", strerror(errno));
		return EXIT_FAILURE;
	}
	if (pid > 0) {
		close(pipefd[1]);
		return read(pipefd[0], &byte, 1) == 1 ? EXIT_SUCCESS : EXIT_FAILURE;
	}
	ready_pipe = fcntl(pipefd[1], F_DUPFD_CLOEXEC, SPAWN_FDS);
	close(pipefd[0]);
	close(pipefd[1]);
	setsid();
	if (chdir("/") < 0)
		return EXIT_FAILURE;
	return keeper_run(c, argv, ready);
}

int main(int argc, char **argv)
{
	struct config c;
	char cwd[PATH_MAX];
	int r;

	for (int fd = 0; fd < 3; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
			return EXIT_FAILURE;
	r = config_parse(&c, argc, argv);
	if (r != 0)
		return r < 0 ? 2 : EXIT_SUCCESS;
	if (c.worker)
		return worker_run(&c);
	if (c.publisher)
		return publish_run(&c);
	if (c.merger)
		return merger_run(&c);
	/* What a shell had open besides is not for a daemon. */
	syscall(SYS_close_range, 3, UINT_MAX, 0);
	/* A relative folder means one below where we were started. */
	if (c.dir[0] != '/') {
		char dir[PATH_MAX];

		if (!getcwd(cwd, sizeof(cwd)) || strlen(cwd) + strlen(c.dir) + 2 > sizeof(dir)) {
			log_error("%s: %s", c.dir, strerror(errno ? errno : ENAMETOOLONG));
			return EXIT_FAILURE;
		}
		strcpy(dir, cwd);
		strcat(dir, "/");
		strcat(dir, c.dir);
		strcpy(c.dir, dir);
	}
	return c.foreground ? keeper_run(&c, argv, NULL) : background(&c, argv);
}
