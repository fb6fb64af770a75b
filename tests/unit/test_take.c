// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_take.c - a descriptor is taken only from the thread that asked, as it asked; and what /proc says of it, and
 * whose capabilities count.
 */
#include <setjmp.h>
#include <stdbool.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <engine/remote/take.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "no_pidfd.h"

#define USER 4321

/* The descriptor, or why there is none. */
static int take(pid_t tid, uid_t uid, gid_t gid, int fd, struct proc_info *info)
{
	int taken, r = take_fd_of(tid, uid, gid, fd, info, &taken);

	assert_true(r == 0 ? taken >= 0 : taken == -1);
	return r < 0 ? r : taken;
}

struct other {
	pid_t pid;
	int hold; /* closed: it ends */
	int fd; /* what it holds, by its number there */
};

static bool other_namespace; /* the next one goes into a user namespace of its own */

static bool
	other_was_setuid; /* and not executed anew: the next one must not be looked into by its user */
static uid_t other_saved_id; /* what the next one could become again */

/* Another process of @uid, with a descriptor. */
static struct other other_new(uid_t uid, bool fsuid_only)
{
	uid_t saved = other_saved_id ? other_saved_id : uid;

	int go[2], ready[2], fd = memfd_create("posted", MFD_CLOEXEC);
	struct other o = { .fd = fd };
	char c;

	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	o.pid = fork();
	if (o.pid == 0) {
		gid_t groups[] = { 5, 6, 7 };

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_NAME, "a (b) c\nUid: 0");
		close(go[1]);
		if (uid && fsuid_only) {
			setfsgid(uid);
			setfsuid(uid);
		} else if (uid) {
			if (setgroups(3, groups) < 0 || setgid(uid) < 0 ||
			    setresuid(uid, uid, saved) < 0)
				_exit(1);
			prctl(PR_SET_DUMPABLE, !other_was_setuid);
		}
		if (other_namespace)
			unshare(CLONE_NEWUSER);
		if (write(ready[1], "", 1) != 1 || read(go[0], &c, 1) < 0)
			_exit(1);
		_exit(0);
	}
	close(go[0]);
	close(ready[1]);
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	close(fd);
	o.hold = go[1];
	return o;
}

static void other_end(struct other *o)
{
	close(o->hold);
	waitpid(o->pid, NULL, 0);
}

static void test_of_another_process(void **state)
{
	struct proc_info info;
	struct other o;
	struct stat st;
	int fd;

	if (no_pidfd())
		skip();
	o = other_new(0, false);
	fd = take(o.pid, 0, 0, o.fd, &info);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fstat(fd, &st), 0);
	assert_true(S_ISREG(st.st_mode));
	assert_int_equal(info.tgid, o.pid);
	close(fd);
	assert_int_equal(take(o.pid, 0, 0, 1 << 20, &info), -EBADF);
	assert_int_equal(take(o.pid, 0, 0, -1, &info), -EBADF);
	other_end(&o);
	assert_int_equal(take(o.pid, 0, 0, o.fd, &info), -ESRCH);
}

static void test_who_is_another_now_is_refused(void **state)
{
	struct proc_info info;
	struct other o;

	if (no_pidfd())
		skip();
	o = other_new(0, false);
	assert_int_equal(take(o.pid, USER, 0, o.fd, &info), -ESRCH);
	assert_int_equal(take(o.pid, 0, USER, o.fd, &info), -ESRCH);
	other_end(&o);
}

static void test_of_another_user(void **state)
{
	struct proc_info info;
	struct other o;
	int fd;

	if (geteuid() != 0 || no_pidfd())
		skip();
	o = other_new(USER, false);
	fd = take(o.pid, USER, USER, o.fd, &info);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(take(o.pid, 0, 0, o.fd, &info), -ESRCH);
	other_end(&o);
	/* As set-user-ID programs do: the file system ids of a user, but all of root's rights. */
	o = other_new(USER, true);
	assert_int_equal(take(o.pid, USER, USER, o.fd, &info), -EPERM);
	other_end(&o);
}

static void test_of_one_that_its_user_may_not_look_into(void **state)
{
	struct proc_info info;
	struct other o;

	if (geteuid() != 0 || no_pidfd())
		skip();
	other_was_setuid = true;
	o = other_new(USER, false);
	other_was_setuid = false;
	assert_int_equal(take(o.pid, USER, USER, o.fd, &info), -EPERM);
	other_end(&o);
	other_saved_id = USER + 1;
	o = other_new(USER, false);
	other_saved_id = 0;
	assert_int_equal(take(o.pid, USER, USER, o.fd, &info), -EPERM);
	other_end(&o);
}

struct in_thread {
	pid_t tid;
	int fd;
	int go;
	int ready;
};

static void *hold_a_table_of_its_own(void *arg)
{
	struct in_thread *t = arg;
	char c;

	t->tid = (pid_t)syscall(SYS_gettid);
	if (write(t->ready, "", 1) != 1 || read(t->go, &c, 1) < 0)
		abort();
	return NULL;
}

