/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The helpers that all selftests of Ferry share.
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
 * Environment: FERRY_MIGRATOR is the migrator to test; if it is unset, no migrator is
 * selected. Values of knobs may follow it: cpu+copy_routine=nontemporal. FERRY_SHORT=1 asks
 * for fewer iterations.
 *
 * Functions that return int return 0 or a negative errno, and functions that return long
 * return a value >= 0 or a negative errno, unless their comment says otherwise.
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

/* The harness's 30 seconds are not enough for a debug kernel under TCG. */
#ifdef __KSELFTEST_HARNESS_H
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT 600
#endif

/*
 * Before main(), the library mounts debugfs and tracefs if they are missing, selects
 * FERRY_MIGRATOR, and sets inject/all_workers. The program ends if one of these fails. Each
 * file that was set by ferry_set() and its relatives gets its former value back when the
 * program ends, even if a test was killed by its timeout.
 */

/* Returns true if ferry.ko is loaded. */
bool ferry_loaded(void);
/* Returns the name of the migrator under test: "stock" if ferry.ko is not loaded. */
const char *ferry_migrator(void);
/*
 * Returns true if a migrator other than "off" is under test, so that its counters have to
 * grow.
 */
bool ferry_active(void);
/* Returns true if FERRY_SHORT is set. */
bool ferry_short(void);
/* Returns the number of iterations: @full, or @brief if FERRY_SHORT is set. */
int ferry_iters(int full, int brief);

/* ---- files of proc, sysfs, debugfs ---- */

/* Reads a file of one value into @buf, without the newline. Returns its length in bytes. */
long ferry_read(const char *path, char *buf, size_t len);
/* Reads a number. Returns LONG_MIN if the file has none. */
long ferry_read_long(const char *path);
/* Reads the whole of a file. Returns a string that the caller frees, or NULL on failure. */
char *ferry_read_all(const char *path);
/* Writes to a file without saving its former value. */
__printf(2, 3) int ferry_write(const char *path, const char *fmt, ...);
/*
 * Writes to a file and saves its former value for ferry_restore(). The former value of a
 * choice such as "always [madvise] never" is the word in brackets.
 */
__printf(2, 3) int ferry_set(const char *path, const char *fmt, ...);
/* Does ferry_set() on FERRY_SYSCTL @name. */
__printf(2, 3) int ferry_set_knob(const char *name, const char *fmt, ...);
/* Does ferry_set() on FERRY_DEBUGFS inject/ @name. */
int ferry_inject(const char *name, unsigned long value);
/* Undoes each ferry_set() since the last call, the newest first. The migrator stays selected. */
void ferry_restore(void);

/*
 * Stops all parts of the kernel that move, split or collapse folios on their own: khugepaged
 * (by "never"; the sizes that ferry_mthp_only() allows stay allowed), proactive compaction,
 * NUMA balancing, KSM. ferry_restore() undoes it.
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

/* Reads FERRY_DEBUGFS stats. @s is empty if ferry.ko is not loaded. */
int ferry_stats_get(struct ferry_stats *s);
/* Returns the value of @name, or -1 if there is none. */
long ferry_stats_value(const struct ferry_stats *s, const char *name);
/* Reads the counters and returns @name, or -1 if there is none. */
long ferry_stat(const char *name);
/* Returns the growth of @name between two readings, or -1 if there is none. */
long ferry_stats_delta(const struct ferry_stats *before,
		       const struct ferry_stats *after, const char *name);
/*
 * Returns true if the migrator copied between two readings: bytes_early or bytes_in_place
 * grew, or pages_by_workers. Without ferry.ko it returns true. With the migrator "off" it
 * returns true only if neither of the first two grew.
 */
bool ferry_stats_used(const struct ferry_stats *before,
		      const struct ferry_stats *after);

/* A worker as the state file shows it, with the number of chunks that it has copied. */
struct ferry_worker {
	int cpu;
	int node;
	int llc;
	char doing[16];
	long chunks;
};

/* Reads the workers, in the order in which they are called. Returns their number. */
int ferry_workers(struct ferry_worker *w, int max);
/* Lists the ids of Ferry's kernel threads. Returns their number. */
int ferry_threads(pid_t *pids, int max);
/* Returns true if all workers are asleep. For ferry_wait(). */
bool ferry_workers_asleep(void *unused);

