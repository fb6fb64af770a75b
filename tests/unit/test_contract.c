// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_contract.c - what core/kind.h asks of every kind, asked of each kind in the table.
 *
 * The test knows of a kind only how to make its entries (the table `makers`; a kind without a line there fails). Everything
 * else is called with good and bad arguments, and looked at: the result's range, that a request that was put off is
 * finished exactly once, that no descriptor is left, that the private part comes back from its record.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/socket.h>
#include <wire/ctl.h>

#include "kind_fixture.h"

#define USER 1000

static const struct cred user = { .uid = USER, .gid = USER };
static const struct cred root = { .override = true };
static const struct cred through_mount = { .uid = USER, .gid = USER, .checked = true };

static int make_pipe_end(void)
{
	int fd[2];

	assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
	close(fd[1]);
	return fd[0];
}

static int make_socket(void)
{
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	assert_int_equal(write(fd[1], "hello", 5), 5);
	close(fd[1]);
	return fd[0];
}

static int make_memfd(void)
{
	int fd = memfd_create("posted", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_int_equal(ftruncate(fd, 8192), 0);
	return fd;
}

static int make_directory(void)
{
	return open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* The daemon's end of a port's server that is gone. */
static int make_server(void)
{
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd), 0);
	close(fd[1]);
	return fd[0];
}

static const struct maker {
	const struct kind *kind;
	const char *name;
	int (*fd)(void);
	uint64_t size;
	uint32_t flags;
	const struct cred *cred;
	const char *part; /* of what is made: that is the entry */
} makers[] = {
	{ &kind_mem, "empty", NULL, 0, 0, &user },
	{ &kind_mem, "fixed", NULL, 8192, 0, &user },
	{ &kind_mem, "resizable", NULL, 8192, CTL_MEM_RESIZABLE, &user },
	{ &kind_port, "server", make_server, 0, 0, &root },
	{ &kind_srv, "unposted", NULL, 0, 0, &through_mount },
	{ &kind_srv, "pipe", make_pipe_end, 0, 0, &user },
	{ &kind_srv, "socket", make_socket, 0, 0, &user },
	{ &kind_srv, "memfd", make_memfd, 0, 0, &user },
	{ &kind_srv, "directory", make_directory, 0, 0, &user },
	{ &kind_ksm, "state", NULL, 0, 0, &root, "pages_shared" },
	{ &kind_ksm, "orders", NULL, 0, 0, &root, "merge" },
};

#define NR_MAKERS (sizeof(makers) / sizeof(makers[0]))

/* A request, and how often it was finished. */
struct wish {
	struct request rq;
	unsigned int calls;
	int result;
	unsigned char buffer[4096];
};

static void on_done(struct request *rq, int result)
{
	struct wish *w = (struct wish *)rq;

	w->calls++;
	w->result = result;
}

static void wish_init(struct folder *f, struct wish *w, const struct cred *cred)
{
	memset(w, 0, sizeof(*w));
	w->rq.cred = cred;
	w->rq.id[0] = 3;
	w->rq.id[1] = ++f->next_request;
	w->rq.fd = w->rq.out_fd = -1;
	w->rq.done = on_done;
	w->rq.out = (struct iovec){ .iov_base = w->buffer, .iov_len = sizeof(w->buffer) };
}

/* What an operation returned: a result at once, or one later, then exactly one. @give_up: it may wait for ever */
static int settle(struct folder *f, struct wish *w, int r, bool give_up)
{
	if (r != KIND_LATER) {
		assert_int_equal(w->calls, 0);
		assert_true(r >= -4095);
		assert_true(r < KIND_LATER);
		return r;
	}
	if (give_up && !w->calls) {
		run_for(&f->rig, 1);
		if (!w->calls) {
			assert_non_null(w->rq.cancel);
			w->rq.cancel(&w->rq);
		}
	}
	run_until(&f->rig, &w->calls, 1);
	run_for(&f->rig, 1);
	assert_int_equal(w->calls, 1);
	assert_null(w->rq.cancel);
	assert_true(w->result >= -4095 && w->result < KIND_LATER);
	return w->result;
}

static struct entry *make(struct folder *f, const struct maker *m)
{
	struct entry *e = NULL;
	struct wish w;

