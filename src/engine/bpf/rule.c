// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * rule.c - loads the programs of rules and seats their clients: see rule.h.
 *
 * Two kinds of BPF objects: one of rule.bpf.c for all (slots, pools, the bell, the timer), and one of rule_sock.bpf.c for each rule (its state,
 * its page, the program on the creation of sockets). The maps of maps of the first lead to the maps of the second.
 *
 * A page's head is written by an update of its map, never by a mapping, which could not be frozen; so are a new pool's
 * shadow bytes. This process maps neither.
 */
#include "rule.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <base/cleanup.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "engine/bpf/rule_abi.h"
#include "engine/bpf/rule.skel.h"
#include "engine/bpf/rule_sock.skel.h"

#define SLOT_OF(client) ((uint32_t)((client) % RULE_SLOTS))

_Static_assert(RULES_CLIENTS_MAX == RULE_SLOTS, "rule_abi.h");
_Static_assert(offsetof(struct port_head, seq) == 128, "rule_publish.bpf.h: struct rule_page");
_Static_assert(offsetof(struct port_head, writes) == 136, "rule_publish.bpf.h: struct rule_page");
_Static_assert(offsetof(struct port_head, sample_ns) == 144,
	       "rule_publish.bpf.h: struct rule_page");
_Static_assert(offsetof(struct rule_pool, data) == RULE_POOL_OFF, "ABI");
_Static_assert(sizeof(struct port_rule) == RULE_WORDS * 8, "ABI");

static const struct port_field rule_fields[] = {
	PORT_FIELD(port_rule, allow, PORT_U64, ""),
	PORT_FIELD(port_rule, mark, PORT_U64, ""),
	PORT_FIELD(port_rule, priority, PORT_U64, ""),
	PORT_FIELD(port_rule, rate_per_s, PORT_U64, "sockets/s"),
	PORT_FIELD(port_rule, burst, PORT_U64, "sockets"),
	PORT_FIELD(port_rule, allowed, PORT_U64, "sockets"),
	PORT_FIELD(port_rule, denied, PORT_U64, "sockets"),
	PORT_FIELD(port_rule, limited, PORT_U64, "sockets"),
	PORT_FIELD(port_rule, marked, PORT_U64, "sockets"),
};

static const struct port_spec rule_spec = {
	.name = "rule",
	.element_size = sizeof(struct port_rule),
	.nr_elements = 1,
	.fields = rule_fields,
	.nr_fields = RULE_WORDS,
};

_Static_assert(sizeof(rule_fields) / sizeof(rule_fields[0]) == RULE_WORDS, "one field a word");

/* @sock: NULL: there is no such rule. */
struct rule {
	struct rule_sock_bpf *sock;
	uint64_t entry;
	uint64_t owner;
	int link_fd;
};

enum seat_state {
	SEAT_FREE,
	SEAT_USED,
	SEAT_LEFT, /* somebody may have the pool still */
};

struct seat {
	enum seat_state state;
	uint64_t client;
	uint64_t entry;
	uint32_t rule;
	uint32_t uid, gid, pid;
	int pidfd;
};

struct rules {
	struct rule_bpf *bpf;
	struct ring_buffer *events;
	struct rules_options options;
	uint64_t last_client;
	unsigned int nr_rules;
	struct rule rule[RULES_MAX];
	struct seat seat[RULES_CLIENTS_MAX];
};

static void free_rules_p(struct rules **r)
{
	rules_free(*r);
}

static void free_sock_p(struct rule_sock_bpf **s)
{
	rule_sock_bpf__destroy(*s);
}

static void close_file_p(FILE **f)
{
	if (*f)
		fclose(*f);
}

static int quiet(enum libbpf_print_level level, const char *format, va_list args)
{
	return getenv("KSHARED_BPF_DEBUG") ? vfprintf(stderr, format, args) : 0;
}

/* Run one of the publisher's own programs. Return: what it returns; -errno. */
static int run(const struct bpf_program *prog, struct rule_seat *seat)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = seat,
		    .ctx_size_in = seat ? sizeof(*seat) : 0);

	if (bpf_prog_test_run_opts(bpf_program__fd(prog), &opts))
		return -errno;
	return (int)opts.retval;
}

static int random_word(uint64_t *ret)
{
	do {
		if (getrandom(ret, sizeof(*ret), 0) != sizeof(*ret))
			return -errno;
	} while (!*ret);
	return 0;
}

