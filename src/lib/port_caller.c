// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * port_caller.c - who has opened a port that is served here: letting in, taking what was written, shutting out.
 *
 * A caller may do anything with the memory that it shares with us, at any time. So bell and bytes are copied once, and what is
 * checked and used is the copy: a caller that changes them meanwhile has the old or the new carried out, or a mixture, all of which it might
 * have written as well. Its memory cannot shrink, and nobody waits for it: it is woken, not asked. Nothing is read of its socket or its
 * eventfd.
 *
 * Shadow bytes are looked at before anything is taken, and every period. If they have changed, nothing is taken, and the policy of
 * the server says what becomes of the caller.
 */
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/conn.h"
#include "lib/port_server.h"

#define READERS_MIN 16
#define OWN_FDS 64 /* what the program has besides, when readers' share is reckoned */
#define ACCESS_READ 4
#define ACCESS_WRITE 2

#define load(p) __atomic_load_n(p, __ATOMIC_RELAXED)

static void wake(struct caller *c, int result, uint32_t request)
{
	__atomic_store_n(&c->bell->result, result, __ATOMIC_RELAXED);
	__atomic_store_n(&c->bell->done, request, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&c->bell->waiting, __ATOMIC_SEQ_CST))
		syscall(SYS_futex, &c->bell->done, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/** caller_set_awake() - tell a caller whether it has to ring. A full barrier. */
void caller_set_awake(struct caller *c, bool awake)
{
	__atomic_store_n(&c->bell->awake, awake, __ATOMIC_SEQ_CST);
}

static void caller_free(struct caller *c)
{
	if (c->bell)
		munmap(c->bell, c->len);
	if (c->sock >= 0)
		close(c->sock);
	if (c->pidfd >= 0)
		close(c->pidfd);
	if (c->eventfd >= 0)
		close(c->eventfd);
	free(c);
}

/** callers_free_dead() - no event that is still to be looked at is of them. */
void callers_free_dead(struct kport_server *s)
{
	struct caller *c;

	while ((c = TAILQ_FIRST(&s->dead))) {
		TAILQ_REMOVE(&s->dead, c, link);
		caller_free(c);
	}
}

/** caller_drop() - shut a caller out. What it waits for is refused; it is freed by callers_free_dead(). */
void caller_drop(struct kport_server *s, struct caller *c)
{
	if (c->dead)
		return;
	c->dead = true;
	/* Copies of these descriptors may be anywhere, and would keep them in the epoll. */
	epoll_ctl(s->epoll, EPOLL_CTL_DEL, c->sock, NULL);
	if (c->bell) {
		epoll_ctl(s->epoll, EPOLL_CTL_DEL, c->eventfd, NULL);
		wake(c, -EPIPE, load(&c->bell->request));
		TAILQ_REMOVE(&s->writers, c, link);
	} else {
		TAILQ_REMOVE(&s->readers, c, link);
	}
	shutdown(c->sock, SHUT_RDWR);
	TAILQ_INSERT_TAIL(&s->dead, c, link);
}

/* The process's name, by a number that is its own as long as it lives. */
static void read_comm(int pidfd, char ret[16])
{
	char path[64], text[512], *at;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	cleanup_fd int info = open(path, O_RDONLY | O_CLOEXEC);
	if (info < 0)
		return;
	n = read(info, text, sizeof(text) - 1);
	text[n < 0 ? 0 : n] = '\0';
	at = strstr(text, "\nPid:\t");
	if (!at)
		return;
	snprintf(path, sizeof(path), "/proc/%d/comm", atoi(at + strlen("\nPid:\t")));
	cleanup_fd int comm = open(path, O_RDONLY | O_CLOEXEC);
	if (comm < 0)
		return;
	n = read(comm, text, 15);
	if (n <= 0 || pidfd_send_signal(pidfd, 0, NULL, 0) < 0)
		return;
	text[n] = '\0';
	text[strcspn(text, "\n")] = '\0';
	strcpy(ret, text);
}

static void punish(struct kport_server *s, struct caller *c, int64_t offset, uint32_t bytes)
{
	struct kport_clobber e = {
		.who = c->who, .offset = offset, .bytes = bytes, .done = s->o.policy
	};
	uint32_t request;

	if (c->pidfd >= 0)
		read_comm(c->pidfd, e.comm);
	if (e.done == KPORT_KILL &&
	    (c->pidfd < 0 || pidfd_send_signal(c->pidfd, SIGKILL, NULL, 0) < 0))
		e.done = KPORT_REVOKE;
	if (e.done == KPORT_LOG) {
		sbr_put(&c->sbr, c->pool, s->pool_size);
		request = load(&c->bell->request);
		if (request != c->taken) {
			c->taken = request;
			wake(c, -EFAULT, request);
		}
	} else {
		/* Who is killed may have given the memory to others. */
		caller_drop(s, c);
	}
	if (s->o.on_clobber)
		s->o.on_clobber(&e, s->o.user);
}

/** caller_check() - look at a caller's shadow bytes. Return: false: they had changed, and it may be gone. */
bool caller_check(struct kport_server *s, struct caller *c)
{
	int64_t offset;
	uint32_t bytes;

	if (sbr_check(&c->sbr, c->pool, s->pool_size, &offset, &bytes))
		return true;
	punish(s, c, offset, bytes);
	return false;
}

/* Copy what is to be written, once. */
static void copy_in(unsigned long *to, const unsigned long *from, size_t len)
{
	for (size_t i = 0; i < len / PORT_WORD; i++)
		to[i] = load(&from[i]);
}

static int write_through(struct kport_server *s, struct caller *c, uint64_t offset, uint64_t len)
{
	struct resource *r = s->r;
	char *shadow;
	int err;

	if ((offset | len) % PORT_WORD || len > r->size || offset > r->size - len ||
	    len > s->pool_size || offset > s->pool_size - len)
		return -EFAULT;
	shadow = (char *)s->shadow + offset;
	copy_in((unsigned long *)shadow, (const unsigned long *)(c->pool + offset), len);
	err = r->rops.write ? r->rops.write(r, &c->who, shadow, len, offset) : 0;
	if (err)
		return err < 0 && err >= -4095 ? err : -EIO;
	memcpy((char *)r->data + offset, shadow, len);
	server_publish(s);
	return 0;
}

/**
 * caller_take() - carry out what a caller has written, if it has.
 * One write at most, however often it rings. Return: 1 carried out, refused, or put off by a clobber; 0 there was none.
 */
int caller_take(struct kport_server *s, struct caller *c)
{
	struct port_bell *b = c->bell;
	uint32_t request = __atomic_load_n(&b->request, __ATOMIC_SEQ_CST);
	uint64_t offset, len;

	if (request == c->taken || c->dead)
		return 0;
	if (!caller_check(s, c))
		return 1;
	c->taken = request;
	offset = load(&b->off);
	len = load(&b->len);
	wake(c, write_through(s, c, offset, len), request);
	return 1;
}

static int watch(struct kport_server *s, int fd, uint32_t events, struct source *source)
{
	struct epoll_event e = { .events = events, .data.ptr = source };

	return epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &e) < 0 ? -errno : 0;
}

