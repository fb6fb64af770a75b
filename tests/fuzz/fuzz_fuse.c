// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz_fuse.c - messages of the kernel's, in any order and of any content.
 *
 * An input is a sequence of messages: opcode, switches, node, length, body. Headers are mostly right, so that what lies
 * behind them is reached. Every request must be answered exactly once, with its own number and a length that is
 * true; what waits must end when it is interrupted; the sums of the folder must add up.
 *
 *	0xff	the kernel lets go of removed entries
 *	0xfe	the worker is replaced
 *	0xfd	time passes
 */
#include <io/fuse.h>
#include <wire/fuse.h>

#include "fuzz_folder.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

#define BODY_MAX 4200
#define REQUESTS_MAX 64
#define FIRST_FD 100 /* what a post may name */

enum {
	RESENT = 1,
	WRONG_LENGTH = 2,
	OUR_PID = 4,
	SAME_UNIQUE = 8,
	EXTENDED = 16,
	ROOT = 32,
	LAST_HANDLE = 64,
	RAW = 128
};

static struct folder folder;
static struct fuse *fuse;
static int device[2];
static int posted[8];
static uint64_t asked[REQUESTS_MAX];
static unsigned int nr_asked;
static uint64_t next_unique, last_handle;
static uint32_t minor;
static uint64_t flags;

static void agreed(void *ctx, uint32_t with, uint64_t what)
{
	minor = with;
	flags = what;
}

static void ended(void *ctx)
{
	abort();
}

static void serve(void)
{
	struct fuse_conf conf = {
		.fd = device[0],
		.tree = folder.tree,
		.minor = minor,
		.flags = flags,
		.socket = "/nowhere",
		.agreed = agreed,
		.ended = ended,
	};

	assert(fuse_new(&fuse, &conf) == 0);
}

/* Descriptors that a post by number may name. */
static void open_posted(void)
{
	int fd[2];

	assert(pipe2(fd, O_CLOEXEC) == 0);
	posted[0] = fd[0];
	posted[1] = fd[1];
	assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
	posted[2] = fd[0];
	posted[3] = fd[1];
	posted[4] = memfd_create("posted", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	posted[5] = open("/dev/null", O_RDWR | O_CLOEXEC);
	posted[6] = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	posted[7] = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	for (int i = 0; i < 8; i++) {
		assert(dup3(posted[i], FIRST_FD + i, O_CLOEXEC) == FIRST_FD + i);
		close(posted[i]);
		posted[i] = FIRST_FD + i;
	}
}

static void make(const char *kind, const char *name, int fd)
{
	static const struct cred cred = { .uid = 1000, .gid = 1000 };
	struct request rq = {
		.cred = &cred, .mode = S_IFREG | 0666, .size = 100, .fd = -1, .out_fd = -1
	};
	struct entry *e;

	if (fd >= 0)
		rq.fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	assert(tree_create(tree_lookup(folder.tree->root, kind, 3), name, strlen(name), &rq, &e) ==
	       0);
}

/* Take in the answers. Each is of a request that was asked and not answered yet. */
static void take_answers(void)
{
	static unsigned char answer[1 << 19];
	struct fuse_out_header h;
	ssize_t n;

	while ((n = recv(device[1], answer, sizeof(answer), MSG_DONTWAIT)) >= 0) {
		unsigned int i;

		assert(n >= (ssize_t)sizeof(h));
		memcpy(&h, answer, sizeof(h));
		assert(h.len == (size_t)n);
		if (h.unique == 0) {
			assert(h.error > 0 ||
			       h.error == -EINTR); /* a notification, or an interrupt of nothing */
			continue;
		}
		assert(h.error <= 0 && h.error > -1000);
		assert(h.error == 0 || n == sizeof(h));
		for (i = 0; i < nr_asked && asked[i] != h.unique;)
			i++;
		/* Refused by the kernel: whoever was interrupted may have been answered already. */
		if (i == nr_asked) {
			assert(h.error == -EINTR);
			continue;
		}
		asked[i] = asked[--nr_asked];
		if (n == sizeof(h) + sizeof(struct fuse_open_out))
			memcpy(&last_handle, answer + sizeof(h), sizeof(last_handle));
		if (n == sizeof(h) + sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out))
			memcpy(&last_handle, answer + sizeof(h) + sizeof(struct fuse_entry_out),
			       sizeof(last_handle));
	}
}

