/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What Ferry's selftests share.
 *
 * A test includes kselftest_harness.h first, then this file:
 *
 *	#include "kselftest_harness.h"
 *	#include "ferry_util.h"
 *
 *	FIXTURE(anon) { ... };
 *	FIXTURE_SETUP(anon) { ... }
 *	FIXTURE_TEARDOWN(anon) { ferry_restore(); }
 *	TEST_F(anon, ...) { ... }
 *
 *	TEST_HARNESS_MAIN
 *
 * Environment: FERRY_MIGRATOR is the migrator to test; unset means that
 * nothing is selected. Values of knobs may follow it: cpu+copy_routine=nontemporal.
 * FERRY_SHORT=1 asks for fewer iterations.
 *
 * Functions that return int give 0 or a negative errno unless they say
 * otherwise; those that return long give a value >= 0 or a negative errno.
 */
#ifndef FERRY_UTIL_H
#define FERRY_UTIL_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "kselftest.h"

typedef __u64 u64;

#define FERRY_PAGE	4096UL
#define FERRY_PMD	(2UL << 20)
#define FERRY_MAX_NODES	64

#define FERRY_SYSCTL	"/proc/sys/vm/ferry/"
#define FERRY_DEBUGFS	"/sys/kernel/debug/ferry/"
#define FERRY_THP	"/sys/kernel/mm/transparent_hugepage/"

/* A debug kernel under TCG is slow: the harness's 30 seconds are not enough. */
#ifdef __KSELFTEST_HARNESS_H
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT 600
#endif

/*
 * Before main(), what is missing of debugfs and tracefs is mounted, FERRY_MIGRATOR
 * selected, and inject/all_workers set; the program ends there if it cannot. Everything
 * set through ferry_set() and its friends goes back to what it was when the program
 * ends, also if a test was killed by its timeout.
 */

/* ferry.ko is loaded. */
bool ferry_loaded(void);
/* Name of the migrator under test: "stock" if ferry.ko is not loaded. */
const char *ferry_migrator(void);
/* A migrator other than "off" is under test: its counters have to grow. */
bool ferry_active(void);
/* FERRY_SHORT is set. */
bool ferry_short(void);
/* Number of iterations: @full, or @brief if FERRY_SHORT is set. */
int ferry_iters(int full, int brief);

/* ---- files of proc, sysfs, debugfs ---- */

/* Reads a file of one value into @buf, without the newline. Returns its length. */
long ferry_read(const char *path, char *buf, size_t len);
/* Reads a number; LONG_MIN if there is none. */
long ferry_read_long(const char *path);
/* The whole of a file, to be freed; NULL on failure. */
char *ferry_read_all(const char *path);
/* Writes, without remembering the old value. */
__printf(2, 3) int ferry_write(const char *path, const char *fmt, ...);
/*
 * Writes and remembers the value of before for ferry_restore(). Of a choice such
 * as "always [madvise] never" that is the word in brackets.
 */
__printf(2, 3) int ferry_set(const char *path, const char *fmt, ...);
/* ferry_set() on FERRY_SYSCTL @name. */
__printf(2, 3) int ferry_set_knob(const char *name, const char *fmt, ...);
/* ferry_set() on FERRY_DEBUGFS inject/ @name. */
int ferry_inject(const char *name, unsigned long value);
/* Undoes every ferry_set() since the last call, newest first. Keeps the migrator. */
void ferry_restore(void);

/*
 * Stops what moves, splits or collapses folios on its own: khugepaged (by "never"; the
 * sizes that ferry_mthp_only() allows still hold), proactive compaction, NUMA balancing,
 * KSM. Restored by ferry_restore().
 */
int ferry_quiet(void);

/* ---- statistics ---- */

struct ferry_stats {
	int n;
	struct {
		char name[48];
		long value;
	} e[160];
};

/* Reads FERRY_DEBUGFS stats; empty if ferry.ko is not loaded. */
int ferry_stats_get(struct ferry_stats *s);
/* Value of @name, -1 if there is none. */
long ferry_stats_value(const struct ferry_stats *s, const char *name);
/* One counter, read now; -1 if there is none. */
long ferry_stat(const char *name);
/* Growth of @name between two readings; -1 if there is none. */
long ferry_stats_delta(const struct ferry_stats *before,
		       const struct ferry_stats *after, const char *name);
/*
 * The migrator did copy between two readings: early folios or copy-now calls grew.
 * Always true where no migrator is active; false if one is "off" and copied all the same.
 */
bool ferry_stats_used(const struct ferry_stats *before,
		      const struct ferry_stats *after);

/* A worker as the state file shows it, and chunks that it has copied. */
struct ferry_worker {
	int cpu;
	int node;
	int llc;
	char doing[16];
	long chunks;
};

