// SPDX-License-Identifier: GPL-2.0

//! The manager of an engine's channels: it opens them, gives them back, and asks for proof that
//! quarantined channels are quiet.
//!
//! The manager owns the slots, one for each lane: a channel and its state. Its thread does the work
//! that takes long. The removal of a device is handled in the notifier that announces it, so that
//! the channels have been given back when the driver goes.
//!
//! Channels are drained together, and the proof of each is requested in a thread of its own, so
//! that many channels that hang take as long as one. Movers wait for a proof (see
//! [`ChannelManager::quarantine()`]), for a bounded time and without any lock of the manager; hence
//! its thread has the default nice value, unlike workers.
//!
//! A quarantined channel pauses when it is quiet, and is then tried again ([`Pauses`]): it is given
//! back, requested anew and tested. The thread sleeps until the next try is due. While the machine
//! sleeps, no channel is tried.
//!
//! Lock order: [`ChannelManager::admin`], then the locks of channel sources and of channels.

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

/// The time for which channels that are shut are drained, all of them together: this number of
/// steps of [`DRAIN_STEP_US`], a second. Descriptors that take longer are ended by a proof or by
/// the driver when it goes, or are leaked.
const DRAIN_STEPS: u32 = 1000;

/// The time between two looks at channels that drain, in microseconds.
const DRAIN_STEP_US: i64 = 1000;

/// The time between two rounds of the thread while descriptors are left in flight, in microseconds.
const ROUND_US: i64 = 10_000;

/// The number of rounds from one request for a proof to the next, a second: a proof may reset a
/// function.
const PROVE_EVERY: u32 = 100;

/// Nanoseconds of a millisecond.
const MS: u64 = 1_000_000;

/// Descriptors of channels that were given back without proof that they are quiet, since the module
/// was loaded. A static, because they outlive the manager. Orders nothing.
static LEAKED: Atomic<u64> = Atomic::new(0);

/// The state of a slot.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum State {
    /// No channel.
    Empty = 0,
    /// The channel is in use.
    Active = 1,
    /// The machine sleeps, or goes down: the channel is shut.
    Suspended = 2,
    /// The device is about to be unbound.
    Removing = 3,
    /// Quarantined: the channel did not answer in time.
    TimedOut = 4,
    /// Quarantined: the channel failed repeatedly.
    Faulted = 5,
    /// The driver was unbound; descriptors still outstanding will never complete.
    Removed = 6,
    /// The channel was given back without proof that it is quiet; the lane is not used again.
    Leaked = 7,
    /// Quarantined: the driver has given up a copy, whose memory the engine may still access.
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

    /// Returns the name of the state in debugfs.
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

/// The place of one channel, with its lane, its state and its pauses.
pub(super) struct ChannelSlot {
    channel: Arc<Channel<Batch>>,
    /// A [`State`]. Whether a channel takes descriptors is decided by the channel itself.
    /// [`ChannelSlot::change()`] stores it with release after `failed_at`; partner:
    /// [`ChannelSlot::state()`].
    state: Atomic<u32>,
    /// Set to try the channel again as soon as it is quiet, without a pause. Orders nothing.
    retry_when_quiet: Atomic<u32>,
    /// The number of quarantines, for debugfs.
    quarantines: Atomic<u32>,
    /// The time at which the channel was opened. All times are those of [`ChannelManager::now()`].
    /// Accessed with [`ChannelManager::admin`] held.
    opened_at: Atomic<u64>,
    /// The time at which the wait began that ended in quarantine, or the failure was seen.
    failed_at: Atomic<u64>,
    /// The time at which the channel is tried again; 0 for never. Of slots that are quarantined and
    /// quiet, and of slots that are empty because a try failed. Written with
    /// [`ChannelManager::admin`] held.
    due: Atomic<u64>,
    pauses: Pauses<Atomic<u32>>,
    /// The device that is being unbound and whose channel this is, until it has gone; 0 for none.
    /// Accessed with [`ChannelManager::admin`] held.
    removed_from: Atomic<usize>,
}

impl ChannelSlot {
    /// Returns the channel.
    pub(super) fn channel(&self) -> &Channel<Batch> {
        &self.channel
    }

