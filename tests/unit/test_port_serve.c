// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_port_serve.c - serving a port: what is written, by whom, and what a caller that means ill can do.
 *
 * UNDER_VALGRIND = False: it runs one thread at a time, so nobody races.
 */
#include "no_pidfd.h"
#include "port_fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#define PAGE 4096
#define SIZE (NR_WORDS * sizeof(long))

#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define RUNNING_ON_VALGRIND 0
#endif

/* Where each instruction is many, there are fewer rounds, and more time. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SLOW 1
#else
#define SLOW RUNNING_ON_VALGRIND
#endif
#define HOSTILE_ROUNDS (SLOW ? 300000 : 5000000)
#define SLACK_NS (SLOW ? 1000000000 : 1000000)
#define FOOLED_WITHIN_NS 20000000000
#define KILLS 20
#define KILLS_MAX 400 /* until one was in time: others use this machine, too */

#define FAILS(call, error)                        \
	do {                                      \
		errno = 0;                        \
		assert_int_equal((call), -1);     \
		assert_int_equal(errno, (error)); \
	} while (0)

/* What the resource was asked for. */
static struct {
	atomic_uint reads, writes;
	int refusal;
	struct kport_writer who;
	size_t len;
	uint64_t offset;
	unsigned char bytes[SIZE];
} asked;

static int read_op(struct resource *r)
{
	asked.reads++;
	return 0;
}

static int write_op(struct resource *r, const struct kport_writer *who, const void *from,
		    size_t len, uint64_t offset)
{
	asked.writes++;
	asked.who = *who;
	asked.len = len;
	asked.offset = offset;
	memcpy(asked.bytes, from, len);
	return asked.refusal;
}

static struct kport_clobber clobbers[1000];
static atomic_uint nr_clobbers;

static void on_clobber(const struct kport_clobber *c, void *user)
{
	if (nr_clobbers < 1000)
		clobbers[nr_clobbers] = *c;
	nr_clobbers++;
}

static struct world *world_with(const struct kport_serve_options *o)
{
	static struct world w;

	memset(&w, 0, sizeof(w));
	memset(&asked, 0, sizeof(asked));
	nr_clobbers = 0;
	w.r.rops = (struct resource_ops){ .read = read_op, .write = write_op };
	world_init(&w, o);
	return &w;
}

static void test_write_goes_through(void **state)
{
	struct world *w = world_with(NULL);
	struct kport *p, *other;
	unsigned long in[4] = { 11, 12, 13, 14 }, out[4];
	unsigned int reads;

	world_start(w);
	p = world_open(w, true, 0);
	other = world_open(w, false, 0);
	reads = asked.reads;
	assert_int_equal(kport_write(p, in, 32, 160), 32);
	assert_int_equal(kport_read(other, out, 32, 160), 32);
	assert_memory_equal(in, out, 32);
	world_stop(w);
	assert_memory_equal(&w->data[20], in, 32);
	assert_int_equal(asked.writes, 1);
	assert_int_equal(asked.reads, reads + 1);
	assert_int_equal(asked.who.uid, MY_UID);
	assert_int_equal(asked.who.pid, getpid());
	assert_int_equal(asked.len, 32);
	assert_int_equal(asked.offset, 160);
	assert_memory_equal(asked.bytes, in, 32);

	/* What is refused has changed nothing. */
	asked.refusal = -ERANGE;
	in[0] = 99;
	world_start(w);
	FAILS(kport_write(p, in, 32, 160), ERANGE);
	assert_int_equal(kport_read(other, out, 32, 160), 32);
	assert_int_equal(out[0], 11);
	world_stop(w);
	assert_int_equal(w->data[20], 11);
	/* What is no errno is not given on as one. */
	asked.refusal = 7;
	world_start(w);
	FAILS(kport_write(p, in, 32, 160), EIO);
	kport_close(p);
	kport_close(other);
	world_deinit(w);
}

