// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * scan.c - which pages there are, what they hold: the part of a call that is spread over threads.
 *
 * The threads live from scan_hash_begin() to scan_hash_end(), or as long as scan_fill(), so between calls of the partition there is none. They
 * take pieces of the work by one counter and touch nothing in common else: a piece's pages, or a page of the store that only they have.
 * A page that is written meanwhile gives some hash; what is replaced is compared again when nobody can write it (inside.c).
 */
#include <base/cleanup.h>
#include <engine/merge/partition_internal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <wire/uffd.h>

#define PIECE 64u /* pages */
#define REGIONS 512u
#define NICE 10
#define FEW 512u /* pages for which another thread is not worth while */

long scan_present(const struct merge_target *target, uint64_t *start, uint64_t end, uint32_t area,
		  struct seen_page *seen, uint32_t max_pages)
{
	struct scan_region region[REGIONS];
	uint32_t n = 0;

	while (*start < end && n < max_pages) {
		struct scan_arg arg = {
			.size = sizeof(arg),
			.start = *start,
			.end = end,
			.vec = (uintptr_t)region,
			.vec_len = REGIONS,
			.max_pages = max_pages - n,
			/* Present, and neither a file's nor the page of zeros. */
			.category_inverted = SCAN_IS_FILE | SCAN_IS_ZERO,
			.category_mask = SCAN_IS_PRESENT | SCAN_IS_FILE | SCAN_IS_ZERO,
			.return_mask = SCAN_IS_PRESENT,
		};
		int r = ioctl(target->pagemap, SCAN_IOC, &arg);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return errno == ENOTTY ? -EOPNOTSUPP : -errno;
		for (int i = 0; i < r; i++)
			for (uint64_t at = region[i].start; at < region[i].end; at += MERGE_PAGE)
				seen[n++] = (struct seen_page){
					.addr = at,
					.page = STORE_NONE,
					.area = area,
				};
		*start = arg.walk_end;
	}
	return n;
}

/* Hash pages [first, end) of the window; neighbours are read by one call. */
static void hash_piece(const struct scan_job *work, uint32_t first, uint32_t end,
		       unsigned char *room)
{
	const struct merge_target *target = work->target;

	for (uint32_t i = first, next; i < end; i = next) {
		struct seen_page *seen = &work->seen[i];
		int got;

		next = i + 1;
		if (!target->ops->read) {
			seen->hash = scan_content((const void *)(uintptr_t)seen->addr);
			continue;
		}
		while (next < end &&
		       work->seen[next].addr == seen->addr + (uint64_t)(next - i) * MERGE_PAGE)
			next++;
		got = target->ops->read(target->arg, seen->addr, room, next - i);
		for (uint32_t j = i; j < next; j++) {
			if ((int)(j - i) >= got)
				work->seen[j].unread = true;
			else
				work->seen[j].hash =
					scan_content(room + (size_t)(j - i) * MERGE_PAGE);
		}
	}
}

/* The page is written whatever it is by now, and only used if that is what was hashed. */
static void fill_piece(const struct scan_job *work, uint32_t first, uint32_t end,
		       unsigned char *room)
{
	const struct merge_target *target = work->target;

	for (uint32_t i = first; i < end; i++) {
		struct filling *filling = &work->filling[i];
		struct content_hash hash;

		if (target->ops->read)
			filling->failed = target->ops->read(target->arg, filling->addr, room, 1) !=
				1;
		else
			scan_copy(room, (const void *)(uintptr_t)filling->addr);
		if (filling->failed)
			continue;
		store_write(&work->part->store, filling->page, room);
		hash = scan_content(store_page(&work->part->store, filling->page));
		filling->failed = memcmp(&hash, &filling->hash, sizeof(hash)) != 0;
	}
}

static void *work_on(void *arg)
{
	struct scan_job *work = arg;
	cleanup_free unsigned char *room = malloc((size_t)PIECE * MERGE_PAGE);

	/* The process whose memory it is, and what stops it for a moment, go first. */
	if (work->target->ops->read && !pthread_equal(pthread_self(), work->owner))
		setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE);
	for (;;) {
		uint32_t first = __atomic_fetch_add(&work->next, PIECE, __ATOMIC_RELAXED);
		uint32_t end = first + PIECE < work->nr_items ? first + PIECE : work->nr_items;

		if (first >= work->nr_items)
			return NULL;
		for (uint32_t i = first; !room && i < end; i++) {
			if (work->seen)
				work->seen[i].unread = true;
			else
				work->filling[i].failed = true;
		}
		if (room && work->seen)
			hash_piece(work, first, end, room);
		else if (room)
			fill_piece(work, first, end, room);
	}
}

/* Threads that work beside the caller. */
static void begin(struct scan_job *job)
{
	unsigned int nr = job->nr_items < FEW ? 1 : job->part->conf.nr_threads;

	job->owner = pthread_self();
	for (unsigned int i = 1; i < nr; i++)
		if (pthread_create(&job->thread[job->nr_started], NULL, work_on, job) == 0)
			job->nr_started++;
}

void scan_hash_begin(struct scan_job *job, struct partition *part,
		     const struct merge_target *target, struct seen_page *seen, uint32_t nr_pages)
{
	*job = (struct scan_job){
		.part = part, .target = target, .seen = seen, .nr_items = nr_pages
	};
	begin(job);
}

void scan_hash_end(struct scan_job *job)
{
	if (job->nr_items)
		work_on(job);
	while (job->nr_started)
		pthread_join(job->thread[--job->nr_started], NULL);
	job->nr_items = 0;
}

void scan_fill(struct partition *part, const struct merge_target *target, struct filling *filling,
	       uint32_t nr_fillings)
{
	struct scan_job job = {
		.part = part, .target = target, .filling = filling, .nr_items = nr_fillings
	};

	begin(&job);
	scan_hash_end(&job);
}
