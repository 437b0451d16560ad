// SPDX-License-Identifier: GPL-2.0
/*
 * Workers run on CPUs of the destination's node first, or of the source's (cpu_node), on each
 * last-level cache before a second one shares a cache; never on the mover's CPU, on an
 * offline CPU or on an isolated one.
 *
 * The expectation comes from sysfs. Workers that must not copy have copied no chunk; workers
 * that should copy have copied most of the chunks over many rounds, because on a busy host
 * any CPU may not be idle when its worker is called. The mover sleeps after each submit
 * (delay_after_submit_us), so that workers have the time that their virtual CPUs take to
 * come, if they share the real ones. The manifest sets the shape of the machine; several of
 * its lines are for this program.
 *
 * Seen red, in scratch copies: with every CPU taken for usable and idle (kapi/topology.rs),
 * workers of CPUs that were offline, isolated or busy copied, on other CPUs than their own;
 * with a worker passing a batch on to itself (Team::give()) the second one never copied.
 */
#include <dirent.h>
#include <signal.h>

#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"

#define LEN		(2UL << 20)
#define MAX_CPUS	64
#define CPU_DIR		"/sys/devices/system/cpu/"
/* Chunks by workers that are enough to judge by. */
#define ENOUGH		40
/* Attempts, because in each one another worker may have copied, if one was not idle. */
#define TRIES		12
#define ROUND_MS	60000

struct topology {
	int nr;
	bool online[MAX_CPUS];
	bool barred[MAX_CPUS];	/* isolated, or busy */
	int node[MAX_CPUS];
	int llc[MAX_CPUS];	/* the first CPU that shares the last-level cache */
	int core[MAX_CPUS];	/* the first CPU of the core */
};

static int first_of(const char *fmt, int cpu)
{
	char path[128];
	int first;

	snprintf(path, sizeof(path), fmt, cpu);
	return ferry_list(path, &first, 1) ? first : cpu;
}

static void topology_read(struct topology *t)
{
	int list[MAX_CPUS], nodes[FERRY_MAX_NODES], n, i, k, nr;
	char path[128];

	memset(t, 0, sizeof(*t));
	t->nr = ferry_list(CPU_DIR "possible", list, MAX_CPUS);
	n = ferry_list(CPU_DIR "online", list, MAX_CPUS);
	for (i = 0; i < n; i++) {
		t->online[list[i]] = true;
		t->llc[list[i]] = first_of(CPU_DIR "cpu%d/cache/index3/shared_cpu_list",
					   list[i]);
		t->core[list[i]] = first_of(CPU_DIR "cpu%d/topology/thread_siblings_list",
					    list[i]);
	}
	n = ferry_list(CPU_DIR "isolated", list, MAX_CPUS);
	for (i = 0; i < n; i++)
		t->barred[list[i]] = true;
	/* The file does not exist without CONFIG_NO_HZ_FULL. */
	n = ferry_list(CPU_DIR "nohz_full", list, MAX_CPUS);
	for (i = 0; i < n; i++)
		t->barred[list[i]] = true;
	nr = ferry_list("/sys/devices/system/node/has_cpu", nodes, FERRY_MAX_NODES);
	for (i = 0; i < nr; i++) {
		snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/cpulist",
			 nodes[i]);
		n = ferry_list(path, list, MAX_CPUS);
		for (k = 0; k < n; k++)
			t->node[list[k]] = nodes[i];
	}
}

static bool usable(const struct topology *t, int cpu)
{
	return cpu < t->nr && t->online[cpu] && !t->barred[cpu];
}

FIXTURE(placement)
{
	int nodes[FERRY_MAX_NODES];
	int nr_nodes;
	struct topology topo;
	struct ferry_worker w[MAX_CPUS];
	int nr;
	char group[256];
	char *mem;
};

/* Makes the workers anew, with the topology that the scheduler has now. */
static int renew(FIXTURE_DATA(placement) * self)
{
	int ret = ferry_write(FERRY_SYSCTL "migrator", "off");

	if (!ret)
		ret = ferry_write(FERRY_SYSCTL "migrator", "%s", ferry_migrator());
	topology_read(&self->topo);
	self->nr = ferry_workers(self->w, MAX_CPUS);
	return ret;
}

FIXTURE_SETUP(placement)
{
	self->mem = MAP_FAILED;
	if (strcmp(ferry_migrator(), "cpu"))
		SKIP(return, "needs the CPU migrator");
	self->nr_nodes = ferry_mem_nodes(self->nodes);
	if (self->nr_nodes < 2)
		SKIP(return, "needs two nodes with memory");
	ASSERT_EQ(0, race_prepare(self->nodes));
	/* The stock kernel copies for migrations that the kernel begins itself. */
	ASSERT_EQ(0, ferry_set_knob("reasons", "syscall"));
	/*
	 * A chunk takes so long that one worker cannot take them all before the next one
	 * comes.
	 */
	ASSERT_EQ(0, ferry_inject("delay_after_submit_us", 20000));
	ASSERT_EQ(0, ferry_inject("delay_in_chunk_us", 1000));
	ASSERT_EQ(0, renew(self));
	self->mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
}

