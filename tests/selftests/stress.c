// SPDX-License-Identifier: GPL-2.0
/*
 * Invariants: all of them.
 *
 * Everything that can happen to memory while it migrates happens at once.
 *
 *	stress [--seed N] [--seconds N] [--only storm,storm...] [--not storm,...] [--list]
 *
 * Each storm is a thread with memory of its own, and checks every page of it byte for byte
 * again and again. Two threads move the memory of all of them between two nodes all the time.
 * The seed is printed; the same seed gives the same decisions, but not the same timing.
 * FERRY_SECONDS is the time limit, 60 by default and 20 with FERRY_SHORT=1.
 *
 * One result for each storm: it has made rounds, and lost nothing. A storm for which the
 * machine lacks something is skipped, with the reason.
 */
#include <dirent.h>
#include <linux/udmabuf.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/swap.h>

#include "ferry_util.h"
#include "hazards.h"
#include "knobs.h"

#define LEN		(256UL << 10)
#define ALIGN		FERRY_PMD
#define MNT		"/tmp/ferry-fire"
#define ZRAM		"/dev/zram0"
#define FILE_OFF	0

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

struct storm {
	const char *name;
	void (*fn)(struct storm *s);
	bool keeps_going;	/* may make no round at all */
	/* input */
	char *mem;		/* memory to be moved; the movers read it, too */
	unsigned int r;
	/* results */
	long rounds;
	size_t bad;
	char skip[100];
	pthread_t thread;
	bool started;
};

#define GRACE_NS	120000000000ULL

static u64 end_ns;
static bool go;
static __thread struct storm *self_storm;
static int nodes[FERRY_MAX_NODES];
static const char *module;
static bool disk_ready;

/*
 * Returns true if the time is up. A storm without a round on a slow machine gets GRACE_NS
 * more.
 */
static bool over(void)
{
	u64 now = ferry_now_ns();

	if (self_storm && !self_storm->rounds && !self_storm->keeps_going)
		return now > end_ns + GRACE_NS;
	return now > end_ns;
}

static unsigned int rnd(struct storm *s, unsigned int n)
{
	s->r = s->r * 1103515245 + 12345;
	return (s->r >> 8) % n;
}

__printf(2, 3) static void skip(struct storm *s, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(s->skip, sizeof(s->skip), fmt, ap);
	va_end(ap);
}

static void publish(struct storm *s, char *mem)
{
	__atomic_store_n(&s->mem, mem, __ATOMIC_RELEASE);
}

/*
 * Maps private anonymous memory and publishes it to the movers. It has large folios if they
 * are on.
 */
static char *own(struct storm *s, size_t len)
{
	char *p = ferry_map_anon(len, ALIGN);

	if (p == MAP_FAILED) {
		skip(s, "no memory");
		return NULL;
	}
	publish(s, p);
	return p;
}

/* Returns the seed of a storm's content. */
static u64 seed_of(const struct storm *s)
{
	return (uintptr_t)s & 0xffff;
}

static void check(struct storm *s, const char *mem, size_t len, u64 gen)
{
	s->bad += ferry_verify(mem, len, seed_of(s), gen);
	s->rounds++;
}

static void fill(struct storm *s, char *mem, size_t len, u64 gen)
{
	ferry_fill(mem, len, seed_of(s), gen);
}

/* ---- memory ---- */

static void storm_write(struct storm *s)
{
	char *p = own(s, LEN);
	u64 gen = 0;
	size_t off;

	if (!p)
		return;
	fill(s, p, LEN, gen);
	while (!over()) {
		/* Page by page, so that each page is written at every stage of its migration. */
		for (off = 0; off < LEN && !over(); off += FERRY_PAGE) {
			s->bad += ferry_verify_at(p + off, FERRY_PAGE,
						  seed_of(s), gen, off);
			ferry_fill_at(p + off, FERRY_PAGE, seed_of(s),
				      gen + 1, off);
		}
		if (off < LEN)
			break;
		check(s, p, LEN, ++gen);
	}
}

