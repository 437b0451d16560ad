// SPDX-License-Identifier: GPL-2.0

//! The manager of an engine's channels: it takes them, gives them back, and finds out whether those
//! that were quarantined are quiet.
//!
//! The manager owns the slots, one for each lane: a channel, and what state it is in. Its thread
//! does what takes long; devices that go are dealt with where they are announced, so that their
//! channels have been given back when their drivers go.
//!
//! Channels are drained together, and each is asked for proof of quiet in a thread of its own, so
//! that many that hang take as long as one. Movers wait for a proof (see
//! [`ChannelManager::quarantine()`]), for a bounded time and without any lock of the manager; hence
//! its thread is not as nice as workers are.
//!
//! What was quarantined rests when it is quiet, and is then tried again ([`Pauses`]): it is given
//! back, requested anew and tested. The thread sleeps until the next such try, and does nothing of
//! the kind while the machine sleeps.
//!
//! Lock order: [`ChannelManager::admin`], then the locks of providers and of channels.

use crate::{
    batch::Batch,
    engine::channel::{
        Channel,
        Queue, //
    },
    kapi::{
        bus::DeviceId,
        kthread::{
            Kthread,
            ThreadFn,
            Waker, //
        },
        log,
        topology, //
    },
    names::Name, //
};
use ferry_core::{
    pauses::Pauses,
    Lane, //
};
use kernel::{
    fmt, new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc,
        Completion,
        Mutex,
        SetOnce, //
    },
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    },
};

/// How long channels that are shut may take for what they have, all of them together: a second.
/// What takes longer is ended by a proof, or by the driver that goes, or is lost.
const DRAIN_STEPS: u32 = 1000;
const DRAIN_STEP_US: i64 = 1000;

/// How often the thread looks again while something is left to do, and how many times between two
/// attempts to prove that a channel is quiet.
const ROUND_US: i64 = 10_000;
const PROVE_EVERY: u32 = 100;

/// Nanoseconds of a millisecond.
const MS: u64 = 1_000_000;

/// Descriptors of channels that were given back without proof that they are quiet, since the module
/// was loaded: they outlive the manager.
static LEAKED: Atomic<u64> = Atomic::new(0);

/// What state a slot is in.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum State {
    /// There is no channel.
    Empty = 0,
    /// In use.
    Active = 1,
    /// The machine sleeps, or goes down.
    Suspended = 2,
    /// Its device goes.
    Removing = 3,
    /// Quarantined: it did not answer in time.
    TimedOut = 4,
    /// Quarantined: it failed again and again.
    Faulted = 5,
    /// The driver was unbound; descriptors still outstanding will never complete.
    Removed = 6,
    /// It was given back without proof that it is quiet.
    Leaked = 7,
    /// Quarantined: its driver has given up a copy that its engine may still be at.
    Aborted = 8,
}

impl State {
    fn from_word(word: u32) -> Self {
        [
            Self::Active,
            Self::Suspended,
            Self::Removing,
            Self::TimedOut,
            Self::Faulted,
            Self::Removed,
            Self::Leaked,
            Self::Aborted,
        ]
        .into_iter()
        .find(|s| *s as u32 == word)
        .unwrap_or(Self::Empty)
    }

    fn text(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Removing => "removing",
            Self::TimedOut => "quarantined (timeout)",
            Self::Faulted => "quarantined (errors)",
            Self::Removed => "removed",
            Self::Leaked => "leaked",
            Self::Aborted => "quarantined (aborted)",
        }
    }

    fn is_quarantined(self) -> bool {
        matches!(self, Self::TimedOut | Self::Faulted | Self::Aborted)
    }
}

/// A lane, and the channel that it has.
pub(super) struct ChannelSlot {
    channel: Arc<Channel<Batch>>,
    /// Movers that submit look at the channel itself. [`ChannelSlot::change()`] releases `failed_at`
    /// to the reader of the state.
    state: Atomic<u32>,
    /// It is to be tried again as soon as it is quiet, whatever pause it has.
    retry_when_quiet: Atomic<u32>,
    quarantines: Atomic<u32>,
    /// Times are those of [`ChannelManager::now()`]. When the channel came. With
    /// [`ChannelManager::admin`] held.
    opened_at: Atomic<u64>,
    /// When the wait began that ended in quarantine, or the failure was seen.
    failed_at: Atomic<u64>,
    /// When it is tried again; 0 if that is not to be. Of slots that are quarantined and quiet, and
    /// of those that have become empty because a try failed. Written with [`ChannelManager::admin`]
    /// held.
    due: Atomic<u64>,
    pauses: Pauses<Atomic<u32>>,
    /// The device that it has been taken from, until that has gone; 0 for none. With
    /// [`ChannelManager::admin`] held.
    removed_from: Atomic<usize>,
}

