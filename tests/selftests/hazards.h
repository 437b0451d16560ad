/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of the invariants (i*.c) and under fire (fire*.c) share. To be
 * included after ferry_util.h.
 *
 * Invariants and hazards are numbered as in Documentation/invariants.rst. The tests open
 * their windows with the delays of debugfs ferry/inject/, so that they do not depend
 * on who is faster; what could still make one depend on it is said in its head.
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

/* Folio sizes in KiB that most of these tests use: many in a chunk, two chunks, many chunks. */
static const unsigned int race_sizes[] __maybe_unused = { 4, 64, 256, 2048 };

/* Counters of ferry, and how they grew since. */
struct race_count {
	struct ferry_stats before;
	struct ferry_stats after;
};

static __maybe_unused void race_count(struct race_count *c)
{
	ferry_stats_get(&c->before);
}

/* Reads the counters anew; then race_grown() says how they grew since race_count(). */
static __maybe_unused void race_count_end(struct race_count *c)
{
	ferry_stats_get(&c->after);
}

static __maybe_unused long race_grown(const struct race_count *c, const char *name)
{
	return ferry_stats_delta(&c->before, &c->after, name);
}

/*
 * The caller, who will migrate, on the first CPU of a node, so that the other CPUs are
 * idle and their workers ready. Batches of up to 8 MiB, so that there are early copies
 * of 2M folios, too.
 */
static __maybe_unused int race_prepare(int nodes[FERRY_MAX_NODES])
{
	int ret;

	ret = ferry_quiet();
	if (ret)
		return ret;
	ferry_pin_cpu(ferry_node_cpu(nodes[0]));
	if (!ferry_loaded())
		return 0;
	return ferry_set_knob("batch_bytes", "%lu", 8UL << 20);
}

/* New folios of @folio bytes in a private anonymous mapping, on @node. */
static __maybe_unused int race_fresh(char *mem, size_t len, size_t folio, int node)
{
	int ret;

	ret = ferry_mthp_only(folio == FERRY_PAGE ? 0 : folio >> 10);
	if (ret)
		return ret;
	if (madvise(mem, len, MADV_DONTNEED))
		return -errno;
	ret = ferry_populate(mem, len, node);
	if (ret)
		return ret;
	return ferry_in_folios_of(mem, len, folio) == len ? 0 : -ENOMEM;
}

/* The folios are on @node, one in each @step. */
static __maybe_unused bool race_all_on(char *mem, size_t len, int node)
{
	return ferry_count_on(mem, len, FERRY_PAGE, node) ==
	       (long)(len / FERRY_PAGE);
}

/*
 * As ferry_move_range(), but silent about what did not move, where that is expected.
 * Returns what move_pages(2) does: how many folios did not move, as it counts them.
 */
static __maybe_unused long race_move_pages(char *mem, size_t len, size_t step, int node)
{
	size_t n = len / step, i;
	void **pages = malloc(n * sizeof(*pages));
	int *nodes = malloc(n * sizeof(*nodes));
	int *status = malloc(n * sizeof(*status));
	long ret = -ENOMEM;

	if (pages && nodes && status) {
		for (i = 0; i < n; i++) {
			pages[i] = mem + i * step;
			nodes[i] = node;
		}
		ret = ferry_move_pages(0, n, pages, nodes, status, MPOL_MF_MOVE);
	}
	free(pages);
	free(nodes);
	free(status);
	return ret;
}

/* Reads a byte, whatever the compiler thinks of its use. */
static __maybe_unused void race_touch(const char *p)
{
	char c = __atomic_load_n(p, __ATOMIC_SEQ_CST);

	asm volatile("" : : "r" (c) : "memory");
}

/* ---- a node without memory to spare ---- */

struct race_full {
	int node;
	long left;
	char *mem;
	size_t len;
};

static __maybe_unused bool race_has_more(void *arg)
{
	struct race_full *f = arg;

	return ferry_node_free(f->node) > f->left;
}

/*
 * Takes all free memory of f->node but for f->left bytes, as new anonymous folios of
 * @folio bytes. Until race_full_end(), also if it failed.
 */
