// SPDX-License-Identifier: GPL-2.0

//! The share of a batch that an engine copies, and how it is spread over the engine's channels.
//!
//! An engine takes chunks from the back of a batch while the mover goes on from the front. The two
//! should meet when both have finished: [`EngineTuner`] learns from each batch how long one of them
//! waited for the other. It also learns the cost of a byte with the engine and without, and leaves
//! the engine out where it gains nothing.
//!
//! The results are in relaxed atomics that pair with nothing, as in [`workers`](crate::workers).

use crate::word::Word;
use core::fmt;

/// Returns the chunks of the `n`-th of `channels` channels, over which the last `taken` of `chunks`
/// chunks are spread. Channel 0 gets the end of the batch.
///
/// The numbers of chunks of two channels differ by one at most. The range is empty for a channel
/// that does not exist.
pub fn nth_range(chunks: u32, taken: u32, channels: u32, n: u32) -> core::ops::Range<u32> {
    let taken = taken.min(chunks);
    let (Some(each), Some(longer)) = (taken.checked_div(channels), taken.checked_rem(channels))
    else {
        return chunks..chunks;
    };
    if n >= channels {
        return chunks..chunks;
    }
    // At most `taken`, which is at most `chunks`.
    let before = each.saturating_mul(n).saturating_add(n.min(longer));
    let len = each.saturating_add(u32::from(n < longer));
    let end = chunks.saturating_sub(before);
    end.saturating_sub(len)..end
}

/// Returns how many channels should copy `bytes` bytes in `chunks` chunks: at least one, and `most`
/// or one for each chunk at most.
pub fn channels_for(bytes: u64, chunks: u32, most: u32) -> u32 {
    let by_bytes = u32::try_from(bytes / MIN_CHANNEL_BYTES).unwrap_or(u32::MAX);
    by_bytes.clamp(1, most.max(1)).min(chunks.max(1))
}

/// The least number of bytes that is worth a channel of its own.
///
/// With less, a channel takes longer to start and to report the end than to copy. At 128 KiB, a
/// folio of 2M on 16 channels of AE4DMA, which interrupts for each descriptor, took three times as
/// long as at 512 KiB; at 512 KiB, 16 channels for large batches reach less than 0.9 of linear
/// scaling.
const MIN_CHANNEL_BYTES: u64 = 256 << 10;

/// A part of the chunks of a batch, in units of 1/1024.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Fraction(u32);

impl Fraction {
    /// The whole batch.
    pub const ALL: Self = Self(WHOLE);
    /// One half of the batch.
    pub const HALF: Self = Self(WHOLE / 2);

    /// Returns the number of chunks that this part is of `chunks`, rounded to the nearest.
    pub fn of(self, chunks: u32) -> u32 {
        let of_all = u64::from(self.0).saturating_mul(u64::from(chunks));
        let nearest = of_all.saturating_add(u64::from(WHOLE) / 2) / u64::from(WHOLE);
        u32::try_from(nearest).unwrap_or(chunks).min(chunks)
    }
}

/// Writes the part as `N/1024`.
impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{WHOLE}", self.0)
    }
}

/// The whole batch, in the unit of [`Fraction`].
const WHOLE: u32 = 1024;
/// The smallest share, in the unit of [`Fraction`]: 1/64, which rounds to one chunk of 32.
const MIN_SHARE: u32 = 16;
/// The share that a class of batches begins with, in the unit of [`Fraction`]: one half, as no
/// speed is known yet.
const FIRST_SHARE: u32 = WHOLE / 2;
/// Batches before the first decision: six with the engine and six without, in turn, so that both
/// costs become known.
const WARM_UP: u32 = 12;
/// The period of exploration, in batches. An engine that gains is left out once per period, to
/// measure the cost without it; an engine that does not gain is tried again, for [`TRY_BATCHES`].
const TRY_EVERY: u32 = 256;
/// Batches of one period for which an engine that does not gain is tried again: as many as it has
/// before the first decision, and about 2% of all batches.
const TRY_BATCHES: u32 = 6;
/// Divisor of the distance between a sample and a cost, by which the sample moves the cost: no
/// single batch decides.
const SMOOTHING: u32 = 8;
/// Cap of a sample, as a multiple of the cost that it moves, for the same reason.
const MAX_RISE: u32 = 4;
/// Divisor of the cost without the engine: the engine has to save this part of it, about 3%, or is
/// left out.
const MIN_GAIN: u32 = 32;

