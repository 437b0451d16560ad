// SPDX-License-Identifier: GPL-2.0

//! A bound SDXI function: probe, removal, and starting and stopping its contexts. [`recovery`] has
//! activation, and recovery from errors and resets.
//!
//! The state of the function changes under one mutex, in process context: in the thread of vector
//! 0, which is woken for errors, in callbacks of the PCI core, and in clients that open or quiesce
//! a context. Every wait is bounded. A timeout proves nothing: a context counts as stopped when the
//! administrative context has completed the stop, or the function has stopped; the function counts
//! as stopped when STS0 says so, after a reset if necessary.
//!
//! Locks: [`Function::control`], then those of [`context`](crate::sdxi::hw::context).
//! [`Function::irqs`] is taken without the mutex: requesting an interrupt waits for kthreadd, and
//! freeing the interrupt of vector 0 waits for its thread, which takes the mutex.

mod recovery;

use crate::{
    counters::counters,
    kapi::{
        log::allowed,
        pci::{
            Configuration,
            Device,
            Irq,
            Vectors,
            Waker, //
        },
    },
    sdxi::hw::{
        buffer::Buffer,
        context::{
            Context,
            Life, //
        },
        mmio::Bars,
        queue::Owner,
        ring::{
            Command,
            ContextRing,
            Refused, //
        },
        tables::{
            ErrorLog,
            Tables,
            MAX_CONTEXT, //
        }, //
    },
};
use ferry_core::sdxi::{
    life::{
        Action,
        Recoveries,
        StartSequence,
        StopFallback,
        StopSequence, //
    },
    log,
    registers::{
        Capabilities,
        FunctionLimits,
        FunctionState,
        Register,
        Unfit, //
    },
    table::ContextState, //
};
use kernel::{
    dev_err, dev_info, dev_warn, new_mutex,
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc,
        Mutex, //
    },
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    },
};

/// The most contexts for copies that a function is used with. Each has a ring and may have a
/// vector.
const MOST_CONTEXTS: u16 = 64;

/// Time in ms for the administrative context to carry out commands. The standard gives no bound;
/// the models take microseconds.
const COMMAND_MS: i64 = 1000;
/// Time in ms for a context to finish the descriptors that it is executing, before it is stopped
/// hard: many times the time of the longest copy, and short for a mover that waits for the proof.
const SOFT_STOP_MS: i64 = 100;
/// Interval in us at which states are polled: short compared with every timeout above.
const POLL_US: i64 = 50;

/// Entries of the error log that are kept for debugfs.
#[doc(alias = "ERRLOG_HD_ENT")]
pub(super) const LOGGED: usize = 32;

/// The state of a function, as the driver has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The function runs.
    Active,
    /// The function has stopped for the PCI core, which resets it or suspends it.
    Suspended,
    /// The function may be running, or does not answer: only a reset helps.
    Lost,
    /// The function has stopped, and could not be activated so far. A recovery tries it again, and
    /// has the function reset if that fails.
    Broken,
    /// The driver is being unbound.
    Removed,
}

impl Mode {
    /// Returns the name for debugfs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Lost => "lost",
            Self::Broken => "broken",
            Self::Removed => "removed",
        }
    }
}

counters! {
    /// Events of a function since it was bound.
    Counters: interrupts, activations, failed_activations, function_errors, context_errors,
    command_errors, resets, log_entries, log_invalid, log_overflows, log_failures,
}

/// The initiator of a reset by the PCI core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resetter {
    /// This driver. A reset that others initiate at the same time is taken for one of the driver.
    Driver,
    /// An administrator, the PCI core itself, or system sleep.
    Others,
}

/// The reason why commands were not carried out.
enum CommandError {
    /// The device refused a command, after this many that completed without an error.
    Refused(usize),
    /// The commands did not complete, could not be pushed, or the function has failed.
    Failed(Error),
}

impl From<CommandError> for Error {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Refused(_) => EIO,
            CommandError::Failed(e) => e,
        }
    }
}

/// State that the mutex of a function protects.
pub(super) struct Control {
    pub(super) mode: Mode,
    /// The sequences for starting and stopping contexts that the device has not refused so far.
    pub(super) starting: StartSequence,
    pub(super) stopper: StopFallback,
    resources: Option<AdminResources>,
    saved: Option<Configuration>,
    /// The last entries of the error log, up to [`LOGGED`].
    pub(super) logged: KVec<[u64; log::WORDS]>,
    /// Buffers of self-tests that the device may access until the function has stopped.
    test_buffers: KVec<Buffer>,
    recoveries: Recoveries,
    resetter: Resetter,
}

