// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuse.c - transport: messages in, a table by opcode with every length checked here, answers and notifications out.
 *
 * A handler gets its fixed part, its names and its payload only after they were found to lie inside the message.
 * Operations without a handler are answered with the table's error. ENOSYS tells the kernel not to ask again.
 */
#include <errno.h>
#include <io/fuse_internal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>
#include <utlist.h>

#define SWEEP_MAX 1024 /* entries at a time */

#define BATCH 64

static void do_init(struct fuse_request *q);
static void do_forget(struct fuse_request *q);
static void do_batch_forget(struct fuse_request *q);
static void do_interrupt(struct fuse_request *q);

/*
 * @size: bytes of the fixed part; @names: NUL-terminated strings after it; @payload: more bytes may follow.
 * @any_node: the node id need not be one of ours. @error: the answer where there is no handler.
 */
struct op {
	const char *name;
	void (*handler)(struct fuse_request *q);
	uint16_t size;
	uint8_t names;
	bool payload;
	bool any_node;
	int error;
};

static const struct op ops[FUSE_OPCODE_END] = {
	[FUSE_LOOKUP] = { "LOOKUP", fuse_do_lookup, 0, 1 },
	[FUSE_FORGET] = { "FORGET", do_forget, sizeof(struct fuse_forget_in), .any_node = true },
	[FUSE_GETATTR] = { "GETATTR", fuse_do_getattr, sizeof(struct fuse_getattr_in) },
	[FUSE_SETATTR] = { "SETATTR", fuse_do_setattr, sizeof(struct fuse_setattr_in) },
	[FUSE_READLINK] = { "READLINK", .any_node = true, .payload = true, .error = -EINVAL },
	[FUSE_SYMLINK] = { "SYMLINK", .any_node = true, .payload = true, .error = -EPERM },
	[FUSE_MKNOD] = { "MKNOD", fuse_do_mknod, sizeof(struct fuse_mknod_in), 1 },
	[FUSE_MKDIR] = { "MKDIR", fuse_do_mkdir, sizeof(struct fuse_mkdir_in), 1 },
	[FUSE_UNLINK] = { "UNLINK", fuse_do_unlink, 0, 1 },
	[FUSE_RMDIR] = { "RMDIR", fuse_do_rmdir, 0, 1 },
	[FUSE_RENAME] = { "RENAME", fuse_do_rename, sizeof(struct fuse_rename_in), 2 },
	[FUSE_LINK] = { "LINK", .any_node = true, .payload = true, .error = -EPERM },
	[FUSE_OPEN] = { "OPEN", fuse_do_open, sizeof(struct fuse_open_in) },
	[FUSE_READ] = { "READ", fuse_do_read, sizeof(struct fuse_read_in) },
	[FUSE_WRITE] = { "WRITE", fuse_do_write, sizeof(struct fuse_write_in), .payload = true },
	[FUSE_STATFS] = { "STATFS", fuse_do_statfs, 0, .any_node = true },
	[FUSE_RELEASE] = { "RELEASE", fuse_do_release, sizeof(struct fuse_release_in),
			   .any_node = true },
	[FUSE_FSYNC] = { "FSYNC", fuse_do_fsync, sizeof(struct fuse_fsync_in) },
	[FUSE_SETXATTR] = { "SETXATTR", .any_node = true, .payload = true, .error = -EOPNOTSUPP },
	[FUSE_GETXATTR] = { "GETXATTR", fuse_do_getxattr, sizeof(struct fuse_getxattr_in), 1 },
	[FUSE_LISTXATTR] = { "LISTXATTR", fuse_do_listxattr, sizeof(struct fuse_getxattr_in) },
	[FUSE_REMOVEXATTR] = { "REMOVEXATTR", .any_node = true, .payload = true,
			       .error = -EOPNOTSUPP },
	[FUSE_FLUSH] = { "FLUSH", .any_node = true, .payload = true, .error = -ENOSYS },
	[FUSE_INIT] = { "INIT", do_init, offsetof(struct fuse_init_in, flags2), .payload = true,
			.any_node = true },
	[FUSE_OPENDIR] = { "OPENDIR", fuse_do_opendir, sizeof(struct fuse_open_in) },
	[FUSE_READDIR] = { "READDIR", fuse_do_readdir, sizeof(struct fuse_read_in) },
	[FUSE_RELEASEDIR] = { "RELEASEDIR", fuse_do_release, sizeof(struct fuse_release_in),
			      .any_node = true },
	[FUSE_FSYNCDIR] = { "FSYNCDIR", .any_node = true, .payload = true, .error = -ENOSYS },
	[FUSE_GETLK] = { "GETLK", .any_node = true, .payload = true, .error = -ENOSYS },
	[FUSE_SETLK] = { "SETLK", .any_node = true, .payload = true, .error = -ENOSYS },
	[FUSE_SETLKW] = { "SETLKW", .any_node = true, .payload = true, .error = -ENOSYS },
	[FUSE_ACCESS] = { "ACCESS", .any_node = true, .payload = true, .error = -ENOSYS },
	[FUSE_CREATE] = { "CREATE", fuse_do_create, sizeof(struct fuse_create_in), 1 },
	[FUSE_INTERRUPT] = { "INTERRUPT", do_interrupt, sizeof(struct fuse_interrupt_in),
			     .any_node = true },
	[FUSE_BMAP] = { "BMAP", .any_node = true, .payload = true, .error = -ENOSYS },
	[FUSE_DESTROY] = { "DESTROY", .any_node = true, .payload = true, .error = 0 },
	[FUSE_IOCTL] = { "IOCTL", .any_node = true, .payload = true, .error = -ENOTTY },
	[FUSE_POLL] = { "POLL", fuse_do_poll, sizeof(struct fuse_poll_in) },
	[FUSE_NOTIFY_REPLY] = { "NOTIFY_REPLY", .any_node = true, .payload = true,
				.error = -ENOSYS },
	[FUSE_BATCH_FORGET] = { "BATCH_FORGET", do_batch_forget,
				sizeof(struct fuse_batch_forget_in), .payload = true,
				.any_node = true },
	[FUSE_FALLOCATE] = { "FALLOCATE", fuse_do_fallocate, sizeof(struct fuse_fallocate_in) },
	[FUSE_READDIRPLUS] = { "READDIRPLUS", fuse_do_readdirplus, sizeof(struct fuse_read_in) },
	[FUSE_RENAME2] = { "RENAME2", fuse_do_rename2, sizeof(struct fuse_rename2_in), 2 },
	[FUSE_LSEEK] = { "LSEEK", fuse_do_lseek, sizeof(struct fuse_lseek_in) },
	[FUSE_COPY_FILE_RANGE] = { "COPY_FILE_RANGE", .any_node = true, .payload = true,
				   .error = -ENOSYS },
	[FUSE_SYNCFS] = { "SYNCFS", .any_node = true, .payload = true, .error = 0 },
	[FUSE_TMPFILE] = { "TMPFILE", .any_node = true, .payload = true, .error = -EOPNOTSUPP },
	[FUSE_STATX] = { "STATX", fuse_do_statx, sizeof(struct fuse_statx_in) },
	[FUSE_COPY_FILE_RANGE_64] = { "COPY_FILE_RANGE_64", .any_node = true, .payload = true,
				      .error = -ENOSYS },
};

