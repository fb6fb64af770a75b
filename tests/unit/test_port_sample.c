// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_port_sample.c - texts of /proc are taken as they should be or not at all; the sampler's pages are sealed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <engine/sample/parse.h>
#include <engine/sample/sampler.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_stat(void **state)
{
	struct port_cpu cpus[2] = {};

	assert_int_equal(parse_stat("cpu  9 9 9 9 9 9 9 9 9 9\ncpu1 1 2 3 4 5 6 7 8 9 10\nintr 5\n",
				    10, 2, cpus),
			 0);
	assert_int_equal(cpus[0].user, 0);
	assert_int_equal(cpus[1].user, 10);
	assert_int_equal(cpus[1].idle, 40);
	assert_int_equal(cpus[1].iowait, 50);
	assert_int_equal(cpus[1].irq, 60);
	assert_int_equal(cpus[1].softirq, 70);
	assert_int_equal(cpus[1].guest_nice, 100);
	/* More CPUs than there is room for are left out. */
	assert_int_equal(parse_stat("cpu  9\ncpu7 1 2 3 4 5 6 7 8 9 10\nintr 5\n", 10, 2, cpus), 0);
	assert_int_equal(parse_stat("", 10, 2, cpus), -EPROTO);
	assert_int_equal(parse_stat("cpu  1\nintr 1\n", 10, 2, cpus), -EPROTO);
	assert_int_equal(parse_stat("cpu  1\ncpu0 1 2 3\nintr 1\n", 10, 2, cpus), -EPROTO);
	assert_int_equal(parse_stat("cpu  1\ncpu0 1 2 3 4 5 -6 7 8 9 10\nintr 1\n", 10, 2, cpus),
			 -EPROTO);
	assert_int_equal(parse_stat("cpu  1\ncpu0 18446744073709551615 2 3 4 5 6 7 8 9 10\nintr\n",
				    10, 2, cpus),
			 -EPROTO);
}

static void test_pressure(void **state)
{
	uint64_t v[8];

	assert_int_equal(parse_pressure("some avg10=3.24 avg60=0.01 avg300=100.00 total=12\n"
					"full avg10=0.00 avg60=0.00 avg300=0.99 total=7\n",
					v),
			 0);
	/* What the kernel prints of these is what stood there. */
	assert_int_equal(v[0] >> 11, 3);
	assert_int_equal((v[0] & 2047) * 100 >> 11, 24);
	assert_int_equal(v[1] * 100 >> 11, 1);
	assert_int_equal(v[2], 100 << 11);
	assert_int_equal(v[3], 12000);
	assert_int_equal(v[6] * 100 >> 11, 99);
	assert_int_equal(v[7], 7000);
	assert_int_equal(parse_pressure("some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n", v), 0);
	assert_int_equal(v[7], 0);
	assert_int_equal(parse_pressure("some avg10=0.00 avg60=0.00 avg300=0.00 total=1", v),
			 -EPROTO);
	assert_int_equal(parse_pressure("some avg10=0.0 avg60=0.00 avg300=0.00 total=1\n", v),
			 -EPROTO);
	assert_int_equal(parse_pressure("some avg10=0.00 avg60=0.00 avg300=0.00 total=\n", v),
			 -EPROTO);
	assert_int_equal(parse_pressure("some avg10=0.00 avg60=0.00 avg300=0.00 total=1\nx\n", v),
			 -EPROTO);
	assert_int_equal(parse_pressure("", v), -EPROTO);
}

