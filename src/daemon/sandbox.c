// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * sandbox.c - what a worker may still do: a user of its own, four capabilities, no new privileges, and the system calls
 * that it uses.
 *
 *	CAP_SYS_PTRACE	pidfd_getfd() of the descriptor that a process of another user posts by its number
 *	CAP_CHOWN	a memory object's memfd gets its entry's owner
 *	CAP_FOWNER	and its mode, after that
 *	CAP_DAC_OVERRIDE  a posted file is opened again with less access than it was posted with, whoever owns it
 *
 * Mounting, and registering files for passthrough (CAP_SYS_ADMIN), are the keeper's.
 *
 * io_uring operations do not pass a seccomp filter; the ring that the worker is given is restricted to
 * reads, writes and polls when it is made.
 */
#include <cap-ng.h>
#include <daemon/worker.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/sockios.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#if KSHARED_SECCOMP
#include <seccomp.h>
#endif

/*
 * The user that a worker of root's is: nobody else's number, so that no other process may signal it, and one that means
 * nothing to whoever looks at the sender's credentials on a posted socket. In a user namespace that has no such number it
 * is the overflow user.
 */
#define WORKER_ID ((uid_t)-3)
#define OVERFLOW_ID 65534

static int keep_capabilities(bool privileged)
{
	capng_clear(CAPNG_SELECT_BOTH);
	if (!privileged)
		return capng_apply(CAPNG_SELECT_CAPS) < 0 ? -EPERM : 0;
	if (capng_updatev(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, CAP_SYS_PTRACE, CAP_CHOWN,
			  CAP_FOWNER, CAP_DAC_OVERRIDE, -1) < 0)
		return -EPERM;
	if (capng_change_id((int)WORKER_ID, (int)WORKER_ID,
			    CAPNG_DROP_SUPP_GRP | CAPNG_CLEAR_BOUNDING) < 0 &&
	    capng_change_id(OVERFLOW_ID, OVERFLOW_ID, CAPNG_DROP_SUPP_GRP | CAPNG_CLEAR_BOUNDING) <
		    0) {
		/* A user namespace with one user: its root is an ordinary user outside, and stays who it is. */
		if (capng_apply(CAPNG_SELECT_CAPS) < 0)
			return -EPERM;
	}
	/* A change of user forgets it. If the keeper died just now, its channel tells. */
	return prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 ? -errno : 0;
}

#if KSHARED_SECCOMP
/* What is not among these calls gives EPERM. Return: what is to be given to seccomp_release(); NULL: no memory, or a call that cannot be named. */
static scmp_filter_ctx allow(const int *calls, size_t nr)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int r = 0;

	for (size_t i = 0; ctx && i < nr && r == 0; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
	if (r == 0)
		return ctx;
	seccomp_release(ctx);
	return NULL;
}

