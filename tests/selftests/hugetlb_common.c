// SPDX-License-Identifier: GPL-2.0
/* Maps hugetlb folios and moves them back and forth. hugetlb_common.h describes the interface. */
#include <fcntl.h>
#include <linux/memfd.h>

#include "harness_part.h"
#include "hugetlb_common.h"

void huge_begin(struct __test_metadata *_metadata, struct huge_memory *h,
		unsigned long kib, int folios, bool file, bool shared)
{
	size_t size = kib << 10, len = size * folios;
	int flags = shared ? MAP_SHARED : MAP_PRIVATE, log2 = __builtin_ctzl(size), i;
	char path[128];

	h->folios = folios;
	h->size = size;
	h->len = len;
	h->fd = -1;
	h->mem = MAP_FAILED;
	if (ferry_mem_nodes(h->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	ASSERT_EQ(0, ferry_quiet());
	for (i = 0; i < 2; i++) {
		snprintf(path, sizeof(path),
			 "/sys/devices/system/node/node%d/hugepages/hugepages-%lukB/nr_hugepages",
			 h->nodes[i], kib);
		if (access(path, F_OK))
			SKIP(return, "no hugetlb folios of this size");
		if (ferry_read_long(path) < folios)
			ferry_set(path, "%d", folios);
		if (ferry_read_long(path) < folios)
			SKIP(return, "not enough memory for the hugetlb pool");
	}
	if (file) {
		h->fd = memfd_create("ferry", MFD_HUGETLB | log2 << 26);
		ASSERT_GE(h->fd, 0);
		ASSERT_EQ(0, ftruncate(h->fd, len));
	} else {
		flags |= MAP_ANONYMOUS | MAP_HUGETLB | log2 << 26;
	}
	h->mem = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, h->fd, 0);
	ASSERT_NE(MAP_FAILED, h->mem);
	ASSERT_EQ(0, ferry_populate(h->mem, len, h->nodes[0]));
	ASSERT_EQ(folios, ferry_count_on(h->mem, len, size, h->nodes[0]));
	ASSERT_EQ(0, ferry_stats_get(&h->before));
}

void huge_end(struct huge_memory *h)
{
	if (h->mem != MAP_FAILED)
		munmap(h->mem, h->len);
	if (h->fd >= 0)
		close(h->fd);
	ferry_restore();
}

void huge_round_trip(struct __test_metadata *_metadata, struct huge_memory *h)
{
	int iters = h->folios == 1 ? 2 : ferry_iters(10, 4), i, to;
	struct ferry_stats after;
	long calls;
	u64 pfn;

	for (i = 0; i < iters; i++) {
		to = h->nodes[!(i & 1)];
		pfn = ferry_pfn(h->mem);
		ferry_fill(h->mem, h->len, 4, i);
		ASSERT_EQ(0, ferry_move_range(h->mem, h->len, h->size, to, NULL));
		ASSERT_EQ(0, ferry_verify(h->mem, h->len, 4, i));
		ASSERT_NE(pfn, ferry_pfn(h->mem));
		ASSERT_EQ(1, ferry_kpageflags(ferry_pfn(h->mem)) >> FERRY_KPF_HUGE & 1);
	}
	ASSERT_EQ(0, ferry_stats_get(&after));
	EXPECT_TRUE(ferry_stats_used(&h->before, &after));
	if (!ferry_loaded())
		return;
	EXPECT_EQ(0, ferry_stats_delta(&h->before, &after, "bytes_early"));
	if (!ferry_active())
		return;
	/* A copy in place is declined if no worker is free at that moment. */
	calls = ferry_stats_delta(&h->before, &after, "folios_in_place");
	ferry_note("%ld of %d folios were copied in place", calls, iters * h->folios);
	EXPECT_GT(calls, 0);
	EXPECT_LE(calls, iters * h->folios);
	EXPECT_EQ((long)(calls * h->size), ferry_stats_delta(&h->before, &after, "bytes_in_place"));
}
