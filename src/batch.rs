// SPDX-License-Identifier: GPL-2.0

//! Batches: the folios of one `migrate_pages_batch()`, or a part of one folio that is copied at
//! once, on their way through a migrator.
//!
//! A batch object belongs to the pool, to the mover alone while it is being filled, and then to the
//! mover and all who help, by reference count: the last one who lets it go puts it back into the
//! pool. Nobody waits for somebody who merely has a reference.
//!
//! Lock order: [`Pool::free`] is a leaf.

use crate::{
    inject::Inject,
    kapi::{
        batch::{
            ByEngine,
            Claim,
            Copied,
            How,
            RawBatch,
            Settled,
            Step, //
        },
        log,
        preempt::{
            self,
            NoPreempt, //
        },
        shim,
        topology, //
    },
    knobs::Knobs,
    meter::Meter,
    migrator::{
        Migrator,
        Quiet, //
    },
    stats::{
        Counter,
        Stats, //
    },
    trace,
    trace::Cause, //
};
use core::pin::Pin;
use ferry_core::{
    pace::Pace,
    policy,
    policy::Routine,
    Lane, //
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
        SpinLock,
        UniqueArc, //
    },
};

/// How long a helper that is as far ahead as it may be stays with a batch.
const AHEAD_SPIN_NS: u64 = 200_000;

/// What all migrators share: knobs, fault injection and the pool. Lives as long as the module.
#[pin_data]
pub(crate) struct Shared {
    pub(crate) knobs: Knobs,
    pub(crate) inject: Inject,
    /// How long movers take to copy.
    pub(crate) pace: Pace<Atomic<u32>>,
    #[pin]
    pub(crate) pool: Pool,
}

impl Shared {
    /// With a pool of `batches` batches.
    pub(crate) fn new(batches: usize) -> Result<impl PinInit<Self>> {
        let pool = Pool::new(batches)?;
        Ok(pin_init!(Self {
            knobs: Knobs::new(),
            inject: Inject::new(),
            pace: Pace::new(Atomic::new(0)),
            pool <- pool,
        }))
    }
}

/// How long a mover waits for whoever has claimed a chunk of its batch.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Until the timeout says that there is no answer.
    Timeout,
    /// Not longer than it would have taken to copy the batch itself: it must not block (I15).
    Copy,
}

/// What a batch runs under, from beginning to end.
pub(crate) struct Session {
    pub(crate) migrator: Arc<dyn Migrator>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) shared: Arc<Shared>,
}

impl Session {
    /// For batches of one migrator.
    pub(crate) fn new(migrator: Arc<dyn Migrator>, stats: Arc<Stats>, shared: Arc<Shared>) -> Self {
        Self {
            migrator,
            stats,
            shared,
        }
    }
}

/// The batch objects that are not in use.
///
/// Made at load, so that migration, which runs in reclaim, allocates nothing (I8). A migration can
/// be nested in the allocations of another one, and several run at the same time; when the pool is
/// empty the batch is declined.
#[pin_data]
pub(crate) struct Pool {
    total: usize,
    #[pin]
    free: SpinLock<KVec<Pin<UniqueArc<Batch>>>>,
}

impl Pool {
    fn new(total: usize) -> Result<impl PinInit<Self>> {
        let mut free = KVec::with_capacity(total, GFP_KERNEL)?;
        for _ in 0..total {
            free.push(
                Pin::from(UniqueArc::new(Batch::new()?, GFP_KERNEL)?),
                GFP_KERNEL,
            )?;
        }
        Ok(pin_init!(Self {
            total,
            free <- new_spinlock!(free, "ferry::pool"),
        }))
    }

    /// Batch objects that are free, and all.
    pub(crate) fn count(&self) -> (usize, usize) {
        (self.free.lock().len(), self.total)
    }

    /// Takes a batch object, if there is one, for this session.
    pub(crate) fn take(&self, session: &Arc<Session>) -> Option<Pin<UniqueArc<Batch>>> {
        if session.shared.inject.exhaust_pool() {
            return None;
        }
        let mut batch = self.free.lock().pop()?;
        batch.start(session.clone());
        Some(batch)
    }

    /// Takes back a batch object that nobody else has.
    fn put(mut batch: Pin<UniqueArc<Batch>>) {
        // Nobody else has it, so nobody writes to its folios: the proof that I7 asks for.
        batch.raw.unpark();
        batch.raw.ask_always(false);
        if let Some(session) = batch.session.take() {
            // There is room for all that have been taken; if not, the object is freed.
            let rest = session.shared.pool.free.lock().push_within_capacity(batch);
            drop(rest);
        }
    }
}

