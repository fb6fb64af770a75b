// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * keeper.c - start, the loop over the worker's messages and its death, the end.
 *
 * When a worker dies, or hangs in its exit: everything that it has sent is taken in first, then another is started on a snapshot of the
 * table. It gets the same /dev/fuse, listening socket, shared memory and ring. A worker is this program executed again, from the
 * path it was started by, so that a new version takes over when the worker is ended.
 */
#include <base/cleanup.h>
#include <base/log.h>
#include <daemon/keeper.h>
#include <daemon/mountpoint.h>
#include <daemon/servers.h>
#include <daemon/socket.h>
#include <daemon/spawn.h>
#include <daemon/table.h>
#include <daemon/worker.h>
#include <engine/relay/relay.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BACKOFF_MAX_MS 1000
#define FDS_WANTED 524288
#define FDS_LEAST 256
#define FDS_OWN (SPAWN_FDS * 2) /* not for entries */
#define EXIT_WAIT_MS 2000
#define DYING_S 2
#ifndef STUCK_S /* more where a sanitizer makes everything slow */
#define STUCK_S 5
#endif
#define UNMOUNT_LAZY 1u /* KSHARED_SHUTDOWN_LAZY */

struct keeper {
	struct config *c;
	char **argv;
	char exe[PATH_MAX];
	struct table *table;
	struct servers servers;
	struct keep_snapshot head;
	struct worker_hello hello;
	struct shm *shm;
	int fuse_fd;
	int listen_fd;
	int shm_fd;
	int ring_fd;
	int null_fd;
	int signal_fd;
	int timer_fd;
	int channel;
	void (*tell_ready)(void);
	pid_t worker;
	bool ready; /* the present worker serves */
	bool killed; /* by us; it is dying */
	bool silent; /* it has closed its end of the channel */
	bool stuck; /* it was killed because it did not go on */
	bool cannot_start;
	unsigned int stuck_s;
	unsigned int dying_s;
	uint64_t busy; /* the shared memory's at the last look */
	bool served; /* some worker has */
	bool mounted;
	bool may_bpf;
	bool ending;
	int status;
	unsigned int backoff_ms;
};

static void kill_worker(struct keeper *k)
{
	if (k->worker <= 0)
		return;
	kill(k->worker, SIGKILL);
	k->killed = true;
}

