// SPDX-License-Identifier: GPL-2.0
/*
 * Invariant: I12
 *
 * move_pages(2) returns for every page exactly the status that it returns without Ferry,
 * whatever is wrong with the page, and the page's neighbours in the call move all the same.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/uio.h>

#include "kselftest_harness.h"
#include "ferry_util.h"

#define PAGES	512
#define LEN	(PAGES * FERRY_PAGE)
#define UNSET	(-12345)

FIXTURE(move_pages)
{
	int nodes[FERRY_MAX_NODES];
	void *pages[PAGES];
	int to[PAGES], status[PAGES];
	char *mem;
	pid_t child;
	int pipe[2];
};

static void all_to(FIXTURE_DATA(move_pages) * self, int node)
{
	int i;

	for (i = 0; i < PAGES; i++) {
		self->pages[i] = self->mem + i * FERRY_PAGE;
		self->to[i] = node;
		self->status[i] = UNSET;
	}
}

FIXTURE_SETUP(move_pages)
{
	self->mem = MAP_FAILED;
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	ASSERT_EQ(0, ferry_quiet());
	ASSERT_EQ(0, ferry_mthp_only(0));
	self->mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
	ASSERT_EQ(0, ferry_populate(self->mem, LEN, self->nodes[0]));
	ferry_fill(self->mem, LEN, 1, 1);
	all_to(self, self->nodes[1]);
}

FIXTURE_TEARDOWN(move_pages)
{
	if (self->child > 0) {
		kill(self->child, SIGKILL);
		waitpid(self->child, NULL, 0);
	}
	if (self->mem != MAP_FAILED)
		munmap(self->mem, LEN);
	ferry_restore();
}

TEST_F(move_pages, all_succeed)
{
	int iters = ferry_iters(40, 8), i, p, node;
	struct ferry_stats before, after;

	ASSERT_EQ(0, ferry_stats_get(&before));
	for (i = 0; i < iters; i++) {
		node = self->nodes[!(i & 1)];
		all_to(self, node);
		ASSERT_EQ(0, ferry_move_pages(0, PAGES, self->pages, self->to,
					      self->status, MPOL_MF_MOVE));
		for (p = 0; p < PAGES; p++)
			ASSERT_EQ(node, self->status[p]);
		ASSERT_EQ(0, ferry_verify(self->mem, LEN, 1, 1));
	}
	ASSERT_EQ(0, ferry_stats_get(&after));
	EXPECT_TRUE(ferry_stats_used(&before, &after));
}

TEST_F(move_pages, query_only)
{
	int p;

	for (p = 0; p < PAGES / 2; p++)
		self->pages[p] = self->mem + 2 * p * FERRY_PAGE;
	ASSERT_EQ(0, ferry_move_pages(0, PAGES / 2, self->pages, self->to, self->status,
				      MPOL_MF_MOVE));
	all_to(self, 0);
	ASSERT_EQ(0, ferry_move_pages(0, PAGES, self->pages, NULL, self->status, 0));
	for (p = 0; p < PAGES; p++)
		ASSERT_EQ(self->nodes[!(p & 1)], self->status[p]);
	ASSERT_EQ(0, ferry_verify(self->mem, LEN, 1, 1));
}

/* Holes, the zero page, an unmapped address and a kernel address among good pages. */
TEST_F(move_pages, bad_pages)
{
	char *hole = self->mem + 100 * FERRY_PAGE, *zero = self->mem + 200 * FERRY_PAGE;
	char *none = self->mem + 300 * FERRY_PAGE;
	int iters = ferry_iters(10, 3), it, p, want;

	for (it = 0; it < iters; it++) {
		ASSERT_EQ(0, madvise(hole, FERRY_PAGE, MADV_DONTNEED));
		ASSERT_EQ(0, madvise(zero, FERRY_PAGE, MADV_DONTNEED));
		ASSERT_EQ(0, __atomic_load_n(zero, __ATOMIC_RELAXED));
		if (!it)
			ASSERT_EQ(0, munmap(none, FERRY_PAGE));
		all_to(self, self->nodes[!(it & 1)]);
		self->pages[400] = (void *)0xffffffff80000000UL;
		ASSERT_EQ(0, ferry_move_pages(0, PAGES, self->pages, self->to,
					      self->status, MPOL_MF_MOVE));
		for (p = 0; p < PAGES; p++) {
			want = self->to[p];
			if (p == 100)
				want = -ENOENT;
			if (p == 200 || p == 300 || p == 400)
				want = -EFAULT;
			ASSERT_EQ(want, self->status[p])
				TH_LOG("page %d", p);
			if (p < 100 || (p > 100 && p < 200) || p > 400)
				ASSERT_EQ(0, ferry_verify_at(self->mem + p * FERRY_PAGE,
							     FERRY_PAGE, 1, 1,
							     p * FERRY_PAGE));
		}
	}
}

static void shared(FIXTURE_DATA(move_pages) * self)
{
	self->child = fork();
	if (self->child)
		return;
	for (;;)
		pause();
}

