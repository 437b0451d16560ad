// SPDX-License-Identifier: GPL-2.0
/*
 * migrate_pages(2): the whole memory of a process moves from one node to the other and back,
 * for the caller and for another process that writes its memory meanwhile.
 */
#include <signal.h>

#include "kselftest_harness.h"
#include "ferry_util.h"

#define PART	(4UL << 20)

FIXTURE(migrate_pages)
{
	int nodes[FERRY_MAX_NODES];
	struct ferry_stats before;
	struct ferry_mix mix;
	pid_t child;
};

FIXTURE_SETUP(migrate_pages)
{
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	ASSERT_EQ(0, ferry_quiet());
	ASSERT_EQ(0, ferry_stats_get(&self->before));
}

FIXTURE_TEARDOWN(migrate_pages)
{
	if (self->child > 0) {
		kill(self->child, SIGKILL);
		waitpid(self->child, NULL, 0);
	}
	ferry_mix_unmap(&self->mix);
	ferry_restore();
}

TEST_F(migrate_pages, own_memory)
{
	int iters = ferry_iters(8, 3), i, from, to;
	struct ferry_stats after;

	for (i = 0; i < iters; i++) {
		from = self->nodes[i & 1];
		to = self->nodes[!(i & 1)];
		/* Fresh memory now and then, because the second move splits folios of 64K. */
		if (i % 3 == 0) {
			ferry_mix_unmap(&self->mix);
			ASSERT_EQ(0, ferry_mix_map(&self->mix, PART, from));
		}
		ferry_mix_fill(&self->mix, i);
		ASSERT_EQ(0, ferry_migrate_pages(0, from, to));
		ASSERT_EQ(ferry_mix_pages(&self->mix), ferry_mix_count_on(&self->mix, to));
		ASSERT_EQ(0, ferry_mix_verify(&self->mix, i));
	}
	ASSERT_EQ(0, ferry_stats_get(&after));
	EXPECT_TRUE(ferry_stats_used(&self->before, &after));
}

/* The other process rewrites and checks all of its memory, over and over, while it is moved. */
TEST_F(migrate_pages, a_busy_process)
{
	int iters = ferry_iters(30, 6), i, status, up[2];
	struct ferry_stats after;
	bool *stop;
	u64 gen = 0;
	char c = 0;

	stop = mmap(NULL, FERRY_PAGE, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, stop);
	ASSERT_EQ(0, pipe(up));
	self->child = fork();
	ASSERT_GE(self->child, 0);
	if (!self->child) {
		if (ferry_mix_map(&self->mix, PART, self->nodes[0]) ||
		    write(up[1], &c, 1) != 1)
			_exit(2);
		while (!__atomic_load_n(stop, __ATOMIC_RELAXED)) {
			ferry_mix_fill(&self->mix, ++gen);
			if (ferry_mix_verify(&self->mix, gen))
				_exit(1);
		}
		_exit(gen < 2 ? 3 : 0);
	}
	ASSERT_EQ(1, read(up[0], &c, 1));
	for (i = 0; i < iters; i++)
		ASSERT_GE(ferry_migrate_pages(self->child, self->nodes[i & 1],
					      self->nodes[!(i & 1)]), 0);
	__atomic_store_n(stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(self->child, waitpid(self->child, &status, 0));
	self->child = 0;
	ASSERT_TRUE(WIFEXITED(status));
	ASSERT_EQ(0, WEXITSTATUS(status));
	ASSERT_EQ(0, ferry_stats_get(&after));
	EXPECT_TRUE(ferry_stats_used(&self->before, &after));
}

TEST_HARNESS_MAIN
