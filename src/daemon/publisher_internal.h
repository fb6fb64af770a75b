/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * publisher_internal.h - inside of the publisher: shared by publisher.c (the loop, clients), publisher_pages.c (pages and accounts) and
 * publisher_rules.c.
 */
#ifndef KSHARED_DAEMON_PUBLISHER_INTERNAL_H
#define KSHARED_DAEMON_PUBLISHER_INTERNAL_H

#include <daemon/kept.h>
#include <daemon/publisher.h>
#include <daemon/shares.h>
#include <stdbool.h>
#include <sys/types.h>
#include <systemd/sd-event.h>
#include <wire/keep.h>
#include <wire/port_serve.h>

#define PUBLISH_FDS KEPT_FDS /* of one message */

struct account;
struct publish;
struct waiting;

/**
 * struct client - somebody who has a port of ours open.
 * @fd: his server's end
 * @has_page: he has a page or account, and
 * @sampled: it is the sampler's
 * @account: his account; NULL: none
 * @seat: in a rule that he may write; 0: none
 */
struct client {
	struct publish *publish;
	int fd;
	sd_event_source *source;
	uid_t uid;
	bool has_page;
	bool sampled;
	struct account *account;
	uint64_t seat;
	struct client *prev, *next;
};

/** struct publish - the publisher. @nr_pages, @nr_sampled: clients with a page, and with one of the sampler's */
struct publish {
	const struct config *config;
	sd_event *event;
	sd_event_source *idle;
	sd_event_source *sample;
	sd_event_source *slow;
	sd_event_source *sweep;
	struct waiting *waiting;
	uid_t slow_uid; /* served last of those that waited */
	uint64_t generation;
	struct client *clients;
	struct shares shares;
	unsigned int max_clients;
	unsigned int max_clients_uid;
	unsigned int nr_pages;
	unsigned int nr_sampled;

	/* publisher_pages.c's */
	struct publisher *bpf;
	struct sampler *sampler;
	bool tried;
	struct account *accounts;
	unsigned int nr_accounts;
	unsigned int nr_cgroups;

	/* publisher_rules.c's */
	struct rules *rules;
	sd_event_source *rules_source;
	sd_event_source *rules_timer;
	struct held *held;
};

/**
 * struct message - a request, and its descriptors, which are closed when it has been dealt with unless they were taken.
 * @sock: the client's server's end
 * @pidfd, @target: -1: there is none
 */
struct message {
	struct port_open open;
	int sock;
	int pidfd;
	int target;
};

/** publish_add() - a client, whose socket is taken. Return: 0; -EDQUOT; -ENOMEM; -errno. */
int publish_add(struct publish *p, struct message *m, struct client **ret);

/** publish_hello() - answer a client; the descriptors stay ours. */
void publish_hello(int sock, const struct port_hello *hello, const int *fds, unsigned int nr);

/** publish_page() - serve one of the kernel's pages. Return: 0; -errno. */
int publish_page(struct publish *p, struct message *m);

/** publish_is_slow() - does it take long to serve it? */
bool publish_is_slow(struct publish *p, const struct message *m);

/** publish_account() - serve what a process or a control group uses. Return: 0; -errno. */
int publish_account(struct publish *p, struct message *m);

/** publish_page_left() - a client who had a page has gone. */
void publish_page_left(struct publish *p, struct client *c);

/** publish_sweep() - accounts that nobody has used for some time end. */
void publish_sweep(struct publish *p);

/** publish_unload() - nobody has a page: no more are written. */
void publish_unload(struct publish *p);

/** publish_sample() - the timer's: look once more, if somebody wants it. */
void publish_sample(struct publish *p);

/** publish_rule() - somebody opens a rule. Return: 0; -errno. */
int publish_rule(struct publish *p, struct message *m);

/** publish_hold() - PORT_OPEN_HOLD. Return: 0; -errno. */
int publish_hold(struct publish *p, struct message *m);

/** publish_drop() - PORT_OPEN_DROP. */
void publish_drop(struct publish *p, const struct message *m);

/** publish_take_over() - the rules that a predecessor left with the keeper hold on. */
void publish_take_over(struct publish *p);

/** publish_rule_left() - a client of a rule has gone. */
void publish_rule_left(struct publish *p, struct client *c);

/** publish_rules_end() - at the end: they hold on without us. */
void publish_rules_end(struct publish *p);

#endif
