// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * merger.c - the loop: partitions, who has one open, calls that are under way, processes that were merged.
 *
 * What comes by a client's socket is believed in nothing. Its descriptors are closed aside, since closing may hang; of a socket for an
 * answer nothing is ever read, since he may have both ends, and be in the middle of reading from ours. He has a few calls under way at most: until one of them
 * ends his socket is not read from.
 */
#include <base/cleanup.h>
#include <base/log.h>
#include <daemon/merger_internal.h>
#include <daemon/worker.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#ifndef IDLE_USEC /* less for a test */
#define IDLE_USEC 60000000ULL
#endif
#define IDLE_SLACK_USEC (IDLE_USEC / 60)
#define CLIENTS_MAX 4096
#define CLIENTS_UID_MAX 256
#define CLIENT_JOBS_MAX 4
#define MEMBERS_MAX 4096 /* told of as text */
#define FDS_MAX \
	253 /* in one packet, by the kernel; fewer are wanted, but all must be disposed of */

#ifndef SCM_PIDFD
#define SCM_PIDFD 0x04
#endif
#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif

/* What came: @fds are to be disposed of, on @uid's account. */
struct packet {
	union {
		struct ksm_order order;
		struct ksm_request request;
	};
	size_t len;
	struct ucred from;
	int pidfd;
	int fds[FDS_MAX];
	unsigned int nr_fds;
	bool cut;
};

/* ---- Partitions ---- */

static struct room *room_get(struct merger *m, uint64_t id, const char *name)
{
	struct partition_conf conf = { .max_index_entries = (uint64_t)sysconf(_SC_PHYS_PAGES) };
	struct room *room;

	HASH_FIND(hh, m->rooms, &id, sizeof(id), room);
	if (room)
		return room;
	room = calloc(1, sizeof(*room));
	if (!room)
		return NULL;
	memcpy(room->name, name, sizeof(room->name) - 1);
	conf.name = room->name;
	room->merger = m;
	room->id = id;
	room->part = partition_new(&conf);
	if (!room->part) {
		free(room);
		return NULL;
	}
	HASH_ADD(hh, m->rooms, id, sizeof(room->id), room);
	return room;
}

static void drop_member(struct member_watch *w)
{
	DL_DELETE(w->room->members, w);
	w->room->nr_members--;
	sd_event_source_unref(w->source);
	close(w->pidfd);
	free(w);
}

/* It ends when its name is gone and nobody has it open. What is merged stays so. */
static void room_put(struct room *room)
{
	struct member_watch *w, *tmp;

	if (!room->ended || room->nr_clients || room->nr_jobs)
		return;
	DL_FOREACH_SAFE(room->members, w, tmp)
		drop_member(w);
	HASH_DEL(room->merger->rooms, room);
	partition_free(room->part);
	free(room);
}

static void want_idle(struct merger *m)
{
	sd_event_source_set_time_relative(m->idle, IDLE_USEC);
	sd_event_source_set_enabled(m->idle, SD_EVENT_ONESHOT);
}

static int on_idle(sd_event_source *s, uint64_t usec, void *ctx)
{
	struct merger *m = ctx;
	struct room *room, *tmp;

	if (m->shares.nr)
		return 0;
	HASH_ITER(hh, m->rooms, room, tmp)
		if (room->nr_jobs || room->nr_members)
			return 0;
	return sd_event_exit(m->event, 0);
}

/* ---- Calls ---- */

static void dispose(struct merger *m, uid_t uid, int *fd)
{
	if (*fd >= 0)
		closer_close(&m->closer, uid, *fd, 0);
	*fd = -1;
}

static void start_forget(struct room *room, pid_t pid, uint64_t birth);

static int on_member(sd_event_source *s, int fd, uint32_t revents, void *ctx)
{
	struct member_watch *w = ctx;

	start_forget(w->room, w->pid, w->birth);
	drop_member(w);
	return 0;
}