impl ChannelSlot {
    pub(super) fn channel(&self) -> &Channel<Batch> {
        &self.channel
    }

    pub(super) fn lane(&self) -> Lane {
        self.channel.lane()
    }

    pub(super) fn state(&self) -> State {
        // Partner: `change()`.
        State::from_word(self.state.load(Acquire))
    }

    fn has_channel(&self) -> bool {
        !matches!(self.state(), State::Empty | State::Leaked)
    }

    fn set(&self, state: State) {
        self.state.store(state as u32, Relaxed);
    }

    /// Changes the state, unless it is another one already.
    fn change(&self, from: State, to: State) {
        // Partner: `state()`.
        let _ = self.state.cmpxchg(from as u32, to as u32, Release);
    }

    /// Returns when it is tried again, if it is.
    fn due(&self) -> Option<u64> {
        Some(self.due.load(Relaxed)).filter(|&due| due != 0)
    }

    fn is_due(&self, now: u64) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// It is not tried again, and what was learnt of it is forgotten: its device goes.
    fn forget(&self) {
        self.due.store(0, Relaxed);
        self.pauses.forget();
        self.channel.forget_lost_addresses();
    }
}

/// Asks for proof that a channel is quiet, beside others.
#[pin_data]
struct ProofRequest {
    channel: Arc<Channel<Batch>>,
    /// The thread has begun. Its own, and orders nothing.
    started: Atomic<u32>,
    #[pin]
    done: Completion,
}

impl ThreadFn for ProofRequest {
    fn pending(&self) -> bool {
        self.started.load(Relaxed) == 0
    }

    fn run(&self) {
        if self.started.xchg(1, Relaxed) == 0 {
            self.channel.quiesce();
            self.done.complete_all();
        }
    }
}

/// A [`ProofRequest`] and its thread. Dropping it waits for the answer, which takes as long as the
/// driver.
struct ProofThread {
    request: Arc<ProofRequest>,
    // Dropped after `drop()` has waited: one that has not begun would not begin any more.
    _thread: Kthread<ProofRequest>,
}

impl ProofThread {
    fn new(channel_slot: &ChannelSlot) -> Result<Self> {
        let request = Arc::pin_init(
            pin_init!(ProofRequest {
                channel: channel_slot.channel.clone(),
                started: Atomic::new(0),
                done <- Completion::new(),
            }),
            GFP_KERNEL,
        )?;
        let thread = Kthread::new(topology::Cpu::current().number(), request.clone())?;
        thread.use_default_nice();
        Ok(Self {
            request,
            _thread: thread,
        })
    }
}

impl Drop for ProofThread {
    fn drop(&mut self) {
        self.request.done.wait_for_completion();
    }
}

/// Where channels come from.
pub(crate) trait ChannelSource: Send + Sync {
    /// Up to `most` channels that are free, and work. An error if none may be used, which has been
    /// logged. Sleeps.
    fn find(&self, most: usize) -> Result<KVec<KBox<dyn Queue>>>;
}

/// The manager of the channels of one source.
#[pin_data]
pub(crate) struct ChannelManager {
    name: Name,
    slots: KVec<ChannelSlot>,
    source: KBox<dyn ChannelSource>,
    waker: SetOnce<Waker>,
    /// Not 0 if there is something to do. Stored with release by [`ChannelManager::kick()`], read
    /// with acquire by the thread.
    kicked: Atomic<u32>,
    /// New channels are to be looked for.
    rescan_wanted: Atomic<u32>,
    /// The number of rescans, for debugfs.
    rescans: Atomic<u32>,
    /// A mover waits for a proof, which has not been asked for. Ordered by `kicked`, which is
    /// stored after it.
    proofs_wanted: Atomic<u32>,
    /// How often channels have come or gone.
    changes: Atomic<u32>,
    /// The selection is over.
    stopped: Atomic<u32>,
    /// The machine sleeps, or goes down: nothing is tried. Written with `admin` held; the thread
    /// looks again with it.
    suspended: Atomic<u32>,
    /// What times are counted from.
    epoch: Instant<Monotonic>,
    /// Rounds of the thread.
    rounds: Atomic<u32>,
    /// Held while channels are opened, closed or quiesced, and never on the path of migration.
    #[pin]
    admin: Mutex<()>,
}