static int make_shm(struct keeper *k)
{
	void *at;

	k->shm_fd = memfd_create("ksharedd", MFD_CLOEXEC);
	if (k->shm_fd < 0 || ftruncate(k->shm_fd, sizeof(struct shm)) < 0)
		return -errno;
	at = mmap(NULL, sizeof(struct shm), PROT_READ | PROT_WRITE, MAP_SHARED, k->shm_fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	k->shm = at;
	return 0;
}

static int make_signals(struct keeper *k)
{
	static const struct itimerspec second = { .it_interval.tv_sec = 1, .it_value.tv_sec = 1 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	k->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	k->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (k->signal_fd < 0 || k->timer_fd < 0 ||
	    timerfd_settime(k->timer_fd, 0, &second, NULL) < 0)
		return -errno;
	return 0;
}

/* Only there all of the numbers mean themselves. */
static bool in_first_user_namespace(void)
{
	unsigned int inside = 1, outside = 1, count = 0;
	FILE *f = fopen("/proc/self/uid_map", "re");
	bool yes = f && fscanf(f, "%u %u %u", &inside, &outside, &count) == 3 && inside == 0 &&
		outside == 0 && count == UINT32_MAX;

	if (f)
		fclose(f);
	return yes;
}

/*
 * The low numbers are taken, so that none of the entries' descriptors comes among those that a child has. At some of them a worker
 * expects its own: they hold nothing until one is started, and nothing again after it.
 */
static int reserve_numbers(struct keeper *k)
{
	do
		k->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	while (k->null_fd >= 0 && k->null_fd < SPAWN_FDS - 1);
	return k->null_fd < 0 ? -errno : 0;
}

/* What was settled at the start is said once more, so that no worker settles it otherwise. */
static char **make_argv(const struct keeper *k, const char *role)
{
	int argc = 0;
	char **argv;

	while (k->argv[argc])
		argc++;
	argv = calloc((size_t)argc + 6, sizeof(*argv));
	if (!argv)
		return NULL;
	memcpy(argv, k->argv, (size_t)argc * sizeof(*argv));
	argv[argc++] = (char *)role;
	argv[argc++] = (char *)"--dir";
	argv[argc++] = k->c->dir;
	argv[argc++] = (char *)"--socket";
	argv[argc++] = k->c->socket;
	return argv;
}

static pid_t start_server(void *ctx, const char *role, const int *fds)
{
	struct keeper *k = ctx;
	cleanup_free char **argv = make_argv(k, role);

	return argv ? spawn_exec(k->exe, argv, fds, k->null_fd) : -ENOMEM;
}

static int setup(struct keeper *k)
{
	struct io_uring_params params;
	struct rlimit limit;
	struct timespec ts;
	ssize_t n;
	int r;

	n = readlink("/proc/self/exe", k->exe, sizeof(k->exe) - 1);
	if (n < 0)
		return -errno;
	k->exe[n] = 0;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return -errno;
	/* As many as there may be; more than our hard limit if we may have that. */
	if (setrlimit(RLIMIT_NOFILE, &(struct rlimit){ FDS_WANTED, FDS_WANTED }) == 0) {
		limit.rlim_cur = FDS_WANTED;
	} else {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	if (limit.rlim_cur < FDS_LEAST) {
		log_error(
			"cannot start: RLIMIT_NOFILE is %llu, and at least %d are needed; see 'ulimit -n'",
			(unsigned long long)limit.rlim_cur, FDS_LEAST);
		return -EMFILE;
	}
	r = reserve_numbers(k);
	/* Before any thread is started, so that none of them takes a signal. */
	if (r == 0)
		r = make_signals(k);
	if (r == 0)
		r = make_shm(k);
	if (r == 0)
		r = table_new(
			&k->table,
			(unsigned int)((limit.rlim_cur > FDS_WANTED ? FDS_WANTED : limit.rlim_cur) -
				       FDS_OWN) /
				10 * 9,
			k->shm->closing);
	if (r == 0)
		r = servers_init(&k->servers, start_server, k, k->table, &k->shm->bpf);
	if (r < 0) {
		log_error("cannot start: %s", strerror(-r));
		return r;
	}
	if (k->c->mount)
		r = mountpoint_prepare(k->c);
	if (r == 0)
		r = k->listen_fd = socket_make(k->c);
	if (r < 0)
		return r;
	k->ring_fd = relay_ring_new(&params);
	if (k->ring_fd >= 0) {
		k->hello.has_ring = 1;
		_Static_assert(sizeof(params) <= sizeof(k->hello.ring_params), "fits");
		memcpy(k->hello.ring_params, &params, sizeof(params));
	} else {
		log_info(
			"no io_uring (%s): bytes on their way through the mount may be lost or doubled if a worker dies",
			strerror(-k->ring_fd));
	}
	k->hello.keeper_pid = (uint32_t)getpid();
	k->hello.privileged = geteuid() == 0;
	k->hello.may_pass = k->hello.privileged && in_first_user_namespace();
	k->may_bpf = k->hello.may_pass && access("/sys/kernel/btf/vmlinux", R_OK) == 0;
	if (k->c->mount) {
		k->fuse_fd = mountpoint_mount(k->c);
		if (k->fuse_fd < 0 && (k->hello.privileged || k->c->srvfs))
			return k->fuse_fd;
		/* A user who may not mount still has the library. */
		if (k->fuse_fd < 0)
			log_error(
				"%s is not mounted; it is served to the library and to `kshared` only",
				k->c->dir);
	}
	if (k->fuse_fd >= 0) {
		k->mounted = true;
		k->hello.has_fuse = 1;
		k->hello.dev = mountpoint_dev(k->c->dir);
	}
	clock_gettime(CLOCK_REALTIME, &ts);
	k->head.version = KEEP_VERSION;
	k->head.started_ns = (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
	return 0;
}

static int make_snapshot(struct keeper *k)
{
	cleanup_fd int fd = memfd_create("ksharedd-snapshot", MFD_CLOEXEC);
	int r;

	if (fd < 0)
		return -errno;
	k->hello.servers = (k->may_bpf ? HELLO_MAY_BPF : 0) |
		(publishing_keeps(k->servers.server[SERVER_PUBLISHER]) ? HELLO_RULES_KEPT : 0) |
		(publishing_runs(k->servers.server[SERVER_MERGER]) ? HELLO_PARTITIONS_KEPT : 0);
	if (write(fd, &k->hello, sizeof(k->hello)) != sizeof(k->hello))
		return -ENOSPC;
	r = table_snapshot(k->table, fd, &k->head);
	return r < 0 ? r : take_fd(&fd);
}

static int start_worker(struct keeper *k)
{
	cleanup_fd int snapshot = -1;
	cleanup_free char **argv = make_argv(k, "--worker");
	int sock[2];
	pid_t pid;

	if (!argv)
		return -ENOMEM;
	snapshot = make_snapshot(k);
	if (snapshot < 0)
		return snapshot;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock) < 0)
		return -errno;
	pid = spawn_exec(k->exe, argv,
			 (int[SPAWN_PASS]){ k->fuse_fd, k->listen_fd, sock[1], k->shm_fd,
					    k->ring_fd, snapshot,
					    publishing_socket(k->servers.server[SERVER_PUBLISHER]),
					    publishing_socket(k->servers.server[SERVER_MERGER]) },
			 k->null_fd);
	close(sock[1]);
	if (pid < 0) {
		close(sock[0]);
		return pid;
	}
	k->channel = sock[0];
	k->worker = pid;
	k->ready = k->killed = k->silent = k->stuck = false;
	k->stuck_s = k->dying_s = 0;
	return 0;
}

static void reply(struct keeper *k, uint32_t op, int result, int fd)
{
	struct keep_answer answer = { .op = op, .result = result };
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = &answer, .iov_len = sizeof(answer) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		m.msg_control = &control;
		m.msg_controllen = sizeof(control);
		control.h = (struct cmsghdr){
			.cmsg_level = SOL_SOCKET,
			.cmsg_type = SCM_RIGHTS,
			.cmsg_len = CMSG_LEN(sizeof(int)),
		};
		memcpy(CMSG_DATA(&control.h), &fd, sizeof(fd));
	}
	/* A worker that does not take its answers is as good as dead. */
	if (sendmsg(k->channel, &m, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno == EAGAIN)
		kill_worker(k);
}

static int unmount(struct keeper *k, bool lazy)
{
	int r = k->mounted ? mountpoint_unmount(k->c->dir, lazy) : 0;

	if (r == 0 || r == -EINVAL || r == -ENOENT)
		k->mounted = false;
	return k->mounted ? r : 0;
}

static void on_query(struct keeper *k, const void *bytes)
{
	struct keep_query q;
	struct keep_init init;
	bool held;
	int r, fd;

	memcpy(&q, bytes, sizeof(q));
	switch (q.op) {
	case KEEP_BACKING:
		reply(k, q.op,
		      k->fuse_fd < 0 ? -EOPNOTSUPP : table_backing(k->table, q.id, k->fuse_fd), -1);
		return;
	case KEEP_BORROW:
		fd = table_borrow(k->table, q.id, &held);
		reply(k, q.op, fd < 0 ? fd : 0, fd);
		if (fd >= 0 && !held)
			table_close_copy(k->table, fd);
		return;
	case KEEP_READY:
		k->ready = k->served = true;
		if (k->tell_ready)
			k->tell_ready();
		k->tell_ready = NULL;
		return;
	case KEEP_UNMOUNT:
		r = unmount(k, q.flags & UNMOUNT_LAZY);
		reply(k, q.op, r, -1);
		return;
	case KEEP_END:
		k->mounted = false;
		k->ending = true;
		return;
	case KEEP_INIT:
		memcpy(&init, bytes, sizeof(init));
		k->head.init_minor = init.minor;
		k->head.init_flags = init.flags;
		return;
	default:
		log_error("the worker sent message %u, which does not exist; replacing it", q.op);
		kill_worker(k);
	}
}

_Static_assert(sizeof(struct keep_query) == sizeof(struct keep_init), "one length");

/* Take in one message. Return: false if there is none. */
static bool take_message(struct keeper *k)
{
	_Alignas(8) unsigned char bytes[KEEP_MSG_MAX];
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = bytes, .iov_len = sizeof(bytes) };
	struct msghdr m = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *c;
	uint32_t op = 0;
	int fd = -1, r;
	ssize_t n;

	n = recvmsg(k->channel, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0 && errno == EINTR)
		return true;
	if (n <= 0)
		return false;
	c = CMSG_FIRSTHDR(&m);
	if (c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	if (n >= (ssize_t)sizeof(op))
		memcpy(&op, bytes, sizeof(op));
	if (op == KEEP_COMMIT && !(m.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
		r = table_commit(k->table, bytes, (size_t)n, fd);
		fd = -1;
		if (r < 0) {
			log_error("the worker sent a change that cannot be kept: %s; replacing it",
				  strerror(-r));
			kill_worker(k);
		}
	} else if (n == sizeof(struct keep_query)) {
		on_query(k, bytes);
	} else {
		log_error("the worker sent a message of a wrong length; replacing it");
		kill_worker(k);
	}
	if (fd >= 0)
		table_close(k->table, fd);
	return true;
}

/* If it cannot be started now, watch() tries again. */
static void try_start(struct keeper *k)
{
	int r = start_worker(k);

	if (r < 0 && !k->cannot_start)
		log_error("cannot start a worker: %s; trying again each second", strerror(-r));
	k->cannot_start = r < 0;
}

/* Did it end of itself, and not because somebody wanted it to? Then the request that it was working on may be to blame. */
static bool crashed(int status)
{
	if (!WIFSIGNALED(status))
		return true;
	switch (WTERMSIG(status)) {
	case SIGKILL:
	case SIGTERM:
	case SIGINT:
	case SIGQUIT:
	case SIGHUP:
		return false;
	default:
		return true;
	}
}

static void worker_died(struct keeper *k, int status)
{
	bool fault = crashed(status);

	k->worker = 0;
	while (take_message(k))
		;
	close(k->channel);
	k->channel = -1;
	if (k->ending)
		return;
	if (!k->served) {
		k->ending = true;
		k->status = 1;
		return;
	}
	k->head.restarts++;
	/* One that did not go on has the request to blame that it was working on. */
	k->shm->crashed = fault || k->stuck;
	if (!k->shm->crashed)
		k->shm->current = 0;
	if (WIFSIGNALED(status))
		log_error("the worker was ended by signal %d (%s); starting another",
			  WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		log_error("the worker ended by itself with status %d; starting another",
			  WEXITSTATUS(status));
	/* One that cannot even begin is not tried without pause. */
	if (k->ready || !fault)
		k->backoff_ms = 0;
	else
		k->backoff_ms = k->backoff_ms ? k->backoff_ms * 2 : 10;
	if (k->backoff_ms > BACKOFF_MAX_MS)
		k->backoff_ms = BACKOFF_MAX_MS;
	if (k->backoff_ms)
		usleep(k->backoff_ms * 1000);
	try_start(k);
}

static void reap(struct keeper *k)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid == k->worker)
			worker_died(k, status);
		else if (servers_died(&k->servers, pid, status))
			continue;
		else if (table_is_vault(k->table, pid))
			log_error(
				"a vault (process %d) was killed: the descriptors that it held are lost",
				(int)pid);
	}
}

static void on_signal(struct keeper *k)
{
	struct signalfd_siginfo si;

	while (read(k->signal_fd, &si, sizeof(si)) == sizeof(si)) {
		switch (si.ssi_signo) {
		case SIGCHLD:
			reap(k);
			break;
		case SIGHUP:
			kill_worker(k);
			servers_restart(&k->servers);
			break;
		default:
			if (unmount(k, false) < 0)
				unmount(k, true);
			k->ending = true;
		}
	}
}

/* Of a process: its state's letter, and whether it was sent SIGKILL. */
static char look_at(pid_t pid, bool *ret_dying)
{
	unsigned long long pending = 0;
	char path[32], line[128], state = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		sscanf(line, "State: %c", &state);
		sscanf(line, "ShdPnd: %llx", &pending);
	}
	if (f)
		fclose(f);
	*ret_dying = pending & 1ull << (SIGKILL - 1);
	return state;
}

