// SPDX-License-Identifier: GPL-2.0
/*
 * Invariant: I2
 *
 * Only anonymous memory and shmem are copied early; shmem because memfd_pin_folios() locks
 * the folio after it took its reference.
 *
 *	eligible --stock [seconds] [2M]
 *
 * shows what the unmodified kernel does to a program that writes through short-lived udmabufs
 * of a memfd while another thread moves it with move_pages(2): writes get lost, because
 * memfd_pin_folios() takes references without the folio lock, which a migration between its
 * check and its freeze does not see. It fails if no write was lost in that time. Seen with
 * unmodified 7.3.4 (QEMU TCG, 2 CPUs, --stock 30 2M): 603 of 76096 writes lost. With 4K
 * folios it is about one in 70000, so it needs a minute or more.
 *
 * The fixture udmabuf: a folio is copied early and the batch is held open
 * (delay_after_submit_us); in this time a write through a udmabuf comes and goes. The written
 * value has to be there afterwards.
 *
 * Seen red, in scratch copies: without the lock in memfd_pin_folios()
 * (memfd_pinned_folio_stays() returns true at once), the first write in the open batch is
 * lost at 4K, 64K and 2M; with migrate_copy_eligible() true for every folio,
 * files_are_never_early counts 1988 eligible folios, and 10158080 bytes copied early.
 */
#include <linux/udmabuf.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>

#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"

#define MNT	"/tmp/ferry-i2"
#define HUGE	((char *)0x7e0000000000)

/* ---- a memfd and short-lived udmabufs of it ---- */

struct memfd {
	int udev;
	int fd;
	char *map;
	size_t len;
};

static void memfd_close(struct memfd *m)
{
	if (m->map && m->map != MAP_FAILED)
		munmap(m->map, m->len);
	if (m->fd > 0)
		close(m->fd);
	if (m->udev > 0)
		close(m->udev);
	memset(m, 0, sizeof(*m));
}

