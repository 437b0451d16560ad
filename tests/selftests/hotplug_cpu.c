// SPDX-License-Identifier: GPL-2.0
/*
 * CPUs go off and come back, also all of a node, while processes migrate folios of every
 * size, the migrator is switched, and the module is removed and loaded. No byte is lost, no
 * task hangs, and afterwards each CPU has its worker again.
 *
 * The next CPU and its time are random; the seed is printed. At most one CPU changes in a
 * second, because of QEMU: one of 1393 CPUs that came online under TCG was sent back to the
 * beginning of its start-up code after it had finished it (CS:IP of the start-up interrupt,
 * in protected mode, in start_secondary()).
 */
#include <dirent.h>
#include <sched.h>

#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"

#define LEN		(4UL << 20)
#define MAX_CPUS	64
#define CPU_DIR		"/sys/devices/system/cpu/"
#define LATEST_MS	300000

static const unsigned int sizes[] = { 4, 16, 32, 64, 128, 256, 512, 1024, 2048 };

/* Memory that the processes share. */
struct shared {
	pthread_mutex_t thp;	/* held to make folios, because the THP switches are global */
	bool stop;
	struct {
		long rounds[ARRAY_SIZE(sizes)];
		size_t bad;
		int error;
	} mover[4];
};

FIXTURE(hotplug_cpu)
{
	int nodes[FERRY_MAX_NODES];
	int cpus[MAX_CPUS];
	int nr;
	unsigned int seed;
	pid_t pids[4];
	struct shared *shared;
};

FIXTURE_SETUP(hotplug_cpu)
{
	int list[MAX_CPUS], n, i;
	char path[80];

	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	n = ferry_list(CPU_DIR "online", list, MAX_CPUS);
	for (i = 0; i < n; i++) {
		snprintf(path, sizeof(path), CPU_DIR "cpu%d/online", list[i]);
		if (!access(path, W_OK))
			self->cpus[self->nr++] = list[i];
	}
	if (!self->nr)
		SKIP(return, "needs a CPU that can go offline");
	ASSERT_EQ(0, race_prepare(self->nodes));
	ferry_pin_cpu(-1);
	self->shared = mmap(NULL, sizeof(*self->shared), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->shared);
	self->seed = ferry_now_ns();
	ferry_note("seed %u", self->seed);
}

static void set_cpu(struct __test_metadata *_metadata, int cpu, bool on)
{
	u64 end = ferry_now_ns() + 60000000000ULL;
	char path[80];
	int ret;

	snprintf(path, sizeof(path), CPU_DIR "cpu%d/online", cpu);
	/* -EBUSY while another task has CPU hotplug disabled. */
	do
		ret = ferry_set(path, "%d", on);
	while (ret == -EBUSY && ferry_now_ns() < end);
	ASSERT_EQ(0, ret);
}

FIXTURE_TEARDOWN(hotplug_cpu)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(self->pids); i++)
		if (self->pids[i] > 0) {
			kill(self->pids[i], SIGKILL);
			waitpid(self->pids[i], NULL, 0);
		}
	/* Values can be restored only if there is a module. */
	if (access(FERRY_SYSCTL, F_OK))
		race_load();
	ferry_restore();
	ferry_write(FERRY_SYSCTL "migrator", "%s", ferry_migrator());
}

static bool stopped(struct shared *s)
{
	return __atomic_load_n(&s->stop, __ATOMIC_RELAXED);
}

/* Moves folios of one size after the other back and forth; the kernel splits some of them. */
static void mover(struct shared *s, const int *nodes, int me)
{
	int i = me * 2 % ARRAY_SIZE(sizes), k, ret;
	u64 gen = 0;
	char *mem;

	mem = ferry_map_anon(LEN, FERRY_PMD);
	if (mem == MAP_FAILED)
		s->mover[me].error = -ENOMEM;
	for (; mem != MAP_FAILED && !stopped(s); i = (i + 1) % ARRAY_SIZE(sizes)) {
		pthread_mutex_lock(&s->thp);
		ret = race_fresh(mem, LEN, sizes[i] << 10, nodes[0]);
		pthread_mutex_unlock(&s->thp);
		if (ret) {
			s->mover[me].error = ret;
			break;
		}
		for (k = 0; k < 4; k++) {
			ferry_fill(mem, LEN, me, ++gen);
			race_move_pages(mem, LEN, k ? FERRY_PAGE : sizes[i] << 10, nodes[!(k & 1)]);
			s->mover[me].bad += ferry_verify(mem, LEN, me, gen);
		}
		s->mover[me].rounds[i]++;
	}
	_exit(0);
}

