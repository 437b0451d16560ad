// SPDX-License-Identifier: GPL-2.0
/* The helpers that all selftests of Ferry share. ferry_util.h describes the interface. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ferry_util.h"

#define TRACEFS		"/sys/kernel/tracing"
#define CGROUP_ROOT	"/sys/fs/cgroup"
#define MAX_SAVED	512
#define MOVE_BATCH	4096

struct saved {
	char path[200];
	char value[200];
};

/* Shared with the processes of tests, so that the parent undoes what they set. */
static struct {
	int n;
	int base;
	struct saved e[MAX_SAVED];
} *saves;

static pid_t main_pid;
static char migrator[64] = "stock";

void ferry_note(const char *fmt, ...)
{
	char line[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	printf("# %s\n", line);
	fflush(stdout);
}

/* ---- files of proc, sysfs, debugfs ---- */

static long read_file(const char *path, char *buf, size_t len)
{
	size_t got = 0;
	ssize_t n;
	int fd;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	while (got < len - 1) {
		n = read(fd, buf + got, len - 1 - got);
		if (n < 0) {
			n = -errno;
			close(fd);
			return n;
		}
		if (!n)
			break;
		got += n;
	}
	close(fd);
	buf[got] = '\0';
	return got;
}

char *ferry_read_all(const char *path)
{
	size_t size = 1 << 16, got = 0;
	char *buf = malloc(size), *more;
	ssize_t n;
	int fd;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || !buf) {
		free(buf);
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	while ((n = read(fd, buf + got, size - 1 - got)) > 0) {
		got += n;
		if (got < size - 1)
			continue;
		more = realloc(buf, size * 2);
		if (!more)
			break;
		buf = more;
		size *= 2;
	}
	close(fd);
	buf[got] = '\0';
	return buf;
}

long ferry_read(const char *path, char *buf, size_t len)
{
	long n = read_file(path, buf, len);

	while (n > 0 && isspace((unsigned char)buf[n - 1]))
		buf[--n] = '\0';
	return n;
}

long ferry_read_long(const char *path)
{
	char buf[64], *end;
	long v;

	if (ferry_read(path, buf, sizeof(buf)) <= 0)
		return LONG_MIN;
	v = strtol(buf, &end, 0);
	return end == buf ? LONG_MIN : v;
}

static int write_str(const char *path, const char *value)
{
	size_t len = strlen(value);
	int fd, ret = 0;

	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, value, len) != (ssize_t)len)
		ret = errno ? -errno : -EIO;
	close(fd);
	return ret;
}

