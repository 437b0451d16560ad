// SPDX-License-Identifier: GPL-2.0
/*
 * Invariants: I1 and I4
 *
 * References come and go while folios are copied early: references taken by walkers of page
 * frames, by readers and writers of another process's memory, and by users of shared memory
 * through its file.
 *
 * pinned_before_written_after_submit: process_vm_writev(2) pins its destination and then
 * reads its source, which here is a page that userfaultfd holds back. So the pins are there
 * before the mover unmaps, the bytes come while the batch is open, and the pins are gone when
 * the mover checks the references: only I1 can see them. Private anonymous memory that is
 * pinned is not unmapped, and stays.
 *
 * referenced_after_submit: splice(2) from a memfd takes its reference first and then waits
 * for the lock of the folio. So the folio was copied early, without a reference, and has one
 * when it is checked (I4): it must stay where it is, and the pipe has the content that its
 * owner writes to it afterwards. No task can take a reference in that way to an anonymous
 * folio out of the swap cache: no page table entry leads to it, and walkers of page frames
 * need PG_lru, which a folio in migration does not have.
 *
 * walkers_of_page_frames: kpageflags, kpagecount, kpagecgroup and page_idle's bitmap.
 * kpageflags shows that they looked at folios in migration: the folio is locked.
 *
 * writers_from_outside: process_vm_writev(2), /proc/self/mem, PTRACE_POKEDATA and plain
 * stores begin while the batch is open, one write of each to each page. In two rounds of four
 * the worker has copied everything before; in the other two it is delayed before its first
 * byte, so that a copy for which the mover did not wait would overwrite the written words.
 *
 * Seen red, in scratch copies: with ferry_may_claim() always true,
 * pinned_before_written_after_submit finds 1043571 of 1048576 bytes to be the former ones for
 * shmem of 4K, 982193 for 64K, 2095310 of 4194304 for 2M. With MigrateCopyBatch::settle()
 * answering Copied for Settle::Wait, writers_from_outside finds writes lost in all six
 * variants, and vmsplice(2) gets the wrong word of 236 of 256 pages of 4K. With
 * move_copied_folio() taking any count of references that it finds for the expected one,
 * referenced_after_submit finds that folios have moved in spite of their references, in all
 * three sizes of shmem.
 */
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"

#define HOLD_MS		400
#define KPF_LOCKED	0

FIXTURE(references)
{
	int nodes[FERRY_MAX_NODES];
	size_t folio;
	size_t len;
	char *mem;
	int fd;
};

FIXTURE_VARIANT(references)
{
	unsigned int kib;
	bool shared;
};

FIXTURE_VARIANT_ADD(references, anon_4k) { .kib = 4 };
FIXTURE_VARIANT_ADD(references, anon_64k) { .kib = 64 };
FIXTURE_VARIANT_ADD(references, anon_2m) { .kib = 2048 };
FIXTURE_VARIANT_ADD(references, shmem_4k) { .kib = 4, .shared = true };
FIXTURE_VARIANT_ADD(references, shmem_64k) { .kib = 64, .shared = true };
FIXTURE_VARIANT_ADD(references, shmem_2m) { .kib = 2048, .shared = true };

/* Makes new memory on @node, in folios of the variant's size, with content of @gen. */
static int renew(FIXTURE_DATA(references) * self, bool shared, int node, u64 gen)
{
	unsigned int kib = self->folio == FERRY_PAGE ? 0 : self->folio >> 10;
	int ret;

	race_drop(&self->mem, self->len, &self->fd);
	ret = shared ? ferry_shmem_only(kib) : ferry_mthp_only(kib);
	if (ret)
		return ret;
	if (shared) {
		self->fd = memfd_create("ferry", MFD_CLOEXEC);
		if (self->fd < 0 || ftruncate(self->fd, self->len))
			return -errno;
		self->mem = ferry_map_file(self->fd, self->len, FERRY_PMD,
					   PROT_READ | PROT_WRITE, MAP_SHARED);
	} else {
		self->mem = ferry_map_anon(self->len, FERRY_PMD);
	}
	if (self->mem == MAP_FAILED)
		return -errno;
	ret = race_populate(self->mem, self->len, self->folio, node);
	if (ret)
		return ret;
	ferry_fill(self->mem, self->len, 4, gen);
	return 0;
}

