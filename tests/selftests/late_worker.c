// SPDX-License-Identifier: GPL-2.0
/*
 * Invariant: I6
 *
 * Once a folio is settled, no worker touches its source or destination, on every path:
 * success, failure in the middle of a batch, retry.
 *
 * Workers are delayed inside a chunk, before they copy (delay_in_chunk_us) or after the copy
 * and before they complete the chunk (late_done_us), while every n-th folio of the batch
 * fails for good (fail_move_every). The stock kernel frees the destinations of these folios
 * at once. If the mover does not wait for the worker, the worker writes
 *  - to a folio that its owner has written to since: this shows in the content,
 *  - to a free page: this shows in new memory that is not zero, which init_on_free=1 on the
 *    kernel command line makes certain (allocations do not clear pages then), or in the
 *    kernel's log with page_poison=1 on a kernel that has it.
 *
 * move_pages(2) itself retries folios that failed one by one, so all of them have moved at
 * the end. The trace event of the batch counts the folios that failed, which shows that
 * exactly the n-th ones did.
 *
 * Seen red, in a scratch copy: with MigrateCopyBatch::settle() answering Copied for
 * Settle::Wait, that is, without waiting for the worker in the chunk, worker_late_in_place
 * (256K) finds 1044500, worker_late_to_copy 4177912 (4K) and 261127 (2M) of 4194304 bytes to
 * be zero.
 */
#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"

#define SIZED_LEN	(4UL << 20)
#include "sized.h"

/* Many more pages than were freed. */
#define NEW_LEN		(4 * SIZED_LEN)

/*
 * Moves, changes all content at once, and looks again when the last worker must have come
 * back.
 */
static void moves(struct __test_metadata *_metadata, FIXTURE_DATA(sized) * self,
		  unsigned int every, unsigned long late_ms, int iters)
{
	int i, from, to;

	if (ferry_loaded())
		ASSERT_EQ(0, ferry_inject("fail_move_every", every));
	for (i = 0; i < iters; i++) {
		from = self->nodes[i & 1];
		to = self->nodes[!(i & 1)];
		ASSERT_EQ(0, race_fresh(self->mem, SIZED_LEN, self->folio, from));
		ferry_fill(self->mem, SIZED_LEN, 1, i);
		ASSERT_LE(0, race_move_pages(self->mem, SIZED_LEN, self->folio, to));
		ASSERT_EQ(0, ferry_verify(self->mem, SIZED_LEN, 1, i));
		/* mTHPs that failed are split, and a part of one may fail again. */
		if (self->folio == FERRY_PAGE || self->folio == FERRY_PMD || !every)
			ASSERT_TRUE(race_all_on(self->mem, SIZED_LEN, to));
		ferry_fill(self->mem, SIZED_LEN, 2, i);
		ASSERT_EQ(0, race_not_zero(from, NEW_LEN));
		ASSERT_EQ(0, race_not_zero(to, NEW_LEN));
		ferry_sleep_ms(late_ms * 2);
		ASSERT_EQ(0, race_not_zero(from, NEW_LEN));
		ASSERT_EQ(0, race_not_zero(to, NEW_LEN));
		ASSERT_EQ(0, ferry_verify(self->mem, SIZED_LEN, 2, i));
	}
}

/* Runs with each rate of failures, with workers delayed at @where. */
static void late(struct __test_metadata *_metadata, FIXTURE_DATA(sized) * self,
		 const char *where)
{
	static const unsigned int every[] = { 0, 1, 2, 5 };
	struct race_count c;
	int log, i;

	log = race_log_open();
	race_count(&c);
	if (ferry_loaded()) {
		ASSERT_EQ(0, ferry_inject(where, 20000));
		ASSERT_EQ(0, ferry_inject("workers_only", 1));
		ASSERT_EQ(0, ferry_set_knob("timeout_ms", "60000"));
	}
	for (i = 0; i < ARRAY_SIZE(every); i++)
		moves(_metadata, self, every[i], 20, ferry_iters(2, 1));
	race_count_end(&c);
	EXPECT_EQ(0, race_log_count(log, "memory corruption"));
	if (!ferry_active())
		return;
	EXPECT_GT(race_grown(&c, "chunks_by_others"), 0);
	EXPECT_GT(race_grown(&c, "waits"), 0);
	EXPECT_EQ(0, race_grown(&c, "folios_not_quiet"));
}

