// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ring_recv.c - `kshared ring recv NAME > FILE`: a ring to standard output. The head of ring.h tells what a stream is.
 *
 * Messages are written straight from the ring and released when they have been written, but for a broadcast that does not wait for us: there they
 * are copied first, since they may be written over while write(2) looks at them. A message whose writing was interrupted by our death comes again,
 * to the next receiver; of a stream that one makes no use, since it lacks the beginning.
 */
#include <poll.h>
#include <signal.h>
#include <string.h>

#include "cli/ring.h"

#define BATCH 64u
#define BATCH_BYTES (512u << 10) /* written at once: meanwhile the sender has no use of them */
#define LAST_LOOK_MS 200 /* for a frame behind an END */
#define PAST_LOOK_MS 150
#define PEERS_MAX 512u
#define SAY_EVERY_NS 1000000000LL

/* Where in a stream we are. */
enum place { BEFORE, INSIDE, PASSING };

/**
 * struct receiver - a recv under way.
 * @copy: room for a message, where they are copied; NULL: they are lent
 * @place, @id, @offset: of the stream
 * @lost_said_ns: when losses were told last
 * @no_sigpipe: our caller has it ignored
 * @caught_up: the ring was empty once, so that a stream that begins now is ours
 * @left_out: a part of a stream was not written
 * @status: what to end with: RING_BROKEN once a sender of messages has died
 */
struct receiver {
	struct ring_flow f;
	unsigned char *copy;
	enum place place;
	uint64_t id;
	uint64_t offset;
	int status;
	int64_t lost_said_ns;
	bool no_sigpipe;
	bool caught_up;
	bool left_out;
};

static int refuse_ring(struct receiver *v, int err)
{
	ring_flow_hide(&v->f);
	return cli_refuse(v->f.name, err, ring_hints);
}

static int say_broken(struct receiver *v, const char *why)
{
	ring_flow_hide(&v->f);
	cli_say("%s: the stream is not whole: %s, after %llu bytes; send it again", v->f.name, why,
		(unsigned long long)v->offset);
	return RING_BROKEN;
}

/* Is a writer there? */
static bool has_writer(struct receiver *v)
{
	struct kring_stat now;

	return kring_get_stat(v->f.r, &now) == 0 && now.writers;
}

/* ---- out ---- */

static int output_failed(struct receiver *v, int err)
{
	ring_flow_hide(&v->f);
	cli_say("standard output: %s; what was received is not whole", strerror(err));
	return CLI_FAILED;
}

/* Whoever read our output has gone: we go as programs do then, but tell the sender at once. */
static int output_gone(struct receiver *v)
{
	ring_flow_hide(&v->f);
	kring_close(take_ptr(v->f.r));
	if (v->no_sigpipe)
		return output_failed(v, EPIPE);
	signal(SIGPIPE, SIG_DFL);
	raise(SIGPIPE);
	return CLI_FAILED;
}

/* All of it, whatever standard output is. @iov is used up. */
static int put(struct receiver *v, struct iovec *iov, unsigned int nr)
{
	struct pollfd p = { .fd = STDOUT_FILENO, .events = POLLOUT };
	unsigned int i = 0;
	ssize_t n;

	for (;;) {
		for (; i < nr && !iov[i].iov_len; i++)
			;
		if (i == nr)
			return CLI_OK;
		n = writev(STDOUT_FILENO, iov + i, (int)(nr - i));
		if (n < 0) {
			if (errno == EAGAIN)
				poll(&p, 1, -1);
			else if (errno == EPIPE)
				return output_gone(v);
			else if (errno != EINTR)
				return output_failed(v, errno);
			continue;
		}
		ring_flow_moved(&v->f, (uint64_t)n);
		for (; i < nr && (size_t)n >= iov[i].iov_len; i++)
			n -= (ssize_t)iov[i].iov_len;
		if (i < nr) {
			iov[i].iov_base = (char *)iov[i].iov_base + n;
			iov[i].iov_len -= (size_t)n;
		}
	}
}

/* ---- in ---- */

