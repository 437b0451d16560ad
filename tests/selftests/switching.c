// SPDX-License-Identifier: GPL-2.0
/*
 * Invariant: I9
 *
 * A migrator is selected and left, knobs change, and the module is removed and loaded at any
 * time under load; a batch ends with the migrator with which it began.
 *
 * A batch is held open (delay_after_submit_us): "off", and removing the module, must not
 * return before it is over.
 *
 * FERRY_MODULE names the module for the tests that remove it and load it again.
 */
#include <dirent.h>
#include <ftw.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"
#include "knobs.h"
#include "movers.h"

#define LEN		(2UL << 20)
#define HOLD_MS		3000

FIXTURE(switching)
{
	int nodes[FERRY_MAX_NODES];
	char *mem;
};

FIXTURE_SETUP(switching)
{
	self->mem = MAP_FAILED;
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	if (!ferry_loaded())
		SKIP(return, "needs ferry.ko");
	ASSERT_EQ(0, race_prepare(self->nodes));
	self->mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
}

FIXTURE_TEARDOWN(switching)
{
	if (self->mem != MAP_FAILED)
		munmap(self->mem, LEN);
	/* Values can be restored only if there is a module. */
	if (access(FERRY_SYSCTL, F_OK))
		race_load();
	ferry_restore();
	ferry_write(FERRY_SYSCTL "migrator", "%s", ferry_migrator());
}

/* Opens a batch for HOLD_MS in another thread. Returns false if none was opened. */
static bool open_batch(struct __test_metadata *_metadata, FIXTURE_DATA(switching) * self,
		       struct race_move *m)
{
	long seen = ferry_stat("batches");

	EXPECT_EQ(0, race_fresh(self->mem, LEN, FERRY_PAGE, self->nodes[0]));
	ferry_fill(self->mem, LEN, 9, 1);
	EXPECT_EQ(0, ferry_inject("workers_only", 1));
	EXPECT_EQ(0, ferry_inject("delay_after_submit_us", HOLD_MS * 1000));
	EXPECT_EQ(0, race_move_start(m, self->mem, LEN, FERRY_PAGE, self->nodes[1],
				     ferry_node_cpu(self->nodes[0])));
	if (race_until("batches", seen, 10000))
		return true;
	race_move_end(m);
	return false;
}

TEST_F(switching, off_waits_for_open_batches)
{
	struct race_move m;
	u64 from, ms;

	if (!ferry_active())
		SKIP(return, "needs a migrator");
	ASSERT_TRUE(open_batch(_metadata, self, &m));
	from = ferry_now_ns();
	ASSERT_EQ(0, ferry_write(FERRY_SYSCTL "migrator", "off"));
	ms = (ferry_now_ns() - from) / 1000000;
	ASSERT_EQ(0, race_move_end(&m));
	ferry_note("off took %llu ms with a batch open for %d ms", (unsigned long long)ms,
		   HOLD_MS);
	/* The batch was already open at the first look, so less than HOLD_MS were left. */
	EXPECT_GE(ms, HOLD_MS / 2);
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, 9, 1));
	EXPECT_TRUE(race_all_on(self->mem, LEN, self->nodes[1]));
}

TEST_F(switching, removing_the_module_waits_for_open_batches)
{
	struct race_move m;
	u64 from, ms;

	if (!ferry_active())
		SKIP(return, "needs a migrator");
	if (!getenv("FERRY_MODULE"))
		SKIP(return, "needs FERRY_MODULE");
	ASSERT_TRUE(open_batch(_metadata, self, &m));
	from = ferry_now_ns();
	ASSERT_EQ(0, race_unload());
	ms = (ferry_now_ns() - from) / 1000000;
	ASSERT_EQ(0, race_move_end(&m));
	ferry_note("rmmod took %llu ms with a batch open for %d ms",
		   (unsigned long long)ms, HOLD_MS);
	EXPECT_GE(ms, HOLD_MS / 2);
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, 9, 1));
	EXPECT_EQ(0, race_load());
}

