// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * port_serve.c - serving a port: its page, its events. See kshared/port.h for the contract.
 *
 * The daemon has the other end of a socket, by which it tells of each who may open (wire/port_serve.h). All else is between us and
 * those (port_caller.c). There is one epoll: the daemon's socket; each caller's, which hangs up; each writer's eventfd; and a timer,
 * which runs while somebody may write or data is published regularly.
 *
 * A program that calls kport_server_dispatch() again and again without waiting is awake: it looks at the bells, asks the epoll at most
 * every LOOK_NS, and is not rung. It may go to sleep elsewhere at any time without our knowledge: then its callers ring after
 * a while all the same.
 *
 * One thread at a time. No locks.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "lib/conn.h"
#include "lib/port_server.h"

#define DATA_MAX (1u << 30)
#define FIELDS_MAX 8192
#define PERIOD_NS 10000000
#define PERIOD_MIN_NS 10000
#define CLIENTS_UID 64
#define MODE 0644
#define LOOK_NS 50000
#define AWAKE_LOOKS 64 /* so many looks in a row, and nobody has to ring */
#define OPENS_MAX 16 /* that are let in at a time */
#define EVENTS_MAX 32

static bool is_text(const char *s, size_t size)
{
	size_t len = strnlen(s, size);

	for (size_t i = 0; i < len; i++)
		if (s[i] <= ' ' || s[i] == 0x7f)
			return false;
	return len < size;
}

/* A field as it is in the page, whose data begins at @data_off. */
static int field_take(const struct kport_field *f, const struct port_head *h,
		      struct port_field *ret)
{
	uint64_t end;

	if (!f->name[0] || !is_text(f->name, sizeof(f->name)) ||
	    !is_text(f->unit, sizeof(f->unit)) || f->type < KPORT_U64 || f->type > KPORT_CHARS ||
	    f->fraction_bits > 63 || f->width > UINT16_MAX || f->offset >= h->data_size ||
	    __builtin_add_overflow(f->offset, h->data_off, &end) || end > UINT32_MAX)
		return -EINVAL;
	memset(ret, 0, sizeof(*ret));
	memcpy(ret->name, f->name, strlen(f->name));
	memcpy(ret->unit, f->unit, strlen(f->unit));
	ret->type = (uint8_t)f->type;
	ret->fraction_bits = (uint8_t)f->fraction_bits;
	ret->width = (uint16_t)f->width;
	ret->offset = (uint32_t)end;
	ret->count = f->count;
	ret->stride = f->stride;
	return port_check_field(h, ret) ? 0 : -EINVAL;
}

/* What is before the data of the page, which is zero, and mapped with all its length. */
static int page_format(struct kport_server *s, const struct port_head *head, const char *name,
		       const struct kport_field *fields)
{
	struct port_head *h = s->page;
	const char *last = strrchr(name, '/');

	*h = *head;
	strncpy(h->name, last ? last + 1 : name, sizeof(h->name) - 1);
	if (getrandom(&h->generation, sizeof(h->generation), 0) != sizeof(h->generation))
		return -errno;
	for (uint32_t i = 0; i < h->nr_fields; i++) {
		int r = field_take(&fields[i], h, (struct port_field *)(h + 1) + i);

		if (r < 0)
			return r;
	}
	return port_check(h, s->page_len);
}

