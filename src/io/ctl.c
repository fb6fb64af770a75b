// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ctl.c - requests into operations on the tree, each with the caller's own rights.
 *
 * The message is copied and checked whole before any of it is used. Rights are the peer's, taken from the kernel, never
 * from the message. What a kind puts off is answered later; the connection has no other request meanwhile.
 */
#include <base/cleanup.h>
#include <errno.h>
#include <fcntl.h>
#include <io/ctl.h>
#include <io/ctl_conn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void fill_entry(struct entry *e, struct ctl_entry *ret)
{
	struct description d;

	entry_describe(e, &d);
	*ret = (struct ctl_entry){
		.id = e->id,
		.cookie = e->pos,
		.size_bytes = d.size_bytes,
		.allocated_bytes = d.allocated_bytes,
		.btime_ns = e->btime_ns,
		.mtime_ns = d.mtime_ns ? d.mtime_ns : e->mtime_ns,
		.ctime_ns = e->ctime_ns,
		.posted_ns = d.posted_ns,
		.opens = entry_opens(e),
		.mode = e->mode,
		.uid = e->uid,
		.gid = e->gid,
		.access = d.access,
		.poster_uid = d.poster_uid,
		.poster_pid = d.poster_pid,
		.seals = d.seals,
		.name_len = (uint32_t)e->name_len,
	};
	if (e->kind)
		strncpy(ret->kind, e->kind->name, sizeof(ret->kind) - 1);
	memcpy(ret->what, d.what, sizeof(ret->what));
	memcpy(ret->poster_comm, d.poster_comm, sizeof(ret->poster_comm));
	memcpy(ret->name, e->name, e->name_len);
}

/* Find an existing entry. */
static int find(struct ctl *c, const struct cred *cred, const struct ctl_request *m,
		struct entry **ret)
{
	return tree_walk(c->conf.tree, cred, m->path, m->path_len, ret, NULL, NULL);
}

static int find_file(struct ctl *c, const struct cred *cred, const struct ctl_request *m,
		     struct entry **ret)
{
	int r = find(c, cred, m, ret);

	return r == 0 && entry_is_dir(*ret) && !((*ret)->kind && (*ret)->kind->rooms) ? -EISDIR : r;
}

static int share(struct entry *e, struct request *rq)
{
	return e->kind->share ? e->kind->share(e, rq, access_granted(e, rq->cred)) : -EOPNOTSUPP;
}

static int do_create(struct ctl *c, const struct ctl_request *m, struct request *rq,
		     struct entry **ret)
{
	struct entry *dir;
	const char *name;
	size_t len;
	int r;

	if (m->mode & ~07777u)
		return -EINVAL;
	rq->mode = S_IFREG | (m->mode & 0777);
	rq->size = m->size;
	rq->flags = m->flags;
	r = tree_walk(c->conf.tree, rq->cred, m->path, m->path_len, &dir, &name, &len);
	if (r < 0)
		return r;
	if (dir->kind && dir->kind->rooms) {
		if (rq->fd >= 0)
			return -EINVAL;
		/* Who may do anything with a room may look into it. */
		rq->mode = S_IFDIR | (m->mode & 0777) | (m->mode & 0444) >> 2 |
			(m->mode & 0222) >> 1;
	}
	return tree_create(dir, name, len, rq, ret);
}

static int do_seal(struct ctl *c, const struct ctl_request *m, struct request *rq)
{
	struct entry *e;
	int r = find_file(c, rq->cred, m, &e);

	if (r < 0)
		return r;
	r = access_check(e, rq->cred, 2);
	if (r < 0)
		return r;
	rq->cmd = COMMAND_SEAL;
	rq->flags = m->flags;
	return e->kind->command ? e->kind->command(e, rq) : -EOPNOTSUPP;
}

static int do_list(struct ctl *c, const struct ctl_request *m, struct request *rq,
		   struct ctl_answer *answer)
{
	struct ctl_entry *at = (struct ctl_entry *)answer->body;
	struct entry *dir, *e;
	int r = find(c, rq->cred, m, &dir);

	if (r < 0)
		return r;
	if (!entry_is_dir(dir))
		return -ENOTDIR;
	/* A listing tells what stat would, too. */
	r = access_check(dir, rq->cred, 4 | 1);
	if (r < 0)
		return r;
	for (e = tree_next(dir, m->cookie); e && answer->count < CTL_LIST_MAX;
	     e = tree_next(dir, e->pos))
		fill_entry(e, &at[answer->count++]);
	answer->body_len = (uint32_t)(answer->count * sizeof(*at));
	return 0;
}

static int do_remove(struct ctl *c, const struct ctl_request *m, struct request *rq)
{
	struct entry *dir;
	const char *name;
	size_t len;
	int r = tree_walk(c->conf.tree, rq->cred, m->path, m->path_len, &dir, &name, &len);

	if (r < 0)
		return r;
	r = access_check(dir, rq->cred, 1);
	if (r < 0)
		return r;
	return tree_remove(dir, name, len,
			   (m->flags & CTL_REMOVE_ANY)           ? -1
				   : (m->flags & CTL_REMOVE_DIR) ? 1
								 : 0,
			   rq);
}

/* Which worker this is. */
static int do_hello(struct ctl *c, struct ctl_answer *answer)
{
	struct ctl_status s = { 0 };

	c->conf.status(c->conf.ctx, &s);
	answer->count = (uint32_t)s.restarts + 1;
	return 0;
}

