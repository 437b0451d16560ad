// SPDX-License-Identifier: GPL-2.0
/*
 * Kernel side of Ferry's native benchmark: copies real folios the way migration
 * does, and nothing else of it, so that copying is measured at the machine's
 * own speed in a kernel that is a user process.
 *
 * A command written to debugfs ferry_native/run is carried out at once; reading
 * the file gives its result, a JSON object. A command is
 *
 *	alloc ORDER BYTES
 *	copy HOW BATCH SET_BYTES ROUNDS LATENCY BUSY
 *	limit ROUTINE THREADS BATCH SET_BYTES ROUNDS
 *
 * alloc makes two sets of folios, sources and destinations, in random order.
 * copy moves the content of the first SET_BYTES of them in batches of BATCH
 * folios:
 *
 *	stock	folio_mc_copy(), folio by folio
 *	now	what migrate_folios_move() does without a submitted batch
 *	early	what migrate_folios_move() does
 *
 * With BUSY, one more thread on each CPU does work of its own all the while, and
 * how much is counted.
 *
 * limit has THREADS threads copy as many bytes at the same time, each its part
 * of each batch, with movsb, memcpy (the kernel's) or movnti: once without
 * waiting for each other, for the speed, and once beginning each batch together,
 * for the time of a batch.
 * Destinations are spoilt before each round and every byte is compared after
 * it; neither is timed.
 *
 * What the shim does not export is passed as the addresses of its functions,
 * from /proc/kallsyms, so that the kernel under test is the one that is shipped.
 *
 * One command at a time, under native_mutex; it owns everything here.
 */
#include <linux/completion.h>
#include <linux/debugfs.h>
#include <linux/kthread.h>
#include <linux/math64.h>
#include <linux/migrate_copy.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/timekeeping.h>

/* Addresses of the functions of mm/migrate_copy.c that mm/migrate.c calls. */
static unsigned long submit, settle, finish, copy_folio;

module_param(submit, ulong, 0);
MODULE_PARM_DESC(submit, "address of __migrate_copy_submit()");
module_param(settle, ulong, 0);
MODULE_PARM_DESC(settle, "address of __migrate_copy_settle()");
module_param(finish, ulong, 0);
MODULE_PARM_DESC(finish, "address of __migrate_copy_finish()");
module_param(copy_folio, ulong, 0);
MODULE_PARM_DESC(copy_folio, "address of __migrate_copy_folio()");

#define NATIVE_MAX_THREADS	64
#define NATIVE_MAX_BATCH	65536
#define NATIVE_RESULT		1024

/* What is in the cache besides: a part of the second level. */
#define NATIVE_NEIGHBOUR	(512 << 10)

enum native_how { NATIVE_STOCK, NATIVE_NOW, NATIVE_EARLY };

/* Values of one latency, in cycles. */
struct native_series {
	u32 *values;
	unsigned long nr;
	unsigned long max;
};

static DEFINE_MUTEX(native_mutex);
static struct dentry *native_dir;
static char native_result[NATIVE_RESULT];

static struct folio **native_src;
static struct folio **native_dst;
static unsigned long native_nr;
static unsigned int native_order;
static u64 native_seed;

static char native_neighbour[NATIVE_NEIGHBOUR];

/* Cycles of the time stamp counter in a millisecond. */
static u64 native_khz;

/*
 * The target of src->mapping, with the bit for anonymous memory. The kernel
 * does not follow it while a folio is neither mapped nor in the swap cache.
 */
static u64 native_anon_vma[4] __aligned(8);

/* The kernel's clocks cost more here than a small folio does. */
static __always_inline u64 native_cycles(void)
{
	u32 low, high;

	asm volatile("rdtscp" : "=a" (low), "=d" (high) : : "ecx", "memory");
	return (u64)high << 32 | low;
}

static u64 native_ns(u64 cycles)
{
	return mul_u64_u64_div_u64(cycles, NSEC_PER_MSEC, native_khz);
}

