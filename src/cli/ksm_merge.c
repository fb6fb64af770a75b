// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ksm_merge.c - `kshared ksm merge` and `kshared ksm unmerge`.
 *
 * What is equal in two processes is found when the second one is looked at, and the first one has its part replaced when it is looked at again: so
 * with several processes all but the last are gone over twice.
 */
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/guest_ram.h"
#include "cli/ksm.h"
#include "cli/top.h"

#define PIDS_MAX 1024
#define WHOLE_END (1ull << 47) /* of what a process can have */

static const struct hint merge_hints[] = {
	{ EACCES,
	  "its memory was not made for merging by ksm_alloc(), and programs may rely on what merging changes",
	  "use --guest-ram for a guest, or --force after reading kshared-ksm(7)" },
	{ EPERM, "you may not trace this process, or watch its page faults",
	  "become its user, or root; see kshared-ksm(7)" },
	{ ESRCH, "the process has ended", NULL },
	{ EBUSY, "it is being traced, or merged by another folder's merger",
	  "end the debugger, or try again" },
	{ EAGAIN, "it executed another program, is stopped, or has too many threads", "try again" },
	{ EFAULT, "nothing is mapped there", "/proc/PID/maps shows what is" },
	{ EINVAL, "the addresses are not those of pages", "give multiples of 4096" },
	{ ENOMEM, "there is not enough memory", NULL },
	{ EOPNOTSUPP,
	  "it is a 32-bit program, or under a seccomp filter, or this kernel cannot move pages",
	  "kshared-ksm(7) tells what can be merged" },
	{ ECONNREFUSED, "the merger does not answer", "see the daemon's log" },
	{ 0 },
};

/** struct order - what is asked for. @addr, @end: 0, WHOLE_END: all of it */
struct order {
	bool unmerge;
	bool json;
	bool guest;
	unsigned int flags;
	uint64_t addr;
	uint64_t end;
	const char *name;
	pid_t pid[PIDS_MAX];
	unsigned int nr_pids;
};

/** struct range - of a process. @nr: of them */
struct ranges {
	struct {
		uint64_t start;
		uint64_t end;
	} * range;
	size_t nr;
};

/* "7f00-7f80", hexadecimal, as /proc/PID/maps has it. */
static int parse_range(const char *text, struct order *o)
{
	char *end;

	errno = 0;
	o->addr = strtoull(text, &end, 16);
	if (errno || end == text || *end != '-' || strchr(text, 'x') || *text == '-')
		return -EINVAL;
	text = end + 1;
	o->end = strtoull(text, &end, 16);
	return errno || end == text || *end || o->end <= o->addr || *text == '-' ? -EINVAL : 0;
}

static int parse(struct order *o, int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "dry-run", .has_arg = no_argument, .val = 'n' },
		{ .name = "force", .has_arg = no_argument, .val = 'f' },
		{ .name = "guest-ram", .has_arg = no_argument, .val = 'g' },
		{ .name = "json", .has_arg = no_argument, .val = 'j' },
		{ .name = "pid", .has_arg = required_argument, .val = 'p' },
		{ .name = "range", .has_arg = required_argument, .val = 'r' },
		{ 0 },
	};
	uint64_t pid;
	int c;

	*o = (struct order){ .unmerge = strcmp(argv[0], "unmerge") == 0, .end = WHOLE_END };
	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		switch (c) {
		case 'p':
			if (cli_parse_uint(optarg, INT_MAX, &pid) < 0 || !pid)
				return cli_usage(KSM_NAME, "'%s' is no process number", optarg);
			if (o->nr_pids == PIDS_MAX)
				return cli_usage(KSM_NAME, "%u processes at most", PIDS_MAX);
			o->pid[o->nr_pids++] = (pid_t)pid;
			break;
		case 'r':
			if (parse_range(optarg, o) < 0)
				return cli_usage(KSM_NAME,
						 "'%s' is no range START-END in hexadecimal",
						 optarg);
			break;
		case 'j':
			o->json = true;
			break;
		case 'n':
			o->flags |= KSM_DRY_RUN;
			break;
		case 'f':
			o->flags |= KSM_FORCE;
			break;
		case 'g':
			o->guest = true;
			o->flags |= KSM_GUEST_RAM;
			break;
		default:
			return cli_bad_option(KSM_NAME, c, argv);
		}
	}
	if (argc - optind != 1)
		return cli_usage(KSM_NAME, "%s takes one NAME", argv[0]);
	if (o->nr_pids == 0)
		return cli_usage(KSM_NAME, "%s needs --pid PID", argv[0]);
	if (o->unmerge && (o->flags & ~KSM_GUEST_RAM))
		return cli_usage(KSM_NAME, "unmerge takes neither --dry-run nor --force");
	if (o->guest && o->end != WHOLE_END)
		return cli_usage(KSM_NAME, "--guest-ram finds the range itself; leave --range out");
	o->name = argv[optind];
	return CLI_OK;
}

