// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * port.c - ports: each entry stands for a server, and opening it means to be handed over to that (wire/port_serve.h).
 *
 *	service		the entry's descriptor is the daemon's end of the server's socket
 *	page		the daemon's own server (daemon/publisher.c) has it: one of the kernel's pages; no descriptor
 *	task, cgroup	the same; the descriptor says which: a pidfd, or a directory of cgroup2
 *	rule		the same, and can be written
 *
 * A service's socket is its owner's other end, so nothing is ever read from it, and what is sent on it is sent aside, without waiting. The publisher's
 * is our own. A client's end of the pair goes to nobody but him; that of the server to nobody but the server. The descriptor of an entry is never
 * given out: who had a service's socket could speak for the daemon.
 */
#include <base/cleanup.h>
#include <base/proc.h>
#include <errno.h>
#include <fcntl.h>
#include <kind/hand.h>
#include <kind/kinds.h>
#include <kind/later.h>
#include <kind/port_internal.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <wire/keep.h>
#include <wire/port_pages.h>

#define OPEN_FDS 3

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

bool port_is_page(const struct port_priv *p)
{
	return p->page < NR_PORT_PAGES;
}

static bool is_own(const struct entry *e)
{
	const struct port_priv *p = e->priv;

	return p->what == PORT_WHAT_PAGE;
}

static void furnish(struct entry *dir)
{
	for (uint32_t i = 0; i < NR_PORT_PAGES; i++) {
		struct port_priv p = { .what = PORT_WHAT_PAGE, .page = i };

		tree_add_own(dir, port_specs[i].name, 0444, &p);
	}
}

/* Nobody else's structure is to be taken for the kernel's. */
static bool is_reserved(const char *name, size_t len)
{
	for (uint32_t i = 0; i < NR_PORT_PAGES; i++)
		if (strlen(port_specs[i].name) == len && memcmp(port_specs[i].name, name, len) == 0)
			return true;
	return false;
}

static int socket_option(int fd, int option)
{
	int value = -1;
	socklen_t len = sizeof(value);

	return getsockopt(fd, SOL_SOCKET, option, &value, &len) < 0 ? -1 : value;
}

/* Is it one end of a pair that the poster has made? None of these questions waits for the socket's lock. */
static int check_service(int fd, const struct cred *c)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (socket_option(fd, SO_DOMAIN) != AF_UNIX ||
	    socket_option(fd, SO_TYPE) != SOCK_SEQPACKET || socket_option(fd, SO_ACCEPTCONN) != 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return -EINVAL;
	/* One that has never had a peer has nobody's. */
	if (peer.uid == (uid_t)-1)
		return -EINVAL;
	return peer.uid == c->uid || c->override ? 0 : -EINVAL;
}

static bool is_alive(int pidfd)
{
	return syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) == 0 || errno == EPERM;
}

/* Whose number does a pidfd mean, here? Its description in /proc is asked only when it is sure to be a pidfd. Return: -EINVAL; -ESRCH; the number. */
static int pid_of(int pidfd)
{
	char path[48], text[64];
	ssize_t n;
	FILE *f;
	int pid = 0;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", pidfd);
	n = readlink(path, text, sizeof(text) - 1);
	text[n > 0 ? n : 0] = 0;
	if (strcmp(text, "anon_inode:[pidfd]") != 0 && strncmp(text, "pidfd:[", 7) != 0)
		return -EINVAL;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	f = fopen(path, "re");
	while (f && fgets(text, sizeof(text), f))
		if (sscanf(text, "Pid: %d", &pid) == 1)
			break;
	if (f)
		fclose(f);
	return pid > 0 ? pid : -ESRCH;
}

/* Asked again when the account is made (engine/bpf/publisher.h), which is later, by the time its process may be another's. */
static int check_task(int fd, const struct cred *c)
{
	struct proc_info info;
	int r, pid = pid_of(fd);

	if (pid < 0)
		return pid;
	r = proc_read(pid, &info);
	/* Was it still the same process that we read of? */
	if (!is_alive(fd))
		return -ESRCH;
	if (r < 0)
		return r;
	for (int i = 0; i < 3 && !c->override; i++)
		if (info.uid[i] != c->uid)
			return -EACCES;
	return 0;
}

