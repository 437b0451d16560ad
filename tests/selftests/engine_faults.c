// SPDX-License-Identifier: GPL-2.0
/*
 * Faults of engines: fault x descriptor that it strikes x folio size, a line for each.
 *
 * The engine gets everything (engine_share). Whatever it does, content is right, what the
 * stock kernel would have moved is moved unless nothing proves in time that the engine
 * is quiet (I7), the call ends in bounded time, and afterwards nothing is parked, the
 * pool is whole, and the engine works again, after having been rearmed where it was
 * quarantined.
 *
 * Seen red, in a scratch copy: with results taken for good whatever they are (ended()
 * with ok = true), error, errors and partial lose content in all sizes. With a terminate
 * that is taken for proof without having been made (DmaChannel::quiesce() that says true),
 * late_write and hang overwrite what has got the freed destinations: 2083388 bytes of
 * 8 MiB with 2M folios, 93829 with 4K.
 */
#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"
#include "engine.h"

/* Two descriptors of most, and one of less, without the first folio: all merges notwithstanding. */
#define LEN		(8UL << 20)
#define TIMEOUT_MS	1000
#define LATE_MS		2500
/* For a machine that emulates several others. */
#define SLACK_MS	60000

enum {
	/* It comes back by itself. */
	SOON,
	/* Not before the timeout: folios may stay, and the channel is quarantined. */
	LATE,
	/* The same, and not at all before it is reset. */
	HUNG,
	/* The function is gone until the driver is bound anew. */
	GONE,
};

FIXTURE(fault)
{
	int nodes[FERRY_MAX_NODES];
	char function[32];
	size_t folio;
	long channels;
	char *mem;
	int port;
};

FIXTURE_VARIANT(fault)
{
	/* The descriptor that is struck. */
	unsigned int nth;
	unsigned int kib;
};

FIXTURE_VARIANT_ADD(fault, first_4k) { .nth = 1, .kib = 4 };
FIXTURE_VARIANT_ADD(fault, later_4k) { .nth = 3, .kib = 4 };
FIXTURE_VARIANT_ADD(fault, first_64k) { .nth = 1, .kib = 64 };
FIXTURE_VARIANT_ADD(fault, later_64k) { .nth = 2, .kib = 64 };
FIXTURE_VARIANT_ADD(fault, first_2m) { .nth = 1, .kib = 2048 };
FIXTURE_VARIANT_ADD(fault, later_2m) { .nth = 2, .kib = 2048 };

FIXTURE_SETUP(fault)
{
	self->mem = MAP_FAILED;
	self->port = -1;
	if (!ferry_active() || !strcmp(ferry_migrator(), "cpu"))
		SKIP(return, "needs an engine");
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	self->port = eng_open(ferry_migrator());
	ASSERT_LE(0, self->port);
	ASSERT_TRUE(eng_calm(self->port));
	ASSERT_TRUE(eng_function(ferry_migrator(), self->function, sizeof(self->function)));
	ASSERT_EQ(0, hz_prepare(self->nodes));
	self->channels = strcmp(ferry_migrator(), "ptdma") ? 4 : 1;
	ASSERT_TRUE(eng_rearm(self->channels));
	ASSERT_EQ(0, ferry_set_knob("engine_share", "all"));
	ASSERT_EQ(0, ferry_set_knob("timeout_ms", "%d", TIMEOUT_MS));
	ASSERT_EQ(0, ferry_set_knob("min_folio_bytes", "65536"));
	self->folio = (size_t)variant->kib << 10;
	self->mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
}

FIXTURE_TEARDOWN(fault)
{
	if (self->mem != MAP_FAILED)
		munmap(self->mem, LEN);
	ferry_restore();
	if (self->port >= 0) {
		eng_calm(self->port);
		close(self->port);
	}
}