static void storm_fork(struct storm *s)
{
	char *p = own(s, LEN);
	int status;
	pid_t pid;
	u64 gen;

	if (!p)
		return;
	for (gen = 0; !over(); gen += 2) {
		fill(s, p, LEN, gen);
		pid = fork();
		if (pid < 0)
			continue;
		if (!pid) {
			size_t bad = ferry_verify(p, LEN, seed_of(s), gen);

			fill(s, p, LEN, gen + 77);
			ferry_sleep_ms(5);
			bad += ferry_verify(p, LEN, seed_of(s), gen + 77);
			_exit(!!bad);
		}
		/* Half of it is copied on write here, the other half in the child. */
		check(s, p, LEN, gen);
		fill(s, p, LEN / 2, gen + 1);
		check(s, p, LEN / 2, gen + 1);
		waitpid(pid, &status, 0);
		s->bad += !WIFEXITED(status) || WEXITSTATUS(status);
	}
}

static void storm_mremap(struct storm *s)
{
	char *p = own(s, LEN), *q, *to;
	u64 gen;

	if (!p)
		return;
	to = ferry_map_anon(LEN, ALIGN);
	if (to == MAP_FAILED)
		return skip(s, "no memory");
	for (gen = 0; !over(); gen++) {
		fill(s, p, LEN, gen);
		/* The former place stays mapped, so that no other thread can map there. */
		q = mremap(p, LEN, LEN,
			   MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to);
		if (q == MAP_FAILED) {
			s->bad++;
			break;
		}
		publish(s, q);
		check(s, q, LEN, gen);
		to = p;
		p = q;
	}
}

static void storm_munmap(struct storm *s)
{
	char *p;
	u64 gen;

	for (gen = 0; !over(); gen++) {
		p = own(s, LEN);
		if (!p)
			return;
		fill(s, p, LEN, gen);
		ferry_sleep_ms(rnd(s, 10));
		check(s, p, LEN, gen);
		/* In two parts, the first one from the middle of a folio. */
		munmap(p + LEN / 2, LEN / 2);
		check(s, p, LEN / 2, gen);
		munmap(p, LEN / 2);
	}
	publish(s, NULL);
}

static void storm_mprotect(struct storm *s)
{
	char *p = own(s, LEN);
	u64 gen;

	if (!p)
		return;
	for (gen = 0; !over(); gen++) {
		fill(s, p, LEN, gen);
		s->bad += !!mprotect(p, LEN, PROT_READ);
		check(s, p, LEN, gen);
		s->bad += !!mprotect(p + FERRY_PAGE, LEN / 2, PROT_NONE);
		ferry_sleep_ms(1);
		s->bad += !!mprotect(p, LEN, PROT_READ | PROT_WRITE);
		check(s, p, LEN, gen);
	}
}

static void storm_madvise(struct storm *s)
{
	char *p = own(s, ALIGN);
	size_t off, i;
	u64 gen;

	if (!p)
		return;
	for (gen = 0; !over(); gen++) {
		fill(s, p, ALIGN, gen);
		switch (rnd(s, 3)) {
		case 0:
			madvise(p, ALIGN / 2, MADV_DONTNEED);
			for (i = 0; i < ALIGN / 2; i++)
				s->bad += p[i] != 0;
			s->bad += ferry_verify_at(p + ALIGN / 2, ALIGN / 2,
						  seed_of(s), gen,
						  ALIGN / 2);
			break;
		case 1:
			/* A page that is free may be zero or have its former content. */
			madvise(p, ALIGN, MADV_FREE);
			for (off = 0; off < ALIGN; off += FERRY_PAGE) {
				u64 first = *(u64 *)(p + off);

				if (first && first != ferry_word(seed_of(s),
								 gen, off))
					s->bad++;
			}
			fill(s, p, ALIGN, gen);
			check(s, p, ALIGN, gen);
			break;
		default:
			madvise(p, ALIGN, MADV_COLLAPSE);
			check(s, p, ALIGN, gen);
			break;
		}
		s->rounds++;
	}
}

