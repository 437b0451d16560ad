// SPDX-License-Identifier: GPL-2.0
/*
 * Ferry beside a driver of SDXI functions for dmaengine (tests/drivers/softdma.c, called
 * "sdxi"): Ferry claims no function by itself, its own migrator and that driver are told
 * apart, and functions change hands while folios migrate.
 *
 * The tests also cover how far Ferry trusts such a driver. Ferry asks it for nothing that it
 * could object to. The driver proves that it reports failures, or is refused. A copy that it
 * reports as aborted is no proof that its engine has finished with it.
 *
 * Seen red, each in a scratch copy:
 *
 * - functions bound without sdxi_bind=1 or a driver_override: nothing_is_claimed;
 * - every driver asked for a copy of no bytes: strangers_are_not_believed;
 * - mappings of aborted copies unmapped, so that their addresses are used again:
 *   late_writes_do_not_pass_the_iommu (14 MB of late writes in folios that moved);
 * - "aborted" taken for an end: the same, aborted_is_no_end_without_an_iommu and
 *   aborted_stays_when_channels_are_given_back (2 and 3 of 8 MiB overwritten);
 * - no bound on addresses that are taken for good: addresses_are_not_taken_without_end;
 * - "aborted" ignored: aborted_is_an_end_behind_an_iommu and
 *   aborted_is_no_end_without_an_iommu (a minute's wait each, and 92 of 2048 folios stay).
 */
#include <dirent.h>

#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"
#include "engine.h"
#include "movers.h"

#define LEN		(8UL << 20)
#define MOST		4
#define WAIT_MS		60000
#define PCI		"/sys/bus/pci/devices/"
#define SOFT		"/sys/module/softdma/parameters/"
#define CLIENT		"/sys/module/dmaclient/parameters/run"
#define NATIVE		"ferry_sdxi"
#define OTHER		"sdxi"

FIXTURE(beside)
{
	int nodes[FERRY_MAX_NODES];
	/* PCI functions of the class. */
	int nr;
	char fn[MOST][32];
	/* True if an IOMMU translates for them. */
	bool iommu;
	char *mem;
};

/* ---- functions and their drivers ---- */

static bool class_is(const char *function, const char *class)
{
	char path[300], is[32];

	snprintf(path, sizeof(path), PCI "%s/class", function);
	return ferry_read(path, is, sizeof(is)) > 0 && !strcmp(is, class);
}

/* Returns true if @driver is bound to a function; "" stands for no driver. */
static bool driver_is(const char *function, const char *driver)
{
	char path[300], link[256];
	ssize_t n;

	snprintf(path, sizeof(path), PCI "%s/driver", function);
	n = readlink(path, link, sizeof(link) - 1);
	if (n < 0)
		return !*driver;
	link[n] = '\0';
	return !strcmp(strrchr(link, '/') + 1, driver);
}

/* Sets the driver_override of a function, and lets the PCI core probe drivers if it has none. */
static void mark(const char *function, const char *driver)
{
	char path[300];

	snprintf(path, sizeof(path), PCI "%s/driver_override", function);
	ferry_write(path, "%s\n", driver);
	ferry_write("/sys/bus/pci/drivers_probe", "%s", function);
}

static void take_away(const char *function)
{
	char path[100];

	snprintf(path, sizeof(path), PCI "%s/driver/unbind", function);
	ferry_write(path, "%s", function);
}

/* Hands a function over to a driver. Returns true if the driver has bound to it. */
static bool give(const char *function, const char *driver)
{
	char path[100];

	snprintf(path, sizeof(path), PCI "%s/driver_override", function);
	ferry_write(path, "%s\n", driver);
	take_away(function);
	mark(function, driver);
	return driver_is(function, driver);
}

static bool is_translated(const char *function)
{
	char path[100], type[32];

	snprintf(path, sizeof(path), PCI "%s/iommu_group/type", function);
	return ferry_read(path, type, sizeof(type)) > 0 && !strncmp(type, "DMA", 3);
}

