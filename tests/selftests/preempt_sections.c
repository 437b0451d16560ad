// SPDX-License-Identifier: GPL-2.0
/*
 * Invariant: I13
 *
 * A bounded amount of work is done with preemption off, for all values of knobs.
 *
 * A worker keeps preemption off for a chunk, which is 256 KiB at most: the number of chunks
 * has to fit the copied bytes, with every accepted chunk size, for folios that are copied
 * early and in place. A mover that makes descriptors for an engine keeps preemption off while
 * it holds the channel's lock, which it releases when 50 us have passed: if each descriptor
 * takes longer (delay_in_descriptor_us), it takes the lock for each descriptor
 * (engine_sections).
 *
 * The test counts and measures no time: the delay is by the clock that the module looks at,
 * so a busy machine makes sections shorter, not fewer.
 *
 * Seen red, in a scratch copy: with MAX_CHUNK_BYTES of 4 MiB in core/knob.rs "chunks" finds
 * too few of them; with SECTION_NS of a second in engine/channel.rs "descriptors" finds fewer
 * sections than descriptors.
 */
#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"

#define LEN		(4UL << 20)
#define MOST		(256UL << 10)
#define DESCRIPTOR_US	100

FIXTURE(sections)
{
	int nodes[FERRY_MAX_NODES];
	char *mem;
};

FIXTURE_SETUP(sections)
{
	self->mem = MAP_FAILED;
	if (!ferry_active())
		SKIP(return, "needs a migrator");
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	ASSERT_EQ(0, race_prepare(self->nodes));
	self->mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
	ASSERT_EQ(0, ferry_set_knob("reasons", "syscall"));
	ASSERT_EQ(0, ferry_set_knob("lookahead_bytes", "%lu", 1UL << 30));
}

FIXTURE_TEARDOWN(sections)
{
	if (self->mem != MAP_FAILED)
		munmap(self->mem, LEN);
	ferry_restore();
}

/* Moves folios of @folio bytes, naming one page in each @step. */
static void move(struct __test_metadata *_metadata, FIXTURE_DATA(sections) * self, size_t folio,
		 size_t step, int i)
{
	ASSERT_EQ(0, race_fresh(self->mem, LEN, folio, self->nodes[i & 1]));
	ferry_fill(self->mem, LEN, 13, i);
	EXPECT_EQ(0, ferry_move_range(self->mem, LEN, step, self->nodes[!(i & 1)], NULL));
	ASSERT_EQ(0, ferry_verify(self->mem, LEN, 13, i));
}

TEST_F(sections, chunks)
{
	static const size_t folios[] = { FERRY_PAGE, FERRY_PMD };
	/* Folios of 2M are copied early in batches of 8M, and in place if each one is a batch. */
	static const size_t batches[] = { 8UL << 20, 2UL << 20 };
	long bytes, chunks, accepted = 0;
	int f, b, i, gen = 0;
	struct race_count c;
	size_t size;

	ASSERT_EQ(0, ferry_inject("workers_only", 1));
	for (size = 64UL << 10; size <= LEN; size *= 2) {
		if (ferry_set_knob("chunk_bytes", "%lu", size))
			continue;
		accepted++;
		for (f = 0; f < ARRAY_SIZE(folios); f++) {
			if (folios[f] != FERRY_PAGE && access(FERRY_THP "enabled", F_OK))
				continue;
			for (b = 0; b < ARRAY_SIZE(batches); b++) {
				ASSERT_EQ(0, ferry_set_knob("batch_bytes", "%lu", batches[b]));
				race_count(&c);
				for (i = 0; i < 2; i++)
					move(_metadata, self, folios[f], folios[f], gen++);
				race_count_end(&c);
				bytes = race_grown(&c, "bytes_early") +
					race_grown(&c, "bytes_in_place");
				chunks = race_grown(&c, "chunks_by_mover") +
					 race_grown(&c, "chunks_by_others");
				EXPECT_LE(bytes, chunks * (long)MOST)
					TH_LOG("chunk_bytes %zu, folios of %zu", size, folios[f]);
				ferry_note("chunks of %zuK, folios of %zuK: %ld KiB in %ld",
					   size >> 10, folios[f] >> 10, bytes >> 10, chunks);
				EXPECT_GT(bytes, 0);
			}
		}
	}
	EXPECT_GE(accepted, 3);
}

TEST_F(sections, descriptors)
{
	long sections, descriptors;
	struct race_count c;
	int i, iters = ferry_iters(8, 4);

	if (!strcmp(ferry_migrator(), "cpu"))
		SKIP(return, "needs an engine");
	ASSERT_EQ(0, ferry_set_knob("engine_share", "all"));
	ASSERT_EQ(0, ferry_set_knob("dma_channels", "1"));
	ASSERT_EQ(0, ferry_set_knob("chunk_bytes", "%lu", MOST));
	ASSERT_EQ(0, ferry_set_knob("batch_folios", "4096"));
	ASSERT_EQ(0, ferry_inject("delay_in_descriptor_us", DESCRIPTOR_US));
	race_count(&c);
	/* Every second page, so that few of them share a descriptor. */
	for (i = 0; i < iters; i++)
		move(_metadata, self, FERRY_PAGE, 2 * FERRY_PAGE, i);
	race_count_end(&c);
	sections = race_grown(&c, "engine_sections");
	descriptors = race_grown(&c, "engine_descriptors");
	ferry_note("%ld descriptors in %ld submits, the lock taken %ld times", descriptors,
		   race_grown(&c, "engine_submits"), sections);
	/* Enough to tell sections from submits. */
	EXPECT_GT(descriptors, 4 * race_grown(&c, "engine_submits"));
	EXPECT_GE(sections, descriptors);
}

TEST_HARNESS_MAIN
