// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ipc.c - the benchmark of messages between two processes: who runs when.
 *
 *	bench-ipc [--warm-us N] [--run-us N] [--rounds N] [--peer NAME]... --size N...
 *
 * For each size every peer gets two processes, each pinned to a processor of its own, which stay for all turns of that size and sleep
 * between them. A turn is one peer, one way of waiting, one kind of work, for run_us. In a round each lane that there is for a kind of work
 * has one turn, in an order that turns round each time; there are rounds with nothing else to do, and rounds in which each processor
 * has another process that never sleeps. So whatever the machine does meanwhile falls on all. Lines are those of bench.h; the group is WORK|LOAD|SIZE
 * and the lane NAME|WAIT; of round trips there are two, "round trip p50" and "round trip p99".
 *
 * All of it is in namespaces of its own for mounts and for System V and POSIX IPC, so that no name collides with anybody's and
 * none is left: it needs root.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"
#include "ipc/ipc.h"

#define PATIENCE_MS 30000
#define WAYS_MAX 64
#define NAMES_MAX 32
#define HAND_OVER_DEPTH 256
#define MAP_MOST (64u << 20)

static const struct {
	const struct ipc_peer *peer;
	const char *name;
	const char *package;
} known[] = {
	{ &ipc_ring, "kshared ring", NULL },
	{ &ipc_floor_line, "floor: a cache line to and fro", NULL },
	{ &ipc_floor_memcpy, "floor: memcpy", NULL },
	{ &ipc_pipe, "pipe", NULL },
	{ &ipc_stream, "UNIX stream", NULL },
	{ &ipc_seqpacket, "UNIX seqpacket", NULL },
	{ &ipc_mq, "POSIX mq", NULL },
	{ &ipc_eventfd, "eventfd + shared memory", NULL },
#ifdef HAVE_BOOST
	{ &ipc_boost, "Boost message_queue", "libboost-dev" },
#else
	{ NULL, "Boost message_queue", "libboost-dev" },
#endif
#ifdef HAVE_ZMQ
	{ &ipc_zmq, "ZeroMQ", "libzmq3-dev" },
#else
	{ NULL, "ZeroMQ", "libzmq3-dev" },
#endif
#ifdef HAVE_NNG
	{ &ipc_nng, "nng", "libnng-dev" },
#else
	{ NULL, "nng", "libnng-dev" },
#endif
#ifdef HAVE_ICEORYX
	{ &ipc_iceoryx, "iceoryx", "libiceoryx-binding-c-dev" },
#else
	{ NULL, "iceoryx", "libiceoryx-binding-c-dev" },
#endif
#ifdef HAVE_CK
	{ &ipc_ck, "ck_ring", "libck-dev" },
#else
	{ NULL, "ck_ring", "libck-dev" },
#endif
};

#define NR_KNOWN (sizeof(known) / sizeof(known[0]))

static const char *const wait_names[] = {
	[IPC_BLOCKING] = "blocking", [IPC_SPINNING] = "spinning", [IPC_ADAPTIVE] = "adaptive"
};
static const char *const work_names[] = {
	[IPC_ONE_WAY] = "one way", [IPC_ROUND_TRIP] = "round trip", [IPC_HAND_OVER] = "hand-over"
};

/* A peer's two processes, and how they are told. */
struct pair {
	const struct ipc_peer *peer;
	struct ipc_shared *shared;
	void *channels[2];
	pid_t pids[2];
	int socks[2];
};

struct way {
	struct pair *pair;
	enum ipc_wait wait;
};

static int64_t warm_ns = 10000000, run_ns = 40000000;
static unsigned int rounds = 5;
static size_t sizes[NAMES_MAX];
static const char *names[NAMES_MAX];
static unsigned int nr_sizes, nr_names;
static int cpus[2];
static pid_t burners[2];

void *ipc_map(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS | (size <= MAP_MOST ? MAP_POPULATE : 0), -1, 0);

	if (at == MAP_FAILED)
		bench_die("memory");
	return at;
}

