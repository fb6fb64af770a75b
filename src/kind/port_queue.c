// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * port_queue.c - who has been sent to a server and not been taken by it yet, and how many of those there may be.
 *
 * A message to a server carries descriptors, and while it lies in the socket they are "in flight": the kernel charges them to who sent them, which is the daemon's
 * user whoever asked, and refuses all that user's processes more of them when they exceed RLIMIT_NOFILE. A service that never reads, or one that is asked again and
 * again, would so bring the whole folder to a halt. So there is a limit for each socket, for one user's part of it, for all sockets of one owner, and for all.
 *
 * What was sent counts until it has been taken, also when who asked has gone, and when the entry has: then its socket is kept, shut down, until it is
 * empty. How much lies in a socket the kernel tells by bytes; all messages are equally long. They are taken in order, so the last ones sent are those that are there.
 *
 * All of it in the loop. A worker that takes another's place knows nothing of entries that had gone before.
 */
#include <errno.h>
#include <fcntl.h>
#include <kind/port_internal.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

/* What one process may have of descriptors gives all limits, up to these. */
#define SENT_MAX 64u /* to one service, and */
#define PUBLISHER_MAX 128u /* to the publisher, a quarter of either by one user */
#define OWNER_MAX 64u /* to all services of one user */
#define MESSAGE_BYTES 1280 /* if the kernel does not say */

/*
 * @entry: 0: its entry is gone, or another has its place
 * @fd: another descriptor of the socket; the publisher's: borrowed
 * @nr: not taken, when last looked at, with
 * @under_way: those that are to be sent by a thread
 * @readings: threads that read it as text: few at a time send, so they count only when they have
 * @sent: by whom, of the last ones; @at: how many there have been
 */
struct port_queue {
	uint64_t entry;
	uid_t owner;
	int fd;
	unsigned int nr;
	unsigned int under_way;
	unsigned int readings;
	unsigned int at;
	uid_t sent[PUBLISHER_MAX];
	struct port_queue *prev, *next;
};

static struct port_queue publisher = { .fd = -1 };
static struct port_queue *services;
static unsigned int nr_services;

/* What one message counts for in a socket. */
static unsigned int message_bytes(void)
{
	static unsigned int bytes;
	struct port_open open = { 0 };
	int pair[2], queued = 0;

	if (bytes)
		return bytes;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0) {
		if (send(pair[0], &open, sizeof(open), MSG_DONTWAIT) == (ssize_t)sizeof(open))
			(void)!ioctl(pair[0], SIOCOUTQ, &queued);
		close(pair[0]);
		close(pair[1]);
	}
	bytes = queued > 0 ? (unsigned int)queued : MESSAGE_BYTES;
	return bytes;
}

static void look(struct port_queue *q)
{
	int queued = 0;

	if (q->fd < 0 || ioctl(q->fd, SIOCOUTQ, &queued) < 0 || queued < 0)
		queued = 0;
	q->nr = ((unsigned int)queued + message_bytes() - 1) / message_bytes() + q->under_way;
}

static void forget(struct tree *t, struct port_queue *q)
{
	DL_DELETE(services, q);
	nr_services--;
	t->close_fd(t, q->owner, q->fd);
	free(q);
}

/* Look at all again. */
static void look_round(struct tree *t)
{
	struct port_queue *q, *tmp;

	DL_FOREACH_SAFE(services, q, tmp) {
		look(q);
		if (q->nr == 0 && q->readings == 0)
			forget(t, q);
	}
}

static unsigned int least(unsigned int a, unsigned int b)
{
	return a < b ? a : b;
}

static unsigned int descriptors_max(void)
{
	static unsigned int max;
	struct rlimit l = { .rlim_cur = 256 };

	if (!max) {
		getrlimit(RLIMIT_NOFILE, &l);
		max = l.rlim_cur > 65536 ? 65536 : (unsigned int)l.rlim_cur;
	}
	return max;
}

static bool is_ours(const struct tree *t, uid_t uid)
{
	return uid == 0 || uid == t->uid;
}