/* Until it ends; if it has already it is forgotten at once, and so is one of which no more was wanted than to know. */
static void watch_member(struct job *job)
{
	struct room *room = job->room;
	int *pidfd = job->target >= 0 ? &job->target : &job->caller.pidfd;
	struct member_watch *w;

	DL_FOREACH(room->members, w)
		if (w->pid == job->pid && w->birth == job->birth)
			return;
	if (job->flags & MERGER_DRY_RUN) {
		start_forget(room, job->pid, job->birth);
		return;
	}
	w = calloc(1, sizeof(*w));
	if (!w)
		return;
	*w = (struct member_watch){ .room = room, .pid = job->pid, .birth = job->birth };
	w->pidfd = take_fd(pidfd);
	DL_APPEND(room->members, w);
	room->nr_members++;
	if (sd_event_add_io(room->merger->event, &w->source, w->pidfd, EPOLLIN, on_member, w) < 0)
		drop_member(w);
}

static int on_client(sd_event_source *s, int fd, uint32_t revents, void *ctx);

static void answer_to(int sock, const struct ksm_answer *answer)
{
	(void)!kept_send(sock, answer, sizeof(*answer), NULL, 0, MSG_DONTWAIT);
}

static void job_done(struct aside_job *j)
{
	struct job *job = (struct job *)j;
	struct merger *m = job->merger;
	struct room *room = job->room;

	room->state = job->state;
	if (--room->nr_jobs == 0)
		__atomic_store_n(&room->live, 0, __ATOMIC_RELAXED);
	if (!job->forget && job->birth)
		watch_member(job);
	job->answer.magic = KSM_MAGIC;
	if (!job->forget)
		answer_to(job->talk >= 0 ? job->talk : job->reply, &job->answer);
	cleanup_close_p(&job->talk);
	if (job->client) {
		job->client->nr_jobs--;
		sd_event_source_set_enabled(job->client->source, SD_EVENT_ON);
	}
	dispose(m, job->caller.uid, &job->target);
	dispose(m, job->caller.uid, &job->caller.pidfd);
	dispose(m, job->caller.uid, &job->reply);
	free(job);
	room_put(room);
	want_idle(m);
}

/* Return: NULL: no memory, and nothing of it is taken. */
static struct job *job_start(struct room *room, const struct job *what)
{
	struct job *job = malloc(sizeof(*job));

	if (!job)
		return NULL;
	*job = *what;
	job->job = (struct aside_job){ .work = job_work, .done = job_done };
	job->merger = room->merger;
	job->room = room;
	room->nr_jobs++;
	if (job->client && ++job->client->nr_jobs == CLIENT_JOBS_MAX)
		sd_event_source_set_enabled(job->client->source, SD_EVENT_OFF);
	aside_start(room->merger->aside, &job->job, job->caller.uid);
	return job;
}

static void start_forget(struct room *room, pid_t pid, uint64_t birth)
{
	struct job job = {
		.caller = { .uid = getuid(), .pidfd = -1 },
		.target = -1,
		.reply = -1,
		.talk = -1,
		.forget = true,
		.pid = pid,
		.birth = birth,
	};

	job_start(room, &job);
}

/* An answer that needs no thread. @room: the numbers are of the last call, and of what the present one has read so far */
static void answer_state(struct room *room, int reply)
{
	struct ksm_answer answer = { .magic = KSM_MAGIC };

	if (room->nr_jobs == 0)
		job_get_state(room, &room->state);
	answer.state = room->state;
	answer.state.members = room->nr_members;
	answer.state.pages_scanned += __atomic_load_n(&room->live, __ATOMIC_RELAXED);
	answer_to(reply, &answer);
}

/* A line for each process that was merged and has not ended. */
static void answer_members(struct room *room, int reply)
{
	struct {
		struct ksm_answer head;
		char text[MEMBERS_MAX * 12];
	} *answer = malloc(sizeof(*answer));
	const struct member_watch *w;
	size_t len = 0;

	if (!answer)
		return;
	answer->head = (struct ksm_answer){ .magic = KSM_MAGIC };
	DL_FOREACH(room->members, w)
		if (len + 12 < sizeof(answer->text))
			len += (size_t)snprintf(answer->text + len, 12, "%d\n", (int)w->pid);
	(void)!kept_send(reply, answer, sizeof(answer->head) + len, NULL, 0, MSG_DONTWAIT);
	free(answer);
}

