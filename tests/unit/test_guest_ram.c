// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_guest_ram.c - the blocks of a guest's RAM are told from all else that QEMU has, and what they are made of.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <base/guest_ram.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAPPING(range, protection, name, flags)                                                   \
	range " " protection " 00000000 00:00 0 " name "\nSize: 4 kB\nPss: 1 kB\nVmFlags: " flags \
	      "\n"

static int parse(const char *text, struct guest_ram **ret)
{
	FILE *file = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
	int r;

	assert_non_null(file);
	*ret = NULL;
	r = guest_ram_read(file, ret);
	fclose(file);
	return r;
}

static void only_what_no_child_shall_have_is_guest_ram(void **state)
{
	struct guest_ram *ram;

	assert_int_equal(
		parse(MAPPING("1000-2000", "rw-p", "[heap]", "rd wr mr mw me ac sd ")
			      MAPPING("2000-9000", "rw-p", "", "rd wr mr mw me dc ac sd hg mg ")
				      MAPPING("9000-a000", "---p", "", "mr mw me sd ")
					      MAPPING("b000-c000", "rw-p", "[stack]",
						      "rd wr mr mw me gd ac "),
		      &ram),
		1);
	assert_int_equal(ram->start, 0x2000);
	assert_int_equal(ram->end, 0x9000);
	assert_int_equal(ram->kind, GUEST_RAM_PRIVATE);
	assert_string_equal(ram->backing, "");
	free(ram);
}

static void merged_parts_belong_to_their_block(void **state)
{
	struct guest_ram *ram;

	assert_int_equal(
		parse(MAPPING("2000-4000", "rw-p", "/memfd:ksm:web (deleted)",
			      "rd wr mr mw me lo dc sd ") MAPPING("4000-5000", "rw-p", "",
								  "rd wr mr mw me dc ac sd ")
			      MAPPING("5000-6000", "rw-p", "/memfd:ksm:web (deleted)",
				      "rd wr mr mw me lo dc sd ")
				      MAPPING("7000-8000", "rw-p", "", "rd wr mr mw me dc ac sd "),
		      &ram),
		2);
	assert_int_equal(ram[0].start, 0x2000);
	assert_int_equal(ram[0].end, 0x6000);
	assert_int_equal(ram[0].kind, GUEST_RAM_PRIVATE);
	assert_string_equal(ram[0].backing, "");
	assert_int_equal(ram[1].start, 0x7000);
	free(ram);
}

static void what_cannot_be_merged_is_named(void **state)
{
	static const enum guest_ram_kind kinds[] = { GUEST_RAM_SHARED, GUEST_RAM_SHARED,
						     GUEST_RAM_FILE, GUEST_RAM_HUGE,
						     GUEST_RAM_LOCKED };
	struct guest_ram *ram;

	assert_int_equal(
		parse(MAPPING("1000-2000", "rw-s", "/memfd:memory-backend-memfd (deleted)",
			      "rd wr sh dc sd ") MAPPING("3000-4000", "rw-s", "/dev/zero (deleted)",
							 "rd wr sh dc sd ")
			      MAPPING("5000-6000", "rw-p", "/var/ram file", "rd wr mr dc sd ")
				      MAPPING("7000-8000", "rw-p", "/dev/hugepages/ram",
					      "rd wr mr dc ht sd ") MAPPING("9000-a000", "rw-p", "",
									    "rd wr mr lo dc sd "),
		      &ram),
		5);
	for (size_t i = 0; i < 5; i++)
		assert_int_equal(ram[i].kind, kinds[i]);
	assert_string_equal(ram[0].backing, "/memfd:memory-backend-memfd (deleted)");
	assert_string_equal(ram[2].backing, "/var/ram file");
	free(ram);
}

static void a_name_is_not_taken_for_flags(void **state)
{
	struct guest_ram *ram;

	assert_int_equal(
		parse(MAPPING("1000-2000", "rw-p", "/tmp/VmFlags: dc ", "rd wr mr mw me "), &ram),
		0);
	free(ram);
	assert_int_equal(parse("", &ram), 0);
	free(ram);
}

static void the_running_kernel_is_understood(void **state)
{
	size_t len = 64 << 10;
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	FILE *smaps = fopen("/proc/self/smaps", "re");
	struct guest_ram *ram = NULL;

	assert_true(p != MAP_FAILED);
	assert_int_equal(madvise(p, len, MADV_DONTFORK), 0);
	assert_non_null(smaps);
	assert_int_equal(guest_ram_read(smaps, &ram), 1);
	assert_int_equal(ram->start, (uintptr_t)p);
	assert_int_equal(ram->end, (uintptr_t)p + len);
	assert_int_equal(ram->kind, GUEST_RAM_PRIVATE);
	free(ram);
	fclose(smaps);
	munmap(p, len);
}

static void other_programs_are_no_guests(void **state)
{
	struct guest_ram *ram = NULL;

	assert_int_equal(guest_ram_find(getpid(), &ram), -ENOEXEC);
	assert_int_equal(guest_ram_find(0x7ffffffe, &ram), -ESRCH);
	assert_null(ram);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_what_no_child_shall_have_is_guest_ram),
		cmocka_unit_test(merged_parts_belong_to_their_block),
		cmocka_unit_test(what_cannot_be_merged_is_named),
		cmocka_unit_test(a_name_is_not_taken_for_flags),
		cmocka_unit_test(the_running_kernel_is_understood),
		cmocka_unit_test(other_programs_are_no_guests),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