/* A batch that was open during the change has copied all its folios all the same. */
TEST_F(switching, change_to_itself_does_not_wait)
{
	struct race_move m;
	u64 from, ms;

	if (!ferry_active())
		SKIP(return, "needs a migrator");
	ASSERT_TRUE(open_batch(_metadata, self, &m));
	from = ferry_now_ns();
	ASSERT_EQ(0, ferry_write(FERRY_SYSCTL "migrator", "%s", ferry_migrator()));
	ms = (ferry_now_ns() - from) / 1000000;
	EXPECT_FALSE(race_move_over(&m) && ms > HOLD_MS);
	ASSERT_EQ(0, race_move_end(&m));
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, 9, 1));
}

/* ---- everything at any time ---- */

TEST_F(switching, knobs_and_switches_under_load)
{
	u64 end = ferry_now_ns() + ferry_iters(10, 5) * 1000000000ULL;
	u64 latest = end + 60 * 1000000000ULL;
	long rounds, changes = 0, switches = 0;
	struct race_mover m[2];
	unsigned int r = 7;
	size_t bad, k;

	ASSERT_EQ(0, race_movers_start(m, ARRAY_SIZE(m), self->nodes));
	for (k = 0; k < ARRAY_SIZE(knobs); k++)
		ASSERT_EQ(0, ferry_set_knob(knobs[k].name, "%s", knobs[k].values[0]));
	/* Selecting a migrator is slow on a slow kernel. */
	while (ferry_now_ns() < end || (changes <= 10 && ferry_now_ns() < latest)) {
		r = r * 1103515245 + 12345;
		k = (r >> 8) % ARRAY_SIZE(knobs);
		EXPECT_EQ(0, ferry_write("/proc/sys/vm/ferry/migrator", "%s",
					 (r >> 20) & 1 ? "off" : ferry_migrator()));
		switches++;
		{
			char path[64];

			snprintf(path, sizeof(path), FERRY_SYSCTL "%s", knobs[k].name);
			EXPECT_EQ(0, ferry_write(path, "%s",
						 knobs[k].values[(r >> 16) & 3]));
			changes++;
		}
		ferry_sleep_ms(10);
	}
	rounds = race_movers_end(m, ARRAY_SIZE(m), &bad);
	ferry_note("%ld moves, %ld knobs changed, %ld migrators selected", rounds, changes,
		   switches);
	EXPECT_EQ(0, bad);
	EXPECT_GT(rounds, 0);
	EXPECT_GT(changes, 10);
	EXPECT_TRUE(ferry_wait(race_pool_whole, NULL, 5000));
}

TEST_F(switching, module_comes_and_goes_under_load)
{
	u64 end = ferry_now_ns() + ferry_iters(10, 5) * 1000000000ULL;
	u64 latest = end + 120 * 1000000000ULL;
	/*
	 * On the debug kernel, KUnit and the tests of channels make loading take half a
	 * minute.
	 */
	const long enough = ferry_iters(4, 2);
	long rounds, loads = 0, busy = 0;
	struct race_mover m[2];
	size_t bad;
	int ret;

	if (!getenv("FERRY_MODULE"))
		SKIP(return, "needs FERRY_MODULE");
	ASSERT_EQ(0, race_movers_start(m, ARRAY_SIZE(m), self->nodes));
	/* Removing the module waits for batches, which are slow on a slow kernel. */
	while (ferry_now_ns() < end || (loads < enough && ferry_now_ns() < latest)) {
		ret = race_unload();
		if (ret == -EAGAIN || ret == -EBUSY) {
			busy++;
			ferry_sleep_ms(10);
			continue;
		}
		ASSERT_EQ(0, ret);
		ASSERT_NE(0, access(FERRY_SYSCTL "migrator", F_OK));
		ASSERT_EQ(0, race_load());
		ASSERT_EQ(0, ferry_write(FERRY_SYSCTL "migrator", "%s",
					 ferry_migrator()));
		loads++;
		ferry_sleep_ms(10);
	}
	rounds = race_movers_end(m, ARRAY_SIZE(m), &bad);
	ferry_note("%ld moves, loaded %ld times, busy %ld times", rounds, loads, busy);
	EXPECT_EQ(0, bad);
	EXPECT_GT(rounds, 0);
	EXPECT_GE(loads, enough);
}

