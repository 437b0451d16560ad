// SPDX-License-Identifier: GPL-2.0

//! Copies on a context whose content is looked at: what a device says, and what it does.
//!
//! Uses a context as a migrator does, by interrupts as long as they come, else by polling.

use crate::sdxi::{
    function::Function,
    hw::{
        buffer::Buffer,
        context::{
            Client,
            Context,
            ContextLease,
            Unavailable, //
        },
    },
};
use core::fmt;
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc, //
    },
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    },
};

/// Bytes of all sources together, and of all destinations.
const BYTES: usize = 2 << 20;
/// Copies at the same time, at most.
const MAX_REGIONS: usize = 256;
/// The longest copy.
pub(super) const MAX_LENGTH: usize = BYTES;
/// Most copies of one test.
pub(super) const MAX_COPIES: u64 = 1_000_000;

/// Without progress, interrupts are waited for so long, then the context is polled.
const INTERRUPT_WAIT_MS: i64 = 20;
/// And so long until the copies are given up.
const COPY_TIMEOUT_MS: i64 = 1000;
/// A context that does not run is waited for so long.
const START_TIMEOUT_MS: i64 = 8000;

/// What came of a test.
#[derive(Clone, Copy, Default)]
pub(super) struct Outcome {
    context: u16,
    count: u64,
    length: usize,
    /// Said to be done, and are.
    good: u64,
    /// Said to have failed.
    failed: u64,
    /// Said to be done, and are not.
    lies: u64,
    /// Nothing was reported in time; or the device was proven to have stopped before.
    lost: u64,
    /// Not begun.
    left: u64,
    doorbells: u64,
    interrupts: u64,
    /// Reported by polling, since no interrupt came.
    polled: u64,
    /// The device was not proven to have stopped, so memory is kept for ever.
    unquiet: bool,
    /// The error that ended it.
    error: Option<Error>,
}

impl Outcome {
    /// All copies were made.
    pub(super) fn is_good(&self) -> bool {
        self.count > 0 && self.good == self.count
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count == 0 {
            return Ok(());
        }
        writeln!(
            f,
            "context={} count={} length={} good={} failed={} lies={} lost={} left={} doorbells={} \
             interrupts={} polled={} unquiet={} error={}",
            self.context,
            self.count,
            self.length,
            self.good,
            self.failed,
            self.lies,
            self.lost,
            self.left,
            self.doorbells,
            self.interrupts,
            self.polled,
            u32::from(self.unquiet),
            self.error.map_or(0, Error::to_errno),
        )
    }
}

const IDLE: u32 = 0;
const PENDING: u32 = 1;
const GOOD: u32 = 2;
const FAILED: u32 = 3;

/// What was reported of each region.
struct CopyStates(KVec<Atomic<u32>>);

impl CopyStates {
    fn report(&self, tag: u32, good: bool) {
        if let Some(region) = self.0.get(tag as usize) {
            let reported = if good { GOOD } else { FAILED };
            // Pairs with the load in `collect()`.
            region.store(reported, Release);
        }
    }
}

impl Client for CopyStates {
    fn notify(&self, context: &Context) {
        context.reap(|tag, good| self.report(tag, good));
    }
}

struct Test<'a> {
    context: &'a Context,
    states: Arc<CopyStates>,
    seeds: KVec<u64>,
    src: Buffer,
    dst: Buffer,
    /// Words from one region to the next; at least one more than a copy has.
    stride: usize,
    next: u64,
    outcome: Outcome,
}

