// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * texts.c - see texts.h.
 */
#include <errno.h>
#include <kind/texts.h>
#include <stdlib.h>
#include <uthash.h>

#define TEXTS_MAX 64

/* A text that somebody is reading. */
struct kept {
	uint64_t word;
	char *text;
	size_t len;
	UT_hash_handle hh;
};

static struct kept *texts;

static void drop(struct kept *k)
{
	HASH_DEL(texts, k);
	free(k->text);
	free(k);
}

static struct kept *find(uint64_t word)
{
	struct kept *k;

	HASH_FIND(hh, texts, &word, sizeof(word), k);
	return k;
}

static int give(struct request *rq, const struct kept *k)
{
	size_t off = rq->offset < k->len ? rq->offset : k->len;

	rq->out = (struct iovec){ .iov_base = k->text + off,
				  .iov_len = k->len - off < rq->len ? k->len - off : rq->len };
	return (int)rq->out.iov_len;
}

int texts_read(struct request *rq)
{
	const struct kept *k = rq->offset ? find(rq->word) : NULL;

	return k ? give(rq, k) : -ENOENT;
}

int texts_keep(struct request *rq, char *text, size_t len)
{
	struct kept *k;

	texts_drop(rq->word);
	/* The oldest goes first. */
	if (HASH_COUNT(texts) >= TEXTS_MAX)
		drop(texts);
	k = calloc(1, sizeof(*k));
	if (!k) {
		free(text);
		return -ENOMEM;
	}
	*k = (struct kept){ .word = rq->word, .text = text, .len = len };
	HASH_ADD(hh, texts, word, sizeof(k->word), k);
	return give(rq, k);
}

void texts_drop(uint64_t word)
{
	struct kept *k = find(word);

	if (k)
		drop(k);
}
