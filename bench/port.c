// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * port.c - what does it cost to read what the kernel publishes, and to write what a service or the kernel takes?
 *
 * Beside getpid(), the smallest system call there is, and beside the other ways to learn the same: sysinfo(), /proc by
 * pread(), by open(), and on an io_uring, netlink for a device's counters, and the clock of the vDSO, which is the kernel's own
 * page that needs no call. That the reads make no system call at all is not taken from their speed: a process whose filter
 * kills it at the first one does a million of them; and one that does make a call has to die of the filter, or it
 * proves nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <kshared.h>
#include <kshared/port.h>
#include <liburing.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/if_link.h>
#include <linux/magic.h>
#include <linux/rtnetlink.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/statfs.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <wire/port_serve.h>

#include "bench.h"
#include "port.h"

#define PROOF_READS 1000000
#define CLOBBERS 10
#define RULE_BYTES 40 /* what of a rule can be set */

/* The port, and how much of it. */
struct reading {
	struct kport *p;
	size_t len;
};

static struct kshared *folder;
static uint64_t buffer[1024];
static volatile uint64_t sink;

/* ---- reading ---- */

static unsigned long call_getpid(void *arg, unsigned long n)
{
	(void)arg;
	for (unsigned long i = 0; i < n; i++)
		sink = (uint64_t)syscall(SYS_getpid);
	return n;
}

static unsigned long read_port(void *arg, unsigned long n)
{
	const struct reading *r = arg;

	for (unsigned long i = 0; i < n; i++)
		/* The publisher's CPU may have been taken away from it in the middle of a pass. */
		while (kport_read(r->p, buffer, r->len, 0) < 0)
			if (errno != EAGAIN)
				bench_die("kport_read");
	return n;
}

/* What the mapping itself costs: without the seqlock, so that it may be torn. */
static unsigned long read_map(void *arg, unsigned long n)
{
	const struct reading *r = arg;
	const volatile uint64_t *from = kport_map(r->p, PROT_READ, NULL);
	size_t words = r->len / sizeof(*from);
	uint64_t sum = 0;

	if (!from)
		bench_die("kport_map");
	for (unsigned long i = 0; i < n; i++)
		for (size_t w = 0; w < words; w++)
			sum += from[w];
	sink = sum;
	return n;
}

static unsigned long read_clock(void *arg, unsigned long n)
{
	struct timespec ts;

	(void)arg;
	for (unsigned long i = 0; i < n; i++) {
		clock_gettime(CLOCK_MONOTONIC, &ts);
		sink = (uint64_t)ts.tv_nsec;
	}
	return n;
}

static unsigned long call_sysinfo(void *arg, unsigned long n)
{
	struct sysinfo info;

	(void)arg;
	for (unsigned long i = 0; i < n; i++) {
		bench_zero(sysinfo(&info), "sysinfo");
		sink = info.loads[0];
	}
	return n;
}

static unsigned long pread_file(void *arg, unsigned long n)
{
	for (unsigned long i = 0; i < n; i++)
		if (pread(*(int *)arg, buffer, sizeof(buffer), 0) <= 0)
			bench_die("pread");
	return n;
}

static unsigned long open_file(void *arg, unsigned long n)
{
	for (unsigned long i = 0; i < n; i++) {
		int fd = bench_fd(open(arg, O_RDONLY | O_CLOEXEC), arg);

		if (read(fd, buffer, sizeof(buffer)) <= 0)
			bench_die("read");
		close(fd);
	}
	return n;
}

struct uring_read {
	struct io_uring ring;
	int fd;
};

static unsigned long uring_file(void *arg, unsigned long n)
{
	struct uring_read *u = arg;

	for (unsigned long i = 0; i < n; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
		struct io_uring_cqe *cqe;

		io_uring_prep_read(sqe, u->fd, buffer, sizeof(buffer), 0);
		if (io_uring_submit_and_wait(&u->ring, 1) != 1 ||
		    io_uring_wait_cqe(&u->ring, &cqe) < 0 || cqe->res <= 0)
			bench_die("io_uring");
		io_uring_cqe_seen(&u->ring, cqe);
	}
	return n;
}

