// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * recovery.c - the worker is killed: how long until somebody is answered again, and what do they see?
 *
 * The worker gets SIGKILL and a call is made at once; the time from the kill to its good answer is what a
 * caller waits. Three callers: one of the library, one that opens through the mount, and one that has been waiting in
 * read() of a proxied socket since before the kill. None may see an error. A fourth reads a memory object through
 * the mount while there is no worker at all: it may notice nothing. The folders are those of entries.c.
 *
 * Beside it: running ksharedd from its start to its end without anything to do, which a restart cannot undercut.
 */
#include <fcntl.h>
#include <kshared.h>
#include <kshared/mem.h>
#include <kshared/srv.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

#define READS 100
#define MESSAGE "still here"

struct place {
	struct kshared *k;
	const char *dir;
	unsigned int nr;
	int sock[2];
};

/* Between us and the process that waits in read(). */
struct waiter {
	_Atomic int waiting;
	_Atomic int64_t answered_ns;
	char what[sizeof(MESSAGE)];
	int fd;
};

static struct waiter *waiter;

/* What is shown of one kill: the worker, and whether it was it that died. */
struct kill {
	struct place *p;
	uint64_t restarts;
	int64_t at_ns;
};

static struct kshared_status status_of(struct place *p)
{
	struct kshared_status s;

	bench_zero(kshared_get_status(p->k, &s), "kshared_get_status");
	return s;
}

static struct kill kill_worker(struct place *p, bool wait)
{
	struct kshared_status s = status_of(p);
	struct kill kill = { .p = p, .restarts = s.restarts };
	int pidfd = bench_fd((int)syscall(SYS_pidfd_open, s.worker_pid, 0), "pidfd_open");
	struct pollfd pfd = { .fd = pidfd, .events = POLLIN };

	kill.at_ns = bench_now_ns();
	bench_zero((int)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0),
		   "killing the worker");
	if (wait && poll(&pfd, 1, -1) != 1)
		bench_die("poll");
	close(pidfd);
	return kill;
}

/* Another worker is there; it has come to rest before the next one is killed. */
static void check(const struct kill *kill)
{
	struct timespec pause = { .tv_nsec = 5000000 };

	if (status_of(kill->p).restarts != kill->restarts + 1)
		bench_die("the worker was not replaced exactly once");
	nanosleep(&pause, NULL);
}

static int64_t by_library(struct place *p)
{
	struct kill kill = kill_worker(p, false);
	int fd = bench_fd(kmem_open(p->k, "e0", O_RDWR), "kmem_open");
	int64_t end = bench_now_ns();

	close(fd);
	check(&kill);
	return end - kill.at_ns;
}

static int64_t by_mount(struct place *p)
{
	char *path = bench_path(p->dir, "mem/e0");
	struct kill kill = kill_worker(p, false);
	int fd = bench_fd(open(path, O_RDWR | O_CLOEXEC), path);
	int64_t end = bench_now_ns();

	close(fd);
	free(path);
	check(&kill);
	return end - kill.at_ns;
}

static void wait_in_read(void *arg)
{
	atomic_store(&waiter->waiting, 1);
	if (read(waiter->fd, waiter->what, sizeof(waiter->what)) != sizeof(MESSAGE))
		_exit(1);
	atomic_store(&waiter->answered_ns, bench_now_ns());
}

/* Is the process asleep in a system call? */
static bool asleep(pid_t pid)
{
	char path[64], text[512] = "";
	char *at;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	file = fopen(path, "r");
	if (!file || !fgets(text, sizeof(text), file))
		bench_die("%s", path);
	fclose(file);
	at = strrchr(text, ')');
	return at && at[2] == 'S';
}

