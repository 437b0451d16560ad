// SPDX-License-Identifier: GPL-2.0

//! How many helpers batches of one kind are worth, by what they have gained so far. So are channels of
//! an engine counted, which begin with all of them.
//!
//! For each number of helpers ([`LEVELS`]) there is a running median of what a byte has cost, and the
//! smallest number is taken that costs little more than the best one. Its neighbours are tried
//! until they are known, and now and then afterwards, as the machine changes. A helper that
//! brings nothing is thereby not called, but for the first one.
//!
//! All is in relaxed atomics that pair with nothing: movers that run at the same time may lose a
//! sample to each other, and any mixture of old and new values is a valid one.

use crate::word::Word;
use core::fmt;

/// Numbers of helpers that are told apart.
pub const LEVELS: [u32; 13] = [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];
/// The last of them.
const MOST: u32 = 64;

/// So many samples say nothing: helpers that have not been called for long wake up slowly.
const WARM_UP: u32 = 2;
/// The least of those up to this one is where a median begins.
const KNOWN: u32 = 10;
/// A batch of so many bytes is one sample, and so many samples at most if it is longer.
const LONG: u64 = 2 << 20;
const LONGEST: u64 = 4;
/// A neighbour is tried again each time after so many batches, for so many batches in a row, of
/// which the first ones say nothing.
const TRY_EVERY: u32 = 256;
const TRY: u32 = 8;
/// What is settled is measured each time after so many batches.
const SAMPLE_EVERY: u32 = 16;
/// A number of helpers costs little more than the best one if it is within one part in so many.
const LITTLE: u32 = 16;
/// A sample moves the median by one part in so many, and by one in so many after so many samples in a
/// row on the same side of it.
const SLOW: u32 = 64;
const FAST: u32 = 8;
const ROW: u32 = 5;

/// The level with at most this number of helpers.
fn level(helpers: u32) -> usize {
    LEVELS.partition_point(|&n| n <= helpers).saturating_sub(1)
}

/// What is known of one number of helpers.
#[derive(Debug)]
struct Seen<W> {
    /// Samples, at most [`KNOWN`].
    samples: W,
    /// The median time of a byte, in nanoseconds times 2^16.
    cost: W,
    /// On which side of it the last samples were (bit 0), and how many in a row.
    run: W,
}

/// What a batch should have.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// So many helpers.
    pub helpers: u32,
    /// How long it takes is worth knowing: it goes to [`Scale::learn()`].
    pub sample: bool,
}

impl Want {
    /// No helpers.
    pub const NOBODY: Want = Want {
        helpers: 0,
        sample: false,
    };
}

/// What is known of batches of one kind.
#[derive(Debug)]
pub struct Scale<W> {
    seen: [Seen<W>; LEVELS.len()],
    batches: W,
}

impl<W: Word> Scale<W> {
    /// Nothing is known. `zero` makes a word that is zero.
    pub fn new(zero: impl Fn() -> W) -> Self {
        Self {
            seen: LEVELS.map(|_| Seen {
                samples: zero(),
                cost: zero(),
                run: zero(),
            }),
            batches: zero(),
        }
    }

    fn known(&self, level: usize) -> Option<u32> {
        let seen = self.seen.get(level)?;
        (seen.samples.load_relaxed() >= KNOWN).then(|| seen.cost.load_relaxed())
    }