    /// Returns the lane of the channel.
    pub(super) fn lane(&self) -> Lane {
        self.channel.lane()
    }

    /// Returns the state.
    pub(super) fn state(&self) -> State {
        // Partner: `change()`.
        State::from_word(self.state.load(Acquire))
    }

    /// Returns `true` if the slot has a channel that was not given back.
    fn has_channel(&self) -> bool {
        !matches!(self.state(), State::Empty | State::Leaked)
    }

    fn set(&self, state: State) {
        self.state.store(state as u32, Relaxed);
    }

    /// Changes the state to `to` if it is `from`.
    fn change(&self, from: State, to: State) {
        // Partner: `state()`.
        let _ = self.state.cmpxchg(from as u32, to as u32, Release);
    }

    /// Returns the time at which the channel is tried again, or `None` for never.
    fn due(&self) -> Option<u64> {
        Some(self.due.load(Relaxed)).filter(|&due| due != 0)
    }

    fn is_due(&self, now: u64) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// Cancels the next try and forgets the pauses and the lost addresses, because the device goes.
    fn forget(&self) {
        self.due.store(0, Relaxed);
        self.pauses.forget();
        self.channel.forget_lost_addresses();
    }
}

/// A request for proof that a channel is quiet, made in a thread of its own.
#[pin_data]
struct ProofRequest {
    channel: Arc<Channel<Batch>>,
    /// Not 0 once the thread has begun. Only the thread accesses it.
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

/// A [`ProofRequest`] and its thread. Dropping it waits for the answer, as long as the driver
/// takes.
struct ProofThread {
    request: Arc<ProofRequest>,
    // Dropped after `drop()` has waited: a thread that is stopped before it has begun would not
    // make the request any more.
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

/// A source of channels: it finds free channels and tests them.
pub(crate) trait ChannelSource: Send + Sync {
    /// Requests up to `most` free channels, and returns the queues of those that pass the test.
    ///
    /// # Errors
    ///
    /// The reason, which has been logged, if none of the channels may be used.
    ///
    /// # Context
    ///
    /// Sleeps. The manager holds [`ChannelManager::admin`] when it calls this.
    fn find(&self, most: usize) -> Result<KVec<KBox<dyn Queue>>>;
}

/// The manager of the channels of one source.
#[pin_data]
pub(crate) struct ChannelManager {
    name: Name,
    slots: KVec<ChannelSlot>,
    source: KBox<dyn ChannelSource>,
    waker: SetOnce<Waker>,
    /// Not 0 if the thread has work. Stored with release by [`ChannelManager::kick()`], read with
    /// acquire by the thread.
    kicked: Atomic<u32>,
    /// Not 0 if the thread is to look for new channels. Ordered by `kicked`, which is stored after
    /// it.
    rescan_wanted: Atomic<u32>,
    /// The number of rescans, for debugfs.
    rescans: Atomic<u32>,
    /// Not 0 if a mover waits for a proof that was not requested yet. Ordered by `kicked`, which is
    /// stored after it.
    proofs_wanted: Atomic<u32>,
    /// The number of times that a channel has come or gone. Orders nothing.
    changes: Atomic<u32>,
    /// Not 0 after the end of the selection. Accessed with `admin` held.
    stopped: Atomic<u32>,
    /// Not 0 while the machine sleeps or goes down: no channel is tried. Written with `admin` held,
    /// with which the thread reads it again before it acts.
    suspended: Atomic<u32>,
    /// The origin of all times.
    epoch: Instant<Monotonic>,
    /// The number of rounds of the thread. Only the thread accesses it.
    rounds: Atomic<u32>,
    /// Held while channels are opened, closed or quiesced, and never on the path of migration.
    #[pin]
    admin: Mutex<()>,
}

impl ChannelManager {
    /// Creates a manager with `most` slots, all of them empty.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
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

    /// Returns the name of the source.
    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    /// Returns the slots, in the order of their lanes, from lane 1 on.
    pub(super) fn slots(&self) -> &[ChannelSlot] {
        &self.slots
    }

    /// Sets the waker of the thread, once.
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

    /// Opens a channel with a queue that has been tested, in an empty slot. Drops the queue if
    /// there is none.
    pub(crate) fn add(&self, queue: KBox<dyn Queue>) {
        let _admin = self.admin.lock();
        self.add_locked(queue);
    }