static void native_calibrate(void)
{
	u64 ns = ktime_get_ns(), cycles = native_cycles();

	while (ktime_get_ns() - ns < 200 * NSEC_PER_MSEC)
		cpu_relax();
	cycles = native_cycles() - cycles;
	ns = ktime_get_ns() - ns;
	native_khz = mul_u64_u64_div_u64(cycles, NSEC_PER_MSEC, ns);
}

/*
 * Content that differs for every eight bytes and each filling, and the bytes that
 * are not in it: those of a destination that nothing has been copied to.
 */
static u64 native_word(unsigned long folio, unsigned long i)
{
	u64 x = native_seed + (((u64)folio << 20) + i) * 0x9e3779b97f4a7c15ull;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	return x ^ (x >> 27);
}

static void native_fill(unsigned long nr)
{
	unsigned long words = (PAGE_SIZE << native_order) / sizeof(u64);

	native_seed = get_random_u64();
	for (unsigned long f = 0; f < nr; f++) {
		u64 *to = folio_address(native_src[f]);

		for (unsigned long i = 0; i < words; i++)
			to[i] = native_word(f, i);
		cond_resched();
	}
}

/* Every byte of the destinations becomes wrong. */
static void native_spoil(unsigned long nr)
{
	unsigned long words = (PAGE_SIZE << native_order) / sizeof(u64);

	for (unsigned long f = 0; f < nr; f++) {
		const u64 *from = folio_address(native_src[f]);
		u64 *to = folio_address(native_dst[f]);

		for (unsigned long i = 0; i < words; i++)
			to[i] = ~from[i];
		cond_resched();
	}
}

/* How many bytes of the destinations are not what was filled in. */
static u64 native_bad(unsigned long nr)
{
	unsigned long words = (PAGE_SIZE << native_order) / sizeof(u64);
	u64 bad = 0;

	for (unsigned long f = 0; f < nr; f++) {
		const u64 *to = folio_address(native_dst[f]);

		for (unsigned long i = 0; i < words; i++) {
			u64 diff = to[i] ^ native_word(f, i);

			for (; unlikely(diff); diff >>= 8)
				bad += !!(diff & 0xff);
		}
		cond_resched();
	}
	return bad;
}

static void native_free_set(struct folio **set)
{
	for (unsigned long i = 0; set && i < native_nr; i++) {
		if (!set[i])
			continue;
		set[i]->mapping = NULL;
		folio_unlock(set[i]);
		folio_put(set[i]);
		cond_resched();
	}
	kvfree(set);
}

static void native_free(void)
{
	native_free_set(native_src);
	native_free_set(native_dst);
	native_src = NULL;
	native_dst = NULL;
	native_nr = 0;
}

static struct folio **native_alloc_set(unsigned long nr, unsigned int order,
				       void *mapping)
{
	struct folio **set = kvcalloc(nr, sizeof(*set), GFP_KERNEL);

	for (unsigned long i = 0; set && i < nr; i++) {
		set[i] = folio_alloc(GFP_KERNEL | __GFP_NOWARN, order);
		if (!set[i])
			break;
		folio_lock(set[i]);
		set[i]->mapping = mapping;
		cond_resched();
	}
	/* Folios that lie side by side are not what migration gets. */
	for (unsigned long i = nr; set && i > 1; i--) {
		unsigned long other = get_random_u32_below(i);

		swap(set[i - 1], set[other]);
	}
	return set;
}

