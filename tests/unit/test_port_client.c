// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_port_client.c - using a port: what is refused, and what a server that means ill can do.
 */
#include "port_fixture.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>

#define PAGE 4096
#define SIZE (NR_WORDS * sizeof(long))

static int setup(void **state)
{
	static struct world w;

	memset(&w, 0, sizeof(w));
	for (size_t i = 0; i < NR_WORDS; i++)
		w.data[i] = i * 0x0101010101010101;
	world_init(&w, NULL);
	world_start(&w);
	*state = &w;
	return 0;
}

static int teardown(void **state)
{
	world_deinit(*state);
	return 0;
}

#define FAILS(call, error)                        \
	do {                                      \
		errno = 0;                        \
		assert_int_equal((call), -1);     \
		assert_int_equal(errno, (error)); \
	} while (0)

/* Of all that is near a limit, just what is aligned and within the data is read and written. */
static void test_alignment_and_bounds(void **state)
{
	static const uint64_t edges[] = { 0,
					  1,
					  4,
					  7,
					  8,
					  16,
					  SIZE - 16,
					  SIZE - 8,
					  SIZE - 1,
					  SIZE,
					  SIZE + 1,
					  SIZE + 8,
					  PAGE,
					  2 * PAGE,
					  INT32_MAX,
					  UINT32_MAX - 7ULL,
					  UINT32_MAX + 1ULL,
					  INT64_MAX - 7,
					  1ULL << 63,
					  UINT64_MAX - SIZE - 7,
					  UINT64_MAX - SIZE + 1,
					  UINT64_MAX - 7,
					  UINT64_MAX };
	const size_t nr = sizeof(edges) / sizeof(edges[0]);
	const unsigned int ways[] = { 0, KPORT_STRICT, KPORT_FRESH };
	static unsigned long buf[NR_WORDS + 1];
	unsigned int right = 0;

	for (size_t way = 0; way < 3; way++) {
		struct kport *p = world_open(*state, true, ways[way]);

		for (size_t i = 0; i < nr * nr * 2; i++) {
			uint64_t len = edges[i % nr], offset = edges[i / nr % nr],
				 odd = i / nr / nr;
			char *at = (char *)buf + odd;
			bool good = !odd && len % 8 == 0 && offset % 8 == 0 && len <= SIZE &&
				offset <= SIZE && len + offset <= SIZE;

			right += good;
			if (good) {
				assert_int_equal(kport_read(p, at, len, offset), len);
				assert_memory_equal(at, p->data + offset, len);
				assert_int_equal(kport_write(p, at, len, offset), len);
				assert_int_equal(kport_ring(p, len, offset), 0);
			} else {
				FAILS(kport_read(p, at, len, offset), EFAULT);
				FAILS(kport_write(p, at, len, offset), EFAULT);
				if (!odd)
					FAILS(kport_ring(p, len, offset), EFAULT);
			}
		}
		FAILS(kport_write(p, NULL, 8, 0), EFAULT);
		kport_close(p);
	}
	assert_true(right > 50);
}

static void test_read_what_is_served(void **state)
{
	struct world *w = *state;
	struct kport *p = world_open(w, false, 0);
	unsigned long buf[NR_WORDS];

	/* All lengths, since the way of copying depends on it. */
	for (size_t len = 0; len <= 40 * 8; len += 8) {
		memset(buf, 0xff, sizeof(buf));
		assert_int_equal(kport_read(p, buf, len, 24), len);
		assert_memory_equal(buf, (char *)w->data + 24, len);
		assert_int_equal(buf[len / 8], ~0UL);
	}
	FAILS(kport_write(p, buf, 8, 0), EBADF);
	FAILS(kport_ring(p, 8, 0), EBADF);
	FAILS(kport_flush(p), EBADF);
	kport_close(p);
}