static void storm_mlock(struct storm *s)
{
	char *p = own(s, LEN);
	u64 gen;

	if (!p)
		return;
	for (gen = 0; !over(); gen++) {
		fill(s, p, LEN, gen);
		mlock(p, LEN);
		check(s, p, LEN, gen);
		munlock(p, LEN);
		check(s, p, LEN, gen);
	}
}

static void storm_ksm(struct storm *s)
{
	size_t off, n = LEN / FERRY_PAGE, i;
	char *p = own(s, LEN), want;
	u64 gen;

	if (!p)
		return;
	if (access("/sys/kernel/mm/ksm/run", W_OK))
		return skip(s, "the kernel has no KSM");
	ferry_write("/sys/kernel/mm/ksm/pages_to_scan", "1000");
	ferry_write("/sys/kernel/mm/ksm/sleep_millisecs", "5");
	ferry_write("/sys/kernel/mm/ksm/run", "1");
	madvise(p, LEN, MADV_MERGEABLE);
	for (gen = 0; !over(); gen++) {
		for (i = 0; i < n; i++)
			memset(p + i * FERRY_PAGE, (gen + i % 4) & 0x7f, FERRY_PAGE);
		ferry_sleep_ms(50);
		/* The pages are merged by now; some are written to and come apart. */
		for (i = 0; i < n; i += 3)
			p[i * FERRY_PAGE + 9] = 0x55;
		for (i = 0; i < n; i++) {
			want = (gen + i % 4) & 0x7f;
			for (off = 0; off < FERRY_PAGE; off++)
				s->bad += p[i * FERRY_PAGE + off] !=
					  (off == 9 && !(i % 3) ? 0x55 : want);
		}
		s->rounds++;
	}
	ferry_write("/sys/kernel/mm/ksm/run", "2");
}

static void storm_swap(struct storm *s)
{
	char *p = own(s, LEN);
	bool on = false;
	u64 gen;

	if (!p)
		return;
	if (access("/sys/block/zram0/disksize", W_OK))
		return skip(s, "the kernel has no zram");
	if (ferry_read_long("/sys/block/zram0/disksize") == 0)
		ferry_write("/sys/block/zram0/disksize", "%d", 64 << 20);
	if (ferry_run("mkswap", ZRAM, NULL))
		return skip(s, "mkswap fails");
	for (gen = 0; !over(); gen++) {
		if (!on)
			on = !swapon(ZRAM, 0);
		fill(s, p, LEN, gen);
		madvise(p, LEN, MADV_PAGEOUT);
		if (gen & 1)
			ferry_sleep_ms(5);
		check(s, p, LEN / 2, gen);
		/* The other half comes back because swap is turned off. */
		if (on && gen % 4 == 3 && !swapoff(ZRAM))
			on = false;
		check(s, p, LEN, gen);
	}
	if (on)
		swapoff(ZRAM);
}

struct uffd {
	int fd;
	char *mem;
	char *from;
	bool move;
	bool stop;
	long served;
};

static void *uffd_fn(void *arg)
{
	struct uffd *u = arg;
	struct uffd_msg msg;
	struct pollfd pfd = { .fd = u->fd, .events = POLLIN };
	unsigned long at;

	for (;;) {
		if (poll(&pfd, 1, 100) <= 0) {
			/* Not before the last fault has been served. */
			if (__atomic_load_n(&u->stop, __ATOMIC_ACQUIRE))
				return NULL;
			continue;
		}
		if (read(u->fd, &msg, sizeof(msg)) != sizeof(msg) ||
		    msg.event != UFFD_EVENT_PAGEFAULT)
			continue;
		at = msg.arg.pagefault.address & ~(FERRY_PAGE - 1);
#ifdef UFFDIO_MOVE
		if (u->move && u->served & 1) {
			struct uffdio_move mv = {
				.dst = at,
				.src = (uintptr_t)u->from + (at - (uintptr_t)u->mem),
				.len = FERRY_PAGE,
			};
			int ret;

			do {
				mv.move = 0;
				ret = ioctl(u->fd, UFFDIO_MOVE, &mv);
			} while (ret && (errno == EAGAIN || errno == EBUSY) &&
				 !over());
			if (!ret) {
				u->served++;
				continue;
			}
		}
#endif
		{
			struct uffdio_copy copy = {
				.dst = at,
				.src = (uintptr_t)u->from + (at - (uintptr_t)u->mem),
				.len = FERRY_PAGE,
			};

			/*
			 * The faulting thread tries again if the fault met a change of the
			 * mapping.
			 */
			if (ioctl(u->fd, UFFDIO_COPY, &copy) && errno == EAGAIN) {
				struct uffdio_range range = { at, FERRY_PAGE };

				ioctl(u->fd, UFFDIO_WAKE, &range);
			}
			u->served++;
		}
	}
}

