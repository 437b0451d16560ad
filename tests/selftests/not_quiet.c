// SPDX-License-Identifier: GPL-2.0
/*
 * Invariant: I7
 *
 * A folio whose copy cannot be proven quiet fails with -EBUSY; nothing is copied into its
 * destination, which is kept and not reused until the proof has arrived, and is freed then.
 * The same holds for its source, from which a worker may still read.
 *
 * A worker is delayed inside a chunk (delay_in_chunk_us) for much longer than timeout_ms.
 * Folios that failed stay where they are until the worker has finished, even if other tasks
 * try to move them, and can be moved then. In every other round their owner does not wait for
 * that, but frees them at once.
 *
 * Seen red, on the debug kernel: without the reference to the source, KASAN reports in
 * early_4k that the worker reads freed memory.
 */
#include <sys/mount.h>

#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"

#define LEN	(8UL << 20)
#define HOLD_MS	150
#define MNT	"/tmp/ferry-i7"

FIXTURE(not_quiet)
{
	int nodes[FERRY_MAX_NODES];
	char *mem;
};

FIXTURE_SETUP(not_quiet)
{
	self->mem = MAP_FAILED;
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	ASSERT_EQ(0, race_prepare(self->nodes));
	self->mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
	if (!ferry_loaded())
		return;
	ASSERT_EQ(0, ferry_set_knob("timeout_ms", "10"));
	ASSERT_EQ(0, ferry_inject("delay_in_chunk_us", HOLD_MS * 1000));
	ASSERT_EQ(0, ferry_inject("workers_only", 1));
}

FIXTURE_TEARDOWN(not_quiet)
{
	if (ferry_loaded())
		ferry_wait(race_none_parked, NULL, 10000);
	if (self->mem != MAP_FAILED)
		munmap(self->mem, LEN);
	umount(MNT);
	ferry_restore();
}

/* Returns the free memory of both nodes in bytes, including the lists of CPUs. */
static long free_bytes(const int *nodes)
{
	long count, pages = 0;
	char line[128];
	FILE *f;

	ferry_write("/proc/sys/vm/drop_caches", "1");
	f = fopen("/proc/zoneinfo", "r");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, " count: %ld", &count) == 1)
			pages += count;
	if (f)
		fclose(f);
	return ferry_node_free(nodes[0]) + ferry_node_free(nodes[1]) +
	       pages * FERRY_PAGE;
}

/* Expects that all lanes are quiet again: nothing is parked, the pool is whole. */
static void quiet_again(struct __test_metadata *_metadata)
{
	if (!ferry_loaded())
		return;
	EXPECT_TRUE(ferry_wait(race_none_parked, NULL, 20000));
	EXPECT_TRUE(ferry_wait(race_pool_whole, NULL, 20000));
}

/* Moves all to @to. Returns the largest number of destinations that were parked meanwhile. */
static long most_parked(struct __test_metadata *_metadata, char *mem, size_t folio, int to)
{
	long parked, most = 0;
	struct race_move m;
	bool over;

	ASSERT_EQ(0, race_move_start(&m, mem, LEN, folio, to, -1));
	do {
		over = race_move_over(&m);
		parked = race_parked();
		if (parked > most)
			most = parked;
		ferry_sleep_ms(1);
	} while (!over);
	ASSERT_LE(0, race_move_end(&m));
	return most;
}

