// SPDX-License-Identifier: GPL-2.0
/*
 * Invariant: I13
 *
 * A worker that has claimed a chunk runs: it is not preempted between claim and done, however
 * busy the machine is, so a mover waits for the rest of one chunk at most. must_not_block has
 * more on movers that may not block.
 *
 * The worker's CPU gets spinners at nice 0 while it is inside a chunk, on which it was told
 * to spend HOLD_MS (delay_in_chunk_us). If it could be preempted, the worker, at nice 19,
 * would get back to it after seconds, because 8 spinners have a weight of 8 * 1024 to its 15.
 *
 * A mover that waits for the end of a chunk does not sleep, because it would come back later
 * than the chunk is done. The proof of that is the scheduler's (sched_switch), not the
 * module's.
 *
 * The bound: a wait lasts HOLD_MS and a chunk's copy. It may take SLACK_MS more, because in a
 * virtual machine without its own CPUs the host can take the worker's virtual CPU away while
 * the worker holds the claim; on a host so busy that this takes longer than SLACK_MS the test
 * fails without a fault of Ferry.
 *
 * Seen red, in a scratch copy: with preemption on in Batch::copy_chunk() (no NoPreempt) the
 * longest wait of preempted_worker_holds_no_claim was above 34 s, one ran into the timeout of
 * 60 s, and move_pages() of 1 MiB took 18 s on average; otherwise waits take 67 ms at most.
 * With wait::poll() sleeping 100 ms between two looks, the mover sleeps 8 times in 4 batches
 * instead of 4, which is the delay after each submit, and 3 times in waits.
 */
#include <sched.h>

#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"
#include "tracing.h"
#include "sleeps.h"

#define LEN		(1024UL << 10)
#define HOLD_MS		100
#define SLACK_MS	900
#define SPINNERS	8

struct spinner {
	pthread_t thread;
	int cpu;
};

static struct spinner spinners[FERRY_MAX_NODES * SPINNERS];
static int nr_spinners;
static bool spin, quit;

static void *spinner_fn(void *arg)
{
	struct spinner *s = arg;

	ferry_pin_cpu(s->cpu);
	while (!__atomic_load_n(&quit, __ATOMIC_ACQUIRE)) {
		if (!__atomic_load_n(&spin, __ATOMIC_ACQUIRE))
			ferry_sleep_ms(1);
	}
	return NULL;
}

static int start_spinners(const int *cpus, int n)
{
	int i;

	quit = false;
	spin = false;
	nr_spinners = 0;
	for (i = 0; i < n * SPINNERS && i < ARRAY_SIZE(spinners); i++) {
		spinners[i].cpu = cpus[i / SPINNERS];
		if (pthread_create(&spinners[i].thread, NULL, spinner_fn, &spinners[i]))
			return -EAGAIN;
		nr_spinners++;
	}
	return 0;
}

static void set_spin(bool on)
{
	__atomic_store_n(&spin, on, __ATOMIC_RELEASE);
}

static void end_spinners(void)
{
	int i;

	__atomic_store_n(&quit, true, __ATOMIC_RELEASE);
	for (i = 0; i < nr_spinners; i++)
		pthread_join(spinners[i].thread, NULL);
	nr_spinners = 0;
}

FIXTURE(busy_cpus)
{
	int nodes[FERRY_MAX_NODES];
	char *mem;
	struct trc trace;
};

