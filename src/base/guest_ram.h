/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * guest_ram.h - where the RAM of a guest is in the QEMU that runs it.
 *
 * QEMU asks for every block of RAM that a child shall not have it (MADV_DONTFORK), and for nothing else; /proc/PID/smaps shows that. So nothing of
 * QEMU's own, its heap and its stacks, is ever taken for guest RAM, and no monitor is needed. What has been merged already still counts.
 */
#ifndef KSHARED_BASE_GUEST_RAM_H
#define KSHARED_BASE_GUEST_RAM_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/* What a block is made of; only the first can be merged. */
enum guest_ram_kind {
	GUEST_RAM_PRIVATE, /* private, anonymous memory, also where it is merged */
	GUEST_RAM_SHARED, /* share=on, memory-backend-memfd, memory-backend-shm */
	GUEST_RAM_FILE, /* a private mapping of a file: mem-path=, memory-backend-file */
	GUEST_RAM_HUGE, /* hugetlbfs */
	GUEST_RAM_LOCKED, /* -overcommit mem-lock=on */
};

/** struct guest_ram - one block. @backing: what its first mapping is of; empty: nothing */
struct guest_ram {
	uint64_t start;
	uint64_t end;
	enum guest_ram_kind kind;
	char backing[64];
};

/**
 * guest_ram_find() - the blocks of RAM of the QEMU that is process @pid, in rising order.
 * @ret: an array, to be freed
 * Return: how many; -ENOEXEC it is no QEMU; -ESRCH no such process; -EACCES it may not be looked into; -ENOMEM; -EPROTO.
 */
int guest_ram_find(pid_t pid, struct guest_ram **ret);

/** guest_ram_read() - the same from what /proc/PID/smaps says. Return: how many; -ENOMEM; -EPROTO; -errno of reading. */
int guest_ram_read(FILE *smaps, struct guest_ram **ret);

#endif
