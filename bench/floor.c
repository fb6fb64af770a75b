// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * floor.c - the least that a count of a tree can cost: each directory opened and read, each entry looked at.
 *
 *	bench-floor THREADS DIR
 *
 * openat, getdents64 and statx in a loop, and one sum: no hard links, no mounts, no names kept, no errors but fatal ones. The threads share
 * one stack of directories that are to be read. Prints the bytes on disk.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define THREADS_MAX 64
#define BUFFER_BYTES (32 << 10)
#define MASK (STATX_TYPE | STATX_BLOCKS)

struct dir {
	struct dir *next;
	char path[];
};

struct entry {
	uint64_t ino;
	int64_t off;
	unsigned short reclen;
	unsigned char type;
	char name[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static struct dir *stack;
static unsigned int nr_busy, nr_waiting;
static uint64_t nr_blocks;

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "bench-floor: %s: %s\n", what, strerror(errno));
	exit(EXIT_FAILURE);
}

static uint64_t look(int fd, const char *name, int flags)
{
	struct statx st;

	if (statx(fd, name, flags, MASK, &st) < 0)
		die(name);
	return st.stx_blocks;
}

static struct dir *new_dir(const char *parent, const char *name)
{
	size_t len = strlen(parent), more = strlen(name);
	struct dir *d = malloc(sizeof(*d) + len + more + 2);

	if (!d)
		die("memory");
	memcpy(d->path, parent, len);
	d->path[len] = '/';
	memcpy(d->path + len + 1, name, more + 1);
	return d;
}

/* Return: its blocks and its files'; its sub-directories are put in a list. */
static uint64_t read_dir(const char *path, struct dir **list)
{
	static __thread unsigned char buffer[BUFFER_BYTES];
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	uint64_t blocks;
	long len;

	if (fd < 0)
		die(path);
	blocks = look(fd, "", AT_EMPTY_PATH);
	while ((len = syscall(SYS_getdents64, fd, buffer, BUFFER_BYTES)) > 0) {
		const struct entry *e;

		for (long at = 0; at < len; at += e->reclen) {
			e = (const struct entry *)(buffer + at);
			if (e->type != DT_DIR) {
				blocks += look(fd, e->name, AT_SYMLINK_NOFOLLOW);
			} else if (strcmp(e->name, ".") != 0 && strcmp(e->name, "..") != 0) {
				struct dir *d = new_dir(path, e->name);

				d->next = *list;
				*list = d;
			}
		}
	}
	if (len < 0)
		die(path);
	close(fd);
	return blocks;
}

static void *work(void *arg)
{
	uint64_t blocks = 0;

	pthread_mutex_lock(&lock);
	for (;;) {
		struct dir *d, *list = NULL, *last;

		while (!stack && nr_busy) {
			nr_waiting++;
			pthread_cond_wait(&wake, &lock);
			nr_waiting--;
		}
		if (!stack)
			break;
		d = stack;
		stack = d->next;
		nr_busy++;
		pthread_mutex_unlock(&lock);
		blocks += read_dir(d->path, &list);
		free(d);
		for (last = list; last && last->next; last = last->next)
			;
		pthread_mutex_lock(&lock);
		nr_busy--;
		if (list) {
			last->next = stack;
			stack = list;
		}
		if (nr_waiting && (list || !nr_busy))
			pthread_cond_broadcast(&wake);
	}
	nr_blocks += blocks;
	pthread_mutex_unlock(&lock);
	return arg;
}

int main(int argc, char **argv)
{
	unsigned int nr_threads = argc == 3 ? (unsigned int)atoi(argv[1]) : 0;
	pthread_t threads[THREADS_MAX];

	if (nr_threads < 1 || nr_threads > THREADS_MAX) {
		fprintf(stderr, "usage: %s THREADS DIR\n", argv[0]);
		return 2;
	}
	stack = new_dir(argv[2], ".");
	stack->next = NULL;
	for (unsigned int i = 1; i < nr_threads; i++)
		if ((errno = pthread_create(&threads[i], NULL, work, NULL)))
			die("pthread_create");
	work(NULL);
	for (unsigned int i = 1; i < nr_threads; i++)
		pthread_join(threads[i], NULL);
	printf("%llu\n", (unsigned long long)nr_blocks * 512);
	return 0;
}
