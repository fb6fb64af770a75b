// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz_ring.c - a ring whose memory is written over between calls of both ends.
 *
 * The first byte chooses the ring; then each byte is a call of one end, or a word written somewhere: its place, relative to where it hurts, and its value
 * follow. What is lent is read or written whole.
 */
#include <assert.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <kshared/ring.h>

#include "lib/ring.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

#define MOST_CALLS 300

static const struct kring_conf confs[] = {
	{ .slots = 4, .slot_bytes = 64, .data_bytes = 4096 },
	{ .slots = 4, .data_bytes = 4096, .flags = KRING_PROTECTED },
	{ .shape = KRING_MANY_TO_ONE, .slots = 2, .data_bytes = 4096, .writers = 2 },
	{ .shape = KRING_BROADCAST, .slots = 4, .data_bytes = 4096, .readers = 2 },
	{ .shape = KRING_BROADCAST,
	  .flags = KRING_BLOCKING,
	  .slots = 4,
	  .data_bytes = 4096,
	  .readers = 2 },
};

struct play {
	int data, ctl;
	struct ring_layout l;
	uint64_t *at_data, *at_ctl;
	struct kring *w, *r;
	const uint8_t *bytes;
	size_t len;
};

static uint64_t take(struct play *p, size_t nr)
{
	uint64_t value = 0;

	nr = nr < p->len ? nr : p->len;
	memcpy(&value, p->bytes, nr);
	p->bytes += nr;
	p->len -= nr;
	return value;
}

static void overwrite(struct play *p, bool ctl)
{
	uint64_t where = take(p, 2), value = take(p, 8);
	uint64_t size = ctl && p->ctl >= 0 ? p->l.ctl_size : p->l.data_size;
	uint64_t *at = ctl && p->ctl >= 0 ? p->at_ctl : p->at_data;

	if (ctl && p->ctl < 0)
		at += p->l.ctl_off / 8, size -= p->l.ctl_off;
	else if (!ctl && where & 0x8000)
		at += p->l.slots_off / 8, size -= p->l.slots_off;
	at[where % 0x8000 % (size / 8)] = value;
}

static void call(struct play *p)
{
	static unsigned char buf[4096];
	uint8_t what = take(p, 1);
	struct kring_msg m[4];
	volatile unsigned int sum = 0;
	struct kring_stat s;
	void *to;
	int nr;

	switch (what % 10) {
	case 0:
		if (p->w)
			kring_send(p->w, buf, take(p, 2) % 2100, 0);
		break;
	case 1:
		to = p->w ? kring_reserve(p->w, take(p, 2) % 2100, 0) : NULL;
		if (to) {
			memset(to, 1, p->w->reserved_max);
			kring_commit(p->w, p->w->reserved_max, 0);
		}
		break;
	case 2:
		if (p->w)
			kring_send_many(p->w,
					(struct iovec[]){ { buf, 8 }, { buf, 70 }, { buf, 9 } }, 3,
					0);
		break;
	case 3:
		if (p->r)
			kring_recv(p->r, buf, sizeof(buf), 0);
		break;
	case 4:
		nr = p->r ? kring_peek(p->r, m, 4, 0) : 0;
		for (int i = 0; i < nr; i++)
			for (size_t k = 0; k < m[i].len_bytes; k++)
				sum += ((const unsigned char *)m[i].data)[k];
		if (nr > 0)
			kring_release(p->r, nr);
		break;
	case 5:
		kring_close(p->w);
		p->w = kring_attach(p->data, p->ctl, KRING_WRITER);
		break;
	case 6:
		kring_close(p->r);
		p->r = kring_attach(p->data, p->ctl,
				    KRING_READER | (what & 128 ? KRING_HISTORY : 0));
		break;
	case 7:
		if (p->w)
			kring_get_stat(p->w, &s);
		break;
	default:
		overwrite(p, what % 10 == 9);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct play p = {
		.data = memfd_create("d", MFD_ALLOW_SEALING), .ctl = -1, .bytes = bytes, .len = len
	};
	const struct kring_conf *conf = &confs[take(&p, 1) % (sizeof(confs) / sizeof(*confs))];
	struct ring_head h;

	if (conf->flags & KRING_PROTECTED)
		p.ctl = memfd_create("c", MFD_ALLOW_SEALING);
	assert(kring_format(p.data, p.ctl, conf) == 0 && ring_conf_head(&h, conf) == 0);
	p.l = ring_layout_of(&h);
	p.at_data = mmap(NULL, p.l.data_size, PROT_READ | PROT_WRITE, MAP_SHARED, p.data, 0);
	if (p.ctl >= 0)
		p.at_ctl = mmap(NULL, p.l.ctl_size, PROT_READ | PROT_WRITE, MAP_SHARED, p.ctl, 0);
	p.w = kring_attach(p.data, p.ctl, KRING_WRITER);
	p.r = kring_attach(p.data, p.ctl, KRING_READER);
	for (unsigned int i = 0; p.len && i < MOST_CALLS; i++) {
		/* An object without a head is waited for: that is another matter. */
		if (!ring_load(p.at_data))
			ring_store(p.at_data, 1);
		call(&p);
	}
	kring_close(p.w);
	kring_close(p.r);
	munmap(p.at_data, p.l.data_size);
	close(p.data);
	if (p.ctl >= 0) {
		munmap(p.at_ctl, p.l.ctl_size);
		close(p.ctl);
	}
	return 0;
}
