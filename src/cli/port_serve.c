// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * port_serve.c - `kshared port serve`: a port from a shell.
 *
 * The fields are given as words, each in words of the machine of its own, so that one can be written without the others. What others write is
 * told on standard output, a line for each field, as soon as it is published; what comes as lines on standard input is published.
 * Standard input may end, as it does for what runs in the background: serving goes on. SIGINT, SIGTERM and SIGHUP end it, and the entry is
 * removed. If the entry is removed or taken over by another server, it ends too, and leaves that one alone.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

#include "cli/port.h"

#define WORD sizeof(uint64_t)
#define CHARS_MAX 4096
#define LINE_MAX_BYTES 65536
#define FRACTION_BITS 16 /* of "fixed" */

struct serving {
	const char *name;
	struct kport_field *fields;
	unsigned int nr_fields;
	struct resource resource;
	uint64_t *shadow; /* for write(): data with what is written put in */
	struct kport_serve_options options;
};

static void serving_deinit_p(struct serving *s)
{
	free(s->fields);
	free(s->resource.data);
	free(s->shadow);
}

/* ---- FIELD[:TYPE[:UNIT]]=VALUE ---- */

/* "fixed8", "chars16": the number behind a type's name. */
static int parse_suffix(const char *text, uint64_t normal, uint64_t max, uint32_t *ret)
{
	uint64_t n = normal;

	if (*text && (cli_parse_uint(text, max, &n) < 0 || !n))
		return -EINVAL;
	*ret = (uint32_t)n;
	return 0;
}

static int parse_type(struct kport_field *f, const char *type)
{
	f->width = sizeof(uint64_t);
	if (strcmp(type, "u64") == 0) {
		f->type = KPORT_U64;
	} else if (strcmp(type, "s64") == 0) {
		f->type = KPORT_S64;
	} else if (strcmp(type, "u32") == 0) {
		f->type = KPORT_U32;
		f->width = sizeof(uint32_t);
	} else if (strncmp(type, "fixed", 5) == 0) {
		f->type = KPORT_FIXED;
		return parse_suffix(type + 5, FRACTION_BITS, 63, &f->fraction_bits);
	} else if (strncmp(type, "chars", 5) == 0) {
		f->type = KPORT_CHARS;
		return parse_suffix(type + 5, 64, CHARS_MAX, &f->width);
	} else {
		return -EINVAL;
	}
	return 0;
}

static bool is_word(const char *text)
{
	while (*text > ' ' || *text < 0)
		text++;
	return !*text;
}

/* What is before the '='; @word is cut up. Return: CLI_OK; CLI_USAGE after a sentence. */
static int parse_field(struct serving *s, char *word)
{
	struct kport_field *f = &s->fields[s->nr_fields];
	const char *name = strsep(&word, ":"), *type = strsep(&word, ":"), *unit = word;

	*f = (struct kport_field){ .count = 1, .offset = s->resource.size };
	if (!*name || strlen(name) > KPORT_NAME_MAX || !is_word(name))
		return cli_usage(PORT_NAME, "a field's name is a word of 1 to %d bytes, not '%s'",
				 KPORT_NAME_MAX, name);
	if (unit && (strlen(unit) >= sizeof(f->unit) || !is_word(unit)))
		return cli_usage(PORT_NAME, "a unit is a word of at most %zu bytes, not '%s'",
				 sizeof(f->unit) - 1, unit);
	if (parse_type(f, type ? type : "u64") < 0)
		return cli_usage(
			PORT_NAME,
			"'%s' is no type; there are u64, s64, u32, fixed[BITS], chars[BYTES]",
			type);
	for (unsigned int i = 0; i < s->nr_fields; i++)
		if (strcmp(s->fields[i].name, name) == 0)
			return cli_usage(PORT_NAME, "field '%s' is given twice", name);
	strcpy(f->name, name);
	strcpy(f->unit, unit ? unit : "");
	f->stride = f->width;
	s->resource.size += (f->width + WORD - 1) / WORD * WORD;
	s->nr_fields++;
	return CLI_OK;
}

static int parse_value(const struct kport_field *f, const char *text, void *data)
{
	char what[64];

	if (port_value_parse(f, text, (char *)data + f->offset) == 0)
		return 0;
	port_type_text(f, what, sizeof(what));
	cli_say("%s: '%s' is not for '%s'; give %s", PORT_NAME, text, f->name, what);
	return -EINVAL;
}

