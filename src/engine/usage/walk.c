// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * walk.c - the threads of a count. See usage.h for the theory.
 *
 * Locks: each thread's stack has one; idle_lock is for sleeping; error_lock for the list of errors; those of links.c and largest.c. None is
 * taken while another is held, but for a stack's within idle_lock. A directory is used by one thread at a time:
 * whoever has taken it from a stack. Its reference count, its descriptor's, and the sums are atomic.
 *
 * Memory order. A thread that finds nothing to do says so (nr_idle) and then looks at the stacks once more; one that puts something on its
 * stack looks at nr_idle afterwards. Both are sequentially consistent, so one of the two sees the other. Nothing is left to do when
 * nr_pending, which a directory leaves only after its sub-directories have entered it, is 0.
 */
#include <base/cleanup.h>
#include <engine/usage/usage_internal.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define PENDING_MAX 512 /* directories on a thread's stack; then it goes on with them before it reads further */
#define STOP_LOOK 256 /* entries between two looks at whether to stop */
#define KEEP_EVERY 64 /* beyond what descriptors allow, each 64th level's is kept */
#define FIRST_CHUNK 256 /* entries of the directory itself, in the first chunk of them */
#define MASK (STATX_TYPE | STATX_NLINK | STATX_INO | STATX_SIZE | STATX_BLOCKS | STATX_MNT_ID)
#define MASK_OWNER (STATX_UID | STATX_GID)

struct top *usage_top(const struct usage *u, uint32_t i)
{
	/* Chunk k has FIRST_CHUNK << k of them. */
	unsigned int k = 31u - (unsigned int)__builtin_clz(i / FIRST_CHUNK + 1);

	return &u->chunks[k][i - FIRST_CHUNK * ((1u << k) - 1)];
}

/* Only whoever reads the directory itself comes here. Return: NO_TOP without memory. */
static uint32_t new_top(struct usage *u, const char *name, uint32_t mode)
{
	uint32_t i = u->nr_tops;
	unsigned int k = 31u - (unsigned int)__builtin_clz(i / FIRST_CHUNK + 1);
	struct top *t;

	if (k >= TOP_CHUNKS)
		return NO_TOP;
	if (!u->chunks[k]) {
		u->chunks[k] = calloc((size_t)FIRST_CHUNK << k, sizeof(struct top));
		if (!u->chunks[k])
			return NO_TOP;
	}
	t = usage_top(u, i);
	t->name = strdup(name);
	if (!t->name)
		return NO_TOP;
	t->mode = mode;
	__atomic_store_n(&u->nr_tops, i + 1, __ATOMIC_RELEASE);
	return i;
}

static bool top_before(void *ctx, uint32_t a, uint32_t b)
{
	const struct usage *u = ctx;

	return strcmp(usage_top(u, a)->name, usage_top(u, b)->name) < 0;
}

static void add_atomic(struct usage_sum *to, const struct usage_sum *what)
{
	__atomic_add_fetch(&to->disk, what->disk, __ATOMIC_RELAXED);
	__atomic_add_fetch(&to->apparent, what->apparent, __ATOMIC_RELAXED);
	__atomic_add_fetch(&to->count, what->count, __ATOMIC_RELAXED);
}

void usage_count_for(struct usage *u, uint32_t top, const struct usage_sum *sum)
{
	add_atomic(top == NO_TOP ? &u->rest : &usage_top(u, top)->sum, sum);
}

unsigned int usage_mask(const struct usage *u)
{
	return MASK | (u->o.nr_owners ? MASK_OWNER : 0);
}

/* To a sum of this thread's, which others read. */
static void add_own(struct usage_sum *to, const struct usage_sum *s)
{
	__atomic_store_n(&to->disk, to->disk + s->disk, __ATOMIC_RELAXED);
	__atomic_store_n(&to->apparent, to->apparent + s->apparent, __ATOMIC_RELAXED);
	__atomic_store_n(&to->count, to->count + s->count, __ATOMIC_RELAXED);
}

void usage_saw(struct worker *w, const struct usage_sum *s, const struct statx *st)
{
	const struct usage_options *o = &w->u->o;

	add_own(&w->seen, s);
	if (o->nr_owners == 0 || makedev(st->stx_dev_major, st->stx_dev_minor) != w->u->root_dev)
		return;
	for (unsigned int i = 0; i < o->nr_owners; i++)
		if (o->owners[i].what == USAGE_OF_ALL ||
		    o->owners[i].id == (o->owners[i].what == USAGE_OF_USER ? st->stx_uid : st->stx_gid))
			add_own(&w->owned[i], s);
}

