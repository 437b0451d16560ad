// SPDX-License-Identifier: GPL-2.0
/*
 * NUMA balancing: a thread works on memory of the other node until the kernel has moved the
 * memory to the thread's node. The thread writes all the time; no write may be lost.
 */
#include "kselftest_harness.h"
#include "ferry_util.h"

#define LEN	(16UL << 20)
#define SCHED	"/sys/kernel/debug/sched/numa_balancing/"

FIXTURE(numa_balancing)
{
	int nodes[FERRY_MAX_NODES];
	char *mem;
};

FIXTURE_VARIANT(numa_balancing)
{
	unsigned int kib;
};

FIXTURE_VARIANT_ADD(numa_balancing, 4k) { .kib = 4 };
FIXTURE_VARIANT_ADD(numa_balancing, 2m) { .kib = 2048 };

FIXTURE_SETUP(numa_balancing)
{
	self->mem = MAP_FAILED;
	if (ferry_cpu_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory and CPUs");
	if (access("/proc/sys/kernel/numa_balancing", W_OK))
		SKIP(return, "no CONFIG_NUMA_BALANCING");
	ASSERT_EQ(0, ferry_quiet());
	ASSERT_EQ(0, ferry_mthp_only(variant->kib == 4 ? 0 : variant->kib));
	ASSERT_EQ(0, ferry_set(SCHED "scan_delay_ms", "10"));
	ASSERT_EQ(0, ferry_set(SCHED "scan_period_min_ms", "20"));
	ASSERT_EQ(0, ferry_set(SCHED "scan_period_max_ms", "100"));
	ASSERT_EQ(0, ferry_set(SCHED "scan_size_mb", "64"));
}

FIXTURE_TEARDOWN(numa_balancing)
{
	ferry_pin_cpu(-1);
	if (self->mem != MAP_FAILED)
		munmap(self->mem, LEN);
	ferry_restore();
}

/* Reads the first word of each page. Returns the number of wrong ones. */
static size_t touch_all(char *mem, u64 gen)
{
	size_t off, bad = 0;

	for (off = 0; off < LEN; off += FERRY_PAGE)
		bad += *(u64 *)(mem + off) != ferry_word(8, gen, off);
	return bad;
}

TEST_F(numa_balancing, follows_the_thread)
{
	long pages = LEN / FERRY_PAGE, on = 0, want = pages * 9 / 10, migrated;
	int rounds = ferry_iters(4, 2), r, from, to;
	struct ferry_stats before, after;
	u64 gen = 0, end;

	ASSERT_EQ(0, ferry_stats_get(&before));
	for (r = 0; r < rounds; r++) {
		from = self->nodes[r & 1];
		to = self->nodes[!(r & 1)];
		if (self->mem != MAP_FAILED)
			munmap(self->mem, LEN);
		self->mem = ferry_map_anon(LEN, FERRY_PMD);
		ASSERT_NE(MAP_FAILED, self->mem);
		ASSERT_EQ(0, ferry_populate(self->mem, LEN, from));
		ASSERT_EQ(LEN, ferry_in_folios_of(self->mem, LEN, variant->kib << 10));
		ferry_fill(self->mem, LEN, 8, ++gen);
		migrated = ferry_vmstat("numa_pages_migrated");
		ASSERT_EQ(0, ferry_pin_cpu(ferry_node_cpu(to)));
		ASSERT_EQ(0, ferry_write("/proc/sys/kernel/numa_balancing", "1"));
		for (end = ferry_now_ns() + 60000000000ULL; ferry_now_ns() < end;) {
			ASSERT_EQ(0, touch_all(self->mem, gen));
			on = ferry_count_on(self->mem, LEN, FERRY_PAGE, to);
			if (on >= want)
				break;
			/* Writes as well, as a thread does. */
			ferry_fill(self->mem, LEN, 8, ++gen);
		}
		ASSERT_EQ(0, ferry_write("/proc/sys/kernel/numa_balancing", "0"));
		ASSERT_GE(on, want) TH_LOG("%ld of %ld pages came over", on, pages);
		ASSERT_EQ(0, ferry_verify(self->mem, LEN, 8, gen));
		/* The counter lags: its per-CPU parts are folded every second. */
		EXPECT_GT(ferry_vmstat("numa_pages_migrated") - migrated, 0);
	}
	ASSERT_EQ(0, ferry_stats_get(&after));
	/* A fault migrates one folio; Ferry copies none of 4K. */
	if (variant->kib == 2048)
		EXPECT_TRUE(ferry_stats_used(&before, &after));
}

TEST_HARNESS_MAIN
