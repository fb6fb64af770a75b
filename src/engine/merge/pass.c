// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pass.c - one call of partition_merge(): windows, plan, batches. partition.h says how.
 *
 * The plan is a hint all through: a page's hash may be old, its store page may be filled with something else. What is planned
 * wrongly is found by the comparison when it is carried out (inside.c) and counted as changed.
 */
#include <base/cleanup.h>
#include <engine/merge/partition_internal.h>
#include <stdio.h>
#include <string.h>

#define AHEAD 16u /* prefetch */
#define SPAN_MAX (64ull << 20) /* bytes from a batch's first page to its last */
#define LATER_MAX 16384u /* first sightings that wait to be replaced */
#define PAUSE_LONG_NS 140000 /* a process that stands still so long gets smaller batches */
#define PAUSE_SHORT_NS 110000
#define RUN_WORK 6u /* a run takes so much longer than a page in it */
#define WORK_LEAST 64u /* what is less takes as long */
#define WORK_FIRST 160u
#define WORK_STEP 8u
#define VMA_RESERVE 512u /* mappings that are left to the process */
#define VMA_RECOUNT 1024u
#define COPIES_MAX 7u /* of a page that follows itself */
#define COPIES_EVENLY 64u
#define COPIES_SHARE 96u /* of so many pages that are saved one goes into copies */

/** struct planned - a page and what takes its place. */
struct planned {
	uint64_t addr;
	uint64_t page;
};

/**
 * struct pass - state of one call.
 * @index: the partition's; in a dry run one of its own
 * @slot: which segment a slot means to the target; -1: none yet
 * @at_area, @at: where the next window begins
 * @seen, @nr_seen: the window that is being worked on
 * @batch_pages, @batch_work: in @batch; work is pages, and RUN_WORK for each run that is mapped
 * @most_work: in one batch, by how long the last ones took
 * @vmas_left: mappings that may yet be made, by a cautious estimate; @vmas_made: since they were last counted
 */
struct pass {
	struct partition *part;
	struct member *member;
	const struct merge_target *target;
	struct merge_result *result;
	struct merge_area *area;
	int nr_areas;
	uint32_t call;
	bool dry;
	struct index *index;
	int at_area;
	uint64_t at;
	struct seen_page *seen;
	uint32_t nr_seen;
	struct filling *filling;
	uint32_t nr_fillings;
	struct planned *later;
	uint32_t nr_later;
	int64_t slot[MERGE_SLOTS];
	struct merge_batch batch;
	uint32_t batch_pages;
	int batch_area;
	uint32_t batch_work;
	uint32_t most_work;
	uint64_t vmas_left;
	uint64_t vmas_all;
	uint64_t vmas_made;
};

/* How many pages from this one follow each other and are equal, as far as that is known: in its window. */
static uint32_t equal_pages(const struct pass *pass, uint32_t at)
{
	const struct seen_page *first = &pass->seen[at];
	uint32_t n = 1;

	while (n <= COPIES_MAX && at + n < pass->nr_seen &&
	       first[n].addr == first->addr + (uint64_t)n * MERGE_PAGE && !first[n].unread &&
	       memcmp(&first[n].hash, &first->hash, sizeof(first->hash)) == 0)
		n++;
	return n;
}

/*
 * A page that follows itself many times in a row, as in memory filled with a pattern, would have a mapping for each time. So the store has
 * copies of it behind it, as long as they take no more than a small part of what is saved.
 */
static uint8_t copies_for(struct pass *pass, uint32_t at)
{
	struct partition *part = pass->part;
	uint64_t may = part->nr_saved / COPIES_SHARE, n = equal_pages(pass, at) - 1, most;

	if (may <= part->nr_copies)
		return 0;
	/* The first copy is worth most. */
	most = 1 + (may - part->nr_copies) / COPIES_EVENLY;
	n = n < most ? n : most;
	part->nr_copies += n;
	return (uint8_t)n;
}

static uint64_t max_vmas(const struct partition *part)
{
	unsigned long long n = 65530;
	FILE *f;

	if (part->conf.max_vmas)
		return part->conf.max_vmas;
	f = fopen("/proc/sys/vm/max_map_count", "re");
	if (f) {
		if (fscanf(f, "%llu", &n) != 1)
			n = 65530;
		fclose(f);
	}
	return n;
}