static int load_error(int r)
{
	return r == -EPERM || r == -EACCES ? -EPERM : r == -ENOMEM ? r : -ENOTSUP;
}

static int on_found(void *user, void *data, size_t len);

int rules_new(struct rules **ret, const struct rules_options *o)
{
	cleanup(free_rules_p) struct rules *r = calloc(1, sizeof(*r));
	struct rule_conf *c;
	int err;

	if (!r)
		return -ENOMEM;
	libbpf_set_print(quiet);
	r->options = *o;
	r->bpf = rule_bpf__open();
	if (!r->bpf)
		return -errno;
	c = (struct rule_conf *)&r->bpf->rodata->conf;
	c->period_ns = o->period_ns ? o->period_ns : RULES_PERIOD_NS;
	c->policy = o->policy;
	c->in_place = o->in_place;
	c->kernel_kill = !o->no_kernel_kill;
	err = rule_bpf__load(r->bpf);
	if (err)
		return load_error(err);
	r->events = ring_buffer__new(bpf_map__fd(r->bpf->maps.events), on_found, r, NULL);
	if (!r->events)
		return -errno;
	*ret = take_ptr(r);
	return 0;
}

static struct rule *find_rule(const struct rules *r, uint64_t entry)
{
	for (size_t i = 0; i < RULES_MAX; i++)
		if (r->rule[i].sock && r->rule[i].entry == entry)
			return (struct rule *)&r->rule[i];
	return NULL;
}

/* Is it a state that these programs understand? */
static int check_state(int fd)
{
	struct bpf_map_info info = {};
	struct rule_state st;
	uint32_t len = sizeof(info), zero = 0;

	if (bpf_obj_get_info_by_fd(fd, &info, &len))
		return -errno;
	if (info.type != BPF_MAP_TYPE_ARRAY || info.key_size != 4 || info.max_entries != 1 ||
	    info.value_size != sizeof(st) || info.map_flags)
		return -EPROTO;
	if (bpf_map_lookup_elem(fd, &zero, &st))
		return -errno;
	return st.version == RULE_STATE_VERSION ? 0 : -EPROTO;
}

static int fill_maps(const struct rules *r, struct rule_sock_bpf *sock, bool is_new)
{
	const struct rule_state st = { .version = RULE_STATE_VERSION, .rule = { .allow = 1 } };
	uint64_t words[RULE_PAGE_SIZE / 8] = {};
	uint32_t zero = 0;
	int page = bpf_map__fd(sock->maps.page);

	if (is_new && bpf_map_update_elem(bpf_map__fd(sock->maps.state), &zero, &st, BPF_ANY))
		return -errno;
	port_format((struct port_head *)words, &rule_spec, 1, PORT_SOURCE_BPF, 0,
		    r->options.generation);
	if (((struct port_head *)words)->data_off != RULE_DATA_OFF)
		return -EPROTO;
	if (bpf_map_update_elem(page, &zero, words, BPF_ANY) || bpf_map_freeze(page))
		return -errno;
	return 0;
}

static void forget_maps(const struct rules *r, uint32_t i)
{
	bpf_map_delete_elem(bpf_map__fd(r->bpf->maps.states), &i);
	bpf_map_delete_elem(bpf_map__fd(r->bpf->maps.pages), &i);
}

