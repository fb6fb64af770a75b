// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * self.c - see self.h.
 */
#include <base/cleanup.h>
#include <base/proc.h>
#include <engine/merge/inside.h>
#include <engine/merge/self.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

/** struct region - memory given out, in rising order. @released: given back while it was being read */
struct region {
	uint64_t start;
	uint64_t end;
	bool released;
};

struct merge_self {
	pthread_mutex_t lock;
	int device;
	bool ready; /* @in is of this process, not of its parent */
	struct inside in;
	struct region *region;
	size_t nr_regions;
	unsigned int nr_open; /* targets: calls that read the memory */
};

int merge_self_late(struct merge_self **ret)
{
	struct merge_self *self = calloc(1, sizeof(*self));

	if (!self)
		return -ENOMEM;
	self->device = -1;
	pthread_mutex_init(&self->lock, NULL);
	*ret = self;
	return 0;
}

void merge_self_device(struct merge_self *self, int device)
{
	if (self->device >= 0 && device >= 0)
		close(device);
	else if (device >= 0)
		self->device = device;
}

int merge_self_new(int device, struct merge_self **ret)
{
	struct merge_self *self;
	int r = merge_self_late(&self);

	if (r < 0)
		return r;
	r = inside_init(&self->in, device);
	if (r < 0) {
		merge_self_free(self);
		return r;
	}
	self->device = device;
	self->ready = true;
	*ret = self;
	return 0;
}

void merge_self_free(struct merge_self *self)
{
	if (!self)
		return;
	if (self->ready)
		inside_deinit(&self->in);
	if (self->device >= 0)
		close(self->device);
	pthread_mutex_destroy(&self->lock);
	free(self->region);
	free(self);
}

void *merge_self_alloc(struct merge_self *self, size_t size)
{
	struct region *more;
	size_t at;
	void *p;

	if (size == 0 || size > SIZE_MAX - MERGE_PAGE) {
		errno = EINVAL;
		return NULL;
	}
	size = (size + MERGE_PAGE - 1) & ~(size_t)(MERGE_PAGE - 1);
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	pthread_mutex_lock(&self->lock);
	more = reallocarray(self->region, self->nr_regions + 1, sizeof(*more));
	if (more) {
		self->region = more;
		for (at = self->nr_regions; at > 0 && more[at - 1].start > (uintptr_t)p; at--)
			more[at] = more[at - 1];
		more[at] = (struct region){ .start = (uintptr_t)p, .end = (uintptr_t)p + size };
		self->nr_regions++;
	}
	pthread_mutex_unlock(&self->lock);
	if (!more) {
		munmap(p, size);
		errno = ENOMEM;
		return NULL;
	}
	return p;
}

/* Give back what has been released. */
static int unmap_released(struct merge_self *self)
{
	size_t n = 0;
	int r = 0;

	for (size_t i = 0; i < self->nr_regions; i++) {
		struct region *region = &self->region[i];

		if (region->released &&
		    munmap((void *)(uintptr_t)region->start, region->end - region->start) == 0)
			continue;
		if (region->released)
			r = -errno;
		region->released = false;
		self->region[n++] = *region;
	}
	self->nr_regions = n;
	return r;
}

int merge_self_release(struct merge_self *self, void *addr)
{
	int r = -EINVAL;

	pthread_mutex_lock(&self->lock);
	for (size_t i = 0; i < self->nr_regions; i++) {
		struct region *region = &self->region[i];

		if (region->start != (uintptr_t)addr || region->released)
			continue;
		region->released = true;
		r = self->nr_open ? 0 : unmap_released(self);
		break;
	}
	pthread_mutex_unlock(&self->lock);
	return r;
}

static int self_areas(void *arg, uint64_t start, uint64_t end, struct merge_area **ret)
{
	struct merge_self *self = arg;
	struct merge_area *area;
	int n = 0;

	pthread_mutex_lock(&self->lock);
	area = calloc(self->nr_regions + 1, sizeof(*area));
	for (size_t i = 0; area && i < self->nr_regions; i++) {
		const struct region *region = &self->region[i];

		if (region->end <= start || region->start >= end || region->released)
			continue;
		area[n++] = (struct merge_area){
			.start = region->start > start ? region->start : start,
			.end = region->end < end ? region->end : end,
		};
	}
	pthread_mutex_unlock(&self->lock);
	*ret = area;
	return area ? n : -ENOMEM;
}