/* Workers in the order in which they are asked. Returns how many. */
int ferry_workers(struct ferry_worker *w, int max);
/* None of them does anything. For ferry_wait(). */
bool ferry_helpers_asleep(void *unused);

/* Counter of /proc/vmstat; -1 if there is none. */
long ferry_vmstat(const char *name);
/* /sys/devices/system/node/nodeN/vmstat. */
long ferry_node_vmstat(int node, const char *name);
/* Free memory of a node in bytes. */
long ferry_node_free(int node);
/*
 * Free memory in bytes below which the kernel gives none of a node to user space: the sum of
 * its zones' "min" watermarks. It is several times larger while huge pages are enabled.
 * Returns -1 if it cannot be read.
 */
long ferry_node_min(int node);
/* HardwareCorrupted of /proc/meminfo; -1 if there is none. */
long ferry_corrupted_kib(void);
/* How many tiers of memory the kernel knows. */
int ferry_memory_tiers(void);

/* ---- nodes, CPUs ---- */

/* Numbers in a file such as "0-1,4". Returns how many. */
int ferry_list(const char *path, int *out, int max);
/* Nodes with memory, in order. Returns how many. */
int ferry_mem_nodes(int nodes[FERRY_MAX_NODES]);
/* Nodes with memory and CPUs, in order. Returns how many. */
int ferry_cpu_nodes(int nodes[FERRY_MAX_NODES]);
/* First CPU of a node, -1 if it has none. */
int ferry_node_cpu(int node);
/* Puts the calling thread on a CPU (-1: on all). */
int ferry_pin_cpu(int cpu);

/* ---- content ---- */

/*
 * Byte for byte different with the position, @seed and @gen. @off is the position
 * of @p in the whole, a multiple of 8, as is @len.
 */
void ferry_fill_at(void *p, size_t len, u64 seed, u64 gen, size_t off);
/* Number of bytes that are wrong; says where and how the first ones are. */
size_t ferry_verify_at(const void *p, size_t len, u64 seed, u64 gen,
		       size_t off);
/* The word of 8 bytes expected at @off. */
u64 ferry_word(u64 seed, u64 gen, size_t off);

static inline void ferry_fill(void *p, size_t len, u64 seed, u64 gen)
{
	ferry_fill_at(p, len, seed, gen, 0);
}

static inline size_t ferry_verify(const void *p, size_t len, u64 seed,
				  u64 gen)
{
	return ferry_verify_at(p, len, seed, gen, 0);
}

/* Same through pwrite() and pread(), for what is not mapped. */
int ferry_fill_fd(int fd, size_t len, u64 seed, u64 gen);
/* Number of wrong bytes, or a negative errno. */
long ferry_verify_fd(int fd, size_t len, u64 seed, u64 gen);

/* ---- system calls ---- */

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ	22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE	23
#endif

#ifndef MPOL_DEFAULT
#define MPOL_DEFAULT	0
#define MPOL_PREFERRED	1
#define MPOL_BIND	2
#define MPOL_INTERLEAVE	3
#define MPOL_MF_STRICT	1
#define MPOL_MF_MOVE	2
#define MPOL_MF_MOVE_ALL 4
#endif

/* The raw calls: return what the kernel does, -errno for errors. */
long ferry_move_pages(pid_t pid, unsigned long n, void **pages,
		      const int *nodes, int *status, int flags);
long ferry_migrate_pages(pid_t pid, int from, int to);
/* @node < 0: no nodes. */
int ferry_mbind(void *p, size_t len, int mode, int node, unsigned int flags);
int ferry_set_mempolicy(int mode, int node);

/*
 * move_pages() of this process for one page in each @step bytes of a range to @node,
 * in one call. Gives the number of pages whose status is not @node afterwards, asked
 * anew for each of them; a negative errno if the call failed.
 * @status (may be NULL) has room for len / step values and gets the call's own ones.
 */
long ferry_move_range(void *p, size_t len, size_t step, int node, int *status);
/* Number of pages (one in each @step bytes) on @node; absent pages are on none. */
long ferry_count_on(void *p, size_t len, size_t step, int node);
/* Node of one page, or the negative errno of move_pages()'s status. */
int ferry_node_of(void *p);

/* ---- mappings ---- */

/* Reserves @len bytes at a multiple of @align and maps private anonymous memory there. */
void *ferry_map_anon(size_t len, size_t align);
/* Same for a file. @flags: MAP_SHARED or MAP_PRIVATE. */
void *ferry_map_file(int fd, size_t len, size_t align, int prot, int flags);
/* Touches a mapping with memory from @node only (and writes to it). */
int ferry_populate(void *p, size_t len, int node);

/* mTHP sizes that sysfs offers, in KiB, ascending. Returns how many. */
int ferry_mthp_sizes(unsigned int *kib, int max);
/* Allows anonymous folios of this size only (0: none but 4K). Restored by ferry_restore(). */
int ferry_mthp_only(unsigned int kib);
/* Same for shmem's internal mount and memfd; tmpfs mounts have huge=. */
int ferry_shmem_only(unsigned int kib);

