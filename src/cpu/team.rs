// SPDX-License-Identifier: GPL-2.0

//! The helpers and their threads: which of them gets a batch, and how it is passed on.
//!
//! Lock order: [`Helper`]'s mailbox is a leaf; no two are held at the same time.

use crate::{
    batch::Batch,
    cpu::{
        helper::Helper,
        placement::Placement, //
    },
    kapi::{
        kthread::{
            Body,
            Waker,
            Worker, //
        },
        topology, //
    },
    shared::Shared,
    stats::Counter, //
};
use core::cell::Cell;
use ferry_core::{
    class::Route,
    knob::CpuNode, //
};
use kernel::{
    fmt,
    prelude::*,
    sync::{
        Arc,
        SetOnce, //
    },
};

/// So many are asked at most whether they could begin: on a busy machine, asking is all there is.
const MOST_ASKED: u32 = 16;

/// A helper, and the means to wake it once it has a thread.
struct Hand {
    helper: Arc<Helper>,
    waker: SetOnce<Waker>,
}

/// All helpers.
pub(super) struct Team {
    hands: KVec<Hand>,
    placement: Arc<Placement>,
    shared: Arc<Shared>,
}

/// What a helper's thread runs.
struct Member {
    helper: Arc<Helper>,
    team: Arc<Team>,
}

impl Body for Member {
    fn pending(&self) -> bool {
        self.helper.pending()
    }

    fn run(&self) {
        self.helper.run(|batch| self.team.pass_on(batch));
    }
}

/// The threads; stopped when dropped.
pub(super) struct Threads {
    workers: KVec<Worker<Member>>,
    team: Arc<Team>,
}

impl Threads {
    /// Starts a thread for each helper.
    pub(super) fn start(team: &Arc<Team>) -> Result<Self> {
        let mut threads = Self {
            workers: KVec::with_capacity(team.hands.len(), GFP_KERNEL)?,
            team: team.clone(),
        };
        for hand in &team.hands {
            let member = Arc::new(
                Member {
                    helper: hand.helper.clone(),
                    team: team.clone(),
                },
                GFP_KERNEL,
            )?;
            let worker = Worker::new(hand.helper.cpu().number(), member)?;
            hand.waker.populate(worker.waker());
            threads.workers.push(worker, GFP_KERNEL)?;
        }
        Ok(threads)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.workers.clear();
        // A helper may have passed a batch on to one that had been stopped before it.
        self.team.helpers().for_each(Helper::empty);
    }
}

impl Team {
    /// Creates a helper for each of these CPUs, of which there are no more than lanes.
    pub(super) fn new(cpus: KVec<topology::Cpu>, shared: &Arc<Shared>) -> Result<Self> {
        let mut hands = KVec::with_capacity(cpus.len(), GFP_KERNEL)?;
        let mut copy = KVec::with_capacity(cpus.len(), GFP_KERNEL)?;
        copy.extend_from_slice(&cpus, GFP_KERNEL)?;
        let placement = Arc::pin_init(Placement::new(copy)?, GFP_KERNEL)?;
        placement.refresh();
        for (lane, cpu) in (1u8..=u8::MAX).zip(cpus) {
            let helper = Arc::pin_init(Helper::new(lane, cpu, placement.clone()), GFP_KERNEL)?;
            let waker = SetOnce::new();
            hands.push(Hand { helper, waker }, GFP_KERNEL)?;
        }
        Ok(Self {
            hands,
            placement,
            shared: shared.clone(),
        })
    }

    /// Returns all helpers.
    pub(super) fn helpers(&self) -> impl Iterator<Item = &Helper> {
        self.hands.iter().map(|hand| &*hand.helper)
    }

    /// Returns the helpers that could begin at once, see [`Self::hands()`].
    pub(super) fn candidates(
        &self,
        route: Route,
        from: topology::Cpu,
        mover: usize,
    ) -> impl Iterator<Item = &Helper> {
        self.hands(route, from, mover).map(|hand| &*hand.helper)
    }

    /// Those who could begin at once with what this mover gives them from this CPU, best first: on the
    /// node of the destination, of the source (or the other way round), elsewhere; and on each of
    /// them those of another last-level cache first, and those of the mover's own core last.
    fn hands(
        &self,
        route: Route,
        from: topology::Cpu,
        mover: usize,
    ) -> impl Iterator<Item = &Hand> {
        let anyway = self.shared.inject.helper_only();
        let (first, second) = match self.shared.knobs.node() {
            CpuNode::Source => (route.from, route.to),
            CpuNode::Destination => (route.to, route.from),
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
    pub(super) fn give(&self, batch: &Arc<Batch>) -> bool {
        for hand in self.hands(batch.raw().route(), batch.cpu(), batch.mover()) {
            // Who has it already: the one that passes it on is one of them.
            if batch.is_given(hand.helper.lane().index().into()) {
                continue;
            }
            // Without a thread yet, nobody would look into its mailbox.
            let Some(waker) = hand.waker.as_ref() else {
                continue;
            };
            if let Some(asleep) = hand.helper.post(batch) {
                if asleep {
                    waker.wake();
                }
                batch.stats().add(Counter::Woken, 1);
                return true;
            }
        }
        false
    }

    /// Gives the batch to one more helper, if it is worth it.
    fn pass_on(&self, batch: &Arc<Batch>) {
        if batch.want_more() {
            self.give(batch);
        }
    }

    /// Writes a line for each helper.
    pub(super) fn show(&self, f: &mut dyn fmt::Write) -> fmt::Result {
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
        Ok(())
    }
}
