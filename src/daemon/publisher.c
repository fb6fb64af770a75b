// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * publisher.c - clients of the daemon's own ports, and the pages that they are given.
 *
 * Requests come from the worker, which has checked who may open what. A client is his end's socket: nothing is read from it,
 * and when it hangs up he is gone. What he is given is a descriptor of memory that he can only read.
 *
 * What costs something runs only while it is used: BPF's timers from the first client of a page until a minute after the last one, the
 * sampler's while somebody has a page of its. After a minute with nothing to do at all the process ends; the keeper starts
 * another when it is wanted.
 */
#include <base/cleanup.h>
#include <base/log.h>
#include <daemon/publisher.h>
#include <daemon/worker.h>
#include <engine/bpf/publisher.h>
#include <engine/sample/sampler.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <systemd/sd-event.h>
#include <time.h>
#include <unistd.h>
#include <uthash.h>
#include <utlist.h>
#include <wire/keep.h>
#include <wire/port_serve.h>

#define IDLE_USEC 60000000ULL
#define SAMPLE_USEC (SAMPLER_PERIOD_NS / 1000)
#define CLIENTS_MAX 16384
#define CLIENTS_UID_MAX 1024
#define REQUEST_FDS 3

/* Somebody who has a port of ours open. @fd: his server's end */
struct client {
	struct publish *publish;
	int fd;
	sd_event_source *source;
	uid_t uid;
	bool sampled;
	struct client *prev, *next;
};

struct uid_clients {
	uid_t uid;
	unsigned int nr;
	UT_hash_handle hh;
};

struct publish {
	const struct config *config;
	sd_event *event;
	sd_event_source *idle;
	sd_event_source *sample;
	struct publisher *bpf;
	struct sampler *sampler;
	bool tried;
	uint64_t generation;
	struct client *clients;
	unsigned int nr_clients;
	unsigned int nr_sampled;
	struct uid_clients *uids;
};

/* A message, and its descriptors, which are closed when it has been dealt with unless they were taken. */
struct message {
	struct port_open open;
	int fds[REQUEST_FDS];
};

static void close_message(struct message *m)
{
	for (int i = 0; i < REQUEST_FDS; i++)
		cleanup_close_p(&m->fds[i]);
}

static void tell_keeper(uint32_t op, uint64_t id, uint32_t flags)
{
	struct keep_query q = { .op = op, .id = id, .flags = flags };

	if (send(PUBLISHER_KEEPER, &q, sizeof(q), MSG_NOSIGNAL) < 0)
		_exit(0);
}

/* Pages that BPF does not reach are the sampler's. */
static int load_pages(struct publish *p)
{
	struct publisher_options bpf = { .generation = p->generation };
	struct sampler_options sampler = { .generation = p->generation };
	int r;

	if (p->sampler)
		return 0;
	if (!p->bpf) {
		sandbox_override(true);
		r = publisher_new(&p->bpf, &bpf);
		sandbox_override(false);
		if (r < 0) {
			p->bpf = NULL;
			if (!p->tried)
				log_info(
					"pages of ports are read from /proc: BPF is not to be had (%s)",
					strerror(-r));
		}
		p->tried = true;
		tell_keeper(PUB_READY, 0, p->bpf ? SHM_BPF_WORKS : SHM_BPF_NONE);
	}
	for (int i = 0; i < NR_PORT_PAGES; i++)
		if (!p->bpf || publisher_fd(p->bpf, i) < 0)
			sampler.pages |= 1u << i;
	return sampler_new(&p->sampler, &sampler);
}

static void unload_pages(struct publish *p)
{
	publisher_free(p->bpf);
	sampler_free(p->sampler);
	p->bpf = NULL;
	p->sampler = NULL;
}

static void set_timer(sd_event_source *s, uint64_t usec)
{
	sd_event_source_set_time_relative(s, usec);
	sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
}

