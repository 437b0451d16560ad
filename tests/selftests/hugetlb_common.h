/* SPDX-License-Identifier: GPL-2.0 */
/*
 * hugetlb folios of 2M and 1G, anonymous and of a hugetlbfs file, move back and forth between
 * two nodes. Ferry copies them in place or not at all. hugetlb.c tests 2M, and hugetlb_1g.c,
 * which needs a machine of its own, 1G.
 */
#include <fcntl.h>
#include <linux/memfd.h>

#include "kselftest_harness.h"
#include "ferry_util.h"

#define SIZE		(HUGETLB_KIB << 10)
#define LEN		(SIZE * FOLIOS)
#define LOG2		__builtin_ctzl(SIZE)

FIXTURE(hugetlb)
{
	int nodes[FERRY_MAX_NODES];
	struct ferry_stats before;
	char *mem;
	int fd;
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
	int flags = (variant->shared ? MAP_SHARED : MAP_PRIVATE), i;
	char path[128];

	self->fd = -1;
	self->mem = MAP_FAILED;
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	ASSERT_EQ(0, ferry_quiet());
	for (i = 0; i < 2; i++) {
		snprintf(path, sizeof(path),
			 "/sys/devices/system/node/node%d/hugepages/hugepages-%lukB/nr_hugepages",
			 self->nodes[i], HUGETLB_KIB);
		if (access(path, F_OK))
			SKIP(return, "no hugetlb folios of this size");
		if (ferry_read_long(path) < FOLIOS)
			ferry_set(path, "%d", FOLIOS);
		if (ferry_read_long(path) < FOLIOS)
			SKIP(return, "not enough memory for the hugetlb pool");
	}
	if (variant->file) {
		self->fd = memfd_create("ferry", MFD_HUGETLB | LOG2 << 26);
		ASSERT_GE(self->fd, 0);
		ASSERT_EQ(0, ftruncate(self->fd, LEN));
	} else {
		flags |= MAP_ANONYMOUS | MAP_HUGETLB | LOG2 << 26;
	}
	self->mem = mmap(NULL, LEN, PROT_READ | PROT_WRITE, flags, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->mem);
	ASSERT_EQ(0, ferry_populate(self->mem, LEN, self->nodes[0]));
	ASSERT_EQ(FOLIOS, ferry_count_on(self->mem, LEN, SIZE, self->nodes[0]));
	ASSERT_EQ(0, ferry_stats_get(&self->before));
}

FIXTURE_TEARDOWN(hugetlb)
{
	if (self->mem != MAP_FAILED)
		munmap(self->mem, LEN);
	if (self->fd >= 0)
		close(self->fd);
	ferry_restore();
}

TEST_F(hugetlb, round_trip)
{
	int iters = FOLIOS == 1 ? 2 : ferry_iters(10, 4), i, to;
	struct ferry_stats after;
	long calls;
	u64 pfn;

	for (i = 0; i < iters; i++) {
		to = self->nodes[!(i & 1)];
		pfn = ferry_pfn(self->mem);
		ferry_fill(self->mem, LEN, 4, i);
		ASSERT_EQ(0, ferry_move_range(self->mem, LEN, SIZE, to, NULL));
		ASSERT_EQ(0, ferry_verify(self->mem, LEN, 4, i));
		ASSERT_NE(pfn, ferry_pfn(self->mem));
		ASSERT_EQ(1, ferry_kpageflags(ferry_pfn(self->mem)) >>
			     FERRY_KPF_HUGE & 1);
	}
	ASSERT_EQ(0, ferry_stats_get(&after));
	EXPECT_TRUE(ferry_stats_used(&self->before, &after));
	if (!ferry_loaded())
		return;
	EXPECT_EQ(0, ferry_stats_delta(&self->before, &after, "bytes_early"));
	if (!ferry_active())
		return;
	/* A copy in place is declined if no worker is free at that moment. */
	calls = ferry_stats_delta(&self->before, &after, "folios_in_place");
	ferry_note("%ld of %d folios were copied in place", calls, iters * FOLIOS);
	EXPECT_GT(calls, 0);
	EXPECT_LE(calls, iters * FOLIOS);
	EXPECT_EQ((long)(calls * SIZE), ferry_stats_delta(&self->before, &after, "bytes_in_place"));
}
