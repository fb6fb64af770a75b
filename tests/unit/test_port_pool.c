// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_port_pool.c - pools between shadow bytes and guard pages.
 */
#include "port_fixture.h"

#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define PAGE 4096
#define SYS_MSEAL 462
#define NR_THREADS 4
#define ROUNDS 3000

/* How does a process end that stores at @at? Return: the signal; 0: not by one. */
static int store_in_child(char *at)
{
	const struct rlimit none = { 0 };
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		setrlimit(RLIMIT_CORE, &none);
		signal(SIGSEGV, SIG_DFL);
		*(volatile char *)at = 1;
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static unsigned int count_maps(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	unsigned int nr = 0;
	int c;

	while ((c = getc(f)) != EOF)
		nr += c == '\n';
	fclose(f);
	return nr;
}

static void test_pool_is_zeroed_and_bounded(void **state)
{
	unsigned long *pool = kport_allocz(3);

	assert_non_null(pool);
	assert_int_equal((uintptr_t)pool % PAGE, 0);
	for (size_t i = 0; i < 3 * PAGE / sizeof(long); i++)
		assert_int_equal(pool[i], 0);
	assert_int_equal(kport_check(pool, NULL, NULL), 0);
	kport_free(pool);
	kport_free(NULL);

	errno = 0;
	assert_null(kport_allocz(0));
	assert_int_equal(errno, EINVAL);
	errno = 0;
	assert_null(kport_allocz(KPORT_POOL_MAX + 1));
	assert_int_equal(errno, EINVAL);
	errno = 0;
	assert_null(kport_allocz(SIZE_MAX));
	assert_int_equal(errno, EINVAL);
	pool = kport_allocz(KPORT_POOL_MAX);
	assert_non_null(pool);
	kport_free(pool);
}

/* A region that was used before is as new. */
static void test_pool_is_zeroed_again(void **state)
{
	char *pool = kport_allocz(2), *again;

	memset(pool - PORT_CANARY, 0x55, 2 * PAGE + 2 * PORT_CANARY);
	kport_free(pool);
	again = kport_allocz(2);
	for (size_t i = 0; i < 2 * PAGE; i++)
		assert_int_equal(again[i], 0);
	assert_int_equal(kport_check(again, NULL, NULL), 0);
	kport_free(again);
}

static void test_each_shadow_byte_counts(void **state)
{
	unsigned char *pool = kport_allocz(2);
	const int64_t size = 2 * PAGE;

	for (int64_t i = -PORT_CANARY; i < size + PORT_CANARY; i = i == -1 ? size : i + 1) {
		int64_t offset = 12345;
		uint32_t bytes = 0;

		pool[i] ^= 0x10;
		errno = 0;
		assert_int_equal(kport_check(pool, &offset, &bytes), -1);
		assert_int_equal(errno, EFAULT);
		assert_int_equal(offset, i);
		assert_int_equal(bytes, 1);
		assert_int_equal(kport_check(pool, NULL, NULL), -1);
		pool[i] ^= 0x10;
		assert_int_equal(kport_check(pool, NULL, NULL), 0);
	}
	kport_free(pool);
}

static void test_span_of_what_was_changed(void **state)
{
	unsigned char *pool = kport_allocz(1);
	int64_t offset;
	uint32_t bytes;

	pool[-3] ^= 1;
	pool[-1] ^= 1;
	assert_int_equal(kport_check(pool, &offset, &bytes), -1);
	assert_int_equal(offset, -3);
	assert_int_equal(bytes, 3);
	pool[PAGE + 4] ^= 1;
	assert_int_equal(kport_check(pool, &offset, &bytes), -1);
	assert_int_equal(offset, -3);
	assert_int_equal(bytes, 3 + PAGE + 5);
	kport_free(pool);
}

static void test_no_two_have_the_same_shadow_bytes(void **state)
{
	unsigned char *a = kport_allocz(1), *b = kport_allocz(1);

	assert_memory_not_equal(a - PORT_CANARY, b - PORT_CANARY, PORT_CANARY);
	assert_memory_not_equal(a + PAGE, b + PAGE, PORT_CANARY);
	assert_memory_not_equal(a - PORT_CANARY, a + PAGE, PORT_CANARY);
	kport_free(a);
	kport_free(b);
}

static void test_what_goes_further_is_a_fault(void **state)
{
	char *pool = kport_allocz(2);

	assert_int_equal(store_in_child(pool), 0);
	assert_int_equal(store_in_child(pool + 2 * PAGE - 1), 0);
	assert_int_equal(store_in_child(pool + 3 * PAGE), SIGSEGV);
	assert_int_equal(store_in_child(pool - PAGE - 1), SIGSEGV);
	/* What the shadow bytes are compared with cannot be changed by mistake, either. */
	assert_int_equal(store_in_child(pool - 3 * PAGE), SIGSEGV);
	kport_free(pool);
}

static void test_guard_pages_are_sealed(void **state)
{
	char *pool = kport_allocz(1);
	char *guards[] = { pool - 2 * PAGE, pool + 2 * PAGE };

	if (syscall(SYS_MSEAL, NULL, 0, 0) < 0 && errno == ENOSYS)
		skip();
	for (int i = 0; i < 2; i++) {
		errno = 0;
		assert_int_equal(mprotect(guards[i], PAGE, PROT_READ | PROT_WRITE), -1);
		assert_int_equal(errno, EPERM);
		errno = 0;
		assert_int_equal(munmap(guards[i], PAGE), -1);
		assert_int_equal(errno, EPERM);
	}
	kport_free(pool);
}

static void test_address_space_is_used_again(void **state)
{
	void *pools[8];
	unsigned int before = 0;

	for (int round = 0; round < 500; round++) {
		for (int i = 0; i < 8; i++)
			assert_non_null(pools[i] = kport_allocz(1 + (size_t)i % 3));
		for (int i = 0; i < 8; i++)
			kport_free(pools[(i * 5) % 8]);
		if (round == 1)
			before = count_maps();
	}
	assert_true(count_maps() <= before + 4);
}

static void test_child_shares_the_pool(void **state)
{
	char *pool = kport_allocz(1);
	int64_t offset;
	pid_t pid;

	pid = fork();
	if (pid == 0) {
		pool[7] = 9;
		pool[PAGE] ^= 1;
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	assert_int_equal(pool[7], 9);
	assert_int_equal(kport_check(pool, &offset, NULL), -1);
	assert_int_equal(offset, PAGE);
	kport_free(pool);
}

static void *use_pools(void *arg)
{
	uintptr_t wrong = 0;

	for (int i = 0; i < ROUNDS; i++) {
		uintptr_t *pools[3];

		for (int j = 0; j < 3; j++) {
			pools[j] = kport_allocz(1 + (size_t)j % 2);
			*pools[j] = (uintptr_t)&pools[j] + (uintptr_t)arg;
		}
		for (int j = 0; j < 3; j++) {
			wrong += *pools[j] != (uintptr_t)&pools[j] + (uintptr_t)arg;
			wrong += kport_check(pools[j], NULL, NULL) < 0;
			kport_free(pools[j]);
		}
	}
	return (void *)wrong;
}

static void test_threads_have_their_own(void **state)
{
	pthread_t threads[NR_THREADS];
	void *wrong;

	for (uintptr_t i = 0; i < NR_THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, use_pools, (void *)i), 0);
	for (int i = 0; i < NR_THREADS; i++) {
		pthread_join(threads[i], &wrong);
		assert_null(wrong);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pool_is_zeroed_and_bounded),
		cmocka_unit_test(test_pool_is_zeroed_again),
		cmocka_unit_test(test_each_shadow_byte_counts),
		cmocka_unit_test(test_span_of_what_was_changed),
		cmocka_unit_test(test_no_two_have_the_same_shadow_bytes),
		cmocka_unit_test(test_what_goes_further_is_a_fault),
		cmocka_unit_test(test_guard_pages_are_sealed),
		cmocka_unit_test(test_address_space_is_used_again),
		cmocka_unit_test(test_child_shares_the_pool),
		cmocka_unit_test(test_threads_have_their_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
