// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * conn.c - the kept connection to a folder's daemon.
 *
 * Theory of operation. A connection has one lock and one request under way. A request is named
 * by (token, seq); it is sent until an answer to it has come: when the connection breaks
 * before, it is made again and the same request is sent with CTL_F_RETRY, so that the daemon
 * can answer what it had already carried out.
 *
 * Identity. The daemon takes the peer's credentials when a connection is made. If this thread's
 * user, group or groups are no longer those, the connection is made again before anything is
 * sent. Credentials go with every packet, and are the effective ones, as SO_PEERCRED tells
 * them; what the kernel would fill in is the real user. If they do not match all the same,
 * -ESTALE comes.
 *
 * A worker that hangs in its exit keeps its end of the connection open and never answers. So
 * CTL_HELLO is sent first on each connection, without waiting for it: its answer tells which
 * worker has accepted the connection. While a request has no answer, a second connection is made
 * every ASK_MS, to ask which worker serves. If it is another one, the first connection is dropped
 * as if it had broken; if it is the same one, the request takes its time. A connection whose own
 * CTL_HELLO has no answer was accepted before the second one, and a worker answers in that order:
 * once the second is answered, the worker of the first is gone.
 *
 * Fork. What changes while a connection is used lies in a page of its own which the kernel
 * wipes in a child (MADV_WIPEONFORK). A wiped page reads as: nobody holds the lock, no socket,
 * no token. So a child can be made at any instruction of any thread, and begins anew. Its copies
 * of the parent's sockets are closed, if the numbers still stand for them: the child may have
 * closed all its descriptors and opened others.
 *
 * Locks: struct wiped.lock, alone; held for the time of a request.
 */
#include <kshared.h>

#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>

#include "lib/conn.h"

#define PATIENCE_MS 30000 /* for a daemon that was there before */
#define FIRST_PATIENCE_MS 300 /* for one that never was */
#define FULL_PATIENCE_MS 1000 /* for room in the kernel's queues of descriptors */
#define ASK_MS 2000 /* without an answer, before it is asked which worker serves */
#define BACKOFF_MAX_MS 250
#define STALE_MAX 8
#define FDS_MAX 253 /* the kernel's limit for one message: a cut list then means a full table */

/* Who this thread is to the daemon. */
struct identity {
	uid_t uid;
	gid_t gid;
	int nr_groups;
	uint64_t groups_hash;
};

/* Zero until prepared, and zero again in a child. A zeroed mutex is an unlocked one. */
struct wiped {
	pthread_mutex_t lock;
	bool ready;
	bool met; /* there was a connection before */
	int fd;
	uint32_t generation; /* of the worker that has accepted the connection; 0: not known */
	uint64_t hello_seq; /* of the CTL_HELLO that has no answer yet; 0: none */
	uint64_t token;
	uint64_t seq;
	struct identity identity;
	struct where where;
};

/* A socket as a child finds it: the number, -1 for none, and the file that it stood for. */
struct legacy {
	atomic_int fd;
	dev_t dev;
	ino_t ino;
};

/**
 * struct kshared - see kshared.h
 * @page: the part that is wiped in a child
 * @where: absolute path of the folder or the socket; never changes
 * @own: see where_capture()
 * @kept: @page->fd
 * @asking: the second connection, while it is asked which worker serves
 */
struct kshared {
	struct wiped *page;
	char *where;
	bool own;
	struct legacy kept;
	struct legacy asking;
};

/* How a request stands after an attempt; beside 0 and -errno, which are final. */
enum { ATTEMPT_LOST = 1, ATTEMPT_FULL, ATTEMPT_STALE, ATTEMPT_HELLO, ATTEMPT_WAIT };

struct patience {
	int64_t since_ms;
	int64_t pause_ms;
};

/* The process's default connection: set once, never taken back. */
static struct kshared *_Atomic default_connection;

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

/* Sleep a little, longer each time. Return: false: no patience left. */
static bool patience_wait(struct patience *p, int64_t limit_ms)
{
	int64_t now = now_ms();
	struct timespec ts;

	if (!p->since_ms) {
		p->since_ms = now;
		p->pause_ms = 1;
	}
	if (now - p->since_ms >= limit_ms)
		return false;
	ts = (struct timespec){ .tv_sec = p->pause_ms / 1000,
				.tv_nsec = p->pause_ms % 1000 * 1000000 };
	nanosleep(&ts, NULL);
	if (p->pause_ms < BACKOFF_MAX_MS)
		p->pause_ms *= 2;
	return true;
}