static int native_alloc(unsigned int order, unsigned long bytes)
{
	unsigned long nr = bytes >> (PAGE_SHIFT + order);
	void *anon = (void *)((unsigned long)native_anon_vma |
			      FOLIO_MAPPING_ANON);

	if (order > MAX_PAGE_ORDER || !nr || nr > UINT_MAX)
		return -EINVAL;
	native_free();
	native_order = order;
	native_nr = nr;
	native_src = native_alloc_set(nr, order, anon);
	native_dst = native_alloc_set(nr, order, NULL);
	/* A hole is wherever the shuffling has put it. */
	for (unsigned long i = 0; i < nr; i++) {
		if (native_src && native_dst && native_src[i] && native_dst[i])
			continue;
		native_free();
		return -ENOMEM;
	}
	native_fill(nr);
	/* So that the machine below has given the memory. */
	native_spoil(nr);
	scnprintf(native_result, NATIVE_RESULT, "{\"folios\":%lu}\n", nr);
	return 0;
}

static void native_note(struct native_series *series, u64 cycles)
{
	if (series->values && series->nr < series->max)
		series->values[series->nr++] = min(cycles, (u64)U32_MAX);
}

static int native_compare(const void *a, const void *b)
{
	u32 x = *(const u32 *)a, y = *(const u32 *)b;

	return x < y ? -1 : x > y;
}

static u64 native_quantile(struct native_series *series, unsigned int percent)
{
	unsigned long rank = DIV_ROUND_UP(series->nr * percent, 100);

	return native_ns(series->values[rank ? rank - 1 : 0]);
}

static int native_show(struct native_series *series, const char *name, int at)
{
	if (!series->nr)
		return at;
	sort(series->values, series->nr, sizeof(u32), native_compare, NULL);
	return at + scnprintf(native_result + at, NATIVE_RESULT - at,
			      ",\"%s_ns\":{\"p10\":%llu,\"p50\":%llu,\"p99\":%llu}",
			      name, native_quantile(series, 10),
			      native_quantile(series, 50),
			      native_quantile(series, 99));
}

/* migrate_copy_folio() with a provider: the key's state is not ours to see. */
static int native_copy_folio(struct folio *dst, struct folio *src,
			     enum native_how how)
{
	int (*fn)(struct folio *dst, struct folio *src) = (void *)copy_folio;

	if (how != NATIVE_STOCK && folio_test_large(src))
		return fn(dst, src);
	return folio_mc_copy(dst, src);
}

struct native_copied {
	u64 cycles;
	u64 settled;
	u64 failed;
	/* Of threads that have nothing to do with it, and in which time. */
	u64 work;
	u64 work_cycles;
	struct native_series first, turn, batch, touch, neighbour;
};

static void native_say(struct native_copied *c, unsigned long nr,
		       unsigned long rounds, u64 bad)
{
	int at = scnprintf(native_result, NATIVE_RESULT,
			   "{\"ns\":%llu,\"bytes\":%llu,\"bad_bytes\":%llu,\"settled\":%llu,\"failed\":%llu",
			   native_ns(c->cycles),
			   ((u64)nr << (PAGE_SHIFT + native_order)) * rounds,
			   bad, c->settled, c->failed);

	at = native_show(&c->first, "first", at);
	at = native_show(&c->turn, "turn", at);
	at = native_show(&c->batch, "batch", at);
	at = native_show(&c->touch, "touch", at);
	at = native_show(&c->neighbour, "neighbour", at);
	if (c->work_cycles)
		at += scnprintf(native_result + at, NATIVE_RESULT - at,
				",\"work\":%llu,\"work_ns\":%llu", c->work,
				native_ns(c->work_cycles));
	scnprintf(native_result + at, NATIVE_RESULT - at, "}\n");
}