/* Makes a memfd of @len bytes, mapped and filled with zeroes on @node (-1: on any node). */
static int memfd_open(struct memfd *m, size_t len, int node)
{
	memset(m, 0, sizeof(*m));
	m->udev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	if (m->udev < 0)
		return -errno;
	m->len = len;
	m->fd = memfd_create("ferry", MFD_ALLOW_SEALING);
	if (m->fd < 0 || ftruncate(m->fd, len) ||
	    fcntl(m->fd, F_ADD_SEALS, F_SEAL_SHRINK))
		return -errno;
	m->map = mmap(HUGE, len, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
	if (m->map == MAP_FAILED)
		return -errno;
	if (node >= 0)
		return ferry_populate(m->map, len, node);
	memset(m->map, 0, len);
	return 0;
}

/*
 * Writes one word at @off through a udmabuf that exists only for this call. The only
 * references are those of memfd_pin_folios(), and they are dropped at the end.
 */
static int udmabuf_write(struct memfd *m, size_t off, u64 value)
{
	struct udmabuf_create u = {
		.memfd = m->fd,
		.flags = UDMABUF_FLAGS_CLOEXEC,
		.offset = off & ~(FERRY_PAGE - 1),
		.size = FERRY_PAGE,
	};
	u64 *p;
	int fd;

	fd = ioctl(m->udev, UDMABUF_CREATE, &u);
	if (fd < 0)
		return -errno;
	p = mmap(NULL, FERRY_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) {
		close(fd);
		return -errno;
	}
	__atomic_store_n(&p[off % FERRY_PAGE / 8], value, __ATOMIC_RELAXED);
	munmap(p, FERRY_PAGE);
	close(fd);
	return 0;
}

static u64 memfd_read(struct memfd *m, size_t off)
{
	u64 got = ~0ULL;

	if (pread(m->fd, &got, sizeof(got), off) != sizeof(got))
		return ~0ULL;
	return got;
}

/* A thread that moves the memfd back and forth until it is told to stop. */
struct pingpong {
	struct memfd *m;
	size_t step;
	const int *nodes;
	int cpu;
	bool stop;
	long moves;
	pthread_t thread;
};

static void *pingpong_fn(void *arg)
{
	struct pingpong *p = arg;

	if (p->cpu >= 0)
		ferry_pin_cpu(p->cpu);
	while (!__atomic_load_n(&p->stop, __ATOMIC_RELAXED)) {
		race_move_pages(p->m->map, p->m->len, p->step,
				p->nodes[!(p->moves & 1)]);
		p->moves++;
	}
	return NULL;
}

/*
 * Writes through udmabufs and reads back while the memfd moves. Returns the number of lost
 * writes.
 */
static long storm(struct memfd *m, struct pingpong *p, int seconds, long *writes)
{
	size_t n = m->len / FERRY_PAGE, at[64], off;
	u64 *want = calloc(n, sizeof(*want)), c = 0;
	u64 end = ferry_now_ns() + seconds * 1000000000ULL;
	unsigned int r = 1;
	long lost = 0;
	int k;

	*writes = 0;
	if (pthread_create(&p->thread, NULL, pingpong_fn, p))
		return -1;
	while (ferry_now_ns() < end) {
		for (k = 0; k < ARRAY_SIZE(at); k++) {
			r = r * 1103515245 + 12345;
			at[k] = n / ARRAY_SIZE(at) * k +
				(r >> 8) % (n / ARRAY_SIZE(at));
			want[at[k]] = ++c;
			if (udmabuf_write(m, at[k] * FERRY_PAGE + 64, c))
				return -1;
			++*writes;
		}
		for (k = 0; k < ARRAY_SIZE(at); k++) {
			off = at[k] * FERRY_PAGE + 64;
			lost += memfd_read(m, off) != want[at[k]];
		}
	}
	__atomic_store_n(&p->stop, true, __ATOMIC_RELAXED);
	pthread_join(p->thread, NULL);
	free(want);
	return lost;
}

static int stock(int seconds, bool huge)
{
	int nodes[FERRY_MAX_NODES];
	struct pingpong p = { .nodes = nodes, .cpu = -1 };
	struct memfd m;
	long writes, lost;
	int ret;

	if (ferry_mem_nodes(nodes) < 2) {
		printf("needs two nodes with memory\n");
		return KSFT_SKIP;
	}
	ferry_quiet();
	ferry_shmem_only(huge ? 2048 : 0);
	ret = memfd_open(&m, huge ? 2 << 20 : 1 << 20, -1);
	if (ret) {
		printf("no memfd or no udmabuf: %d\n", ret);
		return KSFT_SKIP;
	}
	p.m = &m;
	p.step = huge ? FERRY_PMD : FERRY_PAGE;
	lost = storm(&m, &p, seconds, &writes);
	printf("%s: writes %ld, moves %ld, lost %ld\n", huge ? "2M" : "4K", writes,
	       p.moves, lost);
	ferry_restore();
	return lost > 0 ? KSFT_PASS : KSFT_FAIL;
}

/* ---- shmem ---- */

FIXTURE(udmabuf)
{
	int nodes[FERRY_MAX_NODES];
	struct memfd m;
};

FIXTURE_VARIANT(udmabuf)
{
	unsigned int kib;
	size_t len;
};

FIXTURE_VARIANT_ADD(udmabuf, 4k) { .kib = 4, .len = 1 << 20 };
FIXTURE_VARIANT_ADD(udmabuf, 64k) { .kib = 64, .len = 1 << 20 };
FIXTURE_VARIANT_ADD(udmabuf, 2m) { .kib = 2048, .len = 8 << 20 };

FIXTURE_SETUP(udmabuf)
{
	int ret;

	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	if (access("/dev/udmabuf", W_OK))
		SKIP(return, "needs udmabuf");
	ASSERT_EQ(0, race_prepare(self->nodes));
	ASSERT_EQ(0, ferry_shmem_only(variant->kib == 4 ? 0 : variant->kib));
	ret = memfd_open(&self->m, variant->len, self->nodes[0]);
	ASSERT_EQ(0, ret);
	ASSERT_EQ(variant->len, ferry_in_folios_of(self->m.map, variant->len,
						   variant->kib << 10));
}

FIXTURE_TEARDOWN(udmabuf)
{
	memfd_close(&self->m);
	ferry_restore();
}

/*
 * A write between the early copy and the check, for certain, because the mover sleeps there.
 * Either the writer waits for the folio lock, or the mover sees its reference.
 */
TEST_F(udmabuf, write_between_submit_and_check)
{
	int iters = ferry_iters(8, 3), i, k, hits = 0;
	size_t folio = variant->kib << 10, off;
	struct race_count c, sum;
	struct race_move move;
	u64 value;

	if (ferry_loaded()) {
		ASSERT_EQ(0, ferry_inject("delay_after_submit_us", 300000));
		ASSERT_EQ(0, ferry_inject("workers_only", 1));
	}
	race_count(&sum);
	for (i = 0; i < iters; i++) {
		ferry_fill(self->m.map, variant->len, 1, i);
		race_count(&c);
		ASSERT_EQ(0, race_move_start(&move, self->m.map, variant->len, folio,
					     self->nodes[!(i & 1)],
					     ferry_node_cpu(self->nodes[0])));
		if (ferry_active()) {
			long seen = ferry_stats_value(&c.before, "folios_copied_early");
			long all = ferry_stats_value(&c.before, "batches");

			/* The worker has copied the first folios by then. */
			if (race_until("batches", all, 5000)) {
				race_until("folios_copied_early", seen, 100);
				hits += !race_move_over(&move);
			}
		}
		for (k = 0; k < 4; k++) {
			off = variant->len / 4 * k + (k * 7 % 16) * FERRY_PAGE + 128;
			value = 0xfe1100000000ULL + i * 16 + k;
			/* A read of the value would take a reference and wait. */
			ASSERT_EQ(0, udmabuf_write(&self->m, off, value));
		}
		ASSERT_LE(0, race_move_end(&move));
		for (k = 0; k < 4; k++) {
			off = variant->len / 4 * k + (k * 7 % 16) * FERRY_PAGE + 128;
			value = 0xfe1100000000ULL + i * 16 + k;
			ASSERT_EQ(value, memfd_read(&self->m, off))
				TH_LOG("lost: offset %#zx", off);
			ASSERT_EQ(value, *(u64 *)(self->m.map + off));
			*(u64 *)(self->m.map + off) = ferry_word(1, i, off);
		}
		ASSERT_EQ(0, ferry_verify(self->m.map, variant->len, 1, i));
	}
	race_count_end(&sum);
	if (!ferry_active())
		return;
	ferry_note("%d of %d writes while a batch was open; eligible %ld, copied early %ld", hits,
		   iters, race_grown(&sum, "eligible_shmem"),
		   race_grown(&sum, "folios_copied_early"));
	EXPECT_GT(hits, 0);
	EXPECT_GT(race_grown(&sum, "eligible_shmem"), 0);
	EXPECT_GT(race_grown(&sum, "folios_copied_early"), 0);
}

/* The program of --stock, with batches held open for 3 ms. */
TEST_F(udmabuf, storm)
{
	struct pingpong p = {
		.m = &self->m,
		.step = variant->kib << 10,
		.nodes = self->nodes,
		.cpu = ferry_node_cpu(self->nodes[0]),
	};
	long writes, lost;
	struct race_count c;

	ferry_pin_cpu(ferry_node_cpu(self->nodes[1]));
	memset(self->m.map, 0, variant->len);
	if (ferry_loaded())
		ASSERT_EQ(0, ferry_inject("delay_after_submit_us", 3000));
	race_count(&c);
	lost = storm(&self->m, &p, ferry_iters(6, 3), &writes);
	race_count_end(&c);
	ferry_note("writes %ld, moves %ld, lost %ld; eligible %ld, early %ld", writes,
		   p.moves, lost, race_grown(&c, "eligible_shmem"),
		   race_grown(&c, "folios_copied_early"));
	EXPECT_EQ(0, lost);
	EXPECT_GT(writes, 0);
	EXPECT_GT(p.moves, 1);
	if (ferry_active() && variant->kib != 2048)
		EXPECT_GT(race_grown(&c, "eligible_shmem"), 0);
}

/* ---- other memory ---- */

#define PART	(1024UL << 10)

FIXTURE(eligible)
{
	int nodes[FERRY_MAX_NODES];
	char *anon;
	char *disk;
	char *file;
	int disk_fd;
	int file_fd;
};

FIXTURE_SETUP(eligible)
{
	int ret, i;

	self->anon = MAP_FAILED;
	self->disk = MAP_FAILED;
	self->file = MAP_FAILED;
	self->disk_fd = -1;
	self->file_fd = -1;
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	ASSERT_EQ(0, race_prepare(self->nodes));
	ret = ferry_ext4(FERRY_DISK, MNT);
	if (ret == -ENODEV)
		SKIP(return, "needs a disk at " FERRY_DISK);
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, ferry_mthp_only(0));
	self->anon = ferry_map_anon(PART, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->anon);

	/* The block device's own folios: ext4's metadata, with buffer heads. */
	for (i = 0; i < 64; i++) {
		char path[64];

		snprintf(path, sizeof(path), MNT "/%d", i);
		ASSERT_EQ(0, mkdir(path, 0700));
	}
	sync();
	self->disk_fd = open(FERRY_DISK, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(self->disk_fd, 0);
	self->disk = mmap(NULL, PART, PROT_READ, MAP_SHARED, self->disk_fd, 0);
	ASSERT_NE(MAP_FAILED, self->disk);

	self->file_fd = open(MNT "/file", O_RDWR | O_CREAT, 0600);
	ASSERT_GE(self->file_fd, 0);
	ASSERT_EQ(0, ferry_fill_fd(self->file_fd, PART, 21, 0));
	self->file = mmap(NULL, PART, PROT_READ | PROT_WRITE, MAP_SHARED,
			  self->file_fd, 0);
	ASSERT_NE(MAP_FAILED, self->file);
}

FIXTURE_TEARDOWN(eligible)
{
	if (self->anon != MAP_FAILED)
		munmap(self->anon, PART);
	if (self->disk != MAP_FAILED)
		munmap(self->disk, PART);
	if (self->file != MAP_FAILED)
		munmap(self->file, PART);
	if (self->disk_fd >= 0)
		close(self->disk_fd);
	if (self->file_fd >= 0)
		close(self->file_fd);
	umount(MNT);
	ferry_restore();
}

/* Appends every present page of a part to the batch. Returns the new number of pages. */
static size_t name(void **pages, size_t n, char *mem)
{
	size_t i;

	for (i = 0; i < PART; i += FERRY_PAGE)
		if (ferry_pfn(mem + i))
			pages[n++] = mem + i;
	return n;
}

static long move_named(void **pages, size_t n, int node)
{
	int *nodes = malloc(n * sizeof(int)), *status = malloc(n * sizeof(int));
	size_t i;
	long ret;

	for (i = 0; i < n; i++)
		nodes[i] = node;
	ret = ferry_move_pages(0, n, pages, nodes, status, MPOL_MF_MOVE);
	free(nodes);
	free(status);
	return ret;
}

/* Files and block devices alone never fill a batch that is submitted. */
TEST_F(eligible, files_are_never_early)
{
	static void *pages[3 * PART / FERRY_PAGE];
	int iters = ferry_iters(8, 4), i;
	struct race_count c;
	size_t n;

	if (ferry_loaded())
		ASSERT_EQ(0, ferry_inject("workers_only", 1));
	race_count(&c);
	for (i = 0; i < iters; i++) {
		ASSERT_EQ(0, madvise(self->disk, PART, MADV_POPULATE_READ));
		ferry_fill(self->file, PART, 22, i);
		n = name(pages, 0, self->disk);
		ASSERT_EQ(PART / FERRY_PAGE, n);
		n = name(pages, n, self->file);
		ASSERT_LE(0, move_named(pages, n, self->nodes[!(i & 1)]));
		ASSERT_EQ(0, ferry_verify(self->file, PART, 22, i));
	}
	race_count_end(&c);
	if (!ferry_loaded())
		return;
	EXPECT_EQ(0, race_grown(&c, "eligible_anon"));
	EXPECT_EQ(0, race_grown(&c, "eligible_shmem"));
	EXPECT_EQ(0, race_grown(&c, "bytes_early"));
	EXPECT_EQ(0, race_grown(&c, "folios_copied_early"));
}

/*
 * In a batch with anonymous folios, exactly the anonymous ones are eligible. Meanwhile ext4
 * changes its metadata, and is intact in the end.
 */
TEST_F(eligible, only_the_anonymous_part_of_a_batch)
{
	static void *pages[3 * PART / FERRY_PAGE];
	int iters = ferry_iters(10, 4), i, k, ret;
	struct race_count c, one;
	long anon = 0, moved = 0, mixed = 0;
	char path[64];
	pid_t churn;
	size_t n, j;

	if (ferry_loaded())
		ASSERT_EQ(0, ferry_inject("delay_after_submit_us", 5000));
	churn = fork();
	ASSERT_GE(churn, 0);
	if (!churn) {
		ferry_pin_cpu(ferry_node_cpu(self->nodes[1]));
		for (i = 0;; i++) {
			for (k = 0; k < 32; k++) {
				snprintf(path, sizeof(path), MNT "/%d/%d", k, i % 8);
				if (i & 8) {
					unlink(path);
				} else {
					int fd = open(path, O_RDWR | O_CREAT, 0600);

					if (write(fd, path, sizeof(path)) < 0)
						_exit(1);
					close(fd);
				}
			}
			sync();
		}
	}
	race_count(&c);
	/* Nothing is copied early while the writing process keeps the CPU of workers busy. */
	for (i = 0; i < iters || (ferry_active() && !moved && i < 10 * iters); i++) {
		ASSERT_EQ(0, race_fresh(self->anon, PART, FERRY_PAGE, self->nodes[i & 1]));
		ferry_fill(self->anon, PART, 23, i);
		ASSERT_EQ(0, madvise(self->disk, PART, MADV_POPULATE_READ));
		ferry_fill(self->file, PART, 24, i);
		/* Folios under writeback are not unmapped, so they are in no batch. */
		ASSERT_EQ(0, msync(self->file, PART, MS_SYNC));
		/*
		 * All of it is in one batch. A batch ends where a page of a large folio is
		 * named that is already in the batch.
		 */
		for (n = 0, j = 0; j < PART; j += FERRY_PAGE) {
			pages[n++] = self->anon + j;
			if (j == PART / 2)
				pages[n++] = self->file;
		}
		for (j = 0; j < PART; j += FERRY_PAGE)
			pages[n++] = self->disk + j;
		for (j = FERRY_PAGE; j < PART; j += FERRY_PAGE)
			pages[n++] = self->file + j;
		race_count(&one);
		ASSERT_LE(0, move_named(pages, n, self->nodes[!(i & 1)]));
		race_count_end(&one);
		anon = race_grown(&one, "eligible_anon");
		if (anon > 0) {
			moved++;
			EXPECT_LE(anon, (long)(PART / FERRY_PAGE));
			EXPECT_EQ(0, race_grown(&one, "eligible_shmem"));
			mixed += race_grown(&one, "ineligible") > 0;
			EXPECT_LE(race_grown(&one, "bytes_early"), (long)PART);
		}
		ASSERT_EQ(0, ferry_verify(self->anon, PART, 23, i));
		ASSERT_EQ(0, ferry_verify(self->file, PART, 24, i));
	}
	race_count_end(&c);
	kill(churn, SIGKILL);
	waitpid(churn, NULL, 0);
	ferry_note("%ld of %d batches with an anonymous part that was eligible", moved, i);
	if (ferry_active()) {
		EXPECT_GT(moved, 0);
		EXPECT_EQ(moved, mixed);
	}

	/* The file system is intact, and so is the file on the disk. */
	munmap(self->file, PART);
	self->file = MAP_FAILED;
	ASSERT_EQ(0, ferry_evict(self->file_fd));
	EXPECT_EQ(0, ferry_verify_fd(self->file_fd, PART, 24, i - 1));
	close(self->file_fd);
	self->file_fd = -1;
	munmap(self->disk, PART);
	self->disk = MAP_FAILED;
	ASSERT_EQ(0, umount(MNT));
	ret = ferry_run("e2fsck", "-fn", FERRY_DISK, NULL);
	EXPECT_EQ(0, ret);
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "--stock"))
		return stock(argc > 2 ? atoi(argv[2]) : 30,
			     argc > 3 && !strcmp(argv[3], "2M"));
	return test_harness_run(argc, argv);
}
