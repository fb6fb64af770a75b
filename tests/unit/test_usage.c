// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_usage.c - what fills a directory: what is counted, and for which entry, whatever the threads and the tree do.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "usage_fixture.h"
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#define ALL .depth = UINT32_MAX
#define PAGE 4096u

static const unsigned int THREADS[] = { 1, 2, 8, 32 };

static void test_an_empty_directory(void **state)
{
	struct usage_result r = count(".", (struct usage_options){ ALL });

	assert_int_equal(r.nr_items, 0);
	assert_int_equal(r.nr_entries, 0);
	assert_int_equal(r.total.count, 1);
	assert_int_equal(r.nr_errors, 0);
	usage_free(NULL, &r);
}

static void test_what_is_no_directory_is_refused(void **state)
{
	struct usage_options o = { .top = 1, ALL };
	struct usage *u = NULL;

	file("f", 1);
	assert_int_equal(usage_new(&u, "f", &o), -ENOTDIR);
	assert_int_equal(usage_new(&u, "missing", &o), -ENOENT);
	assert_int_equal(usage_new(&u, "", &o), -ENOENT);
	o.top = 0;
	assert_int_equal(usage_new(&u, ".", &o), -EINVAL);
	assert_null(u);
}

static void test_the_largest_first_and_equals_by_name(void **state)
{
	struct usage_result r;

	file("small", 1);
	file("b", 5 * PAGE);
	file("a", 5 * PAGE);
	dir("dir");
	file("dir/x", 3 * PAGE);
	dir("dir/deeper");
	file("dir/deeper/y", 7 * PAGE);
	r = count(".", (struct usage_options){ ALL, .top = 3 });
	assert_int_equal(r.nr_items, 3);
	assert_string_equal(r.items[0].name, "dir");
	assert_int_equal(r.items[0].sum.disk, 10 * PAGE);
	assert_int_equal(r.items[0].sum.count, 4);
	assert_int_equal(r.items[0].mode & S_IFMT, S_IFDIR);
	assert_string_equal(r.items[1].name, "a");
	assert_string_equal(r.items[2].name, "b");
	assert_int_equal(r.total.disk, 21 * PAGE);
	assert_int_equal(r.total.count, 8);
	assert_int_equal(r.nr_entries, 4);
	usage_free(NULL, &r);
	r = count(".", (struct usage_options){ ALL, .top = 1 });
	assert_int_equal(r.nr_items, 1);
	usage_free(NULL, &r);
	r = count(".", (struct usage_options){ ALL, .top = 1000000, .by = USAGE_COUNT });
	assert_int_equal(r.nr_items, 4);
	assert_string_equal(r.items[3].name, "small");
	usage_free(NULL, &r);
}

static void test_depth(void **state)
{
	const uint64_t expected[] = { 0, 3, 10, 10 };

	dir("dir");
	file("dir/x", 3 * PAGE);
	dir("dir/deeper");
	file("dir/deeper/y", 7 * PAGE);
	for (uint32_t depth = 0; depth < 4; depth++) {
		struct usage_result r = count(".", (struct usage_options){ .depth = depth });

		assert_int_equal(r.nr_items, 1);
		assert_int_equal(r.items[0].sum.disk, expected[depth] * PAGE);
		usage_free(NULL, &r);
	}
}

static void test_excludes(void **state)
{
	const char *const by_name[] = { "*.o", NULL },
			  *const by_path[] = { "d/sub", "d/[ab]*", NULL };
	struct usage_result r;

	dir("d");
	dir("d/sub");
	file("d/sub/x", PAGE);
	file("d/a1", PAGE);
	file("d/c.o", PAGE);
	file("a1", PAGE);
	r = count(".", (struct usage_options){ ALL, .excludes = by_name });
	assert_int_equal(r.total.disk, 3 * PAGE);
	usage_free(NULL, &r);
	r = count(".", (struct usage_options){ ALL, .excludes = by_path });
	assert_int_equal(r.total.disk, 2 * PAGE);
	assert_int_equal(item(&r, "d")->sum.disk, PAGE);
	usage_free(NULL, &r);
}

static void test_sparse_files_and_special_ones(void **state)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "socket" };
	int fd = open("sparse", O_CREAT | O_WRONLY | O_CLOEXEC, 0644),
	    s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct usage_result r;

	assert_int_equal(ftruncate(fd, 1LL << 40), 0);
	assert_int_equal(pwrite(fd, "x", 1, 1LL << 30), 1);
	close(fd);
	assert_int_equal(mkfifo("fifo", 0644), 0);
	assert_int_equal(bind(s, (struct sockaddr *)&name, sizeof(name)), 0);
	close(s);
	assert_int_equal(symlink("/", "link"), 0);
	assert_int_equal(symlink(".", "self"), 0);
	r = count(".", (struct usage_options){ ALL });
	assert_string_equal(r.items[0].name, "sparse");
	assert_int_equal(r.items[0].sum.disk, PAGE);
	assert_int_equal(r.items[0].sum.apparent, 1LL << 40);
	assert_int_equal(r.total.count, 6);
	assert_int_equal(r.nr_errors, 0);
	usage_free(NULL, &r);
}