FIXTURE_TEARDOWN(placement)
{
	if (self->mem != MAP_FAILED)
		munmap(self->mem, LEN);
	if (self->group[0])
		ferry_cgroup_remove(self->group);
	ferry_restore();
}

/*
 * Expects one worker for each CPU, in an order in which caches take turns and the second
 * threads of cores come last.
 */
static void check_order(struct __test_metadata *_metadata, FIXTURE_DATA(placement) * self)
{
	const struct topology *t = &self->topo;
	int rank[MAX_CPUS] = {}, last = -1, i, k, a, b, before = 0;
	bool thread[MAX_CPUS] = {};

	EXPECT_EQ(t->nr, self->nr);
	for (i = 0; i < self->nr; i++) {
		a = self->w[i].cpu;
		for (k = 0; k < i; k++)
			EXPECT_NE(self->w[k].cpu, a);
		EXPECT_LE(i ? self->w[i - 1].node : -1, self->w[i].node);
		if (!usable(t, a))
			continue;
		EXPECT_EQ(t->node[a], self->w[i].node);
		for (k = 0; k < i; k++) {
			b = self->w[k].cpu;
			if (!usable(t, b))
				continue;
			EXPECT_EQ(t->llc[a] == t->llc[b], self->w[i].llc == self->w[k].llc);
			if (t->llc[a] != t->llc[b] || t->node[a] != t->node[b])
				continue;
			rank[i]++;
			thread[i] |= t->core[a] == t->core[b];
			EXPECT_FALSE(thread[k] && t->core[a] != t->core[b] && !thread[i]);
		}
		if (t->node[a] != last)
			before = 0;
		/* A cache's second worker comes after the first workers of all other caches. */
		EXPECT_LE(before, rank[i])
			TH_LOG("CPU %d comes too late", a);
		before = rank[i];
		last = t->node[a];
	}
}

TEST_F(placement, order_follows_the_topology)
{
	check_order(_metadata, self);
}

/*
 * Lists the CPUs whose workers are called for folios that move from one node to another, the
 * best one first. @first is the preferred node. Returns their number.
 */
static int expected(FIXTURE_DATA(placement) * self, int first, int second, int mover, int *out)
{
	const struct topology *t = &self->topo;
	int rank, near, n = 0, i, cpu;

	for (rank = 0; rank < 3; rank++)
		for (near = 0; near < 3; near++)
			for (i = 0; i < self->nr; i++) {
				cpu = self->w[i].cpu;
				if (!usable(t, cpu) || cpu == mover)
					continue;
				if (rank != (t->node[cpu] == first ? 0 :
					     t->node[cpu] == second ? 1 : 2))
					continue;
				if (near != (t->core[cpu] == t->core[mover] ? 2 :
					     t->llc[cpu] == t->llc[mover] ? 1 : 0))
					continue;
				out[n++] = cpu;
			}
	return n;
}

struct move {
	int from;
	int to;
	int mover;
};

/* Chunks that the workers of the CPUs have copied. */
struct tally {
	long by[MAX_CPUS];
	long all;
};

static void tally(struct tally *t)
{
	struct ferry_worker w[MAX_CPUS];
	int n = ferry_workers(w, MAX_CPUS), i;

	memset(t, 0, sizeof(*t));
	for (i = 0; i < n; i++) {
		t->by[w[i].cpu] = w[i].chunks;
		t->all += w[i].chunks;
	}
}

/* Returns the CPU on which a worker's thread ran last, or -1 if the thread is not found. */
static int ran_on(int cpu)
{
	char name[64], path[300], line[512], *p;
	struct dirent *e;
	int at = -1, i;
	DIR *d;

	snprintf(name, sizeof(name), "(ferry/%d)", cpu);
	d = opendir("/proc");
	while (d && at < 0 && (e = readdir(d))) {
		snprintf(path, sizeof(path), "/proc/%s/stat", e->d_name);
		if (!isdigit((unsigned char)e->d_name[0]) ||
		    ferry_read(path, line, sizeof(line)) <= 0 || !strstr(line, name))
			continue;
		/* The second field ends with the last parenthesis; the CPU is the 39th. */
		p = strrchr(line, ')');
		for (i = 2; p && i < 39; i++)
			p = strchr(p + 1, ' ');
		at = p ? atoi(p + 1) : -1;
	}
	if (d)
		closedir(d);
	return at;
}

