// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * entries.c - do many entries make it slow?
 *
 * Each folder given holds its number of posted sockets and as many memory objects (the name of the folder's directory
 * says how many: "folder-1000"); beside each lies a tmpfs directory with as many files. Names are opened at random, so
 * that caches for names count as they do in use. A listing's operation is one entry of it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <kshared.h>
#include <kshared/mem.h>
#include <kshared/srv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench.h"

#define FOLDERS_MAX 4

struct place {
	struct kshared *k;
	unsigned int nr;
	char *native;
	char *srv;
	char *mem;
	uint32_t seed;
};

static struct place places[FOLDERS_MAX];

static void name_of(char *ret, size_t size, const char *dir, struct place *p)
{
	p->seed = p->seed * 1664525u + 1013904223u;
	snprintf(ret, size, "%s%se%u", dir, *dir ? "/" : "", (p->seed >> 8) % p->nr);
}

static unsigned long open_in(struct place *p, const char *dir, unsigned long n)
{
	char path[512];

	for (unsigned long i = 0; i < n; i++) {
		name_of(path, sizeof(path), dir, p);
		close(bench_fd(open(path, O_RDWR | O_CLOEXEC), path));
	}
	return n;
}

static unsigned long open_native(void *arg, unsigned long n)
{
	return open_in(arg, ((struct place *)arg)->native, n);
}

static unsigned long open_mount_srv(void *arg, unsigned long n)
{
	return open_in(arg, ((struct place *)arg)->srv, n);
}

static unsigned long open_mount_mem(void *arg, unsigned long n)
{
	return open_in(arg, ((struct place *)arg)->mem, n);
}

static unsigned long open_library_srv(void *arg, unsigned long n)
{
	struct place *p = arg;
	char name[32];

	for (unsigned long i = 0; i < n; i++) {
		name_of(name, sizeof(name), "", p);
		close(bench_fd(ksrv_open(p->k, name, O_RDWR), name));
	}
	return n;
}

static unsigned long open_library_mem(void *arg, unsigned long n)
{
	struct place *p = arg;
	char name[32];

	for (unsigned long i = 0; i < n; i++) {
		name_of(name, sizeof(name), "", p);
		close(bench_fd(kmem_open(p->k, name, O_RDWR), name));
	}
	return n;
}