/* Put the program in force. Return: the link. */
static int link_rule(struct rule_sock_bpf *sock, int cgroup_fd, int old_link_fd)
{
	int prog = bpf_program__fd(sock->progs.rule_sock);
	int fd;

	if (old_link_fd < 0) {
		fd = bpf_link_create(prog, cgroup_fd, BPF_CGROUP_INET_SOCK_CREATE, NULL);
		return fd < 0 ? (errno == E2BIG ? -ENOSPC : -errno) : fd;
	}
	fd = fcntl(old_link_fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (bpf_link_update(fd, prog, NULL)) {
		int err = -errno;

		close(fd);
		return err;
	}
	return fd;
}

int rules_add(struct rules *r, uint64_t entry, int cgroup_fd, int link_fd, int state_fd)
{
	cleanup(free_sock_p) struct rule_sock_bpf *sock = NULL;
	bool is_new = link_fd < 0;
	struct rule_seat seat = {};
	int state, page, err;
	uint32_t i = 0;

	if (find_rule(r, entry))
		return -EEXIST;
	while (i < RULES_MAX && r->rule[i].sock)
		i++;
	if (i == RULES_MAX)
		return -ENOSPC;
	err = random_word(&seat.owner);
	if (!err && !is_new)
		err = check_state(state_fd);
	if (err)
		return err;
	sock = rule_sock_bpf__open();
	if (!sock)
		return -errno;
	if (!is_new && bpf_map__reuse_fd(sock->maps.state, state_fd))
		return -errno;
	err = rule_sock_bpf__load(sock);
	if (err)
		return load_error(err);
	err = fill_maps(r, sock, is_new);
	if (err)
		return err;
	state = bpf_map__fd(sock->maps.state);
	page = bpf_map__fd(sock->maps.page);
	if (bpf_map_update_elem(bpf_map__fd(r->bpf->maps.states), &i, &state, BPF_ANY) ||
	    bpf_map_update_elem(bpf_map__fd(r->bpf->maps.pages), &i, &page, BPF_ANY)) {
		err = -errno;
		forget_maps(r, i);
		return err;
	}
	err = link_rule(sock, cgroup_fd, link_fd);
	if (err < 0) {
		forget_maps(r, i);
		return err;
	}
	r->rule[i] = (struct rule){
		.sock = take_ptr(sock), .entry = entry, .owner = seat.owner, .link_fd = err
	};
	r->nr_rules++;
	/* From here on its predecessor's bells are refused, and the page has values. */
	seat.rule = i;
	return run(r->bpf->progs.rule_own, &seat);
}

int rules_stored(const struct rules *r, uint64_t entry, int *ret_link_fd, int *ret_state_fd)
{
	const struct rule *rule = find_rule(r, entry);

	if (!rule)
		return -ENOENT;
	*ret_link_fd = rule->link_fd;
	*ret_state_fd = bpf_map__fd(rule->sock->maps.state);
	return 0;
}

int rules_remove(struct rules *r, uint64_t entry)
{
	struct rule *rule = find_rule(r, entry);
	struct rule_seat nobody = {};
	uint32_t i;

	if (!rule)
		return -ENOENT;
	i = rule - r->rule;
	nobody.rule = i;
	for (uint32_t n = 0; n < RULES_CLIENTS_MAX; n++) {
		struct rule_seat seat = { .op = RULE_BAR, .slot = n };

		if (r->seat[n].state == SEAT_USED && r->seat[n].rule == i)
			run(r->bpf->progs.rule_seat, &seat);
	}
	run(r->bpf->progs.rule_own, &nobody);
	bpf_link_detach(rule->link_fd);
	close(rule->link_fd);
	forget_maps(r, i);
	rule_sock_bpf__destroy(rule->sock);
	*rule = (struct rule){};
	r->nr_rules--;
	return 0;
}

unsigned int rules_count(const struct rules *r)
{
	return r->nr_rules + r->bpf->bss->nr_watched;
}

/* The timer looks at the first slots only. */
static void watch(struct rules *r)
{
	uint32_t used = 0, end = 0;

	for (uint32_t n = 0; n < RULES_CLIENTS_MAX; n++)
		if (r->seat[n].state == SEAT_USED) {
			used++;
			end = n + 1;
		}
	__atomic_store_n(&r->bpf->bss->nr_looked_at, end, __ATOMIC_RELEASE);
	__atomic_store_n(&r->bpf->bss->nr_watched, used, __ATOMIC_RELEASE);
}

static bool is_free(struct rules *r, uint32_t n)
{
	struct rule_seat seat = { .op = RULE_LEAVE, .slot = n };

	if (r->seat[n].state == SEAT_LEFT && run(r->bpf->progs.rule_seat, &seat) == 0 &&
	    run(r->bpf->progs.rule_held, &seat) == 0)
		r->seat[n].state = SEAT_FREE;
	return r->seat[n].state == SEAT_FREE;
}

/* Return: a slot that nobody has any part in; -EDQUOT; -EUSERS. */
static int find_seat(struct rules *r, uint32_t uid)
{
	unsigned int of_uid = 0;
	int found = -EUSERS;

	for (uint32_t n = 0; n < RULES_CLIENTS_MAX; n++) {
		if (is_free(r, n)) {
			if (found < 0)
				found = n;
		} else if (r->seat[n].uid == uid && ++of_uid == RULES_CLIENTS_UID) {
			return -EDQUOT;
		}
	}
	return found;
}

/* A pool for a slot; its shadow bytes go into @seat. Return: a descriptor. */
static int make_pool(struct rules *r, uint32_t n, struct rule_seat *seat)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_MMAPABLE);
	cleanup_free struct rule_pool *pool = calloc(1, sizeof(*pool));
	cleanup_fd int fd = -1;
	uint32_t zero = 0;

	if (!pool)
		return -ENOMEM;
	if (getrandom(seat->canary, sizeof(seat->canary), 0) != sizeof(seat->canary))
		return -errno;
	memcpy(pool->before, seat->canary, sizeof(pool->before));
	memcpy(pool->after, seat->canary + RULE_CANARY_WORDS, sizeof(pool->after));
	fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "port_pool", 4, sizeof(*pool), 1, &opts);
	if (fd < 0)
		return -errno;
	if (bpf_map_update_elem(fd, &zero, pool, BPF_ANY) ||
	    bpf_map_update_elem(bpf_map__fd(r->bpf->maps.pools), &n, &fd, BPF_ANY))
		return -errno;
	return take_fd(&fd);
}