static void test_hard_links_count_for_the_first_name(void **state)
{
	struct usage_result first = { 0 }, r;
	char a[64], b[64];

	for (int i = 0; i < 40; i++) {
		snprintf(a, sizeof(a), "d%02d", i);
		dir(a);
		snprintf(a, sizeof(a), "d%02d/sub", i);
		dir(a);
	}
	/* File i has names below i, i + 7 and so on, made in different orders, and two below the last. */
	for (int i = 0; i < 40; i++) {
		snprintf(a, sizeof(a), "d%02d/sub/own%d", i % 2 ? i : 39, i);
		file(a, PAGE * (size_t)(i + 1));
		for (int k = i; k < 40; k += 7) {
			snprintf(b, sizeof(b), "d%02d/f%d", k, i);
			assert_int_equal(link(a, b), 0);
		}
	}
	/* Not a single byte is left for z: it counts for d03; a, which comes before all, has it all. */
	assert_int_equal(link("d03/f3", "z"), 0);
	assert_int_equal(link("d05/f5", "a"), 0);
	for (size_t i = 0; i < 4; i++)
		for (int again = 0; again < 5; again++) {
			r = count(".",
				  (struct usage_options){ ALL, .threads = THREADS[i], .top = 100 });
			if (!first.nr_items)
				first = r;
			assert_same(&first, &r);
			if (r.items != first.items)
				usage_free(NULL, &r);
		}
	for (int i = 0; i < 40; i++) {
		snprintf(a, sizeof(a), "d%02d", i);
		assert_int_equal(item(&first, a)->sum.disk, i == 5 ? 0 : PAGE * (i + 1));
	}
	assert_null(item(&first, "z"));
	assert_int_equal(item(&first, "a")->sum.disk, 6 * PAGE);
	assert_int_equal(first.total.disk, PAGE * 40 * 41 / 2);
	assert_int_equal(first.total.count, 1 + 40 + 40 + 40);
	usage_free(NULL, &first);
}

static void test_links_with_names_elsewhere_count_once(void **state)
{
	struct usage_result r;

	dir("in");
	dir("in/b");
	dir("in/c");
	file("outside", PAGE);
	assert_int_equal(link("outside", "in/c/x"), 0);
	assert_int_equal(link("outside", "in/b/x"), 0);
	assert_int_equal(link("outside", "in/b/y"), 0);
	r = count("in", (struct usage_options){ ALL });
	assert_int_equal(item(&r, "b")->sum.disk, PAGE);
	assert_int_equal(item(&r, "c")->sum.disk, 0);
	assert_int_equal(r.total.count, 4);
	usage_free(NULL, &r);
}

static void test_what_belongs_to_somebody(void **state)
{
	const struct usage_owner owners[] = {
		{ .what = USAGE_OF_USER, .id = 7 },
		{ .what = USAGE_OF_GROUP, .id = 8 },
		{ .what = USAGE_OF_ALL },
		{ .what = USAGE_OF_USER, .id = 9 },
	};
	struct usage_options o = { ALL, .nr_owners = 4 };
	struct usage_result r;

	if (chown(".", 0, 8) < 0)
		skip(); /* in a user namespace there is nobody else */
	memcpy(o.owners, owners, sizeof(owners));
	dir("d");
	dir("d/other");
	file("d/both", 3 * PAGE);
	assert_int_equal(chown("d/both", 7, 8), 0);
	assert_int_equal(link("d/both", "again"), 0);
	file("d/user", 5 * PAGE);
	assert_int_equal(chown("d/user", 7, 0), 0);
	file("root", PAGE);
	/* A quota is one file system's. */
	assert_int_equal(mount("test", "d/other", "tmpfs", 0, "mode=755"), 0);
	file("d/other/f", 9 * PAGE);
	assert_int_equal(chown("d/other/f", 7, 8), 0);
	for (size_t i = 0; i < 4; i++) {
		o.threads = THREADS[i];
		r = count(".", o);
		assert_int_equal(r.owned[0].disk, 8 * PAGE);
		assert_int_equal(r.owned[0].count, 2);
		assert_int_equal(r.owned[1].disk, 3 * PAGE);
		assert_int_equal(r.owned[1].count, 2); /* with the directory itself */
		assert_int_equal(r.owned[2].disk, 9 * PAGE);
		assert_int_equal(r.owned[2].count, 5);
		assert_int_equal(r.owned[3].count, 0);
		assert_int_equal(r.total.disk, 18 * PAGE);
		usage_free(NULL, &r);
	}
}

