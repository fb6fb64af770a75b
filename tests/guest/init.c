// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * init.c - all that runs in a guest of the tests and the demo: fills most of its memory as a guest's memory looks, then
 * verifies it for ever, and says on the console how it went.
 *
 *	verifier: PAGES pages
 *	verifier: round ROUND, PAGES pages, BAD bad
 *
 * Of 20 blocks of 16 pages 4 hold zeros, 8 what every guest has (the same image), 2 what this guest has several times, 6 what
 * nothing else has. Which of the common contents is where differs from guest to guest. In each round one page in 64,
 * always the same, is written anew: so merged pages are written, too, and a page's content says how often.
 *
 * The kernel's command line says seed=NUMBER (of the guest); the kernel hands it over in the environment.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define WORDS (PAGE / 8)
#define BLOCK 16u
#define REWRITE 64u

static uint64_t seed;
static uint64_t *pages;
static uint32_t *writes; /* of each page, after the first */
static uint64_t nr_pages;

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

/* What tells a page's content from others'; 0: zeros. */
static uint64_t content(uint64_t i)
{
	uint64_t block = (i / BLOCK + seed * 3) % (nr_pages / BLOCK), kind = block % 20;

	if (writes[i])
		return mix(seed << 48 ^ i << 16 ^ writes[i]) | 1;
	if (kind < 4)
		return 0;
	if (kind < 12)
		return mix(block * BLOCK + i % BLOCK) | 1;
	if (kind < 14)
		return mix(seed << 56 ^ block % 100) | 1;
	return mix(seed << 48 ^ 0xffff ^ i << 16) | 1;
}

static void fill(uint64_t i)
{
	uint64_t *word = pages + i * WORDS, value = content(i);

	for (unsigned int k = 0; k < WORDS; k++)
		word[k] = value * (k + 1);
}

static int is_good(uint64_t i)
{
	const uint64_t *word = pages + i * WORDS;
	uint64_t value = content(i), wrong = 0;

	for (unsigned int k = 0; k < WORDS; k++)
		wrong |= word[k] ^ value * (k + 1);
	return !wrong;
}

static void end(const char *why)
{
	printf("verifier: %s\n", why);
	for (;;)
		pause();
}

int main(void)
{
	const char *number = getenv("seed");
	struct sysinfo info;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (number)
		seed = strtoull(number, NULL, 10);
	sysinfo(&info);
	nr_pages = info.freeram * info.mem_unit / PAGE / 10 * 8 / BLOCK * BLOCK;
	pages = mmap(NULL, nr_pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		     0);
	writes = calloc(nr_pages, sizeof(*writes));
	if (pages == MAP_FAILED || !writes)
		end("no memory");
	for (uint64_t i = 0; i < nr_pages; i++)
		fill(i);
	printf("verifier: %lu pages\n", nr_pages);
	for (uint64_t round = 1;; round++) {
		uint64_t nr_bad = 0;

		for (uint64_t i = 0; i < nr_pages; i++) {
			if (!is_good(i) && nr_bad++ == 0)
				printf("verifier: page %lu is bad\n", i);
			if (i % REWRITE == 0) {
				writes[i]++;
				fill(i);
			}
		}
		printf("verifier: round %lu, %lu pages, %lu bad\n", round, nr_pages, nr_bad);
		/* The host's other work has a turn, too. */
		nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
	}
}
