/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * classify.h - what a descriptor is, found out without any call that could wait for its owner.
 */
#ifndef KSHARED_ENGINE_CLASSIFY_H
#define KSHARED_ENGINE_CLASSIFY_H

#include <stdbool.h>
#include <stdint.h>

/* How a descriptor can be served to somebody who opens it through the mount. */
enum fd_class {
	FD_FILE = 1, /* bytes on a plain file system: offsets, passthrough */
	FD_BLOCK, /* offsets, no passthrough */
	FD_STREAM, /* read, write, poll */
	FD_OPAQUE, /* only as itself, through the library */
};

/**
 * struct fd_facts - about one descriptor.
 * @what: "socket", "pipe", "fifo", "tty", "file", "memfd", "directory", "block", "device", or an anonymous
 *        inode's own name ("eventfd", "timerfd", "inotify", "eventpoll", ...), cut to 15 bytes
 * @class: how it can be served
 * @access: O_RDONLY, O_WRONLY, O_RDWR
 * @append: O_APPEND is set
 * @reopen: /proc/self/fd/N can be opened again
 * @slow: its file system may wait for a network or for a process; or cannot be told
 * @nowait: RWF_NOWAIT is known to work both ways
 * @sealable: a memfd that can be given more seals
 * @write_sealed: a memfd that is sealed against (future) writing
 * @poll_waits: polling it may wait for a lock that its holders can keep: terminals, sockets of unusual families
 * @dev: device number of its file system
 */
struct fd_facts {
	char what[16];
	uint8_t class;
	uint8_t access;
	uint8_t append;
	uint8_t reopen;
	uint8_t slow;
	uint8_t nowait;
	uint8_t sealable;
	uint8_t write_sealed;
	uint8_t poll_waits;
	uint64_t dev;
};

/**
 * classify_fd() - look at a descriptor.
 * Return: 0; -EBADF it is none, or O_PATH.
 */
int classify_fd(int fd, struct fd_facts *ret);

/**
 * close_may_wait() - may close(2) of this descriptor last, or hang for ever, so that only a thread may do it?
 * No: a memfd of at most 16 MiB; a file of @own_dev (0: none). All else can: see daemon/closer.h.
 */
bool close_may_wait(int fd, uint64_t own_dev);

/** cut_linger() - let a socket that is to linger do so for a second at most. May itself wait, for the socket's lock. */
void cut_linger(int fd);

#endif