impl ChannelManager {
    /// Creates a manager with `most` slots, all of them empty.
    pub(crate) fn new(
        name: Name,
        most: usize,
        source: KBox<dyn ChannelSource>,
    ) -> Result<Arc<Self>> {
        let mut slots = KVec::with_capacity(most, GFP_KERNEL)?;
        for lane in (1..=u8::MAX).take(most) {
            slots.push(
                ChannelSlot {
                    channel: Channel::new(Lane::new(lane))?,
                    state: Atomic::new(State::Empty as u32),
                    retry_when_quiet: Atomic::new(0),
                    quarantines: Atomic::new(0),
                    opened_at: Atomic::new(0),
                    failed_at: Atomic::new(0),
                    due: Atomic::new(0),
                    pauses: Pauses::new(Atomic::new(0)),
                    removed_from: Atomic::new(0),
                },
                GFP_KERNEL,
            )?;
        }
        Arc::pin_init(
            pin_init!(Self {
                name,
                slots,
                source,
                waker: SetOnce::new(),
                kicked: Atomic::new(0),
                rescan_wanted: Atomic::new(0),
                rescans: Atomic::new(0),
                proofs_wanted: Atomic::new(0),
                changes: Atomic::new(0),
                stopped: Atomic::new(0),
                suspended: Atomic::new(0),
                epoch: Instant::now(),
                rounds: Atomic::new(0),
                admin <- new_mutex!((), "ferry::admin"),
            }),
            GFP_KERNEL,
        )
    }

    /// The name of the source.
    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    pub(super) fn slots(&self) -> &[ChannelSlot] {
        &self.slots
    }

    pub(super) fn set_waker(&self, waker: Waker) {
        self.waker.populate(waker);
    }

    /// Returns the time in nanoseconds, by the kernel's monotonic clock. Never 0.
    fn now(&self) -> u64 {
        let ns = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(0);
        ns.max(1)
    }

    /// Wakes the thread.
    pub(crate) fn kick(&self) {
        self.kicked.store(1, Release);
        if let Some(waker) = self.waker.as_ref() {
            waker.wake();
        }
    }

    /// Takes a channel that has been tested.
    pub(crate) fn add(&self, queue: KBox<dyn Queue>) {
        let _admin = self.admin.lock();
        self.add_locked(queue);
    }

    fn add_locked(&self, queue: KBox<dyn Queue>) {
        // First where a channel is being tried, then where none is to be tried later.
        let now = self.now();
        let place = |slot: &&ChannelSlot| match slot.due() {
            Some(due) if due <= now => 0,
            None => 1,
            Some(_) => 2,
        };
        let empty = self.slots.iter().filter(|l| l.state() == State::Empty);
        let Some(slot) = empty.min_by_key(place) else {
            return;
        };
        if slot.channel.open(queue) {
            if slot.due().is_some() && log::allowed() {
                pr_info!(
                    "{}: channel {} has passed its test, and is used again\n",
                    self.name,
                    slot.lane().index()
                );
            }
            slot.retry_when_quiet.store(0, Relaxed);
            slot.due.store(0, Relaxed);
            slot.opened_at.store(now, Relaxed);
            slot.set(State::Active);
            self.changes.add(1u32, Relaxed);
        }
    }

    /// Keeps movers from submitting to a channel whose quiet is to be proven: see
    /// [`ChannelManager::request_proofs()`]. Returns `true` if they could before. `waited_ns` is the time for
    /// which a mover has waited for the channel.
    pub(super) fn quarantine(&self, slot: &ChannelSlot, why: State, waited_ns: u64) -> bool {
        if !slot.channel.shut() {
            // Another mover, or the manager, has.
            return false;
        }
        let since = self.now().saturating_sub(waited_ns);
        slot.failed_at.store(since, Relaxed);
        // One that goes, or is halted, meanwhile stays so.
        slot.change(State::Active, why);
        self.changes.add(1u32, Relaxed);
        slot.quarantines.add(1u32, Relaxed);
        if log::allowed() {
            let next = match slot.channel.lost_too_many_addresses() {
                true => "write to debugfs ferry/rearm to retry",
                false => "it is tested again after a pause, once it is proven quiet",
            };
            pr_warn!(
                "{}: channel {} {}: it takes no more copies; {next}\n",
                self.name,
                slot.lane().index(),
                why.text()
            );
        }
        true
    }

