// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * texts.c - see texts.h.
 */
#include <errno.h>
#include <kind/texts.h>
#include <stdlib.h>
#include <uthash.h>

#define TEXTS_MAX 256
#define TEXTS_BYTES (16u << 20)

/* A text that somebody is reading. */
struct kept {
	uint64_t word;
	uid_t uid;
	char *text;
	size_t len;
	UT_hash_handle hh;
};

static struct kept *texts;
static size_t texts_bytes;

static void drop(struct kept *k)
{
	HASH_DEL(texts, k);
	texts_bytes -= k->len;
	free(k->text);
	free(k);
}

static struct kept *find(uint64_t word)
{
	struct kept *k;

	HASH_FIND(hh, texts, &word, sizeof(word), k);
	return k;
}

/* Which goes for another one: the oldest of who has most of what is scarce, texts or bytes. NULL: there is room. */
static struct kept *too_much(void)
{
	struct kept *k, *tmp, *other, *tmp2, *ret = NULL;
	bool many = HASH_COUNT(texts) >= TEXTS_MAX;
	size_t nr, most = 0;

	if (!many && texts_bytes < TEXTS_BYTES)
		return NULL;
	HASH_ITER(hh, texts, k, tmp) {
		if (ret && k->uid == ret->uid)
			continue;
		nr = 0;
		HASH_ITER(hh, texts, other, tmp2)
			if (other->uid == k->uid)
				nr += many ? 1 : other->len + 1;
		if (nr > most) {
			most = nr;
			ret = k;
		}
	}
	return ret;
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
	struct kept *k = NULL;
	/* Parts of two texts are not put together; of one that was read to its end there is no more. */
	int r = rq->offset && rq->offset != len ? -ESTALE : 0;

	if (r == 0) {
		texts_drop(rq->word);
		while ((k = too_much()))
			drop(k);
		k = calloc(1, sizeof(*k));
		r = k ? 0 : -ENOMEM;
	}
	if (r < 0) {
		free(text);
		return r;
	}
	*k = (struct kept){ .word = rq->word, .uid = rq->cred->uid, .text = text, .len = len };
	texts_bytes += len;
	HASH_ADD(hh, texts, word, sizeof(k->word), k);
	return give(rq, k);
}

void texts_drop(uint64_t word)
{
	struct kept *k = find(word);

	if (k)
		drop(k);
}
