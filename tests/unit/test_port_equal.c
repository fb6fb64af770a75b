// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_port_equal.c - every field of every page is what its source says, 10,000 times, under load.
 *
 * A round: the sources are read; each page is waited for that was sampled after that; the sources are read again. What the rules
 * (below) say of a field must hold then. The sources are the sampler's files in /proc and the cgroup's, and for
 * what these have not: /proc/stat's sums, the process's clock, and taskstats. Pages that only the sampler serves are checked
 * the same way, by a second sampler.
 *
 * That no page was torn is seen by what is in it twice. The same checker must find torn pages as soon as they are written
 * without the seqlock.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <engine/bpf/publisher.h>
#include <engine/sample/sampler.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <linux/taskstats.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 10000
#define PERIOD_NS 100000
#define WORDS 2048
#define TICK_NS 10000000ULL
#define AVG_STEP 21 /* a hundredth, in 11 bits of fraction */
#define WINDOW_NS \
	1000000000ULL /* longer than this, what changes every two seconds may have changed twice */
#define NEAR_PERCENT 70

enum { TASK = NR_PORT_PAGES, CGROUP, NR_PAGES };

enum how {
	GROWS, /* before <= value <= after + slack, in every round */
	STEPS, /* changes seldom: one of the two, less than @slack above it, in every round */
	GAUGE, /* goes up and down: within the last four readings of the source in most rounds (NEAR_PERCENT) */
	OTHER, /* of another source: check_others() */
};

struct rule {
	int page;
	const char *prefix; /* of the field's name; the first rule that fits counts */
	enum how how;
	uint64_t slack;
};

static const struct rule rules[] = {
	{ PORT_LOAD, "", STEPS, 1 },
	{ PORT_CPU, "sample_ns", OTHER, 0 },
	{ PORT_CPU, "nr_", OTHER, 0 },
	{ PORT_CPU, "iowait", GAUGE, TICK_NS - 1 },
	{ PORT_CPU, "", GROWS, TICK_NS - 1 },
	{ PORT_MEMORY, "total", STEPS, 1 },
	{ PORT_MEMORY, "", GAUGE, 0 },
	{ PORT_SWAP, "total", STEPS, 1 },
	{ PORT_SWAP, "", GAUGE, 0 },
	{ PORT_VMSTAT, "", GAUGE, 0 }, /* and GROWS from the first event on: rule_of() */
	{ PORT_PSI, "cpu.full_", STEPS, 1 },
	{ PORT_NET, "name", STEPS, 1 },
	{ PORT_NET, "", GROWS, 0 },
	{ PORT_CLOCK, "", GROWS, 0 },
	{ TASK, "alive", STEPS, 1 },
	{ TASK, "state", GAUGE, 0 },
	{ TASK, "comm", STEPS, 1 },
	{ TASK, "pid", STEPS, 1 },
	{ TASK, "threads", STEPS, 1 },
	{ TASK, "start", STEPS, TICK_NS },
	{ TASK, "min_flt", GROWS, 0 },
	{ TASK, "maj_flt", GROWS, 0 },
	{ TASK, "rss", GAUGE, 0 },
	{ TASK, "io_", GROWS, 0 },
	{ TASK, "", OTHER, 0 },
	{ CGROUP, "cpu_", GROWS, 999 },
	{ CGROUP, "memory_peak", GROWS, 0 },
	{ CGROUP, "memory_max", STEPS, 1 },
	{ CGROUP, "memory_", GAUGE, 0 },
	{ CGROUP, "pids_current", GAUGE, 0 },
	{ CGROUP, "nr_dying", GAUGE, 0 },
	{ CGROUP, "", STEPS, 1 },
};

/* What is read beside the sampler's files. */
struct others {
	uint64_t ctxt, procs_running, runtime, utime, stime, nvcsw, nivcsw;
};

struct subject {
	const struct port_head *head, *source;
	uint64_t source_runs[4][WORDS];
	uint64_t value[WORDS];
	unsigned int near[PORT_VMSTAT_MAX];
};

