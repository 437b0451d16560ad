// SPDX-License-Identifier: GPL-2.0
/* hugetlb folios of 2M; see hugetlb_common.h. */
#define HUGETLB_KIB	2048UL
#define FOLIOS		8
#include "hugetlb_common.h"

TEST_HARNESS_MAIN
