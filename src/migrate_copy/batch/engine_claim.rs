// SPDX-License-Identifier: GPL-2.0

//! Claims of chunk ranges by the makers of engines' descriptors.
//!
//! Takes no locks. The atomics of `ferry_core::Pending` count the references to a chunk.

use super::{
    claim::Copyable,
    MigrateCopyBatch, //
};
use crate::kapi::sched;
use core::ops::Range;
use ferry_bindings as fb;
use ferry_core::{
    claim,
    extent::{
        Extent,
        Segment, //
    },
    Chunk,
    EntryState,
    Lane,
    Pending, //
};
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

/// The state of a chunk, on the kernel's atomics.
type ChunkState = Chunk<Atomic<u32>>;

/// The counter of the references to a chunk, on the kernel's atomics.
type References = Pending<Atomic<u32>>;

/// What engines do with chunks.
///
/// A chunk that an engine has is referenced by the [`EngineClaims`] of the maker of its
/// descriptors, and by each descriptor that has a segment of it, from [`EngineClaims::reference()`]
/// on. It is complete when all of these have let it go.
impl MigrateCopyBatch {
    /// Returns the number of entries in a chunk, eligible or not: it takes no more descriptors.
    pub(crate) fn entries_of(&self, chunk: u32) -> u32 {
        self.ranges().get(chunk as usize).map_or(0, |p| p.count)
    }

    /// Records that the engine does not access the memory of its descriptor for this extent any
    /// more. If `ok`, all bytes were copied and are visible to the caller; otherwise the
    /// destination is undefined.
    ///
    /// # Safety
    ///
    /// [`EngineClaims::reference()`] was called with this extent for this descriptor, and the
    /// engine does not access its memory any more, nor will it.
    pub(crate) unsafe fn release_extent(&self, extent: &Extent, lane: Lane, ok: bool) {
        self.by_engine.ended.store(sched::clock(), Relaxed);
        if ok {
            self.by_engine.bytes.add(extent.len, Relaxed);
        }
        for chunk in extent.chunks.0..=extent.chunks.1 {
            if ok {
                self.mark_copied(extent, chunk);
            }
            self.release_chunk(chunk, lane, ok);
        }
    }

    /// Marks folios of this extent and chunk that have no other chunk: the mover can take them.
    fn mark_copied(&self, extent: &Extent, chunk: u32) {
        let Some(range) = self.ranges().get(chunk as usize) else {
            return;
        };
        let last = range.first.saturating_add(range.count).saturating_sub(1);
        for i in range.first.max(extent.entries.0)..=last.min(extent.entries.1) {
            let (Some(entry), Some(state)) = (self.entry(i), self.state(i)) else {
                return;
            };
            // An entry that was skipped (I1) may lie between two that adjoin.
            if entry.bytes != 0
                && range.len >= entry.bytes as u64
                && claim::entry_state(state) == EntryState::Pending
            {
                self.by_engine.folios.add(1u32, Relaxed);
                claim::entry_mark(state, EntryState::Copied);
            }
        }
    }

    /// Returns a chunk, and the counter of its references.
    fn engine_chunk(&self, chunk: u32) -> Option<(&ChunkState, &References)> {
        let index = chunk as usize;
        Some((self.chunks().get(index)?, self.pending.get(index)?))
    }

    /// Lets go of one reference to a chunk that an engine has; the last one completes it.
    fn release_chunk(&self, chunk: u32, lane: Lane, ok: bool) {
        let Some((c, p)) = self.engine_chunk(chunk) else {
            return;
        };
        if let Some(ok) = p.end(ok) {
            let counter = if ok {
                &self.by_engine.chunks
            } else {
                &self.by_engine.failed
            };
            counter.add(1u32, Relaxed);
            // The last touch: the batch may be gone as soon as the last chunk is complete.
            c.complete(lane, ok);
        }
    }
}

/// The chunks that the maker of an engine's descriptors has claimed. They are let go when it is
/// dropped, and complete when each descriptor that references them has ended, too.
pub(crate) struct EngineClaims<'a> {
    batch: &'a MigrateCopyBatch,
    lane: Lane,
    claimed: Range<u32>,
}

impl<'a> EngineClaims<'a> {
    /// Begins with none, for the channel with this lane; the first one claimed is to be `first`.
    pub(crate) fn new(batch: &'a MigrateCopyBatch, lane: Lane, first: u32) -> Self {
        Self {
            batch,
            lane,
            claimed: first..first,
        }
    }

    /// Claims the next chunk. Returns `None` if there is none, or another lane has claimed it.
    pub(crate) fn claim_next(&mut self) -> Option<u32> {
        let chunk = self.claimed.end;
        let (c, p) = self.batch.engine_chunk(chunk)?;
        if !c.try_claim(self.lane) {
            return None;
        }
        p.begin();
        self.claimed.end = chunk.saturating_add(1);
        Some(chunk)
    }

    /// Calls `f` with the segments of a claimed chunk: those of folios that may be copied, at this
    /// moment (I1); `referenced` counts the others. Returns `false` if the chunk cannot be copied
    /// as a whole.
    pub(crate) fn segments(
        &self,
        chunk: u32,
        referenced: &mut u32,
        mut f: impl FnMut(Segment),
    ) -> bool {
        if !self.claimed.contains(&chunk) {
            return false;
        }
        let segment = |c: Copyable<'_>| {
            // SAFETY: The chunk is claimed, so the entry is not settled and its folios are lent.
            let (src, dst) = unsafe {
                (
                    fb::ferry_folio_phys(c.entry.src),
                    fb::ferry_folio_phys(c.entry.dst),
                )
            };
            f(Segment {
                chunk,
                entry: c.index,
                src: src.saturating_add(c.offset),
                dst: dst.saturating_add(c.offset),
                len: c.len,
            });
        };
        // SAFETY: It is one of those that are claimed until `self` is dropped.
        let walked = unsafe { self.batch.for_each_copyable(chunk, segment) };
        *referenced = referenced.saturating_add(walked.referenced);
        walked.complete
    }

    /// Adds a reference to the chunks of this extent, for a descriptor.
    /// [`MigrateCopyBatch::release_extent()`] lets go of it, or [`Self::unmake()`].
    pub(crate) fn reference(&self, extent: &Extent) {
        for chunk in extent.chunks.0..=extent.chunks.1 {
            if let Some(p) = self.batch.pending.get(chunk as usize) {
                p.add();
            }
        }
    }

    /// Lets go of the reference of a descriptor that was not made: its chunks have failed.
    ///
    /// # Safety
    ///
    /// [`Self::reference()`] was called with this extent, and no engine has it.
    pub(crate) unsafe fn unmake(&self, extent: &Extent) {
        for chunk in extent.chunks.0..=extent.chunks.1 {
            self.batch.release_chunk(chunk, self.lane, false);
        }
    }

    /// Lets a claimed chunk fail, however its descriptors end.
    pub(crate) fn fail(&self, chunk: u32) {
        let (true, Some(p)) = (
            self.claimed.contains(&chunk),
            self.batch.pending.get(chunk as usize),
        ) else {
            return;
        };
        p.add();
        self.batch.release_chunk(chunk, self.lane, false);
    }
}

impl Drop for EngineClaims<'_> {
    fn drop(&mut self) {
        for chunk in self.claimed.clone() {
            self.batch.release_chunk(chunk, self.lane, true);
        }
    }
}
