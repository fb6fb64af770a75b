// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * classify.c - fcntl, statx with AT_STATX_DONT_SYNC, the /proc link, and the mount table; none asks the
 * file's server. The file system's type is taken from the mount table because fstatfs() would ask.
 */
#include <base/cleanup.h>
#include <engine/remote/classify.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/magic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define QUICK_BLOCKS (32u << 10) /* of 512 bytes: to free more memory takes a while */
#define SERIAL_MINOR 64 /* of major 4; those below are virtual consoles */

enum fs_class {
	FS_PLAIN,
	FS_KERNEL, /* what its files do is the kernel's business alone */
	FS_SERVED, /* by a process or over a network; or unknown */
};

/*
 * FS_PLAIN: file systems whose files are bytes and nothing else. Of any other, opening or reading a file may be an act with the
 * rights of whoever does it (/proc/PID/mem is another process's memory if it is opened by one who may), or may wait for a
 * server for ever (FUSE, NFS); their files are given out as they are and never touched.
 */
static bool is_in(const char *fstype, const char *const *list)
{
	for (; *list; list++)
		if (strcmp(fstype, *list) == 0)
			return true;
	return false;
}

static enum fs_class class_of(const char *fstype)
{
	static const char *const plain[] = {
		"ext2",    "ext3",     "ext4",   "xfs",     "btrfs", "f2fs",     "bcachefs",
		"zfs",     "tmpfs",    "ramfs",  "overlay", "vfat",  "exfat",    "ntfs3",
		"iso9660", "squashfs", "erofs",  "udf",     "jfs",   "reiserfs", "nilfs2",
		"minix",   "devtmpfs", "devpts", NULL
	};
	static const char *const kernel[] = { "proc",      "sysfs",   "cgroup",   "cgroup2",
					      "nsfs",      "debugfs", "tracefs",  "bpf",
					      "pstore",    "mqueue",  "configfs", "securityfs",
					      "hugetlbfs", "fusectl", "efivarfs", NULL };

	return is_in(fstype, plain) ? FS_PLAIN : is_in(fstype, kernel) ? FS_KERNEL : FS_SERVED;
}

/* Which is the file's file system? One whose mount is not in our table cannot be told. */
static enum fs_class fs_of(const struct statx *st)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t size = 0;
	enum fs_class class = FS_SERVED;

	while (f && (st->stx_mask & STATX_MNT_ID) && getline(&line, &size, f) > 0) {
		char type[32];
		const char *at;

		if (strtoull(line, NULL, 10) != st->stx_mnt_id)
			continue;
		at = strstr(line, " - ");
		if (at && sscanf(at + 3, "%31s", type) == 1)
			class = class_of(type);
		break;
	}
	free(line);
	if (f)
		fclose(f);
	return class;
}

static bool on_plain_fs(const struct statx *st)
{
	return fs_of(st) == FS_PLAIN;
}

/* What /proc says that a descriptor is, cut to @size - 1 bytes. */
static void link_of(int fd, char *ret, size_t size)
{
	char path[32];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, ret, size - 1);
	ret[n > 0 ? n : 0] = 0;
}

static void anonymous(int fd, struct fd_facts *ret)
{
	static const char *const streams[] = { "eventfd", "timerfd", "inotify" };
	char link[64];

	link_of(fd, link, sizeof(link));
	ret->class = FD_OPAQUE;
	if (sscanf(link, "anon_inode:[%15[^]]", ret->what) != 1 &&
	    sscanf(link, "anon_inode:%15[^]]", ret->what) != 1)
		strcpy(ret->what, "anonymous");
	for (size_t i = 0; i < sizeof(streams) / sizeof(streams[0]); i++)
		if (strcmp(ret->what, streams[i]) == 0)
			ret->class = FD_STREAM;
}