/* As migrate_pages() and migrate_folios_move(), without the moving. */
static void native_batch(struct native_copied *c, unsigned long first,
			 unsigned long nr, enum native_how how)
{
	struct migrate_copy_batch *(*submit_fn)(struct list_head *src_folios,
						struct folio *src,
						struct folio *dst) =
		(void *)submit;
	int (*settle_fn)(struct migrate_copy_batch *batch, struct folio *dst,
			 struct folio *src) = (void *)settle;
	void (*finish_fn)(struct migrate_copy_batch *batch) = (void *)finish;
	struct folio *folio, *folio2, *dst, *dst2;
	struct migrate_copy_batch *batch = NULL;
	struct migrate_copy_call call;
	LIST_HEAD(src_folios);
	LIST_HEAD(dst_folios);
	bool at_first = true;
	u64 begin, now, end;
	int rc;

	for (unsigned long i = first; i < first + nr; i++) {
		list_add_tail(&native_src[i]->lru, &src_folios);
		list_add_tail(&native_dst[i]->lru, &dst_folios);
	}

	begin = native_cycles();
	now = begin;
	migrate_copy_begin(&call, MIGRATE_SYNC, MR_SYSCALL);
	dst = list_first_entry(&dst_folios, struct folio, lru);
	dst2 = list_next_entry(dst, lru);
	list_for_each_entry_safe(folio, folio2, &src_folios, lru) {
		list_del(&dst->lru);
		rc = batch ? settle_fn(batch, dst, folio) : 0;
		if (rc > 0)
			c->settled++;
		else if (rc < 0 || native_copy_folio(dst, folio, how))
			c->failed++;
		list_del(&folio->lru);
		if (c->turn.values) {
			end = native_cycles();
			native_note(&c->turn, end - now);
			if (at_first)
				native_note(&c->first, end - begin);
			now = end;
		}
		dst = dst2;
		dst2 = list_next_entry(dst, lru);
		if (at_first && how == NATIVE_EARLY)
			batch = submit_fn(&src_folios, folio2, dst);
		at_first = false;
	}
	if (batch)
		finish_fn(batch);
	/* migrate_copy_end(), but without a charge for the workers. */
	current->migrate_copy_call = call.outer;
	end = native_cycles();
	c->cycles += end - begin;
	native_note(&c->batch, end - begin);
}

/* Reads a line of the cache each, one after the other. */
static void native_look_at(const void *p, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += L1_CACHE_BYTES)
		READ_ONCE(*(const u64 *)(p + i));
}

/*
 * What is in the mover's cache after a batch: the content that has been moved,
 * as its user would find it, and something else that was there before.
 */
static void native_after(struct native_copied *c, unsigned long first,
			 unsigned long nr)
{
	u64 begin = native_cycles();

	native_look_at(native_neighbour, NATIVE_NEIGHBOUR);
	native_note(&c->neighbour, native_cycles() - begin);
	begin = native_cycles();
	for (unsigned long i = first; i < first + nr; i++)
		native_look_at(folio_address(native_dst[i]),
			       folio_size(native_dst[i]));
	native_note(&c->touch, native_cycles() - begin);
}

/* A thread that always has something to do, as any user's. */
struct native_worker {
	struct task_struct *task;
	u64 work;
};

static int native_work(void *data)
{
	struct native_worker *worker = data;

	while (!kthread_should_stop()) {
		/* Registers only, so that it costs others nothing but time. */
		for (unsigned int i = 0; i < 1000; i++)
			cpu_relax();
		WRITE_ONCE(worker->work, worker->work + 1);
		cond_resched();
	}
	return 0;
}

/* One on each CPU; NULL if that cannot be. */
static struct native_worker *native_busy_begin(struct native_copied *c)
{
	struct native_worker *workers;
	unsigned int nr = num_online_cpus();

	workers = kvcalloc(nr, sizeof(*workers), GFP_KERNEL);
	if (!workers)
		return NULL;
	for (unsigned int i = 0; i < nr; i++) {
		struct task_struct *task;

		task = kthread_create(native_work, &workers[i],
				      "ferry_busy/%u", i);
		if (IS_ERR(task))
			break;
		kthread_bind(task, i);
		workers[i].task = task;
		wake_up_process(task);
	}
	c->work_cycles -= native_cycles();
	for (unsigned int i = 0; i < nr; i++)
		c->work -= READ_ONCE(workers[i].work);
	return workers;
}

static void native_busy_end(struct native_copied *c,
			    struct native_worker *workers)
{
	unsigned int nr = num_online_cpus();

