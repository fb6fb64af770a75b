// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * table.c - see table.h. The bytes of a record are opaque; only lengths are looked at.
 */
#include <base/cleanup.h>
#include <daemon/closer.h>
#include <daemon/table.h>
#include <engine/aside/aside.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/capability.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uthash.h>
#include <wire/fuse.h>

#define OVERFLOW_ID 65534
#define VAULT_END_MS 1000

/* To a vault: close this. */
struct command {
	int fd;
	uint32_t owner;
};

struct vault {
	pid_t pid; /* 0: none, the place is free */
	int pidfd;
	int command; /* a pipe for struct command */
	unsigned int nr_fds;
};

struct item {
	uint64_t id;
	void *bytes;
	uint32_t len;
	uint32_t owner;
	int fd; /* -1: none */
	int vault; /* who holds it; -1: we */
	int backing;
	UT_hash_handle hh;
};

struct table {
	struct item *items;
	struct vault *vaults;
	int nr_vaults;
	unsigned int nr_fds;
	unsigned int max_fds;
	int fuse_fd;
	struct closer closer;
	struct keep_done done[KEEP_DONE_MAX];
	uint64_t nr_done; /* all that ever were */
};

static size_t padded(size_t n)
{
	return (n + 7) & ~(size_t)7;
}

void table_close(struct table *t, int fd)
{
	closer_close(&t->closer, 0, fd, 0);
}

void table_close_copy(struct table *t, int fd)
{
	closer_close_copy(&t->closer, 0, fd, 0);
}

int table_new(struct table **ret, unsigned int max_fds, struct shm_closing *closing)
{
	struct table *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	if (aside_new(&t->closer.aside, false) < 0) {
		free(t);
		return -ENOMEM;
	}
	t->closer.counts = closing;
	t->max_fds = max_fds;
	t->fuse_fd = -1;
	*ret = t;
	return 0;
}

/* It ends by itself when it has nothing more to hear; its end is reaped as any child's. */
static void end_vault(struct vault *v)
{
	close(v->command);
	close(v->pidfd);
	v->pid = 0;
}

static void drop_fd(struct table *t, struct item *i)
{
	uint32_t backing = (uint32_t)i->backing;

	if (i->backing > 0 && t->fuse_fd >= 0)
		ioctl(t->fuse_fd, FUSE_DEV_IOC_BACKING_CLOSE, &backing);
	i->backing = 0;
	if (i->fd < 0)
		return;
	if (i->vault < 0) {
		closer_close(&t->closer, i->owner, i->fd, 0);
		t->nr_fds--;
	} else {
		struct vault *v = &t->vaults[i->vault];
		struct command c = { .fd = i->fd, .owner = i->owner };
		ssize_t n = v->pid ? write(v->command, &c, sizeof(c)) : 0;

		(void)n; /* a vault that has died holds nothing */
		if (v->pid && --v->nr_fds == 0)
			end_vault(v);
	}
	i->fd = -1;
}

static void drop_item(struct table *t, struct item *i)
{
	drop_fd(t, i);
	HASH_DEL(t->items, i);
	free(i->bytes);
	free(i);
}

void table_free(struct table *t)
{
	struct item *i, *tmp;
	int ms = 0;

	if (!t)
		return;
	for (int k = 0; k < t->nr_vaults; k++) {
		if (!t->vaults[k].pid)
			continue;
		kill(t->vaults[k].pid, SIGKILL);
		/* One that holds files of a hung server ends when that does. */
		while (waitpid(t->vaults[k].pid, NULL, WNOHANG) == 0 && ms++ < VAULT_END_MS)
			usleep(1000);
		end_vault(&t->vaults[k]);
	}
	HASH_ITER(hh, t->items, i, tmp)
		drop_item(t, i);
	free(t->vaults);
	aside_free(t->closer.aside);
	free(t);
}

static int by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

/* In the fork: keep the records' descriptors and nothing else; close what we are told to. */
static _Noreturn void be_vault(struct table *t, const int *fds, size_t n, int command)
{
	struct closer closer = { .counts = t->closer.counts };
	unsigned int next = 0;
	struct command c;

	/* The parent's may be in any state. */
	if (aside_new(&closer.aside, false) < 0)
		_exit(1);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "ksharedd-vault");
	for (size_t i = 0; i <= n; i++) {
		unsigned int end = i < n ? (unsigned int)fds[i] : UINT_MAX;

		if (end > next)
			syscall(SYS_close_range, next, end - 1, 0);
		next = end + 1;
	}
	while (read(command, &c, sizeof(c)) == sizeof(c))
		closer_close(&closer, c.owner, c.fd, 0);
	_exit(0);
}