void *ipc_alloc(size_t size)
{
	void *at = aligned_alloc(64, (size + 63) & ~63UL);

	if (!at)
		bench_die("memory");
	return memset(at, 0, (size + 63) & ~63UL);
}

uint32_t *ipc_samples(void)
{
	static uint32_t *samples;

	if (!samples)
		samples = ipc_alloc(IPC_SAMPLES * sizeof(*samples));
	return samples;
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

void ipc_measure(struct ipc_result *ret, uint32_t *samples, size_t nr, double per_ns)
{
	double sum = 0;

	if (!nr)
		return;
	qsort(samples, nr, sizeof(*samples), by_value);
	for (size_t i = nr / 4; i < nr - nr / 4; i++)
		sum += samples[i];
	ret->p50_ns = sum / (double)(nr - nr / 4 - nr / 4) / per_ns;
	ret->p99_ns = samples[nr - 1 - nr / 100] / per_ns;
}

static void get(int fd, void *to, size_t size)
{
	ssize_t n = recv(fd, to, size, MSG_WAITALL);

	if (n != (ssize_t)size)
		bench_die("the other process is gone");
}

static void put(int fd, const void *from, size_t size)
{
	if (send(fd, from, size, MSG_NOSIGNAL) != (ssize_t)size)
		bench_die("the other process is gone");
}

/* ---- one of the two processes ---- */

struct start {
	struct pair *pair;
	unsigned int side;
	int sock;
};

static void serve(void *arg)
{
	struct start *s = arg;
	const struct ipc_peer *peer = s->pair->peer;
	void *out, *in;
	struct ipc_turn turn;
	char byte = 0;

	out = peer->open(s->pair->channels[s->side], true);
	in = peer->open(s->pair->channels[!s->side], false);
	ipc_samples();
	put(s->sock, &byte, 1);
	get(s->sock, &byte, 1);
	if (peer->ready) {
		peer->ready(out);
		peer->ready(in);
	}
	put(s->sock, &byte, 1);
	for (;;) {
		struct ipc_result result = { 0 };

		get(s->sock, &turn, sizeof(turn));
		if (turn.work == IPC_NR_WORKS)
			break;
		/* Both are so before either begins. */
		peer->begin(out, &turn);
		peer->begin(in, &turn);
		put(s->sock, &byte, 1);
		get(s->sock, &byte, 1);
		if (turn.work == IPC_ROUND_TRIP && s->side == 0)
			peer->ask(&turn, out, in, &result);
		else if (turn.work == IPC_ROUND_TRIP)
			peer->answer(&turn, out, in, &result);
		else if (s->side == 0)
			peer->send(&turn, out, &result);
		else if (peer->receive)
			peer->receive(&turn, in, &result);
		put(s->sock, &result, sizeof(result));
	}
	if (peer->close) {
		peer->close(out);
		peer->close(in);
	}
	/* Libraries say good-bye to their daemons. */
	exit(0);
}

/* ---- the one who says who runs ---- */

/* From a process, unless it is gone or stuck. */
static void hear(const struct pair *p, unsigned int side, void *to, size_t size, const char *what)
{
	struct pollfd fd = { .fd = p->socks[side], .events = POLLIN };

	errno = ETIMEDOUT;
	if (poll(&fd, 1, PATIENCE_MS) != 1)
		bench_die("%s: %s", p->peer->name, what);
	errno = 0;
	if (recv(fd.fd, to, size, MSG_WAITALL) != (ssize_t)size)
		bench_die("%s ended: %s", p->peer->name, what);
}

static void tell_both(const struct pair *p, const void *from, size_t size)
{
	put(p->socks[0], from, size);
	put(p->socks[1], from, size);
}

static void hear_both(const struct pair *p, const char *what)
{
	char byte;

	hear(p, 0, &byte, 1, what);
	hear(p, 1, &byte, 1, what);
}

static struct pair *start_pair(const struct ipc_peer *peer, size_t size, unsigned int depth)
{
	struct pair *p = ipc_alloc(sizeof(*p));
	char byte = 0;

	p->peer = peer;
	p->shared = ipc_map(sizeof(*p->shared));
	for (unsigned int i = 0; i < 2; i++)
		p->channels[i] = peer->prepare(size, depth, i);
	for (unsigned int i = 0; i < 2; i++) {
		struct start s = { .pair = p, .side = i };
		int socks[2];

		bench_zero(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks), "socketpair");
		s.sock = socks[1];
		p->socks[i] = socks[0];
		bench.peer_cpu = cpus[i];
		p->pids[i] = bench_peer(serve, &s);
		close(socks[1]);
	}
	hear_both(p, "opening");
	tell_both(p, &byte, 1);
	hear_both(p, "connecting");
	return p;
}

