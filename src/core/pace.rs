// SPDX-License-Identifier: GPL-2.0

//! Paces: how long a CPU and a channel of an engine take to copy, and how long a mover waits hence.
//!
//! Relaxed atomics that pair with nothing; a sample that is lost in a race is no loss.

use crate::word::Word;

/// What a pace is given for, in bytes.
const UNIT_BYTES: u64 = 64 << 10;

/// The pace before anything is known, in nanoseconds: 1 GB/s, which any CPU reaches.
const DEFAULT_PACE_NS: u32 = 65_536;

/// The least that is waited, in nanoseconds: as long as interrupts and softirqs may well keep a CPU
/// from a thread that is not preempted, and less than a wake-up of somebody else takes.
pub const MIN_PATIENCE_NS: u64 = 100_000;

/// A sample moves the pace by one part in so many, and is at most so many times it: movers are
/// preempted.
const SMOOTHING: u32 = 8;
const MAX_RISE: u32 = 4;

/// How long copying takes.
#[derive(Debug)]
pub struct CopyPace<W> {
    /// Nanoseconds for [`UNIT_BYTES`] bytes; 0 if not known.
    word: W,
}

impl<W: Word> CopyPace<W> {
    /// Makes a pace out of `word`, which has to be zero: nothing is known.
    pub const fn new(word: W) -> Self {
        Self { word }
    }

    /// Takes into account that a mover has copied so many bytes in `ns`. Ignores less than a page.
    pub fn learn(&self, bytes: u64, ns: u64) {
        if bytes < 4096 {
            return;
        }
        let sample = ns.min(u64::MAX / UNIT_BYTES).saturating_mul(UNIT_BYTES) / bytes;
        let sample = u32::try_from(sample).unwrap_or(u32::MAX).max(1);
        let old = self.word.load_relaxed();
        let new = if old == 0 {
            sample.min(DEFAULT_PACE_NS.saturating_mul(MAX_RISE))
        } else {
            let sample = sample.min(old.saturating_mul(MAX_RISE));
            let part = sample.abs_diff(old).div_ceil(SMOOTHING);
            if sample > old {
                old.saturating_add(part)
            } else {
                old.saturating_sub(part)
            }
        };
        self.word.store_relaxed(new.max(1));
    }

    /// Returns how long a mover that must not block waits for others in a batch of so many bytes:
    /// as long as it would have taken to copy them, or [`MIN_PATIENCE_NS`].
    pub fn patience_ns(&self, bytes: u64) -> u64 {
        let pace = match self.word.load_relaxed() {
            0 => DEFAULT_PACE_NS,
            pace => pace,
        };
        let ns = (bytes / UNIT_BYTES)
            .saturating_add(1)
            .saturating_mul(u64::from(pace));
        ns.max(MIN_PATIENCE_NS)
    }
}

/// How long a channel may keep its mover waiting that was given next to nothing, in nanoseconds.
/// Longer than an interrupt that was lost goes unnoticed (50 ms) and than schedulers of hypervisors
/// and devices let somebody wait, and short for a page that cannot be reached.
pub const IDLE_PATIENCE_NS: u64 = 250_000_000;
/// What a byte of a channel may take at most, and as long as nothing is known, in nanoseconds: 16
/// MB/s. With what is slower nobody copies; and a batch that has taken seconds, as something has
/// held it up, is no measure for the next one.
const SLOWEST_NS: u64 = 64;
/// How much longer than the slowest batch of late a channel may take.
const PATIENCE_FACTOR: u64 = 8;
/// A batch that was faster moves the pace by one part in so many.
const FADE: u32 = 16;

/// How fast a channel is at its slowest, of late, and hence from when on its silence is none of a
/// channel that works.
///
/// The slowest counts and not the usual batch, as what has been slow for good reasons may be so
/// again.
#[derive(Debug)]
pub struct ChannelPace<W> {
    /// Nanoseconds for a KiB; 0 if not known.
    ns: W,
}

impl<W: Word> ChannelPace<W> {
    /// Makes a pace out of `word`, which has to be zero: nothing is known.
    pub const fn new(word: W) -> Self {
        Self { ns: word }
    }

    /// So many bytes have taken `ns` on each of so many channels, which had about the same.
    pub fn learn(&self, bytes: u64, channels: u32, ns: u64) {
        let each = bytes.checked_div(channels.into()).unwrap_or(0);
        let Some(sample) = (ns.min(u64::MAX >> 10) << 10).checked_div(each) else {
            return;
        };
        let sample = u32::try_from(sample).unwrap_or(u32::MAX).max(1);
        let old = self.ns.load_relaxed();
        let faded = old.saturating_sub(old.saturating_sub(sample).div_ceil(FADE));
        self.ns.store_relaxed(faded.max(sample));
    }

