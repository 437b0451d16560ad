// SPDX-License-Identifier: GPL-2.0

//! Slots: the states of a descriptor in flight, and its end.
//!
//! Takes no locks but that of the channel's wait queue. [`Slot::state`] decides which context may
//! access [`Slot::job`]; functions that need the lock of the ring name it.

use crate::migrate_copy::batch::{
    MigrateCopyBatch,
    Pooled, //
};
use core::{
    cell::UnsafeCell,
    ptr::NonNull, //
};
use ferry_bindings as fb;
use ferry_core::{
    extent::Extent,
    Lane, //
};
use kernel::{
    bindings,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc, //
    },
    types::Opaque, //
};

const FREE: u32 = 0;
pub(super) const BUSY: u32 = 1;
pub(super) const ENDING: u32 = 2;
const ENDED: u32 = 3;
/// The driver reports nothing more about the descriptor, and nothing proves that the engine does
/// not access its memory any more.
pub(super) const GIVEN_UP: u32 = 4;

/// The batch and the mappings of a descriptor in flight.
pub(super) struct Job<B> {
    pub(super) batch: Arc<B>,
    pub(super) extent: Extent,
    pub(super) dst: u64,
    pub(super) src: u64,
}

/// One descriptor of a channel: its state, and its job while it is in use.
#[repr(C)]
pub(super) struct Slot<B> {
    /// The first field, so that a pointer to it is a pointer to the slot.
    pub(super) end: fb::ferry_end,
    /// BUSY is stored with release after `job` was written. The context that changes it to ENDING,
    /// from BUSY or from GIVEN_UP, reads it with acquire and has `job` to itself. That context
    /// stores ENDED or GIVEN_UP with release after its last access to `job`; the context that
    /// accesses `job` next reads it with acquire.
    state: Atomic<u32>,
    common: NonNull<Common>,
    job: UnsafeCell<Option<Job<B>>>,
}

/// The part of a channel that its slots refer to, at a stable address.
pub(super) struct Common {
    lane: Lane,
    pub(super) waiters: Opaque<bindings::wait_queue_head>,
    pub(super) device: Atomic<usize>,
    /// The node of the device; negative for none.
    pub(super) node: Atomic<i32>,
    /// Bytes in flight. Orders nothing.
    pub(super) bytes_in_flight: Atomic<u64>,
    /// Descriptors that were GIVEN_UP since the channel was opened. Added to with release after the
    /// state of the slot was stored; read with acquire by a mover that then looks at the slots.
    pub(super) given_up: Atomic<u32>,
    /// Bytes of addresses that were taken from the device for good since it came. Orders nothing.
    pub(super) lost_address_bytes: Atomic<u64>,
    /// Descriptors that have failed. Orders nothing, as the counters below.
    pub(super) errors: Atomic<u64>,
    /// Descriptors that have failed since the last good one.
    pub(super) errors_in_a_row: Atomic<u32>,
    /// Bytes that were copied since the channel was opened.
    pub(super) good_bytes: Atomic<u64>,
    /// [`Queue::poll_interval_ns()`](super::Queue::poll_interval_ns), as of opening.
    pub(super) poll_interval_ns: Atomic<u64>,
    /// [`Queue::can_prove()`](super::Queue::can_prove), as of opening.
    pub(super) provable: Atomic<bool>,
    /// Reports of the end of a descriptor that had ended before.
    pub(super) strange: Atomic<u64>,
}

impl Common {
    /// Creates the part of a channel that has no device yet. The caller initialises the wait queue
    /// when the object has its final address.
    pub(super) fn new(lane: Lane, poll_interval_ns: u64) -> Self {
        Self {
            lane,
            waiters: Opaque::new(Default::default()),
            device: Atomic::new(0),
            node: Atomic::new(-1),
            bytes_in_flight: Atomic::new(0),
            given_up: Atomic::new(0),
            lost_address_bytes: Atomic::new(0),
            errors: Atomic::new(0),
            errors_in_a_row: Atomic::new(0),
            good_bytes: Atomic::new(0),
            poll_interval_ns: Atomic::new(poll_interval_ns),
            provable: Atomic::new(false),
            strange: Atomic::new(0),
        }
    }

