// SPDX-License-Identifier: GPL-2.0
/*
 * Memory blocks go offline with anonymous memory, shared memory and page cache in them,
 * mapped and not, and come back. Needs blocks in ZONE_MOVABLE (movablecore=).
 */
#include <dirent.h>
#include <fcntl.h>
#include <sys/mount.h>

#include "kselftest_harness.h"
#include "ferry_util.h"

#define MNT	"/tmp/ferry-ext4"
#define PART	(4UL << 20)
#define LEN	(8UL << 20)
#define PAGES	(LEN / FERRY_PAGE)
#define KPF_RESERVED	32

enum { MEMFD, MEMFD_2M, EXT4, NR_FILES };

static const char * const file_names[] = { "memfd 4K", "memfd 2M", "ext4" };

FIXTURE(offline)
{
	int nodes[FERRY_MAX_NODES];
	struct ferry_stats before;
	struct ferry_mix mix;
	bool mounted;
	u64 block_pages;
	int fd[NR_FILES];
	int gone;	/* block that is offline now, -1: none */
};

FIXTURE_SETUP(offline)
{
	int i, ret;

	self->gone = -1;
	for (i = 0; i < NR_FILES; i++)
		self->fd[i] = -1;
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	self->block_pages = ferry_block_pages();
	if (!self->block_pages)
		SKIP(return, "no memory hotplug");
	ASSERT_EQ(0, ferry_quiet());
	ret = ferry_ext4(FERRY_DISK, MNT);
	if (ret == -ENODEV)
		SKIP(return, "needs a disk at " FERRY_DISK);
	ASSERT_EQ(0, ret);
	self->mounted = true;
	ASSERT_EQ(0, ferry_stats_get(&self->before));
}

FIXTURE_TEARDOWN(offline)
{
	int i;

	if (self->gone >= 0)
		ferry_block_set(self->gone, "online_movable");
	ferry_mix_unmap(&self->mix);
	for (i = 0; i < NR_FILES; i++)
		if (self->fd[i] >= 0)
			close(self->fd[i]);
	if (self->mounted)
		umount(MNT);
	ferry_restore();
}

/* Reads the page frame numbers of a file, which is mapped only for that time. */
static int file_pfns(int fd, u64 *pfns)
{
	char *map = ferry_map_file(fd, LEN, FERRY_PMD, PROT_READ, MAP_SHARED);
	int ret;

	if (map == MAP_FAILED)
		return -errno;
	ret = madvise(map, LEN, MADV_POPULATE_READ) ? -errno : ferry_pfns(map, LEN, pfns);
	munmap(map, LEN);
	return ret;
}

static long count_in(const u64 *pfns, size_t n, u64 block, u64 block_pages)
{
	long found = 0;
	size_t i;

	for (i = 0; i < n; i++)
		found += pfns[i] && pfns[i] / block_pages == block;
	return found;
}

/* Makes files with content of @gen in page cache of @node, mapped by no process. */
static void fill_files(struct __test_metadata *_metadata, FIXTURE_DATA(offline) * self,
		       int node, u64 gen)
{
	int i;

	for (i = 0; i < NR_FILES; i++) {
		if (self->fd[i] >= 0)
			close(self->fd[i]);
		ASSERT_EQ(0, ferry_set(FERRY_THP "shmem_enabled",
				       i == MEMFD_2M ? "always" : "never"));
		if (i == EXT4)
			self->fd[i] = open(MNT "/file", O_RDWR | O_CREAT | O_TRUNC, 0600);
		else
			self->fd[i] = memfd_create("ferry", 0);
		ASSERT_GE(self->fd[i], 0);
		ASSERT_EQ(0, ferry_set_mempolicy(MPOL_BIND, node));
		ASSERT_EQ(0, ferry_fill_fd(self->fd[i], LEN, 30 + i, gen));
		ASSERT_EQ(0, ferry_set_mempolicy(MPOL_DEFAULT, -1));
	}
	/* The file is clean in every other round. */
	if (gen & 1)
		ASSERT_EQ(0, fsync(self->fd[EXT4]));
}

static u64 file_pages[NR_FILES][PAGES], mix_pages[ARRAY_SIZE(((struct ferry_mix *)0)->part)]
						 [PART / FERRY_PAGE];

static void look(struct __test_metadata *_metadata, FIXTURE_DATA(offline) * self)
{
	int i;

	for (i = 0; i < NR_FILES; i++)
		ASSERT_EQ(0, file_pfns(self->fd[i], file_pages[i]));
	for (i = 0; i < self->mix.n; i++)
		ASSERT_EQ(0, ferry_pfns(self->mix.part[i].mem, PART, mix_pages[i]));
}

