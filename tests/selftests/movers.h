/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Threads that migrate memory back and forth while a test changes the machine, and compare the
 * content after each move.
 */
#ifndef FERRY_MOVERS_H
#define FERRY_MOVERS_H

#include "hazards.h"

#define RACE_MOVER_LEN	(2UL << 20)

struct race_mover {
	pthread_t thread;
	const int *nodes;
	unsigned int kib;
	char *mem;
	long rounds;
	size_t bad;
};

/* Starts @n threads between the first two of @nodes, with 4K and 2M folios in turn. */
int race_movers_start(struct race_mover *m, int n, const int *nodes);

/* Ends the threads. Returns their number of moves; @bad gets the number of wrong bytes. */
long race_movers_end(struct race_mover *m, int n, size_t *bad);

#endif /* FERRY_MOVERS_H */
