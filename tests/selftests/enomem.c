// SPDX-License-Identifier: GPL-2.0
/*
 * Invariant: I6
 *
 * When memory for destinations runs out, the stock code moves the folios that it has unmapped
 * so far, and ends with -ENOMEM; or it splits a large folio and tries again with its parts.
 * At that time copies are in flight by workers that are late (delay_in_chunk_us), and folios
 * of the same batch fail (fail_move_every), so that destinations are freed in between.
 *
 * destination_full: the node is full of memory that cannot be reclaimed, on any kernel. The
 * other tests let the n-th allocation of the mover fail (fail_page_alloc, make-it-fail), so
 * that the required result is known, and need CONFIG_FAIL_PAGE_ALLOC.
 *
 * If the mover does not wait for the worker, the worker writes to a page with a new owner.
 * That shows in the content, in new memory that is not zero (init_on_free=1), or in the
 * kernel's log (page_poison=1).
 *
 * Seen red, in a scratch copy: with MigrateCopyBatch::settle() answering Copied for
 * Settle::Wait, destination_full (4K) finds 16381156 of 67108864 bytes wrong.
 */
#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"

#define LEN		(4UL << 20)
#define FAIL		"/sys/kernel/debug/fail_page_alloc/"
#define MAKE_IT_FAIL	"/proc/thread-self/make-it-fail"
#define LATE_MS		20
#define MANY		1000000
#define LEFT		(24L << 20)

FIXTURE(enomem)
{
	int nodes[FERRY_MAX_NODES];
	char *mem;
	size_t len;
	struct race_full full;
	int log;
};

FIXTURE_SETUP(enomem)
{
	self->mem = MAP_FAILED;
	self->len = LEN;
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	ASSERT_EQ(0, race_prepare(self->nodes));
	self->log = race_log_open();
	if (!ferry_loaded())
		return;
	ASSERT_EQ(0, ferry_inject("delay_in_chunk_us", LATE_MS * 1000));
	ASSERT_EQ(0, ferry_inject("workers_only", 1));
	ASSERT_EQ(0, ferry_set_knob("timeout_ms", "60000"));
}

FIXTURE_TEARDOWN(enomem)
{
	if (self->mem != MAP_FAILED)
		munmap(self->mem, self->len);
	race_full_end(&self->full);
	ferry_restore();
}

/* Lets the caller's allocations of @order and above fail, @times in all, after @space pages. */
static int fail_allocations(int order, long space, long times)
{
	const struct {
		const char *name;
		long value;
	} set[] = {
		/*
		 * Values are restored in reverse order, so the filter is removed last and no
		 * other task's allocation fails.
		 */
		{ "task-filter", 1 }, { "verbose", 0 }, { "ignore-gfp-wait", 0 },
		{ "ignore-gfp-highmem", 0 }, { "interval", 1 }, { "min-order", order },
		{ "space", space }, { "times", times }, { "probability", 100 },
	};
	char path[100];
	int i, ret;

	for (i = 0; i < ARRAY_SIZE(set); i++) {
		snprintf(path, sizeof(path), FAIL "%s", set[i].name);
		ret = ferry_set(path, "%ld", set[i].value);
		if (ret)
			return ret;
	}
	return 0;
}

static bool can_fail(void)
{
	return !access(FAIL "times", W_OK) && !access(MAKE_IT_FAIL, W_OK);
}

/*
 * Calls move_pages(2) with failing allocations. The buffers are static and populated before,
 * because no other allocation may be needed meanwhile: a page fault would be retried again
 * and again.
 */
static long move_named(void **pages, size_t n, int node)
{
	static int nodes[LEN / FERRY_PAGE], status[LEN / FERRY_PAGE];
	int fd = open(MAKE_IT_FAIL, O_WRONLY | O_CLOEXEC);
	size_t i;
	long ret;

	if (fd < 0)
		return -errno;
	for (i = 0; i < n; i++) {
		nodes[i] = node;
		status[i] = -1;
	}
	if (pwrite(fd, "1", 1, 0) != 1)
		ret = -EIO;
	else
		ret = ferry_move_pages(0, n, pages, nodes, status, MPOL_MF_MOVE);
	if (pwrite(fd, "0", 1, 0) != 1)
		ret = -EIO;
	close(fd);
	return ret;
}