int ferry_write(const char *path, const char *fmt, ...)
{
	char value[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(value, sizeof(value), fmt, ap);
	va_end(ap);
	return write_str(path, value);
}

static int save(const char *path)
{
	struct saved *s;
	char *open_b, *close_b;
	char value[200];
	long n;
	int i;

	if (!saves)
		return -EINVAL;
	for (i = saves->base; i < saves->n; i++)
		if (!strcmp(saves->e[i].path, path))
			return 0;
	n = ferry_read(path, value, sizeof(value));
	if (n < 0)
		return n;
	open_b = strchr(value, '[');
	close_b = open_b ? strchr(open_b, ']') : NULL;
	if (close_b) {
		*close_b = '\0';
		memmove(value, open_b + 1, strlen(open_b + 1) + 1);
	}
	i = __atomic_fetch_add(&saves->n, 1, __ATOMIC_SEQ_CST);
	if (i >= MAX_SAVED)
		return -ENOSPC;
	s = &saves->e[i];
	snprintf(s->value, sizeof(s->value), "%s", value);
	snprintf(s->path, sizeof(s->path), "%s", path);
	return 0;
}

static int vset(const char *path, const char *fmt, va_list ap)
{
	char value[256];
	int ret;

	vsnprintf(value, sizeof(value), fmt, ap);
	ret = save(path);
	return ret ? ret : write_str(path, value);
}

int ferry_set(const char *path, const char *fmt, ...)
{
	va_list ap;
	int ret;

	va_start(ap, fmt);
	ret = vset(path, fmt, ap);
	va_end(ap);
	return ret;
}

int ferry_set_knob(const char *name, const char *fmt, ...)
{
	char path[160];
	va_list ap;
	int ret;

	snprintf(path, sizeof(path), FERRY_SYSCTL "%s", name);
	va_start(ap, fmt);
	ret = vset(path, fmt, ap);
	va_end(ap);
	return ret;
}

int ferry_inject(const char *name, unsigned long value)
{
	char path[160];

	snprintf(path, sizeof(path), FERRY_DEBUGFS "inject/%s", name);
	return ferry_set(path, "%lu", value);
}

static void restore_to(int base)
{
	struct saved *s;
	int ret;

	if (!saves)
		return;
	while (saves->n > base) {
		saves->n--;
		if (saves->n >= MAX_SAVED)
			continue;
		s = &saves->e[saves->n];
		ret = write_str(s->path, s->value);
		if (ret && ret != -ENOENT)
			ferry_note("cannot put '%s' back into %s: %s",
				   s->value, s->path, strerror(-ret));
	}
}

void ferry_restore(void)
{
	if (saves)
		restore_to(saves->base);
}

int ferry_quiet(void)
{
	static const struct {
		const char *path;
		const char *value;
	} calm[] = {
		/* khugepaged scans a new mm at once, whatever its intervals are. */
		{ FERRY_THP "enabled", "never" },
		{ FERRY_THP "khugepaged/defrag", "0" },
		{ FERRY_THP "khugepaged/scan_sleep_millisecs", "10000000" },
		{ "/proc/sys/vm/compaction_proactiveness", "0" },
		{ "/proc/sys/kernel/numa_balancing", "0" },
		{ "/sys/kernel/mm/ksm/run", "0" },
	};
	int i, ret;

	for (i = 0; i < ARRAY_SIZE(calm); i++) {
		ret = ferry_set(calm[i].path, "%s", calm[i].value);
		if (ret && ret != -ENOENT)
			return ret;
	}
	return 0;
}

static void restore_all(void)
{
	if (getpid() == main_pid)
		restore_to(0);
}

/* ---- start ---- */

static void mount_missing(const char *type, const char *where)
{
	char *mounts = ferry_read_all("/proc/mounts");
	char want[128];

	snprintf(want, sizeof(want), " %s %s ", where, type);
	if (!mounts || !strstr(mounts, want))
		mount(type, where, type, 0, NULL);
	free(mounts);
}

bool ferry_loaded(void)
{
	return !access(FERRY_SYSCTL "migrator", R_OK);
}

const char *ferry_migrator(void)
{
	return migrator;
}

bool ferry_active(void)
{
	return strcmp(migrator, "stock") && strcmp(migrator, "off");
}

bool ferry_short(void)
{
	const char *s = getenv("FERRY_SHORT");

	return s && *s && strcmp(s, "0");
}

int ferry_iters(int full, int brief)
{
	return ferry_short() ? brief : full;
}

static __printf(1, 2) void bail(const char *fmt, ...)
{
	va_list ap;

	printf("Bail out! ");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	exit(1);
}

/* Sets knobs from "name=value+name=value". */
static void set_knobs(char *text)
{
	char *knob, *value, *next = NULL;
	int ret;

	for (knob = strtok_r(text, "+", &next); knob;
	     knob = strtok_r(NULL, "+", &next)) {
		value = strchr(knob, '=');
		if (!value)
			bail("'%s' in FERRY_MIGRATOR has no value", knob);
		*value++ = '\0';
		ret = ferry_set_knob(knob, "%s", value);
		if (ret)
			bail("cannot set vm.ferry.%s to '%s': %s", knob, value,
			     strerror(-ret));
	}
}

static void __attribute__((constructor)) init(void)
{
	char *want = getenv("FERRY_MIGRATOR"), *with = NULL;
	int ret;

	if (want) {
		want = strdup(want);
		if (!want)
			bail("no memory");
		with = strchr(want, '+');
	}
	if (with)
		*with++ = '\0';

	main_pid = getpid();
	saves = mmap(NULL, sizeof(*saves), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (saves == MAP_FAILED)
		bail("no memory for the saved values");
	atexit(restore_all);
	mount_missing("debugfs", "/sys/kernel/debug");
	mount_missing("tracefs", TRACEFS);

	if (!ferry_loaded()) {
		/* A test that passes without its migrator would prove nothing. */
		if (want && *want && strcmp(want, "off") && strcmp(want, "stock"))
			bail("FERRY_MIGRATOR is '%s', but ferry.ko is not loaded",
			     want);
		return;
	}
	if (want && *want) {
		ret = ferry_set_knob("migrator", "%s", want);
		if (ret)
			bail("cannot select migrator '%s': %s", want,
			     strerror(-ret));
	}
	if (ferry_read(FERRY_SYSCTL "migrator", migrator, sizeof(migrator)) < 0)
		bail("cannot read the migrator");
	if (want && *want && strcmp(migrator, want))
		bail("selected migrator '%s', got '%s'", want, migrator);
	/*
	 * The tests are about copies by others than the mover, not about whether these pay
	 * off on this machine at this moment.
	 */
	if (ferry_active() && ferry_inject("all_workers", 1))
		bail("cannot set inject/all_workers");
	if (with)
		set_knobs(with);
	saves->base = saves->n;
}

/* ---- statistics ---- */

int ferry_stats_get(struct ferry_stats *s)
{
	char *text, *line, *next = NULL;

	s->n = 0;
	text = ferry_read_all(FERRY_DEBUGFS "stats");
	if (!text)
		return ferry_loaded() ? -EIO : 0;
	for (line = strtok_r(text, "\n", &next); line;
	     line = strtok_r(NULL, "\n", &next)) {
		if (s->n == ARRAY_SIZE(s->e))
			break;
		if (sscanf(line, "%47s %ld", s->e[s->n].name,
			   &s->e[s->n].value) == 2)
			s->n++;
	}
	free(text);
	return 0;
}

int ferry_workers(struct ferry_worker *w, int max)
{
	char *text = ferry_read_all(FERRY_DEBUGFS "state"), *line, *next = NULL;
	int n = 0;

	if (!text)
		return 0;
	for (line = strtok_r(text, "\n", &next); line && n < max;
	     line = strtok_r(NULL, "\n", &next))
		n += sscanf(line, "worker %*d cpu %d node %d llc %d %15s chunks %ld",
			    &w[n].cpu, &w[n].node, &w[n].llc, w[n].doing,
			    &w[n].chunks) == 5;
	free(text);
	return n;
}

int ferry_threads(pid_t *pids, int max)
{
	char path[300], comm[64];
	struct dirent *e;
	int n = 0;
	DIR *d;

	d = opendir("/proc");
	while (d && n < max && (e = readdir(d))) {
		snprintf(path, sizeof(path), "/proc/%s/comm", e->d_name);
		if (isdigit((unsigned char)e->d_name[0]) &&
		    ferry_read(path, comm, sizeof(comm)) > 0 && !strncmp(comm, "ferry/", 6))
			pids[n++] = atoi(e->d_name);
	}
	if (d)
		closedir(d);
	return n;
}

bool ferry_workers_asleep(void *unused)
{
	struct ferry_worker w[256];
	int n = ferry_workers(w, ARRAY_SIZE(w));

	while (n--)
		if (strcmp(w[n].doing, "asleep"))
			return false;
	return true;
}

long ferry_stats_value(const struct ferry_stats *s, const char *name)
{
	int i;

	for (i = 0; i < s->n; i++)
		if (!strcmp(s->e[i].name, name))
			return s->e[i].value;
	return -1;
}

long ferry_stat(const char *name)
{
	struct ferry_stats s;

	ferry_stats_get(&s);
	return ferry_stats_value(&s, name);
}

long ferry_stats_delta(const struct ferry_stats *before,
		       const struct ferry_stats *after, const char *name)
{
	long b = ferry_stats_value(before, name);
	long a = ferry_stats_value(after, name);

	return b < 0 || a < 0 ? -1 : a - b;
}

bool ferry_stats_used(const struct ferry_stats *before,
		      const struct ferry_stats *after)
{
	long early, now;

	if (!ferry_loaded())
		return true;
	early = ferry_stats_delta(before, after, "bytes_early");
	now = ferry_stats_delta(before, after, "bytes_in_place");
	if (early < 0 || now < 0) {
		ferry_note("no bytes_early or bytes_in_place in the statistics");
		return false;
	}
	if (ferry_active())
		return early + now > 0 ||
		       ferry_stats_delta(before, after, "pages_by_workers") > 0;
	return early + now == 0;
}

static long counter_in(const char *path, const char *name)
{
	char *text = ferry_read_all(path), *p = text;
	size_t len = strlen(name);
	long ret = -1;

	while (p && *p) {
		if (!strncmp(p, name, len) && p[len] == ' ') {
			ret = strtol(p + len, NULL, 10);
			break;
		}
		p = strchr(p, '\n');
		if (p)
			p++;
	}
	free(text);
	return ret;
}

long ferry_vmstat(const char *name)
{
	return counter_in("/proc/vmstat", name);
}

long ferry_node_vmstat(int node, const char *name)
{
	char path[100];

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/vmstat",
		 node);
	return counter_in(path, name);
}

long ferry_node_free(int node)
{
	long n = ferry_node_vmstat(node, "nr_free_pages");

	return n < 0 ? n : n * (long)FERRY_PAGE;
}

long ferry_node_min(int node)
{
	FILE *f = fopen("/proc/zoneinfo", "r");
	long sum = 0, pages;
	char line[256];
	int at = -1;

	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "Node %d, zone", &at) == 1)
			continue;
		if (at == node && sscanf(line, " min %ld", &pages) == 1)
			sum += pages;
	}
	fclose(f);
	return sum * (long)FERRY_PAGE;
}

