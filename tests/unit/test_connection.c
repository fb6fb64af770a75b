// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_connection.c - the library's kept connection against a server that fails as a server can.
 *
 * The server runs in a process of its own, as the real one does, with a thread for each connection. It breaks the
 * connection before or after it has carried a request out, says ESTALE, answers junk, or keeps the connection and answers
 * no more. However it fails, a call that succeeded was carried out exactly once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <kshared.h>
#include <kshared/srv.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <wire/ctl.h>

#define NR_THREADS 4
#define NR_CHILDREN 3
#define NR_CALLS 400
#define SLOW_SECONDS 5
#define NR_NAMES (NR_CALLS * NR_THREADS * (NR_CHILDREN + 2))

enum fault {
	NO_FAULT,
	STORMY,
	BAD_MAGIC,
	BAD_SEQ,
	BAD_LENGTH,
	BAD_RESULT,
	TOO_SHORT,
	TOO_LONG,
	NO_FD,
	EXTRA_FD,
	STALE,
	BREAK_ONCE,
	SLOW,
	UNREAD
};

struct done {
	uint64_t token;
	uint64_t seq;
	int number;
	bool known;
};

/* Shared with the server's process. */
struct control {
	_Atomic int fault;
	_Atomic unsigned int generation; /* connections of an earlier one are not answered any more */
	_Atomic int nr_mute; /* so many connections will never be answered */
	_Atomic unsigned int nr_connections;
	_Atomic unsigned int nr_retries;
	_Atomic unsigned int wrong; /* what no client may do */
	_Atomic unsigned int carried_out[NR_NAMES];
};

static struct control *control;
static char directory[] = "/tmp/test-connection-XXXXXX";
static char path[64];
static pid_t server;

/* Only the server's process uses these. */
static struct done done[1 << 16];
static pthread_mutex_t done_lock = PTHREAD_MUTEX_INITIALIZER;

static unsigned int random_of(unsigned int *seed, unsigned int n)
{
	*seed = *seed * 1103515245 + 12345;
	return (*seed >> 16) % n;
}

/* Carry a removal out, once. */
static void carry_out(const struct ctl_request *m)
{
	int number = atoi(m->path + 4);
	struct done *d;

	pthread_mutex_lock(&done_lock);
	d = &done[(m->token * 31 + m->seq) % (1 << 16)];
	while (d->known && (d->token != m->token || d->seq != m->seq))
		d = d == &done[(1 << 16) - 1] ? done : d + 1;
	if (!d->known) {
		*d = (struct done){
			.token = m->token, .seq = m->seq, .number = number, .known = true
		};
		atomic_fetch_add(&control->carried_out[number], 1);
	} else if (d->number != number || !(m->ctl_flags & CTL_F_RETRY)) {
		atomic_fetch_add(&control->wrong, 1);
	}
	pthread_mutex_unlock(&done_lock);
}

