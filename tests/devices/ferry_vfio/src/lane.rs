// SPDX-License-Identifier: GPL-2.0

//! A channel at work: a thread that takes descriptors off a queue, carries them out and completes
//! them, with the faults and limits of its channel.
//!
//! The queue itself is pure ([`Queue`]); the lane's mutex owns it. It is held to take a descriptor
//! and to complete it, not to carry it out, so that registers answer meanwhile. [`Lane::reset`]
//! ends what is in flight and returns when the thread is quiet: a copy asks before every piece, and
//! every wait, whether the epoch in which it began is over.

use crate::fault::Kind;
use crate::host::Host;
use crate::memory::{Dma, Side, PIECE};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Longest sleep between two looks at what no condition variable tells.
const TICK: Duration = Duration::from_millis(2);

/// Longest copy whose source is kept until it is written late.
const MOST_LATE: u64 = 256 << 20;

/// Registers and ring of one channel.
pub trait Queue: Send + 'static {
    /// A descriptor taken off the queue.
    type Job: Send;
    /// The device's own errors.
    type Error: Send;

    /// The next descriptor, if the queue runs and has one.
    fn next(&mut self, dma: &dyn Dma) -> Option<Self::Job>;
    /// Carries it out.
    fn execute(job: &Self::Job, io: &mut Io<'_>) -> Result<(), Halt<Self::Error>>;
    /// The error of a descriptor that fails on command.
    fn forced(code: Option<u8>) -> Self::Error;
    /// Records the result where the driver looks for it.
    fn complete(&mut self, job: Self::Job, result: Result<(), Self::Error>, dma: &dyn Dma);
    /// The vector to be sent now, if any. Asked once after each of the above and each access.
    fn interrupt(&mut self) -> Option<u16>;
    /// As after power-on.
    fn reset(&mut self);
}

/// Why a descriptor was not carried out to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt<E> {
    /// The device's error.
    Failed(E),
    /// A fault says that it ends here.
    Short,
    /// The channel was reset, or the function is gone.
    Cancelled,
}

/// Why a copy ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The bus.
    Bus(Side),
    /// As [`Halt::Short`].
    Short,
    /// As [`Halt::Cancelled`].
    Cancelled,
}

impl Stop {
    /// As a halt, with the device's error for the bus.
    pub fn halt<E>(self, bus: impl FnOnce(Side) -> E) -> Halt<E> {
        match self {
            Stop::Bus(side) => Halt::Failed(bus(side)),
            Stop::Short => Halt::Short,
            Stop::Cancelled => Halt::Cancelled,
        }
    }
}

/// Sleeps until a moment; `false` if the epoch ended before.
type Wait<'a> = &'a dyn Fn(Instant) -> bool;

struct Late<'a> {
    delay: Duration,
    through_reset: bool,
    host: &'a Arc<Host>,
}

/// What a descriptor is carried out with.
pub struct Io<'a> {
    dma: &'a dyn Dma,
    /// Whether the epoch goes on at a moment.
    wait: Option<Wait<'a>>,
    short: Option<u64>,
    late: Option<Late<'a>>,
    copied: u64,
}

