// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * merge_tool.c - drives the engine of merging alone: tests/cases/ksm. One partition for each name, as long as it runs.
 *
 * Reads lines and answers each with one:
 *
 *	merge PARTITION PID ADDRESS BYTES   all numbers are decimal
 *	unmerge PARTITION PID ADDRESS BYTES
 *	guest PARTITION PID                 all RAM of the guest that is this QEMU
 *	all PARTITION PID                   all memory of a process that can be merged
 *
 *	ok SCANNED MERGED ZERO UNIQUE CHANGED PINNED MAPPING LIMIT SAVED-BYTES
 *	error ERRNO WHAT
 */
#include <base/guest_ram.h>
#include <errno.h>
#include <inttypes.h>
#include <kind/ksm_remote.h>
#include <engine/merge/partition.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PARTITIONS 8
#define USER_END (1ull << 47)

static struct {
	char name[32];
	struct partition *part;
} partitions[PARTITIONS];

static struct partition *partition_called(const char *name)
{
	for (size_t i = 0; i < PARTITIONS; i++) {
		if (!partitions[i].part) {
			snprintf(partitions[i].name, sizeof(partitions[i].name), "%s", name);
			partitions[i].part = partition_new(NULL);
		}
		if (strcmp(partitions[i].name, name) == 0)
			return partitions[i].part;
	}
	return NULL;
}

static void add(struct merge_result *sum, const struct merge_result *more)
{
	sum->scanned += more->scanned;
	sum->merged += more->merged;
	sum->zero += more->zero;
	sum->unique += more->unique;
	sum->skipped_changed += more->skipped_changed;
	sum->skipped_pinned += more->skipped_pinned;
	sum->skipped_mapping += more->skipped_mapping;
	sum->skipped_limit += more->skipped_limit;
	sum->saved_bytes += more->saved_bytes;
}

static int on_range(struct partition *part, const struct merge_target *target, const char *verb,
		    uint64_t addr, uint64_t size, struct merge_result *sum)
{
	struct merge_result one = { 0 };
	int r = strcmp(verb, "unmerge") == 0 ? partition_unmerge(part, target, addr, size, &one)
					     : partition_merge(part, target, addr, size, 0, &one);

	add(sum, &one);
	return r;
}

static int on_guest(struct partition *part, const struct merge_target *target,
		    struct merge_result *sum)
{
	struct guest_ram *ram = NULL;
	int nr = guest_ram_find(target->pid, &ram), r = nr < 0 ? nr : 0;

	for (int i = 0; r == 0 && i < nr; i++) {
		if (ram[i].kind != GUEST_RAM_PRIVATE)
			r = -EMEDIUMTYPE;
		else
			r = on_range(part, target, "merge", ram[i].start, ram[i].end - ram[i].start,
				     sum);
	}
	free(ram);
	return r;
}

static int carry_out(const char *verb, const char *name, pid_t pid, uint64_t addr, uint64_t size,
		     struct merge_result *sum)
{
	struct partition *part = partition_called(name);
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), r;
	struct ksm_remote remote;

	if (!part || pidfd < 0)
		return pidfd < 0 ? -errno : -ENOSPC;
	r = ksm_remote_open(&remote, pid, pidfd, -1, false);
	if (r == 0) {
		if (strcmp(verb, "guest") == 0)
			r = on_guest(part, &remote.target, sum);
		else if (strcmp(verb, "all") == 0)
			r = on_range(part, &remote.target, verb, 0, USER_END, sum);
		else
			r = on_range(part, &remote.target, verb, addr, size, sum);
		ksm_remote_close(&remote);
	}
	close(pidfd);
	return r;
}

int main(void)
{
	char line[256], verb[16], name[32];
	uint64_t addr = 0, size = 0;
	int pid;

	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof(line), stdin)) {
		struct merge_result sum = { 0 };
		int r;

		if (sscanf(line, "%15s %31s %d %" SCNu64 " %" SCNu64, verb, name, &pid, &addr,
			   &size) < 3)
			return 2;
		r = carry_out(verb, name, pid, addr, size, &sum);
		if (r < 0)
			printf("error %d %s\n", -r, strerror(-r));
		else
			printf("ok %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64
			       " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRId64 "\n",
			       sum.scanned, sum.merged, sum.zero, sum.unique, sum.skipped_changed,
			       sum.skipped_pinned, sum.skipped_mapping, sum.skipped_limit,
			       sum.saved_bytes);
	}
	return 0;
}