char *usage_path(const struct dir *d, const char *name)
{
	size_t len = name ? strlen(name) + 1 : 0;
	const struct dir *p;
	char *path, *at;

	for (p = d; p->parent; p = p->parent)
		len += strlen(p->name) + 1;
	path = malloc(len + 2);
	if (!path)
		return NULL;
	if (!len) {
		strcpy(path, ".");
		return path;
	}
	at = path + len - 1;
	*at = 0;
	if (name) {
		at -= strlen(name);
		memcpy(at, name, strlen(name));
	}
	for (p = d; p->parent; p = p->parent) {
		if (at > path && (name || p != d))
			*--at = '/';
		at -= strlen(p->name);
		memcpy(at, p->name, strlen(p->name));
	}
	return path;
}

void usage_fail(struct usage *u, int err)
{
	__atomic_store_n(&u->failed, err, __ATOMIC_RELAXED);
	__atomic_store_n(&u->stop, true, __ATOMIC_RELAXED);
}

void usage_problem(struct usage *u, const struct dir *d, const char *name, const char *call, int err)
{
	char *path;

	if (err == ENOENT || err == ESTALE) {
		__atomic_add_fetch(&u->nr_vanished, 1, __ATOMIC_RELAXED);
		return;
	}
	pthread_mutex_lock(&u->error_lock);
	if (u->nr_errors < USAGE_ERRORS) {
		path = usage_path(d, name);
		u->errors[u->nr_errors] = (struct usage_error){ .path = path, .call = call, .err = err };
	}
	u->nr_errors++;
	pthread_mutex_unlock(&u->error_lock);
}

void usage_skipped(struct usage *u, const struct dir *d, const char *name)
{
	char **grown, *path = usage_path(d, name);

	pthread_mutex_lock(&u->error_lock);
	grown = path ? reallocarray(u->skipped, u->nr_skipped + 1, sizeof(*grown)) : NULL;
	if (grown) {
		u->skipped = grown;
		u->skipped[u->nr_skipped++] = path;
	}
	pthread_mutex_unlock(&u->error_lock);
	if (!grown) {
		free(path);
		usage_fail(u, -ENOMEM);
	}
}

bool usage_excluded(const struct usage *u, const struct dir *d, const char *name)
{
	cleanup_free char *path = NULL;

	for (const char *const *p = u->o.excludes; p && *p; p++) {
		if (!strchr(*p, '/')) {
			if (fnmatch(*p, name, 0) == 0)
				return true;
			continue;
		}
		if (!path)
			path = usage_path(d, name);
		if (path && fnmatch(*p, path, 0) == 0)
			return true;
	}
	return false;
}

/* Is its descriptor kept for its sub-directories? */
static bool keeps_fd(const struct usage *u, const struct dir *d)
{
	return d->depth < u->deep || d->depth % KEEP_EVERY == 0;
}

/* The next directory above whose descriptor is kept: the parent, mostly. */
static struct dir *anchor_of(const struct usage *u, const struct dir *d)
{
	struct dir *p = d->parent;

	while (!keeps_fd(u, p))
		p = p->parent;
	return p;
}

struct dir *usage_dir(const struct usage *u, struct dir *parent, const char *name, uint32_t top)
{
	struct dir *d = malloc(sizeof(*d) + strlen(name) + 1);

	if (!d)
		return NULL;
	*d = (struct dir){ .parent = parent, .fd = -1, .refs = 1, .users = 1, .top = top };
	strcpy(d->name, name);
	if (parent) {
		d->depth = parent->depth + 1;
		__atomic_add_fetch(&parent->refs, 1, __ATOMIC_RELAXED);
		__atomic_add_fetch(&anchor_of(u, d)->users, 1, __ATOMIC_RELAXED);
	}
	return d;
}

/* One who needed the descriptor does so no more. */
static void leave_fd(struct dir *d)
{
	if (__atomic_sub_fetch(&d->users, 1, __ATOMIC_ACQ_REL) == 0 && d->fd >= 0) {
		close(d->fd);
		d->fd = -1;
	}
}

void usage_put_dir(struct dir *d)
{
	while (d && __atomic_sub_fetch(&d->refs, 1, __ATOMIC_ACQ_REL) == 0) {
		struct dir *parent = d->parent;

		if (d->fd >= 0)
			close(d->fd);
		free(d);
		d = parent;
	}
}

