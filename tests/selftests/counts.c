// SPDX-License-Identifier: GPL-2.0
/* Counts memory, threads and control groups of the kernel. counts.h describes the interface. */
#include <ctype.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "counts.h"

static const char * const page_names[NR_PAGES] = {
	"free", "lru", "slab_reclaimable", "slab_unreclaimable", "page_tables", "vmalloc",
	"other", "isolated",
};

static struct counts counts[MAX_COUNTS];
int counts_nr;

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
		/* A process without arguments is a kernel thread. */
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

/* Frees the memory that the kernel caches for later use. */
static void empty_caches(void)
{
	int i;

	sync();
	for (i = 0; i < 4; i++) {
		ferry_write("/proc/sys/vm/drop_caches", "3");
		ferry_write("/proc/sys/vm/compact_memory", "1");
		shrink_slabs();
		/* Time for RCU and kworkers to free the memory that they still hold. */
		ferry_sleep_ms(300);
	}
}

struct counts *counts_take(const int *nodes)
{
	struct counts *c = &counts[counts_nr++];

	empty_caches();
	count_threads(c);
	c->dying = after("/sys/fs/cgroup/cgroup.stat", "nr_dying_descendants ");
	count_slabs(c);
	c->percpu_kib = after("/proc/meminfo", "Percpu:");
	count_zones(c, nodes);
	return c;
}

static int by_size(const void *a, const void *b)
{
	long x = *(const long *)a, y = *(const long *)b;

	return (x > y) - (x < y);
}

long counts_middle(long (*get)(const struct counts *c, int arg), int arg, int from, int to)
{
	long v[MAX_COUNTS];
	int i;

	for (i = from; i < to; i++)
		v[i - from] = get(&counts[i], arg);
	qsort(v, to - from, sizeof(*v), by_size);
	return v[(to - from) / 2];
}

long counts_growth(long (*get)(const struct counts *c, int arg), int arg)
{
	int third = (counts_nr - 1) / 3;

	if (!third)
		third = 1;
	return counts_middle(get, arg, counts_nr - third, counts_nr) -
	       counts_middle(get, arg, 1, 1 + third);
}

long counts_get_used(const struct counts *c, int arg)
{
	return c->managed[0] + c->managed[1] - c->pages[0][FREE] - c->pages[1][FREE];
}

long counts_get_managed(const struct counts *c, int node)
{
	return c->managed[node];
}

long counts_get_other(const struct counts *c, int node)
{
	return c->pages[node][OTHER];
}

long counts_get_pages(const struct counts *c, int what)
{
	return c->pages[0][what] + c->pages[1][what];
}

long counts_get_threads(const struct counts *c, int arg)
{
	return c->threads;
}

long counts_get_workers(const struct counts *c, int arg)
{
	return c->workers;
}

long counts_get_dying(const struct counts *c, int arg)
{
	return c->dying;
}

long counts_get_percpu(const struct counts *c, int arg)
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

void counts_say_caches(void)
{
	struct counts *last = &counts[counts_nr - 1];
	long by;
	int i;

	for (i = 0; i < last->caches; i++) {
		by = last->cache[i].bytes - cache_bytes(&counts[1], last->cache[i].name);
		if (by >= (long)FERRY_PAGE)
			ferry_note("  %s: %ld bytes more in use", last->cache[i].name, by);
	}
}

void counts_say(const struct counts *c, int n)
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

int counts_kmemleak(void)
{
	static char text[1 << 16];
	char *line, *next = NULL;
	int i, n = 0;

	/* Two scans: an object of the first one may only have been on its way to a list. */
	for (i = 0; i < 2; i++) {
		if (ferry_write(KMEMLEAK, "scan"))
			return -1;
		/* kmemleak does not report objects that are younger than five seconds. */
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
