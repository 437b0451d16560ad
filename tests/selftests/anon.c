// SPDX-License-Identifier: GPL-2.0
/*
 * Anonymous folios of every size that the kernel offers move back and forth between two
 * nodes. Every byte is compared after every move, the folios keep their size, and the page
 * frames are new ones.
 *
 * A folio larger than 4K that is mapped by PTEs moves as a whole only once: removing its PTEs
 * one by one makes it look partially mapped (__folio_remove_rmap()), its copy goes to the
 * deferred split list, and the next migrate_pages() splits it. The stock kernel does the
 * same. So each round starts with fresh folios, on one node and in the next round on the
 * other.
 */
#include "kselftest_harness.h"
#include "ferry_util.h"

#define LEN	(4UL << 20)

static const unsigned int sizes[] = { 4, 16, 32, 64, 128, 256, 512, 1024, 2048 };

FIXTURE(anon)
{
	int nodes[FERRY_MAX_NODES];
	struct ferry_stats before;
	size_t folio;
	char *mem;
};

FIXTURE_VARIANT(anon)
{
	unsigned int kib;
};

FIXTURE_VARIANT_ADD(anon, 4k) { .kib = 4 };
FIXTURE_VARIANT_ADD(anon, 16k) { .kib = 16 };
FIXTURE_VARIANT_ADD(anon, 32k) { .kib = 32 };
FIXTURE_VARIANT_ADD(anon, 64k) { .kib = 64 };
FIXTURE_VARIANT_ADD(anon, 128k) { .kib = 128 };
FIXTURE_VARIANT_ADD(anon, 256k) { .kib = 256 };
FIXTURE_VARIANT_ADD(anon, 512k) { .kib = 512 };
FIXTURE_VARIANT_ADD(anon, 1m) { .kib = 1024 };
FIXTURE_VARIANT_ADD(anon, 2m) { .kib = 2048 };

FIXTURE_SETUP(anon)
{
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	/* PREEMPT_RT has no THP. */
	if (variant->kib != 4 && access(FERRY_THP "enabled", F_OK))
		SKIP(return, "no CONFIG_TRANSPARENT_HUGEPAGE");
	self->folio = variant->kib << 10;
	ASSERT_EQ(0, ferry_quiet());
	self->mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
	ASSERT_EQ(0, ferry_mthp_only(variant->kib == 4 ? 0 : variant->kib));
	ASSERT_EQ(0, ferry_stats_get(&self->before));
}

FIXTURE_TEARDOWN(anon)
{
	if (self->mem && self->mem != MAP_FAILED)
		munmap(self->mem, LEN);
	ferry_restore();
}

/* Makes new folios of the size under test, all on one node. */
static void fresh(struct __test_metadata *_metadata, char *mem, size_t folio, int node)
{
	ASSERT_EQ(0, madvise(mem, LEN, MADV_DONTNEED));
	ASSERT_EQ(0, ferry_populate(mem, LEN, node));
	ASSERT_EQ(LEN, ferry_in_folios_of(mem, LEN, folio));
	ASSERT_EQ(LEN / FERRY_PAGE, ferry_count_on(mem, LEN, FERRY_PAGE, node));
}

/* The call to the other node names each folio once, the call back names each page. */
TEST_F(anon, round_trip)
{
	int iters = ferry_iters(6, 2), i, from, to;
	struct ferry_stats after;
	u64 pfn;

	for (i = 0; i < iters; i++) {
		from = self->nodes[i & 1];
		to = self->nodes[!(i & 1)];
		fresh(_metadata, self->mem, self->folio, from);
		pfn = ferry_pfn(self->mem);
		ferry_fill(self->mem, LEN, variant->kib, i);
		ASSERT_EQ(0, ferry_move_range(self->mem, LEN, self->folio, to,
					      NULL));
		ASSERT_EQ(0, ferry_verify(self->mem, LEN, variant->kib, i));
		ASSERT_EQ(LEN / FERRY_PAGE,
			  ferry_count_on(self->mem, LEN, FERRY_PAGE, to));
		ASSERT_NE(pfn, ferry_pfn(self->mem));
		ASSERT_EQ(LEN, ferry_in_folios_of(self->mem, LEN, self->folio));
		ASSERT_EQ(0, ferry_move_range(self->mem, LEN, FERRY_PAGE, from,
					      NULL));
		ASSERT_EQ(0, ferry_verify(self->mem, LEN, variant->kib, i));
	}
	ASSERT_EQ(0, ferry_stats_get(&after));
	EXPECT_TRUE(ferry_stats_used(&self->before, &after));
}

