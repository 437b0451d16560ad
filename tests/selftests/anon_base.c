// SPDX-License-Identifier: GPL-2.0
/* Anonymous 4K folios between two nodes. */
#include "kselftest_harness.h"
#include "ferry_util.h"

FIXTURE(anon_base)
{
	int nodes[FERRY_MAX_NODES];
	char *mem;
	size_t len;
};

FIXTURE_SETUP(anon_base)
{
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	self->len = 16UL << 20;
	ASSERT_EQ(0, ferry_mthp_only(0));
	self->mem = ferry_map_anon(self->len, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
}

FIXTURE_TEARDOWN(anon_base)
{
	munmap(self->mem, self->len);
	ferry_restore();
}

TEST_F(anon_base, ping_pong)
{
	int iters = ferry_iters(20, 6), i, to;
	struct ferry_stats before, after;

	ASSERT_EQ(0, ferry_populate(self->mem, self->len, self->nodes[0]));
	ASSERT_EQ(self->len, ferry_in_folios_of(self->mem, self->len, FERRY_PAGE));
	ASSERT_EQ(0, ferry_stats_get(&before));
	for (i = 0; i < iters; i++) {
		to = self->nodes[!(i & 1)];
		ferry_fill(self->mem, self->len, 1, i);
		ASSERT_EQ(0, ferry_move_range(self->mem, self->len, FERRY_PAGE, to, NULL));
		ASSERT_EQ(0, ferry_verify(self->mem, self->len, 1, i));
	}
	ASSERT_EQ(0, ferry_stats_get(&after));
	EXPECT_TRUE(ferry_stats_used(&before, &after));
}

TEST_HARNESS_MAIN
