// SPDX-License-Identifier: GPL-2.0

//! The number of workers of a batch, learnt from what batches of its class have gained. The number
//! of channels of an engine is learnt in the same way, beginning with all of them.
//!
//! For each number of workers ([`LEVELS`]) there is a running median of the cost of a byte. The
//! smallest number is used whose cost is little more than the lowest one. Its neighbours are tried
//! until they are known, and now and then afterwards, because the machine changes. Thereby a worker
//! that gains nothing is not woken, except for the first one.
//!
//! All state is in relaxed atomics that pair with nothing: movers that run at the same time may
//! lose a sample to each other, and any mixture of old and new values is valid.

use crate::word::Word;
use core::fmt;

/// The numbers of workers that are told apart: each up to 4, then two for each power of two, as one
/// worker more changes the cost less and less.
pub const LEVELS: [u32; 13] = [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];
/// The last of [`LEVELS`], which is the largest value of `cpu_workers`.
const MAX_WORKERS: u32 = 64;

/// Samples that are discarded at the start of a trial: workers that have not been woken for long
/// wake up slowly.
const WARM_UP: u32 = 2;
/// Samples after which the cost of a level counts as known. The least of them begins the median.
const KNOWN_SAMPLES: u32 = 10;
/// The bytes of a batch that counts as one sample: those of a batch of the stock size.
const SAMPLE_BYTES: u64 = 2 << 20;
/// The most samples for which a longer batch counts: one batch must not make a level known.
const MAX_WEIGHT: u64 = 4;
/// The period, in batches, after which a neighbour of the best level is tried again: with
/// [`TRY_BATCHES`], about 3% of all batches run on trial.
const TRY_EVERY: u32 = 256;
/// Batches in a row for which a neighbour is tried; the first [`WARM_UP`] are discarded.
const TRY_BATCHES: u32 = 8;
/// The period, in batches, in which a level is measured that is known and not on trial: long enough
/// to disturb few batches by measuring, and short enough to notice that the machine has changed.
const SAMPLE_EVERY: u32 = 16;
/// Divisor of the lowest cost: a cost that is higher by at most this part, about 6%, is as good.
const TOLERANCE: u32 = 16;
/// Divisor of the median, which bounds how far one sample moves it: by about 1.6%, a quarter of
/// what [`TOLERANCE`] allows.
const SLOW_STEP: u32 = 64;
/// Divisor of the median for samples after [`FAST_AFTER`] in a row on one side of it: they mean
/// that the machine has changed, so each moves the median by an eighth.
const FAST_STEP: u32 = 8;
/// Samples in a row on one side of the median after which it moves by [`FAST_STEP`]: by chance, the
/// first five are on one side in 1 of 16 cases.
const FAST_AFTER: u32 = 5;

/// Returns the highest level with at most this number of workers.
fn level(workers: u32) -> usize {
    LEVELS.partition_point(|&n| n <= workers).saturating_sub(1)
}

/// The measured cost of one number of workers.
#[derive(Debug)]
struct LevelCost<W> {
    /// The number of samples, at most [`KNOWN_SAMPLES`].
    samples: W,
    /// The median time of a byte, in nanoseconds times 2^16.
    cost: W,
    /// The side of the median on which the last samples were (bit 0), and the number of these
    /// samples (the other bits).
    run: W,
}

/// The decision how many workers a batch has.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct WorkerChoice {
    /// The number of workers.
    pub count: u32,
    /// `true` if the duration is to be measured and passed to [`WorkerTuner::learn()`].
    pub measure: bool,
}

/// A learner of the best number of workers for the batches of one class.
#[derive(Debug)]
pub struct WorkerTuner<W> {
    seen: [LevelCost<W>; LEVELS.len()],
    batches: W,
}

impl<W: Word> WorkerTuner<W> {
    /// Creates a tuner that knows nothing. `zero` makes a word that is zero.
    pub fn new(zero: impl Fn() -> W) -> Self {
        Self {
            seen: LEVELS.map(|_| LevelCost {
                samples: zero(),
                cost: zero(),
                run: zero(),
            }),
            batches: zero(),
        }
    }

    /// Returns the cost of a level; `None` if it is not known yet.
    fn known(&self, level: usize) -> Option<u32> {
        let seen = self.seen.get(level)?;
        (seen.samples.load_relaxed() >= KNOWN_SAMPLES).then(|| seen.cost.load_relaxed())
    }

    /// Returns the best known level from 1 to `top`; `None` if none is known.
    ///
    /// Level 0 is never the best one: few samples cannot tell whether one worker is better than
    /// none, because a worker that has not been woken for a while is slow.
    fn best(&self, top: usize) -> Option<usize> {
        let costs = || (1..=top).filter_map(|l| Some((l, self.known(l)?)));
        let least = costs().map(|(_, cost)| cost).min()?;
        let enough = least.saturating_add(least / TOLERANCE);
        costs().find(|&(_, cost)| cost <= enough).map(|(l, _)| l)
    }

