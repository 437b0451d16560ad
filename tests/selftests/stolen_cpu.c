// SPDX-License-Identifier: GPL-2.0
/*
 * Invariant: I15
 *
 * A mover that must not block goes on when the virtual CPU of a worker is taken away.
 *
 * Reclaim demotes a group's memory; its mover sleeps after the submit
 * (delay_after_submit_us), and the worker holds a chunk that it has claimed for less than
 * that (delay_in_chunk_us): as long as its CPU runs, the chunk is done before the mover comes
 * to it. Meanwhile the program tells QEMU, by its gdb server (scripts/vm --gdb), to stop all
 * virtual CPUs and to let all but the worker's go on. So the worker's CPU is away in the
 * middle of a chunk, and neither the kernel nor Ferry has been told. It comes back when this
 * program tells QEMU, not after a time.
 *
 * The test asserts an order: the mover returns while that CPU is away, having given up a wait
 * (waits_cut), with the folios for which it waited parked. After the CPU is back, nothing
 * stays parked and content is right. With a CPU that stays, the same migration gives up no
 * wait, unless the host takes that CPU away.
 *
 * A CPU is not taken while it is in an interrupt or the scheduler, where it may hold locks of
 * the kernel: then the stock kernel would stand still, too. The attempt is repeated until the
 * CPU is in ferry.ko. Everything else that this program and its mover need is on the other
 * CPU: interrupts of devices, timers (it does not get idle), and its own pages.
 *
 * Seen red, in a scratch copy: with Patience::Timeout for all batches the mover has not
 * returned after PATIENCE_MS.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <poll.h>
#include <sched.h>

#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"
#include "ports.h"

#define LEN		(1UL << 20)
#define TAKEN		(256UL << 10)
/* The worker's delay ends before the mover's. */
#define CHUNK_MS	1500
#define SUBMIT_MS	3000
/* The time after which the test gives the mover up, in ms; the mover needs far less. */
#define PATIENCE_MS	30000
#define ATTEMPTS	10

FIXTURE(stolen)
{
	int nodes[FERRY_MAX_NODES];
	int slow, cpu, gdb;
	unsigned long text, text_end;
	char group[256];
	char *mem;
};

/*
 * Before the harness forks: the test's memory has then never been used on the worker's CPU,
 * and unmapping it does not wait for that CPU.
 */
__attribute__((constructor)) static void stay(void)
{
	ferry_pin_cpu(0);
}

/* ---- QEMU's gdb server ---- */

/*
 * Stops all virtual CPUs, reads the registers of @cpu, and lets all but this one go on, or
 * all of them if @cpu is negative. One write, because QEMU carries its end out while all CPUs
 * stand.
 */
static int gdb_go_on(int fd, int cpu)
{
	char text[128], body[3][16];
	int n, i, k, bodies = 0, len;
	unsigned char sum;

	if (cpu >= 0) {
		/* gdb's threads are CPUs, counted from 1. */
		snprintf(body[bodies++], 16, "Hg%x", cpu + 1);
		snprintf(body[bodies++], 16, "g");
		snprintf(body[bodies++], 16, "vCont;c:%x", cpu == 0 ? 2 : 1);
	} else {
		snprintf(body[bodies++], 16, "vCont;c");
	}
	/*
	 * Acknowledges the last packet; if it has been acknowledged, this stops all CPUs as
	 * well.
	 */
	len = snprintf(text, sizeof(text), "+\003");
	for (i = 0; i < bodies; i++) {
		for (sum = 0, k = 0; body[i][k]; k++)
			sum += body[i][k];
		len += snprintf(text + len, sizeof(text) - len, "+$%s#%02x", body[i], sum);
	}
	n = write(fd, text, len);
	return n == len ? 0 : -EIO;
}

/* Returns the instruction pointer among the registers that QEMU has sent, or 0 without one. */
static unsigned long gdb_rip(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char text[16384], *from, *to, byte[3] = "";
	unsigned long rip = 0;
	size_t got = 0;
	ssize_t n;
	int i;

	/* Without sleeping, because timers may be those of the CPU that is away. */
	for (u64 end = ferry_now_ns() + 10000000000ULL; ferry_now_ns() < end;) {
		if (poll(&p, 1, 0) != 1)
			continue;
		n = read(fd, text + got, sizeof(text) - 1 - got);
		if (n <= 0)
			break;
		got += n;
		text[got] = '\0';
		for (from = text; (from = strchr(from, '$')); from = to) {
			to = strchr(++from, '#');
			if (!to)
				break;
			/* 16 registers of 8 bytes come before it. */
			if (to - from < 17 * 16)
				continue;
			for (i = 7; i >= 0; i--) {
				memcpy(byte, from + 16 * 16 + 2 * i, 2);
				rip = rip << 8 | strtoul(byte, NULL, 16);
			}
			return rip;
		}
	}
	return 0;
}

