// SPDX-License-Identifier: GPL-2.0

//! Channels of engines: descriptors that copy chunks of batches, from claim to completion.
//!
//! A [`Channel`] owns a [`Queue`], by which descriptors get to one engine (a channel of dmaengine,
//! a context of SDXI), and a ring of slots, one for each descriptor in flight. A slot holds a
//! reference to its batch until the engine is known not to access the memory of the descriptor any
//! more:
//!
//! ```text
//!          submit()              reported, or proven              reap()
//!   Free ------------> Busy ------------------------> Ending -> Ended -------> Free
//! ```
//!
//! Busy to Ending is a compare-and-exchange, so a descriptor ends once, however often its end is
//! reported. The engine's writes are visible before the chunk is completed, because the memory is
//! unmapped first (I11).
//!
//! A descriptor that the driver has given up has not ended by that. Where an IOMMU translates, the
//! mappings are taken from the device for good, which ends the descriptor as failed. Elsewhere
//! nothing is proven:
//!
//! ```text
//!          submit()         given up              proven               reap()
//!   Free ------------> Busy --------> Given up ---------> Ending -> Ended -------> Free
//! ```
//!
//! A mover that needs such a descriptor gets an error, because its driver reports nothing more
//! about it.
//!
//! # Why DMA touches no other memory
//!
//! Addresses come from `EngineClaims::segments()`, of chunks that are claimed for this channel.
//! Such a chunk is completed when all of its descriptors have ended. A slot ends only when the
//! queue reports the end (see [`Queue`]), after [`Queue::quiesce()`] has returned `true`, or when
//! the device does not reach the memory any more. Until then the shim does not get the folios back:
//! the mover waits, or parks them (I7).
//!
//! # Locks
//!
//! [`Channel::ring`] is taken by movers and by the manager of the channels, never by the callbacks
//! for the end of a descriptor; inside it are only the locks of the queue's driver. It keeps
//! preemption off, so movers hold it for `SECTION_NS` at a time, and softirqs do not run inside
//! it. References to batches are dropped outside it. [`Channel::new()`] tells lockdep that it is
//! taken in reclaim.

mod builder;
#[cfg(CONFIG_KUNIT = "y")]
mod example;
mod queue;
mod slot;
mod wait;

pub(crate) use self::queue::Queue;

use self::{
    queue::LOST_INTERRUPT_NS,
    slot::{
        Common,
        Job,
        Slot,
        BUSY,
        GIVEN_UP, //
    },
};
use crate::{
    kapi::{
        bus::DeviceId,
        sched::NoSoftirqs,
        trace::{
            self,
            Proof, //
        },
    },
    migrate_copy::batch::Pooled, //
};
use core::{
    pin::Pin,
    ptr::NonNull, //
};
use ferry_bindings as fb;
use ferry_core::Lane;
use kernel::{
    bindings, ffi, new_spinlock,
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc,
        SpinLock, //
    },
};

/// The number of descriptors of one channel that can be in flight. A batch that needs more leaves
/// the rest of its chunks to the mover.
const SLOTS: usize = 256;

/// The bytes of addresses that may be taken from a device for good before its channel counts as
/// failing, because these addresses are never used again. With this value sixteen channels of a
/// device use up no more than half of the addresses of 32 bits.
const MAX_LOST_ADDRESS_BYTES: u64 = 128 << 20;

/// Counters of a channel, for debugfs.
pub(crate) struct ChannelCounters {
    /// Descriptors that were passed to the queue.
    pub(crate) descriptors: u64,
    /// Bytes of these descriptors.
    pub(crate) bytes: u64,
    /// Descriptors that are in flight, or have ended and were not reaped.
    pub(crate) busy: u64,
    /// Descriptors that failed.
    pub(crate) errors: u64,
    /// Reports of the end of a descriptor that had ended before.
    pub(crate) strange: u64,
}

/// The queue, and the range of slots that are in use: `tail..head`.
struct Ring {
    queue: Option<KBox<dyn Queue>>,
    /// Movers may submit.
    open: bool,
    /// The queue has descriptors that were not issued to the engine. Only while `open`.
    unissued: bool,
    head: u64,
    tail: u64,
    descriptors: u64,
    bytes: u64,
}