static void test_vmstat(void **state)
{
	struct port_field fields[PORT_VMSTAT_MAX];
	struct port_spec spec;
	uint64_t v[PORT_VMSTAT_MAX];
	char text[] = "nr_free_pages 5\npgpgin 7\n", bad[] = "nr_free_pages 5\npgpgin";

	assert_int_equal(port_vmstat_spec(text, fields, &spec), 0);
	assert_int_equal(spec.nr_fields, 2);
	assert_string_equal(fields[1].name, "pgpgin");
	assert_int_equal(fields[1].offset, 8);
	assert_int_equal(port_vmstat_spec(bad, fields + 2, &(struct port_spec){}), -EPROTO);
	assert_int_equal(parse_vmstat("nr_free_pages 6\npgpgin 8\n", &spec, v), 0);
	assert_int_equal(v[0], 6);
	assert_int_equal(v[1], 8);
	assert_int_equal(parse_vmstat("pgpgin 8\nnr_free_pages 6\n", &spec, v), -EPROTO);
	assert_int_equal(parse_vmstat("nr_free_pages 6\n", &spec, v), -EPROTO);
	assert_int_equal(parse_vmstat("nr_free_pages 6\npgpgin 8\nmore 1\n", &spec, v), -EPROTO);
	assert_int_equal(parse_vmstat("nr_free_pages 6\npgpgin 8x\n", &spec, v), -EPROTO);
}

static void test_net(void **state)
{
	static const char head[] = "Inter-| x\n face |y\n";
	struct port_net d[PORT_NET_MAX];
	char text[512];

	snprintf(text, sizeof(text), "%s    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n", head);
	assert_int_equal(parse_net(text, d), 0);
	assert_string_equal(d[0].name, "lo");
	assert_int_equal(d[0].rx_bytes, 1);
	assert_int_equal(d[0].rx_dropped, 4);
	assert_int_equal(d[0].tx_bytes, 9);
	assert_int_equal(d[0].tx_dropped, 12);
	assert_string_equal(d[1].name, "");
	assert_int_equal(parse_net(head, d), 0);
	assert_string_equal(d[0].name, "");
	snprintf(text, sizeof(text), "%s    lo: 1 2 3\n", head);
	assert_int_equal(parse_net(text, d), -EPROTO);
	snprintf(text, sizeof(text), "%sa-name-of-16-chr: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n",
		 head);
	assert_int_equal(parse_net(text, d), -EPROTO);
	assert_int_equal(parse_net("", d), -EPROTO);
}

static void test_meminfo(void **state)
{
	static const char *const names[] = {
		"MemTotal",    "MemFree",      "MemAvailable",   "Buffers",      "Cached",
		"SwapCached",  "Active(anon)", "Inactive(anon)", "Active(file)", "Inactive(file)",
		"Unevictable", "Mlocked",      "SwapTotal",      "SwapFree",     "Dirty",
		"Writeback",   "AnonPages",    "Mapped",         "Shmem",        "SReclaimable",
		"SUnreclaim",  "PageTables",
	};
	uint32_t nr = sizeof(names) / sizeof(names[0]);
	struct port_memory m;
	struct port_swap swap;
	char text[2048];

	/* One line is missing each time; then none. */
	for (uint32_t without = 0; without <= nr; without++) {
		char *at = text;

		for (uint32_t i = 0; i < nr; i++)
			if (i != without)
				at += sprintf(at, "%s:  %u kB\n", names[i], (i + 1) * 4);
		assert_int_equal(parse_meminfo(text, 4, &m, &swap),
				 without == nr || without == 2 ? 0 : -EPROTO);
	}
	assert_int_equal(m.total, 1);
	assert_int_equal(m.file, 4 + 5 + 6);
	assert_int_equal(m.page_tables, 22);
	assert_int_equal(swap.free, 14);
	assert_int_equal(parse_meminfo("MemTotal: 5 MB\n", 4, &m, &swap), -EPROTO);
}