/* How many mappings may be made: all but a reserve, or an eighth of what there may be if that is less. */
static int count_vmas(struct pass *pass)
{
	uint64_t have, most = max_vmas(pass->part), reserve;
	int r = member_refresh(pass->part, pass->member, pass->target, &have);

	if (r < 0)
		return r;
	reserve = most / 8 < VMA_RESERVE ? most / 8 : VMA_RESERVE;
	pass->vmas_all = most;
	pass->vmas_left = have + reserve < most ? most - have - reserve : 0;
	pass->vmas_made = 0;
	return 0;
}

/* How large the next batch may be, so that the process does not stand still for long. One that was not full tells nothing. */
static void adapt(struct pass *pass)
{
	uint64_t pause;

	if (!pass->target->ops->pause_ns || pass->batch_work < pass->most_work / 4 * 3)
		return;
	pause = pass->target->ops->pause_ns(pass->target->arg);
	if (pause > PAUSE_LONG_NS)
		pass->most_work -= pass->most_work / 8;
	else if (pause < PAUSE_SHORT_NS && pass->most_work < MERGE_BATCH_PAGES * RUN_WORK)
		pass->most_work += WORK_STEP;
	if (pass->most_work < WORK_LEAST)
		pass->most_work = WORK_LEAST;
}

/* Is there no room for another run? */
static bool is_full(const struct pass *pass)
{
	const struct partition_conf *conf = &pass->part->conf;

	return pass->batch.nr_runs >= conf->batch_runs || pass->batch_pages >= conf->batch_pages ||
		pass->batch_work + RUN_WORK >= pass->most_work;
}

/* How many pages the next run may have. */
static uint32_t room_for_run(const struct pass *pass)
{
	uint32_t pages = pass->part->conf.batch_pages - pass->batch_pages;
	uint32_t work = pass->most_work - pass->batch_work - RUN_WORK;

	return pages < work ? pages : work;
}

/* Carry out the batch. */
static int flush(struct pass *pass)
{
	struct merge_answer answer;
	struct merge_result *result = pass->result;
	uint32_t at = 0;
	int r;

	if (pass->batch.nr_runs == 0)
		return 0;
	pass->batch.flags = pass->area[pass->batch_area].flags | pass->part->conf.batch_flags;
	r = pass->target->ops->apply(pass->target->arg, &pass->batch, &answer);
	for (uint32_t k = 0; r == 0 && k < pass->batch.nr_runs; k++) {
		const struct merge_run *run = &pass->batch.run[k];

		for (uint32_t i = 0; i < run->nr_pages; i++, at++) {
			uint8_t fate = at < answer.nr_pages ? answer.page[at] : MERGE_MAPPING;

			result->merged += fate == MERGE_DONE;
			result->zero += fate == MERGE_DONE && run->slot == MERGE_SLOT_ZERO;
			result->skipped_changed += fate == MERGE_CHANGED;
			result->skipped_pinned += fate == MERGE_PINNED;
			result->skipped_mapping += fate == MERGE_MAPPING;
			result->skipped_limit += fate == MERGE_LIMIT;
		}
	}
	adapt(pass);
	pass->batch.nr_runs = 0;
	pass->batch_pages = pass->batch_work = 0;
	return r;
}

/* The slot by which the target knows a page's segment. */
static int slot_of(struct pass *pass, uint64_t page, uint32_t *ret)
{
	uint32_t number = (uint32_t)(page >> 32), slot = number % MERGE_SLOTS;
	const struct segment *segment;
	int r;

	*ret = slot;
	if (pass->slot[slot] == number)
		return 0;
	r = flush(pass);
	if (r < 0)
		return r;
	segment = store_segment(&pass->part->store, page);
	r = pass->target->ops->segment(pass->target->arg, slot, segment->fd, segment->base,
				       (uint64_t)pass->part->store.segment_pages * MERGE_PAGE);
	if (r == 0)
		pass->slot[slot] = number;
	return r;
}

static int area_of(const struct pass *pass, uint64_t addr)
{
	int low = 0, high = pass->nr_areas;

	while (low < high) {
		int middle = (low + high) / 2;

		if (pass->area[middle].end <= addr)
			low = middle + 1;
		else
			high = middle;
	}
	return low < pass->nr_areas && pass->area[low].start <= addr ? low : -1;
}

