// SPDX-License-Identifier: GPL-2.0

//! A context of a function, as who copies with it sees it.
//!
//! Who uses one has a [`ContextLease`] to it. [`Context::submit()`] and [`Context::reap()`] take
//! one leaf lock, and neither allocate nor sleep. What the function does to a context (start, stop,
//! give up) is the driver's, under the function's own lock.
//!
//! A context that has failed takes no copies. What it had is reported when it has been proven to
//! have stopped, by the next [`Context::reap()`]: reported means that the device does not touch
//! source and destination any more, whether good or not.
//!
//! Reports have a tag, or are ends of copies ([`fb::ferry_end`]), which only this module's
//! [`queue`](super::queue) pushes: [`EndQueue`] has them in the order of the ring, which is that in
//! which they are reported.
//!
//! Locks: the listener's, then the ring's; neither is taken in interrupts. A [`Client`] is called
//! with the former held, and reports with the latter; ends are called with the former.

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

/// So many errors are too many, without so many good copies in between.
const MAX_ERRORS: u32 = 8;
const ERROR_RESET: u32 = 1024;

/// What is called when an interrupt of a context has come, or its state has changed.
pub(crate) trait Client: Send + Sync {
    /// Calls [`Context::reap()`], or has somebody do so. With a spinlock held. Not to be used for
    /// anything that needs the function.
    fn notify(&self, context: &Context);
}

/// The life of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Never started, or stopped with nothing outstanding: it can be started.
    Idle,
    /// Takes copies.
    Running,
    /// Takes no copies, and may be copying.
    Failed,
    /// Proven to have stopped; what is outstanding has not been reported.
    Stopped,
}

impl Life {
    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Running => "running",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// What the lock of the ring protects.
pub(crate) struct Inner {
    /// Its ring, and all of its memory. None before it is started for the first time.
    pub(crate) ring: Option<ContextRing>,
    /// How far it is.
    pub(crate) life: Life,
    /// Wakes the function's thread, as long as there is one.
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
    /// What has happened to a context.
    Counters: copies, bytes, good, failed, doorbells, interrupts, starts, errors,
}

/// Who listens.
enum Listener {
    None,
    Client(Arc<dyn Client>),
    /// Whom each copy names.
    EndQueue,
}

/// The tag of a copy that is in [`EndQueue`].
const END: u32 = u32::MAX;

/// Ends of copies that are to be called, in the order of the ring: `called..ended` have been
/// reported, `ended..pushed` not yet.
struct EndQueue {
    /// Pointers to [`fb::ferry_end`]; 0 if nobody wants to know any more. Bit 0: it was good.
    table: KVec<Atomic<usize>>,
    /// These two change with the lock of the ring held.
    pushed: Atomic<u64>,
    ended: Atomic<u64>,
    /// With the listener's lock.
    called: Atomic<u64>,
}

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

    /// Writes the next one, if there is room; it is there when [`Self::commit()`] has been called.
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

    fn commit(&self) {
        let pushed = self.pushed.load(Relaxed);
        self.pushed.store(pushed.wrapping_add(1), Relaxed);
    }

    /// The oldest one that has not been reported is.
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

    /// Tells of those that have been reported. With the listener's lock.
    fn call(&self) {
        loop {
            let called = self.called.load(Relaxed);
            if called == self.ended.load(Acquire) {
                return;
            }
            let word = self.word(called).map_or(0, |word| word.load(Relaxed));
            let end = (word & !GOOD) as *const fb::ferry_end;
            // SAFETY: Who has pushed it keeps it until it has been called, which happens here and
            // once, or has given up the claim, which makes it 0 with the lock held that our caller
            // has.
            if let Some(end) = unsafe { end.as_ref() } {
                if let Some(f) = end.fn_ {
                    // SAFETY: As the end wants to be called.
                    unsafe { f(end, word & GOOD != 0) };
                }
            }
            self.called.store(called.wrapping_add(1), Release);
        }
    }

    /// Nobody wants to know any more. With both locks.
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

    /// Has everything been called that was pushed?
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
    /// There is a [`ContextLease`].
    leased: Atomic<bool>,
    /// Somebody has asked for it: it is started again when it can be.
    pub(crate) wanted: Atomic<bool>,
    /// Errors, and good copies since the last one.
    errors_in_row: Atomic<u32>,
    good: Atomic<u32>,
    /// For people.
    pub(crate) counters: Counters,
}

/// The right to use a context, which one has at a time.
pub(crate) struct ContextLease(Arc<Context>);

impl Deref for ContextLease {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.0
    }
}

impl ContextLease {
    /// None if somebody else has it.
    pub(crate) fn new(context: &Arc<Context>) -> Option<Self> {
        if context.leased.xchg(true, Acquire) {
            return None;
        }
        context.errors_in_row.store(0, Relaxed);
        Some(Self(context.clone()))
    }

    /// Who is called of interrupts from now on.
    pub(crate) fn set_client(&self, client: Arc<dyn Client>) {
        self.0.listen(Listener::Client(client));
    }