static void test_fields(void **state)
{
	struct world *w = *state;
	struct kport *p = world_open(w, true, 0);
	struct kport_field f;
	uint64_t value;
	uint32_t half;

	for (unsigned int i = 0; i < NR_FIELDS; i++) {
		assert_int_equal(kport_field(p, i, &f), 0);
		assert_string_equal(f.name, world_fields[i].name);
		assert_string_equal(f.unit, world_fields[i].unit);
		assert_int_equal(f.type, world_fields[i].type);
		assert_int_equal(f.offset, world_fields[i].offset);
		assert_int_equal(f.count, world_fields[i].count);
		assert_int_equal(f.fraction_bits, world_fields[i].fraction_bits);
	}
	FAILS(kport_field(p, NR_FIELDS, &f), ENOENT);
	FAILS(kport_find(p, "none", &f), ENOENT);
	FAILS(kport_find(p, "", &f), ENOENT);

	assert_int_equal(kport_find(p, "last", &f), 0);
	assert_int_equal(kport_get(p, &f, 0, &value), 0);
	assert_int_equal(value, w->data[NR_WORDS - 1]);
	assert_int_equal(kport_find(p, "halves", &f), 0);
	for (unsigned int i = 0; i < 4; i++) {
		memcpy(&half, (char *)w->data + 8 + i * 4, 4);
		assert_int_equal(kport_get(p, &f, i, &value), 0);
		assert_int_equal(value, half);
	}
	FAILS(kport_get(p, &f, 4, &value), ERANGE);
	assert_int_equal(kport_find(p, "rows", &f), 0);
	assert_int_equal(kport_get(p, &f, 2, &value), 0);
	assert_int_equal(value, w->data[(24 + 64) / 8]);
	assert_int_equal(kport_find(p, "text", &f), 0);
	assert_int_equal(f.width, 13);
	FAILS(kport_get(p, &f, 0, &value), EINVAL);
	/* A field that the caller has made up leads nowhere. */
	f = (struct kport_field){ .type = KPORT_U64,
				  .count = UINT32_MAX,
				  .stride = UINT32_MAX,
				  .offset = UINT64_MAX - 7 };
	FAILS(kport_get(p, &f, 0, &value), EFAULT);
	FAILS(kport_get(p, &f, UINT32_MAX - 1, &value), EFAULT);
	f.offset = SIZE;
	FAILS(kport_get(p, &f, 0, &value), EFAULT);
	f.offset = 4;
	FAILS(kport_get(p, &f, 0, &value), EFAULT);
	kport_close(p);
}

static void test_maps(void **state)
{
	struct kport *reader = world_open(*state, false, 0), *writer = world_open(*state, true, 0);
	size_t len = 0;
	char *at;

	at = kport_map(reader, PROT_READ, &len);
	assert_ptr_equal(at, reader->data);
	assert_int_equal(len, SIZE);
	errno = 0;
	assert_null(kport_map(reader, PROT_READ | PROT_WRITE, &len));
	assert_int_equal(errno, EBADF);
	assert_null(kport_map(writer, PROT_WRITE, &len));
	assert_int_equal(errno, EINVAL);
	at = kport_map(writer, PROT_READ | PROT_WRITE, &len);
	assert_int_equal(len, SIZE);
	memset(at + 64, 0x7e, 64);
	assert_int_equal(kport_ring(writer, 64, 64), 0);
	assert_memory_equal(reader->data + 64, at + 64, 64);
	/* The page is for reading. */
	assert_int_equal(mprotect((void *)writer->head, PAGE, PROT_READ | PROT_WRITE), -1);
	kport_close(reader);
	kport_close(writer);
}

static void test_flags_need_a_processor(void **state)
{
	struct kport *p = NULL;
	int key = pkey_alloc(0, 0), r;
	unsigned long word = 5;

	if (key >= 0)
		pkey_free(key);
	r = world_try(*state, true, MY_UID, KPORT_PKEY, &p);
	assert_int_equal(r, key >= 0 ? 0 : -EOPNOTSUPP);
	if (r == 0) {
		assert_int_equal(kport_write(p, &word, 8, 0), 8);
		kport_close(p);
	}
}

static void test_polled_writes_are_not_lost(void **state)
{
	struct world *w = *state;
	struct kport *p = world_open(w, true, KPORT_POLLED);
	unsigned long word;

	assert_int_equal(kport_flush(p), 0);
	for (word = 1; word < 50; word++)
		assert_int_equal(kport_write(p, &word, 8, word * 8), 8);
	assert_int_equal(kport_flush(p), 0);
	world_stop(w);
	for (word = 1; word < 50; word++)
		assert_int_equal(w->data[word], word);
	kport_close(p);
}