/* How many pages from the first are neighbours in both places. */
static uint32_t run_length(const struct planned *plan, uint32_t nr, uint64_t end, uint32_t most)
{
	uint32_t n = 1;

	while (n < nr && n < most && plan[n].addr == plan[0].addr + (uint64_t)n * MERGE_PAGE &&
	       plan[n].addr < end &&
	       plan[n].page == (plan[0].page == ZERO_PAGE ? ZERO_PAGE : plan[0].page + (uint64_t)n))
		n++;
	return n;
}

/* May a run of so many pages have a mapping of its own? Where they become few, short runs go without. */
static int may_map(struct pass *pass, uint32_t nr_pages)
{
	if (pass->vmas_left < 2 && pass->vmas_made > VMA_RECOUNT) {
		int r = flush(pass);

		if (r == 0)
			r = count_vmas(pass);
		if (r < 0)
			return r;
	}
	if (pass->vmas_left < 2)
		return 0;
	if (pass->vmas_left < pass->vmas_all / 4)
		return nr_pages >= 4;
	if (pass->vmas_left < pass->vmas_all / 2)
		return nr_pages >= 2;
	return 1;
}

/* Put runs into batches. The plan is in rising order. */
static int carry_out(struct pass *pass, const struct planned *plan, uint32_t nr)
{
	uint32_t n;

	for (uint32_t i = 0; i < nr; i += n) {
		int area = area_of(pass, plan[i].addr), r = 0;
		struct merge_batch *batch = &pass->batch;
		uint32_t slot = MERGE_SLOT_ZERO;

		n = 1;
		if (area < 0)
			continue;
		if (is_full(pass) ||
		    (batch->nr_runs &&
		     (area != pass->batch_area || plan[i].addr - batch->run[0].addr >= SPAN_MAX)))
			r = flush(pass);
		if (r < 0)
			return r;
		n = run_length(plan + i, nr - i, pass->area[area].end, room_for_run(pass));
		if (plan[i].page != ZERO_PAGE) {
			r = may_map(pass, n);
			if (r == 0)
				pass->result->skipped_limit += n;
			if (r > 0)
				r = slot_of(pass, plan[i].page, &slot) ?: 1;
			if (r < 0)
				return r;
			if (r == 0)
				continue;
			pass->vmas_left -= pass->vmas_left < 2 ? pass->vmas_left : 2;
			pass->vmas_made += 2;
			pass->batch_work += RUN_WORK;
		}
		pass->batch_area = area;
		pass->batch_pages += n;
		pass->batch_work += n;
		batch->run[batch->nr_runs++] = (struct merge_run){
			.addr = plan[i].addr,
			.nr_pages = n,
			.slot = slot,
			.offset = slot == MERGE_SLOT_ZERO
				? 0
				: (uint64_t)(uint32_t)plan[i].page * MERGE_PAGE,
		};
	}
	return flush(pass);
}

static int by_addr(const void *a, const void *b)
{
	const struct planned *p = a, *q = b;

	return p->addr < q->addr ? -1 : p->addr > q->addr;
}

/* The first sightings whose equals have been found since. */
static int carry_out_later(struct pass *pass)
{
	uint32_t nr = pass->nr_later;

	qsort(pass->later, nr, sizeof(*pass->later), by_addr);
	pass->nr_later = 0;
	return carry_out(pass, pass->later, nr);
}

/* A second page with this content: it goes into the store, and where the first one is that is replaced later. */
static int share(struct pass *pass, struct seen_page *seen, struct index_entry *entry)
{
	uint64_t page;
	int r = store_new_page(&pass->part->store, copies_for(pass, (uint32_t)(seen - pass->seen)),
			       &page);

	if (r < 0) {
		pass->result->skipped_limit++;
		return 0;
	}
	pass->filling[pass->nr_fillings++] =
		(struct filling){ .addr = seen->addr, .page = page, .hash = seen->hash };
	if (entry->member == pass->member->id && area_of(pass, entry->where) >= 0) {
		pass->later[pass->nr_later++] =
			(struct planned){ .addr = entry->where, .page = page };
		if (entry->call == pass->call)
			pass->result->unique--;
	}
	index_set(pass->index, entry, INDEX_STORE, page, pass->call);
	seen->page = page;
	return 0;
}

