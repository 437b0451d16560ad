// SPDX-License-Identifier: GPL-2.0
/*
 * Invariant: I15
 *
 * In a migration with MIGRATE_ASYNC, a mover waits for workers no longer than it would have
 * taken to copy the batch or folio itself; it copies each chunk that no worker has begun.
 *
 * A worker that spends HOLD_MS in a chunk that it has claimed (delay_in_chunk_us) is, for its
 * mover, like a worker without its virtual CPU, which the host has taken away: it does not
 * run, and cannot be stopped. workers_only makes sure that there are such waits. The trace
 * shows which wait was in which migration: ferry_wait between mm_migrate_pages_start, which
 * has mode and reason, and mm_migrate_pages of the same task.
 *
 * The assertions:
 *  - no mover sleeps in MIGRATE_ASYNC, waiting for a worker or otherwise, according to the
 *    scheduler (sched_switch), not to the module; with "off", neither;
 *  - there were waits in MIGRATE_ASYNC for this reason, and some were given up, but none is
 *    a timeout of the worker's lane;
 *  - none of them, and none of these migrations from begin to end by the clock of the trace,
 *    took nearly as long as the worker: less than BOUND_MS, which has slack for virtual CPUs
 *    that the host takes away from the mover, and for the 50 ms that the mover leaves each
 *    chunk to workers (workers_only);
 *  - lanes that were given up are quiet in the end: nothing is parked, and content is right.
 *
 * Seen red, in a scratch copy: with Patience::Timeout for all batches, as in an earlier
 * version, the longest wait of numa_faults is 3004 ms, and compaction does not end in two
 * minutes. With Dispatcher::copy_now() waiting for the workers to take every chunk instead of
 * copying as the mover, numa_faults finds that the mover has copied 0 chunks, and workers
 * 512. With wait::poll() sleeping 100 ms between two looks, movers sleep 8 times in
 * numa_faults and 13 times in compaction.
 */
#include <sched.h>

#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"
#include "tracing.h"
#include "sleeps.h"

#define HOLD_MS		6000
#define BOUND_MS	5000
#define SCHED		"/sys/kernel/debug/sched/numa_balancing/"

FIXTURE(must_not_block)
{
	int nodes[FERRY_MAX_NODES];
	char *mem;
	size_t len;
	struct race_full full;
	struct trc trace;
};