static int page_new(struct kport_server *s, const char *name, const struct kport_field *fields,
		    unsigned int nr_fields)
{
	uint64_t table = sizeof(struct port_head) + nr_fields * sizeof(struct port_field);
	uint64_t data_off = (table + PORT_ALIGN - 1) / PORT_ALIGN * PORT_ALIGN;
	struct port_head head = {
		.magic = PORT_MAGIC,
		.version = PORT_VERSION,
		.head_size = sizeof(head),
		.size = data_off + s->r->size,
		.nr_fields = nr_fields,
		.field_size = sizeof(struct port_field),
		.fields_off = sizeof(head),
		.data_off = (uint32_t)data_off,
		.data_size = (uint32_t)s->r->size,
		.source = PORT_SOURCE_SERVICE,
		.period_ns = s->o.publish ? s->o.period_ns : 0,
	};
	void *page;
	int r;

	s->page_fd = port_memory("kport-page", head.size, &page);
	if (s->page_fd < 0)
		return s->page_fd;
	s->page = page;
	s->page_len = head.size;
	r = page_format(s, &head, name, fields);
	if (r < 0)
		return r;
	return fcntl(s->page_fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0 ? -errno : 0;
}

/** server_publish() - let readers see the data. Return: 0; what resource_ops.read said. */
int server_publish(struct kport_server *s)
{
	struct resource *r = s->r;
	int err = r->rops.read ? r->rops.read(r) : 0;
	uint64_t sample_ns = port_now_ns();

	if (err < 0)
		return err;
	port_write_begin(s->page);
	port_write(s->page, s->page->data_off, r->data, r->size);
	port_write_end(s->page, sample_ns);
	return 0;
}

/** server_tick() - have the timer run if there is something to do for it. Return: 0; -errno. */
int server_tick(struct kport_server *s)
{
	bool ticking = s->o.publish || !TAILQ_EMPTY(&s->writers);
	struct timespec period = { .tv_sec = (time_t)(s->o.period_ns / 1000000000),
				   .tv_nsec = (long)(s->o.period_ns % 1000000000) };
	struct itimerspec it = { { 0 } };

	if (ticking == s->ticking)
		return 0;
	if (ticking)
		it = (struct itimerspec){ .it_interval = period, .it_value = period };
	if (timerfd_settime(s->timer, 0, &it, NULL) < 0)
		return -errno;
	s->ticking = ticking;
	return 0;
}

static int watch_own(struct kport_server *s, int fd, struct source *source, enum source_type type)
{
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = source };

	source->type = type;
	return epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &e) < 0 ? -errno : 0;
}

static int check_serve(const struct resource *r, const struct kport_field *fields,
		       unsigned int nr_fields, const struct kport_serve_options *o)
{
	if (!r || !r->data || !r->size || r->size > DATA_MAX ||
	    ((uintptr_t)r->data | r->size) % PORT_WORD || r->size % 8 || nr_fields > FIELDS_MAX ||
	    (nr_fields && !fields))
		return -EINVAL;
	if (o->policy > KPORT_LOG || o->pool_pages > KPORT_POOL_MAX ||
	    o->period_ns < PERIOD_MIN_NS || o->period_ns > INT64_MAX / 4)
		return -EINVAL;
	return 0;
}

static int server_init(struct kport_server *s, const char *name, const struct kport_field *fields,
		       unsigned int nr_fields)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	int r;

	r = check_serve(s->r, fields, nr_fields, &s->o);
	if (r < 0)
		return r;
	s->pool_size = s->o.pool_pages ? s->o.pool_pages * page : s->r->size;
	if (s->pool_size > KPORT_POOL_MAX * page)
		s->pool_size = KPORT_POOL_MAX * page;
	s->shadow = calloc(1, s->pool_size);
	if (!s->shadow)
		return -ENOMEM;
	r = page_new(s, name, fields, nr_fields);
	if (r < 0)
		return r;
	s->epoll = epoll_create1(EPOLL_CLOEXEC);
	s->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (s->epoll < 0 || s->timer < 0)
		return -errno;
	r = watch_own(s, s->sock, &s->daemon_source, SOURCE_DAEMON);
	if (r == 0)
		r = watch_own(s, s->timer, &s->timer_source, SOURCE_TIMER);
	if (r == 0)
		r = server_tick(s);
	if (r == 0)
		server_publish(s); /* if there is nothing yet to publish, sample_ns says so */
	return r;
}

/**
 * port_server_new() - serve who is announced by a socket.
 * @sock: taken, also on failure
 * @name: of the port
 * The rest is as for kport_serve(). Return: 0; -EINVAL, -ENOMEM, -EMFILE.
 */