    /// Has the thread ask at once for the proofs of what was quarantined. To be called when all
    /// that is asked at the same time has been: the thread may be awake, and would ask for the
    /// first alone.
    pub(super) fn request_proofs(&self) {
        self.proofs_wanted.store(1, Relaxed);
        self.kick();
    }

    /// How often channels have come or gone so far.
    pub(super) fn changes(&self) -> u32 {
        self.changes.load(Relaxed)
    }

    /// Tries quarantined channels again, each as soon as it is quiet, and what has been tried in
    /// vain. Their pauses begin anew.
    pub(super) fn rearm(&self) {
        for slot in &self.slots {
            slot.pauses.forget();
            if slot.state().is_quarantined() {
                slot.channel.forget_lost_addresses();
                slot.retry_when_quiet.store(1, Relaxed);
            }
        }
        self.rescan_wanted.store(1, Relaxed);
        self.kick();
    }

    /// The selection is over, and so is the thread: gives all channels back.
    pub(super) fn stop(&self) {
        let _admin = self.admin.lock();
        self.stopped.store(1, Relaxed);
        self.drain(|slot| !slot.state().is_quarantined());
        self.prove(|_| true);
        for slot in &self.slots {
            self.give_back(slot);
        }
    }

    /// Shuts these channels, and waits until none of them has anything, for a while.
    fn drain(&self, which: impl Fn(&ChannelSlot) -> bool) {
        let slots = || self.slots.iter().filter(|slot| which(slot));
        slots().for_each(|slot| {
            slot.channel.shut();
        });
        for _ in 0..DRAIN_STEPS {
            let mut busy = false;
            for slot in slots().filter(|slot| !slot.channel.reap()) {
                slot.channel.poll();
                busy = true;
            }
            if !busy {
                return;
            }
            fsleep(Delta::from_micros(DRAIN_STEP_US));
        }
    }

    /// Asks for proof that these channels are quiet, all of them that have something in flight at
    /// the same time. What has been proven has ended then.
    fn prove(&self, which: impl Fn(&ChannelSlot) -> bool) {
        let asked = |slot: &&ChannelSlot| slot.has_channel() && which(slot) && !slot.channel.reap();
        let mut slots = self.slots.iter().filter(asked);
        let Some(first) = slots.next() else {
            return;
        };
        let mut others = KVec::new();
        let mut count = 1;
        for slot in slots {
            count += 1;
            match ProofThread::new(slot) {
                Ok(thread) => {
                    // Without room it is dropped, and so waited for, here.
                    let _ = others.push(thread, GFP_KERNEL);
                }
                Err(_) => {
                    slot.channel.quiesce();
                }
            }
        }
        first.channel.quiesce();
        // Waits for them.
        drop(others);
        // While a device is reset for one channel, the others cannot have it reset, and say that
        // they are not quiet.
        let again = || self.slots.iter().filter(asked);
        if again().count() < count {
            for slot in again() {
                slot.channel.quiesce();
            }
        }
    }

    /// Gives a channel back. If it has something in flight, it has been asked for proof.
    fn give_back(&self, slot: &ChannelSlot) {
        if !slot.has_channel() {
            return;
        }
        let leaked = match slot.channel.reap() {
            true => slot.channel.close(),
            // It would be as long again.
            false => slot.channel.detach(),
        };
        if leaked == 0 {
            slot.set(State::Empty);
            return;
        }
        LEAKED.add(leaked, Relaxed);
        slot.set(State::Leaked);
        pr_err!(
            "{}: channel {} given back without proof that it is quiet: {leaked} descriptors, and the memory they write to, are lost\n",
            self.name,
            slot.lane().index()
        );
    }

