// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_table.c - the keeper's table: what it takes, what it refuses, descriptors beyond one process's limit, and that
 * a worker's tree comes back from its snapshot.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <daemon/table.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "fake_store.h"
#include "no_pidfd.h"
#include "table_store.h"

struct message {
	_Alignas(8) unsigned char bytes[KEEP_MSG_MAX];
	size_t len;
};

static struct keep_commit *head_of(struct message *m)
{
	return (struct keep_commit *)m->bytes;
}

static struct keep_change *change_of(struct message *m)
{
	return (struct keep_change *)(m->bytes + sizeof(struct keep_commit));
}

static void begin(struct message *m)
{
	*m = (struct message){ .len = sizeof(struct keep_commit) };
	head_of(m)->op = KEEP_COMMIT;
}

static void add(struct message *m, uint64_t id, uint32_t what, const void *bytes, uint32_t len)
{
	struct keep_change c = { .id = id, .what = what, .len = len };

	head_of(m)->nr_changes++;
	memcpy(m->bytes + m->len, &c, sizeof(c));
	m->len += sizeof(c);
	memcpy(m->bytes + m->len, bytes, len);
	m->len += (len + 7) & ~7u;
}

static int commit(struct table *t, struct message *m, int fd)
{
	head_of(m)->has_fd = fd >= 0;
	return table_commit(t, m->bytes, m->len, fd);
}

/* A record's descriptor, the caller's own. */
static int borrow(struct table *t, uint64_t id)
{
	bool held;
	int fd = table_borrow(t, id, &held);

	return fd >= 0 && held ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : fd;
}

static int put(struct table *t, uint64_t id, const char *text, int fd)
{
	struct message m;

	begin(&m);
	add(&m, id, KEEP_PUT, text, (uint32_t)strlen(text));
	return commit(t, &m, fd);
}

static int del(struct table *t, uint64_t id)
{
	struct message m;

	begin(&m);
	add(&m, id, KEEP_DEL, "", 0);
	return commit(t, &m, -1);
}

/* The snapshot's bytes; the caller frees them. */
static unsigned char *snapshot(struct table *t, struct keep_snapshot *head, size_t *len)
{
	int fd = memfd_create("snapshot", MFD_CLOEXEC);
	unsigned char *bytes;
	struct stat st;

	head->version = KEEP_VERSION;
	assert_int_equal(table_snapshot(t, fd, head), 0);
	assert_int_equal(fstat(fd, &st), 0);
	*len = (size_t)st.st_size;
	bytes = malloc(*len);
	assert_int_equal(pread(fd, bytes, *len, 0), *len);
	close(fd);
	return bytes;
}

static uint64_t nr_items(struct table *t)
{
	struct keep_snapshot head = { 0 };
	size_t len;

	free(snapshot(t, &head, &len));
	return head.nr_items;
}

static int marked(unsigned int mark)
{
	int fd = memfd_create("posted", MFD_CLOEXEC);

	assert_int_equal(ftruncate(fd, mark), 0);
	return fd;
}

static struct shm_closing closing[SHM_OWNERS];
static nlink_t nr_tasks;

static nlink_t count_tasks(void)
{
	struct stat st;

	assert_int_equal(stat("/proc/self/task", &st), 0);
	return st.st_nlink;
}

static int setup(void **state)
{
	struct table *t;

	nr_tasks = count_tasks();
	assert_int_equal(table_new(&t, 1000, closing), 0);
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	table_free(*state);
	/* Threads that close something end by themselves; at the end of the process their memory would count as lost. */
	for (int i = 0; count_tasks() > nr_tasks && i < 5000; i++)
		usleep(1000);
	return 0;
}