static void test_of_a_thread_that_leads_no_process(void **state)
{
	int go[2], ready[2];
	struct in_thread t;
	struct proc_info info;
	pthread_t thread;
	char c;
	int fd;

	if (no_pidfd())
		skip();
	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	t = (struct in_thread){ .go = go[0], .ready = ready[1] };
	assert_int_equal(pthread_create(&thread, NULL, hold_a_table_of_its_own, &t), 0);
	assert_int_equal(read(ready[0], &c, 1), 1);
	fd = take(t.tid, geteuid(), getegid(), go[0], &info);
	assert_true(fd >= 0);
	assert_int_equal(info.tgid, getpid());
	close(fd);
	close(go[1]);
	pthread_join(thread, NULL);
	close(go[0]);
	close(ready[0]);
	close(ready[1]);
}

static void test_numbers_that_are_no_threads(void **state)
{
	struct proc_info info;

	if (no_pidfd())
		skip();
	assert_int_equal(take(0, 0, 0, 0, &info), -ESRCH);
	assert_int_equal(take(-1, 0, 0, 0, &info), -ESRCH);
	assert_int_equal(take(INT32_MAX, 0, 0, 0, &info), -ESRCH);
}

static void test_what_proc_says(void **state)
{
	struct proc_info info;
	struct other o;

	assert_int_equal(proc_read(getpid(), &info), 0);
	assert_int_equal(info.tgid, getpid());
	assert_int_equal(info.uid[0], getuid());
	assert_int_equal(info.uid[1], geteuid());
	assert_int_equal(info.gid[3], getegid());
	assert_int_equal(proc_read(INT32_MAX, &info), -ESRCH);
	if (geteuid() != 0)
		return;
	o = other_new(USER, false);
	assert_int_equal(proc_read(o.pid, &info), 0);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(info.uid[i], USER);
		assert_int_equal(info.gid[i], USER);
	}
	assert_int_equal(info.nr_groups, 3);
	assert_int_equal(info.groups[0], 5);
	assert_int_equal(info.groups[2], 7);
	assert_true(info.cap_eff == 0 && info.cap_prm == 0);
	/* Its name, which is chosen to look like another line, is a name. */
	assert_int_equal(strncmp(info.comm, "a (b) c\\nUid", 10), 0);
	other_end(&o);
	o = other_new(USER, true);
	assert_int_equal(proc_read(o.pid, &info), 0);
	assert_int_equal(info.uid[0], 0);
	assert_int_equal(info.uid[3], USER);
	assert_true(info.cap_prm != 0);
	other_end(&o);
}

static void test_capabilities_are_those_in_our_namespace(void **state)
{
	struct proc_info info;
	struct other o;

	if (geteuid() != 0)
		skip();
	assert_true(proc_capable(getpid(), PROC_CAP_DAC_OVERRIDE | PROC_CAP_FOWNER));
	assert_false(proc_capable(getpid(), PROC_CAP_FOWNER | 1ULL << 63));
	assert_false(proc_capable(INT32_MAX, 0));
	/* Permitted is not effective. */
	o = other_new(USER, true);
	assert_int_equal(proc_read(o.pid, &info), 0);
	assert_true(info.cap_prm & PROC_CAP_FOWNER);
	assert_false(proc_capable(o.pid, PROC_CAP_FOWNER));
	other_end(&o);
	/* Nor is another namespace ours. */
	other_namespace = true;
	o = other_new(USER, false);
	other_namespace = false;
	assert_int_equal(proc_read(o.pid, &info), 0);
	if (info.cap_eff & PROC_CAP_FOWNER)
		assert_false(proc_capable(o.pid, PROC_CAP_FOWNER));
	else
		print_message("# no user namespaces here\n");
	other_end(&o);
}

static void test_more_groups_than_fit(void **state)
{
	gid_t groups[PROC_GROUPS_MAX + 50];
	struct proc_info info;
	int status;
	pid_t pid;

	if (geteuid() != 0)
		skip();
	for (int i = 0; i < PROC_GROUPS_MAX + 50; i++)
		groups[i] = (gid_t)(1000 + i);
	pid = fork();
	if (pid == 0) {
		if (setgroups(PROC_GROUPS_MAX + 50, groups) < 0 || proc_read(getpid(), &info) != 0)
			_exit(1);
		_exit(info.nr_groups == PROC_GROUPS_MAX &&
				      info.groups[PROC_GROUPS_MAX - 1] ==
					      groups[PROC_GROUPS_MAX - 1] &&
				      info.uid[0] == 0 && info.tgid == getpid()
			      ? 0
			      : 2);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_of_another_process),
		cmocka_unit_test(test_who_is_another_now_is_refused),
		cmocka_unit_test(test_of_another_user),
		cmocka_unit_test(test_of_one_that_its_user_may_not_look_into),
		cmocka_unit_test(test_of_a_thread_that_leads_no_process),
		cmocka_unit_test(test_numbers_that_are_no_threads),
		cmocka_unit_test(test_what_proc_says),
		cmocka_unit_test(test_capabilities_are_those_in_our_namespace),
		cmocka_unit_test(test_more_groups_than_fit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
