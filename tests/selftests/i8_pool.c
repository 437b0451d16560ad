// SPDX-License-Identifier: GPL-2.0
/*
 * I8: nothing on the path of a migration allocates; when the pool of batch objects is
 * empty, the stock kernel copies, and that is counted.
 *
 * exhaust_pool makes the pool look empty, as many migrations at a time would. Every
 * batch and every copy in place has to be declined then, nothing may be copied by the
 * migrator, and all of it has to arrive. Afterwards the pool is whole and in use again.
 *
 * Seen red, in a scratch copy: with Pool::take() making a new batch object where there is
 * none left, nothing is declined, and batches and bytes_early grow.
 */
#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"

#define SIZED_LEN	(8UL << 20)
#include "sized.h"

static void moves(struct __test_metadata *_metadata, FIXTURE_DATA(sized) * self, int seed)
{
	int i;

	for (i = 0; i < 4; i++) {
		int to = self->nodes[!(i & 1)];

		ASSERT_EQ(0, hz_fresh(self->mem, SIZED_LEN, self->folio, self->nodes[i & 1]));
		ferry_fill(self->mem, SIZED_LEN, seed, i);
		ASSERT_EQ(0, ferry_move_range(self->mem, SIZED_LEN, self->folio, to, NULL));
		ASSERT_EQ(0, ferry_verify(self->mem, SIZED_LEN, seed, i));
		ASSERT_TRUE(hz_all_on(self->mem, SIZED_LEN, to));
	}
}

TEST_F(sized, i8_empty_pool_declines)
{
	struct hz_count c;

	if (ferry_loaded()) {
		ASSERT_EQ(0, ferry_inject("exhaust_pool", 1));
		ASSERT_EQ(0, ferry_inject("helper_only", 1));
	}
	hz_count(&c);
	moves(_metadata, self, 81);
	hz_count_end(&c);
	if (ferry_active()) {
		EXPECT_GT(hz_grown(&c, "batches_declined_pool"), 0);
		EXPECT_EQ(0, hz_grown(&c, "batches"));
		EXPECT_EQ(0, hz_grown(&c, "now_calls"));
		EXPECT_EQ(0, hz_grown(&c, "bytes_early"));
		EXPECT_EQ(0, hz_grown(&c, "bytes_now"));
	}
	if (!ferry_loaded())
		return;

	ASSERT_EQ(0, ferry_inject("exhaust_pool", 0));
	hz_count(&c);
	moves(_metadata, self, 82);
	hz_count_end(&c);
	EXPECT_TRUE(ferry_wait(hz_pool_whole, NULL, 20000));
	if (!ferry_active())
		return;
	EXPECT_EQ(0, hz_grown(&c, "batches_declined_pool"));
	EXPECT_GT(hz_grown(&c, "batches"), 0);
}

TEST_HARNESS_MAIN