static int send_reply(int sock, const void *bytes, size_t len, int nr_fds)
{
	int fds[2] = { STDIN_FILENO, STDIN_FILENO };
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(fds))];
	} c = { 0 };
	struct iovec iov = { .iov_base = (void *)bytes, .iov_len = len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (nr_fds) {
		m.msg_control = &c;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)nr_fds);
		c.h = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
					.cmsg_type = SCM_RIGHTS,
					.cmsg_len = CMSG_LEN(sizeof(int) * (size_t)nr_fds) };
		memcpy(CMSG_DATA(&c.h), fds, sizeof(int) * (size_t)nr_fds);
	}
	return sendmsg(sock, &m, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

/* Answer one request, or do not. Return: -1: the connection is to be broken. */
static int answer(int sock, const struct ctl_request *m, unsigned int *seed)
{
	struct {
		struct ctl_reply head;
		struct ctl_entry entry;
	} reply = { .head = { .magic = CTL_MAGIC, .seq = m->seq } };
	int fault = m->op == CTL_HELLO ? NO_FAULT : atomic_load(&control->fault),
	    nr_fds = m->op == CTL_OPEN;
	size_t len;

	if (fault == BREAK_ONCE) {
		atomic_store(&control->fault, NO_FAULT);
		return -1;
	}
	if (fault == SLOW)
		sleep(SLOW_SECONDS);
	if (m->op == CTL_HELLO)
		reply.head.count = atomic_load(&control->generation);
	if (m->op == CTL_STAT || m->op == CTL_OPEN)
		reply.head.body_len = sizeof(reply.entry);
	len = sizeof(reply.head) + reply.head.body_len;
	if (fault == STORMY) {
		switch (random_of(seed, 12)) {
		case 0:
			return -1;
		case 1:
			if (m->op == CTL_REMOVE)
				carry_out(m);
			return -1;
		case 2:
			reply.head.result = -ESTALE;
			reply.head.body_len = 0;
			return send_reply(sock, &reply, sizeof(reply.head), 0);
		}
	}
	if (m->op == CTL_REMOVE)
		carry_out(m);
	switch (fault) {
	case BAD_MAGIC:
		reply.head.magic++;
		break;
	case BAD_SEQ:
		reply.head.seq++;
		break;
	case BAD_LENGTH:
		reply.head.body_len++;
		break;
	case BAD_RESULT:
		reply.head.result = 1;
		break;
	case TOO_SHORT:
		len = sizeof(reply.head) - 1;
		break;
	case TOO_LONG:
		len = sizeof(reply);
		reply.head.body_len = sizeof(reply.entry) * 2;
		break;
	case NO_FD:
		nr_fds = 0;
		break;
	case EXTRA_FD:
		nr_fds++;
		break;
	case UNREAD:
		reply.head = (struct ctl_reply){ .magic = CTL_MAGIC, .result = -EBUSY };
		send_reply(sock, &reply, sizeof(reply.head), 0);
		return -1;
	case STALE:
		reply.head =
			(struct ctl_reply){ .magic = CTL_MAGIC, .seq = m->seq, .result = -ESTALE };
		len = sizeof(reply.head);
		nr_fds = 0;
		break;
	}
	return send_reply(sock, &reply, len, nr_fds);
}

static void *serve_one(void *arg)
{
	int sock = (int)(intptr_t)arg;
	unsigned int seed = atomic_fetch_add(&control->nr_connections, 1),
		     generation = atomic_load(&control->generation);
	bool mute = atomic_load(&control->nr_mute) > 0 &&
		atomic_fetch_sub(&control->nr_mute, 1) > 0;
	struct ctl_request m;
	ssize_t n;

	for (;;) {
		memset(&m, 0, sizeof(m));
		n = recv(sock, &m, sizeof(m), 0);
		if (n <= 0)
			break;
		if (m.magic != CTL_MAGIC || !m.token || (size_t)n != CTL_REQUEST_MIN + m.path_len)
			atomic_fetch_add(&control->wrong, 1);
		if (m.ctl_flags & CTL_F_RETRY)
			atomic_fetch_add(&control->nr_retries, 1);
		if (mute || generation != atomic_load(&control->generation)) {
			/* It hangs before or after it has done it. */
			if (m.op == CTL_REMOVE && m.path[m.path_len - 1] % 2)
				carry_out(&m);
			continue;
		}
		if (answer(sock, &m, &seed) < 0)
			break;
	}
	close(sock);
	return NULL;
}

static _Noreturn void serve(int listening)
{
	pthread_attr_t attr;
	pthread_t thread;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	for (;;) {
		int sock = accept4(listening, NULL, NULL, SOCK_CLOEXEC);

		if (sock < 0 ||
		    pthread_create(&thread, &attr, serve_one, (void *)(intptr_t)sock) != 0)
			_exit(1);
	}
}

static int start_server(void **state)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int listening = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		       -1, 0);
	if (control == MAP_FAILED || !mkdtemp(directory))
		return -1;
	snprintf(path, sizeof(path), "%s/socket", directory);
	memcpy(sa.sun_path, path, sizeof(path));
	if (bind(listening, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(listening, 64) < 0)
		return -1;
	server = fork();
	if (server == 0)
		serve(listening);
	close(listening);
	return server > 0 ? 0 : -1;
}