static void end_pair(struct pair *p)
{
	struct ipc_turn last = { .work = IPC_NR_WORKS };

	tell_both(p, &last, sizeof(last));
	for (unsigned int i = 0; i < 2; i++) {
		errno = 0;
		if (!bench_join(p->pids[i]))
			bench_die("%s did not end well", p->peer->name);
		close(p->socks[i]);
	}
	for (unsigned int i = 0; i < 2; i++)
		p->peer->forget(p->channels[i]);
	munmap(p->shared, sizeof(*p->shared));
}

/* Return: what the end that measures says. */
static struct ipc_result run_turn(const struct way *way, enum ipc_work work, size_t size)
{
	const struct pair *p = way->pair;
	struct ipc_turn turn = { .work = work,
				 .wait = way->wait,
				 .size = size,
				 .warm_ns = warm_ns,
				 .run_ns = run_ns,
				 .shared = p->shared };
	struct ipc_result results[2];
	char byte = 0;

	p->shared->begin = p->shared->end = UINT64_MAX;
	tell_both(p, &turn, sizeof(turn));
	hear_both(p, "beginning a turn");
	tell_both(p, &byte, 1);
	for (unsigned int i = 0; i < 2; i++)
		hear(p, i, &results[i], sizeof(results[i]), work_names[work]);
	return results[0].count > 0 ? results[0] : results[1];
}

static void say(const struct way *way, enum ipc_work work, size_t size, bool busy,
		unsigned int round, const struct ipc_result *r)
{
	const char *load = busy ? "busy" : "idle";
	char group[96], name[96];

	snprintf(name, sizeof(name), "%s|%s", way->pair->peer->name, wait_names[way->wait]);
	if (work != IPC_ROUND_TRIP) {
		snprintf(group, sizeof(group), "%s|%s|%zu", work_names[work], load, size);
		/* Others that run are what is asked about: then it is the whole time that counts. */
		bench_emit(group, name, round, busy || !r->p50_ns ? r->ns : r->p50_ns);
		return;
	}
	snprintf(group, sizeof(group), "%s p50|%s|%zu", work_names[work], load, size);
	bench_emit(group, name, round, r->p50_ns);
	snprintf(group, sizeof(group), "%s p99|%s|%zu", work_names[work], load, size);
	bench_emit(group, name, round, r->p99_ns);
}

/* Does this peer take part? */
static bool takes_part(const struct ipc_peer *peer, enum ipc_work work, enum ipc_wait wait,
		       size_t size)
{
	return (peer->works & IPC_BIT(work)) && (peer->waits & IPC_BIT(wait)) &&
		(!peer->max || size <= peer->max) &&
		(size >= 64 || (peer->small && work == IPC_ROUND_TRIP && wait == IPC_SPINNING));
}

/* Keeps a processor busy, when it is let. */
static void burn(void *arg)
{
	raise(SIGSTOP);
	for (;;)
		__asm__ volatile("" ::: "memory");
}

static unsigned int find_ways(struct way *ret, struct pair **pairs, unsigned int nr_pairs,
			      enum ipc_work work, size_t size)
{
	unsigned int nr = 0;