/* Up to @max messages. Return: how many; -1 with errno, as kring_peek(). */
static int take(struct receiver *v, struct kring_msg *ret, unsigned int max, int timeout_ms)
{
	ssize_t n;

	if (!v->copy)
		return kring_peek(v->f.r, ret, max, timeout_ms);
	n = kring_recv(v->f.r, v->copy, kring_max(v->f.r), timeout_ms);
	if (n < 0)
		return -1;
	*ret = (struct kring_msg){ .data = v->copy, .len_bytes = (size_t)n };
	return 1;
}

static int give_back(struct receiver *v, unsigned int nr)
{
	if (v->copy || !nr || kring_release(v->f.r, nr) == 0)
		return CLI_OK;
	return refuse_ring(v, errno);
}

static int lost(struct receiver *v)
{
	if (v->f.form == RING_STREAM) {
		if (v->place == INSIDE)
			return say_broken(v, "this receiver was too slow for its sender");
		v->place = BEFORE;
		return CLI_OK;
	}
	v->status = RING_BROKEN;
	/* It may happen for each message. */
	if (v->lost_said_ns && ring_now_ns() - v->lost_said_ns < SAY_EVERY_NS)
		return CLI_OK;
	v->lost_said_ns = ring_now_ns();
	ring_flow_hide(&v->f);
	cli_say("%s: too slow for its sender: %llu messages lost so far; make the ring larger, or --blocking",
		v->f.name, (unsigned long long)kring_lost(v->f.r));
	return CLI_OK;
}

/* A sender has gone: @died: without closing its end. Return: CLI_OK: go on; -1: it is the end; a status after a sentence. */
static int sender_gone(struct receiver *v, bool died)
{
	if (v->f.form == RING_STREAM) {
		/* One that was there before its stream's beginning is none of ours. */
		if (v->place != INSIDE)
			return CLI_OK;
		return say_broken(v, died ? "its sender died" : "its sender gave up");
	}
	if (died) {
		ring_flow_hide(&v->f);
		cli_say("%s: a sender died; what it sent may not be all", v->f.name);
		v->status = RING_BROKEN;
	}
	return v->f.keep || has_writer(v) ? CLI_OK : -1;
}

/* How many of them to write at once. */
static int batch(const struct kring_msg *msgs, int nr)
{
	uint64_t bytes = 0;
	int i;

	for (i = 0; i < nr && bytes < BATCH_BYTES; i++)
		bytes += msgs[i].len_bytes;
	return i;
}

/* Wait for messages. Return: how many > 0; 0 with *@ret_status: the end, or why not. */
static int next(struct receiver *v, struct kring_msg *msgs, int *ret_status)
{
	int64_t since = 0;

	for (;;) {
		int n = take(v, msgs, BATCH, since ? ring_flow_slice(&v->f, since) : 0), r = CLI_OK;

		if (n > 0)
			return batch(msgs, n);
		if (!since)
			since = ring_now_ns();
		switch (errno) {
		case EAGAIN:
		case ETIMEDOUT:
			v->caught_up = true;
			if (ring_flow_slice(&v->f, since) == 0)
				r = ring_flow_late(&v->f, "and nothing was received");
			else
				ring_flow_idle(&v->f, "waiting for a sender");
			break;
		case EPIPE:
		case EOWNERDEAD:
			r = sender_gone(v, errno == EOWNERDEAD);
			break;
		case EOVERFLOW:
			r = lost(v);
			break;
		case EINTR:
			break;
		default:
			r = refuse_ring(v, errno);
			break;
		}
		if (r != CLI_OK) {
			if (r < 0 && v->lost_said_ns) {
				ring_flow_hide(&v->f);
				cli_say("%s: %llu messages were lost in all", v->f.name,
					(unsigned long long)kring_lost(v->f.r));
			}
			*ret_status = r < 0 ? v->status : r;
			return 0;
		}
	}
}

/* ---- messages ---- */