static unsigned int *count_of(struct publish *p, uid_t uid)
{
	struct uid_clients *u;

	HASH_FIND(hh, p->uids, &uid, sizeof(uid), u);
	if (!u) {
		u = calloc(1, sizeof(*u));
		if (!u)
			return NULL;
		u->uid = uid;
		HASH_ADD(hh, p->uids, uid, sizeof(uid), u);
	}
	return &u->nr;
}

static void uncount(struct publish *p, uid_t uid)
{
	struct uid_clients *u;

	HASH_FIND(hh, p->uids, &uid, sizeof(uid), u);
	if (!u || --u->nr)
		return;
	HASH_DEL(p->uids, u);
	free(u);
}

static void drop_client(struct client *c)
{
	struct publish *p = c->publish;

	DL_DELETE(p->clients, c);
	p->nr_clients--;
	uncount(p, c->uid);
	if (c->sampled && --p->nr_sampled == 0)
		sd_event_source_set_enabled(p->sample, SD_EVENT_OFF);
	sd_event_source_unref(c->source);
	close(c->fd);
	free(c);
	if (p->nr_clients == 0)
		set_timer(p->idle, IDLE_USEC);
}

static int on_client(sd_event_source *s, int fd, uint32_t revents, void *ctx)
{
	drop_client(ctx);
	return 0;
}

/* Return: 0; -EDQUOT; -ENOMEM; -errno. */
static int add_client(struct publish *p, struct message *m, bool sampled)
{
	unsigned int *count = count_of(p, m->open.uid);
	struct client *c;
	int r;

	if (!count)
		return -ENOMEM;
	++*count;
	c = p->nr_clients < CLIENTS_MAX &&
			(*count <= CLIENTS_UID_MAX || m->open.uid == 0 || m->open.uid == getuid())
		? calloc(1, sizeof(*c))
		: NULL;
	/* That it can be read at any time means nothing: nothing can come. */
	r = c ? sd_event_add_io(p->event, &c->source, m->fds[0], 0, on_client, c) : -EDQUOT;
	if (r < 0) {
		free(c);
		uncount(p, m->open.uid);
		return r;
	}
	c->publish = p;
	c->uid = m->open.uid;
	c->sampled = sampled;
	c->fd = take_fd(&m->fds[0]);
	DL_APPEND(p->clients, c);
	p->nr_clients++;
	sd_event_source_set_enabled(p->idle, SD_EVENT_OFF);
	return 0;
}

/* The socket is new: it has room, or its client is gone. */
static void send_hello(int sock, const struct port_hello *hello, const int *fds, unsigned int nr)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int) * 3)];
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)hello, .iov_len = sizeof(*hello) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (nr) {
		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * nr);
		control.h = (struct cmsghdr){
			.cmsg_level = SOL_SOCKET,
			.cmsg_type = SCM_RIGHTS,
			.cmsg_len = CMSG_LEN(sizeof(int) * nr),
		};
		memcpy(CMSG_DATA(&control.h), fds, sizeof(int) * nr);
	}
	(void)!sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void refuse(int sock, int error)
{
	send_hello(sock, &(struct port_hello){ .magic = PORT_SERVE_MAGIC, .result = error }, NULL,
		   0);
}

static int serve_page(struct publish *p, struct message *m)
{
	struct port_hello hello = { .magic = PORT_SERVE_MAGIC };
	uint32_t page = m->open.page;
	int sock = m->fds[0], fd, r;
	bool sampled = false;

	if (page >= NR_PORT_PAGES)
		return -EOPNOTSUPP;
	r = load_pages(p);
	if (r < 0)
		return r;
	fd = p->bpf ? publisher_fd(p->bpf, page) : -ENOENT;
	if (fd < 0) {
		fd = sampler_fd(p->sampler, page);
		sampled = true;
	}
	if (fd < 0)
		return -EOPNOTSUPP;
	r = add_client(p, m, sampled);
	if (r < 0)
		return r;
	/* Nobody has looked since the last of them went. */
	if (sampled && p->nr_sampled++ == 0) {
		sampler_sample(p->sampler);
		set_timer(p->sample, SAMPLE_USEC);
	}
	send_hello(sock, &hello, &fd, 1);
	return 0;
}

