// SPDX-License-Identifier: GPL-2.0
/*
 * Soak: memory of all kinds migrates for a long time; no byte is lost and no memory is
 * leaked.
 *
 *	soak [--seconds N] [--cycles N] [--keepers N] [--seed N] [--calm]
 *
 * The time is cut into equal cycles. A cycle loads the module, works, frees everything,
 * selects "off", unloads the module, empties the caches and counts. Its work is
 *
 * calm: keepers, each a process in a control group of its own, move their memory
 *	(anonymous 4K, 64K and 2M, shared 4K and 2M, hugetlb, a file of ext4) by
 *	move_pages(2), migrate_pages(2), mbind(2), cpuset.mems and with a forked child, and
 *	compare every byte after every few moves. In the first half one works at a time, so
 *	that there are idle CPUs for workers; in the second half all work at once, migrator
 *	and knobs change, and now and then a keeper is killed in the middle of its work;
 * fire: the same beside stress, with fault injection, hotplug, swap, userfaultfd and
 *	removal and loading of the module. Not with --calm.
 *
 * In the end each keeper compares everything once more, including the file as it is on the
 * disk.
 *
 * Definition of a leak: the first cycle is the warm-up, because it makes allocations that
 * stay for good, such as slabs of caches that only this work uses, per-CPU parts of them,
 * kernel threads of drivers, pages of the programs. All other cycles do the same work, so the
 * growth from the first third to the last third of them is leaked, except for noise, which
 * does not grow with the time: see TOLERANCE_OTHER. With ten cycles the two thirds are six
 * cycles apart: a page lost in every n-th batch is found if six cycles have more than 64 * n
 * batches on each node; the results have the number of batches.
 *
 * Seen red, with scratch copies of the module, --seconds 120 --cycles 4 --calm: with one that
 * loses a page in every second batch, 449 more pages that are not free, 242 and 201 on no
 * list, after 1973 batches; with one that loses a batch object in every 16th batch, 1366 more
 * pages of slabs, after 1647 batches. Without a leak, also with stress: 35 more pages that
 * are not free, none on no list, 16 of slabs.
 *
 * Needs FERRY_MODULE. FERRY_SECONDS is the time without --seconds; scripts/soak runs the
 * program for long, and on the debug kernel with kmemleak.
 */
#include <linux/memfd.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "ferry_util.h"
#include "hazards.h"
#include "knobs.h"
#include "counts.h"

#define PART		(4UL << 20)
#define MNT		"/tmp/ferry-soak"
#define MAX_KEEPERS	8
#define HUGE_FOLIOS	2
#define HUGE_LEN	(HUGE_FOLIOS * FERRY_PMD)
#define HUGE_FILE	"/sys/devices/system/node/node%d/hugepages/hugepages-2048kB/nr_hugepages"

static int nodes[FERRY_MAX_NODES];
static unsigned int seed = 20261121;

static unsigned int rnd(unsigned int n)
{
	seed = seed * 1103515245 + 12345;
	return (seed >> 8) % n;
}

/* ---- keepers ---- */

/* A keeper's results, in memory that it shares with the parent. */
struct told {
	bool ready;
	bool rest;		/* another keeper's turn */
	long moves;
	size_t bad;
	char why[120];		/* the reason why it could not begin */
};

struct keeper {
	pid_t pid;
	char group[256];
	struct told *told;
};

struct memory {
	struct ferry_mix mix;
	char *huge;
	char *file;
	int fd;
};

static struct keeper keepers[MAX_KEEPERS];
static int nr_keepers = 2;
static volatile sig_atomic_t stop;

static void on_term(int sig)
{
	stop = 1;
}