/* Returns a counter of /proc/vmstat, or -1 if there is none. */
long ferry_vmstat(const char *name);
/* Returns a counter of /sys/devices/system/node/nodeN/vmstat, or -1 if there is none. */
long ferry_node_vmstat(int node, const char *name);
/* Returns the free memory of a node in bytes. */
long ferry_node_free(int node);
/*
 * Returns the amount of free memory, in bytes, below which the kernel gives none of a node to
 * user space: the sum of the "min" watermarks of its zones. It is several times larger while
 * huge pages are enabled. Returns -1 if it cannot be read.
 */
long ferry_node_min(int node);
/* Returns HardwareCorrupted of /proc/meminfo in KiB, or -1 if there is none. */
long ferry_corrupted_kib(void);
/* Returns the number of memory tiers that the kernel knows. */
int ferry_memory_tiers(void);

/* ---- nodes, CPUs ---- */

/* Reads the numbers in a file such as "0-1,4". Returns how many there are. */
int ferry_list(const char *path, int *out, int max);
/* Finds the nodes with memory, in ascending order. Returns their number. */
int ferry_mem_nodes(int nodes[FERRY_MAX_NODES]);
/* Finds the nodes with memory and CPUs, in ascending order. Returns their number. */
int ferry_cpu_nodes(int nodes[FERRY_MAX_NODES]);
/* Returns the first CPU of a node, or -1 if it has none. */
int ferry_node_cpu(int node);
/* Pins the calling thread to a CPU, or allows it all CPUs if @cpu is -1. */
int ferry_pin_cpu(int cpu);

/* ---- content ---- */

/*
 * Fills memory with a pattern in which each byte depends on its position, @seed and @gen.
 * @off is the position of @p in the whole pattern. @off and @len are multiples of 8.
 */
void ferry_fill_at(void *p, size_t len, u64 seed, u64 gen, size_t off);
/*
 * Compares memory with the pattern, and prints the first differences. Returns the number of
 * wrong bytes.
 */
size_t ferry_verify_at(const void *p, size_t len, u64 seed, u64 gen,
		       size_t off);
/* Returns the 8-byte word of the pattern at @off. */
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

/* Fills a file that is not mapped with the pattern, by pwrite(). */
int ferry_fill_fd(int fd, size_t len, u64 seed, u64 gen);
/*
 * Compares a file with the pattern, by pread(). Returns the number of wrong bytes or a
 * negative errno.
 */
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

/* Make the raw system calls. Return the result of the kernel, or -errno on failure. */
long ferry_move_pages(pid_t pid, unsigned long n, void **pages,
		      const int *nodes, int *status, int flags);
long ferry_migrate_pages(pid_t pid, int from, int to);
/* Make the system calls for one node, or for no node if @node < 0. */
int ferry_mbind(void *p, size_t len, int mode, int node, unsigned int flags);
int ferry_set_mempolicy(int mode, int node);

/*
 * Moves one page in each @step bytes of a range of this process to @node, in one call of
 * move_pages(). Then asks for the status of each of them in a second call. Returns the number
 * of pages that are not on @node, or a negative errno if the call failed. @status may be
 * NULL; otherwise it has room for len / step values and gets the status values of the first
 * call.
 */
long ferry_move_range(void *p, size_t len, size_t step, int node, int *status);
/* Returns the number of pages (one in each @step bytes) on @node. Absent pages are on no node. */
long ferry_count_on(void *p, size_t len, size_t step, int node);
/* Returns the node of one page, or the negative errno of move_pages()'s status. */
int ferry_node_of(void *p);

/* ---- mappings ---- */

/* Reserves @len bytes at a multiple of @align and maps private anonymous memory there. */
void *ferry_map_anon(size_t len, size_t align);
/* Maps a file in the same way. @flags: MAP_SHARED or MAP_PRIVATE. */
void *ferry_map_file(int fd, size_t len, size_t align, int prot, int flags);
/* Populates a mapping for writing with memory from @node only. */
int ferry_populate(void *p, size_t len, int node);

/* Lists the mTHP sizes that sysfs offers, in KiB, ascending. Returns their number. */
int ferry_mthp_sizes(unsigned int *kib, int max);
/* Allows anonymous folios of @kib only (0: only 4K). ferry_restore() undoes it. */
int ferry_mthp_only(unsigned int kib);
/* Does the same for shmem's internal mount and memfd. tmpfs mounts have huge= instead. */
int ferry_shmem_only(unsigned int kib);

