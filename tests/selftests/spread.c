// SPDX-License-Identifier: GPL-2.0
/*
 * Invariants: I12, I16, I17
 *
 * A call of migrate_pages() whose batches are migrated by workers, too ("spread_workers"), has
 * the result of the call that its mover makes alone: the same return value, the same status of
 * each page, the same pages on each node, the same counts in /proc/vmstat, and every byte.
 *
 * Movers whose context a worker cannot have keep their batches. Each call ends with its
 * folios on the LRU lists: what could not move then can be moved later.
 *
 * Seen red, in a scratch copy of mm/migrate.c: in has_the_result_of_its_mover_alone, with what
 * a worker leaves over on no list, thousands of pages have another status, and with a mover
 * that does not wait for workers, the return value and all counts differ; in
 * real_time_movers_keep_their_batches, with the policy of the mover not asked for, its call is
 * spread.
 */
#include <fcntl.h>
#include <sched.h>
#include <sys/uio.h>

#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"

/* 16 batches of 512 pages. */
#define LEN	(32UL << 20)
#define PAGES	(LEN / FERRY_PAGE)
/* Pages that a pipe holds. */
#define PINS	16
#define UNSET	(-12345)

struct outcome {
	long ret, succeeded, failed, there;
	int status[PAGES];
};

FIXTURE(spread)
{
	int nodes[FERRY_MAX_NODES];
	char *mem;
	void *pages[PAGES];
	int to[PAGES];
	long nr;
	struct outcome alone, spread;
	struct race_full full;
	struct race_count counts;
};

FIXTURE_SETUP(spread)
{
	self->mem = MAP_FAILED;
	self->full.len = 0;
	if (ferry_cpu_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with CPUs");
	if (!ferry_active() || strcmp(ferry_migrator(), "cpu"))
		SKIP(return, "needs workers");
	ASSERT_EQ(0, race_prepare(self->nodes));
	ASSERT_EQ(0, ferry_set_knob("spread_workers", "2"));
	/* Otherwise each call has one batch. */
	ASSERT_EQ(0, ferry_set_knob("batch_folios", "512"));
	self->mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
	ASSERT_EQ(0, race_fresh(self->mem, LEN, FERRY_PAGE, self->nodes[0]));
	race_count(&self->counts);
}

FIXTURE_TEARDOWN(spread)
{
	race_full_end(&self->full);
	if (self->mem != MAP_FAILED)
		munmap(self->mem, LEN);
	ferry_restore();
}

static unsigned int next(unsigned int *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 8;
}

/* Lists pages of the memory, some of them twice or not at all, in order or not. */
static void list_pages(FIXTURE_DATA(spread) * self, unsigned int *seed)
{
	bool shuffled = next(seed) & 1;
	long i, j;
	void *p;

	self->nr = PAGES / 2 + next(seed) % (PAGES / 2);
	for (i = 0; i < self->nr; i++) {
		self->pages[i] = self->mem + i * FERRY_PAGE;
		self->to[i] = self->nodes[1];
	}
	for (i = self->nr - 1; shuffled && i > 0; i--) {
		j = next(seed) % (i + 1);
		p = self->pages[i];
		self->pages[i] = self->pages[j];
		self->pages[j] = p;
	}
}

/* Moves the listed pages, and records what the kernel says of it. */
static void move_listed(FIXTURE_DATA(spread) * self, struct outcome *o)
{
	long succeeded = ferry_vmstat("pgmigrate_success");
	long failed = ferry_vmstat("pgmigrate_fail");
	long i;

	for (i = 0; i < self->nr; i++)
		o->status[i] = UNSET;
	o->ret = ferry_move_pages(0, self->nr, self->pages, self->to, o->status,
				  MPOL_MF_MOVE);
	o->succeeded = ferry_vmstat("pgmigrate_success") - succeeded;
	o->failed = ferry_vmstat("pgmigrate_fail") - failed;
	o->there = ferry_count_on(self->mem, LEN, FERRY_PAGE, self->nodes[1]);
}

TEST_F(spread, has_the_result_of_its_mover_alone)
{
	int iters = ferry_iters(100, 12), i, p, nr_pins, differ, pipe_fd[2];
	unsigned int seed = 1;
	struct iovec iov;

	for (i = 0; i < iters; i++) {
		/* Holes, which move_pages() reports. */
		for (p = next(&seed) % 40; p > 0; p--)
			ASSERT_EQ(0, madvise(self->mem + next(&seed) % PAGES * FERRY_PAGE,
					     FERRY_PAGE, MADV_DONTNEED));
		list_pages(self, &seed);
		/* Pages that cannot move: the pipe has references. */
		ASSERT_EQ(0, pipe(pipe_fd));
		nr_pins = next(&seed) % PINS;
		for (p = 0; p < nr_pins; p++) {
			iov.iov_base = self->mem + next(&seed) % PAGES * FERRY_PAGE;
			iov.iov_len = FERRY_PAGE;
			/* A hole becomes a page by it, on the node of the caller. */
			ASSERT_EQ((long)FERRY_PAGE, vmsplice(pipe_fd[1], &iov, 1, 0));
		}
		ASSERT_EQ(0, ferry_set_knob("spread_workers", "0"));
		race_move_pages(self->mem, LEN, FERRY_PAGE, self->nodes[0]);
		move_listed(self, &self->alone);
		race_move_pages(self->mem, LEN, FERRY_PAGE, self->nodes[0]);
		ASSERT_EQ(0, ferry_set_knob("spread_workers", "2"));
		move_listed(self, &self->spread);
		EXPECT_EQ(self->alone.ret, self->spread.ret);
		EXPECT_EQ(self->alone.succeeded, self->spread.succeeded);
		EXPECT_EQ(self->alone.failed, self->spread.failed);
		EXPECT_EQ(self->alone.there, self->spread.there);
		for (p = 0, differ = 0; p < self->nr; p++)
			differ += self->alone.status[p] != self->spread.status[p];
		ASSERT_EQ(0, differ);
		close(pipe_fd[0]);
		close(pipe_fd[1]);
		ASSERT_EQ(0, race_fresh(self->mem, LEN, FERRY_PAGE, self->nodes[0]));
	}
	race_count_end(&self->counts);
	EXPECT_GT(race_grown(&self->counts, "calls_spread"), 0);
	EXPECT_GT(race_grown(&self->counts, "batches_by_workers"), 0);
	EXPECT_GT(race_grown(&self->counts, "pages_by_workers"), 0);
	EXPECT_TRUE(ferry_wait(race_pool_whole, NULL, 20000));
}

TEST_F(spread, keeps_every_byte)
{
	int iters = ferry_iters(20, 4), i, node;

	ferry_fill(self->mem, LEN, 3, 0);
	for (i = 0; i < iters; i++) {
		node = self->nodes[!(i & 1)];
		ASSERT_EQ(0, race_move_pages(self->mem, LEN, FERRY_PAGE, node));
		ASSERT_EQ((long)PAGES, ferry_count_on(self->mem, LEN, FERRY_PAGE, node));
		ASSERT_EQ(0, ferry_verify(self->mem, LEN, 3, 0));
	}
	race_count_end(&self->counts);
	EXPECT_GT(race_grown(&self->counts, "batches_by_workers"), 0);
}

/* A lack of memory is the mover's to deal with, and nothing stays behind. */
TEST_F(spread, destination_is_full)
{
	long moved;
	int tries;

	ferry_fill(self->mem, LEN, 4, 0);
	/* Reclaim makes room meanwhile; it does not find much a second time. */
	for (tries = 0, moved = PAGES; tries < 4 && moved == PAGES; tries++) {
		race_full_end(&self->full);
		ASSERT_EQ(0, race_move_pages(self->mem, LEN, FERRY_PAGE, self->nodes[0]));
		ferry_write("/proc/sys/vm/drop_caches", "3");
		self->full = (struct race_full) { .node = self->nodes[1], .left = LEN / 4 };
		ASSERT_EQ(0, race_full(&self->full, FERRY_PAGE));
		race_move_pages(self->mem, LEN, FERRY_PAGE, self->nodes[1]);
		moved = ferry_count_on(self->mem, LEN, FERRY_PAGE, self->nodes[1]);
		ferry_note("%ld of %lu pages moved", moved, PAGES);
	}
	EXPECT_GT(moved, 0);
	EXPECT_LT(moved, (long)PAGES);
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, 4, 0));
	race_full_end(&self->full);
	ASSERT_EQ(0, race_move_pages(self->mem, LEN, FERRY_PAGE, self->nodes[1]));
	EXPECT_EQ((long)PAGES, ferry_count_on(self->mem, LEN, FERRY_PAGE, self->nodes[1]));
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, 4, 0));
	race_count_end(&self->counts);
	EXPECT_GT(race_grown(&self->counts, "calls_spread"), 0);
}