static int stop_server(void **state)
{
	kill(server, SIGKILL);
	waitpid(server, NULL, 0);
	unlink(path);
	rmdir(directory);
	munmap(control, sizeof(*control));
	return 0;
}

static int calm(void **state)
{
	alarm(100);
	atomic_store(&control->fault, NO_FAULT);
	atomic_store(&control->generation, 1);
	atomic_store(&control->nr_mute, 0);
	atomic_store(&control->nr_retries, 0);
	for (int i = 0; i < NR_NAMES; i++)
		atomic_store(&control->carried_out[i], 0);
	return 0;
}

static struct kshared *shared;

struct calls {
	struct kshared *k;
	int first;
	unsigned int failed;
};

static int remove_number(struct kshared *k, int number)
{
	char name[32];

	snprintf(name, sizeof(name), "srv/%d", number);
	return kshared_remove(k, name);
}

static void *make_calls(void *arg)
{
	struct calls *c = arg;

	for (int i = 0; i < NR_CALLS; i++)
		if (remove_number(c->k, c->first + i) != 0)
			c->failed++;
	return NULL;
}

/* Threads of this process, on one connection. Return: how many calls failed. */
static unsigned int many_threads(struct kshared *k, int first)
{
	struct calls calls[NR_THREADS];
	pthread_t threads[NR_THREADS];
	unsigned int failed = 0;

	for (int i = 0; i < NR_THREADS; i++) {
		calls[i] = (struct calls){ .k = k, .first = first + i * NR_CALLS };
		if (pthread_create(&threads[i], NULL, make_calls, &calls[i]) != 0)
			abort();
	}
	for (int i = 0; i < NR_THREADS; i++) {
		pthread_join(threads[i], NULL);
		failed += calls[i].failed;
	}
	return failed;
}

static void expect_once(int first, int n)
{
	for (int i = first; i < first + n; i++)
		assert_int_equal(atomic_load(&control->carried_out[i]), 1);
	assert_int_equal(atomic_load(&control->wrong), 0);
}

static void test_threads_share_a_connection(void **state)
{
	struct kshared *k = kshared_connect(path);
	unsigned int before;

	assert_non_null(k);
	assert_int_equal(remove_number(k, NR_NAMES - 1), 0);
	before = atomic_load(&control->nr_connections);
	assert_int_equal(many_threads(k, 0), 0);
	expect_once(0, NR_THREADS * NR_CALLS);
	assert_int_equal(atomic_load(&control->nr_connections), before);
	assert_int_equal(atomic_load(&control->nr_retries), 0);
	kshared_disconnect(k);
}

static void test_a_server_that_comes_and_goes(void **state)
{
	struct kshared *k = kshared_connect(path);

	assert_non_null(k);
	atomic_store(&control->fault, STORMY);
	assert_int_equal(many_threads(k, 0), 0);
	expect_once(0, NR_THREADS * NR_CALLS);
	assert_true(atomic_load(&control->nr_retries) > 0);
	kshared_disconnect(k);
}

static void *fork_children(void *arg)
{
	unsigned int *failed = arg;
	pid_t pids[NR_CHILDREN];

	for (int i = 0; i < NR_CHILDREN; i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			struct calls c = { .k = shared, .first = (i + 1) * NR_THREADS * NR_CALLS };

			make_calls(&c);
			kshared_disconnect(shared);
			_exit(c.failed != 0);
		}
	}
	for (int i = 0; i < NR_CHILDREN; i++) {
		int status;

		waitpid(pids[i], &status, 0);
		*failed += status != 0;
	}
	return NULL;
}

