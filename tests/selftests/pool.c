// SPDX-License-Identifier: GPL-2.0
/*
 * Invariant: I8
 *
 * Nothing on the path of a migration allocates; when the pool of batch objects is empty, the
 * stock kernel copies, and a counter counts that.
 *
 * The kernel's events of slabs, pages and per-CPU memory show the allocations of the mover
 * and of all workers. The mover allocates destinations, and then unmaps their folios
 * (set_migration_pte, set_migration_pmd): from the last folio unmapped until the last one is
 * mapped again (remove_migration_*) and the batch is over (ferry_finish) there is nothing to
 * allocate, with the migrator and with "off". Workers allocate at no time. Allocations in
 * interrupts meanwhile belong to neither.
 *
 * Drivers in the kernel allocate the descriptors of their engines; these allocations must not
 * enter reclaim, nor draw on reserves. The SDXI driver is in ferry.ko, and allocates nothing.
 *
 * exhaust_pool makes the pool look empty, as many migrations at a time would. Then every
 * batch and every copy in place has to be declined, the migrator may copy nothing, and all of
 * the memory has to arrive. Afterwards the pool is whole and in use again.
 *
 * Seen red, in a scratch copy: with Pool::take() making a new batch object when none is left,
 * nothing is declined, and batches and bytes_early grow. With kfree(kmalloc(64, GFP_NOWAIT))
 * in ferry_may_claim(), 8176 allocations of workers with 4K folios, 322 of them and 62 of the
 * mover on its path with 2M.
 */
#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"
#include "tracing.h"

#define SIZED_LEN	(8UL << 20)
#include "sized.h"

static void moves(struct __test_metadata *_metadata, FIXTURE_DATA(sized) * self, int seed)
{
	int i;

	for (i = 0; i < 4; i++) {
		int to = self->nodes[!(i & 1)];

		ASSERT_EQ(0, race_fresh(self->mem, SIZED_LEN, self->folio, self->nodes[i & 1]));
		ferry_fill(self->mem, SIZED_LEN, seed, i);
		ASSERT_EQ(0, ferry_move_range(self->mem, SIZED_LEN, self->folio, to, NULL));
		ASSERT_EQ(0, ferry_verify(self->mem, SIZED_LEN, seed, i));
		ASSERT_TRUE(race_all_on(self->mem, SIZED_LEN, to));
	}
}

TEST_F(sized, empty_pool_declines)
{
	struct race_count c;

	if (ferry_loaded()) {
		ASSERT_EQ(0, ferry_inject("exhaust_pool", 1));
		ASSERT_EQ(0, ferry_inject("workers_only", 1));
	}
	race_count(&c);
	moves(_metadata, self, 81);
	race_count_end(&c);
	if (ferry_active()) {
		EXPECT_GT(race_grown(&c, "batches_declined_pool"), 0);
		EXPECT_EQ(0, race_grown(&c, "batches"));
		EXPECT_EQ(0, race_grown(&c, "folios_in_place"));
		EXPECT_EQ(0, race_grown(&c, "bytes_early"));
		EXPECT_EQ(0, race_grown(&c, "bytes_in_place"));
	}
	if (!ferry_loaded())
		return;

	ASSERT_EQ(0, ferry_inject("exhaust_pool", 0));
	race_count(&c);
	moves(_metadata, self, 82);
	race_count_end(&c);
	EXPECT_TRUE(ferry_wait(race_pool_whole, NULL, 20000));
	if (!ferry_active())
		return;
	EXPECT_EQ(0, race_grown(&c, "batches_declined_pool"));
	EXPECT_GT(race_grown(&c, "batches"), 0);
}

/* The allocations in a trace. */
struct allocated {
	long seen;		/* all of the mover; they prove that the trace works */
	long on_path;
	long by_driver;		/* by an engine's driver on the path; not contained in on_path */
	long by_workers;
	long workers_ran;	/* times that a worker got its CPU */
};

static bool is_allocation(const char *name)
{
	return !strcmp(name, "kmalloc") || !strcmp(name, "kmem_cache_alloc") ||
	       !strcmp(name, "mm_page_alloc") || !strcmp(name, "percpu_alloc_percpu");
}

/*
 * Returns true if a driver of an engine may make this allocation: without reclaim, and
 * without reserves.
 */
static bool is_drivers(const struct race_event *e)
{
	static const char * const never[] = {
		"GFP_KERNEL", "GFP_ATOMIC", "GFP_NOIO", "GFP_NOFS", "__GFP_DIRECT_RECLAIM",
		"__GFP_RECLAIM", "__GFP_HIGH", "__GFP_MEMALLOC", "__GFP_NOFAIL",
	};
	int i;

	if (!ferry_active() || !strcmp(ferry_migrator(), "cpu") ||
	    strstr(ferry_migrator(), "sdxi"))
		return false;
	for (i = 0; i < ARRAY_SIZE(never); i++)
		if (strstr(e->args, never[i]))
			return false;
	/* A slab without a free object gets pages for more. */
	return !strcmp(e->name, "mm_page_alloc") ||
	       (strstr(e->args, " [") && !strstr(e->args, "[ferry]"));
}

