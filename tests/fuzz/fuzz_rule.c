// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz_rule.c - a rule's write path, in the kernel: one client writes anything into its pool, its bell and its shadow bytes, and rings with
 * any context.
 *
 * Whatever it does, the settings in force are within their limits, none was ever found not to be, what was counted is not changed, and another
 * client's pool and bell are as they were. Where BPF is not to be had there is nothing to try.
 */
#include <assert.h>
#include <bpf/bpf.h>
#include <engine/bpf/rule.h>
#include <engine/bpf/rule_abi.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#undef NDEBUG
#define ENTRY 5

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

struct input {
	const uint8_t *at;
	size_t left;
};

struct party {
	struct port_hello hello;
	int fds[3];
	uint64_t id;
	const struct port_head *page;
	struct rule_pool *pool;
};

static struct rules *rules;
static int state_fd;
static struct party liar, other;

static void take_bytes(struct input *in, void *to, size_t len)
{
	size_t n = len < in->left ? len : in->left;

	memset(to, 0, len);
	memcpy(to, in->at, n);
	in->at += n;
	in->left -= n;
}

static unsigned int take_byte(struct input *in)
{
	uint8_t byte;

	take_bytes(in, &byte, 1);
	return byte;
}

/* A small one, mostly: others are known not to fit. */
static uint64_t take_number(struct input *in)
{
	unsigned int how = take_byte(in);
	uint64_t word;

	if (how < 192)
		return how % 16 * (how & 64 ? 1 : 8);
	take_bytes(in, &word, sizeof(word));
	return word;
}

static void join(struct party *p)
{
	unsigned int nr = 0;
	int err = rules_join(rules, ENTRY, 0, 0, (uint32_t)getpid(), -1, 6, &p->hello, p->fds, &nr,
			     &p->id);

	assert(err == 0 && nr == 3);
	p->page = mmap(NULL, RULE_PAGE_SIZE, PROT_READ, MAP_SHARED, p->fds[0], 0);
	p->pool = mmap(NULL, sizeof(*p->pool), PROT_READ | PROT_WRITE, MAP_SHARED, p->fds[1], 0);
	assert(p->page != MAP_FAILED && p->pool != MAP_FAILED);
}

/* A group that is gone at once: what is written here is to have no effect on anybody. */
static bool begin(void)
{
	/* What is changed is mended; a look of the timer's is not to come between. */
	const struct rules_options o = { .policy = RULES_LOG, .period_ns = 60000000000 };
	char line[4096], where[1024], type[64], path[2048] = "";
	FILE *f = fopen("/proc/self/mounts", "re");
	int err, link, fd = -1;

	while (f && fd < 0 && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*s %1023s %63s", where, type) != 2 || strcmp(type, "cgroup2"))
			continue;
		snprintf(path, sizeof(path), "%s/kshared-fuzz-%d", where, (int)getpid());
		if (mkdir(path, 0700) == 0)
			fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (f)
		fclose(f);
	if (fd < 0)
		return false;
	err = rules_new(&rules, &o);
	if (err == 0)
		err = rules_add(rules, ENTRY, fd, -1, -1);
	rmdir(path);
	close(fd);
	if (err < 0) {
		assert(err == -EPERM || err == -ENOTSUP);
		rules = NULL;
		return false;
	}
	err = rules_stored(rules, ENTRY, &link, &state_fd);
	assert(err == 0);
	join(&liar);
	join(&other);
	return true;
}

static int ring(const struct party *p, void *context, uint32_t size)
{
	LIBBPF_OPTS(bpf_test_run_opts, run, .ctx_in = context, .ctx_size_in = size);

	return bpf_prog_test_run_opts(p->fds[2], &run) ? -errno : (int)run.retval;
}

static void check(void)
{
	struct rule_state st;
	struct port_rule seen;
	uint32_t zero = 0;
	int err;

	err = port_snapshot(liar.page, liar.page->data_off, &seen, sizeof(seen), NULL);
	assert(err == 0);
	assert(seen.allow <= 1 && seen.mark <= RULE_NUMBER_MAX && seen.priority <= RULE_NUMBER_MAX);
	assert(seen.rate_per_s <= RULE_RATE_MAX && seen.burst <= RULE_RATE_MAX);
	assert(seen.allowed == 0 && seen.denied == 0);
	err = bpf_map_lookup_elem(state_fd, &zero, &st);
	assert(err == 0 && st.violations == 0);
	assert(memcmp(&st.rule, &seen, sizeof(seen)) == 0);
}

static void ring_with_anything(struct input *in)
{
	static unsigned char large[4096];
	struct port_ring r = { .token = liar.hello.token, .slot = liar.hello.slot };
	unsigned int how = take_byte(in);
	uint32_t size = sizeof(r);
	int got;

	r.off = take_number(in);
	r.len = take_number(in);
	if (how & 1)
		take_bytes(in, &r.token, sizeof(r.token));
	if (how & 2)
		take_bytes(in, &r.slot, sizeof(r.slot));
	if (how & 4)
		take_bytes(in, &size, 2);
	if (how & 8)
		r.slot = other.hello.slot;
	memcpy(large, &r, sizeof(r));
	got = ring(&liar, large, size % sizeof(large));
	assert(got == 0 || got == -EPIPE || got == -EFAULT || got == -EPERM || got == -EINVAL);
	/* It has not the other's token, whatever it guesses. */
	assert(got != 0 || r.slot == liar.hello.slot);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	static bool tried, there;
	struct port_ring r = { .len = 8 };
	struct input in = { .at = bytes, .left = len };
	struct rule_pool was;
	int got;

	if (!tried)
		there = begin();
	tried = true;
	if (!there)
		return 0;
	was = *other.pool;
	while (in.left) {
		unsigned int what = take_byte(&in), i = take_byte(&in);

		switch (what % 4) {
		case 0:
			liar.pool->data[i % RULE_WORDS] = take_number(&in);
			break;
		case 1:
			take_bytes(&in, &liar.pool->bell, sizeof(liar.pool->bell));
			break;
		case 2:
			take_bytes(&in, (char *)liar.pool + i * 64 % (sizeof(*liar.pool) - 8), 8);
			break;
		case 3:
			ring_with_anything(&in);
			check();
			break;
		}
	}
	rules_dispatch(rules);
	assert(memcmp(other.pool, &was, sizeof(was)) == 0);
	/* And the other is heard. */
	other.pool->data[0] = !liar.pool->data[0];
	r.token = other.hello.token;
	r.slot = other.hello.slot;
	got = ring(&other, &r, sizeof(r));
	assert(got == 0);
	check();
	return 0;
}
