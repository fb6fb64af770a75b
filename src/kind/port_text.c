// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * port_text.c - a port as text, for who has no library: `cat port/load`, and its description by extended attributes.
 *
 * A line for each value: its name, the value, its unit, with a space between. Where a field has several values the name has an index,
 * "user[0]"; if the page has a field "name" of as many texts, those whose name is empty are left out. A fixed-point number has as many
 * decimals as tell it apart from its neighbours. A text is in quotes; what is not printable, a space in a name, quotes and
 * backslashes are written \xHH, so that a line is a line whatever a service says.
 *
 * To read it, a thread goes to the server as a client would, copies the page, and checks the copy: what a service makes of its page meanwhile
 * does not matter. Memory of others is never mapped here but a BPF map, which cannot fault. A server that does not answer, or
 * answers nonsense, costs the time of those who read it.
 *
 * The text is made at the reading from offset 0 and kept for the handle's later ones (kind/texts.h).
 */
#include <base/cleanup.h>
#include <core/tree.h>
#include <engine/aside/aside.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <kind/hand.h>
#include <kind/port_internal.h>
#include <kind/texts.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>
#include <wire/port.h>

#define ANSWER_MS 2000 /* a service, that is */
#define OWN_ANSWER_MS 5000 /* the publisher may have to be started */
#define PAGE_BYTES_MAX (4u << 20)
#define TEXT_MAX (1u << 20)
#define FDS_MAX 253 /* in one packet, by the kernel */
#define BPF_ARRAY 2
#define BPF_MMAPABLE (1u << 10)

const char *const port_attrs[] = { "fields",    "source",    "version", "size",
				   "period_ns", "sample_ns", NULL };

enum { ATTR_FIELDS, ATTR_SOURCE, ATTR_VERSION, ATTR_SIZE, ATTR_PERIOD, ATTR_SAMPLE, ATTR_TEXT };

/*
 * One reading, by a thread.
 * @service: its entry's number; 0: it is the publisher
 * @server, @target: borrowed: the entry is pinned, or they are our own
 * @fds: what came: closed by the loop, since that may wait
 */
struct reading {
	struct aside_job job;
	struct tree *tree;
	struct entry *pinned;
	uid_t owner;
	uint64_t service;
	struct request *rq;
	int server;
	int target;
	struct port_open open;
	int attr;
	int result;
	char *text;
	size_t len;
	unsigned int nr_fds;
	int fds[FDS_MAX + 1];
};

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* The server's answer. Return: 0 and the page's descriptor is the second of r->fds; -errno. */
static int take_hello(struct reading *r, int64_t deadline)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int) * FDS_MAX)];
	} control;
	struct port_hello hello;
	struct iovec iov = { .iov_base = &hello, .iov_len = sizeof(hello) };
	struct msghdr m = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct pollfd p = { .fd = r->fds[0], .events = POLLIN };
	int64_t left;
	ssize_t n;
	int ready;

	do {
		left = deadline - now_ms();
		ready = poll(&p, 1, left > 0 ? (int)left : 0);
	} while (ready < 0 && errno == EINTR);
	if (ready <= 0)
		return ready < 0 ? -errno : -ETIMEDOUT;
	n = recvmsg(r->fds[0], &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return errno == ECONNRESET ? -ECONNREFUSED : -errno;
	for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
		size_t nr = h->cmsg_type == SCM_RIGHTS ? (h->cmsg_len - CMSG_LEN(0)) / sizeof(int)
						       : 0;

		if (h->cmsg_level != SOL_SOCKET || nr > FDS_MAX + 1 - r->nr_fds)
			continue;
		memcpy(r->fds + r->nr_fds, CMSG_DATA(h), nr * sizeof(int));
		r->nr_fds += nr;
	}
	if (n == 0)
		return -ECONNREFUSED;
	if (n != sizeof(hello) || (m.msg_flags & MSG_TRUNC) || hello.magic != PORT_SERVE_MAGIC ||
	    !port_result_sane(hello.result))
		return -EPROTO;
	if (hello.result < 0)
		return hello.result;
	return r->nr_fds < 2 ? -EPROTO : 0;
}

