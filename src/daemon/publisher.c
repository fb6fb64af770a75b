// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * publisher.c - the loop, and the clients of the daemon's own ports.
 *
 * Requests come from the worker, which has checked who may open what. A client is his server's end of a socket pair: nothing can come by
 * it, and when it hangs up he is gone. What he is given is a descriptor of memory that he can only read; of a rule that he may
 * write, a pool of his own.
 *
 * To make an account takes the kernel some hundredth parts of a second, in which nothing else is done: those who want one wait until nobody else
 * does, and take turns by user.
 *
 * What costs something runs only while it is used: BPF's timers from the first client of a page until a minute after the last one, the
 * sampler's while somebody has a page of its. After a minute with nothing to do at all the process ends; the keeper starts
 * another when it is wanted.
 */
#include <base/cleanup.h>
#include <base/log.h>
#include <daemon/publisher_internal.h>
#include <daemon/worker.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <utlist.h>

#ifndef IDLE_USEC /* less for a test */
#define IDLE_USEC 60000000ULL
#endif
#define IDLE_SLACK_USEC (IDLE_USEC / 60)
#define CLIENTS_MAX 16384u /* a quarter of RLIMIT_NOFILE at most */
#define CLIENTS_UID_MAX 1024u /* a sixteenth */
#define WAITING_MAX 64
#define WAITING_UID_MAX 16

/* Somebody whose account is to be made. */
struct waiting {
	struct message m;
	struct waiting *prev, *next;
};

/* The socket is new: it has room, or its client is gone. If the kernel refuses the descriptors the client is not to wait for them. */
void publish_hello(int sock, const struct port_hello *hello, const int *fds, unsigned int nr)
{
	if (kept_send(sock, hello, sizeof(*hello), fds, nr, MSG_DONTWAIT) < 0)
		shutdown(sock, SHUT_RDWR);
}

/* Begin to count the time for what nobody uses any more. */
static void want_idle(struct publish *p)
{
	sd_event_source_set_time_relative(p->idle, IDLE_USEC);
	sd_event_source_set_enabled(p->idle, SD_EVENT_ONESHOT);
}

static void drop_client(struct client *c)
{
	struct publish *p = c->publish;

	if (c->has_page)
		publish_page_left(p, c);
	publish_rule_left(p, c);
	DL_DELETE(p->clients, c);
	share_give(&p->shares, c->uid);
	sd_event_source_unref(c->source);
	close(c->fd);
	free(c);
	if (p->nr_pages == 0)
		want_idle(p);
}

static int on_client(sd_event_source *s, int fd, uint32_t revents, void *ctx)
{
	drop_client(ctx);
	return 0;
}

int publish_add(struct publish *p, struct message *m, struct client **ret)
{
	int r = share_take(&p->shares, m->open.uid, p->max_clients, p->max_clients_uid);
	struct client *c;

	if (r < 0)
		return r;
	c = calloc(1, sizeof(*c));
	/* Only its end is waited for. */
	r = c ? sd_event_add_io(p->event, &c->source, m->sock, 0, on_client, c) : -ENOMEM;
	if (r < 0) {
		free(c);
		share_give(&p->shares, m->open.uid);
		return r;
	}
	c->publish = p;
	c->uid = m->open.uid;
	c->fd = take_fd(&m->sock);
	DL_APPEND(p->clients, c);
	*ret = c;
	return 0;
}