static void test_put_borrow_and_drop(void **state)
{
	struct table *t = *state;
	struct stat st;
	int fd;

	assert_int_equal(put(t, 5, "record", marked(42)), 0);
	fd = borrow(t, 5);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 42);
	close(fd);
	/* New bytes keep the descriptor; a new descriptor replaces it. */
	assert_int_equal(put(t, 5, "longer record", -1), 0);
	fd = borrow(t, 5);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 42);
	close(fd);
	assert_int_equal(put(t, 5, "r", marked(43)), 0);
	fd = borrow(t, 5);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 43);
	close(fd);
	assert_int_equal(put(t, 6, "", -1), 0);
	assert_int_equal(borrow(t, 6), -EBADF);
	assert_int_equal(borrow(t, 7), -ENOENT);
	assert_int_equal(del(t, 5), 0);
	assert_int_equal(borrow(t, 5), -ENOENT);
	assert_int_equal(del(t, 5), 0);
	assert_int_equal(nr_items(t), 1);
}

static void test_a_dropped_socket_is_closed(void **state)
{
	struct table *t = *state;
	int sock[2];
	char c;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock), 0);
	assert_int_equal(put(t, 5, "x", sock[0]), 0);
	assert_int_equal(del(t, 5), 0);
	assert_int_equal(read(sock[1], &c, 1), 0);
	close(sock[1]);
}

static void test_two_changes_are_one(void **state)
{
	struct table *t = *state;
	struct message m;

	assert_int_equal(put(t, 1, "one", -1), 0);
	begin(&m);
	add(&m, 2, KEEP_PUT, "two", 3);
	add(&m, 1, KEEP_DEL, "", 0);
	assert_int_equal(commit(t, &m, marked(1)), 0);
	assert_int_equal(borrow(t, 1), -ENOENT);
	close(borrow(t, 2));
	assert_int_equal(nr_items(t), 1);
}

/* One thing wrong in a message that is otherwise good: a PUT of 10 bytes and a PUT of 3. */
static void no_changes(struct message *m)
{
	head_of(m)->nr_changes = 0;
}

static void three_changes(struct message *m)
{
	head_of(m)->nr_changes = 3;
}

static void many_changes(struct message *m)
{
	head_of(m)->nr_changes = UINT32_MAX;
}

static void one_change_less(struct message *m)
{
	head_of(m)->nr_changes = 1;
}

static void a_byte_less(struct message *m)
{
	m->len--;
}

static void a_byte_more(struct message *m)
{
	m->len++;
}

static void half_a_change(struct message *m)
{
	m->len = sizeof(struct keep_commit) + 16 + 16 + 8;
}

static void half_a_head(struct message *m)
{
	m->len = sizeof(struct keep_commit) - 1;
}

static void nothing(struct message *m)
{
	m->len = 0;
}

static void length_beyond_the_message(struct message *m)
{
	change_of(m)->len = 1000;
}

static void length_beyond_the_most(struct message *m)
{
	change_of(m)->len = KEEP_BLOB_MAX + 1;
	m->len = sizeof(m->bytes);
}

static void length_that_wraps(struct message *m)
{
	change_of(m)->len = UINT32_MAX - 3;
}

static void neither_put_nor_del(struct message *m)
{
	change_of(m)->what = 3;
}

static void said_to_have_a_descriptor(struct message *m)
{
	head_of(m)->has_fd = 1;
}

static void (*const breaks[])(struct message *m) = {
	no_changes,
	three_changes,
	many_changes,
	one_change_less,
	a_byte_less,
	a_byte_more,
	half_a_change,
	half_a_head,
	nothing,
	length_beyond_the_message,
	length_beyond_the_most,
	length_that_wraps,
	neither_put_nor_del,
	said_to_have_a_descriptor,
};