static int map_all(struct memory *m, bool file, bool huge, int which)
{
	char path[100];
	int ret;

	memset(m, 0, sizeof(*m));
	m->fd = -1;
	ret = ferry_mix_map(&m->mix, PART, nodes[which & 1]);
	if (ret)
		return ret;
	if (huge) {
		m->huge = mmap(NULL, HUGE_LEN, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
		if (m->huge == MAP_FAILED)
			return -errno;
	}
	if (file) {
		snprintf(path, sizeof(path), MNT "/keeper%d", which);
		m->fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
		if (m->fd < 0 || ftruncate(m->fd, PART))
			return -errno;
		m->file = ferry_map_file(m->fd, PART, FERRY_PMD, PROT_READ | PROT_WRITE,
					 MAP_SHARED);
		if (m->file == MAP_FAILED)
			return -errno;
	}
	return 0;
}

#define SEED_HUGE	50
#define SEED_FILE	51

static void fill_all(struct memory *m, u64 gen)
{
	ferry_mix_fill(&m->mix, gen);
	if (m->huge)
		ferry_fill(m->huge, HUGE_LEN, SEED_HUGE, gen);
	if (m->file)
		ferry_fill(m->file, PART, SEED_FILE, gen);
}

static size_t verify_all(const struct memory *m, u64 gen)
{
	size_t bad = ferry_mix_verify(&m->mix, gen);

	if (m->huge)
		bad += ferry_verify(m->huge, HUGE_LEN, SEED_HUGE, gen);
	if (m->file)
		bad += ferry_verify(m->file, PART, SEED_FILE, gen);
	return bad;
}

/* Calls @fn for each mapping, with a step of one folio. */
static void each(struct memory *m, void (*fn)(char *p, size_t len, size_t step, int node),
		 int node)
{
	int i;

	for (i = 0; i < m->mix.n; i++)
		fn(m->mix.part[i].mem, m->mix.part[i].len, m->mix.part[i].folio, node);
	if (m->huge)
		fn(m->huge, HUGE_LEN, FERRY_PMD, node);
	if (m->file)
		fn(m->file, PART, FERRY_PAGE, node);
}

static void by_move_pages(char *p, size_t len, size_t step, int node)
{
	race_move_pages(p, len, step, node);
}

static void by_mbind(char *p, size_t len, size_t step, int node)
{
	ferry_mbind(p, len, MPOL_BIND, node, MPOL_MF_MOVE);
	ferry_mbind(p, len, MPOL_DEFAULT, -1, 0);
}

static void set_mems(const struct keeper *k, int node)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/cpuset.mems", k->group);
	ferry_write(path, "%d", node);
}

static void set_both_mems(const struct keeper *k)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/cpuset.mems", k->group);
	ferry_write(path, "%d,%d", nodes[0], nodes[1]);
}

/* Moves everything to @node in a random way. Returns the number of wrong parts. */
static size_t move_all(const struct keeper *k, struct memory *m, u64 gen, int node, int other)
{
	int status;
	pid_t pid;

	switch (rnd(8)) {
	case 0:
		ferry_migrate_pages(0, other, node);
		return 0;
	case 1:
		each(m, by_mbind, node);
		return 0;
	case 2:
		set_mems(k, node);
		set_both_mems(k);
		return 0;
	case 3:
		/*
		 * Memory that is mapped twice moves, too; then each process writes to its own
		 * copy.
		 */
		pid = fork();
		if (pid < 0)
			return 0;
		if (!pid) {
			size_t bad = verify_all(m, gen);

			/* Only the parent writes to shared memory. */
			ferry_fill(m->mix.part[FERRY_MIX_4K].mem, PART, 99, gen);
			bad += ferry_verify(m->mix.part[FERRY_MIX_4K].mem, PART, 99, gen);
			_exit(!!bad);
		}
		each(m, by_move_pages, node);
		/* A signal to end must not hide the child's result. */
		while (waitpid(pid, &status, 0) < 0) {
			if (errno != EINTR)
				return 1;
		}
		return !WIFEXITED(status) || WEXITSTATUS(status);
	default:
		each(m, by_move_pages, node);
		return 0;
	}
}

static void keeper_main(struct keeper *k, int which, bool file, bool huge)
{
	struct sigaction act = { .sa_handler = on_term };
	struct told *told = k->told;
	struct memory m;
	u64 gen = 1;
	int ret, n;

	sigaction(SIGTERM, &act, NULL);
	seed += which * 7919;
	ret = ferry_cgroup_enter(k->group, 0);
	if (!ret)
		ret = map_all(&m, file, huge, which);
	if (ret) {
		snprintf(told->why, sizeof(told->why), "%s", strerror(-ret));
		__atomic_store_n(&told->ready, true, __ATOMIC_RELEASE);
		_exit(1);
	}
	fill_all(&m, gen);
	__atomic_store_n(&told->ready, true, __ATOMIC_RELEASE);
	while (!stop) {
		if (__atomic_load_n(&told->rest, __ATOMIC_ACQUIRE)) {
			ferry_sleep_ms(5);
			continue;
		}
		/* The content is the same after several moves. */
		for (n = 1 + rnd(4); n && !stop; n--, told->moves++)
			told->bad += move_all(k, &m, gen, nodes[told->moves & 1],
					      nodes[!(told->moves & 1)]);
		told->bad += verify_all(&m, gen);
		if (!rnd(3))
			fill_all(&m, ++gen);
	}
	told->bad += verify_all(&m, gen);
	if (m.file) {
		munmap(m.file, PART);
		told->bad += ferry_evict(m.fd) != 0;
		told->bad += ferry_verify_fd(m.fd, PART, SEED_FILE, gen) != 0;
		close(m.fd);
	}
	_exit(!!told->bad);
}

