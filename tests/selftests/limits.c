// SPDX-License-Identifier: GPL-2.0
/*
 * The size of a batch is the stock one while no migrator is selected, even if knobs are
 * written meanwhile, and the one of the knobs while a migrator is selected.
 *
 * Seen red, in a scratch copy: with Registry::set_limits() called after the lock of the
 * registry was released (in two steps, as in an earlier version), a write that began before
 * "off" leaves "limits 512 262144" behind: writer_that_is_overtaken.
 */
#include <pthread.h>

#include "kselftest_harness.h"
#include "ferry_util.h"

#define GIB	(1UL << 30)

struct seen {
	char migrator[32];
	unsigned int folios;	/* 0: stock */
	unsigned int pages;
};

/* Reads the migrator and the limits. Returns 0 if both lines are there. */
static int look(struct seen *s)
{
	char buf[8192], *line;

	if (ferry_read(FERRY_DEBUGFS "state", buf, sizeof(buf)) <= 0)
		return -EIO;
	memset(s, 0, sizeof(*s));
	if (sscanf(buf, "migrator %31s", s->migrator) != 1)
		return -EINVAL;
	line = strstr(buf, "\nlimits ");
	if (!line)
		return -ENOENT;
	if (!strncmp(line + 8, "stock\n", 6))
		return 0;
	return sscanf(line + 8, "%u %u", &s->folios, &s->pages) == 2 ? 0 : -EINVAL;
}

static bool is_stock(const struct seen *s)
{
	return !s->folios && !s->pages;
}

FIXTURE(limits)
{
	bool quit;
	int ret;
	long writes;
};

FIXTURE_SETUP(limits)
{
	if (!ferry_active())
		SKIP(return, "needs a migrator");
	self->quit = false;
	self->ret = 0;
	self->writes = 0;
	ASSERT_EQ(0, ferry_set_knob("batch_bytes", "%lu", 4UL << 20));
}

FIXTURE_TEARDOWN(limits)
{
	ferry_restore();
	ferry_write(FERRY_SYSCTL "migrator", "%s", ferry_migrator());
}

TEST_F(limits, follow_the_selection)
{
	struct seen s;

	ASSERT_EQ(0, ferry_set_knob("batch_bytes", "%lu", GIB));
	ASSERT_EQ(0, look(&s));
	EXPECT_EQ(GIB / FERRY_PAGE, s.pages);
	ASSERT_EQ(0, ferry_write(FERRY_SYSCTL "migrator", "off"));
	ASSERT_EQ(0, look(&s));
	EXPECT_STREQ("off", s.migrator);
	EXPECT_TRUE(is_stock(&s));
	ASSERT_EQ(0, ferry_write(FERRY_SYSCTL "batch_folios", "1024"));
	ASSERT_EQ(0, look(&s));
	EXPECT_TRUE(is_stock(&s));
	ASSERT_EQ(0, ferry_write(FERRY_SYSCTL "batch_folios", "512"));
	ASSERT_EQ(0, ferry_write(FERRY_SYSCTL "migrator", "%s", ferry_migrator()));
	ASSERT_EQ(0, look(&s));
	EXPECT_EQ(512, s.folios);
	EXPECT_EQ(GIB / FERRY_PAGE, s.pages);
	/* A name of no migrator changes nothing. */
	EXPECT_NE(0, ferry_write(FERRY_SYSCTL "migrator", "nobody"));
	ASSERT_EQ(0, look(&s));
	EXPECT_STREQ(ferry_migrator(), s.migrator);
	EXPECT_EQ(GIB / FERRY_PAGE, s.pages);
}

static void *slow_writer(void *arg)
{
	FIXTURE_DATA(limits) * self = arg;

	self->ret = ferry_write(FERRY_SYSCTL "batch_bytes", "%lu", GIB);
	return NULL;
}

/*
 * A writer has read which migrator is selected; then the migrator is switched off; then the
 * writer goes on.
 */
TEST_F(limits, writer_that_is_overtaken)
{
	pthread_t thread;
	struct seen s;

	ASSERT_EQ(0, ferry_inject("delay_limits_us", 500000));
	ASSERT_EQ(0, pthread_create(&thread, NULL, slow_writer, self));
	ferry_sleep_ms(200);
	ASSERT_EQ(0, ferry_inject("delay_limits_us", 0));
	ASSERT_EQ(0, ferry_write(FERRY_SYSCTL "migrator", "off"));
	pthread_join(thread, NULL);
	EXPECT_EQ(0, self->ret);
	ASSERT_EQ(0, look(&s));
	EXPECT_STREQ("off", s.migrator);
	EXPECT_TRUE(is_stock(&s));
}

static void *writer(void *arg)
{
	FIXTURE_DATA(limits) * self = arg;
	int i, ret;

	for (i = 0; !__atomic_load_n(&self->quit, __ATOMIC_ACQUIRE); i++) {
		ret = ferry_write(FERRY_SYSCTL "batch_bytes", "%lu",
				  i & 1 ? GIB : 4UL << 20);
		if (ret)
			__atomic_store_n(&self->ret, ret, __ATOMIC_RELEASE);
		__atomic_add_fetch(&self->writes, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* Two writers as fast as they can, and a batch is never larger than the stock one with "off". */
TEST_F(limits, two_writers)
{
	int iters = ferry_iters(60, 15), i, k;
	pthread_t thread[2];
	struct seen s;

	for (i = 0; i < ARRAY_SIZE(thread); i++)
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, writer, self));
	for (i = 0; i < iters; i++) {
		ASSERT_EQ(0, ferry_write(FERRY_SYSCTL "migrator", "%s",
					 i & 1 ? "off" : ferry_migrator()));
		for (k = 0; k < 20; k++) {
			ASSERT_EQ(0, look(&s));
			EXPECT_EQ(!strcmp(s.migrator, "off"), is_stock(&s));
		}
	}
	__atomic_store_n(&self->quit, true, __ATOMIC_RELEASE);
	for (i = 0; i < ARRAY_SIZE(thread); i++)
		pthread_join(thread[i], NULL);
	EXPECT_EQ(0, self->ret);
	ferry_note("%ld writes of batch_bytes, %d of migrator", self->writes, iters);
	EXPECT_GT(self->writes, 0);
}

TEST_HARNESS_MAIN
