// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * passthrough.c - what does it cost to use a file or a memory object through the mount, once it is open?
 *
 * Native is a descriptor of the very same file or memfd that did not come through the mount, so that both lanes
 * move the same pages. "native again" is a second one of them: its ratio to the first is what this machine calls the same.
 */
#include <fcntl.h>
#include <kshared.h>
#include <kshared/mem.h>
#include <kshared/srv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench.h"

#define FILE_BYTES (4ul << 20) /* read and written */
#define MAP_BYTES (64ul << 20) /* touched at random */
#define FRESH_BYTES (4ul << 20) /* mapped again and again */
#define PAGE 4096ul

struct transfer {
	int fd;
	size_t size;
};

static char buffer[64 << 10];

/* Blocks in an order that visits all of them and that no read-ahead foresees. */
static off_t block(unsigned long i, size_t size)
{
	unsigned long nr = FILE_BYTES / size;

	return (off_t)((i * 2654435761ul) % nr * size);
}

static unsigned long do_pread(void *arg, unsigned long n)
{
	const struct transfer *t = arg;

	for (unsigned long i = 0; i < n; i++)
		if (pread(t->fd, buffer, t->size, block(i, t->size)) != (ssize_t)t->size)
			bench_die("pread");
	return n;
}

static unsigned long do_pwrite(void *arg, unsigned long n)
{
	const struct transfer *t = arg;

	for (unsigned long i = 0; i < n; i++)
		if (pwrite(t->fd, buffer, t->size, block(i, t->size)) != (ssize_t)t->size)
			bench_die("pwrite");
	return n;
}

static unsigned long do_touch(void *arg, unsigned long n)
{
	volatile uint64_t *at = arg;
	uint64_t x = 88172645463325252u;

	for (unsigned long i = 0; i < n; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		at[x % (MAP_BYTES / sizeof(*at))]++;
	}
	return n;
}

/* A page counts as one operation; mapping and unmapping are in it. */
static unsigned long fresh(int fd, unsigned long n, bool write)
{
	unsigned long done = 0;

	do {
		volatile char *at =
			mmap(NULL, FRESH_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

		if (at == MAP_FAILED)
			bench_die("mmap");
		for (size_t offset = 0; offset < FRESH_BYTES; offset += PAGE) {
			if (write)
				at[offset] = 1;
			else
				(void)at[offset];
		}
		munmap((void *)at, FRESH_BYTES);
		done += FRESH_BYTES / PAGE;
	} while (done < n);
	return done;
}

static unsigned long fault_write(void *arg, unsigned long n)
{
	return fresh(*(int *)arg, n, true);
}

static unsigned long fault_read(void *arg, unsigned long n)
{
	return fresh(*(int *)arg, n, false);
}

/* Fill @bytes of @fd, and check that what is written there is seen by @other. */
static void fill(int fd, int other, size_t bytes)
{
	char back[sizeof(buffer)];

	for (size_t offset = 0; offset < bytes; offset += sizeof(buffer)) {
		memset(buffer, (int)(offset / sizeof(buffer)), sizeof(buffer));
		if (pwrite(fd, buffer, sizeof(buffer), (off_t)offset) != sizeof(buffer) ||
		    pread(other, back, sizeof(back), (off_t)offset) != sizeof(back))
			bench_die("filling");
		if (memcmp(buffer, back, sizeof(back)) != 0)
			bench_die("what was written by one way is not there by the other");
	}
}

static void transfers(const char *what, int native, int again, int mount, bool also_write)
{
	for (size_t size = 4096; size <= sizeof(buffer); size *= 16) {
		struct transfer a = { native, size }, b = { again, size }, c = { mount, size };
		char group[64];

		for (int write = 0; write <= also_write; write++) {
			unsigned long (*run)(void *, unsigned long) = write ? do_pwrite : do_pread;
			struct lane lanes[] = {
				{ "native", run, &a },
				{ "native again", run, &b },
				{ "mount", run, &c },
			};

			snprintf(group, sizeof(group), "%s %zu KiB, %s", write ? "pwrite" : "pread",
				 size / 1024, what);
			bench_group(group, lanes, 3);
		}
	}
}

static void file(struct kshared *k, const char *dir, const char *name, const char *what,
		 bool also_write)
{
	char *path = bench_path(dir, name);
	int native = bench_fd(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), path);
	int again = bench_fd(open(path, O_RDWR | O_CLOEXEC), path);
	int mount;

	ksrv_remove(k, name);
	bench_zero(ksrv_post(k, name, native, 0600), "ksrv_post");
	mount = bench_fd(
		open(bench_path(bench_path(bench.folders[0], "srv"), name), O_RDWR | O_CLOEXEC),
		"opening a posted file");
	bench_zero(ftruncate(native, FILE_BYTES), "ftruncate");
	fill(mount, native, FILE_BYTES);
	transfers(what, native, again, mount, also_write);
	close(mount);
	close(native);
	close(again);
	ksrv_remove(k, name);
	unlink(path);
}

static void *map(int fd)
{
	void *at = mmap(NULL, MAP_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (at == MAP_FAILED)
		bench_die("mmap");
	/* Every page of it is in the page table before anything is measured. */
	for (size_t offset = 0; offset < MAP_BYTES; offset += PAGE)
		((volatile char *)at)[offset]++;
	return at;
}

static void object(struct kshared *k)
{
	int native, again, mount;

	kmem_remove(k, "bench");
	native = bench_fd(kmem_create(k, "bench", MAP_BYTES, 0600, 0), "kmem_create");
	again = bench_fd(kmem_open(k, "bench", O_RDWR), "kmem_open");
	mount = bench_fd(open(bench_path(bench.folders[0], "mem/bench"), O_RDWR | O_CLOEXEC),
			 "opening an object");
	fill(mount, native, MAP_BYTES);
	transfers("memory object", native, again, mount, true);

	struct lane touch[] = {
		{ "native", do_touch, map(native) },
		{ "native again", do_touch, map(again) },
		{ "mount", do_touch, map(mount) },
	};
	struct lane faults[] = {
		{ "native", fault_write, &native },
		{ "native again", fault_write, &again },
		{ "mount", fault_write, &mount },
	};

	bench_group("mmap, random access", touch, 3);
	bench_group("mmap, first write to a page", faults, 3);
	for (int i = 0; i < 3; i++)
		faults[i].run = fault_read;
	bench_group("mmap, first read of a page", faults, 3);
	kmem_remove(k, "bench");
}

int main(int argc, char **argv)
{
	struct kshared *k;

	bench_init(argc, argv);
	k = kshared_connect(bench.folders[0]);
	if (!k)
		bench_die("%s", bench.folders[0]);
	file(k, bench.tmpfs, "file", "file on tmpfs", true);
	file(k, bench.disk, "file", "file on disk, cached", false);
	object(k);
	kshared_disconnect(k);
	return 0;
}