    /// Forgets all that was learnt, because the workers have been replaced.
    pub fn forget(&self) {
        for seen in &self.seen {
            for word in [&seen.samples, &seen.cost, &seen.run] {
                word.store_relaxed(0);
            }
        }
        self.batches.store_relaxed(0);
    }

    /// Chooses how many workers the next batch has, at most `most`. While no cost is known, that is
    /// `first`.
    pub fn choose(&self, most: u32, first: u32) -> WorkerChoice {
        let top = level(most);
        let batch = self.batches.load_relaxed().wrapping_add(1);
        self.batches.store_relaxed(batch);
        let mut trial = None;
        let now = match self.best(top) {
            Some(now) => {
                let below = now.checked_sub(1).filter(|&l| l > 0);
                let above = Some(now.saturating_add(1)).filter(|&l| l <= top);
                let unknown = |l: &usize| self.known(*l).is_none();
                let (turn, since) = (batch / TRY_EVERY, batch % TRY_EVERY);
                let retry = if turn & 1 == 0 { below } else { above };
                let unknown = below.filter(unknown).or(above.filter(unknown));
                if unknown.is_none() && since < TRY_BATCHES && turn > 0 {
                    trial = retry.map(|_| since);
                }
                unknown.or(trial.and(retry)).unwrap_or(now)
            }
            None => level(first).min(top),
        };
        WorkerChoice {
            count: if now == top {
                most.min(MAX_WORKERS)
            } else {
                LEVELS.get(now).copied().unwrap_or(0)
            },
            // A known level is measured less often, to disturb its batches less.
            measure: match trial {
                Some(since) => since >= WARM_UP,
                None => self.known(now).is_none() || batch % SAMPLE_EVERY == 0,
            },
        }
    }

    /// Learns that a batch of `bytes` bytes took `ns` nanoseconds with `workers` workers.
    pub fn learn(&self, workers: u32, bytes: u64, ns: u64) {
        let Some(seen) = self.seen.get(level(workers)) else {
            return;
        };
        let Some(cost) = ns.saturating_mul(1 << 16).checked_div(bytes) else {
            return;
        };
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        let samples = seen.samples.load_relaxed();
        let old = seen.cost.load_relaxed();
        let new = if samples <= WARM_UP {
            cost
        } else if samples < KNOWN_SAMPLES {
            old.min(cost)
        } else {
            // Half of the samples are above the median, and it does not matter how far, so a mover
            // that was preempted has no weight. Many samples in a row on one side mean that the
            // machine has changed.
            let side = u32::from(cost > old);
            let run = seen.run.load_relaxed();
            let row = if run & 1 == side {
                (run >> 1).min(FAST_AFTER)
            } else {
                0
            };
            seen.run.store_relaxed(row.saturating_add(1) << 1 | side);
            let part = if row < FAST_AFTER {
                SLOW_STEP
            } else {
                FAST_STEP
            };
            let step = (old / part).saturating_add(1);
            cost.clamp(old.saturating_sub(step), old.saturating_add(step))
        };
        seen.cost.store_relaxed(new);
        if samples < KNOWN_SAMPLES {
            // A long batch weighs more.
            let weight = (bytes / SAMPLE_BYTES).clamp(1, MAX_WEIGHT) as u32;
            seen.samples
                .store_relaxed(samples.saturating_add(weight).min(KNOWN_SAMPLES));
        }
    }

    /// Returns the numbers of workers whose cost is known, and the nanoseconds for 64 KiB with
    /// each.
    fn known_costs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        (LEVELS.iter().enumerate()).filter_map(|(l, &n)| Some((n, self.known(l)?)))
    }

    /// Returns `true` if the cost of any level is known.
    pub fn knows(&self) -> bool {
        self.known_costs().next().is_some()
    }
}

/// Writes ` WORKERS:NS` for each known number of workers, with the nanoseconds for 64 KiB.
impl<W: Word> fmt::Display for WorkerTuner<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.known_costs()
            .try_for_each(|(workers, ns)| write!(f, " {workers}:{ns}"))
    }
}

