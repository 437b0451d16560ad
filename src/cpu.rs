// SPDX-License-Identifier: GPL-2.0

//! The CPU migrator: kernel threads that help the mover.
//!
//! One helper for each CPU that helpers may live on, at the lowest priority of ordinary threads. The
//! mover gives a batch to one whose CPU is idle, or that is still spinning after the last batch, and
//! that one passes it on. A helper that gets no CPU costs nothing: the mover takes every chunk that
//! nobody has claimed, and takes a batch back that a helper has not looked at.
//!
//! Lock order: [`Helper::mailbox`] is a leaf; no two are held at the same time.

mod helper;
mod wait;

use self::helper::Helper;
use crate::{
    batch::{
        Batch,
        Shared, //
    },
    kapi::worker::{
        self,
        Waker,
        Worker, //
    },
    migrator::{
        Keep,
        Limits,
        Made,
        Migrator,
        Quiet, //
    },
};
use ferry_core::policy;
use kernel::{
    cpu::CpuId,
    fmt,
    prelude::*,
    sync::Arc, //
};

/// Most helpers: a batch remembers whom it was given to in one word.
const MAX_HELPERS: usize = 64;

/// A helper and the means to wake it.
struct Hand {
    helper: Arc<Helper>,
    waker: Waker,
}

/// The CPU migrator.
struct Cpu {
    hands: KVec<Hand>,
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

/// Makes the helpers and their threads.
pub(crate) fn make(shared: &Arc<Shared>) -> Result<Made> {
    let mut hands = KVec::with_capacity(MAX_HELPERS, GFP_KERNEL)?;
    let mut workers = KVec::with_capacity(MAX_HELPERS, GFP_KERNEL)?;
    let mut helpers = KVec::with_capacity(MAX_HELPERS, GFP_KERNEL)?;
    for (index, cpu) in worker::cpus().take(MAX_HELPERS - 1).enumerate() {
        // Lane 0 is the mover.
        let lane = u8::try_from(index + 1).map_err(|_| EINVAL)?;
        let helper = Arc::pin_init(Helper::new(lane, cpu), GFP_KERNEL)?;
        let worker = Worker::new(cpu, helper.clone())?;
        let waker = worker.waker();
        helpers.push(helper.clone(), GFP_KERNEL)?;
        hands.push(Hand { helper, waker }, GFP_KERNEL)?;
        workers.push(worker, GFP_KERNEL)?;
    }
    let cpu = Arc::new(
        Cpu {
            hands,
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
    /// Those who could begin at once, best first: near the destination, near the source, elsewhere.
    fn candidates(&self, nodes: (i32, i32)) -> impl Iterator<Item = &Hand> {
        let here = CpuId::current().as_u32();
        let anyway = self.shared.inject.helper_only();
        let rank = move |h: &Hand| match h.helper.node() {
            n if n == nodes.1 => 0,
            n if n == nodes.0 => 1,
            _ => 2,
        };
        (0..3).flat_map(move |r| {
            self.hands.iter().filter(move |h| {
                rank(h) == r
                    && u32::try_from(h.helper.cpu()).is_ok_and(|cpu| cpu != here)
                    && (anyway || h.helper.could_begin())
            })
        })
    }

    /// Gives the batch to one helper, if there is one who could begin at once.
    fn give(&self, batch: &Arc<Batch>) -> bool {
        for hand in self.candidates(batch.raw().nodes()) {
            if let Some(asleep) = hand.helper.post(batch) {
                if asleep {
                    hand.waker.wake();
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
        }
    }

    fn submit(&self, batch: &Arc<Batch>) -> u32 {
        let knobs = &self.shared.knobs;
        let planned = batch.raw().planned();
        let idle = self.candidates(batch.raw().nodes()).count();
        let helpers = policy::helpers_to_wake(
            planned.bytes,
            knobs.chunk_bytes(),
            u32::try_from(idle).unwrap_or(u32::MAX),
            knobs.cpu_workers(),
        );
        if helpers == 0 {
            return 0;
        }
        batch.set_wanted(helpers - 1);
        // The first one wakes the next one, and so on: waking costs the waker.
        if self.give(batch) {
            1
        } else {
            0
        }
    }

    fn pass_on(&self, batch: &Arc<Batch>) {
        if batch.want_more() {
            self.give(batch);
        }
    }

    fn wait(&self, batch: &Batch, i: u32, chunk: u32, timeout_ns: u64) -> Result {
        wait::poll(batch, i, chunk, timeout_ns)
    }

    fn quiesce(&self, batch: &Batch, chunk: u32) -> Quiet {
        // A helper cannot be stopped in the middle of a chunk; only its word is proof.
        match batch.raw().in_flight(chunk) {
            Some(_) => Quiet::No,
            None => Quiet::Yes,
        }
    }

    fn retract(&self, batch: &Arc<Batch>) {
        for hand in &self.hands {
            if batch.is_given(hand.helper.lane().index().into()) {
                hand.helper.retract(batch);
            }
        }
    }

    fn show(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(f, "workers {}", self.hands.len())?;
        for hand in &self.hands {
            let h = &hand.helper;
            writeln!(
                f,
                "worker {} cpu {} node {} {}",
                h.lane().index(),
                h.cpu(),
                h.node(),
                h.doing()
            )?;
        }
        Ok(())
    }
}
