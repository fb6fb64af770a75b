// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ring_send.c - `kshared ring send NAME < FILE`: standard input into a ring. The head of ring.h tells what a stream is.
 *
 * A stream's bytes are read from standard input straight into the ring. An end that is not the end of the input leaves the place as a
 * process that dies does, without kring_close(), so that no receiver takes it for the input's end.
 */
#include <poll.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "cli/ring.h"

#define CHUNK_BYTES (256u << 10)
#define LOOK_MS 100 /* how often to look whether the receiver is there */
#define LINES_MAX 256u
#define PEERS_MAX 512u

/**
 * struct sender - a send under way.
 * @id, @offset: of the stream
 * @sent: messages of ours
 * @looked_ns: when the receiver was looked at last
 */
struct sender {
	struct ring_flow f;
	uint64_t id;
	uint64_t offset;
	uint64_t sent;
	int64_t looked_ns;
};

static void nap(long ns)
{
	nanosleep(&(struct timespec){ .tv_nsec = ns }, NULL);
}

static int refuse_input(struct sender *s, int err)
{
	ring_flow_hide(&s->f);
	cli_say("standard input: %s; what was sent is not whole, and the receiver is told so",
		strerror(err));
	return CLI_FAILED;
}

static int refuse_ring(struct sender *s, int err)
{
	ring_flow_hide(&s->f);
	return cli_refuse(s->f.name, err, ring_hints);
}

/* Where the readers are, seen from our messages. */
enum progress {
	DONE, /* all who had to have all */
	ON, /* somebody is at it */
	NOBODY, /* nobody has begun */
	BROKEN, /* one has had a part and is gone */
};

/*
 * A reader's lag says how much of ours it has had: below @sent it has begun. One that has gone and is further behind than that was there before us:
 * another may come. In a broadcast the others are to have all, even if one is gone.
 */
static enum progress look(struct sender *s)
{
	bool broadcast = s->f.stat.conf.shape == KRING_BROADCAST, on = false, broken = false;
	bool done = broadcast;
	struct kring_peer peers[PEERS_MAX];
	int nr = kring_get_peers(s->f.r, peers, PEERS_MAX);

	s->looked_ns = ring_now_ns();
	for (int i = 0; i < nr; i++) {
		if (peers[i].role != KRING_READER)
			continue;
		if (peers[i].lag == 0)
			done = true;
		else if (peers[i].state == KRING_ALIVE)
			on = true;
		else if (peers[i].lag < s->sent)
			broken = true;
	}
	if (on)
		return ON;
	return broken ? BROKEN : done ? DONE : NOBODY;
}

static int say_broken(struct sender *s)
{
	ring_flow_hide(&s->f);
	cli_say("%s: a receiver ended in the middle of the stream; send it again", s->f.name);
	return RING_BROKEN;
}

/* A lossy broadcast goes on whoever listens; messages wait for whoever comes. */
static bool is_bound(const struct sender *s)
{
	const struct kring_conf *conf = &s->f.stat.conf;

	return s->f.form == RING_STREAM &&
		(conf->shape != KRING_BROADCAST || (conf->flags & KRING_BLOCKING));
}

/* Room for a message of up to @len bytes. Return: CLI_OK; an exit status after a sentence. */
static int reserve(struct sender *s, size_t len, unsigned char **ret)
{
	int64_t since = 0;

	for (;;) {
		*ret = kring_reserve(s->f.r, len, since ? ring_flow_slice(&s->f, since) : 0);
		if (*ret)
			return CLI_OK;
		if (!since) {
			since = ring_now_ns();
			if (errno == EAGAIN)
				continue;
		}
		switch (errno) {
		case EPIPE:
		case EOWNERDEAD:
			if (is_bound(s) && look(s) == BROKEN)
				return say_broken(s);
			break;
		case EAGAIN:
		case ETIMEDOUT:
			if (ring_flow_slice(&s->f, since) == 0)
				return ring_flow_late(&s->f, "and there is no room");
			ring_flow_idle(&s->f, "waiting for a receiver");
			break;
		case EINTR:
			break;
		default:
			return refuse_ring(s, errno);
		}
	}
}