    /// Returns the device of the channel, of which the channel holds a reference.
    fn device(&self) -> *mut bindings::device {
        self.device.load(Relaxed) as *mut bindings::device
    }

    /// Subtracts `bytes` from the bytes in flight.
    pub(super) fn sub_in_flight(&self, bytes: u64) {
        // There is no atomic subtraction; adding the negative wraps to the same sum.
        self.bytes_in_flight.add(bytes.wrapping_neg(), Relaxed);
    }

    /// Wakes all movers that wait for descriptors of the channel.
    fn wake(&self) {
        // SAFETY: Initialised by `Channel::new()`.
        unsafe { fb::ferry_wake(self.waiters.get()) };
    }
}

/// Records that the driver has given up a descriptor.
///
/// # Safety
///
/// As for [`ended()`].
unsafe extern "C" fn given_up<B: Pooled>(end: *const fb::ferry_end) {
    // SAFETY: By the requirement of this function; `end` is the first field.
    let slot = unsafe { &*end.cast::<Slot<B>>() };
    slot.give_up();
}

/// Ends a descriptor that the queue reports as ended.
///
/// # Safety
///
/// `end` is the first field of a `Slot<B>` of a channel that is alive.
unsafe extern "C" fn ended<B: Pooled>(end: *const fb::ferry_end, ok: bool) {
    // SAFETY: By the requirement of this function; `end` is the first field.
    let slot = unsafe { &*end.cast::<Slot<B>>() };
    slot.end(ok, true);
}

impl<B: Pooled> Slot<B> {
    /// Creates a free slot of the channel with `common`, which lives as long as the slot.
    pub(super) fn new(common: NonNull<Common>) -> Self {
        Self {
            end: fb::ferry_end {
                fn_: Some(ended::<B>),
                given_up: Some(given_up::<B>),
            },
            state: Atomic::new(FREE),
            common,
            job: UnsafeCell::new(None),
        }
    }

    fn common(&self) -> &Common {
        // SAFETY: `common` lives as long as the channel, which the slot is a part of.
        unsafe { self.common.as_ref() }
    }