static void movers_start(struct __test_metadata *_metadata, FIXTURE_DATA(hotplug_cpu) * self)
{
	pthread_mutexattr_t attr;
	int i;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(&self->shared->thp, &attr);
	for (i = 0; i < ARRAY_SIZE(self->pids); i++) {
		self->pids[i] = fork();
		if (!self->pids[i]) {
			/* This process has to be driven off its only CPU. */
			if (!i)
				ferry_pin_cpu(self->cpus[0]);
			mover(self->shared, self->nodes, i);
		}
		ASSERT_GT(self->pids[i], 0);
	}
}

/* Returns true if each process has been through every size at least once. */
static bool all_sizes(void *arg)
{
	struct shared *s = arg;
	int i, k;

	for (i = 0; i < ARRAY_SIZE(s->mover); i++)
		for (k = 0; k < ARRAY_SIZE(sizes); k++)
			if (!s->mover[i].rounds[k] && !s->mover[i].error)
				return false;
	return true;
}

/* Stops the processes. Each has to end within one round. */
static void movers_end(struct __test_metadata *_metadata, FIXTURE_DATA(hotplug_cpu) * self)
{
	u64 end = ferry_now_ns() + LATEST_MS * 1000000ULL;
	long rounds = 0;
	int i, k, status;
	pid_t pid;

	__atomic_store_n(&self->shared->stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < ARRAY_SIZE(self->pids); i++) {
		while (!(pid = waitpid(self->pids[i], &status, WNOHANG)) &&
		       ferry_now_ns() < end)
			ferry_sleep_ms(10);
		ASSERT_EQ(self->pids[i], pid)
			TH_LOG("process %d hangs", i);
		self->pids[i] = 0;
		EXPECT_EQ(0, status);
		EXPECT_EQ(0, self->shared->mover[i].error);
		EXPECT_EQ(0, self->shared->mover[i].bad);
		for (k = 0; k < ARRAY_SIZE(sizes); k++)
			rounds += self->shared->mover[i].rounds[k];
	}
	ferry_note("%ld rounds of 4 moves", rounds);
}

/* Turns a random CPU off or on; each seventh time all CPUs go off and come back. */
static void toggle(struct __test_metadata *_metadata, FIXTURE_DATA(hotplug_cpu) * self,
		   bool *off, long turn)
{
	int i = rand_r(&self->seed) % self->nr;

	if (turn % 7) {
		off[i] = !off[i];
		set_cpu(_metadata, self->cpus[i], !off[i]);
		return;
	}
	for (i = 0; i < self->nr; i++)
		set_cpu(_metadata, self->cpus[i], false);
	ferry_sleep_ms(20);
	for (i = 0; i < self->nr; i++) {
		set_cpu(_metadata, self->cpus[i], true);
		off[i] = false;
	}
}

static long chunks_of(const struct ferry_worker *w, int n, int cpu)
{
	while (n--)
		if (w[n].cpu == cpu)
			return w[n].chunks;
	return -1;
}

/*
 * Expects that all CPUs are there again, with a worker on each, and that each worker gets
 * work.
 */
