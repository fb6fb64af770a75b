/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kind_fixture.h - a folder with the real kinds on a store in memory, a ring, a relay and a poller.
 */
#ifndef KSHARED_TESTS_KIND_FIXTURE_H
#define KSHARED_TESTS_KIND_FIXTURE_H

#include <engine/relay/poller.h>
#include <kind/kinds.h>
#include <sys/stat.h>

#include "fake_store.h"
#include "relay_fixture.h"

#define NR_POLLS 16

struct folder {
	struct fake_store store;
	struct rig rig;
	struct poller *poller;
	struct tree_conf conf;
	struct tree *tree;
	unsigned int nr_woken;
	uint64_t next_request;
};

static inline void folder_wake(void *ctx, uint64_t handle)
{
	((struct folder *)ctx)->nr_woken++;
}

static inline void folder_open(struct folder *f)
{
	assert_int_equal(fake_tree(&f->store, &f->tree, &f->conf), 0);
	f->tree->relay = f->rig.relay;
	f->tree->poller = f->poller;
	f->tree->owner = f;
}

static inline void folder_init(struct folder *f)
{
	*f = (struct folder){
		.conf = { .kinds = kinds, .dir_mode = UINT32_MAX, .max_fds = 8, .uid = 99 }
	};
	fake_store_init(&f->store);
	rig_init(&f->rig);
	assert_int_equal(poller_new(&f->poller, f->rig.relay, f->store.store.shm->polls, NR_POLLS,
				    folder_wake, f),
			 0);
	folder_open(f);
}

static inline void folder_deinit(struct folder *f)
{
	tree_free(f->tree);
	poller_free(f->poller);
	rig_deinit(&f->rig);
	fake_store_deinit(&f->store);
}

/* The worker dies; another begins. */
static inline void folder_restart(struct folder *f)
{
	tree_free(f->tree);
	folder_open(f);
}

static inline struct entry *folder_dir(struct folder *f, const struct kind *k)
{
	return tree_lookup(f->tree->root, k->name, strlen(k->name));
}

#endif
