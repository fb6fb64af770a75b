/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * usage_fixture.h - for the tests of engine/usage: each has an empty tmpfs as its working directory, in a mount namespace of its own.
 */
#ifndef KSHARED_TESTS_USAGE_FIXTURE_H
#define KSHARED_TESTS_USAGE_FIXTURE_H

#include <engine/usage/usage.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static char place[64];

/* What sizes are divided by: under a sanitizer, or valgrind, everything takes longer. */
static inline unsigned int slow(void)
{
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
	return 10;
#endif
	return getenv("KSHARED_TIMEOUT_SCALE") ? 10 : 1;
}

static inline void put_line(const char *path, const char *line)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd >= 0) {
		assert_int_equal(write(fd, line, strlen(line)), strlen(line));
		close(fd);
	}
}

static inline int setup_all(void **state)
{
	char map[64];

	if (unshare(CLONE_NEWNS) < 0) {
		snprintf(map, sizeof(map), "0 %u 1", geteuid());
		if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
			return -1;
		put_line("/proc/self/uid_map", map);
	}
	return mount("none", "/", "none", MS_REC | MS_PRIVATE, "");
}

static inline int setup(void **state)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(place, sizeof(place), "%s/usage-XXXXXX", tmp && strlen(tmp) < 48 ? tmp : "/tmp");
	if (!mkdtemp(place) ||
	    mount("test", place, "tmpfs", 0, "size=90%,nr_inodes=4m,mode=755") < 0)
		return -1;
	return chdir(place);
}

static inline int teardown(void **state)
{
	return chdir("/") || umount2(place, MNT_DETACH) || rmdir(place);
}

static inline void file(const char *path, size_t len)
{
	char *data = calloc(1, len + 1);
	int fd = open(path, O_CREAT | O_WRONLY | O_EXCL | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), len);
	close(fd);
	free(data);
}

static inline void dir(const char *path)
{
	assert_int_equal(mkdir(path, 0755), 0);
}

/* Count; the test fails if that does. */
static inline struct usage_result count(const char *path, struct usage_options o)
{
	struct usage_result r;
	struct usage *u;

	if (!o.top)
		o.top = 10;
	assert_int_equal(usage_new(&u, path, &o), 0);
	assert_int_equal(usage_run(u, &r), 0);
	usage_free(u, NULL);
	return r;
}

static inline const struct usage_item *item(const struct usage_result *r, const char *name)
{
	for (size_t i = 0; i < r->nr_items; i++)
		if (strcmp(r->items[i].name, name) == 0)
			return &r->items[i];
	return NULL;
}

static inline void assert_same(const struct usage_result *a, const struct usage_result *b)
{
	assert_memory_equal(&a->total, &b->total, sizeof(a->total));
	assert_int_equal(a->nr_items, b->nr_items);
	for (size_t i = 0; i < a->nr_items; i++) {
		assert_string_equal(a->items[i].name, b->items[i].name);
		assert_memory_equal(&a->items[i].sum, &b->items[i].sum, sizeof(a->items[i].sum));
	}
	assert_int_equal(a->nr_errors, b->nr_errors);
}

/* Run a part in a process of its own, which may give up rights, limits and mounts. */
static inline void apart(void (*part)(void))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		part();
		_exit(0);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* What apart() uses instead of the assertions. */
#define CHECK(x)                                                                \
	do {                                                                    \
		if (!(x)) {                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x); \
			_exit(1);                                               \
		}                                                               \
	} while (0)

#endif