	wish_init(f, &w, m->cred);
	w.rq.mode = m->part ? S_IFDIR | 0777 : S_IFREG | 0666;
	w.rq.size = m->size;
	w.rq.flags = m->flags;
	w.rq.fd = m->fd ? m->fd() : -1;
	assert_int_equal(tree_create(folder_dir(f, m->kind), m->name, strlen(m->name), &w.rq, &e),
			 0);
	assert_int_equal(w.rq.fd, -1);
	assert_int_equal(w.calls, 0);
	if (m->part) {
		e = tree_lookup(e, m->part, strlen(m->part));
		assert_non_null(e);
	}
	return e;
}

static void drop(struct folder *f, const struct maker *m)
{
	struct wish w;

	wish_init(f, &w, m->cred);
	assert_int_equal(tree_remove(folder_dir(f, m->kind), m->name, strlen(m->name),
				     m->part != NULL, &w.rq),
			 0);
}

static unsigned int descriptors;

static int setup(void **state)
{
	struct folder *f = calloc(1, sizeof(*f));

	alarm(60);
	descriptors = count_fds();
	folder_init(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct folder *f = *state;

	assert_int_equal(f->tree->bytes, 0);
	assert_null(f->tree->orphans);
	for (const struct kind *const *k = kinds; *k; k++)
		for (struct entry *e = folder_dir(f, *k)->children; e; e = e->next)
			assert_false(entry_counts(e));
	folder_deinit(f);
	assert_int_equal(count_fds(), descriptors);
	free(f);
	return 0;
}

static void test_every_kind_says_what_it_is(void **state)
{
	assert_non_null(kinds[0]);
	for (const struct kind *const *k = kinds; *k; k++) {
		unsigned int nr = 0;

		assert_true(strlen((*k)->name) > 0 && strlen((*k)->name) < 8);
		assert_null(strpbrk((*k)->name, "/. "));
		assert_non_null((*k)->summary);
		assert_null(strchr((*k)->summary, '\n'));
		assert_true((*k)->entry_size <= KIND_ENTRY_MAX);
		assert_int_equal((*k)->dir_mode & ~07777u, 0);
		for (const struct kind *const *other = kinds; *other; other++)
			nr += strcmp((*other)->name, (*k)->name) == 0;
		assert_int_equal(nr, 1);
		nr = 0;
		for (size_t i = 0; i < NR_MAKERS; i++)
			nr += makers[i].kind == *k;
		assert_true(nr > 0);
	}
}

/* For each kind of entry: made, used by @use, removed. */
static void for_each(struct folder *f, void (*use)(struct folder *f, struct entry *e))
{
	for (size_t i = 0; i < NR_MAKERS; i++) {
		unsigned int fds, records = fake_store_count(&f->store);

		fds = count_fds();
		use(f, make(f, &makers[i]));
		drop(f, &makers[i]);
		if (count_fds() != fds)
			print_message("# %s: %u descriptors left\n", makers[i].name,
				      count_fds() - fds);
		assert_int_equal(count_fds(), fds);
		assert_int_equal(fake_store_count(&f->store), records);
	}
}

static void use_not(struct folder *f, struct entry *e)
{
}

static void test_made_and_destroyed(void **state)
{
	for_each(*state, use_not);
}

static void use_describe(struct folder *f, struct entry *e)
{
	struct description d;
	uint64_t id = e->id;

	memset(&d, 0xff, sizeof(d));
	entry_describe(e, &d);
	assert_non_null(memchr(d.what, 0, sizeof(d.what)));
	assert_true(strlen(d.what) > 0);
	assert_non_null(memchr(d.poster_comm, 0, sizeof(d.poster_comm)));
	assert_true(d.access == O_RDONLY || d.access == O_WRONLY || d.access == O_RDWR);
	assert_true(d.posted_ns >= 0 && d.mtime_ns >= 0);
	/* Also where its descriptor cannot be had. */
	folder_restart(f);
	e = tree_by_id(f->tree, id);
	f->store.borrow_error = -EMFILE;
	entry_describe(e, &d);
	assert_true(strlen(d.what) > 0);
	f->store.borrow_error = 0;
}

static void test_described(void **state)
{
	for_each(*state, use_describe);
}

static void use_restart(struct folder *f, struct entry *e)
{
	unsigned char was[KIND_ENTRY_MAX];
	struct description before, after;
	const struct kind *k = e->kind;
	uint64_t id = e->id;

	memcpy(was, e->priv, k->entry_size);
	entry_describe(e, &before);
	folder_restart(f);
	e = tree_by_id(f->tree, id);
	assert_non_null(e);
	assert_ptr_equal(e->kind, k);
	assert_memory_equal(e->priv, was, k->entry_size);
	entry_describe(e, &after);
	assert_memory_equal(&before, &after, sizeof(before));
}

static void test_the_private_part_comes_back(void **state)
{
	for_each(*state, use_restart);
}

static const int open_flags[] = {
	O_RDONLY,           O_WRONLY,  O_RDWR, O_RDWR | O_APPEND, O_RDONLY | O_NONBLOCK,
	O_WRONLY | O_TRUNC, O_ACCMODE,
};

#define NR_FLAGS (sizeof(open_flags) / sizeof(open_flags[0]))

/* Open @e. Return: 0 and the handle's word, or -errno; the default for a kind without `open`. */
static int open_one(struct folder *f, struct entry *e, const struct cred *cred, int oflags,
		    uint64_t *word)
{
	struct wish w;
	int r;

	if (!e->kind->open)
		return -EOPNOTSUPP;
	wish_init(f, &w, cred);
	w.rq.oflags = oflags;
	r = e->kind->open(e, &w.rq);
	assert_true(r <= 0 && r >= -4095);
	assert_int_equal(w.calls, 0);
	assert_int_equal(w.rq.out_fd, -1);
	if (r < 0)
		return r;
	assert_true(w.rq.how == OPEN_DIRECT || w.rq.how == OPEN_CACHED || w.rq.how == OPEN_STREAM ||
		    w.rq.how == OPEN_PASSTHROUGH);
	assert_true((w.rq.how == OPEN_PASSTHROUGH) == (w.rq.backing > 0));
	*word = w.rq.word;
	return 0;
}

static void close_one(struct folder *f, struct entry *e, int oflags, uint64_t word)
{
	struct wish w;

	if (!e->kind->close)
		return;
	wish_init(f, &w, &through_mount);
	w.rq.oflags = oflags;
	w.rq.word = word;
	e->kind->close(e, &w.rq);
	assert_int_equal(w.calls, 0);
}

static int read_one(struct folder *f, struct entry *e, int oflags, uint64_t word, uint64_t offset,
		    size_t len)
{
	struct wish w;
	int r;

	if (!e->kind->read)
		return -EINVAL;
	wish_init(f, &w, &through_mount);
	w.rq.oflags = oflags;
	w.rq.word = word;
	w.rq.offset = offset;
	w.rq.len = len;
	r = settle(f, &w, e->kind->read(e, &w.rq), true);
	assert_true(r <= (int)len);
	return r;
}

static int write_one(struct folder *f, struct entry *e, int oflags, uint64_t word, uint64_t offset,
		     const void *data, size_t len)
{
	struct wish w;
	int r;

	if (!e->kind->write)
		return -EINVAL;
	wish_init(f, &w, &through_mount);
	w.rq.oflags = oflags;
	w.rq.word = word;
	w.rq.offset = offset;
	w.rq.data = data;
	w.rq.len = len;
	r = settle(f, &w, e->kind->write(e, &w.rq), true);
	assert_true(r <= (int)len);
	return r;
}

static int poll_one(struct folder *f, struct entry *e, uint64_t word, unsigned int events,
		    uint64_t handle)
{
	struct wish w;

	if (!e->kind->poll)
		return (int)events;
	wish_init(f, &w, &through_mount);
	w.rq.word = word;
	w.rq.events = events;
	w.rq.poll_handle = handle;
	return settle(f, &w, e->kind->poll(e, &w.rq), false);
}

static const uint64_t offsets[] = { 0, 1, 4096, 8191, 8192, 1ULL << 40, INT64_MAX, UINT64_MAX };

static void use_open(struct folder *f, struct entry *e)
{
	for (size_t i = 0; i < NR_FLAGS; i++) {
		uint64_t word = 0;

		if (open_one(f, e, &through_mount, open_flags[i], &word) < 0)
			continue;
		for (size_t k = 0; k < sizeof(offsets) / sizeof(offsets[0]); k++) {
			read_one(f, e, open_flags[i], word, offsets[k], 100);
			read_one(f, e, open_flags[i] | O_NONBLOCK, word, offsets[k], 0);
			write_one(f, e, open_flags[i] | O_NONBLOCK, word, offsets[k], "x\n", 2);
			write_one(f, e, open_flags[i], word, offsets[k], "", 0);
		}
		assert_true(poll_one(f, e, word, POLLIN | POLLOUT, 0) >= 0);
		assert_true(poll_one(f, e, word, POLLIN, 1234) >= 0);
		assert_true(poll_one(f, e, word, 0, 1234) >= 0);
		close_one(f, e, open_flags[i], word);
		close_one(f, e, open_flags[i], word);
	}
	for (int i = 0; i < NR_POLLS; i++)
		assert_true(f->store.store.shm->polls[i] == 0);
}

static void test_opened_read_written_polled(void **state)
{
	for_each(*state, use_open);
}

static void use_words(struct folder *f, struct entry *e)
{
	static const uint64_t words[] = { 0, 1, UINT64_MAX, 1ULL << 63, (1ULL << 63) | USER };

	/* Handles that this worker never saw: of one that died, or of nobody. */
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		read_one(f, e, O_RDWR | O_NONBLOCK, words[i], 0, 10);
		write_one(f, e, O_RDWR | O_NONBLOCK, words[i], 0, "no number", 9);
		poll_one(f, e, words[i], POLLIN, 5);
		close_one(f, e, O_RDWR, words[i]);
	}
}

