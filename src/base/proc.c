// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * proc.c - reads /proc/PID/status, in one read, so that all of it is of one moment; and whose namespace that is about.
 *
 * A process chooses its own name; it stands on the first line, escaped by the kernel (newline and
 * backslash), so it cannot pretend to be another line.
 */
#include <base/cleanup.h>
#include <base/proc.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *field(const char *text, const char *name)
{
	size_t n = strlen(name);

	for (const char *line = text; line; line = strchr(line, '\n')) {
		if (*line == '\n')
			line++;
		if (strncmp(line, name, n) == 0)
			return line + n;
	}
	return NULL;
}

static int ids(const char *text, uint32_t ret[4])
{
	return text && sscanf(text, "%u %u %u %u", &ret[0], &ret[1], &ret[2], &ret[3]) == 4
		? 0
		: -EPROTO;
}

int proc_read(pid_t tid, struct proc_info *ret)
{
	char path[64], text[8192];
	cleanup_fd int fd = -1;
	const char *at;
	ssize_t n;

	*ret = (struct proc_info){ 0 };
	snprintf(path, sizeof(path), "/proc/%d/status", (int)tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	n = read(fd, text, sizeof(text) - 1);
	if (n < 0)
		return -errno;
	text[n] = 0;

	at = field(text, "Name:\t");
	if (!at)
		return -EPROTO;
	snprintf(ret->comm, sizeof(ret->comm), "%.*s", (int)strcspn(at, "\n"), at);
	at = field(text, "Tgid:");
	if (!at)
		return -EPROTO;
	ret->tgid = (pid_t)strtol(at, NULL, 10);
	if (ids(field(text, "Uid:"), ret->uid) < 0 || ids(field(text, "Gid:"), ret->gid) < 0)
		return -EPROTO;
	at = field(text, "NSpid:\t");
	ret->inner = at && memchr(at, '\t', strcspn(at, "\n"));
	at = field(text, "CapPrm:");
	ret->cap_prm = at ? strtoull(at, NULL, 16) : 0;
	at = field(text, "CapEff:");
	ret->cap_eff = at ? strtoull(at, NULL, 16) : 0;
	at = field(text, "Groups:");
	for (char *end; at && ret->nr_groups < PROC_GROUPS_MAX; at = end) {
		while (*at == ' ' || *at == '\t')
			at++;
		if (*at < '0' || *at > '9')
			break;
		ret->groups[ret->nr_groups++] = (gid_t)strtoul(at, &end, 10);
	}
	return 0;
}

bool proc_capable(pid_t tid, uint64_t caps)
{
	struct proc_info info;
	struct stat its, ours;
	char path[64];

	/* In this order: one may enter another namespace at any time, but come into ours only with all rights in it. */
	if (proc_read(tid, &info) < 0 || (info.cap_eff & caps) != caps)
		return false;
	snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)tid);
	return stat(path, &its) == 0 && stat("/proc/self/ns/user", &ours) == 0 &&
		its.st_dev == ours.st_dev && its.st_ino == ours.st_ino;
}

static bool maps_all(const char *path)
{
	unsigned int inside, outside, count;
	FILE *f = fopen(path, "re");
	bool all = f && fscanf(f, "%u %u %u", &inside, &outside, &count) == 3 &&
		count == UINT32_MAX;

	if (f)
		fclose(f);
	return all;
}

bool proc_sees_all_ids(void)
{
	return maps_all("/proc/self/uid_map") && maps_all("/proc/self/gid_map");
}

int proc_birth(pid_t pid, uint64_t *ret)
{
	char path[32], line[1024];
	cleanup_fd int fd = -1;
	unsigned long long birth;
	const char *at;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
	if (n <= 0)
		return -ESRCH;
	line[n] = 0;
	/* The name may contain anything; what follows its last bracket does not. */
	at = strrchr(line, ')');
	if (!at ||
	    sscanf(at + 1,
		   " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
		   &birth) != 1)
		return -ESRCH;
	*ret = birth;
	return 0;
}
