// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ksm.c - merge partitions: an entry is a directory, whose parts are files that tell how things stand, and two to which orders are written.
 *
 * The partition itself, its store and its index, is in the merger (daemon/merger.h), which knows it by the directory's number. The worker says there who asks,
 * and gives out sockets to it (wire/ksm.h). So nothing of a partition is here, and a worker's death is nothing to it.
 *
 * The directory's mode says who may do what: its read bits are those of the files that tell, its write bits those of the two others, and of
 * the access that the library asks for. Nobody can put anything else into it.
 */
#include <base/cleanup.h>
#include <base/proc.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <kind/hand.h>
#include <kind/kinds.h>
#include <kind/texts.h>
#include <engine/aside/aside.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utlist.h>
#include <wire/keep.h>
#include <wire/ksm.h>

#define ANSWER_MS 5000
#define TEXT_MAX 65536u
#define ORDER_TEXT_MAX 255u

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif

/* As in kshared/ksm.h */
#define FORCE (1u << 1)
#define GUEST_RAM (1u << 2)

enum part {
	SHARED,
	SHARING,
	UNSHARED,
	SCANNED,
	SKIPPED,
	PROFIT,
	MEMBERS,
	MERGE,
	UNMERGE,
	NR_PARTS,
};

static const struct {
	const char *name;
	mode_t mode;
} parts[NR_PARTS] = {
	[SHARED] = { "pages_shared", 0444 },     [SHARING] = { "pages_sharing", 0444 },
	[UNSHARED] = { "pages_unshared", 0444 }, [SCANNED] = { "pages_scanned", 0444 },
	[SKIPPED] = { "pages_skipped", 0444 },   [PROFIT] = { "general_profit", 0444 },
	[MEMBERS] = { "members", 0444 },         [MERGE] = { "merge", 0222 },
	[UNMERGE] = { "unmerge", 0222 },
};

/** struct ksm_priv - a part's. @what: enum part, or one that a later version knows; @room: its directory's number */
struct ksm_priv {
	uint32_t what;
	uint32_t zero;
	uint64_t room;
	uint64_t reserved[2];
};

_Static_assert(sizeof(struct ksm_priv) == 32, "saved");

/* ---- Directories and parts ---- */

static bool is_room(const struct entry *e)
{
	return entry_is_dir(e) && e->parent && e->parent->kind == &kind_ksm;
}

/* A file of this kind is a part, and there is no other. */
static mode_t ksm_part(const struct entry *e)
{
	const struct ksm_priv *p = e->priv;

	return p->what < NR_PARTS ? parts[p->what].mode : 0444;
}

static bool is_own(const struct entry *e)
{
	return true;
}

/* Partitions are not in one another. */
static int ksm_board(const struct entry *dir)
{
	return is_room(dir) ? -EPERM : 0;
}

static void ksm_fill(struct entry *dir)
{
	struct ksm_priv p = { .room = dir->id };

	for (; p.what < NR_PARTS; p.what++)
		if (!tree_lookup(dir, parts[p.what].name, strlen(parts[p.what].name)))
			tree_add_own(dir, parts[p.what].name, dir->mode & parts[p.what].mode, &p);
}

static int ksm_create(struct entry *e, struct request *rq)
{
	return -EPERM;
}

static void fill_order(struct ksm_order *ret, enum ksm_op op, const struct entry *room,
		       const struct cred *c)
{
	*ret = (struct ksm_order){ .magic = KSM_MAGIC, .op = op, .entry = room ? room->id : 0 };
	if (c) {
		ret->uid = c->uid;
		ret->gid = c->gid;
	}
	if (room)
		memcpy(ret->name, room->name,
		       room->name_len < KSM_NAME_MAX ? room->name_len : KSM_NAME_MAX - 1);
}

/* The name is gone. One of the parts tells it, since they go with their directory. */
static void part_ended(struct entry *e)
{
	const struct ksm_priv *p = e->priv;
	struct ksm_order order;

	if (p->what != MERGE || e->tree->merger < 0)
		return;
	fill_order(&order, KSM_OP_END, NULL, NULL);
	order.entry = p->room;
	hand_over(e->tree->merger, &order, sizeof(order), NULL, 0);
}