static int parse_fields(struct serving *s, int nr, char **words)
{
	s->fields = calloc((size_t)nr, sizeof(*s->fields));
	if (!s->fields)
		return cli_refuse(s->name, ENOMEM, NULL);
	for (int i = 0; i < nr; i++) {
		char *equals = strchr(words[i], '=');
		int r;

		if (!equals)
			return cli_usage(PORT_NAME, "'%s' is not FIELD[:TYPE[:UNIT]]=VALUE",
					 words[i]);
		*equals = '\0';
		r = parse_field(s, words[i]);
		if (r != CLI_OK)
			return r;
		words[i] = equals + 1;
	}
	s->resource.data = calloc(1, s->resource.size);
	s->shadow = calloc(1, s->resource.size);
	if (!s->resource.data || !s->shadow)
		return cli_refuse(s->name, ENOMEM, NULL);
	for (int i = 0; i < nr; i++)
		if (parse_value(&s->fields[i], words[i], s->resource.data) < 0)
			return CLI_USAGE;
	return CLI_OK;
}

static int parse_policy(const char *text, enum kport_policy *ret)
{
	static const char *const names[] = { "kill", "revoke", "log" };

	for (int i = 0; i < 3; i++) {
		if (strcmp(text, names[i]) == 0) {
			*ret = (enum kport_policy)i;
			return 0;
		}
	}
	return -EINVAL;
}

static int parse(struct serving *s, int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "mode", .has_arg = required_argument, .val = 'm' },
		{ .name = "period", .has_arg = required_argument, .val = 'P' },
		{ .name = "policy", .has_arg = required_argument, .val = 'p' },
		{ .name = "replace", .has_arg = no_argument, .val = 'r' },
		{ 0 },
	};
	unsigned int mode;
	uint64_t n;
	int c;

	while ((c = getopt_long(argc, argv, ":m:", options, NULL)) != -1) {
		switch (c) {
		case 'm':
			if (cli_parse_mode(optarg, 0777, &mode) < 0 || !mode)
				return cli_usage(PORT_NAME, "'%s' is no mode of three octal digits",
						 optarg);
			s->options.mode = mode;
			/* It is meant exactly, as that of mkdir -m. */
			umask(0);
			break;
		case 'P':
			if (cli_parse_uint(optarg, 3600000, &n) < 0 || !n)
				return cli_usage(PORT_NAME, "'%s' is no number of milliseconds",
						 optarg);
			s->options.period_ns = n * 1000000;
			break;
		case 'p':
			if (parse_policy(optarg, &s->options.policy) < 0)
				return cli_usage(PORT_NAME,
						 "a policy is kill, revoke or log, not '%s'",
						 optarg);
			break;
		case 'r':
			s->options.replace = 1;
			break;
		default:
			return cli_bad_option(PORT_NAME, c, argv);
		}
	}
	if (argc - optind < 2)
		return cli_usage(PORT_NAME, "serve needs a NAME and FIELD=VALUE");
	s->name = argv[optind];
	return parse_fields(s, argc - optind - 1, argv + optind + 1);
}

/* ---- serving ---- */

static int on_write(struct resource *r, const struct kport_writer *who, const void *from,
		    size_t len, uint64_t offset)
{
	const struct serving *s = r->user;
	char label[PORT_LABEL_MAX], text[PORT_TEXT_MAX];

	memcpy(s->shadow, r->data, r->size);
	memcpy((char *)s->shadow + offset, from, len);
	for (unsigned int i = 0; i < s->nr_fields; i++) {
		const struct kport_field *f = &s->fields[i];

		if (f->offset >= offset + len || f->offset + f->width <= offset)
			continue;
		port_value_label(f, 0, label);
		port_value_text(f, (const char *)s->shadow + f->offset, text);
		printf("%s=%s %u %u\n", label, text, who->uid, who->pid);
	}
	fflush(stdout);
	return 0;
}

static void on_clobber(const struct kport_clobber *c, void *user)
{
	static const char *const done[] = { "it was killed", "it was shut out",
					    "they were mended" };
	const struct serving *s = user;
	char comm[17];

	snprintf(comm, sizeof(comm), "%.16s", c->comm);
	cli_say("%s: process %u (%s) of user %u wrote on %u shadow bytes at offset %lld of its pool; %s",
		s->name, c->who.pid, comm, c->who.uid, c->bytes, (long long)c->offset,
		c->done <= KPORT_LOG ? done[c->done] : "?");
}