static void test_server_that_is_gone(void **state)
{
	struct world *w = *state;
	struct kport *p = world_open(w, true, 0), *polled = world_open(w, true, KPORT_POLLED);
	struct kport_info info;
	unsigned long buf[2] = { 0 };
	uint64_t since_ns;

	assert_int_equal(kport_info(p, &info), 0);
	assert_int_equal(info.gone, 0);
	assert_int_equal(info.size, SIZE);
	assert_int_equal(info.pool_size, SIZE);
	assert_int_equal(info.source, KPORT_SOURCE_SERVICE);
	assert_string_equal(info.name, "world");
	assert_true(info.sample_ns && info.writes == 1);
	world_stop(w);
	assert_int_equal(kport_write(polled, buf, 8, 0), 8);
	kport_server_free(w->s);
	w->s = NULL;
	since_ns = port_now_ns();
	FAILS(kport_write(p, buf, 8, 0), EPIPE);
	FAILS(kport_flush(polled), EPIPE);
	FAILS(kport_write(polled, buf, 8, 0), EPIPE);
	assert_true(port_now_ns() - since_ns < 1000000000);
	assert_int_equal(kport_info(p, &info), 0);
	assert_int_equal(info.gone, 1);
	/* The last sample stays. */
	assert_int_equal(kport_read(p, buf, 16, 8), 16);
	assert_int_equal(buf[0], w->data[1]);
	kport_close(p);
	kport_close(polled);
}

/* A server made by hand, which can be anything. */
struct fake {
	struct port_hello hello;
	int page, pool, bell;
	int nr_fds;
	size_t len;
};

static int make_memory(size_t len, int seals, void (*fill)(void *))
{
	int fd = memfd_create("fake", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	void *p;

	assert_int_equal(ftruncate(fd, (off_t)len), 0);
	if (fill) {
		p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		fill(p);
		munmap(p, len);
	}
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static struct port_head fake_head(void)
{
	return (struct port_head){ .magic = PORT_MAGIC,
				   .version = PORT_VERSION,
				   .head_size = sizeof(struct port_head),
				   .size = 256 + 64,
				   .nr_fields = 0,
				   .field_size = sizeof(struct port_field),
				   .fields_off = sizeof(struct port_head),
				   .data_off = 256,
				   .data_size = 64,
				   .source = PORT_SOURCE_SERVICE,
				   .name = "fake" };
}

static void fill_page(void *page)
{
	*(struct port_head *)page = fake_head();
}

static void fill_beyond(void *page)
{
	struct port_head *h = page;

	*h = fake_head();
	h->size = PAGE + 8;
	h->data_size = PAGE + 8 - 256;
}

static void fill_far(void *page)
{
	struct port_head *h = page;

	*h = fake_head();
	h->data_off = UINT32_MAX - 7;
}

static void fill_many(void *page)
{
	struct port_head *h = page;

	*h = fake_head();
	h->nr_fields = UINT32_MAX;
}

static struct fake fake_new(void)
{
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW;
	struct fake f = { .hello = { .magic = PORT_SERVE_MAGIC,
				     .bell = PORT_BELL_EVENTFD,
				     .pool_off = PAGE,
				     .pool_size = 64 },
			  .nr_fds = 3,
			  .len = sizeof(struct port_hello) };

	f.page = make_memory(PAGE, seals, fill_page);
	f.pool = make_memory(2 * PAGE, seals, NULL);
	f.bell = eventfd(0, EFD_CLOEXEC);
	return f;
}

/* What becomes of a client that is sent this. The fake's descriptors are closed. Return: as port_client_new(). */
static int meet(struct fake f, struct kport **ret)
{
	int fds[4] = { f.page, f.pool, f.bell, f.bell }, pair[2], r;
	struct kport *p = NULL;
	struct iovec iov = { .iov_base = &f.hello, .iov_len = f.len };
	char control[CMSG_SPACE(sizeof(fds))] = "";
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	if (f.nr_fds) {
		mh.msg_control = control;
		mh.msg_controllen = CMSG_SPACE((unsigned int)f.nr_fds * sizeof(int));
		*CMSG_FIRSTHDR(&mh) =
			(struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
		CMSG_FIRSTHDR(&mh)->cmsg_len = CMSG_LEN((unsigned int)f.nr_fds * sizeof(int));
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&mh)), fds, (unsigned int)f.nr_fds * sizeof(int));
	}
	assert_true(sendmsg(pair[1], &mh, 0) >= 0);
	close(f.page);
	close(f.pool);
	close(f.bell);
	r = port_client_new(&p, pair[0], true, 0, false);
	close(pair[1]);
	if (r == 0 && ret)
		*ret = p;
	else if (r == 0)
		kport_close(p);
	return r;
}

