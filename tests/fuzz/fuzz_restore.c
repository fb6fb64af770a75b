// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz_restore.c - what comes back from the keeper, and what comes to it: snapshots and commits of any content.
 *
 * The first byte says what the rest is: 0 a snapshot; 1 the parts of one, put together so that its lengths are right;
 * else messages for the keeper's table. A tree that was restored is walked, listed, changed, and must come back from
 * what it has written itself.
 */
#include <daemon/table.h>
#include <io/keep.h>

#include "fuzz_folder.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

/* The fields of a record; see core/record.c. */
#define RECORD_HEAD 80
#define OFFSET_NAME_LEN 2
#define OFFSET_PRIV_LEN 4
#define OFFSET_ORPHAN 6
#define OFFSET_MODE 8
#define OFFSET_SLOT 20
#define OFFSET_PARENT 24
#define OFFSET_POS 32
#define OFFSET_KIND 72

static const struct cred cred = { .uid = 1000, .gid = 1000, .checked = true };
static struct fake_store store;

static void lost(void)
{
	abort();
}

static void use_entry(struct tree *t, struct entry *e)
{
	struct request rq = { .cred = &cred, .id = { 1, e->id }, .fd = -1, .out_fd = -1 };
	struct description d;
	unsigned int depth = 0;
	struct entry *found;

	assert(e->name_len == strlen(e->name));
	assert(entry_is_dir(e) || e->kind);
	entry_describe(e, &d);
	assert(memchr(d.what, 0, sizeof(d.what)));
	for (struct entry *up = e; up; up = up->parent)
		assert(depth++ < 1000);
	if (e->parent)
		assert(tree_lookup(e->parent, e->name, e->name_len) == e);
	for (found = entry_is_dir(e) ? tree_next(e, 0) : NULL; found;
	     found = tree_next(e, found->pos))
		assert(found->parent == e);
	if (e->parent && e->parent != t->root)
		tree_rename(e->parent, e->name, e->name_len, e->parent, "renamed", 7, 0, &rq);
	entry_save(e, NULL, -1);
}

static struct tree *new_tree(void)
{
	struct tree_conf conf = {
		.store = &store.store, .kinds = kinds, .dir_mode = UINT32_MAX, .max_fds = 4
	};
	struct tree *t;

	assert(tree_new(&t, &conf) == 0);
	t->close_fd = fake_close_fd;
	t->mounted = true;
	return t;
}

static void restore(const uint8_t *bytes, size_t len)
{
	struct fake_record *r, *r_tmp;
	struct entry *e, *tmp;
	struct keep *k;
	struct tree *t;

	fake_store_init(&store);
	/* Numbers that were given out are in the shared memory, which outlives the worker. */
	store.store.shm->next_id = store.store.shm->next_pos = 1000;
	t = new_tree();
	assert(keep_new(&k, -1, store.store.shm, lost) == 0);
	if (keep_restore(k, t, bytes, len) == 0) {
		uint64_t nr;

		HASH_ITER(by_id, t->ids, e, tmp)
			entry_save(e, NULL, -1);
		HASH_ITER(by_id, t->ids, e, tmp)
			use_entry(t, e);
		nr = t->entries;
		tree_free(t);
		t = new_tree();
		assert(fake_store_restore(&store, t) == 0);
		assert(t->entries == nr);
	}
	tree_free(t);
	keep_free(k);
	HASH_ITER(hh, store.records, r, r_tmp)
		assert(r->len <= KEEP_BLOB_MAX);
	fake_store_deinit(&store);
}

static void put16(unsigned char *record, size_t at, size_t value)
{
	uint16_t v = (uint16_t)value;

	memcpy(record + at, &v, sizeof(v));
}

static void put64(unsigned char *record, size_t at, uint64_t v)
{
	memcpy(record + at, &v, sizeof(v));
}