long ferry_corrupted_kib(void)
{
	char buf[8192], *p;
	long n = -1;

	if (ferry_read("/proc/meminfo", buf, sizeof(buf)) <= 0)
		return -1;
	p = strstr(buf, "HardwareCorrupted:");
	if (p)
		sscanf(p, "HardwareCorrupted: %ld", &n);
	return n;
}

/* ---- nodes, CPUs ---- */

int ferry_memory_tiers(void)
{
	DIR *d = opendir("/sys/devices/virtual/memory_tiering");
	struct dirent *e;
	int n = 0;

	while (d && (e = readdir(d)))
		n += !strncmp(e->d_name, "memory_tier", 11);
	if (d)
		closedir(d);
	return n;
}

static int parse_list(const char *text, int *out, int max)
{
	int n = 0, a, b;
	char *end;

	while (*text && n < max) {
		a = strtol(text, &end, 10);
		if (end == text)
			break;
		b = a;
		if (*end == '-')
			b = strtol(end + 1, &end, 10);
		for (; a <= b && n < max; a++)
			out[n++] = a;
		if (*end != ',')
			break;
		text = end + 1;
	}
	return n;
}

int ferry_list(const char *path, int *out, int max)
{
	char buf[256];

	if (ferry_read(path, buf, sizeof(buf)) <= 0)
		return 0;
	return parse_list(buf, out, max);
}