static void look_at_allocations(struct __test_metadata *_metadata, const struct trc *t,
				const int *workers, int nr_workers, struct allocated *got)
{
	char *text = trc_read(t), *next = text, first[300] = "";
	long pending = 0, drivers = 0;
	int mover = getpid(), i;
	struct race_event e;

	memset(got, 0, sizeof(*got));
	ASSERT_NE(NULL, text);
	while (race_next_event(&next, &e)) {
		if (e.in_interrupt)
			continue;
		for (i = 0; i < nr_workers && workers[i] != e.pid; i++)
			;
		if (i < nr_workers) {
			got->workers_ran += !strcmp(e.name, "sched_switch");
			if (!is_allocation(e.name))
				continue;
			if (!got->by_workers++)
				ferry_note("a worker: %s: %s", e.name, e.args);
		}
		if (e.pid != mover)
			continue;
		if (is_allocation(e.name)) {
			got->seen++;
			if (is_drivers(&e)) {
				drivers++;
				continue;
			}
			if (!pending++)
				snprintf(first, sizeof(first), "%s: %s", e.name, e.args);
		} else if (!strncmp(e.name, "set_migration_", 14)) {
			/*
			 * The allocations were destinations, of this folio or of one that was
			 * not unmapped.
			 */
			pending = 0;
			drivers = 0;
		} else if (!strncmp(e.name, "remove_migration_", 17) ||
			   !strcmp(e.name, "ferry_finish")) {
			if (pending && !got->on_path)
				ferry_note("the mover: %s", first);
			got->on_path += pending;
			got->by_driver += drivers;
			pending = 0;
			drivers = 0;
		}
	}
	free(text);
}

TEST_F(sized, nothing_is_allocated)
{
	static const char * const events[] = {
		"kmem/kmalloc", "kmem/kmem_cache_alloc", "kmem/mm_page_alloc",
		"percpu/percpu_alloc_percpu", "migrate/set_migration_pte",
		"migrate/remove_migration_pte", "thp/set_migration_pmd",
		"thp/remove_migration_pmd", "sched/sched_switch",
	};
	int workers[256], n, i;
	struct allocated got;
	struct race_count c;
	struct trc trace;

	if (ferry_active() && strcmp(ferry_migrator(), "cpu") &&
	    !access("/sys/kernel/debug/dma-api", F_OK))
		SKIP(return, "CONFIG_DMA_API_DEBUG allocates with each mapping");
	n = ferry_threads(workers, ARRAY_SIZE(workers));
	ASSERT_EQ(0, trc_begin(&trace, "pool", 8192));
	ASSERT_EQ(0, trc_pid(&trace, getpid()));
	for (i = 0; i < n; i++)
		ASSERT_EQ(0, trc_pid(&trace, workers[i]));
	for (i = 0; i < ARRAY_SIZE(events); i++)
		ASSERT_EQ(0, trc_event(&trace, events[i], NULL));
	if (ferry_loaded()) {
		ASSERT_EQ(0, trc_event(&trace, "ferry/ferry_finish", NULL));
		ASSERT_EQ(0, ferry_inject("workers_only", 1));
	}
	race_count(&c);
	moves(_metadata, self, 83);
	race_count_end(&c);
	ASSERT_EQ(0, trc_on(&trace, false));
	look_at_allocations(_metadata, &trace, workers, n, &got);
	trc_end(&trace);
	ferry_note("%ld allocations by the mover, %ld of them on the path, %ld there by a driver",
		   got.seen, got.on_path, got.by_driver);
	ferry_note("%d workers, %ld times on a CPU, %ld allocations",
		   n, got.workers_ran, got.by_workers);
	ferry_note("%ld chunks by others, %ld descriptors", race_grown(&c, "chunks_by_others"),
		   race_grown(&c, "engine_descriptors"));
	/* At least the destinations. */
	EXPECT_GE(got.seen, 4 * (long)(SIZED_LEN / self->folio));
	EXPECT_EQ(0, got.on_path);
	EXPECT_EQ(0, got.by_workers);
	if (!ferry_active())
		return;
	EXPECT_GT(race_grown(&c, "chunks_by_others"), 0);
	if (!strcmp(ferry_migrator(), "cpu"))
		EXPECT_GT(got.workers_ran, 0);
	/* An object for each descriptor, and the pages that slabs need for them. */
	EXPECT_LE(got.by_driver, 2 * race_grown(&c, "engine_descriptors"));
}

TEST_HARNESS_MAIN