/* Ends of senders that came and went before us are not the end of what we receive. */
static void forget_the_past(struct receiver *v)
{
	struct kring_peer peers[PEERS_MAX];
	int nr = kring_get_peers(v->f.r, peers, PEERS_MAX), dead = 0;
	struct kring_msg msg;

	for (int i = 0; i < nr; i++)
		dead += peers[i].role == KRING_WRITER && peers[i].state == KRING_DEAD;
	/* Deaths are found by looks at intervals, closed ends at once, and all together. */
	for (int i = 0; i <= dead; i++)
		if (kring_peek(v->f.r, &msg, 1, i < dead ? PAST_LOOK_MS : 0) > 0)
			return;
}

static int receive_messages(struct receiver *v)
{
	static char ends[] = { '\n', '\0' };
	struct kring_msg msgs[BATCH];
	struct iovec iov[2 * BATCH];
	unsigned int nr;
	int n, r;

	for (;;) {
		n = next(v, msgs, &r);
		if (n == 0)
			return r;
		nr = 0;
		for (int i = 0; i < n; i++) {
			iov[nr].iov_base = (void *)msgs[i].data;
			iov[nr++].iov_len = msgs[i].len_bytes;
			if (v->f.form == RING_RAW)
				continue;
			iov[nr].iov_base = &ends[v->f.form == RING_NULL];
			iov[nr++].iov_len = 1;
		}
		r = put(v, iov, nr);
		if (r == CLI_OK)
			r = give_back(v, (unsigned int)n);
		if (r != CLI_OK)
			return r;
	}
}

/* ---- a stream ---- */

/* May the sender of stream @id be there? */
static bool may_live(struct receiver *v, uint64_t id)
{
	struct kring_peer peers[PEERS_MAX];
	int nr = kring_get_peers(v->f.r, peers, PEERS_MAX);

	for (int i = 0; i < nr; i++)
		if (peers[i].role == KRING_WRITER && peers[i].state == KRING_ALIVE &&
		    peers[i].pid == (uint32_t)id)
			return true;
	return false;
}

/* Is all of stream @id in the ring? */
static bool has_end(struct receiver *v, uint64_t id)
{
	unsigned int max = v->f.stat.conf.slots;
	cleanup_free struct kring_msg *all = calloc(max, sizeof(*all));
	struct ring_frame frame;
	int nr = all ? kring_peek(v->f.r, all, max, 0) : 0;

	for (int i = 0; i < nr; i++) {
		if (all[i].len_bytes < sizeof(frame))
			continue;
		memcpy(&frame, all[i].data, sizeof(frame));
		if (frame.magic == RING_FRAME_MAGIC && frame.id == id &&
		    (frame.flags & RING_FRAME_END))
			return true;
	}
	return false;
}

/*
 * An END without its stream. If its sender lives, it waits for this very message to be released, and would take that for success.
 * Return: whether it may be released.
 */
static bool sender_of_end_is_gone(struct receiver *v, uint64_t id)
{
	struct kring_msg two[2];
	int64_t until = ring_now_ns() + LAST_LOOK_MS * 1000000LL;

	if (v->f.stat.conf.shape == KRING_BROADCAST)
		return true;
	while (may_live(v, id)) {
		if (kring_peek(v->f.r, two, 2, 0) == 2)
			return true;
		if (ring_now_ns() > until)
			return false;
		poll(NULL, 0, 5);
	}
	return true;
}

/* What to do with a message of a stream. */
enum action { WRITE, LEAVE_OUT, BEGIN, FINISH, SPLIT, STRANGE };

static enum action judge(struct receiver *v, const struct kring_msg *m, bool first,
			 struct ring_frame *frame)
{
	/* A sender that is up to no good may change it: it is looked at once. */
	if (m->len_bytes < sizeof(*frame))
		return STRANGE;
	memcpy(frame, m->data, sizeof(*frame));
	if (frame->magic != RING_FRAME_MAGIC)
		return STRANGE;
	if (v->place == INSIDE) {
		if (frame->id != v->id || frame->offset != v->offset ||
		    (frame->flags & RING_FRAME_BEGIN))
			return STRANGE;
		if (!(frame->flags & RING_FRAME_END))
			return WRITE;
		return FINISH;
	}
	v->place = PASSING;
	if (frame->flags & RING_FRAME_BEGIN) {
		/* Of a broadcast one hears what there is. */
		if (!v->caught_up && v->f.stat.conf.shape != KRING_BROADCAST &&
		    !may_live(v, frame->id) && !has_end(v, frame->id)) {
			v->left_out = true;
			return LEAVE_OUT;
		}
		v->place = INSIDE;
		v->id = frame->id;
		v->offset = 0;
		return BEGIN;
	}
	if ((frame->flags & RING_FRAME_END) && !first)
		return SPLIT;
	v->left_out = true;
	return LEAVE_OUT;
}