int ferry_mem_nodes(int nodes[FERRY_MAX_NODES])
{
	return ferry_list("/sys/devices/system/node/has_memory", nodes, FERRY_MAX_NODES);
}

int ferry_cpu_nodes(int nodes[FERRY_MAX_NODES])
{
	int mem[FERRY_MAX_NODES], n = ferry_mem_nodes(mem), i, out = 0;

	for (i = 0; i < n; i++)
		if (ferry_node_cpu(mem[i]) >= 0)
			nodes[out++] = mem[i];
	return out;
}

int ferry_node_cpu(int node)
{
	char path[100];
	int cpu;

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/cpulist",
		 node);
	return ferry_list(path, &cpu, 1) ? cpu : -1;
}

int ferry_pin_cpu(int cpu)
{
	cpu_set_t set;
	int i;

	CPU_ZERO(&set);
	if (cpu >= 0)
		CPU_SET(cpu, &set);
	else
		for (i = 0; i < CPU_SETSIZE; i++)
			CPU_SET(i, &set);
	return sched_setaffinity(0, sizeof(set), &set) ? -errno : 0;
}

/* ---- content ---- */

#define GOLDEN	0x9e3779b97f4a7c15ULL

static u64 mix(u64 x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static u64 pattern_key(u64 seed, u64 gen)
{
	return mix(seed + GOLDEN) ^ mix(gen * 2 + 1);
}

static inline u64 pattern_word(u64 key, size_t off)
{
	u64 x = (key + off) * GOLDEN;

	return x ^ (x >> 29);
}

u64 ferry_word(u64 seed, u64 gen, size_t off)
{
	return pattern_word(pattern_key(seed, gen), off);
}

void ferry_fill_at(void *p, size_t len, u64 seed, u64 gen, size_t off)
{
	u64 key = pattern_key(seed, gen);
	u64 *w = p;
	size_t i;

	for (i = 0; i < len / 8; i++)
		w[i] = pattern_word(key, off + i * 8);
}

size_t ferry_verify_at(const void *p, size_t len, u64 seed, u64 gen,
		       size_t off)
{
	u64 key = pattern_key(seed, gen), want, got;
	const u64 *w = p;
	size_t i, b, bad = 0;
	int said = 0;

	for (i = 0; i < len / 8; i++) {
		want = pattern_word(key, off + i * 8);
		got = w[i];
		if (got == want)
			continue;
		for (b = 0; b < 64; b += 8)
			bad += ((got ^ want) >> b & 0xff) != 0;
		if (said++ < 4)
			ferry_note("offset %#zx: %016llx, not %016llx (seed %llu, gen %llu)",
				   off + i * 8, got, want, seed, gen);
	}
	if (bad)
		ferry_note("%zu of %zu bytes are wrong", bad, len);
	return bad;
}

#define IO_CHUNK	(256UL << 10)

int ferry_fill_fd(int fd, size_t len, u64 seed, u64 gen)
{
	char *buf = malloc(IO_CHUNK);
	size_t off, n;
	int ret = 0;

	if (!buf)
		return -ENOMEM;
	for (off = 0; off < len && !ret; off += n) {
		n = len - off < IO_CHUNK ? len - off : IO_CHUNK;
		ferry_fill_at(buf, n, seed, gen, off);
		if (pwrite(fd, buf, n, off) != (ssize_t)n)
			ret = errno ? -errno : -EIO;
	}
	free(buf);
	return ret;
}

long ferry_verify_fd(int fd, size_t len, u64 seed, u64 gen)
{
	char *buf = malloc(IO_CHUNK);
	size_t off, n;
	long bad = 0;

	if (!buf)
		return -ENOMEM;
	for (off = 0; off < len; off += n) {
		n = len - off < IO_CHUNK ? len - off : IO_CHUNK;
		if (pread(fd, buf, n, off) != (ssize_t)n) {
			bad = errno ? -errno : -EIO;
			break;
		}
		bad += ferry_verify_at(buf, n, seed, gen, off);
	}
	free(buf);
	return bad;
}

/* ---- system calls ---- */

static long ret_errno(long ret)
{
	return ret < 0 ? -errno : ret;
}

static void node_mask(unsigned long *mask, int node)
{
	const int bits = 8 * sizeof(long);

	memset(mask, 0, FERRY_MAX_NODES / 8);
	if (node >= 0)
		mask[node / bits] |= 1UL << (node % bits);
}

#define MASK_WORDS	(FERRY_MAX_NODES / 8 / sizeof(long))

long ferry_move_pages(pid_t pid, unsigned long n, void **pages,
		      const int *nodes, int *status, int flags)
{
	return ret_errno(syscall(SYS_move_pages, pid, n, pages, nodes, status,
				 flags));
}

long ferry_migrate_pages(pid_t pid, int from, int to)
{
	unsigned long f[MASK_WORDS], t[MASK_WORDS];

	node_mask(f, from);
	node_mask(t, to);
	return ret_errno(syscall(SYS_migrate_pages, pid, FERRY_MAX_NODES + 1, f,
				 t));
}

int ferry_mbind(void *p, size_t len, int mode, int node, unsigned int flags)
{
	unsigned long mask[MASK_WORDS];

	node_mask(mask, node);
	return ret_errno(syscall(SYS_mbind, p, len, mode,
				 node < 0 ? NULL : mask,
				 node < 0 ? 0 : FERRY_MAX_NODES + 1, flags));
}

int ferry_set_mempolicy(int mode, int node)
{
	unsigned long mask[MASK_WORDS];

	node_mask(mask, node);
	return ret_errno(syscall(SYS_set_mempolicy, mode,
				 node < 0 ? NULL : mask,
				 node < 0 ? 0 : FERRY_MAX_NODES + 1));
}

static void say_runs(const int *st, size_t n)
{
	size_t from = 0, i;
	int lines = 0;

	for (i = 1; i <= n && lines < 20; i++) {
		if (i < n && st[i] == st[from])
			continue;
		ferry_note("  pages %zu to %zu: %d", from, i - 1, st[from]);
		from = i;
		lines++;
	}
}

/* Prints the result of a call that did not move all pages. */
static void say_status(long ret, void **pages, const int *st, size_t n)
{
	int *now = malloc(n * sizeof(*now));

	ferry_note("move_pages() returned %ld and the status", ret);
	say_runs(st, n);
	if (now && !ferry_move_pages(0, n, pages, NULL, now, 0)) {
		ferry_note("the status is now");
		say_runs(now, n);
	}
	free(now);
}

long ferry_move_range(void *p, size_t len, size_t step, int node, int *status)
{
	size_t n = len / step, i;
	void **pages = malloc(n * sizeof(*pages));
	int *nodes = malloc(n * sizeof(*nodes));
	int *st = status ? status : malloc(n * sizeof(*st));
	long ret = -ENOMEM, call;

	if (!pages || !nodes || !st)
		goto out;
	for (i = 0; i < n; i++) {
		pages[i] = (char *)p + i * step;
		nodes[i] = node;
		st[i] = -12345;
	}
	ret = ferry_move_pages(0, n, pages, nodes, st, MPOL_MF_MOVE);
	if (ret >= 0) {
		call = ret;
		ret = n - ferry_count_on(p, len, step, node);
		if (ret)
			say_status(call, pages, st, n);
	}
out:
	free(pages);
	free(nodes);
	if (!status)
		free(st);
	return ret;
}

long ferry_count_on(void *p, size_t len, size_t step, int node)
{
	static __thread void *pages[MOVE_BATCH];
	static __thread int st[MOVE_BATCH];
	size_t n = len / step, done, now, i;
	long found = 0, ret;

	for (done = 0; done < n; done += now) {
		now = n - done < MOVE_BATCH ? n - done : MOVE_BATCH;
		for (i = 0; i < now; i++)
			pages[i] = (char *)p + (done + i) * step;
		ret = ferry_move_pages(0, now, pages, NULL, st, 0);
		if (ret < 0)
			return ret;
		for (i = 0; i < now; i++)
			found += st[i] == node;
	}
	return found;
}

int ferry_node_of(void *p)
{
	int st = -ENOENT;
	long ret = ferry_move_pages(0, 1, &p, NULL, &st, 0);

	return ret < 0 ? ret : st;
}

/* ---- mappings ---- */

static void *map_aligned(int fd, size_t len, size_t align, int prot, int flags)
{
	char *base, *p;

	if (align < FERRY_PAGE)
		align = FERRY_PAGE;
	base = mmap(NULL, len + align, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return MAP_FAILED;
	p = (char *)(((uintptr_t)base + align - 1) & ~(align - 1));
	if (mmap(p, len, prot, flags | MAP_FIXED, fd, 0) == MAP_FAILED) {
		munmap(base, len + align);
		return MAP_FAILED;
	}
	if (p > base)
		munmap(base, p - base);
	munmap(p + len, base + align - p);
	return p;
}

void *ferry_map_anon(size_t len, size_t align)
{
	return map_aligned(-1, len, align, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS);
}

void *ferry_map_file(int fd, size_t len, size_t align, int prot, int flags)
{
	return map_aligned(fd, len, align, prot, flags);
}

int ferry_populate(void *p, size_t len, int node)
{
	int ret, again;

	ret = ferry_set_mempolicy(MPOL_BIND, node);
	if (ret)
		return ret;
	ret = madvise(p, len, MADV_POPULATE_WRITE) ? -errno : 0;
	again = ferry_set_mempolicy(MPOL_DEFAULT, -1);
	return ret ? ret : again;
}

static int by_value(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

int ferry_mthp_sizes(unsigned int *kib, int max)
{
	DIR *d = opendir(FERRY_THP);
	struct dirent *e;
	int n = 0;

	while (d && n < max && (e = readdir(d)))
		if (sscanf(e->d_name, "hugepages-%ukB", &kib[n]) == 1)
			n++;
	if (d)
		closedir(d);
	qsort(kib, n, sizeof(*kib), by_value);
	return n;
}

static int only(unsigned int kib, const char *file, const char *yes)
{
	unsigned int sizes[32];
	int n = ferry_mthp_sizes(sizes, ARRAY_SIZE(sizes)), i, ret;
	bool found = !kib;
	char path[160];

	for (i = 0; i < n; i++) {
		snprintf(path, sizeof(path), FERRY_THP "hugepages-%ukB/%s",
			 sizes[i], file);
		if (access(path, F_OK))
			continue;
		found |= sizes[i] == kib;
		ret = ferry_set(path, "%s", sizes[i] == kib ? yes : "never");
		if (ret)
			return ret;
	}
	return found ? 0 : -ENOENT;
}

int ferry_mthp_only(unsigned int kib)
{
	return only(kib, "enabled", "always");
}

int ferry_shmem_only(unsigned int kib)
{
	return only(kib, "shmem_enabled", "always");
}

/* ---- a mix of memory ---- */

int ferry_mix_map(struct ferry_mix *m, size_t len, int node)
{
	static const struct {
		const char *what;
		unsigned int kib;
		bool shared;
	} kinds[] = {
		[FERRY_MIX_2M] = { "anonymous 2M", 2048, false },
		[FERRY_MIX_SHARED_2M] = { "shared 2M", 2048, true },
		[FERRY_MIX_64K] = { "anonymous 64K", 64, false },
		[FERRY_MIX_4K] = { "anonymous 4K", 4, false },
		[FERRY_MIX_SHARED_4K] = { "shared 4K", 4, true },
	};
	unsigned int kib;
	char *mem;
	int i, ret;

	m->n = 0;
	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		kib = kinds[i].kib == 4 ? 0 : kinds[i].kib;
		ret = kinds[i].shared ? ferry_shmem_only(kib) : ferry_mthp_only(kib);
		if (ret)
			return ret;
		mem = map_aligned(-1, len, FERRY_PMD, PROT_READ | PROT_WRITE,
				  MAP_ANONYMOUS |
				  (kinds[i].shared ? MAP_SHARED : MAP_PRIVATE));
		if (mem == MAP_FAILED)
			return -errno;
		m->part[i].what = kinds[i].what;
		m->part[i].mem = mem;
		m->part[i].len = len;
		m->part[i].folio = kinds[i].kib << 10;
		m->n++;
		if (node >= 0)
			ret = ferry_populate(mem, len, node);
		else
			ret = madvise(mem, len, MADV_POPULATE_WRITE) ? -errno : 0;
		if (ret)
			return ret;
		if (ferry_in_folios_of(mem, len, m->part[i].folio) != len) {
			ferry_note("%s: not in folios of that size", kinds[i].what);
			return -ENOMEM;
		}
		/*
		 * While 2M is allowed, khugepaged would collapse the small folios of the next
		 * kind.
		 */
		ret = kinds[i].shared ? ferry_shmem_only(0) : ferry_mthp_only(0);
		if (ret)
			return ret;
	}
	return 0;
}

void ferry_mix_fill(struct ferry_mix *m, u64 gen)
{
	int i;

	for (i = 0; i < m->n; i++)
		ferry_fill(m->part[i].mem, m->part[i].len, i, gen);
}

size_t ferry_mix_verify(const struct ferry_mix *m, u64 gen)
{
	size_t bad = 0, n;
	int i;

	for (i = 0; i < m->n; i++) {
		n = ferry_verify(m->part[i].mem, m->part[i].len, i, gen);
		if (n)
			ferry_note("the wrong bytes are in %s", m->part[i].what);
		bad += n;
	}
	return bad;
}

long ferry_mix_count_on(const struct ferry_mix *m, int node)
{
	long found = 0, n;
	int i;

	for (i = 0; i < m->n; i++) {
		n = ferry_count_on(m->part[i].mem, m->part[i].len, FERRY_PAGE, node);
		if (n < 0)
			return n;
		found += n;
	}
	return found;
}

long ferry_mix_pages(const struct ferry_mix *m)
{
	long n = 0;
	int i;

	for (i = 0; i < m->n; i++)
		n += m->part[i].len / FERRY_PAGE;
	return n;
}

void ferry_mix_unmap(struct ferry_mix *m)
{
	int i;

	for (i = 0; i < m->n; i++)
		munmap(m->part[i].mem, m->part[i].len);
	m->n = 0;
}

/* ---- files on a disk ---- */

int ferry_run(const char *prog, ...)
{
	const char *argv[32] = { prog };
	int n = 1, status, null;
	va_list ap;
	pid_t pid;

	va_start(ap, prog);
	while (n < ARRAY_SIZE(argv) - 1 && (argv[n] = va_arg(ap, const char *)))
		n++;
	va_end(ap);
	argv[n] = NULL;
	fflush(NULL);
	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid) {
		null = open("/dev/null", O_RDWR);
		dup2(null, 0);
		dup2(null, 1);
		execvp(prog, (char *const *)argv);
		_exit(127);
	}
	if (waitpid(pid, &status, 0) != pid)
		return -errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -EINTR;
}

int ferry_ext4(const char *dev, const char *where)
{
	int ret;

	if (access(dev, W_OK))
		return -ENODEV;
	ret = ferry_run("mkfs.ext4", "-q", "-F", "-b", "4096", "-E",
			"lazy_itable_init=1,lazy_journal_init=1", dev, NULL);
	if (ret) {
		ferry_note("mkfs.ext4 ended with %d", ret);
		return -EIO;
	}
	if (mkdir(where, 0700) && errno != EEXIST)
		return -errno;
	return mount(dev, where, "ext4", 0, NULL) ? -errno : 0;
}

#ifndef SYS_cachestat
#define SYS_cachestat	451
#endif

int ferry_evict(int fd)
{
	struct { __u64 off, len; } range = { 0, 0 };
	struct { __u64 cache, dirty, writeback, evicted, recent; } st;
	int i, ret;

	for (i = 0; i < 50; i++) {
		if (fsync(fd))
			return -errno;
		ret = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		if (ret)
			return -ret;
		if (syscall(SYS_cachestat, fd, &range, &st, 0))
			return -errno;
		if (!st.cache)
			return 0;
		ferry_write("/proc/sys/vm/drop_caches", "1");
		ferry_sleep_ms(20);
	}
	ferry_note("%llu pages of the file stay in the page cache", st.cache);
	return -EBUSY;
}

/* ---- page frames and folios ---- */

static u64 word_at(const char *path, u64 index)
{
	u64 v = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	if (pread(fd, &v, sizeof(v), index * sizeof(v)) != sizeof(v))
		v = 0;
	close(fd);
	return v;
}

u64 ferry_pagemap(const void *p)
{
	return word_at("/proc/self/pagemap", (uintptr_t)p / FERRY_PAGE);
}

u64 ferry_pfn(const void *p)
{
	u64 v = ferry_pagemap(p);

	return v >> 63 ? v & ((1ULL << 55) - 1) : 0;
}

u64 ferry_kpageflags(u64 pfn)
{
	return word_at("/proc/kpageflags", pfn);
}

/*
 * A part of kpageflags, and the folio that was found there last. The kernel takes long for
 * each page it is asked about, so the part is small unless it continues the last one.
 */
struct window {
	int fd;
	u64 first;
	u64 n;
	u64 folio_first;
	u64 folio_end;
	u64 flags[512];
};

static bool has(struct window *w, u64 pfn, int bit)
{
	u64 n = 8;
	ssize_t got;

	if (pfn < w->first || pfn >= w->first + w->n) {
		if (w->n && (pfn == w->first + w->n || pfn + 1 == w->first))
			n = w->n < ARRAY_SIZE(w->flags) / 2 ? w->n * 2 : ARRAY_SIZE(w->flags);
		w->first = pfn + 1 == w->first && pfn >= n ? pfn + 1 - n : pfn;
		got = pread(w->fd, w->flags, n * sizeof(u64), w->first * sizeof(u64));
		w->n = got > 0 ? got / sizeof(u64) : 0;
		if (pfn - w->first >= w->n)
			return false;
	}
	return w->flags[pfn - w->first] >> bit & 1;
}

static size_t folio_bytes(struct window *w, u64 pfn)
{
	u64 first, last;

	if (pfn < w->folio_first || pfn >= w->folio_end) {
		for (first = pfn; has(w, first, FERRY_KPF_COMPOUND_TAIL); first--)
			;
		last = first + 1;
		if (has(w, first, FERRY_KPF_COMPOUND_HEAD))
			while (has(w, last, FERRY_KPF_COMPOUND_TAIL))
				last++;
		w->folio_first = first;
		w->folio_end = last;
	}
	return (w->folio_end - w->folio_first) * FERRY_PAGE;
}

size_t ferry_in_folios_of(const void *p, size_t len, size_t bytes)
{
	struct window w = { .fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC) };
	int map = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	size_t page, n = len / FERRY_PAGE, i, now, found = 0;
	u64 entry[512];

	for (page = 0; page < n && w.fd >= 0 && map >= 0; page += now) {
		now = n - page < ARRAY_SIZE(entry) ? n - page : ARRAY_SIZE(entry);
		if (pread(map, entry, now * 8,
			  ((uintptr_t)p / FERRY_PAGE + page) * 8) != (ssize_t)now * 8)
			break;
		for (i = 0; i < now; i++)
			if (entry[i] >> 63 &&
			    folio_bytes(&w, entry[i] & ((1ULL << 55) - 1)) == bytes)
				found += FERRY_PAGE;
	}
	if (w.fd >= 0)
		close(w.fd);
	if (map >= 0)
		close(map);
	return found;
}

