// SPDX-License-Identifier: GPL-2.0

//! Engines: which bytes make one descriptor, which chunks go to which channel, and how much of a batch
//! an engine should have.
//!
//! An engine takes chunks from the back of a batch while the mover goes on from the front. The two
//! should meet when both are through: [`Share`] learns from each batch who had to wait for whom. It
//! also learns what a byte costs with the engine and without, and steps aside where the engine brings
//! nothing.
//!
//! What is learnt is in relaxed atomics that pair with nothing, as in [`scale`](crate::scale).

use crate::word::Word;

/// A part of a folio, or all of it, that has to be copied, by its physical addresses.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The chunk that it belongs to.
    pub chunk: u32,
    /// The entry that it belongs to.
    pub entry: u32,
    /// Where its bytes are.
    pub src: u64,
    /// Where they go.
    pub dst: u64,
    /// How many there are.
    pub len: u64,
}

/// Parts that adjoin in source and destination: what one descriptor copies.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where its bytes are.
    pub src: u64,
    /// Where they go.
    pub dst: u64,
    /// How many there are.
    pub len: u64,
    /// The first and the last chunk that it has a part of.
    pub chunks: (u32, u32),
    /// The first and the last entry that it has a part of.
    pub entries: (u32, u32),
}

impl From<Part> for Run {
    fn from(p: Part) -> Self {
        Self {
            src: p.src,
            dst: p.dst,
            len: p.len,
            chunks: (p.chunk, p.chunk),
            entries: (p.entry, p.entry),
        }
    }
}

/// Joins parts, given in order, to runs.
#[derive(Debug)]
pub struct Merger {
    run: Option<Run>,
    max: u64,
}

impl Merger {
    /// Runs are not longer than `max`, unless a single part is.
    pub const fn new(max: u64) -> Self {
        Self { run: None, max }
    }

    /// Takes a part. Returns the run before it, if the part does not adjoin.
    pub fn push(&mut self, part: Part) -> Option<Run> {
        if let Some(run) = &mut self.run {
            let joined = run.len.checked_add(part.len).filter(|&l| l <= self.max);
            if let (Some(len), true) = (
                joined,
                run.src.checked_add(run.len) == Some(part.src)
                    && run.dst.checked_add(run.len) == Some(part.dst),
            ) {
                run.len = len;
                run.chunks.1 = part.chunk;
                run.entries.1 = part.entry;
                return None;
            }
        }
        self.run.replace(part.into())
    }

    /// All parts of a chunk have been taken. If that is not the `whole` chunk, returns the run that is
    /// open.
    ///
    /// What lies between the first and the last part of a run counts as copied with it, so no run
    /// spans what has not been taken.
    pub fn end_chunk(&mut self, whole: bool) -> Option<Run> {
        if whole {
            None
        } else {
            self.run.take()
        }
    }

    /// The last run.
    pub fn finish(&mut self) -> Option<Run> {
        self.run.take()
    }
}

/// How the last `taken` of `pieces` chunks are spread over channels: the range of the `n`-th of
/// `channels`, the first of which gets the end of the batch.
///
/// All but one of them get the same number, up to one.
pub fn nth_range(pieces: u32, taken: u32, channels: u32, n: u32) -> core::ops::Range<u32> {
    let taken = taken.min(pieces);
    let (Some(each), Some(longer)) = (taken.checked_div(channels), taken.checked_rem(channels))
    else {
        return pieces..pieces;
    };
    if n >= channels {
        return pieces..pieces;
    }
    // At most `taken`, which is at most `pieces`.
    let before = each.saturating_mul(n).saturating_add(n.min(longer));
    let len = each.saturating_add(u32::from(n < longer));
    let end = pieces.saturating_sub(before);
    end.saturating_sub(len)..end
}

/// How many channels so many bytes are worth, of so many chunks.
pub fn channels_for(bytes: u64, pieces: u32, most: u32) -> u32 {
    let by_bytes = u32::try_from(bytes / MIN_CHANNEL_BYTES).unwrap_or(u32::MAX);
    by_bytes.clamp(1, most.max(1)).min(pieces.max(1))
}

/// A channel that gets less is slower to start, and to tell of the end, than it copies: at 128 KiB a
/// folio of 2M on 16 channels of AE4DMA, which interrupts for each descriptor, took three times as
/// long as at 512, where 16 channels of large batches are less than 0.9 of linear.
const MIN_CHANNEL_BYTES: u64 = 256 << 10;