static void test_what_cannot_be_served(void **state)
{
	static unsigned long data[8];
	struct resource good = { .data = data, .size = sizeof(data) }, r;
	const struct kport_field sound = { .name = "x", .type = KPORT_U64, .count = 1 };
	struct kport_field f;
	struct kport_serve_options o;
	struct kport_server *s;
	unsigned int before = count_fds();

#define SERVE(change, result)                                                                 \
	do {                                                                                  \
		int pair[2];                                                                  \
		r = good;                                                                     \
		f = sound;                                                                    \
		memset(&o, 0, sizeof(o));                                                     \
		change;                                                                       \
		s = NULL;                                                                     \
		assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);            \
		assert_int_equal(port_server_new(&s, pair[0], "n", &r, &f, 1, &o), (result)); \
		kport_server_free(s);                                                         \
		close(pair[1]);                                                               \
		assert_int_equal(count_fds(), before);                                        \
	} while (0)
	SERVE((void)0, 0);
	SERVE(r.data = NULL, -EINVAL);
	SERVE(r.size = 0, -EINVAL);
	SERVE(r.size = 12, -EINVAL);
	SERVE(r.size = SIZE_MAX - 7, -EINVAL);
	SERVE(r.data = (char *)data + 4, -EINVAL);
	SERVE(f.name[0] = 0, -EINVAL);
	SERVE(strcpy(f.name, "a b"), -EINVAL);
	SERVE(strcpy(f.name, "a\nb"), -EINVAL);
	SERVE(memset(f.name, 'x', sizeof(f.name)), -EINVAL);
	SERVE(memset(f.unit, 'x', sizeof(f.unit)), -EINVAL);
	SERVE(f.type = 0, -EINVAL);
	SERVE(f.type = 6, -EINVAL);
	SERVE(f.count = 0, -EINVAL);
	SERVE((f.count = 8, f.stride = 8), 0);
	SERVE((f.count = 9, f.stride = 8), -EINVAL);
	SERVE((f.count = 2, f.stride = 4), -EINVAL);
	SERVE((f.count = UINT32_MAX, f.stride = UINT32_MAX - 7), -EINVAL);
	SERVE(f.offset = 56, 0);
	SERVE(f.offset = 60, -EINVAL);
	SERVE(f.offset = 64, -EINVAL);
	SERVE(f.offset = UINT64_MAX - 7, -EINVAL);
	SERVE(f.fraction_bits = 256, -EINVAL);
	SERVE((f.type = KPORT_CHARS, f.width = 64), 0);
	SERVE((f.type = KPORT_CHARS, f.width = 65), -EINVAL);
	SERVE((f.type = KPORT_CHARS, f.width = 65536 + 8), -EINVAL);
	SERVE(o.policy = 3, -EINVAL);
	SERVE(o.pool_pages = KPORT_POOL_MAX, 0);
	SERVE(o.pool_pages = KPORT_POOL_MAX + 1, -EINVAL);
	SERVE(o.period_ns = 1, -EINVAL);
	SERVE(o.period_ns = UINT64_MAX, -EINVAL);
}

/* What is in the bell is the caller's to choose. */
static void test_lying_lengths(void **state)
{
	const struct kport_serve_options o = { .pool_pages = 1 };
	static const uint64_t odd[] = { 1,
					7,
					PAGE + 8,
					SIZE,
					SIZE + 8,
					UINT32_MAX - 7ULL,
					1ULL << 63,
					UINT64_MAX - PAGE + 1,
					UINT64_MAX - 7,
					UINT64_MAX };
	struct world *w = world_with(&o);
	struct kport *p = world_open(w, true, 0);

	for (size_t i = 0; i < 2 * sizeof(odd) / sizeof(odd[0]); i++) {
		p->bell->off = i % 2 ? odd[i / 2] : 8;
		p->bell->len = i % 2 ? 8 : odd[i / 2];
		p->bell->request++;
		assert_int_equal(kport_server_dispatch(w->s, 1000), 1);
		assert_int_equal(p->bell->done, p->bell->request);
		assert_int_equal(p->bell->result, -EFAULT);
	}
	assert_int_equal(asked.writes, 0);
	p->bell->off = 0;
	p->bell->len = PAGE;
	p->bell->request++;
	assert_int_equal(kport_server_dispatch(w->s, 1000), 1);
	assert_int_equal(p->bell->result, 0);
	assert_int_equal(asked.writes, 1);
	kport_close(p);
	world_deinit(w);
}

