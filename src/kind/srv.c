// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * srv.c - posted file descriptors, as Plan 9's /srv and metux's srvfs have them.
 *
 *	created --write of a number, or with a descriptor--> posted --unlink, last user gone--> ended
 *
 * An entry is posted once and stays what it is. A handle opened for writing before the post is the poster's: what it writes
 * is a descriptor's number, before and (refused) after the post. Every later handle is the posted
 * descriptor: files by the kernel's passthrough, streams by engine/relay. The handle's word says which:
 *
 *	bit 63		poster's handle: bits 0-31 the uid, 32-62 the gid of who opened it
 *	otherwise	writers_open()'s, of a stream; 0 of a file
 *
 * A poster's handle obeys only the identity that opened it. Otherwise whoever can make a privileged program print a
 * number into his file would be given that program's descriptors.
 */
#include <base/cleanup.h>
#include <core/tree.h>
#include <engine/relay/poller.h>
#include <engine/relay/relay.h>
#include <engine/remote/classify.h>
#include <engine/remote/reopen.h>
#include <engine/remote/take.h>
#include <errno.h>
#include <fcntl.h>
#include <kind/kinds.h>
#include <kind/later.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <wire/ctl.h>
#include <wire/keep.h>

#define WORD_POSTER (1ULL << 63)
#define NUMBER_MAX 20 /* bytes of a number, as in srvfs */

struct srv_priv {
	struct fd_facts facts;
	int64_t posted_ns; /* 0: not yet */
	uint32_t poster_uid;
	uint32_t poster_pid;
	char poster_comm[16];
};

_Static_assert(sizeof(struct srv_priv) <= KIND_ENTRY_MAX, "fits");
_Static_assert(SHM_POLLS >= SHM_WRITERS, "every stream's handle may wait");

static uint64_t poster_word(const struct cred *c)
{
	return WORD_POSTER | (uint64_t)c->gid << 32 | c->uid;
}

/* Take @fd for what the entry stands for. The caller commits. */
static int adopt(struct entry *e, int fd, const struct cred *c, pid_t pid, const char *comm)
{
	struct srv_priv *p = e->priv;
	struct fd_facts facts;
	int r;

	r = classify_fd(fd, &facts);
	if (r < 0)
		return r;
	if (e->tree->dev && facts.dev == e->tree->dev)
		return -ELOOP;
	/* A hostile one would stop the loop: of ordinary users it is only given out, by the library. */
	if (facts.poll_waits && c->uid != 0 && c->uid != e->tree->uid)
		facts.class = FD_OPAQUE;
	p->facts = facts;
	p->posted_ns = tree_now();
	p->poster_uid = c->uid;
	p->poster_pid = (uint32_t)pid;
	snprintf(p->poster_comm, sizeof(p->poster_comm), "%s", comm);
	return 0;
}

static int srv_create(struct entry *e, struct request *rq)
{
	struct proc_info info = { 0 };

	/* Through the mount an entry is made first and posted by a write. */
	if (rq->fd < 0)
		return rq->cred->checked ? 0 : -EBADF;
	if (rq->cred->tid)
		proc_read(rq->cred->tid, &info);
	return adopt(e, rq->fd, rq->cred, rq->cred->tid, info.comm);
}

/*
 * May the kernel serve this file itself? It would write where the opener says, and not at the end of what appends; and it
 * does not hold mappings of a passthrough file to seals that its memfd is given later. Then it is served here, and to
 * every opener: an inode is opened for passthrough always or never.
 */
static bool may_pass_through(const struct fd_facts *f)
{
	return !(access_wanted(f->access) & 2) || !(f->append || f->sealable);
}

static int srv_open(struct entry *e, struct request *rq)
{
	struct srv_priv *p = e->priv;
	unsigned int want = access_wanted(rq->oflags);
	int id;

	if (!p->posted_ns) {
		if (!(want & 2))
			return -ENXIO;
		if (rq->cred->gid > INT_MAX)
			return -EOVERFLOW; /* it would not fit the word */
		rq->how = OPEN_DIRECT;
		rq->word = poster_word(rq->cred);
		return 0;
	}
	if (want & ~access_wanted(p->facts.access))
		return -EACCES;
	switch (p->facts.class) {
	case FD_STREAM:
		rq->how = OPEN_STREAM;
		return writers_open(e, rq);
	case FD_BLOCK:
		rq->how = OPEN_DIRECT;
		return 0;
	case FD_FILE:
		break;
	default:
		return -EOPNOTSUPP;
	}
	rq->how = OPEN_DIRECT;
	if ((want & 2) && p->facts.write_sealed)
		return -EPERM;
	if (e->tree->passthrough && may_pass_through(&p->facts)) {
		id = e->tree->store->ops->backing(e->tree->store, e->id);
		if (id > 0) {
			rq->how = OPEN_PASSTHROUGH;
			rq->backing = id;
		}
	}
	return 0;
}

