/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A fault of an engine, from its injection to the engine that works again.
 *
 * The engine gets all chunks (engine_share). Whatever it does, content is right, each folio
 * that the stock kernel would have moved is moved unless there is no proof that the engine is
 * quiet (I7), the call ends in bounded time, and afterwards nothing is parked, the pool is whole,
 * and the engine works again, after having been rearmed where it was quarantined.
 *
 * The code is in the header because the harness's ASSERT and EXPECT macros need the globals that
 * each program has one copy of.
 */
#ifndef FERRY_FAULTS_H
#define FERRY_FAULTS_H

#include "engine.h"

/*
 * Bytes to migrate: two descriptors of the largest size and a smaller one without the first
 * folio, although descriptors are merged.
 */
#define FLT_LEN		(8UL << 20)
/*
 * The longest wait of a mover in ms, proof included, far longer than needed on a machine that
 * emulates several others; and half of it, in which the call has to end if there is a proof.
 * An idle machine takes less than a second.
 */
#define FLT_TIMEOUT_MS	60000
#define FLT_BOUND_MS	30000
/* Without a proof, the folios fail after this time in ms. */
#define FLT_NO_PROOF_MS	3000
/* A write that the model makes by itself in ms after the start, when the mover has given up. */
#define FLT_LATE_MS	2500
#define FLT_LATE	"\"kind\":\"late_write\",\"ms\":2500"
/* Bound in ms of waits for a later state, for a machine that emulates several others. */
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
	/* The engine comes back by itself. */
	FLT_SOON,
	/* It comes back after the mover has given up: the channel is quarantined. */
	FLT_LATER,
	/* The same, but it comes back only when it is reset. */
	FLT_HUNG,
	/* The function is gone, and the driver can tell that it is for good. */
	FLT_GONE,
	/* The function is gone, and may come back and go on: folios stay. */
	FLT_UNPROVEN,
};

struct flt_fault {
	/* The members of the fault's JSON object. */
	const char *what;
	/* Number of descriptors with the fault; 0: all from there on. */
	unsigned int times;
	/* A second request to the model, or NULL. */
	const char *second;
	/* True if a part of the fault may not have come in the end. */
	bool left;
	enum flt_how how;
	/* Brings a function back that is gone; NULL if none is. */
	void (*back)(struct __test_metadata *_metadata, struct flt *f);
	/* Returns true when the engine works again, beyond the usual checks; may be NULL. */
	bool (*ready)(void *f);
};

/* Sets @f up for folios of @kib. The caller sets @f->mem to MAP_FAILED and @f->port to -1. */
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

/* Returns true if each fault that was injected has come. @f is a struct flt. */
static bool flt_struck(void *f)
{
	return eng_struck(((struct flt *)f)->port);
}

/* Migrates with the fault, from the descriptor that @where selects, and then without. */
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
	/* What comes with another one may take effect later, as the engine is brought back. */
	if (fault->times == 1 && !fault->second)
		EXPECT_TRUE(flt_struck(f));
	if (proven) {
		EXPECT_EQ(0, unquiet);
		EXPECT_EQ(pages, there);
	} else {
		/* What was not moved is what nobody could vouch for. */
		EXPECT_GT(unquiet, 0);
		EXPECT_LE(pages - there, unquiet * each);
	}
	/* A mover that is slow itself may find that it has ended meanwhile. */
	if (fault->how == FLT_HUNG || (fault->how == FLT_LATER && ms < FLT_LATE_MS))
		EXPECT_EQ(1, race_grown(&c, "engine_timeouts"));

	/*
	 * Whoever writes late, what is said from here on stays said: these are the
	 * destinations that the engine had.
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

	/* What it read from is somebody else's now, as is what was parked. */
	ASSERT_EQ(0, race_fresh(f->mem, FLT_LEN, f->folio, f->nodes[1]));
	ferry_fill(f->mem, FLT_LEN, f->folio, 2);
	if (fault->how == FLT_UNPROVEN)
		ferry_sleep_ms(FLT_LATE_MS);
	EXPECT_TRUE(eng_calm(f->port));
	EXPECT_EQ(0, ferry_verify(f->mem, FLT_LEN, f->folio, 2));

	/* And again, the other way, without faults. */
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
