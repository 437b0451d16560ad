// SPDX-License-Identifier: GPL-2.0

//! A call of `migrate_pages()` whose batches workers migrate for its mover.
//!
//! C: `struct migrate_copy_spread`, `include/linux/migrate_copy.h`.
//!
//! Takes no locks.

use core::ptr::NonNull;
use ferry_bindings as fb;

/// A counted reference to a call that is spread over workers. It does not keep the call from
/// ending; afterwards it has no batches any more.
pub(crate) struct SpreadCall(NonNull<fb::migrate_copy_spread>);

// SAFETY: It is a counted reference to an object with a lock of its own.
unsafe impl Send for SpreadCall {}
// SAFETY: As for `Send`: `migrate_one()` may be called by several threads at the same time.
unsafe impl Sync for SpreadCall {}

impl SpreadCall {
    /// Takes a reference to a call.
    ///
    /// # Safety
    ///
    /// `call` is a call to which the caller has a reference.
    pub(super) unsafe fn new(call: NonNull<fb::migrate_copy_spread>) -> Self {
        // SAFETY: By the requirement of this function.
        unsafe { fb::ferry_spread_get(call.as_ptr()) };
        Self(call)
    }

    /// Migrates the next batch of the call, as its mover would. Returns the number of base pages
    /// that have moved, or `None` if there is no batch for workers any more.
    ///
    /// # Context
    ///
    /// A kernel thread with no lock. Sleeps.
    pub(crate) fn migrate_one(&self) -> Option<u32> {
        // SAFETY: `self` is a reference, and workers are kernel threads.
        u32::try_from(unsafe { fb::migrate_copy_spread_one(self.0.as_ptr()) }).ok()
    }
}

impl Clone for SpreadCall {
    fn clone(&self) -> Self {
        // SAFETY: `self` is a reference.
        unsafe { Self::new(self.0) }
    }
}

impl Drop for SpreadCall {
    fn drop(&mut self) {
        // SAFETY: Drops the reference from `new()`.
        unsafe { fb::migrate_copy_spread_put(self.0.as_ptr()) };
    }
}
