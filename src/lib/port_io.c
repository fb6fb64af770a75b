// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * port_io.c - reading and writing a port.
 *
 * A read is some checks and plain loads; why what it gives is of one pass of the writer is said in wire/port.h. Of a hostile writer it
 * gets what that writes; it ends, and stays within the page, since nothing that bounds it is read from the page.
 *
 * A write is stores to the pool and a request in the bell; the protocol is in wire/port_serve.h. The caller waits for done, first
 * by looking at it, for as long as a server that is awake takes, and then in futex(2), in slices: a server that dies
 * wakes nobody, but hangs up.
 *
 * Locks: struct kport.lock, for the time of a write.
 */
#include <linux/bpf.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#include <kshared/port.h>

#include "lib/conn.h"
#include "lib/port.h"

#define SPIN_NS 20000
#define SLICE_NS 10000000 /* until the socket is looked at again */
#define POLL_NS 200000 /* between two looks where nobody wakes us */
#define PATIENCE_NS 5000000000

#define load(p) __atomic_load_n(p, __ATOMIC_RELAXED)
#define load_acquire(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)

/* Copy words out of the page, each load an acquire, in order. */
static inline void copy_out(unsigned long *to, const unsigned long *from, size_t len)
{
	const unsigned long *end = from + len / PORT_WORD, *end8 = end - 7;

	for (; from < end8; from += 8, to += 8) {
		to[0] = load_acquire(&from[0]);
		to[1] = load_acquire(&from[1]);
		to[2] = load_acquire(&from[2]);
		to[3] = load_acquire(&from[3]);
		to[4] = load_acquire(&from[4]);
		to[5] = load_acquire(&from[5]);
		to[6] = load_acquire(&from[6]);
		to[7] = load_acquire(&from[7]);
	}
	for (; from < end; from++, to++)
		*to = load_acquire(from);
}

static bool is_within(uint64_t offset, uint64_t len, uint64_t size)
{
	return len <= size && offset <= size - len;
}

#if defined(__x86_64__)

/** port_cache_line() - how long a line is, for KPORT_STRICT. Return: 0; -EOPNOTSUPP: it cannot be flushed. */
int port_cache_line(unsigned int *ret)
{
	unsigned int a, b, c, d, line;

	if (!__get_cpuid(1, &a, &b, &c, &d))
		return -EOPNOTSUPP;
	line = (b >> 8 & 0xff) * 8;
	if (!line || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_CLFLUSHOPT))
		return -EOPNOTSUPP;
	*ret = line;
	return 0;
}

/* Out of every cache, written back if need be; what is loaded or stored next comes after. */
__attribute__((target("clflushopt"))) static void flush(const struct kport *p, const void *at,
							size_t len)
{
	uintptr_t from = (uintptr_t)at & ~(uintptr_t)(p->line - 1);

	for (; from < (uintptr_t)at + len; from += p->line)
		_mm_clflushopt((void *)from);
	_mm_mfence();
}

#else

int port_cache_line(unsigned int *ret)
{
	return -EOPNOTSUPP;
}

static void flush(const struct kport *p, const void *at, size_t len)
{
}

#endif

/* One try to read: true, if no writer was there. The sample's time is part of what it reads. */
static bool try_read(const struct kport *p, void *buf, size_t len, uint64_t offset,
		     uint64_t *ret_sample_ns)
{
	const struct port_head *h = p->head;
	uint64_t seq;

	if (p->flags & KPORT_STRICT) {
		flush(p, &h->seq, sizeof(h->seq));
		flush(p, p->data + offset, len);
	}
	seq = load_acquire(&h->seq);
	if (seq & 1)
		return false;
	copy_out(buf, (const unsigned long *)(p->data + offset), len);
	*ret_sample_ns = load_acquire(&h->sample_ns);
	if (p->flags & KPORT_STRICT)
		flush(p, &h->seq, sizeof(h->seq));
	return load(&h->seq) == seq;
}