static void test_malformed_messages_change_nothing(void **state)
{
	struct table *t = *state;
	unsigned int fds;

	assert_int_equal(put(t, 9, "untouched", -1), 0);
	fds = count_fds();
	for (size_t i = 0; i < sizeof(breaks) / sizeof(breaks[0]); i++) {
		struct message m;

		begin(&m);
		add(&m, 1, KEEP_PUT, "0123456789", 10);
		add(&m, 9, KEEP_PUT, "new", 3);
		breaks[i](&m);
		if (table_commit(t, m.bytes, m.len, -1) != -EINVAL)
			print_message("# row %zu is taken\n", i);
		assert_int_equal(table_commit(t, m.bytes, m.len, -1), -EINVAL);
		/* And a descriptor that came with it is not kept. */
		if (breaks[i] != said_to_have_a_descriptor)
			assert_int_equal(table_commit(t, m.bytes, m.len, marked(1)), -EINVAL);
	}
	assert_int_equal(nr_items(t), 1);
	assert_int_equal(count_fds(), fds);
}

static void test_a_descriptor_that_was_not_announced(void **state)
{
	struct table *t = *state;
	unsigned int fds = count_fds();
	struct message m;

	begin(&m);
	add(&m, 1, KEEP_PUT, "x", 1);
	assert_int_equal(table_commit(t, m.bytes, m.len, marked(1)), -EINVAL);
	/* It belongs to a first change that keeps it. */
	begin(&m);
	add(&m, 1, KEEP_DEL, "", 0);
	head_of(&m)->has_fd = 1;
	assert_int_equal(table_commit(t, m.bytes, m.len, marked(1)), -EINVAL);
	assert_int_equal(count_fds(), fds);
}

static void test_the_largest_message(void **state)
{
	struct table *t = *state;
	unsigned char bytes[KEEP_BLOB_MAX];
	struct message m;

	memset(bytes, 0xa5, sizeof(bytes));
	begin(&m);
	add(&m, 1, KEEP_PUT, bytes, sizeof(bytes));
	add(&m, 2, KEEP_PUT, bytes, sizeof(bytes));
	assert_true(m.len <= KEEP_MSG_MAX);
	assert_int_equal(commit(t, &m, -1), 0);
	assert_int_equal(nr_items(t), 2);
}

static void test_finished_requests_are_remembered_to_a_number(void **state)
{
	struct table *t = *state;
	struct keep_snapshot head = { 0 };
	struct keep_done first;
	unsigned char *bytes;
	struct message m;
	size_t len;

	for (uint64_t i = 1; i <= KEEP_DONE_MAX + 10; i++) {
		begin(&m);
		add(&m, 1, KEEP_PUT, "x", 1);
		head_of(&m)->done_id[0] = 1;
		head_of(&m)->done_id[1] = i;
		head_of(&m)->done_entry = 1;
		assert_int_equal(commit(t, &m, -1), 0);
	}
	assert_int_equal(put(t, 1, "no request", -1), 0);
	bytes = snapshot(t, &head, &len);
	assert_int_equal(head.nr_done, KEEP_DONE_MAX);
	memcpy(&first, bytes + sizeof(head), sizeof(first));
	assert_int_equal(first.id[1], 11);
	free(bytes);
}

static void test_a_table_larger_than_a_process(void **state)
{
	struct stat st;
	struct table *t;
	unsigned int fds = count_fds();
	int sock[2], fd;
	char c;

	if (no_pidfd())
		skip();
	signal(SIGPIPE, SIG_IGN);
	assert_int_equal(table_new(&t, 10, closing), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock), 0);
	for (unsigned int i = 1; i <= 95; i++)
		assert_int_equal(put(t, i, "x", marked(i)), 0);
	/* Nine vaults: each a pidfd and a pipe here, and the last five descriptors. */
	assert_true(count_fds() < fds + 2 + 9 * 2 + 10);
	for (unsigned int i = 1; i <= 95; i++) {
		fd = borrow(t, i);
		assert_true(fd >= 0);
		assert_int_equal(fstat(fd, &st), 0);
		assert_int_equal(st.st_size, i);
		close(fd);
	}
	/* Dropped in a vault means closed: put a socket in the next one, and let its peer see its end. */
	assert_int_equal(put(t, 200, "socket", sock[0]), 0);
	for (unsigned int i = 300; i < 310; i++)
		assert_int_equal(put(t, i, "x", marked(i)), 0);
	assert_int_equal(recv(sock[1], &c, 1, MSG_DONTWAIT), -1);
	assert_int_equal(del(t, 200), 0);
	assert_int_equal(recv(sock[1], &c, 1, 0), 0);
	assert_int_equal(borrow(t, 200), -ENOENT);
	/* A record in a vault that gets a new descriptor. */
	assert_int_equal(put(t, 3, "new", marked(1000)), 0);
	fd = borrow(t, 3);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 1000);
	close(fd);
	close(sock[1]);
	table_free(t);
	assert_int_equal(count_fds(), fds);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
}

