// SPDX-License-Identifier: GPL-2.0

//! Channels of engines: descriptors that copy chunks of batches, from claim to completion.
//!
//! A [`Channel`] owns a [`Queue`], which is how descriptors get to one engine (a channel of
//! dmaengine, a context of SDXI), and a ring of slots, one for each descriptor in flight. A slot
//! holds a reference to its batch until the engine is known not to touch the memory of the
//! descriptor any more:
//!
//! ```text
//!          submit()                told, or proven               reap()
//!   Free ------------> Busy ------------------------> Ending -> Ended -------> Free
//! ```
//!
//! Busy to Ending is a compare-and-exchange, so that a descriptor ends once, however many
//! parties report its end. What the engine wrote is visible before the chunk is completed: unmapping comes first (I11).
//!
//! A descriptor that the driver has given up has not ended by that. Where an IOMMU translates, the
//! mappings are taken from the device for good, which ends it as failed. Elsewhere nothing is
//! proven:
//!
//! ```text
//!          submit()         given up              proven               reap()
//!   Free ------------> Busy --------> Given up ---------> Ending -> Ended -------> Free
//! ```
//!
//! A mover that needs such a descriptor is told so, as nothing more will be said of it.
//!
//! # Why DMA touches nothing else
//!
//! Addresses come from [`EngineClaims::segments()`], of chunks that are claimed for this channel.
//! Such a chunk is completed when all of its descriptors have ended, and a slot ends only when the
//! queue says so (see [`Queue`]), after [`Queue::quiesce()`] has said that there is proof, or when
//! the device does not reach the memory any more. Until then the shim does not get the folios back:
//! the mover waits, or parks them (I7).
//!
//! # Locks
//!
//! [`Channel::ring`] is taken by movers and by the manager of the channels, never by the callbacks
//! for the end of a descriptor; inside it are only the locks of the queue's driver. It keeps
//! preemption off, so movers hold it for [`SECTION_NS`] at a time, and softirqs do not run inside
//! it. Batches are let go outside it. Telling lockdep that it is taken in reclaim is done by
//! [`Channel::new()`].

use crate::{
    kapi::{
        bus::DeviceId,
        sched::{
            self,
            NoSoftirqs, //
        },
        trace::{
            self,
            Proof, //
        },
    },
    migrate_copy::batch::{
        engine_claim::EngineClaims,
        MigrateCopyBatch,
        Pooled, //
    },
};
use core::{
    cell::UnsafeCell,
    ops::Range,
    pin::Pin,
    ptr::NonNull, //
};
use ferry_bindings as fb;
use ferry_core::{
    extent::{
        Extent,
        ExtentMerger, //
    },
    Lane, //
};
use kernel::{
    bindings,
    error::to_result,
    ffi,
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc,
        SpinLock,
        SpinLockGuard, //
    },
    types::Opaque, //
};

/// Descriptors of one channel that can be in flight.
pub(crate) const SLOTS: usize = 256;

/// The longest descriptor. A mover that needs the first page of it waits for the last one.
const MAX_EXTENT: u64 = 4 << 20;

/// Bytes of descriptors after which one requests an interrupt; the last descriptor always does.
const INTERRUPT_EVERY: u64 = 512 << 10;

/// How long a mover polls before it sleeps, in ns.
const POLL_NS: u64 = 10_000;

/// How long it sleeps before it has the queue look for a completion whose interrupt has been lost.
const LOST_NS: u64 = 50_000_000;

/// How long a mover that makes descriptors holds the lock of the ring at a time, which keeps
/// preemption off; the descriptor that it is at comes on top. As long as a chunk takes to copy.
const SECTION_NS: u64 = 50_000;

/// Failed descriptors in a row from which a channel counts as failing.
const MOST_ERRORS: u32 = 8;

/// Bytes of addresses that may be taken from a device for good before its channel counts as
/// failing: they are never used again. So small that sixteen channels of a device leave half of the
/// addresses that 32 bits have.
const MOST_CUT: u64 = 128 << 20;

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
    /// ns. Capped at [`LOST_NS`].
    fn look_ns(&self) -> u64 {
        LOST_NS
    }

    /// The longest copy that it takes.
    fn longest(&self) -> u64 {
        MAX_EXTENT
    }

    /// Returns `true` if the queue takes copies now.
    fn is_ready(&self) -> bool {
        true
    }

    /// Returns `true` if the queue fails too often, where `row` descriptors in a row have failed.
    fn is_failing(&self, row: u32) -> bool {
        row >= MOST_ERRORS
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
    fn is_of(&self, device: DeviceId) -> bool;
}

