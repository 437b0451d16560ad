// SPDX-License-Identifier: GPL-2.0

//! The claim protocol decides which lane copies which chunk, and when a folio is settled.
//!
//! A batch has one mover, the task in `migrate_pages()`, and any number of other lanes that copy.
//! The unit is the chunk. Its state moves one way only while other lanes can see it:
//!
//! ```text
//!            try_claim(lane)                complete(lane, ok)
//!     Free ------------------> Claimed(lane) ------------------> Done | Failed
//!       \
//!        `---- revoke() -----> Revoked                   (the mover only)
//! ```
//!
//! Each arrow is one atomic operation. Both arrows out of Free are a compare-and-exchange from
//! Free, so exactly one of all claims and revocations of a chunk wins. No arrow leads back to Free,
//! so a chunk that is not Free is never handed out again. That is the whole argument for "no chunk
//! is lost, and none is copied twice". The rest is ordering:
//!
//! * `complete()` is a release and every read of a state is an acquire. A reader that sees Done
//!   sees the bytes, and a reader that sees Failed or Done knows that the lane does not access the
//!   source or the destination any more. A lane that used non-temporal stores has to fence them
//!   first, because a release does not order them.
//! * A claim is an acquire, so the lane sees the reset and the plan of the chunk.
//! * A lane checks whether a folio may be copied early *after* it has claimed the chunk, just
//!   before the first byte, because the mover touches nothing of a claimed chunk until it is Done
//!   or Failed.
//!
//! A folio that spans several chunks is settled by [`settle_span()`]. Small folios share a chunk
//! and are settled by [`settle_shared()`]; each has an entry word of its own, so that the mover can
//! take a folio while the lane is still busy with the next one.
//!
//! The models in `tests/host/tests` run this file under a model checker.
//!
//! # Examples
//!
//! A worker copies the first of two chunks of a folio, the mover takes the second one:
//!
//! ```
//! use ferry_core::{settle_span, Chunk, Lane, Settle};
//! use std::sync::atomic::AtomicU32;
//!
//! let chunks = [Chunk::new(AtomicU32::new(0)), Chunk::new(AtomicU32::new(0))];
//! let worker = Lane::new(1);
//!
//! assert!(chunks[0].try_claim(worker));
//! // The claim is exclusive.
//! assert!(!chunks[0].try_claim(Lane::MOVER));
//!
//! // The mover claims what is free, copies it and asks again.
//! assert_eq!(settle_span(&chunks, true), Settle::Mine(1));
//! chunks[1].complete(Lane::MOVER, true);
//! // Now only the worker's chunk is missing.
//! assert_eq!(settle_span(&chunks, true), Settle::Wait(0));
//!
//! chunks[0].complete(worker, true);
//! assert_eq!(settle_span(&chunks, true), Settle::AllCopied);
//! ```

use crate::word::Word;

const FREE: u32 = 0;
const CLAIMED: u32 = 1;
const DONE: u32 = 2;
const FAILED: u32 = 3;
const REVOKED: u32 = 4;
/// Mask of the state in a chunk's word: its low byte.
const STATE_MASK: u32 = 0xff;
/// Position, in bits, of the claiming lane in a chunk's word: the byte above the state.
const LANE_SHIFT: u32 = 8;

/// The number of a party that copies: the mover, a CPU worker or the queue of an engine.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Lane(u8);

impl Lane {
    /// The mover: the task that migrates. Every batch has exactly one.
    pub const MOVER: Lane = Lane(0);

    /// Returns the lane with this number; 0 is the mover.
    #[inline]
    pub const fn new(index: u8) -> Self {
        Self(index)
    }

    /// Returns the number of this lane.
    #[inline]
    pub const fn index(self) -> u8 {
        self.0
    }

    /// Returns the word of a chunk that this lane has claimed.
    const fn claimed(self) -> u32 {
        CLAIMED | (self.0 as u32) << LANE_SHIFT
    }
}

