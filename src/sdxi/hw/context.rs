// SPDX-License-Identifier: GPL-2.0

//! Contexts of a function, with the interface for clients that submit copies.
//!
//! A client holds a [`ContextLease`]. [`Context::submit()`] and [`Context::reap()`] take one leaf
//! lock, and neither allocate nor sleep. [`Function`](crate::sdxi::function::Function) starts,
//! stops and recovers contexts, under its own mutex.
//!
//! A context that has failed takes no copies. Its outstanding copies are reported by the next
//! [`Context::reap()`] after it has been proven to have stopped. A report, good or not, means that
//! the device does not touch source and destination any more.
//!
//! Reports have a tag, or are ends of copies ([`fb::ferry_end`]), which only
//! [`queue`](super::queue) pushes: [`EndQueue`] holds ends in the order of the ring, which is that
//! in which they are reported.
//!
//! Locks: [`Context::listener`], then [`Context::inner`], which is the lock of the ring; neither is
//! taken in interrupts. [`Client::notify()`] and ends are called with the former held, callbacks of
//! reports with the latter.

use crate::{
    counters::counters,
    kapi::pci,
    sdxi::hw::{
        memory::DeviceAddress,
        ring::{
            ContextRing,
            Refused,
            SLOTS, //
        }, //
    },
};
use core::{
    mem,
    ops::Deref, //
};
use ferry_bindings as fb;
use ferry_core::sdxi::{
    ring::Report,
    table::ContextState, //
};
use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc,
        SpinLock, //
    },
};

/// Errors of a context with fewer than [`ERROR_RESET`] good copies in between that make it failing:
/// a few, as each of them stops the context and costs the copies that it has. The value is a
/// choice, not measured.
const MAX_ERRORS: u32 = 8;
/// Good copies since the last error that reset the count of errors: an error in a thousand copies
/// does not make a context failing. The value is a choice, not measured.
const ERROR_RESET: u32 = 1024;

/// A client that is notified of interrupts and state changes of a context.
pub(crate) trait Client: Send + Sync {
    /// Calls [`Context::reap()`], or schedules a call.
    ///
    /// # Context
    ///
    /// Called with the spinlock of the listener held. Must not call into the function.
    fn notify(&self, context: &Context);
}

/// The state of a context, as the driver has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// The context was never started, or has stopped with nothing outstanding, and can be started.
    Idle,
    /// The context takes copies.
    Running,
    /// The context takes no copies, and the device may still be executing its descriptors.
    Failed,
    /// The context is proven to have stopped; outstanding descriptors have not been reported.
    Stopped,
}

impl Life {
    /// Returns the name for debugfs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Running => "running",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// State that the lock of the ring protects.
pub(crate) struct Inner {
    /// The ring and all other memory of the context. `None` before it is started for the first
    /// time.
    pub(crate) ring: Option<ContextRing>,
    /// The state of the context.
    pub(crate) life: Life,
    /// The waker of the function's thread, which is `None` when there is no thread.
    pub(crate) waker: Option<pci::Waker>,
}

impl Inner {
    fn wake(&self) {
        if let Some(waker) = self.waker {
            waker.wake();
        }
    }
}

counters! {
    /// Events of a context since it was created.
    Counters: copies, bytes, good, failed, doorbells, interrupts, starts, errors,
}

/// The listener of a context.
enum Listener {
    /// There is no listener.
    None,
    /// A client, which reaps by itself.
    Client(Arc<dyn Client>),
    /// The end of each copy, from [`EndQueue`].
    EndQueue,
}

/// The tag of copies that have an end in [`EndQueue`].
const END: u32 = u32::MAX;

/// Ends of copies that are to be called, in the order of the ring. Ends in `called..ended` have
/// been reported, those in `ended..pushed` not yet.
struct EndQueue {
    /// Pointers to [`fb::ferry_end`], or 0 if the end was discarded. Bit 0 is [`GOOD`]. Accesses
    /// are ordered by `ended` and `called`.
    table: KVec<Atomic<usize>>,
    /// Ends pushed so far. Changes with the lock of the ring held.
    pushed: Atomic<u64>,
    /// Ends reported so far. Changes with the lock of the ring held: the release in `end()` pairs
    /// with the acquire in `call()`.
    ended: Atomic<u64>,
    /// Ends called so far. Changes with the listener's lock held: the release in `call()` pairs
    /// with the acquire in `prepare()`.
    called: Atomic<u64>,
}

/// The bit in a word of [`EndQueue`] that marks a good copy; pointers are aligned, so it is free.
const GOOD: usize = 1;
const _: () = assert!(align_of::<fb::ferry_end>() > GOOD);

impl EndQueue {
    fn new() -> Result<Self> {
        let mut table = KVec::with_capacity(SLOTS, GFP_KERNEL)?;
        for _ in 0..SLOTS {
            table.push(Atomic::new(0), GFP_KERNEL)?;
        }
        Ok(Self {
            table,
            pushed: Atomic::new(0),
            ended: Atomic::new(0),
            called: Atomic::new(0),
        })
    }

