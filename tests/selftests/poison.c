// SPDX-License-Identifier: GPL-2.0
/*
 * Invariants: I10 and I5
 *
 * Poison that appears between submit and settle is reported once, costs one page, and changes
 * no other byte.
 *
 * The batch is held open (delay_after_submit_us) while pages of it are poisoned by page frame
 * (hwpoison-inject), by MADV_HWPOISON and by MADV_SOFT_OFFLINE, and by a machine check that
 * QEMU's monitor raises. That machine check names a page that was found bad by another party
 * than the reader ("action optional"), so that the interrupted task goes on. A machine check
 * that hits the load of a copy has to come from that load: QEMU's come at any instruction,
 * and away from a load that may fail they stop the machine, as they should; mce-inject takes
 * the registers from its user and returns to another place. The module's unit tests
 * (ferry_copy_nt) show the result of such a copy, with page faults, which take the same way
 * out.
 */
#include <setjmp.h>
#include <signal.h>

#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"
#include "ports.h"

#ifndef MADV_HWPOISON
#define MADV_HWPOISON		100
#endif
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE	101
#endif

#define LEN	(1024UL << 10)
#define HOLD_MS	500
#define INJECT	"/sys/kernel/debug/hwpoison/"
#define VICTIM	37
#define MOST_BUSY	10

FIXTURE(poison)
{
	int nodes[FERRY_MAX_NODES];
	char *mem;
};

FIXTURE_SETUP(poison)
{
	self->mem = MAP_FAILED;
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	if (access(INJECT "corrupt-pfn", W_OK))
		SKIP(return, "needs hwpoison-inject");
	ASSERT_EQ(0, race_prepare(self->nodes));
	self->mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
	if (!ferry_loaded())
		return;
	ASSERT_EQ(0, ferry_inject("delay_after_submit_us", HOLD_MS * 1000));
	ASSERT_EQ(0, ferry_inject("workers_only", 1));
}

FIXTURE_TEARDOWN(poison)
{
	if (self->mem != MAP_FAILED)
		munmap(self->mem, LEN);
	ferry_restore();
}

static sigjmp_buf bus_jump;

static void on_bus(int sig, siginfo_t *info, void *ctx)
{
	siglongjmp(bus_jump, 1);
}

/* Returns true if a page can be read. */
static bool readable(const char *p)
{
	struct sigaction act = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO }, old;
	bool ok = false;

	sigaction(SIGBUS, &act, &old);
	if (!sigsetjmp(bus_jump, 1)) {
		race_touch(p);
		ok = true;
	}
	sigaction(SIGBUS, &old, NULL);
	return ok;
}

/* Poisons a page by MADV_HWPOISON. The caller gets SIGBUS, as after a real machine check. */
static int poison(char *p)
{
	struct sigaction act = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO }, old;
	int ret = 0;

	sigaction(SIGBUS, &act, &old);
	if (!sigsetjmp(bus_jump, 1))
		ret = madvise(p, FERRY_PAGE, MADV_HWPOISON) ? -errno : 0;
	sigaction(SIGBUS, &old, NULL);
	return ret;
}

/*
 * Returns the number of wrong bytes in all pages except the victim, and in the victim if it
 * can be read. Writes to @victim whether it can.
 */
static size_t bad_bytes(char *mem, u64 gen, bool *victim)
{
	size_t bad = 0, off;

	*victim = readable(mem + VICTIM * FERRY_PAGE);
	for (off = 0; off < LEN; off += FERRY_PAGE)
		if (off != VICTIM * FERRY_PAGE || *victim)
			bad += ferry_verify_at(mem + off, FERRY_PAGE, 10, gen, off);
	return bad;
}

/* Makes new pages with new content for round @i. */
static void renew(struct __test_metadata *_metadata, FIXTURE_DATA(poison) * self, int i)
{
	ASSERT_EQ(0, race_fresh(self->mem, LEN, FERRY_PAGE, self->nodes[i & 1]));
	ferry_fill(self->mem, LEN, 10, i);
}

/*
 * Starts the migration of round @i. Waits until its batch is open or, without a migrator, on its
 * way.
 */
static void move(struct __test_metadata *_metadata, FIXTURE_DATA(poison) * self,
		 struct race_move *m, int i)
{
	long seen = ferry_stat("batches");

	ASSERT_EQ(0, race_move_start(m, self->mem, LEN, FERRY_PAGE, self->nodes[!(i & 1)],
				     ferry_node_cpu(self->nodes[0])));
	if (ferry_active())
		EXPECT_TRUE(race_until("batches", seen, 10000));
	ferry_sleep_ms(20);
}

