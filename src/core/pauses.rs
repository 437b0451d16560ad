// SPDX-License-Identifier: GPL-2.0

//! When a channel that was quarantined is tried again.
//!
//! A channel that has failed once may be good for years, and one that is broken hangs each time
//! that it is given something, which costs the mover that waits for it. So it rests before each
//! try, for twice as long as the time before, and never for less than [`TIMES`] as long as the hang
//! has cost.
//!
//! What is learnt is in a relaxed atomic that pairs with nothing: one thread writes it, and others
//! show it.

use crate::word::Word;

/// The first pause, in milliseconds. A driver has reset its engine by then, and a page that is
/// copied by the CPU meanwhile is no loss.
pub const FIRST_MS: u32 = 1_000;

/// The longest pause, in milliseconds: ten minutes. The try that follows costs next to nothing
/// then, and an engine that has been mended is soon in use.
pub const LONGEST_MS: u32 = 600_000;

/// A pause is at least so many times what the hang before it has cost a mover, which therefore
/// waits for one such channel for a fifth of its time at most.
pub const TIMES: u32 = 4;

/// What a channel has to copy, in bytes, before it counts as good again: more than an engine copies
/// by luck.
pub const GOOD_BYTES: u64 = 64 << 20;

/// And how long it has to be in use, in milliseconds: as long as the longest pause, or one that
/// hangs now and then would be tried with the first few pauses again and again.
pub const GOOD_MS: u32 = LONGEST_MS;

/// Nanoseconds of a millisecond.
const MS: u64 = 1_000_000;

/// The pauses of one channel.
#[derive(Debug)]
pub struct Pauses<W> {
    /// The last one, in milliseconds; 0 if there was none.
    last: W,
}

impl<W: Word> Pauses<W> {
    /// Makes the pauses of a channel out of `word`, which has to be zero: it has never failed.
    pub const fn new(word: W) -> Self {
        Self { last: word }
    }

    /// Takes into account what the channel has done since it came: for how long it was in use, in
    /// nanoseconds, and how many bytes it has copied. If that is enough, it begins anew.
    pub fn worked(&self, ns: u64, bytes: u64) {
        if ns / MS >= GOOD_MS.into() && bytes >= GOOD_BYTES {
            self.forget();
        }
    }

    /// Returns how long the channel rests from now on, in milliseconds, as it has failed. `lost_ns`
    /// is what that has cost the mover that waited for it, in nanoseconds.
    pub fn next(&self, lost_ns: u64) -> u32 {
        let doubled = self.last.load_relaxed().saturating_mul(2);
        let cost = u32::try_from(lost_ns.div_ceil(MS)).unwrap_or(u32::MAX);
        let ms = doubled
            .max(cost.saturating_mul(TIMES))
            .clamp(FIRST_MS, LONGEST_MS);
        self.last.store_relaxed(ms);
        ms
    }

    /// Returns the last pause, in milliseconds; 0 if there was none.
    pub fn last_ms(&self) -> u32 {
        self.last.load_relaxed()
    }

    /// Begins anew: something was done about the channel.
    pub fn forget(&self) {
        self.last.store_relaxed(0);
    }
}

#[cfg_attr(CONFIG_KUNIT = "y", kernel::macros::kunit_tests(ferry_core_pauses))]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;
    use crate::word::TestWord;

    fn pauses() -> Pauses<TestWord> {
        Pauses::new(TestWord::new(0))
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let p = pauses();
        assert_eq!(p.last_ms(), 0);
        let mut expected = FIRST_MS;
        for _ in 0..10 {
            assert_eq!(p.next(0), expected);
            assert_eq!(p.last_ms(), expected);
            expected *= 2;
        }
        assert!(expected > LONGEST_MS);
        for _ in 0..100 {
            assert_eq!(p.next(0), LONGEST_MS);
        }
    }

    #[test]
    fn what_has_cost_much_rests_for_long() {
        let p = pauses();
        // The patience of a mover with a proof at once is no more than the first pause allows for.
        assert_eq!(p.next(250 * MS), FIRST_MS);
        assert_eq!(p.next(3_000 * MS), 3_000 * TIMES);
        // Twice the last one is more.
        assert_eq!(p.next(3_001 * MS), 6_000 * TIMES);
        assert_eq!(p.next(10_000 * MS), 12_000 * TIMES);
        assert_eq!(p.next(u64::MAX), LONGEST_MS);
        // The part of a millisecond counts.
        let p = pauses();
        assert_eq!(p.next(2_000 * MS + 1), 2_001 * TIMES);
    }

    #[test]
    fn no_mover_waits_for_a_dead_one_for_more_than_its_share() {
        for lost_ms in [1, 250, 300, 1_000, 9_000, 60_000] {
            let p = pauses();
            let (mut lost, mut all) = (0u64, 0u64);
            for _ in 0..40 {
                let pause = u64::from(p.next(lost_ms * MS));
                lost += lost_ms;
                all += lost_ms + pause;
                // From the first one on.
                assert!(lost * u64::from(TIMES + 1) <= all);
            }
            let pause = u64::from(p.next(lost_ms * MS));
            assert_eq!(pause, u64::from(LONGEST_MS));
        }
    }

    #[test]
    fn good_work_is_both_long_and_much() {
        let p = pauses();
        let long = u64::from(GOOD_MS) * MS;
        let used = |p: &Pauses<TestWord>| {
            p.forget();
            (0..3).for_each(|_| {
                p.next(0);
            });
        };
        used(&p);
        p.worked(long - 1, u64::MAX);
        p.worked(u64::MAX, GOOD_BYTES - 1);
        p.worked(0, 0);
        assert_eq!(p.next(0), 8 * FIRST_MS);
        used(&p);
        p.worked(long, GOOD_BYTES);
        assert_eq!(p.last_ms(), 0);
        assert_eq!(p.next(0), FIRST_MS);
    }

    #[test]
    fn extremes_stay_in_range() {
        for last in [0, 1, LONGEST_MS, u32::MAX / 2 + 1, u32::MAX] {
            for lost in [0, 1, MS, u64::MAX / 2, u64::MAX] {
                let p = Pauses::new(TestWord::new(last));
                assert!((FIRST_MS..=LONGEST_MS).contains(&p.next(lost)));
            }
        }
    }
}
