// SPDX-License-Identifier: GPL-2.0

//! Coherent memory that a function accesses, and addresses for its descriptors and tables.
//!
//! [`CoherentWords`] is freed only with proof that the function is quiet or done with it. Takes no
//! locks.

use super::mmio::Bars;
use core::ptr::{
    self,
    NonNull, //
};
use ferry_core::sdxi::table::PAGE;
use kernel::{
    bindings,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    task::might_sleep, //
};

/// Words of 64 bits in a page.
pub(super) const PAGE_WORDS: usize = PAGE / 8;

/// A DMA address that a descriptor may name as source or destination.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceAddress(pub(super) u64);

impl DeviceAddress {
    /// Creates an address of memory that is mapped for the device, and stays mapped as the rules of
    /// [`hw`](super) demand.
    pub(super) fn new(address: u64) -> Self {
        Self(address)
    }
}

/// Bytes that were leaked. Statistics only: relaxed accesses, no partner.
static LEAKED: Atomic<u64> = Atomic::new(0);

/// Returns the number of bytes that were leaked, since their function was never proven quiet.
pub(crate) fn leaked() -> u64 {
    LEAKED.load(Relaxed)
}

/// Coherent memory that the function may access, in words of 64 bits.
pub(super) struct CoherentWords {
    pub(super) bars: Arc<Bars>,
    at: NonNull<u64>,
    len: usize,
    address: u64,
    /// Set when the memory is proven unused although the function may run.
    pub(super) unused: bool,
}

// SAFETY: Memory that any thread may use.
unsafe impl Send for CoherentWords {}
// SAFETY: As for `Send`; words are read and written one at a time, as the device does.
unsafe impl Sync for CoherentWords {}

impl CoherentWords {
    /// Allocates `len` zeroed words, in whole pages.
    pub(super) fn new(bars: &Arc<Bars>, len: usize) -> Result<Self> {
        let mut address = 0;
        let bytes = len.checked_mul(8).ok_or(EINVAL)?;
        // SAFETY: The device is valid and enabled.
        let at = unsafe {
            bindings::dma_alloc_attrs(
                bars.dev().as_raw_device(),
                bytes,
                &mut address,
                bindings::GFP_KERNEL | bindings::__GFP_ZERO | bindings::__GFP_NOWARN,
                0,
            )
        };
        Ok(Self {
            bars: bars.clone(),
            at: NonNull::new(at.cast()).ok_or(ENOMEM)?,
            len,
            address,
            unused: false,
        })
    }

    fn at(&self, i: usize) -> Option<*mut u64> {
        (i < self.len).then(|| self.at.as_ptr().wrapping_add(i))
    }

    #[inline]
    pub(super) fn load(&self, i: usize) -> u64 {
        // SAFETY: Inside of the allocation; volatile, as the device may write it.
        self.at(i)
            .map_or(0, |at| u64::from_le(unsafe { ptr::read_volatile(at) }))
    }

    #[inline]
    pub(super) fn store(&self, i: usize, value: u64) {
        if let Some(at) = self.at(i) {
            // SAFETY: Inside of the allocation; volatile, as the device may read it.
            unsafe { ptr::write_volatile(at, value.to_le()) };
        }
    }

    pub(super) fn clear(&self) {
        for i in 0..self.len {
            self.store(i, 0);
        }
    }

    /// Returns the DMA address of a word.
    pub(super) fn address(&self, i: usize) -> u64 {
        self.address.wrapping_add(i as u64 * 8)
    }
}

impl Drop for CoherentWords {
    fn drop(&mut self) {
        // Freeing sleeps behind an IOMMU (`__iommu_dma_free()`).
        might_sleep();
        if !self.unused && !self.bars.quiet.load(Acquire) {
            LEAKED.fetch_add(self.len as u64 * 8, Relaxed);
            return;
        }
        // SAFETY: Allocated by `new()` for this device, with this size. The
        // device does not access it, as the function has been proven quiet, or the memory unused;
        // the CPU does not, as `self` is the only owner.
        unsafe {
            bindings::dma_free_attrs(
                self.bars.dev().as_raw_device(),
                self.len * 8,
                self.at.as_ptr().cast(),
                self.address,
                0,
            );
        }
    }
}
