// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_older.c - what other versions have saved, byte by byte, is read by this one.
 *
 * The records here were laid out by hand, as the first version wrote them. They do not follow the code: whoever has to change this file to make it
 * pass has made a worker that cannot take a folder over from an older keeper.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <daemon/worker.h>
#include <sys/socket.h>
#include <wire/port_serve.h>

#include "kind_fixture.h"

#define SRV_FACTS 40
#define FILE_MODE 0100644
#define DIR_MODE 041777

/* Record, version 1; the name and the kind's part follow. */
struct record_1 {
	uint16_t version, name_len, priv_len, orphan;
	uint32_t mode, uid, gid, slot;
	uint64_t parent, pos, charged_bytes;
	int64_t btime_ns, mtime_ns, ctime_ns;
	char kind[8];
};

/* The kinds' parts. */
struct srv_1 {
	unsigned char facts[SRV_FACTS];
	int64_t posted_ns;
	uint32_t poster_uid, poster_pid;
	char poster_comm[16];
};

struct mem_1 {
	uint32_t flags, shared, sealing;
};

struct port_1 {
	uint32_t what, page;
	int64_t posted_ns;
	uint32_t poster_uid, poster_pid;
	char poster_comm[16];
	uint64_t reserved[3];
};

static void put(struct folder *f, uint64_t id, uint64_t parent, const char *kind, const char *name,
		uint32_t mode, const void *priv, size_t priv_len, int fd)
{
	unsigned char bytes[KEEP_BLOB_MAX] = { 0 };
	struct record_1 *r = (struct record_1 *)bytes;
	struct change c = { .id = id };

	*r = (struct record_1){
		.version = 1,
		.name_len = (uint16_t)strlen(name),
		.priv_len = (uint16_t)priv_len,
		.mode = mode,
		.uid = 1000,
		.gid = 1001,
		.slot = (uint32_t)id,
		.parent = parent,
		.pos = 16 + id,
		.btime_ns = 1,
		.mtime_ns = 2,
		.ctime_ns = 3,
	};
	memcpy(r->kind, kind, strlen(kind));
	memcpy(bytes + sizeof(*r), name, strlen(name));
	memcpy(bytes + sizeof(*r) + strlen(name), priv, priv_len);
	c.bytes = bytes;
	c.len = sizeof(*r) + strlen(name) + priv_len;
	fake_change(&f->store, &c, fd);
}

/* A folder of the version before ports: two kinds, an entry each. */
static int setup(void **state)
{
	static const struct srv_1 srv = {
		.posted_ns = 4, .poster_uid = 1000, .poster_pid = 77, .poster_comm = "poster"
	};
	static const struct mem_1 mem = { 0 };
	struct folder *f = calloc(1, sizeof(*f));
	struct fake_record *r, *tmp;
	int fd = memfd_create("object", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_int_equal(sizeof(struct record_1), 80);
	folder_init(f);
	tree_free(f->tree);
	HASH_ITER(hh, f->store.records, r, tmp)
		fake_change(&f->store, &(struct change){ .id = r->id }, -1);
	f->store.store.shm->next_id = 9;
	f->store.store.shm->next_pos = 16 + 9;
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 4096), 0);
	put(f, 1, 0, "", "", 040755, "", 0, -1);
	put(f, 2, 1, "srv", "srv", DIR_MODE, "", 0, -1);
	put(f, 3, 1, "mem", "mem", DIR_MODE, "", 0, -1);
	put(f, 4, 2, "srv", "posted", FILE_MODE, &srv, sizeof(srv), fd);
	put(f, 5, 3, "mem", "object", FILE_MODE, &mem, sizeof(mem), fd);
	close(fd);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	folder_deinit(*state);
	free(*state);
	return 0;
}

static struct entry *look(struct folder *f, const struct kind *k, const char *name)
{
	struct entry *e = tree_lookup(folder_dir(f, k), name, strlen(name));

	assert_non_null(e);
	return e;
}

