// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * poller.c - see poller.h. A handle belongs to one open file, and an open file has one handle.
 */
#include <engine/relay/poller.h>
#include <errno.h>
#include <stdlib.h>
#include <uthash.h>

struct waiter {
	struct relay_wait wait;
	struct poller *poller;
	uint64_t handle;
	uint64_t word;
	uint32_t place; /* in the shared memory */
	unsigned int events;
	bool arming;
	UT_hash_handle by_word;
};

struct poller {
	struct relay *relay;
	uint64_t *handles;
	uint32_t *free_places;
	uint32_t nr_free;
	uint32_t nr_handles;
	struct waiter *waiters;
	void (*wake)(void *ctx, uint64_t handle);
	void *ctx;
};

int poller_new(struct poller **ret, struct relay *relay, uint64_t *handles, uint32_t nr_handles,
	       void (*wake)(void *ctx, uint64_t handle), void *ctx)
{
	struct poller *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->free_places = calloc(nr_handles, sizeof(*p->free_places));
	if (!p->free_places) {
		free(p);
		return -ENOMEM;
	}
	p->relay = relay;
	p->handles = handles;
	p->nr_handles = nr_handles;
	p->wake = wake;
	p->ctx = ctx;
	for (uint32_t i = nr_handles; i-- > 0;)
		if (!handles[i])
			p->free_places[p->nr_free++] = i;
	*ret = p;
	return 0;
}

static void drop(struct waiter *w)
{
	struct poller *p = w->poller;

	relay_wait_cancel(p->relay, &w->wait);
	p->handles[w->place] = 0;
	p->free_places[p->nr_free++] = w->place;
	HASH_DELETE(by_word, p->waiters, w);
	free(w);
}

void poller_free(struct poller *p)
{
	struct waiter *w, *tmp;

	if (!p)
		return;
	HASH_ITER(by_word, p->waiters, w, tmp) {
		HASH_DELETE(by_word, p->waiters, w);
		free(w);
	}
	free(p->free_places);
	free(p);
}

void poller_recover(struct poller *p)
{
	for (uint32_t i = 0; i < p->nr_handles; i++) {
		uint64_t handle = p->handles[i];

		if (!handle)
			continue;
		p->wake(p->ctx, handle);
		p->handles[i] = 0;
		p->free_places[p->nr_free++] = i;
	}
}

static void on_ready(struct relay_wait *wait, unsigned int revents)
{
	struct waiter *w = (struct waiter *)((char *)wait - offsetof(struct waiter, wait));
	struct poller *p = w->poller;

	/* The state when it was armed is what the caller looks at himself. */
	if (w->arming)
		return;
	p->wake(p->ctx, w->handle);
	if (!wait->index)
		drop(w);
}

int poller_arm(struct poller *p, uint64_t handle, uint64_t word, int fd, unsigned int events)
{
	struct waiter *w;
	int r;

	HASH_FIND(by_word, p->waiters, &word, sizeof(word), w);
	if (w) {
		if ((events & ~w->events) == 0)
			return 0;
		events |= w->events;
		drop(w);
	}
	if (p->nr_free == 0)
		return -ENOSPC;
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->poller = p;
	w->handle = handle;
	w->word = word;
	w->events = events;
	w->wait.ready = on_ready;
	w->place = p->free_places[--p->nr_free];
	p->handles[w->place] = handle;
	HASH_ADD(by_word, p->waiters, word, sizeof(w->word), w);
	w->arming = true;
	r = relay_watch(p->relay, &w->wait, fd, events);
	w->arming = false;
	if (!w->wait.index)
		drop(w);
	return r;
}

void poller_close(struct poller *p, uint64_t word)
{
	struct waiter *w;

	HASH_FIND(by_word, p->waiters, &word, sizeof(word), w);
	if (w)
		drop(w);
}