/* What is wrong with a block of a guest's RAM, and what to change. */
static void say_block(const char *who, const struct guest_ram *b)
{
	static const char *const why[] = {
		[GUEST_RAM_SHARED] =
			"shared memory, which cannot be merged; start QEMU without share=on and memory-backend-memfd (virtio-fs and vhost-user need them: such a guest cannot be merged)",
		[GUEST_RAM_FILE] =
			"a file's, which cannot be merged; start QEMU without mem-path= and memory-backend-file",
		[GUEST_RAM_HUGE] =
			"huge pages of hugetlbfs, which cannot be merged; start QEMU without them",
		[GUEST_RAM_LOCKED] =
			"locked, which cannot be merged; start QEMU without -overcommit mem-lock=on",
	};
	char size[16];

	top_size_text(b->end - b->start, size, sizeof(size));
	cli_say("%s: %s of guest RAM at %" PRIx64 " is %s%s%s%s", who, size, b->start, why[b->kind],
		*b->backing ? " (" : "", b->backing, *b->backing ? ")" : "");
}

/* The private RAM of a guest. Return: CLI_OK, with at least one; CLI_FAILED after a sentence. */
static int find_guest(const char *who, pid_t pid, struct ranges *ret)
{
	static const struct hint hints[] = {
		{ ENOEXEC, "this is no QEMU", "give the number of a qemu-system process" },
		{ ESRCH, "there is no such process", "choose one that runs" },
		{ EACCES, "you may not look into this process", "become its user, or root" },
		{ 0 },
	};
	cleanup_free struct guest_ram *block = NULL;
	int nr = guest_ram_find(pid, &block);

	if (nr < 0)
		return cli_refuse(who, -nr, hints);
	ret->range = calloc((size_t)nr + 1, sizeof(*ret->range));
	if (!ret->range)
		return cli_refuse(who, ENOMEM, NULL);
	for (int i = 0; i < nr; i++) {
		if (block[i].kind != GUEST_RAM_PRIVATE) {
			say_block(who, &block[i]);
			continue;
		}
		ret->range[ret->nr].start = block[i].start;
		ret->range[ret->nr++].end = block[i].end;
	}
	if (ret->nr)
		return CLI_OK;
	cli_say("%s: nothing of its guest's RAM can be merged; see kshared-ksm(7)", who);
	return CLI_FAILED;
}

static void add(struct ksm_result *sum, const struct ksm_result *one)
{
	sum->scanned += one->scanned;
	sum->merged += one->merged;
	sum->zero += one->zero;
	sum->unique += one->unique;
	sum->skipped_changed += one->skipped_changed;
	sum->skipped_pinned += one->skipped_pinned;
	sum->skipped_mapping += one->skipped_mapping;
	sum->skipped_limit += one->skipped_limit;
	sum->saved_bytes += one->saved_bytes;
	sum->elapsed_ns += one->elapsed_ns;
}

static int do_range(const struct order *o, int fd, int pidfd, uint64_t start, uint64_t end,
		    struct ksm_result *sum)
{
	struct ksm_result result;
	void *addr = (void *)(uintptr_t)start;
	int r;

	if (o->unmerge)
		return ksm_unmerge_ex(fd, pidfd, addr, end - start, 0);
	r = ksm_merge_ex(fd, pidfd, addr, end - start, o->flags, &result);
	add(sum, &result);
	return r;
}

/* One process. Return: CLI_OK; CLI_FAILED after a sentence. */
static int do_process(const struct order *o, int fd, pid_t pid, struct ksm_result *sum)
{
	struct ranges ranges = { 0 };
	char who[32];
	int r = CLI_OK;

	snprintf(who, sizeof(who), "process %d", (int)pid);
	cleanup_fd int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0)
		return cli_refuse(who, errno == EINVAL ? ESRCH : errno, merge_hints);
	if (o->guest) {
		r = find_guest(who, pid, &ranges);
	} else {
		ranges.range = calloc(1, sizeof(*ranges.range));
		if (!ranges.range)
			return cli_refuse(who, ENOMEM, NULL);
		ranges.range[0].start = o->addr;
		ranges.range[0].end = o->end;
		ranges.nr = 1;
	}
	for (size_t i = 0; i < ranges.nr && r == CLI_OK; i++) {
		struct ksm_watch *watch = ksm_watch_start(fd, who);
		int err = 0;

		if (do_range(o, fd, pidfd, ranges.range[i].start, ranges.range[i].end, sum) < 0)
			err = errno;
		ksm_watch_end(watch);
		/* A small block of a guest's, of which nothing can be merged, is none that was named wrongly. */
		if (err && !(err == EACCES && o->guest))
			r = cli_refuse(who, err, merge_hints);
	}
	free(ranges.range);
	return r;
}

