// SPDX-License-Identifier: GPL-2.0

//! The migrator of engines of any kind: channels of one source copy the chunks at the end of a
//! batch while the mover copies from the front.
//!
//! The channels are requested when the migrator is selected, and held. The part of a batch that
//! they get is learnt for each class of batches ([`engine_share`]); with `vm.ferry.engine_share` at
//! `all` it is the whole batch. Channels on the nodes of source and destination come first, and
//! busy channels are left out.
//!
//! A channel that does not answer, or fails repeatedly, is quarantined at once. The
//! [`ChannelManager`] asks for proof that it is quiet (I7), and opens it again after a pause, or
//! when an administrator asks for it, if it passes the test of its [`manager::ChannelSource`].
//! Channels come and go with their devices.
//!
//! Declines migrations that must not block (I15), and migrations in reclaim, where mapping and
//! preparing would allocate from reserves (I8).
//!
//! Lock order: that of [`manager`]. Movers take only the locks of channels.
//!
//! [`engine_share`]: ferry_core::engine_share

#[allow(unsafe_code)]
pub(crate) mod channel;
pub(crate) mod manager;

use self::manager::{
    ChannelManager,
    ChannelSlot,
    State, //
};
use crate::{
    batch::Batch,
    kapi::{
        kthread::Kthread,
        sched,
        topology,
        trace,
        vec::filled, //
    },
    migrator::{
        CopyPlan,
        Keep,
        Limits,
        Made,
        Migrator,
        Quiet, //
    },
    shared::Shared,
    stats::{
        Cause,
        Counter, //
    }, //
};
use ferry_core::{
    class::{
        BatchClass,
        Route, //
    },
    engine_share,
    engine_share::{
        EngineChoice,
        EngineTuner,
        Fraction,
        Sample, //
    },
    knob::EngineShare,
    pace::ChannelPace,
    policy,
    workers::WorkerTuner, //
};
use kernel::{
    fmt,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
};

/// The time, in ns, that each byte in flight adds to the timeout of a batch. 64 ns are 16 MB/s,
/// the slowest pace that counts as progress.
const SLOWEST_NS_PER_BYTE: u64 = 64;

/// The time, in ns, for which a mover tries to reap the descriptors of its batch, before it leaves
/// that to the manager: the callback for the end of the last one may still be running.
const REAP_NS: u64 = 200_000;

/// The migrator of the channels of one source.
struct Engine {
    manager: Arc<ChannelManager>,
    /// The engine's part for each class of batches, by index, as learnt since channels last came or
    /// went.
    tuners: KVec<EngineTuner<Atomic<u32>>>,
    /// The number of channels for each class of batches, by index.
    channel_tuners: KVec<WorkerTuner<Atomic<u32>>>,
    /// The pace of the channels, from which a mover's patience follows.
    pace: ChannelPace<Atomic<u32>>,
    /// [`ChannelManager::changes()`] when something was learnt last. Orders nothing.
    known_changes: Atomic<u32>,
    shared: Arc<Shared>,
}

/// The objects that live as long as the migrator is selected.
struct Selection {
    watch: Option<KBox<dyn Keep>>,
    thread: Option<Kthread<ChannelManager>>,
    manager: Arc<ChannelManager>,
}

impl Keep for Selection {}

impl Drop for Selection {
    fn drop(&mut self) {
        // In this order: no more events for the manager, no more thread, no more channels.
        self.watch = None;
        self.thread = None;
        self.manager.stop();
    }
}

/// Creates the migrator of the channels of `manager`. `watch` is dropped before the channels are
/// given back, so that the manager gets no more events.
///
/// # Errors
///
/// `ENOMEM`, or the error of starting the thread.
///
/// # Context
///
/// May sleep.
pub(crate) fn make(
    manager: Arc<ChannelManager>,
    watch: KBox<dyn Keep>,
    shared: &Arc<Shared>,
) -> Result<Made> {
    let zero = || Atomic::new(0);
    let tuners = filled(BatchClass::COUNT, || Ok(EngineTuner::new(zero)))?;
    let channel_tuners = filled(BatchClass::COUNT, || Ok(WorkerTuner::new(zero)))?;
    let engine = Arc::new(
        Engine {
            manager: manager.clone(),
            tuners,
            channel_tuners,
            pace: ChannelPace::new(Atomic::new(0)),
            known_changes: Atomic::new(0),
            shared: shared.clone(),
        },
        GFP_KERNEL,
    )?;
    let thread = Kthread::new(topology::Cpu::current().number(), manager.clone())?;
    // Movers wait for the proofs of this thread.
    thread.use_default_nice();
    manager.set_waker(thread.waker());
    Ok(Made {
        migrator: engine,
        keep: KBox::new(
            Selection {
                watch: Some(watch),
                thread: Some(thread),
                manager,
            },
            GFP_KERNEL,
        )?,
    })
}

/// Logs that mappings for an engine would be copied by a CPU, and returns the error for it.
pub(crate) fn refuse_bounces(name: &str) -> Error {
    pr_err!(
        "{name}: memory would be copied by a CPU first (swiotlb=force, or memory that the device does not reach): not used\n"
    );
    EOPNOTSUPP
}

