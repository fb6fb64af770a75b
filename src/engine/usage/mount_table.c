// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mount_table.c - what is mounted where: which part of which file system each mount shows. See usage_internal.h.
 *
 * /proc/self/mountinfo tells it; where there is no /proc, listmount(2) and statmount(2) do, from Linux 6.8 on. Neither tells of the
 * mount that the process's own root directory is in, if that is no mount point (a plain chroot). Then the table of the first process,
 * or of the parent, may tell: mounts have the same numbers everywhere. One that is in both tables shows where the root is.
 */
#include <base/cleanup.h>
#include <engine/usage/usage_internal.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Linux 6.8's <linux/mount.h>, which may be older here. */
#define NR_STATMOUNT 457
#define NR_LISTMOUNT 458
#define LIST_ROOT UINT64_MAX
#define LIST_MANY 512
#define WANT_SB_BASIC 0x1u
#define WANT_MNT_BASIC 0x2u
#define WANT_MNT_ROOT 0x8u
#define WANT_MNT_POINT 0x10u
#define WANT (WANT_SB_BASIC | WANT_MNT_BASIC | WANT_MNT_ROOT | WANT_MNT_POINT)

struct list_request {
	uint32_t size;
	uint32_t spare;
	uint64_t id;
	uint64_t param; /* statmount: what is wanted; listmount: after which */
};

struct list_answer {
	uint32_t size;
	uint32_t spare;
	uint64_t mask;
	uint32_t dev_major;
	uint32_t dev_minor;
	uint64_t sb_magic;
	uint32_t sb_flags;
	uint32_t fs_type;
	uint64_t id;
	uint64_t parent;
	uint32_t id_old;
	uint32_t parent_old;
	uint64_t attr;
	uint64_t propagation;
	uint64_t peer_group;
	uint64_t master;
	uint64_t propagate_from;
	uint32_t root; /* where in text[] it begins */
	uint32_t point;
	uint64_t later[50];
	char text[];
};

const char *path_below(const char *path, const char *top)
{
	size_t len = strcmp(top, "/") == 0 ? 0 : strlen(top);

	if (strncmp(path, top, len) != 0 || (path[len] && path[len] != '/'))
		return NULL;
	return strcmp(path + len, "/") == 0 ? "" : path + len;
}

char *path_join(const char *top, const char *rest)
{
	char *path = malloc(strlen(top) + strlen(rest) + 1);

	if (path)
		sprintf(path, "%s%s", strcmp(top, "/") == 0 && *rest ? "" : top, rest);
	return path;
}

/* Undo \040 and the like, in place. */
static void unescape(char *text)
{
	char *to = text;

	for (; *text; text++) {
		if (text[0] == '\\' && text[1] >= '0' && text[1] <= '3' && text[2] && text[3]) {
			*to++ = (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 |
				       (text[3] - '0'));
			text += 3;
		} else {
			*to++ = *text;
		}
	}
	*to = 0;
}

/* @root: malloc'ed and taken, may be NULL */
static int add(struct mount_table *t, uint64_t id, uint64_t parent, uint64_t dev, char *root,
	       const char *point)
{
	cleanup_free char *own = root;
	char *copy = strdup(point);
	struct mount *grown = t->at;

	if (own && copy && (t->nr & (t->nr - 1)) == 0)
		grown = reallocarray(t->at, t->nr ? t->nr * 2 : 1, sizeof(*grown));
	if (!own || !copy || !grown) {
		free(copy);
		return -ENOMEM;
	}
	t->at = grown;
	t->at[t->nr++] = (struct mount){
		.id = id, .parent = parent, .dev = dev, .root = take_ptr(own), .point = copy
	};
	return 0;
}

static int parse(struct mount_table *t, char *line)
{
	unsigned int major, minor;
	char *fields[5], *save = NULL;

	for (int n = 0; n < 5; n++) {
		fields[n] = strtok_r(n ? NULL : line, " ", &save);
		if (!fields[n])
			return 0;
	}
	if (sscanf(fields[2], "%u:%u", &major, &minor) != 2)
		return 0;
	unescape(fields[3]);
	unescape(fields[4]);
	return add(t, strtoull(fields[0], NULL, 10), strtoull(fields[1], NULL, 10),
		   makedev(major, minor), strdup(fields[3]), fields[4]);
}

