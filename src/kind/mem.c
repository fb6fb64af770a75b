// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mem.c - memory objects: each is a memfd with a name, an owner, a limit and seals.
 *
 * The memfd carries the entry's owner and mode, so that whoever gets a read-only descriptor cannot open it again
 * for writing through /proc. Where the kernel can, it serves opened objects from the memfd itself, so
 * the mount and the library see one memory.
 *
 * A size is charged when it passes here. A write past the end of an opened object and ftruncate() of a descriptor that was given
 * out do not: that growth is charged when next looked at, as if it had been asked for. What would have been refused
 * cannot be undone, so the object is sealed against growing. Beyond its owner's limit it counts for him alone (core/quota.c);
 * what only the folder has no room for counts with the memory that it has, not with a size that cost nothing. So nobody takes
 * more of the folder by growing unasked than his limit, and who has no limit no more than the memory that is filled.
 */
#include <base/cleanup.h>
#include <core/tree.h>
#include <errno.h>
#include <fcntl.h>
#include <kind/kinds.h>
#include <kind/later.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wire/ctl.h>
#include <engine/remote/reopen.h>
#include <stdlib.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif

#define PAGE 4096u
#define FIXED (F_SEAL_SHRINK | F_SEAL_GROW)
#define NO_WRITE (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)
#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)

/*
 * @sealing: a seal against writing was asked for, and what became of it is not known
 * @shared: a writable descriptor was given out, which may change the size behind our back
 */
struct mem_priv {
	uint32_t flags;
	uint32_t shared;
	uint32_t sealing;
};

/* entry.busy: how many seals against writing are under way, and */
#define GROW_SEALING (1u << 31) /* one against growing is */

static int own(int fd, uint32_t mode, uid_t uid, gid_t gid)
{
	return fchmod(fd, mode & 0666) < 0 || fchown(fd, uid, gid) < 0 ? -errno : 0;
}

static int new_memfd(const struct entry *e, unsigned int flags)
{
	unsigned int mfd = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	char name[ENTRY_NAME_MAX + 1];
	int fd;

	/* A memfd's name is cut: it is for people who read /proc/PID/maps. */
	snprintf(name, sizeof(name), "kshared:%.200s", e->name);
	if (flags & CTL_MEM_HUGE_2MB)
		mfd |= MFD_HUGETLB | MFD_HUGE_2MB;
	if (flags & CTL_MEM_HUGE_1GB)
		mfd |= MFD_HUGETLB | MFD_HUGE_1GB;
	fd = memfd_create(name, mfd | MFD_NOEXEC_SEAL);
	if (fd < 0 && errno == EINVAL)
		fd = memfd_create(name, mfd);
	return fd < 0 ? -errno : fd;
}

