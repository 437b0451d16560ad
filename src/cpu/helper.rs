// SPDX-License-Identifier: GPL-2.0

//! One helper: its mailbox, and its life between batches.
//!
//! Lock order: the mailbox is a leaf.

use crate::{
    batch::Batch,
    kapi::{
        preempt,
        worker::{
            self,
            Body, //
        },
    },
};
use ferry_core::Lane;
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

/// How long a helper looks for the next batch before it sleeps: the folios of one migration come
/// one after the other, and waking costs the mover more than this costs an idle CPU.
const SPIN_NS: u64 = 200_000;

const ASLEEP: u32 = 0;
const SPINNING: u32 = 1;
const BUSY: u32 = 2;

/// A helper.
#[pin_data]
pub(super) struct Helper {
    lane: Lane,
    cpu: i32,
    node: i32,
    /// What it does, as a hint to who looks for a helper. Relaxed: a stale value costs a wake-up.
    state: Atomic<u32>,
    /// Is there something in the mailbox? Stored with release under its lock, read with acquire by
    /// the helper without it.
    posted: Atomic<u32>,
    #[pin]
    mailbox: SpinLock<Option<Arc<Batch>>>,
}

impl Helper {
    pub(super) fn new(lane: u8, cpu: i32) -> impl PinInit<Self> {
        let node = worker::node_of(cpu);
        pin_init!(Self {
            lane: Lane::new(lane),
            cpu,
            node,
            state: Atomic::new(ASLEEP),
            posted: Atomic::new(0),
            mailbox <- new_spinlock!(None, "ferry::mailbox"),
        })
    }

    pub(super) fn lane(&self) -> Lane {
        self.lane
    }

    pub(super) fn cpu(&self) -> i32 {
        self.cpu
    }

    pub(super) fn node(&self) -> i32 {
        self.node
    }

    /// For a person.
    pub(super) fn doing(&self) -> &'static str {
        match self.state.load(Relaxed) {
            ASLEEP => "asleep",
            SPINNING => "spinning",
            _ => "busy",
        }
    }

    /// Would it begin at once with a batch it is given?
    pub(super) fn could_begin(&self) -> bool {
        self.posted.load(Relaxed) == 0
            && match self.state.load(Relaxed) {
                SPINNING => true,
                ASLEEP => worker::cpu_idle(self.cpu),
                _ => false,
            }
    }

    /// Puts a batch into the mailbox, if it is empty. The helper is to be woken then.
    pub(super) fn post(&self, batch: &Arc<Batch>) -> bool {
        let mut mailbox = self.mailbox.lock();
        if mailbox.is_some() {
            return false;
        }
        batch.mark_given(self.lane.index().into());
        *mailbox = Some(batch.clone());
        self.posted.store(1, Release);
        true
    }

    fn take(&self) -> Option<Arc<Batch>> {
        let mut mailbox = self.mailbox.lock();
        self.posted.store(0, Release);
        mailbox.take()
    }

    /// Takes the batch back, if it is still in the mailbox.
    pub(super) fn retract(&self, batch: &Arc<Batch>) {
        let mut mailbox = self.mailbox.lock();
        if mailbox.as_ref().is_some_and(|b| Arc::ptr_eq(b, batch)) {
            self.posted.store(0, Release);
            let taken = mailbox.take();
            drop(mailbox);
            if let Some(batch) = taken {
                Batch::put(batch);
            }
        }
    }
}

impl Body for Helper {
    fn pending(&self) -> bool {
        self.posted.load(Acquire) != 0
    }

    fn run(&self) {
        loop {
            while let Some(batch) = self.take() {
                self.state.store(BUSY, Relaxed);
                if let Some(session) = batch.session() {
                    session.migrator.pass_on(&batch);
                }
                batch.work(self.lane);
                Batch::put(batch);
            }
            self.state.store(SPINNING, Relaxed);
            let from = preempt::clock();
            while !self.pending()
                && !preempt::need_resched()
                && preempt::clock().saturating_sub(from) < SPIN_NS
            {
                kernel::processor::cpu_relax();
            }
            if !self.pending() {
                break;
            }
        }
        self.state.store(ASLEEP, Relaxed);
    }
}