	if (!workers)
		return;
	for (unsigned int i = 0; i < nr; i++)
		c->work += READ_ONCE(workers[i].work);
	c->work_cycles += native_cycles();
	for (unsigned int i = 0; i < nr; i++)
		if (workers[i].task)
			kthread_stop(workers[i].task);
	kvfree(workers);
}

static int native_copy(enum native_how how, unsigned long batch,
		       unsigned long bytes, unsigned long rounds, bool latency,
		       bool busy)
{
	unsigned long nr = bytes >> (PAGE_SHIFT + native_order);
	struct native_copied c = {};
	u64 bad = 0;
	int rc = -ENOMEM;

	if (!native_src || !nr || nr > native_nr || !rounds || !batch ||
	    batch > NATIVE_MAX_BATCH)
		return -EINVAL;
	c.batch.max = DIV_ROUND_UP(nr, batch) * rounds;
	c.batch.values = kvcalloc(c.batch.max, sizeof(u32), GFP_KERNEL);
	if (!c.batch.values)
		goto out;
	if (latency) {
		c.touch.max = c.batch.max;
		c.neighbour.max = c.batch.max;
		c.touch.values = kvcalloc(c.batch.max, sizeof(u32), GFP_KERNEL);
		c.neighbour.values = kvcalloc(c.batch.max, sizeof(u32),
					      GFP_KERNEL);
		c.turn.max = nr * rounds;
		c.first.max = c.batch.max;
		c.turn.values = kvcalloc(c.turn.max, sizeof(u32), GFP_KERNEL);
		c.first.values = kvcalloc(c.first.max, sizeof(u32), GFP_KERNEL);
		if (!c.turn.values || !c.first.values ||
		    !c.touch.values || !c.neighbour.values)
			goto out;
	}
	for (unsigned long round = 0; round < rounds; round++) {
		struct native_worker *workers;

		native_spoil(nr);
		workers = busy ? native_busy_begin(&c) : NULL;
		if (busy && !workers)
			goto out;
		for (unsigned long i = 0; i < nr; i += batch) {
			if (latency)
				native_look_at(native_neighbour, NATIVE_NEIGHBOUR);
			native_batch(&c, i, min(batch, nr - i), how);
			if (latency)
				native_after(&c, i, min(batch, nr - i));
			cond_resched();
		}
		native_busy_end(&c, workers);
		bad += native_bad(nr);
	}
	/* The time that other threads have the CPU is part of the result. */
	if (busy)
		c.cycles = c.work_cycles;
	native_say(&c, nr, rounds, bad);
	rc = 0;
out:
	kvfree(c.touch.values);
	kvfree(c.neighbour.values);
	kvfree(c.turn.values);
	kvfree(c.first.values);
	kvfree(c.batch.values);
	return rc;
}

typedef void (*native_routine)(void *dst, const void *src, size_t len);

static void native_movsb(void *dst, const void *src, size_t len)
{
	asm volatile("rep movsb"
		     : "+D" (dst), "+S" (src), "+c" (len) : : "memory");
}

static void native_memcpy(void *dst, const void *src, size_t len)
{
	memcpy(dst, src, len);
}

static void native_movnti(void *dst, const void *src, size_t len)
{
	const u64 *from = src;
	u64 *to = dst;

	for (size_t i = 0; i < len / sizeof(u64); i += 4)
		asm volatile("movnti %4, %0\n\tmovnti %5, %1\n\t"
			     "movnti %6, %2\n\tmovnti %7, %3"
			     : "=m" (to[i]), "=m" (to[i + 1]),
			       "=m" (to[i + 2]), "=m" (to[i + 3])
			     : "r" (from[i]), "r" (from[i + 1]),
			       "r" (from[i + 2]), "r" (from[i + 3]));
	asm volatile("sfence" : : : "memory");
}

