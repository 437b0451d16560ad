// SPDX-License-Identifier: GPL-2.0
/*
 * Workers' time is charged to the control group of the task that migrates, and to no other
 * group: the growth of the group's cpu.stat, above the time of its own tasks, is the time
 * that the threads of the workers ran for it.
 *
 * This is an account, not a timing: all three figures are times that the scheduler, or the
 * workers by the same clock, have counted, however fast the machine is. The permitted
 * difference: a worker cannot count the time between its wake-up and its first look at the
 * clock, nor the time from its last look until it is off its CPU; and it passes the time that
 * it spun after its last batch on to the next batch of the same group, or charges it to no
 * group (worker_unpaid_ns). That is up to SPIN_NS for each worker at the beginning and at the
 * end of a measurement, and up to READ_NS between two readings that should be one; the rest
 * is less than 5 % (TOLERANCE). Workers run for ENOUGH_NS, so that SPIN_NS is small against
 * it.
 *
 * A host that takes a virtual CPU away for long just when a worker spins makes that spin as
 * long, so there are TRIES measurements, of which one has to agree: a wrong account is wrong
 * in all of them.
 *
 * Seen red, in a scratch copy: with half of the time that CpuTime::take() returns all
 * measurements of the_group_that_migrates and two_groups disagreed (2004 ms run, 963 ms
 * charged).
 */
#include <time.h>

#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"

#define LEN		(4UL << 20)
#define ENOUGH_NS	2000000000LL
#define PHASE_NS	500000000LL
#define SPIN_NS		2500000LL
#define READ_NS		5000000LL
#define TRIES		5
#define TOLERANCE	20		/* the permitted difference is 1/TOLERANCE */
#define MAX_WORKERS	64
#define LIMIT_MS	180000

FIXTURE(who_pays)
{
	int nodes[FERRY_MAX_NODES];
	char a[256], b[256];
	pid_t workers[MAX_WORKERS];
	int nr;
	char *mem;
	int gen;
};