static int find_functions(char fn[][32])
{
	struct dirent *d;
	int nr = 0;
	DIR *dir;

	dir = opendir(PCI);
	while (dir && nr < MOST && (d = readdir(dir))) {
		if (*d->d_name == '.' || !class_is(d->d_name, "0x120100"))
			continue;
		snprintf(fn[nr++], 32, "%.31s", d->d_name);
	}
	if (dir)
		closedir(dir);
	return nr;
}

/* ---- modules ---- */

/* Loads a module of tests/drivers. */
static int load_driver(const char *name, const char *parameters)
{
	const char *kernel = getenv("FERRY_KERNEL");
	char path[100];

	snprintf(path, sizeof(path), "../drivers-%s/%s.ko", kernel ? kernel : "base", name);
	return race_insmod(path, parameters);
}

static long soft(const char *parameter)
{
	char path[100];

	snprintf(path, sizeof(path), SOFT "%s", parameter);
	return ferry_read_long(path);
}

/* Loads Ferry anew with these parameters. No other driver is bound or marked afterwards. */
static int fresh(FIXTURE_DATA(beside) * self, const char *parameters)
{
	int i, ret;

	if (ferry_loaded()) {
		ferry_write(FERRY_SYSCTL "migrator", "off");
		ret = race_unload();
		if (ret)
			return ret;
	}
	race_rmmod("dmaclient");
	race_rmmod("softdma");
	for (i = 0; i < self->nr; i++)
		mark(self->fn[i], "");
	return race_insmod(getenv("FERRY_MODULE"), parameters);
}

/* ---- migrators ---- */

static int choose(const char *migrator)
{
	return ferry_write(FERRY_SYSCTL "migrator", "%s", migrator);
}

static bool is_available(const char *migrator)
{
	char buf[512], *word, *next = NULL;

	if (ferry_read(FERRY_SYSCTL "available_migrators", buf, sizeof(buf)) <= 0)
		return false;
	for (word = strtok_r(buf, " ", &next); word; word = strtok_r(NULL, " ", &next))
		if (!strcmp(word, migrator))
			return true;
	return false;
}

/* Returns a counter of one migrator, or -1 if it has never been selected. */
static long counter(const char *migrator, const char *name)
{
	char path[100], buf[8192], key[64], *p;
	long n;

	snprintf(path, sizeof(path), FERRY_DEBUGFS "%s/stats", migrator);
	if (ferry_read(path, buf, sizeof(buf)) <= 0)
		return -1;
	snprintf(key, sizeof(key), "\n%s %%ld", name);
	for (p = buf; p; p = strchr(p + 1, '\n'))
		if (sscanf(p, key, &n) == 1 && !strncmp(p + 1, name, strlen(name)))
			return n;
	return -1;
}

/* Migrates 4K folios to the second node, and compares their content. */
static void migrate(struct __test_metadata *_metadata, FIXTURE_DATA(beside) * self, int gen)
{
	ASSERT_EQ(0, race_fresh(self->mem, LEN, FERRY_PAGE, self->nodes[0]));
	ferry_fill(self->mem, LEN, 5, gen);
	EXPECT_EQ(0, ferry_move_range(self->mem, LEN, FERRY_PAGE, self->nodes[1], NULL));
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, 5, gen));
}

/* Lets migrators copy all that they can. */
static int have_all(FIXTURE_DATA(beside) * self)
{
	return ferry_set_knob("engine_share", "all") ?:
	       /* Without an IOMMU there is no way to test the other driver. */
	       self->iommu ? 0 : ferry_set_knob("dma_untrusted", "1");
}

FIXTURE_SETUP(beside)
{
	self->mem = MAP_FAILED;
	self->nr = 0;
	if (!getenv("FERRY_MODULE"))
		SKIP(return, "needs FERRY_MODULE");
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	self->nr = find_functions(self->fn);
	if (!self->nr)
		SKIP(return, "needs a function of SDXI's class");
	self->iommu = is_translated(self->fn[0]);
	self->mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
	ASSERT_EQ(0, fresh(self, ""));
	ASSERT_EQ(0, race_prepare(self->nodes));
}

