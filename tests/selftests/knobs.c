// SPDX-License-Identifier: GPL-2.0
/* The table of knobs and values. knobs.h describes it. */
#include "knobs.h"

const struct knob_values knobs[16] = {
	{ "batch_folios", { "1", "32", "512", "4096" } },
	{ "batch_bytes", { "4096", "65536", "2097152", "16777216" } },
	{ "chunk_bytes", { "65536", "131072", "196608", "262144" } },
	{ "min_batch_bytes", { "4096", "65536", "262144", "1048576" } },
	{ "min_folio_bytes", { "4096", "65536", "131072", "2097152" } },
	{ "lookahead_bytes", { "65536", "1048576", "4194304", "16777216" } },
	{ "reasons", { "all", "none", "syscall", "compaction,demotion,memory_hotplug" } },
	{ "cpu_workers", { "0", "1", "8", "64" } },
	{ "cgroup_workers", { "0", "1", "8", "64" } },
	{ "spread_workers", { "0", "1", "8", "64" } },
	{ "cpu_node", { "destination", "source", "destination", "source" } },
	{ "copy_routine", { "auto", "cached", "nontemporal", "nontemporal" } },
	{ "engine_share", { "auto", "all", "auto", "all" } },
	{ "dma_channels", { "1", "4", "16", "64" } },
	/* Has no effect here: the engines of the guests have proven that they report failures. */
	{ "dma_untrusted", { "0", "1", "0", "1" } },
	{ "timeout_ms", { "10", "1000", "5000", "60000" } },
};
