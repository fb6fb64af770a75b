// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ring.c - making rings, mapping them, becoming one of their ends.
 *
 * The head of an object is copied once and checked; every address is computed from the copy. An object that could
 * shrink is refused: a mapping of it could raise SIGBUS at any time.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <kshared/mem.h>

#include "lib/ring.h"

_Static_assert(KRING_ONE_TO_ONE == RING_SHAPE_ONE && KRING_MANY_TO_ONE == RING_SHAPE_MANY &&
		       KRING_BROADCAST == RING_SHAPE_BROADCAST &&
		       KRING_PROTECTED == RING_PROTECTED && KRING_BLOCKING == RING_BLOCKING,
	       "ABI");

#define PATIENCE_NS 1000000000LL /* for who is just making the ring */
#define CTL_SUFFIX ".ctl"

/**
 * ring_conf_head() - what the head of a ring made by @conf is, without magic, version and id.
 * @conf: NULL: the defaults
 *
 * Return: 0; -EINVAL.
 */
int ring_conf_head(struct ring_head *ret, const struct kring_conf *conf)
{
	static const struct kring_conf none;
	struct ring_head h = { .version = RING_VERSION };

	if (!conf)
		conf = &none;
	for (unsigned int i = 0; i < sizeof(conf->reserved) / sizeof(*conf->reserved); i++)
		if (conf->reserved[i])
			return -EINVAL;
	h.shape = conf->shape ? conf->shape : KRING_ONE_TO_ONE;
	h.flags = conf->flags;
	h.slots = conf->slots ? conf->slots : 1024;
	h.slot_bytes = conf->slot_bytes ? conf->slot_bytes : 72;
	h.data_bytes = conf->data_bytes ? conf->data_bytes : 4 << 20;
	h.writers = conf->writers ? conf->writers : h.shape == KRING_MANY_TO_ONE ? 16 : 1;
	h.readers = conf->readers ? conf->readers : h.shape == KRING_BROADCAST ? 16 : 1;
	if (!ring_head_sane(&h))
		return -EINVAL;
	*ret = h;
	return 0;
}

static int set_size(int fd, uint64_t size)
{
	struct stat st;
	int seals;

	if (fstat(fd, &st) < 0)
		return -errno;
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0)
		return -EINVAL;
	if ((uint64_t)st.st_size < size && ftruncate(fd, size) < 0)
		return -errno;
	if (!(seals & F_SEAL_SHRINK) && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)
		return -errno;
	return 0;
}

/* Lay out: everything but @magic is zero already or stored before it. */
static int format(int fd, int ctl_fd, const struct ring_head *conf)
{
	struct ring_layout l = ring_layout_of(conf);
	struct ring_head h = *conf;
	uint64_t id;
	void *at;
	struct ring_ctl *ctl;

	if (getrandom(&id, sizeof(id), 0) != sizeof(id))
		return -EIO;
	h.id = id;
	at = mmap(NULL, l.ctl_off + sizeof(struct ring_ctl), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		  0);
	if (at == MAP_FAILED)
		return -errno;
	ctl = (struct ring_ctl *)((char *)at + l.ctl_off);
	if (l.ctl_size) {
		ctl = mmap(NULL, sizeof(*ctl), PROT_READ | PROT_WRITE, MAP_SHARED, ctl_fd, 0);
		if (ctl == MAP_FAILED) {
			munmap(at, l.ctl_off + sizeof(struct ring_ctl));
			return -errno;
		}
	}
	ctl->id = id;
	ring_store_release(&ctl->magic, RING_CTL_MAGIC);
	memcpy(at, &h, sizeof(h));
	ring_store_release((uint64_t *)at, RING_MAGIC);
	if (l.ctl_size)
		munmap(ctl, sizeof(*ctl));
	munmap(at, l.ctl_off + sizeof(struct ring_ctl));
	return 0;
}

/**
 * kring_format() - lay a ring out in memory of one's own.
 * @fd: gets its size, and is sealed against shrinking and growing
 * @ctl_fd: the same for the control part if @conf says KRING_PROTECTED; else -1
 * @conf: NULL: the defaults
 *
 * Return: 0; -1 with errno: EINVAL; EPERM; EBADF; ENOSPC, ENOMEM.
 */
