// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_top_room.c - which quotas `folder top` asks for and what it tells of them. Few kernels that tests run on have quotas, so the
 * program is linked with --wrap=syscall, and the answers of quotactl_fd(2) are made up here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/quota.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli/top.h"

/* What the kernel has, by type. */
static struct {
	bool exists;
	struct if_dqblk q;
} quotas[3];
static unsigned int asked[3];

long __wrap_syscall(long number, unsigned int fd, unsigned int command, uint32_t id,
		    struct if_dqblk *q);
long __wrap_syscall(long number, unsigned int fd, unsigned int command, uint32_t id,
		    struct if_dqblk *q)
{
	unsigned int type = command & SUBCMDMASK;

	assert_int_equal(number, SYS_quotactl_fd);
	assert_int_equal(command >> SUBCMDSHIFT, Q_GETQUOTA);
	assert_in_range(type, 0, 2);
	asked[type] = id;
	if (!quotas[type].exists) {
		errno = ESRCH;
		return -1;
	}
	*q = quotas[type].q;
	return 0;
}

static int setup(void **state)
{
	memset(quotas, 0, sizeof(quotas));
	memset(asked, 0xff, sizeof(asked));
	return chdir("/");
}

static void set(int type, uint64_t used, uint64_t hard_kib, uint64_t soft_kib, uint64_t inodes,
		uint64_t inodes_hard)
{
	quotas[type].exists = true;
	quotas[type].q = (struct if_dqblk){
		.dqb_curspace = used,
		.dqb_bhardlimit = hard_kib,
		.dqb_bsoftlimit = soft_kib,
		.dqb_curinodes = inodes,
		.dqb_ihardlimit = inodes_hard,
	};
}

static void test_without_quotas(void **state)
{
	struct top t = { .dir = "." };
	struct top_room room;

	top_room_read(&t, &room);
	assert_int_equal(room.nr_quotas, 0);
	assert_int_equal(t.count.nr_owners, 0);
	assert_int_equal(asked[USRQUOTA], geteuid());
	assert_int_equal(asked[GRPQUOTA], getegid());
	assert_true(room.has_size);
	assert_true(room.used + room.available <= room.size);
}

static void test_one_without_a_limit_is_none(void **state)
{
	struct top t = { .dir = "." };
	struct top_room room;

	set(USRQUOTA, 12345, 0, 0, 7, 0);
	top_room_read(&t, &room);
	assert_int_equal(room.nr_quotas, 0);
}

static void test_the_hard_limit_or_else_the_soft_one(void **state)
{
	struct top t = { .dir = "." };
	struct top_room room;

	set(USRQUOTA, 5000, 20, 10, 3, 0);
	set(GRPQUOTA, 6000, 0, 30, 4, 100);
	top_room_read(&t, &room);
	assert_int_equal(room.nr_quotas, 2);
	assert_string_equal(room.quotas[0].type, "user");
	assert_int_equal(room.quotas[0].id, geteuid());
	assert_int_equal(room.quotas[0].bytes_used, 5000);
	assert_int_equal(room.quotas[0].bytes_limit, 20 * 1024);
	assert_int_equal(room.quotas[0].inodes_limit, 0);
	assert_string_equal(room.quotas[1].type, "group");
	assert_int_equal(room.quotas[1].bytes_limit, 30 * 1024);
	assert_int_equal(room.quotas[1].inodes_used, 4);
	assert_int_equal(room.quotas[1].inodes_limit, 100);
	/* What is counted apart is what belongs to them. */
	assert_int_equal(t.count.nr_owners, 2);
	assert_int_equal(t.count.owners[0].what, USAGE_OF_USER);
	assert_int_equal(t.count.owners[0].id, geteuid());
	assert_int_equal(t.count.owners[1].what, USAGE_OF_GROUP);
	assert_int_equal(t.count.owners[1].id, getegid());
}

/* The last line, on standard error, as it is with one of the options. */
static void last_line(const struct top *t, const struct top_room *room, char *ret, size_t size)
{
	struct usage_result r = {
		.total = { .disk = 3 << 20, .count = 12 },
		.owned = { { .disk = 2 << 20, .count = 8 }, { .disk = 1 << 20, .count = 5 } },
		.nr_entries = 1,
	};
	int fds[2], old = dup(STDERR_FILENO);
	ssize_t n;

	assert_int_equal(pipe(fds), 0);
	fflush(stderr);
	dup2(fds[1], STDERR_FILENO);
	top_print_last(t, &r, room);
	fflush(stderr);
	dup2(old, STDERR_FILENO);
	n = read(fds[0], ret, size - 1);
	assert_true(n > 0);
	ret[n] = 0;
	close(fds[0]);
	close(fds[1]);
	close(old);
}

static void test_what_is_told_of_them(void **state)
{
	struct top t = { .dir = "." };
	struct top_room room;
	char line[1024];

	set(USRQUOTA, 7 << 20, 10 << 10, 0, 40, 50);
	set(GRPQUOTA, 9 << 20, 12 << 10, 0, 60, 0);
	top_room_read(&t, &room);
	room.quotas[0].id = 61001;
	room.quotas[0].name[0] = 0;
	strcpy(room.quotas[1].name, "staff");
	last_line(&t, &room, line, sizeof(line));
	assert_non_null(strstr(line, "kshared: 3M in all; the file system is "));
	assert_non_null(strstr(
		line,
		"; quota of user 61001: 7M of 10M used, 2M of it here; quota of group staff: 9M of 12M "
		"used, 1M of it here\n"));
	t.count.by = USAGE_COUNT;
	last_line(&t, &room, line, sizeof(line));
	assert_non_null(strstr(line, "kshared: 12 inodes in all"));
	assert_non_null(
		strstr(line, "; quota of user 61001: 40 of 50 inodes used, 8 of them here\n"));
	t.count.by = USAGE_DISK;
	t.bytes = true;
	last_line(&t, &room, line, sizeof(line));
	assert_non_null(
		strstr(line, "quota of user 61001: 7340032 of 10485760 used, 2097152 of it here"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_without_quotas, setup),
		cmocka_unit_test_setup(test_one_without_a_limit_is_none, setup),
		cmocka_unit_test_setup(test_the_hard_limit_or_else_the_soft_one, setup),
		cmocka_unit_test_setup(test_what_is_told_of_them, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
