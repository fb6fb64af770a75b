// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * doctor.c - `kshared doctor [--json]`: what this kernel and this user have, what it is used
 * for, what more would give.
 *
 * Each line of the table is one thing and the function that tries it; nothing is guessed from a
 * version. What only the daemon can learn (what it agreed on with the kernel's FUSE) is asked
 * of the daemon if the folder is up. A probe leaves nothing behind. Probes that need a number
 * of a new system call bring it themselves, since the machine that builds may be older than the
 * one that runs.
 */
#include <fcntl.h>
#include <limits.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <kshared/port.h>

#include "cli/cli.h"
#include "cli/json.h"

#define NAME "doctor"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif
#ifndef __NR_landlock_create_ruleset
#define __NR_landlock_create_ruleset 444
#endif
#ifndef __NR_mseal
#define __NR_mseal 462
#endif
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
#define LANDLOCK_VERSION (1U << 0)
#define UFFD_USER_MODE 1
#define URING_PARAMS_SIZE 120

enum state { STATE_NO, STATE_YES, STATE_UNKNOWN };

/* What probes see: the folder, and its status if it is up. */
struct ground {
	struct kshared *k;
	struct kshared_status status;
	bool up;
};

struct finding {
	enum state state;
	char detail[160];
};

/**
 * struct probe - one line.
 * @name: of the thing
 * @used_for: what it is used for
 * @gain: what having it would give; NULL: it can only be had or not
 * @needed: nothing stands in for it
 * @feature: bit of kshared_status.features, for those with @run NULL
 * @run: tries it; fills in the state, and a detail if there is one
 * @ask: the same, if it has to be asked of the folder, which is up
 */
struct probe {
	const char *name;
	const char *used_for;
	const char *gain;
	bool needed;
	uint32_t feature;
	void (*run)(struct finding *f);
	void (*ask)(struct finding *f, struct kshared *k);
};

__attribute__((format(printf, 3, 4))) static void found(struct finding *f, enum state state,
							const char *fmt, ...)
{
	va_list ap;

	f->state = state;
	va_start(ap, fmt);
	vsnprintf(f->detail, sizeof(f->detail), fmt, ap);
	va_end(ap);
}

/* @r of a system call: yes if it is not negative, else no and why. */
static void found_call(struct finding *f, long r)
{
	if (r >= 0)
		found(f, STATE_YES, "%s", "");
	else
		found(f, STATE_NO, "%s", strerror(errno));
}

/* The first line of a file of /proc or /sys. */
static int read_line(const char *path, char *ret, size_t size)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, ret, size - 1);
	if (n < 0)
		return -errno;
	ret[n] = '\0';
	ret[strcspn(ret, "\n")] = '\0';
	return 0;
}

static void probe_fuse(struct finding *f)
{
	cleanup_fd int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	found_call(f, fd);
}

static void probe_fusermount(struct finding *f)
{
	const char *env = getenv("PATH");
	cleanup_free char *path = strdup(env ? env : "/usr/bin:/bin");
	char *save = NULL, file[PATH_MAX];
	struct stat st;

	for (char *dir = path ? strtok_r(path, ":", &save) : NULL; dir;
	     dir = strtok_r(NULL, ":", &save)) {
		snprintf(file, sizeof(file), "%s/fusermount3", dir);
		if (stat(file, &st) < 0)
			continue;
		if (st.st_mode & S_ISUID)
			found(f, STATE_YES, "%.150s", file);
		else
			found(f, STATE_NO, "%.120s is not set-user-ID", file);
		return;
	}
	found(f, STATE_NO, "not in $PATH");
}

static void probe_pidfd_getfd(struct finding *f)
{
	cleanup_fd int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	cleanup_fd int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	cleanup_fd int fd = -1;

	if (pidfd >= 0)
		fd = (int)syscall(SYS_pidfd_getfd, pidfd, null, 0);
	found_call(f, fd);
}

static void probe_pidfd_thread(struct finding *f)
{
	cleanup_fd int pidfd = (int)syscall(SYS_pidfd_open, gettid(), PIDFD_THREAD);

	found_call(f, pidfd);
}

