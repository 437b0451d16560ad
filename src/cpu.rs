// SPDX-License-Identifier: GPL-2.0

//! The CPU migrator: kernel threads that help the mover.
//!
//! One helper for each possible CPU, at the lowest priority of ordinary threads. How many a batch gets
//! follows from what such batches have gained by them ([`scale`]), who they are from where folios come
//! from and go to and from the caches that CPUs share ([`placement`]). The mover gives a batch to one
//! whose CPU is idle, or that is still spinning after the last batch, and that one passes it on. A
//! helper that gets no CPU costs nothing: the mover takes every chunk that nobody has claimed, and
//! takes a batch back that a helper has not looked at.
//!
//! Lock order: [`Helper::mailbox`] is a leaf; no two are held at the same time.
//!
//! [`scale`]: ferry_core::scale

mod helper;
mod placement;
mod wait;

use self::{
    helper::Helper,
    placement::Placement, //
};
use crate::{
    batch::{
        Batch,
        Shared, //
    },
    kapi::{
        preempt, topology,
        worker::{
            Waker,
            Worker, //
        },
    },
    migrator::{
        Keep,
        Limits,
        Made,
        Migrator,
        Quiet, //
    },
    stats::Counter, //
};
use core::cell::Cell;
use ferry_core::{
    policy, scale,
    scale::{
        Scale,
        Want, //
    },
};
use kernel::{
    fmt,
    prelude::*,
    sync::{
        atomic::Atomic,
        Arc, //
    },
};

/// Most helpers: lane 0 is the mover, and a lane is a byte.
const MAX_HELPERS: usize = u8::MAX as usize;

/// So many are asked at most whether they could begin: on a busy machine, asking is all there is.
const MOST_ASKED: u32 = 16;

/// A helper and the means to wake it.
struct Hand {
    helper: Arc<Helper>,
    waker: Waker,
}

/// The CPU migrator.
struct Cpu {
    hands: KVec<Hand>,
    placement: Arc<Placement>,
    /// What each kind of batch has gained.
    scales: KVec<Scale<Atomic<u32>>>,
    shared: Arc<Shared>,
}

/// The threads; stopped when dropped.
struct Threads {
    workers: KVec<Worker<Helper>>,
    helpers: KVec<Arc<Helper>>,
}

impl Keep for Threads {}

impl Drop for Threads {
    fn drop(&mut self) {
        self.workers.clear();
        // A helper may have passed a batch on to one that had been stopped before it.
        for helper in &self.helpers {
            helper.empty();
        }
    }
}

/// The CPUs that get a helper: those that are online first, should there be too many.
fn cpus() -> Result<KVec<topology::Cpu>> {
    let mut cpus = KVec::with_capacity(MAX_HELPERS, GFP_KERNEL)?;
    for usable in [true, false] {
        for cpu in topology::possible().filter(|cpu| cpu.is_usable() == usable) {
            if cpus.len() < MAX_HELPERS && !cpus.contains(&cpu) {
                cpus.push(cpu, GFP_KERNEL)?;
            }
        }
    }
    Ok(cpus)
}

/// Makes the helpers and their threads.
pub(crate) fn make(shared: &Arc<Shared>) -> Result<Made> {
    let cpus = cpus()?;
    let nr = cpus.len();
    let mut hands = KVec::with_capacity(nr, GFP_KERNEL)?;
    let mut workers = KVec::with_capacity(nr, GFP_KERNEL)?;
    let mut helpers = KVec::with_capacity(nr, GFP_KERNEL)?;
    let mut scales = KVec::with_capacity(scale::KINDS, GFP_KERNEL)?;
    for _ in 0..scale::KINDS {
        scales.push(Scale::new(|| Atomic::new(0)), GFP_KERNEL)?;
    }
    let mut copy = KVec::with_capacity(nr, GFP_KERNEL)?;
    copy.extend_from_slice(&cpus, GFP_KERNEL)?;
    let placement = Arc::pin_init(Placement::new(copy)?, GFP_KERNEL)?;
    placement.refresh();
    for (lane, cpu) in (1u8..=u8::MAX).zip(cpus) {
        let helper = Arc::pin_init(Helper::new(lane, cpu, placement.clone()), GFP_KERNEL)?;
        let worker = Worker::new(cpu.number(), helper.clone())?;
        let waker = worker.waker();
        helpers.push(helper.clone(), GFP_KERNEL)?;
        hands.push(Hand { helper, waker }, GFP_KERNEL)?;
        workers.push(worker, GFP_KERNEL)?;
    }
    let cpu = Arc::new(
        Cpu {
            hands,
            placement,
            scales,
            shared: shared.clone(),
        },
        GFP_KERNEL,
    )?;
    Ok(Made {
        migrator: cpu,
        keep: KBox::new(Threads { workers, helpers }, GFP_KERNEL)?,
    })
}