static int filter(void)
{
	/* clang-format off */
	static const int calls[] = {
		/* requests in, answers out */
		SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(recvmsg),
		SCMP_SYS(sendmsg), SCMP_SYS(recvfrom), SCMP_SYS(sendto), SCMP_SYS(accept4), SCMP_SYS(getsockopt),
		SCMP_SYS(setsockopt), SCMP_SYS(socket), SCMP_SYS(socketpair), SCMP_SYS(connect), SCMP_SYS(shutdown),
		/* the loop */
		SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_pwait2), SCMP_SYS(epoll_ctl),
		SCMP_SYS(epoll_create1), SCMP_SYS(timerfd_create), SCMP_SYS(timerfd_settime), SCMP_SYS(signalfd4),
		SCMP_SYS(eventfd2), SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(io_uring_enter),
		/* descriptors: taken, looked at, opened again, closed */
		SCMP_SYS(pidfd_open), SCMP_SYS(pidfd_getfd), SCMP_SYS(pidfd_send_signal), SCMP_SYS(openat),
		SCMP_SYS(open), SCMP_SYS(readlink), SCMP_SYS(readlinkat), SCMP_SYS(close), SCMP_SYS(close_range),
		SCMP_SYS(dup), SCMP_SYS(dup2), SCMP_SYS(dup3), SCMP_SYS(fcntl), SCMP_SYS(fstat), SCMP_SYS(fstatfs), SCMP_SYS(fgetxattr), SCMP_SYS(newfstatat),
		SCMP_SYS(stat), SCMP_SYS(statx), SCMP_SYS(lseek), SCMP_SYS(pread64), SCMP_SYS(pwrite64),
		SCMP_SYS(preadv2), SCMP_SYS(pwritev2), SCMP_SYS(fsync), SCMP_SYS(fdatasync),
		/* memory objects */
		SCMP_SYS(memfd_create), SCMP_SYS(ftruncate), SCMP_SYS(fallocate), SCMP_SYS(fchmod), SCMP_SYS(fchown),
		/* a process's own needs */
		SCMP_SYS(mmap), SCMP_SYS(munmap), SCMP_SYS(mprotect), SCMP_SYS(mremap), SCMP_SYS(madvise),
		SCMP_SYS(brk), SCMP_SYS(futex), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask),
		SCMP_SYS(rt_sigreturn), SCMP_SYS(sigaltstack), SCMP_SYS(restart_syscall), SCMP_SYS(exit),
		SCMP_SYS(exit_group), SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(tgkill), SCMP_SYS(getuid),
		SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid), SCMP_SYS(clock_gettime),
		SCMP_SYS(clock_nanosleep), SCMP_SYS(gettimeofday), SCMP_SYS(getrandom), SCMP_SYS(sched_yield),
		SCMP_SYS(prlimit64), SCMP_SYS(sysinfo), SCMP_SYS(uname),
		/* its threads */
		SCMP_SYS(rseq), SCMP_SYS(set_robust_list),
	};
	/* clang-format on */
	scmp_filter_ctx ctx = allow(calls, sizeof(calls) / sizeof(calls[0]));
	/* Threads, and nothing else that clone(2) can make. clone3(2) cannot be looked into; the C library then takes the other. */
	const struct scmp_arg_cmp thread =
		SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_VM | CLONE_THREAD, CLONE_VM | CLONE_THREAD);
	int r = ctx ? 0 : -ENOMEM;

	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1, thread);
	/* How much a port's server has not read yet. */
	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				     SCMP_A1(SCMP_CMP_EQ, SIOCOUTQ));
	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (r == 0)
		r = seccomp_load(ctx);
	seccomp_release(ctx);
	return r;
}

/*
 * The publisher's: nothing that makes a process, a thread or a connection, nothing that writes a file's contents to disk, and of bpf(2) only what
 * loads and runs its own programs: nobody else's are opened by number or by path. Files are opened to read; the log is there already.
 */
static int filter_publisher(void)
{
	/* clang-format off */
	static const int calls[] = {
		/* requests in, answers out; who goes */
		SCMP_SYS(recvmsg), SCMP_SYS(recvfrom), SCMP_SYS(sendmsg), SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait),
		SCMP_SYS(epoll_pwait2), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_create1), SCMP_SYS(timerfd_create),
		SCMP_SYS(timerfd_settime), SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(pidfd_send_signal),
		/* what is read; the log */
		SCMP_SYS(read), SCMP_SYS(pread64), SCMP_SYS(lseek), SCMP_SYS(newfstatat), SCMP_SYS(fstat),
		SCMP_SYS(stat), SCMP_SYS(statx), SCMP_SYS(fstatfs), SCMP_SYS(access), SCMP_SYS(faccessat), SCMP_SYS(faccessat2),
		SCMP_SYS(write), SCMP_SYS(writev), SCMP_SYS(sendto),
		SCMP_SYS(close), SCMP_SYS(dup), SCMP_SYS(dup2), SCMP_SYS(dup3), SCMP_SYS(fcntl),
		/* the sampler's pages, and a control group while pages are loaded */
		SCMP_SYS(memfd_create), SCMP_SYS(ftruncate), SCMP_SYS(mkdir), SCMP_SYS(rmdir),
		/* a timer for each processor; capabilities up and down */
		SCMP_SYS(sched_getaffinity), SCMP_SYS(sched_setaffinity), SCMP_SYS(capget), SCMP_SYS(capset),
		/* a process's own needs */
		SCMP_SYS(mmap), SCMP_SYS(munmap), SCMP_SYS(mprotect), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(brk),
		SCMP_SYS(futex), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
		SCMP_SYS(restart_syscall), SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(getpid), SCMP_SYS(gettid),
		SCMP_SYS(tgkill), SCMP_SYS(getuid), SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid),
		SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep), SCMP_SYS(gettimeofday), SCMP_SYS(getrandom),
		SCMP_SYS(sched_yield), SCMP_SYS(prlimit64), SCMP_SYS(sysinfo), SCMP_SYS(uname),
	};
	static const int bpf_calls[] = {
		BPF_MAP_CREATE, BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM, BPF_MAP_DELETE_ELEM, BPF_MAP_GET_NEXT_KEY, BPF_MAP_FREEZE,
		BPF_PROG_LOAD, BPF_PROG_TEST_RUN, BPF_PROG_BIND_MAP, BPF_OBJ_GET_INFO_BY_FD, BPF_BTF_LOAD, BPF_LINK_CREATE,
		BPF_LINK_UPDATE, BPF_LINK_DETACH,
	};
	/* clang-format on */
	scmp_filter_ctx ctx = allow(calls, sizeof(calls) / sizeof(calls[0]));
	/* Also open(2), as some C library may call it. */
	const struct scmp_arg_cmp to_read2 =
		SCMP_A2(SCMP_CMP_MASKED_EQ, O_WRONLY | O_RDWR, O_RDONLY);
	const struct scmp_arg_cmp to_read1 =
		SCMP_A1(SCMP_CMP_MASKED_EQ, O_WRONLY | O_RDWR, O_RDONLY);
	int r = ctx ? 0 : -ENOMEM;

	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1, to_read2);
	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(open), 1, to_read1);
	for (size_t i = 0; i < sizeof(bpf_calls) / sizeof(bpf_calls[0]) && r == 0; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(bpf), 1,
				     SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)bpf_calls[i]));
	if (r == 0)
		r = seccomp_load(ctx);
	seccomp_release(ctx);
	return r;
}
#endif