static struct subject subjects[NR_PAGES];
static struct others others[4];
static int netlink_fd = -1;
static uint16_t taskstats_family;
static uint64_t worst_window_ns;
static pid_t load[2];
static char group[1100]; /* a cgroup's directory */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static struct publisher *publisher(bool no_seqlock)
{
	struct publisher_options o = { .period_ns = PERIOD_NS, .no_seqlock = no_seqlock };
	struct publisher *p = NULL;
	int r = publisher_new(&p, &o);

	if (r == -EPERM || r == -ENOTSUP)
		skip();
	assert_int_equal(r, 0);
	return p;
}

static const struct port_head *map_page(int fd, uint64_t size)
{
	void *m = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);

	assert_ptr_not_equal(m, MAP_FAILED);
	assert_int_equal(port_check(m, size), 0);
	assert_true(((struct port_head *)m)->data_size <= WORDS * 8);
	return m;
}

/* Load: it sleeps between its turns, so that there is some of everything, and time for the rest. */

static void turn(int sock, const char *path)
{
	char block[8192];
	size_t len = 1 << 20;
	char *m = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd;
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	memset(block, 7, sizeof(block));
	if (m != MAP_FAILED) {
		memset(m, 1, len);
		munmap(m, len);
	}
	fd = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
	for (int i = 0; i < 4 && fd >= 0; i++)
		if (write(fd, block, sizeof(block)) < 0)
			break;
	close(fd);
	for (int i = 0; i < 20; i++)
		if (write(sock, block, 512) < 0 ||
		    recv(sock, block, sizeof(block), MSG_DONTWAIT) < 0)
			break;
	waitpid(pid, NULL, 0);
}

static void *work(void *path)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	/* Connected with itself. */
	if (bind(sock, (struct sockaddr *)&a, sizeof(a)) ||
	    getsockname(sock, (struct sockaddr *)&a, &len) ||
	    connect(sock, (struct sockaddr *)&a, sizeof(a)))
		return NULL;
	for (;;) {
		turn(sock, path);
		usleep(2000);
	}
}

static pid_t start_load(int nr)
{
	char paths[2][64];
	pthread_t thread;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int i = 0; i < 2; i++)
		snprintf(paths[i], sizeof(paths[i]), "/tmp/port-equal-%d-%d", nr, i);
	pthread_create(&thread, NULL, work, paths[0]);
	work(paths[1]);
	_exit(1);
}

static void end_load(pid_t pid, int nr)
{
	char path[64];

	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "/tmp/port-equal-%d-%d", nr, i);
		unlink(path);
	}
}

/* taskstats */

struct message {
	struct nlmsghdr n;
	struct genlmsghdr g;
	char data[2048];
};

/* One request with one attribute. Return: the answer's attributes and their length. */
static struct nlattr *ask(uint16_t family, uint8_t cmd, uint16_t attr, const void *data,
			  uint16_t len, struct message *m, int *ret_len)
{
	struct nlattr *a = (struct nlattr *)m->data;

	memset(m, 0, sizeof(*m));
	m->n.nlmsg_type = family;
	m->n.nlmsg_flags = NLM_F_REQUEST;
	m->g.cmd = cmd;
	m->g.version = 1;
	a->nla_type = attr;
	a->nla_len = NLA_HDRLEN + len;
	memcpy((char *)a + NLA_HDRLEN, data, len);
	m->n.nlmsg_len = NLMSG_LENGTH(GENL_HDRLEN) + NLA_ALIGN(a->nla_len);
	assert_int_equal(send(netlink_fd, m, m->n.nlmsg_len, 0), m->n.nlmsg_len);
	assert_true(recv(netlink_fd, m, sizeof(*m), 0) > (ssize_t)sizeof(m->n));
	assert_int_not_equal(m->n.nlmsg_type, NLMSG_ERROR);
	*ret_len = m->n.nlmsg_len - NLMSG_LENGTH(GENL_HDRLEN);
	return a;
}