impl<'a> Io<'a> {
    /// Without a lane: no faults, no end.
    pub fn plain(dma: &'a dyn Dma) -> Io<'a> {
        Io {
            dma,
            wait: None,
            short: None,
            late: None,
            copied: 0,
        }
    }

    /// Bytes copied so far.
    pub fn copied(&self) -> u64 {
        self.copied
    }

    /// The memory, for what is no copy.
    pub fn dma(&self) -> &dyn Dma {
        self.dma
    }

    fn go_on(&self, until: Instant) -> bool {
        self.wait.is_none_or(|wait| wait(until))
    }

    /// Copies `len` bytes, ascending, in pieces; what comes before a fault has been copied.
    pub fn copy(&mut self, source: u64, destination: u64, len: u64) -> Result<(), Stop> {
        match self.late.take() {
            Some(late) if len <= MOST_LATE => {
                return self.copy_late(source, destination, len, late);
            }
            Some(_) => log::warn!("a copy of {len} bytes is too long to be late"),
            None => {}
        }
        let whole = len;
        let len = self
            .short
            .map_or(len, |s| s.saturating_sub(self.copied).min(len));
        let mut done = 0;
        while done < len {
            if !self.go_on(Instant::now()) {
                return Err(Stop::Cancelled);
            }
            // Wraps at the end of the address space, which the memory does not serve.
            let (from, to) = (source.checked_add(done), destination.checked_add(done));
            let beyond = crate::memory::Fault::Decode(u64::MAX);
            let from = from.ok_or(Stop::Bus(Side::Source(beyond)))?;
            let to = to.ok_or(Stop::Bus(Side::Destination(beyond)))?;
            let piece = (len - done).min(PIECE);
            self.dma.copy(from, to, piece).map_err(Stop::Bus)?;
            done += piece;
            self.copied += piece;
        }
        if done < whole {
            return Err(Stop::Short);
        }
        Ok(())
    }

    fn copy_late(&mut self, from: u64, to: u64, len: u64, late: Late<'_>) -> Result<(), Stop> {
        let mut old = vec![0; usize::try_from(len).unwrap_or(0)];
        let read = self.dma.read(from, &mut old);
        read.map_err(|f| Stop::Bus(Side::Source(f)))?;
        late.host.count_held();
        let due = Instant::now() + late.delay;
        if !self.go_on(due) {
            if late.through_reset {
                let host = Arc::clone(late.host);
                spawn_later(due, move || {
                    if let Err(fault) = host.memory.write(to, &old) {
                        log::warn!("late write through a reset: {fault}");
                    }
                });
            }
            return Err(Stop::Cancelled);
        }
        let written = self.dma.write(to, &old);
        written.map_err(|f| Stop::Bus(Side::Destination(f)))?;
        self.copied += old.len() as u64;
        Ok(())
    }
}

fn spawn_later(due: Instant, act: impl FnOnce() + Send + 'static) {
    let started = thread::Builder::new().name("later".into()).spawn(move || {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        act();
    });
    if let Err(error) = started {
        log::error!("what was to happen later does not: {error}");
    }
}

fn after(ms: u64) -> Instant {
    // A day is for ever here, and cannot overflow.
    Instant::now() + Duration::from_millis(ms.min(86_400_000))
}

/// Takes and carries out one descriptor, without a lane; `false` if there was none.
pub fn step<Q: Queue>(queue: &mut Q, dma: &dyn Dma) -> bool {
    let Some(job) = queue.next(dma) else {
        return false;
    };
    match Q::execute(&job, &mut Io::plain(dma)) {
        Ok(()) => queue.complete(job, Ok(()), dma),
        Err(Halt::Failed(error)) => queue.complete(job, Err(error), dma),
        // Without a lane nobody cuts short or cancels.
        Err(Halt::Short | Halt::Cancelled) => queue.complete(job, Err(Q::forced(None)), dma),
    }
    true
}

struct State<Q> {
    queue: Q,
    busy: bool,
    stop: bool,
}

struct Shared<Q> {
    state: Mutex<State<Q>>,
    /// The queue has changed, or the thread became quiet.
    wake: Condvar,
    epoch: AtomicU64,
    host: Arc<Host>,
    channel: u16,
}

/// See the module.
pub struct Lane<Q: Queue> {
    shared: Arc<Shared<Q>>,
    thread: Option<JoinHandle<()>>,
}

impl<Q: Queue> Lane<Q> {
    /// Starts the thread of a channel.
    pub fn new(queue: Q, channel: u16, host: Arc<Host>) -> std::io::Result<Lane<Q>> {
        let state = State {
            queue,
            busy: false,
            stop: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            wake: Condvar::new(),
            epoch: AtomicU64::new(0),
            host,
            channel,
        });
        let worker = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name(format!("channel{channel}"))
            .spawn(move || worker.work())?;
        Ok(Lane {
            shared,
            thread: Some(thread),
        })
    }

    /// An access to the queue's registers.
    pub fn with<R>(&self, access: impl FnOnce(&mut Q) -> R) -> R {
        let mut state = self.shared.lock();
        let result = access(&mut state.queue);
        if let Some(vector) = state.queue.interrupt() {
            self.shared.host.interrupt(self.shared.channel, vector);
        }
        drop(state);
        self.shared.wake.notify_all();
        result
    }

    /// Resets the queue. Nothing of it is in flight when this returns.
    pub fn reset(&self) {
        let mut state = self.shared.lock();
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        state.queue.reset();
        self.shared.wake.notify_all();
        while state.busy {
            state = self.shared.sleep(state, TICK);
        }
    }
}

impl<Q: Queue> Drop for Lane<Q> {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        self.shared.wake.notify_all();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            log::error!("channel {} panicked", self.shared.channel);
        }
    }
}