static void as_before(struct __test_metadata *_metadata, FIXTURE_DATA(hotplug_cpu) * self)
{
	struct ferry_worker before[MAX_CPUS], after[MAX_CPUS];
	u64 end = ferry_now_ns() + LATEST_MS * 1000000ULL;
	int i, n, online[MAX_CPUS], helped;
	char *mem;

	for (i = 0; i < self->nr; i++)
		set_cpu(_metadata, self->cpus[i], true);
	if (strcmp(ferry_migrator(), "cpu"))
		return;
	EXPECT_TRUE(ferry_wait(race_none_parked, NULL, 30000));
	EXPECT_TRUE(ferry_wait(race_pool_whole, NULL, 30000));
	n = ferry_workers(before, MAX_CPUS);
	EXPECT_LE(ferry_list(CPU_DIR "online", online, MAX_CPUS), n);
	mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, mem);
	/*
	 * The mover is on a CPU that stays, so that workers on the CPUs that came back are
	 * free.
	 */
	ferry_pin_cpu(ferry_node_cpu(self->nodes[0]));
	ASSERT_EQ(0, ferry_inject("delay_after_submit_us", 20000));
	ASSERT_EQ(0, ferry_inject("delay_in_chunk_us", 1000));
	do {
		ASSERT_EQ(0, race_fresh(mem, LEN, FERRY_PAGE, self->nodes[0]));
		ferry_fill(mem, LEN, 9, 9);
		ASSERT_EQ(0, ferry_move_range(mem, LEN, FERRY_PAGE, self->nodes[1], NULL));
		ASSERT_EQ(0, ferry_verify(mem, LEN, 9, 9));
		ASSERT_EQ(n, ferry_workers(after, MAX_CPUS));
		helped = 0;
		for (i = 0; i < self->nr; i++)
			helped += chunks_of(after, n, self->cpus[i]) >
				  chunks_of(before, n, self->cpus[i]);
	} while (helped < self->nr && ferry_now_ns() < end);
	EXPECT_EQ(self->nr, helped);
	munmap(mem, LEN);
}

TEST_F(hotplug_cpu, while_processes_migrate)
{
	u64 end = ferry_now_ns() + 20 * 1000000000ULL;
	u64 latest = ferry_now_ns() + LATEST_MS * 1000000ULL;
	long before = ferry_stat("chunks_by_others"), turn;
	bool off[MAX_CPUS] = {};

	movers_start(_metadata, self);
	for (turn = 1; ferry_now_ns() < end ||
	     (!all_sizes(self->shared) && ferry_now_ns() < latest); turn++) {
		toggle(_metadata, self, off, turn);
		ferry_sleep_ms(500 + rand_r(&self->seed) % 1000);
	}
	movers_end(_metadata, self);
	EXPECT_TRUE(all_sizes(self->shared));
	ferry_note("%ld changes, %ld chunks by workers", turn,
		   ferry_stat("chunks_by_others") - before);
	if (ferry_active())
		EXPECT_GT(ferry_stat("chunks_by_others"), before);
	as_before(_metadata, self);
}

TEST_F(hotplug_cpu, switches_and_rmmod_in_between)
{
	u64 end = ferry_now_ns() + ferry_iters(30, 15) * 1000000000ULL;
	u64 latest = ferry_now_ns() + LATEST_MS * 1000000ULL;
	int switches = 0, loads = 0, ret;
	bool off[MAX_CPUS] = {};
	long turn;

	if (!ferry_loaded())
		SKIP(return, "needs ferry.ko");
	movers_start(_metadata, self);
	for (turn = 1; ferry_now_ns() < end ||
	     (getenv("FERRY_MODULE") && loads < 3 && ferry_now_ns() < latest); turn++) {
		/* Also while CPUs are off. */
		toggle(_metadata, self, off, turn);
		if (turn % 2) {
			ASSERT_EQ(0, ferry_write(FERRY_SYSCTL "migrator", "off"));
			ASSERT_EQ(0, ferry_write(FERRY_SYSCTL "migrator", "%s",
						 ferry_migrator()));
			switches++;
		} else if (getenv("FERRY_MODULE")) {
			ret = race_unload();
			if (ret == -EAGAIN || ret == -EBUSY)
				continue;
			ASSERT_EQ(0, ret);
			ASSERT_EQ(0, race_load());
			ASSERT_EQ(0, ferry_write(FERRY_SYSCTL "migrator", "%s",
						 ferry_migrator()));
			loads++;
		}
	}
	movers_end(_metadata, self);
	ferry_note("%ld changes, %d switches, %d loads", turn, switches, loads);
	EXPECT_GT(switches, 2);
	if (getenv("FERRY_MODULE"))
		EXPECT_GT(loads, 2);
	as_before(_metadata, self);
}

TEST_HARNESS_MAIN