size_t ferry_folio_bytes(const void *p)
{
	struct window w = { .fd = -1 };
	u64 pfn = ferry_pfn(p);
	size_t ret = 0;

	if (!pfn)
		return 0;
	w.fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	if (w.fd >= 0) {
		ret = folio_bytes(&w, pfn);
		close(w.fd);
	}
	return ret;
}

int ferry_pfns(const void *p, size_t len, u64 *pfns)
{
	int map = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	size_t n = len / FERRY_PAGE, i;
	int ret = 0;

	if (map < 0)
		return -errno;
	if (pread(map, pfns, n * 8, (uintptr_t)p / FERRY_PAGE * 8) != (ssize_t)n * 8)
		ret = -EIO;
	close(map);
	for (i = 0; i < n && !ret; i++)
		pfns[i] = pfns[i] >> 63 ? pfns[i] & ((1ULL << 55) - 1) : 0;
	return ret;
}

/* ---- memory blocks ---- */

u64 ferry_block_pages(void)
{
	char hex[32];

	if (ferry_read(FERRY_BLOCKS "block_size_bytes", hex, sizeof(hex)) <= 0)
		return 0;
	return strtoull(hex, NULL, 16) / FERRY_PAGE;
}

int ferry_block_set(u64 block, const char *state)
{
	char path[100];

	snprintf(path, sizeof(path), FERRY_BLOCKS "memory%llu/state", block);
	return ferry_write(path, "%s", state);
}