static void test_handles_of_nobody(void **state)
{
	for_each(*state, use_words);
}

static void use_resize(struct folder *f, struct entry *e)
{
	static const uint64_t sizes[] = { 0,          1,         8192,       1 << 20,
					  1ULL << 62, INT64_MAX, UINT64_MAX, 4096 };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		for (uint32_t flags = 0; flags < 2; flags++) {
			struct description d;
			struct wish w;
			int r;

			if (!e->kind->resize)
				return;
			wish_init(f, &w, &through_mount);
			w.rq.size = sizes[i];
			w.rq.flags = flags;
			r = settle(f, &w, e->kind->resize(e, &w.rq), false);
			assert_true(r <= 0);
			entry_describe(e, &d);
			if (r == 0 && d.size_bytes)
				assert_int_equal(d.size_bytes, sizes[i]);
		}
}

static void test_resized(void **state)
{
	struct folder *f = *state;

	f->tree->limits.max_bytes_uid = 1 << 20;
	for_each(f, use_resize);
}

static void use_command(struct folder *f, struct entry *e)
{
	static const uint32_t flags[] = { 0, 1, 2, 3, SEEK_DATA, SEEK_HOLE, 0x1f, 0x10, UINT32_MAX };

	if (!e->kind->command)
		return;
	for (int cmd = 0; cmd <= COMMAND_OWNER + 1; cmd++)
		for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
			for (size_t k = 0; k < sizeof(offsets) / sizeof(offsets[0]); k++) {
				struct wish w;
				int r;

				wish_init(f, &w, &through_mount);
				w.rq.cmd = cmd;
				w.rq.flags = flags[i];
				w.rq.offset = offsets[k];
				/* Nothing that takes much memory: it must be refused, or small. */
				w.rq.size = k % 2 ? 4096 : UINT64_MAX - k;
				r = settle(f, &w, e->kind->command(e, &w.rq), false);
				if (cmd == 0 || cmd > COMMAND_OWNER)
					assert_true(r < 0);
			}
}

