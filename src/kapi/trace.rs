// SPDX-License-Identifier: GPL-2.0

//! The tracepoints of `rust-bindings/trace.h`.

use ferry_bindings as fb;
use kernel::bindings;

macro_rules! tracepoint {
    ($(#[$doc:meta])* $name:ident, $point:ident, $call:ident, ($($arg:ident: $ty:ty),*)) => {
        $(#[$doc])*
        #[inline]
        pub(crate) fn $name($($arg: $ty),*) {
            // SAFETY: The tracepoint is defined by trace.c of this module.
            let on = unsafe {
                kernel::jump_label::static_branch_unlikely!(
                    fb::$point,
                    bindings::tracepoint,
                    key
                )
            };
            if on {
                // SAFETY: All arguments are plain values.
                unsafe { fb::$call($($arg),*) };
            }
        }
    };
}

tracepoint!(
    /// A batch has been made known to a migrator.
    submit, __tracepoint_ferry_submit, rust_do_trace_ferry_submit,
    (batch: usize, folios: u32, bytes: u64, chunks: u32, mode: u32, reason: u32)
);
tracepoint!(
    /// The mover has waited for a chunk that another lane had claimed.
    wait, __tracepoint_ferry_wait, rust_do_trace_ferry_wait,
    (batch: usize, chunk: u32, ns: u64, done: bool)
);
tracepoint!(
    /// The mover has finished with a batch.
    finish, __tracepoint_ferry_finish, rust_do_trace_ferry_finish,
    (batch: usize, mover: u32, others: u32, worker_ns: u64)
);
tracepoint!(
    /// A batch or a folio is left to the stock copy.
    fallback, __tracepoint_ferry_fallback, rust_do_trace_ferry_fallback,
    (cause: u32, bytes: u64)
);
/// The state of a proof of quiet.
#[derive(Copy, Clone)]
#[repr(u32)]
pub(crate) enum Proof {
    /// The driver has been asked.
    Asked = 0,
    /// The driver has answered that the engine is quiet.
    Quiet = 1,
    /// The driver has given no proof.
    Unproven = 2,
}

tracepoint!(
    /// The driver of a channel is asked for a proof, or has answered: see [`Proof`].
    engine_proof, __tracepoint_ferry_engine_proof, rust_do_trace_ferry_engine_proof,
    (lane: u32, step: u32)
);
tracepoint!(
    /// A worker or an engine did not answer in time, or answered with an error.
    engine_error, __tracepoint_ferry_engine_error, rust_do_trace_ferry_engine_error,
    (lane: u32, error: i32)
);