    /// How long, in nanoseconds, a channel may take that has so many bytes in flight.
    pub fn patience_ns(&self, bytes: u64) -> u64 {
        let slowest = SLOWEST_NS << 10;
        let each = match self.ns.load_relaxed() {
            0 => slowest,
            ns => u64::from(ns).saturating_mul(PATIENCE_FACTOR).min(slowest),
        };
        IDLE_PATIENCE_NS.saturating_add(bytes.div_ceil(1 << 10).saturating_mul(each))
    }

    /// Starts anew: the channels are others.
    pub fn forget(&self) {
        self.ns.store_relaxed(0);
    }
}

#[cfg_attr(CONFIG_KUNIT = "y", kernel::macros::kunit_tests(ferry_core_pace))]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;
    use crate::word::TestWord;

    const M: u64 = 1 << 20;

    fn pace() -> CopyPace<TestWord> {
        CopyPace::new(TestWord::new(0))
    }

    #[test]
    fn unknown_pace_is_a_slow_one() {
        let p = pace();
        assert_eq!(p.patience_ns(0), MIN_PATIENCE_NS);
        assert_eq!(p.patience_ns(2 * M), 33 * 65_536);
        assert!(p.patience_ns(u64::MAX) > p.patience_ns(M));
    }

    #[test]
    fn pace_follows_what_movers_take() {
        let p = pace();
        // 16 GB/s.
        for _ in 0..64 {
            p.learn(UNIT_BYTES, 4_000);
        }
        assert_eq!(p.patience_ns(2 * M), 33 * 4_000);
        assert_eq!(p.patience_ns(128 << 10), MIN_PATIENCE_NS);
        // Slower by a factor of four in the end, whatever the size of the chunks.
        for _ in 0..64 {
            p.learn(4 * UNIT_BYTES, 64_000);
        }
        let ns = p.patience_ns(2 * M);
        assert!((33 * 15_900..=33 * 16_000).contains(&ns));
    }

    #[test]
    fn one_that_was_preempted_counts_little() {
        let p = pace();
        p.learn(UNIT_BYTES, 8_000);
        p.learn(UNIT_BYTES, 50_000_000);
        assert!(p.patience_ns(2 * M) <= 33 * 11_000);
        // Nor does the first one make it an hour, or a chunk of nothing.
        let p = pace();
        p.learn(UNIT_BYTES, u64::MAX);
        assert!(p.patience_ns(2 * M) <= 33 * 4 * 65_536);
        p.learn(0, 1);
        p.learn(u64::MAX, 1);
        p.learn(UNIT_BYTES, 0);
        assert!(p.patience_ns(u64::MAX) >= MIN_PATIENCE_NS);
    }

    #[test]
    fn patience_follows_the_slowest() {
        let p = ChannelPace::new(TestWord::new(0));
        const MIB: u64 = 1 << 20;
        assert_eq!(p.patience_ns(0), IDLE_PATIENCE_NS);
        assert_eq!(p.patience_ns(MIB), IDLE_PATIENCE_NS + 64 * MIB);
        // 1 GiB/s on each of two channels: 8 ms for a MiB.
        p.learn(2 * MIB, 2, 1_000_000);
        let fast = p.patience_ns(MIB) - IDLE_PATIENCE_NS;
        assert!((7_900_000..8_100_000).contains(&fast));
        // One slow batch is remembered at once, and forgotten slowly.
        p.learn(MIB, 1, 5_000_000);
        let slow = p.patience_ns(MIB) - IDLE_PATIENCE_NS;
        assert!((39_000_000..41_000_000).contains(&slow));
        p.learn(MIB, 1, 1_000_000);
        assert!(p.patience_ns(MIB) - IDLE_PATIENCE_NS > slow / 10 * 9);
        // One that was held up does not count for more than the slowest.
        p.learn(MIB, 1, 2_000_000_000);
        assert_eq!(p.patience_ns(MIB), IDLE_PATIENCE_NS + 64 * MIB);
        for _ in 0..200 {
            p.learn(MIB, 1, 1_000_000);
        }
        assert!(p.patience_ns(MIB) - IDLE_PATIENCE_NS < 10_000_000);
        p.forget();
        assert_eq!(p.patience_ns(MIB), IDLE_PATIENCE_NS + 64 * MIB);
    }

    #[test]
    fn patience_of_extremes() {
        let p = ChannelPace::new(TestWord::new(0));
        p.learn(0, 1, 1);
        p.learn(1, 2, 1);
        p.learn(1, 0, 1);
        assert_eq!(p.patience_ns(0), IDLE_PATIENCE_NS);
        p.learn(1, 1, u64::MAX);
        assert!(p.patience_ns(u64::MAX) > IDLE_PATIENCE_NS);
        p.forget();
        p.learn(u64::MAX, 1, 0);
        assert!(p.patience_ns(0) >= IDLE_PATIENCE_NS);
        assert_eq!(
            p.patience_ns(u64::MAX).max(IDLE_PATIENCE_NS),
            p.patience_ns(u64::MAX)
        );
    }
}