bool ferry_block_movable(u64 block)
{
	u64 flags[1024], pages = ferry_block_pages(), at, i;
	char path[100], zones[64];
	bool ret = false;
	int fd;

	snprintf(path, sizeof(path), FERRY_BLOCKS "memory%llu/valid_zones", block);
	if (ferry_read(path, zones, sizeof(zones)) <= 0 || strcmp(zones, "Movable"))
		return false;
	fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	for (at = 0; at < pages; at += ARRAY_SIZE(flags)) {
		if (pread(fd, flags, sizeof(flags), (block * pages + at) * 8) != sizeof(flags))
			goto out;
		for (i = 0; i < ARRAY_SIZE(flags); i++)
			if (flags[i] >> FERRY_KPF_RESERVED & 1)
				goto out;
	}
	ret = true;
out:
	close(fd);
	return ret;
}

/* ---- control groups ---- */

int ferry_cgroup_create(const char *name, const char *controllers,
			char path[256])
{
	char line[128], *word, *next = NULL;
	int ret;

	mount_missing("cgroup2", CGROUP_ROOT);
	snprintf(line, sizeof(line), "%s", controllers);
	for (word = strtok_r(line, " ", &next); word;
	     word = strtok_r(NULL, " ", &next)) {
		ret = write_str(CGROUP_ROOT "/cgroup.subtree_control", word);
		if (ret)
			return ret;
	}
	snprintf(path, 256, CGROUP_ROOT "/%s", name);
	if (mkdir(path, 0755) && errno != EEXIST)
		return -errno;
	return 0;
}