/* Open a directory, from its parent, or from the next one above whose descriptor was kept. Return: it; -1 with errno. */
static int open_dir(const struct usage *u, const struct dir *d)
{
	struct open_how how = { .flags = DIR_FLAGS, .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS };
	const struct dir *from = d->parent;
	char path[PATH_MAX];
	char *at = path + sizeof(path) - 1;

	if (keeps_fd(u, from))
		return openat(from->fd, d->name, DIR_FLAGS);
	*at = 0;
	for (from = d;; from = from->parent) {
		size_t len = strlen(from->name);

		/* KEEP_EVERY names of 255 bytes are longer than a path may be: then it is not reached. */
		if (at - path < (ptrdiff_t)len + 1) {
			errno = ENAMETOOLONG;
			return -1;
		}
		at -= len;
		memcpy(at, from->name, len);
		if (keeps_fd(u, from->parent))
			break;
		*--at = '/';
	}
	return (int)syscall(SYS_openat2, from->parent->fd, at, &how, sizeof(how));
}

static void wake_one(struct usage *u)
{
	if (__atomic_load_n(&u->nr_idle, __ATOMIC_SEQ_CST) == 0)
		return;
	pthread_mutex_lock(&u->idle_lock);
	pthread_cond_signal(&u->wake);
	pthread_mutex_unlock(&u->idle_lock);
}

void usage_push(struct worker *w, struct dir *d)
{
	pthread_mutex_lock(&w->lock);
	d->below = w->stack;
	w->stack = d;
	__atomic_store_n(&w->nr, w->nr + 1, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&w->lock);
	wake_one(w->u);
}

static struct dir *pop(struct worker *w)
{
	struct dir *d;

	pthread_mutex_lock(&w->lock);
	d = w->stack;
	if (d) {
		w->stack = d->below;
		__atomic_store_n(&w->nr, w->nr - 1, __ATOMIC_SEQ_CST);
	}
	pthread_mutex_unlock(&w->lock);
	return d;
}

/* Take the older half of another's stack, which is the larger work. */
static struct dir *steal(struct worker *w)
{
	struct usage *u = w->u;
	unsigned int self = (unsigned int)(w - u->workers);

	for (unsigned int i = 1; i < u->nr_workers; i++) {
		struct worker *v = &u->workers[(self + i) % u->nr_workers];
		struct dir *taken = NULL, *last, **from;
		unsigned int n, keep;

		if (__atomic_load_n(&v->nr, __ATOMIC_SEQ_CST) == 0)
			continue;
		pthread_mutex_lock(&v->lock);
		n = v->nr;
		keep = n / 2;
		from = &v->stack;
		for (unsigned int k = 0; k < keep; k++)
			from = &(*from)->below;
		taken = *from;
		*from = NULL;
		__atomic_store_n(&v->nr, keep, __ATOMIC_SEQ_CST);
		pthread_mutex_unlock(&v->lock);
		if (!taken)
			continue;
		if (!taken->below)
			return taken;
		pthread_mutex_lock(&w->lock);
		for (last = taken->below; last->below; last = last->below)
			;
		last->below = w->stack;
		w->stack = taken->below;
		__atomic_store_n(&w->nr, w->nr + n - keep - 1, __ATOMIC_SEQ_CST);
		pthread_mutex_unlock(&w->lock);
		return taken;
	}
	return NULL;
}

bool usage_stopped(const struct usage *u)
{
	return __atomic_load_n(&u->stop, __ATOMIC_RELAXED);
}

struct usage_sum usage_sum_of(const struct statx *st)
{
	return (struct usage_sum){ .disk = st->stx_blocks * 512, .apparent = st->stx_size, .count = 1 };
}

/* A file that is one of those asked for, or may be. */
static void offer(struct usage *u, const struct dir *d, const char *name, const struct usage_sum *sum, const struct statx *st)
{
	cleanup_free char *path = NULL;
	bool several = st->stx_nlink > 1;

	if (!largest_wants(&u->largest, sum))
		return;
	path = usage_path(d, name);
	if (!path ||
	    largest_put(&u->largest, path, sum, st->stx_mode, several ? makedev(st->stx_dev_major, st->stx_dev_minor) : 0,
			several ? st->stx_ino : 0) < 0)
		usage_fail(u, -ENOMEM);
}

