// SPDX-License-Identifier: GPL-2.0
/*
 * Counters, migrations, traces and state for the tests of invariants. hazards.h describes the
 * interface.
 */
#include "hazards.h"

const unsigned int race_sizes[4] = { 4, 64, 256, 2048 };

void race_count(struct race_count *c)
{
	ferry_stats_get(&c->before);
}

void race_count_end(struct race_count *c)
{
	ferry_stats_get(&c->after);
}

long race_grown(const struct race_count *c, const char *name)
{
	return ferry_stats_delta(&c->before, &c->after, name);
}

int race_prepare(int nodes[FERRY_MAX_NODES])
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

int race_fresh(char *mem, size_t len, size_t folio, int node)
{
	int ret;

	ret = ferry_mthp_only(folio == FERRY_PAGE ? 0 : folio >> 10);
	if (ret)
		return ret;
	if (madvise(mem, len, MADV_DONTNEED))
		return -errno;
	return race_populate(mem, len, folio, node);
}

int race_populate(char *mem, size_t len, size_t folio, int node)
{
	int ret;

	ret = ferry_populate(mem, len, node);
	if (ret)
		return ret;
	return ferry_in_folios_of(mem, len, folio) == len ? 0 : -ENOMEM;
}

void race_drop(char **mem, size_t len, int *fd)
{
	if (*mem != MAP_FAILED)
		munmap(*mem, len);
	*mem = MAP_FAILED;
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

size_t race_not_zero(int node, size_t len)
{
	u64 *p = ferry_map_anon(len, FERRY_PMD);
	size_t bad = 0, i;

	if (p == MAP_FAILED || ferry_mthp_only(0) || ferry_populate(p, len, node))
		return SIZE_MAX;
	/* ferry_populate() touches each page at its beginning. */
	for (i = 0; i < len / sizeof(*p); i++)
		bad += !!p[i];
	munmap(p, len);
	return bad;
}

bool race_all_on(char *mem, size_t len, int node)
{
	return ferry_count_on(mem, len, FERRY_PAGE, node) ==
	       (long)(len / FERRY_PAGE);
}

long race_move_pages(char *mem, size_t len, size_t step, int node)
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

void race_touch(const char *p)
{
	char c = __atomic_load_n(p, __ATOMIC_SEQ_CST);

	asm volatile("" : : "r" (c) : "memory");
}

static bool race_has_more(void *arg)
{
	struct race_full *f = arg;

	return ferry_node_free(f->node) > f->left + ferry_node_min(f->node);
}

int race_full(struct race_full *f, size_t folio)
{
	size_t done, len;
	int ret;

	/* More than is free now, because memory that was freed lately may arrive late. */
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
	/* In steps, so that allocations of the kernel meanwhile do not lead to the OOM killer. */
	for (done = 0; !ret && done < len && ferry_wait(race_has_more, f, 200); done += FERRY_PMD)
		ret = ferry_populate(f->mem + done, FERRY_PMD, f->node);
	if (ret)
		return ret;
	if (done < len)
		munmap(f->mem + done, len - done);
	f->len = done;
	return done && done < len ? 0 : -ENOSPC;
}

void race_full_end(struct race_full *f)
{
	if (f->len)
		munmap(f->mem, f->len);
	f->len = 0;
}

static void *race_move_fn(void *arg)
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

int race_move_start(struct race_move *m, char *mem, size_t len, size_t step, int node, int cpu)
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

bool race_move_over(struct race_move *m)
{
	return __atomic_load_n(&m->over, __ATOMIC_ACQUIRE);
}

long race_move_end(struct race_move *m)
{
	pthread_join(m->thread, NULL);
	free(m->status);
	m->status = NULL;
	return m->ret;
}

bool race_until(const char *name, long seen, unsigned int ms)
{
	u64 end = ferry_now_ns() + ms * 1000000ULL;

	while (ferry_stat(name) <= seen) {
		if (ferry_now_ns() > end)
			return false;
		sched_yield();
	}
	return true;
}

bool race_move_submitted(struct race_move *m, long seen)
{
	while (ferry_stat("batches") <= seen) {
		if (race_move_over(m))
			return ferry_stat("batches") > seen;
		sched_yield();
	}
	return true;
}

int race_hist(const char *name, struct race_hist *h)
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

void race_reset_stats(void)
{
	ferry_write(FERRY_DEBUGFS "stats", "0");
}

bool race_next_event(char **text, struct race_event *e)
{
	char *line, *cpu, *name, *args, flags[16];
	unsigned long long s, us;

	/* A line reads "comm-pid   [cpu] flags seconds: name: args". */
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
		/* The third flag is the context; h, H, s, z and Z are interrupts. */
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

long race_event_value(const struct race_event *e, const char *key)
{
	const char *p = strstr(e->args, key);

	return p ? strtol(p + strlen(key), NULL, 0) : -1;
}

int race_log_open(void)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0)
		lseek(fd, 0, SEEK_END);
	return fd;
}

int race_log_count(int fd, const char *text)
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

int race_insmod(const char *path, const char *parameters)
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

int race_rmmod(const char *name)
{
	return syscall(SYS_delete_module, name, O_NONBLOCK) ? -errno : 0;
}

int race_load(void)
{
	return race_insmod(getenv("FERRY_MODULE"), "sdxi_bind=1");
}

int race_unload(void)
{
	return race_rmmod("ferry");
}

long race_parked(void)
{
	return ferry_read_long(FERRY_DEBUGFS "parked");
}

bool race_none_parked(void *arg)
{
	return race_parked() == 0;
}

long race_pool(long *all)
{
	char buf[4096], *p;
	long now;

	*all = 0;
	if (ferry_read(FERRY_DEBUGFS "state", buf, sizeof(buf)) <= 0)
		return -1;
	p = strstr(buf, "pool ");
	return p && sscanf(p, "pool %ld/%ld", &now, all) == 2 ? now : -1;
}

bool race_pool_whole(void *arg)
{
	long all;

	return race_pool(&all) == all;
}