/// How long a channel may keep its mover waiting that was given next to nothing, in nanoseconds.
/// Longer than an interrupt that was lost goes unnoticed (50 ms) and than schedulers of hypervisors
/// and devices let somebody wait, and short for a page that cannot be reached.
pub const PATIENCE_NS: u64 = 250_000_000;
/// What a byte of a channel may take at most, and as long as nothing is known, in nanoseconds: 16
/// MB/s. With what is slower nobody copies; and a batch that has taken seconds, as something has
/// held it up, is no measure for the next one.
const SLOWEST_NS: u64 = 64;
/// How much longer than the slowest batch of late a channel may take.
const PATIENT: u64 = 8;
/// A batch that was faster moves the pace by one part in so many.
const FADE: u32 = 16;

/// How fast a channel is at its slowest, of late, and hence from when on its silence is none of a
/// channel that works.
///
/// The slowest counts and not the usual batch, as what has been slow for good reasons may be so
/// again.
#[derive(Debug)]
pub struct Pace<W> {
    /// Nanoseconds for a KiB; 0 if not known.
    ns: W,
}

impl<W: Word> Pace<W> {
    /// Nothing is known. `zero` makes a word that is zero.
    pub fn new(zero: impl Fn() -> W) -> Self {
        Self { ns: zero() }
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
    pub fn patience(&self, bytes: u64) -> u64 {
        let slowest = SLOWEST_NS << 10;
        let each = match self.ns.load_relaxed() {
            0 => slowest,
            ns => u64::from(ns).saturating_mul(PATIENT).min(slowest),
        };
        PATIENCE_NS.saturating_add(bytes.div_ceil(1 << 10).saturating_mul(each))
    }

    /// Starts anew: the channels are others.
    pub fn forget(&self) {
        self.ns.store_relaxed(0);
    }
}

/// All of a batch, as a share.
pub const ALL: u32 = 1024;
/// Less than this is no share.
const LEAST: u32 = 16;
/// The share that a kind of batches begins with.
const FIRST: u32 = ALL / 2;
/// So many batches, every other one without the engine, before anything is decided.
const WARM_UP: u32 = 12;
/// An engine that is worth it is left out once in so many batches, to know what that costs; one that
/// is not is tried that often, for so many batches.
const EVERY: u32 = 256;
const TRY: u32 = 6;
/// A sample moves a cost by one part in so many, and is at most so many times it.
const SLOW: u32 = 8;
const CLAMP: u32 = 4;
/// The engine has to bring one part in so many.
const LITTLE: u32 = 32;

/// What becomes of a batch.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// The engine steps aside: the batch goes as without Ferry.
    Aside,
    /// The mover copies all of it, to know what that costs.
    Solo,
    /// The engine gets so much, of [`ALL`].
    Engine(u32),
}

/// How a batch went.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Its bytes.
    pub bytes: u64,
    /// What it took.
    pub ns: u64,
    /// Was the engine to copy something?
    pub asked: bool,
    /// The bytes that it copied.
    pub engine_bytes: u64,
    /// From the beginning of the batch to the end of the engine's last descriptor.
    pub engine_ns: u64,
    /// How long the mover waited for the engine.
    pub waited_ns: u64,
}

/// What is known of batches of one kind.
#[derive(Debug)]
pub struct Share<W> {
    share: W,
    /// The time of a byte, in nanoseconds times 2^16, with the engine and without; 0 if not known.
    with: W,
    without: W,
    batches: W,
}

