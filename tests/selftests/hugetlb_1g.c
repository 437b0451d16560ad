// SPDX-License-Identifier: GPL-2.0
/* One hugetlb folio of 1G. */
#define HUGETLB_KIB	(1UL << 20)
#define FOLIOS		1
#include "hugetlb_common.h"

TEST_HARNESS_MAIN