FIXTURE_SETUP(busy_cpus)
{
	self->mem = MAP_FAILED;
	if (ferry_cpu_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with CPUs");
	ASSERT_EQ(0, race_prepare(self->nodes));
	self->mem = ferry_map_anon(4UL << 20, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
	ASSERT_EQ(0, slp_begin(&self->trace, "busy_cpus"));
}

FIXTURE_TEARDOWN(busy_cpus)
{
	trc_end(&self->trace);
	if (self->mem != MAP_FAILED)
		munmap(self->mem, 4UL << 20);
	ferry_restore();
}

/*
 * Expects that movers that wait for a worker stayed on their CPU, or were preempted, and that
 * in all of the migration they slept no more often than they were @told to.
 */
static void no_sleep(struct __test_metadata *_metadata, FIXTURE_DATA(busy_cpus) * self, long told)
{
	struct slp_seen seen;

	ASSERT_EQ(0, slp_look(&self->trace, NULL, "syscall_or_cpuset", &seen));
	ferry_note("%ld migrations, %ld waits; their movers slept %ld times, %ld of them in waits",
		   seen.migrations, seen.waits, seen.sleeps, seen.in_waits);
	EXPECT_GT(seen.migrations, 0);
	EXPECT_EQ(0, seen.in_waits);
	EXPECT_LE(seen.sleeps, told);
}

/*
 * A worker gets into a chunk on an idle CPU; then that CPU is flooded with spinners; then the
 * mover, which slept after the submit, comes to that chunk.
 */
TEST_F(busy_cpus, preempted_worker_holds_no_claim)
{
	int cpu = ferry_node_cpu(self->nodes[1]), iters = ferry_iters(8, 4), i;
	long seen, total = 0;
	struct race_hist waits;
	struct race_count c;
	struct race_move m;
	u64 from, ms, longest = 0;

	if (ferry_loaded()) {
		ASSERT_EQ(0, ferry_set_knob("timeout_ms", "60000"));
		ASSERT_EQ(0, ferry_inject("delay_in_chunk_us", HOLD_MS * 1000));
		ASSERT_EQ(0, ferry_inject("delay_after_submit_us", HOLD_MS * 500));
		ASSERT_EQ(0, ferry_inject("workers_only", 1));
		race_reset_stats();
	}
	ASSERT_EQ(0, start_spinners(&cpu, 1));
	race_count(&c);
	for (i = 0; i < iters; i++) {
		set_spin(false);
		ferry_sleep_ms(20);
		ASSERT_EQ(0, race_fresh(self->mem, LEN, FERRY_PAGE, self->nodes[i & 1]));
		ferry_fill(self->mem, LEN, 13, i);
		seen = ferry_stat("batches");
		from = ferry_now_ns();
		ASSERT_EQ(0, race_move_start(&m, self->mem, LEN, FERRY_PAGE,
					     self->nodes[!(i & 1)],
					     ferry_node_cpu(self->nodes[0])));
		if (ferry_active())
			race_until("batches", seen, 5000);
		set_spin(true);
		ASSERT_LE(0, race_move_end(&m));
		ms = (ferry_now_ns() - from) / 1000000;
		total += ms;
		if (ms > longest)
			longest = ms;
		ASSERT_EQ(0, ferry_verify(self->mem, LEN, 13, i));
		ASSERT_TRUE(race_all_on(self->mem, LEN, self->nodes[!(i & 1)]));
	}
	end_spinners();
	race_count_end(&c);
	no_sleep(_metadata, self, ferry_active() ? race_grown(&c, "batches") : 0);
	if (!ferry_active())
		return;
	ASSERT_EQ(0, race_hist("hist_wait_ns", &waits));
	ferry_note("%ld waits, the longest up to %llu ms; moves %ld ms on average, longest %llu",
		   waits.n,
		   (unsigned long long)waits.max / 1000000, total / iters,
		   (unsigned long long)longest);
	EXPECT_GT(race_grown(&c, "workers_woken"), 0);
	/* The mover did come to a chunk that a worker was copying. */
	EXPECT_GT(waits.n, 0);
	EXPECT_EQ(0, race_grown(&c, "wait_timeouts"));
	/* The upper bound of a bucket is up to twice the value in it. */
	EXPECT_LT(waits.max, (HOLD_MS + SLACK_MS) * 2 * 1000000ULL);
}

/*
 * All CPUs are busy with 4 spinners each and the mover is one more: no wait is longer than a
 * chunk and the time that the host takes. Batches and copies in place of 2M folios.
 */
TEST_F(busy_cpus, busy_machine)
{
	int cpus[FERRY_MAX_NODES], n, i, iters = ferry_iters(8, 3);
	size_t folio, len = 4UL << 20;
	struct race_hist waits;
	struct race_count c;

	n = ferry_cpu_nodes(self->nodes);
	for (i = 0; i < n; i++)
		cpus[i] = ferry_node_cpu(self->nodes[i]);
	if (ferry_loaded()) {
		ASSERT_EQ(0, ferry_set_knob("timeout_ms", "60000"));
		race_reset_stats();
	}
	ASSERT_EQ(0, start_spinners(cpus, 2));
	set_spin(true);
	race_count(&c);
	for (i = 0; i < iters; i++) {
		folio = i & 2 ? FERRY_PMD : FERRY_PAGE;
		if (race_fresh(self->mem, len, folio, self->nodes[i & 1]))
			continue;
		/* With and without workers that have to compete for their CPU. */
		if (ferry_loaded())
			ASSERT_EQ(0, ferry_inject("workers_only", i & 4 ? 1 : 0));
		ferry_fill(self->mem, len, 14, i);
		ASSERT_EQ(0, ferry_move_range(self->mem, len, folio,
					      self->nodes[!(i & 1)], NULL));
		ASSERT_EQ(0, ferry_verify(self->mem, len, 14, i));
	}
	end_spinners();
	race_count_end(&c);
	no_sleep(_metadata, self, 0);
	if (!ferry_active())
		return;
	ASSERT_EQ(0, race_hist("hist_wait_ns", &waits));
	ferry_note("%ld waits, the longest up to %llu us", waits.n,
		   (unsigned long long)waits.max / 1000);
	EXPECT_EQ(0, race_grown(&c, "wait_timeouts"));
	EXPECT_LT(waits.max, SLACK_MS * 2 * 1000000ULL);
}

TEST_HARNESS_MAIN