static void rounds(struct __test_metadata *_metadata, FIXTURE_DATA(not_quiet) * self,
		   size_t folio, int iters)
{
	long parked, most = 0, before, after;
	struct race_count c;
	int i, to;

	/*
	 * One round of each kind first, so that page tables and caches have reached their
	 * size.
	 */
	before = 0;
	race_count(&c);
	for (i = 0; i < iters; i++) {
		if (i == 2)
			before = free_bytes(self->nodes);
		to = self->nodes[!(i & 1)];
		ASSERT_EQ(0, race_fresh(self->mem, LEN, folio, self->nodes[i & 1]));
		ferry_fill(self->mem, LEN, folio, i);
		parked = most_parked(_metadata, self->mem, folio, to);
		if (parked > most)
			most = parked;
		ASSERT_EQ(0, ferry_verify(self->mem, LEN, folio, i));
		/* Memory that the worker still accesses must have no owner any more. */
		if (i & 1)
			ASSERT_EQ(0, race_fresh(self->mem, LEN, folio, to));
		ferry_fill(self->mem, LEN, folio + 1, i);
		quiet_again(_metadata);
		ASSERT_EQ(0, ferry_verify(self->mem, LEN, folio + 1, i));
		if (!(i & 1)) {
			if (ferry_loaded())
				ASSERT_EQ(0, ferry_inject("delay_in_chunk_us", 0));
			ASSERT_LE(0, race_move_pages(self->mem, LEN, FERRY_PAGE, to));
			ASSERT_TRUE(race_all_on(self->mem, LEN, to));
			ASSERT_EQ(0, ferry_verify(self->mem, LEN, folio + 1, i));
			if (ferry_loaded())
				ASSERT_EQ(0, ferry_inject("delay_in_chunk_us", HOLD_MS * 1000));
		}
		ASSERT_EQ(0, madvise(self->mem, LEN, MADV_DONTNEED));
	}
	after = free_bytes(self->nodes);
	race_count_end(&c);
	if (!ferry_active())
		return;
	EXPECT_GT(race_grown(&c, "folios_not_quiet"), 0);
	EXPECT_GT(race_grown(&c, "wait_timeouts"), 0);
	EXPECT_GT(most, 0);
	ferry_note("unquiet %ld, most parked at a time %ld, free memory less by %ld KiB",
		   race_grown(&c, "folios_not_quiet"), most, (before - after) >> 10);
	/* Less than half of all parked memory, because the rest of the system allocates, too. */
	EXPECT_LT(before - after,
		  race_grown(&c, "folios_not_quiet") * (long)folio / 2 + (8L << 20));
}

TEST_F(not_quiet, early_4k)
{
	rounds(_metadata, self, FERRY_PAGE, ferry_iters(8, 4));
}

TEST_F(not_quiet, early_64k)
{
	rounds(_metadata, self, 64 << 10, ferry_iters(8, 4));
}

TEST_F(not_quiet, early_2m)
{
	rounds(_metadata, self, 2 << 20, ferry_iters(8, 4));
}

TEST_F(not_quiet, in_place_2m)
{
	if (ferry_loaded())
		ASSERT_EQ(0, ferry_inject("decline_batch_every", 1));
	rounds(_metadata, self, 2 << 20, ferry_iters(8, 4));
}