impl Control {
    /// Creates the state of a function that has stopped, with its configuration saved.
    fn new(dev: &Device, resources: AdminResources) -> Result<Self> {
        Ok(Self {
            mode: Mode::Broken,
            resources: Some(resources),
            saved: Some(Configuration::save(dev)?),
            logged: KVec::with_capacity(LOGGED, GFP_KERNEL)?,
            test_buffers: KVec::new(),
            starting: StartSequence::Updated,
            stopper: StopFallback::Hard,
            recoveries: Recoveries::NONE,
            resetter: Resetter::Others,
        })
    }
}

/// Memory of a function that is not that of a context for copies.
struct AdminResources {
    /// The administrative context.
    admin: ContextRing,
    tables: Tables,
    log: ErrorLog,
}

impl AdminResources {
    fn new(bars: &Arc<Bars>, limits: &FunctionLimits) -> Result<Self> {
        Ok(Self {
            admin: ContextRing::new(bars, 0, None, limits)?,
            tables: Tables::new(bars)?,
            log: ErrorLog::new(bars)?,
        })
    }
}

/// Numbers of contexts and vectors that a function is used with.
#[derive(Clone, Copy)]
struct Sizes {
    /// The highest context, which is 1 at least.
    #[doc(alias = "max_cxt")]
    max_context: u16,
    /// Vectors that the function can use if all contexts are open, which are 1 at least.
    vectors: u32,
}

impl Sizes {
    /// Allocates the vectors of a function with `contexts` contexts that have a doorbell, and
    /// derives from their number how many contexts are used. With one vector, which is that of
    /// errors, contexts are polled.
    ///
    /// # Errors
    ///
    /// `ENODEV` if no context can be used.
    fn allocate(dev: &Device, caps: &Capabilities, contexts: u16) -> Result<(Arc<Vectors>, Self)> {
        let most = contexts.min(MOST_CONTEXTS).min(MAX_CONTEXT);
        let vectors = Vectors::new(dev, 1 + u32::from(most))?;
        let interrupts = caps.interrupts() && vectors.len() > 1;
        let max_context = match interrupts {
            true => most.min(u16::try_from(vectors.len() - 1).unwrap_or(u16::MAX)),
            false => most,
        };
        if max_context == 0 {
            return Err(ENODEV);
        }
        let usable = match interrupts {
            true => 1 + u32::from(max_context),
            false => 1,
        };
        let sizes = Self {
            max_context,
            vectors: usable,
        };
        Ok((vectors, sizes))
    }
}

/// Requested interrupts: that of vector 0 always, that of a context while it is open.
struct Irqs {
    /// Interrupts with the numbers of their contexts, with capacity for all contexts.
    contexts: KVec<(u16, Irq<Context>)>,
    _errors: Irq<Function>,
    vectors: Arc<Vectors>,
}

/// A bound function.
#[pin_data]
pub(crate) struct Function {
    dev: Device,
    bars: Arc<Bars>,
    pub(super) caps: Capabilities,
    pub(super) limits: FunctionLimits,
    /// Vectors that the function uses if all contexts are open.
    pub(super) vectors: u32,
    contexts: KVec<Arc<Context>>,
    #[pin]
    control: Mutex<Control>,
    #[pin]
    irqs: Mutex<Option<Irqs>>,
    #[pin]
    waker: Mutex<Option<Waker>>,
    pub(super) counters: Counters,
}

/// Time elapsed since its creation.
struct Elapsed(Instant<Monotonic>);

impl Elapsed {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn ms(&self) -> i64 {
        self.0.elapsed().as_millis()
    }

    fn ms_u32(&self) -> u32 {
        u32::try_from(self.ms()).unwrap_or(u32::MAX)
    }
}

/// Returns `true` if the context has stopped by its status in memory, which is no proof.
fn has_stopped(context: &Context) -> bool {
    let state = context.with(|inner| inner.ring.as_ref().map(ContextRing::state));
    !matches!(
        state,
        Some(ContextState::Run | ContextState::Stopping | ContextState::StoppingByFunction)
    )
}

/// Sleeps for one interval of polling.
fn poll_delay() {
    fsleep(Delta::from_micros(POLL_US));
}