impl Cpu {
    /// Those who could begin at once with what this mover gives them from this CPU, best first: on the
    /// node of the destination, of the source (or the other way round), elsewhere; and on each of
    /// them those of another last-level cache first, and those of the mover's own core last.
    fn candidates(
        &self,
        nodes: (i32, i32),
        from: topology::Cpu,
        mover: usize,
    ) -> impl Iterator<Item = &Hand> {
        let anyway = self.shared.inject.helper_only();
        let (first, second) = if self.shared.knobs.source_first() {
            nodes
        } else {
            (nodes.1, nodes.0)
        };
        let node_rank = move |h: &Helper| match h.node() {
            n if n == first => 0,
            n if n == second => 1,
            _ => 2,
        };
        let near = move |h: &Helper| match h.cpu() {
            cpu if cpu.shares_core(from) => 2,
            cpu if cpu.shares_cache(from) => 1,
            _ => 0,
        };
        let asked = Cell::new(0);
        (0..3)
            .flat_map(|rank| (0..3).map(move |tier| (rank, tier)))
            .flat_map(move |(rank, tier)| {
                (self.placement.order())
                    .filter_map(|i| self.hands.get(i))
                    .filter(move |h| {
                        node_rank(&h.helper) == rank
                            && h.helper.cpu() != from
                            && near(&h.helper) == tier
                    })
            })
            .take_while(move |_| asked.replace(asked.get() + 1) < MOST_ASKED)
            .filter(move |h| anyway || h.helper.could_begin(mover))
    }

    /// Gives the batch to one helper, if there is one who could begin at once.
    fn give(&self, batch: &Arc<Batch>) -> bool {
        for hand in self.candidates(batch.raw().nodes(), batch.cpu(), batch.mover()) {
            // Who has it already: the one that passes it on is one of them.
            if batch.is_given(hand.helper.lane().index().into()) {
                continue;
            }
            if let Some(asleep) = hand.helper.post(batch) {
                if asleep {
                    hand.waker.wake();
                }
                if let Some(session) = batch.session() {
                    session.stats.add(Counter::Woken, 1);
                }
                return true;
            }
        }
        false
    }
}

impl Migrator for Cpu {
    fn limits(&self) -> Limits {
        Limits {
            min_bytes: 0,
            in_reclaim: true,
            in_async: true,
        }
    }

    fn ready(&self, nodes: (i32, i32)) -> bool {
        if self.shared.knobs.cpu_workers(false) == 0 {
            return false;
        }
        let (from, mover) = (topology::Cpu::current(), preempt::current_id());
        self.candidates(nodes, from, mover).next().is_some()
    }

    fn want(&self, kind: usize, pieces: u32, payer: u64) -> Want {
        let most = policy::most_helpers(pieces, self.shared.knobs.cpu_workers(payer != 0));
        if most == 0 {
            return Want::NOBODY;
        }
        match self.scales.get(kind) {
            Some(scale) if !self.shared.inject.ignores_gain() => scale.want(most, 1),
            _ => Want {
                helpers: most,
                sample: false,
            },
        }
    }

    fn learn(&self, kind: usize, batch: &Batch, ns: u64) {
        if let Some(scale) = self.scales.get(kind) {
            // Who was given it counts, come or not: it is what giving costs.
            scale.learn(batch.nr_given(), batch.raw().planned().bytes, ns);
        }
    }

    fn submit(&self, batch: &Arc<Batch>, helpers: u32) -> bool {
        // The first one wakes the next one, and so on: waking costs the waker.
        batch.set_wanted(helpers.saturating_sub(1));
        helpers != 0 && self.give(batch)
    }

    fn pass_on(&self, batch: &Arc<Batch>) {
        if batch.want_more() {
            self.give(batch);
        }
    }

    fn wait(&self, batch: &Batch, i: u32, chunk: u32, timeout_ns: u64) -> Result {
        wait::poll(batch, i, chunk, timeout_ns)
    }

    fn quiesce(&self, batch: &Batch, _i: u32, chunk: u32, _timeout_ns: u64) -> Quiet {
        // A helper cannot be stopped in the middle of a chunk; only its word is proof.
        match batch.raw().in_flight(chunk) {
            Some(_) => Quiet::No,
            None => Quiet::Yes,
        }
    }

    fn over(&self, batch: &Arc<Batch>) {
        for hand in &self.hands {
            if batch.is_given(hand.helper.lane().index().into()) {
                hand.helper.retract(batch);
            }
        }
    }

    fn show(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(f, "workers {}", self.hands.len())?;
        for i in self.placement.order() {
            let Some(hand) = self.hands.get(i) else {
                continue;
            };
            let h = &hand.helper;
            let (doing, chunks) = h.doing();
            writeln!(
                f,
                "worker {} cpu {} node {} llc {} {doing} chunks {chunks}",
                h.lane().index(),
                h.cpu().number(),
                h.node(),
                self.placement.llc(i),
            )?;
        }
        for (kind, scale) in self.scales.iter().enumerate().filter(|(_, s)| s.knows()) {
            match scale::kind_bytes(kind) {
                (folio, Some(batch)) => write!(f, "gain early {folio} {batch}")?,
                (folio, None) => write!(f, "gain now {folio} {folio}")?,
            }
            writeln!(f, "{scale}")?;
        }
        Ok(())
    }
}
