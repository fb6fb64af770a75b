// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * config.c - options, and the defaults that depend on the machine.
 *
 * Memory by default: half of the machine's for all, half of that for each user, as a tmpfs would take; entries as many
 * as the shared memory has counters for.
 */
#include <base/log.h>
#include <base/place.h>
#include <daemon/config.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>
#include <wire/keep.h>

enum {
	OPT_DIR = 256,
	OPT_SOCKET,
	OPT_SRVFS,
	OPT_OPTIONS,
	OPT_NO_MOUNT,
	OPT_MODE,
	OPT_MAX_ENTRIES,
	OPT_MAX_BYTES,
	OPT_MAX_ENTRIES_UID,
	OPT_MAX_BYTES_UID,
	OPT_FOREGROUND,
	OPT_WORKER,
	OPT_PUBLISHER,
	OPT_MERGER,
	OPT_HELP,
	OPT_VERSION,
};

static const struct option options[] = {
	{ "dir", required_argument, NULL, OPT_DIR },
	{ "socket", required_argument, NULL, OPT_SOCKET },
	{ "srvfs", no_argument, NULL, OPT_SRVFS },
	{ "options", required_argument, NULL, OPT_OPTIONS },
	{ "no-mount", no_argument, NULL, OPT_NO_MOUNT },
	{ "mode", required_argument, NULL, OPT_MODE },
	{ "max-entries", required_argument, NULL, OPT_MAX_ENTRIES },
	{ "max-bytes", required_argument, NULL, OPT_MAX_BYTES },
	{ "max-entries-uid", required_argument, NULL, OPT_MAX_ENTRIES_UID },
	{ "max-bytes-uid", required_argument, NULL, OPT_MAX_BYTES_UID },
	{ "foreground", no_argument, NULL, OPT_FOREGROUND },
	{ "worker", no_argument, NULL, OPT_WORKER },
	{ "publisher", no_argument, NULL, OPT_PUBLISHER },
	{ "merger", no_argument, NULL, OPT_MERGER },
	{ "help", no_argument, NULL, OPT_HELP },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ 0 },
};

static const char usage[] =
	"usage: ksharedd [--dir DIR] [OPTION ...]\n"
	"\n"
	"Serves a shared folder at DIR; `kshared up` starts it. It goes to the background when the folder is ready.\n"
	"\n"
	"  --dir DIR              the folder (default: $KSHARED_DIR, else /run/kshared for root)\n"
	"  --socket PATH          the control socket (default: derived from DIR)\n"
	"  --srvfs                DIR is a folder of posted descriptors alone\n"
	"  --options LIST         options of mount(8): ro, mode=, max_entries=, max_entries_uid=\n"
	"  --no-mount             no file system, only the library\n"
	"  --mode OCTAL           permissions of the directories in the folder (default: 1777)\n"
	"  --max-entries N        entries in all\n"
	"  --max-bytes N[K|M|G]   size of all memory objects\n"
	"  --max-entries-uid N    entries of one user\n"
	"  --max-bytes-uid N      size of one user's memory objects\n"
	"  --foreground           stay in the foreground\n"
	"  --help, --version\n";

/* A number with a unit. Return: false if it is none. */
static bool number(const char *text, uint64_t *ret)
{
	static const char units[] = "KMGT";
	const char *unit;
	unsigned int shift = 0;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*ret = strtoull(text, &end, 10);
	if (errno)
		return false;
	unit = *end ? strchr(units, *end) : NULL;
	if (unit) {
		shift = 10 * (unsigned int)(unit - units + 1);
		end++;
	}
	if (*end || (shift && *ret >> (64 - shift)))
		return false;
	*ret <<= shift;
	return true;
}

static int want_number(const char *name, const char *text, uint64_t *ret)
{
	if (number(text, ret))
		return 0;
	log_error("%s: '%s' is no number; give one like 100 or 4G", name, text);
	return -EINVAL;
}

static int want_mode(const char *text, uint32_t *ret)
{
	char *end;
	unsigned long mode = strtoul(text, &end, 8);

	if (*text < '0' || *text > '7' || *end || mode > 07777) {
		log_error("mode: '%s' is no octal mode; give one like 1777 or 0755", text);
		return -EINVAL;
	}
	*ret = (uint32_t)mode;
	return 0;
}

/* One of mount(8)'s options. Those that the kernel or mount(8) handle for every file system are passed over. */
static int mount_option(struct config *c, const char *name, const char *value)
{
	static const char *const passed[] = { "rw",    "defaults", "suid",     "nosuid",
					      "dev",   "nodev",    "exec",     "noexec",
					      "async", "auto",     "noauto",   "nouser",
					      "user",  "users",    "relatime", "noatime",
					      "atime", "nofail",   "_netdev",  "strictatime" };

	if (strcmp(name, "ro") == 0 && !value) {
		c->read_only = true;
		return 0;
	}
	if (value && strcmp(name, "mode") == 0)
		return want_mode(value, &c->mode);
	if (value && strcmp(name, "max_entries") == 0)
		return want_number(name, value, &c->limits.max_entries);
	if (value && strcmp(name, "max_entries_uid") == 0)
		return want_number(name, value, &c->limits.max_entries_uid);
	for (size_t i = 0; !value && i < sizeof(passed) / sizeof(passed[0]); i++)
		if (strcmp(name, passed[i]) == 0)
			return 0;
	if (strncmp(name, "x-", 2) == 0 || strcmp(name, "comment") == 0)
		return 0;
	log_error(
		"mount option '%s' is unknown; known are ro, mode=, max_entries=, max_entries_uid=",
		name);
	return -EINVAL;
}