/* The mount table tells what fstatfs(2) would have to ask the file's server for. */
static bool is_cgroup2(const struct statx *st)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	unsigned int major, minor;
	char *line = NULL;
	size_t size = 0;
	bool found = false;

	while (f && !found && getline(&line, &size, f) > 0) {
		const char *at = strstr(line, " - ");

		found = at && strncmp(at + 3, "cgroup2 ", 8) == 0 &&
			sscanf(line, "%*u %*u %u:%u", &major, &minor) == 2 &&
			major == st->stx_dev_major && minor == st->stx_dev_minor;
	}
	free(line);
	if (f)
		fclose(f);
	return found;
}

static int check_cgroup(int fd)
{
	int flags = fcntl(fd, F_GETFL);
	struct statx st;

	if (flags < 0 || (flags & O_PATH))
		return -EBADF;
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) < 0)
		return -errno;
	return S_ISDIR(st.stx_mode) && is_cgroup2(&st) ? 0 : -EINVAL;
}

/* KPORT_* of the public header, and 0. Return: PORT_WHAT_PAGE: it is none of them. */
static uint32_t what_of(uint32_t flags)
{
	uint32_t n = flags & PORT_POST_WHAT;

	return n == 0                                  ? PORT_WHAT_SERVICE
		: n <= PORT_WHAT_RULE - PORT_WHAT_PAGE ? PORT_WHAT_PAGE + n
						       : PORT_WHAT_PAGE;
}

static int check_target(const struct tree *t, uint32_t what, const struct request *rq)
{
	if (what == PORT_WHAT_SERVICE)
		return check_service(rq->fd, rq->cred);
	if (what == PORT_WHAT_RULE && !rq->cred->override)
		return -EPERM;
	/* These are told of by BPF. */
	if (t->publisher < 0 || !t->may_take)
		return -EOPNOTSUPP;
	return what == PORT_WHAT_TASK ? check_task(rq->fd, rq->cred) : check_cgroup(rq->fd);
}

static void set_poster(struct port_priv *p, const struct request *rq)
{
	struct proc_info info = { 0 };

	if (rq->cred->tid)
		proc_read(rq->cred->tid, &info);
	p->posted_ns = tree_now();
	p->poster_uid = rq->cred->uid;
	p->poster_pid = (uint32_t)rq->cred->tid;
	p->poster_sees_all = rq->cred->override;
	memcpy(p->poster_comm, info.comm, sizeof(p->poster_comm));
}

static int port_create(struct entry *e, struct request *rq)
{
	struct port_priv *p = e->priv;
	uint32_t what = what_of(rq->flags);
	int r;

	/* By the mount nothing can be posted here. */
	if (rq->cred->checked)
		return -EPERM;
	if (rq->fd < 0)
		return -EBADF;
	if ((rq->flags & ~(PORT_POST_WHAT | PORT_POST_REPLACE)) || what == PORT_WHAT_PAGE)
		return -EINVAL;
	r = check_target(e->tree, what, rq);
	if (r < 0)
		return r;
	p->what = what;
	set_poster(p, rq);
	return 0;
}

/* A service that has ended, or that is to be another one's now: who has it open goes on with the old one. */
static int port_replace(struct entry *e, struct request *rq)
{
	struct port_priv *p = e->priv;
	uint32_t what = what_of(rq->flags);
	int r;

	if (!(rq->flags & PORT_POST_REPLACE) || rq->cred->checked)
		return -EEXIST;
	if (e->uid != rq->cred->uid)
		return -EACCES;
	if (what != p->what || what != PORT_WHAT_SERVICE)
		return -EEXIST;
	r = check_target(e->tree, what, rq);
	if (r < 0)
		return r;
	port_queue_ended(e);
	/* Also if somebody is still being sent to it. */
	if (entry_fd(e) >= 0)
		shutdown(entry_fd(e), SHUT_RDWR);
	set_poster(p, rq);
	return 0;
}