static void test_keys(void **state)
{
	static const char *const keys[] = { "a", "bc", NULL };
	uint64_t v[2];

	assert_int_equal(parse_keys("a 1\nx y\nbc:\t  20 kB\n", keys, v), 0);
	assert_int_equal(v[0], 1);
	assert_int_equal(v[1], 20);
	assert_int_equal(parse_keys("ab 1\nbc 2\n", keys, v), -EPROTO);
	assert_int_equal(parse_keys("a 1\n", keys, v), -EPROTO);
	assert_int_equal(parse_keys("a -1\nbc 2\n", keys, v), -EPROTO);
	assert_int_equal(parse_keys("a 18446744073709551616\nbc 2\n", keys, v), -EPROTO);
	assert_int_equal(parse_keys("", keys, v), -EPROTO);
	assert_int_equal(parse_number("7\n", v), 0);
	assert_int_equal(v[0], 7);
	assert_int_equal(parse_number("7", v), -EPROTO);
	assert_int_equal(parse_number("max\n", v), -EPROTO);
}

static void test_task_stat(void **state)
{
	static const char rest[] = " S 1 2 3 0 -1 4 100 5 101 6 70 80 9 9 20 0 3 0 400 1 2 3 4 5\n";
	struct port_task t = { .alive = 1, .nvcsw = 9 };
	char text[256];

	snprintf(text, sizeof(text), "12 (a) S (b c)%s", rest);
	assert_int_equal(parse_task_stat(text, 10, &t), 0);
	assert_int_equal(t.pid, 12);
	assert_string_equal(t.comm, "a) S (b c");
	assert_string_equal(t.state, "S");
	assert_int_equal(t.min_flt, 100);
	assert_int_equal(t.maj_flt, 101);
	assert_int_equal(t.utime, 700);
	assert_int_equal(t.stime, 800);
	assert_int_equal(t.runtime, 1500);
	assert_int_equal(t.threads, 3);
	assert_int_equal(t.start, 4000);
	assert_int_equal(t.alive, 1);
	assert_int_equal(t.nvcsw, 9);
	snprintf(text, sizeof(text), "12 (a name that is far too long)%s", rest);
	assert_int_equal(parse_task_stat(text, 10, &t), 0);
	assert_string_equal(t.comm, "a name that is ");
	assert_int_equal(parse_task_stat("12 (a) S 1 2 3", 10, &t), -EPROTO);
	assert_int_equal(parse_task_stat("12 a) S 1", 10, &t), -EPROTO);
	assert_int_equal(parse_task_stat("12 (a", 10, &t), -EPROTO);
	assert_int_equal(parse_task_stat("12 )a(", 10, &t), -EPROTO);
	assert_int_equal(parse_task_stat("", 10, &t), -EPROTO);
	assert_string_equal(t.comm, "a name that is ");
}

