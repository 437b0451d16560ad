// SPDX-License-Identifier: GPL-2.0
/*
 * Faults of SDXI functions: fault x descriptor that it strikes x folio size, a line for each. What
 * engine_faults has for engines of any kind, with what only these have: contexts that fail as a
 * whole, are stopped and started again, the administrative context that does it, the error log, and
 * the function itself.
 *
 * The engine gets everything (engine_share). Whatever it does, content is right, what the stock
 * kernel would have moved is moved unless nothing proves in time that the context is quiet (I7), the
 * call ends in bounded time, and afterwards nothing is parked, the pool is whole, and all contexts
 * work again, after having been rearmed where they were quarantined.
 *
 * Seen red, in a scratch copy: with blocks whose errors are not looked at (Ring::reap() that takes all
 * for good), descriptor and soft_error lose content; with contexts that are taken for stopped without
 * having been (Channel::prove_quiet() that says true, Function::stop_context() that does nothing),
 * late_write overwrites what has got the freed destinations, 131047 bytes of 8 MiB with 64K folios.
 */
#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"
#include "engine.h"

#define LEN		(8UL << 20)
#define TIMEOUT_MS	1000
#define LATE_MS		2500
/* For a machine that emulates several others. */
#define SLACK_MS	60000

#define DRIVER		"ferry_sdxi"

enum {
	/* It comes back by itself. */
	SOON,
	/* Not before the timeout: folios may stay, and the context is quarantined. */
	LATE,
	/* The function is gone until it is restored, which is no proof before. */
	GONE,
};

/* Of whatever comes first, of a context in work, of the administrative one, and of the function. */
#define FIRST(times, fault)							\
	"{\"cmd\":\"inject\",\"times\":" times ",\"fault\":{" fault "}}"
#define LATER(times, fault)							\
	"{\"cmd\":\"inject\",\"channel\":1,\"nth\":3,\"times\":" times ",\"fault\":{" fault "}}"
#define ADMIN(fault)								\
	"{\"cmd\":\"inject\",\"channel\":0,\"fault\":{" fault "}}"
#define FUNCTION(fault)								\
	"{\"cmd\":\"inject\",\"fault\":{" fault "}}"

#define HANG		"\"kind\":\"hang\""
/* A failed translation of a data buffer. */
#define BUFFER		"\"kind\":\"error\",\"code\":74"
/* A completion status block that cannot be written. */
#define BLOCK		"\"kind\":\"error\",\"code\":136"
/* A descriptor that is not valid. */
#define DESCRIPTOR	"\"kind\":\"error\",\"code\":199"
/* An AKey that is not valid. */
#define AKEY		"\"kind\":\"error\",\"code\":203"

FIXTURE(sdxi)
{
	int nodes[FERRY_MAX_NODES];
	size_t folio;
	long channels;
	char *mem;
	int port;
};

FIXTURE_VARIANT(sdxi)
{
	const char *first;
	const char *second;
	unsigned int kib;
	int how;
	/* Faults that may be left. */
	bool any;
};

#define CELL(name, one, two, size, end, left)					\
	FIXTURE_VARIANT_ADD(sdxi, name) {					\
		.first = one, .second = two, .kib = size, .how = end, .any = left	\
	}
/*
 * At the first copy, and in the middle of a ring, where it may be an interrupt: what comes behind it
 * is another batch's.
 */
