// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ctl_conn.c - connections: who the peer is, one packet in, one packet out.
 *
 * Who the peer is comes from SO_PEERCRED and SO_PEERGROUPS. A connection may be inherited by another process, or its
 * process may become another user; so the kernel's credentials on each packet, the first too, must be those of the
 * one that connected, and if not, the request is refused with -ESTALE and the library connects anew.
 */
#include <base/cleanup.h>
#include <base/proc.h>
#include <errno.h>
#include <io/ctl_conn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utlist.h>

#define PAUSE_USEC 100000
#define FDS_MAX \
	253 /* in one packet, by the kernel; fewer are wanted, but all must be disposed of here */

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

struct ctl_conn {
	struct ctl *ctl;
	int fd;
	sd_event_source *source;
	struct cred cred;
	gid_t *groups;
	struct ucred peer; /* who connected */
	bool unmapped; /* one of many with that number, and so nobody */
	struct ctl_call call;
	uint64_t seq; /* of the request that is being carried out */
	enum { IDLE, AT_WORK, PUT_OFF } state;
	bool gone; /* dropped while it was put off */
	int error; /* of the last answer */
	struct ctl_conn *prev, *next;
};

/*
 * Root without capabilities is an ordinary user here as elsewhere. Before 6.5 nothing tells whether the peer's number is
 * still the peer's: a child could hold the connection of one that has died, and whose number one with capabilities
 * has now. So there nobody has the right.
 */
static bool may_override(int sock, pid_t pid)
{
	cleanup_fd int pidfd = -1;
	socklen_t len = sizeof(pidfd);

	if (getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len) < 0 ||
	    !proc_capable(pid, PROC_CAP_DAC_OVERRIDE | PROC_CAP_FOWNER))
		return false;
	return syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) == 0 || errno == EPERM;
}

static int identify(struct ctl_conn *c)
{
	const struct ucred *peer = &c->peer;
	socklen_t len = sizeof(c->peer);

	if (getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &c->peer, &len) < 0)
		return -errno;
	c->unmapped = !c->ctl->sees_all_ids &&
		(peer->uid == PROC_ID_UNMAPPED || peer->gid == PROC_ID_UNMAPPED);
	c->cred.uid = peer->uid;
	c->cred.gid = peer->gid;
	c->cred.tid = peer->pid;
	c->cred.conn = c->fd;
	len = 0;
	if (getsockopt(c->fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &len) < 0 && errno == ERANGE &&
	    len > 0) {
		c->groups = malloc(len);
		if (!c->groups)
			return -ENOMEM;
		if (getsockopt(c->fd, SOL_SOCKET, SO_PEERGROUPS, c->groups, &len) < 0)
			return -errno;
		c->cred.groups = c->groups;
		for (size_t i = 0; i < len / sizeof(gid_t); i++)
			if (c->ctl->sees_all_ids || c->groups[i] != PROC_ID_UNMAPPED)
				c->groups[c->cred.nr_groups++] = c->groups[i];
	}
	c->cred.override = peer->uid == 0 && peer->pid > 0 && may_override(c->fd, peer->pid);
	return 0;
}

/* One packet. @fd: the descriptor that came with it, or -1; @error: 0; -EINVAL more than one descriptor, or cut. */
struct packet {
	_Alignas(8) unsigned char bytes[sizeof(struct ctl_request) + 1];
	size_t len;
	struct ucred from;
	int fd;
	int error;
};

/* Take descriptors and credentials out of a packet. */
static void unpack(struct tree *t, uid_t uid, struct msghdr *m, struct packet *p)
{
	p->error = (m->msg_flags & MSG_CTRUNC) ? -EINVAL : 0;
	for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
		if (h->cmsg_level != SOL_SOCKET)
			continue;
		if (h->cmsg_type == SCM_CREDENTIALS) {
			memcpy(&p->from, CMSG_DATA(h), sizeof(p->from));
		} else if (h->cmsg_type == SCM_RIGHTS) {
			size_t n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);

			for (size_t i = 0; i < n; i++) {
				int fd;

				memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof(int));
				if (p->fd < 0 && n == 1) {
					p->fd = fd;
				} else {
					t->close_fd(t, uid, fd);
					p->error = -EINVAL;
				}
			}
		}
	}
}

/* Return: 1 a packet, whose descriptor the caller disposes of; 0 the end; -errno. */
static int receive(struct tree *t, uid_t uid, int sock, struct packet *p)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(sizeof(int) * FDS_MAX)];
	} control;
	struct iovec iov = { .iov_base = p->bytes, .iov_len = sizeof(p->bytes) };
	struct msghdr m = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0)
		return -errno;
	p->len = (size_t)n;
	p->from = (struct ucred){ .pid = -1 };
	p->fd = -1;
	unpack(t, uid, &m, p);
	/* A packet without bytes has credentials at least, and perhaps descriptors. */
	return n > 0 || m.msg_controllen > 0;
}

