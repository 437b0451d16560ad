// SPDX-License-Identifier: GPL-2.0

//! Folios that the shim lends, and how their bytes are copied.
//!
//! Takes no locks.

use crate::kapi::sched;
use ferry_bindings as fb;
use ferry_core::{
    class::Route,
    policy::Routine, //
};
use kernel::bindings;

/// Bytes in a page.
const PAGE: u64 = kernel::page::PAGE_SIZE as u64;

/// A folio and its destination, both locked: lent by the shim for one call of
/// [`Provider::begin()`] or [`Provider::copy_now()`]. For the latter the stock code has just
/// checked the references.
///
/// [`Provider::begin()`]: crate::migrate_copy::provider::Provider::begin
/// [`Provider::copy_now()`]: crate::migrate_copy::provider::Provider::copy_now
pub(crate) struct FolioPair {
    pub(in crate::migrate_copy) dst: *mut bindings::folio,
    pub(in crate::migrate_copy) src: *mut bindings::folio,
}

impl FolioPair {
    /// Returns the size of the folio in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        // SAFETY: The shim's caller holds a reference to `src` and its lock for the call that
        // lends `self`.
        unsafe { fb::ferry_folio_size(self.src) as u64 }
    }

    /// Returns the nodes of source and destination.
    pub(crate) fn route(&self) -> Route {
        // SAFETY: As in `bytes()`, for both folios.
        let (from, to) = unsafe { (fb::ferry_folio_nid(self.src), fb::ferry_folio_nid(self.dst)) };
        Route { from, to }
    }

    /// Copies all of it, and offers the CPU to other tasks after each `step` bytes. Returns `false`
    /// if it met poison.
    ///
    /// For [`Provider::copy_now()`], instead of a batch.
    ///
    /// [`Provider::copy_now()`]: crate::migrate_copy::provider::Provider::copy_now
    pub(crate) fn copy_alone(&self, step: u64, routine: Routine) -> bool {
        let bytes = self.bytes();
        let step = (step & !(PAGE - 1)).max(PAGE);
        let mut offset = 0;
        while offset < bytes {
            let len = step.min(bytes - offset);
            // SAFETY: As in `bytes()`, for both folios, which have the same size; no lane copies a
            // folio that no batch has. Both are multiples of a page.
            if unsafe { copy_mc(self.dst, self.src, offset, len, routine) } != 0 {
                return false;
            }
            offset += len;
            if offset < bytes {
                sched::cond_resched();
            }
        }
        true
    }
}

/// Copies a part of a folio and returns how many bytes of it were not, because of a machine check.
///
/// The copied bytes are visible to a CPU that sees a later release by this CPU (I11).
///
/// # Safety
///
/// Both folios live, have the same size, and are the caller's to read and to write; `offset` and
/// `len` are multiples of a page, and `offset + len` is within the folio.
pub(super) unsafe fn copy_mc(
    dst: *mut bindings::folio,
    src: *mut bindings::folio,
    offset: u64,
    len: u64,
    routine: Routine,
) -> u64 {
    let (offset, len) = (offset as usize, len as usize);
    // SAFETY: By the requirements of this function, for either.
    let left = unsafe {
        match routine {
            Routine::Cached => fb::ferry_copy_mc(dst, src, offset, len),
            Routine::NonTemporal => fb::ferry_copy_mc_nt(dst, src, offset, len),
        }
    };
    left as u64
}