/* A user's readers have a quarter of the descriptors, his writers what the options say. */
static bool has_room(const struct kport_server *s, uint32_t uid, bool writer)
{
	const struct callers *all = writer ? &s->writers : &s->readers;
	unsigned int max = s->o.max_clients_uid, nr = 0;
	struct rlimit limit;
	struct caller *c;

	if (!writer) {
		max = READERS_MIN;
		if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur > OWN_FDS &&
		    (limit.rlim_cur - OWN_FDS) / 4 > max)
			max = limit.rlim_cur > INT_MAX ? INT_MAX : (limit.rlim_cur - OWN_FDS) / 4;
	}
	TAILQ_FOREACH(c, all, link)
	nr += c->who.uid == uid;
	return nr < max;
}

/* Make a caller's pool. Return: its memfd; -errno. */
static int pool_new(struct kport_server *s, struct caller *c)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	void *memory;
	int r;

	c->len = page + s->pool_size + PORT_CANARY;
	cleanup_fd int fd = port_memory("kport-pool", c->len, &memory);
	if (fd < 0)
		return fd;
	c->bell = memory;
	c->pool = (char *)memory + page;
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL) < 0)
		return -errno;
	r = sbr_new(&c->sbr);
	if (r < 0)
		return r;
	sbr_put(&c->sbr, c->pool, s->pool_size);
	caller_set_awake(c, s->awake);
	c->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return c->eventfd < 0 ? -errno : take_fd(&fd);
}

