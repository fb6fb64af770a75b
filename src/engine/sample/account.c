// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * account.c - accounts of the sampler: see account.h.
 */
#include "engine/sample/account.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <base/cleanup.h>

#include "engine/sample/parse.h"

#define TEXT_MAX 8192
#define CGROUP2_MAGIC 0x63677270

enum task_file { STAT, STATUS, IO, NR_TASK_FILES };

enum cgroup_file {
	EVENTS,
	TREE,
	CPU,
	MEMORY_CURRENT,
	MEMORY_PEAK,
	MEMORY_MAX,
	PIDS_CURRENT,
	PIDS_MAX,
	CPU_PRESSURE,
	MEMORY_PRESSURE,
	IO_PRESSURE,
	NR_CGROUP_FILES
};

_Static_assert((int)NR_CGROUP_FILES == ACCOUNT_FILES, "account.h");

static const char *const task_files[NR_TASK_FILES] = { "stat", "status", "io" };

static const char *const cgroup_files[NR_CGROUP_FILES] = {
	[EVENTS] = "cgroup.events",
	[TREE] = "cgroup.stat",
	[CPU] = "cpu.stat",
	[MEMORY_CURRENT] = "memory.current",
	[MEMORY_PEAK] = "memory.peak",
	[MEMORY_MAX] = "memory.max",
	[PIDS_CURRENT] = "pids.current",
	[PIDS_MAX] = "pids.max",
	[CPU_PRESSURE] = "cpu.pressure",
	[MEMORY_PRESSURE] = "memory.pressure",
	[IO_PRESSURE] = "io.pressure",
};

void account_init(struct account *a)
{
	*a = (struct account){ .page = { .fd = -1 }, .pidfd = -1 };
	for (int i = 0; i < ACCOUNT_FILES; i++)
		a->files[i] = -1;
}

void account_deinit(struct account *a)
{
	sample_page_drop(&a->page);
	cleanup_close_p(&a->pidfd);
	for (int i = 0; i < ACCOUNT_FILES; i++)
		cleanup_close_p(&a->files[i]);
	account_init(a);
}

/* Those that are there, and that we may read. */
static void open_files(struct account *a, int dirfd, const char *const *names, int nr)
{
	char c;

	for (int i = 0; i < nr; i++) {
		a->files[i] = openat(dirfd, names[i], O_RDONLY | O_CLOEXEC);
		if (a->files[i] >= 0 && pread(a->files[i], &c, 1, 0) != 1) {
			close(a->files[i]);
			a->files[i] = -1;
		}
	}
}

static bool has_ended(int pidfd)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };

	return poll(&p, 1, 0) != 0;
}

/* Return: a directory of /proc, of this process for certain; -EBADF no pidfd; -ESRCH it has ended. */
static int open_process(int pidfd)
{
	char path[64], text[1024];
	cleanup_fd int info = -1, fd = -1;
	uint64_t pid;
	int r;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	info = open(path, O_RDONLY | O_CLOEXEC);
	if (info < 0)
		return errno == ENOENT ? -EBADF : -errno;
	r = sample_read(info, text, sizeof(text));
	if (r)
		return r;
	if (!strstr(text, "Pid:"))
		return -EBADF;
	/* Of one that has ended it is -1. */
	if (parse_keys(text, (const char *const[]){ "Pid", NULL }, &pid))
		return -ESRCH;
	snprintf(path, sizeof(path), "/proc/%lu", (unsigned long)pid);
	fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	return has_ended(pidfd) ? -ESRCH : take_fd(&fd);
}

int account_open_task(struct account *a, int pidfd, uint64_t period_ns, uint64_t generation)
{
	/* What only the scheduler knows, and what /proc shows of each thread alone. */
	const char *omit[5] = { "counted", "nvcsw", "nivcsw" }, **o = omit + 3;
	cleanup_fd int dir = open_process(pidfd);
	int r;

	if (dir < 0)
		return dir;
	open_files(a, dir, task_files, NR_TASK_FILES);
	if (a->files[STAT] < 0 || a->files[STATUS] < 0)
		return has_ended(pidfd) ? -ESRCH : -EACCES;
	a->pidfd = fcntl(pidfd, F_DUPFD_CLOEXEC, 0);
	if (a->pidfd < 0)
		return -errno;
	if (a->files[IO] < 0)
		*o++ = "io_";
	r = sample_page_make(&a->page, &port_task_spec, 1, omit, period_ns, generation);
	return r ? r : account_sample(a);
}

int account_open_cgroup(struct account *a, int dirfd, uint64_t period_ns, uint64_t generation)
{
	const char *omit[4] = {}, **o = omit;
	struct statfs fs;
	int r;

	if (fstatfs(dirfd, &fs))
		return -errno;
	if (fs.f_type != CGROUP2_MAGIC)
		return -EINVAL;
	open_files(a, dirfd, cgroup_files, NR_CGROUP_FILES);
	if (a->files[CPU] < 0)
		return -ESRCH;
	/* The root has none. */
	if (a->files[EVENTS] < 0 || a->files[TREE] < 0)
		return -EINVAL;
	if (a->files[MEMORY_CURRENT] < 0 || a->files[MEMORY_PEAK] < 0 || a->files[MEMORY_MAX] < 0)
		*o++ = "memory_";
	if (a->files[PIDS_CURRENT] < 0 || a->files[PIDS_MAX] < 0)
		*o++ = "pids_";
	if (a->files[CPU_PRESSURE] < 0 || a->files[MEMORY_PRESSURE] < 0 ||
	    a->files[IO_PRESSURE] < 0)
		*o++ = "pressure.";
	r = sample_page_make(&a->page, &port_cgroup_spec, 1, omit, period_ns, generation);
	return r ? r : account_sample(a);
}