/* The number of a process that a pidfd is of, in this process's namespace. Return: 0: none, or it has ended. */
static int32_t pid_of(int pidfd)
{
	cleanup(close_file_p) FILE *f = NULL;
	char path[64], line[128];
	int pid;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Pid: %d", &pid) == 1)
			return pid > 0 ? pid : 0;
	return 0;
}

/*
 * Seat a client. Its task is looked up by number within: if the process lives afterwards, the number was its own.
 * Return: 0; -ESRCH; -errno.
 */
static int sit_down(struct rules *r, struct rule_seat *seat, int pidfd)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	int err;

	seat->op = RULE_JOIN;
	seat->pid = pidfd < 0 ? 0 : pid_of(pidfd);
	if (pidfd >= 0 && !seat->pid)
		return -ESRCH;
	err = run(r->bpf->progs.rule_seat, seat);
	if (!err && pidfd >= 0 && poll(&p, 1, 0) != 0)
		err = -ESRCH;
	if (!err)
		err = run(r->bpf->progs.rule_watch, NULL);
	if (err) {
		seat->op = RULE_LEAVE;
		run(r->bpf->progs.rule_seat, seat);
	}
	return err;
}

static int join_writer(struct rules *r, const struct rule *rule, const struct seat *who, int pidfd,
		       struct port_hello *ret, int *ret_pool, uint64_t *ret_client)
{
	struct rule_seat seat = { .rule = rule - r->rule, .owner = rule->owner };
	cleanup_fd int pool = -1, own_pidfd = -1;
	int n = find_seat(r, who->uid);
	int err;

	if (n < 0)
		return n;
	err = random_word(&seat.token);
	if (err)
		return err;
	if (pidfd >= 0) {
		own_pidfd = fcntl(pidfd, F_DUPFD_CLOEXEC, 0);
		if (own_pidfd < 0)
			return -errno;
	}
	pool = make_pool(r, n, &seat);
	if (pool < 0)
		return pool;
	seat.slot = n;
	seat.client = (r->last_client / RULE_SLOTS + 1) * RULE_SLOTS + n;
	r->last_client = seat.client;
	r->seat[n] = *who;
	r->seat[n].state = SEAT_USED;
	r->seat[n].rule = seat.rule;
	r->seat[n].client = seat.client;
	r->seat[n].pidfd = -1;
	watch(r);
	err = sit_down(r, &seat, pidfd);
	if (err) {
		r->seat[n].state = SEAT_LEFT;
		watch(r);
		return err;
	}
	r->seat[n].pidfd = take_fd(&own_pidfd);
	ret->bell = PORT_BELL_BPF;
	ret->slot = n;
	ret->token = seat.token;
	ret->pool_off = RULE_POOL_OFF;
	ret->pool_size = sizeof(struct port_rule);
	*ret_pool = take_fd(&pool);
	*ret_client = seat.client;
	return 0;
}

int rules_join(struct rules *r, uint64_t entry, uint32_t uid, uint32_t gid, uint32_t pid, int pidfd,
	       unsigned int access, struct port_hello *ret, int ret_fds[3], unsigned int *ret_nr,
	       uint64_t *ret_client)
{
	const struct seat who = { .entry = entry, .uid = uid, .gid = gid, .pid = pid };
	const struct rule *rule = find_rule(r, entry);
	struct port_hello hello = { .magic = PORT_SERVE_MAGIC };
	cleanup_fd int page = -1, bell = -1;
	uint64_t client = 0;
	int pool = -1;

	if (!rule)
		return -ENOENT;
	page = fcntl(bpf_map__fd(rule->sock->maps.page), F_DUPFD_CLOEXEC, 0);
	if (page < 0)
		return -errno;
	if (access & 2) {
		int err;

		bell = fcntl(bpf_program__fd(r->bpf->progs.rule_ring), F_DUPFD_CLOEXEC, 0);
		if (bell < 0)
			return -errno;
		err = join_writer(r, rule, &who, pidfd, &hello, &pool, &client);
		if (err)
			return err;
	}
	*ret = hello;
	ret_fds[0] = take_fd(&page);
	ret_fds[1] = pool;
	ret_fds[2] = take_fd(&bell);
	*ret_nr = access & 2 ? 3 : 1;
	*ret_client = client;
	return 0;
}

