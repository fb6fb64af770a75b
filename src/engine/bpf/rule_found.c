// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * rule_found.c - what becomes of a client whose shadow bytes were found changed: see rule.h. The kernel side has shut it out by then, and killed
 * it if it could; here it is told of, and what is left is done.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <base/cleanup.h>
#include <base/proc.h>

#include "engine/bpf/rule_impl.h"
#include "engine/bpf/rule.skel.h"

static void close_file_p(FILE **f)
{
	if (*f)
		fclose(*f);
}

int32_t rules_pid_of(int pidfd)
{
	cleanup(close_file_p) FILE *f = NULL;
	char path[64], line[128];
	int pid;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Pid: %d", &pid) == 1)
			return pid > 0 ? pid : 0;
	return 0;
}

bool rules_is_all_of(int pidfd, uint32_t uid)
{
	int32_t pid = pidfd < 0 ? 0 : rules_pid_of(pidfd);
	struct proc_info info;

	if (!pid || proc_read(pid, &info) < 0 || rules_pid_of(pidfd) != pid)
		return false;
	return info.uid[0] == uid && info.uid[1] == uid && info.uid[2] == uid;
}

/*
 * A process's name where the kernel side could not tell it. It may have ended, and its number be another's: then the pidfd
 * has none any more.
 */
static void name_of(int pidfd, char ret[16])
{
	cleanup(close_file_p) FILE *f = NULL;
	int32_t pid = pidfd < 0 ? 0 : rules_pid_of(pidfd);
	char path[64], name[16];

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	f = pid ? fopen(path, "re") : NULL;
	if (!f || !fgets(name, sizeof(name), f) || rules_pid_of(pidfd) != pid)
		return;
	name[strcspn(name, "\n")] = '\0';
	memcpy(ret, name, sizeof(name));
}

/*
 * Whom the kernel side has killed already is none the worse for it. Where it cannot, the process is looked at once more: what it has executed
 * is not known then, but whose it is.
 */
static enum rules_policy carry_out(const struct rules *r, const struct seat *s, bool spared)
{
	struct pollfd p = { .fd = s->pidfd, .events = POLLIN };
	struct rule_seat seat = { .slot = SLOT_OF(s->client), .client = s->client };
	int err;

	if (r->options.policy != RULES_KILL)
		return r->options.policy;
	err = spared || s->spared ? -EPERM : rules_run(r->bpf->progs.rule_end, &seat);
	if (err <= 0)
		return err ? RULES_REVOKE : RULES_KILL;
	if (!rules_is_all_of(s->pidfd, s->uid))
		return poll(&p, 1, 0) == 1 ? RULES_KILL : RULES_REVOKE;
	if (syscall(SYS_pidfd_send_signal, s->pidfd, SIGKILL, NULL, 0) && errno != ESRCH)
		return RULES_REVOKE;
	return RULES_KILL;
}

/* Where a byte of the two canaries is, from the beginning of the data. */
static int64_t place(int byte)
{
	return byte < PORT_CANARY ? byte - PORT_CANARY
				  : byte - PORT_CANARY + (int64_t)sizeof(struct port_rule);
}

static void measure(const struct rule_found *f, struct rules_event *ret)
{
	const char *byte = (const char *)f->diff;
	int first = 0, last = 2 * PORT_CANARY - 1;

	while (first < last && !byte[first])
		first++;
	while (last > first && !byte[last])
		last--;
	ret->offset = place(first);
	ret->bytes = place(last) - place(first) + 1;
}

int rules_on_found(void *user, void *data, size_t len)
{
	struct rules *r = user;
	const struct rule_found *f = data;
	struct rules_event e = { .client = f->client };
	const struct seat *s = &r->seat[SLOT_OF(f->client)];

	if (s->state != SEAT_USED || s->client != f->client)
		return 0;
	e.entry = s->entry;
	e.uid = s->uid;
	e.gid = s->gid;
	e.pid = s->pid;
	memcpy(e.comm, f->comm, sizeof(e.comm) - 1);
	if (!*e.comm)
		name_of(s->pidfd, e.comm);
	measure(f, &e);
	e.done = carry_out(r, s, f->spared);
	if (r->options.on_event)
		r->options.on_event(&e, r->options.user);
	return 0;
}