static bool is_ready(void *arg)
{
	struct keeper *k = arg;

	return __atomic_load_n(&k->told->ready, __ATOMIC_ACQUIRE);
}

/*
 * Starts one keeper after the other, because each sets the folio sizes that the kernel may
 * use.
 */
static int start_keeper(struct keeper *k, int which, bool file, bool huge)
{
	/* The former keeper may have been killed while it was bound to a node. */
	set_both_mems(k);
	memset(k->told, 0, sizeof(*k->told));
	fflush(NULL);
	k->pid = fork();
	if (!k->pid)
		keeper_main(k, which, file, huge);
	if (k->pid < 0 || !ferry_wait(is_ready, k, 300000) || *k->told->why) {
		ferry_note("keeper %d: %s", which, *k->told->why ? k->told->why : "does not begin");
		return -EAGAIN;
	}
	return 0;
}

/* Ends the keepers. Returns the number of keepers with a fault. */
static int end_keepers(int sig, long *moves)
{
	struct keeper *k;
	int status, bad = 0;

	for (k = keepers; k < keepers + nr_keepers; k++)
		if (k->pid > 0)
			kill(k->pid, sig);
	for (k = keepers; k < keepers + nr_keepers; k++) {
		if (k->pid <= 0)
			continue;
		waitpid(k->pid, &status, 0);
		k->pid = 0;
		*moves += k->told->moves;
		if (k->told->bad || (sig == SIGTERM && status)) {
			ferry_note("a keeper ended with status %#x, %zu bad", status, k->told->bad);
			bad++;
		}
	}
	return bad;
}

/* ---- cycles ---- */

static int select_migrator(const char *name)
{
	return ferry_write(FERRY_SYSCTL "migrator", "%s", name);
}

static struct {
	long moves, killed, batches, bytes;
	int bad_calm, bad_fire, fires, bad_start;
	bool parked, pool, unload, idle;
} seen;

static void set_hugepages(int n)
{
	char path[128];
	int i;

	for (i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), HUGE_FILE, nodes[i]);
		ferry_write(path, "%d", n);
	}
}

static bool have_hugepages(int n)
{
	char path[128];
	int i;

	for (i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), HUGE_FILE, nodes[i]);
		if (ferry_read_long(path) < n)
			return false;
	}
	return true;
}

static int start_keepers(bool file, bool huge)
{
	int i, ret = 0;

	for (i = 0; i < nr_keepers && !ret; i++)
		ret = start_keeper(&keepers[i], i, file, huge);
	return ret;
}

/* Changes a knob or the migrator, or kills a keeper and starts it again. */
static void change_something(bool file, bool huge)
{
	int k = rnd(ARRAY_SIZE(knobs)), which = rnd(nr_keepers), status;
	struct keeper *victim = &keepers[which];

	switch (rnd(8)) {
	case 0:
		if (victim->pid <= 0)
			return;
		kill(victim->pid, SIGKILL);
		waitpid(victim->pid, &status, 0);
		seen.moves += victim->told->moves;
		seen.bad_calm += victim->told->bad != 0;
		seen.killed++;
		victim->pid = 0;
		seen.bad_start += start_keeper(victim, which, file, huge) != 0;
		break;
	case 1:
		select_migrator("off");
		ferry_sleep_ms(rnd(300));
		select_migrator(ferry_migrator());
		break;
	default:
		ferry_set_knob(knobs[k].name, "%s", knobs[k].values[rnd(4)]);
	}
}

/* Lets one keeper work, or all of them (-1). */
static void only(int which)
{
	int i;

	for (i = 0; i < nr_keepers; i++)
		__atomic_store_n(&keepers[i].told->rest, which >= 0 && i != which,
				 __ATOMIC_RELEASE);
}

