// SPDX-License-Identifier: GPL-2.0
/*
 * Memory blocks go offline and come back while another task allocates from a CMA area, which
 * has to be emptied of user memory first: migrations with the hotplug locks held and
 * migrations with the lock of the area held, at the same time, with delayed workers. A mover
 * would wait for ever for a worker that needs one of these locks, or that allocates from the
 * area.
 *
 * Needs blocks in ZONE_MOVABLE (movablecore=) and a CMA area (hugetlb_cma=) from which
 * debugfs cma/ can allocate.
 */
#include <dirent.h>

#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"

#define CMA	"/sys/kernel/debug/cma/"
#define STEP	(32UL << 20)
#define PART	(4UL << 20)
#define MIN_IN_AREA	(16UL << 20)

/* Values of the kernel's enum migrate_reason, for ferry_submit. */
enum { REASON_HOTPLUG = 2, REASON_CONTIG = 6 };

struct area {
	char dir[160];
	u64 base;
	u64 count;
};

FIXTURE(offline_cma)
{
	int nodes[FERRY_MAX_NODES];
	struct ferry_mix mix;
	struct area area;
	u64 block_pages;
	char *mem[16];	/* of STEP bytes each, with pages in the area */
	int nr_mem;
	long gone;	/* block that is offline now, -1: none */
};

static long area_value(const struct area *a, const char *name)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/%s", a->dir, name);
	return ferry_read_long(path);
}

static int area_write(const struct area *a, const char *name, u64 value)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/%s", a->dir, name);
	return ferry_write(path, "%llu", (unsigned long long)value);
}

/* Finds the first CMA area. */
static int find_area(struct area *a)
{
	DIR *d = opendir(CMA);
	struct dirent *e;

	a->count = 0;
	while (d && (e = readdir(d)) && !a->count) {
		if (*e->d_name == '.')
			continue;
		snprintf(a->dir, sizeof(a->dir), CMA "%.64s", e->d_name);
		a->base = area_value(a, "base_pfn");
		a->count = area_value(a, "count");
	}
	if (d)
		closedir(d);
	return a->count ? 0 : -ENODEV;
}

FIXTURE_SETUP(offline_cma)
{
	self->gone = -1;
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	self->block_pages = ferry_block_pages();
	if (!self->block_pages)
		SKIP(return, "no memory hotplug");
	if (find_area(&self->area))
		SKIP(return, "needs a CMA area: hugetlb_cma=");
	ASSERT_EQ(0, race_prepare(self->nodes));
	ASSERT_EQ(0, ferry_trace_event("migrate/mm_migrate_pages", true));
	if (!ferry_loaded())
		return;
	ASSERT_EQ(0, ferry_trace_event("ferry/ferry_submit", true));
	ASSERT_EQ(0, ferry_inject("workers_only", 1));
	ASSERT_EQ(0, ferry_inject("delay_after_submit_us", 2000));
	ASSERT_EQ(0, ferry_inject("delay_in_chunk_us", 1000));
	ASSERT_EQ(0, ferry_set_knob("timeout_ms", "60000"));
}

FIXTURE_TEARDOWN(offline_cma)
{
	if (self->gone >= 0)
		ferry_block_set(self->gone, "online_movable");
	while (self->nr_mem)
		munmap(self->mem[--self->nr_mem], STEP);
	ferry_mix_unmap(&self->mix);
	ferry_restore();
}

static size_t in_area(const struct area *a, const void *p, size_t len)
{
	static u64 pfns[STEP / FERRY_PAGE];
	size_t i, n = 0;

	if (ferry_pfns(p, len, pfns))
		return 0;
	for (i = 0; i < len / FERRY_PAGE; i++)
		n += pfns[i] >= a->base && pfns[i] < a->base + a->count;
	return n * FERRY_PAGE;
}

/*
 * Maps memory of which some is in the area, where the kernel puts some when the rest of the
 * zone gets less. Memory that it puts elsewhere is freed in the end. Returns the bytes in the
 * area.
 */
static size_t get_into_area(FIXTURE_DATA(offline_cma) * self, int node)
{
	static char *other[256];
	size_t got = 0, n;
	int nr = 0;
	char *p;

	if (ferry_mthp_only(0))
		return 0;
	while (got < MIN_IN_AREA && self->nr_mem < ARRAY_SIZE(self->mem) &&
	       nr < ARRAY_SIZE(other) && ferry_node_free(node) > 300L << 20) {
		p = ferry_map_anon(STEP, FERRY_PMD);
		if (p == MAP_FAILED || ferry_populate(p, STEP, node))
			break;
		n = in_area(&self->area, p, STEP);
		if (n)
			self->mem[self->nr_mem++] = p;
		else
			other[nr++] = p;
		got += n;
	}
	while (nr)
		munmap(other[--nr], STEP);
	return got;
}

