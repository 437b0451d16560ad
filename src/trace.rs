// SPDX-License-Identifier: GPL-2.0

//! Tracepoints `ferry:*`, in the terms of the rest of the module.

use crate::{
    kapi::trace,
    stats::{
        Counter,
        Stats, //
    },
};

/// Why a batch or a folio is left to the stock copy.
#[derive(Copy, Clone)]
#[repr(u32)]
pub(crate) enum Cause {
    /// No batch object left.
    Pool = 0,
    /// Too small.
    Small = 1,
    /// The reason is filtered.
    Reason = 2,
    /// Fault injection.
    Injected = 3,
    /// Somebody else has a reference (I1).
    References = 4,
    /// A chunk failed.
    Failed = 5,
    /// Somebody may still write to the destination (I7).
    NotQuiet = 6,
    /// Nobody could begin at once.
    Busy = 7,
    /// Such batches gain nothing from workers.
    Gain = 8,
    /// The migrator cannot be used where the migration must not block, or in reclaim.
    Context = 9,
}

/// Counts and traces a fallback.
pub(crate) fn fallback(stats: &Stats, cause: Cause, bytes: u64) {
    let counter = match cause {
        Cause::Pool => Counter::DeclinedPool,
        Cause::Small => Counter::DeclinedSmall,
        Cause::Reason => Counter::DeclinedReason,
        Cause::Injected => Counter::DeclinedInject,
        Cause::References => Counter::Referenced,
        Cause::Failed => Counter::ChunksFailed,
        Cause::NotQuiet => Counter::NotQuiet,
        Cause::Busy => Counter::DeclinedBusy,
        Cause::Gain => Counter::DeclinedGain,
        Cause::Context => Counter::DeclinedContext,
    };
    stats.add(counter, 1);
    trace::fallback(cause as u32, bytes);
}

pub(crate) use trace::{
    engine_error,
    finish,
    submit,
    wait, //
};