/// The state of a chunk.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ChunkState {
    /// The chunk belongs to no lane and may be claimed or revoked.
    Free,
    /// A lane reads its source and writes its destination.
    Claimed(Lane),
    /// The chunk is copied, and the bytes are visible to the reader of this state. Final.
    Done,
    /// The lane that had claimed the chunk gave it up and does not touch it any more. Final.
    Failed,
    /// The mover took the chunk back unclaimed, and no lane can claim it any more. Final.
    Revoked,
}

impl ChunkState {
    /// Decodes a chunk's word.
    fn from_word(word: u32) -> Self {
        match word & STATE_MASK {
            FREE => Self::Free,
            CLAIMED => Self::Claimed(Lane((word >> LANE_SHIFT) as u8)),
            DONE => Self::Done,
            FAILED => Self::Failed,
            // No code writes other values; none of them may look claimable or copied.
            _ => Self::Revoked,
        }
    }
}

/// The state word of a chunk: a run of bytes that is claimed and copied as one.
///
/// # Examples
///
/// ```
/// use ferry_core::{Chunk, ChunkState, Lane};
/// use std::sync::atomic::AtomicU32;
///
/// let chunk = Chunk::new(AtomicU32::new(0));
/// assert!(chunk.try_claim(Lane::new(3)));
/// // The mover cannot take a claimed chunk back.
/// assert_eq!(chunk.revoke(), ChunkState::Claimed(Lane::new(3)));
/// chunk.complete(Lane::new(3), true);
/// assert_eq!(chunk.state(), ChunkState::Done);
/// // No state leads back to Free.
/// assert!(!chunk.try_claim(Lane::new(4)));
/// ```
#[derive(Debug)]
pub struct Chunk<W> {
    word: W,
}

impl<W: Word> Chunk<W> {
    /// Creates a chunk from `word`, which has to be zero unless [`Chunk::reset()`] follows.
    pub const fn new(word: W) -> Self {
        Self { word }
    }

    /// Makes the chunk free again, whatever its state was.
    ///
    /// The caller must be the only one that can reach the chunk. Publishing the batch to other
    /// lanes afterwards orders this store before their claims.
    #[inline]
    pub fn reset(&self) {
        self.word.store_relaxed(FREE);
    }

    /// Claims the chunk if it is free. Returns `true` if it did.
    ///
    /// The lane has to call [`Chunk::complete()`] without fail, and soon, because the mover waits
    /// for it.
    #[inline]
    #[must_use]
    pub fn try_claim(&self, lane: Lane) -> bool {
        self.word.compare_exchange(FREE, lane.claimed()).is_ok()
    }

    /// Ends the claim of `lane`: the chunk becomes Done if `ok`, else Failed.
    ///
    /// From here on the lane neither reads the source nor writes the destination. A caller that
    /// used non-temporal stores has fenced them before.
    #[inline]
    pub fn complete(&self, lane: Lane, ok: bool) {
        debug_assert!(self.word.load_relaxed() == lane.claimed());
        self.word.store_release(if ok { DONE } else { FAILED });
    }

    /// Takes the chunk back if it is free, and returns its state afterwards.
    ///
    /// Revoked means that no lane ever claimed the chunk or will. Only the mover revokes.
    #[inline]
    pub fn revoke(&self) -> ChunkState {
        // The load spares the locked operation where that would fail, which is the usual case for
        // the many small folios of one chunk.
        let seen = self.word.load_acquire();
        if seen != FREE {
            return ChunkState::from_word(seen);
        }
        match self.word.compare_exchange(FREE, REVOKED) {
            Ok(_) => ChunkState::Revoked,
            Err(seen) => ChunkState::from_word(seen),
        }
    }

    /// Returns the state of the chunk, and orders the read before all later accesses.
    #[inline]
    pub fn state(&self) -> ChunkState {
        ChunkState::from_word(self.word.load_acquire())
    }
}

/// A count of the parties that still use a chunk that an engine copies: the descriptors that have a
/// part of the chunk, and the maker of these descriptors.
///
/// The last party completes the chunk; the failure of any party is a failure of the chunk. Parties
/// may end in any order, and before the last descriptor has been made.
#[derive(Debug)]
pub struct Pending<W> {
    word: W,
}