static bool is_writable(const struct port_priv *p)
{
	return p->what == PORT_WHAT_SERVICE || p->what == PORT_WHAT_RULE;
}

/* Told to the publisher when nobody opens a rule: @flags: PORT_OPEN_HOLD or PORT_OPEN_DROP. */
static int tell(const struct tree *t, uint64_t entry, uint32_t flags, const int *fds,
		unsigned int nr)
{
	struct port_open open = {
		.magic = PORT_SERVE_MAGIC,
		.what = PORT_WHAT_RULE,
		.flags = flags,
		.entry = entry,
	};

	return hand_over(t->publisher, &open, sizeof(open), fds, nr);
}

static void hold_work(struct later *l)
{
	struct pollfd p = { .fd = (int)l->before, .events = POLLIN };
	struct port_hello hello;

	if (poll(&p, 1, PORT_HELLO_MS) <= 0)
		l->result = -ETIMEDOUT;
	else if (recv(p.fd, &hello, sizeof(hello), MSG_DONTWAIT) != sizeof(hello))
		l->result = -ECONNREFUSED;
	else
		l->result = hello.result;
	close(p.fd);
}

static void hold_ended(struct later *l)
{
	if (l->result < 0)
		tree_take_back(l->e);
}

/* A rule holds from now on, or there is none. */
static int port_created(struct entry *e, struct request *rq)
{
	const struct port_priv *p = e->priv;
	int pair[2], r;

	if (p->what != PORT_WHAT_RULE)
		return 0;
	r = port_pair(pair);
	if (r == 0) {
		r = tell(e->tree, e->id, PORT_OPEN_HOLD | PORT_OPEN_TARGET,
			 (int[]){ pair[1], entry_fd(e) }, 2);
		close(pair[1]);
		if (r == 0)
			r = later_start(e, rq,
					&(struct later){ .work = hold_work,
							 .finish = hold_ended,
							 .must = true,
							 .before = (uint64_t)pair[0] });
		else
			close(pair[0]);
	}
	if (r < 0)
		tree_take_back(e);
	return r;
}

/* Something was not told, for the publisher's socket is full, because it is stopped or new in a crowd: all is told again. */
static bool is_untold;

static void untold(struct tree *t)
{
	is_untold = true;
	if (t->port_again)
		t->port_again(t);
}

/* Nobody can open it any more. */
static void port_ended(struct entry *e)
{
	const struct port_priv *p = e->priv;

	if (p->what == PORT_WHAT_SERVICE)
		port_queue_ended(e);
	else if (p->what == PORT_WHAT_RULE && tell(e->tree, e->id, PORT_OPEN_DROP, NULL, 0) < 0)
		untold(e->tree);
}

void port_restored(struct tree *t, bool rules_kept)
{
	struct entry *e, *tmp;
	bool begun = false;
	int r = 0;

	HASH_ITER(by_id, t->ids, e, tmp) {
		const struct port_priv *p = e->priv;
		int fd;

		if (e->kind != &kind_port || entry_is_dir(e) || e->orphan ||
		    p->what != PORT_WHAT_RULE)
			continue;
		if (!begun)
			r = tell(t, 0, PORT_OPEN_HOLD, NULL, 0);
		begun = true;
		fd = entry_fd(e);
		/* There is nobody who would hear the answer. */
		if (r == 0 && fd >= 0)
			r = tell(t, e->id, PORT_OPEN_HOLD | PORT_OPEN_TARGET,
				 (int[]){ t->proc, fd }, 2);
	}
	if (!begun && rules_kept)
		r = tell(t, 0, PORT_OPEN_HOLD, NULL, 0);
	if (r == 0 && (begun || rules_kept))
		r = tell(t, 0, PORT_OPEN_DROP, NULL, 0);
	if (r < 0)
		untold(t);
}

