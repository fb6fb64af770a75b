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
 * Fork. What changes while a connection is used lies in a page of its own which the kernel
 * wipes in a child (MADV_WIPEONFORK). A wiped page reads as: nobody holds the lock, no socket,
 * no token. So a child can be made at any instruction of any thread, and begins anew. Its copy
 * of the parent's socket is closed, if the number still stands for it: the child may have
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
#include <sys/un.h>
#include <time.h>

#include "lib/conn.h"

#define PATIENCE_MS 30000 /* for a daemon that was there before */
#define FIRST_PATIENCE_MS 300 /* for one that never was */
#define FULL_PATIENCE_MS 1000 /* for room in the kernel's queues of descriptors */
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
	uint64_t token;
	uint64_t seq;
	struct identity identity;
	struct where where;
};

/**
 * struct kshared - see kshared.h
 * @page: the part that is wiped in a child
 * @where: absolute path of the folder or the socket; never changes
 * @own: see where_capture()
 * @legacy_fd: @page->fd as a child finds it; its file is (@legacy_dev, @legacy_ino)
 */
struct kshared {
	struct wiped *page;
	char *where;
	bool own;
	atomic_int legacy_fd;
	dev_t legacy_dev;
	ino_t legacy_ino;
};

/* How a request stands after an attempt; beside 0 and -errno, which are final. */
enum { ATTEMPT_LOST = 1, ATTEMPT_FULL, ATTEMPT_STALE };

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

/* Close this process's copy of its parent's socket, or its own one. */
static void legacy_close(struct kshared *k)
{
	int fd = atomic_exchange(&k->legacy_fd, -1);
	struct stat st;

	if (fd >= 0 && fstat(fd, &st) == 0 && st.st_dev == k->legacy_dev &&
	    st.st_ino == k->legacy_ino)
		close(fd);
}

static void drop(struct kshared *k)
{
	k->page->fd = -1;
	legacy_close(k);
}

/* First use of the connection in this process. */
static int prepare(struct kshared *k)
{
	struct wiped *p = k->page;
	int r;

	if (p->ready)
		return 0;
	drop(k);
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

/* One try to connect; 0, -EAGAIN: nobody accepts for @timeout_ms, or -errno. */
static int connect_once(struct kshared *k, int timeout_ms)
{
	struct wiped *p = k->page;
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct timeval tv = { .tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000 };
	struct timeval forever = { .tv_sec = 0 };
	struct identity identity;
	struct ucred peer;
	socklen_t len = sizeof(peer);
	struct stat st;

	cleanup_fd int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	memcpy(sa.sun_path, p->where.socket, sizeof(sa.sun_path));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	identity_read(&identity);
	while (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		if (errno == EPROTOTYPE)
			return -EPROTO;
		if (errno != EINTR)
			return -errno;
	}
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &forever, sizeof(forever));
	if (p->where.derived) {
		if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
			return -errno;
		if (peer.uid != 0 && peer.uid != p->where.owner)
			return -EACCES;
	}
	if (fstat(fd, &st) < 0)
		return -errno;
	k->legacy_dev = st.st_dev;
	k->legacy_ino = st.st_ino;
	p->identity = identity;
	p->met = true;
	p->fd = take_fd(&fd);
	atomic_store(&k->legacy_fd, p->fd);
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
	struct iovec iov = { .iov_base = &c->req, .iov_len = CTL_REQUEST_MIN + c->req.path_len };
	struct ucred self = { .pid = getpid(), .uid = geteuid(), .gid = getegid() };
	union {
		char buf[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { .buf = "" };
	struct msghdr mh = { .msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.buf,
			     .msg_controllen = CMSG_SPACE(sizeof(self)) };
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&mh);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_CREDENTIALS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(self));
	memcpy(CMSG_DATA(cmsg), &self, sizeof(self));
	if (c->send_fd >= 0) {
		mh.msg_controllen = sizeof(control.buf);
		cmsg = CMSG_NXTHDR(&mh, cmsg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &c->send_fd, sizeof(int));
	}
	while (sendmsg(k->page->fd, &mh, MSG_NOSIGNAL) < 0) {
		switch (errno) {
		case EINTR:
			continue;
		case ETOOMANYREFS:
		case ENOBUFS:
			return ATTEMPT_FULL;
		case EBADF:
		case ENOTSOCK:
			if (!can_send(c->send_fd))
				return -EBADF;
			return ATTEMPT_LOST;
		case EPIPE:
		case ECONNRESET:
		case ECONNREFUSED:
		case ENOTCONN:
			return ATTEMPT_LOST;
		default:
			return -errno;
		}
	}
	c->req.ctl_flags |= CTL_F_RETRY;
	return 0;
}

/* The first descriptor of a message; all others are closed and counted. */
static int collect_fds(struct msghdr *mh, int *ret_nr)
{
	int first = -1;

	*ret_nr = 0;
	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(mh); cmsg; cmsg = CMSG_NXTHDR(mh, cmsg)) {
		size_t n;

		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		n = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(int));
			if ((*ret_nr)++ == 0)
				first = fd;
			else
				close(fd);
		}
	}
	return first;
}

/* Wait until the answer is there, or at most @timeout_ms (0: for ever). */
static int await_reply(int fd, int timeout_ms)
{
	int64_t until_ms = now_ms() + timeout_ms;
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	int r;

	for (;;) {
		int64_t left_ms = timeout_ms ? until_ms - now_ms() : -1;

		if (timeout_ms && left_ms < 0)
			return -ETIMEDOUT;
		r = poll(&pfd, 1, (int)left_ms);
		if (r > 0)
			return 0;
		if (r < 0 && errno != EINTR)
			return -errno;
	}
}

static int receive_reply(struct kshared *k, struct call *c)
{
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
	int nr_fds;
	ssize_t n;

	do {
		mh.msg_control = control.buf;
		mh.msg_controllen = sizeof(control.buf);
		n = recvmsg(k->page->fd, &mh, MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0 &&
	    (errno == ECONNRESET || errno == ENOTCONN || errno == EBADF || errno == ENOTSOCK))
		return ATTEMPT_LOST;
	if (n < 0)
		return -errno;

	cleanup_fd int fd = collect_fds(&mh, &nr_fds);
	if (n == 0)
		return ATTEMPT_LOST;
	if ((mh.msg_flags & MSG_TRUNC) || (size_t)n < sizeof(reply) || reply.magic != CTL_MAGIC ||
	    reply.seq != c->req.seq || reply.body_len != (size_t)n - sizeof(reply) ||
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

/* Send once and receive once. */
static int attempt(struct kshared *k, struct call *c)
{
	int r;

	if (!c->reserve_fd && !c->timeout_ms) {
		r = send_request(k, c);
		return r ? r : receive_reply(k, c);
	}

	cleanup_fd int reserve = c->reserve_fd ? fcntl(k->page->fd, F_DUPFD_CLOEXEC, 0) : -1;
	if (c->reserve_fd && reserve < 0)
		return errno == EBADF ? ATTEMPT_LOST : -errno;
	r = send_request(k, c);
	if (r)
		return r;
	r = await_reply(k->page->fd, c->timeout_ms);
	if (r < 0)
		return r;
	cleanup_close_p(&reserve);
	reserve = -1;
	return receive_reply(k, c);
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
	atomic_init(&k->legacy_fd, -1);
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
	legacy_close(k);
	munmap(k->page, sizeof(*k->page));
	free(k->where);
	free(k);
	errno = saved;
}