static void identity_read(struct identity *ret)
{
	gid_t groups[256];
	uint64_t hash = 0xcbf29ce484222325u;
	int n = getgroups(sizeof(groups) / sizeof(groups[0]), groups);

	for (int i = 0; i < n; i++)
		hash = (hash ^ groups[i]) * 0x100000001b3u;
	*ret = (struct identity){ .uid = geteuid(),
				  .gid = getegid(),
				  .nr_groups = n < 0 ? getgroups(0, NULL) : n,
				  .groups_hash = hash };
}

static bool identity_same(const struct identity *a, const struct identity *b)
{
	return a->uid == b->uid && a->gid == b->gid && a->nr_groups == b->nr_groups &&
		a->groups_hash == b->groups_hash;
}

/* Let @l stand for a socket, which is then closed by legacy_close(). */
static int legacy_keep(struct legacy *l, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	l->dev = st.st_dev;
	l->ino = st.st_ino;
	atomic_store(&l->fd, fd);
	return 0;
}

/* Close this process's copy of its parent's socket, or its own one. */
static void legacy_close(struct legacy *l)
{
	int fd = atomic_exchange(&l->fd, -1);
	struct stat st;

	if (fd >= 0 && fstat(fd, &st) == 0 && st.st_dev == l->dev && st.st_ino == l->ino)
		close(fd);
}

static void drop(struct kshared *k)
{
	k->page->fd = -1;
	legacy_close(&k->kept);
}

/* First use of the connection in this process. */
static int prepare(struct kshared *k)
{
	struct wiped *p = k->page;
	int r;

	if (p->ready)
		return 0;
	drop(k);
	legacy_close(&k->asking);
	r = where_resolve(&p->where, k->where, k->own);
	if (r < 0)
		return r;
	if (getrandom(&p->token, sizeof(p->token), 0) != sizeof(p->token))
		return -errno;
	p->seq = 0;
	p->met = false;
	p->ready = true;
	return 0;
}

/* Ask who is there. Return: the seq of the question; 0: it could not be sent. */
static uint64_t say_hello(struct wiped *p, int sock)
{
	struct ctl_request req = { .magic = CTL_MAGIC, .op = CTL_HELLO };

	req.token = p->token;
	req.seq = ++p->seq;
	return sock_send(sock, &req, -1) < 0 ? 0 : req.seq;
}

/* One try to connect; 0, -EAGAIN: nobody accepts for @timeout_ms, or -errno. */
static int connect_once(struct kshared *k, int timeout_ms)
{
	const struct timeval ask = { .tv_sec = ASK_MS / 1000 };
	struct wiped *p = k->page;
	struct identity identity;
	int r;

	identity_read(&identity);
	cleanup_fd int fd = sock_dial(&p->where, timeout_ms, 0);
	if (fd < 0)
		return fd;
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &ask, sizeof(ask)) < 0)
		return -errno;
	r = legacy_keep(&k->kept, fd);
	if (r < 0)
		return r;
	p->identity = identity;
	p->met = true;
	p->fd = take_fd(&fd);
	p->generation = 0;
	/* If this fails, so does what is sent next. */
	p->hello_seq = say_hello(p, p->fd);
	return 0;
}

/* Connect, with patience. -ENOENT: no socket; -ECONNREFUSED: nobody accepts. */
static int establish(struct kshared *k, struct patience *patience)
{
	int64_t limit_ms = k->page->met ? PATIENCE_MS : FIRST_PATIENCE_MS;
	int r;

	for (;;) {
		r = connect_once(k, limit_ms);
		if (r == -EAGAIN)
			return -ECONNREFUSED;
		if (r != -ECONNREFUSED || !patience_wait(patience, limit_ms))
			return r;
	}
}

/* Is the descriptor that the caller wants to send still one? */
static bool can_send(int fd)
{
	return fd < 0 || fcntl(fd, F_GETFD) >= 0;
}

