// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * page.c - sealed pages, and files read whole: see page.h.
 */
#include "engine/sample/page.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

/* Sealed before anybody else can have it; the mapping that is there already stays writable. */
int sample_page_make(struct sample_page *p, const struct port_spec *spec, uint32_t nr_elements,
		     const char *const *omit, uint64_t period_ns, uint64_t generation)
{
	long machine_page = sysconf(_SC_PAGESIZE);
	void *m;

	p->size = (port_page_size(spec, nr_elements) + machine_page - 1) / machine_page *
		machine_page;
	p->fd = memfd_create(spec->name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (p->fd < 0 || ftruncate(p->fd, p->size))
		return -errno;
	m = mmap(NULL, p->size, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, 0);
	if (m == MAP_FAILED)
		return -errno;
	p->head = m;
	if (fcntl(p->fd, F_ADD_SEALS,
		  F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return -errno;
	port_format(p->head, spec, nr_elements, PORT_SOURCE_SAMPLER, period_ns, generation);
	for (; omit && *omit; omit++)
		port_omit(p->head, *omit);
	return 0;
}

void sample_page_write(struct sample_page *p, const void *data, uint64_t sampled)
{
	port_write_begin(p->head);
	port_write(p->head, p->head->data_off, data, p->head->data_size);
	port_write_end(p->head, sampled);
}

void sample_page_drop(struct sample_page *p)
{
	if (p->head)
		munmap(p->head, p->size);
	if (p->fd >= 0)
		close(p->fd);
	*p = (struct sample_page){ .fd = -1 };
}

uint64_t sample_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

int sample_read(int fd, char *text, size_t size)
{
	size_t len = 0;

	if (fd < 0)
		return -ENOENT;
	for (;;) {
		ssize_t n = pread(fd, text + len, size - 1 - len, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		len += n;
		if (len == size - 1)
			return -EFBIG;
	}
	text[len] = '\0';
	return 0;
}
