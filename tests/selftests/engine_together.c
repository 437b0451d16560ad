// SPDX-License-Identifier: GPL-2.0
/*
 * Engines that hang at the same time are proven quiet at the same time, which takes about as
 * long as with one of them. Each of several functions has a descriptor that does not end, and
 * a driver that takes half a second and a reset to prove its engine quiet. While a mover
 * waits for the proofs, and when the machine halts, all proofs have been requested before the
 * first one arrives.
 *
 * The test is about the order. The times are measured from outside, with slack for a slow
 * machine, and printed.
 *
 * Seen red, in a scratch copy: with a ChannelManager::prove() that waits for each proof
 * before it requests the next one, one of four has been requested before the first one
 * arrives in both tests, and the times are 2776 ms in place of 968 and 4176 in place of 2546.
 * With a mover that calls the channel manager for each channel that it quarantines,
 * a_mover_waits has one of four now and then.
 */
#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"
#include "engine.h"
#include "tracing.h"

#define LEN		(8UL << 20)
#define WAIT_MS		60000
#define MOST		8

FIXTURE(together)
{
	int nodes[FERRY_MAX_NODES];
	int ports[MOST];
	struct trc trace;
	char *mem;
	int n;
};

FIXTURE_SETUP(together)
{
	char from[32], to[32], name[64];
	int i, port;

	self->mem = MAP_FAILED;
	if (!ferry_active() || !strcmp(ferry_migrator(), "cpu"))
		SKIP(return, "needs engines");
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	for (i = 0; i < MOST; i++) {
		snprintf(from, sizeof(from), "ferry.dev%d.", i);
		snprintf(to, sizeof(to), ".%s", eng_kind(ferry_migrator()));
		port = port_open(from, to, name, sizeof(name));
		if (port < 0)
			continue;
		EXPECT_TRUE(eng_calm(port));
		self->ports[self->n++] = port;
	}
	if (self->n < 3)
		SKIP(return, "needs several functions");
	/* Channels that hung in an earlier test may still rest. */
	ASSERT_TRUE(eng_rearm(self->n));
	ASSERT_EQ(0, race_prepare(self->nodes));
	ASSERT_EQ(0, ferry_set_knob("engine_share", "all"));
	ASSERT_EQ(0, ferry_set_knob("timeout_ms", "%d", WAIT_MS));
	self->mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
	ASSERT_EQ(0, trc_begin(&self->trace, "ferry_together", 1024));
	ASSERT_EQ(0, trc_event(&self->trace, "ferry/ferry_engine_proof", NULL));
}

FIXTURE_TEARDOWN(together)
{
	int i;

	if (self->mem != MAP_FAILED)
		munmap(self->mem, LEN);
	trc_end(&self->trace);
	for (i = 0; i < self->n; i++) {
		eng_calm(self->ports[i]);
		close(self->ports[i]);
	}
	ferry_restore();
}

/* The traced proofs, in the order in which they were requested and arrived. */
struct proofs {
	/* All that were requested, and those that were requested before the first one arrived. */
	int asked, before;
	/* Those that arrived and found an engine quiet. */
	int quiet;
	/* True if this task requested one; if no mover waited, it requested all. */
	bool ours;
};

static struct proofs proofs(struct __test_metadata *_metadata, struct trc *trace)
{
	struct proofs p = {};
	char *text, *next, *line;
	char own[32];

	snprintf(own, sizeof(own), "-%d ", getpid());
	text = trc_read(trace);
	ASSERT_NE(NULL, text);
	for (next = text; (line = strsep(&next, "\n"));) {
		if (!strstr(line, "ferry_engine_proof: "))
			continue;
		if (strstr(line, " asked")) {
			p.ours |= !!strstr(line, own);
			p.asked++;
			p.before += !p.quiet;
		}
		p.quiet += !!strstr(line, " quiet");
	}
	free(text);
	return p;
}

/* Lets the next descriptor of each of the first @n functions hang. */
static void let_hang(struct __test_metadata *_metadata, FIXTURE_DATA(together) * self, int n)
{
	int i;

	ASSERT_TRUE(eng_rearm(self->n));
	for (i = 0; i < n; i++)
		ASSERT_TRUE(eng_do(self->ports[i],
				   "{\"cmd\":\"inject\",\"fault\":{\"kind\":\"hang\"}}"));
	ASSERT_EQ(0, race_fresh(self->mem, LEN, FERRY_PAGE, self->nodes[0]));
	ferry_fill(self->mem, LEN, n, 1);
	ASSERT_EQ(0, trc_clear(&self->trace));
	ASSERT_EQ(0, trc_on(&self->trace, true));
}