/* ---- files of debugfs, which keep the module while they are open ---- */

static struct {
	int fds[256];
	size_t n;
} held;

static int hold(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	int fd;

	if (type != FTW_F || held.n == ARRAY_SIZE(held.fds))
		return 0;
	fd = open(path, (st->st_mode & 0400 ? O_RDONLY : O_WRONLY) | O_CLOEXEC);
	if (fd >= 0)
		held.fds[held.n++] = fd;
	return 0;
}

static void hold_all(void)
{
	held.n = 0;
	nftw(FERRY_DEBUGFS, hold, 8, FTW_PHYS);
}

static void release_all(void)
{
	while (held.n)
		close(held.fds[--held.n]);
}

/*
 * Seen red on a kernel without the patch of rust/kernel/debugfs: the module is removed, and
 * then the first close() leads to an oops in full_proxy_release().
 */
TEST_F(switching, open_files_keep_the_module)
{
	size_t i, begun = 0;
	char buf[64];

	if (!getenv("FERRY_MODULE"))
		SKIP(return, "needs FERRY_MODULE");
	hold_all();
	EXPECT_GE(held.n, 10);
	/* Every other file with output that has not been read yet. */
	for (i = 0; i < held.n; i += 2)
		begun += read(held.fds[i], buf, 1) == 1;
	EXPECT_GT(begun, 3);
	EXPECT_EQ(-EAGAIN, race_unload());
	/* The files still work. */
	EXPECT_EQ(0, access(FERRY_DEBUGFS "state", R_OK));
	for (i = 0, begun = 0; i < held.n; i += 2)
		begun += read(held.fds[i], buf, 1) == 1;
	EXPECT_GT(begun, 3);
	ferry_note("%zu files were open", held.n);
	release_all();
	ASSERT_EQ(0, race_unload());
	EXPECT_NE(0, access(FERRY_DEBUGFS, F_OK));
	ASSERT_EQ(0, race_load());
	EXPECT_EQ(0, access(FERRY_DEBUGFS "state", R_OK));
}

static atomic_bool reading;
static atomic_long opened;

static void *read_all(void *arg)
{
	char buf[512];
	size_t i;

	while (atomic_load(&reading)) {
		hold_all();
		for (i = 0; i < held.n; i++)
			if (read(held.fds[i], buf, sizeof(buf)) > 0)
				atomic_fetch_add(&opened, 1);
		release_all();
		/* Without a pause the module could hardly ever be removed. */
		ferry_sleep_ms(1);
	}
	return NULL;
}

TEST_F(switching, files_are_read_while_the_module_comes_and_goes)
{
	u64 end = ferry_now_ns() + ferry_iters(10, 5) * 1000000000ULL;
	u64 latest = end + 120 * 1000000000ULL;
	const long enough = ferry_iters(4, 2);
	pthread_t reader;
	long loads = 0, busy = 0;
	int ret;

	if (!getenv("FERRY_MODULE"))
		SKIP(return, "needs FERRY_MODULE");
	atomic_store(&opened, 0);
	atomic_store(&reading, true);
	ASSERT_EQ(0, pthread_create(&reader, NULL, read_all, NULL));
	while (ferry_now_ns() < end ||
	       ((loads < enough || !atomic_load(&opened)) && ferry_now_ns() < latest)) {
		ret = race_unload();
		if (ret == -EAGAIN) {
			busy++;
			continue;
		}
		EXPECT_EQ(0, ret);
		EXPECT_EQ(0, race_load());
		loads++;
		ferry_sleep_ms(10);
	}
	atomic_store(&reading, false);
	pthread_join(reader, NULL);
	ferry_note("loaded %ld times, busy %ld times, %ld files read", loads, busy,
		   atomic_load(&opened));
	EXPECT_GE(loads, enough);
	EXPECT_GT(atomic_load(&opened), 0);
}

TEST_HARNESS_MAIN
