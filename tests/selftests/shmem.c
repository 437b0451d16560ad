// SPDX-License-Identifier: GPL-2.0
/*
 * Shared memory moves back and forth between two nodes: shared anonymous memory of every size
 * that sysfs offers, memfd and files of tmpfs, small and huge. Mapped memory is compared byte
 * for byte through the mapping and through the file. Page cache that no process maps cannot
 * be named in a system call; offline.c and compaction.c move it.
 */
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "kselftest_harness.h"
#include "ferry_util.h"

#define LEN	(4UL << 20)
#define MNT	"/tmp/ferry-tmpfs"

enum kind { SHARED_ANON, MEMFD, TMPFS };

FIXTURE(shmem)
{
	int nodes[FERRY_MAX_NODES];
	struct ferry_stats before;
	bool mounted;
	char *mem;
	int fd;
};

FIXTURE_VARIANT(shmem)
{
	enum kind kind;
	unsigned int kib;	/* KiB of a folio; 0: any size above 4K */
	const char *huge;	/* option of the mount, or of shmem_enabled */
	size_t write;		/* bytes of one write that allocates; 0: page faults */
};

FIXTURE_VARIANT_ADD(shmem, anon_4k) { .kib = 4 };
FIXTURE_VARIANT_ADD(shmem, anon_8k) { .kib = 8 };
FIXTURE_VARIANT_ADD(shmem, anon_16k) { .kib = 16 };
FIXTURE_VARIANT_ADD(shmem, anon_32k) { .kib = 32 };
FIXTURE_VARIANT_ADD(shmem, anon_64k) { .kib = 64 };
FIXTURE_VARIANT_ADD(shmem, anon_128k) { .kib = 128 };
FIXTURE_VARIANT_ADD(shmem, anon_256k) { .kib = 256 };
FIXTURE_VARIANT_ADD(shmem, anon_512k) { .kib = 512 };
FIXTURE_VARIANT_ADD(shmem, anon_1m) { .kib = 1024 };
FIXTURE_VARIANT_ADD(shmem, anon_2m) { .kib = 2048 };

FIXTURE_VARIANT_ADD(shmem, memfd_4k) {
	.kind = MEMFD, .kib = 4, .huge = "never",
};

FIXTURE_VARIANT_ADD(shmem, memfd_2m) {
	.kind = MEMFD, .kib = 2048, .huge = "always",
};

FIXTURE_VARIANT_ADD(shmem, tmpfs_4k) {
	.kind = TMPFS, .kib = 4, .huge = "never",
};

FIXTURE_VARIANT_ADD(shmem, tmpfs_written_64k) {
	.kind = TMPFS, .kib = 64, .huge = "within_size", .write = 64 << 10,
};

FIXTURE_VARIANT_ADD(shmem, tmpfs_2m) {
	.kind = TMPFS, .kib = 2048, .huge = "always",
};

/*
 * Allows huge folios of the size under test while memory is populated. If they are allowed
 * when it is mapped, khugepaged wakes up for the new process, and takes references to its
 * folios: on a busy machine the guest's CPU can be preempted meanwhile, for longer than a
 * call tries to move a folio.
 */
static int allow(const FIXTURE_VARIANT(shmem) * variant, bool on)
{
	if (variant->kib == 4 && access(FERRY_THP "enabled", F_OK))
		return 0;
	switch (variant->kind) {
	case SHARED_ANON:
		return ferry_shmem_only(on && variant->kib != 4 ? variant->kib : 0);
	case MEMFD:
		return ferry_set(FERRY_THP "shmem_enabled", "%s", on ? variant->huge : "never");
	default:
		return 0;	/* A mount option allows them, unseen by khugepaged. */
	}
}

FIXTURE_SETUP(shmem)
{
	char opts[64];

	self->fd = -1;
	self->mem = MAP_FAILED;
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	/* PREEMPT_RT has no THP. */
	if (variant->kib != 4 && access(FERRY_THP "enabled", F_OK))
		SKIP(return, "no CONFIG_TRANSPARENT_HUGEPAGE");
	ASSERT_EQ(0, ferry_quiet());
	ASSERT_EQ(0, ferry_stats_get(&self->before));
	ASSERT_EQ(0, allow(variant, false));
	if (variant->kind == MEMFD) {
		self->fd = memfd_create("ferry", 0);
		ASSERT_GE(self->fd, 0);
	} else if (variant->kind == TMPFS) {
		mkdir(MNT, 0700);
		snprintf(opts, sizeof(opts), "huge=%s", variant->huge);
		ASSERT_EQ(0, mount("tmpfs", MNT, "tmpfs", 0, opts));
		self->mounted = true;
		self->fd = open(MNT "/file", O_RDWR | O_CREAT, 0600);
		ASSERT_GE(self->fd, 0);
	}
}

FIXTURE_TEARDOWN(shmem)
{
	if (self->mem != MAP_FAILED)
		munmap(self->mem, LEN);
	if (self->fd >= 0)
		close(self->fd);
	if (self->mounted)
		umount(MNT);
	ferry_restore();
}