static void *attribute(struct nlattr *a, int len, uint16_t type)
{
	while (len >= NLA_HDRLEN && a->nla_len >= NLA_HDRLEN) {
		if ((a->nla_type & NLA_TYPE_MASK) == type)
			return (char *)a + NLA_HDRLEN;
		len -= NLA_ALIGN(a->nla_len);
		a = (struct nlattr *)((char *)a + NLA_ALIGN(a->nla_len));
	}
	fail_msg("no attribute %u", type);
	return NULL;
}

static void open_taskstats(void)
{
	struct message m;
	struct nlattr *a;
	int len;

	netlink_fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
	assert_true(netlink_fd >= 0);
	a = ask(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, TASKSTATS_GENL_NAME,
		sizeof(TASKSTATS_GENL_NAME), &m, &len);
	taskstats_family = *(uint16_t *)attribute(a, len, CTRL_ATTR_FAMILY_ID);
}

static void read_others(uint32_t pid, struct others *o)
{
	struct message m;
	struct nlattr *a;
	struct taskstats s;
	struct timespec t;
	static char text[65536];
	clockid_t clock;
	ssize_t n;
	int len, fd = open("/proc/stat", O_RDONLY | O_CLOEXEC);

	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	assert_true(n > 0);
	text[n] = '\0';
	assert_int_equal(sscanf(strstr(text, "\nctxt "), "\nctxt %lu", &o->ctxt), 1);
	assert_int_equal(
		sscanf(strstr(text, "\nprocs_running "), "\nprocs_running %lu", &o->procs_running),
		1);
	assert_int_equal(clock_getcpuclockid(pid, &clock), 0);
	assert_int_equal(clock_gettime(clock, &t), 0);
	o->runtime = t.tv_sec * 1000000000ULL + t.tv_nsec;
	a = ask(taskstats_family, TASKSTATS_CMD_GET, TASKSTATS_CMD_ATTR_TGID, &pid, sizeof(pid), &m,
		&len);
	a = attribute(a, len, TASKSTATS_TYPE_AGGR_TGID);
	/* It is not aligned there. */
	memcpy(&s,
	       attribute(a, ((struct nlattr *)((char *)a - NLA_HDRLEN))->nla_len - NLA_HDRLEN,
			 TASKSTATS_TYPE_STATS),
	       sizeof(s));
	o->utime = s.ac_utime * 1000;
	o->stime = s.ac_stime * 1000;
	o->nvcsw = s.nvcsw;
	o->nivcsw = s.nivcsw;
}

/* Comparing */

static struct rule rule_of(int page, const struct port_field *f, bool is_event)
{
	if (page == PORT_VMSTAT && is_event)
		return (struct rule){ .how = GROWS };
	if (page == PORT_PSI || (page == CGROUP && strncmp(f->name, "pressure.", 9) == 0)) {
		if (f->type == PORT_FIXED)
			return (struct rule){ .how = STEPS, .slack = AVG_STEP };
		if (page == CGROUP || strcmp(f->name, "cpu.full_total") != 0)
			return (struct rule){ .how = GROWS, .slack = 999 };
	}
	for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
		if (rules[i].page == page &&
		    strncmp(f->name, rules[i].prefix, strlen(rules[i].prefix)) == 0)
			return rules[i];
	fail_msg("no rule for %s", f->name);
	return rules[0];
}

static uint64_t word(const uint64_t *data, const struct port_head *h, const struct port_field *f,
		     uint32_t i)
{
	return data[(f->offset - h->data_off + (uint64_t)i * f->stride) / 8];
}