static int mount_options(struct config *c, const char *text)
{
	char *copy = strdup(text), *save = NULL;
	int r = copy ? 0 : -ENOMEM;

	for (char *o = copy ? strtok_r(copy, ",", &save) : NULL; o && r == 0;
	     o = strtok_r(NULL, ",", &save)) {
		char *value = strchr(o, '=');

		if (value)
			*value++ = 0;
		r = mount_option(c, o, value);
	}
	free(copy);
	return r;
}

/* The least limit of a memory cgroup at @path below @top, or of one that contains it. */
static uint64_t cgroup_limit(const char *top, const char *path, const char *file)
{
	uint64_t least = UINT64_MAX, limit;
	char dir[PATH_MAX], name[PATH_MAX + 64];
	char *slash;
	FILE *f;

	snprintf(dir, sizeof(dir), "%s%s", top, path);
	for (;;) {
		snprintf(name, sizeof(name), "%s/%s", dir, file);
		f = fopen(name, "re");
		if (f && fscanf(f, "%" SCNu64, &limit) == 1 && limit < least)
			least = limit;
		if (f)
			fclose(f);
		slash = strrchr(dir, '/');
		if (!slash || strlen(dir) <= strlen(top))
			return least;
		*slash = 0;
	}
}

/* How much memory there is for us: the machine's, or what our cgroup may use. */
static uint64_t memory_here(void)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	uint64_t memory = 1u << 30, limit;
	char line[PATH_MAX + 64];
	struct sysinfo si;

	if (sysinfo(&si) == 0)
		memory = (uint64_t)si.totalram * si.mem_unit;
	while (f && fgets(line, sizeof(line), f)) {
		char *controllers = strchr(line, ':'),
		     *path = controllers ? strchr(controllers + 1, ':') : NULL;

		if (!path)
			continue;
		*path++ = 0;
		path[strcspn(path, "\n")] = 0;
		limit = UINT64_MAX;
		if (!controllers[1])
			limit = cgroup_limit("/sys/fs/cgroup", path, "memory.max");
		else if (strcmp(controllers + 1, "memory") == 0)
			limit = cgroup_limit("/sys/fs/cgroup/memory", path,
					     "memory.limit_in_bytes");
		if (limit < memory)
			memory = limit;
	}
	if (f)
		fclose(f);
	return memory;
}

static void set_defaults(struct config *c)
{
	uint64_t memory = memory_here();

	*c = (struct config){
		.limits = {
			.max_entries = SHM_OPENS - 16,
			.max_bytes = memory / 2,
			.max_entries_uid = SHM_OPENS / 4,
			.max_bytes_uid = memory / 4,
		},
		.mode = UINT32_MAX,
		.mount = true,
	};
}

static int option(struct config *c, int opt, const char *arg)
{
	switch (opt) {
	case OPT_DIR:
		if (!*arg || strlen(arg) >= sizeof(c->dir)) {
			log_error("--dir: '%s' is no usable path", arg);
			return -EINVAL;
		}
		strcpy(c->dir, arg);
		return 0;
	case OPT_SOCKET:
		if (*arg != '/' || strlen(arg) >= sizeof(c->socket)) {
			log_error("--socket: '%s' must be an absolute path of less than %zu bytes",
				  arg, sizeof(c->socket));
			return -EINVAL;
		}
		strcpy(c->socket, arg);
		return 0;
	case OPT_SRVFS:
		c->srvfs = true;
		return 0;
	case OPT_OPTIONS:
		return mount_options(c, arg);
	case OPT_NO_MOUNT:
		c->mount = false;
		return 0;
	case OPT_MODE:
		return want_mode(arg, &c->mode);
	case OPT_MAX_ENTRIES:
		return want_number("--max-entries", arg, &c->limits.max_entries);
	case OPT_MAX_BYTES:
		return want_number("--max-bytes", arg, &c->limits.max_bytes);
	case OPT_MAX_ENTRIES_UID:
		return want_number("--max-entries-uid", arg, &c->limits.max_entries_uid);
	case OPT_MAX_BYTES_UID:
		return want_number("--max-bytes-uid", arg, &c->limits.max_bytes_uid);
	case OPT_FOREGROUND:
		c->foreground = true;
		return 0;
	case OPT_WORKER:
		c->worker = true;
		return 0;
	case OPT_PUBLISHER:
		c->publisher = true;
		return 0;
	case OPT_MERGER:
		c->merger = true;
		return 0;
	case OPT_HELP:
		fputs(usage, stdout);
		return 1;
	case OPT_VERSION:
		puts("ksharedd " KSHARED_VERSION);
		return 1;
	default:
		log_error("see ksharedd --help");
		return -EINVAL;
	}
}

int config_parse(struct config *c, int argc, char **argv)
{
	int opt, r;

	set_defaults(c);
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		r = option(c, opt, optarg);
		if (r != 0)
			return r;
	}
	if (optind < argc) {
		log_error("'%s' is one argument too many; see ksharedd --help", argv[optind]);
		return -EINVAL;
	}
	if (!c->dir[0])
		place_folder(c->dir);
	return 0;
}