#define SIZES(name, fault, times, two, end, left)				\
	CELL(name ## _first_4k, FIRST(times, fault), two, 4, end, left);	\
	CELL(name ## _later_4k, LATER(times, fault), two, 4, end, left);	\
	CELL(name ## _first_64k, FIRST(times, fault), two, 64, end, left);	\
	CELL(name ## _later_64k, LATER(times, fault), two, 64, end, left);	\
	CELL(name ## _first_2m, FIRST(times, fault), two, 2048, end, left);	\
	CELL(name ## _later_2m, LATER(times, fault), two, 2048, end, left)

SIZES(buffer, BUFFER, "1", NULL, SOON, false);
SIZES(block, BLOCK, "1", NULL, SOON, false);
SIZES(descriptor, DESCRIPTOR, "1", NULL, SOON, false);
SIZES(akey, AKEY, "1", NULL, SOON, false);
SIZES(soft_error, "\"kind\":\"soft_error\",\"code\":138", "1", NULL, SOON, false);
SIZES(errors, BUFFER, "0", NULL, SOON, true);
SIZES(partial, "\"kind\":\"partial\",\"bytes\":1024", "1", NULL, SOON, false);
SIZES(lost_interrupt, "\"kind\":\"lost_interrupt\"", "0", NULL, SOON, true);
SIZES(late_interrupt, "\"kind\":\"late_interrupt\",\"ms\":100", "1", NULL, SOON, false);
SIZES(duplicate, "\"kind\":\"duplicate\",\"ms\":20", "1", NULL, SOON, false);
SIZES(out_of_order, "\"kind\":\"out_of_order\",\"count\":1000", "0", NULL, SOON, true);
SIZES(lazy_read_index, "\"kind\":\"lazy_read_index\",\"count\":5000", "0", NULL, SOON, true);
SIZES(slow_write, "\"kind\":\"late_write\",\"ms\":200", "1", NULL, SOON, false);
SIZES(function_error, "\"kind\":\"function_error\"", "1", NULL, SOON, false);
/* The log, and who is to stop the context, fail with it. */
SIZES(log_full, BUFFER, "1", FUNCTION("\"kind\":\"log_full\""), SOON, false);
SIZES(lost_log_interrupt, BUFFER, "1", FUNCTION("\"kind\":\"lost_log_interrupt\""), SOON, false);
SIZES(slow_sync, BUFFER, "1", FUNCTION("\"kind\":\"slow_sync\",\"ms\":300"), SOON, false);
SIZES(admin_error, BUFFER, "1", ADMIN(DESCRIPTOR), SOON, false);
SIZES(init_error, "\"kind\":\"function_error\"", "1", FUNCTION("\"kind\":\"init_error\""), SOON,
      false);
SIZES(hang, HANG, "1", NULL, LATE, false);
SIZES(lost_completion, "\"kind\":\"lost_completion\"", "1", NULL, LATE, false);
SIZES(lost_doorbell, "\"kind\":\"lost_doorbell\"", "1", NULL, LATE, false);
SIZES(late_write, "\"kind\":\"late_write\",\"ms\":2500", "1", NULL, LATE, false);
SIZES(hang_admin, HANG, "1", ADMIN(HANG), LATE, false);
SIZES(stuck_stop, HANG, "1", FUNCTION("\"kind\":\"stuck_stop\",\"hard\":true"), LATE, true);
SIZES(disappear, "\"kind\":\"disappear\"", "1", NULL, GONE, false);

static bool struck(void *arg)
{
	return eng_struck(*(int *)arg);
}

/* No context that has been started is down. */
static bool runs(void *arg)
{
	char path[100], name[32], buf[32768];

	if (!eng_function(DRIVER, name, sizeof(name)))
		return false;
	snprintf(path, sizeof(path), FERRY_DEBUGFS "functions/%s/contexts", name);
	return ferry_read(path, buf, sizeof(buf)) > 0 && !strstr(buf, ": idle") &&
	       !strstr(buf, ": failed") && !strstr(buf, ": stopped");
}

FIXTURE_SETUP(sdxi)
{
	char buf[32];

	self->mem = MAP_FAILED;
	self->port = -1;
	if (!ferry_active() || strcmp(ferry_migrator(), "sdxi"))
		SKIP(return, "needs the migrator sdxi");
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	self->port = eng_open("sdxi");
	ASSERT_LE(0, self->port);
	ASSERT_TRUE(eng_calm(self->port));
	ASSERT_EQ(0, hz_prepare(self->nodes));
	ASSERT_LT(0, ferry_read(FERRY_SYSCTL "dma_channels", buf, sizeof(buf)));
	self->channels = atol(buf);
	ASSERT_TRUE(eng_rearm(self->channels));
	ASSERT_EQ(0, ferry_set_knob("engine_share", "all"));
	/* Several batches, and each context has a part of each. */
	ASSERT_EQ(0, ferry_set_knob("batch_bytes", "%lu", FERRY_PMD));
	ASSERT_EQ(0, ferry_set_knob("timeout_ms", "%d", TIMEOUT_MS));
	ASSERT_EQ(0, ferry_set_knob("min_folio_bytes", "65536"));
	self->folio = (size_t)variant->kib << 10;
	self->mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
}

FIXTURE_TEARDOWN(sdxi)
{
	if (self->mem != MAP_FAILED)
		munmap(self->mem, LEN);
	ferry_restore();
	if (self->port >= 0) {
		eng_calm(self->port);
		close(self->port);
	}
}

TEST_F(sdxi, content_is_right)
{
	struct hz_count c;
	u64 from, ms;
	long there;

	ASSERT_EQ(0, hz_fresh(self->mem, LEN, self->folio, self->nodes[0]));
	ferry_fill(self->mem, LEN, self->folio, 1);
	ASSERT_TRUE(eng_do(self->port, variant->first));
	if (variant->second)
		ASSERT_TRUE(eng_do(self->port, variant->second));
	hz_count(&c);
	from = ferry_now_ns();
	hz_move_pages(self->mem, LEN, self->folio, self->nodes[1]);
	ms = (ferry_now_ns() - from) / 1000000;
	hz_count_end(&c);
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, self->folio, 1));
	EXPECT_GT(hz_grown(&c, "engine_descriptors"), 0);
	/* One timeout for each batch that finds a context not yet quarantined. */
	EXPECT_LT(ms, 4 * TIMEOUT_MS + SLACK_MS);
	there = ferry_count_on(self->mem, LEN, FERRY_PAGE, self->nodes[1]);
	ferry_note("%ld of %lu pages moved in %llu ms; descriptors %ld, chunks failed %ld, timeouts %ld, unquiet %ld",
		   there, LEN / FERRY_PAGE, ms, hz_grown(&c, "engine_descriptors"),
		   hz_grown(&c, "chunks_failed"), hz_grown(&c, "engine_timeouts"),
		   hz_grown(&c, "folios_unquiet"));
	/* What was not moved is what nobody could vouch for. */
	EXPECT_EQ(LEN / FERRY_PAGE - there,
		  hz_grown(&c, "folios_unquiet") * (self->folio / FERRY_PAGE));
	if (variant->how == SOON) {
		EXPECT_EQ(0, hz_grown(&c, "folios_unquiet"));
	} else {
		EXPECT_GT(hz_grown(&c, "folios_unquiet"), 0);
	}
	/* Whoever writes late, what is said from here on stays said. */
	ferry_fill(self->mem, LEN, self->folio, 3);
	if (variant->how == GONE) {
		/* What is not there may be back any time, and go on. */
		EXPECT_FALSE(hz_none_parked(NULL));
		EXPECT_TRUE(eng_do(self->port, "{\"cmd\":\"restore\"}"));
	}
	EXPECT_TRUE(ferry_wait(hz_none_parked, NULL, SLACK_MS));
	EXPECT_TRUE(ferry_wait(hz_pool_whole, NULL, SLACK_MS));
	if (!variant->any)
		EXPECT_TRUE(ferry_wait(struck, &self->port, SLACK_MS));
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, self->folio, 3));

	/* What was parked is somebody else's now: it must not be written to any more. */
	ASSERT_EQ(0, hz_fresh(self->mem, LEN, self->folio, self->nodes[1]));
	ferry_fill(self->mem, LEN, self->folio, 2);
	if (variant->how == LATE)
		ferry_sleep_ms(LATE_MS);
	EXPECT_TRUE(eng_calm(self->port));
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, self->folio, 2));

	/* And again, the other way, without faults. */
	EXPECT_TRUE(eng_rearm(self->channels));
	EXPECT_TRUE(ferry_wait(runs, NULL, SLACK_MS));
	hz_count(&c);
	EXPECT_EQ(0, ferry_move_range(self->mem, LEN, self->folio, self->nodes[0], NULL));
	hz_count_end(&c);
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, self->folio, 2));
	EXPECT_GT(hz_grown(&c, "engine_bytes"), 0);
	EXPECT_EQ(0, hz_grown(&c, "chunks_failed"));
}

TEST_HARNESS_MAIN
