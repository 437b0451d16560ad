/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's harness, for files of the library: they use its assertions, and have no tests.
 * To be included in place of kselftest_harness.h.
 *
 * The harness defines a global and the function that runs the tests in each file that includes
 * it. Those of the program count: here the global is weak, and the function is unused.
 */
#ifndef FERRY_HARNESS_PART_H
#define FERRY_HARNESS_PART_H

#include "kselftest.h"

#pragma weak _fixture_global
static __maybe_unused int test_harness_run(int argc, char **argv);

#include "kselftest_harness.h"

#endif /* FERRY_HARNESS_PART_H */