static void storm_uffd(struct storm *s)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffd u = {};
	pthread_t thread;
	char *p = own(s, LEN);
	u64 gen;

	if (!p)
		return;
	u.from = ferry_map_anon(LEN, ALIGN);
	u.mem = p;
	u.fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (u.fd < 0 || u.from == MAP_FAILED)
		return skip(s, "the kernel has no userfaultfd");
#ifdef UFFD_FEATURE_MOVE
	api.features = UFFD_FEATURE_MOVE;
	u.move = true;
#endif
	if (ioctl(u.fd, UFFDIO_API, &api))
		return skip(s, "UFFDIO_API fails");
	reg.range.start = (uintptr_t)p;
	reg.range.len = LEN;
	if (ioctl(u.fd, UFFDIO_REGISTER, &reg))
		return skip(s, "UFFDIO_REGISTER fails");
	if (pthread_create(&thread, NULL, uffd_fn, &u))
		return skip(s, "no thread");
	for (gen = 0; !over(); gen++) {
		fill(s, u.from, LEN, gen);
		madvise(p, LEN, MADV_DONTNEED);
		/* Every page comes from the handler, copied or moved. */
		check(s, p, LEN, gen);
	}
	__atomic_store_n(&u.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	if (!u.served)
		s->bad++;
	close(u.fd);
}

static void storm_shmem(struct storm *s)
{
	int fd = memfd_create("fire", MFD_ALLOW_SEALING), udev, d;
	char *p;
	u64 gen, want, at, *m;

	if (fd < 0 || ftruncate(fd, LEN) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK))
		return skip(s, "no memfd");
	p = ferry_map_file(fd, LEN, ALIGN, PROT_READ | PROT_WRITE, MAP_SHARED);
	if (p == MAP_FAILED)
		return skip(s, "no memory");
	publish(s, p);
	udev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	for (gen = 0; !over(); gen++) {
		if (gen & 1)
			fill(s, p, LEN, gen);
		else if (ferry_fill_fd(fd, LEN, seed_of(s), gen))
			s->bad++;
		if (udev >= 0) {
			struct udmabuf_create u = {
				.memfd = fd,
				.flags = UDMABUF_FLAGS_CLOEXEC,
				.offset = rnd(s, LEN / FERRY_PAGE) * FERRY_PAGE,
				.size = FERRY_PAGE,
			};

			d = ioctl(udev, UDMABUF_CREATE, &u);
			m = d < 0 ? MAP_FAILED :
				    mmap(NULL, FERRY_PAGE, PROT_READ | PROT_WRITE,
					 MAP_SHARED, d, 0);
			if (m != MAP_FAILED) {
				want = gen << 20 | 7;
				__atomic_store_n(&m[5], want, __ATOMIC_RELAXED);
				munmap(m, FERRY_PAGE);
				close(d);
				at = u.offset + 40;
				m = (u64 *)(p + at);
				s->bad += __atomic_load_n(m, __ATOMIC_RELAXED) != want;
				*m = ferry_word(seed_of(s), gen, at);
			}
		}
		check(s, p, LEN, gen);
		s->bad += ferry_verify_fd(fd, LEN, seed_of(s), gen) != 0;
	}
}

/* ---- the disk ---- */