/* The rule of the hostile test: of each pair of words the second is the first's complement. */
static bool is_sound(const volatile unsigned long *words, size_t nr)
{
	for (size_t i = 0; i + 1 < nr; i += 2)
		if (words[i + 1] != ~words[i])
			return false;
	return true;
}

static struct {
	struct kport *client;
	atomic_bool stop;
	uint64_t carried_out, refused, broken, fooled;
	char *pool;
	size_t pool_size;
} hostile;

static int hostile_write(struct resource *r, const struct kport_writer *who, const void *from,
			 size_t len, uint64_t offset)
{
	const unsigned long *in_place = (const unsigned long *)(hostile.pool + offset);
	bool sound;

	if (len % 8 || offset % 8 || offset > r->size || len > r->size - offset ||
	    ((const char *)from >= hostile.pool && (const char *)from < hostile.pool + SIZE))
		hostile.broken++;
	/* Who looks at the client's memory, and then uses it, uses something else. */
	sound = is_sound(in_place, len / 8);
	if (hostile.carried_out % 4096 == 0)
		sched_yield(); /* both may have the same processor */
	hostile.fooled += sound && !is_sound(in_place, len / 8);
	sound = is_sound(from, len / 8);
	hostile.refused += !sound;
	hostile.carried_out += sound;
	return sound ? 0 : -EINVAL;
}

static void *rewrite(void *arg)
{
	struct kport *p = hostile.client;
	volatile unsigned long *pool = (volatile unsigned long *)p->pool;
	uint64_t x = 88172645463325252ULL;

	while (!atomic_load_explicit(&hostile.stop, memory_order_relaxed)) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		pool[0] = x;
		pool[1] = ~x;
		pool[2] = x + 1;
		pool[3] = ~(x + 1);
		if (x % 16 == 0) {
			p->bell->off = x % 7 ? 0 : x >> 5;
			p->bell->len = x % 5 ? 32 : x >> 9;
		}
		__atomic_store_n(&p->bell->request, (uint32_t)(x >> 20), __ATOMIC_RELEASE);
	}
	return NULL;
}

/* No write is carried out that was not checked, however the caller changes it meanwhile. */
static void test_hostile_rewrites(void **state)
{
	struct world *w = world_with(NULL);
	uint64_t broken_data = 0, rounds, until_ns = port_now_ns() + FOOLED_WITHIN_NS;
	pthread_t thread;
	struct caller *c;

	w->r.rops.write = hostile_write;
	for (size_t i = 0; i < NR_WORDS; i += 2)
		w->data[i + 1] = ~w->data[i];
	memset(&hostile, 0, sizeof(hostile));
	hostile.client = world_open(w, true, 0);
	c = TAILQ_FIRST(&w->s->writers);
	hostile.pool = c->pool;
	assert_int_equal(pthread_create(&thread, NULL, rewrite, NULL), 0);
	for (rounds = 0; rounds < HOSTILE_ROUNDS || !hostile.fooled; rounds++) {
		if (rounds >= HOSTILE_ROUNDS && port_now_ns() > until_ns)
			break;
		/* Rung each time, also if the other thread does not run. */
		c->taken = __atomic_load_n(&c->bell->request, __ATOMIC_RELAXED) - 1;
		caller_take(w->s, c);
		broken_data += !is_sound(w->data, 4);
	}
	atomic_store(&hostile.stop, true);
	pthread_join(thread, NULL);
	assert_false(c->dead);
	assert_true(is_sound(w->data, NR_WORDS));
	assert_true(is_sound((const unsigned long *)hostile.client->data, NR_WORDS));
	print_message("# %llu rounds: %llu carried out, %llu refused; in place would have been "
		      "fooled %llu times\n",
		      (unsigned long long)rounds, (unsigned long long)hostile.carried_out,
		      (unsigned long long)hostile.refused, (unsigned long long)hostile.fooled);
	assert_int_equal(broken_data, 0);
	assert_int_equal(hostile.broken, 0);
	assert_true(hostile.carried_out > 0);
	assert_true(hostile.fooled > 0);
	kport_close(hostile.client);
	world_deinit(w);
}

/* A client in a process of its own; @run gets its port, and what it shares with the test. */
struct shared {
	atomic_uint ready;
	atomic_uint go;
	atomic_ullong at_ns;
	bool writes;
};

