// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuse_file.c - open files. What can be served by the kernel alone does not come here after its opening.
 */
#include <errno.h>
#include <fcntl.h>
#include <io/fuse_internal.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Open @e for the request. Return: 0 and *ret; -errno. */
static int open_entry(struct fuse_request *q, struct entry *e, uint32_t oflags,
		      struct fuse_open_out *ret)
{
	int r;

	if (entry_is_dir(e))
		return -EISDIR;
	if (!e->kind->open)
		return -EOPNOTSUPP;
	q->rq.oflags = (int)oflags;
	r = e->kind->open(e, &q->rq);
	if (r < 0)
		return r;
	*ret = (struct fuse_open_out){ .fh = q->rq.word, .open_flags = FOPEN_NOFLUSH };
	switch (q->rq.how) {
	case OPEN_DIRECT:
		ret->open_flags |= FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
		break;
	case OPEN_STREAM:
		ret->open_flags |= FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES | FOPEN_STREAM |
			FOPEN_NONSEEKABLE;
		break;
	case OPEN_PASSTHROUGH:
		ret->open_flags |= FOPEN_PASSTHROUGH;
		ret->backing_id = q->rq.backing;
		break;
	case OPEN_CACHED:
		break;
	}
	entry_opened(e);
	return 0;
}

void fuse_do_open(struct fuse_request *q)
{
	const struct fuse_open_in *in = q->in;
	struct fuse_open_out out;
	int r = open_entry(q, q->e, in->flags, &out);

	if (r < 0)
		fuse_finish(q, r);
	else
		fuse_finish_bytes(q, &out, sizeof(out));
}

void fuse_do_create(struct fuse_request *q)
{
	const struct fuse_create_in *in = q->in;
	struct {
		struct fuse_entry_out entry;
		struct fuse_open_out open;
	} out;
	struct entry *e = NULL;
	int r;

	if ((in->mode & S_IFMT) != S_IFREG) {
		fuse_finish(q, -EPERM);
		return;
	}
	q->rq.mode = in->mode;
	r = tree_create(q->e, q->name, strlen(q->name), &q->rq, &e);
	/* Made through the socket since the kernel looked: then this is an open, unless it must be new. */
	if (r == -EEXIST && !(in->flags & O_EXCL)) {
		fuse_finish(q, -ESTALE);
		return;
	}
	if (r == 0)
		r = open_entry(q, e, in->flags, &out.open);
	if (r < 0) {
		fuse_finish(q, r);
		return;
	}
	fuse_fill_entry(q->f, e, &out.entry);
	fuse_finish_bytes(q, &out, sizeof(out));
}

static void answer_read(struct fuse_request *q, int result)
{
	if (result < 0)
		fuse_finish(q, result);
	else
		fuse_finish_bytes(q, q->rq.out.iov_base, (size_t)result);
}

void fuse_do_read(struct fuse_request *q)
{
	const struct fuse_read_in *in = q->in;
	struct entry *e = q->e;

	if (entry_is_dir(e) || !e->kind->read) {
		fuse_finish(q, entry_is_dir(e) ? -EISDIR : -EINVAL);
		return;
	}
	q->rq.word = in->fh;
	q->rq.offset = in->offset;
	q->rq.oflags = (int)in->flags;
	q->rq.len = in->size < FUSE_MAX_WRITE ? in->size : FUSE_MAX_WRITE;
	q->rq.out = (struct iovec){ .iov_base = q->f->out, .iov_len = FUSE_MAX_WRITE };
	fuse_begin(q, answer_read);
	fuse_end(q, e->kind->read(e, &q->rq));
}

static void answer_write(struct fuse_request *q, int result)
{
	struct fuse_write_out out = { .size = result > 0 ? (uint32_t)result : 0 };

	if (result < 0)
		fuse_finish(q, result);
	else
		fuse_finish_bytes(q, &out, sizeof(out));
}

void fuse_do_write(struct fuse_request *q)
{
	const struct fuse_write_in *in = q->in;
	struct entry *e = q->e;

	if (in->size != q->payload_len || in->size > FUSE_MAX_WRITE || entry_is_dir(e) ||
	    !e->kind->write) {
		fuse_finish(q, -EINVAL);
		return;
	}
	q->rq.word = in->fh;
	q->rq.offset = in->offset;
	q->rq.oflags = (int)in->flags;
	q->rq.data = q->payload;
	q->rq.len = q->payload_len;
	fuse_begin(q, answer_write);
	fuse_end(q, e->kind->write(e, &q->rq));
}

void fuse_do_release(struct fuse_request *q)
{
	const struct fuse_release_in *in = q->in;
	struct entry *e = tree_by_id(q->f->tree, q->h.nodeid & NODE_MASK);

	if (e && !entry_is_dir(e) && e->kind->close) {
		q->rq.word = in->fh;
		q->rq.oflags = (int)in->flags;
		e->kind->close(e, &q->rq);
	}
	fuse_finish(q, 0);
}

static void command(struct fuse_request *q, int cmd,
		    void (*answer)(struct fuse_request *q, int result))
{
	struct entry *e = q->e;

	q->rq.cmd = cmd;
	fuse_begin(q, answer);
	if (entry_is_dir(e) || !e->kind->command)
		fuse_end(q, -EINVAL);
	else
		fuse_end(q, e->kind->command(e, &q->rq));
}

void fuse_do_fsync(struct fuse_request *q)
{
	const struct fuse_fsync_in *in = q->in;

	q->rq.flags = in->fsync_flags & FUSE_FSYNC_FDATASYNC;
	command(q, COMMAND_FSYNC, fuse_finish);
}

void fuse_do_fallocate(struct fuse_request *q)
{
	const struct fuse_fallocate_in *in = q->in;

	q->rq.offset = in->offset;
	q->rq.size = in->length;
	q->rq.flags = in->mode;
	command(q, COMMAND_FALLOCATE, fuse_finish);
}

static void answer_lseek(struct fuse_request *q, int result)
{
	struct fuse_lseek_out out = { .offset = q->rq.offset };

	if (result < 0)
		fuse_finish(q, result);
	else
		fuse_finish_bytes(q, &out, sizeof(out));
}

void fuse_do_lseek(struct fuse_request *q)
{
	const struct fuse_lseek_in *in = q->in;

	q->rq.offset = in->offset;
	q->rq.flags = in->whence;
	if (in->whence != SEEK_DATA && in->whence != SEEK_HOLE)
		fuse_finish(q, -EINVAL);
	else
		command(q, COMMAND_LSEEK, answer_lseek);
}

static void answer_poll(struct fuse_request *q, int result)
{
	struct fuse_poll_out out = { .revents = result < 0 ? POLLERR : (uint32_t)result };

	fuse_finish_bytes(q, &out, sizeof(out));
}

void fuse_do_poll(struct fuse_request *q)
{
	const struct fuse_poll_in *in = q->in;
	struct entry *e = q->e;

	q->rq.word = in->fh;
	q->rq.events = in->events;
	q->rq.poll_handle = (in->flags & FUSE_POLL_SCHEDULE_NOTIFY) ? in->kh : 0;
	fuse_begin(q, answer_poll);
	if (entry_is_dir(e) || !e->kind->poll)
		fuse_end(q, (POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM) & (int)in->events);
	else
		fuse_end(q, e->kind->poll(e, &q->rq));
}