/*
 * A buffer whose pages are there. The kernel pins a message's pages while it copies; if it had to fault one in for a process
 * that is being killed it would give up, and answer the message's caller with EIO instead of keeping it for the
 * next worker. With the pages present it does not look for signals.
 */
static void *new_buffer(void)
{
	void *at = mmap(NULL, FUSE_BUFFER_BYTES, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		return NULL;
	madvise(at, FUSE_BUFFER_BYTES, MADV_NOHUGEPAGE);
	mlock(at, FUSE_BUFFER_BYTES);
	memset(at, 0, FUSE_BUFFER_BYTES);
	return at;
}

int fuse_new(struct fuse **ret, const struct fuse_conf *conf)
{
	struct fuse *f = calloc(1, sizeof(*f));

	if (!f)
		return -ENOMEM;
	f->conf = *conf;
	f->tree = conf->tree;
	f->minor = conf->minor;
	f->flags = conf->flags;
	f->in = new_buffer();
	f->out = new_buffer();
	if (!f->in || !f->out) {
		fuse_free(f);
		return -ENOMEM;
	}
	f->tree->mounted = true;
	f->tree->passthrough = f->flags & FUSE_PASSTHROUGH;
	*ret = f;
	return 0;
}

void fuse_free(struct fuse *f)
{
	struct fuse_request *q, *tmp;

	if (!f)
		return;
	HASH_ITER(hh, f->pending, q, tmp) {
		HASH_DEL(f->pending, q);
		free(q);
	}
	if (f->in)
		munmap(f->in, FUSE_BUFFER_BYTES);
	if (f->out)
		munmap(f->out, FUSE_BUFFER_BYTES);
	free(f);
}

uint32_t fuse_agreed(const struct fuse *f, uint64_t *flags)
{
	*flags = f->flags;
	return f->minor;
}

#define ERROR_END \
	512 /* errors from here on the kernel takes of no file system: who asked would wait for ever */

/* The kernel refuses an answer that nobody waits for any more (ENOENT); that is no error of ours. */
static int send_bytes(struct fuse *f, uint64_t unique, int error, const void *bytes, size_t len)
{
	struct fuse_out_header h = {
		.len = (uint32_t)(sizeof(h) + len),
		.error = error > -ERROR_END ? error : -EIO,
		.unique = unique,
	};
	struct iovec iov[2] = {
		{ .iov_base = &h, .iov_len = sizeof(h) },
		{ .iov_base = (void *)bytes, .iov_len = len },
	};
	ssize_t n;

	do
		n = writev(f->conf.fd, iov, len ? 2 : 1);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

void fuse_reply(struct fuse_request *q, int error, const void *bytes, size_t len)
{
	if (error < 0)
		len = 0;
	if (send_bytes(q->f, q->h.unique, error < 0 ? error : 0, bytes, len) == -EINVAL &&
	    error == 0)
		send_bytes(q->f, q->h.unique, -EIO, NULL, 0);
}

void fuse_finish(struct fuse_request *q, int error)
{
	fuse_reply(q, error < 0 ? error : 0, NULL, 0);
	free(q);
}

void fuse_finish_bytes(struct fuse_request *q, const void *bytes, size_t len)
{
	fuse_reply(q, 0, bytes, len);
	free(q);
}

static void request_finished(struct request *rq, int result)
{
	struct fuse_request *q =
		(struct fuse_request *)((char *)rq - offsetof(struct fuse_request, rq));

	HASH_DEL(q->f->pending, q);
	q->answer(q, result);
}

void fuse_begin(struct fuse_request *q, void (*answer)(struct fuse_request *q, int result))
{
	q->answer = answer;
	HASH_ADD(hh, q->f->pending, h.unique, sizeof(q->h.unique), q);
}

void fuse_end(struct fuse_request *q, int result)
{
	if (result != KIND_LATER)
		request_finished(&q->rq, result);
}

int fuse_resend(struct fuse *f)
{
	f->awaits_resent = true;
	return send_bytes(f, 0, FUSE_NOTIFY_RESEND, NULL, 0);
}

void fuse_wake(struct fuse *f, uint64_t handle)
{
	struct fuse_notify_poll_wakeup_out out = { .kh = handle };

	send_bytes(f, 0, FUSE_NOTIFY_POLL, &out, sizeof(out));
}

int fuse_attr_changed(struct fuse *f, uint64_t id)
{
	struct fuse_notify_inval_inode_out out = { .ino = id, .off = -1 };

	return send_bytes(f, 0, FUSE_NOTIFY_INVAL_INODE, &out, sizeof(out));
}

void fuse_names_changed(struct fuse *f)
{
	if (f->minor >= 44)
		send_bytes(f, 0, FUSE_NOTIFY_INC_EPOCH, NULL, 0);
}

bool fuse_answer(struct fuse *f, uint64_t unique, bool write, const void *data, uint32_t bytes)
{
	struct fuse_write_out out = { .size = bytes };

	if (write)
		return send_bytes(f, unique, 0, &out, sizeof(out)) == 0;
	if (bytes > FUSE_BUFFER_BYTES)
		bytes = FUSE_BUFFER_BYTES;
	memcpy(f->out, data, bytes);
	return send_bytes(f, unique, 0, f->out, bytes) == 0;
}

static void forget(struct fuse *f, uint64_t id)
{
	struct entry *e = tree_by_id(f->tree, id & NODE_MASK);

	if (e && e->orphan && fuse_attr_changed(f, e->id) == -ENOENT && !writers_any(e))
		tree_forget(e);
}

/* A name that was removed through the socket is still cached, and keeps its inode: have the kernel drop it (7.45). */
static void prune(struct fuse *f, uint64_t id)
{
	struct {
		struct fuse_notify_prune_out head;
		uint64_t id;
	} out = { .head = { .count = 1 }, .id = id };

	if (f->minor >= 45)
		send_bytes(f, 0, FUSE_NOTIFY_PRUNE, &out, sizeof(out));
}

void fuse_removed(struct fuse *f, struct entry *e)
{
	prune(f, e->id);
	forget(f, e->id);
}

void fuse_sweep(struct fuse *f)
{
	struct entry *e, *tmp;
	unsigned int n = 0;

	/* Not all at once, if they are many: the others wait. Who stays goes to the end; who is new stands first. */
	DL_FOREACH_SAFE(f->tree->orphans, e, tmp) {
		if (++n > SWEEP_MAX)
			return;
		DL_DELETE(f->tree->orphans, e);
		DL_APPEND(f->tree->orphans, e);
		fuse_removed(f, e);
	}
}

void fuse_all_changed(struct fuse *f)
{
	struct entry *e, *tmp;

	fuse_names_changed(f);
	HASH_ITER(by_id, f->tree->ids, e, tmp)
		fuse_attr_changed(f, e->id);
}

static void do_forget(struct fuse_request *q)
{
	forget(q->f, q->h.nodeid);
	free(q);
}

static void do_batch_forget(struct fuse_request *q)
{
	const struct fuse_batch_forget_in *in = q->in;
	const unsigned char *at = q->payload;
	struct fuse_forget_one one;

	for (uint32_t i = 0; i < in->count && (i + 1) * sizeof(one) <= q->payload_len; i++) {
		memcpy(&one, at + i * sizeof(one), sizeof(one));
		forget(q->f, one.nodeid);
	}
	free(q);
}

static void do_interrupt(struct fuse_request *q)
{
	const struct fuse_interrupt_in *in = q->in;
	struct fuse_request *victim;
	struct fuse *f = q->f;
	uint64_t unique = in->unique;

	free(q);
	HASH_FIND(hh, f->pending, &unique, sizeof(unique), victim);
	if (victim && victim->rq.cancel)
		victim->rq.cancel(&victim->rq);
	/* A request that died with its worker, where the kernel cannot send it again: let at least a signal end it. */
	else if (!victim && !(f->flags & FUSE_HAS_RESEND))
		send_bytes(f, unique, -EINTR, NULL, 0);
}

static void do_init(struct fuse_request *q)
{
	const struct fuse_init_in *in = q->in;
	struct fuse *f = q->f;
	uint64_t offered = in->flags, wanted;
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = in->minor < FUSE_KERNEL_MINOR_VERSION ? in->minor
							       : FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = in->max_readahead,
		.max_background = 64,
		.congestion_threshold = 48,
		.max_write = FUSE_MAX_WRITE,
		.time_gran = 1,
		.max_pages = FUSE_MAX_WRITE / 4096,
	};

	if (in->major != FUSE_KERNEL_VERSION || in->minor < 31) {
		fuse_finish(q, -EPROTO);
		return;
	}
	if ((offered & FUSE_INIT_EXT) && q->payload_len >= sizeof(uint32_t)) {
		uint32_t flags2;

		memcpy(&flags2, q->payload, sizeof(flags2));
		offered |= (uint64_t)flags2 << 32;
	}
	wanted = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO |
		FUSE_PARALLEL_DIROPS | FUSE_ABORT_ERROR | FUSE_MAX_PAGES | FUSE_INIT_EXT |
		FUSE_HAS_RESEND |
		/* Files here never have set-user-ID bits to be killed; so the kernel need not ask at each write. */
		FUSE_HANDLE_KILLPRIV_V2;
	if (f->conf.want_passthrough)
		wanted |= FUSE_PASSTHROUGH;
	f->flags = offered & wanted;
	f->minor = out.minor;
	out.flags = (uint32_t)f->flags;
	out.flags2 = (uint32_t)(f->flags >> 32);
	if (f->flags & FUSE_PASSTHROUGH)
		out.max_stack_depth = 1;
	f->tree->passthrough = f->flags & FUSE_PASSTHROUGH;
	f->conf.agreed(f->conf.ctx, f->minor, f->flags);
	fuse_finish_bytes(q, &out, sizeof(out));
}

/* Lay the message out as its operation says. Return: 0; -EIO it is not as it says. */
static int parse(struct fuse_request *q, const struct op *op, const unsigned char *at, size_t len)
{
	size_t ext = (size_t)q->h.total_extlen * 8;

	if (ext > len)
		return -EIO;
	len -= ext;
	if (len < op->size)
		return -EIO;
	q->in = at;
	at += op->size;
	len -= op->size;
	for (int i = 0; i < op->names; i++) {
		const unsigned char *end = memchr(at, 0, len);

		if (!end)
			return -EIO;
		*(i ? &q->name2 : &q->name) = (const char *)at;
		len -= (size_t)(end + 1 - at);
		at = end + 1;
	}
	if (len && !op->payload)
		return -EIO;
	q->payload = at;
	q->payload_len = len;
	return 0;
}

void fuse_handle(struct fuse *f, const void *bytes, size_t len)
{
	const struct op *op;
	struct fuse_request *q;
	int r;

	if (len < sizeof(struct fuse_in_header))
		return;
	q = calloc(1, sizeof(*q));
	if (!q)
		abort();
	memcpy(&q->h, bytes, sizeof(q->h));
	q->f = f;
	q->cred = (struct cred){
		.uid = q->h.uid,
		.gid = q->h.gid,
		.tid = (pid_t)q->h.pid,
		.checked = true,
	};
	q->rq = (struct request){
		.cred = &q->cred,
		.id = { 0, q->h.unique & ~FUSE_UNIQUE_RESEND },
		.resent = q->h.unique & FUSE_UNIQUE_RESEND,
		.fd = -1,
		.out_fd = -1,
		.done = request_finished,
	};
	op = q->h.opcode < FUSE_OPCODE_END ? &ops[q->h.opcode] : NULL;
	if (!op || !op->name) {
		fuse_finish(q, -ENOSYS);
		return;
	}
	r = q->h.len == len
		? parse(q, op, (const unsigned char *)bytes + sizeof(q->h), len - sizeof(q->h))
		: -EIO;
	if (r == 0 && !op->handler)
		r = op->error ? op->error : 1;
	if (r == 0 && !op->any_node) {
		q->e = tree_by_id(f->tree, q->h.nodeid & NODE_MASK);
		if (!q->e)
			r = -ESTALE;
	}
	if (r != 0) {
		bool silent = q->h.opcode == FUSE_FORGET || q->h.opcode == FUSE_BATCH_FORGET ||
			q->h.opcode == FUSE_INTERRUPT;

		if (silent)
			free(q);
		else
			fuse_finish(q, r);
		return;
	}
	if (poison_enter(f->tree, q->rq.id[1]))
		op->handler(q);
	else
		fuse_finish(q, -EIO);
	poison_leave(f->tree);
}

void fuse_dispatch(struct fuse *f)
{
	for (int i = 0; i < BATCH; i++) {
		ssize_t n = read(f->conf.fd, f->in, FUSE_BUFFER_BYTES);

		if (n >= 0) {
			fuse_handle(f, f->in, (size_t)n);
		} else if (errno == EAGAIN) {
			/* What was to come again stands first in the queue. */
			if (f->awaits_resent)
				f->conf.all_came(f->conf.ctx);
			f->awaits_resent = false;
			return;
		} else if (errno != ENOENT && errno != EINTR) {
			/* ENODEV, ECONNABORTED, or what cannot be. */
			f->conf.ended(f->conf.ctx);
			return;
		}
	}
}
