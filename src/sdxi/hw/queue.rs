// SPDX-License-Identifier: GPL-2.0

//! Contexts as the queues of channels: [`Queue`] for [`ContextLease`].
//!
//! Prepared descriptors are in the ring, and not valid, until they are issued, with one doorbell
//! for all of them and one interrupt at their end; the caller's request for interrupts is ignored.
//! The completion status block of each descriptor can be polled before that, which costs a read of
//! memory.
//!
//! Locks: those of [`context`](super::context).

use crate::{
    engine::channel::Queue,
    kapi::{
        bus::DeviceId,
        pci, //
    },
    sdxi::hw::{
        context::{
            Context,
            ContextLease,
            Unavailable, //
        },
        memory::DeviceAddress, //
    },
};
use core::ptr::NonNull;
use ferry_bindings as fb;
use kernel::{
    bindings,
    prelude::*,
    sync::Arc, //
};

/// Interval in ns at which a waiting mover polls: a poll costs reads of memory, and none of
/// registers.
const POLL_NS: u64 = 50_000;

/// The owner of a context, which can stop it.
pub(crate) trait Owner: Send + Sync {
    /// Stops the context, and the whole function or the PCI function if necessary.
    ///
    /// # Context
    ///
    /// May sleep for seconds.
    fn quiesce(&self, context: &Context);

    /// Frees the interrupt of a context, which is not used until it is opened again.
    ///
    /// # Context
    ///
    /// May sleep.
    fn release(&self, context: &Context);
}

/// A queue that pushes its copies to a leased context.
pub(crate) struct ContextQueue {
    dev: pci::Device,
    lease: ContextLease,
    owner: Arc<dyn Owner>,
    longest: u64,
}

impl ContextQueue {
    /// Creates the queue of a context of `dev`, which takes copies of up to `longest` bytes.
    pub(crate) fn new(
        dev: &pci::Device,
        lease: ContextLease,
        owner: Arc<dyn Owner>,
        longest: u64,
    ) -> Self {
        lease.call_ends();
        Self {
            dev: dev.clone(),
            lease,
            owner,
            longest,
        }
    }

    /// Returns `true` if DMA mappings for this device would bounce: all of them (`swiotlb=force`),
    /// or those of memory out of its reach.
    pub(crate) fn bounces(dev: &pci::Device) -> bool {
        // SAFETY: The device is valid.
        unsafe { fb::ferry_dma_bounces(dev.as_raw_device()) }
    }
}

impl Drop for ContextQueue {
    fn drop(&mut self) {
        // Before the lease is dropped, after which another client may open the context.
        self.owner.release(&self.lease);
    }
}

// SAFETY: A copy is pushed with its end, and the device is told of nothing else. Ends are called
// when the context reports, once for each copy and in their order: the completion status block says
// that the device is through with the descriptor, or `ContextRing::abandon()` has seen proof that
// it has stopped. That is with the listener's lock, and that of the ring, which `push()` takes, is
// not held. `quiesce()` says that it is quiet when every end has been called. Dropping the lease
// forgets the others under the listener's lock. Good is what the block says is good.
unsafe impl Queue for ContextQueue {
    fn device(&self) -> NonNull<bindings::device> {
        NonNull::new(self.dev.as_raw_device()).unwrap_or(NonNull::dangling())
    }

    fn align(&self) -> u64 {
        1
    }

    unsafe fn copy(
        &mut self,
        dst: u64,
        src: u64,
        len: u64,
        _interrupt: bool,
        end: *const fb::ferry_end,
    ) -> Result {
        let (dst, src) = (DeviceAddress::new(dst), DeviceAddress::new(src));
        // SAFETY: By the requirements of this function; dropping the lease, as quiet or after it,
        // leaves the context.
        unsafe { self.lease.push(dst, src, len, end) }.map_err(|why| match why {
            Unavailable::Full => EAGAIN,
            Unavailable::Invalid => EINVAL,
            Unavailable::Down => EIO,
        })
    }

    fn issue(&mut self) {
        self.lease.issue();
    }

    fn poll(&mut self) {
        self.lease.notify();
    }

    fn poll_interval_ns(&self) -> u64 {
        POLL_NS
    }

    fn max_len(&self) -> u64 {
        self.longest
    }

    fn is_ready(&self) -> bool {
        self.lease.is_ready()
    }

    fn is_failing(&self, _row: u32) -> bool {
        // One error fails all that the context has.
        self.lease.is_failing()
    }

    fn quiesce(&mut self) -> bool {
        self.lease.notify();
        if !self.lease.all_called() {
            self.owner.quiesce(&self.lease);
            self.lease.notify();
        }
        self.lease.all_called()
    }

    fn is_bound(&self) -> bool {
        // SAFETY: The device is valid.
        unsafe { fb::ferry_device_is_bound(self.dev.as_raw_device()) }
    }

    fn belongs_to(&self, device: DeviceId) -> bool {
        self.dev.id() == device
    }
}