/* A transfer under way. */
struct srv_io {
	struct relay_io io;
	struct entry *e;
	struct request *rq;
};

static void io_done(struct relay_io *io, int result, const void *data)
{
	struct srv_io *s = (struct srv_io *)io;
	struct request *rq = s->rq;
	struct entry *e = s->e;

	if (!io->write && result > 0)
		rq->out = (struct iovec){ .iov_base = (void *)data, .iov_len = (size_t)result };
	free(s);
	request_done(rq, result);
	entry_unpin(e);
}

static void io_cancel(struct request *rq)
{
	struct srv_io *s = rq->pending;

	relay_cancel(&s->io);
}

static int start_io(struct entry *e, struct request *rq, bool write)
{
	struct srv_priv *p = e->priv;
	bool file = p->facts.class == FD_FILE || p->facts.class == FD_BLOCK;
	int fd = entry_pin(e);
	struct srv_io *s;

	if (fd < 0)
		return fd;
	s = calloc(1, sizeof(*s));
	if (!s) {
		entry_unpin(e);
		return -ENOMEM;
	}
	*s = (struct srv_io){
		.e = e,
		.rq = rq,
		.io = {
			.unique = rq->id[1] | (rq->resent ? RELAY_AGAIN : 0),
			.owner = e->uid == e->tree->uid ? 0 : e->uid,
			.fd = fd,
			.offset = file ? (int64_t)rq->offset : -1,
			.data = rq->data,
			.len = rq->len,
			.write = write,
			.nonblock = !file && (rq->oflags & O_NONBLOCK),
			.nowait = p->facts.nowait,
			.regular = file,
			.done = io_done,
		},
	};
	rq->pending = s;
	rq->cancel = io_cancel;
	relay_start(e->tree->relay, &s->io);
	return KIND_LATER;
}

static int srv_read(struct entry *e, struct request *rq)
{
	struct srv_priv *p = e->priv;

	if (rq->word & WORD_POSTER || !p->posted_ns)
		return -ENXIO;
	return start_io(e, rq, false);
}

/* Digits, perhaps one newline, nothing else. Return: the number; -EINVAL; -EBADF no descriptor can have it. */
static int parse_number(const char *text, size_t len)
{
	uint64_t n = 0;

	if (len > 0 && text[len - 1] == '\n')
		len--;
	if (len == 0 || len >= NUMBER_MAX)
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9')
			return -EINVAL;
		n = n * 10 + (uint64_t)(text[i] - '0');
	}
	return n > INT_MAX ? -EBADF : (int)n;
}

static int post_number(struct entry *e, struct request *rq)
{
	struct srv_priv *p = e->priv;
	struct proc_info info;
	uint64_t entry;
	int number, fd, r;

	if (p->posted_ns)
		return rq->resent && done_find(e->tree, rq, &r, &entry) ? (int)rq->len : -EBUSY;
	if (rq->offset != 0)
		return -EINVAL;
	number = parse_number(rq->data, rq->len);
	if (number < 0)
		return number;
	if (rq->cred->tid == 0)
		return -EOPNOTSUPP;
	if (poster_word(rq->cred) != rq->word)
		return -EPERM;
	if (e->tree->barred && e->tree->barred(e->tree, rq->cred->uid))
		return -EBUSY;
	r = take_fd_of(rq->cred->tid, rq->cred->uid, rq->cred->gid, number, &info, &fd);
	if (r == 0)
		r = adopt(e, fd, rq->cred, info.tgid, info.comm);
	if (r < 0) {
		if (fd >= 0)
			e->tree->close_fd(e->tree, rq->cred->uid, fd);
		return r;
	}
	entry_save(e, rq, fd);
	entry_keep_fd(e, fd);
	return (int)rq->len;
}

static int srv_write(struct entry *e, struct request *rq)
{
	struct srv_priv *p = e->priv;

	if (rq->word & WORD_POSTER)
		return post_number(e, rq);
	if (!p->posted_ns)
		return -ENXIO;
	return start_io(e, rq, true);
}

