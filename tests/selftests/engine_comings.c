// SPDX-License-Identifier: GPL-2.0
/*
 * Engines come and go while folios migrate: drivers are unbound and bound, functions removed
 * and found again, unplugged and plugged in, and the machine sleeps; engines hang, and come
 * back from quarantine by themselves. Content stays right, nothing stays parked, the pool is
 * whole, and the engine is used again.
 *
 * Seen red, in a scratch copy: with channels that are not given back before their driver goes
 * (ChannelManager::device_removing() that does nothing), channels of removed devices stay
 * until there is no room for others and nothing is copied. With an Event::Bound of any device
 * that makes the channel manager rescan, as in an earlier version, others_come_and_go finds 3
 * rescans for 3 other devices. With a ChannelManager::device_removed() that does nothing,
 * channels of a driver that went while it hung are never given back: drivers_are_unbound_hung
 * and functions_are_removed_hung find them. With a pause that does not end (ten thousand
 * times as long) hangs_once has no channel after two minutes; with pauses that do not double,
 * hangs_always finds that the second one is not longer than the first; with a
 * ChannelManager::halt() that does not record that the machine sleeps, not_tried_asleep finds
 * a channel that was tried during the sleep.
 */
#include <dirent.h>

#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"
#include "engine.h"
#include "movers.h"

#define WAIT_MS		60000
/*
 * The bound in which the channel manager gives channels back, in ms: it has been called when
 * the driver has gone.
 */
#define GONE_MS		10000
/* The shortest and the longest pause before a channel is retried, in ms. */
#define FIRST_MS	1000
#define LONGEST_MS	600000
/* The time that the machine sleeps with pm_test, in ms: the kernel's default. */
#define ASLEEP_MS	5000
#define PCI		"/sys/bus/pci/devices/"

FIXTURE(comings)
{
	int nodes[FERRY_MAX_NODES];
	struct race_mover m[2];
	struct race_count count;
	char function[32];
	long channels;
};

FIXTURE_SETUP(comings)
{
	int port;

	if (!ferry_active() || !strcmp(ferry_migrator(), "cpu"))
		SKIP(return, "needs an engine");
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	ASSERT_EQ(0, race_prepare(self->nodes));
	ASSERT_EQ(0, ferry_set_knob("engine_share", "all"));
	port = eng_open(ferry_migrator());
	ASSERT_LE(0, port);
	EXPECT_TRUE(eng_calm(port));
	/* So slow that a descriptor is in flight most of the time. */
	EXPECT_TRUE(eng_do(port, "{\"cmd\":\"limit\",\"bytes_per_s\":200000000}"));
	close(port);
	ASSERT_TRUE(eng_function(ferry_migrator(), self->function, sizeof(self->function)));
	self->channels = eng_channels();
	ASSERT_LT(0, self->channels);
	race_count(&self->count);
	ASSERT_EQ(0, race_movers_start(self->m, ARRAY_SIZE(self->m), self->nodes));
}

FIXTURE_TEARDOWN(comings)
{
	int port;

	ferry_restore();
	port = eng_open(ferry_migrator());
	if (port >= 0) {
		eng_calm(port);
		close(port);
	}
}

static bool there(void *arg)
{
	return !access(arg, F_OK);
}

static bool gone(void *arg)
{
	return !there(arg);
}

/* Expects that the engine has all its channels again, and copies. */
static void is_back(struct __test_metadata *_metadata, FIXTURE_DATA(comings) * self)
{
	long seen;

	EXPECT_TRUE(ferry_wait(eng_has_channels, &self->channels, WAIT_MS));
	seen = ferry_stat("engine_bytes");
	EXPECT_TRUE(ferry_wait(eng_copies, &seen, WAIT_MS));
}

