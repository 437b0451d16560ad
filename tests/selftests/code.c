// SPDX-License-Identifier: GPL-2.0
/*
 * Code that has moved runs correctly, even on pages where other code ran before. Each page
 * has a function that returns a number. The destinations are freed pages from which functions
 * with other numbers ran, at the same virtual address, so that only the content tells one
 * function from the other. After the move every byte is compared, and every function is
 * called.
 *
 * A machine whose instruction fetches see the writes of devices cannot fail here. The
 * emulator does fail if a model of an engine writes to a page past it
 * (Documentation/devices.rst, "Code"): the bytes are right, and the former function runs.
 * Seen red with ptdma, ae4dma and sdxi in a guest without init_on_free=1, never with off and
 * cpu.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "ferry_util.h"

#define LEN	(4UL << 20)
#define PAGES	(LEN / FERRY_PAGE)

/* Return values of functions: of the first page, before the move and afterwards. */
enum { FORMER = 0x1000000, FIRST = 0x2000000 };

FIXTURE(code)
{
	int nodes[FERRY_MAX_NODES];
	struct ferry_stats before;
	char *mem;
	int fd;
};

FIXTURE_VARIANT(code)
{
	bool shared;
	unsigned int kib;	/* of a folio */
};

FIXTURE_VARIANT_ADD(code, anon_4k) { .kib = 4 };
FIXTURE_VARIANT_ADD(code, anon_64k) { .kib = 64 };
FIXTURE_VARIANT_ADD(code, anon_2m) { .kib = 2048 };
FIXTURE_VARIANT_ADD(code, memfd_4k) { .shared = true, .kib = 4 };
FIXTURE_VARIANT_ADD(code, memfd_2m) { .shared = true, .kib = 2048 };

FIXTURE_SETUP(code)
{
	self->fd = -1;
	self->mem = MAP_FAILED;
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	ASSERT_EQ(0, ferry_quiet());
	/* Pages that are freed on a CPU are allocated there next. */
	ferry_pin_cpu(ferry_node_cpu(self->nodes[0]));
	/* An engine gets all chunks, whatever the gain. */
	if (ferry_loaded())
		ASSERT_EQ(0, ferry_set_knob("engine_share", "all"));
	ASSERT_EQ(0, ferry_stats_get(&self->before));
	if (variant->shared) {
		ASSERT_EQ(0, ferry_set(FERRY_THP "shmem_enabled", "%s",
				       variant->kib == 4 ? "never" : "always"));
		self->fd = memfd_create("ferry", 0);
		ASSERT_GE(self->fd, 0);
	} else {
		ASSERT_EQ(0, ferry_mthp_only(variant->kib == 4 ? 0 : variant->kib));
	}
	/* Reserves the address: later mappings go there. */
	self->mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
}

FIXTURE_TEARDOWN(code)
{
	if (self->mem != MAP_FAILED)
		munmap(self->mem, LEN);
	if (self->fd >= 0)
		close(self->fd);
	ferry_restore();
}

/* Writes a function that returns @number. */
static void put_function(char *p, unsigned int number)
{
	unsigned char code[] = { 0xb8, 0, 0, 0, 0, 0xc3 };	/* mov $number, %eax; ret */

	memcpy(code + 1, &number, sizeof(number));
	memcpy(p, code, sizeof(code));
}

static unsigned int call(const char *p)
{
	unsigned int (*function)(void);

	memcpy(&function, &p, sizeof(p));
	return function();
}

/*
 * Maps new memory on @node at the fixed address. Its pages return @first, @first + 1 and so
 * on. Calls each function once.
 */
static void fresh(struct __test_metadata *_metadata, FIXTURE_DATA(code) * self,
		  const FIXTURE_VARIANT(code) * variant, int node, unsigned int first)
{
	int flags = MAP_FIXED | (variant->shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);
	size_t i;

	ASSERT_EQ(0, madvise(self->mem, LEN, MADV_DONTNEED));
	if (self->fd >= 0) {
		ASSERT_EQ(0, ftruncate(self->fd, 0));
		ASSERT_EQ(0, ftruncate(self->fd, LEN));
	}
	ASSERT_EQ(self->mem, mmap(self->mem, LEN, PROT_READ | PROT_WRITE | PROT_EXEC,
				  flags, self->fd, 0));
	ASSERT_EQ(0, ferry_populate(self->mem, LEN, node));
	ASSERT_EQ(PAGES, ferry_count_on(self->mem, LEN, FERRY_PAGE, node));
	ASSERT_EQ(LEN, ferry_in_folios_of(self->mem, LEN, variant->kib << 10));
	ferry_fill(self->mem, LEN, variant->kib, first);
	for (i = 0; i < PAGES; i++)
		put_function(self->mem + i * FERRY_PAGE, first + i);
	for (i = 0; i < PAGES; i++)
		ASSERT_EQ(first + i, call(self->mem + i * FERRY_PAGE));
}