/* Huge pages are promised when a mapping is made, and stay promised to the file when it is gone. */
static int reserve_huge(int fd, const struct request *rq)
{
	void *at;

	if (!(rq->flags & (CTL_MEM_HUGE_2MB | CTL_MEM_HUGE_1GB)) || rq->size == 0)
		return 0;
	at = mmap(NULL, rq->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	munmap(at, rq->size);
	return 0;
}

static int mem_create(struct entry *e, struct request *rq)
{
	struct mem_priv *p = e->priv;
	cleanup_fd int fd = -1;
	int r;

	if (rq->fd >= 0 ||
	    (rq->flags & ~(CTL_MEM_RESIZABLE | CTL_MEM_HUGE_2MB | CTL_MEM_HUGE_1GB)) ||
	    ((rq->flags & CTL_MEM_HUGE_2MB) && (rq->flags & CTL_MEM_HUGE_1GB)) ||
	    rq->size > INT64_MAX)
		return -EINVAL;
	if (((rq->flags & CTL_MEM_HUGE_2MB) && rq->size % (2u << 20)) ||
	    ((rq->flags & CTL_MEM_HUGE_1GB) && rq->size % (1u << 30)))
		return -EINVAL;
	p->flags = rq->flags;
	p->shared = p->sealing = 0;
	r = entry_recharge(e, rq->size, false);
	if (r < 0)
		return r;
	fd = new_memfd(e, rq->flags);
	if (fd < 0)
		return fd;
	r = own(fd, e->mode, e->uid, e->gid);
	if (r < 0 && e->tree->uid == 0)
		return r;
	if (ftruncate(fd, (off_t)rq->size) < 0)
		return -errno;
	r = reserve_huge(fd, rq);
	if (r < 0)
		return r;
	if (rq->size && !(rq->flags & CTL_MEM_RESIZABLE) && fcntl(fd, F_ADD_SEALS, FIXED) < 0)
		return -errno;
	rq->fd = take_fd(&fd);
	return 0;
}

static unsigned int seals_of(int fd)
{
	int seals = fcntl(fd, F_GET_SEALS);

	return seals < 0 ? 0 : (unsigned int)seals & SEALS;
}

/* Take room for a size. On record before it is so: who dies between has charged too much rather than too little. */
static int grant(struct entry *e, uint64_t size)
{
	int r = entry_recharge(e, size, false);

	if (r == 0)
		entry_save(e, NULL, -1);
	return r;
}

static void seal_work(struct later *l)
{
	l->result = fcntl(l->fd, F_ADD_SEALS, l->flags) < 0 ? -errno : 0;
}

static void sealed(struct later *l)
{
	struct mem_priv *p = l->e->priv;

	if (l->flags & NO_WRITE)
		l->e->busy--;
	else
		l->e->busy &= ~GROW_SEALING;
	if (!(l->e->busy & ~GROW_SEALING) && p->sealing) {
		p->sealing = 0;
		entry_save(l->e, NULL, -1);
	}
	if (l->result == 0 && l->e->tree->attr_changed)
		l->e->tree->attr_changed(l->e->tree, l->e);
}

/*
 * A seal against writing that is under way is on record: the process may end and the call go on all the same. Nobody is to
 * open the object for writing until it is known what became of it.
 */
static int seal(struct entry *e, struct request *rq, uint32_t flags)
{
	struct mem_priv *p = e->priv;
	int r;

	if (!(flags & NO_WRITE)) {
		e->busy |= GROW_SEALING;
	} else {
		e->busy++;
		if (!p->sealing) {
			p->sealing = flags;
			entry_save(e, NULL, -1);
		}
	}
	r = later_start(e, rq,
			&(struct later){ .work = seal_work, .finish = sealed, .flags = flags });
	if (r == -ENOMEM || r == -EBADF)
		sealed(&(struct later){ .e = e, .flags = flags, .result = r });
	return r;
}

/* Charge what the object has become: its size, or the memory that it has, which can be more (FALLOC_FL_KEEP_SIZE). */
static void settle(struct entry *e, int fd, const struct stat *st)
{
	uint64_t size = (uint64_t)st->st_size, memory = (uint64_t)st->st_blocks * 512;
	uint64_t before = e->charged_bytes;
	int r = 0;

	/* A last page that is begun is no more than the size says. */
	if (memory > size && memory - size < PAGE)
		memory = size;
	if (size < memory)
		size = memory;
	if (size > before)
		r = quota_check(e->tree, e->uid, 0, size - before);
	if (r < 0 && !(e->busy & GROW_SEALING) && !(seals_of(fd) & F_SEAL_GROW))
		seal(e, NULL, F_SEAL_GROW);
	if (r == -ENOSPC)
		size = memory > before ? memory : before;
	entry_recharge(e, size, true);
	/* A successor that had to charge it anew might find that others have taken the room. */
	if (e->charged_bytes != before)
		entry_save(e, NULL, -1);
}

static void mem_describe(struct entry *e, struct description *ret)
{
	struct mem_priv *p = e->priv;
	int fd = entry_fd(e);
	struct stat st;

	memcpy(ret->what, "memfd", 6);
	ret->access = O_RDWR;
	if (fd < 0 || fstat(fd, &st) < 0)
		return;
	settle(e, fd, &st);
	ret->size_bytes = (uint64_t)st.st_size;
	ret->allocated_bytes = (uint64_t)st.st_blocks * 512;
	ret->mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
	ret->seals = seals_of(fd);
	if (p->shared && (ret->seals & FIXED) != FIXED)
		ret->change = CHANGE_ALL;
	else if (!(ret->seals & F_SEAL_WRITE))
		ret->change = CHANGE_DETAILS;
}

static int mem_open(struct entry *e, struct request *rq)
{
	struct mem_priv *p = e->priv;
	int fd = entry_fd(e);
	int id;

	if (fd < 0)
		return fd;
	if ((access_wanted(rq->oflags) & 2) &&
	    (seals_of(fd) & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)))
		return -EPERM;
	if (p->flags & (CTL_MEM_HUGE_2MB | CTL_MEM_HUGE_1GB))
		return -EOPNOTSUPP;
	if (access_wanted(rq->oflags) & 2) {
		/* One that a process before us had begun is finished first. */
		if (p->sealing && !(e->busy & ~GROW_SEALING))
			seal(e, NULL, p->sealing);
		if (p->sealing)
			return -EBUSY;
		id = writers_open(e, rq);
		if (id < 0)
			return id;
	}
	rq->how = OPEN_CACHED;
	if (e->tree->passthrough) {
		id = e->tree->store->ops->backing(e->tree->store, e->id);
		if (id > 0) {
			rq->how = OPEN_PASSTHROUGH;
			rq->backing = id;
		}
	}
	return 0;
}