FIXTURE_SETUP(references)
{
	self->mem = MAP_FAILED;
	self->fd = -1;
	self->folio = variant->kib << 10;
	/* The first folio of a batch is moved before the others are offered. */
	self->len = self->folio == FERRY_PMD ? 4 * FERRY_PMD : 1UL << 20;
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	ASSERT_EQ(0, race_prepare(self->nodes));
}

FIXTURE_TEARDOWN(references)
{
	race_drop(&self->mem, self->len, &self->fd);
	ferry_restore();
}

static int start_move(FIXTURE_DATA(references) * self, struct race_move *m, int node)
{
	return race_move_start(m, self->mem, self->len, self->folio, node,
			       ferry_node_cpu(self->nodes[0]));
}

/* ---- a page that comes on demand ---- */

struct late_page {
	char *buf;
	size_t len;
	int uffd;
};

/* Maps @len bytes, a multiple of the page size, of which the first page is held back. */
static int late_open(struct late_page *l, size_t len)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };

	l->len = len;
	l->buf = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	l->uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (l->buf == MAP_FAILED || l->uffd < 0)
		return -errno;
	reg.range.start = (uintptr_t)l->buf;
	reg.range.len = FERRY_PAGE;
	if (ioctl(l->uffd, UFFDIO_API, &api) || ioctl(l->uffd, UFFDIO_REGISTER, &reg))
		return -errno;
	return 0;
}

/* Waits until a task waits for the page. Returns false after 20 s. */
static bool late_wanted(struct late_page *l)
{
	struct pollfd p = { .fd = l->uffd, .events = POLLIN };
	struct uffd_msg msg;

	return poll(&p, 1, 20000) == 1 && read(l->uffd, &msg, sizeof(msg)) == sizeof(msg) &&
	       msg.event == UFFD_EVENT_PAGEFAULT;
}

static int late_give(struct late_page *l, const void *page)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)l->buf,
		.src = (uintptr_t)page,
		.len = FERRY_PAGE,
	};

	return ioctl(l->uffd, UFFDIO_COPY, &copy) ? -errno : 0;
}

static void late_close(struct late_page *l)
{
	close(l->uffd);
	munmap(l->buf, l->len);
}

struct vm_write {
	pthread_t thread;
	struct iovec from;
	struct iovec to;
	ssize_t ret;
};

static void *vm_write_fn(void *arg)
{
	struct vm_write *w = arg;

	w->ret = process_vm_writev(getpid(), &w->from, 1, &w->to, 1, 0);
	return NULL;
}

static size_t bad_after_write(FIXTURE_DATA(references) * self, size_t len, u64 gen)
{
	return ferry_verify(self->mem, len, 5, gen) +
	       ferry_verify_at(self->mem + len, self->len - len, 4, gen, len);
}