static struct shared *shared_new(void)
{
	return mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		    -1, 0);
}

static pid_t client_fork(int sock, struct shared *sh, void (*run)(struct kport *, struct shared *))
{
	pid_t pid = fork();
	struct kport *p;

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "clobberer");
	while (!sh->go)
		sched_yield();
	if (port_client_new(&p, sock, true, 0, false) == 0)
		run(p, sh);
	_exit(0);
}

static void run_clobber(struct kport *p, struct shared *sh)
{
	unsigned long word = 3;

	sh->at_ns = port_now_ns();
	p->pool[p->pool_size + 5] ^= 1;
	p->pool[p->pool_size + 9] ^= 1;
	/* Without a write only the look at each period finds it. */
	if (sh->writes)
		kport_write(p, &word, 8, 0);
	for (;;)
		pause();
}

static void test_clobber_kills(void **state)
{
	const struct kport_serve_options o = { .on_clobber = on_clobber, .period_ns = 1000000 };
	struct world *w = world_with(&o);
	uint64_t best_ns[2] = { UINT64_MAX, UINT64_MAX }, took_ns;

	if (no_pidfd())
		skip();
	for (unsigned int i = 0; i < KILLS_MAX; i++) {
		struct shared *sh = shared_new();
		struct port_open m = { .magic = PORT_SERVE_MAGIC, .access = 6, .uid = getuid() };
		struct pollfd pfd = { .events = POLLIN };
		int pair[2], status, pidfd;
		pid_t pid;

		assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
		sh->writes = i % 2;
		pid = client_fork(pair[0], sh, run_clobber);
		m.pid = (uint32_t)pid;
		pidfd = pidfd_open(pid, 0);
		pfd.fd = dup(pidfd);
		close(pair[0]);
		assert_int_equal(port_server_accept(w->s, &m, pair[1], pidfd), 0);
		sh->go = 1;
		while (poll(&pfd, 1, 0) == 0)
			assert_true(kport_server_dispatch(w->s, 1) >= 0);
		took_ns = port_now_ns() - sh->at_ns;
		if (took_ns < best_ns[i % 2])
			best_ns[i % 2] = took_ns;
		waitpid(pid, &status, 0);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		assert_int_equal(nr_clobbers, i + 1);
		assert_int_equal(clobbers[i].offset, SIZE + 5);
		assert_int_equal(clobbers[i].bytes, 5);
		assert_int_equal(clobbers[i].done, KPORT_KILL);
		assert_int_equal(clobbers[i].who.pid, pid);
		assert_int_equal(clobbers[i].who.uid, getuid());
		assert_string_equal(clobbers[i].comm, "clobberer");
		close(pfd.fd);
		munmap(sh, sizeof(*sh));
		if (i >= KILLS && best_ns[0] < o.period_ns + SLACK_NS &&
		    best_ns[1] < o.period_ns + SLACK_NS)
			break;
	}
	assert_int_equal(asked.writes, 0);
	print_message("# the fastest was dead after %llu us, and %llu us where it wrote\n",
		      (unsigned long long)best_ns[0] / 1000, (unsigned long long)best_ns[1] / 1000);
	assert_true(best_ns[0] < o.period_ns + SLACK_NS);
	assert_true(best_ns[1] < o.period_ns + SLACK_NS);
	world_deinit(w);
}

/* A process that is not all its opener's is not to be killed in his name: here it is root's. */
static void test_clobber_of_anothers_process(void **state)
{
	const struct kport_serve_options o = { .on_clobber = on_clobber, .period_ns = 1000000 };
	struct world *w = world_with(&o);
	struct port_open m = { .magic = PORT_SERVE_MAGIC, .access = 6, .uid = getuid() + 1 };
	struct shared *sh = shared_new();
	struct timespec nap = { .tv_nsec = 1000000 };
	int pair[2], status;
	pid_t pid;

	if (no_pidfd())
		skip();
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	pid = client_fork(pair[0], sh, run_clobber);
	m.pid = (uint32_t)pid;
	close(pair[0]);
	assert_int_equal(port_server_accept(w->s, &m, pair[1], pidfd_open(pid, 0)), 0);
	sh->go = 1;
	while (nr_clobbers == 0) {
		assert_true(kport_server_dispatch(w->s, 1) >= 0);
		nanosleep(&nap, NULL);
	}
	assert_int_equal(clobbers[0].done, KPORT_REVOKE);
	assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	munmap(sh, sizeof(*sh));
	world_deinit(w);
}