static void on_line(struct serving *s, struct kport_server *server, char *line)
{
	char *equals = strchr(line, '=');

	if (!*line)
		return;
	for (unsigned int i = 0; equals && i < s->nr_fields; i++) {
		const struct kport_field *f = &s->fields[i];

		if (strlen(f->name) != (size_t)(equals - line) ||
		    memcmp(f->name, line, (size_t)(equals - line)) != 0)
			continue;
		if (parse_value(f, equals + 1, s->resource.data) == 0 && kport_publish(server) < 0)
			cli_refuse(s->name, errno, port_hints);
		return;
	}
	cli_say("%s: '%s' is not FIELD=VALUE with one of its fields; give such lines", s->name,
		line);
}

/**
 * struct input - lines from standard input.
 * @used: bytes of a line that is not whole yet; @too_long: they are thrown away up to its end
 */
struct input {
	char text[LINE_MAX_BYTES];
	size_t used;
	bool too_long;
};

/* What has come. Return: false: no more will come. */
static bool on_input(struct serving *s, struct kport_server *server, struct input *in)
{
	ssize_t n = read(STDIN_FILENO, in->text + in->used, sizeof(in->text) - in->used);
	char *line = in->text, *end;

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return true;
	if (n <= 0)
		return false;
	in->used += (size_t)n;
	while ((end = memchr(line, '\n', in->used - (size_t)(line - in->text)))) {
		*end = '\0';
		if (!in->too_long)
			on_line(s, server, line);
		in->too_long = false;
		line = end + 1;
	}
	in->used -= (size_t)(line - in->text);
	memmove(in->text, line, in->used);
	if (in->used == sizeof(in->text)) {
		if (!in->too_long)
			cli_say("%s: a line is too long; give short ones", s->name);
		in->too_long = true;
		in->used = 0;
	}
	return true;
}

static int serve(struct serving *s, struct kshared *k, struct kport_server *server, int signals)
{
	cleanup_free struct input *in = calloc(1, sizeof(*in));
	struct pollfd fds[] = {
		{ .fd = kport_server_fd(server), .events = POLLIN },
		{ .fd = signals, .events = POLLIN },
		{ .fd = STDIN_FILENO, .events = POLLIN },
	};
	bool end = false;

	if (!in)
		return cli_refuse(s->name, ENOMEM, NULL);
	while (!end) {
		if (poll(fds, 3, -1) < 0)
			continue;
		end = fds[1].revents;
		if (fds[2].revents && !on_input(s, server, in))
			fds[2].fd = -1;
		/* Also at the end: what was written before it is told, and whether the entry is still ours. */
		if (kport_server_dispatch(server, 0) < 0 && errno != EINTR) {
			if (errno == ENOTCONN)
				cli_say("%s: the entry was removed or taken over; serve it again if that was wrong",
					s->name);
			else
				cli_refuse(s->name, errno, port_hints);
			return CLI_FAILED;
		}
		if (ferror(stdout))
			break;
	}
	if (kport_remove(k, s->name) < 0 && errno != ENOENT)
		return cli_refuse(s->name, errno, port_hints);
	return cli_finish(CLI_OK);
}

int port_serve(const struct cli *cli, int argc, char **argv)
{
	static const struct hint serve_hints[] = {
		{ EEXIST, "the name is taken",
		  "choose another one, or give --replace if it is yours" },
		{ ENOENT, "there is no such board, or this folder has no ports",
		  "make a board with mkdir in the mounted folder" },
		{ 0 },
	};
	cleanup(serving_deinit_p) struct serving s = {
		.options = { .on_clobber = on_clobber },
		.resource.rops.write = on_write,
	};
	struct kport_server *server;
	sigset_t set;
	int r = parse(&s, argc, argv);

	if (r != CLI_OK)
		return r;
	s.resource.user = s.options.user = &s;
	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	cleanup_fd int signals = signalfd(-1, &set, SFD_CLOEXEC);
	if (signals < 0)
		return cli_refuse(s.name, errno, NULL);
	server = kport_serve(k, s.name, &s.resource, s.fields, s.nr_fields, &s.options);
	if (!server)
		return cli_refuse(*s.name ? s.name : "''", errno, serve_hints);
	r = serve(&s, k, server, signals);
	kport_server_free(server);
	return r;
}
