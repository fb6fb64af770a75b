// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * port.c - opening a port, and what is known of it. See kshared/port.h for the contract.
 *
 * The server is some program, which may mean ill. What it sends is checked once and then not looked at again: all before the
 * data is copied, and the copy is checked (struct kport.about); of the page itself only seq, sample_ns, writes and the data are
 * read later, within bounds that were taken from the copy. Whatever is in them, a read ends and stays within the mapping.
 */
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <kshared/port.h>

#include "lib/conn.h"
#include "lib/port.h"

#define ABOUT_MAX (4u << 20) /* bytes before the data */
#define FLAGS (KPORT_STRICT | KPORT_FRESH | KPORT_POLLED | KPORT_PKEY)

_Static_assert(KPORT_U64 == (int)PORT_U64 && KPORT_S64 == (int)PORT_S64 &&
		       KPORT_U32 == (int)PORT_U32 && KPORT_FIXED == (int)PORT_FIXED &&
		       KPORT_CHARS == (int)PORT_CHARS && KPORT_NAME_MAX + 1 == PORT_NAME_MAX &&
		       KPORT_SOURCE_BPF == (int)PORT_SOURCE_BPF &&
		       KPORT_SOURCE_SAMPLER == (int)PORT_SOURCE_SAMPLER &&
		       KPORT_SOURCE_SERVICE == (int)PORT_SOURCE_SERVICE,
	       "ABI");

static uint64_t whole_pages(uint64_t len)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	return (len + page - 1) / page * page;
}

/* Wait for the server's answer. Return: 0; -ETIMEDOUT; -ECONNREFUSED it is gone; -EPROTO; -errno that it refused with. */
static int hello_recv(int sock, struct port_hello *ret, int ret_fds[PORT_FDS_MAX],
		      unsigned int *ret_nr_fds)
{
	uint64_t until_ns = port_now_ns() + PORT_HELLO_MS * 1000000ULL;
	struct pollfd pfd = { .fd = sock, .events = POLLIN };
	int r;

	*ret_nr_fds = 0;
	do {
		uint64_t now = port_now_ns();

		if (now >= until_ns)
			return -ETIMEDOUT;
		r = poll(&pfd, 1, (int)((until_ns - now) / 1000000) + 1);
	} while (r == 0 || (r < 0 && errno == EINTR));
	if (r < 0)
		return -errno;
	r = port_recv(sock, ret, sizeof(*ret), ret_fds, ret_nr_fds);
	if (r == -ECONNRESET)
		return -ECONNREFUSED;
	if (r < 0)
		return r;
	if (ret->magic != PORT_SERVE_MAGIC || ret->result > 0 || ret->result < -4095)
		return -EPROTO;
	return ret->result;
}

/* Copy what is before the data, and check the copy. */
static int about_take(struct kport *p)
{
	struct port_head head;
	int r;

	if (p->page_len < sizeof(head))
		return -EPROTO;
	memcpy(&head, p->head, sizeof(head));
	if (head.magic != PORT_MAGIC || head.data_off < sizeof(head) || head.data_off > ABOUT_MAX ||
	    head.data_off > p->page_len)
		return -EPROTO;
	p->about = malloc(head.data_off);
	if (!p->about)
		return -ENOMEM;
	memcpy(p->about, p->head, head.data_off);
	*p->about = head;
	r = port_check(p->about, p->page_len);
	return r == -EPROTONOSUPPORT ? -EPROTO : r;
}

static int page_take(struct kport *p, int fd)
{
	uint64_t len;
	void *page;
	int r;

	r = port_memory_len(fd, &len);
	if (r < 0)
		return r;
	page = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		return errno == ENOMEM ? -ENOMEM : -EPROTO;
	p->head = page;
	p->page_len = len;
	r = about_take(p);
	if (r < 0)
		return r;
	p->data = (const char *)page + p->about->data_off;
	p->size = p->about->data_size;
	p->period_ns = p->about->period_ns;
	p->fast_size = p->flags & (KPORT_STRICT | KPORT_FRESH) ? 0 : p->size;
	return 0;
}

static int pool_take(struct kport *p, const struct port_hello *h, int fd)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), len, want;
	char *memory;
	int r;

	r = port_memory_len(fd, &len);
	if (r < 0)
		return r;
	if (h->pool_off < page || h->pool_off > 16 * page || h->pool_off % page || !h->pool_size ||
	    h->pool_size % PORT_WORD || h->pool_size > KPORT_POOL_MAX * page ||
	    h->pool_off + h->pool_size + PORT_CANARY > len)
		return -EPROTO;
	want = whole_pages(h->pool_off + h->pool_size + PORT_CANARY);
	memory = region_get(fd, want);
	if (!memory)
		return errno == ENOMEM ? -ENOMEM : -EPROTO;
	p->bell = (struct port_bell *)memory;
	p->pool = memory + h->pool_off;
	p->pool_size = h->pool_size;
	if (p->key >= 0 && pkey_mprotect(memory, want, PROT_READ | PROT_WRITE, p->key) < 0)
		return -errno;
	return 0;
}

