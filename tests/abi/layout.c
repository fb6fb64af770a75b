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
#include <kshared/ksm.h>
#include <kshared/mem.h>
#include <kshared/port.h>
#include <kshared/srv.h>

#define SIZE(type) printf("sizeof(%s) %zu\n", #type, sizeof(type))
#define FIELD(type, field)                                                      \
	printf("%s.%s at %zu size %zu\n", #type, #field, offsetof(type, field), \
	       sizeof(((type *)NULL)->field))
#define VALUE(name) printf("%s 0x%" PRIx64 "\n", #name, (uint64_t)(name))

static void print_ksm(void)
{
	SIZE(struct ksm_result);
	FIELD(struct ksm_result, scanned);
	FIELD(struct ksm_result, merged);
	FIELD(struct ksm_result, zero);
	FIELD(struct ksm_result, unique);
	FIELD(struct ksm_result, skipped_changed);
	FIELD(struct ksm_result, skipped_pinned);
	FIELD(struct ksm_result, skipped_mapping);
	FIELD(struct ksm_result, skipped_limit);
	FIELD(struct ksm_result, saved_bytes);
	FIELD(struct ksm_result, elapsed_ns);
	FIELD(struct ksm_result, reserved);
	SIZE(struct ksm_stats);
	FIELD(struct ksm_stats, pages_shared);
	FIELD(struct ksm_stats, pages_sharing);
	FIELD(struct ksm_stats, pages_unshared);
	FIELD(struct ksm_stats, pages_scanned);
	FIELD(struct ksm_stats, pages_skipped);
	FIELD(struct ksm_stats, members);
	FIELD(struct ksm_stats, store_bytes);
	FIELD(struct ksm_stats, index_bytes);
	FIELD(struct ksm_stats, general_profit);
	FIELD(struct ksm_stats, reserved);
	VALUE(KSM_SYNC);
	VALUE(KSM_CREAT);
	VALUE(KSM_EXCL);
	VALUE(KSM_DRY_RUN);
	VALUE(KSM_FORCE);
	VALUE(KSM_GUEST_RAM);
}

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

static void print_port(void)
{
	SIZE(struct kport_field);
	FIELD(struct kport_field, name);
	FIELD(struct kport_field, unit);
	FIELD(struct kport_field, type);
	FIELD(struct kport_field, fraction_bits);
	FIELD(struct kport_field, width);
	FIELD(struct kport_field, count);
	FIELD(struct kport_field, stride);
	FIELD(struct kport_field, reserved);
	FIELD(struct kport_field, offset);
	SIZE(struct kport_info);
	FIELD(struct kport_info, name);
	FIELD(struct kport_info, version);
	FIELD(struct kport_info, source);
	FIELD(struct kport_info, nr_fields);
	FIELD(struct kport_info, gone);
	FIELD(struct kport_info, size);
	FIELD(struct kport_info, pool_size);
	FIELD(struct kport_info, period_ns);
	FIELD(struct kport_info, sample_ns);
	FIELD(struct kport_info, writes);
	FIELD(struct kport_info, generation);
	FIELD(struct kport_info, reserved);
	SIZE(struct kport_writer);
	FIELD(struct kport_writer, uid);
	FIELD(struct kport_writer, gid);
	FIELD(struct kport_writer, pid);
	FIELD(struct kport_writer, reserved);
	SIZE(struct resource_ops);
	FIELD(struct resource_ops, read);
	FIELD(struct resource_ops, write);
	SIZE(struct resource);
	FIELD(struct resource, data);
	FIELD(struct resource, size);
	FIELD(struct resource, user);
	FIELD(struct resource, rops);
	SIZE(struct kport_clobber);
	FIELD(struct kport_clobber, who);
	FIELD(struct kport_clobber, comm);
	FIELD(struct kport_clobber, offset);
	FIELD(struct kport_clobber, bytes);
	FIELD(struct kport_clobber, done);
	SIZE(struct kport_serve_options);
	FIELD(struct kport_serve_options, mode);
	FIELD(struct kport_serve_options, pool_pages);
	FIELD(struct kport_serve_options, max_clients_uid);
	FIELD(struct kport_serve_options, policy);
	FIELD(struct kport_serve_options, period_ns);
	FIELD(struct kport_serve_options, on_clobber);
	FIELD(struct kport_serve_options, user);
	FIELD(struct kport_serve_options, reserved);
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
	VALUE(KSHARED_FEATURE_BPF);
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
	VALUE(KPORT_NAME_MAX);
	VALUE(KPORT_POOL_MAX);
	VALUE(KPORT_U64);
	VALUE(KPORT_S64);
	VALUE(KPORT_U32);
	VALUE(KPORT_FIXED);
	VALUE(KPORT_CHARS);
	VALUE(KPORT_SOURCE_BPF);
	VALUE(KPORT_SOURCE_SAMPLER);
	VALUE(KPORT_SOURCE_SERVICE);
	VALUE(KPORT_STRICT);
	VALUE(KPORT_FRESH);
	VALUE(KPORT_POLLED);
	VALUE(KPORT_PKEY);
	VALUE(KPORT_TASK);
	VALUE(KPORT_CGROUP);
	VALUE(KPORT_RULE);
	VALUE(KPORT_KILL);
	VALUE(KPORT_REVOKE);
	VALUE(KPORT_LOG);
}

int main(void)
{
	print_entry();
	print_status();
	print_port();
	print_constants();
	print_ksm();
	return 0;
}