/* ---- the machine ---- */

/* Reads the addresses of ferry.ko's code. */
static bool module_text(unsigned long *from, unsigned long *to)
{
	char *text = ferry_read_all("/proc/modules"), *line, *next = text;
	unsigned long size, at;
	bool found = false;

	while (!found && (line = strsep(&next, "\n")))
		if (sscanf(line, "ferry %lu %*s %*s %*s 0x%lx", &size, &at) == 2) {
			*from = at;
			*to = at + size;
			found = at != 0;
		}
	free(text);
	return found;
}

/* Moves all interrupts of devices that can be moved to @cpu. */
static void interrupts_to(int cpu)
{
	char path[300];
	struct dirent *e;
	DIR *d = opendir("/proc/irq");
	int fd;

	while (d && (e = readdir(d))) {
		snprintf(path, sizeof(path), "/proc/irq/%.40s/smp_affinity_list", e->d_name);
		fd = isdigit((unsigned char)*e->d_name) ? open(path, O_WRONLY | O_CLOEXEC) : -1;
		if (fd < 0)
			continue;
		dprintf(fd, "%d\n", cpu);
		close(fd);
	}
	if (d)
		closedir(d);
}

FIXTURE_SETUP(stolen)
{
	int mem[FERRY_MAX_NODES], n, i;
	char name[64];

	self->mem = MAP_FAILED;
	self->slow = -1;
	self->gdb = -1;
	if (strcmp(ferry_migrator(), "cpu"))
		SKIP(return, "needs the CPU migrator");
	n = ferry_mem_nodes(mem);
	for (i = 0; i < n; i++)
		if (ferry_node_cpu(mem[i]) < 0)
			self->slow = mem[i];
	if (ferry_cpu_nodes(self->nodes) != 2 || ferry_node_cpu(self->nodes[0]) ||
	    self->slow < 0 || ferry_memory_tiers() < 2)
		SKIP(return, "needs two nodes with a CPU each, and a slow one without");
	self->gdb = port_open("ferry.gdb", "ferry.gdb", name, sizeof(name));
	if (self->gdb < 0)
		SKIP(return, "needs QEMU's gdb server");
	self->cpu = ferry_node_cpu(self->nodes[1]);
	ASSERT_TRUE(module_text(&self->text, &self->text_end));
	ASSERT_EQ(0, race_prepare(self->nodes));
	ASSERT_EQ(0, ferry_set("/sys/kernel/mm/numa/demotion_enabled", "true"));
	/* Long enough that the timeout does not end a wait. */
	ASSERT_EQ(0, ferry_set_knob("timeout_ms", "60000"));
	ASSERT_EQ(0, ferry_set_knob("min_batch_bytes", "4096"));
	ASSERT_EQ(0, ferry_set_knob("reasons", "demotion"));
	ASSERT_EQ(0, ferry_inject("workers_only", 1));
	ASSERT_EQ(0, ferry_cgroup_create("ferry-stolen", "+memory", self->group));
	ASSERT_EQ(0, ferry_cgroup_enter(self->group, 0));
	ASSERT_EQ(0, ferry_mthp_only(0));
	/* Memory that is mapped later is not locked. */
	ASSERT_EQ(0, mlockall(MCL_CURRENT));
	self->mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
	interrupts_to(0);
}

FIXTURE_TEARDOWN(stolen)
{
	if (self->gdb >= 0)
		gdb_go_on(self->gdb, -1);
	if (self->mem != MAP_FAILED)
		munmap(self->mem, LEN);
	if (*self->group) {
		ferry_cgroup_enter(NULL, 0);
		ferry_cgroup_remove(self->group);
	}
	ferry_restore();
}

/* ---- the mover ---- */

struct mover {
	pthread_t thread;
	char group[256];
	int tid;
	int ret;
	bool over;
};

static void *mover_fn(void *arg)
{
	struct mover *m = arg;
	char path[300];

	m->tid = gettid();
	snprintf(path, sizeof(path), "%s/memory.reclaim", m->group);
	m->ret = ferry_write(path, "%lu", TAKEN);
	__atomic_store_n(&m->over, true, __ATOMIC_RELEASE);
	return NULL;
}

static bool is_over(struct mover *m)
{
	return __atomic_load_n(&m->over, __ATOMIC_ACQUIRE);
}

static int mover_start(FIXTURE_DATA(stolen) * self, struct mover *m)
{
	memset(m, 0, sizeof(*m));
	snprintf(m->group, sizeof(m->group), "%s", self->group);
	return -pthread_create(&m->thread, NULL, mover_fn, m);
}

/* Waits without a timer, and without leaving the CPU idle. */
static bool over_in(struct mover *m, unsigned int ms)
{
	u64 end = ferry_now_ns() + ms * 1000000ULL;

	while (!is_over(m) && ferry_now_ns() < end)
		sched_yield();
	return is_over(m);
}

