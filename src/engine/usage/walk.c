// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * walk.c - the threads of a count. See usage.h for the theory.
 *
 * Locks: each thread's stack has one; idle_lock is for sleeping; error_lock for the list of errors; those of links.c and largest.c.
 * None is taken while another is held, but for a stack's within idle_lock. A directory is used by one thread at a time: whoever has
 * taken it from a stack; what was written to it before is seen through the stack's lock. The sums, and a directory's two counts, are
 * atomic.
 *
 * Who takes something from its stack and leaves more there wakes a thread that sleeps, if there is one; so does the thread that is
 * woken, until all that there is work for are awake. Nobody is woken for a single directory, which its finder is about to read itself,
 * unless there is still more to read where it was found.
 *
 * Memory order. The end: a directory leaves nr_pending after its sub-directories have entered it, both by the same thread or one
 * after the other; so it is 0 only when nothing is left, and whoever makes it 0 says so under idle_lock, under which it is looked at
 * before sleeping: nobody sleeps past the end. That somebody sleeps while there is work costs time, not correctness, since each
 * thread empties its own stack; yet it is rare: a sleeper says so (nr_idle) and looks at the stacks once more (nr), one with work
 * changes nr and looks at nr_idle afterwards, and all four are sequentially consistent, so one of the two sees the other.
 */
#include <base/cleanup.h>
#include <engine/usage/usage_internal.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PENDING_MAX \
	512 /* directories on a thread's stack; then it goes on with them before it reads further */
#define FIRST_CHUNK 256 /* entries of the directory itself, in the first chunk of them */

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

static void add_number(uint64_t *to, uint64_t what)
{
	uint64_t old = __atomic_load_n(to, __ATOMIC_RELAXED);

	while (!__atomic_compare_exchange_n(to, &old, usage_plus(old, what), true, __ATOMIC_RELAXED,
					    __ATOMIC_RELAXED))
		;
}

static void add_atomic(struct usage_sum *to, const struct usage_sum *what)
{
	add_number(&to->disk, what->disk);
	add_number(&to->apparent, what->apparent);
	add_number(&to->count, what->count);
}

void usage_count_for(struct usage *u, uint32_t top, const struct usage_sum *sum)
{
	add_atomic(top == NO_TOP ? &u->rest : &usage_top(u, top)->sum, sum);
}

/* To a sum of this thread's, which others read. */
static void add_own(struct usage_sum *to, const struct usage_sum *s)
{
	__atomic_store_n(&to->disk, usage_plus(to->disk, s->disk), __ATOMIC_RELAXED);
	__atomic_store_n(&to->apparent, usage_plus(to->apparent, s->apparent), __ATOMIC_RELAXED);
	__atomic_store_n(&to->count, usage_plus(to->count, s->count), __ATOMIC_RELAXED);
}

void usage_saw(struct worker *w, const struct usage_sum *s)
{
	add_own(&w->seen, s);
}

/* Count it for those who own it. */
static void count_owned(struct worker *w, const struct usage_sum *s, const struct statx *st)
{
	const struct usage_options *o = &w->u->o;

	if (o->nr_owners == 0 || usage_device(st) != w->u->root_dev)
		return;
	for (unsigned int i = 0; i < o->nr_owners; i++)
		if (o->owners[i].what == USAGE_OF_ALL ||
		    o->owners[i].id ==
			    (o->owners[i].what == USAGE_OF_USER ? st->stx_uid : st->stx_gid))
			add_own(&w->owned[i], s);
}

/* Have a thread that sleeps look for work, if there is some here. */
static void share(struct worker *w)
{
	struct usage *u = w->u;

	if (!__atomic_load_n(&w->nr, __ATOMIC_SEQ_CST) ||
	    !__atomic_load_n(&u->nr_idle, __ATOMIC_SEQ_CST))
		return;
	pthread_mutex_lock(&u->idle_lock);
	pthread_cond_signal(&u->wake);
	pthread_mutex_unlock(&u->idle_lock);
}

/* Put a list of @n on a thread's own stack. */
static void push(struct worker *w, struct dir *first, struct dir *last, unsigned int n)
{
	pthread_mutex_lock(&w->lock);
	last->below = w->stack;
	w->stack = first;
	__atomic_store_n(&w->nr, w->nr + n, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&w->lock);
}

void usage_push(struct worker *w, struct dir *d)
{
	push(w, d, d, 1);
}