static int other_fd(int *fd, int other)
{
	close(*fd);
	*fd = other;
	return other;
}

/* Each of these is one change to what is accepted; none of it leaves a descriptor behind. */
static void test_what_a_server_may_not_send(void **state)
{
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW;
	unsigned int before;
	struct fake f;
	int fds[2];

	assert_int_equal(meet(fake_new(), NULL), 0);
	before = count_fds();
#define MEET(change, error)                               \
	do {                                              \
		f = fake_new();                           \
		change;                                   \
		assert_int_equal(meet(f, NULL), (error)); \
		assert_int_equal(count_fds(), before);    \
	} while (0)
	MEET((void)0, 0);
	MEET(f.hello.magic++, -EPROTO);
	MEET(f.hello.result = 1, -EPROTO);
	MEET(f.hello.result = INT32_MIN, -EPROTO);
	MEET(f.hello.result = -EDQUOT, -EDQUOT);
	MEET(f.len--, -EPROTO);
	MEET(f.nr_fds = 0, -EPROTO);
	MEET(f.nr_fds = 2, -EPROTO);
	MEET(f.nr_fds = 4, -EPROTO);
	MEET(f.hello.bell = PORT_BELL_NONE, -EPROTO);
	MEET(f.hello.bell = PORT_BELL_BPF, -EPROTO);
	MEET(f.hello.bell = 77, -EPROTO);
	MEET(f.hello.pool_off = 0, -EPROTO);
	MEET(f.hello.pool_off = PAGE + 8, -EPROTO);
	MEET(f.hello.pool_off = 2 * PAGE, -EPROTO);
	MEET(f.hello.pool_off = -(uint64_t)PAGE, -EPROTO);
	MEET(f.hello.pool_size = 0, -EPROTO);
	MEET(f.hello.pool_size = 12, -EPROTO);
	MEET(f.hello.pool_size = PAGE, -EPROTO);
	MEET(f.hello.pool_size = UINT64_MAX - 7, -EPROTO);
	MEET(f.hello.pool_size = -(uint64_t)PAGE, -EPROTO);
	MEET(other_fd(&f.page, make_memory(PAGE, F_SEAL_GROW, fill_page)), -EPROTO);
	MEET(other_fd(&f.page, make_memory(PAGE, seals, NULL)), -EPROTO);
	MEET(other_fd(&f.page, make_memory(128, seals, NULL)), -EPROTO);
	MEET(other_fd(&f.page, make_memory(0, seals, NULL)), -EPROTO);
	MEET(other_fd(&f.page, make_memory(PAGE, seals, fill_beyond)), -EPROTO);
	MEET(other_fd(&f.page, make_memory(PAGE, seals, fill_far)), -EPROTO);
	MEET(other_fd(&f.page, make_memory(PAGE, seals, fill_many)), -EPROTO);
	MEET(other_fd(&f.page, open("/dev/zero", O_RDWR | O_CLOEXEC)), -EPROTO);
	MEET(other_fd(&f.page, open("/proc/self/exe", O_RDONLY | O_CLOEXEC)), -EPROTO);
	MEET(other_fd(&f.page, eventfd(0, EFD_CLOEXEC)), -EPROTO);
	MEET(other_fd(&f.pool, make_memory(2 * PAGE, F_SEAL_GROW, NULL)), -EPROTO);
	MEET(other_fd(&f.pool, make_memory(PAGE, seals, NULL)), -EPROTO);
	MEET(other_fd(&f.pool, make_memory(2 * PAGE, seals | F_SEAL_WRITE, NULL)), -EPROTO);
	MEET(other_fd(&f.bell, make_memory(PAGE, seals, NULL)), -EPROTO);
	MEET((assert_int_equal(pipe2(fds, O_CLOEXEC), 0), close(fds[0]), other_fd(&f.bell, fds[1])),
	     -EPROTO);
}

static void test_huge_pages_are_refused(void **state)
{
	struct fake f = fake_new();
	int fd = memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);

	if (fd >= 0 && ftruncate(fd, 2 << 20) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0) {
		other_fd(&f.page, fd);
		assert_int_equal(meet(f, NULL), -EPROTO);
		return;
	}
	close(f.page);
	close(f.pool);
	close(f.bell);
	skip();
}