static void test_the_largest_files_anywhere(void **state)
{
	struct usage_result r;

	dir("d");
	dir("d/e");
	file("d/e/big", 9 * PAGE);
	file("d/tie2", 5 * PAGE);
	file("tie1", 5 * PAGE);
	file("small", PAGE);
	file("d/linked", 7 * PAGE);
	assert_int_equal(link("d/linked", "zzz"), 0);
	assert_int_equal(link("d/linked", "d/e/linked"), 0);
	for (size_t i = 0; i < 4; i++) {
		r = count(".",
			  (struct usage_options){ ALL, .files = true, .top = 4,
						  .threads = THREADS[i] });
		assert_int_equal(r.nr_items, 4);
		assert_string_equal(r.items[0].name, "d/e/big");
		assert_string_equal(r.items[1].name, "d/e/linked");
		assert_string_equal(r.items[2].name, "d/tie2");
		assert_string_equal(r.items[3].name, "tie1");
		assert_int_equal(r.total.disk, 27 * PAGE);
		usage_free(NULL, &r);
	}
	r = count(".", (struct usage_options){ ALL, .files = true, .top = 1000 });
	assert_int_equal(r.nr_items, 5);
	usage_free(NULL, &r);
}

static void test_odd_names(void **state)
{
	char longest[256];
	const char *names[] = { "new\nline", "\033[31m", "\377\376", " ", "-rf",
				longest,     "...",      "a\tb\\",   "*" };
	struct usage_result r;

	memset(longest, 'n', 255);
	longest[255] = 0;
	for (size_t i = 0; i < 9; i++)
		file(names[i], PAGE * (i + 1));
	r = count(".", (struct usage_options){ ALL });
	assert_int_equal(r.nr_items, 9);
	for (size_t i = 0; i < 9; i++)
		assert_string_equal(r.items[8 - i].name, names[i]);
	usage_free(NULL, &r);
}

/* A chain of directories with names of @len bytes, a file of a page in each and at the end a directory of two. */
static void chain(int levels, size_t len)
{
	int fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), next;
	char name[256];

	memset(name, 'd', len);
	name[len] = 0;
	for (int i = 0; i < levels; i++) {
		assert_int_equal(mkdirat(fd, name, 0755), 0);
		next = openat(fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		close(fd);
		fd = next;
		next = openat(fd, "f", O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
		assert_int_equal(write(next, "x", 1), 1);
		close(next);
		assert_int_equal(mkdirat(fd, "side", 0755), 0);
	}
	close(fd);
}

static void count_chain_with(rlim_t nr_fds, uint64_t levels)
{
	struct rlimit l;

	CHECK(getrlimit(RLIMIT_NOFILE, &l) == 0);
	l.rlim_cur = nr_fds;
	CHECK(setrlimit(RLIMIT_NOFILE, &l) == 0);
	for (size_t i = 0; i < 4; i++) {
		struct usage_options o = { ALL, .top = 10, .threads = THREADS[i] };
		struct usage_result r;
		struct usage *u;

		CHECK(usage_new(&u, ".", &o) == 0);
		CHECK(usage_run(u, &r) == 0);
		CHECK(r.nr_errors == 0 && r.nr_vanished == 0);
		CHECK(r.total.count == 1 + 3 * levels);
		CHECK(r.total.disk == PAGE * levels);
		CHECK(r.nr_items == 1 && r.items[0].sum.disk == r.total.disk);
		usage_free(u, &r);
	}
}

static void deep_with_many_fds(void)
{
	count_chain_with(1024, 5000 / slow());
}

static void deep_with_few_fds(void)
{
	count_chain_with(64, 5000 / slow());
}

static void test_5000_levels(void **state)
{
	chain(5000 / (int)slow(), 1);
	apart(deep_with_many_fds);
	apart(deep_with_few_fds);
}

static void long_with_many_fds(void)
{
	count_chain_with(1024, 300);
}

static void long_with_few_fds(void)
{
	count_chain_with(32, 300);
}

static void test_paths_beyond_PATH_MAX(void **state)
{
	chain(300, 255);
	apart(long_with_many_fds);
	apart(long_with_few_fds);
}

static void wide_and_deep_with_few_fds(void)
{
	struct usage_options o = { ALL, .top = 10, .threads = 2 };
	struct usage_result r;
	struct usage *u;
	struct rlimit l;

	CHECK(getrlimit(RLIMIT_NOFILE, &l) == 0);
	l.rlim_cur = 64;
	CHECK(setrlimit(RLIMIT_NOFILE, &l) == 0);
	CHECK(usage_new(&u, ".", &o) == 0);
	CHECK(usage_run(u, &r) == 0);
	CHECK(r.nr_errors == 0 && r.nr_vanished == 0);
	CHECK(r.total.count == 1 + 150 * 21);
	usage_free(u, &r);
}

static void test_many_directories_at_every_level_of_a_deep_tree(void **state)
{
	int fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), next;
	char name[16];

	for (int i = 0; i < 150; i++) {
		for (int k = 0; k < 20; k++) {
			snprintf(name, sizeof(name), "side%d", k);
			assert_int_equal(mkdirat(fd, name, 0755), 0);
		}
		assert_int_equal(mkdirat(fd, "down", 0755), 0);
		next = openat(fd, "down", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		close(fd);
		fd = next;
	}
	close(fd);
	apart(wide_and_deep_with_few_fds);
}

/* Whatever the limit is, it is complete or says that it is not. */
static void hardly_any_fds(void)
{
	struct usage_options o = { ALL, .top = 10 };

	for (rlim_t n = 0; n < 40; n++) {
		struct usage_result r;
		struct usage *u;
		struct rlimit l;
		int status;

		CHECK(getrlimit(RLIMIT_NOFILE, &l) == 0);
		l.rlim_cur = n;
		CHECK(setrlimit(RLIMIT_NOFILE, &l) == 0);
		status = usage_new(&u, ".", &o);
		if (status < 0) {
			CHECK(status == -EMFILE);
			continue;
		}
		CHECK(usage_run(u, &r) == 0);
		CHECK(r.total.count == 1 + 3 * 50 || r.nr_errors > 0);
		CHECK(n < 32 || r.nr_errors == 0);
		for (size_t i = 0; i < USAGE_ERRORS && i < r.nr_errors; i++)
			CHECK(r.errors[i].err == EMFILE);
		usage_free(u, &r);
	}
}

static void test_too_few_descriptors_are_told(void **state)
{
	chain(50, 3);
	apart(hardly_any_fds);
}

static void test_very_many_files_in_one_directory(void **state)
{
	const unsigned int n = 1000000 / slow();
	struct usage_result r;
	char name[32];

	dir("wide");
	for (unsigned int i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "wide/%u", i);
		assert_int_equal(mknod(name, S_IFREG | 0644, 0), 0);
	}
	r = count(".", (struct usage_options){ ALL });
	assert_int_equal(r.total.count, n + 2);
	usage_free(NULL, &r);
	r = count("wide", (struct usage_options){ ALL, .by = USAGE_COUNT });
	assert_int_equal(r.nr_entries, n);
	assert_int_equal(r.total.count, n + 1);
	assert_string_equal(r.items[4].name, "1000");
	usage_free(NULL, &r);
}