static void storm_direct(struct storm *s)
{
	char *p, *q;
	u64 gen;
	int fd;

	if (!disk_ready)
		return skip(s, "needs a disk at " FERRY_DISK);
	p = own(s, LEN);
	q = ferry_map_anon(LEN, ALIGN);
	fd = open(MNT "/direct", O_RDWR | O_CREAT | O_DIRECT, 0600);
	if (!p || q == MAP_FAILED || fd < 0)
		return skip(s, "no memory or no file");
	for (gen = 0; !over(); gen++) {
		fill(s, q, LEN, gen);
		s->bad += pwrite(fd, q, LEN, FILE_OFF) != (ssize_t)LEN;
		s->bad += pread(fd, p, LEN, FILE_OFF) != (ssize_t)LEN;
		check(s, p, LEN, gen);
	}
	close(fd);
}

static void storm_ext4(struct storm *s)
{
	int fd, disk, i, k = 0;
	char path[80], *p, *map;
	u64 gen;

	if (!disk_ready)
		return skip(s, "needs a disk at " FERRY_DISK);
	fd = open(MNT "/file", O_RDWR | O_CREAT, 0600);
	disk = open(FERRY_DISK, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || disk < 0 || ftruncate(fd, LEN))
		return skip(s, "no file");
	p = ferry_map_file(fd, LEN, ALIGN, PROT_READ | PROT_WRITE, MAP_SHARED);
	map = mmap(NULL, LEN, PROT_READ, MAP_SHARED, disk, 0);
	if (p == MAP_FAILED || map == MAP_FAILED)
		return skip(s, "no memory");
	for (gen = 0; !over(); gen++) {
		/* The movers get the file, and in turn the metadata. */
		madvise(map, LEN, MADV_POPULATE_READ);
		publish(s, gen & 1 ? p : map);
		fill(s, p, LEN, gen);
		for (i = 0; i < 20; i++, k++) {
			snprintf(path, sizeof(path), MNT "/d%d", k % 40);
			if (k / 40 & 1)
				rmdir(path);
			else
				mkdir(path, 0700);
		}
		if (gen % 8 == 7)
			s->bad += !!fsync(fd);
		check(s, p, LEN, gen);
		s->bad += ferry_verify_fd(fd, LEN, seed_of(s), gen) != 0;
	}
	publish(s, NULL);
	munmap(map, LEN);
	munmap(p, LEN);
	close(disk);
	close(fd);
}

/* ---- the machine ---- */

static void storm_cpu(struct storm *s)
{
	char path[80];
	int cpu;

	/* The first CPU cannot go offline. */
	cpu = ferry_node_cpu(nodes[1]);
	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
	if (cpu <= 0 || access(path, W_OK))
		return skip(s, "no CPU that can go");
	while (!over()) {
		if (!ferry_write(path, "0"))
			s->rounds++;
		ferry_sleep_ms(100 + rnd(s, 200));
		ferry_write(path, "1");
		ferry_sleep_ms(100 + rnd(s, 400));
	}
	ferry_write(path, "1");
}

static void storm_memory(struct storm *s)
{
	static char block[64][260];
	char path[400], zones[64];
	struct dirent *e;
	int n = 0, k;
	pid_t pid;
	DIR *d;

	d = opendir("/sys/devices/system/memory");
	while (d && n < 64 && (e = readdir(d))) {
		if (strncmp(e->d_name, "memory", 6))
			continue;
		snprintf(path, sizeof(path), "/sys/devices/system/memory/%s/valid_zones",
			 e->d_name);
		if (ferry_read(path, zones, sizeof(zones)) > 0 &&
		    !strncmp(zones, "Movable", 7))
			snprintf(block[n++], sizeof(block[0]), "%s", e->d_name);
	}
	if (d)
		closedir(d);
	if (!n)
		return skip(s, "no memory in ZONE_MOVABLE (movablecore=)");
	while (!over()) {
		k = rnd(s, n);
		snprintf(path, sizeof(path), "/sys/devices/system/memory/%s/state",
			 block[k]);
		/* Offlining tries for ever; a signal ends it. */
		pid = fork();
		if (!pid) {
			alarm(3);
			_exit(!!ferry_write(path, "offline"));
		}
		if (pid > 0) {
			int status;

			waitpid(pid, &status, 0);
			s->rounds += WIFEXITED(status) && !WEXITSTATUS(status);
		}
		ferry_write(path, "online_movable");
		ferry_sleep_ms(100);
	}
}