    /// A device is about to go, of which these channels are: it gets them back before.
    ///
    /// A channel that hangs is left to the driver, which ends what it has when it goes: with the
    /// device's lock held, as it is here, no driver can reset its device for a proof; or it does
    /// not, see [`Self::device_removed()`].
    pub(crate) fn device_removing(&self, device: DeviceId) {
        let _admin = self.admin.lock();
        let goes = |slot: &ChannelSlot| {
            slot.channel.with_queue(|queue| queue.belongs_to(device)) == Some(true)
        };
        for slot in self.slots.iter().filter(|slot| goes(slot)) {
            slot.removed_from.store(device.id(), Relaxed);
            slot.forget();
            slot.set(State::Removing);
        }
        // What was given back to it is not tried any more.
        let was =
            |slot: &&ChannelSlot| slot.state() == State::Empty && slot.channel.had_queue_of(device);
        self.slots.iter().filter(was).for_each(ChannelSlot::forget);
        self.drain(goes);
        for slot in self.slots.iter().filter(|slot| goes(slot)) {
            if slot.channel.reap() {
                self.give_back(slot);
            }
        }
    }

    /// The device has gone. What its driver has not ended is lost; channels of others take its
    /// place, if it had any.
    pub(crate) fn device_removed(&self, device: DeviceId) {
        let _admin = self.admin.lock();
        let mut ours = false;
        for slot in &self.slots {
            if slot.removed_from.load(Relaxed) != device.id() {
                continue;
            }
            slot.removed_from.store(0, Relaxed);
            ours = true;
            if slot.state() == State::Removing {
                slot.set(State::Removed);
            }
        }
        if ours {
            self.rescan_later();
        }
    }

    /// A device may have come, or one has gone that spare channels of others can stand in for.
    pub(crate) fn rescan_later(&self) {
        self.rescan_wanted.store(1, Relaxed);
        self.kick();
    }

    /// The machine sleeps, or goes down: a late write would hit what comes after.
    pub(crate) fn halt(&self) {
        let _admin = self.admin.lock();
        self.suspended.store(1, Relaxed);
        for slot in &self.slots {
            slot.change(State::Active, State::Suspended);
        }
        self.drain(|slot| slot.state() == State::Suspended);
        self.prove(|slot| slot.state() == State::Suspended || slot.state().is_quarantined());
    }

    /// It is back.
    pub(crate) fn resume(&self) {
        let _admin = self.admin.lock();
        self.suspended.store(0, Relaxed);
        for slot in &self.slots {
            if slot.state() != State::Suspended {
                continue;
            }
            if slot.channel.reap() {
                // First the state: a mover that shuts it from here on has the last word.
                slot.set(State::Active);
                slot.channel.reopen();
            } else {
                slot.failed_at.store(self.now(), Relaxed);
                slot.set(State::TimedOut);
            }
        }
        // What hangs has to be proven quiet, and something may be due.
        self.kick();
    }

    /// Looks for channels that were not there before, and for those that are tried again.
    fn rescan(&self) {
        let _admin = self.admin.lock();
        if self.stopped.load(Relaxed) != 0 {
            return;
        }
        if self.suspended.load(Relaxed) != 0 {
            // `resume()` kicks the thread.
            self.rescan_wanted.store(1, Relaxed);
            return;
        }
        let empty = || self.slots.iter().filter(|l| l.state() == State::Empty);
        self.rescans.add(1u32, Relaxed);
        // Whatever is wrong with them has been said.
        for queue in self.source.find(empty().count()).into_iter().flatten() {
            self.add_locked(queue);
        }
        // All that are free have been tried, also those whose time had not come. No mover waited.
        for slot in empty().filter(|slot| slot.due().is_some()) {
            if slot.channel.can_prove() {
                self.pause(slot, 0);
                continue;
            }
            slot.due.store(0, Relaxed);
            pr_warn!(
                "{}: channel {} has failed its test, and is left alone until a driver is bound or ferry/rearm is written to: each test without an answer costs memory\n",
                self.name,
                slot.lane().index()
            );
        }
    }

    /// Has a channel rest that has cost a mover `lost_ns`.
    fn pause(&self, slot: &ChannelSlot, lost_ns: u64) {
        let ms = slot.pauses.next(lost_ns);
        let pause = u64::from(ms).saturating_mul(MS);
        slot.due.store(self.now().saturating_add(pause), Relaxed);
        if log::allowed() {
            pr_info!(
                "{}: channel {} rests, and is tried again in {ms} ms, or when ferry/rearm is written to\n",
                self.name,
                slot.lane().index()
            );
        }
    }