static void all_is_well(struct __test_metadata *_metadata, FIXTURE_DATA(comings) * self,
			int times)
{
	long rounds;
	size_t bad;

	rounds = race_movers_end(self->m, ARRAY_SIZE(self->m), &bad);
	race_count_end(&self->count);
	ferry_note("%d times, %ld moves; descriptors %ld, chunks failed %ld, timeouts %ld",
		   times, rounds, race_grown(&self->count, "engine_descriptors"),
		   race_grown(&self->count, "chunks_failed"),
		   race_grown(&self->count, "engine_timeouts"));
	EXPECT_EQ(0, bad);
	EXPECT_GT(rounds, 0);
	EXPECT_EQ(0, race_grown(&self->count, "folios_not_quiet"));
	EXPECT_TRUE(ferry_wait(race_none_parked, NULL, WAIT_MS));
	EXPECT_TRUE(ferry_wait(race_pool_whole, NULL, WAIT_MS));
}

TEST_F(comings, drivers_are_unbound)
{
	int i, times = ferry_iters(20, 5);

	for (i = 0; i < times; i++) {
		ferry_sleep_ms(i * 7 % 50);
		ASSERT_EQ(0, eng_bind(ferry_migrator(), "unbind", self->function));
		EXPECT_EQ(0, eng_channels());
		ASSERT_EQ(0, eng_bind(ferry_migrator(), "bind", self->function));
		is_back(_metadata, self);
	}
	all_is_well(_metadata, self, times);
}

/*
 * A thread that looks, while the driver goes, for channels in removal that have a descriptor
 * in flight.
 */
struct watcher {
	pthread_t thread;
	bool stop;
	long going;
};

static void *watcher_fn(void *arg)
{
	struct watcher *w = arg;

	/* Partner: going_hung(), which ends the loop. */
	while (!__atomic_load_n(&w->stop, __ATOMIC_ACQUIRE)) {
		if (eng_busy("removing") > 0)
			w->going++;
		ferry_sleep_ms(2);
	}
	return NULL;
}

/*
 * While the engine has a descriptor that does not end, writes @away to the file @leave: the
 * driver ends the descriptor, and the channel manager gives each channel back with nothing
 * lost, before there is another device. Returns how often a channel in removal was seen with
 * a descriptor in flight.
 */
static long going_hung(struct __test_metadata *_metadata, int port, const char *leave,
		       const char *away)
{
	static const char hang[] =
		"{\"cmd\":\"inject\",\"nth\":2,\"fault\":{\"kind\":\"hang\"}}";
	struct watcher w = {};
	long lost;

	lost = eng_state("leaked");
	EXPECT_LE(0, lost);
	EXPECT_TRUE(eng_do(port, hang));
	EXPECT_TRUE(ferry_wait(eng_has_struck, &port, WAIT_MS));
	ASSERT_EQ(0, pthread_create(&w.thread, NULL, watcher_fn, &w));
	EXPECT_EQ(0, ferry_write(leave, away));
	__atomic_store_n(&w.stop, true, __ATOMIC_RELEASE);
	pthread_join(w.thread, NULL);
	EXPECT_EQ(0, eng_channels());
	EXPECT_TRUE(ferry_wait(eng_all_empty, NULL, GONE_MS));
	EXPECT_EQ(lost, eng_state("leaked"));
	/* If the engine still has the descriptor, it carries it out now. */
	EXPECT_TRUE(eng_do(port, "{\"cmd\":\"release\"}"));
	return w.going;
}

static int bind_again(const char *function)
{
	return eng_bind(ferry_migrator(), "bind", function);
}

static int find_again(const char *function)
{
	return ferry_write("/sys/bus/pci/rescan", "1");
}

/* Writes @what to @path while the engine hangs, and brings the function back, several times. */
static void go_and_come_hung(struct __test_metadata *_metadata, FIXTURE_DATA(comings) * self,
			     const char *path, const char *what, int (*back)(const char *))
{
	int i, port, times = ferry_iters(4, 2);
	long going = 0;

	/* Movers must not run into the timeout before. */
	ASSERT_EQ(0, ferry_set_knob("timeout_ms", "60000"));
	port = eng_open(ferry_migrator());
	ASSERT_LE(0, port);
	for (i = 0; i < times; i++) {
		going += going_hung(_metadata, port, path, what);
		ASSERT_EQ(0, back(self->function));
		is_back(_metadata, self);
	}
	close(port);
	/*
	 * The engine did hang when the driver went. The driver in ferry.ko ends the
	 * descriptor before the channel manager is told, so this cannot be seen there.
	 */
	if (strcmp(ferry_migrator(), "ferry_sdxi"))
		EXPECT_GT(going, 0);
	all_is_well(_metadata, self, times);
}