/// The decision how much of a batch the engine copies.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// The engine copies nothing, and the batch is migrated as without Ferry.
    Nothing,
    /// The mover copies all of the batch, so that its cost without the engine becomes known.
    MoverOnly,
    /// The engine copies this part.
    Part(Fraction),
}

/// The measurements of one batch.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// The bytes of the batch.
    pub bytes: u64,
    /// The duration of the batch, in nanoseconds.
    pub ns: u64,
    /// `true` if the engine was asked to copy a part.
    pub asked: bool,
    /// The bytes that the engine copied.
    pub engine_bytes: u64,
    /// The time from the beginning of the batch to the end of the engine's last descriptor.
    pub engine_ns: u64,
    /// The time that the mover waited for the engine.
    pub waited_ns: u64,
}

/// The costs that were learnt for batches of one class.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct EngineCosts {
    /// The part that the engine copies.
    pub part: Fraction,
    /// The cost of a MiB with the engine, in microseconds.
    pub with_us: u32,
    /// The cost of a MiB without the engine, in microseconds; 0 if it is not known.
    pub without_us: u32,
}

/// A learner of the share that an engine should have of the batches of one class.
#[derive(Debug)]
pub struct EngineTuner<W> {
    /// The share, in the unit of [`Fraction`]; 0 for [`FIRST_SHARE`].
    share: W,
    /// The time of a byte with the engine, in nanoseconds times 2^16; 0 if it is not known.
    with: W,
    /// The time of a byte without the engine, in nanoseconds times 2^16; 0 if it is not known.
    without: W,
    /// The number of decisions so far, modulo 2^32.
    batches: W,
}

impl<W: Word> EngineTuner<W> {
    /// Creates a tuner that knows nothing. `zero` makes a word that is zero.
    pub fn new(zero: impl Fn() -> W) -> Self {
        Self {
            share: zero(),
            with: zero(),
            without: zero(),
            batches: zero(),
        }
    }

    fn share(&self) -> u32 {
        match self.share.load_relaxed() {
            0 => FIRST_SHARE,
            share => share.clamp(MIN_SHARE, WHOLE),
        }
    }

    /// Decides how much of the next batch the engine copies, and counts the batch.
    pub fn next(&self) -> EngineChoice {
        let n = self.batches.load_relaxed();
        self.batches.store_relaxed(n.wrapping_add(1));
        let (with, without) = (self.with.load_relaxed(), self.without.load_relaxed());
        let engine = EngineChoice::Part(Fraction(self.share()));
        if n < WARM_UP || with == 0 || without == 0 {
            return if n % 2 == 0 {
                engine
            } else {
                EngineChoice::MoverOnly
            };
        }
        let gains = with <= without.saturating_sub(without / MIN_GAIN);
        match (gains, n % TRY_EVERY) {
            (true, 0) => EngineChoice::MoverOnly,
            (true, _) => engine,
            (false, i) if i < TRY_BATCHES => engine,
            (false, i) if i == TRY_BATCHES => EngineChoice::MoverOnly,
            (false, _) => EngineChoice::Nothing,
        }
    }

    /// Learns from a batch that has ended. Ignores a batch without bytes.
    pub fn learn(&self, sample: &Sample) {
        let Some(cost) = (sample.ns.min(u64::MAX >> 16) << 16).checked_div(sample.bytes) else {
            return;
        };
        let cost = u32::try_from(cost).unwrap_or(u32::MAX).max(1);
        // An engine that was asked and copied nothing has cost time all the same.
        let to = if sample.asked {
            &self.with
        } else {
            &self.without
        };
        // While the share is still being searched, only the last sample counts.
        let first = self.batches.load_relaxed() <= WARM_UP / 2;
        let old = if first { 0 } else { to.load_relaxed() };
        to.store_relaxed(moved(old, cost));
        if sample.engine_bytes != 0 {
            let (share, new) = (self.share(), balanced(self.share(), sample));
            // Goes half of the way, as batches of a class differ.
            let new = if first { new } else { share.midpoint(new) };
            self.share.store_relaxed(new);
        }
    }

    /// Forgets all that was learnt, because the engine has been replaced.
    pub fn forget(&self) {
        for word in [&self.share, &self.with, &self.without, &self.batches] {
            word.store_relaxed(0);
        }
    }