static int say_strange(struct receiver *v, const struct ring_frame *frame)
{
	if (v->place == INSIDE)
		return say_broken(v,
				  frame->magic == RING_FRAME_MAGIC
					  ? "its sender died, and another stream follows"
					  : "something else follows");
	ring_flow_hide(&v->f);
	cli_say("%s: what is there is no stream of 'ring send', but messages; use --lines, --null or --raw",
		v->f.name);
	return CLI_FAILED;
}

/* All is written: also what an output keeps until it is closed. Then the sender is told. */
static int finish(struct receiver *v, unsigned int nr)
{
	if (close(STDOUT_FILENO) < 0 && errno != EBADF)
		return output_failed(v, errno);
	return give_back(v, nr);
}

static int receive_stream(struct receiver *v)
{
	struct kring_msg msgs[BATCH];
	struct iovec iov[BATCH];
	struct ring_frame frame = { 0 };
	bool said = false;
	int n, r;

	for (;;) {
		enum action action = WRITE;
		unsigned int nr = 0, done = 0;

		n = next(v, msgs, &r);
		if (n == 0)
			return r;
		for (; done < (unsigned int)n; done++) {
			action = judge(v, &msgs[done], done == 0, &frame);
			/* Released before anything is written: now it is ours, and the sender sees it. */
			done += action == BEGIN;
			if (action > LEAVE_OUT)
				break;
			if (action == LEAVE_OUT)
				continue;
			iov[nr].iov_base = (char *)msgs[done].data + sizeof(frame);
			iov[nr++].iov_len = msgs[done].len_bytes - sizeof(frame);
			v->offset += msgs[done].len_bytes - sizeof(frame);
		}
		if (v->left_out && !said) {
			said = true;
			ring_flow_hide(&v->f);
			cli_say("%s: a stream of which there is only a part is left out; waiting for the next",
				v->f.name);
		}
		r = put(v, iov, nr);
		if (r != CLI_OK)
			return r;
		if (action == FINISH)
			return finish(v, done + 1);
		if (action == LEAVE_OUT && v->place == PASSING && (frame.flags & RING_FRAME_END) &&
		    !sender_of_end_is_gone(v, frame.id)) {
			ring_flow_hide(&v->f);
			cli_say("%s: another receiver has had the beginning of the stream; send it again",
				v->f.name);
			return RING_BROKEN;
		}
		r = give_back(v, done);
		if (r != CLI_OK)
			return r;
		if (action == STRANGE)
			return say_strange(v, &frame);
	}
}

static void receiver_deinit_p(struct receiver *v)
{
	ring_flow_hide(&v->f);
	kring_close(v->f.r);
	free(v->copy);
}

/** ring_recv() - ring recv NAME. Return: an exit status. */
int ring_recv(const struct cli *cli, int argc, char **argv)
{
	cleanup(receiver_deinit_p) struct receiver v = { 0 };
	int r = ring_flow_parse(&v.f, false, argc, argv);

	if (r == CLI_OK)
		r = ring_flow_open(&v.f, cli, KRING_READER);
	if (r != CLI_OK)
		return r;
	if (v.f.stat.conf.shape == KRING_BROADCAST && !(v.f.stat.conf.flags & KRING_BLOCKING)) {
		v.copy = malloc(kring_max(v.f.r));
		if (!v.copy)
			return refuse_ring(&v, ENOMEM);
	}
	v.caught_up = v.f.stat.depth == 0;
	v.no_sigpipe = signal(SIGPIPE, SIG_IGN) == SIG_IGN;
	ring_flow_start(&v.f, STDOUT_FILENO);
	if (v.f.form == RING_STREAM)
		return receive_stream(&v);
	forget_the_past(&v);
	return receive_messages(&v);
}
