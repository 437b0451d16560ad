// SPDX-License-Identifier: GPL-2.0
/*
 * The memory of a control group moves when its cpuset.mems changes, and the memory of a
 * process moves when the process enters a group with other nodes.
 */
#include <signal.h>

#include "kselftest_harness.h"
#include "ferry_util.h"

#define PART	(4UL << 20)

FIXTURE(cpuset)
{
	int nodes[FERRY_MAX_NODES];
	struct ferry_stats before;
	struct ferry_mix mix;
	char group[256], other[256];
};

FIXTURE_SETUP(cpuset)
{
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	ASSERT_EQ(0, ferry_quiet());
	ASSERT_EQ(0, ferry_cgroup_create("ferry-a", "+cpuset", self->group));
	ASSERT_EQ(0, ferry_cgroup_create("ferry-b", "+cpuset", self->other));
	ASSERT_EQ(0, ferry_stats_get(&self->before));
}

FIXTURE_TEARDOWN(cpuset)
{
	ferry_cgroup_enter(NULL, 0);
	ferry_mix_unmap(&self->mix);
	ferry_cgroup_remove(self->group);
	ferry_cgroup_remove(self->other);
	ferry_restore();
}

static int set_mems(const char *group, int node)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/cpuset.mems", group);
	return ferry_write(path, "%d", node);
}

struct moved {
	struct ferry_mix *mix;
	int node;
};

static bool all_moved(void *arg)
{
	struct moved *m = arg;

	return ferry_mix_count_on(m->mix, m->node) == ferry_mix_pages(m->mix);
}

TEST_F(cpuset, change_of_mems)
{
	int iters = ferry_iters(8, 3), i, from;
	struct moved m = { &self->mix };
	struct ferry_stats after;

	ASSERT_EQ(0, set_mems(self->group, self->nodes[0]));
	ASSERT_EQ(0, ferry_cgroup_enter(self->group, 0));
	for (i = 0; i < iters; i++) {
		from = self->nodes[i & 1];
		m.node = self->nodes[!(i & 1)];
		if (i % 3 == 0) {
			ferry_mix_unmap(&self->mix);
			ASSERT_EQ(0, ferry_mix_map(&self->mix, PART, from));
			ASSERT_EQ(ferry_mix_pages(&self->mix),
				  ferry_mix_count_on(&self->mix, from));
		}
		ferry_mix_fill(&self->mix, i);
		ASSERT_EQ(0, set_mems(self->group, m.node));
		ASSERT_TRUE(ferry_wait(all_moved, &m, 30000))
			TH_LOG("%ld of %ld pages moved",
			       ferry_mix_count_on(&self->mix, m.node),
			       ferry_mix_pages(&self->mix));
		ASSERT_EQ(0, ferry_mix_verify(&self->mix, i));
	}
	ASSERT_EQ(0, ferry_stats_get(&after));
	EXPECT_TRUE(ferry_stats_used(&self->before, &after));
}

TEST_F(cpuset, change_of_group)
{
	int iters = ferry_iters(6, 3), i;
	struct moved m = { &self->mix };
	struct ferry_stats after;

	ASSERT_EQ(0, set_mems(self->group, self->nodes[0]));
	ASSERT_EQ(0, set_mems(self->other, self->nodes[1]));
	ASSERT_EQ(0, ferry_cgroup_enter(self->group, 0));
	ASSERT_EQ(0, ferry_mix_map(&self->mix, PART, self->nodes[0]));
	for (i = 0; i < iters; i++) {
		m.node = self->nodes[!(i & 1)];
		ferry_mix_fill(&self->mix, i);
		ASSERT_EQ(0, ferry_cgroup_enter(i & 1 ? self->group : self->other, 0));
		ASSERT_TRUE(ferry_wait(all_moved, &m, 30000))
			TH_LOG("%ld of %ld pages moved",
			       ferry_mix_count_on(&self->mix, m.node),
			       ferry_mix_pages(&self->mix));
		ASSERT_EQ(0, ferry_mix_verify(&self->mix, i));
	}
	ASSERT_EQ(0, ferry_stats_get(&after));
	EXPECT_TRUE(ferry_stats_used(&self->before, &after));
}

TEST_HARNESS_MAIN