/// A batch.
pub(crate) struct Batch {
    raw: RawBatch,
    /// None in the pool.
    session: Option<Arc<Session>>,
    /// When it was begun, by the clock of the mover's CPU.
    begun: u64,
    /// When it was about to be made known, by that clock.
    planned_at: u64,
    /// Where it was begun, by whom, and who pays for helpers.
    cpu: topology::Cpu,
    mover: usize,
    payer: u64,
    /// How CPUs copy it.
    routine: Routine,
    /// How long its mover waits.
    patience: Patience,
    /// Its kind, if how long it takes is worth knowing.
    kind: Option<usize>,
    /// The mover is through, or does not want more help: helpers have nothing to look for any more.
    /// Stored with release, in the end after the last chunk was closed, read with acquire by
    /// [`Batch::work()`].
    over: Atomic<u32>,
    /// How many more helpers the batch is worth; taken by [`Batch::want_more()`].
    wanted: Atomic<u32>,
    /// Helpers that it has been given to; set under their mailbox locks.
    given: Lanes,
    /// Lanes that a wait has timed out on. The mover's.
    stuck: Lanes,
    /// How long the mover has waited. Its own.
    waited_ns: Atomic<u64>,
    /// Folios that the mover has settled, for fault injection. The mover's.
    turns: Atomic<u32>,
    /// Added to by helpers before they complete a chunk with release, read by the mover after it has
    /// seen all of them complete with acquire.
    by_others: Atomic<u32>,
    helper_ns: Atomic<u64>,
    /// The mover's.
    by_mover: Atomic<u32>,
}

#[cfg(any(CONFIG_DMA_ENGINE, CONFIG_PCI))]
impl crate::kapi::channel::Pooled for Batch {
    fn put(batch: Arc<Self>) {
        Self::put(batch);
    }

    fn copied(&self, bytes: u64) {
        if let Some(session) = self.session() {
            let counter = if self.raw.is_early() {
                Counter::BytesEarly
            } else {
                Counter::BytesNow
            };
            session.stats.add(counter, bytes);
            session.stats.add(Counter::EngineBytes, bytes);
        }
    }
}

impl AsRef<RawBatch> for Batch {
    fn as_ref(&self) -> &RawBatch {
        &self.raw
    }
}

impl Batch {
    fn new() -> Result<Self> {
        Ok(Self {
            raw: RawBatch::new()?,
            session: None,
            begun: 0,
            planned_at: 0,
            cpu: topology::Cpu::current(),
            mover: 0,
            payer: 0,
            routine: Routine::default(),
            patience: Patience::Timeout,
            kind: None,
            over: Atomic::new(0),
            wanted: Atomic::new(0),
            given: Lanes::new(),
            stuck: Lanes::new(),
            waited_ns: Atomic::new(0),
            turns: Atomic::new(0),
            by_mover: Atomic::new(0),
            by_others: Atomic::new(0),
            helper_ns: Atomic::new(0),
        })
    }

    fn start(&mut self, session: Arc<Session>) {
        self.raw.ask_always(session.shared.inject.asks_always());
        self.session = Some(session);
        self.begun = preempt::clock();
        self.cpu = topology::Cpu::current();
        self.mover = preempt::current_id();
        self.payer = shim::payer();
        self.patience = Patience::Timeout;
        self.kind = None;
        *self.over.get_mut() = 0;
        *self.wanted.get_mut() = 0;
        self.given.clear();
        self.stuck.clear();
        *self.waited_ns.get_mut() = 0;
        *self.turns.get_mut() = 0;
        *self.by_mover.get_mut() = 0;
        *self.by_others.get_mut() = 0;
        *self.helper_ns.get_mut() = 0;
    }

    /// Lets go of a batch. The last one puts it back into the pool.
    pub(crate) fn put(batch: Arc<Self>) {
        if let Some(unique) = Arc::into_unique_or_drop(batch) {
            Pool::put(unique);
        }
    }

    /// Puts a batch back that has not been shared.
    pub(crate) fn give_back(batch: Pin<UniqueArc<Self>>) {
        Pool::put(batch);
    }

    /// Folios and chunks.
    pub(crate) fn raw(&self) -> &RawBatch {
        &self.raw
    }

    /// Folios and chunks, to fill and cut.
    pub(crate) fn raw_mut(&mut self) -> &mut RawBatch {
        &mut self.raw
    }

    /// What it runs under; None in the pool, where nobody has a reference.
    pub(crate) fn session(&self) -> Option<&Arc<Session>> {
        self.session.as_ref()
    }

