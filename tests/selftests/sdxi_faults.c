// SPDX-License-Identifier: GPL-2.0
/*
 * Faults of SDXI functions: each fault at each struck descriptor and each folio size. In
 * addition to the faults of engine_faults, which any engine can have, there are those of SDXI
 * only: contexts that fail as a whole, are stopped and started again, the administrative
 * context that does that, the error log, and the function itself. faults.h describes the
 * state that is required during the fault and afterwards.
 *
 * Seen red, in a scratch copy: with completion blocks whose errors are ignored (Ring::reap()
 * that takes all for good), descriptor and soft_error lose content; with contexts that are
 * taken for stopped without having been stopped (ContextRing::prove_quiet() that returns
 * true, Function::stop_context() that does nothing), late_write overwrites the new content of
 * freed destinations, 131047 bytes of 8 MiB with 64K folios.
 */
#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"
#include "engine.h"
#include "faults.h"

/* Requests for faults of the administrative context, and of the function. */
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
	struct flt f;
};

/*
 * The fault strikes the first copy, or a descriptor in the middle of a ring, which may be an
 * interrupt, so that the descriptors behind it belong to another batch.
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

/* Returns true if all contexts that have been started run. */
static bool runs(void *arg)
{
	const struct flt *f = arg;
	char path[100], buf[32768];

	snprintf(path, sizeof(path), FERRY_DEBUGFS "functions/%s/contexts", f->function);
	return ferry_read(path, buf, sizeof(buf)) > 0 && !strstr(buf, ": idle") &&
	       !strstr(buf, ": failed") && !strstr(buf, ": stopped");
}

FIXTURE_SETUP(sdxi)
{
	char buf[32];

	self->f.mem = MAP_FAILED;
	self->f.port = -1;
	if (!ferry_active() || strcmp(ferry_migrator(), "ferry_sdxi"))
		SKIP(return, "needs the migrator ferry_sdxi");
	if (ferry_mem_nodes(self->f.nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	ASSERT_LT(0, ferry_read(FERRY_SYSCTL "dma_channels", buf, sizeof(buf)));
	flt_begin(_metadata, &self->f, "ferry_sdxi", variant->kib, atol(buf));
	/* Several batches, and each context gets a part of each. */
	ASSERT_EQ(0, ferry_set_knob("batch_bytes", "%lu", FERRY_PMD));
}

FIXTURE_TEARDOWN(sdxi)
{
	flt_end(&self->f);
}

static void cell(struct __test_metadata *_metadata, struct flt *f, bool later,
		 struct flt_fault fault)
{
	fault.ready = runs;
	flt_strike(_metadata, f, later ? "\"channel\":1,\"nth\":3" : "\"nth\":1", &fault);
}

/* A function that is gone may come back at any time, and go on, so there is no proof. */
static void come_back(struct __test_metadata *_metadata, struct flt *f)
{
	EXPECT_FALSE(race_none_parked(NULL));
	EXPECT_TRUE(eng_do(f->port, "{\"cmd\":\"restore\"}"));
}

TEST_F(sdxi, buffer)
{
	const struct flt_fault fault = { .what = BUFFER, .times = 1 };

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, block)
{
	const struct flt_fault fault = { .what = BLOCK, .times = 1 };

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, descriptor)
{
	const struct flt_fault fault = { .what = DESCRIPTOR, .times = 1 };

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, akey)
{
	const struct flt_fault fault = { .what = AKEY, .times = 1 };

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, soft_error)
{
	const struct flt_fault fault = {
		.what = "\"kind\":\"soft_error\",\"code\":138",
		.times = 1,
	};

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, errors)
{
	const struct flt_fault fault = { .what = BUFFER };

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, partial)
{
	const struct flt_fault fault = {
		.what = "\"kind\":\"partial\",\"bytes\":1024",
		.times = 1,
	};

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, lost_interrupt)
{
	const struct flt_fault fault = { .what = "\"kind\":\"lost_interrupt\"" };

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, late_interrupt)
{
	const struct flt_fault fault = {
		.what = "\"kind\":\"late_interrupt\",\"ms\":100",
		.times = 1,
	};

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, duplicate)
{
	const struct flt_fault fault = {
		.what = "\"kind\":\"duplicate\",\"ms\":20",
		.times = 1,
	};

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, out_of_order)
{
	const struct flt_fault fault = {
		.what = "\"kind\":\"out_of_order\",\"count\":1000",
	};

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, lazy_read_index)
{
	const struct flt_fault fault = {
		.what = "\"kind\":\"lazy_read_index\",\"count\":5000",
	};

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, slow_write)
{
	const struct flt_fault fault = {
		.what = "\"kind\":\"late_write\",\"ms\":200",
		.times = 1,
	};

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, function_error)
{
	const struct flt_fault fault = {
		.what = "\"kind\":\"function_error\"",
		.times = 1,
	};

	cell(_metadata, &self->f, variant->later, fault);
}

/* The log, and the administrative context that has to stop the failed one, fail as well. */
TEST_F(sdxi, log_full)
{
	const struct flt_fault fault = {
		.what = BUFFER,
		.times = 1,
		.second = FUNCTION("\"kind\":\"log_full\""),
	};

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, lost_log_interrupt)
{
	const struct flt_fault fault = {
		.what = BUFFER,
		.times = 1,
		.second = FUNCTION("\"kind\":\"lost_log_interrupt\""),
	};

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, slow_sync)
{
	const struct flt_fault fault = {
		.what = BUFFER,
		.times = 1,
		.second = FUNCTION("\"kind\":\"slow_sync\",\"ms\":300"),
	};

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, admin_error)
{
	const struct flt_fault fault = {
		.what = BUFFER,
		.times = 1,
		.second = ADMIN(DESCRIPTOR),
	};

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, init_error)
{
	const struct flt_fault fault = {
		.what = "\"kind\":\"function_error\"",
		.times = 1,
		.second = FUNCTION("\"kind\":\"init_error\""),
	};

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, hang)
{
	const struct flt_fault fault = { .what = HANG, .times = 1, .how = FLT_HUNG };

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, lost_completion)
{
	const struct flt_fault fault = {
		.what = "\"kind\":\"lost_completion\"",
		.times = 1,
		.how = FLT_HUNG,
	};

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, lost_doorbell)
{
	const struct flt_fault fault = {
		.what = "\"kind\":\"lost_doorbell\"",
		.times = 1,
		.how = FLT_HUNG,
	};

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, late_write)
{
	const struct flt_fault fault = {
		.what = FLT_LATE,
		.times = 1,
		.how = FLT_LATER,
	};

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, hang_admin)
{
	const struct flt_fault fault = {
		.what = HANG,
		.times = 1,
		.second = ADMIN(HANG),
		.how = FLT_HUNG,
	};

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, stuck_stop)
{
	const struct flt_fault fault = {
		.what = HANG,
		.times = 1,
		.second = FUNCTION("\"kind\":\"stuck_stop\",\"hard\":true"),
		.left = true,
		.how = FLT_HUNG,
	};

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_F(sdxi, disappear)
{
	const struct flt_fault fault = {
		.what = "\"kind\":\"disappear\"",
		.times = 1,
		.how = FLT_UNPROVEN,
		.back = come_back,
	};

	cell(_metadata, &self->f, variant->later, fault);
}

TEST_HARNESS_MAIN