int ferry_cgroup_enter(const char *path, pid_t pid)
{
	char procs[300];

	snprintf(procs, sizeof(procs), "%s/cgroup.procs",
		 path ? path : CGROUP_ROOT);
	return ferry_write(procs, "%d", pid);
}

int ferry_cgroup_remove(const char *path)
{
	char kill_file[300];
	int i;

	if (!rmdir(path))
		return 0;
	snprintf(kill_file, sizeof(kill_file), "%s/cgroup.kill", path);
	ferry_write(kill_file, "1");
	for (i = 0; i < 500; i++) {
		if (!rmdir(path) || errno == ENOENT)
			return 0;
		ferry_sleep_ms(10);
	}
	return -errno;
}

/* ---- tracing ---- */

int ferry_trace_event(const char *event, bool on)
{
	char path[160];

	snprintf(path, sizeof(path), TRACEFS "/events/%s/enable", event);
	return ferry_set(path, "%d", on);
}

int ferry_trace_clear(void)
{
	int fd = open(TRACEFS "/trace", O_WRONLY | O_TRUNC | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

char *ferry_trace_read(void)
{
	return ferry_read_all(TRACEFS "/trace");
}

/* ---- time ---- */

u64 ferry_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

void ferry_sleep_ms(unsigned int ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000L };

	while (nanosleep(&t, &t) && errno == EINTR)
		;
}

bool ferry_wait(bool (*done)(void *arg), void *arg, unsigned int ms)
{
	u64 end = ferry_now_ns() + ms * 1000000ULL;

	for (;;) {
		if (done(arg))
			return true;
		if (ferry_now_ns() > end)
			return done(arg);
		ferry_sleep_ms(10);
	}
}