static void test_very_many_directories_in_one(void **state)
{
	const unsigned int n = 100000 / slow();
	struct usage_result r;
	char name[32];

	for (unsigned int i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "%u", i);
		dir(name);
		snprintf(name, sizeof(name), "%u/f", i);
		assert_int_equal(mknod(name, S_IFREG | 0644, 0), 0);
	}
	r = count(".", (struct usage_options){ ALL, .by = USAGE_COUNT, .top = n });
	assert_int_equal(r.total.count, 1 + 2 * n);
	assert_int_equal(r.nr_entries, n);
	assert_int_equal(r.nr_items, n);
	for (unsigned int i = 0; i < n; i++)
		assert_int_equal(r.items[i].sum.count, 2);
	assert_int_equal(r.nr_errors, 0);
	usage_free(NULL, &r);
}

static void as_nobody(void)
{
	struct usage_options o = { ALL, .top = 10 };
	struct usage_result r;
	struct usage *u;

	if (setresuid(65534, 65534, 65534) < 0)
		_exit(0); /* in a user namespace there is nobody else */
	CHECK(usage_new(&u, "closed", &o) == -EACCES);
	CHECK(usage_new(&u, ".", &o) == 0);
	CHECK(usage_run(u, &r) == 0);
	CHECK(r.nr_errors == 2 && r.nr_vanished == 0);
	for (int i = 0; i < 2; i++) {
		CHECK(r.errors[i].err == EACCES);
		if (strcmp(r.errors[i].path, "open/closed") == 0)
			CHECK(strcmp(r.errors[i].call, "open") == 0);
		else
			CHECK(strcmp(r.errors[i].path, "closed") == 0);
	}
	/* What can be seen of it counts: the directories themselves. */
	CHECK(r.total.count == 5);
	CHECK(item(&r, "open")->sum.disk == PAGE);
	CHECK(item(&r, "closed")->sum.count == 1);
	usage_free(u, &r);
}

static void test_directories_that_cannot_be_read_are_told(void **state)
{
	dir("closed");
	file("closed/f", PAGE);
	dir("open");
	file("open/f", PAGE);
	dir("open/closed");
	file("open/closed/f", PAGE);
	assert_int_equal(chmod("closed", 0700), 0);
	assert_int_equal(chmod("open/closed", 0700), 0);
	assert_int_equal(chmod(".", 0755), 0);
	apart(as_nobody);
}

static void listed_but_not_searched(void)
{
	struct usage_options o = { ALL, .top = 10 };
	struct usage_result r;
	struct usage *u;

	if (setresuid(65534, 65534, 65534) < 0)
		_exit(0);
	CHECK(usage_new(&u, ".", &o) == 0);
	CHECK(usage_run(u, &r) == 0);
	CHECK(r.nr_errors == 30);
	for (int i = 0; i < USAGE_ERRORS; i++)
		CHECK(strncmp(r.errors[i].path, "list/", 5) == 0 &&
		      strcmp(r.errors[i].call, "statx") == 0);
	usage_free(u, &r);
}

