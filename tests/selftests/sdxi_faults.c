// SPDX-License-Identifier: GPL-2.0
/*
 * Faults of SDXI functions: fault x descriptor that it strikes x folio size, a line for
 * each. What engine_faults has for engines of any kind, with what only these have: contexts
 * that fail as a whole, are stopped and started again, the administrative context that does
 * it, the error log, and the function itself.
 *
 * The engine gets everything (engine_share). Whatever it does, content is right, what the
 * stock kernel would have moved is moved unless nothing proves in time that the context is
 * quiet (I7), the call ends in bounded time, and afterwards nothing is parked, the pool is
 * whole, and all contexts work again, after having been rearmed where they were
 * quarantined.
 *
 * Seen red, in a scratch copy: with blocks whose errors are not looked at (Ring::reap() that
 * takes all for good), descriptor and soft_error lose content; with contexts that are taken
 * for stopped without having been (Channel::prove_quiet() that says true,
 * Function::stop_context() that does nothing), late_write overwrites what has got the freed
 * destinations, 131047 bytes of 8 MiB with 64K folios.
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

/* Of the administrative context, and of the function. */
#define ADMIN(fault)	"{\"cmd\":\"inject\",\"channel\":0,\"fault\":{" fault "}}"
#define FUNCTION(fault)	"{\"cmd\":\"inject\",\"fault\":{" fault "}}"

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

/*
 * At the first copy of all, and in the middle of a ring, where it may be an interrupt: what comes
 * behind it is another batch's.
 */
FIXTURE_VARIANT(sdxi)
{
	unsigned int kib;
	bool later;
};

FIXTURE_VARIANT_ADD(sdxi, first_4k) { .kib = 4 };
FIXTURE_VARIANT_ADD(sdxi, later_4k) { .kib = 4, .later = true };
FIXTURE_VARIANT_ADD(sdxi, first_64k) { .kib = 64 };
FIXTURE_VARIANT_ADD(sdxi, later_64k) { .kib = 64, .later = true };
FIXTURE_VARIANT_ADD(sdxi, first_2m) { .kib = 2048 };
FIXTURE_VARIANT_ADD(sdxi, later_2m) { .kib = 2048, .later = true };

struct fault {
	const char *what;
	/* All copies from there on, and faults may be left in the end. */
	bool all;
	/* A whole request, and whether it may be left. */
	const char *second;
	bool left;
	int how;
};

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

static void cell(struct __test_metadata *_metadata, FIXTURE_DATA(sdxi) * self, bool later,
		 const struct fault *fault)
{
	struct hz_count c;
	char request[300];
	u64 from, ms;
	long there;

	ASSERT_EQ(0, hz_fresh(self->mem, LEN, self->folio, self->nodes[0]));
	ferry_fill(self->mem, LEN, self->folio, 1);
	snprintf(request, sizeof(request),
		 "{\"cmd\":\"inject\",%s,\"times\":%d,\"fault\":{%s}}",
		 later ? "\"channel\":1,\"nth\":3" : "\"nth\":1", fault->all ? 0 : 1, fault->what);
	ASSERT_TRUE(eng_do(self->port, request));
	if (fault->second)
		ASSERT_TRUE(eng_do(self->port, fault->second));
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
	ferry_note("%ld of %lu pages moved in %llu ms; unquiet %ld", there, LEN / FERRY_PAGE, ms,
		   hz_grown(&c, "folios_unquiet"));
	ferry_note("descriptors %ld, chunks failed %ld, timeouts %ld",
		   hz_grown(&c, "engine_descriptors"), hz_grown(&c, "chunks_failed"),
		   hz_grown(&c, "engine_timeouts"));
	/* What was not moved is what nobody could vouch for. */
	EXPECT_EQ(LEN / FERRY_PAGE - there,
		  hz_grown(&c, "folios_unquiet") * (self->folio / FERRY_PAGE));
	EXPECT_EQ(fault->how != SOON, hz_grown(&c, "folios_unquiet") > 0);
	/* Whoever writes late, what is said from here on stays said. */
	ferry_fill(self->mem, LEN, self->folio, 3);
	if (fault->how == GONE) {
		/* What is not there may be back any time, and go on. */
		EXPECT_FALSE(hz_none_parked(NULL));
		EXPECT_TRUE(eng_do(self->port, "{\"cmd\":\"restore\"}"));
	}
	EXPECT_TRUE(ferry_wait(hz_none_parked, NULL, SLACK_MS));
	EXPECT_TRUE(ferry_wait(hz_pool_whole, NULL, SLACK_MS));
	if (!fault->all && !fault->left)
		EXPECT_TRUE(ferry_wait(struck, &self->port, SLACK_MS));
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, self->folio, 3));

	/* What was parked is somebody else's now: it must not be written to any more. */
	ASSERT_EQ(0, hz_fresh(self->mem, LEN, self->folio, self->nodes[1]));
	ferry_fill(self->mem, LEN, self->folio, 2);
	if (fault->how == LATE)
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