TEST_F(references, pinned_before_written_after_submit)
{
	int iters = ferry_iters(4, 2), i, hits = 0, to;
	static u64 page[FERRY_PAGE / sizeof(u64)];
	/* The pages that one call of process_vm_writev() pins at once. */
	size_t len = self->len < 1024 * FERRY_PAGE ? self->len : 1024 * FERRY_PAGE;
	struct race_count c;
	struct late_page late;
	struct vm_write w;
	struct race_move m;
	bool open;
	long seen;

	if (ferry_loaded()) {
		ASSERT_EQ(0, ferry_inject("delay_after_submit_us", HOLD_MS * 1000));
		ASSERT_EQ(0, ferry_inject("workers_only", 1));
	}
	race_count(&c);
	for (i = 0; i < iters; i++) {
		open = false;
		to = self->nodes[!(i & 1)];
		ASSERT_EQ(0, renew(self, variant->shared, self->nodes[i & 1], i));
		ASSERT_EQ(0, late_open(&late, len));
		ferry_fill(page, FERRY_PAGE, 5, i);
		ferry_fill_at(late.buf + FERRY_PAGE, len - FERRY_PAGE, 5, i, FERRY_PAGE);
		w.from = (struct iovec) { late.buf, len };
		w.to = (struct iovec) { self->mem, len };
		ASSERT_EQ(0, pthread_create(&w.thread, NULL, vm_write_fn, &w));
		ASSERT_TRUE(late_wanted(&late));
		/* No byte has been written, and the pages are pinned. */
		ASSERT_EQ(0, ferry_verify(self->mem, self->len, 4, i));

		race_count_end(&c);
		ASSERT_EQ(0, start_move(self, &m, to));
		if (ferry_active() && variant->shared) {
			seen = ferry_stats_value(&c.after, "batches");
			open = race_move_submitted(&m, seen);
			/* A worker has looked, and found the references. */
			seen = ferry_stats_value(&c.after, "folios_referenced");
			if (open)
				EXPECT_TRUE(race_until("folios_referenced", seen, HOLD_MS / 2));
		} else if (!variant->shared) {
			race_move_end(&m);
		}
		ASSERT_EQ(0, late_give(&late, page));
		pthread_join(w.thread, NULL);
		ASSERT_EQ(len, w.ret);
		if (variant->shared) {
			hits += open && !race_move_over(&m);
			ASSERT_LE(0, race_move_end(&m));
		} else {
			ASSERT_TRUE(race_all_on(self->mem, len, self->nodes[i & 1]));
		}
		late_close(&late);
		ASSERT_EQ(0, bad_after_write(self, len, i));
		/* Without references all of it moves. */
		ASSERT_EQ(0, ferry_move_range(self->mem, self->len, self->folio, to, NULL));
		ASSERT_EQ(0, bad_after_write(self, len, i));
	}
	race_count_end(&c);
	if (!ferry_active() || !variant->shared)
		return;
	ferry_note("%d of %d writes ended while the batch was open; %ld folios declined",
		   hits, iters, race_grown(&c, "folios_referenced"));
	EXPECT_GT(hits, 0);
	EXPECT_GE(race_grown(&c, "folios_referenced"), hits);
}

/* ---- a reference that is taken before the lock ---- */

#define SPLICES	4

struct splice {
	pthread_t thread;
	int fd;
	loff_t off;
	int pipe[2];
	pid_t tid;
	ssize_t ret;
};

static void *splice_fn(void *arg)
{
	struct splice *s = arg;
	loff_t off = s->off;

	__atomic_store_n(&s->tid, syscall(SYS_gettid), __ATOMIC_RELEASE);
	s->ret = splice(s->fd, &off, s->pipe[1], NULL, FERRY_PAGE, 0);
	return NULL;
}

/* Returns true if the thread is in uninterruptible sleep, as a waiter for a folio lock is. */
static bool waits(pid_t tid)
{
	char path[64], buf[512], *p;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	if (ferry_read(path, buf, sizeof(buf)) <= 0)
		return false;
	p = strrchr(buf, ')');
	return p && p[1] == ' ' && p[2] == 'D';
}

static bool all_wait(void *arg)
{
	struct splice *s = arg;
	int k;

	for (k = 0; k < SPLICES; k++)
		if (!waits(__atomic_load_n(&s[k].tid, __ATOMIC_ACQUIRE)))
			return false;
	return true;
}

/* Returns true if splice(2) read from the folio at @off. */
static bool is_spliced(const struct splice *s, size_t off, size_t folio)
{
	int k;

	for (k = 0; k < SPLICES; k++)
		if (off / folio == s[k].off / folio)
			return true;
	return false;
}

