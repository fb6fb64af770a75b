// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_port_bpf.c - what BPF publishes is what /proc says, whole, and nobody else writes it.
 *
 * The sampler's pages stand for /proc: one sample before, one after. What only grows must lie between the two, in every round.
 * What goes up and down may have been elsewhere meanwhile: of each such field most rounds must fit.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <bpf/bpf.h>
#include <engine/bpf/publisher.h>
#include <engine/sample/sampler.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 200
#define TICK_NS 10000000ULL
#define AVG_STEP 21 /* a hundredth, in 11 bits of fraction */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

/* Skips the test where BPF is not to be had. */
static struct publisher *publisher(uint64_t period_ns, bool no_seqlock)
{
	struct publisher_options o = { .period_ns = period_ns,
				       .generation = 7,
				       .no_seqlock = no_seqlock };
	struct publisher *p = NULL;
	int r = publisher_new(&p, &o);

	if (r == -EPERM || r == -ENOTSUP)
		skip();
	assert_int_equal(r, 0);
	return p;
}

static const struct port_head *map_page(int fd, uint64_t size)
{
	void *m = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);

	assert_ptr_not_equal(m, MAP_FAILED);
	assert_int_equal(port_check(m, size), 0);
	return m;
}

static uint64_t value(const void *data, const struct port_head *h, const struct port_field *f,
		      uint32_t i)
{
	uint64_t v;

	memcpy(&v, (const char *)data + (f->offset - h->data_off) + (uint64_t)i * f->stride, 8);
	return v;
}

/* How much more than the sampler's a true value may be, which /proc rounds down; and does it only grow? */
struct rule {
	bool grows;
	uint64_t slack;
};

static struct rule rule_of(enum port_page page, const struct port_field *f, bool is_event)
{
	switch (page) {
	case PORT_CPU:
		return (struct rule){ strcmp(f->name, "iowait") != 0, TICK_NS - 1 };
	case PORT_PSI:
		return f->type == PORT_FIXED ? (struct rule){ false, AVG_STEP }
					     : (struct rule){ true, 999 };
	case PORT_VMSTAT:
		return (struct rule){ is_event, 0 };
	case PORT_CLOCK:
		return (struct rule){ true, 0 };
	default:
		return (struct rule){ false, 0 };
	}
}

/* Until everything in a page was sampled after @since. */
static void snapshot_after(const struct port_head *h, enum port_page page, uint64_t since,
			   void *ret)
{
	const struct port_field *own = page == PORT_CPU ? port_find(h, "sample_ns") : NULL;
	uint64_t end = now_ns() + 5000000000ULL, sampled;

	for (;;) {
		bool fresh = port_snapshot(h, h->data_off, ret, h->data_size, &sampled) == 0 &&
			sampled > since;

		for (uint32_t i = 0; own && i < own->count; i++)
			fresh = fresh && value(ret, h, own, i) > since;
		if (fresh)
			return;
		assert_true(now_ns() < end);
	}
}

static void compare(struct publisher *p, enum port_page page)
{
	struct sampler *s;
	struct sampler_options o = { .pages = 1U << page };
	uint64_t before[2048], seen[2048], after[2048];
	unsigned int fits[PORT_VMSTAT_MAX] = {}, compared = 0;
	const struct port_head *h, *proc;

	assert_int_equal(sampler_new(&s, &o), 0);
	assert_true(publisher_fd(p, page) >= 0);
	h = map_page(publisher_fd(p, page), publisher_size(p, page));
	proc = map_page(sampler_fd(s, page), sampler_size(s, page));
	assert_true(h->data_size <= sizeof(seen) && proc->data_size <= sizeof(before));
	assert_int_equal(h->source, PORT_SOURCE_BPF);
	for (int round = 0; round < ROUNDS; round++) {
		bool is_event = false;

		assert_int_equal(sampler_sample(s), 0);
		port_snapshot(proc, proc->data_off, before, proc->data_size, NULL);
		snapshot_after(h, page, now_ns(), seen);
		assert_int_equal(sampler_sample(s), 0);
		port_snapshot(proc, proc->data_off, after, proc->data_size, NULL);
		for (uint32_t n = 0; n < h->nr_fields; n++) {
			const struct port_field *f = port_field_at(h, n);
			const struct port_field *g = port_find(proc, f->name);
			bool fit = true;

			is_event = is_event || strcmp(f->name, "pgpgin") == 0;
			if (!g || strcmp(f->name, "sample_ns") == 0)
				continue;
			for (uint32_t i = 0; i < f->count; i++) {
				struct rule rule = rule_of(page, f, is_event);
				uint64_t a = value(before, proc, g, i), v = value(seen, h, f, i);
				uint64_t b = value(after, proc, g, i);
				bool inside = rule.grows
					? a <= v && v <= b + rule.slack
					: v >= (a < b ? a : b) && v <= (a > b ? a : b) + rule.slack;

				if (rule.grows && !inside)
					fail_msg("%s %s[%u]: %lu <= %lu <= %lu", h->name, f->name,
						 i, a, v, b);
				fit = fit && inside;
			}
			fits[n] += fit;
			compared++;
		}
	}
	assert_true(compared >= ROUNDS);
	for (uint32_t n = 0; n < h->nr_fields; n++)
		if (port_find(proc, port_field_at(h, n)->name) && fits[n] < ROUNDS / 2 &&
		    strcmp(port_field_at(h, n)->name, "sample_ns") != 0)
			fail_msg("%s %s: in %u of %u rounds only", h->name,
				 port_field_at(h, n)->name, fits[n], ROUNDS);
	munmap((void *)h, publisher_size(p, page));
	munmap((void *)proc, sampler_size(s, page));
	sampler_free(s);
}