static void test_children_are_born_while_threads_call(void **state)
{
	unsigned int failed = 0;
	pthread_t forker;

	atomic_store(&control->fault, STORMY);
	shared = kshared_connect(path);
	assert_non_null(shared);
	assert_int_equal(pthread_create(&forker, NULL, fork_children, &failed), 0);
	assert_int_equal(many_threads(shared, 0), 0);
	pthread_join(forker, NULL);
	assert_int_equal(failed, 0);
	expect_once(0, NR_THREADS * NR_CALLS);
	for (int i = 1; i <= NR_CHILDREN; i++)
		expect_once(i * NR_THREADS * NR_CALLS, NR_CALLS);
	kshared_disconnect(shared);
}

static const int junk[] = { BAD_MAGIC, BAD_SEQ, BAD_LENGTH, BAD_RESULT, TOO_SHORT, TOO_LONG };

static void test_junk_is_an_error_and_then_over(void **state)
{
	struct kshared *k = kshared_connect(path);
	struct kshared_entry e;

	assert_non_null(k);
	for (size_t i = 0; i < sizeof(junk) / sizeof(junk[0]); i++) {
		atomic_store(&control->fault, junk[i]);
		errno = 0;
		assert_int_equal(kshared_stat(k, "srv/1", &e), -1);
		assert_int_equal(errno, EPROTO);
		atomic_store(&control->fault, NO_FAULT);
		assert_int_equal(remove_number(k, (int)i), 0);
	}
	expect_once(0, sizeof(junk) / sizeof(junk[0]));
	kshared_disconnect(k);
}

static int lowest_free_fd(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	close(fd);
	return fd;
}

static void test_descriptors_are_just_those_asked_for(void **state)
{
	struct kshared *k = kshared_connect(path);
	struct kshared_entry e;
	int fd, lowest = lowest_free_fd();

	fd = ksrv_open(k, "1", O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	close(fd);
	assert_int_equal(lowest_free_fd(), lowest);
	atomic_store(&control->fault, NO_FD);
	assert_int_equal(ksrv_open(k, "1", O_RDONLY), -1);
	assert_int_equal(errno, EPROTO);
	atomic_store(&control->fault, EXTRA_FD);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(ksrv_open(k, "1", O_RDONLY), -1);
		assert_int_equal(errno, EPROTO);
		assert_int_equal(kshared_stat(k, "srv/1", &e), -1);
		assert_int_equal(errno, EPROTO);
	}
	kshared_disconnect(k);
	/* The connection's own number at most. */
	assert_true(lowest_free_fd() <= lowest);
}

static void test_a_server_that_never_believes(void **state)
{
	struct kshared *k = kshared_connect(path);

	atomic_store(&control->fault, STALE);
	assert_int_equal(remove_number(k, 1), -1);
	assert_int_equal(errno, ESTALE);
	atomic_store(&control->fault, NO_FAULT);
	assert_int_equal(remove_number(k, 2), 0);
	kshared_disconnect(k);
}

static void on_alarm(int number)
{
}

/* A signal every 300 ms, or none any more. */
static void signals(bool on)
{
	struct sigaction action = { .sa_handler = on ? on_alarm : SIG_DFL };
	struct itimerval every = { 0 };

	if (on)
		every.it_interval.tv_usec = every.it_value.tv_usec = 300000;
	else
		setitimer(ITIMER_REAL, &every, NULL);
	sigaction(SIGALRM, &action, NULL);
	if (on)
		setitimer(ITIMER_REAL, &every, NULL);
}

static void test_a_worker_that_was_left_behind(void **state)
{
	struct kshared *k = kshared_connect(path);

	assert_non_null(k);
	signals(true);
	for (int i = 0; i < 2; i++) {
		atomic_fetch_add(&control->generation, 1);
		assert_int_equal(remove_number(k, i), 0);
		assert_int_equal(atomic_load(&control->nr_retries), i + 1);
	}
	signals(false);
	expect_once(0, 2);
	kshared_disconnect(k);
}