    /// Returns `true` if the descriptor has not ended, and no context is ending it just now.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state.load(Relaxed), BUSY | GIVEN_UP)
    }

    /// Returns `true` if the slot is free: the holder of the lock of the ring may access `job`.
    pub(super) fn is_free(&self) -> bool {
        self.state.load(Acquire) == FREE
    }

    /// Returns `true` if the descriptor has ended: the holder of the lock of the ring may access
    /// `job`.
    pub(super) fn has_ended(&self) -> bool {
        self.state.load(Acquire) == ENDED
    }

    /// Stores the job of a descriptor that is about to be passed to the queue.
    ///
    /// # Safety
    ///
    /// The caller holds the lock of the ring, and the slot [is free](Self::is_free()).
    pub(super) unsafe fn fill(&self, job: Job<B>) {
        // SAFETY: The slot is FREE, and only the holder of the lock of the ring, which is the
        // caller, changes that.
        unsafe { *self.job.get() = Some(job) };
        self.state.store(BUSY, Release);
    }

    /// Takes the job out of the slot, and frees the slot.
    ///
    /// # Safety
    ///
    /// The caller holds the lock of the ring. The descriptor [has ended](Self::has_ended()), or the
    /// queue has not taken it, so that no callback knows of the slot.
    pub(super) unsafe fn empty(&self) -> Option<Job<B>> {
        // SAFETY: By the requirements of this function, only its caller uses `job`.
        let job = unsafe { (*self.job.get()).take() };
        self.state.store(FREE, Relaxed);
        job
    }

    /// Leaks the reference to the batch of a descriptor that has not ended.
    ///
    /// # Safety
    ///
    /// The caller has the channel to itself, and its queue was dropped, so that no callback
    /// accesses `job` any more.
    pub(super) unsafe fn leak(&self) {
        if self.is_open() {
            // SAFETY: By the requirements of this function.
            if let Some(job) = unsafe { (*self.job.get()).take() } {
                core::mem::forget(job);
            }
        }
    }

    /// Returns `true` if `f` accepts the state and the job of the slot.
    ///
    /// # Safety
    ///
    /// The caller holds the lock of the ring.
    pub(super) unsafe fn job_matches(&self, f: impl Fn(u32, &Job<B>) -> bool) -> bool {
        // SAFETY: A job is written and taken out under the lock of the ring only; the context that
        // ends the descriptor only reads it.
        let job = unsafe { (*self.job.get()).as_ref() };
        // Acquire: a caller that sees ENDED sees the entries as the end has marked them.
        job.is_some_and(|job| f(self.state.load(Acquire), job))
    }

    /// Ends the descriptor, if it has not ended. With `bound` its device has a driver, so its
    /// memory can be unmapped.
    pub(super) fn end(&self, ok: bool, bound: bool) {
        let taken = self.state.cmpxchg(BUSY, ENDING, Acquire).is_ok()
            || self.state.cmpxchg(GIVEN_UP, ENDING, Acquire).is_ok();
        if taken {
            self.finish(ok, bound);
        } else {
            self.common().strange.add(1u64, Relaxed);
        }
    }

    /// Records that the driver has given up the descriptor: ends it as failed if its mappings can
    /// be taken from the device, and keeps it as GIVEN_UP if not, as the engine may still access
    /// its memory.
    fn give_up(&self) {
        let common = self.common();
        if self.state.cmpxchg(BUSY, ENDING, Acquire).is_err() {
            common.strange.add(1u64, Relaxed);
            return;
        }
        // SAFETY: This function has changed the slot to ENDING, so `job` is its own until it stores
        // another state.
        let cut = unsafe { &*self.job.get() }.as_ref().and_then(|job| {
            let len = job.extent.len;
            // SAFETY: Both were mapped for this device by `submit()`, which it outlives by the
            // reference of the channel. If this succeeds, neither is unmapped: `finish()` is
            // called without `unmap`.
            unsafe { fb::ferry_dma_cut(common.device(), job.src, job.dst, len as usize) }
                .then_some(len)
        });
        if let Some(len) = cut {
            // The addresses of the source, and those of the destination.
            common
                .lost_address_bytes
                .add(len.saturating_mul(2), Relaxed);
            self.finish(false, false);
            return;
        }
        self.state.store(GIVEN_UP, Release);
        common.given_up.fetch_add(1u32, Release);
        common.wake();
    }

    /// Ends the descriptor, whose slot the caller has changed to ENDING. With `unmap` its memory is
    /// unmapped; without it, the device has no driver any more, or its mappings were taken from it.
    fn finish(&self, ok: bool, unmap: bool) {
        let common = self.common();
        // SAFETY: The caller has changed the slot to ENDING, so `job` is this function's until it
        // stores ENDED.
        if let Some(job) = unsafe { &*self.job.get() } {
            if unmap {
                let len = job.extent.len as usize;
                // SAFETY: Both were mapped for this device by `submit()`, which it outlives by the
                // reference of the channel.
                unsafe {
                    fb::ferry_dma_unmap(common.device(), job.src, len, false);
                    fb::ferry_dma_unmap(common.device(), job.dst, len, true);
                }
            }
            common.sub_in_flight(job.extent.len);
            if ok {
                common.errors_in_a_row.store(0, Relaxed);
                common.good_bytes.add(job.extent.len, Relaxed);
                job.batch.copied(job.extent.len);
            } else {
                common.errors.add(1u64, Relaxed);
                common.errors_in_a_row.add(1u32, Relaxed);
            }
            let raw: &MigrateCopyBatch = (*job.batch).as_ref();
            // SAFETY: `try_build()` was called for it after `reference()`. The callers know that
            // the engine does not access its memory any more: the queue has reported it, or there
            // is proof.
            unsafe { raw.release_extent(&job.extent, common.lane, ok) };
        }
        self.state.store(ENDED, Release);
        common.wake();
    }
}