static void probe_peer_pidfd(struct finding *f)
{
	cleanup_fd int pidfd = -1;
	socklen_t len = sizeof(pidfd);
	int sock[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock) < 0) {
		found_call(f, -1);
		return;
	}
	r = getsockopt(sock[0], SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len);
	found_call(f, r);
	close(sock[0]);
	close(sock[1]);
}

static void probe_memfd(struct finding *f)
{
	cleanup_fd int fd = memfd_create("doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		found_call(f, fd);
	else
		found_call(
			f,
			fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE));
}

static void probe_noexec(struct finding *f)
{
	cleanup_fd int fd = memfd_create("doctor", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
	char line[32];

	found_call(f, fd);
	if (fd >= 0 && read_line("/proc/sys/vm/memfd_noexec", line, sizeof(line)) == 0)
		found(f, STATE_YES, "vm.memfd_noexec = %s", line);
}

static void probe_huge(struct finding *f)
{
	static const char *const dirs[] = { "hugepages-2048kB", "hugepages-1048576kB" };
	char path[128], nr[32], spare[32], *p = f->detail;
	size_t left = sizeof(f->detail);

	f->state = STATE_NO;
	for (size_t i = 0; i < 2; i++) {
		int n;

		snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/%s/nr_hugepages", dirs[i]);
		if (read_line(path, nr, sizeof(nr)) < 0)
			continue;
		snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/%s/free_hugepages", dirs[i]);
		if (read_line(path, spare, sizeof(spare)) < 0)
			continue;
		if (strcmp(nr, "0") != 0)
			f->state = STATE_YES;
		n = snprintf(p, left, "%s%s: %s of %s free", i && p != f->detail ? ", " : "",
			     i ? "1G" : "2M", spare, nr);
		p += n;
		left -= (size_t)n;
	}
}

static void probe_uring(struct finding *f)
{
	char params[URING_PARAMS_SIZE] = { 0 }, line[32] = "";
	cleanup_fd int fd = (int)syscall(SYS_io_uring_setup, 1, params);
	int err = errno;

	read_line("/proc/sys/kernel/io_uring_disabled", line, sizeof(line));
	if (fd >= 0)
		found(f, STATE_YES, "%s", "");
	else
		found(f, STATE_NO, "%s%s%s", strerror(err),
		      *line ? ", kernel.io_uring_disabled = " : "", line);
}

static void probe_userfaultfd(struct finding *f)
{
	cleanup_fd int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE);

	found_call(f, fd);
}

static void probe_btf(struct finding *f)
{
	found_call(f, access("/sys/kernel/btf/vmlinux", R_OK));
}

static void probe_ksm(struct finding *f)
{
	char line[32];
	int r = read_line("/sys/kernel/mm/ksm/run", line, sizeof(line));

	if (r < 0)
		found(f, STATE_NO, "%s", strerror(-r));
	else
		found(f, STATE_YES, "/sys/kernel/mm/ksm/run = %s", line);
}

static void probe_yama(struct finding *f)
{
	char line[32];

	if (read_line("/proc/sys/kernel/yama/ptrace_scope", line, sizeof(line)) < 0)
		found(f, STATE_YES, "no Yama here");
	else
		found(f, strcmp(line, "0") == 0 ? STATE_YES : STATE_NO,
		      "kernel.yama.ptrace_scope = %s", line);
}

static void probe_nofile(struct finding *f)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0) {
		found_call(f, -1);
		return;
	}
	found(f, limit.rlim_max >= 65536 ? STATE_YES : STATE_NO, "%llu now, up to %llu",
	      (unsigned long long)limit.rlim_cur, (unsigned long long)limit.rlim_max);
}

static void probe_seccomp(struct finding *f)
{
	uint32_t action = SECCOMP_RET_KILL_PROCESS;

	found_call(f, syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action));
}

static void probe_landlock(struct finding *f)
{
	long abi = syscall(__NR_landlock_create_ruleset, NULL, 0, LANDLOCK_VERSION);

	found_call(f, abi);
	if (abi >= 0)
		found(f, STATE_YES, "ABI %ld", abi);
}

static void probe_mseal(struct finding *f)
{
	/* Nothing at all is sealed: what is, stays for ever. */
	found_call(f, syscall(__NR_mseal, 0, 0, 0));
}

static void probe_pkey(struct finding *f)
{
	long key = syscall(SYS_pkey_alloc, 0, 0);

	found_call(f, key);
	if (key >= 0)
		syscall(SYS_pkey_free, key);
}

