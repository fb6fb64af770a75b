// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * recover.c - what an earlier process left in the slots: transfers that are made and not answered, and transfers that the
 * kernel still works on. See relay.h for the theory.
 */
#include <engine/relay/relay_internal.h>
#include <wire/keep.h>

void relay_record(struct shm_slot *s, int res)
{
	uint64_t step = (s->progress >> 32) + 1;
	uint32_t bytes = (uint32_t)s->progress + (res > 0 ? (uint32_t)res : 0);

	__atomic_store_n(&s->progress, step << 32 | bytes, __ATOMIC_RELEASE);
}

/* Is this slot's transfer still the kernel's? The entry of the submission queue was taken, and no completion came. */
static bool in_flight(const struct relay *r, const struct shm_slot *s)
{
	if (r->epoll_fd >= 0)
		return false;
	return s->submitted >> 32 == s->progress >> 32 &&
		(s->left == LEFT_RUNNING ||
		 (int32_t)(*r->ring.sq.khead - (uint32_t)s->submitted) > 0);
}

void relay_recover(struct relay *r,
		   bool (*answer)(void *ctx, uint64_t unique, bool write, const void *data,
				  uint32_t bytes),
		   void *ctx)
{
	struct io_uring_cqe *cqe;

	r->answer = answer;
	r->ctx = ctx;
	while (r->epoll_fd < 0 && io_uring_peek_cqe(&r->ring, &cqe) == 0) {
		uint32_t index = (cqe->user_data >> 32) & 0xffffff, step = (uint32_t)cqe->user_data;

		if (cqe->user_data >> 56 == IS_SLOT && index < r->nr_slots) {
			struct shm_slot *s = &r->slots[index];

			if (s->unique && s->progress >> 32 == step)
				relay_record(s, cqe->res);
		}
		io_uring_cqe_seen(&r->ring, cqe);
	}
	for (unsigned int i = 0; i < r->nr_slots; i++) {
		struct shm_slot *s = &r->slots[i];
		uint32_t bytes = (uint32_t)s->progress;

		if (!s->unique)
			continue;
		if (in_flight(r, s)) {
			s->left = LEFT_RUNNING;
			r->nr_left++;
			r->nr_busy++;
			continue;
		}
		if (bytes > 0 && bytes <= SHM_SLOT_BYTES &&
		    !answer(ctx, s->unique, s->write, s->data, bytes) && s->left) {
			/* The last process may have had the request sent again, and it is on its way. */
			s->left = LEFT_ENDED;
			r->nr_left++;
			r->nr_busy++;
			continue;
		}
		s->unique = 0;
		s->left = 0;
	}
}

static void give_up(struct relay *r, struct shm_slot *s)
{
	s->unique = 0;
	s->left = 0;
	r->nr_left--;
	r->nr_busy--;
}

bool relay_left_ended(struct relay *r, struct shm_slot *s)
{
	uint32_t n = (uint32_t)s->progress;

	if (n && !r->answer(r->ctx, s->unique, s->write, s->data, n) && !r->all_came) {
		s->left = LEFT_ENDED;
		return false;
	}
	give_up(r, s);
	return true;
}

void relay_all_came(struct relay *r)
{
	r->all_came = true;
	for (unsigned int i = 0; i < r->nr_slots; i++)
		if (r->slots[i].left == LEFT_ENDED && !r->slot_io[i])
			give_up(r, &r->slots[i]);
	relay_run_queue(r);
}

int relay_find_left(const struct relay *r, uint64_t unique)
{
	for (unsigned int i = 0; i < r->nr_slots; i++)
		if (r->slots[i].left && !r->slot_io[i] &&
		    (r->slots[i].unique | RELAY_AGAIN) == (unique | RELAY_AGAIN))
			return (int)i;
	return -1;
}
