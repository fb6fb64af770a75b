/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ring.h - the layout of a ring in shared memory, and the argument why its protocol is right.
 *
 * DOC: what is where
 *
 *     data object     ring_head | ring_lane per writer | slots of each lane | data of each lane
 *     control object  ring_ctl | ring_cursor per reader or lane | ring_bed per lane
 *
 * Writers write the data object and may write the control object; readers write the control object alone. With
 * RING_PROTECTED these are two memory objects, and readers map the first one read-only; without it the control part
 * lies in the data object, at ring_layout.ctl_off.
 *
 * A lane is one writer's: a one-to-one channel. Writers never meet, so there is no reservation in the middle of which
 * one of them could die to the others' harm. The reader of many-to-one goes round the lanes. In broadcast one lane has many readers.
 *
 * DOC: a message
 *
 * Message n of a lane (n = 0, 1, 2...; 64 bits, private to each side) is in slot n mod slots:
 *
 *     word 0   (n + 1) << 16 | code     code <= slot size - 8: the length; the payload follows in the slot
 *     word 1, word 2                    code RING_IN_DATA: where in the lane's data, and length, of the payload
 *
 * Slots need not be powers of two: what matters is how many lines a message takes from one processor to the other. Word 0 has the sequence number and the length beside the payload: the line that says that a message is there brings the message.
 * There is no index that both sides touch for each message. Word 0 is only ever written as word 0, so what a reader finds there is that of
 * an earlier round (or zero) until its own message is committed: (word - ((n + 1) << 16)) is below 2^16 for the message itself, negative
 * as a signed number for an earlier one, positive for a later one.
 *
 * Payloads in the data area are 64-byte aligned and in one piece: one that would cross the end begins at the start of the next round. A payload may be half
 * of the area, so there always is room when the lane is empty.
 *
 * DOC: memory order
 *
 * (1) Commit. The writer writes the payload and words 1 and 2, then stores word 0 (release). The reader loads word 0 (acquire): if it is message n's,
 *     it sees the payload. Not before: the reader reads nothing else of the slot.
 *     Stores past the cache (x86: non-temporal) are no part of that order: who uses them fences them before word 0.
 *     Of a batch the first message's word 0 is stored last, so all of it is there at once: the reader does not take each line from
 *     the writer while that is still writing into it, which halves the rate.
 * (2) Release. The reader reads the payload, then stores cursor.head = n + 1 (release). The writer loads head (acquire) before it
 *     writes message n + slots, or the data that message n had: the reader's loads are done. What data a head frees the writer knows from notes of its
 *     own, so one word says all and no two can disagree.
 * (3) Broadcast. Before the writer writes over message n it stores lane.low > n, then a release fence, then the payload. The reader
 *     reads the payload, then an acquire fence, then loads low. If it read any byte of the later message, the fences order the store of low before
 *     its load, which gives low > n: it discards what it read and knows that it lost low - n messages. low rises by an eighth of the slots at a
 *     time, so its line seldom moves. With RING_BLOCKING low does not rise above an active reader's head.
 * (4) Sleep. Who is to sleep stores wait = 1 in a word of the control object, then a full barrier, then looks once more, then FUTEX_WAIT(wait, 1). The
 *     other side stores what is waited for, then a full barrier, then loads wait; if it is not 0 it exchanges it with 0 and wakes. One of the
 *     two sees the other's store. The second barrier would cost more than the message: instead the sleeper makes it for both, by
 *     membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED), for which every end registers. Where one of them cannot, or a sleeper
 *     expects to sleep each time, `fence` next to the word asks the other side to make it itself.
 *     A sleep lasts RING_SLICE_NS at most, after which the other side's life is looked at; so also a lie costs no more than that.
 *
 * DOC: places, and death at any instruction
 *
 * A place (of a writer, of a reader) is held by an open file description lock (F_OFD_SETLK, F_WRLCK) on one byte far beyond the
 * end of the object: writers' of the data object, readers' of the control object. The kernel gives each to one at a time and takes it back when its holder is gone, whatever the
 * pid namespaces and whatever stands in memory. The word life tells how a place was left: RING_ACTIVE and not locked is dead. It counts its
 * holders, too, so what was seen of one is not taken for the next one's. A look is made with F_OFD_GETLK and F_RDLCK, so that a read lock, which a reader may take on the
 * data object, does not look like life. (A lock is also held by a child that was forked and lives on without executing.)
 *
 *     a writer dies     what it leaves
 *     before word 0     nothing: the slot's old word 0 stands, and n was never told to anybody; the next writer begins at n
 *     in a batch        slots beyond n that bear their own number. No reader looks beyond n; the next writer gives these slots an earlier
 *                       round's number before it writes n
 *     after word 0      message n and its batch; lane.tail may not count them yet. The next writer finds its n by walking over slots that
 *                       bear their own number
 *     after raising low messages that are lost a little earlier than necessary
 *     before the wake   a sleeper that looks again when its slice ends
 *
 *     a reader dies     what it leaves
 *     before head       the message is there for the next reader: it comes again
 *     after head        the room is the writer's
 *     asleep            wait = 1: one wake for nobody
 *     (broadcast)       an ACTIVE cursor that holds a blocking writer up, until that looks at the lock and makes it RING_DROPPED
 *
 * DOC: what is believed
 *
 * ring_head is copied once, checked, and everything is computed from the copy. Each side believes its own n. The writer believes of head only what lies between the
 * last value and its own n. The reader reads word 0, 1 and 2 once each, into registers; length and place are bounded by the lane's data. An index in shared memory
 * is never used to find an address without a mask. No loop waits for a word to become sane.
 */