static void regular(int fd, const struct statx *st, struct fd_facts *ret)
{
	int seals = st->stx_nlink == 0 ? fcntl(fd, F_GET_SEALS) : -1;
	enum fs_class class = FS_PLAIN;
	struct statfs fs;
	char link[16] = "";

	/* A file on tmpfs has seals, too: the one that it cannot be sealed. */
	if (seals >= 0)
		link_of(fd, link, sizeof(link));
	if (strncmp(link, "/memfd:", 7) == 0) {
		strcpy(ret->what, "memfd");
		/* One of huge pages must not be mapped through another file, which knows nothing of their alignment. */
		if (fstatfs(fd, &fs) < 0 || fs.f_type == HUGETLBFS_MAGIC)
			class = FS_KERNEL;
		ret->sealable = !(seals & F_SEAL_SEAL);
		ret->write_sealed = (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0;
	} else {
		strcpy(ret->what, "file");
		class = fs_of(st);
	}
	ret->class = class == FS_PLAIN ? FD_FILE : FD_OPAQUE;
	ret->reopen = class == FS_PLAIN;
	ret->slow = class == FS_SERVED;
}

static void character(int fd, const struct statx *st, struct fd_facts *ret)
{
	unsigned int major = st->stx_rdev_major;

	ret->class = FD_STREAM;
	if (major == 4 || major == 5 || (major >= 136 && major <= 143)) {
		strcpy(ret->what, "tty");
		ret->poll_waits = true;
		/* /dev/tty and /dev/ptmx, opened again, are another terminal. */
		ret->reopen = major != 5 && on_plain_fs(st);
		/* A serial line is closed when it has sent what it was given. */
		ret->slow = major == 4 && st->stx_rdev_minor >= SERIAL_MINOR;
		return;
	}
	strcpy(ret->what, "device");
	/* Memory devices (null, zero, urandom) answer at once; any other driver may do what it likes. */
	if (major != 1) {
		ret->class = FD_OPAQUE;
		ret->slow = true;
	}
}

static bool lingers(int fd)
{
	struct linger linger;
	socklen_t len = sizeof(linger);

	return getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &len) == 0 && linger.l_onoff &&
		linger.l_linger > 0;
}

static bool polls_without_lock(int fd)
{
	int domain;
	socklen_t len = sizeof(domain);

	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 &&
		(domain == AF_UNIX || domain == AF_INET || domain == AF_INET6 ||
		 domain == AF_NETLINK);
}

bool close_may_wait(int fd, uint64_t own_dev)
{
	struct statx st;

	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_BLOCKS, &st) < 0)
		return true;
	if (own_dev && makedev(st.stx_dev_major, st.stx_dev_minor) == own_dev)
		return false;
	return !S_ISREG(st.stx_mode) || fcntl(fd, F_GET_SEALS) < 0 || st.stx_blocks > QUICK_BLOCKS;
}

void cut_linger(int fd)
{
	if (lingers(fd))
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){ 1, 1 },
			   sizeof(struct linger));
}

int classify_fd(int fd, struct fd_facts *ret)
{
	int flags = fcntl(fd, F_GETFL);
	struct statx st;
	char link[16];

	*ret = (struct fd_facts){ 0 };
	if (flags < 0 || (flags & O_PATH))
		return -EBADF;
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS | STATX_MNT_ID,
		  &st) < 0)
		return -errno;
	ret->access = flags & O_ACCMODE;
	ret->append = (flags & O_APPEND) != 0;
	ret->dev = makedev(st.stx_dev_major, st.stx_dev_minor);
	switch (st.stx_mode & S_IFMT) {
	case S_IFSOCK:
		strcpy(ret->what, "socket");
		ret->poll_waits = !polls_without_lock(fd);
		ret->class = FD_STREAM;
		ret->nowait = true;
		break;
	case S_IFIFO:
		link_of(fd, link, sizeof(link));
		strcpy(ret->what, strncmp(link, "pipe:[", 6) == 0 ? "pipe" : "fifo");
		ret->class = FD_STREAM;
		ret->nowait = true;
		ret->reopen = strcmp(ret->what, "pipe") == 0 || on_plain_fs(&st);
		break;
	case S_IFREG:
		regular(fd, &st, ret);
		break;
	case S_IFDIR:
		strcpy(ret->what, "directory");
		ret->class = FD_OPAQUE;
		ret->slow = fs_of(&st) == FS_SERVED;
		break;
	case S_IFBLK:
		strcpy(ret->what, "block");
		ret->class = FD_BLOCK;
		break;
	case S_IFCHR:
		character(fd, &st, ret);
		break;
	default:
		anonymous(fd, ret);
	}
	return 0;
}