static int mem_read(struct entry *e, struct request *rq)
{
	int fd = entry_fd(e);
	ssize_t n;

	if (fd < 0)
		return fd;
	n = pread(fd, rq->out.iov_base, rq->len < rq->out.iov_len ? rq->len : rq->out.iov_len,
		  (off_t)rq->offset);
	if (n < 0)
		return -errno;
	rq->out.iov_len = (size_t)n;
	return (int)n;
}

static void write_work(struct later *l)
{
	ssize_t n = pwrite(l->fd, l->data, l->size, (off_t)l->offset);

	l->result = n < 0 ? -errno : (int)n;
}

/* Only without passthrough. */
static int mem_write(struct entry *e, struct request *rq)
{
	int fd = entry_fd(e);
	uint64_t end = rq->offset + rq->len;
	struct stat st;
	void *copy;
	int r;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (end > (uint64_t)st.st_size && end > e->charged_bytes) {
		r = grant(e, end);
		if (r < 0)
			return r;
	}
	copy = malloc(rq->len ? rq->len : 1);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, rq->data, rq->len);
	return later_start(e, rq,
			   &(struct later){
				   .work = write_work,
				   .offset = rq->offset,
				   .size = rq->len,
				   .data = copy,
			   });
}

static void mem_close(struct entry *e, struct request *rq)
{
	struct description d;

	if (!(access_wanted(rq->oflags) & 2))
		return;
	writers_close(e->tree, rq->word);
	entry_describe(e, &d);
}

static void resize_work(struct later *l)
{
	l->result = ftruncate(l->fd, (off_t)l->size) < 0 ? -errno : 0;
}

static void resized(struct later *l)
{
	if (l->result == 0 && l->size >= l->before)
		return;
	entry_recharge(l->e, l->result < 0 ? l->before : l->size, true);
	entry_save(l->e, NULL, -1);
}

static int mem_resize(struct entry *e, struct request *rq)
{
	int fd = entry_fd(e);
	uint64_t before = e->charged_bytes;
	struct stat st;
	int r;

	if (fd < 0)
		return fd;
	if (rq->size > INT64_MAX)
		return -EFBIG;
	if (fstat(fd, &st) < 0)
		return -errno;
	/* What has grown unasked may be larger than its charge: to make it smaller needs no room. */
	if (rq->size > before && rq->size > (uint64_t)st.st_size) {
		r = grant(e, rq->size);
		if (r < 0)
			return r;
	}
	return later_start(e, rq,
			   &(struct later){
				   .work = resize_work,
				   .finish = resized,
				   .size = rq->size,
				   .before = before,
			   });
}

static void fallocate_work(struct later *l)
{
	l->result = fallocate(l->fd, (int)l->flags, (off_t)l->offset, (off_t)l->size) < 0 ? -errno
											  : 0;
}

