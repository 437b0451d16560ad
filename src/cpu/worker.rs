// SPDX-License-Identifier: GPL-2.0

//! One worker: its mailbox, and its life between batches.
//!
//! Lock order: the mailbox is a leaf.

use crate::{
    batch::Batch,
    cpu::{
        accounting::CpuTime,
        placement::Placement, //
    },
    kapi::{
        kthread,
        sched,
        topology, //
    },
    migrate_copy::spread::SpreadCall,
    stats::{
        Counter,
        Stats, //
    }, //
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
        barrier::{
            smp_mb,
            Full, //
        },
        Arc,
        SpinLock, //
    },
};

/// The nanoseconds for which a worker looks for the next batch before it sleeps, at least and at
/// most.
///
/// The folios of one migration come one after the other, and waking takes longer than many of them
/// need to be copied. How far apart they come depends on the machine and on the folios, so the time
/// grows while it would have been worth it, and shrinks while it is not, as the idle governor
/// haltpoll does it. It is spent on an idle CPU, and given up at once when another task wants the
/// CPU.
const MIN_SPIN_NS: u64 = 20_000;
const MAX_SPIN_NS: u64 = 2_000_000;

const ASLEEP: u32 = 0;
/// A mover or a worker wakes it, and stored this after it had found ASLEEP. The worker overwrites
/// it as soon as it runs, and it does run, even if its batch is gone by then.
const WAKING: u32 = 1;
const SPINNING: u32 = 2;
const BUSY: u32 = 3;

/// A worker.
#[pin_data]
pub(super) struct Worker {
    lane: Lane,
    cpu: topology::Cpu,
    node: i32,
    /// What it does. Stored by the worker, and read by a task that looks for a worker: as a hint
    /// before [`Worker::post()`], after it to decide whether the worker must be woken (see there).
    state: Atomic<u32>,
    /// The mover of its last batch. A hint, stored by the worker and read by a task that looks for
    /// one.
    mover: Atomic<usize>,
    /// The nanoseconds for which it looks for the next batch, and the time at which it last gave
    /// up. Only the worker uses them.
    spin_ns: Atomic<u64>,
    asleep_since: Atomic<u64>,
    cpu_time: CpuTime,
    /// The number of chunks that it has copied, for debugfs.
    chunks: Atomic<u64>,
    placement: Arc<Placement>,
    /// Not 0 if a batch is in the mailbox. Stored with release under its lock, read with acquire by
    /// the worker without it.
    posted: Atomic<u32>,
    #[pin]
    mailbox: SpinLock<Option<Work>>,
}

/// What a worker is given.
enum Work {
    /// A batch, of which it copies chunks.
    Batch(Arc<Batch>),
    /// A call, of which it migrates batches, and the counters of the migrator.
    Call(SpreadCall, Arc<Stats>),
}

