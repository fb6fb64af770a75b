// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_config.c - the daemon's command line: what is taken, and what is refused with a sentence.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <daemon/config.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wire/keep.h>

#define ARGS_MAX 16

/* Parse "word word ..."; what is said goes to @said. */
static int parse(struct config *c, const char *line, char *said, size_t size)
{
	char copy[PATH_MAX * 2], *argv[ARGS_MAX] = { (char *)"ksharedd" }, *save;
	int argc = 1, r, pipefd[2], err = dup(STDERR_FILENO), out = dup(STDOUT_FILENO);
	ssize_t n;

	strcpy(copy, line);
	for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save))
		argv[argc++] = strcmp(w, "''") == 0 ? (char *)"" : w;
	argv[argc] = NULL;
	assert_int_equal(pipe2(pipefd, O_CLOEXEC), 0);
	fflush(stdout);
	dup2(pipefd[1], STDERR_FILENO);
	dup2(pipefd[1], STDOUT_FILENO);
	optind = 0;
	r = config_parse(c, argc, argv);
	fflush(stdout);
	dup2(err, STDERR_FILENO);
	dup2(out, STDOUT_FILENO);
	close(err);
	close(out);
	close(pipefd[1]);
	n = read(pipefd[0], said, size - 1);
	said[n > 0 ? n : 0] = 0;
	close(pipefd[0]);
	return r;
}

static void test_defaults(void **state)
{
	struct config c;
	char said[4096];

	setenv("KSHARED_DIR", "/somewhere", 1);
	assert_int_equal(parse(&c, "", said, sizeof(said)), 0);
	assert_string_equal(said, "");
	assert_string_equal(c.dir, "/somewhere");
	assert_true(c.mount);
	assert_false(c.srvfs || c.read_only || c.foreground || c.worker);
	assert_true(c.mode == UINT32_MAX);
	assert_true(c.limits.max_entries > 0 && c.limits.max_entries <= SHM_OPENS);
	assert_true(c.limits.max_bytes >= c.limits.max_bytes_uid && c.limits.max_bytes_uid > 0);
	assert_true(c.limits.max_entries >= c.limits.max_entries_uid &&
		    c.limits.max_entries_uid > 0);
}

static void test_options(void **state)
{
	struct config c;
	char said[4096];

	assert_int_equal(parse(&c, "--dir /d --socket /s --srvfs --no-mount --foreground --worker",
			       said, sizeof(said)),
			 0);
	assert_string_equal(c.dir, "/d");
	assert_string_equal(c.socket, "/s");
	assert_true(c.srvfs && c.foreground && c.worker);
	assert_false(c.mount);
	assert_int_equal(
		parse(&c, "--max-entries=10 --max-bytes=3K --max-bytes-uid=2M --max-entries-uid=1",
		      said, sizeof(said)),
		0);
	assert_int_equal(c.limits.max_entries, 10);
	assert_int_equal(c.limits.max_bytes, 3 << 10);
	assert_int_equal(c.limits.max_bytes_uid, 2 << 20);
	assert_int_equal(c.limits.max_entries_uid, 1);
	assert_int_equal(parse(&c, "--max-bytes=1T", said, sizeof(said)), 0);
	assert_true(c.limits.max_bytes == 1ULL << 40);
	assert_int_equal(parse(&c, "--mode 1750", said, sizeof(said)), 0);
	assert_int_equal(c.mode, 01750);
	/* The last one counts. */
	assert_int_equal(parse(&c, "--dir /a --dir /b", said, sizeof(said)), 0);
	assert_string_equal(c.dir, "/b");
}

static void test_options_of_mount(void **state)
{
	struct config c;
	char said[4096];

	assert_int_equal(
		parse(&c, "--options rw,nosuid,relatime,x-systemd.automount", said, sizeof(said)),
		0);
	assert_false(c.read_only);
	assert_int_equal(parse(&c, "--options ro,mode=0700,max_entries=7,max_entries_uid=3", said,
			       sizeof(said)),
			 0);
	assert_true(c.read_only);
	assert_int_equal(c.mode, 0700);
	assert_int_equal(c.limits.max_entries, 7);
	assert_int_equal(c.limits.max_entries_uid, 3);
	assert_int_equal(parse(&c, "--options ''", said, sizeof(said)), 0);
}

static void test_help_and_version(void **state)
{
	struct config c;
	char said[4096];

	assert_int_equal(parse(&c, "--help", said, sizeof(said)), 1);
	assert_non_null(strstr(said, "--max-bytes-uid"));
	assert_int_equal(parse(&c, "--version", said, sizeof(said)), 1);
	assert_non_null(strstr(said, KSHARED_VERSION));
}

static const char *const refused[] = {
	"--nonsense",
	"argument",
	"--dir",
	"--dir ''",
	"--socket relative",
	"--socket ''",
	"--mode",
	"--mode ''",
	"--mode 8",
	"--mode 17777",
	"--mode -1",
	"--mode 0x7",
	"--mode 777777777777777777777777",
	"--max-entries ''",
	"--max-entries -1",
	"--max-entries +1",
	"--max-entries 1x",
	"--max-entries 1KK",
	"--max-bytes 18446744073709551616",
	"--max-bytes 18446744073709551615K",
	"--max-bytes 16777216T",
	"--max-bytes K",
	"--max-bytes 1.5G",
	"--options ro=1",
	"--options nonsense",
	"--options mode=",
	"--options mode",
	"--options max_entries=many",
	"--options ro,,nonsense",
	"--foreground=yes",
};

static void test_what_is_refused(void **state)
{
	struct config c;
	char said[4096];

	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		int r = parse(&c, refused[i], said, sizeof(said));

		if (r != -EINVAL || !said[0])
			print_message("# %s: %d, '%s'\n", refused[i], r, said);
		assert_int_equal(r, -EINVAL);
		assert_true(strlen(said) > 10);
	}
}

static void test_paths_that_are_too_long(void **state)
{
	static char line[PATH_MAX * 2], said[PATH_MAX * 2];
	struct config c;

	strcpy(line, "--dir /");
	memset(line + 7, 'd', PATH_MAX);
	assert_int_equal(parse(&c, line, said, sizeof(said)), -EINVAL);
	strcpy(line, "--socket /");
	memset(line + 10, 's', 107);
	line[117] = 0;
	assert_int_equal(parse(&c, line, said, sizeof(said)), -EINVAL);
	line[116] = 0;
	assert_int_equal(parse(&c, line, said, sizeof(said)), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_options),
		cmocka_unit_test(test_options_of_mount),
		cmocka_unit_test(test_help_and_version),
		cmocka_unit_test(test_what_is_refused),
		cmocka_unit_test(test_paths_that_are_too_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