/* What kport_read() leaves to do: errors, KPORT_STRICT, KPORT_FRESH. */
static __attribute__((noinline)) ssize_t read_carefully(const struct kport *p, void *buf,
							size_t len, uint64_t offset)
{
	uint64_t sample_ns;

	if (((uintptr_t)buf | len | offset) % PORT_WORD || !is_within(offset, len, p->size)) {
		errno = EFAULT;
		return -1;
	}
	for (int i = 0; i < PORT_TRIES; i++) {
		if (!try_read(p, buf, len, offset, &sample_ns)) {
			port_relax();
			continue;
		}
		if ((p->flags & KPORT_FRESH) && p->period_ns &&
		    port_age_ns(sample_ns, port_now_ns()) / 3 > p->period_ns) {
			errno = ESTALE;
			return -1;
		}
		return (ssize_t)len;
	}
	errno = EAGAIN;
	return -1;
}

/**
 * kport_read() - copy a part of the data as one pass of the writer left it.
 * @buf: aligned to the machine word
 * @len, @offset: multiples of it
 *
 * Any number of threads, also in a signal handler. No system call.
 *
 * Return: @len; -1 with errno: EFAULT unaligned, or not within the data; EAGAIN the writer was there at every try; ESTALE.
 */
ssize_t kport_read(struct kport *p, void *buf, size_t len, uint64_t offset)
{
	const struct port_head *h;
	const unsigned long *from;

	/* fast_size is 0 if there is more to do than this. */
	if (port_unlikely((((uintptr_t)buf | len | offset) % PORT_WORD) ||
			  !is_within(offset, len, p->fast_size)))
		return read_carefully(p, buf, len, offset);
	h = p->head;
	from = (const unsigned long *)(p->data + offset);
	for (int i = 0; i < PORT_TRIES; i++) {
		uint64_t seq = load_acquire(&h->seq);

		if (port_unlikely(seq & 1)) {
			port_relax();
			continue;
		}
		copy_out(buf, from, len);
		if (load(&h->seq) == seq)
			return (ssize_t)len;
	}
	errno = EAGAIN;
	return -1;
}

/**
 * port_sampled() - what the page's head says of its data.
 * Return: 0; -EAGAIN as kport_read().
 */
int port_sampled(const struct kport *p, uint64_t *ret_sample_ns, uint64_t *ret_writes)
{
	for (int i = 0; i < PORT_TRIES; i++) {
		uint64_t seq = load_acquire(&p->head->seq);

		if (!(seq & 1)) {
			*ret_writes = load_acquire(&p->head->writes);
			*ret_sample_ns = load_acquire(&p->head->sample_ns);
			if (load(&p->head->seq) == seq)
				return 0;
		}
		port_relax();
	}
	return -EAGAIN;
}

/**
 * kport_get() - one number.
 * @f: from kport_field() or kport_find() of this port
 * @index: which of the field's values, from 0
 * @ret: KPORT_S64: the same bits; KPORT_FIXED: unscaled
 *
 * Any number of threads. No system call.
 *
 * Return: 0; -1 with errno: EINVAL no number; ERANGE @index; and those of kport_read().
 */
int kport_get(struct kport *p, const struct kport_field *f, unsigned int index, uint64_t *ret)
{
	uint64_t offset, value;
	unsigned int part;

	if (f->type < KPORT_U64 || f->type > KPORT_FIXED)
		return api_result(-EINVAL);
	if (index >= f->count)
		return api_result(-ERANGE);
	if (__builtin_add_overflow(f->offset, (uint64_t)index * f->stride, &offset))
		return api_result(-EFAULT);
	part = offset % sizeof(value);
	if (part % (f->type == KPORT_U32 ? 4 : 8))
		return api_result(-EFAULT);
	if (kport_read(p, &value, sizeof(value), offset - part) < 0)
		return -1;
	if (f->type == KPORT_U32) {
		uint32_t half;

		memcpy(&half, (const char *)&value + part, sizeof(half));
		value = half;
	}
	*ret = value;
	return 0;
}

static void futex_wait(const struct kport *p, uint32_t *at, uint32_t seen)
{
	struct timespec ts = { .tv_nsec = p->bell_kind == PORT_BELL_BPF ? POLL_NS : SLICE_NS };

	/* Nobody wakes who waits for a BPF program, and its memory has no futexes. */
	if (p->bell_kind == PORT_BELL_BPF) {
		nanosleep(&ts, NULL);
		return;
	}
	__atomic_store_n(&p->bell->waiting, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(at, __ATOMIC_SEQ_CST) == seen)
		syscall(SYS_futex, at, FUTEX_WAIT, seen, &ts, NULL, 0);
	__atomic_store_n(&p->bell->waiting, 0, __ATOMIC_RELAXED);
}

