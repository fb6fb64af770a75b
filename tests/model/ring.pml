/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ring.pml - the protocol of src/wire/ring.h, for spin: every interleaving, with stores that arrive late and out of order.
 *
 * Memory: a store goes into its process's buffer, one place for each word, and arrives at some time; of two words either may arrive first. A store-release
 * waits until the buffer is empty, a release fence makes the later stores wait for the earlier ones (here: empties the buffer), a full barrier
 * empties it, membarrier() empties everybody's. A load sees its own buffer first. Loads happen in order, but for those that nothing keeps in
 * order: these are taken early when the part that keeps them is left out.
 *
 * One of SLEEP, LANE, CAST is defined, and for a test of the test one of the NO_*: spin has to find the error then.
 */

#define EMPTY 255

/* Word @w of process @p: stored into the buffer, and arriving. */
#define WORDS 8
byte mem[WORDS];
typedef buffer { byte value[WORDS] };
buffer late[2];

inline store(p, w, v) { late[p].value[w] = v }
inline arrive_all(p) {
	d_step {
		i_all = 0;
		do
		:: i_all < WORDS ->
			if
			:: late[p].value[i_all] != EMPTY ->
				mem[i_all] = late[p].value[i_all]; late[p].value[i_all] = EMPTY
			:: else
			fi;
			i_all++
		:: else -> break
		od
	}
}
/* A later store of the same word takes the place of the earlier one: it must not overtake others that were released. */
inline store_release(p, w, v) { atomic { arrive_all(p); store(p, w, v) } }
#define seen(p, w) (late[p].value[w] != EMPTY -> late[p].value[w] : mem[w])

hidden byte i_all;
bool over = false;

/* Stores arrive when they like. */
active proctype memory()
{
	byte w;
	do
	:: over -> break
	:: atomic { late[0].value[0] != EMPTY -> mem[0] = late[0].value[0]; late[0].value[0] = EMPTY }
	:: atomic { late[0].value[1] != EMPTY -> mem[1] = late[0].value[1]; late[0].value[1] = EMPTY }
	:: atomic { late[0].value[2] != EMPTY -> mem[2] = late[0].value[2]; late[0].value[2] = EMPTY }
	:: atomic { late[0].value[3] != EMPTY -> mem[3] = late[0].value[3]; late[0].value[3] = EMPTY }
	:: atomic { late[0].value[4] != EMPTY -> mem[4] = late[0].value[4]; late[0].value[4] = EMPTY }
	:: atomic { late[0].value[5] != EMPTY -> mem[5] = late[0].value[5]; late[0].value[5] = EMPTY }
	:: atomic { late[0].value[6] != EMPTY -> mem[6] = late[0].value[6]; late[0].value[6] = EMPTY }
	:: atomic { late[1].value[6] != EMPTY -> mem[6] = late[1].value[6]; late[1].value[6] = EMPTY }
	:: atomic { late[1].value[7] != EMPTY -> mem[7] = late[1].value[7]; late[1].value[7] = EMPTY }
	od
}

inline start()
{
	d_step {
		i_all = 0;
		do
		:: i_all < WORDS -> late[0].value[i_all] = EMPTY; late[1].value[i_all] = EMPTY; i_all++
		:: else -> break
		od
	}
}

#define W 0
#define R 1

#ifdef SLEEP
/*
 * Argument (4). A writer commits MESSAGES, a reader receives them and sleeps for each that is not there; in between it changes from being reached by
 * membarrier() to asking for the barrier. There are no slices here: who is not woken sleeps for ever, and spin calls that an invalid end.
 */
#define WORD 0
#define WAIT 6
#define FENCE 7
#define MESSAGES 3
bool woken = false;
bool begun = false;

active proctype writer()
{
	byte n = 0;

	begun;
	do
	:: n < MESSAGES ->
		n++;
		store_release(W, WORD, n);
		if
		:: seen(W, FENCE) ->
#ifndef NO_WRITER_FENCE
			arrive_all(W)
#else
			skip
#endif
		:: else
		fi;
		if
		:: seen(W, WAIT) ->
			/* An exchange is a full barrier, too. */
			atomic { arrive_all(W); if :: mem[WAIT] -> mem[WAIT] = 0; woken = true :: else fi }
		:: else
		fi
	:: else -> break
	od
}

active proctype reader()
{
	byte n = 0;
	bool fenced = false;

	atomic { start(); begun = true };
	do
	:: n < MESSAGES && seen(R, WORD) > n -> n++
	:: n < MESSAGES && seen(R, WORD) <= n ->
		if
		:: !fenced ->
			/* ring_set_fence() */
			store(R, FENCE, 1);
			arrive_all(R);
#ifndef NO_BARRIER_AFTER_ASKING
			arrive_all(W);
#endif
			fenced = true
		:: skip
		fi;
		atomic { woken = false; store(R, WAIT, 1); arrive_all(R) };
#ifndef NO_MEMBARRIER
		if
		:: !fenced -> arrive_all(W)
		:: else
		fi;
#endif
		if
		:: seen(R, WORD) > n -> store(R, WAIT, 0)
		:: else ->
			/* FUTEX_WAIT: sleeps only if the word still says so */
			if
			:: mem[WAIT] == 0
			:: woken
			fi
		fi
	:: n == MESSAGES -> break
	od;
	over = true
}
#endif