/* Copy as one pass of the writer left it, by @copy(), which copies a part of the page. Return: 0; -EAGAIN; -errno. */
static int copy_quiet(int (*copy)(const void *from, void *to, size_t len, size_t off),
		      const void *from, void *to, size_t len, int64_t deadline)
{
	struct port_head *h = to;
	uint64_t seq;
	int r;

	for (unsigned int i = 0;; i++) {
		r = copy(from, to, len, 0);
		if (r == 0)
			r = copy(from, &seq, sizeof(seq), offsetof(struct port_head, seq));
		/* What is checked never changes: nobody waits for one that is no page to be at rest. */
		if (r == 0)
			r = port_check(h, len);
		if (r < 0)
			return r;
		/* The word was read first: it is in the first line of a page that is read from the beginning on. */
		if (h->seq == seq && !(seq & 1))
			return 0;
		if (i >= PORT_TRIES || now_ms() > deadline)
			return -EAGAIN;
	}
}

static int copy_file(const void *from, void *to, size_t len, size_t off)
{
	int fd = *(const int *)from;

	for (size_t done = 0; done < len;) {
		ssize_t n = pread(fd, (char *)to + done, len - done, (off_t)(off + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EPROTO;
		done += (size_t)n;
	}
	return 0;
}

static int copy_words(const void *from, void *to, size_t len, size_t off)
{
	const uint64_t *at = (const uint64_t *)((const char *)from + off);

	for (size_t i = 0; i < len / 8; i++)
		((uint64_t *)to)[i] = __atomic_load_n(&at[i], __ATOMIC_ACQUIRE);
	return 0;
}

/* Is it a BPF map that can be mapped, and how long is it? Its description is asked only if the name says so. */
static bool is_map(int fd, size_t *ret_len)
{
	unsigned int type = 0, flags = 0, value = 0, entries = 0;
	char path[48], line[128];
	ssize_t n;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, line, sizeof(line) - 1);
	line[n > 0 ? n : 0] = 0;
	if (strcmp(line, "anon_inode:bpf-map") != 0)
		return false;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		sscanf(line, "map_type: %u", &type);
		sscanf(line, "map_flags: %x", &flags);
		sscanf(line, "value_size: %u", &value);
		sscanf(line, "max_entries: %u", &entries);
	}
	if (f)
		fclose(f);
	*ret_len = (size_t)value * entries;
	return type == BPF_ARRAY && (flags & BPF_MMAPABLE) && entries == 1;
}

/* A copy of the page, not checked yet. @ret: freed by the caller */
static int copy_page(int fd, void **ret, size_t *ret_len, int64_t deadline)
{
	int seals = fcntl(fd, F_GET_SEALS), r;
	struct statfs fs;
	struct stat st;
	size_t len;
	void *at;

	/* What has seals is memory, and can be asked anything. */
	if (seals >= 0) {
		if (!(seals & F_SEAL_SHRINK) || fstatfs(fd, &fs) < 0 || fs.f_type != TMPFS_MAGIC ||
		    fstat(fd, &st) < 0)
			return -EPROTO;
		len = (size_t)st.st_size;
	} else if (!is_map(fd, &len)) {
		return -EPROTO;
	}
	len &= ~(size_t)7;
	if (len < sizeof(struct port_head) || len > PAGE_BYTES_MAX)
		return -EPROTO;
	*ret = malloc(len);
	*ret_len = len;
	if (!*ret)
		return -ENOMEM;
	if (seals >= 0)
		return copy_quiet(copy_file, &fd, *ret, len, deadline);
	at = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return -EPROTO;
	r = copy_quiet(copy_words, at, *ret, len, deadline);
	munmap(at, len);
	return r;
}

static void put_escaped(FILE *f, const char *s, size_t max, bool space)
{
	for (size_t i = 0; i < max && s[i]; i++) {
		unsigned char c = (unsigned char)s[i];

		if (c > ' ' && c < 0x7f && c != '"' && c != '\\')
			fputc(c, f);
		else if (c == ' ' && space)
			fputc(c, f);
		else
			fprintf(f, "\\x%02x", c);
	}
}

/* A fixed-point number with so many decimals that each value has a text of its own. */
static void put_fixed(FILE *f, uint64_t v, unsigned int bits)
{
	unsigned int digits = bits ? (bits * 1233 >> 12) + 1 : 0;
	unsigned __int128 rest = v & ((bits ? 1ULL << bits : 1) - 1);

	fprintf(f, "%" PRIu64, v >> bits);
	if (digits)
		fputc('.', f);
	while (digits--) {
		rest *= 10;
		fputc('0' + (int)(rest >> bits), f);
		rest &= (1ULL << bits) - 1;
	}
}