void ksm_restored(struct tree *t, bool kept)
{
	struct ksm_order order;
	struct entry *e, *tmp;
	int r = 0;

	if (!kept)
		return;
	HASH_ITER(by_id, t->ids, e, tmp) {
		if (r < 0 || !e->kind || e->kind != &kind_ksm || e->orphan || !is_room(e))
			continue;
		fill_order(&order, KSM_OP_LIVE, e, NULL);
		r = hand_over(t->merger, &order, sizeof(order), NULL, 0);
	}
	fill_order(&order, KSM_OP_LIVE, NULL, NULL);
	/* If not all could be told it knows of none that it may end. */
	if (r == 0)
		hand_over(t->merger, &order, sizeof(order), NULL, 0);
}

static void ksm_describe(struct entry *e, struct description *ret)
{
	const struct ksm_priv *p = e->priv;

	snprintf(ret->what, sizeof(ret->what), "%s", p->what < MERGE ? "state" : "orders");
	ret->access = p->what < MERGE ? O_RDONLY : O_WRONLY;
	ret->change = CHANGE_NEVER;
}

/* ---- Asking the merger ---- */

/**
 * struct asking - a question, or an order, whose answer a thread waits for.
 * @sock: where it comes
 * @fds: that go with it
 */
struct asking {
	struct aside_job job;
	struct tree *tree;
	struct request *rq;
	struct ksm_order order;
	uint32_t what;
	int sock;
	int fds[HAND_FDS];
	unsigned int nr_fds;
	int timeout_ms;
	int result;
	char *text;
	size_t len;
};

static void close_fds(struct asking *a)
{
	while (a->nr_fds)
		close(a->fds[--a->nr_fds]);
}

static int put_text(struct asking *a, const struct ksm_answer *answer, size_t len)
{
	const struct ksm_state *s = &answer->state;
	const uint64_t numbers[] = {
		[SHARED] = s->pages_shared,     [SHARING] = s->pages_sharing,
		[UNSHARED] = s->pages_unshared, [SCANNED] = s->pages_scanned,
		[SKIPPED] = s->pages_skipped,
	};
	int n;

	if (a->what == MEMBERS) {
		a->len = len - sizeof(*answer);
		a->text = malloc(a->len + 1);
		if (a->text)
			memcpy(a->text, answer + 1, a->len);
		return a->text ? 0 : -ENOMEM;
	}
	n = a->what == PROFIT ? asprintf(&a->text, "%" PRId64 "\n", s->general_profit)
			      : asprintf(&a->text, "%" PRIu64 "\n", numbers[a->what]);
	a->len = n > 0 ? (size_t)n : 0;
	return n < 0 ? -ENOMEM : 0;
}

static int take_answer(struct asking *a)
{
	size_t size = sizeof(struct ksm_answer) + TEXT_MAX;
	cleanup_free struct ksm_answer *answer = malloc(size);
	struct pollfd p = { .fd = a->sock, .events = POLLIN };
	ssize_t n;
	int r;

	if (!answer)
		return -ENOMEM;
	do {
		r = poll(&p, 1, a->timeout_ms);
	} while (r < 0 && errno == EINTR);
	if (r <= 0)
		return r < 0 ? -errno : -ETIMEDOUT;
	n = recv(a->sock, answer, size, MSG_DONTWAIT);
	/* It has died in the middle of it. */
	if (n <= 0)
		return -ECONNRESET;
	if ((size_t)n < sizeof(*answer) || answer->magic != KSM_MAGIC || answer->error > 0 ||
	    answer->error < -4095)
		return -EPROTO;
	if (answer->error < 0 || a->what >= MERGE)
		return answer->error;
	return put_text(a, answer, (size_t)n);
}

static void ask(struct aside_job *j)
{
	struct asking *a = (struct asking *)j;

	a->result = hand_over(a->tree->merger, &a->order, sizeof(a->order), a->fds, a->nr_fds);
	close_fds(a);
	if (a->result == 0)
		a->result = take_answer(a);
}

static void asked(struct aside_job *j)
{
	struct asking *a = (struct asking *)j;
	struct request *rq = a->rq;

	if (rq && a->result == 0)
		a->result = a->what < MERGE ? texts_keep(rq, take_ptr(a->text), a->len)
					    : (int)rq->len;
	if (rq)
		request_done(rq, a->result);
	close_fds(a);
	close(a->sock);
	free(a->text);
	free(a);
}

/* The merger sees the socket hang up, and leaves what it has not done. */
static void cancel(struct request *rq)
{
	struct asking *a = rq->pending;

	a->rq = NULL;
	shutdown(a->sock, SHUT_RDWR);
	if (aside_cancel(a->tree->aside, &a->job))
		asked(&a->job);
	request_done(rq, -EINTR);
}