/// The bit of [`Pending`] that is set once a party has failed.
const PENDING_FAILED: u32 = 1 << 31;

impl<W: Word> Pending<W> {
    /// Creates a counter from `word`; [`Pending::begin()`] has to follow.
    pub const fn new(word: W) -> Self {
        Self { word }
    }

    /// Starts to count: the maker of descriptors has claimed the chunk and is the only party.
    #[inline]
    pub fn begin(&self) {
        self.word.store_relaxed(1);
    }

    /// Applies `by` to the count and returns the new value.
    ///
    /// The loop is bounded: a retry follows a change by another party, and there are two changes
    /// for each descriptor, and one by the maker.
    fn change(&self, by: impl Fn(u32) -> u32) -> u32 {
        let mut old = self.word.load_relaxed();
        loop {
            let new = by(old);
            match self.word.compare_exchange(old, new) {
                Ok(_) => return new,
                Err(seen) => old = seen,
            }
        }
    }

    /// Counts one more descriptor, before the engine gets it. There are fewer than 2^31.
    #[inline]
    pub fn add(&self) {
        self.change(|n| n.wrapping_add(1));
    }

    /// Ends one party. Returns `None` unless it was the last one, which gets `Some(true)` if no
    /// party failed, else `Some(false)`.
    ///
    /// The last party sees all that the others wrote before they ended, and then completes the
    /// chunk.
    #[inline]
    #[must_use]
    pub fn end(&self, ok: bool) -> Option<bool> {
        let failed = if ok { 0 } else { PENDING_FAILED };
        // Acquire and release order the writes of all other parties before what the last one does.
        match self.change(|n| n.wrapping_sub(1) | failed) {
            0 => Some(true),
            PENDING_FAILED => Some(false),
            _ => None,
        }
    }
}

/// A counter that hands out the chunks of a batch in move order, each number once.
#[derive(Debug)]
pub struct ChunkCounter<W> {
    next: W,
}

impl<W: Word> ChunkCounter<W> {
    /// Creates a counter from `next`, which has to be zero unless [`ChunkCounter::reset()`]
    /// follows.
    pub const fn new(next: W) -> Self {
        Self { next }
    }

    /// Starts from zero again. The caller must be the only one that can reach the counter.
    #[inline]
    pub fn reset(&self) {
        self.next.store_relaxed(0);
    }

    /// Takes the next number if it is below `limit`.
    ///
    /// The limit may differ from call to call, as the look-ahead grows while the mover moves. Each
    /// number is handed out once and in order, without gaps. The counter never passes the highest
    /// limit, so it cannot overflow however often this is called. For that reason this is not a
    /// `fetch_add()`, which would lose each number that is not below the limit of its call.
    #[inline]
    pub fn take(&self, limit: u32) -> Option<u32> {
        let mut next = self.next.load_relaxed();
        while next < limit {
            // Below `limit`, so this does not wrap.
            match self.next.compare_exchange(next, next.wrapping_add(1)) {
                Ok(_) => return Some(next),
                Err(seen) => next = seen,
            }
        }
        None
    }

    /// Returns how many numbers have been taken.
    #[inline]
    pub fn taken(&self) -> u32 {
        self.next.load_relaxed()
    }
}

/// The state of one folio of a shared chunk, in a word that the mover may read inline.
///
/// The values are shared with C.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EntryState {
    /// The folio is not copied yet; a lane may be copying it.
    Pending = 0,
    /// Its bytes are in the destination, and no lane touches it any more.
    Copied = 1,
    /// No lane copied it and none touches it any more: it may not be copied early, or the copy
    /// failed.
    Skipped = 2,
}

/// Records that the lane has finished with a folio. This is ordered after the bytes, as
/// [`Chunk::complete()`] is.
#[inline]
pub fn entry_mark<W: Word>(w: &W, s: EntryState) {
    w.store_release(s as u32);
}

