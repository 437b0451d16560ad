// SPDX-License-Identifier: GPL-2.0

//! Claims of single chunks by CPUs, and the settling of entries.
//!
//! Takes no locks. The states of chunks and entries are atomics, which `ferry_core::claim` pairs.

use super::{
    folio::copy_mc,
    MigrateCopyBatch,
    SettleOutcome,
    Settled, //
};
use crate::kapi::sched;
use ferry_bindings as fb;
use ferry_core::{
    claim,
    plan,
    policy::Routine,
    EntryState,
    Lane,
    Settle, //
};
use kernel::sync::atomic::Atomic;

/// A step towards a settled entry.
pub(crate) enum Step<'a> {
    /// The entry is settled.
    Final(Settled),
    /// This chunk is in flight: wait, and ask again.
    Wait(u32),
    /// The mover has this claim: copy, drop it, and ask again.
    Mine(Claim<'a>),
}

/// A folio of a claimed chunk, or the part of it that the chunk has.
pub(super) struct Copyable<'a> {
    pub(super) index: u32,
    pub(super) entry: &'a fb::migrate_copy_entry,
    pub(super) state: &'a Atomic<u32>,
    /// The chunk has all of the folio.
    pub(super) whole: bool,
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// The result of [`MigrateCopyBatch::for_each_copyable()`].
#[derive(Copy, Clone, Default)]
pub(super) struct Walked {
    /// Every folio of the chunk may be copied.
    pub(super) complete: bool,
    /// Folios that may not, because of a reference that is not expected (I1).
    pub(super) referenced: u32,
}

impl MigrateCopyBatch {
    /// Claims a chunk.
    ///
    /// A worker has turned preemption off before, and leaves it off until the claim is dropped.
    pub(crate) fn claim(&self, chunk: u32, lane: Lane) -> Option<Claim<'_>> {
        if !self.chunks().get(chunk as usize)?.try_claim(lane) {
            return None;
        }
        Some(Claim::new(self, chunk, lane))
    }

    /// One step towards settling entry `i`; to be repeated until it is final.
    pub(crate) fn settle(&self, i: u32, help: bool) -> Step<'_> {
        let not = Step::Final(Settled::new(SettleOutcome::NotStarted));
        // No chunk covers the entry, so no lane can have touched it.
        let Some((first, count)) = plan::span(self.ranges(), i) else {
            return not;
        };
        let Some(entry) = self.entry(i) else {
            return not;
        };
        let span = first as usize..(first as usize).saturating_add(count as usize);
        let Some(chunks) = self.chunks().get(span) else {
            return not;
        };
        let shared =
            (self.ranges().get(first as usize)).is_some_and(|p| p.len >= entry.bytes as u64);
        let settle = match chunks {
            [chunk] if shared => match self.state(i) {
                Some(state) => claim::settle_shared(chunk, state),
                None => return not,
            },
            _ => claim::settle_span(chunks, help),
        };
        match settle {
            Settle::NotStarted => not,
            Settle::AllCopied => Step::Final(Settled::new(SettleOutcome::Copied)),
            Settle::Partial => Step::Final(Settled::new(SettleOutcome::Partial)),
            Settle::Wait(c) => Step::Wait(first.saturating_add(c)),
            Settle::Mine(c) => Step::Mine(Claim::new(self, first.saturating_add(c), Lane::MOVER)),
        }
    }

    /// Returns `true` if the mover must still wait for entry `i`, which has a part in this chunk.
    pub(crate) fn waiting(&self, i: u32, chunk: u32) -> bool {
        self.in_flight(chunk).is_some()
            && self
                .state(i)
                .is_none_or(|s| claim::entry_state(s) == EntryState::Pending)
    }

    /// Calls `f` with each folio of a claimed chunk that may be copied at this moment (I1), and
    /// marks the others as skipped.
    ///
    /// # Safety
    ///
    /// The caller has claimed the chunk, and the claim lasts until this returns.
    pub(super) unsafe fn for_each_copyable(
        &self,
        chunk: u32,
        mut f: impl FnMut(Copyable<'_>),
    ) -> Walked {
        let mut walked = Walked::default();
        let Some(range) = self.ranges().get(chunk as usize) else {
            return walked;
        };
        walked.complete = true;
        for index in range.first..range.first.saturating_add(range.count) {
            let (Some(entry), Some(state)) = (self.entry(index), self.state(index)) else {
                walked.complete = false;
                break;
            };
            let bytes = entry.bytes as u64;
            if bytes == 0 {
                continue;
            }
            // One of several chunks of a folio, or all of it.
            let whole = range.len >= bytes;
            // SAFETY: The chunk is claimed, so the entry is not settled and its folios are lent.
            if self.early && !unsafe { fb::ferry_may_claim(entry) } {
                walked.referenced += 1;
                walked.complete = false;
                if whole {
                    claim::entry_mark(state, EntryState::Skipped);
                }
                continue;
            }
            let (offset, len) = if whole {
                (0, bytes)
            } else {
                (range.offset, range.len)
            };
            f(Copyable {
                index,
                entry,
                state,
                whole,
                offset,
                len,
            });
        }
        walked
    }

    /// Revokes the free chunks; returns a chunk that is still in flight.
    pub(crate) fn close(&self) -> Option<u32> {
        claim::close(self.chunks())
    }
}