impl<W: Word> Share<W> {
    /// Nothing is known. `zero` makes a word that is zero.
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
            0 => FIRST,
            share => share.clamp(LEAST, ALL),
        }
    }

    /// What the next batch is to have.
    pub fn next(&self) -> Use {
        let n = self.batches.load_relaxed();
        self.batches.store_relaxed(n.wrapping_add(1));
        let (with, without) = (self.with.load_relaxed(), self.without.load_relaxed());
        let engine = Use::Engine(self.share());
        if n < WARM_UP || with == 0 || without == 0 {
            return if n % 2 == 0 { engine } else { Use::Solo };
        }
        let gains = with <= without.saturating_sub(without / LITTLE);
        match (gains, n % EVERY) {
            (true, 0) => Use::Solo,
            (true, _) => engine,
            (false, i) if i < TRY => engine,
            (false, i) if i == TRY => Use::Solo,
            (false, _) => Use::Aside,
        }
    }

    /// A batch is over.
    pub fn learn(&self, sample: &Sample) {
        if sample.bytes == 0 {
            return;
        }
        let cost = (sample.ns.min(u64::MAX >> 16) << 16)
            .checked_div(sample.bytes)
            .unwrap_or(0);
        let cost = u32::try_from(cost).unwrap_or(u32::MAX).max(1);
        // One that was asked and copied nothing has cost something all the same.
        let to = if sample.asked {
            &self.with
        } else {
            &self.without
        };
        // As long as the share is looked for, only the last one counts.
        let first = self.batches.load_relaxed() <= WARM_UP / 2;
        let old = if first { 0 } else { to.load_relaxed() };
        to.store_relaxed(moved(old, cost));
        if sample.engine_bytes != 0 {
            let (share, new) = (self.share(), balanced(self.share(), sample));
            // Half of the way, as one batch is not as the next.
            let new = if first { new } else { share.midpoint(new) };
            self.share.store_relaxed(new);
        }
    }

    /// Starts anew: the engine is another one.
    pub fn forget(&self) {
        for word in [&self.share, &self.with, &self.without, &self.batches] {
            word.store_relaxed(0);
        }
    }

    /// For a person: the share, and the costs of a MiB in microseconds, with the engine and without.
    pub fn known(&self) -> Option<(u32, u32, u32)> {
        let us = |cost: u32| u32::try_from((u64::from(cost) << 4) / 1000).unwrap_or(u32::MAX);
        let (with, without) = (self.with.load_relaxed(), self.without.load_relaxed());
        (with != 0).then(|| (self.share(), us(with), us(without)))
    }
}

/// A cost after one more sample.
fn moved(old: u32, sample: u32) -> u32 {
    if old == 0 {
        return sample;
    }
    let sample = sample.min(old.saturating_mul(CLAMP));
    let step = |distance: u32| distance.div_ceil(SLOW);
    if sample > old {
        old.saturating_add(step(sample.saturating_sub(old)))
    } else {
        old.saturating_sub(step(old.saturating_sub(sample))).max(1)
    }
}

/// The share with which both would have been through at the same time, at the speeds of this batch.
fn balanced(share: u32, sample: &Sample) -> u32 {
    // Products of 32 bits fit. Small ones lose little, as bytes come in pages.
    let small = |n: u64, shift: u32| (n >> shift).clamp(1, u64::from(u32::MAX));
    let mover_bytes = sample.bytes.saturating_sub(sample.engine_bytes);
    if mover_bytes == 0 {
        // The mover's speed is not known: leave it something.
        return share.saturating_sub(share / 8).clamp(LEAST, ALL);
    }
    let mover_ns = sample.ns.saturating_sub(sample.waited_ns);
    let engine = small(sample.engine_bytes, 8).saturating_mul(small(mover_ns, 4));
    let mover = small(mover_bytes, 8).saturating_mul(small(sample.engine_ns, 4));
    let both = (engine / 2).saturating_add(mover / 2);
    // Of [`ALL`], 2^10.
    let new = engine.checked_div(both >> 9).unwrap_or(0);
    u32::try_from(new).unwrap_or(ALL).clamp(LEAST, ALL)
}

/// How many of so many chunks a share is.
pub fn part_of(share: u32, pieces: u32) -> u32 {
    let pieces_taken = u64::from(share)
        .saturating_mul(u64::from(pieces))
        .saturating_add(u64::from(ALL) / 2)
        / u64::from(ALL);
    u32::try_from(pieces_taken).unwrap_or(pieces).min(pieces)
}

