// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * publisher_account.c - the pages of single processes and control groups: see publisher.h.
 *
 * A page is made, described, frozen and put among the pages before the BPF side takes the process or the cgroup, so that no
 * pass finds one half made.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <base/cleanup.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "engine/bpf/publisher_impl.h"

#include "engine/bpf/publisher.skel.h"

#define PIDFS_MAGIC 0x50494446
#define CGROUP2_MAGIC 0x63677270
#define INIT_PID_NS_INO 0xEFFFFFFCu

void publisher_init_accounts(struct publisher *p)
{
	for (int i = 0; i < PUBLISHER_ACCOUNTS_MAX; i++)
		p->slots[i] = (struct publisher_slot){ .fd = -1, .flush_fd = -1 };
}

void publisher_deinit_accounts(struct publisher *p)
{
	for (int i = 0; i < PUBLISHER_ACCOUNTS_MAX; i++) {
		cleanup_close_p(&p->slots[i].fd);
		cleanup_close_p(&p->slots[i].flush_fd);
	}
}

/* Return: 0 and its number, as the caller's /proc has it; -EBADF no pidfd, -ESRCH it has ended. */
static int read_pidfd(int pidfd, uint64_t *ret)
{
	char path[64], line[256];
	FILE *f;
	long pid = 0;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	f = fopen(path, "re");
	if (!f)
		return errno == ENOENT ? -EBADF : -errno;
	while (fgets(line, sizeof(line), f) && sscanf(line, "Pid: %ld", &pid) != 1)
		;
	fclose(f);
	if (!pid)
		return -EBADF;
	if (pid < 0)
		return -ESRCH;
	*ret = pid;
	return 0;
}

static bool has_ended(int pidfd)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };

	return poll(&p, 1, 0) != 0;
}

/* Without a number that is its own, a process's is good only where everybody's are counted. */
static int read_own_number(int pidfd, uint64_t *ret)
{
	struct statfs fs;
	struct stat st;

	if (fstatfs(pidfd, &fs) || fstat(pidfd, &st))
		return -errno;
	*ret = 0;
	if (fs.f_type == PIDFS_MAGIC)
		*ret = st.st_ino;
	else if (stat("/proc/self/ns/pid", &st) || st.st_ino != INIT_PID_NS_INO)
		return -EOPNOTSUPP;
	return 0;
}

static int run(struct bpf_program *program, struct publisher_take *take)
{
	LIBBPF_OPTS(bpf_test_run_opts, o, .ctx_in = take, .ctx_size_in = sizeof(*take));

	if (bpf_prog_test_run_opts(bpf_program__fd(program), &o))
		return -errno;
	return (int)o.retval;
}

/* No pass looks beyond. */
static void set_end(struct publisher *p)
{
	uint64_t end = PUBLISHER_ACCOUNTS_MAX;

	while (end && p->slots[end - 1].fd < 0)
		end--;
	__atomic_store_n(&p->bpf->bss->accounts_end, end, __ATOMIC_RELEASE);
}

static int free_slot(const struct publisher *p)
{
	for (int i = 0; i < PUBLISHER_ACCOUNTS_MAX; i++)
		if (p->slots[i].fd < 0)
			return i;
	return -ENOSPC;
}

/* @omit: which fields are not to be had, ended by NULL. Return: the page's descriptor. */
static int make_page(struct publisher *p, const struct port_spec *spec, const char *const *omit)
{
	LIBBPF_OPTS(bpf_map_create_opts, o, .map_flags = BPF_F_MMAPABLE);
	cleanup_free struct port_head *h = calloc(1, PUBLISHER_ACCOUNT_SIZE);
	cleanup_fd int fd = -1;
	uint32_t zero = 0;

	if (!h)
		return -ENOMEM;
	port_format(h, spec, 1, PORT_SOURCE_BPF, p->bpf->rodata->conf.period_ns * PUBLISHER_SLOW,
		    p->generation);
	for (; *omit; omit++)
		port_omit(h, *omit);
	fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, spec->name, 4, PUBLISHER_ACCOUNT_SIZE, 1, &o);
	if (fd < 0)
		return -errno;
	if (bpf_map_update_elem(fd, &zero, h, BPF_ANY) || bpf_map_freeze(fd))
		return -errno;
	return take_fd(&fd);
}