    /// The level that is best by what is known, up to `top`: none for nothing known.
    ///
    /// An idle CPU is always worth asking: whether one helper is better than none cannot be told from
    /// few samples, because a helper that has not been called for a while is slow.
    fn best(&self, top: usize) -> Option<usize> {
        let costs = || (1..=top).filter_map(|l| Some((l, self.known(l)?)));
        let least = costs().map(|(_, cost)| cost).min()?;
        let enough = least.saturating_add(least / LITTLE);
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

    /// How many helpers the next batch should have, of at most `most`. As long as nothing is known,
    /// `first`.
    pub fn want(&self, most: u32, first: u32) -> Want {
        let top = level(most);
        let batch = self.batches.load_relaxed().wrapping_add(1);
        self.batches.store_relaxed(batch);
        let mut trial = None;
        let now = match self.best(top) {
            Some(now) => {
                let below = now.checked_sub(1).filter(|&l| l > 0);
                let above = Some(now.saturating_add(1)).filter(|&l| l <= top);
                let unknown = |l: &usize| self.known(*l).is_none();
                let since = batch.checked_rem(TRY_EVERY).unwrap_or(0);
                let turn = batch.checked_div(TRY_EVERY).unwrap_or(0);
                let retry = if turn & 1 == 0 { below } else { above };
                let unknown = below.filter(unknown).or(above.filter(unknown));
                if unknown.is_none() && since < TRY && turn > 0 {
                    trial = retry.map(|_| since);
                }
                unknown.or(trial.and(retry)).unwrap_or(now)
            }
            None => level(first).min(top),
        };
        Want {
            helpers: if now == top {
                most.min(MOST)
            } else {
                LEVELS.get(now).copied().unwrap_or(0)
            },
            // What has been chosen is looked at less often, to be left alone.
            sample: match trial {
                Some(since) => since >= WARM_UP,
                None => self.known(now).is_none() || batch.checked_rem(SAMPLE_EVERY) == Some(0),
            },
        }
    }

    /// A batch of `bytes` has taken `ns` with so many helpers.
    pub fn learn(&self, helpers: u32, bytes: u64, ns: u64) {
        let Some(seen) = self.seen.get(level(helpers)) else {
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
        } else if samples < KNOWN {
            old.min(cost)
        } else {
            // Half of the samples are above the median, and how far does not matter: a mover that was
            // preempted says nothing. Many in a row on one side say that the machine has changed.
            let side = u32::from(cost > old);
            let run = seen.run.load_relaxed();
            let row = if run & 1 == side {
                (run >> 1).min(ROW)
            } else {
                0
            };
            seen.run.store_relaxed(row.saturating_add(1) << 1 | side);
            let part = if row < ROW { SLOW } else { FAST };
            let step = (old / part).saturating_add(1);
            cost.clamp(old.saturating_sub(step), old.saturating_add(step))
        };
        seen.cost.store_relaxed(new);
        if samples < KNOWN {
            // A long batch says more.
            let weight = (bytes / LONG).clamp(1, LONGEST) as u32;
            seen.samples
                .store_relaxed(samples.saturating_add(weight).min(KNOWN));
        }
    }

    /// Numbers of helpers that are known, and nanoseconds for 64 KiB with them.
    fn known_costs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        (LEVELS.iter().enumerate()).filter_map(|(l, &n)| Some((n, self.known(l)?)))
    }

    /// Is anything known?
    pub fn knows(&self) -> bool {
        self.known_costs().next().is_some()
    }
}

/// What is known: ` HELPERS:NS` for each number of them, NS for 64 KiB.
impl<W: Word> fmt::Display for Scale<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.known_costs()
            .try_for_each(|(helpers, ns)| write!(f, " {helpers}:{ns}"))
    }
}

/// Sizes of folios that are told apart: 4K to 2M and beyond, by their order.
const ORDERS: usize = 10;
/// Sizes of batches that are told apart: below 64K, and then by powers of two.
const SIZES: usize = 8;
/// Kinds of batches by sizes.
const SIZED: usize = ORDERS * (SIZES + 1);
/// Kinds of batches that are told apart.
pub const KINDS: usize = SIZED * 2;

/// A kind, for migrations to a node with a higher number, or to one with a lower one: there and
/// back may take very different times.
pub fn kind_to(kind: usize, nodes: (i32, i32)) -> usize {
    if nodes.0 > nodes.1 {
        kind.saturating_add(SIZED)
    } else {
        kind
    }
}

/// The kind of a batch of so many folios that is copied early.
pub fn kind_early(bytes: u64, folios: u32) -> usize {
    let each = bytes.checked_div(folios.into()).unwrap_or(0);
    let size = (bytes >> 16)
        .checked_ilog2()
        .map_or(0, |n| n.saturating_add(1));
    let size = (size as usize).min(SIZES.saturating_sub(1));
    order(each)
        .saturating_mul(SIZES.saturating_add(1))
        .saturating_add(size)
}

/// The kind of a folio that is copied in place.
pub fn kind_now(bytes: u64) -> usize {
    order(bytes)
        .saturating_mul(SIZES.saturating_add(1))
        .saturating_add(SIZES)
}

fn order(bytes: u64) -> usize {
    let order = (bytes >> 12).checked_ilog2().unwrap_or(0) as usize;
    order.min(ORDERS.saturating_sub(1))
}

/// The folio size of a kind, and the least size of its batches or None for copies in place.
pub fn kind_bytes(kind: usize) -> (u64, Option<u64>) {
    let kind = kind.checked_rem(SIZED).unwrap_or(0);
    let per_order = SIZES.saturating_add(1);
    let order = kind.checked_div(per_order).unwrap_or(0) as u32;
    let size = kind.checked_rem(per_order).unwrap_or(0);
    let folio = 4096u64.checked_shl(order).unwrap_or(0);
    let batch = match size {
        0 => Some(0),
        n if n < SIZES => (32u64 << 10).checked_shl(n as u32),
        _ => None,
    };
    (folio, batch)
}

