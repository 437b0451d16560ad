// SPDX-License-Identifier: GPL-2.0
/*
 * Invariant: I3
 *
 * The mark "the content is in dst" is valid for one attempt to move a folio only.
 *
 * again_move_every lets every n-th folio of a batch be settled as usual, overwrites its
 * destination with 0xa5, and returns -EAGAIN, as if a transient reference had made the
 * attempt fail. The retry has to copy the folio again, although it was copied before.
 *
 * Seen red, in a scratch copy: with a FOLIO_WAS_COPIED beside FOLIO_WAS_MLOCKED in
 * mm/migrate.c, set for folios of a batch when migrate_folio_move() records them for another
 * attempt, and taken there for a return value of 1 by migrate_copy_settle(), all eight tests
 * fail: early_copies_are_not_used_twice finds 4161674 of 8388608 bytes to be 0xa5 at 4K,
 * 4112708 at 64K.
 */
#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"

#define SIZED_LEN	(8UL << 20)
#include "sized.h"

static void moves(struct __test_metadata *_metadata, char *mem, size_t folio,
		  const int *nodes, unsigned int every, int iters)
{
	long ok, fail;
	int i;

	if (ferry_loaded())
		ASSERT_EQ(0, ferry_inject("again_move_every", every));
	for (i = 0; i < iters; i++) {
		ASSERT_EQ(0, race_fresh(mem, SIZED_LEN, folio, nodes[i & 1]));
		ferry_fill(mem, SIZED_LEN, every, i);
		ok = ferry_vmstat("pgmigrate_success");
		fail = ferry_vmstat("pgmigrate_fail");
		ASSERT_EQ(0, ferry_move_range(mem, SIZED_LEN, folio, nodes[!(i & 1)], NULL));
		ASSERT_EQ(0, ferry_verify(mem, SIZED_LEN, every, i));
		ASSERT_TRUE(race_all_on(mem, SIZED_LEN, nodes[!(i & 1)]));
		ASSERT_EQ(SIZED_LEN, ferry_in_folios_of(mem, SIZED_LEN, folio));
		/* A folio that needed two attempts counts as one success. */
		EXPECT_EQ(SIZED_LEN / FERRY_PAGE,
			  ferry_vmstat("pgmigrate_success") - ok);
		EXPECT_EQ(fail, ferry_vmstat("pgmigrate_fail"));
	}
}

TEST_F(sized, spoilt_folios_are_copied_again)
{
	static const unsigned int every[] = { 1, 2, 3, 7 };
	struct race_count c;
	int i;

	if (ferry_loaded())
		ASSERT_EQ(0, ferry_inject("workers_only", 1));
	race_count(&c);
	for (i = 0; i < ARRAY_SIZE(every); i++)
		moves(_metadata, self->mem, self->folio, self->nodes, every[i],
		      ferry_iters(2, 1));
	race_count_end(&c);
	if (ferry_active())
		EXPECT_GT(race_grown(&c, "batches"), 0);
}

/* As above, but the folio was certainly copied before its destination was overwritten. */
TEST_F(sized, early_copies_are_not_used_twice)
{
	struct race_count c;

	if (ferry_loaded())
		ASSERT_EQ(0, ferry_inject("workers_only", 1));
	race_count(&c);
	moves(_metadata, self->mem, self->folio, self->nodes, 2, ferry_iters(4, 2));
	race_count_end(&c);
	if (!ferry_active())
		return;
	EXPECT_GT(race_grown(&c, "folios_copied_early"), 0);
	EXPECT_GT(race_grown(&c, "chunks_by_others"), 0);
}

TEST_HARNESS_MAIN
