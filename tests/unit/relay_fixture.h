/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * relay_fixture.h - a ring, shared slots and a relay on them; for tests of engine/relay.
 */
#ifndef KSHARED_TESTS_RELAY_FIXTURE_H
#define KSHARED_TESTS_RELAY_FIXTURE_H

#include <engine/relay/relay.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <wire/keep.h>

#define NR_SLOTS 4
#define PATIENCE_MS 10000

struct rig {
	int ring_fd;
	struct io_uring_params params;
	struct shm_slot *slots;
	unsigned int nr_slots;
	struct relay *relay;
};

/* One transfer and what came of it. */
struct job {
	struct relay_io io;
	unsigned int calls;
	int result;
	unsigned char data[SHM_SLOT_BYTES];
};

static inline int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

/* Set by a test that wants relays without io_uring. */
static bool without_ring;

static inline void rig_init_with(struct rig *rig, unsigned int nr_slots)
{
	signal(SIGPIPE, SIG_IGN);
	rig->ring_fd = without_ring ? -1 : relay_ring_new(&rig->params);
	if (rig->ring_fd < 0 && !without_ring)
		fail_msg("no io_uring: %s", strerror(-rig->ring_fd));
	rig->nr_slots = nr_slots;
	rig->slots = mmap(NULL, nr_slots * sizeof(struct shm_slot), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(rig->slots, MAP_FAILED);
	assert_int_equal(relay_new(&rig->relay, rig->ring_fd, &rig->params, rig->slots, nr_slots),
			 0);
}

static inline void rig_init(struct rig *rig)
{
	rig_init_with(rig, NR_SLOTS);
}

static inline void rig_deinit(struct rig *rig)
{
	relay_free(rig->relay);
	if (!without_ring)
		assert_int_equal(close(rig->ring_fd), 0);
	munmap(rig->slots, rig->nr_slots * sizeof(struct shm_slot));
}

/* Let the relay work until *@count is @n, or fail. */
static inline void run_until(struct rig *rig, const unsigned int *count, unsigned int n)
{
	int64_t end = now_ms() + PATIENCE_MS;
	struct pollfd p = { .fd = relay_fd(rig->relay), .events = POLLIN };

	relay_dispatch(rig->relay);
	while (*count < n) {
		if (now_ms() > end)
			fail_msg("still %u of %u after %d ms", *count, n, PATIENCE_MS);
		poll(&p, 1, 1000);
		relay_dispatch(rig->relay);
	}
	assert_int_equal(*count, n);
}

/* Give the relay @ms to do what it must not do. */
static inline void run_for(struct rig *rig, int ms)
{
	struct pollfd p = { .fd = relay_fd(rig->relay), .events = POLLIN };
	int64_t end = now_ms() + ms;

	do {
		poll(&p, 1, ms);
		relay_dispatch(rig->relay);
	} while (now_ms() < end);
}

static inline void job_done(struct relay_io *io, int result, const void *data)
{
	struct job *j = (struct job *)io;

	j->calls++;
	j->result = result;
	if (!io->write && result > 0)
		memcpy(j->data, data, (size_t)result);
}

static inline void start_read(struct rig *rig, struct job *j, int fd, size_t len)
{
	j->io = (struct relay_io){
		.unique = 1, .fd = fd, .offset = -1, .len = len, .done = job_done
	};
	j->calls = 0;
	relay_start(rig->relay, &j->io);
}

static inline void start_write(struct rig *rig, struct job *j, int fd, const void *data, size_t len)
{
	j->io = (struct relay_io){ .unique = 1,
				   .fd = fd,
				   .offset = -1,
				   .data = data,
				   .len = len,
				   .write = true,
				   .done = job_done };
	j->calls = 0;
	relay_start(rig->relay, &j->io);
}

static inline struct job *new_job(void)
{
	struct job *j = calloc(1, sizeof(*j));

	assert_non_null(j);
	return j;
}

#endif
