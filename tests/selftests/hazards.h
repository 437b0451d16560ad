/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Counters, background migrations, traces and the state of Ferry, for the tests of the
 * invariants and for stress.
 *
 * Invariants and hazards are numbered as in Documentation/invariants.rst. The tests open
 * their windows with the delays of debugfs ferry/inject/, so that their result does not
 * depend on which thread is faster; the head of a test names each dependence that is left.
 */
#ifndef FERRY_HAZARDS_H
#define FERRY_HAZARDS_H

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ferry_util.h"

/*
 * Folio sizes in KiB that most of these tests use: many folios in a chunk, two chunks in a
 * folio, many chunks in a folio.
 */
extern const unsigned int race_sizes[4];

/* Ferry's counters at the beginning and at the end of a piece of work. */
struct race_count {
	struct ferry_stats before;
	struct ferry_stats after;
};

/* Reads the counters at the beginning. */
void race_count(struct race_count *c);

/* Reads the counters at the end. */
void race_count_end(struct race_count *c);

/* Returns by how much counter @name grew from race_count() to race_count_end(). */
long race_grown(const struct race_count *c, const char *name);

/*
 * Finds the nodes with memory, and pins the caller, which will migrate, to the first CPU of
 * a node, so that the other CPUs are idle and their workers ready. Sets batches of up to
 * 8 MiB, so that 2M folios are copied early, too.
 */
int race_prepare(int nodes[FERRY_MAX_NODES]);

/* Puts new folios of @folio bytes on @node into a private anonymous mapping. */
int race_fresh(char *mem, size_t len, size_t folio, int node);

/*
 * Populates a mapping for writing with folios of @folio bytes on @node. Returns -ENOMEM if it
 * got others.
 */
int race_populate(char *mem, size_t len, size_t folio, int node);

/* Unmaps memory and closes its file, if there are any. Sets @mem to MAP_FAILED and @fd to -1. */
void race_drop(char **mem, size_t len, int *fd);

/*
 * Returns the number of 8-byte words that are not zero in @len bytes of new pages of @node.
 * Returns SIZE_MAX if they cannot be allocated.
 */
size_t race_not_zero(int node, size_t len);

/* Returns true if all pages are on @node. */
bool race_all_on(char *mem, size_t len, int node);

/*
 * Moves a range as ferry_move_range() does, but does not report folios that stay, for tests
 * that expect them. Returns the result of move_pages(2): the number of folios that stayed.
 */
long race_move_pages(char *mem, size_t len, size_t step, int node);

/* Reads a byte, in a way that the compiler cannot leave out. */
void race_touch(const char *p);

/* ---- a node without memory to spare ---- */

struct race_full {
	int node;
	long left;	/* in bytes, above what the kernel reserves for itself */
	char *mem;
	size_t len;
};

/*
 * Takes all free memory of f->node except f->left bytes and what the kernel reserves for
 * itself (ferry_node_min()), as new anonymous folios of @folio bytes. race_full_end() gives
 * it back, and has to be called after a failure, too.
 */
int race_full(struct race_full *f, size_t folio);

/* Gives back the memory that race_full() took. */
void race_full_end(struct race_full *f);

/* ---- a migration in the background ---- */

struct race_move {
	pthread_t thread;
	char *mem;
	size_t len;
	size_t step;
	int node;
	int cpu;
	int *status;
	long ret;
	u64 from_ns;
	u64 to_ns;
	bool over;
};

/* Starts move_pages(2) of one page in each @step bytes, on @cpu, in another thread. */
int race_move_start(struct race_move *m, char *mem, size_t len, size_t step, int node, int cpu);

/* Returns true if move_pages(2) has returned. */
bool race_move_over(struct race_move *m);

/* Waits until the migration has ended. Returns the result of move_pages(2). */
long race_move_end(struct race_move *m);

/* Waits until counter @name is above @seen, for @ms at most. Returns false after that time. */
bool race_until(const char *name, long seen, unsigned int ms);

/*
 * Waits until the batch of a migration is submitted: counter "batches" above @seen. Returns
 * false if the migration ended without a batch; a batch is declined if no worker has room for
 * it at that moment.
 */
bool race_move_submitted(struct race_move *m, long seen);

/* ---- histograms ---- */

struct race_hist {
	long n;
	u64 max;	/* upper bound of the highest bucket with an entry */
	u64 p99;	/* upper bound of the bucket that 99 % are below or in */
};

/* Reads the histogram in debugfs file @name. */
int race_hist(const char *name, struct race_hist *h);

/* Sets counters and histograms to zero. */
void race_reset_stats(void);

/* ---- trace events ---- */

struct race_event {
	int pid;
	bool in_interrupt;
	u64 ns;		/* since boot, to the microsecond */
	const char *name;
	const char *args;
};

/*
 * Parses the next event, in the order of time, of a text that ferry_trace_read() returned, and
 * writes zero bytes into the text. Returns false at the end.
 */
bool race_next_event(char **text, struct race_event *e);

/* Returns the number that follows @key in the arguments of an event, or -1 without @key. */
long race_event_value(const struct race_event *e, const char *key);

/* ---- the kernel's log ---- */

/* Opens the kernel's log at its end. */
int race_log_open(void);

/* Reads the log to its end, and closes it. Returns the number of lines that hold @text. */
int race_log_count(int fd, const char *text);

/* ---- the module ---- */

/* Loads a module from a file. */
int race_insmod(const char *path, const char *parameters);

/* Unloads a module, without waiting for its users. */
int race_rmmod(const char *name);

/* Loads the module that FERRY_MODULE names, and lets it bind to SDXI functions of the guest. */
int race_load(void);

/* Unloads ferry.ko. */
int race_unload(void);

/* ---- parked destinations ---- */

/* Returns the number of parked folios. */
long race_parked(void);

/* Returns true if no folio is parked. */
bool race_none_parked(void *arg);

/* ---- the pool of batches ---- */

/*
 * Returns the number of batch objects in the pool now, or -1 if the state cannot be read. @all
 * gets the number of all batch objects.
 */
long race_pool(long *all);

/* Returns true if all batch objects are in the pool. */
bool race_pool_whole(void *arg);

#endif /* FERRY_HAZARDS_H */