static int srv_poll(struct entry *e, struct request *rq)
{
	struct srv_priv *p = e->priv;
	struct pollfd pfd = { .events = (short)rq->events };
	int r;

	if (rq->word & WORD_POSTER || !p->posted_ns)
		return POLLOUT & (int)rq->events;
	if (p->facts.class != FD_STREAM)
		return (POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM) & (int)rq->events;
	pfd.fd = entry_fd(e);
	if (pfd.fd < 0)
		return pfd.fd;
	/*
	 * Arm before looking: what becomes ready between the two is then seen by one of them. A stream's handle waits once and has a
	 * place of writers_open()'s, so who may have no more of those cannot use up these.
	 */
	if (rq->poll_handle) {
		r = poller_arm(e->tree->poller, rq->poll_handle, rq->word, pfd.fd, rq->events);
		if (r < 0)
			return r;
	}
	if (poll(&pfd, 1, 0) < 0)
		return -errno;
	return pfd.revents;
}

static void srv_close(struct entry *e, struct request *rq)
{
	if (rq->word & WORD_POSTER)
		return;
	poller_close(e->tree->poller, rq->word);
	writers_close(e->tree, rq->word);
}

static void resize_work(struct later *l)
{
	l->result = ftruncate(l->fd, (off_t)l->size) < 0 ? -errno : 0;
}

static int srv_resize(struct entry *e, struct request *rq)
{
	struct srv_priv *p = e->priv;

	/* O_TRUNC means nothing to a stream, nor to an entry that waits for its descriptor; ftruncate() is an error. */
	if (!p->posted_ns || p->facts.class != FD_FILE)
		return rq->flags ? -EINVAL : 0;
	if (!(access_wanted(p->facts.access) & 2))
		return -EACCES;
	if (p->facts.append)
		return -EPERM;
	return later_start(e, rq, &(struct later){ .work = resize_work, .size = rq->size });
}

static void fsync_work(struct later *l)
{
	l->result = (l->flags ? fdatasync(l->fd) : fsync(l->fd)) < 0 ? -errno : 0;
}

static void fallocate_work(struct later *l)
{
	l->result = fallocate(l->fd, (int)l->flags, (off_t)l->offset, (off_t)l->size) < 0 ? -errno
											  : 0;
}

static void seek_work(struct later *l)
{
	/* lseek() on the posted open file would move its offset. */
	cleanup_fd int fd = reopen_fd((int)l->before, l->fd, O_RDONLY);
	off_t at;

	if (fd < 0) {
		l->result = fd;
		return;
	}
	at = lseek(fd, (off_t)l->offset, (int)l->flags);
	l->result = at < 0 ? -errno : 0;
	l->offset = (uint64_t)at;
}

static void sought(struct later *l)
{
	if (l->rq)
		l->rq->offset = l->offset;
}

static bool beyond_size(struct entry *e, const struct request *rq)
{
	struct statx st;
	int fd = entry_fd(e);

	return fd < 0 || statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_SIZE, &st) < 0 ||
		rq->size > st.stx_size || rq->offset > st.stx_size - rq->size;
}

static int srv_command(struct entry *e, struct request *rq)
{
	struct srv_priv *p = e->priv;

	if (rq->cmd == COMMAND_OWNER)
		return 0;
	if (!p->posted_ns || p->facts.class != FD_FILE)
		return rq->cmd == COMMAND_FSYNC && !p->posted_ns ? 0 : -EINVAL;
	switch (rq->cmd) {
	case COMMAND_FALLOCATE:
		if (!(access_wanted(p->facts.access) & 2))
			return -EBADF;
		if (p->facts.append && rq->flags)
			return -EPERM;
		/* Memory that it takes would be the daemon's: nothing beyond the size that its owner gave it. */
		if (strcmp(p->facts.what, "memfd") == 0 && beyond_size(e, rq))
			return -EOPNOTSUPP;
		return later_start(e, rq,
				   &(struct later){
					   .work = fallocate_work,
					   .offset = rq->offset,
					   .size = rq->size,
					   .flags = rq->flags,
				   });
	case COMMAND_FSYNC:
		return later_start(e, rq,
				   &(struct later){ .work = fsync_work, .flags = rq->flags & 1 });
	case COMMAND_LSEEK:
		return later_start(e, rq,
				   &(struct later){
					   .work = seek_work,
					   .finish = sought,
					   .offset = rq->offset,
					   .flags = rq->flags,
					   .before = (uint64_t)e->tree->proc,
				   });
	default:
		return -EOPNOTSUPP;
	}
}

