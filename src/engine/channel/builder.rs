// SPDX-License-Identifier: GPL-2.0

//! The making of descriptors for claimed chunks.
//!
//! Lock order: that of [`channel`](super). The lock of the ring is held in sections here, see
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

/// The number of bytes of descriptors after which one of them requests an interrupt. The last
/// descriptor of a call always does.
const INTERRUPT_BYTES: u64 = 512 << 10;

/// The time, in ns, for which a mover that makes descriptors holds the lock of the ring, which
/// keeps preemption off; the current descriptor comes on top. About the time that a CPU takes to
/// copy a chunk, which has preemption off as well.
const SECTION_NS: u64 = 50_000;

/// The result of [`Channel::submit()`]: what was claimed and passed to the queue.
#[derive(Copy, Clone, Default)]
pub(crate) struct SubmitCounts {
    /// Chunks that were claimed.
    pub(crate) chunks: u32,
    /// Descriptors that were made.
    pub(crate) descriptors: u32,
    /// Mappings that were made, two for each descriptor.
    pub(crate) mappings: u32,
    /// Sections: how often the lock of the ring was taken for the descriptors.
    pub(crate) sections: u32,
    /// Bytes of the descriptors.
    pub(crate) bytes: u64,
    /// Folios that were left out because another task has a reference to them (I1).
    pub(crate) referenced: u32,
}

impl<B: Pooled> Channel<B> {
    /// Claims free chunks of `range`, from the first on, and passes descriptors for them to the
    /// engine.
    ///
    /// Stops when slots run out. Claims nothing if another mover holds the lock of the ring,
    /// because the mover copies itself instead of waiting for a busy channel. For fault injection,
    /// a chunk for which `fail()` returns `true` fails after it was claimed, and the making of each
    /// descriptor takes `delay_ns` longer.
    ///
    /// # Context
    ///
    /// Process context, in which preemption may be off for a section. Does not allocate in a way
    /// that can enter reclaim (I8).
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
            // Two more: the extent that is not finished, and the one that is held back.
            if builder.free() <= u64::from(raw.entries_of(chunk)) + 2 {
                break;
            }
            if claims.claim_next() != Some(chunk) {
                // The mover has claimed this chunk: it has got as far, and copies what follows.
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

/// A section: the lock of the ring, held by one mover while it makes descriptors.
struct Section<'a> {
    ring: SpinLockGuard<'a, Ring>,
    /// The start of the section, by the clock of this CPU, on which preemption is off.
    since: u64,
}

impl<'a> Section<'a> {
    /// Begins a section with the lock of the ring, which is held.
    fn new(ring: SpinLockGuard<'a, Ring>) -> Self {
        Self {
            ring,
            since: sched::clock(),
        }
    }

    /// Returns the number of slots that are not in use.
    fn free(&self) -> u64 {
        (SLOTS as u64).saturating_sub(self.ring.head.wrapping_sub(self.ring.tail))
    }

    /// Returns `true` if the lock has been held for longer than [`SECTION_NS`].
    fn is_used_up(&self) -> bool {
        sched::clock().saturating_sub(self.since) > SECTION_NS
    }
}

/// A maker of descriptors for one call of [`Channel::submit()`].
///
/// The lock of the ring is held in sections of [`SECTION_NS`], because a spinlock keeps preemption
/// off, and mapping behind an IOMMU takes long. Between two sections the channel may be shut. The
/// descriptors are issued at once, at the end, because each time costs a doorbell.
/// [`Channel::shut()`] issues the descriptors that have been made until then.
struct DescriptorBuilder<'a, B: Pooled> {
    channel: &'a Channel<B>,
    batch: &'a Arc<B>,
    section: Option<Section<'a>>,
    /// The channel was shut between two sections, or its queue takes nothing any more.
    shut: bool,
    /// The latest extent, held back because only the last one of all needs an interrupt of its own.
    pending: Option<Extent>,
    /// Bytes of descriptors since the last one with an interrupt.
    bytes_since_interrupt: u64,
    /// The delay, in ns, before each descriptor is made, for fault injection.
    delay_ns: u64,
    counts: SubmitCounts,
}

impl<'a, B: Pooled> DescriptorBuilder<'a, B> {
    /// Begins the first section, with the lock of a ring that is open.
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

    /// Returns the current section, or a new one if that is used up: other movers can take the lock
    /// between the two. Returns `None` if the channel takes no descriptors any more.
    fn section(&mut self) -> Option<&mut Section<'a>> {
        if self.section.as_ref().is_some_and(Section::is_used_up) {
            self.section = None;
        }
        if self.section.is_none() && !self.shut {
            // Bounded: each holder of the lock has it for a section at most.
            let mut ring = self.channel.ring.lock();
            let ready = ring.queue.as_ref().is_some_and(|queue| queue.is_ready());
            if ring.open && ready {
                self.section = Some(Section::new(ring));
                self.counts.sections += 1;
            } else {
                self.shut = true;
                // If the ring is not open, `shut()` has issued the descriptors.
                if ring.open {
                    ring.issue();
                }
            }
        }
        self.section.as_mut()
    }

    /// Returns the number of free slots, or 0 if the channel takes no descriptors any more.
    fn free(&mut self) -> u64 {
        self.section().map_or(0, |section| section.free())
    }

    /// Adds an extent. Its descriptor is made when it is known whether it is the last one.
    fn add(&mut self, claims: &EngineClaims<'_>, extent: Extent) {
        if let Some(before) = self.pending.replace(extent) {
            self.build(claims, &before, false);
        }
    }

    /// Makes the last descriptor, issues all of them, and releases the lock.
    fn finish(mut self, claims: &EngineClaims<'_>) -> SubmitCounts {
        if let Some(extent) = self.pending.take() {
            self.build(claims, &extent, true);
        }
        if let Some(section) = &mut self.section {
            section.ring.issue();
        }
        self.counts
    }

    /// Makes the descriptor of an extent. An error is a failure of the chunks of the extent.
    fn build(&mut self, claims: &EngineClaims<'_>, extent: &Extent, last: bool) {
        claims.reference(extent);
        if self.try_build(extent, last).is_err() {
            // SAFETY: It was referenced above, and `try_build()` has failed, so that no engine has
            // it.
            unsafe { claims.unmake(extent) };
        }
    }

    /// Maps the memory of an extent, fills a slot and passes the descriptor to the queue.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the channel takes no descriptors any more, `EAGAIN` if no slot is free, `EINVAL`
    /// if the extent is not aligned for the engine, or the error of the mapping or of the queue.
    /// Nothing is mapped and no slot is taken then.
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
            // Not the last reference, as the caller has one.
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