/*
 * Close a connection. The kernel would drop the packets that wait in it, and close their descriptors here, which may
 * wait as long as their sender likes.
 */
static void hang_up(struct tree *t, uid_t uid, int sock)
{
	struct packet p;

	if (sock < 0)
		return;
	shutdown(sock, SHUT_RDWR);
	while (receive(t, uid, sock, &p) > 0)
		if (p.fd >= 0)
			t->close_fd(t, uid, p.fd);
	close(sock);
}

static void release(struct ctl_conn *c)
{
	free(c->groups);
	free(c);
}

static void drop(struct ctl_conn *c)
{
	DL_DELETE(c->ctl->conns, c);
	c->ctl->nr_conns--;
	sd_event_source_unref(c->source);
	hang_up(c->ctl->conf.tree, c->cred.uid, c->fd);
	c->source = NULL;
	c->gone = true;
	if (c->state != PUT_OFF)
		release(c);
}

static int reply(struct ctl_conn *c, uint64_t seq, struct ctl_answer *a)
{
	struct ctl_reply head = {
		.magic = CTL_MAGIC,
		.result = a->result,
		.seq = seq,
		.body_len = a->body_len,
		.count = a->count,
	};
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov[2] = {
		{ .iov_base = &head, .iov_len = sizeof(head) },
		{ .iov_base = a->body, .iov_len = a->body_len },
	};
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = 2 };

	if (a->fd >= 0) {
		m.msg_control = &control;
		m.msg_controllen = sizeof(control);
		control.h = (struct cmsghdr){
			.cmsg_level = SOL_SOCKET,
			.cmsg_type = SCM_RIGHTS,
			.cmsg_len = CMSG_LEN(sizeof(int)),
		};
		memcpy(CMSG_DATA(&control.h), &a->fd, sizeof(int));
	}
	return sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

/* Has the next packet descriptors? Looked at without receiving them. */
static bool brings_descriptors(int sock)
{
	char control[CMSG_SPACE(sizeof(struct ucred))];
	struct msghdr m = { .msg_control = control, .msg_controllen = sizeof(control) };

	return recvmsg(sock, &m, MSG_DONTWAIT | MSG_PEEK) >= 0 && (m.msg_flags & MSG_CTRUNC);
}

/* Return: 0; -errno: the peer does not take it. */
static int send_answer(struct ctl_conn *c, struct ctl_answer *a)
{
	int r = c->gone ? 0 : reply(c, c->seq, a);

	/* One that is not borrowed was opened for the client. */
	if (a->fd >= 0 && !a->borrowed && a->quick)
		close(a->fd);
	else if (a->fd >= 0 && !a->borrowed)
		c->ctl->conf.tree->close_fd(c->ctl->conf.tree, c->cred.uid, a->fd);
	return r;
}

static void answered(struct ctl_call *call, struct ctl_answer *a)
{
	struct ctl_conn *c = (struct ctl_conn *)((char *)call - offsetof(struct ctl_conn, call));
	bool put_off = c->state == PUT_OFF;

	c->state = IDLE;
	c->error = send_answer(c, a);
	if (!put_off)
		return;
	if (c->gone)
		release(c);
	else if (c->error < 0)
		drop(c);
	else
		sd_event_source_set_enabled(c->source, SD_EVENT_ON);
}

static int on_packet(sd_event_source *s, int sock, uint32_t revents, void *ctx)
{
	struct ctl_conn *c = ctx;
	struct tree *t = c->ctl->conf.tree;
	struct ctl_answer *a = c->ctl->answer;
	struct packet p;
	int r;

	if (t->barred && t->barred(t, c->cred.uid) && brings_descriptors(sock)) {
		/* They are not received, but left to a kernel worker with the connection. */
		a->result = -EBUSY;
		a->count = a->body_len = 0;
		a->fd = -1;
		reply(c, 0, a);
		shutdown(c->fd, SHUT_RDWR);
		t->close_fd(t, c->cred.uid, take_fd(&c->fd));
		drop(c);
		return 0;
	}
	r = receive(t, c->cred.uid, sock, &p);
	if (r == -EAGAIN || r == -EINTR)
		return 0;
	if (r <= 0) {
		drop(c);
		return 0;
	}
	c->seq = 0;
	if (p.len >= offsetof(struct ctl_request, size))
		memcpy(&c->seq, p.bytes + offsetof(struct ctl_request, seq), sizeof(c->seq));
	r = p.error;
	if (r == 0 && memcmp(&p.from, &c->peer, sizeof(p.from)) != 0)
		r = -ESTALE;
	if (r == 0 && c->unmapped)
		r = -EOVERFLOW;
	if (r < 0) {
		if (p.fd >= 0)
			t->close_fd(t, c->cred.uid, p.fd);
		a->result = r;
		a->count = a->body_len = 0;
		a->fd = -1;
		c->error = send_answer(c, a);
	} else {
		c->state = AT_WORK;
		ctl_handle(c->ctl, &c->call, p.bytes, p.len, p.fd);
	}
	if (c->state == AT_WORK) {
		/* Nothing more is read until it is answered. */
		c->state = PUT_OFF;
		sd_event_source_set_enabled(s, SD_EVENT_OFF);
	} else if (c->error < 0) {
		drop(c);
	}
	return 0;
}