static void calm(u64 ms)
{
	bool huge = have_hugepages(nr_keepers * HUGE_FOLIOS);
	bool file = !ferry_ext4(FERRY_DISK, MNT);
	u64 middle_ns = ferry_now_ns() + ms * 500000, end = middle_ns + ms * 500000;
	struct race_count c;
	int turn = 0;

	race_count(&c);
	seen.bad_start += start_keepers(file, huge) != 0;
	/* One after the other, so that CPUs are idle and workers get work. */
	while (ferry_now_ns() < middle_ns) {
		only(turn++ % nr_keepers);
		ferry_sleep_ms(500);
	}
	/* Then all of them, with changes. */
	only(-1);
	while (ferry_now_ns() < end) {
		change_something(file, huge);
		ferry_sleep_ms(100 + rnd(700));
	}
	seen.bad_calm += end_keepers(SIGTERM, &seen.moves);
	race_count_end(&c);
	seen.batches += race_grown(&c, "batches") + race_grown(&c, "folios_in_place");
	seen.bytes += race_grown(&c, "bytes_early") + race_grown(&c, "bytes_in_place");
	ferry_restore();
	if (file)
		seen.bad_calm += umount(MNT) || ferry_run("e2fsck", "-fn", FERRY_DISK, NULL);
}

static void fire(u64 ms, int cycle)
{
	bool huge = have_hugepages(nr_keepers * HUGE_FOLIOS);
	char seconds[32], number[16], line[1024];
	int fd[2], status = -1;
	FILE *f = NULL;
	pid_t pid;

	snprintf(seconds, sizeof(seconds), "%llu", (unsigned long long)(ms / 1000 + 1));
	snprintf(number, sizeof(number), "%u", seed + cycle);
	/* Before the pipe exists, because they would keep it open. */
	seen.bad_start += start_keepers(false, huge) != 0;
	if (pipe(fd)) {
		seen.bad_start++;
		goto out;
	}
	fflush(NULL);
	pid = fork();
	if (!pid) {
		dup2(fd[1], 1);
		close(fd[0]);
		close(fd[1]);
		execl("./stress", "stress", "--seconds", seconds, "--seed", number, NULL);
		_exit(127);
	}
	close(fd[1]);
	f = fdopen(fd[0], "r");
	/* The output of stress is that of a subtest. */
	while (f && fgets(line, sizeof(line), f))
		printf("    %s", line);
	if (f)
		fclose(f);
	if (pid > 0)
		waitpid(pid, &status, 0);
	seen.fires++;
	if (status) {
		ferry_note("stress ended with status %#x", status);
		seen.bad_fire++;
	}
out:
	seen.bad_fire += end_keepers(SIGTERM, &seen.moves);
}

static void end_cycle(void)
{
	int i;

	ferry_restore();
	if (ferry_loaded()) {
		seen.parked |= !ferry_wait(race_none_parked, NULL, 10000);
		seen.pool |= !ferry_wait(race_pool_whole, NULL, 10000);
	}
	seen.unload |= select_migrator("off") || race_unload();
	for (i = 0; i < nr_keepers; i++)
		ferry_cgroup_remove(keepers[i].group);
	set_hugepages(0);
	/* stress swaps to it. */
	ferry_write("/sys/block/zram0/reset", "1");
}

static int cycle(int number, u64 ms, bool with_fire)
{
	char name[40];
	int i, ret;

	if (!ferry_loaded()) {
		ret = race_load();
		if (ret)
			return ret;
	}
	ret = select_migrator(ferry_migrator());
	for (i = 0; i < nr_keepers && !ret; i++) {
		snprintf(name, sizeof(name), "ferry-soak%d", i);
		ret = ferry_cgroup_create(name, "+memory +cpuset", keepers[i].group);
	}
	if (ret)
		return ret;
	ferry_quiet();
	set_hugepages(nr_keepers * HUGE_FOLIOS);
	calm(with_fire ? ms / 2 : ms);
	if (with_fire)
		fire(ms / 2, number);
	end_cycle();
	return 0;
}

/*
 * Judges the growth of pages that are back once they have been freed. A kernel with kmemleak
 * has its records, and ours has KASAN, which keeps freed memory for a while: there the growth
 * is only shown, and kmemleak finds leaks.
 */
static void judge(long by, long tolerance, const char *what)
{
	if (!access(KMEMLEAK, F_OK))
		ksft_test_result_skip("%s: %+ld # a debug kernel keeps more\n", what, by);
	else
		ksft_test_result(by <= tolerance, "%s: %+ld\n", what, by);
}