static bool is_served(const struct entry *e)
{
	return e->tree->merger >= 0 && e->tree->aside;
}

/* @a: with what goes along; freed in any case */
static int start(struct asking *a, struct entry *e, struct request *rq)
{
	const struct ksm_priv *p = e->priv;
	int pair[2], r = is_served(e) ? 0 : -EOPNOTSUPP;

	if (r == 0 && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		r = -errno;
	if (r < 0) {
		close_fds(a);
		free(a);
		return r;
	}
	memmove(a->fds + 1, a->fds, a->nr_fds * sizeof(int));
	a->fds[0] = pair[1];
	a->nr_fds++;
	a->sock = pair[0];
	a->job = (struct aside_job){ .work = ask, .done = asked };
	a->tree = e->tree;
	a->rq = rq;
	a->what = p->what;
	rq->pending = a;
	rq->cancel = cancel;
	aside_start(e->tree->aside, &a->job, rq->cred->uid);
	return KIND_LATER;
}

/* The partition of a part; it may have lost its name, but is there for who has the part open. */
static void order_of(const struct entry *e, enum ksm_op op, const struct request *rq,
		     struct ksm_order *ret)
{
	const struct ksm_priv *p = e->priv;

	fill_order(ret, op, e->parent, rq->cred);
	ret->entry = p->room;
}

/* ---- Files ---- */

/* Who opened it: nobody else writes by this handle. */
static uint64_t word_of(const struct cred *c)
{
	return (uint64_t)c->uid << 32 | c->gid;
}

static int ksm_open(struct entry *e, struct request *rq)
{
	const struct ksm_priv *p = e->priv;
	unsigned int want = access_wanted(rq->oflags);

	if (!is_served(e) || p->what >= NR_PARTS)
		return -EOPNOTSUPP;
	if (want != (p->what < MERGE ? 4u : 2u))
		return -EACCES;
	rq->how = OPEN_DIRECT;
	rq->word = p->what < MERGE ? ++e->tree->store->shm->next_alias : word_of(rq->cred);
	return 0;
}

static int ksm_read(struct entry *e, struct request *rq)
{
	const struct ksm_priv *p = e->priv;
	int r = p->what < MERGE ? texts_read(rq) : -EBADF;
	struct asking *a;

	if (r != -ENOENT)
		return r;
	a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	order_of(e, p->what == MEMBERS ? KSM_OP_MEMBERS : KSM_OP_STAT, rq, &a->order);
	a->timeout_ms = ANSWER_MS;
	return start(a, e, rq);
}

static bool is_alive(int pidfd)
{
	return syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) == 0 || errno == EPERM;
}

/*
 * The process that writes, for sure: it waits for us, but might have been killed meanwhile, and its number be another's. So a pidfd is had between
 * two looks at who it is.
 */
static int writer_pidfd(const struct cred *c)
{
	struct proc_info info, again;
	cleanup_fd int fd = -1;
	int r;

	if (c->tid <= 0)
		return -EOPNOTSUPP;
	r = proc_read(c->tid, &info);
	if (r < 0)
		return r;
	fd = (int)syscall(SYS_pidfd_open, info.tgid, 0);
	if (fd < 0)
		return -errno;
	r = proc_read(c->tid, &again);
	if (r < 0)
		return r;
	if (again.tgid != info.tgid || !is_alive(fd))
		return -ESRCH;
	/* Its numbers are not ours. */
	if (again.inner)
		return -EOPNOTSUPP;
	return again.uid[3] == c->uid && again.gid[3] == c->gid ? take_fd(&fd) : -EPERM;
}

/* "PID ADDR SIZE", then perhaps "force" or "guest". Return: 0; -EINVAL. */
static int parse_order(const char *text, pid_t *ret_pid, struct ksm_order *ret)
{
	uint64_t n[3];
	char *end;

	for (int i = 0; i < 3; i++) {
		while (*text == ' ' || *text == '\t')
			text++;
		if (!isdigit((unsigned char)*text))
			return -EINVAL;
		errno = 0;
		n[i] = strtoull(text, &end, 0);
		if (errno || (*end && !isspace((unsigned char)*end)))
			return -EINVAL;
		text = end;
	}
	if (n[0] > INT32_MAX)
		return -ESRCH;
	for (;;) {
		size_t len;

		text += strspn(text, " \t");
		len = strcspn(text, " \t\n");
		if (len == 5 && strncmp(text, "force", 5) == 0)
			ret->flags |= FORCE;
		else if (len == 5 && strncmp(text, "guest", 5) == 0)
			ret->flags |= GUEST_RAM;
		else
			break;
		text += len;
	}
	*ret_pid = (pid_t)n[0];
	ret->addr = n[1];
	ret->size = n[2];
	return strcmp(text, "") == 0 || strcmp(text, "\n") == 0 ? 0 : -EINVAL;
}