/* Without a pidfd nobody can be killed. */
static void test_clobber_revokes(void **state)
{
	for (int policy = KPORT_KILL; policy <= KPORT_REVOKE; policy++) {
		const struct kport_serve_options o = { .on_clobber = on_clobber, .policy = policy };
		struct world *w = world_with(&o);
		struct kport *p, *other;
		unsigned long word = 5;

		world_start(w);
		p = world_open(w, true, 0);
		other = world_open(w, true, 0);
		p->pool[-PORT_CANARY] ^= 1;
		FAILS(kport_write(p, &word, 8, 0), EPIPE);
		FAILS(kport_write(p, &word, 8, 0), EPIPE);
		FAILS(kport_write(p, &word, 8, 0), EPIPE);
		assert_int_equal(asked.writes, 0);
		assert_int_equal(kport_write(other, &word, 8, 0), 8);
		world_stop(w);
		assert_int_equal(nr_clobbers, 1);
		assert_int_equal(clobbers[0].offset, -PORT_CANARY);
		assert_int_equal(clobbers[0].bytes, 1);
		assert_int_equal(clobbers[0].done, KPORT_REVOKE);
		assert_int_equal(kport_read(p, &word, 8, 0), 8);
		kport_close(p);
		kport_close(other);
		world_deinit(w);
	}
}

static void test_clobber_is_logged(void **state)
{
	const struct kport_serve_options o = { .on_clobber = on_clobber, .policy = KPORT_LOG };
	struct world *w = world_with(&o);
	struct kport *p;
	unsigned long word = 5;

	world_start(w);
	p = world_open(w, true, 0);
	p->pool[SIZE] ^= 1;
	/* If a tick has seen it before the write, the write is as any other. */
	if (kport_write(p, &word, 8, 0) < 0)
		assert_int_equal(errno, EFAULT);
	assert_int_equal(kport_write(p, &word, 8, 0), 8);
	world_stop(w);
	assert_int_equal(nr_clobbers, 1);
	assert_int_equal(clobbers[0].done, KPORT_LOG);
	kport_close(p);
	world_deinit(w);
}

/* Put back before anybody looks, or known beforehand: nobody sees it, and it is of no use. */
static void test_forged_shadow_bytes(void **state)
{
	const struct kport_serve_options o = { .on_clobber = on_clobber };
	struct world *w = world_with(&o);
	struct kport *p = world_open(w, true, 0), *q = world_open(w, true, 0);
	unsigned char seen[PORT_CANARY];

	memcpy(seen, p->pool + SIZE, PORT_CANARY);
	memset(p->pool + SIZE, 0, PORT_CANARY);
	memcpy(p->pool + SIZE, seen, PORT_CANARY);
	assert_memory_not_equal(q->pool + SIZE, seen, PORT_CANARY);
	p->bell->len = 8;
	p->bell->request++;
	assert_int_equal(kport_server_dispatch(w->s, 1000), 1);
	assert_int_equal(nr_clobbers, 0);
	assert_int_equal(p->bell->result, 0);
	/* One client's shadow bytes are not another's. */
	memcpy(q->pool + SIZE, seen, PORT_CANARY);
	q->bell->request++;
	assert_int_equal(kport_server_dispatch(w->s, 1000), 1);
	assert_int_equal(nr_clobbers, 1);
	assert_int_equal(q->bell->result, -EPIPE);
	kport_close(p);
	kport_close(q);
	world_deinit(w);
}

