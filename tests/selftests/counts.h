/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Memory, threads and control groups that an idle kernel has in use, counted in each cycle of
 * soak, so that growth shows.
 */
#ifndef FERRY_COUNTS_H
#define FERRY_COUNTS_H

#include "ferry_util.h"

/* The number of counts that are kept, which limits the number of cycles of one run of soak. */
#define MAX_COUNTS	64

/*
 * Growth up to these bounds is noise. The unit is pages, except for TOLERANCE_PERCPU_KIB.
 * Noise does not depend on how long the work takes, so a steady leak exceeds the bounds in
 * time. Measured on the plain kernel, which leaks nothing, in three runs of soak of 10 cycles
 * of 20 s, 6 of 26 s and 4 of 30 s, on a host with up to six times as much to do as it has
 * CPUs: between two cycles after the warm-up, pages in use differed by up to 78, pages that
 * no counter covers by up to 42 on a node, pages of slabs by up to 47, and per-CPU memory did
 * not differ. The kernel keeps these pages on each CPU for later use: bios of block devices,
 * objects of inodes and open files, page tables and stacks.
 */
#define TOLERANCE_USED		256
#define TOLERANCE_OTHER		64
#define TOLERANCE_SLAB		128
#define TOLERANCE_PERCPU_KIB	16

enum {
	FREE,		/* on free lists, including the lists of CPUs */
	LRU,		/* on the LRU lists: pages of processes and of files */
	SLAB_RECLAIM,
	SLAB,
	TABLES,
	VMALLOC,
	OTHER,		/* allocated pages that no other counter covers */
	ISOLATED,
	NR_PAGES,
};

struct counts {
	long pages[2][NR_PAGES];
	long managed[2];
	long threads;		/* kernel threads without kworkers */
	long workers;		/* of Ferry */
	long dying;		/* control groups */
	long percpu_kib;
	int caches;
	struct {
		char name[40];
		long bytes;	/* in allocated objects */
	} cache[400];
};

/* The number of counts that counts_take() has made. Count 0 is from before the warm-up. */
extern int counts_nr;

/* Empties the kernel's caches, counts, and returns the new count. */
struct counts *counts_take(const int *nodes);

/* Returns the median of @get over the counts from @from to @to - 1. */
long counts_middle(long (*get)(const struct counts *c, int arg), int arg, int from, int to);

/*
 * Returns the difference between the median of the last third of the cycles and the median of
 * the first third, without the warm-up. Medians keep one odd count from deciding.
 */
long counts_growth(long (*get)(const struct counts *c, int arg), int arg);

/* Return one value of a count, for counts_growth() and counts_middle(). */
long counts_get_used(const struct counts *c, int arg);
long counts_get_managed(const struct counts *c, int node);
long counts_get_other(const struct counts *c, int node);
long counts_get_pages(const struct counts *c, int what);
long counts_get_threads(const struct counts *c, int arg);
long counts_get_workers(const struct counts *c, int arg);
long counts_get_dying(const struct counts *c, int arg);
long counts_get_percpu(const struct counts *c, int arg);

/* Prints the slab caches that have grown by at least a page since the warm-up. */
void counts_say_caches(void);

/* Prints the counts after cycle @n. */
void counts_say(const struct counts *c, int n);

#define KMEMLEAK	"/sys/kernel/debug/kmemleak"

/*
 * Returns the number of leaked objects that kmemleak finds, or -1 if the kernel has no
 * kmemleak or it is off. Seen to find one object with a module that leaks 300 bytes when it
 * is loaded.
 */
int counts_kmemleak(void);

#endif /* FERRY_COUNTS_H */
