// SPDX-License-Identifier: GPL-2.0

//! The pauses after which a channel that was quarantined is tried again.
//!
//! A channel that has failed once may be good for years. A channel that is broken hangs each time
//! that it gets work, which costs the mover that waits for it. So a channel rests before each try:
//! twice as long as before the last one, and at least [`TIMES`] as long as the hang took.
//!
//! The last pause is in a relaxed atomic that pairs with nothing: one thread writes it, and others
//! show it.
//!
//! # Examples
//!
//! ```
//! use ferry_core::pauses::Pauses;
//! use std::sync::atomic::AtomicU32;
//!
//! let pauses = Pauses::new(AtomicU32::new(0));
//! // A mover waited 250 ms for the channel; the pauses double from one second on.
//! assert_eq!(pauses.next(250_000_000), 1_000);
//! assert_eq!(pauses.next(250_000_000), 2_000);
//! // A hang of three seconds costs a pause of at least twelve.
//! assert_eq!(pauses.next(3_000_000_000), 12_000);
//! ```

use crate::word::Word;

/// The first pause, in milliseconds. It is long enough for a driver to reset its engine, and short
/// enough that it does not matter that CPUs copy meanwhile.
pub const FIRST_MS: u32 = 1_000;

/// The longest pause, in milliseconds: ten minutes. One try in ten minutes costs next to nothing,
/// and an engine that has been repaired is in use again soon.
pub const LONGEST_MS: u32 = 600_000;

/// The shortest pause, as a multiple of the time that the hang before it cost a mover. A mover
/// therefore waits for one such channel for at most a fifth of its time.
pub const TIMES: u32 = 4;

/// The bytes that a channel has to copy before it counts as good again: more than a broken engine
/// copies by luck.
pub const GOOD_BYTES: u64 = 64 << 20;

/// The time, in milliseconds, for which a channel has to be in use before it counts as good again:
/// as long as the longest pause. With less, a channel that hangs now and then would only ever have
/// the first few pauses.
pub const GOOD_MS: u32 = LONGEST_MS;

/// Nanoseconds of a millisecond.
const MS: u64 = 1_000_000;

/// The pauses of one channel.
#[derive(Debug)]
pub struct Pauses<W> {
    /// The last pause, in milliseconds; 0 if there was none.
    last: W,
}

impl<W: Word> Pauses<W> {
    /// Creates the pauses of a channel that has never failed, from `word`, which has to be zero.
    pub const fn new(word: W) -> Self {
        Self { last: word }
    }

    /// Begins anew if the channel has proven to be good since it came: it was in use for `ns`
    /// nanoseconds and has copied `bytes` bytes.
    pub fn worked(&self, ns: u64, bytes: u64) {
        if ns / MS >= GOOD_MS.into() && bytes >= GOOD_BYTES {
            self.forget();
        }
    }

    /// Returns how long a channel that has failed rests from now on, in milliseconds. The failure
    /// cost the mover that waited for it `lost_ns` nanoseconds.
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

    /// Begins anew, because the channel was repaired or replaced.
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
        // The patience of a mover that has its proof at once is covered by the first pause.
        assert_eq!(p.next(250 * MS), FIRST_MS);
        assert_eq!(p.next(3_000 * MS), 3_000 * TIMES);
        // Twice the last pause is more.
        assert_eq!(p.next(3_001 * MS), 6_000 * TIMES);
        assert_eq!(p.next(10_000 * MS), 12_000 * TIMES);
        assert_eq!(p.next(u64::MAX), LONGEST_MS);
        // A part of a millisecond counts as a whole one.
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
                // This holds from the first pause on.
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