/* What several threads copy at the same time, batch by batch. */
struct native_team {
	native_routine routine;
	unsigned int threads;
	unsigned long batch;
	unsigned long nr;
	/*
	 * Batches that may be begun: stored with release after the last one is
	 * done, read with acquire.
	 */
	unsigned long begun;
	/* Parts that are done, and threads that are there, but for the first. */
	atomic_long_t done;
};

struct native_member {
	struct native_team *team;
	unsigned int index;
	/* When its last part was done. */
	u64 end;
	struct completion ended;
};

/* One thread's part of the batch that begins with folio @first. */
static void native_copy_part(struct native_team *team, unsigned int index,
			     unsigned long first)
{
	unsigned long n = min(team->batch, team->nr - first);
	size_t size = PAGE_SIZE << native_order;
	unsigned long from = first, to = first + n;
	size_t offset = 0, len = size;

	if (n >= team->threads) {
		from = first + n * index / team->threads;
		to = first + n * (index + 1) / team->threads;
	} else {
		/* Slices of every folio, in cache lines. */
		offset = size / 64 * index / team->threads * 64;
		len = size / 64 * (index + 1) / team->threads * 64 - offset;
	}
	for (unsigned long i = from; i < to; i++)
		team->routine(folio_address(native_dst[i]) + offset,
			      folio_address(native_src[i]) + offset, len);
}

static int native_thread(void *data)
{
	struct native_member *member = data;
	struct native_team *team = member->team;
	unsigned long batches = 0;

	atomic_long_inc(&team->done);
	for (unsigned long i = 0; i < team->nr; i += team->batch) {
		batches++;
		/* Pairs with the release in native_lead(). */
		while (smp_load_acquire(&team->begun) < batches)
			cpu_relax();
		native_copy_part(team, member->index, i);
		atomic_long_inc_return_release(&team->done);
	}
	member->end = native_cycles();
	complete(&member->ended);
	return 0;
}

/* Starts all but the first thread; returns how many there are then. */
static unsigned int native_start(struct native_team *team,
				 struct native_member *members)
{
	struct task_struct *task;

	for (unsigned int i = 1; i < team->threads; i++) {
		members[i].team = team;
		members[i].index = i;
		init_completion(&members[i].ended);
		task = kthread_create(native_thread, &members[i],
				      "ferry_native/%u", i);
		if (IS_ERR(task))
			return i;
		kthread_bind(task, (raw_smp_processor_id() + i) %
				   num_online_cpus());
		wake_up_process(task);
	}
	return team->threads;
}

/*
 * The first thread. What is not started has its part left out. Returns when it
 * began.
 */
static u64 native_lead(struct native_team *team, unsigned int started,
		       bool together, struct native_copied *c)
{
	long done = started - 1;
	u64 begin, batch;

	while (atomic_long_read(&team->done) < done)
		cond_resched();
	begin = native_cycles();
	for (unsigned long i = 0; i < team->nr; i += team->batch) {
		batch = native_cycles();
		/* Pairs with the acquire in native_thread(). */
		smp_store_release(&team->begun,
				  together ? team->begun + 1 : ULONG_MAX);
		native_copy_part(team, 0, i);
		done += started - 1;
		if (!together)
			continue;
		while (atomic_long_read_acquire(&team->done) < done)
			cpu_relax();
		native_note(&c->batch, native_cycles() - batch);
	}
	return begin;
}