    /// As [`Self::add()`], with [`ChannelManager::admin`] held.
    fn add_locked(&self, queue: KBox<dyn Queue>) {
        // First a slot whose try is due, then a slot that waits for no try.
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
                    "{}: channel {} has passed its test and is used again\n",
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

    /// Shuts a channel, and puts it into quarantine in state `why`. Returns `true` if it was open;
    /// the caller then calls [`ChannelManager::request_proofs()`]. `waited_ns` is the time for
    /// which a mover has waited for the channel.
    pub(super) fn quarantine(&self, slot: &ChannelSlot, why: State, waited_ns: u64) -> bool {
        if !slot.channel.shut() {
            // Another mover, or the manager, has shut it.
            return false;
        }
        let since = self.now().saturating_sub(waited_ns);
        slot.failed_at.store(since, Relaxed);
        // A channel that was removed or suspended meanwhile keeps that state.
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

    /// Makes the thread request the proofs of all quarantined channels at once. Called after the
    /// last of several [`ChannelManager::quarantine()`]: a thread that is awake would request the
    /// proof of the first alone.
    pub(super) fn request_proofs(&self) {
        self.proofs_wanted.store(1, Relaxed);
        self.kick();
    }

    /// Returns the number of times that a channel has come or gone.
    pub(super) fn changes(&self) -> u32 {
        self.changes.load(Relaxed)
    }

    /// Ends all quarantines and pauses: each channel is tried again as soon as it is quiet, and its
    /// pauses begin anew.
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

    /// Gives all channels back, at the end of the selection. The thread has been stopped.
    ///
    /// # Context
    ///
    /// May sleep for long.
    pub(super) fn stop(&self) {
        let _admin = self.admin.lock();
        self.stopped.store(1, Relaxed);
        self.drain(|slot| !slot.state().is_quarantined());
        self.prove(|_| true);
        for slot in &self.slots {
            self.give_back(slot);
        }
    }

    /// Shuts these channels, and waits until none of them has descriptors in flight, for
    /// [`DRAIN_STEPS`] at most.
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

    /// Requests proof, at the same time, of those of these channels that have descriptors in
    /// flight. The descriptors of each channel that is proven quiet have ended afterwards.
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
                    // Without memory for it, it is dropped here, which waits for it.
                    let _ = others.push(thread, GFP_KERNEL);
                }
                Err(_) => {
                    slot.channel.quiesce();
                }
            }
        }
        first.channel.quiesce();
        // Waits for the other proofs.
        drop(others);
        // While a device is reset for one channel, the requests of its other channels fail. After
        // the reset they can succeed.
        let again = || self.slots.iter().filter(asked);
        if again().count() < count {
            for slot in again() {
                slot.channel.quiesce();
            }
        }
    }

    /// Gives a channel back. If it has descriptors in flight, the caller has requested the proof.
    fn give_back(&self, slot: &ChannelSlot) {
        if !slot.has_channel() {
            return;
        }
        let leaked = match slot.channel.reap() {
            true => slot.channel.close(),
            // Another request would take as long again.
            false => slot.channel.detach(),
        };
        if leaked == 0 {
            slot.set(State::Empty);
            return;
        }
        LEAKED.add(leaked, Relaxed);
        slot.set(State::Leaked);
        pr_err!(
            "{}: channel {} given back without proof that it is quiet: {leaked} descriptors and the memory that they write to are never used again; reboot to reclaim it\n",
            self.name,
            slot.lane().index()
        );
    }

    /// Gives the channels of a device back that is about to be unbound.
    ///
    /// A channel that hangs is left to the driver, which ends the descriptors when it goes, or does
    /// not, see [`Self::device_removed()`]: no driver can reset its device for a proof while the
    /// device's lock is held.
    ///
    /// # Context
    ///
    /// Sleeps, for a second at most while channels drain. The device's lock is held.
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
        // Channels that were given back to the device are not tried any more.
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

    /// Marks the channels of a device as removed that has been unbound: descriptors that the driver
    /// has not ended are leaked. If the device had channels, the thread looks for channels of other
    /// devices to replace them.
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

