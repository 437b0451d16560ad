// SPDX-License-Identifier: GPL-2.0
/* Injects faults into engines, and checks the state afterwards. See faults.h. */
#include "harness_part.h"
#include "faults.h"

void flt_begin(struct __test_metadata *_metadata, struct flt *f, const char *kind,
	       unsigned int kib, long channels)
{
	f->port = eng_open(kind);
	ASSERT_LE(0, f->port);
	ASSERT_TRUE(eng_calm(f->port));
	ASSERT_TRUE(eng_function(kind, f->function, sizeof(f->function)));
	ASSERT_EQ(0, race_prepare(f->nodes));
	f->channels = channels;
	ASSERT_TRUE(eng_rearm(f->channels));
	ASSERT_EQ(0, ferry_set_knob("engine_share", "all"));
	ASSERT_EQ(0, ferry_set_knob("min_folio_bytes", "65536"));
	f->folio = (size_t)kib << 10;
	f->mem = ferry_map_anon(FLT_LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, f->mem);
}

void flt_end(struct flt *f)
{
	if (f->mem != MAP_FAILED)
		munmap(f->mem, FLT_LEN);
	ferry_restore();
	if (f->port >= 0) {
		eng_calm(f->port);
		close(f->port);
	}
}

bool flt_struck(void *f)
{
	return eng_struck(((struct flt *)f)->port);
}

void flt_strike(struct __test_metadata *_metadata, struct flt *f, const char *where,
		const struct flt_fault *fault)
{
	const long pages = FLT_LEN / FERRY_PAGE, each = f->folio / FERRY_PAGE;
	const bool proven = fault->how != FLT_UNPROVEN;
	struct race_count c;
	char request[300];
	long there, unquiet;
	u64 from, ms;

	ASSERT_EQ(0, ferry_set_knob("timeout_ms", "%d",
				    proven ? FLT_TIMEOUT_MS : FLT_NO_PROOF_MS));
	ASSERT_EQ(0, race_fresh(f->mem, FLT_LEN, f->folio, f->nodes[0]));
	ferry_fill(f->mem, FLT_LEN, f->folio, 1);
	snprintf(request, sizeof(request),
		 "{\"cmd\":\"inject\",%s,\"times\":%u,\"fault\":{%s}}", where, fault->times,
		 fault->what);
	ASSERT_TRUE(eng_do(f->port, request));
	if (fault->second)
		ASSERT_TRUE(eng_do(f->port, fault->second));
	race_count(&c);
	from = ferry_now_ns();
	race_move_pages(f->mem, FLT_LEN, f->folio, f->nodes[1]);
	ms = (ferry_now_ns() - from) / 1000000;
	race_count_end(&c);
	EXPECT_EQ(0, ferry_verify(f->mem, FLT_LEN, f->folio, 1));
	EXPECT_GT(race_grown(&c, "engine_descriptors"), 0);
	EXPECT_LT(ms, proven ? FLT_BOUND_MS : FLT_BOUND_MS + FLT_NO_PROOF_MS);
	there = ferry_count_on(f->mem, FLT_LEN, FERRY_PAGE, f->nodes[1]);
	unquiet = race_grown(&c, "folios_not_quiet");
	ferry_note("%ld of %ld pages moved in %llu ms; unquiet %ld", there, pages,
		   (unsigned long long)ms, unquiet);
	ferry_note("descriptors %ld, chunks failed %ld, timeouts %ld",
		   race_grown(&c, "engine_descriptors"), race_grown(&c, "chunks_failed"),
		   race_grown(&c, "engine_timeouts"));
	/* A fault with a second request may strike later, when the engine is brought back. */
	if (fault->times == 1 && !fault->second)
		EXPECT_TRUE(flt_struck(f));
	if (proven) {
		EXPECT_EQ(0, unquiet);
		EXPECT_EQ(pages, there);
	} else {
		/* Only folios without a proof of quiet stay. */
		EXPECT_GT(unquiet, 0);
		EXPECT_LE(pages - there, unquiet * each);
	}
	/* A slow mover may see the descriptor end before it gives up. */
	if (fault->how == FLT_HUNG || (fault->how == FLT_LATER && ms < FLT_LATE_MS))
		EXPECT_EQ(1, race_grown(&c, "engine_timeouts"));

	/*
	 * Content that is written from here on must survive late writes of the engine: this
	 * memory was the destination of its descriptors.
	 */
	ferry_fill(f->mem, FLT_LEN, f->folio, 3);
	if (fault->how == FLT_LATER || fault->how == FLT_HUNG)
		ferry_sleep_ms(FLT_LATE_MS);
	if (fault->back)
		fault->back(_metadata, f);
	EXPECT_TRUE(ferry_wait(race_none_parked, NULL, FLT_SLACK_MS));
	EXPECT_TRUE(ferry_wait(race_pool_whole, NULL, FLT_SLACK_MS));
	if (fault->times == 1 && !fault->left)
		EXPECT_TRUE(ferry_wait(flt_struck, f, FLT_SLACK_MS));
	EXPECT_EQ(0, ferry_verify(f->mem, FLT_LEN, f->folio, 3));

	/* The former sources and the parked destinations are in use for other memory now. */
	ASSERT_EQ(0, race_fresh(f->mem, FLT_LEN, f->folio, f->nodes[1]));
	ferry_fill(f->mem, FLT_LEN, f->folio, 2);
	if (fault->how == FLT_UNPROVEN)
		ferry_sleep_ms(FLT_LATE_MS);
	EXPECT_TRUE(eng_calm(f->port));
	EXPECT_EQ(0, ferry_verify(f->mem, FLT_LEN, f->folio, 2));

	/* The way back, without faults. */
	ASSERT_TRUE(eng_rearm(f->channels));
	if (fault->ready)
		EXPECT_TRUE(ferry_wait(fault->ready, f, FLT_SLACK_MS));
	race_count(&c);
	EXPECT_EQ(0, ferry_move_range(f->mem, FLT_LEN, f->folio, f->nodes[0], NULL));
	race_count_end(&c);
	EXPECT_EQ(0, ferry_verify(f->mem, FLT_LEN, f->folio, 2));
	EXPECT_GT(race_grown(&c, "engine_bytes"), 0);
	EXPECT_EQ(0, race_grown(&c, "chunks_failed"));
}