static int say_hello(struct kport_server *s, struct caller *c, bool writer)
{
	struct port_hello h = { .magic = PORT_SERVE_MAGIC };
	int fds[PORT_FDS_MAX] = { s->page_fd }, r;

	cleanup_fd int pool = writer ? pool_new(s, c) : -1;
	if (writer && pool < 0)
		return pool;
	if (writer) {
		h.bell = PORT_BELL_EVENTFD;
		h.pool_off = (uint64_t)(c->pool - (char *)c->bell);
		h.pool_size = s->pool_size;
		fds[1] = pool;
		fds[2] = c->eventfd;
	}
	r = watch(s, c->sock, 0, &c->socket);
	if (r == 0 && writer)
		/* By edges, since it is never read. */
		r = watch(s, c->eventfd, EPOLLIN | EPOLLET, &c->bell_source);
	return r < 0 ? r : port_send(c->sock, &h, sizeof(h), fds, writer ? 3 : 1);
}

static int check_open(const struct kport_server *s, const struct port_open *m)
{
	bool writer = m->access & ACCESS_WRITE;

	if (m->what != PORT_WHAT_SERVICE || !(m->access & (ACCESS_READ | ACCESS_WRITE)))
		return -EINVAL;
	return has_room(s, m->uid, writer) ? 0 : -EDQUOT;
}

/**
 * port_server_accept() - let somebody in.
 * @m: what the daemon said of it
 * @sock: its socket; taken
 * @pidfd: of its process; taken; -1: none
 * Return: 0; -errno: it was refused, and told so.
 */
int port_server_accept(struct kport_server *s, const struct port_open *m, int sock, int pidfd)
{
	struct port_hello refusal = { .magic = PORT_SERVE_MAGIC };
	bool writer = m->access & ACCESS_WRITE;
	struct caller *c;
	int r;

	/* The daemon has done it, before anybody could send. */
	shutdown(sock, SHUT_RD);
	c = calloc(1, sizeof(*c));
	if (!c) {
		cleanup_close_p(&sock);
		cleanup_close_p(&pidfd);
		return -ENOMEM;
	}
	c->socket = (struct source){ SOURCE_SOCKET, c };
	c->bell_source = (struct source){ SOURCE_BELL, c };
	c->sock = sock;
	c->pidfd = pidfd;
	c->eventfd = -1;
	c->who = (struct kport_writer){ .uid = m->uid, .gid = m->gid, .pid = m->pid };
	if (!writer)
		cleanup_close_p(&c->pidfd); /* it is never killed */
	if (!writer)
		c->pidfd = -1;
	r = check_open(s, m);
	if (r == 0)
		r = say_hello(s, c, writer);
	if (r < 0) {
		refusal.result = r;
		port_send(sock, &refusal, sizeof(refusal), NULL, 0);
		epoll_ctl(s->epoll, EPOLL_CTL_DEL, sock, NULL);
		if (c->eventfd >= 0)
			epoll_ctl(s->epoll, EPOLL_CTL_DEL, c->eventfd, NULL);
		caller_free(c);
		return r;
	}
	if (writer)
		TAILQ_INSERT_TAIL(&s->writers, c, link);
	else
		TAILQ_INSERT_TAIL(&s->readers, c, link);
	return server_tick(s);
}
