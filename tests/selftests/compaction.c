// SPDX-License-Identifier: GPL-2.0
/*
 * Memory compaction: the memory of a node is fragmented, compaction moves the remaining pages
 * to the other end of the zone, and every byte has to arrive. The pages are anonymous memory,
 * shared memory, and page cache that no process maps.
 */
#include <fcntl.h>

#include "kselftest_harness.h"
#include "ferry_util.h"

#define FILE_LEN	(16UL << 20)
/*
 * Rounds until enough pages of both kinds have been moved. Their number depends on chance:
 * beside other load, 16 rounds once moved 905 of the 1000 anonymous pages that are required.
 * The bound is seven times the number of rounds that this needed.
 */
#define MOST_ROUNDS	128

FIXTURE(compaction)
{
	int nodes[FERRY_MAX_NODES];
	struct ferry_stats before;
	u64 *pfns, *now;
	char *mem, *map;
	size_t len;
	int fd;
};

FIXTURE_SETUP(compaction)
{
	self->mem = MAP_FAILED;
	self->map = MAP_FAILED;
	self->fd = -1;
	if (ferry_mem_nodes(self->nodes) < 1)
		SKIP(return, "needs a node with memory");
	ASSERT_EQ(0, ferry_quiet());
	ASSERT_EQ(0, ferry_mthp_only(0));
	self->len = ferry_iters(256, 64) * (1UL << 20);
	self->mem = ferry_map_anon(self->len, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
	self->pfns = malloc(self->len / FERRY_PAGE * sizeof(u64));
	self->now = malloc(self->len / FERRY_PAGE * sizeof(u64));
	ASSERT_TRUE(self->pfns && self->now);
	self->fd = memfd_create("ferry", 0);
	ASSERT_GE(self->fd, 0);
	ASSERT_EQ(0, ferry_stats_get(&self->before));
}

FIXTURE_TEARDOWN(compaction)
{
	if (self->mem != MAP_FAILED)
		munmap(self->mem, self->len);
	if (self->fd >= 0)
		close(self->fd);
	free(self->pfns);
	free(self->now);
	ferry_restore();
}

/* Reads the page frame numbers of the file, which is mapped only for that time. */
static void file_pfns(struct __test_metadata *_metadata, FIXTURE_DATA(compaction) * self,
		      u64 *pfns)
{
	char *map = ferry_map_file(self->fd, FILE_LEN, FERRY_PMD, PROT_READ, MAP_SHARED);

	ASSERT_NE(MAP_FAILED, map);
	ASSERT_EQ(0, madvise(map, FILE_LEN, MADV_POPULATE_READ));
	ASSERT_EQ(0, ferry_pfns(map, FILE_LEN, pfns));
	ASSERT_EQ(0, munmap(map, FILE_LEN));
}

static int compare(const u64 *a, const u64 *b, size_t n)
{
	size_t i;
	int moved = 0;

	for (i = 0; i < n; i++)
		moved += a[i] && b[i] && a[i] != b[i];
	return moved;
}

TEST_F(compaction, fragmented_node)
{
	u64 old[FILE_LEN / FERRY_PAGE], new[FILE_LEN / FERRY_PAGE];
	int rounds = ferry_iters(3, 1), r, anon = 0, file = 0, node;
	size_t n = self->len / FERRY_PAGE, i, keep;
	size_t step = self->len / (FILE_LEN / FERRY_PAGE);
	struct ferry_stats after;
	char page[FERRY_PAGE];

	/*
	 * The number of pages that one compaction moves depends on where the other pages of
	 * the system are, so rounds go on until both counts are reached.
	 */
	for (r = 0; r < rounds || (r < MOST_ROUNDS && (anon <= 1000 || file <= 100)); r++) {
		node = self->nodes[r & 1];
		ASSERT_EQ(0, madvise(self->mem, self->len, MADV_DONTNEED));
		ASSERT_EQ(0, ftruncate(self->fd, 0));
		ASSERT_EQ(0, ferry_set_mempolicy(MPOL_BIND, node));
		/* One page of the file after every few anonymous ones. */
		for (i = 0; i < FILE_LEN / FERRY_PAGE; i++) {
			ASSERT_EQ(0, madvise(self->mem + i * step, step,
					     MADV_POPULATE_WRITE));
			ferry_fill_at(page, FERRY_PAGE, 20, r, i * FERRY_PAGE);
			ASSERT_EQ(FERRY_PAGE, pwrite(self->fd, page, FERRY_PAGE,
						     i * FERRY_PAGE));
		}
		ASSERT_EQ(0, ferry_set_mempolicy(MPOL_DEFAULT, -1));
		/* Three of four pages are freed; the rest is spread over the node. */
		for (i = 0; i < n; i += 4)
			ASSERT_EQ(0, madvise(self->mem + (i + 1) * FERRY_PAGE,
					     3 * FERRY_PAGE, MADV_DONTNEED));
		for (i = 0; i < n; i += 4)
			ferry_fill_at(self->mem + i * FERRY_PAGE, FERRY_PAGE, 21, r,
				      i * FERRY_PAGE);
		ASSERT_EQ(0, ferry_pfns(self->mem, self->len, self->pfns));
		file_pfns(_metadata, self, old);
		for (keep = 0, i = 0; i < n; i++)
			keep += !!self->pfns[i];
		ASSERT_EQ(n / 4, keep);

		ASSERT_EQ(0, ferry_write("/proc/sys/vm/compact_memory", "1"));

		for (i = 0; i < n; i += 4)
			ASSERT_EQ(0, ferry_verify_at(self->mem + i * FERRY_PAGE,
						     FERRY_PAGE, 21, r, i * FERRY_PAGE));
		ASSERT_EQ(0, ferry_verify_fd(self->fd, FILE_LEN, 20, r));
		ASSERT_EQ(0, ferry_pfns(self->mem, self->len, self->now));
		file_pfns(_metadata, self, new);
		anon += compare(self->pfns, self->now, n);
		file += compare(old, new, ARRAY_SIZE(old));
	}
	ferry_note("%d anonymous pages and %d of the file's were moved in %d rounds", anon, file,
		   r);
	EXPECT_GT(anon, 1000);
	EXPECT_GT(file, 100);
	ASSERT_EQ(0, ferry_stats_get(&after));
	EXPECT_TRUE(ferry_stats_used(&self->before, &after));
}

TEST_HARNESS_MAIN
