// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * access.c - what a caller may do with an entry.
 *
 * Requests through the mount come with cred.checked: the kernel has applied owner, group, other, supplementary
 * groups, capabilities and security modules before it asked. For requests through the socket the same rules are
 * applied here: the first class that matches decides, as POSIX says.
 */
#include <base/proc.h>
#include <core/tree.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

bool access_in_group(const struct cred *c, gid_t gid)
{
	if (c->gid == gid)
		return true;
	for (unsigned int i = 0; i < c->nr_groups; i++)
		if (c->groups[i] == gid)
			return true;
	return false;
}

unsigned int access_granted(const struct entry *e, const struct cred *c)
{
	if (c->override)
		return 7;
	if (c->uid == e->uid)
		return (e->mode >> 6) & 7;
	if (access_in_group(c, e->gid))
		return (e->mode >> 3) & 7;
	return e->mode & 7;
}

int access_check(const struct entry *e, const struct cred *c, unsigned int want)
{
	if (c->checked || (access_granted(e, c) & want) == want)
		return 0;
	return -EACCES;
}

int access_unlink(const struct entry *e, const struct cred *c)
{
	const struct entry *dir = e->parent;
	int r;

	r = access_check(dir, c, 2 | 1);
	if (r < 0)
		return r;
	if (!(dir->mode & S_ISVTX) || c->override || c->uid == dir->uid || c->uid == e->uid)
		return 0;
	/*
	 * What the kernel has checked was the entry that had this name before it waited for the entry's lock. The thread
	 * waits for our answer all the while.
	 */
	return c->checked && c->tid > 0 && proc_capable(c->tid, PROC_CAP_FOWNER) ? 0 : -EPERM;
}

unsigned int access_wanted(int oflags)
{
	switch (oflags & O_ACCMODE) {
	case O_RDONLY:
		return 4;
	case O_WRONLY:
		return 2;
	default:
		return 4 | 2;
	}
}
