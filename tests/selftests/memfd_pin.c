// SPDX-License-Identifier: GPL-2.0
/*
 * Invariants: I1 and I2
 *
 * memfd_pin_folios() takes the references here: udmabuf pins with it the folios that user
 * space then writes to through the buffer, as do iommufd's file mappings. eligible tests pins
 * of one page that come and go while a batch is open. The tests here are:
 *
 *  - pinned_before_written_after_submit: a pin of many folios is taken before the batch
 *    (UDMABUF_CREATE_LIST), the bytes are written while it is open, and the pin is dropped
 *    before the mover checks. Its check does not see that; the worker, which looks before it
 *    copies, has to (I1).
 *  - pinned_after_submit: a pin of all folios is requested while the batch is open and all
 *    have been copied. It must wait until each folio has moved (I2: the lock after the pin),
 *    and the bytes written through the buffer must be in the file.
 *
 * iommufd calls the same function for the same ranges and differs in the writer: a device, or
 * the kernel on behalf of its selftest. There is no pin without one of the two: a mapping in
 * an IOAS without a device pins nothing, and the selftest needs CONFIG_IOMMUFD_TEST. For the
 * folios it is the same: pin, write, unpin.
 *
 * Seen red, in a scratch copy: with ferry_may_claim() always true,
 * pinned_before_written_after_submit finds 1043634 of 1048576 bytes to be the former ones at
 * 4K, 982245 at 64K, and 6286334 of 8388608 at 2M.
 */
#include <linux/udmabuf.h>
#include <sys/ioctl.h>

#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"

#define HOLD_MS	400
#define PARTS	8

FIXTURE(memfd_pin)
{
	int nodes[FERRY_MAX_NODES];
	size_t folio;
	size_t len;
	int udev;
	int fd;
	char *mem;
};

FIXTURE_VARIANT(memfd_pin)
{
	unsigned int kib;
};

FIXTURE_VARIANT_ADD(memfd_pin, 4k) { .kib = 4 };
FIXTURE_VARIANT_ADD(memfd_pin, 64k) { .kib = 64 };
FIXTURE_VARIANT_ADD(memfd_pin, 2m) { .kib = 2048 };

FIXTURE_SETUP(memfd_pin)
{
	self->udev = -1;
	self->fd = -1;
	self->mem = MAP_FAILED;
	self->folio = variant->kib << 10;
	/* The first folio of a batch is moved before the others are offered. */
	self->len = self->folio == FERRY_PMD ? 4 * FERRY_PMD : 1UL << 20;
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	self->udev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	if (self->udev < 0)
		SKIP(return, "needs udmabuf");
	ASSERT_EQ(0, race_prepare(self->nodes));
	ASSERT_EQ(0, ferry_shmem_only(variant->kib == 4 ? 0 : variant->kib));
	if (!ferry_loaded())
		return;
	ASSERT_EQ(0, ferry_inject("delay_after_submit_us", HOLD_MS * 1000));
	ASSERT_EQ(0, ferry_inject("workers_only", 1));
}

FIXTURE_TEARDOWN(memfd_pin)
{
	race_drop(&self->mem, self->len, &self->fd);
	if (self->udev >= 0)
		close(self->udev);
	ferry_restore();
}