static unsigned int count_uid(const struct ctl *ctl, uid_t uid)
{
	struct ctl_conn *c;
	unsigned int n = 0;

	DL_FOREACH(ctl->conns, c)
		n += c->cred.uid == uid;
	return n;
}

static bool has_room(const struct ctl *ctl, uid_t uid)
{
	bool kept = uid == 0 || uid == ctl->conf.tree->uid;
	unsigned int max = ctl->conf.max_conns, share = kept ? max : max / 4;

	if (share > CTL_CONNS_UID_MAX)
		share = CTL_CONNS_UID_MAX;
	return ctl->nr_conns < max + (kept ? CTL_CONNS_KEPT : 0) && count_uid(ctl, uid) < share;
}

static int on_pause(sd_event_source *s, uint64_t usec, void *ctx)
{
	struct ctl *ctl = ctx;

	return sd_event_source_set_enabled(ctl->source, SD_EVENT_ON);
}

/* What cannot be accepted now would wake us all the time. */
static void pause_accepting(struct ctl *ctl)
{
	sd_event_source_set_enabled(ctl->source, SD_EVENT_OFF);
	sd_event_source_set_time_relative(ctl->pause, PAUSE_USEC);
	sd_event_source_set_enabled(ctl->pause, SD_EVENT_ONESHOT);
}

static int on_connect(sd_event_source *s, int listen_fd, uint32_t revents, void *ctx)
{
	struct ctl *ctl = ctx;
	bool full = ctl->conf.crowded && ctl->conf.crowded(ctl->conf.ctx);
	int fd = full ? -1 : accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ctl_conn *c;
	int on = 1;

	if (full || (fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED))
		pause_accepting(ctl);
	if (fd < 0)
		return 0;
	c = calloc(1, sizeof(*c));
	if (!c) {
		hang_up(ctl->conf.tree, 0, fd);
		return 0;
	}
	c->ctl = ctl;
	c->fd = fd;
	c->call.cred = &c->cred;
	c->call.answered = answered;
	if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0 || identify(c) < 0 ||
	    !has_room(ctl, c->cred.uid) ||
	    sd_event_add_io(ctl->conf.event, &c->source, fd, EPOLLIN, on_packet, c) < 0) {
		hang_up(ctl->conf.tree, c->cred.uid, fd);
		free(c->groups);
		free(c);
		return 0;
	}
	DL_APPEND(ctl->conns, c);
	ctl->nr_conns++;
	return 0;
}

int ctl_new(struct ctl **ret, const struct ctl_conf *conf)
{
	struct ctl *ctl = calloc(1, sizeof(*ctl));
	int on = 1, r = 0;

	if (!ctl)
		return -ENOMEM;
	ctl->conf = *conf;
	ctl->sees_all_ids = proc_sees_all_ids();
	ctl->answer = malloc(sizeof(*ctl->answer));
	if (!ctl->answer)
		r = -ENOMEM;
	/* Inherited by what is accepted: between accept4() and a setsockopt() a packet would come without credentials. */
	else if (conf->listen_fd >= 0 &&
		 setsockopt(conf->listen_fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0)
		r = -errno;
	else if (conf->listen_fd >= 0)
		r = sd_event_add_io(conf->event, &ctl->source, conf->listen_fd, EPOLLIN, on_connect,
				    ctl);
	if (r >= 0 && conf->listen_fd >= 0)
		r = sd_event_add_time_relative(conf->event, &ctl->pause, CLOCK_MONOTONIC, 0, 0,
					       on_pause, ctl);
	if (r < 0) {
		ctl_free(ctl);
		return r;
	}
	*ret = ctl;
	return 0;
}

void ctl_free(struct ctl *ctl)
{
	struct ctl_conn *c, *tmp;

	if (!ctl)
		return;
	DL_FOREACH_SAFE(ctl->conns, c, tmp)
		drop(c);
	sd_event_source_unref(ctl->source);
	sd_event_source_unref(ctl->pause);
	free(ctl->answer);
	free(ctl);
}