    /// When it was begun.
    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    /// When it was about to be made known, if its duration is worth knowing.
    pub(crate) fn planned_at(&self) -> u64 {
        self.planned_at
    }

    /// How long its mover has waited for others so far.
    pub(crate) fn waited_ns(&self) -> u64 {
        self.waited_ns.load(Relaxed)
    }

    /// How many it has been given to.
    pub(crate) fn nr_given(&self) -> u32 {
        self.given.count()
    }

    /// The CPU on which it was begun.
    pub(crate) fn cpu(&self) -> topology::Cpu {
        self.cpu
    }

    /// Who moves it: a number that no other mover has.
    pub(crate) fn mover(&self) -> usize {
        self.mover
    }

    /// Who pays for helpers; 0 for nobody.
    pub(crate) fn payer(&self) -> u64 {
        self.payer
    }

    /// Sets how CPUs copy it, before it is shared.
    pub(crate) fn set_routine(&mut self, routine: Routine) {
        self.routine = routine;
    }

    /// Sets how long its mover waits, before it is shared.
    pub(crate) fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// Sets its kind, if how long it takes is worth knowing, before it is shared; the time begins.
    pub(crate) fn set_kind(&mut self, kind: Option<usize>) {
        self.kind = kind;
        self.planned_at = preempt::clock();
    }

    /// Its kind, if how long it takes is worth knowing.
    pub(crate) fn kind(&self) -> Option<usize> {
        self.kind
    }

    /// Sets how many more helpers it is worth.
    pub(crate) fn set_wanted(&self, helpers: u32) {
        self.wanted.store(helpers, Relaxed);
    }

    /// Is it worth another helper? Counts it as found.
    pub(crate) fn want_more(&self) -> bool {
        // A lost race wakes one helper too few or lets two see the last one: neither matters, so no
        // compare-and-exchange. It orders nothing.
        let wanted = self.wanted.load(Relaxed);
        if wanted == 0 || self.over.load(Relaxed) != 0 || self.raw.left() < 2 {
            return false;
        }
        self.wanted.store(wanted - 1, Relaxed);
        true
    }

    /// Remembers that it has been given to a helper.
    pub(crate) fn mark_given(&self, helper: u32) {
        self.given.add(helper);
    }

    /// Has it been given to this helper?
    pub(crate) fn is_given(&self, helper: u32) -> bool {
        self.given.has(helper)
    }

    /// Copies one chunk for the mover, as a helper. False if it is not to be had.
    fn help(&self, session: &Session, chunk: u32, lane: Lane, meter: &Meter) -> bool {
        let inject = &session.shared.inject;
        // From claim to done: no sleep, no fault, no allocation, no lock, no preemption (I13).
        let no_preempt = NoPreempt::new();
        let Some(mut claim) = self.raw.claim(chunk, lane) else {
            return false;
        };
        let copied = if inject.fail_chunk() {
            Default::default()
        } else {
            claim.copy(self.routine, inject.delay_in_chunk_ns())
        };
        preempt::spin_ns(inject.late_done_ns());
        let ok = claim.is_ok();
        // Before the chunk is done: then the mover may finish, and it counts and pays.
        self.by_others.add(1u32, Relaxed);
        self.helper_ns.add(meter.chunk(), Relaxed);
        drop(claim);
        drop(no_preempt);
        self.account(session, copied, ok);
        true
    }

    /// Copies one chunk as the mover.
    fn copy_mine(&self, session: &Session, mut claim: Claim<'_>) {
        let from = preempt::clock();
        let copied = claim.copy(self.routine, 0);
        let ok = claim.is_ok();
        drop(claim);
        let ns = preempt::clock().saturating_sub(from);
        session.shared.pace.learn(copied.bytes, ns);
        self.by_mover.add(1u32, Relaxed);
        self.account(session, copied, ok);
    }

    fn account(&self, session: &Session, copied: Copied, ok: bool) {
        let stats = &session.stats;
        let bytes = if self.raw.is_early() {
            Counter::BytesEarly
        } else {
            Counter::BytesNow
        };
        stats.add(bytes, copied.bytes);
        stats.add(Counter::CopiedEarly, copied.folios.into());
        for _ in 0..copied.referenced {
            trace::fallback(stats, Cause::References, 0);
        }
        if !ok && copied.referenced == 0 {
            trace::fallback(stats, Cause::Failed, 0);
        }
    }

    /// The first chunk that is too far ahead of the mover.
    fn limit(&self, session: &Session) -> u32 {
        let knobs = &session.shared.knobs;
        let pieces = self.raw.planned().pieces;
        if !self.raw.is_early() {
            return pieces;
        }
        let (ahead, chunk_bytes) = (knobs.lookahead_bytes(), knobs.chunk_bytes());
        policy::lookahead_limit(self.raw.mover_chunk(), ahead, chunk_bytes, pieces)
    }

