// SPDX-License-Identifier: GPL-2.0
/* One hugetlb folio of 1G; see hugetlb_common.h. */
#define HUGETLB_KIB	1048576UL
#define FOLIOS		1
#include "hugetlb_common.h"

TEST_HARNESS_MAIN
