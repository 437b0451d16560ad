// SPDX-License-Identifier: GPL-2.0
/*
 * I7: the driver of an engine goes while a descriptor has not ended, and neither driver nor
 * engine proves that it will never write any more. The memory of the descriptor is leaked,
 * and the log and the state of Ferry report that; the channel stays "leaked". The folios of
 * the descriptor stay where they are, with their content; their destinations are kept for
 * ever. All other folios move, and when the driver is back the engine copies again.
 *
 * For drivers that end descriptors in flight with DMA_TRANS_ABORTED and give no other proof,
 * such as plx_dma. The machine has less memory afterwards, and the pool fewer batches.
 *
 * The engine does not go on before its driver has gone and the function has no access to
 * memory any more: it would also write to the ring, which that driver frees.
 */
#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"
#include "engine.h"

#define LEN		(8UL << 20)
#define WAIT_MS		60000
/* Longer than a driver takes to go, in ms. */
#define TIMEOUT_MS	8000

FIXTURE(lost)
{
	int nodes[FERRY_MAX_NODES];
	char function[32];
	char *mem;
	int port;
};

FIXTURE_SETUP(lost)
{
	self->mem = MAP_FAILED;
	self->port = -1;
	if (!ferry_active() || strcmp(ferry_migrator(), "plx_dma"))
		SKIP(return, "needs an engine whose driver proves nothing");
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	ASSERT_EQ(0, race_prepare(self->nodes));
	self->port = eng_open("plx");
	ASSERT_LE(0, self->port);
	ASSERT_TRUE(eng_calm(self->port));
	ASSERT_TRUE(eng_function(ferry_migrator(), self->function, sizeof(self->function)));
	ASSERT_EQ(0, ferry_set_knob("engine_share", "all"));
	ASSERT_EQ(0, ferry_set_knob("timeout_ms", "%d", TIMEOUT_MS));
	self->mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
}

FIXTURE_TEARDOWN(lost)
{
	if (self->mem != MAP_FAILED)
		munmap(self->mem, LEN);
	ferry_restore();
	if (self->port >= 0) {
		eng_calm(self->port);
		close(self->port);
	}
}

static bool is_lost(void *arg)
{
	return eng_busy("leaked") > *(long *)arg;
}

TEST_F(lost, driver_is_unbound_while_it_hangs)
{
	long lost = eng_state("leaked"), lines = eng_busy("leaked"), parked = race_parked();
	long one = 1, stayed, unquiet, seen;
	struct race_count c;
	struct race_move m;
	int log = race_log_open();

	ASSERT_EQ(0, race_fresh(self->mem, LEN, FERRY_PAGE, self->nodes[0]));
	ferry_fill(self->mem, LEN, 7, 1);
	ASSERT_TRUE(eng_do(self->port, "{\"cmd\":\"inject\",\"fault\":{\"kind\":\"hang\"}}"));
	race_count(&c);
	ASSERT_EQ(0, race_move_start(&m, self->mem, LEN, FERRY_PAGE, self->nodes[1], -1));
	ASSERT_TRUE(ferry_wait(eng_has_struck, &self->port, WAIT_MS));
	EXPECT_EQ(0, eng_bind(ferry_migrator(), "unbind", self->function));
	/* The channel is given up without a request by a user. */
	EXPECT_TRUE(ferry_wait(is_lost, &lines, WAIT_MS));
	EXPECT_GT(eng_state("leaked"), lost);
	EXPECT_EQ(0, eng_channels());
	EXPECT_LE(0, race_move_end(&m));
	race_count_end(&c);

	EXPECT_EQ(0, ferry_verify(self->mem, LEN, 7, 1));
	unquiet = race_grown(&c, "folios_not_quiet");
	stayed = LEN / FERRY_PAGE - ferry_count_on(self->mem, LEN, FERRY_PAGE, self->nodes[1]);
	ferry_note("%ld descriptors leaked, %ld folios stayed, %ld parked",
		   eng_state("leaked") - lost,
		   stayed, race_parked() - parked);
	/* Folios may have been tried more than once, the later times with the stock copy. */
	EXPECT_GT(unquiet, 0);
	EXPECT_LE(stayed, unquiet);
	EXPECT_EQ(unquiet, race_parked() - parked);
	EXPECT_EQ(1, race_log_count(log, "given back without proof that it is quiet"));

	ferry_fill(self->mem, LEN, 7, 2);
	EXPECT_TRUE(eng_calm(self->port));
	ASSERT_EQ(0, eng_bind(ferry_migrator(), "bind", self->function));
	EXPECT_TRUE(ferry_wait(eng_has_channels, &one, WAIT_MS));
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, 7, 2));
	seen = ferry_stat("engine_bytes");
	ASSERT_EQ(0, race_fresh(self->mem, LEN, FERRY_PAGE, self->nodes[1]));
	ferry_fill(self->mem, LEN, 7, 2);
	EXPECT_EQ(0, ferry_move_range(self->mem, LEN, FERRY_PAGE, self->nodes[0], NULL));
	EXPECT_GT(ferry_stat("engine_bytes"), seen);
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, 7, 2));
	/* They stay parked for ever. */
	EXPECT_EQ(unquiet, race_parked() - parked);
	EXPECT_EQ(lines + 1, eng_busy("leaked"));
}

TEST_HARNESS_MAIN