#ifndef KSHARED_WIRE_RING_H
#define KSHARED_WIRE_RING_H

#include <stdbool.h>
#include <stdint.h>

#define RING_MAGIC 0x31676e697264736bULL /* "ksdring1" */
#define RING_CTL_MAGIC 0x316c746372647300ULL
#define RING_VERSION 1

/* ring_head.shape and .flags are KRING_* of kshared/ring.h. */
#define RING_SHAPE_ONE 1u
#define RING_SHAPE_MANY 2u
#define RING_SHAPE_BROADCAST 3u
#define RING_PROTECTED (1u << 0)
#define RING_BLOCKING (1u << 1)

#define RING_SLOTS_MIN 2u
#define RING_SLOTS_MAX (1u << 20)
#define RING_SLOT_MIN 64u
#define RING_SLOT_MAX 4096u
#define RING_DATA_MIN 4096ULL
#define RING_DATA_MAX (1ULL << 40)
#define RING_PEERS_MAX 256u

#define RING_CODE_BITS 16
#define RING_IN_DATA 0x8000u
#define RING_ALIGN 64u
#define RING_BATCH 32u /* messages that may appear at once, and by which tail may be behind */

#define RING_LOCK_WRITER (1ULL << 61) /* + lane */
#define RING_LOCK_READER (1ULL << 62) /* + place */

#define RING_SLICE_NS 100000000LL

/* At the start of the data object. @magic is stored last. */
struct ring_head {
	uint64_t magic;
	uint32_t version;
	uint32_t shape;
	uint32_t flags;
	uint32_t slot_bytes;
	uint32_t slots;
	uint32_t writers; /* lanes */
	uint32_t readers; /* places of readers */
	uint32_t pad;
	uint64_t data_bytes; /* of each lane */
	uint64_t id; /* random; the control object has the same */
	uint64_t reserved[9];
};

/* The low byte of life, how a place was left; the rest of it counts how often the place was taken. */
#define RING_STATE_BITS 8

enum ring_state {
	RING_FREE, /* never taken */
	RING_ACTIVE,
	RING_CLOSED,
	RING_DROPPED, /* a dead reader that the writer does not wait for any more */
};

/* A writer's own; one line that it writes for each message, and one that it seldom writes and readers may look at often. */
struct ring_lane {
	uint64_t tail; /* messages committed; stored after word 0 */
	uint64_t bytes;
	uint64_t pad0[6];
	uint64_t low; /* broadcast: messages below are gone */
	uint64_t life;
	uint32_t pid;
	uint32_t pad1[11];
};

/* Where one side sleeps until the other has done something. */
struct ring_bed {
	uint32_t wait; /* a futex */
	uint32_t fence; /* the sleeper asks the other side for the barrier */
	uint64_t need; /* a writer's: it can go on when head is here */
	uint64_t woken; /* when it was last woken, by CLOCK_MONOTONIC in ns: tells the sleeper what a wake takes */
	uint64_t pad[5];
};

/* At the start of the control part. */
struct ring_ctl {
	uint64_t magic;
	uint64_t id;
	uint64_t pad0[6];
	struct ring_bed bed; /* a reader sleeps */
};

/*
 * How far a reader is: one for each reader (broadcast), or for each lane of the one reader, whose state is in the first.
 */