/// Stops a function. Returns `true` if it is proven to have stopped.
#[doc(alias("STOP_SF", "STOP_HD", "fn_gsr"))]
fn stop(bars: &Bars, hard: bool) -> bool {
    let clock = Elapsed::start();
    let mut stopping = StopSequence::new(hard);
    loop {
        match stopping.next(bars.state(), clock.ms_u32()) {
            Action::Ask(request) => bars.request(request),
            Action::Wait => poll_delay(),
            Action::Done | Action::GiveUp => return bars.prove_quiet(),
        }
    }
}

/// Stops a function as [`stop()`] does, and resets the PCI function if that fails. Returns `true`
/// if the function is proven to have stopped.
///
/// # Context
///
/// Called from probe() or remove(), where the PCI core holds the lock of the device. May sleep.
fn stop_or_reset(dev: &Device, bars: &Bars, hard: bool) -> bool {
    // The PCI core would wait for minutes for a function that is not present.
    stop(bars, hard) || dev.is_present() && dev.reset_locked().is_ok() && bars.prove_quiet()
}

/// Reads the capabilities of a function.
///
/// # Errors
///
/// `ENODEV` if this driver cannot use the function.
#[doc(alias("CAP0", "CAP1", "VERSION"))]
fn read_capabilities(dev: &Device, bars: &Bars) -> Result<Capabilities> {
    let version = bars.read(Register::Version);
    let read = Capabilities::read(
        bars.read(Register::Cap0),
        bars.read(Register::Cap1),
        version,
    );
    read.map_err(|unfit| {
        match unfit {
            Unfit::Gone => dev_err!(dev.device(), "registers read as ones: not bound\n"),
            Unfit::Version(n) => dev_err!(
                dev.device(),
                "SDXI version {n} is not supported: not bound\n"
            ),
            Unfit::Contexts => dev_err!(
                dev.device(),
                "only the administrative context exists: not bound\n"
            ),
        }
        ENODEV
    })
}

impl Function {
    /// Binds a function, and activates it with the administrative context only.
    pub(crate) fn probe(dev: &Device) -> Result<Arc<Self>> {
        let bars = Bars::new(dev)?;
        let caps = read_capabilities(dev, &bars)?;
        // A function that is still running has tables of a previous driver, and could write to
        // memory by them: it is stopped before it may access memory again.
        if !stop_or_reset(dev, &bars, true) {
            dev_err!(dev.device(), "does not stop ({})\n", bars.state().name());
            return Err(EIO);
        }
        bars.enable_dma()?;
        let doorbells = u16::try_from(bars.set_stride(caps.stride)).unwrap_or(u16::MAX);
        let contexts = caps.max_context.min(doorbells.saturating_sub(1));
        let (vectors, sizes) = Sizes::allocate(dev, &caps, contexts)?;
        let function = Self::new(dev, bars, caps, sizes)?;
        let bound = (|| {
            function.request_irqs(vectors)?;
            let mut control = function.control.lock();
            function.activate(&mut control)
        })();
        if let Err(e) = bound {
            function.remove();
            return Err(e);
        }
        dev_info!(
            dev.device(),
            "SDXI {}.{}, {} contexts, {} vectors\n",
            caps.major,
            caps.minor,
            sizes.max_context,
            sizes.vectors
        );
        Ok(function)
    }

