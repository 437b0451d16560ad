// SPDX-License-Identifier: GPL-2.0
/*
 * I12: the same work with the migrator and with "off" leaves the same counters in
 * /proc/vmstat, the same status of every page, and the same trace of every event of
 * migration in the same order; good pages, holes, and pages that cannot move, in
 * folios of all kinds. Without ferry.ko the stock kernel is compared with itself,
 * which shows that the work is repeatable.
 *
 * The mappings are at fixed addresses, as these are in the trace.
 */
#include <fcntl.h>
#include <sys/uio.h>

#include "kselftest_harness.h"
#include "ferry_util.h"

#define REGION	(4UL << 20)
#define PAGES	(REGION / FERRY_PAGE)
#define BASE	0x600000000000UL
#define KINDS	5

static const char * const counters[] = {
	"pgmigrate_success", "pgmigrate_fail",
	"thp_migration_success", "thp_migration_fail", "thp_migration_split",
	"thp_split_page", "thp_split_pmd", "thp_deferred_split_page",
	"numa_pages_migrated", "pgmigrate_dst_node_fail",
};

static const char * const events[] = {
	"migrate/mm_migrate_pages", "migrate/mm_migrate_pages_start",
	"migrate/set_migration_pte", "migrate/remove_migration_pte",
	"thp/set_migration_pmd", "thp/remove_migration_pmd",
};

static const struct {
	const char *what;
	unsigned int kib;
	bool shared;
} kinds[KINDS] = {
	{ "anonymous 2M", 2048, false },
	{ "shared 2M", 2048, true },
	{ "anonymous 64K", 64, false },
	{ "anonymous 4K", 4, false },
	{ "shared 4K", 4, true },
};

struct result {
	long vmstat[ARRAY_SIZE(counters)];
	long ret[2 * KINDS];
	int status[KINDS][PAGES];
	int where[2 * KINDS][PAGES];
	char *trace;
};

FIXTURE(vmstat_equal)
{
	int nodes[FERRY_MAX_NODES];
	struct result *a, *b;
};