/// Returns the state of a folio, and orders the read before all later accesses.
#[inline]
pub fn entry_state<W: Word>(w: &W) -> EntryState {
    match w.load_acquire() {
        1 => EntryState::Copied,
        2 => EntryState::Skipped,
        // An unknown value must not vouch for bytes; as Pending, the folio is settled by its chunk.
        _ => EntryState::Pending,
    }
}

/// The next step of the mover to settle a folio, or the outcome.
///
/// After [`Settle::NotStarted`], [`Settle::AllCopied`] and [`Settle::Partial`] no lane reads the
/// source of the folio or writes its destination, now or later.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Settle {
    /// No lane had begun and none can: the stock copy, or a copy in place, follows.
    NotStarted,
    /// All of its bytes are in the destination.
    AllCopied,
    /// The chunk with this index is in flight: the mover waits for it and asks again.
    Wait(u32),
    /// The mover has claimed the chunk with this index: it copies and completes it, and asks again.
    Mine(u32),
    /// A chunk failed or was taken back: the stock copy of the whole folio follows.
    Partial,
}

/// Makes one step to settle a folio whose chunks are `chunks`, shared with no other folio.
///
/// The mover calls this until the answer is final. All progress is in the chunks, so any time may
/// pass between calls, and an answer that is thrown away is not lost: a chunk that the mover itself
/// holds comes back as [`Settle::Mine`] until it is completed.
///
/// With `help`, the mover claims free chunks in order, and waits only when no chunk is left to
/// copy. Without `help`, or once a chunk has failed or was revoked (a lane may claim one chunk
/// while another is being revoked), a complete copy is out of reach: free chunks are revoked, and
/// the mover waits only for chunks in flight. If no lane has begun, the mover is then free to copy
/// as it likes. The answer is [`Settle::AllCopied`] only if every chunk is Done.
pub fn settle_span<W: Word>(chunks: &[Chunk<W>], help: bool) -> Settle {
    let mut started = false;
    let mut broken = false;
    for chunk in chunks {
        match chunk.state() {
            ChunkState::Free => {}
            ChunkState::Revoked => broken = true,
            ChunkState::Failed => {
                started = true;
                broken = true;
            }
            ChunkState::Claimed(_) | ChunkState::Done => started = true,
        }
    }

    if !started && (!help || broken || chunks.is_empty()) {
        // The lanes go in move order, too, so a lane that is faster is met at the first chunk,
        // before any other chunk has been revoked.
        for chunk in chunks {
            if chunk.revoke() == ChunkState::Revoked {
                broken = true;
            } else {
                started = true;
                break;
            }
        }
        if !started {
            return Settle::NotStarted;
        }
    }

    let copy = help && !broken;
    let mut in_flight = None;
    for (index, chunk) in (0..=u32::MAX).zip(chunks) {
        if copy && chunk.state() == ChunkState::Free && chunk.try_claim(Lane::MOVER) {
            return Settle::Mine(index);
        }
        // If the mover copies, the chunk is not free at this point, so revoke() only reads.
        match chunk.revoke() {
            ChunkState::Done => {}
            ChunkState::Claimed(Lane::MOVER) => return Settle::Mine(index),
            ChunkState::Claimed(_) => in_flight = in_flight.or(Some(index)),
            ChunkState::Free | ChunkState::Failed | ChunkState::Revoked => broken = true,
        }
    }

    match in_flight {
        Some(index) => Settle::Wait(index),
        None if broken => Settle::Partial,
        None => Settle::AllCopied,
    }
}

