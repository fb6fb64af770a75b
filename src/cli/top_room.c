// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * top_room.c - how full the file system is, and the caller's quotas there.
 *
 * A quota is asked for where it can be the reason of "Disk quota exceeded": the caller's own, those of his
 * group and of the directory's if he is in it (which new files get in a shared, setgid directory), and the
 * directory's project (ext4, XFS; the kernel tells that one to root alone). One without a limit is no
 * quota. What the kernel does not tell is left out quietly: most file systems have none of it.
 */
#include <fcntl.h>
#include <grp.h>
#include <linux/fs.h>
#include <linux/quota.h>
#include <pwd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/top.h"

#define QUOTA_BLOCK 1024 /* of a limit, in bytes */

unsigned int top_percent(uint64_t used, uint64_t available)
{
	double all = (double)used + (double)available;
	unsigned int percent;

	if (used == 0 || all == 0)
		return 0;
	percent = (unsigned int)((double)used * 100 / all);
	return percent + ((double)percent * all < (double)used * 100);
}

static void ask(struct top *t, struct top_room *room, int fd, int type, uint32_t id)
{
	static const char *const types[] = { "user", "group", "project" };
	struct if_dqblk q = { 0 };
	struct top_quota *to = &room->quotas[room->nr_quotas];

	if (room->nr_quotas == USAGE_OWNERS ||
	    syscall(SYS_quotactl_fd, (unsigned int)fd, QCMD((unsigned int)Q_GETQUOTA, type), id,
		    &q) < 0)
		return;
	*to = (struct top_quota){
		.type = types[type],
		.id = id,
		.bytes_used = q.dqb_curspace,
		.bytes_limit =
			(q.dqb_bhardlimit ? q.dqb_bhardlimit : q.dqb_bsoftlimit) * QUOTA_BLOCK,
		.inodes_used = q.dqb_curinodes,
		.inodes_limit = q.dqb_ihardlimit ? q.dqb_ihardlimit : q.dqb_isoftlimit,
	};
	if (!to->bytes_limit && !to->inodes_limit)
		return;
	if (type == USRQUOTA) {
		const struct passwd *pw = getpwuid(id);

		snprintf(to->name, sizeof(to->name), "%s", pw ? pw->pw_name : "");
	} else if (type == GRPQUOTA) {
		const struct group *gr = getgrgid(id);

		snprintf(to->name, sizeof(to->name), "%s", gr ? gr->gr_name : "");
	}
	t->count.owners[room->nr_quotas++] = (struct usage_owner){
		.what = type == USRQUOTA   ? USAGE_OF_USER
			: type == GRPQUOTA ? USAGE_OF_GROUP
					   : USAGE_OF_ALL,
		.id = id,
	};
	t->count.nr_owners = room->nr_quotas;
}

/* Some file systems tell more that is free than there is. */
static uint64_t taken(uint64_t all, uint64_t unused)
{
	return all > unused ? all - unused : 0;
}

void top_room_read(struct top *t, struct top_room *ret)
{
	cleanup_fd int fd = open(t->dir, O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC);
	struct fsxattr attr = { 0 };
	struct statvfs v;
	struct stat st;

	*ret = (struct top_room){ 0 };
	if (fd < 0)
		return;
	if (fstatvfs(fd, &v) == 0) {
		ret->has_size = v.f_blocks;
		ret->size = (uint64_t)v.f_blocks * v.f_frsize;
		ret->used = taken(v.f_blocks, v.f_bfree) * v.f_frsize;
		ret->available = (uint64_t)v.f_bavail * v.f_frsize;
		ret->inodes = v.f_files;
		ret->inodes_used = taken(v.f_files, v.f_ffree);
	}
	ask(t, ret, fd, USRQUOTA, geteuid());
	ask(t, ret, fd, GRPQUOTA, getegid());
	if (fstat(fd, &st) == 0 && st.st_gid != getegid() && group_member(st.st_gid))
		ask(t, ret, fd, GRPQUOTA, st.st_gid);
	if (ioctl(fd, FS_IOC_FSGETXATTR, &attr) == 0 && attr.fsx_projid)
		ask(t, ret, fd, PRJQUOTA, attr.fsx_projid);
}