/* Does the same for one page in each @step. */
static long move_failing(char *mem, size_t len, size_t step, int node)
{
	static void *pages[LEN / FERRY_PAGE];
	size_t i;

	for (i = 0; i < len / step; i++)
		pages[i] = mem + i * step;
	return move_named(pages, len / step, node);
}

/*
 * Expects after a failed call that the content is there and keeps later changes, and that
 * free memory is clean, at once and after the last worker must have come back.
 */
static void after(struct __test_metadata *_metadata, FIXTURE_DATA(enomem) * self, u64 gen)
{
	int i;

	ASSERT_EQ(0, ferry_verify(self->mem, self->len, 1, gen));
	ferry_fill(self->mem, self->len, 2, gen);
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, race_not_zero(self->nodes[0], 2 * LEN));
		ASSERT_EQ(0, race_not_zero(self->nodes[1], 2 * LEN));
		ferry_sleep_ms(2 * LATE_MS);
	}
	ASSERT_EQ(0, ferry_verify(self->mem, self->len, 2, gen));
	EXPECT_EQ(0, race_log_count(self->log, "memory corruption"));
	self->log = race_log_open();
}

/* The n-th folio gets no destination: the folios before it are moved, the others are not. */
TEST_F(enomem, the_nth_allocation_fails)
{
	/*
	 * @space: number of pages that can be allocated. @every: every n-th unmapped folio
	 * fails (0: none).
	 */
	static const struct {
		long space;
		int every;
	} cases[] = { { 300, 0 }, { 300, 3 }, { 37, 0 }, { 120, 1 }, { 2, 0 } };
	long moved, ok, rc, folios, waits = 0;
	struct race_count c;
	size_t off;
	int i;

	if (!can_fail())
		SKIP(return, "needs CONFIG_FAIL_PAGE_ALLOC and its debugfs");
	self->mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		ASSERT_EQ(0, race_fresh(self->mem, LEN, FERRY_PAGE, self->nodes[0]));
		ferry_fill(self->mem, LEN, 1, i);
		if (ferry_loaded())
			ASSERT_EQ(0, ferry_inject("fail_move_every", cases[i].every));
		ASSERT_EQ(0, fail_allocations(0, cases[i].space, 1));
		ok = ferry_vmstat("pgmigrate_success");
		race_count(&c);
		rc = move_failing(self->mem, LEN, FERRY_PAGE, self->nodes[1]);
		race_count_end(&c);
		/* The allocation did fail, and the caller gets that result. */
		ASSERT_EQ(0, ferry_read_long(FAIL "times"));
		EXPECT_EQ(-ENOMEM, rc);
		moved = ferry_count_on(self->mem, LEN, FERRY_PAGE, self->nodes[1]);
		EXPECT_EQ(moved, ferry_vmstat("pgmigrate_success") - ok);
		ASSERT_LE(moved, cases[i].space);
		/* A few of the pages are not for destinations. */
		if (!cases[i].every || !ferry_active())
			ASSERT_GE(moved, cases[i].space - 16);
		/* No folio beyond has moved. */
		for (off = cases[i].space * FERRY_PAGE; off < LEN; off += FERRY_PAGE)
			ASSERT_EQ(self->nodes[0], ferry_node_of(self->mem + off));
		folios = race_grown(&c, "folios");
		ferry_note("after %ld pages: %ld moved, %ld of them in a batch", cases[i].space,
			   moved, folios);
		if (ferry_active() && cases[i].space > 100) {
			/* The first folio is moved before the others are offered. */
			if (!cases[i].every)
				EXPECT_EQ(moved - 1, folios);
			EXPECT_GT(folios, 2);
			EXPECT_GT(race_grown(&c, "chunks_by_others"), 0);
			waits += race_grown(&c, "waits");
		}
		if (cases[i].every && ferry_active())
			EXPECT_LT(moved, folios);
		after(_metadata, self, i);

		/* With enough memory all of it moves. */
		if (ferry_loaded())
			ASSERT_EQ(0, ferry_inject("fail_move_every", 0));
		ASSERT_EQ(0, ferry_move_range(self->mem, LEN, FERRY_PAGE, self->nodes[1], NULL));
		ASSERT_EQ(0, ferry_verify(self->mem, LEN, 2, i));
	}
	/* Workers were in a chunk when the mover came to it. */
	if (ferry_active())
		EXPECT_GT(waits, 0);
}

