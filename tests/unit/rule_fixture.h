/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rule_fixture.h - a control group of the test's own, an agent in it that creates sockets when asked, and clients of rules.
 */
#ifndef KSHARED_TESTS_RULE_FIXTURE_H
#define KSHARED_TESTS_RULE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <bpf/bpf.h>
#include <engine/bpf/rule.h>
#include <engine/bpf/rule_abi.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ENTRY 77
#define NOBODY 65534
#define WORD(member) (offsetof(struct port_rule, member))

static inline uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

/* What happened to one socket that the agent was asked for. */
struct answer {
	int error; /* 0: it was made */
	int mark;
	int priority;
};

/**
 * struct group - a control group, and the agent in it.
 * @made: sockets that the agent made in a row since it was told to go on by itself
 */
struct group {
	char path[PATH_MAX];
	int fd;
	int agent_fd;
	pid_t agent;
	volatile uint64_t *tried, *made;
};

static inline void agent_try(struct answer *ret)
{
	socklen_t len = sizeof(int);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	*ret = (struct answer){ .error = fd < 0 ? errno : 0 };
	if (fd < 0)
		return;
	getsockopt(fd, SOL_SOCKET, SO_MARK, &ret->mark, &len);
	getsockopt(fd, SOL_SOCKET, SO_PRIORITY, &ret->priority, &len);
	close(fd);
}

/* 's': one socket; 'g': one after the other, until 'h'. */
static inline void agent_main(const struct group *g, int fd)
{
	struct answer a;
	char c;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* Descriptors of programs would keep them. */
	syscall(SYS_close_range, 3, fd - 1, 0);
	syscall(SYS_close_range, fd + 1, ~0U, 0);
	while (read(fd, &c, 1) == 1) {
		agent_try(&a);
		while (c == 'g') {
			struct answer each;

			agent_try(&each);
			*g->tried += 1;
			*g->made += each.error == 0;
			if (recv(fd, &c, 1, MSG_DONTWAIT) != 1)
				c = 'g';
		}
		if (write(fd, &a, sizeof(a)) != sizeof(a))
			break;
	}
	_exit(0);
}

static inline bool find_cgroup2(char *ret)
{
	FILE *f = fopen("/proc/self/mounts", "re");
	char line[4096], where[1024], type[64];
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*s %1023s %63s", where, type) == 2 &&
		    strcmp(type, "cgroup2") == 0) {
			snprintf(ret, PATH_MAX, "%s/kshared-test-%d", where, (int)getpid());
			found = mkdir(ret, 0755) == 0;
		}
	if (f)
		fclose(f);
	return found;
}

static inline void group_free(struct group *g)
{
	if (g->agent > 0) {
		close(g->agent_fd);
		waitpid(g->agent, NULL, 0);
	}
	close(g->fd);
	/* A process that has ended is in its control group for a moment longer. */
	for (int i = 0; i < 1000 && rmdir(g->path) && errno == EBUSY; i++)
		usleep(1000);
	munmap((void *)g->tried, 4096);
}

