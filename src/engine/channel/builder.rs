// SPDX-License-Identifier: GPL-2.0

//! The making of descriptors for chunks that are claimed.
//!
//! Lock order: that of [`channel`](super). The lock of the ring is taken here in sections, see
//! [`DescriptorBuilder`].

use super::{
    queue::MAX_EXTENT_BYTES,
    slot::Job,
    Channel,
    Ring,
    SLOTS, //
};
use crate::{
    kapi::sched,
    migrate_copy::batch::{
        engine_claim::EngineClaims,
        MigrateCopyBatch,
        Pooled, //
    },
};
use core::ops::Range;
use ferry_bindings as fb;
use ferry_core::extent::{
    Extent,
    ExtentMerger, //
};
use kernel::{
    error::to_result,
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc,
        SpinLockGuard, //
    },
};

/// Bytes of descriptors after which one requests an interrupt; the last descriptor always does.
const INTERRUPT_BYTES: u64 = 512 << 10;

/// How long a mover that makes descriptors holds the lock of the ring at a time, which keeps
/// preemption off; the descriptor that it is at comes on top. As long as a chunk takes to copy.
const SECTION_NS: u64 = 50_000;

/// What became of an attempt to submit.
#[derive(Copy, Clone, Default)]
pub(crate) struct SubmitCounts {
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

impl<B: Pooled> Channel<B> {
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
    ) -> SubmitCounts {
        let Some(ring) = self.ring.try_lock() else {
            return SubmitCounts::default();
        };
        let (true, Some(queue)) = (ring.open, ring.queue.as_ref()) else {
            return SubmitCounts::default();
        };
        if !queue.is_ready() {
            return SubmitCounts::default();
        }
        let mut merger = ExtentMerger::new(queue.max_len().min(MAX_EXTENT_BYTES));
        let raw: &MigrateCopyBatch = (**batch).as_ref();
        let mut claims = EngineClaims::new(raw, self.lane, range.start);
        let mut builder = DescriptorBuilder::new(self, batch, ring, delay_ns);
        let mut referenced = 0;
        for chunk in range {
            // With the extent that is not finished, and the one that is held back.
            if builder.free() <= u64::from(raw.entries_of(chunk)) + 2 {
                break;
            }
            if claims.claim_next() != Some(chunk) {
                // The mover is here: what follows is its own.
                break;
            }
            builder.counts.chunks += 1;
            let whole = !fail()
                && claims.segments(chunk, &mut referenced, |segment| {
                    if let Some(extent) = merger.push(segment) {
                        builder.add(&claims, extent);
                    }
                });
            if let Some(extent) = merger.end_chunk(whole) {
                builder.add(&claims, extent);
            }
            if !whole {
                claims.fail(chunk);
            }
        }
        if let Some(extent) = merger.finish() {
            builder.add(&claims, extent);
        }
        let counts = builder.finish(&claims);
        SubmitCounts {
            referenced,
            ..counts
        }
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

    fn is_used_up(&self) -> bool {
        sched::clock().saturating_sub(self.since) > SECTION_NS
    }
}

/// Makes descriptors, for one call of [`Channel::submit()`].
///
/// The lock of the ring is held in sections of [`SECTION_NS`], as a spinlock keeps preemption off,
/// and mapping behind an IOMMU takes long. Between two sections the channel may be shut. The engine
/// is told of all descriptors at once, at the end: each time costs a doorbell. [`Channel::shut()`]
/// tells it of those that have been made until then.
struct DescriptorBuilder<'a, B: Pooled> {
    channel: &'a Channel<B>,
    batch: &'a Arc<B>,
    section: Option<Section<'a>>,
    /// The channel has been shut meanwhile.
    shut: bool,
    /// The last extent so far: only the last one of all needs an interrupt of its own.
    pending: Option<Extent>,
    /// Bytes since the last interrupt.
    bytes_since_interrupt: u64,
    /// How long each descriptor takes in addition, for fault injection.
    delay_ns: u64,
    counts: SubmitCounts,
}

impl<'a, B: Pooled> DescriptorBuilder<'a, B> {
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
            pending: None,
            bytes_since_interrupt: 0,
            delay_ns,
            counts: SubmitCounts {
                sections: 1,
                ..SubmitCounts::default()
            },
        }
    }

    /// Lets others have the lock if it has been held for long, and gets it where it is not held.
    /// None if the channel takes nothing any more.
    fn section(&mut self) -> Option<&mut Section<'a>> {
        if self.section.as_ref().is_some_and(Section::is_used_up) {
            self.section = None;
        }
        if self.section.is_none() && !self.shut {
            // Bounded: each holder of the lock has it for a section, or for less.
            let mut ring = self.channel.ring.lock();
            let ready = ring.queue.as_ref().is_some_and(|queue| queue.is_ready());
            if ring.open && ready {
                self.section = Some(Section::new(ring));
                self.counts.sections += 1;
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
        if let Some(before) = self.pending.replace(extent) {
            self.build(claims, &before, false);
        }
    }

    /// Makes the last descriptor, tells the engine of all of them, and lets the lock go.
    fn finish(mut self, claims: &EngineClaims<'_>) -> SubmitCounts {
        if let Some(extent) = self.pending.take() {
            self.build(claims, &extent, true);
        }
        if let Some(section) = &mut self.section {
            section.ring.issue();
        }
        self.counts
    }

    /// Makes a descriptor for an extent. What goes wrong is a failure of its chunks.
    fn build(&mut self, claims: &EngineClaims<'_>, extent: &Extent, last: bool) {
        claims.reference(extent);
        if self.try_build(extent, last).is_err() {
            // SAFETY: It was referenced above, and `try_build()` has failed, so that no engine has
            // it.
            unsafe { claims.unmake(extent) };
        }
    }

    fn try_build(&mut self, extent: &Extent, last: bool) -> Result {
        let (channel, batch, delay_ns) = (self.channel, self.batch, self.delay_ns);
        let interrupt =
            last || self.bytes_since_interrupt.saturating_add(extent.len) >= INTERRUPT_BYTES;
        let section = self.section().ok_or(ENODEV)?;
        let free = section.free();
        let ring = &mut *section.ring;
        let queue = ring.queue.as_mut().ok_or(ENODEV)?;
        let slot = channel.slot(ring.head).ok_or(EINVAL)?;
        if free == 0 || !slot.is_free() {
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
        // SAFETY: `section` holds the lock of the ring, and the slot is free, as seen above.
        unsafe { slot.fill(job) };
        let common = &channel.common;
        common.bytes_in_flight.add(extent.len, Relaxed);
        // SAFETY: Both are mapped for as long as the slot is not ended; slots live as long as the
        // channel, which closes the queue before.
        let made = unsafe { queue.copy(dst, src, extent.len, interrupt, &raw const slot.end) };
        if let Err(e) = made {
            common.sub_in_flight(extent.len);
            // SAFETY: As for `fill()`; the queue has not taken the descriptor.
            let job = unsafe { slot.empty() };
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
        self.bytes_since_interrupt = if interrupt {
            0
        } else {
            self.bytes_since_interrupt.saturating_add(extent.len)
        };
        self.counts.mappings += 2;
        self.counts.descriptors += 1;
        self.counts.bytes = self.counts.bytes.saturating_add(extent.len);
        Ok(())
    }
}