TEST_F(comings, drivers_are_unbound_hung)
{
	char path[100];

	snprintf(path, sizeof(path), PCI "%s/driver/unbind", self->function);
	go_and_come_hung(_metadata, self, path, self->function, bind_again);
}

TEST_F(comings, functions_are_removed_hung)
{
	char path[100];

	snprintf(path, sizeof(path), PCI "%s/remove", self->function);
	go_and_come_hung(_metadata, self, path, "1", find_again);
}

TEST_F(comings, functions_are_removed)
{
	int i, times = ferry_iters(10, 3);
	char path[64];

	for (i = 0; i < times; i++) {
		ferry_sleep_ms(i * 7 % 50);
		snprintf(path, sizeof(path), PCI "%s/remove", self->function);
		ASSERT_EQ(0, ferry_write(path, "1"));
		EXPECT_EQ(0, eng_channels());
		ASSERT_EQ(0, ferry_write("/sys/bus/pci/rescan", "1"));
		is_back(_metadata, self);
	}
	all_is_well(_metadata, self, times);
}

/*
 * Plugs the model in. QEMU accepts the name again only when it has forgotten the former
 * device.
 */
static bool plug_in(int monitor, int number, const char *vm)
{
	int i;

	for (i = 0; i < 100; i++) {
		dprintf(monitor,
			"{\"execute\":\"device_add\",\"arguments\":{\"driver\":\"vfio-user-pci\",\"id\":\"dev%d\",\"bus\":\"slot%d\",\"socket\":{\"type\":\"unix\",\"path\":\"%s/dev%d.sock\"}}}\n",
			number, number, vm, number);
		if (port_says(monitor, "\"return\""))
			return true;
		ferry_sleep_ms(200);
	}
	return false;
}

/* The data for plugging the function in again: the monitor, the device's number, the sockets. */
static struct {
	int monitor;
	int number;
	char vm[200];
} plug;

static bool plug_open(void)
{
	char name[64], end[32], line[4096], *vm;
	int port;

	if (ferry_read("/proc/cmdline", line, sizeof(line)) <= 0)
		return false;
	vm = strstr(line, "ferry_vm=");
	if (!vm || sscanf(vm, "ferry_vm=%199s", plug.vm) != 1)
		return false;
	snprintf(end, sizeof(end), ".%s", eng_kind(ferry_migrator()));
	port = port_open("ferry.dev", end, name, sizeof(name));
	if (port < 0)
		return false;
	close(port);
	plug.number = atoi(name + strlen("ferry.dev"));
	plug.monitor = monitor_open();
	return plug.monitor >= 0;
}

/* Finds the file that turns off the power of the function's slot. */
static bool slot_power(const char *function, char *path, size_t len)
{
	char file[300], address[32];
	bool found = false;
	struct dirent *d;
	DIR *dir;

	dir = opendir("/sys/bus/pci/slots");
	while (dir && !found && (d = readdir(dir))) {
		snprintf(file, sizeof(file), "/sys/bus/pci/slots/%s/address", d->d_name);
		if (d->d_name[0] == '.' || ferry_read(file, address, sizeof(address)) <= 0)
			continue;
		address[strcspn(address, "\n")] = '\0';
		found = *address && !strncmp(function, address, strlen(address));
		snprintf(path, len, "/sys/bus/pci/slots/%.60s/power", d->d_name);
	}
	if (dir)
		closedir(dir);
	return found;
}

static int plug_again(const char *function)
{
	return plug_in(plug.monitor, plug.number, plug.vm) ? 0 : -EIO;
}

/*
 * Unplugs by the power of the slot, because the button of QEMU's monitor gives the engine
 * five seconds.
 */