impl Worker {
    pub(super) fn new(
        lane: u8,
        cpu: topology::Cpu,
        placement: Arc<Placement>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            lane: Lane::new(lane),
            cpu,
            node: cpu.node(),
            state: Atomic::new(ASLEEP),
            mover: Atomic::new(0),
            spin_ns: Atomic::new(MIN_SPIN_NS),
            asleep_since: Atomic::new(0),
            cpu_time: CpuTime::new(),
            chunks: Atomic::new(0),
            placement,
            posted: Atomic::new(0),
            mailbox <- new_spinlock!(None, "ferry::mailbox"),
        })
    }

    pub(super) fn lane(&self) -> Lane {
        self.lane
    }

    pub(super) fn cpu(&self) -> topology::Cpu {
        self.cpu
    }

    pub(super) fn node(&self) -> i32 {
        self.node
    }

    /// Returns, for debugfs, what it does and the number of chunks that it has copied.
    pub(super) fn doing(&self) -> (&'static str, u64) {
        let doing = match self.state.load(Relaxed) {
            ASLEEP => "asleep",
            WAKING => "waking",
            SPINNING => "spinning",
            _ => "busy",
        };
        (doing, self.chunks.load(Relaxed))
    }

    /// Returns `true` if it would begin at once with a batch that this mover gives it.
    pub(super) fn could_begin(&self, mover: usize) -> bool {
        self.posted.load(Relaxed) == 0
            && match self.state.load(Relaxed) {
                ASLEEP => self.cpu.is_idle(),
                WAKING | SPINNING => self.cpu.is_usable(),
                // The batch it has is over, or the mover would not give it another one.
                _ => self.mover.load(Relaxed) == mover && self.cpu.is_usable(),
            }
    }

    /// Puts a batch into the mailbox, if it is empty.
    ///
    /// Returns `Some(true)` if the caller then has to wake the worker, and `None` if the mailbox
    /// was full.
    pub(super) fn post(&self, batch: &Arc<Batch>) -> Option<bool> {
        self.post_work(|| {
            batch.mark_given(self.lane.index().into());
            Work::Batch(batch.clone())
        })
    }

    /// Puts a call into the mailbox, as [`Self::post()`] does with a batch.
    pub(super) fn post_call(&self, call: &SpreadCall, stats: &Arc<Stats>) -> Option<bool> {
        self.post_work(|| Work::Call(call.clone(), stats.clone()))
    }

    fn post_work(&self, work: impl FnOnce() -> Work) -> Option<bool> {
        {
            let mut mailbox = self.mailbox.lock();
            if mailbox.is_some() {
                return None;
            }
            *mailbox = Some(work());
            self.posted.store(1, Release);
        }
        // Orders the store to `posted` before the load of `state`. Pairs with the barrier in
        // set_current_state() of `ferry_kthread_sleep()`, between the store of ASLEEP and the last
        // look at `posted`: either we see ASLEEP, or the worker sees the batch. It also does if we
        // see WAKING instead: the task that has stored that wakes the worker afterwards.
        smp_mb(Full);
        let asleep = self.state.load(Relaxed) == ASLEEP;
        if asleep {
            self.state.store(WAKING, Relaxed);
        }
        Some(asleep)
    }

    /// Adapts the time that is spent on looking for the next batch, which has come just now.
    fn learn(&self) {
        let spin = self.spin_ns.load(Relaxed);
        let gap = sched::clock().saturating_sub(self.asleep_since.load(Relaxed));
        let spin = if spin.saturating_add(gap) <= MAX_SPIN_NS {
            spin.saturating_mul(2)
        } else {
            spin / 2
        };
        self.spin_ns
            .store(spin.clamp(MIN_SPIN_NS, MAX_SPIN_NS), Relaxed);
    }

    fn take(&self) -> Option<Work> {
        let mut mailbox = self.mailbox.lock();
        self.posted.store(0, Release);
        mailbox.take()
    }

    /// Lets go of what is in the mailbox, after the thread has been stopped.
    pub(super) fn empty(&self) {
        if let Some(Work::Batch(batch)) = self.take() {
            Batch::put(batch);
        }
    }

    /// Takes the batch back, if it is still in the mailbox.
    pub(super) fn retract(&self, batch: &Arc<Batch>) {
        let mut mailbox = self.mailbox.lock();
        if matches!(&*mailbox, Some(Work::Batch(b)) if Arc::ptr_eq(b, batch)) {
            self.posted.store(0, Release);
            let taken = mailbox.take();
            drop(mailbox);
            if let Some(Work::Batch(batch)) = taken {
                Batch::put(batch);
            }
        }
    }
}

impl Worker {
    /// Returns `true` if there is a batch in the mailbox.
    pub(super) fn pending(&self) -> bool {
        self.posted.load(Acquire) != 0
    }

    /// Works on the batches that come, until none has come for a while. `pass_on` is called with
    /// each batch before its first chunk.
    pub(super) fn run(&self, pass_on: impl Fn(&Arc<Batch>)) {
        self.state.store(BUSY, Relaxed);
        if self.pending() {
            self.learn();
        }
        loop {
            while let Some(work) = self.take() {
                self.state.store(BUSY, Relaxed);
                match work {
                    Work::Batch(batch) => self.work_on(batch, &pass_on),
                    Work::Call(call, stats) => self.migrate(&call, &stats),
                }
            }
            self.state.store(SPINNING, Relaxed);
            let from = sched::clock();
            let spin = self.spin_ns.load(Relaxed);
            while !self.pending()
                && !sched::need_resched()
                && sched::clock().saturating_sub(from) < spin
            {
                kernel::processor::cpu_relax();
            }
            if !self.pending() {
                break;
            }
        }
        self.placement.refresh();
        self.cpu_time.idle();
        self.asleep_since.store(sched::clock(), Relaxed);
        self.state.store(ASLEEP, Relaxed);
    }

    /// Migrates batches of a call until none is left, another task wants the CPU, or the thread is
    /// to stop.
    fn migrate(&self, call: &SpreadCall, stats: &Stats) {
        // Its mover is no hint for batches: see `could_begin()`.
        self.mover.store(0, Relaxed);
        while let Some(pages) = call.migrate_one() {
            stats.add(Counter::BatchesByWorkers, 1);
            stats.add(Counter::PagesByWorkers, pages.into());
            if !sched::is_alone() || kthread::should_stop() {
                break;
            }
        }
        // The call has counted the time itself.
        self.cpu_time.skip();
    }

    fn work_on(&self, batch: Arc<Batch>, pass_on: impl Fn(&Arc<Batch>)) {
        self.mover.store(batch.mover(), Relaxed);
        let unpaid = self.cpu_time.switch_to(batch.payer());
        batch.stats().add(Counter::WorkerUnpaidNs, unpaid);
        pass_on(&batch);
        let chunks = batch.work(self.lane, || self.cpu_time.take());
        self.chunks.add(u64::from(chunks), Relaxed);
        Batch::put(batch);
    }
}