/* Return: is a gauge near its source? */
static bool check_value(const struct subject *s, const struct port_field *f,
			const struct port_field *g, uint32_t i, struct rule rule, bool is_short)
{
	uint64_t a = word(s->source_runs[1], s->source, g, i), v = word(s->value, s->head, f, i);
	uint64_t b = word(s->source_runs[0], s->source, g, i), least = a, most = a;

	switch (rule.how) {
	case GROWS:
		if (v < a || v > b + rule.slack)
			fail_msg("%s %s[%u]: %lu <= %lu <= %lu", s->head->name, f->name, i, a, v,
				 b);
		return true;
	case STEPS:
		if (is_short && v - a >= rule.slack && v - b >= rule.slack)
			fail_msg("%s %s[%u]: %lu is neither %lu nor %lu", s->head->name, f->name, i,
				 v, a, b);
		return true;
	case GAUGE:
		for (int run = 0; run < 4; run++) {
			uint64_t w = word(s->source_runs[run], s->source, g, i);

			least = w < least ? w : least;
			most = w > most ? w : most;
		}
		return v >= least && v <= most + rule.slack;
	default:
		return true;
	}
}

static void check_page(int page, bool is_short)
{
	struct subject *s = &subjects[page];
	bool is_event = false;

	for (uint32_t n = 0; n < s->head->nr_fields; n++) {
		const struct port_field *f = port_field_at(s->head, n);
		const struct port_field *g = port_find(s->source, f->name);
		struct rule rule;
		bool near = true;

		is_event = is_event || strcmp(f->name, "pgpgin") == 0;
		rule = rule_of(page, f, is_event);
		if (rule.how != OTHER && !g)
			fail_msg("%s %s has no source", s->head->name, f->name);
		for (uint32_t i = 0; i < f->count && rule.how != OTHER; i++)
			near = check_value(s, f, g, i, rule, is_short) && near;
		s->near[n] += near;
	}
}

static void grows(const char *what, uint64_t a, uint64_t v, uint64_t b)
{
	if (v < a || v > b)
		fail_msg("%s: %lu <= %lu <= %lu", what, a, v, b);
}

/* Return: is the number of tasks that run near its source? */
static bool check_others(const struct others *a, const struct others *b)
{
	const struct subject *cpu = &subjects[PORT_CPU], *task = &subjects[TASK];
	const struct port_task *t = (const struct port_task *)task->value;
	const struct port_cpu *c = (const struct port_cpu *)cpu->value;
	uint32_t nr = port_find(cpu->head, "user")->count;
	uint64_t switches = 0, running = 0, least = UINT64_MAX, most = 0;

	for (uint32_t i = 0; i < nr; i++) {
		switches += c[i].nr_switches;
		running += c[i].nr_running;
	}
	grows("nr_switches", a->ctxt, switches, b->ctxt);
	grows("runtime", a->runtime, t->runtime, b->runtime);
	/* Of each of the threads in whole microseconds. */
	grows("utime", a->utime, t->utime, b->utime + 999 * t->threads);
	grows("stime", a->stime, t->stime, b->stime + 999 * t->threads);
	grows("nvcsw", a->nvcsw, t->nvcsw, b->nvcsw);
	grows("nivcsw", a->nivcsw, t->nivcsw, b->nivcsw);
	assert_int_equal(t->counted, t->threads);
	for (int run = 0; run < 4; run++) {
		uint64_t w = others[run].procs_running;

		least = w < least ? w : least;
		most = w > most ? w : most;
	}
	return running >= least && running <= most;
}

/* What is in a page twice: once more in its head, or as a sum. */
static bool is_torn(int page, const uint64_t *value, const struct port_head *h, uint64_t sampled)
{
	const struct port_cpu *c = (const struct port_cpu *)value;
	const struct port_task *t = (const struct port_task *)value;
	bool torn = false;

	if (page == PORT_CLOCK)
		return ((const struct port_clock *)value)->monotonic != sampled;
	if (page == TASK)
		return t->rss != t->rss_file + t->rss_anon + t->rss_shmem;
	for (uint32_t i = 0; page == PORT_CPU && i < h->data_size / sizeof(*c); i++)
		torn = torn || (c[i].sample_ns && c[i].sample_ns != sampled);
	return torn;
}

