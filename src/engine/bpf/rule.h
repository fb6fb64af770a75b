/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rule.h - rules: structures in the kernel that clients write, and that take effect on what a control group does.
 *
 * A rule is a resource (struct port_rule, rule_abi.h) of a cgroup2 directory: what new internet sockets in it may do. It has
 * a page as in wire/port.h, which the kernel side writes whenever it changes, and a program on the creation of sockets. A client
 * that may write has besides a pool of its own (wire/port_serve.h) and a bell:
 *
 *	pool (mapped by the client) --copied once--> shadow --checked--> scache (the state map) --> page; the program
 *
 * The bell is a BPF program that any process may run which has its descriptor: it is a hostile entry point. It does nothing unless it
 * is told the slot's token, it reads each word of the pool once, and everything it decides on is in memory that no program maps. Who
 * does not ring is looked at by a timer every period, while there is somebody who may write.
 *
 * What the limits are: RULES_MAX rules, RULES_CLIENTS_MAX clients that may write, RULES_CLIENTS_UID of one user. A pool counts until
 * nobody has it any more, mapped or as a descriptor, which may be later than rules_leave().
 *
 * What lives how long. A rule holds while its link is open anywhere, also if this process is gone. A successor that is given
 * link and state (rules_add()) puts its own program in the place of the one that is there, in one step, with the values that there were;
 * pages and pools are new, and whoever was joined to the predecessor can write no more. Descriptors: rules_add() and rules_join() keep
 * none of those that they are given; what they return is the caller's.
 *
 * It takes CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; not CAP_SYS_ADMIN. One thread. Nothing waits for a client.
 */
#ifndef KSHARED_ENGINE_BPF_RULE_H
#define KSHARED_ENGINE_BPF_RULE_H

#include <stdbool.h>
#include <stdint.h>
#include <wire/port_serve.h>

#define RULES_PERIOD_NS 1000000
#define RULES_MAX 128
#define RULES_CLIENTS_MAX 256
#define RULES_CLIENTS_UID 16

struct rules;

/* What becomes of a client whose shadow bytes were found changed; the write is never carried out. */
enum rules_policy {
	RULES_KILL, /* killed, within its own call if it rang; shut out at once */
	RULES_REVOKE, /* shut out */
	RULES_LOG, /* the shadow bytes are mended */
};

/**
 * struct rules_event - shadow bytes were found changed.
 * @client: as from rules_join(). Unless @done is RULES_LOG it is shut out already; rules_leave() is still the caller's to call,
 *          from within the callback if it likes
 * @uid, @gid, @pid: as they were given when it joined
 * @comm: the process's name at that moment
 * @offset: of the first byte changed, from the beginning of the pool's data; below 0: before it
 * @bytes: from the first to the last one changed
 * @done: what was done about it
 */
struct rules_event {
	uint64_t entry;
	uint64_t client;
	uint32_t uid;
	uint32_t gid;
	uint32_t pid;
	uint32_t bytes;
	int64_t offset;
	enum rules_policy done;
	char comm[16];
};

/**
 * struct rules_options - zeroed: the defaults.
 * @period_ns: how often shadow bytes and polled writes are looked at; 0: RULES_PERIOD_NS
 * @generation: goes into the pages
 * @on_event: called by rules_dispatch(); NULL: nobody is told
 * @in_place: for tests: values are checked where the client can change them, and must be found to be fooled
 * @no_kernel_kill: for tests: as on a kernel whose timers cannot send signals
 */
struct rules_options {
	uint64_t period_ns;
	uint64_t generation;
	enum rules_policy policy;
	void (*on_event)(const struct rules_event *e, void *user);
	void *user;
	bool in_place;
	bool no_kernel_kill;
};

/**
 * rules_new() - load what all rules share. There is no rule yet.
 * Return: 0; -EPERM capabilities are missing; -ENOTSUP the kernel cannot; -ENOMEM; -errno.
 */
int rules_new(struct rules **ret, const struct rules_options *o);

/** rules_free() - the rules hold on while somebody has their links; who is joined can write no more. @r: NULL is ignored. */
void rules_free(struct rules *r);

/**
 * rules_add() - a rule begins to hold, or is taken over.
 * @entry: a number of the caller's that no other rule has
 * @cgroup_fd: a directory of cgroup2; not looked at if there is a link
 * @link_fd, @state_fd: from rules_stored() of a predecessor; -1, -1: it is new, and allows everything
 * At no moment is the rule not in force: if this fails, what was there is as it was.
 * Return: 0; -EEXIST @entry is there; -ENOSPC RULES_MAX, or the kernel's own limit for one cgroup; -EBADF, -EINVAL no such directory;
 * -EPROTO the state is of another version (add it as a new one, then close the old link); -ENOLINK the cgroup is gone; -EPERM;
 * -ENOMEM; -errno.
 */
int rules_add(struct rules *r, uint64_t entry, int cgroup_fd, int link_fd, int state_fd);

/** rules_stored() - what a successor needs of a rule: link and state. Return: 0, and borrowed descriptors; -ENOENT. */
int rules_stored(const struct rules *r, uint64_t entry, int *ret_link_fd, int *ret_state_fd);

/**
 * rules_remove() - a rule holds no more, even if somebody else has its link. Its clients are shut out; they are to leave as ever. Pages
 * stay readable.
 * Return: 0; -ENOENT.
 */
int rules_remove(struct rules *r, uint64_t entry);

/** rules_count() - rules and joined writers: when both are 0 nothing is lost by rules_free(). */
unsigned int rules_count(const struct rules *r);

/**
 * rules_join() - somebody has opened a rule.
 * @access: 4 read, 2 write, as in struct port_open
 * @pidfd: the client's; -1: not known, so that it cannot be killed but from within its own call
 * @ret: result 0, and all else that the client is to be sent; magic too
 * @ret_fds: the page; if @access has 2 also pool and bell. The caller's, to be sent and closed: while it has the pool open, the
 *           slot is not used again
 * @ret_nr: how many: 1 or 3
 * @ret_client: for rules_leave(); 0: a reader, who needs not leave
 * Return: 0; -ENOENT; -EDQUOT RULES_CLIENTS_UID; -EUSERS RULES_CLIENTS_MAX; -ESRCH the process has ended; -EMFILE; -ENOMEM; -errno.
 */
int rules_join(struct rules *r, uint64_t entry, uint32_t uid, uint32_t gid, uint32_t pid, int pidfd,
	       unsigned int access, struct port_hello *ret, int ret_fds[3], unsigned int *ret_nr,
	       uint64_t *ret_client);

/** rules_leave() - a client has gone: when this returns, nothing that it does has any effect. @client: 0, unknown: ignored. */
void rules_leave(struct rules *r, uint64_t client);

/** rules_fd() - readable when rules_dispatch() has something to do. Return: borrowed. */
int rules_fd(const struct rules *r);

/** rules_dispatch() - tell of what was found, and kill who is to be killed and was not. Return: how many events; -errno. */
int rules_dispatch(struct rules *r);

#endif
