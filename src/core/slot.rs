// SPDX-License-Identifier: GPL-2.0

//! When a batch that others looked up may be used again.
//!
//! Batches live in a pool, nothing is allocated. A helper finds a batch by its place in the pool,
//! enters its slot, works and leaves. The mover shuts the slot at finish and does not wait for
//! those who are still inside, since they hold no claim: whoever goes out last gives the slot back
//! to the pool. Exactly one call of [`Slot::shut()`] and [`Slot::leave()`] says so for each
//! [`Slot::open()`].
//!
//! A helper that looked up one batch and enters when the slot has been opened for the next one is
//! simply in the next one: it has to read everything about the batch after it entered.

use crate::word::Word;

/// The slot takes part in a batch: it may be entered.
const OPEN: u32 = 1 << 31;
/// How many are inside.
const COUNT: u32 = OPEN - 1;

/// Counts who is inside a batch, and whether more may come.
#[derive(Debug)]
pub struct Slot<W> {
    word: W,
}

impl<W: Word> Slot<W> {
    /// Makes a slot out of `word`, which has to be zero: shut, and nobody inside.
    pub const fn new(word: W) -> Self {
        Self { word }
    }

    /// Publishes what the slot holds: from now on it can be entered.
    ///
    /// Only its owner opens a slot, who got it from the pool, so nobody is inside.
    #[inline]
    pub fn open(&self) {
        debug_assert!(self.word.load_relaxed() == 0);
        self.word.store_release(OPEN);
    }

    /// Enters, if the slot is open. True asks for [`Slot::leave()`] later.
    #[inline]
    #[must_use]
    pub fn enter(&self) -> bool {
        let mut seen = self.word.load_relaxed();
        while seen & OPEN != 0 && seen & COUNT != COUNT {
            // Below COUNT, so adding one does not reach the OPEN bit.
            match self.word.compare_exchange(seen, seen.wrapping_add(1)) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Leaves. True means: shut, and nobody is inside any more, so the caller gives the slot back.
    #[inline]
    #[must_use]
    pub fn leave(&self) -> bool {
        let mut seen = self.word.load_relaxed();
        while seen & COUNT != 0 {
            // Not zero below the OPEN bit, so that stays as it is.
            let left = seen.wrapping_sub(1);
            match self.word.compare_exchange(seen, left) {
                Ok(_) => return left == 0,
                Err(now) => seen = now,
            }
        }
        debug_assert!(false);
        false
    }

    /// Shuts the slot: nobody can enter any more. True means that nobody is inside either, so the
    /// caller gives the slot back; false, that the last one to leave does.
    #[inline]
    #[must_use]
    pub fn shut(&self) -> bool {
        let mut seen = self.word.load_relaxed();
        while seen & OPEN != 0 {
            match self.word.compare_exchange(seen, seen & COUNT) {
                Ok(_) => return seen & COUNT == 0,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// How many are inside, for statistics: outdated as soon as it is read.
    #[inline]
    pub fn inside(&self) -> u32 {
        self.word.load_relaxed() & COUNT
    }
}

#[cfg_attr(CONFIG_KUNIT = "y", kernel::macros::kunit_tests(ferry_core_slot))]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;
    use crate::word::TestWord;

    #[test]
    fn mover_is_last() {
        let s = Slot::new(TestWord::new(0));
        assert!(!s.enter());
        s.open();
        assert!(s.enter());
        assert!(s.enter());
        assert_eq!(s.inside(), 2);
        assert!(!s.leave());
        assert!(!s.leave());
        assert!(s.shut());
        assert!(!s.shut());
        assert!(!s.enter());
    }

    #[test]
    fn helper_is_last() {
        let s = Slot::new(TestWord::new(0));
        for _ in 0..2 {
            s.open();
            assert!(s.enter());
            assert!(s.enter());
            assert!(!s.shut());
            assert!(!s.enter());
            assert!(!s.leave());
            assert!(s.leave());
        }
    }

    #[test]
    fn full_slot_refuses() {
        let s = Slot::new(TestWord::new(OPEN | COUNT));
        assert!(!s.enter());
        assert_eq!(s.inside(), COUNT);
        assert!(!s.leave());
        assert!(s.enter());
    }
}
