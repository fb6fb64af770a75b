// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * later.c - see later.h. A caller who gives up is answered at once; the call goes on, and its result is taken in when it comes.
 */
#include <errno.h>
#include <kind/later.h>
#include <stdlib.h>

static void work(struct aside_job *j)
{
	struct later *l = (struct later *)j;

	l->work(l);
}

static void done(struct aside_job *j)
{
	struct later *l = (struct later *)j;
	struct request *rq;

	if (l->finish)
		l->finish(l);
	rq = l->rq;
	if (rq)
		request_done(rq, l->result);
	entry_unpin(l->e);
	free(l->data);
	free(l);
}

static void cancel(struct request *rq)
{
	struct later *l = rq->pending;

	l->rq = NULL;
	request_done(rq, -EINTR);
}

int later_start(struct entry *e, struct request *rq, const struct later *what)
{
	struct later *l = malloc(sizeof(*l));
	int r = l ? entry_pin(e) : -ENOMEM;

	if (r < 0) {
		free(l);
		free(what->data);
		return r;
	}
	*l = *what;
	l->job = (struct aside_job){ .work = work, .done = done };
	l->e = e;
	l->rq = rq;
	l->fd = r;
	l->result = 0;
	if (e->tree->aside) {
		if (rq) {
			rq->pending = l;
			rq->cancel = cancel;
		}
		aside_start(e->tree->aside, &l->job, e->uid);
		return KIND_LATER;
	}
	l->work(l);
	if (l->finish)
		l->finish(l);
	r = l->result;
	entry_unpin(e);
	free(l->data);
	free(l);
	return r;
}