TEST_F(comings, functions_are_unplugged_hung)
{
	char path[100], function[64];

	/*
	 * A fault of the stock kernel: pciehp takes reset_lock and pci_rescan_remove_lock in
	 * two orders.
	 */
	if (!access("/proc/lockdep", F_OK)) {
		all_is_well(_metadata, self, 0);
		SKIP(return, "lockdep objects to how the kernel unplugs");
	}
	ASSERT_TRUE(plug_open());
	ASSERT_TRUE(slot_power(self->function, path, sizeof(path)));
	go_and_come_hung(_metadata, self, path, "0", plug_again);
	close(plug.monitor);
	snprintf(function, sizeof(function), PCI "%s", self->function);
	EXPECT_TRUE(there(function));
}

TEST_F(comings, functions_are_unplugged)
{
	int i, times = ferry_iters(6, 2);
	char path[64];

	/* As above. */
	if (!access("/proc/lockdep", F_OK)) {
		all_is_well(_metadata, self, 0);
		SKIP(return, "lockdep objects to how the kernel unplugs");
	}
	ASSERT_TRUE(plug_open());
	snprintf(path, sizeof(path), PCI "%s", self->function);
	for (i = 0; i < times; i++) {
		ferry_sleep_ms(i * 7 % 50);
		dprintf(plug.monitor,
			"{\"execute\":\"device_del\",\"arguments\":{\"id\":\"dev%d\"}}\n",
			plug.number);
		ASSERT_TRUE(port_says(plug.monitor, "\"return\""));
		ASSERT_TRUE(ferry_wait(gone, path, WAIT_MS));
		EXPECT_EQ(0, eng_channels());
		ASSERT_EQ(0, plug_again(self->function));
		ASSERT_TRUE(ferry_wait(there, path, WAIT_MS));
		is_back(_metadata, self);
	}
	close(plug.monitor);
	all_is_well(_metadata, self, times);
}

/* ---- quarantine, and back from it, without rearm ---- */

static bool quarantined(void *arg)
{
	return eng_resting().quarantines > *(long *)arg;
}

static bool rests_longer(void *arg)
{
	return eng_resting().pause > *(long *)arg;
}

/*
 * Lets descriptors of one channel (-1: of any) hang: @times of them from the @nth on, 0 for
 * all.
 */
static bool let_hang(int port, int channel, int nth, int times)
{
	char request[160], which[32] = "";

	if (channel >= 0)
		snprintf(which, sizeof(which), "\"channel\":%d,", channel);
	snprintf(request, sizeof(request),
		 "{\"cmd\":\"inject\",%s\"nth\":%d,\"times\":%d,\"fault\":{\"kind\":\"hang\"}}",
		 which, nth, times);
	return eng_do(port, request);
}

/*
 * Waits until a channel has a longer pause than before, which is at least twice as long, up
 * to a limit. Returns the pause in ms.
 */
static long next_rest(struct __test_metadata *_metadata, long before)
{
	long now = before;

	EXPECT_TRUE(ferry_wait(rests_longer, &now, 2 * before + WAIT_MS));
	now = eng_resting().pause;
	ferry_note("rests for %ld ms", now);
	EXPECT_GE(now, FIRST_MS);
	EXPECT_GE(now, before < LONGEST_MS / 2 ? 2 * before : LONGEST_MS);
	EXPECT_LE(now, LONGEST_MS);
	return now;
}

/*
 * Opens the port of the engine, removes the engine's speed limit, so that movers run into the
 * timeout early, and resets the pauses of channels.
 */
static int hang_open(struct __test_metadata *_metadata)
{
	int port = eng_open(ferry_migrator());

	EXPECT_LE(0, port);
	EXPECT_TRUE(eng_do(port, "{\"cmd\":\"limit\"}"));
	EXPECT_EQ(0, ferry_write(FERRY_DEBUGFS "rearm", "1"));
	return port;
}

TEST_F(comings, hangs_once)
{
	int i, port = hang_open(_metadata), times = ferry_iters(3, 1);
	long seen;

	for (i = 0; i < times; i++) {
		seen = eng_resting().quarantines;
		ASSERT_TRUE(let_hang(port, -1, 1, 1));
		ASSERT_TRUE(ferry_wait(quarantined, &seen, WAIT_MS));
		EXPECT_TRUE(ferry_wait(eng_has_all, &self->channels, 2 * WAIT_MS));
		is_back(_metadata, self);
	}
	close(port);
	all_is_well(_metadata, self, times);
}