    fn word(&self, n: u64) -> Option<&Atomic<usize>> {
        self.table.get((n % SLOTS as u64) as usize)
    }

    /// Writes the next end, which counts when [`Self::commit()`] is called. Returns `false` if
    /// there is no room.
    ///
    /// # Context
    ///
    /// The lock of the ring is held.
    fn prepare(&self, end: *const fb::ferry_end) -> bool {
        let pushed = self.pushed.load(Relaxed);
        if pushed.wrapping_sub(self.called.load(Acquire)) >= SLOTS as u64 {
            return false;
        }
        match self.word(pushed) {
            Some(word) => word.store(end as usize, Relaxed),
            None => return false,
        }
        true
    }

    /// Adds the prepared end.
    fn commit(&self) {
        let pushed = self.pushed.load(Relaxed);
        self.pushed.store(pushed.wrapping_add(1), Relaxed);
    }

    /// Marks the oldest end that has not been reported as reported.
    ///
    /// # Context
    ///
    /// The lock of the ring is held.
    fn end(&self, good: bool) {
        let ended = self.ended.load(Relaxed);
        if let (Some(word), true) = (self.word(ended), good) {
            let end = word.load(Relaxed);
            if end != 0 {
                word.store(end | GOOD, Relaxed);
            }
        }
        self.ended.store(ended.wrapping_add(1), Release);
    }

    /// Calls the ends that have been reported.
    ///
    /// # Context
    ///
    /// The listener's lock is held.
    fn call(&self) {
        loop {
            let called = self.called.load(Relaxed);
            if called == self.ended.load(Acquire) {
                return;
            }
            let word = self.word(called).map_or(0, |word| word.load(Relaxed));
            let end = (word & !GOOD) as *const fb::ferry_end;
            // SAFETY: The caller of `Context::push()` keeps the end until it has been called, which
            // happens only here and once, or until `Context::remove_listener()` has returned, which
            // makes the word 0 with the listener's lock held, as our caller does.
            if let Some(end) = unsafe { end.as_ref() } {
                if let Some(f) = end.fn_ {
                    // SAFETY: The end is called once, with the pointer to itself, as it demands.
                    unsafe { f(end, word & GOOD != 0) };
                }
            }
            self.called.store(called.wrapping_add(1), Release);
        }
    }

    /// Drops all ends that have not been called.
    ///
    /// # Context
    ///
    /// Both locks are held.
    fn discard(&self) {
        let mut n = self.ended.load(Relaxed);
        self.called.store(n, Release);
        while n != self.pushed.load(Relaxed) {
            if let Some(word) = self.word(n) {
                word.store(0, Relaxed);
            }
            n = n.wrapping_add(1);
        }
    }