/* ---- a mix of memory ---- */

enum {
	FERRY_MIX_2M,
	FERRY_MIX_SHARED_2M,
	FERRY_MIX_64K,
	FERRY_MIX_4K,
	FERRY_MIX_SHARED_4K,
};

/* Mapped memory of several kinds, for tests that move whole processes or memory blocks. */
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
 * Maps @len bytes (a multiple of 2 MiB) of each kind on @node (-1: on any node): anonymous
 * and shared anonymous memory, in folios of the sizes above. Leaves only 4K allowed in the
 * THP switches. Fails if a kind does not consist of folios of its size.
 */
int ferry_mix_map(struct ferry_mix *m, size_t len, int node);
void ferry_mix_fill(struct ferry_mix *m, u64 gen);
/* Returns the number of wrong bytes. */
size_t ferry_mix_verify(const struct ferry_mix *m, u64 gen);
/* Return the number of pages on @node, and the number of all pages. */
long ferry_mix_count_on(const struct ferry_mix *m, int node);
long ferry_mix_pages(const struct ferry_mix *m);
void ferry_mix_unmap(struct ferry_mix *m);

/* ---- files on a disk ---- */

#define FERRY_DISK	"/dev/vda"

/* Runs a program without its output. Returns its exit status. */
int ferry_run(const char *prog, ...) __attribute__((sentinel));
/* Makes an ext4 on @dev and mounts it at @where. Returns -ENODEV if there is no such disk. */
int ferry_ext4(const char *dev, const char *where);
/* Writes a file back and removes it from the page cache. The file must not be mapped. */
int ferry_evict(int fd);

/* ---- page frames and folios ---- */

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

/* Returns the pagemap entry of an address, or 0 if there is none. */
u64 ferry_pagemap(const void *p);
/* Returns the page frame number of an address, or 0 if the page is not present. */
u64 ferry_pfn(const void *p);
/* Reads the page frame numbers of a range. They are 0 where no page is present. */
int ferry_pfns(const void *p, size_t len, u64 *pfns);
/* Returns the kpageflags of a page frame. */
u64 ferry_kpageflags(u64 pfn);
/* Returns the size in bytes of the folio at an address, or 0 if no page is present. */
size_t ferry_folio_bytes(const void *p);
/* Returns the number of bytes of a range that are in folios of exactly @bytes. */
size_t ferry_in_folios_of(const void *p, size_t len, size_t bytes);

/* ---- memory blocks ---- */

#define FERRY_BLOCKS	"/sys/devices/system/memory/"

/* Returns the number of page frames in a memory block, or 0 without memory hotplug. */
u64 ferry_block_pages(void);
/* Sets the state of a memory block: "offline", "online_movable" ... */
int ferry_block_set(u64 block, const char *state);
/*
 * Returns true if a block is in ZONE_MOVABLE and has no page that was reserved before the
 * zone was made.
 */
bool ferry_block_movable(u64 block);

/* ---- control groups (version 2) ---- */

/*
 * Makes group @name, enables the controllers (words like "+memory +cpuset") in its parent,
 * and writes the group's path to @path. ferry_cgroup_remove() removes the group.
 */
int ferry_cgroup_create(const char *name, const char *controllers,
			char path[256]);
/* Moves a process (0: the caller) into a group, or into the root if @path is NULL. */
int ferry_cgroup_enter(const char *path, pid_t pid);
/* Kills the processes that are left in a group and removes the group. */
int ferry_cgroup_remove(const char *path);

/* ---- tracing ---- */

/* Turns one event (such as "migrate/mm_migrate_pages") on or off. ferry_restore() undoes it. */
int ferry_trace_event(const char *event, bool on);
int ferry_trace_clear(void);
/* Returns the text of the trace buffer, which the caller frees, or NULL on failure. */
char *ferry_trace_read(void);

/* ---- time ---- */

u64 ferry_now_ns(void);
void ferry_sleep_ms(unsigned int ms);
/* Calls @done every 10 ms until it returns true or @ms have passed. Returns its last result. */
bool ferry_wait(bool (*done)(void *arg), void *arg, unsigned int ms);

/* Prints a KTAP comment line. */
__printf(1, 2) void ferry_note(const char *fmt, ...);

#endif /* FERRY_UTIL_H */
