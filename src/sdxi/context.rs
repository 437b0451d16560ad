// SPDX-License-Identifier: GPL-2.0

//! A context of a function, as who copies with it sees it.
//!
//! [`Context::submit()`] and [`Context::reap()`] take one leaf lock, and neither allocate nor sleep;
//! they may be called in interrupt context. What the function does to a context (start, stop, give
//! up) is in `function`, under the function's own lock.
//!
//! A context that has failed takes no copies. What it had is reported when it has been proven to
//! have stopped, by the next [`Context::reap()`]: reported means that the device does not touch
//! source and destination any more, whether good or not.
//!
//! Locks: the client's, then the ring's, both with interrupts off. A [`Client`] is called with the
//! former held, and reports with the latter.

use super::counters::counters;
use crate::kapi::{
    pci,
    sdxi::{
        Channel,
        DeviceAddress,
        Refused, //
    },
};
use core::mem;
use ferry_core::sdxi::{
    ring::Report,
    table::ContextState, //
};
use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        SpinLockIrq, //
    },
};

/// What is called when an interrupt of a context has come, or its state has changed.
pub(crate) trait Client: Send + Sync {
    /// Calls [`Context::reap()`], or has somebody do so. In interrupt context, or with interrupts
    /// off. Not to be used for anything that needs the function.
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

pub(super) struct Inner {
    pub(super) channel: Option<Channel>,
    pub(super) life: Life,
    /// Wakes the function's thread, as long as there is one.
    pub(super) waker: Option<pci::Waker>,
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

/// A context that copies; its number is 1 at least.
#[pin_data]
pub(crate) struct Context {
    number: u16,
    #[pin]
    client: SpinLockIrq<Option<Arc<dyn Client>>>,
    #[pin]
    inner: SpinLockIrq<Inner>,
    /// Somebody has asked for it: it is started again when it can be.
    pub(super) wanted: Atomic<bool>,
    pub(super) counters: Counters,
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
    channel: &'a mut Channel,
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
        // One slot is kept for the interrupt.
        if self.free() == 0 {
            return Err(Unavailable::Full);
        }
        let report = match want_completion {
            true => Report::Tag(tag),
            false => Report::Later,
        };
        self.channel.push_copy(dst, src, len, report)?;
        self.counters.copies.fetch_add(1, Relaxed);
        self.counters.bytes.fetch_add(len, Relaxed);
        Ok(())
    }

    /// How many more copies there is room for.
    pub(crate) fn free(&self) -> usize {
        self.channel.free().saturating_sub(1)
    }
}

impl Context {
    pub(super) fn new(number: u16) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                number,
                client <- new_spinlock_irq!(None, "Context::client"),
                inner <- new_spinlock_irq!(Inner {
                    channel: None,
                    life: Life::Idle,
                    waker: None,
                }, "Context::inner"),
                wanted: Atomic::new(false),
                counters: Counters::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// Its number.
    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    /// Who is told of interrupts from now on; when it returns, the previous one is not any more.
    /// May sleep.
    pub(crate) fn set_client(&self, client: Option<Arc<dyn Client>>) {
        let old = mem::replace(&mut *self.client.lock(), client);
        drop(old);
    }

    /// Tells the client. Says whether there is one.
    pub(super) fn notify(&self) -> bool {
        let client = self.client.lock();
        if let Some(client) = &*client {
            client.notify(self);
        }
        client.is_some()
    }

    /// Room for copies; 0 if it does not run.
    pub(crate) fn free(&self) -> usize {
        let inner = self.inner.lock();
        match (&inner.channel, inner.life) {
            (Some(channel), Life::Running) => channel.free().saturating_sub(1),
            _ => 0,
        }
    }

    /// Pushes copies and hands them to the device with one doorbell, with an interrupt at their end
    /// if wanted. What was pushed before `f` failed is handed over, too.
    pub(crate) fn submit<R>(
        &self,
        interrupt: bool,
        f: impl FnOnce(&mut Submission<'_>) -> Result<R, Unavailable>,
    ) -> Result<R, Unavailable> {
        let mut guard = self.inner.lock();
        let Inner {
            channel: Some(channel),
            life: Life::Running,
            ..
        } = &mut *guard
        else {
            return Err(Unavailable::Down);
        };
        let result = f(&mut Submission {
            channel: &mut *channel,
            counters: &self.counters,
        });
        if channel.unpublished() > 0 && interrupt {
            // Without, if the context has none: then it is polled.
            let _ = channel.push_interrupt();
        }
        if channel.publish() {
            self.counters.doorbells.fetch_add(1, Relaxed);
        }
        result
    }

    /// Reports what is done; of a context that has been proven to have stopped, everything. Returns
    /// how many descriptors there were.
    pub(crate) fn reap(&self, mut report: impl FnMut(u32, bool)) -> usize {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let Some(channel) = &mut inner.channel else {
            return 0;
        };
        let counters = &self.counters;
        let mut bad = false;
        let mut count = |tag, good| {
            if good {
                counters.good.fetch_add(1, Relaxed);
            } else {
                counters.failed.fetch_add(1, Relaxed);
                bad = true;
            }
            report(tag, good);
        };
        match inner.life {
            Life::Idle => 0,
            Life::Stopped => {
                let n = channel.abandon(count);
                inner.life = Life::Idle;
                inner.wake();
                n
            }
            Life::Failed => channel.reap(count),
            Life::Running => {
                let n = channel.reap(&mut count);
                let stuck = n == 0 && channel.outstanding() > 0;
                // A context that has stopped says so in memory, which costs little to look at.
                if (bad || stuck) && channel.state() != ContextState::Run {
                    inner.life = Life::Failed;
                    counters.errors.fetch_add(1, Relaxed);
                    inner.wake();
                }
                n
            }
        }
    }

    /// Whether it takes copies, and if not, how far it is.
    pub(crate) fn life(&self) -> Life {
        self.inner.lock().life
    }

    /// Takes no copies from now on.
    pub(super) fn fail(&self) {
        let mut inner = self.inner.lock();
        if inner.life == Life::Running {
            inner.life = Life::Failed;
        }
    }

    /// The device has been proven not to work for it any more: what is outstanding can be
    /// reported, and is when the client asks. Without one, nobody wants to know.
    pub(super) fn stopped(&self) {
        {
            let mut inner = self.inner.lock();
            if matches!(inner.life, Life::Running | Life::Failed) {
                inner.life = Life::Stopped;
            }
        }
        let heard = self.notify();
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        if let (Life::Stopped, Some(channel)) = (inner.life, &mut inner.channel) {
            if !heard || channel.outstanding() == 0 {
                channel.abandon(|_, _| {});
                inner.life = Life::Idle;
            }
        }
    }

    /// Has an error been seen, or not yet, but there is one?
    pub(super) fn has_failed(&self) -> bool {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        if let (Life::Running, Some(channel)) = (inner.life, &inner.channel) {
            if channel.state() != ContextState::Run {
                inner.life = Life::Failed;
                self.counters.errors.fetch_add(1, Relaxed);
            }
        }
        inner.life == Life::Failed
    }

    /// Calls `f` with the inside, under the lock.
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        f(&mut self.inner.lock())
    }
}

impl pci::Handler for Context {
    fn interrupt(&self) -> bool {
        self.counters.interrupts.fetch_add(1, Relaxed);
        self.notify();
        false
    }
}
