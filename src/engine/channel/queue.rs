// SPDX-License-Identifier: GPL-2.0

//! The interface between a channel and one engine: what a new engine implements.
//!
//! Takes no locks: implementations are called with the lock of the ring, but for
//! [`Queue::quiesce()`].

use crate::kapi::bus::DeviceId;
use core::ptr::NonNull;
use ferry_bindings as fb;
use kernel::{
    bindings,
    prelude::*, //
};

/// The longest descriptor. A mover that needs the first page of it waits for the last one.
pub(super) const MAX_EXTENT_BYTES: u64 = 4 << 20;

/// How long it sleeps before it has the queue look for a completion whose interrupt has been lost.
pub(super) const LOST_INTERRUPT_NS: u64 = 50_000_000;

/// Failed descriptors in a row from which a channel counts as failing.
const MAX_ERRORS_IN_A_ROW: u32 = 8;

/// How descriptors get to an engine, and what it says of them.
///
/// # Safety
///
/// After [`Queue::copy()`] has said `Ok`, the engine reads and writes the memory that it was given,
/// and nothing else, until `end.fn_` is called, or [`Queue::quiesce()`] has said that it
/// is quiet; after that it does not. `end.given_up` may be called in place of `end.fn_`, and says
/// nothing of the engine. Either is called once, not after [`Queue::quiesce()`] has said that it is
/// quiet, nor after the queue was dropped, nor with locks held that [`Queue::copy()`] takes. `true`
/// is said of nothing that has not been copied as a whole.
pub(crate) unsafe trait Queue: Send {
    /// The device that maps the memory. Lives as long as the queue.
    fn device(&self) -> NonNull<bindings::device>;

    /// What addresses and lengths have to be multiples of; a power of two.
    fn align(&self) -> u64;

    /// Prepares a copy. Nothing sleeps, or allocates in a way that can enter reclaim (I8).
    ///
    /// # Safety
    ///
    /// The addresses are mapped for the device, for that many bytes, and `end` lives until one of
    /// its functions has been called, or the queue is quiet.
    unsafe fn copy(
        &mut self,
        dst: u64,
        src: u64,
        len: u64,
        interrupt: bool,
        end: *const fb::ferry_end,
    ) -> Result;

    /// Tells the engine of what has been prepared.
    fn issue(&mut self);

    /// Looks for what has completed without telling.
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

    /// The longest copy that it takes.
    fn max_len(&self) -> u64 {
        MAX_EXTENT_BYTES
    }

    /// Returns `true` if the queue takes copies now.
    fn is_ready(&self) -> bool {
        true
    }

    /// Returns `true` if the queue fails too often, where `row` descriptors in a row have failed.
    fn is_failing(&self, row: u32) -> bool {
        row >= MAX_ERRORS_IN_A_ROW
    }

    /// Ends the engine's copies. Returns `true` if there is proof that the engine touches no memory
    /// any more.
    ///
    /// # Context
    ///
    /// May sleep for long.
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
