// SPDX-License-Identifier: GPL-2.0

//! How many workers batches of one kind are worth, by what they have gained so far. So are channels
//! of an engine counted, which begin with all of them.
//!
//! For each number of workers ([`LEVELS`]) there is a running median of what a byte has cost, and
//! the smallest number is taken that costs little more than the best one. Its neighbours are tried
//! until they are known, and now and then afterwards, as the machine changes. A worker that
//! brings nothing is thereby not called, but for the first one.
//!
//! All is in relaxed atomics that pair with nothing: movers that run at the same time may lose a
//! sample to each other, and any mixture of old and new values is a valid one.

use crate::word::Word;
use core::fmt;

/// Numbers of workers that are told apart.
pub const LEVELS: [u32; 13] = [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];
/// The last of them.
const MAX_WORKERS: u32 = 64;

/// So many samples say nothing: workers that have not been called for long wake up slowly.
const WARM_UP: u32 = 2;
/// The least of those up to this one is where a median begins.
const KNOWN_SAMPLES: u32 = 10;
/// A batch of so many bytes is one sample, and so many samples at most if it is longer.
const SAMPLE_BYTES: u64 = 2 << 20;
const MAX_WEIGHT: u64 = 4;
/// A neighbour is tried again each time after so many batches, for so many batches in a row, of
/// which the first ones say nothing.
const TRY_EVERY: u32 = 256;
const TRY_BATCHES: u32 = 8;
/// What is settled is measured each time after so many batches.
const SAMPLE_EVERY: u32 = 16;
/// A number of workers costs little more than the best one if it is within one part in so many.
const TOLERANCE: u32 = 16;
/// A sample moves the median by one part in so many, and by one in so many after so many samples in
/// a row on the same side of it.
const SLOW_STEP: u32 = 64;
const FAST_STEP: u32 = 8;
const FAST_AFTER: u32 = 5;

/// The level with at most this number of workers.
fn level(workers: u32) -> usize {
    LEVELS.partition_point(|&n| n <= workers).saturating_sub(1)
}

/// What is known of one number of workers.
#[derive(Debug)]
struct LevelCost<W> {
    /// Samples, at most [`KNOWN_SAMPLES`].
    samples: W,
    /// The median time of a byte, in nanoseconds times 2^16.
    cost: W,
    /// On which side of it the last samples were (bit 0), and how many in a row.
    run: W,
}

/// What a batch should have.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct WorkerChoice {
    /// The number of workers.
    pub count: u32,
    /// The duration is to be measured, and goes to [`WorkerTuner::learn()`].
    pub measure: bool,
}

/// What is known of batches of one kind.
#[derive(Debug)]
pub struct WorkerTuner<W> {
    seen: [LevelCost<W>; LEVELS.len()],
    batches: W,
}

impl<W: Word> WorkerTuner<W> {
    /// Nothing is known. `zero` makes a word that is zero.
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

    fn known(&self, level: usize) -> Option<u32> {
        let seen = self.seen.get(level)?;
        (seen.samples.load_relaxed() >= KNOWN_SAMPLES).then(|| seen.cost.load_relaxed())
    }

    /// The level that is best by what is known, up to `top`: none for nothing known.
    ///
    /// An idle CPU is always worth asking: whether one worker is better than none cannot be told
    /// from few samples, because a worker that has not been called for a while is slow.
    fn best(&self, top: usize) -> Option<usize> {
        let costs = || (1..=top).filter_map(|l| Some((l, self.known(l)?)));
        let least = costs().map(|(_, cost)| cost).min()?;
        let enough = least.saturating_add(least / TOLERANCE);
        costs().find(|&(_, cost)| cost <= enough).map(|(l, _)| l)
    }

    /// Starts anew: who helps are others.
    pub fn forget(&self) {
        for seen in &self.seen {
            for word in [&seen.samples, &seen.cost, &seen.run] {
                word.store_relaxed(0);
            }
        }
        self.batches.store_relaxed(0);
    }

    /// Chooses how many workers the next batch has, of at most `most`. As long as nothing is known,
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
            // What has been chosen is looked at less often, to be left alone.
            measure: match trial {
                Some(since) => since >= WARM_UP,
                None => self.known(now).is_none() || batch % SAMPLE_EVERY == 0,
            },
        }
    }

    /// A batch of `bytes` has taken `ns` with so many workers.
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
            // Half of the samples are above the median, and how far does not matter: a mover that
            // was preempted says nothing. Many in a row on one side say that the machine has
            // changed.
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
            // A long batch says more.
            let weight = (bytes / SAMPLE_BYTES).clamp(1, MAX_WEIGHT) as u32;
            seen.samples
                .store_relaxed(samples.saturating_add(weight).min(KNOWN_SAMPLES));
        }
    }

    /// Numbers of workers that are known, and nanoseconds for 64 KiB with them.
    fn known_costs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        (LEVELS.iter().enumerate()).filter_map(|(l, &n)| Some((n, self.known(l)?)))
    }

    /// Is anything known?
    pub fn knows(&self) -> bool {
        self.known_costs().next().is_some()
    }
}

/// What is known: ` WORKERS:NS` for each number of them, NS for 64 KiB.
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

    /// Batches of 2 MiB on a machine where `ns` says how long one takes with so many workers: how
    /// many workers the last thousand of `batches` had, as a histogram over levels.
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

    /// Copying that grows with its hands up to `knee` of them, one being the mover's.
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
        // Who helps is in the way of the others.
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
        // Who was not called for the last batch comes too late for this one and the next.
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