    /// Allocates all memory of a function that has stopped. The function gets no address yet.
    fn new(dev: &Device, bars: Arc<Bars>, caps: Capabilities, sizes: Sizes) -> Result<Arc<Self>> {
        let limits = caps.limits(sizes.max_context);
        let mut contexts = KVec::with_capacity(usize::from(sizes.max_context), GFP_KERNEL)?;
        for number in 1..=sizes.max_context {
            contexts.push(Context::new(number)?, GFP_KERNEL)?;
        }
        let resources = AdminResources::new(&bars, &limits)?;
        Arc::pin_init(
            try_pin_init!(Self {
                dev: dev.clone(),
                bars,
                caps,
                limits,
                vectors: sizes.vectors,
                contexts,
                control <- new_mutex!(Control::new(dev, resources)?, "sdxi::Function::control"),
                irqs <- new_mutex!(None, "sdxi::Function::irqs"),
                waker <- new_mutex!(None, "sdxi::Function::waker"),
                counters: Counters::new(),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Requests the interrupt for errors of the function.
    fn request_irqs(self: &Arc<Self>, vectors: Arc<Vectors>) -> Result {
        let errors = Irq::new(&vectors, 0, c"ferry_sdxi", self.clone())?;
        let contexts = KVec::with_capacity(self.contexts.len(), GFP_KERNEL)?;
        let waker = errors.waker();
        for context in &self.contexts {
            context.with(|inner| inner.waker = Some(waker));
        }
        *self.waker.lock() = Some(waker);
        *self.irqs.lock() = Some(Irqs {
            contexts,
            _errors: errors,
            vectors,
        });
        Ok(())
    }

    /// Requests the interrupt of a context, if it has none. Without one the context is polled.
    fn request_context_irq(&self, context: &Arc<Context>) {
        if self.vectors <= 1 {
            return;
        }
        let number = context.number();
        let mut irqs = self.irqs.lock();
        let Some(irqs) = &mut *irqs else {
            return;
        };
        if irqs.contexts.iter().any(|(n, _)| *n == number) {
            return;
        }
        let irq = Irq::new(&irqs.vectors, number.into(), c"ferry_sdxi", context.clone());
        match irq.map(|irq| irqs.contexts.push_within_capacity((number, irq))) {
            Ok(Ok(())) => {}
            _ => {
                if allowed() {
                    dev_warn!(
                        self.dev.device(),
                        "no interrupt for context {number}: it is polled\n"
                    );
                }
            }
        }
    }

    /// Frees the interrupt of a context, which is not used until it is opened again.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(crate) fn release(&self, context: &Context) {
        let mut irqs = self.irqs.lock();
        let released = Option::as_mut(&mut irqs).and_then(|irqs| {
            let at = (irqs.contexts.iter()).position(|(n, _)| *n == context.number())?;
            irqs.contexts.remove(at).ok()
        });
        drop(irqs);
        // Without the lock, as freeing the interrupt waits for its handler.
        drop(released);
    }

    /// Returns the number of requested interrupts.
    pub(super) fn interrupts(&self) -> usize {
        self.irqs
            .lock()
            .as_ref()
            .map_or(0, |i| 1 + i.contexts.len())
    }

    /// Returns the device, for messages and its node.
    pub(crate) fn dev(&self) -> &Device {
        &self.dev
    }

    /// Returns the BARs, for buffers of self-tests.
    pub(super) fn bars(&self) -> &Arc<Bars> {
        &self.bars
    }

    /// Returns the contexts for copies, which are all but the administrative one.
    pub(crate) fn contexts(&self) -> &[Arc<Context>] {
        &self.contexts
    }

    /// Returns a context for copies by its number, which is at least 1.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no such context.
    pub(crate) fn context(&self, number: u16) -> Result<&Arc<Context>> {
        let at = usize::from(number).checked_sub(1).ok_or(EINVAL)?;
        self.contexts.get(at).ok_or(EINVAL)
    }

    /// Returns the state of the function, as the driver has it.
    pub(crate) fn mode(&self) -> Mode {
        self.control.lock().mode
    }

    /// Keeps a buffer of a self-test until the function has stopped.
    pub(super) fn keep_until_stopped(&self, buffer: Buffer) {
        // Without room in the list the buffer is dropped, which leaks its memory.
        let _ = self.control.lock().test_buffers.push(buffer, GFP_KERNEL);
    }

    /// Calls `f` with the state of the function, under its mutex.
    pub(super) fn with_control<R>(&self, f: impl FnOnce(&mut Control) -> R) -> R {
        f(&mut self.control.lock())
    }

    /// Returns the state that the function reports in STS0.
    #[doc(alias = "fn_gsv")]
    pub(super) fn state(&self) -> FunctionState {
        self.bars.state()
    }

    /// Wakes the thread of vector 0, which handles errors and starts contexts.
    pub(crate) fn wake(&self) {
        if let Some(waker) = *self.waker.lock() {
            waker.wake();
        }
    }

    /// Starts a context, and requests its interrupt, which it has until [`Self::release()`]. After
    /// errors the context is started again, until the function is removed.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if the function is recovering (its thread has been woken), `EIO` if it has been
    /// given up, `ENODEV` if it is being removed, `EINVAL` if there is no such context.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(crate) fn open(&self, number: u16) -> Result<Arc<Context>> {
        let context = self.context(number)?;
        context.wanted.store(true, Relaxed);
        self.request_context_irq(context);
        let mut control = self.control.lock();
        match control.mode {
            Mode::Active => {}
            Mode::Removed => return Err(ENODEV),
            Mode::Broken | Mode::Lost if control.recoveries.is_given_up() => return Err(EIO),
            _ => {
                drop(control);
                self.wake();
                return Err(EAGAIN);
            }
        }
        if self.state() != FunctionState::Active || context.has_failed() {
            drop(control);
            self.wake();
            return Err(EAGAIN);
        }
        if context.life() == Life::Stopped {
            // Reports once more, as the client may have left since the context stopped.
            context.stopped();
        }
        match context.life() {
            Life::Running => {}
            Life::Idle => {
                if self.start(&mut control, context).is_err() {
                    self.halt(&mut control);
                    drop(control);
                    self.wake();
                    return Err(EAGAIN);
                }
            }
            Life::Failed | Life::Stopped => return Err(EAGAIN),
        }
        Ok(context.clone())
    }

    /// Stops a context, and if necessary the function with all contexts. Returns `true` if the
    /// device is proven not to execute descriptors of the context any more: then
    /// [`Context::reap()`] reports all that are outstanding, and the context is started again after
    /// that.
    ///
    /// # Context
    ///
    /// May sleep, for a few seconds in the worst case.
    pub(crate) fn quiesce(&self, context: &Context) -> bool {
        context.fail();
        let mut control = self.control.lock();
        if context.life() == Life::Failed {
            match control.mode {
                Mode::Active => {
                    if self.stop_context(&mut control, context).is_err() {
                        self.halt(&mut control);
                    }
                }
                // A reset may have stopped the function since: halt() looks for proof.
                Mode::Lost => self.halt(&mut control),
                _ => {}
            }
        }
        drop(control);
        self.wake();
        context.life() != Life::Failed
    }

    /// Has the administrative context carry out the commands that `push` pushes, and waits for all
    /// of them.
    ///
    /// # Errors
    ///
    /// After any error the function has to be stopped.
    fn command(
        &self,
        control: &mut Control,
        push: impl FnOnce(&mut ContextRing) -> Result<(), Refused>,
    ) -> Result<(), CommandError> {
        let resources = control
            .resources
            .as_mut()
            .ok_or(CommandError::Failed(ENODEV))?;
        let admin = &mut resources.admin;
        push(admin).map_err(|_| CommandError::Failed(EBUSY))?;
        let commands = admin.unpublished();
        admin.publish();
        let clock = Elapsed::start();
        let (mut done, mut good) = (0, 0);
        loop {
            admin.reap_commands(|ok| {
                if ok && good == done {
                    good += 1;
                }
                done += 1;
            });
            let stopped = admin.state() != ContextState::Run;
            let error = if good == commands {
                return Ok(());
            } else if self.state() != FunctionState::Active {
                CommandError::Failed(EIO)
            } else if stopped || good < done {
                CommandError::Refused(good)
            } else if clock.ms() > COMMAND_MS {
                CommandError::Failed(ETIMEDOUT)
            } else {
                poll_delay();
                continue;
            };
            self.counters.command_errors.fetch_add(1, Relaxed);
            return Err(error);
        }
    }

    /// Starts a context that is idle. After any error the function has to be stopped.
    #[doc(alias = "CXT_START_NM")]
    fn start(&self, control: &mut Control, context: &Context) -> Result {
        let number = context.number();
        if context.with(|inner| inner.ring.is_none()) {
            let interrupt = (self.vectors > 1).then_some(number);
            let ring = ContextRing::new(&self.bars, number, interrupt, &self.limits)?;
            context.with(|inner| inner.ring = Some(ring));
        }
        let resources = control.resources.as_ref().ok_or(ENODEV)?;
        resources.tables.retire(number);
        context.with(|inner| match (&mut inner.ring, inner.life) {
            (Some(ring), Life::Idle) => {
                ring.prepare()?;
                resources.tables.publish(ring, &self.limits)
            }
            _ => Err(EBUSY),
        })?;
        let starting = control.starting;
        let started = self.command(control, |admin| {
            if starting == StartSequence::Updated {
                admin.push_command(Command::Update(number))?;
                admin.push_command(Command::SyncUpdate(number))?;
            }
            context.with(|inner| match &inner.ring {
                Some(ring) => admin.push_start(ring),
                None => Err(Refused::Invalid),
            })
        });
        if let Err(CommandError::Refused(good)) = &started {
            control.starting = starting.refused(*good);
            if control.starting != starting && allowed() {
                dev_warn!(
                    self.dev.device(),
                    "refuses to start a context: retried {}\n",
                    match control.starting {
                        StartSequence::Plain => "without CXT_UPD",
                        StartSequence::Updated => "with CXT_UPD",
                    }
                );
            }
        }
        started?;
        let runs = context.with(|inner| {
            let state = inner.ring.as_ref().map(ContextRing::state);
            let runs = state == Some(ContextState::Run);
            if runs {
                inner.life = Life::Running;
            }
            runs
        });
        if !runs {
            return Err(EIO);
        }
        context.counters.starts.fetch_add(1, Relaxed);
        context.notify();
        Ok(())
    }

    /// Starts all idle contexts that have been opened. If a start fails, halts the function.
    fn start_wanted(&self, control: &mut Control) {
        for context in &self.contexts {
            if context.wanted.load(Relaxed)
                && context.life() == Life::Idle
                && self.start(control, context).is_err()
            {
                self.halt(control);
                return;
            }
        }
    }

    /// Stops a context, and returns once that is proven.
    ///
    /// # Errors
    ///
    /// After any error the function has to be stopped.
    #[doc(alias("CXT_STOP", "SYNC"))]
    fn stop_context(&self, control: &mut Control, context: &Context) -> Result {
        let number = context.number();
        // Every device is expected to support a soft stop. The administrative context does not wait
        // for it with a SYNC here, as it could not issue a hard stop meanwhile.
        self.command(control, |admin| {
            admin.push_command(Command::StopSoft(number))
        })?;
        if !self.wait_stopped(context) {
            if control.stopper == StopFallback::Function {
                return Err(EBUSY);
            }
            let stopped = self.command(control, |admin| {
                admin.push_command(Command::StopHard(number))
            });
            if matches!(stopped, Err(CommandError::Refused(_))) {
                control.stopper = StopFallback::Function;
                if allowed() {
                    dev_warn!(
                        self.dev.device(),
                        "refuses to stop a context hard: from now on the function is stopped\n"
                    );
                }
            }
            stopped?;
        }
        // The status in memory is no proof; a completed SYNC is.
        self.command(control, |admin| {
            admin.push_command(Command::SyncStop(number))
        })?;
        if !has_stopped(context) {
            return Err(EIO);
        }
        context.stopped();
        Ok(())
    }

    /// Waits up to [`SOFT_STOP_MS`] for a soft stop. Returns `true` if the status in memory shows
    /// it.
    fn wait_stopped(&self, context: &Context) -> bool {
        let clock = Elapsed::start();
        loop {
            if has_stopped(context) {
                return true;
            }
            if clock.ms() > SOFT_STOP_MS || self.state() != FunctionState::Active {
                return false;
            }
            poll_delay();
        }
    }

    /// Stops the function, and frees its interrupts and all memory that is proven unused.
    ///
    /// # Context
    ///
    /// The PCI core holds the lock of the device. May sleep.
    pub(crate) fn remove(&self) {
        {
            let mut control = self.control.lock();
            for context in &self.contexts {
                context.fail();
                context.with(|inner| inner.waker = None);
            }
            control.mode = Mode::Removed;
            *self.waker.lock() = None;
            // A soft stop first, which a function that works completes.
            if !stop_or_reset(&self.dev, &self.bars, false) {
                dev_warn!(
                    self.dev.device(),
                    "unbound without proof that it has stopped: its memory may be leaked\n"
                );
            }
        }
        // Without either mutex: freeing waits for the thread, which takes `control`.
        let irqs = self.irqs.lock().take();
        drop(irqs);
        let mut control = self.control.lock();
        if self.bars.prove_quiet() {
            self.all_stopped(&mut control);
        }
        if let Some(resources) = control.resources.take() {
            resources.log.close();
        }
        control.test_buffers.clear();
        control.saved = None;
        for context in &self.contexts {
            context.remove_listener();
            let ring = context.with(|inner| inner.ring.take());
            drop(ring);
        }
    }
}

impl Owner for Function {
    fn quiesce(&self, context: &Context) {
        Self::quiesce(self, context);
    }

    fn release(&self, context: &Context) {
        Self::release(self, context);
    }
}