static void test_commanded(void **state)
{
	struct folder *f = *state;

	f->tree->limits.max_bytes_uid = 1 << 20;
	for_each(f, use_command);
}

static void use_share(struct folder *f, struct entry *e)
{
	for (size_t i = 0; i < NR_FLAGS; i++)
		for (unsigned int granted = 0; granted < 8; granted++)
			for (unsigned int again = 0; again < 2; again++) {
				struct wish w;
				int r;

				if (!e->kind->share)
					return;
				wish_init(f, &w, &user);
				w.rq.oflags = open_flags[i] | (int)(again ? CTL_REOPEN : 0);
				r = e->kind->share(e, &w.rq, granted);
				assert_true(r <= 0 && r >= -4095);
				assert_int_equal(w.calls, 0);
				if (r < 0) {
					assert_true(w.rq.out_fd < 0);
					continue;
				}
				/* Never more than was granted, and just what was asked for. */
				assert_int_equal(access_wanted(open_flags[i]) & ~granted, 0);
				if (access_wanted(fcntl(w.rq.out_fd, F_GETFL)) !=
				    access_wanted(open_flags[i]))
					print_message("# %s: flags %o granted %u again %u\n",
						      e->name, open_flags[i], granted, again);
				assert_int_equal(access_wanted(fcntl(w.rq.out_fd, F_GETFL)),
						 access_wanted(open_flags[i]));
				assert_int_equal(fcntl(w.rq.out_fd, F_GETFD), FD_CLOEXEC);
				if (!w.rq.out_borrowed)
					close(w.rq.out_fd);
			}
}

static void test_shared(void **state)
{
	for_each(*state, use_share);
}