/*
 * Once a second: is the worker all right? It never waits but for events, so one that is at one event for long is stuck, and is
 * replaced. And one that is dying may hang in that: in a kernel worker's transfer, or closing a file of a hung server. It runs
 * no instruction of ours any more, and the transfers that it leaves are known (engine/relay), so it need not be waited for.
 */
static void watch(struct keeper *k)
{
	uint64_t busy = k->shm->busy, count;
	bool dying;
	char state;

	(void)!read(k->timer_fd, &count, sizeof(count));
	servers_tick(&k->servers);
	if (k->worker == 0) {
		try_start(k);
		return;
	}
	state = look_at(k->worker, &dying);
	if (k->killed || dying) {
		if (++k->dying_s >= DYING_S) {
			log_error("worker %d does not end; it is left behind", (int)k->worker);
			worker_died(k, SIGKILL);
		}
		return;
	}
	k->stuck_s = k->ready && k->hello.has_ring && busy && busy == k->busy && state != 'T' &&
			state != 't'
		? k->stuck_s + 1
		: 0;
	k->busy = busy;
	if (k->stuck_s < STUCK_S)
		return;
	log_error("the worker does not go on; replacing it");
	k->stuck = true;
	kill_worker(k);
}

static void loop(struct keeper *k)
{
	while (!k->ending) {
		struct pollfd p[3 + SERVERS_POLL] = {
			{ .fd = k->signal_fd, .events = POLLIN },
			{ .fd = k->silent ? -1 : k->channel, .events = POLLIN },
			{ .fd = k->timer_fd, .events = POLLIN },
		};

		servers_poll(&k->servers, p + 3);
		if (poll(p, 3 + SERVERS_POLL, -1) < 0)
			continue;
		if (p[1].revents && !take_message(k)) {
			k->silent = true;
			kill_worker(k);
		}
		if (p[0].revents)
			on_signal(k);
		if (!k->ending)
			servers_act(&k->servers, p + 3);
		if (p[2].revents && !k->ending)
			watch(k);
	}
}