static int bell_take(struct kport *p, const struct port_hello *h, int *fd, bool trusted)
{
	switch (h->bell) {
	case PORT_BELL_EVENTFD:
		if (!port_is_eventfd(*fd))
			return -EPROTO;
		break;
	case PORT_BELL_BPF:
		if (!trusted || !port_is_bpf_program(*fd))
			return -EPROTO;
		break;
	default:
		return -EPROTO;
	}
	p->bell_kind = h->bell;
	p->slot = h->slot;
	p->token = h->token;
	p->spin_ns = port_spin_ns(h->bell);
	p->bell_fd = take_fd(fd);
	return 0;
}

static void close_fds(int *fds, unsigned int nr_fds)
{
	for (unsigned int i = 0; i < nr_fds; i++)
		cleanup_close_p(&fds[i]);
}

static int take_hello(struct kport *p, bool write, bool trusted)
{
	int fds[PORT_FDS_MAX] = { -1, -1, -1 };
	struct port_hello h;
	unsigned int nr_fds;
	int r;

	r = hello_recv(p->sock, &h, fds, &nr_fds);
	if (r == 0 && nr_fds != (write ? 3 : 1))
		r = -EPROTO;
	if (r == 0)
		r = page_take(p, fds[0]);
	if (r == 0 && write)
		r = pool_take(p, &h, fds[1]);
	if (r == 0 && write)
		r = bell_take(p, &h, &fds[2], trusted);
	close_fds(fds, nr_fds);
	return r;
}

static void client_free(struct kport *p)
{
	if (p->head)
		munmap((void *)p->head, p->page_len);
	if (p->bell)
		region_put(p->bell);
	if (p->bell_fd >= 0)
		close(p->bell_fd);
	if (p->sock >= 0)
		close(p->sock);
	pthread_mutex_destroy(&p->lock);
	free(p->about);
	free(p->name);
	free(p);
}

/**
 * port_client_new() - a port whose server was told of us.
 * @sock: what the daemon has given; taken, also on failure
 * @write: a pool is expected
 * @flags: KPORT_*
 * @trusted: its server is the daemon's
 * Return: 0; -ETIMEDOUT, -ECONNREFUSED, -EPROTO, -EOPNOTSUPP, -ENOMEM, and what the server refused with.
 */
int port_client_new(struct kport **ret, int sock, bool write, unsigned int flags, bool trusted)
{
	struct kport *p = calloc(1, sizeof(*p));
	int r = 0;

	if (!p) {
		close(sock);
		return -ENOMEM;
	}
	pthread_mutex_init(&p->lock, NULL);
	p->sock = sock;
	p->flags = flags;
	p->bell_fd = -1;
	p->key = -1;
	if (flags & KPORT_STRICT)
		r = port_cache_line(&p->line);
	if (r == 0 && (flags & KPORT_PKEY)) {
		p->key = pool_key();
		r = p->key < 0 ? p->key : 0;
	}
	if (r == 0)
		r = take_hello(p, write, trusted);
	if (r < 0) {
		client_free(p);
		return r;
	}
	*ret = p;
	return 0;
}

static int client_open(struct kport **ret, struct kshared *k, const char *name, int oflags,
		       unsigned int flags)
{
	struct ctl_entry entry;
	struct call c;
	int r;

	call_init(&c, CTL_OPEN);
	r = call_set_path(&c, "port", name);
	if (r < 0)
		return r;
	c.req.oflags = (uint32_t)oflags;
	c.want_fd = true;
	c.body = &entry;
	c.body_size = sizeof(entry);
	r = conn_call(k, &c);
	if (r < 0)
		return r;
	/* Only a rule's bell is a program, and rules are the daemon's. */
	return port_client_new(ret, c.ret_fd, oflags == O_RDWR, flags,
			       c.ret_body_len == sizeof(entry) && !strcmp(entry.what, "rule"));
}

/**
 * kport_open() - open a port.
 * @k: the connection; NULL: the default one. It is used again by kport_renew()
 * @name: the entry's name inside port
 * @oflags: O_RDONLY, O_RDWR; O_CLOEXEC may be given and is always set
 * @flags: KPORT_*
 *
 * Any thread. Waits for the daemon, and five seconds at most for the port's server.
 *
 * Return: a port for kport_close(); NULL with errno: ENOENT; EACCES; EPERM nobody can write it; ECONNREFUSED, ETIMEDOUT, EPROTO
 * its server is gone, does not answer, is none; EAGAIN; EDQUOT; EINVAL, ENAMETOOLONG; EOPNOTSUPP; ENOMEM; and those of conn_call().
 */
struct kport *kport_open(struct kshared *k, const char *name, int oflags, unsigned int flags)
{
	struct kport *p;
	int r;

	cancel_guard();
	oflags &= ~O_CLOEXEC;
	if ((oflags != O_RDONLY && oflags != O_RDWR) || (flags & ~FLAGS)) {
		errno = EINVAL;
		return NULL;
	}
	r = client_open(&p, k, name, oflags, flags);
	if (r < 0) {
		errno = -r;
		return NULL;
	}
	p->k = k;
	p->oflags = oflags;
	p->name = strdup(name);
	if (!p->name) {
		client_free(p);
		errno = ENOMEM;
		return NULL;
	}
	return p;
}