const FREE: u32 = 0;
const BUSY: u32 = 1;
const ENDING: u32 = 2;
const ENDED: u32 = 3;
/// The driver says nothing more of the descriptor, and nothing proves that the engine is through
/// with it.
const GIVEN_UP: u32 = 4;

/// A descriptor in flight.
struct Job<B> {
    batch: Arc<B>,
    extent: Extent,
    dst: u64,
    src: u64,
}

#[repr(C)]
struct Slot<B> {
    /// First, so that a pointer to it is one to the slot.
    end: fb::ferry_end,
    /// Stored BUSY with release after `job` was written. A party that takes it to ENDING, from BUSY
    /// or from GIVEN_UP, has read that with acquire and has `job` to itself. ENDED and GIVEN_UP are
    /// stored with release after its last use of `job`, and read with acquire by the party that has
    /// `job` next.
    state: Atomic<u32>,
    common: NonNull<Common>,
    job: UnsafeCell<Option<Job<B>>>,
}

/// The part of a channel that its slots refer to, at a stable address.
struct Common {
    lane: Lane,
    waiters: Opaque<bindings::wait_queue_head>,
    device: Atomic<usize>,
    /// Its node; negative for none.
    node: Atomic<i32>,
    /// Bytes in flight.
    bytes: Atomic<u64>,
    /// Descriptors that were GIVEN_UP since the channel was opened. Added to with release after the
    /// slot says so, read with acquire by a mover that then looks at the slots.
    given_up: Atomic<u32>,
    /// Bytes of addresses that were taken from the device for good since it came. Orders nothing.
    cut: Atomic<u64>,
    /// Descriptors that have failed, all and since the last good one.
    errors: Atomic<u64>,
    row: Atomic<u32>,
    /// Bytes that have been copied since it was opened.
    good: Atomic<u64>,
    /// What [`Queue::look_ns()`] says.
    look_ns: Atomic<u64>,
    /// What [`Queue::can_prove()`] says.
    provable: Atomic<bool>,
    /// Ends of descriptors that had ended before.
    strange: Atomic<u64>,
}

/// Counters of a channel, for debugfs.
pub(crate) struct Seen {
    /// Descriptors.
    pub(crate) descriptors: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Those in flight.
    pub(crate) busy: u64,
    /// Those that failed.
    pub(crate) errors: u64,
    /// Those that were told to have ended more than once.
    pub(crate) strange: u64,
}

/// The queue, and which slots are in use: `tail..head`.
struct Ring {
    queue: Option<KBox<dyn Queue>>,
    /// Movers submit only while it is set.
    open: bool,
    /// There are descriptors that the engine has not been told of. Only while `open`.
    unissued: bool,
    head: u64,
    tail: u64,
    descriptors: u64,
    bytes: u64,
}

impl Ring {
    /// Tells the engine of the descriptors that it has not been told of. The ring is open, so the
    /// driver is there.
    fn issue(&mut self) {
        if let (true, Some(queue)) = (self.unissued, self.queue.as_mut()) {
            queue.issue();
        }
        self.unissued = false;
    }
}

/// What became of an attempt to submit.
#[derive(Copy, Clone, Default)]
pub(crate) struct Submitted {
    /// Chunks that were claimed.
    pub(crate) chunks: u32,
    /// Descriptors.
    pub(crate) descriptors: u32,
    /// Mappings made, two for each descriptor.
    pub(crate) mappings: u32,
    /// Times that the lock of the ring was taken for them.
    pub(crate) sections: u32,
    /// Bytes of them.
    pub(crate) bytes: u64,
    /// Folios that were left out, because of a reference that is not expected (I1).
    pub(crate) referenced: u32,
}

/// A channel of an engine, with what it has in flight for batches of type `B`.
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

impl Common {
    fn device(&self) -> *mut bindings::device {
        self.device.load(Relaxed) as *mut bindings::device
    }