static void refuse(int reply, int error)
{
	answer_to(reply, &(struct ksm_answer){ .magic = KSM_MAGIC, .error = error });
}

/* ---- Who has a partition open ---- */

static void drop_client(struct client *c)
{
	struct room *room = c->room;
	struct merger *m = room->merger;

	kept_tell(PUB_DROP, c->kept, 0, -1);
	DL_DELETE(m->clients, c);
	share_give(&m->shares, c->uid);
	sd_event_source_unref(c->source);
	dispose(m, c->uid, &c->fd);
	free(c);
	room->nr_clients--;
	room_put(room);
	want_idle(m);
}

/* @fd is taken, also on failure. */
static int add_client(struct room *room, int fd, uid_t uid, uint32_t access, uint64_t kept)
{
	struct merger *m = room->merger;
	struct client *c;
	int r = share_take(&m->shares, uid, CLIENTS_MAX, CLIENTS_UID_MAX);

	if (r < 0) {
		close(fd);
		return r;
	}
	c = calloc(1, sizeof(*c));
	r = c ? sd_event_add_io(m->event, &c->source, fd, EPOLLIN, on_client, c) : -ENOMEM;
	if (r < 0) {
		close(fd);
		free(c);
		share_give(&m->shares, uid);
		return r;
	}
	c->room = room;
	c->fd = fd;
	c->uid = uid;
	c->access = access;
	c->kept = kept;
	room->nr_clients++;
	DL_APPEND(m->clients, c);
	return 0;
}

/* What the keeper knows him by: the partition, a number, what he may; and who he is. */
static uint64_t kept_number(struct merger *m, uint64_t room, uint32_t access)
{
	return room << 28 | (++m->last_kept & 0xffffff) << 4 | access;
}

/* ---- Messages ---- */

static bool receive(int sock, struct packet *ret)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(sizeof(int)) +
			   CMSG_SPACE(sizeof(int) * FDS_MAX)];
	} control;
	struct iovec iov = { .iov_base = ret, .iov_len = sizeof(ret->order) };
	struct msghdr m = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	ret->from = (struct ucred){ .pid = 0, .uid = (uid_t)-1, .gid = (gid_t)-1 };
	ret->pidfd = -1;
	ret->nr_fds = 0;
	if (n < 0)
		return false;
	ret->len = (size_t)n;
	ret->cut = m.msg_flags & (MSG_TRUNC | MSG_CTRUNC);
	for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
		if (h->cmsg_level != SOL_SOCKET)
			continue;
		if (h->cmsg_type == SCM_CREDENTIALS) {
			memcpy(&ret->from, CMSG_DATA(h), sizeof(ret->from));
		} else if (h->cmsg_type == SCM_PIDFD) {
			memcpy(&ret->pidfd, CMSG_DATA(h), sizeof(int));
		} else if (h->cmsg_type == SCM_RIGHTS) {
			ret->nr_fds = (unsigned int)((h->cmsg_len - CMSG_LEN(0)) / sizeof(int));
			memcpy(ret->fds, CMSG_DATA(h), ret->nr_fds * sizeof(int));
		}
	}
	return true;
}

static void dispose_all(struct merger *m, uid_t uid, struct packet *p)
{
	while (p->nr_fds)
		dispose(m, uid, &p->fds[--p->nr_fds]);
	if (p->pidfd >= 0)
		close(p->pidfd);
	p->pidfd = -1;
}

static int option(int fd, int name)
{
	int value = -1;
	socklen_t len = sizeof(value);

	return getsockopt(fd, SOL_SOCKET, name, &value, &len) < 0 ? -1 : value;
}

static bool is_reply(int fd)
{
	return option(fd, SO_DOMAIN) == AF_UNIX && option(fd, SO_TYPE) == SOCK_SEQPACKET;
}