static int by_pfn(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return x < y ? -1 : x > y;
}

/*
 * Returns the number of bytes that are neither of the functions from @first on nor of the
 * pattern around them.
 */
static size_t wrong_bytes(char *mem, unsigned int kib, unsigned int first)
{
	char *want = malloc(LEN);
	size_t i, bad = 0;

	if (!want)
		return LEN;
	ferry_fill(want, LEN, kib, first);
	for (i = 0; i < PAGES; i++)
		put_function(want + i * FERRY_PAGE, first + i);
	for (i = 0; i < LEN; i++)
		bad += want[i] != mem[i];
	free(want);
	return bad;
}

/*
 * Writes the same bytes again, as a program that changes code does. Returns true if they run
 * then.
 */
static bool runs_when_written(char *p, unsigned int number)
{
	put_function(p, number);
	return call(p) == number;
}

TEST_F(code, where_other_code_ran)
{
	int rounds = ferry_iters(8, 4), r, i, from, to;
	long reused = 0, wrong = 0, former = 0, mended = 0;
	u64 *old = calloc(PAGES, sizeof(*old)), pfn;
	unsigned int first, got;
	struct ferry_stats after;
	char *p;

	ASSERT_NE(NULL, old);
	for (r = 0; r < rounds; r++) {
		from = self->nodes[r & 1];
		to = self->nodes[!(r & 1)];
		first = FIRST + r * PAGES;
		fresh(_metadata, self, variant, to, FORMER);
		ASSERT_EQ(0, ferry_pfns(self->mem, LEN, old));
		qsort(old, PAGES, sizeof(*old), by_pfn);
		fresh(_metadata, self, variant, from, first);
		ASSERT_EQ(0, ferry_move_range(self->mem, LEN, variant->kib << 10, to, NULL));
		ASSERT_EQ(PAGES, ferry_count_on(self->mem, LEN, FERRY_PAGE, to));
		ASSERT_EQ(0, wrong_bytes(self->mem, variant->kib, first));
		for (i = 0; i < PAGES; i++) {
			p = self->mem + i * FERRY_PAGE;
			pfn = ferry_pfn(p);
			reused += !!bsearch(&pfn, old, PAGES, sizeof(*old), by_pfn);
			got = call(p);
			if (got == first + i)
				continue;
			wrong++;
			former += got < FIRST;
			mended += runs_when_written(p, first + i);
		}
	}
	free(old);
	ASSERT_EQ(0, ferry_stats_get(&after));
	ferry_note("%ld of %lu pages moved to pages with former code, %ld of them by an engine",
		   reused, rounds * PAGES,
		   ferry_stats_delta(&self->before, &after, "engine_bytes") / (long)FERRY_PAGE);
	EXPECT_GT(reused, 0);
	if (wrong)
		ferry_note("%ld of %ld wrong pages run the former code; %ld run when written again",
			   former, wrong, mended);
	EXPECT_EQ(0, wrong);
	EXPECT_TRUE(ferry_stats_used(&self->before, &after));
}

/* The same with a device that the emulator implements itself: a disk writes where code ran. */
TEST(read_from_a_disk)
{
	char *p, *page;
	int fd, i;

	fd = open(FERRY_DISK, O_RDWR | O_DIRECT);
	if (fd < 0)
		SKIP(return, "needs a disk (scripts/vm --disk)");
	p = mmap(NULL, FERRY_PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	page = mmap(NULL, FERRY_PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_NE(MAP_FAILED, page);
	for (i = 0; i < 200; i++) {
		put_function(p, FORMER + i);
		ASSERT_EQ(FORMER + i, call(p));
		put_function(page, FIRST + i);
		ASSERT_EQ(FERRY_PAGE, pwrite(fd, page, FERRY_PAGE, 0));
		ASSERT_EQ(FERRY_PAGE, pread(fd, p, FERRY_PAGE, 0));
		ASSERT_EQ(FIRST + i, call(p));
	}
	munmap(p, FERRY_PAGE);
	munmap(page, FERRY_PAGE);
	close(fd);
}

TEST_HARNESS_MAIN
