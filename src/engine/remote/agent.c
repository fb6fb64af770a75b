// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * agent.c - see agent.h.
 *
 * The agent's memory:  code | a stub for each thread (both read and execute) | struct merge_params, data, stack (read and write)
 */
#include <base/cleanup.h>
#include <engine/remote/agent.h>
#include <engine/remote/inject.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#define STACK_SIZE 65536u
#define READY_MS 4000
#define ANSWER_MS 2000
#define FREEZE_TRIES 20
#define KILLED 0x404u /* PF_SIGNALED, PF_EXITING */
#define PIDFD_THREAD_FLAG O_EXCL

static uint64_t pages(uint64_t len)
{
	return (len + MERGE_PAGE - 1) & ~(uint64_t)(MERGE_PAGE - 1);
}

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void rest(long ns)
{
	nanosleep(&(struct timespec){ .tv_nsec = ns }, NULL);
}

static bool is_alive(const struct agent *agent)
{
	struct pollfd ended = { .fd = agent->pidfd, .events = POLLIN };

	return poll(&ended, 1, 0) == 0;
}

static bool pending_kill(pid_t pid)
{
	char path[32], line[256];
	unsigned long long set, all = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "SigPnd: %llx", &set) == 1 ||
		    sscanf(line, "ShdPnd: %llx", &set) == 1)
			all |= set;
	if (f)
		fclose(f);
	return all >> (SIGKILL - 1) & 1;
}

/* A process that is being killed forbids things, or has not got them any more, before it is gone. */
static bool is_ending(const struct agent *agent)
{
	char path[32], line[512];
	unsigned int flags = 0;
	char state = 0;
	const char *at;
	FILE *f;

	if (!is_alive(agent))
		return true;
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)agent->pid);
	f = fopen(path, "re");
	if (f && fgets(line, sizeof(line), f) && (at = strrchr(line, ')')) &&
	    sscanf(at + 1, " %c %*d %*d %*d %*d %*d %u", &state, &flags) != 2)
		state = 0;
	if (f)
		fclose(f);
	return state == 0 || (flags & KILLED) || pending_kill(agent->pid);
}

/* Does the whole process stand still, by SIGSTOP or the like? */
static bool is_stopped(const struct agent *agent)
{
	char path[32], line[256], state = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)agent->pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f) && sscanf(line, "State: %c", &state) != 1)
		continue;
	if (f)
		fclose(f);
	return state == 'T';
}

/* The agent is no more: with the process, or because it executed another program. */
static int gone(const struct agent *agent)
{
	return is_ending(agent) ? -ESRCH : -EAGAIN;
}

/* A number from a "Name:	1 2 3" line of /proc/.../status: the last one. Return: it; -1. */
static long status_of(const char *path, const char *name)
{
	FILE *f = fopen(path, "re");
	char line[256];
	long n = -1;

	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':') {
			const char *last = strrchr(line, '\t');

			n = last ? atol(last + 1) : -1;
			break;
		}
	if (f)
		fclose(f);
	return n;
}

/* The thread that the process itself knows as @inner, in our numbers: it may be in a pid namespace of its own. */
static pid_t our_number(pid_t pid, pid_t inner)
{
	char path[64];
	struct dirent *entry;
	pid_t found = -1;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	while (dir && found < 0 && (entry = readdir(dir))) {
		if (atoi(entry->d_name) <= 0)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%.16s/status", (int)pid, entry->d_name);
		if (status_of(path, "NSpid") == inner)
			found = (pid_t)atoi(entry->d_name);
	}
	if (dir)
		closedir(dir);
	return found;
}