static void put_value(FILE *f, const struct port_field *field, const char *at)
{
	uint64_t v = 0;

	switch (field->type) {
	case PORT_U32:
		fprintf(f, "%" PRIu32, *(const uint32_t *)at);
		return;
	case PORT_CHARS:
		fputc('"', f);
		put_escaped(f, at, field->width, true);
		fputc('"', f);
		return;
	}
	memcpy(&v, at, sizeof(v));
	if (field->type == PORT_S64)
		fprintf(f, "%" PRId64, (int64_t)v);
	else if (field->type == PORT_FIXED)
		put_fixed(f, v, field->fraction_bits);
	else
		fprintf(f, "%" PRIu64, v);
}

static const char *value_at(const struct port_head *h, const struct port_field *f, uint32_t i)
{
	return (const char *)h + f->offset + (uint64_t)i * f->stride;
}

static int put_fields(FILE *f, const struct port_head *h)
{
	const struct port_field *names = port_find(h, "name");

	if (names && names->type != PORT_CHARS)
		names = NULL;
	for (uint32_t n = 0; n < h->nr_fields; n++) {
		const struct port_field *field = port_field_at(h, n);

		for (uint32_t i = 0; i < field->count; i++) {
			if (names && names->count > 1 && names->count == field->count &&
			    !*value_at(h, names, i))
				continue;
			put_escaped(f, field->name, sizeof(field->name), false);
			if (field->count > 1)
				fprintf(f, "[%" PRIu32 "]", i);
			fputc(' ', f);
			put_value(f, field, value_at(h, field, i));
			if (field->unit[0]) {
				fputc(' ', f);
				put_escaped(f, field->unit, sizeof(field->unit), false);
			}
			fputc('\n', f);
			if (ftell(f) > (long)TEXT_MAX)
				return -EFBIG;
		}
	}
	return 0;
}

/* A line for each field: name, type, unit ("-": none), offset from the beginning of the data, how many, how far apart. */
static int put_description(FILE *f, const struct port_head *h)
{
	static const char *const types[] = { "", "u64", "s64", "u32", "fixed", "chars" };

	for (uint32_t n = 0; n < h->nr_fields; n++) {
		const struct port_field *field = port_field_at(h, n);

		put_escaped(f, field->name, sizeof(field->name), false);
		fprintf(f, " %s", types[field->type]);
		if (field->type == PORT_FIXED)
			fprintf(f, ":%u", field->fraction_bits);
		if (field->type == PORT_CHARS)
			fprintf(f, ":%u", field->width);
		fputc(' ', f);
		put_escaped(f, field->unit[0] ? field->unit : "-", sizeof(field->unit), false);
		fprintf(f, " %" PRIu32 " %" PRIu32 " %" PRIu32 "\n", field->offset - h->data_off,
			field->count, field->stride);
		if (ftell(f) > (long)TEXT_MAX)
			return -E2BIG;
	}
	return 0;
}

static int put_attr(FILE *f, const struct port_head *h, int attr)
{
	static const char *const sources[] = { "unknown", "bpf", "sampler", "service" };

	switch (attr) {
	case ATTR_FIELDS:
		return put_description(f, h);
	case ATTR_SOURCE:
		fputs(sources[h->source <= PORT_SOURCE_SERVICE ? h->source : 0], f);
		return 0;
	case ATTR_VERSION:
		fprintf(f, "%" PRIu32, h->version);
		return 0;
	case ATTR_SIZE:
		fprintf(f, "%" PRIu32, h->data_size);
		return 0;
	case ATTR_PERIOD:
		fprintf(f, "%" PRIu64, h->period_ns);
		return 0;
	case ATTR_SAMPLE:
		fprintf(f, "%" PRIu64, h->sample_ns);
		return 0;
	default:
		return put_fields(f, h);
	}
}