/* What a client has is its own pool, of fixed length, and a page that it can only read. */
static void test_memory_is_sealed(void **state)
{
	struct world *w = world_with(NULL);
	struct port_hello h[2];
	int fds[2][PORT_FDS_MAX], socks[2];
	unsigned int nr;
	unsigned long word = 1;

	for (int i = 0; i < 2; i++) {
		socks[i] = world_announce(w, 6, MY_UID, -1);
		assert_true(kport_server_dispatch(w->s, 1000) >= 0);
		assert_int_equal(port_recv(socks[i], &h[i], sizeof(h[i]), fds[i], &nr), 0);
		assert_int_equal(nr, 3);
	}
	for (int i = 0; i < 2; i++) {
		int page = fds[i][0], pool = fds[i][1];

		FAILS(ftruncate(page, 0), EPERM);
		FAILS(ftruncate(page, 1 << 20), EPERM);
		FAILS(pwrite(page, &word, 8, 0), EPERM);
		FAILS(fallocate(page, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE), EPERM);
		FAILS(fcntl(page, F_ADD_SEALS, F_SEAL_WRITE), EPERM);
		assert_ptr_equal(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, page, 0),
				 MAP_FAILED);
		FAILS(ftruncate(pool, 0), EPERM);
		FAILS(ftruncate(pool, 1 << 20), EPERM);
		FAILS(fcntl(pool, F_ADD_SEALS, F_SEAL_WRITE), EPERM);
		/* Its own can be emptied: then its shadow bytes are gone, and so is it. */
		if (i == 0)
			assert_int_equal(fallocate(pool, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
						   0, 4 * PAGE),
					 0);
	}
	tick_until_gone(w, 1);
	/* The other one's was not reached. */
	assert_int_equal(pread(fds[1][1], &word, 8, PAGE - PORT_CANARY), 8);
	assert_memory_equal(&word, TAILQ_FIRST(&w->s->writers)->sbr.before, 8);
	for (int i = 0; i < 2; i++) {
		for (int j = 0; j < 3; j++)
			close(fds[i][j]);
		close(socks[i]);
	}
	world_deinit(w);
}

static void test_limits_of_a_user(void **state)
{
	const struct kport_serve_options o = { .max_clients_uid = 3 };
	struct world *w = world_with(&o);
	struct kport *p[5], *one;

	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 3; i++)
			p[i] = world_open(w, true, 0);
		assert_int_equal(world_try(w, true, MY_UID, 0, &one), -EDQUOT);
		assert_int_equal(world_try(w, true, MY_UID + 1, 0, &p[3]), 0);
		assert_int_equal(world_try(w, false, MY_UID, 0, &p[4]), 0);
		for (int i = 0; i < 5; i++)
			kport_close(p[i]);
		tick_until_gone(w, 0);
	}
	world_deinit(w);
}

static void test_many_readers(void **state)
{
	struct world *w = world_with(NULL);
	unsigned int before = count_fds(), nr = 0;
	struct kport *p[2000], *one = NULL;
	int r = 0;

	while (nr < 2000 && (r = world_try(w, false, MY_UID, 0, &p[nr])) == 0)
		nr++;
	assert_true(nr >= 16);
	assert_true(r == 0 || r == -EDQUOT || r == -ECONNREFUSED);
	/* Somebody else's share is his. */
	if (r == -EDQUOT) {
		assert_int_equal(world_try(w, false, MY_UID + 1, 0, &one), 0);
		kport_close(one);
	}
	for (unsigned int i = 0; i < nr; i++)
		kport_close(p[i]);
	tick_until_gone(w, 0);
	assert_int_equal(count_fds(), before);
	world_deinit(w);
}

/* What is not what the daemon sends is thrown away, with its descriptors. */
static void test_odd_announcements(void **state)
{
	struct world *w = world_with(NULL);
	struct port_open good = { .magic = PORT_SERVE_MAGIC, .access = 6, .uid = MY_UID }, m;
	unsigned int before = count_fds();
	int pair[2], fds[3];

#define ANNOUNCE(change, size, nr)                                                                \
	do {                                                                                      \
		assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0); \
		fds[0] = fds[1] = fds[2] = pair[1];                                               \
		m = good;                                                                         \
		change;                                                                           \
		assert_int_equal(port_send(w->daemon, &m, size, fds, nr), 0);                     \
		close(pair[1]);                                                                   \
		assert_int_equal(kport_server_dispatch(w->s, 1000), 0);                           \
		close(pair[0]);                                                                   \
		assert_true(TAILQ_EMPTY(&w->s->writers));                                         \
		assert_true(TAILQ_EMPTY(&w->s->readers));                                         \
		assert_int_equal(count_fds(), before);                                            \
	} while (0)
	ANNOUNCE(m.magic++, sizeof(m), 1);
	ANNOUNCE((void)0, sizeof(m) - 1, 1);
	ANNOUNCE((void)0, 1, 3);
	ANNOUNCE((void)0, sizeof(m), 0);
	ANNOUNCE((void)0, sizeof(m), 2);
	ANNOUNCE((void)0, sizeof(m), 3);
	ANNOUNCE(m.flags = PORT_OPEN_PIDFD, sizeof(m), 1);
	ANNOUNCE(m.flags = PORT_OPEN_HOLD, sizeof(m), 1);
	ANNOUNCE(m.flags = UINT32_MAX, sizeof(m), 3);
	ANNOUNCE(m.access = 0, sizeof(m), 1);
	ANNOUNCE(m.what = PORT_WHAT_RULE, sizeof(m), 1);
	world_deinit(w);
}