    /// Makes the thread look for new channels: a device may have come, or channels have gone.
    pub(crate) fn rescan_later(&self) {
        self.rescan_wanted.store(1, Relaxed);
        self.kick();
    }

    /// Shuts and drains all channels, because the machine is about to sleep or to go down: a late
    /// write would hit the memory as it is used afterwards.
    pub(crate) fn halt(&self) {
        let _admin = self.admin.lock();
        self.suspended.store(1, Relaxed);
        for slot in &self.slots {
            slot.change(State::Active, State::Suspended);
        }
        self.drain(|slot| slot.state() == State::Suspended);
        self.prove(|slot| slot.state() == State::Suspended || slot.state().is_quarantined());
    }

    /// Opens the channels again after sleep; channels that are not quiet are quarantined.
    pub(crate) fn resume(&self) {
        let _admin = self.admin.lock();
        self.suspended.store(0, Relaxed);
        for slot in &self.slots {
            if slot.state() != State::Suspended {
                continue;
            }
            if slot.channel.reap() {
                // The state first: it must not overwrite the state of a mover that quarantines the
                // channel as soon as it is open.
                slot.set(State::Active);
                slot.channel.reopen();
            } else {
                slot.failed_at.store(self.now(), Relaxed);
                slot.set(State::TimedOut);
            }
        }
        // Channels that hang need a proof, and a try may be due.
        self.kick();
    }

    /// Looks for new channels, and for channels whose try is due.
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
        // An error has been logged by the source.
        for queue in self.source.find(empty().count()).into_iter().flatten() {
            self.add_locked(queue);
        }
        // All free channels have been tried, also those that were not due. No mover has waited.
        for slot in empty().filter(|slot| slot.due().is_some()) {
            if slot.channel.can_prove() {
                self.pause(slot, 0);
                continue;
            }
            slot.due.store(0, Relaxed);
            pr_warn!(
                "{}: channel {} failed its test, and each test without an answer costs memory: it is not tried again; write to debugfs ferry/rearm, or bind the driver again, to retry\n",
                self.name,
                slot.lane().index()
            );
        }
    }

    /// Begins the next pause of a channel that has cost a mover `lost_ns`.
    fn pause(&self, slot: &ChannelSlot, lost_ns: u64) {
        let ms = slot.pauses.next(lost_ns);
        let pause = u64::from(ms).saturating_mul(MS);
        slot.due.store(self.now().saturating_add(pause), Relaxed);
        if log::allowed() {
            pr_info!(
                "{}: channel {} is tested again in {ms} ms; write to debugfs ferry/rearm to test it now\n",
                self.name,
                slot.lane().index()
            );
        }
    }

    /// Handles channels that are quarantined or removed; with `prove` it requests the proofs of the
    /// quarantined ones. Returns `true` if a channel still has descriptors in flight.
    fn service(&self, prove: bool) -> bool {
        let _admin = self.admin.lock();
        let suspended = self.suspended.load(Relaxed) != 0;
        self.prove(|slot| match slot.state() {
            State::TimedOut | State::Faulted | State::Aborted => prove,
            // The driver has gone, and ends no more descriptors by itself.
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

    /// Begins the pause of a quarantined channel that is quiet, or gives the channel back for its
    /// next try when that is due.
    fn pause_or_retry(&self, slot: &ChannelSlot) {
        let now = self.now();
        if slot.retry_when_quiet.xchg(0, Relaxed) != 0 || slot.is_due(now) {
            // The test needs the channel to itself: `rescan()` requests it anew.
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

    /// Returns the time, in ns, until the next try of a channel is due, or `None` if none will be.
    fn next_retry_ns(&self) -> Option<u64> {
        if self.suspended.load(Relaxed) != 0 {
            return None;
        }
        let due = self.slots.iter().filter_map(ChannelSlot::due).min()?;
        Some(due.saturating_sub(self.now()))
    }

    /// Writes the state of the channels, for debugfs.
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
        // Rounded up, so that the thread does not wake before the try is due.
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
            // Rounds go on until there is proof, or the thread is stopped, which it checks between
            // two rounds.
            fsleep(Delta::from_micros(ROUND_US));
            self.kicked.store(1, Release);
        }
    }
}
