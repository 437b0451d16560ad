/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the kernel has in use when nobody needs anything, counted again and again, to see
 * whether it grows. To be included after ferry_util.h.
 */
#ifndef FERRY_COUNTS_H
#define FERRY_COUNTS_H

#include <ctype.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_COUNTS	64

/*
 * How much more of something is noise, in pages but for one. It does not depend on how
 * long the work takes, so what is leaked all the time gets beyond it. Measured on the
 * plain kernel where nothing is leaked, in three runs of soak of 10 cycles of 20 s, 6 of
 * 26 s and 4 of 30 s, on a host with up to six times as much to do as it has CPUs:
 * between two cycles after the warm-up, pages in use differed by up to 78, those that
 * nobody accounts for by up to 42 on a node, those of slabs by up to 47, per-CPU memory
 * by none. It is what the kernel keeps for the next time, for each CPU: bios of block
 * devices, objects of inodes and open files, page tables and stacks.
 */
#define TOLERANCE_USED		256
#define TOLERANCE_OTHER		64
#define TOLERANCE_SLAB		128
#define TOLERANCE_PERCPU_KIB	16

/* ---- what is counted ---- */

enum {
	FREE,		/* on free lists, those of CPUs included */
	LRU,		/* on the lists of pages that processes or files have */
	SLAB_RECLAIM,
	SLAB,
	TABLES,
	VMALLOC,
	OTHER,		/* the rest: what somebody took from the page allocator */
	ISOLATED,
	NR_PAGES,
};

static const char * const page_names[NR_PAGES] = {
	"free", "lru", "slab_reclaimable", "slab_unreclaimable", "page_tables", "vmalloc",
	"other", "isolated",
};

struct counts {
	long pages[2][NR_PAGES];
	long managed[2];
	long threads;		/* of the kernel, but for workers of workqueues */
	long workers;		/* of Ferry */
	long dying;		/* control groups */
	long percpu_kib;
	int caches;
	struct {
		char name[40];
		long bytes;	/* in objects that are in use */
	} cache[400];
};

/* The counts so far; the first one is after the warm-up. */
static struct counts counts[MAX_COUNTS];
static int nr_counts;

static void count_zones(struct counts *c, const int *nodes)
{
	static const struct {
		const char *key;
		int what;
	} keys[] = {
		{ "nr_free_pages", FREE }, { "count:", FREE },
		{ "nr_inactive_anon", LRU }, { "nr_active_anon", LRU },
		{ "nr_inactive_file", LRU }, { "nr_active_file", LRU },
		{ "nr_unevictable", LRU }, { "nr_slab_reclaimable", SLAB_RECLAIM },
		{ "nr_slab_unreclaimable", SLAB }, { "nr_page_table_pages", TABLES },
		{ "nr_vmalloc", VMALLOC }, { "nr_isolated_anon", ISOLATED },
		{ "nr_isolated_file", ISOLATED },
	};
	char line[256], key[64];
	int node, i, at = -1;
	long value;
	FILE *f;

	ferry_write("/proc/sys/vm/stat_refresh", "1");
	f = fopen("/proc/zoneinfo", "r");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "Node %d, zone", &node) == 1) {
			at = node == nodes[0] ? 0 : node == nodes[1] ? 1 : -1;
			continue;
		}
		if (at < 0 || sscanf(line, "%63s %ld", key, &value) != 2)
			continue;
		if (!strcmp(key, "managed"))
			c->managed[at] += value;
		for (i = 0; i < ARRAY_SIZE(keys); i++)
			if (!strcmp(key, keys[i].key))
				c->pages[at][keys[i].what] += value;
	}
	if (f)
		fclose(f);
	for (at = 0; at < 2; at++) {
		c->pages[at][OTHER] = c->managed[at];
		for (i = 0; i < OTHER; i++)
			c->pages[at][OTHER] -= c->pages[at][i];
	}
}

static void count_slabs(struct counts *c)
{
	unsigned long active, all, size;
	char line[512], name[40];
	FILE *f = fopen("/proc/slabinfo", "r");

	while (f && fgets(line, sizeof(line), f) && c->caches < ARRAY_SIZE(c->cache)) {
		if (sscanf(line, "%39s %lu %lu %lu", name, &active, &all, &size) != 4)
			continue;
		snprintf(c->cache[c->caches].name, sizeof(name), "%s", name);
		c->cache[c->caches++].bytes = active * size;
	}
	if (f)
		fclose(f);
}

static void count_threads(struct counts *c)
{
	char path[300], text[128];
	struct dirent *e;
	DIR *d = opendir("/proc");

	while (d && (e = readdir(d))) {
		if (!isdigit((unsigned char)*e->d_name))
			continue;
		snprintf(path, sizeof(path), "/proc/%s/cmdline", e->d_name);
		/* Only what has no program has no arguments. */
		if (ferry_read(path, text, sizeof(text)))
			continue;
		snprintf(path, sizeof(path), "/proc/%s/comm", e->d_name);
		if (ferry_read(path, text, sizeof(text)) <= 0)
			continue;
		c->workers += !strncmp(text, "ferry/", 6);
		c->threads += strncmp(text, "kworker/", 8) != 0;
	}
	if (d)
		closedir(d);
}

static long after(const char *path, const char *key)
{
	char buf[8192], *p;

	if (ferry_read(path, buf, sizeof(buf)) <= 0)
		return -1;
	p = strstr(buf, key);
	return p ? strtol(p + strlen(key), NULL, 10) : -1;
}