/* A worker cannot run at a real-time priority, and does not make its mover wait for it. */
TEST_F(spread, real_time_movers_keep_their_batches)
{
	struct sched_param param = { .sched_priority = 1 };

	ASSERT_EQ(0, sched_setscheduler(0, SCHED_FIFO, &param));
	EXPECT_EQ(0, race_move_pages(self->mem, LEN, FERRY_PAGE, self->nodes[1]));
	param.sched_priority = 0;
	ASSERT_EQ(0, sched_setscheduler(0, SCHED_OTHER, &param));
	race_count_end(&self->counts);
	EXPECT_EQ(0, race_grown(&self->counts, "calls_spread"));
}

/* Two movers over the same memory, while the migrator is switched off and on. */
TEST_F(spread, movers_overlap_and_the_migrator_goes)
{
	int iters = ferry_iters(30, 5), i;
	struct race_move a = {}, b = {};

	ferry_fill(self->mem, LEN, 5, 0);
	for (i = 0; i < iters; i++) {
		ASSERT_EQ(0, race_move_start(&a, self->mem, LEN, FERRY_PAGE,
					     self->nodes[!(i & 1)], -1));
		ASSERT_EQ(0, race_move_start(&b, self->mem + LEN / 4, LEN / 2, FERRY_PAGE,
					     self->nodes[i & 1], -1));
		ferry_sleep_ms(i * 7 % 40);
		ASSERT_EQ(0, ferry_set_knob("migrator", "off"));
		ASSERT_EQ(0, ferry_set_knob("migrator", "cpu"));
		race_move_end(&a);
		race_move_end(&b);
		ASSERT_EQ(0, ferry_verify(self->mem, LEN, 5, 0));
	}
	ASSERT_EQ(0, race_move_pages(self->mem, LEN, FERRY_PAGE, self->nodes[0]));
	ASSERT_EQ(0, race_move_pages(self->mem, LEN, FERRY_PAGE, self->nodes[1]));
	EXPECT_EQ((long)PAGES, ferry_count_on(self->mem, LEN, FERRY_PAGE, self->nodes[1]));
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, 5, 0));
	race_count_end(&self->counts);
	EXPECT_GT(race_grown(&self->counts, "calls_spread"), 0);
	EXPECT_TRUE(ferry_wait(race_none_parked, NULL, 20000));
	EXPECT_TRUE(ferry_wait(race_pool_whole, NULL, 20000));
}

TEST_HARNESS_MAIN
