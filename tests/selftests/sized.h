/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A fixture for the tests of the invariants: memory that is to be in folios of one size,
 * a variant for each. To be included after hazards.h.
 */
#ifndef FERRY_SIZED_H
#define FERRY_SIZED_H

/*
 * SIZED_FIXTURE(name, bytes): self->mem is @bytes of anonymous memory, empty, to be filled
 * in folios of self->folio bytes (hz_fresh()); self->nodes has two nodes with memory.
 */
#define SIZED_FIXTURE(name, bytes)						\
	FIXTURE(name)								\
	{									\
		int nodes[FERRY_MAX_NODES];					\
		size_t folio;							\
		char *mem;							\
	};									\
										\
	FIXTURE_VARIANT(name)							\
	{									\
		unsigned int kib;						\
	};									\
										\
	FIXTURE_SETUP(name)							\
	{									\
		self->mem = MAP_FAILED;						\
		if (ferry_mem_nodes(self->nodes) < 2)				\
			SKIP(return, "needs two nodes with memory");		\
		ASSERT_EQ(0, hz_prepare(self->nodes));				\
		self->folio = variant->kib << 10;				\
		self->mem = ferry_map_anon(bytes, FERRY_PMD);			\
		ASSERT_NE(MAP_FAILED, self->mem);				\
	}									\
										\
	FIXTURE_TEARDOWN(name)							\
	{									\
		if (self->mem != MAP_FAILED)					\
			munmap(self->mem, bytes);				\
		ferry_restore();						\
	}

#endif
