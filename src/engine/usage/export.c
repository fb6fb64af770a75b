// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * export.c - the whole tree in the format that ncdu(1) reads and writes: https://dev.yorhel.nl/ncdu/jsonfmt, version 1.2.
 *
 * One thread goes down into each directory as it is met and writes what it sees, so memory depends on the tree's depth alone: of each level
 * there is at most one buffer of names of sub-directories. A name is written as its bytes, like ncdu does, with control characters
 * escaped: the text is JSON but for names that are no UTF-8. A file with several names is written with each of them, with its inode number,
 * by which the reader counts it once.
 *
 * Beyond what descriptors allow, a directory is closed while one below it is read, and opened again afterwards (dir.c).
 */
#include <base/cleanup.h>
#include <engine/usage/usage_internal.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* A directory that is being read. @names: sub-directories of the last piece that was read, from @at to @len */
struct level {
	struct level *up;
	struct dir *d;
	char *names;
	size_t at;
	size_t len;
};

struct export
{
	struct usage *u;
	struct worker *w;
	FILE *out;
	struct level *level;
	int r;
};

static void write_text(FILE *out, const char *text)
{
	putc_unlocked('"', out);
	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		if (*p < ' ' || *p == 0x7f)
			fprintf(out, "\\u%04x", *p);
		else if (*p == '"' || *p == '\\')
			fprintf(out, "\\%c", *p);
		else
			putc_unlocked(*p, out);
	}
	putc_unlocked('"', out);
}

static void saw(struct export *x, const struct statx *st)
{
	struct usage_sum s = usage_sum_of(st);

	usage_saw(x->w, &s);
}

/* ncdu reads no larger numbers. */
static uint64_t told(uint64_t n)
{
	return n < INT64_MAX ? n : INT64_MAX;
}

/* The beginning of an object for an entry. @st: NULL: nothing is known of it */
static void write_info(struct export *x, const char *name, const struct statx *st)
{
	fputs("{\"name\":", x->out);
	write_text(x->out, name);
	if (!st)
		return;
	if (st->stx_size)
		fprintf(x->out, ",\"asize\":%" PRIu64, told((uint64_t)st->stx_size));
	if (st->stx_blocks)
		fprintf(x->out, ",\"dsize\":%" PRIu64, told(usage_disk_of(st)));
	if (S_ISDIR(st->stx_mode))
		return;
	if (st->stx_nlink > 1)
		fprintf(x->out, ",\"ino\":%" PRIu64 ",\"hlnkc\":true,\"nlink\":%" PRIu32,
			(uint64_t)st->stx_ino, st->stx_nlink);
	if (!S_ISREG(st->stx_mode))
		fputs(",\"notreg\":true", x->out);
}

static void write_left_out(struct export *x, const char *name, const char *why)
{
	fputs(",\n", x->out);
	write_info(x, name, NULL);
	fprintf(x->out, ",\"excluded\":\"%s\"}", why);
}

/* A directory of which no more is told. */
static void write_closed(struct export *x, const char *name, const struct statx *st, bool unread)
{
	fputs(",\n[", x->out);
	write_info(x, name, st);
	fputs(unread ? ",\"read_error\":true}]" : "}]", x->out);
	if (st)
		saw(x, st);
}

/* What is no directory. */
static void write_file(struct export *x, const char *name, const struct statx *st)
{
	fputs(",\n", x->out);
	write_info(x, name, st);
	putc_unlocked('}', x->out);
	saw(x, st);
}

/* Begin to read a directory, which is open and has the level's place. @name: as it is to be told. @st: NULL: it does not count */
static void go_down(struct export *x, struct level *l, const char *name, const struct statx *st)
{
	fputs(",\n[", x->out);
	write_info(x, name, st);
	if (!l->up || l->up->d->dev != l->d->dev)
		fprintf(x->out, ",\"dev\":%" PRIu64, l->d->dev);
	putc_unlocked('}', x->out);
	if (st)
		saw(x, st);
	x->level = l;
}

static void free_level(struct export *x, struct level *l)
{
	if (l->d)
		dir_done(x->u, l->d);
	free(l->names);
	free(l);
}

/* A directory that is not open yet. */
static struct level *new_level(struct export *x, const char *name)
{
	struct level *l = calloc(1, sizeof(*l));

	if (l) {
		l->up = x->level;
		l->d = dir_new(x->u, l->up ? l->up->d : NULL, name, NO_TOP);
	}
	if (l && l->d)
		return l;
	free(l);
	x->r = -ENOMEM;
	return NULL;
}

static void go_up(struct export *x)
{
	struct level *l = x->level;

	fputs("]", x->out);
	x->level = l->up;
	free_level(x, l);
}

/* Of a directory that does not count, those that may. */
static int remember_marks(const struct export *x, struct level *l)
{
	size_t i = 0;
	char *name;

	while ((name = mounts_next(x->u->mounts, &l->d->marks, &i))) {
		size_t len = strlen(name) + 1;
		char *grown = realloc(l->names, l->len + len);

		if (grown) {
			l->names = grown;
			memcpy(l->names + l->len, name, len);
			l->len += len;
		}
		free(name);
		if (!grown)
			return -ENOMEM;
	}
	return 0;
}

