// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * merger_job.c - one call: who is meant, may he, how it is reached, the engine's work, the answer.
 *
 * In a thread of engine/aside, on the account of who asks: a process whose memory is made to hang holds one of his threads, and his
 * partition. A merge that nobody waits for any more is left at the next batch.
 */
#include <base/cleanup.h>
#include <base/proc.h>
#include <daemon/merger_internal.h>
#include <errno.h>
#include <kind/ksm_remote.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <utlist.h>

/* Both ends may be the asker's: then he waits for as long as he likes, and is answered into the void. */
bool job_canceled(const struct job *job)
{
	struct pollfd p = { .fd = job->reply, .events = POLLRDHUP };

	return poll(&p, 1, 0) > 0;
}

void job_get_state(struct room *room, struct ksm_state *ret)
{
	struct partition_stats stats;

	partition_get_stats(room->part, &stats);
	*ret = (struct ksm_state){
		.pages_shared = stats.pages_shared,
		.pages_sharing = stats.pages_sharing,
		.pages_unshared = stats.pages_unshared,
		.pages_scanned = stats.pages_scanned,
		.pages_skipped = stats.pages_skipped,
		.store_bytes = stats.store_bytes,
		.index_bytes = stats.index_bytes,
		.general_profit = stats.general_profit,
	};
}

static int run(struct job *job, const struct merge_target *target)
{
	struct merge_result *result = &job->answer.done;

	if (job->op == KSM_OP_UNMERGE)
		return partition_unmerge(job->room->part, target, job->addr, job->size, result);
	return partition_merge(job->room->part, target, job->addr, job->size,
			       (job->flags & MERGER_DRY_RUN) ? PARTITION_DRY_RUN : 0, result);
}

static bool overlaps(const struct ranges *ranges, uint64_t addr, uint64_t size)
{
	for (size_t i = 0; i < ranges->nr; i++)
		if (ranges->range[i].start < addr + size && ranges->range[i].end > addr)
			return true;
	return false;
}

static int merge_own(struct job *job, const struct files *files, const struct ranges *ranges)
{
	struct self self;
	int r;

	if (!overlaps(ranges, job->addr, job->size))
		return -EINVAL;
	r = self_open(&self, job, files, ranges);
	return r < 0 ? r : run(job, &self.target);
}

/* Processes with an agent of ours in them, of which each has one at most: another call waits. */
static pthread_mutex_t busy_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t busy_less = PTHREAD_COND_INITIALIZER;
static struct job *busy;

static bool is_busy(pid_t pid)
{
	const struct job *job;

	DL_FOREACH(busy, job)
		if (job->pid == pid)
			return true;
	return false;
}

static int busy_enter(struct job *job)
{
	struct timespec until;
	int r = 0;

	pthread_mutex_lock(&busy_lock);
	while (r == 0 && is_busy(job->pid)) {
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec++;
		pthread_cond_timedwait(&busy_less, &busy_lock, &until);
		if (job_canceled(job))
			r = -ECANCELED;
	}
	if (r == 0)
		DL_APPEND(busy, job);
	pthread_mutex_unlock(&busy_lock);
	return r;
}

static void busy_leave(struct job *job)
{
	pthread_mutex_lock(&busy_lock);
	DL_DELETE(busy, job);
	pthread_cond_broadcast(&busy_less);
	pthread_mutex_unlock(&busy_lock);
}

static bool before_read(void *arg, uint32_t nr_pages)
{
	const struct job *job = arg;

	__atomic_add_fetch(&job->room->live, nr_pages, __ATOMIC_RELAXED);
	return !job_canceled(job);
}

static int merge_other(struct job *job, const struct files *files, const struct ranges *ranges)
{
	bool any = (job->flags & MERGER_FORCE) || job->op == KSM_OP_UNMERGE;
	bool listed = overlaps(ranges, job->addr, job->size);
	struct ksm_remote remote;
	int r;

	if (!any && !(job->flags & MERGER_GUEST_RAM) && !listed)
		return -EACCES;
	r = busy_enter(job);
	if (r < 0)
		return r;
	r = ksm_remote_open(&remote, job->pid, job->target, job->merger->device,
			    (job->flags & MERGER_DRY_RUN) != 0);
	if (r < 0) {
		busy_leave(job);
		return r;
	}
	remote.before_read = before_read;
	remote.arg = job;
	if (!any && (job->flags & MERGER_GUEST_RAM)) {
		remote.guest = true;
	} else if (!any) {
		remote.only = ranges->range;
		remote.nr_only = ranges->nr;
	}
	r = ksm_remote_bind(&remote, files->mem);
	if (r == 0)
		r = run(job, &remote.target);
	ksm_remote_close(&remote);
	busy_leave(job);
	/* Not a page of it is what it was said to be. */
	if (r == 0 && remote.guest && job->answer.done.scanned == 0 && !listed)
		r = -EACCES;
	return r;
}

static int check(const struct job *job)
{
	if ((job->flags & ~(MERGER_FLAGS | KSM_TARGET)) || job->addr % MERGE_PAGE ||
	    job->size > UINT64_MAX - job->addr ||
	    (job->op == KSM_OP_UNMERGE && (job->flags & MERGER_DRY_RUN)))
		return -EINVAL;
	return 0;
}

static int carry_out(struct job *job)
{
	bool other = job->flags & KSM_TARGET;
	int pidfd = other ? job->target : job->caller.pidfd, r = check(job);
	struct ranges ranges = { 0 };
	struct files files;

	if (r < 0)
		return r;
	job->pid = pidfd_pid(pidfd);
	if (job->pid < 0)
		return job->pid;
	if (job->pid == getpid())
		return -EPERM;
	r = proc_birth(job->pid, &job->birth);
	if (r == 0)
		r = consent_open(job->merger, &job->caller, job->pid, pidfd, &files);
	if (r < 0)
		return r;
	r = ranges_read(&files, &ranges);
	if (r == 0)
		r = other ? merge_other(job, &files, &ranges) : merge_own(job, &files, &ranges);
	free(ranges.range);
	files_close(&files);
	return r == -ECANCELED || pidfd_alive(pidfd) ? r : -ESRCH;
}

void job_work(struct aside_job *j)
{
	struct job *job = (struct job *)j;

	if (job->forget)
		partition_forget(job->room->part, job->pid, job->birth);
	else if (!job_canceled(job))
		job->answer.error = carry_out(job);
	job_get_state(job->room, &job->state);
}