static unsigned int count(const struct entry *dir)
{
	unsigned int nr = 0;

	for (const struct entry *e = dir->children; e; e = e->next)
		nr++;
	return nr;
}

static void check_old_ones(struct folder *f)
{
	struct entry *e = look(f, &kind_srv, "posted");
	struct description d;

	assert_int_equal(e->id, 4);
	assert_int_equal(e->mode, FILE_MODE);
	assert_int_equal(e->uid, 1000);
	assert_int_equal(e->gid, 1001);
	assert_int_equal(e->ctime_ns, 3);
	assert_true(e->has_fd);
	entry_describe(e, &d);
	assert_int_equal(d.posted_ns, 4);
	assert_int_equal(d.poster_pid, 77);
	assert_string_equal(d.poster_comm, "poster");
	e = look(f, &kind_mem, "object");
	assert_int_equal(e->id, 5);
	entry_describe(e, &d);
	assert_int_equal(d.size_bytes, 4096);
}

static void test_a_folder_without_ports(void **state)
{
	struct folder *f = *state;
	unsigned int nr;

	folder_open(f);
	check_old_ones(f);
	nr = count(folder_dir(f, &kind_port));
	assert_true(nr > 0);
	assert_true(look(f, &kind_port, "load")->id > 9);
	/* They were made once. */
	folder_restart(f);
	check_old_ones(f);
	assert_int_equal(count(folder_dir(f, &kind_port)), nr);
}

static void test_a_folder_with_ports(void **state)
{
	static const struct port_1 page = { .what = PORT_WHAT_PAGE }, /* the first one: load */
		later = { .what = PORT_WHAT_PAGE, .page = 4711 },
				   service = { .posted_ns = 4,
					       .poster_uid = 1000,
					       .poster_comm = "server" };
	static const struct cred c = { .uid = 1000, .gid = 1001 };
	struct request rq = { .cred = &c, .fd = -1, .out_fd = -1, .oflags = O_RDONLY };
	struct folder *f = *state;
	struct description d;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	put(f, 6, 1, "port", "port", DIR_MODE, "", 0, -1);
	put(f, 7, 6, "port", "load", 0100444, &page, sizeof(page), -1);
	put(f, 8, 6, "port", "of-a-later-version", 0100444, &later, sizeof(later), -1);
	put(f, 9, 6, "port", "service", FILE_MODE, &service, sizeof(service), pair[0]);
	folder_open(f);
	check_old_ones(f);
	/* What was removed from it is not made again. */
	assert_int_equal(count(folder_dir(f, &kind_port)), 3);
	entry_describe(look(f, &kind_port, "load"), &d);
	assert_string_equal(d.what, "page");
	entry_describe(look(f, &kind_port, "service"), &d);
	assert_string_equal(d.what, "service");
	assert_string_equal(d.poster_comm, "server");
	assert_int_equal(d.access, O_RDWR);
	/* A page that is not known here is there, and cannot be had. */
	entry_describe(look(f, &kind_port, "of-a-later-version"), &d);
	assert_string_equal(d.what, "page");
	f->tree->publisher = pair[1];
	assert_int_equal(kind_port.share(look(f, &kind_port, "of-a-later-version"), &rq, 4),
			 -EOPNOTSUPP);
	close(pair[0]);
	close(pair[1]);
}

/* What stands before the snapshot: an older keeper's is as long, and says nothing of ports. */
static void test_the_keepers_hello(void **state)
{
	assert_int_equal(sizeof(struct worker_hello), 152);
	assert_int_equal(offsetof(struct worker_hello, may_pass), 24);
	assert_int_equal(offsetof(struct worker_hello, servers), 28);
	assert_int_equal(offsetof(struct worker_hello, ring_params), 32);
	assert_int_equal(KEEP_VERSION, 2);
	assert_int_equal(offsetof(struct shm, opens), 512 + 8 * SHM_OWNERS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_a_folder_without_ports, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_folder_with_ports, setup, teardown),
		cmocka_unit_test(test_the_keepers_hello),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