static void storm_compact(struct storm *s)
{
	while (!over()) {
		if (ferry_write("/proc/sys/vm/compact_memory", "1"))
			return skip(s, "the kernel cannot compact");
		s->rounds++;
		ferry_sleep_ms(100);
	}
}

static void storm_numa(struct storm *s)
{
	char *p = own(s, LEN);
	int n[FERRY_MAX_NODES], nr = ferry_cpu_nodes(n);
	u64 gen;

	if (!p)
		return;
	if (access("/proc/sys/kernel/numa_balancing", W_OK))
		return skip(s, "the kernel has no NUMA balancing");
	ferry_write("/sys/kernel/debug/sched/numa_balancing/scan_delay_ms", "10");
	ferry_write("/sys/kernel/debug/sched/numa_balancing/scan_period_min_ms", "10");
	ferry_write("/proc/sys/kernel/numa_balancing", "1");
	for (gen = 0; !over(); gen++) {
		ferry_pin_cpu(ferry_node_cpu(n[gen % nr]));
		fill(s, p, LEN, gen);
		ferry_sleep_ms(20);
		check(s, p, LEN, gen);
	}
}

/* ---- Ferry ---- */

static const struct {
	const char *name;
	unsigned long values[4];
} injects[] = {
	{ "delay_after_submit_us", { 0, 0, 100, 5000 } },
	{ "delay_in_chunk_us", { 0, 0, 100, 2000 } },
	{ "late_done_us", { 0, 0, 100, 2000 } },
	{ "decline_batch_every", { 0, 1, 2, 5 } },
	{ "decline_in_place_every", { 0, 1, 2, 5 } },
	{ "fail_chunk_every", { 0, 1, 2, 5 } },
	{ "fail_move_every", { 0, 0, 3, 17 } },
	{ "again_move_every", { 0, 1, 2, 5 } },
	{ "exhaust_pool", { 0, 0, 0, 1 } },
	{ "workers_only", { 0, 0, 0, 1 } },
	{ "all_workers", { 0, 0, 1, 1 } },
};

static void storm_knobs(struct storm *s)
{
	char path[80];
	int k;

	while (!over()) {
		k = rnd(s, ARRAY_SIZE(knobs));
		snprintf(path, sizeof(path), FERRY_SYSCTL "%s", knobs[k].name);
		/* The module may not be loaded at the moment. */
		s->rounds += !ferry_write(path, "%s", knobs[k].values[rnd(s, 4)]);
		if (!rnd(s, 4))
			ferry_write(FERRY_SYSCTL "migrator", "%s",
				    rnd(s, 4) ? ferry_migrator() : "off");
		ferry_sleep_ms(10);
	}
}

static void storm_inject(struct storm *s)
{
	char path[80];
	int k;

	while (!over()) {
		k = rnd(s, ARRAY_SIZE(injects));
		snprintf(path, sizeof(path), FERRY_DEBUGFS "inject/%s", injects[k].name);
		s->rounds += !ferry_write(path, "%lu", injects[k].values[rnd(s, 4)]);
		ferry_sleep_ms(10);
	}
}

static void storm_module(struct storm *s)
{
	if (!module)
		return skip(s, "needs FERRY_MODULE");
	while (!over()) {
		ferry_sleep_ms(10 + rnd(s, 1000));
		if (!race_unload()) {
			s->rounds++;
			if (race_load()) {
				s->bad++;
				ferry_note("ferry.ko does not load again");
				break;
			}
		}
		ferry_write(FERRY_SYSCTL "migrator", "%s", ferry_migrator());
	}
}

/* ---- all of them ---- */

