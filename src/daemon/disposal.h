/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * disposal.h - the worker's closer.h: kernel workers of the ring close what its loop must not.
 */
#ifndef KSHARED_DAEMON_DISPOSAL_H
#define KSHARED_DAEMON_DISPOSAL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct disposal;
struct relay;
struct shm_closing;

/** disposal_new() - @keeper: the keeper's counts. Return: 0; -ENOMEM. */
int disposal_new(struct disposal **ret, struct relay *relay, const struct shm_closing *keeper);

/** disposal_close() - close @fd, which came from @uid, without waiting. @own_dev: files of this device are closed at once. */
void disposal_close(struct disposal *d, uid_t uid, int fd, uint64_t own_dev);

/**
 * disposal_barred() - shall no more descriptors be taken from this user?
 * So it is when many of his wait to be closed, and for a second none has been.
 */
bool disposal_barred(struct disposal *d, uid_t uid);

/** disposal_free() - @d may be NULL. What is not closed goes with the process. */
void disposal_free(struct disposal *d);

#endif
