// SPDX-License-Identifier: GPL-2.0
/*
 * Nothing is lost with an engine that comes back late, or hangs, whatever its driver reports:
 * the engine does not write to memory that the kernel has got back. As engine_faults, without
 * the results that need a driver that proves its engine quiet.
 *
 * Seen red, in a scratch copy: with a driver that reports errors and whose terminate neither
 * waits for the engine nor reports that it does not (scripts/dma-cuts, "mute"), and a
 * ferry.ko that trusts it all the same.
 */
#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"
#include "engine.h"
#include "faults.h"

/*
 * The time in ms for a proof if there is one, and for a copy that is carried out late: both
 * take less.
 */
#define SETTLE_MS	1000

FIXTURE(honest)
{
	struct flt f;
};

FIXTURE_VARIANT(honest)
{
	const char *what;
};

FIXTURE_VARIANT_ADD(honest, late_write) { .what = FLT_LATE };
FIXTURE_VARIANT_ADD(honest, hang) { .what = "\"kind\":\"hang\"" };

FIXTURE_SETUP(honest)
{
	self->f.mem = MAP_FAILED;
	self->f.port = -1;
	if (!ferry_active() || !strcmp(ferry_migrator(), "cpu"))
		SKIP(return, "needs an engine");
	if (ferry_mem_nodes(self->f.nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	flt_begin(_metadata, &self->f, ferry_migrator(), 64,
		  strcmp(ferry_migrator(), "ptdma") ? 4 : 1);
	/* Movers wait that long if the driver gives no proof. */
	ASSERT_EQ(0, ferry_set_knob("timeout_ms", "%d", FLT_NO_PROOF_MS));
}

FIXTURE_TEARDOWN(honest)
{
	flt_end(&self->f);
}

TEST_F(honest, what_has_been_freed)
{
	struct flt *f = &self->f;
	char request[200];
	struct race_count c;

	ASSERT_EQ(0, race_fresh(f->mem, FLT_LEN, f->folio, f->nodes[0]));
	ferry_fill(f->mem, FLT_LEN, f->folio, 1);
	snprintf(request, sizeof(request),
		 "{\"cmd\":\"inject\",\"nth\":2,\"times\":1,\"fault\":{%s}}", variant->what);
	ASSERT_TRUE(eng_do(f->port, request));
	race_count(&c);
	race_move_pages(f->mem, FLT_LEN, f->folio, f->nodes[1]);
	race_count_end(&c);
	ferry_note("timeouts %ld, folios unquiet %ld", race_grown(&c, "engine_timeouts"),
		   race_grown(&c, "folios_not_quiet"));
	EXPECT_TRUE(flt_struck(f));
	EXPECT_EQ(0, ferry_verify(f->mem, FLT_LEN, f->folio, 1));
	/* Long enough for a proof that a driver may claim. */
	ferry_sleep_ms(SETTLE_MS);
	/* Freed destinations are in use for other memory now. */
	ASSERT_EQ(0, race_fresh(f->mem, FLT_LEN, f->folio, f->nodes[1]));
	ferry_fill(f->mem, FLT_LEN, f->folio, 2);
	ferry_sleep_ms(FLT_LATE_MS);
	/* The engine carries a hanging descriptor out now, if it still has it. */
	EXPECT_TRUE(eng_calm(f->port));
	ferry_sleep_ms(SETTLE_MS);
	EXPECT_EQ(0, ferry_verify(f->mem, FLT_LEN, f->folio, 2));
	EXPECT_TRUE(ferry_wait(race_none_parked, NULL, FLT_SLACK_MS));
	EXPECT_TRUE(ferry_wait(race_pool_whole, NULL, FLT_SLACK_MS));
}

TEST_HARNESS_MAIN
