// SPDX-License-Identifier: GPL-2.0
/*
 * The number of workers that a batch gets follows from their measured gain: batches with one
 * worker and with one more are tried out, and debugfs shows the results. With cpu_workers at
 * 0 no worker is woken, and movers copy large folios themselves.
 *
 * The best number depends on the machine. src/core/workers.rs tests with modelled machines
 * that Ferry finds it.
 *
 * Seen red: without the look at cpu_workers in Cpu::want(), workers are woken.
 */
#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"

#define SIZED_LEN	(8UL << 20)
#include "sized.h"

static void moves(struct __test_metadata *_metadata, char *mem, size_t folio,
		  const int *nodes, int iters)
{
	int i;

	for (i = 0; i < iters; i++) {
		ASSERT_EQ(0, race_fresh(mem, SIZED_LEN, folio, nodes[i & 1]));
		ferry_fill(mem, SIZED_LEN, folio, i);
		ASSERT_EQ(0, ferry_move_range(mem, SIZED_LEN, folio, nodes[!(i & 1)], NULL));
		ASSERT_EQ(0, ferry_verify(mem, SIZED_LEN, folio, i));
		ASSERT_EQ(SIZED_LEN, ferry_in_folios_of(mem, SIZED_LEN, folio));
	}
}

/*
 * Returns true if ferry/state has a line of this folio size with a cost for this number of
 * workers.
 */
static bool known(size_t folio, unsigned int workers)
{
	char line[512], how[16], cost[32];
	bool found = false;
	size_t size;
	FILE *f = fopen(FERRY_DEBUGFS "state", "r");

	if (!f)
		return false;
	snprintf(cost, sizeof(cost), " %u:", workers);
	while (!found && fgets(line, sizeof(line), f))
		found = sscanf(line, "gain %15s %zu", how, &size) == 2 && size == folio &&
			strstr(line, cost);
	fclose(f);
	return found;
}

TEST_F(sized, gain_is_tried_out)
{
	int i;

	if (!ferry_active())
		SKIP(return, "needs a migrator");
	ASSERT_EQ(0, ferry_inject("all_workers", 0));
	/* On a busy host all workers may be busy for long; then there is nothing to try out. */
	for (i = 0; i < 40 && !known(self->folio, 1); i++)
		moves(_metadata, self->mem, self->folio, self->nodes, 8);
	EXPECT_TRUE(known(self->folio, 1));
}

TEST_F(sized, gain_without_workers)
{
	struct race_count c;

	if (!ferry_active())
		SKIP(return, "needs a migrator");
	ASSERT_EQ(0, ferry_set_knob("cpu_workers", "0"));
	race_count(&c);
	moves(_metadata, self->mem, self->folio, self->nodes, 4);
	race_count_end(&c);
	EXPECT_EQ(0, race_grown(&c, "workers_woken"));
	EXPECT_EQ(0, race_grown(&c, "chunks_by_others"));
	EXPECT_EQ(0, race_grown(&c, "batches"));
	if (self->folio > FERRY_PAGE)
		EXPECT_EQ(4 * (long)(SIZED_LEN / self->folio),
			  race_grown(&c, "folios_in_place_alone"));
}

TEST_HARNESS_MAIN