#ifdef LANE
/*
 * Arguments (1) and (2), batches and deaths. Two slots of a word 0 and a payload each; message n = 1, 2... is in slot n mod 2. The writer sends one or two
 * at once, dies where it likes, and the next one recovers. Its stores arrive before the lock is free. A message is sent when the
 * call has returned; what is sent is received once, in order, with its own payload: n, and of which writer (10 * writer) it was.
 */
#define WORD(n) ((n) & 1)
#define PAYLOAD(n) (2 + ((n) & 1))
#define TAIL 4
#define HEAD 6
#define LAST 5
byte wrote[LAST + 3];
byte promised = 0; /* messages whose sending has returned */
bool begun = false;

#define MAY_DIE if :: deaths -> deaths--; goto died :: skip fi

active proctype writer()
{
	byte n, id = 1, deaths = 2, h;
	bool two;

	begun;
again:
	/* ring_recover(): the messages that bear their own number, from head on */
	n = seen(W, HEAD) + 1;
	do
	:: n <= seen(W, HEAD) + 2 && seen(W, WORD(n)) == n -> n++
	:: else -> break
	od;
#ifndef NO_WIPE
	if
	:: n + 1 <= seen(W, HEAD) + 2 && seen(W, WORD(n + 1)) == n + 1 ->
		store(W, WORD(n + 1), n - 1)
	:: else
	fi;
#endif
	store_release(W, TAIL, n - 1);
	promised = n - 1;
	do
	:: n > LAST -> break
	:: n <= LAST ->
		h = seen(W, HEAD);
		if
		:: n <= h + 2 ->
			/* What was sent is never sent again. */
			assert(n > promised);
			two = false;
			if
			:: n + 1 <= h + 2 && n + 1 <= LAST -> two = true
			:: skip
			fi;
			MAY_DIE;
			wrote[n] = 10 * id + n;
			store(W, PAYLOAD(n), 10 * id + n);
			MAY_DIE;
			if
			:: two ->
				wrote[n + 1] = 10 * id + n + 1;
				store(W, PAYLOAD(n + 1), 10 * id + n + 1);
				MAY_DIE;
				store_release(W, WORD(n + 1), n + 1);
				MAY_DIE
			:: else
			fi;
#ifndef NO_RELEASE_COMMIT
			store_release(W, WORD(n), n);
#else
			store(W, WORD(n), n);
#endif
			MAY_DIE;
			n = n + 1 + two;
			store_release(W, TAIL, n - 1);
			promised = n - 1
		:: n > h + 2 && deaths -> deaths--; goto died
		:: n > h + 2 -> seen(W, HEAD) > h
		fi
	od;
	goto out;
died:
	atomic { arrive_all(W); id++ };
	goto again;
out:
	skip
}

active proctype reader()
{
	byte n = 1, got;

	atomic { start(); begun = true };
	do
	:: n <= LAST ->
#ifdef NO_ACQUIRE
		got = seen(R, PAYLOAD(n));
#endif
		seen(R, WORD(n)) == n;
#ifdef NO_RELEASE_HEAD
		store_release(R, HEAD, n);
#endif
#ifndef NO_ACQUIRE
		got = seen(R, PAYLOAD(n));
#endif
		assert(got == wrote[n]);
		assert(got % 10 == n);
#ifndef NO_RELEASE_HEAD
		store_release(R, HEAD, n);
#endif
		n++
	:: else -> break
	od;
	over = true
}
#endif

#ifdef CAST
/*
 * Argument (3). One writer that waits for nobody, two slots of two payload words each. A reader takes any message that it finds; what it accepts is whole.
 */
#define WORD(n) ((n) & 1)
#define FIRST(n) (2 + 2 * ((n) & 1))
#define SECOND(n) (3 + 2 * ((n) & 1))
#define LOW 6
#define LAST 5
bool begun = false;

active proctype writer()
{
	byte n = 1;

	begun;
	do
	:: n <= LAST ->
		if
		:: n > 2 ->
			/* Messages below n - 1 are gone */
			store(W, LOW, n - 1);
#ifndef NO_RELEASE_FENCE
			arrive_all(W)
#endif
		:: else
		fi;
		store(W, FIRST(n), n);
		store(W, SECOND(n), n);
		store_release(W, WORD(n), n);
		n++
	:: else -> break
	od
}

active proctype reader()
{
	byte n = 1, a, b, low;

	atomic { start(); begun = true };
	do
	:: n > LAST -> break
	:: n <= LAST && seen(R, WORD(n)) == n ->
#ifdef NO_ACQUIRE_FENCE
		low = seen(R, LOW);
#endif
		a = seen(R, FIRST(n));
		b = seen(R, SECOND(n));
#ifndef NO_ACQUIRE_FENCE
		low = seen(R, LOW);
#endif
		if
		:: low > n -> n = low
		:: else -> assert(a == n && b == n); n++
		fi
	:: n <= LAST && seen(R, WORD(n)) > n ->
		/* Later than ours: low says so already. */
		low = seen(R, LOW);
		assert(low > n);
		n = low
	od;
	over = true
}
#endif
