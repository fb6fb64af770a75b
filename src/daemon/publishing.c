// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * publishing.c - see publishing.h.
 *
 * One that has lived for less than some seconds is replaced at once the first time, and then less and less often: a server that cannot start costs
 * little. Whoever asks meanwhile waits as long as he likes to.
 *
 * One that hangs, or was stopped, is replaced, too: each second it is asked whether it lives. One that answers nothing and computes nothing either is
 * given STUCK_S of these seconds, one that computes LOST_S: to load programs may take its time where the processor is slow. And one that was
 * killed and does not end, since it hangs in a system call, is left behind: it runs no instruction any more.
 */
#include <base/cleanup.h>
#include <base/log.h>
#include <daemon/publishing.h>
#include <daemon/spawn.h>
#include <daemon/table.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <wire/keep.h>

#define SOUND_MS 5000 /* who lived for so long was no failure */
#define PAUSE_MS 100
#define PAUSE_MAX_MS 10000
#define EXIT_WAIT_MS 2000
#define DYING_S 2
#ifndef STUCK_S /* more where a sanitizer makes everything slow */
#define STUCK_S 3
#endif
#define LOST_S (10 * STUCK_S)
#define DYING_MAX 2048 /* messages */

struct kept {
	uint64_t id;
	uint32_t which;
	int fd;
};

struct publishing {
	struct publishing_conf conf;
	int sock[2]; /* the workers' end, the server's */
	int channel;
	pid_t pid;
	bool killed;
	bool asked; /* whether it lives; it has not answered */
	unsigned int silent_s; /* since then, */
	unsigned int still_s; /* and without having computed anything */
	unsigned int dying_s;
	uint64_t cpu_ns;
	int64_t started_ms;
	int64_t next_ms; /* not before */
	int pause_ms;
	unsigned int nr_kept;
	struct kept kept[PUB_KEPT_MAX];
};

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int publishing_new(struct publishing **ret, const struct publishing_conf *conf)
{
	struct publishing *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->conf = *conf;
	p->channel = -1;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, p->sock) < 0) {
		free(p);
		return -errno;
	}
	*ret = p;
	return 0;
}

int publishing_socket(const struct publishing *p)
{
	return p->sock[0];
}

bool publishing_keeps(const struct publishing *p)
{
	return p->nr_kept > 0;
}

bool publishing_runs(const struct publishing *p)
{
	return p->nr_kept > 0 || p->pid > 0;
}

static bool is_wanted(const struct publishing *p)
{
	struct pollfd f = { .fd = p->sock[1], .events = POLLIN };

	return p->nr_kept > 0 || poll(&f, 1, 0) > 0;
}

static void failed(struct publishing *p)
{
	p->next_ms = now_ms() + p->pause_ms;
	p->pause_ms = p->pause_ms ? p->pause_ms * 2 : PAUSE_MS;
	if (p->pause_ms > PAUSE_MAX_MS)
		p->pause_ms = PAUSE_MAX_MS;
}

static void start(struct publishing *p)
{
	int sock[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock) < 0) {
		failed(p);
		return;
	}
	r = p->conf.start(p->conf.ctx,
			  (int[SPAWN_PASS]){ p->sock[1], sock[1], -1, -1, -1, -1, -1, -1 });
	close(sock[1]);
	if (r < 0) {
		close(sock[0]);
		log_error("cannot start %s: %s", p->conf.what, strerror(-r));
		failed(p);
		return;
	}
	p->pid = r;
	p->channel = sock[0];
	p->killed = p->asked = false;
	p->silent_s = p->still_s = p->dying_s = 0;
	p->started_ms = now_ms();
}

static void kill_server(struct publishing *p)
{
	if (p->pid <= 0)
		return;
	kill(p->pid, SIGKILL);
	p->killed = true;
}

void publishing_restart(struct publishing *p)
{
	kill_server(p);
}

void publishing_poll(const struct publishing *p, struct pollfd *ret)
{
	bool may_start = p->pid == 0 && now_ms() >= p->next_ms;

	ret[0] = (struct pollfd){ .fd = may_start ? p->sock[1] : -1, .events = POLLIN };
	ret[1] = (struct pollfd){ .fd = p->channel, .events = POLLIN };
}

static void drop(struct publishing *p, uint64_t id)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < p->nr_kept; i++) {
		if (p->kept[i].id == id)
			table_close(p->conf.table, p->kept[i].fd);
		else
			p->kept[n++] = p->kept[i];
	}
	p->nr_kept = n;
}

/* @fd: goes with it; -1: none */
static void say(struct publishing *p, const struct pub_kept *answer, int fd)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)answer, .iov_len = sizeof(*answer) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		m.msg_control = &control;
		m.msg_controllen = sizeof(control);
		control.h = (struct cmsghdr){
			.cmsg_level = SOL_SOCKET,
			.cmsg_type = SCM_RIGHTS,
			.cmsg_len = CMSG_LEN(sizeof(int)),
		};
		memcpy(CMSG_DATA(&control.h), &fd, sizeof(int));
	}
	/* One that does not take its answers is as good as dead. */
	if (sendmsg(p->channel, &m, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno == EAGAIN)
		kill_server(p);
}