static void test_server_that_says_nothing(void **state)
{
	uint64_t since_ns = port_now_ns();
	struct kport *p;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	close(pair[1]);
	assert_int_equal(port_client_new(&p, pair[0], true, 0, false), -ECONNREFUSED);
	assert_true(port_now_ns() - since_ns < 1000000000);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(port_client_new(&p, pair[0], true, 0, false), -ETIMEDOUT);
	assert_true(port_now_ns() - since_ns >= PORT_HELLO_MS * 1000000ULL);
	close(pair[1]);
}

/* Whatever the server does to its page later, reads stay where they were, and end. */
static void test_page_that_changes_its_mind(void **state)
{
	struct fake f = fake_new();
	struct port_head *h;
	struct port_bell *b;
	struct kport *p = NULL;
	struct kport_info info;
	struct kport_field field;
	unsigned long buf[8] = { 0 };
	uint64_t age_ns;

	h = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, f.page, 0);
	b = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, f.pool, 0);
	assert_int_equal(meet(f, &p), 0);
	/* What it says of a write is no errno. It has hung up, but it had done it before. */
	b->result = 5;
	b->done = 1;
	FAILS(kport_write(p, buf, 8, 0), EPROTO);
	b->result = INT32_MIN;
	b->done = 2;
	FAILS(kport_write(p, buf, 8, 0), EPROTO);
	FAILS(kport_write(p, buf, 8, 0), EPIPE);
	memset(h, 0xff, 256);
	h->seq = 8;
	((unsigned long *)h)[32] = 4711;
	assert_int_equal(kport_read(p, buf, 64, 0), 64);
	assert_int_equal(buf[0], 4711);
	FAILS(kport_read(p, buf, 8, 64), EFAULT);
	assert_int_equal(kport_info(p, &info), 0);
	assert_int_equal(info.size, 64);
	assert_int_equal(info.nr_fields, 0);
	FAILS(kport_field(p, 0, &field), ENOENT);
	FAILS(kport_find(p, "x", &field), ENOENT);
	/* Its writer has died. */
	h->seq = 9;
	age_ns = port_now_ns();
	FAILS(kport_read(p, buf, 64, 0), EAGAIN);
	FAILS(kport_info(p, &info), EAGAIN);
	assert_true(port_now_ns() - age_ns < 1000000000);
	munmap(h, PAGE);
	munmap(b, PAGE);
	kport_close(p);
}

static void test_stale_data_is_told(void **state)
{
	const struct kport_serve_options o = { .publish = 1, .period_ns = 20000000 };
	struct world w = { .daemon = -1 };
	struct timespec pause = { .tv_nsec = 1000000 };
	unsigned long word;
	struct kport *p;
	uint64_t since_ns = port_now_ns();
	ssize_t n;

	world_init(&w, &o);
	p = world_open(&w, false, KPORT_FRESH);
	kport_publish(w.s);
	assert_int_equal(kport_read(p, &word, 8, 0), 8);
	while ((n = kport_read(p, &word, 8, 0)) == 8 && port_now_ns() - since_ns < 5000000000)
		nanosleep(&pause, NULL);
	assert_int_equal(n, -1);
	assert_int_equal(errno, ESTALE);
	assert_true(port_now_ns() - since_ns >= 3 * o.period_ns);
	/* Without the flag it is given as it is. */
	p->flags = 0;
	assert_int_equal(kport_read(p, &word, 8, 0), 8);
	p->flags = KPORT_FRESH;
	w.data[0] = 77;
	assert_true(kport_server_dispatch(w.s, 1000) >= 0);
	assert_int_equal(kport_read(p, &word, 8, 0), 8);
	assert_int_equal(word, 77);
	kport_close(p);
	world_deinit(&w);
}

#define test(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(test_alignment_and_bounds),
		test(test_read_what_is_served),
		test(test_fields),
		test(test_maps),
		test(test_flags_need_a_processor),
		test(test_polled_writes_are_not_lost),
		test(test_server_that_is_gone),
		cmocka_unit_test(test_what_a_server_may_not_send),
		cmocka_unit_test(test_huge_pages_are_refused),
		cmocka_unit_test(test_server_that_says_nothing),
		cmocka_unit_test(test_page_that_changes_its_mind),
		cmocka_unit_test(test_stale_data_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