/* Returns a block that can go offline and has memory of the test, or -1 if there is none. */
static long pick(FIXTURE_DATA(offline) * self, bool *tried, size_t max)
{
	u64 block;
	int i, p;

	for (i = 0; i < NR_FILES + self->mix.n; i++)
		for (p = 0; p < (i < NR_FILES ? PAGES : PART / FERRY_PAGE); p++) {
			block = (i < NR_FILES ? file_pages[i][p] : mix_pages[i - NR_FILES][p]) /
				self->block_pages;
			if (block >= max || tried[block])
				continue;
			tried[block] = true;
			if (ferry_block_movable(block))
				return block;
		}
	return -1;
}

static long mix_in(FIXTURE_DATA(offline) * self, u64 block)
{
	long n = 0;
	int i;

	for (i = 0; i < self->mix.n; i++)
		n += count_in(mix_pages[i], PART / FERRY_PAGE, block, self->block_pages);
	return n;
}

/*
 * Takes the movable blocks that have memory of the test offline, one after the other, and
 * puts them back.
 */
TEST_F(offline, movable_blocks)
{
	long held[NR_FILES], mixed, file_moved[NR_FILES] = { 0 }, mix_moved = 0, block;
	int rounds = ferry_iters(4, 2), r, i, done, all = 0;
	size_t ballast = self->block_pages * FERRY_PAGE;
	struct ferry_stats after;
	bool tried[4096];
	char *fill[3];
	int full = 0;

	for (r = 0; r < rounds; r++) {
		ferry_mix_unmap(&self->mix);
		ASSERT_EQ(0, ferry_mix_map(&self->mix, PART, self->nodes[r & 1]));
		ferry_mix_fill(&self->mix, r);
		fill_files(_metadata, self, self->nodes[r & 1], r);
		memset(tried, 0, sizeof(tried));
		for (done = 0; done < 2; done++) {
			look(_metadata, self);
			block = pick(self, tried, ARRAY_SIZE(tried));
			if (block < 0)
				break;
			for (i = 0; i < NR_FILES; i++)
				held[i] = count_in(file_pages[i], PAGES, block, self->block_pages);
			mixed = mix_in(self, block);

			ASSERT_EQ(0, ferry_block_set(block, "offline")) TH_LOG("block %ld", block);
			self->gone = block;

			for (i = 0; i < NR_FILES; i++)
				ASSERT_EQ(0, ferry_verify_fd(self->fd[i], LEN, 30 + i, r));
			ASSERT_EQ(0, ferry_mix_verify(&self->mix, r));
			look(_metadata, self);
			for (i = 0; i < NR_FILES; i++) {
				ASSERT_EQ(0, count_in(file_pages[i], PAGES, block,
						      self->block_pages));
				file_moved[i] += held[i];
			}
			ASSERT_EQ(0, mix_in(self, block));
			mix_moved += mixed;

			ASSERT_EQ(0, ferry_block_set(block, "online_movable"));
			self->gone = -1;
			all++;
		}
		/* The content on the disk. */
		ASSERT_EQ(0, ferry_evict(self->fd[EXT4]));
		ASSERT_EQ(0, ferry_verify_fd(self->fd[EXT4], LEN, 30 + EXT4, r));
		if (done || full == ARRAY_SIZE(fill))
			continue;
		/*
		 * All memory was in blocks that cannot go offline: once more, with that place
		 * occupied.
		 */
		fill[full] = ferry_map_anon(ballast, FERRY_PMD);
		ASSERT_NE(MAP_FAILED, fill[full]);
		ASSERT_EQ(0, ferry_populate(fill[full], ballast, self->nodes[r & 1]));
		full++;
		r--;
	}
	while (full--)
		munmap(fill[full], ballast);
	ferry_note("%d blocks went offline with %ld mapped pages", all, mix_moved);
	EXPECT_GE(all, ferry_iters(rounds, 1));
	EXPECT_GT(mix_moved, 0);
	for (i = 0; i < NR_FILES; i++) {
		ferry_note("and %ld unmapped pages of %s", file_moved[i], file_names[i]);
		EXPECT_GT(file_moved[i], 0);
	}
	ASSERT_EQ(0, ferry_stats_get(&after));
	EXPECT_TRUE(ferry_stats_used(&self->before, &after));
}

TEST_HARNESS_MAIN