static void send_message(struct fuse_in_header *h, const unsigned char *body, size_t len)
{
	unsigned char *message = malloc(sizeof(*h) + len);

	assert(message);
	memcpy(message, h, sizeof(*h));
	memcpy(message + sizeof(*h), body, len);
	if (h->opcode != FUSE_FORGET && h->opcode != FUSE_BATCH_FORGET &&
	    h->opcode != FUSE_INTERRUPT)
		asked[nr_asked++] = h->unique;
	fuse_handle(fuse, message, sizeof(*h) + len);
	free(message);
	take_answers();
}

/* Everything that waits is interrupted, and must end. */
static void interrupt_all(void)
{
	for (int turn = 0; nr_asked; turn++) {
		struct fuse_in_header h = { .len = sizeof(h) + 8,
					    .opcode = FUSE_INTERRUPT,
					    .unique = ++next_unique };

		assert(turn < 5000);
		for (unsigned int i = nr_asked; i-- > 0 && i < nr_asked;) {
			uint64_t victim = asked[i];

			send_message(&h, (unsigned char *)&victim, sizeof(victim));
		}
		folder_turn(&folder, 1);
		take_answers();
	}
}

/* The number in a post becomes one of ours. */
static void tame(uint32_t opcode, unsigned char *body, size_t len)
{
	size_t at = sizeof(struct fuse_write_in);

	if (opcode != FUSE_WRITE || len < at + 1 || body[at] < '0' || body[at] > '9')
		return;
	if (len >= at + 3) {
		body[at + 2] = '0' + body[at] % 8;
		body[at] = '1';
		body[at + 1] = '0';
		if (len > at + 3 && body[at + 3] >= '0' && body[at + 3] <= '9')
			body[at + 3] = 'x';
	} else {
		body[at] = 'x';
	}
}

static void message(struct input *in, unsigned int op)
{
	unsigned int how = take_byte(in), node = take_byte(in);
	size_t len = take_byte(in) | take_byte(in) << 8;
	struct fuse_in_header h = {
		.opcode = op % (FUSE_OPCODE_END + 2),
		.nodeid = node,
		.unique = (how & SAME_UNIQUE) && next_unique ? next_unique : ++next_unique,
		.uid = how & ROOT ? geteuid() : 1000,
		.gid = how & ROOT ? getegid() : 1000,
		.pid = how & OUR_PID ? (uint32_t)getpid() : 0,
	};
	unsigned char body[BODY_MAX];

	len = take_bytes(in, body, len % BODY_MAX);
	h.len = (uint32_t)(sizeof(h) + len);
	if (how & RESENT)
		h.unique |= FUSE_UNIQUE_RESEND;
	if (how & WRONG_LENGTH)
		h.len += take_byte(in) - 128;
	if (how & EXTENDED)
		h.total_extlen = (uint16_t)take_byte(in);
	if ((how & LAST_HANDLE) && len >= sizeof(last_handle))
		memcpy(body, &last_handle, sizeof(last_handle));
	if (h.opcode == FUSE_WRITE && len >= sizeof(struct fuse_write_in) && !(how & RAW)) {
		uint32_t size = (uint32_t)(len - sizeof(struct fuse_write_in));

		memcpy(body + offsetof(struct fuse_write_in, size), &size, sizeof(size));
	}
	tame(h.opcode, body, len);
	send_message(&h, body, len);
}

static void let_go(void)
{
	struct entry *e, *tmp;

	for (e = folder.tree->orphans; e; e = tmp) {
		tmp = e->next;
		tree_forget(e);
	}
}

static void replace_worker(void)
{
	interrupt_all();
	folder_check(&folder);
	fuse_free(fuse);
	tree_free(folder.tree);
	folder_restore(&folder);
	serve();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct input in = { .at = bytes, .left = len };
	static bool ready;
	int size = 1 << 20;

	if (!ready) {
		ready = true;
		folder_init(&folder);
		assert(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, device) == 0);
		if (setsockopt(device[0], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
			setsockopt(device[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	}
	minor = 45;
	flags = next_unique = last_handle = nr_asked = 0;
	folder_open(&folder);
	open_posted();
	make("srv", "pipe", posted[0]);
	make("srv", "socket", posted[2]);
	make("srv", "memfd", posted[4]);
	make("mem", "object", -1);
	serve();
	while (in.left && nr_asked < REQUESTS_MAX - 2) {
		unsigned int op = take_byte(&in);

		if (op == 0xff)
			let_go();
		else if (op == 0xfe)
			replace_worker();
		else if (op == 0xfd)
			folder_turn(&folder, 0);
		else
			message(&in, op);
		take_answers();
	}
	interrupt_all();
	folder_check(&folder);
	fuse_free(fuse);
	folder_close(&folder);
	for (int i = 0; i < 8; i++)
		close(posted[i]);
	return 0;
}