/* ---- a task that allocates from the area ---- */

struct taker {
	pthread_t thread;
	const struct area *area;
	bool stop;
	bool offline;	/* a block is going offline right now */
	long taken;	/* allocations */
	long refused;
	long begun;	/* number of blocks that were told to go offline */
	long meanwhile;	/* allocations that overlapped with a block going offline */
};

static void *taker_fn(void *arg)
{
	struct taker *t = arg;
	const u64 pages = STEP / FERRY_PAGE;
	u64 held = 0;
	bool offline;
	long begun;

	while (!__atomic_load_n(&t->stop, __ATOMIC_ACQUIRE)) {
		begun = __atomic_load_n(&t->begun, __ATOMIC_ACQUIRE);
		offline = __atomic_load_n(&t->offline, __ATOMIC_ACQUIRE);
		/* Takes all of the area, piece by piece, and gives it back. */
		if (held + pages <= t->area->count && !area_write(t->area, "alloc", pages)) {
			held += pages;
			t->taken++;
			t->meanwhile += offline ||
					__atomic_load_n(&t->begun, __ATOMIC_ACQUIRE) != begun;
			continue;
		}
		t->refused += held + pages <= t->area->count;
		if (!held)
			ferry_sleep_ms(10);
		area_write(t->area, "free", held);
		held = 0;
	}
	area_write(t->area, "free", held);
	return NULL;
}

/* Fills the memory that both kinds of migrations move. */
static void fill(FIXTURE_DATA(offline_cma) * self, u64 gen)
{
	int i;

	ferry_mix_fill(&self->mix, gen);
	for (i = 0; i < self->nr_mem; i++)
		ferry_fill(self->mem[i], STEP, 50 + i, gen);
}

static size_t bad_bytes(FIXTURE_DATA(offline_cma) * self, u64 gen)
{
	size_t bad = ferry_mix_verify(&self->mix, gen);
	int i;

	for (i = 0; i < self->nr_mem; i++)
		bad += ferry_verify(self->mem[i], STEP, 50 + i, gen);
	return bad;
}

/* Returns a block that can go offline and has memory of the mix, or -1 if there is none. */
static long pick(FIXTURE_DATA(offline_cma) * self, bool *tried, size_t max)
{
	static u64 pfns[PART / FERRY_PAGE];
	u64 block;
	int i, k;

	for (i = 0; i < self->mix.n; i++) {
		if (ferry_pfns(self->mix.part[i].mem, PART, pfns))
			return -1;
		for (k = 0; k < ARRAY_SIZE(pfns); k++) {
			block = pfns[k] / self->block_pages;
			if (!pfns[k] || block >= max || tried[block])
				continue;
			tried[block] = true;
			if (ferry_block_movable(block))
				return block;
		}
	}
	return -1;
}

/*
 * Maps the mix so that some of it is in a block that can go offline. The first free memory
 * may be in a block that cannot, so ballast occupies it.
 */
static int place_mix(FIXTURE_DATA(offline_cma) * self, int node)
{
	const size_t ballast = self->block_pages * FERRY_PAGE;
	bool tried[4096];
	char *taken[6];
	int n = 0, ret;

	for (;;) {
		ferry_mix_unmap(&self->mix);
		ret = ferry_mix_map(&self->mix, PART, node);
		memset(tried, 0, sizeof(tried));
		if (ret || pick(self, tried, ARRAY_SIZE(tried)) >= 0)
			break;
		ret = -ENOSPC;
		if (n == ARRAY_SIZE(taken))
			break;
		taken[n] = ferry_map_anon(ballast, FERRY_PMD);
		if (taken[n] == MAP_FAILED || ferry_populate(taken[n], ballast, node))
			break;
		n++;
	}
	while (n)
		munmap(taken[--n], ballast);
	return ret;
}

struct moved {
	long hotplug;
	long contig;
	long batches_hotplug;
	long batches_contig;
};

