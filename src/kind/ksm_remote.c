// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ksm_remote.c - see ksm_remote.h.
 */
#include <base/cleanup.h>
#include <base/proc.h>
#include <engine/merge/inside.h>
#include <fcntl.h>
#include <kind/ksm_remote.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define STACK_DEEP 61440u /* bytes; it has 64 KiB */

/* What a mapping's flags in /proc/PID/smaps say; a flag is two letters. */
static bool has_flag(const char *flags, const char *two)
{
	const char *at = flags;

	while ((at = strstr(at, two))) {
		if (at[-1] == ' ' && (at[2] == ' ' || at[2] == '\n'))
			return true;
		at++;
	}
	return false;
}

/* May it be merged at all? And what is to be kept of it? */
static bool take_flags(const char *flags, uint32_t *ret)
{
	static const char *const never[] = { "sh", "io", "pf", "ht", "lo", "gd", "um", "uw",
					     "ui", "ss", "wf", "sl", "mm", "ex", NULL };

	for (size_t i = 0; never[i]; i++)
		if (has_flag(flags, never[i]))
			return false;
	*ret = (has_flag(flags, "dc") ? MERGE_KEEP_DONTFORK : 0) |
		(has_flag(flags, "dd") ? MERGE_KEEP_DONTDUMP : 0) |
		(has_flag(flags, "hg") ? MERGE_KEEP_HUGEPAGE : 0) |
		(has_flag(flags, "nh") ? MERGE_KEEP_NOHUGEPAGE : 0);
	return true;
}

/** struct areas - found so far, and the mapping whose lines are being read. */
struct areas {
	struct merge_area *area;
	int nr;
	struct merge_area now;
	bool fit;
};

static int add_area(struct areas *areas)
{
	struct merge_area *more;

	if (areas->nr % 64 == 0) {
		more = reallocarray(areas->area, (size_t)areas->nr + 64, sizeof(*more));
		if (!more)
			return -ENOMEM;
		areas->area = more;
	}
	areas->area[areas->nr++] = areas->now;
	return 0;
}

/* Add what of the mapping lies in the ranges that may be merged. */
static int add_listed(struct areas *areas, const struct ksm_remote *remote)
{
	struct merge_area whole = areas->now;
	int r = 0;

	if (remote->guest && !(whole.flags & MERGE_KEEP_DONTFORK))
		return 0;
	if (!remote->only)
		return add_area(areas);
	for (size_t i = 0; i < remote->nr_only && r == 0; i++) {
		const struct ksm_range *range = &remote->only[i];

		areas->now.start = range->start > whole.start ? range->start : whole.start;
		areas->now.end = range->end < whole.end ? range->end : whole.end;
		if (areas->now.start < areas->now.end)
			r = add_area(areas);
	}
	areas->now = whole;
	return r;
}

/* The first line of a mapping, "start-end perms offset dev inode  name". */
static bool begin_area(struct areas *areas, const struct agent *agent, const char *line,
		       uint64_t start, uint64_t end)
{
	unsigned long from, to, ino;
	char perms[8];

	if (sscanf(line, "%lx-%lx %7s %*x %*x:%*x %lu", &from, &to, perms, &ino) != 4)
		return false;
	areas->fit = strcmp(perms, "rw-p") == 0 && ino == 0 && !strstr(line, "[stack]") &&
		(to <= agent->area || from >= agent->area + agent->area_len);
	areas->now = (struct merge_area){ .start = from > start ? from : start,
					  .end = to - MERGE_PAGE < end ? to - MERGE_PAGE : end };
	return true;
}

static int remote_areas(void *arg, uint64_t start, uint64_t end, struct merge_area **ret)
{
	struct ksm_remote *remote = arg;
	struct areas areas = { .area = malloc(64 * sizeof(struct merge_area)) };
	char path[32], *line = NULL;
	size_t size = 0;
	int r = areas.area ? 0 : -ENOMEM;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)remote->target.pid);
	f = fopen(path, "re");
	if (!f)
		r = -ESRCH;
	while (r == 0 && getline(&line, &size, f) > 0) {
		if (line[0] >= 'A' && line[0] <= 'Z') {
			if (areas.fit && strncmp(line, "VmFlags:", 8) == 0 &&
			    take_flags(line, &areas.now.flags) && areas.now.start < areas.now.end)
				r = add_listed(&areas, remote);
			continue;
		}
		if (begin_area(&areas, &remote->agent, line, start, end) && areas.now.start >= end)
			break;
	}
	free(line);
	if (f)
		fclose(f);
	if (r < 0) {
		free(areas.area);
		return r;
	}
	*ret = areas.area;
	return areas.nr;
}