/*
 * A channel that passes its test and hangs with the descriptors of movers: movers lose as
 * much each time, but less and less often. The descriptor after the two copies of the test is
 * a mover's.
 */
TEST_F(comings, hangs_each_time)
{
	int i, port, times = ferry_iters(3, 2);
	long pause = 0, seen;

	if (self->channels != 1) {
		all_is_well(_metadata, self, 0);
		SKIP(return, "needs an engine with one channel, whose copies can be counted");
	}
	port = hang_open(_metadata);
	seen = eng_resting().quarantines;
	for (i = 0; i < times; i++) {
		ASSERT_TRUE(let_hang(port, -1, i ? 3 : 1, 1));
		ASSERT_TRUE(ferry_wait(quarantined, &seen, 2 * pause + WAIT_MS));
		seen = eng_resting().quarantines;
		pause = next_rest(_metadata, pause);
	}
	EXPECT_TRUE(ferry_wait(eng_has_all, &self->channels, 2 * pause + WAIT_MS));
	is_back(_metadata, self);
	close(port);
	all_is_well(_metadata, self, i);
}

/*
 * A channel that does not pass its test either: movers do not notice it, and the other
 * channels go on.
 */
TEST_F(comings, hangs_always)
{
	/* Context 0 of SDXI is the administrative one. */
	int i, channel = strcmp(ferry_migrator(), "ferry_sdxi") ? 0 : 1;
	int port = hang_open(_metadata), times = ferry_iters(3, 2);
	long pause = 0, seen = eng_resting().quarantines;

	ASSERT_TRUE(let_hang(port, channel, 1, 0));
	ASSERT_TRUE(ferry_wait(quarantined, &seen, WAIT_MS));
	for (i = 0; i < times; i++)
		pause = next_rest(_metadata, pause);
	EXPECT_EQ(seen + 1, eng_resting().quarantines);
	EXPECT_EQ(self->channels - 1, eng_channels());
	EXPECT_TRUE(eng_calm(port));
	close(port);
	EXPECT_TRUE(ferry_wait(eng_has_all, &self->channels, 2 * pause + WAIT_MS));
	is_back(_metadata, self);
	all_is_well(_metadata, self, i);
}

static bool looked(void *arg)
{
	return eng_state("rescans") > *(long *)arg;
}

/*
 * A device that comes and goes on the same bus and is no engine of this kind is no reason for
 * a rescan, which takes long if an engine does not answer.
 */
TEST_F(comings, others_come_and_go)
{
	const char *other = strcmp(ferry_migrator(), "ptdma") ? "ptdma" : "ae4dma";
	char function[32];
	long seen;
	int i;

	if (!strcmp(ferry_migrator(), "ferry_sdxi") ||
	    !eng_function(other, function, sizeof(function))) {
		all_is_well(_metadata, self, 0);
		SKIP(return, "needs a second engine on the bus");
	}
	seen = eng_state("rescans");
	ASSERT_LE(0, seen);
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, eng_bind(other, "unbind", function));
		ASSERT_EQ(0, eng_bind(other, "bind", function));
	}
	/* The channel manager's thread is told, or is not, before each write returns. */
	ferry_sleep_ms(500);
	EXPECT_EQ(seen, eng_state("rescans"));
	is_back(_metadata, self);
	ASSERT_EQ(0, eng_bind(ferry_migrator(), "unbind", self->function));
	EXPECT_TRUE(ferry_wait(looked, &seen, WAIT_MS));
	seen = eng_state("rescans");
	ASSERT_EQ(0, eng_bind(ferry_migrator(), "bind", self->function));
	EXPECT_TRUE(ferry_wait(looked, &seen, WAIT_MS));
	is_back(_metadata, self);
	all_is_well(_metadata, self, 3);
}

/* As with any client, a driver whose channels are in use cannot be unloaded. */
TEST_F(comings, drivers_are_in_use)
{
	if (!strcmp(ferry_migrator(), "ferry_sdxi")) {
		all_is_well(_metadata, self, 0);
		SKIP(return, "the driver is in ferry.ko");
	}
	EXPECT_NE(0, syscall(SYS_delete_module, ferry_migrator(), O_NONBLOCK));
	EXPECT_EQ(EWOULDBLOCK, errno);
	is_back(_metadata, self);
	all_is_well(_metadata, self, 1);
}