impl Engine {
    /// Returns the slots whose channels are active and idle, or also busy ones with `busy_too`:
    /// channels on the nodes of `route` first.
    fn idle(&self, route: Route, busy_too: bool) -> impl Iterator<Item = &ChannelSlot> {
        let near = move |slot: &&ChannelSlot| route.touches(slot.channel().node());
        let usable = move |slot: &&ChannelSlot| {
            slot.state() == State::Active && (busy_too || slot.channel().bytes_in_flight() == 0)
        };
        let slots = self.manager.slots();
        Iterator::chain(
            slots.iter().filter(usable).filter(near),
            slots.iter().filter(usable).filter(move |l| !near(l)),
        )
    }

    /// Returns `true` if the engine gets whole batches, whatever was learnt.
    fn takes_all(&self) -> bool {
        self.shared.knobs.engine_share() == EngineShare::All || self.shared.inject.workers_only()
    }

    /// Returns the number of channels for a batch, `most` at most, as learnt for its class.
    fn channels(&self, batch: &Batch, most: u32) -> u32 {
        let class = batch.class();
        let tuner = class.and_then(|class| self.channel_tuners.get(class.index()));
        match tuner {
            Some(tuner) if !self.shared.inject.ignores_gain() => tuner.choose(most, most).count,
            _ => most,
        }
    }

    /// Forgets what was learnt if channels have come or gone since: it was learnt of other
    /// channels.
    fn forget_if_changed(&self) {
        let now = self.manager.changes();
        if self.known_changes.load(Relaxed) != now {
            self.known_changes.store(now, Relaxed);
            self.tuners.iter().for_each(EngineTuner::forget);
            self.channel_tuners.iter().for_each(WorkerTuner::forget);
            self.pace.forget();
        }
    }

    /// Returns the slot of a lane.
    fn slot(&self, lane: u32) -> Option<&ChannelSlot> {
        // Lane 0 is the mover.
        let index = usize::try_from(lane.checked_sub(1)?).ok()?;
        self.manager.slots().get(index)
    }
}

impl Migrator for Engine {
    fn limits(&self) -> Limits {
        Limits {
            min_bytes: 0,
            in_reclaim: false,
            in_async: false,
        }
    }

    fn ready(&self, route: Route) -> bool {
        self.idle(route, self.takes_all()).next().is_some()
    }

    fn choose(&self, class: BatchClass, _chunks: u32, _payer: u64) -> CopyPlan {
        self.forget_if_changed();
        if self.takes_all() {
            return CopyPlan::Engine {
                part: Fraction::ALL,
                measure: true,
            };
        }
        if self.shared.inject.ignores_gain() {
            return CopyPlan::Engine {
                part: Fraction::HALF,
                measure: false,
            };
        }
        let Some(tuner) = self.tuners.get(class.index()) else {
            return CopyPlan::Decline;
        };
        match tuner.next() {
            EngineChoice::Nothing => CopyPlan::Decline,
            EngineChoice::MoverOnly => CopyPlan::MoverOnly,
            EngineChoice::Part(part) => CopyPlan::Engine {
                part,
                measure: true,
            },
        }
    }

    fn learn(&self, class: BatchClass, batch: &Batch, ns: u64) {
        let did = batch.raw().by_engine();
        let channels = batch.nr_given();
        let sample = Sample {
            bytes: batch.raw().planned().bytes,
            ns,
            asked: channels != 0,
            engine_bytes: did.bytes.load(Relaxed),
            engine_ns: did.ended.load(Relaxed).saturating_sub(batch.planned_at()),
            waited_ns: batch.waited_ns(),
        };
        if let Some(tuner) = self.tuners.get(class.index()) {
            tuner.learn(&sample);
        }
        let channel_tuner = self.channel_tuners.get(class.index());
        if let Some(tuner) = channel_tuner.filter(|_| sample.engine_bytes != 0) {
            tuner.learn(channels, sample.engine_bytes, sample.engine_ns);
        }
        // A failed descriptor may have been ended by a proof, for a mover that had lost its
        // patience.
        if did.failed.load(Relaxed) == 0 {
            self.pace
                .learn(sample.engine_bytes, channels, sample.engine_ns);
        }
    }