static void test_a_worker_that_never_said_a_word(void **state)
{
	struct kshared *k = kshared_connect(path);

	assert_non_null(k);
	atomic_store(&control->fault, BREAK_ONCE);
	atomic_store(&control->nr_mute, 1);
	assert_int_equal(remove_number(k, 1), 0);
	expect_once(1, 1);
	kshared_disconnect(k);
}

static void test_a_request_may_take_long(void **state)
{
	struct kshared *k = kshared_connect(path);
	unsigned int before;

	assert_non_null(k);
	assert_int_equal(remove_number(k, 1), 0);
	before = atomic_load(&control->nr_connections);
	atomic_store(&control->fault, SLOW);
	assert_int_equal(remove_number(k, 2), 0);
	expect_once(1, 2);
	assert_int_equal(atomic_load(&control->nr_retries), 0);
	/* It was asked about meanwhile. */
	assert_true(atomic_load(&control->nr_connections) > before);
	kshared_disconnect(k);
}

static unsigned int count_sockets(void)
{
	char link[32], what[8] = "";
	unsigned int n = 0;

	for (int fd = 0; fd < 256; fd++) {
		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		n += readlink(link, what, sizeof(what) - 1) > 0 && strcmp(what, "socket:") == 0;
	}
	return n;
}

static void *remove_one(void *arg)
{
	return (void *)(intptr_t)remove_number(arg, 1);
}

static void test_a_child_born_while_it_is_asked(void **state)
{
	struct kshared *k = kshared_connect(path);
	unsigned int sockets = count_sockets();
	pthread_t caller;
	void *result;
	int status;
	pid_t pid;

	assert_non_null(k);
	atomic_store(&control->fault, SLOW);
	atomic_store(&control->nr_mute, NR_NAMES);
	assert_int_equal(pthread_create(&caller, NULL, remove_one, k), 0);
	while (count_sockets() == sockets)
		usleep(10000);
	usleep(100000);
	pid = fork();
	if (pid == 0) {
		kshared_disconnect(k);
		_exit(count_sockets() == sockets - 1 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	pthread_join(caller, &result);
	assert_null(result);
	expect_once(1, 1);
	kshared_disconnect(k);
}

static void test_a_request_that_is_refused_unread(void **state)
{
	struct kshared *k = kshared_connect(path);

	assert_non_null(k);
	atomic_store(&control->fault, UNREAD);
	assert_int_equal(ksrv_post(k, "1", STDIN_FILENO, 0600), -1);
	assert_int_equal(errno, EBUSY);
	atomic_store(&control->fault, NO_FAULT);
	assert_int_equal(remove_number(k, 1), 0);
	kshared_disconnect(k);
}

static void test_nobody_serves(void **state)
{
	char where[128];

	snprintf(where, sizeof(where), "%s/none", directory);
	assert_null(kshared_connect(where));
	assert_true(errno == ENOENT || errno == ECONNREFUSED);
	assert_null(kshared_connect("/dev/null"));
	assert_null(kshared_connect(""));
	assert_int_equal(errno, ENOENT);
}

#define TEST(name) cmocka_unit_test_setup(name, calm)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_threads_share_a_connection),
		TEST(test_a_server_that_comes_and_goes),
		TEST(test_children_are_born_while_threads_call),
		TEST(test_junk_is_an_error_and_then_over),
		TEST(test_descriptors_are_just_those_asked_for),
		TEST(test_a_server_that_never_believes),
		TEST(test_a_worker_that_was_left_behind),
		TEST(test_a_worker_that_never_said_a_word),
		TEST(test_a_request_may_take_long),
		TEST(test_a_child_born_while_it_is_asked),
		TEST(test_a_request_that_is_refused_unread),
		TEST(test_nobody_serves),
	};

	return cmocka_run_group_tests(tests, start_server, stop_server);
}