/* Skips the test where there is no cgroup2 to be had. */
static inline void group_new(struct group *ret)
{
	char procs[PATH_MAX + 16], text[16];
	int ends[2], fd;

	*ret = (struct group){ .fd = -1 };
	if (!find_cgroup2(ret->path))
		skip();
	ret->fd = open(ret->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(ret->fd >= 0);
	ret->tried = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(ret->tried, MAP_FAILED);
	ret->made = ret->tried + 1;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
	ret->agent = fork();
	assert_true(ret->agent >= 0);
	if (ret->agent == 0) {
		close(ends[0]);
		agent_main(ret, ends[1]);
	}
	close(ends[1]);
	ret->agent_fd = ends[0];
	snprintf(procs, sizeof(procs), "%s/cgroup.procs", ret->path);
	snprintf(text, sizeof(text), "%d", (int)ret->agent);
	fd = open(procs, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (int)strlen(text));
	close(fd);
}

static inline struct answer ask(const struct group *g)
{
	struct answer a;

	assert_int_equal(write(g->agent_fd, "s", 1), 1);
	assert_int_equal(read(g->agent_fd, &a, sizeof(a)), (int)sizeof(a));
	return a;
}

/* Skips the test where BPF is not to be had. */
static inline struct rules *rules_of(const struct rules_options *o)
{
	struct rules *r = NULL;
	int err = rules_new(&r, o);

	if (err == -EPERM || err == -ENOTSUP)
		skip();
	assert_int_equal(err, 0);
	return r;
}

/* Who has opened a rule, with all that it was handed. */
struct client {
	struct port_hello hello;
	int fds[3];
	unsigned int nr_fds;
	uint64_t id;
	const struct port_head *page;
	struct rule_pool *pool;
};

static inline int client_join(struct client *c, struct rules *r, uint32_t uid, pid_t pid, int pidfd,
			      unsigned int access)
{
	*c = (struct client){};
	return rules_join(r, ENTRY, uid, uid, pid, pidfd, access, &c->hello, c->fds, &c->nr_fds,
			  &c->id);
}

static inline void client_map(struct client *c)
{
	void *m = mmap(NULL, RULE_PAGE_SIZE, PROT_READ, MAP_SHARED, c->fds[0], 0);

	assert_ptr_not_equal(m, MAP_FAILED);
	c->page = m;
	assert_int_equal(port_check(c->page, RULE_PAGE_SIZE), 0);
	if (c->nr_fds == 1)
		return;
	m = mmap(NULL, sizeof(*c->pool), PROT_READ | PROT_WRITE, MAP_SHARED, c->fds[1], 0);
	assert_ptr_not_equal(m, MAP_FAILED);
	c->pool = m;
}

static inline void client_open(struct client *c, struct rules *r)
{
	assert_int_equal(client_join(c, r, 0, getpid(), -1, 6), 0);
	assert_int_equal(c->nr_fds, 3);
	client_map(c);
}

static inline void client_close(struct client *c)
{
	if (c->page)
		munmap((void *)c->page, RULE_PAGE_SIZE);
	if (c->pool)
		munmap(c->pool, sizeof(*c->pool));
	for (unsigned int i = 0; i < c->nr_fds; i++)
		close(c->fds[i]);
	*c = (struct client){};
}

static inline int ring_with(int bell, void *context, uint32_t size)
{
	LIBBPF_OPTS(bpf_test_run_opts, run, .ctx_in = context, .ctx_size_in = size);

	if (bpf_prog_test_run_opts(bell, &run))
		return -errno;
	return (int)run.retval;
}

static inline int ring(const struct client *c, uint64_t off, uint64_t len)
{
	struct port_ring context = {
		.token = c->hello.token, .slot = c->hello.slot, .off = off, .len = len
	};

	return ring_with(c->fds[2], &context, sizeof(context));
}

static inline int put(const struct client *c, uint64_t off, uint64_t value)
{
	c->pool->data[off / 8] = value;
	return ring(c, off, 8);
}

static inline struct port_rule look_at(const struct client *c)
{
	struct port_rule rule;

	int r;

	/* Who writes all the time, or was taken its CPU from in the middle, is looked at again. */
	do
		r = port_snapshot(c->page, c->page->data_off, &rule, sizeof(rule), NULL);
	while (r == -EAGAIN);
	assert_int_equal(r, 0);
	return rule;
}

/* In a child: ends with 0, or with a number made of the line that failed. */
#define MUST(x)                                    \
	do {                                       \
		if (!(x))                          \
			_exit(__LINE__ % 255 + 1); \
	} while (0)

/* Send descriptors with some bytes, as a publisher does. */
static inline bool give(int socket, void *data, size_t len, const int *fds, size_t nr_fds)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(3 * sizeof(int))];
	} control = {};
	struct iovec v = { .iov_base = data, .iov_len = len };
	struct msghdr m = { .msg_iov = &v,
			    .msg_iovlen = 1,
			    .msg_control = &control,
			    .msg_controllen = CMSG_SPACE(nr_fds * sizeof(int)) };

	control.head = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
					 .cmsg_type = SCM_RIGHTS,
					 .cmsg_len = CMSG_LEN(nr_fds * sizeof(int)) };
	memcpy(CMSG_DATA(&control.head), fds, nr_fds * sizeof(int));
	return sendmsg(socket, &m, 0) == (ssize_t)len;
}

static inline bool take(int socket, void *ret, size_t len, int *ret_fds, size_t nr_fds)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(3 * sizeof(int))];
	} control = {};
	struct iovec v = { .iov_base = ret, .iov_len = len };
	struct msghdr m = { .msg_iov = &v,
			    .msg_iovlen = 1,
			    .msg_control = &control,
			    .msg_controllen = sizeof(control) };

	if (recvmsg(socket, &m, MSG_CMSG_CLOEXEC) != (ssize_t)len ||
	    control.head.cmsg_len != CMSG_LEN(nr_fds * sizeof(int)))
		return false;
	memcpy(ret_fds, CMSG_DATA(&control.head), nr_fds * sizeof(int));
	return true;
}

/* From where no page is to be had: what the kernel holds. */
static inline struct rule_state state_of(struct rules *r)
{
	struct rule_state st;
	uint32_t zero = 0;
	int link, state;

	assert_int_equal(rules_stored(r, ENTRY, &link, &state), 0);
	assert_int_equal(bpf_map_lookup_elem(state, &zero, &st), 0);
	return st;
}

#endif