/* Returns the duration in ms of a move during which @n of the engines hang. */
static long move(struct __test_metadata *_metadata, FIXTURE_DATA(together) * self, int n)
{
	struct proofs p;
	long ms;
	u64 from;
	int i;

	let_hang(_metadata, self, n);
	from = ferry_now_ns();
	EXPECT_EQ(0, ferry_move_range(self->mem, LEN, FERRY_PAGE, self->nodes[1], NULL));
	ms = (ferry_now_ns() - from) / 1000000;
	/* Retries of channels request proofs, too. */
	ASSERT_EQ(0, trc_on(&self->trace, false));
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, n, 1));
	for (i = 0; i < n; i++)
		EXPECT_TRUE(eng_struck(self->ports[i]));
	p = proofs(_metadata, &self->trace);
	ferry_note("%d of %d hang: %ld ms; %d proofs requested, %d before the first arrived",
		   n, self->n, ms, p.asked, p.before);
	EXPECT_EQ(n, p.quiet);
	EXPECT_LE(n, p.before);
	return ms;
}

TEST_F(together, a_mover_waits)
{
	long one = move(_metadata, self, 1), all = move(_metadata, self, self->n);

	EXPECT_LT(all, (self->n - 1) * one + 1000);
	EXPECT_TRUE(ferry_wait(race_none_parked, NULL, WAIT_MS));
}

/*
 * Returns the time in ms that the machine takes to fall asleep and to wake up while @n of the
 * engines hang. The mover is delayed before it waits, so that it does not request the proofs
 * itself; the delay grows with each attempt, because a busy machine may be slow.
 */
static long halt(struct __test_metadata *_metadata, FIXTURE_DATA(together) * self, int n)
{
	struct proofs p = {};
	struct race_move m;
	long ms = 0;
	u64 from;
	int i;

	for (i = 0; i < 5 && !p.ours; i++) {
		let_hang(_metadata, self, n);
		ASSERT_EQ(0, ferry_inject("delay_after_submit_us", 3000000 + 2000000UL * i));
		ASSERT_EQ(0, race_move_start(&m, self->mem, LEN, FERRY_PAGE, self->nodes[1], -1));
		ferry_wait(eng_has_struck, &self->ports[0], WAIT_MS);
		from = ferry_now_ns();
		ASSERT_EQ(0, ferry_write("/sys/power/state", "freeze"));
		ms = (ferry_now_ns() - from) / 1000000;
		ASSERT_EQ(0, trc_on(&self->trace, false));
		EXPECT_EQ(0, race_move_end(&m));
		ASSERT_EQ(0, ferry_inject("delay_after_submit_us", 0));
		EXPECT_EQ(0, ferry_verify(self->mem, LEN, n, 1));
		p = proofs(_metadata, &self->trace);
	}
	ferry_note("%d of %d hang, attempt %d: %ld ms; %d proofs requested, %d before the first",
		   n, self->n, i, ms, p.asked, p.before);
	EXPECT_TRUE(p.ours);
	EXPECT_LE(n, p.quiet);
	EXPECT_LE(n, p.before);
	return ms;
}

TEST_F(together, the_machine_halts)
{
	long one, all;

	if (access("/sys/power/pm_test", F_OK))
		SKIP(return, "needs CONFIG_SUSPEND and CONFIG_PM_DEBUG");
	ASSERT_EQ(0, ferry_set("/sys/power/pm_test", "freezer"));
	ASSERT_EQ(0, ferry_set("/sys/module/suspend/parameters/pm_test_delay", "0"));
	one = halt(_metadata, self, 1);
	all = halt(_metadata, self, self->n);
	/* Both times include a second for the proofs, which run at the same time. */
	EXPECT_LT(all, (self->n - 1) * one + 1000);
	EXPECT_TRUE(ferry_wait(race_none_parked, NULL, WAIT_MS));
}

TEST_HARNESS_MAIN