int sandbox_enter(bool privileged)
{
	int r;

	r = keep_capabilities(privileged);
	if (r < 0)
		return r;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
#if KSHARED_SECCOMP
	r = filter();
#endif
	return r;
}

/*
 * The publisher stays root, whose files it opens: the kernel's symbols, and the group of all control groups.
 *
 *	CAP_BPF, CAP_PERFMON	load programs that look at the kernel's structures
 *	CAP_SYSLOG		where one of them is, the kernel tells only who has this
 *	CAP_NET_ADMIN		attach rules to control groups
 *	CAP_KILL		end clients that wrote beyond their pools
 *	CAP_DAC_OVERRIDE	make a control group: only while pages are loaded
 */
void sandbox_override(bool on)
{
	if (!capng_have_capability(CAPNG_PERMITTED, CAP_DAC_OVERRIDE))
		return;
	capng_update(on ? CAPNG_ADD : CAPNG_DROP, CAPNG_EFFECTIVE, CAP_DAC_OVERRIDE);
	capng_apply(CAPNG_SELECT_CAPS);
}

int sandbox_publisher(bool privileged)
{
	capng_clear(CAPNG_SELECT_BOTH);
	if (privileged &&
	    capng_updatev(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, CAP_BPF, CAP_PERFMON,
			  CAP_SYSLOG, CAP_NET_ADMIN, CAP_KILL, -1) < 0)
		return -EPERM;
	if (privileged && capng_update(CAPNG_ADD, CAPNG_PERMITTED, CAP_DAC_OVERRIDE) < 0)
		return -EPERM;
	/* One that a container's root has not is none that we could do without being told: loading fails. */
	if (capng_apply(CAPNG_SELECT_CAPS) < 0 && privileged) {
		capng_clear(CAPNG_SELECT_BOTH);
		if (capng_apply(CAPNG_SELECT_CAPS) < 0)
			return -EPERM;
	}
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
#if KSHARED_SECCOMP
	return filter_publisher();
#else
	return 0;
#endif
}

/*
 * The merger stays root.
 *
 *	CAP_SYS_PTRACE		reach into the processes that are merged
 *	CAP_SETUID, CAP_SETGID	ask the kernel as who asks us (merger_consent.c)
 *	CAP_DAC_OVERRIDE	files of a process in /proc are its user's
 *	CAP_SYS_RESOURCE	what is merged is locked, beyond the limit of a process that is merged by another
 *	CAP_SYS_NICE		while a process stands still, whoever works for it goes first
 */
int sandbox_merger(bool privileged)
{
	static const unsigned int wanted[] = { CAP_SYS_PTRACE,   CAP_SETUID,       CAP_SETGID,
					       CAP_DAC_OVERRIDE, CAP_SYS_RESOURCE, CAP_SYS_NICE };
	bool have[sizeof(wanted) / sizeof(wanted[0])];
	size_t n = sizeof(wanted) / sizeof(wanted[0]);

	/* A container's root may have some of them only. */
	if (capng_get_caps_process() < 0)
		return -EPERM;
	for (size_t i = 0; i < n; i++)
		have[i] = privileged && capng_have_capability(CAPNG_PERMITTED, wanted[i]);
	capng_clear(CAPNG_SELECT_BOTH);
	for (size_t i = 0; i < n; i++)
		if (have[i] &&
		    capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, wanted[i]) < 0)
			return -EPERM;
	if (capng_apply(CAPNG_SELECT_CAPS) < 0)
		return -EPERM;
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	return 0;
}