int port_server_new(struct kport_server **ret, int sock, const char *name, struct resource *r,
		    const struct kport_field *fields, unsigned int nr_fields,
		    const struct kport_serve_options *o)
{
	struct kport_server *s = calloc(1, sizeof(*s));
	int err;

	if (!s) {
		close(sock);
		return -ENOMEM;
	}
	s->r = r;
	s->sock = sock;
	s->epoll = s->timer = s->page_fd = -1;
	TAILQ_INIT(&s->writers);
	TAILQ_INIT(&s->readers);
	TAILQ_INIT(&s->dead);
	if (o)
		s->o = *o;
	if (!s->o.period_ns)
		s->o.period_ns = PERIOD_NS;
	if (!s->o.max_clients_uid)
		s->o.max_clients_uid = CLIENTS_UID;
	err = server_init(s, name, fields, nr_fields);
	if (err < 0) {
		kport_server_free(s);
		return err;
	}
	*ret = s;
	return 0;
}

/**
 * kport_serve() - serve a port.
 * @k: the connection; NULL: the default one
 * @name: of the new entry inside port
 * @r: what is served; stays the caller's until kport_server_free()
 * @fields: what is in the data; copied
 * @o: NULL: the defaults
 *
 * Any thread.
 *
 * Return: a server for kport_server_free(); NULL with errno: EEXIST; EINVAL; EACCES; EDQUOT, ENOSPC; ENOMEM; and those of conn_call().
 */