/*
 * The CPU to which the engine's interrupts may go, and on which the threads that they wake
 * ran, goes off and comes back.
 */
TEST_F(comings, cpus_go_off)
{
	static const char online[] = "/sys/devices/system/cpu/cpu1/online";
	int i, times = ferry_iters(5, 2);

	ASSERT_EQ(0, access(online, W_OK));
	for (i = 0; i < times; i++) {
		ferry_sleep_ms(i * 7 % 50);
		ASSERT_EQ(0, ferry_write(online, "0"));
		is_back(_metadata, self);
		ASSERT_EQ(0, ferry_write(online, "1"));
		is_back(_metadata, self);
	}
	all_is_well(_metadata, self, times);
}

static bool about_to_be_tried(void *arg)
{
	struct eng_resting r = eng_resting();

	return r.pause && r.left < ASLEEP_MS / 2;
}

/* The log's record of a sleep, from the freezing of tasks to their restart. */
struct slept {
	int times;
	/* Channels that passed their test before the sleep, and during it. */
	int before, within;
};

static struct slept log_of_sleep(int fd)
{
	struct slept s = {};
	bool asleep = false;
	char line[2048];
	ssize_t n;

	while ((n = read(fd, line, sizeof(line) - 1)) > 0 || errno == EPIPE) {
		if (n <= 0)
			continue;
		line[n] = '\0';
		if (strstr(line, "Freezing user space processes\n")) {
			asleep = true;
			s.times++;
		}
		if (strstr(line, "Restarting tasks"))
			asleep = false;
		if (strstr(line, "has passed its test") && asleep)
			s.within++;
		else if (strstr(line, "has passed its test") && !s.times)
			s.before++;
	}
	close(fd);
	return s;
}

/* If a pause ends while the machine sleeps, the channel is tried when the machine is awake. */
TEST_F(comings, not_tried_asleep)
{
	struct slept s = { .before = 1 };
	int i, port, log;

	if (access("/sys/power/pm_test", F_OK)) {
		all_is_well(_metadata, self, 0);
		SKIP(return, "needs CONFIG_SUSPEND and CONFIG_PM_DEBUG");
	}
	ASSERT_EQ(0, ferry_set("/sys/power/pm_test", "freezer"));
	port = hang_open(_metadata);
	for (i = 0; i < 5 && s.before; i++) {
		EXPECT_TRUE(ferry_wait(eng_has_all, &self->channels, LONGEST_MS));
		log = race_log_open();
		ASSERT_LE(0, log);
		ASSERT_TRUE(let_hang(port, -1, 1, 1));
		ASSERT_TRUE(ferry_wait(about_to_be_tried, NULL, LONGEST_MS));
		ASSERT_EQ(0, ferry_write("/sys/power/state", "freeze"));
		is_back(_metadata, self);
		s = log_of_sleep(log);
		EXPECT_EQ(1, s.times);
		EXPECT_EQ(0, s.within);
	}
	/* A channel was waiting for its test when the machine fell asleep. */
	EXPECT_EQ(0, s.before);
	close(port);
	all_is_well(_metadata, self, i);
}

/*
 * Only as far as drivers are notified: the guest's root is on a device that does not survive
 * more.
 */
TEST_F(comings, the_machine_sleeps)
{
	int i, times = ferry_iters(3, 1);

	if (access("/sys/power/pm_test", F_OK)) {
		all_is_well(_metadata, self, 0);
		SKIP(return, "needs CONFIG_SUSPEND and CONFIG_PM_DEBUG");
	}
	ASSERT_EQ(0, ferry_set("/sys/power/pm_test", "freezer"));
	for (i = 0; i < times; i++) {
		ferry_sleep_ms(i * 7 % 50);
		ASSERT_EQ(0, ferry_write("/sys/power/state", "freeze"));
		is_back(_metadata, self);
	}
	all_is_well(_metadata, self, times);
}

TEST_HARNESS_MAIN
