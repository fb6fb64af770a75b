// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * port_pool.c - memory between guard pages, shadow bytes, protection keys.
 *
 * A region:
 *
 *	+---------------------+
 *	| struct region       |  a page, read-only while the region is in use
 *	+---------------------+
 *	| guard page          |  PROT_NONE, sealed
 *	+---------------------+
 *	| memory              |
 *	+---------------------+
 *	| guard page          |  PROT_NONE, sealed
 *	+---------------------+
 *
 * What mseal(2) has sealed stays as long as the process. So a region that was given back is kept, its memory unmapped, for the
 * next one of its length: a program that opens ports for ever has no more of them than it had at the same time.
 *
 * The kept ones are a stack without a lock: who looks for one takes all, and puts back what he does not need. Who
 * finds none meanwhile makes a new one.
 *
 * Shadow bytes (SBR) are random, 64 before and 64 behind a pool. That they are as they were says that no store of the program went
 * a little too far. They are no protection against malice: who can write them can read them, too.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/conn.h"
#include "lib/port.h"

#ifndef SYS_mseal
#define SYS_mseal 462
#endif

/**
 * struct region - what is known of one.
 * @len: of its memory
 * @pool_size, @sbr: of kport_allocz()
 */
struct region {
	struct region *next;
	size_t len;
	bool sealed;
	size_t pool_size;
	struct sbr sbr;
};

static struct region *_Atomic kept;
static atomic_int process_key = -1;

static size_t page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

static char *region_memory(struct region *r)
{
	return (char *)r + 2 * page_size();
}

static struct region *region_of(const void *memory)
{
	return (struct region *)((char *)memory - 2 * page_size());
}

static void keep(struct region *r)
{
	r->next = atomic_load(&kept);
	while (!atomic_compare_exchange_weak(&kept, &r->next, r))
		;
}

static struct region *take_kept(size_t len)
{
	struct region *r = atomic_exchange(&kept, NULL), *found = NULL;

	while (r) {
		struct region *next = r->next;

		if (!found && r->len == len)
			found = r;
		else
			keep(r);
		r = next;
	}
	return found;
}

static bool seal(void *at)
{
	return syscall(SYS_mseal, at, page_size(), 0) == 0;
}

static int fill(char *memory, size_t len, int fd)
{
	int flags = MAP_FIXED | MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0);

	if (mmap(memory, len, PROT_READ | PROT_WRITE, flags, fd, 0) == MAP_FAILED)
		return -errno;
	return 0;
}

/**
 * region_get() - memory between guard pages, readable and writable.
 * @fd: what is mapped, from its beginning, borrowed; -1: zeroes, which a child of fork(2) shares
 * @len: whole pages
 * Any thread. Return: the memory, for region_put(); NULL with errno of mmap(2).
 */
void *region_get(int fd, size_t len)
{
	size_t page = page_size();
	struct region *r = take_kept(len);
	char *memory;
	int err;

	if (r) {
		err = fill(region_memory(r), len, fd);
		if (err < 0) {
			keep(r);
			errno = -err;
			return NULL;
		}
		return region_memory(r);
	}
	r = mmap(NULL, len + 3 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
		 0);
	if (r == MAP_FAILED)
		return NULL;
	memory = region_memory(r);
	err = mprotect(r, page, PROT_READ | PROT_WRITE) < 0 ? -errno : fill(memory, len, fd);
	if (err < 0) {
		munmap(r, len + 3 * page);
		errno = -err;
		return NULL;
	}
	r->len = len;
	/* Where only one of them could be sealed the region is kept, too. */
	r->sealed = seal(memory - page);
	r->sealed |= seal(memory + len);
	return memory;
}

/** region_put() - give a region back. @memory: from region_get(). Any thread; errno is kept. */
void region_put(void *memory)
{
	struct region *r = region_of(memory);
	size_t page = page_size();
	int saved = errno;

	if (!r->sealed) {
		munmap(r, r->len + 3 * page);
	} else if (mmap(memory, r->len, PROT_NONE,
			MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
			0) != MAP_FAILED &&
		   mprotect(r, page, PROT_READ | PROT_WRITE) == 0) {
		keep(r);
	}
	errno = saved;
}

/** sbr_new() - shadow bytes that nobody can know. Return: 0; -errno of getrandom(2). */
int sbr_new(struct sbr *ret)
{
	return getrandom(ret, sizeof(*ret), 0) == sizeof(*ret) ? 0 : -errno;
}