/* Of a memory that has been released since it was planned nothing may be touched. */
static bool is_ours(const struct merge_self *self, const struct merge_batch *batch)
{
	const struct merge_run *last = &batch->run[batch->nr_runs - 1];
	uint64_t end = last->addr + (uint64_t)last->nr_pages * MERGE_PAGE;

	for (size_t i = 0; i < self->nr_regions; i++)
		if (!self->region[i].released && self->region[i].start <= batch->run[0].addr &&
		    end <= self->region[i].end)
			return true;
	return false;
}

static int self_apply(void *arg, const struct merge_batch *batch, struct merge_answer *ret)
{
	struct merge_self *self = arg;

	pthread_mutex_lock(&self->lock);
	ret->nr_pages = 0;
	if (is_ours(self, batch))
		inside_apply(&self->in, batch, ret);
	inside_tidy(&self->in);
	pthread_mutex_unlock(&self->lock);
	return 0;
}

static int self_segment(void *arg, uint32_t slot, int fd, const void *base, uint64_t size)
{
	struct merge_self *self = arg;

	self->in.view[slot] = (struct inside_view){ .fd = fd, .base = base, .size = size };
	return 0;
}

static int self_populate(void *arg, uint64_t addr, uint64_t len)
{
	return inside_populate(addr, len);
}

int merge_self_open(struct merge_self *self, struct merge_target *ret)
{
	static const struct merge_target_ops ops = {
		.areas = self_areas,
		.apply = self_apply,
		.segment = self_segment,
		.populate = self_populate,
	};
	struct merge_target target = { .ops = &ops, .arg = self, .pid = getpid() };
	int r = proc_birth(target.pid, &target.birth);

	if (r == 0 && !self->ready) {
		r = inside_init(&self->in, self->device);
		self->ready = r == 0;
	}
	if (r < 0)
		return r;
	target.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (target.pagemap < 0)
		return -errno;
	target.maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	if (target.maps < 0) {
		r = -errno;
		close(target.pagemap);
		return r;
	}
	pthread_mutex_lock(&self->lock);
	self->nr_open++;
	pthread_mutex_unlock(&self->lock);
	*ret = target;
	return 0;
}

void merge_self_close(struct merge_target *target)
{
	struct merge_self *self = target->arg;

	pthread_mutex_lock(&self->lock);
	/* A forked child has nothing open. */
	if (self->nr_open && --self->nr_open == 0)
		unmap_released(self);
	pthread_mutex_unlock(&self->lock);
	close(target->pagemap);
	close(target->maps);
}

void merge_self_fork_prepare(struct merge_self *self)
{
	pthread_mutex_lock(&self->lock);
}

void merge_self_fork_parent(struct merge_self *self)
{
	pthread_mutex_unlock(&self->lock);
}

/* Locks are not inherited. Only what a signal handler may do is done here, since the parent may have had threads. */
static void lock_merged(uint64_t start, uint64_t end)
{
	/* mlock2() of all of it would lock what is not merged, too; the kernel tells which is which by the file. */
	cleanup_fd int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	char text[4096];
	size_t have = 0;
	ssize_t n;

	while (maps >= 0 && (n = read(maps, text + have, sizeof(text) - have - 1)) > 0) {
		char *line = text, *eol, *at;

		have += (size_t)n;
		text[have] = 0;
		for (; (eol = strchr(line, '\n')); line = eol + 1) {
			uint64_t from = strtoull(line, &at, 16), to = strtoull(at + 1, &at, 16);

			*eol = 0;
			if (from >= start && to <= end && strstr(at, "/memfd:ksm:"))
				mlock2((void *)(uintptr_t)from, to - from, MLOCK_ONFAULT);
		}
		have -= (size_t)(line - text);
		memmove(text, line, have);
		if (have == sizeof(text) - 1)
			return;
	}
}

void merge_self_fork_child(struct merge_self *self)
{
	/* Another process's userfaultfd; the areas are not here at all. */
	if (self->ready)
		close(self->in.uffd);
	self->ready = false;
	self->nr_open = 0;
	unmap_released(self);
	for (size_t i = 0; i < self->nr_regions; i++)
		lock_merged(self->region[i].start, self->region[i].end);
	pthread_mutex_unlock(&self->lock);
}