static int remote_read(void *arg, uint64_t addr, void *pages, uint32_t nr_pages)
{
	struct ksm_remote *remote = arg;
	struct iovec to = { .iov_base = pages, .iov_len = (size_t)nr_pages * MERGE_PAGE };
	struct iovec from = { .iov_base = (void *)(uintptr_t)addr, .iov_len = to.iov_len };
	struct pollfd ended = { .fd = remote->thread, .events = POLLIN };
	ssize_t n;

	if (remote->before_read && !remote->before_read(remote->arg, nr_pages))
		return -ECANCELED;
	if (remote->mem >= 0 && remote->thread < 0)
		n = pread(remote->mem, pages, to.iov_len, (off_t)addr);
	else
		n = process_vm_readv(remote->target.pid, &to, 1, &from, 1, 0);
	if (n < 0)
		return -errno;
	/* As long as our thread lives it is the memory that it lives in. */
	if (remote->thread >= 0 && poll(&ended, 1, 0) != 0)
		return -EAGAIN;
	return (int)(n / MERGE_PAGE);
}

int ksm_remote_bind(struct ksm_remote *remote, int mem)
{
	uint64_t at = remote->agent.area + remote->agent.area_len - STACK_DEEP, word[2], seen[2];

	remote->mem = mem;
	if (!remote->agent.pid)
		return 0;
	remote->thread = (int)syscall(SYS_pidfd_open, remote->agent.freeze.agent, O_EXCL);
	if (remote->thread < 0)
		return errno == EINVAL ? -EOPNOTSUPP : -EAGAIN;
	/* Deep in our thread's stack, where it never comes. */
	if (getrandom(word, sizeof(word), 0) != sizeof(word) ||
	    pwrite(remote->agent.freeze.mem, word, sizeof(word), (off_t)at) != sizeof(word) ||
	    pread(mem, seen, sizeof(seen), (off_t)at) != sizeof(seen))
		return -EAGAIN;
	return memcmp(word, seen, sizeof(word)) == 0 ? 0 : -EAGAIN;
}

static int remote_apply(void *arg, const struct merge_batch *batch, struct merge_answer *ret)
{
	struct ksm_remote *remote = arg;
	struct merge_message msg = { .op = MERGE_OP_BATCH, .batch = *batch };

	return agent_ask(&remote->agent, &msg, -1, !(batch->flags & MERGE_NO_CHECK), ret);
}

static int ask(struct ksm_remote *remote, const struct merge_message *msg, int fd)
{
	struct merge_answer answer;
	int r = agent_ask(&remote->agent, msg, fd, false, &answer);

	return r < 0 ? r : answer.error;
}

static int remote_segment(void *arg, uint32_t slot, int fd, const void *base, uint64_t size)
{
	const struct merge_message msg = { .op = MERGE_OP_SEGMENT, .a = slot, .b = size };

	return ask(arg, &msg, fd);
}

static int remote_populate(void *arg, uint64_t addr, uint64_t len)
{
	const struct merge_message msg = { .op = MERGE_OP_POPULATE, .a = addr, .b = len };

	return ask(arg, &msg, -1);
}

static uint64_t remote_pause(void *arg)
{
	struct ksm_remote *remote = arg;

	return remote->agent.last_work_ns;
}

static int open_proc(pid_t pid, const char *what)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, what);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : errno == EACCES ? -EPERM : -errno;
	return fd;
}

int ksm_remote_open(struct ksm_remote *remote, pid_t pid, int pidfd, int device, bool read_only)
{
	static const struct merge_target_ops ops = {
		.areas = remote_areas,
		.read = remote_read,
		.apply = remote_apply,
		.segment = remote_segment,
		.populate = remote_populate,
		.pause_ns = remote_pause,
	};
	struct merge_target *target = &remote->target;
	struct agent_code code = { .data = sizeof(struct inside) + sizeof(struct merge_message) +
					   sizeof(struct merge_answer) };
	int r;

	*remote = (struct ksm_remote){ .agent = { .sock = -1, .freeze = { .mem = -1, .task = -1 } },
				       .mem = -1,
				       .thread = -1 };
	*target = (struct merge_target){
		.ops = &ops, .arg = remote, .pid = pid, .pagemap = -1, .maps = -1
	};
	if (pid == getpid())
		return -EINVAL;
	r = proc_birth(pid, &target->birth);
	if (r == 0)
		r = target->pagemap = open_proc(pid, "pagemap");
	if (r >= 0)
		r = target->maps = open_proc(pid, "maps");
	if (r >= 0 && !read_only) {
		code.bytes = merge_inside_code(&code.len, &code.entry);
		r = agent_start(&remote->agent, pid, pidfd, &code, device);
	}
	if (r < 0)
		ksm_remote_close(remote);
	return r < 0 ? r : 0;
}

void ksm_remote_close(struct ksm_remote *remote)
{
	if (remote->agent.pid)
		agent_stop(&remote->agent);
	if (remote->target.pagemap >= 0)
		close(remote->target.pagemap);
	if (remote->target.maps >= 0)
		close(remote->target.maps);
	if (remote->thread >= 0)
		close(remote->thread);
	remote->target.pagemap = remote->target.maps = remote->thread = remote->mem = -1;
}