static uint64_t times_rung(const struct kport *p)
{
	uint64_t times = 0;

	fcntl(p->bell_fd, F_SETFL, O_NONBLOCK);
	return read(p->bell_fd, &times, sizeof(times)) < 0 ? 0 : times;
}

static void *serve_awake(void *arg)
{
	struct world *w = arg;

	while (!atomic_load(&w->stop))
		kport_server_dispatch(w->s, 0);
	return NULL;
}

static void *serve_unawares(void *arg)
{
	struct world *w = arg;
	struct pollfd pfd = { .fd = kport_server_fd(w->s), .events = POLLIN };

	while (!atomic_load(&w->stop))
		if (poll(&pfd, 1, 5) > 0)
			kport_server_dispatch(w->s, 0);
	return NULL;
}

/* A server that looks all the time is not rung; one that sleeps is; and one that seems to look and sleeps is, too. */
static void test_bell(void **state)
{
	struct world *w = world_with(NULL);
	struct kport *p = world_open(w, true, 0);
	unsigned long word = 7;
	uint64_t rung;

	world_start(w);
	for (int i = 0; i < 100; i++)
		assert_int_equal(kport_write(p, &word, 8, 0), 8);
	world_stop(w);
	rung = times_rung(p);
	assert_true(rung > 0 && rung <= 100);

	atomic_store(&w->stop, false);
	pthread_create(&w->thread, NULL, serve_unawares, w);
	for (int i = 0; i < 100; i++) {
		__atomic_store_n(&p->bell->awake, 1, __ATOMIC_SEQ_CST);
		assert_int_equal(kport_write(p, &word, 8, 0), 8);
	}
	w->served = true;
	world_stop(w);
	assert_true(times_rung(p) > 0);

	atomic_store(&w->stop, false);
	pthread_create(&w->thread, NULL, serve_awake, w);
	while (!__atomic_load_n(&p->bell->awake, __ATOMIC_SEQ_CST))
		sched_yield();
	/* It may be away for longer than its client looks, but not each time. */
	times_rung(p);
	do
		for (int i = 0; i < 100; i++)
			assert_int_equal(kport_write(p, &word, 8, 0), 8);
	while (times_rung(p) == 100);
	w->served = true;
	world_stop(w);
	kport_close(p);
	world_deinit(w);
}

static void test_entry_that_is_removed(void **state)
{
	struct world *w = world_with(NULL);
	struct kport *p = world_open(w, true, 0);

	close(w->daemon);
	w->daemon = -1;
	FAILS(kport_server_dispatch(w->s, 1000), ENOTCONN);
	/* Who has it open goes on. */
	p->bell->len = 8;
	p->bell->request++;
	assert_int_equal(kport_server_dispatch(w->s, 1000), 1);
	kport_close(p);
	tick_until_gone(w, 0);
	FAILS(kport_server_dispatch(w->s, -1), ENOTCONN);
	world_deinit(w);
}

static void run_writes(struct kport *p, struct shared *sh)
{
	unsigned long words[NR_WORDS];

	for (unsigned long i = 1;; i++) {
		for (size_t j = 0; j < NR_WORDS; j++)
			words[j] = i;
		sh->ready = 1;
		if (kport_write(p, words, sizeof(words), 0) < 0)
			_exit(1);
	}
}