/* One item: its record is of the right version and lengths; what it says comes from the input. */
static size_t build_item(struct input *in, unsigned char *at)
{
	unsigned int how = take_byte(in), kind = take_byte(in);
	size_t name_len = how & 0x0f, priv_len = 0;
	struct keep_item item = { .id = how >> 7 ? take_byte(in) : kind >> 4 };
	unsigned char *record = at + sizeof(item);

	memset(record, 0, KEEP_BLOB_MAX);
	take_bytes(in, record + OFFSET_MODE, 12);
	put16(record, 0, 1);
	record[OFFSET_MODE + 2] = record[OFFSET_MODE + 3] = 0;
	if (!(how & 0x10)) {
		bool dir = how & 0x20;

		record[OFFSET_MODE + 1] =
			(unsigned char)((record[OFFSET_MODE + 1] & 0x0f) | (dir ? 0x40 : 0x80));
		if (!dir && kind % 4 != 3)
			priv_len = kinds[kind % 2]->entry_size;
	} else {
		priv_len = take_byte(in) % (KIND_ENTRY_MAX + 1);
	}
	put16(record, OFFSET_NAME_LEN, name_len);
	put16(record, OFFSET_PRIV_LEN, priv_len);
	put16(record, OFFSET_ORPHAN, how & 0x40);
	record[OFFSET_SLOT] = (unsigned char)take_byte(in);
	put64(record, OFFSET_PARENT, take_byte(in) & 15);
	put64(record, OFFSET_POS, take_byte(in));
	if (kind % 4 < 2)
		strcpy((char *)record + OFFSET_KIND, kinds[kind % 2]->name);
	else if (kind % 4 == 3)
		take_bytes(in, record + OFFSET_KIND, 8);
	take_bytes(in, record + RECORD_HEAD, name_len + priv_len);
	item.len = (uint32_t)(RECORD_HEAD + name_len + priv_len);
	item.has_fd = kind & 8;
	memcpy(at, &item, sizeof(item));
	return sizeof(item) + ((item.len + 7) & ~7u);
}

static void build(struct input *in)
{
	static _Alignas(8) unsigned char bytes[sizeof(struct keep_snapshot) +
					       17 * (sizeof(struct keep_item) + KEEP_BLOB_MAX)];
	struct keep_snapshot head = { .version = KEEP_VERSION };
	size_t len = sizeof(head);
	unsigned char *copy;

	while (in->left && head.nr_items < 16) {
		len += build_item(in, bytes + len);
		head.nr_items++;
	}
	memcpy(bytes, &head, sizeof(head));
	copy = malloc(len);
	memcpy(copy, bytes, len);
	restore(copy, len);
	free(copy);
}

static void commits(struct input *in)
{
	struct keep_snapshot head = { .version = KEEP_VERSION };
	int fd = memfd_create("snapshot", MFD_CLOEXEC);
	unsigned int fds = count_fds();
	static struct shm_closing closing[SHM_OWNERS];
	struct table *t;

	assert(table_new(&t, 1000, closing) == 0);
	while (in->left) {
		struct keep_commit m = { .op = KEEP_COMMIT };
		unsigned int how = take_byte(in), len = take_byte(in) | (take_byte(in) & 15) << 8;
		_Alignas(8) unsigned char bytes[KEEP_MSG_MAX * 2];
		size_t n = sizeof(m);
		bool held;
		int r;

		m.nr_changes = how & 3;
		m.has_fd = how & 4;
		m.done_id[1] = how & 8 ? how : 0;
		if (how & 0x80) {
			n = take_bytes(in, bytes, len % sizeof(bytes));
		} else {
			for (unsigned int i = 0; i < m.nr_changes && i < 2; i++) {
				struct keep_change c = { .id = take_byte(in) & 7,
							 .what = 1 + (take_byte(in) & 1),
							 .len = len % (KEEP_BLOB_MAX + 2) };

				if (c.what == KEEP_DEL)
					c.len = 0;
				memcpy(bytes + n, &c, sizeof(c));
				n += sizeof(c);
				memset(bytes + n, 0, c.len + 8);
				take_bytes(in, bytes + n, c.len);
				n += (c.len + 7) & ~7u;
			}
			memcpy(bytes, &m, sizeof(m));
		}
		table_commit(t, bytes, n, (how & 0x10) ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1);
		r = table_borrow(t, how >> 5, &held);
		if (r >= 0 && !held)
			close(r);
	}
	assert(table_snapshot(t, fd, &head) == 0);
	table_free(t);
	assert(count_fds() == fds);
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct input in = { .at = bytes + 1, .left = len - 1 };
	uint8_t *copy;

	if (len == 0)
		return 0;
	switch (bytes[0]) {
	case 0:
		copy = malloc(len); /* aligned, as a mapped snapshot is */
		memcpy(copy, bytes + 1, len - 1);
		restore(copy, len - 1);
		free(copy);
		break;
	case 1:
		build(&in);
		break;
	default:
		commits(&in);
	}
	return 0;
}