static int64_t by_waiting(struct place *p)
{
	char *path = bench_path(p->dir, "srv/waiting");
	struct kill kill;
	pid_t pid;

	waiter->fd = bench_fd(open(path, O_RDWR | O_CLOEXEC), path);
	waiter->waiting = 0;
	pid = bench_peer(wait_in_read, NULL);
	while (!atomic_load(&waiter->waiting) || !asleep(pid))
		sched_yield();
	kill = kill_worker(p, false);
	if (write(p->sock[1], MESSAGE, sizeof(MESSAGE)) != sizeof(MESSAGE))
		bench_die("write");
	if (!bench_join(pid) || strcmp(waiter->what, MESSAGE) != 0)
		bench_die("the process that waited in read() did not get its data");
	close(waiter->fd);
	free(path);
	check(&kill);
	return waiter->answered_ns - kill.at_ns;
}

/* Mean time of a read; ends the program at an error. */
static double reads(int fd)
{
	int64_t start = bench_now_ns();
	char buf[4096];

	for (int i = 0; i < READS; i++)
		if (pread(fd, buf, sizeof(buf), 0) != sizeof(buf))
			bench_die("pread");
	return (double)(bench_now_ns() - start) / READS;
}

static void passthrough(struct place *p, unsigned int round)
{
	int fd = bench_fd(open(bench_path(p->dir, "mem/e0"), O_RDWR | O_CLOEXEC), "mem/e0");
	struct kill kill;
	double dead;

	reads(fd);
	bench_emit("pread 4 KiB of an open memory object", "worker alive", round, reads(fd));
	kill = kill_worker(p, true);
	dead = reads(fd);
	/* Only if it was over before another worker could be there. */
	if (bench_now_ns() - kill.at_ns < 1000000)
		bench_emit("pread 4 KiB of an open memory object", "worker dead", round, dead);
	close(fd);
	check(&kill);
}

static int64_t run_daemon(void)
{
	char *args[] = { (char *)bench.daemon, (char[]){ "--version" }, NULL };
	posix_spawn_file_actions_t actions;
	int64_t start = bench_now_ns();
	int child_status;
	pid_t pid;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
	if (posix_spawn(&pid, bench.daemon, &actions, NULL, args, environ) != 0 ||
	    waitpid(pid, &child_status, 0) != pid || child_status != 0)
		bench_die("%s --version", bench.daemon);
	posix_spawn_file_actions_destroy(&actions);
	return bench_now_ns() - start;
}

static void init_place(struct place *p, char *folder)
{
	const char *number = strrchr(folder, '-');

	p->dir = folder;
	p->nr = number ? (unsigned int)atoi(number + 1) : 0;
	p->k = kshared_connect(folder);
	if (!p->k)
		bench_die("%s", folder);
	bench_zero(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p->sock), "socketpair");
	ksrv_remove(p->k, "waiting");
	bench_zero(ksrv_post(p->k, "waiting", p->sock[0], 0600), "ksrv_post");
}

int main(int argc, char **argv)
{
	static const struct {
		const char *group;
		int64_t (*time)(struct place *p);
	} callers[] = {
		{ "kill to answer, library", by_library },
		{ "kill to answer, open through the mount", by_mount },
		{ "kill to answer, waiting in read()", by_waiting },
	};
	struct place places[4];

	bench_init(argc, argv);
	if (bench.nr_folders > 4)
		bench_die("too many folders");
	waiter = mmap(NULL, sizeof(*waiter), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	if (waiter == MAP_FAILED)
		bench_die("mmap");
	for (int i = 0; i < bench.nr_folders; i++)
		init_place(&places[i], bench.folders[i]);
	for (unsigned int round = 0; round < bench.rounds; round++) {
		for (size_t c = 0; c < sizeof(callers) / sizeof(callers[0]); c++) {
			bench_emit(callers[c].group, "ksharedd --version", round,
				   (double)run_daemon());
			for (int i = 0; i < bench.nr_folders; i++) {
				char lane[32];

				snprintf(lane, sizeof(lane), "%u entries", places[i].nr);
				bench_emit(callers[c].group, lane, round,
					   (double)callers[c].time(&places[i]));
			}
		}
		passthrough(&places[0], round);
	}
	for (int i = 0; i < bench.nr_folders; i++)
		ksrv_remove(places[i].k, "waiting");
	return 0;
}