	for (unsigned int i = 0; i < nr_pairs; i++)
		for (unsigned int wait = 0; wait < IPC_NR_WAITS; wait++)
			if (takes_part(pairs[i]->peer, work, wait, size))
				ret[nr++] = (struct way){ pairs[i], wait };
	return nr;
}

static void run_work(struct pair **pairs, unsigned int nr_pairs, enum ipc_work work, size_t size,
		     bool busy)
{
	struct way ways[WAYS_MAX];
	unsigned int nr = find_ways(ways, pairs, nr_pairs, work, size);

	for (unsigned int i = 0; i < 2; i++)
		kill(burners[i], busy ? SIGCONT : SIGSTOP);
	for (unsigned int round = 0; round < rounds; round++) {
		for (unsigned int k = 0; k < nr; k++) {
			const struct way *way = &ways[round % 2 ? nr - 1 - k : k];
			struct ipc_result result = run_turn(way, work, size);

			say(way, work, size, busy, round, &result);
		}
	}
	fflush(stdout);
}

static bool wanted(const char *name)
{
	for (unsigned int i = 0; i < nr_names; i++)
		if (!strcmp(names[i], name))
			return true;
	return nr_names == 0;
}

/*
 * How many messages may wait: as many as go into 4 MiB, which the processors' caches hold. Who only hands them over does not touch them, and has
 * to be far enough ahead not to wait for each.
 */
static unsigned int depth_of(size_t size, bool hand_over)
{
	size_t depth = (4u << 20) / size;

	if (hand_over)
		return HAND_OVER_DEPTH;
	return depth > 1024 ? 1024
		: depth < 8 ? 8
			    : 1u << (31 - __builtin_clz((unsigned int)depth));
}

static bool any_turn(const struct ipc_peer *peer, unsigned int works, size_t size)
{
	for (unsigned int work = 0; work < IPC_NR_WORKS; work++)
		for (unsigned int wait = 0; wait < IPC_NR_WAITS; wait++)
			if ((works & IPC_BIT(work)) && takes_part(peer, work, wait, size))
				return true;
	return false;
}

/* @works: those that the same channels are for */
static void run_works(unsigned int works, size_t size)
{
	struct pair *pairs[NR_KNOWN];
	unsigned int nr = 0;

	for (unsigned int i = 0; i < NR_KNOWN; i++) {
		const struct ipc_peer *peer = known[i].peer;

		if (peer && wanted(peer->name) && any_turn(peer, works, size))
			pairs[nr++] = start_pair(peer, size,
						 depth_of(size, works & IPC_BIT(IPC_HAND_OVER)));
	}
	/* Whoever comes first would pay for all the page faults. */
	for (unsigned int work = 0; work < IPC_NR_WORKS; work++) {
		struct way ways[WAYS_MAX];
		unsigned int nr_ways =
			works & IPC_BIT(work) ? find_ways(ways, pairs, nr, work, size) : 0;

		for (unsigned int i = 0; i < nr_ways; i++)
			if (i == 0 || ways[i].pair != ways[i - 1].pair)
				run_turn(&ways[i], work, size);
	}
	for (unsigned int work = 0; work < IPC_NR_WORKS; work++) {
		if (!(works & IPC_BIT(work)))
			continue;
		run_work(pairs, nr, work, size, false);
		/* Of what is smaller than a line only the shortest way is asked for. */
		if (size >= 64)
			run_work(pairs, nr, work, size, true);
	}
	for (unsigned int i = 0; i < 2; i++)
		kill(burners[i], SIGSTOP);
	for (unsigned int i = 0; i < nr; i++)
		end_pair(pairs[i]);
}

static void find_cpus(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) < 0 || CPU_COUNT(&set) < 2) {
		errno = 0;
		bench_die("two processors are needed");
	}
	cpus[0] = -1;
	for (int i = 0; i < CPU_SETSIZE; i++) {
		if (!CPU_ISSET(i, &set))
			continue;
		cpus[cpus[0] >= 0] = i;
	}
}