    /// Returns `true` if all ends that were pushed have been called.
    fn all_called(&self) -> bool {
        self.called.load(Acquire) == self.pushed.load(Relaxed)
    }
}

/// A context that copies; its number is 1 at least.
#[pin_data]
pub(crate) struct Context {
    number: u16,
    #[pin]
    listener: SpinLock<Listener>,
    #[pin]
    inner: SpinLock<Inner>,
    ends: EndQueue,
    /// Set while there is a [`ContextLease`]. The acquire in `ContextLease::new()` pairs with the
    /// release when the lease is dropped.
    leased: Atomic<bool>,
    /// Set when the context has been opened: the function starts it again after errors.
    pub(crate) wanted: Atomic<bool>,
    /// Errors since the count was reset. A heuristic: relaxed accesses, no partner.
    errors_in_row: Atomic<u32>,
    /// Good copies since the last error, relaxed as well.
    good: Atomic<u32>,
    /// Counters for debugfs.
    pub(crate) counters: Counters,
}

/// The exclusive right to use a context.
pub(crate) struct ContextLease(Arc<Context>);

impl Deref for ContextLease {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.0
    }
}

impl ContextLease {
    /// Leases a context, or returns `None` if it is leased already.
    pub(crate) fn new(context: &Arc<Context>) -> Option<Self> {
        if context.leased.xchg(true, Acquire) {
            return None;
        }
        context.errors_in_row.store(0, Relaxed);
        Some(Self(context.clone()))
    }

    /// Sets the client that is notified of interrupts from now on.
    pub(crate) fn set_client(&self, client: Arc<dyn Client>) {
        self.0.listen(Listener::Client(client));
    }

    /// Sets that the end of each copy is called, instead of a client.
    pub(super) fn call_ends(&self) {
        self.0.listen(Listener::EndQueue);
        // Frees the slots of descriptors that a previous client left.
        self.0.notify();
    }
}

impl Drop for ContextLease {
    fn drop(&mut self) {
        self.0.remove_listener();
        self.0.leased.store(false, Release);
    }
}

/// The reason why a copy was not submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// The ring has no room now.
    Full,
    /// The device cannot make such a copy.
    Invalid,
    /// The context does not run now.
    Down,
}

impl From<Refused> for Unavailable {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::Full,
            Refused::Invalid => Self::Invalid,
        }
    }
}

/// Copies that are being pushed with the lock of the ring held, and published together at the end.
pub(crate) struct Submission<'a> {
    ring: &'a mut ContextRing,
    counters: &'a Counters,
}

impl Submission<'_> {
    /// Pushes a copy of `len` bytes. With `want_completion` its tag is reported when this copy and
    /// all copies since the previous reported one are done; the report is good if all of them are.
    ///
    /// Source and destination stay mapped for this function, and are not used otherwise, until
    /// the report.
    pub(crate) fn push(
        &mut self,
        dst: DeviceAddress,
        src: DeviceAddress,
        len: u64,
        tag: u32,
        want_completion: bool,
    ) -> Result<(), Unavailable> {
        if tag == END {
            return Err(Unavailable::Invalid);
        }
        // One slot is reserved for the interrupt.
        if self.free() == 0 {
            return Err(Unavailable::Full);
        }
        let report = match want_completion {
            true => Report::Tag(tag),
            false => Report::Later,
        };
        self.ring.push_copy(dst, src, len, report)?;
        self.counters.copies.fetch_add(1, Relaxed);
        self.counters.bytes.fetch_add(len, Relaxed);
        Ok(())
    }

    /// Returns the number of copies that there is room for.
    pub(crate) fn free(&self) -> usize {
        self.ring.free().saturating_sub(1)
    }
}

