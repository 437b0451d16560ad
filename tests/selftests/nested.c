// SPDX-License-Identifier: GPL-2.0
/*
 * Invariant: I8
 *
 * Migrations nest in the allocations of others. The destination node is full and demotion is
 * on, so a thread that allocates a destination has to reclaim, and reclaim migrates: a whole
 * migrate_pages() runs inside of another one, which holds locked folios. Several threads do
 * that at once, kswapd does it, too, and in the beginning no batch object is left, because
 * other migrations hold all of them open (delay_after_submit_us). Needs a node without CPUs
 * in a lower memory tier (HMAT).
 *
 * The trace shows the nesting: mm_migrate_pages_start for demotion between those two events
 * of a task for its system call. The state shows that the pool was empty, and
 * batches_declined_pool counts it. Every byte of the moved and of the demoted memory is
 * compared, and at the end all batch objects are back.
 *
 * Seen red, in a scratch copy: with Batch::give_back() dropping the batch object in place of
 * putting it into the pool, the pool is not whole after the first round.
 */
#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"

#define DEMOTION "/sys/kernel/mm/numa/demotion_enabled"
#define LEN	(4UL << 20)
/* Above the watermarks, which are higher while huge pages are enabled. */
#define LEFT	(32L << 20)
#define THREADS	14
#define HOLD_MS	8000
#define HOLD_LEN (1UL << 20)
#define MAX_HOLDERS 128

FIXTURE(nested)
{
	int nodes[FERRY_MAX_NODES];
	int slow;
	char *mem;	/* memory that moves: LEN for each thread */
	struct race_full cold;	/* memory that fills the destination */
	struct race_move holder[MAX_HOLDERS];
	char *held;	/* HOLD_LEN for each holder */
	long nr_held;
};

FIXTURE_VARIANT(nested)
{
	unsigned int kib;	/* folios that move */
	unsigned int cold_kib;	/* folios that are demoted */
};

FIXTURE_VARIANT_ADD(nested, 4k) { .kib = 4, .cold_kib = 4 };
FIXTURE_VARIANT_ADD(nested, 64k) { .kib = 64, .cold_kib = 4 };
FIXTURE_VARIANT_ADD(nested, 2m) { .kib = 2048, .cold_kib = 2048 };

FIXTURE_SETUP(nested)
{
	int mem[FERRY_MAX_NODES], n, i;

	self->slow = -1;
	self->mem = MAP_FAILED;
	self->held = MAP_FAILED;
	n = ferry_mem_nodes(mem);
	for (i = 0; i < n; i++)
		if (ferry_node_cpu(mem[i]) < 0)
			self->slow = mem[i];
	if (ferry_cpu_nodes(self->nodes) < 2 || self->slow < 0)
		SKIP(return, "needs two nodes with CPUs and one without");
	if (ferry_memory_tiers() < 2)
		SKIP(return, "the node without CPUs is in no lower memory tier");
	ASSERT_EQ(0, race_prepare(self->nodes));
	ferry_pin_cpu(-1);
	ASSERT_EQ(0, ferry_set(DEMOTION, "true"));
	ASSERT_EQ(0, ferry_trace_event("migrate/mm_migrate_pages_start", true));
	ASSERT_EQ(0, ferry_trace_event("migrate/mm_migrate_pages", true));
	if (!ferry_loaded())
		return;
	ASSERT_EQ(0, ferry_set_knob("timeout_ms", "60000"));
	ASSERT_EQ(0, ferry_set_knob("min_batch_bytes", "4096"));
	ASSERT_EQ(0, ferry_inject("workers_only", 1));
}

FIXTURE_TEARDOWN(nested)
{
	if (self->mem != MAP_FAILED)
		munmap(self->mem, THREADS * LEN);
	if (self->held != MAP_FAILED)
		munmap(self->held, MAX_HOLDERS * HOLD_LEN);
	race_full_end(&self->cold);
	ferry_restore();
}