static int serve(struct publish *p, struct message *m)
{
	switch (m->open.what) {
	case PORT_WHAT_PAGE:
		return serve_page(p, m);
	default:
		return -EOPNOTSUPP;
	}
}

/* Return: 1 a message; 0 none; -EPROTO one that the worker does not send. */
static int receive(struct message *ret)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int) * REQUEST_FDS)];
	} control;
	struct iovec iov = { .iov_base = &ret->open, .iov_len = sizeof(ret->open) };
	struct msghdr m = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *h;
	ssize_t n;

	for (int i = 0; i < REQUEST_FDS; i++)
		ret->fds[i] = -1;
	n = recvmsg(PUBLISHER_SERVE, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return 0;
	h = CMSG_FIRSTHDR(&m);
	if (h && h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS)
		memcpy(ret->fds, CMSG_DATA(h), h->cmsg_len - CMSG_LEN(0));
	return n == sizeof(ret->open) && ret->open.magic == PORT_SERVE_MAGIC &&
			!(m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) &&
			memchr(ret->open.name, 0, sizeof(ret->open.name))
		? 1
		: -EPROTO;
}

static int on_request(sd_event_source *s, int fd, uint32_t revents, void *ctx)
{
	struct publish *p = ctx;
	struct message m;
	int r = receive(&m), sock;

	if (r == 0)
		return 0;
	sock = m.fds[0];
	if (r > 0 && sock >= 0) {
		r = serve(p, &m);
		if (r < 0)
			refuse(sock, r);
	}
	close_message(&m);
	if (p->nr_clients == 0)
		set_timer(p->idle, IDLE_USEC);
	return 0;
}

static int on_sample(sd_event_source *s, uint64_t usec, void *ctx)
{
	struct publish *p = ctx;

	sampler_sample(p->sampler);
	set_timer(s, SAMPLE_USEC);
	return 0;
}

static int on_idle(sd_event_source *s, uint64_t usec, void *ctx)
{
	struct publish *p = ctx;

	unload_pages(p);
	return sd_event_exit(p->event, 0);
}

/* The keeper has nothing to say unless it is asked. */
static int on_keeper(sd_event_source *s, int fd, uint32_t revents, void *ctx)
{
	_exit(0);
}

static int start(struct publish *p)
{
	struct timespec ts;
	int r;

	clock_gettime(CLOCK_REALTIME, &ts);
	p->generation = (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
	r = sandbox_publisher(geteuid() == 0);
	if (r == 0)
		r = sd_event_new(&p->event);
	if (r >= 0)
		r = sd_event_add_io(p->event, NULL, PUBLISHER_SERVE, EPOLLIN, on_request, p);
	if (r >= 0)
		r = sd_event_add_io(p->event, NULL, PUBLISHER_KEEPER, EPOLLIN, on_keeper, NULL);
	if (r >= 0)
		r = sd_event_add_time_relative(p->event, &p->idle, CLOCK_MONOTONIC, IDLE_USEC,
					       1000000, on_idle, p);
	if (r >= 0)
		r = sd_event_add_time_relative(p->event, &p->sample, CLOCK_MONOTONIC, SAMPLE_USEC,
					       1000, on_sample, p);
	if (r >= 0)
		r = sd_event_source_set_enabled(p->sample, SD_EVENT_OFF);
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
	r = start(&p);
	if (r >= 0 && !c->foreground)
		log_to_background("ksharedd");
	if (r >= 0)
		r = sd_event_loop(p.event);
	if (r < 0)
		log_error("publisher: %s", strerror(-r));
	DL_FOREACH_SAFE(p.clients, client, tmp)
		drop_client(client);
	unload_pages(&p);
	sd_event_source_unref(p.idle);
	sd_event_source_unref(p.sample);
	sd_event_unref(p.event);
	return r < 0;
}
