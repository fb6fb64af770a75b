/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * later.h - for kinds: a call on an entry's descriptor that may hang, made aside (engine/aside says why).
 */
#ifndef KSHARED_KIND_LATER_H
#define KSHARED_KIND_LATER_H

#include <core/tree.h>
#include <engine/aside/aside.h>

/**
 * struct later - one call.
 * @work: makes it, in a thread: sets @result, from @fd and what else is here; touches neither @e nor @rq
 * @finish: afterwards, in the loop, before the request is answered with @result; may change that; NULL: nothing to do
 * @e: stays until then
 * @rq: who waits; NULL: nobody, or nobody any more
 * @fd: the entry's descriptor, which stays open
 * @offset, @size, @flags, @mode, @uid, @gid, @before, @data: for @work and @finish, as they like; @data is freed
 */
struct later {
	struct aside_job job;
	void (*work)(struct later *l);
	void (*finish)(struct later *l);
	struct entry *e;
	struct request *rq;
	int fd;
	int result;
	uint64_t offset;
	uint64_t size;
	uint64_t before;
	uint32_t flags;
	uint32_t mode;
	uid_t uid;
	gid_t gid;
	void *data;
};

/**
 * later_start() - begin.
 * @rq: NULL: nobody waits
 * @what: copied; its @work, @finish and what they want. @what->data is taken
 * Return: KIND_LATER; what request_done() would get (in a tree without threads: all is done then); -errno.
 */
int later_start(struct entry *e, struct request *rq, const struct later *what);

#endif