    /// Helps with the batch until there is nothing left to claim.
    ///
    /// Returns how many chunks that were.
    pub(crate) fn work(&self, lane: Lane, meter: &Meter) -> u32 {
        let mut chunks = 0;
        let Some(session) = self.session() else {
            return chunks;
        };
        let pieces = self.raw.planned().pieces;
        let mut stalled = None;
        while self.over.load(Acquire) == 0 {
            let limit = self.limit(session);
            if let Some(chunk) = self.raw.take(limit) {
                stalled = None;
                if self.help(session, chunk, lane, meter) {
                    chunks += 1;
                }
                preempt::give_way();
                continue;
            }
            if limit >= pieces || preempt::need_resched() {
                break;
            }
            // As far ahead as allowed. The mover copies what is left if we do not come back.
            let now = preempt::clock();
            let since = *stalled.get_or_insert(now);
            if now.saturating_sub(since) > AHEAD_SPIN_NS {
                break;
            }
            kernel::processor::cpu_relax();
        }
        chunks
    }

    /// The mover copies what it can get, in move order.
    pub(crate) fn work_as_mover(&self) {
        let Some(session) = self.session() else {
            return;
        };
        while let Some(chunk) = self.raw.take(u32::MAX) {
            if let Some(claim) = self.raw.claim(chunk, Lane::MOVER) {
                self.copy_mine(session, claim);
            }
            preempt::cond_resched();
        }
    }

    /// Where the mover would have to wait, it rather copies a chunk whose turn has not come.
    ///
    /// Else the two would go on in step: the mover is always where the helper is, and as fast.
    fn copy_ahead(&self, session: &Session) -> bool {
        if session.shared.inject.helper_only() {
            return false;
        }
        // One that has been taken, and could not be claimed, is one less to look at.
        while let Some(chunk) = self.raw.take(self.limit(session)) {
            if let Some(claim) = self.raw.claim(chunk, Lane::MOVER) {
                self.copy_mine(session, claim);
                preempt::cond_resched();
                return true;
            }
        }
        false
    }

    /// Settles an entry: copies, waits, or gives up.
    pub(crate) fn settle(&self, i: u32, help: bool) -> Settled {
        let Some(session) = self.session() else {
            return self.raw.park(i);
        };
        loop {
            match self.raw.settle(i, help) {
                Step::Final(settled) => return settled,
                Step::Mine(claim) => {
                    self.copy_mine(session, claim);
                    preempt::cond_resched();
                }
                Step::Wait(chunk) => {
                    if !self.copy_ahead(session) && !self.wait(session, i, chunk) {
                        trace::fallback(&session.stats, Cause::Unquiet, 0);
                        return self.raw.park(i);
                    }
                }
            }
        }
    }

    /// Waits for a chunk in flight, for entry `i`. False if nothing proves that it is quiet.
    fn wait(&self, session: &Session, i: u32, chunk: u32) -> bool {
        let Some(lane) = self.raw.in_flight(chunk) else {
            return true;
        };
        // One timeout for a lane, not one for each of the folios that it holds (I15).
        if self.stuck.has(lane.index().into()) {
            return !self.raw.waiting(i, chunk);
        }
        let timeout = match self.patience {
            Patience::Timeout => session.shared.knobs.timeout_ns(),
            Patience::Copy => {
                // For all waits of the batch together.
                let all = session.shared.pace.patience_ns(self.raw.planned().bytes);
                match all.saturating_sub(self.waited_ns()) {
                    0 => return !self.raw.waiting(i, chunk),
                    left => left,
                }
            }
        };
        let from = preempt::clock();
        let result = session.migrator.wait(self, i, chunk, timeout);
        let answered = result.is_ok();
        let given_up = result == Err(ECANCELED);
        // Counts for what is left of the timeout.
        self.waited(from);
        let mut quiet = answered;
        if given_up {
            trace::engine_error(lane.index().into(), ECANCELED.to_errno());
        } else if !answered && self.patience == Patience::Timeout {
            session.stats.add(Counter::WaitTimeouts, 1);
            trace::engine_error(lane.index().into(), ETIMEDOUT.to_errno());
            let proving = preempt::clock();
            quiet = session.migrator.quiesce(self, i, chunk, timeout) == Quiet::Yes;
            self.waited(proving);
        }
        let ns = preempt::clock().saturating_sub(from);
        session.stats.add(Counter::Waits, 1);
        if self.patience == Patience::Copy {
            session.stats.add(Counter::WaitsAsync, 1);
            session.stats.wait_async.add(ns);
        }
        session.stats.wait.add(ns);
        trace::wait(self.raw.id(), chunk, ns, answered);
        if quiet {
            return true;
        }
        if self.patience == Patience::Copy {
            if !self.raw.waiting(i, chunk) {
                return true;
            }
            // Nobody is to blame: the CPU of the helper has been taken away from us below, and comes
            // back. What it has fails (I7); the mover goes on alone.
            session.stats.add(Counter::WaitsCut, 1);
            self.over.store(1, Release);
            return false;
        }
        if given_up {
            // Whatever else the lane has may still end, and is waited for.
            if log::allowed() {
                pr_warn!(
                    "lane {}: its driver has given up a copy that its engine may still be at; the folio stays, its destination is kept\n",
                    lane.index()
                );
            }
            return false;
        }
        self.stuck.add(lane.index().into());
        if log::allowed() {
            pr_warn!(
                "lane {}: no answer for {} ms; its folios stay, their destinations are kept\n",
                lane.index(),
                ns / 1_000_000
            );
        }
        false
    }