/* Fills a node, except for LEFT bytes, with memory that was not used for long. */
static int fill_cold(FIXTURE_DATA(nested) * self, int node, unsigned int kib, u64 gen)
{
	int ret;

	self->cold = (struct race_full) { .node = node, .left = LEFT };
	/* Demotion would empty the node while it is filled. */
	ret = ferry_set(DEMOTION, "false");
	if (!ret)
		ret = race_full(&self->cold, kib << 10);
	if (!ret)
		ret = ferry_set(DEMOTION, "true");
	if (ret)
		return ret;
	ferry_fill(self->cold.mem, self->cold.len, 7, gen);
	return madvise(self->cold.mem, self->cold.len, MADV_COLD) ? -errno : 0;
}

struct mover {
	pthread_t thread;
	char *mem;
	size_t folio;
	int node;
	long ret;
};

static void *mover_fn(void *arg)
{
	struct mover *m = arg;

	m->ret = race_move_pages(m->mem, LEN, m->folio, m->node);
	return NULL;
}

/*
 * Starts migrations to the slow node that hold all batch objects, one each. Returns the
 * number of batch objects that are left.
 */
static long hold_pool(FIXTURE_DATA(nested) * self, int from, u64 gen)
{
	long all, seen, left, most;

	left = race_pool(&all);
	/* A batch is declined if no worker has room for it at that moment. */
	most = 2 * all;
	if (left != all || most > MAX_HOLDERS)
		return -EBUSY;
	if (self->held == MAP_FAILED)
		self->held = ferry_map_anon(MAX_HOLDERS * HOLD_LEN, FERRY_PMD);
	if (self->held == MAP_FAILED ||
	    race_fresh(self->held, most * HOLD_LEN, FERRY_PAGE, from))
		return -ENOMEM;
	ferry_fill(self->held, most * HOLD_LEN, 9, gen);
	if (ferry_inject("delay_after_submit_us", HOLD_MS * 1000))
		return -EIO;
	for (self->nr_held = 0; left > 0 && self->nr_held < most; self->nr_held++) {
		seen = ferry_stat("batches");
		if (race_move_start(&self->holder[self->nr_held],
				    self->held + self->nr_held * HOLD_LEN, HOLD_LEN, FERRY_PAGE,
				    self->slow, -1))
			return -EAGAIN;
		race_until("batches", seen, 300);
		left = race_pool(&all);
	}
	/* Holders of a batch object sleep already, for the time that was set when they began. */
	return ferry_inject("delay_after_submit_us", 1000) ? -EIO : left;
}

/* Waits for the holders. Returns the number of wrong bytes. */
static size_t let_go(FIXTURE_DATA(nested) * self, u64 gen)
{
	size_t len = self->nr_held * HOLD_LEN;

	if (!len)
		return 0;
	while (self->nr_held)
		race_move_end(&self->holder[--self->nr_held]);
	return ferry_verify(self->held, len, 9, gen);
}

struct nested {
	long outer;
	long inner;	/* demotions inside of the outer migrations */
	long demotions;
};

static int look(struct nested *n)
{
	char *text = ferry_trace_read(), *next = text;
	struct {
		int pid;
		int depth;
	} open[4 * THREADS] = {};
	struct race_event e;
	bool demotion;
	int i;

	if (!text)
		return -EIO;
	while (race_next_event(&next, &e)) {
		for (i = 0; i < ARRAY_SIZE(open) && open[i].pid && open[i].pid != e.pid; i++)
			;
		if (i == ARRAY_SIZE(open))
			continue;
		demotion = strstr(e.args, "reason=demotion");
		if (!strcmp(e.name, "mm_migrate_pages_start")) {
			open[i].pid = e.pid;
			n->demotions += demotion;
			n->inner += demotion && open[i].depth;
			n->outer += !open[i].depth && strstr(e.args, "reason=syscall");
			open[i].depth++;
		} else if (!strcmp(e.name, "mm_migrate_pages") && open[i].depth) {
			open[i].depth--;
		}
	}
	free(text);
	return 0;
}

/* Moves from one node to the other with all threads at once. */
static void move_all(struct __test_metadata *_metadata, FIXTURE_DATA(nested) * self, size_t folio,
		     int node)
{
	struct mover m[THREADS];
	int k;

	for (k = 0; k < THREADS; k++) {
		m[k] = (struct mover) {
			.mem = self->mem + k * LEN, .folio = folio, .node = node,
		};
		ASSERT_EQ(0, pthread_create(&m[k].thread, NULL, mover_fn, &m[k]));
	}
	for (k = 0; k < THREADS; k++) {
		pthread_join(m[k].thread, NULL);
		/* Memory may run out nevertheless, as in the stock kernel. */
		EXPECT_TRUE(m[k].ret >= 0 || m[k].ret == -ENOMEM);
	}
}