static void use_without_descriptor(struct folder *f, struct entry *e)
{
	uint64_t word = 0, id = e->id;

	folder_restart(f);
	e = tree_by_id(f->tree, id);
	f->store.borrow_error = -EMFILE;
	if (open_one(f, e, &through_mount, O_RDONLY, &word) == 0)
		close_one(f, e, O_RDONLY, word);
	read_one(f, e, O_RDONLY, 1, 0, 10);
	write_one(f, e, O_WRONLY, 1, 0, "x", 1);
	poll_one(f, e, 1, POLLIN, 77);
	use_command(f, e);
	use_resize(f, e);
	use_share(f, e);
	f->store.borrow_error = 0;
}

static void test_a_store_that_has_no_descriptor_to_spare(void **state)
{
	for_each(*state, use_without_descriptor);
}

static void use_removed(struct folder *f, struct entry *e)
{
	uint64_t id = e->id;

	/* In use when its name goes: it stays until the last use ends. */
	if (e->has_fd) {
		struct wish w;
		int r;

		wish_init(f, &w, &through_mount);
		w.rq.len = 10;
		w.rq.word = 1;
		if (!e->kind->read)
			return;
		r = e->kind->read(e, &w.rq);
		if (r == KIND_LATER && !w.calls) {
			assert_int_equal(e->pins, 1);
			assert_non_null(w.rq.cancel);
			w.rq.cancel(&w.rq);
			run_until(&f->rig, &w.calls, 1);
		}
	}
	assert_int_equal(tree_by_id(f->tree, id)->pins, 0);
}

static void test_removed_while_in_use(void **state)
{
	for_each(*state, use_removed);
}

static void test_creating_is_refused_without_a_trace(void **state)
{
	struct folder *f = *state;
	unsigned int fds = count_fds();

	for (const struct kind *const *k = kinds; *k; k++)
		for (uint32_t flags = 0; flags < 16; flags++)
			for (int with_fd = 0; with_fd < 3; with_fd++)
				for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
					struct entry *e = NULL;
					struct wish w;
					int r;

					wish_init(f, &w, &user);
					w.rq.mode = S_IFREG | 0600;
					w.rq.flags = flags;
					w.rq.size = offsets[i] == 1ULL << 40 ? 0 : offsets[i];
					w.rq.fd = with_fd == 1 ? make_memfd()
						: with_fd == 2 ? 1 << 20
							       : -1;
					r = tree_create(folder_dir(f, *k), "x", 1, &w.rq, &e);
					assert_true(r <= 0 && r >= -4095);
					assert_int_equal(w.calls, 0);
					if (r == 0)
						assert_int_equal(tree_remove(folder_dir(f, *k), "x",
									     1, 0, &w.rq),
								 0);
					else if (with_fd == 1)
						close(w.rq.fd);
					assert_int_equal(count_fds(), fds);
				}
}

static void test_memory_beyond_the_end_is_charged(void **state)
{
	struct folder *f = *state;
	struct entry *e = make(f, &makers[0]);
	uint64_t entries, bytes;
	struct description d;
	struct wish w;

	f->tree->limits.max_bytes_uid = 1 << 20;
	wish_init(f, &w, &through_mount);
	w.rq.cmd = COMMAND_FALLOCATE;
	w.rq.flags = FALLOC_FL_KEEP_SIZE;
	w.rq.size = 2 << 20;
	assert_int_equal(settle(f, &w, e->kind->command(e, &w.rq), false), -EDQUOT);
	wish_init(f, &w, &through_mount);
	w.rq.cmd = COMMAND_FALLOCATE;
	w.rq.flags = FALLOC_FL_KEEP_SIZE;
	w.rq.size = 512 << 10;
	assert_int_equal(settle(f, &w, e->kind->command(e, &w.rq), false), 0);
	entry_describe(e, &d);
	assert_int_equal(d.size_bytes, 0);
	assert_true(d.allocated_bytes >= 512 << 10);
	quota_get(f->tree, USER, &entries, &bytes);
	assert_true(bytes >= 512 << 10);
	drop(f, &makers[0]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_kind_says_what_it_is),
		TEST(test_made_and_destroyed),
		TEST(test_described),
		TEST(test_the_private_part_comes_back),
		TEST(test_opened_read_written_polled),
		TEST(test_handles_of_nobody),
		TEST(test_resized),
		TEST(test_commanded),
		TEST(test_shared),
		TEST(test_a_store_that_has_no_descriptor_to_spare),
		TEST(test_removed_while_in_use),
		TEST(test_creating_is_refused_without_a_trace),
		TEST(test_memory_beyond_the_end_is_charged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