    /// Copies say themselves who is called of their ends.
    pub(super) fn call_ends(&self) {
        self.0.listen(Listener::EndQueue);
        // What was left of the one before has its place again.
        self.0.notify();
    }
}

impl Drop for ContextLease {
    fn drop(&mut self) {
        self.0.remove_listener();
        self.0.leased.store(false, Release);
    }
}

/// Why nothing could be submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// No room now.
    Full,
    /// No such copy can be made.
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

/// Copies that are being put together, with the lock held; handed to the device at the end.
pub(crate) struct Submission<'a> {
    ring: &'a mut ContextRing,
    counters: &'a Counters,
}

impl Submission<'_> {
    /// Pushes a copy of `len` bytes. With `want_completion` its tag is reported when it and all
    /// since the last one that wanted it are done, good if all of them are.
    ///
    /// Source and destination stay mapped for this function, and are not used otherwise, until
    /// then.
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
        // One slot is kept for the interrupt.
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

    /// How many more copies there is room for.
    pub(crate) fn free(&self) -> usize {
        self.ring.free().saturating_sub(1)
    }
}

impl Context {
    /// A context that has not been started.
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

    /// Its number.
    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    fn listen(&self, listener: Listener) {
        let old = mem::replace(&mut *self.listener.lock(), listener);
        // Not with the lock: the last reference to a client may go.
        drop(old);
    }

    /// Nobody is called of anything any more.
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

    /// Tells who listens. Says whether anybody does.
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

    /// Room for copies; 0 if it does not run.
    pub(crate) fn free(&self) -> usize {
        let inner = self.inner.lock();
        match (&inner.ring, inner.life) {
            (Some(ring), Life::Running) => ring.free().saturating_sub(1),
            _ => 0,
        }
    }

    /// Does it take copies? One of which nobody has noticed that it has stopped does not.
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

    /// Has it failed again and again?
    pub(crate) fn is_failing(&self) -> bool {
        self.errors_in_row.load(Relaxed) >= MAX_ERRORS
    }

    /// Calls `f` if it runs, with the lock of the ring.
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

    fn publish(&self, ring: &mut ContextRing, interrupt: bool) {
        if ring.unpublished() > 0 && interrupt {
            // Without, if the context has none: then it is polled.
            let _ = ring.push_interrupt();
        }
        if ring.publish() {
            self.counters.doorbells.fetch_add(1, Relaxed);
        }
    }

    /// Pushes copies and hands them to the device with one doorbell, with an interrupt at their end
    /// if wanted. What was pushed before `f` failed is handed over, too.
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

    /// Hands what was pushed to the device, with one doorbell, and one interrupt at its end.
    pub(super) fn issue(&self) {
        // One that does not run any more reports all of it when it has stopped.
        let _ = self.running(|ring| self.publish(ring, true));
    }

    /// Has everything been called of that was pushed with an end?
    pub(super) fn all_called(&self) -> bool {
        self.ends.all_called()
    }

    /// Reports what is done; of a context that has been proven to have stopped, everything. Returns
    /// how many descriptors there were.
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
                // A context that has stopped says so in memory, which costs little to look at.
                if (bad || stuck) && !self.check_running(inner) {
                    inner.wake();
                }
                n
            }
        }
    }

    /// An error.
    fn record_error(&self) {
        self.counters.errors.fetch_add(1, Relaxed);
        self.errors_in_row.fetch_add(1, Relaxed);
        self.good.store(0, Relaxed);
    }

    /// A good copy.
    fn record_success(&self) {
        if self.good.fetch_add(1, Relaxed) == ERROR_RESET {
            self.errors_in_row.store(0, Relaxed);
        }
    }

    /// Whether it takes copies, and if not, how far it is.
    pub(crate) fn life(&self) -> Life {
        self.inner.lock().life
    }

    /// Takes no copies from now on.
    pub(crate) fn fail(&self) {
        let mut inner = self.inner.lock();
        if inner.life == Life::Running {
            inner.life = Life::Failed;
        }
    }

    /// The device has been proven not to work for it any more: what is outstanding can be
    /// reported, and is when the client asks. Without one, nobody wants to know.
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
            // The proof is kept, for the next start.
            if ring.outstanding() == 0 && ring.abandon(|_, _| {}).is_some() {
                inner.life = Life::Idle;
            }
        }
    }

    /// Does it run, says the device in memory, too? It has failed if not.
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

    /// The device has said otherwise that it has stopped it.
    pub(crate) fn mark_failed(&self) {
        let mut inner = self.inner.lock();
        if inner.life == Life::Running {
            inner.life = Life::Failed;
            self.record_error();
        }
    }

    /// Has an error been seen, or not yet, but there is one?
    pub(crate) fn has_failed(&self) -> bool {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        self.check_running(inner);
        inner.life == Life::Failed
    }

    /// Calls `f` with the inside, under the lock.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        f(&mut self.inner.lock())
    }
}

impl pci::Handler for Context {
    fn interrupt(&self) -> bool {
        self.counters.interrupts.fetch_add(1, Relaxed);
        true
    }

    // Unmapping what many descriptors had takes too long for an interrupt.
    fn thread(&self) {
        self.notify();
    }
}