/* Maps fresh folios on @node. */
static void fresh(struct __test_metadata *_metadata, FIXTURE_DATA(shmem) * self,
		  const FIXTURE_VARIANT(shmem) * variant, int node)
{
	int flags = MAP_SHARED | (variant->kind == SHARED_ANON ? MAP_ANONYMOUS : 0);
	char buf[64 << 10] = "";
	size_t off;

	if (self->mem != MAP_FAILED)
		ASSERT_EQ(0, munmap(self->mem, LEN));
	if (self->fd >= 0)
		ASSERT_EQ(0, ftruncate(self->fd, 0));
	if (variant->write) {
		ASSERT_EQ(0, ferry_set_mempolicy(MPOL_BIND, node));
		for (off = 0; off < LEN; off += variant->write)
			ASSERT_EQ(variant->write,
				  pwrite(self->fd, buf, variant->write, off));
		ASSERT_EQ(0, ferry_set_mempolicy(MPOL_DEFAULT, -1));
	} else if (self->fd >= 0) {
		ASSERT_EQ(0, ftruncate(self->fd, LEN));
	}
	self->mem = ferry_map_file(self->fd, LEN, FERRY_PMD,
				   PROT_READ | PROT_WRITE, flags);
	ASSERT_NE(MAP_FAILED, self->mem);
	ASSERT_EQ(0, allow(variant, true));
	ASSERT_EQ(0, ferry_populate(self->mem, LEN, node));
	ASSERT_EQ(0, allow(variant, false));
	ASSERT_EQ(LEN / FERRY_PAGE, ferry_count_on(self->mem, LEN, FERRY_PAGE, node));
	ASSERT_EQ(LEN, ferry_in_folios_of(self->mem, LEN, variant->kib << 10));
}

/*
 * Moves a private mapping of the file: it has its own pages where it was written, and the
 * file's elsewhere.
 */
static void private_mapping(struct __test_metadata *_metadata,
			    FIXTURE_DATA(shmem) * self,
			    const FIXTURE_VARIANT(shmem) * variant, int from, int to)
{
	size_t off;
	char *priv;

	fresh(_metadata, self, variant, from);
	ferry_fill(self->mem, LEN, 5, from);
	ASSERT_EQ(0, munmap(self->mem, LEN));
	self->mem = MAP_FAILED;
	priv = ferry_map_file(self->fd, LEN, FERRY_PMD, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE);
	ASSERT_NE(MAP_FAILED, priv);
	ASSERT_EQ(0, ferry_verify(priv, LEN, 5, from));
	for (off = 0; off < LEN; off += 4 * FERRY_PAGE)
		ferry_fill_at(priv + off, FERRY_PAGE, 6, from, off);
	ASSERT_EQ(0, madvise(priv, LEN, MADV_POPULATE_READ));
	ASSERT_EQ(0, ferry_move_range(priv, LEN, FERRY_PAGE, to, NULL));
	for (off = 0; off < LEN; off += FERRY_PAGE)
		ASSERT_EQ(0, ferry_verify_at(priv + off, FERRY_PAGE,
					     off % (4 * FERRY_PAGE) ? 5 : 6, from, off));
	ASSERT_EQ(0, ferry_verify_fd(self->fd, LEN, 5, from));
	ASSERT_EQ(0, munmap(priv, LEN));
}

TEST_F(shmem, round_trip)
{
	int rounds = 2, moves = ferry_iters(5, 2), r, i, to;
	struct ferry_stats after;
	u64 gen = 0, pfn;
	size_t step;

	for (r = 0; r < rounds; r++) {
		fresh(_metadata, self, variant, self->nodes[r & 1]);
		for (i = 0; i < moves; i++) {
			to = self->nodes[(r + i + 1) & 1];
			pfn = ferry_pfn(self->mem);
			ferry_fill(self->mem, LEN, variant->kib, ++gen);
			/*
			 * Naming each folio once makes full batches. Naming each page makes
			 * batches of one: the second page of a folio is busy, and that ends
			 * the batch.
			 */
			step = i == 1 ? FERRY_PAGE : variant->kib << 10;
			ASSERT_EQ(0, ferry_move_range(self->mem, LEN, step, to, NULL));
			ASSERT_EQ(LEN / FERRY_PAGE,
				  ferry_count_on(self->mem, LEN, FERRY_PAGE, to));
			ASSERT_EQ(0, ferry_verify(self->mem, LEN, variant->kib, gen));
			ASSERT_NE(pfn, ferry_pfn(self->mem));
			ASSERT_EQ(LEN, ferry_in_folios_of(self->mem, LEN,
							  variant->kib << 10));
			if (self->fd < 0)
				continue;
			/* Through the file, which must have the same page. */
			ASSERT_EQ(0, ferry_verify_fd(self->fd, LEN, variant->kib, gen));
			ASSERT_EQ(0, ferry_fill_fd(self->fd, LEN, variant->kib, ++gen));
			ASSERT_EQ(0, ferry_verify(self->mem, LEN, variant->kib, gen));
		}
	}
	for (r = 0; r < 2 && self->fd >= 0; r++)
		private_mapping(_metadata, self, variant, self->nodes[r],
				self->nodes[!r]);
	ASSERT_EQ(0, ferry_stats_get(&after));
	/* Where shmem is not copied early, folios of several chunks are copied in place. */
	if (variant->kib > 128 || ferry_stats_delta(&self->before, &after, "eligible_shmem") > 0)
		EXPECT_TRUE(ferry_stats_used(&self->before, &after));
}

TEST_HARNESS_MAIN