#[cfg_attr(CONFIG_KUNIT = "y", kernel::macros::kunit_tests(ferry_core_scale))]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;
    use crate::word::TestWord;

    fn scale() -> Scale<TestWord> {
        Scale::new(|| TestWord::new(0))
    }

    /// Batches of 2 MiB on a machine where `ns` says how long one takes with so many helpers: how
    /// many helpers the last thousand of `batches` had, as a histogram over levels.
    fn run(
        s: &Scale<TestWord>,
        batches: u32,
        most: u32,
        ns: impl Fn(u32, u32) -> u64,
    ) -> [u32; 13] {
        run_from(s, batches, most, 1, ns)
    }

    fn run_from(
        s: &Scale<TestWord>,
        batches: u32,
        most: u32,
        first: u32,
        ns: impl Fn(u32, u32) -> u64,
    ) -> [u32; 13] {
        let mut last = [0; 13];
        for i in 0..batches {
            let Want { helpers: n, sample } = s.want(most, first);
            assert!(n <= most);
            if sample {
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
        for (at, helpers) in [(1, 1), (2, 1), (4, 3), (5, 4), (9, 8)] {
            let s = scale();
            let last = run(&s, 3000, 64, knee(at));
            assert!(last[level(helpers)] > 900);
        }
    }

    #[test]
    fn the_cap_holds() {
        let s = scale();
        let last = run(&s, 3000, 2, knee(64));
        assert!(last[2] > 900);
        assert_eq!(run(&s, 1000, 0, knee(64))[0], 1000);
    }

    #[test]
    fn all_that_are_worth_it_are_found_from_above_too() {
        for (at, helpers) in [(1, 1), (2, 1), (4, 3), (9, 8), (17, 16), (64, 16)] {
            let s = scale();
            assert_eq!(s.want(16, 16).helpers, 16);
            let last = run_from(&s, 3000, 16, 16, knee(at));
            assert!(last[level(helpers)] > 900);
        }
    }

    #[test]
    fn long_batches_say_more() {
        let s = scale();
        for _ in 0..3 {
            assert!(!s.knows());
            s.learn(8, 64 << 20, 1_000_000);
        }
        assert!(s.knows());
    }

    #[test]
    fn all_are_all() {
        let s = scale();
        assert_eq!(s.want(7, 7).helpers, 7);
        assert_eq!(s.want(200, 200).helpers, 64);
        assert_eq!(s.want(7, 1).helpers, 1);
        assert_eq!(s.want(1, 1).helpers, 1);
        assert_eq!(s.want(0, 1).helpers, 0);
    }

    #[test]
    fn forgets() {
        let s = scale();
        run(&s, 100, 4, knee(4));
        assert!(s.known_costs().count() > 1);
        s.forget();
        assert_eq!(s.known_costs().count(), 0);
        assert_eq!(s.want(8, 8).helpers, 8);
    }

    #[test]
    fn one_is_called_where_more_cost() {
        let s = scale();
        let last = run(&s, 3000, 8, |n, _| 10_000 + u64::from(n) * 2000);
        assert!(last[1] > 900);
    }

    #[test]
    fn noise_does_not_matter_much() {
        let s = scale();
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
        let s = scale();
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
        let s = scale();
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
        let s = scale();
        s.learn(3, 0, 5);
        s.learn(u32::MAX, 1, u64::MAX);
        s.learn(0, u64::MAX, 0);
        assert!(s.want(64, 1).helpers <= 64);
        assert_eq!(s.known_costs().count(), 0);
    }

    #[test]
    fn kinds_are_told_apart() {
        const M: u64 = 1 << 20;
        assert_eq!(kind_bytes(kind_early(2 * M, 512)), (4096, Some(2 * M)));
        assert_eq!(
            kind_bytes(kind_early(128 << 10, 32)),
            (4096, Some(128 << 10))
        );
        assert_eq!(kind_bytes(kind_early(8 * M, 4)), (2 * M, Some(4 * M)));
        assert_eq!(kind_bytes(kind_early(8192, 2)), (4096, Some(0)));
        assert_eq!(kind_bytes(kind_now(2 * M)), (2 * M, None));
        assert_eq!(kind_bytes(kind_now(1 << 30)), (2 * M, None));
        assert_eq!(kind_bytes(kind_now(16 << 10)), (16 << 10, None));
        for kind in [
            kind_early(u64::MAX, 1),
            kind_early(u64::MAX, u32::MAX),
            kind_now(0),
        ] {
            assert!(kind_to(kind, (1, 0)) < KINDS);
            assert_eq!(kind_to(kind, (0, 1)), kind);
            assert_eq!(kind_bytes(kind_to(kind, (1, 0))), kind_bytes(kind));
        }
    }
}
