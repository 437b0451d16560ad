// SPDX-License-Identifier: GPL-2.0

//! The CPU migrator: kernel threads that copy chunks for the mover.
//!
//! One worker for each possible CPU, at the lowest priority of ordinary threads. How many a batch
//! gets follows from what such batches have gained by them ([`workers`]), which workers these are
//! from the nodes of the folios and from the caches that CPUs share ([`placement`]). The mover
//! gives a batch to a worker whose CPU is idle, or that is still spinning after its last batch, and
//! that worker passes the batch on. A worker that gets no CPU costs nothing: the mover takes every
//! chunk that no lane has claimed, and takes a batch back that a worker has not looked at.
//!
//! Lock order: that of [`team`].
//!
//! [`workers`]: ferry_core::workers

mod accounting;
mod placement;
mod team;
mod wait;
mod worker;

use self::team::{
    Team,
    Threads, //
};
use crate::{
    batch::Batch,
    kapi::{
        sched,
        topology,
        vec::filled, //
    },
    migrate_copy::spread::SpreadCall,
    migrator::{
        CopyPlan,
        Keep,
        Limits,
        Made,
        Migrator,
        Quiet, //
    },
    shared::Shared,
    stats::Stats, //
};
use ferry_core::{
    class::{
        BatchClass,
        Route, //
    },
    policy,
    workers::WorkerTuner, //
};
use kernel::{
    fmt,
    prelude::*,
    sync::{
        atomic::Atomic,
        Arc, //
    },
};

/// The most workers: lane 0 is the mover, and the number of a lane is a byte.
const MAX_WORKERS: usize = u8::MAX as usize;

/// The CPU migrator.
struct Cpu {
    team: Arc<Team>,
    /// The gain of each class of batches, by its index.
    tuners: KVec<WorkerTuner<Atomic<u32>>>,
    shared: Arc<Shared>,
}

/// Returns the CPUs that get a worker: up to [`MAX_WORKERS`], online ones first.
fn cpus() -> Result<KVec<topology::Cpu>> {
    let mut cpus = KVec::with_capacity(MAX_WORKERS, GFP_KERNEL)?;
    for usable in [true, false] {
        for cpu in topology::possible().filter(|cpu| cpu.is_usable() == usable) {
            if cpus.len() < MAX_WORKERS && !cpus.contains(&cpu) {
                cpus.push(cpu, GFP_KERNEL)?;
            }
        }
    }
    Ok(cpus)
}

/// Creates the workers and their threads.
///
/// # Errors
///
/// `ENOMEM`, and the errors of starting a kernel thread.
///
/// # Context
///
/// Sleeps.
pub(crate) fn make(shared: &Arc<Shared>) -> Result<Made> {
    let tuner = || Ok(WorkerTuner::new(|| Atomic::new(0)));
    let tuners = filled(BatchClass::COUNT, tuner)?;
    let team = Arc::new(Team::new(cpus()?, shared)?, GFP_KERNEL)?;
    let threads = Threads::start(&team)?;
    let cpu = Arc::new(
        Cpu {
            team,
            tuners,
            shared: shared.clone(),
        },
        GFP_KERNEL,
    )?;
    Ok(Made {
        migrator: cpu,
        keep: KBox::new(threads, GFP_KERNEL)?,
    })
}

impl Keep for Threads {}

impl Migrator for Cpu {
    fn limits(&self) -> Limits {
        Limits {
            min_bytes: 0,
            in_reclaim: true,
            in_async: true,
        }
    }

    fn ready(&self, route: Route) -> bool {
        if self.shared.knobs.cpu_workers(false) == 0 {
            return false;
        }
        let (from, mover) = (topology::Cpu::current(), sched::current_id());
        self.team.candidates(route, from, mover).next().is_some()
    }

    fn choose(&self, class: BatchClass, chunks: u32, payer: u64) -> CopyPlan {
        let most = policy::most_workers(chunks, self.shared.knobs.cpu_workers(payer != 0));
        if most == 0 {
            return CopyPlan::Decline;
        }
        let (count, measure) = match self.tuners.get(class.index()) {
            Some(tuner) if !self.shared.inject.ignores_gain() => {
                let choice = tuner.choose(most, 1);
                (choice.count, choice.measure)
            }
            _ => (most, false),
        };
        match count {
            0 => CopyPlan::Decline,
            count => CopyPlan::Workers { count, measure },
        }
    }

    fn learn(&self, class: BatchClass, batch: &Batch, ns: u64) {
        if let Some(tuner) = self.tuners.get(class.index()) {
            // Each worker that was given the batch counts, even one that did not come: giving has a
            // cost.
            tuner.learn(batch.nr_given(), batch.raw().planned().bytes, ns);
        }
    }

    fn submit(&self, batch: &Arc<Batch>, plan: CopyPlan) -> bool {
        let CopyPlan::Workers { count, .. } = plan else {
            return false;
        };
        // The first worker wakes the next one, and so on: waking costs time of the waker.
        batch.set_wanted(count.saturating_sub(1));
        self.team.give(batch)
    }

    fn wait(&self, batch: &Batch, i: u32, chunk: u32, timeout_ns: u64) -> Result {
        wait::poll(batch, i, chunk, timeout_ns)
    }

    fn quiesce(&self, batch: &Batch, _i: u32, chunk: u32, _timeout_ns: u64) -> Quiet {
        // A worker cannot be stopped in the middle of a chunk; only its word is proof.
        match batch.raw().in_flight(chunk) {
            Some(_) => Quiet::No,
            None => Quiet::Yes,
        }
    }

    fn spread(&self, call: &SpreadCall, route: Route, most: u32, stats: &Arc<Stats>) -> u32 {
        self.team.spread(call, route, most, stats)
    }

    fn batch_done(&self, batch: &Arc<Batch>) {
        for worker in self.team.workers() {
            if batch.is_given(worker.lane().index().into()) {
                worker.retract(batch);
            }
        }
    }

    fn show(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        self.team.show(f)?;
        for (class, tuner) in BatchClass::all().zip(&self.tuners) {
            if tuner.knows() {
                writeln!(f, "gain {class}{tuner}")?;
            }
        }
        Ok(())
    }
}