static uint64_t check_torn(const struct port_head *const *pages, const int *which, int nr,
			   uint64_t for_ns, bool until_found)
{
	uint64_t end = now_ns() + for_ns, torn = 0, good = 0, sampled;
	static uint64_t value[WORDS];

	while (now_ns() < end && !(until_found && torn))
		for (int i = 0; i < 1000; i++) {
			const struct port_head *h = pages[i % nr];

			if (port_snapshot(h, h->data_off, value, h->data_size, &sampled))
				continue;
			good++;
			torn += is_torn(which[i % nr], value, h, sampled);
		}
	assert_true(good > 1000 || (until_found && torn));
	return torn;
}

static void read_sources(struct sampler *source, uint32_t pid)
{
	assert_int_equal(sampler_sample(source), 0);
	for (int page = 0; page < NR_PAGES; page++) {
		struct subject *s = &subjects[page];

		if (!s->head)
			continue;
		memmove(s->source_runs[1], s->source_runs[0], 3 * sizeof(s->source_runs[0]));
		assert_int_equal(port_snapshot(s->source, s->source->data_off, s->source_runs[0],
					       s->source->data_size, NULL),
				 0);
	}
	memmove(others + 1, others, 3 * sizeof(others[0]));
	read_others(pid, &others[0]);
}

/* Every page as it was sampled after @since. */
static void read_pages(struct sampler *only, uint64_t since)
{
	uint64_t end = now_ns() + 10000000000ULL, sampled;

	assert_int_equal(sampler_sample(only), 0);
	for (int page = 0; page < NR_PAGES; page++) {
		struct subject *s = &subjects[page];

		while (s->head &&
		       (port_snapshot(s->head, s->head->data_off, s->value, s->head->data_size,
				      &sampled) ||
			sampled <= since))
			assert_true(now_ns() < end);
		if (s->head && is_torn(page, s->value, s->head, sampled) &&
		    s->head->source == PORT_SOURCE_BPF)
			fail_msg("%s is torn", s->head->name);
	}
}

