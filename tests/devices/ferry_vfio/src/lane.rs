// SPDX-License-Identifier: GPL-2.0

//! A channel at work: a thread that takes descriptors off a queue, carries them out and completes
//! them, with the faults and limits of its channel.
//!
//! The queue itself is pure ([`Queue`]); the lane's mutex owns it. It is held to take a descriptor
//! and to complete it, not to carry it out, so that registers answer meanwhile. [`Lane::reset`]
//! ends what is in flight and returns when the thread is quiet: a copy asks before every piece, and
//! every wait, whether the epoch in which it began is over.
//!
//! Descriptors are carried out one after the other. A fault can put some aside to be overtaken
//! ([`Kind::OutOfOrder`]), as far as the queue's fences allow.
//!
//! A device whose channels act on each other does so through [`Peer`], never with a lane's lock
//! held: from [`Queue::execute`], or from a register access.

use crate::fault::Kind;
use crate::host::Host;
use crate::limit::Pace;
use crate::memory::{Dma, Fault, Side, PIECE};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Longest sleep between two looks at what no condition variable tells.
const TICK: Duration = Duration::from_millis(2);

/// For ever here; it does not overflow where it is added to a time.
pub const DAY: Duration = Duration::from_secs(86_400);

/// Most descriptors of a channel that are put aside at a time.
const MOST_ASIDE: usize = 1024;

/// Longest copy whose source is kept until it is written late.
const MOST_LATE: u64 = 256 << 20;

/// Registers and ring of one channel.
pub trait Queue: Send + 'static {
    /// A descriptor taken off the queue.
    type Job: Send;
    /// The device's own errors.
    type Error: Send;
    /// `true` if the queue keeps its descriptors while bus mastering is off and goes on with them
    /// when it is on again. Otherwise, an access without bus mastering is a bus error.
    const STALLS: bool = false;

    /// Takes the next descriptor, if the queue runs and has one.
    fn next(&mut self, dma: &dyn Dma) -> Option<Self::Job>;
    /// Returns how many descriptors the last [`Self::next`] has read; `taken`: it returned one.
    fn fetches(&mut self, taken: bool) -> u64 {
        taken.into()
    }
    /// Returns `true` if a fault can befall the descriptor.
    fn meets(_job: &Self::Job, _fault: &Kind) -> bool {
        true
    }
    /// Returns `true` if the descriptor may only begin when all before it are done.
    fn fenced(_job: &Self::Job) -> bool {
        true
    }
    /// Notes that a descriptor has begun, and that these faults befall it.
    fn begin(&mut self, _job: &mut Self::Job, _faults: &[Kind], _dma: &dyn Dma) {}
    /// Carries it out.
    fn execute(job: &mut Self::Job, io: &mut Io<'_>) -> Result<(), Halt<Self::Error>>;
    /// Returns the vector of a message that a descriptor asks for, which is sent before it
    /// completes.
    fn message(_job: &Self::Job) -> Option<u16> {
        None
    }
    /// Returns the error of a descriptor that fails on command.
    fn forced(code: Option<u8>) -> Self::Error;
    /// Records the result where the driver looks for it.
    fn complete(&mut self, job: Self::Job, result: Result<(), Self::Error>, dma: &dyn Dma);
    /// Returns `true` if the queue has ended and abandons the descriptors that were put aside.
    fn ended(&self) -> bool {
        false
    }
    /// Tells the queue that none of its descriptors is in work.
    fn quiet(&mut self, _dma: &dyn Dma) {}
    /// Returns the vector to be sent now, if any. Called once after each of the above and each
    /// access.
    fn interrupt(&mut self) -> Option<u16>;
    /// Resets the queue to its state after power-on.
    fn reset(&mut self);
}

/// Reason for which a descriptor was not carried out to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt<E> {
    /// The device's error.
    Failed(E),
    /// A fault says that it ends here.
    Short,
    /// The channel was reset, or the function is gone.
    Cancelled,
}

/// Reason for which a copy ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The bus.
    Bus(Side),
    /// The same as [`Halt::Short`].
    Short,
    /// The same as [`Halt::Cancelled`].
    Cancelled,
}

impl Stop {
    /// Returns the halt, with the device's error for a bus error.
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

/// Access to memory and interrupts for carrying out a descriptor.
pub struct Io<'a> {
    dma: &'a dyn Dma,
    /// Returns `true` if the epoch goes on at a moment.
    wait: Option<Wait<'a>>,
    /// Returns `true` if accesses have to wait for bus mastering.
    stalled: Option<&'a dyn Fn() -> bool>,
    short: Option<u64>,
    late: Option<Late<'a>>,
    copied: u64,
}