static int read_page(struct reading *r)
{
	int64_t deadline = now_ms() + (r->service ? ANSWER_MS : OWN_ANSWER_MS);
	cleanup_free void *page = NULL;
	int pair[2], fds[2], result;
	size_t len = 0;
	FILE *f;

	result = port_pair(pair);
	if (result < 0)
		return result;
	r->fds[r->nr_fds++] = pair[0];
	fds[0] = pair[1];
	fds[1] = r->target;
	result = hand_over(r->server, &r->open, sizeof(r->open), fds, r->target >= 0 ? 2 : 1);
	close(pair[1]);
	if (result == 0)
		result = take_hello(r, deadline);
	if (result == 0)
		result = copy_page(r->fds[1], &page, &len, deadline);
	if (result < 0)
		/* Who reads a file, and waits, is not told to come again. */
		return result == -EPROTONOSUPPORT ? -EPROTO
			: result == -EAGAIN       ? -ETIMEDOUT
						  : result;
	f = open_memstream(&r->text, &r->len);
	if (!f)
		return -ENOMEM;
	result = put_attr(f, page, r->attr);
	if (fclose(f) != 0 && result == 0)
		result = -ENOMEM;
	return result;
}

static void work(struct aside_job *j)
{
	struct reading *r = (struct reading *)j;

	r->result = read_page(r);
}

static void done(struct aside_job *j)
{
	struct reading *r = (struct reading *)j;
	struct request *rq = r->rq;

	port_sent(r->tree, r->service, true);
	for (unsigned int i = 0; i < r->nr_fds; i++)
		r->tree->close_fd(r->tree, r->owner, r->fds[i]);
	if (rq && r->result == 0) {
		if (r->attr != ATTR_TEXT) {
			r->result = r->len > rq->len ? -E2BIG : (int)r->len;
			rq->out = (struct iovec){ .iov_base = r->text, .iov_len = r->len };
		} else {
			r->result = texts_keep(rq, take_ptr(r->text), r->len);
		}
	}
	if (rq)
		request_done(rq, r->result);
	if (r->pinned)
		entry_unpin(r->pinned);
	free(r->text);
	free(r);
}

static void cancel(struct request *rq)
{
	struct reading *r = rq->pending;

	r->rq = NULL;
	if (aside_cancel(r->tree->aside, &r->job))
		done(&r->job);
	request_done(rq, -EINTR);
}

static int start(struct entry *e, struct request *rq, int attr)
{
	const struct port_priv *p = e->priv;
	struct tree *t = e->tree;
	uint64_t service = p->what == PORT_WHAT_SERVICE ? e->id : 0;
	struct reading *r;
	int fd = -1, result;

	if (!t->aside)
		return -EOPNOTSUPP;
	if (p->what != PORT_WHAT_SERVICE &&
	    (t->publisher < 0 || (p->what == PORT_WHAT_PAGE && !port_is_page(p))))
		return -EOPNOTSUPP;
	if (e->has_fd) {
		fd = entry_pin(e);
		if (fd < 0)
			return fd;
	}
	result = port_reserve(e, rq->cred->uid, true);
	r = result == 0 ? calloc(1, sizeof(*r)) : NULL;
	if (!r) {
		if (result == 0)
			port_sent(t, service, true);
		if (e->has_fd)
			entry_unpin(e);
		/* Who reads a file is not told to come again. */
		return result == 0 ? -ENOMEM : -EBUSY;
	}
	r->service = service;
	r->job = (struct aside_job){ .work = work, .done = done };
	r->tree = t;
	r->pinned = e->has_fd ? e : NULL;
	r->owner = e->uid;
	r->rq = rq;
	r->attr = attr;
	r->server = p->what == PORT_WHAT_SERVICE ? fd : t->publisher;
	r->target = p->what == PORT_WHAT_SERVICE ? -1 : fd;
	port_fill_open(&r->open, e, rq, 4);
	if (r->target >= 0)
		r->open.flags |= PORT_OPEN_TARGET;
	rq->pending = r;
	rq->cancel = cancel;
	aside_start(t->aside, &r->job, rq->cred->uid);
	return KIND_LATER;
}

int port_read(struct entry *e, struct request *rq)
{
	int r = texts_read(rq);

	return r < 0 ? start(e, rq, ATTR_TEXT) : r;
}

int port_attr(struct entry *e, struct request *rq)
{
	return start(e, rq, (int)rq->offset);
}

void port_close(struct entry *e, struct request *rq)
{
	texts_drop(rq->word);
}