/* A file, or a directory that is not gone into. @sum: of the directory it is in, if it counts there */
static void count_file(struct worker *w, struct dir *d, const char *name, const struct statx *st, struct usage_sum *sum)
{
	struct usage *u = w->u;
	struct usage_sum s = usage_sum_of(st);
	uint32_t top = d->top, where;
	bool first, last, is_entry = !d->parent && !u->o.files, several = st->stx_nlink > 1 && !S_ISDIR(st->stx_mode);

	if (u->o.files && !S_ISDIR(st->stx_mode))
		offer(u, d, name, &s, st);
	if (!several) {
		usage_add(sum, &s);
		if (is_entry && largest_put(&u->largest, name, &s, st->stx_mode, 0, 0) < 0)
			usage_fail(u, -ENOMEM);
		usage_saw(w, &s, st);
		return;
	}
	if (is_entry) {
		top = new_top(u, name, st->stx_mode);
		if (top == NO_TOP) {
			usage_fail(u, -ENOMEM);
			return;
		}
	}
	if (links_seen(u->links, makedev(st->stx_dev_major, st->stx_dev_minor), st->stx_ino, st->stx_nlink, &s, top,
		       top_before, u, &where, &last, &first) < 0) {
		usage_fail(u, -ENOMEM);
		return;
	}
	if (last)
		usage_count_for(u, where, &s);
	if (first)
		usage_saw(w, &s, st);
}

/* Look at a directory that was opened: is it to be read? Its own size is counted here. */
static bool enter(struct worker *w, struct dir *d)
{
	struct usage *u = w->u;
	struct usage_sum s;
	struct statx st;
	bool is_mount;

	if (statx(d->fd, "", AT_EMPTY_PATH, usage_mask(u), &st) < 0) {
		usage_problem(u, d, NULL, "statx", errno);
		return false;
	}
	d->dev = makedev(st.stx_dev_major, st.stx_dev_minor);
	is_mount = st.stx_attributes & STATX_ATTR_MOUNT_ROOT;
	if (d->parent && u->o.one_fs && d->dev != u->root_dev)
		return false;
	if (d->parent && is_mount && mounts_skip(u->mounts, st.stx_mnt_id)) {
		usage_skipped(u, d, NULL);
		return false;
	}
	s = usage_sum_of(&st);
	usage_count_for(u, d->top, &s);
	usage_saw(w, &s, &st);
	d->entered = true;
	return true;
}

/* A sub-directory was met. Return: false: it is counted, and not gone into. */
static bool add_dir(struct worker *w, struct dir *d, const char *name, struct dir **list)
{
	struct usage *u = w->u;
	uint32_t top = d->top;
	struct dir *child;

	if (d->depth >= u->o.depth)
		return false;
	if (!d->parent && !u->o.files) {
		top = new_top(u, name, S_IFDIR);
		if (top == NO_TOP) {
			usage_fail(u, -ENOMEM);
			return true;
		}
	}
	child = usage_dir(u, d, name, top);
	if (!child) {
		usage_fail(u, -ENOMEM);
		return true;
	}
	child->below = *list;
	*list = child;
	return true;
}

static void count_entry(struct worker *w, struct dir *d, const struct usage_dirent *e, struct usage_sum *sum, struct dir **list)
{
	struct usage *u = w->u;
	struct statx st;

	if (e->name[0] == '.' && (!e->name[1] || (e->name[1] == '.' && !e->name[2])))
		return;
	if (u->o.excludes && usage_excluded(u, d, e->name))
		return;
	if (!d->parent)
		u->nr_entries++;
	if (e->type == DT_DIR && add_dir(w, d, e->name, list))
		return;
	if (statx(d->fd, e->name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, usage_mask(u), &st) < 0) {
		usage_problem(u, d, e->name, "statx", errno);
		return;
	}
	if (e->type == DT_UNKNOWN && S_ISDIR(st.stx_mode) && add_dir(w, d, e->name, list))
		return;
	/* A file can be a mount, too; and a directory that is not gone into. */
	if (st.stx_attributes & STATX_ATTR_MOUNT_ROOT) {
		if (u->o.one_fs && makedev(st.stx_dev_major, st.stx_dev_minor) != u->root_dev)
			return;
		if (mounts_skip(u->mounts, st.stx_mnt_id)) {
			usage_skipped(u, d, e->name);
			return;
		}
	}
	count_file(w, d, e->name, &st, sum);
}

