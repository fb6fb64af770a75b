/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * port.h - a published page: kernel structures as memory that readers map and read with plain loads.
 *
 *	+--------------------+ 0
 *	| struct port_head   |  what the page is, and the seqlock's word
 *	+--------------------+ fields_off
 *	| struct port_field  |  nr_fields of them: name, unit, type, where
 *	| ...                |
 *	+--------------------+ data_off
 *	| data               |  data_size bytes, which is all that changes besides seq, writes and sample_ns
 *	+--------------------+ size <= the length of the mapping
 *
 * There is one writer at a time: a BPF program on one CPU, or one thread of a sampler. Readers map PROT_READ.
 * Everything but seq, writes, sample_ns, generation and the data is constant from before the page is handed out, so that
 * port_check() once is enough, and offsets may be kept.
 *
 * DOC: the seqlock. The writer makes seq odd, writes, makes it even. A reader reads seq (even), the data, seq again; if both
 * are equal, what it has was written by one pass. Order: each load of data is an acquire, each store of data by
 * port_write_*() a release. So a reader who has seen one word of a pass synchronizes with that pass's first store (seq
 * odd), which it must then see in its second look at seq: it retries. One who read a word older than the pass that its
 * first look at seq was of is impossible: that look was an acquire of the store that ended that pass. A BPF writer has atomic
 * read-modify-writes of seq, which are full barriers, around plain stores of words, none of which can leave the pair. On
 * x86 all of this costs nothing but the order of instructions. The usual fence before the second look would do, too, but the
 * thread sanitizer knows no fences, and would find nothing wrong with anything.
 *
 * If the writer dies within a pass, seq remains odd: readers get -EAGAIN, and see how old sample_ns is. The next
 * writer's pass makes it even again, whatever it was (port_write_begin()). A BPF program cannot die.
 *
 * Numbers are in the machine's order of bytes: the page never leaves the machine.
 */
#ifndef KSHARED_WIRE_PORT_H
#define KSHARED_WIRE_PORT_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define PORT_MAGIC 0x3130545250485321ULL
#define PORT_VERSION 1 /* readers take pages of this version only; new fields need no new version */
#define PORT_TRIES 4096 /* of a snapshot, before -EAGAIN: some hundred times a writer's pass */
#define PORT_ALIGN 64
#define PORT_NAME_MAX 44
#define PORT_UNIT_MAX 12

enum port_source { PORT_SOURCE_BPF = 1, PORT_SOURCE_SAMPLER = 2, PORT_SOURCE_SERVICE = 3 };

enum port_type {
	PORT_U64 = 1,
	PORT_S64,
	PORT_U32,
	PORT_FIXED, /* unsigned, 64 bits, the lowest @fraction_bits of which are the fraction */
	PORT_CHARS, /* @width bytes, ended by a zero byte if shorter */
};

/**
 * struct port_head - the beginning of every page.
 * @size: from the head to the end of the data
 * @field_size: of one struct port_field: later versions may have longer ones
 * @period_ns: how often the data is written; 0: not regularly
 * @name: of the page
 * @seq: odd while data is being written
 * @writes: passes so far
 * @sample_ns: CLOCK_MONOTONIC when the data was read from the kernel; 0: never yet. Part of what seq protects.
 * @generation: of the publisher: another one after each restart
 */
struct port_head {
	uint64_t magic;
	uint32_t version;
	uint32_t head_size;
	uint64_t size;
	uint32_t nr_fields;
	uint32_t field_size;
	uint32_t fields_off;
	uint32_t data_off;
	uint32_t data_size;
	uint32_t source;
	uint64_t period_ns;
	uint64_t generation;
	char name[32];
	uint8_t reserved[32];
	uint64_t seq;
	uint64_t writes;
	uint64_t sample_ns;
	uint8_t reserved2[40];
};

/**
 * struct port_field - one value, or @count of them @stride bytes apart (of CPUs, of devices).
 * @width: bytes of one value of PORT_CHARS
 * @offset: from the head of the page
 */
struct port_field {
	char name[PORT_NAME_MAX];
	char unit[PORT_UNIT_MAX];
	uint8_t type;
	uint8_t fraction_bits;
	uint16_t width;
	uint32_t offset;
	uint32_t count;
	uint32_t stride;
};

_Static_assert(sizeof(struct port_head) == 192, "ABI");
_Static_assert(sizeof(struct port_field) == 72, "ABI");

/** port_field_size() - bytes of one value. Return: 0 no such type. */
static inline uint32_t port_field_size(const struct port_field *f)
{
	switch (f->type) {
	case PORT_U64:
	case PORT_S64:
	case PORT_FIXED:
		return 8;
	case PORT_U32:
		return 4;
	case PORT_CHARS:
		return f->width;
	default:
		return 0;
	}
}

/** port_field_at() - the field table's entry @i of a page that was checked. */
static inline const struct port_field *port_field_at(const struct port_head *h, uint32_t i)
{
	return (const struct port_field *)((const char *)h + h->fields_off +
					   (uint64_t)i * h->field_size);
}

/** port_check_field() - does every value of a field lie within the data, aligned? */
static inline bool port_check_field(const struct port_head *h, const struct port_field *f)
{
	uint64_t one = port_field_size(f);
	uint64_t align = f->type == PORT_CHARS ? 1 : one;
	uint64_t end;

	if (!one || !f->count || f->offset < h->data_off || f->fraction_bits > 63)
		return false;
	if (f->offset % align || (f->count > 1 && (f->stride < one || f->stride % align)))
		return false;
	end = f->offset + (uint64_t)(f->count - 1) * f->stride + one;
	return end <= (uint64_t)h->data_off + h->data_size && memchr(f->name, 0, sizeof(f->name)) &&
		memchr(f->unit, 0, sizeof(f->unit));
}

