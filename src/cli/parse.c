// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * parse.c - numbers from the command line, strictly: digits only, the whole word, no overflow.
 */
#include <string.h>

#include "cli/cli.h"

/* Digits of @base up to *@end. */
static int parse(const char *text, unsigned int base, uint64_t max, uint64_t *ret, const char **end)
{
	uint64_t value = 0;
	const char *p;

	for (p = text; *p >= '0' && *p < (char)('0' + base); p++) {
		unsigned int digit = *p - '0';

		if (value > (max - digit) / base || digit > max)
			return -ERANGE;
		value = value * base + digit;
	}
	if (p == text)
		return -EINVAL;
	*ret = value;
	*end = p;
	return 0;
}

/**
 * cli_parse_uint() - a decimal number.
 * @text: the word
 * @max: the largest good value
 * @ret: written on success
 *
 * Return: 0; -EINVAL no number; -ERANGE too large.
 */
int cli_parse_uint(const char *text, uint64_t max, uint64_t *ret)
{
	const char *end;
	uint64_t value;
	int r = parse(text, 10, max, &value, &end);

	if (r < 0)
		return r;
	if (*end)
		return -EINVAL;
	*ret = value;
	return 0;
}

/**
 * cli_parse_size() - a size: a decimal number, then nothing, K, M, G or T (powers of 1024).
 * @text: the word
 * @ret: bytes; written on success
 *
 * Return: 0; -EINVAL no size; -ERANGE more than a file can have.
 */
int cli_parse_size(const char *text, uint64_t *ret)
{
	static const char units[] = "KMGT";
	const char *end, *unit;
	unsigned int shift = 0;
	uint64_t value;
	int r = parse(text, 10, INT64_MAX, &value, &end);

	if (r < 0)
		return r;
	if (*end) {
		unit = strchr(units, *end);
		if (!unit || end[1])
			return -EINVAL;
		shift = 10 * (unsigned int)(unit - units + 1);
	}
	if (value > (uint64_t)INT64_MAX >> shift)
		return -ERANGE;
	*ret = value << shift;
	return 0;
}

/**
 * cli_parse_seconds() - a time: seconds, with a fraction of up to nine digits, as 0.25.
 * @text: the word
 * @ret_ns: written on success; at most a year
 *
 * Return: 0; -EINVAL no time; -ERANGE too long.
 */
int cli_parse_seconds(const char *text, uint64_t *ret_ns)
{
	uint64_t seconds, scale = 1000000000, ns = 0;
	const char *end;
	int r = parse(text, 10, 366 * 86400, &seconds, &end);

	if (r < 0)
		return r;
	if (*end == '.') {
		for (end++; *end >= '0' && *end <= '9' && scale > 1; end++) {
			scale /= 10;
			ns += scale * (uint64_t)(*end - '0');
		}
		if (scale == 1000000000)
			return -EINVAL;
	}
	if (*end)
		return -EINVAL;
	*ret_ns = seconds * 1000000000 + ns;
	return 0;
}

/**
 * cli_parse_mode() - permission bits in octal.
 * @text: the word
 * @max: the largest good value
 * @ret: written on success
 *
 * Return: 0; -EINVAL no octal number; -ERANGE above @max.
 */
int cli_parse_mode(const char *text, unsigned int max, unsigned int *ret)
{
	const char *end;
	uint64_t value;
	int r = parse(text, 8, max, &value, &end);

	if (r < 0)
		return r;
	if (*end)
		return -EINVAL;
	*ret = (unsigned int)value;
	return 0;
}