static int do_status(struct ctl *c, struct request *rq, struct ctl_answer *answer)
{
	struct ctl_status *s = (struct ctl_status *)answer->body;
	const struct tree *t = c->conf.tree;
	bool limited = rq->cred->uid != t->uid;

	*s = (struct ctl_status){
		.entries = t->entries,
		.bytes = t->bytes,
		.max_entries = t->limits.max_entries,
		.max_bytes = t->limits.max_bytes,
		.max_entries_uid = limited ? t->limits.max_entries_uid : 0,
		.max_bytes_uid = limited ? t->limits.max_bytes_uid : 0,
	};
	quota_get(c->conf.tree, rq->cred->uid, &s->entries_uid, &s->bytes_uid);
	c->conf.status(c->conf.ctx, s);
	answer->body_len = sizeof(*s);
	return 0;
}

/* Return: 0 or -errno, for answer(); KIND_LATER. @ret: the entry that gives out a descriptor */
static int carry_out(struct ctl *c, const struct ctl_request *m, struct request *rq,
		     struct ctl_answer *answer, struct entry **ret)
{
	struct entry *e = NULL;
	int r;

	switch (m->op) {
	case CTL_HELLO:
		return do_hello(c, answer);
	case CTL_POST:
		if (rq->fd < 0)
			return -EBADF;
		r = do_create(c, m, rq, &e);
		return r < 0 || !e->kind->created ? r : e->kind->created(e, rq);
	case CTL_CREATE:
		r = rq->fd >= 0 ? -EINVAL : do_create(c, m, rq, &e);
		if (r < 0)
			return r;
		/* Its maker gets it read-write whatever mode he chose, as by open(O_CREAT). */
		rq->oflags = O_RDWR;
		*ret = e;
		return e->kind->share ? e->kind->share(e, rq, 6) : -EOPNOTSUPP;
	case CTL_OPEN:
		r = find_file(c, rq->cred, m, &e);
		if (r < 0)
			return r;
		if ((m->oflags & ~(CTL_REOPEN | O_ACCMODE)) || (m->oflags & O_ACCMODE) == O_ACCMODE)
			return -EINVAL;
		rq->oflags = (int)m->oflags;
		*ret = e;
		return share(e, rq);
	case CTL_SEAL:
		return do_seal(c, m, rq);
	case CTL_STAT:
		r = find(c, rq->cred, m, &e);
		if (r < 0)
			return r;
		fill_entry(e, (struct ctl_entry *)answer->body);
		answer->body_len = sizeof(struct ctl_entry);
		return 0;
	case CTL_LIST:
		return do_list(c, m, rq, answer);
	case CTL_REMOVE:
		return do_remove(c, m, rq);
	case CTL_STATUS:
		return do_status(c, rq, answer);
	case CTL_SHUTDOWN:
		if (rq->cred->uid != 0 && rq->cred->uid != c->conf.tree->uid)
			return -EPERM;
		return c->conf.shutdown(c->conf.ctx, m->flags);
	default:
		return -EINVAL;
	}
}

static void answer(struct ctl_call *call, int result)
{
	struct ctl_answer *a = call->ctl->answer;
	struct tree *t = call->ctl->conf.tree;
	struct request *rq = &call->rq;

	a->result = result < 0 ? result : 0;
	a->fd = -1;
	if (result < 0)
		a->count = a->body_len = 0;
	if (result >= 0 && rq->out_fd >= 0) {
		if (call->e->kind->told) {
			fill_entry(call->e, (struct ctl_entry *)a->body);
			a->body_len = sizeof(struct ctl_entry);
		}
		a->borrowed = rq->out_borrowed;
		a->quick = rq->out_quick;
		a->fd = take_fd(&rq->out_fd);
		entry_opened(call->e);
	}
	if (rq->fd >= 0)
		t->close_fd(t, rq->cred->uid, rq->fd);
	if (rq->out_fd >= 0 && !rq->out_borrowed)
		t->close_fd(t, rq->cred->uid, rq->out_fd);
	call->answered(call, a);
}

/* Of what was put off: it has no body. */
static void request_finished(struct request *rq, int result)
{
	struct ctl_call *call = (struct ctl_call *)((char *)rq - offsetof(struct ctl_call, rq));

	call->ctl->answer->count = call->ctl->answer->body_len = 0;
	answer(call, result);
}

void ctl_handle(struct ctl *c, struct ctl_call *call, const void *bytes, size_t len, int fd)
{
	struct request *rq = &call->rq;
	struct ctl_request m = { 0 };
	int r = -EINVAL;

	call->ctl = c;
	call->e = NULL;
	*rq = (struct request){
		.cred = call->cred, .fd = fd, .out_fd = -1, .done = request_finished
	};
	c->answer->borrowed = false;
	c->answer->count = c->answer->body_len = 0;
	if (len >= CTL_REQUEST_MIN && len <= sizeof(m)) {
		memcpy(&m, bytes, len);
		if (m.magic == CTL_MAGIC && m.token != 0 && m.path_len <= CTL_PATH_MAX &&
		    len == CTL_REQUEST_MIN + m.path_len) {
			rq->id[0] = m.token;
			rq->id[1] = m.seq;
			rq->resent = m.ctl_flags & CTL_F_RETRY;
			/* Bit 62 keeps it apart from the mount's requests. */
			r = -EIO;
			if (poison_enter(c->conf.tree,
					 (m.token ^ m.seq * 0x9e3779b97f4a7c15ULL) | 1ULL << 62))
				r = carry_out(c, &m, rq, c->answer, &call->e);
			poison_leave(c->conf.tree);
		}
	}
	if (r != KIND_LATER)
		answer(call, r);
}