FIXTURE_SETUP(vmstat_equal)
{
	if (ferry_cpu_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory and CPUs");
	ASSERT_EQ(0, ferry_quiet());
	self->a = calloc(1, sizeof(*self->a));
	self->b = calloc(1, sizeof(*self->b));
	ASSERT_TRUE(self->a && self->b);
	/* One CPU: the trace is in order, and the LRU caches are the same ones. */
	ASSERT_EQ(0, ferry_pin_cpu(ferry_node_cpu(self->nodes[0])));
}

FIXTURE_TEARDOWN(vmstat_equal)
{
	ferry_restore();
}

/* What is not the same from run to run goes: time, CPU, page table entries. */
static char *tidy(char *trace, pid_t pid)
{
	char mark[32], *line, *next = NULL, *out = trace, *text, *pte, *end;
	size_t len;

	snprintf(mark, sizeof(mark), "-%d ", pid);
	for (line = strtok_r(trace, "\n", &next); line; line = strtok_r(NULL, "\n", &next)) {
		text = strstr(line, ": ");
		if (*line == '#' || !text || !strstr(line, mark))
			continue;
		text += 2;
		pte = strstr(text, "pte=");
		if (!pte)
			pte = strstr(text, "pmd=");
		if (pte) {
			end = strchr(pte, ' ');
			if (end)
				memmove(pte, end, strlen(end) + 1);
			else
				*pte = '\0';
		}
		len = strlen(text);
		memmove(out, text, len);
		out[len] = '\n';
		out += len + 1;
	}
	*out = '\0';
	return trace;
}

static void work(struct __test_metadata *_metadata, FIXTURE_DATA(vmstat_equal) * self,
		 struct result *r, int turn)
{
	long before[ARRAY_SIZE(counters)];
	char *mem[KINDS], buf[FERRY_PAGE];
	int fds[KINDS][2], i, p, from, to;
	static void *pages[PAGES];
	static int nodes[PAGES];
	struct iovec iov;

	from = self->nodes[turn & 1];
	to = self->nodes[!(turn & 1)];
	for (i = 0; i < KINDS; i++) {
		ASSERT_EQ(0, ferry_mthp_only(0));
		ASSERT_EQ(0, ferry_shmem_only(0));
		if (kinds[i].kib > 4)
			ASSERT_EQ(0, kinds[i].shared ? ferry_shmem_only(kinds[i].kib) :
					 ferry_mthp_only(kinds[i].kib));
		mem[i] = mmap((void *)(BASE + i * 2 * REGION), REGION,
			      PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_FIXED_NOREPLACE |
			      (kinds[i].shared ? MAP_SHARED : MAP_PRIVATE), -1, 0);
		ASSERT_EQ((void *)(BASE + i * 2 * REGION), mem[i]);
		ASSERT_EQ(0, ferry_populate(mem[i], REGION, from));
		ASSERT_EQ(REGION, ferry_in_folios_of(mem[i], REGION, kinds[i].kib << 10));
		ferry_fill(mem[i], REGION, i, turn);
		/* One page of each cannot move. */
		iov.iov_base = mem[i] + 700 * FERRY_PAGE;
		iov.iov_len = FERRY_PAGE;
		ASSERT_EQ(0, pipe(fds[i]));
		ASSERT_EQ(FERRY_PAGE, vmsplice(fds[i][1], &iov, 1, 0));
		/* In the small ones, some are not there. */
		if (kinds[i].kib == 4)
			ASSERT_EQ(0, madvise(mem[i] + 32 * FERRY_PAGE, 5 * FERRY_PAGE,
					     kinds[i].shared ? MADV_REMOVE : MADV_DONTNEED));
		for (p = 0; p < PAGES; p++)
			r->status[i][p] = -12345;
	}
	ASSERT_EQ(0, ferry_trace_clear());
	for (i = 0; i < ARRAY_SIZE(events); i++)
		ASSERT_EQ(0, ferry_trace_event(events[i], true));
	for (i = 0; i < ARRAY_SIZE(counters); i++)
		before[i] = ferry_vmstat(counters[i]);

	for (i = 0; i < KINDS; i++) {
		for (p = 0; p < PAGES; p++) {
			pages[p] = mem[i] + p * FERRY_PAGE;
			nodes[p] = to;
		}
		r->ret[i] = ferry_move_pages(0, PAGES, pages, nodes, r->status[i],
					     MPOL_MF_MOVE);
		for (p = 0; p < PAGES; p++)
			r->where[i][p] = ferry_node_of(mem[i] + p * FERRY_PAGE);
	}
	/* And back with another system call. */
	for (i = 0; i < KINDS; i++) {
		r->ret[KINDS + i] = ferry_mbind(mem[i], REGION, MPOL_BIND, from,
						MPOL_MF_MOVE | MPOL_MF_STRICT);
		for (p = 0; p < PAGES; p++)
			r->where[KINDS + i][p] = ferry_node_of(mem[i] + p * FERRY_PAGE);
	}

	for (i = 0; i < ARRAY_SIZE(counters); i++)
		r->vmstat[i] = ferry_vmstat(counters[i]) - before[i];
	for (i = 0; i < ARRAY_SIZE(events); i++)
		ASSERT_EQ(0, ferry_trace_event(events[i], false));
	free(r->trace);
	r->trace = ferry_trace_read();
	ASSERT_NE(NULL, r->trace);
	tidy(r->trace, getpid());

	for (i = 0; i < KINDS; i++) {
		p = kinds[i].kib == 4 ? 37 : 32;
		ASSERT_EQ(0, ferry_verify(mem[i], 32 * FERRY_PAGE, i, turn));
		ASSERT_EQ(0, ferry_verify_at(mem[i] + p * FERRY_PAGE,
					     REGION - p * FERRY_PAGE, i, turn,
					     p * FERRY_PAGE));
		ASSERT_EQ(FERRY_PAGE, read(fds[i][0], buf, FERRY_PAGE));
		ASSERT_EQ(0, ferry_verify_at(buf, FERRY_PAGE, i, turn, 700 * FERRY_PAGE));
		close(fds[i][0]);
		close(fds[i][1]);
		ASSERT_EQ(0, munmap(mem[i], REGION));
	}
}

static int lines(const char *s)
{
	int n = 0;

	while ((s = strchr(s, '\n'))) {
		n++;
		s++;
	}
	return n;
}

static void say_difference(const char *a, const char *b)
{
	const char *la = a, *lb = b;
	int line = 1;

	for (; *a && *a == *b; a++, b++)
		if (*a == '\n') {
			la = a + 1;
			lb = b + 1;
			line++;
		}
	ferry_note("line %d: '%.*s' and '%.*s'", line, (int)strcspn(la, "\n"), la,
		   (int)strcspn(lb, "\n"), lb);
}

static int differences(const struct result *a, const struct result *b)
{
	int i, p, n, found = 0;

	for (i = 0; i < ARRAY_SIZE(counters); i++) {
		if (a->vmstat[i] == b->vmstat[i])
			continue;
		ferry_note("%s: %ld and %ld", counters[i], a->vmstat[i], b->vmstat[i]);
		found++;
	}
	for (i = 0; i < 2 * KINDS; i++) {
		if (a->ret[i] == b->ret[i])
			continue;
		ferry_note("%s of %s returned %ld and %ld",
			   i < KINDS ? "move_pages()" : "mbind()", kinds[i % KINDS].what,
			   a->ret[i], b->ret[i]);
		found++;
	}
	for (i = 0; i < KINDS; i++) {
		for (n = 0, p = 0; p < PAGES; p++)
			n += a->status[i][p] != b->status[i][p];
		if (n)
			ferry_note("%s: status of %d pages", kinds[i].what, n);
		found += n;
	}
	for (i = 0; i < 2 * KINDS; i++) {
		for (n = 0, p = 0; p < PAGES; p++)
			n += a->where[i][p] != b->where[i][p];
		if (n)
			ferry_note("%s: place of %d pages", kinds[i % KINDS].what, n);
		found += n;
	}
	if (strcmp(a->trace, b->trace)) {
		say_difference(a->trace, b->trace);
		found++;
	}
	return found;
}

/*
 * A reference that somebody else takes for a moment (a PFN walker, a deferred split) can
 * make the stock kernel retry, and then its own two runs differ. So a turn may be
 * repeated; what Ferry changed would differ every time.
 */
TEST_F(vmstat_equal, off_and_migrator)
{
	int turns = ferry_iters(4, 2), turn, attempt, differ;
	struct result *a = self->a, *b = self->b;
	struct ferry_stats before, after;

	for (turn = 0; turn < turns; turn++) {
		for (attempt = 0, differ = 1; differ && attempt < 5; attempt++) {
			if (ferry_loaded())
				ASSERT_EQ(0, ferry_set_knob("migrator", "off"));
			ASSERT_EQ(0, ferry_stats_get(&before));
			work(_metadata, self, a, turn);
			ASSERT_EQ(0, ferry_stats_get(&after));
			ASSERT_GE(0, ferry_stats_delta(&before, &after, "bytes_early"));
			ASSERT_GE(0, ferry_stats_delta(&before, &after, "bytes_now"));

			if (ferry_loaded())
				ASSERT_EQ(0, ferry_set_knob("migrator", "%s",
							    ferry_migrator()));
			ASSERT_EQ(0, ferry_stats_get(&before));
			work(_metadata, self, b, turn);
			ASSERT_EQ(0, ferry_stats_get(&after));
			ASSERT_TRUE(ferry_stats_used(&before, &after));

			differ = differences(a, b);
			if (differ)
				ferry_note("turn %d, attempt %d: %d differences", turn,
					   attempt, differ);
		}
		ASSERT_EQ(0, differ);
		/* There was something to count: moved, failed, 2M moved, 2M failed. */
		EXPECT_GT(a->vmstat[0], 4000);
		EXPECT_GT(a->vmstat[1], 0);
		EXPECT_GT(a->vmstat[2], 0);
		EXPECT_GT(a->vmstat[3], 0);
		EXPECT_GT(lines(a->trace), 1000);
	}
	ferry_note("%d lines of trace, %ld pages moved and %ld failed each time",
		   lines(a->trace), a->vmstat[0], a->vmstat[1]);
}

TEST_HARNESS_MAIN