static void ring_eventfd(const struct kport *p)
{
	const uint64_t one = 1;

	/* If it is full, its server has not looked yet. */
	if (write(p->bell_fd, &one, sizeof(one)) < 0)
		return;
}

/**
 * port_spin_ns() - how long to look again and again for what a server does: not at all if it cannot run meanwhile.
 * Asked once for each port: it reads a file.
 */
uint64_t port_spin_ns(enum port_bell_kind bell)
{
	return bell == PORT_BELL_EVENTFD && sysconf(_SC_NPROCESSORS_ONLN) > 1 ? SPIN_NS : 0;
}

/* Wait until the last request is done. */
static int await(struct kport *p)
{
	struct port_bell *b = p->bell;
	uint32_t request = load(&b->request), done = load_acquire(&b->done);
	uint64_t since_ns, spin_until_ns, now;
	bool rung = p->bell_kind != PORT_BELL_EVENTFD;
	int32_t result;

	if (done != request) {
		if (!rung && !__atomic_load_n(&b->awake, __ATOMIC_SEQ_CST)) {
			ring_eventfd(p);
			rung = true;
		}
		since_ns = now = port_now_ns();
		spin_until_ns = since_ns + p->spin_ns;
		while ((done = load_acquire(&b->done)) != request) {
			now = port_now_ns();
			if (now < spin_until_ns) {
				port_relax();
				continue;
			}
			if (!rung) {
				ring_eventfd(p);
				rung = true;
			}
			p->gone = port_hung_up(p->sock);
			/* What it did last it has done before it hung up. */
			if (p->gone && load_acquire(&b->done) != request)
				return -EPIPE;
			if (now - since_ns > PATIENCE_NS)
				return -ETIMEDOUT;
			if (!p->gone)
				futex_wait(p, &b->done, done);
		}
	}
	result = load(&b->result);
	/* Shut out, unless the resource says so of itself. */
	if (result == -EPIPE)
		p->gone = port_hung_up(p->sock);
	return result > 0 || result < -4095 ? -EPROTO : result;
}

/* Have a BPF program take it, in this thread. */
static int run_bpf(const struct kport *p, size_t len, uint64_t offset)
{
	struct port_ring ring = { .token = p->token, .slot = p->slot, .off = offset, .len = len };
	union bpf_attr attr = { .test = { .prog_fd = (uint32_t)p->bell_fd,
					  .ctx_in = (uintptr_t)&ring,
					  .ctx_size_in = sizeof(ring) } };
	int32_t result;

	if (syscall(SYS_bpf, BPF_PROG_RUN, &attr, sizeof(attr)) < 0)
		return -errno;
	result = (int32_t)attr.test.retval;
	return result > 0 || result < -4095 ? -EPROTO : result;
}

/* Tell the server of bytes in the pool; the lock is held. */
static int ring(struct kport *p, size_t len, uint64_t offset)
{
	struct port_bell *b = p->bell;
	int r;

	/* The one before, if nobody has waited for it: it would be lost. */
	if (p->polled) {
		r = await(p);
		if (r == -EPIPE || r == -ETIMEDOUT)
			return r;
		p->polled = false;
	}
	if (p->bell_kind == PORT_BELL_BPF && !(p->flags & KPORT_POLLED))
		return run_bpf(p, len, offset);
	__atomic_store_n(&b->off, offset, __ATOMIC_RELAXED);
	__atomic_store_n(&b->len, len, __ATOMIC_RELAXED);
	/* A release for what is above, and a full barrier before the look at awake. */
	__atomic_add_fetch(&b->request, 1, __ATOMIC_SEQ_CST);
	if (p->flags & KPORT_POLLED) {
		p->polled = true;
		return 0;
	}
	return await(p);
}

static void unlock_key(const struct kport *p)
{
	if (p->key >= 0)
		pkey_set(p->key, 0);
}