TEST_F(references, referenced_after_submit)
{
	int iters = ferry_iters(4, 2), i, k, hits = 0, tries = iters * 3, from, to;
	struct splice s[SPLICES];
	char got[FERRY_PAGE];
	struct race_count c;
	long early = 0, seen;
	struct race_move m;
	size_t off;
	bool open;

	if (!variant->shared)
		SKIP(return, "no task can take a reference to anonymous memory then");
	if (ferry_loaded()) {
		ASSERT_EQ(0, ferry_inject("delay_after_submit_us", HOLD_MS * 1000));
		ASSERT_EQ(0, ferry_inject("workers_only", 1));
	}
	for (i = 0; i < tries && hits < iters; i++) {
		from = self->nodes[i & 1];
		to = self->nodes[!(i & 1)];
		ASSERT_EQ(0, renew(self, true, from, i));
		for (k = 0; k < SPLICES; k++) {
			memset(&s[k], 0, sizeof(s[k]));
			s[k].fd = self->fd;
			/* In the second half, each in another folio except for 2M. */
			s[k].off = self->len / 2 + self->len / 2 / SPLICES * k +
				   (k & 1) * FERRY_PAGE;
			ASSERT_EQ(0, pipe(s[k].pipe));
		}
		race_count(&c);
		if (ferry_active()) {
			ASSERT_EQ(0, start_move(self, &m, to));
			seen = ferry_stats_value(&c.before, "batches");
			race_move_submitted(&m, seen);
			/* All but the first folio, if there is time for that. */
			seen = ferry_stats_value(&c.before, "bytes_early");
			race_until("bytes_early", seen + self->len - self->folio - 1,
				   HOLD_MS / 2);
		}
		for (k = 0; k < SPLICES; k++)
			ASSERT_EQ(0, pthread_create(&s[k].thread, NULL, splice_fn, &s[k]));
		/* Without a batch that is held open, the references are from before. */
		open = ferry_active() && ferry_wait(all_wait, s, HOLD_MS) &&
		       !race_move_over(&m);
		if (ferry_active()) {
			race_count_end(&c);
			early = race_grown(&c, "bytes_early");
			ASSERT_LE(0, race_move_end(&m));
		}
		for (k = 0; k < SPLICES; k++) {
			pthread_join(s[k].thread, NULL);
			ASSERT_EQ(FERRY_PAGE, s[k].ret);
		}
		if (!ferry_active())
			ASSERT_LE(0, race_move_pages(self->mem, self->len, self->folio, to));

		ASSERT_EQ(0, ferry_verify(self->mem, self->len, 4, i));
		for (off = 0; (open || !ferry_active()) && off < self->len; off += self->folio)
			ASSERT_EQ(is_spliced(s, off, self->folio) ? from : to,
				  ferry_node_of(self->mem + off))
				TH_LOG("folio at %#zx", off);
		hits += !ferry_active() || (open && early > (long)(self->len / 2));
		/* The pipe has the page, not a copy of its former content. */
		ferry_fill(self->mem, self->len, 6, i);
		for (k = 0; k < SPLICES; k++) {
			ASSERT_EQ(FERRY_PAGE, read(s[k].pipe[0], got, FERRY_PAGE));
			if (open || !ferry_active())
				ASSERT_EQ(0, ferry_verify_at(got, FERRY_PAGE, 6, i, s[k].off));
			close(s[k].pipe[0]);
			close(s[k].pipe[1]);
		}
		ASSERT_EQ(0, ferry_move_range(self->mem, self->len, self->folio, to, NULL));
		ASSERT_EQ(0, ferry_verify(self->mem, self->len, 6, i));
	}
	EXPECT_EQ(iters, hits)
		TH_LOG("in %d rounds the references came in time only %d times", i, hits);
}

/* ---- walkers of page frames ---- */

struct walker {
	const char *path;
	pthread_t thread;
	const u64 *pfns;
	size_t n;
	long looks;	/* looks at a locked folio, for kpageflags */
	long passes;
	int err;
	bool *stop;
};

