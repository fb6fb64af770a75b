/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuzz_folder.h - a folder for fuzzing: the real kinds, a store in memory, a relay, nothing outside of this process.
 *
 * The store and the ring are made once, the tree anew for every input. No thread number but our own, or none, comes from
 * an input: a descriptor is never taken out of another process.
 */
#ifndef KSHARED_FUZZ_FOLDER_H
#define KSHARED_FUZZ_FOLDER_H

#include <assert.h>
#include <engine/relay/poller.h>
#include <engine/relay/relay.h>
#include <kind/kinds.h>
#include <liburing.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "../unit/fake_store.h"

#define NR_SLOTS 8
#define NR_POLLS 32
#define HANDLES_MAX 256
#define MEMORY_MAX (1u << 20)
#define FILE_MAX (16u << 20)

struct folder {
	struct fake_store store;
	struct io_uring_params params;
	int ring_fd;
	struct relay *relay;
	struct poller *poller;
	struct tree *tree;
};

static inline void folder_wake(void *ctx, uint64_t handle)
{
}

static inline void folder_recovered(void *ctx, uint64_t unique, bool write, const void *data,
				    uint32_t bytes)
{
}

static inline void folder_init(struct folder *f)
{
	/* Nothing that an input asks for takes much memory. */
	struct rlimit limit = { .rlim_cur = FILE_MAX, .rlim_max = FILE_MAX };

	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &limit);
	fake_store_init(&f->store);
	f->ring_fd = -1;
}

/* A tree on what the store has. */
static inline void folder_restore(struct folder *f)
{
	struct tree_conf conf = {
		.kinds = kinds,
		.dir_mode = UINT32_MAX,
		.max_fds = 4,
		.uid = 5,
		.limits = { .max_entries = 64,
			    .max_bytes = MEMORY_MAX,
			    .max_entries_uid = 32,
			    .max_bytes_uid = MEMORY_MAX },
	};

	assert(fake_tree(&f->store, &f->tree, &conf) == 0);
	f->tree->relay = f->relay;
	f->tree->poller = f->poller;
}

/* An empty folder. */
static inline void folder_open(struct folder *f)
{
	if (f->ring_fd < 0)
		f->ring_fd = relay_ring_new(&f->params);
	if (f->ring_fd < 0)
		f->ring_fd = -1;
	assert(relay_new(&f->relay, f->ring_fd, &f->params, f->store.store.shm->slots, NR_SLOTS) ==
	       0);
	relay_recover(f->relay, folder_recovered, f);
	assert(poller_new(&f->poller, f->relay, f->store.store.shm->polls, NR_POLLS, folder_wake,
			  f) == 0);
	if (!f->tree)
		folder_restore(f);
	f->tree->relay = f->relay;
	f->tree->poller = f->poller;
}

static inline void folder_turn(struct folder *f, int ms)
{
	struct pollfd p = { .fd = relay_fd(f->relay), .events = POLLIN };

	poll(&p, 1, ms);
	relay_dispatch(f->relay);
}

/* What the owner of @e has for the folder: nothing if another entry of his was looked at before. */
static inline uint64_t folder_share(struct folder *f, const struct entry *e)
{
	uint64_t limit = e->uid == f->tree->uid ? UINT64_MAX : f->tree->limits.max_bytes_uid;
	uint64_t entries, bytes, sum = 0;
	struct entry *other, *tmp;
	bool seen = false, first = true;

	HASH_ITER(by_id, f->tree->ids, other, tmp) {
		if (other->id == 1 || other->uid != e->uid)
			continue;
		first &= other == e || seen;
		seen |= other == e;
		sum += other->charged_bytes;
	}
	quota_get(f->tree, e->uid, &entries, &bytes);
	assert(sum == bytes);
	return !first ? 0 : sum < limit ? sum : limit;
}

/* The sums still add up: what is charged is what there is. */
static inline void folder_check(struct folder *f)
{
	uint64_t entries = 0, bytes = 0, nr_fds = 0, own = 0;
	struct entry *e, *tmp;

	HASH_ITER(by_id, f->tree->ids, e, tmp) {
		entries += entry_counts(e);
		own += !entry_counts(e);
		bytes += e->id != 1 ? folder_share(f, e) : 0;
		nr_fds += e->fd >= 0;
		assert(e->pins == 0);
		assert(e->orphan || e->id == 1 ||
		       tree_lookup(e->parent, e->name, e->name_len) == e);
		assert(e->name_len == strlen(e->name) && e->name_len <= ENTRY_NAME_MAX);
		assert(fake_record(&f->store, e->id));
	}
	assert(entries == f->tree->entries);
	assert(bytes == f->tree->bytes);
	assert(nr_fds == f->tree->nr_fds);
	assert(entries + own == fake_store_count(&f->store));
}

static inline void folder_clear_dir(struct folder *f, struct entry *dir)
{
	static const struct cred cred = { .checked = true, .override = true };
	struct request rq = { .cred = &cred, .fd = -1, .out_fd = -1 };
	struct entry *e, *tmp;

	for (e = dir->children; e; e = tmp) {
		tmp = e->next;
		/* What goes with its directory. */
		if (entry_is_part(e))
			continue;
		folder_clear_dir(f, e);
		if (e->parent != f->tree->root)
			assert(tree_remove(dir, e->name, e->name_len, -1, &rq) == 0);
	}
}

/*
 * As if nothing had been: what the input made is removed, and its directories are again as they were at first. A new
 * tree for each input would take most of the time.
 */
static inline void folder_close(struct folder *f)
{
	struct shm *shm = f->store.store.shm;
	struct entry *e, *tmp;
	uint64_t last_id = 0, last_pos = 0;
	bool polls = false;

	for (int i = 0; i < NR_POLLS; i++)
		polls |= shm->polls[i] != 0;
	poller_free(f->poller);
	/* Handles that the input did not close; places are given out from the lowest on. */
	for (int i = 0; i < HANDLES_MAX; i++)
		writers_close(f->tree, shm->writers[i].word);
	folder_clear_dir(f, f->tree->root);
	for (e = f->tree->orphans; e; e = tmp) {
		tmp = e->next;
		tree_forget(e);
	}
	done_free(f->tree);
	HASH_ITER(by_id, f->tree->ids, e, tmp) {
		struct attr_change c = { .mask = ATTR_MODE | ATTR_UID | ATTR_GID,
					 .mode = e->kind ? e->kind->dir_mode : 0755,
					 .uid = 5,
					 .gid = 0 };
		struct request rq = { .cred = NULL };

		assert(tree_setattr(e, &c, &rq) == 0);
		last_id = e->id > last_id ? e->id : last_id;
		last_pos = e->pos > last_pos ? e->pos : last_pos;
	}
	folder_check(f);
	relay_free(f->relay);
	/* Who still waits in the ring goes with it. */
	if (polls && f->ring_fd >= 0) {
		close(f->ring_fd);
		f->ring_fd = -1;
	}
	f->store.nr_done = 0;
	memset(shm->polls, 0, sizeof(uint64_t) * NR_POLLS);
	shm->next_id = last_id;
	shm->next_pos = last_pos;
	shm->current = shm->poison = shm->poison_tries = 0;
}

/* Bytes of an input, zeros after its end. */
struct input {
	const uint8_t *at;
	size_t left;
};

static inline unsigned int take_byte(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->at++;
}

static inline size_t take_bytes(struct input *in, void *ret, size_t len)
{
	if (len > in->left)
		len = in->left;
	memcpy(ret, in->at, len);
	in->at += len;
	in->left -= len;
	return len;
}

#endif