    /// Subtracts `bytes` from the bytes in flight.
    fn took(&self, bytes: u64) {
        // Wraps around, as there is no subtraction: the sum is right.
        self.bytes.add(bytes.wrapping_neg(), Relaxed);
    }

    fn wake(&self) {
        // SAFETY: Initialised by `Channel::new()`.
        unsafe { fb::ferry_wake(self.waiters.get()) };
    }
}

/// Takes note that the driver has given a descriptor up.
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
/// `end` is the first field of a `Slot<B>` of a channel that lives.
unsafe extern "C" fn ended<B: Pooled>(end: *const fb::ferry_end, ok: bool) {
    // SAFETY: By the requirement of this function; `end` is the first field.
    let slot = unsafe { &*end.cast::<Slot<B>>() };
    slot.end(ok, true);
}

impl<B: Pooled> Slot<B> {
    fn common(&self) -> &Common {
        // SAFETY: `common` lives as long as the channel, which the slot is a part of.
        unsafe { self.common.as_ref() }
    }

    /// Returns whether the descriptor has not ended, and is not being ended just now.
    fn is_open(&self) -> bool {
        matches!(self.state.load(Relaxed), BUSY | GIVEN_UP)
    }

    /// Ends the descriptor, if it has not ended. With `bound` its device has a driver, so that it
    /// can be unmapped.
    fn end(&self, ok: bool, bound: bool) {
        let taken = self.state.cmpxchg(BUSY, ENDING, Acquire).is_ok()
            || self.state.cmpxchg(GIVEN_UP, ENDING, Acquire).is_ok();
        if taken {
            self.finish(ok, bound);
        } else {
            self.common().strange.add(1u64, Relaxed);
        }
    }

    /// Takes note that the driver has given the descriptor up: ends it as failed if the device can
    /// be cut off from its memory, and keeps it as one that the engine may be at if not.
    fn give_up(&self) {
        let common = self.common();
        if self.state.cmpxchg(BUSY, ENDING, Acquire).is_err() {
            common.strange.add(1u64, Relaxed);
            return;
        }
        // SAFETY: The slot has been taken to ENDING, so `job` is this function's until it says
        // otherwise.
        let cut = unsafe { &*self.job.get() }.as_ref().and_then(|job| {
            let len = job.extent.len;
            // SAFETY: Both were mapped for this device by `submit()`, which it outlives by the
            // reference of the channel. If this succeeds they are not unmapped: `finish()` is told
            // so.
            unsafe { fb::ferry_dma_cut(common.device(), job.src, job.dst, len as usize) }
                .then_some(len)
        });
        if let Some(len) = cut {
            // Those of the source and those of the destination.
            common.cut.add(len.saturating_mul(2), Relaxed);
            self.finish(false, false);
            return;
        }
        self.state.store(GIVEN_UP, Release);
        common.given_up.fetch_add(1u32, Release);
        common.wake();
    }

    /// Ends the descriptor, whose slot the caller has taken to ENDING. With `unmap` its memory is
    /// unmapped; without it, the device has no driver any more or has been cut off from the memory.
    fn finish(&self, ok: bool, unmap: bool) {
        let common = self.common();
        // SAFETY: The slot has been taken to ENDING, so `job` is this function's until ENDED.
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
            common.took(job.extent.len);
            if ok {
                common.row.store(0, Relaxed);
                common.good.add(job.extent.len, Relaxed);
                job.batch.copied(job.extent.len);
            } else {
                common.errors.add(1u64, Relaxed);
                common.row.add(1u32, Relaxed);
            }
            let raw: &MigrateCopyBatch = (*job.batch).as_ref();
            // SAFETY: `try_make()` was called for it after `reference()`. The callers know that the
            // engine does not access its memory any more: the queue has said so, or it was proven.
            unsafe { raw.release_extent(&job.extent, common.lane, ok) };
        }
        self.state.store(ENDED, Release);
        common.wake();
    }
}

/// What a sleeping mover waits for.
struct Waiting<'a> {
    batch: &'a MigrateCopyBatch,
    entry: u32,
    chunk: u32,
    common: &'a Common,
    /// [`Common::given_up`] when the slots were looked at.
    given_up: u32,
}