#[cfg_attr(CONFIG_KUNIT = "y", kernel::macros::kunit_tests(ferry_core_engine))]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;
    use crate::word::TestWord;

    const K: u64 = 1024;

    fn part(chunk: u32, entry: u32, src: u64, dst: u64, len: u64) -> Part {
        Part {
            chunk,
            entry,
            src,
            dst,
            len,
        }
    }

    #[test]
    fn what_adjoins_is_one_run() {
        let mut m = Merger::new(16 * K);
        assert_eq!(m.push(part(0, 0, 0x1000, 0x9000, 4096)), None);
        assert_eq!(m.push(part(0, 2, 0x2000, 0xa000, 4096)), None);
        assert_eq!(m.push(part(1, 3, 0x3000, 0xb000, 4096)), None);
        let run = Run {
            src: 0x1000,
            dst: 0x9000,
            len: 3 * 4096,
            chunks: (0, 1),
            entries: (0, 3),
        };
        // The source adjoins, the destination does not.
        assert_eq!(m.push(part(1, 4, 0x4000, 0xd000, 4096)), Some(run));
        let next = Run::from(part(1, 4, 0x4000, 0xd000, 4096));
        // And the other way round.
        assert_eq!(m.push(part(1, 5, 0x6000, 0xe000, 4096)), Some(next));
        assert_eq!(m.finish(), Some(part(1, 5, 0x6000, 0xe000, 4096).into()));
        assert_eq!(m.finish(), None);
    }

    #[test]
    fn no_run_spans_a_chunk_that_failed() {
        let mut m = Merger::new(64 * K);
        assert_eq!(m.push(part(0, 0, 0x1000, 0x9000, 4096)), None);
        assert_eq!(m.end_chunk(true), None);
        // Nothing of chunk 1 is taken; what follows adjoins what was before it.
        let before = Run::from(part(0, 0, 0x1000, 0x9000, 4096));
        assert_eq!(m.end_chunk(false), Some(before));
        assert_eq!(m.push(part(2, 2, 0x2000, 0xa000, 4096)), None);
        assert_eq!(m.end_chunk(true), None);
        let run = m.finish();
        assert_eq!(run.map(|r| (r.chunks, r.entries)), Some(((2, 2), (2, 2))));
        assert_eq!(m.end_chunk(false), None);
    }

    #[test]
    fn runs_have_a_limit() {
        let mut m = Merger::new(8 * K);
        assert_eq!(m.push(part(0, 0, 0, 64 * K, 8 * K)), None);
        let first = m.push(part(1, 0, 8 * K, 72 * K, 4 * K));
        assert_eq!(first.map(|r| r.len), Some(8 * K));
        // One part that is too long stays whole.
        let second = m.push(part(2, 0, 12 * K, 76 * K, 32 * K));
        assert_eq!(second.map(|r| (r.len, r.chunks)), Some((4 * K, (1, 1))));
        assert_eq!(m.finish().map(|r| r.len), Some(32 * K));
    }

    #[test]
    fn addresses_at_the_end_do_not_wrap() {
        let mut m = Merger::new(u64::MAX);
        assert_eq!(m.push(part(0, 0, u64::MAX - 4095, 0, 4096)), None);
        assert!(m.push(part(0, 1, 0, 4096, 4096)).is_some());
        let mut m = Merger::new(u64::MAX);
        assert_eq!(m.push(part(0, 0, 0, 0, u64::MAX)), None);
        assert!(m.push(part(0, 1, u64::MAX, u64::MAX, 4096)).is_some());
    }

    #[test]
    fn channels_share_the_back() {
        for (pieces, taken, channels) in [(32, 16, 4), (32, 32, 5), (7, 3, 3), (1, 1, 1), (9, 4, 6)]
        {
            let mut end = pieces;
            let mut sizes = 0..0;
            for n in 0..channels {
                let r = nth_range(pieces, taken, channels, n);
                assert_eq!(r.end, end);
                end = r.start;
                sizes = sizes.start.max(r.end - r.start)..0;
                assert!(r.end - r.start + 1 >= taken / channels);
                assert!(r.end - r.start <= taken / channels + 1);
            }
            assert_eq!(end, pieces - taken);
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

    fn word() -> TestWord {
        TestWord::new(0)
    }

    /// A mover that copies a byte in `mover` ns and an engine that takes `engine`, with `start` before
    /// its first one: batches of 2 MiB, `n` of them. Returns how many had the engine in the last
    /// quarter of them, and the last share.
    fn run(mover: u64, engine: u64, start: u64, n: u32) -> (u32, u32) {
        let s = Share::new(word);
        let bytes = 2048 * K;
        let (mut with, mut share) = (0, 0);
        for i in 0..n {
            let taken = match s.next() {
                Use::Aside => continue,
                Use::Solo => 0,
                Use::Engine(x) => {
                    share = x;
                    with += u32::from(i >= n - n / 4);
                    bytes / 32 * u64::from(part_of(x, 32))
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
        assert!((ALL * 7 / 16..=ALL * 9 / 16).contains(&share));
    }

    #[test]
    fn a_fast_engine_gets_nearly_all() {
        let (with, share) = run(10, 1, 1000, 400);
        assert!(with >= 98);
        assert!(share > ALL * 27 / 32);
    }

    #[test]
    fn a_slow_one_gets_little() {
        let (with, share) = run(1, 7, 1000, 400);
        assert!(with >= 98);
        assert!(share < ALL * 5 / 32);
    }

    #[test]
    fn one_that_is_slow_to_start_is_left_out() {
        // Twice as long to start as the mover takes for everything.
        let (with, _) = run(1, 1, 4 << 20, 1024);
        assert!(with <= TRY + 1);
    }

    #[test]
    fn is_tried_again() {
        let s = Share::new(word);
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
                Use::Engine(_) => {
                    tried += 1;
                    s.learn(&sample(true));
                }
                Use::Solo => s.learn(&sample(false)),
                Use::Aside => {}
            }
        }
        assert!((20..100).contains(&tried));
        s.forget();
        assert_eq!(s.known(), None);
        assert_eq!(s.next(), Use::Engine(FIRST));
    }

    #[test]
    fn one_that_copies_nothing_is_left_out() {
        let s = Share::new(word);
        let mut asked = 0;
        for i in 0..1024 {
            let engine = match s.next() {
                Use::Aside => continue,
                Use::Solo => false,
                Use::Engine(_) => true,
            };
            asked += u32::from(engine && i >= 512);
            s.learn(&Sample {
                bytes: 1 << 20,
                ns: 1_000_000,
                asked: engine,
                ..Sample::default()
            });
        }
        assert!(asked <= 3 * TRY);
    }

    #[test]
    fn patience_follows_the_slowest() {
        let p = Pace::new(word);
        const MIB: u64 = 1 << 20;
        assert_eq!(p.patience(0), PATIENCE_NS);
        assert_eq!(p.patience(MIB), PATIENCE_NS + 64 * MIB);
        // 1 GiB/s on each of two channels: 8 ms for a MiB.
        p.learn(2 * MIB, 2, 1_000_000);
        let fast = p.patience(MIB) - PATIENCE_NS;
        assert!((7_900_000..8_100_000).contains(&fast));
        // One slow batch is remembered at once, and forgotten slowly.
        p.learn(MIB, 1, 5_000_000);
        let slow = p.patience(MIB) - PATIENCE_NS;
        assert!((39_000_000..41_000_000).contains(&slow));
        p.learn(MIB, 1, 1_000_000);
        assert!(p.patience(MIB) - PATIENCE_NS > slow / 10 * 9);
        // One that was held up does not count for more than the slowest.
        p.learn(MIB, 1, 2_000_000_000);
        assert_eq!(p.patience(MIB), PATIENCE_NS + 64 * MIB);
        for _ in 0..200 {
            p.learn(MIB, 1, 1_000_000);
        }
        assert!(p.patience(MIB) - PATIENCE_NS < 10_000_000);
        p.forget();
        assert_eq!(p.patience(MIB), PATIENCE_NS + 64 * MIB);
    }

    #[test]
    fn patience_of_extremes() {
        let p = Pace::new(word);
        p.learn(0, 1, 1);
        p.learn(1, 2, 1);
        p.learn(1, 0, 1);
        assert_eq!(p.patience(0), PATIENCE_NS);
        p.learn(1, 1, u64::MAX);
        assert!(p.patience(u64::MAX) > PATIENCE_NS);
        p.forget();
        p.learn(u64::MAX, 1, 0);
        assert!(p.patience(0) >= PATIENCE_NS);
        assert_eq!(p.patience(u64::MAX).max(PATIENCE_NS), p.patience(u64::MAX));
    }

    #[test]
    fn shares_are_of_chunks() {
        assert_eq!(part_of(ALL, 32), 32);
        assert_eq!(part_of(ALL / 2, 33), 17);
        assert_eq!(part_of(LEAST, 8), 0);
        assert_eq!(part_of(u32::MAX, 8), 8);
        assert_eq!(part_of(ALL, u32::MAX), u32::MAX);
    }

    #[test]
    fn extreme_samples_do_no_harm() {
        let s = Share::new(word);
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
            if let Use::Engine(share) = s.next() {
                assert!((LEAST..=ALL).contains(&share));
            }
        }
    }
}