/* The counters of the loopback device, number 1. */
static unsigned long ask_netlink(void *arg, unsigned long n)
{
	struct {
		struct nlmsghdr header;
		struct if_stats_msg stats;
	} request = {
		.header = { .nlmsg_len = sizeof(request),
			    .nlmsg_type = RTM_GETSTATS,
			    .nlmsg_flags = NLM_F_REQUEST },
		.stats = { .ifindex = 1, .filter_mask = IFLA_STATS_FILTER_BIT(IFLA_STATS_LINK_64) },
	};
	const struct nlmsghdr *answer = (const struct nlmsghdr *)buffer;

	for (unsigned long i = 0; i < n; i++) {
		if (send(*(int *)arg, &request, sizeof(request), 0) != sizeof(request) ||
		    recv(*(int *)arg, buffer, sizeof(buffer), 0) < (ssize_t)sizeof(*answer) ||
		    answer->nlmsg_type == NLMSG_ERROR)
			bench_die("netlink");
	}
	return n;
}

/* A port that is published by @source and has so many bytes; NULL: none has. */
static struct kport *find_port(uint32_t source, size_t len, unsigned int flags)
{
	static const char *const names[] = { "load",   "psi", "memory", "cpu",
					     "vmstat", "net", "swap",   "clock" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct kport *p = kport_open(folder, names[i], O_RDONLY, flags);
		struct kport_info info;

		if (p && kport_info(p, &info) == 0 && info.source == source && info.size >= len)
			return p;
		kport_close(p);
	}
	return NULL;
}

static void add_lane(struct lane *lanes, size_t *nr, const char *name,
		     unsigned long (*run)(void *arg, unsigned long n), void *arg)
{
	lanes[(*nr)++] = (struct lane){ name, run, arg };
}

/* The same number of bytes by every way of the library's. */
static void read_group(size_t len)
{
	struct reading bpf = { find_port(KPORT_SOURCE_BPF, len, 0), len };
	struct reading sampled = { find_port(KPORT_SOURCE_SAMPLER, len, 0), len };
	struct reading strict = { find_port(KPORT_SOURCE_BPF, len, KPORT_STRICT), len };
	struct lane lanes[8];
	char group[32];
	size_t nr = 0;

	snprintf(group, sizeof(group), "read %zu B", len);
	add_lane(lanes, &nr, "getpid()", call_getpid, NULL);
	if (bpf.p) {
		add_lane(lanes, &nr, "kport_read", read_port, &bpf);
		add_lane(lanes, &nr, "kport_map, loads", read_map, &bpf);
	} else {
		bench_note("%s: no page is published by BPF here", group);
	}
	if (sampled.p)
		add_lane(lanes, &nr, "kport_read, sampler's page", read_port, &sampled);
	else
		bench_note("%s: no page of that size is the sampler's", group);
	if (strict.p)
		add_lane(lanes, &nr, "kport_read, KPORT_STRICT", read_port, &strict);
	add_lane(lanes, &nr, "peer: clock_gettime, vDSO", read_clock, NULL);
	bench_group(group, lanes, nr);
	kport_close(bpf.p);
	kport_close(sampled.p);
	kport_close(strict.p);
}

static void load_group(void)
{
	static const char path[] = "/proc/loadavg";
	struct reading load = { kport_open(folder, "load", O_RDONLY, 0), 24 };
	struct uring_read uring = { .fd = bench_fd(open(path, O_RDONLY | O_CLOEXEC), path) };
	struct lane lanes[] = {
		{ "pread of /proc/loadavg", pread_file, &uring.fd },
		{ "kport_read", read_port, &load },
		{ "peer: sysinfo", call_sysinfo, NULL },
		{ "peer: open, read, close", open_file, (void *)path },
		{ "getpid()", call_getpid, NULL },
		{ "peer: io_uring, pread", uring_file, &uring },
	};
	size_t nr = sizeof(lanes) / sizeof(lanes[0]);
	int r = io_uring_queue_init(4, &uring.ring, 0);

	if (!load.p)
		bench_die("port/load");
	if (r < 0) {
		bench_note("no io_uring here: %s", strerror(-r));
		nr--;
	}
	bench_group("load averages", lanes, nr);
	if (r == 0)
		io_uring_queue_exit(&uring.ring);
	close(uring.fd);
	kport_close(load.p);
}