impl Test<'_> {
    /// Looks at what has been reported. Returns how many copies.
    fn collect(&mut self, gave_up: bool) -> u64 {
        let mut n = 0;
        let length = self.outcome.length;
        for (i, region) in self.states.0.iter().enumerate() {
            let reported = region.load(Acquire);
            if reported != GOOD && reported != FAILED {
                continue;
            }
            region.store(IDLE, Relaxed);
            n += 1;
            let seed = self.seeds.get(i).copied().unwrap_or(0);
            let outcome = &mut self.outcome;
            if reported == GOOD {
                match (self.dst).holds(i * self.stride, self.stride, length, seed) {
                    true => outcome.good += 1,
                    false => outcome.lies += 1,
                }
            } else if gave_up {
                outcome.lost += 1;
            } else {
                outcome.failed += 1;
            }
        }
        n
    }

    /// Hands over as many copies as there are regions and room for.
    fn submit(&mut self) -> Result<u64, Unavailable> {
        let room = self.context.free();
        let mut batch = 0;
        for i in 0..self.states.0.len() {
            let idle = self.states.0[i].load(Relaxed) == IDLE;
            if !idle || batch >= room || self.next + batch as u64 >= self.outcome.count {
                continue;
            }
            let seed = self.next + batch as u64 + 1;
            if let Some(place) = self.seeds.get_mut(i) {
                *place = seed;
            }
            let words = self.outcome.length.div_ceil(8);
            self.src.fill(i * self.stride, words, Some(seed));
            self.dst.fill(i * self.stride, self.stride, None);
            self.states.0[i].store(PENDING, Relaxed);
            batch += 1;
        }
        if batch == 0 {
            return Ok(0);
        }
        let first = self.next + 1;
        let length = self.outcome.length as u64;
        let mut pushed = 0;
        let submitted = self.context.submit(true, |submission| {
            for i in 0..self.states.0.len() {
                if self.seeds[i] < first || self.states.0[i].load(Relaxed) != PENDING {
                    continue;
                }
                let (dst, src) = (
                    self.dst.address(i * self.stride),
                    self.src.address(i * self.stride),
                );
                submission.push(dst, src, length, i as u32, true)?;
                pushed += 1;
            }
            Ok(())
        });
        self.next += pushed;
        if pushed > 0 {
            self.outcome.doorbells += 1;
        }
        if pushed < batch as u64 {
            // Those that did not get in.
            let mut in_ring = pushed;
            for i in 0..self.states.0.len() {
                if self.seeds[i] >= first && in_ring > 0 {
                    in_ring -= 1;
                } else if self.seeds[i] >= first {
                    self.seeds[i] = 0;
                    self.states.0[i].store(IDLE, Relaxed);
                }
            }
        }
        submitted.map(|()| pushed)
    }

    /// Copies that have not been looked at.
    fn pending(&self) -> u64 {
        let pending = |region: &&Atomic<u32>| region.load(Relaxed) != IDLE;
        self.states.0.iter().filter(pending).count() as u64
    }

    fn run(&mut self, function: &Function) -> Result {
        let mut progress: Instant<Monotonic> = Instant::now();
        loop {
            let collected = self.collect(false);
            let submitted = match self.submit() {
                Ok(n) => n,
                Err(Unavailable::Invalid) => return Err(EINVAL),
                Err(Unavailable::Full | Unavailable::Down) => 0,
            };
            if self.next >= self.outcome.count && self.pending() == 0 {
                return Ok(());
            }
            if collected + submitted > 0 {
                progress = Instant::now();
                continue;
            }
            let waited = progress.elapsed().as_millis();
            if self.pending() == 0 {
                // The context is down; somebody is at work on it.
                if waited > START_TIMEOUT_MS {
                    return Err(ETIMEDOUT);
                }
                if waited > INTERRUPT_WAIT_MS {
                    match function.open(self.context.number()) {
                        Err(e) if e != EAGAIN => return Err(e),
                        // Says what is the matter with it later.
                        _ => {}
                    }
                    fsleep(Delta::from_millis(2));
                }
            } else if waited > COPY_TIMEOUT_MS {
                let quiet = function.quiesce(self.context);
                let states = self.states.clone();
                self.context.reap(|tag, good| states.report(tag, good));
                self.collect(true);
                if !quiet {
                    self.outcome.lost += self.pending();
                    self.outcome.unquiet = true;
                    return Err(EBUSY);
                }
                progress = Instant::now();
            } else if waited > INTERRUPT_WAIT_MS {
                let (states, mut n) = (self.states.clone(), 0);
                self.context.reap(|tag, good| {
                    n += 1;
                    states.report(tag, good);
                });
                self.outcome.polled += n;
                fsleep(Delta::from_millis(1));
                continue;
            }
            fsleep(Delta::from_micros(100));
        }
    }
}

/// Waits for a context to run.
fn open(function: &Function, number: u16) -> Result {
    let start: Instant<Monotonic> = Instant::now();
    loop {
        match function.open(number) {
            Err(e) if e == EAGAIN && start.elapsed().as_millis() < START_TIMEOUT_MS => {
                fsleep(Delta::from_millis(10));
            }
            result => return result.map(|_| ()),
        }
    }
}

/// Makes `count` copies of `length` bytes on a context.
pub(super) fn run(
    function: &Function,
    context: &ContextLease,
    count: u64,
    length: usize,
) -> Result<Outcome> {
    let number = context.number();
    if count == 0 || count > MAX_COPIES || length == 0 || length > MAX_LENGTH {
        return Err(EINVAL);
    }
    let mut outcome = Outcome {
        context: number,
        count,
        length,
        ..Outcome::default()
    };
    if let Err(e) = open(function, number) {
        outcome.left = count;
        outcome.error = Some(e);
        return Ok(outcome);
    }
    // A guard behind each copy, and copies that do not begin at a page.
    let stride = (length + 8).div_ceil(64) * 8;
    let most = usize::try_from(count)
        .unwrap_or(MAX_REGIONS)
        .min(MAX_REGIONS);
    let regions = (BYTES / 8 / stride).clamp(1, most);
    let mut states = KVec::with_capacity(regions, GFP_KERNEL)?;
    let mut seeds = KVec::with_capacity(regions, GFP_KERNEL)?;
    for _ in 0..regions {
        states.push(Atomic::new(IDLE), GFP_KERNEL)?;
        seeds.push(0, GFP_KERNEL)?;
    }
    let mut test = Test {
        context,
        states: Arc::new(CopyStates(states), GFP_KERNEL)?,
        seeds,
        src: Buffer::new(function.bars(), stride * 8 * regions)?,
        dst: Buffer::new(function.bars(), stride * 8 * regions)?,
        stride,
        next: 0,
        outcome,
    };
    let before = context.counters.interrupts.load(Relaxed);
    context.set_client(test.states.clone());
    let result = test.run(function);
    context.remove_listener();
    let mut outcome = test.outcome;
    outcome.interrupts = context
        .counters
        .interrupts
        .load(Relaxed)
        .wrapping_sub(before);
    outcome.left = count.saturating_sub(test.next);
    outcome.error = result.err();
    let Test { src, dst, .. } = test;
    // Interrupt descriptors may still be outstanding, which touch neither.
    let start: Instant<Monotonic> = Instant::now();
    loop {
        context.reap(|_, _| {});
        let idle = context.with(|inner| match &inner.ring {
            Some(ring) => ring.outstanding() == 0,
            None => true,
        });
        if idle || outcome.unquiet || start.elapsed().as_millis() > COPY_TIMEOUT_MS {
            break;
        }
        fsleep(Delta::from_millis(1));
    }
    for buffer in [src, dst] {
        let done = context.with(|inner| match &inner.ring {
            Some(ring) => buffer.done_with(ring),
            None => Err(buffer),
        });
        match done {
            Ok(unused) => drop(unused),
            Err(buffer) => function.keep_until_stopped(buffer),
        }
    }
    Ok(outcome)
}
