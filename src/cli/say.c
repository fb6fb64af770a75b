// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * say.c - sentences for people, on stderr.
 *
 * What is printed may hold names that others chose, so nothing that is not printable in the
 * user's locale gets out as it is: control characters, escape sequences and broken multibyte
 * text are shown as \ooo, a backslash as \\. So are the characters that turn the direction of
 * writing: they would make the rest of a line look like something else.
 */
#include <stdarg.h>
#include <string.h>
#include <wchar.h>
#include <wctype.h>

#include "cli/cli.h"

/* What an errno means to somebody who shares things in a folder, whatever the command. */
static const struct hint general_hints[] = {
	{ EACCES, "permission denied", "ask its owner to change its mode, or use another user" },
	{ EPERM, "not permitted", "only its owner and root may" },
	{ ENOENT, "there is no such entry", "'kshared ls' shows what is there" },
	{ EEXIST, "the name is taken", "choose another one or remove the entry with 'kshared rm'" },
	{ EISDIR, "it is a board, not an entry", "name an entry inside it" },
	{ ENOTDIR, "a part of its path is no board", "'kshared ls' shows what is there" },
	{ ENOTEMPTY, "the board is not empty", "remove its entries first" },
	{ ENAMETOOLONG, "the name is too long", "use at most 255 bytes" },
	{ EDQUOT, "your limit in this folder is reached",
	  "remove entries that are not needed, or bring the folder up with a higher --max-*-uid" },
	{ ENOSPC, "the folder's limit is reached",
	  "remove entries that are not needed, or bring it up with a higher --max-*" },
	{ ELOOP, "the descriptor is a file of this very folder",
	  "post what the entry stands for instead" },
	{ EBADF, "that descriptor is not open", "open it before, for example with 5<FILE" },
	{ ENXIO, "nothing is posted there yet", "wait for its server, or post a descriptor" },
	{ EOPNOTSUPP, "this cannot be had of what is posted",
	  "open the entry through the mounted folder" },
	{ EBUSY, "it is in use", "close or unmap what uses it" },
	{ EMFILE, "too many open descriptors", "raise the limit with 'ulimit -n'" },
	{ ENFILE, "the system's table of open files is full", "raise fs.file-max" },
	{ ENOMEM, "there is not enough memory", "free some, or ask for less" },
	{ ESTALE, "the daemon does not take this process's credentials",
	  "see what user namespace both are in" },
	{ EPROTO, "what answers is no ksharedd of this version", "look at 'kshared status'" },
	{ ETIMEDOUT, "no answer", "look at the daemon's log" },
	{ ECONNRESET, "the daemon breaks off again and again", "look at the daemon's log" },
	{ ECONNREFUSED, "nobody serves the folder", "bring it up with 'kshared up'" },
	{ 0 },
};

static bool is_harmless(wint_t c)
{
	bool turns = c == 0x61c || c == 0x200e || c == 0x200f || (c >= 0x202a && c <= 0x202e) ||
		(c >= 0x2066 && c <= 0x2069);

	return iswprint(c) && !turns;
}

/**
 * cli_escape() - text that is safe on a terminal.
 * @ret: @size bytes; cut if it does not fit
 * @text: NUL-terminated
 */
void cli_escape(char *ret, size_t size, const char *text)
{
	mbstate_t state = { 0 };
	size_t left = strlen(text), used = 0;

	while (left) {
		wchar_t wc;
		size_t n = mbrtowc(&wc, text, left, &state);
		bool bad = n == (size_t)-1 || n == (size_t)-2 || n == 0;

		if (bad) {
			memset(&state, 0, sizeof(state));
			n = 1;
		}
		if (used + 4 * n + 1 > size)
			break;
		if (bad || !is_harmless((wint_t)wc)) {
			for (size_t i = 0; i < n; i++)
				used += sprintf(ret + used, "\\%03o", (unsigned char)text[i]);
		} else if (wc == L'\\') {
			ret[used++] = '\\';
			ret[used++] = '\\';
		} else {
			memcpy(ret + used, text, n);
			used += n;
		}
		text += n;
		left -= n;
	}
	ret[used] = '\0';
}

static void say_v(const char *prefix, const char *fmt, va_list ap)
{
	cleanup_free char *text = NULL, *safe = NULL;
	size_t size;

	/* A path may be of any length, and the reason comes after it. */
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	size = text ? 4 * strlen(text) + 1 : 0;
	safe = text ? malloc(size) : NULL;
	if (safe)
		cli_escape(safe, size, text);
	fprintf(stderr, "kshared: %s%s%s\n", prefix, *prefix ? ": " : "",
		safe ? safe : "there is no memory to say what is wrong");
}

/** cli_say() - print a sentence. @fmt: without "kshared: " and newline */
void cli_say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say_v("", fmt, ap);
	va_end(ap);
}

static const struct hint *find_hint(const struct hint *hints, int err)
{
	for (const struct hint *h = hints; h && h->err; h++) {
		if (h->err == err)
			return h;
	}
	return NULL;
}

/**
 * cli_refuse() - say why something was not done, and what to do.
 * @thing: what it was to be done with
 * @err: an errno
 * @hints: what an errno means to this command, before the general meaning; NULL: nothing special
 *
 * Return: CLI_FAILED.
 */
int cli_refuse(const char *thing, int err, const struct hint *hints)
{
	const struct hint *h = find_hint(hints, err);

	if (!h)
		h = find_hint(general_hints, err);
	cli_say("%s: %s%s%s", thing, h && h->reason ? h->reason : strerror(err),
		h && h->next ? "; " : "", h && h->next ? h->next : "");
	return CLI_FAILED;
}

/**
 * cli_usage() - say what is wrong with the command line.
 * @command: the subcommand
 * @fmt: what is wrong
 *
 * Return: CLI_USAGE.
 */
int cli_usage(const char *command, const char *fmt, ...)
{
	char text[2048];
	va_list ap;

	va_start(ap, fmt);
	/* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): va_start() has set it */
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	cli_say("%s: %s; see 'kshared help %s'", command, text, command);
	return CLI_USAGE;
}

/**
 * cli_bad_option() - say what getopt_long() did not like.
 * @command: the subcommand
 * @c: what it returned: ':' with a lacking value, else '?'
 * @argv: as given to it
 *
 * Return: CLI_USAGE.
 */
int cli_bad_option(const char *command, int c, char **argv)
{
	const char *word = argv[optind - 1];
	char letter[3] = { '-', (char)optopt, '\0' };

	if (word[0] != '-' && optopt)
		word = letter;
	if (c == ':')
		return cli_usage(command, "option '%s' lacks its value", word);
	return cli_usage(command, "there is no option '%s', or it is used the wrong way", word);
}

/**
 * cli_finish() - the end of a command that printed something.
 * @status: its exit status so far
 *
 * Return: @status; CLI_FAILED if stdout could not take everything.
 */
int cli_finish(int status)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	/* Not by cli_refuse(): its hints are about the folder. errno may be of an earlier, failed write. */
	cli_say("standard output: %s; nothing else is wrong", strerror(errno ? errno : EIO));
	return CLI_FAILED;
}