static json_t *as_json(const struct ksm_result *r)
{
	json_t *object = json_object();

	cli_json_set(object, "scanned", cli_json_int(r->scanned));
	cli_json_set(object, "merged", cli_json_int(r->merged));
	cli_json_set(object, "zero", cli_json_int(r->zero));
	cli_json_set(object, "unique", cli_json_int(r->unique));
	cli_json_set(object, "skipped_changed", cli_json_int(r->skipped_changed));
	cli_json_set(object, "skipped_pinned", cli_json_int(r->skipped_pinned));
	cli_json_set(object, "skipped_mapping", cli_json_int(r->skipped_mapping));
	cli_json_set(object, "skipped_limit", cli_json_int(r->skipped_limit));
	cli_json_set(object, "saved_bytes", json_integer((json_int_t)r->saved_bytes));
	cli_json_set(object, "elapsed_ns", cli_json_int(r->elapsed_ns));
	return object;
}

static void print_text(const struct order *o, pid_t pid, const struct ksm_result *r)
{
	uint64_t skipped =
		r->skipped_changed + r->skipped_pinned + r->skipped_mapping + r->skipped_limit;
	char looked[16], saved[16];

	top_size_text(r->scanned * 4096, looked, sizeof(looked));
	top_size_text((uint64_t)(r->saved_bytes < 0 ? -r->saved_bytes : r->saved_bytes), saved,
		      sizeof(saved));
	printf("%d: %s looked at in %.2f s, %s%s %ssaved: %" PRIu64 " pages %smerged, %" PRIu64
	       " of them zeros, %" PRIu64 " unique",
	       (int)pid, looked, (double)r->elapsed_ns / 1e9, r->saved_bytes < 0 ? "-" : "", saved,
	       (o->flags & KSM_DRY_RUN) ? "would be " : "", r->merged,
	       (o->flags & KSM_DRY_RUN) ? "would be " : "", r->zero, r->unique);
	if (skipped)
		printf(", skipped %" PRIu64 " (changed %" PRIu64 ", pinned %" PRIu64
		       ", mapping %" PRIu64 ", limit %" PRIu64 ")",
		       skipped, r->skipped_changed, r->skipped_pinned, r->skipped_mapping,
		       r->skipped_limit);
	putchar('\n');
}

static int report(const struct order *o, const struct ksm_result *results, int status)
{
	json_t *object, *array;

	if (!o->json) {
		for (unsigned int i = 0; i < o->nr_pids && !o->unmerge; i++)
			if (results[i].elapsed_ns)
				print_text(o, o->pid[i], &results[i]);
		return cli_finish(status);
	}
	object = json_object();
	array = json_array();
	cli_json_set(object, "partition", cli_json_text(o->name));
	cli_json_set(object, "dry_run", json_boolean(o->flags & KSM_DRY_RUN));
	for (unsigned int i = 0; i < o->nr_pids && !o->unmerge; i++) {
		json_t *one = as_json(&results[i]);

		cli_json_set(one, "pid", cli_json_int((uint64_t)o->pid[i]));
		json_array_append_new(array, one);
	}
	cli_json_set(object, "processes", array);
	return cli_json_print(object) == CLI_OK ? status : CLI_FAILED;
}

int ksm_cmd_merge(const struct cli *cli, int argc, char **argv)
{
	cleanup_free struct order *o = calloc(1, sizeof(*o));
	cleanup_free struct ksm_result *results = calloc(PIDS_MAX, sizeof(*results));
	int status = o && results ? parse(o, argc, argv) : CLI_FAILED;

	if (status != CLI_OK)
		return status;
	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	cleanup_fd int fd = ksm_open_at(k, o->name, KSM_SYNC, 0);
	if (fd < 0)
		return cli_refuse(*o->name ? o->name : "''", errno, ksm_hints);
	for (unsigned int i = 0; i < o->nr_pids; i++)
		if (do_process(o, fd, o->pid[i], &results[i]) != CLI_OK)
			status = CLI_FAILED;
	/* Once more, for what the later ones have in common with them. */
	for (unsigned int i = 0; status == CLI_OK && i + 1 < o->nr_pids; i++)
		if (!o->unmerge && !(o->flags & KSM_DRY_RUN) &&
		    do_process(o, fd, o->pid[i], &results[i]) != CLI_OK)
			status = CLI_FAILED;
	return report(o, results, status);
}
