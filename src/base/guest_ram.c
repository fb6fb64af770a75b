// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * guest_ram.c - see guest_ram.h.
 */
#include <base/cleanup.h>
#include <base/guest_ram.h>
#include <stdbool.h>
#include <string.h>

/** struct mapping - one paragraph of smaps. @flags: its VmFlags, with a blank before and behind each */
struct mapping {
	uint64_t start;
	uint64_t end;
	char protection[5];
	char name[4096];
	char flags[256];
};

static bool has_flag(const struct mapping *mapping, const char *flag)
{
	return strstr(mapping->flags, flag) != NULL;
}

/* Nobody else can give a memfd's mapping such a name and have it in QEMU; and if he could, the engine would find out. */
static bool is_merged(const struct mapping *mapping)
{
	return strncmp(mapping->name, "/memfd:ksm", 10) == 0;
}

static enum guest_ram_kind kind_of(const struct mapping *mapping)
{
	if (has_flag(mapping, " ht "))
		return GUEST_RAM_HUGE;
	if (mapping->protection[3] == 's')
		return GUEST_RAM_SHARED;
	if (is_merged(mapping))
		return GUEST_RAM_PRIVATE;
	if (mapping->name[0] == '/')
		return GUEST_RAM_FILE;
	return has_flag(mapping, " lo ") ? GUEST_RAM_LOCKED : GUEST_RAM_PRIVATE;
}

static int add(struct guest_ram **list, int nr, const struct mapping *mapping)
{
	struct guest_ram *last = nr ? &(*list)[nr - 1] : NULL, *more;
	enum guest_ram_kind kind = kind_of(mapping);

	if (!has_flag(mapping, " dc "))
		return nr;
	if (last && last->end == mapping->start && last->kind == kind) {
		last->end = mapping->end;
		return nr;
	}
	more = reallocarray(*list, (size_t)nr + 1, sizeof(*more));
	if (!more)
		return -ENOMEM;
	*list = more;
	more[nr] = (struct guest_ram){ .start = mapping->start, .end = mapping->end, .kind = kind };
	snprintf(more[nr].backing, sizeof(more->backing), "%.63s",
		 is_merged(mapping) ? "" : mapping->name);
	return nr + 1;
}

int guest_ram_read(FILE *smaps, struct guest_ram **ret)
{
	cleanup_free struct guest_ram *list = NULL;
	cleanup_free char *line = NULL;
	struct mapping mapping = { 0 };
	size_t room = 0;
	int nr = 0;

	while (getline(&line, &room, smaps) > 0) {
		unsigned long start, end;
		char protection[5];
		int at = 0;

		line[strcspn(line, "\n")] = 0;
		if (sscanf(line, "%lx-%lx %4s %*s %*s %*s %n", &start, &end, protection, &at) ==
		    3) {
			if (at == 0)
				return -EPROTO;
			mapping = (struct mapping){ .start = start, .end = end };
			memcpy(mapping.protection, protection, sizeof(mapping.protection));
			snprintf(mapping.name, sizeof(mapping.name), "%s", line + at);
		} else if (strncmp(line, "VmFlags:", 8) == 0) {
			snprintf(mapping.flags, sizeof(mapping.flags), "%s ", line + 8);
			nr = add(&list, nr, &mapping);
			if (nr < 0)
				return nr;
		}
	}
	if (ferror(smaps))
		return -errno;
	*ret = take_ptr(list);
	return nr;
}

int guest_ram_find(pid_t pid, struct guest_ram **ret)
{
	char path[64], program[4096];
	const char *name;
	FILE *smaps;
	ssize_t n;
	int r;

	snprintf(path, sizeof(path), "/proc/%d/exe", (int)pid);
	n = readlink(path, program, sizeof(program) - 1);
	if (n < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	program[n] = 0;
	name = strrchr(program, '/');
	if (!name || (strncmp(name, "/qemu-", 6) != 0 && strncmp(name, "/kvm", 4) != 0))
		return -ENOEXEC;
	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	smaps = fopen(path, "re");
	if (!smaps)
		return errno == ENOENT ? -ESRCH : -errno;
	r = guest_ram_read(smaps, ret);
	fclose(smaps);
	return r;
}