static long demoted(void)
{
	return ferry_vmstat("pgdemote_kswapd") + ferry_vmstat("pgdemote_direct");
}

TEST_F(nested, demotion_in_a_migration)
{
	int rounds = ferry_iters(2, 1), r, k, done = 0;
	int from = self->nodes[0], to = self->nodes[1];
	long was, direct, there, left, declined = 0;
	size_t folio = variant->kib << 10;
	struct nested nested = {};
	struct race_count c;

	self->mem = ferry_map_anon(THREADS * LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
	for (r = 0; r < 3 * rounds && done < rounds; r++) {
		race_full_end(&self->cold);
		if (ferry_loaded())
			ASSERT_EQ(0, ferry_inject("delay_after_submit_us", 0));
		ASSERT_EQ(0, race_fresh(self->mem, THREADS * LEN, folio, from));
		ferry_fill(self->mem, THREADS * LEN, 8, r);
		ASSERT_EQ(0, fill_cold(self, to, variant->cold_kib, r));
		left = ferry_active() ? hold_pool(self, from, r) : 0;
		ferry_note("%ld batch objects left in the beginning", left);
		ASSERT_GE(left, 0);
		ASSERT_EQ(0, ferry_trace_clear());
		was = demoted();
		direct = ferry_vmstat("pgdemote_direct");
		race_count(&c);
		k = nested.inner;
		move_all(_metadata, self, folio, to);
		race_count_end(&c);
		ASSERT_EQ(0, let_go(self, r));
		ASSERT_EQ(0, look(&nested));
		ASSERT_EQ(0, ferry_verify(self->mem, THREADS * LEN, 8, r));
		ASSERT_EQ(0, ferry_verify(self->cold.mem, self->cold.len, 7, r));
		there = ferry_count_on(self->mem, THREADS * LEN, FERRY_PAGE, to);
		ferry_note("%ld of %zu pages moved; %ld demoted, %ld by movers; %ld nested so far",
			   there, THREADS * LEN / FERRY_PAGE, demoted() - was,
			   ferry_vmstat("pgdemote_direct") - direct, nested.inner);
		EXPECT_GT(there, 0);
		EXPECT_GT(demoted() - was, 0);
		/* If no mover had to reclaim, no migration was nested. */
		done += nested.inner > k && !left;
		if (!ferry_active())
			continue;
		declined += race_grown(&c, "batches_declined_pool");
		EXPECT_TRUE(ferry_wait(race_pool_whole, NULL, 20000));
	}
	ferry_note("%ld migrations with %ld demotions in them, of %ld; pool empty %ld times",
		   nested.outer, nested.inner, nested.demotions, declined);
	EXPECT_GT(nested.outer, 0);
	EXPECT_GT(nested.inner, 0);
	EXPECT_GT(done, 0);
	if (ferry_active())
		EXPECT_GT(declined, 0);
	ASSERT_EQ(0, ferry_verify(self->mem, THREADS * LEN, 8, r - 1));
	/* The way back, with free memory on the node. */
	race_full_end(&self->cold);
	if (ferry_loaded())
		ASSERT_EQ(0, ferry_inject("delay_after_submit_us", 0));
	race_count(&c);
	ASSERT_LE(0, race_move_pages(self->mem, THREADS * LEN, folio, from));
	race_count_end(&c);
	/* Also the parts of folios that were split. */
	ASSERT_EQ(0, ferry_move_range(self->mem, THREADS * LEN, FERRY_PAGE, from, NULL));
	ASSERT_EQ(0, ferry_verify(self->mem, THREADS * LEN, 8, r - 1));
	if (!ferry_active())
		return;
	EXPECT_TRUE(ferry_wait(race_pool_whole, NULL, 20000));
	EXPECT_EQ(0, race_grown(&c, "batches_declined_pool"));
	EXPECT_GT(race_grown(&c, "batches") + race_grown(&c, "folios_in_place"), 0);
}

TEST_HARNESS_MAIN
