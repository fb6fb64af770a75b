/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * merger_internal.h - inside of the merger: shared by merger.c (the loop, who has what open), merger_job.c (one call, in a thread),
 * merger_self.c (of who merges his own memory) and merger_consent.c (may he?).
 */
#ifndef KSHARED_DAEMON_MERGER_INTERNAL_H
#define KSHARED_DAEMON_MERGER_INTERNAL_H

#include <daemon/closer.h>
#include <daemon/kept.h>
#include <daemon/merger.h>
#include <daemon/shares.h>
#include <engine/aside/aside.h>
#include <engine/merge/partition.h>
#include <systemd/sd-event.h>
#include <uthash.h>
#include <wire/ksm.h>

/* As in kshared/ksm.h */
#define MERGER_DRY_RUN (1u << 0)
#define MERGER_FORCE (1u << 1)
#define MERGER_GUEST_RAM (1u << 2)
#define MERGER_FLAGS (MERGER_DRY_RUN | MERGER_FORCE | MERGER_GUEST_RAM)

struct merger;

/** struct member - a process that was merged, until it ends. */
struct member_watch {
	struct room *room;
	pid_t pid;
	uint64_t birth;
	int pidfd;
	sd_event_source *source;
	struct member_watch *prev, *next;
};

/**
 * struct room - a partition.
 * @id: its directory's number
 * @ended: its name is gone
 * @told: a new worker has named it
 * @state: as it was after the last job
 * @live: pages that were read by the present one
 */
struct room {
	struct merger *merger;
	uint64_t id;
	char name[KSM_NAME_MAX];
	struct partition *part;
	bool ended;
	bool told;
	unsigned int nr_clients;
	unsigned int nr_jobs;
	struct member_watch *members;
	unsigned int nr_members;
	struct ksm_state state;
	uint64_t live;
	UT_hash_handle hh;
};

/** struct client - somebody who has a partition open. @kept: the number by which the keeper has his socket; @access: 4 look, 2 merge */
struct client {
	struct room *room;
	sd_event_source *source;
	int fd;
	uid_t uid;
	uint32_t access;
	uint64_t kept;
	unsigned int nr_jobs;
	struct client *prev, *next;
};

/** struct merger - the merger. @device: /dev/userfaultfd, or -1 */
struct merger {
	const struct config *config;
	sd_event *event;
	sd_event_source *idle;
	int device;
	bool privileged;
	struct aside *aside;
	struct aside *closers;
	struct closer closer;
	struct shm_closing *counts;
	struct room *rooms;
	struct client *clients;
	struct shares shares;
	uint64_t last_kept;
};

/** struct caller - who asks. @pidfd: owned by the job; -1: nobody, it is our own doing */
struct caller {
	uid_t uid;
	gid_t gid;
	int pidfd;
};

/**
 * struct job - one call.
 * @client: who is to be read from again afterwards; NULL: none
 * @target: a pidfd, owned; -1: the caller's own memory
 * @reply: where the answer goes, owned
 * @talk: where it goes instead, if there has been a conversation; else -1
 * @pid, @birth: of the process that was merged, if @answer says that something was; or is to be forgotten (@forget)
 */
struct job {
	struct aside_job job;
	struct merger *merger;
	struct room *room;
	struct client *client;
	struct caller caller;
	int target;
	int reply;
	int talk;
	uint32_t op;
	uint32_t flags;
	uint64_t addr;
	uint64_t size;
	bool forget;
	pid_t pid;
	uint64_t birth;
	struct ksm_answer answer;
	struct ksm_state state;
	struct job *prev, *next; /* merger_job.c's */
};

/** job_work() - in a thread: carry it out, fill @answer and @state. The answer is sent when all who ask know the state. */
void job_work(struct aside_job *j);

/** job_canceled() - has who asked given up? */
bool job_canceled(const struct job *job);

/** job_get_state() - how a partition stands. */
void job_get_state(struct room *room, struct ksm_state *ret);

/** struct files - of a process; each is of the memory that it had when it was opened. */
struct files {
	int mem;
	int pagemap;
	int maps;
};

/**
 * consent_open() - open a process's files with the caller's rights: if he may trace it he can, else not.
 * In the calling thread, which has the merger's rights again afterwards.
 * Return: 0; -EPERM; -ESRCH; -errno.
 */
int consent_open(const struct merger *m, const struct caller *caller, pid_t pid, int pidfd,
		 struct files *ret);

/** files_close() - close them. */
void files_close(struct files *files);

/** pidfd_pid() - whose number is it? Return: it; -ESRCH it has ended, or is none of ours; -EBADF no pidfd. */
pid_t pidfd_pid(int pidfd);

/** pidfd_alive() - has it not ended? */
bool pidfd_alive(int pidfd);

/**
 * struct ranges - what a process says that it has made for merging (KSM_LIST_NAME): in rising order, whole pages, none of them within another.
 */
struct ranges {
	struct ksm_range *range;
	size_t nr;
};

/** ranges_read() - @ret->range to be freed. Return: 0, also if there is no list; -errno. */
int ranges_read(const struct files *files, struct ranges *ret);

/**
 * struct self - a process that merges its own memory, as a target.
 */
struct self {
	struct job *job;
	struct files files;
	struct ranges ranges;
	struct merge_target target;
};

/** self_open() - begin a conversation, whose socket is the job's. Return: 0; -errno. The files and ranges stay the caller's. */
int self_open(struct self *self, struct job *job, const struct files *files,
	      const struct ranges *ranges);

#endif