impl<'a> Io<'a> {
    /// Creates the access of a descriptor without a lane: no faults, no end.
    pub fn plain(dma: &'a dyn Dma) -> Io<'a> {
        Io {
            dma,
            wait: None,
            stalled: None,
            short: None,
            late: None,
            copied: 0,
        }
    }

    /// Bytes copied so far.
    pub fn copied(&self) -> u64 {
        self.copied
    }

    /// Returns the memory, for accesses that are no copies.
    pub fn dma(&self) -> &dyn Dma {
        self.dma
    }

    fn go_on(&self, until: Instant) -> bool {
        self.wait.is_none_or(|wait| wait(until))
    }

    fn is_stalled(&self) -> bool {
        self.stalled.is_some_and(|stalled| stalled())
    }

    /// Makes an access, once more for as long as bus mastering keeps it off.
    fn access<R>(
        &self,
        side: impl Fn(Fault) -> Side,
        mut access: impl FnMut(&dyn Dma) -> Result<R, Fault>,
    ) -> Result<R, Stop> {
        self.retry(|dma| access(dma).map_err(&side))
    }

    fn retry<R>(&self, mut access: impl FnMut(&dyn Dma) -> Result<R, Side>) -> Result<R, Stop> {
        loop {
            match access(self.dma) {
                Err(_) if self.is_stalled() => {
                    if !self.go_on(Instant::now() + TICK) {
                        return Err(Stop::Cancelled);
                    }
                }
                result => return result.map_err(Stop::Bus),
            }
        }
    }

    /// Waits until `ready`.
    pub fn wait_for<E>(&self, ready: impl Fn() -> bool) -> Result<(), Halt<E>> {
        while !ready() {
            self.sleep(Duration::from_millis(1))?;
        }
        Ok(())
    }

    /// Waits for `time`, or until the epoch ends.
    pub fn sleep<E>(&self, time: Duration) -> Result<(), Halt<E>> {
        match self.go_on(Instant::now() + time.min(DAY)) {
            true => Ok(()),
            false => Err(Halt::Cancelled),
        }
    }

    /// Writes data that no copy has read, and counts it as a copy.
    pub fn write(&mut self, address: u64, data: &[u8]) -> Result<(), Fault> {
        self.dma.write(address, data)?;
        self.copied += data.len() as u64;
        Ok(())
    }

    /// Copies as [`Io::copy`] does, with the device's errors for a bus error of either side.
    pub fn copy_or<E>(
        &mut self,
        (source, destination, len): (u64, u64, u64),
        read: E,
        write: E,
    ) -> Result<(), Halt<E>> {
        let copied = self.copy(source, destination, len);
        copied.map_err(|stop| {
            stop.halt(|side| match side {
                Side::Source(_) => read,
                Side::Destination(_) => write,
            })
        })
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
            let beyond = Fault::Decode(u64::MAX);
            let from = from.ok_or(Stop::Bus(Side::Source(beyond)))?;
            let to = to.ok_or(Stop::Bus(Side::Destination(beyond)))?;
            let piece = (len - done).min(PIECE);
            self.retry(|dma| dma.copy(from, to, piece))?;
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
        self.access(Side::Source, |dma| dma.read(from, &mut old))?;
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
        self.access(Side::Destination, |dma| dma.write(to, &old))?;
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
    Instant::now() + Duration::from_millis(ms).min(DAY)
}

/// Takes and carries out one descriptor, without a lane; `false` if there was none.
pub fn step<Q: Queue>(queue: &mut Q, dma: &dyn Dma) -> bool {
    let Some(mut job) = queue.next(dma) else {
        return false;
    };
    match Q::execute(&mut job, &mut Io::plain(dma)) {
        Ok(()) => queue.complete(job, Ok(()), dma),
        Err(Halt::Failed(error)) => queue.complete(job, Err(error), dma),
        // Without a lane, no fault cuts a copy short and no reset cancels it.
        Err(Halt::Short | Halt::Cancelled) => queue.complete(job, Err(Q::forced(None)), dma),
    }
    true
}

/// A descriptor that others overtake.
struct Aside<J> {
    job: J,
    faults: Vec<Kind>,
    left: u64,
}

struct State<Q: Queue> {
    queue: Q,
    aside: Vec<Aside<Q::Job>>,
    /// A fenced descriptor that waits for those put aside.
    fence: Option<Q::Job>,
    pace: Pace,
    busy: bool,
    stop: bool,
}

impl<Q: Queue> State<Q> {
    fn idle(&self) -> bool {
        !self.busy && self.aside.is_empty() && self.fence.is_none()
    }

    /// Drops what was taken and has not begun; how much that was.
    fn abandon(&mut self) -> u64 {
        let aside = std::mem::take(&mut self.aside).len() as u64;
        aside + u64::from(self.fence.take().is_some())
    }
}

struct Shared<Q: Queue> {
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

/// A lane as the others of its device know it: it ends when its owner drops it.
pub struct Peer<Q: Queue>(Weak<Shared<Q>>);

impl<Q: Queue> Peer<Q> {
    /// Makes an access, as [`Lane::with`] does.
    pub fn with<R>(&self, access: impl FnOnce(&mut Q) -> R) -> Option<R> {
        self.0.upgrade().map(|shared| shared.with(access))
    }

    /// Makes an access that abandons the descriptors in flight. They may go on until
    /// [`Peer::idle`].
    pub fn cancel<R>(&self, access: impl FnOnce(&mut Q) -> R) -> Option<R> {
        self.0.upgrade().map(|shared| shared.cancel(access))
    }

    /// Resets the lane, as [`Lane::reset`] does.
    pub fn reset(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.reset();
        }
    }

    /// Returns `true` if every descriptor that was taken off the queue is done.
    pub fn idle(&self) -> bool {
        self.0.upgrade().is_none_or(|s| s.lock().idle())
    }
}

impl<Q: Queue> Lane<Q> {
    /// Starts the thread of a channel.
    pub fn new(queue: Q, channel: u16, host: Arc<Host>) -> std::io::Result<Lane<Q>> {
        let mut lane = Lane::manual(queue, channel, host);
        let worker = Arc::clone(&lane.shared);
        let thread = thread::Builder::new()
            .name(format!("channel{channel}"))
            .spawn(move || worker.work())?;
        lane.thread = Some(thread);
        Ok(lane)
    }

    /// Creates a channel without a thread, which works in [`Lane::turn`].
    pub fn manual(queue: Q, channel: u16, host: Arc<Host>) -> Lane<Q> {
        let state = State {
            queue,
            aside: Vec::new(),
            fence: None,
            pace: Pace::default(),
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
        Lane {
            shared,
            thread: None,
        }
    }

    /// Takes and carries out one descriptor on this thread; `false` if there was none.
    pub fn turn(&self) -> bool {
        self.shared.turn(self.shared.lock()).1
    }

    /// Returns the handle by which other channels reach this one.
    pub fn peer(&self) -> Peer<Q> {
        Peer(Arc::downgrade(&self.shared))
    }

    /// Accesses the queue's registers.
    pub fn with<R>(&self, access: impl FnOnce(&mut Q) -> R) -> R {
        self.shared.with(access)
    }

    /// Resets the queue. Nothing of it is in flight when this returns.
    pub fn reset(&self) {
        self.shared.reset();
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

    fn with<R>(&self, access: impl FnOnce(&mut Q) -> R) -> R {
        self.access(self.lock(), access)
    }

    fn cancel<R>(&self, access: impl FnOnce(&mut Q) -> R) -> R {
        let mut state = self.lock();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.abandon(&mut state);
        self.access(state, access)
    }

    fn reset(&self) {
        self.cancel(Q::reset);
        let mut state = self.lock();
        while state.busy {
            state = self.sleep(state, TICK);
        }
    }

    fn access<R>(&self, mut state: MutexGuard<'_, State<Q>>, act: impl FnOnce(&mut Q) -> R) -> R {
        let result = act(&mut state.queue);
        if state.idle() && !self.host.gone() {
            state.queue.quiet(&self.host.memory);
        }
        if let Some(vector) = state.queue.interrupt() {
            self.host.interrupt(self.channel, vector);
        }
        drop(state);
        self.wake.notify_all();
        result
    }

    fn abandon(&self, state: &mut State<Q>) {
        let dropped = state.abandon();
        self.host.counters(self.channel).aborted.add(dropped);
    }

    fn sleep<'a>(
        &self,
        state: MutexGuard<'a, State<Q>>,
        time: Duration,
    ) -> MutexGuard<'a, State<Q>> {
        let slept = self.wake.wait_timeout(state, time);
        slept.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Returns `true` if the queue waits for bus mastering.
    fn stalled(&self) -> bool {
        Q::STALLS && !self.host.memory.bus_master()
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
            let worked;
            (state, worked) = self.turn(state);
            if !worked && !state.stop {
                let slept = self.wake.wait(state);
                state = slept.unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Takes and carries out one descriptor; `false` if there was none.
    fn turn<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State<Q>>,
    ) -> (MutexGuard<'a, State<Q>>, bool) {
        // Before a fault strikes, or it could be released before it is looked for.
        let released = self.host.released();
        let picked = if self.host.gone() || self.stalled() {
            None
        } else {
            self.pick(&mut state)
        };
        if picked.is_none() && state.idle() && !self.host.gone() {
            state.queue.quiet(&self.host.memory);
        }
        if let Some(vector) = state.queue.interrupt() {
            self.host.interrupt(self.channel, vector);
        }
        let Some((mut job, faults)) = picked else {
            state.pace.pause();
            return (state, false);
        };
        let epoch = self.epoch.load(Ordering::SeqCst);
        let doorbells = self.host.counters(self.channel).doorbells.get();
        let start = state.pace.begin(Instant::now(), doorbells);
        state.busy = true;
        drop(state);
        let done = self.carry_out((epoch, released), start, &mut job, &faults);
        state = self.lock();
        state.busy = false;
        // A fault takes its own time.
        match done {
            Some((_, due)) if faults.is_empty() => state.pace.end(due, doorbells),
            _ => state.pace.pause(),
        }
        match done {
            Some((result, _)) if self.live(epoch) => {
                self.complete(&mut state, epoch, job, result, &faults);
            }
            _ => self.host.counters(self.channel).aborted.bump(),
        }
        self.wake.notify_all();
        (state, true)
    }

    /// Returns the descriptor to be carried out next, and what befalls it.
    fn pick(&self, state: &mut State<Q>) -> Option<(Q::Job, Vec<Kind>)> {
        loop {
            let mut due = state.aside.iter().position(|a| a.left == 0);
            if state.fence.is_some() {
                due = due.or(state.aside.len().checked_sub(1));
            }
            if let Some(due) = due {
                let Aside { job, faults, .. } = state.aside.remove(due);
                return Some((job, faults));
            }
            let job = match state.fence.take() {
                Some(job) => Some(job),
                None => {
                    let job = state.queue.next(&self.host.memory);
                    let fetches = state.queue.fetches(job.is_some());
                    self.host.counters(self.channel).fetches.add(fetches);
                    if state.queue.ended() {
                        self.abandon(state);
                    }
                    job
                }
            };
            let Some(mut job) = job else {
                let Aside { job, faults, .. } = state.aside.pop()?;
                return Some((job, faults));
            };
            let fenced = Q::fenced(&job);
            if fenced && !state.aside.is_empty() {
                state.fence = Some(job);
                continue;
            }
            let faults = self
                .host
                .strike(self.channel, |fault| Q::meets(&job, fault));
            state.queue.begin(&mut job, &faults, &self.host.memory);
            let behind = faults.iter().find_map(|fault| match *fault {
                Kind::OutOfOrder { count } => Some(count),
                _ => None,
            });
            match behind {
                Some(left) if !fenced && left > 0 && state.aside.len() < MOST_ASIDE => {
                    state.aside.push(Aside { job, faults, left });
                }
                _ => return Some((job, faults)),
            }
        }
    }

    /// Carries out a descriptor. Returns the result and the time at which it was due, or `None` if
    /// the epoch ended.
    fn carry_out(
        &self,
        (epoch, released): (u64, u64),
        start: Instant,
        job: &mut Q::Job,
        faults: &[Kind],
    ) -> Option<(Result<(), Q::Error>, Instant)> {
        let host = &self.host;
        let wait = |until| self.pause(epoch, Some(until), || false);
        let stalled = || self.stalled();
        let mut io = Io {
            wait: Some(&wait),
            stalled: Some(&stalled),
            ..Io::plain(&host.memory)
        };
        let (mut fail, mut silent) = (None, false);
        for fault in faults {
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
        let time = host.limit(self.channel).time(copied);
        // Without a limit it is as fast as it is.
        let due = if time.is_zero() {
            Instant::now()
        } else {
            start + time
        };
        if !wait(due) {
            return None;
        }
        for fault in faults {
            if let Kind::Reorder { behind, count } = *fault {
                let other = &host.counters(behind).descriptors;
                let target = other.get().saturating_add(count);
                if !self.pause(epoch, None, || other.get() >= target) {
                    return None;
                }
            }
        }
        // An interrupt needs bus mastering.
        if !self.pause(epoch, None, || !self.stalled()) {
            return None;
        }
        Some((result, due))
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
        let good = result.is_ok();
        if let Some(vector) = Q::message(&job).filter(|_| good) {
            self.send(epoch, vector, faults);
        }
        state.queue.complete(job, result, &self.host.memory);
        counters.descriptors.bump();
        for aside in &mut state.aside {
            aside.left = aside.left.saturating_sub(1);
        }
        if state.queue.ended() {
            self.abandon(state);
        }
        if let Some(vector) = state.queue.interrupt() {
            self.send(epoch, vector, faults);
        }
    }

    /// Sends the interrupt of a descriptor, with the faults that befall it.
    fn send(self: &Arc<Self>, epoch: u64, vector: u16, faults: &[Kind]) {
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
