/* SPDX-License-Identifier: GPL-2.0 */
/*
 * hugetlb folios, anonymous and of a hugetlbfs file, move back and forth between two nodes.
 * Ferry copies them in place or not at all. hugetlb.c tests folios of 2M, and hugetlb_1g.c,
 * which needs a machine of its own, 1G.
 */
#ifndef FERRY_HUGETLB_COMMON_H
#define FERRY_HUGETLB_COMMON_H

#include "ferry_util.h"

struct __test_metadata;

struct huge_memory {
	int nodes[FERRY_MAX_NODES];
	struct ferry_stats before;
	size_t size;		/* of a folio, in bytes */
	size_t len;		/* of all folios, in bytes */
	int folios;
	char *mem;
	int fd;
};

/*
 * Maps @folios hugetlb folios of @kib on the first node: of a file or anonymous, shared or
 * private. Skips the test if the machine cannot have them.
 */
void huge_begin(struct __test_metadata *_metadata, struct huge_memory *h,
		unsigned long kib, int folios, bool file, bool shared);

/* Undoes huge_begin(), also after a failure. */
void huge_end(struct huge_memory *h);

/* Moves the folios back and forth, and checks content, page frames and counters. */
void huge_round_trip(struct __test_metadata *_metadata, struct huge_memory *h);

#endif /* FERRY_HUGETLB_COMMON_H */
