// SPDX-License-Identifier: GPL-2.0
/* One hugetlb folio of 1G; see hugetlb_common.h. */
#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hugetlb_common.h"

FIXTURE(hugetlb)
{
	struct huge_memory memory;
};

FIXTURE_VARIANT(hugetlb)
{
	bool file;
	bool shared;
};

FIXTURE_VARIANT_ADD(hugetlb, private_anon) { .shared = false };
FIXTURE_VARIANT_ADD(hugetlb, shared_file) { .file = true, .shared = true };

FIXTURE_SETUP(hugetlb)
{
	huge_begin(_metadata, &self->memory, 1048576, 1, variant->file, variant->shared);
}

FIXTURE_TEARDOWN(hugetlb)
{
	huge_end(&self->memory);
}

TEST_F(hugetlb, round_trip)
{
	huge_round_trip(_metadata, &self->memory);
}

TEST_HARNESS_MAIN
