// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * mem.c - memory objects, from the client's side.
 *
 * What comes back is the object's memfd itself, or a read-only open file of it: from then on the
 * daemon is not asked any more. See kshared/mem.h for the contract.
 */
#include <fcntl.h>

#include <kshared/mem.h>

#include "lib/conn.h"

_Static_assert(KMEM_SEAL_SEAL == F_SEAL_SEAL && KMEM_SEAL_SHRINK == F_SEAL_SHRINK &&
		       KMEM_SEAL_GROW == F_SEAL_GROW && KMEM_SEAL_WRITE == F_SEAL_WRITE &&
		       KMEM_SEAL_FUTURE_WRITE == F_SEAL_FUTURE_WRITE,
	       "ABI");

#define CREATE_FLAGS (KMEM_RESIZABLE | KMEM_HUGE_2MB | KMEM_HUGE_1GB)
#define SEALS                                                                   \
	(KMEM_SEAL_SEAL | KMEM_SEAL_SHRINK | KMEM_SEAL_GROW | KMEM_SEAL_WRITE | \
	 KMEM_SEAL_FUTURE_WRITE)

/**
 * kmem_create() - make a memory object.
 * @k: the connection; NULL: the default one
 * @name: the new entry's name inside mem
 * @size_bytes: its size
 * @mode: permission bits, less the process's umask
 * @flags: KMEM_*
 *
 * Any thread. A free descriptor is made sure of before the object is made.
 *
 * Return: a read-write descriptor, the caller's; -1 with errno: EEXIST; EINVAL name, mode,
 * flags or size; ENAMETOOLONG; EDQUOT, ENOSPC limits; ENOMEM no (huge) pages; EACCES; EFBIG;
 * EMFILE; and those of conn_call().
 */
int kmem_create(struct kshared *k, const char *name, uint64_t size_bytes, mode_t mode,
		unsigned int flags)
{
	struct ctl_entry entry;
	struct call c;
	int r;

	cancel_guard();
	if ((flags & ~CREATE_FLAGS) || ((flags & KMEM_HUGE_2MB) && (flags & KMEM_HUGE_1GB)))
		return api_result(-EINVAL);
	if (size_bytes > INT64_MAX)
		return api_result(-EFBIG);
	call_init(&c, CTL_CREATE);
	r = call_set_path(&c, "mem", name);
	if (r == 0)
		r = call_set_mode(&c, mode);
	if (r < 0)
		return api_result(r);
	c.req.size = size_bytes;
	c.req.flags = flags;
	c.want_fd = true;
	c.reserve_fd = true;
	c.body = &entry;
	c.body_size = sizeof(entry);
	r = conn_call(k, &c);
	return api_result(r < 0 ? r : c.ret_fd);
}

/**
 * kmem_open() - open a memory object.
 * @k: the connection; NULL: the default one
 * @name: as for kmem_create()
 * @flags: access mode; O_CLOEXEC may be given and is always set
 *
 * Any thread.
 *
 * Return: a descriptor with an offset of its own, the caller's; -1 with errno: ENOENT; EACCES;
 * EPERM sealed against writing; EINVAL, ENAMETOOLONG; and those of conn_call().
 */
int kmem_open(struct kshared *k, const char *name, int flags)
{
	struct ctl_entry entry;
	struct call c;
	int r;

	cancel_guard();
	if ((flags & ~(O_ACCMODE | O_CLOEXEC)) || (flags & O_ACCMODE) == O_ACCMODE)
		return api_result(-EINVAL);
	call_init(&c, CTL_OPEN);
	r = call_set_path(&c, "mem", name);
	if (r < 0)
		return api_result(r);
	c.req.oflags = flags & O_ACCMODE;
	c.want_fd = true;
	c.body = &entry;
	c.body_size = sizeof(entry);
	r = conn_call(k, &c);
	return api_result(r < 0 ? r : c.ret_fd);
}

/**
 * kmem_seal() - add seals to an object.
 * @k: the connection; NULL: the default one
 * @name: as for kmem_create()
 * @seals: KMEM_SEAL_*
 *
 * Any thread.
 *
 * Return: 0; -1 with errno: ENOENT; EACCES; EINVAL no or unknown seals; EPERM sealed against
 * sealing; EBUSY a writable mapping exists; ENAMETOOLONG; and those of conn_call().
 */
int kmem_seal(struct kshared *k, const char *name, unsigned int seals)
{
	struct call c;
	int r;

	cancel_guard();
	if (!seals || (seals & ~SEALS))
		return api_result(-EINVAL);
	call_init(&c, CTL_SEAL);
	r = call_set_path(&c, "mem", name);
	c.req.flags = seals;
	return api_result(r < 0 ? r : conn_call(k, &c));
}

/**
 * kmem_remove() - remove a memory object.
 * @k: the connection; NULL: the default one
 * @name: as for kmem_create()
 *
 * Any thread.
 *
 * Return: 0; -1 with errno: ENOENT; EACCES; EPERM sticky directory, not the owner; EISDIR a
 * board; EINVAL, ENAMETOOLONG; and those of conn_call().
 */
int kmem_remove(struct kshared *k, const char *name)
{
	struct call c;
	int r;

	cancel_guard();
	call_init(&c, CTL_REMOVE);
	r = call_set_path(&c, "mem", name);
	return api_result(r < 0 ? r : conn_call(k, &c));
}