    /// Deals with what was quarantined or goes. Says whether there is something left to do.
    fn service(&self, prove: bool) -> bool {
        let _admin = self.admin.lock();
        let suspended = self.suspended.load(Relaxed) != 0;
        self.prove(|slot| match slot.state() {
            State::TimedOut | State::Faulted | State::Aborted => prove,
            // What the driver has not ended by now it does not end by itself.
            State::Removed => true,
            State::Empty | State::Active | State::Suspended | State::Removing | State::Leaked => {
                false
            }
        });
        let mut left = false;
        for slot in &self.slots {
            let state = slot.state();
            if state == State::Leaked {
                continue;
            }
            let quiet = slot.channel.reap();
            if state == State::Removed || quiet && state == State::Removing {
                self.give_back(slot);
                continue;
            }
            left |= !quiet;
            if suspended || !quiet {
                continue;
            }
            if state == State::Empty && slot.is_due(self.now()) {
                self.rescan_wanted.store(1, Relaxed);
            }
            if state.is_quarantined() {
                self.pause_or_retry(slot);
            }
        }
        left
    }

    /// Lets a channel rest that is in quarantine and quiet, or tries it again when it has.
    fn pause_or_retry(&self, slot: &ChannelSlot) {
        let now = self.now();
        if slot.retry_when_quiet.xchg(0, Relaxed) != 0 || slot.is_due(now) {
            // It is given back, as the test needs it to itself: `rescan()` requests it.
            if slot.channel.close() == 0 {
                slot.due.store(now, Relaxed);
                slot.set(State::Empty);
                self.rescan_wanted.store(1, Relaxed);
            }
        } else if slot.due().is_none() && !slot.channel.lost_too_many_addresses() {
            let failed_at = slot.failed_at.load(Relaxed);
            let used_ns = failed_at.saturating_sub(slot.opened_at.load(Relaxed));
            slot.pauses.worked(used_ns, slot.channel.good_bytes());
            self.pause(slot, now.saturating_sub(failed_at));
        }
    }

    /// Returns in how many nanoseconds the next channel is tried again, if any is.
    fn next_retry_ns(&self) -> Option<u64> {
        if self.suspended.load(Relaxed) != 0 {
            return None;
        }
        let due = self.slots.iter().filter_map(ChannelSlot::due).min()?;
        Some(due.saturating_sub(self.now()))
    }

    pub(super) fn show(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        let live = self.slots.iter().filter(|l| l.state() == State::Active);
        writeln!(f, "channels {}", live.count())?;
        writeln!(f, "leaked {}", LEAKED.load(Relaxed))?;
        writeln!(f, "rescans {}", self.rescans.load(Relaxed))?;
        for slot in &self.slots {
            let counters = slot.channel.counters();
            if slot.state() == State::Empty && counters.descriptors == 0 {
                continue;
            }
            write!(
                f,
                "channel {} {} node {} descriptors {} bytes {} busy {} errors {} quarantines {} strange {}",
                slot.lane().index(),
                slot.state().text(),
                slot.channel.node(),
                counters.descriptors,
                counters.bytes,
                counters.busy,
                counters.errors,
                slot.quarantines.load(Relaxed),
                counters.strange,
            )?;
            if let Some(due) = slot.due() {
                let left = due.saturating_sub(self.now()) / MS;
                write!(f, " pause {} retry {left}", slot.pauses.last_ms())?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl ThreadFn for ChannelManager {
    fn pending(&self) -> bool {
        self.kicked.load(Acquire) != 0 || self.next_retry_ns() == Some(0)
    }

    fn sleep_limit_ms(&self) -> Option<u32> {
        // Rounded up: what is left of a millisecond is slept, too.
        let ms = self.next_retry_ns()?.div_ceil(MS);
        Some(u32::try_from(ms).unwrap_or(u32::MAX))
    }

    fn run(&self) {
        if self.kicked.xchg(0, Acquire) == 0 && self.next_retry_ns() != Some(0) {
            return;
        }
        let round = self.rounds.load(Relaxed);
        self.rounds.store(round.wrapping_add(1), Relaxed);
        let wanted = self.proofs_wanted.xchg(0, Relaxed) != 0;
        let left = self.service(wanted || round % PROVE_EVERY == 0);
        if self.rescan_wanted.xchg(0, Relaxed) != 0 {
            self.rescan();
        }
        if left {
            // Until there is proof, or the thread has to stop, which is asked between two rounds.
            fsleep(Delta::from_micros(ROUND_US));
            self.kicked.store(1, Release);
        }
    }
}