int kring_format(int fd, int ctl_fd, const struct kring_conf *conf)
{
	struct ring_head h;
	struct ring_layout l;
	int result = ring_conf_head(&h, conf);

	if (result < 0)
		return api_result(result);
	if ((ctl_fd >= 0) != !!(h.flags & RING_PROTECTED))
		return api_result(-EINVAL);
	l = ring_layout_of(&h);
	result = set_size(fd, l.data_size);
	if (result == 0 && l.ctl_size)
		result = set_size(ctl_fd, l.ctl_size);
	return api_result(result < 0 ? result : format(fd, ctl_fd, &h));
}

static int create(struct kshared *k, const char *name, uint64_t size, unsigned int mode,
		  bool for_readers)
{
	struct ctl_entry entry;
	struct call c;
	int r;

	call_init(&c, CTL_CREATE);
	r = call_set_path(&c, "mem", name);
	if (r == 0)
		r = call_set_mode(&c, mode);
	if (r < 0)
		return r;
	/* Who may read the data writes here how far he is. */
	if (for_readers)
		c.req.mode |= (c.req.mode & 0444) >> 1;
	c.req.size = size;
	c.want_fd = true;
	c.reserve_fd = true;
	c.body = &entry;
	c.body_size = sizeof(entry);
	r = conn_call(k, &c);
	return r < 0 ? r : c.ret_fd;
}

static int ctl_name(char *ret, size_t size, const char *name)
{
	if (!name)
		return -EFAULT;
	return snprintf(ret, size, "%s" CTL_SUFFIX, name) >= (int)size ? -ENAMETOOLONG : 0;
}

/**
 * kring_create() - make a ring.
 * @k: the connection; NULL: the default one
 * @name: its memory object's name inside mem
 * @conf: NULL: the defaults
 * @mode: permission bits, less the process's umask
 *
 * Any thread. The control part is made first, so whoever finds the data object finds both.
 *
 * Return: 0; -1 with errno: EINVAL, and those of kmem_create().
 */
int kring_create(struct kshared *k, const char *name, const struct kring_conf *conf, mode_t mode)
{
	cleanup_fd int fd = -1;
	cleanup_fd int ctl_fd = -1;
	char ctl[KSHARED_PATH_MAX + 1];
	struct ring_head h;
	struct ring_layout l;
	int r = ring_conf_head(&h, conf);

	cancel_guard();
	if (r == 0)
		r = ctl_name(ctl, sizeof(ctl), name);
	if (r < 0)
		return api_result(r);
	l = ring_layout_of(&h);
	if (l.ctl_size) {
		ctl_fd = create(k, ctl, l.ctl_size, mode, true);
		if (ctl_fd < 0)
			return api_result(ctl_fd);
	}
	fd = create(k, name, l.data_size, mode, false);
	r = fd < 0 ? fd : format(fd, ctl_fd, &h);
	if (r < 0 && fd >= 0)
		kmem_remove(k, name);
	if (r < 0 && ctl_fd >= 0)
		kmem_remove(k, ctl);
	return api_result(r);
}

/**
 * kring_remove() - remove a ring.
 * @k: the connection; NULL: the default one
 * @name: as for kring_create()
 *
 * Any thread.
 *
 * Return: 0; -1 with errno as kmem_remove().
 */
int kring_remove(struct kshared *k, const char *name)
{
	char ctl[KSHARED_PATH_MAX + 1];
	int r = ctl_name(ctl, sizeof(ctl), name), fd;
	struct ring_head h;
	bool two = false;

	if (r < 0)
		return api_result(r);
	fd = kmem_open(k, name, O_RDONLY);
	if (fd >= 0) {
		two = pread(fd, &h, sizeof(h), 0) == sizeof(h) && h.magic == RING_MAGIC &&
			(h.flags & RING_PROTECTED);
		close(fd);
	}
	r = kmem_remove(k, name);
	if (r == 0 && two)
		kmem_remove(k, ctl);
	return r;
}