static void commit(struct sender *s, unsigned char *at, size_t len, uint32_t flags)
{
	const struct ring_frame frame = {
		.magic = RING_FRAME_MAGIC, .flags = flags, .id = s->id, .offset = s->offset
	};

	memcpy(at, &frame, sizeof(frame));
	kring_commit(s->f.r, sizeof(frame) + len, 0);
	s->offset += len;
	s->sent++;
	ring_flow_moved(&s->f, len);
}

/* read(2), whatever standard input is. Return: bytes; 0 the end; -errno. */
static ssize_t take(void *buf, size_t size)
{
	struct pollfd p = { .fd = STDIN_FILENO, .events = POLLIN };
	ssize_t n;

	for (;;) {
		n = read(STDIN_FILENO, buf, size);
		if (n >= 0)
			return n;
		if (errno == EAGAIN)
			poll(&p, 1, -1);
		else if (errno != EINTR)
			return -errno;
	}
}

/* Until the receiver has had all. Now and then it is looked who is there: what the library says of an end, it says once. */
static int drain(struct sender *s)
{
	int64_t since = ring_now_ns();
	uint64_t before = UINT64_MAX;

	while (is_bound(s)) {
		enum progress p = look(s);
		struct kring_stat now;
		int slice;

		if (p == DONE)
			break;
		if (p == BROKEN)
			return say_broken(s);
		kring_get_stat(s->f.r, &now);
		if (now.depth != before) {
			before = now.depth;
			since = ring_now_ns();
		}
		slice = ring_flow_slice(&s->f, since);
		if (slice == 0)
			return ring_flow_late(&s->f, "and not all has been received");
		ring_flow_idle(&s->f, "waiting for the receiver");
		if (kring_flush(s->f.r, slice > 0 && slice < LOOK_MS ? slice : LOOK_MS) < 0 &&
		    errno == EBADMSG)
			return refuse_ring(s, errno);
	}
	return CLI_OK;
}

static int send_stream(struct sender *s)
{
	size_t max = kring_max(s->f.r), chunk;
	unsigned char *at;
	ssize_t n;
	int r;

	/* Several pieces fit into the ring at once, so that both sides work. */
	chunk = max >= 16384 ? max / 4 : max;
	chunk = (chunk < CHUNK_BYTES ? chunk : CHUNK_BYTES) - sizeof(struct ring_frame);
	if (getrandom(&s->id, sizeof(s->id), 0) < 0)
		return refuse_ring(s, errno);
	s->id = (s->id & ~(uint64_t)UINT32_MAX) | (uint32_t)getpid();
	r = reserve(s, sizeof(struct ring_frame), &at);
	if (r != CLI_OK)
		return r;
	commit(s, at, 0, RING_FRAME_BEGIN);
	for (;;) {
		r = reserve(s, sizeof(struct ring_frame) + chunk, &at);
		if (r != CLI_OK)
			return r;
		n = take(at + sizeof(struct ring_frame), chunk);
		if (n < 0)
			return refuse_input(s, (int)-n);
		commit(s, at, (size_t)n, n ? 0 : RING_FRAME_END);
		if (n == 0)
			return drain(s);
		if (s->f.stat.conf.shape != KRING_BROADCAST &&
		    ring_now_ns() - s->looked_ns > LOOK_MS * 1000000LL && look(s) == BROKEN)
			return say_broken(s);
	}
}

/* What each read gives is a message. */
static int send_raw(struct sender *s)
{
	size_t max = kring_max(s->f.r);
	unsigned char *at;
	ssize_t n;
	int r;

	max = max < CHUNK_BYTES ? max : CHUNK_BYTES;
	for (;;) {
		r = reserve(s, max, &at);
		if (r != CLI_OK)
			return r;
		n = take(at, max);
		if (n < 0)
			return refuse_input(s, (int)-n);
		if (n == 0)
			return CLI_OK;
		kring_commit(s->f.r, (size_t)n, 0);
		s->sent++;
		ring_flow_moved(&s->f, (uint64_t)n);
	}
}

