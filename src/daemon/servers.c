// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * servers.c - see servers.h.
 */
#include <daemon/servers.h>
#include <stddef.h>

static pid_t start_one(void *ctx, const int *fds)
{
	const struct server_start *start = ctx;

	return start->servers->start(start->servers->ctx, start->role, fds);
}

int servers_init(struct servers *s, pid_t (*start)(void *ctx, const char *role, const int *fds),
		 void *ctx, struct table *table, uint64_t *bpf)
{
	static const char *const roles[] = { "--publisher", "--merger" };
	static const char *const names[] = { "the publisher of ports", "the merger" };
	int r = 0;

	*s = (struct servers){ .start = start, .ctx = ctx };
	for (unsigned int i = 0; i < NR_SERVERS && r == 0; i++) {
		s->starts[i] = (struct server_start){ .servers = s, .role = roles[i] };
		r = publishing_new(
			&s->server[i],
			&(struct publishing_conf){ .what = names[i],
						   .start = start_one,
						   .ctx = &s->starts[i],
						   .table = table,
						   .ready = i == SERVER_PUBLISHER ? bpf : NULL });
	}
	return r;
}

void servers_poll(const struct servers *s, struct pollfd *ret)
{
	for (unsigned int i = 0; i < NR_SERVERS; i++)
		publishing_poll(s->server[i], ret + 2 * i);
}

void servers_act(struct servers *s, const struct pollfd *polled)
{
	for (unsigned int i = 0; i < NR_SERVERS; i++)
		publishing_act(s->server[i], polled + 2 * i);
}

void servers_tick(struct servers *s)
{
	for (unsigned int i = 0; i < NR_SERVERS; i++)
		publishing_tick(s->server[i]);
}

bool servers_died(struct servers *s, pid_t pid, int status)
{
	for (unsigned int i = 0; i < NR_SERVERS; i++)
		if (publishing_died(s->server[i], pid, status))
			return true;
	return false;
}

void servers_restart(struct servers *s)
{
	for (unsigned int i = 0; i < NR_SERVERS; i++)
		publishing_restart(s->server[i]);
}

void servers_deinit(struct servers *s)
{
	for (unsigned int i = 0; i < NR_SERVERS; i++)
		publishing_free(s->server[i]);
}