static void answer_fetch(struct publishing *p, uint32_t n)
{
	struct pub_kept answer = { .op = PUB_FETCH, .result = -ENOENT };
	int fd = -1;

	if (n < p->nr_kept) {
		answer.result = 0;
		answer.id = p->kept[n].id;
		answer.which = p->kept[n].which;
		fd = p->kept[n].fd;
	}
	say(p, &answer, fd);
}

static bool on_message(struct publishing *p, const struct keep_query *q, int *fd)
{
	switch (q->op) {
	case PUB_READY:
		if (p->conf.ready)
			*p->conf.ready = q->flags;
		return true;
	case PUB_STORE:
		if (*fd < 0 || p->nr_kept == PUB_KEPT_MAX)
			return false;
		p->kept[p->nr_kept++] =
			(struct kept){ .id = q->id, .which = q->flags, .fd = take_fd(fd) };
		return true;
	case PUB_DROP:
		drop(p, q->id);
		return true;
	case PUB_FETCH:
		answer_fetch(p, q->flags);
		return true;
	case PUB_ALIVE:
		p->asked = false;
		p->silent_s = p->still_s = 0;
		return true;
	default:
		return false;
	}
}

static void close_channel(struct publishing *p)
{
	cleanup_close_p(&p->channel);
	p->channel = -1;
}

static void take_message(struct publishing *p)
{
	struct keep_query q;
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = &q, .iov_len = sizeof(q) };
	struct msghdr m = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *c;
	int fd = -1;
	ssize_t n;

	n = recvmsg(p->channel, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		/* It has closed it, or is about to be reaped. */
		close_channel(p);
		return;
	}
	c = CMSG_FIRSTHDR(&m);
	if (c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	if (n != sizeof(q) || (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) || !on_message(p, &q, &fd)) {
		log_error("%s sent what is no message; replacing it", p->conf.what);
		kill_server(p);
		close_channel(p);
	}
	if (fd >= 0)
		table_close(p->conf.table, fd);
}

void publishing_act(struct publishing *p, const struct pollfd *polled)
{
	if (polled[1].revents && p->channel >= 0 && polled[1].fd == p->channel)
		take_message(p);
	if (polled[0].revents && p->pid == 0)
		start(p);
}

/* What a process has computed so far, ns. */
static uint64_t cpu_of(pid_t pid)
{
	struct timespec ts = { 0 };
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) == 0)
		clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void watch(struct publishing *p)
{
	uint64_t cpu_ns = cpu_of(p->pid);

	if (!p->asked) {
		p->asked = true;
		say(p, &(struct pub_kept){ .op = PUB_ALIVE }, -1);
	} else {
		p->silent_s++;
		p->still_s = cpu_ns == p->cpu_ns ? p->still_s + 1 : 0;
	}
	p->cpu_ns = cpu_ns;
	if (p->still_s < STUCK_S && p->silent_s < LOST_S)
		return;
	log_error("%s does not go on; replacing it", p->conf.what);
	kill_server(p);
}

void publishing_tick(struct publishing *p)
{
	if (p->pid == 0) {
		if (now_ms() >= p->next_ms && is_wanted(p))
			start(p);
	} else if (!p->killed) {
		if (p->channel >= 0)
			watch(p);
	} else if (++p->dying_s >= DYING_S) {
		log_error("%s (%d) does not end; it is left behind", p->conf.what, (int)p->pid);
		publishing_died(p, p->pid, SIGKILL);
	}
}

bool publishing_died(struct publishing *p, pid_t pid, int status)
{
	bool sound;

	if (pid != p->pid || pid == 0)
		return false;
	p->pid = 0;
	/* What it has sent counts: a rule's descriptors. */
	for (unsigned int i = 0; i < DYING_MAX && p->channel >= 0; i++) {
		struct pollfd f = { .fd = p->channel, .events = POLLIN };

		if (poll(&f, 1, 0) <= 0)
			break;
		take_message(p);
	}
	close_channel(p);
	sound = now_ms() - p->started_ms >= SOUND_MS;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
		p->pause_ms = 0; /* it had nothing more to do */
	} else {
		if (WIFSIGNALED(status))
			log_error("%s was ended by signal %d (%s)", p->conf.what, WTERMSIG(status),
				  strsignal(WTERMSIG(status)));
		else
			log_error("%s ended by itself with status %d", p->conf.what,
				  WEXITSTATUS(status));
		if (sound)
			p->pause_ms = 0;
		failed(p);
	}
	if (p->nr_kept && now_ms() >= p->next_ms)
		start(p);
	return true;
}

void publishing_free(struct publishing *p)
{
	if (!p)
		return;
	if (p->pid > 0) {
		kill(p->pid, SIGKILL);
		for (int ms = 0; ms < EXIT_WAIT_MS && waitpid(p->pid, NULL, WNOHANG) == 0; ms++)
			usleep(1000);
	}
	while (p->nr_kept)
		table_close(p->conf.table, p->kept[--p->nr_kept].fd);
	if (p->channel >= 0)
		close(p->channel);
	close(p->sock[0]);
	close(p->sock[1]);
	free(p);
}
