// SPDX-License-Identifier: GPL-2.0
/*
 * Files of ext4 on a disk: mapped folios, clean and dirty, small and large, move back and
 * forth between two nodes. They are compared byte for byte through the mapping, through the
 * file, and in the end with the content of the disk: a folio that lost its dirty mark during
 * a move would be missing there. offline.c and compaction.c move file folios that no process
 * maps.
 */
#include <fcntl.h>
#include <sys/mount.h>

#include "kselftest_harness.h"
#include "ferry_util.h"

#define LEN	(4UL << 20)
#define MNT	"/tmp/ferry-ext4"

FIXTURE(file_ext4)
{
	int nodes[FERRY_MAX_NODES];
	struct ferry_stats before;
	size_t large;		/* bytes in folios of several chunks */
	bool mounted;
	char *mem;
	int fd;
};

FIXTURE_VARIANT(file_ext4)
{
	size_t write;		/* bytes of one write */
};

FIXTURE_VARIANT_ADD(file_ext4, small) { .write = FERRY_PAGE };
FIXTURE_VARIANT_ADD(file_ext4, large) { .write = 2 << 20 };

FIXTURE_SETUP(file_ext4)
{
	int ret;

	self->fd = -1;
	self->mem = MAP_FAILED;
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	ASSERT_EQ(0, ferry_quiet());
	ret = ferry_ext4(FERRY_DISK, MNT);
	if (ret == -ENODEV)
		SKIP(return, "needs a disk at " FERRY_DISK);
	ASSERT_EQ(0, ret);
	self->mounted = true;
	self->fd = open(MNT "/file", O_RDWR | O_CREAT, 0600);
	ASSERT_GE(self->fd, 0);
	ASSERT_EQ(0, ferry_stats_get(&self->before));
}

FIXTURE_TEARDOWN(file_ext4)
{
	if (self->mem != MAP_FAILED)
		munmap(self->mem, LEN);
	if (self->fd >= 0)
		close(self->fd);
	if (self->mounted)
		umount(MNT);
	ferry_restore();
}

/* Maps the file with content of @gen in new page cache on @node. */
static void fresh(struct __test_metadata *_metadata, FIXTURE_DATA(file_ext4) * self,
		  size_t write, int prot, int node, u64 gen, bool clean)
{
	static char buf[2 << 20];
	size_t off, size;

	if (self->mem != MAP_FAILED)
		ASSERT_EQ(0, munmap(self->mem, LEN));
	self->mem = MAP_FAILED;
	ASSERT_EQ(0, ftruncate(self->fd, 0));
	ASSERT_EQ(0, ferry_set_mempolicy(MPOL_BIND, node));
	for (off = 0; off < LEN; off += write) {
		ferry_fill_at(buf, write, 9, gen, off);
		ASSERT_EQ(write, pwrite(self->fd, buf, write, off));
	}
	ASSERT_EQ(0, ferry_set_mempolicy(MPOL_DEFAULT, -1));
	if (clean)
		ASSERT_EQ(0, fsync(self->fd));
	self->mem = ferry_map_file(self->fd, LEN, FERRY_PMD, prot, MAP_SHARED);
	ASSERT_NE(MAP_FAILED, self->mem);
	ASSERT_EQ(0, madvise(self->mem, LEN, MADV_POPULATE_READ));
	ASSERT_EQ(LEN / FERRY_PAGE, ferry_count_on(self->mem, LEN, FERRY_PAGE, node));
	self->large = 0;
	for (size = 256 << 10; size <= FERRY_PMD; size *= 2)
		self->large += ferry_in_folios_of(self->mem, LEN, size);
}

static void on_disk(struct __test_metadata *_metadata, FIXTURE_DATA(file_ext4) * self,
		    u64 gen)
{
	ASSERT_EQ(0, munmap(self->mem, LEN));
	self->mem = MAP_FAILED;
	ASSERT_EQ(0, ferry_verify_fd(self->fd, LEN, 9, gen));
	ASSERT_EQ(0, ferry_evict(self->fd));
	ASSERT_EQ(0, ferry_verify_fd(self->fd, LEN, 9, gen));
}

static void used(struct __test_metadata *_metadata, FIXTURE_DATA(file_ext4) * self,
		 const FIXTURE_VARIANT(file_ext4) * variant)
{
	struct ferry_stats after;

	ASSERT_EQ(0, ferry_stats_get(&after));
	if (variant->write == FERRY_PAGE) {
		/* I2: file folios are never copied early. */
		if (ferry_loaded())
			EXPECT_EQ(0, ferry_stats_delta(&self->before, &after,
						       "bytes_early"));
		return;
	}
	ASSERT_GT(self->large, 0)
		TH_LOG("ext4 gave no folio of 256 KiB or more");
	EXPECT_TRUE(ferry_stats_used(&self->before, &after));
}

/* Writes through the mapping before each move. */
TEST_F(file_ext4, dirty)
{
	int rounds = ferry_iters(4, 2), moves = ferry_iters(3, 2), r, i;
	u64 gen = 0;

	for (r = 0; r < rounds; r++) {
		fresh(_metadata, self, variant->write, PROT_READ | PROT_WRITE,
		      self->nodes[r & 1], ++gen, r & 2);
		for (i = 0; i < moves; i++) {
			ferry_fill(self->mem, LEN, 9, ++gen);
			ASSERT_EQ(0, ferry_move_range(self->mem, LEN, FERRY_PAGE,
						      self->nodes[(r + i + 1) & 1],
						      NULL));
			ASSERT_EQ(0, ferry_verify(self->mem, LEN, 9, gen));
			ASSERT_EQ(0, ferry_verify_fd(self->fd, LEN, 9, gen));
		}
		on_disk(_metadata, self, gen);
	}
	used(_metadata, self, variant);
}

/* Writes with write(), never through the mapping, and moves before the content is on the disk. */
TEST_F(file_ext4, dirty_by_write)
{
	int rounds = ferry_iters(4, 2), r;

	for (r = 0; r < rounds; r++) {
		fresh(_metadata, self, variant->write, PROT_READ, self->nodes[r & 1],
		      100 + r, false);
		ASSERT_EQ(0, ferry_move_range(self->mem, LEN, FERRY_PAGE,
					      self->nodes[!(r & 1)], NULL));
		ASSERT_EQ(0, ferry_verify(self->mem, LEN, 9, 100 + r));
		on_disk(_metadata, self, 100 + r);
	}
	used(_metadata, self, variant);
}

/* Clean folios stay clean: a move is no reason to write them back again. */
TEST_F(file_ext4, clean)
{
	int rounds = ferry_iters(4, 2), moves = ferry_iters(3, 2), r, i;
	size_t off;

	for (r = 0; r < rounds; r++) {
		fresh(_metadata, self, variant->write, PROT_READ, self->nodes[r & 1],
		      200 + r, true);
		for (i = 0; i < moves; i++) {
			ASSERT_EQ(0, ferry_move_range(self->mem, LEN, FERRY_PAGE,
						      self->nodes[(r + i + 1) & 1],
						      NULL));
			ASSERT_EQ(0, ferry_verify(self->mem, LEN, 9, 200 + r));
		}
		for (off = 0; off < LEN; off += 64 * FERRY_PAGE)
			ASSERT_EQ(0, ferry_kpageflags(ferry_pfn(self->mem + off)) >>
				     FERRY_KPF_DIRTY & 1);
		on_disk(_metadata, self, 200 + r);
	}
	used(_metadata, self, variant);
}

TEST_HARNESS_MAIN
