/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ring.h - what the verbs of `kshared ring` have in common: names, the format of a stream, the ways in which bytes move.
 *
 * DOC: streams and messages
 *
 * Without an option, `send` and `recv` carry one stream of bytes, as a pipe does, and more strictly: its end is said in the stream itself, so
 * nothing that ends before is taken for whole. A message of a stream is a struct ring_frame and then a piece of the stream:
 *
 *     BEGIN, offset 0       always; says that a stream begins, before there is a byte
 *     0, offset N           a piece of it
 *     END, offset N         the end; no bytes
 *
 * Every frame has the stream's number and how many bytes came before. So whatever dies and comes back in between, what does not belong together is
 * never put together: the receiver that finds anything but the next frame of its stream says that the stream is broken (exit status 3). One that finds the
 * rest of a stream whose beginning went to another receiver, or a beginning whose sender went before the end, leaves it out and waits for the next.
 *
 * The sender waits until END has been released, and a receiver releases it only when all of that very stream has been written and its output closed:
 * exit status 0 of the sender means that all has arrived. A receiver that meets an END without its stream must not release it while its sender
 * lives. A place is held by one process at a time, whose pid is known, and the pid is in the stream's number; where that one may be another's
 * with the same pid, a frame behind the END shows that its sender has gone. If the sender is there the receiver gives up and closes its end, and
 * the sender sees its last frame in a ring that the receiver has left.
 *
 * With --lines, --null or --raw there are messages without frames, from and for any program. They stay in the ring until they are received, by whomever, so
 * neither side minds the other's end, but that the receiver ends with the last sender.
 */
#ifndef KSHARED_CLI_RING_H
#define KSHARED_CLI_RING_H

#include <stdbool.h>
#include <sys/uio.h>

#include <kshared/ring.h>

#include "cli/cli.h"
#include "cli/json.h"

#define RING_NAME "ring"

/* Exit statuses that only ring has. */
enum { RING_BROKEN = 3, RING_TIMEOUT = 4 };

#define RING_FRAME_MAGIC 0x31727473u /* "str1" */
#define RING_FRAME_BEGIN 1u
#define RING_FRAME_END 2u

/**
 * struct ring_frame - before each piece of a stream; little-endian machines alone exchange it, since it does not leave the machine.
 * @flags: RING_FRAME_*
 * @id: the stream's: a random number, and in the lower half its sender's pid, as it says itself
 * @offset: bytes of the stream before this piece
 */
struct ring_frame {
	uint32_t magic;
	uint32_t flags;
	uint64_t id;
	uint64_t offset;
};

/* How what is sent is cut into messages. */
enum ring_form { RING_STREAM, RING_LINES, RING_NULL, RING_RAW };

/**
 * struct ring_flow - a `send` or `recv` under way.
 * @timeout_ns: how long to wait while nothing moves; 0: for ever
 * @keep: do not end with the last sender
 * @history, @wait_readers: of a broadcast
 * @stat: of the ring when it was opened; its configuration
 * @bytes, @start_ns, @shown_ns: for the progress, which is shown if @progress
 */
struct ring_flow {
	struct kring *r;
	const char *name;
	enum ring_form form;
	uint64_t timeout_ns;
	uint32_t wait_readers;
	bool keep;
	bool history;
	struct kring_stat stat;

	bool progress;
	bool shown;
	uint64_t bytes;
	int64_t start_ns;
	int64_t shown_ns;
};

extern const struct hint ring_hints[];

/* ring.c */
const char *ring_shape_name(uint32_t shape);
const char *ring_state_name(uint32_t state);

/* ring_flow.c */
int64_t ring_now_ns(void);
int ring_flow_parse(struct ring_flow *f, bool sends, int argc, char **argv);
int ring_flow_open(struct ring_flow *f, const struct cli *cli, unsigned int end);
void ring_flow_start(struct ring_flow *f, int other_fd);
void ring_flow_moved(struct ring_flow *f, uint64_t bytes);
void ring_flow_idle(struct ring_flow *f, const char *what);
void ring_flow_hide(struct ring_flow *f);
int ring_flow_slice(struct ring_flow *f, int64_t since_ns);
int ring_flow_late(struct ring_flow *f, const char *what);

/* ring_stat.c */

/**
 * struct ring_view - a ring as it was at one moment.
 * @time_ns: then; 0: never looked
 */
struct ring_view {
	struct kring_stat stat;
	struct kring_peer *peers;
	unsigned int nr;
	int64_t time_ns;
};

#define RING_VIEW_LINE 128

int ring_view_take(struct ring_view *v, struct kring *r);
void ring_view_deinit_p(struct ring_view *v);
json_t *ring_view_json(const char *name, const struct ring_view *now, const struct ring_view *then);
unsigned int ring_view_lines(const char *name, const struct ring_view *now,
			     const struct ring_view *then, char (**ret)[RING_VIEW_LINE]);

int ring_ls(const struct cli *cli, int argc, char **argv);
int ring_recv(const struct cli *cli, int argc, char **argv);
int ring_send(const struct cli *cli, int argc, char **argv);
int ring_stat(const struct cli *cli, int argc, char **argv);
int ring_watch(const struct cli *cli, int argc, char **argv);

/** ring_close_p() - close the end at *@r, which may be NULL; see cleanup_ring. */
static inline void ring_close_p(struct kring **r)
{
	kring_close(*r);
}

#define cleanup_ring cleanup(ring_close_p)

#endif