/* ---- a mix of memory ---- */

enum {
	FERRY_MIX_2M,
	FERRY_MIX_SHARED_2M,
	FERRY_MIX_64K,
	FERRY_MIX_4K,
	FERRY_MIX_SHARED_4K,
};

/* Mapped memory of several kinds, for tests of what moves whole processes or blocks. */
struct ferry_mix {
	int n;
	struct {
		const char *what;
		char *mem;
		size_t len;
		size_t folio;
	} part[8];
};

/*
 * Maps @len bytes (a multiple of 2 MiB) of each kind on @node (-1: anywhere): anonymous
 * and shared anonymous, of folios of the sizes above. Leaves only 4K allowed in the THP
 * switches. Fails if a kind is not made of folios of its size.
 */
int ferry_mix_map(struct ferry_mix *m, size_t len, int node);
void ferry_mix_fill(struct ferry_mix *m, u64 gen);
/* Number of wrong bytes. */
size_t ferry_mix_verify(const struct ferry_mix *m, u64 gen);
/* Pages of it that are on @node, and pages in all. */
long ferry_mix_count_on(const struct ferry_mix *m, int node);
long ferry_mix_pages(const struct ferry_mix *m);
void ferry_mix_unmap(struct ferry_mix *m);

/* ---- files on a disk ---- */

#define FERRY_DISK	"/dev/vda"

/* Runs a program without its output. Returns its exit status. */
int ferry_run(const char *prog, ...) __attribute__((sentinel));
/* Makes an ext4 on @dev and mounts it at @where; -ENODEV if there is no such disk. */
int ferry_ext4(const char *dev, const char *where);
/* Writes a file back and takes it out of the page cache; nothing may map it. */
int ferry_evict(int fd);

/* ---- what the pages are ---- */

#define FERRY_KPF_DIRTY		4
#define FERRY_KPF_LRU		5
#define FERRY_KPF_SWAPCACHE	13
#define FERRY_KPF_COMPOUND_HEAD	15
#define FERRY_KPF_COMPOUND_TAIL	16
#define FERRY_KPF_HUGE		17
#define FERRY_KPF_HWPOISON	19
#define FERRY_KPF_KSM		21
#define FERRY_KPF_THP		22
#define FERRY_KPF_RESERVED	32

/* pagemap entry of an address; 0 if there is none. */
u64 ferry_pagemap(const void *p);
/* Page frame number, 0 if the page is not present. */
u64 ferry_pfn(const void *p);
/* Page frame numbers of a range, 0 where no page is present. */
int ferry_pfns(const void *p, size_t len, u64 *pfns);
/* kpageflags of a page frame. */
u64 ferry_kpageflags(u64 pfn);
/* Bytes of the folio that an address is in: 4096 for a small one, 0 if not present. */
size_t ferry_folio_bytes(const void *p);
/* Bytes of a range that are in folios of exactly @bytes. */
size_t ferry_in_folios_of(const void *p, size_t len, size_t bytes);

/* ---- memory blocks ---- */

#define FERRY_BLOCKS	"/sys/devices/system/memory/"

/* Page frames in a memory block; 0 if there is no memory hotplug. */
u64 ferry_block_pages(void);
/* "offline", "online_movable" ... */
int ferry_block_set(u64 block, const char *state);
/* In ZONE_MOVABLE, and without anything that was taken from it before the zone was made. */
bool ferry_block_movable(u64 block);

/* ---- control groups (version 2) ---- */

/*
 * Makes group @name with the controllers (words like "+memory +cpuset") on in its
 * parent, and writes its path to @path. It is removed by ferry_cgroup_remove().
 */
int ferry_cgroup_create(const char *name, const char *controllers,
			char path[256]);
/* Moves a process (0: the caller) into it; @path NULL: into the root. */
int ferry_cgroup_enter(const char *path, pid_t pid);
/* Kills what is left in it and removes it. */
int ferry_cgroup_remove(const char *path);

/* ---- tracing ---- */

/* Turns one event (such as "migrate/mm_migrate_pages") on or off; restored. */
int ferry_trace_event(const char *event, bool on);
int ferry_trace_clear(void);
/* Text of the trace buffer, to be freed; NULL on failure. */
char *ferry_trace_read(void);

/* ---- time ---- */

u64 ferry_now_ns(void);
void ferry_sleep_ms(unsigned int ms);
/* Asks @done every 10 ms until it says yes or @ms are over. Returns its last answer. */
bool ferry_wait(bool (*done)(void *arg), void *arg, unsigned int ms);

/* A KTAP comment line. */
__printf(1, 2) void ferry_note(const char *fmt, ...);

#endif /* FERRY_UTIL_H */