static struct storm storms[] = {
	{ "write", storm_write },
	{ "fork", storm_fork },
	{ "mremap", storm_mremap },
	{ "munmap", storm_munmap },
	{ "mprotect", storm_mprotect },
	{ "madvise", storm_madvise },
	{ "mlock", storm_mlock },
	{ "ksm", storm_ksm },
	{ "swap", storm_swap },
	{ "uffd", storm_uffd },
	{ "shmem", storm_shmem },
	{ "direct", storm_direct },
	{ "ext4", storm_ext4 },
	{ "cpu", storm_cpu },
	{ "memory", storm_memory, .keeps_going = true },
	{ "compact", storm_compact },
	{ "numa", storm_numa },
	{ "knobs", storm_knobs },
	{ "inject", storm_inject },
	{ "module", storm_module, .keeps_going = true },
};

/* A thread that moves the memory of the storms, a random part at a time. */
struct mover {
	pthread_t thread;
	unsigned int seed;
	long calls;
	long pages;
};

static void wait_for_go(void)
{
	while (!__atomic_load_n(&go, __ATOMIC_ACQUIRE))
		ferry_sleep_ms(1);
}

static void *mover_fn(void *arg)
{
	struct storm self = { .r = ((struct mover *)arg)->seed };
	struct mover *m = arg;
	size_t first, n, step;
	struct storm *s;
	char *mem;
	long ret;

	wait_for_go();
	while (!over()) {
		if (!rnd(&self, 40)) {
			ferry_migrate_pages(0, nodes[m->calls & 1],
					    nodes[!(m->calls & 1)]);
			m->calls++;
			continue;
		}
		s = &storms[rnd(&self, ARRAY_SIZE(storms))];
		mem = __atomic_load_n(&s->mem, __ATOMIC_ACQUIRE);
		if (!mem)
			continue;
		step = rnd(&self, 4) ? FERRY_PAGE : 4 * FERRY_PAGE;
		first = rnd(&self, LEN / step);
		n = 1 + rnd(&self, LEN / step - first);
		if (!rnd(&self, 3)) {
			first = 0;
			n = LEN / step;
		}
		ret = race_move_pages(mem + first * step, n * step, step,
				      nodes[rnd(&self, 2)]);
		m->calls++;
		m->pages += ret >= 0 ? n - ret : 0;
	}
	return NULL;
}

static void *storm_thread(void *arg)
{
	struct storm *s = arg;

	wait_for_go();
	self_storm = s;
	s->fn(s);
	publish(s, NULL);
	return NULL;
}

static bool in_list(const char *list, const char *name)
{
	size_t n = strlen(name);
	const char *p = list;

	while (p && (p = strstr(p, name))) {
		if ((p == list || p[-1] == ',') && (p[n] == ',' || !p[n]))
			return true;
		p += n;
	}
	return false;
}

/* Saves everything that the storms change, so that it is restored at the end. */
static void remember(void)
{
	static const char * const paths[] = {
		"/sys/kernel/mm/ksm/run",
		"/sys/kernel/mm/ksm/pages_to_scan",
		"/sys/kernel/mm/ksm/sleep_millisecs",
		"/proc/sys/kernel/numa_balancing",
		"/sys/kernel/debug/sched/numa_balancing/scan_delay_ms",
		"/sys/kernel/debug/sched/numa_balancing/scan_period_min_ms",
	};
	char value[200], path[120];
	int i;

	for (i = 0; i < ARRAY_SIZE(paths); i++)
		if (ferry_read(paths[i], value, sizeof(value)) > 0)
			ferry_set(paths[i], "%s", value);
	for (i = 0; ferry_loaded() && i < ARRAY_SIZE(knobs); i++) {
		snprintf(path, sizeof(path), FERRY_SYSCTL "%s", knobs[i].name);
		if (ferry_read(path, value, sizeof(value)) > 0)
			ferry_set(path, "%s", value);
	}
	for (i = 0; ferry_loaded() && i < ARRAY_SIZE(injects); i++)
		ferry_inject(injects[i].name, 0);
}

