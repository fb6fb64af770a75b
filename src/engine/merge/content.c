// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * content.c - reading pages that others may be writing. That is a data race, and meant: what comes of it is a hint, and compared
 * again when nobody can write any more (inside.c). So these functions are never built with a sanitizer, which would complain.
 */
#include <engine/merge/partition_internal.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h> /* what the processor does best */
#else
#include <xxhash.h>
#endif

struct content_hash scan_content(const void *page)
{
	XXH128_hash_t hash = XXH3_128bits(page, MERGE_PAGE);

	return (struct content_hash){ .low = hash.low64, .high = hash.high64 };
}

void scan_copy(void *to, const void *from)
{
	const volatile uint64_t *p = from;
	uint64_t *q = to;

	for (unsigned int i = 0; i < MERGE_PAGE / 8; i++)
		q[i] = p[i];
}