    /// The mover has waited since then.
    fn waited(&self, from: u64) {
        let ns = preempt::clock().saturating_sub(from);
        self.waited_ns.add(ns, Relaxed);
    }

    /// Counts a turn to move, for fault injection.
    pub(crate) fn turn(&self) -> u32 {
        let turn = self.turns.load(Relaxed);
        self.turns.store(turn.wrapping_add(1), Relaxed);
        turn
    }

    /// Ends the batch for the mover: afterwards nothing of it can be claimed, and what is in flight
    /// is parked.
    pub(crate) fn finish(batch: Arc<Self>) {
        batch.raw.close();
        batch.over.store(1, Release);
        if let Some(session) = batch.session() {
            session.migrator.over(&batch);
            let stats = &session.stats;
            let (mover, others) = (batch.by_mover.load(Relaxed), batch.by_others.load(Relaxed));
            let engine = batch.raw.by_engine();
            let others = others.saturating_add(engine.chunks.load(Relaxed));
            let helper_ns = batch.helper_ns.load(Relaxed);
            if let Some(kind) = batch.kind {
                let ns = preempt::clock().saturating_sub(batch.planned_at);
                session.migrator.learn(kind, &batch, ns);
            }
            account_engine(stats, engine);
            stats.add(Counter::ByMover, mover.into());
            stats.add(Counter::ByOthers, others.into());
            stats.add(Counter::HelperNs, helper_ns);
            if batch.raw.is_early() {
                stats.add(Counter::ChunksRevoked, batch.raw.revoked().into());
            }
            shim::charge(helper_ns);
            trace::finish(batch.raw.id(), mover, others, helper_ns);
        }
        Self::put(batch);
    }

    /// Did the mover get its answer from somebody's copy?
    pub(crate) fn copied_by_span(&self, i: u32, settled: &Settled) -> bool {
        settled.how == How::Copied && self.raw.is_cut(i)
    }
}

/// Counts what has become of what engines got.
fn account_engine(stats: &Stats, engine: &ByEngine) {
    stats.add(Counter::CopiedEarly, engine.folios.load(Relaxed).into());
    for _ in 0..engine.failed.load(Relaxed) {
        trace::fallback(stats, Cause::Failed, 0);
    }
}

/// A set of lanes. Orders nothing.
struct Lanes([Atomic<u64>; Self::WORDS]);

impl Lanes {
    const WORDS: usize = (u8::MAX as usize + 1) / u64::BITS as usize;

    const fn new() -> Self {
        Self([const { Atomic::new(0) }; Self::WORDS])
    }

    fn clear(&mut self) {
        self.0.iter_mut().for_each(|word| *word.get_mut() = 0);
    }

    fn at(&self, lane: u32) -> Option<(&Atomic<u64>, u64)> {
        let word = self.0.get((lane / u64::BITS) as usize)?;
        Some((word, 1 << (lane % u64::BITS)))
    }

    fn add(&self, lane: u32) {
        let Some((word, bit)) = self.at(lane) else {
            return;
        };
        let mut old = word.load(Relaxed);
        while let Err(seen) = word.cmpxchg(old, old | bit, Relaxed) {
            old = seen;
        }
    }

    fn has(&self, lane: u32) -> bool {
        self.at(lane)
            .is_some_and(|(word, bit)| word.load(Relaxed) & bit != 0)
    }

    fn count(&self) -> u32 {
        self.0
            .iter()
            .map(|word| word.load(Relaxed).count_ones())
            .sum()
    }
}
