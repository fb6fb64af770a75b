// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * port_value.c - values of a port as text, as JSON, and from text.
 *
 * As text they are what the folder's own file says, so that `port read` and cat print the same: a number with a fraction has as many digits
 * as tell it apart from its neighbours, and can be given back to `port write`; a text is in quotes; a line is a line and a word is a word,
 * whatever a service says.
 */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "cli/port.h"

#define DIGITS_MAX 18 /* of a fraction, that count: less than one of 63 bits can tell */

const void *port_value_at(const struct kport_field *f, uint32_t index, const void *data)
{
	return (const char *)data + f->offset + (uint64_t)index * f->stride;
}

/* The bits of a number; a U32's without sign. */
static uint64_t load(const struct kport_field *f, const void *at)
{
	uint32_t narrow;
	uint64_t wide;

	if (f->type == KPORT_U32) {
		memcpy(&narrow, at, sizeof(narrow));
		return narrow;
	}
	memcpy(&wide, at, sizeof(wide));
	return wide;
}

/* With so many decimals that each value has a text of its own. */
static void fixed_text(uint64_t value, uint32_t bits, char *ret, size_t size)
{
	unsigned int digits = bits ? (bits * 1233 >> 12) + 1 : 0;
	unsigned __int128 rest = value & ((1ULL << bits) - 1);
	int used = snprintf(ret, size, "%llu%s", (unsigned long long)(value >> bits),
			    digits ? "." : "");

	while (digits-- && used < (int)size - 1) {
		rest *= 10;
		ret[used++] = (char)('0' + (int)(rest >> bits));
		rest &= (1ULL << bits) - 1;
	}
	ret[used] = '\0';
}

/* Bytes up to a zero byte; what could be taken for anything else is written \xHH. */
static char *escape(char *to, const char *end, const char *from, size_t max, bool space)
{
	for (size_t i = 0; i < max && from[i] && end - to > 4; i++) {
		unsigned char c = (unsigned char)from[i];

		if ((c > ' ' && c < 0x7f && c != '"' && c != '\\') || (c == ' ' && space))
			*to++ = (char)c;
		else
			to += sprintf(to, "\\x%02x", c);
	}
	*to = '\0';
	return to;
}

void port_value_text(const struct kport_field *f, const void *at, char *ret)
{
	switch (f->type) {
	case KPORT_S64:
		snprintf(ret, PORT_TEXT_MAX, "%lld", (long long)load(f, at));
		break;
	case KPORT_FIXED:
		fixed_text(load(f, at), f->fraction_bits, ret, PORT_TEXT_MAX);
		break;
	case KPORT_CHARS:
		*ret = '"';
		strcpy(escape(ret + 1, ret + PORT_TEXT_MAX - 2, at, f->width, true), "\"");
		break;
	default:
		snprintf(ret, PORT_TEXT_MAX, "%llu", (unsigned long long)load(f, at));
		break;
	}
}

json_t *port_value_json(const struct kport_field *f, const void *at)
{
	char number[24];
	uint64_t value;

	if (f->type == KPORT_CHARS) {
		cleanup_free char *text = strndup(at, f->width);

		return text ? cli_json_text(text) : NULL;
	}
	value = load(f, at);
	if (f->type == KPORT_FIXED)
		return json_real(ldexp((double)value, -(int)f->fraction_bits));
	if (f->type != KPORT_S64 && value > INT64_MAX) {
		snprintf(number, sizeof(number), "%llu", (unsigned long long)value);
		return json_string(number);
	}
	return json_integer((json_int_t)value);
}

void port_value_label(const struct kport_field *f, uint32_t index, char *ret)
{
	char *end = escape(ret, ret + 4 * KPORT_NAME_MAX + 8, f->name, sizeof(f->name), false);

	if (f->count > 1)
		snprintf(end, 16, "[%u]", index);
}

void port_unit_text(const struct kport_field *f, char *ret)
{
	escape(ret, ret + PORT_UNIT_MAX, f->unit, sizeof(f->unit), false);
}

bool port_value_number(const struct kport_field *f, const void *at, double *ret)
{
	uint64_t value;

	if (f->type == KPORT_CHARS)
		return false;
	value = load(f, at);
	if (f->type == KPORT_S64)
		*ret = (double)(int64_t)value;
	else
		*ret = ldexp((double)value, -(int)f->fraction_bits);
	return true;
}

static int parse_signed(const char *text, int64_t *ret)
{
	bool negative = *text == '-';
	uint64_t value;
	int r = cli_parse_uint(text + negative, (uint64_t)INT64_MAX + negative, &value);

	if (r == 0)
		*ret = (int64_t)(negative ? -value : value);
	return r;
}

static int parse_fixed(const char *text, uint32_t bits, uint64_t *ret)
{
	unsigned __int128 scale = 1, fraction = 0, value;
	char whole_text[32];
	const char *point = strchr(text, '.');
	size_t len = point ? (size_t)(point - text) : strlen(text);
	uint64_t whole;
	int r;

	if (len >= sizeof(whole_text))
		return -ERANGE;
	memcpy(whole_text, text, len);
	whole_text[len] = '\0';
	r = cli_parse_uint(whole_text, UINT64_MAX >> bits, &whole);
	if (r < 0)
		return r;
	if (point && !point[1])
		return -EINVAL;
	for (const char *p = point ? point + 1 : ""; *p; p++) {
		if (*p < '0' || *p > '9')
			return -EINVAL;
		if (p - point > DIGITS_MAX)
			continue;
		fraction = fraction * 10 + (unsigned int)(*p - '0');
		scale *= 10;
	}
	value = ((unsigned __int128)whole << bits) + ((fraction << bits) + scale / 2) / scale;
	if (value > UINT64_MAX)
		return -ERANGE;
	*ret = (uint64_t)value;
	return 0;
}

int port_value_parse(const struct kport_field *f, const char *text, void *ret)
{
	uint64_t value = 0;
	uint32_t narrow;
	size_t len;
	int r;

	switch (f->type) {
	case KPORT_CHARS:
		len = strlen(text);
		if (len > f->width)
			return -ERANGE;
		memset(ret, 0, f->width);
		memcpy(ret, text, len);
		return 0;
	case KPORT_U32:
		r = cli_parse_uint(text, UINT32_MAX, &value);
		narrow = (uint32_t)value;
		if (r == 0)
			memcpy(ret, &narrow, sizeof(narrow));
		return r;
	case KPORT_S64:
		r = parse_signed(text, (int64_t *)&value);
		break;
	case KPORT_FIXED:
		r = parse_fixed(text, f->fraction_bits, &value);
		break;
	default:
		r = cli_parse_uint(text, UINT64_MAX, &value);
		break;
	}
	if (r == 0)
		memcpy(ret, &value, sizeof(value));
	return r;
}

void port_type_text(const struct kport_field *f, char *ret, size_t size)
{
	switch (f->type) {
	case KPORT_S64:
		snprintf(ret, size, "a number of 64 bits, perhaps negative");
		break;
	case KPORT_U32:
		snprintf(ret, size, "a number below 2^32");
		break;
	case KPORT_FIXED:
		snprintf(ret, size, "a number below 2^%u, perhaps with a fraction",
			 64 - f->fraction_bits);
		break;
	case KPORT_CHARS:
		snprintf(ret, size, "a text of at most %u bytes", f->width);
		break;
	default:
		snprintf(ret, size, "a number below 2^64");
		break;
	}
}