/* Of a page of the store and its copies the one that follows what takes the place of the page before. */
static uint64_t next_copy(const struct pass *pass, const struct seen_page *seen, uint64_t page)
{
	uint64_t after;

	if (seen == pass->seen || seen[-1].addr + MERGE_PAGE != seen->addr)
		return page;
	after = seen[-1].page + 1;
	return after > page && after - page <= store_copies(&pass->part->store, page) ? after
										      : page;
}

static int look_up(struct pass *pass, struct seen_page *seen)
{
	struct index_entry *entry = index_find(pass->index, &seen->hash);
	struct index_entry first = { .hash = seen->hash,
				     .where = seen->addr,
				     .member = pass->member->id,
				     .call = pass->call };

	if (entry && entry->member == INDEX_STORE) {
		if (store_has(&pass->part->store, entry->where)) {
			seen->page = next_copy(pass, seen, entry->where);
			pass->part->nr_saved++;
			return 0;
		}
		index_set(pass->index, entry, first.member, first.where, first.call);
	} else if (entry && (entry->member != first.member || entry->where != first.where)) {
		return share(pass, seen, entry);
	} else if (entry) {
		entry->call = pass->call;
	} else if (index_add(pass->index, &first) < 0) {
		pass->result->skipped_limit++;
		return 0;
	}
	pass->result->unique++;
	return 0;
}

/* What would be: neither the partition nor the process is changed. */
static int look_up_dry(struct pass *pass, struct seen_page *seen)
{
	struct merge_result *result = pass->result;
	const struct index_entry *real = index_find(&pass->part->index, &seen->hash);
	struct index_entry *entry = index_find(pass->index, &seen->hash);

	if (real && real->member == INDEX_STORE && store_has(&pass->part->store, real->where)) {
		result->merged++;
		result->saved_bytes += MERGE_PAGE;
	} else if (entry && entry->member == INDEX_STORE) {
		result->merged++;
		result->saved_bytes += MERGE_PAGE;
	} else if (entry) {
		result->merged += 2;
		result->unique--;
		result->saved_bytes += MERGE_PAGE;
		index_set(pass->index, entry, INDEX_STORE, 0, pass->call);
	} else {
		struct index_entry first = { .hash = seen->hash, .member = 1, .call = pass->call };

		result->unique++;
		return index_add(pass->index, &first);
	}
	return 0;
}

static int plan_window(struct pass *pass, uint32_t nr)
{
	const struct content_hash *zero = &pass->part->zero_hash;

	pass->nr_fillings = 0;
	for (uint32_t i = 0; i < nr; i++) {
		struct seen_page *seen = &pass->seen[i];
		int r = 0;

		if (i + AHEAD < nr)
			index_prefetch(pass->index, &pass->seen[i + AHEAD].hash);
		if (seen->unread) {
			pass->result->skipped_changed++;
		} else if (memcmp(&seen->hash, zero, sizeof(*zero)) == 0) {
			seen->page = ZERO_PAGE;
			pass->part->nr_saved++;
			if (pass->dry) {
				pass->result->merged++;
				pass->result->zero++;
				pass->result->saved_bytes += MERGE_PAGE;
			}
		} else {
			r = pass->dry ? look_up_dry(pass, seen) : look_up(pass, seen);
		}
		if (r < 0)
			return r;
	}
	return 0;
}

/* Content that was not there any more when the store's page was filled: its entry says again where it may be. */
static void forget_failed(struct pass *pass)
{
	for (uint32_t i = 0; i < pass->nr_fillings; i++) {
		const struct filling *filling = &pass->filling[i];
		struct index_entry *entry;

		if (!filling->failed) {
			pass->result->saved_bytes -=
				(1 + store_copies(&pass->part->store, filling->page)) * MERGE_PAGE;
			continue;
		}
		entry = index_find(pass->index, &filling->hash);
		if (entry)
			index_set(pass->index, entry, pass->member->id, filling->addr, 0);
	}
}

