// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_port_page.c - a published page: what is refused, and that a snapshot is of one pass.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <wire/port_pages.h>

#define LEN 16384
#define NR_WORDS 32
#define SNAPSHOTS 300000
#define TORN_WITHIN_S 20

static const struct port_field equal_fields[] = {
	{ .name = "words", .type = PORT_U64, .count = 1 },
};
static const struct port_spec equal_spec = {
	.name = "equal", .element_size = 8, .fields = equal_fields, .nr_fields = 1
};

static int setup(void **state)
{
	void *h = aligned_alloc(4096, LEN);

	memset(h, 0, LEN);
	port_format(h, &equal_spec, NR_WORDS, PORT_SOURCE_SAMPLER, 1000000, 7);
	*state = h;
	return 0;
}

static int teardown(void **state)
{
	free(*state);
	return 0;
}

static void test_every_page_is_sound(void **state)
{
	struct port_head *h = *state;

	for (int i = 0; i < NR_PORT_PAGES; i++) {
		const struct port_spec *s = &port_specs[i];
		uint32_t nr = s->nr_elements ? s->nr_elements : 4;

		memset(h, 0, LEN);
		port_format(h, s, nr, PORT_SOURCE_BPF, 1, 1);
		assert_int_equal(port_check(h, LEN), 0);
		assert_int_equal(port_check(h, h->size), 0);
		assert_int_equal(port_check(h, h->size - 1), -EPROTO);
		for (uint32_t f = 0; f < s->nr_fields; f++)
			assert_ptr_equal(port_find(h, s->fields[f].name), port_field_at(h, f));
		assert_null(port_find(h, "no such field"));
	}
}

/* Each of these is one change to a sound page. */
static void test_unsound_pages_are_refused(void **state)
{
	struct port_head *h = *state, sound = *h;
	struct port_field *f = (struct port_field *)(h + 1), sound_field = *f;

#define REFUSED(change, error)                               \
	do {                                                 \
		change;                                      \
		assert_int_equal(port_check(h, LEN), error); \
		*h = sound;                                  \
		*f = sound_field;                            \
		assert_int_equal(port_check(h, LEN), 0);     \
	} while (0)
	REFUSED(h->magic++, -EPROTO);
	REFUSED(h->version++, -EPROTONOSUPPORT);
	REFUSED(h->size = LEN + 1, -EPROTO);
	REFUSED(h->head_size--, -EPROTO);
	REFUSED(h->nr_fields = UINT32_MAX, -EPROTO);
	REFUSED(h->nr_fields = 3, -EPROTO);
	REFUSED(h->field_size -= 8, -EPROTO);
	REFUSED(h->fields_off -= 8, -EPROTO);
	REFUSED(h->fields_off = UINT32_MAX - 7, -EPROTO);
	REFUSED(h->data_off += 4, -EPROTO);
	REFUSED(h->data_off = 8, -EPROTO);
	REFUSED(h->data_size = UINT32_MAX - 7, -EPROTO);
	REFUSED(memset(h->name, 'x', sizeof(h->name)), -EPROTO);
	REFUSED(f->type = 99, -EPROTO);
	REFUSED(f->offset += 4, -EPROTO);
	REFUSED(f->offset = 0, -EPROTO);
	REFUSED(f->offset = UINT32_MAX - 7, -EPROTO);
	REFUSED(f->count++, -EPROTO);
	REFUSED(f->count = 0, -EPROTO);
	REFUSED(f->stride = UINT32_MAX - 7, -EPROTO);
	REFUSED(f->stride = 4, -EPROTO);
	REFUSED(f->fraction_bits = 64, -EPROTO);
	REFUSED(memset(f->name, 'x', sizeof(f->name)), -EPROTO);
	REFUSED(memset(f->unit, 'x', sizeof(f->unit)), -EPROTO);
}