/* Prints the stack of the mover. */
static void say_where(const struct mover *m)
{
	char path[80], *text;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stack", m->tid);
	text = ferry_read_all(path);
	ferry_note("the mover is at\n%s", text ? text : "?");
	free(text);
}

/*
 * Makes memory that reclaim demotes, and leaves no CPU with pages or work for which a task
 * would wait.
 */
static void cold(struct __test_metadata *_metadata, FIXTURE_DATA(stolen) * self, int gen)
{
	ASSERT_EQ(0, race_fresh(self->mem, LEN, FERRY_PAGE, self->nodes[0]));
	ferry_fill(self->mem, LEN, 15, gen);
	ASSERT_EQ(0, madvise(self->mem, LEN, MADV_COLD));
	ferry_write("/proc/sys/vm/drop_caches", "1");
	ASSERT_TRUE(ferry_wait(ferry_workers_asleep, NULL, 10000));
	ASSERT_EQ(0, ferry_inject("delay_in_chunk_us", CHUNK_MS * 1000));
	ASSERT_EQ(0, ferry_inject("delay_after_submit_us", SUBMIT_MS * 1000));
}

/*
 * Takes the worker's CPU away while it is in ferry.ko, with a batch to which the mover has
 * not come. Returns false if that fails. The worker may have had no batch, or be at its end:
 * then the following shows nothing.
 */
static bool take(FIXTURE_DATA(stolen) * self, struct mover *m, long batches)
{
	u64 end = ferry_now_ns() + SUBMIT_MS * 1000000ULL / 4;
	unsigned long rip = 0;

	if (!race_until("batches", batches, 10000))
		return false;
	while (ferry_now_ns() < end && !is_over(m)) {
		if (gdb_go_on(self->gdb, self->cpu))
			return false;
		rip = gdb_rip(self->gdb);
		if (rip >= self->text && rip < self->text_end)
			return true;
		gdb_go_on(self->gdb, -1);
		sched_yield();
	}
	ferry_note("the worker's CPU is at %#lx, not in ferry.ko", rip);
	return false;
}

TEST_F(stolen, mover_goes_on)
{
	int i, gave_up = 0, calm = 0, iters = ferry_iters(3, 1), gen = 0;
	struct race_count c;
	struct mover m;
	long cut, seen, parked;
	bool away, over;

	for (i = 0; i < ATTEMPTS && gave_up < iters; i++) {
		/* With a CPU that stays. */
		cold(_metadata, self, ++gen);
		race_count(&c);
		ASSERT_EQ(0, mover_start(self, &m));
		over = over_in(&m, PATIENCE_MS);
		pthread_join(m.thread, NULL);
		ASSERT_TRUE(over);
		race_count_end(&c);
		EXPECT_GT(race_grown(&c, "batches"), 0);
		EXPECT_GT(race_grown(&c, "chunks_by_others"), 0);
		/* The host may take a CPU away, too. */
		calm += !race_grown(&c, "waits_cut");
		ASSERT_TRUE(ferry_wait(race_none_parked, NULL, 20000));

		/* With a CPU that is taken away. */
		cold(_metadata, self, ++gen);
		race_count(&c);
		seen = ferry_stat("batches");
		ASSERT_EQ(0, mover_start(self, &m));
		away = take(self, &m, seen);
		/* Only the first batch counts. */
		ferry_write(FERRY_DEBUGFS "inject/delay_in_chunk_us", "0");
		ferry_write(FERRY_DEBUGFS "inject/delay_after_submit_us", "0");
		over = over_in(&m, PATIENCE_MS);
		if (!over)
			say_where(&m);
		race_count_end(&c);
		cut = race_grown(&c, "waits_cut");
		parked = race_parked();
		/* The CPU comes back only now. */
		ASSERT_EQ(0, gdb_go_on(self->gdb, -1));
		pthread_join(m.thread, NULL);
		ferry_note("CPU %s; mover %s; %ld waits given up, %ld folios parked",
			   away ? "away" : "there", over ? "through" : "not through", cut, parked);
		EXPECT_TRUE(over);
		EXPECT_EQ(0, race_grown(&c, "wait_timeouts"));
		EXPECT_EQ(cut > 0, parked > 0);
		if (away && cut > 0)
			gave_up++;
		EXPECT_TRUE(ferry_wait(race_none_parked, NULL, 20000));
		EXPECT_TRUE(ferry_wait(race_pool_whole, NULL, 20000));
		ASSERT_EQ(0, ferry_verify(self->mem, LEN, 15, gen));
		if (!over)
			break;
	}
	EXPECT_EQ(iters, gave_up);
	EXPECT_GT(calm, 0);
}

TEST_HARNESS_MAIN
