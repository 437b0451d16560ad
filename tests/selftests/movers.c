// SPDX-License-Identifier: GPL-2.0
/* Runs threads that migrate memory back and forth. movers.h describes the interface. */
#include "movers.h"

static bool race_movers_stop;

static bool race_movers_stopped(void)
{
	return __atomic_load_n(&race_movers_stop, __ATOMIC_RELAXED);
}

static void *race_mover_fn(void *arg)
{
	struct race_mover *m = arg;
	int node = 0;

	/* Only content counts here; the folios may have any size. */
	for (; !race_movers_stopped(); m->rounds++, node ^= 1) {
		ferry_fill(m->mem, RACE_MOVER_LEN, m->kib, m->rounds);
		race_move_pages(m->mem, RACE_MOVER_LEN, FERRY_PAGE, m->nodes[node]);
		m->bad += ferry_verify(m->mem, RACE_MOVER_LEN, m->kib, m->rounds);
	}
	return NULL;
}

int race_movers_start(struct race_mover *m, int n, const int *nodes)
{
	static const unsigned int kib[] = { 4, 2048 };
	int i, ret;

	__atomic_store_n(&race_movers_stop, false, __ATOMIC_RELAXED);
	ferry_pin_cpu(-1);
	for (i = 0; i < n; i++) {
		memset(&m[i], 0, sizeof(m[i]));
		m[i].nodes = nodes;
		m[i].kib = kib[i % ARRAY_SIZE(kib)];
		m[i].mem = ferry_map_anon(RACE_MOVER_LEN, FERRY_PMD);
		if (m[i].mem == MAP_FAILED)
			return -errno;
		ret = race_fresh(m[i].mem, RACE_MOVER_LEN, m[i].kib << 10, nodes[0]);
		if (ret)
			return ret;
		if (pthread_create(&m[i].thread, NULL, race_mover_fn, &m[i]))
			return -EAGAIN;
	}
	return 0;
}

long race_movers_end(struct race_mover *m, int n, size_t *bad)
{
	long rounds = 0;
	int i;

	__atomic_store_n(&race_movers_stop, true, __ATOMIC_RELAXED);
	*bad = 0;
	for (i = 0; i < n; i++) {
		pthread_join(m[i].thread, NULL);
		munmap(m[i].mem, RACE_MOVER_LEN);
		rounds += m[i].rounds;
		*bad += m[i].bad;
	}
	return rounds;
}
