// SPDX-License-Identifier: GPL-2.0

//! How long a CPU takes to copy, as movers have found it: what those may wait who must not block.
//!
//! One relaxed atomic that pairs with nothing; a sample that is lost in a race is no loss.

use crate::word::Word;

/// What a pace is given for, in bytes.
const UNIT: u64 = 64 << 10;

/// The pace before anything is known, in nanoseconds: 1 GB/s, which any CPU reaches.
const UNKNOWN_NS: u32 = 65_536;

/// The least that is waited, in nanoseconds: as long as interrupts and softirqs may well keep a CPU from
/// a thread that is not preempted, and less than a wake-up of somebody else takes.
pub const LEAST_NS: u64 = 100_000;

/// A sample moves the pace by one part in so many, and is at most so many times it: movers are
/// preempted.
const SLOW: u32 = 8;
const CLAMP: u32 = 4;

/// How long copying takes.
#[derive(Debug)]
pub struct Pace<W> {
    /// Nanoseconds for [`UNIT`] bytes; 0 if not known.
    word: W,
}

impl<W: Word> Pace<W> {
    /// Makes a pace out of `word`, which has to be zero: nothing is known.
    pub const fn new(word: W) -> Self {
        Self { word }
    }

    /// Takes into account that a mover has copied so many bytes in `ns`. Ignores less than a page.
    pub fn learn(&self, bytes: u64, ns: u64) {
        if bytes < 4096 {
            return;
        }
        let sample = ns.min(u64::MAX / UNIT).saturating_mul(UNIT) / bytes;
        let sample = u32::try_from(sample).unwrap_or(u32::MAX).max(1);
        let old = self.word.load_relaxed();
        let new = if old == 0 {
            sample.min(UNKNOWN_NS.saturating_mul(CLAMP))
        } else {
            let sample = sample.min(old.saturating_mul(CLAMP));
            let part = sample.abs_diff(old).div_ceil(SLOW);
            if sample > old {
                old.saturating_add(part)
            } else {
                old.saturating_sub(part)
            }
        };
        self.word.store_relaxed(new.max(1));
    }

    /// Returns how long a mover that must not block waits for others in a batch of so many bytes: as long
    /// as it would have taken to copy them, or [`LEAST_NS`].
    pub fn patience_ns(&self, bytes: u64) -> u64 {
        let pace = match self.word.load_relaxed() {
            0 => UNKNOWN_NS,
            pace => pace,
        };
        let ns = (bytes / UNIT)
            .saturating_add(1)
            .saturating_mul(u64::from(pace));
        ns.max(LEAST_NS)
    }
}

#[cfg_attr(CONFIG_KUNIT = "y", kernel::macros::kunit_tests(ferry_core_pace))]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;
    use crate::word::TestWord;

    const M: u64 = 1 << 20;

    fn pace() -> Pace<TestWord> {
        Pace::new(TestWord::new(0))
    }

    #[test]
    fn unknown_pace_is_a_slow_one() {
        let p = pace();
        assert_eq!(p.patience_ns(0), LEAST_NS);
        assert_eq!(p.patience_ns(2 * M), 33 * 65_536);
        assert!(p.patience_ns(u64::MAX) > p.patience_ns(M));
    }

    #[test]
    fn pace_follows_what_movers_take() {
        let p = pace();
        // 16 GB/s.
        for _ in 0..64 {
            p.learn(UNIT, 4_000);
        }
        assert_eq!(p.patience_ns(2 * M), 33 * 4_000);
        assert_eq!(p.patience_ns(128 << 10), LEAST_NS);
        // Slower by a factor of four in the end, whatever the size of the pieces.
        for _ in 0..64 {
            p.learn(4 * UNIT, 64_000);
        }
        let ns = p.patience_ns(2 * M);
        assert!((33 * 15_900..=33 * 16_000).contains(&ns));
    }

    #[test]
    fn one_that_was_preempted_counts_little() {
        let p = pace();
        p.learn(UNIT, 8_000);
        p.learn(UNIT, 50_000_000);
        assert!(p.patience_ns(2 * M) <= 33 * 11_000);
        // Nor does the first one make it an hour, or a piece of nothing.
        let p = pace();
        p.learn(UNIT, u64::MAX);
        assert!(p.patience_ns(2 * M) <= 33 * 4 * 65_536);
        p.learn(0, 1);
        p.learn(u64::MAX, 1);
        p.learn(UNIT, 0);
        assert!(p.patience_ns(u64::MAX) >= LEAST_NS);
    }
}