impl Context {
    /// Creates a context that has not been started.
    pub(crate) fn new(number: u16) -> Result<Arc<Self>> {
        let ends = EndQueue::new()?;
        Arc::pin_init(
            pin_init!(Self {
                number,
                listener <- new_spinlock!(Listener::None, "Context::listener"),
                inner <- new_spinlock!(Inner {
                    ring: None,
                    life: Life::Idle,
                    waker: None,
                }, "Context::inner"),
                ends,
                leased: Atomic::new(false),
                wanted: Atomic::new(false),
                errors_in_row: Atomic::new(0),
                good: Atomic::new(0),
                counters: Counters::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// Returns the number of the context.
    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    /// Replaces the listener.
    fn listen(&self, listener: Listener) {
        let old = mem::replace(&mut *self.listener.lock(), listener);
        // Without the lock, as this may drop the last reference to a client.
        drop(old);
    }

    /// Removes the listener, and discards the ends that have not been called.
    pub(crate) fn remove_listener(&self) {
        let old = {
            let mut listener = self.listener.lock();
            let inner = self.inner.lock();
            self.ends.discard();
            drop(inner);
            mem::replace(&mut *listener, Listener::None)
        };
        drop(old);
    }

    /// Notifies the listener. Returns `true` if there is one.
    pub(crate) fn notify(&self) -> bool {
        let listener = self.listener.lock();
        match &*listener {
            Listener::None => return false,
            Listener::Client(client) => client.notify(self),
            Listener::EndQueue => {
                self.reap(|_, _| {});
                self.ends.call();
            }
        }
        true
    }

    /// Returns the number of copies that there is room for, which is 0 if the context does not run.
    pub(crate) fn free(&self) -> usize {
        let inner = self.inner.lock();
        match (&inner.ring, inner.life) {
            (Some(ring), Life::Running) => ring.free().saturating_sub(1),
            _ => 0,
        }
    }

    /// Returns `true` if the context takes copies. Reads its status in memory, so that a stop that
    /// has not been noticed yet counts.
    pub(crate) fn is_ready(&self) -> bool {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        if inner.life != Life::Running {
            return false;
        }
        let ready = self.check_running(inner);
        if !ready {
            inner.wake();
        }
        ready
    }

    /// Returns `true` if the context has failed [`MAX_ERRORS`] times in a row.
    pub(crate) fn is_failing(&self) -> bool {
        self.errors_in_row.load(Relaxed) >= MAX_ERRORS
    }

    /// Calls `f` with the ring, under its lock, if the context runs.
    fn running<R>(&self, f: impl FnOnce(&mut ContextRing) -> R) -> Result<R, Unavailable> {
        match &mut *self.inner.lock() {
            Inner {
                ring: Some(ring),
                life: Life::Running,
                ..
            } => Ok(f(ring)),
            _ => Err(Unavailable::Down),
        }
    }

    /// Publishes pushed descriptors, with an interrupt at their end if `interrupt`.
    fn publish(&self, ring: &mut ContextRing, interrupt: bool) {
        if ring.unpublished() > 0 && interrupt {
            // A context without an interrupt is polled, so the error is not one.
            let _ = ring.push_interrupt();
        }
        if ring.publish() {
            self.counters.doorbells.fetch_add(1, Relaxed);
        }
    }

    /// Pushes copies and publishes them with one doorbell, and one interrupt at their end if
    /// `interrupt`. Copies that were pushed before `f` failed are published, too.
    pub(crate) fn submit<R>(
        &self,
        interrupt: bool,
        f: impl FnOnce(&mut Submission<'_>) -> Result<R, Unavailable>,
    ) -> Result<R, Unavailable> {
        self.running(|ring| {
            let result = f(&mut Submission {
                ring,
                counters: &self.counters,
            });
            self.publish(ring, interrupt);
            result
        })?
    }

    /// Pushes a copy; the device does not see it before [`Self::issue()`].
    ///
    /// # Safety
    ///
    /// `end` lives until it has been called, or [`Self::remove_listener()`] has been. Source and
    /// destination stay mapped for this function, and are not used otherwise, until it has been
    /// called.
    pub(super) unsafe fn push(
        &self,
        dst: DeviceAddress,
        src: DeviceAddress,
        len: u64,
        end: *const fb::ferry_end,
    ) -> Result<(), Unavailable> {
        self.running(|ring| {
            if ring.free() <= 1 || !self.ends.prepare(end) {
                return Err(Unavailable::Full);
            }
            ring.push_copy(dst, src, len, Report::Tag(END))?;
            self.ends.commit();
            self.counters.copies.fetch_add(1, Relaxed);
            self.counters.bytes.fetch_add(len, Relaxed);
            Ok(())
        })?
    }

    /// Publishes all pushed copies, with one doorbell and one interrupt at their end.
    pub(super) fn issue(&self) {
        // If the context does not run any more, its copies are reported when it has stopped.
        let _ = self.running(|ring| self.publish(ring, true));
    }

    /// Returns `true` if the ends of all pushed copies have been called.
    pub(super) fn all_called(&self) -> bool {
        self.ends.all_called()
    }

    /// Reports completed descriptors, or all descriptors of a context that has been proven to have
    /// stopped. Returns the number of descriptors.
    pub(crate) fn reap(&self, mut report: impl FnMut(u32, bool)) -> usize {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let Some(ring) = &mut inner.ring else {
            return 0;
        };
        let counters = &self.counters;
        let mut bad = false;
        let mut count = |tag, good| {
            if good {
                counters.good.fetch_add(1, Relaxed);
                self.record_success();
            } else {
                counters.failed.fetch_add(1, Relaxed);
                bad = true;
            }
            match tag {
                END => self.ends.end(good),
                tag => report(tag, good),
            }
        };
        match inner.life {
            Life::Idle => 0,
            Life::Stopped => match ring.abandon(count) {
                Some(n) => {
                    inner.life = Life::Idle;
                    inner.wake();
                    n
                }
                None => 0,
            },
            Life::Failed => ring.reap(count),
            Life::Running => {
                let n = ring.reap(&mut count);
                let stuck = n == 0 && ring.outstanding() > 0;
                // The status of a context is in memory, so that a stop is cheap to detect.
                if (bad || stuck) && !self.check_running(inner) {
                    inner.wake();
                }
                n
            }
        }
    }

    /// Counts an error.
    fn record_error(&self) {
        self.counters.errors.fetch_add(1, Relaxed);
        self.errors_in_row.fetch_add(1, Relaxed);
        self.good.store(0, Relaxed);
    }

    /// Counts a good copy, and resets the count of errors after [`ERROR_RESET`] of them.
    fn record_success(&self) {
        if self.good.fetch_add(1, Relaxed) == ERROR_RESET {
            self.errors_in_row.store(0, Relaxed);
        }
    }

    /// Returns the state of the context.
    pub(crate) fn life(&self) -> Life {
        self.inner.lock().life
    }

    /// Stops taking copies.
    pub(crate) fn fail(&self) {
        let mut inner = self.inner.lock();
        if inner.life == Life::Running {
            inner.life = Life::Failed;
        }
    }

    /// Records proof that the device does not execute descriptors of the context any more, and
    /// notifies the listener, which has outstanding descriptors reported. Without a listener they
    /// are reaped and dropped.
    pub(crate) fn stopped(&self) {
        {
            let mut inner = self.inner.lock();
            if matches!(inner.life, Life::Running | Life::Failed) {
                inner.life = Life::Stopped;
            }
        }
        if !self.notify() {
            self.reap(|_, _| {});
        }
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        if let (Life::Stopped | Life::Idle, Some(ring)) = (inner.life, &mut inner.ring) {
            // The ring keeps the proof for the next start.
            if ring.outstanding() == 0 && ring.abandon(|_, _| {}).is_some() {
                inner.life = Life::Idle;
            }
        }
    }

    /// Returns `true` if the context runs, also by its status in memory. Otherwise marks a context
    /// that should run as failed.
    fn check_running(&self, inner: &mut Inner) -> bool {
        let (Life::Running, Some(ring)) = (inner.life, &inner.ring) else {
            return false;
        };
        if ring.state() == ContextState::Run {
            return true;
        }
        inner.life = Life::Failed;
        self.record_error();
        false
    }

    /// Marks a running context as failed, as the error log reports that it has stopped.
    pub(crate) fn mark_failed(&self) {
        let mut inner = self.inner.lock();
        if inner.life == Life::Running {
            inner.life = Life::Failed;
            self.record_error();
        }
    }

    /// Returns `true` if the context has failed, also by its status in memory.
    pub(crate) fn has_failed(&self) -> bool {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        self.check_running(inner);
        inner.life == Life::Failed
    }

    /// Calls `f` with the state that the lock of the ring protects.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        f(&mut self.inner.lock())
    }
}

impl pci::Handler for Context {
    fn interrupt(&self) -> bool {
        self.counters.interrupts.fetch_add(1, Relaxed);
        true
    }

    // Unmapping the memory of many descriptors takes too long for a hard interrupt.
    fn thread(&self) {
        self.notify();
    }
}