/* Nobody is to wait for an answer that does not come, even if a worker that hangs keeps the socket. */
static void stop_listening(struct keeper *k)
{
	int fd;

	if (k->listen_fd < 0)
		return;
	unlink(k->c->socket);
	shutdown(k->listen_fd, SHUT_RDWR);
	while ((fd = accept4(k->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
		close(fd);
	close(k->listen_fd);
}

static void end(struct keeper *k)
{
	stop_listening(k);
	servers_deinit(&k->servers);
	if (k->worker > 0) {
		kill_worker(k);
		for (int ms = 0; ms < EXIT_WAIT_MS && waitpid(k->worker, NULL, WNOHANG) == 0; ms++)
			usleep(1000);
	}
	if (k->mounted && unmount(k, false) < 0)
		unmount(k, true);
	table_free(k->table);
	if (k->fuse_fd >= 0)
		close(k->fuse_fd);
}

int keeper_run(struct config *c, char **argv, void (*ready)(void))
{
	struct keeper k = {
		.c = c,
		.argv = argv,
		.fuse_fd = -1,
		.listen_fd = -1,
		.shm_fd = -1,
		.ring_fd = -1,
		.signal_fd = -1,
		.timer_fd = -1,
		.channel = -1,
		.tell_ready = ready,
	};
	int r;

	prctl(PR_SET_NAME, "ksharedd-keep");
	r = setup(&k);
	if (r == 0) {
		r = start_worker(&k);
		if (r < 0)
			log_error("cannot start a worker: %s", strerror(-r));
	}
	if (r == 0)
		loop(&k);
	else
		k.status = 1;
	end(&k);
	return k.status;
}