TEST_F(poison, poison_by_page_frame)
{
	int iters = ferry_iters(6, 3), i, log;
	long before, after;
	struct race_move m;
	bool victim;
	u64 pfn;

	for (i = 0; i < iters; i++) {
		renew(_metadata, self, i);
		pfn = ferry_pfn(self->mem + VICTIM * FERRY_PAGE);
		ASSERT_NE(0, pfn);
		before = ferry_corrupted_kib();
		log = race_log_open();
		move(_metadata, self, &m, i);
		/* It may report that it can do nothing with a page that is being migrated. */
		ferry_write(INJECT "corrupt-pfn", "%#llx", (unsigned long long)pfn);
		ASSERT_LE(0, race_move_end(&m));
		EXPECT_EQ(0, bad_bytes(self->mem, i, &victim));
		after = ferry_corrupted_kib();
		EXPECT_LE(after - before, 4);
		/* The page frame is reported for one poison, and not used any more. */
		EXPECT_LE(race_log_count(log, "recovery action for"), 1);
		if (victim)
			EXPECT_NE(pfn, ferry_pfn(self->mem + VICTIM * FERRY_PAGE));
		ASSERT_EQ(0, madvise(self->mem, LEN, MADV_DONTNEED));
		ferry_write(INJECT "unpoison-pfn", "%#llx", (unsigned long long)pfn);
	}
}

/* Poison by address waits until the page has arrived, and takes the new one. */
TEST_F(poison, poison_by_address)
{
	int iters = ferry_iters(6, 3), busy = 0, i, log, ret;
	long before;
	struct race_move m;
	bool victim;

	for (i = 0; i < iters; i++) {
		renew(_metadata, self, i);
		before = ferry_corrupted_kib();
		log = race_log_open();
		move(_metadata, self, &m, i);
		ret = poison(self->mem + VICTIM * FERRY_PAGE);
		ASSERT_LE(0, race_move_end(&m));
		EXPECT_EQ(0, bad_bytes(self->mem, i, &victim));
		/*
		 * The stock kernel returns -EBUSY if it meets the page isolated and not
		 * unmapped yet, which is all it may meet if no batch is held open.
		 */
		if (ret == -EBUSY && !ferry_active())
			continue;
		if (ret == -EBUSY && busy++ < MOST_BUSY) {
			i--;
			continue;
		}
		ASSERT_EQ(0, ret);
		EXPECT_FALSE(victim);
		EXPECT_EQ(4, ferry_corrupted_kib() - before);
		EXPECT_EQ(1, race_log_count(log, "recovery action for"));
	}
}

/* Soft offlining keeps the content. */
TEST_F(poison, soft_offline)
{
	int iters = ferry_iters(6, 3), i, soft;
	struct race_move m;
	bool victim;

	for (i = 0; i < iters; i++) {
		renew(_metadata, self, i);
		move(_metadata, self, &m, i);
		soft = madvise(self->mem + VICTIM * FERRY_PAGE, FERRY_PAGE,
			       MADV_SOFT_OFFLINE) ? -errno : 0;
		ASSERT_LE(0, race_move_end(&m));
		EXPECT_TRUE(soft == 0 || soft == -EBUSY || soft == -EIO);
		EXPECT_EQ(0, bad_bytes(self->mem, i, &victim));
		EXPECT_TRUE(victim);
	}
}

/*
 * Raises the machine check of a memory controller that has found a page that it cannot
 * correct. Returns true if QEMU did.
 */
static bool machine_check(int fd, u64 pfn)
{
	/* Valid, uncorrected, enabled, with an address, signalled; by memory scrubbing. */
	static const char status[] = "0xbd000000000000c0";
	char command[256];
	int n;

	n = snprintf(command, sizeof(command),
		     "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"mce 0 9 %s 0x5 %#llx 0x8c\"}}\n",
		     status, (unsigned long long)pfn * FERRY_PAGE);
	/* QEMU's answer is empty if it has raised it. */
	return write(fd, command, n) == n && port_says(fd, "\"return\": \"\"");
}

static bool corrupted(void *arg)
{
	return ferry_corrupted_kib() > *(long *)arg;
}

/*
 * The page that a machine check names is the former one or, if the check comes late, a freed
 * one. It is taken; its content, which is intact, may have been moved before.
 */
TEST_F(poison, machine_check)
{
	int iters = ferry_iters(6, 3), taken = 0, i, log, fd;
	long before;
	struct race_move m;
	bool victim;
	u64 pfn;

	fd = monitor_open();
	if (fd < 0)
		SKIP(return, "needs QEMU's monitor (scripts/vm --monitor --intel)");
	for (i = 0; i < iters; i++) {
		renew(_metadata, self, i);
		pfn = ferry_pfn(self->mem + VICTIM * FERRY_PAGE);
		ASSERT_NE(0, pfn);
		before = ferry_corrupted_kib();
		log = race_log_open();
		move(_metadata, self, &m, i);
		ASSERT_TRUE(machine_check(fd, pfn));
		ASSERT_LE(0, race_move_end(&m));
		ferry_wait(corrupted, &before, 3000);
		EXPECT_EQ(0, bad_bytes(self->mem, i, &victim));
		EXPECT_LE(ferry_corrupted_kib() - before, 4);
		EXPECT_LE(race_log_count(log, "recovery action for"), 1);
		if (victim)
			EXPECT_NE(pfn, ferry_pfn(self->mem + VICTIM * FERRY_PAGE));
		taken += ferry_corrupted_kib() > before;
		ASSERT_EQ(0, madvise(self->mem, LEN, MADV_DONTNEED));
		ferry_write(INJECT "unpoison-pfn", "%#llx", (unsigned long long)pfn);
	}
	close(fd);
	ferry_note("%d of %d machine checks took a page", taken, iters);
	EXPECT_GT(taken, 0);
}

TEST_HARNESS_MAIN