/*
 * Moves 4K folios until workers have copied @enough chunks, or ROUND_MS have passed. Expects
 * that only permitted workers have copied, each on its own CPU.
 */
static void moves(struct __test_metadata *_metadata, FIXTURE_DATA(placement) * self,
		  const struct move *m, long enough, struct tally *grown)
{
	u64 end = ferry_now_ns() + ROUND_MS * 1000000ULL;
	struct tally before;
	int i, gen = 0;

	ferry_pin_cpu(m->mover);
	tally(&before);
	do {
		ASSERT_EQ(0, race_fresh(self->mem, LEN, FERRY_PAGE, m->from));
		ferry_fill(self->mem, LEN, 1, gen);
		ASSERT_EQ(0, ferry_move_range(self->mem, LEN, FERRY_PAGE, m->to, NULL));
		ASSERT_EQ(0, ferry_verify(self->mem, LEN, 1, gen));
		gen++;
		tally(grown);
	} while (grown->all - before.all < enough && ferry_now_ns() < end);
	grown->all -= before.all;
	for (i = 0; i < self->topo.nr; i++) {
		grown->by[i] -= before.by[i];
		if (!grown->by[i])
			continue;
		EXPECT_NE(m->mover, i);
		EXPECT_TRUE(usable(&self->topo, i))
			TH_LOG("CPU %d was not to be used", i);
		EXPECT_EQ(i, ran_on(i));
	}
}

static long most(const struct tally *t, const int *cpus, int n)
{
	long sum = 0;

	while (n--)
		sum += t->by[cpus[n]];
	return sum;
}

static void say(const struct move *m, const char *what, const struct tally *t, const int *want,
		int n)
{
	char by[256] = "", is[64] = "";
	int i;

	for (i = 0; i < MAX_CPUS; i++)
		if (t->by[i])
			snprintf(by + strlen(by), sizeof(by) - strlen(by), " %d:%ld", i, t->by[i]);
	for (i = 0; i < n; i++)
		snprintf(is + strlen(is), sizeof(is) - strlen(is), " %d", want[i]);
	ferry_note("node %d to %d, mover on CPU %d, %s: workers wanted on CPUs%s, chunks by CPU%s",
		   m->from, m->to, m->mover, what, is, by);
}

/* With @n workers allowed, the first @n that are expected copy most of the chunks. */
static void first_ones_copy(struct __test_metadata *_metadata, FIXTURE_DATA(placement) * self,
			    const struct move *m, bool source_first, int n)
{
	int want[MAX_CPUS], have, i;
	struct tally t;
	bool good;

	have = expected(self, source_first ? m->from : m->to, source_first ? m->to : m->from,
			m->mover, want);
	if (n > have)
		n = have;
	if (!n)
		return;
	ASSERT_EQ(0, ferry_set_knob("cpu_node", source_first ? "source" : "destination"));
	ASSERT_EQ(0, ferry_set_knob("cpu_workers", "%d", n));
	for (i = 0, good = false; i < TRIES && !good; i++) {
		moves(_metadata, self, m, ENOUGH, &t);
		say(m, source_first ? "source first" : "destination first", &t, want, n);
		good = t.all >= ENOUGH && most(&t, want, n) * 2 > t.all &&
		       (n != 2 || (t.by[want[0]] && t.by[want[1]]));
	}
	EXPECT_TRUE(good);
}

/* The first, second and last node with memory, with the mover on either end, or on CPU 0. */
TEST_F(placement, destination_or_source_first)
{
	int last = self->nodes[self->nr_nodes - 1], i, n, cpu;
	int ends[][2] = {
		{ self->nodes[0], self->nodes[1] },
		{ self->nodes[1], self->nodes[0] },
		{ self->nodes[0], last },
		{ last, self->nodes[1] },
	};
	struct move m;

	for (i = 0; i < (last == self->nodes[1] ? 2 : 4); i++) {
		m.from = ends[i][0];
		m.to = ends[i][1];
		for (n = 0; n < 2; n++) {
			cpu = ferry_node_cpu(ends[i][n]);
			m.mover = cpu < 0 ? 0 : cpu;
			first_ones_copy(_metadata, self, &m, false, 1);
			first_ones_copy(_metadata, self, &m, true, 1);
			if (!n || !ferry_short())
				first_ones_copy(_metadata, self, &m, false, 2);
		}
	}
	/* All CPUs at once. */
	first_ones_copy(_metadata, self, &m, false, self->topo.nr - 1);
}

/*
 * Chooses the mover's place, and the CPU of the worker that is called first, if that CPU can
 * go offline. Returns false if there is none.
 */