static void net_group(void)
{
	struct reading net = { kport_open(folder, "net", O_RDONLY, 0), 80 };
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	int sock = bench_fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), "netlink");
	int file = bench_fd(open("/proc/net/dev", O_RDONLY | O_CLOEXEC), "/proc/net/dev");
	struct lane lanes[] = {
		{ "getpid()", call_getpid, NULL },
		{ "kport_read", read_port, &net },
		{ "peer: netlink, RTM_GETSTATS", ask_netlink, &sock },
		{ "peer: pread of /proc/net/dev", pread_file, &file },
	};

	if (!net.p)
		bench_die("port/net");
	bench_zero(connect(sock, (struct sockaddr *)&kernel, sizeof(kernel)), "netlink");
	bench_group("a device's counters", lanes, sizeof(lanes) / sizeof(lanes[0]));
	close(sock);
	close(file);
	kport_close(net.p);
}

/* ---- no system call ---- */

/* From here on nothing but exit_group() is allowed; anything else kills. */
static void allow_nothing(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = { sizeof(filter) / sizeof(filter[0]), filter };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		bench_die("seccomp");
}

/* How a process ends that reads under the filter, and @calls as well. */
static int end_of_reader(const struct reading *r, bool calls)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		allow_nothing();
		for (int i = 0; i < PROOF_READS; i++)
			if (kport_read(r->p, buffer, r->len, 0) != (ssize_t)r->len)
				syscall(SYS_exit_group, 1);
		if (calls)
			syscall(SYS_getpid);
		syscall(SYS_exit_group, 0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		bench_die("waiting for the reader");
	return status;
}

static void prove_no_calls(void)
{
	struct reading load = { kport_open(folder, "load", O_RDONLY, 0), 24 };
	int status;

	if (!load.p)
		bench_die("port/load");
	status = end_of_reader(&load, true);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSYS)
		bench_die("the filter lets system calls pass: status %d", status);
	status = end_of_reader(&load, false);
	if (status != 0)
		bench_die("a system call in a loop of reads: status %d", status);
	bench_note("%d reads were made under a filter that kills at the first system call",
		   PROOF_READS);
	kport_close(load.p);
}

/* ---- writing ---- */

static uint64_t served[32];

static void serve(const char *name, int timeout_ms)
{
	static const struct kport_field field = {
		.name = "value", .type = KPORT_U64, .width = 8, .count = 32, .stride = 8
	};
	struct resource resource = { .data = served, .size = sizeof(served) };
	struct kport_serve_options options = { .mode = 0600, .replace = 1, .period_ns = PERIOD_NS };
	struct kport_server *s;

	signal(SIGTERM, SIG_DFL);
	s = kport_serve(NULL, name, &resource, &field, 1, &options);
	if (!s)
		bench_die("kport_serve");
	while (kport_server_dispatch(s, timeout_ms) >= 0 || errno == EINTR)
		;
	bench_die("kport_server_dispatch");
}

static void serve_spinning(void *arg)
{
	serve(arg, 0);
}

static void serve_sleeping(void *arg)
{
	serve(arg, -1);
}

static unsigned long write_port(void *arg, unsigned long n)
{
	const struct reading *r = arg;

	for (unsigned long i = 0; i < n; i++)
		if (kport_write(r->p, buffer, r->len, 0) < 0)
			bench_die("kport_write");
	return n;
}

/* Open a port for writing, once its server is there. */
static struct kport *open_served(const char *name, unsigned int flags)
{
	int64_t end = bench_now_ns() + 10000000000;
	struct kport *p;