/* The allocation fails before any folio is unmapped, so there is no batch. */
TEST_F(enomem, the_first_allocation_fails)
{
	struct race_count c;

	if (!can_fail())
		SKIP(return, "needs CONFIG_FAIL_PAGE_ALLOC and its debugfs");
	self->mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
	ASSERT_EQ(0, race_fresh(self->mem, LEN, FERRY_PAGE, self->nodes[0]));
	ferry_fill(self->mem, LEN, 1, 0);
	ASSERT_EQ(0, fail_allocations(0, 0, 1));
	race_count(&c);
	EXPECT_EQ(-ENOMEM, move_failing(self->mem, LEN, FERRY_PAGE, self->nodes[1]));
	race_count_end(&c);
	ASSERT_EQ(0, ferry_read_long(FAIL "times"));
	ASSERT_TRUE(race_all_on(self->mem, LEN, self->nodes[0]));
	if (ferry_loaded()) {
		EXPECT_EQ(0, race_grown(&c, "batches"));
		EXPECT_EQ(0, race_grown(&c, "bytes_early"));
	}
	after(_metadata, self, 0);
}

/* Without destinations large folios are split, and their parts move. */
TEST_F(enomem, large_folios_are_split)
{
	static const unsigned int kib[] = { 64, 2048 };
	size_t folio;
	struct race_count c;
	long split, ok;
	int i, every;

	if (!can_fail())
		SKIP(return, "needs CONFIG_FAIL_PAGE_ALLOC and its debugfs");
	self->mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
	for (i = 0; i < 2 * ARRAY_SIZE(kib); i++) {
		folio = kib[i / 2] << 10;
		every = i & 1 ? 5 : 0;
		ASSERT_EQ(0, race_fresh(self->mem, LEN, folio, self->nodes[0]));
		ferry_fill(self->mem, LEN, 1, i);
		if (ferry_loaded())
			ASSERT_EQ(0, ferry_inject("fail_move_every", every));
		ASSERT_EQ(0, fail_allocations(__builtin_ctzl(folio / FERRY_PAGE), 0, MANY));
		split = ferry_vmstat("thp_migration_split");
		ok = ferry_vmstat("pgmigrate_success");
		race_count(&c);
		ASSERT_LE(0, move_failing(self->mem, LEN, folio, self->nodes[1]));
		race_count_end(&c);
		EXPECT_EQ(folio == FERRY_PMD ? LEN / FERRY_PMD : 0,
			  ferry_vmstat("thp_migration_split") - split);
		ASSERT_EQ(LEN, ferry_in_folios_of(self->mem, LEN, FERRY_PAGE));
		EXPECT_EQ(ferry_count_on(self->mem, LEN, FERRY_PAGE, self->nodes[1]),
			  ferry_vmstat("pgmigrate_success") - ok);
		if (!every || !ferry_active())
			ASSERT_TRUE(race_all_on(self->mem, LEN, self->nodes[1]));
		if (ferry_active())
			EXPECT_GT(race_grown(&c, "folios_copied_early"), 0);
		after(_metadata, self, i);
		if (ferry_loaded())
			ASSERT_EQ(0, ferry_inject("fail_move_every", 0));
		ASSERT_EQ(0, ferry_move_range(self->mem, LEN, FERRY_PAGE, self->nodes[1], NULL));
		ASSERT_EQ(0, ferry_verify(self->mem, LEN, 2, i));
	}
}