/* @take: without slot. The page is the slot's from then on. */
static int add(struct publisher *p, int page_fd, struct publisher_take *take, int pidfd)
{
	int slot = free_slot(p), r;
	uint32_t key = slot;

	if (slot < 0)
		return slot;
	take->slot = slot;
	if (bpf_map_update_elem(bpf_map__fd(p->bpf->maps.account_pages), &key, &page_fd, BPF_ANY))
		return -errno;
	p->slots[slot].fd = page_fd;
	set_end(p);
	r = run(p->bpf->progs.publisher_take, take);
	/* What was taken went by its number. It is the right one if the right one has the number still. */
	if (!r && pidfd >= 0 && has_ended(pidfd))
		r = -ESRCH;
	if (!r && !publisher_wait_written(page_fd, PUBLISHER_ACCOUNT_SIZE, 1))
		r = -ETIMEDOUT;
	if (r) {
		p->slots[slot].fd = -1;
		publisher_remove(p, slot);
		return r;
	}
	return slot;
}

int publisher_add_task(struct publisher *p, int pidfd, int *ret_slot, int *ret_fd,
		       uint64_t *ret_size)
{
	struct publisher_take take = { .kind = PUBLISHER_TASK };
	const char *omit[3] = {}, **o = omit;
	cleanup_fd int fd = -1;
	int r = read_pidfd(pidfd, &take.id);

	if (!r)
		r = read_own_number(pidfd, &take.ino);
	if (r)
		return r;
	if (!p->every_cpu || !p->bpf->rodata->conf.percpu.this_cpu_off)
		*o++ = "rss";
	if (access("/proc/self/io", F_OK))
		*o++ = "io_";
	fd = make_page(p, &port_task_spec, omit);
	if (fd < 0)
		return fd;
	r = add(p, fd, &take, pidfd);
	if (r < 0)
		return r;
	*ret_slot = r;
	*ret_fd = take_fd(&fd);
	*ret_size = PUBLISHER_ACCOUNT_SIZE;
	return 0;
}

static bool has(int dirfd, const char *file)
{
	cleanup_fd int fd = openat(dirfd, file, O_RDONLY | O_CLOEXEC);
	char c;

	return fd >= 0 && read(fd, &c, 1) == 1;
}

int publisher_add_cgroup(struct publisher *p, int dirfd, int *ret_slot, int *ret_fd,
			 uint64_t *ret_size)
{
	struct publisher_take take = { .kind = PUBLISHER_CGROUP };
	const char *omit[4] = {}, **o = omit;
	cleanup_fd int fd = -1, flush_fd = -1;
	struct statfs fs;
	struct stat st;
	char text[4096];
	int r;

	if (fstatfs(dirfd, &fs) || fstat(dirfd, &st))
		return -errno;
	/* Its number is that of its directory. The root has no cgroup.events. */
	if (fs.f_type != CGROUP2_MAGIC || !S_ISDIR(st.st_mode))
		return -EINVAL;
	take.id = st.st_ino;
	flush_fd = openat(dirfd, "cpu.stat", O_RDONLY | O_CLOEXEC);
	if (flush_fd < 0)
		return errno == ENOENT || errno == ENODEV ? -ESRCH : -errno;
	if (faccessat(dirfd, "cgroup.events", F_OK, 0))
		return -EINVAL;
	if (!has(dirfd, "memory.current"))
		*o++ = "memory_";
	if (!has(dirfd, "pids.current"))
		*o++ = "pids_";
	if (!has(dirfd, "cpu.pressure"))
		*o++ = "pressure.";
	if (pread(flush_fd, text, sizeof(text), 0) < 0)
		return -errno;
	fd = make_page(p, &port_cgroup_spec, omit);
	if (fd < 0)
		return fd;
	r = add(p, fd, &take, -1);
	if (r < 0)
		return r;
	p->slots[r].flush_fd = take_fd(&flush_fd);
	*ret_slot = r;
	*ret_fd = take_fd(&fd);
	*ret_size = PUBLISHER_ACCOUNT_SIZE;
	return 0;
}

void publisher_remove(struct publisher *p, int slot)
{
	struct publisher_take take = { .slot = slot };
	uint32_t key = slot;

	run(p->bpf->progs.publisher_drop, &take);
	bpf_map_delete_elem(bpf_map__fd(p->bpf->maps.account_pages), &key);
	cleanup_close_p(&p->slots[slot].fd);
	cleanup_close_p(&p->slots[slot].flush_fd);
	p->slots[slot] = (struct publisher_slot){ .fd = -1, .flush_fd = -1 };
	set_end(p);
}

void publisher_tick(struct publisher *p)
{
	char text[4096];

	for (int i = 0; i < PUBLISHER_ACCOUNTS_MAX; i++) {
		struct publisher_slot *s = &p->slots[i];

		/* Of a cgroup that was removed nothing can be read any more. */
		if (s->flush_fd >= 0 && pread(s->flush_fd, text, sizeof(text), 0) < 0) {
			close(s->flush_fd);
			s->flush_fd = -1;
		}
	}
}
