/* SPDX-License-Identifier: GPL-2.0 */
/* The input of bindgen for the crate ferry_bindings. */
#include <linux/migrate_copy.h>

#include "dmaengine.h"
#include "engine.h"
#include "helpers.h"
#include "sysctl.h"
#include "trace.h"