    /// Returns the costs that were learnt; `None` if there are none yet.
    pub fn known(&self) -> Option<EngineCosts> {
        let us = |cost: u32| u32::try_from((u64::from(cost) << 4) / 1000).unwrap_or(u32::MAX);
        let (with, without) = (self.with.load_relaxed(), self.without.load_relaxed());
        (with != 0).then(|| EngineCosts {
            part: Fraction(self.share()),
            with_us: us(with),
            without_us: us(without),
        })
    }
}

/// Returns a cost after one more sample.
fn moved(old: u32, sample: u32) -> u32 {
    if old == 0 {
        return sample;
    }
    let sample = sample.min(old.saturating_mul(MAX_RISE));
    let step = |distance: u32| distance.div_ceil(SMOOTHING);
    if sample > old {
        old.saturating_add(step(sample.saturating_sub(old)))
    } else {
        old.saturating_sub(step(old.saturating_sub(sample))).max(1)
    }
}

/// Returns the share with which the mover and the engine would have finished at the same time, at
/// the speeds that they had in this batch.
fn balanced(share: u32, sample: &Sample) -> u32 {
    // Products of 32 bits fit. Small ones lose little, as bytes come in pages.
    let small = |n: u64, shift: u32| (n >> shift).clamp(1, u64::from(u32::MAX));
    let mover_bytes = sample.bytes.saturating_sub(sample.engine_bytes);
    if mover_bytes == 0 {
        // The mover's speed is not known, so the mover gets a part of the next batch.
        return share.saturating_sub(share / 8).clamp(MIN_SHARE, WHOLE);
    }
    let mover_ns = sample.ns.saturating_sub(sample.waited_ns);
    let engine = small(sample.engine_bytes, 8).saturating_mul(small(mover_ns, 4));
    let mover = small(mover_bytes, 8).saturating_mul(small(sample.engine_ns, 4));
    let both = (engine / 2).saturating_add(mover / 2);
    // `both` is half of the sum, so this is the engine's part of the sum in units of 2^-10, of
    // which [`WHOLE`] has 1024.
    let new = engine.checked_div(both >> 9).unwrap_or(0);
    u32::try_from(new).unwrap_or(WHOLE).clamp(MIN_SHARE, WHOLE)
}

