// SPDX-License-Identifier: GPL-2.0
/* mbind(2) with MPOL_MF_MOVE moves the present pages and sets the policy for later ones. */
#include <fcntl.h>
#include <signal.h>
#include <sys/uio.h>

#include "kselftest_harness.h"
#include "ferry_util.h"

#define PART	(4UL << 20)

FIXTURE(mbind)
{
	int nodes[FERRY_MAX_NODES];
	struct ferry_stats before;
	struct ferry_mix mix;
	pid_t child;
};

FIXTURE_SETUP(mbind)
{
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	ASSERT_EQ(0, ferry_quiet());
	ASSERT_EQ(0, ferry_mix_map(&self->mix, PART, self->nodes[0]));
	ASSERT_EQ(0, ferry_stats_get(&self->before));
}

FIXTURE_TEARDOWN(mbind)
{
	if (self->child > 0) {
		kill(self->child, SIGKILL);
		waitpid(self->child, NULL, 0);
	}
	ferry_mix_unmap(&self->mix);
	ferry_restore();
}

TEST_F(mbind, move)
{
	int iters = ferry_iters(8, 3), i, p, to;
	struct ferry_stats after;

	for (i = 0; i < iters; i++) {
		to = self->nodes[!(i & 1)];
		if (i % 3 == 0) {
			ferry_mix_unmap(&self->mix);
			ASSERT_EQ(0, ferry_mix_map(&self->mix, PART, self->nodes[i & 1]));
		}
		ferry_mix_fill(&self->mix, i);
		for (p = 0; p < self->mix.n; p++)
			ASSERT_EQ(0, ferry_mbind(self->mix.part[p].mem, PART,
						 i % 4 == 1 ? MPOL_PREFERRED : MPOL_BIND,
						 to, MPOL_MF_MOVE | MPOL_MF_STRICT));
		ASSERT_EQ(ferry_mix_pages(&self->mix), ferry_mix_count_on(&self->mix, to));
		ASSERT_EQ(0, ferry_mix_verify(&self->mix, i));
	}
	ASSERT_EQ(0, ferry_stats_get(&after));
	EXPECT_TRUE(ferry_stats_used(&self->before, &after));
}

/* A part of a mapping moves, its neighbours stay, and new pages come from the new node. */
TEST_F(mbind, part_of_a_mapping)
{
	char *mem = self->mix.part[FERRY_MIX_4K].mem, *mid = mem + PART / 4;
	int iters = ferry_iters(10, 3), i, to;

	ASSERT_EQ(PART / FERRY_PAGE, ferry_count_on(mem, PART, FERRY_PAGE, self->nodes[0]));
	for (i = 0; i < iters; i++) {
		to = self->nodes[!(i & 1)];
		ferry_fill(mem, PART, FERRY_MIX_4K, i);
		ASSERT_EQ(0, ferry_mbind(mid, PART / 2, MPOL_BIND, to,
					 MPOL_MF_MOVE | MPOL_MF_STRICT));
		ASSERT_EQ(PART / 2 / FERRY_PAGE,
			  ferry_count_on(mid, PART / 2, FERRY_PAGE, to));
		ASSERT_EQ(PART / 4 / FERRY_PAGE,
			  ferry_count_on(mem, PART / 4, FERRY_PAGE, self->nodes[0]));
		ASSERT_EQ(0, ferry_verify(mem, PART, FERRY_MIX_4K, i));
		ASSERT_EQ(0, madvise(mid, PART / 4, MADV_DONTNEED));
		ASSERT_EQ(0, madvise(mid, PART / 4, MADV_POPULATE_WRITE));
		ASSERT_EQ(PART / 4 / FERRY_PAGE,
			  ferry_count_on(mid, PART / 4, FERRY_PAGE, to));
	}
}

/* MOVE leaves pages that a child maps, too, without an error; MOVE_ALL moves them. */
TEST_F(mbind, shared_with_a_child)
{
	char *mem = self->mix.part[FERRY_MIX_4K].mem;
	int to = self->nodes[1];

	ferry_mix_fill(&self->mix, 1);
	self->child = fork();
	ASSERT_GE(self->child, 0);
	while (!self->child)
		pause();
	/* One half belongs to the parent alone again. */
	ferry_fill(mem, PART / 2, FERRY_MIX_4K, 1);
	EXPECT_EQ(0, ferry_mbind(mem, PART, MPOL_BIND, to,
				 MPOL_MF_MOVE | MPOL_MF_STRICT));
	EXPECT_EQ(PART / 2 / FERRY_PAGE, ferry_count_on(mem, PART, FERRY_PAGE, to));
	EXPECT_EQ(0, ferry_mix_verify(&self->mix, 1));
	EXPECT_EQ(0, ferry_mbind(mem, PART, MPOL_BIND, to,
				 MPOL_MF_MOVE_ALL | MPOL_MF_STRICT));
	EXPECT_EQ(PART / FERRY_PAGE, ferry_count_on(mem, PART, FERRY_PAGE, to));
	EXPECT_EQ(0, ferry_mix_verify(&self->mix, 1));
}

/* A page with an unexpected reference stays, and STRICT reports it; the others move. */
TEST_F(mbind, referenced_page)
{
	char *mem = self->mix.part[FERRY_MIX_4K].mem, *held = mem + 100 * FERRY_PAGE;
	struct iovec iov = { held, FERRY_PAGE };
	int to = self->nodes[1], fds[2];

	ferry_mix_fill(&self->mix, 1);
	ASSERT_EQ(0, pipe(fds));
	ASSERT_EQ(FERRY_PAGE, vmsplice(fds[1], &iov, 1, 0));
	EXPECT_EQ(-EIO, ferry_mbind(mem, PART, MPOL_BIND, to,
				    MPOL_MF_MOVE | MPOL_MF_STRICT));
	EXPECT_EQ(PART / FERRY_PAGE - 1, ferry_count_on(mem, PART, FERRY_PAGE, to));
	EXPECT_EQ(self->nodes[0], ferry_node_of(held));
	EXPECT_EQ(0, ferry_mix_verify(&self->mix, 1));
	close(fds[0]);
	close(fds[1]);
	EXPECT_EQ(0, ferry_mbind(mem, PART, MPOL_BIND, to,
				 MPOL_MF_MOVE | MPOL_MF_STRICT));
	EXPECT_EQ(to, ferry_node_of(held));
	EXPECT_EQ(0, ferry_mix_verify(&self->mix, 1));
}

TEST_HARNESS_MAIN