/** kport_close() - unmap and forget. @p: not in use by another thread; NULL is ignored. errno is kept. */
void kport_close(struct kport *p)
{
	int saved = errno;

	cancel_guard();
	if (p)
		client_free(p);
	errno = saved;
}

/**
 * kport_renew() - open a port again.
 * @p: not in use by another thread
 *
 * Return: 0; -1 with errno as kport_open(): the port remains as it was.
 */
int kport_renew(struct kport *p)
{
	struct kport *fresh, old;
	int r;

	cancel_guard();
	if (!p->name)
		return api_result(-EINVAL);
	r = client_open(&fresh, p->k, p->name, p->oflags, p->flags);
	if (r < 0)
		return api_result(r);
	fresh->k = p->k;
	fresh->oflags = p->oflags;
	fresh->name = take_ptr(p->name);
	old = *p;
	*p = *fresh;
	*fresh = old;
	client_free(fresh);
	return 0;
}

/**
 * kport_info() - the port as a whole.
 * Return: 0; -1 with errno EAGAIN as kport_read().
 */
int kport_info(struct kport *p, struct kport_info *ret)
{
	const struct port_head *about = p->about;
	struct kport_info info = {
		.version = about->version,
		.source = about->source,
		.nr_fields = about->nr_fields,
		.size = p->size,
		.pool_size = p->pool_size,
		.period_ns = p->period_ns,
		.generation = about->generation,
	};
	int r;

	cancel_guard();
	r = port_sampled(p, &info.sample_ns, &info.writes);
	if (r < 0)
		return api_result(r);
	if (!p->gone)
		p->gone = port_hung_up(p->sock);
	info.gone = p->gone;
	memcpy(info.name, about->name, sizeof(info.name));
	*ret = info;
	return 0;
}

static void field_give(const struct kport *p, const struct port_field *f, struct kport_field *ret)
{
	*ret = (struct kport_field){
		.type = f->type,
		.fraction_bits = f->fraction_bits,
		.width = port_field_size(f),
		.count = f->count,
		.stride = f->stride,
		.offset = f->offset - p->about->data_off,
	};
	memcpy(ret->name, f->name, sizeof(ret->name));
	memcpy(ret->unit, f->unit, sizeof(ret->unit));
}

/** kport_field() - field number @i, from 0. Return: 0; -1 with errno ENOENT. */
int kport_field(struct kport *p, unsigned int i, struct kport_field *ret)
{
	if (i >= p->about->nr_fields)
		return api_result(-ENOENT);
	field_give(p, port_field_at(p->about, i), ret);
	return 0;
}

/** kport_find() - a field by name. Return: 0; -1 with errno ENOENT. */
int kport_find(struct kport *p, const char *name, struct kport_field *ret)
{
	const struct port_field *f = port_find(p->about, name);

	if (!f)
		return api_result(-ENOENT);
	field_give(p, f, ret);
	return 0;
}

/** kport_fd() - what hangs up (POLLHUP) when the server is gone. Return: borrowed; another one after kport_renew(). */
int kport_fd(struct kport *p)
{
	return p->sock;
}

/**
 * kport_create() - make a port that the daemon serves.
 * @k: the connection; NULL: the default one
 * @name: the new entry's name inside port
 * @what: KPORT_TASK, KPORT_CGROUP, KPORT_RULE
 * @fd: of what it is about; stays the caller's
 * @mode: permission bits, less the process's umask
 *
 * Any thread.
 *
 * Return: 0; -1 with errno: see kshared/port.h; and those of conn_call().
 */
int kport_create(struct kshared *k, const char *name, int what, int fd, mode_t mode)
{
	struct call c;
	int r;

	cancel_guard();
	if (what != KPORT_TASK && what != KPORT_CGROUP && what != KPORT_RULE)
		return api_result(-EINVAL);
	if (fcntl(fd, F_GETFD) < 0)
		return api_result(-EBADF);
	call_init(&c, CTL_POST);
	r = call_set_path(&c, "port", name);
	if (r == 0)
		r = call_set_mode(&c, mode);
	if (r < 0)
		return api_result(r);
	c.req.flags = (uint32_t)what;
	c.send_fd = fd;
	return api_result(conn_call(k, &c));
}

/**
 * kport_remove() - remove a port.
 * @k: the connection; NULL: the default one
 * @name: as for kport_create()
 *
 * Any thread.
 *
 * Return: 0; -1 with errno: ENOENT; EACCES; EPERM sticky directory, not the owner; EISDIR a board; EINVAL, ENAMETOOLONG; and
 * those of conn_call().
 */
int kport_remove(struct kshared *k, const char *name)
{
	struct call c;
	int r;

	cancel_guard();
	call_init(&c, CTL_REMOVE);
	r = call_set_path(&c, "port", name);
	return api_result(r < 0 ? r : conn_call(k, &c));
}