void port_again(struct tree *t)
{
	bool again = is_untold;

	is_untold = false;
	if (again)
		port_restored(t, true);
	port_queue_sweep(t);
}

/* By the mount a port is text, made anew at each reading from the beginning. */
static int port_open(struct entry *e, struct request *rq)
{
	if (access_wanted(rq->oflags) & 2)
		return -EPERM;
	rq->how = OPEN_DIRECT;
	rq->word = ++e->tree->store->shm->next_alias;
	return 0;
}

/* The entry's name inside port/, if that fits; else its last part. */
static void fill_name(char *ret, size_t size, const struct entry *e)
{
	char *at = ret + size - 1;
	size_t n;

	*at = 0;
	for (; e->parent && e->parent->kind == e->kind; e = e->parent) {
		bool last = !*at;

		if (e->name_len + !last > (size_t)(at - ret))
			break;
		if (!last)
			*--at = '/';
		at -= e->name_len;
		memcpy(at, e->name, e->name_len);
	}
	n = strlen(at);
	memmove(ret, at, n);
	memset(ret + n, 0, size - n);
}

void port_fill_open(struct port_open *ret, struct entry *e, const struct request *rq,
		    unsigned int access)
{
	const struct port_priv *p = e->priv;

	*ret = (struct port_open){
		.magic = PORT_SERVE_MAGIC,
		.what = p->what,
		.page = p->page,
		.access = access,
		.uid = rq->cred->uid,
		.gid = rq->cred->gid,
		.pid = (uint32_t)rq->cred->tid,
		.entry = p->what == PORT_WHAT_SERVICE ? 0 : e->id,
	};
	if (p->what == PORT_WHAT_TASK) {
		ret->owner = p->poster_uid;
		ret->flags = p->poster_sees_all ? PORT_OPEN_ALL : 0;
	}
	fill_name(ret->name, sizeof(ret->name), e);
}

int port_pair(int ret[2])
{
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ret) < 0)
		return -errno;
	/*
	 * A client has nothing to say. A server must be able to close its end without waiting for whatever descriptor somebody
	 * had left in it.
	 */
	shutdown(ret[1], SHUT_RD);
	return 0;
}

/* The pidfd of the process at the other end of a connection. Return: -1: there is none to be had. */
static int peer_pidfd(const struct cred *c)
{
	int fd = -1;
	socklen_t len = sizeof(fd);

	return c->conn && getsockopt(c->conn, SOL_SOCKET, SO_PEERPIDFD, &fd, &len) == 0 ? fd : -1;
}

/* Somebody on his way to a service. */
struct handover {
	struct port_open open;
	int pair[2];
	int pidfd;
};

static void handover_work(struct later *l)
{
	struct handover *h = l->data;

	l->result = hand_over(l->fd, &h->open, sizeof(h->open), (int[]){ h->pair[1], h->pidfd },
			      h->pidfd >= 0 ? 2 : 1);
}

static void close_both(struct handover *h)
{
	cleanup_close_p(&h->pair[1]);
	cleanup_close_p(&h->pidfd);
}

static void handed_over(struct later *l)
{
	struct tree *t = l->e->tree;
	struct handover *h = l->data;

	port_sent(t, l->e->id, false);
	close_both(h);
	if (l->result == 0 && l->rq)
		l->rq->out_fd = h->pair[0];
	/* There may be in it what the service has sent. */
	else
		t->close_fd(t, l->e->uid, h->pair[0]);
}