struct dir *usage_pop(struct worker *w)
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
		for (last = taken; last->below; last = last->below)
			;
		if (last != taken)
			push(w, taken->below, last, n - keep - 1);
		return taken;
	}
	return NULL;
}

/* How often a file may be met. */
static uint32_t nr_names(const struct usage *u, const struct statx *st)
{
	return mounts_nameless(u->mounts, usage_device(st), st->stx_ino) ? UINT32_MAX
									 : st->stx_nlink;
}

/* A file that is one of those asked for, or may be. */
static void offer(struct usage *u, const struct dir *d, const char *name,
		  const struct usage_sum *sum, const struct statx *st)
{
	cleanup_free char *path = NULL;
	bool several = nr_names(u, st) > 1;

	if (!largest_wants(&u->largest, sum))
		return;
	path = dir_path(d, name);
	if (!path ||
	    largest_put(&u->largest, path, sum, st->stx_mode, several ? usage_device(st) : 0,
			several ? st->stx_ino : 0) < 0)
		usage_fail(u, -ENOMEM);
}

/*
 * A file, or a directory that is not gone into. @top: the entry it is below or, which has been made already, is; NO_TOP: it is an
 * entry itself, if @d is the directory. @sum: of what counts there
 */
static void count_file(struct worker *w, const struct dir *d, const char *name, uint32_t top,
		       const struct statx *st, struct usage_sum *sum)
{
	struct usage *u = w->u;
	struct usage_sum s = usage_sum_of(st);
	uint32_t where;
	bool is_entry = !d->parent && !u->o.files && top == NO_TOP;
	uint32_t names = S_ISDIR(st->stx_mode) ? 1 : nr_names(u, st);
	bool first, last, several = names > 1;

	if (u->o.files && !S_ISDIR(st->stx_mode))
		offer(u, d, name, &s, st);
	if (!several) {
		usage_add(sum, &s);
		count_owned(w, &s, st);
		if (is_entry && largest_put(&u->largest, name, &s, st->stx_mode, 0, 0) < 0)
			usage_fail(u, -ENOMEM);
		return;
	}
	if (is_entry) {
		top = new_top(u, name, st->stx_mode);
		if (top == NO_TOP) {
			usage_fail(u, -ENOMEM);
			return;
		}
	}
	if (links_seen(u->links, usage_device(st), st->stx_ino, names, &s, top, top_before, u,
		       &where, &last, &first) < 0) {
		usage_fail(u, -ENOMEM);
		return;
	}
	if (last)
		usage_count_for(u, where, &s);
	if (first) {
		usage_saw(w, &s);
		count_owned(w, &s, st);
	}
}

/* A directory's own size. */
static void count_dir(struct worker *w, const struct dir *d, const struct statx *st)
{
	struct usage_sum s = usage_sum_of(st);

	usage_count_for(w->u, d->top, &s);
	usage_saw(w, &s);
	count_owned(w, &s, st);
}

/* There is something else in a directory's place. */
static void count_instead(struct worker *w, const struct dir *d, const struct statx *st)
{
	struct usage_sum sum = { 0 };

	count_file(w, d->parent, d->name, d->top, st, &sum);
	usage_count_for(w->u, d->top, &sum);
	usage_saw(w, &sum);
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
	child = dir_new(u, d, name, top);
	if (!child) {
		usage_fail(u, -ENOMEM);
		return true;
	}
	child->below = *list;
	*list = child;
	return true;
}

static void count_name(struct worker *w, struct dir *d, const char *name, unsigned char type,
		       struct usage_sum *sum, struct dir **list)
{
	struct usage *u = w->u;
	struct statx st;

	if (type == DT_DIR && add_dir(w, d, name, list))
		return;
	if (statx(d->fd, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, usage_mask(u), &st) < 0) {
		usage_problem(u, d, name, "statx", errno);
		return;
	}
	/* Some file systems do not tell, or lie; and it may just have taken a file's place. */
	if (S_ISDIR(st.stx_mode) && add_dir(w, d, name, list))
		return;
	if (!usage_left_out(u, d, name, &st))
		count_file(w, d, name, d->top, &st, sum);
}

static void count_entry(struct worker *w, struct dir *d, const struct usage_dirent *e,
			struct usage_sum *sum, struct dir **list)
{
	struct usage *u = w->u;

	if (e->name[0] == '.' && (!e->name[1] || (e->name[1] == '.' && !e->name[2])))
		return;
	if (u->o.excludes && usage_excluded(u, d, e->name))
		return;
	if (!d->parent)
		__atomic_add_fetch(&u->nr_entries, 1, __ATOMIC_RELAXED);
	count_name(w, d, e->name, e->type, sum, list);
}

