// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz_port.c - both sides of a port, each against the other one's lies.
 *
 * The first byte says which. 0: a client changes its bell, its pool and its shadow bytes; whatever is carried out is aligned and
 * within the data, and nothing else changes. 1: the daemon's messages are any bytes. 2: a server sends any hello, with a page and a
 * pool of any content; a client that takes them reads and writes within them. No descriptor is left behind.
 */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/port_server.h"

#undef NDEBUG
#define PAGE 4096
#define NR_WORDS 40

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

struct input {
	const uint8_t *at;
	size_t left;
};

static unsigned long data[NR_WORDS], mirror[NR_WORDS];

static unsigned int take_byte(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->at++;
}

static void take_bytes(struct input *in, void *to, size_t len)
{
	size_t n = len < in->left ? len : in->left;

	memset(to, 0, len);
	memcpy(to, in->at, n);
	in->at += n;
	in->left -= n;
}

static uint64_t take_word(struct input *in)
{
	uint64_t word;

	take_bytes(in, &word, sizeof(word));
	return word;
}

static unsigned int count_fds(void)
{
	unsigned int nr = 0;
	DIR *dir = opendir("/proc/self/fd");

	while (readdir(dir))
		nr++;
	closedir(dir);
	return nr;
}

static int write_op(struct resource *r, const struct kport_writer *who, const void *from,
		    size_t len, uint64_t offset)
{
	assert(len % 8 == 0 && offset % 8 == 0);
	assert(len <= sizeof(data) && offset <= sizeof(data) - len);
	assert(who->uid == 7);
	if (len && *(const unsigned char *)from == 0xee)
		return -ENOSPC;
	memcpy((char *)mirror + offset, from, len);
	return 0;
}

static struct kport_server *new_server(struct resource *r, int *daemon,
				       const struct kport_serve_options *o)
{
	static const struct kport_field field = { .name = "x", .type = KPORT_U64, .count = 1 };
	struct kport_server *s = NULL;
	int pair[2], err;

	*r = (struct resource){ .data = data, .size = sizeof(data), .rops = { .write = write_op } };
	assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	err = port_server_new(&s, pair[0], "fuzz", r, &field, 1, o);
	assert(err == 0);
	*daemon = pair[1];
	return s;
}

static void lying_client(struct input *in)
{
	struct kport_serve_options o = { .policy = KPORT_REVOKE + take_byte(in) % 2 };
	struct port_open m = { .magic = PORT_SERVE_MAGIC, .access = 6, .uid = 7 };
	struct kport_server *s;
	struct resource r;
	struct kport *p = NULL;
	int daemon, pair[2], err;

	memset(data, 0, sizeof(data));
	memset(mirror, 0, sizeof(mirror));
	s = new_server(&r, &daemon, &o);
	assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	assert(port_server_accept(s, &m, pair[1], -1) == 0);
	err = port_client_new(&p, pair[0], true, 0, false);
	assert(err == 0);
	while (in->left) {
		unsigned int what = take_byte(in), i = take_byte(in);

		switch (what % 6) {
		case 0:
			p->bell->off = what & 0x80 ? take_word(in) : i * 8;
			break;
		case 1:
			p->bell->len = what & 0x80 ? take_word(in) : i * 8;
			break;
		case 2:
			take_bytes(in, p->pool + i % NR_WORDS * 8, 8);
			break;
		case 3:
			p->bell->request += i;
			break;
		case 4:
			take_bytes(in, p->bell, sizeof(*p->bell));
			break;
		case 5:
			/* The whole of its memory: shadow bytes, too. */
			take_bytes(in, (char *)p->bell + (i * 64) % (2 * PAGE - 8), 8);
			break;
		}
		assert(kport_server_dispatch(s, 0) >= 0);
		assert(!memcmp(data, mirror, sizeof(data)));
		assert(!memcmp(p->data, data, sizeof(data)));
	}
	kport_close(p);
	kport_server_free(s);
	close(daemon);
}