FIXTURE_TEARDOWN(beside)
{
	ferry_restore();
	if (self->nr)
		EXPECT_EQ(0, fresh(self, "sdxi_bind=1"));
	if (self->mem != MAP_FAILED)
		munmap(self->mem, LEN);
}

/* Returns true if the module has a PCI alias, for which udev would load it automatically. */
static bool has_alias(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t len = lseek(fd, 0, SEEK_END);
	bool has = true;
	void *p;

	p = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
	if (p != MAP_FAILED) {
		has = memmem(p, len, "alias=pci:", 10);
		munmap(p, len);
	}
	close(fd);
	return has;
}

TEST_F(beside, nothing_is_claimed)
{
	struct dirent *d;
	char other[32] = "";
	int i, log;
	DIR *dir;

	EXPECT_FALSE(has_alias(getenv("FERRY_MODULE")));
	for (i = 0; i < self->nr; i++)
		EXPECT_TRUE(driver_is(self->fn[i], ""));
	EXPECT_FALSE(is_available(NATIVE));
	EXPECT_EQ(-EINVAL, choose(NATIVE));

	/* A function that is marked for Ferry is bound, and no other one. */
	mark(self->fn[0], NATIVE);
	EXPECT_TRUE(driver_is(self->fn[0], NATIVE));
	EXPECT_TRUE(is_available(NATIVE));
	for (i = 1; i < self->nr; i++)
		EXPECT_TRUE(driver_is(self->fn[i], ""));

	/* A device of another class is not bound, even if it is marked. */
	dir = opendir(PCI);
	ASSERT_NE(NULL, dir);
	while ((d = readdir(dir)))
		if (*d->d_name != '.' && driver_is(d->d_name, "") &&
		    !class_is(d->d_name, "0x120100"))
			snprintf(other, sizeof(other), "%.31s", d->d_name);
	closedir(dir);
	ASSERT_NE(0, *other);
	log = race_log_open();
	mark(other, NATIVE);
	EXPECT_TRUE(driver_is(other, ""));
	EXPECT_EQ(1, race_log_count(log, "is not that of an SDXI function"));
	mark(other, "");

	ASSERT_EQ(0, fresh(self, "sdxi_bind=1"));
	for (i = 0; i < self->nr; i++)
		EXPECT_TRUE(driver_is(self->fn[i], NATIVE));
	ASSERT_EQ(0, fresh(self, "sdxi_bind=0"));
	for (i = 0; i < self->nr; i++)
		EXPECT_TRUE(driver_is(self->fn[i], ""));
}

TEST_F(beside, both_are_migrators)
{
	long native, other;

	if (self->nr < 2)
		SKIP(return, "needs two functions");
	ASSERT_EQ(0, load_driver("softdma", "sdxi=1 driver=" OTHER));
	/* All functions were free, so the driver took each of them. */
	EXPECT_TRUE(driver_is(self->fn[1], OTHER));
	ASSERT_TRUE(give(self->fn[0], NATIVE));
	EXPECT_TRUE(is_available(NATIVE));
	EXPECT_TRUE(is_available(OTHER));
	ASSERT_EQ(0, have_all(self));

	ASSERT_EQ(0, choose(NATIVE));
	EXPECT_TRUE(is_available(OTHER));
	other = soft("copied");
	migrate(_metadata, self, 1);
	native = counter(NATIVE, "engine_bytes");
	EXPECT_GT(native, 0);
	EXPECT_EQ(other, soft("copied"));

	ASSERT_EQ(0, choose(OTHER));
	EXPECT_TRUE(is_available(NATIVE));
	other = soft("copied");
	migrate(_metadata, self, 2);
	EXPECT_GT(counter(OTHER, "engine_bytes"), 0);
	EXPECT_GT(soft("copied"), other);
	EXPECT_EQ(native, counter(NATIVE, "engine_bytes"));

	/* Without its function the migrator does not exist, and no other one replaces it. */
	ASSERT_EQ(0, choose("off"));
	ASSERT_TRUE(give(self->fn[0], OTHER));
	EXPECT_FALSE(is_available(NATIVE));
	EXPECT_EQ(-EINVAL, choose(NATIVE));
	ASSERT_TRUE(give(self->fn[0], NATIVE));
	ASSERT_TRUE(give(self->fn[1], NATIVE));
	EXPECT_FALSE(is_available(OTHER));
	EXPECT_EQ(-EINVAL, choose(OTHER));
}