static int sample_task(struct account *a)
{
	static const char *const rss[] = { "RssAnon", "RssFile", "RssShmem", NULL };
	static const char *const io[] = { "rchar",
					  "wchar",
					  "syscr",
					  "syscw",
					  "read_bytes",
					  "write_bytes",
					  "cancelled_write_bytes",
					  NULL };
	uint64_t tick_ns = 1000000000ULL / sysconf(_SC_CLK_TCK), kib[3];
	uint64_t page_kib = sysconf(_SC_PAGESIZE) / 1024;
	struct port_task t = a->task;
	char text[TEXT_MAX];
	int r = sample_read(a->files[STAT], text, sizeof(text));

	if (!r)
		r = parse_task_stat(text, tick_ns, &t);
	if (r == -ESRCH) {
		a->task.alive = 0;
		strcpy(a->task.state, "X");
		return 0;
	}
	if (r)
		return r;
	t.alive = !has_ended(a->pidfd);
	/* One that has ended has no memory, and what it had last stays. */
	if (!sample_read(a->files[STATUS], text, sizeof(text)) && !parse_keys(text, rss, kib)) {
		t.rss_anon = kib[0] / page_kib;
		t.rss_file = kib[1] / page_kib;
		t.rss_shmem = kib[2] / page_kib;
		t.rss = t.rss_anon + t.rss_file + t.rss_shmem;
	}
	if (a->files[IO] >= 0 && !sample_read(a->files[IO], text, sizeof(text)))
		parse_keys(text, io, &t.io_rchar);
	a->task = t;
	return 0;
}

/* A number, or "max". */
static int read_number(int fd, uint64_t unit, uint64_t *ret)
{
	char text[64];
	int r = sample_read(fd, text, sizeof(text));

	if (!r && strcmp(text, "max\n") == 0)
		*ret = UINT64_MAX;
	else if (!r && parse_number(text, ret))
		r = -EPROTO;
	else if (!r)
		*ret /= unit;
	return r;
}

static int sample_cgroup(struct account *a)
{
	static const char *const events[] = { "populated", "frozen", NULL };
	static const char *const tree[] = { "nr_descendants", "nr_dying_descendants", NULL };
	static const char *const cpu[] = { "usage_usec", "user_usec", "system_usec", NULL };
	uint64_t page = sysconf(_SC_PAGESIZE), us[3];
	struct port_cgroup c = a->cgroup;
	const struct {
		enum cgroup_file file;
		uint64_t unit, *to;
	} numbers[] = {
		{ MEMORY_CURRENT, page, &c.memory_current },
		{ MEMORY_PEAK, page, &c.memory_peak },
		{ MEMORY_MAX, page, &c.memory_max },
		{ PIDS_CURRENT, 1, &c.pids_current },
		{ PIDS_MAX, 1, &c.pids_max },
	};
	uint64_t *const pressure[] = { &c.pressure.cpu.some_avg10, &c.pressure.memory.some_avg10,
				       &c.pressure.io.some_avg10 };
	char text[TEXT_MAX];
	int r = sample_read(a->files[EVENTS], text, sizeof(text));

	if (r == -ENODEV) {
		a->cgroup.alive = 0;
		return 0;
	}
	if (r || (r = parse_keys(text, events, &c.populated)) ||
	    (r = sample_read(a->files[TREE], text, sizeof(text))) ||
	    (r = parse_keys(text, tree, &c.nr_descendants)) ||
	    (r = sample_read(a->files[CPU], text, sizeof(text))) || (r = parse_keys(text, cpu, us)))
		return r;
	c.cpu_usage = us[0] * 1000;
	c.cpu_user = us[1] * 1000;
	c.cpu_system = us[2] * 1000;
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (a->files[numbers[i].file] >= 0 &&
		    (r = read_number(a->files[numbers[i].file], numbers[i].unit, numbers[i].to)))
			return r;
	for (int i = 0; i < 3; i++)
		if (a->files[CPU_PRESSURE + i] >= 0 &&
		    ((r = sample_read(a->files[CPU_PRESSURE + i], text, sizeof(text))) ||
		     (r = parse_pressure(text, pressure[i]))))
			return r;
	c.alive = 1;
	a->cgroup = c;
	return 0;
}

int account_sample(struct account *a)
{
	uint64_t now = sample_now_ns();
	int r = a->pidfd >= 0 ? sample_task(a) : sample_cgroup(a);

	if (!r)
		sample_page_write(&a->page, a->pidfd >= 0 ? (void *)&a->task : (void *)&a->cgroup,
				  now);
	return r;
}