/* Return: 0; -ENOENT and the like; -ENOMEM. */
static int read_proc(struct mount_table *t, const char *pid)
{
	cleanup_free char *line = NULL;
	size_t size = 0;
	char path[40];
	int r = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%s/mountinfo", pid);
	f = fopen(path, "re");
	if (!f)
		return -errno;
	while (r == 0 && getline(&line, &size, f) > 0)
		r = parse(t, line);
	fclose(f);
	return r;
}

/* One that listmount(2) told of. Return: 0, also if it is gone; -ENOMEM. */
static int ask_about(struct mount_table *t, uint64_t id)
{
	struct list_request request = { .size = sizeof(request), .id = id, .param = WANT };
	cleanup_free struct list_answer *a = NULL;
	size_t size = 1024;

	for (;;) {
		free(a);
		a = malloc(size);
		if (!a)
			return -ENOMEM;
		if (syscall(NR_STATMOUNT, &request, a, size, 0) == 0)
			break;
		if (errno != EOVERFLOW)
			return 0;
		size *= 2;
	}
	if ((a->mask & WANT) != WANT)
		return 0;
	return add(t, a->id_old, a->parent_old, makedev(a->dev_major, a->dev_minor),
		   strdup(a->text + a->root), a->text + a->point);
}

static int read_calls(struct mount_table *t)
{
	struct list_request request = { .size = sizeof(request), .id = LIST_ROOT };
	uint64_t ids[LIST_MANY];
	long n;
	int r = 0;

	do {
		n = syscall(NR_LISTMOUNT, &request, ids, LIST_MANY, 0);
		if (n < 0)
			return -errno;
		for (long i = 0; i < n && r == 0; i++)
			r = ask_about(t, ids[i]);
		request.param = n ? ids[n - 1] : 0;
	} while (n == LIST_MANY && r == 0);
	return r;
}

static struct mount *find(const struct mount_table *t, uint64_t id)
{
	for (size_t i = 0; i < t->nr; i++)
		if (t->at[i].id == id)
			return &t->at[i];
	return NULL;
}

/* The root directory's path in its file system, by another's table. Return: malloc'ed; NULL: it does not tell, or there is no memory. */
static char *root_by(const struct mount_table *t, const struct mount_table *other,
		     const struct mount *own)
{
	for (size_t i = 0; i < t->nr; i++) {
		const struct mount *x = &t->at[i],
				   *same = x->parent == own->id ? find(other, x->id) : NULL;
		size_t len = same ? strlen(same->point) : 0, tail = strlen(x->point);
		const char *rest;

		if (len < tail || strcmp(same->point + len - tail, x->point) != 0)
			continue;
		same->point[len - tail] = 0;
		rest = path_below(same->point, own->point);
		return rest ? path_join(own->root, rest) : NULL;
	}
	return NULL;
}

/* Add the mount that the root directory is in. Return: 0; -ENOMEM. */
static int add_own(struct mount_table *t, uint64_t id)
{
	bool alone = true;
	char *root = NULL;
	uint64_t dev = 0;
	char pids[2][16];

	snprintf(pids[0], sizeof(pids[0]), "1");
	snprintf(pids[1], sizeof(pids[1]), "%d", (int)getppid());
	for (size_t i = 0; i < t->nr; i++)
		alone &= t->at[i].parent != id;
	for (size_t i = 0; i < 2 && !alone && !root; i++) {
		struct mount_table other = { 0 };
		const struct mount *own;

		if (read_proc(&other, pids[i]) == 0 && (own = find(&other, id))) {
			root = root_by(t, &other, own);
			dev = own->dev;
		}
		mount_table_deinit(&other);
	}
	/* With nothing mounted in it, it does not matter. */
	t->guessed = !root && !alone;
	return add(t, id, id, dev, root ? root : strdup("?"), "/");
}

int mount_table_read(struct mount_table *t, uint64_t own)
{
	int r = read_proc(t, "self");

	if (r < 0 && r != -ENOMEM)
		r = read_calls(t);
	if (r < 0)
		return r;
	return find(t, own) ? 0 : add_own(t, own);
}

void mount_table_deinit(struct mount_table *t)
{
	for (size_t i = 0; i < t->nr; i++) {
		free(t->at[i].root);
		free(t->at[i].point);
		free(t->at[i].under);
	}
	free(t->at);
	*t = (struct mount_table){ 0 };
}
