// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tree.c - make a large tree of files, the same at every run, and remove it.
 *
 *	bench-tree make DIR FILES DIRS
 *	bench-tree make-sparse DIR FILES DIRS	no file has blocks
 *	bench-tree remove DIR
 *
 * DIR must not exist. Below it lie TOPS directories; the k-th has a share of 1/k of everything, so that there is something to
 * sort. The directories below one of them are numbered; each is made in one with a smaller number, drawn at random: about
 * ten levels deep, the deepest two or three times that. Each file's directory is drawn too, so that one with a small number gets more: most
 * have five to ten files, a few have a thousand. Two files in sixteen are empty, eleven have up to 4 KiB, three up to 16 KiB;
 * every thousandth has up to 1 MiB. Blocks are allocated without being written.
 *
 * Room: about 6 GiB and 1.1 inodes a file for each million files. Names and sizes come from a fixed seed; where things
 * lie on the disk does not, since several threads write: each makes one top directory after another.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TOPS 24
#define THREADS 4
#define SEED 0x6b736861726564ull
#define PATH_BYTES 4096

static const char *program;
static int root;
static unsigned long nr_files, nr_dirs;
static unsigned int next_top;
static bool sparse;

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", program, what, strerror(errno));
	exit(EXIT_FAILURE);
}

/* splitmix64 */
static uint64_t draw(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static unsigned long draw_below(uint64_t *state, unsigned long n)
{
	return (unsigned long)((unsigned __int128)draw(state) * n >> 64);
}

/* What the top directories before the k-th have of @n. */
static unsigned long share_before(unsigned int k, unsigned long n)
{
	double all = 0, before = 0;

	for (unsigned int i = 0; i < TOPS; i++) {
		all += 1.0 / (i + 1);
		before += i < k ? 1.0 / (i + 1) : 0;
	}
	return k == TOPS ? n : (unsigned long)((double)n * before / all);
}

static unsigned long draw_size(uint64_t *state)
{
	uint64_t kind = draw(state);

	if (kind >> 4 & 1023)
		return (kind & 15) < 2     ? 0
			: (kind & 15) < 13 ? 1 + draw_below(state, 4096)
					   : 1 + draw_below(state, 16384);
	return 1 + draw_below(state, 1 << 20);
}

static void make_file(int dir, unsigned long i, uint64_t *state)
{
	static const char *const kinds[] = {
		"o", "txt", "conf", "cache", "json", "c", "log", "data"
	};
	unsigned long size = draw_size(state);
	char name[64];
	int fd;

	snprintf(name, sizeof(name), "file-%lu-%04x.%s", i, (unsigned int)draw(state) & 0xffff,
		 kinds[draw(state) & 7]);
	if (!size) {
		if (mknodat(dir, name, S_IFREG | 0644, 0) < 0)
			die(name);
		return;
	}
	fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0 ||
	    (sparse ? ftruncate(fd, (off_t)size) : posix_fallocate(fd, 0, (off_t)size)) != 0)
		die(name);
	close(fd);
}

/* The path of a directory of the k-th top directory, below DIR. */
static void path_of(char path[PATH_BYTES], unsigned int k, const uint32_t *parents, unsigned long i)
{
	char part[32], *at = path + PATH_BYTES - 1;

	*at = 0;
	for (; i; i = parents[i]) {
		int len = snprintf(part, sizeof(part), "/dir-%lu", i);

		at -= len;
		memcpy(at, part, (size_t)len);
	}
	at -= snprintf(part, sizeof(part), "top-%02u", k);
	memcpy(at, part, strlen(part));
	memmove(path, at, strlen(at) + 1);
}

static void make_top(unsigned int k)
{
	unsigned long files = share_before(k + 1, nr_files) - share_before(k, nr_files);
	unsigned long dirs = share_before(k + 1, nr_dirs) - share_before(k, nr_dirs);
	uint32_t *parents = calloc(dirs, sizeof(*parents)), *counts = calloc(dirs, sizeof(*counts));
	uint64_t state = SEED + k;
	unsigned long made = 0;
	char path[PATH_BYTES];

	if (!parents || !counts)
		die("memory");
	for (unsigned long i = 1; i < dirs; i++)
		parents[i] = (uint32_t)draw_below(&state, i);
	for (unsigned long i = 0; i < files; i++)
		counts[draw_below(&state, draw_below(&state, dirs) + 1)]++;
	for (unsigned long i = 0; i < dirs; i++) {
		int fd;

		path_of(path, k, parents, i);
		if (mkdirat(root, path, 0755) < 0)
			die(path);
		fd = openat(root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			die(path);
		for (uint32_t n = counts[i]; n; n--)
			make_file(fd, made++, &state);
		close(fd);
	}
	free(parents);
	free(counts);
}

static void *make_tops(void *arg)
{
	unsigned int k;

	while ((k = __atomic_fetch_add(&next_top, 1, __ATOMIC_RELAXED)) < TOPS)
		make_top(k);
	return arg;
}

/* @fd is closed. */
static void empty(int fd)
{
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *d;

	if (!dir)
		die("opening a directory to remove it");
	while ((d = readdir(dir))) {
		if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, ".."))
			continue;
		if (d->d_type == DT_DIR)
			empty(openat(fd, d->d_name,
				     O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
		if (unlinkat(fd, d->d_name, d->d_type == DT_DIR ? AT_REMOVEDIR : 0) < 0)
			die(d->d_name);
	}
	closedir(dir);
}

static void *remove_tops(void *arg)
{
	unsigned int k;

	while ((k = __atomic_fetch_add(&next_top, 1, __ATOMIC_RELAXED)) < TOPS) {
		char name[16];
		int fd;

		snprintf(name, sizeof(name), "top-%02u", k);
		fd = openat(root, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0 && errno == ENOENT) /* it was not made completely */
			continue;
		empty(fd);
		if (unlinkat(root, name, AT_REMOVEDIR) < 0)
			die(name);
	}
	return arg;
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];
	bool make;

	program = argv[0];
	sparse = argc == 5 && !strcmp(argv[1], "make-sparse");
	make = sparse || (argc == 5 && !strcmp(argv[1], "make"));
	if (!make && (argc != 3 || strcmp(argv[1], "remove") != 0)) {
		fprintf(stderr, "usage: %s make|make-sparse DIR FILES DIRS | remove DIR\n",
			program);
		return 2;
	}
	if (make) {
		nr_files = strtoul(argv[3], NULL, 10);
		nr_dirs = strtoul(argv[4], NULL, 10);
		if (nr_dirs < 1000 || nr_files < 1 || nr_dirs > UINT32_MAX ||
		    nr_files > UINT32_MAX) {
			fprintf(stderr, "%s: at least 1000 directories and 1 file\n", program);
			return 2;
		}
		if (mkdir(argv[2], 0755) < 0)
			die(argv[2]);
	}
	root = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		die(argv[2]);
	for (int i = 0; i < THREADS; i++)
		if ((errno = pthread_create(&threads[i], NULL, make ? make_tops : remove_tops,
					    NULL)))
			die("pthread_create");
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	if (make ? syncfs(root) : rmdir(argv[2]))
		die(argv[2]);
	return 0;
}