static __maybe_unused int race_full(struct race_full *f, size_t folio)
{
	size_t done, len;
	int ret;

	/* More than is free now: what has just been freed may come late. */
	ret = ferry_set("/proc/sys/vm/overcommit_memory", "1");
	if (ret)
		return ret;
	len = (size_t)((ferry_node_free(f->node) >> 20) + 512) << 20;
	len &= ~(FERRY_PMD - 1);
	f->len = 0;
	f->mem = ferry_map_anon(len, FERRY_PMD);
	if (f->mem == MAP_FAILED)
		return -errno;
	f->len = len;
	ret = ferry_mthp_only(folio == FERRY_PAGE ? 0 : folio >> 10);
	/* In steps: what the kernel takes meanwhile must not lead to the OOM killer. */
	for (done = 0; !ret && done < len && ferry_wait(race_has_more, f, 200); done += FERRY_PMD)
		ret = ferry_populate(f->mem + done, FERRY_PMD, f->node);
	if (ret)
		return ret;
	if (done < len)
		munmap(f->mem + done, len - done);
	f->len = done;
	return done && done < len ? 0 : -ENOSPC;
}

static __maybe_unused void race_full_end(struct race_full *f)
{
	if (f->len)
		munmap(f->mem, f->len);
	f->len = 0;
}

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

static __maybe_unused void *race_move_fn(void *arg)
{
	struct race_move *m = arg;
	size_t n = m->len / m->step, i;
	void **pages = malloc(n * sizeof(*pages));
	int *nodes = malloc(n * sizeof(*nodes));

	for (i = 0; i < n; i++) {
		pages[i] = m->mem + i * m->step;
		nodes[i] = m->node;
	}
	if (m->cpu >= 0)
		ferry_pin_cpu(m->cpu);
	m->from_ns = ferry_now_ns();
	m->ret = ferry_move_pages(0, n, pages, nodes, m->status, MPOL_MF_MOVE);
	m->to_ns = ferry_now_ns();
	free(pages);
	free(nodes);
	__atomic_store_n(&m->over, true, __ATOMIC_RELEASE);
	return NULL;
}

/* Starts move_pages(2) of one page in each @step bytes, on @cpu, in another thread. */
static __maybe_unused int race_move_start(struct race_move *m, char *mem, size_t len,
					  size_t step, int node, int cpu)
{
	memset(m, 0, sizeof(*m));
	m->mem = mem;
	m->len = len;
	m->step = step;
	m->node = node;
	m->cpu = cpu;
	m->status = calloc(len / step, sizeof(int));
	return m->status ? -pthread_create(&m->thread, NULL, race_move_fn, m) :
			   -ENOMEM;
}

static __maybe_unused bool race_move_over(struct race_move *m)
{
	return __atomic_load_n(&m->over, __ATOMIC_ACQUIRE);
}

/* Waits for its end. Returns what move_pages(2) did. */
static __maybe_unused long race_move_end(struct race_move *m)
{
	pthread_join(m->thread, NULL);
	free(m->status);
	m->status = NULL;
	return m->ret;
}

/* Waits until counter @name is above @seen, at most @ms. */
static __maybe_unused bool race_until(const char *name, long seen, unsigned int ms)
{
	u64 end = ferry_now_ns() + ms * 1000000ULL;

	while (ferry_stat(name) <= seen) {
		if (ferry_now_ns() > end)
			return false;
		sched_yield();
	}
	return true;
}

/*
 * Waits until the batch of a migration is submitted: counter "batches" above @seen. False
 * if it ended without; a batch is declined if no worker has room for it at that moment.
 */
static __maybe_unused bool race_move_submitted(struct race_move *m, long seen)
{
	while (ferry_stat("batches") <= seen) {
		if (race_move_over(m))
			return ferry_stat("batches") > seen;
		sched_yield();
	}
	return true;
}

/* ---- histograms ---- */

struct race_hist {
	long n;
	u64 max;	/* upper bound of the highest bucket with an entry */
	u64 p99;	/* upper bound of the bucket that 99 % are below or in */
};

static __maybe_unused int race_hist(const char *name, struct race_hist *h)
{
	unsigned long long lo, hi, count, seen = 0;
	char path[200];
	FILE *f;

	memset(h, 0, sizeof(*h));
	snprintf(path, sizeof(path), FERRY_DEBUGFS "%s", name);
	f = fopen(path, "r");
	if (!f)
		return -errno;
	while (fscanf(f, "%llu %llu %llu", &lo, &hi, &count) == 3) {
		h->n += count;
		h->max = hi;
	}
	rewind(f);
	while (fscanf(f, "%llu %llu %llu", &lo, &hi, &count) == 3) {
		seen += count;
		h->p99 = hi;
		if (seen * 100 >= h->n * 99ULL)
			break;
	}
	fclose(f);
	return 0;
}