TEST_F(sdxi, buffer)
{
	const struct fault fault = { .what = BUFFER };

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, block)
{
	const struct fault fault = { .what = BLOCK };

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, descriptor)
{
	const struct fault fault = { .what = DESCRIPTOR };

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, akey)
{
	const struct fault fault = { .what = AKEY };

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, soft_error)
{
	const struct fault fault = { .what = "\"kind\":\"soft_error\",\"code\":138" };

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, errors)
{
	const struct fault fault = { .what = BUFFER, .all = true };

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, partial)
{
	const struct fault fault = { .what = "\"kind\":\"partial\",\"bytes\":1024" };

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, lost_interrupt)
{
	const struct fault fault = { .what = "\"kind\":\"lost_interrupt\"", .all = true };

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, late_interrupt)
{
	const struct fault fault = { .what = "\"kind\":\"late_interrupt\",\"ms\":100" };

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, duplicate)
{
	const struct fault fault = { .what = "\"kind\":\"duplicate\",\"ms\":20" };

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, out_of_order)
{
	const struct fault fault = {
		.what = "\"kind\":\"out_of_order\",\"count\":1000",
		.all = true,
	};

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, lazy_read_index)
{
	const struct fault fault = {
		.what = "\"kind\":\"lazy_read_index\",\"count\":5000",
		.all = true,
	};

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, slow_write)
{
	const struct fault fault = { .what = "\"kind\":\"late_write\",\"ms\":200" };

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, function_error)
{
	const struct fault fault = { .what = "\"kind\":\"function_error\"" };

	cell(_metadata, self, variant->later, &fault);
}

/* The log, and who is to stop the context, fail with it. */
TEST_F(sdxi, log_full)
{
	const struct fault fault = { .what = BUFFER, .second = FUNCTION("\"kind\":\"log_full\"") };

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, lost_log_interrupt)
{
	const struct fault fault = {
		.what = BUFFER,
		.second = FUNCTION("\"kind\":\"lost_log_interrupt\""),
	};

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, slow_sync)
{
	const struct fault fault = {
		.what = BUFFER,
		.second = FUNCTION("\"kind\":\"slow_sync\",\"ms\":300"),
	};

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, admin_error)
{
	const struct fault fault = { .what = BUFFER, .second = ADMIN(DESCRIPTOR) };

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, init_error)
{
	const struct fault fault = {
		.what = "\"kind\":\"function_error\"",
		.second = FUNCTION("\"kind\":\"init_error\""),
	};

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, hang)
{
	const struct fault fault = { .what = HANG, .how = LATE };

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, lost_completion)
{
	const struct fault fault = { .what = "\"kind\":\"lost_completion\"", .how = LATE };

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, lost_doorbell)
{
	const struct fault fault = { .what = "\"kind\":\"lost_doorbell\"", .how = LATE };

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, late_write)
{
	const struct fault fault = { .what = "\"kind\":\"late_write\",\"ms\":2500", .how = LATE };

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, hang_admin)
{
	const struct fault fault = { .what = HANG, .second = ADMIN(HANG), .how = LATE };

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, stuck_stop)
{
	const struct fault fault = {
		.what = HANG,
		.second = FUNCTION("\"kind\":\"stuck_stop\",\"hard\":true"),
		.left = true,
		.how = LATE,
	};

	cell(_metadata, self, variant->later, &fault);
}

TEST_F(sdxi, disappear)
{
	const struct fault fault = { .what = "\"kind\":\"disappear\"", .how = GONE };

	cell(_metadata, self, variant->later, &fault);
}

TEST_HARNESS_MAIN