/* Who publishes kernel structures, is learnt by opening one; who does that needs nobody's permission. */
static void ask_publisher(struct finding *f, struct kshared *k)
{
	struct kport *p = kport_open(k, "load", O_RDONLY, 0);
	struct kport_info info;

	if (!p || kport_info(p, &info) < 0)
		found(f, STATE_NO, "port/load: %s", strerror(errno));
	else if (info.source == KPORT_SOURCE_BPF)
		found(f, STATE_YES, "every %g ms", (double)info.period_ns / 1e6);
	else
		found(f, STATE_NO, "by the sampler, every %g ms", (double)info.period_ns / 1e6);
	kport_close(p);
}

static const struct probe probes[] = {
	{ .name = "/dev/fuse",
	  .used_for = "the mount, for programs that know nothing of the library",
	  .gain = "load the module fuse, or let this user open the device",
	  .run = probe_fuse },
	{ .name = "fusermount3",
	  .used_for = "mounting by users who are not root",
	  .gain = "install the package fuse3",
	  .run = probe_fusermount },
	{ .name = "FUSE passthrough",
	  .used_for = "reads, writes and mappings of files without the daemon",
	  .gain = "native speed; the kernel needs FUSE_PASSTHROUGH and the daemon CAP_SYS_ADMIN",
	  .feature = KSHARED_FEATURE_PASSTHROUGH },
	{ .name = "FUSE resend",
	  .used_for = "answering calls in flight when the worker is replaced",
	  .gain = "no failed call when the worker dies",
	  .feature = KSHARED_FEATURE_RESEND },
	{ .name = "FUSE epoch",
	  .used_for = "names cached by the kernel",
	  .gain = "faster lookups",
	  .feature = KSHARED_FEATURE_EPOCH },
	{ .name = "daemon's io_uring",
	  .used_for = "proxied I/O that is done exactly once when the worker dies",
	  .gain = "no byte lost or repeated when the worker dies",
	  .feature = KSHARED_FEATURE_IO_URING },
	{ .name = "posting by number",
	  .used_for = "descriptors of users other than the daemon's, posted by a write",
	  .gain = "run the daemon as root; until then they use the library",
	  .feature = KSHARED_FEATURE_PTRACE },
	{ .name = "worker's sandbox",
	  .used_for = "a seccomp filter around what reads requests",
	  .gain = "less harm from a fault in the daemon",
	  .feature = KSHARED_FEATURE_SANDBOX },
	{ .name = "pidfd_getfd",
	  .used_for = "posting a descriptor by its number",
	  .gain = "posting by a plain write; until then the library posts",
	  .run = probe_pidfd_getfd },
	{ .name = "PIDFD_THREAD",
	  .used_for = "posting from a thread that has its own descriptors",
	  .gain = "no refusal of threads with an unshared table",
	  .run = probe_pidfd_thread },
	{ .name = "SO_PEERPIDFD",
	  .used_for = "root's passing over modes on the control socket",
	  .gain = "root may do to others' entries by the library what he may through the mount",
	  .run = probe_peer_pidfd },
	{ .name = "memfd seals",
	  .used_for = "memory objects that cannot shrink under a reader",
	  .gain = "memory objects",
	  .needed = true,
	  .run = probe_memfd },
	{ .name = "MFD_NOEXEC_SEAL",
	  .used_for = "memory objects that can never be executed",
	  .gain = "one way less to run code from shared memory",
	  .run = probe_noexec },
	{ .name = "huge pages",
	  .used_for = "memory objects made with --huge",
	  .gain = "fewer TLB misses; write /sys/kernel/mm/hugepages/*/nr_hugepages",
	  .run = probe_huge },
	{ .name = "this user's io_uring",
	  .used_for = "the same by a daemon that this user starts",
	  .gain = "set kernel.io_uring_disabled to 0",
	  .run = probe_uring },
	{ .name = "seccomp",
	  .used_for = "the worker's sandbox",
	  .gain = "less harm from a fault in the daemon",
	  .run = probe_seccomp },
	{ .name = "ports by BPF",
	  .used_for = "kernel structures that are published from within the kernel, and rules",
	  .gain = "values of each ms, and rules; for a daemon of root's, on a kernel with BPF and BTF",
	  .ask = ask_publisher },
	{ .name = "BTF",
	  .used_for = "BPF programs that find the fields of this kernel's structures",
	  .gain = "ports by BPF; the kernel needs CONFIG_DEBUG_INFO_BTF",
	  .run = probe_btf },
	{ .name = "mseal",
	  .used_for = "guard pages around a port's pool that stay what they are",
	  .gain = "one way less to write past a pool unseen; Linux 6.10",
	  .run = probe_mseal },
	{ .name = "protection keys",
	  .used_for = "pools that stray stores cannot reach (KPORT_PKEY)",
	  .gain = NULL,
	  .run = probe_pkey },
	{ .name = "Yama scope 0",
	  .used_for = "a user's daemon taking descriptors of the same user's processes",
	  .gain = "posting by number without root; until then the library posts",
	  .run = probe_yama },
	{ .name = "65536 descriptors",
	  .used_for = "each entry holds one in the daemon",
	  .gain = "more entries; raise the hard limit of open files",
	  .run = probe_nofile },
	{ .name = "Landlock",
	  .used_for = "nothing in this version",
	  .gain = NULL,
	  .run = probe_landlock },
	{ .name = "userfaultfd",
	  .used_for = "nothing in this version",
	  .gain = NULL,
	  .run = probe_userfaultfd },
	{ .name = "KSM", .used_for = "nothing in this version", .gain = NULL, .run = probe_ksm },
};