void rules_leave(struct rules *r, uint64_t client)
{
	uint32_t n = SLOT_OF(client);
	struct rule_seat seat = { .op = RULE_LEAVE, .slot = n };
	struct seat *s = &r->seat[n];

	if (s->state != SEAT_USED || s->client != client)
		return;
	/* If a bell is at it, it is shut out all the same, and is_free() tries again. */
	run(r->bpf->progs.rule_seat, &seat);
	if (s->pidfd >= 0)
		close(s->pidfd);
	s->pidfd = -1;
	s->state = SEAT_LEFT;
	watch(r);
}

int rules_fd(const struct rules *r)
{
	return ring_buffer__epoll_fd(r->events);
}

/*
 * A process's name where the kernel side could not tell it. It may have ended, and its number be another's: then the pidfd
 * has none any more.
 */
static void name_of(int pidfd, char ret[16])
{
	cleanup(close_file_p) FILE *f = NULL;
	int32_t pid = pidfd < 0 ? 0 : pid_of(pidfd);
	char path[64], name[16];

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	f = pid ? fopen(path, "re") : NULL;
	if (!f || !fgets(name, sizeof(name), f) || pid_of(pidfd) != pid)
		return;
	name[strcspn(name, "\n")] = '\0';
	memcpy(ret, name, sizeof(name));
}

/* Whom the kernel side has killed already is none the worse for it. */
static enum rules_policy carry_out(const struct rules *r, const struct seat *s)
{
	if (r->options.policy != RULES_KILL)
		return r->options.policy;
	if (s->pidfd < 0 ||
	    (syscall(SYS_pidfd_send_signal, s->pidfd, SIGKILL, NULL, 0) && errno != ESRCH))
		return RULES_REVOKE;
	return RULES_KILL;
}

/* Where a byte of the two canaries is, from the beginning of the data. */
static int64_t place(int byte)
{
	return byte < PORT_CANARY ? byte - PORT_CANARY
				  : byte - PORT_CANARY + (int64_t)sizeof(struct port_rule);
}

static void measure(const struct rule_found *f, struct rules_event *ret)
{
	const char *byte = (const char *)f->diff;
	int first = 0, last = 2 * PORT_CANARY - 1;

	while (first < last && !byte[first])
		first++;
	while (last > first && !byte[last])
		last--;
	ret->offset = place(first);
	ret->bytes = place(last) - place(first) + 1;
}

static int on_found(void *user, void *data, size_t len)
{
	struct rules *r = user;
	const struct rule_found *f = data;
	struct rules_event e = { .client = f->client };
	const struct seat *s = &r->seat[SLOT_OF(f->client)];

	if (s->state != SEAT_USED || s->client != f->client)
		return 0;
	e.entry = s->entry;
	e.uid = s->uid;
	e.gid = s->gid;
	e.pid = s->pid;
	memcpy(e.comm, f->comm, sizeof(e.comm) - 1);
	if (!*e.comm)
		name_of(s->pidfd, e.comm);
	measure(f, &e);
	e.done = carry_out(r, s);
	if (r->options.on_event)
		r->options.on_event(&e, r->options.user);
	return 0;
}

int rules_dispatch(struct rules *r)
{
	return ring_buffer__consume(r->events);
}

void rules_free(struct rules *r)
{
	if (!r)
		return;
	for (uint32_t n = 0; n < RULES_CLIENTS_MAX; n++)
		if (r->seat[n].state == SEAT_USED)
			rules_leave(r, r->seat[n].client);
	for (size_t i = 0; i < RULES_MAX; i++)
		if (r->rule[i].sock) {
			close(r->rule[i].link_fd);
			rule_sock_bpf__destroy(r->rule[i].sock);
		}
	ring_buffer__free(r->events);
	rule_bpf__destroy(r->bpf);
	free(r);
}