/**
 * port_check() - is what is mapped a page that this program understands, and sound?
 * @len_bytes: of the mapping
 * Return: 0; -EPROTO it is no page, or an inconsistent one; -EPROTONOSUPPORT another version.
 */
static inline int port_check(const struct port_head *h, uint64_t len_bytes)
{
	uint64_t table;

	if (len_bytes < sizeof(*h) || h->magic != PORT_MAGIC)
		return -EPROTO;
	if (h->version != PORT_VERSION)
		return -EPROTONOSUPPORT;
	table = h->fields_off + (uint64_t)h->nr_fields * h->field_size;
	if (h->size > len_bytes || h->head_size < sizeof(*h) || h->fields_off < h->head_size ||
	    h->fields_off % 8 || h->field_size < sizeof(struct port_field) || h->field_size % 8 ||
	    h->data_off < table || h->data_off % 8 || h->data_size % 8 ||
	    (uint64_t)h->data_off + h->data_size > h->size || !memchr(h->name, 0, sizeof(h->name)))
		return -EPROTO;
	for (uint32_t i = 0; i < h->nr_fields; i++)
		if (!port_check_field(h, port_field_at(h, i)))
			return -EPROTO;
	return 0;
}

/** port_find() - a field of a page that was checked, by name. Return: NULL: it has none. */
static inline const struct port_field *port_find(const struct port_head *h, const char *name)
{
	for (uint32_t i = 0; i < h->nr_fields; i++)
		if (strcmp(port_field_at(h, i)->name, name) == 0)
			return port_field_at(h, i);
	return NULL;
}

/** port_relax() - tell the processor that this is a loop that waits. */
static inline void port_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#endif
}

/**
 * port_snapshot() - copy a part of the data as one pass of the writer left it.
 * @off, @len_bytes: multiples of 8; within the data
 * @ret: written also if -EAGAIN, and then to be thrown away
 * @ret_sample_ns: when it was sampled; NULL: not asked
 * No system call; any number of threads.
 * Return: 0; -EFAULT unaligned, or not within the data; -EAGAIN the writer was there at every try, or died there.
 */
static inline int port_snapshot(const struct port_head *h, uint64_t off, void *ret,
				uint64_t len_bytes, uint64_t *ret_sample_ns)
{
	const uint64_t *from = (const uint64_t *)((const char *)h + off);
	uint64_t *to = (uint64_t *)ret;

	if ((off | len_bytes) % 8 || off < h->data_off || len_bytes > h->data_size ||
	    off - h->data_off > h->data_size - len_bytes)
		return -EFAULT;
	for (int i = 0; i < PORT_TRIES; i++) {
		uint64_t seq = __atomic_load_n(&h->seq, __ATOMIC_ACQUIRE);
		uint64_t sampled;

		if (seq & 1) {
			port_relax();
			continue;
		}
		for (uint64_t n = 0; n < len_bytes / 8; n++)
			to[n] = __atomic_load_n(&from[n], __ATOMIC_ACQUIRE);
		sampled = __atomic_load_n(&h->sample_ns, __ATOMIC_ACQUIRE);
		if (__atomic_load_n(&h->seq, __ATOMIC_RELAXED) != seq)
			continue;
		if (ret_sample_ns)
			*ret_sample_ns = sampled;
		return 0;
	}
	return -EAGAIN;
}

/**
 * port_age_ns() - how old a sample is.
 * @now_ns: CLOCK_MONOTONIC
 * Return: UINT64_MAX: there was never one; 0: it is newer than @now_ns.
 */
static inline uint64_t port_age_ns(uint64_t sample_ns, uint64_t now_ns)
{
	if (!sample_ns)
		return UINT64_MAX;
	return now_ns > sample_ns ? now_ns - sample_ns : 0;
}

/** port_stale() - has a regular publisher missed @periods of its periods? */
static inline bool port_stale(const struct port_head *h, uint64_t sample_ns, uint64_t now_ns,
			      unsigned int periods)
{
	return h->period_ns && port_age_ns(sample_ns, now_ns) / periods > h->period_ns;
}

/** port_write_begin() - begin a pass; the caller is the only writer. */
static inline void port_write_begin(struct port_head *h)
{
	__atomic_store_n(&h->seq, h->seq | 1, __ATOMIC_RELAXED);
}

/**
 * port_write() - write a part of the data, within a pass.
 * @off, @len_bytes: multiples of 8; the caller knows that they lie within the data
 */
static inline void port_write(struct port_head *h, uint64_t off, const void *data,
			      uint64_t len_bytes)
{
	uint64_t *to = (uint64_t *)((char *)h + off);
	const uint64_t *from = (const uint64_t *)data;

	for (uint64_t n = 0; n < len_bytes / 8; n++)
		__atomic_store_n(&to[n], from[n], __ATOMIC_RELEASE);
}

/** port_write_end() - end a pass of data that was sampled at @sample_ns. */
static inline void port_write_end(struct port_head *h, uint64_t sample_ns)
{
	__atomic_store_n(&h->writes, h->writes + 1, __ATOMIC_RELEASE);
	__atomic_store_n(&h->sample_ns, sample_ns, __ATOMIC_RELEASE);
	__atomic_store_n(&h->seq, h->seq + 1, __ATOMIC_RELEASE);
}

#endif