static void shrink_slabs(void)
{
	DIR *d = opendir("/sys/kernel/slab");
	struct dirent *e;
	char path[400];

	while (d && (e = readdir(d))) {
		snprintf(path, sizeof(path), "/sys/kernel/slab/%s/shrink", e->d_name);
		if (*e->d_name != '.')
			ferry_write(path, "1");
	}
	if (d)
		closedir(d);
}

/* Gives back what the kernel keeps because somebody might want it again. */
static void empty_caches(void)
{
	int i;

	sync();
	for (i = 0; i < 4; i++) {
		ferry_write("/proc/sys/vm/drop_caches", "3");
		ferry_write("/proc/sys/vm/compact_memory", "1");
		shrink_slabs();
		/* What RCU and the workers of workqueues still hold. */
		ferry_sleep_ms(300);
	}
}

/* Counts once more. */
static struct counts *count_all(const int *nodes)
{
	struct counts *c = &counts[nr_counts++];

	empty_caches();
	count_threads(c);
	c->dying = after("/sys/fs/cgroup/cgroup.stat", "nr_dying_descendants ");
	count_slabs(c);
	c->percpu_kib = after("/proc/meminfo", "Percpu:");
	count_zones(c, nodes);
	return c;
}

/* ---- what has grown ---- */

static int by_size(const void *a, const void *b)
{
	long x = *(const long *)a, y = *(const long *)b;

	return (x > y) - (x < y);
}

/* The middle value of @get over cycles. */
static long middle(long (*get)(const struct counts *c, int arg), int arg, int from, int to)
{
	long v[MAX_COUNTS];
	int i;

	for (i = from; i < to; i++)
		v[i - from] = get(&counts[i], arg);
	qsort(v, to - from, sizeof(*v), by_size);
	return v[(to - from) / 2];
}

/*
 * How much more there is in the last third of the cycles than in the first one, the
 * warm-up left out. The middle of each, so that one odd count decides nothing.
 */
static long growth(long (*get)(const struct counts *c, int arg), int arg)
{
	int third = (nr_counts - 1) / 3;

	if (!third)
		third = 1;
	return middle(get, arg, nr_counts - third, nr_counts) - middle(get, arg, 1, 1 + third);
}

static long get_used(const struct counts *c, int arg)
{
	return c->managed[0] + c->managed[1] - c->pages[0][FREE] - c->pages[1][FREE];
}

static long get_managed(const struct counts *c, int node)
{
	return c->managed[node];
}

static long get_other(const struct counts *c, int node)
{
	return c->pages[node][OTHER];
}

static long get_pages(const struct counts *c, int what)
{
	return c->pages[0][what] + c->pages[1][what];
}

static long get_threads(const struct counts *c, int arg)
{
	return c->threads;
}

static long get_helpers(const struct counts *c, int arg)
{
	return c->workers;
}

static long get_dying(const struct counts *c, int arg)
{
	return c->dying;
}

static long get_percpu(const struct counts *c, int arg)
{
	return c->percpu_kib;
}

static long cache_bytes(const struct counts *c, const char *name)
{
	int i;

	for (i = 0; i < c->caches; i++)
		if (!strcmp(c->cache[i].name, name))
			return c->cache[i].bytes;
	return 0;
}

/* Which caches it is: those that have grown by a page and more since the warm-up. */
static void say_caches(void)
{
	struct counts *last = &counts[nr_counts - 1];
	long by;
	int i;

	for (i = 0; i < last->caches; i++) {
		by = last->cache[i].bytes - cache_bytes(&counts[1], last->cache[i].name);
		if (by >= (long)FERRY_PAGE)
			ferry_note("  %s: %ld bytes more in use", last->cache[i].name, by);
	}
}

static void say(const struct counts *c, int n)
{
	char line[400];
	size_t at = 0;
	int i;

	for (i = 0; i < NR_PAGES; i++)
		at += snprintf(line + at, sizeof(line) - at, " %s %ld %ld", page_names[i],
			       c->pages[0][i], c->pages[1][i]);
	ferry_note("after cycle %d, pages of each node:%s", n, line);
	ferry_note("  kernel threads %ld, workers %ld, dying groups %ld, percpu %ld KiB",
		   c->threads, c->workers, c->dying, c->percpu_kib);
}

#define KMEMLEAK	"/sys/kernel/debug/kmemleak"

/*
 * What kmemleak finds; -1 if the kernel has none, or it is off. Seen to find one object with
 * a module that forgets 300 bytes as it is loaded.
 */
static int kmemleak(void)
{
	static char text[1 << 16];
	char *line, *next = NULL;
	int i, n = 0;

	/* Twice: what was found once may still be on its way to a list. */
	for (i = 0; i < 2; i++) {
		if (ferry_write(KMEMLEAK, "scan"))
			return -1;
		/* It says nothing of what is younger than five seconds. */
		ferry_sleep_ms(6000);
	}
	if (ferry_read(KMEMLEAK, text, sizeof(text)) < 0)
		return -1;
	for (line = strtok_r(text, "\n", &next); line; line = strtok_r(NULL, "\n", &next)) {
		n += !strncmp(line, "unreferenced object", 19);
		if (n < 4)
			ferry_note("%s", line);
	}
	return n;
}

#endif /* FERRY_COUNTS_H */