/* Returns true if the driver of the function copies for clients other than Ferry. */
static bool works_with(const char *function, const char *driver)
{
	char path[300], buf[512], link[256];
	struct dirent *d;
	bool ok = false;
	ssize_t n;
	DIR *dir;

	if (!strcmp(driver, NATIVE)) {
		snprintf(path, sizeof(path), FERRY_DEBUGFS "functions/%s/selftest", function);
		return !ferry_write(path, "1 20 4096") &&
		       ferry_read(path, buf, sizeof(buf)) > 0 && strstr(buf, "good=20 ");
	}
	dir = opendir("/sys/class/dma");
	while (dir && !ok && (d = readdir(dir))) {
		snprintf(path, sizeof(path), "/sys/class/dma/%s/device/driver", d->d_name);
		n = readlink(path, link, sizeof(link) - 1);
		if (n < 0)
			continue;
		link[n] = '\0';
		if (strcmp(strrchr(link, '/') + 1, driver))
			continue;
		ok = !ferry_write(CLIENT, "copy %s 20 4096", d->d_name) &&
		     ferry_read(CLIENT, buf, sizeof(buf)) > 0 && strstr(buf, "good=20 ");
	}
	if (dir)
		closedir(dir);
	return ok;
}

/*
 * Moves a function from one driver to the other and back, while the migrator of the first is
 * selected and copies.
 */
static void change_hands(struct __test_metadata *_metadata, FIXTURE_DATA(beside) * self,
			 const char *one, const char *two)
{
	struct race_mover m[2];
	long channels, seen, rounds;
	struct race_count c;
	size_t bad;
	int i, times = ferry_iters(6, 3);

	ASSERT_EQ(0, load_driver("softdma", "sdxi=1 driver=" OTHER));
	ASSERT_EQ(0, load_driver("dmaclient", ""));
	for (i = 0; i < self->nr; i++)
		take_away(self->fn[i]);
	ASSERT_TRUE(give(self->fn[0], one));
	ASSERT_EQ(0, have_all(self));
	ASSERT_EQ(0, choose(one));
	channels = eng_channels();
	ASSERT_LT(0, channels);
	race_count(&c);
	ASSERT_EQ(0, race_movers_start(m, ARRAY_SIZE(m), self->nodes));
	for (i = 0; i < times; i++) {
		seen = ferry_stat("engine_bytes");
		EXPECT_TRUE(ferry_wait(eng_copies, &seen, WAIT_MS));
		EXPECT_TRUE(give(self->fn[0], two));
		EXPECT_EQ(0, eng_channels());
		EXPECT_TRUE(works_with(self->fn[0], two));
		EXPECT_TRUE(give(self->fn[0], one));
		EXPECT_TRUE(ferry_wait(eng_has_channels, &channels, WAIT_MS));
	}
	seen = ferry_stat("engine_bytes");
	EXPECT_TRUE(ferry_wait(eng_copies, &seen, WAIT_MS));
	rounds = race_movers_end(m, ARRAY_SIZE(m), &bad);
	race_count_end(&c);
	ferry_note("%d times, %ld moves, %ld descriptors", times, rounds,
		   race_grown(&c, "engine_descriptors"));
	EXPECT_EQ(0, bad);
	EXPECT_GT(rounds, 0);
	EXPECT_EQ(0, race_grown(&c, "folios_not_quiet"));
	EXPECT_TRUE(ferry_wait(race_none_parked, NULL, WAIT_MS));
	EXPECT_TRUE(ferry_wait(race_pool_whole, NULL, WAIT_MS));
}