static int send_request(struct kshared *k, struct call *c)
{
	int r = sock_send(k->page->fd, &c->req, c->send_fd);

	switch (r) {
	case 0:
		c->req.ctl_flags |= CTL_F_RETRY;
		return 0;
	case -ETOOMANYREFS:
	case -ENOBUFS:
		return ATTEMPT_FULL;
	case -EBADF:
	case -ENOTSOCK:
		return can_send(c->send_fd) ? ATTEMPT_LOST : -EBADF;
	case -EPIPE:
	case -ECONNRESET:
	case -ECONNREFUSED:
	case -ENOTCONN:
		return ATTEMPT_LOST;
	default:
		return r;
	}
}

/* Begin to ask which worker serves. Return: a socket; -ECONNREFUSED: none does; -errno. */
static int ask_begin(struct kshared *k)
{
	int r;

	cleanup_fd int fd = sock_dial(&k->page->where, 0, SOCK_NONBLOCK);
	if (fd < 0)
		return fd;
	r = legacy_keep(&k->asking, fd);
	if (r < 0)
		return r;
	say_hello(k->page, fd);
	return take_fd(&fd);
}

/* Does what has come on @fd tell that the connection's own worker is not the one that serves? */
static bool ask_end(const struct wiped *p, int fd)
{
	struct ctl_reply reply;

	if (recv(fd, &reply, sizeof(reply), MSG_TRUNC) != sizeof(reply) ||
	    reply.magic != CTL_MAGIC || reply.result < 0 || !reply.count)
		return false;
	return p->hello_seq || (p->generation && p->generation != reply.count);
}

/*
 * Wait for an answer to what was sent at @sent_ms.
 * Return: 0 it is there; ATTEMPT_LOST none will come; -ETIMEDOUT; -errno.
 */
static int await_reply(struct kshared *k, int64_t sent_ms, int64_t until_ms)
{
	struct pollfd pfd[] = { { .fd = k->page->fd, .events = POLLIN },
				{ .fd = -1, .events = POLLIN } };
	int64_t now = now_ms(), ask_ms = sent_ms + ASK_MS;
	bool lost = false;
	int r;

	for (;; now = now_ms()) {
		if (now > until_ms)
			return -ETIMEDOUT;
		if (now >= ask_ms) {
			ask_ms = now + ASK_MS;
			legacy_close(&k->asking);
			pfd[1].fd = ask_begin(k);
			lost = pfd[1].fd == -ECONNREFUSED;
		}
		/* What was answered before is looked at once more when the connection is lost. */
		r = poll(pfd, 2, lost ? 0 : (int)((ask_ms < until_ms ? ask_ms : until_ms) - now));
		if (r < 0 && errno != EINTR)
			return -errno;
		if (r < 0)
			continue;
		if (pfd[0].revents)
			return 0;
		if (lost)
			return ATTEMPT_LOST;
		if (pfd[1].revents) {
			lost = ask_end(k->page, pfd[1].fd);
			legacy_close(&k->asking);
			pfd[1].fd = -1;
		}
	}
}

/*
 * The answer to the request. ATTEMPT_HELLO: it was the one to the CTL_HELLO before it;
 * ATTEMPT_WAIT: none has come in ASK_MS, or a signal has.
 */