static int share_service(struct entry *e, struct request *rq, unsigned int want)
{
	struct handover *h, copy;
	int r = entry_fd(e);

	if (r >= 0)
		r = port_reserve(e, rq->cred->uid, false);
	if (r < 0)
		return r;
	h = calloc(1, sizeof(*h));
	r = h ? port_pair(h->pair) : -ENOMEM;
	if (r < 0) {
		port_sent(e->tree, e->id, false);
		free(h);
		return r;
	}
	port_fill_open(&h->open, e, rq, want);
	h->pidfd = peer_pidfd(rq->cred);
	if (h->pidfd >= 0)
		h->open.flags |= PORT_OPEN_PIDFD;
	copy = *h;
	r = later_start(e, rq,
			&(struct later){ .work = handover_work, .finish = handed_over, .data = h });
	/* Not begun: then it has freed no more than the memory. */
	if (r == -ENOMEM || r == -ENFILE) {
		port_sent(e->tree, e->id, false);
		close_both(&copy);
		close(copy.pair[0]);
	}
	return r;
}

/* The publisher's socket is our own: there is nobody to wait for. */
static int share_own(struct entry *e, struct request *rq, unsigned int want)
{
	const struct port_priv *p = e->priv;
	int pair[2], fds[OPEN_FDS], nr = 0, target = -1, r;
	cleanup_fd int pidfd = -1;
	struct port_open open;

	if (e->has_fd) {
		target = entry_fd(e);
		if (target < 0)
			return target;
	}
	r = port_reserve(e, rq->cred->uid, false);
	if (r < 0)
		return r;
	r = port_pair(pair);
	if (r < 0) {
		port_sent(e->tree, 0, false);
		return r;
	}
	port_fill_open(&open, e, rq, want);
	fds[nr++] = pair[1];
	if (p->what == PORT_WHAT_RULE)
		pidfd = peer_pidfd(rq->cred);
	if (pidfd >= 0) {
		open.flags |= PORT_OPEN_PIDFD;
		fds[nr++] = pidfd;
	}
	if (target >= 0) {
		open.flags |= PORT_OPEN_TARGET;
		fds[nr++] = target;
	}
	r = hand_over(e->tree->publisher, &open, sizeof(open), fds, (unsigned int)nr);
	port_sent(e->tree, 0, false);
	close(pair[1]);
	if (r < 0) {
		close(pair[0]);
		return r;
	}
	rq->out_fd = pair[0];
	rq->out_quick = true;
	return 0;
}

static int port_share(struct entry *e, struct request *rq, unsigned int granted)
{
	const struct port_priv *p = e->priv;
	unsigned int want = access_wanted(rq->oflags);

	if ((rq->oflags & ~O_ACCMODE) || !(want & 4))
		return -EINVAL;
	if ((want & 2) && !is_writable(p))
		return -EPERM;
	if (want & ~granted)
		return -EACCES;
	if (p->what == PORT_WHAT_SERVICE)
		return share_service(e, rq, want);
	if (e->tree->publisher < 0 || (p->what == PORT_WHAT_PAGE && !port_is_page(p)))
		return -EOPNOTSUPP;
	return share_own(e, rq, want);
}

static void port_describe(struct entry *e, struct description *ret)
{
	static const char *const names[] = { "service", "page", "task", "cgroup", "rule" };
	const struct port_priv *p = e->priv;

	snprintf(ret->what, sizeof(ret->what), "%s",
		 p->what <= PORT_WHAT_RULE ? names[p->what] : "port");
	ret->access = is_writable(p) ? O_RDWR : O_RDONLY;
	ret->change = CHANGE_NEVER;
	ret->posted_ns = p->posted_ns;
	ret->poster_uid = p->poster_uid;
	ret->poster_pid = p->poster_pid;
	memcpy(ret->poster_comm, p->poster_comm, sizeof(ret->poster_comm));
}

const struct kind kind_port = {
	.name = "port",
	.summary = "structures of the kernel, and of programs, as memory",
	.entry_size = sizeof(struct port_priv),
	.dir_mode = 01777,
	.create = port_create,
	.created = port_created,
	.destroy = port_ended,
	.unnamed = port_ended,
	.replace = port_replace,
	.told = true,
	.open = port_open,
	.read = port_read,
	.close = port_close,
	.share = port_share,
	.describe = port_describe,
	.furnish = furnish,
	.reserved = is_reserved,
	.own = is_own,
	.attrs = port_attrs,
	.attr = port_attr,
};