static int split_off(struct table *t)
{
	cleanup_free int *fds = calloc(t->nr_fds + 1, sizeof(int));
	struct item *i, *tmp;
	int pipefd[2], pidfd, place = 0;
	size_t n = 0;
	pid_t pid;

	while (place < t->nr_vaults && t->vaults[place].pid)
		place++;
	if (place == t->nr_vaults) {
		struct vault *vaults = reallocarray(t->vaults, (size_t)place + 1, sizeof(*vaults));

		if (!vaults)
			return -ENOMEM;
		t->vaults = vaults;
		t->vaults[t->nr_vaults++].pid = 0;
	}
	if (!fds)
		return -ENOMEM;
	if (pipe2(pipefd, O_CLOEXEC) < 0)
		return -errno;
	HASH_ITER(hh, t->items, i, tmp)
		if (i->fd >= 0 && i->vault < 0)
			fds[n++] = i->fd;
	fds[n++] = pipefd[0];
	qsort(fds, n, sizeof(int), by_number);
	pid = fork();
	if (pid == 0)
		be_vault(t, fds, n, pipefd[0]);
	close(pipefd[0]);
	pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
	if (pidfd < 0) {
		close(pipefd[1]);
		return -errno;
	}
	t->vaults[place] = (struct vault){
		.pid = pid,
		.pidfd = pidfd,
		.command = pipefd[1],
		.nr_fds = (unsigned int)n - 1,
	};
	HASH_ITER(hh, t->items, i, tmp) {
		if (i->fd < 0 || i->vault >= 0)
			continue;
		i->vault = place;
		closer_close(&t->closer, i->owner, i->fd, 0);
	}
	t->nr_fds = 0;
	return 0;
}

bool table_is_vault(const struct table *t, pid_t pid)
{
	for (int i = 0; i < t->nr_vaults; i++)
		if (t->vaults[i].pid == pid)
			return true;
	return false;
}

static void put(struct table *t, const struct keep_change *c, void *bytes, int *fd)
{
	struct item *i;

	HASH_FIND(hh, t->items, &c->id, sizeof(c->id), i);
	if (!i) {
		i = calloc(1, sizeof(*i));
		if (!i)
			abort();
		i->id = c->id;
		i->fd = i->vault = -1;
		HASH_ADD(hh, t->items, id, sizeof(i->id), i);
	}
	free(i->bytes);
	i->bytes = bytes;
	i->len = c->len;
	i->owner = c->owner;
	if (*fd >= 0) {
		drop_fd(t, i);
		i->fd = take_fd(fd);
		i->vault = -1;
		t->nr_fds++;
	}
}

/* Is the message whole? Copies the changes' bytes, so that nothing can fail any more. */
static int check(const unsigned char *at, size_t len, unsigned int n, struct keep_change *changes,
		 void **bytes)
{
	for (unsigned int i = 0; i < n; i++) {
		if (len < sizeof(changes[i]))
			return -EINVAL;
		memcpy(&changes[i], at, sizeof(changes[i]));
		at += sizeof(changes[i]);
		len -= sizeof(changes[i]);
		if (changes[i].len > KEEP_BLOB_MAX || padded(changes[i].len) > len ||
		    (changes[i].what != KEEP_PUT && changes[i].what != KEEP_DEL))
			return -EINVAL;
		if (changes[i].what == KEEP_PUT) {
			bytes[i] = malloc(changes[i].len ? changes[i].len : 1);
			if (!bytes[i])
				return -ENOMEM;
			memcpy(bytes[i], at, changes[i].len);
		}
		at += padded(changes[i].len);
		len -= padded(changes[i].len);
	}
	return len == 0 ? 0 : -EINVAL;
}

int table_commit(struct table *t, const void *bytes, size_t len, int fd)
{
	cleanup_fd int owned = fd;
	struct keep_commit head;
	struct keep_change changes[2];
	void *copies[2] = { NULL, NULL };
	struct item *item;
	int r;

	if (len < sizeof(head))
		return -EINVAL;
	memcpy(&head, bytes, sizeof(head));
	if (head.nr_changes < 1 || head.nr_changes > 2 || (head.has_fd != 0) != (fd >= 0))
		return -EINVAL;
	r = check((const unsigned char *)bytes + sizeof(head), len - sizeof(head), head.nr_changes,
		  changes, copies);
	if (r == 0 && head.has_fd && changes[0].what != KEEP_PUT)
		r = -EINVAL;
	if (r < 0) {
		free(copies[0]);
		free(copies[1]);
		return r;
	}
	for (unsigned int i = 0; i < head.nr_changes; i++) {
		int none = -1;

		if (changes[i].what == KEEP_PUT) {
			put(t, &changes[i], copies[i], i == 0 ? &owned : &none);
			continue;
		}
		HASH_FIND(hh, t->items, &changes[i].id, sizeof(changes[i].id), item);
		if (item)
			drop_item(t, item);
	}
	if (head.done_id[0] || head.done_id[1])
		t->done[t->nr_done++ % KEEP_DONE_MAX] = (struct keep_done){
			.id = { head.done_id[0], head.done_id[1] },
			.entry = head.done_entry,
			.result = head.done_result,
		};
	if (t->nr_fds >= t->max_fds)
		split_off(t);
	return 0;
}