TEST_F(beside, native_functions_change_hands)
{
	change_hands(_metadata, self, NATIVE, OTHER);
}

TEST_F(beside, functions_of_the_other_change_hands)
{
	change_hands(_metadata, self, OTHER, NATIVE);
}

/* ---- trust in an unknown driver ---- */

/* Loads the other driver on a platform device, for which no IOMMU translates. */
static void load_stranger(struct __test_metadata *_metadata, FIXTURE_DATA(beside) * self)
{
	ASSERT_EQ(0, load_driver("softdma", "driver=stranger"));
	ASSERT_TRUE(is_available("stranger"));
}

/* Loads the other driver on a function, behind the IOMMU. */
static void load_translated(struct __test_metadata *_metadata, FIXTURE_DATA(beside) * self)
{
	ASSERT_EQ(0, load_driver("softdma", "sdxi=1 driver=stranger"));
	ASSERT_TRUE(driver_is(self->fn[0], "stranger"));
}

static int set_soft(const char *parameter, const char *value)
{
	char path[100];

	snprintf(path, sizeof(path), SOFT "%s", parameter);
	return ferry_write(path, "%s", value);
}

TEST_F(beside, strangers_are_not_believed)
{
	int log;

	load_stranger(_metadata, self);
	log = race_log_open();
	EXPECT_EQ(-EOPNOTSUPP, choose("stranger"));
	EXPECT_EQ(1, race_log_count(log, "no copy that must fail can be tried"));
	EXPECT_TRUE(is_available("stranger"));
	/* Some drivers warn about a copy of no bytes. */
	EXPECT_EQ(0, soft("empty"));
	ASSERT_EQ(0, ferry_set_knob("dma_untrusted", "1"));
	ASSERT_EQ(0, ferry_set_knob("engine_share", "all"));
	ASSERT_EQ(0, choose("stranger"));
	migrate(_metadata, self, 1);
	EXPECT_GT(counter("stranger", "engine_bytes"), 0);
	EXPECT_EQ(0, soft("empty"));
}

TEST_F(beside, strangers_show_that_they_tell)
{
	static const char *const tells[] = { "failed", "aborted" };
	int i, log;

	if (!self->iommu)
		SKIP(return, "needs an IOMMU");
	load_translated(_metadata, self);
	ASSERT_EQ(0, ferry_set_knob("engine_share", "all"));
	ASSERT_EQ(0, set_soft("tells", "nothing"));
	log = race_log_open();
	EXPECT_EQ(-EOPNOTSUPP, choose("stranger"));
	EXPECT_LT(0, race_log_count(log, "reports success for a copy that must fail"));
	for (i = 0; i < (int)ARRAY_SIZE(tells); i++) {
		ASSERT_EQ(0, set_soft("tells", tells[i]));
		ASSERT_EQ(0, choose("stranger"));
		EXPECT_LT(0, eng_channels());
		migrate(_metadata, self, 2 + i);
		ASSERT_EQ(0, choose("off"));
	}
	EXPECT_GT(counter("stranger", "engine_bytes"), 0);
	EXPECT_EQ(0, soft("empty"));
}

/* ---- copies that are aborted ---- */

/* Longer than any operation here takes, however slow the guest is. */
#define TIMEOUT_MS	60000

/* Returns true if each late write to a page has been made or stopped. */
static bool late_writes_are_over(void *arg)
{
	return soft("pending") == 0;
}

/*
 * Lets one of three copies be aborted. No mover waits for the timeout, content is right, and
 * only folios without a proof stay. Returns the number of these folios.
 */