static void push_all(struct worker *w, struct dir *list, unsigned int n)
{
	struct dir *next;

	__atomic_add_fetch(&w->u->nr_pending, n, __ATOMIC_SEQ_CST);
	for (; list; list = next) {
		next = list->below;
		usage_push(w, list);
	}
}

/* Read on in a directory. Return: false: it was laid aside. */
static bool read_dir(struct worker *w, struct dir *d)
{
	struct usage *u = w->u;
	unsigned int looked = 0;

	for (;;) {
		struct usage_sum sum = { 0 };
		struct dir *list = NULL, *c;
		unsigned int n = 0;
		long len = syscall(SYS_getdents64, d->fd, w->buffer, USAGE_BUFFER_BYTES);

		if (len < 0)
			usage_problem(u, d, NULL, "getdents64", errno);
		if (len <= 0)
			return true;
		for (long at = 0; at < len;) {
			const struct usage_dirent *e = (const struct usage_dirent *)(w->buffer + at);

			if (++looked % STOP_LOOK == 0 && usage_stopped(u))
				break;
			count_entry(w, d, e, &sum, &list);
			d->at = e->off;
			at += e->reclen;
		}
		if (sum.count)
			usage_count_for(u, d->top, &sum);
		for (c = list; c; c = c->below)
			n++;
		if (w->nr + n > PENDING_MAX && n && !usage_stopped(u)) {
			__atomic_add_fetch(&u->nr_pending, 1, __ATOMIC_SEQ_CST);
			usage_push(w, d);
			push_all(w, list, n);
			return false;
		}
		push_all(w, list, n);
		if (usage_stopped(u))
			return true;
	}
}

static void handle(struct worker *w, struct dir *d)
{
	struct usage *u = w->u;
	bool fine = true, done;

	if (d->fd < 0) {
		d->fd = usage_stopped(u) ? -1 : open_dir(u, d);
		if (d->fd < 0 && !usage_stopped(u)) {
			struct statx st;
			int err = errno;

			usage_problem(u, d, NULL, "open", err);
			/* What it takes itself can be told all the same. */
			if (keeps_fd(u, d->parent) &&
			    statx(d->parent->fd, d->name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, usage_mask(u), &st) == 0) {
				struct usage_sum s = usage_sum_of(&st);

				usage_count_for(u, d->top, &s);
				usage_saw(w, &s, &st);
			}
		}
		leave_fd(anchor_of(u, d));
		if (d->fd < 0) {
			usage_put_dir(d);
			return;
		}
		fine = enter(w, d);
	} else if (!d->entered) {
		fine = enter(w, d);
	} else if (lseek(d->fd, d->at, SEEK_SET) < 0) {
		usage_problem(u, d, NULL, "lseek", errno);
		fine = false;
	}
	done = !fine || read_dir(w, d);
	if (!done)
		return;
	if (!keeps_fd(u, d) && d->fd >= 0) {
		close(d->fd);
		d->fd = -1;
	}
	leave_fd(d);
	usage_put_dir(d);
}

static struct dir *wait_for_work(struct worker *w)
{
	struct usage *u = w->u;
	struct timespec until;
	struct dir *d = NULL;

	pthread_mutex_lock(&u->idle_lock);
	__atomic_add_fetch(&u->nr_idle, 1, __ATOMIC_SEQ_CST);
	for (;;) {
		d = steal(w);
		if (d || __atomic_load_n(&u->nr_pending, __ATOMIC_SEQ_CST) == 0)
			break;
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec++;
		pthread_cond_timedwait(&u->wake, &u->idle_lock, &until);
	}
	__atomic_sub_fetch(&u->nr_idle, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&u->idle_lock);
	return d;
}

void *usage_thread(void *arg)
{
	struct worker *w = arg;
	struct usage *u = w->u;
	struct dir *d;

	while ((d = pop(w)) || (d = steal(w)) || (d = wait_for_work(w))) {
		handle(w, d);
		if (__atomic_sub_fetch(&u->nr_pending, 1, __ATOMIC_SEQ_CST) == 0) {
			pthread_mutex_lock(&u->idle_lock);
			pthread_cond_broadcast(&u->wake);
			pthread_mutex_unlock(&u->idle_lock);
		}
	}
	pthread_mutex_lock(&u->idle_lock);
	u->nr_running--;
	pthread_cond_signal(&u->ended);
	pthread_mutex_unlock(&u->idle_lock);
	return NULL;
}