    fn submit(&self, batch: &Arc<Batch>, plan: CopyPlan) -> bool {
        let CopyPlan::Engine { part, .. } = plan else {
            return false;
        };
        let planned = batch.raw().planned();
        // At least one chunk, because otherwise small batches would never be measured.
        let taken = part.of(planned.chunks).max(1);
        let route = batch.raw().route();
        let busy_too = self.takes_all();
        let usable = u32::try_from(self.idle(route, busy_too).count()).unwrap_or(u32::MAX);
        if usable == 0 {
            return false;
        }
        // An estimate: chunks differ in size.
        let bytes = policy::bytes_of(planned.bytes, taken, planned.chunks);
        let channels = self.channels(batch, engine_share::channels_for(bytes, taken, usable));
        let mut chunks = 0u32;
        for (n, slot) in (0..channels).zip(self.idle(route, busy_too)) {
            let range = engine_share::nth_range(planned.chunks, taken, channels, n);
            let inject = &self.shared.inject;
            let fail = || inject.fail_chunk();
            let did = (slot.channel()).submit(batch, range, fail, inject.delay_in_descriptor_ns());
            if did.chunks == 0 {
                continue;
            }
            chunks = chunks.saturating_add(did.chunks);
            batch.mark_given(slot.lane().index().into());
            let stats = batch.stats();
            stats.add(Counter::Descriptors, did.descriptors.into());
            stats.add(Counter::Mappings, did.mappings.into());
            stats.add(Counter::EngineSections, did.sections.into());
            stats.add(Counter::EngineSubmits, u64::from(did.descriptors != 0));
            for _ in 0..did.referenced {
                stats.fallback(Cause::References, 0);
            }
        }
        chunks != 0
    }

    fn wait(&self, batch: &Batch, i: u32, chunk: u32, timeout_ns: u64) -> Result {
        let Some(lane) = batch.raw().in_flight(chunk) else {
            return Ok(());
        };
        let slot = self.slot(lane.index().into()).ok_or(EINVAL)?;
        let load = slot.channel().bytes_in_flight();
        // The cap for all of the mover's waiting in this batch, proofs included.
        let all = timeout_ns.saturating_add(load.saturating_mul(SLOWEST_NS_PER_BYTE));
        let left = all.saturating_sub(batch.waited_ns());
        let channel = slot.channel();
        // A channel that has kept a mover waiting for too long gets no more time. Where no proof
        // is possible, a late folio is better than a failed one.
        let patience = match slot.state() {
            State::TimedOut => 0,
            _ if channel.can_prove() => self.pace.patience_ns(load),
            _ => left,
        };
        let waited = channel.wait(batch.raw(), i, chunk, left.min(patience));
        let waited_ns = batch.waited_ns();
        if waited == Err(ECANCELED) && self.manager.quarantine(slot, State::Aborted, waited_ns) {
            self.manager.request_proofs();
        }
        waited
    }

    fn quiesce(&self, batch: &Batch, i: u32, chunk: u32, timeout_ns: u64) -> Quiet {
        let Some(lane) = batch.raw().in_flight(chunk) else {
            return Quiet::Yes;
        };
        let Some(slot) = self.slot(lane.index().into()) else {
            return Quiet::No;
        };
        // All other channels with descriptors of this batch have had them for as long: the proofs
        // of all of them are requested at the same time, and once. `wait()` has no patience with
        // these channels afterwards.
        let mut newly_quarantined = false;
        for slot in self.manager.slots() {
            if batch.is_given(slot.lane().index().into()) && slot.channel().has_unfinished_of(batch)
            {
                newly_quarantined |=
                    self.manager
                        .quarantine(slot, State::TimedOut, batch.waited_ns());
            }
        }
        if newly_quarantined {
            self.manager.request_proofs();
            batch.stats().add(Counter::EngineTimeouts, 1);
        }
        if !slot.channel().can_prove() {
            return Quiet::No;
        }
        // With the proof the manager ends the descriptors in flight, and the chunk has failed. The
        // wait holds no lock of the module or of a driver, and is bounded, because the manager may
        // need locks that the mover holds.
        let left = timeout_ns.saturating_sub(batch.waited_ns());
        match slot.channel().wait(batch.raw(), i, chunk, left) {
            Ok(()) => Quiet::Yes,
            Err(_) => Quiet::No,
        }
    }

    fn batch_done(&self, batch: &Arc<Batch>) {
        let mut unreaped = false;
        for slot in self.manager.slots() {
            if !batch.is_given(slot.lane().index().into()) {
                continue;
            }
            if slot.channel().errors_in_a_row() != 0 {
                trace::engine_error(slot.lane().index().into(), EIO.to_errno());
            }
            if slot.channel().is_failing() && self.manager.quarantine(slot, State::Faulted, 0) {
                self.manager.request_proofs();
            }
            // Bounded by REAP_NS: the callback for the end of the last descriptor may be running.
            let from = sched::clock();
            loop {
                slot.channel().reap();
                if !slot.channel().has_jobs_of(batch) {
                    break;
                }
                if sched::clock().saturating_sub(from) > REAP_NS {
                    unreaped = true;
                    break;
                }
                kernel::processor::cpu_relax();
            }
        }
        if unreaped {
            self.manager.kick();
        }
    }

    fn rearm(&self) -> Result {
        self.manager.rearm();
        Ok(())
    }

    fn show(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        self.manager.show(f)?;
        for (class, (tuner, channels)) in
            BatchClass::all().zip(self.tuners.iter().zip(&self.channel_tuners))
        {
            let Some(known) = tuner.known() else {
                continue;
            };
            write!(
                f,
                "gain {class} share {} with {} without {}",
                known.part, known.with_us, known.without_us
            )?;
            if channels.knows() {
                write!(f, " channels{channels}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