/// # Safety
///
/// `data` is a `Waiting` that lives until this returns.
unsafe extern "C" fn no_more_waiting(data: *mut ffi::c_void) -> bool {
    // SAFETY: By the requirement of this function.
    let w = unsafe { &*data.cast::<Waiting<'_>>() };
    !w.batch.waiting(w.entry, w.chunk) || w.common.given_up.load(Relaxed) != w.given_up
}

impl<B: Pooled> Channel<B> {
    /// A channel without a queue.
    pub(crate) fn new(lane: Lane) -> Result<Arc<Self>> {
        let common = KBox::pin(
            Common {
                lane,
                waiters: Opaque::new(Default::default()),
                device: Atomic::new(0),
                node: Atomic::new(-1),
                bytes: Atomic::new(0),
                given_up: Atomic::new(0),
                cut: Atomic::new(0),
                errors: Atomic::new(0),
                row: Atomic::new(0),
                good: Atomic::new(0),
                look_ns: Atomic::new(LOST_NS),
                provable: Atomic::new(false),
                strange: Atomic::new(0),
            },
            GFP_KERNEL,
        )?;
        // SAFETY: Pinned, and not used by anybody yet.
        unsafe { fb::ferry_wait_init(common.waiters.get()) };
        let mut slots = KVec::with_capacity(SLOTS, GFP_KERNEL)?;
        for _ in 0..SLOTS {
            slots.push(
                Slot {
                    end: fb::ferry_end {
                        fn_: Some(ended::<B>),
                        given_up: Some(given_up::<B>),
                    },
                    state: Atomic::new(FREE),
                    common: NonNull::from(&*common),
                    job: UnsafeCell::new(None),
                },
                GFP_KERNEL,
            )?;
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

    /// Its lane.
    pub(crate) fn lane(&self) -> Lane {
        self.lane
    }

    /// Gives it a queue, in place of none, and lets movers submit. Says whether there was none, and
    /// nothing is in flight.
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
            self.forget_cut();
        }
        // SAFETY: As above.
        let node = unsafe { fb::ferry_device_node(device) };
        self.common.node.store(node, Relaxed);
        self.common.row.store(0, Relaxed);
        self.common.given_up.store(0, Relaxed);
        self.common.good.store(0, Relaxed);
        let look_ns = queue.look_ns().min(LOST_NS);
        self.common.look_ns.store(look_ns, Relaxed);
        self.common.provable.store(queue.can_prove(), Relaxed);
        ring.queue = Some(queue);
        ring.open = true;
        drop(ring);
        self.put_device(old);
        true
    }

    fn put_device(&self, device: usize) {
        if device != 0 {
            // SAFETY: The reference was taken by `open()`.
            unsafe { fb::ferry_device_put(device as *mut bindings::device) };
        }
    }

    /// Lets movers submit again.
    pub(crate) fn reopen(&self) {
        let mut ring = self.ring.lock();
        self.common.row.store(0, Relaxed);
        ring.open = ring.queue.is_some();
    }

    /// Keeps movers from submitting from here on. Returns `true` if they could before.
    pub(crate) fn shut(&self) -> bool {
        let mut ring = self.ring.lock();
        // A mover that is between two sections cannot: the driver may have gone before it is back.
        ring.issue();
        core::mem::replace(&mut ring.open, false)
    }

    /// Looks at its queue, if it has one.
    pub(crate) fn with_queue<R>(&self, f: impl FnOnce(&mut dyn Queue) -> R) -> Option<R> {
        let mut ring = self.ring.lock();
        ring.queue.as_mut().map(|queue| f(&mut **queue))
    }

    /// The node of its device; negative for none.
    pub(crate) fn node(&self) -> i32 {
        self.common.node.load(Relaxed)
    }

    /// Bytes in flight.
    pub(crate) fn load(&self) -> u64 {
        self.common.bytes.load(Relaxed)
    }

    /// Returns how many bytes it has copied since it was opened.
    pub(crate) fn good_bytes(&self) -> u64 {
        self.common.good.load(Relaxed)
    }

    /// Returns whether the last queue that it had was of this device, which maps its memory.
    pub(crate) fn was_of(&self, device: DeviceId) -> bool {
        self.common.device.load(Relaxed) == device.id()
    }

    /// Descriptors that have failed since the last good one.
    pub(crate) fn errors_in_a_row(&self) -> u32 {
        self.common.row.load(Relaxed)
    }

    /// Returns whether its queue fails too often, or at the expense of too many addresses.
    pub(crate) fn is_failing(&self) -> bool {
        let row = self.errors_in_a_row();
        self.is_costly() || row != 0 && self.with_queue(|queue| queue.is_failing(row)) == Some(true)
    }

    /// Returns whether it has cost its device too many addresses.
    pub(crate) fn is_costly(&self) -> bool {
        self.common.cut.load(Relaxed) > MOST_CUT
    }

    /// From here on addresses that its device has lost do not count: it gets another domain, or an
    /// administrator says so.
    pub(crate) fn forget_cut(&self) {
        self.common.cut.store(0, Relaxed);
    }

    /// Returns the counters, for debugfs.
    pub(crate) fn seen(&self) -> Seen {
        let ring = self.ring.lock();
        Seen {
            descriptors: ring.descriptors,
            bytes: ring.bytes,
            busy: ring.head.wrapping_sub(ring.tail),
            errors: self.common.errors.load(Relaxed),
            strange: self.common.strange.load(Relaxed),
        }
    }

    fn slot(&self, n: u64) -> Option<&Slot<B>> {
        self.slots.get((n % SLOTS as u64) as usize)
    }

    /// Claims chunks of this range that are free, from the first on, and has the engine copy them.
    ///
    /// Stops where descriptors run out. Claims nothing if another mover has the lock of the ring: an
    /// engine that is busy is not waited for. For fault injection, a chunk for which `fail()` says so fails after it
    /// was claimed, and `delay_ns` pass with each descriptor.
    pub(crate) fn submit(
        &self,
        batch: &Arc<B>,
        range: Range<u32>,
        fail: impl Fn() -> bool,
        delay_ns: u64,
    ) -> Submitted {
        let Some(ring) = self.ring.try_lock() else {
            return Submitted::default();
        };
        let (true, Some(queue)) = (ring.open, ring.queue.as_ref()) else {
            return Submitted::default();
        };
        if !queue.is_ready() {
            return Submitted::default();
        }
        let mut merger = ExtentMerger::new(queue.longest().min(MAX_EXTENT));
        let raw: &MigrateCopyBatch = (**batch).as_ref();
        let mut claims = EngineClaims::new(raw, self.lane, range.start);
        let mut maker = Maker::new(self, batch, ring, delay_ns);
        let mut referenced = 0;
        for chunk in range {
            // With the extent that is not finished, and the one that is held back.
            if maker.free() <= u64::from(raw.entries_of(chunk)) + 2 {
                break;
            }
            if claims.claim_next() != Some(chunk) {
                // The mover is here: what follows is its own.
                break;
            }
            maker.did.chunks += 1;
            let whole = !fail()
                && claims.segments(chunk, &mut referenced, |segment| {
                    if let Some(extent) = merger.push(segment) {
                        maker.add(&claims, extent);
                    }
                });
            if let Some(extent) = merger.end_chunk(whole) {
                maker.add(&claims, extent);
            }
            if !whole {
                claims.fail(chunk);
            }
        }
        if let Some(extent) = merger.finish() {
            maker.add(&claims, extent);
        }
        let did = maker.finish(&claims);
        Submitted { referenced, ..did }
    }

    /// Returns whether the driver has given up what entry `i` of this chunk needs: a descriptor for
    /// a part of the entry, or one that keeps the chunk from ending while none in flight has a part
    /// of the entry.
    fn gave_up(&self, batch: &MigrateCopyBatch, i: u32, chunk: u32) -> bool {
        let has = |(first, last): (u32, u32), n| (first..=last).contains(&n);
        let of_chunk = |job: &Job<B>| {
            core::ptr::eq((*job.batch).as_ref(), batch) && has(job.extent.chunks, chunk)
        };
        let of_entry = |job: &Job<B>| of_chunk(job) && has(job.extent.entries, i);
        let given_up = |state| state == GIVEN_UP;
        self.any(|state, job| given_up(state) && of_entry(job))
            || self.any(|state, job| given_up(state) && of_chunk(job))
                && !self.any(|state, job| matches!(state, BUSY | ENDING) && of_entry(job))
    }

    /// Waits until entry `i` is done, or its chunk, which this channel has.
    ///
    /// # Errors
    ///
    /// `ECANCELED` if the driver has given it up, so that nothing more will be said of it;
    /// `ETIMEDOUT` if it has not ended in time.
    pub(crate) fn wait(
        &self,
        batch: &MigrateCopyBatch,
        i: u32,
        chunk: u32,
        timeout_ns: u64,
    ) -> Result {
        let from = sched::clock();
        let passed = || sched::clock().saturating_sub(from);
        let look_ns = self.common.look_ns.load(Relaxed);
        while passed() < POLL_NS {
            if !batch.waiting(i, chunk) {
                return Ok(());
            }
            if look_ns < LOST_NS {
                self.poll();
            }
            kernel::processor::cpu_relax();
        }
        let mut waiting = Waiting {
            batch,
            entry: i,
            chunk,
            common: &self.common,
            given_up: 0,
        };
        // Each round sleeps for a bounded time, and there are as many as the timeout has room for,
        // and one for each descriptor that is given up meanwhile.
        loop {
            waiting.given_up = self.common.given_up.load(Acquire);
            let given_up = waiting.given_up != 0 && self.gave_up(batch, i, chunk);
            // Afterwards: what was in flight may have ended between two looks at the slots.
            if given_up && batch.waiting(i, chunk) {
                return Err(ECANCELED);
            }
            let left = timeout_ns.saturating_sub(passed());
            let data: *mut ffi::c_void = (&raw mut waiting).cast();
            // SAFETY: The wait queue lives as long as the channel; `no_more_waiting()` gets what it
            // expects until this returns.
            let done = unsafe {
                fb::ferry_wait(
                    self.common.waiters.get(),
                    Some(no_more_waiting),
                    data,
                    // What has taken long may take a little longer.
                    left.min(look_ns.max(passed() / 4)).min(LOST_NS),
                )
            };
            if !done {
                self.poll();
            }
            if !batch.waiting(i, chunk) {
                return Ok(());
            }
            if left == 0 {
                return Err(ETIMEDOUT);
            }
        }
    }

    /// Has the queue look for what has completed without telling.
    pub(crate) fn poll(&self) {
        // The queue may find ends that softirqs tell of. They run when they are allowed again,
        // which is when the lock has been let go.
        let softirqs = NoSoftirqs::new();
        if let Some(queue) = &mut self.ring.lock().queue {
            queue.poll();
        }
        drop(softirqs);
    }

    /// Lets go of the batches of descriptors that have ended. Says whether none is in flight.
    ///
    /// In process context.
    pub(crate) fn reap(&self) -> bool {
        loop {
            let mut ring = self.ring.lock();
            if ring.tail == ring.head {
                return true;
            }
            let Some(slot) = self.slot(ring.tail) else {
                return true;
            };
            if slot.state.load(Acquire) != ENDED {
                return false;
            }
            // SAFETY: ENDED: only the holder of the lock of the ring uses `job`, to take it out.
            let job = unsafe { (*slot.job.get()).take() };
            slot.state.store(FREE, Relaxed);
            ring.tail = ring.tail.wrapping_add(1);
            drop(ring);
            if let Some(job) = job {
                B::put(job.batch);
            }
        }
    }

    /// Returns `true` if descriptors of `batch` are in flight, or wait to be reaped.
    pub(crate) fn has(&self, batch: &B) -> bool {
        self.any(|_, job| core::ptr::eq(&*job.batch, batch))
    }

    /// Returns `true` if descriptors of `batch` are in flight that have not ended.
    pub(crate) fn is_at(&self, batch: &B) -> bool {
        self.any(|state, job| matches!(state, BUSY | GIVEN_UP) && core::ptr::eq(&*job.batch, batch))
    }

    /// Returns `true` if `f` accepts the state and the job of a slot in use.
    fn any(&self, f: impl Fn(u32, &Job<B>) -> bool) -> bool {
        let ring = self.ring.lock();
        let mut n = ring.tail;
        while n != ring.head {
            // Acquire: a caller that sees ENDED sees what has become of the entries.
            //
            // SAFETY: A slot between tail and head has a job, which is written and taken under the
            // lock of the ring only; the party that ends it reads it.
            let found = self.slot(n).is_some_and(|slot| unsafe {
                (*slot.job.get())
                    .as_ref()
                    .is_some_and(|job| f(slot.state.load(Acquire), job))
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

    /// Ends what is in flight, if there is proof that the engine does not touch it any more. The
    /// channel is shut, and only one caller at a time does this. Sleeps.
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

    /// Ends what has not ended: the engine is quiet.
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

    /// Asks for proof of quiet, and [gives up](Self::give_up()) the queue. Returns the number of
    /// leaked descriptors.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(crate) fn close(&self) -> u64 {
        self.quiesce();
        self.give_up()
    }

    /// Detaches the queue. Leaks the descriptors that are not proven complete and returns their
    /// number.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(crate) fn give_up(&self) -> u64 {
        // Not under the lock: letting a queue go may sleep.
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
        // The queue has been closed, so that no mover submits. What has not ended has no proof of quiet:
        // its batches, with what they have parked, are kept for ever (I7).
        self.reap();
        for slot in &self.slots {
            if slot.is_open() {
                // SAFETY: The queue has gone, so that no callback uses `job` any more.
                if let Some(job) = unsafe { (*slot.job.get()).take() } {
                    core::mem::forget(job);
                }
            }
        }
        self.put_device(self.common.device.load(Relaxed));
    }
}

/// A time with the lock of the ring held, for one mover to make descriptors.
struct Section<'a> {
    ring: SpinLockGuard<'a, Ring>,
    /// When it began, by the clock of the CPU that it is on.
    since: u64,
}

impl<'a> Section<'a> {
    fn new(ring: SpinLockGuard<'a, Ring>) -> Self {
        Self {
            ring,
            since: sched::clock(),
        }
    }

    /// Slots that are not in use.
    fn free(&self) -> u64 {
        (SLOTS as u64).saturating_sub(self.ring.head.wrapping_sub(self.ring.tail))
    }

    fn is_long(&self) -> bool {
        sched::clock().saturating_sub(self.since) > SECTION_NS
    }
}

/// Makes descriptors, for one call of [`Channel::submit()`].
///
/// The lock of the ring is held in sections of [`SECTION_NS`], as a spinlock keeps preemption off,
/// and mapping behind an IOMMU takes long. Between two sections the channel may be shut. The engine
/// is told of all descriptors at once, at the end: each time costs a doorbell. [`Channel::shut()`]
/// tells it of those that have been made until then.
struct Maker<'a, B: Pooled> {
    channel: &'a Channel<B>,
    batch: &'a Arc<B>,
    section: Option<Section<'a>>,
    /// The channel has been shut meanwhile.
    shut: bool,
    /// The last extent so far: only the last one of all needs an interrupt of its own.
    held: Option<Extent>,
    /// Bytes since the last interrupt.
    quiet_bytes: u64,
    /// How long each descriptor takes in addition, for fault injection.
    delay_ns: u64,
    did: Submitted,
}

impl<'a, B: Pooled> Maker<'a, B> {
    /// Begins, with the lock of a ring that is open.
    fn new(
        channel: &'a Channel<B>,
        batch: &'a Arc<B>,
        ring: SpinLockGuard<'a, Ring>,
        delay_ns: u64,
    ) -> Self {
        Self {
            channel,
            batch,
            section: Some(Section::new(ring)),
            shut: false,
            held: None,
            quiet_bytes: 0,
            delay_ns,
            did: Submitted {
                sections: 1,
                ..Submitted::default()
            },
        }
    }

    /// Lets others have the lock if it has been held for long, and gets it where it is not held.
    /// None if the channel takes nothing any more.
    fn section(&mut self) -> Option<&mut Section<'a>> {
        if self.section.as_ref().is_some_and(Section::is_long) {
            self.section = None;
        }
        if self.section.is_none() && !self.shut {
            // Bounded: each holder of the lock has it for a section, or for less.
            let mut ring = self.channel.ring.lock();
            let ready = ring.queue.as_ref().is_some_and(|queue| queue.is_ready());
            if ring.open && ready {
                self.section = Some(Section::new(ring));
                self.did.sections += 1;
            } else {
                self.shut = true;
                // Else `shut()` has done that.
                if ring.open {
                    ring.issue();
                }
            }
        }
        self.section.as_mut()
    }

    /// Slots that are left; 0 if the channel takes nothing any more.
    fn free(&mut self) -> u64 {
        self.section().map_or(0, |section| section.free())
    }

    /// Adds an extent, which is made a descriptor when it is known whether it is the last one.
    fn add(&mut self, claims: &EngineClaims<'_>, extent: Extent) {
        if let Some(before) = self.held.replace(extent) {
            self.make(claims, &before, false);
        }
    }

    /// Makes the last descriptor, tells the engine of all of them, and lets the lock go.
    fn finish(mut self, claims: &EngineClaims<'_>) -> Submitted {
        if let Some(extent) = self.held.take() {
            self.make(claims, &extent, true);
        }
        if let Some(section) = &mut self.section {
            section.ring.issue();
        }
        self.did
    }

    /// Makes a descriptor for an extent. What goes wrong is a failure of its chunks.
    fn make(&mut self, claims: &EngineClaims<'_>, extent: &Extent, last: bool) {
        claims.reference(extent);
        if self.try_make(extent, last).is_err() {
            // SAFETY: It was referenced above, and `try_make()` has failed, so that no engine has
            // it.
            unsafe { claims.unmake(extent) };
        }
    }

    fn try_make(&mut self, extent: &Extent, last: bool) -> Result {
        let (channel, batch, delay_ns) = (self.channel, self.batch, self.delay_ns);
        let interrupt = last || self.quiet_bytes.saturating_add(extent.len) >= INTERRUPT_EVERY;
        let section = self.section().ok_or(ENODEV)?;
        let free = section.free();
        let ring = &mut *section.ring;
        let queue = ring.queue.as_mut().ok_or(ENODEV)?;
        let slot = channel.slot(ring.head).ok_or(EINVAL)?;
        if free == 0 || slot.state.load(Acquire) != FREE {
            return Err(EAGAIN);
        }
        if (extent.src | extent.dst | extent.len) & (queue.align().saturating_sub(1)) != 0 {
            return Err(EINVAL);
        }
        if delay_ns != 0 {
            sched::spin_ns(delay_ns);
        }
        let device = queue.device().as_ptr();
        let len = extent.len as usize;
        let (mut src, mut dst) = (0, 0);
        // SAFETY: The device lives as long as the queue. The memory is that of folios whose chunks
        // the caller has claimed for this channel.
        to_result(unsafe { fb::ferry_dma_map(device, extent.src, len, false, &mut src) })?;
        // SAFETY: As above.
        let mapped =
            to_result(unsafe { fb::ferry_dma_map(device, extent.dst, len, true, &mut dst) });
        if let Err(e) = mapped {
            // SAFETY: Mapped above.
            unsafe { fb::ferry_dma_unmap(device, src, len, false) };
            return Err(e);
        }
        let job = Job {
            batch: batch.clone(),
            extent: *extent,
            dst,
            src,
        };
        // SAFETY: The slot is FREE, and only who has the lock of the ring, as `section` does, makes
        // something else of it.
        unsafe { *slot.job.get() = Some(job) };
        slot.state.store(BUSY, Release);
        let common = &channel.common;
        common.bytes.add(extent.len, Relaxed);
        // SAFETY: Both are mapped for as long as the slot is not ended; slots live as long as the
        // channel, which closes the queue before.
        let made = unsafe { queue.copy(dst, src, extent.len, interrupt, &raw const slot.end) };
        if let Err(e) = made {
            common.took(extent.len);
            slot.state.store(FREE, Relaxed);
            // SAFETY: The queue has not taken it, so that no callback knows of the slot.
            let job = unsafe { (*slot.job.get()).take() };
            // The caller has a reference, so this is not the last one.
            drop(job);
            // SAFETY: Mapped above.
            unsafe {
                fb::ferry_dma_unmap(device, src, len, false);
                fb::ferry_dma_unmap(device, dst, len, true);
            }
            return Err(e);
        }
        ring.head = ring.head.wrapping_add(1);
        ring.descriptors = ring.descriptors.wrapping_add(1);
        ring.bytes = ring.bytes.wrapping_add(extent.len);
        ring.unissued = true;
        self.quiet_bytes = if interrupt {
            0
        } else {
            self.quiet_bytes.saturating_add(extent.len)
        };
        self.did.mappings += 2;
        self.did.descriptors += 1;
        self.did.bytes = self.did.bytes.saturating_add(extent.len);
        Ok(())
    }
}