/* A large folio without a destination, among small folios that are unmapped. */
TEST_F(enomem, a_large_folio_among_small_ones)
{
	const size_t part = LEN / 4;
	static void *pages[LEN / FERRY_PAGE];
	struct race_count c;
	size_t n = 0, off;
	char *huge;
	long split;

	if (!can_fail())
		SKIP(return, "needs CONFIG_FAIL_PAGE_ALLOC and its debugfs");
	self->mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
	huge = self->mem + FERRY_PMD;
	ASSERT_EQ(0, ferry_mthp_only(2048));
	ASSERT_EQ(0, ferry_populate(huge, FERRY_PMD, self->nodes[0]));
	ASSERT_EQ(FERRY_PMD, ferry_in_folios_of(huge, FERRY_PMD, FERRY_PMD));
	ASSERT_EQ(0, ferry_mthp_only(0));
	ASSERT_EQ(0, ferry_populate(self->mem, FERRY_PMD, self->nodes[0]));
	ferry_fill(self->mem, LEN, 1, 0);
	for (off = 0; off < 2 * part; off += FERRY_PAGE) {
		if (off == part)
			pages[n++] = huge;
		pages[n++] = self->mem + off;
	}
	ASSERT_EQ(0, fail_allocations(9, 0, MANY));
	split = ferry_vmstat("thp_migration_split");
	race_count(&c);
	EXPECT_EQ(0, move_named(pages, n, self->nodes[1]));
	race_count_end(&c);
	EXPECT_GT(MANY, ferry_read_long(FAIL "times"));
	EXPECT_EQ(1, ferry_vmstat("thp_migration_split") - split);
	ASSERT_TRUE(race_all_on(self->mem, LEN, self->nodes[1]));
	if (ferry_active())
		EXPECT_GT(race_grown(&c, "folios_copied_early"), 0);
	after(_metadata, self, 0);
}

/* Without any injection: the node has no more memory, and without swap none can be reclaimed. */
TEST_F(enomem, destination_full)
{
	static const unsigned int kib[] = { 4, 2048 };
	long rc, moved, split;
	struct race_count c;
	size_t folio;
	int i;

	if (ferry_loaded())
		ASSERT_EQ(0, ferry_inject("delay_in_chunk_us", LATE_MS * 100));
	if (!access("/sys/kernel/mm/numa/demotion_enabled", W_OK))
		ASSERT_EQ(0, ferry_set("/sys/kernel/mm/numa/demotion_enabled", "false"));
	self->len = 64UL << 20;
	self->mem = ferry_map_anon(self->len, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
	ferry_write("/proc/sys/vm/drop_caches", "3");
	for (i = 0; i < ferry_iters(ARRAY_SIZE(kib), 1); i++) {
		folio = kib[i] << 10;
		ASSERT_EQ(0, race_fresh(self->mem, self->len, folio, self->nodes[0]));
		ferry_fill(self->mem, self->len, 1, i);
		self->full = (struct race_full) { .node = self->nodes[1], .left = LEFT };
		ASSERT_EQ(0, race_full(&self->full, FERRY_PAGE));
		split = ferry_vmstat("thp_migration_split");
		race_count(&c);
		rc = race_move_pages(self->mem, self->len, folio, self->nodes[1]);
		race_count_end(&c);
		moved = ferry_count_on(self->mem, self->len, FERRY_PAGE, self->nodes[1]);
		ferry_note("%u KiB: returned %ld, %ld of %zu pages moved, %ld folios split",
			   kib[i], rc, moved, self->len / FERRY_PAGE,
			   ferry_vmstat("thp_migration_split") - split);
		/* Some parts of a large folio that was split may have moved. */
		EXPECT_TRUE(folio == FERRY_PAGE ? rc == -ENOMEM : rc != 0);
		EXPECT_GT(moved, 0);
		EXPECT_LT(moved, self->len / FERRY_PAGE);
		ASSERT_EQ(0, ferry_verify(self->mem, self->len, 1, i));
		if (ferry_active())
			EXPECT_GT(race_grown(&c, "chunks_by_others"), 0);
		race_full_end(&self->full);
		after(_metadata, self, i);
		ASSERT_EQ(0, ferry_move_range(self->mem, self->len, FERRY_PAGE, self->nodes[1],
					      NULL));
		ASSERT_EQ(0, ferry_verify(self->mem, self->len, 2, i));
		ASSERT_EQ(0, madvise(self->mem, self->len, MADV_DONTNEED));
	}
}

TEST_HARNESS_MAIN