int table_borrow(struct table *t, uint64_t id, bool *ret_held)
{
	struct item *i;
	int fd;

	HASH_FIND(hh, t->items, &id, sizeof(id), i);
	if (!i)
		return -ENOENT;
	if (i->fd < 0)
		return -EBADF;
	*ret_held = i->vault < 0;
	if (*ret_held)
		return i->fd;
	fd = (int)syscall(SYS_pidfd_getfd, t->vaults[i->vault].pidfd, i->fd, 0);
	return fd < 0 ? -errno : fd;
}

/*
 * Register a file for passthrough. The kernel keeps our credentials with it and reads and writes by them whoever asks; so
 * for this one call we are nobody, with the one capability that the call itself wants. Else writing through the mount
 * would leave set-user-ID bits alone and pass over disk quotas, as root may.
 */
static int register_backing(int fuse_fd, int fd)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct all[2], least[2];
	struct fuse_backing_map map = { .fd = fd };
	uid_t uid = geteuid();
	gid_t gid = getegid();
	int r;

	if (syscall(SYS_capget, &head, all) < 0)
		return -errno;
	memcpy(least, all, sizeof(least));
	least[0].effective = all[0].effective & (1u << CAP_SYS_ADMIN);
	least[1].effective = 0;
	setfsgid(OVERFLOW_ID);
	setfsuid(OVERFLOW_ID);
	r = syscall(SYS_capset, &head, least) < 0 ? -errno : 0;
	if (r == 0) {
		r = ioctl(fuse_fd, FUSE_DEV_IOC_BACKING_OPEN, &map);
		if (r < 0)
			r = -errno;
	}
	if (syscall(SYS_capset, &head, all) < 0)
		abort();
	setfsuid(uid);
	setfsgid(gid);
	return r;
}

int table_backing(struct table *t, uint64_t id, int fuse_fd)
{
	struct item *i;
	bool held;
	int fd, r;

	t->fuse_fd = fuse_fd;
	HASH_FIND(hh, t->items, &id, sizeof(id), i);
	if (!i)
		return -ENOENT;
	if (i->backing)
		return i->backing;
	fd = table_borrow(t, id, &held);
	if (fd < 0)
		return fd;
	r = register_backing(fuse_fd, fd);
	if (!held)
		table_close_copy(t, fd);
	if (r < 0)
		return r;
	i->backing = r;
	return r;
}

static int write_all(FILE *f, const void *bytes, size_t len)
{
	return fwrite(bytes, 1, len, f) == len ? 0 : -ENOSPC;
}

int table_snapshot(const struct table *t, int fd, struct keep_snapshot *head)
{
	static const unsigned char zeros[8];
	uint64_t first = t->nr_done > KEEP_DONE_MAX ? t->nr_done - KEEP_DONE_MAX : 0;
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	FILE *f = copy >= 0 ? fdopen(copy, "w") : NULL;
	struct item *i, *tmp;
	int r;

	if (!f)
		return -errno;
	head->nr_items = HASH_COUNT(t->items);
	head->nr_done = t->nr_done - first;
	r = write_all(f, head, sizeof(*head));
	for (uint64_t n = first; n < t->nr_done && r == 0; n++)
		r = write_all(f, &t->done[n % KEEP_DONE_MAX], sizeof(t->done[0]));
	HASH_ITER(hh, t->items, i, tmp) {
		struct keep_item item = {
			.id = i->id,
			.len = i->len,
			.backing = i->backing,
			.has_fd = i->fd >= 0,
		};

		if (r == 0)
			r = write_all(f, &item, sizeof(item));
		if (r == 0)
			r = write_all(f, i->bytes, i->len);
		if (r == 0)
			r = write_all(f, zeros, padded(i->len) - i->len);
	}
	if (fclose(f) != 0 && r == 0)
		r = -errno;
	return r;
}
