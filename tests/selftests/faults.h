/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A fault of an engine, from its injection until the engine works again.
 *
 * The engine gets all chunks (engine_share). With every fault, content is right, each folio
 * that the stock kernel would have moved is moved unless there is no proof that the engine is
 * quiet (I7), and the call ends in bounded time. Afterwards nothing is parked, the pool is
 * whole, and the engine works again, once it has been rearmed where it was quarantined.
 */
#ifndef FERRY_FAULTS_H
#define FERRY_FAULTS_H

#include "engine.h"

/*
 * Bytes to migrate. Without the first folio, which is moved before the others, they still
 * make two descriptors of the largest size and a smaller one, although descriptors are
 * merged.
 */
#define FLT_LEN		(8UL << 20)
/*
 * The longest wait of a mover in ms, including the proof, far longer than needed on a machine
 * that emulates several others; and half of it, in which the call has to end if there is a
 * proof. An idle machine takes less than a second.
 */
#define FLT_TIMEOUT_MS	60000
#define FLT_BOUND_MS	30000
/* Without a proof, the folios fail after this time in ms. */
#define FLT_NO_PROOF_MS	3000
/*
 * The time of a write that the model makes by itself after the mover has given up, in ms
 * after the start of the descriptor.
 */
#define FLT_LATE_MS	2500
#define FLT_LATE	"\"kind\":\"late_write\",\"ms\":2500"
/* The bound of waits for a later state, in ms, for a machine that emulates several others. */
#define FLT_SLACK_MS	60000

struct flt {
	int nodes[FERRY_MAX_NODES];
	char function[32];
	size_t folio;
	long channels;
	char *mem;
	int port;
};

enum flt_how {
	/* The engine recovers by itself. */
	FLT_SOON,
	/* The engine recovers after the mover has given up, so the channel is quarantined. */
	FLT_LATER,
	/* As FLT_LATER, but the engine recovers only when it is reset. */
	FLT_HUNG,
	/* The function is gone, and the driver has proof that it is gone for good. */
	FLT_GONE,
	/* The function is gone, but may come back and go on with its work: folios stay. */
	FLT_UNPROVEN,
};

struct flt_fault {
	/* The members of the fault's JSON object. */
	const char *what;
	/* The number of descriptors with the fault; 0 means all from the selected one on. */
	unsigned int times;
	/* A second request to the model, or NULL. */
	const char *second;
	/* True if a part of the fault may not have struck in the end. */
	bool left;
	enum flt_how how;
	/* Brings a function back that is gone; NULL if the fault removes none. */
	void (*back)(struct __test_metadata *_metadata, struct flt *f);
	/* Returns true when the engine works again, beyond the usual checks; may be NULL. */
	bool (*ready)(void *f);
};

/* Prepares @f for folios of @kib. The caller has set @f->mem to MAP_FAILED and @f->port to -1. */
static void flt_begin(struct __test_metadata *_metadata, struct flt *f, const char *kind,
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

/* Undoes flt_begin(), also after a failure. */
static void flt_end(struct flt *f)
{
	if (f->mem != MAP_FAILED)
		munmap(f->mem, FLT_LEN);
	ferry_restore();
	if (f->port >= 0) {
		eng_calm(f->port);
		close(f->port);
	}
}

/* Returns true if each injected fault has struck. @f is a struct flt. */
static bool flt_struck(void *f)
{
	return eng_struck(((struct flt *)f)->port);
}

/* Migrates with the fault, from the descriptor that @where selects on, and then without it. */
static __maybe_unused void flt_strike(struct __test_metadata *_metadata, struct flt *f,
				      const char *where, const struct flt_fault *fault)
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

#endif