static int ksm_write(struct entry *e, struct request *rq)
{
	const struct ksm_priv *p = e->priv;
	cleanup_fd int caller = -1;
	char text[ORDER_TEXT_MAX + 1];
	struct asking *a;
	int r, target;
	pid_t pid;

	if (p->what < MERGE || rq->word != word_of(rq->cred))
		return -EPERM;
	if (rq->len > ORDER_TEXT_MAX || memchr(rq->data, 0, rq->len))
		return -EINVAL;
	memcpy(text, rq->data, rq->len);
	text[rq->len] = 0;
	a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	order_of(e, p->what == MERGE ? KSM_OP_MERGE : KSM_OP_UNMERGE, rq, &a->order);
	r = parse_order(text, &pid, &a->order);
	if (r == 0)
		r = caller = writer_pidfd(rq->cred);
	if (r < 0) {
		free(a);
		return r;
	}
	target = pid ? (int)syscall(SYS_pidfd_open, pid, 0) : fcntl(caller, F_DUPFD_CLOEXEC, 0);
	if (target < 0) {
		r = -errno;
		free(a);
		/* A thread that is no process's first. */
		return r == -EINVAL ? -ESRCH : r;
	}
	a->order.flags |= KSM_TARGET;
	a->fds[0] = take_fd(&caller);
	a->fds[1] = target;
	a->nr_fds = 2;
	a->timeout_ms = -1;
	return start(a, e, rq);
}

static void ksm_close(struct entry *e, struct request *rq)
{
	const struct ksm_priv *p = e->priv;

	if (p->what < MERGE)
		texts_drop(rq->word);
}

/* `echo ... >` truncates first. */
static int ksm_resize(struct entry *e, struct request *rq)
{
	const struct ksm_priv *p = e->priv;

	return p->what >= MERGE && rq->size == 0 ? 0 : -EINVAL;
}

/* Who sends is told with each message, from the first on. */
static int client_pair(int ret[2])
{
	int on = 1, r = 0;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ret) < 0)
		return -errno;
	if (setsockopt(ret[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0 ||
	    setsockopt(ret[1], SOL_SOCKET, SO_PASSPIDFD, &on, sizeof(on)) < 0)
		/* Before 6.5, where the engine has not what it needs either. */
		r = errno == ENOPROTOOPT ? -EOPNOTSUPP : -errno;
	if (r < 0) {
		close(ret[0]);
		close(ret[1]);
	}
	return r;
}

static int ksm_share(struct entry *e, struct request *rq, unsigned int granted)
{
	unsigned int want = access_wanted(rq->oflags);
	struct ksm_order order;
	int pair[2], r;

	if (!is_room(e))
		return entry_is_dir(e) ? -EISDIR : -EOPNOTSUPP;
	if (rq->oflags & ~O_ACCMODE)
		return -EINVAL;
	if (want & ~granted)
		return -EACCES;
	if (e->tree->merger < 0)
		return -EOPNOTSUPP;
	r = client_pair(pair);
	if (r < 0)
		return r;
	fill_order(&order, KSM_OP_OPEN, e, rq->cred);
	order.access = want;
	r = hand_over(e->tree->merger, &order, sizeof(order), &pair[1], 1);
	close(pair[1]);
	if (r < 0) {
		close(pair[0]);
		return r;
	}
	rq->out_fd = pair[0];
	rq->out_quick = true;
	return 0;
}

const struct kind kind_ksm = {
	.name = "ksm",
	.summary = "partitions in which identical pages are merged when asked",
	.entry_size = sizeof(struct ksm_priv),
	.dir_mode = 0755,
	.rooms = true,
	.board = ksm_board,
	.fill = ksm_fill,
	.part = ksm_part,
	.own = is_own,
	.create = ksm_create,
	.destroy = part_ended,
	.unnamed = part_ended,
	.open = ksm_open,
	.read = ksm_read,
	.write = ksm_write,
	.close = ksm_close,
	.resize = ksm_resize,
	.share = ksm_share,
	.describe = ksm_describe,
};