static void test_an_account(void **state)
{
	pid_t pid = fork();
	int pidfd, slot, fd, null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	struct sampler_options o = { .pages = 1U << PORT_CLOCK };
	const struct port_task *t;
	const struct port_head *h;
	struct sampler *s;
	uint64_t size, start;

	if (pid == 0)
		for (;;)
			pause();
	pidfd = syscall(SYS_pidfd_open, pid, 0);
	assert_int_equal(sampler_new(&s, &o), 0);
	assert_int_equal(sampler_add_task(s, null, &slot, &fd, &size), -EBADF);
	assert_int_equal(sampler_add_cgroup(s, null, &slot, &fd, &size), -EINVAL);
	assert_int_equal(sampler_add_task(s, pidfd, &slot, &fd, &size), 0);
	assert_ptr_equal(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
	h = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(h, MAP_FAILED);
	assert_int_equal(port_check(h, size), 0);
	assert_int_equal(h->source, PORT_SOURCE_SAMPLER);
	/* What /proc has not is no field. */
	assert_null(port_find(h, "nvcsw"));
	assert_null(port_find(h, "counted"));
	assert_non_null(port_find(h, "io_rchar"));
	t = (const void *)((const char *)h + h->data_off);
	assert_int_equal(t->alive, 1);
	assert_int_equal(t->pid, pid);
	assert_true(t->rss > 0 && t->rss == t->rss_anon + t->rss_file + t->rss_shmem);
	start = t->start;
	kill(pid, SIGKILL);
	assert_int_equal(waitid(P_PID, pid, &(siginfo_t){}, WEXITED | WNOWAIT), 0);
	assert_int_equal(sampler_sample(s), 0);
	assert_int_equal(t->alive, 0);
	assert_string_equal(t->state, "Z");
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(sampler_sample(s), 0);
	assert_int_equal(t->alive, 0);
	assert_string_equal(t->state, "X");
	assert_int_equal(t->start, start);
	assert_true(t->rss > 0);
	assert_int_equal(sampler_add_task(s, pidfd, &fd, &fd, &size), -ESRCH);
	sampler_remove(s, slot);
	munmap((void *)h, size);
	sampler_free(s);
	close(pidfd);
	close(null);
}

static void test_pages_are_sealed_and_complete(void **state)
{
	struct sampler *s;

	assert_int_equal(sampler_new(&s, &(struct sampler_options){ .generation = 9 }), 0);
	assert_int_equal(sampler_sample(s), 0);
	for (int page = 0; page < NR_PORT_PAGES; page++) {
		uint64_t size = sampler_size(s, page);
		int fd = sampler_fd(s, page);
		struct port_head *h;

		/* A kernel may be without pressure. */
		if (page == PORT_PSI && fd < 0)
			continue;
		assert_true(fd >= 0);
		assert_ptr_equal(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0),
				 MAP_FAILED);
		assert_int_equal(pwrite(fd, "x", 1, 0), -1);
		assert_int_equal(ftruncate(fd, 0), -1);
		assert_int_equal(ftruncate(fd, size * 2), -1);
		assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
		h = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
		assert_ptr_not_equal(h, MAP_FAILED);
		assert_int_equal(port_check(h, size), 0);
		assert_int_equal(h->source, PORT_SOURCE_SAMPLER);
		assert_int_equal(h->generation, 9);
		assert_int_equal(h->writes, 2);
		assert_string_equal(h->name, port_specs[page].name);
		munmap(h, size);
	}
	sampler_free(s);
}

static uint64_t lo_bytes(void)
{
	unsigned long n = 0;
	char line[512];
	FILE *f = fopen("/proc/self/net/dev", "r");

	while (fgets(line, sizeof(line), f))
		if (sscanf(line, " lo: %lu", &n) == 1)
			break;
	fclose(f);
	return n;
}

static void test_devices_are_those_of_proc(void **state)
{
	struct sampler *s;
	struct port_net d[PORT_NET_MAX];
	struct port_head *h;
	uint64_t before;
	int i = 0;

	assert_int_equal(sampler_new(&s, &(struct sampler_options){ .pages = 1U << PORT_NET }), 0);
	assert_int_equal(sampler_fd(s, PORT_LOAD), -ENOENT);
	h = mmap(NULL, sampler_size(s, PORT_NET), PROT_READ, MAP_SHARED, sampler_fd(s, PORT_NET),
		 0);
	assert_ptr_not_equal(h, MAP_FAILED);
	before = lo_bytes();
	assert_int_equal(sampler_sample(s), 0);
	assert_int_equal(port_snapshot(h, h->data_off, d, sizeof(d), NULL), 0);
	while (i < PORT_NET_MAX - 1 && strcmp(d[i].name, "lo") != 0)
		i++;
	assert_string_equal(d[i].name, "lo");
	assert_in_range(d[i].rx_bytes, before, lo_bytes());
	munmap(h, sampler_size(s, PORT_NET));
	sampler_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stat),
		cmocka_unit_test(test_pressure),
		cmocka_unit_test(test_vmstat),
		cmocka_unit_test(test_net),
		cmocka_unit_test(test_meminfo),
		cmocka_unit_test(test_keys),
		cmocka_unit_test(test_task_stat),
		cmocka_unit_test(test_an_account),
		cmocka_unit_test(test_pages_are_sealed_and_complete),
		cmocka_unit_test(test_devices_are_those_of_proc),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