static int send_lines(struct sender *s, const struct iovec *lines, unsigned int nr)
{
	int64_t since = 0;

	while (nr) {
		int n = kring_send_many(s->f.r, lines, nr,
					since ? ring_flow_slice(&s->f, since) : 0);

		if (n > 0) {
			for (; n && nr; n--, nr--) {
				ring_flow_moved(&s->f, lines->iov_len);
				lines++;
				s->sent++;
			}
			since = 0;
			continue;
		}
		if (!since)
			since = ring_now_ns();
		if (errno == EAGAIN || errno == ETIMEDOUT) {
			if (ring_flow_slice(&s->f, since) == 0)
				return ring_flow_late(&s->f, "and there is no room");
			ring_flow_idle(&s->f, "waiting for a receiver");
		} else if (errno != EPIPE && errno != EOWNERDEAD && errno != EINTR) {
			return refuse_ring(s, errno);
		}
	}
	return CLI_OK;
}

/* Every line is a message, without its newline or NUL; the last one may lack it. */
static int send_delimited(struct sender *s)
{
	size_t max = kring_max(s->f.r), size = max + 1, used = 0, begin;
	cleanup_free char *buf = malloc(size);
	char end = s->f.form == RING_NULL ? '\0' : '\n';
	struct iovec lines[LINES_MAX];
	unsigned int nr;
	ssize_t n;
	char *at;
	int r;

	if (!buf)
		return refuse_ring(s, ENOMEM);
	for (;;) {
		n = take(buf + used, size - used < CHUNK_BYTES ? size - used : CHUNK_BYTES);
		if (n < 0)
			return refuse_input(s, (int)-n);
		if (n == 0)
			break;
		begin = 0;
		/* Only what is new may have an end. */
		at = buf + used;
		used += (size_t)n;
		for (nr = 0; (at = memchr(at, end, (size_t)(buf + used - at))); nr++) {
			if (nr == LINES_MAX) {
				r = send_lines(s, lines, nr);
				if (r != CLI_OK)
					return r;
				nr = 0;
			}
			lines[nr].iov_base = buf + begin;
			lines[nr].iov_len = (size_t)(at - buf) - begin;
			begin = (size_t)(++at - buf);
		}
		r = send_lines(s, lines, nr);
		if (r != CLI_OK)
			return r;
		used -= begin;
		memmove(buf, buf + begin, used);
		if (used == size)
			return refuse_ring(s, EMSGSIZE);
	}
	if (!used)
		return CLI_OK;
	lines[0] = (struct iovec){ .iov_base = buf, .iov_len = used };
	return send_lines(s, lines, 1);
}

/* Until as many listen as are wanted. */
static int await_readers(struct sender *s)
{
	int64_t since = ring_now_ns();
	struct kring_stat now;

	for (;;) {
		if (kring_get_stat(s->f.r, &now) < 0)
			return refuse_ring(s, errno);
		if (now.readers >= s->f.wait_readers)
			return CLI_OK;
		if (ring_flow_slice(&s->f, since) == 0)
			return ring_flow_late(&s->f, "and too few receivers are there");
		ring_flow_idle(&s->f, "waiting for receivers");
		nap(2000000);
	}
}

/** ring_send() - ring send NAME. Return: an exit status. */
int ring_send(const struct cli *cli, int argc, char **argv)
{
	struct sender s = { 0 };
	int r = ring_flow_parse(&s.f, true, argc, argv);

	if (r == CLI_OK)
		r = ring_flow_open(&s.f, cli, KRING_WRITER);
	if (r != CLI_OK)
		return r;
	ring_flow_start(&s.f, STDIN_FILENO);
	r = await_readers(&s);
	if (r == CLI_OK) {
		switch (s.f.form) {
		case RING_STREAM:
			r = send_stream(&s);
			break;
		case RING_RAW:
			r = send_raw(&s);
			break;
		default:
			r = send_delimited(&s);
			break;
		}
	}
	ring_flow_hide(&s.f);
	if (r == CLI_OK)
		kring_close(s.f.r);
	return r;
}