static long abort_some(struct __test_metadata *_metadata, FIXTURE_DATA(beside) * self,
		       const char *fault)
{
	long there, unquiet;
	struct race_count c;
	u64 from, ms;

	ASSERT_EQ(0, ferry_set_knob("engine_share", "all"));
	ASSERT_EQ(0, ferry_set_knob("timeout_ms", "%d", TIMEOUT_MS));
	ASSERT_EQ(0, set_soft("tells", "aborted"));
	ASSERT_EQ(0, choose("stranger"));
	ASSERT_EQ(0, race_fresh(self->mem, LEN, FERRY_PAGE, self->nodes[0]));
	ferry_fill(self->mem, LEN, 5, 1);
	race_count(&c);
	ASSERT_EQ(0, set_soft("fault", fault));
	from = ferry_now_ns();
	race_move_pages(self->mem, LEN, FERRY_PAGE, self->nodes[1]);
	ms = (ferry_now_ns() - from) / 1000000;
	ASSERT_EQ(0, set_soft("fault", "none"));
	race_count_end(&c);
	there = ferry_count_on(self->mem, LEN, FERRY_PAGE, self->nodes[1]);
	unquiet = race_grown(&c, "folios_not_quiet");
	ferry_note("%ld copies struck, %ld made, %ld pages moved in %llu ms, unquiet %ld",
		   soft("struck"), soft("copied"), there, (unsigned long long)ms, unquiet);
	EXPECT_GT(soft("struck"), 0);
	EXPECT_LT(ms, TIMEOUT_MS);
	EXPECT_EQ(0, race_grown(&c, "wait_timeouts"));
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, 5, 1));
	EXPECT_EQ((long)(LEN / FERRY_PAGE) - there, unquiet);

	EXPECT_TRUE(ferry_wait(late_writes_are_over, NULL, WAIT_MS));
	EXPECT_EQ(0, soft("reused"));
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, 5, 1));
	return unquiet;
}

TEST_F(beside, aborted_is_an_end_behind_an_iommu)
{
	if (!self->iommu)
		SKIP(return, "needs an IOMMU");
	load_translated(_metadata, self);
	EXPECT_EQ(0, abort_some(_metadata, self, "error"));
	EXPECT_EQ(soft("channels") * self->nr, eng_channels());
	EXPECT_EQ(0, race_parked());
	migrate(_metadata, self, 2);
}

/* Writes that come late are stopped, and their addresses are not used again. */
TEST_F(beside, late_writes_do_not_pass_the_iommu)
{
	struct race_mover m[2];
	size_t bad;

	if (!self->iommu)
		SKIP(return, "needs an IOMMU");
	load_translated(_metadata, self);
	EXPECT_EQ(0, abort_some(_metadata, self, "late"));
	EXPECT_EQ(soft("channels") * self->nr, eng_channels());
	EXPECT_EQ(0, race_parked());
	EXPECT_GT(soft("stopped"), 0);
	EXPECT_EQ(0, soft("kept"));

	/* Again, while mappings come and go. */
	ASSERT_EQ(0, set_soft("every", "7"));
	ASSERT_EQ(0, set_soft("fault", "late"));
	ASSERT_EQ(0, race_movers_start(m, ARRAY_SIZE(m), self->nodes));
	ferry_sleep_ms(ferry_iters(8000, 4000));
	ASSERT_EQ(0, set_soft("fault", "none"));
	EXPECT_GT(race_movers_end(m, ARRAY_SIZE(m), &bad), 0);
	EXPECT_EQ(0, bad);
	EXPECT_TRUE(ferry_wait(late_writes_are_over, NULL, WAIT_MS));
	ferry_note("%ld copies struck, %ld pages stopped", soft("struck"), soft("stopped"));
	EXPECT_EQ(0, soft("reused"));
	EXPECT_EQ(0, soft("kept"));
}