static void fallocated(struct later *l)
{
	struct description d;

	entry_describe(l->e, &d);
}

static int mem_fallocate(struct entry *e, struct request *rq)
{
	uint64_t end = rq->offset + rq->size;
	int r;

	if (end < rq->offset || end > INT64_MAX)
		return -EFBIG;
	if (!(rq->flags & FALLOC_FL_PUNCH_HOLE) && end > e->charged_bytes) {
		r = grant(e, end);
		if (r < 0)
			return r;
	}
	return later_start(e, rq,
			   &(struct later){
				   .work = fallocate_work,
				   .finish = fallocated,
				   .offset = rq->offset,
				   .size = rq->size,
				   .flags = rq->flags,
			   });
}

static void seek_work(struct later *l)
{
	off_t at = lseek(l->fd, (off_t)l->offset, (int)l->flags);

	l->result = at < 0 ? -errno : 0;
	l->offset = (uint64_t)at;
}

static void sought(struct later *l)
{
	if (l->rq)
		l->rq->offset = l->offset;
}

static void owner_work(struct later *l)
{
	int r = own(l->fd, l->mode, l->uid, l->gid);

	l->result = l->flags ? 0 : r;
}

static int owner(struct entry *e, struct request *rq);

/* Two changes may be made in either order: the entry is what counts. */
static void owned(struct later *l)
{
	const struct entry *e = l->e;

	if (e->mode != l->mode || e->uid != l->uid || e->gid != l->gid)
		owner(l->e, NULL);
}

static int owner(struct entry *e, struct request *rq)
{
	return later_start(e, rq,
			   &(struct later){
				   .work = owner_work,
				   .finish = owned,
				   .must = true,
				   .mode = e->mode,
				   .uid = e->uid,
				   .gid = e->gid,
				   .flags = e->tree->uid != 0,
			   });
}

static int mem_command(struct entry *e, struct request *rq)
{
	int fd = entry_fd(e);

	if (fd < 0)
		return fd;
	switch (rq->cmd) {
	case COMMAND_FALLOCATE:
		return mem_fallocate(e, rq);
	case COMMAND_FSYNC:
		return 0;
	case COMMAND_LSEEK:
		return later_start(e, rq,
				   &(struct later){
					   .work = seek_work,
					   .finish = sought,
					   .offset = rq->offset,
					   .flags = rq->flags,
				   });
	case COMMAND_SEAL:
		if (rq->flags == 0 || (rq->flags & ~(uint32_t)SEALS))
			return -EINVAL;
		if (rq->resent && (seals_of(fd) & rq->flags) == rq->flags)
			return 0;
		if ((rq->flags & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) && writers_any(e))
			return -EBUSY;
		return seal(e, rq, rq->flags);
	case COMMAND_OWNER:
		return owner(e, rq);
	default:
		return -EOPNOTSUPP;
	}
}

static int mem_share(struct entry *e, struct request *rq, unsigned int granted)
{
	struct mem_priv *p = e->priv;
	unsigned int want = access_wanted(rq->oflags);
	int fd = entry_fd(e);

	if (fd < 0)
		return fd;
	if ((want & granted) != want)
		return -EACCES;
	if ((want & 2) && (seals_of(fd) & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)))
		return -EPERM;
	fd = reopen_fd(e->tree->proc, fd, rq->oflags & O_ACCMODE);
	if (fd < 0)
		return fd;
	rq->out_fd = fd;
	rq->out_quick = true; /* others hold it, too */
	if ((want & 2) && !p->shared) {
		p->shared = 1;
		entry_save(e, NULL, -1);
		if (e->tree->attr_changed)
			e->tree->attr_changed(e->tree, e);
	}
	return 0;
}

const struct kind kind_mem = {
	.name = "mem",
	.summary = "memory objects",
	.entry_size = sizeof(struct mem_priv),
	.dir_mode = 01777,
	.create = mem_create,
	.open = mem_open,
	.read = mem_read,
	.write = mem_write,
	.close = mem_close,
	.resize = mem_resize,
	.command = mem_command,
	.share = mem_share,
	.describe = mem_describe,
};
