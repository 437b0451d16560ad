// SPDX-License-Identifier: GPL-2.0

//! The values of the sysctls below `vm.ferry` that are numbers, words or reasons.
//!
//! They are relaxed atomics that pair with nothing: each value is read where it is needed, and any
//! mixture of old and new values is valid.

use ferry_core::{
    knob,
    knob::{
        CopyRoutine,
        CpuNode,
        EngineShare,
        FromKnob,
        Knob, //
    },
    policy,
    policy::Routine,
    reasons::ReasonMask, //
};
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

macro_rules! knobs {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $knob:ident, $name:literal;)*) => {
        /// The values of the knobs.
        pub(crate) struct Knobs {
            $($field: Atomic<u64>,)*
            reasons: Atomic<u32>,
        }

        /// The knobs, with their names in `/proc/sys/vm/ferry`.
        pub(crate) const KNOBS: &[(&CStr, &Knob)] = &[$(($name, &knob::$knob),)*];

        impl Knobs {
            /// Creates the values that the knobs have when the module is loaded.
            pub(crate) fn new() -> Self {
                Self {
                    $($field: Atomic::new(knob::$knob.default),)*
                    reasons: Atomic::new(ReasonMask::ALL.bits()),
                }
            }

            /// Returns the knob with this index in [`KNOBS`], and its value; `None` if there is
            /// none.
            pub(crate) fn knob(&self, index: usize) -> Option<(&'static Knob, &Atomic<u64>)> {
                [$((&knob::$knob, &self.$field),)*].get(index).copied()
            }

            $($(#[$doc])* pub(crate) fn $field(&self) -> $type {
                <$type>::from_knob(self.$field.load(Relaxed))
            })*
        }
    };
}

knobs! {
    /// Returns the most folios in a batch.
    batch_folios: u64 = BATCH_FOLIOS, c"batch_folios";
    /// Returns the most bytes in a batch.
    batch_bytes: u64 = BATCH_BYTES, c"batch_bytes";
    /// Returns the bytes in a chunk.
    chunk_bytes: u64 = CHUNK_BYTES, c"chunk_bytes";
    /// Returns the fewest bytes of a batch that is copied early.
    min_batch_bytes: u64 = MIN_BATCH_BYTES, c"min_batch_bytes";
    /// Returns the bytes of the smallest folio that workers or an engine copy in place with the
    /// mover.
    min_folio_bytes: u64 = MIN_FOLIO_BYTES, c"min_folio_bytes";
    /// Returns by how many bytes CPU workers may be ahead of the mover.
    lookahead_bytes: u64 = LOOKAHEAD_BYTES, c"lookahead_bytes";
    /// Returns the most CPU workers for one batch.
    workers: u64 = CPU_WORKERS, c"cpu_workers";
    /// Returns the most CPU workers for one batch of a control group.
    group_workers: u64 = CGROUP_WORKERS, c"cgroup_workers";
    /// Returns the most workers that migrate batches of one call.
    spread: u64 = SPREAD_WORKERS, c"spread_workers";
    /// Returns the node on which workers are looked for first.
    node: CpuNode = CPU_NODE, c"cpu_node";
    /// Returns how CPUs copy.
    routine: CopyRoutine = COPY_ROUTINE, c"copy_routine";
    /// Returns the share of a batch that an engine copies.
    engine_share: EngineShare = ENGINE_SHARE, c"engine_share";
    /// Returns the most channels of one driver that are held.
    dma_channels: u64 = DMA_CHANNELS, c"dma_channels";
    /// Returns `true` if drivers that do not report failures are accepted.
    dma_untrusted: bool = DMA_UNTRUSTED, c"dma_untrusted";
    /// Returns the milliseconds after which an unfinished claim is not quiet.
    timeout_ms: u64 = TIMEOUT_MS, c"timeout_ms";
}

impl Knobs {
    /// Returns the most CPU workers for one batch: of a control group if `group`, else of the root.
    pub(crate) fn cpu_workers(&self, group: bool) -> u32 {
        self.workers_for(self.workers(), group)
    }

    /// Returns the most workers that migrate batches of one call: of a control group if `group`,
    /// else of the root.
    pub(crate) fn spread_workers(&self, group: bool) -> u32 {
        self.workers_for(self.spread(), group)
    }

    /// Returns the number of workers, which `cgroup_workers` limits further for a control group.
    fn workers_for(&self, most: u64, group: bool) -> u32 {
        let most = if group {
            most.min(self.group_workers())
        } else {
            most
        };
        u32::try_from(most).unwrap_or(u32::MAX)
    }

    /// Returns how CPUs copy for this reason.
    pub(crate) fn copy_routine(&self, reason: u32) -> Routine {
        policy::routine(self.routine(), reason)
    }

    /// Returns the nanoseconds after which an unfinished claim is not quiet.
    pub(crate) fn timeout_ns(&self) -> u64 {
        self.timeout_ms().saturating_mul(1_000_000)
    }

    /// Returns the reasons of migrations whose batches are taken.
    pub(crate) fn reasons(&self) -> ReasonMask {
        ReasonMask::from_bits(self.reasons.load(Relaxed))
    }

    /// Sets the reasons of migrations whose batches are taken.
    pub(crate) fn set_reasons(&self, reasons: ReasonMask) {
        self.reasons.store(reasons.bits(), Relaxed);
    }
}