/** sbr_put() - write shadow bytes around a pool. */
void sbr_put(const struct sbr *s, void *pool, size_t pool_size)
{
	memcpy((char *)pool - PORT_CANARY, s->before, PORT_CANARY);
	memcpy((char *)pool + pool_size, s->after, PORT_CANARY);
}

/* Where the first and the last changed byte are, of those that lie at @at. */
static void where_changed(const unsigned char *want, const unsigned char *seen, int64_t at,
			  int64_t *first, int64_t *last)
{
	for (int64_t i = 0; i < PORT_CANARY; i++) {
		if (want[i] == seen[i])
			continue;
		if (*first > at + i)
			*first = at + i;
		*last = at + i;
	}
}

/**
 * sbr_check() - are a pool's shadow bytes as they were?
 * @ret_offset, @ret_bytes: if not: as in struct kport_clobber
 * They are copied first: what is reported is what was compared.
 */
bool sbr_check(const struct sbr *s, const void *pool, size_t pool_size, int64_t *ret_offset,
	       uint32_t *ret_bytes)
{
	int64_t first = INT64_MAX, last = 0;
	struct sbr seen;

	memcpy(seen.before, (const char *)pool - PORT_CANARY, PORT_CANARY);
	memcpy(seen.after, (const char *)pool + pool_size, PORT_CANARY);
	__asm__ volatile("" : "+m"(seen)); /* or the compiler may read the pool a second time */
	if (!memcmp(&seen, s, sizeof(seen)))
		return true;
	where_changed(s->before, seen.before, -PORT_CANARY, &first, &last);
	where_changed(s->after, seen.after, (int64_t)pool_size, &first, &last);
	*ret_offset = first;
	*ret_bytes = (uint32_t)(last - first + 1);
	return false;
}

/**
 * pool_key() - the process's protection key for pools: one for all, since there are fifteen.
 * Threads that are not within kport_write() may not write with it.
 * Return: a key; -EOPNOTSUPP: not with this processor, or none is left.
 */
int pool_key(void)
{
	int key = atomic_load(&process_key), none = -1;

	if (key >= 0)
		return key;
	key = pkey_alloc(0, PKEY_DISABLE_WRITE);
	if (key < 0)
		return -EOPNOTSUPP;
	if (!atomic_compare_exchange_strong(&process_key, &none, key)) {
		pkey_free(key);
		key = none;
	}
	return key;
}

/**
 * kport_allocz() - a zeroed pool between shadow bytes and guard pages.
 * @page_count: 1 to KPORT_POOL_MAX
 *
 * Any thread. A child of fork(2) shares it.
 *
 * Return: the first byte of the pool, for kport_free(); NULL with errno: EINVAL, ENOMEM.
 */
void *kport_allocz(size_t page_count)
{
	size_t page = page_size();
	struct region *r;
	char *memory;

	cancel_guard();
	if (page_count == 0 || page_count > KPORT_POOL_MAX) {
		errno = EINVAL;
		return NULL;
	}
	memory = region_get(-1, (page_count + 2) * page);
	if (!memory)
		return NULL;
	r = region_of(memory);
	r->pool_size = page_count * page;
	if (sbr_new(&r->sbr) < 0 || mprotect(r, page, PROT_READ) < 0) {
		region_put(memory);
		return NULL;
	}
	sbr_put(&r->sbr, memory + page, r->pool_size);
	return memory + page;
}

/**
 * kport_check() - are a pool's shadow bytes as they were?
 * @pool: from kport_allocz()
 * @ret_offset: of the first byte that is not, from the beginning of the pool; NULL: not asked
 * @ret_bytes: from that to the last one that is not; NULL: not asked
 *
 * Any thread. No system call.
 *
 * Return: 0; -1 with errno EFAULT: they are not.
 */
int kport_check(const void *pool, int64_t *ret_offset, uint32_t *ret_bytes)
{
	const struct region *r = region_of((const char *)pool - page_size());
	int64_t offset;
	uint32_t bytes;

	if (sbr_check(&r->sbr, pool, r->pool_size, &offset, &bytes))
		return 0;
	if (ret_offset)
		*ret_offset = offset;
	if (ret_bytes)
		*ret_bytes = bytes;
	return api_result(-EFAULT);
}

/** kport_free() - give a pool back. @pool: from kport_allocz(), used by nobody any more; NULL is ignored. */
void kport_free(void *pool)
{
	cancel_guard();
	if (pool)
		region_put((char *)pool - page_size());
}