/* Begin a merge. @p: the reply's socket first, then perhaps the caller's, then the target's pidfd. */
static int begin(struct room *room, struct packet *p, const struct job *what, bool has_caller)
{
	struct job job = *what;
	unsigned int want = 1 + has_caller + ((job.flags & KSM_TARGET) != 0);

	if (p->nr_fds != want)
		return -EINVAL;
	job.reply = p->fds[0];
	if (has_caller)
		job.caller.pidfd = p->fds[1];
	job.target = (job.flags & KSM_TARGET) ? p->fds[want - 1] : -1;
	if (!job_start(room, &job))
		return -ENOMEM;
	p->nr_fds = 0;
	if (!has_caller)
		p->pidfd = -1;
	return 0;
}

static void serve_client(struct client *c, struct packet *p)
{
	const struct ksm_request *q = &p->request;
	struct job job = {
		.client = c,
		.caller = { .uid = p->from.uid, .gid = p->from.gid, .pidfd = p->pidfd },
		.talk = -1,
		.op = q->op,
		.flags = q->flags,
		.addr = q->addr,
		.size = q->size,
	};
	int r = 0;

	/* There is no place to which it could be said what is wrong. */
	if (p->cut || p->nr_fds == 0 || !is_reply(p->fds[0]))
		return;
	if (p->len != sizeof(*q) || q->magic != KSM_MAGIC || p->pidfd < 0)
		r = -EINVAL;
	else if (q->op == KSM_OP_STAT && p->nr_fds == 1)
		answer_state(c->room, p->fds[0]);
	else if (q->op != KSM_OP_MERGE && q->op != KSM_OP_UNMERGE)
		r = -EINVAL;
	else
		r = (c->access & 2) ? begin(c->room, p, &job, false) : -EBADF;
	if (r < 0)
		refuse(p->fds[0], r);
}

static int on_client(sd_event_source *s, int fd, uint32_t revents, void *ctx)
{
	struct client *c = ctx;
	struct merger *m = c->room->merger;
	static struct packet p;

	/* The end of it; while a call is under way it is looked at again when that is over. */
	if (!receive(fd, &p) || (p.len == 0 && p.from.pid == 0)) {
		if (!(revents & (EPOLLHUP | EPOLLERR)))
			return 0;
		if (c->nr_jobs == 0)
			drop_client(c);
		else
			sd_event_source_set_enabled(s, SD_EVENT_OFF);
		return 0;
	}
	serve_client(c, &p);
	dispose_all(m, c->uid, &p);
	return 0;
}

static void end_room(struct room *room)
{
	room->ended = true;
	room_put(room);
}

/* A new worker has told of all that there are. */
static void end_untold(struct merger *m)
{
	struct room *room, *tmp;

	HASH_ITER(hh, m->rooms, room, tmp) {
		bool told = room->told;

		room->told = false;
		if (!told)
			end_room(room);
	}
}

static int open_room(struct room *room, struct packet *p)
{
	const struct ksm_order *o = &p->order;
	uint64_t kept = kept_number(room->merger, room->id, o->access & 6);
	int r;

	kept_tell(PUB_STORE, kept, o->uid, p->fds[0]);
	r = add_client(room, p->fds[0], o->uid, o->access & 6, kept);
	p->nr_fds = 0;
	if (r < 0)
		kept_tell(PUB_DROP, kept, 0, -1);
	return r;
}

static void serve_worker(struct merger *m, struct packet *p)
{
	const struct ksm_order *o = &p->order;
	struct job job = {
		.caller = { .uid = o->uid, .gid = o->gid, .pidfd = -1 },
		.talk = -1,
		.op = o->op,
		.flags = o->flags,
		.addr = o->addr,
		.size = o->size,
	};
	struct room *room;
	int r = 0;

	if (p->len != sizeof(*o) || o->magic != KSM_MAGIC || p->cut)
		return;
	if (o->op == KSM_OP_END || o->op == KSM_OP_LIVE) {
		HASH_FIND(hh, m->rooms, &o->entry, sizeof(o->entry), room);
		if (o->op == KSM_OP_LIVE && o->entry == 0)
			end_untold(m);
		else if (room && o->op == KSM_OP_LIVE)
			room->told = true;
		else if (room)
			end_room(room);
		return;
	}
	if (p->nr_fds == 0)
		return;
	room = room_get(m, o->entry, o->name);
	if (!room)
		r = -ENOMEM;
	else if (o->op == KSM_OP_OPEN)
		(void)open_room(room, p);
	else if (o->op == KSM_OP_STAT)
		answer_state(room, p->fds[0]);
	else if (o->op == KSM_OP_MEMBERS)
		answer_members(room, p->fds[0]);
	else if (o->op == KSM_OP_MERGE || o->op == KSM_OP_UNMERGE)
		r = begin(room, p, &job, true);
	else
		r = -EINVAL;
	if (r < 0)
		refuse(p->fds[0], r);
}