/* Names of ours, in /dev/shm, /tmp and message queues, are nobody else's, and are gone with us. */
static void seclude(void)
{
	bench_zero(unshare(CLONE_NEWNS | CLONE_NEWIPC),
		   "namespaces of one's own (root can make them)");
	bench_zero(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "a private /");
	bench_zero(mount("bench", "/dev/shm", "tmpfs", 0, "size=90%"), "/dev/shm");
	bench_zero(mount("bench", "/tmp", "tmpfs", 0, NULL), "/tmp");
}

/*
 * All of us alike, those that keep the processors busy too: so what else the machine has to do counts little. Where the scheduler makes
 * a group of each session, it is that group's niceness which counts.
 */
static void go_first(void)
{
	int fd;

	setsid();
	fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		if (write(fd, "-20", 3) != 3)
			bench_die("autogroup");
		close(fd);
	}
	bench_zero(setpriority(PRIO_PROCESS, 0, -20), "nice -20");
}

static unsigned long number(const char *text)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (!*text || *end || !value) {
		fprintf(stderr, "bench-ipc: not a number: %s\n", text);
		exit(2);
	}
	return value;
}

static void read_options(int argc, char **argv)
{
	enum { WARM = 256, RUN, ROUNDS, SIZE, PEER };
	static const struct option options[] = {
		{ "warm-us", required_argument, NULL, WARM },
		{ "run-us", required_argument, NULL, RUN },
		{ "rounds", required_argument, NULL, ROUNDS },
		{ "size", required_argument, NULL, SIZE },
		{ "peer", required_argument, NULL, PEER },
		{ 0 },
	};
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == WARM)
			warm_ns = (int64_t)number(optarg) * 1000;
		else if (opt == RUN)
			run_ns = (int64_t)number(optarg) * 1000;
		else if (opt == ROUNDS)
			rounds = (unsigned int)number(optarg);
		else if (opt == SIZE && nr_sizes < NAMES_MAX)
			sizes[nr_sizes++] = number(optarg) & ~7UL;
		else if (opt == PEER && nr_names < NAMES_MAX)
			names[nr_names++] = optarg;
		else
			exit(2);
	}
	if (!nr_sizes) {
		fprintf(stderr,
			"usage: %s --size N... [--warm-us N] [--run-us N] [--rounds N] [--peer NAME]...\n",
			argv[0]);
		exit(2);
	}
}

static void stop(pid_t pid)
{
	kill(pid, SIGKILL);
	bench_join(pid);
}

int main(int argc, char **argv)
{
	pid_t services[NR_KNOWN];
	unsigned int nr_services = 0;

	read_options(argc, argv);
	find_cpus();
	seclude();
	go_first();
	for (unsigned int i = 0; i < NR_KNOWN; i++) {
		if (!wanted(known[i].name))
			continue;
		if (!known[i].peer)
			bench_note(
				"%s is not installed and was left out; `make bench` installs it (%s)",
				known[i].name, known[i].package);
		else if (known[i].peer->serve)
			services[nr_services++] = bench_peer(known[i].peer->serve, NULL);
	}
	for (unsigned int i = 0; i < 2; i++) {
		bench.peer_cpu = cpus[i];
		burners[i] = bench_peer(burn, NULL);
		if (waitpid(burners[i], NULL, WUNTRACED) != burners[i])
			bench_die("waiting for a process to stop");
	}
	for (unsigned int i = 0; i < nr_sizes; i++) {
		run_works(IPC_ANY_WORK, sizes[i]);
		run_works(IPC_BIT(IPC_HAND_OVER), sizes[i]);
	}
	for (unsigned int i = 0; i < 2; i++)
		stop(burners[i]);
	for (unsigned int i = 0; i < nr_services; i++)
		stop(services[i]);
	return 0;
}