/// Makes one step to settle a folio that shares `chunk` with others and has the word `entry`.
///
/// The mover calls this until the answer is final. [`Settle::Wait`] is always `Wait(0)`: the mover
/// waits for `entry` or `chunk`, whichever changes first. The first folio that finds the chunk
/// unclaimed takes back all of it.
///
/// # Examples
///
/// ```
/// use ferry_core::{entry_mark, settle_shared, Chunk, EntryState, Lane, Settle};
/// use std::sync::atomic::AtomicU32;
///
/// let chunk = Chunk::new(AtomicU32::new(0));
/// let entries = [AtomicU32::new(0), AtomicU32::new(0)];
///
/// assert!(chunk.try_claim(Lane::new(1)));
/// entry_mark(&entries[0], EntryState::Copied);
/// // The first folio is settled while the lane still copies the second one.
/// assert_eq!(settle_shared(&chunk, &entries[0]), Settle::AllCopied);
/// assert_eq!(settle_shared(&chunk, &entries[1]), Settle::Wait(0));
/// ```
pub fn settle_shared<W: Word, E: Word>(chunk: &Chunk<W>, entry: &E) -> Settle {
    // The chunk is read first. If it is final, then this read is ordered after everything that the
    // lane wrote, so the state that is read from the entry afterwards is its last one.
    match chunk.revoke() {
        ChunkState::Free | ChunkState::Revoked => Settle::NotStarted,
        ChunkState::Done | ChunkState::Failed => match entry_state(entry) {
            EntryState::Copied => Settle::AllCopied,
            EntryState::Skipped | EntryState::Pending => Settle::Partial,
        },
        ChunkState::Claimed(lane) => match entry_state(entry) {
            EntryState::Copied => Settle::AllCopied,
            EntryState::Skipped => Settle::Partial,
            EntryState::Pending if lane == Lane::MOVER => Settle::Mine(0),
            EntryState::Pending => Settle::Wait(0),
        },
    }
}

/// Ends a batch: revokes every chunk that is still free, and returns the first one in flight.
///
/// `None` means that from now on no lane reads a source or writes a destination of this batch. The
/// states move one way only, so this stays true. The caller may call this again at any time.
pub fn close<W: Word>(chunks: &[Chunk<W>]) -> Option<u32> {
    let mut in_flight = None;
    for (index, chunk) in (0..=u32::MAX).zip(chunks) {
        if let ChunkState::Claimed(_) = chunk.revoke() {
            in_flight = in_flight.or(Some(index));
        }
    }
    in_flight
}

