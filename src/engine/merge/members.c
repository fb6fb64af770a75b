// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * members.c - what of the store each process maps: read from its mappings and page tables, not from books.
 */
#include <base/cleanup.h>
#include <engine/merge/partition_internal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <wire/uffd.h>

#define REGIONS 512u

struct runs {
	struct member_run *run;
	size_t nr;
	size_t room;
};

struct member *member_get(struct partition *part, const struct merge_target *target)
{
	struct member *member;

	for (member = part->members; member; member = member->next)
		if (member->pid == target->pid && member->birth == target->birth)
			return member;
	member = calloc(1, sizeof(*member));
	if (!member)
		return NULL;
	member->id = ++part->last_member;
	member->pid = target->pid;
	member->birth = target->birth;
	member->next = part->members;
	part->members = member;
	return member;
}

static int add_run(struct runs *runs, uint64_t addr, uint64_t page, uint32_t nr_pages)
{
	if (runs->nr == runs->room) {
		size_t room = runs->room ? runs->room * 2 : 256;
		struct member_run *more = reallocarray(runs->run, room, sizeof(*more));

		if (!more)
			return -ENOMEM;
		runs->run = more;
		runs->room = room;
	}
	runs->run[runs->nr++] =
		(struct member_run){ .addr = addr, .page = page, .nr_pages = nr_pages };
	return 0;
}

/* A line of /proc/PID/maps: "start-end perms offset major:minor inode path". */
static int take_line(struct partition *part, const char *line, struct runs *runs)
{
	uint64_t start, end, offset;
	unsigned long ino;
	unsigned int major, minor;
	char *at;
	int number;

	start = strtoull(line, &at, 16);
	if (*at != '-')
		return 0;
	end = strtoull(at + 1, &at, 16);
	if (strlen(at) < 20 || at[4] != 'p')
		return 0;
	offset = strtoull(at + 6, &at, 16);
	major = (unsigned int)strtoul(at, &at, 16);
	minor = *at == ':' ? (unsigned int)strtoul(at + 1, &at, 16) : 0;
	ino = strtoul(at, &at, 10);
	if (ino == 0 || major != 0)
		return 0;
	number = store_find(&part->store, makedev(major, minor), ino);
	if (number < 0 ||
	    (end - start + offset) / MERGE_PAGE > part->store.segment[number]->nr_used)
		return 0;
	return add_run(runs, start, (uint64_t)number << 32 | offset / MERGE_PAGE,
		       (uint32_t)((end - start) / MERGE_PAGE));
}

static int read_maps(struct partition *part, int maps, struct runs *runs, uint64_t *ret_vmas)
{
	size_t size = 65536, have = 0;
	cleanup_free char *text = malloc(size);
	uint64_t nr_vmas = 0;

	if (!text || lseek(maps, 0, SEEK_SET) < 0)
		return text ? -errno : -ENOMEM;
	for (;;) {
		ssize_t n = read(maps, text + have, size - have - 1);
		char *line = text, *end;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		have += (size_t)n;
		text[have] = 0;
		while ((end = strchr(line, '\n'))) {
			int r;

			*end = 0;
			r = take_line(part, line, runs);
			if (r < 0)
				return r;
			nr_vmas++;
			line = end + 1;
		}
		have -= (size_t)(line - text);
		memmove(text, line, have + 1);
		if (have == size - 1)
			return -EPROTO;
	}
	/* A process without mappings has ended. */
	if (nr_vmas == 0)
		return -ESRCH;
	*ret_vmas = nr_vmas;
	return 0;
}

/* Keep of @all what lies outside [start, end), which is written; *@at is the run where that may begin. */
static int cut(struct runs *kept, struct runs *all, size_t *at, uint64_t start, uint64_t end)
{
	while (*at < all->nr && all->run[*at].addr < end) {
		struct member_run *run = &all->run[*at];
		uint64_t run_end = run->addr + (uint64_t)run->nr_pages * MERGE_PAGE, skip;

		if (run->addr < start) {
			uint64_t upto = run_end < start ? run_end : start;
			int r = add_run(kept, run->addr, run->page,
					(uint32_t)((upto - run->addr) / MERGE_PAGE));

			if (r < 0)
				return r;
		}
		if (run_end > end) {
			skip = end > run->addr ? (end - run->addr) / MERGE_PAGE : 0;
			run->addr += skip * MERGE_PAGE;
			run->page += skip;
			run->nr_pages -= (uint32_t)skip;
			return 0;
		}
		++*at;
	}
	return 0;
}

/* Take out of @all the pages that are the process's own by now. */
static int without_written(const struct merge_target *target, struct runs *all, struct runs *kept)
{
	struct scan_region region[REGIONS];
	size_t at = 0;
	uint64_t start, end;

	if (all->nr == 0)
		return 0;
	start = all->run[0].addr;
	end = all->run[all->nr - 1].addr + (uint64_t)all->run[all->nr - 1].nr_pages * MERGE_PAGE;
	while (start < end) {
		struct scan_arg arg = {
			.size = sizeof(arg),
			.start = start,
			.end = end,
			.vec = (uintptr_t)region,
			.vec_len = REGIONS,
			.category_inverted = SCAN_IS_FILE,
			.category_mask = SCAN_IS_FILE,
			.category_anyof_mask = SCAN_IS_PRESENT | SCAN_IS_SWAPPED,
			.return_mask = SCAN_IS_FILE,
		};
		int n = ioctl(target->pagemap, SCAN_IOC, &arg);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		for (int i = 0; i < n; i++) {
			int r = cut(kept, all, &at, region[i].start, region[i].end);

			if (r < 0)
				return r;
		}
		start = arg.walk_end;
	}
	return cut(kept, all, &at, UINT64_MAX, UINT64_MAX);
}

static void count(struct partition *part, const struct member_run *run, size_t nr_runs, int delta)
{
	for (size_t i = 0; i < nr_runs; i++)
		for (uint32_t j = 0; j < run[i].nr_pages; j++)
			store_ref(&part->store, run[i].page + j, delta);
}

int member_refresh(struct partition *part, struct member *member, const struct merge_target *target,
		   uint64_t *ret_vmas)
{
	struct runs all = { 0 }, kept = { 0 };
	uint64_t nr_vmas = 0;
	int r = read_maps(part, target->maps, &all, &nr_vmas);

	if (r == 0)
		r = without_written(target, &all, &kept);
	free(all.run);
	if (r < 0) {
		free(kept.run);
		return r;
	}
	count(part, kept.run, kept.nr, 1);
	count(part, member->run, member->nr_runs, -1);
	free(member->run);
	member->run = kept.run;
	member->nr_runs = kept.nr;
	if (ret_vmas)
		*ret_vmas = nr_vmas;
	return 0;
}

void member_drop(struct partition *part, struct member *member)
{
	struct member **at = &part->members;

	while (*at != member)
		at = &(*at)->next;
	*at = member->next;
	count(part, member->run, member->nr_runs, -1);
	index_forget(&part->index, member->id);
	free(member->run);
	free(member);
}