static int receive_reply(struct kshared *k, struct call *c)
{
	struct wiped *p = k->page;
	struct ctl_reply reply;
	struct iovec iov[] = {
		{ .iov_base = &reply, .iov_len = sizeof(reply) },
		{ .iov_base = c->body, .iov_len = c->body_size },
	};
	union {
		char buf[CMSG_SPACE(FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = 2 };
	bool unread;
	int nr_fds;
	ssize_t n;

	mh.msg_control = control.buf;
	mh.msg_controllen = sizeof(control.buf);
	n = recvmsg(p->fd, &mh, MSG_CMSG_CLOEXEC);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return ATTEMPT_WAIT;
	if (n < 0 &&
	    (errno == ECONNRESET || errno == ENOTCONN || errno == EBADF || errno == ENOTSOCK))
		return ATTEMPT_LOST;
	if (n < 0)
		return -errno;

	cleanup_fd int fd = sock_collect_fds(&mh, &nr_fds);
	if (n == 0)
		return ATTEMPT_LOST;
	if (p->hello_seq && (size_t)n == sizeof(reply) && reply.magic == CTL_MAGIC &&
	    reply.seq == p->hello_seq) {
		p->hello_seq = 0;
		p->generation = reply.result < 0 ? 0 : reply.count;
		return ATTEMPT_HELLO;
	}
	/* Without a look at the request it is refused, not named. */
	unread = (size_t)n == sizeof(reply) && reply.seq == 0 && reply.result < 0;
	if ((mh.msg_flags & MSG_TRUNC) || (size_t)n < sizeof(reply) || reply.magic != CTL_MAGIC ||
	    (reply.seq != c->req.seq && !unread) || reply.body_len != (size_t)n - sizeof(reply) ||
	    reply.result > 0 || reply.result < -4095)
		return -EPROTO;
	if (mh.msg_flags & MSG_CTRUNC)
		return -EMFILE;
	if (nr_fds != (c->want_fd && reply.result == 0 ? 1 : 0))
		return -EPROTO;
	if (reply.result == -ESTALE)
		return ATTEMPT_STALE;
	if (reply.result == 0) {
		c->ret_body_len = reply.body_len;
		c->ret_count = reply.count;
		c->ret_fd = take_fd(&fd);
	}
	return reply.result;
}

/*
 * Send once and receive once. recvmsg() is made at once where it may wait as long as it likes:
 * it gives up after ASK_MS (SO_RCVTIMEO), and without poll() a request costs a call less.
 */
static int attempt(struct kshared *k, struct call *c)
{
	int64_t sent_ms = now_ms();
	int64_t until_ms = c->timeout_ms ? sent_ms + c->timeout_ms : INT64_MAX;
	bool look = c->timeout_ms || c->reserve_fd;
	int r;

	cleanup_fd int reserve = c->reserve_fd ? fcntl(k->page->fd, F_DUPFD_CLOEXEC, 0) : -1;
	if (c->reserve_fd && reserve < 0)
		return errno == EBADF ? ATTEMPT_LOST : -errno;
	r = send_request(k, c);
	if (r)
		return r;
	do {
		if (look) {
			r = await_reply(k, sent_ms, until_ms);
			legacy_close(&k->asking);
			if (r)
				return r;
		}
		/* In case that what comes next has the descriptor. */
		if (!k->page->hello_seq) {
			cleanup_close_p(&reserve);
			reserve = -1;
		}
		r = receive_reply(k, c);
		look = look || r == ATTEMPT_WAIT;
	} while (r == ATTEMPT_HELLO || r == ATTEMPT_WAIT);
	return r;
}

/* conn_call() with the lock held. */
static int carry_out(struct kshared *k, struct call *c)
{
	struct patience patience = { 0 }, full = { 0 };
	struct wiped *p = k->page;
	struct identity identity;
	int stale = 0, r;

	r = prepare(k);
	if (r < 0)
		return r == -ENOENT ? -ECONNREFUSED : r;
	c->req.magic = CTL_MAGIC;
	c->req.ctl_flags = 0;
	c->req.token = p->token;
	c->req.seq = ++p->seq;

	for (;;) {
		identity_read(&identity);
		if (p->fd >= 0 && !identity_same(&identity, &p->identity))
			drop(k);
		if (p->fd < 0) {
			bool sent = c->req.ctl_flags & CTL_F_RETRY;

			/* A daemon that was asked to end, and is gone, has done as it was told. */
			if (c->req.op == CTL_SHUTDOWN && sent)
				r = connect_once(k, PATIENCE_MS);
			else
				r = establish(k, &patience);
			if (r == -ENOENT || r == -ECONNREFUSED)
				return c->req.op == CTL_SHUTDOWN && sent ? 0 : -ECONNREFUSED;
			if (r < 0)
				return r;
		}
		r = attempt(k, c);
		if (r <= 0)
			break;
		switch (r) {
		case ATTEMPT_LOST:
			drop(k);
			if (!patience_wait(&patience, PATIENCE_MS))
				return -ECONNRESET;
			break;
		case ATTEMPT_FULL:
			if (!patience_wait(&full, FULL_PATIENCE_MS))
				return -ETOOMANYREFS;
			break;
		case ATTEMPT_STALE:
			drop(k);
			if (++stale == STALE_MAX)
				return -ESTALE;
			break;
		}
	}
	/* After these, what comes next on this connection would be the answer to something else. */
	if (r == -EPROTO || r == -ETIMEDOUT)
		drop(k);
	return r;
}

static int connection_new(struct kshared **ret, const char *where)
{
	struct kshared *k;
	int r;

	k = calloc(1, sizeof(*k));
	if (!k)
		return -ENOMEM;
	atomic_init(&k->kept.fd, -1);
	atomic_init(&k->asking.fd, -1);
	k->page = mmap(NULL, sizeof(*k->page), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);
	if (k->page == MAP_FAILED) {
		free(k);
		return -ENOMEM;
	}
	r = madvise(k->page, sizeof(*k->page), MADV_WIPEONFORK) < 0 ? -errno : 0;
	if (r == 0)
		r = where_capture(&k->where, &k->own, where);
	if (r < 0) {
		kshared_disconnect(k);
		return r;
	}
	*ret = k;
	return 0;
}

/* @k, or the default connection, made without a lock: a child may be born in the middle of it. */
static int connection_get(struct kshared **ret, struct kshared *k)
{
	struct kshared *expected = NULL;
	int r;

	if (!k)
		k = atomic_load(&default_connection);
	if (!k) {
		r = connection_new(&k, NULL);
		if (r < 0)
			return r;
		if (!atomic_compare_exchange_strong(&default_connection, &expected, k)) {
			kshared_disconnect(k);
			k = expected;
		}
	}
	*ret = k;
	return 0;
}

/**
 * conn_call() - carry out one request, once, whatever happens to the connection.
 * @k: the connection; NULL: the process's default one
 * @c: the request; its results are written on success
 *
 * Any thread, also in a child of fork(). Waits for other threads' requests on the same
 * connection, and about 30 s for a daemon that does not come back.
 *
 * Return: 0; -errno that the daemon answered; -ECONNREFUSED nobody serves the folder;
 * -ECONNRESET the connection breaks again and again; -EPROTO the answer makes no sense; -EBADF
 * @c->send_fd is not open; -EMFILE no room for a descriptor; -ETIMEDOUT no answer in
 * @c->timeout_ms; -ESTALE the daemon does not take this process's credentials; -ETOOMANYREFS,
 * -ENOMEM.
 */
int conn_call(struct kshared *k, struct call *c)
{
	int r;

	r = connection_get(&k, k);
	if (r < 0)
		return r;
	pthread_mutex_lock(&k->page->lock);
	r = carry_out(k, c);
	pthread_mutex_unlock(&k->page->lock);
	return r;
}

/**
 * kshared_connect() - connect to a folder's daemon.
 * @where: a folder, a socket, or NULL for the default; see kshared.h
 *
 * Any thread. Never connects to a socket in a directory that others than its owner could write
 * to, unless @where is the socket itself.
 *
 * Return: a connection; NULL with errno: ENOENT no such folder or socket, ENOTDIR neither of
 * them, ECONNREFUSED nobody serves it, EACCES, EPROTO not a kshared daemon, ETIMEDOUT no
 * answer, ENAMETOOLONG, EMFILE, ENOMEM.
 */
struct kshared *kshared_connect(const char *where)
{
	struct patience patience = { 0 };
	struct kshared *k;
	struct call hello;
	int r;

	cancel_guard();
	r = connection_new(&k, where);
	if (r < 0) {
		errno = -r;
		return NULL;
	}
	r = prepare(k);
	if (r == 0)
		r = establish(k, &patience);
	if (r == 0) {
		call_init(&hello, CTL_HELLO);
		hello.timeout_ms = PATIENCE_MS;
		r = conn_call(k, &hello);
	}
	if (r < 0) {
		kshared_disconnect(k);
		errno = -r;
		return NULL;
	}
	return k;
}

/**
 * kshared_disconnect() - close a connection.
 * @k: from kshared_connect(), here or in a parent process; not in use by another thread; NULL
 *         is ignored
 */
void kshared_disconnect(struct kshared *k)
{
	int saved = errno;

	if (!k)
		return;
	cancel_guard();
	legacy_close(&k->kept);
	legacy_close(&k->asking);
	munmap(k->page, sizeof(*k->page));
	free(k->where);
	free(k);
	errno = saved;
}
