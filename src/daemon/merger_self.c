// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * merger_self.c - a process that merges its own memory, as a target (engine/merge/target.h).
 *
 * It does itself what an agent would do in it (wire/merge.h), on a socket that is made here: of the one that the answer goes to it has both ends, and
 * could keep us waiting at it. It may answer what it likes: the store is filled with what is read from its memory by us, never with anything
 * that it says, and what it says that it has replaced counts for nothing but the numbers that it gets.
 */
#include <base/cleanup.h>
#include <daemon/merger_internal.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define ANSWER_S 20

static int self_areas(void *arg, uint64_t start, uint64_t end, struct merge_area **ret)
{
	const struct self *self = arg;
	struct merge_area *area = calloc(self->ranges.nr + 1, sizeof(*area));
	int n = 0;

	if (!area)
		return -ENOMEM;
	for (size_t i = 0; i < self->ranges.nr; i++) {
		const struct ksm_range *range = &self->ranges.range[i];

		if (range->end <= start || range->start >= end)
			continue;
		area[n++] = (struct merge_area){
			.start = range->start > start ? range->start : start,
			.end = range->end < end ? range->end : end,
		};
	}
	*ret = area;
	return n;
}

static int self_read(void *arg, uint64_t addr, void *pages, uint32_t nr_pages)
{
	const struct self *self = arg;
	ssize_t n;

	if (job_canceled(self->job))
		return -ECANCELED;
	__atomic_add_fetch(&self->job->room->live, nr_pages, __ATOMIC_RELAXED);
	n = pread(self->files.mem, pages, (size_t)nr_pages * MERGE_PAGE, (off_t)addr);
	return n < 0 ? -errno : (int)(n / MERGE_PAGE);
}

static int converse(const struct self *self, const struct merge_message *msg, int fd,
		    struct merge_answer *ret)
{
	size_t len = msg->op == MERGE_OP_BATCH ? sizeof(*msg) : MERGE_HEAD_SIZE;
	ssize_t n;

	if (kept_send(self->job->talk, msg, len, &fd, fd >= 0, 0) < 0)
		return errno == EPIPE || errno == ECONNRESET ? -ECANCELED : -errno;
	do
		n = recv(self->job->talk, ret, sizeof(*ret), 0);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n == 0 || errno == ECONNRESET ? -ECANCELED
			: errno == EAGAIN            ? -ETIMEDOUT
						     : -errno;
	if (n < 8 || ret->nr_pages > MERGE_BATCH_PAGES || (size_t)n != 8 + (size_t)ret->nr_pages ||
	    ret->error > 0 || ret->error < -4095)
		return -EPROTO;
	return 0;
}

static int order(const struct self *self, const struct merge_message *msg, int fd)
{
	struct merge_answer answer;
	int r = converse(self, msg, fd, &answer);

	return r < 0 ? r : answer.error;
}

static int self_apply(void *arg, const struct merge_batch *batch, struct merge_answer *ret)
{
	const struct merge_message msg = { .op = MERGE_OP_BATCH, .batch = *batch };
	const struct self *self = arg;
	int r = job_canceled(self->job) ? -ECANCELED : converse(self, &msg, -1, ret);

	return r < 0 ? r : ret->error;
}

static int self_segment(void *arg, uint32_t slot, int fd, const void *base, uint64_t size)
{
	const struct merge_message msg = { .op = MERGE_OP_SEGMENT, .a = slot, .b = size };

	return order(arg, &msg, fd);
}

static int self_populate(void *arg, uint64_t addr, uint64_t len)
{
	const struct merge_message msg = { .op = MERGE_OP_POPULATE, .a = addr, .b = len };

	return order(arg, &msg, -1);
}

/*
 * What is merged is locked: the process's own limit was not made for that. It takes it back itself when it has had our last word, so that
 * our death changes nothing.
 */
static void raise_memlock(pid_t pid)
{
	const struct rlimit most = { RLIM_INFINITY, RLIM_INFINITY };

	(void)prlimit(pid, RLIMIT_MEMLOCK, &most, NULL);
}

/* The first message goes where the answer would, and says where we go on. */
static int begin(const struct self *self)
{
	const struct merge_message hello = { .op = MERGE_OP_HELLO };
	const struct timeval patience = { .tv_sec = ANSWER_S };
	struct merge_answer answer;
	int pair[2], fds[2];
	ssize_t n;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	self->job->talk = pair[0];
	setsockopt(self->job->talk, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(self->job->talk, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	fds[0] = pair[1];
	fds[1] = self->job->merger->device;
	n = kept_send(self->job->reply, &hello, MERGE_HEAD_SIZE, fds, fds[1] >= 0 ? 2 : 1,
		      MSG_DONTWAIT);
	close(pair[1]);
	if (n < 0)
		return -ECANCELED;
	do
		n = recv(self->job->talk, &answer, sizeof(answer), 0);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n == 0 || errno == ECONNRESET ? -ECANCELED : -ETIMEDOUT;
	raise_memlock(self->job->pid);
	if (n != 8 || answer.error > 0 || answer.error < -4095)
		return -EPROTO;
	return answer.error;
}

int self_open(struct self *self, struct job *job, const struct files *files,
	      const struct ranges *ranges)
{
	static const struct merge_target_ops ops = {
		.areas = self_areas,
		.read = self_read,
		.apply = self_apply,
		.segment = self_segment,
		.populate = self_populate,
	};

	*self = (struct self){ .job = job, .files = *files, .ranges = *ranges };
	self->target = (struct merge_target){
		.ops = &ops,
		.arg = self,
		.pid = job->pid,
		.birth = job->birth,
		.pagemap = files->pagemap,
		.maps = files->maps,
	};
	return (job->flags & MERGER_DRY_RUN) ? 0 : begin(self);
}