/* Names each page of each folio, in shuffled order, and moves only half of them. */
TEST_F(anon, shuffled_half)
{
	size_t n = LEN / FERRY_PAGE, i, j, half = LEN / 2 / self->folio * self->folio;
	int iters = ferry_iters(4, 2), it, to, from, *nodes, *status;
	void **pages, *swap;
	unsigned int r = 1;

	pages = malloc(n * sizeof(*pages));
	nodes = malloc(n * sizeof(*nodes));
	status = malloc(n * sizeof(*status));
	ASSERT_TRUE(pages && nodes && status);
	for (it = 0; it < iters; it++) {
		from = self->nodes[it & 1];
		to = self->nodes[!(it & 1)];
		fresh(_metadata, self->mem, self->folio, from);
		for (i = 0; i < n; i++)
			pages[i] = self->mem + i * FERRY_PAGE;
		for (i = n - 1; i > 0; i--) {
			r = r * 1103515245 + 12345;
			j = (r >> 8) % (i + 1);
			swap = pages[i];
			pages[i] = pages[j];
			pages[j] = swap;
		}
		for (i = 0; i < n; i++) {
			nodes[i] = (char *)pages[i] < self->mem + half ?
				to : from;
			status[i] = -12345;
		}
		ferry_fill(self->mem, LEN, 77, it);
		ASSERT_EQ(0, ferry_move_pages(0, n, pages, nodes, status,
					      MPOL_MF_MOVE));
		ASSERT_EQ(0, ferry_verify(self->mem, LEN, 77, it));
		ASSERT_EQ(half / FERRY_PAGE,
			  ferry_count_on(self->mem, half, FERRY_PAGE, to));
		ASSERT_EQ((LEN - half) / FERRY_PAGE,
			  ferry_count_on(self->mem + half, LEN - half, FERRY_PAGE,
					 from));
	}
	free(pages);
	free(nodes);
	free(status);
}

/* Makes one call for each folio, so batches of one. The neighbours stay as they are. */
TEST_F(anon, one_by_one)
{
	size_t span = self->folio * 64 < LEN ? self->folio * 64 : LEN, off;
	int iters = ferry_iters(4, 2), i, to;

	for (i = 0; i < iters; i++) {
		to = self->nodes[!(i & 1)];
		fresh(_metadata, self->mem, self->folio, self->nodes[i & 1]);
		ferry_fill(self->mem, LEN, 3, i);
		for (off = 0; off < span; off += self->folio) {
			ASSERT_EQ(0, ferry_move_range(self->mem + off, self->folio,
						      self->folio, to, NULL));
			ASSERT_EQ(0, ferry_verify_at(self->mem + off, self->folio,
						     3, i, off));
		}
		ASSERT_EQ(0, ferry_verify(self->mem, LEN, 3, i));
		ASSERT_EQ(span / FERRY_PAGE,
			  ferry_count_on(self->mem, span, FERRY_PAGE, to));
	}
}

/* Checks that no size that sysfs offers is missing above. */
TEST(every_size_is_tested)
{
	unsigned int offered[32];
	char path[160];
	int n, i, j;

	n = ferry_mthp_sizes(offered, ARRAY_SIZE(offered));
	ASSERT_GT(n, 0);
	for (i = 0; i < n; i++) {
		snprintf(path, sizeof(path), FERRY_THP "hugepages-%ukB/enabled",
			 offered[i]);
		if (access(path, F_OK))
			continue;
		for (j = 0; j < ARRAY_SIZE(sizes); j++)
			if (sizes[j] == offered[i])
				break;
		EXPECT_LT(j, ARRAY_SIZE(sizes))
			TH_LOG("%u KiB folios are not tested", offered[i]);
	}
}

TEST_HARNESS_MAIN