static int do_window(struct pass *pass, uint32_t nr)
{
	struct planned *plan;
	uint32_t nr_planned = 0;
	int r;

	pass->result->scanned += nr;
	pass->nr_seen = nr;
	r = plan_window(pass, nr);
	if (r < 0 || pass->dry)
		return r;
	scan_fill(pass->part, pass->target, pass->filling, pass->nr_fillings);
	forget_failed(pass);
	/* The plan takes the place of what was seen: it is the smaller of the two. */
	plan = (struct planned *)(void *)pass->seen;
	_Static_assert(sizeof(struct planned) <= sizeof(struct seen_page), "written behind itself");
	for (uint32_t i = 0; i < nr; i++) {
		struct planned one = { .addr = pass->seen[i].addr, .page = pass->seen[i].page };

		if (one.page != STORE_NONE)
			memcpy(&plan[nr_planned++], &one, sizeof(one));
	}
	r = carry_out(pass, plan, nr_planned);
	if (r == 0 && pass->nr_later > LATER_MAX)
		r = carry_out_later(pass);
	return r;
}

/* Find the pages of the next window. Return: how many; 0: there are no more; -errno. */
static long next_window(struct pass *pass, struct seen_page *seen)
{
	uint32_t n = 0;

	while (pass->at_area < pass->nr_areas && n < WINDOW_PAGES) {
		const struct merge_area *area = &pass->area[pass->at_area];
		long got;

		if (pass->at < area->start)
			pass->at = area->start;
		got = scan_present(pass->target, &pass->at, area->end, (uint32_t)pass->at_area,
				   seen + n, WINDOW_PAGES - n);
		if (got < 0)
			return got;
		n += (uint32_t)got;
		if (pass->at >= area->end)
			pass->at_area++;
	}
	return n;
}

/* While one window is planned and replaced, the next one is hashed. */
static int do_windows(struct pass *pass, struct seen_page *room)
{
	struct scan_job job;
	long n = next_window(pass, room), next;
	int r = 0;

	if (n > 0)
		scan_hash_begin(&job, pass->part, pass->target, room, (uint32_t)n);
	for (unsigned int turn = 0; n > 0 && r == 0; turn++, n = next) {
		struct seen_page *ahead = room + (turn + 1) % 2 * WINDOW_PAGES;

		pass->seen = room + turn % 2 * WINDOW_PAGES;
		scan_hash_end(&job);
		next = next_window(pass, ahead);
		if (next > 0)
			scan_hash_begin(&job, pass->part, pass->target, ahead, (uint32_t)next);
		r = do_window(pass, (uint32_t)n);
	}
	if (n > 0)
		scan_hash_end(&job);
	if (r == 0 && n < 0)
		r = (int)n;
	return r < 0 || pass->dry ? r : carry_out_later(pass);
}

int pass_run(struct partition *part, struct member *member, const struct merge_target *target,
	     uint64_t start, uint64_t end, unsigned int flags, struct merge_result *ret)
{
	cleanup_free struct seen_page *seen = calloc((size_t)2 * WINDOW_PAGES, sizeof(*seen));
	cleanup_free struct filling *filling = calloc(WINDOW_PAGES, sizeof(*filling));
	cleanup_free struct planned *later = calloc(LATER_MAX + WINDOW_PAGES, sizeof(*later));
	cleanup_free struct merge_area *area = NULL;
	struct index dry_index;
	struct pass pass = {
		.part = part,
		.member = member,
		.target = target,
		.result = ret,
		.call = ++part->last_call,
		.dry = (flags & PARTITION_DRY_RUN) != 0,
		.index = &part->index,
		.most_work = target->ops->pause_ns ? WORK_FIRST : UINT32_MAX,
		.filling = filling,
		.later = later,
	};
	int r;

	if (!seen || !filling || !later)
		return -ENOMEM;
	memset(pass.slot, 0xff, sizeof(pass.slot));
	pass.nr_areas = target->ops->areas(target->arg, start, end, &area);
	if (pass.nr_areas < 0)
		return pass.nr_areas;
	pass.area = area;
	r = count_vmas(&pass);
	if (r < 0)
		return r;
	index_init(&dry_index, part->conf.max_index_entries);
	if (pass.dry)
		pass.index = &dry_index;
	r = do_windows(&pass, seen);
	index_deinit(&dry_index);
	if (!pass.dry)
		ret->saved_bytes += (int64_t)(ret->merged * MERGE_PAGE);
	return r;
}
