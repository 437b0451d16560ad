// SPDX-License-Identifier: GPL-2.0
/*
 * Rings of SDXI contexts, by the driver's counters: one doorbell for each context and batch,
 * at most one interrupt, one descriptor for adjoining memory, rings that wrap around many
 * times, and all contexts of all functions at once.
 *
 * Seen red, in a scratch copy: with a queue that publishes each copy at once (Context::push()
 * that publishes), the first two tests count more doorbells than submissions.
 */
#include <dirent.h>

#include "kselftest_harness.h"
#include "ferry_util.h"
#include "hazards.h"
#include "engine.h"

#define LEN		(8UL << 20)
#define PAGES		(LEN / FERRY_PAGE)
#define FUNCTIONS	FERRY_DEBUGFS "functions/"
/* The number of slots of a ring. */
#define SLOTS		1024

/* The counters of all contexts, added up. */
struct sums {
	int functions;
	/* Contexts that have copied. */
	int contexts;
	long copies;
	long doorbells;
	long interrupts;
	long failed;
	long errors;
	/* The largest write index. */
	long written;
};

FIXTURE(rings)
{
	int nodes[FERRY_MAX_NODES];
	struct race_count count;
	struct sums before;
	struct sums after;
	char *mem;
};

static long value(const char *line, const char *name)
{
	const char *p = strstr(line, name);

	return p ? atol(p + strlen(name)) : 0;
}

/*
 * Adds up the counters of the contexts of all functions. Returns false if there is no
 * function.
 */
static bool add_up(struct sums *s)
{
	char path[400], buf[65536], *line, *next;
	struct dirent *d;
	DIR *dir;

	memset(s, 0, sizeof(*s));
	dir = opendir(FUNCTIONS);
	while (dir && (d = readdir(dir))) {
		if (d->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), FUNCTIONS "%s/contexts", d->d_name);
		if (ferry_read(path, buf, sizeof(buf)) < 0)
			continue;
		s->functions++;
		for (line = buf; line && *line; line = next) {
			long written;

			next = strchr(line, '\n');
			if (next)
				*next++ = '\0';
			written = value(line, "write index ");
			s->contexts += value(line, ", copies ") > 0;
			s->copies += value(line, ", copies ");
			s->doorbells += value(line, ", doorbells ");
			s->interrupts += value(line, ", interrupts ");
			s->failed += value(line, ", failed ");
			s->errors += value(line, ", errors ");
			s->written = written > s->written ? written : s->written;
		}
	}
	if (dir)
		closedir(dir);
	return s->functions > 0;
}

/* Selects the migrator anew, with @n contexts. */
static int contexts(int n)
{
	int ret;

	ret = ferry_write(FERRY_SYSCTL "migrator", "off");
	if (!ret)
		ret = ferry_set_knob("dma_channels", "%d", n);
	return ret ? ret : ferry_write(FERRY_SYSCTL "migrator", "ferry_sdxi");
}

/* Moves all pages, in an order in which hardly any two adjoin. */
static long move_shuffled(char *mem, int node)
{
	void **pages = malloc(PAGES * sizeof(*pages)), *swap;
	int *nodes = malloc(PAGES * sizeof(*nodes));
	int *status = malloc(PAGES * sizeof(*status));
	static unsigned int r = 1;
	long ret = -ENOMEM;
	size_t i, j;

	if (pages && nodes && status) {
		for (i = 0; i < PAGES; i++) {
			pages[i] = mem + i * FERRY_PAGE;
			nodes[i] = node;
		}
		for (i = PAGES - 1; i > 0; i--) {
			r = r * 1103515245 + 12345;
			j = (r >> 8) % (i + 1);
			swap = pages[i];
			pages[i] = pages[j];
			pages[j] = swap;
		}
		ret = ferry_move_pages(0, PAGES, pages, nodes, status, MPOL_MF_MOVE);
	}
	free(pages);
	free(nodes);
	free(status);
	return ret;
}

FIXTURE_SETUP(rings)
{
	self->mem = MAP_FAILED;
	if (!ferry_active() || strcmp(ferry_migrator(), "ferry_sdxi"))
		SKIP(return, "needs the migrator ferry_sdxi");
	if (ferry_mem_nodes(self->nodes) < 2)
		SKIP(return, "needs two nodes with memory");
	ASSERT_EQ(0, race_prepare(self->nodes));
	ASSERT_EQ(0, ferry_set_knob("engine_share", "all"));
	self->mem = ferry_map_anon(LEN, FERRY_PMD);
	ASSERT_NE(MAP_FAILED, self->mem);
}

FIXTURE_TEARDOWN(rings)
{
	if (self->mem != MAP_FAILED)
		munmap(self->mem, LEN);
	ferry_restore();
	if (ferry_active()) {
		ferry_write(FERRY_SYSCTL "migrator", "off");
		ferry_write(FERRY_SYSCTL "migrator", "ferry_sdxi");
	}
}

static void begin(struct __test_metadata *_metadata, FIXTURE_DATA(rings) * self)
{
	ASSERT_TRUE(add_up(&self->before));
	race_count(&self->count);
}