#[cfg_attr(
    CONFIG_KUNIT = "y",
    kernel::macros::kunit_tests(ferry_core_engine_share)
)]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;
    use crate::word::TestWord;

    const K: u64 = 1024;

    fn word() -> TestWord {
        TestWord::new(0)
    }

    /// Runs `n` batches of 2 MiB with a mover that takes `mover` ns for a byte, and an engine that
    /// takes `engine` ns, and `start` ns before its first byte. Returns how many batches of the
    /// last quarter had the engine, and the last share.
    fn run(mover: u64, engine: u64, start: u64, n: u32) -> (u32, u32) {
        let s = EngineTuner::new(word);
        let bytes = 2048 * K;
        let (mut with, mut share) = (0, 0);
        for i in 0..n {
            let taken = match s.next() {
                EngineChoice::Nothing => continue,
                EngineChoice::MoverOnly => 0,
                EngineChoice::Part(part) => {
                    share = part.0;
                    with += u32::from(i >= n - n / 4);
                    bytes / 32 * u64::from(part.of(32))
                }
            };
            let mover_ns = (bytes - taken) * mover;
            let engine_ns = if taken == 0 {
                0
            } else {
                start + taken * engine
            };
            s.learn(&Sample {
                bytes,
                ns: mover_ns.max(engine_ns),
                asked: taken != 0,
                engine_bytes: taken,
                engine_ns,
                waited_ns: engine_ns.saturating_sub(mover_ns),
            });
        }
        (with, share)
    }

    #[test]
    fn equals_share_equally() {
        let (with, share) = run(1, 1, 1000, 400);
        assert!(with >= 98);
        assert!((WHOLE * 7 / 16..=WHOLE * 9 / 16).contains(&share));
    }

    #[test]
    fn a_fast_engine_gets_nearly_all() {
        let (with, share) = run(10, 1, 1000, 400);
        assert!(with >= 98);
        assert!(share > WHOLE * 27 / 32);
    }

    #[test]
    fn a_slow_one_gets_little() {
        let (with, share) = run(1, 7, 1000, 400);
        assert!(with >= 98);
        assert!(share < WHOLE * 5 / 32);
    }

    #[test]
    fn one_that_is_slow_to_start_is_left_out() {
        // The engine takes twice as long to start as the mover takes for the whole batch.
        let (with, _) = run(1, 1, 4 << 20, 1024);
        assert!(with <= TRY_BATCHES + 1);
    }

    #[test]
    fn is_tried_again() {
        let s = EngineTuner::new(word);
        let sample = |engine| Sample {
            bytes: 1 << 20,
            ns: if engine { 3_000_000 } else { 1_000_000 },
            asked: engine,
            engine_bytes: u64::from(engine) << 19,
            engine_ns: 3_000_000,
            waited_ns: 2_000_000,
        };
        let mut tried = 0;
        for _ in 0..2048 {
            match s.next() {
                EngineChoice::Part(_) => {
                    tried += 1;
                    s.learn(&sample(true));
                }
                EngineChoice::MoverOnly => s.learn(&sample(false)),
                EngineChoice::Nothing => {}
            }
        }
        assert!((20..100).contains(&tried));
        s.forget();
        assert_eq!(s.known(), None);
        assert_eq!(s.next(), EngineChoice::Part(Fraction(FIRST_SHARE)));
    }

    #[test]
    fn one_that_copies_nothing_is_left_out() {
        let s = EngineTuner::new(word);
        let mut asked = 0;
        for i in 0..1024 {
            let engine = match s.next() {
                EngineChoice::Nothing => continue,
                EngineChoice::MoverOnly => false,
                EngineChoice::Part(_) => true,
            };
            asked += u32::from(engine && i >= 512);
            s.learn(&Sample {
                bytes: 1 << 20,
                ns: 1_000_000,
                asked: engine,
                ..Sample::default()
            });
        }
        assert!(asked <= 3 * TRY_BATCHES);
    }

    #[test]
    fn shares_are_of_chunks() {
        assert_eq!(Fraction::ALL.of(32), 32);
        assert_eq!(Fraction::HALF.of(33), 17);
        assert_eq!(Fraction(MIN_SHARE).of(8), 0);
        assert_eq!(Fraction(u32::MAX).of(8), 8);
        assert_eq!(Fraction::ALL.of(u32::MAX), u32::MAX);
    }

    #[test]
    fn extreme_samples_do_no_harm() {
        let s = EngineTuner::new(word);
        for sample in [
            Sample::default(),
            Sample {
                bytes: 1,
                ns: u64::MAX,
                asked: true,
                engine_bytes: u64::MAX,
                engine_ns: u64::MAX,
                waited_ns: u64::MAX,
            },
            Sample {
                bytes: u64::MAX,
                ns: 0,
                asked: false,
                engine_bytes: 1,
                engine_ns: 0,
                waited_ns: 0,
            },
        ] {
            s.learn(&sample);
            if let EngineChoice::Part(Fraction(share)) = s.next() {
                assert!((MIN_SHARE..=WHOLE).contains(&share));
            }
        }
    }

    #[test]
    fn channels_share_the_back() {
        for (chunks, taken, channels) in [(32, 16, 4), (32, 32, 5), (7, 3, 3), (1, 1, 1), (9, 4, 6)]
        {
            let mut end = chunks;
            let mut sizes = 0..0;
            for n in 0..channels {
                let r = nth_range(chunks, taken, channels, n);
                assert_eq!(r.end, end);
                end = r.start;
                sizes = sizes.start.max(r.end - r.start)..0;
                assert!(r.end - r.start + 1 >= taken / channels);
                assert!(r.end - r.start <= taken / channels + 1);
            }
            assert_eq!(end, chunks - taken);
        }
        assert_eq!(nth_range(8, 4, 0, 0), 8..8);
        assert_eq!(nth_range(8, 4, 2, 2), 8..8);
        assert_eq!(nth_range(8, 9, 1, 0), 0..8);
    }

    #[test]
    fn channels_follow_bytes() {
        assert_eq!(channels_for(2048 * K, 32, 16), 8);
        assert_eq!(channels_for(1024 * K, 16, 16), 4);
        assert_eq!(channels_for(4 * K, 1, 16), 1);
        assert_eq!(channels_for(2048 * K, 3, 16), 3);
        assert_eq!(channels_for(u64::MAX, 32, 0), 1);
    }
}
