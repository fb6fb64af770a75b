/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bench.h - what the benchmark programs have in common: options, lanes that take turns, peers in other processes.
 *
 * A program answers one question. A question has groups; a group has lanes, which do the same work in different
 * ways; the first lane is the one that the others are compared with. In each round every lane runs once, for about as long
 * as every other one, in an order that turns round each time, so that whatever the machine does meanwhile falls
 * on all of them. A line is printed for each lane and round,
 *
 *	GROUP <tab> LANE <tab> ROUND <tab> NANOSECONDS for one operation
 *
 * and bench/run makes medians of ratios within a round out of them. Anything that goes wrong ends the program: a
 * benchmark of an error is worse than none.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/**
 * struct lane - one way of doing a group's work.
 * @run: do it about @n times; returns how often it was done
 * @arg: for @run
 */
struct lane {
	const char *name;
	unsigned long (*run)(void *arg, unsigned long n);
	void *arg;
};

/**
 * struct bench - what the program was told.
 * @tmpfs: a directory on a tmpfs, ours alone
 * @disk: a directory on whatever the temporary directory is on
 * @daemon: path of ksharedd
 * @folders, @nr_folders: mounted folders
 * @rounds, @round_ms: how many rounds, and for how long each lane runs in one
 * @cpu: where this process runs, @peer_cpu: and its peers; -1: anywhere
 */
struct bench {
	const char *tmpfs;
	const char *disk;
	const char *daemon;
	char **folders;
	int nr_folders;
	unsigned int rounds;
	unsigned int round_ms;
	int cpu;
	int peer_cpu;
};

extern struct bench bench;

/** bench_init() - read the options and move to the CPU; ends the program if they are not good. */
void bench_init(int argc, char **argv);

/** bench_group() - run a group's lanes in turns and print. */
void bench_group(const char *group, const struct lane *lanes, size_t nr);

/** bench_emit() - print one measurement, for what is no lane. */
void bench_emit(const char *group, const char *lane, unsigned int round, double ns);

/** bench_note() - print a remark for the reader of the results. */
void bench_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** bench_now_ns() - the monotonic clock. */
int64_t bench_now_ns(void);

/** bench_die() - say what failed, with errno's text, and end. */
void bench_die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/** bench_fd() - @fd, or the end of the program if it is -1. */
int bench_fd(int fd, const char *what);

/** bench_zero() - ends the program unless @result is 0. */
void bench_zero(int result, const char *what);

/** bench_path() - a path made of a directory and a name; freed by nobody. */
char *bench_path(const char *dir, const char *name);

/** bench_peer() - run @function in another process, on the peers' CPU, until it returns; it is killed when we end. Return: its pid. */
pid_t bench_peer(void (*function)(void *arg), void *arg);

/** bench_join() - wait for a peer that ends by itself. Return: whether it ended well. */
bool bench_join(pid_t pid);

/** bench_move() - move the calling thread to a CPU; -1: anywhere. */
void bench_move(int cpu);

/** bench_send_fd() - send one byte and a descriptor. Return: false if nobody is there. */
bool bench_send_fd(int sock, int fd);

/** bench_receive_fd() - receive at least one byte and a descriptor. Return: the descriptor. */
int bench_receive_fd(int sock);

#endif