static void test_a_vault_that_was_killed(void **state)
{
	struct table *t;
	pid_t vault = 0;
	char path[64], text[64];
	FILE *f;

	if (no_pidfd())
		skip();
	assert_int_equal(table_new(&t, 2, closing), 0);
	for (unsigned int i = 1; i <= 2; i++)
		assert_int_equal(put(t, i, "x", marked(i)), 0);
	snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
	f = fopen(path, "re");
	if (!f || !fgets(text, sizeof(text), f))
		skip();
	fclose(f);
	vault = (pid_t)atoi(text);
	assert_true(table_is_vault(t, vault));
	assert_false(table_is_vault(t, getpid()));
	kill(vault, SIGKILL);
	waitpid(vault, NULL, 0);
	assert_true(borrow(t, 1) < 0);
	assert_int_equal(del(t, 1), 0);
	assert_int_equal(put(t, 3, "x", marked(3)), 0);
	close(borrow(t, 3));
	table_free(t);
}

static void test_a_tree_comes_back(void **state)
{
	struct table_store s;
	struct tree *t;
	struct entry *dir, *e;
	char name[16];
	int fd;

	table_store_init(&s, no_pidfd() ? 1000 : 30);
	t = table_store_tree(&s);
	dir = tree_lookup(t->root, "box", 3);
	for (unsigned int i = 0; i < 100; i++) {
		struct request rq = { .cred = &table_store_cred,
				      .id = { 1, i + 1 },
				      .mode = S_IFREG | 0644,
				      .out_fd = -1,
				      .fd = marked(i) };

		snprintf(name, sizeof(name), "n%u", i);
		assert_int_equal(tree_create(dir, name, strlen(name), &rq, &e), 0);
		if (i % 3 == 0)
			assert_int_equal(tree_remove(dir, name, strlen(name), 0, &rq), 0);
	}
	tree_free(t);
	t = table_store_tree(&s);
	dir = tree_lookup(t->root, "box", 3);
	assert_int_equal(dir->nr_children, 66);
	for (unsigned int i = 0; i < 100; i++) {
		struct stat st;

		snprintf(name, sizeof(name), "n%u", i);
		e = tree_lookup(dir, name, strlen(name));
		assert_true((e == NULL) == (i % 3 == 0));
		if (!e)
			continue;
		fd = entry_fd(e);
		assert_true(fd >= 0);
		assert_int_equal(fstat(fd, &st), 0);
		assert_int_equal(st.st_size, i);
	}
	tree_free(t);
	table_store_deinit(&s);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_put_borrow_and_drop),
		TEST(test_a_dropped_socket_is_closed),
		TEST(test_two_changes_are_one),
		TEST(test_malformed_messages_change_nothing),
		TEST(test_a_descriptor_that_was_not_announced),
		TEST(test_the_largest_message),
		TEST(test_finished_requests_are_remembered_to_a_number),
		cmocka_unit_test(test_a_table_larger_than_a_process),
		cmocka_unit_test(test_a_vault_that_was_killed),
		cmocka_unit_test(test_a_tree_comes_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