/* Memory, code, and a thread that runs it. */
static int put_in(struct agent *agent, struct inject *inject, const struct agent_code *code,
		  uint64_t *ret_params, pid_t *ret_inner)
{
	uint64_t text = pages(code->len) + pages(FREEZE_THREADS * sizeof(struct stub));
	uint64_t data = pages(sizeof(struct merge_params) + code->data) + STACK_SIZE;
	struct merge_params params = { .area_len = text + data, .bye = agent->stub + STUB_BYE };
	uint64_t entry, top;
	int64_t got;
	int r;

	r = inject_call(inject, STUB_CALL, SYS_mmap,
			(uint64_t[]){ 0, text + data, PROT_READ | PROT_EXEC,
				      MAP_PRIVATE | MAP_ANONYMOUS, (uint64_t)-1, 0 },
			0, &got);
	if (r < 0 || (got < 0 && got > -4096))
		return r < 0 ? r : (int)got;
	agent->area = params.area = (uint64_t)got;
	agent->area_len = params.area_len;
	agent->freeze.slots = agent->area + pages(code->len);
	*ret_params = agent->area + text;
	agent->freeze.busy = *ret_params + offsetof(struct merge_params, busy);
	entry = agent->area + code->entry;
	if (pwrite(inject->mem, code->bytes, code->len, (off_t)agent->area) != (ssize_t)code->len ||
	    pwrite(inject->mem, &entry, sizeof(entry),
		   (off_t)(agent->stub + offsetof(struct stub, child))) != sizeof(entry) ||
	    pwrite(inject->mem, &params, sizeof(params), (off_t)*ret_params) != sizeof(params))
		return -EAGAIN;
	r = inject_call(inject, STUB_CALL, SYS_mprotect,
			(uint64_t[]){ *ret_params, data, PROT_READ | PROT_WRITE, 0, 0, 0 }, 0,
			&got);
	if (r == 0 && got == 0)
		r = inject_call(
			inject, STUB_CALL, SYS_madvise,
			(uint64_t[]){ agent->area, params.area_len, MADV_DONTFORK, 0, 0, 0 }, 0,
			&got);
	if (r < 0 || got < 0)
		return r < 0 ? r : (int)got;
	top = agent->area + params.area_len;
	r = inject_call(inject, STUB_CLONE, SYS_clone,
			(uint64_t[]){ CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND |
					      CLONE_THREAD | CLONE_SYSVSEM | CLONE_UNTRACED,
				      top, 0, 0, 0, 0 },
			*ret_params, &got);
	if (r < 0 || got < 0)
		return r < 0 ? r : (int)got;
	*ret_inner = (pid_t)got;
	return 0;
}

/* The agent says which of its descriptors is our end of its socket. */
static int meet(struct agent *agent, uint64_t at)
{
	int64_t began = now_ns();
	struct merge_params params;
	int thread, r;

	for (;;) {
		if (pread(agent->freeze.mem, &params, sizeof(params), (off_t)at) != sizeof(params))
			return gone(agent);
		if (params.state != MERGE_STATE_NEW)
			break;
		if (now_ns() - began > READY_MS * 1000000ll)
			return -EPROTO;
		rest(50000);
	}
	if (params.state == MERGE_STATE_FAILED)
		return params.error < 0 ? params.error : -EPROTO;
	thread = (int)syscall(SYS_pidfd_open, agent->freeze.agent, PIDFD_THREAD_FLAG);
	if (thread < 0)
		return errno == EINVAL ? -EOPNOTSUPP : -ESRCH;
	agent->sock = (int)syscall(SYS_pidfd_getfd, thread, params.sock[1], 0);
	r = agent->sock >= 0 ? 0 : errno == ESRCH ? gone(agent) : -EPERM;
	close(thread);
	return r;
}

static int open_files(struct agent *agent)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/mem", (int)agent->pid);
	agent->freeze.mem = open(path, O_RDWR | O_CLOEXEC);
	if (agent->freeze.mem < 0)
		return errno == ENOENT ? -ESRCH : errno == EACCES ? -EPERM : -errno;
	snprintf(path, sizeof(path), "/proc/%d/task", (int)agent->pid);
	agent->freeze.task = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (agent->freeze.task < 0)
		return -ESRCH;
	snprintf(path, sizeof(path), "/proc/%d/status", (int)agent->pid);
	/* The number of its filters' mode: 2. */
	if (status_of(path, "Seccomp") > 0)
		return -EOPNOTSUPP;
	if (!is_alive(agent))
		return -ESRCH;
	return is_stopped(agent) ? -EAGAIN : 0;
}

/*
 * While a process stands still, whoever works for it goes before others, or it would stand still for as long as they
 * run. If that is not permitted it is slower, no more.
 */
static void hurry(pid_t tid, bool on)
{
	struct sched_param param = { .sched_priority = on ? 1 : 0 };

	sched_setscheduler(tid, (on ? SCHED_RR : SCHED_OTHER) | SCHED_RESET_ON_FORK, &param);
}