static bool victim(FIXTURE_DATA(placement) * self, struct move *m, int *cpu)
{
	int nodes[FERRY_MAX_NODES], want[MAX_CPUS];

	if (ferry_cpu_nodes(nodes) < 2)
		return false;
	m->from = nodes[0];
	m->to = nodes[1];
	m->mover = ferry_node_cpu(nodes[0]);
	return expected(self, m->to, m->from, m->mover, want) && (*cpu = want[0]) > 0;
}

/*
 * Lets workers notice that CPUs have come or gone: they look when they go to sleep, a second
 * after the last look.
 */
static void settle(struct __test_metadata *_metadata, FIXTURE_DATA(placement) * self,
		   const struct move *m)
{
	struct tally t;

	moves(_metadata, self, m, 1, &t);
	ferry_sleep_ms(1100);
	moves(_metadata, self, m, 1, &t);
	ASSERT_TRUE(ferry_wait(ferry_workers_asleep, NULL, 10000));
	self->nr = ferry_workers(self->w, MAX_CPUS);
	check_order(_metadata, self);
}

/* Expects that a worker of @cpu copies again, soon. */
static void comes_back(struct __test_metadata *_metadata, FIXTURE_DATA(placement) * self,
		       const struct move *m, int cpu)
{
	u64 end = ferry_now_ns() + ROUND_MS * 1000000ULL;
	struct tally t;

	topology_read(&self->topo);
	settle(_metadata, self, m);
	ASSERT_EQ(0, ferry_set_knob("cpu_node", "destination"));
	do
		moves(_metadata, self, m, 1, &t);
	while (!t.by[cpu] && ferry_now_ns() < end);
	EXPECT_GT(t.by[cpu], 0);
	first_ones_copy(_metadata, self, m, false, 1);
}

/* While a CPU is offline its worker does nothing. */
TEST_F(placement, offline)
{
	char path[80];
	int iters = ferry_iters(3, 1), cpu;
	struct move m;

	if (!victim(self, &m, &cpu))
		SKIP(return, "needs two nodes with CPUs, and one that can go offline");
	snprintf(path, sizeof(path), CPU_DIR "cpu%d/online", cpu);
	while (iters--) {
		first_ones_copy(_metadata, self, &m, false, 1);
		ASSERT_EQ(0, ferry_set(path, "0"));
		topology_read(&self->topo);
		ASSERT_FALSE(usable(&self->topo, cpu));
		/* moves() fails if a worker of an offline CPU copied. */
		settle(_metadata, self, &m);
		first_ones_copy(_metadata, self, &m, false, 1);
		first_ones_copy(_metadata, self, &m, true, 1);
		ASSERT_EQ(0, ferry_write(path, "1"));
		comes_back(_metadata, self, &m, cpu);
	}
}

/* The worker of a CPU in an isolated partition does nothing either. */
TEST_F(placement, isolated_partition)
{
	char path[300], text[64];
	struct move m;
	int cpu;

	if (!victim(self, &m, &cpu))
		SKIP(return, "needs two nodes with CPUs");
	ASSERT_EQ(0, ferry_cgroup_create("ferry-isolated", "+cpuset", self->group));
	first_ones_copy(_metadata, self, &m, false, 1);
	snprintf(path, sizeof(path), "%s/cpuset.cpus", self->group);
	ASSERT_EQ(0, ferry_write(path, "%d", cpu));
	snprintf(path, sizeof(path), "%s/cpuset.cpus.partition", self->group);
	ASSERT_EQ(0, ferry_write(path, "isolated"));
	ASSERT_LT(0, ferry_read(path, text, sizeof(text)));
	ASSERT_STREQ("isolated", text);
	self->topo.barred[cpu] = true;
	settle(_metadata, self, &m);
	first_ones_copy(_metadata, self, &m, false, 1);
	first_ones_copy(_metadata, self, &m, true, 1);
	ASSERT_EQ(0, ferry_write(path, "member"));
	comes_back(_metadata, self, &m, cpu);
}

/* The worker of a CPU that runs another task does nothing either. */
TEST_F(placement, busy)
{
	struct move m;
	struct tally t;
	pid_t pid;
	int cpu;

	if (!victim(self, &m, &cpu))
		SKIP(return, "needs two nodes with CPUs");
	pid = fork();
	if (!pid) {
		ferry_pin_cpu(cpu);
		for (;;)
			;
	}
	ASSERT_GT(pid, 0);
	/* The process has got there, and a worker that was looking for work has gone to sleep. */
	ferry_sleep_ms(500);
	self->topo.barred[cpu] = true;
	moves(_metadata, self, &m, ENOUGH, &t);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	comes_back(_metadata, self, &m, cpu);
}

TEST_HARNESS_MAIN