struct kport_server *kport_serve(struct kshared *k, const char *name, struct resource *r,
				 const struct kport_field *fields, unsigned int nr_fields,
				 const struct kport_serve_options *o)
{
	struct kport_server *s = NULL;
	struct call c;
	int pair[2], err;

	cancel_guard();
	call_init(&c, CTL_POST);
	err = call_set_path(&c, "port", name);
	if (err == 0)
		err = call_set_mode(&c, o && o->mode ? o->mode : MODE);
	if (err == 0 && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		err = -errno;
	if (err < 0) {
		errno = -err;
		return NULL;
	}
	err = port_server_new(&s, pair[0], name, r, fields, nr_fields, o);
	if (err == 0) {
		c.req.flags = o && o->replace ? PORT_POST_REPLACE : 0;
		c.send_fd = pair[1];
		err = conn_call(k, &c);
	}
	close(pair[1]);
	if (err < 0) {
		kport_server_free(s);
		errno = -err;
		return NULL;
	}
	return s;
}

/** kport_server_fd() - for a loop of one's own. Return: borrowed. */
int kport_server_fd(struct kport_server *s)
{
	return s->epoll;
}

/* One who opens. Return: 0: let in or refused; -EAGAIN there is none; -ENOTCONN there will never be one again. */
static int take_open(struct kport_server *s)
{
	int fds[PORT_FDS_MAX] = { -1, -1, -1 };
	unsigned int nr_fds, want;
	struct port_open m = { 0 };
	int r;

	r = port_recv(s->sock, &m, sizeof(m), fds, &nr_fds);
	want = 1 + !!(m.flags & PORT_OPEN_PIDFD);
	/* Without room for descriptors it comes without them, and its caller sees that nobody is there. */
	if (r == 0 && m.magic == PORT_SERVE_MAGIC && nr_fds == want &&
	    !(m.flags & ~PORT_OPEN_PIDFD)) {
		port_server_accept(s, &m, fds[0], fds[1]);
		return 0;
	}
	for (unsigned int i = 0; i < nr_fds; i++)
		close(fds[i]);
	if (r == -ECONNRESET)
		return -ENOTCONN;
	return r == -EAGAIN ? r : 0;
}

static int take_opens(struct kport_server *s)
{
	int r = 0;

	for (int i = 0; i < OPENS_MAX && r == 0; i++)
		r = take_open(s);
	if (r != -ENOTCONN)
		return 0;
	s->removed = true;
	epoll_ctl(s->epoll, EPOLL_CTL_DEL, s->sock, NULL);
	return r;
}

static void tick(struct kport_server *s)
{
	struct caller *c, *next;
	uint64_t times;

	if (read(s->timer, &times, sizeof(times)) < 0)
		return;
	for (c = TAILQ_FIRST(&s->writers); c; c = next) {
		next = TAILQ_NEXT(c, link);
		caller_check(s, c);
	}
	if (s->o.publish)
		server_publish(s);
}

/* Every writer's bell is looked at. Return: how many had rung. */
static int take_all(struct kport_server *s)
{
	struct caller *c, *next;
	int nr = 0;

	for (c = TAILQ_FIRST(&s->writers); c; c = next) {
		next = TAILQ_NEXT(c, link);
		nr += caller_take(s, c);
	}
	return nr;
}

static void set_awake(struct kport_server *s, bool awake)
{
	struct caller *c;

	s->awake = awake;
	TAILQ_FOREACH(c, &s->writers, link)
	caller_set_awake(c, awake);
}

/* Ask the epoll. Return: 0; -EINTR; -ENOTCONN. */
static int take_events(struct kport_server *s, int timeout_ms)
{
	struct epoll_event events[EVENTS_MAX];
	int nr = epoll_wait(s->epoll, events, EVENTS_MAX, timeout_ms), r = 0;

	if (nr < 0)
		return -errno;
	for (int i = 0; i < nr; i++) {
		const struct source *source = events[i].data.ptr;

		switch (source->type) {
		case SOURCE_DAEMON:
			r = take_opens(s);
			break;
		case SOURCE_TIMER:
			tick(s);
			break;
		case SOURCE_SOCKET:
			if (events[i].events & (EPOLLHUP | EPOLLERR))
				caller_drop(s, source->caller);
			break;
		case SOURCE_BELL:
			break; /* all bells are looked at next */
		}
	}
	callers_free_dead(s);
	server_tick(s);
	return r;
}

/* A look without waiting. Return: is it time to ask the epoll, too? */
static bool look(struct kport_server *s)
{
	uint64_t now = port_now_ns();
	bool soon = now - s->looked_ns < LOOK_NS;

	s->looked_ns = now;
	s->idle_looks = soon ? s->idle_looks + 1 : 0;
	if (s->awake != (s->idle_looks >= AWAKE_LOOKS))
		set_awake(s, !s->awake);
	if (s->awake && now - s->asked_ns < LOOK_NS)
		return false;
	s->asked_ns = now;
	return true;
}

/**
 * kport_server_dispatch() - do what there is to do.
 * @timeout_ms: 0: do not wait; -1: without end
 *
 * Return: how many writes were carried out or refused; -1 with errno: EINTR; ENOTCONN the entry was removed: said once, and then as
 * soon as those who have it open are gone, too, who can be served until then.
 */
int kport_server_dispatch(struct kport_server *s, int timeout_ms)
{
	int nr, r = 0;

	cancel_guard();
	nr = take_all(s);
	if (s->removed && TAILQ_EMPTY(&s->writers) && TAILQ_EMPTY(&s->readers))
		return nr ? nr : api_result(-ENOTCONN);
	if (timeout_ms != 0) {
		s->idle_looks = 0;
		if (s->awake)
			set_awake(s, false);
		/* A caller that saw us awake, and so did not ring, has done its store by now. */
		nr += take_all(s);
		r = take_events(s, nr ? 0 : timeout_ms);
		nr += take_all(s);
	} else if (look(s)) {
		r = take_events(s, 0);
		nr += take_all(s);
	}
	callers_free_dead(s);
	return r < 0 && nr == 0 ? api_result(r) : nr;
}

/** kport_publish() - let readers see the data. Return: 0; -1 with errno: what resource_ops.read said. */
int kport_publish(struct kport_server *s)
{
	cancel_guard();
	return api_result(server_publish(s));
}

/** kport_server_free() - end serving. @s: not in use by another thread; NULL is ignored. errno is kept. */
void kport_server_free(struct kport_server *s)
{
	struct caller *c;
	int saved = errno;

	if (!s)
		return;
	cancel_guard();
	while ((c = TAILQ_FIRST(&s->writers)) || (c = TAILQ_FIRST(&s->readers)))
		caller_drop(s, c);
	callers_free_dead(s);
	if (s->page)
		munmap(s->page, s->page_len);
	cleanup_close_p(&s->page_fd);
	cleanup_close_p(&s->timer);
	cleanup_close_p(&s->epoll);
	cleanup_close_p(&s->sock);
	free(s->shadow);
	free(s);
	errno = saved;
}