/* Clients that are killed at any moment leave nothing behind, and no torn data. */
static void test_clients_die(void **state)
{
	struct world *w = world_with(NULL);
	unsigned int before = count_fds();

	for (unsigned int i = 0; i < 150; i++) {
		struct shared *sh = shared_new();
		struct port_open m = { .magic = PORT_SERVE_MAGIC, .access = 6, .uid = MY_UID };
		uint64_t until_ns;
		int pair[2];
		pid_t pid;

		assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
		pid = client_fork(pair[0], sh, run_writes);
		close(pair[0]);
		assert_int_equal(port_server_accept(w->s, &m, pair[1], pidfd_open(pid, 0)), 0);
		sh->go = 1;
		while (!sh->ready && i % 3)
			sched_yield();
		until_ns = port_now_ns() + (i * 7919) % 1000000;
		while (port_now_ns() < until_ns)
			assert_true(kport_server_dispatch(w->s, 0) >= 0);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		tick_until_gone(w, 0);
		for (size_t j = 1; j < NR_WORDS; j++)
			assert_int_equal(w->data[j], w->data[0]);
		munmap(sh, sizeof(*sh));
	}
	assert_int_equal(count_fds(), before);
	assert_true(asked.writes > 0);
	world_deinit(w);
}

/* A server that is killed at any moment: its clients learn of it, and what they read is whole, or EAGAIN for ever. */
static void test_servers_die(void **state)
{
	unsigned int before = count_fds(), whole = 0;

	for (unsigned int i = 0; i < 100; i++) {
		unsigned long words[NR_WORDS], in[NR_WORDS];
		struct timespec pause = { .tv_nsec = (i * 104729) % 2000000 };
		struct kport_info info;
		struct kport *p = NULL;
		uint64_t since_ns;
		int pair[2], sock;
		struct world *w = world_with(NULL);
		pid_t pid;

		pid = fork();
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;)
				kport_server_dispatch(w->s, i % 2 ? 0 : 5);
		}
		assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
		sock = world_announce(w, 6, MY_UID, -1);
		kport_server_free(w->s);
		close(w->daemon);
		close(pair[0]);
		close(pair[1]);
		assert_int_equal(port_client_new(&p, sock, true, 0, false), 0);
		if (fork() == 0) {
			nanosleep(&pause, NULL);
			kill(pid, SIGKILL);
			_exit(0);
		}
		for (unsigned long n = 1;; n++) {
			for (size_t j = 0; j < NR_WORDS; j++)
				in[j] = n;
			since_ns = port_now_ns();
			if (kport_write(p, in, sizeof(in), 0) < 0)
				break;
		}
		assert_int_equal(errno, EPIPE);
		assert_true(port_now_ns() - since_ns < 2000000000);
		if (kport_read(p, words, sizeof(words), 0) < 0) {
			assert_int_equal(errno, EAGAIN);
		} else {
			for (size_t j = 1; j < NR_WORDS; j++)
				assert_int_equal(words[j], words[0]);
			assert_int_equal(kport_info(p, &info), 0);
			assert_int_equal(info.gone, 1);
			whole++;
		}
		kport_close(p);
		assert_true(waitpid(-1, NULL, 0) > 0 && waitpid(-1, NULL, 0) > 0);
	}
	assert_true(whole > 0);
	assert_int_equal(count_fds(), before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_write_goes_through),
		cmocka_unit_test(test_what_cannot_be_served),
		cmocka_unit_test(test_lying_lengths),
		cmocka_unit_test(test_hostile_rewrites),
		cmocka_unit_test(test_clobber_kills),
		cmocka_unit_test(test_clobber_of_anothers_process),
		cmocka_unit_test(test_clobber_revokes),
		cmocka_unit_test(test_clobber_is_logged),
		cmocka_unit_test(test_forged_shadow_bytes),
		cmocka_unit_test(test_memory_is_sealed),
		cmocka_unit_test(test_limits_of_a_user),
		cmocka_unit_test(test_many_readers),
		cmocka_unit_test(test_odd_announcements),
		cmocka_unit_test(test_bell),
		cmocka_unit_test(test_entry_that_is_removed),
		cmocka_unit_test(test_clients_die),
		cmocka_unit_test(test_servers_die),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