/* Counters and histograms at zero. */
static __maybe_unused void race_reset_stats(void)
{
	ferry_write(FERRY_DEBUGFS "stats", "0");
}

/* ---- trace events ---- */

struct race_event {
	int pid;
	bool in_interrupt;
	u64 ns;		/* since boot, to the microsecond */
	const char *name;
	const char *args;
};

/*
 * The next event of a trace that ferry_trace_read() gave, in the order of time; false
 * at the end. It cuts the text up.
 */
static __maybe_unused bool race_next_event(char **text, struct race_event *e)
{
	char *line, *cpu, *name, *args, flags[16];
	unsigned long long s, us;

	/* "comm-pid   [cpu] flags seconds: name: args" */
	while ((line = strsep(text, "\n"))) {
		cpu = *line == '#' ? NULL : strstr(line, " [");
		name = cpu ? strstr(cpu, ": ") : NULL;
		args = name ? strstr(name + 2, ": ") : NULL;
		if (!args)
			continue;
		*args = '\0';
		*name = '\0';
		if (sscanf(cpu, " [%*d] %15s %llu.%llu", flags, &s, &us) != 3)
			continue;
		e->ns = s * 1000000000 + us * 1000;
		/* The third flag: h, H, s, z or Z. */
		e->in_interrupt = strlen(flags) > 2 && strchr("hHszZ", flags[2]);
		e->name = name + 2;
		e->args = args + 2;
		while (cpu > line && cpu[-1] == ' ')
			cpu--;
		while (cpu > line && isdigit((unsigned char)cpu[-1]))
			cpu--;
		e->pid = atoi(cpu);
		return true;
	}
	return false;
}

/* Number that follows @key in the arguments of an event; -1 if there is none. */
static __maybe_unused long race_event_value(const struct race_event *e, const char *key)
{
	const char *p = strstr(e->args, key);

	return p ? strtol(p + strlen(key), NULL, 0) : -1;
}

/* ---- the kernel's log ---- */

/* A place in the kernel's log: where it ends now. */
static __maybe_unused int race_log_open(void)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0)
		lseek(fd, 0, SEEK_END);
	return fd;
}

/* How many lines since hold @text. Goes to the end; closes it. */
static __maybe_unused int race_log_count(int fd, const char *text)
{
	char line[2048];
	ssize_t n;
	int found = 0;

	for (;;) {
		n = read(fd, line, sizeof(line) - 1);
		if (n < 0 && errno == EPIPE)
			continue;
		if (n <= 0)
			break;
		line[n] = '\0';
		found += !!strstr(line, text);
	}
	close(fd);
	return found;
}

/* ---- the module ---- */

/* Loads a module from a file. */
static __maybe_unused int race_insmod(const char *path, const char *parameters)
{
	int fd, ret;

	if (!path)
		return -ENOENT;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret = syscall(SYS_finit_module, fd, parameters, 0) ? -errno : 0;
	close(fd);
	return ret;
}

static __maybe_unused int race_rmmod(const char *name)
{
	return syscall(SYS_delete_module, name, O_NONBLOCK) ? -errno : 0;
}

/* Loads the module that FERRY_MODULE names; SDXI functions of guests are for it. */
static __maybe_unused int race_load(void)
{
	return race_insmod(getenv("FERRY_MODULE"), "sdxi_bind=1");
}

static __maybe_unused int race_unload(void)
{
	return race_rmmod("ferry");
}

/* ---- parked destinations ---- */

static __maybe_unused long race_parked(void)
{
	return ferry_read_long(FERRY_DEBUGFS "parked");
}

static __maybe_unused bool race_none_parked(void *arg)
{
	return race_parked() == 0;
}

/* ---- the pool of batches ---- */

/* Batches in the pool now, -1 if it cannot be told, and how many there are. */
static __maybe_unused long race_pool(long *all)
{
	char buf[4096], *p;
	long now;

	*all = 0;
	if (ferry_read(FERRY_DEBUGFS "state", buf, sizeof(buf)) <= 0)
		return -1;
	p = strstr(buf, "pool ");
	return p && sscanf(p, "pool %ld/%ld", &now, all) == 2 ? now : -1;
}

/* The pool has all its batches again. */
static __maybe_unused bool race_pool_whole(void *arg)
{
	long all;

	return race_pool(&all) == all;
}

#endif /* FERRY_HAZARDS_H */