FIXTURE_SETUP(who_pays)
{
	self->mem = MAP_FAILED;
	if (ferry_cpu_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with CPUs");
	if (!ferry_loaded())
		SKIP(return, "needs ferry.ko");
	ASSERT_EQ(0, race_prepare(self->nodes));
	/* Time for migrations by the kernel itself would be charged to other groups. */
	ASSERT_EQ(0, ferry_set_knob("reasons", "syscall"));
	ASSERT_EQ(0, ferry_cgroup_create("ferry-a", "+cpu", self->a));
	ASSERT_EQ(0, ferry_cgroup_create("ferry-b", "+cpu", self->b));
	self->nr = ferry_threads(self->workers, MAX_WORKERS);
	if (ferry_active())
		ASSERT_LT(0, self->nr);
	self->mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
}

FIXTURE_TEARDOWN(who_pays)
{
	ferry_cgroup_enter(NULL, 0);
	if (self->mem != MAP_FAILED)
		munmap(self->mem, LEN);
	if (self->a[0])
		ferry_cgroup_remove(self->a);
	if (self->b[0])
		ferry_cgroup_remove(self->b);
	ferry_restore();
}

/* Returns the time that a process has run, as the scheduler counts it, in ns. */
static long long ran_ns(pid_t pid)
{
	struct timespec t = {};
	clockid_t clock = CLOCK_PROCESS_CPUTIME_ID;

	if (pid && clock_getcpuclockid(pid, &clock))
		return 0;
	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Returns a line of cpu.stat, in ns. */
static long long cpu_stat(const char *group, const char *key)
{
	char path[300], text[2048], *line;

	snprintf(path, sizeof(path), "%s/cpu.stat", group);
	if (ferry_read(path, text, sizeof(text)) <= 0)
		return -1;
	line = strstr(text, key);
	return line ? atoll(line + strlen(key)) * 1000 : -1;
}

/* Times so far, in ns, while all workers are asleep. */
struct account {
	long long real;		/* of the workers' threads */
	long long own;		/* of this process */
	long long a, b;		/* usage of the groups */
	long long a_system, b_system;
	long paid, unpaid;	/* by Ferry's counters */
	long others;
};

static void account(FIXTURE_DATA(who_pays) * self, struct account *t)
{
	int i;

	ferry_wait(ferry_workers_asleep, NULL, 10000);
	memset(t, 0, sizeof(*t));
	for (i = 0; i < self->nr; i++)
		t->real += ran_ns(self->workers[i]);
	/* Reading our own time brings the time of our group up to date. */
	t->own = ran_ns(0);
	t->a = cpu_stat(self->a, "usage_usec ");
	t->b = cpu_stat(self->b, "usage_usec ");
	t->a_system = cpu_stat(self->a, "system_usec ");
	t->b_system = cpu_stat(self->b, "system_usec ");
	t->paid = ferry_stat("worker_ns");
	t->unpaid = ferry_stat("worker_unpaid_ns");
	t->others = ferry_stat("chunks_by_others");
}

/* Adds the difference between two accounts to @sum. */
static void add(struct account *sum, const struct account *from, const struct account *to)
{
	sum->real += to->real - from->real;
	sum->own += to->own - from->own;
	sum->a += to->a - from->a;
	sum->b += to->b - from->b;
	sum->a_system += to->a_system - from->a_system;
	sum->b_system += to->b_system - from->b_system;
	sum->paid += to->paid - from->paid;
	sum->unpaid += to->unpaid - from->unpaid;
	sum->others += to->others - from->others;
}

static void say(const char *what, const struct account *t)
{
	ferry_note("%s: workers ran %lld us; a used %lld (system %lld), b %lld (%lld), we %lld",
		   what, t->real / 1000, t->a / 1000, t->a_system / 1000, t->b / 1000,
		   t->b_system / 1000, t->own / 1000);
	ferry_note("%s: worker_ns %ld us, worker_unpaid_ns %ld, %ld chunks by workers", what,
		   t->paid / 1000, t->unpaid / 1000, t->others);
}

/*
 * Moves 4K and 2M folios there and back in group @path (NULL: the root), until workers have
 * run for @ns more, or for @moves of them without a migrator. Adds the cost to @sum.
 */
static void moves(struct __test_metadata *_metadata, FIXTURE_DATA(who_pays) * self,
		  const char *path, long long ns, int moves, struct account *sum)
{
	u64 end = ferry_now_ns() + LIMIT_MS * 1000000ULL;
	struct account before, after;
	size_t folio;
	int i;

	ASSERT_EQ(0, ferry_cgroup_enter(path, 0));
	account(self, &before);
	do {
		for (i = 0; i < moves; i++, self->gen++) {
			folio = self->gen & 2 ? FERRY_PMD : FERRY_PAGE;
			if (!(self->gen & 1))
				ASSERT_EQ(0, race_fresh(self->mem, LEN, folio, self->nodes[0]));
			ferry_fill(self->mem, LEN, 20, self->gen);
			ASSERT_EQ(0, ferry_move_range(self->mem, LEN, folio,
						      self->nodes[!(self->gen & 1)], NULL));
			ASSERT_EQ(0, ferry_verify(self->mem, LEN, 20, self->gen));
		}
		account(self, &after);
	} while (ferry_active() && after.real - before.real < ns && ferry_now_ns() < end);
	add(sum, &before, &after);
	ASSERT_EQ(0, ferry_cgroup_enter(NULL, 0));
}

/*
 * Returns true if @is agrees with the time that workers ran (@real), with @ends beginnings
 * and ends of measurements.
 */
static bool agree(FIXTURE_DATA(who_pays) * self, long long is, long long real, int ends)
{
	long long off = real / TOLERANCE + ends * (self->nr * SPIN_NS + READ_NS);

	return is >= real - off && is <= real + off;
}

TEST_F(who_pays, the_group_that_migrates)
{
	long long enough = ferry_short() ? PHASE_NS : ENOUGH_NS;
	struct account t;
	bool good = false;
	int i;

	for (i = 0; i < TRIES && !good; i++) {
		memset(&t, 0, sizeof(t));
		moves(_metadata, self, self->a, enough, 4, &t);
		say("a", &t);
		good = agree(self, t.a - t.own, t.real, 1) &&
		       agree(self, t.paid + t.unpaid, t.real, 1) &&
		       agree(self, t.a - t.own, t.paid, 1);
		EXPECT_LE(t.b, 0);
	}
	EXPECT_TRUE(good);
	if (!ferry_active())
		return;
	EXPECT_GT(t.others, 0);
	EXPECT_GE(t.real, enough);
	/* Workers use system time; user time is the process's own. */
	EXPECT_LE(t.a - t.a_system, t.own + t.real / TOLERANCE);
}

/* Each group pays for its own migrations in turn. */
TEST_F(who_pays, two_groups)
{
	struct account in_a, in_b;
	int i, k, iters = ferry_iters(4, 2);
	bool good = false;

	for (i = 0; i < TRIES && !good; i++) {
		memset(&in_a, 0, sizeof(in_a));
		memset(&in_b, 0, sizeof(in_b));
		for (k = 0; k < iters; k++) {
			moves(_metadata, self, self->a, PHASE_NS, 4, &in_a);
			moves(_metadata, self, self->b, PHASE_NS, 2, &in_b);
		}
		say("while a migrates", &in_a);
		say("while b migrates", &in_b);
		good = agree(self, in_a.a - in_a.own, in_a.real, iters) &&
		       agree(self, in_b.b - in_b.own, in_b.real, iters);
		EXPECT_LE(in_a.b, 0);
		EXPECT_LE(in_b.a, 0);
	}
	EXPECT_TRUE(good);
}

/* The root's tasks have workers, and no group pays for them. */
TEST_F(who_pays, not_for_the_root)
{
	struct account t;
	bool good = false;
	int i;

	for (i = 0; i < TRIES && !good; i++) {
		memset(&t, 0, sizeof(t));
		moves(_metadata, self, NULL, PHASE_NS, 4, &t);
		say("root", &t);
		good = agree(self, t.paid + t.unpaid, t.real, 1);
		EXPECT_LE(t.a, 0);
		EXPECT_LE(t.b, 0);
	}
	EXPECT_TRUE(good);
	if (ferry_active())
		EXPECT_GT(t.others, 0);
}

/* cgroup_workers limits the workers of groups, and no others. */
TEST_F(who_pays, helpers_of_groups_are_limited)
{
	struct account t = {};
	struct race_count c;

	if (!ferry_active())
		SKIP(return, "needs a migrator");
	ASSERT_EQ(0, ferry_set_knob("cgroup_workers", "0"));
	race_count(&c);
	moves(_metadata, self, self->a, 0, 8, &t);
	race_count_end(&c);
	say("none", &t);
	EXPECT_EQ(0, race_grown(&c, "workers_woken"));
	EXPECT_EQ(0, t.others);
	EXPECT_EQ(0, t.paid);

	memset(&t, 0, sizeof(t));
	moves(_metadata, self, NULL, PHASE_NS / 10, 4, &t);
	say("root", &t);
	EXPECT_GT(t.others, 0);

	/* One worker for each batch and each folio in place, of 2M at most. */
	ASSERT_EQ(0, ferry_set_knob("cgroup_workers", "1"));
	memset(&t, 0, sizeof(t));
	race_count(&c);
	moves(_metadata, self, self->a, PHASE_NS / 10, 4, &t);
	race_count_end(&c);
	say("one", &t);
	EXPECT_GT(t.others, 0);
	EXPECT_LE(race_grown(&c, "workers_woken"),
		  race_grown(&c, "batches") + race_grown(&c, "folios_in_place"));
}

TEST_HARNESS_MAIN