impl<Q: Queue> Shared<Q> {
    fn lock(&self) -> MutexGuard<'_, State<Q>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sleep<'a>(
        &self,
        state: MutexGuard<'a, State<Q>>,
        time: Duration,
    ) -> MutexGuard<'a, State<Q>> {
        let slept = self.wake.wait_timeout(state, time);
        slept.unwrap_or_else(PoisonError::into_inner).0
    }

    fn live(&self, epoch: u64) -> bool {
        self.epoch.load(Ordering::SeqCst) == epoch && !self.host.gone()
    }

    /// Sleeps until `ready` or `until`; `false` if the epoch ended.
    fn pause(&self, epoch: u64, until: Option<Instant>, ready: impl Fn() -> bool) -> bool {
        loop {
            if !self.live(epoch) {
                return false;
            }
            let left = until.map(|u| u.saturating_duration_since(Instant::now()));
            if ready() || left.is_some_and(|l| l.is_zero()) {
                return true;
            }
            let state = self.lock();
            drop(self.sleep(state, left.unwrap_or(TICK).min(TICK)));
        }
    }

    fn work(self: &Arc<Self>) {
        let mut state = self.lock();
        while !state.stop {
            let job = if self.host.gone() {
                None
            } else {
                state.queue.next(&self.host.memory)
            };
            if let Some(vector) = state.queue.interrupt() {
                self.host.interrupt(self.channel, vector);
            }
            let Some(job) = job else {
                // A function that comes back tells nobody.
                state = self.sleep(state, Duration::from_millis(50));
                continue;
            };
            let epoch = self.epoch.load(Ordering::SeqCst);
            state.busy = true;
            drop(state);
            let done = self.carry_out(epoch, &job);
            state = self.lock();
            state.busy = false;
            match done {
                Some((result, faults)) if self.live(epoch) => {
                    self.complete(&mut state, epoch, job, result, &faults);
                }
                _ => self.host.counters(self.channel).aborted.bump(),
            }
            self.wake.notify_all();
        }
    }

    /// The result, and the faults that are left for the completion. `None`: the epoch ended.
    #[allow(clippy::type_complexity)]
    fn carry_out(&self, epoch: u64, job: &Q::Job) -> Option<(Result<(), Q::Error>, Vec<Kind>)> {
        let start = Instant::now();
        let host = &self.host;
        let faults = host.strike(self.channel);
        let wait = |until| self.pause(epoch, Some(until), || false);
        let mut io = Io {
            wait: Some(&wait),
            ..Io::plain(&host.memory)
        };
        let (mut fail, mut silent) = (None, false);
        for fault in &faults {
            match *fault {
                Kind::Error { code } => fail = Some(code),
                Kind::Partial { bytes, silent: s } => (io.short, silent) = (Some(bytes), s),
                Kind::LateWrite { ms, through_reset } => {
                    io.late = Some(Late {
                        delay: after(ms) - Instant::now(),
                        through_reset,
                        host,
                    });
                }
                Kind::Hang {} => {
                    let released = host.released();
                    if !self.pause(epoch, None, || host.released() != released) {
                        return None;
                    }
                }
                Kind::Disappear {} => {
                    host.set_gone(true);
                    return None;
                }
                _ => {}
            }
        }
        let result = match fail {
            Some(code) => Err(Q::forced(code)),
            None => match Q::execute(job, &mut io) {
                Ok(()) => Ok(()),
                Err(Halt::Failed(error)) => Err(error),
                Err(Halt::Short) if silent => Ok(()),
                Err(Halt::Short) => Err(Q::forced(None)),
                Err(Halt::Cancelled) => return None,
            },
        };
        let copied = io.copied();
        host.counters(self.channel).bytes.add(copied);
        let due = start + host.limit(self.channel).time(copied);
        if !wait(due) {
            return None;
        }
        for fault in &faults {
            if let Kind::Reorder { behind, count } = *fault {
                let other = &host.counters(behind).descriptors;
                let target = other.get().saturating_add(count);
                if !self.pause(epoch, None, || other.get() >= target) {
                    return None;
                }
            }
        }
        Some((result, faults))
    }

    fn complete(
        self: &Arc<Self>,
        state: &mut State<Q>,
        epoch: u64,
        job: Q::Job,
        result: Result<(), Q::Error>,
        faults: &[Kind],
    ) {
        let counters = self.host.counters(self.channel);
        if result.is_err() {
            counters.errors.bump();
        }
        state.queue.complete(job, result, &self.host.memory);
        counters.descriptors.bump();
        let Some(vector) = state.queue.interrupt() else {
            return;
        };
        let mut now = true;
        for fault in faults {
            match *fault {
                Kind::LostInterrupt {} => now = false,
                Kind::LateInterrupt { ms } => {
                    now = false;
                    self.later(epoch, ms, vector);
                }
                Kind::Duplicate { ms } => self.later(epoch, ms, vector),
                _ => {}
            }
        }
        if now {
            self.host.interrupt(self.channel, vector);
        }
    }

    fn later(self: &Arc<Self>, epoch: u64, ms: u64, vector: u16) {
        let shared = Arc::clone(self);
        spawn_later(after(ms), move || {
            // Under the lock, or a reset could return between the look and the message.
            let state = shared.lock();
            if shared.live(epoch) {
                shared.host.interrupt(shared.channel, vector);
            }
            drop(state);
        });
    }
}