static void test_snapshot_stays_within_the_data(void **state)
{
	struct port_head *h = *state;
	uint64_t words[NR_WORDS], off = h->data_off;

	assert_int_equal(port_snapshot(h, off, words, sizeof(words), NULL), 0);
	assert_int_equal(port_snapshot(h, off + 8, words, sizeof(words) - 8, NULL), 0);
	assert_int_equal(port_snapshot(h, off + 8, words, sizeof(words), NULL), -EFAULT);
	assert_int_equal(port_snapshot(h, off - 8, words, 8, NULL), -EFAULT);
	assert_int_equal(port_snapshot(h, off + 4, words, 8, NULL), -EFAULT);
	assert_int_equal(port_snapshot(h, off, words, 4, NULL), -EFAULT);
	assert_int_equal(port_snapshot(h, UINT64_MAX - 7, words, 16, NULL), -EFAULT);
	assert_int_equal(port_snapshot(h, off, words, UINT64_MAX - 7, NULL), -EFAULT);
}

static void test_dead_writer_is_told_and_followed(void **state)
{
	struct port_head *h = *state;
	uint64_t word = 5, got = 0, sampled = 0;

	port_write_begin(h);
	port_write(h, h->data_off, &word, 8);
	assert_int_equal(port_snapshot(h, h->data_off, &got, 8, NULL), -EAGAIN);
	/* Another writer begins anew. */
	port_write_begin(h);
	word = 6;
	port_write(h, h->data_off, &word, 8);
	port_write_end(h, 1234);
	assert_int_equal(port_snapshot(h, h->data_off, &got, 8, &sampled), 0);
	assert_int_equal(got, 6);
	assert_int_equal(sampled, 1234);
	assert_int_equal(h->writes, 1);
}

static void test_age(void **state)
{
	struct port_head *h = *state;

	assert_true(port_age_ns(0, 5) == UINT64_MAX);
	assert_int_equal(port_age_ns(10, 5), 0);
	assert_int_equal(port_age_ns(10, 15), 5);
	assert_false(port_stale(h, 1000, 1000 + 3000000, 3));
	assert_true(port_stale(h, 1000, 1000 + 6000003, 3));
	assert_true(port_stale(h, 0, 1, 3));
	h->period_ns = 0;
	assert_false(port_stale(h, 1000, UINT64_MAX, 3));
}

struct writer {
	struct port_head *h;
	int seqlock;
	int stop;
};

/* Passes in which every word is the same. */
static void *write_on(void *arg)
{
	struct writer *w = arg;
	uint64_t words[NR_WORDS];

	for (uint64_t pass = 1; !__atomic_load_n(&w->stop, __ATOMIC_RELAXED); pass++) {
		for (int i = 0; i < NR_WORDS; i++)
			words[i] = pass;
		if (w->seqlock)
			port_write_begin(w->h);
		port_write(w->h, w->h->data_off, words, sizeof(words));
		if (w->seqlock)
			port_write_end(w->h, pass);
		else
			__atomic_store_n(&w->h->sample_ns, pass, __ATOMIC_RELEASE);
		for (int i = 0; i < 200; i++)
			port_relax();
	}
	return NULL;
}

static int torn(const uint64_t *words, uint64_t sampled)
{
	for (int i = 0; i < NR_WORDS; i++)
		if (words[i] != sampled)
			return 1;
	return 0;
}

static uint64_t count_torn(struct port_head *h, int seqlock, uint64_t snapshots, int stop_at_first)
{
	struct writer w = { .h = h, .seqlock = seqlock };
	uint64_t words[NR_WORDS], sampled, nr_torn = 0, nr_good = 0;
	time_t end = time(NULL) + TORN_WITHIN_S;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, write_on, &w), 0);
	for (uint64_t i = 0; i < snapshots && time(NULL) < end; i++) {
		if (port_snapshot(h, h->data_off, words, sizeof(words), &sampled))
			continue;
		nr_good++;
		nr_torn += torn(words, sampled);
		if (nr_torn && stop_at_first)
			break;
	}
	__atomic_store_n(&w.stop, 1, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	assert_true(nr_good > 0);
	return nr_torn;
}

static void test_snapshots_are_of_one_pass(void **state)
{
	assert_int_equal(count_torn(*state, 1, SNAPSHOTS, 0), 0);
}

static void test_without_the_seqlock_they_are_torn(void **state)
{
	assert_true(count_torn(*state, 0, UINT64_MAX, 1) > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_every_page_is_sound, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unsound_pages_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_snapshot_stays_within_the_data, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_dead_writer_is_told_and_followed, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_age, setup, teardown),
		cmocka_unit_test_setup_teardown(test_snapshots_are_of_one_pass, setup, teardown),
		cmocka_unit_test_setup_teardown(test_without_the_seqlock_they_are_torn, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
