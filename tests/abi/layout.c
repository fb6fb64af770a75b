// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * layout.c - prints the size of every public struct, the place of every field and the value of every constant.
 *
 * What it prints is compared with layout.txt: a difference breaks programs that are compiled already.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>

#include <kshared.h>
#include <kshared/mem.h>
#include <kshared/srv.h>

#define SIZE(type) printf("sizeof(%s) %zu\n", #type, sizeof(type))
#define FIELD(type, field)                                                      \
	printf("%s.%s at %zu size %zu\n", #type, #field, offsetof(type, field), \
	       sizeof(((type *)NULL)->field))
#define VALUE(name) printf("%s 0x%" PRIx64 "\n", #name, (uint64_t)(name))

static void print_entry(void)
{
	SIZE(struct kshared_entry);
	FIELD(struct kshared_entry, name);
	FIELD(struct kshared_entry, kind);
	FIELD(struct kshared_entry, what);
	FIELD(struct kshared_entry, mode);
	FIELD(struct kshared_entry, uid);
	FIELD(struct kshared_entry, gid);
	FIELD(struct kshared_entry, access);
	FIELD(struct kshared_entry, id);
	FIELD(struct kshared_entry, size_bytes);
	FIELD(struct kshared_entry, allocated_bytes);
	FIELD(struct kshared_entry, btime_ns);
	FIELD(struct kshared_entry, mtime_ns);
	FIELD(struct kshared_entry, ctime_ns);
	FIELD(struct kshared_entry, posted_ns);
	FIELD(struct kshared_entry, opens);
	FIELD(struct kshared_entry, poster_uid);
	FIELD(struct kshared_entry, poster_pid);
	FIELD(struct kshared_entry, poster_comm);
	FIELD(struct kshared_entry, seals);
	FIELD(struct kshared_entry, reserved);
}

static void print_status(void)
{
	SIZE(struct kshared_status);
	FIELD(struct kshared_status, mountpoint);
	FIELD(struct kshared_status, version);
	FIELD(struct kshared_status, keeper_pid);
	FIELD(struct kshared_status, worker_pid);
	FIELD(struct kshared_status, features);
	FIELD(struct kshared_status, fuse_minor);
	FIELD(struct kshared_status, restarts);
	FIELD(struct kshared_status, started_ns);
	FIELD(struct kshared_status, entries);
	FIELD(struct kshared_status, bytes);
	FIELD(struct kshared_status, max_entries);
	FIELD(struct kshared_status, max_bytes);
	FIELD(struct kshared_status, entries_uid);
	FIELD(struct kshared_status, bytes_uid);
	FIELD(struct kshared_status, max_entries_uid);
	FIELD(struct kshared_status, max_bytes_uid);
	FIELD(struct kshared_status, reserved);
}

static void print_constants(void)
{
	VALUE(KSHARED_NAME_MAX);
	VALUE(KSHARED_PATH_MAX);
	VALUE(KSHARED_FEATURE_MOUNT);
	VALUE(KSHARED_FEATURE_PASSTHROUGH);
	VALUE(KSHARED_FEATURE_RESEND);
	VALUE(KSHARED_FEATURE_IO_URING);
	VALUE(KSHARED_FEATURE_EPOCH);
	VALUE(KSHARED_FEATURE_SANDBOX);
	VALUE(KSHARED_FEATURE_PTRACE);
	VALUE(KSHARED_SHUTDOWN_LAZY);
	VALUE(KMEM_RESIZABLE);
	VALUE(KMEM_HUGE_2MB);
	VALUE(KMEM_HUGE_1GB);
	VALUE(KMEM_SEAL_SEAL);
	VALUE(KMEM_SEAL_SHRINK);
	VALUE(KMEM_SEAL_GROW);
	VALUE(KMEM_SEAL_WRITE);
	VALUE(KMEM_SEAL_FUTURE_WRITE);
	VALUE(KSRV_REOPEN);
}

int main(void)
{
	print_entry();
	print_status();
	print_constants();
	return 0;
}