#define NR_PROBES (sizeof(probes) / sizeof(probes[0]))

static void examine(const struct probe *p, const struct ground *ground, struct finding *f)
{
	*f = (struct finding){ .state = STATE_UNKNOWN };
	if (p->run)
		p->run(f);
	else if (!ground->up)
		found(f, STATE_UNKNOWN, "known when the folder is up");
	else if (p->ask)
		p->ask(f, ground->k);
	else
		found(f, ground->status.features & p->feature ? STATE_YES : STATE_NO, "%s", "");
}

static const char *const state_names[] = { "no", "yes", "unknown" };

static void print_text(const struct probe *p, const struct finding *f)
{
	static const char *const marks[] = { "no", "yes", "?" };

	printf("%-4s%-*s%s\n", marks[f->state], *f->detail ? 19 : 0, p->name, f->detail);
	printf("%-4s%-19sused for: %s\n", "", "", p->used_for);
	if (f->state == STATE_NO && p->gain)
		printf("%-4s%-19s%s: %s\n", "", "", p->needed ? "needed" : "to gain", p->gain);
}

static json_t *finding_json(const struct probe *p, const struct finding *f)
{
	json_t *object = json_object();

	cli_json_set(object, "name", json_string(p->name));
	cli_json_set(object, "state", json_string(state_names[f->state]));
	cli_json_set(object, "detail", cli_json_text(f->detail));
	cli_json_set(object, "used_for", json_string(p->used_for));
	if (p->gain)
		cli_json_set(object, "gain", json_string(p->gain));
	cli_json_set(object, "needed", json_boolean(p->needed));
	return object;
}

/** cmd_doctor() - doctor [--json]. Return: an exit status. */
int cmd_doctor(const struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "json", .has_arg = no_argument, .val = 'j' },
		{ 0 },
	};
	struct ground ground = { .up = false };
	json_t *array = NULL;
	int c, status = CLI_OK;
	bool json = false;

	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c != 'j')
			return cli_bad_option(NAME, c, argv);
		json = true;
	}
	if (optind < argc)
		return cli_usage(NAME, "'%s' is one argument too many", argv[optind]);

	cleanup_connection struct kshared *k = kshared_connect(cli->at);
	ground.k = k;
	ground.up = k && kshared_get_status(k, &ground.status) == 0;
	if (json)
		array = json_array();
	for (size_t i = 0; i < NR_PROBES; i++) {
		struct finding f;

		examine(&probes[i], &ground, &f);
		if (probes[i].needed && f.state == STATE_NO)
			status = CLI_FAILED;
		if (json)
			json_array_append_new(array, finding_json(&probes[i], &f));
		else
			print_text(&probes[i], &f);
	}
	c = json ? cli_json_print(array) : cli_finish(CLI_OK);
	return c == CLI_OK ? status : c;
}