static int make_cgroup(char *ret, size_t size, pid_t pid)
{
	char line[4096], where[1024], type[64], path[1200], number[32];
	FILE *f = fopen("/proc/self/mounts", "re");
	bool found = false;
	int fd;

	while (f && !found && fgets(line, sizeof(line), f))
		found = sscanf(line, "%*s %1023s %63s", where, type) == 2 &&
			strcmp(type, "cgroup2") == 0;
	if (f)
		fclose(f);
	if (!found)
		return -1;
	snprintf(ret, size, "%s/kshared-equal-%d", where, getpid());
	assert_int_equal(mkdir(ret, 0755), 0);
	snprintf(path, sizeof(path), "%s/cgroup.procs", ret);
	snprintf(number, sizeof(number), "%d", pid);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(write(fd, number, strlen(number)), strlen(number));
	close(fd);
	return open(ret, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

static void test_every_field_is_its_source(void **state)
{
	struct publisher *p = publisher(false);
	struct sampler *source, *only;
	uint32_t from_sampler = 0;
	uint64_t size, started = now_ns(), read_at, running_near = 0;
	int pidfd, dirfd, slot, fd;

	for (int i = 0; i < 2; i++)
		load[i] = start_load(i);
	/* Rounds are short only if we go on before the load does. */
	setpriority(PRIO_PROCESS, 0, -19);
	pidfd = syscall(SYS_pidfd_open, load[0], 0);
	dirfd = make_cgroup(group, sizeof(group), load[0]);
	open_taskstats();
	/* Its second thread must be there first. */
	usleep(20000);
	assert_int_equal(sampler_new(&source, &(struct sampler_options){ 0 }), 0);
	for (int i = 0; i < NR_PORT_PAGES; i++) {
		struct subject *s = &subjects[i];

		if (sampler_fd(source, i) < 0)
			continue;
		s->source = map_page(sampler_fd(source, i), sampler_size(source, i));
		if (publisher_fd(p, i) >= 0)
			s->head = map_page(publisher_fd(p, i), publisher_size(p, i));
		else
			from_sampler |= 1U << i;
	}
	assert_int_equal(sampler_new(&only, &(struct sampler_options){ .pages = from_sampler }), 0);
	for (int i = 0; i < NR_PORT_PAGES; i++)
		if (from_sampler & 1U << i)
			subjects[i].head = map_page(sampler_fd(only, i), sampler_size(only, i));
	assert_int_equal(publisher_add_task(p, pidfd, &slot, &fd, &size), 0);
	subjects[TASK].head = map_page(fd, size);
	assert_int_equal(sampler_add_task(source, pidfd, &slot, &fd, &size), 0);
	subjects[TASK].source = map_page(fd, size);
	if (dirfd >= 0) {
		assert_int_equal(publisher_add_cgroup(p, dirfd, &slot, &fd, &size), 0);
		subjects[CGROUP].head = map_page(fd, size);
		assert_int_equal(sampler_add_cgroup(source, dirfd, &slot, &fd, &size), 0);
		subjects[CGROUP].source = map_page(fd, size);
	}
	for (int i = 0; i < 4; i++)
		read_sources(source, load[0]);
	read_at = now_ns();
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t before = read_at, window;

		read_pages(only, now_ns());
		read_sources(source, load[0]);
		read_at = now_ns();
		window = read_at - before;
		worst_window_ns = window > worst_window_ns ? window : worst_window_ns;
		for (int page = 0; page < NR_PAGES; page++)
			if (subjects[page].head)
				check_page(page, window < WINDOW_NS);
		running_near += check_others(&others[1], &others[0]);
	}
	for (int page = 0; page < NR_PAGES; page++)
		for (uint32_t n = 0; subjects[page].head && n < subjects[page].head->nr_fields; n++)
			if (subjects[page].near[n] < ROUNDS / 100 * NEAR_PERCENT)
				print_error("%s %s: in %u of %u rounds only\n",
					    subjects[page].head->name,
					    port_field_at(subjects[page].head, n)->name,
					    subjects[page].near[n], ROUNDS);
	print_message("# %d rounds in %.1f s, the longest took %.1f ms; nr_running near in %lu\n",
		      ROUNDS, (now_ns() - started) / 1e9, worst_window_ns / 1e6, running_near);
	for (int page = 0; page < NR_PAGES; page++)
		for (uint32_t n = 0; subjects[page].head && n < subjects[page].head->nr_fields; n++)
			assert_true(subjects[page].near[n] >= ROUNDS / 100 * NEAR_PERCENT);
	assert_true(running_near >= ROUNDS / 100 * NEAR_PERCENT);
	close(pidfd);
	close(dirfd);
	sampler_free(only);
	sampler_free(source);
	publisher_free(p);
}

/* Also after a failure. */
static int end_all(void **state)
{
	for (int i = 0; i < 2; i++)
		if (load[i] > 0)
			end_load(load[i], i);
	while (*group && rmdir(group) && errno == EBUSY)
		usleep(1000);
	close(netlink_fd);
	return 0;
}

static uint64_t torn(bool no_seqlock, uint64_t for_ns)
{
	static const int which[] = { PORT_CLOCK, PORT_CPU };
	struct publisher *p = publisher(no_seqlock);
	const struct port_head *pages[2];
	uint64_t n;

	for (int i = 0; i < 2; i++)
		pages[i] = map_page(publisher_fd(p, which[i]), publisher_size(p, which[i]));
	n = check_torn(pages, which, 2, for_ns, no_seqlock);
	publisher_free(p);
	return n;
}

static void test_torn_pages_are_found(void **state)
{
	assert_int_equal(torn(false, 1000000000), 0);
	assert_true(torn(true, 20000000000ULL) > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_every_field_is_its_source, end_all),
		cmocka_unit_test(test_torn_pages_are_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