#[cfg_attr(CONFIG_KUNIT = "y", kernel::macros::kunit_tests(ferry_core_claim))]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;
    use crate::word::TestWord;

    const A: Lane = Lane::new(1);
    const B: Lane = Lane::new(255);

    fn chunk() -> Chunk<TestWord> {
        Chunk::new(TestWord::new(0))
    }

    fn chunks() -> [Chunk<TestWord>; 4] {
        [chunk(), chunk(), chunk(), chunk()]
    }

    /// Settles `c` to the end: the mover copies its chunks, and lane A completes those that it
    /// waits for, with `ok`. Returns the final answer and how many chunks the mover copied. More
    /// than 16 steps for four chunks would be a livelock.
    fn settle(c: &[Chunk<TestWord>], help: bool, ok: bool) -> (Settle, u32) {
        let mut mine = 0;
        for _ in 0..16 {
            match settle_span(c, help) {
                Settle::Mine(i) => {
                    mine += 1;
                    c[i as usize].complete(Lane::MOVER, true);
                }
                Settle::Wait(i) => c[i as usize].complete(A, ok),
                last => return (last, mine),
            }
        }
        (Settle::Wait(u32::MAX), mine)
    }

    #[test]
    fn chunk_goes_one_way() {
        let c = chunk();
        assert_eq!(c.state(), ChunkState::Free);
        assert!(c.try_claim(B));
        assert_eq!(c.state(), ChunkState::Claimed(B));
        assert!(!c.try_claim(A));
        assert_eq!(c.revoke(), ChunkState::Claimed(B));
        c.complete(B, true);
        assert_eq!(c.state(), ChunkState::Done);
        assert!(!c.try_claim(A));
        assert_eq!(c.revoke(), ChunkState::Done);
        c.reset();
        assert!(c.try_claim(A));
        c.complete(A, false);
        assert_eq!(c.revoke(), ChunkState::Failed);
        assert!(!c.try_claim(A));
    }

    #[test]
    fn the_last_descriptor_completes() {
        let p = Pending::new(TestWord::new(99));
        p.begin();
        p.add();
        p.add();
        // The first descriptor ends before the next one is made.
        assert_eq!(p.end(true), None);
        p.add();
        assert_eq!(p.end(true), None);
        assert_eq!(p.end(true), None);
        assert_eq!(p.end(true), Some(true));
        p.begin();
        p.add();
        assert_eq!(p.end(false), None);
        assert_eq!(p.end(true), Some(false));
        p.begin();
        assert_eq!(p.end(false), Some(false));
    }

    #[test]
    fn revoked_stays_revoked() {
        let c = chunk();
        assert_eq!(c.revoke(), ChunkState::Revoked);
        assert_eq!(c.revoke(), ChunkState::Revoked);
        assert!(!c.try_claim(A));
        assert!(!c.try_claim(Lane::MOVER));
        assert_eq!(c.state(), ChunkState::Revoked);
    }

    #[test]
    fn unknown_words_are_never_claimable_or_copied() {
        let c = Chunk::new(TestWord::new(77));
        assert!(!c.try_claim(A));
        assert_eq!(c.state(), ChunkState::Revoked);
        assert_eq!(entry_state(&TestWord::new(77)), EntryState::Pending);
    }

    #[test]
    fn ticket_has_no_gaps_and_no_overflow() {
        let t = ChunkCounter::new(TestWord::new(0));
        assert_eq!(t.take(0), None);
        assert_eq!(t.take(2), Some(0));
        assert_eq!(t.take(2), Some(1));
        for _ in 0..100 {
            assert_eq!(t.take(2), None);
        }
        assert_eq!(t.taken(), 2);
        assert_eq!(t.take(3), Some(2));
        t.reset();
        assert_eq!(t.take(1), Some(0));
        let t = ChunkCounter::new(TestWord::new(u32::MAX));
        assert_eq!(t.take(u32::MAX), None);
        assert_eq!(t.taken(), u32::MAX);
    }

    #[test]
    fn span_not_started() {
        let c = chunks();
        assert_eq!(settle_span(&c, false), Settle::NotStarted);
        assert_eq!(settle_span(&c, false), Settle::NotStarted);
        assert_eq!(settle_span(&c, true), Settle::NotStarted);
        assert!(!c[3].try_claim(A));
        assert_eq!(settle_span::<TestWord>(&[], true), Settle::NotStarted);
        // With help, the mover begins, and other lanes may join.
        let c = chunks();
        assert_eq!(settle_span(&c, true), Settle::Mine(0));
        assert!(c[1].try_claim(A));
        c[0].complete(Lane::MOVER, true);
        assert_eq!(settle_span(&c, true), Settle::Mine(2));
    }

    #[test]
    fn span_mover_helps() {
        let c = chunks();
        assert!(c[0].try_claim(A));
        assert!(c[2].try_claim(A));
        c[2].complete(A, true);
        assert_eq!(settle_span(&c, true), Settle::Mine(1));
        // An answer that was thrown away comes again.
        assert_eq!(settle_span(&c, true), Settle::Mine(1));
        c[1].complete(Lane::MOVER, true);
        assert_eq!(settle_span(&c, true), Settle::Mine(3));
        c[3].complete(Lane::MOVER, true);
        assert_eq!(settle_span(&c, true), Settle::Wait(0));
        c[0].complete(A, true);
        assert_eq!(settle_span(&c, true), Settle::AllCopied);
        assert_eq!(settle_span(&c, false), Settle::AllCopied);
    }

    #[test]
    fn span_without_help_only_waits() {
        let c = chunks();
        assert!(c[1].try_claim(A));
        assert_eq!(settle_span(&c, false), Settle::Wait(1));
        assert!(!c[0].try_claim(A));
        assert!(!c[3].try_claim(A));
        c[1].complete(A, true);
        assert_eq!(settle_span(&c, false), Settle::Partial);
        // Help that comes too late does not complete the folio.
        assert_eq!(settle_span(&c, true), Settle::Partial);
    }

    #[test]
    fn span_with_a_failure_is_partial_and_quiet() {
        let c = chunks();
        assert!(c[0].try_claim(A));
        c[0].complete(A, false);
        assert!(c[1].try_claim(A));
        // To copy more is of no use, but the mover has to wait for the lane.
        assert_eq!(settle_span(&c, true), Settle::Wait(1));
        assert!(!c[2].try_claim(A));
        c[1].complete(A, true);
        assert_eq!(settle_span(&c, true), Settle::Partial);
    }

    #[test]
    fn span_of_every_state_ends_right() {
        // Each of four chunks is in each of five states, with and without help. The answer is never
        // AllCopied unless the bytes are there, and never final while a lane is inside.
        for mix in 0..5u32.pow(4) {
            for help in [false, true] {
                let c = chunks();
                let mut m = mix;
                let mut begun = false;
                let mut broken = false;
                let mut free = 0;
                for chunk in &c {
                    match m % 5 {
                        1 => begun |= chunk.try_claim(A),
                        2 | 3 => {
                            begun |= chunk.try_claim(A);
                            chunk.complete(A, m % 5 == 2);
                            broken |= m % 5 == 3;
                        }
                        4 => broken |= chunk.revoke() == ChunkState::Revoked,
                        _ => free += 1,
                    }
                    m /= 5;
                }
                let (last, mine) = settle(&c, help, true);
                let want = if !begun && (broken || !help) {
                    Settle::NotStarted
                } else if broken || (free > 0 && !help) {
                    Settle::Partial
                } else {
                    Settle::AllCopied
                };
                assert_eq!(last, want);
                assert_eq!(mine, if want == Settle::AllCopied { free } else { 0 });
                assert_eq!(close(&c), None);
            }
        }
    }

    #[test]
    fn span_whose_lane_fails_while_waited_for() {
        let c = chunks();
        assert!(c[3].try_claim(A));
        assert_eq!(settle(&c, true, false), (Settle::Partial, 3));
    }

    #[test]
    fn shared_chunk_by_entry() {
        let c = chunk();
        let e = [TestWord::new(0), TestWord::new(0), TestWord::new(0)];
        assert!(c.try_claim(A));
        assert_eq!(settle_shared(&c, &e[0]), Settle::Wait(0));
        entry_mark(&e[0], EntryState::Copied);
        assert_eq!(settle_shared(&c, &e[0]), Settle::AllCopied);
        entry_mark(&e[1], EntryState::Skipped);
        assert_eq!(settle_shared(&c, &e[1]), Settle::Partial);
        assert_eq!(settle_shared(&c, &e[2]), Settle::Wait(0));
        c.complete(A, false);
        assert_eq!(settle_shared(&c, &e[0]), Settle::AllCopied);
        assert_eq!(settle_shared(&c, &e[2]), Settle::Partial);
    }

    #[test]
    fn shared_chunk_taken_back() {
        let c = chunk();
        let e = TestWord::new(0);
        assert_eq!(settle_shared(&c, &e), Settle::NotStarted);
        assert!(!c.try_claim(A));
        assert_eq!(settle_shared(&c, &e), Settle::NotStarted);
    }

    #[test]
    fn shared_chunk_of_the_mover_is_never_waited_for() {
        let c = chunk();
        let e = TestWord::new(0);
        assert!(c.try_claim(Lane::MOVER));
        assert_eq!(settle_shared(&c, &e), Settle::Mine(0));
    }

    #[test]
    fn close_revokes_all_before_it_waits() {
        let c = chunks();
        assert!(c[1].try_claim(A));
        assert!(c[2].try_claim(B));
        assert_eq!(close(&c), Some(1));
        assert!(!c[0].try_claim(A));
        assert!(!c[3].try_claim(A));
        c[1].complete(A, true);
        assert_eq!(close(&c), Some(2));
        c[2].complete(B, false);
        assert_eq!(close(&c), None);
        assert_eq!(close(&c), None);
    }

    #[test]
    fn entry_values_are_fixed() {
        assert_eq!(EntryState::Pending as u32, 0);
        assert_eq!(EntryState::Copied as u32, 1);
        assert_eq!(EntryState::Skipped as u32, 2);
        for s in [EntryState::Copied, EntryState::Skipped, EntryState::Pending] {
            let w = TestWord::new(99);
            entry_mark(&w, s);
            assert_eq!(entry_state(&w), s);
        }
    }
}