FIXTURE_SETUP(must_not_block)
{
	self->mem = MAP_FAILED;
	if (ferry_cpu_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with CPUs");
	ASSERT_EQ(0, race_prepare(self->nodes));
	ASSERT_EQ(0, slp_begin(&self->trace, "must_not_block"));
	if (!ferry_loaded())
		return;
	/* Long enough that the timeout does not end a wait. */
	ASSERT_EQ(0, ferry_set_knob("timeout_ms", "60000"));
	ASSERT_EQ(0, ferry_set_knob("min_batch_bytes", "4096"));
	ASSERT_EQ(0, ferry_set_knob("chunk_bytes", "65536"));
	ASSERT_EQ(0, ferry_inject("delay_in_chunk_us", HOLD_MS * 1000));
	ASSERT_EQ(0, ferry_inject("workers_only", 1));
}

FIXTURE_TEARDOWN(must_not_block)
{
	ferry_pin_cpu(-1);
	if (self->mem != MAP_FAILED)
		munmap(self->mem, self->len);
	race_full_end(&self->full);
	trc_end(&self->trace);
	ferry_restore();
}

/* ---- the trace ---- */

static void expect(struct __test_metadata *_metadata, FIXTURE_DATA(must_not_block) * self,
		   const char *reason, const struct race_count *c)
{
	long cut = race_grown(c, "waits_cut");
	struct slp_seen seen;

	ASSERT_EQ(0, slp_look(&self->trace, "MIGRATE_ASYNC", reason, &seen));
	ferry_note("%s: %ld migrations in MIGRATE_ASYNC, %ld waits there, the longest %llu us",
		   reason, seen.migrations, seen.waits,
		   (unsigned long long)seen.longest_ns / 1000);
	ferry_note("their movers slept %ld times, %ld of them in waits", seen.sleeps,
		   seen.in_waits);
	ferry_note("the longest of these migrations took %llu us; %ld waits were given up",
		   (unsigned long long)seen.whole_ns / 1000, cut);
	ASSERT_GT(seen.migrations, 0);
	/* Not blocking: no mover sleeps, with the stock copy and with Ferry's. */
	EXPECT_EQ(0, seen.sleeps);
	if (!ferry_active())
		return;
	EXPECT_GT(seen.waits, 0);
	EXPECT_EQ(0, seen.in_waits);
	EXPECT_GT(seen.undone, 0);
	EXPECT_GE(cut, seen.undone);
	EXPECT_EQ(0, race_grown(c, "wait_timeouts"));
	EXPECT_LT(seen.longest_ns, BOUND_MS * 1000000ULL);
	EXPECT_LT(seen.whole_ns, BOUND_MS * 1000000ULL);
	EXPECT_TRUE(ferry_wait(race_none_parked, NULL, 20000));
	EXPECT_TRUE(ferry_wait(race_pool_whole, NULL, 20000));
}

/* ---- migrations that must not block ---- */

static bool quit;

static void *toucher_fn(void *arg)
{
	FIXTURE_DATA(must_not_block) * self = arg;
	size_t off;

	ferry_pin_cpu(ferry_node_cpu(self->nodes[1]));
	while (!__atomic_load_n(&quit, __ATOMIC_ACQUIRE)) {
		for (off = 0; off < self->len; off += FERRY_PAGE)
			race_touch(self->mem + off);
		ferry_sleep_ms(1);
	}
	return NULL;
}

/* NUMA faults migrate 2M folios, one at a time, which are copied in place. */
TEST_F(must_not_block, numa_faults)
{
	int iters = ferry_iters(4, 2), i;
	struct race_count c;
	pthread_t thread;
	long moved, was;
	u64 end;

	if (access("/proc/sys/kernel/numa_balancing", W_OK))
		SKIP(return, "no CONFIG_NUMA_BALANCING");
	self->len = 4 * FERRY_PMD;
	self->mem = ferry_map_anon(self->len, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
	ASSERT_EQ(0, ferry_set(SCHED "scan_delay_ms", "10"));
	ASSERT_EQ(0, ferry_set(SCHED "scan_period_min_ms", "20"));
	ASSERT_EQ(0, ferry_set(SCHED "scan_period_max_ms", "100"));
	ASSERT_EQ(0, trc_clear(&self->trace));
	race_count(&c);
	for (i = 0; i < iters; i++) {
		ASSERT_EQ(0, race_fresh(self->mem, self->len, FERRY_PMD, self->nodes[0]));
		ferry_fill(self->mem, self->len, 15, i);
		was = ferry_vmstat("numa_pages_migrated");
		ASSERT_EQ(0, ferry_set("/proc/sys/kernel/numa_balancing", "1"));
		/* The thread that touches the folios runs on the other node. */
		quit = false;
		ASSERT_EQ(0, pthread_create(&thread, NULL, toucher_fn, self));
		end = ferry_now_ns() + 20000000000ULL;
		do {
			ferry_sleep_ms(50);
			moved = ferry_vmstat("numa_pages_migrated") - was;
		} while (moved < self->len / FERRY_PAGE / 2 && ferry_now_ns() < end);
		__atomic_store_n(&quit, true, __ATOMIC_RELEASE);
		pthread_join(thread, NULL);
		ASSERT_EQ(0, ferry_set("/proc/sys/kernel/numa_balancing", "0"));
		ASSERT_EQ(0, ferry_verify(self->mem, self->len, 15, i));
		EXPECT_GT(moved, 0);
	}
	race_count_end(&c);
	if (ferry_active()) {
		EXPECT_GT(race_grown(&c, "folios_in_place"), 0);
		EXPECT_GT(race_grown(&c, "chunks_by_mover"),
			  4 * race_grown(&c, "chunks_by_others"));
	}
	expect(_metadata, self, "numa_misplaced", &c);
}

/*
 * Direct compaction for huge pages, which begins with MIGRATE_ASYNC: batches of 32 pages or
 * less, copied early. The node has no free block of 2M, but enough free pages.
 */
/* Fragments a node, and allocates large folios there. Returns how often it was compacted. */
static long compact(struct __test_metadata *_metadata, FIXTURE_DATA(must_not_block) * self)
{
	long stalls = 0, was, moved, wanted = ferry_iters(12, 4);
	int node = self->nodes[1];
	size_t off, len;
	char *mem;

	ferry_write("/proc/sys/vm/drop_caches", "3");
	/*
	 * While huge pages are enabled the kernel keeps 32 MiB of the node free, including
	 * whole blocks of 2M, which would leave nothing to compact.
	 */
	ASSERT_EQ(0, ferry_set(FERRY_THP "enabled", "never"));
	self->full = (struct race_full) { .node = node, .left = 16L << 20 };
	ASSERT_EQ(0, race_full(&self->full, FERRY_PAGE));
	mem = self->full.mem;
	len = self->full.len;
	/* Half of it is freed, in pieces of 32K, so that the rest is spread over the node. */
	for (off = 0; off < len; off += 16 * FERRY_PAGE)
		ASSERT_EQ(0, madvise(mem + off + 8 * FERRY_PAGE, 8 * FERRY_PAGE,
				     MADV_DONTNEED));
	for (off = 0; off < len; off += 16 * FERRY_PAGE)
		ferry_fill_at(mem + off, 8 * FERRY_PAGE, 16, 0, off);

	/* A third of the free memory now. */
	self->len = (len / 6) & ~(FERRY_PMD - 1);
	ASSERT_EQ(0, ferry_set(FERRY_THP "enabled", "madvise"));
	ASSERT_EQ(0, ferry_set(FERRY_THP "hugepages-2048kB/enabled", "inherit"));
	ASSERT_EQ(0, ferry_set(FERRY_THP "defrag", "madvise"));
	was = ferry_vmstat("compact_stall");
	moved = ferry_vmstat("pgmigrate_success");
	ASSERT_EQ(0, trc_clear(&self->trace));
	self->mem = ferry_map_anon(self->len, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
	ASSERT_EQ(0, madvise(self->mem, self->len, MADV_HUGEPAGE));
	/*
	 * Allocates until compaction was needed often enough: the free memory has some blocks
	 * of 2M, and compaction may find one that another task has freed.
	 */
	for (off = 0; off < self->len && (stalls < wanted ||
					  ferry_vmstat("pgmigrate_success") == moved);
	     off += FERRY_PMD) {
		ASSERT_EQ(0, ferry_populate(self->mem + off, FERRY_PMD, node));
		ferry_fill_at(self->mem + off, FERRY_PMD, 17, 0, off);
		stalls = ferry_vmstat("compact_stall") - was;
	}
	ASSERT_EQ(0, ferry_verify(self->mem, off, 17, 0));
	for (off = 0; off < len; off += 16 * FERRY_PAGE)
		ASSERT_EQ(0, ferry_verify_at(mem + off, 8 * FERRY_PAGE, 16, 0, off));
	return stalls;
}

TEST_F(must_not_block, compaction)
{
	struct race_count c;
	long stalls = 0;
	bool idle = false;
	int tries;

	race_count(&c);
	/* Earlier compaction, or kcompactd meanwhile, may leave too little to do. */
	for (tries = 0; tries < 4 && (!stalls || idle); tries++) {
		if (tries) {
			munmap(self->mem, self->len);
			self->mem = MAP_FAILED;
			race_full_end(&self->full);
		}
		stalls = compact(_metadata, self);
		race_count_end(&c);
		idle = ferry_active() && !race_grown(&c, "folios_copied_early");
	}
	ferry_note("%ld direct compactions, in round %d", stalls, tries);
	EXPECT_GT(stalls, 0);
	if (ferry_active())
		EXPECT_GT(race_grown(&c, "folios_copied_early"), 0);
	expect(_metadata, self, "compaction", &c);
}

TEST_HARNESS_MAIN
