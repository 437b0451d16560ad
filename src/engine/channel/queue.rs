// SPDX-License-Identifier: GPL-2.0

//! The interface between a channel and one engine, which a new kind of engine implements.
//!
//! Takes no locks. The channel calls the functions of a queue with the lock of its ring held, so
//! locks of the queue are inside that one. It calls [`Queue::quiesce()`] and, after it,
//! [`Queue::is_bound()`] without the lock, and drops the queue without it.

use crate::kapi::bus::DeviceId;
use core::ptr::NonNull;
use ferry_bindings as fb;
use kernel::{
    bindings,
    prelude::*, //
};

/// The length of the longest descriptor, in bytes. A mover that needs its first page waits for its
/// last one.
pub(super) const MAX_EXTENT_BYTES: u64 = 4 << 20;

/// The time, in ns, that a mover sleeps before it polls the queue for a completion whose interrupt
/// was lost. A fifth of the least patience of a mover (`ferry_core::pace`), so a lost interrupt
/// costs no channel its place.
pub(super) const LOST_INTERRUPT_NS: u64 = 50_000_000;

/// The number of failed descriptors in a row from which a channel counts as failing.
const MAX_ERRORS_IN_A_ROW: u32 = 8;

/// Passes descriptors to an engine, and reports their ends.
///
/// # Safety
///
/// - After [`Queue::copy()`] has returned `Ok`, the engine reads `src` and writes `dst`, for `len`
///   bytes, and accesses no other memory.
/// - It does so at most until `end.fn_` was called, or [`Queue::quiesce()`] has returned `true`.
/// - `end.given_up` may be called in place of `end.fn_`. It proves nothing about the engine, which
///   may still access the memory.
/// - At most one of the two functions of an `end` is called, and at most once; never after
///   [`Queue::quiesce()`] has returned `true`, or the queue was dropped; and never with locks held
///   that [`Queue::copy()`] takes.
/// - `end.fn_` is called with `ok == true` only if all bytes were copied.
pub(crate) unsafe trait Queue: Send {
    /// Returns the device that maps the memory, which lives as long as the queue.
    fn device(&self) -> NonNull<bindings::device>;

    /// Returns the alignment of addresses and lengths, in bytes: a power of two.
    fn align(&self) -> u64;

    /// Prepares a descriptor that copies `len` bytes from `src` to `dst`. With `interrupt` its end
    /// is reported by an interrupt; otherwise the end may be reported with that of a later
    /// descriptor.
    ///
    /// # Errors
    ///
    /// Any error, such as `EAGAIN` if the queue is full: the engine does not get the descriptor,
    /// and no function of `end` is called.
    ///
    /// # Context
    ///
    /// Atomic. Does not allocate in a way that can enter reclaim (I8).
    ///
    /// # Safety
    ///
    /// Both addresses are mapped for the device, for `len` bytes, and `end` lives, until one of the
    /// functions of `end` has been called, or the queue is quiet.
    unsafe fn copy(
        &mut self,
        dst: u64,
        src: u64,
        len: u64,
        interrupt: bool,
        end: *const fb::ferry_end,
    ) -> Result;

    /// Issues the prepared descriptors to the engine: writes its doorbell.
    fn issue(&mut self);

    /// Looks for descriptors that have completed without an interrupt, and reports their ends.
    ///
    /// # Context
    ///
    /// Softirqs are off.
    fn poll(&mut self);

    /// Returns how long a waiter relies on the completion interrupt before it polls the queue, in
    /// ns. Capped at [`LOST_INTERRUPT_NS`].
    fn poll_interval_ns(&self) -> u64 {
        LOST_INTERRUPT_NS
    }

    /// Returns the length of the longest copy that the engine takes, in bytes.
    fn max_len(&self) -> u64 {
        MAX_EXTENT_BYTES
    }

    /// Returns `true` if the queue takes descriptors now.
    fn is_ready(&self) -> bool {
        true
    }

    /// Returns `true` if the queue fails too often, now that `errors_in_a_row` descriptors have
    /// failed since the last good one.
    fn is_failing(&self, errors_in_a_row: u32) -> bool {
        errors_in_a_row >= MAX_ERRORS_IN_A_ROW
    }

    /// Stops the engine's copies. Returns `true` if there is proof that the engine does not access
    /// the memory of any descriptor any more.
    ///
    /// # Context
    ///
    /// May sleep for long. Called without the lock of the ring.
    fn quiesce(&mut self) -> bool;

    /// Returns `true` if [`Queue::quiesce()`] can prove quiet before all descriptors have ended.
    fn can_prove(&self) -> bool {
        true
    }

    /// Returns `true` if the device is still present and bound.
    fn is_bound(&self) -> bool;

    /// Returns `true` if the queue belongs to `device`.
    fn belongs_to(&self, device: DeviceId) -> bool;
}