int main(int argc, char **argv)
{
	const char *env = getenv("FERRY_SECONDS");
	int seconds = env ? atoi(env) : ferry_iters(60, 40), cycles = 0, i, n;
	bool with_fire = true, isolated = false;
	const struct counts *c;
	long by, other, vmalloc;

	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--calm"))
			with_fire = false;
		else if (i + 1 < argc && !strcmp(argv[i], "--seconds"))
			seconds = atoi(argv[++i]);
		else if (i + 1 < argc && !strcmp(argv[i], "--cycles"))
			cycles = atoi(argv[++i]);
		else if (i + 1 < argc && !strcmp(argv[i], "--keepers"))
			nr_keepers = atoi(argv[++i]);
		else if (i + 1 < argc && !strcmp(argv[i], "--seed"))
			seed = strtoul(argv[++i], NULL, 0);
		else
			seconds = 0;
	}
	if (!cycles)
		cycles = seconds >= 600 ? 10 : 4;
	if (seconds < cycles || cycles < 3 || cycles > MAX_COUNTS || nr_keepers < 1 ||
	    nr_keepers > MAX_KEEPERS) {
		fprintf(stderr, "soak: see the head of soak.c\n");
		return KSFT_FAIL;
	}

	ksft_print_header();
	if (ferry_mem_nodes(nodes) < 2)
		ksft_exit_skip("needs two nodes with memory\n");
	if (!getenv("FERRY_MODULE") || !ferry_loaded())
		ksft_exit_skip("needs ferry.ko and FERRY_MODULE\n");
	for (i = 0; i < nr_keepers; i++) {
		keepers[i].told = mmap(NULL, sizeof(struct told), PROT_READ | PROT_WRITE,
				       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (keepers[i].told == MAP_FAILED)
			ksft_exit_fail_msg("no memory\n");
	}
	ferry_note("seed %u, %d cycles of %d s, migrator %s", seed, cycles, seconds / cycles,
		   ferry_migrator());
	for (n = 0; n < cycles; n++) {
		i = cycle(n, seconds * 1000ULL / cycles, with_fire);
		if (i)
			ksft_exit_fail_msg("cycle %d: %s\n", n, strerror(-i));
		c = counts_take(nodes);
		counts_say(c, n);
		isolated |= counts_get_pages(c, ISOLATED) != 0;
	}

	ksft_set_plan(15);
	ksft_test_result(!seen.bad_calm && seen.moves && !seen.bad_start,
			 "content while calm: %ld moves of all, %ld keepers killed, %d bad\n",
			 seen.moves, seen.killed, seen.bad_calm + seen.bad_start);
	if (with_fire)
		ksft_test_result(!seen.bad_fire, "content under fire: %d times, %d bad\n",
				 seen.fires, seen.bad_fire);
	else
		ksft_test_result_skip("content under fire # --calm\n");
	ksft_test_result((seen.bytes > 0) == ferry_active(),
			 "copied while it was calm: %ld batches and folios in place, %ld MiB\n",
			 seen.batches, seen.bytes >> 20);
	ksft_test_result(!seen.parked, "nothing stayed parked\n");
	ksft_test_result(!seen.pool, "the pool was whole\n");
	ksft_test_result(!seen.unload, "the module could be unloaded\n");
	ksft_test_result(!isolated, "no page stayed isolated\n");
	/* If a block stayed offline, the rest means nothing. */
	by = counts_growth(counts_get_managed, 0) + counts_growth(counts_get_managed, 1);
	ksft_test_result(!by, "pages of both nodes: %+ld\n", by);
	judge(counts_growth(counts_get_used, 0), TOLERANCE_USED, "pages that are not free");
	for (i = 0, by = 0; i < 2; i++) {
		other = counts_growth(counts_get_other, i);
		ferry_note("node %d: %+ld pages that no list knows", nodes[i], other);
		by = other > by ? other : by;
	}
	judge(by, TOLERANCE_OTHER, "pages of a node that no list knows");
	by = counts_growth(counts_get_pages, SLAB);
	if (by > TOLERANCE_SLAB)
		counts_say_caches();
	judge(by, TOLERANCE_SLAB, "pages of slabs");
	by = counts_growth(counts_get_percpu, 0);
	vmalloc = counts_growth(counts_get_pages, VMALLOC);
	ksft_test_result(by <= TOLERANCE_PERCPU_KIB && vmalloc <= TOLERANCE_OTHER,
			 "per-CPU memory: %+ld KiB, vmalloc: %+ld pages\n", by, vmalloc);
	by = counts_growth(counts_get_threads, 0);
	ksft_test_result(by <= 0 && !counts_middle(counts_get_workers, 0, 0, counts_nr),
			 "kernel threads: %+ld\n", by);
	by = counts_growth(counts_get_dying, 0);
	ksft_test_result(by <= 0, "control groups that do not die: %+ld\n", by);
	n = counts_kmemleak();
	if (n < 0)
		ksft_test_result_skip("kmemleak # not in this kernel, or without kmemleak=on\n");
	else
		ksft_test_result(!n, "kmemleak: %d objects\n", n);
	ksft_finished();
}