int main(int argc, char **argv)
{
	const char *only = NULL, *not = NULL, *env = getenv("FERRY_SECONDS");
	int seconds = env ? atoi(env) : ferry_iters(60, 20), i, plan = 0, log;
	unsigned int seed = 20261121;
	struct mover movers[2] = {};
	struct storm *s;
	long pages = 0;

	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--list")) {
			for (s = storms; s < storms + ARRAY_SIZE(storms); s++)
				printf("%s\n", s->name);
			return 0;
		} else if (i + 1 < argc && !strcmp(argv[i], "--seed")) {
			seed = strtoul(argv[++i], NULL, 0);
		} else if (i + 1 < argc && !strcmp(argv[i], "--seconds")) {
			seconds = atoi(argv[++i]);
		} else if (i + 1 < argc && !strcmp(argv[i], "--only")) {
			only = argv[++i];
		} else if (i + 1 < argc && !strcmp(argv[i], "--not")) {
			not = argv[++i];
		} else {
			fprintf(stderr, "%s: see the head of stress.c\n", argv[i]);
			return KSFT_FAIL;
		}
	}

	ksft_print_header();
	if (ferry_mem_nodes(nodes) < 2)
		ksft_exit_skip("needs two nodes with memory\n");
	ferry_note("seed %u, %d s, migrator %s", seed, seconds, ferry_migrator());
	module = getenv("FERRY_MODULE");
	log = race_log_open();
	ferry_quiet();
	remember();
	/* Large folios where the kernel finds them. */
	ferry_set(FERRY_THP "hugepages-64kB/enabled", "always");
	ferry_set(FERRY_THP "enabled", "always");
	disk_ready = !ferry_ext4(FERRY_DISK, MNT);

	for (s = storms; s < storms + ARRAY_SIZE(storms); s++) {
		s->r = seed * 31 + (s - storms);
		if ((only && !in_list(only, s->name)) || in_list(not, s->name))
			continue;
		plan++;
		if (!ferry_loaded() && (s->fn == storm_knobs || s->fn == storm_inject ||
					s->fn == storm_module)) {
			skip(s, "needs ferry.ko");
			continue;
		}
		s->started = !pthread_create(&s->thread, NULL, storm_thread, s);
		if (!s->started)
			skip(s, "no thread");
	}
	for (i = 0; i < ARRAY_SIZE(movers); i++) {
		movers[i].seed = seed + 1000 + i;
		if (pthread_create(&movers[i].thread, NULL, mover_fn, &movers[i]))
			ksft_exit_fail_msg("no thread for a mover\n");
	}

	end_ns = ferry_now_ns() + seconds * 1000000000ULL;
	__atomic_store_n(&go, true, __ATOMIC_RELEASE);

	ksft_set_plan(plan + 2);
	for (s = storms; s < storms + ARRAY_SIZE(storms); s++) {
		if (s->started)
			pthread_join(s->thread, NULL);
		else if (!*s->skip)
			continue;
		if (*s->skip)
			ksft_test_result_skip("%s # %s\n", s->name, s->skip);
		else
			ksft_test_result(!s->bad && (s->rounds || s->keeps_going),
					 "%s: %ld rounds, %zu bad\n", s->name, s->rounds,
					 s->bad);
	}
	for (i = 0; i < ARRAY_SIZE(movers); i++) {
		pthread_join(movers[i].thread, NULL);
		pages += movers[i].pages;
	}
	ksft_test_result(pages > 0, "movers: %ld calls, %ld pages\n",
			 movers[0].calls + movers[1].calls, pages);

	if (module && !ferry_loaded())
		race_load();
	ferry_restore();
	if (ferry_loaded()) {
		ferry_write(FERRY_SYSCTL "migrator", "%s", ferry_migrator());
		ferry_wait(race_none_parked, NULL, 5000);
		if (!ferry_wait(race_pool_whole, NULL, 5000))
			ferry_note("the pool is not whole");
	}
	i = 0;
	if (disk_ready)
		i = umount(MNT) || ferry_run("e2fsck", "-fn", FERRY_DISK, NULL);
	ksft_test_result(!i && !race_log_count(log, "memory corruption"),
			 "file system and free pages are whole\n");
	ksft_finished();
}