/* hugetlb folios are not tried again: they stay where they are, intact. */
TEST_F(not_quiet, in_place_hugetlb)
{
	int iters = ferry_iters(6, 3), i, to, stayed = 0;
	struct race_count c;
	char path[128], *mem;
	long ret;

	for (i = 0; i < 2; i++) {
		snprintf(path, sizeof(path),
			 "/sys/devices/system/node/node%d/hugepages/hugepages-2048kB/nr_hugepages",
			 self->nodes[i]);
		ASSERT_EQ(0, ferry_set(path, "4"));
		if (ferry_read_long(path) < 4)
			SKIP(return, "not enough memory for hugetlb folios");
	}
	mem = mmap(NULL, LEN, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 21 << 26, -1, 0);
	ASSERT_NE(MAP_FAILED, mem);
	ASSERT_EQ(0, ferry_populate(mem, LEN, self->nodes[0]));
	race_count(&c);
	for (i = 0; i < iters; i++) {
		to = self->nodes[!(i & 1)];
		ferry_fill(mem, LEN, 11, i);
		ret = race_move_pages(mem, LEN, FERRY_PMD, to);
		ASSERT_LE(0, ret);
		/* Only the folios that the call reports as failed have stayed. */
		ASSERT_EQ(ret, (long)(LEN / FERRY_PMD) -
			       ferry_count_on(mem, LEN, FERRY_PMD, to));
		stayed += ret;
		ASSERT_EQ(0, ferry_verify(mem, LEN, 11, i));
		ferry_fill(mem, LEN, 12, i);
		quiet_again(_metadata);
		ASSERT_EQ(0, ferry_verify(mem, LEN, 12, i));
		/* They can move once the worker is quiet. */
		if (ferry_loaded())
			ASSERT_EQ(0, ferry_inject("delay_in_chunk_us", 0));
		ASSERT_EQ(0, ferry_move_range(mem, LEN, FERRY_PMD, to, NULL));
		ASSERT_EQ(0, ferry_verify(mem, LEN, 12, i));
		if (ferry_loaded())
			ASSERT_EQ(0, ferry_inject("delay_in_chunk_us", HOLD_MS * 1000));
	}
	race_count_end(&c);
	munmap(mem, LEN);
	/* All hugetlb folios are free again: parking lost none. */
	quiet_again(_metadata);
	for (i = 0; i < 2; i++) {
		snprintf(path, sizeof(path),
			 "/sys/devices/system/node/node%d/hugepages/hugepages-2048kB/free_hugepages",
			 self->nodes[i]);
		EXPECT_EQ(4, ferry_read_long(path));
	}
	if (!ferry_active())
		return;
	EXPECT_GT(stayed, 0);
	EXPECT_EQ(stayed, race_grown(&c, "folios_not_quiet"));
}

/* Large folios of a file of ext4, with buffer heads. */
TEST_F(not_quiet, in_place_ext4)
{
	int iters = ferry_iters(6, 3), i, to, fd, ret;
	static char buf[LEN];
	struct race_count c;
	char *mem;

	ret = ferry_ext4(FERRY_DISK, MNT);
	if (ret == -ENODEV)
		SKIP(return, "needs a disk at " FERRY_DISK);
	ASSERT_EQ(0, ret);
	race_count(&c);
	for (i = 0; i < iters; i++) {
		to = self->nodes[!(i & 1)];
		fd = open(MNT "/file", O_RDWR | O_CREAT | O_TRUNC, 0600);
		ASSERT_GE(fd, 0);
		ASSERT_EQ(0, ferry_set_mempolicy(MPOL_BIND, self->nodes[i & 1]));
		ferry_fill(buf, LEN, 13, i);
		ASSERT_EQ(LEN, pwrite(fd, buf, LEN, 0));
		ASSERT_EQ(0, ferry_set_mempolicy(MPOL_DEFAULT, -1));
		/* Dirty folios under writeback are not part of this test. */
		ASSERT_EQ(0, fsync(fd));
		mem = ferry_map_file(fd, LEN, FERRY_PMD, PROT_READ | PROT_WRITE,
				     MAP_SHARED);
		ASSERT_NE(MAP_FAILED, mem);
		ASSERT_EQ(0, madvise(mem, LEN, MADV_POPULATE_READ));
		ASSERT_LE(0, race_move_pages(mem, LEN, FERRY_PAGE, to));
		ASSERT_EQ(0, ferry_verify(mem, LEN, 13, i));
		ferry_fill(mem, LEN, 14, i);
		quiet_again(_metadata);
		ASSERT_EQ(0, ferry_verify(mem, LEN, 14, i));
		ASSERT_EQ(0, munmap(mem, LEN));
		ASSERT_EQ(0, ferry_evict(fd));
		ASSERT_EQ(0, ferry_verify_fd(fd, LEN, 14, i));
		close(fd);
	}
	race_count_end(&c);
	if (ferry_active()) {
		ferry_note("%ld folios of the file unquiet, %ld copied in place",
			   race_grown(&c, "folios_not_quiet"), race_grown(&c, "folios_in_place"));
		EXPECT_GT(race_grown(&c, "folios_not_quiet"), 0);
		EXPECT_EQ(0, race_grown(&c, "bytes_early"));
	}
}

TEST_HARNESS_MAIN
