// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * work.c - writing and comparing payloads longer than a line, as fast as the processor can: the work is not to be what is measured.
 */
#include <string.h>

#include "ipc/ipc.h"

#if defined(__x86_64__)
#define FASTEST __attribute__((target_clones("avx2", "default")))
#else
#define FASTEST
#endif

#define REP_BYTES 65536

/* Eight bytes is all that a place to write is aligned to. */
typedef uint64_t vector __attribute__((vector_size(32), aligned(8), may_alias));

FASTEST void ipc_fill(void *to, size_t size, uint64_t seed)
{
	const vector v = { seed, seed, seed, seed };
	size_t n = size / (4 * sizeof(v));
	vector *at = to;

#if defined(__x86_64__)
	/* Does not fetch lines from the other processor that are to be overwritten anyway. */
	if (size >= REP_BYTES) {
		n = size / sizeof(seed);
		__asm__ volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(seed) : "memory");
		return;
	}
#endif

	for (; n; n--, at += 4) {
		at[0] = v;
		at[1] = v;
		at[2] = v;
		at[3] = v;
	}
	for (uint64_t *word = (uint64_t *)at, *end = (uint64_t *)((char *)to + size); word < end;
	     word++)
		*word = seed;
}

FASTEST bool ipc_same(const void *from, size_t size, uint64_t seed)
{
	const vector v = { seed, seed, seed, seed }, *at = from;
	vector wrong[4] = { { 0 } };
	size_t n = size / (4 * sizeof(v));
	uint64_t any = 0;

	for (; n; n--, at += 4) {
		wrong[0] |= at[0] ^ v;
		wrong[1] |= at[1] ^ v;
		wrong[2] |= at[2] ^ v;
		wrong[3] |= at[3] ^ v;
	}
	wrong[0] |= wrong[1] | wrong[2] | wrong[3];
	for (const uint64_t *word = (const uint64_t *)at,
			    *end = (const uint64_t *)((const char *)from + size);
	     word < end; word++)
		any |= *word ^ seed;
	return !(any | wrong[0][0] | wrong[0][1] | wrong[0][2] | wrong[0][3]);
}