static int map_object(unsigned char **ret, int fd, uint64_t size, bool write)
{
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);
	void *at;

	if (seals < 0)
		return errno == EBADF ? -EBADF : -EPROTO;
	if (!(seals & F_SEAL_SHRINK))
		return -EPERM;
	if (fstat(fd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_size < size)
		return -EPROTO;
	at = mmap(NULL, size, write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	*ret = at;
	return 0;
}

/* The head, word by word, once. Who has just created the object may still be about to fill it: @patience_ns. */
static int read_head(struct ring_head *ret, int fd, int64_t patience_ns)
{
	uint64_t *to = (uint64_t *)ret, *from;
	unsigned char *at;
	int64_t start = ring_now();
	int r = map_object(&at, fd, 4096, false);

	if (r < 0)
		return r;
	from = (uint64_t *)at;
	while (ring_load_acquire(from) == 0 && ring_now() - start < patience_ns)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	if (ring_load_acquire(from) == RING_MAGIC)
		for (unsigned int i = 0; i < sizeof(*ret) / 8; i++)
			to[i] = ring_load(&from[i]);
	else
		r = -EPROTO;
	munmap(at, 4096);
	if (r == 0 && ret->version != RING_VERSION)
		r = -EPROTO;
	return r == 0 && !ring_head_sane(ret) ? -EBADMSG : r;
}

/**
 * ring_map_fds() - map a ring.
 * @ret: for ring_map_put()
 * @fd, @ctl_fd: borrowed; ctl_fd is -1 if there is none
 * @end: what for
 *
 * Return: 0; -EPROTO not a ring; -EPERM it could shrink; -EBADMSG; -EINVAL @ctl_fd is missing; -errno.
 */
int ring_map_fds(struct ring_map **ret, int fd, int ctl_fd, unsigned int end)
{
	cleanup_free struct ring_map *m = calloc(1, sizeof(*m));
	bool write = end != KRING_OBSERVER;
	struct ring_ctl *ctl;
	bool two;
	int r;

	if (!m)
		return -ENOMEM;
	r = read_head(&m->head, fd, write ? PATIENCE_NS : 0);
	if (r < 0)
		return r;
	m->layout = ring_layout_of(&m->head);
	two = m->layout.ctl_size > 0;
	if (two != (ctl_fd >= 0))
		return -EINVAL;
	r = map_object(&m->data, fd, m->layout.data_size, write && (end == KRING_WRITER || !two));
	if (r < 0)
		return r;
	m->ctl = m->data + m->layout.ctl_off;
	if (two) {
		r = map_object(&m->ctl, ctl_fd, m->layout.ctl_size, write);
		if (r < 0) {
			munmap(m->data, m->layout.data_size);
			return r;
		}
	}
	m->refs = 1;
	ctl = (struct ring_ctl *)m->ctl;
	r = ring_load(&ctl->magic) == RING_CTL_MAGIC && ring_load(&ctl->id) == m->head.id
		? 0
		: -EBADMSG;
	/* Page faults in the middle of messages would be seen. */
	if (write && m->layout.slots_stride * m->head.writers <= 1 << 20)
		madvise(m->data, m->layout.data_off,
			end == KRING_WRITER || !two ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
	*ret = take_ptr(m);
	if (r < 0) {
		ring_map_put(*ret);
		*ret = NULL;
	}
	return r;
}

/** ring_map_put() - unmap, if nobody else uses it. */
void ring_map_put(struct ring_map *m)
{
	if (!m || __atomic_sub_fetch(&m->refs, 1, __ATOMIC_ACQ_REL))
		return;
	if (m->layout.ctl_size)
		munmap(m->ctl, m->layout.ctl_size);
	munmap(m->data, m->layout.data_size);
	free(m);
}

/* The next writer or reader of a place: known before it is ACTIVE. */
static int settle(struct kring *r, bool history)
{
	struct ring_lane *lane = r->flow[0].lane;
	struct ring_cursor *c;
	int result;

	if (r->end == KRING_WRITER) {
		result = ring_recover(r);
		if (result < 0)
			return result;
		ring_store(&lane->pid, r->pid);
		r->life = ring_life(ring_life_epoch(ring_load(&lane->life)) + 1, RING_ACTIVE);
		ring_store_release(&lane->life, r->life);
		return 0;
	}
	c = ring_cursor(r->map, r->place);
	ring_store(&c->pid, r->pid);
	r->life = ring_life(ring_life_epoch(ring_load(&c->life)) + 1, RING_ACTIVE);
	return ring_resume(r, history);
}

static void make_flows(struct kring *r)
{
	struct ring_map *m = r->map;
	unsigned int lane = r->end == KRING_WRITER ? r->place : 0;
	bool own = r->broadcast && r->end == KRING_READER;

	for (unsigned int i = 0; i < r->nr_flows; i++, lane++) {
		struct ring_flow *f = &r->flow[i];

		f->slots = m->data + m->layout.slots_off + lane * m->layout.slots_stride;
		f->data = m->data + m->layout.data_off + lane * m->head.data_bytes;
		f->lane = ring_lane(m, lane);
		f->room = ring_room(m, lane);
		f->cursor = ring_cursor(m, own ? (unsigned int)r->place : lane);
	}
}

static int reopen(int fd, int flags)
{
	char path[32];
	int own;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	own = open(path, flags | O_CLOEXEC);
	return own < 0 ? -errno : own;
}

/*
 * A place's lock needs an open file of its own. That of the mapping would keep it as long as the mapping is there, which may be longer than the
 * process: someone may just be looking at its memory in /proc.
 */
static int open_lock(const struct kring *r, int fd)
{
	int own = r->end == KRING_OBSERVER ? -ENOENT : reopen(fd, O_RDWR);

	return own < 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : own;
}

/**
 * ring_new() - become an end of a mapped ring.
 * @ret: for kring_close()
 * @m: is referenced once more
 * @fd, @ctl_fd: open files of this end's own; borrowed
 * @end: KRING_WRITER, KRING_READER, KRING_OBSERVER, with KRING_HISTORY
 *
 * Return: 0; -EBUSY; -EBADMSG; -errno.
 */
int ring_new(struct kring **ret, struct ring_map *m, int fd, int ctl_fd, unsigned int end)
{
	unsigned int role = end & ~KRING_HISTORY;
	unsigned int flows = role == KRING_READER ? m->head.writers : 1;
	struct kring *r;
	int result;

	r = aligned_alloc(64, (sizeof(*r) + flows * sizeof(r->flow[0]) + 63) & ~63UL);
	if (!r)
		return -ENOMEM;
	memset(r, 0, sizeof(*r) + flows * sizeof(r->flow[0]));
	r->end = role;
	r->nr_flows = flows;
	r->used = flows == 1;
	r->place = -1;
	r->lock_fd = r->peer_fd = -1;
	r->pid = getpid();
	r->map = m;
	__atomic_fetch_add(&m->refs, 1, __ATOMIC_RELAXED);
	r->broadcast = m->head.shape == RING_SHAPE_BROADCAST;
	r->blocking = m->head.flags & RING_BLOCKING;
	r->plain = role == KRING_READER && flows == 1 && !r->broadcast;
	r->slot_bytes = m->head.slot_bytes;
	r->mask = m->head.slots - 1;
	r->inline_max = r->slot_bytes - 8;
	r->data_bytes = m->head.data_bytes;
	r->ctl = (struct ring_ctl *)m->ctl;
	r->wake_ns = RING_WAKE_NS;
	r->must_fence = !ring_register();
	if (ctl_fd < 0)
		ctl_fd = fd;
	r->lock_fd = open_lock(r, role == KRING_READER ? ctl_fd : fd);
	r->peer_fd = fcntl(role == KRING_READER ? fd : ctl_fd, F_DUPFD_CLOEXEC, 3);
	result = r->lock_fd < 0 || r->peer_fd < 0 ? -errno : 0;
	if (result == 0 && role == KRING_WRITER) {
		r->starts = calloc(m->head.slots, sizeof(*r->starts));
		result = r->starts ? 0 : -ENOMEM;
	}
	if (result == 0 && role != KRING_OBSERVER)
		result = ring_claim(r);
	if (result == 0) {
		make_flows(r);
		if (role != KRING_OBSERVER)
			result = settle(r, end & KRING_HISTORY);
	}
	if (result < 0) {
		r->end = 0;
		kring_close(r);
		return result;
	}
	if (role != KRING_OBSERVER) {
		r->fenced = ring_load(role == KRING_READER ? &r->ctl->bed.fence
							   : &r->flow[0].room->fence);
		ring_set_fence(r);
	}
	*ret = r;
	return 0;
}

static int attach(struct kring **ret, int fd, int ctl_fd, unsigned int end)
{
	struct ring_map *m;
	int result = ring_map_fds(&m, fd, ctl_fd, end & ~KRING_HISTORY);

	if (result < 0)
		return result;
	result = ring_new(ret, m, fd, ctl_fd, end);
	ring_map_put(m);
	return result;
}

static int check_end(unsigned int end)
{
	switch (end) {
	case KRING_WRITER:
	case KRING_READER:
	case KRING_OBSERVER:
	case KRING_READER | KRING_HISTORY:
		return 0;
	default:
		return -EINVAL;
	}
}

static struct kring *end_result(int result, struct kring *r)
{
	if (result == 0)
		return r;
	errno = -result;
	return NULL;
}

/**
 * kring_open() - become an end of a ring.
 * @k: the connection; NULL: the default one
 * @name: as for kring_create()
 * @end: KRING_WRITER, KRING_READER or KRING_OBSERVER, with KRING_HISTORY if wanted
 *
 * Any thread.
 *
 * Return: for kring_close(); NULL with errno: EBUSY, EPROTO, EPERM, EBADMSG, and those of kmem_open().
 */
struct kring *kring_open(struct kshared *k, const char *name, unsigned int end)
{
	cleanup_fd int fd = -1;
	cleanup_fd int ctl_fd = -1;
	char ctl[KSHARED_PATH_MAX + 1];
	struct ring_head h;
	struct kring *r = NULL;
	bool watch_only = end == KRING_OBSERVER;
	int result = check_end(end);

	cancel_guard();
	if (result == 0)
		result = ctl_name(ctl, sizeof(ctl), name);
	if (result < 0)
		return end_result(result, NULL);
	fd = kmem_open(k, name, end == KRING_WRITER ? O_RDWR : O_RDONLY);
	if (fd < 0)
		return NULL;
	result = read_head(&h, fd, watch_only ? 0 : PATIENCE_NS);
	if (result < 0)
		return end_result(result, NULL);
	if (h.flags & RING_PROTECTED) {
		ctl_fd = kmem_open(k, ctl, watch_only ? O_RDONLY : O_RDWR);
		if (ctl_fd < 0)
			return NULL;
	} else if (end != KRING_WRITER && !watch_only) {
		close(fd);
		fd = kmem_open(k, name, O_RDWR);
		if (fd < 0)
			return NULL;
	}
	result = attach(&r, fd, ctl_fd, end);
	return end_result(result, r);
}

/**
 * kring_attach() - become an end of a ring whose descriptors one has.
 * @fd: of the data object; borrowed
 * @ctl_fd: of the control object, or -1 if there is none; borrowed
 * @end: as for kring_open()
 *
 * Any thread.
 *
 * Return: as kring_open().
 */
struct kring *kring_attach(int fd, int ctl_fd, unsigned int end)
{
	cleanup_fd int own = -1;
	cleanup_fd int own_ctl = -1;
	struct kring *r = NULL;
	int result = check_end(end);
	bool data_too = end == KRING_WRITER || (end != KRING_OBSERVER && ctl_fd < 0);

	cancel_guard();
	if (result < 0)
		return end_result(result, NULL);
	own = reopen(fd, data_too ? O_RDWR : O_RDONLY);
	if (own < 0)
		return end_result(own, NULL);
	if (ctl_fd >= 0) {
		own_ctl = reopen(ctl_fd, end == KRING_OBSERVER ? O_RDONLY : O_RDWR);
		if (own_ctl < 0)
			return end_result(own_ctl, NULL);
	}
	result = attach(&r, own, own_ctl, end);
	return end_result(result, r);
}

/**
 * kring_close() - give up a place and the handle.
 * @r: NULL is ignored
 *
 * In a child of who has the place only the child's copy is given up.
 */
void kring_close(struct kring *r)
{
	int saved = errno;

	if (!r)
		return;
	ring_watch_free(r->watch, r->pid == getpid());
	if (r->place >= 0 && r->end && r->pid == getpid())
		ring_leave(r);
	if (r->lock_fd >= 0)
		close(r->lock_fd);
	if (r->peer_fd >= 0)
		close(r->peer_fd);
	ring_map_put(r->map);
	free(r->starts);
	free(r);
	errno = saved;
}

/** kring_max() - length of the longest message of @r's ring, in bytes. */
size_t kring_max(const struct kring *r)
{
	size_t half = r->data_bytes / 2;

	return half > r->inline_max ? half : r->inline_max;
}
