// SPDX-License-Identifier: GPL-2.0
/* The C half of the tracepoints. */
#include <linux/module.h>

#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include "trace.h"
