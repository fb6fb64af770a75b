// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * later.c - see later.h. A caller who gives up is answered at once; a call that has begun goes on, and its result is taken in when it
 * comes.
 */
#include <errno.h>
#include <kind/later.h>
#include <stdlib.h>
#include <utlist.h>

static void work(struct aside_job *j)
{
	struct later *l = (struct later *)j;

	l->work(l);
}

static void begin(struct later *l)
{
	struct tree *t = l->e->tree;

	aside_start(t->aside, &l->job, l->rq ? l->rq->cred->uid : l->e->uid);
}

/* It is over, or was never begun. */
static void end(struct later *l)
{
	struct entry *e = l->e;
	bool first = e->laters == l;
	struct request *rq;

	DL_DELETE(e->laters, l);
	if (first && e->laters)
		begin(e->laters);
	if (l->finish)
		l->finish(l);
	rq = l->rq;
	if (rq)
		request_done(rq, l->result);
	entry_unpin(e);
	free(l->data);
	free(l);
}

static void done(struct aside_job *j)
{
	end((struct later *)j);
}

static void cancel(struct request *rq)
{
	struct later *l = rq->pending;
	struct entry *e = l->e;

	l->rq = NULL;
	if (!l->must && (l != e->laters || aside_cancel(e->tree->aside, &l->job))) {
		l->result = -EINTR;
		end(l);
	}
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
		DL_APPEND(e->laters, l);
		if (e->laters == l)
			begin(l);
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
