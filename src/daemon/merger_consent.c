// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * merger_consent.c - whose memory may be merged: that of a process which who asks may trace, and of it what it has said is for that.
 *
 * The kernel is asked, not imitated. A thread takes on the caller's user, group and capabilities (those of a process of root's only, and
 * only if it is in our user namespace) as far as access to files is concerned, and opens /proc/PID/mem: that is PTRACE_MODE_ATTACH with these. Its
 * other ids stay root's, so nobody can signal it meanwhile. What has been opened is the memory that the process had at that moment, and no
 * other that it may get by executing another program: so what is read by it is what he was permitted to read.
 *
 * Where Yama restricts ptrace to ancestors, it is our thread that is no ancestor: only root can then merge what is another process's.
 */
#include <base/cleanup.h>
#include <base/proc.h>
#include <daemon/merger_internal.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LINE_MAX_LEN 4352

pid_t pidfd_pid(int pidfd)
{
	char path[48], text[64];
	ssize_t n;
	int pid = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", pidfd);
	n = readlink(path, text, sizeof(text) - 1);
	text[n > 0 ? n : 0] = 0;
	if (strcmp(text, "anon_inode:[pidfd]") != 0 && strncmp(text, "pidfd:[", 7) != 0)
		return -EBADF;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	f = fopen(path, "re");
	while (f && fgets(text, sizeof(text), f))
		if (sscanf(text, "Pid: %d", &pid) == 1)
			break;
	if (f)
		fclose(f);
	return pid > 0 ? pid : -ESRCH;
}

bool pidfd_alive(int pidfd)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };

	return poll(&p, 1, 0) == 0;
}

static int set_effective(uint64_t want)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &head, data) < 0)
		return -errno;
	data[0].effective = data[0].permitted & (uint32_t)want;
	data[1].effective = data[1].permitted & (uint32_t)(want >> 32);
	return syscall(SYS_capset, &head, data) < 0 ? -errno : 0;
}

/* Capabilities of root's count; of others it is not known whether they had them when they asked. */
static uint64_t caps_of(const struct caller *caller)
{
	struct proc_info info;
	pid_t pid = caller->uid == 0 ? pidfd_pid(caller->pidfd) : -ESRCH;

	if (pid < 0 || proc_read(pid, &info) < 0 || !proc_capable(pid, info.cap_eff) ||
	    !pidfd_alive(caller->pidfd))
		return 0;
	return info.cap_eff;
}

static int open_one(pid_t pid, const char *what)
{
	char path[48];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, what);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : errno == EACCES ? -EPERM : -errno;
	return fd;
}

static int open_files(pid_t pid, struct files *ret)
{
	int r = ret->mem = open_one(pid, "mem");

	if (r >= 0)
		r = ret->pagemap = open_one(pid, "pagemap");
	if (r >= 0)
		r = ret->maps = open_one(pid, "maps");
	return r < 0 ? r : 0;
}

int consent_open(const struct merger *m, const struct caller *caller, pid_t pid, int pidfd,
		 struct files *ret)
{
	uint64_t caps;
	int r;

	*ret = (struct files){ -1, -1, -1 };
	if (!m->privileged) {
		/* We are nobody else, and have no more rights than he. */
		r = caller->uid == getuid() || caller->uid == 0 ? open_files(pid, ret) : -EPERM;
	} else {
		caps = caps_of(caller);
		setfsgid(caller->gid);
		setfsuid(caller->uid);
		r = (uid_t)setfsuid((uid_t)-1) == caller->uid &&
				(gid_t)setfsgid((gid_t)-1) == caller->gid
			? set_effective(caps)
			: -EPERM;
		if (r == 0)
			r = open_files(pid, ret);
		/* Permitted all the while; nothing but the merger's end could follow if it failed. */
		if (set_effective(UINT64_MAX) < 0)
			abort();
		setfsuid(0);
		setfsgid(0);
	}
	/* Was it that process's number all the time? */
	if (r == 0 && !pidfd_alive(pidfd))
		r = -ESRCH;
	if (r < 0)
		files_close(ret);
	return r;
}

void files_close(struct files *files)
{
	cleanup_close_p(&files->mem);
	cleanup_close_p(&files->pagemap);
	cleanup_close_p(&files->maps);
	*files = (struct files){ -1, -1, -1 };
}

static int by_start(const void *a, const void *b)
{
	const struct ksm_range *p = a, *q = b;

	return p->start < q->start ? -1 : p->start > q->start;
}

/* Sort, and throw away what is not whole pages, or within another. */
static void tidy(struct ranges *ranges)
{
	size_t n = 0;

	qsort(ranges->range, ranges->nr, sizeof(*ranges->range), by_start);
	for (size_t i = 0; i < ranges->nr; i++) {
		const struct ksm_range *one = &ranges->range[i];

		if (one->start >= one->end || (one->start | one->end) % MERGE_PAGE ||
		    (n && one->start < ranges->range[n - 1].end))
			continue;
		ranges->range[n++] = *one;
	}
	ranges->nr = n;
}

int ranges_read(const struct files *files, struct ranges *ret)
{
	const size_t head = offsetof(struct ksm_list, range);
	cleanup_free char *line = NULL;
	uint32_t words[2];
	uint64_t at = 0;
	size_t size = 0, len;
	FILE *f;
	int fd;

	*ret = (struct ranges){ 0 };
	fd = fcntl(files->maps, F_DUPFD_CLOEXEC, 0);
	f = fd < 0 ? NULL : fdopen(fd, "re");
	if (!f) {
		cleanup_close_p(&fd);
		return -ENOMEM;
	}
	rewind(f);
	while (!at && getline(&line, &size, f) > 0)
		if (strstr(line, " rw-s ") && strstr(line, "/memfd:" KSM_LIST_NAME " "))
			at = strtoull(line, NULL, 16);
	fclose(f);
	if (!at || pread(files->mem, words, sizeof(words), (off_t)at) != sizeof(words) ||
	    words[0] != KSM_MAGIC || words[1] == 0 || words[1] > KSM_LIST_MAX)
		return 0;
	len = words[1] * sizeof(struct ksm_range);
	ret->range = malloc(len);
	if (!ret->range)
		return -ENOMEM;
	if (pread(files->mem, ret->range, len, (off_t)(at + head)) != (ssize_t)len)
		return 0;
	ret->nr = words[1];
	tidy(ret);
	return 0;
}