TEST_F(sized, worker_late_to_copy)
{
	late(_metadata, self, "delay_in_chunk_us");
}

TEST_F(sized, worker_late_to_say_so)
{
	late(_metadata, self, "late_done_us");
}

/* In place: the mover must not return before the last worker has finished. */
TEST_F(sized, worker_late_in_place)
{
	struct race_count c;
	int i, to, iters = ferry_iters(6, 3);

	if (self->folio <= 131072)
		SKIP(return, "of one chunk: nothing to share");
	if (ferry_loaded()) {
		ASSERT_EQ(0, ferry_inject("decline_batch_every", 1));
		ASSERT_EQ(0, ferry_inject("delay_in_chunk_us", 20000));
		ASSERT_EQ(0, ferry_inject("workers_only", 1));
		ASSERT_EQ(0, ferry_set_knob("timeout_ms", "60000"));
	}
	race_count(&c);
	for (i = 0; i < iters; i++) {
		to = self->nodes[!(i & 1)];
		ASSERT_EQ(0, race_fresh(self->mem, SIZED_LEN, self->folio, self->nodes[i & 1]));
		ferry_fill(self->mem, SIZED_LEN, 3, i);
		ASSERT_EQ(0, ferry_move_range(self->mem, SIZED_LEN, self->folio, to, NULL));
		ASSERT_EQ(0, ferry_verify(self->mem, SIZED_LEN, 3, i));
		ferry_fill(self->mem, SIZED_LEN, 4, i);
		ferry_sleep_ms(50);
		ASSERT_EQ(0, ferry_verify(self->mem, SIZED_LEN, 4, i));
	}
	race_count_end(&c);
	if (!ferry_active())
		return;
	EXPECT_GT(race_grown(&c, "chunks_by_others"), 0);
	EXPECT_EQ(0, race_grown(&c, "bytes_early"));
}

/*
 * Exactly the n-th folios fail: folios that mm_migrate_pages counts for the batch as failed
 * for good are tried again afterwards, and each folio that succeeded is counted once.
 */
TEST_F(sized, exactly_the_nth_fail)
{
	long ok, n = SIZED_LEN / FERRY_PAGE;
	struct race_count c;
	char *text, *p;
	long failed = 0, f;

	if (self->folio != FERRY_PAGE)
		SKIP(return, "large folios are split when they are tried again");
	ASSERT_EQ(0, race_fresh(self->mem, SIZED_LEN, self->folio, self->nodes[0]));
	ferry_fill(self->mem, SIZED_LEN, 8, 0);
	if (ferry_loaded())
		ASSERT_EQ(0, ferry_inject("fail_move_every", 8));
	ASSERT_EQ(0, ferry_trace_event("migrate/mm_migrate_pages", true));
	ASSERT_EQ(0, ferry_trace_clear());
	race_count(&c);
	ok = ferry_vmstat("pgmigrate_success");
	ASSERT_EQ(0, race_move_pages(self->mem, SIZED_LEN, self->folio, self->nodes[1]));
	EXPECT_EQ(n, ferry_vmstat("pgmigrate_success") - ok);
	race_count_end(&c);
	text = ferry_trace_read();
	ASSERT_NE(NULL, text);
	for (p = text; (p = strstr(p, "nr_failed=")); p++) {
		if (sscanf(p, "nr_failed=%ld", &f) == 1)
			failed += f;
	}
	free(text);
	EXPECT_EQ(0, failed);
	ASSERT_EQ(0, ferry_verify(self->mem, SIZED_LEN, 8, 0));
	if (ferry_active())
		EXPECT_GT(race_grown(&c, "batches"), 0);
}

TEST_HARNESS_MAIN
