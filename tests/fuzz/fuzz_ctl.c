// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz_ctl.c - messages on the control socket, in any order and of any content, of all sorts of callers.
 *
 * An input is a sequence of messages: switches, then either a whole packet or the parts of a request. Nobody is given
 * a descriptor with a refusal, more access than he asked for, or an answer longer than its buffer.
 */
#include <io/ctl.h>

#include "fuzz_folder.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

enum { RAW = 1, WITH_FD = 2, RETRY = 4, SAME_SEQ = 8, WHO = 0x30, WHICH_FD = 0xc0 };

static struct folder folder;
static struct ctl *ctl;
static const struct ctl_answer *answer;
static struct ctl_call call;
static unsigned int nr_answers;
static uint64_t seq;

static void status(void *ctx, struct ctl_status *ret)
{
	ret->restarts = 1;
}

static int shut_down(void *ctx, uint32_t flags)
{
	return flags & 1 ? -EBUSY : 0;
}

static int some_fd(unsigned int which)
{
	int fd[2];

	switch (which) {
	case 0:
		return memfd_create("posted", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	case 1:
		assert(pipe2(fd, O_CLOEXEC) == 0);
		close(fd[1]);
		return fd[0];
	case 2:
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	default:
		return open("/", O_PATH | O_CLOEXEC);
	}
}

static void answered(struct ctl_call *c, struct ctl_answer *a)
{
	answer = a;
	nr_answers++;
}

static void check(const struct ctl_request *m, bool raw)
{
	unsigned int want = access_wanted((int)m->oflags);

	assert(answer->result <= 0 && answer->result > -1000);
	assert(answer->body_len <= CTL_BODY_MAX);
	assert(answer->count <= CTL_LIST_MAX);
	if (answer->result < 0) {
		assert(answer->fd < 0);
		assert(answer->body_len == 0 && answer->count == 0);
	}
	if (answer->fd < 0)
		return;
	assert(raw || m->op == CTL_OPEN || m->op == CTL_CREATE);
	assert(fcntl(answer->fd, F_GETFD) == FD_CLOEXEC);
	if (!raw && m->op == CTL_OPEN)
		assert((access_wanted(fcntl(answer->fd, F_GETFL)) & ~want) == 0);
	if (!answer->borrowed)
		close(answer->fd);
}

static void message(struct input *in)
{
	static const gid_t groups[] = { 7, 1001 };
	static const struct cred creds[] = {
		{ .uid = 1000, .gid = 1000 },
		{ .uid = 1001, .gid = 1001, .groups = groups, .nr_groups = 2 },
		{ .uid = 5, .gid = 5 },
		{ .uid = 0, .gid = 0, .override = true },
	};
	unsigned int how = take_byte(in);
	int fd = how & WITH_FD ? some_fd((how & WHICH_FD) >> 6) : -1;
	struct ctl_request m = { .magic = CTL_MAGIC, .token = 9 };
	unsigned char packet[sizeof(m) + 1];
	size_t len;

	if (how & RAW) {
		len = take_bytes(in, packet, take_byte(in) | (take_byte(in) & 7) << 8);
		memcpy(&m, packet, len < sizeof(m) ? len : sizeof(m));
	} else {
		m.op = (uint16_t)(take_byte(in) % (CTL_OP_END + 1));
		m.ctl_flags = how & RETRY ? CTL_F_RETRY : 0;
		m.seq = how & SAME_SEQ ? seq : ++seq;
		take_bytes(in, &m.size, 4);
		take_bytes(in, &m.cookie, 2);
		take_bytes(in, &m.oflags, 4);
		take_bytes(in, &m.mode, 2);
		take_bytes(in, &m.flags, 1);
		m.path_len = (uint32_t)take_bytes(in, m.path, take_byte(in));
		len = CTL_REQUEST_MIN + m.path_len;
		memcpy(packet, &m, len);
	}
	call.answered = answered;
	call.cred = &creds[(how & WHO) >> 4];
	nr_answers = 0;
	ctl_handle(ctl, &call, packet, len, fd);
	assert(nr_answers == 1);
	check(&m, how & RAW);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct input in = { .at = bytes, .left = len };
	struct ctl_conf conf = { .listen_fd = -1, .status = status, .shutdown = shut_down };
	unsigned int fds;
	static bool ready;

	if (!ready) {
		ready = true;
		folder_init(&folder);
	}
	folder_open(&folder);
	fds = count_fds();
	seq = 0;
	conf.tree = folder.tree;
	assert(ctl_new(&ctl, &conf) == 0);
	while (in.left) {
		if (*in.at == 0xff) {
			take_byte(&in);
			ctl_free(ctl);
			tree_free(folder.tree);
			folder_restore(&folder);
			conf.tree = folder.tree;
			assert(ctl_new(&ctl, &conf) == 0);
		}
		message(&in);
	}
	folder_check(&folder);
	ctl_free(ctl);
	/* A descriptor for each entry that has one, here and in the store. */
	for (struct fake_record *r = folder.store.records; r; r = r->hh.next)
		fds += r->fd >= 0;
	assert(count_fds() == fds + folder.tree->nr_fds);
	folder_close(&folder);
	return 0;
}
