// SPDX-License-Identifier: GPL-2.0
/*
 * Demotion: reclaim moves the memory of a control group to a slower node without CPUs, and
 * accesses by a thread bring it back. Needs such a node in a lower memory tier (in QEMU: HMAT
 * tables).
 */
#include <fcntl.h>

#include "kselftest_harness.h"
#include "ferry_util.h"

#define SCHED	"/sys/kernel/debug/sched/numa_balancing/"
#define PART	(8UL << 20)
#define FILE_LEN (8UL << 20)

FIXTURE(demotion)
{
	int nodes[FERRY_MAX_NODES];
	struct ferry_stats before;
	struct ferry_mix mix;
	char group[256];
	int slow, fd;
};

FIXTURE_SETUP(demotion)
{
	int mem[FERRY_MAX_NODES], n, i;

	self->slow = -1;
	self->fd = -1;
	n = ferry_mem_nodes(mem);
	for (i = 0; i < n; i++)
		if (ferry_node_cpu(mem[i]) < 0)
			self->slow = mem[i];
	if (ferry_cpu_nodes(self->nodes) < 1 || self->slow < 0)
		SKIP(return, "needs a node without CPUs");
	if (ferry_memory_tiers() < 2)
		SKIP(return, "the node without CPUs is in no lower memory tier");
	ASSERT_EQ(0, ferry_quiet());
	ASSERT_EQ(0, ferry_set("/sys/kernel/mm/numa/demotion_enabled", "true"));
	ASSERT_EQ(0, ferry_cgroup_create("ferry-demotion", "+memory", self->group));
	ASSERT_EQ(0, ferry_cgroup_enter(self->group, 0));
	ASSERT_EQ(0, ferry_stats_get(&self->before));
}

FIXTURE_TEARDOWN(demotion)
{
	ferry_pin_cpu(-1);
	ferry_mix_unmap(&self->mix);
	if (self->fd >= 0)
		close(self->fd);
	if (*self->group) {
		ferry_cgroup_enter(NULL, 0);
		ferry_cgroup_remove(self->group);
	}
	ferry_restore();
}

static int take_back(const char *group, unsigned long bytes)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/memory.reclaim", group);
	return ferry_write(path, "%lu", bytes);
}

/* Makes the memory the first that reclaim takes. */
static void make_cold(struct ferry_mix *mix)
{
	int i;

	for (i = 0; i < mix->n; i++)
		madvise(mix->part[i].mem, mix->part[i].len, MADV_COLD);
}

static long demoted(void)
{
	return ferry_vmstat("pgdemote_kswapd") + ferry_vmstat("pgdemote_direct") +
	       ferry_vmstat("pgdemote_khugepaged") + ferry_vmstat("pgdemote_proactive");
}

TEST_F(demotion, reclaim_of_a_group)
{
	int rounds = ferry_iters(4, 2), r, i, from;
	struct ferry_stats after;
	long pages, on, was;

	for (r = 0; r < rounds; r++) {
		from = self->nodes[r % ferry_cpu_nodes(self->nodes)];
		ferry_mix_unmap(&self->mix);
		if (self->fd >= 0)
			close(self->fd);
		ASSERT_EQ(0, ferry_mix_map(&self->mix, PART, from));
		ferry_mix_fill(&self->mix, r);
		self->fd = memfd_create("ferry", 0);
		ASSERT_GE(self->fd, 0);
		ASSERT_EQ(0, ferry_set_mempolicy(MPOL_BIND, from));
		ASSERT_EQ(0, ferry_fill_fd(self->fd, FILE_LEN, 40, r));
		ASSERT_EQ(0, ferry_set_mempolicy(MPOL_DEFAULT, -1));
		pages = ferry_mix_pages(&self->mix);
		was = demoted();
		for (i = 0, on = 0; i < 30 && on < pages * 9 / 10; i++) {
			make_cold(&self->mix);
			take_back(self->group, PART);
			on = ferry_mix_count_on(&self->mix, self->slow);
		}
		ferry_note("%ld of %ld pages demoted from node %d after %d calls",
			   on, pages, from, i);
		ASSERT_GE(on, pages / 2);
		EXPECT_GT(demoted() - was, pages / 2);
		ASSERT_EQ(0, ferry_mix_verify(&self->mix, r));
		ASSERT_EQ(0, ferry_verify_fd(self->fd, FILE_LEN, 40, r));
	}
	ASSERT_EQ(0, ferry_stats_get(&after));
	EXPECT_TRUE(ferry_stats_used(&self->before, &after));
}

/* Memory tiering promotes memory that is used on the slow node. */
TEST_F(demotion, promotion)
{
	long pages, on = 0, was;
	size_t off, bad = 0;
	u64 gen = 0, end;
	int p;

	if (access("/proc/sys/kernel/numa_balancing", W_OK))
		SKIP(return, "no CONFIG_NUMA_BALANCING");
	ASSERT_EQ(0, ferry_set(SCHED "scan_delay_ms", "10"));
	ASSERT_EQ(0, ferry_set(SCHED "scan_period_min_ms", "20"));
	ASSERT_EQ(0, ferry_set(SCHED "scan_period_max_ms", "100"));
	ASSERT_EQ(0, ferry_set(SCHED "scan_size_mb", "64"));
	ASSERT_EQ(0, ferry_set(SCHED "hot_threshold_ms", "5000"));
	ASSERT_EQ(0, ferry_mix_map(&self->mix, PART, self->slow));
	pages = ferry_mix_pages(&self->mix);
	ASSERT_EQ(pages, ferry_mix_count_on(&self->mix, self->slow));
	was = ferry_vmstat("pgpromote_success");
	ASSERT_EQ(0, ferry_pin_cpu(ferry_node_cpu(self->nodes[0])));
	ASSERT_EQ(0, ferry_set("/proc/sys/kernel/numa_balancing", "2"));
	for (end = ferry_now_ns() + 40000000000ULL; ferry_now_ns() < end;) {
		ferry_mix_fill(&self->mix, ++gen);
		for (p = 0; p < self->mix.n; p++)
			for (off = 0; off < PART; off += FERRY_PAGE)
				bad += *(u64 *)(self->mix.part[p].mem + off) !=
					ferry_word(p, gen, off);
		ASSERT_EQ(0, bad);
		on = pages - ferry_mix_count_on(&self->mix, self->slow);
		if (on > pages / 2)
			break;
	}
	ferry_note("%ld of %ld pages promoted", on, pages);
	ASSERT_EQ(0, ferry_mix_verify(&self->mix, gen));
	EXPECT_GT(on, pages / 2);
	EXPECT_GT(ferry_vmstat("pgpromote_success") - was, 0);
}

TEST_HARNESS_MAIN