/* What could the caller do by the inode's own mode, if he had any descriptor of it? Of 4 read, 2 write. */
static unsigned int inode_grants(int fd, const struct cred *c)
{
	struct statx st;

	/* An ACL is the kernel's to judge. */
	if (fgetxattr(fd, "system.posix_acl_access", NULL, 0) > 0)
		return 4 | 2;
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_MODE | STATX_UID | STATX_GID,
		  &st) < 0)
		return 4 | 2;
	if (c->uid == st.stx_uid)
		return (st.stx_mode >> 6) & 6;
	if (access_in_group(c, st.stx_gid))
		return (st.stx_mode >> 3) & 6;
	return st.stx_mode & 6;
}

static void reopen_work(struct later *l)
{
	l->result = reopen_fd((int)l->before, l->fd, (int)l->flags);
}

static void reopened(struct later *l)
{
	if (l->result < 0)
		return;
	if (l->rq)
		l->rq->out_fd = l->result;
	else
		l->e->tree->close_fd(l->e->tree, l->e->uid, l->result);
	l->result = 0;
}

static int srv_share(struct entry *e, struct request *rq, unsigned int granted)
{
	struct srv_priv *p = e->priv;
	unsigned int want = access_wanted(rq->oflags), have = access_wanted(p->facts.access);
	bool again = (unsigned int)rq->oflags & CTL_REOPEN;
	int fd;

	if (!p->posted_ns)
		return -ENXIO;
	if ((want & ~have) || (want & ~granted))
		return -EACCES;
	fd = entry_fd(e);
	if (fd < 0)
		return fd;
	if (!again && want == have) {
		rq->out_fd = fd;
		rq->out_borrowed = true;
		return 0;
	}
	if (!p->facts.reopen)
		return want == have ? -ENXIO : -EOPNOTSUPP;
	/* A descriptor can be opened again through /proc: it must not have less access in name only. */
	if (have & ~want & ~granted & inode_grants(fd, rq->cred))
		return -EOPNOTSUPP;
	return later_start(e, rq,
			   &(struct later){
				   .work = reopen_work,
				   .finish = reopened,
				   .flags = (uint32_t)(rq->oflags & O_ACCMODE) |
					   (p->facts.append ? O_APPEND : 0),
				   .before = (uint64_t)e->tree->proc,
			   });
}

static void srv_describe(struct entry *e, struct description *ret)
{
	struct srv_priv *p = e->priv;
	struct statx st;
	int fd;

	snprintf(ret->what, sizeof(ret->what), "%s", p->posted_ns ? p->facts.what : "unposted");
	ret->waits = !p->posted_ns || p->facts.class == FD_STREAM;
	ret->change = !p->posted_ns || p->facts.class == FD_FILE ? CHANGE_ALL : CHANGE_NEVER;
	if (!p->posted_ns)
		return;
	ret->access = p->facts.access;
	ret->posted_ns = p->posted_ns;
	ret->poster_uid = p->poster_uid;
	ret->poster_pid = p->poster_pid;
	memcpy(ret->poster_comm, p->poster_comm, sizeof(ret->poster_comm));
	if (p->facts.class != FD_FILE)
		return;
	fd = entry_fd(e);
	if (fd < 0 || statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &st) < 0)
		return;
	ret->size_bytes = st.stx_size;
	ret->allocated_bytes = st.stx_blocks * 512;
	ret->mtime_ns = (int64_t)st.stx_mtime.tv_sec * 1000000000 + st.stx_mtime.tv_nsec;
	if (strcmp(p->facts.what, "memfd") == 0) {
		int seals = fcntl(fd, F_GET_SEALS);

		ret->seals = seals > 0 ? (uint32_t)seals & 0x1f : 0;
	}
}

const struct kind kind_srv = {
	.name = "srv",
	.summary = "posted file descriptors",
	.entry_size = sizeof(struct srv_priv),
	.dir_mode = 01777,
	.create = srv_create,
	.open = srv_open,
	.read = srv_read,
	.write = srv_write,
	.poll = srv_poll,
	.close = srv_close,
	.resize = srv_resize,
	.command = srv_command,
	.share = srv_share,
	.describe = srv_describe,
};