static int on_worker(sd_event_source *s, int fd, uint32_t revents, void *ctx)
{
	struct merger *m = ctx;
	static struct packet p;

	if (!receive(fd, &p))
		return 0;
	serve_worker(m, &p);
	dispose_all(m, p.order.uid, &p);
	want_idle(m);
	return 0;
}

static int on_aside(sd_event_source *s, int fd, uint32_t revents, void *ctx)
{
	struct merger *m = ctx;

	aside_dispatch(m->aside);
	return 0;
}

static int on_keeper(sd_event_source *s, int fd, uint32_t revents, void *ctx)
{
	kept_asked();
	return 0;
}

/* ---- The process ---- */

/* Who had a partition open when our predecessor died has it open still; the partition is empty. */
static void take_over(struct merger *m)
{
	struct pub_kept k;
	struct room *room;
	uint64_t lost[64];
	unsigned int nr_lost = 0;
	int fd;

	for (uint32_t n = 0; kept_fetch(n, &k, &fd); n++) {
		if (fd < 0)
			continue;
		if (m->last_kept < (k.id >> 4 & 0xffffff))
			m->last_kept = k.id >> 4 & 0xffffff;
		room = room_get(m, k.id >> 28, (const char[KSM_NAME_MAX]){ 0 });
		if ((!room || add_client(room, fd, k.which, k.id & 6, k.id) < 0) && nr_lost < 64)
			lost[nr_lost++] = k.id;
	}
	while (nr_lost)
		kept_tell(PUB_DROP, lost[--nr_lost], 0, -1);
}

static int start(struct merger *m)
{
	int r;

	m->privileged = geteuid() == 0;
	m->device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	m->counts = calloc(ASIDE_OWNERS, sizeof(*m->counts));
	if (!m->counts)
		return -ENOMEM;
	r = sandbox_merger(m->privileged);
	if (r == 0)
		r = sd_event_new(&m->event);
	if (r >= 0)
		r = aside_new(&m->aside, true);
	if (r == 0)
		r = aside_new(&m->closers, false);
	if (r < 0)
		return r;
	m->closer = (struct closer){ .aside = m->closers, .counts = m->counts };
	r = sd_event_add_time_relative(m->event, &m->idle, CLOCK_MONOTONIC, IDLE_USEC,
				       IDLE_SLACK_USEC, on_idle, m);
	if (r < 0)
		return r;
	take_over(m);
	r = sd_event_add_io(m->event, NULL, SERVER_SERVE, EPOLLIN, on_worker, m);
	if (r >= 0)
		r = sd_event_add_io(m->event, NULL, SERVER_KEEPER, EPOLLIN, on_keeper, NULL);
	if (r >= 0)
		r = sd_event_add_io(m->event, NULL, aside_fd(m->aside), EPOLLIN, on_aside, m);
	return r;
}

int merger_run(const struct config *c)
{
	static struct merger m;
	int r;

	m.config = c;
	prctl(PR_SET_NAME, "ksharedd-merge");
	signal(SIGPIPE, SIG_IGN);
	r = start(&m);
	if (r >= 0 && !c->foreground)
		log_to_background("ksharedd");
	if (r >= 0)
		r = sd_event_loop(m.event);
	if (r < 0)
		log_error("merger: %s", strerror(-r));
	/* Threads may be in the middle of something: what they use is not freed. */
	fflush(NULL);
	_exit(r < 0);
}