/* Makes a memfd on @node that can be pinned, with content of @gen. */
static int renew(FIXTURE_DATA(memfd_pin) * self, int node, u64 gen)
{
	int ret;

	race_drop(&self->mem, self->len, &self->fd);
	self->fd = memfd_create("ferry", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	if (self->fd < 0 || ftruncate(self->fd, self->len) ||
	    fcntl(self->fd, F_ADD_SEALS, F_SEAL_SHRINK))
		return -errno;
	self->mem = ferry_map_file(self->fd, self->len, FERRY_PMD, PROT_READ | PROT_WRITE,
				   MAP_SHARED);
	if (self->mem == MAP_FAILED)
		return -errno;
	ret = race_populate(self->mem, self->len, self->folio, node);
	if (ret)
		return ret;
	ferry_fill(self->mem, self->len, 1, gen);
	return 0;
}

/*
 * Makes a buffer of the whole file, in parts, so that a folio of 2M is pinned more than once.
 * Returns its mapping; the pins are dropped when the mapping and *fd are closed.
 */
static char *pin(FIXTURE_DATA(memfd_pin) * self, int *fd)
{
	struct {
		struct udmabuf_create_list head;
		struct udmabuf_create_item part[PARTS];
	} list = { .head = { .flags = UDMABUF_FLAGS_CLOEXEC, .count = PARTS } };
	size_t step = self->len / PARTS;
	char *p;
	int i;

	for (i = 0; i < PARTS; i++) {
		list.part[i].memfd = self->fd;
		list.part[i].offset = step * i;
		list.part[i].size = step;
	}
	*fd = ioctl(self->udev, UDMABUF_CREATE_LIST, &list);
	if (*fd < 0)
		return MAP_FAILED;
	p = mmap(NULL, self->len, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	if (p == MAP_FAILED)
		close(*fd);
	return p;
}

static void unpin(FIXTURE_DATA(memfd_pin) * self, char *p, int fd)
{
	munmap(p, self->len);
	close(fd);
}

/*
 * Returns the number of wrong bytes of the whole content, through the mapping and through the
 * file.
 */
static long bad_bytes(FIXTURE_DATA(memfd_pin) * self, u64 seed, u64 gen)
{
	return ferry_verify(self->mem, self->len, seed, gen) +
	       ferry_verify_fd(self->fd, self->len, seed, gen);
}

static int start_move(FIXTURE_DATA(memfd_pin) * self, struct race_move *m, int node)
{
	return race_move_start(m, self->mem, self->len, self->folio, node,
			       ferry_node_cpu(self->nodes[0]));
}

TEST_F(memfd_pin, pinned_before_written_after_submit)
{
	int iters = ferry_iters(6, 3), i, hits = 0, to, fd;
	struct race_count c, one;
	struct race_move m;
	long seen;
	char *buf;
	bool open;

	race_count(&c);
	for (i = 0; i < iters; i++) {
		open = false;
		to = self->nodes[!(i & 1)];
		ASSERT_EQ(0, renew(self, self->nodes[i & 1], i));
		buf = pin(self, &fd);
		ASSERT_NE(MAP_FAILED, buf);
		/*
		 * Populates the buffer's page table entries, which are no references to the
		 * folios.
		 */
		ASSERT_EQ(0, ferry_verify(buf, self->len, 1, i));
		race_count(&one);
		ASSERT_EQ(0, start_move(self, &m, to));
		if (ferry_active()) {
			seen = ferry_stats_value(&one.before, "batches");
			open = race_move_submitted(&m, seen);
			/* A worker has looked, and found the pins. */
			seen = ferry_stats_value(&one.before, "folios_referenced");
			if (open)
				EXPECT_TRUE(race_until("folios_referenced", seen, HOLD_MS / 2));
		}
		ferry_fill(buf, self->len, 2, i);
		unpin(self, buf, fd);
		hits += open && !race_move_over(&m);
		ASSERT_LE(0, race_move_end(&m));
		ASSERT_EQ(0, bad_bytes(self, 2, i));
		ASSERT_EQ(0, ferry_move_range(self->mem, self->len, self->folio, to, NULL));
		ASSERT_EQ(0, bad_bytes(self, 2, i));
	}
	race_count_end(&c);
	if (!ferry_active())
		return;
	ferry_note("%d of %d pins ended while the batch was open; %ld folios declined",
		   hits, iters, race_grown(&c, "folios_referenced"));
	EXPECT_GT(hits, 0);
	EXPECT_GE(race_grown(&c, "folios_referenced"), hits);
}

/* ---- a pin that comes late ---- */

struct late_pin {
	pthread_t thread;
	void *fixture;
	u64 gen;
	int err;
};

static int pin_and_write(FIXTURE_DATA(memfd_pin) * self, u64 gen)
{
	char *buf;
	int fd;

	buf = pin(self, &fd);
	if (buf == MAP_FAILED)
		return -errno;
	ferry_fill(buf, self->len, 3, gen);
	unpin(self, buf, fd);
	return 0;
}

static void *late_pin_fn(void *arg)
{
	struct late_pin *l = arg;

	l->err = pin_and_write(l->fixture, l->gen);
	return NULL;
}

TEST_F(memfd_pin, pinned_after_submit)
{
	int iters = ferry_iters(6, 3), i, hits = 0, to;
	struct race_count c, one;
	struct late_pin late;
	struct race_move m;
	long seen;
	bool open;

	race_count(&c);
	for (i = 0; i < iters; i++) {
		open = false;
		to = self->nodes[!(i & 1)];
		ASSERT_EQ(0, renew(self, self->nodes[i & 1], i));
		race_count(&one);
		ASSERT_EQ(0, start_move(self, &m, to));
		if (ferry_active()) {
			seen = ferry_stats_value(&one.before, "batches");
			open = race_move_submitted(&m, seen);
			seen = ferry_stats_value(&one.before, "bytes_early");
			race_until("bytes_early", seen + self->len / 2, HOLD_MS / 2);
		}
		late = (struct late_pin) { .fixture = self, .gen = i };
		hits += open && !race_move_over(&m);
		ASSERT_EQ(0, pthread_create(&late.thread, NULL, late_pin_fn, &late));
		ASSERT_LE(0, race_move_end(&m));
		pthread_join(late.thread, NULL);
		ASSERT_EQ(0, late.err);
		ASSERT_EQ(0, bad_bytes(self, 3, i));
		ASSERT_EQ(0, ferry_move_range(self->mem, self->len, self->folio, to, NULL));
		ASSERT_EQ(0, bad_bytes(self, 3, i));
	}
	race_count_end(&c);
	if (!ferry_active())
		return;
	ferry_note("%d of %d times the batch was open; %ld folios copied early", hits, iters,
		   race_grown(&c, "folios_copied_early"));
	EXPECT_GT(hits, 0);
	EXPECT_GT(race_grown(&c, "eligible_shmem"), 0);
	EXPECT_GT(race_grown(&c, "folios_copied_early"), 0);
}

TEST_HARNESS_MAIN
