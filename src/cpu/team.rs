// SPDX-License-Identifier: GPL-2.0

//! The workers and their threads: which of them gets a batch, and how it is passed on.
//!
//! Lock order: [`Worker`]'s mailbox is a leaf; no two are held at the same time.

use crate::{
    batch::Batch,
    cpu::{
        placement::Placement,
        worker::Worker, //
    },
    kapi::{
        kthread::{
            Kthread,
            ThreadFn,
            Waker, //
        },
        sched,
        topology, //
    },
    migrate_copy::spread::SpreadCall,
    shared::Shared,
    stats::{
        Counter,
        Stats, //
    }, //
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

/// The most workers that are asked whether they could begin: it bounds what a mover spends on a
/// busy machine, where none can.
const MOST_ASKED: u32 = 16;

/// A worker, and the means to wake it once it has a thread.
struct TeamWorker {
    worker: Arc<Worker>,
    waker: SetOnce<Waker>,
}

impl TeamWorker {
    /// Puts work into the mailbox by `post`, and wakes the worker if `post` says that it sleeps.
    /// Returns `false` if the worker has no thread yet, or the mailbox is full.
    fn hand(&self, post: impl FnOnce(&Worker) -> Option<bool>) -> bool {
        // Without a thread yet, nothing would look into the mailbox.
        let Some(waker) = self.waker.as_ref() else {
            return false;
        };
        match post(&self.worker) {
            Some(asleep) => {
                if asleep {
                    waker.wake();
                }
                true
            }
            None => false,
        }
    }
}

/// All workers.
pub(super) struct Team {
    members: KVec<TeamWorker>,
    placement: Arc<Placement>,
    shared: Arc<Shared>,
}

/// The work of a worker's thread.
struct WorkerThread {
    worker: Arc<Worker>,
    team: Arc<Team>,
}

impl ThreadFn for WorkerThread {
    fn pending(&self) -> bool {
        self.worker.pending()
    }

    fn run(&self) {
        self.worker.run(|batch| self.team.pass_on(batch));
    }
}

/// The threads; stopped when dropped.
pub(super) struct Threads {
    workers: KVec<Kthread<WorkerThread>>,
    team: Arc<Team>,
}

impl Threads {
    /// Starts a thread for each worker.
    pub(super) fn start(team: &Arc<Team>) -> Result<Self> {
        let mut threads = Self {
            workers: KVec::with_capacity(team.members.len(), GFP_KERNEL)?,
            team: team.clone(),
        };
        for member in &team.members {
            let body = Arc::new(
                WorkerThread {
                    worker: member.worker.clone(),
                    team: team.clone(),
                },
                GFP_KERNEL,
            )?;
            let worker = Kthread::new(member.worker.cpu().number(), body)?;
            member.waker.populate(worker.waker());
            threads.workers.push(worker, GFP_KERNEL)?;
        }
        Ok(threads)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.workers.clear();
        // A worker may have passed a batch on to one that had been stopped before it.
        self.team.workers().for_each(Worker::empty);
    }
}

impl Team {
    /// Creates a worker for each of these CPUs, of which there are no more than lanes.
    pub(super) fn new(cpus: KVec<topology::Cpu>, shared: &Arc<Shared>) -> Result<Self> {
        let mut members = KVec::with_capacity(cpus.len(), GFP_KERNEL)?;
        let mut copy = KVec::with_capacity(cpus.len(), GFP_KERNEL)?;
        copy.extend_from_slice(&cpus, GFP_KERNEL)?;
        let placement = Arc::pin_init(Placement::new(copy)?, GFP_KERNEL)?;
        placement.refresh();
        for (lane, cpu) in (1u8..=u8::MAX).zip(cpus) {
            let worker = Arc::pin_init(Worker::new(lane, cpu, placement.clone()), GFP_KERNEL)?;
            let waker = SetOnce::new();
            members.push(TeamWorker { worker, waker }, GFP_KERNEL)?;
        }
        Ok(Self {
            members,
            placement,
            shared: shared.clone(),
        })
    }

    /// Returns all workers.
    pub(super) fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.members.iter().map(|member| &*member.worker)
    }

    /// Returns the workers that could begin at once, see [`Self::members()`].
    pub(super) fn candidates(
        &self,
        route: Route,
        from: topology::Cpu,
        mover: usize,
    ) -> impl Iterator<Item = &Worker> {
        self.members(route, from, mover)
            .map(|member| &*member.worker)
    }

    /// Returns the members that could begin at once with a batch that this mover gives them from
    /// this CPU, best first: on the node of the destination, of the source (or the other way
    /// round), elsewhere; and on each node those of another last-level cache first, and those of
    /// the mover's own core last.
    fn members(
        &self,
        route: Route,
        from: topology::Cpu,
        mover: usize,
    ) -> impl Iterator<Item = &TeamWorker> {
        let anyway = self.shared.inject.workers_only();
        let (first, second) = match self.shared.knobs.node() {
            CpuNode::Source => (route.from, route.to),
            CpuNode::Destination => (route.to, route.from),
        };
        let node_rank = move |w: &Worker| match w.node() {
            n if n == first => 0,
            n if n == second => 1,
            _ => 2,
        };
        let near = move |w: &Worker| match w.cpu() {
            cpu if cpu.shares_core(from) => 2,
            cpu if cpu.shares_cache(from) => 1,
            _ => 0,
        };
        let asked = Cell::new(0);
        (0..3)
            .flat_map(|rank| (0..3).map(move |tier| (rank, tier)))
            .flat_map(move |(rank, tier)| {
                (self.placement.order())
                    .filter_map(|i| self.members.get(i))
                    .filter(move |m| {
                        node_rank(&m.worker) == rank
                            && m.worker.cpu() != from
                            && near(&m.worker) == tier
                    })
            })
            .take_while(move |_| asked.replace(asked.get() + 1) < MOST_ASKED)
            .filter(move |m| anyway || m.worker.could_begin(mover))
    }

    /// Gives the batch to one worker that could begin at once. Returns `false` if there is none.
    pub(super) fn give(&self, batch: &Arc<Batch>) -> bool {
        for member in self.members(batch.raw().route(), batch.cpu(), batch.mover()) {
            // Skips the workers that have it already, among them the one that passes it on.
            if batch.is_given(member.worker.lane().index().into()) {
                continue;
            }
            if member.hand(|worker| worker.post(batch)) {
                batch.stats().add(Counter::WorkersWoken, 1);
                return true;
            }
        }
        false
    }

    /// Gives a call to at most `most` workers that could begin at once. Returns how many these are.
    pub(super) fn spread(
        &self,
        spread: &SpreadCall,
        route: Route,
        most: u32,
        stats: &Arc<Stats>,
    ) -> u32 {
        let mut given = 0;
        for member in self.members(route, topology::Cpu::current(), sched::current_id()) {
            if given == most {
                break;
            }
            if member.hand(|worker| worker.post_call(spread, stats)) {
                given += 1;
            }
        }
        given
    }

    /// Gives the batch to one more worker, if it is worth it.
    fn pass_on(&self, batch: &Arc<Batch>) {
        if batch.want_more() {
            self.give(batch);
        }
    }

    /// Writes a line for each worker.
    pub(super) fn show(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(f, "workers {}", self.members.len())?;
        for i in self.placement.order() {
            let Some(member) = self.members.get(i) else {
                continue;
            };
            let worker = &member.worker;
            let (doing, chunks) = worker.doing();
            writeln!(
                f,
                "worker {} cpu {} node {} llc {} {doing} chunks {chunks}",
                worker.lane().index(),
                worker.cpu().number(),
                worker.node(),
                self.placement.llc(i),
            )?;
        }
        Ok(())
    }
}
