/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * page.h - a sampler's page: a memfd that is sealed, and its mapping, the only one by which it can be written.
 */
#ifndef KSHARED_ENGINE_SAMPLE_PAGE_H
#define KSHARED_ENGINE_SAMPLE_PAGE_H

#include <stddef.h>
#include <stdint.h>
#include <wire/port_pages.h>

/** struct sample_page - none if head is NULL; then fd is -1. */
struct sample_page {
	int fd;
	struct port_head *head;
	uint64_t size;
};

/**
 * sample_page_make() - make, describe and seal one.
 * @omit: beginnings of the names of fields that are not to be had, ended by NULL; NULL: none
 * Return: 0; -errno, and sample_page_drop() takes what there is.
 */
int sample_page_make(struct sample_page *p, const struct port_spec *spec, uint32_t nr_elements,
		     const char *const *omit, uint64_t period_ns, uint64_t generation);

/** sample_page_write() - all of the data, in one pass. */
void sample_page_write(struct sample_page *p, const void *data, uint64_t sampled);

/** sample_page_drop() - unmap and close. */
void sample_page_drop(struct sample_page *p);

/** sample_now_ns() - CLOCK_MONOTONIC. */
uint64_t sample_now_ns(void);

/**
 * sample_read() - the whole of a file, from its beginning, with a zero byte at the end.
 * @fd: -1: -ENOENT
 * Return: 0; -EFBIG it does not fit; -errno.
 */
int sample_read(int fd, char *text, size_t size);

#endif