	while (!(p = kport_open(folder, name, O_RDWR, flags)) && bench_now_ns() < end)
		poll(NULL, 0, 1);
	if (!p)
		bench_die("port/%s", name);
	return p;
}

/* ---- what a doorbell costs of itself ---- */

/* bpf(2) that does nothing: a command that there is not. */
static unsigned long call_bpf(void *arg, unsigned long n)
{
	union bpf_attr attr = { 0 };

	(void)arg;
	for (unsigned long i = 0; i < n; i++)
		sink = (uint64_t)syscall(SYS_bpf, ~0u, &attr, sizeof(attr.test));
	return n;
}

/* @arg: a program that only returns; with a context as long as a rule's. */
static unsigned long run_empty(void *arg, unsigned long n)
{
	struct port_ring ring = { 0 };
	union bpf_attr attr = { .test = { .prog_fd = (uint32_t) * (const int *)arg,
					  .ctx_in = (uintptr_t)&ring,
					  .ctx_size_in = sizeof(ring) } };

	for (unsigned long i = 0; i < n; i++)
		bench_zero((int)syscall(SYS_bpf, BPF_PROG_RUN, &attr, sizeof(attr)),
			   "BPF_PROG_RUN");
	return n;
}

/* Return: a program that only returns; -1: not to be had here. */
static int empty_program(void)
{
	static const struct bpf_insn ret[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr attr = { .prog_type = BPF_PROG_TYPE_SYSCALL,
				.insns = (uintptr_t)ret,
				.insn_cnt = sizeof(ret) / sizeof(ret[0]),
				.license = (uintptr_t) "GPL",
				.prog_flags = BPF_F_SLEEPABLE };

	return (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));
}

/* A rule on a control group of our own. Return: NULL: this machine has none, or the daemon none. */
static struct kport *open_rule(const char *name, char *cgroup, unsigned int flags)
{
	static const char *const roots[] = { "/sys/fs/cgroup", "/sys/fs/cgroup/unified" };
	struct kport *p = NULL;
	struct statfs fs;
	int fd = -1;

