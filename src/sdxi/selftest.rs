// SPDX-License-Identifier: GPL-2.0

//! The self-test of a context: makes copies, and compares their content with what the device
//! reports.
//!
//! Uses the interface of clients, with interrupts as long as they arrive, else by polling. Takes no
//! locks of its own.

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

/// Bytes of all sources together, and of all destinations: room for the longest copy.
const BYTES: usize = 2 << 20;
/// The most copies at the same time: fewer than a ring has slots.
const MAX_REGIONS: usize = 256;
/// The longest copy in bytes.
pub(super) const MAX_LENGTH: usize = BYTES;
/// The most copies of one test, which bounds its time.
pub(super) const MAX_COPIES: u64 = 1_000_000;

/// Time in ms without progress after which the context is polled: many times that of a copy.
const INTERRUPT_WAIT_MS: i64 = 20;
/// Time in ms without progress after which copies are given up, and the context is stopped.
const COPY_TIMEOUT_MS: i64 = 1000;
/// Time in ms for a context to run, which covers a recovery with a reset.
const START_TIMEOUT_MS: i64 = 8000;

/// The outcome of a self-test.
#[derive(Clone, Copy, Default)]
pub(super) struct Outcome {
    context: u16,
    count: u64,
    length: usize,
    /// Copies reported as done whose content is right.
    good: u64,
    /// Copies reported as failed.
    failed: u64,
    /// Copies reported as done whose content is wrong.
    lies: u64,
    /// Copies not reported in time, or reported only when the device was proven to have stopped.
    lost: u64,
    /// Copies not submitted.
    left: u64,
    doorbells: u64,
    interrupts: u64,
    /// Copies reported by polling, as no interrupt arrived.
    polled: u64,
    /// Set if the device was not proven to have stopped, so that memory may be leaked.
    unquiet: bool,
    /// The error that ended the test.
    error: Option<Error>,
}

impl Outcome {
    /// Returns `true` if all copies were made.
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

/// The state of the copy in each region of the buffers: one of [`IDLE`], [`PENDING`], [`GOOD`] and
/// [`FAILED`]. The index of a region is the tag of its copy.
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

/// A running self-test.
struct Test<'a> {
    context: &'a Context,
    states: Arc<CopyStates>,
    seeds: KVec<u64>,
    src: Buffer,
    dst: Buffer,
    /// Words from one region to the next: at least one more than a copy has.
    stride: usize,
    next: u64,
    outcome: Outcome,
}

impl Test<'_> {
    /// Checks the content of reported copies, and returns their number. With `gave_up` failed
    /// copies count as lost.
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

    /// Submits as many copies as there are idle regions and room in the ring. Returns their number.
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
            // Copies that were not pushed are idle again.
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

    /// Returns the number of submitted copies whose content has not been checked.
    fn pending(&self) -> u64 {
        let pending = |region: &&Atomic<u32>| region.load(Relaxed) != IDLE;
        self.states.0.iter().filter(pending).count() as u64
    }

    /// Makes all copies.
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
                // The context does not run; the function's thread is recovering it.
                if waited > START_TIMEOUT_MS {
                    return Err(ETIMEDOUT);
                }
                if waited > INTERRUPT_WAIT_MS {
                    match function.open(self.context.number()) {
                        Err(e) if e != EAGAIN => return Err(e),
                        // A context that stays down ends the test by the timeout above.
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

/// Opens a context, and waits up to [`START_TIMEOUT_MS`] for it to run.
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

/// Makes `count` copies of `length` bytes on a context, and checks them.
///
/// # Errors
///
/// `EINVAL` if count or length is out of range, `ENOMEM` without memory. Failures of copies are
/// part of the outcome.
///
/// # Context
///
/// May sleep.
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
    // At least one guard word behind each copy; regions do not begin at pages.
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
    // Interrupt descriptors may be outstanding, which access neither buffer.
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