static int native_limit(native_routine routine, unsigned int threads,
			unsigned long batch, unsigned long bytes,
			unsigned long rounds)
{
	unsigned long nr = bytes >> (PAGE_SHIFT + native_order);
	struct native_member *members;
	struct native_copied c = {};
	u64 bad = 0;
	int rc = -ENOMEM;

	if (!native_src || !nr || nr > native_nr || !rounds || !threads ||
	    !batch || batch > NATIVE_MAX_BATCH ||
	    threads > min(num_online_cpus(), NATIVE_MAX_THREADS))
		return -EINVAL;
	c.batch.max = DIV_ROUND_UP(nr, batch) * rounds;
	c.batch.values = kvcalloc(c.batch.max, sizeof(u32), GFP_KERNEL);
	members = kvcalloc(threads, sizeof(*members), GFP_KERNEL);
	if (!c.batch.values || !members)
		goto out;
	for (unsigned long round = 0; round < 2 * rounds; round++) {
		struct native_team team = {
			.routine = routine,
			.threads = threads,
			.batch = batch,
			.nr = nr,
		};
		bool together = round & 1;
		unsigned int started;
		u64 begin, end;

		native_spoil(nr);
		started = native_start(&team, members);
		begin = native_lead(&team, started, together, &c);
		end = native_cycles();
		for (unsigned int i = 1; i < started; i++) {
			/* Not spinning: the others may need this CPU. */
			wait_for_completion(&members[i].ended);
			end = max(end, members[i].end);
		}
		if (started < threads)
			goto out;
		if (!together)
			c.cycles += end - begin;
		bad += native_bad(nr);
		cond_resched();
	}
	native_say(&c, nr, rounds, bad);
	rc = 0;
out:
	kvfree(c.batch.values);
	kvfree(members);
	return rc;
}

static int native_command(const char *text)
{
	unsigned long bytes, rounds, batch;
	unsigned int order, threads, latency, busy;
	char name[16];

	if (sscanf(text, "alloc %u %lu", &order, &bytes) == 2)
		return native_alloc(order, bytes);
	if (sscanf(text, "copy %15s %lu %lu %lu %u %u", name, &batch, &bytes,
		   &rounds, &latency, &busy) == 6) {
		static const char * const hows[] = {
			[NATIVE_STOCK] = "stock",
			[NATIVE_NOW] = "now",
			[NATIVE_EARLY] = "early",
		};
		int how = match_string(hows, ARRAY_SIZE(hows), name);

		if (how < 0)
			return how;
		return native_copy(how, batch, bytes, rounds, latency, busy);
	}
	if (sscanf(text, "limit %15s %u %lu %lu %lu", name, &threads, &batch,
		   &bytes, &rounds) == 5) {
		native_routine routine;

		if (!strcmp(name, "movsb"))
			routine = native_movsb;
		else if (!strcmp(name, "memcpy"))
			routine = native_memcpy;
		else if (!strcmp(name, "movnti"))
			routine = native_movnti;
		else
			return -EINVAL;
		return native_limit(routine, threads, batch, bytes, rounds);
	}
	return -EINVAL;
}

static ssize_t native_write(struct file *file, const char __user *buf,
			    size_t len, loff_t *ppos)
{
	char text[128];
	ssize_t rc;

	if (*ppos || len >= sizeof(text))
		return -EINVAL;
	rc = simple_write_to_buffer(text, sizeof(text) - 1, ppos, buf, len);
	if (rc < 0)
		return rc;
	text[rc] = '\0';
	scoped_guard(mutex, &native_mutex) {
		int error = native_command(text);

		if (error)
			return error;
	}
	return len;
}

static ssize_t native_read(struct file *file, char __user *buf, size_t len,
			   loff_t *ppos)
{
	guard(mutex)(&native_mutex);
	return simple_read_from_buffer(buf, len, ppos, native_result,
				       strlen(native_result));
}

static const struct file_operations native_fops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.read = native_read,
	.write = native_write,
};

static int __init native_init(void)
{
	if (!submit || !settle || !finish || !copy_folio) {
		pr_err("the addresses of all six functions are needed\n");
		return -EINVAL;
	}
	native_calibrate();
	native_dir = debugfs_create_dir("ferry_native", NULL);
	debugfs_create_file("run", 0600, native_dir, NULL, &native_fops);
	return 0;
}

static void __exit native_exit(void)
{
	debugfs_remove(native_dir);
	native_free();
}

module_init(native_init);
module_exit(native_exit);
MODULE_DESCRIPTION("Kernel side of Ferry's native benchmark");
MODULE_LICENSE("GPL");