static void test_pages_agree_with_proc(void **state)
{
	struct publisher *p = publisher(0, false);

	for (int page = 0; page < NR_PORT_PAGES; page++) {
		if (publisher_fd(p, page) < 0) {
			assert_int_equal(publisher_fd(p, page), -ENOENT);
			print_message("# %s is not reached on this kernel\n",
				      port_specs[page].name);
			continue;
		}
		compare(p, page);
	}
	/* These are reached wherever the programs load. */
	assert_true(publisher_fd(p, PORT_CPU) >= 0);
	assert_true(publisher_fd(p, PORT_CLOCK) >= 0);
	publisher_free(p);
}

/* The clock's page says its own time twice. Return: how often they differed. */
static uint64_t count_torn(bool no_seqlock, uint64_t for_ns)
{
	struct publisher *p = publisher(20000, no_seqlock);
	const struct port_head *h = map_page(publisher_fd(p, PORT_CLOCK), 4096);
	uint64_t end = now_ns() + for_ns, torn = 0, good = 0, sampled;
	struct port_clock c;

	while (now_ns() < end && !(no_seqlock && torn)) {
		for (int i = 0; i < 1000; i++) {
			if (port_snapshot(h, h->data_off, &c, sizeof(c), &sampled))
				continue;
			good++;
			torn += c.monotonic != sampled;
		}
	}
	assert_true(good > 1000 || (no_seqlock && torn));
	munmap((void *)h, 4096);
	publisher_free(p);
	return torn;
}

static void test_snapshots_are_never_torn(void **state)
{
	assert_int_equal(count_torn(false, 1000000000ULL), 0);
}

static void test_without_the_seqlock_they_are(void **state)
{
	assert_true(count_torn(true, 20000000000ULL) > 0);
}

static void test_nobody_else_writes(void **state)
{
	struct publisher *p = publisher(0, false);

	for (int page = 0; page < NR_PORT_PAGES; page++) {
		uint64_t size = publisher_size(p, page);
		int fd = publisher_fd(p, page);
		uint32_t zero = 0;
		void *m;

		if (fd < 0)
			continue;
		assert_ptr_equal(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0),
				 MAP_FAILED);
		assert_int_equal(errno, EPERM);
		m = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
		assert_ptr_not_equal(m, MAP_FAILED);
		assert_int_equal(mprotect(m, size, PROT_READ | PROT_WRITE), -1);
		assert_int_equal(errno, EACCES);
		errno = 0;
		assert_true(bpf_map_update_elem(fd, &zero, m, BPF_ANY) < 0);
		assert_int_equal(errno, EPERM);
		munmap(m, size);
	}
	publisher_free(p);
}

static bool goes_on(const struct port_head *h)
{
	uint64_t writes = __atomic_load_n(&h->writes, __ATOMIC_ACQUIRE);

	usleep(50000);
	return __atomic_load_n(&h->writes, __ATOMIC_ACQUIRE) > writes + 1;
}

static void test_timers_live_while_they_are_held(void **state)
{
	struct publisher *p = publisher(0, false);
	const struct port_head *h = map_page(publisher_fd(p, PORT_CLOCK), 4096);
	int hold = fcntl(publisher_hold_fd(p), F_DUPFD_CLOEXEC, 0);
	uint64_t end = now_ns() + 5000000000ULL;

	publisher_free(p);
	assert_true(goes_on(h));
	close(hold);
	while (goes_on(h))
		assert_true(now_ns() < end);
	assert_int_equal(h->seq & 1, 0);
	assert_true(port_stale(h, h->sample_ns, now_ns(), 3));
	munmap((void *)h, 4096);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pages_agree_with_proc),
		cmocka_unit_test(test_snapshots_are_never_torn),
		cmocka_unit_test(test_without_the_seqlock_they_are),
		cmocka_unit_test(test_nobody_else_writes),
		cmocka_unit_test(test_timers_live_while_they_are_held),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