static void lock_key(const struct kport *p)
{
	if (p->key >= 0)
		pkey_set(p->key, PKEY_DISABLE_WRITE);
}

static int write_through(struct kport *p, const void *buf, size_t len, uint64_t offset)
{
	unsigned long *to = (unsigned long *)(p->pool + offset);
	const unsigned long *from = buf;
	int r = 0;

	pthread_mutex_lock(&p->lock);
	unlock_key(p);
	/* What was rung for before, and not waited for, is not to be changed under its server. */
	if (from && p->polled)
		r = await(p);
	r = r == -EPIPE || r == -ETIMEDOUT ? r : 0;
	if (r == 0 && from)
		for (size_t i = 0; i < len / PORT_WORD; i++)
			__atomic_store_n(&to[i], from[i], __ATOMIC_RELAXED);
	if (r == 0 && (p->flags & KPORT_STRICT))
		flush(p, to, len);
	if (r == 0)
		r = ring(p, len, offset);
	lock_key(p);
	pthread_mutex_unlock(&p->lock);
	return r;
}

static int check_write(const struct kport *p, const void *buf, size_t len, uint64_t offset)
{
	if (!p->bell)
		return -EBADF;
	if (((uintptr_t)buf | len | offset) % PORT_WORD || !is_within(offset, len, p->pool_size))
		return -EFAULT;
	return p->gone ? -EPIPE : 0;
}

/**
 * kport_write() - have bytes written through to the resource.
 * @buf, @len, @offset: as for kport_read(); within the pool
 *
 * Any thread; writes of one port wait for each other. Waits five seconds at most for the server. With KPORT_POLLED it waits only if the
 * polled write before was not taken yet; that one's refusal is told by kport_flush() or not at all.
 *
 * Return: @len; -1 with errno: EFAULT; EBADF opened for reading; EPIPE; ETIMEDOUT; EPROTO; or what the resource refused with.
 */
ssize_t kport_write(struct kport *p, const void *buf, size_t len, uint64_t offset)
{
	int r;

	cancel_guard();
	r = check_write(p, buf, len, offset);
	if (r == 0 && !buf)
		r = -EFAULT;
	if (r == 0)
		r = write_through(p, buf, len, offset);
	if (r < 0)
		return api_result(r);
	return (ssize_t)len;
}

/**
 * kport_ring() - what is in the pool is to be written through.
 * Any thread. Return: 0; -1 with errno as kport_write().
 */
int kport_ring(struct kport *p, size_t len, uint64_t offset)
{
	int r;

	cancel_guard();
	r = check_write(p, NULL, len, offset);
	return api_result(r < 0 ? r : write_through(p, NULL, len, offset));
}

/**
 * kport_flush() - wait until the last polled write was taken.
 * Any thread. Return: 0: it was carried out, or there was none; -1 with errno as kport_write().
 */
int kport_flush(struct kport *p)
{
	int r = 0;

	cancel_guard();
	if (!p->bell)
		return api_result(-EBADF);
	pthread_mutex_lock(&p->lock);
	unlock_key(p);
	if (p->polled) {
		r = await(p);
		p->polled = r == -ETIMEDOUT;
	}
	lock_key(p);
	pthread_mutex_unlock(&p->lock);
	return api_result(r);
}

/**
 * kport_map() - the memory itself.
 * @prot: PROT_READ: the data; PROT_READ | PROT_WRITE: the client's own pool
 * @ret_len: bytes; NULL: not asked
 *
 * Return: borrowed until kport_close() or kport_renew(); NULL with errno: EBADF opened for reading; EINVAL.
 */
void *kport_map(struct kport *p, int prot, size_t *ret_len)
{
	bool pool = prot == (PROT_READ | PROT_WRITE);

	if (!pool && prot != PROT_READ) {
		errno = EINVAL;
		return NULL;
	}
	if (pool && !p->bell) {
		errno = EBADF;
		return NULL;
	}
	if (pool)
		lock_key(p); /* a thread that was there before the key may not even read */
	if (ret_len)
		*ret_len = pool ? p->pool_size : p->size;
	return pool ? p->pool : (void *)p->data;
}