/* Expects that the counters of the contexts and of the migrator agree, and no error. */
static void end(struct __test_metadata *_metadata, FIXTURE_DATA(rings) * self)
{
	struct sums *b = &self->before, *a = &self->after;

	ASSERT_TRUE(add_up(a));
	race_count_end(&self->count);
	ferry_note("%d functions, %d contexts; %ld copies of %ld MiB", a->functions, a->contexts,
		   a->copies - b->copies, race_grown(&self->count, "engine_bytes") >> 20);
	ferry_note("%ld doorbells for %ld submissions of %ld batches, %ld interrupts",
		   a->doorbells - b->doorbells, race_grown(&self->count, "engine_submits"),
		   race_grown(&self->count, "batches"), a->interrupts - b->interrupts);
	EXPECT_GT(race_grown(&self->count, "engine_submits"), 0);
	EXPECT_EQ(a->doorbells - b->doorbells, race_grown(&self->count, "engine_submits"));
	EXPECT_LE(a->interrupts - b->interrupts, a->doorbells - b->doorbells);
	EXPECT_EQ(a->copies - b->copies, race_grown(&self->count, "engine_descriptors"));
	EXPECT_EQ(0, a->failed - b->failed);
	EXPECT_EQ(0, a->errors - b->errors);
	EXPECT_EQ(0, race_grown(&self->count, "chunks_failed"));
}

/* One context with a ring that wraps around. */
TEST_F(rings, wrap_around)
{
	int turns = ferry_iters(40, 10), i;

	ASSERT_EQ(0, contexts(1));
	ASSERT_EQ(0, race_fresh(self->mem, LEN, FERRY_PAGE, self->nodes[0]));
	begin(_metadata, self);
	for (i = 0; i < 1000 && self->after.written < (long)turns * SLOTS; i++) {
		ferry_fill(self->mem, LEN, 5, i);
		ASSERT_EQ(0, move_shuffled(self->mem, self->nodes[!(i & 1)]));
		ASSERT_EQ(0, ferry_verify(self->mem, LEN, 5, i));
		ASSERT_TRUE(add_up(&self->after));
	}
	ferry_note("the ring has wrapped around %ld times", self->after.written / SLOTS);
	EXPECT_LE((long)turns * SLOTS, self->after.written);
	end(_metadata, self);
}

/* Adjoining memory is one copy, and there is one doorbell for any number of copies. */
TEST_F(rings, what_adjoins_is_one_copy)
{
	long scattered, copies, bytes;

	ASSERT_EQ(0, contexts(1));
	ASSERT_EQ(0, race_fresh(self->mem, LEN, FERRY_PMD, self->nodes[0]));
	ferry_fill(self->mem, LEN, 6, 1);
	begin(_metadata, self);
	ASSERT_EQ(0, ferry_move_range(self->mem, LEN, FERRY_PMD, self->nodes[1], NULL));
	end(_metadata, self);
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, 6, 1));
	copies = self->after.copies - self->before.copies;
	bytes = race_grown(&self->count, "engine_bytes");
	/* One copy for each folio, and for each part of a folio that a channel gets. */
	EXPECT_LE(copies, 2 * bytes / (long)FERRY_PMD + 4);

	ASSERT_EQ(0, race_fresh(self->mem, LEN, FERRY_PAGE, self->nodes[0]));
	ferry_fill(self->mem, LEN, 6, 2);
	begin(_metadata, self);
	ASSERT_EQ(0, move_shuffled(self->mem, self->nodes[1]));
	end(_metadata, self);
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, 6, 2));
	scattered = self->after.copies - self->before.copies;
	EXPECT_GT(scattered, 8 * copies);
}

/* All contexts of all functions get a part of each batch. */
TEST_F(rings, all_contexts)
{
	long channels, was;
	int i;

	ASSERT_EQ(0, contexts(64));
	channels = eng_channels();
	/* 63 contexts of one function of the model; several functions have more. */
	EXPECT_LE(63, channels);
	ASSERT_EQ(0, race_fresh(self->mem, LEN, FERRY_PMD, self->nodes[0]));
	begin(_metadata, self);
	was = self->before.doorbells;
	for (i = 0; i < ferry_iters(20, 5); i++) {
		ferry_fill(self->mem, LEN, 7, i);
		ASSERT_EQ(0, ferry_move_range(self->mem, LEN, FERRY_PMD, self->nodes[!(i & 1)],
					      NULL));
		ASSERT_EQ(0, ferry_verify(self->mem, LEN, 7, i));
	}
	end(_metadata, self);
	/* An early batch of 8 MiB is enough for all of them. */
	EXPECT_LE(channels, self->after.contexts);
	EXPECT_LE(channels, self->after.doorbells - was);
}

/*
 * Contexts of a function that leaves are replaced by spare ones of the other functions. Seen
 * red: with a channel manager that does not rescan then, 12 of 16 are left.
 */
TEST_F(rings, others_stand_in)
{
	char function[32];
	long want = 16;

	ASSERT_TRUE(add_up(&self->before));
	if (self->before.functions < 4)
		SKIP(return, "needs four functions");
	ASSERT_EQ(0, contexts(want));
	ASSERT_EQ(want, eng_channels());
	ASSERT_TRUE(eng_function("ferry_sdxi", function, sizeof(function)));
	ASSERT_EQ(0, eng_bind("ferry_sdxi", "unbind", function));
	EXPECT_TRUE(ferry_wait(eng_has_channels, &want, 20000));
	ASSERT_EQ(0, race_fresh(self->mem, LEN, FERRY_PMD, self->nodes[0]));
	ferry_fill(self->mem, LEN, 8, 1);
	begin(_metadata, self);
	EXPECT_EQ(3, self->before.functions);
	EXPECT_EQ(0, ferry_move_range(self->mem, LEN, FERRY_PMD, self->nodes[1], NULL));
	EXPECT_EQ(0, ferry_verify(self->mem, LEN, 8, 1));
	end(_metadata, self);
	EXPECT_LE(want, self->after.contexts);
	EXPECT_EQ(0, eng_bind("ferry_sdxi", "bind", function));
	EXPECT_EQ(want, eng_channels());
}

TEST_HARNESS_MAIN