static int send_message(struct agent *agent, const struct merge_message *msg, const int *fd,
			unsigned int nr_fds)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)msg,
			     .iov_len = msg->op == MERGE_OP_BATCH ? sizeof(*msg)
								  : MERGE_HEAD_SIZE };
	union {
		struct cmsghdr head;
		unsigned char room[CMSG_SPACE(2 * sizeof(int))];
	} control = { 0 };
	struct msghdr hdr = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (nr_fds) {
		hdr.msg_control = &control;
		hdr.msg_controllen = CMSG_SPACE(nr_fds * sizeof(int));
		control.head = (struct cmsghdr){ .cmsg_len = CMSG_LEN(nr_fds * sizeof(int)),
						 .cmsg_level = SOL_SOCKET,
						 .cmsg_type = SCM_RIGHTS };
		memcpy(CMSG_DATA(&control.head), fd, nr_fds * sizeof(int));
	}
	while (sendmsg(agent->sock, &hdr, MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return gone(agent);
	return 0;
}

/* Return: 0; 1: there is none within @timeout_ms; -errno. */
static int receive(struct agent *agent, int timeout_ms, struct merge_answer *ret)
{
	struct pollfd ready = { .fd = agent->sock, .events = POLLIN };
	ssize_t n;
	int r;

	do {
		r = poll(&ready, 1, timeout_ms);
	} while (r < 0 && errno == EINTR);
	if (r == 0)
		return 1;
	do {
		n = recv(agent->sock, ret, sizeof(*ret), 0);
	} while (n < 0 && errno == EINTR);
	if (n < 8 || ret->nr_pages > MERGE_BATCH_PAGES || (size_t)n < 8 + (size_t)ret->nr_pages)
		return n > 0 ? -EPROTO : gone(agent);
	return 0;
}

/* A message and its answer, while the process runs. It may be stopped (SIGSTOP), and its agent with it: that is not waited for. */
static int exchange(struct agent *agent, const struct merge_message *msg, const int *fd,
		    unsigned int nr_fds, struct merge_answer *ret)
{
	int r = send_message(agent, msg, fd, nr_fds);

	if (r < 0)
		return r;
	do {
		r = receive(agent, ANSWER_MS, ret);
	} while (r > 0 && !is_stopped(agent));
	agent->left = r > 0;
	return r > 0 ? -EAGAIN : r;
}

/*
 * What is merged is locked: the process's own limit was not made for that, and is raised while nobody runs but the agent. The agent
 * sets it back, so it is told what it was. It is not for longer, since a process that has more locked than it may is refused, too, when it
 * wants to make what is locked longer (inside.c).
 */
static void put_limit(struct merge_message *msg, const struct rlimit *old)
{
	msg->limited = old->rlim_cur != RLIM_INFINITY;
	msg->a = old->rlim_cur;
	msg->b = old->rlim_max;
}

static void raise_limit(const struct agent *agent, struct merge_message *msg)
{
	const struct rlimit most = { RLIM_INFINITY, RLIM_INFINITY };
	struct rlimit old, hard;

	msg->limited = 0;
	if (prlimit(agent->pid, RLIMIT_MEMLOCK, &most, &old) == 0) {
		put_limit(msg, &old);
		return;
	}
	/* Without CAP_SYS_RESOURCE as far as anybody may. */
	if (prlimit(agent->pid, RLIMIT_MEMLOCK, NULL, &old) < 0 || old.rlim_cur == old.rlim_max)
		return;
	hard = (struct rlimit){ old.rlim_max, old.rlim_max };
	if (prlimit(agent->pid, RLIMIT_MEMLOCK, &hard, NULL) == 0)
		put_limit(msg, &old);
}

static void set_limit_back(const struct agent *agent, const struct merge_message *msg)
{
	const struct rlimit old = { msg->a, msg->b };

	if (msg->limited)
		prlimit(agent->pid, RLIMIT_MEMLOCK, &old, NULL);
}

static int greet(struct agent *agent, int device)
{
	struct merge_message hello = { .op = MERGE_OP_HELLO };
	struct merge_answer answer;
	struct rlimit now;
	int fd[2] = { (int)syscall(SYS_pidfd_open, getpid(), 0), device }, r;

	if (fd[0] < 0)
		return -errno;
	if (prlimit(agent->pid, RLIMIT_MEMLOCK, NULL, &now) == 0)
		put_limit(&hello, &now);
	r = exchange(agent, &hello, fd, device < 0 ? 1 : 2, &answer);
	close(fd[0]);
	return r == 0 ? answer.error : r;
}

int agent_start(struct agent *agent, pid_t pid, int pidfd, const struct agent_code *code,
		int device)
{
	struct inject inject;
	pid_t inner = 0;
	uint64_t params;
	int r;

#ifndef __x86_64__
	return -EOPNOTSUPP;
#endif
	*agent = (struct agent){ .pid = pid, .pidfd = pidfd, .sock = -1 };
	agent->freeze = (struct freeze){ .pid = pid, .task = -1, .mem = -1 };
	r = open_files(agent);
	if (r == 0)
		r = inject_begin(&inject, pid, agent->freeze.mem);
	if (r == 0) {
		agent->stub = inject.stub;
		r = put_in(agent, &inject, code, &params, &inner);
		inject_end(&inject);
	}
	if (r == 0) {
		agent->freeze.agent = our_number(pid, inner);
		r = agent->freeze.agent < 0 ? -ESRCH : meet(agent, params);
	}
	if (r == 0) {
		hurry(agent->freeze.agent, true);
		r = greet(agent, device);
	}
	if (r < 0 && r != -ENOMEM && is_ending(agent))
		r = -ESRCH;
	if (r < 0)
		agent_stop(agent);
	return r;
}

static int freeze_all(struct agent *agent)
{
	int r = -EAGAIN;

	for (int i = 0; i < FREEZE_TRIES && r == -EAGAIN && !(i && is_stopped(agent)); i++) {
		if (i)
			rest(1000000l << (i < 6 ? i : 6));
		r = freeze_begin(&agent->freeze);
	}
	return r == -ESRCH || (r < 0 && is_ending(agent)) ? gone(agent) : r;
}

/* A batch, with the other threads standing still. */
static int ask_frozen(struct agent *agent, const struct merge_message *batch,
		      struct merge_answer *ret)
{
	struct merge_message msg = *batch;
	uint64_t step;
	int r = freeze_all(agent);

	if (r < 0)
		return r;
	raise_limit(agent, &msg);
	r = send_message(agent, &msg, NULL, 0);
	if (r == 0)
		r = receive(agent, ANSWER_MS, ret);
	if (r < 0)
		set_limit_back(agent, &msg);
	if (r > 0) {
		/* The agent has been stopped (SIGSTOP), or starves. Its process's threads need not wait for us as well. */
		freeze_leave(&agent->freeze);
		agent->left = true;
		return -EAGAIN;
	}
	freeze_end(&agent->freeze);
	agent->last_work_ns = (uint64_t)(freeze_cpu_ns() - agent->freeze.began_cpu_ns);
	if (r == 0 && ret->error > 0) {
		agent->last_work_ns += (uint64_t)ret->error;
		ret->error = 0;
	}
	step = (uint64_t)(now_ns() - agent->freeze.began_ns) / AGENT_FREEZE_STEP_NS;
	agent->freeze_steps[step < AGENT_FREEZE_STEPS ? step : AGENT_FREEZE_STEPS - 1]++;
	agent->nr_freezes++;
	return r;
}

int agent_ask(struct agent *agent, const struct merge_message *msg, int fd, bool frozen,
	      struct merge_answer *ret)
{
	int policy = frozen ? sched_getscheduler(0) : -1, r;

	if (agent->sock < 0)
		return -EAGAIN;
	if (policy == SCHED_OTHER)
		hurry(0, true);
	r = frozen ? ask_frozen(agent, msg, ret) : exchange(agent, msg, &fd, fd >= 0 ? 1 : 0, ret);
	if (policy == SCHED_OTHER)
		hurry(0, false);
	/* What it answers later would be taken for the answer to something else. */
	if (r == -EAGAIN && agent->left) {
		close(agent->sock);
		agent->sock = -1;
	}
	return r;
}

/* The thread is no more: then nobody executes the stub. */
static bool has_ended(const struct agent *agent)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d", (int)agent->pid, (int)agent->freeze.agent);
	for (int i = 0; i < READY_MS; i++) {
		if (access(path, F_OK) < 0)
			return true;
		rest(1000000);
	}
	return false;
}

void agent_stop(struct agent *agent)
{
	const struct merge_message end = { .op = MERGE_OP_END };

	freeze_deinit(&agent->freeze);
	if (agent->sock >= 0) {
		send_message(agent, &end, NULL, 0);
		close(agent->sock);
	}
	if (agent->stub && (agent->freeze.agent <= 0 || has_ended(agent)))
		inject_clear(agent->freeze.mem, agent->stub);
	else if (agent->stub)
		inject_disown(agent->freeze.mem, agent->stub);
	if (agent->freeze.mem >= 0)
		close(agent->freeze.mem);
	if (agent->freeze.task >= 0)
		close(agent->freeze.task);
	*agent = (struct agent){ .pidfd = -1, .sock = -1, .freeze = { .mem = -1, .task = -1 } };
}

uint64_t agent_freeze_ns(const struct agent *agent, double share)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < AGENT_FREEZE_STEPS; i++) {
		sum += agent->freeze_steps[i];
		if ((double)sum >= share * (double)agent->nr_freezes)
			return (i + 1ull) * AGENT_FREEZE_STEP_NS;
	}
	return UINT64_MAX;
}