/* Go on to what counts below a directory that does not. */
static void pass(struct worker *w, struct dir *d)
{
	struct usage *u = w->u;
	struct usage_sum sum = { 0 };
	struct dir *list = NULL, *last;
	unsigned int n = 0;
	size_t i = 0;
	char *name;

	while ((name = mounts_next(u->mounts, &d->marks, &i))) {
		count_name(w, d, name, DT_DIR, &sum, &list);
		free(name);
	}
	usage_count_for(u, d->top, &sum);
	usage_saw(w, &sum);
	for (last = list; last && ++n && last->below; last = last->below)
		;
	__atomic_add_fetch(&u->nr_pending, n, __ATOMIC_SEQ_CST);
	if (list)
		push(w, list, last, n);
}

/* Read on in a directory. Return: false: it was laid aside. */
static bool read_dir(struct worker *w, struct dir *d)
{
	struct usage *u = w->u;

	for (;;) {
		struct usage_sum sum = { 0 };
		struct dir *list = NULL, *last;
		unsigned int n = 0;
		long len = syscall(SYS_getdents64, d->fd, w->buffer, USAGE_BUFFER_BYTES);
		bool aside;

		if (len < 0)
			usage_problem(u, d, NULL, "getdents64", errno);
		if (len <= 0)
			return true;
		share(w);
		for (long at = 0; at < len && !usage_stopped(u);) {
			const struct usage_dirent *e =
				(const struct usage_dirent *)(w->buffer + at);

			count_entry(w, d, e, &sum, &list);
			d->at = e->off;
			at += e->reclen;
		}
		if (sum.count) {
			usage_count_for(u, d->top, &sum);
			usage_saw(w, &sum);
		}
		for (last = list; last && ++n && last->below; last = last->below)
			;
		aside = n && __atomic_load_n(&w->nr, __ATOMIC_RELAXED) + n > PENDING_MAX &&
			!usage_stopped(u);
		__atomic_add_fetch(&u->nr_pending, n + aside, __ATOMIC_SEQ_CST);
		if (aside) {
			dir_aside(d);
			usage_push(w, d);
		}
		if (list)
			push(w, list, last, n);
		if (aside)
			return false;
		if (usage_stopped(u))
			return true;
	}
}

/* Have it open and counted. Return: false: it is not to be read. */
static bool begin(struct worker *w, struct dir *d)
{
	struct statx st;

	if (usage_stopped(w->u))
		return false;
	if (d->entered)
		return dir_resume(w->u, d);
	switch (dir_open(w->u, d, &st)) {
	case DIR_OPEN:
		count_dir(w, d, &st);
		d->entered = true;
		return true;
	case DIR_PASS:
		pass(w, d);
		return false;
	case DIR_CLOSED:
		/* What it takes itself can be told all the same. */
		if (st.stx_mask)
			count_dir(w, d, &st);
		return false;
	case DIR_OTHER:
		count_instead(w, d, &st);
		return false;
	default:
		return false;
	}
}

static struct dir *wait_for_work(struct worker *w)
{
	struct usage *u = w->u;
	struct dir *d;

	pthread_mutex_lock(&u->idle_lock);
	__atomic_add_fetch(&u->nr_idle, 1, __ATOMIC_SEQ_CST);
	while (!(d = steal(w)) && __atomic_load_n(&u->nr_pending, __ATOMIC_SEQ_CST))
		pthread_cond_wait(&u->wake, &u->idle_lock);
	__atomic_sub_fetch(&u->nr_idle, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&u->idle_lock);
	return d;
}

void *usage_thread(void *arg)
{
	struct worker *w = arg;
	struct usage *u = w->u;
	struct dir *d;

	while ((d = usage_pop(w)) || (d = steal(w)) || (d = wait_for_work(w))) {
		share(w);
		/* One that was laid aside is another's already. */
		if (!begin(w, d) || read_dir(w, d))
			dir_done(u, d);
		if (__atomic_sub_fetch(&u->nr_pending, 1, __ATOMIC_SEQ_CST) == 0) {
			pthread_mutex_lock(&u->idle_lock);
			pthread_cond_broadcast(&u->wake);
			pthread_mutex_unlock(&u->idle_lock);
		}
	}
	usage_leave(u);
	return NULL;
}
