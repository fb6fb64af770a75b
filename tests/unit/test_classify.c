// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_classify.c - what each sort of descriptor is taken for. A table.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <engine/remote/classify.h>
#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

static int open_pipe_read(void)
{
	int fd[2];

	assert_int_equal(pipe(fd), 0);
	close(fd[1]);
	return fd[0];
}

static int open_pipe_write(void)
{
	int fd[2];

	assert_int_equal(pipe(fd), 0);
	close(fd[0]);
	return fd[1];
}

static int temporary(int flags)
{
	char path[] = "/tmp/test-classify-XXXXXX";
	int fd = mkstemp(path), again;

	assert_true(fd >= 0);
	again = open(path, flags);
	close(fd);
	unlink(path);
	return again;
}

static int open_file(void)
{
	return temporary(O_RDWR);
}

static int open_file_append(void)
{
	return temporary(O_WRONLY | O_APPEND);
}

static int open_fifo(void)
{
	char path[] = "/tmp/test-classify-XXXXXX";
	int fd;

	assert_non_null(mkdtemp(path));
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
	fd = open(path, O_RDWR);
	unlink(path);
	return fd;
}

static int open_memfd(void)
{
	return memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING);
}

static int open_sealed_memfd(void)
{
	int fd = memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_WRITE), 0);
	return fd;
}

/* It has seals as a memfd has, and no name either. */
static int open_unlinked_on_tmpfs(void)
{
	return open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
}

static int open_memfd_without_seals(void)
{
	return memfd_create("x", MFD_CLOEXEC);
}

static int open_socket(void)
{
	return socket(AF_UNIX, SOCK_STREAM, 0);
}

static int open_inet(void)
{
	return socket(AF_INET, SOCK_DGRAM, 0);
}

static int open_tty(void)
{
	int master, slave;

	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	close(master);
	return slave;
}

static int open_ptmx(void)
{
	return posix_openpt(O_RDWR | O_NOCTTY);
}

static int open_null(void)
{
	return open("/dev/null", O_WRONLY);
}

static int open_zero(void)
{
	return open("/dev/zero", O_RDONLY);
}

static int open_directory(void)
{
	return open("/", O_RDONLY | O_DIRECTORY);
}

static int open_eventfd(void)
{
	return eventfd(0, 0);
}

static int open_timerfd(void)
{
	return timerfd_create(CLOCK_MONOTONIC, 0);
}

static int open_inotify(void)
{
	return inotify_init1(0);
}

static int open_epoll(void)
{
	return epoll_create1(0);
}

static int open_signalfd(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	return signalfd(-1, &set, 0);
}

static int open_pidfd(void)
{
	return (int)syscall(SYS_pidfd_open, getpid(), 0);
}

static int open_proc(void)
{
	return open("/proc/self/status", O_RDONLY);
}

static const struct {
	int (*open)(void);
	const char *what;
	enum fd_class class;
	int access;
	bool append;
	bool reopen;
	bool slow;
} table[] = {
	{ open_pipe_read, "pipe", FD_STREAM, O_RDONLY, .reopen = true },
	{ open_pipe_write, "pipe", FD_STREAM, O_WRONLY, .reopen = true },
	{ open_fifo, "fifo", FD_STREAM, O_RDWR, .reopen = true },
	{ open_file, "file", FD_FILE, O_RDWR, .reopen = true },
	{ open_file_append, "file", FD_FILE, O_WRONLY, .append = true, .reopen = true },
	{ open_proc, "file", FD_OPAQUE, O_RDONLY },
	{ open_unlinked_on_tmpfs, "file", FD_FILE, O_RDWR, .reopen = true },
	{ open_memfd, "memfd", FD_FILE, O_RDWR, .reopen = true },
	{ open_sealed_memfd, "memfd", FD_FILE, O_RDWR, .reopen = true },
	{ open_memfd_without_seals, "memfd", FD_FILE, O_RDWR, .reopen = true },
	{ open_socket, "socket", FD_STREAM, O_RDWR },
	{ open_inet, "socket", FD_STREAM, O_RDWR },
	{ open_tty, "tty", FD_STREAM, O_RDWR, .reopen = true },
	{ open_ptmx, "tty", FD_STREAM, O_RDWR },
	{ open_null, "device", FD_STREAM, O_WRONLY },
	{ open_zero, "device", FD_STREAM, O_RDONLY },
	{ open_directory, "directory", FD_OPAQUE, O_RDONLY },
	{ open_eventfd, "eventfd", FD_STREAM, O_RDWR },
	{ open_timerfd, "timerfd", FD_STREAM, O_RDWR },
	{ open_inotify, "inotify", FD_STREAM, O_RDONLY },
	{ open_epoll, "eventpoll", FD_OPAQUE, O_RDWR },
	{ open_signalfd, "signalfd", FD_OPAQUE, O_RDWR },
	{ open_pidfd, "pidfd", FD_OPAQUE, O_RDWR },
};

static void test_every_sort_of_descriptor(void **state)
{
	unsigned int wrong = 0;

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		int fd = table[i].open();
		struct fd_facts facts;
		struct stat st;

		if (fd < 0 && errno == ENOSYS)
			continue; /* valgrind 3.19 knows no pidfd_open() */
		assert_true(fd >= 0);
		assert_int_equal(fstat(fd, &st), 0);
		assert_int_equal(classify_fd(fd, &facts), 0);
		if (strcmp(facts.what, table[i].what) != 0 || facts.class != table[i].class ||
		    facts.access != table[i].access || facts.append != table[i].append ||
		    facts.reopen != table[i].reopen || facts.slow != table[i].slow ||
		    facts.dev != st.st_dev) {
			print_message(
				"# row %zu: %s class %d access %d append %d reopen %d slow %d\n", i,
				facts.what, facts.class, facts.access, facts.append, facts.reopen,
				facts.slow);
			wrong++;
		}
		close(fd);
	}
	assert_int_equal(wrong, 0);
}

static void test_what_is_no_descriptor(void **state)
{
	int fd = open("/", O_PATH | O_CLOEXEC);
	struct fd_facts facts;

	assert_int_equal(classify_fd(fd, &facts), -EBADF);
	close(fd);
	assert_int_equal(classify_fd(1 << 20, &facts), -EBADF);
	assert_int_equal(classify_fd(-1, &facts), -EBADF);
}

static void test_the_file_is_not_touched(void **state)
{
	int fd = open_memfd();
	struct fd_facts facts;

	assert_int_equal(write(fd, "abc", 3), 3);
	assert_int_equal(classify_fd(fd, &facts), 0);
	assert_int_equal(lseek(fd, 0, SEEK_CUR), 3);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_sort_of_descriptor),
		cmocka_unit_test(test_what_is_no_descriptor),
		cmocka_unit_test(test_the_file_is_not_touched),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