	errno = ENOENT;
	for (size_t i = 0; i < 2 && fd < 0; i++) {
		if (statfs(roots[i], &fs) < 0 || fs.f_type != CGROUP2_SUPER_MAGIC)
			continue;
		sprintf(cgroup, "%s/kshared-bench-%d", roots[i], (int)getpid());
		if (mkdir(cgroup, 0755) == 0 || errno == EEXIST)
			fd = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (fd >= 0 && kport_create(folder, name, KPORT_RULE, fd, 0600) == 0)
		p = kport_open(folder, name, O_RDWR, flags);
	if (!p)
		bench_note("no rule could be made: %s", strerror(errno));
	close(fd);
	return p;
}

static void close_rule(struct kport *p, const char *name, const char *cgroup)
{
	kport_close(p);
	if (p)
		kport_remove(folder, name);
	if (*cgroup)
		rmdir(cgroup);
}

static void end_server(pid_t pid, const char *name)
{
	kill(pid, SIGKILL);
	bench_join(pid);
	kport_remove(folder, name);
}

static void write_group(void)
{
	char cgroup[64] = "", spinner[] = "bench-spinning", sleeper[] = "bench-sleeping";
	struct reading rule = { .p = open_rule("bench-rule", cgroup, 0) };
	struct reading spinning = { .len = 64 }, sleeping = { .len = 64 }, polled = { .len = 64 };
	struct lane lanes[8];
	int empty = empty_program();
	size_t nr = 0;
	pid_t sleeps, spins;

	add_lane(lanes, &nr, "getpid()", call_getpid, NULL);
	add_lane(lanes, &nr, "peer: bpf(2), refused", call_bpf, NULL);
	if (empty >= 0)
		add_lane(lanes, &nr, "peer: BPF_PROG_RUN, empty program", run_empty, &empty);
	if (rule.p) {
		/* What is written is what the rule holds already, so that it goes on allowing everything. */
		rule.len = RULE_BYTES;
		if (kport_read(rule.p, buffer, rule.len, 0) < 0)
			bench_die("port/bench-rule");
		add_lane(lanes, &nr, "kport_write, rule, doorbell", write_port, &rule);
	}
	bench_group("write to the kernel", lanes, nr);
	close_rule(rule.p, "bench-rule", cgroup);
	close(empty);

	/* The one that spins has its processor for itself only while it is alone. */
	sleeps = bench_peer(serve_sleeping, sleeper);
	sleeping.p = open_served(sleeper, 0);
	polled.p = open_served(sleeper, KPORT_POLLED);
	nr = 1;
	add_lane(lanes, &nr, "kport_write, service asleep", write_port, &sleeping);
	add_lane(lanes, &nr, "kport_write, KPORT_POLLED", write_port, &polled);
	bench_group("write to a service, 64 B", lanes, nr);
	kport_close(sleeping.p);
	kport_close(polled.p);
	end_server(sleeps, sleeper);
	spins = bench_peer(serve_spinning, spinner);
	spinning.p = open_served(spinner, 0);
	nr = 1;
	add_lane(lanes, &nr, "kport_write, service spinning", write_port, &spinning);
	bench_group("write to a service that spins, 64 B", lanes, nr);
	kport_close(spinning.p);
	end_server(spins, spinner);
}

/* ---- clobber to death ---- */

/* A client writes past its pool; how long it lives on. @ring: it then asks for the write. */
static void kill_one(const char *group, const char *lane, unsigned int round, const char *name,
		     bool ring)
{
	volatile int64_t *when =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct pollfd dead = { .events = POLLIN };
	int64_t end;
	pid_t pid;
	int status;

	if (when == MAP_FAILED)
		bench_die("memory");
	pid = fork();
	if (pid == 0) {
		struct kport *p = kport_open(NULL, name, O_RDWR, 0);
		char *pool = p ? kport_map(p, PROT_READ | PROT_WRITE, NULL) : NULL;
		struct kport_info info;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (!pool || kport_info(p, &info) < 0)
			_exit(1);
		*when = bench_now_ns();
		pool[info.pool_size + 3] ^= 0x55;
		if (ring)
			kport_ring(p, 8, 0);
		for (;;)
			;
	}
	dead.fd = pid < 0 ? -1 : (int)syscall(SYS_pidfd_open, pid, 0);
	if (dead.fd < 0 || poll(&dead, 1, 10000) != 1)
		bench_die("a client that wrote past its pool lives on");
	end = bench_now_ns();
	if (waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		bench_die("a client that wrote past its pool was not killed: status %d", status);
	bench_emit(group, lane, round, (double)(end - *when));
	close(dead.fd);
	munmap((void *)when, 4096);
}

static void clobber_group(void)
{
	static const char group[] = "clobber to death";
	char cgroup[64] = "", service[] = "bench-clobber", rule[] = "bench-clobber-rule";
	pid_t pid = bench_peer(serve_sleeping, service);
	struct kport *held = open_rule(rule, cgroup, 0);

	kport_close(open_served(service, 0));
	for (unsigned int round = 0; round < CLOBBERS; round++) {
		bench_emit(group, "the period of looking", round, PERIOD_NS);
		kill_one(group, "service", round, service, false);
		if (held) {
			kill_one(group, "rule", round, rule, false);
			kill_one(group, "rule, doorbell", round, rule, true);
		}
	}
	fflush(stdout);
	close_rule(held, rule, cgroup);
	end_server(pid, service);
}

int main(int argc, char **argv)
{
	bench_init(argc, argv);
	setenv("KSHARED_DIR", bench.folders[0], 1);
	unsetenv("KSHARED_SOCKET");
	folder = kshared_connect(NULL);
	if (!folder)
		bench_die("%s", bench.folders[0]);
	prove_no_calls();
	read_group(8);
	read_group(64);
	read_group(256);
	load_group();
	net_group();
	write_group();
	clobber_group();
	port_cost(folder);
	kshared_disconnect(folder);
	return 0;
}