/* As ls does, or with @attributes as ls -l. */
static unsigned long list(const struct place *p, const char *path, unsigned long n, bool attributes)
{
	unsigned long done = 0;

	do {
		DIR *dir = opendir(path);
		unsigned int seen = 0;
		struct dirent *d;
		struct stat st;

		if (!dir)
			bench_die("%s", path);
		while ((d = readdir(dir))) {
			if (d->d_name[0] == '.')
				continue;
			seen++;
			if (attributes &&
			    fstatat(dirfd(dir), d->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
				bench_die("%s/%s", path, d->d_name);
		}
		closedir(dir);
		if (seen != p->nr)
			bench_die("%s: %u of %u entries are listed", path, seen, p->nr);
		done += seen;
	} while (done < n);
	return done;
}

static unsigned long ls_native(void *arg, unsigned long n)
{
	return list(arg, ((struct place *)arg)->native, n, false);
}

static unsigned long ls_mount(void *arg, unsigned long n)
{
	return list(arg, ((struct place *)arg)->mem, n, false);
}

static unsigned long ls_l_native(void *arg, unsigned long n)
{
	return list(arg, ((struct place *)arg)->native, n, true);
}

static unsigned long ls_l_mount(void *arg, unsigned long n)
{
	return list(arg, ((struct place *)arg)->mem, n, true);
}

static unsigned long ls_library(void *arg, unsigned long n)
{
	const struct place *p = arg;
	unsigned long done = 0;

	do {
		struct kshared_dir *dir = kshared_opendir(p->k, "mem");
		struct kshared_entry e;
		unsigned int seen = 0;
		int r;

		if (!dir)
			bench_die("kshared_opendir");
		while ((r = kshared_readdir(dir, &e)) > 0)
			seen++;
		kshared_closedir(dir);
		if (r < 0 || seen != p->nr)
			bench_die("the library lists %u of %u entries", seen, p->nr);
		done += seen;
	} while (done < n);
	return done;
}

/* What an earlier pass has made stays. */
static void fill(struct place *p)
{
	for (unsigned int i = 0; i < p->nr; i++) {
		char name[32];
		int pair[2], fd;

		snprintf(name, sizeof(name), "e%u", i);
		fd = open(bench_path(p->native, name), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (fd < 0 && errno == EEXIST)
			return;
		close(bench_fd(fd, name));
		bench_zero(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), "socketpair");
		bench_zero(ksrv_post(p->k, name, pair[0], 0600), "ksrv_post");
		close(pair[0]);
		close(pair[1]);
		close(bench_fd(kmem_create(p->k, name, 4096, 0600, 0), "kmem_create"));
	}
}

static void init_place(struct place *p, const char *folder)
{
	const char *number = strrchr(folder, '-');
	char name[64];

	p->nr = number ? (unsigned int)atoi(number + 1) : 0;
	if (!p->nr)
		bench_die("%s says no number of entries", folder);
	p->k = kshared_connect(folder);
	if (!p->k)
		bench_die("%s", folder);
	snprintf(name, sizeof(name), "n%u", p->nr);
	p->native = bench_path(bench.tmpfs, name);
	if (mkdir(p->native, 0755) < 0 && errno != EEXIST)
		bench_die("%s", p->native);
	p->srv = bench_path(folder, "srv");
	p->mem = bench_path(folder, "mem");
	fill(p);
}

/* Each name once in each way: what is measured is use, not first use. */
static void warm(struct place *p)
{
	char name[512];

	for (unsigned int i = 0; i < p->nr; i++) {
		snprintf(name, sizeof(name), "e%u", i);
		close(bench_fd(ksrv_open(p->k, name, O_RDWR), name));
		close(bench_fd(kmem_open(p->k, name, O_RDWR), name));
		snprintf(name, sizeof(name), "%s/e%u", p->native, i);
		close(bench_fd(open(name, O_RDWR | O_CLOEXEC), name));
		snprintf(name, sizeof(name), "%s/e%u", p->srv, i);
		close(bench_fd(open(name, O_RDWR | O_CLOEXEC), name));
		snprintf(name, sizeof(name), "%s/e%u", p->mem, i);
		close(bench_fd(open(name, O_RDWR | O_CLOEXEC), name));
	}
}

static void compare(const char *group, unsigned long (*run)(void *, unsigned long))
{
	struct lane lanes[FOLDERS_MAX];

	for (int i = 0; i < bench.nr_folders; i++) {
		char *name;

		if (asprintf(&name, "%u entries", places[i].nr) < 0)
			bench_die("memory");
		lanes[i] = (struct lane){ name, run, &places[i] };
	}
	bench_group(group, lanes, (size_t)bench.nr_folders);
}

int main(int argc, char **argv)
{
	struct place *last;

	bench_init(argc, argv);
	if (bench.nr_folders > FOLDERS_MAX)
		bench_die("too many folders");
	for (int i = 0; i < bench.nr_folders; i++)
		init_place(&places[i], bench.folders[i]);
	for (int i = 0; i < bench.nr_folders; i++)
		warm(&places[i]);
	compare("open, tmpfs", open_native);
	compare("open, library, posted socket", open_library_srv);
	compare("open, library, memory object", open_library_mem);
	compare("open, mount, posted socket", open_mount_srv);
	compare("open, mount, memory object", open_mount_mem);

	last = &places[bench.nr_folders - 1];

	struct lane names[] = {
		{ "tmpfs", ls_native, last },
		{ "mount", ls_mount, last },
	};
	struct lane attributes[] = {
		{ "tmpfs", ls_l_native, last },
		{ "mount", ls_l_mount, last },
		{ "library", ls_library, last },
	};
	char group[64];

	snprintf(group, sizeof(group), "list %u entries, names; per entry", last->nr);
	bench_group(group, names, 2);
	snprintf(group, sizeof(group), "list %u entries, attributes; per entry", last->nr);
	bench_group(group, attributes, 3);
	return 0;
}