/* Return: 0; -errno, for the client to be told. */
static int serve(struct publish *p, struct message *m)
{
	switch (m->open.what) {
	case PORT_WHAT_PAGE:
		return publish_page(p, m);
	case PORT_WHAT_TASK:
	case PORT_WHAT_CGROUP:
		return publish_account(p, m);
	case PORT_WHAT_RULE:
		if (m->open.flags & PORT_OPEN_DROP)
			publish_drop(p, m);
		else if (!(m->open.flags & PORT_OPEN_HOLD))
			return publish_rule(p, m);
		else
			return publish_hold(p, m);
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

/* Return: 1 a message; 0 none; -EPROTO one that the worker does not send. */
static int receive(struct message *ret)
{
	int fds[PUBLISH_FDS] = { -1, -1, -1 }, n = 0;
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(fds))];
	} control;
	struct iovec iov = { .iov_base = &ret->open, .iov_len = sizeof(ret->open) };
	struct msghdr m = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *h;
	ssize_t len;

	ret->sock = ret->pidfd = ret->target = -1;
	len = recvmsg(SERVER_SERVE, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (len < 0)
		return 0;
	h = CMSG_FIRSTHDR(&m);
	if (h && h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS)
		memcpy(fds, CMSG_DATA(h), h->cmsg_len - CMSG_LEN(0));
	ret->sock = fds[n++];
	if (len == sizeof(ret->open) && (ret->open.flags & PORT_OPEN_PIDFD))
		ret->pidfd = fds[n++];
	ret->target = fds[n++];
	if (n < PUBLISH_FDS && fds[n] >= 0)
		close(fds[n]);
	return len == sizeof(ret->open) && ret->open.magic == PORT_SERVE_MAGIC &&
			!(m.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		? 1
		: -EPROTO;
}

/* Who is served has taken his socket; who waits for no more than a word gets it now. */
static void answer(struct publish *p, struct message *m, int result)
{
	if (m->sock >= 0)
		publish_hello(m->sock,
			      &(struct port_hello){ .magic = PORT_SERVE_MAGIC, .result = result },
			      NULL, 0);
	cleanup_close_p(&m->sock);
	cleanup_close_p(&m->pidfd);
	cleanup_close_p(&m->target);
	if (p->nr_pages == 0)
		want_idle(p);
}

static bool is_gone(int sock)
{
	struct pollfd f = { .fd = sock };

	return poll(&f, 1, 0) == 1;
}

/* To be served when there is nothing else to do. Return: 0; -EAGAIN enough wait; -ENOMEM. */
static int put_off(struct publish *p, struct message *m)
{
	struct waiting *w, *tmp;
	unsigned int nr = 0, all = 0;

	DL_FOREACH_SAFE(p->waiting, w, tmp) {
		if (is_gone(w->m.sock)) {
			DL_DELETE(p->waiting, w);
			answer(p, &w->m, 0);
			free(w);
			continue;
		}
		all++;
		nr += w->m.open.uid == m->open.uid;
	}
	if (all >= WAITING_MAX || (nr >= WAITING_UID_MAX && m->open.uid != 0))
		return -EAGAIN;
	w = malloc(sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->m = *m;
	m->sock = m->pidfd = m->target = -1;
	DL_APPEND(p->waiting, w);
	sd_event_source_set_enabled(p->slow, SD_EVENT_ON);
	return 0;
}

/* One at a time, of another user than the last one if there is any, and after what has come meanwhile. */
static int on_slow(sd_event_source *s, void *ctx)
{
	struct publish *p = ctx;
	struct waiting *w;

	DL_FOREACH(p->waiting, w)
		if (w->m.open.uid != p->slow_uid)
			break;
	if (!w)
		w = p->waiting;
	if (w) {
		DL_DELETE(p->waiting, w);
		p->slow_uid = w->m.open.uid;
		answer(p, &w->m, is_gone(w->m.sock) ? 0 : serve(p, &w->m));
		free(w);
	}
	if (!p->waiting)
		sd_event_source_set_enabled(p->slow, SD_EVENT_OFF);
	return 0;
}

static int on_request(sd_event_source *s, int fd, uint32_t revents, void *ctx)
{
	struct publish *p = ctx;
	struct message m;
	int r = receive(&m);

	if (r == 0)
		return 0;
	if (r > 0 && publish_is_slow(p, &m))
		r = put_off(p, &m);
	else if (r > 0)
		r = serve(p, &m);
	answer(p, &m, r);
	return 0;
}

static int on_sample(sd_event_source *s, uint64_t usec, void *ctx)
{
	publish_sample(ctx);
	return 0;
}

static int on_sweep(sd_event_source *s, uint64_t usec, void *ctx)
{
	publish_sweep(ctx);
	return 0;
}

static int on_idle(sd_event_source *s, uint64_t usec, void *ctx)
{
	struct publish *p = ctx;

	if (p->nr_pages)
		return 0;
	/* Those that linger end one after the other. */
	if (p->accounts) {
		want_idle(p);
		return 0;
	}
	publish_unload(p);
	return p->shares.nr || p->held ? 0 : sd_event_exit(p->event, 0);
}

static int on_keeper(sd_event_source *s, int fd, uint32_t revents, void *ctx)
{
	kept_asked();
	return 0;
}

/* Each is a descriptor of ours; and in flight, to be charged to all of our user's, as long as the client does not read what it is sent. */
static void set_limits(struct publish *p)
{
	struct rlimit l = { .rlim_cur = 256 };

	getrlimit(RLIMIT_NOFILE, &l);
	p->max_clients = l.rlim_cur / 4 < CLIENTS_MAX ? (unsigned int)l.rlim_cur / 4 : CLIENTS_MAX;
	p->max_clients_uid = l.rlim_cur / 16 < CLIENTS_UID_MAX ? (unsigned int)l.rlim_cur / 16
							       : CLIENTS_UID_MAX;
}

static int start(struct publish *p)
{
	struct timespec ts;
	int r;

	set_limits(p);
	clock_gettime(CLOCK_REALTIME, &ts);
	p->generation = (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
	r = sandbox_publisher(geteuid() == 0);
	if (r == 0)
		r = sd_event_new(&p->event);
	if (r < 0)
		return r;
	publish_take_over(p);
	r = sd_event_add_defer(p->event, &p->slow, on_slow, p);
	if (r >= 0)
		r = sd_event_source_set_priority(p->slow, SD_EVENT_PRIORITY_IDLE);
	if (r >= 0)
		r = sd_event_source_set_enabled(p->slow, SD_EVENT_OFF);
	if (r >= 0)
		r = sd_event_add_io(p->event, NULL, SERVER_SERVE, EPOLLIN, on_request, p);
	if (r >= 0)
		r = sd_event_add_io(p->event, NULL, SERVER_KEEPER, EPOLLIN, on_keeper, NULL);
	if (r >= 0)
		r = sd_event_add_time_relative(p->event, &p->idle, CLOCK_MONOTONIC, IDLE_USEC,
					       IDLE_SLACK_USEC, on_idle, p);
	if (r >= 0)
		r = sd_event_add_time_relative(p->event, &p->sample, CLOCK_MONOTONIC, 0, 1000,
					       on_sample, p);
	if (r >= 0)
		r = sd_event_source_set_enabled(p->sample, SD_EVENT_OFF);
	if (r >= 0)
		r = sd_event_add_time_relative(p->event, &p->sweep, CLOCK_MONOTONIC, 0, 100000,
					       on_sweep, p);
	if (r >= 0)
		r = sd_event_source_set_enabled(p->sweep, SD_EVENT_OFF);
	return r;
}

int publish_run(const struct config *c)
{
	static struct publish p;
	struct client *client, *tmp;
	int r;

	p.config = c;
	prctl(PR_SET_NAME, "ksharedd-port");
	signal(SIGPIPE, SIG_IGN);
	if (!c->foreground)
		log_to_background("ksharedd");
	r = start(&p);
	if (r >= 0)
		r = sd_event_loop(p.event);
	if (r < 0)
		log_error("publisher: %s", strerror(-r));
	DL_FOREACH_SAFE(p.clients, client, tmp)
		drop_client(client);
	publish_rules_end(&p);
	publish_unload(&p);
	sd_event_source_unref(p.slow);
	sd_event_source_unref(p.sweep);
	sd_event_source_unref(p.idle);
	sd_event_source_unref(p.sample);
	sd_event_unref(p.event);
	return r < 0;
}