#[cfg_attr(CONFIG_KUNIT = "y", kernel::macros::kunit_tests(ferry_core_workers))]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;
    use crate::word::TestWord;

    fn tuner() -> WorkerTuner<TestWord> {
        WorkerTuner::new(|| TestWord::new(0))
    }

    /// Runs `batches` batches of 2 MiB on a machine where `ns` returns the duration of a batch,
    /// given the number of workers and the number of the batch. Returns how many of the last
    /// thousand batches had each level.
    fn run(
        s: &WorkerTuner<TestWord>,
        batches: u32,
        most: u32,
        ns: impl Fn(u32, u32) -> u64,
    ) -> [u32; 13] {
        run_from(s, batches, most, 1, ns)
    }

    fn run_from(
        s: &WorkerTuner<TestWord>,
        batches: u32,
        most: u32,
        first: u32,
        ns: impl Fn(u32, u32) -> u64,
    ) -> [u32; 13] {
        let mut last = [0; 13];
        for i in 0..batches {
            let WorkerChoice { count: n, measure } = s.choose(most, first);
            assert!(n <= most);
            if measure {
                s.learn(n, 2 << 20, ns(n, i));
            }
            if batches - i <= 1000 {
                last[level(n)] += 1;
            }
        }
        last
    }

    /// Returns the durations on a machine whose speed grows with the lanes, up to `knee` of them.
    /// One lane is the mover.
    fn knee(knee: u32) -> impl Fn(u32, u32) -> u64 {
        move |n, _| 300_000u64.div_ceil(u64::from((n + 1).min(knee)).max(1))
    }

    #[test]
    fn levels_are_found() {
        assert_eq!(level(0), 0);
        assert_eq!(level(5), 4);
        assert_eq!(level(6), 5);
        assert_eq!(level(u32::MAX), 12);
    }

    #[test]
    fn stops_where_bandwidth_ends() {
        for (at, workers) in [(1, 1), (2, 1), (4, 3), (5, 4), (9, 8)] {
            let s = tuner();
            let last = run(&s, 3000, 64, knee(at));
            assert!(last[level(workers)] > 900);
        }
    }

    #[test]
    fn the_cap_holds() {
        let s = tuner();
        let last = run(&s, 3000, 2, knee(64));
        assert!(last[2] > 900);
        assert_eq!(run(&s, 1000, 0, knee(64))[0], 1000);
    }

    #[test]
    fn all_that_are_worth_it_are_found_from_above_too() {
        for (at, workers) in [(1, 1), (2, 1), (4, 3), (9, 8), (17, 16), (64, 16)] {
            let s = tuner();
            assert_eq!(s.choose(16, 16).count, 16);
            let last = run_from(&s, 3000, 16, 16, knee(at));
            assert!(last[level(workers)] > 900);
        }
    }

    #[test]
    fn long_batches_say_more() {
        let s = tuner();
        for _ in 0..3 {
            assert!(!s.knows());
            s.learn(8, 64 << 20, 1_000_000);
        }
        assert!(s.knows());
    }

    #[test]
    fn all_are_all() {
        let s = tuner();
        assert_eq!(s.choose(7, 7).count, 7);
        assert_eq!(s.choose(200, 200).count, 64);
        assert_eq!(s.choose(7, 1).count, 1);
        assert_eq!(s.choose(1, 1).count, 1);
        assert_eq!(s.choose(0, 1).count, 0);
    }

    #[test]
    fn forgets() {
        let s = tuner();
        run(&s, 100, 4, knee(4));
        assert!(s.known_costs().count() > 1);
        s.forget();
        assert_eq!(s.known_costs().count(), 0);
        assert_eq!(s.choose(8, 8).count, 8);
    }

    #[test]
    fn one_is_called_where_more_cost() {
        let s = tuner();
        let last = run(&s, 3000, 8, |n, _| 10_000 + u64::from(n) * 2000);
        assert!(last[1] > 900);
    }

    #[test]
    fn noise_does_not_matter_much() {
        let s = tuner();
        // Every seventh batch is preempted, and the others vary by a tenth.
        let noisy = |n: u32, i: u32| {
            let ns = knee(4)(n, i) * u64::from(100 + i % 11) / 105;
            if i % 7 == 3 {
                ns * 20
            } else {
                ns
            }
        };
        let last = run(&s, 5000, 16, noisy);
        assert!(last[3] + last[4] > 700);
    }

    #[test]
    fn follows_the_machine() {
        let s = tuner();
        // Each worker slows the others down.
        let alone = |n: u32, _: u32| 100_000 + 20_000 * u64::from(n);
        run(&s, 3000, 16, alone);
        let last = run(&s, 20_000, 16, knee(4));
        assert!(last[3] > 900);
        let last = run(&s, 20_000, 16, alone);
        assert!(last[1] > 900);
    }

    #[test]
    fn helpers_that_wake_up_slowly_are_worth_it() {
        let s = tuner();
        // A worker that was not woken for the last batch comes too late for this one and the next.
        let hot = core::cell::Cell::new(0u32);
        let slow = |n: u32, _: u32| {
            hot.set(if n == 0 {
                0
            } else {
                hot.get().saturating_add(1)
            });
            let helped = if hot.get() > 2 { n } else { 0 };
            knee(2)(helped, 0)
        };
        let last = run(&s, 3000, 1, slow);
        assert!(last[1] > 900);
    }

    #[test]
    fn nonsense_does_no_harm() {
        let s = tuner();
        s.learn(3, 0, 5);
        s.learn(u32::MAX, 1, u64::MAX);
        s.learn(0, u64::MAX, 0);
        assert!(s.choose(64, 1).count <= 64);
        assert_eq!(s.known_costs().count(), 0);
    }
}
