// SPDX-License-Identifier: GPL-2.0
/*
 * SDXI functions are reset while folios migrate: by the PCI core, and because they fail.
 * Their descriptors fail, and are proven not to be written any more; content stays right,
 * nothing stays parked, and all contexts go on.
 *
 * Seen red, in a scratch copy: with contexts that do not wake their waiters when they have
 * stopped (Context::stopped() without notify()), nothing is copied any more after an error of
 * the function.
 */
#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"
#include "engine.h"
#include "movers.h"

#define WAIT_MS		60000
#define DRIVER		"ferry_sdxi"

FIXTURE(resets)
{
	int nodes[FERRY_MAX_NODES];
	struct race_mover m[2];
	struct race_count count;
	char function[32];
	long channels;
	int port;
};

FIXTURE_SETUP(resets)
{
	self->port = -1;
	if (!ferry_active() || strcmp(ferry_migrator(), "ferry_sdxi"))
		SKIP(return, "needs the migrator ferry_sdxi");
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	ASSERT_EQ(0, race_prepare(self->nodes));
	ASSERT_EQ(0, ferry_set_knob("engine_share", "all"));
	self->port = eng_open("ferry_sdxi");
	ASSERT_LE(0, self->port);
	EXPECT_TRUE(eng_calm(self->port));
	/* So slow that a descriptor is in flight most of the time. */
	EXPECT_TRUE(eng_do(self->port, "{\"cmd\":\"limit\",\"bytes_per_s\":200000000}"));
	ASSERT_TRUE(eng_function(DRIVER, self->function, sizeof(self->function)));
	self->channels = eng_channels();
	ASSERT_LT(0, self->channels);
	race_count(&self->count);
	ASSERT_EQ(0, race_movers_start(self->m, ARRAY_SIZE(self->m), self->nodes));
}

FIXTURE_TEARDOWN(resets)
{
	ferry_restore();
	if (self->port >= 0) {
		eng_calm(self->port);
		close(self->port);
	}
}

/* Returns one of the function's own counters, or -1. */
static long counter(const char *function, const char *name)
{
	char path[100], buf[4096], *p;

	snprintf(path, sizeof(path), FERRY_DEBUGFS "functions/%s/counters", function);
	if (ferry_read(path, buf, sizeof(buf)) <= 0)
		return -1;
	p = strstr(buf, name);
	return p ? atol(p + strlen(name)) : -1;
}

/* Expects that the engine copies again. */
static void goes_on(struct __test_metadata *_metadata)
{
	long seen = ferry_stat("engine_bytes");

	EXPECT_TRUE(ferry_wait(eng_copies, &seen, WAIT_MS));
}

static void all_is_well(struct __test_metadata *_metadata, FIXTURE_DATA(resets) * self, int times)
{
	long rounds;
	size_t bad;

	rounds = race_movers_end(self->m, ARRAY_SIZE(self->m), &bad);
	race_count_end(&self->count);
	ferry_note("%d times, %ld moves; descriptors %ld, failed %ld, timeouts %ld, unquiet %ld",
		   times, rounds, race_grown(&self->count, "engine_descriptors"),
		   race_grown(&self->count, "chunks_failed"),
		   race_grown(&self->count, "engine_timeouts"),
		   race_grown(&self->count, "folios_not_quiet"));
	EXPECT_EQ(0, bad);
	EXPECT_GT(rounds, 0);
	EXPECT_EQ(0, race_grown(&self->count, "folios_not_quiet"));
	EXPECT_EQ(0, race_grown(&self->count, "engine_timeouts"));
	EXPECT_EQ(self->channels, eng_channels());
	EXPECT_TRUE(ferry_wait(race_none_parked, NULL, WAIT_MS));
	EXPECT_TRUE(ferry_wait(race_pool_whole, NULL, WAIT_MS));
}

TEST_F(resets, by_the_pci_core)
{
	int i, times = ferry_iters(40, 10);
	long before = counter(self->function, "\nresets ");
	char path[100];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/reset", self->function);
	for (i = 0; i < times; i++) {
		ferry_sleep_ms(i * 7 % 50);
		ASSERT_EQ(0, ferry_write(path, "1"));
		if (i % 4 == 3)
			goes_on(_metadata);
	}
	goes_on(_metadata);
	EXPECT_EQ(before + times, counter(self->function, "\nresets "));
	all_is_well(_metadata, self, times);
}

#define FUNCTION_ERROR	"{\"cmd\":\"inject\",\"nth\":7,\"fault\":{\"kind\":\"function_error\"}}"

/* Errors of the function, from which it recovers by stopping and starting again. */
TEST_F(resets, after_errors_of_the_function)
{
	long before = counter(self->function, "\nfunction_errors ");
	int i, times = ferry_iters(20, 5);

	for (i = 0; i < times; i++) {
		ASSERT_TRUE(eng_do(self->port, FUNCTION_ERROR));
		goes_on(_metadata);
		ferry_sleep_ms(i * 7 % 50);
	}
	EXPECT_TRUE(eng_do(self->port, "{\"cmd\":\"clear\"}"));
	goes_on(_metadata);
	EXPECT_LT(before, counter(self->function, "\nfunction_errors "));
	all_is_well(_metadata, self, times);
}

TEST_HARNESS_MAIN