/* Migrates with a fault that befalls so many descriptors, and then without. */
static void strike(struct __test_metadata *_metadata, FIXTURE_DATA(fault) * self,
		   const FIXTURE_VARIANT(fault) * variant, const char *fault,
		   unsigned int times, int how)
{
	struct hz_count c;
	char request[300];
	u64 from, ms;
	long there;

	ASSERT_EQ(0, hz_fresh(self->mem, LEN, self->folio, self->nodes[0]));
	ferry_fill(self->mem, LEN, self->folio, 1);
	snprintf(request, sizeof(request),
		 "{\"cmd\":\"inject\",\"nth\":%u,\"times\":%u,\"fault\":%s}", variant->nth,
		 times, fault);
	ASSERT_TRUE(eng_do(self->port, request));
	hz_count(&c);
	from = ferry_now_ns();
	hz_move_pages(self->mem, LEN, self->folio, self->nodes[1]);
	ms = (ferry_now_ns() - from) / 1000000;
	hz_count_end(&c);
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, self->folio, 1));
	EXPECT_GT(hz_grown(&c, "engine_descriptors"), 0);
	if (times == 1)
		EXPECT_TRUE(eng_struck(self->port));
	/* One timeout for each batch that finds the engine not yet quarantined. */
	EXPECT_LT(ms, 4 * TIMEOUT_MS + SLACK_MS);
	there = ferry_count_on(self->mem, LEN, FERRY_PAGE, self->nodes[1]);
	ferry_note("%ld of %lu pages moved in %llu ms; descriptors %ld, failed %ld, unquiet %ld",
		   there, LEN / FERRY_PAGE, ms, hz_grown(&c, "engine_descriptors"),
		   hz_grown(&c, "chunks_failed"), hz_grown(&c, "folios_unquiet"));
	if (how == SOON) {
		EXPECT_EQ(LEN / FERRY_PAGE, there);
		EXPECT_EQ(0, hz_grown(&c, "folios_unquiet"));
	} else if (how != GONE) {
		/* What was not moved is what nobody could vouch for; it may be tried again. */
		EXPECT_LE(LEN / FERRY_PAGE - there,
			  hz_grown(&c, "folios_unquiet") * (self->folio / FERRY_PAGE));
		/* A mover that is slow itself may find that it has ended meanwhile. */
		if (ms < LATE_MS || how == HUNG) {
			EXPECT_GT(hz_grown(&c, "folios_unquiet"), 0);
			EXPECT_EQ(1, hz_grown(&c, "engine_timeouts"));
		}
	}
	/* Whoever writes late, what is said from here on stays said. */
	ferry_fill(self->mem, LEN, self->folio, 3);
	EXPECT_TRUE(eng_do(self->port, "{\"cmd\":\"clear\"}"));
	if (how == GONE) {
		EXPECT_EQ(0, eng_bind(ferry_migrator(), "unbind", self->function));
		EXPECT_TRUE(eng_do(self->port, "{\"cmd\":\"restore\"}"));
		EXPECT_EQ(0, eng_bind(ferry_migrator(), "bind", self->function));
	}
	EXPECT_TRUE(ferry_wait(hz_none_parked, NULL, SLACK_MS));
	EXPECT_TRUE(ferry_wait(hz_pool_whole, NULL, SLACK_MS));
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, self->folio, 3));

	/* What was parked is somebody else's now: it must not be written to any more. */
	ASSERT_EQ(0, hz_fresh(self->mem, LEN, self->folio, self->nodes[1]));
	ferry_fill(self->mem, LEN, self->folio, 2);
	if (how == LATE || how == HUNG)
		ferry_sleep_ms(LATE_MS);
	EXPECT_TRUE(eng_calm(self->port));
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, self->folio, 2));

	/* And again, the other way, without faults. */
	ASSERT_TRUE(eng_rearm(self->channels));
	hz_count(&c);
	EXPECT_EQ(0, ferry_move_range(self->mem, LEN, self->folio, self->nodes[0], NULL));
	hz_count_end(&c);
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, self->folio, 2));
	EXPECT_GT(hz_grown(&c, "engine_bytes"), 0);
}

TEST_F(fault, error)
{
	strike(_metadata, self, variant, "{\"kind\":\"error\"}", 1, SOON);
}

TEST_F(fault, errors)
{
	strike(_metadata, self, variant, "{\"kind\":\"error\"}", 40, SOON);
}

TEST_F(fault, partial)
{
	strike(_metadata, self, variant, "{\"kind\":\"partial\",\"bytes\":1024}", 1, SOON);
}

TEST_F(fault, lost_interrupt)
{
	strike(_metadata, self, variant, "{\"kind\":\"lost_interrupt\"}", 2, SOON);
}

TEST_F(fault, late_interrupt)
{
	strike(_metadata, self, variant, "{\"kind\":\"late_interrupt\",\"ms\":100}", 1, SOON);
}

TEST_F(fault, duplicate)
{
	strike(_metadata, self, variant, "{\"kind\":\"duplicate\",\"ms\":20}", 4, SOON);
}

TEST_F(fault, slow_write)
{
	strike(_metadata, self, variant, "{\"kind\":\"late_write\",\"ms\":200}", 1, SOON);
}

TEST_F(fault, late_write)
{
	strike(_metadata, self, variant, "{\"kind\":\"late_write\",\"ms\":2500}", 1, LATE);
}

TEST_F(fault, hang)
{
	strike(_metadata, self, variant, "{\"kind\":\"hang\"}", 1, HUNG);
}

TEST_F(fault, disappear)
{
	strike(_metadata, self, variant, "{\"kind\":\"disappear\"}", 1, GONE);
}

TEST_HARNESS_MAIN