impl Ring {
    /// Issues the descriptors that were not issued to the engine yet. The ring is open, so the
    /// driver is bound.
    fn issue(&mut self) {
        if let (true, Some(queue)) = (self.unissued, self.queue.as_mut()) {
            queue.issue();
        }
        self.unissued = false;
    }
}

/// A channel of an engine, with its descriptors in flight for batches of type `B`.
#[pin_data(PinnedDrop)]
pub(crate) struct Channel<B: Pooled> {
    lane: Lane,
    common: Pin<KBox<Common>>,
    slots: KVec<Slot<B>>,
    #[pin]
    ring: SpinLock<Ring>,
}

// SAFETY: The pointers in slots are to `common`, which lives as long as the channel and is `Sync`
// but for its wait queue, which has a lock of its own; `job` is accessed as `Slot::state` says.
unsafe impl<B: Pooled> Send for Channel<B> {}
// SAFETY: As for `Send`; the rest is atomic or under a lock.
unsafe impl<B: Pooled> Sync for Channel<B> {}

impl<B: Pooled> Channel<B> {
    /// Creates a channel without a queue.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(crate) fn new(lane: Lane) -> Result<Arc<Self>> {
        let common = KBox::pin(Common::new(lane, LOST_INTERRUPT_NS), GFP_KERNEL)?;
        // SAFETY: Pinned, and not used by any other code yet.
        unsafe { fb::ferry_wait_init(common.waiters.get()) };
        let mut slots = KVec::with_capacity(SLOTS, GFP_KERNEL)?;
        for _ in 0..SLOTS {
            slots.push(Slot::new(NonNull::from(&*common)), GFP_KERNEL)?;
        }
        let channel = Arc::pin_init(
            pin_init!(Self {
                lane,
                common,
                slots,
                ring <- new_spinlock!(
                    Ring {
                        queue: None,
                        open: false,
                        unissued: false,
                        head: 0,
                        tail: 0,
                        descriptors: 0,
                        bytes: 0,
                    },
                    "ferry::ring"
                ),
            }),
            GFP_KERNEL,
        )?;
        /// # Safety
        ///
        /// `data` is a `Channel<B>` that lives until this returns.
        unsafe extern "C" fn lock<B: Pooled>(data: *mut ffi::c_void) {
            // SAFETY: By the requirement of this function.
            drop(unsafe { &*data.cast::<Channel<B>>() }.ring.lock());
        }
        let data = Arc::as_ptr(&channel).cast_mut().cast();
        // SAFETY: `lock::<B>` gets the channel, which lives.
        unsafe { fb::ferry_prime_lock(Some(lock::<B>), data) };
        Ok(channel)
    }

    /// Returns the lane of the channel.
    pub(crate) fn lane(&self) -> Lane {
        self.lane
    }

    /// Gives the channel its queue, and lets movers submit. Returns `false`, and drops the queue,
    /// if the channel has a queue already, or descriptors of the last one in flight.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(crate) fn open(&self, queue: KBox<dyn Queue>) -> bool {
        self.reap();
        let mut ring = self.ring.lock();
        if ring.queue.is_some() || ring.head != ring.tail {
            return false;
        }
        // SAFETY: The device lives as long as the queue, which is longer than this call.
        let device = unsafe { fb::ferry_device_get(queue.device().as_ptr()) };
        let old = self.common.device.xchg(device as usize, Relaxed);
        if old != device as usize {
            self.forget_lost_addresses();
        }
        // SAFETY: As above.
        let node = unsafe { fb::ferry_device_node(device) };
        self.common.node.store(node, Relaxed);
        self.common.errors_in_a_row.store(0, Relaxed);
        self.common.given_up.store(0, Relaxed);
        self.common.good_bytes.store(0, Relaxed);
        let poll_interval_ns = queue.poll_interval_ns().min(LOST_INTERRUPT_NS);
        self.common
            .poll_interval_ns
            .store(poll_interval_ns, Relaxed);
        self.common.provable.store(queue.can_prove(), Relaxed);
        ring.queue = Some(queue);
        ring.open = true;
        drop(ring);
        self.put_device(old);
        true
    }

    /// Drops the reference to a device; 0 is none.
    fn put_device(&self, device: usize) {
        if device != 0 {
            // SAFETY: The reference was taken by `open()`.
            unsafe { fb::ferry_device_put(device as *mut bindings::device) };
        }
    }

    /// Lets movers submit again, if the channel has a queue.
    pub(crate) fn reopen(&self) {
        let mut ring = self.ring.lock();
        self.common.errors_in_a_row.store(0, Relaxed);
        ring.open = ring.queue.is_some();
    }

    /// Keeps movers from submitting from here on. Returns `true` if they could before.
    pub(crate) fn shut(&self) -> bool {
        let mut ring = self.ring.lock();
        // A mover that is between two sections cannot issue: the driver may have gone before the
        // mover has the lock again.
        ring.issue();
        core::mem::replace(&mut ring.open, false)
    }

    /// Calls `f` with the queue, and the lock of the ring held. Returns `None` if there is no
    /// queue.
    pub(crate) fn with_queue<R>(&self, f: impl FnOnce(&mut dyn Queue) -> R) -> Option<R> {
        let mut ring = self.ring.lock();
        ring.queue.as_mut().map(|queue| f(&mut **queue))
    }

    /// Returns the node of the device, or a negative value if it has none.
    pub(crate) fn node(&self) -> i32 {
        self.common.node.load(Relaxed)
    }

    /// Returns the number of bytes in flight.
    pub(crate) fn bytes_in_flight(&self) -> u64 {
        self.common.bytes_in_flight.load(Relaxed)
    }

    /// Returns the number of bytes that were copied since the channel was opened.
    pub(crate) fn good_bytes(&self) -> u64 {
        self.common.good_bytes.load(Relaxed)
    }

    /// Returns `true` if the last queue of the channel belonged to this device, which maps its
    /// memory.
    pub(crate) fn had_queue_of(&self, device: DeviceId) -> bool {
        self.common.device.load(Relaxed) == device.id()
    }

    /// Returns the number of descriptors that have failed since the last good one.
    pub(crate) fn errors_in_a_row(&self) -> u32 {
        self.common.errors_in_a_row.load(Relaxed)
    }

    /// Returns `true` if the queue fails too often, or its device has lost too many addresses.
    pub(crate) fn is_failing(&self) -> bool {
        let row = self.errors_in_a_row();
        self.lost_too_many_addresses()
            || row != 0 && self.with_queue(|queue| queue.is_failing(row)) == Some(true)
    }

    /// Returns `true` if more than [`MAX_LOST_ADDRESS_BYTES`] were taken from the device for good.
    pub(crate) fn lost_too_many_addresses(&self) -> bool {
        self.common.lost_address_bytes.load(Relaxed) > MAX_LOST_ADDRESS_BYTES
    }

    /// Sets the count of lost addresses to 0: the device gets another domain, or an administrator
    /// has asked for it.
    pub(crate) fn forget_lost_addresses(&self) {
        self.common.lost_address_bytes.store(0, Relaxed);
    }

    /// Returns the counters, for debugfs.
    pub(crate) fn counters(&self) -> ChannelCounters {
        let ring = self.ring.lock();
        ChannelCounters {
            descriptors: ring.descriptors,
            bytes: ring.bytes,
            busy: ring.head.wrapping_sub(ring.tail),
            errors: self.common.errors.load(Relaxed),
            strange: self.common.strange.load(Relaxed),
        }
    }

    /// Returns the slot of the `n`-th descriptor since the channel was created.
    fn slot(&self, n: u64) -> Option<&Slot<B>> {
        self.slots.get((n % SLOTS as u64) as usize)
    }

    /// Polls the queue for descriptors that have completed without an interrupt.
    pub(crate) fn poll(&self) {
        // The queue may find ends that softirqs report. They run when they are allowed again, which
        // is after the lock was released.
        let softirqs = NoSoftirqs::new();
        if let Some(queue) = &mut self.ring.lock().queue {
            queue.poll();
        }
        drop(softirqs);
    }

    /// Drops the references to the batches of descriptors that have ended, in the order of the
    /// ring. Returns `true` if none is in flight any more.
    ///
    /// # Context
    ///
    /// Process context.
    pub(crate) fn reap(&self) -> bool {
        loop {
            let mut ring = self.ring.lock();
            if ring.tail == ring.head {
                return true;
            }
            let Some(slot) = self.slot(ring.tail) else {
                return true;
            };
            if !slot.has_ended() {
                return false;
            }
            // SAFETY: The descriptor has ended, and `ring` holds the lock of the ring.
            let job = unsafe { slot.empty() };
            ring.tail = ring.tail.wrapping_add(1);
            drop(ring);
            if let Some(job) = job {
                B::put(job.batch);
            }
        }
    }

    /// Returns `true` if descriptors of `batch` are in flight, or wait to be reaped.
    pub(crate) fn has_jobs_of(&self, batch: &B) -> bool {
        self.any(|_, job| core::ptr::eq(&*job.batch, batch))
    }

    /// Returns `true` if descriptors of `batch` are in flight that have not ended.
    pub(crate) fn has_unfinished_of(&self, batch: &B) -> bool {
        self.any(|state, job| matches!(state, BUSY | GIVEN_UP) && core::ptr::eq(&*job.batch, batch))
    }

    /// Returns `true` if `f` accepts the state and the job of a slot in use.
    fn any(&self, f: impl Fn(u32, &Job<B>) -> bool) -> bool {
        let ring = self.ring.lock();
        let mut n = ring.tail;
        while n != ring.head {
            let found = self.slot(n).is_some_and(|slot| {
                // SAFETY: `ring` holds the lock of the ring.
                unsafe { slot.job_matches(&f) }
            });
            if found {
                return true;
            }
            n = n.wrapping_add(1);
        }
        false
    }

    /// Returns `true` if the queue can be proven quiet before all of its descriptors have ended.
    pub(crate) fn can_prove(&self) -> bool {
        self.common.provable.load(Relaxed)
    }

    /// Shuts the channel, and ends the descriptors in flight if there is proof that the engine does
    /// not access their memory any more. Returns `true` if none is in flight afterwards. Only one
    /// caller at a time does this.
    ///
    /// # Context
    ///
    /// May sleep for long.
    pub(crate) fn quiesce(&self) -> bool {
        self.shut();
        let Some(mut queue) = self.ring.lock().queue.take() else {
            return self.reap();
        };
        let lane = self.lane.index().into();
        trace::engine_proof(lane, Proof::Asked as u32);
        let quiet = queue.quiesce();
        let answer = if quiet { Proof::Quiet } else { Proof::Unproven };
        trace::engine_proof(lane, answer as u32);
        let bound = queue.is_bound();
        self.ring.lock().queue = Some(queue);
        if quiet {
            self.end_all(bound);
        }
        self.reap()
    }

    /// Ends the descriptors that have not ended, as failed: the engine is quiet.
    fn end_all(&self, bound: bool) {
        let (head, tail) = {
            let ring = self.ring.lock();
            (ring.head, ring.tail)
        };
        let mut n = tail;
        while n != head {
            if let Some(slot) = self.slot(n) {
                if slot.is_open() {
                    slot.end(false, bound);
                }
            }
            n = n.wrapping_add(1);
        }
    }

    /// Asks for proof of quiet, and [detaches](Self::detach()) the queue. Returns the number of
    /// leaked descriptors.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(crate) fn close(&self) -> u64 {
        self.quiesce();
        self.detach()
    }

    /// Detaches the queue. Leaks the descriptors that are not proven complete and returns their
    /// number.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(crate) fn detach(&self) -> u64 {
        // Not under the lock: dropping a queue may sleep.
        let queue = self.ring.lock().queue.take();
        drop(queue);
        self.reap();
        let ring = self.ring.lock();
        ring.head.wrapping_sub(ring.tail)
    }
}

#[pinned_drop]
impl<B: Pooled> PinnedDrop for Channel<B> {
    fn drop(self: Pin<&mut Self>) {
        // The queue has been closed, so that no mover submits. There is no proof for descriptors
        // that have not ended: their batches, with the folios that they have parked, are kept for
        // ever (I7).
        self.reap();
        for slot in &self.slots {
            // SAFETY: This is the last use of the channel, and the queue has gone.
            unsafe { slot.leak() };
        }
        self.put_device(self.common.device.load(Relaxed));
    }
}
