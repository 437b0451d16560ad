/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A fixture for tests of the invariants: SIZED_LEN bytes of anonymous memory, still empty,
 * which race_fresh() fills with folios of self->folio bytes, and two nodes with memory. It
 * has a variant for each folio size. To be included after hazards.h.
 */
#ifndef FERRY_SIZED_H
#define FERRY_SIZED_H

FIXTURE(sized)
{
	int nodes[FERRY_MAX_NODES];
	size_t folio;
	char *mem;
};

FIXTURE_VARIANT(sized)
{
	unsigned int kib;
};

FIXTURE_VARIANT_ADD(sized, 4k) { .kib = 4 };
FIXTURE_VARIANT_ADD(sized, 64k) { .kib = 64 };
FIXTURE_VARIANT_ADD(sized, 256k) { .kib = 256 };
FIXTURE_VARIANT_ADD(sized, 2m) { .kib = 2048 };

FIXTURE_SETUP(sized)
{
	self->mem = MAP_FAILED;
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	ASSERT_EQ(0, race_prepare(self->nodes));
	self->folio = variant->kib << 10;
	self->mem = ferry_map_anon(SIZED_LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
}

FIXTURE_TEARDOWN(sized)
{
	if (self->mem != MAP_FAILED)
		munmap(self->mem, SIZED_LEN);
	ferry_restore();
}

#endif
