/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * usage_internal.h - the parts of a count: the walk (walk.c), its directories (dir.c), files with several names (links.c), the
 * largest so far (largest.c), mounts (mount_table.c, mounts.c, pieces.c, marks.c), what was not counted (notes.c); and the walk that writes all it sees (export.c).
 */
#ifndef KSHARED_ENGINE_USAGE_INTERNAL_H
#define KSHARED_ENGINE_USAGE_INTERNAL_H

#include <engine/usage/usage.h>
#include <pthread.h>
#include <sys/sysmacros.h>
#include <sys/types.h>

#define NO_TOP UINT32_MAX
#define USAGE_BUFFER_BYTES (32u << 10)

/* What getdents64(2) gives. */
struct usage_dirent {
	uint64_t ino;
	int64_t off;
	unsigned short reclen;
	unsigned char type;
	char name[];
};

/** usage_plus() - the sum, or UINT64_MAX where that is beyond it. */
static inline uint64_t usage_plus(uint64_t a, uint64_t b)
{
	return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/** usage_add() - sum up. */
static inline void usage_add(struct usage_sum *to, const struct usage_sum *what)
{
	to->disk = usage_plus(to->disk, what->disk);
	to->apparent = usage_plus(to->apparent, what->apparent);
	to->count = usage_plus(to->count, what->count);
}

/** usage_value() - the number that entries are sorted by. */
static inline uint64_t usage_value(const struct usage_sum *s, enum usage_by by)
{
	return by == USAGE_DISK ? s->disk : by == USAGE_APPARENT ? s->apparent : s->count;
}

/*
 * largest.c: the @max largest items by (value descending, name ascending). Many threads.
 */
struct largest {
	pthread_mutex_t lock;
	struct usage_item *heap; /* the least of them is the first */
	size_t nr;
	size_t max;
	enum usage_by by;
	uint64_t least; /* no item of a smaller value is wanted; read without the lock */
	struct largest_file **files; /* beside the heap; NULL: it has but one name */
	struct largest_file **buckets; /* the same by device and inode number */
	size_t nr_buckets; /* a power of two, or 0 */
	size_t nr_files;
};

/** largest_init() - Return: 0; -ENOMEM. */
int largest_init(struct largest *l, size_t max, enum usage_by by);

/** largest_wants() - may an item of this sum be one of them? */
static inline bool largest_wants(const struct largest *l, const struct usage_sum *s)
{
	return usage_value(s, l->by) >= __atomic_load_n(&l->least, __ATOMIC_RELAXED);
}

/**
 * largest_put() - take an item in, if it is one of the largest.
 * @name: copied
 * @dev, @ino: of a file with several names, which is one item, under the first of them; else 0
 * Return: 0; -ENOMEM.
 */
int largest_put(struct largest *l, const char *name, const struct usage_sum *s, uint32_t mode,
		uint64_t dev, uint64_t ino);

/** largest_take() - the items, sorted; the caller's. */
void largest_take(struct largest *l, struct usage_item **ret, size_t *ret_nr);

/** largest_deinit() - free what is left. */
void largest_deinit(struct largest *l);

/*
 * links.c: files with several names. Many threads.
 */
struct links;

/** links_new() - Return: 0; -ENOMEM. */
int links_new(struct links **ret);

/**
 * links_seen() - one name of a file was met.
 * @nlink: how many it has
 * @top: below which entry
 * @before: is the first entry's name before the second's?
 * @ret_last: all its names have been seen; @ret_top: for which entry it counts. Else it is remembered
 * @ret_first: this is the first of its names that was met
 * Return: 0; -ENOMEM.
 */
int links_seen(struct links *l, uint64_t dev, uint64_t ino, uint32_t nlink,
	       const struct usage_sum *sum, uint32_t top,
	       bool (*before)(void *ctx, uint32_t a, uint32_t b), void *ctx, uint32_t *ret_top,
	       bool *ret_last, bool *ret_first);

/** links_rest() - call @each for every file of which not all names were met. */
void links_rest(struct links *l, void (*each)(void *ctx, uint32_t top, const struct usage_sum *sum),
		void *ctx);

/** links_free() - @l may be NULL. */
void links_free(struct links *l);

/*
 * mount_table.c: what is mounted where.
 */

/*
 * A mount. What is after @point is mounts.c's.
 * @root: the path, in its file system, of what it shows
 * @after: the mount point below the directory: "/a/b"
 * @on: the one that it is on, not at its very place; @first, @next: those on it
 * @under: the path in @on's file system of what it covers; @under_piece: that piece; @piece: the one that it shows first
 * @taken: the pieces that count here
 * @rank: what has a smaller one goes first
 * @loops: it shows a directory above it
 */
struct mount {
	uint64_t id;
	uint64_t parent;
	uint64_t dev;
	char *root;
	char *point;
	const char *after;
	char *under;
	struct mount *on;
	struct mount *first;
	struct mount *next;
	size_t piece;
	size_t under_piece;
	size_t taken;
	int64_t rank;
	bool loops;
};

/* @guessed: which part the root directory's mount shows is not known */
struct mount_table {
	struct mount *at;
	size_t nr;
	bool guessed;
};

/**
 * mount_table_read() - read it; zeroed before.
 * @own: the number of a mount that will be in it, at least as one that shows "?" at "/"
 * Return: 0; -ENOMEM; another -errno: it is not told.
 */
int mount_table_read(struct mount_table *t, uint64_t own);

/** mount_table_deinit() - free it. */
void mount_table_deinit(struct mount_table *t);

/** path_below() - is @path @top, or below it? Return: what follows, beginning with '/', or empty; NULL: it is not. */
const char *path_below(const char *path, const char *top);

/** path_join() - @rest: empty, or beginning with '/'. Return: malloc'ed; NULL without memory. */
char *path_join(const char *top, const char *rest);

/*
 * mounts.c, pieces.c, marks.c: which directories below the one that is counted show what is counted elsewhere.
 */
struct mounts;

/* Marks that are at a directory, whose path below the first one has @len bytes, or below it. None: @from is @to. */
struct marks {
	size_t from;
	size_t to;
	size_t len;
};

/**
 * mounts_new() - read the mount table.
 * @dir: open; @path: its name
 * @o: borrowed for as long as it is used
 * Return: 0, also if there is no table; -ENOMEM.
 */
int mounts_new(struct mounts **ret, int dir, const char *path, const struct usage_options *o);

/** mounts_first() - the marks below the directory. */
struct marks mounts_first(const struct mounts *m);

/** mounts_below() - those for an entry of a directory. */
struct marks mounts_below(const struct mounts *m, const struct marks *at, const char *name);

/** mounts_next() - go through the entries that have some. @i: 0 at first. Return: a name, malloc'ed; NULL: no more, or no memory. */
char *mounts_next(const struct mounts *m, const struct marks *at, size_t *i);

/** enum mounts_say - what the mark at a directory or file itself says. */
enum mounts_say { MOUNTS_AS_ABOVE, MOUNTS_COUNT, MOUNTS_LEAVE_OUT };

/** mounts_say() - @id: of the mount that is there now; the mark says nothing of another one. */
enum mounts_say mounts_say(const struct mounts *m, const struct marks *at, uint64_t id);

/** mounts_doubt() - might what begins at the mount @id, on the device @dev, be counted elsewhere without anybody knowing? */
bool mounts_doubt(const struct mounts *m, uint64_t id, uint64_t dev);

/** mounts_guessed() - is it not known what all mounts show? */
bool mounts_guessed(const struct mounts *m);

/** mounts_nameless() - may the file be met more often than it has names? */
bool mounts_nameless(const struct mounts *m, uint64_t dev, uint64_t ino);

/** mounts_free() - @m may be NULL. */
void mounts_free(struct mounts *m);

/*
 * walk.c: the threads.
 */
#define TOP_CHUNKS 24

/* An entry of the directory itself that has parts, or names elsewhere. */
struct top {
	struct usage_sum sum;
	uint32_t mode;
	char *name;
};

/*
 * dir.c: a directory that is to be read, is read, or has sub-directories that are.
 * @anchor: the next one above whose descriptor is kept: where the path to this one begins. NULL: this is the first one
 * @fd: -1: not opened yet, or closed again
 * @users: who need @fd: its reader, and those below that have it as their anchor and are still to be opened
 * @dev, @ino: which one it is, once it was opened
 * @at: where to go on
 * @passing: it does not count; but something below may, where a mark says so
 */
struct dir {
	struct dir *parent;
	struct dir *anchor;
	struct dir *below; /* on the stack */
	int fd;
	unsigned int refs;
	unsigned int users;
	uint32_t top;
	uint32_t depth;
	bool keeps; /* its descriptor is kept for those below */
	bool entered; /* its own size is counted */
	bool passing;
	struct marks marks;
	uint64_t dev;
	uint64_t ino;
	int64_t at;
	char name[];
};

struct worker {
	_Alignas(128) pthread_mutex_t
		lock; /* what others touch, too, is apart from what is this thread's */
	struct dir *stack; /* the newest first */
	unsigned int nr;
	_Alignas(128) struct usage *u;
	unsigned char *buffer;
	struct usage_sum seen; /* for usage_progress() */
	struct usage_sum owned[USAGE_OWNERS];
};

struct usage {
	struct usage_options o;
	int fd;
	struct worker *workers;
	unsigned int nr_workers;
	unsigned int nr_running;
	bool abandoned; /* by usage_free(), while threads hang */
	unsigned int max_kept; /* descriptors of directories that are kept */
	unsigned int nr_kept;
	bool atime; /* O_NOATIME was refused */
	bool single_steps; /* openat2() is not there */
	bool stop;
	int failed; /* -ENOMEM */
	_Alignas(128) uint64_t nr_pending;
	unsigned int nr_idle;
	pthread_mutex_t idle_lock;
	pthread_cond_t wake; /* a thread that has nothing to do */
	pthread_cond_t done; /* usage_run() */
	pthread_mutex_t error_lock;
	struct usage_error errors[USAGE_ERRORS];
	uint64_t nr_errors;
	uint64_t nr_doubts;
	uint64_t nr_vanished;
	char **skipped;
	size_t nr_skipped;
	struct top *chunks[TOP_CHUNKS];
	uint32_t nr_tops;
	uint64_t nr_entries;
	uint64_t root_dev;
	struct usage_sum rest; /* the directory itself */
	struct largest largest;
	struct links *links;
	struct mounts *mounts;
};

/** dir_new() - a directory that is to be read. @parent: NULL: the first one. Return: NULL without memory. */
struct dir *dir_new(struct usage *u, struct dir *parent, const char *name, uint32_t top);

/** enum dir_look - what became of a directory that was to be opened. */
enum dir_look {
	DIR_OPEN,
	DIR_PASS, /* the same, but it shows what is counted elsewhere, and below it there are marks */
	DIR_LEFT_OUT, /* it is on another file system, or shows what is counted elsewhere */
	DIR_OTHER, /* it is no directory any more */
	DIR_CLOSED, /* it cannot be read; that is noted */
	DIR_GONE, /* that is noted, too */
};

/**
 * dir_open() - open one for the first time, wherever it is, and look at it.
 * @st: what statx(2) says; with DIR_CLOSED, stx_mask may be 0: it says nothing
 */
enum dir_look dir_open(struct usage *u, struct dir *d, struct statx *st);

/** dir_aside() - close what is not kept, in the middle of it or to go below. */
void dir_aside(struct dir *d);

/** dir_resume() - have it open again where it was left. Return: false: it cannot be had; that is noted. */
bool dir_resume(struct usage *u, struct dir *d);

/** dir_done() - it is read, or will not be. */
void dir_done(struct usage *u, struct dir *d);

/** dir_path() - the path of it (@name NULL) or of an entry in it, below the first one; malloc'ed. Return: NULL without memory. */
char *dir_path(const struct dir *d, const char *name);

/*
 * notes.c: what was not counted, and why. Many threads.
 */

/** usage_fail() - stop, since there is no memory. */
void usage_fail(struct usage *u, int err);

/** usage_stopped() - is it to end soon? */
static inline bool usage_stopped(const struct usage *u)
{
	return __atomic_load_n(&u->stop, __ATOMIC_RELAXED);
}

/**
 * usage_problem() - note that @call failed at @name in @d (NULL: at @d).
 * Return: is it an error? Else it is gone, or something else is in its place, or in that of one above, and it is only counted.
 */
bool usage_problem(struct usage *u, const struct dir *d, const char *name, const char *call,
		   int err);

/** usage_excluded() - does a pattern say so? */
bool usage_excluded(struct usage *u, const struct dir *d, const char *name);

/** usage_left_out() - is what is not gone into on another file system that is not wanted, or counted elsewhere? The latter is noted. */
bool usage_left_out(struct usage *u, const struct dir *d, const char *name, const struct statx *st);

/** usage_on_other() - is it on another file system, and these are not wanted? */
bool usage_on_other(const struct usage *u, const struct statx *st);

/** usage_judge() - the same of a directory, whose @passing is set. Return: DIR_OPEN, DIR_PASS or DIR_LEFT_OUT. */
enum dir_look usage_judge(struct usage *u, struct dir *d, const struct statx *st);

/** usage_take_notes() - they go to the result. */
void usage_take_notes(struct usage *u, struct usage_result *ret);

/** usage_top() - an entry of the directory itself. */
struct top *usage_top(const struct usage *u, uint32_t i);

/** usage_count_for() - add to an entry's sum; NO_TOP: to what belongs to none. */
void usage_count_for(struct usage *u, uint32_t top, const struct usage_sum *sum);

/** usage_disk_of() - what a file takes, in bytes; a file system may say anything. */
static inline uint64_t usage_disk_of(const struct statx *st)
{
	return st->stx_blocks > UINT64_MAX / 512 ? UINT64_MAX : st->stx_blocks * 512;
}

/** usage_sum_of() - what a file is counted as. */
static inline struct usage_sum usage_sum_of(const struct statx *st)
{
	return (struct usage_sum){ .disk = usage_disk_of(st),
				   .apparent = st->stx_size,
				   .count = 1 };
}

/** usage_mask() - what statx(2) is asked about each file. */
static inline unsigned int usage_mask(const struct usage *u)
{
	return STATX_TYPE | STATX_NLINK | STATX_INO | STATX_SIZE | STATX_BLOCKS | STATX_MNT_ID |
		(u->o.nr_owners ? STATX_UID | STATX_GID : 0);
}

/** usage_device() - as in st_dev. */
static inline uint64_t usage_device(const struct statx *st)
{
	return makedev(st->stx_dev_major, st->stx_dev_minor);
}

/** usage_saw() - count for usage_progress(). */
void usage_saw(struct worker *w, const struct usage_sum *s);

/** usage_push() - have it read; nr_pending has counted it. */
void usage_push(struct worker *w, struct dir *d);

/** usage_pop() - the newest of a thread's stack. Return: NULL: it is empty. */
struct dir *usage_pop(struct worker *w);

/** usage_leave() - a thread ends. */
void usage_leave(struct usage *u);

/** usage_thread() - of a struct worker: work until there is no more. */
void *usage_thread(void *worker);

#endif