/// The right to copy one chunk. Completes it when dropped.
pub(crate) struct Claim<'a> {
    batch: &'a MigrateCopyBatch,
    chunk: u32,
    lane: Lane,
    ok: bool,
}

/// The numbers of a copy under a claim.
#[derive(Copy, Clone, Default)]
pub(crate) struct Copied {
    /// Bytes that are in the destination.
    pub(crate) bytes: u64,
    /// Whole folios among them.
    pub(crate) folios: u32,
    /// Folios that may not be copied early, because of a reference that is not expected (I1).
    pub(crate) referenced: u32,
    /// Pieces that met poison.
    pub(crate) poisoned: u32,
}

impl<'a> Claim<'a> {
    fn new(batch: &'a MigrateCopyBatch, chunk: u32, lane: Lane) -> Self {
        if lane != Lane::MOVER {
            // SAFETY: Only tells lockdep.
            unsafe { fb::ferry_lockdep_claim() };
        }
        Self {
            batch,
            chunk,
            lane,
            ok: false,
        }
    }

    /// Returns `true` if the chunk will be done, and not failed.
    pub(crate) fn is_ok(&self) -> bool {
        self.ok
    }

    /// Copies the chunk.
    ///
    /// Lets `delay_ns` nanoseconds pass at the worst moment, between the look at the references of
    /// the first folio and its first byte. For fault injection.
    pub(crate) fn copy(&mut self, routine: Routine, mut delay_ns: u64) -> Copied {
        let mut copied = Copied::default();
        let mut ok = true;
        let copy = |c: Copyable<'_>| {
            if delay_ns != 0 {
                sched::spin_ns(delay_ns);
                delay_ns = 0;
            }
            // SAFETY: The chunk is claimed, so the entry is not settled and its folios are lent;
            // claims of other chunks cover other bytes. The plan keeps `offset + len` within the
            // folio and cuts at pages. Source and destination have the same size.
            let left = unsafe { copy_mc(c.entry.dst, c.entry.src, c.offset, c.len, routine) };
            let state = if left == 0 {
                copied.bytes = copied.bytes.saturating_add(c.len);
                copied.folios += u32::from(c.whole);
                EntryState::Copied
            } else {
                // The mover's stock copy meets the poison again and reports it, once (I10).
                copied.poisoned += 1;
                ok = false;
                EntryState::Skipped
            };
            if c.whole {
                claim::entry_mark(c.state, state);
            }
        };
        // SAFETY: `self` is the claim.
        let walked = unsafe { self.batch.for_each_copyable(self.chunk, copy) };
        copied.referenced = walked.referenced;
        self.ok = ok && walked.complete;
        copied
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(chunk) = self.batch.chunks().get(self.chunk as usize) {
            chunk.complete(self.lane, self.ok);
        }
        if self.lane != Lane::MOVER {
            // SAFETY: Only tells lockdep.
            unsafe { fb::ferry_lockdep_release() };
        }
    }
}