struct ring_cursor {
	uint64_t head; /* the next message that it has not released */
	uint64_t received; /* this and the next one: broadcast */
	uint64_t lost;
	uint64_t pad0[5];
	uint64_t life;
	uint32_t pid;
	uint32_t pad1[13];
};

_Static_assert(sizeof(struct ring_head) == 128, "ABI");
_Static_assert(sizeof(struct ring_lane) == 128, "ABI");
_Static_assert(sizeof(struct ring_ctl) == 128, "ABI");
_Static_assert(sizeof(struct ring_cursor) == 128, "ABI");
_Static_assert(sizeof(struct ring_bed) == 64, "ABI");

/**
 * struct ring_layout - where everything is, in bytes.
 * @lanes_off, @slots_off, @data_off: in the data object; the latter two for lane 0, the next one @slots_stride, data_bytes further
 * @ctl_off: where the control part begins: in the data object, or 0 in an object of its own
 * @cursors_off, @rooms_off: from there
 * @data_size, @ctl_size: of the objects; ctl_size is 0 if there is only one
 */
struct ring_layout {
	uint64_t lanes_off;
	uint64_t slots_off;
	uint64_t slots_stride;
	uint64_t data_off;
	uint64_t ctl_off;
	uint64_t cursors_off;
	uint64_t rooms_off;
	uint32_t cursors;
	uint64_t data_size;
	uint64_t ctl_size;
};

/** ring_life() - a place's holder number @epoch, in @state. */
static inline uint64_t ring_life(uint64_t epoch, enum ring_state state)
{
	return epoch << RING_STATE_BITS | state;
}

/** ring_life_state() - how a place was left. */
static inline unsigned int ring_life_state(uint64_t life)
{
	return life & ((1u << RING_STATE_BITS) - 1);
}

/** ring_life_epoch() - which of its holders is meant. */
static inline uint64_t ring_life_epoch(uint64_t life)
{
	return life >> RING_STATE_BITS;
}

#define RING_PAGE(x) (((x) + 4095) & ~4095ULL)

/**
 * ring_head_sane() - can there be a ring like this? Everything but magic and version.
 * @h: a private copy
 */
static inline bool ring_head_sane(const struct ring_head *h)
{
	bool broadcast = h->shape == RING_SHAPE_BROADCAST;

	if (h->shape < RING_SHAPE_ONE || h->shape > RING_SHAPE_BROADCAST)
		return false;
	if ((h->flags & ~(RING_PROTECTED | RING_BLOCKING)) ||
	    ((h->flags & RING_BLOCKING) && !broadcast))
		return false;
	if (h->slot_bytes < RING_SLOT_MIN || h->slot_bytes > RING_SLOT_MAX || h->slot_bytes % 8)
		return false;
	if (h->slots < RING_SLOTS_MIN || h->slots > RING_SLOTS_MAX || (h->slots & (h->slots - 1)))
		return false;
	if (h->data_bytes < RING_DATA_MIN || h->data_bytes > RING_DATA_MAX ||
	    (h->data_bytes & (h->data_bytes - 1)))
		return false;
	if (!h->writers || h->writers > RING_PEERS_MAX ||
	    (h->writers > 1 && h->shape != RING_SHAPE_MANY))
		return false;
	return h->readers && h->readers <= RING_PEERS_MAX && (h->readers == 1 || broadcast);
}

/**
 * ring_layout_of() - compute the places.
 * @h: a private copy for which ring_head_sane() is true: no sum overflows
 */
static inline struct ring_layout ring_layout_of(const struct ring_head *h)
{
	struct ring_layout l = { .lanes_off = 4096 };
	uint64_t at = l.lanes_off + RING_PAGE(h->writers * sizeof(struct ring_lane));
	uint64_t ctl;

	l.cursors = h->writers > h->readers ? h->writers : h->readers;
	l.cursors_off = sizeof(struct ring_ctl);
	l.rooms_off = l.cursors_off + l.cursors * sizeof(struct ring_cursor);
	ctl = RING_PAGE(l.rooms_off + h->writers * sizeof(struct ring_bed));
	if (h->flags & RING_PROTECTED) {
		l.ctl_size = ctl;
	} else {
		l.ctl_off = at;
		at += ctl;
	}
	l.slots_off = at;
	l.slots_stride = RING_PAGE((uint64_t)h->slots * h->slot_bytes);
	at += h->writers * l.slots_stride;
	l.data_off = at;
	l.data_size = at + h->writers * h->data_bytes;
	return l;
}

#endif
