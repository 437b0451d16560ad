// SPDX-License-Identifier: GPL-2.0

//! Paces: the time that a CPU or a channel of an engine takes to copy, from which follows how long
//! a mover waits for it.
//!
//! The paces are relaxed atomics that pair with nothing; a sample may get lost in a race, which
//! does no harm.

use crate::word::Word;

/// The unit of a pace, in bytes: a pace is the time for 64 KiB, the default size of a chunk.
const UNIT_BYTES: u64 = 64 << 10;

/// The pace before anything is known, in nanoseconds: 1 GB/s, which any CPU reaches.
const DEFAULT_PACE_NS: u32 = 65_536;

/// The shortest wait, in nanoseconds: as long as interrupts and softirqs may well keep a CPU from a
/// thread that is not preempted, and shorter than the wake-up of another thread.
pub const MIN_PATIENCE_NS: u64 = 100_000;

/// Divisor of the distance between a sample and the pace, by which the sample moves the pace: a
/// mover may have been preempted, so no single sample decides.
const SMOOTHING: u32 = 8;
/// Cap of a sample, as a multiple of the pace, for the same reason.
const MAX_RISE: u32 = 4;

/// The time that CPUs take to copy.
#[derive(Debug)]
pub struct CopyPace<W> {
    /// Nanoseconds for [`UNIT_BYTES`] bytes; 0 if they are not known.
    word: W,
}

impl<W: Word> CopyPace<W> {
    /// Creates a pace of which nothing is known, from `word`, which has to be zero.
    pub const fn new(word: W) -> Self {
        Self { word }
    }

    /// Learns that a mover copied `bytes` bytes in `ns` nanoseconds. Ignores less than a page.
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

    /// Returns how long a mover that must not block waits for other lanes in a batch of `bytes`
    /// bytes, in nanoseconds: as long as it would have taken to copy them itself, or
    /// [`MIN_PATIENCE_NS`] if that is longer.
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

/// The time, in nanoseconds, for which a channel with next to no work may keep its mover waiting.
/// It is longer than the time until a lost interrupt is noticed (50 ms), and than the schedulers of
/// hypervisors and devices let a task wait, and short for a page that cannot be reached.
pub const IDLE_PATIENCE_NS: u64 = 250_000_000;
/// The longest time for a byte on a channel, in nanoseconds, which is also assumed while no pace is
/// known: 16 MB/s. No slower engine is worth using, and a batch that took seconds because something
/// delayed it is no measure for the next one.
const SLOWEST_NS: u64 = 64;
/// The time that a channel may take, as a multiple of the slowest of the last batches.
const PATIENCE_FACTOR: u64 = 8;
/// Divisor of the distance between a faster batch and the pace, by which the batch moves the pace:
/// the effect of a slow batch halves with every 11 batches.
const FADE: u32 = 16;

/// The time that a channel takes for the slowest of its last batches. A channel that is silent for
/// much longer does not work.
///
/// The slowest batch counts, not the usual one, because a channel that was slow for a good reason
/// may be so again.
#[derive(Debug)]
pub struct ChannelPace<W> {
    /// Nanoseconds for a KiB; 0 if they are not known.
    ns: W,
}

impl<W: Word> ChannelPace<W> {
    /// Creates a pace of which nothing is known, from `word`, which has to be zero.
    pub const fn new(word: W) -> Self {
        Self { ns: word }
    }

    /// Learns that `bytes` bytes took `ns` nanoseconds on `channels` channels, each of which copied
    /// about the same number.
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

    /// Returns how long a channel with `bytes` bytes in flight may take, in nanoseconds.
    pub fn patience_ns(&self, bytes: u64) -> u64 {
        let slowest = SLOWEST_NS << 10;
        let each = match self.ns.load_relaxed() {
            0 => slowest,
            ns => u64::from(ns).saturating_mul(PATIENCE_FACTOR).min(slowest),
        };
        IDLE_PATIENCE_NS.saturating_add(bytes.div_ceil(1 << 10).saturating_mul(each))
    }

    /// Forgets the pace, because the channels have been replaced.
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
        // The pace ends up slower by a factor of four, whatever the size of the chunks.
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
        // Neither a first sample of an hour nor an empty chunk makes the wait endless.
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
        // A slow batch counts at once, and is forgotten slowly.
        p.learn(MIB, 1, 5_000_000);
        let slow = p.patience_ns(MIB) - IDLE_PATIENCE_NS;
        assert!((39_000_000..41_000_000).contains(&slow));
        p.learn(MIB, 1, 1_000_000);
        assert!(p.patience_ns(MIB) - IDLE_PATIENCE_NS > slow / 10 * 9);
        // A batch that was delayed does not count for more than the slowest pace.
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