static void *walk_fn(void *arg)
{
	struct walker *w = arg;
	bool idle = !!strstr(w->path, "page_idle"), flags = !!strstr(w->path, "kpageflags");
	int fd = open(w->path, (idle ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	u64 v, ones = ~0ULL;
	size_t i;

	if (fd < 0) {
		w->err = -errno;
		return NULL;
	}
	while (!__atomic_load_n(w->stop, __ATOMIC_ACQUIRE)) {
		for (i = 0; i < w->n; i++) {
			/* page_idle has a bit for each page frame. */
			off_t at = idle ? w->pfns[i] / 64 * 8 : w->pfns[i] * 8;

			if (idle && pwrite(fd, &ones, 8, at) != 8)
				w->err = -EIO;
			if (pread(fd, &v, 8, at) != 8)
				w->err = -EIO;
			if (flags)
				w->looks += v >> KPF_LOCKED & 1;
		}
		__atomic_fetch_add(&w->passes, 1, __ATOMIC_RELEASE);
	}
	close(fd);
	return NULL;
}

static bool has_walked(void *arg)
{
	struct walker *w = arg;

	return __atomic_load_n(&w->passes, __ATOMIC_ACQUIRE) > 0 ||
	       __atomic_load_n(&w->err, __ATOMIC_ACQUIRE);
}

TEST_F(references, walkers_of_page_frames)
{
	static const char * const paths[] = {
		"/proc/kpageflags", "/proc/kpagecount", "/proc/kpagecgroup",
		"/sys/kernel/mm/page_idle/bitmap",
	};
	int iters = ferry_iters(6, 3), i, k, from, to;
	struct walker w[ARRAY_SIZE(paths)];
	size_t n = self->len / FERRY_PAGE;
	long locked = 0, left = 0, ret;
	struct race_count c;
	bool stop;
	u64 *pfns;

	for (k = 0; k < ARRAY_SIZE(paths); k++)
		if (access(paths[k], R_OK))
			SKIP(return, "no page frame files");
	pfns = malloc(n * sizeof(*pfns));
	ASSERT_NE(NULL, pfns);
	if (ferry_loaded()) {
		ASSERT_EQ(0, ferry_inject("delay_after_submit_us", HOLD_MS * 1000 / 4));
		ASSERT_EQ(0, ferry_inject("workers_only", 1));
	}
	race_count(&c);
	for (i = 0; i < iters; i++) {
		from = self->nodes[i & 1];
		to = self->nodes[!(i & 1)];
		ASSERT_EQ(0, renew(self, variant->shared, from, i));
		ASSERT_EQ(0, ferry_pfns(self->mem, self->len, pfns));
		stop = false;
		for (k = 0; k < ARRAY_SIZE(paths); k++) {
			w[k] = (struct walker) {
				.path = paths[k], .pfns = pfns, .n = n, .stop = &stop,
			};
			ASSERT_EQ(0, pthread_create(&w[k].thread, NULL, walk_fn, &w[k]));
		}
		for (k = 0; k < ARRAY_SIZE(paths); k++)
			EXPECT_TRUE(ferry_wait(has_walked, &w[k], 60000)) TH_LOG("walker %d", k);
		ret = race_move_pages(self->mem, self->len, self->folio, to);
		ASSERT_LE(0, ret);
		left += ret;
		ASSERT_EQ(0, ferry_verify(self->mem, self->len, 4, i));
		__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
		for (k = 0; k < ARRAY_SIZE(paths); k++) {
			pthread_join(w[k].thread, NULL);
			ASSERT_EQ(0, w[k].err) TH_LOG("%s", paths[k]);
			locked += w[k].looks;
		}
		/*
		 * Each page is on one of the two nodes; folios that failed stayed, and move
		 * now.
		 */
		ASSERT_EQ(n, ferry_count_on(self->mem, self->len, FERRY_PAGE, from) +
			     ferry_count_on(self->mem, self->len, FERRY_PAGE, to));
		ASSERT_EQ(0, ferry_move_range(self->mem, self->len, self->folio, to, NULL));
		ASSERT_EQ(0, ferry_verify(self->mem, self->len, 4, i));
	}
	race_count_end(&c);
	free(pfns);
	ferry_note("%ld looks at page frames in migration; %ld folios refused", locked, left);
	if (!ferry_active())
		return;
	EXPECT_GT(locked, 0);
	EXPECT_GT(race_grown(&c, "folios_copied_early"), 0);
}

/* ---- writers from outside ---- */

enum { BY_VM_WRITE, BY_PROC_MEM, BY_PTRACE, BY_STORE, NR_WRITERS };

static const char * const writer_names[] = {
	"process_vm_writev", "/proc/self/mem", "ptrace", "store",
};

struct writer {
	pthread_t thread;
	int how;
	char *mem;
	size_t len;
	u64 round;
	int err;
	long done;
};

/* Returns the offset of a writer's own word in each page. */
static size_t word_off(int how)
{
	return 128 + 512 * how;
}

static u64 word_of(const struct writer *w, size_t off)
{
	return 0xfe00000000000000ULL | w->round << 40 | off << 4 | w->how;
}

/* Stops the calling thread's sibling @tid by a process of its own, and writes. */
static int ptrace_writes(struct writer *w, pid_t tid)
{
	int status;
	size_t off;
	pid_t pid;

	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid) {
		if (ptrace(PTRACE_SEIZE, tid, 0, 0) || ptrace(PTRACE_INTERRUPT, tid, 0, 0) ||
		    waitpid(tid, &status, __WALL) != tid)
			_exit(1);
		for (off = word_off(w->how); off < w->len; off += FERRY_PAGE)
			if (ptrace(PTRACE_POKEDATA, tid, w->mem + off, word_of(w, off)))
				_exit(2);
		_exit(ptrace(PTRACE_DETACH, tid, 0, 0) ? 3 : 0);
	}
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -EIO;
	w->done = w->len / FERRY_PAGE;
	return -WEXITSTATUS(status);
}

static pid_t bystander;
static bool bystander_stop;

/* The thread that ptrace stops, so that the other threads go on. */
static void *bystander_fn(void *arg)
{
	__atomic_store_n(&bystander, syscall(SYS_gettid), __ATOMIC_RELEASE);
	while (!__atomic_load_n(&bystander_stop, __ATOMIC_ACQUIRE))
		ferry_sleep_ms(20);
	return NULL;
}

static void *writer_fn(void *arg)
{
	struct writer *w = arg;
	struct iovec from, to;
	size_t off;
	int fd = -1;
	u64 v;

	if (w->how == BY_PTRACE) {
		w->err = ptrace_writes(w, __atomic_load_n(&bystander, __ATOMIC_ACQUIRE));
		return NULL;
	}
	if (w->how == BY_PROC_MEM)
		fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	for (off = word_off(w->how); off < w->len && !w->err; off += FERRY_PAGE) {
		v = word_of(w, off);
		switch (w->how) {
		case BY_VM_WRITE:
			from = (struct iovec) { &v, sizeof(v) };
			to = (struct iovec) { w->mem + off, sizeof(v) };
			if (process_vm_writev(getpid(), &from, 1, &to, 1, 0) != sizeof(v))
				w->err = -EIO;
			break;
		case BY_PROC_MEM:
			if (pwrite(fd, &v, sizeof(v), (uintptr_t)(w->mem + off)) != sizeof(v))
				w->err = -EIO;
			break;
		default:
			__atomic_store_n((u64 *)(w->mem + off), v, __ATOMIC_RELAXED);
			break;
		}
		w->done++;
	}
	if (fd >= 0)
		close(fd);
	return NULL;
}

/* Reads the first word of each page by vmsplice(2). Returns the number of wrong ones. */
static size_t spliced_wrong(const char *mem, size_t len, u64 gen)
{
	size_t off, wrong = 0;
	struct iovec iov;
	int p[2];
	u64 v;

	if (pipe(p))
		return len;
	for (off = 0; off < len; off += FERRY_PAGE) {
		iov = (struct iovec) { (char *)mem + off, sizeof(v) };
		if (vmsplice(p[1], &iov, 1, 0) != sizeof(v) ||
		    read(p[0], &v, sizeof(v)) != sizeof(v) || v != ferry_word(4, gen, off))
			wrong++;
	}
	close(p[0]);
	close(p[1]);
	return wrong;
}

TEST_F(references, writers_from_outside)
{
	int iters = ferry_iters(6, 4), i, k, hits = 0, to;
	struct writer w[NR_WRITERS];
	struct race_count c;
	struct race_move m;
	bool late, open;
	pthread_t by;
	size_t off;
	long seen;

	bystander_stop = false;
	ASSERT_EQ(0, pthread_create(&by, NULL, bystander_fn, NULL));
	if (ferry_loaded()) {
		ASSERT_EQ(0, ferry_inject("workers_only", 1));
		ASSERT_EQ(0, ferry_set_knob("timeout_ms", "60000"));
	}
	race_count(&c);
	for (i = 0; i < iters; i++) {
		to = self->nodes[!(i & 1)];
		late = i & 2;
		ASSERT_EQ(0, renew(self, variant->shared, self->nodes[i & 1], i));
		if (ferry_loaded()) {
			ASSERT_EQ(0, ferry_inject("delay_after_submit_us",
						  late ? 0 : HOLD_MS * 500));
			ASSERT_EQ(0, ferry_inject("delay_in_chunk_us", late ? 20000 : 0));
		}
		race_count_end(&c);
		ASSERT_EQ(0, start_move(self, &m, to));
		if (ferry_active()) {
			seen = ferry_stats_value(&c.after, "batches");
			open = race_move_submitted(&m, seen);
			seen = ferry_stats_value(&c.after, "bytes_early");
			if (!late)
				race_until("bytes_early", seen + self->len / 2, HOLD_MS / 4);
			hits += open && !race_move_over(&m);
		}
		for (k = 0; k < NR_WRITERS; k++) {
			w[k] = (struct writer) {
				.how = k, .mem = self->mem, .len = self->len, .round = i + 1,
			};
			ASSERT_EQ(0, pthread_create(&w[k].thread, NULL, writer_fn, &w[k]));
		}
		EXPECT_EQ(0, spliced_wrong(self->mem, self->len, i));
		ASSERT_LE(0, race_move_end(&m));
		for (k = 0; k < NR_WRITERS; k++) {
			pthread_join(w[k].thread, NULL);
			ASSERT_EQ(0, w[k].err) TH_LOG("%s", writer_names[k]);
			ASSERT_EQ(self->len / FERRY_PAGE, w[k].done) TH_LOG("%s", writer_names[k]);
		}
		/* A worker for which no mover waits comes back no later than this. */
		if (late)
			ferry_sleep_ms(100);
		for (k = 0; k < NR_WRITERS; k++)
			for (off = word_off(k); off < self->len; off += FERRY_PAGE) {
				ASSERT_EQ(word_of(&w[k], off), *(u64 *)(self->mem + off))
					TH_LOG("lost: %s at %#zx", writer_names[k], off);
				*(u64 *)(self->mem + off) = ferry_word(4, i, off);
			}
		ASSERT_EQ(0, ferry_verify(self->mem, self->len, 4, i));
	}
	__atomic_store_n(&bystander_stop, true, __ATOMIC_RELEASE);
	pthread_join(by, NULL);
	race_count_end(&c);
	if (!ferry_active())
		return;
	ferry_note("%d of %d times the batch was open; %ld folios early, %ld waits", hits, iters,
		   race_grown(&c, "folios_copied_early"), race_grown(&c, "waits"));
	EXPECT_GT(hits, 0);
	EXPECT_GT(race_grown(&c, "folios_copied_early"), 0);
	EXPECT_GT(race_grown(&c, "chunks_by_others"), 0);
}

TEST_HARNESS_MAIN