static int look(struct moved *m)
{
	char *text = ferry_trace_read(), *next = text;
	struct race_event e;
	long n;

	memset(m, 0, sizeof(*m));
	if (!text)
		return -EIO;
	while (race_next_event(&next, &e)) {
		if (!strcmp(e.name, "mm_migrate_pages")) {
			n = race_event_value(&e, "nr_succeeded=");
			if (strstr(e.args, "reason=memory_hotplug"))
				m->hotplug += n;
			else if (strstr(e.args, "reason=contig_range"))
				m->contig += n;
		} else if (!strcmp(e.name, "ferry_submit")) {
			n = race_event_value(&e, "reason=");
			m->batches_hotplug += n == REASON_HOTPLUG;
			m->batches_contig += n == REASON_CONTIG;
		}
	}
	free(text);
	return 0;
}

TEST_F(offline_cma, blocks_go_while_the_area_is_taken)
{
	int rounds = ferry_iters(4, 2), r, done, all = 0, failed = 0;
	struct moved moved, sum = {};
	struct taker t = {};
	bool tried[4096], seen = false;
	size_t got;
	long block;

	got = get_into_area(self, self->nodes[0]);
	ferry_note("%s: %llu MiB, %zu KiB of the test's memory in it", self->area.dir,
		   (unsigned long long)self->area.count >> 8, got >> 10);
	ASSERT_GE(got, MIN_IN_AREA / 4);
	t.area = &self->area;
	/*
	 * More rounds, if no allocation overlapped with a block going offline, or if the
	 * blocks that went had nothing for a batch in them.
	 */
	for (r = 0; r < rounds || (r < 4 * rounds && !seen); r++) {
		/* The area has been emptied: some memory is put into it again. */
		if (r)
			ASSERT_GE(get_into_area(self, self->nodes[0]), MIN_IN_AREA / 4);
		ASSERT_EQ(0, place_mix(self, self->nodes[1]));
		fill(self, r);
		ASSERT_EQ(0, ferry_trace_clear());
		memset(tried, 0, sizeof(tried));
		__atomic_store_n(&t.stop, false, __ATOMIC_RELEASE);
		ASSERT_EQ(0, pthread_create(&t.thread, NULL, taker_fn, &t));
		for (done = 0; done < 3; done++) {
			block = pick(self, tried, ARRAY_SIZE(tried));
			if (block < 0)
				break;
			__atomic_store_n(&t.offline, true, __ATOMIC_RELEASE);
			__atomic_fetch_add(&t.begun, 1, __ATOMIC_RELEASE);
			if (ferry_block_set(block, "offline")) {
				/* The block has memory that cannot be moved now. */
				failed++;
			} else {
				self->gone = block;
				all++;
			}
			__atomic_store_n(&t.offline, false, __ATOMIC_RELEASE);
			EXPECT_EQ(0, bad_bytes(self, r));
			if (self->gone < 0)
				continue;
			EXPECT_EQ(0, ferry_block_set(block, "online_movable"));
			self->gone = -1;
		}
		__atomic_store_n(&t.stop, true, __ATOMIC_RELEASE);
		pthread_join(t.thread, NULL);
		ASSERT_EQ(0, bad_bytes(self, r));
		ASSERT_EQ(0, look(&moved));
		sum.hotplug += moved.hotplug;
		sum.contig += moved.contig;
		sum.batches_hotplug += moved.batches_hotplug;
		sum.batches_contig += moved.batches_contig;
		while (self->nr_mem)
			munmap(self->mem[--self->nr_mem], STEP);
		seen = t.meanwhile && sum.hotplug &&
		       (sum.batches_hotplug || !ferry_active());
	}
	ferry_note("%d blocks went offline, %d did not; %ld pages moved, %ld batches", all, failed,
		   sum.hotplug, sum.batches_hotplug);
	ferry_note("%ld allocations (%ld refused), %ld as blocks went; %ld pages, %ld batches",
		   t.taken, t.refused, t.meanwhile, sum.contig, sum.batches_contig);
	EXPECT_GT(all, 0);
	EXPECT_GT(sum.hotplug, 0);
	EXPECT_GT(t.taken, 0);
	EXPECT_GT(sum.contig, 0);
	EXPECT_GT(t.meanwhile, 0);
	EXPECT_EQ(0, area_value(&self->area, "used"));
	if (!ferry_active())
		return;
	EXPECT_GT(sum.batches_hotplug, 0);
	EXPECT_GT(sum.batches_contig, 0);
	EXPECT_TRUE(ferry_wait(race_pool_whole, NULL, 20000));
}

TEST_HARNESS_MAIN