static void any_announcements(struct input *in)
{
	struct port_open m;
	struct kport_server *s;
	struct resource r;
	int daemon;

	s = new_server(&r, &daemon, NULL);
	while (in->left) {
		unsigned int what = take_byte(in), nr = what % 4;
		int pair[2], fds[3];

		assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
		for (int i = 0; i < 3; i++)
			fds[i] = pair[1];
		if (what & 0x80) {
			take_bytes(in, &m, sizeof(m));
		} else {
			m = (struct port_open){ .magic = PORT_SERVE_MAGIC };
			m.access = take_byte(in);
			m.flags = take_byte(in) % 4;
			m.uid = what & 1;
		}
		assert(port_send(daemon, &m, what & 0x40 ? take_byte(in) + 1 : sizeof(m), fds,
				 nr) == 0);
		close(pair[1]);
		assert(kport_server_dispatch(s, 0) >= 0);
		if (what & 0x20)
			assert(kport_server_dispatch(s, 0) >= 0);
		close(pair[0]);
	}
	kport_server_free(s);
	close(daemon);
}

static int fill_memory(struct input *in, size_t len, bool page)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	unsigned char *p;

	assert(ftruncate(fd, (off_t)len) == 0);
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page) {
		struct port_head h = { .magic = PORT_MAGIC,
				       .version = PORT_VERSION,
				       .head_size = sizeof(h),
				       .size = len,
				       .nr_fields = take_byte(in),
				       .fields_off = sizeof(h),
				       .field_size = sizeof(struct port_field),
				       .data_off = take_byte(in) * 8,
				       .data_size = 64 };

		take_bytes(in, &h.data_size, 2);
		memcpy(p, &h, sizeof(h));
		/* Anything over it, here and there. */
		for (unsigned int i = take_byte(in) % 32; i; i--) {
			unsigned int at = take_byte(in) * 8;

			take_bytes(in, p + at, 8);
		}
	} else {
		take_bytes(in, p, 64);
	}
	munmap(p, len);
	assert(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
	return fd;
}

static void use(struct kport *p, struct input *in)
{
	static unsigned long buf[8192];
	struct kport_info info;
	struct kport_field f;
	uint64_t value;
	size_t len;

	kport_info(p, &info);
	for (unsigned int i = 0; kport_field(p, i, &f) == 0; i++) {
		assert(strlen(f.name) < sizeof(f.name) && strlen(f.unit) < sizeof(f.unit));
		if (kport_get(p, &f, f.count - 1, &value) < 0)
			assert(errno == EINVAL || errno == EAGAIN || errno == ESTALE);
		assert(kport_find(p, f.name, &f) == 0);
	}
	for (unsigned int i = 0; i < 4; i++) {
		uint64_t offset = take_word(in);

		len = take_byte(in) * 8;
		if (kport_read(p, buf, len, offset) < 0)
			assert(errno == EFAULT || errno == EAGAIN || errno == ESTALE);
		if (p->size <= sizeof(buf))
			kport_read(p, buf, p->size, 0);
	}
	/* The server is gone: nothing waits. */
	kport_write(p, buf, 8, take_word(in));
	kport_write(p, buf, 8, 0);
}

static void lying_server(struct input *in)
{
	struct port_hello h = { .magic = PORT_SERVE_MAGIC };
	unsigned int what = take_byte(in);
	int pair[2], fds[3], err;
	struct kport *p = NULL;

	h.bell = what & 3;
	h.pool_off = what & 4 ? take_word(in) : PAGE;
	h.pool_size = what & 8 ? take_word(in) : take_byte(in) * 8;
	h.result = what & 16 ? (int32_t)take_word(in) : 0;
	fds[0] = fill_memory(in, what & 32 ? PAGE : 8 * PAGE, true);
	fds[1] = fill_memory(in, 2 * PAGE, false);
	fds[2] = eventfd(0, EFD_CLOEXEC);
	assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	assert(port_send(pair[1], &h, sizeof(h) - (what == 255), fds, what & 64 ? 3 : 1) == 0);
	close(pair[1]);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
	err = port_client_new(&p, pair[0], what & 64, what & 128 ? KPORT_FRESH : 0, false);
	if (err == 0) {
		use(p, in);
		kport_close(p);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct input in = { .at = bytes + 1, .left = len - 1 };
	unsigned int before;

	if (len == 0 || len > 4096)
		return 0;
	before = count_fds();
	switch (bytes[0] % 3) {
	case 0:
		lying_client(&in);
		break;
	case 1:
		any_announcements(&in);
		break;
	case 2:
		lying_server(&in);
		break;
	}
	assert(count_fds() == before);
	return 0;
}