static void enter(struct export *x, const char *name)
{
	struct level *l = new_level(x, name);
	struct statx st;

	if (!l)
		return;
	dir_aside(l->up->d);
	switch (dir_open(x->u, l->d, &st)) {
	case DIR_OPEN:
		go_down(x, l, name, &st);
		return;
	case DIR_PASS:
		go_down(x, l, name, NULL);
		x->r = remember_marks(x, l);
		return;
	case DIR_LEFT_OUT:
		write_left_out(x, name, "otherfs");
		break;
	case DIR_OTHER:
		write_file(x, name, &st);
		break;
	case DIR_CLOSED:
		write_closed(x, name, st.stx_mask ? &st : NULL, true);
		break;
	case DIR_GONE:
		break;
	}
	free_level(x, l);
}

/* Return: false: it is a sub-directory that is to be read. */
static bool write_name(struct export *x, const char *name, unsigned char type)
{
	const struct dir *d = x->level->d;
	struct statx st;

	if (type == DT_DIR && d->depth < x->u->o.depth)
		return false;
	if (statx(d->fd, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, usage_mask(x->u), &st) < 0) {
		if (usage_problem(x->u, d, name, "statx", errno)) {
			fputs(",\n", x->out);
			write_info(x, name, NULL);
			fputs(",\"read_error\":true}", x->out);
		}
		return true;
	}
	if (S_ISDIR(st.stx_mode) && d->depth < x->u->o.depth)
		return false;
	if (usage_left_out(x->u, d, name, &st))
		write_left_out(x, name, "otherfs");
	else if (S_ISDIR(st.stx_mode))
		write_closed(x, name, &st, false);
	else
		write_file(x, name, &st);
	return true;
}

static bool write_entry(struct export *x, const struct usage_dirent *e)
{
	if (usage_excluded(x->u, x->level->d, e->name)) {
		write_left_out(x, e->name, "pattern");
		return true;
	}
	return write_name(x, e->name, e->type);
}

/* Remember a sub-directory of the piece that is being read. */
static int remember(struct level *l, const char *name)
{
	size_t len = strlen(name) + 1;

	if (!l->names) {
		l->names = malloc(USAGE_BUFFER_BYTES);
		if (!l->names)
			return -ENOMEM;
	}
	memcpy(l->names + l->len, name, len);
	l->len += len;
	return 0;
}

/* Read a piece of the present directory. Return: false: there is no more. */
static bool read_piece(struct export *x)
{
	struct level *l = x->level;
	long len;

	if (l->d->passing || !dir_resume(x->u, l->d))
		return false;
	len = syscall(SYS_getdents64, l->d->fd, x->w->buffer, USAGE_BUFFER_BYTES);
	if (len < 0)
		usage_problem(x->u, l->d, NULL, "getdents64", errno);
	free(l->names);
	l->names = NULL;
	l->at = l->len = 0;
	for (long at = 0; at < len && x->r == 0 && !usage_stopped(x->u);) {
		const struct usage_dirent *e = (const struct usage_dirent *)(x->w->buffer + at);

		at += e->reclen;
		l->d->at = e->off;
		if (strcmp(e->name, ".") == 0 || strcmp(e->name, "..") == 0)
			continue;
		if (!l->d->parent)
			x->u->nr_entries++;
		if (!write_entry(x, e))
			x->r = remember(l, e->name);
		else if (ferror(x->out))
			x->r = -errno; /* writing was the last thing that was done */
	}
	return len > 0;
}

static void walk(struct export *x)
{
	while (x->level) {
		struct level *l = x->level;
		bool go_on = x->r == 0 && !usage_stopped(x->u);

		if (go_on && l->at < l->len) {
			const char *name = l->names + l->at;

			l->at += strlen(name) + 1;
			if (!l->d->passing || !write_name(x, name, DT_DIR))
				enter(x, name);
		} else if (!go_on || !read_piece(x)) {
			go_up(x);
		}
	}
}

int usage_export(struct usage *u, FILE *out, const char *name, struct usage_result *ret)
{
	struct export x = { .u = u, .w = &u->workers[0], .out = out };
	struct level *l = new_level(&x, "");
	struct statx st;

	*ret = (struct usage_result){ 0 };
	if (!l)
		return x.r;
	l->d->fd = take_fd(&u->fd);
	if (dir_open(u, l->d, &st) != DIR_OPEN) {
		free_level(&x, l);
		usage_take_notes(u, ret);
		return -EIO;
	}
	fprintf(out,
		"[1,2,{\"progname\":\"kshared\",\"progver\":\"" KSHARED_VERSION
		"\",\"timestamp\":%jd}",
		(intmax_t)time(NULL));
	go_down(&x, l, name, &st);
	walk(&x);
	fputs("]\n", out);
	ret->total = usage_progress(u);
	usage_take_notes(u, ret);
	if (x.r == 0)
		x.r = __atomic_load_n(&u->failed, __ATOMIC_RELAXED);
	if (x.r == 0 && fflush(out) != 0)
		x.r = -errno;
	return x.r;
}