/* Pages that a child maps as well are refused with MOVE and moved with MOVE_ALL. */
TEST_F(move_pages, shared_with_a_child)
{
	int p;

	shared(self);
	ASSERT_GT(self->child, 0);
	/* These pages belong to the parent alone again. */
	for (p = 0; p < PAGES; p += 8)
		ferry_fill_at(self->mem + p * FERRY_PAGE, FERRY_PAGE, 1, 1, p * FERRY_PAGE);
	ASSERT_EQ(0, ferry_move_pages(0, PAGES, self->pages, self->to, self->status,
				      MPOL_MF_MOVE));
	for (p = 0; p < PAGES; p++)
		ASSERT_EQ(p % 8 ? -EACCES : self->nodes[1], self->status[p]);
	ASSERT_EQ(0, ferry_verify(self->mem, LEN, 1, 1));
	all_to(self, self->nodes[1]);
	ASSERT_EQ(0, ferry_move_pages(0, PAGES, self->pages, self->to, self->status,
				      MPOL_MF_MOVE_ALL));
	for (p = 0; p < PAGES; p++)
		ASSERT_EQ(self->nodes[1], self->status[p]);
	ASSERT_EQ(0, ferry_verify(self->mem, LEN, 1, 1));
}

/* The pages of another process, which checks them itself afterwards. */
TEST_F(move_pages, another_process)
{
	int go[2], done[2], p;
	long bad = -1;
	char c = 'x';

	ASSERT_EQ(0, pipe(go));
	ASSERT_EQ(0, pipe(done));
	self->child = fork();
	ASSERT_GE(self->child, 0);
	if (!self->child) {
		ferry_fill(self->mem, LEN, 2, 2);
		for (;;) {
			if (write(done[1], &bad, sizeof(bad)) != sizeof(bad) ||
			    read(go[0], &c, 1) != 1)
				_exit(1);
			bad = ferry_verify(self->mem, LEN, 2, 2);
		}
	}
	ASSERT_EQ(sizeof(bad), read(done[0], &bad, sizeof(bad)));
	ASSERT_EQ(0, ferry_move_pages(self->child, PAGES, self->pages, self->to,
				      self->status, MPOL_MF_MOVE));
	for (p = 0; p < PAGES; p++)
		ASSERT_EQ(self->nodes[1], self->status[p]);
	ASSERT_EQ(1, write(go[1], &c, 1));
	ASSERT_EQ(sizeof(bad), read(done[0], &bad, sizeof(bad)));
	ASSERT_EQ(0, bad);
	/* The parent's own pages stayed. */
	ASSERT_EQ(PAGES, ferry_count_on(self->mem, LEN, FERRY_PAGE, self->nodes[0]));
	ASSERT_EQ(0, ferry_verify(self->mem, LEN, 1, 1));
}

/*
 * A page with an unexpected reference cannot move. It keeps its place and content; the call
 * returns the number of such pages.
 */
TEST_F(move_pages, referenced_pages)
{
	int held[] = { 0, 17, 18, 19, 255, 511 }, i, p;
	struct iovec iov;
	char buf[FERRY_PAGE];

	ASSERT_EQ(0, pipe(self->pipe));
	for (i = 0; i < ARRAY_SIZE(held); i++) {
		iov.iov_base = self->mem + held[i] * FERRY_PAGE;
		iov.iov_len = FERRY_PAGE;
		ASSERT_EQ(FERRY_PAGE, vmsplice(self->pipe[1], &iov, 1, 0));
	}
	ASSERT_EQ(ARRAY_SIZE(held),
		  ferry_move_pages(0, PAGES, self->pages, self->to, self->status,
				   MPOL_MF_MOVE));
	ASSERT_EQ(0, ferry_move_pages(0, PAGES, self->pages, NULL, self->status, 0));
	for (i = 0, p = 0; p < PAGES; p++) {
		if (i < ARRAY_SIZE(held) && held[i] == p) {
			ASSERT_EQ(self->nodes[0], self->status[p]);
			i++;
		} else {
			ASSERT_EQ(self->nodes[1], self->status[p]);
		}
	}
	ASSERT_EQ(0, ferry_verify(self->mem, LEN, 1, 1));
	for (i = 0; i < ARRAY_SIZE(held); i++) {
		ASSERT_EQ(FERRY_PAGE, read(self->pipe[0], buf, FERRY_PAGE));
		ASSERT_EQ(0, ferry_verify_at(buf, FERRY_PAGE, 1, 1,
					     held[i] * FERRY_PAGE));
	}
	/* All references have been dropped. */
	ASSERT_EQ(0, ferry_move_range(self->mem, LEN, FERRY_PAGE, self->nodes[1], NULL));
	ASSERT_EQ(0, ferry_verify(self->mem, LEN, 1, 1));
	close(self->pipe[0]);
	close(self->pipe[1]);
}

/* Errors of the call as a whole. */
TEST_F(move_pages, bad_calls)
{
	EXPECT_EQ(-EINVAL, ferry_move_pages(0, PAGES, self->pages, self->to,
					    self->status, 0x40));
	EXPECT_EQ(-ESRCH, ferry_move_pages(999999, PAGES, self->pages, self->to,
					   self->status, MPOL_MF_MOVE));
	EXPECT_EQ(-EFAULT, ferry_move_pages(0, PAGES, NULL, self->to, self->status,
					    MPOL_MF_MOVE));
	EXPECT_EQ(0, ferry_move_pages(0, 0, self->pages, self->to, self->status,
				      MPOL_MF_MOVE));
	/* The pages before the bad node move, the pages after it do not. */
	self->to[300] = 63;
	EXPECT_EQ(-ENODEV, ferry_move_pages(0, PAGES, self->pages, self->to,
					    self->status, MPOL_MF_MOVE));
	EXPECT_EQ(300, ferry_count_on(self->mem, LEN, FERRY_PAGE, self->nodes[1]));
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, 1, 1));
}

TEST_HARNESS_MAIN