/* Is one more too much for the owner, or for all? What was known of the sockets may be more than is there now. */
static bool is_full(struct tree *t, uid_t owner)
{
	unsigned int all = 0, owned = 0;
	struct port_queue *q;

	DL_FOREACH(services, q) {
		all += q->nr;
		owned += q->owner == owner ? q->nr : 0;
	}
	if (is_ours(t, owner))
		return all >= descriptors_max() / 16;
	return all >= descriptors_max() / 64 * 3 ||
		owned >= least(OWNER_MAX, descriptors_max() / 128 + 4);
}

static struct port_queue *find(uint64_t entry)
{
	struct port_queue *q;

	DL_SEARCH_SCALAR(services, q, entry, entry);
	return q;
}

static struct port_queue *queue_of(struct entry *e)
{
	struct port_queue *q = find(e->id);
	unsigned int max;
	int fd;

	if (q)
		return q;
	max = descriptors_max() / 64 + (is_ours(e->tree, e->uid) ? 12 : 4);
	if (nr_services >= max)
		look_round(e->tree);
	if (nr_services >= max)
		return NULL;
	fd = entry_fd(e);
	fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
	q = fd < 0 ? NULL : calloc(1, sizeof(*q));
	if (!q) {
		if (fd >= 0)
			e->tree->close_fd(e->tree, e->uid, fd);
		return NULL;
	}
	q->entry = e->id;
	q->owner = e->uid;
	q->fd = fd;
	DL_APPEND(services, q);
	nr_services++;
	if (nr_services == 1 && e->tree->port_again)
		e->tree->port_again(e->tree);
	return q;
}

/* How many of those that wait are @uid's? */
static unsigned int part_of(const struct port_queue *q, uid_t uid)
{
	unsigned int nr = least(q->nr, PUBLISHER_MAX), part = 0;

	for (unsigned int i = 1; i <= nr && i <= q->at; i++)
		part += q->sent[(q->at - i) % PUBLISHER_MAX] == uid;
	return part;
}

void port_queue_sweep(struct tree *t)
{
	look_round(t);
	if (services && t->port_again)
		t->port_again(t);
}

int port_reserve(struct entry *e, uid_t uid, bool reading)
{
	const struct port_priv *p = e->priv;
	bool service = p->what == PORT_WHAT_SERVICE;
	struct tree *t = e->tree;
	struct port_queue *q;
	unsigned int max;

	publisher.fd = t->publisher;
	q = service ? queue_of(e) : &publisher;
	if (!q)
		return -EAGAIN;
	look(q);
	/* Some room is left for who runs the folder. */
	max = service ? least(SENT_MAX, descriptors_max() / 32)
		      : least(PUBLISHER_MAX, descriptors_max() / 16);
	if (q->nr >= max - (is_ours(t, uid) ? 0 : max / 4) ||
	    (part_of(q, uid) >= max / 4 && !is_ours(t, uid)))
		return -EAGAIN;
	if (service && is_full(t, e->uid)) {
		/* It stays, whatever is found of it. */
		q->readings++;
		look_round(t);
		q->readings--;
		if (is_full(t, e->uid))
			return -EAGAIN;
	}
	q->sent[q->at++ % PUBLISHER_MAX] = uid;
	if (reading) {
		q->readings++;
	} else {
		q->under_way++;
		q->nr++;
	}
	return 0;
}

void port_sent(struct tree *t, uint64_t service, bool reading)
{
	struct port_queue *q = service ? find(service) : &publisher;

	if (!q)
		return;
	if (reading)
		q->readings -= q->readings > 0;
	else
		q->under_way -= q->under_way > 0;
	if (service) {
		look(q);
		if (q->nr == 0 && q->readings == 0)
			forget(t, q);
	}
}

void port_queue_ended(struct entry *e)
{
	struct port_queue *q = find(e->id);

	if (!q)
		return;
	q->entry = 0;
	q->under_way = q->readings = 0;
	/* Its server sees the end as if nobody held it any more, after what is still in it. */
	shutdown(q->fd, SHUT_RDWR);
	look(q);
	if (q->nr == 0)
		forget(e->tree, q);
}