/* A driver that aborts more and more copies does not use up all addresses. */
TEST_F(beside, addresses_are_not_taken_without_end)
{
	long all, moves = 0;
	int log;

	if (!self->iommu)
		SKIP(return, "needs an IOMMU");
	load_translated(_metadata, self);
	ASSERT_EQ(0, ferry_set_knob("engine_share", "all"));
	ASSERT_EQ(0, set_soft("tells", "aborted"));
	ASSERT_EQ(0, set_soft("every", "3"));
	ASSERT_EQ(0, choose("stranger"));
	ASSERT_EQ(0, race_fresh(self->mem, LEN, FERRY_PMD, self->nodes[0]));
	ferry_fill(self->mem, LEN, 5, 1);
	all = eng_channels();
	log = race_log_open();
	ASSERT_EQ(0, set_soft("fault", "error"));
	/* 128 MiB for each channel, twice the bytes of its aborted copies. */
	while (eng_channels() == all && moves < 400) {
		moves++;
		EXPECT_EQ(0, ferry_move_range(self->mem, LEN, FERRY_PMD,
					      self->nodes[moves % 2], NULL));
	}
	ASSERT_EQ(0, set_soft("fault", "none"));
	ferry_note("%ld copies struck in %ld moves", soft("struck"), moves);
	EXPECT_LT(eng_channels(), all);
	EXPECT_LT(0, race_log_count(log, "quarantined (errors)"));
	/* Neither a few nor consecutive failures are the reason. */
	EXPECT_GT(soft("struck"), 16);
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, 5, 1));
	EXPECT_EQ(0, race_parked());
}

/* Without a proof for the engine, source and destination are kept, but no mover waits. */
TEST_F(beside, aborted_is_no_end_without_an_iommu)
{
	int log;

	load_stranger(_metadata, self);
	ASSERT_EQ(0, ferry_set_knob("dma_untrusted", "1"));
	log = race_log_open();
	EXPECT_LT(0, abort_some(_metadata, self, "late"));
	EXPECT_LT(0, race_log_count(log, "quarantined (aborted)"));
	EXPECT_LT(0, soft("kept"));
	EXPECT_EQ(0, soft("stopped"));
	EXPECT_LT(0, race_parked());
	EXPECT_LT(eng_channels(), soft("channels"));
	/* Parked folios stay parked, whatever is tried. */
	ferry_write(FERRY_DEBUGFS "rearm", "1");
	migrate(_metadata, self, 2);
	EXPECT_LT(0, race_parked());
}

/* Giving the channels back is no proof either: folios of aborted copies stay parked for ever. */
TEST_F(beside, aborted_stays_when_channels_are_given_back)
{
	int log;

	load_stranger(_metadata, self);
	ASSERT_EQ(0, ferry_set_knob("dma_untrusted", "1"));
	ASSERT_EQ(0, ferry_set_knob("engine_share", "all"));
	ASSERT_EQ(0, choose("stranger"));
	ASSERT_EQ(0, race_fresh(self->mem, LEN, FERRY_PAGE, self->nodes[0]));
	ferry_fill(self->mem, LEN, 5, 1);
	/* Late enough that the writes come after the channels are gone. */
	ASSERT_EQ(0, set_soft("late_ms", "10000"));
	ASSERT_EQ(0, set_soft("fault", "late"));
	race_move_pages(self->mem, LEN, FERRY_PAGE, self->nodes[1]);
	ASSERT_EQ(0, set_soft("fault", "none"));
	log = race_log_open();
	ASSERT_EQ(0, choose("off"));
	EXPECT_LT(0, race_log_count(log, "given back without proof"));
	EXPECT_LT(0, race_parked());
	EXPECT_GT(soft("pending"), 0);
	EXPECT_TRUE(ferry_wait(late_writes_are_over, NULL, WAIT_MS));
	EXPECT_LT(0, soft("kept"));
	EXPECT_EQ(0, soft("reused"));
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, 5, 1));
}

TEST_HARNESS_MAIN