static void test_more_errors_than_are_told_are_counted(void **state)
{
	char name[32];

	dir("list");
	for (int i = 0; i < 30; i++) {
		snprintf(name, sizeof(name), "list/%d", i);
		file(name, 0);
	}
	assert_int_equal(chmod("list", 0744), 0);
	apart(listed_but_not_searched);
}

struct churn {
	pthread_t thread;
	bool stop;
	void (*once)(unsigned int i);
};

static void *churn(void *arg)
{
	struct churn *c = arg;

	for (unsigned int i = 0; !__atomic_load_n(&c->stop, __ATOMIC_RELAXED); i++)
		c->once(i);
	return NULL;
}

static void make_and_remove(unsigned int i)
{
	char name[32], inner[40];
	int fd;

	snprintf(name, sizeof(name), "moving/%u", i % 50);
	snprintf(inner, sizeof(inner), "%s/f", name);
	if (mkdir(name, 0755) < 0) {
		unlink(inner);
		rmdir(name);
		return;
	}
	fd = open(inner, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
	if (fd >= 0)
		close(fd);
}

/* A directory, and a symbolic link to all there is, in one place by turns. */
static void replace(unsigned int i)
{
	renameat2(AT_FDCWD, "moving/dir", AT_FDCWD, "moving/link", RENAME_EXCHANGE);
}

static void grow(unsigned int i)
{
	int fd = open("moving/log", O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0644);

	if (i % 1000 == 0)
		(void)!ftruncate(fd, 0);
	(void)!write(fd, "a line\n", 7);
	close(fd);
}

static void count_while(void (*once)(unsigned int i), uint64_t most)
{
	struct churn c = { .once = once };

	dir("fixed");
	file("fixed/f", 100 * PAGE);
	dir("moving");
	dir("moving/dir");
	file("moving/dir/x", PAGE);
	assert_int_equal(symlink("/", "moving/link"), 0);
	assert_int_equal(pthread_create(&c.thread, NULL, churn, &c), 0);
	for (int i = 0; i < 200 / (int)slow(); i++) {
		struct usage_result r =
			count(".", (struct usage_options){ ALL, .threads = THREADS[i % 4] });

		assert_int_equal(r.nr_errors, 0);
		assert_int_equal(item(&r, "fixed")->sum.disk, 100 * PAGE);
		assert_in_range(r.total.count, 4, most);
		usage_free(NULL, &r);
	}
	__atomic_store_n(&c.stop, true, __ATOMIC_RELAXED);
	pthread_join(c.thread, NULL);
}

static void test_entries_that_come_and_go(void **state)
{
	count_while(make_and_remove, 300);
}

static void test_a_directory_replaced_by_a_symlink_is_not_left(void **state)
{
	count_while(replace, 9);
}

static void test_a_file_that_grows(void **state)
{
	count_while(grow, 9);
}

static void bind_mount(const char *from, const char *to, unsigned long flags)
{
	assert_int_equal(mount(from, to, "none", MS_BIND | flags, ""), 0);
}

static bool was_skipped(const struct usage_result *r, const char *path)
{
	for (size_t i = 0; i < r->nr_skipped; i++)
		if (strcmp(r->skipped[i], path) == 0)
			return true;
	return false;
}

static void test_bind_mounts_count_once(void **state)
{
	struct usage_result r;

	dir("t");
	dir("t/data");
	file("t/data/f", 10 * PAGE);
	dir("outside");
	file("outside/f", 3 * PAGE);
	dir("t/again"); /* a part of the directory, again */
	dir("t/above"); /* all of it, and what is around it */
	dir("t/o1"); /* outside, twice */
	dir("t/o2");
	dir("t/data/deep"); /* the directory in itself */
	file("t/file", 0); /* a file, again */
	bind_mount("t/data", "t/again", 0);
	bind_mount(".", "t/above", 0);
	bind_mount("outside", "t/o1", 0);
	bind_mount("outside", "t/o2", 0);
	bind_mount("t", "t/data/deep", MS_REC);
	bind_mount("t/data/f", "t/file", 0);
	for (size_t i = 0; i < 4; i++) {
		r = count("t", (struct usage_options){ ALL, .threads = THREADS[i] });
		assert_int_equal(r.total.disk, 13 * PAGE);
		/* What is around it shows all that is outside; but not the directory once more. */
		assert_int_equal(item(&r, "above")->sum.disk, 3 * PAGE);
		assert_null(item(&r, "o1"));
		assert_null(item(&r, "o2"));
		assert_int_equal(r.nr_skipped, 6);
		assert_true(was_skipped(&r, "again") && was_skipped(&r, "above/t") &&
			    was_skipped(&r, "o1") && was_skipped(&r, "o2"));
		assert_true(was_skipped(&r, "data/deep") && was_skipped(&r, "file"));
		usage_free(NULL, &r);
		/* What is not gone into elsewhere is not counted there. */
		r = count("t",
			  (struct usage_options){
				  .depth = 0, .threads = THREADS[i], .by = USAGE_COUNT });
		assert_int_equal(r.total.count, 5); /* itself, data, o1, above, file */
		assert_int_equal(r.nr_skipped, 2);
		usage_free(NULL, &r);
	}
}

static void test_what_contains_counts_rather_than_what_is_contained(void **state)
{
	dir("t");
	dir("t/a"); /* comes first by name */
	dir("t/b");
	dir("outside");
	dir("outside/small");
	file("outside/small/f", 2 * PAGE);
	file("outside/large", 9 * PAGE);
	bind_mount("outside/small", "t/a", 0);
	bind_mount("outside", "t/b", 0);
	for (size_t i = 0; i < 4; i++) {
		struct usage_result r =
			count("t", (struct usage_options){ ALL, .threads = THREADS[i] });

		assert_int_equal(r.total.disk, 11 * PAGE);
		assert_int_equal(r.nr_skipped, 1);
		assert_string_equal(r.skipped[0], "a");
		usage_free(NULL, &r);
	}
}

static void test_a_bind_mount_whose_original_is_not_counted_is(void **state)
{
	static const char *const excludes[] = { "a", NULL }, *const paths[] = { "x/*", NULL };
	struct usage_result r;

	dir("t");
	dir("t/a");
	file("t/a/f", 5 * PAGE);
	dir("t/m");
	bind_mount("t/a", "t/m", 0);
	r = count("t", (struct usage_options){ ALL, .excludes = excludes });
	assert_int_equal(r.total.disk, 5 * PAGE);
	assert_int_equal(r.nr_skipped, 0);
	usage_free(NULL, &r);
	/* On top of it there is what shows nothing again. */
	assert_int_equal(mount("test", "t/m", "tmpfs", 0, "mode=755"), 0);
	file("t/m/f", 7 * PAGE);
	r = count("t", (struct usage_options){ ALL });
	assert_int_equal(r.total.disk, 12 * PAGE);
	assert_int_equal(r.nr_skipped, 0);
	usage_free(NULL, &r);
	/* Too deep, or excluded by a path. */
	dir("u");
	dir("u/x");
	dir("u/x/y");
	dir("u/x/y/a");
	file("u/x/y/a/f", 3 * PAGE);
	dir("u/m");
	bind_mount("u/x/y/a", "u/m", 0);
	r = count("u", (struct usage_options){ .depth = 2 });
	assert_int_equal(r.total.disk, 3 * PAGE);
	usage_free(NULL, &r);
	r = count("u", (struct usage_options){ ALL, .excludes = paths });
	assert_int_equal(r.total.disk, 3 * PAGE);
	usage_free(NULL, &r);
	r = count("u", (struct usage_options){ ALL });
	assert_int_equal(r.total.disk, 3 * PAGE);
	assert_int_equal(r.nr_skipped, 1);
	usage_free(NULL, &r);
	/* Hidden under a mount; also under itself. */
	dir("v");
	dir("v/a");
	dir("v/a/sub");
	file("v/a/sub/f", 9 * PAGE);
	dir("v/o");
	dir("v/self");
	file("v/self/f", PAGE);
	bind_mount("v/a/sub", "v/o", 0);
	bind_mount("v/self", "v/self", 0);
	assert_int_equal(mount("test", "v/a", "tmpfs", 0, "mode=755"), 0);
	r = count("v", (struct usage_options){ ALL });
	assert_int_equal(r.total.disk, 10 * PAGE);
	assert_int_equal(r.nr_skipped, 0);
	usage_free(NULL, &r);
}

static void test_a_mount_on_one_that_shows_the_same_again(void **state)
{
	struct usage_result r;

	dir("t");
	dir("t/a");
	dir("t/a/other");
	assert_int_equal(mount("test", "t/a/other", "tmpfs", 0, "mode=755"), 0);
	file("t/a/other/f", 5 * PAGE);
	file("t/a/f", 2 * PAGE);
	dir("t/m");
	bind_mount("t/a", "t/m", MS_REC);
	r = count("t", (struct usage_options){ ALL });
	assert_int_equal(r.total.disk, 7 * PAGE);
	assert_int_equal(r.nr_skipped, 1);
	usage_free(NULL, &r);
	/* Counted nowhere else: what the mount that it is on shows is left out, but for that. */
	assert_int_equal(mount("test", "t/m/other", "tmpfs", 0, "mode=755"), 0);
	file("t/m/other/f", 11 * PAGE);
	r = count("t", (struct usage_options){ ALL });
	assert_int_equal(r.total.disk, (7 + 11) * PAGE);
	assert_int_equal(item(&r, "m")->sum.disk, 11 * PAGE);
	assert_int_equal(r.nr_skipped, 1);
	assert_string_equal(r.skipped[0], "m");
	usage_free(NULL, &r);
}

static void test_sums_stay_at_the_largest_number(void **state)
{
	/* tmpfs alone takes such sizes. */
	dir("big");
	assert_int_equal(mount("test", "big", "tmpfs", 0, "mode=755"), 0);
	dir("big/s");
	for (int i = 0; i < 3; i++) {
		char name[] = "big/s/0";
		int fd;

		name[6] += (char)i;
		fd = open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
		assert_true(fd >= 0);
		assert_int_equal(ftruncate(fd, INT64_MAX), 0);
		close(fd);
	}
	for (size_t i = 0; i < 4; i++) {
		struct usage_result r = count(
			"big",
			(struct usage_options){ ALL, .by = USAGE_APPARENT, .threads = THREADS[i] });

		assert_true(r.total.apparent == UINT64_MAX);
		assert_true(item(&r, "s")->sum.apparent == UINT64_MAX);
		assert_int_equal(r.total.count, 5);
		usage_free(NULL, &r);
	}
}

static void test_other_file_systems(void **state)
{
	struct usage_result r;

	dir("d");
	dir("d/other");
	file("d/f", PAGE);
	assert_int_equal(mount("test", "d/other", "tmpfs", 0, "mode=755"), 0);
	file("d/other/f", 5 * PAGE);
	r = count(".", (struct usage_options){ ALL });
	assert_int_equal(r.total.disk, 6 * PAGE);
	usage_free(NULL, &r);
	r = count(".", (struct usage_options){ ALL, .one_fs = true });
	assert_int_equal(r.total.disk, PAGE);
	assert_int_equal(r.total.count, 3);
	assert_int_equal(r.nr_skipped, 0);
	usage_free(NULL, &r);
	r = count("d", (struct usage_options){ .depth = 0, .one_fs = true });
	assert_int_equal(r.total.count, 2);
	usage_free(NULL, &r);
}

static void test_a_hidden_mount_does_not_count(void **state)
{
	struct usage_result r;

	dir("outside");
	file("outside/f", 3 * PAGE);
	dir("t");
	dir("t/a");
	dir("t/b");
	dir("t/c");
	dir("t/c/d");
	bind_mount("outside", "t/a", 0);
	assert_int_equal(mount("test", "t/a", "tmpfs", 0, ""), 0); /* on top of it */
	bind_mount("outside", "t/c/d", 0);
	assert_int_equal(mount("test", "t/c", "tmpfs", 0, ""), 0); /* on what it is in */
	bind_mount("outside", "t/b", 0);
	r = count("t", (struct usage_options){ ALL });
	assert_int_equal(r.total.disk, 3 * PAGE);
	assert_int_equal(r.nr_skipped, 0);
	usage_free(NULL, &r);
	bind_mount("outside", "t/c", 0);
	r = count("t", (struct usage_options){ ALL });
	assert_int_equal(r.total.disk, 3 * PAGE);
	assert_int_equal(r.nr_skipped, 1);
	assert_string_equal(r.skipped[0], "c");
	usage_free(NULL, &r);
}

static void without_threads(void)
{
	struct usage_options o = { ALL, .top = 10 };
	struct rlimit l = { 1, 1 };
	struct usage_result r;
	struct usage *u;

	CHECK(setrlimit(RLIMIT_NPROC, &l) == 0);
	if (setresuid(65534, 65534, 65534) < 0)
		_exit(0);
	CHECK(usage_new(&u, ".", &o) == 0);
	CHECK(usage_run(u, &r) == -EAGAIN);
	usage_free(u, &r);
}

static void test_no_thread_can_be_started(void **state)
{
	apart(without_threads);
}

static void *stop_soon(void *u)
{
	while (usage_progress(u).count < 100)
		sched_yield();
	usage_stop(u);
	return NULL;
}

static void test_stopped_in_the_middle(void **state)
{
	struct usage_options o = { ALL, .top = 1 };
	struct usage_result r;
	pthread_t thread;
	struct usage *u;
	char name[32];

	for (int i = 0; i < 20000; i++) {
		snprintf(name, sizeof(name), i % 100 ? "%d/%d" : "%d", i / 100, i % 100);
		dir(name);
	}
	assert_int_equal(usage_new(&u, ".", &o), 0);
	assert_int_equal(pthread_create(&thread, NULL, stop_soon, u), 0);
	assert_int_equal(usage_run(u, &r), 0);
	pthread_join(thread, NULL);
	assert_true(r.stopped);
	assert_in_range(r.total.count, 1, 20001);
	usage_free(u, &r);
	/* Before it has begun. */
	assert_int_equal(usage_new(&u, ".", &o), 0);
	usage_stop(u);
	assert_int_equal(usage_run(u, &r), 0);
	assert_true(r.stopped);
	assert_int_equal(r.total.count, 0);
	usage_free(u, &r);
}

/* A FUSE server that tells what the first directory is, and never answers when it is to be opened. */
static void serve(int device, int opened)
{
	static uint64_t request[1 << 17], answer[64];
	const uint32_t *in = (const uint32_t *)request;
	uint32_t *out = (uint32_t *)answer;

	while (read(device, request, sizeof(request)) > 0) {
		size_t len = 0;

		memset(answer, 0, sizeof(answer));
		if (in[1] == 26) { /* INIT: version 7.31 */
			out[4] = 7;
			out[5] = 31;
			out[9] = PAGE; /* max_write */
			len = 64;
		} else if (in[1] == 3) { /* GETATTR */
			out[4 + 4 + 15] = S_IFDIR | 0755;
			out[4 + 4 + 16] = 1;
			answer[2 + 2] = 1; /* inode */
			len = 104;
		} else {
			(void)!write(opened, "x", 1);
			continue;
		}
		out[0] = (uint32_t)(16 + len);
		out[1] = 0;
		answer[1] = request[1];
		(void)!write(device, answer, 16 + len);
	}
	_exit(0);
}

struct when_it_hangs {
	struct usage *u;
	int opened;
	struct timespec stopped;
};

static void *stop_when_it_hangs(void *arg)
{
	struct when_it_hangs *h = arg;
	char c;

	assert_int_equal(read(h->opened, &c, 1), 1);
	clock_gettime(CLOCK_MONOTONIC, &h->stopped);
	usage_stop(h->u);
	return NULL;
}

static unsigned int nr_threads(void)
{
	char line[128];
	unsigned int n = 0;
	FILE *f = fopen("/proc/self/status", "re");

	while (fgets(line, sizeof(line), f))
		sscanf(line, "Threads: %u", &n);
	fclose(f);
	return n;
}

static void test_a_file_system_that_does_not_answer(void **state)
{
	int device = open("/dev/fuse", O_RDWR | O_CLOEXEC), opened[2];
	struct usage_options o = { ALL, .top = 1 };
	unsigned int before = nr_threads();
	struct when_it_hangs h = { 0 };
	struct usage_result r;
	struct timespec now;
	pthread_t thread;
	char options[128];
	double seconds;
	pid_t pid;

	if (device < 0)
		skip();
	dir("hung");
	file("f", PAGE);
	assert_int_equal(pipe(opened), 0);
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", device);
	assert_int_equal(mount("hung", "hung", "fuse", 0, options), 0);
	pid = fork();
	if (pid == 0)
		serve(device, opened[1]);
	close(device);
	assert_int_equal(usage_new(&h.u, ".", &o), 0);
	h.opened = opened[0];
	assert_int_equal(pthread_create(&thread, NULL, stop_when_it_hangs, &h), 0);
	assert_int_equal(usage_run(h.u, &r), 0);
	clock_gettime(CLOCK_MONOTONIC, &now);
	pthread_join(thread, NULL);
	seconds = (double)(now.tv_sec - h.stopped.tv_sec) +
		(double)(now.tv_nsec - h.stopped.tv_nsec) / 1e9;
	assert_true(seconds < 4); /* a second, and what the machine is busy with */
	assert_true(r.stopped);
	assert_int_equal(item(&r, "f")->sum.disk, PAGE);
	usage_free(h.u, &r);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	/* Now that its connection has ended, the thread frees what it used, and goes. */
	while (nr_threads() > before)
		sched_yield();
	umount2("hung", MNT_DETACH);
	close(opened[0]);
	close(opened[1]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_an_empty_directory),
		TEST(test_what_is_no_directory_is_refused),
		TEST(test_the_largest_first_and_equals_by_name),
		TEST(test_depth),
		TEST(test_excludes),
		TEST(test_sparse_files_and_special_ones),
		TEST(test_hard_links_count_for_the_first_name),
		TEST(test_links_with_names_elsewhere_count_once),
		TEST(test_what_belongs_to_somebody),
		TEST(test_the_largest_files_anywhere),
		TEST(test_odd_names),
		TEST(test_5000_levels),
		TEST(test_paths_beyond_PATH_MAX),
		TEST(test_many_directories_at_every_level_of_a_deep_tree),
		TEST(test_too_few_descriptors_are_told),
		TEST(test_very_many_files_in_one_directory),
		TEST(test_very_many_directories_in_one),
		TEST(test_directories_that_cannot_be_read_are_told),
		TEST(test_more_errors_than_are_told_are_counted),
		TEST(test_entries_that_come_and_go),
		TEST(test_a_directory_replaced_by_a_symlink_is_not_left),
		TEST(test_a_file_that_grows),
		TEST(test_bind_mounts_count_once),
		TEST(test_sums_stay_at_the_largest_number),
		TEST(test_what_contains_counts_rather_than_what_is_contained),
		TEST(test_a_bind_mount_whose_original_is_not_counted_is),
		TEST(test_a_mount_on_one_that_shows_the_same_again),
		TEST(test_other_file_systems),
		TEST(test_a_hidden_mount_does_not_count),
		TEST(test_no_thread_can_be_started),
		TEST(test_stopped_in_the_middle),
		TEST(test_a_file_system_that_does_not_answer),
	};

	return cmocka_run_group_tests(tests, setup_all, NULL);
}
